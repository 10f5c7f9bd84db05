"""FHIR Consents: what they say, which are refused and how, and that koinon's own come back as they went out."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from crypto.commitments import doc_commit
from crypto.digest import Digest, sha256
from node.desk import Desk
from node.errors import InputError, NotFound, Refused
from node.fhir import FORM_SYSTEM, Forms, Held, Says, Version, read, read_document, write
from node.participant import Participant
from node.store import Store
from tests.node.consent_kit import AT_REST, CANARY, MEMBER, NOW, World, dataset, study_spec

TODAY = datetime.date(2027, 1, 15)
HELD = Held("ab" * 32, CANARY, "main", "2026-12-01", "guardian", "dr.keller", "2027-01-02", "active", 0, 1_893_456_000)
FORM = Forms("main")


def r4(**changes: Any) -> dict[str, Any]:
    """A Consent as a hospital's system writes it, in R4B; it names the canary patient wherever it can."""
    patient = changes.get("patient", {"reference": f"Patient/{CANARY}", "display": CANARY})
    return {
        "resourceType": "Consent",
        "id": "c-1",
        "meta": {"versionId": "1"},
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research"}],
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": patient,
        "dateTime": "2026-12-01T10:00:00+01:00",
        "performer": [patient],
        "organization": [{"reference": "Organization/north"}],
        "policyRule": {"coding": [{"system": "https://north.example/forms", "code": "broad-3"}]},
        "sourceReference": {"reference": "DocumentReference/77"},
        "verification": [{"verified": True, "verificationDate": "2026-12-01"}],
        "provision": {
            "type": "permit",
            "period": {"start": "2026-12-01", "end": "2031-12-01"},
            "purpose": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH"}],
            "action": [
                {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentaction", "code": "use"}]},
            ],
        },
    } | changes


def r5(**changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": "c-5",
        "status": "active",
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research"}]}
        ],
        "subject": {"identifier": {"system": "urn:mrn", "value": CANARY}},
        "date": "2026-12-01",
        "period": {"end": "2031"},
        "grantor": [{"reference": "RelatedPerson/9"}],
        "grantee": [{"reference": "Organization/north"}],
        "policyBasis": {"url": "https://north.example/forms/broad-3"},
        "verification": [
            {"verified": True, "verifiedBy": {"reference": "Practitioner/keller"}, "verificationDate": ["2026-12-01"]}
        ],
        "decision": "permit",
    } | changes


ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
OURS = [{"system": "urn:koinon:consent", "value": "ab" * 32}]


def not_research(base: Callable[..., dict[str, Any]], status: str = "active", decision: str = "") -> dict[str, Any]:
    """An opt-out of an exchange, or a consent to treatment that has ended."""
    if base is r4:
        found = changed("provision.purpose.0.code", "TREAT")
        found["provision"] |= {"type": decision or "permit"}
    else:
        found = changed("category.0.coding.0.code", "treatment", r5) | {"decision": decision or "permit"}
    return found | {"status": status}


def one(resource: Any, forms: Forms = FORM) -> Any:
    (found,) = read(json.dumps(resource).encode(), "consents.json", forms, today=TODAY)
    return found


def changed(path: str, value: Any, base: Callable[[], dict[str, Any]] = r4) -> dict[str, Any]:
    """The resource with one element replaced; None removes it."""
    resource = copy.deepcopy(base())
    steps = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = resource
    for step in steps[:-1]:
        at = at[step]
    if value is None:
        del at[steps[-1]]
    else:
        at[steps[-1]] = value
    return resource


# --- reading


def test_an_active_permit_is_a_line_of_the_register() -> None:
    found = one(r4())
    assert (found.says, found.patient_id, found.form, found.signed_on) == (Says.GRANT, CANARY, "main", "2026-12-01")
    assert (found.signer, found.verified_by, found.mark) == ("patient", "Organization/north", "")
    found = one(r5())
    assert (found.says, found.patient_id, found.signer) == (Says.GRANT, CANARY, "legal representative")
    assert found.verified_by == "Practitioner/keller"


@pytest.mark.parametrize("place", ["RelatedPerson/m", "https://x.example/r4/RelatedPerson/m/_history/2"])
def test_a_signer_may_be_named_with_server_and_version(place: str) -> None:
    assert one(r4(performer=[{"reference": place}])).signer == "legal representative"


