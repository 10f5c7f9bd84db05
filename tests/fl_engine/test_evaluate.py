"""Metrics by numbers one can count, intervals by patient, and small cells withheld."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_engine.errors import NonFiniteUpdate, ShapeMismatch
from fl_engine.evaluate import evaluate, evaluate_sites, softmax


def logits_of(scores: list[float]) -> np.ndarray:
    return np.stack([np.zeros(len(scores)), np.array(scores)], axis=1).astype(np.float32)


def people(count: int) -> list[str]:
    return [f"p{i}" for i in range(count)]


def test_counted_by_hand():
    # Predicted 1 where the score is positive: right are rows 0, 1, 3, 4; recalls 2/3 and 2/2 of classes 0 and 1.
    result = evaluate(logits_of([-2, -1, 1, 2, 3]), np.array([0, 0, 0, 1, 1]), people(5))
    assert result.n == 5
    assert result.accuracy == pytest.approx(4 / 5)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert result.auc == 1.0
    assert result.intervals == {}
    assert result.withheld == {"intervals": "fewer than 10 patients"}


def test_ties_count_half_in_the_auc():
    assert evaluate(logits_of([1, 1, 1, 1]), np.array([0, 1, 0, 1]), people(4)).auc == 0.5


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=30))
def test_the_auc_is_the_share_of_pairs_in_order(rows):
    scores = [float(score) for score, _ in rows]
    y = np.array([label for _, label in rows])
    pairs = [(a, b) for a, la in zip(scores, y, strict=True) for b, lb in zip(scores, y, strict=True) if la > lb]
    result = evaluate(logits_of(scores), y, people(len(y)), replicates=0)
    if not pairs:
        assert result.auc is None
        assert result.withheld["auc"] == "needs records of at least two classes"
    else:
        assert result.auc == pytest.approx(sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs))


def test_many_classes_are_averaged_one_against_the_rest():
    y = np.array([0, 1, 2, 0, 1, 2])
    perfect = np.eye(3)[y]
    result = evaluate(perfect, y, people(6))
    assert (result.accuracy, result.balanced_accuracy, result.auc) == (1.0, 1.0, 1.0)


def test_intervals_are_the_same_every_time_and_hold_the_value():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200)
    logits = logits_of(list(y + rng.normal(0, 1, 200)))
    first, second = (evaluate(logits, y, people(200), 300) for _ in range(2))
    assert first == second
    for name, (low, high) in first.intervals.items():
        assert low < getattr(first, name) < high
    assert set(first.intervals) == {"accuracy", "balanced_accuracy", "auc"}


def test_images_of_one_patient_are_drawn_together():
    rng = np.random.default_rng(2)
    right = np.repeat(rng.integers(0, 2, 20), 20)
    y = np.tile([0, 1], 200)
    logits = logits_of(list(np.where(right == 1, y - 0.5, 0.5 - y)))
    by_image = evaluate(logits, y, people(400), 300).intervals["accuracy"]
    by_patient = evaluate(logits, y, [f"p{i // 20}" for i in range(400)], 300).intervals["accuracy"]
    assert by_patient[1] - by_patient[0] > 2 * (by_image[1] - by_image[0])


def test_a_small_site_publishes_nothing_and_a_small_class_no_per_class_metric():
    y = np.array([0, 1] * 10 + [0] * 19 + [1] + [0, 1] * 4)
    sites = ["large"] * 20 + ["one excluded"] * 20 + ["small"] * 8
    table = evaluate_sites(logits_of([0.1] * 48), y, people(48), sites, 50)
    assert list(table) == ["large", "one excluded", "small"]
    assert table["large"].withheld == {}
    assert table["large"].auc == 0.5
    assert table["one excluded"].accuracy is not None
    assert table["one excluded"].auc is None
    assert table["one excluded"].withheld["auc"] == "a class with fewer than 10 patients"
    assert set(table["one excluded"].intervals) == {"accuracy"}
    small = table["small"]
    assert (small.n, small.accuracy, small.balanced_accuracy, small.auc) == (0, None, None, None)
    assert small.withheld["accuracy"] == "fewer than 10 patients"


def test_the_result_is_plain_json():
    result = evaluate(logits_of([1.0] * 12), np.array([0, 1] * 6), people(12), 20)
    assert json.loads(json.dumps(result.to_json()))["accuracy"] == 0.5


def test_input_that_does_not_fit_is_refused():
    y = np.array([0, 1])
    with pytest.raises(ShapeMismatch, match="logits"):
        evaluate(np.zeros((2, 1)), y, people(2))
    with pytest.raises(ShapeMismatch, match="rows of labels"):
        evaluate(np.zeros((2, 2)), y, people(3))
    with pytest.raises(ShapeMismatch, match="labels"):
        evaluate(np.zeros((2, 2)), np.array([0, 2]), people(2))
    with pytest.raises(NonFiniteUpdate):
        evaluate(np.array([[0, np.nan], [0, 0]]), y, people(2))


def test_softmax_of_large_logits_does_not_overflow():
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]
