"""A consent as USE keeps it: how it is made, what is told of it, what the chain has of it.

What may live here: what a consent's row says, and what follows from it. What this file does not know: who a pseudonym
is, in which order the compartments are written.
"""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from crypto.blobs import AnchorProof
from crypto.commitments import ConsentOpening, request_id
from crypto.digest import Digest, sha256
from crypto.keys import LedgerKey
from crypto.merkle import requests_root
from crypto.statements import RequestErasure, Withdraw, sign
from node.card import Card, Origin, relay_salt
from node.consent import GrantProof, Leaf
from node.errors import Refused
from node.history import ErasureHistory, History
from node.records import Anchored, Contracts, Granted
from node.vault.compartment import Compartment

_FEW: Final = 12  # 4095 combinations, some tenths of a second


@dataclass(frozen=True, slots=True)
class Minted:
    """The outcome of `mint`: `fresh` is False where the consent existed; `superseded` are older ones it replaces.

    `updated`: what is kept of the representative of one that existed was replaced.
    """

    consent_id: Digest
    fresh: bool
    superseded: tuple[Digest, ...] = ()
    updated: bool = False


@dataclass(frozen=True, slots=True)
class Holding:
    """What the vault says about one consent, for lists: no secret, no patient.

    `mark` is "" or one of `consent.MARKS`, written at `marked_at` (chain time); days are YYYY-MM-DD. `placed`: an
    anchor or a grant carries it; `granted`: the chain has that. `is_of_before`: the copy here was imported when this
    consent's own had been deleted, so it is for another one.
    """

    consent_id: Digest
    study: Digest
    form_id: Digest
    member: int
    issued: str
    signed_on: str
    mark: str
    marked_at: int
    placed: bool
    granted: bool
    has_copy: bool
    is_of_before: bool
    role: int
    records: int


@dataclass(frozen=True, slots=True)
class PendingAnchor:
    """An anchor that was made here and not yet seen on the chain."""

    study: Digest
    form_id: Digest
    root: Digest
    count: int


@dataclass(frozen=True, slots=True)
class Annex:
    """What the patient gets with a certificate, and nobody else: the opening without the document's salt."""

    consent_id: Digest
    study: Digest
    form_id: Digest
    holder: bytes
    holder_salt: Digest
    doc_commit: Digest
    leaf_secret: Digest
    leaf_key: Digest
    request_salt: Digest


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """What the law makes a hospital keep after an erasure (PRIVACY: ARCHIVE). Days are YYYY-MM-DD or "".

    `document` is the signed form as it was registered; `decision` and `ground` are the hospital's own words;
    `recipients` are names of members and others who had the model or its updates; `extension` says to which day the
    answer was extended, and why, if it was.
    """

    patient_id: str
    study_name: str
    document: bytes
    signed_on: str
    decision: str
    ground: str
    requested_on: str
    completed_on: str
    first_use_on: str
    last_use_on: str
    recipients: tuple[str, ...]
    extension: str = ""


def refusal(study: Digest, form_id: Digest) -> str:
    """The name under which a person's row keeps that a form of a study was refused."""
    return f"{study.hex()}/{form_id.hex()}"


def already(mine: list[dict[str, Any]], refused: str, form_id: Digest, signed_on: datetime.date) -> Digest | None:
    """The consent that a form signed on this day is of, among all of its patient in the study; None: it makes one.

    `refused`: the last day on which the patient refused this form, or "". Raises `Refused` as `mint` says.
    """
    live = [one for one in mine if one["mark"] == ""]
    for old in live:
        if old["form_id"] == form_id.hex():
            return Digest.from_hex(old["consent_id"])
    for old in mine:
        ended = _ended_on(old)
        if old["mark"] in ("withdrawn", "entered-in-error") and signed_on <= ended:
            raise Refused(f"this patient's consent ended on {ended}; a form signed on {signed_on} does not renew it")
    if signed_on.isoformat() <= refused:
        raise Refused(f"this patient refused or ended it on {refused}; one signed on {signed_on} does not undo it")
    later = max((old["signed_on"] for old in live), default="")
    if signed_on.isoformat() < later:
        again = [one for one in mine if (one["form_id"], one["signed_on"]) == (form_id.hex(), str(signed_on))]
        if again:
            return Digest.from_hex(again[0]["consent_id"])
        raise Refused(f"this patient signed another form on {later}; one signed on {signed_on} does not replace it")
    return None


