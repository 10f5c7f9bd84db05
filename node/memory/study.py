"""A study in memory: where it stands, where its branches begin, which terms it may have. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from crypto.digest import ZERO, Digest
from crypto.statements import CreateStudy
from node.memory.machine import refuse
from node.memory.rounds import Conduct

LAST_HEIGHT: Final = (1 << 21) - 1
"""Heights are kept in 21 bits."""

LONGEST_WINDOW_S: Final = 1 << 22
"""The seal is kept in 24 bits of seconds after the open."""


class Forking(IntEnum):
    """Where a study's fork is."""

    NONE = 0
    WAITS_FOR_ROUND = 1
    REPLAYING = 2
    WAITS_FOR_VERDICTS = 3  # a plan without a replay: the training branch stays


@dataclass(frozen=True, slots=True)
class Study:
    """Where a study stands. `height` is the newest round's on `branch`, `final_height` the newest recorded model's."""

    terms: CreateStudy
    branch: int = 0
    height: int = 0
    finals: int = 0
    final_height: int = 0
    joined: int = 0
    left: int = 0
    forking: Forking = Forking.NONE
    open_round: Digest = ZERO
    lineage: Digest = ZERO
    commit_root: Digest = ZERO
    conduct: Conduct = Conduct({}, {})  # noqa: RUF009 - frozen, and never written through


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a branch begins."""

    parent: int = 0
    base_height: int = 0
    base_finals: int = 0
    target_finals: int = 0
    base_result: Digest = ZERO


@dataclass(frozen=True, slots=True)
class ForkTerms:
    """The order of an erasure plan: see `ITrainingLedger.ForkTerms`."""

    study: Digest
    batch: Digest
    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    rounds: int


@dataclass(frozen=True, slots=True)
class ErasureTerms:
    """What the UnlearningRegistry asks of a study. `opened_at` is zero when no round is open."""

    roster: int
    f: int
    erasure_window: int
    opened_at: int


def check_terms(t: CreateStudy, active: int) -> None:
    """Revert unless the terms are in their ranges; `active` is the bitmap of the members that may be invited."""
    if t.invited & ~active or t.invited.bit_count() < 2:
        refuse("BadTerms", field="invited", got=t.invited)
    if t.spec_hash == ZERO:
        refuse("BadTerms", field="specHash", got=0)
    if t.initial_model == ZERO:
        refuse("BadTerms", field="initialModel", got=0)
    rules = (
        ("rounds", t.rounds, 0 < t.rounds <= LAST_HEIGHT),
        ("minIncluded", t.min_included, t.min_included <= t.invited.bit_count()),
        ("scribeSeconds", t.scribe_seconds, 0 < t.scribe_seconds <= LONGEST_WINDOW_S),
        ("graceSeconds", t.grace_seconds, t.grace_seconds <= LONGEST_WINDOW_S),
        ("revealSeconds", t.reveal_seconds, t.reveal_seconds > 0),
        ("haveSeconds", t.have_seconds, t.have_seconds > 0),
        ("voteSeconds", t.vote_seconds, t.vote_seconds > 0),
        ("suspendAfter", t.suspend_after, t.suspend_after <= 15),
        ("suspendRounds", t.suspend_rounds, t.suspend_rounds <= 14),
        ("maxRoundAge", t.max_round_age, t.max_round_age > t.scribe_seconds + t.grace_seconds + t.reveal_seconds),
    )
    for field, got, holds in rules:
        if not holds:
            refuse("BadTerms", field=field, got=got)
