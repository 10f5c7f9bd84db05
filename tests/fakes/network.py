"""A network in memory whose time belongs to the test: real nodes, real keys, one training worker, a clock that jumps.

The clock moves only when no node has anything under way, so an honest node is never late however slow the machine is,
and a window of minutes takes no time at all. What is under way is counted, never guessed from real time: tasks that can
run, calls in threads, effects, looks at the chain that are due. Members may be replaced by those of
`tests/fakes/byzantine.py`, a member's ledger may lose replies or be out of reach, and every line between two members
may be cut.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import trio
from numpy.typing import NDArray
from trio.testing import wait_all_tasks_blocked

from crypto.digest import ZERO, Digest
from crypto.keys import KeyRing
from crypto.statements import Seat, sign
from fl_engine.data.dataset import Dataset
from fl_engine.unlearning import Unlearner
from fl_engine.worker_client import TrainingWorker
from node import exchange, keystore
from node.app import Node
from node.attestation import attest
from node.audit.home import HomeReader
from node.desk import Desk
from node.doors import DEFAULT_LIMITS, Bell
from node.errors import ChainUnreachable, TimedOut
from node.executor import Executor, local_replay
from node.follower import Follower
from node.history import History, RoundHistory
from node.home import Home, Network, network_json, parse_network
from node.home import Seat as NetworkSeat
from node.memory.ledger import MemoryLedger, memory_contracts
from node.memory.transport import MemoryNetwork, MemoryTransport
from node.messages import Hello
from node.participant import Participant
from node.records import Call, Contracts, Head, Logged, Record, SeatInput, Sent
from node.round import Effect
from node.store import Store
from node.study import Study, parse_sections
from node.training import Arithmetic, LocalTraining, Trainer
from node.vault import Vault

T = TypeVar("T")
START = 1_800_000_000  # 2027-01-15 08:00 UTC
QUARTER_END = 1_893_456_000  # 2030-01-01
POLL_S = 0.02
"""Real seconds after which a node looks at the chain though nothing happened that its network knows of."""
MOMENT_S = 0.001
"""Real seconds between two questions of the network and the test: is anything under way, is it there yet?"""
QUIET_LOOKS = 2
"""Looks at the chain that every node must have made since anything last happened before time moves on: the first reads
what is new, the second finds that it is final."""
LIMITS = replace(DEFAULT_LIMITS, requests_per_s=1000.0, request_burst=4000.0)
"""By real seconds, in which a network in memory does what others do in minutes."""
PATIENCE_S = 180.0
"""Real seconds after which a test that waits for something gives up."""


def dataset(member: int, *, patients: int = 8, records: int = 2, width: int = 6) -> Dataset:
    """Two separable classes of `width` figures; patient ids name the member so that a leak would be seen."""
    generator = np.random.default_rng(100 + member)
    n = patients * records
    y = np.arange(n, dtype=np.int64) % 2
    x = (generator.normal(0, 0.3, (n, width)) + y[:, None]).astype(np.float32)
    names = tuple(f"patient-{member}-{i // records}" for i in range(n))
    return Dataset(x, y, names, np.zeros(n, np.uint8), 2, f"tiny-{member}")


def spec(name: str = "tiny", *, rounds: int = 1, training: dict[str, Any] | None = None, **policy: Any) -> Study:
    """A study on `dataset`s with short windows; other keyword arguments are policies. `training` as in a spec: its
    model is the one that the method is for.
    """
    training = training or {"local_epochs": 1, "batch_size": 4, "learning_rate": 0.05}
    return parse_sections(
        {
            "schema": "koinon.study/1",
            "name": name,
            "task": "npz-classification",
            "rounds": rounds,
            "data": {"input_shape": [6], "classes": 2},
            "model": {"name": "ridge" if training.get("method") == "ridge" else "mlp"},
            "training": training,
            "aggregation": {},
            "windows": {"scribe_s": 14, "grace_s": 4, "reveal_s": 12, "have_s": 16, "vote_s": 12, "purge_s": 12},
            "policy": {"min_consents": 2, **policy},
            "forms": [{"name": "f", "text_sha256": "ab" * 32, "custody": "synthetic", "valid_to": QUARTER_END}],
        }
    )


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class SharedTrainer(Trainer):
    """One real worker for all members of all tests: it is the same code on the same numbers, and torch loads once."""

    def __init__(self, secret: bytes = bytes(32)) -> None:
        super().__init__(600.0, TrainingWorker(600.0), secret=secret)
        self._one = threading.RLock()
        self.trained = 0

    def train(
        self,
        arithmetic: Arithmetic,
        rows: NDArray[np.int64],
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        model: bytes,
        beacon: bytes,
        member: int,
        unlearner: Unlearner | None = None,
        squared_length: int = 0,
    ) -> LocalTraining:
        with self._one:
            self.trained += 1
            return super().train(arithmetic, rows, x, y, model, beacon, member, unlearner, squared_length)

    def stop(self) -> None:
        """A training of milliseconds is let run out; its outcome is thrown away all the same."""

    def forget(self, kept: Set[int]) -> bool:
        with self._one:
            return super().forget(kept)

    def end(self) -> None:
        """End the worker, which outlives every node."""
        self._worker.close()


class Threads:
    """Counts the calls that are in threads, whoever makes them."""

    def __init__(self) -> None:
        """None is."""
        self.busy = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count those made by `trio.to_thread.run_sync`."""
        run_sync = trio.to_thread.run_sync

        async def count(*arguments: Any, **options: Any) -> Any:
            self.busy += 1
            try:
                return await run_sync(*arguments, **options)
            finally:
                self.busy -= 1

        trio.to_thread.run_sync = count
        try:
            yield
        finally:
            trio.to_thread.run_sync = run_sync


