"""A study's specification: TOML in, one canonical byte string out, and everything that is derived from it.

What may live here: the schema `koinon.study/1` as a literal table, its strict reader, the terms a study puts on chain,
the training beacon. What this file does not know: files, the chain, the clock.

The spec is stored and addressed as canonical JSON (RFC 8785): two TOML texts that mean the same are the same study
text. An unknown section or key is refused, never ignored: a misspelt policy must not silently become a default.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import rfc8785

from crypto.digest import Digest, content_root
from crypto.statements import CreateStudy, Form
from fl_engine.beacon import round_beacon
from node import jsontext
from node.duo import KNOWN, PERMISSIONS, codes_of
from node.errors import InputError
from node.purposes import RESEARCH, mask_of, refusal

SCHEMA = "koinon.study/1"
MAX_SPEC_BYTES = 256 * 1024  # a spec is a page of text; anything larger is not one
_SECONDS = (1, 10 * 365 * 86_400)

_NAME = re.compile(r"[^\x00-\x1f]{1,200}")
_DAY = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")

# section -> key -> (type, default or REQUIRED, (lowest, highest) or allowed values or, of a list, what each one is)
REQUIRED = object()
_TABLE: dict[str, dict[str, tuple[type, Any, Any]]] = {
    "": {
        "schema": (str, REQUIRED, (SCHEMA,)),
        "name": (str, REQUIRED, None),
        "task": (str, REQUIRED, ("nuclei", "mri-quality", "npz-classification", "table-classification")),
        "rounds": (int, REQUIRED, (1, 100_000)),
        "min_included": (int, 0, (0, 32)),
    },
    # What the study is for, in the words of the Data Use Ontology; matched with the forms by node/purposes.py
    "purpose": {
        "research": (str, "health", RESEARCH),
        "disease": (str, "", None),  # a MONDO id, where research is "disease"
        "methods_development": (bool, False, None),
        "commercial": (bool, False, None),
        "for_profit": (bool, False, None),
        "clinical_care": (bool, False, None),
        "genetic": (bool, False, None),
        "ethics_approval": (str, "", None),  # its reference
        "countries": (list, (), re.compile(r"[A-Z]{2}")),  # ISO 3166-1, where members process the data
        "publication": (bool, False, None),
        "publish_after": (str, "", None),  # YYYY-MM-DD
        "collaboration": (bool, False, None),
        "return_data": (bool, False, None),
        "users": (list, (), _NAME),
        "project": (str, "", None),
        "institutions": (list, (), _NAME),
    },
    "data": {
        "input_shape": (list, REQUIRED, None),
        "classes": (int, REQUIRED, (2, 1000)),
    },
    "model": {"name": (str, REQUIRED, None)},
    "training": {
        "method": (str, "fedavg", None),
        "local_epochs": (int, 1, (1, 1000)),
        "batch_size": (int, 32, (1, 1_000_000)),
        "learning_rate": (float, 0.05, (1e-9, 1e3)),
        "noise": (float, 0.0, (0.0, 1e6)),  # deviation of what a member adds to its statistics, of the method ridge
        "shards": (int, 1, (1, 32)),  # networks that members train apart, by their index (fl_engine/models/shards.py)
    },
    "aggregation": {
        "rule": (str, "mean", None),
        "fraction_bits": (int, 24, (1, 30)),
        "max_abs": (float, 64.0, (2.0**-20, 2.0**20)),
    },
    "windows": {
        "scribe_s": (int, 300, _SECONDS),
        "grace_s": (int, 20, _SECONDS),
        "reveal_s": (int, 60, _SECONDS),
        "have_s": (int, 40, _SECONDS),
        "vote_s": (int, 60, _SECONDS),
        "purge_s": (int, 120, _SECONDS),
    },
    "policy": {
        "f": (int, 1, (0, 10)),
        "min_consents": (int, 20, (1, 1_000_000)),
        "max_records_per_consent": (int, 32, (1, 1_000_000)),
        "set_retention_days": (int, 30, (1, 36_500)),
        "erasure_window_s": (int, 0, (0, 31 * 86_400)),
        "erasable": (bool, True, None),
        "suspend_after": (int, 2, (1, 15)),
        "suspend_rounds": (int, 3, (1, 14)),
        "max_round_age_s": (int, 86_400, _SECONDS),
        "public_chain": (bool, False, None),
        # Members commit to the set of a round in the round before it: needed for L3 (`node/replay.py`)
        "sets_ahead": (bool, False, None),
        # Levels of evidence that an erasure should have in the end; no step of it waits for them
        "evidence": (list, ("L2",), re.compile("L[234]")),
    },
    # What may be called a success once all rounds are over (`node/trail.py`): nothing that trains reads it
    "success": {
        "members": (int, 0, (0, 32)),  # so many have taken part; 0: every one that joined and did not leave
        "rounds_share": (float, 0.5, (0.0, 1.0)),  # part of the agreed rounds that includes whoever has taken part
    },
}
_FORM: dict[str, tuple[type, Any, Any]] = {
    "name": (str, REQUIRED, None),
    "text_sha256": (str, REQUIRED, None),
    "purposes": (int, 1, (1, 2**32 - 1)),
    "custody": (str, "hospital-attested", ("hospital-attested", "patient-signed", "synthetic")),
    "basis": (str, "consent", ("consent", "law", "opt-out")),
    "valid_to": (int, REQUIRED, (1, 2**40 - 1)),
    "on_withdrawal": (str, "stop+delete", ("stop", "stop+delete", "stop+delete+unlearn")),
    # A broad form was signed for more than this study: its patients are told first (register: notified_on)
    "broad": (bool, False, None),
    "notice_days": (int, 14, (0, 3650)),
    # What the form's DUO codes refer to: DS, RS, GS, MOR, US, PS, IS
    "diseases": (list, (), re.compile(r"MONDO:[0-9]{7}")),
    "research": (list, (), re.compile("|".join(RESEARCH))),
    "countries": (list, (), re.compile(r"[A-Z]{2}")),
    "moratorium": (str, "", None),  # YYYY-MM-DD
    "users": (list, (), _NAME),
    "project": (str, "", None),
    "institutions": (list, (), _NAME),
}
# section -> keys that are younger than the format, as the whole of [success] is: a specification that says nothing
# about them keeps its hash
_YOUNGER = {"policy": ("sets_ahead", "evidence"), "training": ("noise", "shards")}
_PATTERNS = {"disease": re.compile(r"MONDO:[0-9]{7}"), "publish_after": _DAY, "moratorium": _DAY}
CUSTODY = {"hospital-attested": 1, "patient-signed": 2, "synthetic": 3}
BASIS = {"consent": 1, "law": 2, "opt-out": 3}
ON_WITHDRAWAL = {"stop": 1, "stop+delete": 2, "stop+delete+unlearn": 3}


@dataclass(frozen=True, slots=True)
class Study:
    """A checked specification. `sections` holds every key of the table, defaults filled in."""

    sections: dict[str, dict[str, Any]]
    forms: tuple[dict[str, Any], ...]
    canonical: bytes
    spec_hash: Digest

    def __getitem__(self, key: tuple[str, str]) -> Any:
        """`study["windows", "grace_s"]`; the top level is section ""."""
        section, name = key
        return self.sections[section][name]

    @property
    def name(self) -> str:
        """The study's neutral public name."""
        return str(self["", "name"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record."""
        return tuple(self["data", "input_shape"])

    def terms(self, member: int, initial_model: Digest, invited: int) -> CreateStudy:
        """What the study puts on chain: the windows and policies the contract itself enforces."""
        windows, policy = self.sections["windows"], self.sections["policy"]
        return CreateStudy(
            member=member,
            spec_hash=self.spec_hash,
            initial_model=initial_model,
            invited=invited,
            rounds=self["", "rounds"],
            f=policy["f"],
            min_included=self["", "min_included"],
            scribe_seconds=windows["scribe_s"],
            grace_seconds=windows["grace_s"],
            reveal_seconds=windows["reveal_s"],
            have_seconds=windows["have_s"],
            vote_seconds=windows["vote_s"],
            purge_seconds=windows["purge_s"],
            suspend_after=policy["suspend_after"],
            suspend_rounds=policy["suspend_rounds"],
            max_round_age=policy["max_round_age_s"],
            erasure_window=policy["erasure_window_s"],
        )

    def form_statements(self, study: Digest) -> tuple[Form, ...]:
        """The study's consent forms as the statements the registry stores."""
        return tuple(
            Form(
                study=study,
                purposes=form["purposes"],
                text_hash=Digest(bytes.fromhex(form["text_sha256"])),
                custody=CUSTODY[form["custody"]],
                basis=BASIS[form["basis"]],
                valid_to=form["valid_to"],
                on_withdrawal=ON_WITHDRAWAL[form["on_withdrawal"]],
            )
            for form in self.forms
        )

    def form_refusals(self) -> dict[str, str]:
        """Form name -> why the study's purpose is not what its patients agreed to; allowed forms are left out."""
        found = {form["name"]: refusal(form, self.sections["purpose"]) for form in self.forms}
        return {name: why for name, why in found.items() if why is not None}

    def beacon(self, initial_model: Digest, branch_seed: Digest, height: int, parent_model: Digest) -> bytes:
        """Seed of a round's batch orders, 32 bytes.

        Only what decides the arithmetic enters (model, training, aggregation, data, task): nothing of the chain, of
        identities or of the calendar, so a study simulated in one process gets the same beacons.
        """
        learned = {name: _terse(name, self.sections[name]) for name in ("data", "model", "training", "aggregation")}
        learned["task"] = {"name": self["", "task"]}
        return round_beacon(rfc8785.dumps(learned), initial_model, branch_seed, height, parent_model)


def _check(where: str, key: str, given: Any, rule: tuple[type, Any, Any]) -> Any:
    kind, table_default, allowed = rule
    value: Any = given
    name = f"{where}.{key}" if where else key
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"study spec: {name} = {value!r} must be {kind.__name__}")
    if kind is float and not math.isfinite(float(given)):
        raise InputError(f"study spec: {name} = {value!r} must be a finite number")
    if kind in (int, float) and allowed is not None and not allowed[0] <= value <= allowed[1]:
        raise InputError(f"study spec: {name} = {value!r} must be between {allowed[0]} and {allowed[1]}")
    if kind is str and allowed is not None and value not in allowed:
        raise InputError(f"study spec: {name} = {value!r} must be one of {', '.join(allowed)}")
    if isinstance(given, list) and isinstance(allowed, re.Pattern):
        for one in given:
            if not isinstance(one, str) or not allowed.fullmatch(one):
                raise InputError(f"study spec: {name} has {one!r}, which is not of the form {allowed.pattern}")
        return sorted(set(given))
    if kind is str and key in _PATTERNS and given and not _PATTERNS[key].fullmatch(given):
        raise InputError(f"study spec: {name} = {value!r} is not of the form {_PATTERNS[key].pattern}")
    if kind is str and allowed is None and value == "" and table_default == "":
        return value
    if kind is str and allowed is None and not 1 <= len(str(given)) <= 200:
        raise InputError(f"study spec: {name} must have between 1 and 200 characters")
    return value


def _section(where: str, given: dict[str, Any], table: dict[str, tuple[type, Any, Any]]) -> dict[str, Any]:
    for key in given:
        if key not in table:
            raise InputError(f"study spec: unknown key {where + '.' if where else ''}{key}; known: {', '.join(table)}")
    out: dict[str, Any] = {}
    for key, rule in table.items():
        if key in given:
            out[key] = _check(where, key, given[key], rule)
        elif rule[1] is REQUIRED:
            raise InputError(f"study spec: {where + '.' if where else ''}{key} is missing")
        else:
            out[key] = list(rule[1]) if rule[0] is list else rule[1]
    return out


def _terse(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """A section as it is hashed: without the younger keys that have their defaults."""
    usual = _section(name, {}, {key: _TABLE[name][key] for key in _YOUNGER.get(name, ())})
    return {key: value for key, value in section.items() if key not in usual or value != usual[key]}


def _form(where: str, given: dict[str, Any]) -> dict[str, Any]:
    """A form; its purposes are a mask or a list of DUO codes (`node/duo.py`)."""
    if isinstance(given.get("purposes"), list):
        try:
            given = {**given, "purposes": mask_of(given["purposes"])}
        except ValueError as error:
            raise InputError(f"study spec: {where}.purposes: {error}") from None
    form = _section(where, given, _FORM)
    if form["purposes"] & ~KNOWN:
        raise InputError(f"study spec: {where}.purposes has bits 0x{form['purposes'] & ~KNOWN:x} of no DUO code")
    if not form["purposes"] & PERMISSIONS:
        raise InputError(f"study spec: {where}.purposes has no DUO permission: {', '.join(codes_of(PERMISSIONS))}")
    if not _starts_a_quarter(form["valid_to"]):
        raise InputError(
            f"study spec: {where}.valid_to = {form['valid_to']} must be midnight UTC of the first day of a quarter, in "
            "unix seconds: dates on chain are no finer"
        )
    return form


def _starts_a_quarter(at: int) -> bool:
    """Whether a unix time is one that the ledger takes as the end of a form."""
    days, rest = divmod(at, 86_400)
    try:
        day = date(1970, 1, 1) + timedelta(days=days)
    except OverflowError:
        return False
    return rest == 0 and day.day == 1 and day.month % 3 == 1


def parse_sections(given: dict[str, Any]) -> Study:
    """Check a parsed specification against the schema table; `InputError` names the key and the value."""
    top = {key: value for key, value in given.items() if not isinstance(value, dict) and key != "forms"}
    sections = {"": _section("", top, _TABLE[""])}
    for name, value in given.items():
        if isinstance(value, dict) and name not in _TABLE:
            raise InputError(f"study spec: unknown section [{name}]; known: {', '.join(k for k in _TABLE if k)}")
    for name, table in _TABLE.items():
        if name:
            sections[name] = _section(name, given.get(name, {}), table)
    shape = sections["data"]["input_shape"]
    if not 1 <= len(shape) <= 4 or not all(type(d) is int and 1 <= d <= 4096 for d in shape):
        raise InputError(f"study spec: data.input_shape = {shape!r} must be 1 to 4 whole numbers between 1 and 4096")
    forms = given.get("forms", [])
    if not isinstance(forms, list) or not forms or not all(isinstance(form, dict) for form in forms):
        raise InputError("study spec: at least one [[forms]] is needed: a consent names the form that was signed")
    checked = tuple(_form(f"forms[{i}]", form) for i, form in enumerate(forms))
    names = [form["name"] for form in checked]
    if len(set(names)) != len(names):
        raise InputError(f"study spec: form names must differ, got {', '.join(names)}")
    for form in checked:
        text = form["text_sha256"]
        if len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
            raise InputError(f"study spec: forms text_sha256 = {text!r} must be 64 lower-case hex digits")
    policy = sections["policy"]
    if "L3" in policy["evidence"] and not policy["sets_ahead"]:
        raise InputError("study spec: policy.evidence asks for L3, which needs policy.sets_ahead = true")
    windows = sections["windows"]
    if windows["have_s"] < 2 * windows["grace_s"]:
        raise InputError(
            f"study spec: windows.have_s = {windows['have_s']} must be at least twice windows.grace_s = "
            f"{windows['grace_s']}: whoever is missing needs the second half to post for itself"
        )
    if sections["aggregation"]["max_abs"] * 2 ** sections["aggregation"]["fraction_bits"] > 2**31 - 1:
        raise InputError("study spec: aggregation.max_abs * 2^fraction_bits must stay below 2^31: the grid is int32")
    tree: dict[str, Any] = {**sections[""], **{k: v for k, v in sections.items() if k}, "forms": list(checked)}
    tree |= {name: _terse(name, tree[name]) for name in _YOUNGER}
    if tree["success"] == _section("success", {}, _TABLE["success"]):
        del tree["success"]
    canonical = rfc8785.dumps(tree)
    return Study(sections, checked, canonical, content_root("spec", canonical))


def parse_toml(text: bytes) -> Study:
    """A study specification as a person writes it."""
    if len(text) > MAX_SPEC_BYTES:
        raise InputError(f"study spec: {len(text)} bytes, more than the {MAX_SPEC_BYTES} allowed")
    try:
        given = tomllib.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"study spec: not TOML: {error}") from error
    return parse_sections(given)


def parse_canonical(data: bytes) -> Study:
    """A study specification as peers exchange it; bytes that do not re-encode to themselves are refused."""
    if len(data) > MAX_SPEC_BYTES:
        raise InputError(f"study spec: {len(data)} bytes, more than the {MAX_SPEC_BYTES} allowed")
    try:
        given = jsontext.loads(data)
    except ValueError as error:
        raise InputError(f"study spec: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError("study spec: not a JSON object")
    study = parse_sections(given)
    if study.canonical != data:
        raise InputError("study spec: the bytes are not in canonical form (RFC 8785)")
    return study
