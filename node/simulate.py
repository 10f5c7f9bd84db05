"""Whole studies in one process: the real node, many times, over the in-memory doors.

What may live here: wiring. Every member is a `node.app.Node` with its own store, vault, keys and training worker, and
takes part exactly as it would over libp2p and an Ethereum chain; only the doors are `MemoryLedger` and
`MemoryTransport`. Beacons hold nothing of the chain or of identities, so the model roots are those of the network for
the same specification, files and branch seed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from crypto.digest import ZERO, Digest
from crypto.keys import KeyRing
from crypto.statements import Seat, sign
from fl_engine.data.dataset import Dataset
from fl_engine.unlearning import Unlearner
from fl_engine.worker_client import TrainingWorker
from node import keystore, methods
from node.app import Node
from node.desk import Desk
from node.errors import InputError, TimedOut
from node.follower import Follower
from node.history import Branch, History, RoundHistory
from node.home import Network, network_json, parse_network
from node.home import Seat as NetworkSeat
from node.memory.ledger import MemoryLedger, memory_contracts
from node.memory.transport import MemoryNetwork, MemoryTransport
from node.messages import Hello
from node.participant import Participant
from node.records import RoundFinal, SeatInput
from node.store import Store
from node.study import Study
from node.training import Trainer
from node.vault import Vault

POLL_S = 0.02
ROUND_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Replay:
    """An erasure's branch as a simulation repeats it: rounds from `from_round` on take their beacons from `seed`.

    `method` carries out the rounds that stand for those up to `to_round`, the plan's target; then, as without a
    `to_round`, the study trains on. `standing` are members whose shard the erasure leaves as it was: until then they
    train by the beacons of the line that is replaced.
    """

    from_round: int
    seed: Digest
    method: Unlearner = methods.DEFAULT
    to_round: int | None = None
    standing: frozenset[int] = frozenset()

    @property
    def replaced(self) -> int:
        """How many rounds the method stands for."""
        return 0 if self.to_round is None else self.to_round - self.from_round + 1

    @property
    def saved(self) -> int:
        """How many rounds fewer the study takes with it."""
        return self.replaced - self._rounds

    @property
    def _rounds(self) -> int:
        return methods.rounds_of(self.method, self.replaced) if self.replaced else 0

    def seed_of(self, member: int, branch: Branch, height: int) -> Digest:
        """The seed of a round's beacon for a member."""
        stands = member in self.standing and (self.to_round is None or height <= self.to_round)
        return branch.seed if height < self.from_round or stands else self.seed

    def unlearner_of(self, history: History, one: RoundHistory) -> Unlearner | None:
        """The method that a round belongs to."""
        return self.method if 0 <= one.opened.height - self.from_round < self._rounds else None


@dataclass(slots=True)
class Simulation:
    """A running in-memory network: its nodes by member index, its ledger and its transport network."""

    nodes: list[Node]
    ledger: MemoryLedger
    peers: MemoryNetwork
    network: Network

    async def study(self, spec: Study, progress: Callable[[int, Digest], None] = lambda height, root: None) -> Digest:
        """Create a study at the first member and return when it has all its rounds; its id."""
        first = self.nodes[0]
        await self.until(lambda: first.ready)
        study = await first.desk.create_study(first, spec)
        seen = 0
        while study not in first.history.studies or not first.history.finished(study):
            await trio.sleep(POLL_S)
            if study in first.history.studies:
                models = first.history.studies[study].head.models
                for height in sorted(h for h in models if h > seen):
                    seen = height
                    progress(height, models[height])
        for node in self.nodes:
            await self.until(partial(_finished, node, study))
        return study

    async def until(self, condition: Callable[[], bool], timeout_s: float = ROUND_TIMEOUT_S) -> None:
        """Wait until a condition holds; `TimedOut` after `timeout_s` seconds."""
        with trio.move_on_after(timeout_s):
            while not condition():  # noqa: ASYNC110 - the nodes poll their ledger too, there is nobody to ring a bell
                await trio.sleep(POLL_S)
            return
        raise TimedOut(f"the simulation did not get there within {timeout_s:g} s")


