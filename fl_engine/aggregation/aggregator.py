"""What an aggregation rule is: a value with `init`, `apply`, `finish`; state in, state out, no hidden memory.

A rule sees updates one at a time, so a node need not hold them all; rules that need all of them keep them in their
state. Every rule here works on integers and gives the same bits on every machine and in every order of updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fl_engine.params import Ints

State = TypeVar("State")


@dataclass(frozen=True)
class Aggregator(Generic[State]):
    """An aggregation rule.

    `init(P)` -> empty state. `apply(state, update int32 [P], weight n_k >= 1)` -> state with it taken in; the state
    that was given is used up, for its memory may go into the new one. `finish(state)` -> the aggregate, int32 [P]; the
    state stays as it is. All raise AggregationError or ShapeMismatch on bad input; `apply` then leaves the state alone.
    """

    name: str
    init: Callable[[int], State]
    apply: Callable[[State, Ints, int], State]
    finish: Callable[[State], Ints]
