"""`rmia`: is this record likelier under the model than other records are, each measured by models that never had it?

Zarifzadeh, Liu, Shokri, *Low-Cost High-Power Membership Inference Attacks*, ICML 2024. With p(x) the mean probability
of the label over reference models that never had x, moved towards 1 for what a model that had it would say (offline
form),

    p(x) = ((1 + A) p_never(x) + (1 - A)) / 2,     ratio(x) = p(x | model) / p(x)
    score(x) = share of population records z with ratio(x) / ratio(z) >= GAMMA

Strong with one or two reference models.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding, probabilities

A: Final = 0.3
GAMMA: Final = 1.0


def _score(evidence: Evidence, candidates: Candidates) -> Floats:
    assert evidence.population is not None
    ratios, others = (_ratios(evidence, one) for one in (candidates, evidence.population))
    # How far above, too: in a small population many shares are equal, and their order would be lost.
    return np.asarray((ratios[:, None] >= GAMMA * others[None, :]).mean(axis=1) + 1e-6 * np.log(ratios), np.float64)


def _ratios(evidence: Evidence, candidates: Candidates) -> Floats:
    never = np.mean([_of_label(evidence.logits(one, candidates), candidates) for one in evidence.never], axis=0)
    own = _of_label(evidence.logits(evidence.after, candidates), candidates)
    return np.asarray(own / (((1 + A) * never + (1 - A)) / 2), dtype=np.float64)


def _of_label(logits: Floats, candidates: Candidates) -> Floats:
    return np.maximum(probabilities(logits)[np.arange(len(candidates)), candidates.y], 1e-30)


RMIA: Final = Attack(
    "rmia", "Zarifzadeh et al., ICML 2024 (RMIA, offline)", frozenset({Holding.NEVER, Holding.POPULATION}), _score
)
