from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crypto.blobs import SetPlain, decode_set
from crypto.digest import Digest, content_root
from crypto.keys import KeyRing, LedgerKey
from crypto.sealing import BlobKind, open_blob
from crypto.statements import Tombstone, sign
from node import keystore
from node.audit.events import event_index
from node.audit.home import Fault
from node.audit.records import Chain, observe
from node.audit.verify import CHECKS, Report, read_records, verify_home, verify_network
from node.home import open_home, read_network
from node.messages import CommitNotice, OpeningNotice, TombstoneNotice, VoteNotice
from node.notices import commit_of, hash_of_result, statement_of
from node.records import Logged, RoundFinal
from node.store import Store
from node.trail import tell
from node.wire import encode
from tests.node.audit.audit_kit import MEMBERS, ROUNDS

pytestmark = pytest.mark.slow


@dataclass
class Net:
    """A stopped network on the disk, to be damaged."""

    home: Path

    def path(self, name: str) -> Path:
        return self.home / name

    def password(self, name: str) -> str:
        return (self.home / name / "password").read_text().strip()

    def verify(self, name: str) -> Report:
        return verify_home(self.path(name), self.password(name))

    def ring(self, name: str) -> KeyRing:
        return keystore.load(open_home(self.path(name)), self.password(name))

    def store(self, name: str) -> Store:
        return Store(self.path(name), keystore.at_rest_key(self.ring(name)))

    def sql(self, name: str, text: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.path(name) / "node.db") as database:
            rows = database.execute(text, arguments).fetchall()
        database.close()
        return rows

    def blob(self, name: str, root: bytes) -> Path:
        return self.path(name) / "blobs" / root.hex()[:2] / root.hex()

    def contents(self, name: str, kind: str) -> list[Digest]:
        return [Digest(row[0]) for row in self.sql(name, "SELECT root FROM content WHERE kind = ? ORDER BY root", kind)]

    def commit(self, name: str, member: int, place: int = 0) -> CommitNotice:
        """A member's commit of the round at this place, as a home has it."""
        store = self.store(name)
        found = [n for n in store.notices_of_kind("CommitNotice") if isinstance(n, CommitNotice) and n.member == member]
        store.close()
        return found[place]

    def final_models(self) -> list[Digest]:
        """Model roots of the study's rounds, in order."""
        records = [one.record for one in read_records(self.path("auditor"))]
        return [record.result.model_root for record in records if isinstance(record, RoundFinal)]


@pytest.fixture
def erased(purged: Path, tmp_path: Path) -> Net:
    return Net(Path(shutil.copytree(purged, tmp_path / "network")))


@pytest.fixture
def net(original: Path, tmp_path: Path) -> Net:
    return Net(Path(shutil.copytree(original, tmp_path / "network")))


def flip(path: Path, place: int = -1) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def statuses(report: Report) -> dict[str, str]:
    return {one.name: one.status for one in report.checks}


def assert_fails(report: Report, check: str, what: str, where: str) -> None:
    """The report's first failure is this check's, with two different values."""
    first = next(one for one in report.checks if one.status == "failed")
    assert not report.ok
    assert first.name == check, first.why
    failure = report.first_failure
    assert failure is not None
    assert what in failure.what
    assert where in failure.where
    assert failure.expected != failure.got


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --------------------------------------------------------------------------------------------------------------------
# A whole network


def test_an_untouched_network_passes_whole_and_stays_untouched(original: Path) -> None:
    before = fingerprint(original)
    report = verify_network(original)
    assert report.ok, report.first_failure
    assert report.complete, [one.to_json() for one in report.checks if one.status != "passed"]
    assert (report.rounds_verified, report.rounds_purged) == (ROUNDS, 0)
    assert fingerprint(original) == before


def test_a_report_has_exactly_its_fields(original: Path) -> None:
    found = verify_network(original).to_json()
    assert list(found) == ["ok", "complete", "checks", "rounds_verified", "rounds_purged", "first_failure"]
    assert found["first_failure"] is None
    assert set(found["checks"][0]) == {"name", "status", "why", "home"}
    assert {one.get("home") for one in found["checks"]} == {
        *(f"member-{i + 1}" for i in range(MEMBERS)),
        "auditor",
        None,
    }
    json.dumps(found)


