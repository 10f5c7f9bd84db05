"""What a training method is: a value that turns (model, own records, beacon) into an update, without hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.models.model import Model
from fl_engine.params import Ints, ParamSpec
from fl_engine.ring import Grid
from fl_engine.rng import Stream

MAX_EPOCHS: Final = 1000
MAX_BATCH: Final = 65536
MAX_NOISE: Final = 1e6
MIN_ERASABLE_BATCHES: Final = 2


@dataclass(frozen=True)
class Hyperparameters:
    """`[training]` of a study spec. `noise`: deviation of what a member adds to its statistics (`ridge` alone)."""

    local_epochs: int
    batch_size: int
    learning_rate: float
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.local_epochs <= MAX_EPOCHS:
            raise PolicyError(f"local_epochs is {self.local_epochs}, expected 1..{MAX_EPOCHS}")
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise PolicyError(f"batch_size is {self.batch_size}, expected 1..{MAX_BATCH}")
        if not (isfinite(self.learning_rate) and 0 < self.learning_rate <= 10):
            raise PolicyError(f"learning_rate is {self.learning_rate}, expected above 0 and at most 10")
        if not 0 <= self.noise <= MAX_NOISE:
            raise PolicyError(f"noise is {self.noise}, expected 0..{MAX_NOISE:g}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Hyperparameters:
        """Strict: these keys (`noise` may lack), each of its type; anything else is a PolicyError naming it."""
        values = {"noise": 0.0, **values}
        wanted: dict[str, type | tuple[type, ...]] = {
            "local_epochs": int,
            "batch_size": int,
            "learning_rate": (int, float),
            "noise": (int, float),
        }
        if set(values) != set(wanted):
            raise PolicyError(f"training parameters are {sorted(values)}, expected {sorted(wanted)}")
        for name, kind in wanted.items():
            if isinstance(values[name], bool) or not isinstance(values[name], kind):
                raise PolicyError(f"training parameter {name} is {values[name]!r}")
        return cls(values["local_epochs"], values["batch_size"], float(values["learning_rate"]), float(values["noise"]))


@dataclass(frozen=True)
class TrainingData:
    """The records a worker holds: x float32 [N, ...], y int64 [N], `row_numbers` int64 [N] strictly ascending.

    `row_numbers` are import row numbers: after an erasure the remaining records keep theirs.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    row_numbers: NDArray[np.int64]
    classes: int

    def __post_init__(self) -> None:
        if self.y.shape != (len(self.x),) or self.row_numbers.shape != (len(self.x),):
            raise ShapeMismatch("rows of y and row numbers", len(self.x), (self.y.shape, self.row_numbers.shape))
        if np.any(np.diff(self.row_numbers) <= 0):
            raise ShapeMismatch("row numbers", "strictly ascending", "another order or a number twice")
        if len(self.y) and (int(self.y.min()) < 0 or int(self.y.max()) >= self.classes):
            raise ShapeMismatch("labels", f"0..{self.classes - 1}", (int(self.y.min()), int(self.y.max())))

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the records with these import row numbers are, ascending, int64 [n]; each must be here, once."""
        ordered = np.sort(rows)
        if np.any(np.diff(ordered) == 0):
            raise ShapeMismatch("row numbers to train on", "each once", "a number twice")
        absent = ordered[~np.isin(ordered, self.row_numbers)]
        if len(absent):
            raise ShapeMismatch("row numbers to train on", "rows that are loaded", int(absent[0]))
        return np.searchsorted(self.row_numbers, ordered).astype(np.int64)


@dataclass(frozen=True)
class LocalUpdate:
    """`delta` int32 [P] on the grid; `records` n_k; `loss` the mean training loss of the last epoch."""

    delta: Ints
    records: int
    loss: float


class Trainable(Protocol):
    """What a method needs of a network; `fl_engine.training.sgd.Network` is one, so that methods need no torch."""

    @property
    def spec(self) -> ParamSpec:
        """The layout of the parameters."""

    def set_weights(self, vector: NDArray[np.float32]) -> None:
        """Set all weights from float32 [P]."""

    def weights(self) -> NDArray[np.float32]:
        """All weights as float32 [P]."""

    def train_epoch(
        self, x: NDArray[np.float32], y: NDArray[np.int64], batches: Iterable[NDArray[np.int64]], learning_rate: float
    ) -> float:
        """One pass of SGD over the batches (positions in x and y); the mean loss."""

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the head sees, float32 [N, D]; a record's row does not depend on the other records."""


