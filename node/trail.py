"""The chain told to people: who did what when, who took part in which round, how a study's models descend.

What may live here: pure readings of records and of the folded history, as plain dictionaries for the command line. What
this file does not know: files, the network, patients. Nothing here names a person: a consent appears by its id, which
only its hospital and its patient can read, and no figure counts patients (an anchor's count is padded).

A member is shown by its registered name, times are block times (unix seconds), a transaction by its hash. The hash is
the endpoint's word (`node/evidence.py`); everything else is proven by headers and receipts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from crypto.digest import Digest
from crypto.keys import address_text
from node import methods
from node.erasure import GROUNDS
from node.errors import InputError, NotFound
from node.events import Event, EventIndex
from node.history import STEP_STATES, Branch, History, RoundHistory, in_words
from node.membership import available, bitmap_of, members_of
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
    BranchCreated,
    Committed,
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
    PurgesAttested,
    Record,
    ReplayGivenUp,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyContinued,
    StudyCreated,
    VerdictsGiven,
    Withdrawn,
    transaction_text,
)
from node.validity import Code, code_of

SHORT = 12
"""Digits of an id where the whole is shown elsewhere."""

CONTRACT, HOLDER = "the contract", "holder, hospital or quorum"
REFUSED_FOR: Final = {
    1: "duplicate",
    2: "bad signature",
    3: "unknown member",
    4: "wrong phase",
    5: "unknown subject",
    6: "malformed",
}
FAILED_FOR: Final = {1: "too few commitments", 2: "all attempts used up", 3: "too old"}
STEPS: Final = {step: in_words(state) for step, state in STEP_STATES.items()}
ANCHORED: Final = ": given in an anchor, if at all; for which study, the chain does not say"
LEVELS: Final = {3: "a local replay", 4: "an attack audit"}
STATEMENTS: Final = {1: "commits", 2: "votes", 3: "haves"}


# --------------------------------------------------------------------------------------------------------------------
# Who did what when


class _Names:
    """Names and owners of what records refer to by id, from the history up to the record that is told."""

    def __init__(self, history: History) -> None:
        self.history = history

    def member(self, index: int) -> str:
        """A member's registered name."""
        found = self.history.registry.members.get(index)
        return found.name if found is not None else f"member {index}"

    def members(self, bitmap: int) -> str:
        """Several members' names."""
        return ", ".join(self.member(index) for index in members_of(bitmap)) or "nobody"

    def auditor(self, seat: int) -> str:
        """An auditor's registered name."""
        found = self.history.registry.auditors.get(seat)
        return found.name if found is not None else f"auditor {seat}"

    def round(self, round_id: Digest) -> str:
        """A round by branch and height."""
        found = self.history.rounds.get(round_id)
        return "an unknown round" if found is None else _round_name(found.opened.branch, found.opened.height)

    def study(self, record: Record) -> Digest | None:
        """The study that a record belongs to, if any."""
        study = getattr(record, "study", None)
        if isinstance(study, Digest):
            return None if study == ZERO else study
        found = self.history.rounds.get(getattr(record, "round_id", ZERO))
        if found is not None:
            return found.opened.study
        erasure = self.history.erasures.get(getattr(record, "batch", ZERO))
        if erasure is not None:
            return erasure.opened.study
        if isinstance(record, Granted):
            form = self.history.forms.get(record.form_id)
            return None if form is None else form[0].study
        if isinstance(record, Withdrawn):
            grant = self.history.grants.get(record.consent_id)
            return None if grant is None else grant.study
        return None

    def controller(self, batch: Digest) -> int | None:
        """The hospital that controls an erasure."""
        found = self.history.erasures.get(batch)
        return None if found is None else found.opened.controller


def _round_name(branch: int, height: int) -> str:
    return f"round {height}" if branch == 0 else f"round {height} of branch {branch}"


