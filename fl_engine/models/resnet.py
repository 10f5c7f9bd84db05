"""`resnet-18` and `resnet-18-narrow`: residual networks for medical images of ordinary size, with GroupNorm.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016, table 1, 18 layers, with the projection
shortcut where a stage changes its width. GroupNorm (Wu, He, ECCV 2018) in place of BatchNorm, as in `small-cnn`, and
with two channels a group in the first stage: the paper's 32 groups for the full width of 64. About 11.2 million
parameters (45 MB); the narrow one has 20 channels instead of 64, about 1.1 million (4.4 MB), for hospitals whose line
or processor does not carry the full one.

    x [B, C, H, W] -> conv 7x7 /2 -> GN -> ReLU -> max-pool 3x3 /2
      -> four stages of two blocks (conv 3x3 -> GN -> ReLU -> conv 3x3 -> GN, + shortcut, ReLU), widths w 2w 4w 8w,
         the first block of every stage but the first at stride 2
      -> mean-pool to 1 x 1 -> linear -> logits [B, classes]

Convolutions have no bias: the normalisation that follows would take it out again. The last normalisation of a block is
called `last`: its scale begins at zero (`model.py`), so that every block begins as the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from fl_engine.errors import ShapeMismatch
from fl_engine.models.model import InputShape, Model, check_classes
from fl_engine.params import ParamSpec, Shape

BLOCKS: Final = 2
"""Residual blocks in each of the four stages."""

RESNETS: Final[dict[str, int]] = {"resnet-18": 64, "resnet-18-narrow": 20}
"""Channels of the first stage, by model name; each later stage doubles them."""

_STAGES: Final = 4
_MIN_SIDE: Final = 28
_MAX_SIDE: Final = 512


@dataclass(frozen=True)
class Block:
    """One residual block: its name, channels in and out, stride of its first convolution."""

    name: str
    channels_in: int
    channels: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a 1x1 convolution rather than the identity."""
        return self.stride != 1 or self.channels_in != self.channels


def blocks(width: int) -> Iterator[Block]:
    """The blocks of a network whose first stage has `width` channels, in order."""
    channels_in = width
    for stage in range(1, _STAGES + 1):
        channels = width << stage - 1
        for number in range(1, BLOCKS + 1):
            yield Block(f"stage{stage}.block{number}", channels_in, channels, 2 if stage > 1 and number == 1 else 1)
            channels_in = channels


def groups(width: int) -> int:
    """Groups of every GroupNorm: two channels a group in the first stage, sixteen in the last."""
    return width // 2


def _convolution(convolution: str, norm: str, channels_in: int, channels: int, side: int) -> list[tuple[str, Shape]]:
    return [
        (f"{convolution}.weight", (channels, channels_in, side, side)),
        (f"{norm}.weight", (channels,)),
        (f"{norm}.bias", (channels,)),
    ]


def _layout(model: str, input_shape: InputShape, classes: int) -> ParamSpec:
    check_classes(classes)
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ShapeMismatch(f"input of {model}", "(1 or 3 channels, height, width)", input_shape)
    if any(not _MIN_SIDE <= side <= _MAX_SIDE for side in input_shape[1:]):
        raise ShapeMismatch(f"image sides of {model}", f"{_MIN_SIDE}..{_MAX_SIDE} pixels", input_shape[1:])
    width = RESNETS[model]
    tensors = _convolution("conv1", "norm1", input_shape[0], width, 7)
    last = width
    for block in blocks(width):
        name, last = block.name, block.channels
        tensors += _convolution(f"{name}.conv1", f"{name}.norm1", block.channels_in, block.channels, 3)
        tensors += _convolution(f"{name}.conv2", f"{name}.last", block.channels, block.channels, 3)
        if block.projects:
            tensors += _convolution(f"{name}.conv3", f"{name}.norm3", block.channels_in, block.channels, 1)
    tensors += [("head.weight", (classes, last)), ("head.bias", (classes,))]
    return ParamSpec(tuple(tensors))


RESNET_18: Final = Model("resnet-18", partial(_layout, "resnet-18"))
RESNET_18_NARROW: Final = Model("resnet-18-narrow", partial(_layout, "resnet-18-narrow"))
