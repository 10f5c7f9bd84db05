"""The `Transport` over libp2p: TCP, Noise, yamux, one protocol; the only file that knows libp2p.

What may live here: connections, streams, frames and their deadlines. A frame is the length of a message, 4 bytes
big-endian, then the message (`node/wire.py`). On a stream one side asks and the other answers, one request after the
other; streams are kept and used again, for opening one costs a round trip and a negotiation.

Rules of this file:

1. Nobody outside the allowed set gets a connection (the gate sees both directions), and nobody who left it gets an
   answer (every stream looks again before every frame).
2. Every read has a deadline, and every length is compared with a cap before a byte of it is read.
3. One task a peer keeps its connection: dial, greet, heartbeat, drop, wait, again. Whoever does not answer a heartbeat
   is dropped, for a frozen process keeps its sockets open.
4. A frame of the muxer is written whole or the connection is closed. Noise counts messages: a write that is cancelled
   half-way would make every later byte unreadable for the peer.
5. libp2p's exceptions end here, as `PeerUnreachable`, `PeerSilent`, `WireError` or `LocalFault`.

What libp2p 0.8.1 does by itself, and what is done about it here: it offers plaintext, TLS and mplex unless told
otherwise (only Noise and yamux are given); it refuses to dial a peer for 60 s after one failed dial (`unblock_peer`);
it keeps a task and one of its inbound slots for ever for every connection that it has accepted (`_Swarm`); it lets a
fault in one stream's negotiation reach the task of the connection (`_Swarm`); it only warns when a peer sends more than
its window, and takes small frames as fast as they come (`_Yamux`); it reads as long a line as a stranger announces
(`_read_line`); it checks whatever kind of key a stranger shows (`_read_identity`); it lets the handshakes of one
address take every place (`_Lobby`); it keeps all the connections of one peer that come within 20 s (`_crowd`); it
listens with SO_REUSEPORT, so that a second process on the same port would not be noticed (`_check_free`); it dials whom
it knows by itself (`_NoDials`); it runs Identify with every peer and takes the addresses that a peer claims (left out);
and cancelled, it keeps its port open (`run`).
"""

from __future__ import annotations

import logging
import random
import socket
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, cast

import libp2p.protocol_muxer.multiselect_communicator as multiselect
import libp2p.security.noise.messages as noise_messages
import libp2p.stream_muxer.muxer_multistream as muxer_multistream
import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.abc import IMuxedConn, INetConn, INetStream, INetwork, INotifee, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.keys import KeyType, PublicKey
from libp2p.crypto.x25519 import create_new_key_pair as create_new_noise_key_pair
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import ParseError
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import Reader
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.rcmgr.manager import ConnectionScope, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr

from crypto.keys import PeerKey, peer_id_text
from node.doors import (
    DEFAULT_LIMITS,
    Bell,
    Bucket,
    Counters,
    Handler,
    HelloSource,
    Limits,
    Link,
    NotAPeer,
    PeerSilent,
    PeerStatus,
    PeerUnreachable,
    Sparing,
    Started,
)
from node.errors import InputError, LocalFault, NodeError
from node.messages import Refusal, Reply, Request
from node.service import Service
from node.session import NOISE_PAYLOAD_BYTES, Session, Stream
from node.wire import MAX_REQUEST_BYTES, PROTOCOL, WireError, decode_reply, encode, reply_cap

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())

HEADER_BYTES: Final = 4

MAX_MUXER_FRAME_BYTES: Final = 256 * 1024
"""Longest yamux frame that is read. go-yamux and this build send 64 KiB at most, rust-yamux 16 KiB."""

MAX_WINDOW_BYTES: Final = 2 * 1024 * 1024
"""How far a stream's receive window may grow: two chunks (go-yamux: 16 MiB)."""

MAX_STREAMS_PER_CONNECTION: Final = 64
"""Streams that one connection may have, negotiated or not (go-yamux: 256 not yet accepted)."""

MAX_UNREAD_BYTES: Final = 8 * 1024 * 1024
"""Bytes of one connection that have come and were not read yet, on all its streams: five answers of a chunk that we
asked for, and three full requests. A peer may have `MAX_CONNECTIONS_PER_PEER` times as much."""

MAX_CONNECTIONS_PER_PEER: Final = 3
"""Two dials that cross, and one whose other end is gone and not missed yet. The oldest goes."""

FRAMES_PER_S: Final = 1000.0
FRAME_BURST: Final = 10000.0
"""Muxer frames and Noise messages of one connection; above them it is read slower, so that a flood waits in its
sender's socket. A frame in its own message takes some 100 us of one core here: 500 of them a second are a twentieth of
it. Every `BYTES_A_FRAME` bytes of content in either direction allow one more (go-yamux sends 65 536 bytes a frame,
rust-yamux 16 384), and a message of as many is free."""

