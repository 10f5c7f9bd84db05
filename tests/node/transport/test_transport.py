"""libp2p only: hostile and broken peers on real sockets, and what libp2p itself leaves open."""

from __future__ import annotations

import itertools
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from crypto.digest import Digest
from crypto.keys import PeerKey, peer_id_text
from node import transport as transport_module
from node.doors import Link, PeerUnreachable
from node.errors import InputError, LocalFault
from node.messages import Hello, Pull, Refusal, Welcome
from node.wire import MAX_REQUEST_BYTES, PROTOCOL, decode_reply, encode

ROOT = Digest(bytes(range(32)))


@asynccontextmanager
async def host(seed: int, plaintext: bool = False) -> AsyncIterator[Any]:
    """A bare libp2p host: whatever a registered peer with other software could be."""
    pair = create_new_key_pair(bytes([seed]) * 32)
    noise = Noise(pair, noise_privkey=create_new_noise_key_pair().private_key)
    security = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)} if plaintext else {NOISE_ID: noise}
    bare = new_host(key_pair=pair, sec_opt=security, muxer_opt={YAMUX_ID: Yamux})  # type: ignore[arg-type, dict-item]

    async def greet(stream: Any) -> None:
        while True:
            await stream.read(4096)
            await stream.write(frame(encode(Welcome(0, "ok"))))

    bare.set_stream_handler(PROTOCOL, greet)  # type: ignore[arg-type]
    async with bare.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield bare


async def dial(bare: Any, address: str, peer_id: bytes) -> Any:
    info = info_from_p2p_addr(Multiaddr(f"{address}/p2p/{peer_id_text(peer_id)}"))
    with trio.fail_after(10):
        await bare.connect(info)
    return info.peer_id


async def read_reply(stream: Any) -> Any:
    with trio.fail_after(10):
        head = b""
        while len(head) < 4:
            head += await stream.read(4 - len(head))
        size, body = int.from_bytes(head, "big"), b""
        while len(body) < size:
            body += await stream.read(size - len(body))
    return decode_reply(body, Pull(ROOT))


async def read_on(stream: Any) -> None:
    """Read until the other side ends the stream, which libp2p raises."""
    with trio.fail_after(10):
        while True:
            await stream.read(1024)


async def ends(stream: Any) -> None:
    """The other side ends the stream."""
    with pytest.raises(BaseLibp2pError):
        await read_on(stream)


async def closes(socket: trio.SocketStream) -> None:
    with trio.fail_after(10):
        try:
            while await socket.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.fixture
async def server(sockets: Any) -> Any:
    """A node (seed 1) that allows a member with seed 2; `.address`, `.heard` and `.gate` for the tests."""
    heard: list[Any] = []
    gate = trio.Event()

    async def handler(peer_id: bytes, request: Any) -> Any:
        if isinstance(request, Hello):
            return Welcome(0, "ok")
        heard.append(request)
        await gate.wait()
        return Refusal("not-found", "")

    made = sockets.make(1, handler, streams_per_peer=3)
    made.address = await sockets.start(made)
    made.heard, made.gate = heard, gate
    made.set_allowed({PeerKey(bytes([2]) * 32).peer_id: ""})
    return made


async def test_a_bare_host_of_a_member_is_served(server):
    server.gate.set()
    async with host(2) as bare:
        stream = await bare.new_stream(await dial(bare, server.address, server.peer_id), [PROTOCOL])
        await stream.write(frame(encode(Pull(ROOT))))
        assert await read_reply(stream) == Refusal("not-found", "")


async def test_a_bare_host_of_a_stranger_gets_no_stream(sockets, server):
    async with host(9) as bare:
        with pytest.raises((BaseLibp2pError, OSError)):  # at one of several places
            await bare.new_stream(await dial(bare, server.address, server.peer_id), [PROTOCOL])
        await sockets.until(server, lambda: server.counters.strangers > 0)
    assert server.heard == []


async def test_a_plaintext_dialer_is_refused_even_with_a_members_key(server):
    async with host(2, plaintext=True) as bare:
        with pytest.raises(Exception, match="unable to connect"):
            await dial(bare, server.address, server.peer_id)
    assert server.heard == []


