"""A patient's request, from the desk until a batch with it is on the chain.

What may live here: the taking of requests (of a patient, by a consent form that promises it, of a hospital that
leaves), which stops the use at once; the composing and opening of batches, and the showing of openings to members; the
finding of a consent's batch. What this file does not know: requests that go by another hospital (`relays`), what
happens to a batch that is open.

A hospital tells its own batches apart by what only it and the holder of a card can compute: the salt of a request that
it opens itself is drawn with the consent; that of a batch which a relay opened follows from the signature on the card.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from crypto.commitments import batch_id, request_id
from crypto.digest import ZERO, Digest
from crypto.errors import CryptoError
from crypto.merkle import requests_root
from crypto.statements import OpenErasure, Receipt, RequestErasure, struct_hash
from node import card as cards
from node import enrolment, methods
from node.erasing.books import Books, Surroundings
from node.erasing.decisions import Decisions
from node.erasure import DUE_S, is_removed, roster_of
from node.errors import CallReverted, ChainUnreachable, InputError, LedgerError, NodeError, NotFound, Refused
from node.history import ErasureHistory
from node.membership import bitmap_of, members_of
from node.messages import ErasureNotice, OpeningNotice, PlanNotice, VerdictNotice, WithdrawalNotice
from node.records import NO_STEPS, ErasureOpening
from node.wire import MAX_OPENING_REQUESTS

log = structlog.get_logger("erasing")


class Requests:
    """Takes requests in and opens batches."""

    def __init__(self, books: Books, decisions: Decisions) -> None:
        self._books, self._decisions = books, decisions
        self._asked_at: object = None  # last record when forms were last asked what the end of a consent means
        self.shown: set[Digest] = set()  # batches whose opening everybody concerned was offered once

    async def request(
        self,
        node: Surroundings,
        *,
        patient: str | None = None,
        consent: Digest | None = None,
        card: bytes | None = None,
        everyone: Digest | None = None,
        method: str | None = None,
    ) -> dict[str, Any]:
        """Ask for erasure: use stops at once, the withdrawal goes to the chain, the batch is opened or relayed.

        Asked again for the same consent, it is the same erasure. A card of another hospital's patient is relayed: the
        withdrawal is posted from here, the request goes to that hospital, and if it stays silent for `RELAY_S` seconds
        of chain time this node opens the batch itself.

        Args:
            patient, consent, card: who; one of them. Or `everyone` of this hospital in a study, by the study's id: what
                a hospital that leaves may take along.
            method: the unlearning method by name, which only the patient's hospital may choose, once for a batch;
                default rollback and replay.

        Returns:
            `erasure` (id of the batch, None while only relayed), `erasures` (all of them), `consents`, `controller`,
            `handed` (whether the controller, where it is another member, took it), `hospital_removed`, `due_at`,
            `posted` (whether the chain has taken everything) and `receipt` (signed, one for each consent).
        """
        member = self._books.member
        registry = self._books.history.registry
        if member not in registry.members:
            raise ChainUnreachable("this node is still reading the chain: nothing was done, ask again in a moment")
        if not registry.active >> member & 1:
            raise Refused(
                "this hospital is no member any more and can open no erasure: hand the patient's card in at a member "
                "(koinon consent show --cards, koinon erase request --card there)"
            )
        now = node.now or int(time.time())
        notices: list[ErasureNotice] = []
        if card is not None:
            parsed = cards.parse(card)
            cards.check_network(parsed, self._books.desk.network)
            notices.append(cards.erasure_notice(parsed, now, member))
            withdrawals = [cards.withdrawal_notice(parsed)]
        else:
            held = await node.core(self._held, patient, consent, everyone)
            withdrawals, notices = await self._statements(node, held, now)
        await node.core(self._take_requests, withdrawals, notices, now, method)
        posted = await self._books.desk.post_withdrawals(node)  # type: ignore[arg-type]
        foreign = [one for one in notices if one.controller != member]
        handed = [await node.offer_to(notice.controller, notice) for notice in foreign]
        taken: set[Digest] = set()
        try:
            taken = await self.open_waiting(node)
        except LedgerError as error:
            log.warning("the batch waits for the chain; the use has stopped already", error=error.message)
            posted = False
        batches = await node.core(self._batches_of, [one.consent_id for one in notices])
        known = list(dict.fromkeys(batches.values()))
        kept = await node.core(self._books.kept_requests, [one.consent_id for one in notices])
        return {
            "erasure": known[0].hex() if len(known) == 1 else None,
            "erasures": [one.hex() for one in known],
            "consents": [one.consent_id.hex() for one in notices],
            "controller": notices[0].controller,
            "handed": all(handed),
            "hospital_removed": notices[0].controller in self._books.history.removed_at,
            "due_at": min(one.received_at for one in kept or notices) + DUE_S,
            "posted": posted and all(one in taken or one in self._books.history.erasures for one in known),
            "receipt": [self._receipt(one) for one in kept or notices],
        }

    def _held(self, patient: str | None, consent: Digest | None, everyone: Digest | None) -> list[Digest]:
        """The consents of this hospital that a request is about, whatever state they are in."""
        if everyone is not None:
            found = self._books.vault.holdings(everyone)
            if not found:
                raise NotFound(f"this hospital has no consents in study {everyone.hex()[:12]}")
        else:
            who = consent if consent is not None else patient
            if who is None:
                raise InputError("name a patient, a consent or a card")
            found = self._books.vault.find(who)
        return [one.consent_id for one in found]

    async def _statements(
        self, node: Surroundings, consents: Sequence[Digest], now: int
    ) -> tuple[list[WithdrawalNotice], list[ErasureNotice]]:
        """What a request for the erasure of our consents says, from their cards."""
        held = [await node.core(self._books.vault.card, one) for one in consents]
        requests = [cards.erasure_notice(ours, now, self._books.member) for ours in held]
        return [cards.withdrawal_notice(ours) for ours in held], requests

    async def ask_by_form(self, node: Surroundings) -> None:
        """Ask for the erasure of our consents that ended on a form which promises it; once each, a refusal stands.

        All that are due are one request, so that they go into one batch.
        """
        last = self._books.history.last
        if self._books.participant.vault is None or last == self._asked_at:
            return
        due = await node.core(self._due_by_form)
        if due:
            now = node.now or int(time.time())
            await node.core(self._take_requests, *await self._statements(node, due, now), now, None)
            await self.open_waiting(node)
        self._asked_at = last

    def _due_by_form(self) -> list[Digest]:
        asked = set(json.loads(self._books.store.meta("asked") or "[]"))
        ended = enrolment.due_unlearning(self._books.vault, self._books.history)
        due = [one for one in ended if one.hex() not in asked]
        batches = self._batches_of(due)
        return [one for one in due if one not in batches and not self._books.kept_requests([one])]

    def note_asked(self, asked: Iterable[Digest], gone: Iterable[Digest] = ()) -> None:
        """Note which of our consents' erasure was asked for, until the link to the person is gone."""
        before = json.loads(self._books.store.meta("asked") or "[]")
        after = {*before, *(one.hex() for one in asked)} - {one.hex() for one in gone}
        if after != set(before):
            self._books.store.set_meta("asked", json.dumps(sorted(after)))

    def _take_requests(
        self, withdrawals: list[WithdrawalNotice], notices: list[ErasureNotice], now: int, method: str | None
    ) -> None:
        """Take all requests of an order; the method is kept before the chain can hear of the batch."""
        if method is not None:
            methods.find(method)
            for notice in notices:
                self._check_choice(notice, method)
        batches = self._batches_of([one.consent_id for one in notices])
        for withdrawal, notice in zip(withdrawals, notices, strict=True):
            self.take_request(withdrawal, notice, now, opened=notice.consent_id in batches)
        self.note_asked(one.consent_id for one in notices if one.controller == self._books.me)
        if method is None:
            return
        self._openings()
        for batch in set(self._batches_of([one.consent_id for one in notices]).values()):
            if not self._books.store.meta(f"method {batch.hex()}"):
                self._books.store.set_meta(f"method {batch.hex()}", method)

    def take_request(self, withdrawal: WithdrawalNotice, notice: ErasureNotice, now: int, *, opened: bool) -> None:
        """Stop the use, keep both statements. The first request counts: it started the clock.

        `opened`: whether the erasure is in a batch already.
        """
        if notice.controller == self._books.me:
            self._books.vault.find(notice.consent_id)  # `NotFound`: its link is destroyed, nothing is left to erase
        self.end(notice.consent_id, now)
        if notice.consent_id not in self._books.history.withdrawals:
            self._books.store.remember(withdrawal, own=False)
        if not opened:
            self._books.store.remember(notice, own=True)

    def end(self, consent: Digest, now: int) -> None:
        """Stop the use of a consent. One that was entered in error has ended and stays what it is."""
        vault = self._books.participant.vault
        if vault is None or vault.mark_of(consent) != "entered-in-error":
            self._books.participant.end_consent(consent, now)

    def _check_choice(self, notice: ErasureNotice, method: str) -> None:
        """`Refused` where this method cannot be chosen for a request any more, or not here. The first choice stands."""
        if notice.controller != self._books.me:
            raise Refused(f"member {notice.controller}, whose patient this is, chooses the method; ask without one")
        methods.find(method, self._books.spec(notice.study))
        batch = self.batch_of(notice.consent_id)
        if batch is None:
            return
        votes = self._books.about(batch, PlanNotice)
        voted = [methods.name_of(one.method) for one in votes if one.member == self._books.me]
        kept = self._books.store.meta(f"method {batch.hex()}") or next(iter(voted), method)
        if kept != method:
            raise Refused(f"erasure {batch.hex()[:12]} has a method already: {kept}")

    def _receipt(self, notice: ErasureNotice) -> dict[str, Any]:
        request = struct_hash(RequestErasure(notice.consent_id, notice.study))
        receipt = Receipt(self._books.member, request, notice.received_at)
        return {
            "statement": request.hex(),
            "received_at": notice.received_at,
            "member": receipt.member,
            "signature": self._books.signed(receipt).hex(),
        }

    async def open_waiting(self, node: Surroundings) -> set[Digest]:
        """Open one batch a study for every request of ours that waits; carry again what the chain has not taken.

        Where the hospital's first steps can be taken already, they go along. Returns the batches of these that the
        chain has now.
        """
        taken = set()
        for opening in await node.core(self._openings):
            batch = batch_id(struct_hash(opening))
            try:
                steps = await self._decisions.first_steps(node, batch, opening)
            except (NodeError, CryptoError, OSError) as error:  # what fails here holds up no request
                log.warning("first steps", error=str(error)[:300])
                steps = NO_STEPS
            try:
                await node.send(ErasureOpening(opening, self._books.signed(opening), steps))
                taken.add(batch)
            except CallReverted as error:  # two of our tasks had the same thought, or the study is not on this chain
                log.info("opening", error=error.message)
                taken |= {batch} if error.error == "BatchKnown" else set()
        return taken

    def _openings(self) -> list[OpenErasure]:
        books, me, found = self._books, self._books.me, []
        if me is None or books.participant.vault is None:
            return []
        waiting: dict[Digest, list[ErasureNotice]] = {}
        ours = [one for one in books.all_of(ErasureNotice) if one.controller == me and books.is_linked(one.consent_id)]
        batches = self._batches_of([one.consent_id for one in ours])
        for notice in ours:
            if notice.consent_id not in batches:
                waiting.setdefault(notice.study, []).append(notice)
        for study, notices in waiting.items():
            for at in range(0, len(notices), MAX_OPENING_REQUESTS):
                self._compose(study, [one.consent_id for one in notices[at : at + MAX_OPENING_REQUESTS]])
        for opening in books.all_of(OpeningNotice, own=True):
            if opening.batch in books.history.erasures or not books.kept_requests([c for c, _ in opening.requests]):
                continue
            statement = self._statement_of(opening)
            if batch_id(struct_hash(statement)) == opening.batch:  # else a relay's, which it will carry again
                found.append(statement)
        return found

    def _compose(self, study: Digest, consents: list[Digest]) -> None:
        """Keep the opening of a batch of ours, from which everything else about it can be computed again."""
        vault = self._books.vault
        pairs = sorted(
            ((one, vault.request_salt(one)) for one in consents), key=lambda pair: request_id(pair[1], pair[0])
        )
        keys = tuple(vault.card(one).leaf_key for one, _ in pairs)
        draft = OpeningNotice(ZERO, self._books.member, tuple(pairs), keys)
        statement = self._statement_of(draft, study)
        self._books.store.remember(replace(draft, batch=batch_id(struct_hash(statement))), own=True)

    def _statement_of(self, opening: OpeningNotice, study: Digest | None = None) -> OpenErasure:
        """The statement that opens this batch of ours: due a month after the first of its requests came."""
        requests = self._books.kept_requests([consent for consent, _ in opening.requests])
        if not requests:
            raise NotFound(f"the requests behind batch {opening.batch.hex()} are not kept any more")
        root = requests_root(request_id(salt, consent) for consent, salt in opening.requests)
        due = min(one.received_at for one in requests) + DUE_S
        return OpenErasure(study or requests[0].study, opening.controller, opening.controller, root, due)

    def batch_of(self, consent: Digest) -> Digest | None:
        """The batch that a consent's erasure is in, as far as openings kept here tell."""
        return self._batches_of([consent]).get(consent)

    def _batches_of(self, consents: Sequence[Digest]) -> dict[Digest, Digest]:
        """Consent -> the batch that its erasure is in; who is in none is left out. Every opening is read once."""
        opened: dict[Digest, Digest] = {}
        for opening in self._books.all_of(OpeningNotice) if consents else ():
            for consent, _ in opening.requests:
                opened.setdefault(consent, opening.batch)
        found = {}
        for consent in consents:
            batch = opened[consent] if consent in opened else self._relayed_batch(consent)
            if batch is not None:
                found[consent] = batch
        return found

    def _relayed_batch(self, consent: Digest) -> Digest | None:
        """The batch that another member opened for a request which it relayed."""
        for notice in self._books.about(consent, ErasureNotice):
            batch = batch_id(struct_hash(relayed_statement(notice)))
            if batch in self._books.history.erasures:
                return batch
        return None

    def lacking(self, batch: Digest, erasure: ErasureHistory, roster: int) -> int:
        """Members that sent nothing that only who has the opening can send."""
        judged = {n.member for n in self._books.about(batch, VerdictNotice)}
        voted = {n.member for n in self._books.about(batch, PlanNotice)}
        shown = judged | (voted if erasure.plan is None else set(erasure.verdicts))
        knows = self._books.me if is_removed(self._books.history, erasure) else erasure.opened.controller
        return roster & ~bitmap_of({*shown, *([] if knows is None else [knows])})

    async def share(self, node: Surroundings, batch: Digest) -> None:
        """Show members which requests are in a batch: everybody concerned first, then whoever lacks it."""
        opening = await node.core(self._books.opening, batch)
        if opening is None:
            return
        if opening.controller != self._books.me:
            opening = replace(opening, leaf_keys=())  # taken from the hospital alone
        if batch not in self.shown:
            self.shown.add(batch)
            await node.offer_in(self._books.erasure(batch).opened.study, opening)
            return
        erasure = self._books.erasure(batch)
        roster = roster_of(self._books.history, erasure.opened.study)
        for member in members_of(await node.core(self.lacking, batch, erasure, roster)):
            await node.offer_to(member, opening)


def relayed_statement(notice: ErasureNotice) -> OpenErasure:
    """The statement with which a relay opens the batch of a request."""
    root = requests_root([request_id(cards.relay_salt(notice.signature), notice.consent_id)])
    return OpenErasure(notice.study, notice.controller, notice.relay, root, notice.received_at + DUE_S)
