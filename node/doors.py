"""What the node expects of its connection to peers, without a word about how it is made.

What may live here: the `Transport` protocol, the values it hands out, its limits and its errors. What this file does
not know: libp2p, sockets, msgpack. `node/transport.py` (libp2p) and `node/memory/transport.py` (in process) implement
it and pass the same tests.

A peer is named by its libp2p peer id, 38 bytes, and nothing it says about itself is believed: a `Transport` hands a
request to the handler only after the peer has proved that id and only while the id is in the allowed set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import trio

from node.errors import LocalError, TimedOut
from node.messages import Hello, Reply, Request

Handler = Callable[[bytes, Request], Awaitable[Reply]]
"""Answers one request of one peer. Runs for several requests at once; what it raises is answered as `busy`."""

HelloSource = Callable[[], Hello]
"""What to say first, and at every heartbeat: our network and our newest block."""


MAX_KINDS = 512
"""Kinds of lines and peers that `Sparing` tells apart: four lines about 128 peers."""


class PeerUnreachable(TimedOut):
    """There is no connection to this peer now; nothing was sent. The transport keeps dialling by itself."""


class PeerSilent(TimedOut):
    """The peer was asked and gave no whole answer in time, or the connection broke first: it may have acted or not."""


class NotAPeer(LocalError):
    """This id is not in the allowed set, so there is nobody to ask."""


class Started(Protocol):
    """How a task says that it is up: what `trio.Nursery.start` hands to it."""

    def started(self, value: tuple[str, ...]) -> None:
        """Report `value`, the addresses listened on."""
        ...


class Link(Enum):
    """How things stand with a peer."""

    DOWN = "down"
    CONNECTING = "connecting"
    CONNECTED = "connected"


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One allowed peer: `last_seen` in unix seconds, None if it never spoke; `last_error` since it was last well."""

    state: Link
    address: str
    last_seen: float | None = None
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may cost us, and how long we wait. Seconds and bytes; the defaults suit a wide-area network.

    Precedents: nginx closes an idle keep-alive connection after 75 s and a request head after 60 s; go-libp2p allows a
    peer 256 inbound streams and dials for 15 s; gRPC sends keep-alives every 20 s at most.
    """

    streams_per_peer: int = 8
    """Open request streams of one peer at our side. A peer of the same build opens at most five."""
    requests_at_once: int = 4
    """Requests of one peer being handled at the same time; one more is refused as busy."""
    requests_per_s: float = 100.0
    """Requests of one peer, where each notice in an `Offer` counts as one: that is what costs a signature check."""
    request_burst: float = 400.0
    bytes_per_s: float = 64.0 * (1 << 20)
    """Request and reply bytes of one peer together."""
    bytes_burst: float = 256.0 * (1 << 20)
    handler_s: float = 30.0
    """A request is answered within this time or refused as busy."""
    frame_s: float = 20.0
    """From the first byte of a message to its last: what a slow sender is given."""
    idle_s: float = 300.0
    """A stream on which nobody asks anything is closed after this."""
    dial_s: float = 10.0
    heartbeat_s: float = 10.0
    """Pause between two heartbeats to a peer."""
    silence_s: float = 10.0
    """A peer that does not answer a heartbeat for this long is dropped."""
    redial_min_s: float = 0.25
    redial_max_s: float = 20.0


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class Traffic:
    """Requests of one kind that were answered, and the bytes of the messages."""

    requests: int = 0
    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class Counters:
    """What went wrong at our door since the start, for metrics."""

    strangers: int = 0
    """Connections or streams refused because the peer is not allowed."""
    malformed: int = 0
    """Messages refused by the codec, and frames longer than any request."""
    busy: int = 0
    """Requests refused for their number, their bytes or their time."""
    slow: int = 0
    """Streams closed because a message did not arrive in time."""
    crowded: int = 0
    """Streams refused because the peer has too many."""
    frozen: int = 0
    """Peers dropped because a heartbeat was not answered."""
    dropped: int = 0
    """Peers disconnected because they left the allowed set."""
    failed: int = 0
    """Requests on which our handler raised."""
    broken: int = 0
    """Connections closed because the peer broke the muxer's limits: window, frame, streams, unread bytes."""
    displaced: int = 0
    """Connections closed before they had proved an id, to make room for later ones."""
    traffic: dict[str, Traffic] = field(default_factory=dict)
    """Kind of request -> what was asked of peers. What peers asked of us is in their own figures."""

    def asked(self, kind: str, sent: int, received: int) -> None:
        """A request of ours was answered: `sent` and `received` bytes of messages, frames and encryption left out."""
        known = self.traffic.setdefault(kind, Traffic())
        known.requests, known.sent, known.received = known.requests + 1, known.sent + sent, known.received + received


class Bell:
    """Wakes all who wait for a change. Whoever awaits nothing between test and wait misses none."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Return at the next ring."""
        await self._event.wait()


