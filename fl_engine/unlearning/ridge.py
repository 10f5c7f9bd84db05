"""`ridge`: a linear head on a frozen backbone, from integer sums; deleting a record is a subtraction, to the last bit.

    z_i  int64 [D]      features of record i on a grid of 2^-FEATURE_BITS: the backbone's, projected by fixed signs, and
                        a constant 1 behind them; shrunk to a length of at most `CLIP`
    G    int64 [D, D]   sum_i z_i z_i^T,    h int64 [D, C]   sum_i z_i onehot(y_i)^T,    n  records
    W    [D, C]         (G + lambda I) W = 2^FEATURE_BITS h, by L D L^T in float64

The optimum depends on the records through (G, h) alone, and these are sums of integers: G - z z^T *is* the sum without
the record, whatever the order, the batch or the member. (Ridge statistics for unlearning: arXiv 2603.12977, 2026, in
floating point; the integers are ours.) The factorisation uses elementwise IEEE operations in a fixed order and no
library of linear algebra, so the head has the same bits on every machine too.

The backbone must never have seen the records: here it is the study's first model, which nobody's records have touched.

*What must not be published.* One record's statistic is z z^T: its features up to sign. And the difference of two
published heads around the deletion of one patient gives that patient's features (Bertran et al., *Reconstruction
Attacks on Machine Unlearning*, NeurIPS 2024). So statistics are sums of at least MIN_RECORDS records, and a head is not
released around fewer than MIN_PATIENTS forgotten patients unless every member adds `noise`: integers near a normal
distribution of deviation noise * CLIP^2 on every entry of G and noise * CLIP on h, from a stream of the hospital's own
secret. `epsilon` says what that is worth by the Gaussian mechanism, for one record; a patient with m records has m
times as much at stake. The noise is drawn in floating point and rounded: the figure is that of the ideal mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.params import Ints, ParamSpec
from fl_engine.ring import Grid, dequantise, quantise
from fl_engine.rng import Stream
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Checkpoint,
    Claim,
    Need,
    Probe,
    Records,
    Result,
    Round,
    Rounds,
    Task,
    Unlearner,
)

FEATURE_BITS: Final = 10
CLIP: Final = 2**13
"""Longest z, in grid units: products stay below 2^26 and sums of 2^31 records within 64 bits."""
MIN_RECORDS: Final = 10
MIN_PATIENTS: Final = 10
_PROJECTION_SEED: Final = b"koinon.ridge-projection/1"


@dataclass(frozen=True)
class Statistics:
    """What a ridge head needs of its records: `gram` int64 [D, D] symmetric, `cross` int64 [D, C], and how many."""

    gram: NDArray[np.int64]
    cross: NDArray[np.int64]
    records: int

    @classmethod
    def of(cls, z: NDArray[np.int64], y: NDArray[np.int64], classes: int) -> Statistics:
        """The statistics of features z int64 [n, D] and labels y [n]."""
        if z.dtype != np.int64 or z.ndim != 2 or y.shape != (len(z),):
            raise ShapeMismatch("features of a ridge head", "int64 [n, D] and n labels", (z.dtype, z.shape, y.shape))
        # Products of integers below 2^13 and sums below 2^53 are exact in float64, where the sum is fast.
        wide = z.astype(np.float64)
        if len(z) * CLIP * CLIP >= 2**53:
            raise PolicyError(f"{len(z)} records at once; add statistics of parts instead")
        chosen = np.eye(classes)[y]
        return cls((wide.T @ wide).astype(np.int64), (wide.T @ chosen).astype(np.int64), len(z))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.gram + other.gram, self.cross + other.cross, self.records + other.records)

    def __sub__(self, other: Statistics) -> Statistics:
        return Statistics(self.gram - other.gram, self.cross - other.cross, self.records - other.records)

    def head(self, regularisation: float, grid: Grid) -> Ints:
        """The head's weights, int32 [D * C] on the grid, row-major [D, C]. `regularisation` is lambda for z of
        length 1.
        """
        scaled = self.gram.astype(np.float64)
        scaled[np.diag_indices(len(scaled))] += regularisation * 4.0**FEATURE_BITS
        return quantise(solve(scaled, self.cross.astype(np.float64) * 2.0**FEATURE_BITS), grid).reshape(-1)

    def pack(self) -> Ints:
        """The upper triangle of `gram` and `cross` as pairs of int32 (upper half, lower half), as an update travels."""
        values = np.concatenate([self.gram[np.triu_indices(len(self.gram))], self.cross.reshape(-1)])
        halves = np.stack([values >> 32, (values & (2**32 - 1)) - 2**31], axis=1)
        return halves.astype(np.int32).reshape(-1)

    @classmethod
    def unpack(cls, ints: Ints, width: int, classes: int, records: int) -> Statistics:
        """What `pack` wrote, for D = `width`. Raises ShapeMismatch."""
        if ints.shape != (packed_size(width, classes),):
            raise ShapeMismatch("packed statistics", packed_size(width, classes), ints.shape)
        halves = ints.astype(np.int64).reshape(-1, 2)
        values = (halves[:, 0] << 32) + (halves[:, 1] + 2**31)
        upper = np.triu_indices(width)
        gram = np.zeros((width, width), np.int64)
        gram[upper] = values[: len(upper[0])]
        gram.T[upper] = gram[upper]
        return cls(gram, values[len(upper[0]) :].reshape(width, classes), records)


def packed_size(width: int, classes: int) -> int:
    """Number of int32 in packed statistics."""
    return 2 * (width * (width + 1) // 2 + width * classes)


def solve(matrix: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """X with matrix X = right, for a symmetric positive definite float64 [D, D] and right [D, C].

    L D L^T column by column with elementwise operations only: each is rounded once by IEEE 754, so the result is the
    same on every machine. Raises PolicyError where a pivot is not positive (more regularisation is needed).
    """
    left, x = matrix.copy(), right.copy()
    width = len(left)
    for k in range(width):
        if not left[k, k] > 0:
            raise PolicyError(f"pivot {k} of the ridge system is {left[k, k]}: choose more regularisation")
        factors = left[k + 1 :, k] / left[k, k]
        left[k + 1 :, k + 1 :] -= factors[:, None] * left[k, k + 1 :]
        x[k + 1 :] -= factors[:, None] * x[k]
    for k in range(width - 1, -1, -1):
        x[k] /= left[k, k]
        x[:k] -= left[:k, k][:, None] * x[k]
    return x


def grid_features(features: NDArray[np.float32], width: int) -> NDArray[np.int64]:
    """Backbone features float32 [n, B] -> z int64 [n, width + 1]; the last column is the constant.

    Features are put on the grid first and then projected with fixed signs, so the projection is exact.
    """
    ints = np.rint(np.clip(features.astype(np.float64), -64, 64) * 2.0**FEATURE_BITS).astype(np.int64)
    if ints.shape[1] > width:
        signs = 2 * Stream(_PROJECTION_SEED, f"{ints.shape[1]} to {width}").integers(0, 2, ints.shape[1] * width) - 1
        # below 2^53: exact in float64
        projected = ints.astype(np.float64) @ signs.reshape(ints.shape[1], width).astype(np.float64)
        ints = projected.astype(np.int64) // max(1, isqrt(ints.shape[1]))
    z = np.concatenate([ints, np.full((len(ints), 1), 2**FEATURE_BITS, np.int64)], axis=1)
    for row in z:
        squared = int(row @ row)
        if squared > CLIP * CLIP:
            row[:] = np.sign(row) * (np.abs(row) * CLIP // (isqrt(squared) + 1))
    return z


def predict(head: Ints, z: NDArray[np.int64], classes: int, grid: Grid) -> NDArray[np.float32]:
    """Logits float32 [n, C] of a head for features z [n, D]."""
    weights = dequantise(head, grid).reshape(z.shape[1], classes)
    return np.asarray((z.astype(np.float64) * 2.0**-FEATURE_BITS) @ weights, dtype=np.float32)


def epsilon(noise: float, delta: float = 1e-6) -> float | None:
    """epsilon of one record by the Gaussian mechanism (Dwork, Roth 2014, Theorem A.1), None where it holds for none.

    One record changes G by at most CLIP^2 and h by at most CLIP; both are noised in proportion, so the two together
    have sensitivity sqrt(2) in units of the noise.
    """
    if noise <= 0:
        return None
    value = sqrt(2 * log(1.25 / delta)) * sqrt(2) / noise
    return value if value <= 1 else None


def check_release(patients: int, noise: float) -> None:
    """Raise PolicyError where a head would be published around too few forgotten patients, without noise."""
    if 0 < patients < MIN_PATIENTS and noise <= 0:
        raise PolicyError(
            f"{patients} forgotten patients and no noise: two heads around so few give away their features; wait for a "
            f"batch of {MIN_PATIENTS} or set noise"
        )


def learn(case: Case) -> Rounds:
    """The one round that makes a head: every member sends its statistics, everybody adds and solves."""
    return _program(case, 1)


def _unlearn(case: Case) -> Rounds:
    check_release(case.patients, case.parameters["noise"])
    return _program(case, case.target + 1)


def _program(case: Case, height: int) -> Rounds:
    agreed = case.agreed
    width, classes = feature_width(agreed.layout, case.whole("width")) + 1, agreed.layout.tensors[-1][1][0]
    task = Task(
        "statistics",
        agreed.initial,
        agreed.training,
        packed_size(width, classes),
        numbers={"width": case.parameters["width"], "noise": case.parameters["noise"], "height": float(height)},
    )
    updates = yield Round(height, dict.fromkeys(case.remaining, task))
    total = Statistics(np.zeros((width, width), np.int64), np.zeros((width, classes), np.int64), 0)
    for member in sorted(updates):
        total = total + Statistics.unpack(updates[member].delta, width, classes, updates[member].records)
    head = total.head(case.parameters["regularisation"] + noise_floor(case, width, len(updates)), agreed.grid)
    return Result(head, {(height, 0): Checkpoint(head, total.records)})


def noise_floor(case: Case, width: int, members: int) -> float:
    """Regularisation, in the units of lambda, that outweighs the noise of all members: three times the spectral norm's
    half, sqrt(D * members) deviations, so that the noised matrix stays positive definite.
    """
    return 3 * case.parameters["noise"] * CLIP * CLIP * sqrt(width * members) / 4.0**FEATURE_BITS


def _statistics(network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int) -> LocalUpdate:
    """What a hospital sends; one that keeps its sums subtracts instead, to the same bits."""
    data, width = records.data, int(task.number("width"))
    positions = data.positions(records.retained)
    if len(positions) < MIN_RECORDS:
        raise PolicyError(f"{len(positions)} records: statistics of fewer than {MIN_RECORDS} do not leave a hospital")
    network.set_weights(dequantise(network.spec.check(task.model), grid))
    z = grid_features(network.features(np.ascontiguousarray(data.x[positions])), width)
    own = Statistics.of(z, data.y[positions], data.classes)
    return LocalUpdate(noised(own, task.number("noise"), records.secret).pack(), len(positions), 0.0)


def noised(own: Statistics, noise: float, secret: bytes) -> Statistics:
    """The statistics with the hospital's noise; the same secret gives the same noise, so keep one a release."""
    if noise <= 0:
        return own
    if len(secret) != 32:
        raise PolicyError(f"the secret of the noise has {len(secret)} bytes, expected 32")
    stream, width = Stream(secret, "noise on ridge statistics"), len(own.gram)
    upper = np.triu_indices(width)
    gram = np.zeros_like(own.gram)
    gram[upper] = np.rint(noise * CLIP * CLIP * stream.normal(len(upper[0]))).astype(np.int64)
    gram.T[upper] = gram[upper]
    cross = np.rint(noise * CLIP * stream.normal(own.cross.size)).astype(np.int64).reshape(own.cross.shape)
    return Statistics(own.gram + gram, own.cross + cross, own.records)


def feature_width(layout: ParamSpec, width: int) -> int:
    """How many features a head has: `width`, or all that the backbone gives its own head where that is fewer."""
    return min(width, layout.tensors[-2][1][1])


def head_layout(layout: ParamSpec, width: int) -> ParamSpec:
    """The layout of a head as a model of its own: one tensor [D, C]."""
    return ParamSpec((("ridge.weight", (feature_width(layout, width) + 1, layout.tensors[-1][1][0])),))


RIDGE: Final = Unlearner(
    name="ridge",
    exact=True,
    source="ridge statistics for unlearning (arXiv 2603.12977), in integers",
    needs=frozenset({Need.STATISTICS}),
    claims=ALWAYS | {Claim.L2, Claim.L3S},
    rounds=_unlearn,
    works={"statistics": _statistics},
    defaults={"width": 128, "regularisation": 1.0, "noise": 0.0},
)