MINE = {"system": "urn:mrn", "value": CANARY}
WHOLE = {"reference": f"https://x.example/r4/Patient/{CANARY}"}


@pytest.mark.parametrize(
    "patient, performer",
    [
        ({"reference": f"Patient/{CANARY}"}, {"reference": f"Patient/{CANARY}/_history/2"}),
        ({"reference": f"Patient/{CANARY}"}, WHOLE),
        (WHOLE, {"reference": f"Patient/{CANARY}"}),
        (WHOLE, WHOLE),
        ({"identifier": MINE, "reference": "#p"}, {"reference": "#p", "type": "Patient"}),
        ({"identifier": MINE, "reference": "Patient/9"}, {"reference": "Patient/9"}),
        ({"identifier": MINE}, {"type": "Patient", "identifier": MINE}),
        ({"identifier": MINE}, {"type": "Patient", "identifier": {"value": CANARY}}),
    ],
)
def test_a_patient_signs_by_the_reference_or_identifier_of_the_consents_own(
    patient: dict[str, Any], performer: dict[str, Any]
) -> None:
    assert one(r4(patient=patient, performer=[performer])).signer == "patient"
    assert one(r5(subject=patient, grantor=[performer])).signer == "patient"


@pytest.mark.parametrize(
    "patient, performer",
    [
        ({"reference": f"Patient/{CANARY}"}, {"reference": "Patient/mother"}),
        (WHOLE, {"reference": f"https://y.example/r4/Patient/{CANARY}"}),
        ({"identifier": MINE}, {"type": "Patient", "identifier": {"system": "urn:other", "value": CANARY}}),
        ({"identifier": MINE}, {"reference": f"Patient/{CANARY}"}),
        ({"identifier": MINE}, {"type": "Patient", "display": CANARY}),
    ],
)
def test_another_patient_signs_for_nobody(patient: dict[str, Any], performer: dict[str, Any]) -> None:
    for resource, place in (
        (r4(patient=patient, performer=[performer]), r"performer: neither .* identifier of patient\)"),
        (r5(subject=patient, grantor=[performer]), r"grantor: neither .* identifier of subject\)"),
    ):
        with pytest.raises(InputError, match=place):
            one(resource)
        assert one(resource | {"status": "inactive"}).says is Says.END, "an end needs no signer"
        assert read_document(rfc8785.dumps(resource), "main").signer == "", "one that was taken before is still shown"
    guardian = [performer, {"reference": "RelatedPerson/9"}]
    assert one(r4(patient=patient, performer=guardian)).signer == "legal representative"


def test_how_it_was_verified_may_be_coded_by_the_house() -> None:
    def verified(system: str) -> dict[str, Any]:
        kind = {"coding": [{"system": system, "code": "by-telephone"}]}
        return changed("verification.0.verificationType", kind, r5)

    assert one(verified("https://x.example/how")).says is Says.GRANT
    with pytest.raises(InputError, match=r"verification\[0\].verificationType"):
        one(verified("http://terminology.hl7.org/CodeSystem/consentverification"))


def test_the_document_is_the_rfc_8785_form_of_the_resource() -> None:
    resource = r4()
    spelled = json.dumps(dict(reversed(resource.items())), indent=3).encode()
    (found,) = read(spelled, "f", FORM, today=TODAY)
    assert found.document == rfc8785.dumps(resource)


@pytest.mark.parametrize(
    "key", ["https://north.example/forms|broad-3", "DocumentReference/77"], ids=["policyRule", "sourceReference"]
)
def test_the_form_is_found_by_an_identifier_of_the_resource(key: str) -> None:
    assert one(r4(), Forms(None, {key: "second"})).form == "second"
    assert one(r5(), Forms(None, {"https://north.example/forms/broad-3": "second"})).form == "second"


def test_a_resource_that_leads_to_no_form_or_to_two_is_refused() -> None:
    with pytest.raises(InputError, match="leads to no form"):
        one(r4(), Forms())
    two = {"https://north.example/forms|broad-3": "main", "DocumentReference/77": "second"}
    with pytest.raises(InputError, match="more than one form"):
        one(r4(), Forms(None, two))


