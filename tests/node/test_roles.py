"""Roles: who may give which order, that LINK is the dpo's by cryptography, and that nobody uses it unseen."""

from __future__ import annotations

import ast
import contextvars
import dataclasses
import hmac
import inspect
import json
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.digest import Digest
from crypto.keys import KeyRing
from node import enrolment, keystore, roles, runner
from node.errors import InputError, LocalFault, NotFound, Refused
from node.home import Home, create_home
from node.roles import ORDERS, ROLES, TWO_PERSONS, Authority, Gate, Pending, Signer
from node.store import Store
from node.vault import Vault
from node.vault.consents import origin_of
from node.vault.link import Link
from tests.node.consent_kit import AT_REST, CANARY, NOW, SIGNED, TODAY, World, dataset

DOOR = "the token of a running node"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = create_home(tmp_path / "member-1", "member", 0)
    keystore.create(made, "the operator's", log_n=10)
    roles.create(made.path)
    return made


@pytest.fixture
def node_ring(home: Home) -> KeyRing:
    return keystore.load(home, "the operator's")


def signer(home: Home, role: str) -> Signer:
    return Signer(home.path, role, roles.load(home.path, role))


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.rglob("*") if one.is_file()}


# --- the tables


def test_every_order_is_some_roles_and_the_operator_has_none_that_names_a_patient() -> None:
    given = set(re.findall(r'"([a-z]+\.[a-z-]+)": self\._', inspect.getsource(runner.Orders.__init__)))
    assert given | {"node.approve", "node.rotate"} == set(ORDERS)
    assert all(set(allowed) <= set(ROLES) and allowed for allowed, _ in ORDERS.values())
    for name, (allowed, link) in ORDERS.items():
        if link or name.startswith(("consent.", "erase.")):
            assert "operator" not in allowed
            assert allowed[0] == "dpo"
    assert set(TWO_PERSONS) <= set(ORDERS)
    for name, rule in TWO_PERSONS.items():
        assert rule.second not in ORDERS[name][0], "a second person is another role"


def test_stopping_never_takes_two() -> None:
    assert not {"consent.withdraw", "erase.request", "erase.status", "study.leave"} & set(TWO_PERSONS)


@pytest.mark.parametrize(
    "register, needed",
    [("a,b\n1,2\n", False), ("a,b\n1,2\n\n", False), ("a,b\n1,2\n3,4\n", True), (None, True)],
)
def test_a_grant_of_more_than_one_takes_two(register: str | None, needed: bool) -> None:
    assert TWO_PERSONS["consent.grant"].applies({"register": register, "all": register is None}) is needed


# --- keys


def test_every_role_has_a_key_of_its_own_for_its_owner_alone(home: Home) -> None:
    found = roles.addresses(home.path)
    assert set(found) == set(ROLES)
    assert len(set(found.values())) == len(ROLES)
    for role in ROLES:
        assert roles.load(home.path, role).ledger.address == found[role]
        for name in (f"{role}.json", f"{role}.password"):
            assert stat.S_IMODE((home.path / "roles" / name).stat().st_mode) == 0o600
    with pytest.raises(LocalFault, match="never overwritten"):
        roles.create(home.path)


def test_a_role_whose_files_were_taken_away_is_named_and_found_where_they_are(home: Home, tmp_path: Path) -> None:
    ring = roles.load(home.path, "dpo")
    for kind in ("json", "password"):
        shutil.move(home.path / "roles" / f"dpo.{kind}", tmp_path / f"dpo.{kind}")
    with pytest.raises(LocalFault, match="--role-password-file"):
        roles.load(home.path, "dpo")
    again = roles.load(home.path, "dpo", keys=tmp_path / "dpo.json", password_file=tmp_path / "dpo.password")
    assert again.ledger.address == ring.ledger.address
    with pytest.raises(LocalFault, match="does not open"):
        roles.load(home.path, "operator", password_file=tmp_path / "dpo.password")


# --- orders


