"""The round machine: what a node does in a round of training, in every state, and nothing else.

Rules of this file
1. Everything that decides what happens in a round is in the four tables below. The functions they name are small and
   pure: no await, no clock, no I/O, no random, no signature. `now` is chain time in seconds and comes from outside.
2. The chain is the only truth. Phase, sealed set and included set are functions of chain records and `now`, the same as
   the contract's view; a peer's notice is a mailbox item that is true or gets ignored.
3. Signed before sent, stored before signed: the shell (`node/app.py`, `node/simulate.py`) stores a statement, signs it,
   then says so with an event. The machine never asks for a second statement of one kind and attempt.
4. Events may come twice, late, or in any order; facts only grow. A restarted node feeds its chain records and the
   statements of its store to a new machine and goes on.

Theory of operation. `Round` holds facts. `handle(event, now)` records the event by the EVENTS table, finds the phase by
walking the STEPS table, then walks the RULES table and returns every effect whose row holds and that was not asked for
before. An effect is an order to the shell; how it went comes back as an event, and one that failed is due again at the
time the shell names. Nothing is remembered between events but facts and what was asked, so whatever is due is due
however we got here. The TIMES table says when to look again if nothing happens.

One member of the roster is the *scribe*, who carries everybody's statements to the chain in one transaction; the others
follow in a fixed order, each a little later (BY_RANK), so a dead scribe costs seconds. Where a deadline is at stake
nobody waits for anybody: whoever finds its own statement missing posts it.

Clause numbers are those of node/PROTOCOL.md, which draws these tables (`scripts/draw_states`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from crypto.commitments import update_root
from crypto.digest import Digest
from crypto.statements import CreateStudy
from node.errors import LedgerError, LocalError, PeerError
from node.membership import available, bitmap_of, faults, least_included, members_of, quorum, scribes, slack
from node.messages import AbstainNotice, CloseNotice, CommitNotice, HaveNotice, Notice, VoteNotice
from node.records import (
    Abstained,
    Committed,
    HavePosted,
    Logged,
    Position,
    Result,
    RoundFailed,
    RoundFinal,
    RoundOpened,
)

LAST_ATTEMPT = 3
"""Attempts with haves: the first and two extensions (clause 11). The contract has the same number."""

MODEL, NO_RESULT = 1, 2
"""Outcomes of a result."""


class Phase(Enum):
    """Where a round is. The contract computes the same from the block time."""

    TRAINING = "training"
    REVEALING = "revealing"
    HAVE = "have"
    VOTING = "voting"
    FINAL = "final"
    FAILED = "failed"


TRAINING, REVEALING, HAVE, VOTING, FINAL, FAILED = Phase
RUNNING = (TRAINING, REVEALING, HAVE, VOTING)
SEALED = (REVEALING, HAVE, VOTING)
EVERY = tuple(Phase)


# --------------------------------------------------------------------------------------------------------------------
# Effects: what the machine asks the shell to do


@dataclass(frozen=True, slots=True)
class Effect:
    """An order to the shell. Two effects with equal `parts` are the same order and never asked for twice."""

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """What this order consists of; all but the posts are one piece."""
        return (self,)

    def only(self, parts: Collection[Hashable]) -> Effect:
        """The order reduced to these parts of it."""
        return self


@dataclass(frozen=True, slots=True)
class Train(Effect):
    """Train on records active at the snapshot and not known as withdrawn; seal, store, sign, report `Trained`.

    `generation` counts the withdrawals that came in between: the shell reports it back with the commit.
    """

    round_id: Digest
    generation: int


@dataclass(frozen=True, slots=True)
class StopTraining(Effect):
    """Stop this training and throw its outcome away: the round went on, or a record of its set was withdrawn."""

    round_id: Digest
    generation: int


@dataclass(frozen=True, slots=True)
class SignAbstain(Effect):
    """Sign an Abstain. `reason` stays at home: below-minimum, training-failed, withdrawal, late, lost."""

    reason: str

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """An abstention is the same statement for every reason."""
        return ("SignAbstain",)


@dataclass(frozen=True, slots=True)
class SignHave(Effect):
    """Sign Have(attempt, bitmap of the members whose bytes and keys are here)."""

    attempt: int
    bitmap: int

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """The attempt: what arrives while this is being signed makes no second have."""
        return (("SignHave", self.attempt),)


@dataclass(frozen=True, slots=True)
class SignVote(Effect):
    """Sign Vote(attempt, set, hash of result), unless chain time is already past `not_after`: then report `NotSent`."""

    attempt: int
    set: int
    result: Result
    not_after: int

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """The attempt: at most one vote in each."""
        return (("SignVote", self.attempt),)


@dataclass(frozen=True, slots=True)
class SignClose(Effect):
    """Sign Close(result hash): this result is final at depth D (clause 13). Kept off chain."""

    result_hash: Digest


@dataclass(frozen=True, slots=True)
class Share(Effect):
    """Offer one of our own notices to every peer. What is lost on the way is repaired by their Pull."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class AskPeers(Effect):
    """Pull the notices of this round from the peers; comes again until nothing is missing."""


@dataclass(frozen=True, slots=True)
class Prefetch(Effect):
    """Fetch a member's ciphertexts before the seal. Never its keys: those nobody serves before the seal is final."""

    member: int


@dataclass(frozen=True, slots=True)
class Fetch(Effect):
    """Fetch ciphertexts and keys of a member's update and set from any holder; report `Held` once both check."""

    member: int


@dataclass(frozen=True, slots=True)
class Judge(Effect):
    """Open and check a member's blobs by node/validity.py; report `Judged`."""

    member: int


@dataclass(frozen=True, slots=True)
class Aggregate(Effect):
    """Aggregate the valid updates of this set; report `Aggregated`."""

    set: int


@dataclass(frozen=True, slots=True)
class Post(Effect):
    """Carry members' statements to the chain in one transaction; the contract skips what it already has."""

    notices: tuple[CommitNotice | AbstainNotice | HaveNotice, ...]

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """One part a notice."""
        return tuple((type(self).__name__, notice) for notice in self.notices)

    def only(self, parts: Collection[Hashable]) -> Effect:
        """The same post with fewer notices."""
        kept = tuple(n for n in self.notices if (type(self).__name__, n) in parts)
        return replace(self, notices=kept)


@dataclass(frozen=True, slots=True)
class PostCommits(Post):
    """`notices` are CommitNotices."""


@dataclass(frozen=True, slots=True)
class PostAbstentions(Post):
    """`notices` are AbstainNotices."""


@dataclass(frozen=True, slots=True)
class PostHaves(Post):
    """`notices` are HaveNotices of this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class PostResult(Effect):
    """Carry a result with its quorum of equal votes to the chain."""

    attempt: int
    result: Result
    votes: tuple[VoteNotice, ...]

    @property
    def parts(self) -> tuple[Hashable, ...]:
        """The attempt: one more vote makes no new order."""
        return (("PostResult", self.attempt),)


@dataclass(frozen=True, slots=True)
class DeclareFailed(Effect):
    """Tell the contract that the round has failed, so that the next one opens."""


@dataclass(frozen=True, slots=True)
class Wake(Effect):
    """Call `handle(Tick(), now)` when chain time reaches `at`. Replaces every earlier Wake."""

    at: int


# --------------------------------------------------------------------------------------------------------------------
# Events: what the shell tells the machine


@dataclass(frozen=True, slots=True)
class Observed:
    """A chain record of this round, final or not. After a reorganisation the shell builds a new machine."""

    logged: Logged


@dataclass(frozen=True, slots=True)
class SealIsFinal:
    """The sealed set is final at depth D, and every record that makes it up was observed (`Round.finality`)."""


@dataclass(frozen=True, slots=True)
class HavesAreFinal:
    """The haves of this attempt are final at depth D, and all of them were observed (`Round.finality`)."""

    attempt: int


@dataclass(frozen=True, slots=True)
class ResultIsFinal:
    """The accepted result is final at depth D (`Round.finality`)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Our commit: both blobs and keys stored, the statement signed. `generation` is that of the `Train` it answers."""

    notice: CommitNotice
    generation: int = 0


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """This training cannot give an update."""

    generation: int = 0


@dataclass(frozen=True, slots=True)
class BelowMinimum:
    """Fewer than `min_consents` of our consents may be used in this round."""


@dataclass(frozen=True, slots=True)
class WithdrawalKnown:
    """`count` consents that were usable at the snapshot are known as withdrawn, on chain or only to us."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Revealed:
    """A content key of our own update or set is about to be served for the first time; stored before it leaves."""


