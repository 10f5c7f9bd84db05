"""The erasure machine: from a request to a closed record, what each node owes and when.

Rules of this file
1. Everything that decides is in the tables below; the functions they name are small and pure: no await, no clock, no
   I/O, no random, no signature. Chain time comes in as a number.
2. The chain says where a batch is. What a node knows beside that (the opening, which sets hold an erased leaf, what is
   still in its home) is looked up anew before every step, so a crash or a lost message costs a repetition and no more.
3. Nothing that needs others delays what the controlling hospital owes: exclusion, deletion of its copy, the due date.

Theory of operation. Before every step the shell (`node/erasing/shell.py`) collects `Facts` from the chain's history and
its own store and hands them to `Erasure.handle`. It walks the RULES table and returns every act whose row holds and
that is not under way; how an act went comes back as `Done` or `Failed`, and it is due again when its row still holds
after a while. Duties that anybody may carry out (posting a plan, opening a replay) are taken in a fixed order, each
member a little after the one before (`in_turn`), so a dead member costs seconds. What several members say at about the
same time (purges, verdicts) is gathered and goes to the chain in one transaction of whoever has its turn; who is
missing is waited for a while (`patience`), then the rest goes alone.

A plan is a pure function of the chain and of one answer for each round: was an erased consent in the hospital's set?
Members that can open the sets compute equal plans; nobody takes another's word. Clause numbers: node/PROTOCOL.md, 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from crypto.digest import Digest, hash_words, keccak256
from fl_engine.unlearning import Claim as Level
from fl_engine.unlearning import Need, Unlearner
from node import methods
from node.history import ErasureHistory, History, RoundHistory
from node.membership import bitmap_of, faults, members_of, quorum
from node.messages import PlanNotice
from node.records import LEVEL_ATTACK_AUDIT, LEVEL_LOCAL_REPLAY, ErasurePlanned, Position
from node.validity import Code

DUE_S: Final = 30 * 86_400
"""The statutory month, from the moment a request was received."""

LONGEST_MONTH_S: Final = 31 * 86_400
"""Furthest ahead of its record that a batch may be due."""

LONGEST_EXTENSION_S: Final = 61 * 86_400
"""Furthest beyond its due date that a batch may be extended: two further months (Art. 12(3) GDPR)."""

CHOICE_S: Final = 60
"""How long members wait for the controlling hospital's vote, which names the method, before they take the default."""

RELAY_S: Final = 60
"""How long a relay waits for the controlling hospital to open a batch before it opens one itself; chain seconds."""

DELIVERY_S: Final = 30 * 86_400
"""After this long without anybody taking the certificate, the link is destroyed all the same."""

STAND_IN_S: Final = 2
"""How much later each next member does what anybody may do."""

GATHER_S: Final = 15
"""How long statements that are here wait for those that are not, before they go to the chain without them."""

AGAIN_S: Final = 5
"""When an act that was carried out is looked at again, should the chain still not show it."""

L3_SENTENCE: Final = (
    "In every round of the replay that includes {hospital}, its training was repeated from its committed data set, "
    "which holds no record of this erasure, and gave the same integers."
)
L3_DOES_NOT_SHOW: Final = (
    "That the records are genuine; what other members trained on; private copies; of a round whose set was not "
    "announced in the round before, that the set was not chosen with its batch order known."
)
L4_SENTENCE: Final = "The model of this erasure was attacked, and what that found is in the report with this hash."
L4_DOES_NOT_SHOW: Final = (
    "What was found, which the report alone says; that a stronger attack would find nothing. Of a single patient no "
    "attack can certify anything."
)
_REFUSED: Final = (
    " That is its word, which the other members do not confirm: they left {hospital} out of rounds {heights} since "
    "then, because a consent in its set had ended."
)
APPROXIMATE_DOES_NOT_SHOW: Final = (
    "That the model is one that training without the records gives, or is near it: an approximate method promises "
    "neither. That local updates were honest; private copies; exported models."
)

PAIR, FINAL = 0, 1
"""Stages of a purge: what a model of the replay could be compared with, which members tell each other before they get
a key of it; and all there is, which they say on the chain.
"""

EXCLUDED, COPY_DELETED, DELIVERED, LINK_DESTROYED, CLOSED = 1, 2, 3, 4, 5
"""The controller's steps."""

GROUNDS: Final[dict[int, str]] = {
    1: "exercise of the right of freedom of expression and information (Art. 17(3)(a) GDPR)",
    2: "a legal obligation, or a task in the public interest (Art. 17(3)(b) GDPR)",
    3: "public interest in the area of public health (Art. 17(3)(c) GDPR)",
    4: "archiving or scientific research that erasure would seriously impair (Art. 17(3)(d) GDPR)",
    5: "establishment, exercise or defence of legal claims (Art. 17(3)(e) GDPR)",
}
"""Legal grounds on which the controlling hospital, and nobody else, may refuse."""


# --------------------------------------------------------------------------------------------------------------------
# Where a batch is


class State(Enum):
    """What is shown of a batch, in the order it goes."""

    REQUESTED = "requested"
    AUTHORISED = "authorised"
    EXCLUDED = "excluded"
    COPY_DELETED = "copy_deleted"
    PLANNED = "planned"
    REPLAYING = "replaying"
    CONFIRMED = "confirmed"
    HEAD_MOVED = "head_moved"
    RECIPIENTS_ATTESTED = "recipients_attested"
    CERTIFICATE_DELIVERED = "certificate_delivered"
    LINK_DESTROYED = "link_destroyed"
    CLOSED = "closed"
    CLOSED_WITH_EXCEPTIONS = "closed_with_exceptions"
    REFUSED = "refused"


