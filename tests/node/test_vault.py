"""The vault: what is kept, what is destroyed, and that nobody can be read off its files."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.commitments import binding, consent_id, leaf_key, request_id
from crypto.digest import Digest
from crypto.merkle import requests_root
from node.card import withdrawal_notice
from node.consent import last_deadline
from node.enrolment import withdraw_calls
from node.errors import InputError, LocalError, LocalFault, NotFound, Refused
from node.history import History
from node.records import ZERO, ErasureOpened, ErasureStepped, Logged, Position
from node.vault import Vault, compartment, copies
from tests.node.consent_kit import (
    AT_REST,
    CANARY,
    MEMBER,
    NOW,
    SIGNED,
    TODAY,
    World,
    dataset,
    study_spec,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.found(tmp_path)


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.rglob("*") if one.is_file()}


def spellings(text: str) -> list[bytes]:
    """A text in every encoding in which it could be left lying about."""
    raw = text.encode()
    digest = hashlib.sha256(raw)
    return [
        raw,
        raw.lower(),
        raw.hex().encode(),
        base64.b64encode(raw).rstrip(b"="),
        digest.digest(),
        digest.hexdigest().encode(),
        text.encode("utf-16-le"),
    ]


def mint(world: World, patient: str = CANARY, form: str = "main", signed: datetime.date = SIGNED) -> Digest:
    from node.enrolment import form_ids

    return world.vault.mint(
        patient,
        origin=world.origin,
        form_id=form_ids(world.spec, world.study)[form],
        document=b"signed paper",
        signed_on=signed,
        issued=TODAY,
        now=NOW,
    ).consent_id


# --- import


def test_rows_come_back_as_they_were_imported(world: World) -> None:
    data = dataset()
    x, y = world.vault.rows([3, 0, 5], role=1)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert np.array_equal(x, data.x[[3, 0, 5]])
    assert np.array_equal(y, data.y[[3, 0, 5]])
    assert world.vault.shape() == ((1, 2, 2), 3, "float32")


def test_row_numbers_run_in_import_order_over_all_roles(world: World) -> None:
    assert [world.vault.row_numbers(role) for role in (1, 2, 3)] == [(0, 1, 2, 3, 4, 5, 6, 7), (8, 9), (10, 11)]


def test_a_row_of_another_role_is_refused(world: World) -> None:
    with pytest.raises(LocalError, match="row 8 has role 2, asked for as role 1"):
        world.vault.rows([8], role=1)


def test_a_row_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(NotFound, match="row 99"):
        world.vault.rows([99], role=1)


def test_an_empty_vault_has_no_shape(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was imported"):
        Vault.create(tmp_path / "v", AT_REST).shape()


def test_importing_the_same_data_again_changes_nothing(world: World) -> None:
    before = world.vault.leaves(world.study), world.vault.row_numbers(1)
    report = world.vault.import_dataset(dataset())
    assert (report.patients, report.records, report.known) == (0, 0, 6)
    assert (world.vault.leaves(world.study), world.vault.row_numbers(1)) == before


def test_a_suppressed_patient_is_left_out_and_uses_its_row_numbers_up(tmp_path: Path) -> None:
    vault = Vault.create(tmp_path / "v", AT_REST)
    vault.suppress(CANARY, ZERO)
    report = vault.import_dataset(dataset())
    assert (report.patients, report.suppressed, report.records) == (5, 1, 10)
    assert vault.row_numbers(1) == (2, 3, 4, 5, 6, 7)
    assert CANARY not in vault.patient_ids()


def test_the_next_file_goes_on_where_the_last_one_ended_whoever_was_left_out(tmp_path: Path) -> None:
    vault = Vault.create(tmp_path / "v", AT_REST)
    vault.suppress(CANARY, ZERO)
    vault.import_dataset(dataset())
    vault.import_dataset(dataset(3, 1, first="newcomer"))  # the two others are known
    assert vault.row_numbers(1) == (2, 3, 4, 5, 6, 7, 12)


def test_a_suppression_that_has_ended_holds_no_more(tmp_path: Path) -> None:
    vault = Vault.create(tmp_path / "v", AT_REST)
    vault.suppress(CANARY, ZERO, until=NOW)
    assert vault.import_dataset(dataset(), now=NOW).suppressed == 0


def test_data_of_another_shape_is_refused(world: World) -> None:
    odd = dataset(first="another")
    object.__setattr__(odd, "x", odd.x.reshape(-1, 4))
    with pytest.raises(InputError, match=r"shape \(4,\); this vault holds shape \(1, 2, 2\)"):
        world.vault.import_dataset(odd)


def test_a_patient_in_two_roles_is_named_by_row(tmp_path: Path) -> None:
    data = dataset()
    data.roles[1] = 2
    with pytest.raises(InputError, match="row 1 also has row 0 in another role") as caught:
        Vault.create(tmp_path / "v", AT_REST).import_dataset(data)
    assert CANARY not in caught.value.message


def test_an_import_that_died_between_the_compartments_is_undone(world: World, tmp_path: Path) -> None:
    world.vault.close()
    before = files(world.path)["use.db"]
    vault = Vault.open(world.path, AT_REST)
    vault.import_dataset(dataset(first="newcomer"))
    assert len(vault.row_numbers(1)) == 10
    vault.close()
    (world.path / "use.db").write_bytes(before)  # RESEARCH and LINK were written, USE was not
    vault = Vault.open(world.path, AT_REST)
    assert len(vault.row_numbers(1)) == 8
    assert len(list((world.path / "data").iterdir())) == 6
    assert vault.import_dataset(dataset(first="newcomer")).patients == 1
    assert vault.row_numbers(1)[-2:] == (12, 13)


# --- keys and files


def test_no_file_holds_a_patient_in_any_encoding(world: World) -> None:
    world.enrol()
    world.vault.suppress(CANARY, world.study)
    world.vault.archive(world.vault.find(CANARY)[0].consent_id, study_name="nuclei", decision="erased")
    for name, data in files(world.path).items():  # with the write-ahead logs as they are
        for spelling in spellings(CANARY):
            assert spelling not in data, name
    assert not any(CANARY in one.name for one in world.path.rglob("*"))


def test_no_file_holds_a_secret_or_a_consent_id_in_the_clear(world: World) -> None:
    leaf = world.vault.leaves(world.study)[0] if world.enrol() else None
    assert leaf is not None
    annex = world.vault.annex(leaf.consent_id)
    for data in files(world.path).values():
        for secret in (leaf.consent_id, leaf.holder_salt, annex.leaf_secret, leaf.value_salt, leaf.leaf_key):
            assert secret not in data
            assert secret.hex().encode() not in data


def test_another_nodes_key_opens_nothing(world: World) -> None:
    world.vault.close()
    with pytest.raises(LocalFault, match=r"keys\.json does not open"):
        Vault.open(world.path, bytes(32))


def test_a_vault_is_not_made_over_another(world: World) -> None:
    with pytest.raises(LocalFault, match="already holds a vault"):
        Vault.create(world.path, AT_REST)


def test_a_missing_vault_and_a_missing_compartment_are_told_apart(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Vault.open(tmp_path / "nowhere", AT_REST)
    world.vault.close()
    (world.path / "link.db").unlink()
    with pytest.raises(LocalFault, match=r"link\.db is missing"):
        Vault.open(world.path, AT_REST)


@pytest.mark.parametrize("name", ["keys.json", "link.db", "use.db", "research.db"])
def test_a_damaged_file_is_a_local_fault(world: World, name: str) -> None:
    world.enrol()
    world.vault.close()
    path = world.path / name
    path.write_bytes(b"garbage" + path.read_bytes()[7:])
    with pytest.raises(LocalFault):
        Vault.open(world.path, AT_REST)


def test_a_changed_sealed_row_is_found(world: World) -> None:
    world.enrol()
    world.vault.close()
    with sqlite3.connect(world.path / "use.db") as db:
        db.execute("UPDATE sealed SET body = zeroblob(length(body)) WHERE kind = 'consent'")
    with pytest.raises(LocalFault, match="use compartment is damaged"):
        Vault.open(world.path, AT_REST)


def test_a_changed_data_file_is_found(world: World) -> None:
    for path in (world.path / "data").iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(LocalFault, match="missing or damaged"):
        world.vault.rows([0], role=1)


def test_everything_survives_a_restart(world: World) -> None:
    world.enrol()
    before = world.vault.leaves(world.study)
    assert world.reopen().leaves(world.study) == before
    assert world.vault.shape() == ((1, 2, 2), 3, "float32")


# --- mint


def test_the_secrets_are_distinct_and_open_the_consent(world: World) -> None:
    world.enrol()
    seen = set()
    for leaf in world.vault.leaves(world.study):
        annex = world.vault.annex(leaf.consent_id)
        assert consent_id(leaf.holder, leaf.holder_salt, binding(leaf.doc_commit, leaf.leaf_key)) == leaf.consent_id
        assert leaf_key(annex.leaf_secret) == leaf.leaf_key
        salt = world.vault.request_salt(leaf.consent_id)
        seen |= {leaf.holder_salt, annex.leaf_secret, leaf.value_salt, salt, leaf.doc_commit, leaf.holder}
    assert len(seen) == 6 * 6


def test_minting_is_idempotent_for_patient_study_and_form(world: World) -> None:
    first = mint(world)
    assert mint(world) == first
    assert world.reopen().find(CANARY)[0].consent_id == first
    assert len(world.vault.find(CANARY)) == 1


def test_another_form_supersedes_the_older_consent(world: World) -> None:
    first = mint(world)
    second = mint(world, form="second")
    marks = {one.consent_id: one.mark for one in world.vault.find(CANARY)}
    assert marks == {first: "superseded", second: ""}
    assert mint(world, form="second") == second


def test_a_withdrawn_patient_is_not_enrolled_again_by_the_same_paper(world: World) -> None:
    world.vault.note_withdrawal(mint(world), at=NOW)
    with pytest.raises(Refused, match="does not renew it") as caught:
        mint(world)
    assert CANARY not in caught.value.message
    with pytest.raises(Refused):
        mint(world, signed=TODAY)  # the day of the withdrawal itself: which came first is not to be told


def test_a_form_signed_after_the_withdrawal_makes_a_new_consent(world: World) -> None:
    first = mint(world)
    world.vault.note_withdrawal(first, at=NOW)
    assert mint(world, signed=TODAY + datetime.timedelta(days=1)) != first


def test_a_suppressed_patient_is_refused(world: World) -> None:
    world.vault.suppress(CANARY, world.study)
    with pytest.raises(Refused, match="erased"):
        mint(world)
    assert world.vault.lift_suppression(CANARY, world.study)
    mint(world)


def test_suppression_in_one_study_leaves_others_alone(world: World) -> None:
    world.vault.suppress(CANARY, Digest(b"\x77" * 32))
    mint(world)


def test_an_unknown_patient_is_not_named(world: World) -> None:
    with pytest.raises(NotFound) as caught:
        mint(world, patient="MRN-UNKNOWN")
    assert "UNKNOWN" not in caught.value.message


def test_leaves_carry_role_rows_and_the_local_stop(world: World) -> None:
    ids = world.enrol()
    world.vault.note_withdrawal(ids[0], at=NOW)
    leaves = world.vault.leaves(world.study)
    assert [one.consent_id for one in leaves] == list(ids)
    assert [one.role for one in leaves] == [1, 1, 1, 1, 2, 3]
    assert leaves[0].rows == (0, 1)
    assert [one.locally_withdrawn for one in leaves] == [True] + [False] * 5
    assert leaves[1].used_rows(1) == (2,)
    assert leaves[1].entry(32).records == 2
    assert world.vault.leaves(Digest(b"\x77" * 32)) == []


def test_a_withdrawal_outweighs_the_other_marks_and_is_never_replaced(world: World) -> None:
    one = mint(world)
    assert world.vault.note_withdrawal(one, at=NOW, mark="entered-in-error")
    assert not world.vault.note_withdrawal(one, at=NOW, mark="superseded")
    assert world.vault.note_withdrawal(one, at=NOW + 1)
    assert not world.vault.note_withdrawal(one, at=NOW + 2)
    assert not world.vault.note_withdrawal(one, at=NOW, mark="entered-in-error")
    assert (world.vault.find(one)[0].mark, world.vault.find(one)[0].marked_at) == ("withdrawn", NOW + 1)


def test_a_withdrawal_of_another_hospitals_consent_is_no_news(world: World) -> None:
    assert not world.vault.note_withdrawal(Digest(b"\x55" * 32), at=NOW)


# --- deletion


def test_delete_copy_leaves_no_data_no_key_and_no_old_row_in_any_file(world: World) -> None:
    one = world.enrol()[0]
    world.vault.close()
    with sqlite3.connect(world.path / "research.db") as db:
        bodies = [row[0] for row in db.execute("SELECT body FROM sealed WHERE kind = 'patient'")]
    old_files = dict(files(world.path / "data").items())
    keys = files(world.path)["keys.json"]
    vault = Vault.open(world.path, AT_REST)
    assert vault.delete_copy(one) == 1
    left = files(world.path)
    assert len(files(world.path / "data")) == 5
    gone = next(name for name in old_files if name not in left)
    for data in left.values():
        assert old_files[gone][30:60] not in data
        assert not any(body in data or body[12:60] in data for body in bodies)
        assert keys[40:120] not in data
        assert gone.removesuffix(".bin").encode() not in data
    with pytest.raises(NotFound, match="row 0"):
        vault.rows([0], role=1)
    assert vault.rows([2], role=1)[0].shape == (1, 1, 2, 2)
    assert vault.leaves(world.study)[0].rows == ()
    assert vault.delete_copy(one) == 0


def test_what_is_deleted_is_overwritten_first(world: World, tmp_path: Path) -> None:
    """A second name for the same bytes shows what is left of them once the first is gone."""
    one = world.enrol()[0]
    for path in [*(world.path / "data").iterdir(), world.path / "keys.json"]:
        os.link(path, tmp_path / path.name)
    world.vault.delete_copy(one)
    gone = [path for path in tmp_path.glob("*.bin") if not (world.path / "data" / path.name).exists()]
    for path in [*gone, tmp_path / "keys.json"]:
        assert path.stat().st_size > 0
        assert not any(path.read_bytes())
    assert len(gone) == 1


def test_the_copy_stays_while_another_live_consent_needs_it(world: World) -> None:
    first = mint(world)
    mint(world, form="second")
    assert world.vault.delete_copy(first) == 0
    assert world.vault.rows([0], role=1)[0].shape == (1, 1, 2, 2)


def test_destroy_link_leaves_no_secret_row_or_patient(world: World) -> None:
    one = world.enrol()[0]
    world.vault.close()
    with sqlite3.connect(world.path / "link.db") as db:
        bodies = [row[0] for row in db.execute("SELECT body FROM sealed")]
        tags = [row[0] for row in db.execute("SELECT tag FROM sealed")]
    vault = Vault.open(world.path, AT_REST)
    vault.delete_copy(one)
    assert vault.destroy_link(one) == 1
    for name, data in files(world.path).items():
        assert not any(body[12:60] in data for body in bodies), name
        assert not any(tag in data for tag in tags), name
    with pytest.raises(NotFound):
        vault.find(one)
    with pytest.raises(NotFound):
        vault.find(CANARY)
    assert CANARY not in vault.patient_ids()
    assert len(vault.leaves(world.study)) == 5
    assert vault.destroy_link(one) == 0


class Announced:
    """A compartment's lock that says when another thread wants it."""

    def __init__(self) -> None:
        self._lock, self.wanted = threading.RLock(), threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.wanted.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize(
    "access",
    [
        lambda part: part.get("meta", b"shape"),
        lambda part: part.all("patient"),
        lambda part: part.put("meta", b"other", {}) or part.get("meta", b"other"),
    ],
    ids=["get", "all", "put"],
)
def test_a_key_that_changes_meanwhile_is_the_key_that_is_used(world: World, access: Callable[[Any], object]) -> None:
    """Whoever waits for the compartment while it is re-encrypted finds its rows, and leaves none under the old key."""
    part: Any = world.vault._copies._research
    lock = part._lock = Announced()
    with ThreadPoolExecutor(1) as pool:
        with lock:
            waiting = pool.submit(access, part)
            assert lock.wanted.wait(60)
            part.destroy([])
        found = waiting.result(60)
    assert found is not None
    assert access(part) == found


