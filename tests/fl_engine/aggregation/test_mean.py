"""The integer mean: numbers a reader can check in the head, and the algebra for all others."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_engine.aggregation import aggregate, get_rule
from fl_engine.aggregation.mean import MAX_TOTAL_WEIGHT
from fl_engine.errors import AggregationError, ShapeMismatch, UnknownName

P = 4
values = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=P, max_size=P).map(lambda v: np.array(v, dtype=np.int32))
weighted = st.lists(st.tuples(values, st.integers(1, 10**6)), min_size=1, max_size=8)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_a_mean_of_three_in_the_head():
    # (1*10 + 2*20 + 1*0) / 4 = 12.5, rounded upward; (1*-10 + 2*-20 + 0) / 4 = -12.5, rounded upward too.
    updates = [(ints(10, -10), 1), (ints(20, -20), 2), (ints(0, 0), 1)]
    assert aggregate("mean", 2, updates).tolist() == [13, -12]


@given(weighted)
def test_the_result_is_the_exact_mean_rounded_half_up(updates):
    n = sum(weight for _, weight in updates)
    got = aggregate("mean", P, updates)
    for i in range(P):
        exact = Fraction(sum(int(update[i]) * weight for update, weight in updates), n)
        assert got[i] == floor(exact + Fraction(1, 2))


@given(weighted, st.randoms(use_true_random=False))
def test_the_order_of_the_updates_does_not_matter(updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert np.array_equal(aggregate("mean", P, updates), aggregate("mean", P, shuffled))


@given(values, st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_equal_updates_are_their_own_mean(update, weights):
    assert np.array_equal(aggregate("mean", P, [(update, weight) for weight in weights]), update)


@given(values, values, st.integers(1, 50))
def test_a_weight_is_a_number_of_copies(first, second, weight):
    copies = [(first, 1)] * weight + [(second, 1)]
    assert np.array_equal(aggregate("mean", P, copies), aggregate("mean", P, [(first, weight), (second, 1)]))


def test_the_largest_weights_and_values_do_not_overflow():
    low = np.full(P, -(2**31), dtype=np.int32)
    assert aggregate("mean", P, [(low, MAX_TOTAL_WEIGHT)]).tolist() == [-(2**31)] * P
    with pytest.raises(AggregationError, match="64 bits"):
        aggregate("mean", P, [(low, MAX_TOTAL_WEIGHT), (low, 1)])


def test_nothing_to_aggregate_is_an_error():
    with pytest.raises(AggregationError, match="no update"):
        aggregate("mean", P, [])


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_below_one_is_refused(weight):
    with pytest.raises(AggregationError, match=f"weight is {weight}"):
        aggregate("mean", P, [(ints(1, 2, 3, 4), weight)])


def test_updates_of_other_shapes_or_types_are_refused():
    with pytest.raises(ShapeMismatch, match="shape of an update"):
        aggregate("mean", P, [(ints(1, 2, 3), 1)])
    with pytest.raises(ShapeMismatch, match="int32"):
        aggregate("mean", 1, [(np.array([1.5]), 1)])


def test_an_unknown_rule_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="unknown aggregation rule 'krumm'; known: mean"):
        get_rule("krumm")
