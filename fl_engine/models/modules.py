"""The torch modules of the models: float32 [B, *input_shape] -> logits [B, classes].

Each has exactly the parameters of its layout, in that order and by those names, and no randomness. None has buffers but
`ridge`, whose backbone never changes. Loaded in the training worker only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Final

import numpy as np
import torch
from torch import nn

from fl_engine.errors import UnknownName
from fl_engine.models.mlp import HIDDEN
from fl_engine.models.model import InputShape, initial_model
from fl_engine.models.resnet import RESNETS, Block, blocks, groups
from fl_engine.models.ridge import backbone_of, grid_features, logits, solve, width_of
from fl_engine.models.small_cnn import POOLED_SIDE, WIDTHS
from fl_engine.ring import Grid, dequantise


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


class _ResidualBlock(nn.Module):
    def __init__(self, block: Block, groups_: int) -> None:
        super().__init__()
        channels = block.channels
        self.conv1 = nn.Conv2d(block.channels_in, channels, 3, block.stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups_, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.last = nn.GroupNorm(groups_, channels)
        self.projects = block.projects
        if block.projects:
            self.conv3 = nn.Conv2d(block.channels_in, channels, 1, block.stride, bias=False)
            self.norm3 = nn.GroupNorm(groups_, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.norm3(self.conv3(x)) if self.projects else x
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.last(self.conv2(inner)) + shortcut)


def _resnet(width: int, input_shape: InputShape, classes: int) -> nn.Module:
    stages: dict[str, OrderedDict[str, nn.Module]] = {}
    last = width
    for block in blocks(width):
        stage, name = block.name.split(".")
        stages.setdefault(stage, OrderedDict())[name] = _ResidualBlock(block, groups(width))
        last = block.channels
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(input_shape[0], width, 7, 2, 3, bias=False),
            norm1=nn.GroupNorm(groups(width), width),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(3, 2, 1),
            **{name: nn.Sequential(inner) for name, inner in stages.items()},
            pool2=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(last, classes),
        )
    )


class _RidgeHead(nn.Module):
    """Mean statistics and, of features [n, B], the logits of the head that they make. It has no gradient."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.gram = nn.Parameter(torch.zeros(width * (width + 1) // 2))
        self.cross = nn.Parameter(torch.zeros(classes, width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        z = grid_features(features.detach().numpy().astype(np.float32))
        weights = solve(self.gram.detach().numpy(), self.cross.detach().numpy())
        return torch.from_numpy(logits(weights, z)).to(features.dtype)


def _ridge(input_shape: InputShape, classes: int) -> nn.Module:
    model, grid = backbone_of(input_shape), Grid()
    layout, whole = model.layout(input_shape, classes), build_module(model.name, input_shape, classes)
    whole.load_state_dict(
        {
            name: torch.from_numpy(value.copy())
            for name, value in layout.unflatten(dequantise(initial_model(layout, grid), grid)).items()
        }
    )
    backbone = nn.Sequential(OrderedDict((name, part) for name, part in whole.named_children() if name != "head"))
    for part in backbone.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    head = _RidgeHead(width_of(input_shape), classes)
    return nn.Sequential(OrderedDict[str, nn.Module](backbone=backbone, head=head))


_BUILDERS: Final[dict[str, Callable[[InputShape, int], nn.Module]]] = {
    "small-cnn": _small_cnn,
    "mlp": _mlp,
    **{name: partial(_resnet, width) for name, width in RESNETS.items()},
    "ridge": _ridge,
}