def _attested_by_all(erasure: ErasureHistory, history: History) -> bool:
    return all(member in erasure.purges for member in members_of(roster_of(history, erasure.opened.study)))


def is_replaying(history: History, erasure: ErasureHistory) -> bool:
    """Whether its branch trains, or would if there were anything left to train: the line before it has ended."""
    return erasure.plan is not None and replays(erasure.plan) and old_line_is_quiet(history, erasure.plan)


# The first row that holds is the state.
STATES: Final[tuple[tuple[State, Callable[[ErasureHistory, History], bool]], ...]] = (
    (State.REFUSED, lambda e, h: e.refused is not None),
    (State.CLOSED_WITH_EXCEPTIONS, lambda e, h: e.closed is not None and e.closed.exceptions != 0),
    (State.CLOSED, lambda e, h: e.closed is not None),
    (State.LINK_DESTROYED, lambda e, h: LINK_DESTROYED in e.steps),
    (State.CERTIFICATE_DELIVERED, lambda e, h: DELIVERED in e.steps),
    (State.RECIPIENTS_ATTESTED, lambda e, h: e.moved and _attested_by_all(e, h)),
    (State.HEAD_MOVED, lambda e, h: e.moved),
    (State.CONFIRMED, lambda e, h: e.confirmed is not None),
    (State.REPLAYING, lambda e, h: is_replaying(h, e)),
    (State.PLANNED, lambda e, h: e.plan is not None),
    (State.COPY_DELETED, lambda e, h: COPY_DELETED in e.steps),
    (State.EXCLUDED, lambda e, h: EXCLUDED in e.steps),
    (State.AUTHORISED, lambda e, h: "authorised" in e.times),
    (State.REQUESTED, lambda e, h: True),
)
OVER: Final = (State.CLOSED, State.CLOSED_WITH_EXCEPTIONS, State.REFUSED)


def state_of(erasure: ErasureHistory, history: History) -> State:
    """Where a batch is, by the first row of `STATES` that holds."""
    return next(state for state, holds in STATES if holds(erasure, history))


def under_way(history: History) -> list[Digest]:
    """Batches between their plan and their end: they end where their rounds are replayed."""
    return [batch for batch, one in history.erasures.items() if one.plan is not None and not is_over(history, one)]


def is_forgotten(history: History, erasure: ErasureHistory) -> bool:
    """Whether members and auditors keep no opening of it any more: the last rows of `RULES`."""
    state = state_of(erasure, history)
    return state in OVER or (state is State.RECIPIENTS_ATTESTED and is_removed(history, erasure))


def is_overdue(erasure: ErasureHistory, now: int) -> bool:
    """Whether the statutory clock ran out (chain time `now`) before the head moved."""
    return now > erasure.due_at and not erasure.moved and erasure.refused is None


def replays(plan: ErasurePlanned) -> bool:
    """Whether the plan forks; otherwise the consents were in no included set of this line."""
    return plan.target_height != plan.base_height


def roster_of(history: History, study: Digest) -> int:
    """Who votes on, purges for and confirms an erasure now: members of the study that are active."""
    found = history.studies[study]
    return bitmap_of(found.joined - found.left) & history.registry.active


# --------------------------------------------------------------------------------------------------------------------
# The plan


@dataclass(frozen=True, slots=True)
class PlanTerms:
    """What members vote on: the fields of `Plan` without the batch."""

    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    method: int  # `node.methods`
    rounds: int


def terms_of(one: PlanNotice | ErasurePlanned) -> PlanTerms:
    """What a vote is for, or what a plan on the chain is."""
    return PlanTerms(
        one.parent_branch,
        one.base_height,
        one.base_model,
        one.branch_seed,
        one.target_height,
        one.method,
        one.rounds,
    )


def line_of(history: History, erasure: ErasureHistory) -> int:
    """The branch that trained when the batch was planned; the one that trains now while it is not."""
    plan = erasure.plan
    if plan is None:
        return history.studies[erasure.opened.study].active_branch
    # Every fork takes the next number, and the newest branch is the one that trains.
    return plan.branch - 1 if replays(plan) else plan.branch


def is_removed(history: History, erasure: ErasureHistory) -> bool:
    """Whether the hospital is no member any more. A revoked key is not enough: it is replaced."""
    return erasure.opened.controller in history.removed_at


def openers_of(history: History, erasure: ErasureHistory) -> int:
    """Who shows the members which consents a batch is about: its hospital; where that was removed, whoever knows.

    The requests root binds what is shown, so nobody needs to be trusted for it.
    """
    opened = erasure.opened
    return roster_of(history, opened.study) if is_removed(history, erasure) else 1 << opened.controller


def never_closes(history: History, erasure: ErasureHistory) -> bool:
    """Whether nobody can close it: planned without the steps of a hospital that was removed."""
    return erasure.plan is not None and "copy_deleted" not in erasure.times and is_removed(history, erasure)


def is_over(history: History, erasure: ErasureHistory) -> bool:
    """Whether nobody but a hospital that was removed has anything to do about it on the chain."""
    return erasure.closed is not None or (erasure.moved and is_removed(history, erasure))


def out_of_use_at(history: History, erasure: ErasureHistory) -> int | None:
    """From when on (chain time) no round opens that can hold an erased consent; None while there is no such time.

    When the hospital's copy was gone; where it was removed before, when that and all that it said of the batch was.
    """
    if "copy_deleted" in erasure.times:
        return erasure.times["copy_deleted"]
    if not is_removed(history, erasure):
        return None
    times = [erasure.times[state] for state in ("requested", "excluded") if state in erasure.times]
    return max(history.removed_at[erasure.opened.controller], *times)