def test_bundle_and_ndjson_are_read_and_other_resources_of_a_bundle_are_passed_over() -> None:
    second = r4(id="c-2", patient={"reference": "https://ehr.example/fhir/Patient/MRN-1/_history/3"})
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": {"resourceType": "Patient", "id": CANARY}}, {"resource": r4()}, {"resource": second}],
    }
    found = read(json.dumps(bundle, indent=2).encode(), "b", FORM, today=TODAY)
    assert [entry.patient_id for entry in found] == [CANARY, "MRN-1"]
    lines = b"\n".join(json.dumps(entry).encode() for entry in (r4(), second, r5())) + b"\n\n"
    assert len(read(lines, "n", FORM, today=TODAY)) == 3


def test_of_two_versions_of_a_resource_the_newer_counts_wherever_it_stands() -> None:
    old, new = r4(), r4(status="inactive", meta={"versionId": "10"})
    for pair in ((old, new), (new, old)):
        lines = b"\n".join(json.dumps(entry).encode() for entry in pair)
        (found,) = read(lines, "n", FORM, today=TODAY)
        assert (found.says, found.mark) == (Says.END, "withdrawn")
    with pytest.raises(InputError, match="which counts is not to be told"):
        read(b"\n".join(json.dumps(entry).encode() for entry in (old, r4(status="inactive"))), "n", FORM, today=TODAY)


@pytest.mark.parametrize(
    "before, after",
    [
        ({"versionId": "a", "lastUpdated": "2026-10-02T01:00:00+02:00"}, {"lastUpdated": "2026-10-01T23:30:00Z"}),
        ({"lastUpdated": "2026-10-01T23:30:00Z"}, {"lastUpdated": "2026-10-01T23:30:00.500Z"}),
        (
            {"versionId": "1", "lastUpdated": "2026-10-01T10:00:00Z"},
            {"versionId": "MTY1", "lastUpdated": "2026-10-02T10:00:00Z"},
        ),
        ({"versionId": "9"}, {"versionId": "10"}),
    ],
)
def test_versions_are_ordered_by_number_or_by_the_moment(before: dict[str, str], after: dict[str, str]) -> None:
    for pair in (
        (r4(meta=before), r4(meta=after, status="inactive")),
        (r4(meta=after, status="inactive"), r4(meta=before)),
    ):
        (found,) = read(b"\n".join(json.dumps(entry).encode() for entry in pair), "n", FORM, today=TODAY)
        assert found.says is Says.END


@pytest.mark.parametrize(
    "first, second, fault",
    [
        ({"versionId": "1"}, {"versionId": "MTY1"}, "which counts is not to be told"),
        ({"versionId": "1"}, {}, "which counts is not to be told"),
        (
            {"versionId": "1", "lastUpdated": "2026-10-02T10:00:00Z"},
            {"versionId": "2", "lastUpdated": "2026-10-01T10:00:00Z"},
            "the newest by versionId is not the newest by lastUpdated",
        ),
    ],
)
def test_versions_that_nothing_orders_are_refused(first: dict[str, str], second: dict[str, str], fault: str) -> None:
    lines = b"\n".join(json.dumps(one).encode() for one in (r4(meta=first), r4(meta=second, status="inactive")))
    with pytest.raises(InputError, match=fault):
        read(lines, "n", FORM, today=TODAY)


def test_one_id_for_two_patients_and_a_bundle_in_a_bundle_are_refused() -> None:
    other = r4(patient={"reference": "Patient/MRN-1"}, meta={"versionId": "2"})
    with pytest.raises(InputError, match="another patient's"):
        read(b"\n".join(json.dumps(entry).encode() for entry in (r4(status="inactive"), other)), "n", FORM, today=TODAY)
    inner = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r4(status="inactive")}]}
    outer = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r5()}, {"resource": inner}]}
    with pytest.raises(InputError, match=r"entry\[1\].*a Bundle within a Bundle"):
        read(json.dumps(outer).encode(), "b", FORM, today=TODAY)


def test_the_day_of_a_signature_is_in_utc() -> None:
    assert one(r4(dateTime="2026-06-02T00:30:00+02:00")).signed_on == "2026-06-01"
    assert one(r4(dateTime="2026-06-01T22:30:00Z")).signed_on == "2026-06-01"


# --- what does not grant


