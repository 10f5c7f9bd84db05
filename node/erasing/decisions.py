"""What the patient's hospital decides of a batch: refuse, extend, or authorise and exclude.

What may live here: its decisions, each in ARCHIVE before it is on the chain, what the patient is told of them, and the
destroying of the imported copy, with which a batch is excluded. What this file does not know: the other members.
"""

from __future__ import annotations

from typing import Final

from crypto.digest import Digest
from crypto.statements import Authorise, Extend, OpenErasure, Refuse, Tombstone, struct_hash
from node.erasing.archive import Archive, day
from node.erasing.books import Books, Surroundings
from node.erasing.sets import Sets
from node.erasure import COPY_DELETED, EXCLUDED, GROUNDS, LONGEST_EXTENSION_S, OVER, State, exclusion_evidence, state_of
from node.errors import InputError, Refused
from node.history import ErasureHistory
from node.messages import ERASED, TombstoneNotice
from node.records import ErasureAuthorisation, ErasureExtension, ErasureRefusal, Steps

MAX_REVIEW_S: Final = 14 * 86_400  # of the month that the law gives; the due date does not move


def refusal_notice(hospital: str, erasure: Digest, ground: int, authority: str) -> str:
    """What a patient is told when an erasure is refused (Art. 12(4) GDPR); it names no patient."""
    return (
        f"{hospital} has refused your request for erasure (reference {erasure.hex()}).\n\n"
        f"Ground: {GROUNDS[ground]}.\n\n"
        "Your consent stays withdrawn: your data are in no round of training that was opened since, and will be in "
        "none.\n\n"
        f"You may lodge a complaint with the supervisory authority: {authority}\n"
        "You may also seek a judicial remedy before a court (Art. 79 GDPR).\n"
    )


def extension_notice(hospital: str, erasure: Digest, due_at: int, reason: str) -> str:
    """What a patient is told when the answer is extended (Art. 12(3) GDPR); it names no patient."""
    return (
        f"{hospital} extends the time to complete your request for erasure (reference {erasure.hex()}).\n\n"
        f"It is due on {day(due_at)} at the latest.\n"
        f"Reason: {reason}.\n\n"
        "Your consent stays withdrawn: your data are in no round of training that was opened since, and will be in "
        "none.\n"
    )


