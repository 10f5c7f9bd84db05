"""Roles inside one hospital: who may give which order, by keys of their own, and which acts take two of them.

What may live here: the tables, the role keys on disk, orders signed and checked, orders that wait for a second person.
What this file does not know: what an order does (`node/runner.py`), how a vault is sealed (`node/vault/`).

Every role has a key ring in `roles/NAME.json` under a password; the home's `roles.json` holds their public addresses,
against which the node checks every order: signed over its name, body, this run's door, a nonce and the time, so that a
copied order is good for nothing else and only once. A home is made with generated passwords beside the key rings
(`roles/NAME.password`, mode 0600): one person who tries koinon has every role, and the command line takes the one a
command needs. In a hospital each role's two files move to the person who holds it.

The `dpo` ring is more than a signature: the vault's LINK opens with a key made from it, which comes sealed to the node
with those orders that need it. The other roles are enforced by the node's process, which whoever has the node's own
password could replace (node/THREATS.md says what that person gains, and that LINK is not in it).
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crypto.commitments import key_commit
from crypto.digest import sha256
from crypto.errors import CryptoError, WrongPassword
from crypto.keys import KeyRing, SealingKey, address_text, open_keystore, parse_address, recover_address, seal_keystore
from crypto.sealing import BlobKind, unwrap, wrap
from node.errors import InputError, LocalFault, NotFound, Refused
from node.home import Home, password_in, read_json, write_file, write_json
from node.store import Store

ROLES: Final = ("operator", "dpo", "clinician", "researcher", "auditor")
FORMAT: Final = 1
GENERATED_LOG_N: Final = 12  # a generated password has 192 bits: stretching it further guards nothing
FRESH_S: Final = 300  # how old a signed order may be
PENDING_S: Final = 7 * 86_400
MAX_PENDING: Final = 100

ANY: Final = ROLES

#                                  who may give it            brings the dpo's key for LINK
ORDERS: Final[dict[str, tuple[tuple[str, ...], bool]]] = {
    "study.create": (("researcher",), False),
    "study.join": (("researcher",), False),
    "study.leave": (("researcher",), False),
    "consent.grant": (("dpo",), True),
    "consent.import": (("dpo",), True),
    "consent.export": (("dpo",), True),
    "consent.withdraw": (("dpo",), False),
    "consent.withdraw-left": (("dpo",), False),
    "consent.correct": (("dpo",), True),
    "consent.forms": (("dpo", "researcher"), False),
    "consent.list": (("dpo",), False),
    "consent.cards": (("dpo",), False),
    "audit.prove": (("dpo", "auditor"), False),
    "audit.uses": (("dpo", "auditor"), False),
    "audit.disclosures": (("dpo",), False),
    "audit.open": (("dpo",), False),
    "erase.request": (("dpo",), False),
    "erase.plan": (("dpo", "auditor"), False),
    "erase.status": (("dpo", "auditor"), False),
    "erase.receipt": (("dpo",), True),
    "erase.delivered": (("dpo",), True),
    "erase.refuse": (("dpo",), False),
    "erase.extend": (("dpo",), False),
    "erase.record": (("dpo",), False),
    "member.approve": (("operator",), False),
    "member.remove": (("operator",), False),
    "member.rotate": (("operator",), False),
    "member.revoke": (("operator",), False),
    "member.recover": (("operator",), False),
    "member.seat-auditor": (("operator",), False),
    "member.end-auditor": (("operator",), False),
    "member.succeed": (("operator",), False),
    "model.evaluate": (("clinician", "researcher"), False),
    "model.export": (("clinician",), False),
    "model.note": (("clinician", "researcher"), False),
    "node.rotate": (("dpo",), True),
    "node.pending": (ANY, False),
    "node.approve": (ANY, False),
}
"""Order -> roles, and whether it always needs LINK; an order that names a patient needs it too. `status` needs no role:
it holds nothing about anybody, and supervisors ask it."""

BY_CARD: Final = frozenset(
    "consent.withdraw erase.request erase.plan erase.status audit.prove audit.uses audit.disclosures".split()
)
"""Orders that every role may carry in when a card is shown: the card is the patient's own word."""


