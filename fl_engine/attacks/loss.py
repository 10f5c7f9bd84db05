"""`loss` on one model and `loss-difference` on a pair: the simplest signs that a record was learned.

`loss`: minus the record's loss under the new model (Yeom, Giacomelli, Fredrikson, Jha, CSF 2018).
`loss-difference`: how much worse the record fares without itself, loss(without) - loss(with); what an unlearning that
works leaves to anybody who kept the old model.
"""

from __future__ import annotations

from typing import Final

from fl_engine.attacks.attack import Attack, Candidates, Evidence, Floats, Holding, View, losses


def differences(evidence: Evidence, view: View, candidates: Candidates) -> Floats:
    """loss(without) - loss(with), float64 [n]; also of a view that is no pair."""
    without, with_record = (evidence.logits(one, candidates) for one in (view.without, view.with_record))
    return losses(without, candidates.y) - losses(with_record, candidates.y)


def _loss(evidence: Evidence, candidates: Candidates) -> Floats:
    return -losses(evidence.logits(evidence.after, candidates), candidates.y)


def _difference(evidence: Evidence, candidates: Candidates) -> Floats:
    assert evidence.view is not None
    return differences(evidence, evidence.view, candidates)


LOSS: Final = Attack("loss", "Yeom et al., CSF 2018", frozenset(), _loss)
LOSS_DIFFERENCE: Final = Attack(
    "loss-difference", "difference of losses before and after", frozenset({Holding.PAIR}), _difference
)
