"""TrainingLedger in memory: the rules of `contracts/TrainingLedger.sol`, function by function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NoReturn

from crypto.commitments import base_result, lineage, link, result_hash, round_id, study_id
from crypto.digest import ZERO, Digest, keccak256
from crypto.statements import (
    Abstain,
    AuditAccess,
    Commit,
    CreateStudy,
    Have,
    Join,
    Leave,
    Statement,
    Vote,
    encode_data,
    struct_hash,
)
from node.membership import LAST_CHANCES
from node.memory.consent import ConsentRegistry
from node.memory.machine import Contract, Machine, Skip, Slots, refuse
from node.memory.membership import Membership
from node.memory.rounds import Clock, Conduct, Figures, Phase, Round, available_of, clock_of
from node.memory.study import Branch, ErasureTerms, Forking, ForkTerms, Study, check_terms
from node.records import (
    Abstained,
    AuditAccessed,
    BaseProof,
    BranchCreated,
    CommitEntry,
    Committed,
    Continuation,
    Equivocated,
    EquivocationReport,
    HaveEntry,
    HavePosted,
    Joined,
    Left,
    ReplayGivenUp,
    Result,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyContinued,
    StudyCreated,
)

LAST_CODE: Final = 8
OUTCOME_MODEL: Final = 1
OUTCOME_NONE: Final = 2

EVIDENCE: Final[dict[int, tuple[type[Statement], int, slice | None]]] = {
    1: (Commit, 5, None),
    2: (Vote, 4, slice(32, 64)),
    3: (Have, 4, slice(64, 96)),
}
"""Kind of equivocation -> the statement, its words, and where it names its attempt."""


class TrainingLedger(Contract):
    """Studies, rounds and branches."""

    def __init__(
        self,
        machine: Machine,
        address: bytes,
        membership: Membership,
        consent: ConsentRegistry,
        predecessor: TrainingLedger | None = None,
        continued: Sequence[Continuation] = (),
    ) -> None:
        """Deploy, with studies of the predecessor that go on here."""
        super().__init__(machine, address)
        self._membership = membership
        self._consent = consent
        self._studies: Slots[Digest, Study | None] = Slots(machine, None)
        self._branches: Slots[tuple[Digest, int], Branch] = Slots(machine, Branch())
        self._given_up: Slots[tuple[Digest, int], Digest] = Slots(machine, ZERO)  # study, branch
        self._models: Slots[tuple[Digest, int, int], Digest] = Slots(machine, ZERO)  # study, branch, height
        self._voids: Slots[tuple[Digest, int, int], bool] = Slots(machine, False)  # ended without a model
        self._rounds: Slots[Digest, Round | None] = Slots(machine, None)
        self._haves: Slots[Digest, Mapping[int, Mapping[int, int]]] = Slots(machine, {})
        self._announced: Slots[Digest, bool] = Slots(machine, False)
        for one in continued:
            assert predecessor is not None
            self._continue(predecessor, one)

    def _continue(self, old: TrainingLedger, given: Continuation) -> None:
        """A study from where it stood; its tree is the deployer's word, and suspensions end."""
        study = study_id(struct_hash(given.terms))
        s = old._study(study)
        if s.open_round != ZERO or s.forking is not Forking.NONE:
            refuse("StudyNotAtRest", study=study, openRound=s.open_round, forkState=int(s.forking))
        if self._studies[study] is not None:
            refuse("StudyKnown", study=study)
        s = replace(s, conduct=Conduct({}, {}), commit_root=ZERO)
        self._studies[study] = s
        model = old._models[study, s.branch, s.final_height]
        self._models[study, s.branch, s.final_height] = model
        for number, (parent, base_height, base_finals, _) in enumerate(given.branches, start=1):
            self._branches[study, number] = Branch(parent, base_height, base_finals)
        for key, word in given.voids:
            for bit in range(256):
                if word >> bit & 1:
                    self._voids[study, key >> 32, (key & 0xFFFFFFFF) << 8 | bit] = True
        self.machine.emit(
            StudyContinued(study, s.joined, s.left, s.branch, s.height, s.finals, s.lineage, model, given.tree)
        )

    # --- studies

    def create_study(self, terms: CreateStudy, signature: bytes) -> None:
        """`createStudy`."""
        study = study_id(struct_hash(terms))
        if self._studies[study] is not None:
            refuse("StudyKnown", study=study)
        roster = self._membership.round_snapshot()
        if not roster.has(terms.member):
            refuse("NotActive", index=terms.member)
        if not terms.invited >> terms.member & 1:
            refuse("NotInvited", study=study, index=terms.member)
        check_terms(terms, roster.active)
        self._check_member(terms.member, terms, signature)
        self._studies[study] = Study(terms)
        self._models[study, 0, 0] = terms.initial_model
        self.machine.emit(StudyCreated(study, terms.member, terms))

    def join(self, study: Digest, member: int, signature: bytes) -> None:
        """`join`: the last invited member that joins opens the first round."""
        s = self._study(study)
        if not s.terms.invited >> member & 1:
            refuse("NotInvited", study=study, index=member)
        if s.joined >> member & 1:
            refuse("AlreadyJoined", study=study, index=member)
        if s.left >> member & 1:
            refuse("AlreadyLeft", study=study, index=member)
        if not self._membership.round_snapshot().has(member):
            refuse("NotActive", index=member)
        self._check_member(member, Join(study, member), signature)
        s = replace(s, joined=s.joined | 1 << member)
        self.machine.emit(Joined(study, member))
        if s.open_round == ZERO:
            s = self._open_next(study, s)
        self._studies[study] = s

    def leave(self, study: Digest, member: int, signature: bytes) -> None:
        """`leave`: takes effect with the next round."""
        s = self._study(study)
        if not s.terms.invited >> member & 1:
            refuse("NotInvited", study=study, index=member)
        if s.left >> member & 1:
            refuse("AlreadyLeft", study=study, index=member)
        self._check_member(member, Leave(study, member), signature)
        self._studies[study] = replace(s, joined=s.joined & ~(1 << member), left=s.left | 1 << member)
        self.machine.emit(Left(study, member))

    def resume(self, study: Digest) -> None:
        """`resume`: by anyone, where an end or a join opened nothing and a round can open now."""
        s = self._study(study)
        resumed = s if s.open_round != ZERO else self._open_next(study, s)
        if resumed is s:
            refuse("NothingToOpen", study=study)
        self._studies[study] = resumed

    # --- rounds

    def post_commits(self, study: Digest, round_id: Digest, entries: Sequence[CommitEntry]) -> None:
        """`postCommits`: a batch; entries that do not count are skipped and logged."""
        s, one = self._in_training(study, round_id)
        root = s.commit_root if one.committed else ZERO
        counted: list[Committed] = []
        for e in entries:
            statement = Commit(round_id, e.member, e.update_root, e.dataset_root, e.next_dataset_root)
            reason = (
                Skip.MALFORMED
                if e.update_root == ZERO
                else self._contributor_fault(one, e.member, statement, e.signature)
            )
            if reason is not None:
                self.skip(round_id, e.member, reason)
                continue
            one = replace(one, committed=one.committed | 1 << e.member)
            root = keccak256(root + struct_hash(statement))
            counted.append(Committed(round_id, e.member, e.update_root, e.dataset_root, e.next_dataset_root))
        if not counted:
            return
        for record in counted:  # one event of them all, after those of the entries that were skipped
            self.machine.emit(record)
        self._studies[one.study] = replace(s, commit_root=root)
        self._rounds[round_id] = one.sealed_if_full(self.machine.timestamp)

    def post_abstains(self, study: Digest, round_id: Digest, entries: Sequence[tuple[int, bytes]]) -> None:
        """`postAbstains`: skips as `post_commits`."""
        _, one = self._in_training(study, round_id)
        before = one.abstained
        for member, signature in entries:
            reason = self._contributor_fault(one, member, Abstain(round_id, member), signature)
            if reason is not None:
                self.skip(round_id, member, reason)
                continue
            one = replace(one, abstained=one.abstained | 1 << member)
            self.machine.emit(Abstained(round_id, member))
        if one.abstained != before:
            self._rounds[round_id] = one.sealed_if_full(self.machine.timestamp)

    def post_haves(self, study: Digest, round_id: Digest, attempt: int, entries: Sequence[HaveEntry]) -> None:
        """`postHaves`: in the have window of this attempt."""
        s, one = self._open(study, round_id)
        clock = self._clock(round_id, one, s)
        if clock.phase is not Phase.HAVE or clock.attempt != attempt:
            _wrong_phase(round_id, clock)
        haves = self._haves[round_id]
        posted = dict(haves.get(attempt, {}))
        for e in entries:
            reason = self._have_fault(round_id, attempt, one, posted, e)
            if reason is not None:
                self.skip(round_id, e.member, reason)
                continue
            posted[e.member] = e.bitmap
            self.machine.emit(HavePosted(round_id, attempt, e.member, e.bitmap))
        self._haves[round_id] = {**haves, attempt: posted}

    def finalise(
        self, study: Digest, round_id: Digest, attempt: int, result: Result, votes: Sequence[tuple[int, bytes]]
    ) -> None:
        """`finalise`: the first result with a quorum of equal votes ends the round and opens the next."""
        s, one = self._open(study, round_id)
        figures = Figures.of(one.roster, s.terms)
        decided = self._decided_set(round_id, attempt, one, s)
        self._check_result(s, one, figures, decided, result)
        hashed = hash_of(result)
        signers = self.check_quorum(
            Vote(round_id, attempt, decided, hashed),
            votes,
            one.roster,
            figures.quorum,
            self._membership.roster_at(one.opened_at).ledger_of,
        )
        self._models[one.study, one.branch, one.height] = result.model_root
        s = replace(s, lineage=lineage(s.lineage, link(one.height, result.model_root, hashed)), final_height=one.height)
        if result.outcome == OUTCOME_MODEL:
            s = replace(s, finals=s.finals + 1)
        self.machine.emit(RoundFinal(round_id, one.study, one.branch, one.height, attempt, result, hashed, signers))
        if result.outcome != OUTCOME_MODEL:
            self._mark_void(s, one)
        self._close(s, one, present=decided, available=decided)

    def fail_round(self, study: Digest, round_id: Digest) -> None:
        """`failRound`: by anyone, when the clock says so."""
        s, one = self._open(study, round_id)
        clock = self._clock(round_id, one, s)
        if clock.failure is None:
            _wrong_phase(round_id, clock)
        self.machine.emit(RoundFailed(round_id, one.study, one.branch, one.height, int(clock.failure)))
        self._mark_void(s, one)
        # Nobody can say here whose blobs were available: who committed neither gains nor loses.
        self._close(s, one, present=0, available=one.committed)

    def report_equivocation(self, call: EquivocationReport) -> None:
        """`reportEquivocation`: two statements of one member that exclude each other; the round may be over."""
        s, o = self._study(call.study), call.opening
        if not o.roster >> call.member & 1:
            refuse("NotActive", index=call.member)
        named = round_id(
            chain_id=self.machine.chain_id,
            contract=self.address,
            study=call.study,
            branch=o.branch,
            height=o.height,
            parent_result=o.parent_result,
            parent_model=o.parent_model,
            epoch=o.epoch,
            roster=o.roster,
            suspended=o.suspended,
            consent_accumulator=o.consent_acc,
            membership_accumulator=o.membership_acc,
            previous_block=o.previous_block,
        )
        known = keccak256(named + call.kind.to_bytes(32, "big") + call.member.to_bytes(32, "big"))
        if self._announced[known]:
            refuse("AlreadyKnown", id=known)
        self._check_contradiction(named, call)
        self._announced[known] = True
        self.machine.emit(Equivocated(named, call.member, call.kind))
        running = self._rounds[s.open_round]
        suspended_now = running is not None and bool(running.suspended >> call.member & 1)
        conduct = s.conduct.punish(call.member, s.terms.suspend_rounds, suspended_now)
        self._studies[call.study] = replace(s, conduct=conduct)

    def audit_access(
        self, study: Digest, seat: int, from_height: int, to_height: int, ground: Digest, signature: bytes
    ) -> None:
        """`auditAccess`: an auditor announces which rounds it will open."""
        self._study(study)
        if from_height == 0 or from_height > to_height:
            refuse("BadRange", **{"from": from_height, "to": to_height})
        auditor = self._membership.auditor_of(seat)
        if (
            auditor is None
            or auditor.study not in (ZERO, study)
            or (auditor.term_end and self.machine.timestamp >= auditor.term_end)
        ):
            refuse("NoSuchSeat", seat=seat)
        statement = AuditAccess(study, seat, from_height, to_height, ground)
        known = struct_hash(statement)
        if self._announced[known]:
            refuse("AlreadyKnown", id=known)
        self.check(seat, auditor.ledger, statement, signature)
        self._announced[known] = True
        self.machine.emit(AuditAccessed(study, seat, from_height, to_height, ground))

    # --- branches: called by UnlearningRegistry only

    def fork(self, t: ForkTerms, proof: BaseProof) -> int:
        """`fork`: the new branch; the training branch when nothing is replayed."""
        s = self._study(t.study)
        if s.forking is not Forking.NONE:
            refuse("ForkActive", study=t.study)
        first = max(t.base_height, self._branches[t.study, s.branch].base_height)
        last = s.height if s.open_round == ZERO else s.height - 1
        if not first <= t.target_height <= last:
            refuse("BadTarget", target=t.target_height, first=first, last=last)
        origin = self._check_base(s, t, proof)
        if t.target_height == t.base_height:
            # Never included: nothing to replay. A checkpoint of another branch proves nothing.
            if t.parent_branch != s.branch:
                refuse("NotOnAncestry", branch=t.parent_branch, height=t.base_height)
            self._studies[t.study] = replace(s, forking=Forking.WAITS_FOR_VERDICTS)
            return s.branch
        branch = s.branch + 1  # the newest branch trains
        began = base_result(t.study, t.batch, t.parent_branch, t.base_height, t.base_model, origin)
        target_finals = self._finals_at(t.study, s.branch, t.target_height)
        if t.rounds > target_finals:
            refuse("TooManyRounds", rounds=t.rounds, finals=target_finals)
        # A method that takes fewer rounds has done as much of the study at its end.
        base_finals = target_finals - t.rounds
        self._branches[t.study, branch] = Branch(t.parent_branch, t.base_height, base_finals, target_finals, began)
        self._models[t.study, branch, t.base_height] = t.base_model
        self.machine.emit(
            BranchCreated(
                t.study,
                branch,
                t.parent_branch,
                t.base_height,
                t.base_model,
                began,
                t.branch_seed,
                t.target_height,
                t.batch,
            )
        )
        waits = s.open_round != ZERO
        self._studies[t.study] = replace(s, forking=Forking.WAITS_FOR_ROUND) if waits else self._replay(t.study, s)
        return branch

    def head_moved(self, study: Digest) -> None:
        """`headMoved`: the new branch's newest model serves."""
        s = self._study(study)
        if s.forking not in (Forking.REPLAYING, Forking.WAITS_FOR_VERDICTS):
            refuse("ForkState", study=study, state=int(s.forking))
        self._studies[study] = replace(s, forking=Forking.NONE)

    # --- views

    def phase(self, round_id: Digest) -> Clock:
        """`phase`: where an open round is at this block's stamp."""
        one = self._rounds[round_id]
        s = None if one is None else self._study(one.study)
        if one is None or s is None or s.open_round != round_id:
            return Clock(Phase.NONE)
        return self._clock(round_id, one, s)

    def check_study(self, study: Digest) -> None:
        """Revert unless there is such a study."""
        self._study(study)

    def caught_up(self, study: Digest, branch: int) -> Digest:
        """`caughtUp`: a branch's first model with as many finals as the one it replays, or with which its replay was
        given up; zero: neither yet.
        """
        if self._given_up[study, branch] != ZERO:
            return self._given_up[study, branch]
        s, b = self._study(study), self._branches[study, branch]
        if branch > s.branch or b.target_finals < b.base_finals:
            return ZERO
        wanted = b.base_height + b.target_finals - b.base_finals
        height = wanted
        while (further := wanted + self._voids_between(study, branch, b.base_height, height)) != height:
            height = further
        return self._models[study, branch, height]

    def erasure_terms(self, study: Digest) -> ErasureTerms:
        """`erasureTerms`."""
        s = self._study(study)
        open_round = self._rounds[s.open_round]
        return ErasureTerms(
            roster=s.joined & self._membership.snapshot().active,
            f=s.terms.f,
            erasure_window=s.terms.erasure_window,
            opened_at=0 if open_round is None else open_round.opened_at,
        )

    # --- opening and closing

    def _open_next(self, study: Digest, s: Study) -> Study:
        """Open the next round, unless the study is over, waits for joins, or has fewer than two members."""
        if s.finals >= s.terms.rounds:
            return s
        members = self._membership.round_snapshot()
        if s.height == 0 and s.terms.invited & members.active & ~s.left & ~s.joined:
            return s
        roster = s.joined & members.active
        if not roster and s.forking is Forking.REPLAYING:  # an erasure that began here ends here
            roster = s.joined & self._membership.snapshot().active
        figures = Figures.of(roster, s.terms)
        if figures.n < 2:
            if s.forking is Forking.REPLAYING:
                self._give_up(study, s)
            return s
        suspended = s.conduct.suspended & roster
        height = s.height + 1
        parent_model = self._models[study, s.branch, s.final_height]
        opened = round_id(
            chain_id=self.machine.chain_id,
            contract=self.address,
            study=study,
            branch=s.branch,
            height=height,
            parent_result=s.lineage,
            parent_model=parent_model,
            epoch=members.epoch,
            roster=roster,
            suspended=suspended,
            consent_accumulator=self._consent.accumulator,
            membership_accumulator=members.accumulator,
            previous_block=self.machine.parent_hash,
        )
        one = Round(study, s.branch, height, self.machine.timestamp, roster, suspended)
        # Nobody is asked: sealed as it opens.
        self._rounds[opened] = one.sealed_if_full(self.machine.timestamp)
        self.machine.emit(
            RoundOpened(
                opened,
                study,
                s.branch,
                height,
                s.lineage,
                parent_model,
                members.epoch,
                roster,
                suspended,
                figures.f,
                figures.quorum,
                self._consent.accumulator,
                members.accumulator,
                self.machine.parent_hash,
                self.machine.timestamp,
            )
        )
        return replace(s, height=height, open_round=opened)

    def _close(self, s: Study, one: Round, *, present: int, available: int) -> None:
        """End the open round and open the next one, or let a waiting fork take over."""
        asked = one.roster & ~one.suspended & ~one.abstained
        conduct = s.conduct.settle(one.suspended, present, asked & ~available, s.terms)
        s = replace(s, conduct=conduct, open_round=ZERO)
        waits = s.forking is Forking.WAITS_FOR_ROUND
        self._studies[one.study] = self._replay(one.study, s) if waits else self._open_next(one.study, s)

    def _replay(self, study: Digest, s: Study) -> Study:
        """From here on the newest branch trains, from its checkpoint."""
        b = self._branches[study, s.branch + 1]
        s = replace(
            s,
            branch=s.branch + 1,
            height=b.base_height,
            final_height=b.base_height,
            finals=b.base_finals,
            forking=Forking.REPLAYING,
            lineage=b.base_result,
        )
        return self._open_next(study, s)

    # --- round rules

    def _decided_set(self, round_id: Digest, attempt: int, one: Round, s: Study) -> int:
        """The set that a result of `attempt` must decide over; reverts when none is accepted now."""
        clock = self._clock(round_id, one, s)
        if attempt == 0:
            if clock.phase not in (Phase.REVEAL, Phase.HAVE, Phase.VOTE):
                _wrong_phase(round_id, clock)
            return one.committed
        if clock.phase is not Phase.VOTE or clock.attempt != attempt:
            _wrong_phase(round_id, clock)
        return available_of(one, s.terms, self._haves[round_id].get(attempt, {}))

    def _check_result(self, s: Study, one: Round, figures: Figures, decided: int, result: Result) -> None:
        invalid = _invalid(result.codes)
        if result.included & invalid:
            refuse("IncludedAndInvalid", members=result.included & invalid)
        if result.included | invalid != decided:
            refuse("WrongSet", expected=decided, got=result.included | invalid)
        included = result.included.bit_count()
        if result.outcome != (OUTCOME_MODEL if included >= figures.least else OUTCOME_NONE):
            refuse("WrongOutcome", outcome=result.outcome, included=included, least=figures.least)
        if result.outcome == OUTCOME_NONE:
            parent_model = self._models[one.study, one.branch, s.final_height]
            if result.model_root != parent_model:
                refuse("ModelChanged", expected=parent_model, got=result.model_root)
        elif result.model_root == ZERO:
            refuse("NoModel")
        commit_root = s.commit_root if one.committed else ZERO
        if result.commit_root != commit_root:
            refuse("WrongCommitRoot", expected=commit_root, got=result.commit_root)

    def _clock(self, round_id: Digest, one: Round, s: Study) -> Clock:
        return clock_of(one, s.terms, self._haves[round_id], self.machine.timestamp)

    def _contributor_fault(self, one: Round, member: int, statement: Statement, signature: bytes) -> Skip | None:
        """Why a commitment or abstention does not count; None: it does."""
        if not one.roster >> member & 1:
            return Skip.UNKNOWN_MEMBER
        if one.suspended >> member & 1:
            return Skip.WRONG_PHASE
        if one.answered >> member & 1:
            return Skip.DUPLICATE
        return None if self._signed_by(one, member, statement, signature) else Skip.BAD_SIGNATURE

    def _have_fault(
        self, round_id: Digest, attempt: int, one: Round, posted: Mapping[int, int], e: HaveEntry
    ) -> Skip | None:
        if not one.roster >> e.member & 1:
            return Skip.UNKNOWN_MEMBER
        if e.member in posted:
            return Skip.DUPLICATE
        if e.bitmap & ~one.committed:
            return Skip.MALFORMED
        statement = Have(round_id, e.member, attempt, e.bitmap)
        return None if self._signed_by(one, e.member, statement, e.signature) else Skip.BAD_SIGNATURE

    def _check_contradiction(self, named: Digest, call: EquivocationReport) -> None:
        """Bodies are the fields as EIP-712 encodes them: the round first, then what must agree."""
        if call.kind not in EVIDENCE:
            refuse("BadKind", kind=call.kind)
        kind, words, agree = EVIDENCE[call.kind]
        bodies = [encode_data(one.statement) for one in (call.a, call.b)]
        for which, body in enumerate(bodies):
            if len(body) != 32 * words:
                refuse("BadEvidence", which=which, length=len(body), expected=32 * words)
        for which, body in enumerate(bodies):
            if body[:32] != named:
                refuse("OffSubject", which=which)
        if kind is not Vote:
            for which, body in enumerate(bodies):
                if int.from_bytes(body[32:64], "big") != call.member:
                    refuse("OffSubject", which=which)
        if agree is not None and bodies[0][agree] != bodies[1][agree]:
            refuse("OffSubject", which=1)  # another attempt
        if bodies[0] == bodies[1]:
            refuse("NoContradiction")
        ledger = self._membership.roster_at(call.opened_at).ledger_of(call.member)
        for one in (call.a, call.b):
            self.check(call.member, ledger, one.statement, one.signature)

    # --- branch rules

    def _check_base(self, s: Study, t: ForkTerms, proof: BaseProof) -> Digest:
        """Revert unless the base model is a checkpoint that the head descends from; its lineage."""
        path: list[Branch] = []
        branch = s.branch
        while branch != t.parent_branch:
            b = self._branches[t.study, branch]
            if branch == 0 or len(path) == len(proof.forks) or b.base_height < t.base_height:
                refuse("NotOnAncestry", branch=t.parent_branch, height=t.base_height)
            path.append(b)
            branch = b.parent
        if len(path) != len(proof.forks):
            refuse("NotOnAncestry", branch=t.parent_branch, height=t.base_height)
        b = self._branches[t.study, branch]
        if t.base_height != b.base_height:
            found = lineage(proof.parent, link(t.base_height, t.base_model, proof.named))
        elif branch:
            found = base_result(t.study, proof.named, b.parent, b.base_height, t.base_model, proof.parent)
        elif t.base_model != s.terms.initial_model:
            refuse("WrongCheckpoint", expected=s.terms.initial_model, got=t.base_model)
        else:
            found = ZERO
        reached = _followed(found, proof.links)
        for made, b in zip(proof.forks, reversed(path), strict=True):
            began = base_result(t.study, made.batch, b.parent, b.base_height, made.base_model, reached)
            reached = _followed(began, made.links)
        if reached != s.lineage:
            refuse("WrongCheckpoint", expected=s.lineage, got=reached)
        return found

    def _finals_at(self, study: Digest, branch: int, height: int) -> int:
        """Rounds with a model on the ancestry of a closed height, that height included."""
        b = self._branches[study, branch]
        return b.base_finals + height - b.base_height - self._voids_between(study, branch, b.base_height, height)

    def _mark_void(self, s: Study, one: Round) -> None:
        """A height without a model. A replay is given up with the last of too many in a row."""
        self._voids[one.study, one.branch, one.height] = True
        start = one.height - LAST_CHANCES
        if s.forking is not Forking.REPLAYING or start < self._branches[one.study, one.branch].base_height:
            return
        if self._voids_between(one.study, one.branch, start, one.height) == LAST_CHANCES:
            self._give_up(one.study, s)

    def _give_up(self, study: Digest, s: Study) -> None:
        """End a replay that has not caught up with the model it has."""
        if self.caught_up(study, s.branch) == ZERO:
            model = self._models[study, s.branch, s.final_height]
            self._given_up[study, s.branch] = model
            self.machine.emit(ReplayGivenUp(study, s.branch, model))

    def _voids_between(self, study: Digest, branch: int, start: int, end: int) -> int:
        """Heights above `start`, up to and with `end`, that ended without a model."""
        return sum(self._voids[study, branch, height] for height in range(start + 1, end + 1))

    # --- plumbing

    def _study(self, study: Digest) -> Study:
        s = self._studies[study]
        if s is None:
            refuse("StudyUnknown", study=study)
        return s

    def _open(self, study: Digest, round_id: Digest) -> tuple[Study, Round]:
        s, one = self._studies[study], self._rounds[round_id]
        open_round = ZERO if s is None else s.open_round
        if s is None or one is None or open_round != round_id:
            refuse("RoundNotOpen", study=study, roundId=round_id, open=open_round)
        return s, one

    def _in_training(self, study: Digest, round_id: Digest) -> tuple[Study, Round]:
        s, one = self._open(study, round_id)
        clock = self._clock(round_id, one, s)
        if clock.phase is not Phase.TRAINING or one.sealed_at is not None:
            _wrong_phase(round_id, clock)
        return s, one

    def _signed_by(self, one: Round, member: int, statement: Statement, signature: bytes) -> bool:
        """By the key that decides this round: a rotation waits for the next one."""
        return self.signed(statement, signature, self._membership.roster_at(one.opened_at).ledger_of(member))

    def _check_member(self, member: int, statement: Statement, signature: bytes) -> None:
        self.check(member, self._membership.snapshot().ledger_of(member), statement, signature)


def hash_of(result: Result) -> Digest:
    """The hash that the votes carry."""
    return result_hash(
        outcome=result.outcome,
        included=result.included,
        codes=result.codes,
        model_root=result.model_root,
        trust_hash=keccak256(result.trust),
        commit_root=result.commit_root,
        consent_accumulator=result.consent_acc,
    )


def _followed(found: Digest, links: Iterable[Digest]) -> Digest:
    """The lineage after further results."""
    for one in links:
        found = lineage(found, one)
    return found


def _wrong_phase(round_id: Digest, clock: Clock) -> NoReturn:
    refuse("WrongPhase", roundId=round_id, phase=int(clock.phase), attempt=clock.attempt)


def _invalid(codes: int) -> int:
    """Members with a code. Codes above the last one are refused."""
    bits = 0
    for member in range(-(-codes.bit_length() // 4)):
        code = codes >> (4 * member) & 15
        if code > LAST_CODE:
            refuse("BadCode", index=member, code=code)
        bits |= bool(code) << member
    return bits
