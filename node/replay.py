"""L3, the local replay: which rounds it is about, what a report of one holds, and which report earns the claim.

What may live here: `koinon.local-replay/1` and its check against the chain. What this file does not know: training
(`node/executor.py` writes reports) and signatures (`node/attestation.py`).

What a report shows: that the hospital's updates of the replay are the declared training on the declared records. What
it does not: that the records are genuine, what other members trained on, private copies. The check compares it with
what the chain has of each round; that the executor trained at all is the auditor's word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from crypto.digest import Digest
from fl_engine.unlearning import Claim
from node import document, methods
from node.document import Fields
from node.erasure import checkpoint_of, replays
from node.errors import NotFound, Refused, VerificationFailed
from node.history import ErasureHistory, History, RoundHistory
from node.participant import beacon_of
from node.study import Study
from node.training import Arithmetic

SCHEMA: Final = "koinon.local-replay/1"
MAX_REPORT_BYTES: Final = 8 << 20
_ROOTS: Final = ("parent_model", "dataset_root", "update_root", "beacon")
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
        raise Refused(f"{where} replayed nothing: no model of the line that serves was made with these consents")
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
    return _why_not(differing, left_out)


def _why_not(differing: list[int], left_out: int) -> str:
    if any(differing):
        return f"{sum(map(bool, differing))} of {len(differing)} repeated rounds gave other integers"
    if left_out:
        return f"{left_out} rounds could not be repeated"
    return "" if differing else "the hospital is in no round of the replay"


@dataclass(frozen=True, slots=True)
class Repeated:
    """A repeated round, as a report has it; `differing`: how many integers were others."""

    round_id: Digest
    height: int
    parent_model: Digest
    dataset_root: Digest
    update_root: Digest
    beacon: Digest
    differing: int


def read_report(
    data: bytes, *, network: str, study: Digest, hospital: tuple[int, str], erasure: Digest, branch: int, method: str
) -> tuple[Repeated, ...]:
    """The rounds of a report about this erasure that claims L3 and is at one with itself; nobody's word is added to it.

    Args:
        data: the report.
        network: fingerprint.
        study: its id.
        hospital: member index and name.
        erasure: its batch.
        branch: the replay's.
        method: by name.

    Raises:
        VerificationFailed: it is about something else, or does not earn L3 by what it says.
    """
    top = Fields("report", document.read(data, SCHEMA, MAX_REPORT_BYTES))
    for name, expected in (
        ("schema", SCHEMA),
        ("notice", NOTICE),
        ("network", network),
        ("study", study.hex()),
        ("hospital", {"index": hospital[0], "name": hospital[1]}),
        ("erasure", erasure.hex()),
        ("branch", branch),
        ("method", method),
        ("left_out", []),
        ("why_not", ""),
    ):
        got: Any = top.take(name, type(expected))
        if got != expected:
            top.fault(f"field {name} = {got!r:.80}, {expected!r:.80} expected")
    top.take("profile", dict)
    parameters = top.uint("parameters", 32)

    def row(entry: Fields) -> Repeated:
        if entry.has("announced"):
            entry.take("announced", bool)
        for name in ("output", "profile"):
            entry.digest(name)
        entry.uint("records", 53)
        roots = {name: entry.digest(name) for name in _ROOTS}
        return Repeated(
            **roots,
            round_id=entry.digest("round"),
            height=entry.uint("height", 32),
            differing=entry.uint("differing", 32),
        )

    rounds = tuple(top.each("rounds", row))
    top.done()
    if any(one.differing > parameters for one in rounds):
        top.fault("more integers differ than there are")
    if (why := _why_not([one.differing for one in rounds], 0)) != "":
        top.fault(f"it does not earn L3: {why}")
    return rounds


def check_report(
    data: bytes,
    history: History,
    erasure: ErasureHistory,
    arithmetic: Arithmetic,
    network: str,
    content: Callable[[Digest], bytes],
) -> None:
    """Check a report against the chain: that it is about exactly these rounds, and that it earns L3. Trains nothing.

    `content` gives a model by its name; it is asked in a study in shards, whose beacons are of one shard's network.

    Raises:
        VerificationFailed: it is not, or does not.
        NotFound, Refused: as `rounds_of`; or a model that is needed is not here.
    """
    opened, plan = erasure.opened, erasure.plan
    rounds = rounds_of(history, erasure)
    assert plan is not None
    found = read_report(
        data,
        network=network,
        study=opened.study,
        hospital=(opened.controller, history.registry.members[opened.controller].name),
        erasure=opened.batch,
        branch=plan.branch,
        method=methods.name_of(plan.method),
    )
    if len(found) != len(rounds):
        raise VerificationFailed(f"report: {len(found)} rounds, {len(rounds)} of the replay include the hospital")
    seed = history.studies[opened.study].branches[plan.branch].seed
    for got, one in zip(found, rounds, strict=True):
        commit = one.commits[opened.controller]
        expected = Repeated(
            one.opened.round_id,
            one.opened.height,
            one.opened.parent_model,
            commit.dataset_root,
            commit.update_root,
            Digest(beacon_of(history, arithmetic, one, seed, opened.controller, content)),
            0,
        )
        for field in fields(Repeated):
            if (told := getattr(got, field.name)) != (there := getattr(expected, field.name)):
                raise VerificationFailed(
                    f"report: round of height {got.height}: {field.name} = {told}, the chain has {there}"
                )
    if (why := why_no_claim(arithmetic.study, [one.differing for one in found], 0)) != "":
        raise VerificationFailed(f"report: it does not earn L3: {why}")
