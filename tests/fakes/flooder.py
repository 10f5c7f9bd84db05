"""A registered member that floods: `python -m tests.fakes.flooder HOME`, with the keys of a member's stopped node.

Against every other seat of the network at once it runs every program of `byzantine_peers`: those of members one after
the other, beside them those of strangers, again and again until its input ends. It prints a line of JSON for each run
that has ended: {"at": seat, "program": name, "why": null or what ended it}.

Whoever breaks a limit of the connection is kept out for a while: of the programs that do there is one after all the
others, at every address another one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

import trio

from crypto.digest import Digest
from node import config, keystore
from node.home import Network, Seat, open_home, read_network, read_password
from node.messages import Pull
from node.wire import PROTOCOL
from tests.fakes.byzantine_peers import MEMBERS, STRANGERS, Aim, Attack, connection, message
from tests.fakes.target import ROOT

PROGRAM_S: Final = 15.0
"""Every program ends by itself before this; a target that holds one up is left alone after it."""
PAUSE_S: Final = 1.0
"""Between two tries to be let in."""
TRIES: Final = 4
"""Of one program that is refused, before it is the next one's turn."""
BREAKERS: Final = (
    "streams_left_open",
    "over_the_window",
    "windows_filled_ahead",
    "a_long_line_on_a_stream",
)
"""They break a limit for certain."""


def aims(home: Path) -> dict[str, Aim]:
    """Every other seat of the network, with the keys of this home, and the largest content that it holds."""
    opened = open_home(home)
    password = read_password(opened, config.load(opened.config_path)["node", "password_file"])
    ring, network = keystore.load(opened, password), read_network(opened.network_path)
    said = (network.contracts.chain_id, network.contracts.membership)
    kept = sorted((one.stat().st_size, one.name) for one in (home / "blobs").rglob("*") if one.is_file())
    subject = Digest.from_hex(kept[-1][1]) if kept else ROOT
    return {
        seat.name: Aim(seat.address, seat.peer_id, ring.peer, said, subject)
        for seat in _seats(network)
        if seat.peer_id != ring.peer.peer_id
    }


def _seats(network: Network) -> Sequence[Seat]:
    return (*network.founders, *network.auditors)


async def as_member(name: str, aim: Aim, place: int) -> None:
    """The members' programs against one address, again and again, each as soon as it is let in."""
    programs = [program for program, _ in MEMBERS]
    quiet = [one for one in programs if one.__name__ not in BREAKERS]
    loud = [one for one in programs if one.__name__ in BREAKERS]
    for turn in count(place):
        for program in (*quiet, loud[turn % len(loud)]):
            for _ in range(TRIES):  # what the one before did may be noticed only now
                await let_in(aim)
                if await run(name, aim, program):
                    break


async def let_in(aim: Aim) -> None:
    """Return when a connection is answered: whoever broke a limit is kept out for a while."""
    while True:
        with suppress(Exception), trio.move_on_after(PROGRAM_S):
            async with connection(aim) as (bare, _, target):
                stream = await bare.new_stream(target, [PROTOCOL])
                await stream.write(message(Pull(aim.subject)))
                if await stream.read(4):
                    return
        await trio.sleep(PAUSE_S)


async def as_stranger(name: str, aim: Aim) -> None:
    """The strangers' programs against one address, again and again."""
    while True:
        for program, _ in STRANGERS:
            await run(name, aim, program)


async def run(name: str, aim: Aim, program: Attack) -> bool:
    """One program against one address; whether it came to its end."""
    why = None
    with trio.move_on_after(PROGRAM_S) as scope:
        try:
            await program(aim)
        except Exception as error:  # refused, thrown out
            why = _reason(error)
    if scope.cancelled_caught:
        why = "time"
    sys.stdout.write(json.dumps({"at": name, "program": program.__name__, "why": why}) + "\n")
    sys.stdout.flush()
    return why is None


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]


async def main(home: Path) -> None:
    """Run until the input ends."""
    async with trio.open_nursery() as nursery:
        for place, (name, aim) in enumerate(aims(home).items()):
            nursery.start_soon(as_member, name, aim, place)
            nursery.start_soon(as_stranger, name, aim)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)  # type: ignore[call-arg]
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