@dataclass(frozen=True, slots=True)
class Received:
    """A notice whose signature was checked: from a peer, or our own coming back."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Held:
    """Ciphertexts and keys of a member's update and set are stored here and fit their commitments."""

    member: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on a member's blobs: `code` 0 valid, else the first failing rule; `records` is its n_k."""

    member: int
    code: int
    records: int


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The result of this set."""

    set: int
    result: Result


@dataclass(frozen=True, slots=True)
class SignedAbstain:
    """Our statement is stored and signed."""

    notice: AbstainNotice


@dataclass(frozen=True, slots=True)
class SignedHave:
    """Our statement is stored and signed."""

    notice: HaveNotice


@dataclass(frozen=True, slots=True)
class SignedVote:
    """Our statement is stored and signed."""

    notice: VoteNotice


@dataclass(frozen=True, slots=True)
class SignedClose:
    """Our statement is stored and signed."""

    notice: CloseNotice


@dataclass(frozen=True, slots=True)
class Restarted:
    """This node came up while the round was open. Its store may be an old one: it asks before it signs (clause 14)."""


@dataclass(frozen=True, slots=True)
class PeerAnswered:
    """A member answered our Pull, and every notice of its answer was handed over as `Received`."""

    member: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The effect was carried out."""

    effect: Effect


@dataclass(frozen=True, slots=True)
class NotSent:
    """The effect was not carried out; it is due again from `retry_at` on if its row still holds."""

    effect: Effect
    retry_at: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Observed
    | SealIsFinal
    | HavesAreFinal
    | ResultIsFinal
    | Trained
    | TrainingFailed
    | BelowMinimum
    | WithdrawalKnown
    | Revealed
    | Received
    | Held
    | Judged
    | Aggregated
    | SignedAbstain
    | SignedHave
    | SignedVote
    | SignedClose
    | Restarted
    | PeerAnswered
    | Sent
    | NotSent
    | Tick
)


# --------------------------------------------------------------------------------------------------------------------
# Facts


@dataclass(slots=True)
class Facts:
    """Everything known about a round, in the order it can never matter in. `me` is None at an auditor."""

    opened: RoundOpened
    terms: CreateStudy
    me: int | None
    sound: bool  # our accumulators at the snapshot are the round's (clause 1)

    # the chain
    answers: dict[int, Logged] = field(default_factory=dict)  # member -> its Committed or Abstained
    haves: dict[int, dict[int, int]] = field(default_factory=dict)  # attempt -> member -> bitmap
    final: Logged | None = None
    failed: Logged | None = None
    seal_final: bool = False
    haves_final: set[int] = field(default_factory=set)
    result_final: bool = False

    # notices, our own among them
    commits: dict[int, CommitNotice] = field(default_factory=dict)
    strays: dict[int, CommitNotice] = field(default_factory=dict)  # signed, but not what stands on the chain
    abstentions: dict[int, AbstainNotice] = field(default_factory=dict)
    have_notices: dict[tuple[int, int], HaveNotice] = field(default_factory=dict)  # (attempt, member)
    votes: dict[tuple[int, int], VoteNotice] = field(default_factory=dict)  # (attempt, member)
    closes: dict[int, CloseNotice] = field(default_factory=dict)
    contradictions: dict[tuple[str, int, int], tuple[Notice, Notice]] = field(default_factory=dict)

    # what we did and hold
    trained: int | None = None  # generation of our commit, if this store has its blobs and keys
    gave_up: int = -1  # highest generation whose training failed
    below: bool = False
    withdrawals: int = 0
    revealed: bool = False
    held: int = 0
    verdicts: dict[int, tuple[int, int]] = field(default_factory=dict)  # member -> (code, records)
    results: dict[int, Result] = field(default_factory=dict)  # set -> result
    restarted: bool = False
    answered: set[int] = field(default_factory=set)  # members that answered our Pull

    # --- derived: who

    @property
    def n(self) -> int:
        """Size of the roster."""
        return self.opened.roster.bit_count()

    @property
    def contributors(self) -> int:
        """The members that are waited for: the roster without the suspended."""
        return self.opened.roster & ~self.opened.suspended

    @property
    def least(self) -> int:
        """The fewest commitments, and inclusions, that make a model."""
        return least_included(self.n, self.opened.f, self.terms.min_included)

    # --- derived: the seal

    @property
    def committed(self) -> int:
        """C, once sealed: the members with a commit on chain."""
        return bitmap_of(m for m, logged in self.answers.items() if isinstance(logged.record, Committed))

    @property
    def last_answer(self) -> Logged | None:
        """The record that completed the set of answers, or None while one is missing or none was asked for."""
        if self.contributors & ~bitmap_of(self.answers) or not self.answers:
            return None
        return max(self.answers.values(), key=lambda logged: logged.position)

    @property
    def commit_deadline(self) -> int:
        """T_c: the last second in which a commit is taken."""
        return self.opened.opened_at + self.terms.scribe_seconds + self.terms.grace_seconds

    def seal_time(self, now: int) -> int | None:
        """When the set was sealed, or None if at `now` it is not."""
        if not self.contributors & ~bitmap_of(self.answers):
            last = self.last_answer
            return self.opened.opened_at if last is None else last.timestamp
        return self.commit_deadline if now > self.commit_deadline else None

    def included_in(self, attempt: int) -> int:
        """I of this attempt by the haves on chain (clause 9); C for attempt 0."""
        if attempt == 0:
            return self.committed
        return available(self.haves.get(attempt, {}).values(), self.committed, self.opened.f)

    # --- derived: our own part

    @property
    def own(self) -> CommitNotice | None:
        """Our commit, if this store can open it."""
        return self.commits.get(self.me) if self.me is not None and self.trained is not None else None

    @property
    def stale(self) -> bool:
        """Whether our commit uses a consent that was withdrawn after we trained."""
        return self.own is not None and self.trained is not None and self.withdrawals > self.trained

    @property
    def withheld(self) -> bool:
        """Whether our keys stay here: stale, and no key has left. Once one has, the round is the recorded last use."""
        return self.stale and not self.revealed

    @property
    def at_hand(self) -> int:
        """The members whose blobs we hold and stand for: never our own while it is withheld."""
        own = 1 << self.me if self.me is not None and self.withheld else 0
        return self.held & ~own

    def on_chain(self, member: int) -> bool:
        """Whether the chain has a commit or an abstention of this member."""
        return member in self.answers

    def opens(self, member: int) -> CommitNotice | None:
        """The notice with the openings of what this member has on chain, if it came."""
        notice, logged = self.commits.get(member), self.answers.get(member)
        return notice if notice is not None and logged is not None and _stands_for(notice, logged) else None

    def winning_votes(self, attempt: int) -> tuple[VoteNotice, ...]:
        """Q or more equal votes on this attempt's set, by member; empty if there are not that many."""
        of: dict[Result, list[VoteNotice]] = {}
        voted = self.included_in(attempt)
        for (a, _), vote in sorted(self.votes.items()):
            if a == attempt and vote.set == voted and _decides(vote.result) == voted:
                of.setdefault(vote.result, []).append(vote)
        return next((tuple(votes) for votes in of.values() if len(votes) >= self.opened.quorum), ())


