"""May this record be used? The consent gate, and the state of a consent, each as one table.

What may live here: the leaf a vault hands out, the gate that decides about it, the states of a consent, and what the
chain says about a consent as of a round. What this file does not know: files, the clock, patients. Time is chain time
in seconds, given by the caller; the past is asked by position.

Rules
- The gate is asked five times in a round (snapshot, build, commit, seal, reveal) and always in the same words.
- The snapshot bounds a set from above: what was not granted when the round opened is never in it. Withdrawals count
  whenever they are known, on the chain or only here, and a withdrawal known only here weighs as much as one mined.
- A replay has its own snapshot, but takes nobody in whom the original round could not have had.
- A consent must outlast the last deadline the round can have, so that none expires between training and use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from crypto.blobs import AnchorProof, SetEntry
from crypto.commitments import check_consent_id
from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.merkle import verify_anchored
from crypto.statements import CreateStudy
from node.history import History, RoundHistory
from node.records import FormRegistered, Position, RoundOpened

MAX_ATTEMPTS: Final = 3  # PROTOCOL.md clause 11: one attempt and at most two extensions, windows doubled each time


# --------------------------------------------------------------------------------------------------------------------
# What the vault hands out


@dataclass(frozen=True, slots=True)
class GrantProof:
    """How a consent is on the chain: a grant of its own (`anchor` None), or a place in an anchor tree."""

    anchor: AnchorProof | None = None

    @property
    def kind(self) -> int:
        """0 for a stored grant, 1 for an anchor, as the set's encoding has it."""
        return 0 if self.anchor is None else 1


@dataclass(frozen=True, slots=True)
class Leaf:
    """One consent with the rows it covers, as the set builder needs it; nothing about the person.

    `role` is 1 train, 2 validation, 3 test; `rows` are import row numbers in import order, empty once the copy is
    deleted; `proof` is None while no anchor and no grant carries the consent (the gate asks the chain);
    `locally_withdrawn` stops use at once, mined or not.
    """

    consent_id: Digest
    leaf_key: Digest
    value_salt: Digest
    role: int
    rows: tuple[int, ...]
    holder: bytes  # 20-byte address
    holder_salt: Digest
    doc_commit: Digest
    form_id: Digest
    proof: GrantProof | None
    locally_withdrawn: bool
    usable_from: int = 0  # end of the notice period, unix seconds

    def used_rows(self, max_records: int) -> tuple[int, ...]:
        """The rows a round takes: the first `max_records` (the study's cap per consent) in import order."""
        return self.rows[:max_records]

    def entry(self, max_records: int) -> SetEntry:
        """This leaf as a set shows it. Only for a leaf the gate lets through: `ValueError` without proof or rows."""
        if self.proof is None or not self.rows:
            raise ValueError(f"consent {self.consent_id.hex()} has no grant or no rows, the gate would refuse it")
        return SetEntry(
            leaf_key=self.leaf_key,
            value_salt=self.value_salt,
            role=self.role,
            records=len(self.used_rows(max_records)),
            consent_id=self.consent_id,
            holder=self.holder,
            holder_salt=self.holder_salt,
            doc_commit=self.doc_commit,
            form_id=self.form_id,
            anchor=self.proof.anchor,
        )


# --------------------------------------------------------------------------------------------------------------------
# What the chain says


def last_deadline(terms: CreateStudy, opened_at: int) -> int:
    """The latest time a round opened at `opened_at` can still become final: all windows, with every extension."""
    doublings = 2**MAX_ATTEMPTS - 1  # 1 + 2 + 4
    return (
        opened_at
        + terms.scribe_seconds
        + terms.grace_seconds
        + terms.reveal_seconds
        + doublings * (terms.have_seconds + terms.vote_seconds)
    )


def granted_at(
    history: History, consent_id: Digest, study: Digest, form_id: Digest, member: int | None, proof: GrantProof
) -> Position | None:
    """Where the chain took in the grant that `proof` shows, or None where it shows none.

    The grant must be for this consent, study and form and, unless `member` is None, by this hospital.
    """
    if proof.anchor is None:
        grant = history.grants.get(consent_id)
        if grant is None:
            return None
        found = (grant.study, grant.record.form_id, grant.record.member)
        position = grant.position
    else:
        anchor = history.anchors.get(proof.anchor.root)
        if anchor is None:
            return None
        try:
            place = proof.anchor
            verify_anchored(place.root, anchor.record.count, consent_id, place.index, place.path)
        except CryptoError:
            return None
        found = (anchor.record.study, anchor.record.form_id, anchor.record.member)
        position = anchor.position
    wanted = (study, form_id, found[2] if member is None else member)
    return position if found == wanted else None


def original_opening(history: History, opened: RoundOpened) -> Position | None:
    """Where the round that this one replays was opened (the first ever, if that was a replay too); None if none.

    A round is a replay when its branch has a parent on whose line the same height was already opened.
    """
    found: Position | None = None
    branch = history.studies[opened.study].branches[opened.branch]
    while branch.parent is not None:
        original = history.round_at(opened.study, branch.parent, opened.height)
        if original is None:
            return found
        found = original.position
        branch = history.studies[opened.study].branches[original.opened.branch]
    return found


