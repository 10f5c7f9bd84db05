"""What every record of the chain must satisfy, given all records before it: the contracts' rules, checked again.

What may live here: one table, record type -> rules, each a pure function of the history so far and the next record.
What this file does not know: files, signatures, plaintexts. A chain whose operator put in what the contracts would
have refused is found here, before anything is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from crypto.commitments import base_result, batch_id, round_id, study_id
from crypto.digest import Digest
from crypto.statements import Form, OpenErasure, struct_hash
from node import methods
from node.audit.home import Fault
from node.erasure import (
    LONGEST_EXTENSION_S,
    LONGEST_MONTH_S,
    checkpoint_of,
    is_removed,
    replaced_by,
    replays,
    roster_of,
    verdicts_needed,
)
from node.errors import NotFound
from node.history import STEP_STATES, History, RoundHistory
from node.membership import LAST_CHANCES, bitmap_of, faults, least_included, members_of, quorum
from node.notices import hash_of_result
from node.participant import trust_bytes
from node.records import (
    LEVEL_ATTACK_AUDIT,
    LEVEL_LOCAL_REPLAY,
    MAX_MEMBERS,
    ZERO,
    Abstained,
    BranchCreated,
    Committed,
    Contracts,
    ErasureClosed,
    ErasureConfirmed,
    ErasureExtended,
    ErasureOpened,
    ErasurePlanned,
    ErasureStepped,
    EvidenceAttested,
    FormRegistered,
    HavePosted,
    HeadMoved,
    Logged,
    ReplayGivenUp,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyCreated,
    VerdictsGiven,
)
from node.round import LAST_ATTEMPT, MODEL, SEALED, Facts, Phase, phase_of

BlockHash = Callable[[int], Digest]
"""Hash of a block by number; `NotFound` where it is not known."""


class Chain:
    """The history so far, and what a rule needs beside it."""

    def __init__(self, contracts: Contracts, block_hash: BlockHash) -> None:
        self.history = History()
        self.contracts = contracts
        self.block_hash = block_hash
        self.planners: dict[Digest, int] = {}  # batch -> who could vote on its plan when it was carried


Rule = Callable[[Chain, Logged, Any], None]


def equal(what: str, where: str, expected: object, got: object) -> None:
    """A fault unless both are the same."""
    if expected != got:
        raise Fault(what, where, expected, got)


def holds(what: str, where: str, expected: str, condition: bool, got: object) -> None:
    """A fault unless the condition holds."""
    if not condition:
        raise Fault(what, where, expected, got)


def round_name(one: RoundHistory | RoundOpened) -> str:
    """A round for people: study, branch, height."""
    opened = one.opened if isinstance(one, RoundHistory) else one
    return f"study {opened.study.hex()[:12]}, branch {opened.branch}, round {opened.height}"


def place_of(logged: Logged) -> str:
    """A record for people: its kind and position."""
    at = logged.position
    return f"block {at.block}, log {at.log_index} ({type(logged.record).__name__})"


def refused(codes: int) -> int:
    """The members that a result's codes refuse."""
    return bitmap_of(i for i in range(MAX_MEMBERS) if codes >> 4 * i & 15)


def facts_of(history: History, one: RoundHistory) -> Facts:
    """A round's chain facts so far, for the phase rules that the nodes and the contract share."""
    facts = Facts(one.opened, history.studies[one.opened.study].created.terms, None, True)
    for logged in one.logged:
        match logged.record:
            case Committed(member=member) | Abstained(member=member):
                facts.answers[member] = logged
            case HavePosted(attempt=attempt, member=member, bitmap=bitmap):
                facts.haves.setdefault(attempt, {})[member] = bitmap
            case _:
                pass
    return facts


def decided_set(history: History, one: RoundHistory, attempt: int) -> int:
    """The set a result of this attempt decides over: C, or I by the haves."""
    return facts_of(history, one).included_in(attempt)


# --------------------------------------------------------------------------------------------------------------------
# Accumulators and identities


