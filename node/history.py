"""The chain, folded: what the ledger's records mean, in the order the chain gave them.

What may live here: one pure projection from `Logged` records to the questions the node, the simulator, the auditor and
the command line all ask (who is a member, is this consent active at that position, what was round r). What this file
does not know: where records come from, files, the clock. Everything is append-only, so a question about the past
("as of the snapshot") is answered from positions, never from an old node's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from crypto.commitments import lineage, link
from crypto.digest import Digest
from crypto.digest import accumulate as roll
from crypto.statements import Commit, OpenErasure, struct_hash
from fl_engine.trust import beta
from node.errors import ChainDisputed, NotFound
from node.membership import Registry, accumulate, bitmap_of, members_of
from node.records import (
    MAX_MEMBERS,
    ZERO,
    Abstained,
    AddressAnnounced,
    Anchored,
    AuditAccessed,
    AuditOpened,
    AuditorEnded,
    AuditorSeated,
    BaseProof,
    BranchCreated,
    Committed,
    Continuation,
    EntrySkipped,
    Equivocated,
    ErasureAuthorised,
    ErasureClosed,
    ErasureConfirmed,
    ErasureExtended,
    ErasureOpened,
    ErasurePlanned,
    ErasureRefused,
    ErasureStepped,
    EvidenceAttested,
    ForkProof,
    FormRegistered,
    Granted,
    HavePosted,
    HeadMoved,
    Joined,
    Left,
    LogAnchored,
    Logged,
    MemberAdmitted,
    MemberRecovered,
    MemberRemoved,
    MemberRevoked,
    MemberRotated,
    NetworkSucceeded,
    Position,
    PurgesAttested,
    ReplayGivenUp,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyContinued,
    StudyCreated,
    VerdictsGiven,
    Withdrawn,
)

V = TypeVar("V")


class Known(dict[Digest, V]):
    """What a node knows by id. A task may ask for what went away while it waited: a reorganisation took it."""

    def __missing__(self, key: Digest) -> V:
        """Say so, as an error of a node: it is no bug, and ends no process."""
        raise NotFound(f"{key.hex()} is not on the chain, as far as it is read")


@dataclass(slots=True)
class RoundHistory:
    """Everything the chain says about one round; `logged` keeps the order."""

    opened: RoundOpened
    position: Position
    deployment: int = 0
    logged: list[Logged] = field(default_factory=list)
    commits: dict[int, Committed] = field(default_factory=dict)
    abstained: set[int] = field(default_factory=set)
    final: RoundFinal | None = None
    failed: RoundFailed | None = None
    ended: Position | None = None

    def answer_of(self, member: int) -> Logged | None:
        """What the chain has of a member's answer: its commitment or its abstention."""
        for one in self.logged:
            if isinstance(one.record, Committed | Abstained) and one.record.member == member:
                return one
        return None

    @property
    def ended_at(self) -> int | None:
        """Block time of its end; None while it is open."""
        return self.logged[-1].timestamp if self.over else None

    @property
    def made_model(self) -> bool:
        """Whether the round is final with a model."""
        return self.final is not None and self.final.result.outcome == 1

    @property
    def over(self) -> bool:
        """Whether the round is final or failed."""
        return self.final is not None or self.failed is not None


@dataclass(slots=True)
class Branch:
    """One line of a study's models. `models[h]` is the model root after height h (unchanged by failed rounds).

    `base_finals` is how much of the study is done at its base: as many models as the branch's method need not make are
    counted there, so that at the end of the replay `finals` is what it was on the line that is replaced.
    """

    number: int
    parent: int | None
    base_height: int
    base_model: Digest
    base_result: Digest
    seed: Digest
    target_height: int
    batch: Digest
    rounds: dict[int, Digest] = field(default_factory=dict)  # height -> round id
    models: dict[int, Digest] = field(default_factory=dict)
    base_finals: int = 0
    finals: int = 0
    given_up: Position | None = None  # where its replay ended without the models it was to make