def may_be_planned(history: History, erasure: ErasureHistory, consents: tuple[Digest, ...], now: int) -> bool:
    """Whether nothing of an erasure is waited for before its plan: the copy is gone; or, of a hospital that was
    removed, its own steps were waited for and all consents ended on the chain.
    """
    at = out_of_use_at(history, erasure)
    if at is None or "copy_deleted" in erasure.times:
        return at is not None
    ended = bool(consents) and exclusion_evidence(history, erasure.opened.study, consents) is not None
    return ended and now > at + RELAY_S


def last_use_of(history: History, erasure: ErasureHistory) -> int | None:
    """The newest agreed height among the rounds that were opened by `out_of_use_at`; None while one of them is running.

    It is the same for everyone, and no later round can hold an erased consent.
    """
    at = out_of_use_at(history, erasure)
    if at is None:
        return None
    branch = history.studies[erasure.opened.study].branches[line_of(history, erasure)]
    rounds = [one for one in history.path(erasure.opened.study, branch.number) if one.opened.opened_at <= at]
    if any(not one.over for one in rounds):
        return None
    return max([branch.base_height, *(one.opened.height for one in rounds if one.final is not None)])


def target_of(history: History, erasure: ErasureHistory) -> int | None:
    """The height a replay must catch up with; None while it is not known.

    It is that of the last use. But a replay that takes something over from what this hospital was in brings it into its
    rounds however late these open: what they made has to go as well.
    """
    last = last_use_of(history, erasure)
    branch = history.studies[erasure.opened.study].branches[line_of(history, erasure)]
    if last is None or branch.parent is None:
        return last
    plan = history.erasures[branch.batch].plan
    assert plan is not None
    if not _takes_over_from(history, plan, erasure.opened.controller):
        return last
    reached = checkpoint_of(history, plan)
    return None if reached is None else max(last, reached.height)


def included_rounds(history: History, study: Digest, branch: int, up_to: int, member: int) -> list[RoundHistory]:
    """Rounds with a model on a branch's line, heights up to `up_to`, whose sum holds this member's update."""
    return [
        one
        for one in history.path(study, branch)
        if one.opened.height <= up_to
        and one.final is not None
        and one.made_model
        and one.final.result.included >> member & 1
    ]


def influenced_from(history: History, study: Digest, branch: int, up_to: int, member: int) -> int | None:
    """From which height on a line's models, up to a height, have something of this member's updates that were deleted.

    By what a replay takes over: lengths (an approximate method) or the networks of other shards. Which records made
    them what they were cannot be known any more, so whoever was in a sum of the lines before counts. None: nothing of
    it is in them.
    """
    found = None
    for one in history.ancestry(study, branch):
        if one.parent is None or one.base_height >= up_to:
            continue
        plan = history.erasures[one.batch].plan
        assert plan is not None
        if _takes_over_from(history, plan, member):
            found = one.base_height + 1
        up_to = one.base_height
    return found


def _takes_over_from(history: History, plan: ErasurePlanned, member: int) -> bool:
    """Whether a plan's replay takes something over from sums that hold a member's updates."""
    before = doomed_rounds(history, plan) if methods.takes_over(plan.method) else ()
    return any(old.final is not None and old.final.result.included >> member & 1 for old in before)


def first_trace(
    history: History, study: Digest, branch: int, up_to: int, member: int, used: Iterable[int]
) -> int | None:
    """The height from which on a line has anything that an erasure is about: a use, or what took over from one."""
    influenced = influenced_from(history, study, branch, up_to, member)
    return min([*used, *([] if influenced is None else [influenced])], default=None)


def questions(history: History, erasure: ErasureHistory) -> list[RoundHistory] | None:
    """The rounds whose sets have to be looked into for a plan; None while not all of them are known."""
    target = last_use_of(history, erasure)
    if target is None:
        return None
    opened = erasure.opened
    return included_rounds(history, opened.study, line_of(history, erasure), target, opened.controller)


def plan_of(
    history: History, erasure: ErasureHistory, uses: Mapping[Digest, bool], method: Unlearner = methods.DEFAULT
) -> PlanTerms | None:
    """The plan that follows from which rounds (by id) used an erased consent; None while an answer is missing.

    `Refused` where members cannot carry the method out.
    """
    opened = erasure.opened
    asked = questions(history, erasure)
    target = target_of(history, erasure)
    if asked is None or target is None or any(one.opened.round_id not in uses for one in asked):
        return None
    number = line_of(history, erasure)
    seed = hash_words("branch", opened.batch, erasure.marks["requested"].block_hash)
    used = [one.opened.height for one in asked if uses[one.opened.round_id]]
    first = first_trace(history, opened.study, number, target, opened.controller, used)
    if first is None:
        model = history.studies[opened.study].branches[number].models[target]
        return PlanTerms(number, target, model, seed, target, methods.NOTHING, 0)
    older = [one for one in history.path(opened.study, number) if one.final is not None and one.opened.height < first]
    parent, height, model = 0, 0, history.studies[opened.study].created.terms.initial_model
    if older:
        base = older[-1]
        assert base.final is not None
        parent, height, model = base.opened.branch, base.opened.height, base.final.result.model_root
    rounds = methods.rounds_of(method, replaced(history, opened.study, number, target, parent, height))
    return PlanTerms(parent, height, model, seed, target, methods.NUMBERS[method.name], rounds)


def replaced(history: History, study: Digest, line: int, target: int, parent: int, base: int) -> int:
    """How many models a plan replaces, from height `base` of branch `parent` to height `target` of branch `line`."""
    return history.finals_at(study, line, target) - history.finals_at(study, parent, base)


def replaced_by(history: History, plan: ErasurePlanned) -> int:
    """How many models a plan on the chain replaces."""
    return replaced(history, plan.study, plan.branch - 1, plan.target_height, plan.parent_branch, plan.base_height)


