"""What the law makes a hospital keep of an erased consent: the decision and its days.

What may live here: what is written to ARCHIVE, before it is said on the chain or the link to the person goes. What
this file does not know: who decides (`decisions`), when the link goes (`handover`).
"""

from __future__ import annotations

import datetime
from typing import Final

from crypto.digest import Digest
from node import proof
from node.erasing.books import Books
from node.erasing.sets import Sets
from node.erasure import DUE_S
from node.history import ErasureHistory
from node.reports.consent import recipients

SETS_LOST: Final = "sets of some rounds were gone: there may have been uses that these days do not cover"
"""In the archive, of an erased consent whose uses could not all be told."""


class Archive:
    """The vault's archive of decisions."""

    def __init__(self, books: Books, sets: Sets) -> None:
        self._books, self._sets = books, sets

    def uses_of(self, batch: Digest, erasure: ErasureHistory, consent: Digest) -> tuple[dict[Digest, bool], bool]:
        """In which rounds of any line our sets held a consent of ours: also on lines that serve no more.

        Where neither set nor note can tell, what holds for the whole batch. And whether each round could be told.
        """
        told = {proof.PRESENT: True, proof.ABSENT: False}
        uses, whole = dict(self._sets.uses(batch)), True
        for one in self._books.desk.findings(consent):
            round_id = Digest.from_hex(one["round_id"])
            whole &= one["finding"] in told or round_id in uses
            uses[round_id] = told.get(one["finding"], uses.get(round_id, False))
        return uses, whole

    def outlive(self, batch: Digest, consent: Digest) -> None:
        """Archive an erased consent of a vault that came back from a backup made before its erasure."""
        erasure, ground = self._books.erasure(batch), ""
        if self._sets.uses(batch):
            uses, whole = self.uses_of(batch, erasure, consent)
            ground = "" if whole else SETS_LOST
        else:  # lost with an older state of this home: what may have been is told, as what it is
            uses = self._possible_uses(erasure)
            ground = "the sets are lost: these are the days of every round in which it may have been used"
        self.keep(erasure, consent, uses, ground=ground)

    def keep(
        self,
        erasure: ErasureHistory,
        consent: Digest,
        uses: dict[Digest, bool],
        *,
        decision: str = "erased",
        ground: str = "",
        extension: str | None = None,
    ) -> None:
        """What the law makes us keep: the decision and its days, nothing that leads to the consent."""
        history, study = self._books.history, erasure.opened.study
        used = sorted(history.rounds[one].opened.opened_at for one, found in uses.items() if found)
        received = erasure.opened.due_at - DUE_S
        self._books.vault.archive(
            consent,
            study_name=self._books.participant.study(study).study.name,
            decision=decision,
            ground=ground,
            requested_on=day(received),
            completed_on=day(erasure.times["head_moved"]) if "head_moved" in erasure.times else "",
            first_use_on=day(used[0]) if used else "",
            last_use_on=day(used[-1]) if used else "",
            recipients=sorted({name for one, found in uses.items() if found for name in recipients(history, one)}),
            extension=extension,
        )

    def _possible_uses(self, erasure: ErasureHistory) -> dict[Digest, bool]:
        """Every round of the study before this erasure in which something of the hospital's was included."""
        opened = erasure.opened
        return {
            one.opened.round_id: True
            for one in self._books.history.rounds.values()
            if one.opened.study == opened.study
            and one.opened.opened_at <= opened.opened_at
            and one.final is not None
            and one.final.result.included >> opened.controller & 1
        }


def day(seconds: int) -> str:
    """A time of the chain as a date."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
