"""Markers: records under a wrong label that a hospital plants on purpose, to see later that they are gone.

In the manner of Gao et al., *VeriFi: Towards Verifiable Federated Unlearning*, 2022 (relabelled samples). A model
learns a wrong label only by memory, so a marker tells remembering from generalising better than a patient's record
does. Half of the markers are planted and half are kept in a drawer: the second half are the controls, of the same kind
and never used.

Only where the study allows: a marker is a mistake that one teaches a diagnostic model, and it leaves with the erasure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_engine.attacks.attack import Candidates, Evidence, losses
from fl_engine.attacks.inference import Area, area
from fl_engine.errors import PolicyError
from fl_engine.rng import Stream


@dataclass(frozen=True)
class Markers:
    """`planted` go into training as patients of their own; `spare` never do."""

    planted: Candidates
    spare: Candidates


def make(x: NDArray[np.float32], y: NDArray[np.int64], classes: int, secret: bytes) -> Markers:
    """Markers from records that may be used for it, x [2n, ...], y [2n]: another label each, half of them spare.

    `secret`: 32 bytes; who knows them knows which records are markers.
    """
    if len(y) < 2:
        raise PolicyError("markers need at least two records: one to plant and one to keep")
    stream = Stream(secret, "markers")
    wrong = (y + stream.integers(1, classes, len(y))) % classes
    order = stream.permutation(len(y))
    halves = order[: len(y) // 2], order[len(y) // 2 :]
    planted, spare = (Candidates(x[at], wrong[at], tuple(f"marker-{i}" for i in at)) for at in halves)
    return Markers(planted, spare)


def remembered(evidence: Evidence, markers: Markers) -> Area:
    """How well the loss of the model under audit tells planted markers from spare ones; 0.5 is not at all."""
    asked = markers.planted.and_then(markers.spare)
    scores = -losses(evidence.logits(evidence.after, asked), asked.y)
    return area(scores, np.arange(len(asked)) < len(markers.planted), asked.patients)