def accumulators(chain: Chain, logged: Logged, record: RoundOpened) -> None:
    """What this home rebuilt from the records it has is what the contract folded into the round."""
    where = f"{round_name(record)}, {place_of(logged)}"
    equal("consent accumulator", where, record.consent_acc, chain.history.consent_acc)
    equal("membership accumulator", where, record.membership_acc, chain.history.registry.accumulator)


def opened_round(chain: Chain, logged: Logged, record: RoundOpened) -> None:
    """The round's id names its whole history, and its parent is the newest result and model of its branch."""
    history, where = chain.history, round_name(record)
    study = history.studies[record.study]
    branch = study.branches[record.branch]
    expected = round_id(
        chain_id=chain.contracts.chain_id,
        contract=chain.contracts.line[logged.deployment].training,
        study=record.study,
        branch=record.branch,
        height=record.height,
        parent_result=record.parent_result,
        parent_model=record.parent_model,
        epoch=record.epoch,
        roster=record.roster,
        suspended=record.suspended,
        consent_accumulator=record.consent_acc,
        membership_accumulator=record.membership_acc,
        previous_block=record.previous_block,
    )
    equal("round id", where, expected, record.round_id)
    try:
        equal("previous block", where, chain.block_hash(logged.position.block - 1), record.previous_block)
    except NotFound:
        raise Fault("previous block", where, record.previous_block, "no such block is kept") from None
    equal("branch", where, max(study.branches), record.branch)  # no line is trained on once there is a newer one
    equal("height", where, max(branch.rounds, default=branch.base_height) + 1, record.height)
    equal("parent model", where, branch.models.get(record.height - 1), record.parent_model)
    equal("parent result", where, history.lineage(record.study, record.branch), record.parent_result)
    equal("epoch", where, history.registry.epoch, record.epoch)
    equal("roster", where, f"{roster_of(history, record.study):b}", f"{record.roster:b}")
    n = record.roster.bit_count()
    equal("f", where, faults(n, study.created.terms.f), record.f)
    equal("quorum", where, quorum(n, record.f), record.quorum)
    equal("opening time", where, logged.timestamp, record.opened_at)
    holds("suspended members", where, f"members of {record.roster:b}", not record.suspended & ~record.roster, bin(0))
    running = [one for one in history.rounds.values() if one.opened.study == record.study and not one.over]
    holds("round", where, "no other open round of the study", not running, f"{len(running)} open")


def study_identity(chain: Chain, logged: Logged, record: StudyCreated) -> None:
    """A study's id is the hash of its terms."""
    equal("study id", place_of(logged), study_id(struct_hash(record.terms)), record.study)
    equal("creator", place_of(logged), record.terms.member, record.creator)


def form_identity(chain: Chain, logged: Logged, record: FormRegistered) -> None:
    """A form's id is the hash of its fields."""
    form = Form(
        study=record.study,
        purposes=record.purposes,
        text_hash=record.text_hash,
        custody=record.custody,
        basis=record.basis,
        valid_to=record.valid_to,
        on_withdrawal=record.on_withdrawal,
    )
    equal("form id", place_of(logged), struct_hash(form), record.form_id)


def batch_identity(chain: Chain, logged: Logged, record: ErasureOpened) -> None:
    """An erasure's id is the hash of its opening."""
    opening = OpenErasure(record.study, record.controller, record.poster, record.requests_root, record.due_at)
    equal("erasure id", place_of(logged), batch_id(struct_hash(opening)), record.batch)


def branch_identity(chain: Chain, logged: Logged, record: BranchCreated) -> None:
    """A branch begins at a recorded checkpoint of its parent, and its base result says which."""
    where = place_of(logged)
    parent = chain.history.studies[record.study].branches[record.parent]
    origin = chain.history.lineage(record.study, record.parent, record.base_height) if record.base_height else ZERO
    base = base_result(record.study, record.batch, record.parent, record.base_height, record.base_model, origin)
    equal("base result", where, base, record.base_result)
    equal("base model", where, parent.models.get(record.base_height), record.base_model)


