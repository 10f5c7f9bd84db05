"""What a node does about erasures: requests in, duties out, and the certificate at the end.

What may live here: the duties behind the acts of `node/erasure.py` (exclude, delete, open, vote, purge, attest,
confirm, deliver, destroy), and the looking up of what that machine decides on. Every rule is there; here it is carried
out, in the order *persist, then speak, then do*. What this file does not know: rounds, sockets, who typed the order.

Everything is looked up anew before every step, from the chain and the node's own store, and every duty may be done
again: a crash between two lines costs a repetition. Duties that wait for peers or for the chain run in tasks of their
own, so that a dead peer never delays a look at the chain.

A hospital tells its own batches apart by what only it and the holder of a card can compute: the salt of a request that
it opens itself is drawn with the consent; that of a batch which a relay opened follows from the signature on the card.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import structlog

from crypto.blobs import UpdatePlain, decode_update
from crypto.commitments import batch_id, request_id
from crypto.digest import ZERO, Digest, content_root, keccak256
from crypto.errors import CryptoError
from crypto.merkle import requests_root
from crypto.sealing import BlobKind, open_blob
from crypto.statements import (
    Authorise,
    ErasureSteps,
    Extend,
    OpenErasure,
    Receipt,
    Refuse,
    RequestErasure,
    Statement,
    Tombstone,
    struct_hash,
)
from fl_engine.params import Ints, view_ints
from fl_engine.unlearning import Unlearner
from node import attestation, certificate, enrolment, lengths, methods, proof, shards
from node import card as cards
from node.attestation import Attestation
from node.desk import Desk
from node.erasure import (
    AGAIN_S,
    CHOICE_S,
    CLOSED,
    COPY_DELETED,
    DELIVERED,
    DELIVERY_S,
    DUE_S,
    EXCLUDED,
    FINAL,
    GROUNDS,
    JUDGING,
    LINK_DESTROYED,
    LONGEST_EXTENSION_S,
    OVER,
    PAIR,
    PURGING,
    RELAY_S,
    Act,
    Checkpoint,
    Done,
    Erasure,
    Facts,
    Failed,
    Looked,
    PlanTerms,
    State,
    checkpoint_of,
    claims,
    doomed_models,
    doomed_rounds,
    excluded_from,
    exclusion_evidence,
    has_turn,
    included_rounds,
    influenced_from,
    inventory,
    is_forgotten,
    is_overdue,
    is_removed,
    may_be_planned,
    never_closes,
    old_line_is_quiet,
    openers_of,
    out_of_use_at,
    plan_of,
    questions,
    replays,
    roster_of,
    state_of,
    terms_of,
    was_given_up,
)
from node.errors import CallReverted, InputError, LedgerError, NodeError, NotFound, Refused
from node.history import ErasureHistory, History, RoundHistory
from node.membership import bitmap_of, members_of
from node.messages import (
    ERASED,
    CommitNotice,
    ErasureNotice,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
    WithdrawalNotice,
)
from node.notices import counts, hash_of_result, statement_of
from node.participant import Participant
from node.planning import Subject, holds
from node.records import (
    Call,
    ErasureAuthorisation,
    ErasureExtension,
    ErasureOpening,
    ErasureProgress,
    ErasureRefusal,
    EvidenceAttestation,
    Planning,
    PurgeEntry,
    Purges,
    ReplayOpening,
    Sent,
    Steps,
    VerdictEntry,
    Verdicts,
)
from node.reports.consent import recipients
from node.reports.erasure import find_erasure
from node.retention import DAY_S
from node.store import Store
from node.study import Study
from node.vault import Vault
from node.wire import MAX_OPENING_REQUESTS

log = structlog.get_logger("erasing")

SETS_LOST: Final = "sets of some rounds were gone: there may have been uses that these days do not cover"
"""In the archive, of an erased consent whose uses could not all be told."""
MAX_REVIEW_S: Final = 14 * 86_400  # of the month that the law gives; the due date does not move
RETRY_S: Final = 3  # chain seconds until a duty that failed is tried again
READING_S: Final = 7 * DAY_S  # how long before its retention ends the set of a removed hospital counts as lost
LOOK_AGAIN_S: Final = 30  # chain seconds after which a clean home is searched again for what should not be there


N = TypeVar(
    "N",
    CommitNotice,
    ErasureNotice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
)
Said = TypeVar("Said", PlanNotice, PurgeNotice, TombstoneNotice, VerdictNotice)


class Surroundings(Protocol):
    """What the running node gives (`node.app.Node`): its turn on the state, the chain, the peers, tasks."""

    @property
    def now(self) -> int:
        """Chain time at the last look."""
        ...

    @property
    def history(self) -> History:
        """The chain as read."""
        ...

    async def core(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One blocking call on the node's state, in turn."""
        ...

    async def send(self, call: Call) -> Sent:
        """Carry a call to the chain."""
        ...

    async def offer(self, notice: Notice) -> int:
        """Push a notice to every peer."""
        ...

    async def offer_in(self, study: Digest, notice: Notice) -> int:
        """Push a notice to whoever has anything of a study: how many took it."""
        ...

    async def offer_to(self, member: int, notice: Notice) -> bool:
        """Push a notice to one member."""
        ...

    async def pull(self, subject: Digest) -> None:
        """Take in what members know about a subject."""
        ...

    async def fetch_set(self, notice: CommitNotice) -> None:
        """Fetch the set of a commit and its key; `NotFound` when nobody gives them."""
        ...

    async def trainer_forget(self) -> None:
        """Drop every record the training worker holds."""
        ...

    def spawn(self, function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run a task beside the node's own."""
        ...


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
        f"It is due on {_day(due_at)} at the latest.\n"
        f"Reason: {reason}.\n\n"
        "Your consent stays withdrawn: your data are in no round of training that was opened since, and will be in "
        "none.\n"
    )


@dataclass(frozen=True, slots=True)
class _Condemned:
    """What must go from this home: content roots, and content keys as (round, member, kind)."""

    contents: frozenset[Digest]
    keys: frozenset[tuple[Digest, int, int]]


