"""Attacks on unlearning, by name. An audit (`audit`) runs all that the auditor can."""

from __future__ import annotations

from typing import Final

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Holding, View
from fl_engine.attacks.gradient import GRADIENT_COSINE
from fl_engine.attacks.lira import U_LIRA
from fl_engine.attacks.loss import LOSS, LOSS_DIFFERENCE
from fl_engine.attacks.pair import PAIR
from fl_engine.attacks.reconstruction import RECONSTRUCTION
from fl_engine.attacks.rmia import RMIA
from fl_engine.errors import UnknownName

ATTACKS: Final[dict[str, Attack]] = {
    one.name: one for one in (LOSS, RMIA, U_LIRA, LOSS_DIFFERENCE, PAIR, GRADIENT_COSINE, RECONSTRUCTION)
}
"""Every attack of an audit: the first three on the new model alone, the others on the pair of before and after."""


def get_attack(name: str) -> Attack:
    """The attack of that name, or UnknownName listing the known ones."""
    try:
        return ATTACKS[name]
    except KeyError:
        raise UnknownName("attack", name, tuple(ATTACKS)) from None


__all__ = ["ATTACKS", "Attack", "Candidates", "Evidence", "Holding", "View", "get_attack"]
