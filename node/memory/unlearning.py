"""UnlearningRegistry in memory: the rules of `contracts/UnlearningRegistry.sol`, function by function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NoReturn, TypeVar

from crypto.commitments import batch_id
from crypto.digest import ZERO, Digest
from crypto.errors import EncodingError
from crypto.statements import (
    Attest,
    Authorise,
    ErasureSteps,
    Extend,
    OpenErasure,
    Plan,
    Purged,
    Refuse,
    Statement,
    Verdict,
    struct_hash,
)
from node.membership import bitmap_of, faults, quorum
from node.memory.machine import Contract, Machine, Skip, Slots, refuse
from node.memory.membership import Membership
from node.memory.study import ForkTerms
from node.memory.training import TrainingLedger
from node.records import (
    LEVEL_ATTACK_AUDIT,
    LEVEL_LOCAL_REPLAY,
    MAX_MEMBERS,
    ErasureAuthorised,
    ErasureClosed,
    ErasureConfirmed,
    ErasureExtended,
    ErasureOpened,
    ErasurePlanned,
    ErasureRefused,
    ErasureStepped,
    EvidenceAttested,
    HeadMoved,
    Planning,
    PurgeEntry,
    PurgesAttested,
    Steps,
    VerdictEntry,
    VerdictsGiven,
)


class State(IntEnum):
    """Where a batch is; the order is the way it goes."""

    NONE = 0
    REQUESTED = 1
    AUTHORISED = 2
    EXCLUDED = 3
    COPY_DELETED = 4
    PLANNED = 5
    CONFIRMED = 6
    CERTIFICATE_DELIVERED = 7
    LINK_DESTROYED = 8
    CLOSED = 9
    CLOSED_WITH_EXCEPTIONS = 10
    REFUSED = 11


LONGEST_MONTH: Final = 31 * 86_400
LONGEST_EXTENSION: Final = 61 * 86_400
FINAL_STAGE: Final = 1  # stage 0 is said among members

Entry = TypeVar("Entry", PurgeEntry, VerdictEntry)

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

    state: State
    opened_at: int
    extended_to: int = 0
    excluded_at: int = 0
    planned_at: int = 0
    replays: bool = False
    alone: bool = False  # planned without the steps of a controller that was no active member
    plan_model: Digest = ZERO
    branch: int = 0
    plan_roster: int = 0
    purged: int = 0
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
        self._attested: Slots[tuple[Digest, int, int], bool] = Slots(machine, False)  # (batch, level, seat)

    def state_of(self, batch: Digest) -> State:
        """Where a batch is."""
        b = self._batches[batch]
        return State.NONE if b is None else b.state

    def open_erasure(self, t: OpenErasure, signature: bytes, steps: Steps) -> None:
        """`openErasure`: by any active member; authorised at once where the poster is the controller."""
        now = self.machine.timestamp
        if t.requests_root == ZERO:
            refuse("Missing", field="requestsRoot")
        if t.due_at == 0:
            refuse("Missing", field="dueAt")
        if t.due_at > now + LONGEST_MONTH:
            refuse("DueTooLate", dueAt=t.due_at, last=now + LONGEST_MONTH)
        batch = batch_id(struct_hash(t))
        if self._batches[batch] is not None:
            refuse("BatchKnown", batch=batch)
        self._training.check_study(t.study)
        roster = self._membership.snapshot()
        if not roster.has(t.poster):
            refuse("NotActive", index=t.poster)
        # A removed hospital still controls what it granted.
        if roster.ledger_of(t.controller) == bytes(20):
            refuse("NotActive", index=t.controller)
        self.check(t.poster, roster.ledger_of(t.poster), t, signature)
        own = t.poster == t.controller
        b = Batch(State.AUTHORISED if own else State.REQUESTED, now)
        self.record(ErasureOpened(batch, t.study, t.controller, t.poster, t.requests_root, t.due_at, now))
        if steps.evidence:
            if not own:
                refuse("NotController", expected=t.controller, got=t.poster)
            b = self._step(batch, t, b, steps)
        self._batches[batch] = b

    def authorise(self, t: OpenErasure, member: int, signature: bytes) -> None:
        """`authorise`: the controller."""
        batch, b = self._known(t)
        if b.state is not State.REQUESTED:
            _wrong_state(batch, b.state)
        self._check_controller(t, member, Authorise(batch, member), signature)
        self._batches[batch] = replace(b, state=State.AUTHORISED)
        self.record(ErasureAuthorised(batch))

    def refuse(self, t: OpenErasure, member: int, ground: int, signature: bytes) -> None:
        """`refuse`: the controller alone, with a legal ground."""
        batch, b = self._known(t)
        if b.state not in (State.REQUESTED, State.AUTHORISED):
            _wrong_state(batch, b.state)
        if ground == 0:
            refuse("Missing", field="ground")
        self._check_controller(t, member, Refuse(batch, member, ground), signature)
        self._batches[batch] = replace(b, state=State.REFUSED)
        self.record(ErasureRefused(batch, ground))

    def extend(self, t: OpenErasure, member: int, due_at: int, signature: bytes) -> None:
        """`extend`: the controller, once, in time, by at most two months."""
        batch, b = self._known(t)
        if b.state >= State.CLOSED:
            _wrong_state(batch, b.state)
        if b.extended_to:
            refuse("AlreadyExtended", batch=batch, dueAt=b.extended_to)
        now, last = self.machine.timestamp, t.due_at + LONGEST_EXTENSION
        if now > t.due_at:
            refuse("ExtensionTooLate", dueAt=t.due_at, timestamp=now)
        if not t.due_at < due_at <= last:
            refuse("ExtensionOutOfBounds", dueAt=due_at, first=t.due_at + 1, last=last)
        self._check_controller(t, member, Extend(batch, member, due_at), signature)
        self._batches[batch] = replace(b, extended_to=due_at)
        self.record(ErasureExtended(batch, due_at))

    def step(self, t: OpenErasure, member: int, steps: Steps) -> None:
        """`step`: the controller's steps in their order."""
        batch, b = self._known(t)
        if member != t.controller:
            refuse("NotController", expected=t.controller, got=member)
        if not steps.evidence:
            refuse("Missing", field="evidence")
        self._batches[batch] = self._step(batch, t, b, steps)

    def plan(self, call: Planning) -> None:
        """`plan`: votes of the study's roster; forks the study."""
        t = call.opening
        batch, b = self._known(t)
        active = self._membership.snapshot().active
        alone = b.state < State.COPY_DELETED and not active >> t.controller & 1
        if b.state is not State.COPY_DELETED and not alone:
            _wrong_state(batch, b.state)
        terms = self._training.erasure_terms(t.study)
        now, until = self.machine.timestamp, b.opened_at + terms.erasure_window
        if now <= until:
            refuse("TooEarly", until=until, timestamp=now)
        if terms.opened_at and terms.opened_at <= b.excluded_at:
            refuse("RoundInFlight", openedAt=terms.opened_at, excludedAt=b.excluded_at)
        # The beacon of a replay must be its own; the root branch's seed is zero.
        if call.branch_seed == ZERO and call.target_height != call.base_height:
            refuse("Missing", field="branchSeed")
        n = terms.roster.bit_count()
        statement = Plan(
            batch,
            call.parent_branch,
            call.base_height,
            call.base_model,
            call.branch_seed,
            call.target_height,
            call.method,
            call.rounds,
        )
        needed = quorum(n, faults(n, terms.f))
        self.check_quorum(
            statement, call.votes, terms.roster, needed, self._membership.roster_at(b.opened_at).ledger_of
        )
        branch = self._training.fork(
            ForkTerms(
                t.study,
                batch,
                call.parent_branch,
                call.base_height,
                call.base_model,
                call.branch_seed,
                call.target_height,
                call.rounds,
            ),
            call.proof,
        )
        replays = call.target_height != call.base_height
        self._batches[batch] = replace(
            b,
            state=State.PLANNED,
            planned_at=now,
            replays=replays,
            alone=alone,
            plan_model=ZERO if replays else call.base_model,
            branch=branch,
            plan_roster=terms.roster,
        )
        self.record(
            ErasurePlanned(
                batch,
                t.study,
                branch,
                call.parent_branch,
                call.base_height,
                call.base_model,
                call.branch_seed,
                call.target_height,
                call.method,
                call.rounds,
            )
        )

    def attest_purge(self, t: OpenErasure, entries: Sequence[PurgeEntry]) -> None:
        """`attestPurge`: a batch; entries that do not count are skipped and logged."""
        batch, b = self._known(t)
        if b.state < State.PLANNED or b.state is State.REFUSED:
            _wrong_state(batch, b.state)
        self._batches[batch] = self._attest(batch, b, entries)

    def verdicts(self, t: OpenErasure, entries: Sequence[VerdictEntry], purges: Sequence[PurgeEntry]) -> None:
        """`verdicts`: a batch; enough confirmations by others than the controller move the head."""
        batch, b = self._known(t)
        if b.state < State.PLANNED or b.state is State.REFUSED:
            _wrong_state(batch, b.state)
        model = self._training.caught_up(t.study, b.branch) if b.replays else b.plan_model
        if model == ZERO:
            refuse("NotCaughtUp", branch=b.branch)
        terms = self._training.erasure_terms(t.study)
        others = terms.roster & ~(1 << t.controller)
        b = self._judge(batch, b, entries, others, model)
        if purges:
            b = self._attest(batch, b, purges)
        n = terms.roster.bit_count()
        least = verdicts_needed(n, others.bit_count(), faults(n, terms.f))
        confirmed = b.state < State.CONFIRMED and (b.confirmers & others).bit_count() >= least
        if confirmed:
            b = replace(b, state=State.CONFIRMED)
            self.record(ErasureConfirmed(batch, b.branch, model))
            self.record(HeadMoved(batch, t.study, b.branch))
        self._batches[batch] = b
        if confirmed:
            self._training.head_moved(t.study)

    def attest(self, t: OpenErasure, level: int, seat: int, evidence: Digest, signature: bytes) -> None:
        """`attest`: an auditor's evidence about a confirmed erasure, once for each level and seat."""
        batch, b = self._known(t)
        if b.state < State.CONFIRMED or b.state is State.REFUSED:
            _wrong_state(batch, b.state)
        # Where nothing was replayed there is no replay that anybody could have repeated.
        if level != LEVEL_ATTACK_AUDIT and not (level == LEVEL_LOCAL_REPLAY and b.replays):
            refuse("WrongLevel", level=level)
        if evidence == ZERO:
            refuse("Missing", field="evidence")
        if self._attested[batch, level, seat]:
            refuse("AttestedBefore", batch=batch, level=level, seat=seat)
        ledger = self._membership.ledger_of_auditor(seat, t.study)
        self.check(seat, ledger, Attest(batch, level, seat, evidence), signature)
        self._attested[batch, level, seat] = True
        self.record(EvidenceAttested(batch, level, seat, evidence))

    def _step(self, batch: Digest, t: OpenErasure, b: Batch, steps: Steps) -> Batch:
        """The steps of one statement, of which each must be due."""
        state = b.state
        if b.alone:  # the copy first, and that is over
            _wrong_state(batch, state)
        for number in range(steps.first, steps.first + len(steps.evidence)):
            if state not in STEPS:
                _wrong_state(batch, state)
            due, state = STEPS[state]
            if number != due:
                refuse("WrongStep", expected=due, got=steps.first)
            if state is State.EXCLUDED:
                b = replace(b, excluded_at=self.machine.timestamp)
        statement = ErasureSteps(batch, t.controller, steps.first, steps.evidence)
        self._check_controller(t, t.controller, statement, steps.signature)
        self.record(ErasureStepped(batch, steps.first, steps.evidence))
        if state is State.CLOSED:
            exceptions = 0
            if b.replays:
                exceptions = (b.plan_roster | self._training.erasure_terms(t.study).roster) & ~b.purged
            if exceptions:
                state = State.CLOSED_WITH_EXCEPTIONS
            self.record(ErasureClosed(batch, exceptions))
        return replace(b, state=state)

    def _attest(self, batch: Digest, b: Batch, entries: Sequence[PurgeEntry]) -> Batch:
        kept = {}
        for e in _ascending(entries):
            reason = self._fault(b, b.purged, e.member, Purged(batch, e.member, FINAL_STAGE, e.inventory), e.signature)
            if reason is not None:
                self.skip(batch, e.member, reason)
            else:
                kept[e.member] = e.inventory
        if not kept:
            return b
        self.record(PurgesAttested(batch, bitmap_of(kept), tuple(kept.values())))
        return replace(b, purged=b.purged | bitmap_of(kept))

    def _judge(self, batch: Digest, b: Batch, entries: Sequence[VerdictEntry], others: int, model: Digest) -> Batch:
        there, kept, confirming = b.confirmers | b.deniers, 0, 0
        for e in _ascending(entries):
            statement = Verdict(batch, e.member, b.branch, model, e.confirmed)
            reason = self._fault(b, there, e.member, statement, e.signature)
            if not others >> e.member & 1:
                reason = Skip.UNKNOWN_MEMBER
            if reason is not None:
                self.skip(batch, e.member, reason)
                continue
            kept |= 1 << e.member
            confirming |= e.confirmed << e.member
        if not kept:
            return b
        self.record(VerdictsGiven(batch, b.branch, model, kept, confirming))
        return replace(b, confirmers=b.confirmers | confirming, deniers=b.deniers | kept & ~confirming)

    def _fault(self, b: Batch, there: int, member: int, statement: Statement, signature: bytes) -> Skip | None:
        """Why an entry does not count. A member that left may hold copies, and may attest their purge."""
        ledger = self._membership.roster_at(b.opened_at).ledger_of(member)
        if ledger == bytes(20):
            return Skip.UNKNOWN_MEMBER
        if there >> member & 1:
            return Skip.DUPLICATE
        return None if self.signed(statement, signature, ledger) else Skip.BAD_SIGNATURE

    def _known(self, t: OpenErasure) -> tuple[Digest, Batch]:
        batch = batch_id(struct_hash(t))
        b = self._batches[batch]
        if b is None:
            refuse("BatchUnknown", batch=batch)
        return batch, b

    def _check_controller(self, t: OpenErasure, member: int, statement: Statement, signature: bytes) -> None:
        if member != t.controller:
            refuse("NotController", expected=t.controller, got=member)
        self.check(member, self._membership.snapshot().ledger_of(member), statement, signature)


def _ascending(entries: Iterable[Entry]) -> list[Entry]:
    """Entries one of a member, the last, in the order of members, as `node/abi.py` packs them."""
    found = dict(sorted({one.member: one for one in entries}.items()))
    for member in found:
        if not 0 <= member < MAX_MEMBERS:
            raise EncodingError("entries", f"member index {member} is not between 0 and {MAX_MEMBERS - 1}")
    return list(found.values())


def verdicts_needed(n: int, others: int, f: int) -> int:
    """Members other than the controller that must confirm: all others but f; below four members one."""
    if n < 4:
        return 1
    return others - f if others > f + 1 else 1


def _wrong_state(batch: Digest, state: State) -> NoReturn:
    refuse("WrongState", batch=batch, state=int(state))