def test_an_order_signed_by_its_role_is_taken_once(home: Home, node_ring: KeyRing) -> None:
    gate, body = Gate(home, node_ring.sealing), {"study": None}
    envelope = signer(home, "dpo").sign("consent.list", body, DOOR)
    assert gate.check("consent.list", body, envelope, DOOR) == Authority("dpo", None)
    with pytest.raises(Refused, match="given before"):
        gate.check("consent.list", body, envelope, DOOR)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, body, envelope, door: ("erase.request", body, envelope, door),
        lambda name, body, envelope, door: (name, {"study": "ff"}, envelope, door),
        lambda name, body, envelope, door: (name, body, envelope, "the token of the next run"),
        lambda name, body, envelope, door: (name, body, envelope | {"role": "operator"}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"role": "root"}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"nonce": "00" * 32}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"at": envelope["at"] + 1}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"link": {"sealed": "", "commit": ""}}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"signature": "00" * 65}, door),
        lambda name, body, envelope, door: (name, body, envelope | {"signature": 7}, door),
        lambda name, body, envelope, door: (name, body, {}, door),
        lambda name, body, envelope, door: (name, body, None, door),
        lambda name, body, envelope, door: (name, body, "dpo", door),
    ],
)
def test_a_token_is_good_for_no_other_order_body_door_role_or_time(
    home: Home, node_ring: KeyRing, change: Callable[..., tuple[str, dict[str, Any], Any, str]]
) -> None:
    body: dict[str, Any] = {"study": None}
    envelope = signer(home, "dpo").sign("consent.list", body, DOOR)
    with pytest.raises(Refused):
        Gate(home, node_ring.sealing).check(*change("consent.list", body, envelope, DOOR))


def test_an_order_grows_old(home: Home, node_ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = signer(home, "dpo").sign("consent.list", {}, DOOR)
    later = time.time() + roles.FRESH_S + 2
    monkeypatch.setattr(roles.time, "time", lambda: later)
    with pytest.raises(Refused, match="too long ago"):
        Gate(home, node_ring.sealing).check("consent.list", {}, envelope, DOOR)


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_every_role_is_refused_what_the_table_does_not_give_it(home: Home, node_ring: KeyRing, name: str) -> None:
    for role in ROLES:
        envelope = signer(home, role).sign(name, {}, DOOR)
        gate = Gate(home, node_ring.sealing)
        if role in ORDERS[name][0]:
            assert gate.check(name, {}, envelope, DOOR).role == role
        else:
            with pytest.raises(Refused, match=f"not for the {role}") as caught:
                gate.check(name, {}, envelope, DOOR)
            assert caught.value.exit_code == 5


def test_a_card_is_carried_in_by_anybody(home: Home, node_ring: KeyRing) -> None:
    body = {"card": "{}"}
    envelope = signer(home, "operator").sign("consent.withdraw", body, DOOR)
    assert Gate(home, node_ring.sealing).check("consent.withdraw", body, envelope, DOOR).role == "operator"


def test_the_officers_key_comes_with_the_dpos_orders_that_need_it_and_in_no_file(
    home: Home, node_ring: KeyRing
) -> None:
    dpo, body = signer(home, "dpo"), {"patient": CANARY}
    envelope = dpo.sign("consent.cards", body, DOOR)
    key = roles.officer_key(dpo.ring)
    assert Gate(home, node_ring.sealing).check("consent.cards", body, envelope, DOOR).officer == key
    text = json.dumps(envelope)
    assert key.hex() not in text
    assert CANARY not in text
    assert dpo.sign("consent.list", {}, DOOR)["link"] is None
    assert signer(home, "auditor").sign("consent.cards", body, DOOR)["link"] is None
    other = KeyRing.generate()
    with pytest.raises(Refused, match="does not open"):
        Gate(home, other.sealing).check("consent.cards", body, envelope, DOOR)
    for data in files(home.path).values():
        assert key not in data
        assert key.hex().encode() not in data


# --- LINK is the officer's

OFFICER = bytes(range(100, 132))


@dataclasses.dataclass
class Locked:
    """The kit's hospital with an officer: enrolled, then opened as an unattended node opens it."""

    world: World
    consents: tuple[Digest, ...]
    told: list[tuple[str, tuple[str, ...]]]

    @property
    def vault(self) -> Vault:
        return self.world.vault

    def tell(self, act: str, consents: tuple[str, ...]) -> None:
        self.told.append((act, consents))

    def unlocked(self) -> Any:
        return self.vault.unlocked(OFFICER, self.tell)


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locked:
    made = Vault.create

    def with_officer(path: Path, key: bytes) -> Vault:
        return made(path, key, OFFICER)

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "create", with_officer)
        world = World.found(tmp_path)
    consents = world.enrol()
    world.vault.close()
    world.vault = Vault.open(world.path, AT_REST)
    return Locked(world, consents, [])


