"""FHIR Consent, R4B and R5: what a hospital's resource says about one signed form, and back.

What may live here: the reading, the checks that FHIR leaves to us, the writing. What this file does not know: the
vault, the chain, studies. `fhir.resources` checks the structure; codes are checked here, against `BINDINGS`, because it
takes any code for a bound element. It is loaded when it is needed: it costs a third of a second.

A resource says one of three things:

    status            R4B provision.type / R5 decision   says
    active            permit, nothing against it          GRANT: a line of the register of signed forms
    active            deny, or an exception to research    DENY: not enrolled; what is held of it ends
    inactive          any                                 END, withdrawn
    entered-in-error  any                                 END, entered in error
    any other         any                                 NOTHING: not granted, and nothing ends

An error names the file, the resource's place in it, the path in the resource and the fault; never a value, for a value
may name a patient. What koinon does not read (actor, class, code, data, securityLabel) stays in the document that the
consent is bound to: the form to which the resource is mapped has to say the same.

Sources: HL7 FHIR 4.3.0 and 5.0.0, Consent; RFC 8785 for the bytes that are hashed.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

import rfc8785

from node import jsontext
from node.errors import InputError

Version = Literal["R4B", "R5"]

MAX_FHIR_BYTES: Final = 8 << 20
MAX_RESOURCES: Final = 20_000
MAX_TEXT: Final = 200

FORM_SYSTEM: Final = "urn:koinon:form"
CONSENT_SYSTEM: Final = "urn:koinon:consent"
SIGNER_SYSTEM: Final = "urn:koinon:signer"
VERIFIER_SYSTEM: Final = "urn:koinon:verified-by"

_TERMS: Final = "http://terminology.hl7.org/CodeSystem/"
SCOPE_SYSTEM: Final = _TERMS + "consentscope"
CATEGORY_SYSTEM: Final = _TERMS + "consentcategorycodes"
ACT_CODE_SYSTEM: Final = _TERMS + "v3-ActCode"
REASON_SYSTEM: Final = _TERMS + "v3-ActReason"
ACTION_SYSTEM: Final = _TERMS + "consentaction"
VERIFICATION_SYSTEM: Final = _TERMS + "consentverification"
LOINC: Final = "http://loinc.org"
LOINC_CONSENT: Final = "59284-0"

BINDINGS: Final[dict[str, dict[str, frozenset[str]]]] = {
    SCOPE_SYSTEM: {
        "scope": frozenset("adr research patient-privacy treatment".split()),
        "category": frozenset("adr research patient-privacy treatment".split()),
    },
    CATEGORY_SYSTEM: {"category": frozenset("acd dnr emrgonly hcd npp polst research rsdid rsreid".split())},
    ACT_CODE_SYSTEM: {
        "category": frozenset("ICOL IDSCL INFA INFAO INFASO IRDSCL RESEARCH RSDID RSREID".split()),
    },
    VERIFICATION_SYSTEM: {"verificationType": frozenset(("family", "validation"))},
    ACTION_SYSTEM: {"action": frozenset("collect access use disclose correct".split())},
    REASON_SYSTEM: {
        "purpose": frozenset(
            "PurposeOfUse HMARKT HOPERAT CAREMGT DONAT FRAUD GOV HACCRED HCOMPL HDECD HDIRECT HDM HLEGAL HOUTCOMS "
            "HPRGRP HQUALIMP HSYSADMIN LABELING METAMGT MEMADMIN MILCDM PATADMIN PATSFTY PERFMSR RECORDMGT SYSDEV "
            "HTEST TRAIN HPAYMT CLMATTCH COVAUTH COVERAGE ELIGDTRM ELIGVER ENROLLM MILDCRG REMITADV HRESCH BIORCH "
            "CLINTRCH CLINTRCHNPC CLINTRCHPC PRECLINTRCH DSRCH POARCH TRANSRCH PATRQT FAMRQT PWATRNY SUPNWK PUBHLTH "
            "DISASTER THREAT TREAT CLINTRL COC ETREAT BTG ERTREAT POPHLTH".split()
        )
    },
}
"""Code system -> element -> the codes it may hold there. Codes of systems that no row names are left to the form."""

STATUS: Final[dict[str, frozenset[str]]] = {
    "R4B": frozenset("draft proposed active rejected inactive entered-in-error".split()),
    "R5": frozenset("draft active inactive not-done entered-in-error unknown".split()),
}
PROVISION_TYPES: Final = frozenset(("permit", "deny"))

RESEARCH_PURPOSES: Final = frozenset(
    "HRESCH BIORCH CLINTRCH CLINTRCHNPC CLINTRCHPC PRECLINTRCH DSRCH POARCH TRANSRCH".split()
)
RESEARCH_CATEGORIES: Final = frozenset(
    ((SCOPE_SYSTEM, "research"), (CATEGORY_SYSTEM, "research"), (ACT_CODE_SYSTEM, "RESEARCH"))
)
ENDS: Final = {"inactive": "withdrawn", "entered-in-error": "entered-in-error"}
"""Status -> the mark of the consent that it ends."""


class Says(Enum):
    """What a resource amounts to; see the table above."""

    GRANT = "grant"
    DENY = "deny"
    END = "end"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Reading:
    """One resource as koinon understands it.

    `line` is its number in the file, from 1; `where` its place in words; `why` says why it does not grant ("" where it
    does); `mark` how a held consent ends by it ("" where none does); `until` the last day of its period ("" without).
    Days are as the resource writes them, YYYY-MM-DD or the beginning of it. `document` is the RFC 8785 form of the
    resource, which the consent is bound to; `consent` the id that it has here, where the resource says it, else "".
    """

    line: int
    where: str
    says: Says
    why: str
    patient_id: str
    form: str
    signed_on: str
    signer: str
    verified_by: str
    mark: str
    until: str
    document: bytes
    consent: str

    def __repr__(self) -> str:
        """Show the place, never the patient."""
        return f"Reading({self.where}: {self.says.value})"


@dataclass(frozen=True, slots=True)
class Held:
    """One consent for `write`: what the hospital keeps of it. Days are YYYY-MM-DD, `changed_at` is a chain time.

    `state` is one of `node.consent.ConsentState`'s words; `valid_to` (unix seconds) ends the form.
    """

    consent_id: str
    patient_id: str
    form: str
    signed_on: str
    signer: str
    verified_by: str
    issued: str
    state: str
    changed_at: int
    valid_to: int

    def __repr__(self) -> str:
        """Show the consent, never the patient."""
        return f"Held({self.consent_id[:12]}, {self.state})"


@dataclass(frozen=True, slots=True)
class Forms:
    """How a resource's form is found: `form` for all, else `by_key` (identifier in the resource -> form)."""

    form: str | None = None
    by_key: Mapping[str, str] | None = None


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read(data: bytes, file: str, forms: Forms, *, today: datetime.date) -> tuple[Reading, ...]:
    """What a file of Consents says: one resource, a Bundle, or NDJSON (a resource a line), R4B and R5 mixed.

    Of several versions of one resource (same id) the newest counts. `today` decides what has ended.

    Raises:
        InputError: not JSON, not FHIR, a code outside its binding, an element koinon needs and the resource lacks,
            versions of which the newest is not to be told; then nothing of the file is taken.
    """
    versions: dict[object, dict[bytes, _Dated]] = {}
    for line, where, resource in _resources(data, file):
        one = _read_one(resource, line, where, forms, today)
        identity = resource.get("id")
        key: object = ("id", identity) if identity else ("line", line)
        number, moment = _age(resource, where)
        versions.setdefault(key, {}).setdefault(one.document, _Dated(one, number, moment))
    if not versions:
        raise InputError(f"{file}: holds no Consent")
    return tuple(sorted((_newest(list(some.values())) for some in versions.values()), key=lambda one: one.line))