BYTES_A_FRAME: Final = 2048
NEW_STREAM_FRAMES: Final = 10
"""What opening a stream counts for: it starts a task and a negotiation (compare HTTP/2's rapid reset, 2023)."""

MAX_LINE_BYTES: Final = 1024
"""A line of multistream-select, as in go-multistream; ours have less than 32 bytes."""

NEGOTIATION_S: Final = 10
"""From a new stream to its protocol."""

BARRED_S: Final = 30.0
"""A peer that broke the muxer's limits is not spoken with for this long."""

STALL_S: Final = 5.0
"""A muxer frame that the socket does not take within this closes the connection (yamux waits as long for a window)."""

STREAMS_OUT: Final = 4
"""Requests to one peer at the same time, each on its own stream; heartbeats have one more."""

HEAD_START_S: Final = 0.5
"""The peer with the greater id waits this long before it dials, so that two peers seldom dial each other at once."""

MAX_CONNECTIONS: Final = 400
"""Sockets, authenticated or not. 32 members and their auditors need 64; the rest absorbs half-open ones for 5 s."""

CLOSE_S: Final = 2.0
"""What closing everything may take when the node stops."""

UPGRADE_S: Final = 5.0
"""TCP accept to a finished Noise and yamux handshake."""

MAX_HANDSHAKES: Final = 128
MAX_HANDSHAKES_PER_ADDRESS: Final = 48
"""Sockets that have not proved an allowed id yet; one more closes the oldest, as sshd's MaxStartups (100) does at
random. A handshake takes 0.3 s; 32 members behind one address may all dial at once."""

FAILURES_PER_S: Final = 5.0
FAILURE_BURST: Final = 100.0
"""Handshakes of one address that ended without an allowed id; above them its sockets are closed unread. Each costs us
some milliseconds of a core."""

MAX_ADDRESSES: Final = 1024
"""Addresses whose failures are remembered."""


# --------------------------------------------------------------------------------------------------------------------
# libp2p, hardened


class _YamuxStream(Stream):
    """A stream whose peer may not send more than its window, nor open streams without end."""

    def __init__(self, stream_id: int, conn: yamux.Yamux, is_initiator: bool) -> None:
        self._window = 0
        super().__init__(stream_id, conn, is_initiator)
        if not is_initiator and len(conn.streams) >= MAX_STREAMS_PER_CONNECTION:
            _break(conn, f"more than {MAX_STREAMS_PER_CONNECTION} streams open")

    # The base class subtracts what arrived and only warns below zero.
    @property
    def recv_window(self) -> int:
        return self._window

    @recv_window.setter
    def recv_window(self, value: int) -> None:
        if value < 0:
            _break(self.conn, f"{-value} bytes over the window of stream {self.stream_id}")
        if value < self._window and sum(map(len, self.conn.stream_buffers.values())) > MAX_UNREAD_BYTES:
            _break(self.conn, f"more than {MAX_UNREAD_BYTES} bytes sent ahead of their readers")
        self._window = value


def _break(conn: yamux.Yamux, why: str) -> None:
    if getattr(conn, "fault", None) is None:
        _log.warning("closing the connection of %s: %s", conn.peer_id, why)
        conn.fault = why  # type: ignore[attr-defined]
    conn.event_shutting_down.set()  # ends the read loop; `_Yamux.handle_incoming` cleans up after it


class _Paced:
    """A secured connection that is read no faster than its frames are worth."""

    def __init__(self, inner: Any, conn: _Yamux) -> None:
        self._inner = inner
        self._conn = conn
        self._left = Bucket(FRAMES_PER_S, FRAME_BURST)
        self._body = 0  # bytes of the present frame's content that are still to come
        self._count_messages(inner.conn.noise_state)

    def _count_messages(self, noise: Any) -> None:
        decrypt = noise.decrypt

        def counted(sealed: bytes) -> bytes:
            self._left.take(max(0.0, 1 - len(sealed) / BYTES_A_FRAME))
            opened: bytes = decrypt(sealed)
            return opened

        noise.decrypt = counted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = await self._inner.read(n)
        if self._body:
            self._body -= len(data)
        elif len(data) == yamux.HEADER_SIZE:
            self._left.take(self._frame(data))
            wait_s = self._left.wait_s()
            if wait_s > 0:
                await trio.sleep(wait_s)
        return data

    def earn(self, size: int) -> None:
        """Content of this many bytes has passed."""
        self._left.give(size / BYTES_A_FRAME)

    def _frame(self, header: bytes) -> float:
        """What a frame counts for; its body comes next."""
        _, kind, flags, stream_id, length = struct.unpack(yamux.YAMUX_HEADER_FORMAT, header)
        count = float(NEW_STREAM_FRAMES if flags & yamux.FLAG_SYN and kind != yamux.TYPE_PING else 1)
        if kind == yamux.TYPE_DATA:
            self._body = length
            # What goes into a stream is bounded by its window; what belongs to none is thrown away, and is not free.
            count += length / BYTES_A_FRAME * (-1 if stream_id in self._conn.streams else 1)
        return count