LINK_ACTS: dict[str, Callable[[Vault, Digest], object]] = {
    "find": lambda v, c: v.find(CANARY),
    "patient_ids": lambda v, c: v.patient_ids(),
    "patient_of": lambda v, c: v.patient_of(c),
    "document": lambda v, c: v.document(c),
    "archived": lambda v, c: v.archived(),
    "is_suppressed": lambda v, c: v.is_suppressed(CANARY, None, NOW),
    "suppress": lambda v, c: v.suppress(CANARY, Digest(bytes(32))),
    "lift_suppression": lambda v, c: v.lift_suppression(CANARY, Digest(bytes(32))),
    "import_dataset": lambda v, c: v.import_dataset(dataset(first="newcomer")),
    "mint": lambda v, c: v.mint(
        CANARY,
        origin=origin_of(v._consent(c)),
        form_id=Digest(b"\x01" * 32),
        document=b"paper",
        signed_on=SIGNED,
        issued=TODAY,
        now=NOW,
    ),
    "would_mint": lambda v, c: v.would_mint(CANARY, Digest(b"\x02" * 32), Digest(b"\x01" * 32), SIGNED, NOW),
    "enrolling": lambda v, c: v.enrolling().__enter__(),
    "reading": lambda v, c: v.reading("export").__enter__(),
}


@pytest.mark.parametrize("act", LINK_ACTS)
def test_the_node_by_itself_is_refused_whatever_leads_to_a_person(locked: Locked, act: str) -> None:
    with pytest.raises(Refused, match="the data-protection officer's key alone") as caught:
        LINK_ACTS[act](locked.vault, locked.consents[0])
    assert CANARY not in caught.value.message


def test_no_key_that_the_node_has_opens_a_row_of_link(locked: Locked) -> None:
    """Not by asking the vault: by hand, with the at-rest key and everything the key file holds."""
    shares = [key for keys in locked.vault._link._keys.keys.values() for key in keys.values()]
    locked.vault.close()
    known = [AT_REST, *shares]
    known += [hmac.digest(key, label, "sha256") for key in known for label in (b"koinon/vault/seal/1",)]
    known += [hmac.digest(a, b"koinon/vault/officer/1link" + b, "sha256") for a in known for b in known]
    with sqlite3.connect(locked.world.path / "link.db") as db:
        rows = db.execute("SELECT tag, kind, body FROM sealed").fetchall()
    assert len(rows) == 12, "six patients and six consents"
    for tag, kind, body in rows:
        label = f"koinon/vault/link/{kind}/1".encode() + tag
        for key in known:
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(body[:12], body[12:], label)
    for key in known:  # nor is a patient's row found by hashing a guess of the name
        guess = hmac.digest(key, b"patient\0" + CANARY.encode(), "sha256")
        assert guess not in [tag for tag, _, _ in rows]


def test_no_other_key_is_taken_for_the_officers(locked: Locked) -> None:
    for key in (AT_REST, bytes(32), OFFICER[::-1]):
        with pytest.raises(Refused, match="not the key"), locked.vault.unlocked(key, locked.tell):
            pass
    assert locked.told == []


def test_what_the_node_can_open_names_no_patient(locked: Locked) -> None:
    vault = locked.vault
    for part in (vault._use, vault._copies._research, vault._archive):
        for kind in ("person", "consent", "patient", "anchor", "meta", "decision"):
            text = json.dumps(part.all(kind))
            assert CANARY not in text
            assert CANARY.encode().hex() not in text
            assert "doc_salt" not in text