@dataclass(frozen=True, slots=True)
class TwoPersons:
    """An act that takes two: who seconds it, for which bodies, and whether a synthetic home is let off."""

    second: str
    applies: Callable[[Mapping[str, Any]], bool]
    synthetic_exempt: bool


def _many_lines(body: Mapping[str, Any]) -> bool:
    register = body.get("register")
    return register is None or sum(1 for line in str(register).splitlines() if line.strip()) > 2


#                                                                              let off in a home marked synthetic
TWO_PERSONS: Final[dict[str, TwoPersons]] = {
    "consent.grant": TwoPersons("clinician", _many_lines, True),
    "consent.import": TwoPersons("clinician", lambda body: len(body["rows"]) > 1, True),
    "erase.refuse": TwoPersons("clinician", lambda body: True, False),
    "model.export": TwoPersons("dpo", lambda body: True, True),
    "member.rotate": TwoPersons("dpo", lambda body: True, True),
    "node.rotate": TwoPersons("operator", lambda body: True, False),
}
"""Grants of more than one, refusals, exports of a model, new keys of the member and of roles. Stopping never waits: no
withdrawal, no erasure, no end of an import."""


# --------------------------------------------------------------------------------------------------------------------
# Keys


def _folder(home: Path) -> Path:
    return home / "roles"


def create(home: Path) -> dict[str, KeyRing]:
    """Make a ring for every role, each under a generated password beside it; `LocalFault` where there are some."""
    if (home / "roles.json").exists():
        raise LocalFault(f"{home / 'roles.json'} exists: roles' keys are never overwritten")
    _folder(home).mkdir(mode=0o700, exist_ok=True)
    rings = {role: KeyRing.generate() for role in ROLES}
    for role, ring in rings.items():
        password = secrets.token_urlsafe(24)
        write_file(_folder(home) / f"{role}.json", seal_keystore(ring, password, log_n=GENERATED_LOG_N), 0o600)
        write_file(_folder(home) / f"{role}.password", password.encode() + b"\n", 0o600)
    addresses = {role: address_text(ring.ledger.address) for role, ring in rings.items()}
    write_json(home / "roles.json", {"format": FORMAT, "roles": addresses})
    return rings


def prepare(home: Path, role: str) -> KeyRing:
    """A new ring for a role, as `roles/NAME.next.*`; the same one until it is in force."""
    keys, password_file = (_folder(home) / f"{role}.next.{kind}" for kind in ("json", "password"))
    if not keys.exists():
        ring, password = KeyRing.generate(), secrets.token_urlsafe(24)
        write_file(password_file, password.encode() + b"\n", 0o600)
        write_file(keys, seal_keystore(ring, password, log_n=GENERATED_LOG_N), 0o600)
    return load(home, role, keys=keys, password_file=password_file)


def settle(home: Path, role: str) -> bool:
    """Put a prepared ring in the old one's place, if the home takes it already; whether it did."""
    if not (_folder(home) / f"{role}.next.json").exists():
        return False
    if prepare(home, role).ledger.address != addresses(home)[role]:
        return False
    for kind in ("password", "json"):
        (_folder(home) / f"{role}.next.{kind}").replace(_folder(home) / f"{role}.{kind}")
    return True


def take_address(home: Path, role: str, address: bytes) -> None:
    """From now on orders of this role are signed by this address."""
    known = {one: address_text(found) for one, found in addresses(home).items()}
    write_json(home / "roles.json", {"format": FORMAT, "roles": known | {role: address_text(address)}})


def fingerprint(officer: bytes) -> str:
    """What an order says of an officer's key, so that two persons mean the same one (64 hex digits)."""
    return sha256(b"koinon/officer-fingerprint/1" + officer).hex()


