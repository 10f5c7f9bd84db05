"""Task `mri-quality`: would an expert exclude this brain scan? 1101 real subjects of 17 real hospitals (ABIDE).

Image-quality features of each T1-weighted MRI, computed by MRIQC (Esteban et al., PLoS ONE 2017) and shipped with the
expert's rating in the mriqc-learn package. Whole hospitals are dealt to the members, largest first, each to the member
with the fewest subjects so far; with as many members as hospitals each member *is* one hospital.

Scaling never looks at a subject of the study: centre and width of each feature come from another study in the same
package, ds030 (265 subjects): z = clip((c(v) - median) / (3 * interquartile range), -10, 10), c(v) = sign(v) ln(1+|v|).
So no constant outlives an erasure.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.data.dataset import Dataset, is_missing
from fl_engine.data.fetch import MRIQC_LEARN, read_member
from fl_engine.data.table import compress, scale_feature, split_by_patient
from fl_engine.data.task import Task
from fl_engine.errors import DataError

_ABIDE: Final = "mriqc_learn/datasets/abide.tsv"
_DS030: Final = "mriqc_learn/datasets/ds030.tsv"
_NOT_FEATURES: Final = ("subject_id", "site", "rater_1", "rater_2", "rater_3", "has_ghost")
_GEOMETRY: Final = ("size_", "spacing_")  # the scan's matrix names the scanner and says nothing of quality
_FEATURES: Final = 62
_SITES: Final = 17
_MIN_WIDTH: Final = 1e-3
_SIMULATED: Final = (
    "Subjects and hospitals are real and public (ABIDE); which hospitals form a member is our choice.",
    "Consents in a demonstration are synthetic: the subjects agreed to the public data set, not to this study.",
)
_DESCRIPTION: Final = "quality of 1101 brain MRI of 17 hospitals: 0 accept or doubtful, 1 exclude (expert's rating)"

Rows = list[dict[str, str]]


def _load(members: int, cache: Path | None) -> tuple[Dataset, ...]:
    if not 1 <= members <= _SITES:
        raise DataError("task mri-quality", None, f"has {_SITES} hospitals, not enough for {members} members")
    subjects = _table(_ABIDE, cache)
    other_study = _table(_DS030, cache)
    names = tuple(
        name
        for name in subjects[0]
        if name in other_study[0] and name not in _NOT_FEATURES and not name.startswith(_GEOMETRY)
    )
    if len(names) != _FEATURES:
        raise DataError("task mri-quality", None, f"{len(names)} features found, expected {_FEATURES}")
    x = _scaled(_numbers(subjects, names, _ABIDE), _numbers(other_study, names, _DS030))
    y = np.array([1 if row["rater_3"] == "-1" else 0 for row in subjects], dtype=np.int64)
    sites = [row["site"] for row in subjects]
    return tuple(_member(deal, subjects, x, y, sites, names) for deal in deal_sites(sites, members))


def deal_sites(sites: list[str], members: int) -> list[list[str]]:
    """Whole sites to members: largest first (ties by name), each to the member with the fewest rows (ties by index)."""
    sizes = {site: sites.count(site) for site in set(sites)}
    hands: list[list[str]] = [[] for _ in range(members)]
    held = [0] * members
    for site in sorted(sizes, key=lambda name: (-sizes[name], name)):
        member = held.index(min(held))
        hands[member].append(site)
        held[member] += sizes[site]
    return hands


def _member(
    deal: list[str],
    subjects: Rows,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    sites: list[str],
    names: tuple[str, ...],
) -> Dataset:
    rows = np.array([row for site in deal for row, name in enumerate(sites) if name == site], dtype=np.int64)
    patients = tuple(subjects[int(row)]["subject_id"] for row in rows)
    return Dataset(
        x=x[rows],
        y=y[rows],
        patients=patients,
        roles=split_by_patient(patients, y[rows]),
        classes=2,
        name="task mri-quality",
        description=_DESCRIPTION,
        licence=MRIQC_LEARN.licence,
        simulated=_SIMULATED,
        feature_names=names,
        sites=tuple(sites[int(row)] for row in rows),
    )


def _table(member: str, cache: Path | None) -> Rows:
    text = read_member(MRIQC_LEARN, member, cache).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def _numbers(rows: Rows, names: tuple[str, ...], member: str) -> NDArray[np.float64]:
    for line, row in enumerate(rows, start=2):
        if gaps := [name for name in names if is_missing(row[name].strip())]:
            raise DataError(member, line, f"column {gaps[0]!r} is empty or NaN")
    return np.array([[float(row[name]) for name in names] for row in rows], dtype=np.float64)


def _scaled(values: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float32]:
    low, centre, high = np.quantile(compress(reference), (0.25, 0.5, 0.75), axis=0)
    width = 3 * np.maximum(high - low, _MIN_WIDTH)
    return scale_feature(compress(values), centre, width).astype(np.float32)


MRI_QUALITY: Final = Task(
    name="mri-quality",
    classes=2,
    input_shape=(_FEATURES,),
    model="mlp",
    description=_DESCRIPTION,
    licence=MRIQC_LEARN.licence,
    simulated=_SIMULATED,
    max_members=_SITES,
    load=_load,
)
