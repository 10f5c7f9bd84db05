"""`ridge`: one round instead of all, in a study whose model is a ridge head; deleting a record is a subtraction.

The model of such a study is the mean statistics of its members' records (`fl_engine.training.ridge`). One round makes
it, from any model before it; so whatever number of rounds used the records, one stands for them. A hospital that keeps
its sums takes the record's own away and has, to the last bit, the sums of what it retains.

Exact: byte-equal to a run without the records under the same beacons (which decide the noise), roster and secrets.
"""

from __future__ import annotations

from typing import Final

from fl_engine.unlearning.unlearner import ALWAYS, Claim, Need, Retraining, Unlearner

_RETRAINING: Final = Retraining("train", lambda replaced, parameters: 1)

RIDGE: Final = Unlearner(
    name="ridge",
    exact=True,
    source="ridge statistics for unlearning (arXiv 2603.12977), in integers",
    needs=frozenset({Need.CHECKPOINT, Need.STATISTICS}),
    claims=ALWAYS | {Claim.L2, Claim.L3},
    rounds=_RETRAINING.rounds,
    retraining=_RETRAINING,
)