@dataclass(slots=True)
class Bucket:
    """A token bucket that may go into debt by one withdrawal: a reply's size is known only after it was made."""

    rate: float
    burst: float
    clock: Callable[[], float] = trio.current_time
    level: float = field(init=False)
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.burst
        self.since = self.clock()

    def open(self) -> bool:
        """Whether anything is left now."""
        now = self.clock()
        self.level = min(self.burst, self.level + (now - self.since) * self.rate)
        self.since = now
        return self.level > 0

    def spend(self) -> bool:
        """Take one out if anything is left; whether there was."""
        if not self.open():
            return False
        self.take(1)
        return True

    def take(self, amount: float) -> None:
        """Take `amount` out, also what is not there."""
        self.level -= amount

    def give(self, amount: float) -> None:
        """Put `amount` back, up to the burst."""
        self.level = min(self.burst, self.level + amount)

    def wait_s(self) -> float:
        """Seconds until something is left."""
        return 0.0 if self.open() else max(-self.level / self.rate, 1e-3)


class Sparing(logging.Filter):
    """Keeps a log from being flooded by what others do: a line of one kind about one peer now and then, after a burst.

    The kind of a line is its text before anything is filled in; the peer is whatever is filled in first. What was left
    out is counted in the next line of its kind.
    """

    def __init__(self, per_s: float = 1 / 60, burst: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Let `burst` lines of a kind and peer pass at once, then `per_s`."""
        super().__init__()
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left: dict[tuple[object, object], Bucket] = {}
        self._omitted: dict[tuple[object, object], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it. Who reads at debug level wants every line of that level."""
        if record.levelno < logging.INFO:
            return True
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        key = (record.msg, about)
        if key not in self._left and len(self._left) >= MAX_KINDS:
            key = (record.msg, None)
        left = self._left.setdefault(key, Bucket(self._per_s, self._burst, self._clock))
        if not left.open() or left.level < 1:
            self._omitted[key] = self._omitted.get(key, 0) + 1
            return False
        left.take(1)
        omitted = self._omitted.pop(key, 0)
        if omitted:
            record.msg = f"{record.msg} ({omitted} more like it not written)"
        return True


class Quota:
    """What one peer has used of its `Limits`."""

    def __init__(self, limits: Limits) -> None:
        """Start with full buckets. Called inside a trio run: the buckets read its clock."""
        self._limits = limits
        self._requests = Bucket(limits.requests_per_s, limits.request_burst)
        self._bytes = Bucket(limits.bytes_per_s, limits.bytes_burst)
        self._running = 0
        self.streams = 0

    def refuse(self, weight: int = 1) -> str | None:
        """Why one more request is too much now, or None; one that is let in has been counted as `weight` requests."""
        if self._running >= self._limits.requests_at_once:
            return f"{self._running} requests are being handled already"
        if not self._requests.open():
            return f"more than {self._limits.requests_per_s:g} requests a second"
        if not self._bytes.open():
            return f"more than {self._limits.bytes_per_s:g} bytes a second"
        self._requests.take(weight)
        self._running += 1
        return None

    def spent(self, size: int) -> None:
        """Charge `size` bytes that were read or written."""
        self._bytes.take(size)

    def done(self) -> None:
        """A request that was let in has ended."""
        self._running -= 1


class Transport(Protocol):
    """Requests out, requests in, and the state of every allowed peer."""

    counters: Counters

    @property
    def peer_id(self) -> bytes:
        """Our own id, 38 bytes."""
        ...

    def serve(self, handler: Handler) -> None:
        """Answer requests with `handler` from now on. Until it is set, every request is refused as busy."""
        ...

    def set_allowed(self, peers: Mapping[bytes, str]) -> None:
        """Peer id -> multiaddress (empty: it dials us) of everyone we may speak with, as the registry has it now.

        Connections to new peers are made, those to removed peers are ended at once. Our own id is skipped. Addresses
        are members' own words: one that cannot be used costs its peer the dial, and `last_error` says why.
        """
        ...

    def connected(self) -> Mapping[bytes, PeerStatus]:
        """Every allowed peer and how things stand with it."""
        ...

    async def changed(self) -> None:
        """Return when a peer's status or a counter has changed since the call."""
        ...

    async def request(self, peer_id: bytes, message: Request, timeout_s: float) -> Reply:
        """Ask a peer and return what it says, which may be a `Refusal`. The peer may receive the request twice.

        Raises:
            NotAPeer: `peer_id` is not in the allowed set.
            PeerUnreachable: there is no connection to it now.
            PeerSilent: no whole answer within `timeout_s`, or the connection broke.
            WireError: the answer is not one to this request.
            Unsendable: `message` breaks the format.
        """
        ...

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and answer until cancelled; reports the addresses it listens on.

        Raises:
            LocalFault: the address to listen on is taken or not ours.
        """
        ...
