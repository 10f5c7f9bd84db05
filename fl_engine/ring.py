"""The integer grid: the only place where floats become integers and back.

A study declares F = `fraction_bits` and `max_abs`; the integer q stands for q * 2^-F. With F = 24 and max_abs = 64 the
limit is 2^30. Source: fixed-point aggregation as used in secure-aggregation systems; the choice of half-to-even
rounding makes quantisation unbiased and is IEEE 754's own rule, so numpy's `rint` needs no emulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import NonFiniteUpdate, PolicyError, RangeExceeded, ShapeMismatch
from fl_engine.params import Ints, blocks

INT32_MAX: Final = 2**31 - 1


@dataclass(frozen=True)
class Grid:
    """A study's grid. `fraction_bits` F in 0..30; `max_abs` the largest absolute float an update may hold."""

    fraction_bits: int = 24
    max_abs: float = 64.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_bits <= 30:
            raise PolicyError(f"fraction_bits is {self.fraction_bits}, expected 0..30")
        if not (np.isfinite(self.max_abs) and self.max_abs > 0):
            raise PolicyError(f"max_abs is {self.max_abs}, expected a positive finite number")

    @property
    def limit(self) -> int:
        """Largest absolute integer of an update: floor(max_abs * 2^F), at most 2^31-1."""
        return min(int(self.max_abs * 2.0**self.fraction_bits), INT32_MAX)


def quantise(values: NDArray[np.floating[Any]], grid: Grid) -> Ints:
    """Floats of any shape -> int32 of the same shape: round_half_even(x * 2^F) clipped to +-grid.limit.

    Raises NonFiniteUpdate on NaN or infinity. The product is exact in float64 for float32 input.
    """
    wide = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(wide)
    if not finite.all():
        index = int(np.argmin(finite.reshape(-1)))
        raise NonFiniteUpdate(index, float(wide.reshape(-1)[index]))
    scaled = np.rint(wide * 2.0**grid.fraction_bits)
    return np.clip(scaled, -grid.limit, grid.limit).astype(np.int32)


def quantise_difference(after: NDArray[np.float32], before: Ints, grid: Grid) -> Ints:
    """`quantise(after - dequantise(before))`: float32 [P] and the model int32 [P] that it was trained from.

    The difference is taken in float64, where it is not rounded again; and block by block: in one piece the float64
    numbers would be many times the model.
    """
    delta = np.empty(len(after), dtype=np.int32)
    for block in blocks(len(after)):
        try:
            delta[block] = quantise(after[block].astype(np.float64) - dequantise(before[block], grid), grid)
        except NonFiniteUpdate as fault:
            raise NonFiniteUpdate(block.start + fault.index, fault.value) from None
    return delta


def dequantise(ints: Ints, grid: Grid) -> NDArray[np.float32]:
    """int32 -> float32, the view that networks compute with: the float32 nearest to q * 2^-F.

    Exact for |q| <= 2^24; beyond it the conversion rounds half to even, and the scaling itself is always exact.
    """
    floats = ints.astype(np.float32)
    floats *= np.float32(2.0**-grid.fraction_bits)
    return floats


def check_range(ints: Ints, grid: Grid) -> None:
    """Raise RangeExceeded(first index, value, limit) unless every |q| <= grid.limit."""
    flat = ints.reshape(-1)
    # int(): -2^31 has no positive counterpart in int32
    if flat.size == 0 or (int(flat.min()) >= -grid.limit and int(flat.max()) <= grid.limit):
        return
    index = int(np.argmax((flat < -grid.limit) | (flat > grid.limit)))
    raise RangeExceeded(index, int(flat[index]), grid.limit)


def add_saturating(model: Ints, delta: Ints) -> Ints:
    """model + delta, both int32 [P], clipped to -2^31 .. 2^31-1 instead of wrapping."""
    for what, ints in (("model", model), ("delta", delta)):
        if ints.dtype != np.int32:
            raise ShapeMismatch(f"integer type of the {what}", "int32", ints.dtype)
    if model.shape != delta.shape:
        raise ShapeMismatch("shape of the delta", model.shape, delta.shape)
    total = np.empty(model.shape, dtype=np.int32)
    for block in blocks(len(model)):
        total[block] = np.clip(np.add(model[block], delta[block], dtype=np.int64), -(2**31), INT32_MAX)
    return total