@dataclass(slots=True)
class StudyHistory:
    """A study: its terms, who takes part, its forms and its tree of branches."""

    created: StudyCreated
    position: Position
    joined: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    forms: dict[Digest, FormRegistered] = field(default_factory=dict)
    registered: set[Digest] = field(default_factory=set)  # forms that the newest deployment knows
    branches: dict[int, Branch] = field(default_factory=dict)
    active_branch: int = 0
    serving_branch: int = 0
    access: list[tuple[Logged, AuditAccessed]] = field(default_factory=list)

    @property
    def head(self) -> Branch:
        """The branch that trains now."""
        return self.branches[self.active_branch]


@dataclass(slots=True)
class GrantHistory:
    """A consent granted singly, where, for which study (its form's), and when (chain time)."""

    record: Granted
    position: Position
    study: Digest
    at: int


@dataclass(slots=True)
class AnchorHistory:
    """A padded batch of consents under one root, and where."""

    record: Anchored
    position: Position


@dataclass(frozen=True, slots=True)
class Judged:
    """A member's verdict on the record: whether it came to this model on this branch."""

    branch: int
    head_model: Digest
    confirmed: bool


@dataclass(slots=True)
class ErasureHistory:
    """One erasure batch. `marks`: the record that first reached a state; `times`: its block time (purges: the last).

    `epoch`: of the membership it was opened in, whose keys decide it.
    """

    opened: ErasureOpened
    position: Position
    epoch: int = 0
    times: dict[str, int] = field(default_factory=dict)
    marks: dict[str, Logged] = field(default_factory=dict)
    steps: dict[int, Digest] = field(default_factory=dict)
    plan: ErasurePlanned | None = None
    planned: Logged | None = None
    purges: dict[int, Digest] = field(default_factory=dict)  # member -> inventory
    verdicts: dict[int, Judged] = field(default_factory=dict)
    attested: dict[tuple[int, int], Digest] = field(default_factory=dict)  # (level, auditor's seat) -> evidence
    extended: ErasureExtended | None = None
    refused: ErasureRefused | None = None
    confirmed: ErasureConfirmed | None = None
    moved: bool = False
    closed: ErasureClosed | None = None

    @property
    def opening(self) -> OpenErasure:
        """The statement that opened it, by which calls name it."""
        one = self.opened
        return OpenErasure(one.study, one.controller, one.poster, one.requests_root, one.due_at)

    @property
    def due_at(self) -> int:
        """When the answer is due: the extended date, where there is one."""
        return self.opened.due_at if self.extended is None else self.extended.due_at

    def reach(self, state: str, logged: Logged) -> None:
        """Note that a record brought the batch to a state."""
        self.times[state] = logged.timestamp
        self.marks.setdefault(state, logged)


