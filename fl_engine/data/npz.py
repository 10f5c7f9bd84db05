"""Reader for image data in the MedMNIST layout: one `.npz` of plain arrays, extended by optional patient identifiers.

    {train,val,test}_images       uint8 (N, H, W) or (N, H, W, 3), 28 x 28 or any other size from 8 to 512
    {train,val,test}_labels       whole numbers (N,) or (N, 1)
    {train,val,test}_patient_ids  optional, (N,) text or whole numbers; then present for every split that is present

Float images are accepted when all pixels are finite and within 0..1. Pixels become float32 in -1..1 (v / 127.5 - 1).
One patient may have many images, but all of them in one split: a patient in two splits is an error. Rows are imported
in the order train, val, test. Nothing is unpickled; each array's declared size is checked before it is read.
"""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fl_engine.data.dataset import MAX_CLASSES, Dataset, Role, canonical_patients
from fl_engine.errors import DataError

MAX_ARRAY_BYTES: Final = 2**31
"""Cap on what one array may declare (2 GiB): 900 thousand 28x28 RGB images."""
MAX_TOTAL_BYTES: Final = 2**32

_SPLITS: Final = (("train", Role.TRAIN), ("val", Role.VALIDATION), ("test", Role.TEST))
_MIN_SIDE: Final = 8
_MAX_SIDE: Final = 512
_SIMULATED: Final = "Patients are simulated: the file holds no patient identifiers, so each image is its own patient."