@pytest.mark.parametrize(
    "resource, says, why, mark",
    [
        (r4(status="draft"), Says.NOTHING, "status: draft", ""),
        (r4(status="proposed"), Says.NOTHING, "status: proposed", ""),
        (r4(status="rejected"), Says.NOTHING, "status: rejected", ""),
        (r5(status="not-done"), Says.NOTHING, "status: not-done", ""),
        (r5(status="unknown"), Says.NOTHING, "status: unknown", ""),
        (r4(status="inactive"), Says.END, "status: inactive", "withdrawn"),
        (r5(status="entered-in-error"), Says.END, "status: entered-in-error", "entered-in-error"),
        (changed("provision.type", "deny"), Says.DENY, "provision.type: deny", "withdrawn"),
        (r5(decision="deny"), Says.DENY, "decision: deny", "withdrawn"),
        (changed("provision", None), Says.NOTHING, "provision: missing", ""),
        (changed("provision.provision", [{"type": "deny"}]), Says.DENY, r"provision.provision\[0\]", "withdrawn"),
        (
            r5(
                provision=[
                    {"purpose": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH"}]}
                ]
            ),
            Says.DENY,
            r"provision\[0\]",
            "withdrawn",
        ),
        # Denied but for what is permitted one by one: whether research is, no code says that koinon reads.
        (
            r4(provision={**r4()["provision"], "type": "deny", "provision": [{"type": "permit"}]}),
            Says.NOTHING,
            r"provision.provision\[0\]: permits some of what provision.type denies",
            "",
        ),
        (r5(decision="deny", provision=[{}]), Says.NOTHING, r"provision\[0\]: permits some of what decision", ""),
        (
            r4(
                provision={
                    **r4()["provision"],
                    "type": "deny",
                    "provision": [{"type": "permit", "purpose": [{"system": ACT_REASON, "code": "TREAT"}]}],
                }
            ),
            Says.DENY,
            "provision.type: deny",
            "withdrawn",
        ),
        (changed("provision.period.end", "2027-01-14"), Says.NOTHING, "provision.period.end: has passed", ""),
        (changed("provision.period.end", "2026"), Says.NOTHING, "provision.period.end: has passed", ""),
        (changed("provision.period.start", "2027-01-16"), Says.NOTHING, "start: has not come", ""),
        (r5(period={"end": "2026-12"}), Says.NOTHING, "period.end: has passed", ""),
        (changed("provision.purpose.0.code", "TREAT"), Says.NOTHING, "provision.purpose: not research", ""),
        (changed("provision.action.0.coding.0.code", "collect"), Says.NOTHING, "does not permit use", ""),
        (changed("provision.action", [{"text": "use it"}]), Says.NOTHING, "does not permit use", ""),
        (changed("verification.0.verified", False), Says.NOTHING, "nobody has verified it", ""),
        (changed("verification", None), Says.NOTHING, "nobody has verified it", ""),
        (changed("decision", None, r5), Says.NOTHING, "decision: missing", ""),
        (changed("provision.purpose.0.system", "https://x.example/p"), Says.NOTHING, "provision.purpose: not res", ""),
        (changed("provision.action.0.coding.0.system", "https://x.example/a"), Says.NOTHING, "permit use", ""),
        (
            changed("provision.purpose", None)
            | {"scope": {"coding": [{"system": "https://x.e/s", "code": "research"}]}},
            Says.NOTHING,
            "scope: not research",
            "",
        ),
        (changed("category.0.coding.0.code", "treatment", r5), Says.NOTHING, "category: not research", ""),
        # What is not about research grants nothing and ends nothing.
        (not_research(r4, decision="deny"), Says.NOTHING, "deny; provision.purpose: not research", ""),
        (not_research(r4, status="inactive"), Says.NOTHING, "inactive; provision.purpose: not research", ""),
        (not_research(r5, decision="deny"), Says.NOTHING, "deny; category: not research", ""),
        (not_research(r5, status="inactive"), Says.NOTHING, "inactive; category: not research", ""),
        (not_research(r4, status="inactive") | {"identifier": OURS}, Says.END, "status: inactive", "withdrawn"),
        # A withdrawal needs neither a decision nor somebody who agreed.
        (changed("decision", None, r5) | {"status": "inactive"}, Says.END, "status: inactive", "withdrawn"),
        (r4(status="inactive", performer=[{"reference": "Practitioner/1"}]), Says.END, "status: inactive", "withdrawn"),
    ],
)
def test_what_is_no_active_permit_for_research_grants_nothing(
    resource: dict[str, Any], says: Says, why: str, mark: str
) -> None:
    found = one(resource)
    assert (found.says, found.mark) == (says, mark)
    assert pytest.raises(AssertionError, match=why).matches(AssertionError(found.why))
    assert CANARY not in found.why + found.where + repr(found)


def test_an_exception_that_does_not_touch_research_takes_nothing_away() -> None:
    marketing = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HMARKT"}]
    assert one(changed("provision.provision", [{"type": "deny", "purpose": marketing}])).says is Says.GRANT
    assert one(r5(provision=[{"purpose": marketing}])).says is Says.GRANT


# --- what is broken


@pytest.mark.parametrize(
    "resource, path",
    [
        (r4(status="withdrawn"), "status"),
        (r5(status="proposed"), "status"),
        (r4(status=None), "status"),
        (changed("scope.coding.0.code", CANARY), "scope.coding[0].code"),
        (changed("scope.coding", []), "scope"),
        (changed("category.0.coding.0", {"code": "59284-0"}), "category[0].coding[0]"),
        (
            r4(
                category=[
                    {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentcategorycodes", "code": "x"}]}
                ]
            ),
            "category[0].coding[0].code",
        ),
        (changed("provision.type", "allow"), "provision.type"),
        (changed("provision.type", None), "provision.type"),
        (r5(decision="maybe"), "decision"),
        (changed("provision.purpose.0.code", "RESEARCH"), "provision.purpose[0].code"),
        (changed("provision.action.0.coding.0.code", "sell"), "provision.action[0].coding[0].code"),
        (changed("verification.0.verified", None), "verification[0].verified"),
        (changed("dateTime", None), "dateTime"),
        (changed("dateTime", "2026-12"), "dateTime"),
        (changed("dateTime", CANARY), "dateTime"),
        (changed("dateTime", "0001-01-01T00:00:00+14:00"), "dateTime"),
        (changed("dateTime", "9999-12-31T23:59:59-12:00"), "dateTime"),
        (r4(meta={"lastUpdated": CANARY}), "meta.lastUpdated"),
        (changed("patient", None), "patient"),
        (r4(patient={"display": CANARY}), "patient"),
        (r4(patient={"reference": "#p"}), "patient"),
        (r4(patient={"reference": f"Group/{CANARY}"}), "patient"),
        (r4(patient={"reference": 7}), "patient.reference"),
        (r4(**{CANARY: 1}), "Consent"),
        (r4(performer=[{"reference": "Practitioner/1"}]), "performer"),
        (changed("organization", None), "organization"),
        (r4(implicitRules="https://x.example/rules"), "implicitRules"),
        (changed("provision.modifierExtension", [{"url": "https://x", "valueBoolean": True}]), "modifierExtension"),
        (changed("provision.provision", [{"type": "deny", "provision": [{"type": "permit"}]}]), "exceptions"),
    ],
)
def test_a_broken_resource_is_refused_by_file_path_and_reason_without_the_patient(
    resource: dict[str, Any], path: str
) -> None:
    good = r4(id="good", patient={"reference": "Patient/MRN-2"})
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": good}, {"resource": resource}]}
    with pytest.raises(InputError) as caught:
        read(json.dumps(bundle).encode(), "consents.json", FORM, today=TODAY)
    assert "consents.json: Bundle.entry[1].resource: " in caught.value.message
    assert path in caught.value.message
    assert CANARY not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"resourceType":"Patient"}',
        b'{"resourceType":"Bundle","entry":7}',
        b'{"resourceType":"Bundle","entry":[]}',
        b'{"resourceType":"Consent","status":"active","status":"inactive"}',
        b"[" * 100_000,
        b'{"resourceType":"Consent","id":NaN}',
        json.dumps(r4()).encode() + b"\n{",
    ],
)
def test_what_is_no_fhir_costs_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(InputError):
        read(data, "f", FORM, today=TODAY)


