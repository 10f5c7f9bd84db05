"""The MedMNIST-layout reader: what it yields, and every fault by file and row, never by identifier."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_engine.data import npz
from fl_engine.data.dataset import Role, infer_classes
from fl_engine.data.npz import read_npz
from fl_engine.errors import DataError

Arrays = dict[str, Any]


def arrays(shape: tuple[int, ...] = (28, 28), ids: bool = True) -> Arrays:
    made: Arrays = {}
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        pixels = np.arange(count * int(np.prod(shape))) % 256
        made[f"{split}_images"] = pixels.reshape(count, *shape).astype(np.uint8)
        made[f"{split}_labels"] = (np.arange(count) % 3).astype(np.uint8)[:, None]
        if ids:
            made[f"{split}_patient_ids"] = np.array([f"SECRET-{split}-{row // 2}" for row in range(count)])
    return made


def written(folder: Path, content: Arrays) -> Path:
    path = folder / "site.npz"
    np.savez_compressed(path, **content)
    return path


def fault_of(folder: Path, content: Arrays, **options: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read_npz(written(folder, content), **options)
    assert "SECRET" not in str(caught.value)
    assert caught.value.file.endswith("site.npz")
    return caught.value


def test_rows_are_imported_in_the_order_train_val_test(tmp_path):
    data = read_npz(written(tmp_path, arrays()))
    assert data.x.shape == (11, 1, 28, 28)
    assert data.x.dtype == np.float32
    assert data.roles.tolist() == [0] * 6 + [1] * 2 + [2] * 3
    assert data.rows(Role.TEST).tolist() == [8, 9, 10]
    assert data.y.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2]
    assert data.patients[:3] == ("SECRET-train-0", "SECRET-train-0", "SECRET-train-1")
    assert data.patient_count(Role.TRAIN) == 3
    assert data.patients_simulated_from is None
    assert data.simulated == ()
    assert data.classes == 3


def test_pixels_are_scaled_to_minus_one_to_one_and_channels_come_first(tmp_path):
    content = arrays((8, 9, 3))
    data = read_npz(written(tmp_path, content))
    assert data.input_shape == (3, 8, 9)
    assert data.x[0, 2, 0, 1] == np.float32(content["train_images"][0, 0, 1, 2]) / np.float32(127.5) - 1
    white = arrays()
    white["train_images"] = np.full((6, 28, 28), 255, np.uint8)
    assert read_npz(written(tmp_path, white)).x.max() == 1.0


def test_float_images_within_zero_and_one_are_read(tmp_path):
    content = arrays()
    for split in ("train", "val", "test"):
        content[f"{split}_images"] = content[f"{split}_images"].astype(np.float64) / 255
    assert np.abs(read_npz(written(tmp_path, content)).x - read_npz(written(tmp_path, arrays())).x).max() < 1e-6


def test_without_identifiers_each_image_is_its_own_patient_and_the_data_say_so(tmp_path):
    data = read_npz(written(tmp_path, arrays(ids=False)))
    assert len(set(data.patients)) == 11
    assert data.patients_simulated_from == "image"
    assert "each image is its own patient" in data.simulated[0]


def test_number_identifiers_and_flat_labels_are_read(tmp_path):
    content = arrays()
    for start, split in ((0, "train"), (100, "val"), (200, "test")):
        content[f"{split}_patient_ids"] = start + np.arange(len(content[f"{split}_labels"]))
        content[f"{split}_labels"] = content[f"{split}_labels"][:, 0]
    content["val_patient_ids"] = content["val_patient_ids"].astype(np.float64)
    assert read_npz(written(tmp_path, content)).patients[5:7] == ("5", "100")


def test_a_test_file_needs_the_test_arrays_only(tmp_path):
    content = {name: array for name, array in arrays().items() if name.startswith("test")}
    assert len(read_npz(written(tmp_path, content), required=("test",))) == 3
    assert "train_images is missing" in fault_of(tmp_path, content).fault


@pytest.mark.parametrize("name", sorted(arrays()))
def test_a_missing_array_is_named(tmp_path, name):
    content = arrays()
    del content[name]
    assert fault_of(tmp_path, content).fault == f"array {name} is missing"


@pytest.mark.parametrize(
    "labels, row, fault",
    [
        ([0, 1, 2, 3, 0, 0], 3, "label 3 is out of range 0..2"),
        ([0, -1, 2, 0, 0, 0], 1, "label -1 is negative"),
        ([0, 1, 2, 0, 0.5, 0], 4, "label 0.5 is not a whole number"),
        ([0, np.nan, 2, 0, 0, 0], 1, "label nan is not a whole number"),
    ],
)
def test_a_bad_label_is_named_by_row(tmp_path, labels, row, fault):
    error = fault_of(tmp_path, {**arrays(), "train_labels": np.array(labels)}, classes=3)
    assert error.row == row
    assert fault in error.fault


def test_a_label_beyond_a_gap_is_out_of_range_over_all_members(tmp_path):
    content = arrays()
    content["train_labels"][4] = 9
    with pytest.raises(DataError, match=r"row 4: label 9 is out of range: the labels below it are 0\.\.2"):
        infer_classes([read_npz(written(tmp_path, content))])
    assert infer_classes([read_npz(written(tmp_path, arrays()))]) == 3


@pytest.mark.parametrize(
    "labels, fault",
    [
        (np.zeros((6, 14), np.uint8), "one label a row"),
        (np.array(["a"] * 6), "expected whole numbers"),
        (np.zeros(5, np.uint8), "train_images has 6 rows, train_labels 5"),
    ],
)
def test_labels_of_another_form_are_refused(tmp_path, labels, fault):
    assert fault in fault_of(tmp_path, {**arrays(), "train_labels": labels}).fault


@pytest.mark.parametrize("value, fault", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (7, "pixel 7")])
def test_a_bad_pixel_is_named_by_row(tmp_path, value, fault):
    content = arrays()
    content["test_images"] = content["test_images"] / 255.0
    content["test_images"][1, 3, 3] = value
    error = fault_of(tmp_path, content)
    assert error.row == 1
    assert fault in error.fault


@pytest.mark.parametrize(
    "images, fault",
    [
        (np.zeros((6, 28, 28), np.int32), "type int32"),
        (np.zeros((6, 28, 28, 4), np.uint8), "shape (6, 28, 28, 4)"),
        (np.zeros((6, 28), np.uint8), "shape (6, 28)"),
        (np.zeros((6, 4, 28), np.uint8), "4x28"),
        (np.zeros((6, 32, 32), np.uint8), "different shapes"),
        (np.zeros((5, 28, 28), np.uint8), "has 5 rows"),
    ],
)
def test_images_of_another_form_are_refused(tmp_path, images, fault):
    assert fault in fault_of(tmp_path, {**arrays(), "train_images": images}).fault


@pytest.mark.parametrize("missing", ["", "  ", "nan", "None"])
def test_a_missing_identifier_is_named_by_row(tmp_path, missing):
    content = arrays()
    content["train_patient_ids"][4] = missing
    error = fault_of(tmp_path, content)
    assert error.row == 4
    assert "train_patient_ids is missing" in error.fault


def test_a_patient_in_two_splits_is_named_by_both_rows(tmp_path):
    content = arrays()
    content["test_patient_ids"] = np.array(["SECRET-test-0", "SECRET-test-0", content["train_patient_ids"][2]])
    error = fault_of(tmp_path, content)
    assert error.row == 2
    assert "test row 2 is also in train row 2" in error.fault


def test_identifiers_of_another_number_are_refused(tmp_path):
    content = {**arrays(), "train_patient_ids": np.array(["SECRET"] * 5)}
    assert "shape (5,), expected (6,)" in fault_of(tmp_path, content).fault


def test_objects_are_never_unpickled(tmp_path):
    content = {**arrays(), "train_patient_ids": np.array([{"a": 1}] * 6, dtype=object)}
    assert "never unpickled" in fault_of(tmp_path, content).fault


def _archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def _npy(declared: tuple[int, ...], data: bytes) -> bytes:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": declared}).encode()
    padded = header + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data


@pytest.mark.parametrize(
    "declared, data, fault",
    [
        ((10**9, 28, 28), b"", "at most 2147483648 are read"),
        ((1000, 28, 28), b"abc", "declares 784000 bytes and holds only 3"),
        ((2, 8, 8), bytes(129), "declares 128 bytes and holds more"),
        ((-1, 8, 8), bytes(64), "shape (-1, 8, 8)"),
    ],
)
def test_an_array_that_lies_about_its_size_is_refused_without_allocating_it(tmp_path, declared, data, fault):
    with pytest.raises(DataError) as caught:
        read_npz(_archive(tmp_path / "bomb.npz", {"train_images": _npy(declared, data)}))
    assert fault in caught.value.fault


def test_arrays_together_beyond_the_cap_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAX_TOTAL_BYTES", 5000)
    assert "more than 5000 bytes" in fault_of(tmp_path, arrays()).fault


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "site.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable"):
        read_npz(path)


def test_every_truncation_of_a_real_file_is_a_clear_error(tmp_path):
    whole = written(tmp_path, arrays()).read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_npz(path)


def test_a_corrupted_member_is_a_clear_error(tmp_path):
    whole = bytearray(written(tmp_path, arrays()).read_bytes())
    whole[200] ^= 0xFF
    path = tmp_path / "bad.npz"
    path.write_bytes(whole)
    with pytest.raises(DataError):
        read_npz(path)


def test_a_member_that_is_not_npy_is_refused(tmp_path):
    with pytest.raises(DataError, match="train_images is not an npy array"):
        read_npz(_archive(tmp_path / "x.npz", {"train_images": b"hello"}))


def test_a_missing_file_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_npz(tmp_path / "absent.npz")


def test_fortran_order_and_uncompressed_archives_are_read(tmp_path):
    content = {name: np.asfortranarray(array) for name, array in arrays().items()}
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    path = tmp_path / "plain.npz"
    path.write_bytes(buffer.getvalue())
    assert np.array_equal(read_npz(path).x, read_npz(written(tmp_path, arrays())).x)
