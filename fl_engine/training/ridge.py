"""`ridge`: no steps at all. An update is the mean statistics of the member's records, less the model it began at.

With S_k = sum_i z_i z_i^T and h_k = sum_i onehot(y_i) z_i^T over the n_k records of member k (features z as in
`fl_engine.models.ridge`):

    q_k = round((S_k, h_k) / n_k) - w        so that the study's mean  w + sum n_k q_k / sum n_k  is the statistics of
                                             all records together, whatever w was

S and h are sums of integers: S - z z^T *is* the sum without the record, in any order and grouping, to the last bit. So
deleting a record is a subtraction, and one round makes the head; every further round makes it anew.

*What must not be published.* One record's statistic is z z^T: its features up to sign; and the difference of two heads
around the deletion of one patient gives that patient's features (Bertran et al., *Reconstruction Attacks on Machine
Unlearning*, NeurIPS 2024). So statistics are sums of at least `MIN_RECORDS` records, and in a study that accepts
erasures every member adds noise: integers near a normal distribution, of deviation noise * CLIP^2 on every entry of S
and noise * CLIP on h, from a stream of the hospital's own secret and the round's beacon, anew in every round. `epsilon`
says what that is worth by the Gaussian mechanism, for one record in one round; a patient with m records, or a study of
m rounds, has about m times as much at stake. It is drawn in floating point and rounded: the figure is that of the ideal
mechanism.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.evaluate import cross_entropy
from fl_engine.models.ridge import CLIP, grid_features, logits, solve
from fl_engine.params import Ints
from fl_engine.ring import Grid, dequantise
from fl_engine.rng import Stream
from fl_engine.training.method import Hyperparameters, LocalUpdate, Method, Trainable, TrainingData

MIN_RECORDS: Final = 10
_SQUARE_BITS: Final = 26
"""CLIP^2 is 2^26."""


@dataclass(frozen=True)
class Statistics:
    """Sums over records: `gram` int64 [D, D] symmetric, `cross` int64 [C, D], and how many records."""

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
        return cls((wide.T @ wide).astype(np.int64), (chosen.T @ wide).astype(np.int64), len(z))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.gram + other.gram, self.cross + other.cross, self.records + other.records)

    def __sub__(self, other: Statistics) -> Statistics:
        return Statistics(self.gram - other.gram, self.cross - other.cross, self.records - other.records)

    def noised(self, noise: float, secret: bytes, beacon: bytes) -> Statistics:
        """These with the hospital's noise; the same secret and beacon give the same noise."""
        if noise == 0:
            return self
        if len(secret) != 32:
            raise PolicyError(f"the secret of the noise has {len(secret)} bytes, expected 32")
        stream, width = Stream(secret, f"noise on ridge statistics, {beacon.hex()}"), len(self.gram)
        upper = np.triu_indices(width)
        gram = np.zeros_like(self.gram)
        gram[upper] = np.rint(noise * CLIP * CLIP * stream.normal(len(upper[0]))).astype(np.int64)
        gram.T[upper] = gram[upper]
        cross = np.rint(noise * CLIP * stream.normal(self.cross.size)).astype(np.int64).reshape(self.cross.shape)
        return Statistics(self.gram + gram, self.cross + cross, self.records)

    def mean(self, grid: Grid) -> Ints:
        """Means as a model of layout `ridge`, int32 [P]: nearest integers of the study's grid, ties upward."""
        gram = _divided(self.gram[np.triu_indices(len(self.gram))], self.records, grid.fraction_bits - _SQUARE_BITS)
        cross = _divided(self.cross.reshape(-1), self.records, grid.fraction_bits - _SQUARE_BITS // 2)
        return _on(grid, np.concatenate([gram, cross]))


def _divided(sums: NDArray[np.int64], records: int, bits: int) -> NDArray[np.int64]:
    """round(sums / records * 2^bits), in integers."""
    above, below = sums << max(0, bits), records << max(0, -bits)
    return np.asarray((2 * above + below) // (2 * below))


def _on(grid: Grid, values: NDArray[np.int64]) -> Ints:
    return np.clip(values, -grid.limit, grid.limit).astype(np.int32)


def epsilon(noise: float, delta: float = 1e-6) -> float | None:
    """epsilon of one record by the Gaussian mechanism (Dwork, Roth 2014, Theorem A.1), None where it holds for none.

    One record changes S by at most CLIP^2 and h by at most CLIP; both are noised in proportion, so the two together
    have sensitivity sqrt(2) in units of the noise.
    """
    if noise <= 0:
        return None
    value = sqrt(2 * log(1.25 / delta)) * sqrt(2) / noise
    return value if value <= 1 else None


def _train_local(
    network: Trainable,
    ints: Ints,
    data: TrainingData,
    rows: NDArray[np.int64],
    hyperparameters: Hyperparameters,
    grid: Grid,
    *,
    beacon: bytes,
    member: int,
    erasable: bool,
    secret: bytes = b"",
) -> LocalUpdate:
    """The mean statistics of the records `rows`; `loss` is the cross-entropy of the head that they make by themselves.

    Raises PolicyError: too few records; no noise in a study that is erasable; a secret of another length than 32.
    """
    _check(hyperparameters, erasable)
    _check_records(len(rows), hyperparameters, erasable)
    start, positions = network.spec.check(ints), data.positions(rows)
    z = grid_features(network.features(np.ascontiguousarray(data.x[positions])))
    own = Statistics.of(z, data.y[positions], data.classes).noised(hyperparameters.noise, secret, beacon)
    mean = own.mean(grid)
    delta = _on(grid, mean.astype(np.int64) - start)
    gram, cross = network.spec.unflatten(dequantise(mean, grid)).values()
    return LocalUpdate(delta, len(rows), cross_entropy(logits(solve(gram, cross), z), data.y[positions]))


def _check(hyperparameters: Hyperparameters, erasable: bool) -> None:
    if erasable and hyperparameters.noise == 0:
        raise PolicyError(
            "training.noise is 0: two ridge heads around the deletion of one patient give that patient's features "
            "away, so a study that accepts erasures adds noise (training.noise above 0), or is founded with "
            "policy.erasable = false"
        )


def _check_records(records: int, hyperparameters: Hyperparameters, erasable: bool) -> None:
    if records < MIN_RECORDS:
        raise PolicyError(f"{records} records: statistics of fewer than {MIN_RECORDS} do not leave a hospital")


RIDGE: Final = Method("ridge", _train_local, by_steps=False, check=_check, check_records=_check_records)
