"""Peers and strangers that attack the transport, on real sockets: each a small program against one address.

`MEMBERS` hold the key of a registered peer and speak libp2p, with frames that no libp2p would send; `STRANGERS` hold
none. Every program ends by itself within seconds, whatever the other side does.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.rsa import create_new_key_pair as create_new_rsa_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from crypto.digest import Digest
from crypto.keys import PeerKey, peer_id_text
from node.messages import (
    AbstainNotice,
    GetChunk,
    GetKeys,
    GetMap,
    HaveNotice,
    Hello,
    Offer,
    Pull,
    Request,
    TombstoneNotice,
    Welcome,
    WithdrawalNotice,
)
from node.wire import MAX_OFFERED, PROTOCOL, encode
from tests.fakes.target import NETWORK, ROOT


@dataclass(frozen=True)
class Aim:
    """Whom to attack: address and id; the key of the registered peer that does it; and what to ask for.

    `network` is the first word of a greeting: chain id and registry. `subject` is a content or a round.
    """

    address: str
    peer_id: bytes
    key: PeerKey
    network: tuple[int, bytes] = NETWORK
    subject: Digest = ROOT

    def info(self, address: str = "") -> Any:
        """The target, for libp2p."""
        return info_from_p2p_addr(Multiaddr(f"{address or self.address}/p2p/{peer_id_text(self.peer_id)}"))

    @property
    def pair(self) -> KeyPair:
        """The attacker's keys."""
        return create_new_key_pair(self.key.to_bytes())


Attack = Callable[[Aim], Awaitable[None]]

DATA, WINDOW, PING = 0, 1, 2
SYN, RST = 1, 8
AWAY: Final = "127.0.0.2"
"""Where strangers come from: another address than the honest."""


@asynccontextmanager
async def host(keys: KeyPair) -> AsyncIterator[Any]:
    """A bare libp2p host, that answers greetings: whoever does not is left at once."""
    noise = Noise(keys, noise_privkey=create_new_noise_key_pair().private_key)
    bare = new_host(key_pair=keys, sec_opt={NOISE_ID: noise}, muxer_opt={YAMUX_ID: Yamux})

    async def greet(stream: Any) -> None:
        with suppress(Exception):
            while True:
                await stream.read(4096)
                await stream.write(message(Welcome(0, "ok")))

    bare.set_stream_handler(TProtocol(PROTOCOL), greet)
    async with bare.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield bare


@asynccontextmanager
async def connection(aim: Aim, through: str = "") -> AsyncIterator[tuple[Any, Any, Any]]:
    """The host, the muxed connection and the id of the target."""
    async with host(aim.pair) as bare:
        info = aim.info(through)
        with trio.fail_after(10):
            await bare.connect(info)
        yield bare, bare.get_network().get_connections(info.peer_id)[0].muxed_conn, info.peer_id


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
    """A yamux frame."""
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + body


def message(request: Any) -> bytes:
    """A request or a reply as it travels on a stream."""
    body = encode(request)
    return len(body).to_bytes(4, "big") + body


async def pour(conn: Any, piece: bytes, times: int, seconds: float = 3.0) -> None:
    """Write `piece` again and again, past the muxer, until the time or the connection is over."""
    with trio.move_on_after(seconds), suppress(Exception):
        for _ in range(times):
            await conn.secured_conn.write(piece)


# --------------------------------------------------------------------------------------------------------------------
# Members


async def a_million_pings(aim: Aim) -> None:
    """Frames of twelve bytes, each of which wants an answer that nobody reads."""
    async with connection(aim) as (_, conn, _id):
        await pour(conn, frame(PING, SYN, 0, 1) * 5_000, 200)


async def a_million_empty_frames(aim: Aim) -> None:
    """Data frames without data, for a stream that is not there."""
    async with connection(aim) as (_, conn, _id):
        await pour(conn, frame(DATA, 0, 7777, 0) * 5_000, 200)


async def frames_for_no_stream(aim: Aim) -> None:
    """Data that belongs to nothing, as fast as the socket takes it."""
    async with connection(aim) as (_, conn, _id):
        await pour(conn, frame(DATA, 0, 7777, 60_000, bytes(60_000)), 10_000)


async def content_in_single_bytes(aim: Aim) -> None:
    """A frame of content in as many Noise messages as it has bytes."""
    async with connection(aim) as (bare, conn, target):
        stream = await bare.new_stream(target, [PROTOCOL])
        await pour(conn, frame(DATA, 0, stream.muxed_stream.stream_id, 60_000), 1)
        await pour(conn, b"\0", 60_000, 3.0)