async def test_raw_garbage_and_half_open_sockets_are_closed_and_cost_nobody_else(sockets, server, monkeypatch):
    monkeypatch.setattr(transport_module, "UPGRADE_S", 0.5)
    other = sockets.make(7)
    address = await sockets.start(other)
    port = int(address.rsplit("/", 1)[1])
    silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(30)]
    noisy = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
    for index, socket in enumerate(noisy):
        await socket.send_all(
            [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\x13/multistream/1.0.0\n", b"\n", bytes(64)][index]
        )
    server.set_allowed({other.peer_id: address})
    other.set_allowed({server.peer_id: ""})
    await sockets.connected(server, other)
    async with trio.open_nursery() as nursery:
        for socket in (*silent, *noisy):
            nursery.start_soon(closes, socket)
    assert other.connected()[server.peer_id].state is Link.CONNECTED


@pytest.mark.parametrize("size", [0, MAX_REQUEST_BYTES + 1, 0xFFFFFFFF])
async def test_a_length_over_the_cap_is_refused_before_anything_is_read(server, size):
    async with host(2) as bare:
        stream = await bare.new_stream(await dial(bare, server.address, server.peer_id), [PROTOCOL])
        await stream.write(size.to_bytes(4, "big"))
        reply = await read_reply(stream)
        assert reply.code == "malformed"
        assert f"{size} bytes announced" in reply.reason
        await ends(stream)
    assert server.counters.malformed == 1
    assert server.heard == []


async def test_a_frame_that_is_no_message_ends_its_stream(server):
    async with host(2) as bare:
        stream = await bare.new_stream(await dial(bare, server.address, server.peer_id), [PROTOCOL])
        await stream.write(frame(b"\x93\x02\xa4pull\xc0"))
        reply = await read_reply(stream)
        assert (reply.code, reply.reason) == ("malformed", "version: 1 expected, 2 given")
        await ends(stream)
    assert server.counters.malformed == 1


@pytest.mark.parametrize("start", [b"\x00", b"\x00\x00\x00\x20", b"\x00\x00\x00\x20\x93\x01"])
async def test_a_sender_that_dawdles_inside_a_frame_loses_its_stream(sockets, server, start):
    async with host(2) as bare:
        stream = await bare.new_stream(await dial(bare, server.address, server.peer_id), [PROTOCOL])
        await stream.write(start)
        await sockets.until(server, lambda: server.counters.slow == 1)
        await ends(stream)


async def test_streams_over_the_peers_share_are_reset(sockets, server):
    async with host(2) as bare:
        peer = await dial(bare, server.address, server.peer_id)
        server.gate.set()
        streams = [await bare.new_stream(peer, [PROTOCOL]) for _ in range(3)]
        with pytest.raises(BaseLibp2pError):
            await read_on(await bare.new_stream(peer, [PROTOCOL]))
        await sockets.until(server, lambda: server.counters.crowded == 1)
        await streams[0].write(frame(encode(Pull(ROOT))))
        assert await read_reply(streams[0]) == Refusal("not-found", "")


def muxer(bare: Any, peer: Any) -> Any:
    return bare.get_network().get_connections(peer)[0].muxed_conn


async def test_a_muxer_frame_longer_than_any_window_closes_the_connection(server):
    async with host(2) as bare:
        peer = await dial(bare, server.address, server.peer_id)
        stream = await bare.new_stream(peer, [PROTOCOL])
        conn = muxer(bare, peer)
        await conn._write_frame(struct.pack("!BBHII", 0, 0, 0, stream.muxed_stream.stream_id, 1 << 20))
        with trio.fail_after(10):
            await conn.event_closed.wait()


async def test_bytes_over_the_window_close_the_connection(sockets, server):
    async with host(2) as bare:
        peer = await dial(bare, server.address, server.peer_id)
        stream = await bare.new_stream(peer, [PROTOCOL])
        await stream.write(frame(encode(Pull(ROOT))))  # is being handled: nobody reads the stream now
        conn = muxer(bare, peer)
        piece = struct.pack("!BBHII", 0, 0, 0, stream.muxed_stream.stream_id, 60_000) + bytes(60_000)
        with trio.fail_after(10):
            for _ in range(60):  # 3.6 MB: more than the window may have grown to
                if not conn.event_closed.is_set():
                    try:
                        await conn._write_frame(piece)
                    except Exception:
                        break
            await conn.event_closed.wait()


async def test_bytes_that_nobody_has_read_are_few_on_all_streams_together():
    def conn(unread: int) -> Any:
        buffers = {1: bytearray(unread // 2), 3: bytearray(unread - unread // 2)}
        return SimpleNamespace(streams={}, stream_buffers=buffers, event_shutting_down=trio.Event(), peer_id="evil")

    for unread, closes in ((transport_module.MAX_UNREAD_BYTES, False), (transport_module.MAX_UNREAD_BYTES + 1, True)):
        full = conn(unread)
        stream = transport_module._YamuxStream(1, full, True)
        stream.recv_window += 1  # more room is no reason
        assert not full.event_shutting_down.is_set()
        stream.recv_window -= 1
        assert full.event_shutting_down.is_set() is closes


@pytest.mark.slow  # seconds of a flood
async def test_a_flood_of_frames_is_read_slowly_and_content_is_not(autojump_clock):
    class Endless:
        """The same frame again and again, read in its pieces."""

        def __init__(self, frame: bytes) -> None:
            self.conn = SimpleNamespace(noise_state=SimpleNamespace(decrypt=bytes))
            self.pieces = itertools.cycle([frame[:12], frame[12:]] if len(frame) > 12 else [frame])

        async def read(self, n: int | None = None) -> bytes:
            return next(self.pieces)

    def header(kind: int, flags: int, stream: int, length: int) -> bytes:
        return struct.pack("!BBHII", 0, kind, flags, stream, length)

    async def seconds(frame: bytes, count: int, messages: int = 0) -> float:
        endless = Endless(frame)
        paced = transport_module._Paced(endless, SimpleNamespace(streams={1: None}))
        start = trio.current_time()
        for _ in range(count):
            for _ in range(messages):
                endless.conn.noise_state.decrypt(bytes(20))
            await paced.read(12)
            if len(frame) > 12:
                await paced.read(len(frame) - 12)
        return trio.current_time() - start

    ping, content = header(2, 1, 0, 0), header(0, 0, 1, 4096) + bytes(4096)
    stray, opening = header(0, 0, 9, 4096) + bytes(4096), header(1, 1, 9, 0)
    rate, burst = transport_module.FRAMES_PER_S, transport_module.FRAME_BURST
    assert await seconds(ping, 20_000) == pytest.approx((20_000 - burst) / rate, rel=0.1)
    assert await seconds(ping, 20_000, messages=1) == pytest.approx((40_000 - burst) / rate, rel=0.1)
    assert await seconds(opening, 2_000) == pytest.approx((20_000 - burst) / rate, rel=0.1)
    assert await seconds(stray, 10_000) == pytest.approx((30_000 - burst) / rate, rel=0.1)
    assert await seconds(content, 10_000) == pytest.approx(0, abs=0.01)
    assert await seconds(content, 20, messages=4108) == pytest.approx((20 * 4108 - burst) / rate, rel=0.1)


async def test_streams_without_end_close_the_connection(server):
    async with host(2) as bare:
        peer = await dial(bare, server.address, server.peer_id)
        conn = muxer(bare, peer)
        with trio.fail_after(10):
            for index in range(100):
                if conn.event_closed.is_set():
                    break
                try:
                    await conn._write_frame(struct.pack("!BBHII", 0, 1, 1, 1001 + 2 * index, 0))
                except Exception:
                    break
            await conn.event_closed.wait()


async def test_an_inbound_slot_comes_back_when_its_connection_ends(sockets, server):
    limiter = server._swarm._inbound_limiter
    for _ in range(3):
        async with host(2) as bare:
            peer = await dial(bare, server.address, server.peer_id)
            await sockets.until(server, lambda: any(s.state is Link.CONNECTED for s in server.connected().values()))
            await bare.disconnect(peer)
        await sockets.until(server, lambda: all(s.state is not Link.CONNECTED for s in server.connected().values()))
    with trio.fail_after(5):
        while limiter.borrowed_tokens:
            await trio.lowlevel.checkpoint()


async def test_requests_given_up_half_way_leave_the_connection_whole(sockets, server):
    server.gate.set()
    member = sockets.make(2)
    member_address = await sockets.start(member)
    server.set_allowed({member.peer_id: member_address})
    member.set_allowed({server.peer_id: server.address})
    await sockets.connected(member, server)
    before = member._swarm.get_connections()
    for turn in range(40):
        with trio.move_on_after(turn * 0.0002):
            await member.request(server.peer_id, Pull(ROOT), 5)
    assert await member.request(server.peer_id, Pull(ROOT), 5) == Refusal("not-found", "")
    assert member._swarm.get_connections() == before


async def test_another_identity_at_a_peers_address_is_not_taken_for_it(sockets, server):
    me = sockets.make(3)
    await sockets.start(me)
    wanted = PeerKey(bytes([8]) * 32).peer_id
    me.set_allowed({wanted: server.address})
    await sockets.until(me, lambda: "handshake failed" in (me.connected()[wanted].last_error or ""))
    assert me.connected()[wanted].state is not Link.CONNECTED


async def test_a_taken_port_is_a_local_fault(sockets, server):
    port = int(server.address.rsplit("/", 1)[1])
    with pytest.raises(LocalFault, match=f"cannot listen on /ip4/127.0.0.1/tcp/{port}"):
        await sockets.make(5, port=port).run()


async def test_a_stopped_node_leaves_its_port(sockets):
    node = sockets.make(5)
    port = int((await sockets.start(node)).rsplit("/", 1)[1])
    await sockets.stop(node)
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await trio.open_tcp_stream("127.0.0.1", port)
    again = sockets.make(5, port=port)
    await sockets.start(again)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:80",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/300.0.0.1/tcp/1",
        "/tcp/1",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_bad_input(address):
    with pytest.raises(InputError):
        transport_module.LibP2PTransport(PeerKey(bytes([4]) * 32), address, lambda: Hello(1, bytes(20), 0))


@pytest.mark.parametrize("address", ["not an address", "/ip4/300.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/p2p/{me}"])
async def test_an_address_that_cannot_be_used_costs_its_peer_the_dial_and_nobody_else_anything(sockets, address):
    """Addresses are members' own words on the chain."""
    node, friend = sockets.make(1), sockets.make(3)
    other = PeerKey(bytes([2]) * 32).peer_id
    await sockets.start(node)
    where = await sockets.start(friend)
    node.set_allowed({other: address.format(me=peer_id_text(node.peer_id)), friend.peer_id: where})
    friend.set_allowed({node.peer_id: ""})
    await sockets.connected(node, friend)
    await sockets.until(node, lambda: "address" in (node.connected()[other].last_error or ""))


async def test_an_address_may_name_its_peer(sockets):
    node = sockets.make(1)
    other = PeerKey(bytes([2]) * 32).peer_id
    node.set_allowed({other: f"/dns4/hospital.example/tcp/41001/p2p/{peer_id_text(other)}"})
    assert set(node.connected()) == {other}


async def test_a_handshake_tells_who_answers_and_leaves_nothing_behind(sockets):
    server = sockets.make(1)
    where = await sockets.start(server)
    host, port = transport_module.dial_target(f"{where}/p2p/{peer_id_text(server.peer_id)}")
    async with await trio.open_tcp_stream(host, port) as stream:
        assert await transport_module.identify(stream, PeerKey(bytes([9]) * 32)) == server.peer_id
    assert server.counters.strangers == 0


async def test_something_else_at_the_port_proves_nothing(nursery):
    async def web_page(stream):
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    listeners = await nursery.start(trio.serve_tcp, web_page, 0)
    port = listeners[0].socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with pytest.raises(PeerUnreachable, match="no Noise handshake"):
            await transport_module.identify(stream, PeerKey(bytes([9]) * 32))
    nursery.cancel_scope.cancel()