def addresses(home: Path) -> dict[str, bytes]:
    """Role -> the address its orders are signed with."""
    raw = read_json(home / "roles.json")
    if raw.get("format") != FORMAT or not isinstance(raw.get("roles"), dict):
        raise LocalFault(f"{home / 'roles.json'}: this koinon reads format {FORMAT}")
    try:
        return {role: parse_address(raw["roles"][role]) for role in ROLES}
    except (KeyError, TypeError, ValueError) as error:
        raise LocalFault(f"{home / 'roles.json'}: {type(error).__name__}") from error


def password_path(home: Path, role: str) -> Path:
    """Where a home that one person tries has the role's password."""
    return _folder(home) / f"{role}.password"


def load(home: Path, role: str, *, keys: Path | None = None, password_file: Path | None = None) -> KeyRing:
    """A role's ring.

    Args:
        home: the home the role belongs to.
        role: one of `ROLES`.
        keys: the role's key file, where it was moved; by default `roles/NAME.json` of the home.
        password_file: by default `roles/NAME.password` of the home.

    Raises:
        LocalFault: no such file, or the password does not open it.
    """
    path = keys or _folder(home) / f"{role}.json"
    secret = password_file or password_path(home, role)
    try:
        password = password_in(secret)
        return open_keystore(path.read_bytes(), password)
    except FileNotFoundError as error:
        hint = f"name the {role}'s files with --role-keys and --role-password-file"
        raise LocalFault(f"{error.filename} does not exist: {hint}") from None
    except OSError as error:
        raise LocalFault(f"{error.filename}: {error.strerror}") from error
    except WrongPassword:
        raise LocalFault(f"the password in {secret} does not open {path}") from None
    except CryptoError as error:
        raise LocalFault(f"{path}: {error}") from error


def officer_key(ring: KeyRing) -> bytes:
    """The 32 bytes of the dpo's ring that the vault's LINK opens with."""
    ikm = ring.ledger.to_bytes() + ring.sealing.to_bytes() + ring.peer.to_bytes()
    return hmac.digest(ikm, b"koinon/officer/1", "sha256")


# --------------------------------------------------------------------------------------------------------------------
# Signing an order


def needs_link(name: str, body: Mapping[str, Any]) -> bool:
    """Whether the order cannot be carried out without LINK."""
    return name in ORDERS and (ORDERS[name][1] or body.get("patient") is not None)