async def rapid_reset(aim: Aim) -> None:
    """Streams that are reset in the frame after the one that opens them."""
    async with connection(aim) as (_, conn, _id):
        for start in range(1001, 41_001, 4_000):
            pairs = [frame(WINDOW, SYN, n, 0) + frame(WINDOW, RST, n, 0) for n in range(start, start + 4_000, 2)]
            await pour(conn, b"".join(pairs), 1, 1.0)


async def streams_left_open(aim: Aim) -> None:
    """Streams that are opened and never negotiated."""
    async with connection(aim) as (_, conn, _id):
        await pour(conn, b"".join(frame(WINDOW, SYN, n, 0) for n in range(1001, 2001, 2)), 1)
        await conn.event_closed.wait()


async def windows_filled_ahead(aim: Aim) -> None:
    """As much data on each of many streams as its window allows, before anybody reads."""
    async with connection(aim) as (_, conn, _id):
        for stream in range(1001, 1001 + 2 * 60, 2):
            opened = frame(WINDOW, SYN, stream, 0) + frame(DATA, 0, stream, 4, b"\x13/mu")
            await pour(conn, opened + 4 * frame(DATA, 0, stream, 60_000, bytes(60_000)), 1, 2.0)


async def over_the_window(aim: Aim) -> None:
    """More than the window on one stream."""
    async with connection(aim) as (bare, conn, target):
        stream = await bare.new_stream(target, [PROTOCOL])
        number = stream.muxed_stream.stream_id
        await pour(conn, frame(DATA, 0, number, 60_000, bytes(60_000)), 2_000)


async def reads_nothing(aim: Aim) -> None:
    """Asks for chunks on every stream it may have, again and again, and takes none."""
    async with connection(aim) as (bare, conn, target):
        streams = [await bare.new_stream(target, [PROTOCOL])]
        with suppress(Exception):  # those of a connection before this one may still count
            for _ in range(7):
                streams.append(await bare.new_stream(target, [PROTOCOL]))
        conn.event_shutting_down.set()  # ends our own reading
        asked = b"".join(
            frame(DATA, 0, one.muxed_stream.stream_id, len(body), body)
            for one in streams
            for body in [message(GetChunk(aim.subject, 0)) * 20]
        )
        await pour(conn, asked, 1)
        await trio.sleep(2)


async def offers_without_end(aim: Aim) -> None:
    """Offers full of notices, far ahead of their answers, until it is told to stop and a little longer."""
    offer = message(Offer((AbstainNotice(ROOT, 1, bytes(65)),) * MAX_OFFERED))
    async with connection(aim) as (bare, _, target):
        streams = [await bare.new_stream(target, [PROTOCOL])]
        with suppress(Exception):  # those of a connection before this one may still count
            for _ in range(5):
                streams.append(await bare.new_stream(target, [PROTOCOL]))

        async def ask(stream: Any) -> None:
            with suppress(Exception):
                while True:
                    await stream.write(offer * 4)
                    if b"busy" in await stream.read(4096):
                        told.set()

        told = trio.Event()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(ask, stream)
            with trio.move_on_after(10):
                await told.wait()
                await trio.sleep(1)
            nursery.cancel_scope.cancel()


async def _ask(aim: Aim, requests: Callable[[], list[Request]], seconds: float = 3.0) -> None:
    """Ask on as many streams as it may have, without a pause, for as long as it is answered."""
    async with connection(aim) as (bare, _, target):

        async def one() -> None:
            with suppress(Exception):
                stream = await bare.new_stream(target, [PROTOCOL])
                while True:
                    for request in requests():
                        await stream.write(message(request))
                        head = await stream.read(4)
                        left = int.from_bytes(head, "big")
                        while left > 0:
                            left -= len(await stream.read(left)) or left

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(one)


async def questions_without_end(aim: Aim) -> None:
    """Everything that may be asked for, at full speed; most of it has short answers, or the line is the limit."""
    subject = aim.subject
    small: list[Request] = [Pull(subject), GetKeys(subject, 0, 3), Pull(ROOT)]
    asked = [*small * 4, GetMap(subject), GetChunk(subject, 0)]
    await _ask(aim, lambda: asked)