class Erasing:
    """One node's erasures.

    Args:
        participant: the node's state.
        desk: withdraws for us, and knows the network and our name.
    """

    def __init__(self, participant: Participant, desk: Desk) -> None:
        self._node, self._desk = participant, desk
        self._machines: dict[Digest, Erasure] = {}
        self._clean: dict[Digest, tuple[object, int]] = {}  # batch -> (last record, time) of the last fruitless search
        self._unknown: dict[Digest, int] = {}  # batch -> when to look for its consents in the vault again
        self._reminded: dict[Digest, int] = {}  # consent -> when its hospital is told of the request again
        self._settled: dict[Digest, tuple[object, int]] = {}  # batch -> (last record, time) of a look without acts
        self._awaited: dict[Digest, int] = {}  # batch -> since when its hospital's vote for a plan is awaited
        self._asked_at: object = None  # last record when forms were last asked what the end of a consent means
        self._busy: set[object] = set()
        self._vault_forgets = False  # a copy is gone that the training worker may still have in memory

    @property
    def _store(self) -> Store:
        return self._node.store

    @property
    def _history(self) -> History:
        return self._node.history

    @property
    def _vault(self) -> Vault:
        return self._desk.vault

    def _about(self, subject: Digest, kind: type[N]) -> list[N]:
        return [n for n in self._store.notices(subject, kind.__name__) if isinstance(n, kind)]

    def _all(self, kind: type[N], *, own: bool | None = None) -> list[N]:
        return [n for n in self._store.notices_of_kind(kind.__name__, own=own) if isinstance(n, kind)]

    def forget(self) -> None:
        """The chain is read anew: machines are made again."""
        self._machines.clear()
        self._clean.clear()
        self._settled.clear()
        self._awaited.clear()

    def _signed(self, statement: Statement) -> bytes:
        return self._node.sign(statement)

    def _say(self, notice: Said) -> Said:
        """Sign and keep; what comes back is what was kept first under this notice's key."""
        statement = statement_of(notice)
        assert statement is not None
        kept = self._store.remember(replace(notice, signature=self._signed(statement)), own=True)
        assert isinstance(kept, type(notice))
        return kept

    # ----------------------------------------------------------------------------------------------------------------
    # Requests

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
        member = self._desk.member
        if not self._history.registry.active >> member & 1:
            raise Refused(
                "this hospital is no member any more and can open no erasure: hand the patient's card in at a member "
                "(koinon consent show --cards, koinon erase request --card there)"
            )
        now = node.now or int(time.time())
        notices: list[ErasureNotice] = []
        if card is not None:
            parsed = cards.parse(card)
            cards.check_network(parsed, self._desk.network)
            notices.append(cards.erasure_notice(parsed, now, member))
            withdrawals = [cards.withdrawal_notice(parsed)]
        else:
            held = await node.core(self._held, patient, consent, everyone)
            withdrawals, notices = await self._statements(node, held, now)
        await node.core(self._take_requests, withdrawals, notices, now, method)
        posted = await self._desk.post_withdrawals(node)  # type: ignore[arg-type]
        foreign = [one for one in notices if one.controller != member]
        handed = [await node.offer_to(notice.controller, notice) for notice in foreign]
        taken: set[Digest] = set()
        try:
            taken = await self._open_waiting(node)
        except LedgerError as error:
            log.warning("the batch waits for the chain; the use has stopped already", error=error.message)
            posted = False
        batches = await node.core(self._batches_of, [one.consent_id for one in notices])
        known = list(dict.fromkeys(batches.values()))
        kept = await node.core(self._kept_requests, [one.consent_id for one in notices])
        return {
            "erasure": known[0].hex() if len(known) == 1 else None,
            "erasures": [one.hex() for one in known],
            "consents": [one.consent_id.hex() for one in notices],
            "controller": notices[0].controller,
            "handed": all(handed),
            "hospital_removed": notices[0].controller in self._history.removed_at,
            "due_at": min(one.received_at for one in kept or notices) + DUE_S,
            "posted": posted and all(one in taken or one in self._history.erasures for one in known),
            "receipt": [self._receipt(one) for one in kept or notices],
        }

    def _held(self, patient: str | None, consent: Digest | None, everyone: Digest | None) -> list[Digest]:
        """The consents of this hospital that a request is about, whatever state they are in."""
        if everyone is not None:
            found = self._vault.holdings(everyone)
            if not found:
                raise NotFound(f"this hospital has no consents in study {everyone.hex()[:12]}")
        else:
            who = consent if consent is not None else patient
            if who is None:
                raise InputError("name a patient, a consent or a card")
            found = self._vault.find(who)
        return [one.consent_id for one in found]

    async def _statements(
        self, node: Surroundings, consents: Sequence[Digest], now: int
    ) -> tuple[list[WithdrawalNotice], list[ErasureNotice]]:
        """What a request for the erasure of our consents says, from their cards."""
        held = [await node.core(self._vault.card, one) for one in consents]
        requests = [cards.erasure_notice(ours, now, self._desk.member) for ours in held]
        return [cards.withdrawal_notice(ours) for ours in held], requests

    async def _ask_by_form(self, node: Surroundings) -> None:
        """Ask for the erasure of our consents that ended on a form which promises it; once each, a refusal stands.

        All that are due are one request, so that they go into one batch.
        """
        last = self._history.last
        if self._node.vault is None or last == self._asked_at:
            return
        due = await node.core(self._due_by_form)
        if due:
            now = node.now or int(time.time())
            await node.core(self._take_requests, *await self._statements(node, due, now), now, None)
            await self._open_waiting(node)
        self._asked_at = last

    def _due_by_form(self) -> list[Digest]:
        asked = set(json.loads(self._store.meta("asked") or "[]"))
        due = [one for one in enrolment.due_unlearning(self._vault, self._history) if one.hex() not in asked]
        batches = self._batches_of(due)
        return [one for one in due if one not in batches and not self._kept_requests([one])]

    def _note_asked(self, asked: Iterable[Digest], gone: Iterable[Digest] = ()) -> None:
        """Note which of our consents' erasure was asked for, until the link to the person is gone."""
        before = json.loads(self._store.meta("asked") or "[]")
        after = {*before, *(one.hex() for one in asked)} - {one.hex() for one in gone}
        if after != set(before):
            self._store.set_meta("asked", json.dumps(sorted(after)))

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
            self._take_request(withdrawal, notice, now, opened=notice.consent_id in batches)
        self._note_asked(one.consent_id for one in notices if one.controller == self._node.me)
        if method is None:
            return
        self._opening_calls()
        for batch in set(self._batches_of([one.consent_id for one in notices]).values()):
            if not self._store.meta(f"method {batch.hex()}"):
                self._store.set_meta(f"method {batch.hex()}", method)

    def _take_request(self, withdrawal: WithdrawalNotice, notice: ErasureNotice, now: int, *, opened: bool) -> None:
        """Stop the use, keep both statements. The first request counts: it started the clock.

        `opened`: whether the erasure is in a batch already.
        """
        if notice.controller == self._node.me:
            self._vault.find(notice.consent_id)  # `NotFound` for a link that is destroyed: nothing is left to erase
        self._end(notice.consent_id, now)
        if notice.consent_id not in self._history.withdrawals:
            self._store.remember(withdrawal, own=False)
        if not opened:
            self._store.remember(notice, own=True)

    def _end(self, consent: Digest, now: int) -> None:
        """Stop the use of a consent. One that was entered in error has ended and stays what it is."""
        vault = self._node.vault
        if vault is None or vault.mark_of(consent) != "entered-in-error":
            self._node.end_consent(consent, now)

    def _check_choice(self, notice: ErasureNotice, method: str) -> None:
        """`Refused` where this method cannot be chosen for a request any more, or not here. The first choice stands."""
        if notice.controller != self._node.me:
            raise Refused(f"member {notice.controller}, whose patient this is, chooses the method; ask without one")
        methods.find(method, self._spec(notice.study))
        batch = self._batch_of(notice.consent_id)
        if batch is None:
            return
        voted = [methods.name_of(one.method) for one in self._about(batch, PlanNotice) if one.member == self._node.me]
        kept = self._store.meta(f"method {batch.hex()}") or next(iter(voted), method)
        if kept != method:
            raise Refused(f"erasure {batch.hex()[:12]} has a method already: {kept}")

    def _spec(self, study: Digest) -> Study | None:
        """A study's specification, which decides the methods that may be chosen in it. None: it is not here."""
        try:
            return self._node.study(study).study
        except NotFound:
            return None

    def _kept_requests(self, consents: list[Digest]) -> list[ErasureNotice]:
        return [one for consent in consents for one in self._about(consent, ErasureNotice)]

    def _receipt(self, notice: ErasureNotice) -> dict[str, Any]:
        request = struct_hash(RequestErasure(notice.consent_id, notice.study))
        receipt = Receipt(self._desk.member, request, notice.received_at)
        return {
            "statement": request.hex(),
            "received_at": notice.received_at,
            "member": receipt.member,
            "signature": self._signed(receipt).hex(),
        }

    async def refuse(self, node: Surroundings, erasure: Digest, ground: int, authority: str) -> str:
        """Refuse a batch of ours on a legal ground (`erasure.GROUNDS`); the consents stay withdrawn.

        The decision is in ARCHIVE before it is on the chain. Returns the notice for the patient (Art. 12(4) GDPR),
        which names `authority`, where they may complain.
        """
        if not authority.strip() or len(authority) > 400 or not authority.isprintable():
            raise InputError("the complaint authority: one line of at most 400 characters, which the notice will name")
        if ground not in GROUNDS:
            raise InputError(f"ground {ground} is none of {', '.join(map(str, GROUNDS))} (Art. 17(3) GDPR)")
        found = self._erasure(erasure)
        if found.opened.controller != self._desk.member:
            raise Refused(f"erasure {erasure.hex()[:12]} is member {found.opened.controller}'s to decide")
        state = state_of(found, self._history)
        if state not in (State.REQUESTED, State.AUTHORISED):
            raise Refused(f"erasure {erasure.hex()[:12]} is {state.value}: it can be refused until it is excluded")
        await node.core(self._archive_refusal, erasure, found, ground, authority)
        statement = Refuse(erasure, self._desk.member, ground)
        await node.send(ErasureRefusal(found.opening, self._desk.member, ground, self._signed(statement)))
        return refusal_notice(self._desk.hospital, erasure, ground, authority)

    def _archive_refusal(self, batch: Digest, erasure: ErasureHistory, ground: int, authority: str) -> None:
        text = f"{GROUNDS[ground]}; complaint authority named: {authority}"
        for consent in self._consents(batch):
            if self._is_linked(consent):
                self._archive(erasure, consent, self._uses(batch), decision="refused", ground=text)

    async def extend(self, node: Surroundings, erasure: Digest, days: int, reason: str) -> tuple[int, str]:
        """Extend the due date of a batch of ours by so many days, once (Art. 12(3) GDPR).

        The reason is in ARCHIVE before the date is on the chain, which never learns it. Returns the new date and the
        notice for the patient.
        """
        if not reason.strip() or len(reason) > 400 or not reason.isprintable():
            raise InputError("the reason: one line of at most 400 characters, which the notice will name")
        if not 1 <= days * 86_400 <= LONGEST_EXTENSION_S:
            raise InputError(f"{days} days: an erasure is extended by 1 to {LONGEST_EXTENSION_S // 86_400} days")
        found = self._erasure(erasure)
        if found.opened.controller != self._desk.member:
            raise Refused(f"erasure {erasure.hex()[:12]} is member {found.opened.controller}'s to decide")
        state = state_of(found, self._history)
        if state in OVER:
            raise Refused(f"erasure {erasure.hex()[:12]} is {state.value}: there is nothing to extend")
        if found.extended is not None:
            raise Refused(f"erasure {erasure.hex()[:12]} was extended before, to {_day(found.extended.due_at)}")
        if node.now > found.opened.due_at:
            raise Refused(f"erasure {erasure.hex()[:12]} was due on {_day(found.opened.due_at)}: it is too late")
        due_at = found.opened.due_at + days * 86_400
        await node.core(self._archive_extension, erasure, found, due_at, reason)
        signature = self._signed(Extend(erasure, self._desk.member, due_at))
        await node.send(ErasureExtension(found.opening, self._desk.member, due_at, signature))
        return due_at, extension_notice(self._desk.hospital, erasure, due_at, reason)

    def _archive_extension(self, batch: Digest, erasure: ErasureHistory, due_at: int, reason: str) -> None:
        for consent in self._consents(batch):
            if self._is_linked(consent):
                text = f"to {_day(due_at)}: {reason}"
                self._archive(erasure, consent, self._uses(batch), decision="extended", extension=text)

    async def attested(self, node: Surroundings, data: bytes) -> Attestation:
        """Check what an auditor attested of a batch of ours (`koinon.attestation/1`), keep it, and put it on the chain.

        Handed in again, nothing changes.

        Raises:
            Refused: another hospital's batch, or this seat attested other evidence of this level before.
            VerificationFailed, NotFound: as `attestation.check`.
        """
        one = attestation.read(data)
        found = self._erasure(one.batch)
        if found.opened.controller != self._desk.member:
            raise Refused(f"erasure {one.batch.hex()[:12]} is member {found.opened.controller}'s: hand it in there")
        before = found.attested.get((one.level, one.seat))
        if before not in (None, one.evidence):
            raise Refused(f"the auditor in seat {one.seat} attested another report of this level before")
        await node.core(self._keep_attestation, one, found, node.now)
        if before is None:
            await node.send(EvidenceAttestation(found.opening, one.level, one.seat, one.evidence, one.signature))
        return one

    def _keep_attestation(self, one: Attestation, found: ErasureHistory, now: int) -> None:
        arithmetic = self._node.study(found.opened.study)
        attestation.check(one, self._history, self._desk.network, found, arithmetic, self._store.get, now)
        certificate.keep_attestation(self._store, one)

    def _erasure(self, batch: Digest) -> ErasureHistory:
        found = self._history.erasures.get(batch)
        if found is None:
            raise NotFound(f"no erasure {batch.hex()} on this ledger")
        return found

    # ----------------------------------------------------------------------------------------------------------------
    # Opening batches

    async def _open_waiting(self, node: Surroundings) -> set[Digest]:
        """Open one batch a study for every request of ours that waits; carry again what the chain has not taken.

        Returns the batches of these that the chain has now.
        """
        taken = set()
        for call in await node.core(self._opening_calls):
            batch = batch_id(struct_hash(call.opening))
            try:
                await node.send(call)
                taken.add(batch)
            except CallReverted as error:  # two of our tasks had the same thought, or the study is not on this chain
                log.info("opening", error=error.message)
                taken |= {batch} if error.error == "BatchKnown" else set()
        return taken

    def _opening_calls(self) -> list[ErasureOpening]:
        if self._node.me is None or self._node.vault is None:
            return []
        me, calls = self._node.me, []
        waiting: dict[Digest, list[ErasureNotice]] = {}
        ours = [one for one in self._all(ErasureNotice) if one.controller == me and self._is_linked(one.consent_id)]
        batches = self._batches_of([one.consent_id for one in ours])
        for notice in ours:
            if notice.consent_id not in batches:
                waiting.setdefault(notice.study, []).append(notice)
        for study, notices in waiting.items():
            for at in range(0, len(notices), MAX_OPENING_REQUESTS):
                self._compose(study, [one.consent_id for one in notices[at : at + MAX_OPENING_REQUESTS]])
        for opening in self._all(OpeningNotice, own=True):
            if opening.batch in self._history.erasures or not self._kept_requests([c for c, _ in opening.requests]):
                continue
            statement = self._statement_of(opening)
            if batch_id(struct_hash(statement)) == opening.batch:  # else a relay's, which it will carry again
                calls.append(ErasureOpening(statement, self._signed(statement)))
        return calls

    def _compose(self, study: Digest, consents: list[Digest]) -> None:
        """Keep the opening of a batch of ours, from which everything else about it can be computed again."""
        pairs = sorted(
            ((one, self._vault.request_salt(one)) for one in consents), key=lambda pair: request_id(pair[1], pair[0])
        )
        keys = tuple(self._vault.card(one).leaf_key for one, _ in pairs)
        draft = OpeningNotice(ZERO, self._desk.member, tuple(pairs), keys)
        statement = self._statement_of(draft, study)
        self._store.remember(replace(draft, batch=batch_id(struct_hash(statement))), own=True)

    def _statement_of(self, opening: OpeningNotice, study: Digest | None = None) -> OpenErasure:
        """The statement that opens this batch of ours: due a month after the first of its requests came."""
        requests = self._kept_requests([consent for consent, _ in opening.requests])
        if not requests:
            raise NotFound(f"the requests behind batch {opening.batch.hex()} are not kept any more")
        root = requests_root(request_id(salt, consent) for consent, salt in opening.requests)
        due = min(one.received_at for one in requests) + DUE_S
        return OpenErasure(study or requests[0].study, opening.controller, opening.controller, root, due)

    def _batch_of(self, consent: Digest) -> Digest | None:
        """The batch that a consent's erasure is in, as far as openings kept here tell."""
        return self._batches_of([consent]).get(consent)

    def _batches_of(self, consents: Sequence[Digest]) -> dict[Digest, Digest]:
        """Consent -> the batch that its erasure is in; who is in none is left out. Every opening is read once."""
        opened: dict[Digest, Digest] = {}
        for opening in self._all(OpeningNotice) if consents else ():
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
        for notice in self._about(consent, ErasureNotice):
            batch = batch_id(struct_hash(self._relayed_statement(notice)))
            if batch in self._history.erasures:
                return batch
        return None

    # ----------------------------------------------------------------------------------------------------------------
    # Relaying

    def _relayed_statement(self, notice: ErasureNotice) -> OpenErasure:
        root = requests_root([request_id(cards.relay_salt(notice.signature), notice.consent_id)])
        return OpenErasure(notice.study, notice.controller, notice.relay, root, notice.received_at + DUE_S)

    async def _relay(self, node: Surroundings) -> None:
        """See requests of other hospitals' patients through: remind the hospital, then open the batch for it."""
        for notice, call in await node.core(self._relays, node.now):
            if call is not None:
                await node.send(call)
            else:
                await node.offer_to(notice.controller, notice)

    def _relays(self, now: int) -> list[tuple[ErasureNotice, ErasureOpening | None]]:
        due: list[tuple[ErasureNotice, ErasureOpening | None]] = []
        for notice in self._all(ErasureNotice, own=True):
            if notice.controller == self._node.me:
                continue
            statement = self._relayed_statement(notice)
            batch = batch_id(struct_hash(statement))
            ours = self._history.erasures.get(batch)
            gone = notice.controller in self._history.removed_at
            if ours is not None and gone and self._opening(batch) is None:
                # It shows the others nothing, so we do; which leaves it had, its sets say.
                pair = ((notice.consent_id, cards.relay_salt(notice.signature)),)
                self._store.remember(OpeningNotice(batch, notice.controller, pair, ()), own=True)
            if not gone and any(notice.consent_id in dict(n.requests) for n in self._all(OpeningNotice)):
                self._store.forget_notices(notice.consent_id, "ErasureNotice")  # the hospital has opened it to us
            elif self._taken_up(notice, now) or (
                ours is not None and state_of(ours, self._history) is not State.REQUESTED
            ):
                continue
            elif ours is None and (gone or now >= notice.received_at + RELAY_S):
                due.append((notice, ErasureOpening(statement, self._signed(statement))))
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
        if notice.controller in self._history.removed_at:
            return self._batch_of(notice.consent_id) in self._history.erasures
        latest = notice.received_at + MAX_REVIEW_S + RELAY_S
        for batch, erasure in self._history.erasures.items():
            opened = erasure.opened
            if (opened.study, opened.controller, opened.poster) != (
                notice.study,
                notice.controller,
                notice.controller,
            ):
                continue
            opening = self._opening(batch)
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
        vault = self._node.vault
        try:
            if vault is None or notice.controller != self._node.me:
                raise NotFound("not ours")
            card = vault.card(notice.consent_id)
            if not now - DUE_S <= notice.received_at <= now + RELAY_S:
                raise NotFound("not of this time: the clock of a request starts when it was received")
        except NotFound:
            self._store.forget_notices(notice.consent_id, "ErasureNotice")
            return
        self._end(notice.consent_id, now)
        if notice.consent_id not in self._history.withdrawals:
            self._store.remember(cards.withdrawal_notice(card), own=False)

    def _identify(self, batch: Digest, erasure: ErasureHistory, now: int) -> None:
        """Find the consent of ours behind a batch that a relay opened, and keep its opening."""
        opened, vault = erasure.opened, self._node.vault
        if vault is None or opened.poster == opened.controller or now < self._unknown.get(batch, 0):
            return
        for holding in vault.holdings(opened.study):
            card = vault.card(holding.consent_id)
            salt = cards.relay_salt(card.request_erasure)
            if requests_root([request_id(salt, card.consent_id)]) == opened.requests_root:
                pair = ((card.consent_id, salt),)
                self._store.remember(OpeningNotice(batch, opened.controller, pair, (card.leaf_key,)), own=True)
                request = cards.erasure_notice(card, opened.opened_at, opened.controller)
                self._take_request(cards.withdrawal_notice(card), request, now, opened=True)
                return
        self._unknown[batch] = now + RELAY_S

    # ----------------------------------------------------------------------------------------------------------------
    # Looking

    async def work(self, node: Surroundings) -> None:
        """Called after every look at the chain: start whatever is due. Never waits for peers or the chain itself."""
        for duty in (self._ask_by_form, self._open_waiting, self._relay):
            if duty.__name__ not in self._busy:
                self._busy.add(duty.__name__)
                node.spawn(self._alone, node, duty)
        for batch in list(self._history.erasures):
            if self._is_settled(batch, node.now):
                continue
            for act in await node.core(self._look, batch, node.now):
                node.spawn(self._perform, node, batch, act)

    async def _alone(self, node: Surroundings, duty: Callable[[Surroundings], Awaitable[object]]) -> None:
        try:
            await duty(node)
        except (NodeError, CryptoError, OSError) as error:
            log.info("later", duty=duty.__name__, error=str(error)[:300])
        finally:
            self._busy.discard(duty.__name__)

    def _is_settled(self, batch: Digest, now: int) -> bool:
        """Whether a batch was over at a look, and the chain has had nothing new since; an old home has many of them."""
        settled = self._settled.get(batch)
        return settled is not None and settled[0] == self._history.last and now < settled[1] + LOOK_AGAIN_S

    def _look(self, batch: Digest, now: int) -> tuple[Act, ...]:
        erasure = self._history.erasures.get(batch)
        if erasure is None:
            return ()
        machine = self._machines.setdefault(batch, Erasure(batch))
        try:
            facts = self._facts(batch, erasure, now)
        except NotFound as error:  # what is not here yet of one erasure holds nothing else up
            log.info("later", erasure=batch.hex()[:8], error=error.message)
            return ()
        acts = machine.handle(Looked(facts), now)
        if is_forgotten(self._history, erasure) and not machine.under_way:
            self._settled[batch] = (self._history.last, now)
        return acts

    async def _perform(self, node: Surroundings, batch: Digest, act: Act) -> None:
        """Carry an act out and report how it went. Nothing that fails here may end the node."""
        event: Done | Failed = Done(act)
        try:
            await _DUTIES[act](self, node, batch)
        except (NodeError, CryptoError, OSError) as error:
            log.info("later", erasure=batch.hex()[:8], act=act.value, error=str(error)[:300])
            event = Failed(act, node.now + RETRY_S)
        machine = self._machines.get(batch)
        if machine is not None:
            await node.core(machine.handle, event, node.now)

    def _opening(self, batch: Digest) -> OpeningNotice | None:
        found = self._about(batch, OpeningNotice)
        return found[0] if found else None

    def _consents(self, batch: Digest) -> tuple[Digest, ...]:
        opening = self._opening(batch)
        return () if opening is None else tuple(consent for consent, _ in opening.requests)

    def _facts(self, batch: Digest, erasure: ErasureHistory, now: int) -> Facts:
        history, me, opened = self._history, self._node.me, erasure.opened
        terms = history.studies[opened.study].created.terms
        state, roster = state_of(erasure, history), roster_of(history, opened.study)
        controller = me == opened.controller
        if controller and state not in OVER and self._opening(batch) is None:
            self._identify(batch, erasure, now)
        opening = self._opening(batch)
        found = history.studies[opened.study]
        ready = may_be_planned(history, erasure, self._consents(batch), now)
        facts = Facts(
            state,
            me,
            roster,
            opened.controller,
            terms.f,
            opening=opening is not None,
            shows=me is not None and bool(openers_of(history, erasure) >> me & 1),
            ready=ready or erasure.plan is not None,
            unclosed=is_removed(history, erasure) and (not controller or never_closes(history, erasure)),
            took_part=me in found.joined | found.left,
        )
        if state is State.REFUSED:
            return facts
        if controller and opening is not None:
            consents = tuple(consent for consent, _ in opening.requests)
            facts = replace(
                facts,
                requests=True,
                excluded=exclusion_evidence(history, opened.study, consents) is not None,
                delivered=self._is_delivered(batch, erasure, now),
                lacking=self._lacking(batch, erasure, roster),
            )
        if facts.shows and opening is not None and not controller:
            facts = replace(facts, lacking=self._lacking(batch, erasure, roster))
        if not facts.ready:
            return facts
        uses = self._uses(batch)
        asked = questions(history, erasure)
        was_read = self._store.meta(f"uses {batch.hex()}") is not None
        answered = was_read and all(one.opened.round_id in uses for one in asked or ())
        facts = replace(facts, answered=answered, window_end=opened.opened_at + terms.erasure_window)
        if erasure.plan is None:
            plan = self._planned(batch, erasure, now) if opening is not None else None
            votes = [n for n in self._about(batch, PlanNotice) if plan is not None and terms_of(n) == plan]
            return replace(
                facts,
                has_turn=has_turn(history, erasure),
                plan=plan,
                voted=any(n.member == me for n in votes),
                votes=bitmap_of(n.member for n in votes),
            )
        checkpoint = checkpoint_of(history, erasure.plan)
        kept = self._about(batch, VerdictNotice)
        fitting = [
            n.member
            for n in kept
            if checkpoint is not None and (n.branch, n.head_model) == (checkpoint.branch, checkpoint.model)
        ]
        given = bitmap_of(erasure.verdicts)
        others = roster & ~(1 << opened.controller)
        quiet = old_line_is_quiet(history, erasure.plan)
        return replace(
            facts,
            forks=replays(erasure.plan),
            quiet=quiet,
            dirty=quiet and self._is_dirty(batch, erasure, now),
            pair=bitmap_of(m for stage, m in erasure.purges if stage == PAIR),
            rest=bitmap_of(m for stage, m in erasure.purges if stage == FINAL),
            purge_end=erasure.times["planned"] + terms.purge_seconds,
            pair_kept=self._kept_purges(batch, PAIR),
            rest_kept=self._kept_purges(batch, FINAL),
            caught_up=checkpoint is not None and (erasure.replaying or not replays(erasure.plan)),
            judged=any(n.member == me for n in kept),
            verdicts=given,
            unposted=bitmap_of(fitting) & others & ~given if state is not State.PAIR_PURGED else 0,
            unposted_purges=bitmap_of(
                one.member for stage in _lone_stages(state) for one in self._purge_entries(batch, stage)
            ),
        )

    def _kept_purges(self, batch: Digest, stage: int) -> int:
        return bitmap_of(n.member for n in self._about(batch, PurgeNotice) if n.stage == stage)

    def _lacking(self, batch: Digest, erasure: ErasureHistory, roster: int) -> int:
        """Members that sent nothing that only who has the opening can send."""
        shown = {n.member for n in self._about(batch, PlanNotice)} | {
            n.member for n in self._about(batch, VerdictNotice)
        }
        if erasure.plan is not None:
            shown = set(erasure.verdicts) | {n.member for n in self._about(batch, VerdictNotice)}
        knows = self._node.me if is_removed(self._history, erasure) else erasure.opened.controller
        return roster & ~bitmap_of({*shown, *([] if knows is None else [knows])})

    # ----------------------------------------------------------------------------------------------------------------
    # The controller's own steps

    async def _state(self, node: Surroundings, batch: Digest, evidence: dict[int, Digest]) -> None:
        """State under one signature those of these steps that are not on the chain, which are in order."""
        erasure = self._erasure(batch)
        missing = {number: found for number, found in evidence.items() if number not in erasure.steps}
        if not missing:
            return
        member, first, found = self._desk.member, min(missing), tuple(missing.values())
        signature = self._signed(ErasureSteps(batch, member, first, found))
        await node.send(ErasureProgress(erasure.opening, member, Steps(first, found, signature)))

    async def _authorise(self, node: Surroundings, batch: Digest) -> None:
        if self._is_considered(batch, node.now):
            return
        statement = Authorise(batch, self._desk.member)
        opening = self._erasure(batch).opening
        await node.send(ErasureAuthorisation(opening, statement.member, self._signed(statement)))

    def _is_considered(self, batch: Digest, now: int) -> bool:
        """Whether the hospital still considers a refusal, which the contract takes until the exclusion is stated.

        The use has stopped by then: the withdrawal is on the chain, and no set holds the consent.
        """
        return now < self._erasure(batch).opened.opened_at + min(self._desk.review_s, MAX_REVIEW_S)

    async def _exclude(self, node: Surroundings, batch: Digest) -> None:
        """Our imported copy goes, then the worker's memory of it, then we say that it is excluded and gone."""
        if self._is_considered(batch, node.now):
            return
        study = self._erasure(batch).opened.study
        evidence = await node.core(lambda: exclusion_evidence(self._history, study, self._consents(batch)))
        if evidence is None:
            return
        notice = await node.core(self._destroy_copy, batch)
        if self._vault_forgets:
            await node.trainer_forget()
            self._vault_forgets = False
        await node.offer(notice)
        await self._state(node, batch, {EXCLUDED: evidence, COPY_DELETED: struct_hash(_tombstone(notice))})

    def _destroy_copy(self, batch: Digest) -> TombstoneNotice:
        consents = [one for one in self._consents(batch) if self._is_linked(one)]
        for consent in consents:
            self._vault.suppress_consent(consent)
        self._vault_forgets |= self._vault.delete_copy(*consents) > 0
        # The copy has no public name; the batch's requests stand for it.
        content = self._erasure(batch).opened.requests_root
        stone = self._say(TombstoneNotice(self._desk.member, content, ERASED, batch, b""))
        return stone

    def _is_linked(self, consent: Digest) -> bool:
        try:
            self._vault.find(consent)
        except NotFound:
            return False
        return True

    async def _share_opening(self, node: Surroundings, batch: Digest) -> None:
        opening = await node.core(self._opening, batch)
        if opening is None:
            return
        if opening.controller != self._node.me:
            opening = replace(opening, leaf_keys=())  # taken from the hospital alone
        mark = ("opening", batch)
        if mark not in self._busy:
            self._busy.add(mark)
            await node.offer_in(self._erasure(batch).opened.study, opening)
            return
        erasure = self._erasure(batch)
        roster = roster_of(self._history, erasure.opened.study)
        for member in members_of(await node.core(self._lacking, batch, erasure, roster)):
            await node.offer_to(member, opening)

    # ----------------------------------------------------------------------------------------------------------------
    # First use and plan

    def _uses(self, batch: Digest) -> dict[Digest, bool]:
        """What is known of the hospital's sets: round id -> whether an erased consent is in it."""
        text = self._store.meta(f"uses {batch.hex()}")
        uses = {} if not text else {Digest.from_hex(key): bool(used) for key, used in json.loads(text).items()}
        return uses | dict.fromkeys(self._lost(batch), True)

    def _lost(self, batch: Digest) -> list[Digest]:
        """Rounds of a removed hospital that count as used, as its sets may be gone with their retention.

        Where it took its steps before it was removed, it had shown them, and they were read then.
        By times of the chain and the specification alone, so that members which still have a set plan as the others.
        """
        erasure = self._history.erasures.get(batch)
        at = None if erasure is None else out_of_use_at(self._history, erasure)
        if erasure is None or at is None or "copy_deleted" in erasure.times:
            return []
        study = self._spec(erasure.opened.study)
        if study is None:
            return []
        kept_from = at + READING_S - study["policy", "set_retention_days"] * DAY_S
        return [
            one.opened.round_id for one in questions(self._history, erasure) or [] if one.opened.opened_at <= kept_from
        ]

    def _standing(self, one: RoundHistory, member: int) -> CommitNotice | None:
        return proof.standing(self._node, one, member)

    async def _read_sets(self, node: Surroundings, batch: Digest) -> None:
        """Look into every set of the hospital for the erased consents; fetch sets that count and are not here."""
        erasure = self._erasure(batch)
        await node.core(self._read_here, batch)
        asked = await node.core(questions, self._history, erasure)
        uses = await node.core(self._uses, batch)
        missing = [one for one in asked or [] if one.opened.round_id not in uses]
        for one in missing:
            await self._fetch_set(node, one, erasure.opened.controller)
        if missing:
            await node.core(self._read_here, batch)
            uses = await node.core(self._uses, batch)
            lacking = [one.opened.height for one in missing if one.opened.round_id not in uses]
            if lacking:
                raise NotFound(f"the sets of rounds {lacking} of member {erasure.opened.controller} are nowhere")

    async def _fetch_set(self, node: Surroundings, one: RoundHistory, member: int) -> None:
        notice = await node.core(self._standing, one, member)
        if notice is None:
            await node.pull(one.opened.round_id)
            notice = await node.core(self._standing, one, member)
        if notice is not None:
            try:
                await node.fetch_set(notice)
            except NodeError as error:
                log.info("set not here", height=one.opened.height, error=error.message[:200])

    def _read_here(self, batch: Digest) -> None:
        erasure, opening = self._erasure(batch), self._opening(batch)
        if opening is None:
            return
        uses, until = self._uses(batch), out_of_use_at(self._history, erasure)
        assert until is not None
        for one in self._history.rounds.values():
            opened = one.opened
            if (
                opened.study != erasure.opened.study
                or opened.opened_at > until
                or opened.round_id in uses
                or erasure.opened.controller not in one.commits
            ):
                continue
            found = self._holds_erased(one, erasure.opened.controller, opening)
            if found is not None:
                uses[opened.round_id] = found
        if erasure.opened.controller == self._node.me:
            self._keep_first_uses(batch, self._first_uses(batch, opening, uses))
        text = json.dumps({key.hex(): used for key, used in uses.items()}, sort_keys=True)
        self._store.set_meta(f"uses {batch.hex()}", text)
        self._clean.pop(batch, None)  # what is condemned follows from it

    def _holds_erased(self, one: RoundHistory, member: int, opening: OpeningNotice) -> bool | None:
        """Whether a member's set of a round holds a consent of the batch; None where the set cannot be opened here.

        By the consents' ids, which the requests root binds and every entry of a set opens to; not by leaf keys, which
        somebody may have made up.
        """
        return holds(self._node, one, member, frozenset(consent for consent, _ in opening.requests), frozenset())

    def _keep_first_uses(self, batch: Digest, first: dict[Digest, RoundHistory]) -> None:
        """Proofs of each first use for the patients' annexes, made before the sets go. Destroyed with the link."""
        hospital = self._erasure(batch).opened.controller
        if not first:
            return
        try:
            entries = {
                key.hex(): proof.round_entry(self._history, self._node, one, hospital, key)
                for key, one in first.items()
            }
        except NotFound as error:
            log.info("first use", error=error.message)  # votes that are not here yet; asked for before the purge
            return
        self._store.set_meta(f"first-use {batch.hex()}", json.dumps(entries))

    def _first_uses(
        self, batch: Digest, opening: OpeningNotice, uses: dict[Digest, bool]
    ) -> dict[Digest, RoundHistory]:
        """Leaf of a batch of ours -> the first agreed round whose set held it; nothing once the proofs are kept."""
        if self._store.meta(f"first-use {batch.hex()}"):
            return {}
        erasure, left, found = self._erasure(batch), set(opening.leaf_keys), dict[Digest, RoundHistory]()
        for one in questions(self._history, erasure) or []:
            if not left or not uses.get(one.opened.round_id):
                continue
            used = left & (proof.leaves_of(self._node, one, erasure.opened.controller) or set())
            found |= dict.fromkeys(used, one)
            left -= used
        return found

    def _chosen(self, batch: Digest, erasure: ErasureHistory, study: Study) -> Unlearner | None:
        """The method that the controlling hospital chose for a batch: by its vote, which is its signed choice.

        None where that is not here, or names what members cannot carry out in this study.
        """
        if erasure.opened.controller == self._node.me:
            return methods.find(self._store.meta(f"method {batch.hex()}") or methods.default_of(study).name, study)
        for vote in self._about(batch, PlanNotice) if not is_removed(self._history, erasure) else ():
            found = methods.numbered(vote.method)
            if vote.member != erasure.opened.controller or found is None:
                continue
            if methods.barred(found, study) is None:
                return found
        return None

    def _planned(self, batch: Digest, erasure: ErasureHistory, now: int) -> PlanTerms | None:
        """The plan that follows; None while it does not, or while the choice of its method is awaited.

        It is awaited for `CHOICE_S` from when the hospital can vote, and not where it has no vote or nothing replays.
        """
        opened = erasure.opened
        study = self._spec(opened.study)
        if study is None:
            return None  # which plan an honest member signs depends on the specification
        method = self._chosen(batch, erasure, study)
        plan = plan_of(self._history, erasure, self._uses(batch), method or methods.default_of(study))
        if plan is None or method is not None or plan.method == methods.NOTHING:
            return plan
        if not roster_of(self._history, opened.study) >> opened.controller & 1:
            return plan
        if not has_turn(self._history, erasure):
            self._awaited.pop(batch, None)
            return None
        terms = self._history.studies[opened.study].created.terms
        since = max(self._awaited.setdefault(batch, now), opened.opened_at + terms.erasure_window)
        return plan if now > since + CHOICE_S else None

    def _refused_choice(self, batch: Digest, erasure: ErasureHistory) -> str | None:
        """Why the method that the controlling hospital voted for is not followed; None where it is."""
        for vote in self._about(batch, PlanNotice):
            if vote.member != erasure.opened.controller or vote.method == methods.NOTHING:
                continue
            found = methods.numbered(vote.method)
            if found is None:
                return f"the hospital chose a method of number {vote.method}, which is not known here"
            if (why := methods.barred(found, self._spec(erasure.opened.study))) is not None:
                return f"the hospital chose {found.name}, which no member carries out: it {why}"
        return None

    async def _vote_plan(self, node: Surroundings, batch: Digest) -> None:
        notice = await node.core(self._sign_plan, batch, node.now)
        if notice is not None:
            await node.offer(notice)

    def _sign_plan(self, batch: Digest, now: int) -> PlanNotice | None:
        """Our vote for the plan that follows now. One for a line that does not train any more is replaced."""
        terms = self._planned(batch, self._erasure(batch), now)
        if terms is None:
            return None
        kept = self._about(batch, PlanNotice)
        if any(terms_of(n) != terms for n in kept):
            self._store.forget_notices(batch, "PlanNotice")
            for n in kept:
                if terms_of(n) == terms:
                    self._store.remember(n, own=n.member == self._node.me)
        draft = PlanNotice(
            batch,
            self._desk.member,
            terms.parent_branch,
            terms.base_height,
            terms.base_model,
            terms.branch_seed,
            terms.target_height,
            terms.method,
            terms.rounds,
            b"",
        )
        return self._say(draft)

    async def _gather_plans(self, node: Surroundings, batch: Digest) -> None:
        notice = await node.core(self._sign_plan, batch, node.now)
        if notice is not None:
            await node.offer(notice)
        await node.pull(batch)

    async def _post_plan(self, node: Surroundings, batch: Digest) -> None:
        call = await node.core(self._planning, batch, node.now)
        if call is not None:
            await node.send(call)

    def _planning(self, batch: Digest, now: int) -> Planning | None:
        erasure = self._erasure(batch)
        terms = self._planned(batch, erasure, now)
        roster = roster_of(self._history, erasure.opened.study)
        votes = [
            (n.member, n.signature)
            for n in self._about(batch, PlanNotice)
            if terms_of(n) == terms and roster >> n.member & 1 and counts(n, self._history, self._node.domains)
        ]
        if terms is None:
            return None
        return Planning(
            erasure.opening,
            terms.parent_branch,
            terms.base_height,
            terms.base_model,
            terms.branch_seed,
            terms.target_height,
            terms.method,
            terms.rounds,
            tuple(sorted(votes)),
            self._history.base_proof(erasure.opened.study, terms.parent_branch, terms.base_height),
        )

    # ----------------------------------------------------------------------------------------------------------------
    # Purge

    def _condemned(self, batch: Digest, erasure: ErasureHistory, now: int) -> _Condemned:
        """Everything of this erasure that must not be in this home, whether it is or not."""
        plan = erasure.plan
        contents: set[Digest] = set()
        keys: set[tuple[Digest, int, int]] = set()
        if plan is None:
            return _Condemned(frozenset(), frozenset())
        controller = erasure.opened.controller
        rounds = doomed_rounds(self._history, plan)
        doomed = {one.opened.round_id for one in rounds}
        candidates = doomed_models(self._history, plan)
        for one in rounds:
            for notice in self._about(one.opened.round_id, CommitNotice):
                contents.add(notice.update.cipher_root)
                keys.add((one.opened.round_id, notice.member, int(BlobKind.UPDATE)))
            for vote in self._about(one.opened.round_id, VoteNotice):
                candidates.add(vote.result.model_root)  # a set that was voted on and not agreed has a model too
        if plan.study in self._node.studies:
            contents |= self._stray_models(self._node.studies[plan.study].model_length())
        uses, terms = self._uses(batch), self._history.studies[plan.study].created.terms
        waited = now > erasure.times["planned"] + terms.purge_seconds
        until = out_of_use_at(self._history, erasure)
        assert until is not None
        for round_id, one in self._history.rounds.items():
            if one.opened.study != plan.study:
                continue
            # Of rounds that opened while it could be used: what never came to the chain counts for nothing, unread.
            early = one.over and one.opened.opened_at <= until
            never_posted = early and controller not in one.commits
            # What nobody could look into goes where no model that stays was made of it.
            made = one.made_model and one.final is not None and one.final.result.included >> controller & 1
            unread = waited and round_id not in uses and (round_id in doomed or (early and not made))
            used = uses.get(round_id) or (unread and controller in one.commits)
            if used:  # a sum of it that was voted on and not agreed has a model too
                candidates |= {vote.result.model_root for vote in self._about(round_id, VoteNotice)}
            for notice in self._about(round_id, CommitNotice) if used or never_posted else ():
                if notice.member == controller:
                    contents |= {notice.update.cipher_root, notice.set.cipher_root}
                    keys |= {(round_id, controller, int(kind)) for kind in BlobKind}
        contents |= candidates - self._clean_models(erasure.opened.study, doomed)
        return _Condemned(frozenset(contents), frozenset(keys))

    def _clean_models(self, study: Digest, doomed: set[Digest]) -> set[Digest]:
        """Model roots that stay: the study's first one, and what no doomed round made, in any study.

        What another study names as its first model is no reason: honest members join none that begins at a made one.
        """
        clean = {self._history.studies[study].created.terms.initial_model}
        for number, found in self._history.studies.items():
            for branch in found.branches.values():
                for round_id in branch.rounds.values():
                    final = self._history.rounds[round_id].final
                    if final is not None and (number != study or round_id not in doomed):
                        clean.add(final.result.model_root)
        return clean

    def _stray_models(self, length: int) -> set[Digest]:
        """Models of this size that no record names, nor a round that runs: sums of sets that were never agreed."""
        named = self._node.unsettled_models()
        named |= {found.created.terms.initial_model for found in self._history.studies.values()}
        named |= {one.final.result.model_root for one in self._history.rounds.values() if one.final is not None}
        return {
            root
            for root, kind, size in self._store.contents()
            if kind == "model" and size == length and root not in named
        }

    def _is_dirty(self, batch: Digest, erasure: ErasureHistory, now: int) -> bool:
        before = self._clean.get(batch)
        if before is not None and before[0] == self._history.last and now < before[1] + LOOK_AGAIN_S:
            return False
        condemned = self._condemned(batch, erasure, now)
        store = self._store
        if any(store.holds_any(root) for root in condemned.contents) or any(store.key(*key) for key in condemned.keys):
            return True
        self._clean[batch] = (self._history.last, now)
        return False

    async def _purge(self, node: Surroundings, batch: Digest) -> None:
        erasure = self._erasure(batch)
        if erasure.opened.controller == self._node.me:
            uses, opening = await node.core(self._uses, batch), await node.core(self._opening, batch)
            if opening is not None:
                first = await node.core(self._first_uses, batch, opening, uses)
                for round_id in dict.fromkeys(one.opened.round_id for one in first.values()):
                    await node.pull(round_id)
                await node.core(self._keep_first_uses, batch, first)
        if erasure.confirmed is None and erasure.closed is None:
            for number in range(lengths.wanted(erasure)):  # before they go; a turn each, for updates are opened
                await node.core(self._keep_length, erasure, number)
        await node.core(self._keep_shard, erasure)  # also after the replay: our shard may have waited for us
        condemned = await node.core(self._condemned, batch, erasure, node.now)
        if erasure.opened.controller == self._node.me:
            held = await node.core(self._vault.leaf_keys)
            for notice in await node.core(self._own_condemned, condemned):  # a turn each, for sets are opened
                await node.core(self._note_set, notice, held)
        for stone in await node.core(self._purge_here, batch, condemned, node.now):
            await node.offer(stone)

    def _own_condemned(self, condemned: _Condemned) -> list[CommitNotice]:
        """What stands on the chain of ours whose set is still here and has to go."""
        rounds, me = self._history.rounds.values(), self._desk.member
        notices = [proof.standing(self._node, one, me) for one in rounds if me in one.commits]
        return [
            one
            for one in notices
            if one is not None and one.set.cipher_root in condemned.contents and self._store.has(one.set.cipher_root)
        ]

    def _note_set(self, notice: CommitNotice, held: Set[Digest]) -> None:
        """Note whose records the set held: the others of it can still ask what was disclosed of them, and to whom.

        `held`: the leaves of the consents that are here. A set that came back with an older copy of this home has more.
        """
        try:
            entries = self._node.open_set(notice).entries
        except NodeError as error:
            log.warning("own set unreadable", round=notice.round_id.hex()[:8], error=error.message)
            return
        self._vault.note_set(notice.round_id, (key for entry in entries if (key := entry.leaf_key) in held))

    def _keep_length(self, erasure: ErasureHistory, number: int) -> None:
        study, me = erasure.opened.study, self._node.me
        if me is not None and study in self._node.studies:  # else its updates cannot be read here either, and still go
            of = self._node.study(study).shards
            lengths.keep(self._store, self._history, erasure, number, me, of, self._values)

    def _keep_shard(self, erasure: ErasureHistory) -> None:
        study, me = erasure.opened.study, self._node.me
        attested = any(n.stage == FINAL and n.member == me for n in self._about(erasure.opened.batch, PurgeNotice))
        if me is not None and not attested and study in self._node.studies:
            shards.keep(self._store, self._history, erasure, self._node.study(study), me)

    def _values(self, one: RoundHistory, member: int) -> Ints | None:
        try:
            update = self._update(one, member)
            return None if update is None else view_ints(update.values, self._node.study(one.opened.study).size)
        except (NodeError, CryptoError, OSError) as error:
            log.warning("update unreadable", round=one.opened.height, member=member, error=str(error))
            return None

    def _update(self, one: RoundHistory, member: int) -> UpdatePlain | None:
        """An update that is in a round's sum; None where it cannot be opened here any more."""
        round_id = one.opened.round_id
        notice, key = self._standing(one, member), self._store.key(round_id, member, int(BlobKind.UPDATE))
        if notice is None or key is None or not self._store.has(notice.update.cipher_root):
            return None
        data = self._store.get(notice.update.cipher_root)
        opened = open_blob(data, key, notice.update, round_id, member, BlobKind.UPDATE)
        return decode_update(opened, self._node.study(one.opened.study).size)

    def _purge_here(self, batch: Digest, condemned: _Condemned, now: int) -> list[TombstoneNotice]:
        """Delete what is condemned; each content's tombstone is kept before the content goes."""
        store, stones = self._store, []
        for round_id, member, kind in sorted(condemned.keys):
            store.forget_keys(round_id, member, kind)
        for root in sorted(condemned.contents):
            if store.holds_any(root):
                if self._node.me is not None and store.has(root):
                    stones.append(self._say(TombstoneNotice(self._node.me, root, ERASED, batch, b"")))
                store.remove(root)
        store.log(float(now), "purged", {"erasure": batch.hex(), "contents": len(stones), "keys": len(condemned.keys)})
        return stones

    async def _attest_pair(self, node: Surroundings, batch: Digest) -> None:
        await self._attest(node, batch, PAIR)

    async def _attest_rest(self, node: Surroundings, batch: Digest) -> None:
        await self._attest(node, batch, FINAL)

    async def _attest(self, node: Surroundings, batch: Digest, stage: int) -> None:
        """State under signature that it is gone. Whoever has its turn carries all of that to the chain."""
        await node.offer(await node.core(self._sign_purge, batch, stage))

    async def _post_purges(self, node: Surroundings, batch: Digest) -> None:
        """Carry the attestations that came too late for the opening of the replay or for the verdicts."""
        erasure = self._erasure(batch)
        for stage in _lone_stages(state_of(erasure, self._history)):
            entries = await node.core(self._purge_entries, batch, stage)
            if entries:
                await node.send(Purges(erasure.opening, stage, entries))

    def _sign_purge(self, batch: Digest, stage: int) -> PurgeNotice:
        if stage == FINAL:
            lengths.forget(self._store, batch)  # the replay has caught up: no round of it is trained any more
            erasure = self._erasure(batch)
            study = erasure.opened.study
            if study in self._node.studies:
                shards.settle(self._store, self._history, erasure, self._node.study(study), self._desk.member)
        stones = [(n.content, n.reason, n.subject) for n in self._all(TombstoneNotice, own=True) if n.subject == batch]
        return self._say(PurgeNotice(batch, self._desk.member, stage, inventory(stones), b""))

    def _purge_entries(self, batch: Digest, stage: int) -> tuple[PurgeEntry, ...]:
        erasure = self._erasure(batch)
        if erasure.plan is None or (stage == PAIR and not replays(erasure.plan)):
            return ()
        return tuple(
            PurgeEntry(n.member, n.inventory, n.signature)
            for n in self._about(batch, PurgeNotice)
            if n.stage == stage and (n.stage, n.member) not in erasure.purges
        )

    async def _open_replay(self, node: Surroundings, batch: Digest) -> None:
        entries = await node.core(self._purge_entries, batch, PAIR)
        await node.send(ReplayOpening(self._erasure(batch).opening, entries))

    # ----------------------------------------------------------------------------------------------------------------
    # Verdict

    async def _give_verdict(self, node: Surroundings, batch: Digest) -> None:
        """Look through the sets of the new line and at its sums; say what was found, once."""
        erasure = self._erasure(batch)
        plan = erasure.plan
        checkpoint = None if plan is None else checkpoint_of(self._history, plan)
        if checkpoint is None:
            return
        for one in _rounds_with(checkpoint, erasure.opened.controller):
            if await node.core(self._cannot_open, one, erasure.opened.controller):
                await self._fetch_set(node, one, erasure.opened.controller)
        notice = await node.core(self._judge, batch, checkpoint)
        await node.offer(notice)

    def _cannot_open(self, one: RoundHistory, member: int) -> bool:
        notice = self._standing(one, member)
        if notice is None:
            return True
        try:
            self._node.open_set(notice)
        except (NodeError, CryptoError):
            return True
        return False

    def _judge(self, batch: Digest, checkpoint: Checkpoint) -> VerdictNotice:
        """Our verdict, kept; `NotFound` while something it depends on is not here."""
        erasure, opening = self._erasure(batch), self._opening(batch)
        if opening is None:
            raise NotFound("the hospital has not opened the batch to us")
        confirmed = self._base_is_old(batch, erasure) and all(self._is_sound(one, opening) for one in checkpoint.rounds)
        if content_root("model", self._store.get(checkpoint.model)) != checkpoint.model:
            raise NotFound(f"model {checkpoint.model.hex()} is damaged in this home")
        draft = VerdictNotice(batch, self._desk.member, checkpoint.branch, checkpoint.model, confirmed, b"")
        return self._say(draft)

    def _base_is_old(self, batch: Digest, erasure: ErasureHistory) -> bool:
        """Whether nothing of an erased consent is in the plan's base: by our own reading of the included sets up to it,
        and by what it was made with of an earlier line.
        """
        plan, uses, opened = erasure.plan, self._uses(batch), erasure.opened
        assert plan is not None
        before = included_rounds(self._history, opened.study, plan.parent_branch, plan.base_height, opened.controller)
        unread = [one.opened.height for one in before if one.opened.round_id not in uses]
        if unread:
            raise NotFound(f"the sets of rounds {unread} of member {opened.controller} were never read here")
        influenced = influenced_from(
            self._history, opened.study, plan.parent_branch, plan.base_height, opened.controller
        )
        return influenced is None and not any(uses[one.opened.round_id] for one in before)

    def _is_sound(self, one: RoundHistory, opening: OpeningNotice) -> bool:
        """Whether a replayed round holds no erased consent and its sum is the one we computed."""
        if one.final is not None and one.final.result.included >> opening.controller & 1:
            found = self._holds_erased(one, opening.controller, opening)
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
        for vote in self._about(round_id, VoteNotice):
            if isinstance(vote, VoteNotice) and vote.member == self._node.me and vote.attempt == final.attempt:
                return hash_of_result(vote.result) == final.result_hash
        arithmetic = self._node.study(one.opened.study)
        pairs = []
        for member in members_of(final.result.included):
            update = self._update(one, member)
            if update is None:
                raise NotFound(f"the update of member {member} in round {one.opened.height} is not here")
            pairs.append((member, update.values, update.records))
        model = arithmetic.next_model(self._store.get(one.opened.parent_model), pairs)
        return content_root("model", model) == final.result.model_root

    async def _post_verdicts(self, node: Surroundings, batch: Digest) -> None:
        entries = await node.core(self._verdict_entries, batch)
        if entries:
            purges = await node.core(self._purge_entries, batch, FINAL)
            await node.send(Verdicts(self._erasure(batch).opening, entries, purges))

    def _verdict_entries(self, batch: Digest) -> tuple[VerdictEntry, ...]:
        """Verdicts that the chain lacks, on what it knows that they are about."""
        erasure = self._erasure(batch)
        plan = erasure.plan
        found = None if plan is None else checkpoint_of(self._history, plan)
        return tuple(
            VerdictEntry(n.member, n.confirmed, n.signature)
            for n in self._about(batch, VerdictNotice)
            if n.member not in erasure.verdicts
            and found is not None
            and (n.branch, n.head_model) == (found.branch, found.model)
        )

    # ----------------------------------------------------------------------------------------------------------------
    # Certificate and close

    def _delivered(self, batch: Digest) -> list[str]:
        text = self._store.meta(f"delivered {batch.hex()}")
        return list(json.loads(text)) if text else []

    def _is_delivered(self, batch: Digest, erasure: ErasureHistory, now: int) -> bool:
        if not erasure.moved:
            return False
        if DELIVERED in erasure.steps or now > erasure.times["head_moved"] + DELIVERY_S:
            return True
        consents = self._consents(batch)
        if not any(self._is_linked(one) for one in consents):
            return True  # another batch of the same consents was quicker
        return {one.hex() for one in consents} <= set(self._delivered(batch))

    def waits_for(self, batch: Digest, now: int) -> list[int] | None:
        """Members whose final attestation the certificate still waits for; None while the head has not moved."""
        erasure = self._erasure(batch)
        if not erasure.moved:
            return None
        terms = self._history.studies[erasure.opened.study].created.terms
        if now > erasure.times["head_moved"] + terms.purge_seconds:
            return []
        roster = roster_of(self._history, erasure.opened.study)
        return [m for m in members_of(roster) if (FINAL, m) not in erasure.purges]

    async def receipt(self, node: Surroundings, who: Digest | str) -> tuple[dict[str, Any], Digest, Digest | None]:
        """The certificate with the patient's annex, its erasure, and whose consent that is: for `delivered`.

        Asked for again, it is made again, as long as nobody said that it arrived.

        Args:
            who: an erasure, a consent, or a patient. Once the link is destroyed only the erasure finds it, without
                annex (None).

        Raises:
            NotFound: no such erasure, or its certificate is not ready.
        """
        batch, consent = await node.core(self._find, who)
        if batch not in self._history.erasures:
            raise NotFound(f"erasure {batch.hex()[:12]} has no certificate yet: it waits for the chain")
        if never_closes(self._history, self._erasure(batch)):
            raise NotFound(
                f"erasure {batch.hex()[:12]} has no certificate: the hospital was removed and never said that its copy "
                "is gone. `koinon erase status` and `koinon audit erasure` show what the other members did"
            )
        waiting = self.waits_for(batch, node.now)
        if waiting is None:
            state = state_of(self._erasure(batch), self._history)
            raise NotFound(f"erasure {batch.hex()[:12]} has no certificate yet: it is {state.value}")
        if waiting:
            raise NotFound(f"erasure {batch.hex()[:12]}: the certificate waits for the attestations of {waiting}")
        kept: dict[str, Any] | None = await node.core(self._kept_certificate, batch)
        if consent is None:
            if kept is None:
                raise NotFound(f"erasure {batch.hex()[:12]} has no certificate in this home")
            return kept, batch, None
        for subject in await node.core(self._evidence_subjects, batch):
            await node.pull(subject)
        return await node.core(self._certify, batch, consent, node.now), batch, consent

    async def delivered(self, node: Surroundings, batch: Digest, consent: Digest) -> None:
        """The patient's annex is in safe hands: it cannot be made again once the link is destroyed, which is now.

        The link goes, and the batch is closed, when all of the batch have theirs. Said again, nothing changes.

        Raises:
            NotFound: no such erasure, or its certificate was never made.
        """
        await node.core(self._note_delivered, batch, consent)
        if await node.core(self._is_delivered, batch, self._erasure(batch), node.now):
            try:
                await self._close(node, batch)
            except (NodeError, OSError) as error:
                log.info("later", erasure=batch.hex()[:8], act=Act.CLOSE.value, error=str(error)[:300])

    def _note_delivered(self, batch: Digest, consent: Digest) -> None:
        if batch not in self._history.erasures or self._kept_certificate(batch) is None:
            raise NotFound(f"no certificate of erasure {batch.hex()[:12]} was made here")
        if self._is_linked(consent):
            known = sorted({*self._delivered(batch), consent.hex()})
            self._store.set_meta(f"delivered {batch.hex()}", json.dumps(known))

    def _find(self, who: Digest | str) -> tuple[Digest, Digest | None]:
        """(batch, the consent to deliver or None once it cannot be told any more)."""
        if isinstance(who, Digest) and who in self._history.erasures:
            waiting = [c for c in self._consents(who) if self._node.vault is not None and self._is_linked(c)]
            return who, next((c for c in waiting if c.hex() not in self._delivered(who)), None)
        found = [(self._batch_of(one.consent_id), one.consent_id) for one in self._vault.find(who)]
        mine = [(batch, consent) for batch, consent in found if batch is not None]
        batches = list(dict.fromkeys(batch for batch, _ in mine))
        if not mine:
            raise NotFound("no erasure was asked for here")
        if len(batches) > 1:
            raise InputError(f"{len(batches)} erasures; name one of {', '.join(one.hex()[:12] for one in batches)}")
        delivered = self._delivered(batches[0])  # a patient's consents of one study: a paper each
        return next((one for one in mine if one[1].hex() not in delivered), mine[0])

    def _kept_certificate(self, batch: Digest) -> dict[str, Any] | None:
        text = self._store.meta(f"certificate {batch.hex()}")
        return None if not text else dict(json.loads(text))

    def _evidence_subjects(self, batch: Digest) -> list[Digest]:
        """What peers are asked for once more before the certificate is made: statements that reached only the chain."""
        erasure = self._erasure(batch)
        head = certificate.head_round(self._history, erasure)
        since = self._rounds_since(erasure, self._consents(batch))
        return [batch, *dict.fromkeys(one.opened.round_id for one in [*([head] if head else []), *since])]

    def _rounds_since(self, erasure: ErasureHistory, consents: Iterable[Digest]) -> list[RoundHistory]:
        """Agreed rounds of the present line that were opened with these consents withdrawn."""
        known = [self._history.withdrawals[one][1] for one in consents if one in self._history.withdrawals]
        rounds = proof.agreed_rounds(self._history, erasure.opened.study, 0)
        return [one for one in rounds if known and one.position > max(known)]

    def _certify(self, batch: Digest, consent: Digest, now: int) -> dict[str, Any]:
        erasure, history = self._erasure(batch), self._history
        annex = self._annex(batch, consent)
        document = certificate.make(
            self._desk.network,
            history,
            self._node,
            erasure,
            annex,
            issued_at=now,
            first_height=excluded_from(history, erasure.opened.study, self._consents(batch)),
            study_name=self._node.study(erasure.opened.study).study.name,
            sign=self._signed,
        )
        bare = {key: value for key, value in document.items() if key != "annex"}
        self._store.set_meta(f"certificate {batch.hex()}", json.dumps(bare))
        return document

    def _annex(self, batch: Digest, consent: Digest) -> dict[str, Any]:
        """What only the patient gets: the opening, how the request is in the batch, first use, absence since."""
        erasure, one, opening = self._erasure(batch), self._vault.annex(consent), self._opening(batch)
        assert opening is not None
        study, hospital = erasure.opened.study, erasure.opened.controller
        salt = next(salt for known, salt in opening.requests if known == consent)
        leaf = proof.Opening(consent, one.holder, one.holder_salt, one.doc_commit, one.leaf_key)
        kept = json.loads(self._store.meta(f"first-use {batch.hex()}") or "{}").get(one.leaf_key.hex())
        network, history, node = self._desk.network, self._history, self._node
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

    async def _close(self, node: Surroundings, batch: Digest) -> None:
        """The certificate is kept, the link is destroyed, and one statement says both and that the batch is closed."""
        if await node.core(self._kept_certificate, batch) is None:
            for consent in [c for c in await node.core(self._consents, batch) if self._is_linked(c)][:1]:
                await node.core(self._certify, batch, consent, node.now)  # nobody came for it: kept without annex
        kept = await node.core(self._kept_certificate, batch)
        await node.core(self._destroy_link_here, batch)
        evidence = {
            DELIVERED: ZERO if kept is None else certificate.digest_of(kept),
            LINK_DESTROYED: keccak256(b"koinon/link-destroyed/1" + batch),
            CLOSED: keccak256(b"koinon/closed/1" + batch),
        }
        await self._state(node, batch, evidence)

    def _destroy_link_here(self, batch: Digest) -> None:
        erasure, consents = self._erasure(batch), self._consents(batch)
        linked = [one for one in consents if self._is_linked(one)]
        for consent in linked:
            uses, whole = self._uses_of(batch, erasure, consent)
            self._archive(erasure, consent, uses, ground="" if whole else SETS_LOST)
        self._vault.destroy_link(*linked)
        self._note_asked((), gone=consents)
        for name in ("first-use", "delivered"):
            self._store.set_meta(f"{name} {batch.hex()}", "")
        for consent in consents:
            self._store.forget_notices(consent, "ErasureNotice")
        self._store.checkpoint()

    def _uses_of(self, batch: Digest, erasure: ErasureHistory, consent: Digest) -> tuple[dict[Digest, bool], bool]:
        """In which rounds of any line our sets held a consent of ours: also on lines that serve no more.

        Where neither set nor note can tell, what holds for the whole batch. And whether each round could be told.
        """
        told = {proof.PRESENT: True, proof.ABSENT: False}
        uses, whole = dict(self._uses(batch)), True
        for one in self._desk.findings(consent):
            round_id = Digest.from_hex(one["round_id"])
            whole &= one["finding"] in told or round_id in uses
            uses[round_id] = told.get(one["finding"], uses.get(round_id, False))
        return uses, whole

    def outlive(self, batch: Digest, consent: Digest) -> None:
        """Archive an erased consent of a vault that came back from a backup made before its erasure."""
        erasure, ground = self._erasure(batch), ""
        if self._uses(batch):
            uses, whole = self._uses_of(batch, erasure, consent)
            ground = "" if whole else SETS_LOST
        else:  # lost with an older state of this home: what may have been is told, as what it is
            uses = self._possible_uses(erasure)
            ground = "the sets are lost: these are the days of every round in which it may have been used"
        self._archive(erasure, consent, uses, ground=ground)

    def _archive(
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
        history, study = self._history, erasure.opened.study
        used = sorted(history.rounds[one].opened.opened_at for one, found in uses.items() if found)
        received = erasure.opened.due_at - DUE_S
        self._vault.archive(
            consent,
            study_name=self._node.study(study).study.name,
            decision=decision,
            ground=ground,
            requested_on=_day(received),
            completed_on=_day(erasure.times["head_moved"]) if "head_moved" in erasure.times else "",
            first_use_on=_day(used[0]) if used else "",
            last_use_on=_day(used[-1]) if used else "",
            recipients=sorted({name for one, found in uses.items() if found for name in recipients(history, one)}),
            extension=extension,
        )

    def _possible_uses(self, erasure: ErasureHistory) -> dict[Digest, bool]:
        """Every round of the study before this erasure in which something of the hospital's was included."""
        opened = erasure.opened
        return {
            one.opened.round_id: True
            for one in self._history.rounds.values()
            if one.opened.study == opened.study
            and one.opened.opened_at <= opened.opened_at
            and one.final is not None
            and one.final.result.included >> opened.controller & 1
        }

    async def _forget(self, node: Surroundings, batch: Digest) -> None:
        await node.core(self._forget_here, batch)

    def _forget_here(self, batch: Digest) -> None:
        """Nobody needs to know any more which consents a finished batch was about."""
        for consent in self._consents(batch):
            self._store.forget_notices(consent, "ErasureNotice")
        self._store.forget_notices(batch, "OpeningNotice")
        self._store.checkpoint()

    # ----------------------------------------------------------------------------------------------------------------
    # From peers, and for people

    async def noticed(
        self, node: Surroundings, notice: OpeningNotice | PlanNotice | PurgeNotice | VerdictNotice | TombstoneNotice
    ) -> None:
        """A genuine notice about an erasure was kept: what follows from it is done at the next look."""
        if isinstance(notice, OpeningNotice | PlanNotice | VerdictNotice):
            machine = self._machines.get(notice.batch)
            if machine is not None:
                for act in await node.core(self._look, notice.batch, node.now):
                    node.spawn(self._perform, node, notice.batch, act)

    def _locate(self, who: Digest | str) -> Digest | None:
        """The batch, or None while a request of which we know waits to be opened."""
        if isinstance(who, str):
            return self._find(who)[0]
        if who in self._history.erasures:
            return who
        batch = self._batch_of(who)
        if batch is None and not self._kept_requests([who]):
            raise NotFound(
                f"no erasure of {who.hex()[:12]} was asked for here, or it is over and forgotten (its own id finds it)"
            )
        return batch

    def subjects(
        self, *, patient: str | None = None, consent: Digest | None = None, card: bytes | None = None, erasure: str = ""
    ) -> list[Subject]:
        """Whose erasure a question about plans is about, one in each study; nothing is kept and nothing is said.

        A batch speaks for all its consents: a plan is made for the batch.
        """
        if erasure:
            return [self._subject_of(find_erasure(self._history, erasure))]
        if card is not None:
            parsed = cards.parse(card)
            cards.check_network(parsed, self._desk.network)
            shown = [(parsed.origin.study, parsed.origin.member, parsed.consent_id, parsed.leaf_key)]
        else:
            who = consent if consent is not None else patient
            if who is None:
                raise InputError("name a patient, a consent, a card or an erasure")
            held = self._vault.find(who)
            shown = [
                (one.study, one.member, one.consent_id, self._vault.annex(one.consent_id).leaf_key) for one in held
            ]
        found: dict[tuple[Digest, Digest | None], Subject] = {}
        for study, hospital, consent_id, key in shown:
            batch = self._batch_of(consent_id)
            if batch is not None and batch in self._history.erasures:
                found[study, batch] = self._subject_of(batch, consent_id, key)
                continue
            known = found.get((study, None), Subject(study, hospital, frozenset(), frozenset()))
            requests = [one.received_at for one in self._kept_requests([*known.consents, consent_id])]
            found[study, None] = replace(
                known,
                consents=known.consents | {consent_id},
                keys=known.keys | {key},
                received_at=min(requests, default=None),
            )
        return list(found.values())

    def _subject_of(self, batch: Digest, consent: Digest | None = None, key: Digest | None = None) -> Subject:
        """A batch on the chain; `consent` and `key` are known to be in it, the rest as far as its opening is here."""
        opened, opening = self._erasure(batch).opened, self._opening(batch)
        consents = set() if opening is None else {one for one, _ in opening.requests}
        keys = set() if opening is None else set(opening.leaf_keys)
        return Subject(
            opened.study,
            opened.controller,
            frozenset(consents | ({consent} if consent is not None else set())),
            frozenset(keys | ({key} if key is not None else set())),
            batch,
            opened.due_at - DUE_S,
            self._uses(batch),
            self._store.meta(f"method {batch.hex()}") or "",
        )

    def _copy_stays(self, batch: Digest, erasure: ErasureHistory) -> bool | None:
        """Whether records of these patients are still here, since another consent of theirs covers them.

        None: it is not known here (another hospital's), or not decided yet.
        """
        if COPY_DELETED not in erasure.steps or erasure.opened.controller != self._node.me:
            return None
        linked = [consent for consent in self._consents(batch) if self._is_linked(consent)]
        return any(one.has_copy for consent in linked for one in self._vault.find(consent))

    def status(self, who: Digest | str, now: int = 0) -> dict[str, Any]:
        """Where an erasure stands: `state`, `claims`, `due_at`, `times`, `overdue` and who is waited for.

        Args:
            who: an erasure, or (at the controlling hospital) a consent or a patient.
            now: chain time, for `overdue` and `certificate_ready`.
        """
        batch = self._locate(who)
        if batch is None or batch not in self._history.erasures:
            requests = self._kept_requests([who]) if isinstance(who, Digest) else []
            due = min((one.received_at for one in requests), default=now) + DUE_S
            return {
                "erasure": "" if batch is None else batch.hex(),
                "state": "waiting",
                "times": {},
                "due_at": due,
                "extended_from": None,
                "overdue": now > due,
                "claims": [],
                "evidence_missing": [],
                "certificate_ready": False,
                "waits_for": [],
            }
        erasure = self._history.erasures[batch]
        opened, plan = erasure.opened, erasure.plan
        first = excluded_from(self._history, opened.study, self._consents(batch)) if self._consents(batch) else None
        studies = self._node.studies
        name = studies[opened.study].study.name if opened.study in studies else opened.study.hex()[:12]
        hospital = self._history.registry.members[opened.controller].name
        roster = roster_of(self._history, opened.study)
        waiting = self.waits_for(batch, now)
        earned = claims(erasure, self._history, hospital=hospital, study_name=name, first_height=first)
        return {
            "erasure": batch.hex(),
            "study": opened.study.hex(),
            "controller": opened.controller,
            "poster": opened.poster,
            "state": state_of(erasure, self._history).value,
            "times": dict(erasure.times),
            "due_at": erasure.due_at,
            "extended_from": None if erasure.extended is None else opened.due_at,
            "overdue": is_overdue(erasure, now),
            "refused_on": None if erasure.refused is None else GROUNDS.get(erasure.refused.ground, "unknown"),
            "claims": [
                {
                    "level": one.level,
                    "sentence": one.sentence,
                    "evidence": dict(one.evidence),
                    "does_not_show": one.does_not_show,
                }
                for one in earned
            ],
            "evidence_missing": self._evidence_missing(erasure, {one.level for one in earned}),
            "plan": None
            if plan is None
            else {
                "branch": plan.branch,
                "parent_branch": plan.parent_branch,
                "base_height": plan.base_height,
                "base_model": plan.base_model.hex(),
                "target_height": plan.target_height,
                "replays": replays(plan),
                "method": methods.name_of(plan.method),
                "exact": methods.is_exact(plan.method),
                "rounds": plan.rounds,
                "given_up": was_given_up(self._history, plan),
            },
            "method_chosen": self._store.meta(f"method {batch.hex()}"),
            "method_refused": self._refused_choice(batch, erasure),
            "copy_stays": self._copy_stays(batch, erasure),
            "hospital_removed": is_removed(self._history, erasure),
            "roster": list(members_of(roster)),
            "pair_attested": sorted(m for stage, m in erasure.purges if stage == PAIR),
            "attested": sorted(m for stage, m in erasure.purges if stage == FINAL),
            "confirmed_by": sorted(m for m, v in erasure.verdicts.items() if v.confirmed),
            "certificate_ready": waiting == [] and erasure.refused is None and COPY_DELETED in erasure.steps,
            "waits_for": waiting or [],
        }

    def _evidence_missing(self, erasure: ErasureHistory, earned: set[str]) -> list[str]:
        """Levels that the study asks for and a confirmed erasure has not; of one that replayed nothing, never L3."""
        found = self._node.studies.get(erasure.opened.study)
        if found is None or erasure.confirmed is None or erasure.plan is None:
            return []
        asked = [one for one in found.study["policy", "evidence"] if one != "L3" or replays(erasure.plan)]
        return [one for one in asked if one not in earned]


def _lone_stages(state: State) -> tuple[int, ...]:
    """Stages whose attestations travel alone in a state: elsewhere the replay's opening or the verdicts carry them."""
    return () if state in PURGING else (PAIR,) if state in JUDGING else (PAIR, FINAL)


def _tombstone(notice: TombstoneNotice) -> Tombstone:
    return Tombstone(notice.member, notice.content, notice.reason, notice.subject)


def _rounds_with(checkpoint: Checkpoint, member: int) -> Iterable[RoundHistory]:
    for one in checkpoint.rounds:
        if one.final is not None and one.final.result.included >> member & 1:
            yield one


def _day(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


_DUTIES: Final[dict[Act, Callable[[Erasing, Surroundings, Digest], Awaitable[None]]]] = {
    Act.AUTHORISE: Erasing._authorise,
    Act.EXCLUDE: Erasing._exclude,
    Act.SHARE_OPENING: Erasing._share_opening,
    Act.READ_SETS: Erasing._read_sets,
    Act.VOTE_PLAN: Erasing._vote_plan,
    Act.GATHER_PLANS: Erasing._gather_plans,
    Act.POST_PLAN: Erasing._post_plan,
    Act.PURGE: Erasing._purge,
    Act.ATTEST_PAIR: Erasing._attest_pair,
    Act.OPEN_REPLAY: Erasing._open_replay,
    Act.GIVE_VERDICT: Erasing._give_verdict,
    Act.ATTEST_REST: Erasing._attest_rest,
    Act.POST_VERDICTS: Erasing._post_verdicts,
    Act.POST_PURGES: Erasing._post_purges,
    Act.CLOSE: Erasing._close,
    Act.FORGET: Erasing._forget,
}
"""Act -> how this node does it."""