def method_of(history: History, one: RoundHistory) -> Unlearner | None:
    """The unlearning method that a round belongs to; None where it is one of the study's own training."""
    branch = history.studies[one.opened.study].branches[one.opened.branch]
    if branch.parent is None:
        return None
    plan = history.erasures[branch.batch].plan
    assert plan is not None
    return methods.numbered(plan.method) if place_of(history, one) < plan.rounds else None


def place_of(history: History, one: RoundHistory) -> int:
    """How many models its branch had when a round opened: its number in the method's program, from 0."""
    branch = history.studies[one.opened.study].branches[one.opened.branch]
    return sum(history.rounds[r].made_model for h, r in branch.rounds.items() if h < one.opened.height)


def replaced_rounds(history: History, plan: ErasurePlanned) -> list[RoundHistory]:
    """The rounds whose models a plan replaces, in height order."""
    return [
        one
        for one in history.path(plan.study, plan.branch - 1)
        if one.made_model and plan.base_height < one.opened.height <= plan.target_height
    ]


def has_turn(history: History, erasure: ErasureHistory) -> bool:
    """Whether no other plan of the study is unfinished: one branch is replayed at a time."""
    return not any(
        other.plan is not None and other.confirmed is None and other.opened.study == erasure.opened.study
        for other in history.erasures.values()
        if other is not erasure
    )


# --------------------------------------------------------------------------------------------------------------------
# What a plan condemns


def is_doomed(history: History, plan: ErasurePlanned, one: RoundHistory) -> bool:
    """Whether a plan condemns a round: it is of a line before the plan, and not on the way to the plan's checkpoint.

    So also a round of an earlier replay that began at the same checkpoint, or below it: its members trained on the
    records of this erasure as those of the line before had.
    """
    opened = one.opened
    if not replays(plan) or opened.study != plan.study or opened.branch >= plan.branch:
        return False
    up_to = plan.base_height
    for branch in history.ancestry(plan.study, plan.parent_branch):
        if branch.number == opened.branch:
            return opened.height > up_to
        up_to = min(up_to, branch.base_height)
    return True


def doomed_rounds(history: History, plan: ErasurePlanned) -> list[RoundHistory]:
    """Every round that a plan condemns, agreed or not, by branch and height."""
    lines = history.studies[plan.study].branches
    rounds = [history.rounds[number] for _, line in sorted(lines.items()) for _, number in sorted(line.rounds.items())]
    return [one for one in rounds if is_doomed(history, plan, one)]


def clean_models(history: History, study: Digest, doomed: set[Digest]) -> set[Digest]:
    """Roots of the study's models that no doomed round (by id) made: its start, its checkpoints, its replays."""
    found = history.studies[study]
    roots = {found.created.terms.initial_model}
    for branch in found.branches.values():
        for round_id in branch.rounds.values():
            final = history.rounds[round_id].final
            if final is not None and round_id not in doomed:
                roots.add(final.result.model_root)
    return roots


def doomed_models(history: History, plan: ErasurePlanned) -> set[Digest]:
    """Roots of the models that the doomed rounds made and that are not also clean ones."""
    rounds = doomed_rounds(history, plan)
    made = {one.final.result.model_root for one in rounds if one.final is not None}
    return made - clean_models(history, plan.study, {one.opened.round_id for one in rounds})


def old_line_is_quiet(history: History, plan: ErasurePlanned) -> bool:
    """Whether every doomed round has ended: a round may outlast the plan that condemns it."""
    return all(one.over for one in doomed_rounds(history, plan))


def inventory(contents: Iterable[tuple[Digest, int, Digest]]) -> Digest:
    """The hash over (content, reason, subject) of a member's tombstones for a batch, in sorted order."""
    return keccak256(b"".join(c + r.to_bytes(1, "big") + s for c, r, s in sorted(contents)))


# --------------------------------------------------------------------------------------------------------------------
# What the verdicts are about


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model that members confirm: `height` on `branch`, agreed in `rounds` above the base.

    None where nothing is replayed, or where the replay was given up before a round of it was agreed.
    """

    branch: int
    height: int
    model: Digest
    rounds: tuple[RoundHistory, ...]


def checkpoint_of(history: History, plan: ErasurePlanned) -> Checkpoint | None:
    """Where the replay has caught up or was given up, as the contract computes it; None while it is neither."""
    if not plan.rounds:
        return Checkpoint(plan.branch, plan.base_height, plan.base_model, ())
    line = history.studies[plan.study].branches[plan.branch]
    rounds = [one for _, number in sorted(line.rounds.items()) if (one := history.rounds[number]).made_model]
    if line.given_up is not None:
        rounds = [one for one in rounds if one.ended is not None and one.ended < line.given_up]
    elif len(rounds) < plan.rounds:
        return None
    rounds = rounds[: plan.rounds]
    if not rounds:
        return Checkpoint(plan.branch, plan.base_height, plan.base_model, ())
    last = rounds[-1].final
    assert last is not None
    return Checkpoint(plan.branch, last.height, last.result.model_root, tuple(rounds))


def was_given_up(history: History, plan: ErasurePlanned) -> bool:
    """Whether the plan's replay ended without the models that it was to make."""
    return replays(plan) and history.studies[plan.study].branches[plan.branch].given_up is not None


def verdicts_needed(n: int, others: int, f: int) -> int:
    """Members other than the controller that must confirm: all others but f; below four members one."""
    return 1 if n < 4 or others <= f + 1 else others - f


# --------------------------------------------------------------------------------------------------------------------
# Exclusion


def in_flight(history: History, study: Digest, withdrawn: Position) -> list[RoundHistory]:
    """Rounds of a study that ran when a withdrawal came: the last that can have used it."""
    return [
        one
        for one in history.rounds.values()
        if one.opened.study == study and one.position < withdrawn and (one.ended is None or one.ended > withdrawn)
    ]


