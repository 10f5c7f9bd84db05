"""The grid: rounding, clipping and saturation by numbers one can check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_engine.errors import NonFiniteUpdate, PolicyError, RangeExceeded, ShapeMismatch
from fl_engine.ring import INT32_MAX, Grid, add_saturating, check_range, dequantise, quantise

ONE = Grid(fraction_bits=0, max_abs=100.0)
GRID = Grid(fraction_bits=24, max_abs=64.0)
int32s = hnp.arrays(np.int32, st.integers(1, 20), elements=st.integers(-(2**31), 2**31 - 1))


def test_halves_round_to_the_even_neighbour():
    assert quantise(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49]), ONE).tolist() == [0, 2, 2, 0, -2, 0]


def test_values_beyond_the_limit_are_clipped_to_it():
    assert quantise(np.array([1e9, -1e9]), ONE).tolist() == [100, -100]
    assert quantise(np.array([1e9, -1e9]), Grid(30, 64.0)).tolist() == [INT32_MAX, -INT32_MAX]


def test_the_default_grid_holds_64_in_steps_of_two_to_the_minus_24():
    assert GRID.limit == 2**30
    assert quantise(np.array([64.0, 2.0**-24]), GRID).tolist() == [2**30, 1]


@given(hnp.arrays(np.float32, 8, elements=st.floats(-60, 60, width=32)))
def test_quantising_is_off_by_at_most_half_a_step(values):
    ints = quantise(values, GRID)
    assert np.all(np.abs(ints.astype(np.float64) * 2.0**-24 - values.astype(np.float64)) <= 2.0**-25)


@given(hnp.arrays(np.int32, 8, elements=st.integers(-(2**24), 2**24)))
def test_the_float_view_of_small_integers_is_exact(ints):
    assert np.array_equal(quantise(dequantise(ints, GRID), GRID), ints)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_index(bad):
    with pytest.raises(NonFiniteUpdate) as caught:
        quantise(np.array([1.0, 2.0, bad, bad]), GRID)
    assert caught.value.index == 2


def test_the_first_integer_outside_the_grid_is_named():
    check_range(np.array([2**30, -(2**30)], dtype=np.int32), GRID)
    with pytest.raises(RangeExceeded) as caught:
        check_range(np.array([0, -(2**31), 2**31 - 1], dtype=np.int32), GRID)
    assert (caught.value.index, caught.value.value, caught.value.max_abs) == (1, -(2**31), 2**30)


@given(int32s, st.integers(-(2**31), 2**31 - 1))
def test_addition_saturates_like_python_integers_clipped(model, step):
    delta = np.full_like(model, step)
    expected = [max(-(2**31), min(2**31 - 1, int(m) + step)) for m in model]
    assert add_saturating(model, delta).tolist() == expected


def test_addition_refuses_other_types_and_shapes():
    with pytest.raises(ShapeMismatch, match="int32"):
        add_saturating(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int32))  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch, match="shape of the delta"):
        add_saturating(np.zeros(2, dtype=np.int32), np.zeros(3, dtype=np.int32))


@pytest.mark.parametrize("bits, max_abs", [(-1, 1.0), (31, 1.0), (24, 0.0), (24, float("nan"))])
def test_a_grid_that_makes_no_sense_is_refused(bits, max_abs):
    with pytest.raises(PolicyError):
        Grid(bits, max_abs)
