"""Rosters, scribes, accumulators and the registry: the same numbers as contracts/libraries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.digest import ZERO, Digest, hash_words, keccak256, tag
from node.errors import LedgerError
from node.membership import (
    MembershipRecord,
    Registry,
    accumulate,
    available,
    bitmap_of,
    faults,
    holders,
    least_included,
    members_of,
    quorum,
    record_hash,
    scribes,
    slack,
)
from node.records import (
    AuditorEnded,
    AuditorSeated,
    ErasureClosed,
    MemberAdmitted,
    MemberRecovered,
    MemberRemoved,
    MemberRevoked,
    MemberRotated,
    PurgesAttested,
    VerdictsGiven,
    Withdrawn,
)

STUDY, OTHER = hash_words("test", 1), hash_words("test", 2)


def admitted(index: int, epoch: int = 0) -> MemberAdmitted:
    return MemberAdmitted(index, bytes([index]) * 20, b"peer" + bytes([index]), bytes([index]) * 32, f"h{index}", epoch)


def seated(seat: int, study: Digest = ZERO, term_end: int = 100, epoch: int = 0) -> AuditorSeated:
    return AuditorSeated(seat, b"a" * 20, b"auditor", b"k" * 32, "auditor", study, term_end, epoch)


# --- rosters


@pytest.mark.parametrize(
    "n, f, q, silent, needed",
    [
        (2, 0, 2, 0, 2),
        (3, 0, 2, 1, 2),
        (4, 1, 3, 1, 2),
        (5, 1, 4, 1, 2),
        (6, 1, 4, 1, 2),
        (7, 2, 5, 2, 3),
        (10, 3, 7, 3, 4),
    ],
)
def test_the_numbers_of_a_roster(n: int, f: int, q: int, silent: int, needed: int) -> None:
    assert (faults(n, 10), quorum(n, f), slack(n, f), holders(f)) == (f, q, silent, needed)
    assert least_included(n, f, 0) == n - silent
    assert least_included(n, f, 2) == 2


@given(st.integers(1, 32), st.integers(0, 12))
def test_two_quorums_share_an_honest_member_and_the_honest_form_one(n: int, wished: int) -> None:
    f = faults(n, wished)
    q = quorum(n, f)
    assert 2 * q - n > f
    assert n - f >= q
    assert n - slack(n, f) >= q


@given(st.sets(st.integers(0, 31)))
def test_bitmaps_and_members_are_the_same_set(members: set[int]) -> None:
    assert list(members_of(bitmap_of(members))) == sorted(members)


def test_available_is_what_enough_haves_name_within_the_sealed_set() -> None:
    assert available([0b0111, 0b1011, 0b10000], 0b01111, 1) == 0b0011
    assert available([0b0001], 0b0001, 0) == 0, "one holder alone is never enough"
    assert available([], 0b1111, 1) == 0


def test_the_scribe_rotates_over_members_that_are_not_suspended() -> None:
    assert [scribes(0b1111, 0b0010, height)[0] for height in range(6)] == [0, 2, 3, 0, 2, 3]
    assert scribes(0b1111, 0b0010, 1) == (2, 3, 0, 1)
    assert scribes(0b11, 0b11, 1) == (1, 0)
    assert scribes(0, 0, 5) == ()


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_everybody_of_the_roster_has_one_place_in_the_order(roster: int, suspended: int, height: int) -> None:
    assert sorted(scribes(roster, suspended, height)) == list(members_of(roster))


# --- accumulators


def test_a_record_hash_is_the_abi_encoding_under_its_own_tag_with_dynamic_fields_hashed() -> None:
    record = admitted(3, 7)
    words = [
        (3).to_bytes(32, "big"),
        bytes(12) + record.ledger,
        keccak256(record.peer_id),
        record.sealing_key,
        keccak256(b"h3"),
        (7).to_bytes(32, "big"),
    ]
    assert record_hash(record) == keccak256(tag("record-member-admitted") + b"".join(words))


def test_lists_and_long_names_are_hashed_as_solidity_has_them() -> None:
    confirmed = VerdictsGiven(STUDY, 2, OTHER, 3, 1)
    assert record_hash(confirmed) == hash_words("record-verdicts-given", STUDY, 2, OTHER, 3, 1)
    purged = PurgesAttested(STUDY, 5, (OTHER, STUDY))
    assert record_hash(purged) == hash_words("record-purges-attested", STUDY, 5, keccak256(OTHER + STUDY))
    assert record_hash(ErasureClosed(STUDY, 5)) == hash_words("record-erasure-closed", STUDY, 5)


def test_an_accumulator_depends_on_every_record_and_on_their_order() -> None:
    a, b = Withdrawn(STUDY, 1), Withdrawn(OTHER, 2)
    assert accumulate(ZERO, a) == keccak256(ZERO + record_hash(a))
    chains = {accumulate(accumulate(ZERO, a), b), accumulate(accumulate(ZERO, b), a), accumulate(ZERO, a)}
    assert len(chains) == 3


# --- registry


def test_the_registry_folds_members_and_auditors_in_order() -> None:
    registry = Registry()
    records = [
        admitted(0),
        admitted(1),
        seated(0, STUDY),
        admitted(2, 1),
        MemberRemoved(1, 2),
        seated(1, term_end=50, epoch=3),
    ]
    expected = ZERO
    for record in records:
        registry.apply(record)
        expected = accumulate(expected, record)
    assert registry.accumulator == expected
    assert registry.epoch == 3
    assert registry.active == 0b101
    assert registry.members[1].removed == 2
    assert [a.seat for a in registry.auditors_of(STUDY, 49)] == [0, 1]
    assert [a.seat for a in registry.auditors_of(OTHER, 49)] == [1]
    assert [a.seat for a in registry.auditors_of(STUDY, 50)] == [0], "a term ends at its second, as the contract has it"
    assert [a.seat for a in registry.auditors_of(STUDY, 100)] == []


def test_a_founding_auditors_seat_has_no_end() -> None:
    registry = Registry()
    registry.apply(seated(0, term_end=0))
    assert [a.seat for a in registry.auditors_of(STUDY, 2**40)] == [0]


def test_members_are_found_by_key_while_active() -> None:
    registry = Registry()
    for record in (admitted(0), admitted(1), seated(0)):
        registry.apply(record)
    one = registry.member_of_ledger(admitted(1).ledger)
    assert one is not None
    assert one.index == 1
    assert registry.member_of_peer(admitted(1).peer_id) == one
    assert registry.auditor_of_peer(b"auditor", 99) is not None
    assert registry.auditor_of_peer(b"auditor", 100) is None
    registry.apply(MemberRemoved(1, 1))
    assert registry.member_of_ledger(admitted(1).ledger) is None
    assert registry.member_of_peer(admitted(1).peer_id) is None


@pytest.mark.parametrize(
    "record, why",
    [
        (admitted(0, 1), "index 0 is admitted, 1 is next"),
        (admitted(2, 1), "index 2 is admitted, 1 is next"),
        (MemberRemoved(4, 1), "member 4 is removed"),
        (seated(3, epoch=1), "seat 3 is given, 0 is next"),
        (admitted(1, 0), "epoch 0 comes after epoch 1"),
    ],
)
def test_records_that_membership_cannot_have_emitted_are_refused_and_change_nothing(
    record: MemberAdmitted | MemberRemoved | AuditorSeated, why: str
) -> None:
    registry = Registry()
    registry.apply(admitted(0, 1))
    before = registry.accumulator
    with pytest.raises(LedgerError, match=why):
        registry.apply(record)
    assert (registry.accumulator, registry.active, registry.auditors) == (before, 1, {})


def test_an_index_is_never_given_again() -> None:
    registry = Registry()
    for record in (admitted(0), MemberRemoved(0, 1)):
        registry.apply(record)
    with pytest.raises(LedgerError):
        registry.apply(admitted(0, 2))
    with pytest.raises(LedgerError, match="no active member"):
        registry.apply(MemberRemoved(0, 2))


def keyed(index: int, name: bytes, epoch: int, at: int) -> MemberRotated:
    return MemberRotated(index, name * 20, b"peer" + name, name * 32, at, epoch)


def recovered(index: int, name: bytes, epoch: int, at: int) -> MemberRecovered:
    return MemberRecovered(index, name * 20, b"peer" + name, name * 32, at, epoch)


def test_rounds_are_decided_with_the_keys_of_their_opening_but_a_revocation_is_at_once() -> None:
    registry = Registry()
    for record in (admitted(0, 1), admitted(1, 1), keyed(0, b"A", 2, at=100)):
        registry.apply(record)
    first, second, third = admitted(0).ledger, b"A" * 20, b"B" * 20
    assert registry.ledgers_of_round(0, 100, None) == (first,), "opened in the second of the rotation"
    assert registry.ledgers_of_round(0, 101, None) == (second,)
    assert registry.ledgers_of_round(9, 101, None) == ()
    registry.apply(MemberRevoked(0, 150, 3))
    assert registry.ledgers_of_round(0, 101, None) == ()
    assert registry.ledgers_of_round(0, 101, 140) == (second,), "what it said before stands"
    assert registry.ledgers_of_round(0, 50, 140) == (first, second)
    assert registry.active == 2
    registry.apply(recovered(0, b"B", 4, at=160))
    assert registry.ledgers_of_round(0, 101, None) == (third,), "in the round that was open all the while"
    assert registry.ledgers_of_round(0, 151, 155) == ()
    assert registry.members[0].ledgers() == (third, first), "the key that was taken away speaks no more"
    assert registry.members[0].ledgers(past=True) == (third, second, first)
    assert registry.active == 3


def test_after_a_revocation_every_open_round_takes_the_newest_keys() -> None:
    registry = Registry()
    for record in (admitted(0, 1), admitted(1, 1), admitted(2, 1), keyed(0, b"A", 2, at=100), MemberRevoked(1, 110, 3)):
        registry.apply(record)
    assert registry.ledgers_of_round(0, 50, None) == (b"A" * 20,)


def test_a_rotated_members_past_is_found_by_epoch_and_its_peer_id_changes() -> None:
    registry = Registry()
    for record in (admitted(0, 1), admitted(1, 1), keyed(0, b"A", 5, at=100)):
        registry.apply(record)
    member = registry.members[0]
    assert [member.ledger_at(epoch) for epoch in (0, 1, 4, 5)] == [None, bytes(20), bytes(20), b"A" * 20]
    assert registry.member_of_peer(b"peerA") == member
    assert registry.member_of_peer(b"peer\0") is None


@pytest.mark.parametrize(
    "record",
    [
        keyed(5, b"A", 2, 1),
        recovered(5, b"A", 2, 1),
        MemberRevoked(5, 1, 2),
        AuditorEnded(0, 1, 2),
    ],
)
def test_changes_of_who_is_not_there_are_refused(record: MembershipRecord) -> None:
    registry = Registry()
    registry.apply(admitted(0, 1))
    with pytest.raises(LedgerError):
        registry.apply(record)
    assert registry.epoch == 1