class History:
    """Fold records with `apply`; then ask. Applying a record twice is a programming error, not tolerated silently.

    Where the network goes on with a second deployment the history goes on too: `deployment` is whose records it
    follows, counted from 0, and what the ones before log later (`late`) changes nothing but that a withdrawal ends a
    consent, wherever it was given. Erasures that had no plan yet are opened again where the members are now.
    """

    def __init__(self) -> None:
        self.registry = Registry()
        self.removed_at: dict[int, int] = {}  # member -> chain time
        self.deployment = 0
        self.foundings: list[Logged] = []  # the first record of each deployment after the first
        self.late: list[Logged] = []
        self.logs: dict[int, list[Logged]] = {}  # member -> its LogAnchored, in order
        self.consent_acc = ZERO
        self.unlearning_acc = ZERO
        self.studies: Known[StudyHistory] = Known()
        self.rounds: Known[RoundHistory] = Known()
        self.forms: dict[Digest, tuple[FormRegistered, Position]] = {}
        self.grants: dict[Digest, GrantHistory] = {}
        self.anchors: dict[Digest, AnchorHistory] = {}
        self.withdrawals: dict[Digest, tuple[Withdrawn, Position]] = {}
        self.erasures: Known[ErasureHistory] = Known()
        self.skipped: list[Logged] = []
        self.equivocations: list[Logged] = []
        self.last: Position | None = None
        self.transactions: dict[Position, Digest] = {}  # what carried each record
        self._snapshots: dict[Position, tuple[Digest, Digest]] = {}
        self._consent_accs: list[tuple[Position, int, Digest]] = []

    def apply_all(self, logged: Iterable[Logged]) -> None:
        """Fold several records in order."""
        for one in logged:
            self.apply(one)

    def apply(self, logged: Logged) -> None:
        """Fold the next record of the chain."""
        if self.last is not None and logged.position <= self.last:
            raise ValueError(f"record at {logged.position} comes after {self.last}")
        if logged.deployment < self.deployment:
            self._came(logged)
            self._late(logged)
            return
        if logged.deployment > self.deployment:
            self._refound(logged)
        record = logged.record
        if isinstance(record, StudyContinued):
            self._check_continued(record)
        self._came(logged)
        match record:
            case StudyContinued():
                self.studies[record.study].registered.clear()
            case (
                NetworkSucceeded()
                | MemberAdmitted()
                | MemberRemoved()
                | MemberRotated()
                | MemberRevoked()
                | MemberRecovered()
                | AuditorSeated()
                | AuditorEnded()
            ):
                self.registry.apply(record)
                if isinstance(record, MemberRemoved):
                    self.removed_at[record.index] = logged.timestamp
            case AddressAnnounced() | AuditOpened():
                self.registry.apply(record)
            case LogAnchored():
                self.registry.apply(record)
                self.logs.setdefault(record.member, []).append(logged)
            case FormRegistered():
                self._consent(logged, record)
                self.forms.setdefault(record.form_id, (record, logged.position))
                if record.study in self.studies:
                    self.studies[record.study].forms[record.form_id] = record
                    self.studies[record.study].registered.add(record.form_id)
            case Granted():
                self._consent(logged, record)
                form, _ = self.forms[record.form_id]
                granted = GrantHistory(record, logged.position, form.study, logged.timestamp)
                self.grants.setdefault(record.consent_id, granted)
            case Anchored():
                self._consent(logged, record)
                for root in record.roots:
                    self.anchors.setdefault(root, AnchorHistory(record, logged.position))
            case Withdrawn():
                self._consent(logged, record)
                self.withdrawals.setdefault(record.consent_id, (record, logged.position))
            case StudyCreated():
                study = StudyHistory(record, logged.position)
                initial = record.terms.initial_model
                study.branches[0] = Branch(0, None, 0, initial, ZERO, ZERO, 0, ZERO, models={0: initial})
                self.studies[record.study] = study
            case Joined():
                self.studies[record.study].joined.add(record.member)
                self.studies[record.study].left.discard(record.member)
            case Left():
                self.studies[record.study].left.add(record.member)
            case AuditAccessed():
                self.studies[record.study].access.append((logged, record))
            case RoundOpened():
                self.rounds[record.round_id] = RoundHistory(record, logged.position, logged.deployment, [logged])
                study = self.studies[record.study]
                study.active_branch = record.branch
                branch = study.branches[record.branch]
                branch.rounds[record.height] = record.round_id
                replayed = self.erasures.get(branch.batch)
                if replayed is not None and replayed.plan is not None and len(branch.rounds) == 1:
                    replayed.reach("replaying", logged)
                self._snapshots[logged.position] = (self.consent_acc, self.registry.accumulator)
            case Committed() | Abstained() | HavePosted() | RoundFinal() | RoundFailed():
                self._round(logged, record)
            case ReplayGivenUp():
                self.studies[record.study].branches[record.branch].given_up = logged.position
            case Equivocated():
                self.equivocations.append(logged)
            case EntrySkipped():
                self.skipped.append(logged)
            case BranchCreated():
                study = self.studies[record.study]
                parent = study.branches[record.parent]
                models = {h: root for h, root in parent.models.items() if h <= record.base_height}
                finals = self.finals_at(record.study, record.parent, record.base_height)
                study.branches[record.branch] = Branch(
                    record.branch,
                    record.parent,
                    record.base_height,
                    record.base_model,
                    record.base_result,
                    record.branch_seed,
                    record.target_height,
                    record.batch,
                    models=models,
                    base_finals=finals,
                    finals=finals,
                )
                study.active_branch = record.branch
            case _:
                self._erasure(logged)

    def _came(self, logged: Logged) -> None:
        self.last = logged.position
        self.transactions[logged.position] = logged.transaction

    def _refound(self, logged: Logged) -> None:
        """The first record of the deployment that the members go on with: its accumulators begin anew."""
        if self.registry.successor is None:
            raise ChainDisputed(f"deployment {logged.deployment} begins, but the members named no successor before")
        self.deployment = logged.deployment
        self.foundings.append(logged)
        self.registry.refound()
        self.consent_acc = self.unlearning_acc = ZERO
        self._consent_accs.append((logged.position, logged.timestamp, ZERO))
        self.erasures = Known({batch: one for batch, one in self.erasures.items() if one.plan or one.refused})

    def _check_continued(self, said: StudyContinued) -> None:
        """What the new deployment says of a study has to be what its history here says."""
        if said.study not in self.studies:
            raise ChainDisputed(f"study {said.study.hex()} is continued, but there was none")
        found = self.continued(said.study)
        for name in StudyContinued.__slots__:
            ours, theirs = getattr(found, name), getattr(said, name)
            if ours != theirs:
                raise ChainDisputed(
                    f"study {said.study.hex()} is continued with {name} {theirs}, its history has {ours}"
                )

    def _late(self, logged: Logged) -> None:
        self.late.append(logged)
        if isinstance(logged.record, Withdrawn):
            self.withdrawals.setdefault(logged.record.consent_id, (logged.record, logged.position))

    def _consent(self, logged: Logged, record: FormRegistered | Granted | Anchored | Withdrawn) -> None:
        self.consent_acc = accumulate(self.consent_acc, record)
        self._consent_accs.append((logged.position, logged.timestamp, self.consent_acc))

    def _round(self, logged: Logged, record: Committed | Abstained | HavePosted | RoundFinal | RoundFailed) -> None:
        one = self.rounds[record.round_id]
        one.logged.append(logged)
        if isinstance(record, Committed):
            one.commits[record.member] = record
        elif isinstance(record, Abstained):
            one.abstained.add(record.member)
        elif isinstance(record, RoundFinal | RoundFailed):
            branch = self.studies[record.study].branches[record.branch]
            one.ended = logged.position
            if isinstance(record, RoundFinal):
                one.final = record
                branch.models[record.height] = record.result.model_root
                branch.finals += record.result.outcome == 1
            else:
                one.failed = record
                branch.models[record.height] = one.opened.parent_model

    def _erasure(self, logged: Logged) -> None:
        record = logged.record
        assert isinstance(
            record,
            ErasureOpened
            | ErasureAuthorised
            | ErasureRefused
            | ErasureExtended
            | ErasureStepped
            | ErasurePlanned
            | PurgesAttested
            | VerdictsGiven
            | ErasureConfirmed
            | HeadMoved
            | ErasureClosed
            | EvidenceAttested,
        )
        self.unlearning_acc = accumulate(self.unlearning_acc, record)
        if isinstance(record, ErasureOpened):
            one = ErasureHistory(record, logged.position, self.registry.epoch)
            one.reach("requested", logged)
            if record.poster == record.controller:
                one.reach("authorised", logged)
            self.erasures[record.batch] = one
            return
        one = self.erasures[record.batch]
        match record:
            case ErasureAuthorised():
                one.reach("authorised", logged)
            case ErasureRefused():
                one.refused = record
                one.reach("refused", logged)
            case ErasureExtended():
                one.extended = record
            case ErasureStepped():
                for step, evidence in record.steps.items():
                    one.steps[step] = evidence
                    one.reach(STEP_STATES.get(step, "unknown"), logged)
            case ErasurePlanned():
                one.plan, one.planned = record, logged
                one.reach("planned", logged)
                if record.target_height != record.base_height:
                    branch = self.studies[record.study].branches[record.branch]
                    target = self.finals_at(record.study, record.branch - 1, record.target_height)
                    branch.base_finals = branch.finals = target - record.rounds
                    if branch.rounds:  # the first one opened in this transaction, and was told before
                        one.reach("replaying", logged)
            case PurgesAttested():
                one.purges |= record.by_member
                one.reach("recipients_attested", logged)
            case VerdictsGiven():
                one.verdicts |= {
                    member: Judged(record.branch, record.head_model, bool(record.confirming >> member & 1))
                    for member in members_of(record.members)
                }
            case ErasureConfirmed():
                one.confirmed = record
                one.reach("confirmed", logged)
            case HeadMoved():
                one.moved = True
                one.reach("head_moved", logged)
                self.studies[record.study].serving_branch = record.branch
            case ErasureClosed():
                one.closed = record
                one.reach("closed_with_exceptions" if record.exceptions else "closed", logged)
            case EvidenceAttested():
                one.attested[record.level, record.seat] = record.evidence

    # ----------------------------------------------------------------------------------------------------------------
    # Questions

    def round_at(self, study: Digest, branch: int, height: int) -> RoundHistory | None:
        """The round of this height on `branch`, or on the ancestor it forked from."""
        for one in self.ancestry(study, branch):
            if height in one.rounds:
                return self.rounds[one.rounds[height]]
            if one.parent is None or height > one.base_height:
                return None
        return None

    def round_before(self, one: RoundHistory) -> RoundHistory | None:
        """The round that was opened before this one on its branch, whatever became of it; None for the first."""
        opened = one.opened
        found = self.studies[opened.study].branches[opened.branch].rounds.get(opened.height - 1)
        return None if found is None else self.rounds[found]

    def ancestry(self, study: Digest, branch: int) -> Iterator[Branch]:
        """`branch`, its parent, and so on to the root branch."""
        number: int | None = branch
        while number is not None:
            one = self.studies[study].branches[number]
            yield one
            number = one.parent

    def path(self, study: Digest, branch: int) -> list[RoundHistory]:
        """Rounds on the way from the initial model to the head of `branch`, in height order."""
        found: dict[int, RoundHistory] = {}
        limit: int | None = None
        for one in self.ancestry(study, branch):
            for height, round_id in one.rounds.items():
                if limit is None or height <= limit:
                    found.setdefault(height, self.rounds[round_id])
            limit = one.base_height if limit is None else min(limit, one.base_height)
        return [found[height] for height in sorted(found)]

    def continued(self, study: Digest) -> StudyContinued:
        """What a deployment that continued this study now would say of it."""
        one = self.studies[study]
        head = one.head
        height = max(head.rounds, default=head.base_height)
        model = head.models[max(h for h in head.models if h <= height)]
        return StudyContinued(
            study,
            bitmap_of(one.joined - one.left),
            bitmap_of(one.left),
            one.active_branch,
            height,
            head.finals,
            self.lineage(study, one.active_branch),
            model,
            self.continuation(study).tree,
        )

    def continuation(self, study: Digest) -> Continuation:
        """The study as the next deployment is founded with it."""
        one = self.studies[study]
        branches: list[tuple[int, int, int, Digest]] = []
        voids: dict[int, int] = {}
        for number, branch in sorted(one.branches.items()):
            for height, round_id in branch.rounds.items():
                ended = self.rounds[round_id]
                if ended.over and (ended.final is None or ended.final.result.outcome != 1):
                    key = number << 32 | height >> 8
                    voids[key] = voids.get(key, 0) | 1 << (height & 255)
            if branch.parent is not None:
                origin = self.lineage(study, branch.parent, branch.base_height)
                branches.append((branch.parent, branch.base_height, branch.base_finals, origin))
        return Continuation(one.created.terms, tuple(branches), tuple(sorted(voids.items())))

    def open_round(self, study: Digest) -> RoundHistory | None:
        """The study's running round, if any."""
        # A round may outlast the plan that condemns it: nothing is opened on the new branch until then.
        for branch in reversed(self.studies[study].branches.values()):
            if branch.rounds:
                one = self.rounds[next(reversed(branch.rounds.values()))]
                return None if one.over else one
        return None

    def could_open(self, study: Digest) -> bool:
        """Whether no round is open and the ledger would open one: the rule of `resume`."""
        one = self.studies[study]
        if self.open_round(study) is not None or self.finished(study) or self.registry.successor is not None:
            return False
        joined, active = bitmap_of(one.joined - one.left), self.registry.active
        if not one.branches[0].rounds:
            awaited = one.created.terms.invited & active & ~bitmap_of(one.left) & ~joined
            if awaited:
                return False
        return (joined & active).bit_count() >= 2

    def equivocated(self) -> list[Equivocated]:
        """Who contradicted itself where, as the chain was shown."""
        return [one.record for one in self.equivocations if isinstance(one.record, Equivocated)]

    def snapshot(self, opened: RoundHistory) -> tuple[Digest, Digest]:
        """(consent, membership) accumulators this history had when the round opened."""
        return self._snapshots[opened.position]

    def grant(self, consent_id: Digest) -> tuple[Granted, Position] | None:
        """The grant that is stored for this consent alone."""
        found = self.grants.get(consent_id)
        return None if found is None else (found.record, found.position)

    def declared(self, study: Digest, member: int) -> int:
        """The most consents that a set of this member in this study can prove: its grants, and its anchors' leaves."""
        grants = sum((one.study, one.record.member) == (study, member) for one in self.grants.values())
        anchors = (one.record for one in self.anchors.values())
        return grants + sum(one.count for one in anchors if (one.study, one.member) == (study, member))

    def anchor(self, root: Digest) -> tuple[Anchored, Position] | None:
        """The anchor with this root."""
        found = self.anchors.get(root)
        return None if found is None else (found.record, found.position)

    def form(self, form_id: Digest) -> tuple[FormRegistered, Position] | None:
        """The registered form."""
        return self.forms.get(form_id)

    def withdrawal(self, consent_id: Digest) -> tuple[Withdrawn, Position] | None:
        """The first withdrawal of this consent, granted or not."""
        return self.withdrawals.get(consent_id)

    def seal(self, one: RoundHistory) -> tuple[Position | None, int]:
        """(position, time) of a round's seal: the transaction that filled the bitmap, else (None, T_c)."""
        opened = one.opened
        waiting = opened.roster & ~opened.suspended
        for logged in one.logged:
            if isinstance(logged.record, Committed | Abstained):
                waiting &= ~(1 << logged.record.member)
                if not waiting:
                    return logged.position, logged.timestamp
        terms = self.studies[opened.study].created.terms
        return None, opened.opened_at + terms.scribe_seconds + terms.grace_seconds

    def consent_acc_at(self, position: Position | None, time: int) -> Digest:
        """The consent accumulator after the last record at or before `position`, or stamped at or before `time`."""
        found = ZERO
        for at, timestamp, acc in self._consent_accs:
            if at > position if position is not None else timestamp > time:
                break
            found = acc
        return found

    def commit_root(self, one: RoundHistory) -> Digest:
        """The rolling hash of a round's commitments in the order the chain took them."""
        root = ZERO
        for logged in one.logged:
            record = logged.record
            if isinstance(record, Committed):
                statement = Commit(
                    record.round_id, record.member, record.update_root, record.dataset_root, record.next_dataset_root
                )
                root = roll(root, struct_hash(statement))
        return root

    def lineage(self, study: Digest, branch: int, last: int | None = None) -> Digest:
        """What the branch's next round names as its parent: the lineage of its newest result up to height `last`."""
        found = self.studies[study].branches[branch].base_result
        for final in self._results(study, branch):
            if last is None or final.height <= last:
                found = lineage(found, link(final.height, final.result.model_root, final.result_hash))
        return found

    def origin(self, study: Digest, branch: int) -> Digest:
        """The lineage of the checkpoint that a branch began at; zero for branch 0 and for the initial model."""
        one = self.studies[study].branches[branch]
        return ZERO if one.parent is None or one.base_height == 0 else self.lineage(study, one.parent, one.base_height)

    def base_proof(self, study: Digest, parent: int, height: int) -> BaseProof:
        """That `parent`, the active branch or an ancestor of it, has a checkpoint at `height`."""
        one = self.studies[study]
        last, branch, forks = None, one.active_branch, []
        while branch != parent:
            child = one.branches[branch]
            forks.append(ForkProof(child.batch, child.base_model, self._links(study, branch, child.base_height, last)))
            last = child.base_height
            assert child.parent is not None
            branch = child.parent
        begun = one.branches[parent]
        here = None if height == begun.base_height else self.round_at(study, parent, height)
        final = None if here is None else here.final
        return BaseProof(
            parent=self.origin(study, parent)
            if height == begun.base_height
            else self.lineage(study, parent, height - 1),
            named=begun.batch if final is None else final.result_hash,
            links=self._links(study, parent, height, last),
            forks=tuple(reversed(forks)),
        )

    def _links(self, study: Digest, branch: int, after: int, last: int | None) -> tuple[Digest, ...]:
        """Of the results recorded on a branch above height `after`, up to `last`."""
        return tuple(
            link(f.height, f.result.model_root, f.result_hash)
            for f in self._results(study, branch)
            if f.height > after and (last is None or f.height <= last)
        )

    def _results(self, study: Digest, branch: int) -> list[RoundFinal]:
        """The results recorded on a branch, in height order."""
        rounds = self.studies[study].branches[branch].rounds
        found = (self.rounds[rounds[height]].final for height in sorted(rounds))
        return [final for final in found if final is not None]

    def trust(self, study: Digest, branch: int, members: int) -> beta.Counts:
        """Trust state of a branch after its last ended round: branch-local, so an erasure rolls it back too."""
        state = beta.init(members)
        for one in self.path(study, branch):
            if one.final is not None:
                result = one.final.result
                refused = bitmap_of(i for i in range(MAX_MEMBERS) if result.codes >> 4 * i & 15)
                state = beta.apply(state, result.included, refused)
        return state

    def withdrawn_at(self, consent_id: Digest) -> int | None:
        """Block time of the withdrawal, or None."""
        found = self.withdrawals.get(consent_id)
        return None if found is None else found[0].at

    def finished(self, study: Digest) -> bool:
        """Whether the study has all its final rounds."""
        one = self.studies[study]
        return one.head.finals >= one.created.terms.rounds

    def finals_at(self, study: Digest, branch: int, height: int) -> int:
        """How much of the study is done at a closed height of a branch's line, in rounds with a model."""
        one = next(found for found in self.ancestry(study, branch) if height >= found.base_height)
        return one.base_finals + sum(self.rounds[r].made_model for h, r in one.rounds.items() if h <= height)


STEP_STATES = {
    1: "excluded",
    2: "copy_deleted",
    3: "certificate_delivered",
    4: "link_destroyed",
    5: "closing",
}


def in_words(state: str) -> str:
    """An erasure's state as people read it.

    A hospital's copy stays where another consent of the patient, to another study, covers it; which, the chain does not
    say. So the words are about this study, and true in both cases.
    """
    return "no copy serves this study" if state == "copy_deleted" else state.replace("_", " ")
