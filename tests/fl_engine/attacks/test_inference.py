"""Areas, intervals, equivalence and ranks: known answers, both sides, patients and not records."""

from __future__ import annotations

import numpy as np
import pytest

from fl_engine.attacks.inference import Verdict, area, auc, gap, rank, smallest_cohort
from fl_engine.errors import PolicyError, ShapeMismatch


def names(count: int, each: int = 1) -> tuple[str, ...]:
    return tuple(f"p{i // each}" for i in range(count))


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    scores, positive = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    # (3>2) (3>1) (1>2 no) (1=1 half)
    assert auc(scores, positive)[0] == pytest.approx(2.5 / 4)
    assert auc(scores, positive, np.array([[1.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 1.0]])).tolist() == [1.0, 0.25]


def test_the_smallest_cohort_is_about_570_for_five_points() -> None:
    assert smallest_cohort() == 572
    assert smallest_cohort(margin=0.1) == 144
    assert smallest_cohort(power=0.9) > 572
    with pytest.raises(PolicyError, match=r"margin is 0\.5"):
        smallest_cohort(margin=0.5)


def test_intervals_are_over_patients_and_not_over_records() -> None:
    rng = np.random.default_rng(1)
    person = np.repeat(rng.normal(size=40), 10)  # ten records that say the same thing
    positive = np.arange(400) < 200
    wide = area(person, positive, names(400, each=10), replicates=400)
    narrow = area(person, positive, names(400), replicates=400)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.auc == narrow.auc


def test_the_rate_at_one_percent_needs_a_hundred_controls() -> None:
    scores, positive = np.arange(200.0)[::-1], np.arange(200) < 100
    assert area(scores, positive, names(200), 20).tpr == 1.0
    assert area(scores[:150], positive[:150], names(150), 20).tpr is None
    assert area(-scores, positive, names(200), 20).tpr == 0.0


def cohort(n: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(2)
    positive = np.arange(2 * n) < n
    reference = rng.normal(size=2 * n)
    return reference + shift * positive, reference, positive, names(2 * n)


def test_a_gap_is_told_on_both_sides() -> None:
    assert gap(*cohort(600, 0.5), replicates=300).verdict is Verdict.SEPARATED
    under = gap(*cohort(600, -0.5), replicates=300)
    assert under.verdict is Verdict.SEPARATED
    assert under.high < -0.05
    assert gap(*cohort(600, 0.01), replicates=300).verdict is Verdict.WITHIN


def test_few_patients_are_never_within_the_margin_however_small_the_gap() -> None:
    for n in (1, 5, 100, 571):
        found = gap(*cohort(n, 0.0), replicates=50)
        assert (found.gap, found.verdict) == (0.0, Verdict.OPEN), n
    assert gap(*cohort(572, 0.0), replicates=50).verdict is Verdict.WITHIN
    scores, reference, positive, _ = cohort(600, 0.0)
    # 600 records a side, but of six patients
    assert gap(scores, reference, positive, names(1200, each=100), replicates=50).verdict is Verdict.OPEN


def test_one_patient_among_controls_has_a_rank_and_a_p_value_that_is_never_nought() -> None:
    controls = np.arange(199.0)
    first, last, middle = rank(500.0, controls), rank(-1.0, controls), rank(99.5, controls)
    assert (first.share, first.p, first.controls) == (0.0, 0.01, 199)
    assert (last.share, last.p) == (1.0, 0.01)
    assert middle.p == 1.0
    assert rank(5.0, np.full(9, 5.0)).p == 1.0
    with pytest.raises(PolicyError, match="no control patients"):
        rank(1.0, np.empty(0))


def test_for_a_record_without_a_trace_one_p_value_in_twenty_is_below_five_percent() -> None:
    rng = np.random.default_rng(3)
    found = [rank(float(rng.normal()), rng.normal(size=99)).p for _ in range(2000)]
    assert 0.03 < np.mean(np.array(found) <= 0.05) < 0.07


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="patients"):
        area(np.ones(2), np.array([True, False]), ("a",))
    with pytest.raises(PolicyError, match="not a finite number"):
        area(np.array([np.nan, 1.0]), np.array([True, False]), ("a", "b"))
    with pytest.raises(PolicyError, match="needs forgotten records and controls"):
        area(np.ones(2), np.array([True, True]), ("a", "b"))
