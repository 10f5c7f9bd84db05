"""What an erasure would take before anybody asks for it: every unlearning method, its cost here, and why it may not be.

What may live here: which rounds used a consent as far as the sets here tell, what of the old line this home still
holds, and rows from them. Nothing is written and nothing is said. What this file does not know: who asks, how a plan is
voted (`node/erasing/plans.py`), what a method does (`fl_engine/unlearning`), which ones members carry out
(`node/methods.py`).

`gather` reads the state of a node; `rows` takes the engine's estimate, which runs every program on zeros, and touches
no state: it may run beside the node's work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from crypto.digest import Digest
from crypto.errors import CryptoError
from fl_engine.errors import EngineError
from fl_engine.params import ParamSpec
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning import UNLEARNERS, Agreed, Case, Checkpoint, Claim, Need, Past, Unlearner
from fl_engine.unlearning.execution import Cost, estimate
from node import methods, proof
from node.erasure import DUE_S, OVER, State, first_trace, line_of, replaced, replays, roster_of, state_of
from node.errors import NodeError
from node.history import ErasureHistory, RoundHistory
from node.membership import bitmap_of, members_of
from node.messages import CommitNotice, TombstoneNotice
from node.participant import Participant
from node.training import Arithmetic, hyperparameters_of


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose erasure is meant in one study: a hospital's consents. Without `keys` nothing is known of their use.

    `batch` is the erasure they are in, `received_at` when the first of them was asked for; None while nobody asked.
    `uses` is what was read before, round id -> whether the set held one of them: these sets may be gone. `method` is
    the one chosen here for the batch, where it is ours; "": none was.
    """

    study: Digest
    hospital: int
    consents: frozenset[Digest]
    keys: frozenset[Digest]
    batch: Digest | None = None
    received_at: int | None = None
    uses: Mapping[Digest, bool] = field(default_factory=dict)
    method: str = ""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A subject in the light of what this home holds. Rounds are agreed ones of the line that trains, in their order.

    `used` are those whose set held a record, `unread` those whose set cannot be opened here; `first` is where in
    `rounds` a replay begins, None where nothing is to be replayed, and `replaced` how many models it is to replace:
    more than those rounds, where a method of fewer rounds made them. `updates` has, for every replayed round, what is
    not here of the other members' updates: "" (nothing lacks), "purged" or "not here".
    """

    subject: Subject
    arithmetic: Arithmetic
    erasure: ErasureHistory | None
    state: State | None
    rounds: tuple[RoundHistory, ...]
    used: tuple[int, ...]
    unread: tuple[int, ...]
    first: int | None
    replaced: int
    base: Digest
    base_here: bool
    updates: tuple[str, ...]
    members: tuple[int, ...]
    leaving: bool
    busy: int
    window_s: int


def holds(
    node: Participant, one: RoundHistory, member: int, consents: frozenset[Digest], keys: frozenset[Digest]
) -> bool | None:
    """Whether a member's set of a round holds one of these consents; None where the set cannot be opened here."""
    notice = proof.standing(node, one, member)
    if notice is None:
        return None
    try:
        plain = node.open_set(notice)
    except (NodeError, CryptoError):
        return None
    return any(entry.consent_id in consents or entry.leaf_key in keys for entry in plain.entries)


