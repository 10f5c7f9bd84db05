"""What the gated methods share: the forgetting member computes an answer on records that nobody else sees.

What may live here: how far such an answer may move the model, and the ordinary rounds that follow it. What the answer
is belongs to the methods.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_engine.params import Ints
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning.integers import difference, ratio_of, squared_norm, within_norm
from fl_engine.unlearning.unlearner import Case, Checkpoint, Result, Rounds, federated


def squared_radius(case: Case) -> int:
    """(`radius` * |w_T - w_0|)^2 in squared grid units, rounded down."""
    numerator, denominator = ratio_of(case.parameters["radius"])
    moved = squared_norm(difference(case.past.model(case.target), case.agreed.initial))
    return moved * numerator**2 // denominator**2


def answered(case: Case, start: Ints, updates: Mapping[int, LocalUpdate], bound: int) -> Rounds:
    """The model after the answers, each shrunk to the squared length `bound`, and what repairs it."""
    kept = {m: LocalUpdate(within_norm(one.delta, bound), one.records, one.loss) for m, one in updates.items()}
    model = case.agreed.step(start, kept)
    return (yield from repaired(case, model, sum(one.records for one in updates.values())))


def repaired(case: Case, model: Ints, records: int) -> Rounds:
    """The model of the height after the target, made from so many records, and `repair` ordinary rounds upon it."""
    height = case.target + 1
    end = yield from federated(case, model, case.remaining, height + 1, height + case.whole("repair"))
    return Result(end.model, {(height, 0): Checkpoint(model, records)} | dict(end.checkpoints))