def moment(seconds: int) -> str:
    """A chain time in words; also one beyond the calendar, for a chain that was handed over may say anything."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):
        return f"{seconds} s after 1970"


def _short(value: bytes) -> str:
    return value.hex()[:SHORT]


def _roots(roots: tuple[Digest, ...]) -> str:
    return _short(roots[0]) + (f" and {len(roots) - 1} more roots" if len(roots) > 1 else "")


@dataclass(frozen=True, slots=True)
class _Told:
    """A record in words: the members it is by or about (bitmap), who acted, and what they did."""

    members: int
    who: str
    what: str


Teller = Callable[[Any, _Names], _Told]


def _by_members(n: _Names, members: int, what: str) -> _Told:
    return _Told(members, n.members(members), what)


def _verb(members: int, one: str, several: str) -> str:
    return one if members.bit_count() == 1 else several


def _judgement(r: VerdictsGiven, n: _Names) -> str:
    subject = f"erasure {_short(r.batch)} on {_short(r.head_model)}"
    denying = r.members & ~r.confirming
    if not denying:
        return f"{_verb(r.members, 'confirms', 'confirm')} {subject}"
    if not r.confirming:
        return f"{_verb(r.members, 'denies', 'deny')} {subject}"
    return f"judge {subject}: {n.members(r.confirming)} for it, {n.members(denying)} against it"


def _by(n: _Names, member: int, what: str) -> _Told:
    return _Told(1 << member if member < MAX_MEMBERS else 0, n.member(member), what)


def _by_controller(n: _Names, batch: Digest, what: str) -> _Told:
    controller = n.controller(batch)
    return _Told(0, CONTRACT, what) if controller is None else _by(n, controller, what)


def _by_contract(what: str, members: int = 0) -> _Told:
    return _Told(members, CONTRACT, what)


def _invalid_names(n: _Names, codes: int) -> str:
    return ", ".join(f"{n.member(m)} ({code.name})" for m, code in _codes(codes).items())


def _codes(codes: int) -> dict[int, Code]:
    found: dict[int, Code] = {}
    for member in range(MAX_MEMBERS):
        try:
            code = code_of(codes, member)
        except ValueError:  # four bits hold more numbers than there are rules; what a contract took is still shown
            continue
        if code is not Code.VALID:
            found[member] = code
    return found


def _final(r: RoundFinal, n: _Names) -> _Told:
    made = f"model {_short(r.result.model_root)}" if r.result.outcome == 1 else "no result, the model stays"
    refused = _invalid_names(n, r.result.codes)
    what = f"{_round_name(r.branch, r.height)} is final in attempt {r.attempt}: {made}; included "
    what += n.members(r.result.included) + (f"; refused {refused}" if refused else "")
    return _Told(r.signers, n.members(r.signers), what)


def _skipped(r: EntrySkipped, n: _Names) -> _Told:
    why = REFUSED_FOR.get(r.reason, f"reason {r.reason}")
    what = f"an entry about {_short(r.subject)} was skipped: {why}"
    return _by(n, r.member, what) if r.member < MAX_MEMBERS else _by_contract(what)


def _planned(r: ErasurePlanned, n: _Names) -> _Told:
    base = f"model {_short(r.base_model)} of height {r.base_height}"
    if r.target_height == r.base_height:
        return _by_contract(f"erasure {_short(r.batch)}: never included, nothing is replayed")
    plan = f"branch {r.branch} replays from {base} to height {r.target_height}"
    kind = "" if methods.is_exact(r.method) else "the approximate method "
    return _by_contract(f"erasure {_short(r.batch)}: {plan} by {kind}{methods.name_of(r.method)}, in {r.rounds} rounds")


# record -> (record, names) -> in words
_WORDS: Final[dict[type, Teller]] = {
    MemberAdmitted: lambda r, n: _Told(1 << r.index, r.name, f"is member {r.index} from epoch {r.epoch}"),
    MemberRemoved: lambda r, n: _by(n, r.index, f"is removed from epoch {r.epoch}"),
    MemberRotated: lambda r, n: _by(n, r.index, f"has new keys from epoch {r.epoch}, by its own word"),
    MemberRevoked: lambda r, n: _by(n, r.index, f"has no key from epoch {r.epoch}: revoked by the others"),
    MemberRecovered: lambda r, n: _by(n, r.index, f"has new keys from epoch {r.epoch}, by the word of the others"),
    AuditOpened: lambda r, n: _by(
        n, r.member, f"opens study {_short(r.study)} to {n.auditor(r.seat)}, auditor's seat {r.seat}"
    ),
    AuditorEnded: lambda r, n: _Told(0, n.auditor(r.seat), f"ends its term in auditor's seat {r.seat}"),
    AuditorSeated: lambda r, n: _Told(
        0, r.name, f"has auditor's seat {r.seat}" + (f" for study {_short(r.study)}" if r.study != ZERO else "")
    ),
    NetworkSucceeded: lambda r, n: _by_contract(
        f"the members go on with the deployment at {address_text(r.successor)} from epoch {r.epoch}"
    ),
    StudyContinued: lambda r, n: _by_contract(
        f"study {_short(r.study)} goes on here after {_round_name(r.branch, r.height)}, {r.finals} of its rounds final"
    ),
    LogAnchored: lambda r, n: _by(n, r.member, f"anchors its log up to entry {r.entries} under {_short(r.root)}"),
    AddressAnnounced: lambda r, n: _by(n, r.member, f"is dialled at {r.text or 'no address'} from here on"),
    FormRegistered: lambda r, n: _by_contract(f"form {_short(r.form_id)} is registered for study {_short(r.study)}"),
    Granted: lambda r, n: _by(n, r.member, f"grants consent {r.consent_id.hex()} on form {_short(r.form_id)}"),
    Anchored: lambda r, n: _by(
        n, r.member, f"anchors consents under {_roots(r.roots)} (padded to {r.count}) on form {_short(r.form_id)}"
    ),
    Withdrawn: lambda r, n: _Told(
        0, HOLDER, f"withdraws consent {r.consent_id.hex()}" + (ANCHORED if _study_unknown(r, n) else "")
    ),
    StudyCreated: lambda r, n: _by(
        n,
        r.creator,
        f"creates study {_short(r.study)} of {r.terms.rounds} rounds, inviting {n.members(r.terms.invited)}",
    ),
    Joined: lambda r, n: _by(n, r.member, f"joins study {_short(r.study)}"),
    Left: lambda r, n: _by(n, r.member, f"leaves study {_short(r.study)}"),
    RoundOpened: lambda r, n: _by_contract(
        f"{_round_name(r.branch, r.height)} opens for {n.members(r.roster)}"
        + (f"; suspended {n.members(r.suspended)}" if r.suspended else ""),
        r.roster,
    ),
    Committed: lambda r, n: _by(n, r.member, f"commits to an update in {n.round(r.round_id)}"),
    Abstained: lambda r, n: _by(n, r.member, f"abstains in {n.round(r.round_id)}"),
    HavePosted: lambda r, n: _by(
        n, r.member, f"says it holds {n.members(r.bitmap)} in {n.round(r.round_id)}, attempt {r.attempt}"
    ),
    RoundFinal: _final,
    RoundFailed: lambda r, n: _by_contract(
        f"{_round_name(r.branch, r.height)} failed: {FAILED_FOR.get(r.reason, f'reason {r.reason}')}"
    ),
    ReplayGivenUp: lambda r, n: _by_contract(
        f"the replay on branch {r.branch} is given up and ends with {_short(r.model)}: its rounds make no model"
    ),
    Equivocated: lambda r, n: _by(
        n, r.member, f"signed two different {STATEMENTS.get(r.kind, 'statements')} in {n.round(r.round_id)}"
    ),
    AuditAccessed: lambda r, n: _Told(
        0, n.auditor(r.seat), f"announces that it opens rounds {r.from_height} to {_last(r.to_height)}"
    ),
    BranchCreated: lambda r, n: _by_contract(
        f"branch {r.branch} begins at height {r.base_height} of branch {r.parent}, for erasure {_short(r.batch)}"
    ),
    EntrySkipped: _skipped,
    ErasureOpened: lambda r, n: _by(
        n, r.poster, f"opens erasure {_short(r.batch)}, controlled by {n.member(r.controller)}, due {moment(r.due_at)}"
    ),
    ErasureAuthorised: lambda r, n: _by_controller(n, r.batch, f"authorises erasure {_short(r.batch)}"),
    ErasureRefused: lambda r, n: _by_controller(
        n, r.batch, f"refuses erasure {_short(r.batch)}: {GROUNDS.get(r.ground, r.ground)}"
    ),
    ErasureExtended: lambda r, n: _by_controller(
        n, r.batch, f"extends erasure {_short(r.batch)} once, to be due {moment(r.due_at)} (Art. 12(3) GDPR)"
    ),
    ErasureStepped: lambda r, n: _by_controller(
        n, r.batch, f"erasure {_short(r.batch)}: {', '.join(STEPS.get(step, f'step {step}') for step in r.steps)}"
    ),
    ErasurePlanned: _planned,
    PurgesAttested: lambda r, n: _by_members(
        n,
        r.members,
        f"{_verb(r.members, 'attests', 'attest')} the purge of erasure {_short(r.batch)}",
    ),
    VerdictsGiven: lambda r, n: _by_members(n, r.members, _judgement(r, n)),
    ErasureConfirmed: lambda r, n: _by_contract(f"erasure {_short(r.batch)} is confirmed on {_short(r.head_model)}"),
    HeadMoved: lambda r, n: _by_contract(f"branch {r.branch} serves from now on, by erasure {_short(r.batch)}"),
    ErasureClosed: lambda r, n: _by_controller(
        n,
        r.batch,
        f"closes erasure {_short(r.batch)}"
        + (f"; no final purge by {n.members(r.exceptions)}" if r.exceptions else ""),
    ),
    EvidenceAttested: lambda r, n: _Told(
        0,
        n.auditor(r.seat),
        f"attests {LEVELS.get(r.level, f'evidence of level {r.level}')} of erasure {_short(r.batch)}, "
        f"its report is {_short(r.evidence)}",
    ),
}


def _last(height: int) -> str:
    return "the last" if height == 2**32 - 1 else str(height)


KINDS: Final = tuple(re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower() for kind in _WORDS)
"""Names of the kinds of entries, as the filter takes them."""


def tell(logged: Iterable[Logged]) -> Iterator[Event]:
    """Every record of the chain in words, from its first block on (`node.audit.read_records`)."""
    history = History()
    names = _Names(history)
    for one in logged:
        history.apply(one)
        record = one.record
        told = _WORDS[type(record)](record, names)
        yield Event(
            block=one.position.block,
            log=one.position.log_index,
            entry=one.position.entry,
            block_hash=one.block_hash,
            time=one.timestamp,
            transaction=transaction_text(one.transaction),
            kind=_kind(record),
            study=names.study(record),
            round=getattr(record, "round_id", None),
            batch=getattr(record, "batch", None),
            consent=getattr(record, "consent_id", None),
            subject=getattr(record, "subject", None),
            members=told.members,
            study_unknown=_study_unknown(record, names),
            who=told.who,
            what=told.what,
            deployment=one.deployment,
        )


def trail(index: EventIndex, **filters: Any) -> list[dict[str, Any]]:
    """Who did what when, an entry a row of `Event.row`, as `EventIndex.find` filters them.

    Raises:
        InputError: an unknown kind.
    """
    kind = filters.get("kind")
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    return [one.row() for one in index.find(**filters)]


def _study_unknown(record: Record, names: _Names) -> bool:
    """A withdrawal of a consent that no grant names: it was given in an anchor, if at all, which lists no consents."""
    return isinstance(record, Withdrawn) and names.study(record) is None


def _kind(record: Record) -> str:
    return KINDS[list(_WORDS).index(type(record))]


# --------------------------------------------------------------------------------------------------------------------
# Who took part


COUNTED: Final = (
    "asked",
    "committed",
    "abstained",
    "no_commit",
    "included",
    "invalid",
    "unavailable",
    "suspended",
    "contradicted",
)
"""What is counted over the rounds for each member."""


PART: Final = (
    "member",
    "name",
    *COUNTED[:5],
    "voted",
    *COUNTED[5:],
    "missed",
    "transaction",
)
"""What is told of a member's part in a round."""


