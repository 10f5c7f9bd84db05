"""UnlearningRegistry in memory: the rules of `contracts/UnlearningRegistry.sol`, function by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NoReturn

from crypto.commitments import batch_id
from crypto.digest import ZERO, Digest
from crypto.statements import (
    Authorise,
    ErasureStep,
    OpenErasure,
    Plan,
    Purged,
    Refuse,
    Statement,
    Verdict,
    struct_hash,
)
from node.membership import faults, quorum, slack
from node.memory.machine import Contract, Machine, Skip, Slots, refuse
from node.memory.membership import Membership
from node.memory.study import ForkTerms
from node.memory.training import TrainingLedger
from node.records import (
    ErasureAuthorised,
    ErasureClosed,
    ErasureConfirmed,
    ErasureOpened,
    ErasurePlanned,
    ErasureRefused,
    ErasureStepped,
    HeadMoved,
    Planning,
    PurgeAttested,
    PurgeEntry,
    ReplayOpened,
    VerdictEntry,
    VerdictGiven,
)


class State(IntEnum):
    """Where a batch is; the order is the way it goes."""

    NONE = 0
    REQUESTED = 1
    AUTHORISED = 2
    EXCLUDED = 3
    COPY_DELETED = 4
    PLANNED = 5
    REPLAYING = 6
    CONFIRMED = 7
    CERTIFICATE_DELIVERED = 8
    LINK_DESTROYED = 9
    CLOSED = 10
    CLOSED_WITH_EXCEPTIONS = 11
    REFUSED = 12


STEPS: Final = {
    State.AUTHORISED: (1, State.EXCLUDED),
    State.EXCLUDED: (2, State.COPY_DELETED),
    State.CONFIRMED: (3, State.CERTIFICATE_DELIVERED),
    State.CERTIFICATE_DELIVERED: (4, State.LINK_DESTROYED),
    State.LINK_DESTROYED: (5, State.CLOSED),
}
"""State -> the step that is due, and where it leads (5 also to CLOSED_WITH_EXCEPTIONS)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """An erasure batch. Member sets are bitmaps, times seconds; the plan's fields are set from PLANNED on."""

    study: Digest
    controller: int
    state: State
    opened_at: int
    excluded_at: int = 0
    planned_at: int = 0
    replays: bool = False
    plan_model: Digest = ZERO
    branch: int = 0
    target_finals: int = 0
    plan_roster: int = 0
    purged_pair: int = 0
    purged_all: int = 0
    confirmers: int = 0
    deniers: int = 0


