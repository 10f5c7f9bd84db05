"""Aggregation rules by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fl_engine.aggregation.aggregator import Aggregator
from fl_engine.aggregation.mean import MEAN
from fl_engine.errors import UnknownName
from fl_engine.params import Ints

RULES: Final[dict[str, Aggregator[Any]]] = {MEAN.name: MEAN}
"""Every rule a study may name under `[aggregation] rule`."""


def get_rule(name: str) -> Aggregator[Any]:
    """The rule of that name, or UnknownName listing the known ones."""
    try:
        return RULES[name]
    except KeyError:
        raise UnknownName("aggregation rule", name, tuple(RULES)) from None


def aggregate(rule: str, size: int, updates: Iterable[tuple[Ints, int]]) -> Ints:
    """Aggregate (update int32 [P], weight n_k) pairs, taken one at a time, into int32 [P]; P = `size`."""
    aggregator = get_rule(rule)
    state = aggregator.init(size)
    for update, weight in updates:
        state = aggregator.apply(state, update, weight)
    result: Ints = aggregator.finish(state)
    return result


__all__ = ["RULES", "Aggregator", "aggregate", "get_rule"]