def exclusion_evidence(history: History, study: Digest, consents: tuple[Digest, ...]) -> Digest | None:
    """Hash of where the withdrawals stand and of the rounds they met running.

    None while one of them is not on the chain, or one of those rounds has not ended.
    """
    parts = []
    for consent in consents:
        found = history.withdrawals.get(consent)
        if found is None:
            return None
        rounds = in_flight(history, study, found[1])
        if any(not one.over for one in rounds):
            return None
        place = found[1].block.to_bytes(8, "big") + found[1].log_index.to_bytes(8, "big")
        parts.append(place + b"".join(sorted(one.opened.round_id for one in rounds)))
    return keccak256(b"koinon/excluded/1" + b"".join(sorted(parts)))


def refused_since(history: History, erasure: ErasureHistory) -> list[int]:
    """Heights of agreed rounds, opened since the exclusion, whose sum leaves the hospital out for a consent in its set
    that had ended: of whom, the chain does not say.
    """
    if "excluded" not in erasure.marks:
        return []
    study, member, since = erasure.opened.study, erasure.opened.controller, erasure.marks["excluded"].position
    return [
        one.opened.height
        for one in history.path(study, history.studies[study].active_branch)
        if one.position > since and one.final and one.final.result.codes >> 4 * member & 15 == Code.CONSENT
    ]


def excluded_from(history: History, study: Digest, consents: tuple[Digest, ...]) -> int | None:
    """The first height whose round was opened with all of these withdrawn; None while one is not on the chain.

    Where no such round was opened yet, it is the next height.
    """
    at = [history.withdrawals[consent][1] for consent in consents if consent in history.withdrawals]
    if len(at) < len(consents) or not at:
        return None
    path = history.path(study, history.studies[study].active_branch)
    later = [one.opened.height for one in path if one.position > max(at)]
    return min(later) if later else path[-1].opened.height + 1 if path else 1


# --------------------------------------------------------------------------------------------------------------------
# The rules


class Act(Enum):
    """What a node is to do next about a batch; the shell knows how."""

    AUTHORISE = "authorise"
    EXCLUDE = "exclude"
    SHARE_OPENING = "share-opening"
    READ_SETS = "read-sets"
    VOTE_PLAN = "vote-plan"
    GATHER_PLANS = "gather-plans"
    POST_PLAN = "post-plan"
    PURGE = "purge"
    ATTEST_PAIR = "attest-pair"
    GATHER_PURGES = "gather-purges"
    GIVE_VERDICT = "give-verdict"
    ATTEST_REST = "attest-rest"
    POST_VERDICTS = "post-verdicts"
    POST_PURGES = "post-purges"
    CLOSE = "close"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node knows about a batch at one moment. Sets of members are bitmaps; `me` is None at an auditor.

    Attributes:
        state: of the chain.
        roster: who votes now; `me` may be outside of it.
        controller: the hospital whose patients ask.
        f: of the study's terms.
        requests: the controller: we know every consent that the requests root stands for.
        excluded: their withdrawals are on the chain and the rounds they met have ended.
        opening: what the batch is about is known here, by its opening.
        shows: it is ours to show others the opening.
        ready: no step of the hospital is waited for before the plan.
        unclosed: we do not wait for its close: the hospital was removed, or we are it and cannot close it.
        lacking: members that have not shown that they have the opening.
        has_turn: no other plan of the study is unfinished.
        answered: the hospital's sets here were read; for every round that counts it is known what is in its set.
        plan: the plan that follows.
        voted: our vote for exactly this plan is kept.
        votes: members whose kept votes are for exactly this plan.
        window_end: last second in which the contract takes no plan.
        forks: the plan on the chain replays.
        quiet: every doomed round has ended.
        dirty: something doomed is in our home.
        pair: members whose word is kept here that the old pair is purged.
        rest, rest_kept: members that attested their purge on the chain; whose attestation is kept here.
        purge_end: last second in which we wait for the sets that say what to purge.
        caught_up: there is a checkpoint to confirm.
        judged: our verdict is kept.
        verdicts: members whose verdict is on the chain.
        unposted: members whose kept verdict is not.
        unposted_purges: members whose kept attestation is not on the chain, and no other call will carry it.
        delivered: the certificate was taken, or nobody came for it in time.
        took_part: we are or were a member of the study.
    """

    state: State
    me: int | None
    roster: int
    controller: int
    f: int
    requests: bool = False
    excluded: bool = False
    opening: bool = False
    shows: bool = False
    ready: bool = False
    unclosed: bool = False
    lacking: int = 0
    has_turn: bool = False
    answered: bool = False
    plan: PlanTerms | None = None
    voted: bool = False
    votes: int = 0
    window_end: int = 0
    forks: bool = False
    quiet: bool = False
    dirty: bool = False
    pair: int = 0
    rest: int = 0
    rest_kept: int = 0
    purge_end: int = 0
    caught_up: bool = False
    judged: bool = False
    verdicts: int = 0
    unposted: int = 0
    unposted_purges: int = 0
    delivered: bool = False
    took_part: bool = False

    @property
    def n(self) -> int:
        """Size of the roster."""
        return self.roster.bit_count()


Condition = Callable[[Facts, int], bool]


def is_controller(x: Facts, now: int) -> bool:
    """We are the controlling hospital."""
    return x.me == x.controller


def is_voter(x: Facts, now: int) -> bool:
    """We are on the roster."""
    return x.me is not None and bool(x.roster >> x.me & 1)


def is_other(x: Facts, now: int) -> bool:
    """We are on the roster and not the controlling hospital."""
    return is_voter(x, now) and not is_controller(x, now)


def knows_requests(x: Facts, now: int) -> bool:
    """Every consent behind the requests root is one of ours, by its salt."""
    return x.requests


def withdrawals_took_effect(x: Facts, now: int) -> bool:
    """The withdrawals are on the chain and the rounds they met have ended."""
    return x.excluded


def has_opening(x: Facts, now: int) -> bool:
    """We know which consents and leaf keys the batch is about."""
    return x.opening


def shows_opening(x: Facts, now: int) -> bool:
    """It is ours to show the members which consents the batch is about."""
    return x.shows


def is_ready(x: Facts, now: int) -> bool:
    """No step of the hospital is waited for: its copy is gone, or it was removed and had its time."""
    return x.ready


def nobody_closes(x: Facts, now: int) -> bool:
    """The hospital was removed: whether it still closes the batch is its affair."""
    return x.unclosed


def somebody_closes(x: Facts, now: int) -> bool:
    """The batch goes on to its close."""
    return not x.unclosed


def others_lack_opening(x: Facts, now: int) -> bool:
    """Some member has not shown that it has the opening."""
    return x.lacking != 0


def turn_has_come(x: Facts, now: int) -> bool:
    """No other plan of the study is unfinished."""
    return x.has_turn


def sets_unread(x: Facts, now: int) -> bool:
    """The hospital's sets were not read here, or one that counts could not be."""
    return not x.answered


