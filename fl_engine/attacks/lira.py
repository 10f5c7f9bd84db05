"""`u-lira`: is this model like those that had the record and unlearned it, or like those that never had it?

Hayes, Shumailov, Triantafillou, Khalifa, Papernot, *Inexact Unlearning Needs More Careful Evaluations to Avoid a False
Sense of Privacy*, SaTML 2025 (arXiv 2403.01218), after Carlini et al., S&P 2022. For every record the logit-scaled
confidence of both kinds of shadow model is taken as normal, with its own mean and one deviation over all records (few
shadows), and

    score = log N(confidence; unlearned) - log N(confidence; never)

An unlearning that leaves nothing makes both distributions the same, and the score noise. The scores of the forgotten
records under the model in question are compared with the same records' under a reference model, not with controls'.
The controls' figure is told beside it: models of two procedures differ on records that neither has seen, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding, confidence

_LEAST: Final = 1e-3
_LONGEST: Final = 30.0  # confidences beyond e^30 : 1 are the end of float32


def _score(evidence: Evidence, candidates: Candidates) -> Floats:
    own = _confidence(evidence, evidence.after, candidates)
    unlearned, never = (
        np.stack([_confidence(evidence, one, candidates) for one in models])
        for models in (evidence.unlearned, evidence.never)
    )
    return _log_density(own, unlearned) - _log_density(own, never)


def _confidence(evidence: Evidence, weights: object, candidates: Candidates) -> Floats:
    logits = evidence.logits(np.asarray(weights), candidates)
    return np.clip(confidence(logits, candidates.y), -_LONGEST, _LONGEST)


def _log_density(own: Floats, shadows: Floats) -> Floats:
    """Log density of `own` [n] under normals with the means of `shadows` [S, n] and their pooled deviation."""
    deviation = max(float(np.sqrt(shadows.var(axis=0, ddof=1).mean())), _LEAST)
    return np.asarray(-(((own - shadows.mean(axis=0)) / deviation) ** 2) / 2 - np.log(deviation), dtype=np.float64)


U_LIRA: Final = Attack(
    "u-lira",
    "Hayes et al., SaTML 2025 (U-LiRA)",
    frozenset({Holding.NEVER, Holding.UNLEARNED}),
    _score,
    compares_models=True,
)
