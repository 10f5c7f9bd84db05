"""A small study of four members with tables of features, in memory, and what an erasure of it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fl_engine.models import get_model, initial_model
from fl_engine.ring import Grid
from fl_engine.training import Hyperparameters, TrainingData
from fl_engine.unlearning import Agreed, Case, Checkpoint, Past, Records
from fl_engine.unlearning.execution import Run

FEATURES, CLASSES, MEMBERS, HEIGHTS = 6, 3, 4, 6
GRID = Grid()
MODEL = get_model("mlp")
LAYOUT = MODEL.layout((FEATURES,), CLASSES)
AGREED = Agreed(
    layout=LAYOUT,
    grid=GRID,
    rule="mean",
    method="fedavg",
    training=Hyperparameters(local_epochs=2, batch_size=12, learning_rate=0.1),
    initial=initial_model(LAYOUT, GRID),
    branch_seed=bytes(32),
)


def table(seed: int, count: int) -> TrainingData:
    """Records of three clusters that overlap a little."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(0).normal(0, 2, (CLASSES, FEATURES))
    x = (centres[y] + rng.normal(0, 1, (count, FEATURES))).astype(np.float32)
    return TrainingData(x, y.astype(np.int64), np.arange(count, dtype=np.int64), CLASSES)


@dataclass(frozen=True)
class Learned:
    """A study that was learned: everybody's records, the run and what is kept of it."""

    hospitals: dict[int, Records]
    run: Run
    past: Past

    def erasing(
        self, forgotten: dict[int, list[int]], leaving: frozenset[int] = frozenset(), seed: bytes = b"\1" * 32
    ) -> tuple[Case, dict[int, Records]]:
        """The case and the hospitals of an erasure of these rows, on a lineage of another seed."""
        hospitals = {}
        for member, records in self.hospitals.items():
            gone = np.array(sorted(forgotten.get(member, [])), dtype=np.int64)
            kept = records.retained[~np.isin(records.retained, gone)]
            hospitals[member] = Records(records.data, kept, gone, records.secret)
        case = Case(
            agreed=replace(AGREED, branch_seed=seed),
            members=tuple(self.hospitals),
            forgetting=frozenset(forgotten) | leaving,
            leaving=leaving,
            first_use=1,
            target=HEIGHTS,
            past=self.past,
        )
        return case, hospitals


def start() -> Checkpoint:
    return Checkpoint(AGREED.initial, 0)


def beginning(parameters: dict[str, float] | None = None, members: int = MEMBERS) -> Case:
    """A study that begins."""
    past = Past({(0, 0): start()})
    nobody: frozenset[int] = frozenset()
    return Case(AGREED, tuple(range(members)), nobody, nobody, 1, HEIGHTS, past, parameters or {})