class Decisions:
    """The hospital's own decisions."""

    def __init__(self, books: Books, sets: Sets, archive: Archive) -> None:
        self._books, self._sets, self._archive = books, sets, archive

    async def refuse(self, node: Surroundings, erasure: Digest, ground: int, authority: str) -> str:
        """Refuse a batch of ours on a legal ground (`erasure.GROUNDS`); the consents stay withdrawn.

        The decision is in ARCHIVE before it is on the chain. Returns the notice for the patient (Art. 12(4) GDPR),
        which names `authority`, where they may complain.
        """
        found = self.refusable(erasure, ground, authority)
        await node.core(self._archive_refusal, erasure, found, ground, authority)
        statement = Refuse(erasure, self._books.member, ground)
        await node.send(ErasureRefusal(found.opening, self._books.member, ground, self._books.signed(statement)))
        return refusal_notice(self._books.desk.hospital, erasure, ground, authority)

    def refusable(self, erasure: Digest, ground: int, authority: str) -> ErasureHistory:
        """A batch that we may refuse now on this ground.

        Raises:
            InputError: no ground of the law, or no authority.
            NotFound: no such erasure. Refused: not ours, or too late.
        """
        if not authority.strip() or len(authority) > 400 or not authority.isprintable():
            raise InputError("the complaint authority: one line of at most 400 characters, which the notice will name")
        if ground not in GROUNDS:
            raise InputError(f"ground {ground} is none of {', '.join(map(str, GROUNDS))} (Art. 17(3) GDPR)")
        found = self._books.erasure(erasure)
        if found.opened.controller != self._books.member:
            raise Refused(f"erasure {erasure.hex()[:12]} is member {found.opened.controller}'s to decide")
        state = state_of(found, self._books.history)
        if state not in (State.REQUESTED, State.AUTHORISED):
            raise Refused(f"erasure {erasure.hex()[:12]} is {state.value}: it can be refused until it is excluded")
        return found

    def _archive_refusal(self, batch: Digest, erasure: ErasureHistory, ground: int, authority: str) -> None:
        text = f"{GROUNDS[ground]}; complaint authority named: {authority}"
        for consent in self._books.consents(batch):
            if self._books.is_linked(consent):
                self._archive.keep(erasure, consent, self._sets.uses(batch), decision="refused", ground=text)

    async def extend(self, node: Surroundings, erasure: Digest, days: int, reason: str) -> tuple[int, str]:
        """Extend the due date of a batch of ours by so many days, once, until it is confirmed (Art. 12(3) GDPR).

        The reason is in ARCHIVE before the date is on the chain, which never learns it. Returns the new date and the
        notice for the patient.
        """
        if not reason.strip() or len(reason) > 400 or not reason.isprintable():
            raise InputError("the reason: one line of at most 400 characters, which the notice will name")
        if not 1 <= days * 86_400 <= LONGEST_EXTENSION_S:
            raise InputError(f"{days} days: an erasure is extended by 1 to {LONGEST_EXTENSION_S // 86_400} days")
        found = self._books.erasure(erasure)
        if found.opened.controller != self._books.member:
            raise Refused(f"erasure {erasure.hex()[:12]} is member {found.opened.controller}'s to decide")
        state = state_of(found, self._books.history)
        if state in OVER:
            raise Refused(f"erasure {erasure.hex()[:12]} is {state.value}: there is nothing to extend")
        if found.confirmed is not None:  # the contract takes it up to the close; the clock stopped here (`is_overdue`)
            raise Refused(
                f"erasure {erasure.hex()[:12]} is {state.value}: the members have confirmed it, which ends its time "
                "limit, and there is nothing to extend"
            )
        if found.extended is not None:
            raise Refused(f"erasure {erasure.hex()[:12]} was extended before, to {day(found.extended.due_at)}")
        if node.now > found.opened.due_at:
            raise Refused(f"erasure {erasure.hex()[:12]} was due on {day(found.opened.due_at)}: it is too late")
        due_at = found.opened.due_at + days * 86_400
        await node.core(self._archive_extension, erasure, found, due_at, reason)
        signature = self._books.signed(Extend(erasure, self._books.member, due_at))
        await node.send(ErasureExtension(found.opening, self._books.member, due_at, signature))
        return due_at, extension_notice(self._books.desk.hospital, erasure, due_at, reason)

    def _archive_extension(self, batch: Digest, erasure: ErasureHistory, due_at: int, reason: str) -> None:
        for consent in self._books.consents(batch):
            if self._books.is_linked(consent):
                text = f"to {day(due_at)}: {reason}"
                self._archive.keep(erasure, consent, self._sets.uses(batch), decision="extended", extension=text)

    async def authorise(self, node: Surroundings, batch: Digest) -> None:
        """Authorise a batch of ours, once a refusal is not considered any more."""
        if self._is_considered(batch, node.now):
            return
        statement = Authorise(batch, self._books.member)
        opening = self._books.erasure(batch).opening
        await node.send(ErasureAuthorisation(opening, statement.member, self._books.signed(statement)))

    def _is_considered(self, batch: Digest, now: int) -> bool:
        """Whether the hospital still considers a refusal, which the contract takes until the exclusion is stated.

        The use has stopped by then: the withdrawal is on the chain, and no set holds the consent.
        """
        return now < self._books.erasure(batch).opened.opened_at + min(self._books.desk.review_s, MAX_REVIEW_S)

    async def exclude(self, node: Surroundings, batch: Digest) -> None:
        """Our imported copy goes, then the worker's memory of it, then we say that it is excluded and gone."""
        if self._is_considered(batch, node.now):
            return
        taken = await self._excluded(node, batch, self._books.erasure(batch).opening)
        if taken:
            await self._books.state_steps(node, batch, taken)

    async def first_steps(self, node: Surroundings, batch: Digest, opening: OpenErasure) -> Steps:
        """What `exclude` would state, before a batch of ours is opened: one transaction carries both.

        No step where a round that met a withdrawal is running still, or where a refusal is considered first.
        """
        taken = {} if self._books.desk.review_s else await self._excluded(node, batch, opening)
        return self._books.signed_steps(batch, taken)

    async def _excluded(self, node: Surroundings, batch: Digest, opening: OpenErasure) -> dict[int, Digest]:
        """The first two steps of a batch, the second of which this takes; none while the first is not true."""
        consents = await node.core(self._books.consents, batch)
        evidence = await node.core(exclusion_evidence, self._books.history, opening.study, consents)
        if evidence is None:
            return {}
        notice = await node.core(self._destroy_copy, batch, opening.requests_root)
        await node.trainer_forget()
        await node.offer(notice)
        return {EXCLUDED: evidence, COPY_DELETED: struct_hash(_tombstone(notice))}

    def _destroy_copy(self, batch: Digest, requests_root: Digest) -> TombstoneNotice:
        consents = [one for one in self._books.consents(batch) if self._books.is_linked(one)]
        for consent in consents:
            self._books.vault.suppress_consent(consent)
        self._books.vault.delete_copy(*consents)
        # The copy has no public name; the batch's requests stand for it.
        return self._books.say(TombstoneNotice(self._books.member, requests_root, ERASED, batch, b""))


def _tombstone(notice: TombstoneNotice) -> Tombstone:
    return Tombstone(notice.member, notice.content, notice.reason, notice.subject)
