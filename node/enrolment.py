"""From a register of signed forms to grants on the chain, and back from ended consents to withdrawals.

What may live here: the order of acts. What this file does not know: how anything is stored (`node/vault/`) or sent
(`node/ledger.py`): it returns calls, and whoever sends them may send them again.

Theory of operation. `enrol` mints a consent for every row and puts the new ones, form by form, under one anchor each:
at least 32 leaves, a power of two, filled with random dummies, shuffled, so that the chain shows neither who nor how
many. Secrets, anchors and each consent's place in them are in the vault before any call exists; `pending_calls` makes
the same calls from them until `Vault.confirm` has seen the chain take them in. A crash or a lost reply between any two
of these steps costs a retry, never a consent.
"""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import rfc8785

from crypto.blobs import AnchorProof
from crypto.digest import Digest
from crypto.keys import LedgerKey
from crypto.merkle import AnchorTree, anchor_count
from crypto.statements import Anchor, Domains, Grant, RegisterForm, Withdraw, sign, struct_hash, verify_any
from node.card import Origin, withdrawal_notice
from node.consent import STOP_AND_DELETE, STOP_DELETE_AND_UNLEARN, ConsentFacts, ConsentState, GrantProof, state_of
from node.errors import InputError, NotFound, Refused
from node.history import History
from node.home import Network
from node.messages import WithdrawalNotice
from node.records import (
    AnchorEntry,
    Anchoring,
    Call,
    FormRegistered,
    FormRegistration,
    GrantEntry,
    Grants,
    WithdrawalEntry,
    Withdrawals,
)
from node.register import RegisterRow
from node.study import Study
from node.vault import Holding, PendingAnchor, Vault

BATCH: Final = 500  # in one transaction: withdrawals of 32 000 gas each at most, half of a usual block


@dataclass(frozen=True, slots=True)
class RowRefusal:
    """A row of the register that was not enrolled: its line and why, without the patient."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What became of a register: `minted` now, `known` from before, `absent` (no records here), `refused` rows.

    `superseded` consents were replaced by one under a newer form and have to be withdrawn on the chain. `updated` are
    known ones for which the register brought another authority of the representative, or another day of review.
    """

    minted: tuple[Digest, ...]
    known: tuple[Digest, ...]
    absent: tuple[int, ...]
    refused: tuple[RowRefusal, ...]
    superseded: tuple[Digest, ...]
    updated: tuple[Digest, ...]


def today(now: int) -> datetime.date:
    """The day (UTC) of a chain time."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()


def form_ids(study: Study, study_id: Digest) -> dict[str, Digest]:
    """Form name -> form id, for every form of the study."""
    statements = study.form_statements(study_id)
    return {form["name"]: struct_hash(one) for form, one in zip(study.forms, statements, strict=True)}


def form_registrations(study: Study, origin: Origin, key: LedgerKey, history: History) -> tuple[FormRegistration, ...]:
    """The calls that put the study's forms on the chain, those left out that are there already.

    To be sent after the study is created and before any grant; a form that another member registered first reverts
    with `FormKnown`, which is as good.
    """
    there = history.studies[origin.study].registered if origin.study in history.studies else set()
    calls = []
    for form in study.form_statements(origin.study):
        form_id = struct_hash(form)
        if form_id not in there:
            statement = RegisterForm(origin.member, form_id)
            signature = sign(statement, origin.domains.of(statement), key)
            calls.append(FormRegistration(form, origin.member, signature))
    return tuple(calls)


def synthetic_rows(vault: Vault, network: Network, form: str, now: int) -> tuple[RegisterRow, ...]:
    """A row for every patient of the vault, as if all had signed `form` today; `Refused` outside synthetic networks."""
    if not network.synthetic:
        raise Refused(f"network {network.name} is not marked synthetic: grants need a register of signed forms")
    day = today(now)
    return tuple(
        RegisterRow(line, patient, form, day, "synthetic", "synthetic")
        for line, patient in enumerate(vault.patient_ids(), start=2)
    )


def signed_document(row: RegisterRow, text_sha256: str) -> bytes:
    """What a consent's document commitment stands for: the register's line and the hash of the form's text."""
    return rfc8785.dumps(
        {
            "schema": "koinon.signed-form/1",
            "patient_id": row.patient_id,
            "form": row.form,
            "text_sha256": text_sha256,
            "signed_on": row.signed_on.isoformat(),
            "signer": row.signer,
            "verified_by": row.verified_by,
            **({"notified_on": row.notified_on.isoformat()} if row.notified_on else {}),
            **({"authority": row.authority} if row.authority else {}),
            **({"review_on": row.review_on.isoformat()} if row.review_on else {}),
        }
    )