# --------------------------------------------------------------------------------------------------------------------
# Phases: who may say what, and when


def committed(chain: Chain, logged: Logged, record: Committed | Abstained) -> None:
    """Commitments and abstentions: while training, by members of the roster that are not suspended, once."""
    one = chain.history.rounds[record.round_id]
    where = f"{round_name(one)}, member {record.member}, {place_of(logged)}"
    facts = facts_of(chain.history, one)
    holds("contributor", where, "a member that is asked", bool(facts.contributors >> record.member & 1), record.member)
    holds("commitment", where, "the first answer of this member", not facts.on_chain(record.member), "a second one")
    phase = phase_of(facts, logged.timestamp).phase
    equal("phase", where, Phase.TRAINING.value, phase.value)


def have(chain: Chain, logged: Logged, record: HavePosted) -> None:
    """Haves: in their window, by the roster, once an attempt, over commitments."""
    one = chain.history.rounds[record.round_id]
    where = f"{round_name(one)}, member {record.member}, {place_of(logged)}"
    facts = facts_of(chain.history, one)
    view = phase_of(facts, logged.timestamp)
    equal("phase", where, f"have, attempt {record.attempt}", f"{view.phase.value}, attempt {view.attempt}")
    holds("have", where, "a member of the roster", bool(one.opened.roster >> record.member & 1), record.member)
    holds("have", where, "one an attempt", record.member not in facts.haves.get(record.attempt, {}), "a second one")
    holds("have", where, f"within {facts.committed:b}", not record.bitmap & ~facts.committed, f"{record.bitmap:b}")


def failed(chain: Chain, logged: Logged, record: RoundFailed) -> None:
    """A round fails only when its time or its commitments say so."""
    one = chain.history.rounds[record.round_id]
    phase = phase_of(facts_of(chain.history, one), logged.timestamp).phase
    equal("phase", f"{round_name(one)}, {place_of(logged)}", Phase.FAILED.value, phase.value)


def final_in_time(chain: Chain, logged: Logged, record: RoundFinal) -> None:
    """Attempt 0 any time after the seal, a later attempt in its vote window."""
    one = chain.history.rounds[record.round_id]
    where = f"{round_name(one)}, {place_of(logged)}"
    holds("attempt", where, f"0 to {LAST_ATTEMPT}", 0 <= record.attempt <= LAST_ATTEMPT, record.attempt)
    view = phase_of(facts_of(chain.history, one), logged.timestamp)
    if record.attempt == 0:
        holds("phase", where, "sealed, neither final nor failed", view.phase in SEALED, view.phase.value)
    else:
        equal("phase", where, f"voting, attempt {record.attempt}", f"{view.phase.value}, attempt {view.attempt}")


# --------------------------------------------------------------------------------------------------------------------
# Results


def result(chain: Chain, logged: Logged, record: RoundFinal) -> None:
    """Everything in a result that follows from the chain alone."""
    history, found = chain.history, record.result
    one = history.rounds[record.round_id]
    opened, where = one.opened, round_name(one)
    holds("round", where, "one result", not one.over, "a second end")
    equal("round of the result", where, (opened.branch, opened.height), (record.branch, record.height))
    equal("result hash", where, hash_of_result(found), record.result_hash)
    decided = decided_set(history, one, record.attempt)
    out = refused(found.codes)
    equal("included or refused", where, f"{decided:b}", f"{found.included | out:b}")
    holds("included and refused", where, "none", not found.included & out, f"{found.included & out:b}")
    terms = history.studies[record.study].created.terms
    least = least_included(opened.roster.bit_count(), opened.f, terms.min_included)
    equal("outcome", where, MODEL if found.included.bit_count() >= least else MODEL + 1, found.outcome)
    if found.outcome != MODEL:
        equal("model of a round without result", where, opened.parent_model, found.model_root)
    equal("commit root", where, history.commit_root(one), found.commit_root)
    equal("consent accumulator", where, history.consent_acc_at(*history.seal(one)), found.consent_acc)
    equal("trust", where, trust_bytes(history, one, found.included, out), found.trust)
    holds("signers", where, f"members of {opened.roster:b}", not record.signers & ~opened.roster, f"{record.signers:b}")
    votes = record.signers.bit_count()
    holds("quorum", where, f"at least {opened.quorum} votes", votes >= opened.quorum, votes)


