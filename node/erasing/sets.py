"""What the sets of the patient's hospital say: in which rounds an erased consent was used.

What may live here: the fetching and reading of sets of rounds that were, what is known of uses since, what counts as
used where sets are lost, and the proofs of each first use. What this file does not know: what follows from a use.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

import structlog

from crypto.blobs import UpdatePlain, decode_update
from crypto.digest import Digest
from crypto.sealing import BlobKind, open_blob
from node import proof
from node.erasing.books import Books, Surroundings
from node.erasure import out_of_use_at, questions
from node.errors import NodeError, NotFound
from node.history import RoundHistory
from node.messages import OpeningNotice
from node.planning import holds
from node.retention import DAY_S

log = structlog.get_logger("erasing")

READING_S: Final = 7 * DAY_S  # how long before its retention ends the set of a removed hospital counts as lost


class Sets:
    """The uses of each batch, as far as sets were read here."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.readings: Counter[Digest] = Counter()  # batch -> how often its sets were looked into

    def uses(self, batch: Digest) -> dict[Digest, bool]:
        """What is known of the hospital's sets: round id -> whether an erased consent is in it."""
        text = self._books.store.meta(f"uses {batch.hex()}")
        uses = {} if not text else {Digest.from_hex(key): bool(used) for key, used in json.loads(text).items()}
        return uses | dict.fromkeys(self._lost(batch), True)

    def _lost(self, batch: Digest) -> list[Digest]:
        """Rounds of a removed hospital that count as used, as its sets may be gone with their retention.

        Where it took its steps before it was removed, it had shown them, and they were read then.
        By times of the chain and the specification alone, so that members which still have a set plan as the others.
        """
        erasure = self._books.history.erasures.get(batch)
        at = None if erasure is None else out_of_use_at(self._books.history, erasure)
        if erasure is None or at is None or "copy_deleted" in erasure.times:
            return []
        study = self._books.spec(erasure.opened.study)
        if study is None:
            return []
        kept_from = at + READING_S - study["policy", "set_retention_days"] * DAY_S
        asked = questions(self._books.history, erasure)
        return [one.opened.round_id for one in asked or [] if one.opened.opened_at <= kept_from]

    async def read(self, node: Surroundings, batch: Digest) -> None:
        """Look into every set of the hospital for the erased consents; fetch sets that count and are not here."""
        erasure = self._books.erasure(batch)
        await node.core(self._read_here, batch)
        asked = await node.core(questions, self._books.history, erasure)
        uses = await node.core(self.uses, batch)
        missing = [one for one in asked or [] if one.opened.round_id not in uses]
        for one in missing:
            await self.fetch(node, one, erasure.opened.controller)
        if missing:
            await node.core(self._read_here, batch)
            uses = await node.core(self.uses, batch)
            lacking = [one.opened.height for one in missing if one.opened.round_id not in uses]
            if lacking:
                raise NotFound(f"the sets of rounds {lacking} of member {erasure.opened.controller} are nowhere")

    async def fetch(self, node: Surroundings, one: RoundHistory, member: int) -> None:
        """Fetch the set of a round, where anybody has it."""
        notice = await node.core(self._books.standing_commit, one, member)
        if notice is None:
            await node.pull(one.opened.round_id)
            notice = await node.core(self._books.standing_commit, one, member)
        if notice is not None:
            try:
                await node.fetch_set(notice)
            except NodeError as error:
                log.info("set not here", height=one.opened.height, error=error.message[:200])

    def _read_here(self, batch: Digest) -> None:
        erasure, opening = self._books.erasure(batch), self._books.opening(batch)
        if opening is None:
            return
        uses, until = self.uses(batch), out_of_use_at(self._books.history, erasure)
        assert until is not None
        for one in self._books.history.rounds.values():
            opened = one.opened
            if (
                opened.study != erasure.opened.study
                or opened.opened_at > until
                or opened.round_id in uses
                or erasure.opened.controller not in one.commits
            ):
                continue
            found = self.holds_erased(one, erasure.opened.controller, opening)
            if found is not None:
                uses[opened.round_id] = found
        if erasure.opened.controller == self._books.me:
            self.keep_first_uses(batch, self.first_uses(batch, opening, uses))
        text = json.dumps({key.hex(): used for key, used in uses.items()}, sort_keys=True)
        self._books.store.set_meta(f"uses {batch.hex()}", text)
        self.readings[batch] += 1  # what is condemned follows from it

    def holds_erased(self, one: RoundHistory, member: int, opening: OpeningNotice) -> bool | None:
        """Whether a member's set of a round holds a consent of the batch; None where the set cannot be opened here.

        By the consents' ids, which the requests root binds and every entry of a set opens to; not by leaf keys, which
        somebody may have made up.
        """
        consents = frozenset(consent for consent, _ in opening.requests)
        return holds(self._books.participant, one, member, consents, frozenset())

    def keep_first_uses(self, batch: Digest, first: dict[Digest, RoundHistory]) -> None:
        """Proofs of each first use for the patients' annexes, made before the sets go. Destroyed with the link."""
        hospital = self._books.erasure(batch).opened.controller
        if not first:
            return
        try:
            entries = {
                key.hex(): proof.round_entry(self._books.history, self._books.participant, one, hospital, key)
                for key, one in first.items()
            }
        except NotFound as error:
            log.info("first use", error=error.message)  # votes that are not here yet; asked for before the purge
            return
        self._books.store.set_meta(f"first-use {batch.hex()}", json.dumps(entries))

    def first_uses(self, batch: Digest, opening: OpeningNotice, uses: dict[Digest, bool]) -> dict[Digest, RoundHistory]:
        """Leaf of a batch of ours -> the first agreed round whose set held it; nothing once the proofs are kept.

        Also on a line that an earlier replay took out of service, as far as what shows it is here still.
        """
        if self._books.store.meta(f"first-use {batch.hex()}"):
            return {}
        erasure, left, found = self._books.erasure(batch), set(opening.leaf_keys), dict[Digest, RoundHistory]()
        history, member = self._books.history, erasure.opened.controller
        line = questions(history, erasure) or []
        serving = {one.opened.round_id for one in line}
        agreed = [
            one
            for one in history.rounds.values()
            if one.opened.study == erasure.opened.study and one.final and one.final.result.included >> member & 1
        ]
        before = [one for one in agreed if one.opened.round_id not in serving]
        for one in sorted([*before, *line], key=lambda each: each.position):
            if not left or not uses.get(one.opened.round_id):
                continue
            used = left & (proof.leaves_of(self._books.participant, one, member) or set())
            if one.opened.round_id not in serving:
                used = {key for key in used if self._is_shown(one, member, key)}
            found |= dict.fromkeys(used, one)
            left -= used
        return found

    def _is_shown(self, one: RoundHistory, member: int, key: Digest) -> bool:
        try:
            proof.round_entry(self._books.history, self._books.participant, one, member, key)
        except NotFound:
            return False
        return True

    def update(self, one: RoundHistory, member: int) -> UpdatePlain | None:
        """An update that is in a round's sum; None where it cannot be opened here any more."""
        round_id = one.opened.round_id
        store, notice = self._books.store, self._books.standing_commit(one, member)
        key = store.key(round_id, member, int(BlobKind.UPDATE))
        if notice is None or key is None or not store.has(notice.update.cipher_root):
            return None
        data = store.get(notice.update.cipher_root)
        opened = open_blob(data, key, notice.update, round_id, member, BlobKind.UPDATE)
        return decode_update(opened, self._books.participant.study(one.opened.study).size)
