"""`fedavg`: some epochs of plain SGD from the agreed model; the update is the difference, on the grid.

McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017:
w_k <- w_t after E local epochs of w <- w - eta * grad; koinon sends q_k = quantise(w_k - w_t). No momentum, so no state
outlives a round and nothing but the model can remember a patient.

`fedavg-float64` is the same in double precision: between machines whose kernels add in another order, the results
differ so little that the grid nearly always rounds them to the same integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import PolicyError
from fl_engine.params import Ints
from fl_engine.ring import Grid, dequantise, quantise_difference
from fl_engine.training.method import (
    Hyperparameters,
    LocalUpdate,
    Method,
    Trainable,
    TrainingData,
    batch_order,
    check_batches,
)


def _train_local(
    network: Trainable,
    ints: Ints,
    data: TrainingData,
    rows: NDArray[np.int64],
    hyperparameters: Hyperparameters,
    grid: Grid,
    *,
    beacon: bytes,
    member: int,
    erasable: bool,
    secret: bytes = b"",
) -> LocalUpdate:
    """Train from `ints` int32 [P] on the records with import row numbers `rows`; the same input gives the same bits.

    Raises PolicyError (no records; too few batches for an erasable study), NonFiniteUpdate (training diverged),
    ShapeMismatch (the model does not fit the data).
    """
    if len(rows) == 0:
        raise PolicyError("no records to train on")
    positions = data.positions(rows)
    check_batches(len(rows), hyperparameters, erasable)
    start = network.spec.check(ints)
    network.set_weights(dequantise(start, grid))
    loss = 0.0
    for batches in batch_order(positions, hyperparameters, beacon, member):
        loss = network.train_epoch(data.x, data.y, batches, hyperparameters.learning_rate)
    return LocalUpdate(quantise_difference(network.weights(), start, grid), len(rows), loss)


FEDAVG: Final = Method("fedavg", _train_local)
FEDAVG_FLOAT64: Final = Method("fedavg-float64", _train_local, "float64")
