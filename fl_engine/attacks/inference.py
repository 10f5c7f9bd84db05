"""What scores are worth: areas with intervals over patients, equivalence within a margin, ranks of a single patient.

Two-sided throughout: an area *below* one half tells who was forgotten just as well (over-unlearning). Patients, not
records, are drawn for intervals: images of one patient are not independent. All randomness is `Stream`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, sqrt
from statistics import NormalDist
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.attacks.attack import Floats
from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.rng import Stream

MARGIN: Final = 0.05
ALPHA: Final = 0.05
POWER: Final = 0.8
REPLICATES: Final = 1000
_SEED: Final = b"koinon.audit/1"


class Verdict(Enum):
    """What an audit of a cohort may conclude. There is no word for one that only failed to find something."""

    WITHIN = "within the margin"
    SEPARATED = "separated beyond the margin"
    OPEN = "could not tell"


@dataclass(frozen=True)
class Area:
    """Area under the curve of forgotten against controls, with its 95 % interval; `tpr`: rate at 1 % false positives.

    `tpr` is None below a hundred control records, where 1 % is no record.
    """

    auc: float
    low: float
    high: float
    tpr: float | None


@dataclass(frozen=True)
class Gap:
    """Area minus the reference's area on the same records, its 90 % interval (two one-sided tests at 5 %), verdict."""

    gap: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Rank:
    """One patient among `controls` control patients: the share of them with a higher score (ties half), two-sided p."""

    share: float
    p: float
    controls: int


def auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats | None = None) -> Floats:
    """P(score of a positive > of a negative) + 1/2 P(equal), float64 [R] for weights [R, n]; NaN where a side is
    empty.
    """
    given = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    up = np.add.reduceat((given * positive)[:, order], starts, axis=1)
    down = np.add.reduceat((given * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (up * (below + 0.5 * down)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))
    return np.asarray(area, dtype=np.float64)


def area(scores: Floats, positive: NDArray[np.bool_], patients: Sequence[str], replicates: int = REPLICATES) -> Area:
    """The area with its interval over patients."""
    _check(scores, positive, patients)
    drawn = auc(scores, positive, _draws(positive, patients, replicates))
    low, high = np.quantile(drawn, (0.025, 0.975))
    controls = np.sort(scores[~positive])
    rate = None
    if len(controls) >= 100:
        bound = controls[-max(1, len(controls) // 100)]
        rate = float(np.mean(scores[positive] > bound))
    return Area(float(auc(scores, positive)[0]), float(low), float(high), rate)


def gap(
    scores: Floats,
    reference: Floats,
    positive: NDArray[np.bool_],
    patients: Sequence[str],
    margin: float = MARGIN,
    replicates: int = REPLICATES,
) -> Gap:
    """Area of `scores` minus area of `reference`, over the same draws of patients, and what follows.

    *Within the margin* needs the interval inside it *and* as many patients on either side as could show it at all
    (`smallest_cohort`): an exact method has no gap whatever the number, and that alone would certify one patient.

    The interval is over patients and not over trainings: two honest trainings may lie further apart than the margin, so
    one gap to one reference that is separated calls for more references before anything is concluded.
    """
    _check(scores, positive, patients)
    draws = _draws(positive, patients, replicates)
    apart = auc(scores, positive, draws) - auc(reference, positive, draws)
    people = np.array(patients)
    fewest = min(len(np.unique(people[positive])), len(np.unique(people[~positive])))
    point = float((auc(scores, positive) - auc(reference, positive))[0])
    low, high = (float(v) for v in np.quantile(apart, (ALPHA, 1 - ALPHA)))
    verdict = Verdict.OPEN
    if low > margin or high < -margin:
        verdict = Verdict.SEPARATED
    elif -margin < low and high < margin and fewest >= smallest_cohort(margin):
        verdict = Verdict.WITHIN
    return Gap(point, low, high, verdict)


def rank(score: float, controls: Floats) -> Rank:
    """Where one patient's score stands among control patients' scores, and the p-value of that place, two-sided.

    For a patient who left no trace the place is uniform; p counts the patient itself, so it is never 0. The share is
    *above* it: 0 is found first.
    """
    if len(controls) == 0:
        raise PolicyError("no control patients to rank among")
    above, equal = int(np.sum(controls > score)), int(np.sum(controls == score))
    n = len(controls)
    upper, lower = (above + equal + 1) / (n + 1), (n - above + 1) / (n + 1)
    return Rank((above + equal / 2) / n, min(1.0, 2 * min(upper, lower)), n)


def by_patient(scores: Floats, patients: Sequence[str]) -> Floats:
    """Mean score of each patient, in order of name, float64 [patients]."""
    _, person = np.unique(np.array(patients), return_inverse=True)
    return np.asarray(np.bincount(person, weights=scores) / np.bincount(person), dtype=np.float64)


def smallest_cohort(margin: float = MARGIN, alpha: float = ALPHA, power: float = POWER) -> int:
    """Fewest independent forgotten records, with as many controls, that could show |AUC - 1/2| < margin.

    Two one-sided tests at `alpha` succeed with probability `power` when nothing is left if the standard error is at
    most margin / (z_{1 - alpha} + z_{(1 + power) / 2}); without residue the variance is (2n + 1) / (12 n^2) (Mann,
    Whitney).
    """
    if not 0 < margin < 0.5:
        raise PolicyError(f"margin is {margin}, expected between 0 and 0.5")
    normal = NormalDist()
    error = margin / (normal.inv_cdf(1 - alpha) + normal.inv_cdf((1 + power) / 2))
    n = max(1, ceil(1 / (6 * error**2)) - 1)
    while sqrt((2 * n + 1) / (12 * n * n)) > error:
        n += 1
    return n


def _draws(positive: NDArray[np.bool_], patients: Sequence[str], replicates: int) -> Floats:
    """Weights [replicates, n]: patients drawn with replacement, the forgotten and the controls apart."""
    people = np.array(patients)
    weights = np.zeros((replicates, len(people)))
    for side in (True, False):
        at = np.flatnonzero(positive == side)
        names, person = np.unique(people[at], return_inverse=True)
        stream = Stream(_SEED, f"{len(at)} records of {len(names)} patients, {'forgotten' if side else 'controls'}")
        drawn = stream.integers(0, len(names), replicates * len(names)).reshape(replicates, len(names))
        times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        weights[:, at] = times[:, person]
    return weights


def _check(scores: Floats, positive: NDArray[Any], patients: Sequence[str]) -> None:
    if scores.shape != positive.shape or len(patients) != len(scores):
        raise ShapeMismatch("rows of scores, labels and patients", scores.shape, (positive.shape, len(patients)))
    if not np.all(np.isfinite(scores)):
        raise PolicyError("a score is not a finite number")
    if positive.all() or not positive.any():
        raise PolicyError("an area needs forgotten records and controls")
