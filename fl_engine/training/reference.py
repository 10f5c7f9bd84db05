"""What to compare the federation with: plain floating-point FedAvg, every hospital alone, all data in one place.

Same network, same initial weights, same number of passes over the data, and the beacons of the study's own rounds, so
the floating-point federation differs from koinon's in its arithmetic and in nothing else. The baselines see data that
no real federation may pool; they exist for comparison on public or simulated data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_engine.models.model import Model
from fl_engine.params import Ints
from fl_engine.ring import Grid, dequantise
from fl_engine.training.method import Hyperparameters, TrainingData, batch_order
from fl_engine.training.sgd import Network


@dataclass(frozen=True)
class Member:
    """One member's loaded records and the import row numbers that train."""

    data: TrainingData
    rows: NDArray[np.int64]


def float_fedavg(
    model: Model,
    ints: Ints,
    members: Sequence[Member],
    hyperparameters: Hyperparameters,
    grid: Grid,
    beacons: Sequence[bytes],
) -> NDArray[np.float32]:
    """Textbook FedAvg: float32 local models, weighted mean in float64, no grid -> float32 [P].

    `beacons`: one a round, 32 bytes each.
    """
    weights = dequantise(ints, grid)
    for beacon in beacons:
        total = np.zeros(len(weights), dtype=np.float64)
        for i, member in enumerate(members):
            local = _train(model, weights, member, hyperparameters, beacon, i)
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
    beacons: Sequence[bytes],
) -> NDArray[np.float32]:
    """Member `index` alone: as many passes over its own records as in the federation -> float32 [P]."""
    weights = dequantise(ints, grid)
    for beacon in beacons:
        weights = _train(model, weights, member, hyperparameters, beacon, index)
    return weights


def centralised(
    model: Model,
    ints: Ints,
    members: Sequence[Member],
    hyperparameters: Hyperparameters,
    grid: Grid,
    beacons: Sequence[bytes],
) -> NDArray[np.float32]:
    """All members' training records in one place, as many passes -> float32 [P]."""
    chosen = [m.data.positions(m.rows) for m in members]
    x = np.concatenate([m.data.x[at] for m, at in zip(members, chosen, strict=True)])
    y = np.concatenate([m.data.y[at] for m, at in zip(members, chosen, strict=True)])
    rows = np.arange(len(y), dtype=np.int64)
    pooled = Member(TrainingData(x, y, rows, members[0].data.classes), rows)
    return local_only(model, ints, pooled, 0, hyperparameters, grid, beacons)


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
