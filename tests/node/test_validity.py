"""Clause 6: one order of checks, the first that fails counts, and nothing but plaintexts and chain is looked at."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, field, replace

import pytest

from crypto.blobs import (
    MAX_VALUES,
    AnchorProof,
    SetEntry,
    SetPlain,
    UpdatePlain,
    dataset_root,
    encode_set,
    encode_update,
)
from crypto.commitments import ConsentOpening
from crypto.digest import ZERO, Digest, hash_words
from crypto.merkle import AnchorTree
from node.records import Anchored, FormRegistered, Granted, Position, Withdrawn
from node.round import Seal
from node.validity import CHECKS, Case, Code, Verdict, code_of, judge, pack_codes

ROUND, STUDY, FORM = hash_words("test", 1), hash_words("test", 2), hash_words("test", 3)
MEMBER, P, BOUND, RECORDS = 2, 5, 1000, 3
OPEN, SEAL = Position(100, 4), Position(120, 0)
SEAL_TIME = 5_000


def check_values(data: bytes, count: int, bound: int) -> Code | None:
    assert len(data) == 4 * count
    values = [int.from_bytes(data[4 * i : 4 * i + 4], "little", signed=True) for i in range(count)]
    return Code.RANGE if any(abs(value) > bound for value in values) else None


@dataclass
class Consents:
    """The chain's records, as dictionaries."""

    grants: dict[Digest, tuple[Granted, Position]] = field(default_factory=dict)
    anchors: dict[Digest, tuple[Anchored, Position]] = field(default_factory=dict)
    forms: dict[Digest, tuple[FormRegistered, Position]] = field(default_factory=dict)
    withdrawals: dict[Digest, tuple[Withdrawn, Position]] = field(default_factory=dict)

    def grant(self, consent_id: Digest) -> tuple[Granted, Position] | None:
        return self.grants.get(consent_id)

    def anchor(self, root: Digest) -> tuple[Anchored, Position] | None:
        return self.anchors.get(root)

    def form(self, form_id: Digest) -> tuple[FormRegistered, Position] | None:
        return self.forms.get(form_id)

    def withdrawal(self, consent_id: Digest) -> tuple[Withdrawn, Position] | None:
        return self.withdrawals.get(consent_id)


def opening(i: int) -> ConsentOpening:
    words = [hash_words("secret", i, k) for k in range(4)]
    return ConsentOpening(bytes([i + 1]) * 20, words[0], words[1], words[2], words[3])


def entry(i: int, role: int = 1, records: int = RECORDS, anchor: AnchorProof | None = None) -> SetEntry:
    o = opening(i)
    salt = hash_words("salt", i)
    return SetEntry(o.leaf_key, salt, role, records, o.consent_id, o.holder, o.holder_salt, o.doc_commit, FORM, anchor)


class Scene:
    """A valid contribution of 6 consents, 4 to train on; a test bends one thing."""

    def __init__(self) -> None:
        self.entries = sorted((entry(i, role=1 if i < 4 else 2) for i in range(6)), key=lambda e: e.leaf_key)
        self.update = UpdatePlain(ROUND, MEMBER, 4 * RECORDS, ZERO, ZERO, b"{}", b"\x01\x00\x00\x00" * P)
        self.consents = Consents()
        form = FormRegistered(FORM, STUDY, 1, ZERO, 1, 1, SEAL_TIME + 1, 1)
        self.consents.forms[FORM] = form, Position(1, 0)
        for one in self.entries:
            self.consents.grants[one.consent_id] = Granted(one.consent_id, FORM, MEMBER), Position(50, 0)
        self.set = SetPlain(ROUND, MEMBER, ZERO, tuple(self.entries))
        self.case = Case(
            ROUND, MEMBER, STUDY, dataset_root(self.entries), P, BOUND, 6, RECORDS, OPEN, Seal(SEAL, SEAL_TIME)
        )

    def judge(self) -> Verdict:
        return judge(self.case, encode_update(self.update), encode_set(self.set), self.consents, check_values)

    def with_entries(self, entries: list[SetEntry]) -> None:
        self.entries = sorted(entries, key=lambda e: e.leaf_key)
        self.set = replace(self.set, entries=tuple(self.entries))
        self.case = replace(self.case, dataset_root=dataset_root(self.entries))

    @property
    def one(self) -> Digest:
        return self.entries[0].consent_id


def test_a_valid_contribution_counts_its_records() -> None:
    assert Scene().judge() == Verdict(Code.VALID, 4 * RECORDS, "valid")


def test_the_table_is_in_the_order_of_the_codes_and_has_them_all() -> None:
    assert [code for code, _ in CHECKS] == [code for code in Code if code is not Code.VALID]
    assert max(Code) <= 15


@pytest.mark.parametrize("which", ["update", "set"])
def test_bad_seal_a_blob_that_does_not_open(which: str) -> None:
    s = Scene()
    update = None if which == "update" else encode_update(s.update)
    set_ = None if which == "set" else encode_set(s.set)
    assert judge(s.case, update, set_, s.consents, check_values).code is Code.BAD_SEAL


