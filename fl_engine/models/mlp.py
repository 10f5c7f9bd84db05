"""`mlp`: two hidden layers with LayerNorm, for tables of features (and flattened small images).

LayerNorm (Ba, Kiros, Hinton, 2016) normalises within a record, so no statistic of other patients is kept.

    x [B, ...] -> flatten -> linear 64 -> LayerNorm -> ReLU -> linear 32 -> LayerNorm -> ReLU -> linear -> [B, classes]
"""

from __future__ import annotations

from math import prod
from typing import Final

from fl_engine.errors import ShapeMismatch
from fl_engine.models.model import InputShape, Model, check_classes
from fl_engine.params import ParamSpec

HIDDEN: Final = (64, 32)
_MAX_FEATURES: Final = 65536


def _layout(input_shape: InputShape, classes: int) -> ParamSpec:
    check_classes(classes)
    features = prod(input_shape)
    if not input_shape or not 1 <= features <= _MAX_FEATURES:
        raise ShapeMismatch("input of mlp", f"1..{_MAX_FEATURES} numbers a record", input_shape)
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for number, width in enumerate(HIDDEN, start=1):
        tensors += [(f"linear{number}.weight", (width, features)), (f"linear{number}.bias", (width,))]
        tensors += [(f"norm{number}.weight", (width,)), (f"norm{number}.bias", (width,))]
        features = width
    tensors += [("head.weight", (classes, features)), ("head.bias", (classes,))]
    return ParamSpec(tuple(tensors))


MLP: Final = Model("mlp", _layout)