def gather(node: Participant, subject: Subject) -> Prospect:
    """What this home knows for a plan; `NotFound` while the study's specification is not here."""
    history, store = node.history, node.store
    erasure = None if subject.batch is None else history.erasures.get(subject.batch)
    study = history.studies[subject.study]
    branch = study.active_branch if erasure is None else line_of(history, erasure)
    plan = None if erasure is None else erasure.plan
    rounds = [
        one
        for one in history.path(subject.study, branch)
        if one.made_model and (plan is None or one.opened.height <= plan.target_height)
    ]
    used, unread = [], []
    for one in rounds:
        if not one.final or not one.final.result.included >> subject.hospital & 1:
            continue
        found = subject.uses.get(one.opened.round_id)
        if found is None and subject.keys:
            found = holds(node, one, subject.hospital, subject.consents, subject.keys)
        if found is None:
            unread.append(one.opened.height)
        elif found:
            used.append(one.opened.height)
    until = rounds[-1].opened.height if rounds else 0
    start = first_trace(history, subject.study, branch, until, subject.hospital, used)
    if plan is not None:  # the members have decided: their word, not ours
        start = plan.base_height + 1 if replays(plan) else None
    first = None if start is None else next(i for i, one in enumerate(rounds) if one.opened.height >= start)
    base, parent, height = study.created.terms.initial_model, 0, 0
    if first:
        before = rounds[first - 1].final
        assert before is not None
        base, parent, height = before.result.model_root, before.branch, before.height
    joined = bitmap_of(study.joined - study.left) & history.registry.active
    terms = study.created.terms
    return Prospect(
        subject,
        node.study(subject.study),
        erasure,
        None if erasure is None else state_of(erasure, history),
        tuple(rounds),
        tuple(used),
        tuple(unread),
        first,
        0 if first is None else replaced(history, subject.study, branch, rounds[-1].opened.height, parent, height),
        base,
        store.has(base),
        () if first is None else tuple(_lacking(node, one, subject.hospital) for one in rounds[first:]),
        tuple(members_of(roster_of(history, subject.study) | 1 << subject.hospital)),
        not joined >> subject.hospital & 1,
        sum(
            one.opened.study == subject.study and one is not erasure and state_of(one, history) not in OVER
            for one in history.erasures.values()
            if not one.moved
        ),
        terms.erasure_window,
    )


def _lacking(node: Participant, one: RoundHistory, hospital: int) -> str:
    """What is not here of the updates that the other members put into a round."""
    assert one.final is not None
    worst = ""
    for member in members_of(one.final.result.included & ~(1 << hospital)):
        notice = proof.standing(node, one, member)
        if notice is not None and node.store.has(notice.update.cipher_root):
            continue
        if notice is not None and _is_purged(node, notice):
            return "purged"
        worst = "not here"
    return worst


def _is_purged(node: Participant, notice: CommitNotice) -> bool:
    stones = node.store.notices(notice.update.cipher_root, "TombstoneNotice")
    return any(isinstance(one, TombstoneNotice) for one in stones)


def rows(found: Prospect, now: int) -> dict[str, Any]:
    """The study of a prospect with a row a method, in the order of the engine's list.

    Args:
        found: what `gather` found.
        now: chain time (unix seconds), from which everything is counted.
    """
    subject, erasure = found.subject, found.erasure
    received = now if subject.received_at is None else subject.received_at
    due_at = received + DUE_S if erasure is None else erasure.due_at
    opened_at = now if erasure is None else erasure.opened.opened_at
    begins = max(now, opened_at + found.window_s)
    measured = [one.ended_at - one.opened.opened_at for one in found.rounds if one.ended_at is not None]
    round_s = float(median(measured)) if measured else None
    replayed = [] if found.first is None else [one.opened.height for one in found.rounds[found.first :]]
    listed = [] if found.first is None else [_row(one, found, round_s) for one in UNLEARNERS.values()]
    for row in listed:
        done_by = None if row["seconds"] is None else round(begins + row["seconds"])
        row |= {"done_by": done_by, "fits": None if done_by is None else done_by <= due_at}
    return {
        "study": subject.study.hex(),
        "name": found.arithmetic.study.name,
        "hospital": subject.hospital,
        "erasure": None if subject.batch is None else subject.batch.hex(),
        "state": None if found.state is None else found.state.value,
        "used_in": list(found.used),
        "unread": list(found.unread),
        "first_use": min(found.used, default=None),
        "replayed": replayed,
        "base_model": found.base.hex(),
        "members": len(found.members) - found.leaving,
        "model_bytes": found.arithmetic.model_length(),
        "round_seconds": round_s,
        "rounds_measured": len(measured),
        "due_at": due_at,
        "window_ends_at": opened_at + found.window_s,
        "other_erasures": found.busy,
        "chosen": next((row["method"] for row in listed if row["chosen"]), None),
        "methods": listed,
    }


