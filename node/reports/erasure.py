"""One erasure, state by state: who did what, when it is due, who attested the deletion, who did not.

The clock is the controller's legal one: one month from the request, which it may extend once by two further months
(Art. 12(3) GDPR), and which no vote and no other member moves. Recipients are told and answer under signature (Art. 19
GDPR).
"""

from __future__ import annotations

from typing import Any

from crypto.digest import Digest
from node import methods
from node.erasure import GROUNDS, is_overdue, is_removed, replays, roster_of, state_of, was_given_up
from node.errors import InputError, NotFound
from node.history import ErasureHistory, History
from node.membership import bitmap_of, members_of
from node.records import transaction_text


def find_erasure(history: History, start: str) -> Digest:
    """An erasure by its id or the beginning of it.

    Raises:
        InputError: nothing is named, which every id begins with.
        NotFound: none, or several.
    """
    begin = start.strip().lower().removeprefix("0x")
    if not begin:
        raise InputError("name the erasure by its id, or by the beginning of it")
    fits = [batch for batch in history.erasures if batch.hex().startswith(begin)]
    if len(fits) != 1:
        raise NotFound(f"{len(fits)} erasures begin with {start[:64]!r}")
    return fits[0]


def erasure_report(history: History, batch: Digest, now: int) -> dict[str, Any]:
    """Everything the chain says about one erasure.

    Args:
        history: the chain.
        batch: the erasure.
        now: the time (unix seconds) at which the clock is read.

    Returns:
        {erasure, study, controller, poster, state, hospital_removed, clock, times, plan, recipients, verdicts,
        exceptions, refused_on}.
    """
    one = history.erasures[batch]
    opened, plan = one.opened, one.plan
    names = {index: member.name for index, member in history.registry.members.items()}
    asked = roster_of(history, opened.study) | bitmap_of(one.purges)
    return {
        "erasure": batch.hex(),
        "study": opened.study.hex(),
        "controller": names[opened.controller],
        "poster": names[opened.poster],
        "state": state_of(one, history).value,
        "hospital_removed": is_removed(history, one),
        "clock": clock(one, now),
        "times": [
            {
                "state": state,
                "time": time,
                "block": one.marks[state].position.block,
                "transaction": transaction_text(one.marks[state].transaction),
            }
            for state, time in sorted(one.times.items(), key=lambda item: (item[1], one.marks[item[0]].position))
        ],
        "plan": None
        if plan is None
        else {
            "replays": replays(plan),
            "branch": plan.branch,
            "base_round": plan.base_height,
            "base_model": plan.base_model.hex(),
            "target_round": plan.target_height,
            "method": methods.name_of(plan.method),
            "exact": methods.is_exact(plan.method),
            "rounds": plan.rounds,
            "given_up": was_given_up(history, plan),
        },
        "recipients": [
            {
                "member": index,
                "name": names[index],
                "purged": one.purges[index].hex() if index in one.purges else None,
            }
            for index in members_of(asked)
        ],
        "verdicts": [
            {
                "member": index,
                "name": names[index],
                "confirmed": verdict.confirmed,
                "model": verdict.head_model.hex(),
            }
            for index, verdict in sorted(one.verdicts.items())
        ],
        "exceptions": [] if one.closed is None else [names[index] for index in members_of(one.closed.exceptions)],
        "refused_on": None if one.refused is None else GROUNDS.get(one.refused.ground, "unknown"),
    }


def clock(one: ErasureHistory, now: int) -> dict[str, Any]:
    """The legal clock of a batch at a moment: due, at first due, whether that was extended, whether it is overdue."""
    over = one.closed is not None or one.refused is not None
    return {
        "requested": one.times["requested"],
        "due": one.due_at,
        "first_due": one.opened.due_at,
        "extended": one.extended is not None,
        "overdue": is_overdue(one, now),
        "days_left": None if over or one.moved else (one.due_at - now) // 86_400,
    }
