"""`ascent`: the forgetting member climbs its loss on the records, inside a ball, then the others repair. Approximate.

In the manner of Halimi, Kadhe, Rawat, Baracaldo, *Federated Unlearning: How to Efficiently Erase a Client in FL?*, 2022
(projected gradient ascent):

    w_ref = the last round without the forgetting members' updates
    climb F(w; forgotten) from w_ref, |w - w_ref| <= delta, stop once the mean loss reaches `stop` * ln(classes)
    then `repair` ordinary rounds of everybody with what is retained

delta = `radius` * |w_T - w_0|. The climb starts at w_ref and every member shrinks the answer to delta again, in
integers.

*Gated.* The forgetting member computes the climb on records nobody else sees: whatever it sends, within delta, is
taken. That is a perfect vector for poisoning, so the method needs trust and a gate on utility by the other members, and
it cannot run once the records are deleted. Ascent diverges without the ball, and repairing tends to bring back what was
to be forgotten (FedOSD's starting point). A baseline, kept because the survey draws it.
"""

from __future__ import annotations

from math import isqrt, log
from typing import Final

import numpy as np

from fl_engine.errors import PolicyError
from fl_engine.params import Ints
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


def without_the_last_word(case: Case) -> Ints:
    """The last model with the untouched members' updates alone; the last model itself where nobody is untouched."""
    sent = case.past.updates.get(case.target)
    if sent is None:
        raise PolicyError(f"the updates of height {case.target} are needed and not kept")
    others = {m: sent[m] for m in case.untouched if m in sent}
    return case.agreed.step(case.past.model(case.target - 1), others) if others else case.past.model(case.target)


def _rounds(case: Case) -> Rounds:
    agreed = case.agreed
    reference = without_the_last_word(case)
    bound = squared_radius(case)
    numbers = {name: case.parameters[name] for name in ("stop", "learning_rate", "epochs")}
    numbers["bound"] = float(isqrt(bound))
    task = Task("climb", reference, agreed.training, agreed.layout.size, numbers=numbers)
    updates = yield Round(case.target + 1, dict.fromkeys(sorted(case.forgetting), task))
    return (yield from answered(case, reference, updates, bound))


def _climb(network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int) -> LocalUpdate:
    data = records.data
    positions = data.positions(records.forgotten)
    if len(positions) == 0:
        raise PolicyError("no records to forget at this member")
    start = dequantise(network.spec.check(task.model), grid).astype(np.float64)
    bound = task.number("bound") * 2.0**-grid.fraction_bits
    weights, loss = start.copy(), 0.0
    enough = task.number("stop") * log(data.classes)
    for epoch in range(int(task.number("epochs"))):
        for batch in batch_order(positions, task.training, beacon, member)[epoch % task.training.local_epochs]:
            network.set_weights(weights.astype(np.float32))
            loss, gradient = network.gradient(data.x, data.y, batch)
            if loss >= enough:
                break
            moved = weights + task.number("learning_rate") * gradient.astype(np.float64) - start
            length = float(np.sqrt(np.sum(moved * moved)))
            weights = start + moved * min(1.0, bound / length if length > 0 else 1.0)
    return LocalUpdate(quantise(weights - start, grid), len(positions), loss)


ASCENT: Final = Unlearner(
    name="ascent",
    exact=False,
    source="in the manner of Halimi et al., 2022 (projected gradient ascent); the survey's Figure 3",
    needs=frozenset({Need.LAST_UPDATES, Need.FORGOTTEN_RECORDS, Need.TRUST}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    works={"climb": _climb},
    defaults={"radius": 0.2, "stop": 1.0, "learning_rate": 0.05, "epochs": 5, "repair": 1},
)
