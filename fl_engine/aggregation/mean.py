"""`mean`: the weighted integer mean of FedAvg.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, *Communication-Efficient Learning of Deep Networks from Decentralized
Data*, AISTATS 2017. With N = sum n_k and S = sum n_k q_k in int64, the result is floor((2S + N) / (2N)), the nearest
integer to S / N, ties upward; integer sums do not depend on the order of the updates.

Memory: the sum, 8 P bytes, however many updates there are. All passes go block by block, so that nothing else grows
with P, and a block stays in the processor's cache from one operation to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.aggregation.aggregator import Aggregator
from fl_engine.errors import AggregationError, ShapeMismatch
from fl_engine.params import Ints, blocks

MAX_TOTAL_WEIGHT: Final = 2**31 - 1
"""|S| <= N * 2^31 must stay below 2^62 so that 2S + N fits int64; hence N < 2^31 records a round."""


@dataclass(frozen=True)
class MeanState:
    """S int64 [P] and N = sum of the weights so far."""

    weighted_sum: NDArray[np.int64]
    total_weight: int


def _init(size: int) -> MeanState:
    return MeanState(np.zeros(size, dtype=np.int64), 0)


def _apply(state: MeanState, update: Ints, weight: int) -> MeanState:
    if update.dtype != np.int32:
        raise ShapeMismatch("integer type of an update", "int32", update.dtype)
    if update.shape != state.weighted_sum.shape:
        raise ShapeMismatch("shape of an update", state.weighted_sum.shape, update.shape)
    if weight < 1:
        raise AggregationError(f"weight is {weight}; an update needs at least one record")
    total = state.total_weight + weight
    if total > MAX_TOTAL_WEIGHT:
        raise AggregationError(f"weights sum to {total}; at most {MAX_TOTAL_WEIGHT} keep the sum within 64 bits")
    for block in blocks(len(update)):
        state.weighted_sum[block] += np.multiply(update[block], weight, dtype=np.int64)
    return MeanState(state.weighted_sum, total)


def _finish(state: MeanState) -> Ints:
    if state.total_weight == 0:
        raise AggregationError("no update to aggregate")
    n = state.total_weight
    mean = np.empty(len(state.weighted_sum), dtype=np.int32)
    for block in blocks(len(mean)):
        # numpy's // floors, also for negative numbers: -3 // 2 == -2.
        mean[block] = (2 * state.weighted_sum[block] + n) // (2 * n)
    return mean


MEAN: Final[Aggregator[MeanState]] = Aggregator("mean", _init, _apply, _finish)