def test_a_report_is_the_same_every_time(original: Path) -> None:
    home = original / "auditor"
    password = (home / "password").read_text().strip()
    assert verify_home(home, password) == verify_home(home, password)


def test_without_a_password_what_needs_keys_is_skipped_with_the_reason(net: Net) -> None:
    report = verify_home(net.path("auditor"), None)
    found = {one.name: one for one in report.checks}
    assert report.ok
    assert not report.complete
    assert report.rounds_verified == 0
    assert {name for name, one in found.items() if one.status == "skipped"} == {
        "keystore",
        "validity",
        "consent",
        "aggregation",
    }
    assert "password" in found["aggregation"].why
    assert found["contents"].status == found["results"].status == "passed"


def test_a_wrong_password_fails_and_the_rest_goes_on(net: Net) -> None:
    report = verify_home(net.path("member-1"), "another")
    assert_fails(report, "keystore", "keystore", "keystore.json")
    assert statuses(report)["contents"] == "passed"
    assert statuses(report)["aggregation"] == "skipped"


# --------------------------------------------------------------------------------------------------------------------
# One thing at a time: contents


@pytest.mark.parametrize("kind", ["cipher", "model", "spec"])
@pytest.mark.parametrize("name", ["auditor", "member-2"])
def test_one_changed_byte_of_a_content_is_named(net: Net, name: str, kind: str) -> None:
    root = net.contents(name, kind)[0]
    flip(net.blob(name, root))
    report = net.verify(name)
    assert_fails(report, "contents", "content root", f"blobs/{root.hex()[:2]}/{root.hex()}")
    assert report.first_failure is not None
    assert report.first_failure.expected == root.hex()


def test_a_network_s_report_names_the_home_of_the_changed_byte(net: Net) -> None:
    root = net.contents("member-3", "cipher")[1]
    flip(net.blob("member-3", root), 7)
    assert_fails(verify_network(net.home), "contents", "content root", f"member-3/blobs/{root.hex()[:2]}")


def rename(net: Net, name: str, kind: str, root: Digest, data: bytes) -> Digest:
    """Put other bytes under their own right name, in the folder and in the index."""
    new = content_root(kind, data)
    net.blob(name, root).unlink()
    net.blob(name, new).parent.mkdir(exist_ok=True)
    net.blob(name, new).write_bytes(data)
    net.sql(name, "UPDATE content SET root = ?, length = ? WHERE root = ?", bytes(new), len(data), bytes(root))
    return new


@pytest.mark.parametrize("name", ["auditor", "member-1"])
@pytest.mark.parametrize("blob", ["update", "set"])
def test_a_blob_changed_with_its_name_and_index_entry_fails_against_the_commitment(
    net: Net, name: str, blob: str
) -> None:
    root = getattr(net.commit(name, 1), blob).cipher_root
    data = bytearray(net.blob(name, root).read_bytes())
    data[5] ^= 1
    rename(net, name, "cipher", root, bytes(data))
    report = net.verify(name)
    assert_fails(report, "validity", f"{blob} blob", "member 1")
    assert report.first_failure is not None
    assert report.first_failure.expected == root.hex()


@pytest.mark.parametrize("name", ["auditor", "member-1"])
@pytest.mark.parametrize("place", range(ROUNDS))
def test_a_recorded_model_altered_by_one_integer_fails_against_the_chain(net: Net, name: str, place: int) -> None:
    root = net.final_models()[place]
    data = net.blob(name, root).read_bytes()
    altered = data[:-4] + (int.from_bytes(data[-4:], "little", signed=True) + 1).to_bytes(4, "little", signed=True)
    rename(net, name, "model", root, altered)
    report = net.verify(name)
    assert_fails(report, "models", "model", f"round {place + 1}")
    assert report.first_failure is not None
    assert report.first_failure.expected == root.hex()


def test_a_deleted_blob_without_a_tombstone_is_named(net: Net) -> None:
    root = net.commit("auditor", 0).update.cipher_root
    net.blob("auditor", root).unlink()
    assert_fails(net.verify("auditor"), "contents", "file", root.hex())


