"""One consent, from its form to its end: what the chain says of it, and what only whoever can open the sets knows.

The chain alone cannot say which rounds used a consent: that is in sealed sets. Whoever shows the card, or the hospital
that holds the consent, makes a proof from them (`node/proof.py`); its findings come in here as `uses`. Without them
the answer is "not known here", never "none". Nothing here names a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from crypto.digest import Digest
from node.duo import codes_of
from node.erasure import in_flight, state_of
from node.history import History, RoundHistory
from node.membership import members_of
from node.records import FormRegistered, Position, transaction_text
from node.study import BASIS, CUSTODY, ON_WITHDRAWAL

NOT_KNOWN: Final = "not known here: show the card, or ask at the hospital that holds the consent"
USE: Final = ("branch", "round", "finding", "transaction", "opened", "ended", "recipients")
"""What is told of a round in `uses`, for a list that may be empty."""


def form_row(form: FormRegistered) -> dict[str, Any]:
    """A registered form in words."""
    return {
        "form_id": form.form_id.hex(),
        "purposes": form.purposes,
        "duo": " ".join(codes_of(form.purposes)),
        "custody": _word(CUSTODY, form.custody),
        "basis": _word(BASIS, form.basis),
        "valid_to": form.valid_to,
        "on_withdrawal": _word(ON_WITHDRAWAL, form.on_withdrawal),
        "text_hash": form.text_hash.hex(),
    }


def _word(words: Mapping[str, int], number: int) -> str:
    return next((word for word, value in words.items() if value == number), str(number))


def recipients(history: History, round_id: Digest) -> list[str]:
    """Who could open the updates of a round: the members asked to vote on it, and auditors that had announced it."""
    opened = history.rounds[round_id].opened
    names = [history.registry.members[index].name for index in members_of(opened.roster)]
    for _, access in history.studies[opened.study].access:
        seat = history.registry.auditors.get(access.seat)
        if seat is not None and access.from_height <= opened.height <= access.to_height and seat.name not in names:
            names.append(seat.name)
    return names


def consent_report(
    history: History,
    consent: Digest,
    *,
    study: Digest | None = None,
    hospital: int | None = None,
    form: Digest | None = None,
    uses: Sequence[Mapping[str, Any]] | None = None,
    erasure: Digest | None = None,
) -> dict[str, Any]:
    """Everything that can be said of one consent.

    Args:
        history: the chain.
        consent: its id.
        study, hospital, form: of the consent, where a card or a vault says so; a single grant says it itself.
        uses: rounds of `proof.findings`; None where nobody here can open the sets.
        erasure: the one that it is in, as far as is known here: the chain names no consent in an erasure.

    Returns:
        {consent_id, study, hospital, form, granted, withdrawal, in_flight, erasure, uses, uses_known}. `granted` is
        None for a consent in an anchor: the chain does not list those. `in_flight`: the rounds that ran when the
        withdrawal came, each with what became of the hospital's part. `uses`: the rounds of every line of the study
        that the hospital committed in, each with the finding and who could open its update. `transaction`: what carried
        the grant, the withdrawal and, in a round, the hospital's commitment or abstention.
    """
    grant, ended = history.grants.get(consent), history.withdrawals.get(consent)
    if grant is not None:
        study, hospital, form = grant.study, grant.record.member, grant.record.form_id
    known = None if form is None else history.forms.get(form)
    member = None if hospital is None else history.registry.members.get(hospital)
    return {
        "consent_id": consent.hex(),
        "study": None if study is None else study.hex(),
        "hospital": None if member is None else {"index": member.index, "name": member.name},
        "form": None if known is None else form_row(known[0]),
        "granted": None if grant is None else _place(history, grant.position),
        "withdrawal": None if ended is None else {"time": ended[0].at, **_place(history, ended[1])},
        "in_flight": []
        if ended is None
        else [
            _met(history, one, hospital)
            for each in ([study] if study is not None else list(history.studies))
            for one in in_flight(history, each, ended[1])
        ],
        "erasure": None if erasure is None else _erasure(history, erasure),
        "uses_known": uses is not None,
        "uses": NOT_KNOWN if uses is None else [_use(history, one, hospital) for one in uses],
    }


def _place(history: History, position: Position) -> dict[str, Any]:
    return {"block": position.block, "transaction": transaction_text(history.transactions[position])}


def answered_by(one: RoundHistory, hospital: int | None) -> str | None:
    """Hash of the transaction that carried a hospital's answer in a round: its commitment or its abstention."""
    answer = None if hospital is None else one.answer_of(hospital)
    return None if answer is None else transaction_text(answer.transaction)


def _erasure(history: History, batch: Digest) -> dict[str, Any]:
    """Where an erasure stands; `koinon audit erasure` has all of it."""
    one = history.erasures[batch]
    return {
        "erasure": batch.hex(),
        "state": state_of(one, history).value,
        "opened": one.opened.opened_at,
        "due": one.due_at,
        "ended": one.times.get("closed", one.times.get("closed_with_exceptions")),
    }


def _use(history: History, found: Mapping[str, Any], hospital: int | None) -> dict[str, Any]:
    one = history.rounds[Digest.from_hex(found["round_id"])]
    opened = one.opened
    return {
        "branch": found["branch"],
        "round": found["height"],
        "finding": found["finding"],
        "transaction": answered_by(one, hospital),
        "opened": opened.opened_at,
        "ended": one.logged[-1].timestamp if one.over else None,
        "recipients": recipients(history, opened.round_id) if found["finding"] == "present" else [],
    }


def _met(history: History, one: RoundHistory, hospital: int | None) -> dict[str, Any]:
    """A round that ran when a withdrawal came: what became of the hospital's part in it."""
    if hospital is None:
        part = "the hospital is not known here"
    elif one.final is not None and one.final.result.included >> hospital & 1:
        part = "included; the members saw its set and found no record withdrawn before the seal"
    elif hospital in one.abstained:
        part = "abstained"
    elif hospital in one.commits:
        part = "left out" if one.over else "committed; the round still runs"
    else:
        part = "did not commit" if one.over else "has not committed yet"
    return {
        "study": one.opened.study.hex(),
        "branch": one.opened.branch,
        "round": one.opened.height,
        "opened": one.opened.opened_at,
        "sealed": history.seal(one)[1] if one.over else None,
        "hospital": part,
        "transaction": answered_by(one, hospital),
    }
