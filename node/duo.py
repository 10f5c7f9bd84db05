"""The GA4GH Data Use Ontology (DUO) as bits of a form's purposes.

Made by scripts/build_duo from contracts/duo.toml; do not edit. Bits 0 to 7 are permissions (alternatives), bits 8 to
31 modifiers (constraints). What they demand of a study: `node/purposes.py`.
"""

from __future__ import annotations

from typing import Final

CODES: Final = {
    "NRES": 1 << 0,  # DUO:0000004 no restriction
    "GRU": 1 << 1,  # DUO:0000042 general research use
    "HMB": 1 << 2,  # DUO:0000006 health or medical or biomedical research
    "DS": 1 << 3,  # DUO:0000007 disease specific research
    "POA": 1 << 4,  # DUO:0000011 population origins or ancestry research only
    "RS": 1 << 8,  # DUO:0000012 research specific restrictions
    "NMDS": 1 << 9,  # DUO:0000015 no general methods research
    "GSO": 1 << 10,  # DUO:0000016 genetic studies only
    "NPUNCU": 1 << 11,  # DUO:0000018 not for profit, non commercial use only
    "PUB": 1 << 12,  # DUO:0000019 publication required
    "COL": 1 << 13,  # DUO:0000020 collaboration required
    "IRB": 1 << 14,  # DUO:0000021 ethics approval required
    "GS": 1 << 15,  # DUO:0000022 geographical restriction
    "MOR": 1 << 16,  # DUO:0000024 publication moratorium
    "TS": 1 << 17,  # DUO:0000025 time limit on use
    "US": 1 << 18,  # DUO:0000026 user specific restriction
    "PS": 1 << 19,  # DUO:0000027 project specific restriction
    "IS": 1 << 20,  # DUO:0000028 institution specific restriction
    "RTN": 1 << 21,  # DUO:0000029 return to database or resource
    "CC": 1 << 22,  # DUO:0000043 clinical care use
    "NPOA": 1 << 23,  # DUO:0000044 population origins or ancestry research prohibited
    "NPU": 1 << 24,  # DUO:0000045 not for profit organisation use only
    "NCU": 1 << 25,  # DUO:0000046 non commercial use only
}
"""Code -> its bit."""

IDS: Final = {
    "DUO:0000004": "NRES",
    "DUO:0000042": "GRU",
    "DUO:0000006": "HMB",
    "DUO:0000007": "DS",
    "DUO:0000011": "POA",
    "DUO:0000012": "RS",
    "DUO:0000015": "NMDS",
    "DUO:0000016": "GSO",
    "DUO:0000018": "NPUNCU",
    "DUO:0000019": "PUB",
    "DUO:0000020": "COL",
    "DUO:0000021": "IRB",
    "DUO:0000022": "GS",
    "DUO:0000024": "MOR",
    "DUO:0000025": "TS",
    "DUO:0000026": "US",
    "DUO:0000027": "PS",
    "DUO:0000028": "IS",
    "DUO:0000029": "RTN",
    "DUO:0000043": "CC",
    "DUO:0000044": "NPOA",
    "DUO:0000045": "NPU",
    "DUO:0000046": "NCU",
}
"""DUO id -> code."""

NAMES: Final = {
    "NRES": "no restriction",
    "GRU": "general research use",
    "HMB": "health or medical or biomedical research",
    "DS": "disease specific research",
    "POA": "population origins or ancestry research only",
    "RS": "research specific restrictions",
    "NMDS": "no general methods research",
    "GSO": "genetic studies only",
    "NPUNCU": "not for profit, non commercial use only",
    "PUB": "publication required",
    "COL": "collaboration required",
    "IRB": "ethics approval required",
    "GS": "geographical restriction",
    "MOR": "publication moratorium",
    "TS": "time limit on use",
    "US": "user specific restriction",
    "PS": "project specific restriction",
    "IS": "institution specific restriction",
    "RTN": "return to database or resource",
    "CC": "clinical care use",
    "NPOA": "population origins or ancestry research prohibited",
    "NPU": "not for profit organisation use only",
    "NCU": "non commercial use only",
}
"""Code -> its name in the ontology."""

PERMISSIONS: Final = 0x0000001F
KNOWN: Final = 0x03FFFF1F


def codes_of(mask: int) -> tuple[str, ...]:
    """The codes of a mask in the order of their bits; unknown bits are left out."""
    return tuple(code for code, bit in CODES.items() if mask & bit)
