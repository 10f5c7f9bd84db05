"""Integer arithmetic of unlearning: exact, symmetric, and within 64 bits at the extremes."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_engine.errors import PolicyError
from fl_engine.ring import INT32_MAX
from fl_engine.unlearning.integers import blend, difference, ratio_of, scale, squared_norm, with_norm, within_norm

whole = st.integers(-(2**31), INT32_MAX)
vectors = st.lists(whole, min_size=1, max_size=20).map(lambda v: np.array(v, dtype=np.int32))


def nearest(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def clipped(value: int) -> int:
    return max(-(2**31), min(INT32_MAX, value))


@given(vectors)
def test_squared_norm_is_exact(v: np.ndarray) -> None:
    assert squared_norm(v) == sum(int(x) ** 2 for x in v)


@given(vectors, whole, st.integers(1, 2**31))
def test_scale_rounds_once(v: np.ndarray, numerator: int, denominator: int) -> None:
    expected = [clipped(nearest(Fraction(int(x) * numerator, denominator))) for x in v]
    assert scale(v, numerator, denominator).tolist() == expected


@given(whole, whole, st.integers(1, 2**30).flatmap(lambda d: st.tuples(st.integers(0, d), st.just(d))))
def test_blend_rounds_once(a: int, b: int, ratio: tuple[int, int]) -> None:
    n, d = ratio
    got = blend(np.array([a], np.int32), np.array([b], np.int32), n, d)
    assert got.tolist() == [nearest(Fraction(a * n + b * (d - n), d))]


def test_a_vector_takes_the_wanted_length() -> None:
    rng = np.random.default_rng(1)
    v = rng.integers(-(2**20), 2**20, 500).astype(np.int32)
    for factor in (0.001, 0.5, 1.0, 7.0):
        wanted = int(squared_norm(v) * factor * factor)
        assert isqrt(squared_norm(with_norm(v, wanted))) == pytest.approx(isqrt(wanted), rel=1e-3)


def test_within_norm_leaves_the_short_alone() -> None:
    v = np.array([3, 4], np.int32)
    assert within_norm(v, 25) is v
    assert within_norm(np.array([300, 400], np.int32), 2500).tolist() == [30, 40]


def test_zero_stays_zero_and_nothing_wraps() -> None:
    zero, least = np.zeros(2, np.int32), np.array([-(2**31)], np.int32)
    assert with_norm(zero, 100).tolist() == [0, 0]
    assert difference(least, np.array([INT32_MAX], np.int32)).tolist() == [-(2**31)]
    assert scale(least, -1, 1).tolist() == [INT32_MAX]
    assert with_norm(np.array([1], np.int32), 2**70).tolist() == [INT32_MAX]


def test_a_ratio_out_of_range_is_named() -> None:
    with pytest.raises(PolicyError, match="ratio 1/0"):
        scale(np.zeros(1, np.int32), 1, 0)
    with pytest.raises(PolicyError, match="blend of 3/2"):
        blend(np.zeros(1, np.int32), np.zeros(1, np.int32), 3, 2)
    assert ratio_of(0.5) == (2**15, 2**16)