def test_a_blob_deleted_with_its_index_entry_and_key_fails_where_this_member_voted_on_it(net: Net) -> None:
    notice = net.commit("member-1", 1)
    net.blob("member-1", notice.update.cipher_root).unlink()
    net.sql("member-1", "DELETE FROM content WHERE root = ?", bytes(notice.update.cipher_root))
    net.sql("member-1", "DELETE FROM content_keys WHERE round_id = ? AND member = 1", bytes(notice.round_id))
    report = net.verify("member-1")
    assert_fails(report, "validity", "update blob", "member 1")
    assert report.first_failure is not None
    assert "missing without a tombstone" in report.first_failure.got


def test_a_lost_content_key_fails_where_this_member_voted(net: Net) -> None:
    notice = net.commit("member-1", 2)
    net.sql("member-1", "DELETE FROM content_keys WHERE round_id = ? AND member = 2", bytes(notice.round_id))
    assert_fails(net.verify("member-1"), "validity", "content key", "member 2")


def test_a_content_key_of_another_blob_does_not_fit_its_commitment(net: Net) -> None:
    notice = net.commit("member-1", 2)
    store = net.store("member-1")
    store.forget_keys(notice.round_id, 2, 0)
    store.put_key(notice.round_id, 2, 0, bytes(range(32)))
    store.close()
    assert_fails(net.verify("member-1"), "validity", "content key", "member 2")


def test_what_an_auditor_never_had_is_skipped_and_not_wrong(net: Net) -> None:
    notice = net.commit("auditor", 1, place=1)
    for blob in (notice.update, notice.set):
        net.blob("auditor", blob.cipher_root).unlink()
        net.sql("auditor", "DELETE FROM content WHERE root = ?", bytes(blob.cipher_root))
    net.sql("auditor", "DELETE FROM content_keys WHERE round_id = ? AND member = 1", bytes(notice.round_id))
    report = net.verify("auditor")
    assert report.ok
    assert not report.complete
    assert report.rounds_verified == ROUNDS - 1
    assert statuses(report)["aggregation"] == statuses(report)["validity"] == "skipped"
    assert "never came" in next(one.why for one in report.checks if one.name == "aggregation")


# --------------------------------------------------------------------------------------------------------------------
# Tombstones


def bury(
    net: Net, name: str, notice: CommitNotice, key: LedgerKey, *, kind: BlobKind = BlobKind.SET, remove: bool = True
) -> None:
    """End the retention of a member's blob in a home, with a tombstone signed by `key`."""
    member = open_home(net.path(name)).index
    root = (notice.set if kind is BlobKind.SET else notice.update).cipher_root
    statement = Tombstone(member, root, 2, notice.round_id)
    domains = read_network(net.path(name) / "network.json").contracts.domains
    tombstone = TombstoneNotice(member, root, 2, notice.round_id, sign(statement, domains.of(statement), key))
    store = net.store(name)
    store.remember(tombstone, own=True)
    if remove:
        store.remove(root)
        store.forget_keys(notice.round_id, notice.member, int(kind))
    store.close()


def test_a_set_whose_retention_ended_is_skipped_and_the_sum_still_executed(net: Net) -> None:
    bury(net, "member-1", net.commit("member-1", 1), net.ring("member-1").ledger)
    report = net.verify("member-1")
    assert report.ok, report.first_failure
    assert not report.complete
    assert statuses(report)["validity"] == statuses(report)["consent"] == "skipped"
    assert statuses(report)["aggregation"] == "passed"
    assert "retention" in next(one.why for one in report.checks if one.name == "validity")
    assert report.rounds_verified == ROUNDS - 1


def test_an_update_that_went_over_the_budget_is_skipped_with_the_reason(net: Net) -> None:
    bury(net, "member-1", net.commit("member-1", 1), net.ring("member-1").ledger, kind=BlobKind.UPDATE)
    report = net.verify("member-1")
    assert report.ok, report.first_failure
    assert not report.complete
    assert statuses(report)["aggregation"] == statuses(report)["validity"] == "skipped"
    assert "over its budget" in next(one.why for one in report.checks if one.name == "aggregation")
    assert report.rounds_verified == ROUNDS - 1


