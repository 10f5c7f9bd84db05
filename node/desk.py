"""What people order a node to do, and the duties it carries out for them without being asked.

What may live here: creating, joining and leaving studies; granting, withdrawing; relaying cards; seating members; the
auditor's announcement. What this file does not know: rounds, sockets, who typed the order. Every act is persisted
before it is sent and may be ordered again. `work` is called after every look at the chain and does what is due.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from crypto.commitments import study_id
from crypto.digest import Digest, sha256
from crypto.keys import KeyRing, address_text
from crypto.statements import (
    AuditAccess,
    CreateStudy,
    Domains,
    Join,
    Leave,
    OpenAudit,
    Receipt,
    sign,
    struct_hash,
)
from fl_engine.errors import PolicyError
from fl_engine.models.shards import shard_of
from fl_engine.training import get_method
from node import card as cards
from node import enrolment, logbook, proof, roles
from node.card import Card, Origin
from node.duo import codes_of
from node.erasure import OVER, state_of
from node.errors import CallReverted, ChainUnreachable, InputError, NodeError, NotFound, Refused
from node.governance import Governance
from node.home import Network
from node.membership import members_of
from node.messages import Notice, WithdrawalNotice
from node.participant import ROLE_TRAIN, Participant
from node.records import (
    AuditAnnouncement,
    AuditOpening,
    Joining,
    Leaving,
    Position,
    StudyCreation,
)
from node.register import RegisterRow, check_rows, parse_register
from node.retention import Retention
from node.study import Study
from node.training import Arithmetic, hyperparameters_of, model_root
from node.vault import Holding, Vault

if TYPE_CHECKING:
    from node.app import Node

log = structlog.get_logger("desk")
EVERY_ROUND = 2**32 - 1  # AuditAccess up to here: all rounds of the study
PAUSE_S, IDLE_S = 2, 60
"""Between two passes over the duties of which nothing has changed: while one of them could not be done, and else."""
AUDIT_GROUND = sha256(b"koinon/audit-ground/continuous/1")


class Desk:
    """One node's desk.

    Args:
        participant: the node's state.
        network: for cards and for whether the home is synthetic.
        auto_join: whether studies we are invited to are joined without an order.
        register: path of the register of signed forms, read anew whenever a study is joined; None without one.
        officer: how a node that enrols unattended gets at the dpo's key; None where a person brings it.
        review_s: chain seconds that an erasure of ours waits, its use stopped, for somebody to refuse it.
        without: patients who keep their import row numbers but are never granted (a simulation's "had they never
            been there").
        history_bytes: how much the content store may hold before others' old updates go; 0: any amount.
    """

    def __init__(
        self,
        participant: Participant,
        network: Network,
        *,
        auto_join: bool,
        register: Path | None,
        officer: Callable[[], bytes] | None = None,
        review_s: int = 0,
        without: frozenset[str] = frozenset(),
        history_bytes: int = 0,
    ) -> None:
        self._node = participant
        self.governance = Governance(participant, network)
        self.network = network
        self._auto_join = auto_join
        self._register = register
        self._officer = officer
        self.review_s = review_s
        self._without = without
        self._placed_on: dict[Digest, datetime.date] = {}
        self._complained: set[tuple[str, Digest]] = set()
        self._retention = Retention(participant, history_bytes)
        self.faults: dict[str, str] = {}  # duty -> why it failed when it was last tried
        self._seen: tuple[Position | None, int, int] | None = None
        self._again_at = 0

    @property
    def _ring(self) -> KeyRing:
        return self._node.ring

    @property
    def _domains(self) -> Domains:
        return self._node.domains

    @property
    def member(self) -> int:
        """Our member index; `Refused` at an auditor."""
        if self._node.me is None:
            raise Refused("this is an auditor's node: it reads and signs nothing for a member")
        return self._node.me

    @property
    def vault(self) -> Vault:
        """Our vault; `Refused` at an auditor."""
        if self._node.vault is None:
            raise Refused("this is an auditor's node: it has no vault")
        return self._node.vault

    @property
    def hospital(self) -> str:
        """Our registered name."""
        return self._node.history.registry.members[self.member].name

    def origin(self, study: Digest) -> Origin:
        """Where the consents we take for a study belong."""
        return Origin.of(self.network, study, self.member, self.hospital)

    def pick_study(self, study: str | None) -> Digest:
        """A study by its id or the beginning of it; the only one when None."""
        known = list(self._node.history.studies)
        found = [one for one in known if study is None or one.hex().startswith(study.lower().removeprefix("0x"))]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound(f"no study {study} on this ledger" if study else "there is no study on this ledger yet")
        raise InputError(f"{len(found)} studies fit; name one of {', '.join(one.hex()[:12] for one in found)}")

    def forget(self) -> None:
        """The chain is read anew: every duty is due again."""
        self._retention.forget()
        self._seen, self._again_at = None, 0

    # ----------------------------------------------------------------------------------------------------------------
    # Studies

    async def create_study(self, node: Node, study: Study) -> Digest:
        """Put a study and its forms on the chain; every active member is invited. Ordered twice, it is the same study.

        Raises:
            InputError: the spec does not fit our data.
        """
        self._check_here()
        _check_purpose(study)
        _check_shards(study, self._node.history.registry.active)
        model = Arithmetic(study).initial()
        if self._node.vault is not None:
            shape, classes, _ = self._node.vault.shape()
            if shape != study.input_shape or classes > study["data", "classes"]:
                raise InputError(
                    f"the study is for records of shape {study.input_shape} in {study['data', 'classes']} classes, "
                    f"our data have shape {shape} and {classes} classes"
                )
            await node.core(self._check_records, study)
        await node.core(self._node.store.put, "spec", study.canonical)
        await node.core(self._node.store.put, "model", model)
        terms = study.terms(self.member, model_root(model), self._node.history.registry.active)
        number = study_id(struct_hash(terms))
        if number not in self._node.history.studies:
            try:
                await node.send(StudyCreation(terms, sign(terms, self._domains.of(terms), self._ring.ledger)))
            except CallReverted as error:
                if error.error != "StudyKnown":
                    raise
        return number

    async def _register_forms(self, node: Node, study: Digest) -> None:
        spec = self._node.studies[study].study
        for call in enrolment.form_registrations(spec, self.origin(study), self._ring.ledger, self._node.history):
            try:
                await node.send(call)
            except CallReverted as error:
                log.info("form", error=error.message)

    async def join(self, node: Node, study: Digest) -> None:
        """Sign and post our Join, unless it is on the chain."""
        found = self._node.history.studies[study]
        if self.member in found.joined:
            return
        self._check_here()
        if not found.created.terms.invited >> self.member & 1:
            raise Refused(f"we are not invited to study {study.hex()[:12]}")
        self._check_terms(study, found.created.terms)
        statement = Join(study, self.member)
        await node.send(Joining(study, self.member, sign(statement, self._domains.of(statement), self._ring.ledger)))

    def _check_here(self) -> None:
        """Refuse where the members go on elsewhere: nothing begins at this deployment any more."""
        successor = self._node.history.registry.successor
        if successor is not None:
            raise Refused(
                f"the network moved to the deployment at {address_text(successor)}: take its network.json with "
                "`koinon member move`"
            )

    def _check_terms(self, study: Digest, terms: CreateStudy) -> None:
        arithmetic = self._node.study(study)
        spec = arithmetic.study
        if terms.initial_model != model_root(arithmetic.initial()):
            # Nothing trains on from a model that another study made: an erasure there could not reach it here.
            raise Refused(f"study {study.hex()[:12]} does not begin at the model that its specification gives")
        if spec.terms(terms.member, terms.initial_model, terms.invited) != terms:
            raise Refused(f"study {study.hex()[:12]}: the terms on the chain are not those of its specification")
        _check_purpose(spec)
        _check_shards(spec, terms.invited)
        shape, classes, _ = self.vault.shape()
        if shape != spec.input_shape or classes > spec["data", "classes"]:
            raise Refused(
                f"study {study.hex()[:12]} is for records of shape {spec.input_shape} in {spec['data', 'classes']} "
                f"classes, our data have shape {shape} and {classes} classes"
            )
        self._check_records(spec)

    def _check_records(self, study: Study) -> None:
        """Refuse a study that our records are too few for: what we send would show one of them."""
        records, method = len(self.vault.row_numbers(ROLE_TRAIN)), get_method(study["training", "method"])
        try:
            method.check_records(records, hyperparameters_of(study), study["policy", "erasable"])
        except PolicyError as error:
            raise Refused(f"study {study.name}: {error}") from error

    async def leave(self, node: Node, study: Digest, *, anyway: bool = False) -> None:
        """Sign and post our Leave; it takes effect when the next round opens.

        Raises:
            Refused: an erasure of ours in the study is not over, and it is not to be `anyway`.
        """
        history = self._node.history
        going = [
            batch.hex()[:12]
            for batch, one in history.erasures.items()
            if (one.opened.study, one.opened.controller) == (study, self.member) and state_of(one, history) not in OVER
        ]
        if going and not anyway:
            raise Refused(
                f"not closed yet: {', '.join(going)}, erasures of this hospital in study {study.hex()[:12]}. If it "
                "leaves now, what the others have not confirmed is planned without its vote, by the default method, "
                "replayed without any record of its patients, and confirmed by one member fewer. Leave when they are "
                "closed (koinon erase status), or with --anyway"
            )
        statement = Leave(study, self.member)
        await node.send(Leaving(study, self.member, sign(statement, self._domains.of(statement), self._ring.ledger)))

    # ----------------------------------------------------------------------------------------------------------------
    # Consent

    async def grant(self, node: Node, study: Digest, register: bytes | None, everyone: bool) -> dict[str, Any]:
        """Enrol what a register of signed forms covers; `everyone` without one only in a synthetic home."""
        result = await node.core(self._enrol, study, register, everyone, node.now)
        await self._post_grants(node, study)
        return result

    def lift(self, study: Digest, register: bytes, patient: str, now: int) -> None:
        """Let an erased patient be enrolled again, by the form in this register, signed after they asked for it.

        Raises:
            InputError: no register. NotFound: no line of this patient in it. Refused: no form signed since.
        """
        spec = self._node.study(study).study
        names = [form["name"] for form in spec.forms]
        rows = parse_register(register, "register", forms=names, today=enrolment.today(now))
        signed = max((row.signed_on.isoformat() for row in rows if row.patient_id == patient), default="")
        if not signed:
            raise NotFound("register: no line for this patient")
        erased = [one for one in self.vault.archived(patient) if one.decision == "erased"]
        asked = max((one.requested_on for one in erased if one.study_name == spec.name), default="")
        if signed <= asked:
            raise Refused(f"this patient asked for erasure on {asked}; a form signed on {signed} does not undo it")
        self.vault.lift_suppression(patient, study)

    def _enrol(
        self, study: Digest, register: bytes | None, everyone: bool, now: int, *, unattended: bool = False
    ) -> dict[str, Any]:
        self._node.hear_withdrawals()
        spec = self._node.study(study).study
        names = [form["name"] for form in spec.forms]
        if register is not None:
            rows = parse_register(register, "register", forms=names, today=enrolment.today(now))
        elif everyone:
            rows = enrolment.synthetic_rows(self.vault, self.network, names[0], now)
            rows = tuple(row for row in rows if row.patient_id not in self._without)
        else:
            raise InputError("name a register of signed forms (--register CSV), or --all in a synthetic home")
        daily = not self.network.synthetic
        done = enrolment.enrol(self.vault, rows, spec, self.origin(study), now=now, daily=daily, unattended=unattended)
        self._log_enrolment(done, study, now)
        if unattended and done.refused:
            lines = [one.line for one in done.refused]
            log.warning(
                "not enrolled, for a person to look at", study=study.hex()[:12], lines=lines[:20], rows=len(lines)
            )
        elif done.refused and not done.minted:
            raise Refused(
                f"{len(done.refused)} rows refused; the first, line {done.refused[0].line}: {done.refused[0].why}"
            )
        return {
            "granted": len(done.minted),
            "known": len(done.known),
            "superseded": [one.hex() for one in done.superseded],
            "updated": [one.hex() for one in done.updated],
            "waiting": len(self._waiting(study)),
            "absent": list(done.absent),
            "refused": [{"line": one.line, "why": one.why} for one in done.refused],
        }

    def _log_enrolment(self, done: enrolment.Enrolment, study: Digest, now: int) -> None:
        """Keep in the log which consents there are from now on, and which gave way to them."""
        with self._node.store.transaction():
            for kind, consents in (("consent_granted", done.minted), ("consent_withdrawn", done.superseded)):
                for consent in consents:
                    self._node.store.log(float(now), kind, {"subject": consent.hex(), "study": study.hex()})

    def _waiting(self, study: Digest) -> list[Holding]:
        """Live consents that nothing carries to the chain yet: a notice period runs, or today's anchor is made."""
        return [one for one in self.vault.holdings(study) if not one.placed and not one.mark]

    def _place_due(self, study: Digest, now: int) -> None:
        day = enrolment.today(now)
        if self._placed_on.get(study) == day:
            return
        spec, daily = self._node.study(study).study, not self.network.synthetic
        enrolment.place_due(self.vault, spec, study, now=now, daily=daily)
        self._placed_on[study] = day

    async def correct(
        self, node: Node, reason: str, *, patient: str | None = None, consent: Digest | None = None
    ) -> dict[str, Any]:
        """Mark consents as entered in error: they were never lawful (another person's records, no signature).

        Use stops at once, the copy is deleted whatever the form says, the chain gets an ordinary withdrawal; the reason
        stays in the vault. The answer names the rounds in which the record was used without a valid consent.
        """
        who = consent if consent is not None else patient
        if who is None:
            raise InputError("name a patient or a consent")
        if not reason.strip():
            raise InputError("a correction needs its reason; it stays in the vault")
        found = [one for one in await node.core(self.vault.find, who) if one.mark != "withdrawn"]
        uses = {one.consent_id.hex(): await node.core(self._uses, one.consent_id) for one in found}
        for one in found:
            await node.core(self._node.end_consent, one.consent_id, node.now, "entered-in-error", reason)
        posted = await self.post_withdrawals(node)
        await self._work_copies(node)
        return {"consents": list(uses), "posted": posted, "used_without_consent": uses, "in_flight": self._in_flight()}

    def _uses(self, consent: Digest) -> list[dict[str, Any]]:
        """The rounds, on every line, whose set of ours held the consent; `used` None: it cannot be told any more."""
        used = {proof.PRESENT: True, proof.UNKNOWN: None}
        return [
            {"branch": one["branch"], "height": one["height"], "used": used[one["finding"]]}
            for one in self.findings(consent)
            if one["finding"] in used
        ]

    def findings(self, consent: Digest) -> list[dict[str, Any]]:
        """`proof.findings` of a consent of ours, in rounds that it can have been in."""
        annex, history = self.vault.annex(consent), self._node.history
        issued = min((one.issued for one in self.vault.find(consent)), default="")
        withdrawn = history.withdrawn_at(consent)
        found = []
        for one in proof.findings(history, self._node, annex.study, self.member, annex.leaf_key):
            opened = history.rounds[Digest.from_hex(one["round_id"])].opened.opened_at
            early = enrolment.today(opened).isoformat() < issued
            if one["finding"] != proof.UNKNOWN or not (early or (withdrawn is not None and opened > withdrawn)):
                found.append(one)
        return found

    def forms(self, study: Digest) -> list[dict[str, Any]]:
        """The study's forms, their DUO codes, and whether they allow its purpose."""
        spec = self._node.study(study).study
        barred = spec.form_refusals()
        ids = enrolment.form_ids(spec, study)
        return [
            {
                "name": form["name"],
                "form_id": ids[form["name"]].hex(),
                "duo": list(codes_of(form["purposes"])),
                "custody": form["custody"],
                "basis": form["basis"],
                "valid_to": form["valid_to"],
                "on_withdrawal": form["on_withdrawal"],
                "broad": form["broad"],
                "notice_days": form["notice_days"] if form["broad"] else 0,
                "allowed": form["name"] not in barred,
                "why": barred.get(form["name"], ""),
            }
            for form in spec.forms
        ]

    async def take_in(
        self, node: Node, study: Digest, rows: list[dict[str, Any]], ends: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Carry out what a file of FHIR Consents says: first what ended, then what was granted.

        What ends something is kept against forms signed before it, in this file and in later ones.

        Args:
            rows: the register's columns with `line`, `where`, `document` and `until` (last day of the period or "").
            ends: `line`, `patient_id`, `form`, `signed_on`, `mark`: ends what is held of this patient under this form,
                unless it was signed later; of several only `consent`, where it names one of them.
        """
        result = await node.core(self._take_in, study, rows, ends, node.now)
        result["posted"] = await self.post_withdrawals(node)
        await self._post_grants(node, study)
        return result

    def _take_in(
        self, study: Digest, rows: list[dict[str, Any]], ends: list[dict[str, Any]], now: int
    ) -> dict[str, Any]:
        self._node.hear_withdrawals()
        spec = self._node.study(study).study
        ids = enrolment.form_ids(spec, study)
        last_day = {form["name"]: enrolment.today(form["valid_to"] - 1).isoformat() for form in spec.forms}
        wanted = self.check_import(study, rows, ends, now)
        ended: list[Digest] = []
        nothing: list[dict[str, Any]] = []
        for entry in ends:
            hits, why = self._ended_by(entry, study, ids[entry["form"]])
            ended += [one for one in hits if self._node.end_consent(one, now, str(entry["mark"]))]
            nothing += [{"where": str(entry["where"]), "why": why}] if why else []
        until = {int(entry["line"]): str(entry.get("until", "")) for entry in rows}
        short = [
            row for row in wanted if until[row.line] and until[row.line] < last_day[row.form][: len(until[row.line])]
        ]
        kept = [row for row in wanted if row not in short]
        done = enrolment.enrol(self.vault, kept, spec, self.origin(study), now=now, daily=not self.network.synthetic)
        self._log_enrolment(done, study, now)
        refused = [{"line": one.line, "why": one.why} for one in done.refused]
        refused += [
            {"line": row.line, "why": f"its period ends before form {row.form} does; koinon ends forms, not persons"}
            for row in short
        ]
        return {
            "granted": len(done.minted),
            "known": len(done.known),
            "superseded": [one.hex() for one in done.superseded],
            "updated": [one.hex() for one in done.updated],
            "waiting": len(self._waiting(study)),
            "ended": [one.hex() for one in ended],
            "nothing_ended": nothing,
            "absent": list(done.absent),
            "refused": refused,
        }

    def check_import(
        self, study: Digest, rows: list[dict[str, Any]], ends: list[dict[str, Any]], now: int
    ) -> tuple[RegisterRow, ...]:
        """The rows of an import, checked, before anybody is asked to approve it. Raises `InputError`."""
        forms = list(enrolment.form_ids(self._node.study(study).study, study))
        for entry in ends:
            if entry["form"] not in forms:
                raise InputError(f"{entry['where']}: form {entry['form']!r} is not one of the study's")
        return check_rows(rows, forms=forms, today=enrolment.today(now))

    def grants_anything(self, study: Digest, rows: list[dict[str, Any]], ends: list[dict[str, Any]], now: int) -> bool:
        """Whether an import would make a consent: what is known, refused or without records here grants nothing."""
        wanted = self.check_import(study, rows, ends, now)
        ids = enrolment.form_ids(self._node.study(study).study, study)
        with self.vault.reading("enrol"):
            return any(
                self.vault.would_mint(row.patient_id, study, ids[row.form], row.signed_on, now) for row in wanted
            )

    def _ended_by(self, entry: dict[str, Any], study: Digest, form_id: Digest) -> tuple[list[Digest], str]:
        """The consents that a resource ends, those that have ended already too; and why where there is none."""
        patient, day = str(entry["patient_id"]), str(entry["signed_on"])
        if entry["mark"] == "withdrawn":  # what was entered in error says nothing of another form
            try:
                self.vault.note_refusal(patient, study, form_id, day)
            except NotFound:
                return [], "no such patient here"
        try:
            held = self.vault.find(patient)
        except NotFound:
            held = ()
        mine = [one for one in held if (one.study, one.form_id) == (study, form_id)]
        named = [one for one in mine if one.consent_id.hex() == str(entry.get("consent", ""))]
        before = [one for one in named or mine if one.signed_on <= day]
        if not mine:
            return [], "nothing is held of this patient under this form"
        # FHIR's inactive is "terminated or replaced": what a newer form replaced is not withdrawn by it as well
        replaced = {one.consent_id for one in before if (entry["mark"], one.mark) == ("withdrawn", "superseded")}
        ended = [one.consent_id for one in before if one.consent_id not in replaced]
        return ended, "" if before else "what is held was signed later"

    def held(self, study: Digest, now: int) -> list[dict[str, Any]]:
        """Every consent of the study with its patient and its document: for the hospital's own records."""
        with self.vault.reading("export"):
            return self._held(study, now)

    def _held(self, study: Digest, now: int) -> list[dict[str, Any]]:
        spec, history = self._node.study(study).study, self._node.history
        names = {form_id: name for name, form_id in enrolment.form_ids(spec, study).items()}
        ends = {form["name"]: form["valid_to"] for form in spec.forms}
        return [
            {
                "consent_id": one.consent_id.hex(),
                "patient_id": self.vault.patient_of(one.consent_id),
                "form": names[one.form_id],
                "valid_to": ends[names[one.form_id]],
                "signed_on": one.signed_on,
                "issued": one.issued,
                "state": enrolment.consent_state(one, history, now).value,
                "changed_at": one.marked_at or history.withdrawn_at(one.consent_id) or 0,
                "document": self.vault.document(one.consent_id).decode(),
            }
            for one in self.vault.holdings(study)
        ]

    async def _post_grants(self, node: Node, study: Digest) -> None:
        await node.core(self._place_due, study, node.now)
        for call in await node.core(enrolment.pending_calls, self.vault, self.origin(study), self._ring.ledger):
            try:
                await node.send(call)
            except CallReverted as error:
                log.info("grant", error=error.message)

    async def withdraw(
        self, node: Node, *, patient: str | None = None, consent: Digest | None = None, card: bytes | None = None
    ) -> dict[str, Any]:
        """Stop the use of a consent: at once here, and on the chain as soon as it answers.

        A card is taken from any hospital's patient; ours or not, the answer is a signed receipt.
        """
        notices: list[WithdrawalNotice] = []
        if card is not None:
            parsed = cards.parse(card)
            cards.check_network(parsed, self.network)
            notices = [cards.withdrawal_notice(parsed)]
            await node.core(self._node.end_consent, parsed.consent_id, node.now)
        elif self._node.vault is not None:
            who = consent if consent is not None else patient
            if who is None:
                raise InputError("name a patient, a consent or a card")
            for one in await node.core(self.vault.find, who):
                await node.core(self._node.end_consent, one.consent_id, node.now)
                notices.append(cards.withdrawal_notice(await node.core(self.vault.card, one.consent_id)))
        for notice in notices:
            await node.core(self._keep_withdrawal, notice)
        posted = await self.post_withdrawals(node)
        return {
            "consents": [one.consent_id.hex() for one in notices],
            "posted": posted,
            "receipt": [self._receipt(one, node.now) for one in notices],
            "in_flight": self._in_flight(),
        }

    def _keep_withdrawal(self, notice: WithdrawalNotice) -> None:
        self._node.store.remember(notice, own=False)
        self._again_at = 0  # it is carried to the chain at the next look

    def _receipt(self, notice: WithdrawalNotice, now: int) -> dict[str, Any]:
        statement = sha256(notice.consent_id + notice.signature)
        if self._node.me is None:
            return {"statement": statement.hex(), "received_at": now, "member": None, "signature": ""}
        receipt = Receipt(self.member, statement, now)
        signature = sign(receipt, self._domains.of(receipt), self._ring.ledger)
        return {"statement": statement.hex(), "received_at": now, "member": self.member, "signature": signature.hex()}

    def _in_flight(self) -> list[dict[str, Any]]:
        """Rounds open now: the last that could still have used the consent."""
        return [
            {"study": one.opened.study.hex(), "branch": one.opened.branch, "height": one.opened.height}
            for one in self._node.history.rounds.values()
            if not one.over
        ]

    async def post_withdrawals(self, node: Node) -> bool:
        """Carry every withdrawal we know and the chain does not; whether all are on their way."""
        due = await node.core(self._due_withdrawals)
        for call in enrolment.withdraw_calls(due, self._domains):
            try:
                await node.send(call)
            except ChainUnreachable:
                log.warning("withdrawals wait for the chain; they already take effect here", count=len(call.entries))
                self._again_at = 0
                return False
            except CallReverted as error:
                log.error("withdrawal refused by the contract", error=error.message)
        return True

    def _due_withdrawals(self) -> list[WithdrawalNotice]:
        history = self._node.history
        due: dict[Digest, WithdrawalNotice] = {}
        if self._node.vault is not None:
            due = {one.consent_id: one for one in enrolment.due_withdrawals(self._node.vault, history)}
        for notice in self._node.store.notices_of_kind("WithdrawalNotice"):
            assert isinstance(notice, WithdrawalNotice)
            if notice.consent_id in history.withdrawals:
                self._node.store.forget_notices(notice.consent_id, "WithdrawalNotice")
            else:
                due[notice.consent_id] = notice
        return list(due.values())

    def consents(self, now: int, study: Digest | None = None) -> list[dict[str, Any]]:
        """Every consent of ours with its state; nothing about the person."""
        history = self._node.history
        review = set(self.vault.due_for_review(enrolment.today(now).isoformat()))
        listed = [
            {
                "consent_id": one.consent_id.hex(),
                "study": one.study.hex(),
                "form_id": one.form_id.hex(),
                "state": enrolment.consent_state(one, history, now).value,
                "signed_on": one.signed_on,
                "issued": one.issued,
                "review_due": one.consent_id in review,
            }
            for one in self.vault.holdings(study)
        ]
        return listed

    def card(self, who: str | Digest) -> list[Card]:
        """Withdrawal cards of a patient or a consent."""
        return [self.vault.card(one.consent_id) for one in self.vault.find(who)]

    def _keep_own(self, notice: Notice) -> None:
        self._node.store.remember(notice, own=True)

    # ----------------------------------------------------------------------------------------------------------------
    # Without being asked

    async def work(self, node: Node) -> None:
        """What is due after a look at the chain. A fault of one duty never stops the others.

        Nothing is due unless the chain or the vault has something new, a study's specification has come, or a while has
        passed: a short one while anything is still to be done, else one in which no term of a form or a day is missed.
        """
        seen = self._state()
        if seen == self._seen and node.now < self._again_at:
            return
        self._seen, self._again_at = seen, node.now + PAUSE_S
        done = True
        duties = (self._work_studies, self._work_withdrawals, self._work_copies, self._work_retention, self._work_audit)
        for duty in (*duties, self._work_log):
            name = duty.__name__.removeprefix("_work_")
            try:
                await duty(node)
                self.faults.pop(name, None)
            except ChainUnreachable:
                raise
            except NodeError as error:
                done = False
                if self.faults.get(name) != error.message:  # it is tried again every few seconds
                    log.info("later", duty=duty.__name__, error=error.message)
                self.faults[name] = error.message
        # What an order changed meanwhile is looked at after the short pause; what the duties changed is theirs.
        _, changes, studies = self._state()
        done &= self._again_at > 0 and (changes, studies) == seen[1:]
        self._seen = (seen[0], changes, studies)
        if done:
            self._again_at = node.now + IDLE_S

    def _state(self) -> tuple[Position | None, int, int]:
        """What the duties depend on, time aside: the newest record, changes of the vault, studies known here."""
        vault = self._node.vault
        return self._node.history.last, 0 if vault is None else vault.changes, len(self._node.studies)

    async def _work_studies(self, node: Node) -> None:
        if self._node.me is None or self._node.vault is None:
            return
        await node.core(self.vault.confirm, self._node.history)
        waiting, day = await node.core(self.vault.waiting), enrolment.today(node.now)
        failed: NodeError | None = None
        for study in [one for one in self._node.history.studies if one in self._node.studies]:
            try:
                await self._work_study(node, study, waits=study in waiting or self._placed_on.get(study) != day)
            except ChainUnreachable:
                raise
            except NodeError as error:  # one that we cannot join keeps us out of no other
                failed = error
        if failed is not None:
            raise failed

    async def _work_study(self, node: Node, study: Digest, *, waits: bool) -> None:
        found = self._node.history.studies[study]
        lacks_forms = len(found.registered) < len(self._node.studies[study].study.forms)
        if found.created.creator == self._node.me and lacks_forms:
            await self._register_forms(node, study)
            return
        if waits:
            await self._post_grants(node, study)
        if self._auto_join and self._node.me not in found.joined | found.left:
            await self._auto(node, study)

    async def _auto(self, node: Node, study: Digest) -> None:
        """Grant what our register covers, or wait for the dpo, then join: the first round's snapshot is its opening."""
        found = self._node.history.studies[study]
        if not found.created.terms.invited >> self.member & 1:
            return
        if len(found.registered) < len(self._node.studies[study].study.forms):
            return  # the creator has not registered them yet
        mark = ("enrolled", study)
        if self._node.store.meta(f"enrolled {study.hex()}") is None:
            attended = self.vault.needs_officer and self._officer is None
            if attended or (self._register is None and not self.network.synthetic):
                if not await node.core(self.vault.holdings, study):
                    if mark not in self._complained:
                        self._complained.add(mark)
                        log.warning("waiting for the dpo's `koinon consent grant`", study=study.hex()[:12])
                    return
            else:
                register = self._register.read_bytes() if self._register is not None else None
                await node.core(self._enrol_unattended, study, register, node.now)
            await node.core(self._node.store.set_meta, f"enrolled {study.hex()}", str(node.now))
            await self._post_grants(node, study)
            return
        if not await node.core(self.vault.pending_anchors, study):
            await self.join(node, study)

    def _enrol_unattended(self, study: Digest, register: bytes | None, now: int) -> None:
        # Without a register the patients are invented, and so is what they signed today.
        enrol = partial(self._enrol, study, register, register is None, now, unattended=register is not None)
        if self._officer is None or not self.vault.needs_officer:
            enrol()
            return
        with self.vault.unlocked(self._officer(), roles.witness(self._node.store, "dpo", "unattended enrolment")):
            enrol()

    async def _work_withdrawals(self, node: Node) -> None:
        await node.core(self._node.hear_withdrawals)
        await self.post_withdrawals(node)

    async def _work_copies(self, node: Node) -> None:
        """Delete the research copy of ended consents whose form says so."""
        if self._node.vault is None:
            return
        due = await node.core(enrolment.due_deletions, self.vault, self._node.history)
        if due:
            gone: int = await node.core(self.vault.delete_copy, *due)
            if gone:  # what another consent covers stays, and is no reason to end a training
                await node.trainer_forget()

    async def _work_retention(self, node: Node) -> None:
        while await node.core(self._retention.step, node.now):
            pass

    async def _work_audit(self, node: Node) -> None:
        seat = self._node.seat
        if seat is None:
            await node.core(self._open_unattended, node.now)
            for opening in await node.core(self._openings_due, node.now):
                await self._send_opening(node, opening)
            return
        auditor = self._node.history.registry.auditors.get(seat)
        for study, found in list(self._node.history.studies.items()):
            if any(one.seat == seat for _, one in found.access):
                continue
            if auditor is None or not auditor.serves(study, node.now):
                continue  # the seat is for another study, or its term is over
            statement = AuditAccess(study, seat, 1, EVERY_ROUND, AUDIT_GROUND)
            signature = sign(statement, self._domains.of(statement), self._ring.ledger)
            await node.send(AuditAnnouncement(study, seat, 1, EVERY_ROUND, AUDIT_GROUND, signature))

    def _open_unattended(self, now: int) -> None:
        """Where nobody attends (the dpo's password lies beside the node) an announced audit is opened by the node."""
        if self._node.vault is None or (self._officer is None and self.vault.needs_officer):
            return
        for study, found in self._node.history.studies.items():
            for _, access in found.access:
                self._node.order_audit(study, access.seat, now, "unattended")

    def _openings_due(self, now: int) -> list[AuditOpening]:
        """Openings that were ordered here and are not on the chain: signed, and lost on the way or not sent yet."""
        auditors = self._node.history.registry.auditors
        return [
            self._opening(study, access.seat)
            for study, found in self._node.history.studies.items()
            for _, access in found.access
            if self._node.audit_ordered(study, access.seat)
            and not self._node.audit_open(study, access.seat)
            and auditors[access.seat].serves(study, now)
        ]

    def _opening(self, study: Digest, seat: int) -> AuditOpening:
        statement = OpenAudit(self.member, seat, study)
        return AuditOpening(self.member, seat, study, self._node.sign(statement))

    @staticmethod
    async def _send_opening(node: Node, opening: AuditOpening) -> None:
        try:
            await node.send(opening)
        except CallReverted as error:
            if error.error != "AuditOpenedBefore":  # its record is on the way to us
                raise

    async def open_audit(self, node: Node, study: Digest, seat: int) -> dict[str, Any]:
        """Let an auditor whose access is announced on the chain have this study's keys here, and say so on the chain.

        Until the chain has it no key goes out. May be ordered again at any point.

        Raises:
            Refused: nothing is announced for this seat, or its term is over.
        """
        auditor = self._node.history.registry.auditors.get(seat)
        if auditor is None or not auditor.serves(study, node.now):
            raise Refused(f"no auditor has seat {seat} for study {study.hex()[:12]} now")
        announced = [access for _, access in self._node.history.studies[study].access if access.seat == seat]
        if not announced:
            raise Refused(
                f"{auditor.name} has announced no access to study {study.hex()[:12]} on the chain: that is first"
            )
        await node.core(self._node.order_audit, study, seat, node.now, "dpo")
        if not self._node.audit_open(study, seat):
            await self._send_opening(node, await node.core(self._opening, study, seat))
        return {"study": study.hex(), "seat": seat, "auditor": auditor.name, "term_end": auditor.term_end or None}

    async def _work_log(self, node: Node) -> None:
        """Anchor our log's lines within a day of being written."""
        if self._node.me is not None:
            anchoring = await node.core(logbook.due, self._node, node.now)
            if anchoring is not None:
                await node.send(anchoring)

    # ----------------------------------------------------------------------------------------------------------------
    # From peers

    async def relayed(self, node: Node, notice: Notice) -> None:
        """A card's statement handed on by a peer: stop at once if the consent is ours, and see it onto the chain."""
        if isinstance(notice, WithdrawalNotice):
            await node.core(self._node.end_consent, notice.consent_id, node.now)
            await node.core(self._keep_withdrawal, notice)

    async def noticed(self, node: Node, notice: Notice) -> None:
        """Any other notice that is not about a round."""
        await self.governance.noticed(node, notice)


__all__ = ["AUDIT_GROUND", "Desk"]


def _check_shards(study: Study, invited: int) -> None:
    """Refuse a study in which a shard has nobody to train it."""
    shards = study["training", "shards"]
    empty = sorted(set(range(1, shards + 1)) - {shard_of(index, shards) for index in members_of(invited)})
    if empty:
        raise Refused(
            f"study {study.name}: training.shards = {shards}, and no invited member is of shard {empty[0]} "
            "(a member's shard is 1 + its index modulo their number)"
        )


def _check_purpose(study: Study) -> None:
    """Refuse a study for a purpose that a form of its own does not allow."""
    for name, why in study.form_refusals().items():
        raise Refused(f"study {study.name}, form {name}: {why}")
