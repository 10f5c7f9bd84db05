"""`gradient-cosine`: how well a record's own step explains what changed between two models.

Salem, Bhattacharya, Backes, Fritz, Zhang, *Updates-Leak*, USENIX Security 2020: the difference of two models is close
to the gradients of what one of them saw and the other did not. The score is the cosine between the record's descent
direction at the common parent and the change.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding, View


def cosines(evidence: Evidence, view: View, candidates: Candidates) -> Floats:
    """Cosine of each record's descent direction with the change, float64 [n]; also of a view that is no pair."""
    evidence.network.set_weights(np.asarray(view.parent, dtype=np.float32))
    gradients = evidence.network.example_gradients(candidates.x, candidates.y).astype(np.float64)
    change = np.asarray(view.change, dtype=np.float64)
    norms = np.linalg.norm(gradients, axis=1) * np.linalg.norm(change)
    return np.asarray(-(gradients @ change) / np.maximum(norms, 1e-30), dtype=np.float64)


def _score(evidence: Evidence, candidates: Candidates) -> Floats:
    assert evidence.view is not None
    return cosines(evidence, evidence.view, candidates)


GRADIENT_COSINE: Final = Attack(
    "gradient-cosine", "in the manner of Salem et al., USENIX Security 2020", frozenset({Holding.PAIR}), _score
)