def _row(unlearner: Unlearner, found: Prospect, round_s: float | None) -> dict[str, Any]:
    assert found.first is not None
    reasons, cost = _reasons(unlearner, found), None
    try:
        cost = cost_of(
            unlearner,
            found.arithmetic,
            members=found.members,
            hospital=found.subject.hospital,
            leaving=found.leaving,
            first=found.first + 1,
            target=found.first + found.replaced,
        )
    except EngineError as error:
        reasons.append(str(error))
    # A round of another kind of work than the study's own training was never measured here.
    seconds = None if cost is None or round_s is None or unlearner.works else cost.rounds * round_s
    erasure = found.erasure
    plan = None if erasure is None else erasure.plan
    planned = plan is not None
    decided = found.state in OVER or planned
    possible = not reasons and not decided
    study = found.arithmetic.study
    chosen = (found.subject.method or methods.default_of(study).name) if plan is None else methods.name_of(plan.method)
    if decided and unlearner.name == chosen:
        assert erasure is not None
        reasons = [_verdict(erasure)]
    elif decided and not reasons:
        reasons = ["the erasure is decided, and not by this method"]
    return {
        "method": unlearner.name,
        "exact": unlearner.exact,
        "source": unlearner.source,
        "levels": [claim.value for claim in Claim if claim in unlearner.claims],
        "rounds": None if cost is None else cost.rounds,
        "member_rounds": None if cost is None else cost.member_rounds,
        "seconds": seconds,
        "bytes_a_member": None if cost is None else cost.update_bytes,
        "possible": possible,
        "why_not": None if possible else "; ".join(reasons),
        "chosen": unlearner.name == chosen and (possible or planned),
    }


def _verdict(erasure: ErasureHistory) -> str:
    if erasure.plan is None:
        return "the erasure is over and nothing was planned"
    return "it was carried out" if erasure.moved else "the members have voted for it already"


def _reasons(unlearner: Unlearner, found: Prospect) -> list[str]:
    """Why this study cannot be carried out an erasure in by this method; whatever holds, each as a clause."""
    assert found.first is not None
    needs, replayed = unlearner.needs, found.rounds[found.first :]
    why = methods.barred(unlearner, found.arithmetic.study)
    reasons = [] if why is None else [why]
    if Need.CHECKPOINT in needs and not found.base_here:
        height = found.rounds[found.first - 1].opened.height if found.first else 0
        reasons.append(f"needs the model of round {height}, which is not here")
    wanted: Sequence[int] = (len(replayed) - 1,) if Need.LAST_UPDATES in needs else ()
    for kind in ("purged", "not here"):
        heights = [str(replayed[i].opened.height) for i in wanted if found.updates[i] == kind]
        if heights:
            reasons.append(f"needs stored updates of rounds {', '.join(heights)}: {kind}")
    return reasons


def cost_of(
    unlearner: Unlearner,
    arithmetic: Arithmetic,
    *,
    members: tuple[int, ...],
    hospital: int,
    leaving: bool,
    first: int,
    target: int,
) -> Cost:
    """The engine's estimate for a study, with heights counted without those that failed: these made no model.

    A cost depends on no value and, but for the bytes, not on how long the models are: so the programs run on the last
    two tensors alone, of which heads are made, and the bytes are those of the whole model. Raises `EngineError` where
    there are too few rounds or members for the method, or the model is none that it can take.
    """
    study = arithmetic.study
    shards = arithmetic.shards.count
    head = ParamSpec(arithmetic.shards.network.tensors[-2:])
    nothing = np.zeros(head.size, np.int32)
    update = LocalUpdate(nothing, 1, 0.0)
    # The study's own shards, which never merge; elsewhere the engine's defaults.
    parameters = {"shards": shards, "merged": 0} if Need.SHARDS in unlearner.needs and shards > 1 else {}
    groups = range(1 + int(unlearner.parameters(parameters).get("shards", 0)))
    agreed = Agreed(
        head,
        arithmetic.grid,
        "mean",
        study["training", "method"],
        hyperparameters_of(study),
        nothing,
        bytes(32),
        erasable=study["policy", "erasable"],
    )
    past = Past(
        {(height, group): Checkpoint(nothing, 1) for height in range(target + 1) for group in groups},
        {height: dict.fromkeys(members, update) for height in range(1, target + 1)},
        {height: dict.fromkeys(members, 1) for height in range(1, target + 1)},
    )
    forgetting, gone = frozenset({hospital}), frozenset({hospital} if leaving else ())
    case = Case(agreed, members, forgetting, gone, first, target, past, parameters)
    cost = estimate(unlearner, case, dict.fromkeys(members, 1))
    # Whoever does not train in a replay in shards still sends an update in each of its rounds.
    updates = cost.rounds * len(case.remaining) if parameters else cost.member_rounds
    return replace(cost, update_bytes=4 * arithmetic.size * updates)
