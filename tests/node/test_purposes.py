"""The Data Use Ontology: the table is what both languages have, and every code bars what its definition bars."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node.duo import CODES, KNOWN, PERMISSIONS, codes_of
from node.errors import InputError
from node.purposes import DEMANDS, PERMITS, mask_of, refusal
from tests.node.consent_kit import QUARTER_END, study_spec

ROOT = Path(__file__).resolve().parents[2]

# code -> (what the study states, what the form names) that meets it; {} of the first always meets nothing else
MEETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RS": ({}, {"research": ["health"]}),
    "NMDS": ({}, {}),
    "GSO": ({"genetic": True}, {}),
    "NPUNCU": ({}, {}),
    "PUB": ({"publication": True}, {}),
    "COL": ({"collaboration": True}, {}),
    "IRB": ({"ethics_approval": "EC 2026/117"}, {}),
    "GS": ({"countries": ["DE", "FR"]}, {"countries": ["DE", "FR", "IT"]}),
    "MOR": ({"publish_after": "2027-06-01"}, {"moratorium": "2027-06-01"}),
    "TS": ({}, {}),
    "US": ({"users": ["a"]}, {"users": ["a", "b"]}),
    "PS": ({"project": "p"}, {"project": "p"}),
    "IS": ({"institutions": ["i"]}, {"institutions": ["i"]}),
    "RTN": ({"return_data": True}, {}),
    "CC": ({"clinical_care": True}, {}),
    "NPOA": ({}, {}),
    "NPU": ({}, {}),
    "NCU": ({}, {}),
}
BREAKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RS": ({"research": "general"}, {"research": ["health"]}),
    "NMDS": ({"methods_development": True}, {}),
    "GSO": ({}, {}),
    "NPUNCU": ({"for_profit": True}, {}),
    "PUB": ({}, {}),
    "COL": ({}, {}),
    "IRB": ({}, {}),
    "GS": ({"countries": ["DE", "US"]}, {"countries": ["DE"]}),
    "MOR": ({"publish_after": "2027-05-31"}, {"moratorium": "2027-06-01"}),
    "US": ({"users": ["a", "c"]}, {"users": ["a", "b"]}),
    "PS": ({"project": "q"}, {"project": "p"}),
    "IS": ({"institutions": []}, {"institutions": ["i"]}),
    "RTN": ({}, {}),
    "CC": ({}, {}),
    "NPOA": ({"research": "ancestry"}, {}),
    "NPU": ({"for_profit": True}, {}),
    "NCU": ({"commercial": True}, {}),
}


def ask(codes: list[str], purpose: dict[str, Any] | None = None, form: dict[str, Any] | None = None) -> str | None:
    spec = study_spec()
    return refusal(
        {**spec.forms[0], "purposes": mask_of(codes), **(form or {})}, {**spec.sections["purpose"], **(purpose or {})}
    )


def test_the_library_and_the_module_are_what_the_table_gives() -> None:
    command = [sys.executable, ROOT / "scripts/build_duo", "--check"]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_every_code_has_one_row_and_one_bit() -> None:
    assert set(PERMITS) | set(DEMANDS) == set(CODES)
    assert set(codes_of(PERMISSIONS)) == set(PERMITS)
    assert sum(CODES.values()) == KNOWN
    assert max(CODES[code] for code in PERMITS) < 1 << 8 <= min(CODES[code] for code in DEMANDS)


@pytest.mark.parametrize("code", MEETS)
def test_a_study_that_meets_a_modifier_is_allowed(code: str) -> None:
    purpose, form = MEETS[code]
    assert ask(["NRES", code], purpose, form) is None


@pytest.mark.parametrize("code", BREAKS)
def test_a_study_that_does_not_is_refused_in_one_sentence_that_names_the_code(code: str) -> None:
    purpose, form = BREAKS[code]
    why = ask(["NRES", code], purpose, form)
    assert why is not None
    assert why.startswith(f"{code} (")
    assert "\n" not in why


def test_no_general_methods_research_bars_the_development_of_methods() -> None:
    assert ask(["GRU", "NMDS"]) is None
    for purpose in ({"methods_development": True}, {"research": "methods"}):
        why = ask(["GRU", "NMDS"], purpose)
        assert why is not None
        assert "NMDS" in why
        assert ask(["GRU"], purpose) is None


def test_permissions_are_alternatives() -> None:
    diabetes = {"research": "disease", "disease": "MONDO:0005148"}
    form = {"diseases": ["MONDO:0005148"]}
    assert ask(["DS"], diabetes, form) is None
    assert ask(["DS"], {"research": "disease", "disease": "MONDO:0004992"}, form) is not None
    assert ask(["DS"], {"research": "health"}, form) is not None
    assert ask(["HMB", "POA"], {"research": "ancestry"}) is None
    assert ask(["HMB"], {"research": "ancestry"}) == (
        "HMB (health or medical or biomedical research) does not cover ancestry research"
    )
    assert ask(["HMB"], {"research": "general"}) is not None
    assert ask(["NRES"], {"research": "ancestry", "commercial": True}) is None


def test_a_form_without_permission_or_with_an_unknown_bit_is_no_form() -> None:
    spec = study_spec()
    for mask in (CODES["NMDS"], 1 << 31 | 1, 1 << 5 | 1):
        assert refusal({**spec.forms[0], "purposes": mask}, spec.sections["purpose"]) is not None
        with pytest.raises(InputError, match="purposes"):
            study_spec(purposes=mask)


def test_a_specification_names_codes_or_duo_ids() -> None:
    assert study_spec(purposes=["GRU", "DUO:0000015"]).forms[0]["purposes"] == CODES["GRU"] | CODES["NMDS"]
    with pytest.raises(InputError, match="'XYZ' is no DUO code"):
        study_spec(purposes=["XYZ"])


def test_a_form_ends_where_the_ledger_takes_its_end() -> None:
    for valid_to in (1, QUARTER_END - 1, QUARTER_END + 86_400, QUARTER_END + 31 * 86_400, 2**40 - 1):
        with pytest.raises(InputError, match="first day of a quarter"):
            study_spec(valid_to=valid_to)
