"""The node's own log as audit events: FHIR R4B AuditEvent in the shape of IHE Basic Audit Log Patterns (BALP).

What may live here: the mapping from an entry of the log to one canonical line, as the tables below say it, and our own
check of required elements and codes. What this file does not know: files, the clock, patients: an entry names a consent
by its random id, or by a random alias where the consent is not (any more) at this hospital.

    kind of entry       type                         subtype        action  pattern
    link_access         DCM 110113 Security Alert    AuthZ-Consent  E       AuthZconsent: the vault's LINK was asked for
    consent_granted     DCM 110113                   AuthZ-Consent  E       AuthZconsent: permit from here on
    consent_withdrawn   DCM 110113                   AuthZ-Consent  E       AuthZconsent: deny from here on
    consent_refused     DCM 110113                   AuthZ-Consent  E       AuthZconsent: left out at the gate
    model_export        DCM 110106 Export            model-export   R       as PrivacyDisclosure.Source, of a model
    audit_opened        DCM 110113 Security Alert    audit-opened   E       the keys of a study's rounds, to an auditor
    purged              DCM 110110 Patient Record    erasure-purge  D       as PatientDelete, of models and updates
    anything else       DCM 110100 Application       its kind       E       that it happened, nothing of what it says

The lines are shaped like the patterns and not validated against the profiles: a model is no patient's record, and an
opening of LINK may come before it is known whose consent is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import rfc8785

from crypto.digest import Digest, hash_words, keccak256
from crypto.merkle import AnchorTree, anchor_count
from node.errors import VerificationFailed

DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
SUBTYPE: Final = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"
KIND: Final = "urn:koinon:log-kind"
CONSENT: Final = "urn:koinon:consent"
ENTITY_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
RESOURCE_TYPE: Final = "http://hl7.org/fhir/resource-types"
OBJECT_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
PERMIT, DENY = "0", "8"

OUTCOMES: Final = frozenset({"0", "4", "8", "12"})
"""http://hl7.org/fhir/R4B/valueset-audit-event-outcome.html"""
ACTIONS: Final = frozenset("CRUDE")
"""http://hl7.org/fhir/R4B/valueset-audit-event-action.html"""

# kind -> (DICOM code, its display, subtype, action)
_TYPES: Final[dict[str, tuple[str, str, str, str]]] = {
    "link_access": ("110113", "Security Alert", "AuthZ-Consent", "E"),
    "consent_granted": ("110113", "Security Alert", "AuthZ-Consent", "E"),
    "consent_withdrawn": ("110113", "Security Alert", "AuthZ-Consent", "E"),
    "consent_refused": ("110113", "Security Alert", "AuthZ-Consent", "E"),
    "model_export": ("110106", "Export", "model-export", "R"),
    "audit_opened": ("110113", "Security Alert", "audit-opened", "E"),
    "purged": ("110110", "Patient Record", "erasure-purge", "D"),
}
_OTHER: Final = ("110100", "Application Activity")
_DECISIONS: Final = frozenset(kind for kind, row in _TYPES.items() if row[2] == "AuthZ-Consent")
_DENIED: Final = {"consent_withdrawn": "withdrawn", "consent_refused": "no active consent"}