def paths(value: Any, at: tuple[Any, ...] = ()) -> Any:
    yield at
    if isinstance(value, dict | list):
        for key, one_ in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(one_, (*at, key))


JUNK = [
    None,
    True,
    -1,
    10**400,
    "",
    CANARY,
    [],
    {},
    [None],
    {CANARY: 1},
    {"coding": [None]},
    {"reference": CANARY},
    "2026",
]


@pytest.mark.parametrize("base", [r4(), r5()], ids=["R4B", "R5"])
def test_whatever_stands_where_something_else_should_is_read_or_refused_without_the_patient(
    base: dict[str, Any],
) -> None:
    refusals = []
    for path in paths(base):
        for junk in JUNK if path else ():
            resource = copy.deepcopy(base)
            at: Any = resource
            for step in path[:-1]:
                at = at[step]
            at[path[-1]] = junk
            try:
                found = read(json.dumps(resource).encode(), "f", FORM, today=TODAY)
                assert not any(CANARY in entry.why + entry.where + repr(entry) for entry in found)
            except InputError as error:
                refusals.append(error.message)
    assert len(refusals) > 300
    assert not any(CANARY in message for message in refusals)


# --- there and back


@pytest.mark.parametrize("version", ["R4B", "R5"])
@pytest.mark.parametrize(
    "state, status, number",
    [
        ("active", "active", "1"),
        ("minted", "active", "1"),
        ("withdrawn", "inactive", "2"),
        ("superseded", "inactive", "2"),
        ("entered-in-error", "entered-in-error", "2"),
    ],
)
def test_what_is_written_reads_back_the_same(version: Version, state: str, status: str, number: str) -> None:
    held = dataclasses.replace(HELD, state=state, changed_at=NOW)
    written = write(held, version)
    assert (written["status"], written["meta"]["versionId"]) == (status, number)
    found = one(written, Forms())
    assert (found.patient_id, found.form, found.signed_on, found.signer) == (CANARY, "main", "2026-12-01", "guardian")
    assert found.says is (Says.GRANT if status == "active" else Says.END)
    assert found.verified_by == ("dr.keller" if status == "active" else "")
    if number == "2":
        assert written["meta"]["lastUpdated"] == "2027-01-15T08:00:00Z"


