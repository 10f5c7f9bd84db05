"""Two networks with one face: the same tests run in process and over real sockets on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from crypto.keys import PeerKey
from node.doors import Limits, Link, Transport
from node.memory.transport import MemoryNetwork, MemoryTransport
from node.messages import Hello, Refusal, Reply, Request, Welcome
from node.transport import LibP2PTransport

FAST = Limits(
    heartbeat_s=0.4, silence_s=1.0, redial_min_s=0.05, redial_max_s=0.4, frame_s=1.0, dial_s=3.0, handler_s=5.0
)
PATIENCE_S = 15.0


async def polite(peer_id: bytes, request: Request) -> Reply:
    """Answers a greeting and nothing else."""
    if isinstance(request, Hello):
        return Welcome(request.block, "ok")
    return Refusal("not-found", type(request).__name__)


class Network:
    """Makes, starts and stops transports of one kind."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.fast = FAST
        self._nursery = nursery
        self._memory = MemoryNetwork()
        self._scopes: dict[Transport, trio.CancelScope] = {}
        self._ended: dict[Transport, trio.Event] = {}

    def make(self, seed: int, handler: Any = polite, port: int = 0, hello: Any = None, **limits: Any) -> Any:
        key = PeerKey(bytes([seed]) * 32)
        say = hello or (lambda: Hello(31337, b"m" * 20, 7))
        made: Transport
        if self.kind == "memory":
            made = MemoryTransport(self._memory, key.peer_id, say, replace(FAST, **limits))
        else:
            made = LibP2PTransport(key, f"/ip4/127.0.0.1/tcp/{port}", say, replace(FAST, **limits))
        made.serve(handler)
        return made

    async def start(self, transport: Transport) -> str:
        """Run it; returns its address."""
        scope, ended = trio.CancelScope(), trio.Event()

        async def run(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            try:
                with scope:
                    await transport.run(task_status=task_status)
            finally:
                ended.set()

        addresses = await self._nursery.start(run)
        self._scopes[transport], self._ended[transport] = scope, ended
        return str(addresses[0])

    async def stop(self, transport: Transport) -> None:
        self._scopes[transport].cancel()
        with trio.fail_after(PATIENCE_S):
            await self._ended[transport].wait()

    async def link(self, *transports: Transport) -> list[str]:
        """Start them all, let each allow each, and wait until all are connected."""
        addresses = [await self.start(transport) for transport in transports]
        known = {t.peer_id: address for t, address in zip(transports, addresses, strict=True)}
        for transport in transports:
            transport.set_allowed(known)
        for transport in transports:
            for other in transports:
                if other is not transport:
                    await self.connected(transport, other)
        return addresses

    async def connected(self, transport: Transport, other: Transport) -> None:
        await self.until(transport, lambda: transport.connected()[other.peer_id].state is Link.CONNECTED)

    async def until(self, transport: Transport, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, looking whenever the transport says that something has changed."""
        with trio.fail_after(PATIENCE_S):
            while not holds():
                await transport.changed()


@pytest.fixture(params=["memory", "libp2p"])
async def network(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Network]:
    yield Network(request.param, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def sockets(nursery: trio.Nursery) -> AsyncIterator[Network]:
    yield Network("libp2p", nursery)
    nursery.cancel_scope.cancel()