def test_the_node_by_itself_does_all_that_rounds_and_erasures_need(locked: Locked) -> None:
    world, vault, (one, two, *_) = locked.world, locked.vault, locked.consents
    leaves = vault.leaves(world.study)
    assert len(leaves) == 6
    assert vault.rows(leaves[0].rows, leaves[0].role)[0].shape[0] == 2
    assert vault.card(one).consent_id == one
    assert vault.annex(one).leaf_secret
    assert vault.note_withdrawal(one, at=NOW)
    assert len(enrolment.due_withdrawals(vault, world.history())) == 1
    assert vault.confirm(world.history()) == 0
    assert vault.reapply(world.history()) == 0
    vault.suppress_consent(one)
    assert vault.delete_copy(one) == 1
    vault.archive(one, study_name="nuclei", decision="erased")
    assert vault.destroy_link(one) == 1
    assert len(vault.holdings()) == 5
    assert locked.told == []
    with locked.unlocked():
        assert vault.is_suppressed(CANARY, world.study, NOW)
        (kept,) = vault.archived(CANARY)
        assert (kept.patient_id, kept.decision, kept.signed_on) == (CANARY, "erased", SIGNED.isoformat())
        assert json.loads(kept.document)["patient_id"] == CANARY
        with pytest.raises(NotFound):
            vault.find(CANARY)
        assert vault.patient_of(two) == "MRN-0001"


def test_a_link_destroyed_unattended_is_gone_from_the_file_and_its_key_with_the_next_order(
    locked: Locked, tmp_path: Path
) -> None:
    vault, path = locked.vault, locked.world.path
    vault.close()
    with sqlite3.connect(path / "link.db") as db:
        before = dict(db.execute("SELECT tag, body FROM sealed"))
    shutil.copytree(path, tmp_path / "backup")
    vault = locked.world.vault = Vault.open(path, AT_REST)
    vault.destroy_link(locked.consents[0])
    with sqlite3.connect(path / "link.db") as db:
        left = {tag for (tag,) in db.execute("SELECT tag FROM sealed")}
    gone = {tag: body for tag, body in before.items() if tag not in left}
    assert len(gone) == 2, "the consent and its patient"
    for data in files(path).values():
        assert not any(body[12:60] in data or tag in data for tag, body in gone.items())
    assert vault._link._part.owed
    with locked.unlocked():
        pass
    assert [act for act, _ in locked.told] == ["rekey"]
    assert not vault._link._part.owed
    vault.close()
    shutil.copy(tmp_path / "backup" / "link.db", path / "link.db")
    with pytest.raises(LocalFault, match="do not belong together"):
        Vault.open(path, AT_REST)


def test_a_crash_between_use_and_link_leaves_no_orphan(locked: Locked, tmp_path: Path) -> None:
    locked.vault.close()
    old = (locked.world.path / "use.db").read_bytes()
    locked.world.vault = Vault.open(locked.world.path, AT_REST)
    with locked.unlocked():
        locked.vault.import_dataset(dataset(first="newcomer"))
    locked.vault.close()
    (locked.world.path / "use.db").write_bytes(old)  # LINK was written, USE was not
    locked.world.vault = Vault.open(locked.world.path, AT_REST)
    with locked.unlocked():
        assert "newcomer" not in locked.vault.patient_ids()
        assert locked.vault.import_dataset(dataset(first="newcomer")).patients == 1


def test_a_new_officers_key_ends_the_old_one_and_keeps_what_was_suppressed_and_archived(locked: Locked) -> None:
    new, vault, path = OFFICER[::-1], locked.vault, locked.world.path
    vault.suppress_consent(locked.consents[1])
    vault.archive(locked.consents[1], study_name="nuclei", decision="refused")
    before = dict(vault._link._keys.keys["link"])
    with locked.unlocked():
        vault.admit_officer(new)
        for key in (OFFICER, new):  # a crash here: both open
            with vault.unlocked(key, locked.tell):
                assert vault.find(CANARY)
        vault.keep_officer(new)
    assert vault._link._keys.keys["link"] != before, "LINK is under a fresh share"
    for _ in range(2):
        with pytest.raises(Refused, match="not the key"), vault.unlocked(OFFICER, locked.tell):
            pass
        with vault.unlocked(new, locked.tell):
            assert len(vault.patient_ids()) == 6
            assert vault.is_suppressed("MRN-0001", locked.world.study, NOW)
            assert vault.archived("MRN-0001")[0].decision == "refused"
        vault.close()
        vault = locked.world.vault = Vault.open(path, AT_REST)