async def notices_of_nothing(aim: Aim) -> None:
    """Well-formed notices of every standing, each of them new and none of them signed by whom it names."""

    def junk() -> list[Request]:
        made = [
            notice
            for place in range(4)
            for notice in (
                AbstainNotice(aim.subject, place, os.urandom(65)),
                HaveNotice(Digest(os.urandom(32)), place, 1, 15, os.urandom(65)),
                TombstoneNotice(place, Digest(os.urandom(32)), 1, aim.subject, os.urandom(65)),
                WithdrawalNotice(Digest(os.urandom(32)), os.urandom(20), ROOT, ROOT, os.urandom(65)),
            )
        ]
        return [Offer(tuple(made))]

    await _ask(aim, junk)


async def news_of_no_block(aim: Aim) -> None:
    """Greetings that tell of blocks that are not there, so that whoever believes them looks at the chain."""
    ahead = [1 << 40]

    def greeting() -> list[Request]:
        ahead[0] += 1
        return [Hello(*aim.network, ahead[0])]

    await _ask(aim, greeting)


async def messages_of_arrays(aim: Aim) -> None:
    """A megabyte of empty arrays, which would be 64 MB of lists, and one of arrays inside each other."""
    rows = 16_000
    wide = b"\xdc" + rows.to_bytes(2, "big") + (b"\xdc\x00\x3c" + b"\x90" * 60) * rows
    deep = b"\x91" * 1_000_000 + b"\xc0"
    async with connection(aim) as (bare, _, target):
        for body in (wide, deep, b"\x91" * 1001 + b"\xc0"):
            whole = b"\x93\x01\xa5offer" + body
            stream = await bare.new_stream(target, [PROTOCOL])
            with trio.move_on_after(5), suppress(Exception):
                await stream.write(len(whole).to_bytes(4, "big") + whole)
                await stream.read(4096)


async def offers_of_noise(aim: Aim) -> None:
    """Frames as long as may be, of noise."""
    async with connection(aim) as (bare, _, target):
        size = len(message(Offer(()))) + (1 << 20) - 100
        for _ in range(5):
            stream = await bare.new_stream(target, [PROTOCOL])
            with trio.move_on_after(5), suppress(Exception):
                await stream.write(size.to_bytes(4, "big") + os.urandom(size))
                await stream.read(4096)


async def a_long_line_on_a_stream(aim: Aim) -> None:
    """A protocol's name of a gigabyte."""
    async with connection(aim) as (_, conn, _id):
        number = 1001
        await pour(conn, frame(WINDOW, SYN, number, 0), 1)
        head = b"\x13/multistream/1.0.0\n" + b"\x80\x80\x80\x80\x04"
        await pour(conn, frame(DATA, 0, number, len(head), head), 1)
        await pour(conn, frame(DATA, 0, number, 60_000, bytes(60_000)), 500)


async def protocols_that_nobody_speaks(aim: Aim) -> None:
    """Names of other protocols, one after another on one stream, with a `ls` between them."""
    async with connection(aim) as (_, conn, _id):
        lines = b"\x13/multistream/1.0.0\n" + (b"\x03ls\n" + b"\x0b/ipfs/id/1\n") * 3_000
        await pour(conn, frame(WINDOW, SYN, 1001, 0) + frame(DATA, 0, 1001, len(lines), lines), 1)
        await trio.sleep(1)


async def one_byte_and_reset(aim: Aim) -> None:
    """Resets its stream after every byte that it sends."""
    async with connection(aim) as (bare, _, target):
        with trio.move_on_after(3), suppress(Exception):
            for _ in range(200):
                stream = await bare.new_stream(target, [PROTOCOL])
                await stream.write(b"\0")
                await stream.reset()


async def one_identity_many_times(aim: Aim) -> None:
    """Thirty connections of one peer at once."""
    info = aim.info()

    async def one() -> None:
        async with host(aim.pair) as bare:
            with trio.move_on_after(8), suppress(Exception):
                await bare.connect(info)
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)


async def comes_and_goes(aim: Aim) -> None:
    """Connects and leaves as fast as it can."""
    with trio.move_on_after(3):
        while True:
            async with connection(aim) as (bare, _, target):
                await bare.disconnect(target)


