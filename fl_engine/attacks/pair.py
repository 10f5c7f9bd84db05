"""`pair`: what the posteriors of the models before and after say together about a record.

Chen, Zhang, Wang, Backes, Humbert, Zhang, *When Machine Unlearning Jeopardizes Privacy*, CCS 2021. Features of a
record: the difference of the two posteriors, sorted by the older one, at the record's label, and their distance. With
shadow views (other seeds, where it is known which of the same candidates were forgotten) a logistic regression is
learned from them, on one half of the patients for the other, so that no patient is known by its looks; without, the
score is the difference at the label.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding, View, probabilities
from fl_engine.rng import Stream

_STEPS: Final = 25
_RIDGE: Final = 1.0


def features(evidence: Evidence, view: View, candidates: Candidates) -> Floats:
    """[n, classes + 2]: sorted difference, difference at the label, distance."""
    before, after = (probabilities(evidence.logits(one, candidates)) for one in (view.with_record, view.without))
    order = np.argsort(-before, axis=1)
    apart = before - after
    at_label = apart[np.arange(len(candidates)), candidates.y]
    found = [np.take_along_axis(apart, order, axis=1), at_label[:, None], np.linalg.norm(apart, axis=1)[:, None]]
    return np.concatenate(found, axis=1)


def learned(evidence: Evidence, candidates: Candidates, forgotten: NDArray[np.bool_]) -> Floats:
    """Scores [n] by a classifier learned from the shadow views, where `forgotten` [n] says who was."""
    assert evidence.view is not None
    own = features(evidence, evidence.view, candidates)
    shadows = [features(evidence, one, candidates) for one in evidence.shadows]
    names, person = np.unique(np.array(candidates.patients), return_inverse=True)
    half = (Stream(b"koinon.pair-attack/1", str(len(names))).permutation(len(names)) % 2)[person]
    scores = np.zeros(len(candidates))
    for part in (0, 1):
        train, test = half != part, half == part
        if len(np.unique(forgotten[train])) < 2:
            return own[:, -2]  # everybody who was forgotten is in the other half: nothing to learn from
        x = np.concatenate([one[train] for one in shadows])
        centre, width = x.mean(axis=0), x.std(axis=0) + 1e-9
        weights = _logistic((x - centre) / width, np.tile(forgotten[train], len(shadows)))
        scores[test] = ((own[test] - centre) / width) @ weights[:-1] + weights[-1]
    return scores


def _logistic(x: Floats, y: NDArray[np.bool_]) -> Floats:
    """Weights [d + 1] of a ridge logistic regression by Newton steps, classes weighted to count alike."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weight = np.where(y, 0.5 / max(1, y.sum()), 0.5 / max(1, (~y).sum())) * len(y)
    found = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (weight * (p - y)) + _RIDGE * found
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
        found = found - np.linalg.solve(curvature, slope)
    return np.asarray(found, dtype=np.float64)


def _score(evidence: Evidence, candidates: Candidates) -> Floats:
    assert evidence.view is not None
    return np.asarray(features(evidence, evidence.view, candidates)[:, -2], dtype=np.float64)


PAIR: Final = Attack("pair", "Chen et al., CCS 2021", frozenset({Holding.PAIR}), _score)
