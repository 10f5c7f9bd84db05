"""Reader for tables: CSV or TSV with one header line, a patient column, a label column and numeric features.

A study in which patients can be erased must not keep a constant measured from its patients (a mean, a deviation): it
would survive the erasure. So features are scaled in one of two ways, neither of which looks at this file:

* with `scaling`, fixed (centre, width) a feature that belongs to the task: z = clip((v - centre) / width, -10, 10)
* without, by the parameter-free compression sign(v) * ln(1 + |v|)

Rows are records in file order (row numbers in errors are line numbers, the header being line 1). A patient has one row
unless `several_rows` is set. The split comes from an optional `split` column (train, val, test) or, without it, every
class is divided 80 : 20 by patient with a fixed stream over row positions, never over identifiers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.data.dataset import MAX_CLASSES, Dataset, Role, is_missing
from fl_engine.errors import DataError
from fl_engine.rng import Stream

MAX_FILE_BYTES: Final = 2**28
MAX_COLUMNS: Final = 4096
TEST_SHARE: Final = 0.2
_CLIP: Final = 10.0
_ROLES: Final = {"train": Role.TRAIN, "val": Role.VALIDATION, "validation": Role.VALIDATION, "test": Role.TEST}


def read_table(
    path: Path,
    *,
    patient_column: str = "patient_id",
    label_column: str = "label",
    split_column: str = "split",
    classes: int | None = None,
    scaling: Mapping[str, tuple[float, float]] | None = None,
    several_rows: bool = False,
) -> Dataset:
    """Read one member's table; `.tsv` and `.tab` files are tab-separated, all others comma-separated.

    `scaling` names the features to use, in its order, with their (centre, width); without it every other column is a
    feature. Raises DataError naming file, line and fault, never an identifier.
    """
    file = str(path)
    header, lines = _read_lines(path)
    for column in (patient_column, label_column):
        if column not in header:
            raise DataError(file, 1, f"column {column!r} is missing; the columns are {', '.join(header[:20])}")
    reserved = {patient_column, label_column, split_column}
    features = tuple(scaling) if scaling is not None else tuple(name for name in header if name not in reserved)
    if not features:
        raise DataError(file, 1, "holds no feature column")
    if missing := [name for name in features if name not in header]:
        raise DataError(file, 1, f"feature column {missing[0]!r} is missing")

    position = {name: column for column, name in enumerate(header)}
    patients = _patients([cells[position[patient_column]] for cells in lines], file, patient_column, several_rows)
    y = _labels([cells[position[label_column]] for cells in lines], file, label_column, classes)
    x = _features(lines, [position[name] for name in features], features, file, scaling)
    if split_column in position:
        roles = _given_roles([cells[position[split_column]] for cells in lines], patients, file, split_column)
    else:
        roles = split_by_patient(patients, y)
    return Dataset(
        x=x,
        y=y,
        patients=patients,
        roles=roles,
        classes=classes if classes is not None else max(2, int(y.max()) + 1),
        name=file,
        description=f"table {path.name} with {len(features)} features",
        feature_names=features,
    )


def split_by_patient(patients: tuple[str, ...], y: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Roles uint8 [N]: within each class (of a patient's first record) a fifth of the patients are for testing.

    Depends on the order of rows and on labels only. A class with a single patient trains.
    """
    first_row: dict[str, int] = {}
    for row, patient in enumerate(patients):
        first_row.setdefault(patient, row)
    testing: set[str] = set()
    for label in np.unique(y):
        group = [patient for patient, row in first_row.items() if y[row] == label]
        order = Stream(b"koinon.split/1", f"class {int(label)}").permutation(len(group))
        testing.update(group[int(i)] for i in order[: int(len(group) * TEST_SHARE + 0.5)])
    return np.array([Role.TEST if patient in testing else Role.TRAIN for patient in patients], dtype=np.uint8)


def scale_feature(
    values: NDArray[np.float64], centre: float | NDArray[np.float64], width: float | NDArray[np.float64]
) -> NDArray[np.float64]:
    """clip((v - centre) / width, -10, 10), elementwise."""
    return np.asarray(np.clip((values - centre) / width, -_CLIP, _CLIP), dtype=np.float64)


