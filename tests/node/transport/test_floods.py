"""The production transport in a process of its own, under attack by peers and strangers on real sockets.

Of each attack: an honest peer is answered all the while, and the process never holds more than `ROOM` above what it
began with. Its counters say what happened.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.keys import PeerKey
from node.doors import Link
from node.messages import Hello, Notices, Pull, Welcome
from node.transport import MAX_CONNECTIONS_PER_PEER, MAX_UNREAD_BYTES, LibP2PTransport
from tests.fakes.byzantine_peers import MEMBERS, STRANGERS, Aim
from tests.fakes.target import NETWORK, ROOT

pytestmark = pytest.mark.slow  # a process, and seconds of every attack

TARGET, HONEST = 1, 3
ATTACKS = dict(enumerate((*MEMBERS, *STRANGERS), 10))
"""Each by another registered peer, of this seed: a peer that breaks a limit is left alone for a while."""
ROOM = MAX_CONNECTIONS_PER_PEER * MAX_UNREAD_BYTES + (24 << 20)
"""What one attacker may make the process hold at its peak: unread bytes of its connections; and what passes through."""
ANSWER_S = 20.0
"""An honest request is answered within this: twice the silence after which a peer is dropped, on a busy machine."""


@dataclass
class Target:
    """The attacked process."""

    process: subprocess.Popen[str]
    address: str
    peer_id: bytes

    def peak(self) -> int:
        """Bytes it has held at most since `rest`."""
        return self._status("VmHWM")

    def rest(self) -> int:
        """Forget the peak; the bytes it holds now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self._status("VmRSS")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

    def report(self) -> dict[str, Any]:
        """Its counters and peers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("report\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    command = [sys.executable, "-m", "tests.fakes.target", str(TARGET), str(HONEST), *map(str, ATTACKS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Target(process, process.stdout.readline().strip(), PeerKey(bytes([TARGET]) * 32).peer_id)
        assert process.stdin is not None
        process.stdin.close()  # it ends with its input
        assert process.wait(20) == 0


@pytest.fixture
async def honest(target: Target, nursery: trio.Nursery) -> AsyncIterator[LibP2PTransport]:
    made = LibP2PTransport(PeerKey(bytes([HONEST]) * 32), "/ip4/127.0.0.1/tcp/0", lambda: Hello(*NETWORK, 7))
    await nursery.start(made.run)
    made.set_allowed({target.peer_id: target.address})
    with trio.fail_after(ANSWER_S):
        while made.connected()[target.peer_id].state is not Link.CONNECTED:
            await made.changed()
    yield made
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", ATTACKS, ids=lambda seed: ATTACKS[seed][0].__name__)
async def test_an_attack_costs_a_bounded_room_and_no_honest_peer_its_answers(
    seed: int, target: Target, honest: LibP2PTransport
) -> None:
    attack, counter = ATTACKS[seed]
    told = target.report()["counters"]
    before = target.rest()
    over = False
    answered = 0

    async def ask() -> None:
        nonlocal answered
        while not over or not answered:
            assert await honest.request(target.peer_id, Pull(ROOT), ANSWER_S) == Notices(())
            answered += 1
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.fail_after(60):
            await attack(Aim(target.address, target.peer_id, PeerKey(bytes([seed]) * 32)))
        over = True
    assert target.process.poll() is None
    assert target.peak() - before <= ROOM
    with trio.fail_after(60):  # what it was is said when the connection is gone
        while counter is not None and target.report()["counters"][counter] <= told[counter]:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert target.report()["peers"][honest.peer_id.hex()][0] == "connected"
    assert isinstance(await honest.request(target.peer_id, Hello(*NETWORK, 7), ANSWER_S), Welcome)
