"""What an attack is: a value that says of every candidate record how much the attacker's models remember it.

Scores are compared, never read: a higher one means *more like a record that was learned*. What they are worth is
decided in `inference`, between the records in question and controls that were never used, and against a reference.

An attack declares what it needs the attacker to hold, so an audit can say which attacks it could not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import PolicyError, ShapeMismatch

Floats: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = NDArray[np.floating[Any]]
"""A model as floats, [P]."""


class Holding(Enum):
    """What an attacker must hold."""

    PAIR = "the models of before and after"
    NEVER = "models that never had the records"
    UNLEARNED = "models that had the records and unlearned them by the same method"
    POPULATION = "other records like them"
    GRADIENTS = "a model with gradients, which a ridge head is not"


class Network(Protocol):
    """The network that models are set in; `fl_engine.training.probe.ProbedNetwork` is one."""

    @property
    def by_steps(self) -> bool:
        """Whether its weights are found by steps along a gradient."""

    def set_weights(self, vector: NDArray[np.float32]) -> None:
        """Set all weights from float32 [P]."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [n, classes]."""

    def example_gradients(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> NDArray[np.float32]:
        """Each record's own gradient, float32 [n, P]."""

    def invert(self, change: Floats, label: int, steps: int, start: NDArray[np.float32]) -> NDArray[np.float32]:
        """The record whose gradient points most nearly along `change` [P], from `start` [1, ...]."""


@dataclass(frozen=True)
class Candidates:
    """Records that an attacker asks about: x float32 [n, ...], y int64 [n], and a patient's name or number each."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    patients: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.y.shape != (len(self.x),) or len(self.patients) != len(self.x):
            raise ShapeMismatch("rows of the candidates", len(self.x), (self.y.shape, len(self.patients)))
        if len(self.x) == 0:
            raise PolicyError("no candidates to ask about")

    def __len__(self) -> int:
        return len(self.y)

    def and_then(self, other: Candidates) -> Candidates:
        """These, then those."""
        x, y = np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y])
        return Candidates(x, y, self.patients + other.patients)


@dataclass(frozen=True)
class View:
    """Two models that differ by what the records did, all float [P].

    `parent`: where both came from; `with_record`, `without`; `change`: the difference the records made, in the
    direction of descent. `is_pair` is false where nothing of before is left, and the view is the new model against its
    own parent.
    """

    parent: Weights
    with_record: Weights
    without: Weights
    change: Weights
    is_pair: bool = True

    @classmethod
    def of_models(cls, before: Weights, after: Weights) -> View:
        """The view of somebody who has the last model of before and the one of after, and no common parent."""
        return cls(after, before, after, before.astype(np.float64) - after.astype(np.float64))


@dataclass(frozen=True)
class Evidence:
    """What an attacker holds. `after` is the model under audit; everything else may be absent.

    `never`, `unlearned`: models [P] of other seeds; `shadows`: views of other seeds to learn a pair attack
    from, for the same candidates; `population`: records of the same kind that are no candidates.
    """

    network: Network
    after: Weights
    view: View | None = None
    never: Sequence[Weights] = ()
    unlearned: Sequence[Weights] = ()
    shadows: Sequence[View] = ()
    population: Candidates | None = None
    reconstruction_steps: int = 100

    def holds(self, what: Holding) -> bool:
        """Whether there is any of that."""
        return {
            Holding.PAIR: self.view is not None and self.view.is_pair,
            Holding.NEVER: len(self.never) > 0,
            Holding.UNLEARNED: len(self.unlearned) > 1 and len(self.never) > 1,
            Holding.POPULATION: self.population is not None,
            Holding.GRADIENTS: self.network.by_steps,
        }[what]

    def logits(self, weights: Weights, candidates: Candidates) -> Floats:
        """What the network says with these weights, float64 [n, classes]."""
        self.network.set_weights(np.asarray(weights, dtype=np.float32))
        return self.network.predict(candidates.x).astype(np.float64)


@dataclass(frozen=True)
class Attack:
    """An attack: `score(evidence, candidates)` -> float64 [n]. `source` names the paper.

    Most attacks compare records (forgotten against controls, under one model). One that `compares_models` asks of the
    forgotten records alone whether the model is one that unlearned them or one that never had them; its shadows know
    who was forgotten, so controls would be told from them by that and not by the model.
    """

    name: str
    source: str
    needs: frozenset[Holding]
    score: Callable[[Evidence, Candidates], Floats]
    compares_models: bool = False

    def is_possible(self, evidence: Evidence) -> bool:
        """Whether the attacker holds what it needs."""
        return all(evidence.holds(what) for what in self.needs)


def losses(logits: Floats, y: NDArray[np.int64]) -> Floats:
    """Cross-entropy of each record, float64 [n]."""
    top = logits.max(axis=1)
    total: Floats = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(len(y)), y]
    return total


def probabilities(logits: Floats) -> Floats:
    """Softmax, float64 [n, classes]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)


def confidence(logits: Floats, y: NDArray[np.int64]) -> Floats:
    """log(p / (1 - p)) of the label's probability, float64 [n]: near normal for one record over models (LiRA)."""
    others = logits.copy()
    others[np.arange(len(y)), y] = -np.inf
    top = others.max(axis=1)
    return np.asarray(
        logits[np.arange(len(y)), y] - top - np.log(np.exp(others - top[:, None]).sum(axis=1)), np.float64
    )