class WatchedNode(Node):
    """The real node, counting what it has under way; its network tells it when to look at the chain."""

    under_way = 0
    looks = 0
    happened = 0

    def __init__(self, *arguments: Any, moment: Callable[[], object]) -> None:
        """`moment` differs as soon as anything has happened in the network."""
        super().__init__(*arguments)
        self._moment = moment
        self._last_moment: object = None
        self._looks_since = 0
        self.look_again = Bell()

    async def _core(self, function: Callable[..., T], *arguments: Any) -> T:
        """In this thread: threads of several nodes wait for their turn at the interpreter longer than they work."""
        async with self._core_turn:
            return function(*arguments)

    async def _perform(self, round_id: Digest, effect: Effect) -> None:
        self.under_way += 1
        self.happened += 1
        try:
            await super()._perform(round_id, effect)
        finally:
            self.under_way -= 1
            self.happened += 1

    async def _alone(self, name: str, work: Callable[[Node], Awaitable[None]]) -> None:
        self.under_way += 1
        try:
            await super()._alone(name, work)
        finally:
            self.under_way -= 1

    async def _look(self) -> None:
        moment = self._moment()
        await super()._look()
        self.looks += 1
        self._looks_since = self._looks_since + 1 if moment == self._last_moment else 1
        self._last_moment = moment

    async def _pause(self) -> None:
        with trio.move_on_after(POLL_S):
            await self.look_again.wait()

    @property
    def behind(self) -> bool:
        """Whether anything happened that it has not looked at."""
        return self._last_moment != self._moment() or self._looks_since < QUIET_LOOKS