def read_npz(path: Path, *, classes: int | None = None, required: tuple[str, ...] = ("train", "test")) -> Dataset:
    """Read one member's images.

    `classes`: the study's number of classes, where it is known; without it labels up to 255 pass and the caller settles
    the number with `infer_classes` over all members. `required`: the splits that must be there.
    Raises DataError naming file, row (from 0 within the array) and fault, never an identifier.
    """
    arrays = _read_arrays(path)
    file = str(path)
    images: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    roles: list[NDArray[np.uint8]] = []
    patients: list[tuple[str, ...]] = []
    with_ids = any(f"{split}_patient_ids" in arrays for split, _ in _SPLITS)
    for split, role in _SPLITS:
        names = [f"{split}_images", f"{split}_labels"]
        if split not in required and not any(name in arrays for name in [*names, f"{split}_patient_ids"]):
            continue
        if with_ids:
            names.append(f"{split}_patient_ids")
        for name in names:
            if name not in arrays:
                raise DataError(file, None, f"array {name} is missing")
        x = _images(arrays[f"{split}_images"], file, f"{split}_images")
        y = _labels(arrays[f"{split}_labels"], file, f"{split}_labels", classes)
        if len(x) != len(y):
            raise DataError(file, None, f"{split}_images has {len(x)} rows, {split}_labels {len(y)}")
        images.append(x)
        labels.append(y)
        roles.append(np.full(len(y), role, dtype=np.uint8))
        if with_ids:
            name = f"{split}_patient_ids"
            ids = arrays[name].reshape(-1) if arrays[name].shape == (len(y), 1) else arrays[name]
            if ids.shape != (len(y),):
                raise DataError(file, None, f"{name} has shape {ids.shape}, expected ({len(y)},)")
            patients.append(canonical_patients(ids, file, name))
        else:
            patients.append(tuple(f"{split}-image-{row}" for row in range(len(y))))
    _check_same_shape(images, file)
    if with_ids:
        _check_disjoint([split for split, _ in _SPLITS if f"{split}_images" in arrays], patients, file)
    if sum(map(len, labels)) == 0:
        raise DataError(file, None, "holds no rows")
    y_all = np.concatenate(labels)
    return Dataset(
        x=np.concatenate(images),
        y=y_all,
        patients=tuple(patient for split_ids in patients for patient in split_ids),
        roles=np.concatenate(roles),
        classes=classes if classes is not None else max(2, int(y_all.max()) + 1),
        name=file,
        description=f"images of {path.name} (MedMNIST layout)",
        simulated=() if with_ids else (_SIMULATED,),
        patients_simulated_from=None if with_ids else "image",
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    file = str(path)
    wanted = {f"{split}_{part}" for split, _ in _SPLITS for part in ("images", "labels", "patient_ids")}
    arrays: dict[str, NDArray[Any]] = {}
    total = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name not in wanted:
                    continue
                if name in arrays:
                    raise DataError(file, None, f"array {name} is there twice")
                with archive.open(info) as stream:
                    arrays[name] = _read_array(stream, file, name)
                total += arrays[name].nbytes
                if total > MAX_TOTAL_BYTES:
                    raise DataError(file, None, f"arrays of more than {MAX_TOTAL_BYTES} bytes together")
    except OSError as fault:
        raise DataError(file, None, f"cannot be read: {fault.strerror or fault}") from fault
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as fault:
        # RuntimeError is zipfile's way to say "encrypted", NotImplementedError "unknown compression".
        raise DataError(file, None, f"is not a readable .npz file: {fault}") from fault
    return arrays


def _read_array(stream: IO[bytes], file: str, name: str) -> NDArray[Any]:
    """Read one npy member whose header was checked first, so a small file cannot ask for a large allocation."""
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(file, None, f"array {name} has npy version {version}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except ValueError as fault:
        raise DataError(file, None, f"array {name} is not an npy array: {fault}") from fault
    if dtype.hasobject or dtype.kind not in "uifUSb" or dtype.itemsize == 0:
        raise DataError(file, None, f"array {name} has type {dtype}; objects are never unpickled")
    if not 1 <= len(shape) <= 4 or any(side < 0 for side in shape):
        raise DataError(file, None, f"array {name} has shape {shape}")
    size = prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise DataError(file, None, f"array {name} declares {size} bytes, at most {MAX_ARRAY_BYTES} are read")
    data = _read_exactly(stream, size)
    if len(data) != size or stream.read(1):
        held = "more" if len(data) == size else f"only {len(data)}"
        raise DataError(file, None, f"array {name} declares {size} bytes and holds {held}")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes in chunks: memory grows with what is really there, not with what was declared."""
    chunks: list[bytes] = []
    missing = size
    while missing > 0 and (chunk := stream.read(min(missing, 2**20))):
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _images(array: NDArray[Any], file: str, name: str) -> NDArray[np.float32]:
    """Pixels as stored -> float32 [N, C, H, W] in -1..1."""
    shape = array.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(file, None, f"{name} has shape {shape}, expected (N, H, W) or (N, H, W, 1 or 3)")
    if any(not _MIN_SIDE <= side <= _MAX_SIDE for side in shape[1:3]):
        fault = f"{name} has images of {shape[1]}x{shape[2]}, expected sides of {_MIN_SIDE}..{_MAX_SIDE}"
        raise DataError(file, None, fault)
    if array.dtype == np.uint8:
        scaled = array.astype(np.float32) / np.float32(127.5) - np.float32(1)
    elif array.dtype.kind == "f":
        _check_pixels(array, file, name)
        scaled = array.astype(np.float32) * np.float32(2) - np.float32(1)
    else:
        raise DataError(file, None, f"{name} has type {array.dtype}, expected uint8 or floats within 0..1")
    if len(shape) == 3:
        return np.ascontiguousarray(scaled[:, None])
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _check_pixels(array: NDArray[Any], file: str, name: str) -> None:
    flat = array.reshape(len(array), prod(array.shape[1:]))
    bad = ~np.isfinite(flat).all(axis=1)
    if bad.any():
        raise DataError(file, int(np.argmax(bad)), f"{name} holds a pixel that is NaN or infinite (rows from 0)")
    outside = ((flat < 0) | (flat > 1)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        value = float(flat[row][(flat[row] < 0) | (flat[row] > 1)][0])
        raise DataError(file, row, f"{name} holds the pixel {value:g}; floats must be within 0..1 (rows from 0)")


def _labels(array: NDArray[Any], file: str, name: str, classes: int | None) -> NDArray[np.int64]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(file, None, f"{name} has shape {array.shape}, expected one label a row: (N,) or (N, 1)")
    if array.dtype.kind not in "uifb":
        raise DataError(file, None, f"{name} has type {array.dtype}, expected whole numbers")
    upper = classes if classes is not None else MAX_CLASSES
    wide = array.astype(np.float64)
    for fault, rows in (
        ("is not a whole number", ~np.isfinite(wide) | (wide != np.floor(wide))),
        ("is negative", wide < 0),
        (f"is out of range 0..{upper - 1}", wide >= upper),
    ):
        if rows.any():
            row = int(np.argmax(rows))
            raise DataError(file, row, f"{name}: label {wide[row]:g} {fault} (rows from 0)")
    return array.astype(np.int64)


def _check_same_shape(images: list[NDArray[np.float32]], file: str) -> None:
    shapes = sorted({split.shape[1:] for split in images})
    if len(shapes) > 1:
        raise DataError(file, None, f"images of different shapes (channels, height, width): {shapes}")


def _check_disjoint(splits: list[str], patients: list[tuple[str, ...]], file: str) -> None:
    """All images of one patient belong to one split: otherwise training data would leak into the evaluation."""
    home: dict[str, tuple[str, int]] = {}
    for split, ids in zip(splits, patients, strict=True):
        for row, patient in enumerate(ids):
            first_split, first_row = home.setdefault(patient, (split, row))
            if first_split != split:
                fault = (
                    f"the patient of {split} row {row} is also in {first_split} row {first_row}; "
                    "all records of a patient belong to one split (rows from 0)"
                )
                raise DataError(file, row, fault)