class UnlearningRegistry(Contract):
    """Erasure batches from request to close."""

    def __init__(self, machine: Machine, address: bytes, membership: Membership, training: TrainingLedger) -> None:
        """Deploy."""
        super().__init__(machine, address)
        self._membership = membership
        self._training = training
        self._batches: Slots[Digest, Batch | None] = Slots(machine, None)
        self._active_plan: Slots[Digest, Digest] = Slots(machine, ZERO)

    def state_of(self, batch: Digest) -> State:
        """Where a batch is."""
        b = self._batches[batch]
        return State.NONE if b is None else b.state

    def open_erasure(
        self, study: Digest, controller: int, poster: int, requests_root: Digest, due_at: int, signature: bytes
    ) -> None:
        """`openErasure`: by any active member; authorised at once where the poster is the controller."""
        if requests_root == ZERO:
            refuse("Missing", field="requestsRoot")
        if due_at == 0:
            refuse("Missing", field="dueAt")
        statement = OpenErasure(study, controller, poster, requests_root, due_at)
        batch = batch_id(struct_hash(statement))
        if self._batches[batch] is not None:
            refuse("BatchKnown", batch=batch)
        self._training.check_study(study)
        roster = self._membership.snapshot()
        if not roster.has(poster):
            refuse("NotActive", index=poster)
        # A removed hospital still controls what it granted.
        if roster.ledger_of(controller) == bytes(20):
            refuse("NotActive", index=controller)
        self.check(poster, roster.ledger_of(poster), statement, signature)
        now = self.machine.timestamp
        state = State.AUTHORISED if poster == controller else State.REQUESTED
        self._batches[batch] = Batch(study, controller, state, now)
        self.record(ErasureOpened(batch, study, controller, poster, requests_root, due_at, now))

    def authorise(self, batch: Digest, member: int, signature: bytes) -> None:
        """`authorise`: the controller."""
        b = self._batch(batch)
        if b.state is not State.REQUESTED:
            _wrong_state(batch, b)
        self._check_controller(b, member, Authorise(batch, member), signature)
        self._batches[batch] = replace(b, state=State.AUTHORISED)
        self.record(ErasureAuthorised(batch))

    def refuse(self, batch: Digest, member: int, ground: int, signature: bytes) -> None:
        """`refuse`: the controller alone, with a legal ground."""
        b = self._batch(batch)
        if b.state not in (State.REQUESTED, State.AUTHORISED):
            _wrong_state(batch, b)
        if ground == 0:
            refuse("Missing", field="ground")
        self._check_controller(b, member, Refuse(batch, member, ground), signature)
        self._batches[batch] = replace(b, state=State.REFUSED)
        self.record(ErasureRefused(batch, ground))

    def step(self, batch: Digest, member: int, number: int, evidence: Digest, signature: bytes) -> None:
        """`step`: the controller's steps in their order."""
        b = self._batch(batch)
        if b.state not in STEPS:
            _wrong_state(batch, b)
        due, state = STEPS[b.state]
        if number != due:
            refuse("WrongStep", expected=due, got=number)
        self._check_controller(b, member, ErasureStep(batch, member, number, evidence), signature)
        self.record(ErasureStepped(batch, number, evidence))
        if state is State.CLOSED:
            self._close(batch, b)
            return
        excluded_at = self.machine.timestamp if state is State.EXCLUDED else b.excluded_at
        self._batches[batch] = replace(b, state=state, excluded_at=excluded_at)

    def plan(self, call: Planning) -> None:
        """`plan`: votes of the study's roster; forks the study."""
        b = self._batch(call.batch)
        if b.state is not State.COPY_DELETED:
            _wrong_state(call.batch, b)
        terms = self._training.erasure_terms(b.study)
        now, until = self.machine.timestamp, b.opened_at + terms.erasure_window
        if now <= until:
            refuse("TooEarly", until=until, timestamp=now)
        if terms.opened_at and terms.opened_at <= b.excluded_at:
            refuse("RoundInFlight", openedAt=terms.opened_at, excludedAt=b.excluded_at)
        # The beacon of a replay must be its own; the root branch's seed is zero.
        if call.branch_seed == ZERO and call.target_height != call.base_height:
            refuse("Missing", field="branchSeed")
        active = self._active_plan[b.study]
        if active != ZERO:
            refuse("PlanActive", study=b.study, active=active)
        n = terms.roster.bit_count()
        statement = Plan(
            call.batch, call.parent_branch, call.base_height, call.base_model, call.branch_seed, call.target_height
        )
        needed = quorum(n, faults(n, terms.f))
        self.check_quorum(statement, call.votes, terms.roster, needed, self._membership.snapshot().ledger_of)
        branch, target_finals = self._training.fork(
            ForkTerms(
                b.study,
                call.batch,
                call.parent_branch,
                call.base_height,
                call.base_model,
                call.branch_seed,
                call.target_height,
            ),
            call.proof,
        )
        replays = call.target_height != call.base_height
        self._batches[call.batch] = replace(
            b,
            state=State.PLANNED,
            planned_at=now,
            replays=replays,
            plan_model=ZERO if replays else call.base_model,
            branch=branch,
            target_finals=target_finals,
            plan_roster=terms.roster,
        )
        self._active_plan[b.study] = call.batch
        self.record(
            ErasurePlanned(
                call.batch,
                b.study,
                branch,
                call.parent_branch,
                call.base_height,
                call.base_model,
                call.branch_seed,
                call.target_height,
            )
        )

    def attest_purge(self, batch: Digest, entries: Sequence[PurgeEntry]) -> None:
        """`attestPurge`: a batch; entries that do not count are skipped and logged."""
        b = self._batch(batch)
        if b.state < State.PLANNED or b.state is State.REFUSED:
            _wrong_state(batch, b)
        for e in entries:
            reason = self._purge_fault(batch, b, e)
            if reason is not None:
                self.skip(batch, e.member, reason)
                continue
            if e.stage == 0:
                b = replace(b, purged_pair=b.purged_pair | 1 << e.member)
            else:
                b = replace(b, purged_all=b.purged_all | 1 << e.member)
            self.record(PurgeAttested(batch, e.member, e.stage, e.inventory))
        self._batches[batch] = b

    def open_replay(self, batch: Digest) -> None:
        """`openReplay`: by anyone, when the pair is purged or has been waited for."""
        b = self._batch(batch)
        if b.state is not State.PLANNED or not b.replays:
            _wrong_state(batch, b)
        terms = self._training.erasure_terms(b.study)
        attested = b.purged_pair & terms.roster
        if attested != terms.roster:
            n = terms.roster.bit_count()
            least = n - slack(n, faults(n, terms.f))
            until = b.planned_at + terms.purge_seconds
            if self.machine.timestamp <= until or attested.bit_count() < least:
                refuse("PurgeMissing", attested=attested, roster=terms.roster, least=least, until=until)
        self._batches[batch] = replace(b, state=State.REPLAYING)
        self.record(ReplayOpened(batch, b.branch))
        self._training.open_replay(b.study)

    def verdicts(self, batch: Digest, entries: Sequence[VerdictEntry]) -> None:
        """`verdicts`: a batch; enough confirmations by others than the controller move the head."""
        b = self._batch(batch)
        ready = (
            b.state is State.REPLAYING
            or (b.state is State.PLANNED and not b.replays)
            or (b.state >= State.CONFIRMED and b.state is not State.REFUSED)
        )
        if not ready:
            _wrong_state(batch, b)
        model = self._subject_of_verdicts(b)
        terms = self._training.erasure_terms(b.study)
        others = terms.roster & ~(1 << b.controller)
        for e in entries:
            reason = self._verdict_fault(batch, b, others, model, e)
            if reason is not None:
                self.skip(batch, e.member, reason)
                continue
            if e.confirmed:
                b = replace(b, confirmers=b.confirmers | 1 << e.member)
            else:
                b = replace(b, deniers=b.deniers | 1 << e.member)
            self.record(VerdictGiven(batch, e.member, e.branch, e.head_model, e.confirmed))
        n = terms.roster.bit_count()
        least = verdicts_needed(n, others.bit_count(), faults(n, terms.f))
        if b.state < State.CONFIRMED and (b.confirmers & others).bit_count() >= least:
            b = self._confirm(batch, b, model)
        self._batches[batch] = b

    def _confirm(self, batch: Digest, b: Batch, model: Digest) -> Batch:
        self._active_plan[b.study] = ZERO
        self.record(ErasureConfirmed(batch, b.branch, model))
        self.record(HeadMoved(batch, b.study, b.branch))
        if b.replays:
            self._training.head_moved(b.study)
        return replace(b, state=State.CONFIRMED)

    def _close(self, batch: Digest, b: Batch) -> None:
        exceptions = 0
        if b.replays:
            exceptions = (b.plan_roster | self._training.erasure_terms(b.study).roster) & ~b.purged_all
        state = State.CLOSED_WITH_EXCEPTIONS if exceptions else State.CLOSED
        self._batches[batch] = replace(b, state=state)
        self.record(ErasureClosed(batch, exceptions))

    def _subject_of_verdicts(self, b: Batch) -> Digest:
        """The model that verdicts are about: where the replay caught up, or the plan's checkpoint."""
        if not b.replays:
            return b.plan_model
        checkpoint = self._training.checkpoint_of(b.study, b.branch, b.target_finals)
        if checkpoint is None:
            refuse("NotCaughtUp", branch=b.branch, targetFinals=b.target_finals)
        return checkpoint[1]

    def _purge_fault(self, batch: Digest, b: Batch, e: PurgeEntry) -> Skip | None:
        if e.stage > 1:
            return Skip.MALFORMED
        if e.stage == 0 and not b.replays:
            return Skip.WRONG_PHASE
        ledger = self._membership.snapshot().ledger_of(e.member)
        if ledger == bytes(20):
            return Skip.UNKNOWN_MEMBER  # a member that left may hold copies, and may attest
        if (b.purged_pair if e.stage == 0 else b.purged_all) >> e.member & 1:
            return Skip.DUPLICATE
        statement = Purged(batch, e.member, e.stage, e.inventory)
        return None if self.signed(statement, e.signature, ledger) else Skip.BAD_SIGNATURE

    def _verdict_fault(self, batch: Digest, b: Batch, others: int, model: Digest, e: VerdictEntry) -> Skip | None:
        if not others >> e.member & 1:
            return Skip.UNKNOWN_MEMBER
        if (b.confirmers | b.deniers) >> e.member & 1:
            return Skip.DUPLICATE
        if e.branch != b.branch or e.head_model != model:
            return Skip.MALFORMED
        statement = Verdict(batch, e.member, e.branch, e.head_model, e.confirmed)
        ledger = self._membership.snapshot().ledger_of(e.member)
        return None if self.signed(statement, e.signature, ledger) else Skip.BAD_SIGNATURE

    def _batch(self, batch: Digest) -> Batch:
        b = self._batches[batch]
        if b is None:
            refuse("BatchUnknown", batch=batch)
        return b

    def _check_controller(self, b: Batch, member: int, statement: Statement, signature: bytes) -> None:
        if member != b.controller:
            refuse("NotController", expected=b.controller, got=member)
        self.check(member, self._membership.snapshot().ledger_of(member), statement, signature)


def verdicts_needed(n: int, others: int, f: int) -> int:
    """Members other than the controller that must confirm: all others but f; below four members one."""
    if n < 4:
        return 1
    return others - f if others > f + 1 else 1


def _wrong_state(batch: Digest, b: Batch) -> NoReturn:
    refuse("WrongState", batch=batch, state=int(b.state))