def left_to_people(everywhere: list[dict[str, Any]], signed_on: datetime.date) -> None:
    """Raise `Refused` where the patient ended a consent, to whatever study, on or after the day of this signature.

    Consents are to one study each, so a person may still enrol them; a node by itself does not know what was meant.
    """
    for old in everywhere:
        ended = _ended_on(old)
        if old["mark"] == "withdrawn" and signed_on <= ended:
            raise Refused(
                f"this patient ended a consent to another study on {ended}, and the form was signed on {signed_on}: "
                "whether it still stands for this study, a person decides (koinon consent grant)"
            )


def _ended_on(consent: dict[str, Any]) -> datetime.date:
    return datetime.datetime.fromtimestamp(consent["marked_at"], datetime.UTC).date()


def new_consent(pseudonym: str, origin: Origin, form_id: Digest, document: bytes) -> tuple[dict[str, Any], Digest]:
    """The row of a consent under fresh secrets, and the salt of its document, which LINK keeps."""
    key = LedgerKey.generate()
    opening = ConsentOpening.fresh(key.address, sha256(document))
    consent_id = opening.consent_id
    withdraw, erasure = Withdraw(consent_id), RequestErasure(consent_id, origin.study)
    contracts = origin.contracts
    made = {
        "consent_id": consent_id.hex(),
        "pseudonym": pseudonym,
        "slot": secrets.token_hex(16),
        "study": origin.study.hex(),
        "form_id": form_id.hex(),
        "network": origin.network,
        "chain_id": contracts.chain_id,
        "contracts": [
            part.hex() for part in (contracts.membership, contracts.consent, contracts.training, contracts.unlearning)
        ],
        "member": origin.member,
        "hospital": origin.hospital,
        "holder": key.address.hex(),
        "holder_salt": opening.holder_salt.hex(),
        "leaf_secret": opening.leaf_secret.hex(),
        "leaf_key": opening.leaf_key.hex(),
        "doc_commit": opening.doc_commit.hex(),
        "value_salt": secrets.token_hex(32),
        "request_salt": secrets.token_hex(32),
        "withdraw": sign(withdraw, origin.domains.of(withdraw), key).hex(),
        "request_erasure": sign(erasure, origin.domains.of(erasure), key).hex(),
        "mark": "",
        "marked_at": 0,
        "proof": None,
        "granted": False,
        "archive": "",
    }
    return made, opening.doc_salt


def leaf_of(consent: dict[str, Any], patient: dict[str, Any]) -> Leaf:
    """What a round needs of a consent."""
    return Leaf(
        consent_id=Digest.from_hex(consent["consent_id"]),
        leaf_key=Digest.from_hex(consent["leaf_key"]),
        value_salt=Digest.from_hex(consent["value_salt"]),
        role=patient["role"],
        rows=tuple(patient["rows"]) if patient["copy"] else (),
        holder=bytes.fromhex(consent["holder"]),
        holder_salt=Digest.from_hex(consent["holder_salt"]),
        doc_commit=Digest.from_hex(consent["doc_commit"]),
        form_id=Digest.from_hex(consent["form_id"]),
        proof=_proof(consent["proof"]),
        locally_withdrawn=consent["mark"] != "",
        usable_from=consent.get("usable_from", 0),
    )


def card_of(one: dict[str, Any]) -> Card:
    """The withdrawal card of a consent."""
    return Card(
        origin=origin_of(one),
        form_id=Digest.from_hex(one["form_id"]),
        issued=one["issued"],
        consent_id=Digest.from_hex(one["consent_id"]),
        holder=bytes.fromhex(one["holder"]),
        holder_salt=Digest.from_hex(one["holder_salt"]),
        doc_commit=Digest.from_hex(one["doc_commit"]),
        leaf_secret=Digest.from_hex(one["leaf_secret"]),
        withdraw=bytes.fromhex(one["withdraw"]),
        request_erasure=bytes.fromhex(one["request_erasure"]),
    )


def annex_of(one: dict[str, Any]) -> Annex:
    """What goes to the patient with the certificate."""
    return Annex(
        consent_id=Digest.from_hex(one["consent_id"]),
        study=Digest.from_hex(one["study"]),
        form_id=Digest.from_hex(one["form_id"]),
        holder=bytes.fromhex(one["holder"]),
        holder_salt=Digest.from_hex(one["holder_salt"]),
        doc_commit=Digest.from_hex(one["doc_commit"]),
        leaf_secret=Digest.from_hex(one["leaf_secret"]),
        leaf_key=Digest.from_hex(one["leaf_key"]),
        request_salt=Digest.from_hex(one["request_salt"]),
    )


