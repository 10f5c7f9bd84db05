"""The table reader: what it yields, and every fault by line, never by identifier."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_engine.data.dataset import Role
from fl_engine.data.readers import read_data_file
from fl_engine.data.table import read_table, split_by_patient
from fl_engine.errors import DataError

GOOD = "patient_id,label,a,b\nSECRET-1,0,1.5,-2\nSECRET-2,1,0,3\nSECRET-3,0,2,4e2\n"


def table(folder: Path, text: str, name: str = "site.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_features_are_compressed_without_looking_at_other_rows(tmp_path):
    data = read_table(table(tmp_path, GOOD))
    assert data.x.dtype == np.float32
    assert np.allclose(data.x[0], [np.log(2.5), -np.log(3)])
    assert data.feature_names == ("a", "b")
    assert data.patients == ("SECRET-1", "SECRET-2", "SECRET-3")
    assert data.y.tolist() == [0, 1, 0]
    alone = read_table(table(tmp_path, "\n".join(GOOD.splitlines()[:2]) + "\n"))
    assert np.array_equal(alone.x[0], data.x[0])


def test_a_table_that_tells_no_size_is_read_to_the_limit_and_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr("fl_engine.data.table.MAX_FILE_BYTES", len(GOOD))
    assert len(read_table(table(tmp_path, GOOD)).y) == 3
    endless = tmp_path / "endless.csv"
    endless.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=f"more than the {len(GOOD)} bytes that are read"):
        read_table(endless)


def test_given_constants_scale_and_choose_the_features(tmp_path):
    data = read_table(table(tmp_path, GOOD), scaling={"b": (1.0, 2.0)})
    assert data.x.tolist() == [[-1.5], [1.0], [10.0]]


def test_tab_separated_files_and_other_patient_columns_are_read(tmp_path):
    path = table(tmp_path, GOOD.replace(",", "\t").replace("patient_id", "subject"), "site.tsv")
    assert len(read_data_file(path, patient_column="subject")) == 3


def test_a_split_column_decides(tmp_path):
    text = "patient_id,label,split,a\n1,0,train,1\n2,1,val,1\n3,1,TEST,1\n"
    assert read_table(table(tmp_path, text)).roles.tolist() == [Role.TRAIN, Role.VALIDATION, Role.TEST]


def test_without_one_a_fifth_of_each_class_tests_and_names_do_not_matter():
    y = np.array([0] * 50 + [1] * 10)
    roles = split_by_patient(tuple(f"a{i}" for i in range(60)), y)
    assert np.count_nonzero(roles[:50] == Role.TEST) == 10
    assert np.count_nonzero(roles[50:] == Role.TEST) == 2
    assert np.array_equal(roles, split_by_patient(tuple(f"{59 - i}z" for i in range(60)), y))


def test_rows_of_a_patient_stay_in_one_split(tmp_path):
    rows = "".join(f"{i // 3},{i % 2},1\n" for i in range(60))
    data = read_table(table(tmp_path, "patient_id,label,a\n" + rows), several_rows=True)
    train, test = (({data.patients[i] for i in data.rows(role)}) for role in (Role.TRAIN, Role.TEST))
    assert train
    assert test
    assert not train & test


@pytest.mark.parametrize(
    "text, row, fault",
    [
        (GOOD.replace("patient_id", "id"), 1, "column 'patient_id' is missing"),
        (GOOD.replace("label", "class"), 1, "column 'label' is missing"),
        (GOOD.replace("a,b", "a,a"), 1, "column 'a' is there twice"),
        ("patient_id,label\n1,0\n", 1, "holds no feature column"),
        (GOOD.replace("1.5", ""), 2, "column 'a' is empty or NaN"),
        (GOOD.replace("1.5", "NaN"), 2, "column 'a' is empty or NaN"),
        (GOOD.replace("1.5", "inf"), 2, "column 'a' is infinite"),
        (GOOD.replace("1.5", "SECRET"), 2, "column 'a' is not a number"),
        (GOOD.replace("SECRET-2", " "), 3, "column 'patient_id' is empty"),
        (GOOD.replace("SECRET-3", "SECRET-1"), 4, "the patient of this line is also in line 2"),
        (GOOD.replace("SECRET-2,1", "SECRET-2,-1"), 3, "label -1 is out of range 0..255"),
        (GOOD.replace("SECRET-2,1", "SECRET-2,0.5"), 3, "label 0.5 is not a whole number"),
        (GOOD.replace("SECRET-2,1", "SECRET-2,"), 3, "column 'label' is empty or NaN"),
        (GOOD.replace("-2\n", "-2,9\n"), 2, "has 5 cells, the header has 4"),
        ("patient_id,label,a\n", None, "holds no rows"),
        ("", None, "holds no rows"),
        ('patient_id,label,a\n"1,0,2\n', None, "not a well-formed table"),
        ("patient_id,label,split,a\n1,0,dev,1\n", 2, "expected train, val or test"),
    ],
)
def test_faults_are_named_by_line(tmp_path, text, row, fault):
    with pytest.raises(DataError) as caught:
        read_table(table(tmp_path, text))
    assert "SECRET" not in str(caught.value)
    assert caught.value.row == row
    assert fault in caught.value.fault


def test_a_patient_in_two_splits_is_named_by_both_lines(tmp_path):
    text = "patient_id,label,split,a\nSECRET,0,train,1\nSECRET,0,test,1\n"
    with pytest.raises(DataError, match="row 3: the patient of this line is in test, in line 2 in train"):
        read_table(table(tmp_path, text), several_rows=True)


def test_a_label_beyond_the_declared_classes_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"row 3: label 1 is out of range 0\.\.0"):
        read_table(table(tmp_path, GOOD), classes=1)


def test_files_that_are_not_text_or_not_there_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        read_table(path)
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "absent.csv")


def test_a_file_of_unknown_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"files ending in \.xlsx are not read"):
        read_data_file(tmp_path / "x.xlsx")


def test_a_byte_order_mark_and_blank_last_lines_do_no_harm(tmp_path):
    path = tmp_path / "bom.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b"\n\n")
    options: dict[str, Any] = {}
    assert len(read_table(path, **options)) == 3
