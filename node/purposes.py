"""May a study use what a form allows? The GA4GH Data Use Ontology (DUO) as two tables over a study's stated purpose.

What may live here: what each DUO code demands, and the answer with its reason. What this file does not know: the bits
(`node/duo.py`, generated), consents, patients. Everything it looks at is in the study's specification, which is fixed
by its hash: another purpose is another study.

Rules
- Permissions are alternatives: one of the form's must cover the purpose.
- Modifiers are constraints: every one of the form's must be met. What a study does not state counts as not met.
- A reason is one sentence that names the code.

Source: EBISPOT/DUO, definitions of the terms; Lawson et al., "The Data Use Ontology to streamline responsible access to
human biomedical datasets", Cell Genomics 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from node.duo import CODES, IDS, KNOWN, NAMES, PERMISSIONS, codes_of

RESEARCH: Final = ("health", "disease", "methods", "general", "ancestry")
"""Kinds of research a study can state. `health` is biomedical research in general, `disease` one disease (MONDO id),
`methods` the development of methods for their own sake."""

Purpose = Mapping[str, Any]
"""Section [purpose] of a study."""
FormTerms = Mapping[str, Any]
"""A [[forms]] entry of a study: `purposes` and the parameters of its codes."""


def mask_of(codes: list[Any]) -> int:
    """The mask of codes or DUO ids (`["GRU", "NMDS"]`); `ValueError` names one that is unknown."""
    mask = 0
    for one in codes:
        code = IDS.get(one, one) if isinstance(one, str) else one
        if code not in CODES:
            raise ValueError(f"{one!r} is no DUO code; the codes are {', '.join(CODES)}")
        mask |= CODES[code]
    return mask


# permission -> whether it covers the purpose
PERMITS: Final[dict[str, Callable[[Purpose, FormTerms], bool]]] = {
    "NRES": lambda p, f: True,
    "GRU": lambda p, f: not p["clinical_care"],
    "HMB": lambda p, f: p["research"] in ("health", "disease") and not p["clinical_care"],
    "DS": lambda p, f: p["research"] == "disease" and p["disease"] in f["diseases"] and not p["clinical_care"],
    "POA": lambda p, f: p["research"] == "ancestry",
}


# modifier -> (whether the study meets it, why it does not)
DEMANDS: Final[dict[str, tuple[Callable[[Purpose, FormTerms], bool], str]]] = {
    "RS": (
        lambda p, f: p["research"] in f["research"],
        "the form allows the kinds of research it names, and the study's is none of them",
    ),
    "NMDS": (
        lambda p, f: not p["methods_development"] and p["research"] != "methods",
        "the form bars the development of methods, and the study develops methods",
    ),
    "GSO": (lambda p, f: p["genetic"], "the form allows genetic studies only, and the study is none"),
    "NPUNCU": (
        lambda p, f: not p["commercial"] and not p["for_profit"],
        "the form allows non-commercial use by organisations not for profit, and the study is commercial or for profit",
    ),
    "PUB": (lambda p, f: p["publication"], "the form demands publication, and the study does not promise it"),
    "COL": (
        lambda p, f: p["collaboration"],
        "the form demands collaboration with its investigators, and the study does not state it",
    ),
    "IRB": (lambda p, f: bool(p["ethics_approval"]), "the form demands ethics approval, and the study names none"),
    "GS": (
        lambda p, f: bool(p["countries"]) and set(p["countries"]) <= set(f["countries"]),
        "the form allows use in the countries it names, and the study is not confined to them",
    ),
    "MOR": (
        lambda p, f: bool(p["publish_after"]) and bool(f["moratorium"]) and p["publish_after"] >= f["moratorium"],
        "the form has a publication moratorium, and the study does not promise to publish after it",
    ),
    # The gate ends every use at the form's own `valid_to`, which is the limit that this code announces.
    "TS": (lambda p, f: f["valid_to"] > 0, "the form has a time limit, and names none"),
    "US": (
        lambda p, f: bool(p["users"]) and set(p["users"]) <= set(f["users"]),
        "the form allows the users it names, and the study is not confined to them",
    ),
    "PS": (
        lambda p, f: bool(p["project"]) and p["project"] == f["project"],
        "the form allows the project it names, and the study is not that project",
    ),
    "IS": (
        lambda p, f: bool(p["institutions"]) and set(p["institutions"]) <= set(f["institutions"]),
        "the form allows the institutions it names, and the study is not confined to them",
    ),
    "RTN": (
        lambda p, f: p["return_data"],
        "the form demands the return of derived data, and the study does not state it",
    ),
    "CC": (lambda p, f: p["clinical_care"], "the form allows use for clinical care, and the study is research"),
    "NPOA": (
        lambda p, f: p["research"] != "ancestry",
        "the form prohibits research on origins or ancestry, and the study is such research",
    ),
    "NPU": (
        lambda p, f: not p["for_profit"],
        "the form allows use by organisations not for profit, and the study is for profit",
    ),
    "NCU": (lambda p, f: not p["commercial"], "the form allows non-commercial use, and the study is commercial"),
}


def refusal(form: FormTerms, purpose: Purpose) -> str | None:
    """Why a study with this purpose may not use consents under this form, in one sentence; None when it may.

    Both as `node.study` has checked them: every key is there.
    """
    mask = int(form["purposes"])
    if mask & ~KNOWN:
        return f"the form has bits 0x{mask & ~KNOWN:x}, which stand for no DUO code"
    if not mask & PERMISSIONS:
        return "the form has no DUO permission, so it allows nothing"
    codes = codes_of(mask)
    permissions = [code for code in codes if code in PERMITS]
    # "clinical care use" (CC) lets a permission for research cover care: it is judged by its own row.
    asked = {**purpose, "clinical_care": False} if "CC" in codes else purpose
    if not any(PERMITS[code](asked, form) for code in permissions):
        named = " or ".join(f"{code} ({NAMES[code]})" for code in permissions)
        return f"{named} does not cover {_purpose_words(purpose)}"
    for code in codes:
        if code in DEMANDS and not DEMANDS[code][0](purpose, form):
            return f"{code} ({NAMES[code]}): {DEMANDS[code][1]}"
    return None


def _purpose_words(purpose: Purpose) -> str:
    if purpose["clinical_care"]:
        return "use for clinical care"
    disease = f" ({purpose['disease'] or 'no disease named'})" if purpose["research"] == "disease" else ""
    return f"{purpose['research']} research{disease}"
