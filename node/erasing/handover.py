"""The certificate, its handing over to the patient, and the end: the link to the person goes, the batch is closed.

What may live here: what goes into certificate and annex of a batch, who has theirs, and what is forgotten then. What
this file does not know: the form of a certificate (`node/certificate.py`), how the erasure went.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import structlog

from crypto.commitments import request_id
from crypto.digest import ZERO, Digest, keccak256
from node import attestation, certificate, proof
from node.attestation import Attestation
from node.erasing.archive import SETS_LOST, Archive
from node.erasing.books import Books, Surroundings
from node.erasing.requests import Requests
from node.erasure import (
    CLOSED,
    DELIVERED,
    DELIVERY_S,
    LINK_DESTROYED,
    Act,
    excluded_from,
    never_closes,
    roster_of,
    state_of,
    terms_of,
)
from node.errors import InputError, NodeError, NotFound, Refused
from node.history import ErasureHistory, RoundHistory
from node.membership import members_of
from node.records import EvidenceAttestation

log = structlog.get_logger("erasing")


class Handover:
    """Hands certificates over and closes batches."""

    def __init__(self, books: Books, requests: Requests, archive: Archive) -> None:
        self._books, self._requests, self._archive = books, requests, archive

    async def attested(self, node: Surroundings, data: bytes) -> Attestation:
        """Check what an auditor attested of a batch of ours (`koinon.attestation/1`), keep it, and put it on the chain.

        Handed in again, nothing changes.

        Raises:
            Refused: another hospital's batch, or this seat attested other evidence of this level before.
            VerificationFailed, NotFound: as `attestation.check`.
        """
        one = attestation.read(data)
        found = self._books.erasure(one.batch)
        if found.opened.controller != self._books.member:
            raise Refused(f"erasure {one.batch.hex()[:12]} is member {found.opened.controller}'s: hand it in there")
        before = found.attested.get((one.level, one.seat))
        if before not in (None, one.evidence):
            raise Refused(f"the auditor in seat {one.seat} attested another report of this level before")
        await node.core(self._keep_attestation, one, found, node.now)
        if before is None:
            await node.send(EvidenceAttestation(found.opening, one.level, one.seat, one.evidence, one.signature))
        return one

    def _keep_attestation(self, one: Attestation, found: ErasureHistory, now: int) -> None:
        books, arithmetic = self._books, self._books.participant.study(found.opened.study)
        attestation.check(one, books.history, books.desk.network, found, arithmetic, books.store.get, now)
        certificate.keep_attestation(books.store, one)

    def _delivered(self, batch: Digest) -> list[str]:
        text = self._books.store.meta(f"delivered {batch.hex()}")
        return list(json.loads(text)) if text else []

    def is_delivered(self, batch: Digest, erasure: ErasureHistory, now: int) -> bool:
        """Whether all of a batch have their certificate, or nobody waits for that any more."""
        if not erasure.moved:
            return False
        if DELIVERED in erasure.steps or now > erasure.times["head_moved"] + DELIVERY_S:
            return True
        consents = self._books.consents(batch)
        if not any(self._books.is_linked(one) for one in consents):
            return True  # another batch of the same consents was quicker
        return {one.hex() for one in consents} <= set(self._delivered(batch))

    def waits_for(self, batch: Digest, now: int) -> list[int] | None:
        """Members whose final attestation the certificate still waits for; None while the head has not moved."""
        erasure = self._books.erasure(batch)
        if not erasure.moved:
            return None
        terms = self._books.history.studies[erasure.opened.study].created.terms
        if now > erasure.times["head_moved"] + terms.purge_seconds:
            return []
        roster = roster_of(self._books.history, erasure.opened.study)
        return [m for m in members_of(roster) if m not in erasure.purges]

    async def receipt(self, node: Surroundings, who: Digest | str) -> tuple[dict[str, Any], Digest, Digest | None]:
        """The certificate with the patient's annex, its erasure, and whose consent that is: for `delivered`.

        Asked for again, it is made again, as long as nobody said that it arrived.

        Args:
            who: an erasure, a consent, or a patient. Once the link is destroyed only the erasure finds it, without
                annex (None).

        Raises:
            NotFound: no such erasure, or its certificate is not ready.
        """
        batch, consent = await node.core(self.find, who)
        if batch not in self._books.history.erasures:
            raise NotFound(f"erasure {batch.hex()[:12]} has no certificate yet: it waits for the chain")
        if never_closes(self._books.history, self._books.erasure(batch)):
            raise NotFound(
                f"erasure {batch.hex()[:12]} has no certificate: the hospital was removed and never said that its copy "
                "is gone. `koinon erase status` and `koinon audit erasure` show what the other members did"
            )
        waiting = self.waits_for(batch, node.now)
        if waiting is None:
            state = state_of(self._books.erasure(batch), self._books.history)
            raise NotFound(f"erasure {batch.hex()[:12]} has no certificate yet: it is {state.value}")
        if waiting:
            raise NotFound(f"erasure {batch.hex()[:12]}: the certificate waits for the attestations of {waiting}")
        kept: dict[str, Any] | None = await node.core(self._kept_certificate, batch)
        if consent is None:
            if kept is None:
                raise NotFound(f"erasure {batch.hex()[:12]} has no certificate in this home")
            return kept, batch, None
        await self._gather(node, batch)
        return await node.core(self._certify, batch, consent, node.now), batch, consent

    async def delivered(self, node: Surroundings, batch: Digest, consent: Digest) -> None:
        """The patient's annex is in safe hands: it cannot be made again once the link is destroyed, which is now.

        The link goes, and the batch is closed, when all of the batch have theirs. Said again, nothing changes.

        Raises:
            NotFound: no such erasure, or its certificate was never made.
        """
        await node.core(self._note_delivered, batch, consent)
        if await node.core(self.is_delivered, batch, self._books.erasure(batch), node.now):
            try:
                await self.close(node, batch)
            except (NodeError, OSError) as error:
                log.info("later", erasure=batch.hex()[:8], act=Act.CLOSE.value, error=str(error)[:300])

    def _note_delivered(self, batch: Digest, consent: Digest) -> None:
        if batch not in self._books.history.erasures or self._kept_certificate(batch) is None:
            raise NotFound(f"no certificate of erasure {batch.hex()[:12]} was made here")
        if self._books.is_linked(consent):
            known = sorted({*self._delivered(batch), consent.hex()})
            self._books.store.set_meta(f"delivered {batch.hex()}", json.dumps(known))

    def find(self, who: Digest | str) -> tuple[Digest, Digest | None]:
        """(batch, the consent to deliver or None once it cannot be told any more)."""
        if isinstance(who, Digest) and who in self._books.history.erasures:
            consents = self._books.consents(who) if self._books.participant.vault is not None else ()
            waiting = [c for c in consents if self._books.is_linked(c)]
            return who, next((c for c in waiting if c.hex() not in self._delivered(who)), None)
        found = [(self._requests.batch_of(one.consent_id), one.consent_id) for one in self._books.vault.find(who)]
        mine = [(batch, consent) for batch, consent in found if batch is not None]
        batches = list(dict.fromkeys(batch for batch, _ in mine))
        if not mine:
            raise NotFound("no erasure was asked for here")
        if len(batches) > 1:
            raise InputError(f"{len(batches)} erasures; name one of {', '.join(one.hex()[:12] for one in batches)}")
        delivered = self._delivered(batches[0])  # a patient's consents of one study: a paper each
        return next((one for one in mine if one[1].hex() not in delivered), mine[0])

    def _kept_certificate(self, batch: Digest) -> dict[str, Any] | None:
        text = self._books.store.meta(f"certificate {batch.hex()}")
        return None if not text else dict(json.loads(text))

    async def _gather(self, node: Surroundings, batch: Digest) -> None:
        """Ask peers once more for what the certificate needs: statements that reached only the chain."""
        plan = self._books.erasure(batch).plan
        assert plan is not None
        await node.core(partial(self._books.drop_votes_against, terms_of(plan), batch, ours=False))
        for subject in await node.core(self._evidence_subjects, batch):
            await node.pull(subject)

    def _evidence_subjects(self, batch: Digest) -> list[Digest]:
        erasure = self._books.erasure(batch)
        head = certificate.head_round(self._books.history, erasure)
        since = self._rounds_since(erasure, self._books.consents(batch))
        return [batch, *dict.fromkeys(one.opened.round_id for one in [*([head] if head else []), *since])]

    def _rounds_since(self, erasure: ErasureHistory, consents: Iterable[Digest]) -> list[RoundHistory]:
        """Agreed rounds of the present line that were opened with these consents withdrawn."""
        known = [self._books.history.withdrawals[one][1] for one in consents if one in self._books.history.withdrawals]
        rounds = proof.agreed_rounds(self._books.history, erasure.opened.study, 0)
        return [one for one in rounds if known and one.position > max(known)]

    def _certify(self, batch: Digest, consent: Digest, now: int) -> dict[str, Any]:
        erasure, history = self._books.erasure(batch), self._books.history
        annex = self._annex(batch, consent)
        document = certificate.make(
            self._books.desk.network,
            history,
            self._books.participant,
            erasure,
            annex,
            issued_at=now,
            first_height=excluded_from(history, erasure.opened.study, self._books.consents(batch)),
            study_name=self._books.participant.study(erasure.opened.study).study.name,
            sign=self._books.signed,
        )
        bare = {key: value for key, value in document.items() if key != "annex"}
        self._books.store.set_meta(f"certificate {batch.hex()}", json.dumps(bare))
        return document

    def _annex(self, batch: Digest, consent: Digest) -> dict[str, Any]:
        """What only the patient gets: the opening, how the request is in the batch, first use, absence since."""
        erasure, one, opening = self._books.erasure(batch), self._books.vault.annex(consent), self._books.opening(batch)
        assert opening is not None
        study, hospital = erasure.opened.study, erasure.opened.controller
        salt = next(salt for known, salt in opening.requests if known == consent)
        leaf = proof.Opening(consent, one.holder, one.holder_salt, one.doc_commit, one.leaf_key)
        kept = json.loads(self._books.store.meta(f"first-use {batch.hex()}") or "{}").get(one.leaf_key.hex())
        network, history, node = self._books.desk.network, self._books.history, self._books.participant
        since = []
        for found in self._rounds_since(erasure, (consent,)):
            try:
                since.append(proof.round_entry(history, node, found, hospital, one.leaf_key))
            except NotFound as error:
                log.info("no proof", height=found.opened.height, error=error.message)

        def document(entries: list[dict[str, Any]]) -> dict[str, Any] | None:
            if not entries:
                return None
            return proof.assemble(network, history, node, study=study, hospital=hospital, opening=leaf, entries=entries)

        return certificate.make_annex(
            one,
            salt,
            [request_id(other_salt, other) for other, other_salt in opening.requests],
            document([kept] if kept and kept["finding"] == proof.PRESENT else []),
            document(since),
        )

    async def close(self, node: Surroundings, batch: Digest) -> None:
        """The certificate is kept, the link is destroyed, and one statement says both and that the batch is closed."""
        if await node.core(self._kept_certificate, batch) is None:
            for consent in [c for c in await node.core(self._books.consents, batch) if self._books.is_linked(c)][:1]:
                await self._gather(node, batch)
                try:
                    await node.core(self._certify, batch, consent, node.now)  # nobody came for it: kept without annex
                except NotFound as error:  # one that does not hold is none, and the link goes all the same
                    log.warning("no certificate", erasure=batch.hex()[:8], why=error.message)
        kept = await node.core(self._kept_certificate, batch)
        await node.core(self._destroy_link_here, batch)
        evidence = {
            DELIVERED: ZERO if kept is None else certificate.digest_of(kept),
            LINK_DESTROYED: keccak256(b"koinon/link-destroyed/1" + batch),
            CLOSED: keccak256(b"koinon/closed/1" + batch),
        }
        await self._books.state_steps(node, batch, evidence)

    def _destroy_link_here(self, batch: Digest) -> None:
        erasure, consents = self._books.erasure(batch), self._books.consents(batch)
        linked = [one for one in consents if self._books.is_linked(one)]
        for consent in linked:
            uses, whole = self._archive.uses_of(batch, erasure, consent)
            self._archive.keep(erasure, consent, uses, ground="" if whole else SETS_LOST)
        self._books.vault.destroy_link(*linked)
        self._requests.note_asked((), gone=consents)
        for name in ("first-use", "delivered"):
            self._books.store.set_meta(f"{name} {batch.hex()}", "")
        for consent in consents:
            self._books.store.forget_notices(consent, "ErasureNotice")
        self._books.store.checkpoint()

    async def forget(self, node: Surroundings, batch: Digest) -> None:
        """Forget which consents a batch that is over was about."""
        await node.core(self._forget_here, batch)

    def _forget_here(self, batch: Digest) -> None:
        """Nobody needs to know any more which consents a finished batch was about."""
        for consent in self._books.consents(batch):
            self._books.store.forget_notices(consent, "ErasureNotice")
        self._books.store.forget_notices(batch, "OpeningNotice")
        self._books.store.checkpoint()
