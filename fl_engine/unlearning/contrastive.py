"""`fcu`: the forgetting member makes the records look to the network as they would to an untrained one. Approximate.

In the manner of Deng, Luo, Chen, *Enable the Right to be Forgotten with Federated Client Unlearning in Medical
Imaging*, MICCAI 2024 (arXiv 2407.02356). With z, z0, zT what the head sees of a record under the model in progress,
the study's first model and the last one, the forgetting member minimises over the records to be forgotten

    -log( e^{cos(z, z0)/tau} / (e^{cos(z, z0)/tau} + e^{cos(z, zT)/tau}) )

and one ordinary epoch on what it retains keeps the rest in place. `repair` ordinary rounds follow. Without their
frequency-guided memory, so it is not their method and does not promise their figures.

*Gated,* as `ascent` is; every member shrinks the answer to `radius` * |w_T - w_0| in integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fl_engine.errors import PolicyError
from fl_engine.ring import Grid, dequantise, quantise
from fl_engine.training.method import LocalUpdate, batch_order
from fl_engine.unlearning.gated import answered, squared_radius
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
    numbers = {name: case.parameters[name] for name in ("temperature", "learning_rate", "epochs")}
    task = Task("contrast", model, agreed.training, agreed.layout.size, (agreed.initial,), numbers)
    updates = yield Round(case.target + 1, dict.fromkeys(sorted(case.forgetting), task))
    return (yield from answered(case, model, updates, squared_radius(case)))


def _contrast(network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int) -> LocalUpdate:
    data = records.data
    positions = data.positions(records.forgotten)
    if len(positions) == 0:
        raise PolicyError("no records to forget at this member")
    forgotten = np.ascontiguousarray(data.x[positions])
    start = dequantise(network.spec.check(task.model), grid)
    network.set_weights(dequantise(network.spec.check(task.anchor(0)), grid))
    untrained = network.features(forgotten)
    network.set_weights(start)
    trained = network.features(forgotten)
    loss = 0.0
    size = task.training.batch_size
    for _ in range(int(task.number("epochs"))):
        for at in range(0, len(positions), size):
            part = slice(at, at + size)
            loss = network.contrast(
                forgotten[part],
                untrained[part],
                trained[part],
                task.number("temperature"),
                task.number("learning_rate"),
            )
    if len(records.retained):
        batches = batch_order(data.positions(records.retained), task.training, beacon, member)[0]
        network.train_epoch(data.x, data.y, batches, task.training.learning_rate)
    delta = network.weights().astype(np.float64) - start.astype(np.float64)
    return LocalUpdate(quantise(delta, grid), len(positions), loss)


FCU: Final = Unlearner(
    name="fcu",
    exact=False,
    source="in the manner of Deng et al., MICCAI 2024 (FCU), without frequency-guided memory",
    needs=frozenset({Need.FORGOTTEN_RECORDS, Need.TRUST}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    works={"contrast": _contrast},
    defaults={"temperature": 0.5, "learning_rate": 0.05, "epochs": 3, "radius": 0.2, "repair": 1},
)
