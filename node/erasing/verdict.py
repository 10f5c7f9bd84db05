"""Our verdict on the line that a replay made, and the carrying of all verdicts to the chain.

What may live here: the looking through of its sets and the adding up of its rounds. What this file does not know: how a
replay runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from crypto.digest import Digest, content_root
from crypto.errors import CryptoError
from node.erasing.books import Books, Surroundings
from node.erasing.purge import Purge
from node.erasing.sets import Sets
from node.erasure import Checkpoint, checkpoint_of, included_rounds, influenced_from
from node.errors import NodeError, NotFound
from node.history import ErasureHistory, RoundHistory
from node.membership import members_of
from node.messages import OpeningNotice, VerdictNotice, VoteNotice
from node.notices import hash_of_result
from node.records import VerdictEntry, Verdicts


class Verdict:
    """Judges replays."""

    def __init__(self, books: Books, sets: Sets, purge: Purge) -> None:
        self._books, self._sets, self._purge = books, sets, purge

    async def give(self, node: Surroundings, batch: Digest) -> None:
        """Look through the sets of the new line and at its sums; say what was found, once."""
        erasure = self._books.erasure(batch)
        plan = erasure.plan
        checkpoint = None if plan is None else checkpoint_of(self._books.history, plan)
        if checkpoint is None:
            return
        for one in _rounds_with(checkpoint, erasure.opened.controller):
            if await node.core(self._cannot_open, one, erasure.opened.controller):
                await self._sets.fetch(node, one, erasure.opened.controller)
        notice = await node.core(self._judge, batch, checkpoint)
        await node.offer(notice)

    def _cannot_open(self, one: RoundHistory, member: int) -> bool:
        notice = self._books.standing_commit(one, member)
        if notice is None:
            return True
        try:
            self._books.participant.open_set(notice)
        except (NodeError, CryptoError):
            return True
        return False

    def _judge(self, batch: Digest, checkpoint: Checkpoint) -> VerdictNotice:
        """Our verdict, kept; `NotFound` while something it depends on is not here."""
        erasure, opening = self._books.erasure(batch), self._books.opening(batch)
        if opening is None:
            raise NotFound("the hospital has not opened the batch to us")
        confirmed = self._base_is_old(batch, erasure) and all(self._is_sound(one, opening) for one in checkpoint.rounds)
        self._books.participant.model(checkpoint.model)
        draft = VerdictNotice(batch, self._books.member, checkpoint.branch, checkpoint.model, confirmed, b"")
        return self._books.say(draft)

    def _base_is_old(self, batch: Digest, erasure: ErasureHistory) -> bool:
        """Whether nothing of an erased consent is in the plan's base: by our own reading of the included sets up to it,
        and by what it was made with of an earlier line.
        """
        history, plan, uses, opened = self._books.history, erasure.plan, self._sets.uses(batch), erasure.opened
        assert plan is not None
        before = included_rounds(history, opened.study, plan.parent_branch, plan.base_height, opened.controller)
        unread = [one.opened.height for one in before if one.opened.round_id not in uses]
        if unread:
            raise NotFound(f"the sets of rounds {unread} of member {opened.controller} were never read here")
        influenced = influenced_from(history, opened.study, plan.parent_branch, plan.base_height, opened.controller)
        return influenced is None and not any(uses[one.opened.round_id] for one in before)

    def _is_sound(self, one: RoundHistory, opening: OpeningNotice) -> bool:
        """Whether a replayed round holds no erased consent and its sum is the one we computed."""
        if one.final is not None and one.final.result.included >> opening.controller & 1:
            found = self._sets.holds_erased(one, opening.controller, opening)
            if found is None:
                raise NotFound(f"the set of round {one.opened.height} of member {opening.controller} is not here")
            if found:
                return False
        return self._recomputed(one)

    def _recomputed(self, one: RoundHistory) -> bool:
        """Whether we get the agreed model: by the vote we cast then, else by adding the updates up again now."""
        final = one.final
        assert final is not None
        round_id = one.opened.round_id
        for vote in self._books.about(round_id, VoteNotice):
            if isinstance(vote, VoteNotice) and vote.member == self._books.me and vote.attempt == final.attempt:
                return hash_of_result(vote.result) == final.result_hash
        arithmetic = self._books.participant.study(one.opened.study)
        pairs = []
        for member in members_of(final.result.included):
            update = self._sets.update(one, member)
            if update is None:
                raise NotFound(f"the update of member {member} in round {one.opened.height} is not here")
            pairs.append((member, update.values, update.records))
        model = arithmetic.next_model(self._books.participant.model(one.opened.parent_model), pairs)
        return content_root("model", model) == final.result.model_root

    async def post(self, node: Surroundings, batch: Digest) -> None:
        """Carry the verdicts to the chain, with the attestations that are there."""
        entries = await node.core(self._entries, batch)
        if entries:
            purges = await node.core(self._purge.entries, batch)
            await node.send(Verdicts(self._books.erasure(batch).opening, entries, purges))

    def _entries(self, batch: Digest) -> tuple[VerdictEntry, ...]:
        """Verdicts that the chain lacks, on what it knows that they are about."""
        erasure = self._books.erasure(batch)
        plan = erasure.plan
        found = None if plan is None else checkpoint_of(self._books.history, plan)
        return tuple(
            VerdictEntry(n.member, n.confirmed, n.signature)
            for n in self._books.about(batch, VerdictNotice)
            if n.member not in erasure.verdicts
            and found is not None
            and (n.branch, n.head_model) == (found.branch, found.model)
        )


def _rounds_with(checkpoint: Checkpoint, member: int) -> Iterable[RoundHistory]:
    for one in checkpoint.rounds:
        if one.final is not None and one.final.result.included >> member & 1:
            yield one