# --- into the vault and out of it


def desk_of(world: World, path: Path) -> Desk:
    store = Store(path / "home", AT_REST)
    store.put("spec", world.spec.canonical)
    participant = Participant(
        MEMBER, None, world.rings[MEMBER], world.network.contracts.domains, store, world.vault, world.history()
    )
    return Desk(participant, world.network, auto_join=False, register=None)


def taken(desk: Desk, study: Digest, *resources: dict[str, Any], notified_on: str = "") -> dict[str, Any]:
    """Import as the command line does, without the chain."""
    lines = b"\n".join(json.dumps(entry).encode() for entry in resources)
    found = read(lines, "f", FORM, today=TODAY)
    row = ("line", "where", "patient_id", "form", "signed_on", "signer", "verified_by", "until")
    rows = [
        {key: getattr(entry, key) for key in row} | {"document": entry.document.decode(), "notified_on": notified_on}
        for entry in found
        if entry.says is Says.GRANT
    ]
    end = ("line", "where", "patient_id", "form", "signed_on", "mark", "consent")
    ends = [{key: getattr(entry, key) for key in end} for entry in found if entry.mark]
    return desk._take_in(study, rows, ends, NOW)


def test_an_import_binds_the_consent_to_the_resource_and_is_idempotent(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    told = taken(desk, world.study, r4())
    assert (told["granted"], told["known"], told["refused"]) == (1, 0, [])
    (consent,) = (entry.consent_id for entry in world.vault.find(CANARY))
    document = world.vault.document(consent)
    assert document == rfc8785.dumps(r4())
    salt = bytes.fromhex(world.vault._linked_consent("test", consent)["doc_salt"])
    assert world.vault.card(consent).doc_commit == doc_commit(salt, sha256(rfc8785.dumps(r4())))
    assert taken(desk, world.study, r4())["known"] == 1


def test_a_broad_form_is_granted_where_the_day_of_its_notice_is_named(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8, broad=True, notice_days=14), dataset(side=8))
    desk = desk_of(world, tmp_path)
    (refused,) = taken(desk, world.study, r4())["refused"]
    assert "has to be told of this study first (notified_on)" in refused["why"]
    with pytest.raises(InputError, match="notified_on '14 March' is not a day"):
        taken(desk, world.study, r4(), notified_on="14 March")
    assert taken(desk, world.study, r4(), notified_on=TODAY.isoformat())["granted"] == 1
    (leaf,) = world.vault.leaves(world.study)
    assert leaf.usable_from > NOW


