"""One member: who it is, what it took part in, what it anchored, which erasures it controls."""

from __future__ import annotations

from typing import Any

from crypto.keys import address_text
from node.erasure import OVER, state_of
from node.history import History
from node.records import Equivocated
from node.reports.erasure import clock
from node.trail import COUNTED, participation


def member_report(history: History, index: int, now: int) -> dict[str, Any]:
    """Everything the chain says about one member at `now` (unix seconds); facts, not guilt.

    Returns:
        {member, name, ledger_address, active, studies, consents, erasures, contradictions}. `consents` counts what is
        public: single grants, and anchors with their padded size; no figure counts patients.
    """
    member = history.registry.members[index]
    studies = []
    for study, found in history.studies.items():
        totals = {one["member"]: one for one in participation(history, study)["totals"]}
        if index not in totals:
            continue
        row = totals[index]
        studies.append(
            {
                "study": study.hex(),
                "joined": index in found.joined,
                "left": index in found.left,
                **{name: row[name] for name in COUNTED},
                "missed": len(row["missed"]),
            }
        )
    anchors = [one.record for one in history.anchors.values() if one.record.member == index]
    return {
        "member": index,
        "name": member.name,
        "ledger_address": address_text(member.ledger),
        "active": member.active,
        "studies": studies,
        "consents": {
            "granted_singly": sum(1 for one in history.grants.values() if one.record.member == index),
            "anchors": len(anchors),
            "anchored_with_padding": sum(one.count for one in anchors),
        },
        "erasures": [
            {
                "erasure": batch.hex(),
                "state": state_of(one, history).value,
                **clock(one, now),
            }
            for batch, one in history.erasures.items()
            if one.opened.controller == index
        ],
        "owes": [
            batch.hex()
            for batch, one in history.erasures.items()
            if one.opened.controller == index and state_of(one, history) not in OVER
        ],
        "contradictions": sum(
            1
            for logged in history.equivocations
            if isinstance(logged.record, Equivocated) and logged.record.member == index
        ),
    }
