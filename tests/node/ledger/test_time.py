"""Time on every ledger: the block's stamp and nothing else; the transaction that acts on a deadline enforces it."""

from __future__ import annotations

import pytest

from node.errors import CallReverted, NotFound
from node.memory.rounds import Phase
from node.records import RoundFailed, RoundFailure, RoundOpened
from tests.node.ledger.world import World, one_of


def test_the_head_says_at_least_what_the_next_block_is_stamped_with(world: World) -> None:
    world.advance(1_000)
    promised = world.ledger.head()
    assert promised.time >= promised.timestamp + 1_000
    _, opened = world.study()
    assert opened.opened_at >= promised.time


def test_stamps_never_go_back_and_follow_the_clock(world: World) -> None:
    _, opened = world.study(scribe_seconds=1_000)
    world.commit(opened.round_id, [0])
    first = world.ledger.head().timestamp
    world.advance(500)
    world.commit(opened.round_id, [0])
    assert world.ledger.head().timestamp >= first + 500
    stamps = [one.timestamp for one in world.logged()]
    assert stamps == sorted(stamps)


def test_a_deadline_passes_on_a_quiet_chain(world: World) -> None:
    """No block is made between the last commitment and the failure: the acting transaction brings the time."""
    _, opened = world.study()
    world.commit(opened.round_id, [0])
    before = world.ledger.head()
    world.pass_time(opened.opened_at + 120)
    assert world.ledger.head().number == before.number
    assert world.ledger.head().timestamp <= opened.opened_at + 120
    sent = world.ledger.send(RoundFailure(opened.study, opened.round_id))
    assert one_of(sent, RoundFailed).reason == 1
    assert sent.block == before.number + 1


def test_a_call_before_its_time_is_refused_with_the_phase(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0])
    with pytest.raises(CallReverted) as early:
        world.send(RoundFailure(opened.study, opened.round_id))
    assert early.value.error == "WrongPhase"
    assert early.value.operands == {"roundId": opened.round_id, "phase": Phase.TRAINING, "attempt": 0}
    assert "WrongPhase" in early.value.message
    assert "0x" + opened.round_id.hex() in early.value.message


def test_a_round_of_yesterday_is_judged_by_the_stamp_of_today(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    world.advance(86_400)
    with pytest.raises(CallReverted) as late:
        world.send(world.finalisation(opened.round_id, 0, 15, world.result(opened.round_id, 15), [0, 1, 2]))
    assert late.value.operands["phase"] == Phase.FAILED
    sent = world.send(RoundFailure(opened.study, opened.round_id))
    assert one_of(sent, RoundOpened).opened_at == world.ledger.head().timestamp


def test_records_are_read_by_block_ranges_in_order(world: World) -> None:
    world.study()
    everything = world.logged()
    head = world.ledger.head()
    assert [one.position for one in everything] == sorted(one.position for one in everything)
    piecewise = [
        one for block in range(world.first_block, head.number + 1) for one in world.ledger.records(block, block)
    ]
    assert piecewise == everything
    assert all(one.block_hash == world.ledger.block_hash(one.position.block) for one in everything)
    assert list(world.ledger.records(head.number + 1, head.number + 100)) == []
    assert list(world.ledger.records(5, 4)) == []


def test_a_block_that_is_not_there_is_not_found(world: World) -> None:
    head = world.ledger.head()
    assert world.ledger.block_hash(head.number) == head.block_hash
    with pytest.raises(NotFound):
        world.ledger.block_hash(head.number + 1)


def test_the_records_of_a_call_are_the_records_of_its_block(world: World) -> None:
    _, opened = world.study()
    sent = world.commit(opened.round_id, [0, 1])
    logged = world.ledger.records(sent.block, sent.block)
    assert tuple(one.record for one in logged) == sent.records
    assert {one.transaction for one in logged} == {sent.transaction}
