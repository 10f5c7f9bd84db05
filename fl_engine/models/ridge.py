"""`ridge`: a linear head on a frozen backbone, whose parameters are the mean statistics of its records.

    z      int64 [D]            a record's features on a grid: the backbone's, projected by fixed signs to at most
                                `FEATURES`, and a constant behind them; shrunk to a length of at most `CLIP`
    gram   int32 [D (D + 1)/2]  mean of z z^T / CLIP^2 over the records, upper triangle row by row, on the study's grid
    cross  int32 [C, D]         mean of onehot(y) z^T / CLIP

    W [D, C] solves (gram + lambda I) W = cross^T;  logits = z / CLIP @ W

A model's parameters are all that the optimum depends on, so a model *is* its records' sums: nothing is learned that is
not in them. (Ridge statistics for unlearning: arXiv 2603.12977, 2026, in floating point; the integers are ours.) Only
the parameters are agreed on between members. The solution is whatever this machine's linear algebra makes of them.

The backbone must never have seen the records. Here it is `small-cnn` (images) or `mlp` (tables) with the first weights
that the same model of a study begins with, drawn from a fixed seed: nobody's records have touched it.

Noise on the statistics can make gram indefinite. A matrix of squares has no negative eigenvalue, so the most negative
one measures the noise: lambda is `NOISE_MARGIN` times it, and at least `REGULARISATION`.
"""

from __future__ import annotations

from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import ShapeMismatch
from fl_engine.models.mlp import MLP
from fl_engine.models.model import InputShape, Model
from fl_engine.models.small_cnn import SMALL_CNN
from fl_engine.params import ParamSpec
from fl_engine.rng import Stream

FEATURES: Final = 64
"""Most features that a head has, beside the constant."""
FEATURE_BITS: Final = 10
CLIP: Final = 2**13
"""Longest z, in units of 2^-FEATURE_BITS: products stay below 2^26 and sums of 2^31 records within 64 bits."""
REGULARISATION: Final = 2.0**-14
NOISE_MARGIN: Final = 2.0
_PROJECTION_SEED: Final = b"koinon.ridge-projection/1"


def backbone_of(input_shape: InputShape) -> Model:
    """The model whose first weights, without its head, give the features."""
    return SMALL_CNN if len(input_shape) == 3 else MLP


def width_of(input_shape: InputShape) -> int:
    """D: the features of a record, the constant included."""
    of_backbone = backbone_of(input_shape).layout(input_shape, 2).tensors[-2][1][1]
    return min(FEATURES, of_backbone) + 1


def _layout(input_shape: InputShape, classes: int) -> ParamSpec:
    backbone_of(input_shape).layout(input_shape, classes)  # refuses what it cannot take
    width = width_of(input_shape)
    return ParamSpec((("head.gram", (width * (width + 1) // 2,)), ("head.cross", (classes, width))))


def grid_features(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Backbone features float32 [n, B] -> z int64 [n, min(B, FEATURES) + 1]; the last column is the constant.

    Features are put on the grid first and then projected with fixed signs, so the projection is exact.
    """
    ints = np.rint(np.clip(features.astype(np.float64), -64, 64) * 2.0**FEATURE_BITS).astype(np.int64)
    if ints.shape[1] > FEATURES:
        signs = 2 * Stream(_PROJECTION_SEED, f"{ints.shape[1]} to {FEATURES}").integers(0, 2, ints.shape[1] * FEATURES)
        # below 2^53: exact in float64
        projected = ints.astype(np.float64) @ (signs - 1).reshape(ints.shape[1], FEATURES).astype(np.float64)
        ints = projected.astype(np.int64) // max(1, isqrt(ints.shape[1]))
    z = np.concatenate([ints, np.full((len(ints), 1), 2**FEATURE_BITS, np.int64)], axis=1)
    for row in z:
        squared = int(row @ row)
        if squared > CLIP * CLIP:
            row[:] = np.sign(row) * (np.abs(row) * CLIP // (isqrt(squared) + 1))
    return z


def solve(gram: NDArray[np.floating], cross: NDArray[np.floating]) -> NDArray[np.float64]:
    """The head's weights W float64 [D, C] of mean statistics: gram [D (D + 1)/2] and cross [C, D] as floats."""
    width = cross.shape[1]
    if gram.shape != (width * (width + 1) // 2,):
        raise ShapeMismatch("gram of a ridge head", (width * (width + 1) // 2,), gram.shape)
    matrix = np.zeros((width, width))
    matrix[np.triu_indices(width)] = gram
    matrix += np.triu(matrix, 1).T
    values, vectors = np.linalg.eigh(matrix)
    regularisation = max(REGULARISATION, -NOISE_MARGIN * float(values[0]))
    inverse = 1.0 / (np.maximum(values, 0.0) + regularisation)
    weights = vectors @ (inverse[:, None] * (vectors.T @ cross.T.astype(np.float64)))
    return np.asarray(weights, dtype=np.float64)


def logits(weights: NDArray[np.float64], z: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits float32 [n, C] of a head W [D, C] for features z [n, D]."""
    return np.asarray((z / CLIP) @ weights, dtype=np.float32)


RIDGE: Final = Model("ridge", _layout, by_steps=False)
