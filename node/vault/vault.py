"""The vault that others use: what is done with persons, consents and copies, over all compartments.

What may live here: the acts that span compartments, each in its order of writes. What this file does not know: how
anything is sealed, and the way to LINK (`node/vault/link.py`).
"""

from __future__ import annotations

import datetime
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from crypto.blobs import ROLE_TRAIN
from crypto.digest import ZERO, Digest
from node.card import Card, Origin
from node.consent import MARKS, STOP_AND_DELETE, GrantProof, Leaf
from node.errors import LocalFault, NotFound, Refused
from node.history import History
from node.vault import consents
from node.vault.compartment import COMPARTMENTS, Compartment, KeyFile
from node.vault.consents import Annex, ArchiveRecord, Holding, Minted, PendingAnchor
from node.vault.copies import Copies, ImportReport, Records
from node.vault.link import Link, Tell

_COPY_DELETED: Final = 2  # ErasureStepped.step
_LINK_DESTROYED: Final = 4
_REPLACES: Final = {
    "": MARKS,
    "superseded": ("withdrawn", "entered-in-error"),
    "entered-in-error": ("withdrawn",),
    "withdrawn": (),
}
"""Mark of a consent -> the marks that may take its place."""


class Vault:
    """One hospital's vault. Thread-safe; one process at a time (the home's lock sees to that), beside readers.

    Make it with `create` or `open`; look into it with `read`. Every method that takes a consent raises `NotFound` for
    one that is not here, unless it says otherwise. Methods that need the link between person and consent say "LINK" and
    raise `Refused` outside `unlocked`.
    """

    def __init__(
        self, path: Path, keys: KeyFile, officer: bytes | None, *, create: bool, reading: bool = False
    ) -> None:
        """Use `create`, `open` or `read`."""
        self._lock = threading.RLock()
        data = path / "data"
        if not reading:
            data.mkdir(mode=0o700, exist_ok=True)
        part = {
            name: Compartment(
                path / f"{name}.db", name, keys, named=name != "suppression", create=create, reading=reading
            )
            for name in COMPARTMENTS
        }
        self._use, self._archive, self._suppression = part["use"], part["archive"], part["suppression"]
        self._link = Link(part["link"], self._suppression, keys, self._lock, officer)
        self._copies = Copies(part["research"], data, self._lock)
        if reading:
            self._copies.index()
        else:
            self._finish()

    @classmethod
    def create(cls, path: Path, at_rest_key: bytes, officer: bytes | None = None) -> Self:
        """Make an empty vault in the folder `path`; `LocalFault` where there is one already.

        Args:
            path: the folder.
            at_rest_key: 32 bytes, the node's.
            officer: 32 bytes, the data-protection officer's. This object keeps it; later ones get it by `unlocked`.
                None makes a vault whose link opens with the node's key, for simulations, where there are no persons.
        """
        keys_path = path / "keys.json"
        if keys_path.exists():
            raise LocalFault(f"{path} already holds a vault")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = KeyFile(keys_path, at_rest_key)
        keys.make(officer)
        return cls(path, keys, officer, create=True)

    @classmethod
    def open(cls, path: Path, at_rest_key: bytes) -> Self:
        """Open the vault at `path`, without its link, and finish whatever a crash interrupted.

        Raises:
            NotFound: no vault here.
            LocalFault: another node's keys, damaged, incomplete, of another version, or parts of different backups.
        """
        keys = KeyFile(path / "keys.json", at_rest_key)
        keys.read()
        keys.shred_draft()
        return cls(path, keys, None, create=False)

    @classmethod
    def read(cls, path: Path, at_rest_key: bytes) -> Self:
        """Open the vault at `path` for `leaves` and `rows` alone, beside the node that it belongs to; writes nothing.

        What the node deletes meanwhile is gone here too, or ends as a `LocalFault`: then open it anew.

        Raises:
            NotFound, LocalFault: as `open`.
        """
        keys = KeyFile(path / "keys.json", at_rest_key)
        keys.read()
        return cls(path, keys, None, create=False, reading=True)

    def close(self) -> None:
        """Fold the logs into the files and let go of them."""
        with self._lock:
            for one in (self._link, self._use, self._copies, self._archive, self._suppression):
                one.close()

    # ----------------------------------------------------------------------------------------------------------------
    # The officer's key

    @property
    def needs_officer(self) -> bool:
        """Whether LINK opens with an officer's key only; not so in the vault of a simulation."""
        return self._link.needs_officer

    @contextmanager
    def unlocked(self, officer: bytes, tell: Tell) -> Iterator[None]:
        """Let the running task use LINK until the block ends; every use is told before it happens.

        Raises:
            Refused: not the officer's key of this vault.
        """
        with self._link.unlocked(officer, tell):
            yield

    def admit_officer(self, officer: bytes) -> None:
        """Let LINK open with this key as well (LINK): a new officer's, until `keep_officer` ends the old one."""
        self._link.admit(officer)

    def keep_officer(self, officer: bytes) -> None:
        """From now on LINK opens with this key alone, and under a fresh share (LINK)."""
        self._link.keep(officer)

    def _finish(self) -> None:
        """Make the compartments agree: USE says what should be here, LINK, RESEARCH and `data/` follow."""
        persons = self._use.all("person")
        held = {one["pseudonym"] for one in persons if one["copy"]}
        slots = {bytes.fromhex(one["slot"]) for one in [*persons, *self._use.all("consent")]}
        self._link.keep_slots(slots)
        self._copies.keep(held)

    # ----------------------------------------------------------------------------------------------------------------
    # The imported copy

    def import_dataset(self, dataset: Records, *, now: int | None = None) -> ImportReport:
        """Take a dataset in under fresh random pseudonyms.

        Row i gets the import row number `base + i`, where base is 0 for the first import: a record that is left out
        still uses its number up, so that the same file gives the same numbers whoever was erased. Suppressed patients
        are left out and counted; patients who are already here are left as they are (records are frozen in data cuts).
        `now` (unix seconds, by default the wall clock) decides whether a suppression still holds. LINK.

        Raises:
            InputError: another shape than the records already here, or one patient in two roles (named by row).
        """
        at = int(time.time()) if now is None else now
        with self._lock, self._link.opened("import") as link:
            mine, shape = self._copies.fit(dataset)
            base = (self._use.get("meta", b"rows") or {"next": 0})["next"]
            known = suppressed = records = 0
            persons: list[tuple[str, dict[str, Any]]] = []
            copies: list[dict[str, Any]] = []
            for patient, rows in mine.items():
                if self.is_suppressed(patient, None, at):
                    suppressed += 1
                elif (before := self._person_of(link, patient)) is not None and before["copy"]:
                    known += 1
                else:  # new, or back after the copy was deleted
                    pseudonym = secrets.token_hex(16) if before is None else before["pseudonym"]
                    numbers = [base + row for row in rows]
                    role = int(dataset.roles[rows[0]]) + ROLE_TRAIN
                    copies.append(self._copies.write(pseudonym, role, numbers, dataset.x[rows], dataset.y[rows]))
                    person: dict[str, Any] = {
                        "consents": [],
                        "slot": secrets.token_hex(16),
                        "suppression": self._suppression.tag("patient", patient.encode()).hex(),
                        **(before or {}),
                        "pseudonym": pseudonym,
                        "role": role,
                        "rows": numbers,
                        "copy": True,
                        "before": [] if before is None else self._ended_of(before),
                    }
                    persons.append((patient, person))
                    records += len(rows)
            if persons:
                os.sync()  # one flush for all files, before any row says that they are there
                self._copies.put(shape, copies)
                with link.transaction():
                    for patient, person in persons:
                        value = {"patient": patient, "pseudonym": person["pseudonym"]}
                        link.put("patient", patient.encode(), value, slot=bytes.fromhex(person["slot"]))
                with self._use.transaction():
                    self._use.put("meta", b"rows", {"next": base + len(dataset.patients)})
                    for _, person in persons:
                        self._use.put("person", person["pseudonym"].encode(), person)
                self._copies.index()
            return ImportReport(len(persons), records, suppressed, known)

    def _ended_of(self, person: dict[str, Any]) -> list[str]:
        return [one for one in person["consents"] if self._consent(bytes.fromhex(one))["mark"]]

    def shape(self) -> tuple[tuple[int, ...], int, str]:
        """(shape of one record, classes, dtype of x) of the records here; `NotFound` while nothing was imported."""
        return self._copies.shape()

    def rows(self, numbers: Iterable[int], role: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Records by import row number, in the order asked: x float32 [n, ...], y int64 [n].

        `role` is 1 train, 2 validation, 3 test, as in `Leaf`. `NotFound` names the first number that is not here
        (never imported, or deleted), `LocalError` one that has another role.
        """
        return self._copies.rows(numbers, role)

    def row_numbers(self, role: int) -> tuple[int, ...]:
        """Every row number of that role that is here, ascending, whatever its consents say."""
        return self._copies.row_numbers(role)

    def every_row(self) -> frozenset[int]:
        """Every row number that is here, of any role."""
        return self._copies.every_row()

    def patient_ids(self) -> tuple[str, ...]:
        """The patients, in import order (LINK). For the data-protection desk alone; never print or log them."""
        with self._link.opened("list persons") as link:
            return tuple(one["patient"] for one in link.all("patient"))

    def delete_copy(self, *consent_ids: Digest) -> int:
        """Destroy the copy of these consents' patients; returns how many copies are gone that were here.

        A copy stays where the patient has another consent, not named here, that nobody has ended.
        """
        with self._lock:
            gone: list[dict[str, Any]] = []
            asked = {bytes(one) for one in consent_ids}
            for one in asked:
                consent = self._consent(one)
                patient = self._person(consent)
                live = [
                    other
                    for other in patient["consents"]
                    if bytes.fromhex(other) not in asked and self._consent(bytes.fromhex(other))["mark"] == ""
                ]
                if patient["copy"] and not live:
                    patient["copy"] = False
                    gone.append(patient)
            if gone:
                with self._use.transaction():
                    for patient in gone:
                        self._use.put("person", patient["pseudonym"].encode(), patient)
                self._use.checkpoint()
            self._finish()  # also what an interrupted call has begun
            return len({patient["pseudonym"] for patient in gone})

    # ----------------------------------------------------------------------------------------------------------------
    # Consents

    def mint(
        self,
        patient_id: str,
        *,
        origin: Origin,
        form_id: Digest,
        document: bytes,
        signed_on: datetime.date,
        issued: datetime.date,
        now: int,
        usable_from: int = 0,
        authority: str = "",
        review_on: str = "",
        unattended: bool = False,
    ) -> Minted:
        """Make a consent: three secrets, a holder key, both statements of the card signed, the key forgotten.

        Idempotent for (patient, study, form) while that consent is not ended. Under another form of the same study a
        consent signed before is marked superseded; one signed later stays, and what it superseded is not made again.
        `document` is the signed form as registered, kept sealed; `now` is chain time; `usable_from` (unix seconds) the
        end of a notice period. `authority` and `review_on` (YYYY-MM-DD) are those of a representative who signed; they
        stay here, and of a live consent that existed they are replaced where they are given: a court's new order, the
        next day of review. `unattended`: no person looks at it. LINK.

        Raises:
            NotFound: no such patient here.
            Refused: the patient is suppressed, or ended a consent in this study, refused this form, or signed another
                one of it, on or (but for the last) after the day of this signature; unattended, also where a consent to
                another study ended so.
        """
        with self._lock, self._link.opened("enrol") as link, self._use.transaction(), link.transaction():
            patient, everywhere, there = self._consent_of(link, patient_id, origin.study, form_id, signed_on, now)
            if there is not None:
                return Minted(there, fresh=False, updated=self._note_representative(link, there, authority, review_on))
            if unattended:
                consents.left_to_people(everywhere, signed_on)
            if not patient["copy"]:
                raise NotFound("the records of this patient were deleted here; import them again")
            mine = [one for one in everywhere if one["study"] == origin.study.hex()]
            superseded = tuple(Digest.from_hex(one["consent_id"]) for one in mine if one["mark"] == "")
            for one in superseded:
                self.note_withdrawal(one, at=now, mark="superseded")
            consent, doc_salt = consents.new_consent(patient["pseudonym"], origin, form_id, document)
            form = {"patient_id": patient_id, "document": document.hex(), "signed_on": signed_on.isoformat()}
            consent |= {"signed_on": signed_on.isoformat(), "issued": issued.isoformat()}
            consent |= {"usable_from": usable_from, "review_on": review_on, "form": self._link.seal_form(form)}
            linked = {"patient": patient_id, "document": document.hex(), "doc_salt": doc_salt.hex()}
            linked |= {"authority": authority}
            name = bytes.fromhex(consent["consent_id"])
            self._link.touch(consent["consent_id"])
            link.put("consent", name, linked, slot=bytes.fromhex(consent["slot"]))
            patient["consents"].append(consent["consent_id"])
            self._use.put("consent", name, consent)
            self._use.put("person", patient["pseudonym"].encode(), patient)
            return Minted(Digest.from_hex(consent["consent_id"]), True, superseded)

    def _consent_of(
        self, link: Compartment, patient_id: str, study: Digest, form_id: Digest, signed_on: datetime.date, now: int
    ) -> tuple[dict[str, Any], list[dict[str, Any]], Digest | None]:
        """A patient, all their consents, and the one that a form signed on this day is of; None: it makes one.

        Raises:
            NotFound, Refused: as `mint`.
        """
        if self.is_suppressed(patient_id, study, now):
            raise Refused("this patient was erased from the study and may not be enrolled again")
        patient = self._person_of(link, patient_id)
        if patient is None:
            raise NotFound("this patient has no records in the vault")
        everywhere = [self._consent(bytes.fromhex(one)) for one in patient["consents"]]
        mine = [one for one in everywhere if one["study"] == study.hex()]
        refused = patient.get("refused", {}).get(consents.refusal(study, form_id), "")
        return patient, everywhere, consents.already(mine, refused, form_id, signed_on)

    def _note_representative(self, link: Compartment, consent_id: Digest, authority: str, review_on: str) -> bool:
        """Keep by what right a representative of a live consent signed, and when to look again; whether it was news."""
        consent, linked = self._consent(consent_id), link.get("consent", consent_id) or {}
        review_on, authority = review_on or consent.get("review_on", ""), authority or linked.get("authority", "")
        same = (review_on, authority) == (consent.get("review_on", ""), linked.get("authority", ""))
        if same or consent["mark"]:
            return False
        self._link.touch(consent_id.hex())
        link.put("consent", consent_id, linked | {"authority": authority}, slot=bytes.fromhex(consent["slot"]))
        self._use.put("consent", consent_id, consent | {"review_on": review_on})
        return True

    def would_mint(self, patient_id: str, study: Digest, form_id: Digest, signed_on: datetime.date, now: int) -> bool:
        """Whether `mint` would make a consent of such a form: it has none, and nothing that is here refuses it. LINK.

        Of a copy that was deleted it says nothing, nor of what `mint` leaves to people.
        """
        with self._lock, self._link.opened("enrol") as link:
            try:
                return self._consent_of(link, patient_id, study, form_id, signed_on, now)[2] is None
            except (NotFound, Refused):
                return False

    def note_refusal(self, patient_id: str, study: Digest, form_id: Digest, day: str) -> None:
        """Keep that a patient refused a form, or ended a consent under it, on a day (YYYY-MM-DD): no form signed until
        then is enrolled. LINK. `NotFound` for a patient without records here.
        """
        with self._lock, self._link.opened("enrol") as link, self._use.transaction():
            patient = self._person_of(link, patient_id)
            if patient is None:
                raise NotFound("this patient has no records in the vault")
            refused, name = patient.setdefault("refused", {}), consents.refusal(study, form_id)
            if day > refused.get(name, ""):
                refused[name] = day
                self._use.put("person", patient["pseudonym"].encode(), patient)

    def _person_of(self, link: Compartment, patient_id: str) -> dict[str, Any] | None:
        found = link.get("patient", patient_id.encode())
        return None if found is None else self._use.get("person", found["pseudonym"].encode())

    def _consent(self, consent_id: bytes) -> dict[str, Any]:
        found = self._use.get("consent", consent_id)
        if found is None:
            raise NotFound(f"consent {consent_id.hex()} is not in this vault")
        return found

    def _person(self, consent: dict[str, Any]) -> dict[str, Any]:
        found = self._use.get("person", consent["pseudonym"].encode())
        if found is None:
            raise LocalFault(f"the vault's use compartment lacks the person of consent {consent['consent_id']}")
        return found

    def _linked_consent(self, act: str, consent_id: Digest) -> dict[str, Any]:
        self._consent(consent_id)
        with self._link.opened(act, consent_id.hex()) as link:
            found = link.get("consent", consent_id)
        if found is None:
            raise LocalFault(f"the vault's link compartment lacks consent {consent_id.hex()}")
        return found

    def leaves(self, study: Digest) -> list[Leaf]:
        """Every consent of the study, ended ones too: `consent.usable` decides. In the order they were minted."""
        with self._lock:
            persons = {one["pseudonym"]: one for one in self._use.all("person")}
            return [
                consents.leaf_of(consent, persons[consent["pseudonym"]])
                for consent in self._use.all("consent")
                if consent["study"] == study.hex()
            ]

    def note_withdrawal(self, consent_id: Digest, *, at: int, mark: str = "withdrawn", reason: str = "") -> bool:
        """Stop use at once, whatever the chain says; whether that was news. A consent of others is no news.

        `mark` is one of `consent.MARKS`; "withdrawn" replaces the other two and nothing replaces it;
        "entered-in-error" replaces "superseded". `at` is chain time,
        `reason` the hospital's own words; they stay here.
        """
        if mark not in MARKS:
            raise ValueError(f"mark {mark!r} is none of {', '.join(MARKS)}")
        with self._lock:
            consent = self._use.get("consent", consent_id)
            if consent is None or mark not in _REPLACES[consent["mark"]]:
                return False
            if reason:  # words about a person
                with self._link.opened("correct", consent_id.hex()) as link:
                    linked = link.get("consent", consent_id) or {}
                    link.put("consent", consent_id, linked | {"reason": reason}, slot=bytes.fromhex(consent["slot"]))
            consent |= {"mark": mark, "marked_at": at}
            with self._use.transaction():
                self._use.put("consent", consent_id, consent)
            return True

    def mark_of(self, consent_id: Digest) -> str | None:
        """How a consent of ours ended, "" while it has not; None: it is not here."""
        with self._lock:
            consent = self._use.get("consent", consent_id)
        return None if consent is None else str(consent["mark"])

    def card(self, consent_id: Digest) -> Card:
        """The withdrawal card of a consent."""
        return consents.card_of(self._consent(consent_id))

    @property
    def changes(self) -> int:
        """Rows written about persons and consents since it was opened; the same number, the same rows."""
        return self._use.changes

    def find(self, who: str | Digest) -> tuple[Holding, ...]:
        """The consents of a patient (text; LINK), or the one with this id (`Digest`); `NotFound` if there is none."""
        with self._lock:
            if isinstance(who, Digest):
                consent = self._consent(who)
                return (consents.holding_of(consent, self._person(consent)),)
            with self._link.opened("find") as link:
                patient = self._person_of(link, who)
                self._link.touch(*([] if patient is None else patient["consents"]))
            if patient is None or not patient["consents"]:
                raise NotFound("this patient has no consent in the vault")
            return tuple(consents.holding_of(self._consent(bytes.fromhex(one)), patient) for one in patient["consents"])

    def holdings(self, study: Digest | None = None) -> tuple[Holding, ...]:
        """Every consent here, or those of one study, in the order they were minted."""
        with self._lock:
            persons = {one["pseudonym"]: one for one in self._use.all("person")}
            return tuple(
                consents.holding_of(consent, persons[consent["pseudonym"]])
                for consent in self._use.all("consent")
                if study is None or consent["study"] == study.hex()
            )

    def patient_of(self, consent_id: Digest) -> str:
        """The patient of a consent (LINK). For the data-protection desk alone; never print or log it."""
        return str(self._linked_consent("name the person", consent_id)["patient"])

    def document(self, consent_id: Digest) -> bytes:
        """The signed form that a consent is bound to (LINK). For the data-protection desk: it names the patient."""
        return bytes.fromhex(self._linked_consent("show the form", consent_id)["document"])

    @contextmanager
    def reading(self, act: str) -> Iterator[None]:
        """Several looks at LINK as one act: told once before, and once with all consents it was about."""
        with self._link.opened(act):
            yield

    def request_salt(self, consent_id: Digest) -> Digest:
        """The salt of this consent's request id: drawn when the consent was made, so that a restored vault has it."""
        return Digest.from_hex(self._consent(consent_id)["request_salt"])

    def annex(self, consent_id: Digest) -> Annex:
        """What goes to the patient with the certificate; see `Annex`."""
        return consents.annex_of(self._consent(consent_id))

    # ----------------------------------------------------------------------------------------------------------------
    # Grants on their way to the chain

    @contextmanager
    def enrolling(self) -> Iterator[None]:
        """Several mints and the anchors that carry them as one act: all of it is kept, or nothing. LINK."""
        with self._lock, self._link.opened("enrol") as link, self._use.transaction(), link.transaction():
            yield

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Several placings as one act; it names nobody and needs no LINK, so a node does it unattended."""
        with self._lock, self._use.transaction():
            yield

    def due_for_review(self, day: str) -> tuple[Digest, ...]:
        """Live consents that a representative signed and that were to be looked at again by `day` (YYYY-MM-DD)."""
        return tuple(
            Digest.from_hex(one["consent_id"])
            for one in self._use.all("consent")
            if one["mark"] == "" and one.get("review_on") and one["review_on"] <= day
        )

    def last_anchored(self, study: Digest) -> int | None:
        """When the last anchor of the study was made (chain time); None: none was."""
        found = self._use.get("anchored", study)
        return None if found is None else int(found["at"])

    def note_anchored(self, study: Digest, at: int) -> None:
        """Keep when an anchor was made."""
        self._use.put("anchored", study, {"at": at})

    def unplaced(self, study: Digest, form_id: Digest, now: int | None = None) -> tuple[Digest, ...]:
        """Consents under this form that no anchor or grant carries yet and nobody has ended.

        With `now` only those whose notice period is over.
        """
        return tuple(
            Digest.from_hex(one["consent_id"])
            for one in self._use.all("consent")
            if one["study"] == study.hex()
            and one["form_id"] == form_id.hex()
            and one["proof"] is None
            and one["mark"] == ""
            and (now is None or one.get("usable_from", 0) <= now)
        )

    def place(self, places: Mapping[Digest, GrantProof], anchor: PendingAnchor | None = None) -> None:
        """Keep by which proof these consents will be on the chain, and the anchor they share, before it is posted."""
        with self._lock, self._use.transaction():
            for consent_id, proof in places.items():
                consent = self._consent(consent_id)
                consent["proof"] = consents.json_of(proof)
                self._use.put("consent", consent_id, consent)
            if anchor is not None:
                tree = {
                    "study": anchor.study.hex(),
                    "form_id": anchor.form_id.hex(),
                    "root": anchor.root.hex(),
                    "count": anchor.count,
                    "on_chain": False,
                }
                self._use.put("anchor", anchor.root, tree)

    def pending_anchors(self, study: Digest) -> tuple[PendingAnchor, ...]:
        """Anchors of the study that `confirm` does not see on the chain, in the order they were made."""
        return tuple(
            PendingAnchor(study, Digest.from_hex(one["form_id"]), Digest.from_hex(one["root"]), one["count"])
            for one in self._use.all("anchor")
            if one["study"] == study.hex() and not one["on_chain"]
        )

    def waiting(self) -> frozenset[Digest]:
        """The studies with anchors or grants that are pending."""
        studies = [one["study"] for one in self._use.all("anchor") if not one["on_chain"]]
        studies += [one["study"] for one in self._use.all("consent") if consents.is_pending(one)]
        return frozenset(map(Digest.from_hex, studies))

    def pending_grants(self, study: Digest) -> tuple[Holding, ...]:
        """Consents that wait for a grant of their own, and that nobody has ended."""
        with self._lock:
            return tuple(
                consents.holding_of(one, self._person(one))
                for one in self._use.all("consent")
                if one["study"] == study.hex() and consents.is_pending(one)
            )

    def confirm(self, history: History) -> int:
        """Note which grants the chain has; returns how many consents became granted by this call.

        Whatever the chain does not have, or not any more (a reorganisation), is pending: it will be posted again.

        A hospital that copies our root or consent id out of our transaction and is mined first grants nothing of ours,
        but keeps us from posting it. An anchor's consents then wait for another anchor; a consent whose id was taken is
        replaced (superseded) at the next enrolment.
        """
        with self._lock, self._use.transaction():
            return consents.confirm(self._use, history)

    # ----------------------------------------------------------------------------------------------------------------
    # The end of a consent

    def archive(
        self,
        consent_id: Digest,
        *,
        study_name: str,
        decision: str,
        ground: str = "",
        requested_on: str = "",
        completed_on: str = "",
        first_use_on: str = "",
        last_use_on: str = "",
        recipients: Sequence[str] = (),
        extension: str | None = None,
    ) -> None:
        """Keep what must outlive the link (see `ArchiveRecord`). Again for the same consent: replaces the record.

        `extension` None keeps what was said of it before.

        Nothing in the record leads to the consent: its place is random, and only USE knows it until the link is
        destroyed. Who it was, and the form, are sealed for the officer: the node can put them here, not read them.
        """
        with self._lock:
            consent = self._consent(consent_id)
            if not consent["archive"]:
                consent["archive"] = secrets.token_hex(16)
                self._use.put("consent", consent_id, consent)
            before = self._archive.get("decision", consent["archive"].encode()) or {}
            record = {
                "form": consent["form"],
                "study_name": study_name,
                "decision": decision,
                "ground": ground,
                "requested_on": requested_on,
                "completed_on": completed_on,
                "first_use_on": first_use_on,
                "last_use_on": last_use_on,
                "recipients": list(recipients),
                "extension": before.get("extension", "") if extension is None else extension,
            }
            self._archive.put("decision", consent["archive"].encode(), record)

    def archived(self, patient_id: str | None = None) -> tuple[ArchiveRecord, ...]:
        """What the archive keeps, about one patient or all (LINK). For the data-protection desk alone."""
        with self._link.opened("read the archive"):
            found = [one | self._link.open_form(one.pop("form")) for one in self._archive.all("decision")]
        return tuple(
            ArchiveRecord(**{**one, "document": bytes.fromhex(one["document"]), "recipients": tuple(one["recipients"])})
            for one in found
            if patient_id is None or one["patient_id"] == patient_id
        )

    def suppress(self, patient_id: str, study: Digest, until: int | None = None) -> None:
        """Refuse this patient in the study (zero: in all) until unix time `until`, or for good. LINK."""
        with self._link.opened("suppress"):
            self._suppress(self._suppression.tag("patient", patient_id.encode()), study, until)

    def _suppress(self, tag: bytes, study: Digest, until: int | None) -> None:
        with self._lock, self._suppression.transaction():
            found = self._suppression.get("patient", b"", tag=tag) or {}
            found[study.hex()] = until
            self._suppression.put("patient", b"", found, tag=tag)

    def suppress_consent(self, consent_id: Digest, until: int | None = None) -> None:
        """`suppress` for the person and study of a consent that is still linked; it needs no name."""
        one = self._consent(consent_id)
        self._suppress(bytes.fromhex(self._person(one)["suppression"]), Digest.from_hex(one["study"]), until)

    def lift_suppression(self, patient_id: str, study: Digest) -> bool:
        """Let the patient be enrolled again (by a new signed form); whether it was suppressed. LINK."""
        with self._lock, self._link.opened("lift a suppression"), self._suppression.transaction():
            found = self._suppression.get("patient", patient_id.encode()) or {}
            if study.hex() not in found:
                return False
            del found[study.hex()]
            if found:
                self._suppression.put("patient", patient_id.encode(), found)
            else:
                self._suppression.delete("patient", patient_id.encode())
            return True

    def is_suppressed(self, patient_id: str, study: Digest | None, now: int) -> bool:
        """Whether the patient may not be enrolled in the study (None: in some study) at unix time `now`. LINK."""
        with self._link.opened("look for a suppression"):
            found = self._suppression.get("patient", patient_id.encode()) or {}
        return any(
            until is None or until > now
            for one, until in found.items()
            if study is None or one in (study.hex(), ZERO.hex())
        )

    def destroy_link(self, *consent_ids: Digest) -> int:
        """Destroy what ties these consents to their patients; returns how many were here. Unknown ones are skipped.

        A patient with no other consent leaves LINK altogether, and the copy with it if it was still here. It needs no
        officer's key: then what stays in LINK gets its fresh key with the next order that brings one.
        """
        with self._lock:
            here = {bytes(one): found for one in consent_ids if (found := self._use.get("consent", one)) is not None}
            if not here:
                return 0
            self.delete_copy(*map(Digest, here))
            doomed = [("consent", one) for one in here]
            kept: list[dict[str, Any]] = []
            for name in {found["pseudonym"] for found in here.values()}:
                person = self._use.get("person", name.encode())
                if person is None:
                    continue
                person["consents"] = [one for one in person["consents"] if bytes.fromhex(one) not in here]
                if person["consents"]:
                    kept.append(person)
                else:
                    doomed.append(("person", name.encode()))
            leaves = {found["leaf_key"] for found in here.values()}
            with self._use.transaction():
                for person in kept:
                    self._use.put("person", person["pseudonym"].encode(), person)
                for one in self._use.all("set"):
                    if leaves & set(one["leaves"]):
                        left = {**one, "leaves": [leaf for leaf in one["leaves"] if leaf not in leaves]}
                        self._use.put("set", bytes.fromhex(one["round"]), left)
            self._use.destroy(doomed)
            self._finish()
            if self._link.has_key:
                with self._link.opened("destroy links", *(one.hex() for one in here)) as link:
                    link.destroy(())
            return len(here)

    # ----------------------------------------------------------------------------------------------------------------
    # Accounting

    def leaf_keys(self) -> frozenset[Digest]:
        """The leaves of every consent that is here: not of those whose link is destroyed."""
        with self._lock:
            return frozenset(Digest.from_hex(one["leaf_key"]) for one in self._use.all("consent"))

    def note_set(self, round_id: Digest, leaf_keys: Iterable[Digest]) -> None:
        """Keep which leaves a set of ours held, before it is deleted: disclosures have to be accounted for.

        One row a round, as a set is; only leaves of `leaf_keys()` belong into it. `destroy_link` takes the leaves of
        erased consents out of all of them.
        """
        with self._lock, self._use.transaction():
            kept = {"round": round_id.hex(), "leaves": sorted(one.hex() for one in leaf_keys)}
            self._use.put("set", round_id, kept)

    def noted_set(self, round_id: Digest) -> frozenset[Digest] | None:
        """The leaves of a set of ours that is gone, without those of erased consents; None: nothing was noted."""
        with self._lock:
            found = self._use.get("set", round_id)
        return None if found is None else frozenset(map(Digest.from_hex, found["leaves"]))

    # ----------------------------------------------------------------------------------------------------------------
    # Restore guard

    def reapply(self, history: History, outlive: Callable[[Digest, Digest], None] | None = None) -> int:
        """Do again what the chain says was done: a vault may have come back from a backup. Call before any training.

        Every consent that is live here and withdrawn on the chain is stopped, and its copy deleted where the form
        says so. Where an erasure of this hospital has deleted copies or destroyed links, so does this vault, for the
        consents whose request salts make the batch's root. Where they do not (the batch named others too, or the link
        is gone already), the copies of all that were stopped just now and may have been meant are deleted: each of
        these people has withdrawn, so none is wronged. Returns how many consents changed; 0 in a vault that is up to
        date.

        Args:
            history: the chain.
            outlive: called with batch and consent before a link is destroyed, to `archive` what the backup is too old
                to have.
        """
        with self._lock:
            stopped: set[str] = set()
            copies: set[str] = set()
            links: dict[str, Digest] = {}
            for one in self._use.all("consent"):
                consent_id = Digest.from_hex(one["consent_id"])
                if one["mark"] == "" and consent_id in history.withdrawals:
                    self.note_withdrawal(consent_id, at=history.withdrawals[consent_id][0].at)
                    stopped.add(one["consent_id"])
                    study = history.studies.get(Digest.from_hex(one["study"]))
                    form = study.forms.get(Digest.from_hex(one["form_id"])) if study else None
                    if form is not None and form.on_withdrawal >= STOP_AND_DELETE:
                        copies.add(one["consent_id"])
            for erasure in history.erasures.values():
                if _COPY_DELETED not in erasure.steps:
                    continue
                maybe = consents.maybe_erased(self._use.all("consent"), erasure, history)
                named = consents.requested(maybe, erasure.opened.requests_root)
                for one in named or [one for one in maybe if one["consent_id"] in stopped]:
                    copies.add(one["consent_id"])
                    tag = bytes.fromhex(self._person(one)["suppression"])
                    listed = self._suppression.get("patient", b"", tag=tag) or {}
                    if one["study"] not in listed:
                        self.suppress_consent(Digest.from_hex(one["consent_id"]))
                if _LINK_DESTROYED in erasure.steps:
                    links |= {one["consent_id"]: erasure.opened.batch for one in named}
            with_copy = {one for one in copies if self._has_copy(self._consent(bytes.fromhex(one)))}
            deleted = self.delete_copy(*(Digest.from_hex(one) for one in sorted(with_copy)))
            if outlive is not None:
                for doomed, batch in links.items():
                    outlive(batch, Digest.from_hex(doomed))
            self.destroy_link(*(Digest.from_hex(one) for one in sorted(links)))
            return len(stopped | set(links) | (with_copy if deleted else set()))

    def _has_copy(self, consent: dict[str, Any]) -> bool:
        return bool(self._person(consent)["copy"])
