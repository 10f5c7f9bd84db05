"""What a model is here: a value that gives the layout of its parameters.

Layout and initial integers need numpy only, so every member, auditor and founder can produce the initial model without
loading torch. The torch module of the same name, which computes with them, is in `modules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt, prod
from typing import Final, TypeAlias

import numpy as np

from fl_engine.errors import ShapeMismatch
from fl_engine.params import Ints, ParamSpec, Shape
from fl_engine.ring import Grid
from fl_engine.rng import Stream

InputShape: TypeAlias = tuple[int, ...]
"""Shape of one record: (channels, height, width) for images, (features,) for tables."""

MAX_CLASSES: Final = 256
_INITIAL_SEED: Final = b"koinon.initial/1"
_ZERO: Final = ("bias", ".last.weight", ".gram", ".cross")
"""Ends of the names of what begins at zero: biases, the scale of the last normalisation of a residual block, the
statistics of a ridge head."""


@dataclass(frozen=True)
class Model:
    """A model by name.

    `layout(input_shape, classes)` -> ParamSpec, raising ShapeMismatch where the model cannot take such input.
    `by_steps`: whether its parameters are found by steps along a gradient.
    """

    name: str
    layout: Callable[[InputShape, int], ParamSpec]
    by_steps: bool = True


def initial_model(spec: ParamSpec, grid: Grid) -> Ints:
    """The study's first model, int32 [P]: He-uniform weights, biases 0, normalisation scales 1, `.last` scales 0.

    He, Zhang, Ren, Sun, *Delving Deep into Rectifiers*, ICCV 2015: variance 2 / fan_in, here uniform on +-sqrt(6 /
    fan_in). Drawn as integers with a fixed seed: no float is involved, so the bytes are the same everywhere. A residual
    block whose last normalisation begins at 0 is the identity, and the network trains at ordinary learning rates from
    the first step (Goyal et al., *Accurate, Large Minibatch SGD*, 2017, section 5.1).
    """
    arrays = {name: _initial_tensor(name, shape, grid) for name, shape in spec.tensors}
    return spec.check(spec.flatten(arrays))


def _initial_tensor(name: str, shape: Shape, grid: Grid) -> Ints:
    count = prod(shape)
    if len(shape) < 2 or name.endswith(_ZERO):
        value = 0 if name.endswith(_ZERO) else 2**grid.fraction_bits
        return np.full(shape, value, dtype=np.int32)
    fan_in = prod(shape[1:])
    bound = isqrt(6 * 4**grid.fraction_bits // fan_in)
    drawn = Stream(_INITIAL_SEED, name).integers(-bound, bound + 1, count)
    return np.clip(drawn, -grid.limit, grid.limit).astype(np.int32).reshape(shape)


def check_classes(classes: int) -> None:
    """Raise ShapeMismatch unless 2 <= classes <= 256."""
    if not 2 <= classes <= MAX_CLASSES:
        raise ShapeMismatch("number of classes", f"2..{MAX_CLASSES}", classes)
