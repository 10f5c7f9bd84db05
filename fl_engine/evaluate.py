"""Metrics of a classifier: accuracy, balanced accuracy, AUC, per site, with intervals from a patient bootstrap.

numpy only; the worker gives logits, this file gives numbers. Sources: balanced accuracy, Brodersen et al., ICPR 2010;
AUC as the Mann-Whitney statistic with half credit for ties, Hanley, McNeil, Radiology 1982, one-versus-rest and
averaged over classes for more than two; percentile bootstrap, Efron, Tibshirani 1993, resampling *patients*, because
images of one patient are not independent.

Small cells: what is published per site is withheld where it would describe fewer than ten patients. Balanced accuracy
and AUC look into each class, so there every class that occurs needs ten patients: a site with one excluded scan would
otherwise publish the prediction for that one person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import NonFiniteUpdate, ShapeMismatch
from fl_engine.rng import Stream

MIN_CELL_PATIENTS: Final = 10
REPLICATES: Final = 1000
_INTERVAL_SEED: Final = b"koinon.bootstrap/1"
_WEIGHTS_AT_ONCE: Final = 2**22
_NAMES: Final = ("accuracy", "balanced_accuracy", "auc")


def cross_entropy(logits: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Mean cross-entropy of logits [N, C] for labels y [N], in nats a record."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(y)), y]))


@dataclass(frozen=True)
class Metrics:
    """Metrics of one set of records. A value that is None has its reason in `withheld` under the same name.

    `n` records, `patients` different patients, `intervals` name -> (low, high) at 95 %.
    """

    n: int
    patients: int
    accuracy: float | None
    balanced_accuracy: float | None
    auc: float | None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and text."""
        plain = asdict(self)
        plain["intervals"] = {name: list(bounds) for name, bounds in self.intervals.items()}
        return plain


@dataclass(frozen=True)
class _Records:
    """y int64 [N]; predicted int64 [N]; probabilities float64 [N, C]; patient int64 [N] in 0..patients-1."""

    y: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    patient: NDArray[np.int64]
    patients: int


def evaluate(
    logits: NDArray[np.floating[Any]],
    y: NDArray[np.int64],
    patients: Sequence[str] | NDArray[Any],
    replicates: int = REPLICATES,
) -> Metrics:
    """Metrics of logits [N, C] against labels [N], one patient name or number a row.

    For the holder of the data: nothing is withheld for being small, but below ten patients there is no interval.
    Raises ShapeMismatch, and NonFiniteUpdate for a logit that is NaN or infinite.
    """
    records = _records(logits, y, np.asarray(patients))
    accuracy, balanced, auc = (float(v[0]) for v in _weighted(records, np.ones((1, len(y)))))
    withheld = {}
    if np.isnan(auc):
        withheld["auc"] = "needs records of at least two classes"
    intervals: dict[str, tuple[float, float]] = {}
    if records.patients < MIN_CELL_PATIENTS:
        withheld["intervals"] = f"fewer than {MIN_CELL_PATIENTS} patients"
    elif replicates > 0:
        intervals = _intervals(records, replicates)
    return Metrics(len(y), records.patients, accuracy, balanced, _none_if_nan(auc), intervals, withheld)


def evaluate_sites(
    logits: NDArray[np.floating[Any]],
    y: NDArray[np.int64],
    patients: Sequence[str] | NDArray[Any],
    sites: Sequence[str],
    replicates: int = REPLICATES,
) -> dict[str, Metrics]:
    """Metrics for each site, in order of site name, small cells withheld; for publication."""
    names = np.asarray(sites)
    people = np.asarray(patients)
    if names.shape != (len(y),):
        raise ShapeMismatch("rows of sites", len(y), names.shape)
    table = {}
    for site in sorted(set(sites)):
        at = np.flatnonzero(names == site)
        metrics = evaluate(logits[at], y[at], people[at], replicates)
        table[site] = _withhold_small_cells(metrics, y[at], people[at])
    return table


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Logits [N, C] -> probabilities float64 [N, C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), dtype=np.float64)