def plan_is_clear(x: Facts, now: int) -> bool:
    """The plan follows."""
    return x.plan is not None


def not_voted(x: Facts, now: int) -> bool:
    """Our vote for this plan is not kept."""
    return not x.voted


def too_few_votes(x: Facts, now: int) -> bool:
    """Fewer than a quorum of equal votes are kept."""
    return x.voted and (x.votes & x.roster).bit_count() < quorum(x.n, faults(x.n, x.f))


def quorum_of_votes(x: Facts, now: int) -> bool:
    """A quorum of equal votes is kept."""
    return x.plan is not None and (x.votes & x.roster).bit_count() >= quorum(x.n, faults(x.n, x.f))


def window_over(x: Facts, now: int) -> bool:
    """The batch's window is over."""
    return now > x.window_end


def plan_forks(x: Facts, now: int) -> bool:
    """The plan on the chain replays."""
    return x.forks


def old_line_ended(x: Facts, now: int) -> bool:
    """Every doomed round has ended."""
    return x.quiet


def is_dirty(x: Facts, now: int) -> bool:
    """Something doomed is in our home."""
    return x.dirty


def is_clean(x: Facts, now: int) -> bool:
    """Nothing doomed is in our home, by our own reading of the sets, or by the plan alone where that takes too long."""
    return not x.dirty and (x.answered or not x.opening or now > x.purge_end)


def all_is_gone(x: Facts, now: int) -> bool:
    """As before, and no set can still turn out to be condemned: without the opening none was read yet."""
    return not x.dirty and (x.answered or now > x.purge_end)


def pair_not_attested(x: Facts, now: int) -> bool:
    """We have not said that the old pair is purged, without which no model of the replay comes here."""
    return x.me is not None and not x.pair >> x.me & 1


def pair_unknown(x: Facts, now: int) -> bool:
    """Some member's word on the pair is not here, and it gets no key of ours without it."""
    return x.roster & ~x.pair != 0


def replay_caught_up(x: Facts, now: int) -> bool:
    """There is a checkpoint to confirm."""
    return x.caught_up


def not_judged(x: Facts, now: int) -> bool:
    """We have given no verdict."""
    return not x.judged


def verdicts_wait(x: Facts, now: int) -> bool:
    """A kept verdict is not on the chain."""
    return x.unposted != 0


def all_is_said(x: Facts, now: int) -> bool:
    """Every verdict and every final attestation is kept or on the chain."""
    others = x.roster & ~(1 << x.controller)
    return not others & ~(x.verdicts | x.unposted) and not x.roster & ~(x.rest | x.rest_kept)


def purges_wait(x: Facts, now: int) -> bool:
    """A kept attestation is not on the chain, and no other call will carry it."""
    return x.took_part and x.unposted_purges != 0


def rest_not_attested(x: Facts, now: int) -> bool:
    """Our final attestation is not on the chain."""
    return x.took_part and x.me is not None and not x.rest >> x.me & 1


def was_delivered(x: Facts, now: int) -> bool:
    """The certificate was taken, or nobody came for it in time."""
    return x.delivered


@dataclass(frozen=True, slots=True)
class Rule:
    """In these states, if all conditions hold, this act is due.

    `in_turn`: members stand in for each other in order. `patience`: chain seconds for which they must have held.
    """

    states: tuple[State, ...]
    when: tuple[Condition, ...]
    act: Act
    clause: str
    in_turn: bool = False
    patience: int = 0


S = State
PLANNING = (S.REQUESTED, S.AUTHORISED, S.EXCLUDED, S.COPY_DELETED)  # before the last, if it is ready without it
JUDGING = (S.PLANNED, S.REPLAYING)
AFTER = (S.HEAD_MOVED, S.RECIPIENTS_ATTESTED, S.CERTIFICATE_DELIVERED, S.LINK_DESTROYED)
OPENED = (*PLANNING, *JUDGING, S.CONFIRMED)
LATE = (S.CLOSED, S.CLOSED_WITH_EXCEPTIONS)  # who was away purges and attests when it comes back
JUDGED = (*JUDGING, S.CONFIRMED, *AFTER)
PLANNED = (*JUDGED, *LATE)

