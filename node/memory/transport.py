"""The `Transport` inside one process: no sockets, the same messages, the same refusals.

Used by the simulator and by tests. Every request and reply passes through the codec and through `Service`, so that what
travels here would travel over libp2p too. What it leaves out: addresses (everyone allowed on both sides is linked),
bandwidth, and frames that are late or broken on the way. `MemoryNetwork.cut` parts two peers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from node.doors import (
    DEFAULT_LIMITS,
    Bell,
    Counters,
    Handler,
    HelloSource,
    Limits,
    Link,
    NotAPeer,
    PeerSilent,
    PeerStatus,
    PeerUnreachable,
    Started,
)
from node.errors import NodeError
from node.messages import Refusal, Reply, Request
from node.service import Service
from node.wire import WireError, decode_reply, encode


class MemoryNetwork:
    """Who is running, and between whom the line is cut."""

    def __init__(self) -> None:
        """A network of nobody."""
        self._running: dict[bytes, MemoryTransport] = {}
        self._cut: set[frozenset[bytes]] = set()
        self._bell = Bell()

    def cut(self, one: bytes, other: bytes) -> None:
        """Part two peers: what is under way between them is lost."""
        self._cut.add(frozenset((one, other)))
        self.moved()

    def heal(self, one: bytes, other: bytes) -> None:
        """Undo `cut`."""
        self._cut.discard(frozenset((one, other)))
        self.moved()

    def join(self, transport: MemoryTransport) -> None:
        """A transport has started."""
        self._running[transport.peer_id] = transport
        self.moved()

    def leave(self, transport: MemoryTransport) -> None:
        """A transport has stopped."""
        self._running.pop(transport.peer_id, None)
        self.moved()

    def reach(self, one: bytes, other: bytes) -> MemoryTransport | None:
        """The running transport of `other`, if there is a line from `one` to it."""
        return None if frozenset((one, other)) in self._cut else self._running.get(other)

    def moved(self) -> None:
        """Somebody came, went, was cut off or changed its allowed set."""
        self._bell.ring()

    async def changed(self) -> None:
        """Return at the next such change."""
        await self._bell.wait()


@dataclass(eq=False)
class _Peer:
    address: str
    state: Link = Link.DOWN
    last_seen: float | None = None
    last_error: str | None = None
    calls: set[trio.CancelScope] = field(default_factory=set)


class MemoryTransport:
    """One node's end of a `MemoryNetwork`. See `node.doors.Transport` for what each method promises."""

    def __init__(
        self, network: MemoryNetwork, peer_id: bytes, hello: HelloSource, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        """Prepare; nobody sees this end before `run`."""
        self.counters = Counters()
        self._network = network
        self._peer_id = peer_id
        self._hello = hello
        self._limits = limits
        self._bell = Bell()
        self._service = Service(limits, self.counters, self._bell)
        self._peers: dict[bytes, _Peer] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def peer_id(self) -> bytes:
        """Our own id."""
        return self._peer_id

    def serve(self, handler: Handler) -> None:
        """Answer with `handler` from now on."""
        self._service.handler = handler

    def set_allowed(self, peers: Mapping[bytes, str]) -> None:
        """Take the registry as it is now."""
        wanted = {peer_id: address for peer_id, address in peers.items() if peer_id != self._peer_id}
        for peer_id in set(self._peers) - set(wanted):
            self._drop(self._peers.pop(peer_id), "not a peer of this network any more")
            self._service.forget(peer_id)
            self._service.count("dropped")
        for peer_id, address in wanted.items():
            self._peers.setdefault(peer_id, _Peer(address)).address = address
        self._bell.ring()
        self._network.moved()

    def connected(self) -> Mapping[bytes, PeerStatus]:
        """Every allowed peer and its state."""
        return {
            peer_id: PeerStatus(peer.state, peer.address, peer.last_seen, peer.last_error)
            for peer_id, peer in self._peers.items()
        }

    async def changed(self) -> None:
        """Return at the next change of a status or a counter."""
        await self._bell.wait()

    def allows(self, peer_id: bytes) -> bool:
        """Whether this id is in the allowed set now."""
        return peer_id in self._peers

    async def request(self, peer_id: bytes, message: Request, timeout_s: float) -> Reply:
        """Ask one peer one thing."""
        peer = self._peers.get(peer_id)
        if peer is None:
            raise NotAPeer(f"{peer_id.hex()[:80]} is not a peer of this network")
        if peer.state is not Link.CONNECTED:
            raise PeerUnreachable(f"no connection to {peer_id.hex()}: {peer.last_error or 'not reached yet'}")
        return await self._ask(peer_id, peer, message, timeout_s)

    async def run(self, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """Be part of the network until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._network.join(self)
            try:
                task_status.started((f"/memory/{self._peer_id.hex()}",))
                while True:
                    for peer_id, peer in self._peers.items():
                        self._look(peer_id, peer, nursery)
                    with trio.move_on_after(self._limits.heartbeat_s) as pause:
                        await self._network.changed()
                    if pause.cancelled_caught:
                        for peer_id, peer in self._peers.items():
                            if peer.state is Link.CONNECTED:
                                nursery.start_soon(self._greet, peer_id, peer)
            finally:
                self._nursery = None
                self._network.leave(self)
                for peer in self._peers.values():
                    self._drop(peer, "stopped")
                nursery.cancel_scope.cancel()

    def answer_soon(self, peer_id: bytes, body: bytes, reply: trio.MemorySendChannel[bytes]) -> bool:
        """Take the request `body` of `peer_id` and answer into `reply`; False if we are not running.

        The channel is closed without an answer when we stop, or when the peer has left the allowed set meanwhile.
        """
        if self._nursery is None:
            return False
        self._nursery.start_soon(self._answer, peer_id, body, reply)
        return True

    def refused(self) -> None:
        """Somebody outside the allowed set asked."""
        self._service.count("strangers")

    async def _answer(self, peer_id: bytes, body: bytes, reply: trio.MemorySendChannel[bytes]) -> None:
        with reply:
            try:
                frame = await self._service.answer(peer_id, body)
            except WireError as error:
                frame = self._service.malformed(error)
            peer = self._peers.get(peer_id)
            if peer is not None:
                peer.last_seen = time.time()
                with suppress(trio.BrokenResourceError):  # whoever asked has gone
                    reply.send_nowait(frame)

    async def _ask(self, peer_id: bytes, peer: _Peer, message: Request, timeout_s: float) -> Reply:
        target = self._network.reach(self._peer_id, peer_id)
        body = encode(message)
        sender, receiver = trio.open_memory_channel[bytes](1)
        if target is None or not target.answer_soon(self._peer_id, body, sender):
            raise PeerUnreachable(f"no connection to {peer_id.hex()}")
        with trio.CancelScope(deadline=trio.current_time() + timeout_s) as scope, receiver:
            peer.calls.add(scope)
            try:
                answer = await receiver.receive()
                self.counters.asked(type(message).__name__, len(body), len(answer))
                reply = decode_reply(answer, message)
            except trio.EndOfChannel:
                raise PeerSilent(f"{peer_id.hex()}: the connection broke before its answer") from None
            finally:
                peer.calls.discard(scope)
            peer.last_seen = time.time()
            return reply
        if trio.current_time() < scope.deadline:  # not the time: `_drop` ended it
            raise PeerSilent(f"{peer_id.hex()}: the connection broke before its answer")
        raise PeerSilent(f"{peer_id.hex()} did not answer {type(message).__name__} within {timeout_s:g} s")

    def _look(self, peer_id: bytes, peer: _Peer, nursery: trio.Nursery) -> None:
        target = self._network.reach(self._peer_id, peer_id)
        if target is None:
            self._drop(peer, "nobody there")
        elif not target.allows(self._peer_id):
            if peer.state is Link.DOWN:
                target.refused()
            self._drop(peer, "it closed the connection")
        elif peer.state is Link.DOWN:
            peer.state = Link.CONNECTING
            nursery.start_soon(self._greet, peer_id, peer)

    async def _greet(self, peer_id: bytes, peer: _Peer) -> None:
        try:
            reply = await self._ask(peer_id, peer, self._hello(), self._limits.silence_s)
        except NodeError as error:
            if isinstance(error, PeerSilent) and self._network.reach(self._peer_id, peer_id) is not None:
                self._service.count("frozen")
            self._drop(peer, error.message)
            return
        if isinstance(reply, Refusal) and reply.code == "wrong-network":
            self._drop(peer, f"on another network: {reply.reason}")
        elif self._peers.get(peer_id) is peer and peer.state is not Link.CONNECTED:
            peer.state, peer.last_error = Link.CONNECTED, None
            self._bell.ring()

    def _drop(self, peer: _Peer, why: str) -> None:
        for scope in peer.calls:
            scope.cancel()
        if peer.state is not Link.DOWN or peer.last_error is None:
            peer.state, peer.last_error = Link.DOWN, why
            self._bell.ring()