def test_header_another_round_or_member_is_a_copy() -> None:
    for change in ({"round_id": STUDY}, {"member": MEMBER + 1}):
        s = Scene()
        s.update = replace(s.update, **change)
        assert s.judge().code is Code.HEADER
        s = Scene()
        s.set = replace(s.set, **change)
        assert s.judge().code is Code.HEADER


@pytest.mark.parametrize("cut", [0, 1, 15, 100])
def test_header_a_plaintext_that_is_not_in_its_format(cut: int) -> None:
    s = Scene()
    update, set_ = encode_update(s.update), encode_set(s.set)
    assert judge(s.case, update[:cut], set_, s.consents, check_values).code is Code.HEADER
    assert judge(s.case, update, set_[:cut], s.consents, check_values).code is Code.HEADER
    assert judge(s.case, update, set_ + b"x", s.consents, check_values).code is Code.HEADER


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"[]",
        b"1",
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":NaN}',
        b'{"a":1,"a":1}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b"\xff",
        b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
)
def test_header_metrics_that_are_no_canonical_json_object(metrics: bytes) -> None:
    s = Scene()
    s.update = replace(s.update, metrics=metrics)
    assert s.judge().code is Code.HEADER


def test_shape_another_number_of_integers() -> None:
    s = Scene()
    s.update = replace(s.update, values=s.update.values + bytes(4))
    assert s.judge().code is Code.SHAPE


def test_shape_integers_that_are_not_packed_the_one_way() -> None:
    s = Scene()
    update, set_ = encode_update(s.update), encode_set(s.set)
    for bent in (update[:-1], update + b"x", update[: -P - 1] + b"\x02" + b"\x01\x00" * P):
        assert judge(s.case, bent, set_, s.consents, check_values).code is Code.SHAPE