def test_a_tombstone_that_another_signed_fails_with_both_addresses(net: Net) -> None:
    other = net.ring("member-2").ledger
    bury(net, "member-1", net.commit("member-1", 1), other)
    report = net.verify("member-1")
    assert_fails(report, "statements", "signature", "TombstoneNotice")
    assert report.first_failure is not None
    assert report.first_failure.expected == net.ring("member-1").ledger.address.hex()
    assert report.first_failure.got == other.address.hex()


def test_what_is_still_there_under_a_tombstone_fails(net: Net) -> None:
    notice = net.commit("member-1", 1)
    bury(net, "member-1", notice, net.ring("member-1").ledger, remove=False)
    assert_fails(net.verify("member-1"), "tombstones", "purged content", notice.set.cipher_root.hex())


# --------------------------------------------------------------------------------------------------------------------
# After an erasure


@pytest.mark.timeout(600)
def test_after_an_erasure_the_purged_rounds_are_counted_apart(erased: Net) -> None:
    report = verify_network(erased.home)
    assert report.ok, report.first_failure
    assert (report.rounds_verified, report.rounds_purged) == (ROUNDS, ROUNDS)
    for name in ("auditor", "member-1", "member-2"):
        assert (erased.verify(name).rounds_verified, erased.verify(name).rounds_purged) == (ROUNDS, ROUNDS)


@pytest.mark.timeout(600)
def test_a_purged_update_that_came_back_is_named(original: Path, erased: Net) -> None:
    root = next(r for r in Net(original).contents("member-1", "cipher") if not erased.blob("member-1", r).exists())
    erased.blob("member-1", root).parent.mkdir(exist_ok=True)
    shutil.copy(Net(original).blob("member-1", root), erased.blob("member-1", root))
    assert_fails(erased.verify("member-1"), "tombstones", "purged content", root.hex())


@pytest.mark.timeout(600)
def test_a_purged_blob_whose_tombstone_is_lost_is_missing_without_one(erased: Net) -> None:
    erased.sql("member-1", "DELETE FROM notices WHERE kind = 'TombstoneNotice' AND own = 1")
    report = erased.verify("member-1")
    assert not report.ok
    assert report.first_failure is not None
    assert "missing without a tombstone" in report.first_failure.got


@pytest.mark.timeout(600)
def test_the_opening_of_an_erasure_that_never_came_is_skipped(erased: Net) -> None:
    erased.sql("member-3", "DELETE FROM notices WHERE kind = 'OpeningNotice'")
    report = erased.verify("member-3")
    assert report.ok
    assert statuses(report)["erasures"] == "skipped"


@pytest.mark.timeout(600)
def test_a_set_on_the_clean_branch_that_holds_an_erased_leaf_is_found(erased: Net) -> None:
    """As if the batch had been about a leaf that its hospital still uses."""
    store = erased.store("member-1")
    used = next(
        plain.entries[0].leaf_key
        for notice in store.notices_of_kind("CommitNotice")
        if isinstance(notice, CommitNotice) and notice.member == 1
        for plain in opened_sets(store, notice)
    )
    opening = next(n for n in store.notices_of_kind("OpeningNotice") if isinstance(n, OpeningNotice))
    store.close()
    put_notice(erased, "member-1", opening, replace(opening, leaf_keys=(used,)))
    assert_fails(erased.verify("member-1"), "erasures", "erased leaf", "member 1")


def opened_sets(store: Store, notice: CommitNotice) -> list[SetPlain]:
    """The plaintext set of a commit, if this store can open it."""
    key = store.key(notice.round_id, notice.member, BlobKind.SET)
    if key is None or not store.has(notice.set.cipher_root):
        return []
    data = store.get(notice.set.cipher_root)
    return [decode_set(open_blob(data, key, notice.set, notice.round_id, notice.member, BlobKind.SET))]


# --------------------------------------------------------------------------------------------------------------------
# Statements


def put_notice(net: Net, name: str, old: Any, new: Any) -> None:
    net.sql(name, "UPDATE notices SET body = ? WHERE body = ?", encode(new), encode(old))


