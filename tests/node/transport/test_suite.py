"""What every transport promises, in process and over libp2p."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio

from crypto.digest import CHUNK_BYTES, ContentMap, Digest
from node.doors import Link, NotAPeer, PeerSilent, PeerUnreachable
from node.errors import PeerError
from node.messages import (
    Accepted,
    ChunkReply,
    GetChunk,
    GetKeys,
    GetMap,
    Hello,
    KeysReply,
    MapReply,
    Offer,
    Pull,
    Refusal,
    Welcome,
)
from node.pull import BadContent, ContentUnavailable, fetch_content
from node.wire import Unsendable, WireError

ROOT = Digest(bytes(range(32)))


def holder(content: bytes, spoil: int | None = None, asked: list[int] | None = None) -> Any:
    """Serves `content`; chunk `spoil` comes with one wrong byte."""
    digests = ContentMap.of(content)

    def part(index: int) -> bytes:
        data = bytearray(content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        if index == spoil:
            data[-1] ^= 1
        return bytes(data)

    async def handler(peer_id: bytes, request: Any) -> Any:
        match request:
            case Hello():
                return Welcome(0, "ok")
            case GetMap():
                return MapReply(digests.length, digests.digests, part(0))
            case GetChunk(index=index):
                if asked is not None:
                    asked.append(index)
                return ChunkReply(part(index))
        return Refusal("not-found", "")

    return handler


async def test_both_sides_ask_and_are_answered(network):
    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(request.block, "ok")
        return KeysReply((peer_id, request.member.to_bytes(2, "big")))

    one, two = network.make(1, handler), network.make(2, handler)
    await network.link(one, two)
    assert await one.request(two.peer_id, GetKeys(ROOT, 5, 0), 5) == KeysReply((one.peer_id, b"\x00\x05"))
    assert await two.request(one.peer_id, GetKeys(ROOT, 6, 0), 5) == KeysReply((two.peer_id, b"\x00\x06"))
    assert one.connected()[two.peer_id].last_seen is not None


async def test_a_refusal_is_a_reply(network):
    one, two = network.make(1), network.make(2)
    await network.link(one, two)
    assert await one.request(two.peer_id, Pull(ROOT), 5) == Refusal("not-found", "Pull")


async def test_many_requests_at_once_get_each_its_own_answer(network):
    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        await trio.lowlevel.checkpoint()
        return KeysReply((request.member.to_bytes(2, "big"),))

    one, two = network.make(1, handler), network.make(2, handler, requests_at_once=50)
    await network.link(one, two)
    answers: dict[int, Any] = {}

    async def ask(member: int) -> None:
        answers[member] = await one.request(two.peer_id, GetKeys(ROOT, member, 0), 10)

    async with trio.open_nursery() as nursery:
        for member in range(40):
            nursery.start_soon(ask, member)
    assert answers == {member: KeysReply((member.to_bytes(2, "big"),)) for member in range(40)}


async def test_a_host_outside_the_registry_gets_nowhere(network):
    heard: list[bytes] = []

    async def handler(peer_id, request):
        heard.append(peer_id)
        return Welcome(0, "ok")

    server, member, stranger = network.make(1, handler), network.make(2), network.make(3)
    addresses = await network.link(server, member)
    await network.start(stranger)
    stranger.set_allowed({server.peer_id: addresses[0]})
    await network.until(server, lambda: server.counters.strangers > 0)
    await network.until(stranger, lambda: stranger.connected()[server.peer_id].last_error is not None)
    assert stranger.peer_id not in heard
    assert stranger.peer_id not in server.connected()
    with pytest.raises(PeerUnreachable):
        await stranger.request(server.peer_id, Pull(ROOT), 1)
    assert await member.request(server.peer_id, Hello(1, bytes(20), 0), 5) == Welcome(0, "ok")


async def test_nobody_is_asked_who_is_not_allowed_or_not_there(network):
    one, two = network.make(1), network.make(2)
    await network.start(one)
    with pytest.raises(NotAPeer):
        await one.request(two.peer_id, Pull(ROOT), 1)
    one.set_allowed({two.peer_id: "", one.peer_id: ""})
    assert set(one.connected()) == {two.peer_id}
    with pytest.raises(PeerUnreachable):
        await one.request(two.peer_id, Pull(ROOT), 1)


async def test_a_handler_that_never_answers_costs_the_asker_its_timeout_and_no_more(network):
    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        await trio.sleep_forever()

    one, two = network.make(1), network.make(2, handler)
    await network.link(one, two)
    start = trio.current_time()
    with pytest.raises(PeerSilent, match="Pull"):
        await one.request(two.peer_id, Pull(ROOT), 0.2)
    assert trio.current_time() - start < 3
    await network.connected(one, two)  # heartbeats are answered, so the connection stays


async def test_a_handler_over_its_time_is_ended_and_refused_as_busy(network):
    ended = trio.Event()

    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    one, two = network.make(1), network.make(2, handler, handler_s=0.1)
    await network.link(one, two)
    reply = await one.request(two.peer_id, Pull(ROOT), 5)
    assert isinstance(reply, Refusal)
    assert reply.code == "busy"
    assert ended.is_set()


async def test_a_fault_in_our_handler_is_a_refusal_and_the_node_lives_on(network):
    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        if isinstance(request, Pull):
            raise PeerError("the secret of this house")
        return Accepted(1 << 40) if isinstance(request, Offer) else 1 / 0

    one, two = network.make(1), network.make(2, handler)
    await network.link(one, two)
    assert await one.request(two.peer_id, Pull(ROOT), 5) == Refusal("busy", "PeerError")
    assert await one.request(two.peer_id, GetMap(ROOT), 5) == Refusal("busy", "fault")
    assert (await one.request(two.peer_id, Offer(()), 5)).code == "busy"
    assert two.counters.failed == 3


async def test_more_requests_at_once_than_allowed_are_refused_as_busy(network):
    gate, waiting = trio.Event(), trio.Event()

    async def handler(peer_id, request):
        if isinstance(request, Pull):
            waiting.set()
            await gate.wait()
        return Welcome(0, "ok") if isinstance(request, Hello) else Refusal("not-found", "")

    # No heartbeat in between: it would take a place.
    one = network.make(1, heartbeat_s=60.0)
    two = network.make(2, handler, requests_at_once=1, heartbeat_s=60.0)
    await network.link(one, two)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.request, two.peer_id, Pull(ROOT), 10)
        await waiting.wait()
        reply = await one.request(two.peer_id, GetMap(ROOT), 5)
        assert (reply.code, two.counters.busy) == ("busy", 1)
        gate.set()


@pytest.mark.parametrize(
    "limits", [{"requests_per_s": 0.01, "request_burst": 3.0}, {"bytes_per_s": 1.0, "bytes_burst": 200.0}]
)
async def test_a_peer_over_its_rate_is_refused_as_busy(network, limits):
    one, two = network.make(1, heartbeat_s=60.0), network.make(2, heartbeat_s=60.0, **limits)
    await network.link(one, two)
    codes = [(await one.request(two.peer_id, Pull(ROOT), 5)).code for _ in range(8)]
    assert codes[0] == "not-found"
    assert codes[-1] == "busy"


async def test_what_breaks_the_format_is_not_sent(network):
    one, two = network.make(1), network.make(2)
    await network.link(one, two)
    with pytest.raises(Unsendable):
        await one.request(two.peer_id, GetKeys(ROOT, 1 << 16, 0), 5)


async def test_a_restarted_peer_is_connected_again_within_seconds(network):
    one, two = network.make(1), network.make(2)
    addresses = await network.link(one, two)
    await network.stop(two)
    await network.until(one, lambda: one.connected()[two.peer_id].state is not Link.CONNECTED)
    assert one.connected()[two.peer_id].last_error
    again = network.make(2, port=int(addresses[1].rsplit("/", 1)[1]) if network.kind == "libp2p" else 0)
    again.set_allowed({one.peer_id: ""})  # it does not dial: the survivor must
    start = trio.current_time()
    await network.start(again)
    await network.connected(one, again)
    await network.connected(again, one)
    assert trio.current_time() - start < 5
    assert await one.request(again.peer_id, Pull(ROOT), 5) == Refusal("not-found", "Pull")


async def test_a_request_under_way_ends_when_its_peer_goes(network):
    asked = trio.Event()

    async def handler(peer_id, request):
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        asked.set()
        await trio.sleep_forever()

    one, two = network.make(1), network.make(2, handler)
    await network.link(one, two)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises((PeerSilent, PeerUnreachable)):
                await one.request(two.peer_id, Pull(ROOT), 60)

        nursery.start_soon(ask)
        await asked.wait()
        start = trio.current_time()
        await network.stop(two)
    assert trio.current_time() - start < 10


async def test_a_deregistered_peer_is_dropped_and_gets_no_more_answers(network):
    one, two = network.make(1), network.make(2)
    addresses = await network.link(one, two)
    one.set_allowed({})
    await network.until(two, lambda: two.connected()[one.peer_id].state is not Link.CONNECTED)
    assert one.counters.dropped == 1
    with pytest.raises(NotAPeer):
        await one.request(two.peer_id, Pull(ROOT), 1)
    await network.until(one, lambda: one.counters.strangers > 0)  # it tries again, and is turned away
    with pytest.raises((PeerUnreachable, PeerSilent)):
        await two.request(one.peer_id, Pull(ROOT), 1)
    one.set_allowed({two.peer_id: addresses[1]})  # admitted again
    await network.connected(one, two)


async def test_a_peer_of_another_network_is_left_alone(network):
    async def strict(peer_id, request):
        return Refusal("wrong-network", "this is chain 31337")

    one, two = network.make(1), network.make(2, strict)
    address_one, address_two = await network.start(one), await network.start(two)
    one.set_allowed({two.peer_id: address_two})
    two.set_allowed({one.peer_id: address_one})
    await network.until(one, lambda: "another network" in (one.connected()[two.peer_id].last_error or ""))
    with pytest.raises(PeerUnreachable, match=r"another network|no connection"):
        await one.request(two.peer_id, Pull(ROOT), 1)


async def test_a_frozen_peer_is_dropped_by_its_missing_heartbeat(network):
    frozen = False

    async def handler(peer_id, request):
        if frozen:
            await trio.sleep_forever()
        return Welcome(0, "ok")

    one, two = network.make(1), network.make(2, handler, handler_s=math.inf)
    await network.link(one, two)
    frozen = True
    await network.until(one, lambda: one.connected()[two.peer_id].state is not Link.CONNECTED)
    await network.until(one, lambda: one.counters.frozen > 0)
    frozen = False
    await network.connected(one, two)


async def test_content_of_20_mb_is_pulled(network):
    content = bytes(range(256)) * 80_000 + b"tail"
    one, two = network.make(1), network.make(2, holder(content))
    await network.link(one, two)
    root = ContentMap.of(content).root("model")
    assert await fetch_content(one.request, root, "model", 1 << 25, [two.peer_id]) == content


async def test_a_bad_chunk_is_its_servers_fault_and_another_holder_gives_it(network):
    content = bytes(3 * CHUNK_BYTES + 5)
    liar, honest, me = network.make(1, holder(content, spoil=1)), network.make(2, holder(content)), network.make(3)
    await network.link(liar, honest, me)
    faults: dict[bytes, Exception] = {}
    got = await fetch_content(
        me.request,
        ContentMap.of(content).root("cipher"),
        "cipher",
        1 << 23,
        [liar.peer_id, honest.peer_id],
        fault=faults.__setitem__,
    )
    assert got == content
    assert list(faults) == [liar.peer_id]
    assert isinstance(faults[liar.peer_id], BadContent)


async def test_a_pull_goes_on_with_another_holder_when_one_goes_away(network):
    content = bytes(range(200)) * 40_000
    asked: list[int] = []
    first, second, me = network.make(1, holder(content, asked=asked)), network.make(2, holder(content)), network.make(3)
    await network.link(first, second, me)
    kept: dict[int, bytes] = {}

    async def ask(peer_id, request, timeout_s):
        if peer_id == first.peer_id and len(asked) >= 3:
            await network.stop(first) if not gone else None
            gone.append(True)
        return await me.request(peer_id, request, timeout_s)

    gone: list[bool] = []
    root = ContentMap.of(content).root("cipher")
    got = await fetch_content(ask, root, "cipher", 1 << 24, [first.peer_id, second.peer_id], save=kept.__setitem__)
    assert got == content
    assert b"".join(kept[index] for index in sorted(kept)) == content
    with pytest.raises(ContentUnavailable):
        await fetch_content(me.request, ROOT, "cipher", 1 << 24, [first.peer_id])


async def test_a_reply_of_another_kind_is_the_peers_fault(network):
    async def handler(peer_id, request):
        return Welcome(0, "ok")

    one, two = network.make(1), network.make(2, handler)
    await network.link(one, two)
    with pytest.raises(WireError, match="chunk or refusal expected, 'welcome' given"):
        await one.request(two.peer_id, GetChunk(ROOT, 0), 5)
