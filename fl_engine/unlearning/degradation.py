"""`mode`: pull the model towards one that was freshly trained without the records, then guide it. Approximate.

In the manner of Zhao et al., *Federated Unlearning with Momentum Degradation* (MoDe), IEEE Internet of Things Journal
2023. In each of `erase` rounds the members train a degradation model v, which began at the study's first model, on what
they retain, and the served model follows it:

    v <- v + aggregate,      w <- keep * w + (1 - keep) * v          (integers)

and `guide` ordinary rounds from w follow. MoDe also relabels the forgetting client's own records with v for guidance;
here the records are no longer there, so only what is retained guides.

Approximate: w keeps keep^erase of the old model.
"""

from __future__ import annotations

from typing import Final

from fl_engine.unlearning.integers import blend, ratio_of
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Checkpoint,
    Claim,
    Need,
    Result,
    Rounds,
    Unlearner,
    ask,
    federated,
)


def _rounds(case: Case) -> Rounds:
    agreed, keep = case.agreed, ratio_of(case.parameters["keep"])
    model, degraded = case.past.model(case.target), agreed.initial
    made: dict[tuple[int, int], Checkpoint] = {}
    first = case.target + 1
    after = first + case.whole("erase")
    for height in range(first, after):
        updates = yield ask(case, height, dict.fromkeys(case.remaining, degraded))
        degraded = agreed.step(degraded, updates)
        model = blend(model, degraded, *keep)
        made[height, 0] = Checkpoint(model, sum(one.records for one in updates.values()))
    end = yield from federated(case, model, case.remaining, after, after + case.whole("guide") - 1)
    return Result(end.model, made | dict(end.checkpoints))


MODE: Final = Unlearner(
    name="mode",
    exact=False,
    source="in the manner of Zhao et al., IEEE IoT-J 2023 (MoDe), guided by retained records only",
    needs=frozenset({Need.OLD_MODEL}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    defaults={"keep": 0.5, "erase": 3, "guide": 2},
)
