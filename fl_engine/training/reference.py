"""What to compare the federation with: plain floating-point FedAvg, every hospital alone, all data in one place.

Same network, same initial weights, same number of passes over the data, same batch orders as the integer federation.
The baselines see data that no real federation may pool; they exist for comparison on public or simulated data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_engine.aggregation import aggregate
from fl_engine.models.model import Model
from fl_engine.params import Ints
from fl_engine.ring import Grid, add_saturating, dequantise
from fl_engine.training.fedavg import FEDAVG
from fl_engine.training.method import Hyperparameters, TrainingData, batch_order
from fl_engine.training.sgd import Network

BeaconOf: TypeAlias = Callable[[int], bytes]
"""Round number from 0 -> 32 bytes."""


@dataclass(frozen=True)
class Member:
    """One member's loaded records and the import row numbers that train."""

    data: TrainingData
    rows: NDArray[np.int64]


def reference_beacon(round_number: int) -> bytes:
    """The beacon of a comparison run, where no study gives one."""
    return hashlib.sha256(b"koinon.reference/1" + round_number.to_bytes(8, "little")).digest()


def integer_fedavg(
    model: Model,
    ints: Ints,
    members: Sequence[Member],
    hyperparameters: Hyperparameters,
    grid: Grid,
    rounds: int,
    beacon_of: BeaconOf = reference_beacon,
) -> Ints:
    """The federation as koinon runs it, all members included in every round -> int32 [P]."""
    network = _network(model, members[0].data)
    for number in range(rounds):
        updates = [
            FEDAVG.train_local(
                network, ints, m.data, m.rows, hyperparameters, grid, beacon=beacon_of(number), member=i, erasable=False
            )
            for i, m in enumerate(members)
        ]
        ints = add_saturating(ints, aggregate("mean", len(ints), [(u.delta, u.records) for u in updates]))
    return ints


def float_fedavg(
    model: Model,
    ints: Ints,
    members: Sequence[Member],
    hyperparameters: Hyperparameters,
    grid: Grid,
    rounds: int,
    beacon_of: BeaconOf = reference_beacon,
) -> NDArray[np.float32]:
    """Textbook FedAvg: float32 local models, weighted mean in float64, no grid -> float32 [P]."""
    weights = dequantise(ints, grid)
    for number in range(rounds):
        total = np.zeros(len(weights), dtype=np.float64)
        for i, member in enumerate(members):
            local = _train(model, weights, member, hyperparameters, beacon_of(number), i)
            total += local.astype(np.float64) * len(member.rows)
        weights = (total / sum(len(m.rows) for m in members)).astype(np.float32)
    return weights


def local_only(
    model: Model,
    ints: Ints,
    member: Member,
    index: int,
    hyperparameters: Hyperparameters,
    grid: Grid,
    rounds: int,
    beacon_of: BeaconOf = reference_beacon,
) -> NDArray[np.float32]:
    """Member `index` alone: rounds * local_epochs passes over its own records -> float32 [P]."""
    weights = dequantise(ints, grid)
    for number in range(rounds):
        weights = _train(model, weights, member, hyperparameters, beacon_of(number), index)
    return weights


def centralised(
    model: Model,
    ints: Ints,
    members: Sequence[Member],
    hyperparameters: Hyperparameters,
    grid: Grid,
    rounds: int,
    beacon_of: BeaconOf = reference_beacon,
) -> NDArray[np.float32]:
    """All members' training records in one place, as many passes -> float32 [P]."""
    chosen = [m.data.positions(m.rows) for m in members]
    x = np.concatenate([m.data.x[at] for m, at in zip(members, chosen, strict=True)])
    y = np.concatenate([m.data.y[at] for m, at in zip(members, chosen, strict=True)])
    rows = np.arange(len(y), dtype=np.int64)
    pooled = Member(TrainingData(x, y, rows, members[0].data.classes), rows)
    return local_only(model, ints, pooled, 0, hyperparameters, grid, rounds, beacon_of)


def predict(model: Model, weights: NDArray[np.float32], data: TrainingData) -> NDArray[np.float32]:
    """Logits float32 [N, classes] of float weights [P] on all records of `data`."""
    network = _network(model, data)
    network.set_weights(weights)
    return network.predict(data.x)


def _network(model: Model, data: TrainingData) -> Network:
    return Network(model, data.x.shape[1:], data.classes)


def _train(
    model: Model,
    weights: NDArray[np.float32],
    member: Member,
    hyperparameters: Hyperparameters,
    beacon: bytes,
    index: int,
) -> NDArray[np.float32]:
    data = member.data
    network = _network(model, data)
    network.set_weights(weights)
    for batches in batch_order(data.positions(member.rows), hyperparameters, beacon, index):
        network.train_epoch(data.x, data.y, batches, hyperparameters.learning_rate)
    return network.weights()