def test_a_forged_signature_is_named_with_both_signers(net: Net) -> None:
    notice = net.commit("auditor", 1)
    network = read_network(net.path("auditor") / "network.json")
    forger = LedgerKey.generate()
    statement = commit_of(notice)
    forged = replace(notice, signature=sign(statement, network.contracts.domains.of(statement), forger))
    put_notice(net, "auditor", notice, forged)
    report = net.verify("auditor")
    assert_fails(report, "statements", "signature", "CommitNotice of member 1")
    assert report.first_failure is not None
    assert report.first_failure.expected == network.founders[1].ledger.hex()
    assert report.first_failure.got == forger.address.hex()


def test_a_statement_under_another_s_key_fails(net: Net) -> None:
    net.sql("auditor", "UPDATE notices SET member = 7 WHERE kind = 'VoteNotice' AND member = 1")
    assert_fails(net.verify("auditor"), "statements", "key of a statement", "VoteNotice")


def test_a_second_commitment_of_our_own_fails_against_the_chain(net: Net) -> None:
    notice = net.commit("member-2", 1)
    other = replace(notice, dataset_root=Digest(bytes(31) + b"\x01"))
    domain = read_network(net.path("member-2") / "network.json").contracts.domains.of(commit_of(other))
    other = replace(other, signature=sign(commit_of(other), domain, net.ring("member-2").ledger))
    body = encode(other)
    net.sql(
        "member-2",
        "INSERT INTO notices VALUES (?, 'CommitNotice', ?, 1, 0, ?)",
        bytes(notice.round_id),
        12345,
        body,
    )
    assert_fails(net.verify("member-2"), "own-statements", "said once", "CommitNotice of member 1")


def test_two_votes_of_a_member_in_two_homes_are_found(net: Net) -> None:
    store = net.store("member-2")
    votes = [n for n in store.notices_of_kind("VoteNotice", own=True) if isinstance(n, VoteNotice)]
    store.close()
    other = replace(votes[0], result=replace(votes[0].result, model_root=Digest(b"\x07" * 32)))
    statement = statement_of(other)
    assert statement is not None
    domain = read_network(net.path("member-2") / "network.json").contracts.domains.of(statement)
    put_notice(
        net, "member-2", votes[0], replace(other, signature=sign(statement, domain, net.ring("member-2").ledger))
    )
    report = verify_network(net.home)
    failed = [one for one in report.checks if one.status == "failed"]
    assert [one.name for one in failed] == ["contradictions"]
    assert "VoteNotice of member 1" in failed[0].why


def test_votes_that_are_not_here_make_the_report_incomplete(net: Net) -> None:
    net.sql("auditor", "DELETE FROM notices WHERE kind = 'VoteNotice'")
    report = net.verify("auditor")
    assert report.ok
    assert statuses(report)["votes"] == "skipped"
    assert "0 of 2" in next(one.why for one in report.checks if one.name == "votes")


@pytest.mark.parametrize("kind", ["PlanNotice", "PurgeNotice", "VerdictNotice"])
def test_what_was_said_of_an_erasure_and_did_not_come_makes_the_report_incomplete(erased: Net, kind: str) -> None:
    assert statuses(erased.verify("auditor"))["erasure-statements"] == "passed"
    erased.sql("auditor", f"DELETE FROM notices WHERE kind = '{kind}'")
    report = erased.verify("auditor")
    assert report.ok
    assert {one.name for one in report.checks if one.status == "skipped"} == {"erasure-statements"}


# --------------------------------------------------------------------------------------------------------------------
# The chain


@pytest.mark.parametrize(
    "column, what, check",
    [("header", "block hash", "chain"), ("hash", "block hash", "chain"), ("receipts", "receipts", "chain")],
)
def test_one_changed_byte_of_a_kept_block_is_named(net: Net, column: str, what: str, check: str) -> None:
    number = net.sql("auditor", "SELECT number FROM blocks WHERE length(receipts) > 600 ORDER BY number DESC")[0][0]
    value = bytearray(net.sql("auditor", f"SELECT {column} FROM blocks WHERE number = ?", number)[0][0])
    if column == "receipts":
        value[-40] = ord("0") if value[-40] != ord("0") else ord("1")
    else:
        value[-3] ^= 1
    net.sql("auditor", f"UPDATE blocks SET {column} = ? WHERE number = ?", bytes(value), number)
    report = net.verify("auditor")
    assert_fails(report, check, what, f"block {number}")
    assert statuses(report)["results"] == "skipped"
    assert statuses(report)["contents"] == "passed"


