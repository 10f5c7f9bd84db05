"""One door for data files: the reader is chosen by the file's name."""

from __future__ import annotations

from pathlib import Path

from fl_engine.data.dataset import Dataset
from fl_engine.data.npz import read_npz
from fl_engine.data.table import read_table
from fl_engine.errors import DataError


def read_data_file(
    path: Path, *, classes: int | None = None, test_only: bool = False, patient_column: str = "patient_id"
) -> Dataset:
    """Read `.npz` (MedMNIST layout) or `.csv`, `.tsv`, `.tab` (table). Raises DataError.

    `test_only`: the file serves for evaluation; of an `.npz` only the test arrays must be there.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_npz(path, classes=classes, required=("test",) if test_only else ("train", "test"))
    if suffix in (".csv", ".tsv", ".tab"):
        return read_table(path, classes=classes, patient_column=patient_column)
    raise DataError(str(path), None, f"files ending in {suffix or 'nothing'} are not read; use .npz, .csv or .tsv")
