"""Accounting of disclosures (45 CFR 164.528(b)(2)): date, recipient, what was disclosed, for what purpose.

What koinon discloses of a patient is a model update computed from many patients' records, sealed to the members of a
round. While the link between person and consent exists, rounds come from proofs about the declared sets; afterwards the
hospital's archive answers with days and names. Several disclosures to one recipient for one purpose are one row with
the first and the last day, as 164.528(b)(3) allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from crypto.digest import Digest
from node.history import History
from node.reports.consent import answered_by, recipients

COLUMNS: Final = ("date", "recipient", "description", "purpose", "last_date", "count", "transactions")
"""What a row has, for a list that may be empty."""


class Archived(Protocol):
    """What the archive keeps of an erased consent; `node.vault.ArchiveRecord` says more."""

    @property
    def study_name(self) -> str:
        """What the study was called."""
        ...

    @property
    def first_use_on(self) -> str:
        """YYYY-MM-DD, or "" when it was never used."""
        ...

    @property
    def last_use_on(self) -> str:
        """YYYY-MM-DD, or ""."""
        ...

    @property
    def recipients(self) -> tuple[str, ...]:
        """Names of members and others."""
        ...


def of_consent(
    history: History, study_name: str, hospital: int, uses: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows for one consent, from the findings of `proof.check`; the hospital itself is no recipient.

    Args:
        history: the chain.
        study_name: what the study is called.
        hospital: whose patient this is, by index. `transactions`: what carried its commitments to the updates.
        uses: rounds with their findings.
    """
    own_name = history.registry.members[hospital].name
    days: dict[str, list[tuple[str, int, int]]] = {}
    carried: dict[str, list[str]] = {}
    for found in uses:
        if found["finding"] != "present":
            continue
        one = history.rounds[Digest.from_hex(found["round_id"])]
        day = _day(history.seal(one)[1])
        for name in recipients(history, one.opened.round_id):
            if name != own_name:
                days.setdefault(name, []).append((day, one.opened.branch, one.opened.height))
                carried.setdefault(name, []).append(answered_by(one, hospital) or "")
    return [
        {
            "date": listed[0][0],
            "recipient": name,
            "description": f"sealed model updates computed from records that include this patient's, {_rounds(listed)}",
            "purpose": f"training of the shared model of study {study_name}",
            "last_date": listed[-1][0],
            "count": len(listed),
            "transactions": carried[name],
        }
        for name, listed in sorted(days.items())
    ]


def of_archive(own_name: str, records: Iterable[Archived]) -> list[dict[str, Any]]:
    """Rows for consents whose link is destroyed; which rounds those were is not kept, so no transaction either."""
    return [
        {
            "date": one.first_use_on,
            "recipient": name,
            "description": "sealed model updates computed from records that included this patient's; since erased",
            "purpose": f"training of the shared model of study {one.study_name}",
            "last_date": one.last_use_on,
            "count": None,
            "transactions": [],
        }
        for one in records
        if one.first_use_on
        for name in one.recipients
        if name != own_name
    ]


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).date().isoformat()


def _rounds(listed: list[tuple[str, int, int]]) -> str:
    """How many rounds, from which to which; by line where there are several, for heights come again on each."""
    lines: dict[int, list[int]] = {}
    for _, line, height in listed:
        lines.setdefault(line, []).append(height)
    if len(lines) > 1:
        spans = (f"{min(one)} to {max(one)} of line {line}" for line, one in sorted(lines.items()))
        return f"{len(listed)} rounds, {'; '.join(spans)}"
    heights = sorted(height for _, _, height in listed)
    return f"round {heights[0]}" if len(heights) == 1 else f"{len(heights)} rounds, {heights[0]} to {heights[-1]}"


def by_line(rounds: Iterable[Mapping[str, Any]]) -> list[str]:
    """Rounds (`branch`, `height`) in words, one text a line: heights come again on every line."""
    lines: dict[int, list[str]] = {}
    for one in rounds:
        lines.setdefault(one["branch"], []).append(str(one["height"]))
    return [f"rounds {', '.join(heights)} of line {line}" for line, heights in sorted(lines.items())]


def of_unknown(study_name: str, rounds: str) -> dict[str, Any]:
    """The row for rounds of which neither set nor note can tell whether they used the records."""
    return {
        "date": "",
        "recipient": "",
        "description": f"CANNOT BE TOLD whether this patient's records were in {rounds}: the sets are gone here",
        "purpose": f"training of the shared model of study {study_name}",
        "last_date": "",
        "count": None,
        "transactions": [],
    }
