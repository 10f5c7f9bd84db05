"""Planted outliers: records under a wrong label that one model learned by heart and another never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fl_engine.attacks import Candidates
from fl_engine.models import get_model, initial_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile

FEATURES, CLASSES, SEEDS = 12, 3, 4
MODEL = get_model("mlp")


def records(seed: int, count: int, name: str, wrong: bool = False, each: int = 1) -> Candidates:
    """`count` records of three clusters, `each` a patient; `wrong` gives every one the label of another cluster."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    centres = np.random.default_rng(0).normal(0, 1.5, (CLASSES, FEATURES))
    x = (centres[y] + rng.normal(0, 1, (count, FEATURES))).astype(np.float32)
    labels = (y + 1) % CLASSES if wrong else y
    return Candidates(x, labels.astype(np.int64), tuple(f"{name}-{i // each}" for i in range(count)))


@dataclass(frozen=True)
class Planted:
    """Models [P] of `SEEDS` orders of batches: `learned` with the outliers, `never` without them."""

    network: ProbedNetwork
    initial: np.ndarray
    outliers: Candidates
    controls: Candidates
    retained: Candidates
    population: Candidates
    learned: list[np.ndarray]
    never: list[np.ndarray]


def train(network: ProbedNetwork, start: np.ndarray, on: Candidates, seed: int, epochs: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    network.set_weights(start)
    for _ in range(epochs):
        order = rng.permutation(len(on))
        network.train_epoch(on.x, on.y, np.array_split(order, max(1, len(order) // 32)), 0.2)
    return network.weights()


@pytest.fixture(scope="session")
def planted() -> Planted:
    pin_profile()
    network = ProbedNetwork(MODEL, (FEATURES,), CLASSES)
    initial = dequantise(initial_model(MODEL.layout((FEATURES,), CLASSES), Grid()), Grid())
    outliers, controls = (records(s, 60, n, wrong=True) for s, n in ((1, "outlier"), (2, "control")))
    retained, population = (records(s, 100, n) for s, n in ((3, "retained"), (4, "population")))
    both = retained.and_then(outliers)
    learned = [train(network, initial, both, seed, 60) for seed in range(SEEDS)]
    never = [train(network, initial, retained, seed + 100, 60) for seed in range(SEEDS)]
    return Planted(network, initial, outliers, controls, retained, population, learned, never)
