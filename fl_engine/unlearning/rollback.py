"""`rollback`: go back to the model before the first use and run the study's own rounds again without the records.

Exact: what results is, bit for bit, the study that never had the records, under the new lineage's beacons and the same
roster. The cost is every round since the first use; nothing but the checkpoint is kept for it.
"""

from __future__ import annotations

from typing import Final

from fl_engine.unlearning.unlearner import ALWAYS, Claim, Need, Retraining, Unlearner

RETRAINING: Final = Retraining("train", lambda replaced, parameters: replaced)

ROLLBACK: Final = Unlearner(
    name="rollback",
    exact=True,
    source="checkpoint and replay: training again without the records (Bourtoule et al., S&P 2021)",
    needs=frozenset({Need.CHECKPOINT}),
    claims=ALWAYS | {Claim.L2, Claim.L3},
    rounds=RETRAINING.rounds,
    retraining=RETRAINING,
)
