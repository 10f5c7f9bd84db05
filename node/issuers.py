"""Who signs: the network's founders, and everybody they and their successors voted in or out, checkable offline.

What may live here: the part of a proof or certificate that leads from `network.json` to the keys its signatures are
checked with, written and read. What this file does not know: what was signed. A document carries the network it was
made on; with a `network.json` at hand the two must be the same, without one everything may hold and still be another
network's, which is why the fingerprint is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.statements import Admit, Domains, Remove, Seat, Statement, struct_hash, verify
from node.document import Fields
from node.errors import NodeError, NotFound, VerificationFailed
from node.history import History
from node.home import NETWORK_SCHEMA, Network, parse_network
from node.membership import Member, faults, members_of, quorum
from node.messages import AdmissionNotice, RemovalNotice
from node.store import Store

FOUNDING_EPOCH = 1


@dataclass(frozen=True, slots=True)
class Issuers:
    """Whose signatures count. `checked`: the founders are those of a `network.json` the checker has."""

    network: Network
    domains: Domains
    ledgers: dict[int, bytes]  # member index -> 20-byte address
    names: dict[int, str]
    checked: bool

    def signed(self, statement: Statement, member: int, signature: bytes, what: str) -> None:
        """Raise `VerificationFailed` unless this member signed this statement."""
        ledger = self.ledgers.get(member)
        if ledger is None:
            raise VerificationFailed(f"{what}: member {member} is no member of the network")
        try:
            verify(statement, self.domains.of(statement), signature, ledger)
        except CryptoError as error:
            raise VerificationFailed(f"{what}, member {member}: {error}") from error


# --------------------------------------------------------------------------------------------------------------------
# Writing


def write_issuers(network: Network, history: History, store: Store) -> dict[str, Any]:
    """The network as its fingerprint covers it, and every change of membership with its votes.

    Raises:
        NotFound: the votes of a change are not in this store.
    """
    changes: list[tuple[int, dict[str, Any]]] = []
    for member in history.registry.members.values():
        if member.admitted > FOUNDING_EPOCH:
            changes.append((member.admitted, _admission(member, store)))
        if member.removed is not None:
            changes.append((member.removed, _removal(member, store)))
    return {
        "network": {
            "chain": {key: network.raw["chain"][key] for key in ("chain_id", "genesis_hash")},
            "contracts": network.raw["contracts"],
            "founders": network.raw["founders"],
        },
        "changes": [change for _, change in sorted(changes, key=lambda pair: pair[0])],
    }


def _votes(notices: Sequence[AdmissionNotice | RemovalNotice]) -> list[dict[str, Any]]:
    return [{"member": n.member, "signature": n.signature.hex()} for n in sorted(notices, key=lambda n: n.member)]


def _subject(ledger: bytes) -> Digest:
    return Digest(ledger.rjust(32, b"\0"))


def _admission(member: Member, store: Store) -> dict[str, Any]:
    kept = store.notices(_subject(member.ledger), "AdmissionNotice")
    votes = [n for n in kept if isinstance(n, AdmissionNotice) and n.epoch == member.admitted - 1]
    if not votes:
        raise NotFound(f"the votes that admitted member {member.index} are not in this home")
    return {
        "kind": "admit",
        "epoch": member.admitted,
        "index": member.index,
        "ledger": member.ledger.hex(),
        "peer_id": member.peer_id.hex(),
        "sealing_key": member.sealing_key.hex(),
        "name": member.name,
        "seat_signature": votes[0].seat_signature.hex(),
        "votes": _votes(votes),
    }


def _removal(member: Member, store: Store) -> dict[str, Any]:
    assert member.removed is not None
    kept = store.notices(_subject(member.ledger), "RemovalNotice")
    votes = [n for n in kept if isinstance(n, RemovalNotice) and n.epoch == member.removed - 1]
    if not votes:
        raise NotFound(f"the votes that removed member {member.index} are not in this home")
    return {"kind": "remove", "epoch": member.removed, "index": member.index, "votes": _votes(votes)}


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read_issuers(given: Fields, network: Network | None) -> Issuers:
    """Check the chain of votes from the founders on.

    Raises:
        VerificationFailed: another network than `network`, or a change without a quorum of genuine votes.
    """
    own = _network(given)
    if network is not None and own.fingerprint != network.fingerprint:
        raise VerificationFailed(
            f"{given.where}: made on network {own.fingerprint}, this is network {network.fingerprint} ({network.name})"
        )
    ledgers = {seat.index: seat.ledger for seat in own.founders}
    names = {seat.index: seat.name for seat in own.founders}
    if sorted(ledgers) != list(range(len(own.founders))):
        given.fault(f"founders have the indexes {sorted(ledgers)}")
    issuers = Issuers(own, own.contracts.domains, ledgers, names, network is not None)
    active, epoch = set(ledgers), FOUNDING_EPOCH
    for change in given.each("changes", _Change.read):
        if change.epoch <= epoch:
            given.fault(f"a change of epoch {change.epoch} comes after epoch {epoch}")
        epoch = change.epoch
        change.check(issuers, active)
        if change.seat is None:
            active.discard(change.index)
        else:
            active.add(change.index)
    return issuers


def _network(given: Fields) -> Network:
    inner = given.fields("network")
    raw = {
        "schema": NETWORK_SCHEMA,
        "name": "",
        "chain": {**inner.take("chain", dict), "url": ""},
        "contracts": inner.take("contracts", dict),
        "founders": inner.take("founders", list),
        "auditors": [],
        "synthetic": False,
    }
    inner.done()
    try:
        return parse_network(raw, given.where)
    except (NodeError, CryptoError) as error:
        raise VerificationFailed(f"{given.where}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Change:
    epoch: int
    index: int
    ledger: bytes
    seat: Seat | None  # None: a removal
    seat_signature: bytes
    votes: dict[int, bytes]

    @classmethod
    def read(cls, fields: Fields) -> _Change:
        kind, epoch, index = fields.take("kind", str), fields.uint("epoch", 53), fields.uint("index", 5)
        seat, ledger, seat_signature = None, b"", b""
        if kind == "admit":
            ledger = fields.hexes("ledger", 20)
            try:
                seat = Seat("member", fields.hexes("peer_id"), fields.digest("sealing_key"), fields.take("name", str))
            except CryptoError as error:
                fields.fault(str(error))
            seat_signature = fields.signature("seat_signature")
        elif kind != "remove":
            fields.fault(f"kind {kind!r:.40} is neither admit nor remove")
        votes = dict(fields.each("votes", lambda one: (one.uint("member", 5), one.signature("signature"))))
        return cls(epoch, index, ledger, seat, seat_signature, votes)

    def check(self, issuers: Issuers, active: set[int]) -> None:
        where = f"change of epoch {self.epoch}"
        if self.seat is None:
            if self.index not in active:
                raise VerificationFailed(f"{where} removes member {self.index}, which is not active")
            statement: Statement = Remove(self.epoch - 1, self.index, issuers.ledgers[self.index])
        else:
            if self.index != len(issuers.ledgers):
                raise VerificationFailed(f"{where} admits member {self.index}, {len(issuers.ledgers)} is next")
            statement = Admit(self.epoch - 1, self.ledger, struct_hash(self.seat))
        n = len(active)
        needed = quorum(n, faults(n, n))
        for member, signature in self.votes.items():
            issuers.signed(statement, member, signature, f"vote for the {where}")
        if len(set(self.votes) & active) < needed:
            raise VerificationFailed(f"{where}: {len(set(self.votes) & active)} votes of {n} members, {needed} needed")
        if self.seat is not None:
            issuers.ledgers[self.index], issuers.names[self.index] = self.ledger, self.seat.name
            issuers.signed(self.seat, self.index, self.seat_signature, "the applicant's own seat")


def roster_names(issuers: Issuers, roster: int) -> list[str]:
    """Names of a roster's members, by index."""
    return [issuers.names.get(member, f"member {member}") for member in members_of(roster)]