async def an_earlier_session_again(aim: Aim) -> None:
    """Records what a member sends in one session and sends it again, byte by byte the same."""
    recorded = bytearray()

    async def relay(near: trio.SocketStream) -> None:
        far = await _dial(aim.address)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream, keep: bytearray) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in source:
                    keep += data
                    await sink.send_all(data)

        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(pump, far, near, bytearray())
            await pump(near, far, recorded)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with connection(aim, f"/ip4/127.0.0.1/tcp/{port}") as (bare, _, target):
            stream = await bare.new_stream(target, [PROTOCOL])
            await stream.write(message(Pull(aim.subject)))
            await stream.read(4096)
        nursery.cancel_scope.cancel()
    assert len(recorded) > 300
    async with await _dial(aim.address) as again:
        with suppress(trio.BrokenResourceError):
            await again.send_all(bytes(recorded))
            await _read_out(again)


MEMBERS: Final[tuple[tuple[Attack, str | None], ...]] = (
    # attack | the counter that tells of it, if it breaks a rule
    (a_million_pings, None),
    (a_million_empty_frames, None),
    (frames_for_no_stream, None),
    (content_in_single_bytes, None),
    (rapid_reset, None),
    (streams_left_open, "broken"),
    (windows_filled_ahead, None),
    (over_the_window, "broken"),
    (reads_nothing, None),
    (offers_without_end, "busy"),
    (questions_without_end, "busy"),
    (notices_of_nothing, "busy"),
    (news_of_no_block, "busy"),
    (messages_of_arrays, "malformed"),
    (offers_of_noise, "malformed"),
    (a_long_line_on_a_stream, None),
    (protocols_that_nobody_speaks, None),
    (one_byte_and_reset, None),
    (one_identity_many_times, None),
    (comes_and_goes, None),
    (an_earlier_session_again, None),
)


# --------------------------------------------------------------------------------------------------------------------
# Strangers


async def _dial(address: str, source: str = "127.0.0.1") -> trio.SocketStream:
    _, _, ip, _, port = address.split("/")
    made = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await made.bind((source, 0))
    with trio.fail_after(10):
        await made.connect((ip, int(port)))
    return trio.SocketStream(made)


async def _read_out(stream: trio.SocketStream, seconds: float = 8.0) -> None:
    """Read until the other side closes; it does so in time."""
    with trio.fail_after(seconds), suppress(trio.BrokenResourceError):
        while await stream.receive_some(65536):
            pass


async def a_line_of_a_gigabyte(aim: Aim) -> None:
    """Announces a line of a gigabyte in the first bytes, on several sockets, and sends what the socket takes."""

    async def one() -> None:
        async with await _dial(aim.address, AWAY) as stream:
            with trio.move_on_after(4), suppress(trio.BrokenResourceError):
                await stream.send_all(b"\x13/multistream/1.0.0\n" + b"\x80\x80\x80\x80\x04")
                for _ in range(64):
                    await stream.send_all(bytes(1 << 20))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)


async def half_open_sockets(aim: Aim) -> None:
    """Four hundred sockets that say nothing; they are let go, by time or for later ones."""
    streams = [await _dial(aim.address, AWAY) for _ in range(400)]
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(_read_out, stream)
    for stream in streams:
        await stream.aclose()


async def connects_and_resets(aim: Aim) -> None:
    """Sockets that are reset as soon as they are open."""
    for _ in range(300):
        stream = await _dial(aim.address, AWAY)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()


async def one_byte_a_second(aim: Aim) -> None:
    """A handshake that dawdles."""
    async with await _dial(aim.address, AWAY) as stream:
        with suppress(trio.BrokenResourceError):
            for byte in b"\x13/multistream/1.0.0\n":
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.5)
        await _read_out(stream)


async def an_identity_of_rsa(aim: Aim) -> None:
    """A whole handshake under a kind of key that no member has."""
    info = aim.info()
    async with host(create_new_rsa_key_pair(2048)) as bare:
        with suppress(Exception):
            await bare.connect(info)
            await bare.new_stream(info.peer_id, [PROTOCOL])
            raise AssertionError("it was let in")


async def strangers_with_keys(aim: Aim) -> None:
    """Whole handshakes of ids that nobody registered."""
    info = aim.info()
    for seed in range(50, 55):
        async with host(create_new_key_pair(bytes([seed]) * 32)) as bare:
            with trio.move_on_after(5), suppress(Exception):
                await bare.connect(info)
                await bare.new_stream(info.peer_id, [PROTOCOL])
                raise AssertionError("it was let in")


STRANGERS: Final[tuple[tuple[Attack, str | None], ...]] = (
    (a_line_of_a_gigabyte, None),
    (half_open_sockets, "displaced"),
    (connects_and_resets, None),
    (one_byte_a_second, None),
    (an_identity_of_rsa, None),
    (strangers_with_keys, "strangers"),
)