def enrol(
    vault: Vault,
    rows: Sequence[RegisterRow],
    study: Study,
    origin: Origin,
    *,
    now: int,
    single: bool = False,
    daily: bool = False,
    unattended: bool = False,
) -> Enrolment:
    """Mint what the register covers and keep how it will reach the chain; all of it or nothing.

    `now` is chain time. `single`: stored grants instead of anchors, for tests and small networks; they show on the
    chain how many consents there are and when each was given. `daily`: see `place_due`. `unattended`: see `Vault.mint`.
    Of a patient's rows the one signed last counts. Idempotent: rows that were enrolled before are `known`.

    Raises:
        InputError: a row names a form that the study does not have.
    """
    ids = form_ids(study, origin.study)
    forms = {form["name"]: form for form in study.forms}
    barred = study.form_refusals()
    minted: list[Digest] = []
    known: list[Digest] = []
    superseded: list[Digest] = []
    updated: list[Digest] = []
    absent: list[int] = []
    refused: list[RowRefusal] = []
    newest: dict[str, RegisterRow] = {}
    for row in rows:
        if row.form not in ids:
            raise InputError(f"register, line {row.line}: form {row.form!r} is not one of the study's")
        other = newest.get(row.patient_id)
        if other is None or other.signed_on < row.signed_on:
            newest[row.patient_id] = row
    with vault.enrolling():
        for row in sorted(newest.values(), key=lambda one: one.line):
            form = forms[row.form]
            if form["valid_to"] <= now:
                refused.append(RowRefusal(row.line, f"form {row.form} ended on {today(form['valid_to'])}"))
                continue
            if row.form in barred:
                refused.append(RowRefusal(row.line, f"form {row.form}: {barred[row.form]}"))
                continue
            if form["broad"] and row.notified_on is None:
                why = f"form {row.form} is broad: the patient has to be told of this study first (notified_on)"
                refused.append(RowRefusal(row.line, why))
                continue
            try:
                one = vault.mint(
                    row.patient_id,
                    origin=origin,
                    form_id=ids[row.form],
                    document=row.document or signed_document(row, form["text_sha256"]),
                    signed_on=row.signed_on,
                    issued=today(now),
                    now=now,
                    usable_from=_usable_from(row, form),
                    authority=row.authority,
                    review_on=row.review_on.isoformat() if row.review_on else "",
                    unattended=unattended,
                )
            except NotFound:
                absent.append(row.line)
            except Refused as error:
                refused.append(RowRefusal(row.line, error.message))
            else:
                (minted if one.fresh else known).append(one.consent_id)
                superseded.extend(one.superseded)
                updated.extend([one.consent_id] if one.updated else [])
        place_due(vault, study, origin.study, now=now, single=single, daily=daily)
    return Enrolment(tuple(minted), tuple(known), tuple(absent), tuple(refused), tuple(superseded), tuple(updated))


def _usable_from(row: RegisterRow, form: Mapping[str, Any]) -> int:
    """The end of the notice period: that of a broad form begins on the day the patient was told."""
    if not form["broad"] or row.notified_on is None:
        return 0
    day = row.notified_on + datetime.timedelta(days=form["notice_days"])
    return int(datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC).timestamp())


def place_due(
    vault: Vault, study: Study, study_id: Digest, *, now: int, single: bool = False, daily: bool = False
) -> None:
    """Put every consent whose notice period is over where the chain will have it: one anchor a form.

    `daily`: at most once on a day (UTC) of chain time, as a production home does: the time of an anchor then says
    nothing about the hour at which anybody signed. What comes later that day waits for the next.
    """
    last = vault.last_anchored(study_id)
    if daily and last is not None and today(last) >= today(now):
        return
    with vault.placing():
        placed = [_place(vault, study_id, form_id, single, now) for form_id in form_ids(study, study_id).values()]
        if any(placed):
            vault.note_anchored(study_id, now)


def _place(vault: Vault, study: Digest, form_id: Digest, single: bool, now: int) -> bool:
    waiting = list(vault.unplaced(study, form_id, now))
    if not waiting:
        return False
    if single:
        vault.place({one: GrantProof() for one in waiting})
        return True
    count = anchor_count(len(waiting))
    leaves = waiting + [Digest(os.urandom(32)) for _ in range(count - len(waiting))]
    secrets.SystemRandom().shuffle(leaves)
    tree = AnchorTree(leaves)
    own = set(waiting)
    places = {
        one: GrantProof(AnchorProof(tree.root, index, tree.prove(index)))
        for index, one in enumerate(leaves)
        if one in own
    }
    vault.place(places, PendingAnchor(study, form_id, tree.root, count))
    return True