def audit_event(hospital: str, number: int, time: float, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the log as an AuditEvent.

    Args:
        hospital: registered name of the member whose node keeps the log.
        number: the entry's number in that log; the resource's id.
        time: unix seconds.
        kind, body: as the store keeps them.
    """
    code, display, subtype, action = _TYPES.get(kind, (*_OTHER, kind, "E"))
    system = SUBTYPE if kind in _DECISIONS else KIND
    outcome, why = _outcome(kind, body)
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": f"entry-{number}",
        "type": _coding(DCM, code, display),
        "subtype": [_coding(system, subtype)],
        "action": action,
        "recorded": datetime.fromtimestamp(int(time), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "outcome": outcome,
        "agent": _agents(hospital, kind, body),
        "source": {
            "observer": {"display": f"koinon node of {hospital}"},
            "type": [_coding("http://terminology.hl7.org/CodeSystem/security-source-type", "4")],
        },
        "entity": _entities(kind, body),
    }
    if why:
        event["outcomeDesc"] = why
    return event


def _coding(system: str, code: str, display: str = "") -> dict[str, str]:
    return {"system": system, "code": code, **({"display": display} if display else {})}


def _concept(system: str, code: str, display: str = "") -> dict[str, Any]:
    return {"coding": [_coding(system, code, display)]}


def _outcome(kind: str, body: Mapping[str, Any]) -> tuple[str, str]:
    if kind in _DENIED:
        return DENY, str(body.get("why") or _DENIED[kind])
    if kind == "link_access":
        act = str(body.get("act", ""))
        return (PERMIT, act) if body.get("outcome") == "permitted" else (DENY, f"{act}: {body.get('why', '')}")
    return PERMIT, ""


def _agents(hospital: str, kind: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    node = {"display": f"koinon node of {hospital}"}
    organisation = {
        "type": _concept("http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV", "healthcare provider"),
        "who": {"display": hospital},
        "requestor": False,
    }
    if kind in _DECISIONS:
        user = str(body.get("role") or "the node by itself")
        return [
            {"type": _concept(DCM, "110150", "Application"), "who": node, "requestor": False},
            {
                "type": _concept("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP"),
                "who": {"display": user},
                "requestor": True,
            },
            organisation,
            {
                "type": _concept("http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver"),
                "who": node,
                "requestor": False,
            },
        ]
    if kind == "model_export":
        return [
            {"type": _concept(DCM, "110153", "Source Role ID"), "who": node, "requestor": True},
            {
                "type": _concept(DCM, "110152", "Destination Role ID"),
                "who": {"display": str(body.get("recipient") or "not stated")},
                "requestor": False,
            },
            organisation,
        ]
    return [{"type": _concept(DCM, "110150", "Application"), "who": node, "requestor": True}, organisation]


def _entities(kind: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    if kind in _DECISIONS:
        subject = str(body.get("subject") or "")
        what: dict[str, Any] = (
            {"identifier": {"system": CONSENT, "value": subject}} if subject else {"display": "no consent known yet"}
        )
        return [
            {"what": what, "type": _coding(ENTITY_TYPE, "1", "Person"), "role": _coding(OBJECT_ROLE, "1", "Patient")},
            {"what": what, "type": _coding(RESOURCE_TYPE, "Consent", "Consent")},
        ]
    named = {"model_export": "model_root", "purged": "erasure", "audit_opened": "study"}.get(kind)
    value = str(body.get(named) or "") if named else ""
    what = {"identifier": {"system": f"urn:koinon:{named}", "value": value}} if value else {"display": kind}
    return [{"what": what, "type": _coding(ENTITY_TYPE, "2", "System Object")}]


# --------------------------------------------------------------------------------------------------------------------
# Our own check


def check_event(event: Any, where: str) -> None:
    """Raise `VerificationFailed` unless the required elements are there and bound codes are in their sets.

    The library for FHIR resources takes any code, so we check those with a required binding ourselves.
    """
    try:
        _check(event)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise VerificationFailed(f"{where}: not an audit event of koinon: {what}") from None


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _check(event: Mapping[str, Any]) -> None:
    _need(event["resourceType"] == "AuditEvent", "resourceType")
    _need(re.fullmatch(r"[A-Za-z0-9\-.]{1,64}", event["id"]) is not None, "id")
    _need(event["outcome"] in OUTCOMES, f"outcome {event['outcome']!r:.20}")
    _need(event["action"] in ACTIONS, f"action {event['action']!r:.20}")
    datetime.strptime(event["recorded"], "%Y-%m-%dT%H:%M:%SZ")
    for coding in (event["type"], *event["subtype"]):
        _need(bool(coding["system"] and coding["code"]), "a coding without system or code")
    _need(bool(event["source"]["observer"]), "source.observer")
    agents = event["agent"]
    _need(bool(agents), "agent")
    for agent in agents:
        _need(type(agent["requestor"]) is bool, "agent.requestor")
    if event["subtype"][0]["code"] != "AuthZ-Consent":
        return
    _need((event["type"]["system"], event["type"]["code"]) == (DCM, "110113"), "type of a consent decision")
    _need(event["action"] == "E", "action of a consent decision")
    _need(event["outcome"] in (PERMIT, DENY), "outcome of a consent decision")
    codes = [agent["type"]["coding"][0]["code"] for agent in agents]
    _need(codes == ["110150", "IRCP", "PROV", "authserver"], f"agents {codes!r:.80}")
    patient, consent = event["entity"]
    _need((patient["type"]["code"], patient["role"]["code"]) == ("1", "1"), "entity of the patient")
    _need(consent["type"]["code"] == "Consent", "entity of the consent")


# --------------------------------------------------------------------------------------------------------------------
# Lines and their tree


def line_of(event: Mapping[str, Any]) -> bytes:
    """The event's one encoding (RFC 8785), without a line end."""
    return rfc8785.dumps(dict(event))


def leaf(line: bytes) -> Digest:
    """What stands for a line in the tree: keccak256 of its bytes."""
    return keccak256(line)


def tree(lines: Sequence[bytes]) -> AnchorTree:
    """The tree over a segment's lines, in their order, filled up with `H("log-filler", index)`: the tree that anchors
    consents, so that one path format is checked everywhere. Equal lines are refused (an event's id differs)."""
    size = anchor_count(len(lines))
    return AnchorTree([*map(leaf, lines), *(hash_words("log-filler", i) for i in range(len(lines), size))])