def participation(history: History, study: Digest) -> dict[str, Any]:
    """Each member's part in each round of a study, all branches, in the order the rounds opened.

    Returns:
        {study, rounds: [{round_id, branch, height, state, attempt, members: [...]}], totals: [...]}. A member's row
        has `asked committed abstained no_commit included unavailable suspended voted contradicted` as truth values,
        `invalid` as the name of the first failing rule or None, `missed` as "commit", "data" (its blobs were not to be
        had), or None, and `transaction` as the hash of what carried its commitment or abstention, or None. `voted` says
        whose votes were posted; a quorum suffices, so the absence of a vote is no miss.

    Raises:
        NotFound: no such study.
    """
    _known(history, study)
    rounds = [one for one in history.rounds.values() if one.opened.study == study]
    rows = [_round_row(history, one) for one in rounds]
    totals = []
    for index in members_of(bitmap_of(m for one in rounds for m in members_of(one.opened.roster))):
        parts = [part for row in rows for part in row["members"] if part["member"] == index]
        counts = {name: sum(bool(part[name]) for part in parts) for name in COUNTED}
        missed = [
            {"branch": row["branch"], "height": row["height"], "missed": part["missed"]}
            for row in rows
            for part in row["members"]
            if part["member"] == index and part["missed"] is not None
        ]
        totals.append({"member": index, "name": _Names(history).member(index), **counts, "missed": missed})
    return {"study": study.hex(), "rounds": rows, "totals": totals}