class _Yamux(yamux.Yamux):
    """yamux that closes the connection where the base class only warns, is paced, and writes its frames whole."""

    def __init__(self, secured_conn: Any, peer_id: ID, *arguments: Any, **named: Any) -> None:
        self.fault: str | None = None
        """Which limit the peer broke."""
        self._paced = _Paced(Session(secured_conn), self)
        super().__init__(cast(ISecureConn, self._paced), peer_id, *arguments, **named)

    async def handle_incoming(self) -> None:
        try:
            await super().handle_incoming()
        finally:
            if not self.is_closed:
                with trio.CancelScope(shield=True):  # only wakes readers and closes the socket
                    await self._cleanup_on_error()

    async def _read_data_body(self, length: int) -> bytes:
        if length > MAX_MUXER_FRAME_BYTES:
            _break(self, f"a frame of {length} bytes announced, at most {MAX_MUXER_FRAME_BYTES} allowed")
            raise ConnectionClosedError("frame too long", transport="tcp")
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        async with self._write_lock:
            with trio.CancelScope(deadline=trio.current_time() + STALL_S, shield=True) as scope:
                await self.secured_conn.write(data)
        self._paced.earn(len(data) - yamux.HEADER_SIZE)
        if scope.cancelled_caught:
            _log.info("closing the connection of %s: its socket took nothing for %g s", self.peer_id, STALL_S)
            self.event_shutting_down.set()
            await self.secured_conn.close()
            raise ConnectionClosedError("socket stalled", transport="tcp")
        await trio.lowlevel.checkpoint()


async def _read_line(reader: Reader) -> bytes:
    """One line of multistream-select. libp2p's own reads as much as is announced, before anybody has proved an id."""
    line = await read_varint_prefixed_bytes_limited(reader, MAX_LINE_BYTES)
    if line[-1:] != b"\n":
        raise ParseError("not a line")
    return line[:-1]


def _read_identity(data: bytes) -> PublicKey:
    """The Ed25519 key that a handshake shows. Other kinds have no seat here, and may cost much to check."""
    key = PublicKey.deserialize_from_protobuf(data)
    if key.key_type != KeyType.Ed25519.value:
        raise ValueError("not an Ed25519 identity")
    return Ed25519PublicKey.from_bytes(key.data)


class _Lobby:
    """The sockets that have not proved an allowed id yet, oldest first, and the failures of their addresses."""

    def __init__(self, displaced: Callable[[], None]) -> None:
        self._waiting: dict[IRawConnection, str] = {}
        self._failures: OrderedDict[str, Bucket] = OrderedDict()
        self._displaced = displaced

    async def enter(self, raw: IRawConnection) -> None:
        """Take a socket in, making room if there is none; `SwarmException` if its address has failed too often."""
        address = _network_of(raw.get_remote_address())
        failures = self._failures.setdefault(address, Bucket(FAILURES_PER_S, FAILURE_BURST))
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
        if not failures.spend():
            raise SwarmException(f"too many failed handshakes of {address}")
        same = [one for one, where in self._waiting.items() if where == address]
        if len(same) >= MAX_HANDSHAKES_PER_ADDRESS or len(self._waiting) >= MAX_HANDSHAKES:
            oldest = same[0] if len(same) >= MAX_HANDSHAKES_PER_ADDRESS else next(iter(self._waiting))
            del self._waiting[oldest]
            self._displaced()
            await oldest.close()
        self._waiting[raw] = address

    def leave(self, raw: IRawConnection, *, proved: bool) -> None:
        """The handshake is over; one that proved an allowed id was no failure."""
        address = self._waiting.pop(raw, None) or _network_of(raw.get_remote_address())
        if proved and address in self._failures:
            self._failures[address].give(1)


def _network_of(address: tuple[str, int] | None) -> str:
    """What one guest controls: an IPv4 address, or the /64 that an IPv6 address is in."""
    host = "" if address is None else address[0]
    return ":".join(ip_address(host).exploded.split(":")[:4]) if ":" in host else host


class _NoDials(AutoConnector):
    """libp2p would dial every peer it knows the address of, whatever the watermarks say. This file dials."""

    async def run_background_task(self, nursery: trio.Nursery) -> None: ...

    async def maybe_connect(self) -> None: ...