def compress(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(v) * ln(1 + |v|), elementwise: tames any magnitude without a constant measured from data."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)


def _read_lines(path: Path) -> tuple[list[str], list[list[str]]]:
    file = str(path)
    try:
        with path.open("rb") as opened:  # a pipe or a device tells no size before
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DataError(file, None, f"has more than the {MAX_FILE_BYTES} bytes that are read")
        text = data.decode("utf-8-sig")
    except OSError as fault:
        raise DataError(file, None, f"cannot be read: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise DataError(file, None, f"is not UTF-8 text (byte {fault.start})") from fault
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as fault:
        raise DataError(file, None, f"is not a well-formed table: {fault}") from fault
    while rows and not any(cell.strip() for cell in rows[-1]):
        rows.pop()
    if len(rows) < 2:
        raise DataError(file, None, "holds no rows")
    header = [cell.strip() for cell in rows[0]]
    if len(header) > MAX_COLUMNS:
        raise DataError(file, 1, f"has {len(header)} columns, at most {MAX_COLUMNS} are read")
    if len(set(header)) != len(header):
        twice = next(name for i, name in enumerate(header) if name in header[:i])
        raise DataError(file, 1, f"column {twice!r} is there twice")
    for line, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(header):
            raise DataError(file, line, f"has {len(cells)} cells, the header has {len(header)}")
    return header, [[cell.strip() for cell in cells] for cells in rows[1:]]


def _patients(cells: list[str], file: str, column: str, several_rows: bool) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for line, cell in enumerate(cells, start=2):
        if is_missing(cell):
            raise DataError(file, line, f"column {column!r} is empty")
        earlier = first.setdefault(cell, line)
        if earlier != line and not several_rows:
            fault = f"the patient of this line is also in line {earlier}; one row a patient is expected"
            raise DataError(file, line, fault)
    return tuple(cells)


def _labels(cells: list[str], file: str, column: str, classes: int | None) -> NDArray[np.int64]:
    upper = classes if classes is not None else MAX_CLASSES
    labels = np.empty(len(cells), dtype=np.int64)
    for line, cell in enumerate(cells, start=2):
        value = _number(cell, file, line, column)
        if value != int(value):
            raise DataError(file, line, f"label {cell} is not a whole number")
        if not 0 <= value < upper:
            raise DataError(file, line, f"label {cell} is out of range 0..{upper - 1}")
        labels[line - 2] = int(value)
    return labels


def _features(
    lines: list[list[str]],
    columns: list[int],
    names: tuple[str, ...],
    file: str,
    scaling: Mapping[str, tuple[float, float]] | None,
) -> NDArray[np.float32]:
    raw = np.empty((len(lines), len(columns)), dtype=np.float64)
    for line, cells in enumerate(lines, start=2):
        for i, column in enumerate(columns):
            raw[line - 2, i] = _number(cells[column], file, line, names[i])
    if scaling is None:
        return compress(raw).astype(np.float32)
    scaled = [scale_feature(raw[:, i], *scaling[name]) for i, name in enumerate(names)]
    return np.stack(scaled, axis=1).astype(np.float32)


def _number(cell: str, file: str, line: int, column: str) -> float:
    if is_missing(cell):
        raise DataError(file, line, f"column {column!r} is empty or NaN")
    try:
        value = float(cell)
    except ValueError:
        raise DataError(file, line, f"column {column!r} is not a number") from None
    if not np.isfinite(value):
        raise DataError(file, line, f"column {column!r} is infinite")
    return value


def _given_roles(cells: list[str], patients: tuple[str, ...], file: str, column: str) -> NDArray[np.uint8]:
    home: dict[str, tuple[str, int]] = {}
    roles = np.empty(len(cells), dtype=np.uint8)
    for line, (cell, patient) in enumerate(zip(cells, patients, strict=True), start=2):
        if cell.casefold() not in _ROLES:
            raise DataError(file, line, f"column {column!r} is {cell!r}, expected train, val or test")
        roles[line - 2] = _ROLES[cell.casefold()]
        first_cell, first_line = home.setdefault(patient, (cell.casefold(), line))
        if _ROLES[first_cell] != roles[line - 2]:
            fault = f"the patient of this line is in {cell.casefold()}, in line {first_line} in {first_cell}"
            raise DataError(file, line, fault)
    return roles
