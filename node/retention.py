"""What a node deletes of rounds that are over: others' sets when the study says so, others' updates beyond its budget.

A set's retention is the study's (`policy.set_retention_days`), the budget of bytes is the node's own
(`history.budget_mb`). Our own sets and updates stay, and so do models: an erasure begins at an old one. Of updates the
oldest rounds go first.

Every ciphertext lies under a content key of its own, one for each member, round and kind. The key goes before the
ciphertext does: from then on its bytes can be read by nobody, wherever they linger (a backup, a block of the disk that
was not written again). A tombstone is signed and kept before either: an audit of this home knows what it may not miss.

What may live here: what is due, and its deletion. What this file does not know: erasures, which delete what they
condemn by themselves (`node/erasing/purge.py`); the vault.
"""

from __future__ import annotations

from typing import Final

import structlog

from crypto.digest import Digest
from crypto.sealing import BlobKind
from node.history import History, RoundHistory
from node.messages import RETENTION, CommitNotice, TombstoneNotice
from node.participant import Participant

log = structlog.get_logger("retention")
DAY_S: Final = 86_400
LEAST_S: Final = DAY_S
"""Chain seconds for which the updates of a round stay, whatever the budget: late members and auditors fetch them."""


class Retention:
    """One node's deletions; `budget_bytes`: how much its content store may hold, 0 for any amount."""

    def __init__(self, participant: Participant, budget_bytes: int) -> None:
        self._node = participant
        self._budget = budget_bytes
        self._swept: set[Digest] = set()  # rounds whose sets of others are gone
        self._full = False

    def forget(self) -> None:
        """The chain is read anew: every round is looked at again."""
        self._swept.clear()

    def step(self, now: int) -> bool:
        """Delete what is due of one round at chain time `now`; whether there was any. Interrupted, it goes on."""
        return self._sweep(now) or self._shrink(now)

    def _sweep(self, now: int) -> bool:
        if self._node.me is None:
            return False  # an auditor keeps what it verifies by
        for round_id, one in self._node.history.rounds.items():
            arithmetic = self._node.studies.get(one.opened.study)
            if one.ended is None or arithmetic is None or round_id in self._swept:
                continue
            if now > one.opened.opened_at + arithmetic.study["policy", "set_retention_days"] * DAY_S:
                self._swept.add(round_id)
                if self._delete(one, BlobKind.SET):
                    return True
        return False

    def _shrink(self, now: int) -> bool:
        kept = self._node.store.content_bytes() if self._budget else 0
        if kept <= self._budget:
            self._full = False
            return False
        for one in self._node.history.rounds.values():
            ended = one.ended_at
            if ended is None or now <= ended + LEAST_S or _judged(self._node.history, one):
                continue
            if self._delete(one, BlobKind.UPDATE):
                return True
        if not self._full:
            log.warning("over budget, and nothing may be deleted yet", bytes=kept, budget=self._budget)
        self._full = True
        return False

    def _delete(self, one: RoundHistory, kind: BlobKind) -> bool:
        """Delete the others' blobs of a kind of one round; whether there were any."""
        node, round_id, found = self._node, one.opened.round_id, False
        for notice in node.store.notices(round_id, "CommitNotice"):
            if not isinstance(notice, CommitNotice) or notice.member == node.me:
                continue
            root = (notice.update if kind is BlobKind.UPDATE else notice.set).cipher_root
            if node.store.has(root):
                found = True
                if node.me is not None:
                    node.say(TombstoneNotice(node.me, root, RETENTION, round_id, b""))
                node.store.forget_keys(round_id, notice.member, int(kind))
                node.store.remove(root)
        return found


def _judged(history: History, one: RoundHistory) -> bool:
    """Whether a round is of a replay that members have yet to judge."""
    batch = history.studies[one.opened.study].branches[one.opened.branch].batch
    erasure = history.erasures.get(batch)
    return erasure is not None and erasure.confirmed is None and erasure.refused is None
