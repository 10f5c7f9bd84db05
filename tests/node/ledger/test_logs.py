"""Anchors of members' own logs, on every ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.keys import LedgerKey
from crypto.statements import AnchorLog
from node.errors import CallReverted
from node.history import History
from node.membership import Registry
from node.records import LogAnchored, LogAnchoring
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import World, one_of, word


def registry(world: World) -> Registry:
    history = History()
    history.apply_all(world.logged())
    return history.registry


def log_anchoring(world: World, member: int, root: str, entries: int) -> LogAnchoring:
    statement = AnchorLog(member, word(root), entries)
    return LogAnchoring(member, word(root), entries, world.sign(member, statement))


def test_a_member_anchors_its_log_segment_by_segment(make_world: WorldMaker) -> None:
    world = make_world(3)
    epoch = registry(world).epoch
    first = one_of(world.send(log_anchoring(world, 1, "first", 7)), LogAnchored)
    assert first == LogAnchored(1, word("first"), 7)
    assert one_of(world.send(log_anchoring(world, 1, "second", 8)), LogAnchored).entries == 8
    assert one_of(world.send(log_anchoring(world, 2, "of another", 1)), LogAnchored).member == 2
    found = registry(world)
    assert found.accumulator == world.ledger.accumulators()[0]
    assert found.logged == {1: 8, 2: 1}
    assert found.epoch == epoch  # votes on their way are not voided


@pytest.mark.parametrize("entries", [0, 6, 7])
def test_an_anchor_names_more_entries_than_the_one_before(make_world: WorldMaker, entries: int) -> None:
    """So nobody can post an anchor again."""
    world = make_world(2)
    world.send(log_anchoring(world, 0, "first", 7))
    with pytest.raises(CallReverted) as refused:
        world.send(log_anchoring(world, 0, "first" if entries == 7 else "other", entries))
    assert refused.value.error == "LogNotLonger"
    assert refused.value.operands == {"member": 0, "entries": entries, "anchored": 7}


def test_only_the_member_itself_anchors_its_log(make_world: WorldMaker) -> None:
    world = make_world(2)
    honest = log_anchoring(world, 0, "first", 7)
    forged = replace(honest, signature=world.sign(1, AnchorLog(0, word("first"), 7)))
    for call, error in (
        (forged, "BadSignature"),
        (replace(honest, entries=8), "BadSignature"),
        (replace(honest, root=word("other")), "BadSignature"),
        (replace(honest, member=1), "BadSignature"),
        (replace(honest, member=2), "NotActive"),
        (replace(honest, member=400), "NotActive"),
    ):
        with pytest.raises(CallReverted) as refused:
            world.send(call)
        assert refused.value.error == error
    assert world.all(LogAnchored) == []


def test_a_revoked_member_anchors_nothing_and_goes_on_counting_with_its_new_key(make_world: WorldMaker) -> None:
    world = make_world(4)
    world.send(log_anchoring(world, 3, "first", 7))
    world.send(world.revocation(3, [0, 1, 2], 1))
    with pytest.raises(CallReverted) as refused:
        world.send(log_anchoring(world, 3, "second", 9))
    assert refused.value.error == "NotActive"
    key = LedgerKey.generate()
    world.send(world.recovery(3, key, [0, 1, 2], 2))
    world.keys[3] = key
    with pytest.raises(CallReverted) as shorter:
        world.send(log_anchoring(world, 3, "again", 7))
    assert shorter.value.error == "LogNotLonger"
    assert one_of(world.send(log_anchoring(world, 3, "second", 9)), LogAnchored).entries == 9
