"""A round in memory: its changing facts, what a timestamp makes of them, and who is not waited for in the next one.

The table of phases that heads `contracts/TrainingLedger.sol`, and `contracts/libraries/Conduct.sol`. Values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from crypto.digest import Digest
from crypto.statements import CreateStudy
from node.membership import available, bitmap_of, faults, least_included, members_of, quorum, slack

LAST_ATTEMPT: Final = 3


class Phase(IntEnum):
    """Where an open round is; NONE: it is not open. HAVE and VOTE belong to attempts 1 to 3."""

    NONE = 0
    TRAINING = 1
    REVEAL = 2
    HAVE = 3
    VOTE = 4
    FAILED = 5


class Failure(IntEnum):
    """Why a round failed."""

    QUORUM = 1
    ATTEMPTS = 2
    AGE = 3


@dataclass(frozen=True, slots=True)
class Round:
    """A round's facts. Member sets are bitmaps, times seconds; `haves` are the bitmaps posted by (attempt, member)."""

    study: Digest
    branch: int
    height: int
    opened_at: int
    roster: int
    suspended: int
    sealed_at: int | None = None
    committed: int = 0
    abstained: int = 0

    @property
    def answered(self) -> int:
        """Who committed or abstained."""
        return self.committed | self.abstained

    def sealed_if_full(self, now: int) -> Round:
        """Sealed at `now` if nobody is waited for any more."""
        full = self.answered | self.suspended == self.roster
        return replace(self, sealed_at=now) if full else self


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a round's roster under its study's terms."""

    n: int
    f: int
    quorum: int
    slack: int
    least: int

    @staticmethod
    def of(roster: int, terms: CreateStudy) -> Figures:
        """For this roster."""
        n = roster.bit_count()
        f = faults(n, terms.f)
        return Figures(n, f, quorum(n, f), slack(n, f), least_included(n, f, terms.min_included))


@dataclass(frozen=True, slots=True)
class Clock:
    """What a timestamp makes of a round that nothing has ended. Times are seconds, zero where not reached."""

    phase: Phase
    attempt: int = 0
    failure: Failure | None = None
    seal_time: int = 0


def clock_of(one: Round, terms: CreateStudy, haves: Mapping[int, Mapping[int, int]], now: int) -> Clock:
    """The table of phases, line by line. At exactly a deadline the old phase still holds.

    Args:
        one: the round.
        terms: of its study.
        haves: attempt -> member -> bitmap posted.
        now: the block's stamp.
    """
    figures = Figures.of(one.roster, terms)
    too_old = one.opened_at + terms.max_round_age
    window_end = one.opened_at + terms.scribe_seconds + terms.grace_seconds
    seal = one.sealed_at
    if seal is None:
        seal = window_end
        if now <= seal:
            return Clock(Phase.TRAINING)
    if one.committed.bit_count() < figures.least:
        if one.abstained and now <= window_end:
            return Clock(Phase.TRAINING)
        return Clock(Phase.FAILED, 0, Failure.QUORUM, seal)

    def unless_too_old(phase: Phase, attempt: int) -> Clock:
        if now > too_old:
            return Clock(Phase.FAILED, attempt, Failure.AGE, seal)
        return Clock(phase, attempt, None, seal)

    start = seal + terms.reveal_seconds
    if now <= start:
        return unless_too_old(Phase.REVEAL, 0)
    for attempt in range(1, LAST_ATTEMPT + 1):
        have_end = start + (terms.have_seconds << (attempt - 1))
        vote_end = have_end + (terms.vote_seconds << (attempt - 1))
        if now <= have_end:
            return unless_too_old(Phase.HAVE, attempt)
        if len(haves.get(attempt, {})) < figures.n - figures.slack:
            vote_end = have_end  # too few bitmaps: no vote window
        elif now <= vote_end:
            return unless_too_old(Phase.VOTE, attempt)
        start = vote_end
    return Clock(Phase.FAILED, LAST_ATTEMPT, Failure.ATTEMPTS if start < too_old else Failure.AGE, seal)


def available_of(one: Round, terms: CreateStudy, haves: Mapping[int, int]) -> int:
    """I: of those who committed, whom enough members have."""
    return available(haves.values(), one.committed, Figures.of(one.roster, terms).f)


@dataclass(frozen=True, slots=True)
class Conduct:
    """Misses in a row and rounds of suspension left, by member; absent is zero."""

    missed: Mapping[int, int]
    left: Mapping[int, int]

    @property
    def suspended(self) -> int:
        """Bitmap of the members not asked to contribute."""
        return bitmap_of(member for member, rounds in self.left.items() if rounds)

    def settle(self, suspended: int, present: int, missing: int, terms: CreateStudy) -> Conduct:
        """After a round: who was not asked, who contributed and was available, who neither did nor abstained."""
        missed, left = dict(self.missed), dict(self.left)
        for member in members_of(suspended | present | missing):
            if suspended >> member & 1:
                left[member] = max(0, left.get(member, 0) - 1)
            elif present >> member & 1:
                missed[member] = 0
            elif terms.suspend_after:
                missed[member] = missed.get(member, 0) + 1
                if missed[member] >= terms.suspend_after:
                    missed[member] = 0
                    left[member] = max(left.get(member, 0), terms.suspend_rounds)
        return Conduct(missed, left)

    def punish(self, member: int, rounds: int, suspended_now: bool) -> Conduct:
        """After a contradiction: suspended from the next open on. The open round's end takes one off if it is now."""
        wanted = rounds + 1 if suspended_now else rounds
        return Conduct(self.missed, {**self.left, member: max(self.left.get(member, 0), wanted)})