class _Swarm(Swarm):
    """A swarm that lets go of what a closed connection held, and keeps a stream's fault inside the stream."""

    def __init__(self, lobby: _Lobby, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lobby = lobby
        self.auto_connector = _NoDials(self)

    async def sever(self, peer_id: ID | None = None) -> None:
        """Close the sockets of one peer, or of all: a frozen peer would not take the muxer's farewell."""
        for conn in self.get_connections(peer_id):
            try:
                await conn.muxed_conn.secured_conn.close()  # type: ignore[attr-defined]
            except Exception as error:
                _log.debug("closing a connection of %s: %s", conn.muxed_conn.peer_id, error)

    async def upgrade_inbound_raw_conn(self, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        await self._lobby.enter(raw_conn)
        proved = False
        try:
            muxed = await super().upgrade_inbound_raw_conn(raw_conn, maddr)
            proved = True
        finally:
            self._lobby.leave(raw_conn, proved=proved)
        # The caller waits for the end of the swarm and only then gives its inbound slot back.
        await muxed.event_closed.wait()  # type: ignore[attr-defined]
        raise SwarmException("closed")

    def set_stream_handler(self, stream_handler: StreamHandlerFn) -> None:
        async def guarded(stream: INetStream) -> None:
            try:
                await stream_handler(stream)
            except Exception as error:
                _log.debug("a stream of %s failed: %s", stream.muxed_conn.peer_id, error)
                await _reset(stream)

        super().set_stream_handler(guarded)


class _Gate(ResourceManager):
    """Lets only allowed peers in and out. Asked before the handshake (no id yet) and after it."""

    def __init__(self, transport: LibP2PTransport) -> None:
        # Off: a breaker and a degradation that failed dials of one peer could trip for all, and metrics of its own.
        super().__init__(
            enable_metrics=False,
            enable_memory_limits=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        )
        self._transport = transport

    def open_connection(
        self, peer_id: Any | None = None, endpoint_ip: str | None = None, direction: str = "inbound"
    ) -> ConnectionScope | None:
        try:
            if peer_id is not None and not self._transport.allows(peer_id.to_bytes()):
                self._transport.stranger(str(peer_id), direction)
                return None
            if peer_id is not None and self._transport.barred(peer_id.to_bytes()):
                return None
            return super().open_connection(peer_id, endpoint_ip, direction)
        except Exception:
            # libp2p lets a connection pass when its resource manager raises.
            _log.exception("the gate failed, so it stays shut")
            return None


class _Watch(INotifee):
    """Tells a peer's task that its connections have changed."""

    def __init__(self, transport: LibP2PTransport) -> None:
        self._transport = transport

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        self._transport.moved(conn.muxed_conn.peer_id.to_bytes())
        await self._crowd(network, conn.muxed_conn.peer_id)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        fault = getattr(conn.muxed_conn, "fault", None)
        if fault is not None:
            self._transport.broke(conn.muxed_conn.peer_id.to_bytes(), fault)
        self._transport.moved(conn.muxed_conn.peer_id.to_bytes())

    async def _crowd(self, network: INetwork, peer_id: ID) -> None:
        for conn in network.get_connections(peer_id)[:-MAX_CONNECTIONS_PER_PEER]:
            await conn.muxed_conn.secured_conn.close()  # type: ignore[attr-defined]

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None: ...

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None: ...

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None: ...


def _harden() -> None:
    """Set what libp2p takes from module attributes. Harmless to repeat."""
    yamux.MAX_MESSAGE_SIZE = NOISE_PAYLOAD_BYTES
    yamux.MAX_WINDOW_SIZE = MAX_WINDOW_BYTES
    yamux.YamuxStream = _YamuxStream  # type: ignore[misc]
    # It builds its own yamux, whatever class it is given for the protocol.
    muxer_multistream.Yamux = _Yamux  # type: ignore[attr-defined]
    multiselect.read_delim = _read_line  # type: ignore[attr-defined]
    noise_messages.deserialize_public_key = _read_identity  # type: ignore[attr-defined]
    # Its debug lines name every frame; its dials of a peer that is away would fill a log at error level.
    logging.getLogger("libp2p").setLevel(logging.WARNING)
    # What a peer does wrong inside its connection is a line a frame; this file says once why it ended.
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


_NOISY: Final = (
    "libp2p.transport.tcp.tcp",
    "libp2p.network.swarm",
    "libp2p.host.basic_host",
    "libp2p.protocol_muxer",
    "libp2p.stream_muxer.yamux.yamux",
    "libp2p.security.noise",
)


async def _reset(stream: INetStream) -> None:
    # Shielded: a stream that is not reset stays open at the other side. Writes nothing that can stall longer.
    with trio.CancelScope(deadline=trio.current_time() + STALL_S, shield=True):
        await stream.reset()


# --------------------------------------------------------------------------------------------------------------------
# Frames


async def _read_exactly(stream: INetStream, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = await stream.read(size - len(parts))
        if not part:
            raise StreamEOF
        parts += part
    return bytes(parts)


async def _read_frame(stream: INetStream, cap: int, idle_s: float, frame_s: float) -> bytes:
    """The next message on `stream`: `idle_s` until its first byte, `frame_s` from there to its last.

    Raises:
        trio.TooSlowError: a deadline passed.
        WireError: the announced length is zero or over `cap`; nothing of it was read.
    """
    with trio.fail_after(idle_s):
        head = await stream.read(HEADER_BYTES)
    with trio.fail_after(frame_s):
        head += await _read_exactly(stream, HEADER_BYTES - len(head))
        size = int.from_bytes(head, "big")
        if not 0 < size <= cap:
            raise WireError("frame", f"{size} bytes announced, 1 to {cap} allowed")
        return await _read_exactly(stream, size)


async def _write_frame(stream: INetStream, body: bytes, frame_s: float) -> None:
    with trio.fail_after(frame_s):
        await stream.write(len(body).to_bytes(HEADER_BYTES, "big") + body)


# --------------------------------------------------------------------------------------------------------------------
# Peers


@dataclass(eq=False)
class _Peer:
    """One allowed peer and its task's state."""

    peer_id: bytes
    address: str
    bell: Bell = field(default_factory=Bell)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    slots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(STREAMS_OUT))
    idle: deque[tuple[INetStream, float]] = field(default_factory=deque)
    state: Link = Link.DOWN
    last_seen: float | None = None
    last_error: str | None = None
    barred_until: float = 0.0

    @property
    def name(self) -> str:
        return peer_id_text(self.peer_id)

    @property
    def id(self) -> ID:
        return ID(self.peer_id)


def _parse_address(text: str, peer_id: bytes | None = None) -> Multiaddr:
    """A TCP multiaddress without its `/p2p/` part, which must name `peer_id` if it is there."""
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
        stated = address.value_for_protocol("p2p") if "p2p" in names else None
    except Exception as error:  # the library raises its own, and ValueErrors of several kinds
        raise InputError(f"{text[:200]!r} is not a multiaddress: {error}") from None
    if len(names) < 2 or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or names[1] != "tcp":
        raise InputError(f"{text[:200]!r} is not an address like /ip4/192.0.2.1/tcp/24101")
    if stated is not None:
        if peer_id is None or stated != peer_id_text(peer_id):
            wanted = "no peer" if peer_id is None else peer_id_text(peer_id)
            raise InputError(f"the address {text[:200]!r} names peer {stated}, but {wanted} is expected there")
        address = address.decapsulate(Multiaddr(f"/p2p/{stated}"))
    return address


def _check_free(address: Multiaddr) -> None:
    """Raise `LocalFault` unless the port can be bound alone; libp2p's own listener would share it silently."""
    host = str(address.value_for_protocol(address.protocols()[0].code))
    port = int(address.value_for_protocol("tcp"))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LocalFault(f"cannot listen on {address}: {error.strerror or error}") from None


class LibP2PTransport:
    """The `Transport` of a running node. See `node.doors.Transport` for what each method promises."""

    def __init__(self, key: PeerKey, listen: str, hello: HelloSource, limits: Limits = DEFAULT_LIMITS) -> None:
        """Prepare; nothing is opened before `run`.

        Args:
            key: our identity; its seed stays in memory.
            listen: TCP multiaddress; port 0 takes a free one.
            hello: what to say first and at every heartbeat.
            limits: what one peer may cost us.

        Raises:
            InputError: `listen` is no TCP multiaddress.
        """
        self.counters = Counters()
        self._key = key
        self._listen = _parse_address(listen, key.peer_id)
        self._hello = hello
        self._limits = limits
        self._bell = Bell()
        self._service = Service(limits, self.counters, self._bell)
        self._peers: dict[bytes, _Peer] = {}
        self._host: BasicHost | None = None
        self._swarm: _Swarm | None = None
        self._nursery: trio.Nursery | None = None
        self._random = random.Random(key.peer_id)  # jitter only: two nodes must differ, nobody need be surprised

    @property
    def peer_id(self) -> bytes:
        """Our own id."""
        return self._key.peer_id

    def serve(self, handler: Handler) -> None:
        """Answer with `handler` from now on."""
        self._service.handler = handler

    def connected(self) -> Mapping[bytes, PeerStatus]:
        """Every allowed peer and its state."""
        return {
            peer.peer_id: PeerStatus(peer.state, peer.address, peer.last_seen, peer.last_error)
            for peer in self._peers.values()
        }

    async def changed(self) -> None:
        """Return at the next change of a status or a counter."""
        await self._bell.wait()

    def set_allowed(self, peers: Mapping[bytes, str]) -> None:
        """Take the registry as it is now."""
        wanted = {peer_id: address for peer_id, address in peers.items() if peer_id != self.peer_id}
        for peer_id in set(self._peers) - set(wanted):
            peer = self._peers.pop(peer_id)
            peer.scope.cancel()
            self._service.forget(peer_id)
            self._service.count("dropped")
            if self._nursery is not None:
                self._nursery.start_soon(self._disconnect, peer)
        for peer_id, address in wanted.items():
            if peer_id in self._peers:
                self._peers[peer_id].address = address
                self._peers[peer_id].bell.ring()
            else:
                self._peers[peer_id] = _Peer(peer_id, address)
                if self._nursery is not None:
                    self._nursery.start_soon(self._keep, self._peers[peer_id])
        self._bell.ring()

    async def request(self, peer_id: bytes, message: Request, timeout_s: float) -> Reply:
        """Ask one peer one thing."""
        peer = self._peers.get(peer_id)
        if peer is None:
            raise NotAPeer(f"{peer_id.hex()[:80]} is not a peer of this network")
        if peer.state is not Link.CONNECTED:
            raise PeerUnreachable(f"no connection to {peer.name}: {peer.last_error or 'not reached yet'}")
        body = encode(message)
        with trio.move_on_after(timeout_s):
            async with peer.slots:
                answer = await self._ask(peer, body, reply_cap(message), timeout_s)
            self.counters.asked(type(message).__name__, len(body), len(answer))
            reply = decode_reply(answer, message)
            peer.last_seen = time.time()
            return reply
        raise PeerSilent(f"{peer.name} did not answer {type(message).__name__} within {timeout_s:g} s")

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and answer until cancelled."""
        _check_free(self._listen)
        _harden()
        self._swarm = self._new_swarm()
        self._host = BasicHost(
            self._swarm,
            default_protocols=OrderedDict({TProtocol(PROTOCOL): self._on_stream}),
            disable_identify_address_discovery=True,
            negotiate_timeout=NEGOTIATION_S,
            announce_addrs=[],
        )
        for notifee in [n for n in self._swarm.notifees if type(n).__name__ == "_IdentifyNotifee"]:
            self._swarm.remove_notifee(notifee)
        self._swarm.register_notifee(_Watch(self))
        listening = False
        try:
            async with self._host.run([self._listen]):
                addresses = tuple(str(address) for address in self._host.get_transport_addrs())
                listening = bool(addresses)
                try:
                    if listening:
                        await self._keep_all(addresses, task_status)
                finally:
                    # Shielded: libp2p's own way out, once cancelled, leaves the port open.
                    with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
                        await self._swarm.sever()
                        await self._swarm.close()
        finally:
            self._host = self._swarm = None
            for peer in self._peers.values():
                peer.state = Link.DOWN
                peer.idle.clear()
            self._bell.ring()
        if not listening:
            raise LocalFault(f"cannot listen on {self._listen}")

    # --- what libp2p's hooks ask -------------------------------------------------------------------------------------

    def allows(self, peer_id: bytes) -> bool:
        """Whether this id is in the allowed set now."""
        return peer_id in self._peers

    def stranger(self, name: str, direction: str) -> None:
        """Somebody outside the allowed set was refused."""
        _log.info("refused a connection (%s) of a stranger, %s", direction, name)
        self._service.count("strangers")

    def barred(self, peer_id: bytes) -> bool:
        """Whether this peer broke a limit a moment ago."""
        peer = self._peers.get(peer_id)
        return peer is not None and trio.current_time() < peer.barred_until

    def broke(self, peer_id: bytes, why: str) -> None:
        """A connection of this peer was closed because it broke a limit."""
        self._service.count("broken")
        if peer_id in self._peers:
            self._peers[peer_id].barred_until = trio.current_time() + BARRED_S
            self._peers[peer_id].last_error = why

    def moved(self, peer_id: bytes) -> None:
        """A connection of this peer was made or lost."""
        if peer_id in self._peers:
            self._peers[peer_id].bell.ring()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _new_swarm(self) -> _Swarm:
        key_pair = create_new_key_pair(self._key.to_bytes())
        noise = NoiseTransport(key_pair, noise_privkey=create_new_noise_key_pair().private_key)
        store = PeerStore()
        peer_id = ID.from_pubkey(key_pair.public_key)
        store.add_key_pair(peer_id, key_pair)
        swarm = _Swarm(
            _Lobby(lambda: self._service.count("displaced")),
            peer_id,
            store,
            TransportUpgrader({NOISE_ID: noise}, {TProtocol(yamux.PROTOCOL_ID): _Yamux}),
            transports=[TCP()],
            retry_config=RetryConfig(max_retries=0),  # this file redials
            connection_config=ConnectionConfig(
                max_connections=MAX_CONNECTIONS,
                max_connections_per_peer=MAX_CONNECTIONS_PER_PEER,
                high_watermark=MAX_CONNECTIONS,
                min_connections=0,
                low_watermark=0,
                dial_timeout=self._limits.dial_s,
                inbound_upgrade_timeout=UPGRADE_S,
                outbound_upgrade_timeout=UPGRADE_S,
            ),
        )
        swarm.set_resource_manager(_Gate(self))
        return swarm

    async def _keep_all(self, addresses: tuple[str, ...], task_status: Started) -> None:
        async with trio.open_nursery() as self._nursery:
            try:
                for peer in self._peers.values():
                    self._nursery.start_soon(self._keep, peer)
                task_status.started(addresses)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _keep(self, peer: _Peer) -> None:
        """Keep one peer connected until it leaves the allowed set."""
        with peer.scope:
            pause = self._limits.redial_min_s
            if self.peer_id > peer.peer_id:
                await self._wait_for_connection(peer, HEAD_START_S)
            while True:
                try:
                    self._state(peer, Link.CONNECTING)
                    await self._connect(peer)
                    await self._greet(peer)
                    while True:
                        await self._wait_while_connected(peer, self._limits.heartbeat_s)
                        await self._greet(peer)
                        pause = self._limits.redial_min_s  # one that lets us in to throw us out is dialled ever later
                except NodeError as error:  # the peer's silence or answer, or a hello that cannot be said now
                    if error.message != peer.last_error:
                        _log.info("no connection to %s: %s", peer.name, error)
                    peer.last_error = error.message
                self._state(peer, Link.DOWN)
                await self._disconnect(peer)
                await self._wait_for_connection(peer, pause * self._random.uniform(0.75, 1.25))
                pause = min(pause * 2, self._limits.redial_max_s)

    def _state(self, peer: _Peer, state: Link) -> None:
        if peer.state is not state:
            if Link.CONNECTED in (peer.state, state):
                _log.info("%s is connected" if state is Link.CONNECTED else "%s is not connected any more", peer.name)
            peer.state = state
            self._bell.ring()

    def _live(self, peer: _Peer) -> bool:
        return self._swarm is not None and any(not c.is_closed for c in self._swarm.get_connections(peer.id))

    async def _wait_for_connection(self, peer: _Peer, at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            while not self._live(peer):
                await peer.bell.wait()

    async def _wait_while_connected(self, peer: _Peer, at_most_s: float) -> None:
        with trio.move_on_after(at_most_s):
            while self._live(peer):
                await peer.bell.wait()
        if not self._live(peer):
            raise PeerUnreachable(f"{peer.name} closed the connection")

    async def _connect(self, peer: _Peer) -> None:
        if self._live(peer):
            return
        if self.barred(peer.peer_id):
            raise PeerUnreachable(f"{peer.name} broke a limit: {peer.last_error}")
        if not peer.address or self._host is None or self._swarm is None:
            raise PeerUnreachable(f"{peer.name} has not connected to us, and we know no address of it")
        try:
            with trio.fail_after(self._limits.dial_s):
                self._swarm.unblock_peer(peer.id)
                self._swarm.peerstore.clear_addrs(peer.id)  # only the registry says where a peer is
                await self._host.connect(PeerInfo(peer.id, [_parse_address(peer.address, peer.peer_id)]))
        except trio.TooSlowError:
            raise PeerUnreachable(
                f"{peer.name} at {peer.address}: no answer within {self._limits.dial_s:g} s"
            ) from None
        except Exception as error:  # SwarmException, OSError, an ExceptionGroup of them: the dial has failed
            raise PeerUnreachable(f"{peer.name} at {peer.address}: {_reason(error)}") from None

    async def _greet(self, peer: _Peer) -> None:
        """One heartbeat. Any answer is a sign of life, unless it says that we are on different networks."""
        message = self._hello()
        with trio.move_on_after(self._limits.silence_s) as scope:
            said = encode(message)
            body = await self._ask(peer, said, reply_cap(message), self._limits.silence_s)
            self.counters.asked(type(message).__name__, len(said), len(body))
            reply = decode_reply(body, message)
        if scope.cancelled_caught:
            self._service.count("frozen")
            raise PeerSilent(f"{peer.name} did not answer a heartbeat within {self._limits.silence_s:g} s")
        if isinstance(reply, Refusal) and reply.code == "wrong-network":
            raise PeerUnreachable(f"{peer.name} is on another network: {reply.reason}")
        peer.last_seen = time.time()
        peer.last_error = None
        self._state(peer, Link.CONNECTED)

    async def _ask(self, peer: _Peer, body: bytes, cap: int, timeout_s: float) -> bytes:
        """Send `body` on a stream of this peer and read one frame; on any fault the stream is reset."""
        while True:
            stream, used = await self._stream(peer)
            try:
                await _write_frame(stream, body, timeout_s)
                reply = await _read_frame(stream, cap, timeout_s, timeout_s)
            except NodeError:
                await _reset(stream)
                raise
            except Exception as error:  # libp2p's stream and connection faults, a deadline of our own
                await _reset(stream)
                if used and self._live(peer) and not isinstance(error, trio.TooSlowError):
                    continue  # the peer had closed it while it lay idle; a request may be repeated
                raise PeerSilent(f"{peer.name}: {_reason(error)} before its answer") from None
            except BaseException:
                await _reset(stream)
                raise
            peer.idle.append((stream, trio.current_time()))
            return reply

    async def _stream(self, peer: _Peer) -> tuple[INetStream, bool]:
        """A stream to `peer`, and whether it was used before."""
        while peer.idle:
            stream, since = peer.idle.pop()
            # Half of what the other side allows, so that it is not closed under our hands.
            if trio.current_time() - since < self._limits.idle_s / 2 and not stream.is_closed:  # type: ignore[attr-defined]
                return stream, True
            await _reset(stream)
        if self._host is None or not self._live(peer):
            raise PeerUnreachable(f"no connection to {peer.name}")
        try:
            return await self._host.new_stream(peer.id, [TProtocol(PROTOCOL)]), False
        except Exception as error:  # StreamFailure, SwarmException, muxer faults
            raise PeerUnreachable(f"{peer.name}: {_reason(error)}") from None

    async def _disconnect(self, peer: _Peer) -> None:
        """Close every connection of a peer."""
        peer.idle.clear()
        if self._swarm is not None:
            swarm = self._swarm
            await swarm.sever(peer.id)
            await swarm.close_peer(peer.id)

    async def _on_stream(self, stream: INetStream) -> None:
        """Answer one stream of one peer until it ends, idles, dawdles or breaks the format."""
        peer_id = stream.muxed_conn.peer_id.to_bytes()
        if not self.allows(peer_id):
            self.stranger(str(stream.muxed_conn.peer_id), "stream")
            await _reset(stream)
            return
        quota = self._service.quota(peer_id)
        if quota.streams >= self._limits.streams_per_peer:
            self._service.count("crowded")
            await _reset(stream)
            return
        quota.streams += 1
        try:
            await self._answer_all(peer_id, stream)
        except trio.TooSlowError:
            self._service.count("slow")
        except Exception as error:  # EOF, reset, a connection that went away: the stream is over
            _log.debug("a stream of %s ended: %s", stream.muxed_conn.peer_id, _reason(error))
        finally:
            quota.streams -= 1
            await _reset(stream)

    async def _answer_all(self, peer_id: bytes, stream: INetStream) -> None:
        limits = self._limits
        while True:
            try:
                body = await _read_frame(stream, MAX_REQUEST_BYTES, limits.idle_s, limits.frame_s)
            except WireError as error:
                self._service.count("malformed")
                await _write_frame(stream, self._service.malformed(error), limits.frame_s)
                await stream.close()
                return
            peer = self._peers.get(peer_id)
            if peer is None:
                return
            peer.last_seen = time.time()
            try:
                reply = await self._service.answer(peer_id, body)
            except WireError as error:
                peer.last_error = error.message
                await _write_frame(stream, self._service.malformed(error), limits.frame_s)
                await stream.close()
                return
            if not self.allows(peer_id):
                return
            await _write_frame(stream, reply, limits.frame_s)


def _reason(error: BaseException) -> str:
    """One line about a fault of libp2p, which likes groups, causes and empty messages."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    seen: list[str] = []
    step: BaseException | None = error
    while step is not None and len(seen) < 3:
        seen.append(str(step)[:200] or type(step).__name__)
        step = step.__cause__
    return ": ".join(dict.fromkeys(seen))


# --------------------------------------------------------------------------------------------------------------------
# For `koinon node doctor`


def dial_target(address: str) -> tuple[str, int]:
    """The host (a name or an IP address) and the TCP port of a multiaddress; `InputError` for another kind."""
    parsed = _parse_address(address.partition("/p2p/")[0])
    return str(parsed.value_for_protocol(parsed.protocols()[0].code)), int(parsed.value_for_protocol("tcp"))


async def identify(stream: trio.SocketStream, key: PeerKey) -> bytes:
    """Who answers at the other end of a TCP connection, by its own proof: a Noise handshake and nothing after it.

    The other side sees a connection that ends before any protocol begins: no connection of a running node of ours is
    disturbed, and with the key of a member nobody is counted as a stranger.

    Raises:
        PeerUnreachable: it speaks no libp2p with Noise, or proves nothing.
    """
    pair = create_new_key_pair(key.to_bytes())
    noise = NoiseTransport(pair, noise_privkey=create_new_noise_key_pair().private_key)
    raw = RawConnection(TrioTCPStream(stream), True)
    try:
        with trio.fail_after(UPGRADE_S):
            await SecurityMultistream({NOISE_ID: noise}).select_transport(raw, True)
            secured = await noise.get_pattern().handshake_outbound(raw, None)
    except trio.TooSlowError:
        raise PeerUnreachable(f"no Noise handshake within {UPGRADE_S:g} s") from None
    except Exception as error:  # negotiation, handshake and signature faults, a connection that broke
        raise PeerUnreachable(f"no Noise handshake: {_reason(error)}") from None
    return bytes(secured.get_remote_peer().to_bytes())
