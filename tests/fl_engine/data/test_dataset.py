"""The in-memory form: row numbers are for good, and members must fit each other."""

import numpy as np
import pytest

from fl_engine.data.dataset import Dataset, Role, check_same_shape, infer_classes
from fl_engine.errors import DataError, ShapeMismatch


def dataset(labels: list[int], shape: tuple[int, ...] = (2,), name: str = "a.npz") -> Dataset:
    n = len(labels)
    return Dataset(
        x=np.arange(n * int(np.prod(shape)), dtype=np.float32).reshape(n, *shape),
        y=np.array(labels),
        patients=tuple(f"p{i // 2}" for i in range(n)),
        roles=np.array([Role.TRAIN, Role.TEST] * n, dtype=np.uint8)[:n],
        classes=3,
        name=name,
    )


def test_columns_of_different_length_are_refused():
    with pytest.raises(ShapeMismatch, match="rows of patients"):
        Dataset(np.zeros((2, 1), np.float32), np.zeros(2, np.int64), ("p",), np.zeros(2, np.uint8), 2, "x")


def test_a_subset_keeps_rows_together():
    part = dataset([0, 1, 2, 0]).subset(np.array([3, 1]))
    assert part.y.tolist() == [0, 1]
    assert part.x.tolist() == [[6, 7], [2, 3]]
    assert part.patients == ("p1", "p0")


def test_members_may_lack_classes_that_others_have():
    assert infer_classes([dataset([0, 0]), dataset([1, 2])]) == 3
    assert infer_classes([dataset([0, 0])]) == 2


def test_a_gap_names_the_first_file_and_row_beyond_it():
    with pytest.raises(DataError, match=r"b\.npz, row 1: label 200 is out of range"):
        infer_classes([dataset([0, 1]), dataset([1, 200], name="b.npz")])
    with pytest.raises(DataError, match="no label 0 exists"):
        infer_classes([dataset([1, 2])])


def test_members_with_records_of_different_shape_are_refused():
    assert check_same_shape([dataset([0]), dataset([1])]) == (2,)
    with pytest.raises(DataError, match=r"b\.npz: one record has shape \(3,\), in a\.npz it has \(2,\)"):
        check_same_shape([dataset([0]), dataset([0], (3,), "b.npz")])