def success(history: History, study: Digest, rules: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a study may be called a success by the rules of its own specification, and if not, why.

    Args:
        history: the chain as far as it is known.
        study: the study.
        rules: section `success` of its specification. How many records a member trained on is on no chain, so no rule
            is about that.

    Returns:
        {success, took_part: [names], left_out: [{name, included}], rounds_agreed, why: [sentences]} about the rounds
        that led to the newest model. A study that is not over is no success yet.

    Raises:
        NotFound: no such study.
    """
    _known(history, study)
    found, names = history.studies[study], _Names(history)
    path = [one.final for one in history.path(study, found.active_branch) if one.final is not None]
    agreed = [final for final in path if final.result.outcome == 1]
    joined = sorted(found.joined - found.left)
    included = {member: sum(final.result.included >> member & 1 for final in agreed) for member in joined}
    enough = [m for m in joined if agreed and included[m] >= max(1, rules["rounds_share"] * len(agreed))]
    why = []
    if not history.finished(study):
        why.append(f"{found.head.finals} of {found.created.terms.rounds} rounds are over")
    if not agreed:
        why.append("no round led to a model")
    wanted = rules["members"] or len(joined)
    if len(enough) < wanted:
        why.append(f"{len(enough)} members took part, {wanted} are wanted")
    return {
        "success": not why,
        "took_part": [names.member(member) for member in enough],
        "left_out": [{"name": names.member(m), "included": included[m]} for m in joined if m not in enough],
        "rounds_agreed": len(agreed),
        "why": why,
    }


def success_line(found: dict[str, Any]) -> str:
    """What :func:`success` found, in one line for people."""
    if found["success"]:
        return f"a success by the study's own rules: {len(found['took_part'])} members took part"
    out = ", ".join(f"{one['name']} ({one['included']} of {found['rounds_agreed']})" for one in found["left_out"])
    return f"NO success by the study's own rules: {'; '.join(found['why'])}" + (f"; left out: {out}" if out else "")


def _known(history: History, study: Digest) -> None:
    if study not in history.studies:
        raise NotFound(f"no study {study.hex()} on this ledger")


def _state(one: RoundHistory) -> str:
    return "final" if one.final is not None else "failed" if one.failed is not None else "open"


def _decided(one: RoundHistory, attempt: int) -> int:
    """The set that a result of this attempt decides over."""
    committed = bitmap_of(one.commits)
    if attempt == 0:
        return committed
    haves = [
        logged.record.bitmap
        for logged in one.logged
        if isinstance(logged.record, HavePosted) and logged.record.attempt == attempt
    ]
    return available(haves, committed, one.opened.f)


def _round_row(history: History, one: RoundHistory) -> dict[str, Any]:
    opened, final = one.opened, one.final
    decided = None if final is None else _decided(one, final.attempt)
    codes = {} if final is None else _codes(final.result.codes)
    liars = {one.member for one in history.equivocated() if one.round_id == opened.round_id}
    parts = []
    for member in members_of(opened.roster):
        suspended = bool(opened.suspended >> member & 1)
        committed, abstained = member in one.commits, member in one.abstained
        no_commit = one.over and not (suspended or committed or abstained)
        unavailable = committed and decided is not None and not decided >> member & 1
        answer = one.answer_of(member)
        parts.append(
            {
                "member": member,
                "name": _Names(history).member(member),
                "asked": not suspended,
                "committed": committed,
                "abstained": abstained,
                "no_commit": no_commit,
                "included": final is not None and bool(final.result.included >> member & 1),
                "invalid": codes[member].name if member in codes else None,
                "unavailable": unavailable,
                "suspended": suspended,
                "voted": final is not None and bool(final.signers >> member & 1),
                "contradicted": member in liars,
                "missed": "commit" if no_commit else "data" if unavailable else None,
                "transaction": None if answer is None else transaction_text(answer.transaction),
            }
        )
    return {
        "round_id": opened.round_id.hex(),
        "branch": opened.branch,
        "height": opened.height,
        "state": _state(one),
        "attempt": None if final is None else final.attempt,
        "members": parts,
    }


# --------------------------------------------------------------------------------------------------------------------
# One round, all models


def find_round(history: History, study: Digest, which: int | str) -> RoundHistory:
    """A round by its height on the way to the training branch's head, or by the beginning of its id.

    Raises:
        NotFound: no such study or round.
        InputError: several rounds fit.
    """
    _known(history, study)
    if isinstance(which, int):
        found = history.round_at(study, history.studies[study].active_branch, which)
        if found is None:
            raise NotFound(f"study {_short(study)} has no round {which}")
        return found
    start = which.lower().removeprefix("0x")
    fits = [
        one
        for one in history.rounds.values()
        if one.opened.study == study and one.opened.round_id.hex().startswith(start)
    ]
    if len(fits) > 1:
        raise InputError(f"{len(fits)} rounds begin with {which!r}; write more of it")
    if not fits:
        raise NotFound(f"study {_short(study)} has no round {which!r}")
    return fits[0]


def round_report(history: History, study: Digest, which: int | str) -> dict[str, Any]:
    """Everything the chain says about one round.

    Args:
        history: the chain.
        study: its study.
        which: height on the way to the training branch's head, or the beginning of a round id in hexadecimal digits.

    Raises:
        NotFound, InputError: as :func:`find_round`.
    """
    one = find_round(history, study, which)
    opened, final = one.opened, one.final
    position, sealed_at = history.seal(one)
    carried = {at: transaction_text(history.transactions[at]) for at in (one.position, position, one.ended) if at}
    result = None
    if final is not None:
        trust = final.result.trust
        result = {
            "attempt": final.attempt,
            "outcome": "model" if final.result.outcome == 1 else "no result",
            "included": list(members_of(final.result.included)),
            "invalid": {str(member): code.name for member, code in _codes(final.result.codes).items()},
            "model_root": final.result.model_root.hex(),
            "result_hash": final.result_hash.hex(),
            "signers": list(members_of(final.signers)),
            "trust_permille": [int.from_bytes(trust[i : i + 2], "big") for i in range(0, len(trust), 2)],
        }
    return {
        **_round_row(history, one),
        "study": study.hex(),
        "epoch": opened.epoch,
        "f": opened.f,
        "quorum": opened.quorum,
        "crash_tolerance_only": opened.roster.bit_count() < 4,
        "parent_model": opened.parent_model.hex(),
        "parent_result": opened.parent_result.hex(),
        "consent_accumulator": opened.consent_acc.hex(),
        "membership_accumulator": opened.membership_acc.hex(),
        "opened": {"time": opened.opened_at, "block": one.position.block, "transaction": carried[one.position]},
        "sealed": {
            "time": sealed_at,
            "block": None if position is None else position.block,
            "transaction": None if position is None else carried[position],
        }
        if one.over
        else None,
        "commitments": [
            {"member": m, "update_root": c.update_root.hex(), "dataset_root": c.dataset_root.hex()}
            for m, c in sorted(one.commits.items())
        ],
        "result": result,
        "failure": None if one.failed is None else FAILED_FOR.get(one.failed.reason, f"reason {one.failed.reason}"),
        "ended": None
        if one.ended is None
        else {"time": one.logged[-1].timestamp, "block": one.ended.block, "transaction": carried[one.ended]},
    }


def lineage(history: History, study: Digest) -> dict[str, Any]:
    """A study's tree of branches with their models; which branch trains, which one serves.

    Raises:
        NotFound: no such study.
    """
    _known(history, study)
    found = history.studies[study]
    return {
        "study": study.hex(),
        "initial_model": found.created.terms.initial_model.hex(),
        "training_branch": found.active_branch,
        "serving_branch": found.serving_branch,
        "branches": [_branch_row(history, branch) for _, branch in sorted(found.branches.items())],
    }


def _branch_row(history: History, branch: Branch) -> dict[str, Any]:
    own = [history.rounds[round_id] for _, round_id in sorted(branch.rounds.items())]
    return {
        "branch": branch.number,
        "parent": branch.parent,
        "base_height": branch.base_height,
        "base_model": branch.base_model.hex(),
        "erasure": None if branch.batch == ZERO else branch.batch.hex(),
        "target_height": branch.target_height if branch.parent is not None else None,
        "models": [
            {
                "height": one.opened.height,
                "state": _state(one),
                "model_root": branch.models[one.opened.height].hex() if one.over else None,
                "changed": one.made_model,
            }
            for one in own
        ],
    }
