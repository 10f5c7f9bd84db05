"""The one in-memory form of data: what every reader yields and the trainer takes.

Row order is the *import row number*: row i of every array is record i for good, whoever withdraws later. Batches are
drawn from row numbers, never from identifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import DataError, ShapeMismatch

MAX_CLASSES: Final = 256


class Role(IntEnum):
    """What a record is for. Validation records neither train nor count in the final evaluation."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Dataset:
    """One member's records.

    `x` float32 [N, C, H, W] in -1..1 for images, [N, D] for tables; `y` int64 [N] in 0..classes-1;
    `patients` N strings; `roles` uint8 [N] (Role); `name` the file or task it came from.
    `patients_simulated_from` is None when `patients` are real identifiers or the way they were made up
    (`"image"`: each image its own patient; `"tiles"`: blocks of neighbouring tiles).
    `simulated` holds the sentences that must be shown wherever results on this data are shown.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    patients: tuple[str, ...]
    roles: NDArray[np.uint8]
    classes: int
    name: str
    description: str = ""
    licence: str = ""
    simulated: tuple[str, ...] = ()
    patients_simulated_from: str | None = None
    feature_names: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = len(self.y)
        for what, got in (("x", len(self.x)), ("patients", len(self.patients)), ("roles", len(self.roles))):
            if got != rows:
                raise ShapeMismatch(f"rows of {what}", rows, got)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record."""
        return tuple(self.x.shape[1:])

    def rows(self, role: Role) -> NDArray[np.int64]:
        """Import row numbers of that role, ascending, int64 [n]."""
        return np.flatnonzero(self.roles == role).astype(np.int64)

    def subset(self, rows: NDArray[np.int64]) -> Dataset:
        """The records of these rows, renumbered from 0 in the given order."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            patients=tuple(self.patients[int(i)] for i in rows),
            roles=self.roles[rows],
            sites=tuple(self.sites[int(i)] for i in rows) if self.sites else (),
        )

    def patient_count(self, role: Role) -> int:
        """Number of different patients with at least one record of that role."""
        return len({self.patients[int(i)] for i in self.rows(role)})


def infer_classes(datasets: Sequence[Dataset]) -> int:
    """The number of classes of several members' data together.

    Labels must be 0, 1, 2, ... without a gap over *all* members (one hospital may lack a class). A label beyond a gap
    is out of range: DataError names its file and row. Use the study's declared number where a class is absent
    everywhere.
    """
    present = np.unique(np.concatenate([dataset.y for dataset in datasets]))
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps) == 0:
        return max(2, len(present))
    rogue = int(present[gaps[0]])
    for dataset in datasets:
        hits = np.flatnonzero(dataset.y == rogue)
        if len(hits):
            expected = "no label 0 exists" if gaps[0] == 0 else f"the labels below it are 0..{int(gaps[0]) - 1}"
            raise DataError(dataset.name, int(hits[0]), f"label {rogue} is out of range: {expected}")
    raise DataError("data", None, f"label {rogue} is out of range")


def check_same_shape(datasets: Sequence[Dataset]) -> tuple[int, ...]:
    """The common shape of one record, or DataError naming the first file that differs."""
    expected = datasets[0].input_shape
    for dataset in datasets[1:]:
        if dataset.input_shape != expected:
            fault = f"one record has shape {dataset.input_shape}, in {datasets[0].name} it has {expected}"
            raise DataError(dataset.name, None, fault)
    return expected


def canonical_patients(values: NDArray[Any], file: str, what: str) -> tuple[str, ...]:
    """Identifiers of an array or column [N] -> N strings, stripped; a missing one is a DataError by row.

    Missing are: empty or blank text, the words nan, none, null, na, n/a in any case, and NaN. Whole floats are read
    as integers (a CSV editor's habit). Object arrays never get here: they would need pickle.
    """
    if values.dtype.kind == "f":
        return tuple(_float_patient(float(v), row, file, what) for row, v in enumerate(values))
    if values.dtype.kind not in "iuUS":
        raise DataError(file, None, f"{what} has type {values.dtype}; identifiers are text or whole numbers")
    if values.dtype.kind == "S":
        texts = [bytes(v).decode("utf-8", errors="replace") for v in values]
    else:
        texts = [str(v) for v in values]
    stripped = tuple(text.strip() for text in texts)
    for row, text in enumerate(stripped):
        if is_missing(text):
            raise DataError(file, row, f"{what} is missing (rows from 0)")
    return stripped


def is_missing(text: str) -> bool:
    """Whether a stripped cell stands for 'no value'."""
    return text.casefold() in ("", "nan", "none", "null", "na", "n/a")


def _float_patient(value: float, row: int, file: str, what: str) -> str:
    if not np.isfinite(value):
        raise DataError(file, row, f"{what} is missing (rows from 0)")
    if value != int(value):
        raise DataError(file, row, f"{what} is not a whole number (rows from 0)")
    return str(int(value))
