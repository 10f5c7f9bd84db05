"""The torch modules of the models: float32 [B, *input_shape] -> logits [B, classes].

Each has exactly the parameters of its layout, in that order and by those names, no buffers and no randomness. Loaded in
the training worker only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Final

from torch import nn

from fl_engine.errors import UnknownName
from fl_engine.models.mlp import HIDDEN
from fl_engine.models.model import InputShape
from fl_engine.models.small_cnn import POOLED_SIDE, WIDTHS


def build_module(name: str, input_shape: InputShape, classes: int) -> nn.Module:
    """The module of the model of that name, or UnknownName. The layout has checked the shapes before."""
    if name not in _BUILDERS:
        raise UnknownName("torch module", name, tuple(_BUILDERS))
    return _BUILDERS[name](input_shape, classes)


def _small_cnn(input_shape: InputShape, classes: int) -> nn.Module:
    first, second, third = WIDTHS
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(input_shape[0], first, 3, padding=1),
            norm1=nn.GroupNorm(4, first),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, 3, padding=1),
            norm2=nn.GroupNorm(8, second),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(second, third, 3, padding=1),
            norm3=nn.GroupNorm(8, third),
            relu3=nn.ReLU(),
            pool3=nn.AdaptiveAvgPool2d(POOLED_SIDE),
            flatten=nn.Flatten(),
            head=nn.Linear(third * POOLED_SIDE**2, classes),
        )
    )


def _mlp(input_shape: InputShape, classes: int) -> nn.Module:
    first, second = HIDDEN
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            flatten=nn.Flatten(),
            linear1=nn.Linear(prod(input_shape), first),
            norm1=nn.LayerNorm(first),
            relu1=nn.ReLU(),
            linear2=nn.Linear(first, second),
            norm2=nn.LayerNorm(second),
            relu2=nn.ReLU(),
            head=nn.Linear(second, classes),
        )
    )


_BUILDERS: Final[dict[str, Callable[[InputShape, int], nn.Module]]] = {"small-cnn": _small_cnn, "mlp": _mlp}