# --------------------------------------------------------------------------------------------------------------------
# Erasures


def erasure_name(batch: Digest) -> str:
    """An erasure for people."""
    return f"erasure {batch.hex()[:16]}"


# step -> what must have come before it
_STEP_NEEDS: Final[dict[int, str]] = {1: "authorised", 2: "excluded", 3: "confirmed", 4: "certificate_delivered"}


def stepped(chain: Chain, logged: Logged, record: ErasureStepped) -> None:
    """Steps in their order, each after what it needs."""
    erasure, where = chain.history.erasures[record.batch], erasure_name(record.batch)
    equal("step", where, len(erasure.steps) + 1, record.first)
    reached = set(erasure.times)
    for step in record.steps:
        needed = _STEP_NEEDS.get(step, "link_destroyed")
        holds("step", where, f"{needed} before step {step}", needed in reached, ", ".join(erasure.times))
        reached.add(STEP_STATES.get(step, ""))
    holds("state", where, "not refused", erasure.refused is None, "refused")


def due(chain: Chain, logged: Logged, record: ErasureOpened) -> None:
    """A batch is due within a month of its record."""
    last = logged.timestamp + LONGEST_MONTH_S
    holds("due date", erasure_name(record.batch), f"at most {last}", record.due_at <= last, record.due_at)


def extended(chain: Chain, logged: Logged, record: ErasureExtended) -> None:
    """The due date moves once, in time, by at most two months."""
    erasure, where = chain.history.erasures[record.batch], erasure_name(record.batch)
    first = erasure.opened.due_at
    holds("extension", where, "one extension", erasure.extended is None, "a second one")
    holds("extension time", where, f"at most {first}", logged.timestamp <= first, logged.timestamp)
    last = first + LONGEST_EXTENSION_S
    holds("extension", where, f"from {first + 1} to {last}", first < record.due_at <= last, record.due_at)
    over = erasure.closed is not None or erasure.refused is not None
    holds("extension", where, "an erasure that is not over", not over, "it is over")


def planned(chain: Chain, logged: Logged, record: ErasurePlanned) -> None:
    """A plan: after the copy is deleted and the window is over, from a recorded checkpoint, on no open round."""
    history = chain.history
    erasure, where = history.erasures[record.batch], erasure_name(record.batch)
    study = history.studies[record.study]
    before = "copy_deleted" in erasure.times or is_removed(history, erasure)
    holds("plan", where, "the copy deleted before the plan", before, ", ".join(erasure.times))
    holds("plan", where, "one plan", erasure.plan is None, "a second one")
    until = erasure.opened.opened_at + study.created.terms.erasure_window
    holds("plan time", where, f"after {until}", logged.timestamp > until, logged.timestamp)
    models = study.branches[record.parent_branch].models
    equal("base model", where, models.get(record.base_height), record.base_model)
    if record.target_height != record.base_height:
        branch = study.branches.get(record.branch)
        holds("branch", where, "the branch that the plan made", branch is not None, f"no branch {record.branch}")
        assert branch is not None
        made = (branch.parent, branch.base_height, branch.seed, branch.target_height, branch.batch)
        plan = (record.parent_branch, record.base_height, record.branch_seed, record.target_height, record.batch)
        equal("branch", where, plan, made)
    _method_of_plan(history, where, record)


