"""`reconstruction`: rebuild a deleted record from the difference of two models, and see whom it resembles.

Bertran, Tang, Kearns, Morgenstern, Roth, Wu, *Reconstruction Attacks on Machine Unlearning: Simple Models are
Vulnerable*, NeurIPS 2024. For networks the change stands for the record's gradient, and the record is found by
inverting it (once a label); the score is the correlation of a candidate with the reconstruction for its label. For a
linear head the second moments of the features are all that is needed: `from_heads`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding

_LEAST: Final = 1e-12


def rebuild(evidence: Evidence, candidates: Candidates) -> dict[int, NDArray[np.float32]]:
    """A record [1, ...] for every label that a candidate has, from a grey start."""
    assert evidence.view is not None
    evidence.network.set_weights(np.asarray(evidence.view.parent, dtype=np.float32))
    # The change is a descent; the record's gradient points the other way.
    against = -np.asarray(evidence.view.change, dtype=np.float64)
    start = np.zeros((1, *candidates.x.shape[1:]), dtype=np.float32)
    return {
        int(label): evidence.network.invert(against, int(label), evidence.reconstruction_steps, start)
        for label in np.unique(candidates.y)
    }


def _score(evidence: Evidence, candidates: Candidates) -> Floats:
    rebuilt = rebuild(evidence, candidates)
    return np.array([correlation(x, rebuilt[int(y)][0]) for x, y in zip(candidates.x, candidates.y, strict=True)])


def correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Pearson correlation of two records' numbers; 0 where one of them is constant."""
    a, b = (one.astype(np.float64).reshape(-1) - float(one.mean()) for one in (first, second))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > _LEAST else 0.0


def from_heads(gram: NDArray[np.int64], before: Floats, after: Floats) -> Floats:
    """The direction of the deleted record's features, float64 [D], from two linear heads [D, C] and their second
    moments.

    The normal equations give z = (G_after)(W_before - W_after) / residual: up to its length, one column a class; the
    longest is taken.
    """
    columns = gram.astype(np.float64) @ (before - after)
    longest = columns[:, int(np.argmax(np.linalg.norm(columns, axis=0)))]
    return np.asarray(longest / max(float(np.linalg.norm(longest)), _LEAST), dtype=np.float64)


RECONSTRUCTION: Final = Attack(
    "reconstruction",
    "in the manner of Bertran et al., NeurIPS 2024",
    frozenset({Holding.PAIR, Holding.GRADIENTS}),
    _score,
)
