"""The in-memory contracts and those in Solidity, side by side under the same random acts.

Block hashes and addresses differ, so identifiers do; everything else must be equal: which records, of whom, with which
reasons, which errors with which numbers, and at which offset from the round's open.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass

import pytest

from crypto.digest import Digest
from node.abi import Codec
from node.errors import CallReverted
from node.memory.ledger import MemoryLedger, memory_contracts
from node.memory.rounds import Phase
from node.records import Abstentions, Call, Commits, Committed, Haves, RoundFailure, RoundOpened, Sent
from tests.node.ledger.conftest import START, Chain, world_on
from tests.node.ledger.world import JUNK, World, founding, word

pytestmark = pytest.mark.slow  # two ledgers, of which one is a real EVM

N = 4
STEPS = 60


class Twin:
    """One of the two worlds: its open round, and seconds since the first one opened. Every act has an exact stamp."""

    def __init__(self, world: World, stamp: Callable[[int], object]) -> None:
        self.world = world
        self._stamp = stamp
        _, self.opened = world.study(suspend_after=2, suspend_rounds=1, rounds=1_000, max_round_age=900)
        self._start = self.opened.opened_at
        self._elapsed = 0

    def send(self, call: Call) -> object:
        """Carry a call in a block stamped one second after the last act; what came of it."""
        self._elapsed += 1
        self._stamp(self._start + self._elapsed)
        return self.seen(self.world.ledger.send(call))

    def tell_time(self) -> None:
        """Let the ledger know the stamp that the next act will have."""
        self._stamp(self._start + self._elapsed + 1)

    @property
    def committed(self) -> int:
        """Who committed to the open round."""
        return sum(1 << one.member for one in self.world.all(Committed) if one.round_id == self.opened.round_id)

    def act(self, act: tuple[object, ...]) -> object:
        world, opened = self.world, self.opened
        try:
            match act:
                case ("wait", int() as offset):
                    self._elapsed += offset
                    return None
                case ("commit", list() as members, bool() as junk):
                    entries = [world.commit_entry(opened.round_id, member) for member in members]
                    if junk:
                        entries.append(type(entries[0])(3, word("u"), word("d"), Digest(bytes(32)), JUNK))
                    return self.send(Commits(opened.study, opened.round_id, tuple(entries)))
                case ("abstain", list() as members):
                    abstained = tuple((member, world.abstention(opened.round_id, member)) for member in members)
                    return self.send(Abstentions(opened.study, opened.round_id, abstained))
                case ("have", int() as attempt, dict() as bitmaps):
                    haves = [world.have_entry(opened.round_id, attempt, m, held) for m, held in bitmaps.items()]
                    return self.send(Haves(opened.study, opened.round_id, attempt, tuple(haves)))
                case ("result", int() as attempt, int() as decided, int() as codes, list() as voters):
                    invalid = sum(1 << i for i in range(N) if codes >> 4 * i & 15)
                    included = decided & ~invalid
                    model = included.bit_count() >= 3
                    result = world.result(
                        opened.round_id,
                        included,
                        codes=codes,
                        outcome=1 if model else 2,
                        model_root=word(f"model {opened.height}") if model else opened.parent_model,
                    )
                    return self.send(world.finalisation(opened.round_id, attempt, decided, result, voters))
                case _:
                    return self.send(RoundFailure(opened.study, opened.round_id))
        except CallReverted as error:
            return error.error, {name: value for name, value in error.operands.items() if isinstance(value, int)}

    def seen(self, sent: Sent) -> object:
        """What came, without identifiers and absolute times."""
        for record in sent.records:
            if isinstance(record, RoundOpened):
                self.opened = record
        return [(type(record).__name__, _plain(record)) for record in sent.records]


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.name != "opened_at"}
    return None if isinstance(value, Digest) else value


def some_act(rng: random.Random, phase: Phase, attempt: int, committed: int) -> tuple[object, ...]:
    """Mostly what the phase calls for, sometimes anything."""
    if rng.random() < 0.15:
        phase = Phase(rng.randrange(1, 6))
    if rng.random() < 0.1:
        attempt = rng.randrange(4)
    members = rng.sample(range(N), rng.randint(2, N))
    if phase is not Phase.FAILED and rng.random() < 0.3:
        return "wait", rng.choice((10, 35, 45, 61, 121))
    match phase:
        case Phase.TRAINING if rng.random() < 0.2:
            return "abstain", members[:1]
        case Phase.TRAINING:
            return "commit", members, rng.random() < 0.3
        case Phase.REVEAL if rng.random() < 0.5:
            return "wait", 61
        case Phase.HAVE if rng.random() < 0.8:
            return "have", attempt, {member: rng.choice((15, 7, 3, 14)) & committed for member in members}
        case Phase.REVEAL | Phase.HAVE | Phase.VOTE:
            decided = committed if rng.random() < 0.7 else rng.choice((15, 7, 3))
            voters = sorted(rng.sample(range(N), rng.choice((2, 3, 3, 4))))
            return "result", attempt, decided, rng.choice((0, 0, 0, 0x7000, 0x0030)), voters
        case _:
            return ("fail",)


@pytest.mark.parametrize("seed", range(6))
def test_both_ledgers_answer_every_act_alike(anvil: Chain, codec: Codec, seed: int) -> None:
    remote = world_on(anvil, codec, N)
    keys, auditors = remote.keys, remote.auditors
    now = [START]
    ledger = MemoryLedger(*founding(keys, auditors, memory_contracts()), clock=lambda: now[0])
    local = World(ledger, keys, auditors, lambda seconds: now.__setitem__(0, ledger.head().time + seconds))
    twins = (
        Twin(remote, lambda moment: anvil.client().call("evm_setNextBlockTimestamp", moment)),
        Twin(local, lambda moment: now.__setitem__(0, moment)),
    )
    rng = random.Random(seed)
    for number in range(STEPS):
        twins[1].tell_time()
        clock = ledger.phase(twins[1].opened.round_id)
        act = some_act(rng, clock.phase, clock.attempt, twins[1].committed)
        answers = [twin.act(act) for twin in twins]
        assert answers[0] == answers[1], f"act {number}: {act}"
