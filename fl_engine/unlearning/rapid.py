"""`rapid`: train again without the records, in fewer rounds, with a diagonal empirical-Fisher step.

In the manner of Liu, Xu, Yuan, Wang, Li, *The Right to be Forgotten in Federated Learning: An Efficient Realization
with Rapid Retraining*, INFOCOM 2022: the step of each batch is preconditioned by a running diagonal of the empirical
Fisher information,

    m <- b1 m + (1 - b1) g,   G <- b2 G + (1 - b2) g*g,   w <- w - eta (m / (1 - b1^t)) / (sqrt(G / (1 - b2^t)) + eps)

with g the gradient of a batch (their notebook averages G over blocks of three; we do not). m and G begin at zero in
every round, so no state outlives one. It begins at the model before the first use and takes 1/`speedup` of the rounds.

Exact for what it is: a new run without the records, by another optimiser; never "the same model as a replay".
"""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np

from fl_engine.ring import Grid, dequantise, quantise
from fl_engine.training.method import LocalUpdate, batch_order, check_batches
from fl_engine.unlearning.unlearner import ALWAYS, Claim, Need, Probe, Records, Retraining, Task, Unlearner

_FIRST_MOMENT: Final = 0.9
_SECOND_MOMENT: Final = 0.999
_EPSILON: Final = 1e-8

_RETRAINING: Final = Retraining(
    "fisher",
    lambda replaced, parameters: max(1, ceil(replaced / parameters["speedup"])),
    settings=("learning_rate",),
)


def _fisher(network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int) -> LocalUpdate:
    check_batches(len(records.retained), task.training, bool(task.number("erasable")))
    positions = records.data.positions(records.retained)
    start = dequantise(task.model, grid).astype(np.float64)
    weights, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    step, loss = 0, 0.0
    for batches in batch_order(positions, task.training, beacon, member):
        losses = []
        for batch in batches:
            step += 1
            network.set_weights(weights.astype(np.float32))
            loss, gradient = network.gradient(records.data.x, records.data.y, batch)
            g = gradient.astype(np.float64)
            first = _FIRST_MOMENT * first + (1 - _FIRST_MOMENT) * g
            second = _SECOND_MOMENT * second + (1 - _SECOND_MOMENT) * g * g
            root = np.sqrt(second / (1 - _SECOND_MOMENT**step)) + _EPSILON
            weights -= task.number("learning_rate") * (first / (1 - _FIRST_MOMENT**step)) / root
            losses.append(loss * len(batch))
        loss = sum(losses) / len(positions)
    return LocalUpdate(quantise(weights - start, grid), len(positions), loss)


RAPID: Final = Unlearner(
    name="rapid",
    exact=True,
    source="in the manner of Liu et al., INFOCOM 2022 (rapid retraining)",
    needs=frozenset({Need.CHECKPOINT, Need.STEPS}),
    claims=ALWAYS | {Claim.L2, Claim.L3},
    rounds=_RETRAINING.rounds,
    retraining=_RETRAINING,
    works={"fisher": _fisher},
    defaults={"speedup": 4, "learning_rate": 0.003},
)