def _stands_for(notice: CommitNotice, logged: Logged) -> bool:
    record = logged.record
    return isinstance(record, Committed) and (
        (notice.update_root, notice.dataset_root, notice.next_dataset_root)
        == (record.update_root, record.dataset_root, record.next_dataset_root)
    )


def _invalid(result: Result) -> int:
    return bitmap_of(i for i in range((result.codes.bit_length() + 3) // 4) if result.codes >> 4 * i & 15)


def _decides(result: Result) -> int:
    """The members a result says something about, or -1 if it calls one both included and invalid."""
    return -1 if result.included & _invalid(result) else result.included | _invalid(result)


# --------------------------------------------------------------------------------------------------------------------
# The phase: STEPS says how a round moves on


@dataclass(frozen=True, slots=True)
class PhaseView:
    """Where a round is at a given time.

    `since` is when it came there, `deadline` the last second of it (None: stays). `sealed` is C (zero before the seal),
    `included` the set the present attempt is about: C while revealing, I while voting, what was included when final.
    """

    phase: Phase
    attempt: int
    since: int
    deadline: int | None
    seal_time: int | None
    sealed: int
    included: int


def phase_of(facts: Facts, now: int) -> PhaseView:
    """The phase at chain time `now`: from TRAINING, take the first step that holds until none does."""
    view = _enter(facts, TRAINING, 0, facts.opened.opened_at, now)
    while True:
        for step in STEPS:
            if view.phase in step.sources and all(holds(facts, view, now) for holds in step.when):
                view = _enter(facts, step.target, view.attempt + step.next_attempt, step.since(facts, view, now), now)
                break
        else:
            return view


def _enter(facts: Facts, phase: Phase, attempt: int, since: int, now: int) -> PhaseView:
    seal_time = facts.seal_time(now)
    sealed = 0 if seal_time is None else facts.committed
    terms, doubled = facts.terms, max(attempt - 1, 0)
    deadline: int | None = None
    included = 0
    match phase:
        case Phase.TRAINING:
            deadline = facts.commit_deadline
        case Phase.REVEALING:
            deadline, included = since + terms.reveal_seconds, sealed
        case Phase.HAVE:
            deadline = since + (terms.have_seconds << doubled)
        case Phase.VOTING:
            deadline, included = since + (terms.vote_seconds << doubled), facts.included_in(attempt)
        case Phase.FINAL:
            final = _accepted(facts)
            attempt, included = final.attempt, final.result.included
        case Phase.FAILED:
            pass
    return PhaseView(phase, attempt, since, deadline, seal_time, sealed, included)


def _accepted(facts: Facts) -> RoundFinal:
    assert facts.final is not None
    assert isinstance(facts.final.record, RoundFinal)
    return facts.final.record


Condition = Callable[[Facts, PhaseView, int], bool]
Moment = Callable[[Facts, PhaseView, int], int]


def result_on_chain(facts: Facts, view: PhaseView, now: int) -> bool:
    """The contract took a result."""
    return facts.final is not None


def failure_on_chain(facts: Facts, view: PhaseView, now: int) -> bool:
    """The contract recorded that the round failed."""
    return facts.failed is not None


def sealed(facts: Facts, view: PhaseView, now: int) -> bool:
    """Everyone waited for has answered, or T_c is past."""
    return view.seal_time is not None


def too_few_committed(facts: Facts, view: PhaseView, now: int) -> bool:
    """|C| is below the fewest that make a model."""
    return view.sealed.bit_count() < facts.least


def enough_committed(facts: Facts, view: PhaseView, now: int) -> bool:
    """C can make a model."""
    return not too_few_committed(facts, view, now)


def nobody_abstained(facts: Facts, view: PhaseView, now: int) -> bool:
    """Nobody said that it cannot commit. Who does may be able to the next time, which is then not at once."""
    return not any(isinstance(logged.record, Abstained) for logged in facts.answers.values())


def window_over(facts: Facts, view: PhaseView, now: int) -> bool:
    """The phase's last second is past."""
    return view.deadline is not None and now > view.deadline


def enough_haves(facts: Facts, view: PhaseView, now: int) -> bool:
    """All of the roster but the slack said what they hold."""
    return len(facts.haves.get(view.attempt, {})) >= facts.n - slack(facts.n, facts.opened.f)


def attempts_left(facts: Facts, view: PhaseView, now: int) -> bool:
    """Fewer than LAST_ATTEMPT attempts are spent."""
    return view.attempt < LAST_ATTEMPT


def too_old(facts: Facts, view: PhaseView, now: int) -> bool:
    """The round is older than the study allows."""
    return now > facts.opened.opened_at + facts.terms.max_round_age


def when_recorded(facts: Facts, view: PhaseView, now: int) -> int:
    """The block time of the record that ended the round."""
    ended = facts.final or facts.failed
    assert ended is not None
    return ended.timestamp


def when_sealed(facts: Facts, view: PhaseView, now: int) -> int:
    """sealTime."""
    assert view.seal_time is not None
    return view.seal_time


def at_deadline(facts: Facts, view: PhaseView, now: int) -> int:
    """The last second of the phase before."""
    assert view.deadline is not None
    return view.deadline


def when_too_old(facts: Facts, view: PhaseView, now: int) -> int:
    """The last second of the round's allowed age."""
    return facts.opened.opened_at + facts.terms.max_round_age


@dataclass(frozen=True, slots=True)
class Step:
    """One way on: from any of `sources`, if all of `when` hold, to `target`, which began at `since`."""

    sources: tuple[Phase, ...]
    when: tuple[Condition, ...]
    target: Phase
    next_attempt: int
    since: Moment
    clause: str


STEPS = (
    #    from           if                                target     attempt  since          clause
    Step(RUNNING, (result_on_chain,), FINAL, 0, when_recorded, "12"),
    Step(RUNNING, (failure_on_chain,), FAILED, 0, when_recorded, "11"),
    Step((TRAINING,), (sealed, too_few_committed, nobody_abstained), FAILED, 0, when_sealed, "4"),
    Step((TRAINING,), (sealed, too_few_committed, window_over), FAILED, 0, at_deadline, "4"),
    Step((TRAINING,), (sealed, enough_committed), REVEALING, 0, when_sealed, "4"),
    Step((REVEALING,), (window_over,), HAVE, 1, at_deadline, "8"),
    Step((HAVE,), (window_over, enough_haves), VOTING, 0, at_deadline, "9"),
    Step((HAVE,), (window_over, attempts_left), HAVE, 1, at_deadline, "9, 11"),
    Step((HAVE,), (window_over,), FAILED, 0, at_deadline, "11"),
    Step((VOTING,), (window_over, attempts_left), HAVE, 1, at_deadline, "11"),
    Step((VOTING,), (window_over,), FAILED, 0, at_deadline, "11"),
    Step(RUNNING, (too_old,), FAILED, 0, when_too_old, "11"),
)


# --------------------------------------------------------------------------------------------------------------------
# The rules: RULES says what a node does in each phase


@dataclass(frozen=True, slots=True)
class Situation:
    """What a rule sees. `rank` is our place among the scribes, None if we are not of the roster."""

    facts: Facts
    view: PhaseView
    now: int
    rank: int | None
    asked: Collection[Hashable]

    @property
    def wanted(self) -> int:
        """The set whose blobs matter now: C until the haves fix I, then I; when final, what the result is about."""
        if self.view.phase is FINAL:
            return max(_decides(_accepted(self.facts).result), 0)
        return self.view.included if self.view.phase is VOTING else self.view.sealed

    @property
    def missing(self) -> int:
        """What of `wanted` is not at hand."""
        return self.wanted & ~self.facts.at_hand


Predicate = Callable[[Situation], bool]


# --- who we are


def we_vote(s: Situation) -> bool:
    """We are of the round's roster; suspended members too, auditors and later members not."""
    return s.rank is not None


def we_contribute(s: Situation) -> bool:
    """We are of the roster and not suspended."""
    return s.facts.me is not None and bool(s.facts.contributors >> s.facts.me & 1)


def we_are_scribe(s: Situation) -> bool:
    """The scribe's duty is ours at this height."""
    return s.rank == 0


def we_only_read(s: Situation) -> bool:
    """We are an auditor."""
    return s.facts.me is None


def we_may_sign(s: Situation) -> bool:
    """No record was hidden from us, and after a restart f+1 members have told us what we signed before."""
    enough = min(s.facts.opened.f + 1, s.facts.n - 1)
    return s.facts.sound and (not s.facts.restarted or len(s.facts.answered) >= enough)


def we_must_ask(s: Situation) -> bool:
    """After a restart, f+1 members have not yet told us what we signed before."""
    return we_vote(s) and s.facts.sound and not we_may_sign(s)


# --- training and commits


def before_scribe_time(s: Situation) -> bool:
    """Earlier than open+S."""
    return s.now < s.facts.opened.opened_at + s.facts.terms.scribe_seconds


def from_scribe_time(s: Situation) -> bool:
    """open+S or later."""
    return not before_scribe_time(s)


def nothing_of_ours(s: Situation) -> bool:
    """Neither a commit nor an abstention of ours was signed or stands on the chain."""
    me, facts = s.facts.me, s.facts
    return me is not None and me not in facts.commits and me not in facts.abstentions and not facts.on_chain(me)


def training_can_work(s: Situation) -> bool:
    """Enough consents, and this generation's training has not failed."""
    return not s.facts.below and s.facts.gave_up < s.facts.withdrawals


def training_is_useless(s: Situation) -> bool:
    """A training runs whose outcome will not be committed."""
    return bool(_useless(s))


def _useless(s: Situation) -> tuple[StopTraining, ...]:
    asked = [part for part in s.asked if isinstance(part, Train)]
    over = s.view.phase is not TRAINING or not nothing_of_ours(s) or s.facts.below
    return tuple(
        StopTraining(t.round_id, t.generation)
        for t in sorted(asked, key=lambda t: t.generation)
        if (over or t.generation < s.facts.withdrawals) and s.facts.trained != t.generation > s.facts.gave_up
    )


def we_cannot_commit(s: Situation) -> bool:
    """Below minimum, training failed, no time left, a withdrawal hit our unposted commit, or we lost what we signed."""
    return _why_abstain(s) is not None


def _why_abstain(s: Situation) -> str | None:
    facts = s.facts
    if facts.own is not None:
        return "withdrawal" if facts.withheld else None
    if facts.me in facts.commits:
        return "lost"
    if facts.below:
        return "below-minimum"
    if facts.gave_up >= facts.withdrawals:
        return "training-failed"
    running = Train(facts.opened.round_id, facts.withdrawals) in s.asked
    return "late" if from_scribe_time(s) and not running else None


def not_answered(s: Situation) -> bool:
    """The chain has neither commit nor abstention of ours, and we have signed no abstention."""
    return s.facts.me is not None and not s.facts.on_chain(s.facts.me) and s.facts.me not in s.facts.abstentions


def our_commit_stands(s: Situation) -> bool:
    """We committed, and no withdrawal took it back before it was on chain."""
    facts = s.facts
    return facts.own is not None and facts.me is not None and (not facts.withheld or facts.on_chain(facts.me))


def we_abstained(s: Situation) -> bool:
    """We signed an abstention."""
    return s.facts.me in s.facts.abstentions


def someone_is_silent(s: Situation) -> bool:
    """A member waited for has not answered, neither on chain nor by a notice."""
    return bool(s.facts.contributors & ~_known_answers(s.facts))


def everyone_answered(s: Situation) -> bool:
    """Every member waited for has answered, on chain or by a notice."""
    return not someone_is_silent(s)


def _known_answers(facts: Facts) -> int:
    return bitmap_of({*facts.answers, *facts.abstentions, *facts.commits})


def keys_are_not_out(s: Situation) -> bool:
    """The seal is not final yet."""
    return not s.facts.seal_final


def seal_is_final(s: Situation) -> bool:
    """The sealed set is final at depth D: keys are served from now on."""
    return s.facts.seal_final


# --- votes and haves


def haves_are_final(s: Situation) -> bool:
    """This attempt's haves are final at depth D."""
    return s.view.attempt in s.facts.haves_final


def nothing_missing(s: Situation) -> bool:
    """All blobs and keys of the set are at hand."""
    return not s.missing


def all_judged(s: Situation) -> bool:
    """Every member of the set has its verdict."""
    return not s.wanted & ~bitmap_of(s.facts.verdicts)


def result_known(s: Situation) -> bool:
    """We aggregated this set."""
    return s.wanted in s.facts.results


def no_vote_yet(s: Situation) -> bool:
    """We signed no vote in this attempt."""
    return s.facts.me is not None and (s.view.attempt, s.facts.me) not in s.facts.votes


def no_have_ever(s: Situation) -> bool:
    """We signed no have in this round: after one, a vote in attempt 0 would contradict what it says we held."""
    me, facts = s.facts.me, s.facts
    return all(m != me for _, m in facts.have_notices) and all(me not in haves for haves in facts.haves.values())


def no_have_yet(s: Situation) -> bool:
    """We signed no have in this attempt."""
    me, a = s.facts.me, s.view.attempt
    return me is not None and (a, me) not in s.facts.have_notices and me not in s.facts.haves.get(a, {})


def have_is_due(s: Situation) -> bool:
    """We hold all of C, or T_h-2G has come."""
    return nothing_missing(s) or s.now >= _have_time(s.facts, s.view, 2)


def haves_must_go(s: Situation) -> bool:
    """T_h-G has come."""
    return s.now >= _have_time(s.facts, s.view, 1)


def _have_time(facts: Facts, view: PhaseView, graces: int) -> int:
    assert view.deadline is not None
    return max(view.since + 1, view.deadline - graces * facts.terms.grace_seconds)


def every_have_known(s: Situation) -> bool:
    """The whole roster's haves of this attempt are on chain or here as notices."""
    known = {m for a, m in s.facts.have_notices if a == s.view.attempt} | set(s.facts.haves.get(s.view.attempt, {}))
    return not s.facts.opened.roster & ~bitmap_of(known)


def quorum_in_attempt_0(s: Situation) -> bool:
    """Q equal votes on C are here."""
    return bool(s.facts.winning_votes(0))


def quorum_in_this_attempt(s: Situation) -> bool:
    """Q equal votes on I are here."""
    return bool(s.facts.winning_votes(s.view.attempt))


def something_is_lost(s: Situation) -> bool:
    """Openings of a wanted member are missing, or we voted and no quorum is here yet."""
    facts = s.facts
    voted = s.view.phase is not HAVE and not no_vote_yet(s) and not facts.winning_votes(s.view.attempt)
    return voted or any(facts.opens(m) is None for m in members_of(s.missing))


def failure_unrecorded(s: Situation) -> bool:
    """The contract was not yet told."""
    return s.facts.failed is None


def result_is_final(s: Situation) -> bool:
    """The accepted result is final at depth D."""
    return s.facts.result_final


def not_closed(s: Situation) -> bool:
    """We signed no Close."""
    return s.facts.me not in s.facts.closes


# --- effects of the rows


def stop_training(s: Situation) -> Iterable[Effect]:
    """StopTraining"""
    return _useless(s)


def train(s: Situation) -> Iterable[Effect]:
    """Train"""
    yield Train(s.facts.opened.round_id, s.facts.withdrawals)


def sign_abstain(s: Situation) -> Iterable[Effect]:
    """SignAbstain"""
    reason = _why_abstain(s)
    assert reason is not None
    yield SignAbstain(reason)


def share_commit(s: Situation) -> Iterable[Effect]:
    """Share our commit"""
    assert s.facts.own is not None
    yield Share(s.facts.own)


def share_abstention(s: Situation) -> Iterable[Effect]:
    """Share our abstention"""
    assert s.facts.me is not None
    yield Share(s.facts.abstentions[s.facts.me])


def ask_peers(s: Situation) -> Iterable[Effect]:
    """AskPeers"""
    yield AskPeers()


def post_answers(s: Situation) -> Iterable[Effect]:
    """PostCommits, PostAbstentions: all that the chain lacks"""
    return _posts(s, members_of(s.facts.contributors))


def post_own_answer(s: Situation) -> Iterable[Effect]:
    """PostCommits, PostAbstentions: our own if the chain lacks it"""
    return _posts(s, [s.facts.me] if s.facts.me is not None else [])


def _posts(s: Situation, members: Iterable[int]) -> Iterator[Effect]:
    """An abstention that is known goes before a commit: it costs nobody anything and spares the round a silent blob."""
    facts, absent = s.facts, [m for m in members if not s.facts.on_chain(m)]
    commits = [
        facts.commits[m]
        for m in absent
        if m in facts.commits and m not in facts.abstentions and not (m == facts.me and facts.withheld)
    ]
    abstentions = [facts.abstentions[m] for m in absent if m in facts.abstentions]
    if commits:
        yield PostCommits(tuple(commits))
    if abstentions:
        yield PostAbstentions(tuple(abstentions))


def prefetch(s: Situation) -> Iterable[Effect]:
    """Prefetch each member whose openings are here"""
    others = (m for m in sorted(s.facts.commits) if m != s.facts.me and m not in s.facts.abstentions)
    return [Prefetch(m) for m in others if not s.facts.held >> m & 1]


def fetch(s: Situation) -> Iterable[Effect]:
    """Fetch each member of the set that is not at hand"""
    own = s.facts.me if s.facts.trained is not None else None
    return [Fetch(m) for m in members_of(s.missing) if m != own and s.facts.opens(m) is not None]


def judge(s: Situation) -> Iterable[Effect]:
    """Judge each member of the set that is at hand"""
    return [Judge(m) for m in members_of(s.wanted & s.facts.at_hand) if m not in s.facts.verdicts]


def aggregate(s: Situation) -> Iterable[Effect]:
    """Aggregate the set"""
    if s.wanted not in s.facts.results:
        yield Aggregate(s.wanted)


def sign_vote(s: Situation) -> Iterable[Effect]:
    """SignVote for the set"""
    assert s.view.deadline is not None
    yield SignVote(s.view.attempt, s.wanted, s.facts.results[s.wanted], s.view.deadline)


def share_votes(s: Situation) -> Iterable[Effect]:
    """Share our votes"""
    return [Share(vote) for (_, m), vote in sorted(s.facts.votes.items()) if m == s.facts.me]


def post_result_0(s: Situation) -> Iterable[Effect]:
    """PostResult of attempt 0"""
    return _post_result(s, 0)


def post_result(s: Situation) -> Iterable[Effect]:
    """PostResult of this attempt"""
    return _post_result(s, s.view.attempt)


def _post_result(s: Situation, attempt: int) -> Iterator[Effect]:
    votes = s.facts.winning_votes(attempt)
    yield PostResult(attempt, votes[0].result, votes)


def sign_have(s: Situation) -> Iterable[Effect]:
    """SignHave of what is at hand"""
    yield SignHave(s.view.attempt, s.view.sealed & s.facts.at_hand)


def share_have(s: Situation) -> Iterable[Effect]:
    """Share our have"""
    return [Share(n) for (a, m), n in s.facts.have_notices.items() if m == s.facts.me and a == s.view.attempt]


def post_haves(s: Situation) -> Iterable[Effect]:
    """PostHaves: all that the chain lacks"""
    return _post_haves(s, members_of(s.facts.opened.roster))


def post_own_have(s: Situation) -> Iterable[Effect]:
    """PostHaves: our own if the chain lacks it"""
    return _post_haves(s, [s.facts.me] if s.facts.me is not None else [])


def _post_haves(s: Situation, members: Iterable[int]) -> Iterator[Effect]:
    a = s.view.attempt
    known = s.facts.haves.get(a, {})
    fit = (s.facts.have_notices[a, m] for m in members if m not in known and (a, m) in s.facts.have_notices)
    notices = tuple(notice for notice in fit if not notice.bitmap & ~s.view.sealed)
    if notices:
        yield PostHaves(notices, a)


def declare_failed(s: Situation) -> Iterable[Effect]:
    """DeclareFailed"""
    yield DeclareFailed()


def sign_close(s: Situation) -> Iterable[Effect]:
    """SignClose"""
    yield SignClose(_accepted(s.facts).result_hash)


def share_close(s: Situation) -> Iterable[Effect]:
    """Share our close"""
    return [Share(close) for m, close in s.facts.closes.items() if m == s.facts.me]


class Pace(Enum):
    """When an effect is asked for once its row holds."""

    NOW = "at once"
    BY_RANK = "by rank"
    """The scribe at once, each fall-back a little later, all of them G before the phase ends."""


NOW, BY_RANK = Pace


@dataclass(frozen=True, slots=True)
class Row:
    """In `phases`, if all of `when` hold, ask for what `make` gives."""

    phases: tuple[Phase, ...]
    when: tuple[Predicate, ...]
    make: Callable[[Situation], Iterable[Effect]]
    pace: Pace
    clause: str


RULES = (
    #   in      if      then      pace      clause
    # --- training: one answer of each member waited for
    Row(EVERY, (training_is_useless,), stop_training, NOW, "2"),
    Row(
        (TRAINING,),
        (we_contribute, we_may_sign, nothing_of_ours, training_can_work, before_scribe_time),
        train,
        NOW,
        "2",
    ),
    Row((TRAINING,), (we_contribute, we_may_sign, not_answered, we_cannot_commit), sign_abstain, NOW, "3"),
    Row(RUNNING, (we_contribute, our_commit_stands), share_commit, NOW, "3"),
    Row((TRAINING,), (we_contribute, we_abstained), share_abstention, NOW, "3"),
    Row((TRAINING,), (we_vote, everyone_answered), post_answers, BY_RANK, "3"),
    Row((TRAINING,), (we_are_scribe, from_scribe_time), post_answers, NOW, "3"),
    Row((TRAINING,), (we_contribute, from_scribe_time), post_own_answer, NOW, "3"),
    # --- what peers have to tell
    Row(RUNNING, (we_must_ask,), ask_peers, NOW, "14"),
    Row((TRAINING,), (we_are_scribe, someone_is_silent), ask_peers, NOW, "3"),
    Row(SEALED, (something_is_lost,), ask_peers, NOW, "5, 7"),
    # --- blobs: ciphertexts early, keys when the seal is final, then the same pure functions everywhere
    Row((TRAINING, REVEALING), (keys_are_not_out,), prefetch, NOW, "5"),
    Row(SEALED, (seal_is_final,), fetch, NOW, "5, 9"),
    Row((FINAL,), (we_only_read, seal_is_final), fetch, NOW, "5"),
    Row((*SEALED, FINAL), (seal_is_final,), judge, NOW, "6"),
    Row((*SEALED, FINAL), (seal_is_final, nothing_missing, all_judged), aggregate, NOW, "7, 10"),
    # --- attempt 0
    Row(
        (REVEALING,),
        (we_vote, we_may_sign, seal_is_final, nothing_missing, result_known, no_vote_yet, no_have_ever),
        sign_vote,
        NOW,
        "7",
    ),
    Row(SEALED, (we_vote,), share_votes, NOW, "7, 10"),
    Row(SEALED, (we_vote, quorum_in_attempt_0), post_result_0, BY_RANK, "7"),
    # --- attempts 1 to 3
    Row((HAVE,), (we_vote, we_may_sign, seal_is_final, no_have_yet, have_is_due), sign_have, NOW, "8"),
    Row((HAVE,), (we_vote,), share_have, NOW, "8"),
    Row((HAVE,), (we_are_scribe, every_have_known), post_haves, NOW, "8"),
    Row((HAVE,), (we_are_scribe, haves_must_go), post_haves, NOW, "8"),
    Row((HAVE,), (we_vote, haves_must_go), post_own_have, NOW, "8"),
    Row(
        (VOTING,),
        (we_vote, we_may_sign, seal_is_final, haves_are_final, nothing_missing, result_known, no_vote_yet),
        sign_vote,
        NOW,
        "10",
    ),
    Row((VOTING,), (we_vote, quorum_in_this_attempt), post_result, BY_RANK, "10"),
    # --- the end
    Row((FAILED,), (we_vote, failure_unrecorded), declare_failed, BY_RANK, "11"),
    Row((FINAL,), (we_vote, we_may_sign, result_is_final, not_closed), sign_close, NOW, "13"),
    Row((FINAL,), (we_vote,), share_close, NOW, "13"),
)


# --------------------------------------------------------------------------------------------------------------------
# The times: TIMES says when to look again although nothing happened


def scribe_time(facts: Facts, view: PhaseView) -> int:
    """open+S"""
    return facts.opened.opened_at + facts.terms.scribe_seconds


def phase_end(facts: Facts, view: PhaseView) -> int:
    """the first second after the phase"""
    assert view.deadline is not None
    return view.deadline + 1


def have_time(facts: Facts, view: PhaseView) -> int:
    """T_h-2G"""
    return _have_time(facts, view, 2)


def post_time(facts: Facts, view: PhaseView) -> int:
    """T_h-G"""
    return _have_time(facts, view, 1)


def age_limit(facts: Facts, view: PhaseView) -> int:
    """the first second in which the round is too old"""
    return facts.opened.opened_at + facts.terms.max_round_age + 1


TIMES: dict[Phase, tuple[Callable[[Facts, PhaseView], int], ...]] = {
    TRAINING: (scribe_time, phase_end, age_limit),
    REVEALING: (phase_end, age_limit),
    HAVE: (have_time, post_time, phase_end, age_limit),
    VOTING: (phase_end, age_limit),
    FINAL: (),
    FAILED: (),
}


# --------------------------------------------------------------------------------------------------------------------
# Recording events: EVENTS says what each one adds to the facts. A recorder that refuses has changed nothing.


def _ours(facts: Facts, member: int, what: str) -> None:
    if member != facts.me:
        raise LocalError(f"{what} of member {member} was reported as our own, we are {facts.me}")


def _of_roster(facts: Facts, round_id: bytes, member: int, among: int) -> None:
    if round_id != facts.opened.round_id:
        raise PeerError(f"notice is for round {round_id.hex()}, not {facts.opened.round_id.hex()}")
    if member < 0 or not among >> member & 1:
        raise PeerError(f"member {member} has no such statement to make in round {facts.opened.round_id.hex()}")


def _keep(facts: Facts, kind: str, attempt: int, notice: Notice, known: Notice | None, same: bool) -> bool:
    """Whether `notice` is new and to be kept; a second, different one of a member is evidence (clause 14)."""
    if known is None:
        return True
    if not same:
        member = getattr(notice, "member", -1)
        facts.contradictions.setdefault((kind, attempt, member), (known, notice))
    return False


def record_observed(facts: Facts, event: Observed) -> None:
    """A chain record joins the facts; the first of each member counts"""
    record = event.logged.record
    if not isinstance(record, Committed | Abstained | HavePosted | RoundFinal | RoundFailed):
        raise LocalError(f"{type(record).__name__} is no record of a running round")
    if record.round_id != facts.opened.round_id:
        raise LocalError(f"record is of round {record.round_id.hex()}, not {facts.opened.round_id.hex()}")
    match record:
        case Committed() | Abstained():
            if not facts.contributors >> record.member & 1:
                raise LedgerError(f"the chain took an answer of member {record.member}, which is not waited for")
            known = facts.answers.get(record.member)
            if known is None or event.logged.position < known.position:
                facts.answers[record.member] = event.logged
            notice = facts.commits.get(record.member)
            if notice is not None and isinstance(record, Committed) and facts.opens(record.member) is None:
                facts.strays[record.member] = facts.commits.pop(record.member)
        case HavePosted():
            facts.haves.setdefault(record.attempt, {}).setdefault(record.member, record.bitmap)
        case RoundFinal():
            facts.final = facts.final or event.logged
        case RoundFailed():
            facts.failed = facts.failed or event.logged


def record_seal(facts: Facts, event: SealIsFinal) -> None:
    """The seal is final"""
    facts.seal_final = True


def record_haves_final(facts: Facts, event: HavesAreFinal) -> None:
    """The haves of an attempt are final"""
    facts.haves_final.add(event.attempt)


def record_result_final(facts: Facts, event: ResultIsFinal) -> None:
    """The result is final"""
    facts.result_final = True


def record_trained(facts: Facts, event: Trained) -> None:
    """Our one commit; its blobs and keys are here"""
    _ours(facts, event.notice.member, "a commit")
    known, logged = facts.commits.get(event.notice.member), facts.answers.get(event.notice.member)
    on_chain = logged is None or isinstance(logged.record, Abstained) or _stands_for(event.notice, logged)
    if (known is not None and _commit_words(known) != _commit_words(event.notice)) or not on_chain:
        raise LocalError(f"a second commit of ours in round {facts.opened.round_id.hex()}")
    _take_commit(facts, event.notice)
    facts.trained = max(event.generation, facts.trained or 0)
    facts.held |= 1 << event.notice.member


def record_gave_up(facts: Facts, event: TrainingFailed) -> None:
    """This generation gives no update"""
    facts.gave_up = max(facts.gave_up, event.generation)


def record_below(facts: Facts, event: BelowMinimum) -> None:
    """Too few of our consents may be used"""
    facts.below = True


def record_withdrawal(facts: Facts, event: WithdrawalKnown) -> None:
    """The number of our withdrawn consents; it only grows"""
    facts.withdrawals = max(facts.withdrawals, event.count)


def record_revealed(facts: Facts, event: Revealed) -> None:
    """A key of ours is out"""
    if facts.withheld:
        raise LocalError("our keys are withheld: a consent was withdrawn after we committed")
    facts.revealed = True


def record_received(facts: Facts, event: Received) -> None:
    """A notice joins the facts; the first of each member, kind and attempt counts"""
    notice = event.notice
    match notice:
        case CommitNotice():
            _of_roster(facts, notice.round_id, notice.member, facts.contributors)
            _take_commit(facts, notice)
        case AbstainNotice():
            _of_roster(facts, notice.round_id, notice.member, facts.contributors)
            facts.abstentions.setdefault(notice.member, notice)
        case HaveNotice():
            _of_roster(facts, notice.round_id, notice.member, facts.opened.roster)
            _take_have(facts, notice)
        case VoteNotice():
            _of_roster(facts, notice.round_id, notice.member, facts.opened.roster)
            _take_vote(facts, notice)
        case CloseNotice():
            _take_close(facts, notice)
        case _:
            raise LocalError(f"{type(notice).__name__} is no notice of a round")


def _take_commit(facts: Facts, notice: CommitNotice) -> None:
    root = update_root(notice.round_id, notice.member, notice.update.hash, notice.set.hash)
    if root != notice.update_root:
        raise PeerError(f"openings of member {notice.member} lead to {root.hex()}, not {notice.update_root.hex()}")
    known = facts.commits.get(notice.member) or facts.strays.get(notice.member)
    same = known is not None and _commit_words(known) == _commit_words(notice)
    new = _keep(facts, "commit", 0, notice, known, same)
    logged = facts.answers.get(notice.member)
    if logged is not None and isinstance(logged.record, Committed):
        if _stands_for(notice, logged):
            facts.commits.setdefault(notice.member, notice)
        else:
            facts.strays.setdefault(notice.member, notice)
    elif new:
        facts.commits[notice.member] = notice


def _commit_words(notice: CommitNotice) -> tuple[Digest, ...]:
    return notice.update_root, notice.dataset_root, notice.next_dataset_root


def _take_have(facts: Facts, notice: HaveNotice) -> None:
    if not 1 <= notice.attempt <= LAST_ATTEMPT:
        raise PeerError(f"have of member {notice.member} is for attempt {notice.attempt}, 1 to {LAST_ATTEMPT} exist")
    key = (notice.attempt, notice.member)
    known = facts.have_notices.get(key)
    if _keep(facts, "have", notice.attempt, notice, known, known is not None and known.bitmap == notice.bitmap):
        facts.have_notices[key] = notice


def _take_vote(facts: Facts, notice: VoteNotice) -> None:
    if not 0 <= notice.attempt <= LAST_ATTEMPT:
        raise PeerError(f"vote of member {notice.member} is for attempt {notice.attempt}, 0 to {LAST_ATTEMPT} exist")
    known = facts.votes.get((notice.attempt, notice.member))
    same = known is not None and (known.set, known.result) == (notice.set, notice.result)
    if _keep(facts, "vote", notice.attempt, notice, known, same):
        facts.votes[notice.attempt, notice.member] = notice


def _take_close(facts: Facts, notice: CloseNotice) -> None:
    opened = facts.opened
    if (notice.study, notice.branch, notice.height) != (opened.study, opened.branch, opened.height):
        raise PeerError(f"close is for branch {notice.branch} height {notice.height} of study {notice.study.hex()}")
    _of_roster(facts, opened.round_id, notice.member, opened.roster)
    known = facts.closes.get(notice.member)
    if _keep(facts, "close", 0, notice, known, known is not None and known.result_hash == notice.result_hash):
        facts.closes[notice.member] = notice


def record_held(facts: Facts, event: Held) -> None:
    """A member's blobs and keys are here"""
    if event.member < 0 or not facts.contributors >> event.member & 1:
        raise LocalError(f"blobs of member {event.member}, which does not contribute to this round")
    facts.held |= 1 << event.member


def record_judged(facts: Facts, event: Judged) -> None:
    """A member's verdict"""
    known = facts.verdicts.setdefault(event.member, (event.code, event.records))
    if known != (event.code, event.records):
        raise LocalError(f"member {event.member} was judged {known}, now ({event.code}, {event.records})")


def record_aggregated(facts: Facts, event: Aggregated) -> None:
    """A set's result"""
    result = event.result
    codes = sum(facts.verdicts.get(m, (0, 0))[0] << 4 * m for m in members_of(event.set))
    outcome = MODEL if result.included.bit_count() >= facts.least else NO_RESULT
    if _decides(result) != event.set or result.codes != codes or result.outcome != outcome:
        raise LocalError(
            f"result (outcome {result.outcome}, included {result.included:b}, codes {result.codes:x}) is not what set "
            f"{event.set:b} with codes {codes:x} and at least {facts.least} inclusions gives"
        )
    known = facts.results.setdefault(event.set, result)
    if known != result:
        raise LocalError(f"set {event.set:b} was aggregated to {known.model_root.hex()}, now {result.model_root.hex()}")


def record_signed_abstain(facts: Facts, event: SignedAbstain) -> None:
    """Our abstention"""
    _ours(facts, event.notice.member, "an abstention")
    facts.abstentions.setdefault(event.notice.member, event.notice)


def record_signed_have(facts: Facts, event: SignedHave) -> None:
    """Our one have of an attempt"""
    _ours(facts, event.notice.member, "a have")
    known = facts.have_notices.get((event.notice.attempt, event.notice.member))
    if known is not None and known.bitmap != event.notice.bitmap:
        raise LocalError(f"a second have of ours in attempt {event.notice.attempt}")
    _take_have(facts, event.notice)


def record_signed_vote(facts: Facts, event: SignedVote) -> None:
    """Our one vote of an attempt"""
    notice = event.notice
    _ours(facts, notice.member, "a vote")
    known = facts.votes.get((notice.attempt, notice.member))
    if known is not None and (known.set, known.result) != (notice.set, notice.result):
        raise LocalError(f"a second vote of ours in attempt {notice.attempt}")
    _take_vote(facts, notice)


def record_signed_close(facts: Facts, event: SignedClose) -> None:
    """Our one close of a branch and height"""
    _ours(facts, event.notice.member, "a close")
    known = facts.closes.get(event.notice.member)
    if known is not None and known.result_hash != event.notice.result_hash:
        raise LocalError(f"a second close of ours at height {facts.opened.height}")
    _take_close(facts, event.notice)


def record_restarted(facts: Facts, event: Restarted) -> None:
    """We ask before we sign"""
    facts.restarted = True


def record_answered(facts: Facts, event: PeerAnswered) -> None:
    """One more member told us what we signed"""
    if event.member != facts.me and facts.opened.roster >> event.member & 1:
        facts.answered.add(event.member)


def record_nothing(facts: Facts, event: Event) -> None:
    """No fact: about what was asked, or about time"""


EVENTS: dict[type, tuple[Callable[[Facts, Any], None], str]] = {
    # event: (what it adds to the facts, clause)
    Observed: (record_observed, "3, 8, 12"),
    SealIsFinal: (record_seal, "5"),
    HavesAreFinal: (record_haves_final, "9"),
    ResultIsFinal: (record_result_final, "12"),
    Trained: (record_trained, "2"),
    TrainingFailed: (record_gave_up, "3"),
    BelowMinimum: (record_below, "3"),
    WithdrawalKnown: (record_withdrawal, "5"),
    Revealed: (record_revealed, "5"),
    Received: (record_received, "3, 7, 8"),
    Held: (record_held, "5"),
    Judged: (record_judged, "6"),
    Aggregated: (record_aggregated, "7, 10"),
    SignedAbstain: (record_signed_abstain, "3"),
    SignedHave: (record_signed_have, "8"),
    SignedVote: (record_signed_vote, "7, 10"),
    SignedClose: (record_signed_close, "13"),
    Restarted: (record_restarted, "14"),
    PeerAnswered: (record_answered, "14"),
    Sent: (record_nothing, ""),
    NotSent: (record_nothing, ""),
    Tick: (record_nothing, ""),
}


# --------------------------------------------------------------------------------------------------------------------
# The machine


@dataclass(frozen=True, slots=True)
class Seal:
    """The seal as validity needs it: withdrawals count up to `position`, or without one up to block time `time`."""

    position: Position | None
    time: int


class Round:
    """One round at one node. Pure: the same events at the same times give the same effects."""

    def __init__(
        self, opened: RoundOpened, terms: CreateStudy, me: int | None, *, consent_acc: bytes, membership_acc: bytes
    ) -> None:
        """Start at the opening record.

        Args:
            opened: the round's opening record.
            terms: the study's terms; the windows are seconds of chain time.
            me: our member index, or None at an auditor, who fetches, judges and aggregates but signs and posts nothing.
            consent_acc: ConsentRegistry's accumulator at the opening as this node rebuilt it from the records it has.
            membership_acc: the same for Membership. Where one differs from the round's, records were hidden from us:
                this node signs nothing (clause 1), and `sound` says so.

        Raises:
            LedgerError: if f or the quorum is not what the roster and the terms give.
        """
        n = opened.roster.bit_count()
        f = faults(n, terms.f)
        if (opened.f, opened.quorum) != (f, quorum(n, f)):
            raise LedgerError(
                f"round {opened.round_id.hex()} has f={opened.f} and quorum {opened.quorum}; {n} members and the "
                f"study's f={terms.f} give {f} and {quorum(n, f)}"
            )
        sound = (consent_acc, membership_acc) == (opened.consent_acc, opened.membership_acc)
        self.facts = Facts(opened, terms, me, sound)
        order = scribes(opened.roster, opened.suspended, opened.height)
        self.rank = order.index(me) if me in order else None
        self._asked: set[Hashable] = set()
        self._not_before: dict[Hashable, int] = {}
        self._held_since: dict[Hashable, int] = {}  # when a BY_RANK row was first seen to hold
        self._wake: int | None = None
        self._now = opened.opened_at

    # --- events in, effects out

    def handle(self, event: Event, now: int) -> tuple[Effect, ...]:
        """Record an event, then return what is due and was not asked for before.

        `now` is chain time: what a transaction sent now would be stamped with, at least. It never runs backwards here.

        Raises:
            PeerError: a notice that its sender should not have sent; drop it.
            LocalError: the shell reports what cannot be, or would make us sign twice.
            LedgerError: a record that the contract cannot have emitted.
            In each case nothing was recorded.
        """
        self._record(event, now)
        return self._ask()

    def restore(self, events: Iterable[Event], now: int) -> None:
        """Record what a store and the chain already have, without acting on it. Then `handle(Restarted(), now)`."""
        for event in events:
            self._record(event, now)

    def _record(self, event: Event, now: int) -> None:
        recorder, _ = EVENTS[type(event)]
        recorder(self.facts, event)
        self._now = max(self._now, now)
        match event:
            case NotSent(effect, retry_at):
                self._forget(effect, retry_at)
            case Sent(AskPeers() as effect):
                self._forget(effect, self._now + self._patience)
            case TrainingFailed(generation):
                self._asked.discard(Train(self.facts.opened.round_id, generation))
            case _:
                pass

    def _forget(self, effect: Effect, retry_at: int) -> None:
        for part in effect.parts:
            self._asked.discard(part)
            self._not_before[part] = retry_at

    @property
    def _patience(self) -> int:
        """Seconds between one scribe and the next, and between two Pulls."""
        return max(1, self.facts.terms.grace_seconds // 4)

    def _situation(self, now: int) -> Situation:
        return Situation(self.facts, phase_of(self.facts, now), now, self.rank, self._asked)

    def owed(self, now: int) -> tuple[tuple[Row, Effect], ...]:
        """Every effect whose row holds at `now`, asked for or not."""
        return tuple(_walk(self._situation(now)))

    def _ask(self) -> tuple[Effect, ...]:
        now, situation = self._now, self._situation(self._now)
        effects: list[Effect] = []
        waits: list[int] = [moment(self.facts, situation.view) for moment in TIMES[situation.view.phase]]
        holding: dict[Hashable, int] = {}
        for row, effect in _walk(situation):
            ready = []
            for part in effect.parts:
                if row.pace is BY_RANK:
                    holding[part] = self._held_since.get(part, now)
                if part in self._asked:
                    continue
                due = max(self._not_before.get(part, 0), self._turn(row, part, holding, situation.view))
                if due <= now:
                    ready.append(part)
                else:
                    waits.append(due)
            if ready:
                self._asked.update(ready)
                effects.append(effect.only(ready))
        self._held_since = holding
        wake = min((at for at in waits if at > now), default=None)
        if wake is not None and wake != self._wake:
            effects.append(Wake(wake))
        self._wake = wake
        return tuple(effects)

    def _turn(self, row: Row, part: Hashable, holding: dict[Hashable, int], view: PhaseView) -> int:
        """When it is our turn: at once, or after the scribes before us, but never in the phase's last G seconds."""
        if row.pace is NOW:
            return 0
        since = holding[part]
        turn = since + (self.rank or 0) * self._patience
        if view.deadline is None:
            return turn
        return min(turn, max(since, view.deadline - self.facts.terms.grace_seconds))

    # --- questions

    def phase(self, now: int) -> PhaseView:
        """Where the round is at chain time `now`."""
        return phase_of(self.facts, now)

    def finality(self, final_block: int, final_time: int) -> tuple[Event, ...]:
        """What a final part of the chain makes final; hand the events to `handle`.

        All records up to `final_block` must have been observed, and no block after it can have a time up to
        `final_time`. Without confirmations those are the head's number and `Head.time - 1`.
        """
        view, last, facts = phase_of(self.facts, final_time), self.facts.last_answer, self.facts
        by_all = last is not None and last.position.block <= final_block
        enough = facts.committed.bit_count() >= facts.least
        events: list[Event] = []
        if not facts.seal_final and enough and (by_all or final_time > facts.commit_deadline):
            events.append(SealIsFinal())
        if view.phase is VOTING and view.attempt not in facts.haves_final:
            events.append(HavesAreFinal(view.attempt))
        if facts.final is not None and not facts.result_final and facts.final.position.block <= final_block:
            events.append(ResultIsFinal())
        return tuple(events)

    def seal(self) -> Seal | None:
        """The seal as validity needs it; None while the round is not sealed."""
        time = self.facts.seal_time(self._now)
        if time is None:
            return None
        last = self.facts.last_answer
        return Seal(None if last is None else last.position, time)

    def may_serve_key(self, member: int) -> bool:
        """Whether a content key of this member may leave this node (clause 5).

        For our own, `handle(Revealed(), now)` comes first, stored, then the key.
        """
        facts = self.facts
        return (
            facts.seal_final
            and facts.committed.bit_count() >= facts.least
            and bool(facts.committed & facts.at_hand & 1 << member)
        )

    @property
    def sound(self) -> bool:
        """Whether our accumulators are the round's; if not, the chain's endpoint hides records from us."""
        return self.facts.sound

    @property
    def is_withheld(self) -> bool:
        """Whether our own blobs stay closed: a consent was withdrawn between our commit and the reveal."""
        return self.facts.withheld

    @property
    def used_in_flight(self) -> bool:
        """Whether a consent was withdrawn after our keys were out: this round is its recorded last use."""
        return self.facts.stale and self.facts.revealed

    def contradictions(self) -> tuple[tuple[Notice, Notice], ...]:
        """Pairs of different statements of one member for one kind and attempt: evidence for anyone (clause 14)."""
        return tuple(pair for _, pair in sorted(self.facts.contradictions.items()))

    def deviant_votes(self) -> tuple[VoteNotice, ...]:
        """Votes unlike the accepted result of the same attempt: each is a provable fault of its member (clause 14)."""
        if self.facts.final is None:
            return ()
        final = _accepted(self.facts)
        votes = (vote for (a, _), vote in sorted(self.facts.votes.items()) if a == final.attempt)
        return tuple(vote for vote in votes if vote.result != final.result)


def _walk(situation: Situation) -> Iterator[tuple[Row, Effect]]:
    for row in RULES:
        if situation.view.phase in row.phases and all(holds(situation) for holds in row.when):
            for effect in row.make(situation):
                yield row, effect