class Door:
    """One member's way to the ledger. `away` is a chain that does not answer; `lose` loses replies of sent calls."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.away = False
        self.lose: Callable[[Call], BaseException | None] = lambda call: None
        self.sent: list[Call] = []
        self.tried: list[Call] = []  # those that were refused too

    @property
    def contracts(self) -> Contracts:
        return self._ledger.contracts

    def _answering(self) -> MemoryLedger:
        if self.away:
            raise ChainUnreachable("no chain answers at memory")
        return self._ledger

    def head(self) -> Head:
        return self._answering().head()

    def records(self, first_block: int, last_block: int) -> Sequence[Logged]:
        return self._answering().records(first_block, last_block)

    def accumulators(self) -> tuple[Digest, Digest, Digest]:
        return self._answering().accumulators()

    def block_hash(self, number: int) -> Digest:
        return self._answering().block_hash(number)

    def send(self, call: Call) -> Sent:
        self.tried.append(call)
        sent = self._answering().send(call)
        self.sent.append(call)
        lost = self.lose(call)
        if lost is not None:
            raise lost
        return sent


ParticipantMaker = Callable[..., Participant]
StoreMaker = Callable[[Path, bytes], Store]


@dataclass(slots=True)
class Seating:
    """What it takes to start one node, again and again from the same home."""

    index: int
    home: Path
    ring: KeyRing
    data: Dataset | None
    make: ParticipantMaker = Participant
    store: StoreMaker = Store
    auto_join: bool = True
    arm: Callable[[Any], None] = lambda node: None
    later: tuple[KeyRing, ...] = ()  # keys the home made since, whether the chain has them or not
    peer_id: bytes = b""  # as its node was last started


@dataclass
class Net:
    """A running network: nodes, doors and participants by index (the auditor comes last)."""

    clock: Clock
    ledger: MemoryLedger
    peers: MemoryNetwork
    network: Network
    seatings: list[Seating]
    trainer: SharedTrainer
    nursery: trio.Nursery
    threads: Threads
    nodes: dict[int, WatchedNode] = field(default_factory=dict)
    doors: dict[int, Door] = field(default_factory=dict)
    scopes: dict[int, trio.CancelScope] = field(default_factory=dict)
    frozen: set[int] = field(default_factory=set)
    broken: dict[int, BaseException] = field(default_factory=dict)
    """Nodes that ended by an error, which nobody may cause."""
    hold: bool = False
    """Time stands still while this is set."""
    still: Bell = field(default_factory=Bell)
    """Rings when nothing is under way any more, before time moves on."""

    # --- nodes

    async def start(self, index: int) -> WatchedNode:
        """Start the node of a home, as after a crash or for the first time."""
        seating = self.seatings[index]
        node = await trio.to_thread.run_sync(self._node, seating)
        self.nodes[index] = node
        self.scopes[index] = await self.nursery.start(self._keep, index, node)
        return node

    async def _keep(self, index: int, node: WatchedNode, *, task_status: Any) -> None:
        with trio.CancelScope() as scope:
            try:
                async with trio.open_nursery() as inner:
                    await inner.start(node.run)
                    task_status.started(scope)
            except Exception as error:
                self.broken[index] = error
            finally:
                self.nodes.pop(index, None)
                node.close()

    async def kill(self, index: int) -> None:
        """End a node where it stands; its home stays as it is."""
        self.scopes[index].cancel()
        await self.until(lambda: index not in self.nodes)

    def _node(self, seating: Seating) -> WatchedNode:
        key = keystore.at_rest_key(seating.ring)
        seating.home.mkdir(parents=True, exist_ok=True)
        store = seating.store(seating.home, key)
        vault = None
        if seating.data is not None:
            path = seating.home / "vault"
            if path.exists():
                vault = Vault.open(path, key)
            else:
                vault = Vault.create(path, key)
                vault.import_dataset(seating.data)
        me, seat = (seating.index, None) if vault is not None else (None, 0)
        contracts = self.ledger.contracts
        participant = seating.make(me, seat, seating.ring, contracts.domains, store, vault)
        participant.later = seating.later
        desk = Desk(participant, self.network, auto_join=seating.auto_join, register=None)
        seating.peer_id = self._registered(participant).peer.peer_id
        transport = MemoryTransport(
            self.peers, seating.peer_id, lambda: Hello(contracts.chain_id, contracts.membership, 0), LIMITS
        )
        door = self.doors.setdefault(seating.index, Door(self.ledger))
        addresses = {one.peer_id: "memory" for one in (*self.network.founders, *self.network.auditors)}
        trainer = self.trainer if vault is not None else None
        follower = Follower(door, store, None)
        node = WatchedNode(
            participant, door, transport, trainer, follower, addresses, desk, POLL_S, moment=self._moment
        )
        seating.arm(node)
        return node

    def _registered(self, participant: Participant) -> KeyRing:
        """The keys of a home that the chain has now."""
        history = History()
        history.apply_all(self.ledger.records(0, self.ledger.head().number))
        return keystore.current_ring(participant.rings, history.registry.keys_of(participant.me))

    def keep(self, index: int, ring: KeyRing) -> None:
        """Put further keys into a home, and into the hands of its running node; it answers to them once it restarts."""
        seating, participant = self.seatings[index], self.nodes[index].participant
        seating.later = participant.later = (*seating.later, ring)

    async def rotate(self, index: int, kinds: Set[str] = frozenset(("ledger", "sealing"))) -> tuple[KeyRing, int, bool]:
        """An operator's order at a member's node; unless its peer key changes too, it need not start again."""
        node = self.nodes[index]
        return await node.desk.governance.rotate(node, kinds, partial(self.keep, index))

    # --- faults

    def cut(self, index: int) -> None:
        """Part a member from every peer; it still sees the chain."""
        for other in self.seatings:
            if other.index != index:
                self.peers.cut(self.peer_id(index), self.peer_id(other.index))

    def heal(self, index: int) -> None:
        """Undo `cut`."""
        for other in self.seatings:
            if other.index != index:
                self.peers.heal(self.peer_id(index), self.peer_id(other.index))

    def freeze(self, index: int) -> None:
        """A member that neither hears nor sees nor acts: cut off from peers and chain alike."""
        self.frozen.add(index)
        self.doors[index].away = True
        self.cut(index)

    def thaw(self, index: int) -> None:
        """Undo `freeze`."""
        self.frozen.discard(index)
        self.doors[index].away = False
        self.heal(index)

    def peer_id(self, index: int) -> bytes:
        """A node's peer id."""
        return self.seatings[index].peer_id

    # --- time

    async def drive(self) -> None:
        """Let a second pass whenever nothing is under way at any node and whoever waits (`until`) has seen it."""
        seen: object = None
        while True:
            await wait_all_tasks_blocked()
            awake = [node for _, node in self._awake()]
            behind = [node for node in awake if node.behind]
            for node in behind:
                node.look_again.ring()
            if behind or self.threads.busy or any(node.under_way for node in awake):
                await trio.sleep(MOMENT_S)
            elif seen != self._moment():
                seen = self._moment()
                self.still.ring()
            elif self.hold:
                await trio.sleep(MOMENT_S)
            else:
                self.clock.now = max(self.clock.now, self.ledger.head().time) + 1

    def _awake(self) -> list[tuple[int, WatchedNode]]:
        return [(i, node) for i, node in self.nodes.items() if i not in self.frozen]

    def _moment(self) -> tuple[int, int, int, tuple[int, ...]]:
        happened = sum(node.happened for node in self.nodes.values())
        return self.clock.now, self.ledger.head().number, happened, tuple(sorted(self.nodes))

    async def until(self, condition: Callable[[], bool], real_s: float = PATIENCE_S, *, ends: bool = False) -> None:
        """Wait until a condition holds; a node that ends by an error fails the test, unless it is meant to (`ends`)."""
        with trio.move_on_after(real_s):
            while not condition():
                with trio.move_on_after(MOMENT_S):
                    await self.still.wait()
                for index, error in self.broken.items():
                    if not ends:
                        raise AssertionError(f"node {index} ended") from error
            return
        raise TimedOut(f"not within {real_s:g} s; rounds: {[self._show(one) for one in self.rounds()]}")

    # --- what happened

    async def create(self, study: Study, by: int = 0) -> Digest:
        """Create a study at a member; its id."""
        node = self.nodes[by]
        await self.until(lambda: node.ready)
        return await node.desk.create_study(node, study)

    async def finish(self, study: Digest, *, at: Sequence[int] | None = None) -> None:
        """Wait until the study has all its rounds at these nodes (every awake one)."""

        def done() -> bool:
            nodes = [self.nodes[i] for i in at] if at is not None else [node for _, node in self._awake()]
            return all(study in n.history.studies and n.history.finished(study) for n in nodes)

        await self.until(done)

    def finished(self, study: Digest, at: int) -> bool:
        """Whether a node knows that the study has all its rounds."""
        history = self.nodes[at].history
        return study in history.studies and history.finished(study)

    def certified(self, batch: Digest, at: int) -> bool:
        """Whether an erasure's certificate can be fetched at its hospital's node, as `erase status` says it."""
        node = self.nodes[at]
        found = node.history.erasures.get(batch)
        return found is not None and found.refused is None and node.erasing.waits_for(batch, node.now) == []

    async def play(self, study: Study) -> Digest:
        """A whole study."""
        number = await self.create(study)
        await self.finish(number)
        return number

    def records(self) -> list[Record]:
        """Everything on the chain."""
        return [one.record for one in self.ledger.records(0, self.ledger.head().number)]

    def of(self, kind: type) -> list[Any]:
        """Records of one kind, in order."""
        return [one for one in self.records() if isinstance(one, kind)]

    def rounds(self, at: int | None = None) -> list[RoundHistory]:
        """Rounds as a node knows them, in the order they opened."""
        nodes = [self.nodes[at]] if at is not None else [node for _, node in self._awake()]
        return list(nodes[0].history.rounds.values()) if nodes else []

    @staticmethod
    def _show(one: RoundHistory) -> str:
        final = one.final and f"final {one.final.attempt} {one.final.result.included:b} {one.final.result.codes:x}"
        return f"{one.opened.height}: {sorted(one.commits)} {sorted(one.abstained)} {final} {one.failed}"


