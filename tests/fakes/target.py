"""A process with the production transport and nothing else, for whoever attacks it: `python -m tests.fakes.target`.

Arguments: its seed, then the seeds of the peers it allows. It prints the address it listens on; a line on its input is
answered with its counters and peers as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Final

import trio

from crypto.digest import CHUNK_BYTES, Digest
from crypto.keys import PeerKey
from node.messages import (
    Accepted,
    ChunkReply,
    GetChunk,
    GetMap,
    Hello,
    MapReply,
    Notices,
    Offer,
    Pull,
    Refusal,
    Reply,
    Request,
    Welcome,
)
from node.transport import LibP2PTransport

ROOT: Final = Digest(bytes(range(32)))
NETWORK: Final = (31337, b"m" * 20)
CHUNK: Final = os.urandom(CHUNK_BYTES)


async def answer(peer_id: bytes, request: Request) -> Reply:
    """What a node would answer, without a node."""
    match request:
        case Hello():
            return Welcome(0, "ok")
        case GetMap():
            return MapReply(CHUNK_BYTES, (bytes(32),), CHUNK)
        case GetChunk():
            return ChunkReply(CHUNK)
        case Offer():
            return Accepted(len(request.notices))
        case Pull():
            return Notices(())
        case _:
            return Refusal("not-found", "")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(seed: int, *allowed: int) -> None:
    """Run until the input ends."""
    transport = LibP2PTransport(PeerKey(bytes([seed]) * 32), "/ip4/127.0.0.1/tcp/0", lambda: Hello(*NETWORK, 7))
    transport.serve(answer)
    transport.set_allowed({PeerKey(bytes([one]) * 32).peer_id: "" for one in allowed})
    async with trio.open_nursery() as nursery:
        addresses = await nursery.start(transport.run)
        _say(addresses[0])
        while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):  # type: ignore[call-arg]
            peers = {peer.hex(): (one.state.value, one.last_error) for peer, one in transport.connected().items()}
            _say(json.dumps({"counters": asdict(transport.counters), "peers": peers}))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *map(int, sys.argv[1:]))