def _records(logits: NDArray[np.floating[Any]], y: NDArray[np.int64], people: NDArray[Any]) -> _Records:
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2:
        raise ShapeMismatch("shape of the logits", "(records, at least 2 classes)", logits.shape)
    if y.shape != (len(logits),) or people.shape != (len(logits),):
        raise ShapeMismatch("rows of labels and patients", len(logits), (y.shape, people.shape))
    finite = np.isfinite(logits)
    if not finite.all():
        index = int(np.argmin(finite.reshape(-1)))
        raise NonFiniteUpdate(index, float(logits.reshape(-1)[index]))
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise ShapeMismatch("labels", f"0..{logits.shape[1] - 1}", (int(y.min()), int(y.max())))
    names, index_of = np.unique(people, return_inverse=True)
    predicted = logits.argmax(axis=1).astype(np.int64)
    return _Records(y, predicted, softmax(logits), index_of.astype(np.int64), len(names))


def _weighted(records: _Records, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """(accuracy, balanced accuracy, AUC), each float64 [R], for R weightings [R, N] of the records."""
    right = (records.predicted == records.y).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = weights @ right / weights.sum(axis=1)
        recalls = []
        areas = []
        for label in np.unique(records.y):
            members = (records.y == label).astype(np.float64)
            recalls.append(weights @ (right * members) / (weights @ members))
            areas.append(_auc(records.probabilities[:, label], members, weights))
        balanced = _mean_of_defined(recalls)
        # With two classes both one-versus-rest areas are the same number.
        area = _mean_of_defined(areas)
    return accuracy, balanced, area


def _auc(
    scores: NDArray[np.float64], positive: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(score of a positive > score of a negative) + half P(equal), float64 [R]; NaN where a side is empty."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    up = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((weights * (1 - positive))[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    won = (up * (below + 0.5 * down)).sum(axis=1)
    return np.asarray(won / (up.sum(axis=1) * down.sum(axis=1)), dtype=np.float64)


def _mean_of_defined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.stack(parts)
    defined = ~np.isnan(stacked)
    return np.asarray(np.where(defined, stacked, 0).sum(axis=0) / defined.sum(axis=0), dtype=np.float64)


def _intervals(records: _Records, replicates: int) -> dict[str, tuple[float, float]]:
    stream = Stream(_INTERVAL_SEED, f"{len(records.y)} records of {records.patients} patients")
    chunk = max(1, min(replicates, _WEIGHTS_AT_ONCE // len(records.y)))
    values: list[NDArray[np.float64]] = []
    for start in range(0, replicates, chunk):
        count = min(chunk, replicates - start)
        drawn = stream.integers(0, records.patients, count * records.patients).reshape(count, records.patients)
        times = np.stack([np.bincount(row, minlength=records.patients) for row in drawn])
        values.append(np.stack(_weighted(records, times[:, records.patient].astype(np.float64))))
    intervals = {}
    for name, column in zip(_NAMES, np.concatenate(values, axis=1), strict=True):
        defined = column[~np.isnan(column)]
        if len(defined):
            low, high = np.quantile(defined, (0.025, 0.975))
            intervals[name] = (float(low), float(high))
    return intervals


def _withhold_small_cells(metrics: Metrics, y: NDArray[np.int64], people: NDArray[Any]) -> Metrics:
    withheld = dict(metrics.withheld)
    hidden: set[str] = set()
    smallest = min(len(np.unique(people[y == label])) for label in np.unique(y))
    if metrics.patients < MIN_CELL_PATIENTS:
        hidden.update(_NAMES)
        reason = f"fewer than {MIN_CELL_PATIENTS} patients"
    else:
        reason = f"a class with fewer than {MIN_CELL_PATIENTS} patients"
        if smallest < MIN_CELL_PATIENTS:
            hidden.update(("balanced_accuracy", "auc"))
    withheld.update(dict.fromkeys(sorted(hidden), reason))
    shown = {name: None if name in hidden else getattr(metrics, name) for name in _NAMES}
    intervals = {name: bounds for name, bounds in metrics.intervals.items() if name not in hidden}
    small = metrics.patients < MIN_CELL_PATIENTS
    return Metrics(
        # The exact size of a small site is itself a small cell.
        n=0 if small else metrics.n,
        patients=0 if small else metrics.patients,
        accuracy=shown["accuracy"],
        balanced_accuracy=shown["balanced_accuracy"],
        auc=shown["auc"],
        intervals=intervals,
        withheld=withheld,
    )


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