# states | when | act | clause (in turn)
RULES: Final[tuple[Rule, ...]] = (
    Rule((S.REQUESTED,), (is_controller, knows_requests), Act.AUTHORISE, "16, authorise"),
    Rule((S.AUTHORISED,), (is_controller, knows_requests, withdrawals_took_effect), Act.EXCLUDE, "16, exclude"),
    Rule((S.EXCLUDED,), (is_controller, knows_requests), Act.EXCLUDE, "16, exclude"),
    Rule(OPENED, (shows_opening, has_opening, is_ready, others_lack_opening), Act.SHARE_OPENING, "16, open to members"),
    Rule((*PLANNING, *JUDGING), (has_opening, is_ready, sets_unread), Act.READ_SETS, "16, first use"),
    Rule(PLANNING, (is_voter, turn_has_come, plan_is_clear, not_voted), Act.VOTE_PLAN, "16, plan"),
    Rule(PLANNING, (is_voter, turn_has_come, too_few_votes), Act.GATHER_PLANS, "16, plan"),
    Rule(PLANNING, (is_voter, turn_has_come, quorum_of_votes, window_over), Act.POST_PLAN, "16, plan", in_turn=True),
    Rule(PLANNED, (old_line_ended, is_dirty), Act.PURGE, "16, purge"),
    Rule(PLANNED, (plan_forks, old_line_ended, is_clean, pair_not_attested), Act.ATTEST_PAIR, "16, purge"),
    Rule((S.REPLAYING,), (is_voter, pair_unknown), Act.GATHER_PURGES, "16, purge", patience=GATHER_S),
    Rule(JUDGING, (is_other, has_opening, replay_caught_up, not_judged), Act.GIVE_VERDICT, "16, verified"),
    Rule(PLANNED, (replay_caught_up, old_line_ended, all_is_gone, rest_not_attested), Act.ATTEST_REST, "16, close"),
    Rule(JUDGED, (is_voter, verdicts_wait, all_is_said), Act.POST_VERDICTS, "16, verified", in_turn=True),
    Rule(JUDGED, (is_voter, verdicts_wait), Act.POST_VERDICTS, "16, verified", in_turn=True, patience=GATHER_S),
    Rule(PLANNED, (purges_wait,), Act.POST_PURGES, "16, purge", in_turn=True, patience=GATHER_S),
    Rule(AFTER, (is_controller, somebody_closes, was_delivered), Act.CLOSE, "16, close"),
    Rule(OVER, (has_opening, is_clean), Act.FORGET, "16, close"),
    Rule((S.RECIPIENTS_ATTESTED,), (nobody_closes, has_opening, is_clean), Act.FORGET, "16, close"),
)


# --------------------------------------------------------------------------------------------------------------------
# The machine


@dataclass(frozen=True, slots=True)
class Looked:
    """The node looked at the chain and at its own store."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class Done:
    """The act was carried out; what it brings about may take a moment to be seen."""

    act: Act


@dataclass(frozen=True, slots=True)
class Failed:
    """The act was not carried out; due again from `retry_at` (chain time) on."""

    act: Act
    retry_at: int


Event = Looked | Done | Failed


@dataclass(slots=True)
class Erasure:
    """One batch at one node."""

    batch: Digest
    under_way: set[Act] = field(default_factory=set)
    not_before: dict[Act, int] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)  # row of RULES -> when it began to hold

    def handle(self, event: Event, now: int) -> tuple[Act, ...]:
        """Acts that are due at chain time `now`; each is under way until `Done` or `Failed` says otherwise."""
        match event:
            case Done(act):
                self.under_way.discard(act)
                self.not_before[act] = now + AGAIN_S
                return ()
            case Failed(act, retry_at):
                self.under_way.discard(act)
                self.not_before[act] = retry_at
                return ()
            case Looked(facts):
                return self._due(facts, now)

    def _due(self, facts: Facts, now: int) -> tuple[Act, ...]:
        due = []
        for row, rule in enumerate(RULES):
            act = rule.act
            if facts.state not in rule.states or not all(holds(facts, now) for holds in rule.when):
                self.since.pop(row, None)
                continue
            since = self.since.setdefault(row, now)
            wait = rule.patience + (STAND_IN_S * rank_of(facts) if rule.in_turn else 0)
            if act in self.under_way or now < self.not_before.get(act, 0) or now < since + wait:
                continue
            self.under_way.add(act)
            due.append(act)
        return tuple(due)


def rank_of(facts: Facts) -> int:
    """Our place among those who may do what anybody may do: the controller first, then upward in a circle."""
    members = list(members_of(facts.roster))
    if facts.me not in members:
        return len(members)
    first = members.index(facts.controller) if facts.controller in members else 0
    return (members.index(facts.me) - first) % len(members)


# --------------------------------------------------------------------------------------------------------------------
# What may be claimed


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence that may be printed, what it rests on, and what it leaves open."""

    level: str
    sentence: str
    evidence: tuple[tuple[str, str], ...]  # (what, hash or number as text)
    does_not_show: str


