"""Where a member is dialled, on every ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.keys import LedgerKey
from crypto.statements import Announce
from node.errors import CallReverted
from node.history import History
from node.membership import Registry
from node.records import AddressAnnounced, AddressAnnouncement
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import World, one_of

FIRST, SECOND = b"/dns4/one.example/tcp/41001", b"/ip6/2001:db8::1/tcp/41001"


def registry(world: World) -> Registry:
    history = History()
    history.apply_all(world.logged())
    return history.registry


def announcement(world: World, member: int, number: int, text: bytes) -> AddressAnnouncement:
    return AddressAnnouncement(member, number, text, world.sign(member, Announce(member, number, text)))


def test_the_newest_announcement_counts_and_changes_no_epoch(make_world: WorldMaker) -> None:
    world = make_world(3)
    before = registry(world)
    member = before.members[1]
    assert before.address_of(member, {member.peer_id: "there"}) == "there"  # the network's description, until it speaks
    assert one_of(world.send(announcement(world, 1, 1, FIRST)), AddressAnnounced) == AddressAnnounced(1, 1, FIRST)
    found = registry(world)
    assert found.address_of(member, {member.peer_id: "there"}) == FIRST.decode()
    assert found.address_of(found.members[2], {}) == ""
    assert found.epoch == before.epoch
    world.send(announcement(world, 1, 9, b""))  # it dials the others
    found = registry(world)
    assert found.address_of(member, {member.peer_id: "there"}) == ""
    assert found.accumulator == world.ledger.accumulators()[0]


@pytest.mark.parametrize("number", [0, 6, 7])
def test_an_announcement_carried_again_changes_nothing(make_world: WorldMaker, number: int) -> None:
    world = make_world(2)
    world.send(announcement(world, 0, 7, FIRST))
    with pytest.raises(CallReverted) as refused:
        world.send(announcement(world, 0, number, FIRST))
    assert refused.value.error == "AnnouncementNotNewer"
    assert refused.value.operands == {"member": 0, "number": number, "announced": 7}


def test_only_the_member_itself_says_where_it_is(make_world: WorldMaker) -> None:
    world = make_world(2)
    honest = announcement(world, 0, 1, FIRST)
    for call, error in (
        (replace(honest, signature=world.sign(1, Announce(0, 1, FIRST))), "BadSignature"),
        (replace(honest, number=2), "BadSignature"),
        (replace(honest, multiaddress=SECOND), "BadSignature"),
        (replace(honest, member=1), "BadSignature"),
        (replace(honest, member=2), "NotActive"),
        (replace(honest, multiaddress=bytes(257)), "AddressLength"),
    ):
        with pytest.raises(CallReverted) as refused:
            world.send(call)
        assert refused.value.error == error
    assert world.all(AddressAnnounced) == []


def test_an_address_stays_when_the_keys_change(make_world: WorldMaker) -> None:
    world = make_world(4)
    world.send(announcement(world, 3, 1, FIRST))
    world.send(world.recovery(3, LedgerKey.generate(), [0, 1, 2], 1))
    found = registry(world)
    assert found.address_of(found.members[3], {}) == FIRST.decode()


def test_bytes_that_are_no_text_stop_no_reader(make_world: WorldMaker) -> None:
    world = make_world(2)
    junk = b"/dns4/\xff\xfe\x1b[2J/tcp/1"
    assert one_of(world.send(announcement(world, 1, 1, junk)), AddressAnnounced).multiaddress == junk
    found = registry(world)
    assert found.address_of(found.members[1], {}) == "/dns4/???[2J/tcp/1"
    assert found.accumulator == world.ledger.accumulators()[0]