def test_a_transaction_s_hash_that_is_cut_missing_or_said_twice_is_named(net: Net) -> None:
    rows = net.sql("auditor", "SELECT number, transactions FROM blocks WHERE length(transactions) = 32")
    (_, first), (number, own) = rows[-2:]
    for damaged in (own[:-1], b"", own * 2, own + first, first):
        net.sql("auditor", "UPDATE blocks SET transactions = ? WHERE number = ?", damaged, number)
        assert_fails(net.verify("auditor"), "chain", "transactions", f"block {number}")
    net.sql("auditor", "UPDATE blocks SET transactions = ? WHERE number = ?", own, number)
    assert net.verify("auditor").ok


def test_a_missing_block_is_named(net: Net) -> None:
    net.sql("auditor", "DELETE FROM blocks WHERE number = 9")
    assert_fails(net.verify("auditor"), "chain", "block number", "block 10")


def test_another_genesis_hash_fails_at_the_first_block(net: Net) -> None:
    path = net.path("auditor") / "network.json"
    raw = json.loads(path.read_text())
    raw["chain"]["genesis_hash"] = "0x" + "11" * 32
    path.write_text(json.dumps(raw))
    assert_fails(net.verify("auditor"), "chain", "genesis hash", "block 0")
    report = verify_network(net.home)
    assert "failed" in [one.status for one in report.checks if one.name == "network"]


def test_another_founder_than_the_chain_s_is_named(net: Net) -> None:
    path = net.path("auditor") / "network.json"
    raw = json.loads(path.read_text())
    raw["founders"][1]["name"] = "somebody"
    path.write_text(json.dumps(raw))
    assert_fails(net.verify("auditor"), "founders", "name", "founder 1")


def test_one_changed_byte_of_a_journal_line_is_named(net: Net) -> None:
    path = net.home / "chain" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    line = bytearray(lines[11])
    line[line.index(b"0x02") + 300] ^= 1
    lines[11] = bytes(line)
    path.write_bytes(b"".join(lines))
    report = verify_network(net.home)
    assert_fails(report, "journal", "", "chain/journal.jsonl, line 12")


def test_a_journal_that_lost_its_end_disagrees_with_the_homes(net: Net) -> None:
    path = net.home / "chain" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert_fails(verify_network(net.home), "agreement", "block", f"block {len(lines)}")


def tampered_finals(logged: list[Logged], change: Callable[[RoundFinal], RoundFinal]) -> list[Logged]:
    return [replace(one, record=change(one.record)) if isinstance(one.record, RoundFinal) else one for one in logged]


@pytest.mark.parametrize(
    "what, change",
    [
        ("result hash", lambda r: replace(r, result_hash=Digest(bytes(32)))),
        ("result hash", lambda r: replace(r, result=replace(r.result, model_root=Digest(bytes(32))))),
        ("included or refused", lambda r: with_hash(r, included=1)),
        ("outcome", lambda r: with_hash(r, outcome=2)),
        ("commit root", lambda r: with_hash(r, commit_root=Digest(bytes(32)))),
        ("consent accumulator", lambda r: with_hash(r, consent_acc=Digest(bytes(32)))),
        ("trust", lambda r: with_hash(r, trust=b"\0\0" * MEMBERS)),
        ("quorum", lambda r: replace(r, signers=1)),
        ("signers", lambda r: replace(r, signers=1 << 9)),
    ],
)
def test_a_result_that_does_not_follow_from_the_chain_is_found(
    original: Path, what: str, change: Callable[[RoundFinal], RoundFinal]
) -> None:
    home = original / "auditor"
    logged = read_records(home)
    store = sqlite3.connect(f"file:{home / 'node.db'}?mode=ro&immutable=1", uri=True)
    hashes = dict(store.execute("SELECT number, hash FROM blocks").fetchall())
    store.close()

    def fold(records: list[Logged]) -> dict[str, Fault]:
        chain = Chain(read_network(home / "network.json").contracts, lambda number: Digest(hashes[number]))
        found: dict[str, Fault] = {}
        for one in records:
            observe(chain, one, found)
        return found

    assert fold(logged) == {}
    assert fold(tampered_finals(logged, change))["results"].what == what