class TrainLocal(Protocol):
    """The signature of local training; see `fedavg` for the meaning of each argument and the errors."""

    def __call__(
        self,
        network: Trainable,
        ints: Ints,
        data: TrainingData,
        rows: NDArray[np.int64],
        hyperparameters: Hyperparameters,
        grid: Grid,
        *,
        beacon: bytes,
        member: int,
        erasable: bool,
        secret: bytes = b"",
    ) -> LocalUpdate:
        """Train from `ints` on the records `rows` of `data`. `secret`: 32 bytes that only this member knows."""


def check_batches(records: int, hyperparameters: Hyperparameters, erasable: bool) -> None:
    """Raise PolicyError where an epoch of a study that is erasable would have fewer than two batches.

    With one batch an epoch the update *is* the mean gradient, and the difference of two such updates is the erased
    record's own gradient, from which an image can be rebuilt.
    """
    batch_size = hyperparameters.batch_size
    batches = ceil(records / batch_size)
    if erasable and batches < MIN_ERASABLE_BATCHES:
        raise PolicyError(
            f"{records} records in batches of {batch_size} make {batches} batch an epoch; an erasable study needs at "
            f"least {MIN_ERASABLE_BATCHES} (choose a batch size below {records})"
        )


def _no_noise(hyperparameters: Hyperparameters, erasable: bool) -> None:
    if hyperparameters.noise != 0:
        raise PolicyError(f"training.noise is {hyperparameters.noise:g}: only the method ridge adds noise")


@dataclass(frozen=True)
class Method:
    """A training method.

    `train_local` takes the agreed model and this member's records and gives the update it will commit to. `precision`:
    of the worker's arithmetic, "float32" or "float64"; models and records are float32 either way. `by_steps`: whether
    it takes steps along a gradient, which some models and unlearning methods need and others forbid. `check(settings,
    erasable)` raises PolicyError where the settings are none for this method in a study that is erasable, or not;
    `check_records(records, settings, erasable)` where a member has too few records.
    """

    name: str
    train_local: TrainLocal
    precision: str = "float32"
    by_steps: bool = True
    check: Callable[[Hyperparameters, bool], None] = _no_noise
    check_records: Callable[[int, Hyperparameters, bool], None] = check_batches

    def trains(self, model: Model) -> None:
        """Raise PolicyError unless this method finds the parameters of this model."""
        if self.by_steps != model.by_steps:
            raise PolicyError(
                f"training method {self.name} does not find the parameters of model {model.name}: a ridge head is made "
                "by method ridge, every other model by steps"
            )


def batch_order(
    positions: NDArray[np.int64], hyperparameters: Hyperparameters, beacon: bytes, member: int
) -> list[list[NDArray[np.int64]]]:
    """Per epoch the batches, each an int64 array of positions; the last batch of an epoch may be smaller.

    One stream named by (beacon, member index) permutes the ascending positions anew for every epoch. Removing a record
    changes all batches: batches that stayed equal would let holders of two models single out the record.
    """
    stream = Stream(beacon, f"batches of member {member}")
    epochs = []
    for _ in range(hyperparameters.local_epochs):
        order = positions[stream.permutation(len(positions))]
        size = hyperparameters.batch_size
        epochs.append([order[start : start + size] for start in range(0, len(order), size)])
    return epochs