def test_nobody_changes_the_officer_without_the_officer(locked: Locked) -> None:
    with pytest.raises(Refused):
        locked.vault.admit_officer(AT_REST)
    with pytest.raises(Refused):
        locked.vault.keep_officer(AT_REST)


def test_a_roles_new_key_is_the_same_until_it_is_in_force(home: Home, node_ring: KeyRing) -> None:
    old, new = roles.load(home.path, "clinician"), roles.prepare(home.path, "clinician")
    assert roles.prepare(home.path, "clinician").ledger.address == new.ledger.address
    assert not roles.settle(home.path, "clinician")
    roles.take_address(home.path, "clinician", new.ledger.address)
    assert roles.settle(home.path, "clinician")
    assert roles.load(home.path, "clinician").ledger.address == new.ledger.address
    gate = Gate(home, node_ring.sealing)
    stale = Signer(home.path, "clinician", old).sign("node.pending", {}, DOOR)
    with pytest.raises(Refused, match="not signed for this by the clinician"):
        gate.check("node.pending", {}, stale, DOOR)
    assert gate.check("node.pending", {}, signer(home, "clinician").sign("node.pending", {}, DOOR), DOOR)


# --- for one order, and told


def test_the_key_goes_with_the_order(locked: Locked) -> None:
    with locked.unlocked():
        assert locked.vault.find(CANARY)
        kept = contextvars.copy_context()  # what a task started within the order takes along
    for run in (lambda: locked.vault.find(CANARY), lambda: kept.run(locked.vault.find, CANARY)):
        with pytest.raises(Refused):
            run()


def test_a_task_beside_the_order_has_no_part_in_its_key(locked: Locked) -> None:
    beside = contextvars.copy_context()
    with locked.unlocked(), pytest.raises(Refused):
        beside.run(locked.vault.find, CANARY)


def test_an_order_opens_no_other_vault(locked: Locked, tmp_path: Path) -> None:
    other = Vault.create(tmp_path / "other", AT_REST, bytes(32))
    other.close()
    other = Vault.open(tmp_path / "other", AT_REST)
    with locked.unlocked(), pytest.raises(Refused):
        other.patient_ids()


@pytest.mark.parametrize("act", LINK_ACTS)
def test_every_use_of_link_is_told_before_it_happens_and_none_without(locked: Locked, act: str) -> None:
    class NotKept(Exception):
        pass

    opened: list[int] = []
    unlock = locked.vault._link._part.unlock

    def watched(officer: bytes) -> None:
        opened.append(len(locked.told))
        unlock(officer)

    locked.vault._link._part.unlock = watched  # type: ignore[method-assign]

    def refuses(act: str, consents: tuple[str, ...]) -> None:
        raise NotKept

    with pytest.raises(NotKept), locked.vault.unlocked(OFFICER, refuses):
        LINK_ACTS[act](locked.vault, locked.consents[0])
    assert opened == [], "what cannot be kept in the log does not happen"
    with locked.unlocked():
        LINK_ACTS[act](locked.vault, locked.consents[0])
    assert opened == [1], "told once, then opened"


def test_a_look_up_by_patient_is_told_with_the_consents_it_found_before_it_answers(locked: Locked) -> None:
    with locked.unlocked():
        (found,) = locked.vault.find(CANARY)
    assert locked.told == [("find", ()), ("find", (found.consent_id.hex(),))]
    with locked.unlocked(), locked.vault.reading("export"):
        for consent in locked.consents[:3]:
            locked.vault.patient_of(consent)
            locked.vault.document(consent)
    assert locked.told[2:] == [("export", ()), ("export", tuple(one.hex() for one in locked.consents[:3]))]