def with_hash(record: RoundFinal, **changes: Any) -> RoundFinal:
    """A record with another result and the hash that fits it."""
    result = replace(record.result, **changes)
    return replace(record, result=result, result_hash=hash_of_result(result))


def test_a_home_is_read_with_what_is_still_in_its_write_ahead_log(net: Net) -> None:
    """As a node that was killed, or that runs, leaves it; another process must be able to go on with it."""
    store = net.store("auditor")
    store.set_meta("written", "just now")
    assert (net.path("auditor") / "node.db-wal").stat().st_size > 0
    report = net.verify("auditor")
    assert report.ok
    assert report.complete
    store.set_meta("written", "again")
    store.close()


# --------------------------------------------------------------------------------------------------------------------
# Damage that must not stop the audit


@pytest.mark.parametrize("name", ["home.json", "network.json", "keystore.json", "node.db"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\x00\xff" * 500,
        lambda data: b"[" * 200_000,
        lambda data: b'{"format": 1, "schema": "koinon.network/1", "chain": []}',
        lambda data: None,
    ],
    ids=["empty", "cut", "garbage", "deep", "other", "missing"],
)
def test_a_damaged_file_is_a_failed_check_that_names_it(
    net: Net, name: str, damage: Callable[[bytes], bytes | None]
) -> None:
    path = net.path("member-1") / name
    password = net.password("member-1")
    made = damage(path.read_bytes())
    if made is None:
        path.unlink()
    else:
        path.write_bytes(made)
    report = verify_home(net.path("member-1"), password)
    assert not report.ok
    failure = report.first_failure
    assert failure is not None
    assert name in failure.where
    assert [one.name for one in report.checks] == ["home", *(check[0] for check in CHECKS)]


@pytest.mark.parametrize("place", range(3, 100, 16))
def test_a_byte_anywhere_in_the_database_never_stops_the_audit(net: Net, place: int) -> None:
    path = net.path("auditor") / "node.db"
    flip(path, path.stat().st_size * place // 100)
    report = net.verify("auditor")
    assert [one.name for one in report.checks] == ["home", *(check[0] for check in CHECKS)]


@pytest.mark.parametrize("kind", ["CommitNotice", "VoteNotice"])
def test_a_statement_that_does_not_decode_is_named(net: Net, kind: str) -> None:
    net.sql("auditor", "UPDATE notices SET body = ? WHERE kind = ? AND member = 0", b"\xc1junk", kind)
    assert_fails(net.verify("auditor"), "statements", "statement", f"{kind} of member 0")


def test_a_network_home_without_homes_fails(tmp_path: Path) -> None:
    report = verify_network(tmp_path)
    assert not report.ok
    assert not verify_home(tmp_path / "nowhere", "password").ok


def test_records_are_read_from_evidence_alone(original: Path) -> None:
    logged = read_records(original / "member-1")
    assert logged == read_records(original / "auditor")
    assert {type(one.record).__name__ for one in logged} >= {"MemberAdmitted", "StudyCreated", "RoundFinal"}


# --------------------------------------------------------------------------------------------------------------------
# The index of events


def test_the_index_of_events_is_derived_and_follows_the_home_s_blocks(net: Net) -> None:
    home = net.path("member-1")
    told = list(tell(read_records(home)))
    index = event_index(home)
    assert index.find() == told
    index.close()
    last = told[-1].block
    net.sql("member-1", "DELETE FROM blocks WHERE number >= ?", last)
    shorter = event_index(home)
    assert shorter.find() == [one for one in told if one.block < last], "it goes back with the home's blocks"
    shorter.close()
    (home / "events.db").unlink()
    again = event_index(home)
    assert again.find() == [one for one in told if one.block < last], "it is made anew where it is lost"
    again.close()