def sentences(
    *,
    hospital: str,
    study_name: str,
    first_height: int | None,
    batch: Digest,
    requests_root: Digest,
    excluded: Digest | None,
    base_model: Digest | None,
    head_model: Digest | None,
    branch: int,
    method: int,
    confirmed: int,
    others: int,
    purged: Mapping[int, Digest],
    members: int,
    attested: Mapping[tuple[int, str], Digest],
    authorised: bool = True,
    names_line: bool = True,
    refused: Sequence[int] = (),
) -> list[Claim]:
    """The claims that this evidence supports, word for word: nothing else is ever printed.

    Args:
        hospital, study_name: names for the sentences.
        first_height: `excluded_from`, where it is known.
        batch, requests_root: of the batch, which the hospital authorised.
        excluded: evidence of the first step, None while it was not taken.
        base_model, head_model, branch, method: of the plan and the confirmed model; None while there is none.
        confirmed, others: how many of how many other members confirmed.
        purged: member -> inventory of its final attestation.
        members: how many were asked for one.
        attested: (level, auditor's name) -> hash of the report that the auditor signed for.
        authorised: the hospital said so; where it was removed, the others go on without its word.
        names_line: False for the wording of certificates of an earlier version.
        refused: from `refused_since`, where the chain is at hand.
    """
    found = []
    if authorised:
        found.append(
            Claim(
                "L0",
                f"{hospital} says that it has stopped using the records of this consent and has started erasure.",
                (("batch", batch.hex()), ("requests_root", requests_root.hex())),
                "Anything beyond the hospital's signature.",
            )
        )
    if excluded is not None:
        # Heights come again on every line; on lines that serve no more the sets are what they were.
        line = f"on the line of study {study_name} that serves now" if names_line else f"of study {study_name}"
        start = "From now on" if first_height is None else f"From round {first_height} {line}"
        found.append(
            Claim(
                "L1",
                f"{start}, {hospital}'s declared data sets contain no entry for this consent."
                + _REFUSED.format(hospital=hospital, heights=", ".join(map(str, refused))) * bool(refused),
                (("excluded", excluded.hex()),),
                "That training used only the declared data; past influence; a new consent of the same person; "
                "other hospitals.",
            )
        )
    unlearner = methods.numbered(method)
    levels = {Level.L2} if method == methods.NOTHING else set() if unlearner is None else unlearner.claims
    if head_model is not None and base_model is not None and levels & {Level.L2, Level.L2_APPROXIMATE}:
        if unlearner is not None and head_model == base_model:
            sentence = (
                "The replay was given up before a round of it was agreed: the current model is one made before this "
                f"consent's first declared use, as it was. {confirmed} of {others} other members looked through the "
                "declared sets and agree. They could not see whether local training was honest."
            )
        elif unlearner is not None:
            kind = "exact" if Level.L2 in levels else "APPROXIMATE"
            sentence = (
                "The current model was recomputed from a model made before this consent's first declared use, by the "
                f"{kind} unlearning method {unlearner.name}; {confirmed} of {others} other members repeated the "
                "addition and got the same bits. "
                "They could not see whether local training was honest."
            )
            if Need.SHARDS in unlearner.needs:
                sentence += (
                    " The networks of other shards, which this hospital does not train, are as their members sent them "
                    "on from the model that was replaced."
                )
        else:
            sentence = (
                "No round that the current model was made in declared a use of this consent; "
                f"{confirmed} of {others} other members looked through the declared sets and agree. "
                "They could not see whether local training was honest."
            )
        evidence = (("base_model", base_model.hex()), ("head_model", head_model.hex()), ("branch", str(branch)))
        if Level.L2 in levels:
            found.append(
                Claim("L2", sentence, evidence, "That local updates were honest; private copies; exported models.")
            )
        else:
            found.append(Claim("L2~", sentence, evidence, APPROXIMATE_DOES_NOT_SHOW))
        if unlearner is not None and Level.L3 in unlearner.claims:
            found += _attested("L3", LEVEL_LOCAL_REPLAY, attested, L3_SENTENCE.format(hospital=hospital))
    found += _attested("L4", LEVEL_ATTACK_AUDIT, attested, L4_SENTENCE)
    if purged:
        found.append(
            Claim(
                "P",
                f"{len(purged)} of {members} members state under signature that they deleted what the erasure names "
                "from their nodes.",
                tuple((f"inventory of member {m}", listed.hex()) for m, listed in sorted(purged.items())),
                "That they kept their word; what was exported before; backups until the stated day.",
            )
        )
    return found


def _attested(level: str, number: int, attested: Mapping[tuple[int, str], Digest], what: str) -> list[Claim]:
    """The claim that auditors make with their signatures, where any did."""
    reports = sorted((name, report) for (at, name), report in attested.items() if at == number)
    if not reports:
        return []
    evidence = tuple((f"report of {name}", report.hex()) for name, report in reports)
    who = ", ".join(name for name, _ in reports)
    sentence = f"By the signed word of {len(reports)} auditor{'s' * (len(reports) > 1)} ({who}): {what}"
    return [Claim(level, sentence, evidence, L3_DOES_NOT_SHOW if level == "L3" else L4_DOES_NOT_SHOW)]


def auditor_name(name: str, seat: int) -> str:
    """How claims name an auditor: names need not differ."""
    return f"{name}, seat {seat}"


def claims(
    erasure: ErasureHistory, history: History, *, hospital: str, study_name: str, first_height: int | None
) -> list[Claim]:
    """The claims a batch has earned so far by the chain; none before it is authorised, none when it is refused."""
    opened, confirmed, plan = erasure.opened, erasure.confirmed, erasure.plan
    if erasure.refused is not None or ("authorised" not in erasure.times and plan is None):
        return []
    roster = roster_of(history, opened.study)
    return sentences(
        hospital=hospital,
        study_name=study_name,
        first_height=first_height,
        authorised="authorised" in erasure.times,
        refused=refused_since(history, erasure),
        batch=opened.batch,
        requests_root=opened.requests_root,
        excluded=erasure.steps.get(EXCLUDED),
        base_model=None if plan is None else plan.base_model,
        head_model=None if confirmed is None else confirmed.head_model,
        branch=0 if confirmed is None else confirmed.branch,
        method=methods.NOTHING if plan is None else plan.method,
        confirmed=sum(v.confirmed for v in erasure.verdicts.values()),
        others=((roster | bitmap_of(erasure.verdicts)) & ~(1 << opened.controller)).bit_count(),
        purged=erasure.purges,
        members=(roster | bitmap_of(erasure.purges)).bit_count(),
        attested={
            (level, auditor_name(history.registry.auditors[seat].name, seat)): evidence
            for (level, seat), evidence in erasure.attested.items()
        },
    )