def _method_of_plan(history: History, where: str, record: ErasurePlanned) -> None:
    """The method is one that members carry out, and takes as many rounds as the plan says; none where none replays."""
    if not replays(record):
        equal("method and rounds", where, (methods.NOTHING, 0), (record.method, record.rounds))
        return
    method = methods.numbered(record.method)
    known = method is not None and methods.barred(method) is None
    holds("method", where, "one that members carry out", known, methods.name_of(record.method))
    assert method is not None
    models = replaced_by(history, record)
    equal("rounds", where, methods.rounds_of(method, models), record.rounds)


def replay_given_up(chain: Chain, logged: Logged, record: ReplayGivenUp) -> None:
    """A replay that has not caught up is given up, once, with the model it has: after too many heights in a row without
    one, or where fewer than two members are left.
    """
    history, study = chain.history, chain.history.studies[record.study]
    where = f"study {record.study.hex()[:12]}, branch {record.branch}"
    line = study.branches[record.branch]
    erasure = history.erasures.get(line.batch)
    holds("replay", where, "one of an erasure", erasure is not None, "none")
    # A replay that cannot begin ends with its plan, whose own record comes after what it brings about.
    ended = erasure is not None and erasure.plan is not None and checkpoint_of(history, erasure.plan) is not None
    holds("replay", where, "one that has not ended", not ended, "it has")
    heights = sorted(line.rounds)
    made = [history.rounds[line.rounds[height]].made_model for height in heights[-LAST_CHANCES:]]
    left = roster_of(history, record.study).bit_count()
    stuck = left < 2 or (len(made) == LAST_CHANCES and not any(made))
    holds("replay", where, f"{LAST_CHANCES} heights without a model, or fewer than two members", stuck, made)
    equal("model of the replay", where, line.models[max(line.models)], record.model)


def verdicts(chain: Chain, logged: Logged, record: VerdictsGiven) -> None:
    """Verdicts of others than the controller, once each, on the model where the replay caught up or was given up."""
    erasure, where = chain.history.erasures[record.batch], erasure_name(record.batch)
    own = record.members >> erasure.opened.controller & 1
    holds("verdict", where, "members other than the controller", not own, "its own")
    again = bitmap_of(erasure.verdicts) & record.members
    holds("verdict", where, "one a member", not again, f"a second one of {list(members_of(again))}")
    holds("verdict", where, "confirmed by members that judge", not record.confirming & ~record.members, "by others")
    holds("verdict", where, "a plan", erasure.plan is not None, "none")
    assert erasure.plan is not None
    equal("branch of the verdict", where, erasure.plan.branch, record.branch)
    found = checkpoint_of(chain.history, erasure.plan)
    holds("verdict", where, "a replay that has ended", found is not None, "it goes on")
    assert found is not None
    equal("model of the verdict", where, found.model, record.head_model)


def confirmed(chain: Chain, logged: Logged, record: ErasureConfirmed) -> None:
    """An erasure is confirmed by enough others, all on this model."""
    history = chain.history
    erasure, where = history.erasures[record.batch], erasure_name(record.batch)
    study = erasure.opened.study
    roster = roster_of(history, study)
    others = roster & ~(1 << erasure.opened.controller)
    n = roster.bit_count()
    needed = verdicts_needed(n, others.bit_count(), faults(n, history.studies[study].created.terms.f))
    agree = [
        v
        for member, v in erasure.verdicts.items()
        if v.confirmed and others >> member & 1 and v.head_model == record.head_model
    ]
    holds("confirmations", where, f"at least {needed}", len(agree) >= needed, len(agree))


def head_moved(chain: Chain, logged: Logged, record: HeadMoved) -> None:
    """The head moves only after the confirmation."""
    erasure = chain.history.erasures[record.batch]
    holds("head", erasure_name(record.batch), "a confirmation first", erasure.confirmed is not None, "none")


