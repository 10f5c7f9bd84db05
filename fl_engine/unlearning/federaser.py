"""`federaser`: replay kept updates in their old lengths and newly trained directions. Approximate.

Liu, Ma, Yang, Wang, *FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning Models*, IWQoS
2021. Every `interval` heights the members' updates U_k are kept. The first kept height needs no training: the new
model is the first one plus the aggregate of the untouched members' kept updates. At every later kept height member k
trains
`effort` of the study's epochs from the new model, giving V_k, and what is added up is

    |U_k| / |V_k| * V_k

per member over the whole vector (the public code averages first and calibrates layer by layer), in integers. A member
that forgets some patients and stays has no clean length of its own: it gets the mean square of the untouched ones', so
that no number of its kept updates is used again.

Approximate: the lengths, and the first step, come from a trajectory that the records had bent.

*Storage:* 4 P bytes a member and kept height; `interval_for` picks the interval that a budget allows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fl_engine.errors import PolicyError
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning.integers import squared_norm, with_norm
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Checkpoint,
    Claim,
    Need,
    Result,
    Round,
    Rounds,
    Task,
    Unlearner,
)


def kept_heights(target: int, interval: int) -> range:
    """The heights whose updates are kept: 1, 1 + interval, ... up to the last."""
    if interval < 1:
        raise PolicyError(f"interval is {interval}, expected at least 1")
    return range(1, target + 1, interval)


def interval_for(budget_bytes: int, target: int, members: int, size: int) -> int:
    """The smallest interval whose kept updates fit a budget, or PolicyError where not even one height does."""
    for interval in range(1, target + 1):
        if len(kept_heights(target, interval)) * members * 4 * size <= budget_bytes:
            return interval
    raise PolicyError(f"{budget_bytes} bytes do not hold one height of {members} updates ({4 * size} bytes each)")


def _rounds(case: Case) -> Rounds:
    agreed, past = case.agreed, case.past
    heights = [h for h in kept_heights(case.target, case.whole("interval")) if h >= case.first_use]
    if not heights or any(h not in past.updates for h in heights):
        raise PolicyError(f"the updates of heights {heights} are needed and not all kept")
    if not case.untouched:
        raise PolicyError("every member forgets: no kept update may be used, choose another method")
    epochs = max(1, round(agreed.training.local_epochs * case.parameters["effort"]))
    training = replace(agreed.training, local_epochs=epochs)
    base = case.past.model(case.first_use - 1)
    model = agreed.step(base, {m: past.updates[heights[0]][m] for m in case.untouched if m in past.updates[heights[0]]})
    made: dict[tuple[int, int], Checkpoint] = {}
    for number, height in enumerate(heights[1:]):
        at = case.first_use + number
        tasks = {m: Task("train", model, training, agreed.layout.size) for m in case.remaining}
        updates = yield Round(at, tasks)
        lengths = {m: squared_norm(one.delta) for m, one in past.updates[height].items() if m in case.untouched}
        usual = sum(lengths.values()) // max(1, len(lengths))
        calibrated = {
            m: LocalUpdate(with_norm(one.delta, lengths.get(m, usual)), one.records, one.loss)
            for m, one in updates.items()
        }
        model = agreed.step(model, calibrated)
        made[at, 0] = Checkpoint(model, sum(one.records for one in updates.values()))
    return Result(model, made)


FEDERASER: Final = Unlearner(
    name="federaser",
    exact=False,
    source="Liu et al., IWQoS 2021 (FedEraser), calibrated per member",
    needs=frozenset({Need.CHECKPOINT, Need.UPDATES}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    defaults={"interval": 2, "effort": 0.5},
)
