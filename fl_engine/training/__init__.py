"""Training methods by name."""

from __future__ import annotations

from typing import Final

from fl_engine.errors import UnknownName
from fl_engine.training.fedavg import FEDAVG, FEDAVG_FLOAT64
from fl_engine.training.method import (
    Hyperparameters,
    LocalUpdate,
    Method,
    Trainable,
    TrainingData,
    batch_order,
)
from fl_engine.training.ridge import RIDGE

METHODS: Final[dict[str, Method]] = {one.name: one for one in (FEDAVG, FEDAVG_FLOAT64, RIDGE)}
"""Every method a study may name under `[training] method`."""


def get_method(name: str) -> Method:
    """The method of that name, or UnknownName listing the known ones."""
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownName("training method", name, tuple(METHODS)) from None


__all__ = [
    "METHODS",
    "Hyperparameters",
    "LocalUpdate",
    "Method",
    "Trainable",
    "TrainingData",
    "batch_order",
    "get_method",
]