# --------------------------------------------------------------------------------------------------------------------
# The gate


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything the gate looks at when it decides about one leaf in one round."""

    leaf: Leaf
    study: Digest
    form: FormRegistered | None
    form_elsewhere: bool
    withdrawn: bool
    opens: bool  # the leaf's own opening leads to its consent id
    granted: Position | None
    snapshot: Position
    original: Position | None
    opened_at: int
    deadline: int


def _case(leaf: Leaf, history: History, opened: RoundHistory, deadline: int) -> _Case:
    study = opened.opened.study
    try:
        check_consent_id(leaf.consent_id, leaf.holder, leaf.holder_salt, leaf.doc_commit, leaf.leaf_key)
        opens = True
    except CryptoError:
        opens = False
    proof = leaf.proof
    return _Case(
        leaf=leaf,
        study=study,
        form=history.studies[study].forms.get(leaf.form_id),
        form_elsewhere=any(leaf.form_id in one.forms for one in history.studies.values()),
        withdrawn=leaf.consent_id in history.withdrawals,
        opens=opens,
        granted=None if proof is None else granted_at(history, leaf.consent_id, study, leaf.form_id, None, proof),
        snapshot=opened.position,
        original=original_opening(history, opened.opened),
        opened_at=opened.opened.opened_at,
        deadline=deadline,
    )


_NOW: Final = Position(2**63, 0)  # later than whatever the chain has

# The first row that applies is the reason. Order: what the person said, what the paper says, what the chain says.
GATE: Final[tuple[tuple[str, Callable[[_Case], bool]], ...]] = (
    ("withdrawn-here", lambda c: c.leaf.locally_withdrawn),
    ("withdrawn", lambda c: c.withdrawn),
    ("no-records", lambda c: not c.leaf.rows),
    ("wrong-opening", lambda c: not c.opens),
    ("other-study", lambda c: c.form is None and c.form_elsewhere),
    ("unknown-form", lambda c: c.form is None),
    ("expired", lambda c: c.form is not None and c.form.valid_to <= c.deadline),
    ("notice-period", lambda c: c.leaf.usable_from > c.opened_at),
    ("not-granted", lambda c: c.granted is None),
    ("granted-after-snapshot", lambda c: c.granted is not None and c.granted > c.snapshot),
    (
        "not-in-the-replayed-round",
        lambda c: c.granted is not None and c.original is not None and c.granted > c.original,
    ),
)


def usable(leaf: Leaf, history: History, opened: RoundHistory, last_deadline: int) -> str | None:
    """Why this leaf may not be used in this round, in the words of `GATE`; None when it may.

    `last_deadline` is the function of that name for this round, unix seconds.
    """
    return _refusal(_case(leaf, history, opened, last_deadline))


def usable_next(leaf: Leaf, history: History, opened: RoundHistory, last_deadline: int) -> bool:
    """Whether a leaf could be used in the round after this one on its branch, as far as is known now.

    By the same gate: what the chain has by now was granted before that round will be opened. A notice period must have
    ended when this round was opened, so that nothing has to be guessed.
    """
    following = replace(opened.opened, height=opened.opened.height + 1)
    case = _case(leaf, history, opened, last_deadline)
    return _refusal(replace(case, snapshot=_NOW, original=original_opening(history, following))) is None


def _refusal(case: _Case) -> str | None:
    return next((reason for reason, applies in GATE if applies(case)), None)


# --------------------------------------------------------------------------------------------------------------------
# States


# state             how it comes about                                  use       copy here
# minted            made, not on the chain yet (notice period, anchor)  none      stays
# active            granted, form valid, nobody has ended it            allowed   stays
# expired           the form's `valid_to` has passed                    none      stays until the form's term
# superseded        the patient signed another form of the study: new   none      stays while the newer consent is live
#                   id, the old one is withdrawn on the chain
# withdrawn         holder, hospital or quorum ended it                 none      goes, if the form says so
# entered-in-error  the hospital: it was never lawful (wrong person)    none      goes at once, whatever the form says
#
# Nothing leads back: whoever agrees again gets a new consent with a new id, from a form signed later. After an erasure
# the suppression has to be lifted by an explicit order first. On the chain the last three are one and the same
# tombstone; the reason is in the vault alone.


class ConsentState(Enum):
    """Where a consent stands, for lists and cards."""

    MINTED = "minted"
    ACTIVE = "active"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    ENTERED_IN_ERROR = "entered-in-error"


STOP_AND_DELETE: Final = 2  # a form's on_withdrawal from which the copy goes when a consent ends

STOP_DELETE_AND_UNLEARN: Final = 3
"""A form's on_withdrawal from which the end of a consent is a request for its erasure too."""

MARKS: Final = ("withdrawn", "superseded", "entered-in-error")
"""What a hospital itself may write on a consent. Each of them stops use at once."""


@dataclass(frozen=True, slots=True)
class ConsentFacts:
    """What is known about a consent: the hospital's own mark ("" or one of `MARKS`), then the chain's word."""

    mark: str
    withdrawn: bool
    granted: bool
    valid_to: int  # unix seconds, end of the form
    now: int  # chain time


STATES: Final[tuple[tuple[ConsentState, Callable[[ConsentFacts], bool]], ...]] = (
    (ConsentState.WITHDRAWN, lambda f: f.mark == "withdrawn"),
    (ConsentState.ENTERED_IN_ERROR, lambda f: f.mark == "entered-in-error"),
    (ConsentState.SUPERSEDED, lambda f: f.mark == "superseded"),
    (ConsentState.WITHDRAWN, lambda f: f.withdrawn),
    (ConsentState.MINTED, lambda f: not f.granted),
    (ConsentState.EXPIRED, lambda f: f.valid_to <= f.now),
    (ConsentState.ACTIVE, lambda f: True),
)


def state_of(facts: ConsentFacts) -> ConsentState:
    """The first row of `STATES` that applies."""
    return next(state for state, applies in STATES if applies(facts))