@asynccontextmanager
async def simulation(
    home: Path,
    datasets: Sequence[Dataset],
    *,
    clock: Callable[[], int] = lambda: int(time.time()),
    auditor: bool = False,
    without: frozenset[str] = frozenset(),
    replay: Replay | None = None,
) -> AsyncIterator[Simulation]:
    """A synthetic network of one member a dataset, in memory, with stores and vaults under `home`.

    Args:
        home: an empty folder.
        datasets: one a member, in member order.
        clock: chain time, seconds.
        auditor: whether an auditor takes part.
        without: patients who are imported (records keep their numbers) but never granted.
        replay: the erasure whose branch this is to be.

    Raises:
        InputError: fewer than two datasets.
    """
    if len(datasets) < 2:
        raise InputError(f"{len(datasets)} data sets: a study needs at least two members")
    contracts = memory_contracts()
    domains = contracts.domains
    rings = [KeyRing.generate() for _ in range(len(datasets) + auditor)]
    seats, inputs = [], []
    for index, ring in enumerate(rings):
        role = "member" if index < len(datasets) else "auditor"
        name = f"member-{index + 1}" if role == "member" else "auditor"
        statement = Seat(role, ring.peer.peer_id, ring.sealing.public, name)
        signature = sign(statement, domains.of(statement), ring.ledger)
        inputs.append(SeatInput(ring.ledger.address, ring.peer.peer_id, ring.sealing.public, name, signature))
        seats.append(NetworkSeat(index, name, ring.ledger.address, ring.peer.peer_id, ring.sealing.public, ""))
    members = len(datasets)
    ledger = MemoryLedger(inputs[:members], inputs[members:], clock=clock)
    auditors = tuple(replace(seat, index=0) for seat in seats[members:])
    network = parse_network(
        network_json("simulation", "memory", ZERO, contracts, tuple(seats[:members]), auditors, synthetic=True)
    )
    peers = MemoryNetwork()
    nodes: list[Node] = []
    worker = TrainingWorker(ROUND_TIMEOUT_S)  # one for all: members train one after the other in any case
    try:
        async with trio.open_nursery() as nursery:
            for index, ring in enumerate(rings):
                data = datasets[index] if index < members else None
                nodes.append(
                    _node(home / seats[index].name, index, ring, data, ledger, peers, network, worker, without)
                )
                if replay is not None:
                    nodes[-1].participant.seed_of = partial(replay.seed_of, index)
                    nodes[-1].participant.unlearner_of = replay.unlearner_of
                await nursery.start(nodes[-1].run)
            yield Simulation(nodes, ledger, peers, network)
            nursery.cancel_scope.cancel()
    finally:
        for node in nodes:
            node.close()
        worker.close()


def _node(
    home: Path,
    index: int,
    ring: KeyRing,
    data: Dataset | None,
    ledger: MemoryLedger,
    peers: MemoryNetwork,
    network: Network,
    worker: TrainingWorker,
    without: frozenset[str],
) -> Node:
    key = keystore.at_rest_key(ring)
    home.mkdir(parents=True, exist_ok=True)
    store = Store(home, key)
    vault = None
    if data is not None:
        vault = Vault.create(home / "vault", key)
        vault.import_dataset(data)
    me, seat = (index, None) if data is not None else (None, 0)
    participant = Participant(me, seat, ring, ledger.contracts.domains, store, vault)
    desk = Desk(participant, network, auto_join=True, register=None, without=without)
    contracts = ledger.contracts
    transport = MemoryTransport(peers, ring.peer.peer_id, lambda: Hello(contracts.chain_id, contracts.membership, 0))
    trainer = Trainer(ROUND_TIMEOUT_S, worker, home.name, keystore.noise_secret(key)) if data is not None else None
    addresses = {one.peer_id: "memory" for one in (*network.founders, *network.auditors)}
    follower = Follower(ledger, store, None)
    return Node(participant, ledger, transport, trainer, follower, addresses, desk, POLL_S)


def _finished(node: Node, study: Digest) -> bool:
    return study in node.history.studies and node.history.finished(study)


def roots(node: Node, study: Digest) -> dict[int, str]:
    """Model root after each final round of the study's active branch, as hex by height."""
    return {one.opened.height: final.result.model_root.hex() for one, final in _with_a_model(node, study)}


def beacons(node: Node, study: Digest) -> list[bytes]:
    """Beacons of the rounds that led to the study's last model, in order."""
    return [node.participant.beacon(one, 0) for one, _ in _with_a_model(node, study)]


def _with_a_model(node: Node, study: Digest) -> list[tuple[RoundHistory, RoundFinal]]:
    path = node.history.path(study, node.history.studies[study].active_branch)
    return [(one, one.final) for one in path if one.final is not None and one.made_model]


__all__ = ["Replay", "Simulation", "beacons", "roots", "simulation"]
