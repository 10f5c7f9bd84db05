"""`puf`: one round in which the forgetting members' update is subtracted instead of added. Approximate.

In the manner of PUF (scaled negated pseudo-gradients; tested by its authors on prostate MRI). From the last model the
forgetting members train on the records to be forgotten, giving U_f, the others on their own, giving U_k:

    w <- w + aggregate_k U_k - `strength` * n_f / n * mean_f U_f,     n_f records to forget of n in the round

`strength` 1 takes back what one round would have put in. Every member shrinks U_f to the longest U_k before it counts,
in integers; then `repair` ordinary rounds. No history is needed, which is its appeal.

*Gated,* as `ascent` is: the subtracted update is computed by the forgetting member on records nobody else sees. And it
is subtraction, so under a robust rule (not linear) it means little.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fl_engine.aggregation import aggregate
from fl_engine.params import Ints
from fl_engine.ring import Grid, add_saturating, dequantise, quantise
from fl_engine.training.method import LocalUpdate, batch_order
from fl_engine.unlearning.gated import repaired
from fl_engine.unlearning.integers import ratio_of, scale, squared_norm, within_norm
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Claim,
    Need,
    Probe,
    Records,
    Round,
    Rounds,
    Task,
    Unlearner,
)


def _rounds(case: Case) -> Rounds:
    agreed, model = case.agreed, case.past.model(case.target)
    size = agreed.layout.size
    tasks = {m: Task("train", model, agreed.training, size) for m in case.untouched}
    tasks |= {m: Task("relearn", model, agreed.training, size) for m in case.forgetting}
    updates = yield Round(case.target + 1, dict(sorted(tasks.items())))
    added = {m: one for m, one in updates.items() if m in case.untouched}
    taken = {m: one for m, one in updates.items() if m in case.forgetting}
    records = sum(one.records for one in added.values())
    model = agreed.step(model, added) if added else model
    if taken:
        model = add_saturating(model, _negated(case, added, taken, records))
    return (yield from repaired(case, model, records))


def _negated(case: Case, added: dict[int, LocalUpdate], taken: dict[int, LocalUpdate], records: int) -> Ints:
    longest = max((squared_norm(one.delta) for one in added.values()), default=None)
    pairs = [
        (one.delta if longest is None else within_norm(one.delta, longest), one.records)
        for one in (taken[m] for m in sorted(taken))
    ]
    mean = aggregate("mean", case.agreed.layout.size, pairs)
    forgotten = sum(weight for _, weight in pairs)
    numerator, denominator = ratio_of(case.parameters["strength"])
    share = forgotten * 2**30 // (forgotten + records)
    return scale(scale(mean, share, 2**30), -numerator, denominator)


def _relearn(network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int) -> LocalUpdate:
    data = records.data
    start = dequantise(network.spec.check(task.model), grid)
    network.set_weights(start)
    loss = 0.0
    for batches in batch_order(data.positions(records.forgotten), task.training, beacon, member):
        loss = network.train_epoch(data.x, data.y, batches, task.training.learning_rate)
    delta = network.weights().astype(np.float64) - start.astype(np.float64)
    return LocalUpdate(quantise(delta, grid), len(records.forgotten), loss)


PUF: Final = Unlearner(
    name="puf",
    exact=False,
    source="in the manner of PUF (scaled negated pseudo-gradients)",
    needs=frozenset({Need.FORGOTTEN_RECORDS, Need.TRUST}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    works={"relearn": _relearn},
    defaults={"strength": 2.0, "repair": 1},
)