def pending_calls(vault: Vault, origin: Origin, key: LedgerKey) -> tuple[Call, ...]:
    """The calls that carry what is not confirmed yet; the same bytes every time, so sending one twice is harmless.

    What is on the chain already is skipped there as a duplicate: `Vault.confirm` has to read the chain first.
    """
    calls: list[Call] = []
    trees: dict[tuple[Digest, int], list[Digest]] = {}
    for anchor in vault.pending_anchors(origin.study):
        trees.setdefault((anchor.form_id, anchor.count), []).append(anchor.root)
    for (form_id, count), waiting in trees.items():
        for roots in _batches(waiting):
            statement = Anchor(origin.study, form_id, origin.member, count, roots)
            signature = sign(statement, origin.domains.of(statement), key)
            calls.append(Anchoring((AnchorEntry(origin.study, form_id, origin.member, count, roots, signature),)))
    alone: dict[Digest, list[Digest]] = {}
    for one in vault.pending_grants(origin.study):
        alone.setdefault(one.form_id, []).append(one.consent_id)
    for form_id, ids in alone.items():
        for some in _batches(ids):
            grant = Grant(form_id, origin.member, some)
            entry = GrantEntry(form_id, origin.member, some, sign(grant, origin.domains.of(grant), key))
            calls.append(Grants((entry,)))
    return tuple(calls)


def _batches(words: list[Digest]) -> Iterator[tuple[Digest, ...]]:
    for at in range(0, len(words), BATCH):
        yield tuple(words[at : at + BATCH])


def due_withdrawals(vault: Vault, history: History) -> tuple[WithdrawalNotice, ...]:
    """Ended consents that the chain does not know to be withdrawn, as notices from their cards.

    Consents that were never on their way to the chain are left out: nobody but us has heard of them.
    """
    return tuple(
        withdrawal_notice(vault.card(one.consent_id))
        for one in vault.holdings()
        if one.mark and one.placed and one.consent_id not in history.withdrawals
    )


def _form_of(one: Holding, history: History) -> FormRegistered | None:
    """The form that a consent is on, as far as the chain knows it."""
    study = history.studies.get(one.study)
    return study.forms.get(one.form_id) if study else None


def due_deletions(vault: Vault, history: History) -> tuple[Digest, ...]:
    """Ended consents whose copy is still here and has to go: the form says so, or the consent was entered in error.

    For `Vault.delete_copy`, which keeps a copy that another live consent of the same patient needs. A copy that was
    imported again is for a consent that is yet to come, and none of those whose own copy was deleted.
    """
    due = []
    for one in vault.holdings():
        form = _form_of(one, history)
        ended = one.mark == "withdrawn" or one.consent_id in history.withdrawals
        goes = ended and form is not None and form.on_withdrawal >= STOP_AND_DELETE
        if one.has_copy and not one.is_of_before and (goes or one.mark == "entered-in-error"):
            due.append(one.consent_id)
    return tuple(due)


def due_unlearning(vault: Vault, history: History) -> tuple[Digest, ...]:
    """Ended consents whose form promises that what was learned from them goes as well; not superseded ones."""
    due = []
    for one in vault.holdings():
        form = _form_of(one, history)
        ended = one.mark != "" or one.consent_id in history.withdrawals
        promised = form is not None and form.on_withdrawal >= STOP_DELETE_AND_UNLEARN
        if ended and promised and one.mark != "superseded":
            due.append(one.consent_id)
    return tuple(due)


def consent_state(one: Holding, history: History, now: int) -> ConsentState:
    """Where a consent of this hospital stands at chain time `now`; a form the chain does not know has ended."""
    form = _form_of(one, history)
    return state_of(
        ConsentFacts(
            mark=one.mark,
            withdrawn=one.consent_id in history.withdrawals,
            granted=one.granted,
            valid_to=form.valid_to if form else 0,
            now=now,
        )
    )


def withdraw_calls(notices: Iterable[WithdrawalNotice], domains: Domains) -> tuple[Withdrawals, ...]:
    """Withdrawals of any hospital's consents (from cards or from the vault) as calls, in mixed batches.

    Sorted by consent id, which is a hash: the order tells nothing about the hospitals or the times. Each goes to the
    deployment that its card was signed for; a card keeps its word where it was given.
    """
    calls: list[Withdrawals] = []
    entries: dict[int, list[WithdrawalEntry]] = {}
    for _, one in sorted({one.consent_id: one for one in notices}.items()):
        statement = Withdraw(one.consent_id)
        domain = verify_any(statement, domains, one.signature, one.holder)
        place = len(domains.before) - domains.every(statement).index(domain)
        entries.setdefault(place, []).append(WithdrawalEntry(one.holder, one.holder_salt, one.binding, one.signature))
    for place, some in entries.items():
        deployment = None if place == len(domains.before) else place
        calls += [Withdrawals(tuple(some[at : at + BATCH]), deployment) for at in range(0, len(some), BATCH)]
    return tuple(calls)
