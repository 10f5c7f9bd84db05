"""Requests that come by another hospital than the patient's.

What may live here: at the relay, the reminding of the hospital and the opening of the batch in its place; at the
patient's hospital, the taking of what a peer handed on and the finding of the consent behind a batch that a relay
opened. What this file does not know: what happens to a batch once it is open.
"""

from __future__ import annotations

from crypto.commitments import batch_id, request_id
from crypto.digest import Digest
from crypto.merkle import requests_root
from crypto.statements import struct_hash
from node import card as cards
from node.erasing.books import Books, Surroundings
from node.erasing.decisions import MAX_REVIEW_S
from node.erasing.requests import Requests, relayed_statement
from node.erasure import AGAIN_S, DUE_S, RELAY_S, State, state_of
from node.errors import NotFound
from node.history import ErasureHistory
from node.messages import ErasureNotice, OpeningNotice
from node.records import ErasureOpening


class Relays:
    """Sees requests through from one hospital to the other."""

    def __init__(self, books: Books, requests: Requests) -> None:
        self._books, self._requests = books, requests
        self._unknown: dict[Digest, int] = {}  # batch -> when to look for its consents in the vault again
        self._reminded: dict[Digest, int] = {}  # consent -> when its hospital is told of the request again

    async def relay(self, node: Surroundings) -> None:
        """See requests of other hospitals' patients through: remind the hospital, then open the batch for it."""
        for notice, call in await node.core(self._relays, node.now):
            if call is not None:
                await node.send(call)
            else:
                await node.offer_to(notice.controller, notice)

    def _relays(self, now: int) -> list[tuple[ErasureNotice, ErasureOpening | None]]:
        due: list[tuple[ErasureNotice, ErasureOpening | None]] = []
        for notice in self._books.all_of(ErasureNotice, own=True):
            if notice.controller == self._books.me:
                continue
            statement = relayed_statement(notice)
            batch = batch_id(struct_hash(statement))
            ours = self._books.history.erasures.get(batch)
            gone = notice.controller in self._books.history.removed_at
            if ours is not None and gone and self._books.opening(batch) is None:
                # It shows the others nothing, so we do; which leaves it had, its sets say.
                pair = ((notice.consent_id, cards.relay_salt(notice.signature)),)
                self._books.store.remember(OpeningNotice(batch, notice.controller, pair, ()), own=True)
            if not gone and any(notice.consent_id in dict(n.requests) for n in self._books.all_of(OpeningNotice)):
                self._books.store.forget_notices(notice.consent_id, "ErasureNotice")  # the hospital has opened it to us
            elif self._taken_up(notice, now) or (
                ours is not None and state_of(ours, self._books.history) is not State.REQUESTED
            ):
                continue
            elif ours is None and (gone or now >= notice.received_at + RELAY_S):
                due.append((notice, ErasureOpening(statement, self._books.signed(statement))))
            elif now >= self._reminded.get(notice.consent_id, 0):
                self._reminded[notice.consent_id] = now + AGAIN_S
                due.append((notice, None))
        return due

    def _taken_up(self, notice: ErasureNotice, now: int) -> bool:
        """Whether the hospital opened a batch for this request.

        One that it opened since the request came and has not shown to us may be it, until `RELAY_S` after it had to be
        shown, which is when its copy is gone; and none may for longer than a hospital has for its review. So nobody
        stops the clock by silence, nor by opening one batch after the other. A hospital that was removed shows nothing.
        """
        if notice.controller in self._books.history.removed_at:
            return self._requests.batch_of(notice.consent_id) in self._books.history.erasures
        latest = notice.received_at + MAX_REVIEW_S + RELAY_S
        for batch, erasure in self._books.history.erasures.items():
            opened = erasure.opened
            if (opened.study, opened.controller, opened.poster) != (
                notice.study,
                notice.controller,
                notice.controller,
            ):
                continue
            opening = self._books.opening(batch)
            if opening is not None:
                if any(one == notice.consent_id for one, _ in opening.requests):
                    return True
            elif opened.opened_at >= notice.received_at:
                gone = erasure.times.get("copy_deleted")
                if now < (latest if gone is None else min(gone + RELAY_S, latest)):
                    return True
        return False

    async def relayed(self, node: Surroundings, notice: ErasureNotice) -> None:
        """A request for one of our patients, handed on by a peer: use stops at once, the batch is opened."""
        await node.core(self._take_relayed, notice, node.now)

    def _take_relayed(self, notice: ErasureNotice, now: int) -> None:
        vault = self._books.participant.vault
        try:
            if vault is None or notice.controller != self._books.me:
                raise NotFound("not ours")
            card = vault.card(notice.consent_id)
            if not now - DUE_S <= notice.received_at <= now + RELAY_S:
                raise NotFound("not of this time: the clock of a request starts when it was received")
        except NotFound:
            self._books.store.forget_notices(notice.consent_id, "ErasureNotice")
            return
        self._requests.end(notice.consent_id, now)
        if notice.consent_id not in self._books.history.withdrawals:
            self._books.store.remember(cards.withdrawal_notice(card), own=False)

    def identify(self, batch: Digest, erasure: ErasureHistory, now: int) -> None:
        """Find the consent of ours behind a batch that a relay opened, and keep its opening."""
        opened, vault = erasure.opened, self._books.participant.vault
        if vault is None or opened.poster == opened.controller or now < self._unknown.get(batch, 0):
            return
        for holding in vault.holdings(opened.study):
            card = vault.card(holding.consent_id)
            salt = cards.relay_salt(card.request_erasure)
            if requests_root([request_id(salt, card.consent_id)]) == opened.requests_root:
                pair = ((card.consent_id, salt),)
                self._books.store.remember(OpeningNotice(batch, opened.controller, pair, (card.leaf_key,)), own=True)
                request = cards.erasure_notice(card, opened.opened_at, opened.controller)
                self._requests.take_request(cards.withdrawal_notice(card), request, now, opened=True)
                return
        self._unknown[batch] = now + RELAY_S
