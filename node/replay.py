"""L3, the local replay: which rounds it is about, what a report of one holds, and which report earns the claim.

What may live here: `koinon.local-replay/1` and its check against the chain. What this file does not know: training
(`node/executor.py` writes reports) and signatures (`node/attestation.py`).

What a report shows: that the hospital's updates of the replay are the declared training on the declared records. What
it does not: that the records are genuine, what other members trained on, private copies. The check compares it with
what the chain has of each round; that the executor trained at all is the auditor's word.
"""

from __future__ import annotations

from typing import Any, Final

from fl_engine.unlearning import Claim
from node import document, methods
from node.document import Fields
from node.erasure import checkpoint_of, replays
from node.errors import NotFound, Refused
from node.history import ErasureHistory, History, RoundHistory
from node.participant import beacon_of
from node.study import Study

SCHEMA: Final = "koinon.local-replay/1"
MAX_REPORT_BYTES: Final = 8 << 20
NOTICE: Final = (
    "Repeating a training shows which records it used, as far as they were declared; it is no proof that a model has "
    "forgotten a person."
)


def rounds_of(history: History, erasure: ErasureHistory) -> list[RoundHistory]:
    """The rounds of an erasure's replay whose sum holds the hospital's update.

    Raises:
        Refused: there is nothing of which an L3 could speak.
        NotFound: the replay has not caught up yet.
    """
    plan = erasure.plan
    where = f"erasure {erasure.opened.batch.hex()[:12]}"
    if plan is None:
        raise NotFound(f"{where} has no plan yet")
    if not replays(plan):
        raise Refused(f"{where} replayed nothing: the consents were in no included set")
    method = methods.numbered(plan.method)
    if method is None or Claim.L3 not in method.claims:
        raise Refused(f"{where} was by {methods.name_of(plan.method)}: no such method can ever show L3")
    checkpoint = checkpoint_of(history, plan)
    if checkpoint is None:
        raise NotFound(f"{where}: the replay has not caught up yet")
    member = erasure.opened.controller
    return [one for one in checkpoint.rounds if one.final is not None and one.final.result.included >> member & 1]


def why_no_claim(study: Study, differing: list[int], left_out: int) -> str:
    """Why L3 may not be claimed of these repeated rounds (by how many integers each differs); empty where it may."""
    if not study["policy", "sets_ahead"]:
        return "the study does not commit its sets a round ahead (policy.sets_ahead)"
    if any(differing):
        return f"{sum(map(bool, differing))} of {len(differing)} repeated rounds gave other integers"
    if left_out:
        return f"{left_out} rounds could not be repeated"
    return "" if differing else "the hospital is in no round of the replay"


def check_report(data: bytes, history: History, erasure: ErasureHistory, study: Study, network: str) -> None:
    """Check a report against the chain: that it is about exactly these rounds, and that it earns L3. Trains nothing.

    Raises:
        VerificationFailed: it is not, or does not.
        NotFound, Refused: as `rounds_of`.
    """
    opened, plan = erasure.opened, erasure.plan
    rounds = rounds_of(history, erasure)
    assert plan is not None
    top = Fields("report", document.read(data, SCHEMA, MAX_REPORT_BYTES))
    hospital = {"index": opened.controller, "name": history.registry.members[opened.controller].name}
    for name, expected in (
        ("schema", SCHEMA),
        ("notice", NOTICE),
        ("network", network),
        ("study", opened.study.hex()),
        ("hospital", hospital),
        ("erasure", opened.batch.hex()),
        ("branch", plan.branch),
        ("method", methods.name_of(plan.method)),
        ("left_out", []),
        ("why_not", ""),
    ):
        got: Any = top.take(name, type(expected))
        if got != expected:
            top.fault(f"field {name} = {got!r:.80}, {expected!r:.80} expected")
    top.take("profile", dict)
    parameters = top.uint("parameters", 32)
    seed = history.studies[opened.study].branches[plan.branch].seed
    places = iter(rounds)

    def row(fields: Fields) -> int:
        one = next(places, None)
        if one is None:
            fields.fault("the replay has fewer rounds that include the hospital")
        commit = one.commits[opened.controller]
        for name, word in (
            ("round", one.opened.round_id),
            ("parent_model", one.opened.parent_model),
            ("dataset_root", commit.dataset_root),
            ("update_root", commit.update_root),
            ("beacon", beacon_of(history, study, one, seed)),
        ):
            if (found := fields.digest(name)) != word:
                fields.fault(f"field {name} = {found.hex()}, the chain has {word.hex()}")
        if fields.uint("height", 32) != one.opened.height:
            fields.fault(f"round {one.opened.round_id.hex()[:12]} is of another height")
        if fields.has("announced"):
            fields.take("announced", bool)
        for name in ("output", "profile"):
            fields.digest(name)
        fields.uint("records", 53)
        return fields.uint("differing", 32)

    differing = top.each("rounds", row)
    top.done()
    if next(places, None) is not None:
        top.fault(f"{len(differing)} rounds of the {len(rounds)} that include the hospital")
    if any(one > parameters for one in differing):
        top.fault("more integers differ than there are")
    if (why := why_no_claim(study, differing, 0)) != "":
        top.fault(f"it does not earn L3: {why}")
