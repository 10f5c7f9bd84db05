"""Models by name."""

from __future__ import annotations

from typing import Final

from fl_engine.errors import UnknownName
from fl_engine.models.mlp import MLP
from fl_engine.models.model import InputShape, Model, initial_model
from fl_engine.models.resnet import RESNET_18, RESNET_18_NARROW
from fl_engine.models.ridge import RIDGE
from fl_engine.models.small_cnn import SMALL_CNN

MODELS: Final[dict[str, Model]] = {model.name: model for model in (SMALL_CNN, MLP, RESNET_18_NARROW, RESNET_18, RIDGE)}
"""Every model a study may name under `[model] name`."""


def get_model(name: str) -> Model:
    """The model of that name, or UnknownName listing the known ones."""
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownName("model", name, tuple(MODELS)) from None


__all__ = ["MODELS", "InputShape", "Model", "get_model", "initial_model"]