def test_there_is_one_way_to_link_in_the_source() -> None:
    """LINK's compartment is named by five functions of its room, and unlocked by one of all, after it has told."""
    users, unlockers = set(), set()
    for path in Path(inspect.getfile(Link)).parent.glob("*.py"):
        for function in (one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)):
            for one in ast.walk(function):
                if isinstance(one, ast.Attribute) and one.attr == "_part":
                    users.add((path.stem, function.name))
                if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr == "unlock":
                    unlockers.add((path.stem, function.name))
    assert users == {("link", name) for name in ("__init__", "close", "keep_slots", "unlocked", "opened")}
    assert unlockers == {("link", "opened")}
    source = inspect.getsource(Link.opened)
    assert source.index("access.tell(act, consents)") < source.index(".unlock(")


def test_the_log_says_who_what_and_about_whom_and_never_a_patient(tmp_path: Path, locked: Locked) -> None:
    store = Store(tmp_path, AT_REST)
    with locked.vault.unlocked(OFFICER, roles.witness(store, "dpo", "consent.cards")):
        locked.vault.find(CANARY)
    entries = [body for _, _, body in store.log_entries("link_access")]
    consent = locked.consents[0].hex()
    same = {"role": "dpo", "act": "consent.cards: find", "outcome": "permitted", "why": ""}
    assert entries == [same | {"subject": ""}, same | {"subject": consent}]
    roles.log_link(store, "operator", "consent.list", "asked", (), why="not for the operator")
    assert store.log_entries("link_access")[-1][2]["outcome"] == "refused"
    store.close()
    assert not any(CANARY.encode() in data for data in files(tmp_path).values())


# --- two persons


@pytest.fixture
def pending(tmp_path: Path) -> Pending:
    return Pending(Store(tmp_path / "home", AT_REST))


GRANT = {"study": None, "all": False, "register": f"patient_id\n{CANARY}\nMRN-1\n"}


def test_an_order_waits_is_approved_and_is_carried_out_once(pending: Pending, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"waits for the clinician.*koinon node approve --order") as caught:
        pending.need("consent.grant", GRANT, "dpo", "2 lines")
    assert caught.value.exit_code == 5
    (one,) = pending.listed()
    assert (one["order"], one["role"], one["second"], one["approved_by"]) == ("consent.grant", "dpo", "clinician", None)
    for role in ("dpo", "operator", "researcher", "auditor"):
        with pytest.raises(Refused, match="to approve"):
            pending.approve(one["order_id"], role, {})
    pending.approve(one["order_id"][:12], "clinician", {"signature": "ab"})
    pending.need("consent.grant", GRANT, "dpo", "2 lines")
    with pytest.raises(Refused):  # another register is another order
        pending.need("consent.grant", GRANT | {"register": "patient_id\nMRN-1\nMRN-2\n"}, "dpo", "2 lines")
    pending.done("consent.grant", GRANT)
    with pytest.raises(Refused):
        pending.need("consent.grant", GRANT, "dpo", "2 lines")
    assert not any(CANARY.encode() in data for data in files(tmp_path / "home").values())


def test_an_order_that_nobody_approves_expires(pending: Pending, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused):
        pending.need("model.export", {}, "clinician", "the newest model")
    order = pending.listed()[0]["order_id"]
    later = time.time() + roles.PENDING_S + 1
    monkeypatch.setattr(roles.time, "time", lambda: later)
    assert pending.listed() == []
    with pytest.raises(NotFound):
        pending.approve(order, "dpo", {})
    with pytest.raises(NotFound):
        pending.approve("", "dpo", {})


def test_an_ambiguous_order_is_not_approved(pending: Pending) -> None:
    orders = []
    for height in range(40):
        with pytest.raises(Refused):
            pending.need("model.export", {"round": height}, "clinician", "a model")
        orders.append(pending.listed()[-1]["order_id"])
    first = next(one[0] for one in orders if sum(other[0] == one[0] for other in orders) > 1)
    with pytest.raises(InputError, match="name more digits"):
        pending.approve(first, "dpo", {})