def test_inactive_withdraws_what_was_signed_no_later_and_entered_in_error_corrects(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    taken(desk, world.study, r4())
    assert taken(desk, world.study, r4(status="inactive", dateTime="2025-01-01"))["ended"] == []
    assert len(taken(desk, world.study, r4(status="inactive"))["ended"]) == 1
    assert [entry.mark for entry in world.vault.find(CANARY)] == ["withdrawn"]
    other = {"reference": "Patient/MRN-0001"}
    taken(desk, world.study, r4(patient=other))
    taken(desk, world.study, r4(patient=other, status="entered-in-error"))
    assert [entry.mark for entry in world.vault.find("MRN-0001")] == ["entered-in-error"]


def test_a_deny_ends_what_is_held(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    taken(desk, world.study, r4())
    taken(desk, world.study, changed("provision.type", "deny"))
    assert [entry.mark for entry in world.vault.find(CANARY)] == ["withdrawn"]


def test_what_ends_nothing_is_told_with_its_reason(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)

    def ends(**changes: Any) -> list[str]:
        told = taken(desk, world.study, r4(status="inactive", **changes))
        assert all(one["where"].startswith("f") for one in told["nothing_ended"])
        return [one["why"] for one in told["nothing_ended"]]

    assert ends(patient={"reference": "Patient/MRN-typo"}) == ["no such patient here"]
    assert ends(dateTime="2025-01-01") == ["nothing is held of this patient under this form"]
    taken(desk, world.study, r4())
    assert ends(dateTime="2025-01-01") == ["what is held was signed later"]
    assert ends() == []
    assert ends() == [], "what has ended already was found"


@pytest.mark.parametrize("end", [{"status": "inactive"}, {"provision": {**r4()["provision"], "type": "deny"}}])
def test_a_form_signed_before_an_end_does_not_grant_in_this_file_or_a_later_one(
    tmp_path: Path, end: dict[str, Any]
) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    permit, later = r4(dateTime="2026-04-01"), r4(id="c-2", dateTime="2026-06-01", **end)
    told = taken(desk, world.study, permit, later)
    assert (told["granted"], [one["line"] for one in told["refused"]]) == (0, [1])
    assert "refused or ended it on 2026-06-01" in told["refused"][0]["why"]
    assert taken(desk, world.study, permit)["granted"] == 0
    assert taken(desk, world.study, r4(id="c-3", dateTime="2026-07-01"))["granted"] == 1


def test_an_older_form_does_not_replace_a_newer_consent(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk, second = desk_of(world, tmp_path), Forms("second")

    def held() -> dict[str, str]:
        return {one.signed_on: one.mark for one in world.vault.find(CANARY)}

    def imports(resource: dict[str, Any], forms: Forms) -> dict[str, Any]:
        (found,) = read(json.dumps(resource).encode(), "f", forms, today=TODAY)
        keys = ("line", "where", "patient_id", "form", "signed_on", "signer", "verified_by", "until")
        row = {key: getattr(found, key) for key in keys} | {"document": found.document.decode()}
        return desk._take_in(world.study, [row], [], NOW)

    old, new = r4(dateTime="2026-04-01"), r4(id="c-2", dateTime="2026-06-01")
    assert imports(old, FORM)["granted"] == 1
    assert len(imports(new, second)["superseded"]) == 1
    assert held() == {"2026-04-01": "superseded", "2026-06-01": ""}
    assert imports(old, FORM)["known"] == 1, "again changes nothing"
    told = imports(r4(id="c-3", dateTime="2026-03-01"), FORM)
    assert "signed another form on 2026-06-01" in told["refused"][0]["why"]
    assert held() == {"2026-04-01": "superseded", "2026-06-01": ""}


def test_a_suppression_is_lifted_by_a_form_signed_after_the_erasure_was_asked_for(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)

    def register(signed_on: str) -> bytes:
        return f"patient_id,form,signed_on,signer,verified_by\n{CANARY},main,{signed_on},patient,dr\n".encode()

    taken(desk, world.study, r4(dateTime="2026-04-01"))
    (one,) = world.vault.find(CANARY)
    name = desk._node.study(world.study).study.name
    world.vault.archive(one.consent_id, study_name=name, decision="erased", requested_on="2026-06-01")
    world.vault.suppress_consent(one.consent_id)
    for signed_on in ("2026-04-01", "2026-06-01"):
        with pytest.raises(Refused, match="asked for erasure on 2026-06-01"):
            desk.lift(world.study, register(signed_on), CANARY, NOW)
    for broken, fault in ((b"no register", InputError), (register("2026-07-01").replace(b"ZZ", b"YY"), NotFound)):
        with pytest.raises(fault):
            desk.lift(world.study, broken, CANARY, NOW)
    assert world.vault.is_suppressed(CANARY, world.study, NOW)
    desk.lift(world.study, register("2026-06-02"), CANARY, NOW)
    assert not world.vault.is_suppressed(CANARY, world.study, NOW)


def test_an_import_is_logged_and_anchored_as_a_register_is(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    desk.network = dataclasses.replace(desk.network, synthetic=False)
    taken(desk, world.study, r4())
    told = taken(desk, world.study, r4(id="c-2", patient={"reference": "Patient/MRN-0001"}))
    assert (told["granted"], told["waiting"]) == (1, 1), "the day's anchor is made"
    granted = [body["subject"] for _, _, body in desk._node.store.log_entries("consent_granted")]
    assert granted == [one.consent_id.hex() for who in (CANARY, "MRN-0001") for one in world.vault.find(who)]


def test_a_period_that_ends_before_the_form_is_refused(tmp_path: Path) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    told = taken(desk_of(world, tmp_path), world.study, changed("provision.period.end", "2028-06-01"))
    assert told["granted"] == 0
    assert "its period ends before" in told["refused"][0]["why"]


@pytest.mark.parametrize("version", ["R4B", "R5"])
def test_an_export_imported_again_changes_nothing(tmp_path: Path, version: Version) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    taken(desk, world.study, r4(), r4(id="c-2", patient={"reference": "Patient/MRN-0001"}))
    taken(desk, world.study, r4(status="inactive"))
    resources = []
    for held in desk.held(world.study, NOW):
        kept = read_document(held.pop("document").encode(), held["form"])
        resources.append(write(Held(**held, signer=kept.signer, verified_by=kept.verified_by), version))
    assert [entry["status"] for entry in resources] == ["inactive", "active"]
    before = world.vault.holdings()
    told = taken(desk, world.study, *resources)
    assert (told["granted"], told["known"], told["ended"], told["refused"]) == (0, 1, [], [])
    assert world.vault.holdings() == before


@pytest.mark.parametrize("version", ["R4B", "R5"])
def test_what_a_newer_form_replaced_is_not_withdrawn_by_its_inactive_version(tmp_path: Path, version: Version) -> None:
    world = World.found(tmp_path, study_spec(side=8), dataset(side=8))
    desk = desk_of(world, tmp_path)
    policy = {"coding": [{"system": FORM_SYSTEM, "code": "second"}]}
    taken(desk, world.study, r4(dateTime="2026-04-01"))
    (row,) = read(json.dumps(r4(dateTime="2026-06-01", policyRule=policy)).encode(), "f", Forms(), today=TODAY)
    keys = ("line", "where", "patient_id", "form", "signed_on", "signer", "verified_by", "until")
    desk._take_in(world.study, [{k: getattr(row, k) for k in keys} | {"document": row.document.decode()}], [], NOW)
    resources = []
    for held in desk.held(world.study, NOW):
        kept = read_document(held.pop("document").encode(), held["form"])
        resources.append(write(Held(**held, signer=kept.signer, verified_by=kept.verified_by), version))
    assert sorted(entry["status"] for entry in resources) == ["active", "inactive"]
    before = world.vault.holdings()
    told = taken(desk, world.study, next(one for one in resources if one["status"] == "inactive"))
    assert (told["ended"], told["nothing_ended"]) == ([], [])
    assert world.vault.holdings() == before
    told = taken(desk, world.study, r4(dateTime="2026-04-01", status="entered-in-error"))
    assert len(told["ended"]) == 1, "it can still turn out never to have been lawful"


@pytest.mark.slow  # processes
def test_the_library_is_loaded_by_nobody_who_does_not_read_fhir() -> None:
    code = "import sys, node.cli.main, node.runner; sys.exit(any(m.startswith('fhir') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