def test_shape_is_asked_before_anything_is_unpacked() -> None:
    s = Scene()
    zeros = encode_update(replace(s.update, values=b""))[:-8] + MAX_VALUES.to_bytes(8, "big") + bytes(MAX_VALUES // 256)
    tracemalloc.start()
    try:
        assert judge(s.case, zeros, encode_set(s.set), s.consents, check_values).code is Code.SHAPE
        assert tracemalloc.get_traced_memory()[1] < 4 * len(zeros), "512 MiB of integers were announced in 512 KiB"
    finally:
        tracemalloc.stop()


def test_range_an_integer_beyond_the_bound() -> None:
    for value, code in ((BOUND, Code.VALID), (-BOUND, Code.VALID), (BOUND + 1, Code.RANGE), (-(2**31), Code.RANGE)):
        s = Scene()
        s.update = replace(s.update, values=s.update.values[4:] + value.to_bytes(4, "little", signed=True))
        assert s.judge().code is code


def test_tree_leaves_that_do_not_lead_to_the_committed_root() -> None:
    s = Scene()
    s.case = replace(s.case, dataset_root=STUDY)
    assert s.judge().code is Code.TREE


@pytest.mark.parametrize("order", [[1, 0, 2, 3, 4, 5], [0, 0, 1, 2, 3, 4]])
def test_tree_leaves_out_of_order_or_repeated(order: list[int]) -> None:
    s = Scene()
    plain, size = encode_set(s.set), len(encode_set(replace(s.set, entries=s.set.entries[:1])))
    head = len(encode_set(replace(s.set, entries=())))
    leaf = size - head
    leaves = [plain[head + leaf * i : head + leaf * (i + 1)] for i in range(6)]
    bent = plain[:head] + b"".join(leaves[i] for i in order)
    assert judge(s.case, encode_update(s.update), bent, s.consents, check_values).code is Code.TREE


def test_count_n_k_is_the_records_of_the_training_leaves() -> None:
    for records in (0, 4 * RECORDS - 1, 6 * RECORDS, 2**63):
        s = Scene()
        s.update = replace(s.update, records=records)
        assert s.judge().code is Code.COUNT
    empty = Scene()
    empty.update = replace(empty.update, records=0)
    empty.with_entries([])
    assert empty.judge().code is Code.COUNT


def test_consent_not_granted() -> None:
    s = Scene()
    del s.consents.grants[s.one]
    assert s.judge().code is Code.CONSENT


def test_consent_granted_after_the_snapshot() -> None:
    for position, code in ((OPEN, Code.VALID), (Position(100, 5), Code.CONSENT)):
        s = Scene()
        s.consents.grants[s.one] = s.consents.grants[s.one][0], position
        assert s.judge().code is code


def test_consent_granted_by_another_hospital_or_on_another_form() -> None:
    for change in ({"member": 1}, {"form_id": ROUND}):
        s = Scene()
        s.consents.grants[s.one] = replace(s.consents.grants[s.one][0], **change), Position(50, 0)
        assert s.judge().code is Code.CONSENT


def test_consent_whose_opening_is_another_ones() -> None:
    s = Scene()
    s.with_entries([replace(s.entries[0], holder=b"z" * 20), *s.entries[1:]])
    assert s.judge().code is Code.CONSENT


def test_consent_on_a_form_that_is_unknown_late_foreign_or_expired() -> None:
    form, registered = Scene().consents.forms[FORM]
    bent = [
        None,
        (form, Position(100, 5)),
        (replace(form, study=ROUND), registered),
        (replace(form, valid_to=SEAL_TIME), registered),
    ]
    for found in bent:
        s = Scene()
        s.consents.forms = {} if found is None else {FORM: found}
        assert s.judge().code is Code.CONSENT


def test_consent_withdrawn_at_or_before_the_seal_and_not_after() -> None:
    for position, code in ((Position(119, 9), Code.CONSENT), (SEAL, Code.CONSENT), (Position(120, 1), Code.VALID)):
        s = Scene()
        s.consents.withdrawals[s.one] = Withdrawn(s.one, SEAL_TIME), position
        assert s.judge().code is code


def test_consent_withdrawn_by_a_seal_that_is_a_deadline() -> None:
    for at, code in ((SEAL_TIME, Code.CONSENT), (SEAL_TIME + 1, Code.VALID)):
        s = Scene()
        s.case = replace(s.case, seal=Seal(None, SEAL_TIME))
        s.consents.withdrawals[s.one] = Withdrawn(s.one, at), Position(500, 0)
        assert s.judge().code is code


def anchored(s: Scene, *, count: int = 32, index: int | None = None) -> None:
    ids = [e.consent_id for e in s.entries] + [hash_words("dummy", i) for i in range(26)]
    tree = AnchorTree(ids)
    s.consents.grants.clear()
    s.consents.anchors[tree.root] = Anchored(STUDY, FORM, MEMBER, count, (tree.root,)), Position(50, 0)
    proofs = [AnchorProof(tree.root, i if index is None else index, tree.prove(i)) for i in range(6)]
    s.with_entries([replace(e, anchor=proof) for e, proof in zip(s.entries, proofs, strict=True)])


def test_consent_proven_by_an_anchor() -> None:
    s = Scene()
    anchored(s)
    assert s.judge().code is Code.VALID
    root = next(iter(s.consents.anchors))
    s.consents.anchors[root] = replace(s.consents.anchors[root][0], member=1), Position(50, 0)
    assert s.judge().code is Code.CONSENT


def test_consent_with_a_bad_path_a_wrong_count_or_an_unknown_anchor() -> None:
    for bend in ({"index": 7}, {"count": 64}):
        s = Scene()
        anchored(s, **bend)
        assert s.judge().code is Code.CONSENT
    s = Scene()
    anchored(s)
    s.consents.anchors.clear()
    assert s.judge().code is Code.CONSENT


def test_consent_in_a_replay_counts_only_if_granted_by_the_original_opening() -> None:
    s = Scene()
    s.case = replace(s.case, original=Position(50, 0))
    assert s.judge().code is Code.VALID
    s.case = replace(s.case, original=Position(49, 9))
    assert s.judge().code is Code.CONSENT
    s.case = replace(s.case, original=Position(999, 0), snapshot=Position(49, 0))
    assert s.judge().code is Code.CONSENT


def test_policy_too_few_consents_or_too_many_records_of_one() -> None:
    s = Scene()
    s.case = replace(s.case, min_consents=7)
    assert s.judge().code is Code.POLICY
    s = Scene()
    s.case = replace(s.case, max_records_per_consent=RECORDS - 1)
    assert s.judge().code is Code.POLICY


def test_the_first_failing_check_counts_whatever_else_fails() -> None:
    s = Scene()
    s.case = replace(s.case, min_consents=99)
    expected = [Code.POLICY]
    assert s.judge().code is expected[-1]
    s.consents.withdrawals[s.one] = Withdrawn(s.one, 0), Position(1, 0)
    assert s.judge().code is Code.CONSENT
    s.update = replace(s.update, records=1)
    assert s.judge().code is Code.COUNT
    s.case = replace(s.case, dataset_root=ZERO)
    assert s.judge().code is Code.TREE
    s.update = replace(s.update, values=b"\xff\xff\xff\x7f" * P)
    assert s.judge().code is Code.RANGE
    s.update = replace(s.update, values=s.update.values[4:])
    assert s.judge().code is Code.SHAPE
    s.update = replace(s.update, member=0)
    assert s.judge().code is Code.HEADER


def test_no_reason_names_a_consent() -> None:
    s = Scene()
    del s.consents.grants[s.one]
    assert s.one.hex() not in s.judge().why


def test_codes_are_packed_four_bits_a_member() -> None:
    packed = pack_codes({0: 0, 2: 7, 31: 8})
    assert packed == 7 << 8 | 8 << 124
    assert [code_of(packed, m) for m in (0, 1, 2, 31)] == [Code.VALID, Code.VALID, Code.CONSENT, Code.POLICY]