def closed(chain: Chain, logged: Logged, record: ErasureClosed) -> None:
    """A closed erasure names whoever did not attest the final purge."""
    history = chain.history
    erasure, where = history.erasures[record.batch], erasure_name(record.batch)
    holds("close", where, "five steps", len(erasure.steps) == 5, len(erasure.steps))
    if erasure.plan is None or not replays(erasure.plan):
        equal("exceptions", where, "0", f"{record.exceptions:b}")
        return
    attested = bitmap_of(erasure.purges)
    silent = list(members_of(roster_of(history, erasure.opened.study) & ~attested))
    named = list(members_of(record.exceptions))
    holds("exceptions", where, f"at least {silent}", set(silent) <= set(named), named)


def attested(chain: Chain, logged: Logged, record: EvidenceAttested) -> None:
    """Evidence of an auditor in its term and study, once a level, about a confirmed erasure."""
    erasure, where = chain.history.erasures[record.batch], erasure_name(record.batch)
    holds("evidence", where, "a confirmation first", erasure.confirmed is not None, "none")
    replayed = erasure.plan is not None and replays(erasure.plan)
    levels = (LEVEL_LOCAL_REPLAY, LEVEL_ATTACK_AUDIT) if replayed else (LEVEL_ATTACK_AUDIT,)
    holds("level of the evidence", where, f"one of {list(levels)}", record.level in levels, record.level)
    holds("evidence", where, "the hash of a report", record.evidence != ZERO, "zero")
    again = (record.level, record.seat) in erasure.attested
    holds("evidence", where, "one a level and seat", not again, f"a second one of level {record.level}")
    auditor = chain.history.registry.auditors.get(record.seat)
    sits = auditor is not None and auditor.serves(erasure.opened.study, logged.timestamp)
    holds("evidence", where, "an auditor of the study in its term", sits, f"auditor's seat {record.seat}")


# --------------------------------------------------------------------------------------------------------------------

# name of the check | record | rule. A check ends at its first fault; the others go on.
RULES: Final[tuple[tuple[str, type, Rule], ...]] = (
    ("accumulators", RoundOpened, accumulators),
    ("identities", StudyCreated, study_identity),
    ("identities", FormRegistered, form_identity),
    ("identities", ErasureOpened, batch_identity),
    ("identities", BranchCreated, branch_identity),
    ("rounds-opened", RoundOpened, opened_round),
    ("phases", Committed, committed),
    ("phases", Abstained, committed),
    ("phases", HavePosted, have),
    ("phases", RoundFinal, final_in_time),
    ("phases", RoundFailed, failed),
    ("results", RoundFinal, result),
    ("erasure-steps", ErasureOpened, due),
    ("erasure-steps", ErasureExtended, extended),
    ("erasure-steps", ErasureStepped, stepped),
    ("erasure-steps", ErasurePlanned, planned),
    ("erasure-steps", ReplayGivenUp, replay_given_up),
    ("erasure-steps", VerdictsGiven, verdicts),
    ("erasure-steps", ErasureConfirmed, confirmed),
    ("erasure-steps", HeadMoved, head_moved),
    ("erasure-steps", ErasureClosed, closed),
    ("erasure-steps", EvidenceAttested, attested),
)


def observe(chain: Chain, logged: Logged, found: dict[str, Fault]) -> None:
    """Hold the next record against its rules, then take it into the history.

    Args:
        chain: everything before this record; changed.
        logged: the record.
        found: first fault by check, filled; a check that has one is not asked again.

    Raises:
        Fault: the record cannot follow at all (it names a round, study or batch that does not exist).
    """
    record = logged.record
    try:
        # what a deployment logs after the members left it changes nothing here, but for what the fold itself takes
        counts = logged.deployment >= chain.history.deployment
        for name, kind, rule in RULES if counts else ():
            if isinstance(record, kind) and name not in found:
                try:
                    rule(chain, logged, record)
                except Fault as fault:
                    found[name] = fault
        if counts and isinstance(record, ErasurePlanned):
            chain.planners[record.batch] = roster_of(chain.history, record.study)
        chain.history.apply(logged)
    except Fault:
        raise
    except Exception as error:  # a record that no contract emits may break any assumption of the fold
        raise Fault("record", place_of(logged), "a record that follows from those before it", repr(error)) from error