def roles_for(name: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Who may give this order; the first is the command line's choice."""
    roles = ORDERS[name][0]
    if name in BY_CARD and body.get("card") is not None:
        roles += tuple(role for role in ANY if role not in roles)
    return roles


def order_hash(name: str, body: Mapping[str, Any]) -> str:
    """What stands for an order: sha256 over its name and body (64 hex digits)."""
    return sha256(json.dumps([name, body], sort_keys=True, ensure_ascii=False).encode()).hex()


def _signed_hash(order: str, envelope: Mapping[str, Any], door: str) -> bytes:
    named = {key: envelope[key] for key in ("role", "nonce", "at", "link")}
    door_hash = sha256(door.encode()).hex()
    return sha256(json.dumps(["koinon.order/1", order, named, door_hash], sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody in a role, giving orders to the node of a home."""

    home: Path
    role: str
    ring: KeyRing
    successor: KeyRing | None = None
    """The dpo's new ring, when the order is to put it in force."""

    def sign(self, name: str, body: Mapping[str, Any], door: str) -> dict[str, Any]:
        """The envelope of an order for a node whose door has this token ("": a node that runs for this order)."""
        nonce = secrets.token_bytes(32)
        link: dict[str, str] | None = None
        if self.role == "dpo" and needs_link(name, body):
            key, node = officer_key(self.ring), _sealing_key(self.home)
            link = {
                "sealed": wrap(key, node, nonce, 0, BlobKind.SET).hex(),
                "commit": key_commit(key, nonce, 0, BlobKind.SET).hex(),
            }
            if self.successor is not None:
                key = officer_key(self.successor)
                link["next_sealed"] = wrap(key, node, nonce, 0, BlobKind.UPDATE).hex()
                link["next_commit"] = key_commit(key, nonce, 0, BlobKind.UPDATE).hex()
        envelope: dict[str, Any] = {"role": self.role, "nonce": nonce.hex(), "at": int(time.time()), "link": link}
        digest = _signed_hash(order_hash(name, body), envelope, door)
        return envelope | {"signature": self.ring.ledger.sign_digest(digest).hex()}


def _sealing_key(home: Path) -> bytes:
    try:
        return bytes.fromhex(read_json(home / "keystore.json")["public"]["sealing"])
    except (KeyError, TypeError, ValueError):
        raise LocalFault(f"{home / 'keystore.json'}: its public part is damaged") from None


# --------------------------------------------------------------------------------------------------------------------
# Checking an order


@dataclass(frozen=True, slots=True)
class Authority:
    """In which role an order was given; `officer` is the dpo's key, `successor` the next one, where they came along."""

    role: str
    officer: bytes | None
    successor: bytes | None = None

    def __repr__(self) -> str:
        """Show the role, never the key."""
        return f"Authority({self.role})"


class Gate:
    """Checks orders at one running node.

    Args:
        home: whose roles count.
        sealing: the node's sealing key, to which officers' keys come sealed.
    """

    def __init__(self, home: Home, sealing: SealingKey) -> None:
        self._home, self._sealing = home, sealing
        self._seen: dict[str, int] = {}  # nonce -> when it was used

    def check(self, name: str, body: Mapping[str, Any], envelope: object, door: str) -> Authority:
        """Who gives this order.

        Raises:
            Refused: unsigned, not signed by its role, for another order, door or time, used before, or a role that may
                not give it.
        """
        allowed = roles_for(name, body)
        if not isinstance(envelope, dict):
            raise Refused(f"`{name}` is an order of the {' or '.join(allowed)}: it needs their signature")
        try:
            role, nonce, at = str(envelope["role"]), str(envelope["nonce"]), int(envelope["at"])
            digest = _signed_hash(order_hash(name, body), envelope, door)
            signer = recover_address(digest, bytes.fromhex(envelope["signature"]))
        except (KeyError, TypeError, ValueError, CryptoError):
            raise Refused(f"`{name}`: the signature of a role cannot be read") from None
        if role not in ROLES or signer is None or signer != addresses(self._home.path)[role]:
            raise Refused(f"`{name}` was not signed for this by the {role if role in ROLES else 'role it names'}")
        now = int(time.time())
        if abs(now - at) > FRESH_S or nonce in self._seen:
            raise Refused(f"`{name}` was given before or too long ago: an order is good once, for {FRESH_S} s")
        if role not in allowed:
            raise Refused(f"`{name}` is not for the {role}: it takes the {' or '.join(allowed)}")
        self._seen = {one: when for one, when in self._seen.items() if now - when <= 2 * FRESH_S} | {nonce: now}
        link = envelope["link"]
        return Authority(
            role, self._key(link, "", nonce, BlobKind.SET), self._key(link, "next_", nonce, BlobKind.UPDATE)
        )

    def _key(self, link: Any, prefix: str, nonce: str, kind: BlobKind) -> bytes | None:
        if link is None or prefix + "sealed" not in link:
            return None
        try:
            sealed, commit = bytes.fromhex(link[prefix + "sealed"]), bytes.fromhex(link[prefix + "commit"])
            return unwrap(sealed, self._sealing, commit, bytes.fromhex(nonce), 0, kind)
        except (KeyError, TypeError, ValueError, CryptoError):
            raise Refused("the officer's key that came with the order does not open") from None


# --------------------------------------------------------------------------------------------------------------------
# Two persons


class Pending:
    """Orders that wait for a second person: asked, approved, then given again by the first and carried out.

    What is kept is the hash of an order and a summary, never its body: a register names patients.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def _read(self) -> dict[str, dict[str, Any]]:
        text = self._store.meta("pending-orders")
        found: dict[str, dict[str, Any]] = json.loads(text) if text else {}
        now = int(time.time())
        return {order: one for order, one in found.items() if one["expires_at"] > now}

    def _write(self, found: dict[str, dict[str, Any]]) -> None:
        self._store.set_meta("pending-orders", json.dumps(found))

    def listed(self) -> list[dict[str, Any]]:
        """What waits, oldest first."""
        shown = [
            {**one, "order_id": order, "approved_by": (one["approved"] or {}).get("role")}
            for order, one in self._read().items()
        ]
        return [{key: value for key, value in one.items() if key != "approved"} for one in shown]

    def need(self, name: str, body: Mapping[str, Any], role: str, summary: str) -> None:
        """Go on if a second person has approved exactly this order, else keep it waiting and raise `Refused`."""
        order, second = order_hash(name, body), TWO_PERSONS[name].second
        found = self._read()
        kept = found.get(order)
        if kept is not None and kept["approved"] is not None:
            return
        if kept is None:
            if len(found) >= MAX_PENDING:
                raise Refused(
                    f"{MAX_PENDING} orders wait for a second person already: approve some, or let them expire"
                )
            now = int(time.time())
            found[order] = {
                "order": name,
                "summary": summary,
                "role": role,
                "second": second,
                "asked_at": now,
                "expires_at": now + PENDING_S,
                "approved": None,
            }
            self._write(found)
            self._store.log(now, "order_pending", {"order": order, "name": name, "role": role})
        raise Refused(
            f"`{name}` takes two persons: order {order[:12]} waits for the {second} "
            f"(`koinon node approve --order {order[:12]} --role {second}`); give it again afterwards"
        )

    def approve(self, given: str, role: str, envelope: Mapping[str, Any]) -> dict[str, Any]:
        """The second person's word on an order named by its id or the beginning of it.

        Raises:
            NotFound: no such order waits. InputError: several begin so. Refused: not this role's to second.
        """
        found = self._read()
        fits = [order for order in found if order.startswith(given.lower())] if given else []
        if not fits:
            raise NotFound(f"no order {given[:64]} waits here, or it has expired")
        if len(fits) > 1:
            raise InputError(f"{len(fits)} orders begin so; name more digits")
        one = found[fits[0]]
        if role != one["second"]:
            raise Refused(f"order {fits[0][:12]} is the {one['second']}'s to approve, not the {role}'s")
        now = int(time.time())
        word = {"role": role, "at": now, "signature": str(envelope.get("signature", ""))}
        found[fits[0]] = one | {"approved": word}
        self._write(found)
        self._store.log(now, "order_approved", {"order": fits[0], "name": one["order"], **word})
        return {"order_id": fits[0], "order": one["order"], "summary": one["summary"], "approved_by": role}

    def done(self, name: str, body: Mapping[str, Any]) -> None:
        """The order was carried out: its approval is used up."""
        found = self._read()
        order = order_hash(name, body)
        if found.pop(order, None) is not None:
            self._write(found)
            self._store.log(int(time.time()), "order_done", {"order": order, "name": name})


# --------------------------------------------------------------------------------------------------------------------
# The log of LINK


def log_link(store: Store, role: str, order: str, act: str, subjects: tuple[str, ...], *, why: str = "") -> None:
    """Keep that LINK is about to be used, or that somebody was refused it (`why`), before it happens.

    One entry before LINK opens (subject "" where no consent is known yet), and one a consent before the answer leaves.
    A consent that is not in the vault, or not any more, stands under a random alias (`subjects` are the vault's word).
    """
    outcome = "refused" if why else "permitted"
    with store.transaction():
        for subject in subjects or ("",):
            entry = {"role": role, "act": f"{order}: {act}", "subject": subject, "outcome": outcome, "why": why}
            store.log(time.time(), "link_access", entry)


def witness(store: Store, role: str, order: str) -> Callable[[str, tuple[str, ...]], None]:
    """`log_link` as a vault tells it."""
    return lambda act, subjects: log_link(store, role, order, act, subjects)
