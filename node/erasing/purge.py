"""What of an erasure must not be in this home, the deleting of it, and the word that it is gone.

What may live here: what a plan and the known uses condemn, what is kept of it before it goes (proofs, lengths, shards),
and the attestations, up to the chain. What this file does not know: how uses and plans are found.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

import structlog

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.sealing import BlobKind
from fl_engine.params import Ints, view_ints
from node import lengths, shards
from node.erasing.books import Books, Surroundings
from node.erasing.sets import Sets
from node.erasure import (
    FINAL,
    doomed_models,
    doomed_rounds,
    inventory,
    out_of_use_at,
    questions,
    roster_of,
)
from node.errors import NodeError
from node.history import ErasureHistory, RoundHistory
from node.membership import bitmap_of
from node.messages import ERASED, CommitNotice, PurgeNotice, TombstoneNotice, VoteNotice
from node.records import PurgeEntry, Purges

log = structlog.get_logger("erasing")

LOOK_AGAIN_S: Final = 30  # chain seconds after which a clean home is searched again for what should not be there


@dataclass(frozen=True, slots=True)
class _Condemned:
    """What must go from this home: content roots, content keys as (round, member, kind), and models of no record.

    The last are no erasure's, and may come after its members have attested what went: they get no tombstone of it.
    """

    contents: frozenset[Digest]
    keys: frozenset[tuple[Digest, int, int]]
    strays: frozenset[Digest] = frozenset()


class Purge:
    """Purges this home and says so."""

    def __init__(self, books: Books, sets: Sets) -> None:
        self._books, self._sets = books, sets
        self.clean: dict[Digest, tuple[object, int]] = {}  # batch -> (what we knew, time) of the last fruitless search

    def _condemned(self, batch: Digest, erasure: ErasureHistory, now: int) -> _Condemned:
        """Everything of this erasure that must not be in this home, whether it is or not."""
        books, history, plan = self._books, self._books.history, erasure.plan
        contents: set[Digest] = set()
        keys: set[tuple[Digest, int, int]] = set()
        if plan is None:
            return _Condemned(frozenset(), frozenset())
        controller = erasure.opened.controller
        rounds = doomed_rounds(history, plan)
        doomed = {one.opened.round_id for one in rounds}
        candidates = doomed_models(history, plan)
        for one in rounds:
            for notice in books.about(one.opened.round_id, CommitNotice):
                contents.add(notice.update.cipher_root)
                keys.add((one.opened.round_id, notice.member, int(BlobKind.UPDATE)))
            for vote in books.about(one.opened.round_id, VoteNotice):
                candidates.add(vote.result.model_root)  # a set that was voted on and not agreed has a model too
        strays: set[Digest] = set()
        if plan.study in books.participant.studies:
            strays = self._stray_models(books.participant.studies[plan.study].model_length())
        uses, terms = self._sets.uses(batch), history.studies[plan.study].created.terms
        waited = now > erasure.times["planned"] + terms.purge_seconds
        until = out_of_use_at(history, erasure)
        assert until is not None
        # Whatever is not asked for is read where it lies, or never: only sets that count are fetched, and waited for.
        was_read = books.store.meta(f"uses {batch.hex()}") is not None
        asked = {one.opened.round_id for one in questions(history, erasure) or ()}
        for round_id, one in history.rounds.items():
            if one.opened.study != plan.study:
                continue
            # Of rounds that opened while it could be used: what never came to the chain counts for nothing, unread.
            early = one.over and one.opened.opened_at <= until
            never_posted = early and controller not in one.commits
            # What nobody could look into goes where no model that stays was made of it.
            made = one.made_model and one.final is not None and one.final.result.included >> controller & 1
            given_up = waited or (was_read and round_id not in asked)
            unread = given_up and round_id not in uses and (round_id in doomed or (early and not made))
            used = uses.get(round_id) or (unread and controller in one.commits)
            if used:  # a sum of it that was voted on and not agreed has a model too
                candidates |= {vote.result.model_root for vote in books.about(round_id, VoteNotice)}
            for notice in books.about(round_id, CommitNotice) if used or never_posted else ():
                if notice.member == controller:
                    contents |= {notice.update.cipher_root, notice.set.cipher_root}
                    keys |= {(round_id, controller, int(kind)) for kind in BlobKind}
        contents |= candidates - self._clean_models(erasure.opened.study, doomed)
        return _Condemned(frozenset(contents), frozenset(keys), frozenset(strays - contents))

    def _clean_models(self, study: Digest, doomed: set[Digest]) -> set[Digest]:
        """Model roots that stay: the study's first one, and what no doomed round made, in any study.

        What another study names as its first model is no reason: honest members join none that begins at a made one.
        """
        history = self._books.history
        clean = {history.studies[study].created.terms.initial_model}
        for number, found in history.studies.items():
            for branch in found.branches.values():
                for round_id in branch.rounds.values():
                    final = history.rounds[round_id].final
                    if final is not None and (number != study or round_id not in doomed):
                        clean.add(final.result.model_root)
        return clean

    def _stray_models(self, length: int) -> set[Digest]:
        """Models of this size that no record names, nor a round that runs: sums of sets that were never agreed."""
        history, named = self._books.history, self._books.participant.unsettled_models()
        named |= {found.created.terms.initial_model for found in history.studies.values()}
        named |= {one.final.result.model_root for one in history.rounds.values() if one.final is not None}
        return {
            root
            for root, kind, size in self._books.store.contents()
            if kind == "model" and size == length and root not in named
        }

    def is_dirty(self, batch: Digest, erasure: ErasureHistory, now: int) -> bool:
        """Whether anything that is condemned is in this home."""
        before, known = self.clean.get(batch), (self._books.history.last, self._sets.readings[batch])
        if before is not None and before[0] == known and now < before[1] + LOOK_AGAIN_S:
            return False
        condemned = self._condemned(batch, erasure, now)
        store = self._books.store
        if any(store.holds_any(root) for root in condemned.contents | condemned.strays) or any(
            store.key(*key) for key in condemned.keys
        ):
            return True
        self.clean[batch] = (known, now)
        return False

    async def carry_out(self, node: Surroundings, batch: Digest) -> None:
        """Keep what must be known of it later, delete what is condemned, say that it is deleted."""
        erasure = self._books.erasure(batch)
        if erasure.opened.controller == self._books.me:
            uses, opening = await node.core(self._sets.uses, batch), await node.core(self._books.opening, batch)
            if opening is not None:
                first = await node.core(self._sets.first_uses, batch, opening, uses)
                for round_id in dict.fromkeys(one.opened.round_id for one in first.values()):
                    await node.pull(round_id)
                await node.core(self._sets.keep_first_uses, batch, first)
        if erasure.confirmed is None and erasure.closed is None:
            for number in range(lengths.wanted(erasure)):  # before they go; a turn each, for updates are opened
                await node.core(self._keep_length, erasure, number)
        await node.core(self._keep_shard, erasure)  # also after the replay: our shard may have waited for us
        condemned = await node.core(self._condemned, batch, erasure, node.now)
        if erasure.opened.controller == self._books.me:
            held = await node.core(self._books.vault.leaf_keys)
            for notice in await node.core(self._own_condemned, condemned):  # a turn each, for sets are opened
                await node.core(self._note_set, notice, held)
        for stone in await node.core(self._purge_here, batch, condemned, node.now):
            await node.offer(stone)

    def _own_condemned(self, condemned: _Condemned) -> list[CommitNotice]:
        """What stands on the chain of ours whose set is still here and has to go."""
        rounds, me = self._books.history.rounds.values(), self._books.member
        notices = [self._books.standing_commit(one, me) for one in rounds if me in one.commits]
        store = self._books.store
        return [
            one
            for one in notices
            if one is not None and one.set.cipher_root in condemned.contents and store.has(one.set.cipher_root)
        ]

    def _note_set(self, notice: CommitNotice, held: Set[Digest]) -> None:
        """Note whose records the set held: the others of it can still ask what was disclosed of them, and to whom.

        `held`: the leaves of the consents that are here. A set that came back with an older copy of this home has more.
        """
        try:
            entries = self._books.participant.open_set(notice).entries
        except NodeError as error:
            log.warning("own set unreadable", round=notice.round_id.hex()[:8], error=error.message)
            return
        self._books.vault.note_set(notice.round_id, (key for entry in entries if (key := entry.leaf_key) in held))

    def _keep_length(self, erasure: ErasureHistory, number: int) -> None:
        books, study, me = self._books, erasure.opened.study, self._books.me
        if me is not None and study in books.participant.studies:  # else no update can be read here, and they still go
            of = books.participant.study(study).shards
            lengths.keep(books.store, books.history, erasure, number, me, of, self._values)

    def _keep_shard(self, erasure: ErasureHistory) -> None:
        books, study, me = self._books, erasure.opened.study, self._books.me
        attested = any(n.stage == FINAL and n.member == me for n in books.about(erasure.opened.batch, PurgeNotice))
        if me is not None and not attested and study in books.participant.studies:
            shards.keep(books.store, books.history, erasure, books.participant.study(study), me)

    def _values(self, one: RoundHistory, member: int) -> Ints | None:
        try:
            update = self._sets.update(one, member)
            if update is not None:
                return view_ints(update.values, self._books.participant.study(one.opened.study).size)
        except (NodeError, CryptoError, OSError) as error:
            log.warning("update unreadable", round=one.opened.height, member=member, error=str(error))
        return None

    def _purge_here(self, batch: Digest, condemned: _Condemned, now: int) -> list[TombstoneNotice]:
        """Delete what is condemned; each content's tombstone is kept before the content goes."""
        store, stones = self._books.store, []
        for round_id, member, kind in sorted(condemned.keys):
            store.forget_keys(round_id, member, kind)
        for root in sorted(condemned.contents):
            if store.holds_any(root):
                if self._books.me is not None and store.has(root):
                    stones.append(self._books.say(TombstoneNotice(self._books.me, root, ERASED, batch, b"")))
                store.remove(root)
        for root in sorted(condemned.strays):
            store.remove(root)
        store.log(float(now), "purged", {"erasure": batch.hex(), "contents": len(stones), "keys": len(condemned.keys)})
        return stones

    async def attest(self, stage: int, node: Surroundings, batch: Digest) -> None:
        """State under signature that it is gone; of the final stage, whoever has its turn carries all to the chain."""
        await node.offer(await node.core(self._sign, batch, stage))

    async def post(self, node: Surroundings, batch: Digest) -> None:
        """Carry the attestations that came too late for the verdicts."""
        entries = await node.core(self.entries, batch)
        if entries:
            await node.send(Purges(self._books.erasure(batch).opening, entries))

    def _sign(self, batch: Digest, stage: int) -> PurgeNotice:
        books = self._books
        if stage == FINAL:
            lengths.forget(books.store, batch)  # the replay has caught up: no round of it is trained any more
            erasure = books.erasure(batch)
            study = erasure.opened.study
            if study in books.participant.studies:
                shards.settle(books.store, books.history, erasure, books.participant.study(study), books.member)
        stones = [
            (n.content, n.reason, n.subject) for n in books.all_of(TombstoneNotice, own=True) if n.subject == batch
        ]
        return books.say(PurgeNotice(batch, books.member, stage, inventory(stones), b""))

    def entries(self, batch: Digest) -> tuple[PurgeEntry, ...]:
        """Final attestations that the chain lacks."""
        erasure = self._books.erasure(batch)
        return tuple(
            PurgeEntry(n.member, n.inventory, n.signature)
            for n in self._books.about(batch, PurgeNotice)
            if n.stage == FINAL and n.member not in erasure.purges
        )

    async def gather(self, node: Surroundings, batch: Digest) -> None:
        """Ask the members whose word on the pair is not here for it: we or they were away when it was offered."""
        books = self._books
        said = bitmap_of(n.member for n in books.about(batch, PurgeNotice))
        missing = roster_of(books.history, books.erasure(batch).opened.study) & ~said
        if missing:
            await node.pull(batch, missing)
