"""Unlearning methods by name."""

from __future__ import annotations

from typing import Final

from fl_engine.errors import UnknownName
from fl_engine.unlearning.ascent import ASCENT
from fl_engine.unlearning.contrastive import FCU
from fl_engine.unlearning.degradation import MODE
from fl_engine.unlearning.federaser import FEDERASER
from fl_engine.unlearning.negated import PUF
from fl_engine.unlearning.rapid import RAPID
from fl_engine.unlearning.ridge import RIDGE
from fl_engine.unlearning.rollback import ROLLBACK
from fl_engine.unlearning.sharded import SHARDED
from fl_engine.unlearning.unlearner import (
    Agreed,
    Case,
    Checkpoint,
    Claim,
    Need,
    Past,
    Records,
    Result,
    Retraining,
    Unlearner,
)

UNLEARNERS: Final[dict[str, Unlearner]] = {
    one.name: one for one in (ROLLBACK, SHARDED, RAPID, RIDGE, FEDERASER, MODE, ASCENT, PUF, FCU)
}
"""Every method an erasure plan may name."""


def get_unlearner(name: str) -> Unlearner:
    """The method of that name, or UnknownName listing the known ones."""
    try:
        return UNLEARNERS[name]
    except KeyError:
        raise UnknownName("unlearning method", name, tuple(UNLEARNERS)) from None


__all__ = [
    "UNLEARNERS",
    "Agreed",
    "Case",
    "Checkpoint",
    "Claim",
    "Need",
    "Past",
    "Records",
    "Result",
    "Retraining",
    "Unlearner",
    "get_unlearner",
]
