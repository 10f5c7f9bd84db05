"""`federaser`: train again at every few heights, shortly, and give each update its old length. Approximate.

Liu, Ma, Yang, Wang, *FedEraser: Enabling Efficient Client-Level Data Removal from Federated Learning Models*, IWQoS
2021. For every `interval`-th of the heights that are replaced, the first of them included, member k trains `effort` of
the study's epochs from the new model, giving V_k, and sends

    |U_k| / |V_k| * V_k          in integers, U_k: what it sent at that height before

The paper keeps all of U_k, and takes those of the first kept height as they are instead of training. Only lengths are
used of all others, so this keeps nothing but lengths: one number a member and height in place of 4 P bytes, and nothing
to purge but that. It costs one round of short training. (The public code averages first and calibrates layer by layer;
this scales each member's whole vector.) A member that forgets some patients and stays has no clean length of its own:
it takes the mean square of the untouched ones', so no number of its old updates is used again.

Approximate: the lengths come from a trajectory that the records had bent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Final

from fl_engine.errors import PolicyError
from fl_engine.training.method import Hyperparameters
from fl_engine.unlearning.unlearner import ALWAYS, Case, Claim, Need, Retraining, Rounds, Unlearner


def _shorter(training: Hyperparameters, parameters: Mapping[str, float]) -> Hyperparameters:
    return replace(training, local_epochs=max(1, round(training.local_epochs * parameters["effort"])))


_RETRAINING: Final = Retraining(
    "train",
    lambda replaced, parameters: ceil(replaced / parameters["interval"]),
    training=_shorter,
    length_of=lambda number, parameters: int(number * parameters["interval"]),
)


def _rounds(case: Case) -> Rounds:
    if case.whole("interval") < 1:
        raise PolicyError("interval is 0, expected at least 1")
    if not case.untouched:
        raise PolicyError("every member forgets: no old length may be used, choose another method")
    return (yield from _RETRAINING.rounds(case))


FEDERASER: Final = Unlearner(
    name="federaser",
    exact=False,
    source="in the manner of Liu et al., IWQoS 2021 (FedEraser), from lengths alone, calibrated per member",
    needs=frozenset({Need.CHECKPOINT, Need.LENGTHS, Need.STEPS}),
    claims=ALWAYS | {Claim.L2_APPROXIMATE},
    rounds=_rounds,
    retraining=_RETRAINING,
    defaults={"interval": 2, "effort": 0.5},
)