def read_document(document: bytes, form: str) -> Reading:
    """A resource that was read before and is kept, again; `form` is what it was mapped to.

    Its signer is "" where it is nobody who could sign today.
    """
    resource = _loads(document, "the kept resource")
    return _read_one(resource, 1, "the kept resource", Forms(form), None)


def _resources(data: bytes, file: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    if len(data) > MAX_FHIR_BYTES:
        raise InputError(f"{file}: larger than {MAX_FHIR_BYTES} bytes; split it")
    lines = [(number, text) for number, text in enumerate(data.splitlines(), 1) if text.strip()]
    if not lines:
        raise InputError(f"{file}: empty")
    count = 0
    for place, value in _values(data, lines, file):
        entries: list[tuple[str, Any]] = [(place, value)]
        if isinstance(value, dict) and value.get("resourceType") == "Bundle":
            listed = value.get("entry", [])
            if not isinstance(listed, list):
                raise InputError(f"{place}: Bundle.entry: not a list")
            entries = [
                (f"{place}: Bundle.entry[{i}].resource", one.get("resource") if isinstance(one, dict) else None)
                for i, one in enumerate(listed)
            ]
        for where, resource in entries:
            count += 1
            if count > MAX_RESOURCES:
                raise InputError(f"{file}: more than {MAX_RESOURCES} resources; split it")
            if not isinstance(resource, dict):
                raise InputError(f"{where}: not a resource")
            kind = resource.get("resourceType")
            if kind == "Consent":
                yield count, where, resource
            elif kind == "Bundle" and resource is not value:
                raise InputError(f"{where}: a Bundle within a Bundle, which koinon does not look into; take it out")
            elif entries[0][1] is value:
                raise InputError(f"{where}: resourceType: neither Consent nor Bundle")


def _values(data: bytes, lines: list[tuple[int, bytes]], file: str) -> Iterator[tuple[str, Any]]:
    try:
        whole = _loads(data, file)
    except InputError:
        if len(lines) == 1 or not _is_object(lines[0][1]):
            raise
    else:
        yield file, whole
        return
    for number, text in lines:
        yield f"{file}, line {number}", _loads(text, f"{file}, line {number}")


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(_loads(text, ""), dict)
    except InputError:
        return False


def _loads(data: bytes, where: str) -> Any:
    try:
        jsontext.check_depth(data)
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except _Repeated:
        raise InputError(f"{where}: a JSON object names one element twice") from None
    except (ValueError, RecursionError):
        raise InputError(f"{where}: not JSON in UTF-8, or nested too deep") from None


class _Repeated(ValueError):
    pass


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Repeated
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


@dataclass(frozen=True, slots=True)
class _Dated:
    """One version of a resource: `number` its versionId where that is one, `moment` when it was changed."""

    reading: Reading
    number: int | None
    moment: datetime.datetime | None


def _newest(versions: list[_Dated]) -> Reading:
    """The version that counts: by their numbers where all have one, else by the moments where all have one."""
    first, *others = versions
    for other in others:
        if other.reading.patient_id != first.reading.patient_id:
            raise InputError(f"{other.reading.where}: id: that of {first.reading.where}, which is another patient's")
    if not others:
        return first.reading
    numbered = {one.number: one for one in versions if one.number is not None}
    dated = {one.moment: one for one in versions if one.moment is not None}
    if len(numbered) == len(versions):
        newest = numbered[max(numbered)]
        if all(one.moment for one in versions) and newest.moment != max(dated):
            raise InputError(f"{newest.reading.where}: meta: the newest by versionId is not the newest by lastUpdated")
        return newest.reading
    if len(dated) == len(versions):
        return dated[max(dated)].reading
    raise InputError(
        f"{others[0].reading.where}: meta: another version of {first.reading.where}; which counts is not to be told "
        "(by versionId where all are numbers, else by lastUpdated)"
    )


def _age(resource: dict[str, Any], where: str) -> tuple[int | None, datetime.datetime | None]:
    """What orders the versions of one resource: the version's number, and the moment of the change."""
    meta = resource.get("meta") or {}
    version, moment = str(meta.get("versionId", "")), meta.get("lastUpdated")
    number = int(version) if version.isascii() and version.isdigit() and len(version) <= 18 else None
    return number, None if moment is None else _instant(str(moment), f"{where}: meta.lastUpdated")


def _instant(text: str, where: str) -> datetime.datetime:
    """A moment with its offset from UTC, to the microsecond."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InputError(f"{where}: not a moment with its offset from UTC")
    try:
        return found.astimezone(datetime.UTC)
    except OverflowError:  # the first and the last day of the calendar
        raise InputError(f"{where}: beyond the calendar in UTC") from None


def _day_of(text: str, where: str) -> str:
    """The day of a FHIR dateTime, YYYY-MM-DD: in UTC where it has a time of day, as everything on the chain is."""
    return text if len(text) == 10 else _instant(text, where).date().isoformat()


def _version_of(resource: dict[str, Any], where: str) -> Version:
    if "subject" in resource or "decision" in resource:
        return "R5"
    if "patient" in resource or "scope" in resource:
        return "R4B"
    raise InputError(f"{where}: patient (R4B) or subject (R5): missing; whose consent it is has to be said")


def _read_one(resource: dict[str, Any], line: int, where: str, forms: Forms, today: datetime.date | None) -> Reading:
    version = _version_of(resource, where)
    _check_structure(resource, version, where)
    _check_codes(resource, version, where)
    r4 = version == "R4B"
    status = resource["status"]
    says, why = _judge(resource, version, today)
    mark = ENDS.get(status, "withdrawn") if says in (Says.END, Says.DENY) else ""
    dated = "dateTime" if r4 else "date"
    signed = resource.get(dated)
    if not isinstance(signed, str) or len(signed) < 10:
        raise InputError(f"{where}: {dated}: the day of the signature is missing")
    try:
        rfc = rfc8785.dumps(resource)
    except (ValueError, OverflowError):
        raise InputError(f"{where}: a number that RFC 8785 cannot write") from None
    if says is Says.GRANT:
        verified, verifier = _verification(resource, version, where)
        if not verified:
            says, why = Says.NOTHING, "verification: nobody has verified it"
    else:
        verifier = ""
    subject = "patient" if r4 else "subject"
    patient = _patient(resource.get(subject) or {}, f"{where}: {subject}")
    signer = _signer(resource, version, where)
    if says is Says.GRANT and not signer and today is not None:  # a kept one was taken by the rules of its day
        element = "performer" if r4 else "grantor"
        raise InputError(
            f"{where}: {element}: neither the consent's own patient (the reference or identifier of {subject}) nor a "
            "related person signed it"
        )
    return Reading(
        line,
        where,
        says,
        why,
        patient,
        _form(resource, version, where, forms),
        _day_of(signed, f"{where}: {dated}"),
        signer,
        verifier,
        mark,
        _until(resource, version),
        rfc,
        _consent(resource),
    )


def _consent(resource: dict[str, Any]) -> str:
    """The id of the consent that we wrote this resource of."""
    found = resource.get("identifier", [])
    return next((str(one.get("value", "")) for one in found if one.get("system") == CONSENT_SYSTEM), "")


def _check_structure(resource: dict[str, Any], version: Version, where: str) -> None:
    """Whether it is a Consent of this version, by `fhir.resources`, which must not speak for itself: it quotes."""
    if version == "R4B":
        from fhir.resources.R4B.consent import Consent as Model
    else:
        from fhir.resources.consent import Consent as Model  # type: ignore[assignment]
    try:
        Model.model_validate(resource)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        told: Any = error  # the library trips over some wrong types before it has words for them
        faults = told.errors() if hasattr(told, "errors") else []
        path, kind = "", "invalid"
        if faults:
            steps = faults[0]["loc"]
            kind = str(faults[0]["type"])
            if kind == "extra_forbidden":
                steps = steps[:-1]  # the unknown element's name is the writer's: it is not repeated
            path = _path(steps)
        raise InputError(f"{where}: {path or 'Consent'}: not as FHIR {version} has it ({kind})") from None
    for path in _nulls(resource, ""):
        raise InputError(f"{where}: {path}: null, which FHIR does not have")
    for path in _modifiers(resource, ""):
        raise InputError(f"{where}: {path}: changes the meaning in a way that koinon does not know")


def _path(steps: Iterable[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _nulls(value: Any, path: str) -> Iterator[str]:
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _nulls(one, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _nulls(one, f"{path}[{i}]")


def _modifiers(value: Any, path: str) -> Iterator[str]:
    """Where elements stand that change what the rest means (FHIR: a reader that does not know them must refuse)."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("modifierExtension", "implicitRules"):
                yield f"{path}.{key}".lstrip(".")
            elif key not in ("contained", "extension", "text"):
                yield from _modifiers(one, f"{path}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _modifiers(one, f"{path}[{i}]")


# --------------------------------------------------------------------------------------------------------------------
# Codes


def _check_codes(resource: dict[str, Any], version: Version, where: str) -> None:
    def known(value: object, codes: frozenset[str], path: str) -> None:
        if value not in codes:
            raise InputError(f"{where}: {path}: not one of {', '.join(sorted(codes))}")

    known(resource.get("status"), STATUS[version], "status")
    if version == "R4B":
        _check_concept(resource["scope"], "scope", f"{where}: scope")
        if not _codings(resource["scope"]):
            raise InputError(f"{where}: scope.coding: missing")
    elif "decision" in resource:
        known(resource["decision"], PROVISION_TYPES, "decision")
    for i, concept in enumerate(resource.get("category", [])):
        _check_concept(concept, "category", f"{where}: category[{i}]")
        if not _codings(concept):
            raise InputError(f"{where}: category[{i}].coding: missing")
    for i, one in enumerate(resource.get("verification", [])):
        if type(one.get("verified")) is not bool:
            raise InputError(f"{where}: verification[{i}].verified: neither true nor false")
        place = f"{where}: verification[{i}].verificationType"
        _check_concept(one.get("verificationType") or {}, "verificationType", place)
    for path, provision, depth in _provisions(resource, version):
        if version == "R4B":
            known(provision.get("type"), PROVISION_TYPES, f"{path}.type")
        for i, coding in enumerate(provision.get("purpose", [])):
            _check_coding(coding, "purpose", f"{where}: {path}.purpose[{i}]")
        for i, concept in enumerate(provision.get("action", [])):
            _check_concept(concept, "action", f"{where}: {path}.action[{i}]")
        if depth > 1:
            raise InputError(f"{where}: {path}: exceptions to exceptions are more than koinon can apply")


def _provisions(resource: dict[str, Any], version: Version) -> Iterator[tuple[str, dict[str, Any], int]]:
    """(path, provision, depth): R4B's root rule is at depth 0; what is at depth 1 is an exception to it.

    R5's base rule is the resource itself (`decision`); each of its provisions negates it.
    """
    if version == "R4B":
        root = resource.get("provision")
        stack = [] if root is None else [("provision", root, 0)]
    else:
        stack = [(f"provision[{i}]", one, 1) for i, one in enumerate(resource.get("provision", []))]
    while stack:
        path, one, depth = stack.pop(0)
        yield path, one, depth
        stack += [(f"{path}.provision[{i}]", sub, depth + 1) for i, sub in enumerate(one.get("provision", []))]


def _codings(concept: Any) -> list[dict[str, Any]]:
    return [one for one in concept.get("coding", []) if isinstance(one, dict)]


def _check_concept(concept: dict[str, Any], element: str, path: str) -> None:
    for i, coding in enumerate(_codings(concept)):
        _check_coding(coding, element, f"{path}.coding[{i}]")


def _check_coding(coding: dict[str, Any], element: str, path: str) -> None:
    system, code = coding.get("system"), coding.get("code")
    if not code or not system:
        raise InputError(f"{path}: a coding needs system and code")
    row = BINDINGS.get(system)
    if row is not None and code not in row.get(element, ()):
        allowed = ", ".join(sorted(row.get(element, ()))) or "none of that system"
        raise InputError(f"{path}.code: outside the codes of its system for {element}: {allowed}")


# --------------------------------------------------------------------------------------------------------------------
# Meaning


def _judge(resource: dict[str, Any], version: Version, today: datetime.date | None) -> tuple[Says, str]:
    """What a well-formed resource says, and why it does not grant. Without `today` no period has ended."""
    status = resource["status"]
    elsewhere = "" if _consent(resource) else _not_research(resource, version)
    if status in ENDS:
        return (Says.NOTHING, f"status: {status}; {elsewhere}") if elsewhere else (Says.END, f"status: {status}")
    if status != "active":
        return Says.NOTHING, f"status: {status}"
    provisions = list(_provisions(resource, version))
    if version == "R4B":
        root = resource.get("provision")
        if root is None:
            return Says.NOTHING, "provision: missing; whether it permits is not to be told"
        decision, at, rule, period_at = root["type"], "provision.type", root, "provision.period"
    elif "decision" not in resource:
        return Says.NOTHING, "decision: missing; whether it permits is not to be told"
    else:
        decision, at, rule, period_at = resource["decision"], "decision", resource, "period"
    if decision == "deny":
        if elsewhere:
            return Says.NOTHING, f"{at}: deny; {elsewhere}"
        for path, one, depth in provisions:
            if depth and (version == "R5" or one["type"] == "permit") and _concerns_research(one):
                return Says.NOTHING, f"{path}: permits some of what {at} denies; which, koinon does not read"
        return Says.DENY, f"{at}: deny"
    for path, one, depth in provisions:
        if depth and (version == "R5" or one["type"] == "deny") and _concerns_research(one):
            return Says.DENY, f"{path}: an exception that koinon cannot keep apart from research"
    period = rule.get("period") or {}
    now = "" if today is None else today.isoformat()
    end, start = str(period.get("end", ""))[:10], str(period.get("start", ""))[:10]  # FHIR: a day, a month or a year
    if end < now[: len(end)]:
        return Says.NOTHING, f"{period_at}.end: has passed"
    if now and start > now[: len(start)]:
        return Says.NOTHING, f"{period_at}.start: has not come"
    if elsewhere:
        return Says.NOTHING, elsewhere
    listed = rule.get("action", []) if version == "R4B" else []
    actions = {(one.get("system"), one.get("code")) for concept in listed for one in _codings(concept)}
    if listed and (ACTION_SYSTEM, "use") not in actions:
        return Says.NOTHING, "provision.action: does not permit use"
    return Says.GRANT, ""


def _until(resource: dict[str, Any], version: Version) -> str:
    rule = resource.get("provision") or {} if version == "R4B" else resource
    return str((rule.get("period") or {}).get("end", ""))[:10]


def _concerns_research(exception: dict[str, Any]) -> bool:
    purposes = exception.get("purpose", [])
    return not purposes or any(
        one.get("system") != REASON_SYSTEM or one.get("code") in RESEARCH_PURPOSES | {"PurposeOfUse"}
        for one in purposes
    )


def _not_research(resource: dict[str, Any], version: Version) -> str:
    """Why a resource is about something else than research; empty where it may be about research.

    Nothing follows from such a one: an opt-out of an exchange, or a directive about care, ends no consent to research.
    """
    if version == "R4B":
        rule = resource.get("provision") or {}
        scopes = {(one.get("system"), one.get("code")) for one in _codings(resource["scope"])}
        purposes = [(one.get("system"), one.get("code")) for one in rule.get("purpose", [])]
        if purposes and not any(at == REASON_SYSTEM and code in RESEARCH_PURPOSES for at, code in purposes):
            return "provision.purpose: not research (of v3-ActReason)"
        if not purposes and (SCOPE_SYSTEM, "research") not in scopes:
            return "scope: not research (of consentscope), and no purpose says so"
        return ""
    categories = [
        (one.get("system"), one.get("code")) for concept in resource.get("category", []) for one in _codings(concept)
    ]
    if categories and not any(one in RESEARCH_CATEGORIES or one[0] not in BINDINGS for one in categories):
        return "category: not research"
    return ""


def _patient(reference: Any, where: str) -> str:
    """The patient's id: of the identifier, else the last part of `Patient/ID`."""
    identifier = reference.get("identifier") or {}
    if identifier.get("value"):
        return _text(identifier["value"], f"{where}.identifier.value")
    parts = _parts(reference)
    if len(parts) < 2 or parts[-2] != "Patient" or not parts[-1]:
        raise InputError(f"{where}: neither an identifier nor a reference of the form Patient/ID")
    return _text(parts[-1], f"{where}.reference")


def _parts(reference: Any) -> list[str]:
    """The parts of a reference's path, without the version that it may name."""
    parts = str(reference.get("reference", "")).split("/")
    return parts[: parts.index("_history")] if "_history" in parts else parts


def _text(value: Any, where: str) -> str:
    text = str(value).strip()
    if not text or len(text) > MAX_TEXT or not text.isprintable():
        raise InputError(f"{where}: empty, not printable, or longer than {MAX_TEXT} characters")
    return text


def _named(reference: Any, where: str) -> str:
    """A person or an organisation as the register writes it: identifier, reference or display, whichever is there."""
    identifier = reference.get("identifier") or {}
    value = identifier.get("value") or reference.get("reference") or reference.get("display")
    if not value:
        raise InputError(f"{where}: names nobody")
    return _text(value, where)


def _signer(resource: dict[str, Any], version: Version, where: str) -> str:
    """Who signed, as a kind of signer, "" for nobody who can: their own names stay in the document.

    A Patient is one who can only where it is told to be the consent's own: another patient signs as a RelatedPerson.
    """
    element, subject = ("performer", "patient") if version == "R4B" else ("grantor", "subject")
    for i, one in enumerate(resource.get(element, [])):
        identifier = one.get("identifier") or {}
        if identifier.get("system") == SIGNER_SYSTEM:
            return _text(identifier.get("value", ""), f"{where}: {element}[{i}].identifier.value")
        parts = _parts(one)
        kind = one.get("type") or (parts[-2] if len(parts) > 1 else "")
        if kind == "Patient" and _is_same(one, resource.get(subject) or {}):
            return "patient"
        if kind == "RelatedPerson":
            return "legal representative"
    # FHIR: a Consent is the patient's unless it says who else agreed to it
    return "" if resource.get(element) else "patient"


def _is_same(one: Any, other: Any) -> bool:
    """Whether two references are to one resource: by their references, or by their identifiers.

    A reference without a server is to the same server; an identifier without a system is of the same system.
    """
    here, there = _parts(one), _parts(other)
    if here != [""] and (here == there or (here[-2:] == there[-2:] and 2 in (len(here), len(there)))):
        return True
    mine, theirs = one.get("identifier") or {}, other.get("identifier") or {}
    systems = {identifier["system"] for identifier in (mine, theirs) if identifier.get("system")}
    return bool(mine.get("value")) and mine["value"] == theirs.get("value") and len(systems) < 2


def _verification(resource: dict[str, Any], version: Version, where: str) -> tuple[bool, str]:
    """(whether somebody has verified it, who)."""
    done = [(i, one) for i, one in enumerate(resource.get("verification", [])) if one["verified"]]
    if not done:
        return False, ""
    for i, one in done:
        if one.get("verifiedBy"):
            return True, _named(one["verifiedBy"], f"{where}: verification[{i}].verifiedBy")
    for element in ("organization",) if version == "R4B" else ("grantee", "manager", "controller"):
        if resource.get(element):
            return True, _named(resource[element][0], f"{where}: {element}[0]")
    raise InputError(f"{where}: {'organization' if version == 'R4B' else 'grantee'}: who verified it is not said")


def _form(resource: dict[str, Any], version: Version, where: str, forms: Forms) -> str:
    """The study's form that the resource stands for: by option, by a key of the map, by our own identifier."""
    if forms.form is not None:
        return forms.form
    keys = list(_form_keys(resource, version))
    found = {form for key in keys if (form := (forms.by_key or {}).get(key)) is not None}
    found |= {key.removeprefix(FORM_SYSTEM + "|") for key in keys if key.startswith(FORM_SYSTEM + "|")}
    if len(found) == 1:
        return _text(found.pop(), f"{where}: policy")
    element = "policyRule, policy or sourceReference" if version == "R4B" else "policyBasis or sourceReference"
    what = "leads to more than one form" if found else "leads to no form; map it"
    raise InputError(f"{where}: {element}: {what}")


def _form_keys(resource: dict[str, Any], version: Version) -> Iterator[str]:
    def of(reference: Any) -> Iterator[str]:
        if reference.get("reference"):
            yield str(reference["reference"])
        identifier = reference.get("identifier") or {}
        if identifier.get("value"):
            yield f"{identifier.get('system', '')}|{identifier['value']}"

    if version == "R4B":
        for coding in _codings(resource.get("policyRule") or {}):
            yield f"{coding.get('system', '')}|{coding.get('code', '')}"
        for policy in resource.get("policy", []):
            if policy.get("uri"):
                yield str(policy["uri"])
        yield from of(resource.get("sourceReference") or {})
        return
    basis = resource.get("policyBasis") or {}
    if basis.get("url"):
        yield str(basis["url"])
    yield from of(basis.get("reference") or {})
    for one in resource.get("sourceReference", []):
        yield from of(one)


# --------------------------------------------------------------------------------------------------------------------
# Writing


def write(held: Held, version: Version) -> dict[str, Any]:
    """A Consent for what is held. Its end is a further version of the same resource, with status `inactive`.

    It names the patient: it is for the hospital's own records.
    """
    ended = held.state in ("withdrawn", "superseded", "entered-in-error")
    status = "active" if not ended else "entered-in-error" if held.state == "entered-in-error" else "inactive"
    updated = _moment(held.changed_at) if ended and held.changed_at else f"{held.issued}T00:00:00Z"
    end = _moment(held.valid_to)
    form = {"system": FORM_SYSTEM, "code": held.form}
    signer = {
        "type": "Patient" if held.signer == "patient" else "RelatedPerson",
        "identifier": {"system": SIGNER_SYSTEM, "value": held.signer},
    }
    verifier = {"identifier": {"system": VERIFIER_SYSTEM, "value": held.verified_by}}
    patient = {"type": "Patient", "identifier": {"value": held.patient_id}}
    common: dict[str, Any] = {
        "resourceType": "Consent",
        "id": held.consent_id,
        "meta": {"versionId": "2" if ended else "1", "lastUpdated": updated},
        "identifier": [{"system": CONSENT_SYSTEM, "value": held.consent_id}],
        "status": status,
    }
    if version == "R4B":
        return common | {
            "scope": {"coding": [{"system": SCOPE_SYSTEM, "code": "research"}]},
            "category": [{"coding": [{"system": LOINC, "code": LOINC_CONSENT}]}],
            "patient": patient,
            "dateTime": held.signed_on,
            "performer": [signer],
            "organization": [verifier],
            "policyRule": {"coding": [form]},
            "verification": [{"verified": True, "verificationDate": held.signed_on}],
            "provision": {
                "type": "permit",
                "period": {"end": end},
                "purpose": [{"system": REASON_SYSTEM, "code": "HRESCH"}],
                "action": [{"coding": [{"system": ACTION_SYSTEM, "code": "use"}]}],
            },
        }
    return common | {
        "category": [{"coding": [{"system": SCOPE_SYSTEM, "code": "research"}]}],
        "subject": patient,
        "date": held.signed_on,
        "period": {"end": end},
        "grantor": [signer],
        "grantee": [verifier],
        "policyBasis": {"reference": {"identifier": {"system": FORM_SYSTEM, "value": held.form}}},
        "verification": [{"verified": True, "verifiedBy": verifier, "verificationDate": [held.signed_on]}],
        "decision": "permit",
    }


def _moment(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