def test_destroying_the_link_first_takes_the_copy_too(world: World) -> None:
    world.vault.destroy_link(mint(world))
    assert len(files(world.path / "data")) == 5


def test_an_old_database_without_its_key_file_does_not_open(world: World, tmp_path: Path) -> None:
    one = world.enrol()[0]
    world.vault.close()
    shutil.copy(world.path / "link.db", tmp_path / "old.db")
    vault = Vault.open(world.path, AT_REST)
    vault.destroy_link(one)
    vault.close()
    shutil.copy(tmp_path / "old.db", world.path / "link.db")
    with pytest.raises(LocalFault, match="do not belong together"):
        Vault.open(world.path, AT_REST)


class Crash(BaseException):
    pass


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_crash_at_any_write_of_the_keys_loses_nothing(
    world: World, write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting writes the key file before and after each re-encryption; die instead of the n-th time."""
    one = world.enrol()[0]
    kept = world.vault.leaves(world.study)[1:]
    real, count = compartment._overwrite, 0

    def dying(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == write:
            raise Crash
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(compartment, "_overwrite", dying)
        with pytest.raises(Crash):
            world.vault.destroy_link(one)
    vault = Vault.open(world.path, AT_REST)
    vault.destroy_link(one)
    assert vault.leaves(world.study) == kept
    assert len(files(world.path / "data")) == 5
    assert vault.rows([2], role=1)[0].shape == (1, 1, 2, 2)


def test_keys_that_a_crash_left_beside_the_key_file_are_shredded_when_the_vault_is_opened(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.enrol()[0]
    draft = world.path / "keys.json.part"

    def dying(path: Path, target: Path) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Crash):
            world.vault.destroy_link(one)
    os.link(draft, tmp_path / "bytes")
    Vault.read(world.path, AT_REST).close()
    assert draft.exists(), "a reader beside the node writes nothing"
    Vault.open(world.path, AT_REST).close()
    assert not draft.exists()
    assert (tmp_path / "bytes").stat().st_size > 0
    assert not any((tmp_path / "bytes").read_bytes())


def test_every_file_of_the_vault_is_for_its_owner_alone(world: World) -> None:
    world.enrol()
    modes = {path.name: path.stat().st_mode & 0o077 for path in world.path.rglob("*")}
    assert any(name.endswith(".bin") for name in modes)
    assert not any(modes.values()), modes


def test_a_deletion_that_died_half_way_is_finished_when_the_vault_is_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = world.enrol()[0]

    def dying(path: Path) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(copies, "shred", dying)
        with pytest.raises(Crash):
            world.vault.delete_copy(one)
    assert len(files(world.path / "data")) == 6
    world.reopen()
    assert len(files(world.path / "data")) == 5


def test_the_archive_outlives_the_link_and_knows_no_consent(world: World) -> None:
    one = world.enrol()[0]
    for decision in ("received", "erased"):
        world.vault.archive(
            one, study_name="nuclei", decision=decision, requested_on="2027-01-10", recipients=("hospital-0",)
        )
    leaf = world.vault.leaves(world.study)[0]
    world.vault.destroy_link(one)
    found = world.vault.archived(CANARY)
    assert [(r.decision, r.study_name, r.recipients) for r in found] == [("erased", "nuclei", ("hospital-0",))]
    assert b"signed-form" in found[0].document
    text = repr(found)
    assert not any(secret.hex() in text or repr(bytes(secret)) in text for secret in (one, leaf.holder_salt))
    assert world.vault.archived("MRN-0001") == ()


# --- confirm and restore


def test_confirm_marks_what_the_chain_has_taken_in(world: World) -> None:
    mint(world)
    assert world.vault.confirm(world.history()) == 0
    assert not world.vault.find(CANARY)[0].granted
    world.enrol()
    assert all(one.granted for one in world.vault.holdings(world.study))
    assert world.vault.pending_anchors(world.study) == ()


def test_a_grant_that_a_reorganisation_took_out_is_pending_again(world: World) -> None:
    mint(world)
    before = world.history()
    world.enrol()
    assert world.vault.confirm(before) == 0
    assert not any(one.granted for one in world.vault.holdings(world.study))
    assert world.vault.pending_anchors(world.study)
    assert world.vault.confirm(world.history()) == len(world.vault.holdings(world.study))
    assert world.vault.pending_anchors(world.study) == ()


def withdrawn_history(world: World, *ids: Digest) -> History:
    world.send(*withdraw_calls((withdrawal_notice(world.vault.card(one)) for one in ids), world.origin.domains))
    return world.history()


def test_reapply_stops_what_the_chain_withdrew_and_deletes_the_copy(world: World) -> None:
    ids = world.enrol()
    history = withdrawn_history(world, ids[0], ids[1])
    assert world.vault.reapply(history) == 2
    assert [one.locally_withdrawn for one in world.vault.leaves(world.study)][:3] == [True, True, False]
    assert len(files(world.path / "data")) == 4
    assert world.vault.reapply(history) == 0


def test_reapply_keeps_the_copy_where_the_form_says_stop(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(on_withdrawal="stop"))
    ids = world.enrol()
    assert world.vault.reapply(withdrawn_history(world, ids[0])) == 1
    assert len(files(world.path / "data")) == 6


def test_reapply_leaves_a_superseded_consent_superseded(world: World) -> None:
    first = mint(world)
    mint(world, form="second")
    assert world.vault.reapply(withdrawn_history(world, first)) == 0
    assert world.vault.find(first)[0].mark == "superseded"
    assert world.vault.rows([0], role=1)[0].shape == (1, 1, 2, 2)


def erasure(world: World, history: History, root: Digest, *steps: int) -> Digest:
    """Tell the history about a batch of member 1 that has taken these steps; the batch."""
    batch = Digest(b"\x99" * 32)
    assert history.last is not None
    records = [ErasureOpened(batch, world.study, MEMBER, MEMBER, root, NOW + 99, NOW + 50)]
    for n, record in enumerate([*records, *(ErasureStepped(batch, step, (ZERO,)) for step in steps)], start=1):
        history.apply(Logged(Position(history.last.block + 1, n), ZERO, NOW + 50, ZERO, record))
    return batch


@pytest.mark.parametrize("erased", [1, 2])
def test_a_restored_vault_forgets_again_what_was_erased(tmp_path: Path, erased: int) -> None:
    world = World.found(tmp_path, study_spec(on_withdrawal="stop"))
    ids = world.enrol()[:erased]
    requests = [request_id(world.vault.request_salt(one), one) for one in ids]
    history = withdrawn_history(world, *ids)
    world.vault.close()
    shutil.copytree(world.path, tmp_path / "backup")
    vault = Vault.open(world.path, AT_REST)
    for one in ids:
        vault.note_withdrawal(one, at=NOW)
        vault.suppress_consent(one)
    vault.destroy_link(*ids)
    batch = erasure(world, history, requests_root(requests), 1, 2, 3, 4)
    assert vault.reapply(history) == 0
    vault.close()
    shutil.rmtree(world.path)
    shutil.copytree(tmp_path / "backup", world.path)
    vault = Vault.open(world.path, AT_REST)
    told: list[tuple[Digest, Digest]] = []
    assert vault.reapply(history, lambda batch, consent: told.append((batch, consent))) == erased
    assert sorted(told) == sorted((batch, one) for one in ids), "what must outlive the link is kept before it goes"
    assert vault.reapply(history) == 0
    assert len(vault.leaves(world.study)) == 6 - erased
    assert len(files(world.path / "data")) == 6 - erased
    assert vault.is_suppressed(CANARY, world.study, NOW)
    assert vault.import_dataset(dataset()).suppressed == erased


def test_reapply_touches_nobody_but_those_an_erasure_named(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(on_withdrawal="stop"))
    ids = world.enrol()
    history = withdrawn_history(world, *ids[:3])
    for one in ids[:3]:
        world.vault.note_withdrawal(one, at=NOW)  # this vault is up to date
    asked = [request_id(world.vault.request_salt(one), one) for one in ids[1:3]]
    erasure(world, history, requests_root(asked), 1, 2)
    assert world.vault.reapply(history) == 2
    assert [bool(leaf.rows) for leaf in world.vault.leaves(world.study)] == [True, False, False, True, True, True]
    assert not world.vault.is_suppressed(CANARY, world.study, NOW)


def test_reapply_leaves_an_up_to_date_vault_alone_when_others_were_erased(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(on_withdrawal="stop"))
    ids = world.enrol()
    history = withdrawn_history(world, ids[0])
    world.vault.note_withdrawal(ids[0], at=NOW)
    erasure(world, history, Digest(b"\x44" * 32), 1, 2, 3, 4)
    assert world.vault.reapply(history) == 0
    assert world.vault.leaves(world.study)[0].rows == (0, 1)


def test_reapply_deletes_the_copy_where_a_batch_cannot_be_told_apart(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(on_withdrawal="stop"))
    ids = world.enrol()
    history = withdrawn_history(world, *ids[:3])
    erasure(world, history, Digest(b"\x44" * 32), 1, 2, 3, 4)
    assert world.vault.reapply(history) == 3
    assert len(files(world.path / "data")) == 3
    assert len(world.vault.leaves(world.study)) == 6


def test_the_last_deadline_counts_every_extension(world: World) -> None:
    windows = world.history().studies[world.study].created.terms
    assert last_deadline(windows, NOW) == NOW + 300 + 20 + 60 + 7 * (40 + 60)