def origin_of(consent: dict[str, Any]) -> Origin:
    """The network and the study that a consent was made for."""
    contracts = Contracts(consent["chain_id"], *(bytes.fromhex(part) for part in consent["contracts"]))
    study = Digest.from_hex(consent["study"])
    return Origin(consent["network"], contracts, study, consent["member"], consent["hospital"])


def holding_of(consent: dict[str, Any], patient: dict[str, Any]) -> Holding:
    """What lists say of a consent."""
    return Holding(
        consent_id=Digest.from_hex(consent["consent_id"]),
        study=Digest.from_hex(consent["study"]),
        form_id=Digest.from_hex(consent["form_id"]),
        member=consent["member"],
        issued=consent["issued"],
        signed_on=consent["signed_on"],
        mark=consent["mark"],
        marked_at=consent["marked_at"],
        placed=consent["proof"] is not None,
        granted=consent["granted"],
        has_copy=patient["copy"],
        is_of_before=consent["consent_id"] in patient.get("before", ()),
        role=patient["role"],
        records=len(patient["rows"]),
    )


def is_pending(consent: dict[str, Any]) -> bool:
    """Whether a consent waits for a grant of its own, and nobody has ended it."""
    return consent["proof"] == {"kind": 0} and not consent["granted"] and consent["mark"] == ""


def _proof(tree: dict[str, Any] | None) -> GrantProof | None:
    if tree is None:
        return None
    if tree["kind"] == 0:
        return GrantProof()
    path = tuple(Digest.from_hex(step) for step in tree["path"])
    return GrantProof(AnchorProof(Digest.from_hex(tree["root"]), tree["index"], path))


def json_of(proof: GrantProof) -> dict[str, Any]:
    """A proof as a row holds it."""
    if proof.anchor is None:
        return {"kind": 0}
    anchor = proof.anchor
    return {"kind": 1, "root": anchor.root.hex(), "index": anchor.index, "path": [step.hex() for step in anchor.path]}


def confirm(use: Compartment, history: History) -> int:
    """Note which proofs and anchors the chain has; returns how many consents became granted. In one transaction."""
    count = 0
    for one in use.all("consent"):
        if one["proof"] is None:
            continue
        found: Granted | Anchored | None = None
        if one["proof"]["kind"] == 0:
            grant = history.grants.get(Digest.from_hex(one["consent_id"]))
            found = grant.record if grant else None
        else:
            anchor = history.anchors.get(Digest.from_hex(one["proof"]["root"]))
            found = anchor.record if anchor else None
        ours = found is not None and (found.form_id.hex(), found.member) == (one["form_id"], one["member"])
        if one["granted"] == ours and (ours or found is None):
            continue
        count += ours
        one["granted"] = ours
        if found is None or ours:
            pass
        elif isinstance(found, Anchored):
            one["proof"] = None
        elif one["mark"] == "":
            one |= {"mark": "superseded", "marked_at": history.grants[Digest.from_hex(one["consent_id"])].at}
        use.put("consent", bytes.fromhex(one["consent_id"]), one)
    for row in use.all("anchor"):
        root = Digest.from_hex(row["root"])
        if row["on_chain"] != (root in history.anchors):
            row["on_chain"] = root in history.anchors
            use.put("anchor", root, row)
    return count


def maybe_erased(consents: list[dict[str, Any]], erasure: ErasureHistory, history: History) -> list[dict[str, Any]]:
    """Our consents that this batch may be about: ours, of its study, and withdrawn when its copies went.

    Not when it was opened: the withdrawal of a request may come to the chain after the batch.
    """
    opened = erasure.opened
    return [
        one
        for one in consents
        if one["study"] == opened.study.hex()
        and one["member"] == opened.controller
        and (at := history.withdrawn_at(Digest.from_hex(one["consent_id"]))) is not None
        and at <= erasure.times["copy_deleted"]
    ]


def requested(candidates: list[dict[str, Any]], root: Digest) -> list[dict[str, Any]]:
    """Those candidates whose request ids make this root; none where it cannot be told.

    Among few candidates every combination is tried, among many all together and each alone; and each alone with the
    salt of a batch that a relay opened.
    """
    for one in candidates:
        relayed = relay_salt(bytes.fromhex(one["request_erasure"]))
        if requests_root([request_id(relayed, bytes.fromhex(one["consent_id"]))]) == root:
            return [one]
    ids = [request_id(bytes.fromhex(one["request_salt"]), bytes.fromhex(one["consent_id"])) for one in candidates]
    sizes = range(1, len(ids) + 1) if len(ids) <= _FEW else (len(ids), 1)
    for size in sizes:
        for some in combinations(range(len(ids)), size):
            if requests_root(ids[i] for i in some) == root:
                return [candidates[i] for i in some]
    return []
