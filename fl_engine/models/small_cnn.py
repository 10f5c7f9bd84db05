"""`small-cnn`: three convolutions with GroupNorm for small medical images, about 20 thousand parameters.

GroupNorm (Wu, He, ECCV 2018) instead of BatchNorm: batch statistics would be state that carries patients' data, that
does not average meaningfully between hospitals, and that no erasure could take back.

    x [B, C, H, W] -> conv 16 -> GN 4 -> ReLU -> /2 -> conv 32 -> GN 8 -> ReLU -> /2 -> conv 32 -> GN 8 -> ReLU
      -> mean-pool to 7 x 7 (the identity for 28 x 28) -> linear -> logits [B, classes]
"""

from __future__ import annotations

from typing import Final

from fl_engine.errors import ShapeMismatch
from fl_engine.models.model import InputShape, Model, check_classes
from fl_engine.params import ParamSpec

WIDTHS: Final = (16, 32, 32)
POOLED_SIDE: Final = 7
_MIN_SIDE: Final = 8
_MAX_SIDE: Final = 512


def _layout(input_shape: InputShape, classes: int) -> ParamSpec:
    check_classes(classes)
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ShapeMismatch("input of small-cnn", "(1 or 3 channels, height, width)", input_shape)
    if any(not _MIN_SIDE <= side <= _MAX_SIDE for side in input_shape[1:]):
        raise ShapeMismatch("image sides of small-cnn", f"{_MIN_SIDE}..{_MAX_SIDE} pixels", input_shape[1:])
    tensors: list[tuple[str, tuple[int, ...]]] = []
    channels = input_shape[0]
    for number, width in enumerate(WIDTHS, start=1):
        tensors += [(f"conv{number}.weight", (width, channels, 3, 3)), (f"conv{number}.bias", (width,))]
        tensors += [(f"norm{number}.weight", (width,)), (f"norm{number}.bias", (width,))]
        channels = width
    tensors += [("head.weight", (classes, channels * POOLED_SIDE**2)), ("head.bias", (classes,))]
    return ParamSpec(tuple(tensors))


SMALL_CNN: Final = Model("small-cnn", _layout)
