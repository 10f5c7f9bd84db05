"""Membership's rules, on every ledger."""

from __future__ import annotations

import pytest

from crypto.keys import LedgerKey
from crypto.statements import Remove
from node.errors import CallReverted
from node.membership import Registry, accumulate
from node.records import (
    ZERO,
    Admission,
    AuditorSeated,
    MemberAdmitted,
    MemberRemoved,
    Removal,
)
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import JUNK, World, kinds, one_of


def test_the_founding_is_recorded_in_index_order_at_epoch_one(world: World) -> None:
    records = [one.record for one in world.logged()]
    assert [type(one) for one in records] == [MemberAdmitted] * 4 + [AuditorSeated]
    assert [one.ledger for one in records] == [key.address for key in (*world.keys, *world.auditors)]
    assert {one.epoch for one in records} == {1}


def test_the_accumulator_follows_from_the_records(world: World) -> None:
    registry = Registry()
    for record in (one.record for one in world.logged()):
        registry.apply(record)
    assert world.ledger.accumulators() == (registry.accumulator, ZERO, ZERO)


def test_a_quorum_admits_a_member_and_the_epoch_moves_on(world: World) -> None:
    key = LedgerKey.generate()
    before = world.ledger.accumulators()[0]
    admitted = one_of(world.send(world.admission(key, [0, 1, 3], epoch=1)), MemberAdmitted)
    assert (admitted.index, admitted.ledger, admitted.epoch) == (4, key.address, 2)
    assert world.ledger.accumulators()[0] == accumulate(before, admitted)


def test_votes_of_an_earlier_epoch_are_refused(world: World) -> None:
    world.send(world.admission(LedgerKey.generate(), [0, 1, 2], epoch=1))
    with pytest.raises(CallReverted) as refused:
        world.send(world.admission(LedgerKey.generate(), [0, 1, 2, 3], epoch=1))
    assert refused.value.error == "BadSignature"


def test_fewer_votes_than_the_quorum_are_refused_with_both_numbers(world: World) -> None:
    with pytest.raises(CallReverted) as refused:
        world.send(world.admission(LedgerKey.generate(), [0, 1], epoch=1))
    assert (refused.value.error, refused.value.operands) == ("QuorumNotReached", {"votes": 2, "needed": 3})


def test_a_bit_outside_the_members_is_refused(world: World) -> None:
    good = world.admission(LedgerKey.generate(), [0, 1, 2], epoch=1)
    with pytest.raises(CallReverted) as refused:
        world.send(Admission(good.seat, (*good.votes, (7, good.votes[0][1]))))
    assert (refused.value.error, refused.value.operands) == ("NotOnRoster", {"strangers": 1 << 7})


def test_a_malformed_vote_is_a_bad_signature(world: World) -> None:
    good = world.admission(LedgerKey.generate(), [0, 1, 2], epoch=1)
    with pytest.raises(CallReverted) as refused:
        world.send(Admission(good.seat, (*good.votes[:2], (2, JUNK))))
    assert refused.value.error == "BadSignature"
    assert refused.value.operands == {"member": 2, "expected": world.keys[2].address, "recovered": bytes(20)}


def test_an_applicant_must_have_signed_its_own_keys(world: World) -> None:
    good = world.admission(LedgerKey.generate(), [0, 1, 2], epoch=1)
    other = world.admission(LedgerKey.generate(), [0, 1, 2], epoch=1)
    seat = type(good.seat)(
        good.seat.ledger, good.seat.peer_id, good.seat.sealing_key, good.seat.name, other.seat.signature
    )
    with pytest.raises(CallReverted) as refused:
        world.send(Admission(seat, good.votes))
    assert refused.value.error == "SeatNotSigned"


def test_an_address_is_seated_once(world: World) -> None:
    with pytest.raises(CallReverted) as refused:
        world.send(world.admission(world.keys[0], [0, 1, 2], epoch=1))
    assert (refused.value.error, refused.value.operands) == ("LedgerTaken", {"ledger": world.keys[0].address})


def test_a_removed_member_keeps_its_index_and_has_no_vote(world: World) -> None:
    removal = Remove(1, 3, world.keys[3].address)
    sent = world.send(Removal(3, world.votes([0, 1, 2], removal)))
    assert sent.records == (MemberRemoved(3, 2),)
    with pytest.raises(CallReverted) as refused:
        world.send(world.admission(LedgerKey.generate(), [0, 1, 3], epoch=2))
    assert refused.value.error == "NotOnRoster"
    # Three remain: two equal votes decide.
    sent = world.send(world.admission(LedgerKey.generate(), [0, 1], epoch=2))
    assert one_of(sent, MemberAdmitted).index == 4
    with pytest.raises(CallReverted) as again:
        world.send(Removal(3, world.votes([0, 1, 2], Remove(3, 3, world.keys[3].address))))
    assert (again.value.error, again.value.operands) == ("NotActive", {"index": 3})


def test_two_members_remain_at_least(make_world: WorldMaker) -> None:
    world = make_world(2)
    with pytest.raises(CallReverted) as refused:
        world.send(Removal(1, world.votes([0, 1], Remove(1, 1, world.keys[1].address))))
    assert refused.value.error == "LastMembers"


def test_a_refused_call_leaves_no_trace(world: World) -> None:
    before = (world.logged(), world.ledger.accumulators())
    with pytest.raises(CallReverted):
        world.send(world.admission(LedgerKey.generate(), [0, 1], epoch=1))
    assert (world.logged(), world.ledger.accumulators()) == before
    # Nor is the applicant's address taken.
    key = LedgerKey.generate()
    with pytest.raises(CallReverted):
        world.send(world.admission(key, [0], epoch=1))
    assert kinds(world.send(world.admission(key, [0, 1, 2], epoch=1))) == ["MemberAdmitted"]