@asynccontextmanager
async def network(
    home: Path,
    trainer: SharedTrainer,
    members: int = 4,
    *,
    makers: Mapping[int, ParticipantMaker] | None = None,
    stores: Mapping[int, StoreMaker] | None = None,
    arms: Mapping[int, Callable[[Any], None]] | None = None,
    data: Sequence[Dataset] | None = None,
    auditor: bool = False,
    start: Sequence[int] | None = None,
    auto_join: bool = True,
) -> AsyncIterator[Net]:
    """A network of `members` (and an auditor, at index `members`), running; time is driven until the block ends."""
    datasets = list(data) if data is not None else [dataset(i) for i in range(members)]
    contracts = memory_contracts()
    domains = contracts.domains
    rings = [KeyRing.generate() for _ in range(members + auditor)]
    seats, inputs = [], []
    for index, ring in enumerate(rings):
        role, name = ("member", f"member-{index + 1}") if index < members else ("auditor", "auditor")
        statement = Seat(role, ring.peer.peer_id, ring.sealing.public, name)
        signature = sign(statement, domains.of(statement), ring.ledger)
        inputs.append(SeatInput(ring.ledger.address, ring.peer.peer_id, ring.sealing.public, name, signature))
        seats.append(NetworkSeat(index, name, ring.ledger.address, ring.peer.peer_id, ring.sealing.public, ""))
    clock = Clock()
    ledger = MemoryLedger(inputs[:members], inputs[members:], clock=clock)
    auditors = tuple(replace(seat, index=0) for seat in seats[members:])
    described = parse_network(
        network_json("test", "memory", ZERO, contracts, tuple(seats[:members]), auditors, synthetic=True)
    )
    seatings = [
        Seating(
            i,
            home / seats[i].name,
            ring,
            datasets[i] if i < members else None,
            (makers or {}).get(i, Participant),
            (stores or {}).get(i, Store),
            auto_join,
            (arms or {}).get(i, lambda node: None),
        )
        for i, ring in enumerate(rings)
    ]
    pause, exchange.KEY_PAUSE_S = exchange.KEY_PAUSE_S, MOMENT_S  # real seconds, and here nothing takes any
    threads = Threads()
    with threads.counted():
        async with trio.open_nursery() as nursery:
            net = Net(clock, ledger, MemoryNetwork(), described, seatings, trainer, nursery, threads)
            for index in range(len(rings)) if start is None else start:
                await net.start(index)
            nursery.start_soon(net.drive)
            try:
                yield net
            finally:
                exchange.KEY_PAUSE_S = pause
                nursery.cancel_scope.cancel()


def attested(net: Net, batch: Digest, at: int) -> bytes:
    """What the network's auditor attests after repeating the replay's training at the home of member `at`."""
    node, hospital, auditor = net.nodes[at], net.seatings[at], net.seatings[-1]
    erasure, key = node.history.erasures[batch], keystore.at_rest_key(hospital.ring)
    with closing(HomeReader(hospital.home, key)) as store, closing(Vault.read(hospital.home / "vault", key)) as vault:
        arithmetic = node.participant.study(erasure.opened.study)
        executor = Executor(node.history, at, arithmetic, store, vault, net.trainer)
        report = local_replay(executor, net.network.fingerprint, erasure)
    home = Home(auditor.home, "auditor", 0)
    return attest(home, net.network, node.history, erasure, "L3", report, auditor.ring.ledger, node.now)


__all__ = ["Clock", "Door", "Net", "SharedTrainer", "attested", "dataset", "network", "spec"]


async def receipt(node: Node, who: Digest | str) -> dict[str, Any]:
    """An erasure's certificate, fetched and in safe hands, as the command line does it."""
    document, batch, consent = await node.erasing.receipt(node, who)
    if consent is not None:
        await node.erasing.delivered(node, batch, consent)
    return document
