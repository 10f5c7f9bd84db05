"""Task `nuclei`: is the centre of a 28x28 patch background, the inside of a nucleus, or its edge?

One real fluorescence micrograph (512x512, 125 outlined nuclei) from the stardist package. Everything around it is
simulated and says so: each hospital is a rectangle of the image with its own gain, gamma and noise, each patient a
square of 36x36 pixels within it that yields up to twelve patches. Patches of two patients never share a pixel, so a
split by patient is a split by pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.data.dataset import Dataset
from fl_engine.data.fetch import STARDIST, read_member
from fl_engine.data.table import split_by_patient
from fl_engine.data.task import Task
from fl_engine.errors import DataError
from fl_engine.rng import Stream

_SIDE: Final = 512
_PATCH: Final = 28
_CELL: Final = 36
_PATCHES_PER_CLASS: Final = 6
_EDGE_RADIUS: Final = 2
_CLASSES: Final = 3
_TIFF_PIXELS: Final = 256  # both files: uncompressed little-endian 16-bit pixels in one strip from this offset
_MAX_MEMBERS: Final = 16
_SEED: Final = b"koinon.nuclei/1"
_SIMULATED: Final = (
    "Hospitals are simulated: disjoint rectangles of one microscopy image, each with its own gain, gamma and noise.",
    "Patients are simulated: each is a square of 36x36 pixels of that image.",
)

Rectangle = tuple[int, int, int, int]
"""(top, left, height, width) in pixels."""


def _load(members: int, cache: Path | None) -> tuple[Dataset, ...]:
    if not 1 <= members <= _MAX_MEMBERS:
        raise DataError("task nuclei", None, f"can be divided among 1..{_MAX_MEMBERS} members, not {members}")
    image = _pixels("img2d.tif", cache).astype(np.float64)
    mask = _pixels("mask2d.tif", cache)
    # One fixed scale for the whole image: scanners differ by what follows, not by how we normalise.
    image = np.minimum(image / float(np.quantile(image, 0.99)), 1.0)
    kinds = _kinds(mask)
    return tuple(
        _hospital(index, rectangle, image, kinds)
        for index, rectangle in enumerate(divide((0, 0, _SIDE, _SIDE), members))
    )


def divide(rectangle: Rectangle, parts: int) -> list[Rectangle]:
    """Cut a rectangle into `parts` of nearly equal area, always across its longer side."""
    if parts == 1:
        return [rectangle]
    top, left, height, width = rectangle
    first = parts // 2
    if width >= height:
        cut = width * first // parts
        halves: list[Rectangle] = [(top, left, height, cut), (top, left + cut, height, width - cut)]
    else:
        cut = height * first // parts
        halves = [(top, left, cut, width), (top + cut, left, height - cut, width)]
    return divide(halves[0], first) + divide(halves[1], parts - first)


def _pixels(name: str, cache: Path | None) -> NDArray[np.uint16]:
    data = read_member(STARDIST, f"stardist/data/images/{name}", cache)
    # The wheel's sha256 is pinned, so the layout of the file inside is known and needs no TIFF library.
    return np.frombuffer(data, dtype="<u2", count=_SIDE * _SIDE, offset=_TIFF_PIXELS).reshape(_SIDE, _SIDE)


def _kinds(mask: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Class of every pixel, uint8 [512, 512]: 0 background, 1 inside, 2 edge (another label within two pixels)."""
    padded = np.pad(mask, _EDGE_RADIUS, mode="edge")
    differs = np.zeros(mask.shape, dtype=bool)
    for down in range(2 * _EDGE_RADIUS + 1):
        for right in range(2 * _EDGE_RADIUS + 1):
            differs |= padded[down : down + _SIDE, right : right + _SIDE] != mask
    return np.where(mask == 0, 0, np.where(differs, 2, 1)).astype(np.uint8)


def _hospital(index: int, rectangle: Rectangle, image: NDArray[np.float64], kinds: NDArray[np.uint8]) -> Dataset:
    stream = Stream(_SEED, f"hospital {index}")
    seen = _scan(image, stream)
    top, left, height, width = rectangle
    patches: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    patients: list[str] = []
    for row in range(height // _CELL):
        for column in range(width // _CELL):
            centres = _choose(kinds, top + row * _CELL, left + column * _CELL, stream)
            patient = f"simulated-{index + 1}-{row}-{column}"
            for y, x in centres:
                start_y, start_x = y - _PATCH // 2, x - _PATCH // 2
                patches.append(seen[start_y : start_y + _PATCH, start_x : start_x + _PATCH])
                labels.append(int(kinds[y, x]))
                patients.append(patient)
    pixels = np.stack(patches)[:, None].astype(np.float32) / np.float32(127.5) - np.float32(1)
    people = tuple(patients)
    return Dataset(
        x=pixels,
        y=np.array(labels, dtype=np.int64),
        patients=people,
        roles=split_by_patient(people, np.zeros(len(people), dtype=np.int64)),
        classes=_CLASSES,
        name="task nuclei",
        description=NUCLEI_DESCRIPTION,
        licence=STARDIST.licence,
        simulated=_SIMULATED,
        patients_simulated_from="tiles",
        sites=(f"simulated hospital {index + 1}",) * len(people),
    )


def _scan(image: NDArray[np.float64], stream: Stream) -> NDArray[np.uint8]:
    """The image as this hospital's scanner would have taken it, uint8."""
    gain, gamma, noise = stream.uniform(3)
    darkened = (0.75 + 0.5 * gain) * image ** (0.7 + 0.7 * gamma)
    noisy = darkened + (0.01 + 0.05 * noise) * stream.normal(image.size).reshape(image.shape)
    return np.asarray(np.rint(np.clip(noisy, 0.0, 1.0) * 255), dtype=np.uint8)


def _choose(kinds: NDArray[np.uint8], top: int, left: int, stream: Stream) -> list[tuple[int, int]]:
    """Centres (y, x) of a patient's patches: up to four a class, all windows inside its square."""
    inset = _PATCH // 2
    span = _CELL - _PATCH + 1
    centres = kinds[top + inset : top + inset + span, left + inset : left + inset + span]
    chosen: list[tuple[int, int]] = []
    for kind in range(_CLASSES):
        rows, columns = np.nonzero(centres == kind)
        for i in stream.permutation(len(rows))[:_PATCHES_PER_CLASS]:
            chosen.append((top + inset + int(rows[i]), left + inset + int(columns[i])))
    return chosen


NUCLEI_DESCRIPTION: Final = "28x28 patches of cell nuclei (fluorescence): background, inside or edge at the centre"

NUCLEI: Final = Task(
    name="nuclei",
    classes=_CLASSES,
    input_shape=(1, _PATCH, _PATCH),
    model="small-cnn",
    description=NUCLEI_DESCRIPTION,
    licence=STARDIST.licence,
    simulated=_SIMULATED,
    max_members=_MAX_MEMBERS,
    load=_load,
)
