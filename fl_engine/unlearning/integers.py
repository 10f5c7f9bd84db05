"""Integer arithmetic that unlearning methods share: exact norms, scaling by a ratio, blending. The same bits
everywhere.

A ratio is a pair of integers; results round to the nearest integer, ties upward, as the mean does.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Final

import numpy as np

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.params import Ints
from fl_engine.ring import INT32_MAX

SCALE_BITS: Final = 30
"""Resolution of a ratio of norms: about nine decimal digits."""
_HALF: Final = 15
_PART: Final = 2**18


def squared_norm(ints: Ints) -> int:
    """Sum of squares of int32 [P], exact, as a Python integer: halves of 16 bits keep every sum within 64 bits."""
    if ints.dtype != np.int32:
        raise ShapeMismatch("integer type of a vector", "int32", ints.dtype)
    total = 0
    for part in _parts(ints):
        wide = part.astype(np.int64)
        high, low = wide >> _HALF, wide & (2**_HALF - 1)
        total += (int(np.sum(high * high)) << 2 * _HALF) + (int(np.sum(high * low)) << _HALF + 1)
        total += int(np.sum(low * low))
    return total


def _parts(ints: Ints) -> Iterator[Ints]:
    """A vector in pieces: what is computed of each in 64 bits is small beside a model."""
    for begin in range(0, len(ints), _PART):
        yield ints[begin : begin + _PART]


def difference(first: Ints, second: Ints) -> Ints:
    """first - second, int32 [P], clipped instead of wrapping."""
    return np.clip(first.astype(np.int64) - second.astype(np.int64), -(2**31), INT32_MAX).astype(np.int32)


def scale(ints: Ints, numerator: int, denominator: int) -> Ints:
    """ints * numerator / denominator, clipped to int32. |numerator| up to 2^31, denominator 1..2^31."""
    if denominator < 1 or denominator > 2**31 or abs(numerator) > 2**31:
        raise PolicyError(f"ratio {numerator}/{denominator} is out of range")
    scaled = np.empty(ints.shape, np.int32)
    for part, place in zip(_parts(ints), _parts(scaled), strict=True):
        product = part.astype(np.int64) * numerator  # below 2^62
        # quotient and remainder apart: twice the product could leave 64 bits
        quotient = product // denominator + (2 * (product % denominator) + denominator) // (2 * denominator)
        place[:] = np.clip(quotient, -(2**31), INT32_MAX)
    return scaled


def blend(first: Ints, second: Ints, numerator: int, denominator: int) -> Ints:
    """first * numerator/denominator + second * (1 - numerator/denominator), 0 <= numerator <= denominator <= 2^30."""
    if not 0 <= numerator <= denominator <= 2**30 or denominator == 0:
        raise PolicyError(f"a blend of {numerator}/{denominator}")
    total = first.astype(np.int64) * numerator + second.astype(np.int64) * (denominator - numerator)
    return np.asarray((2 * total + denominator) // (2 * denominator), dtype=np.int32)


def with_norm(ints: Ints, wanted_squared: int) -> Ints:
    """`ints` stretched or shrunk to the norm sqrt(wanted_squared); the zero vector stays as it is."""
    found = squared_norm(ints)
    if found == 0:
        return ints
    # sqrt(wanted / found) = ratio / 2^bits, with as many bits as keep the ratio within 2^31
    bits = SCALE_BITS
    while (ratio := isqrt((wanted_squared << 2 * bits) // found)) > 2**31 and bits > 0:
        bits -= 1
    return scale(ints, min(ratio, 2**31), 2**bits)


def within_norm(ints: Ints, bound_squared: int) -> Ints:
    """`ints`, shrunk to the norm sqrt(bound_squared) where it is longer."""
    return ints if squared_norm(ints) <= bound_squared else with_norm(ints, bound_squared)


def ratio_of(value: float, bits: int = 16) -> tuple[int, int]:
    """A parameter given as a decimal number -> the pair (round(value * 2^bits), 2^bits) that everybody computes
    with.
    """
    return round(value * 2**bits), 2**bits
