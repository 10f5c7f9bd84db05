"""The committed artifacts are what the sources give. Neither node.js nor a compiler is needed here: the full check is
scripts/build_contracts --check."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
TARGETS = {5: 185_000, 10: 240_000}
"""Members -> most gas of the two transactions of a round."""

BOUNDS = {
    ("Consents", "grant, 500"): 31_000 * 500,
    ("Consents", "anchor, 313 chunks of 32 (10,016 leaves)"): 750 * 10_016,
    ("Consents", "grant, 1"): 60_000,
    ("Consents", "withdraw, 1, anchored grant"): 56_500,
    ("Consents", "withdraw, 10, anchored grants"): 32_000 * 10,
    ("Erasure", "n=5 first all but the withdrawal"): 500_000,
    ("Erasure", "n=5 later all but the withdrawal"): 500_000,
    ("Erasure", "n=5 withdrawn before all, beside its rounds"): 500_000,
}
"""(Snapshot, row) -> most gas. A single anchored withdrawal is not at its aim, and contracts/README.md says why."""

NAMES = ["ConsentRegistry", "Membership", "TrainingLedger", "UnlearningRegistry"]


def artifact(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CONTRACTS / "artifacts" / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def test_every_contract_has_an_artifact_and_no_other_lies_there() -> None:
    assert sorted(path.stem for path in CONTRACTS.glob("*.sol")) == NAMES
    assert sorted(path.stem for path in (CONTRACTS / "artifacts").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_those_that_were_compiled(name: str) -> None:
    sources: dict[str, str] = artifact(name)["sources"]
    ours = {unit: digest for unit, digest in sources.items() if not unit.startswith("@")}
    assert f"{name}.sol" in ours
    now = {unit: hashlib.sha256((CONTRACTS / unit).read_bytes()).hexdigest() for unit in ours}
    assert now == ours, "run scripts/build_contracts"


@pytest.mark.parametrize("name", NAMES)
def test_compiled_for_the_rules_of_the_embedded_chain(name: str) -> None:
    found = artifact(name)
    assert found["contract"] == name
    assert re.fullmatch(r"0\.8\.37\+commit\.[0-9a-f]{8}", found["compiler"])
    assert found["settings"]["evmVersion"] == "prague"
    assert found["settings"]["viaIR"] is True
    assert found["settings"]["metadata"] == {"appendCBOR": False, "bytecodeHash": "none"}


@pytest.mark.parametrize("name", NAMES)
def test_code_is_linked_and_below_the_limits(name: str) -> None:
    found = artifact(name)
    creation, deployed = bytes.fromhex(found["bytecode"][2:]), bytes.fromhex(found["deployedBytecode"][2:])
    assert 0 < len(deployed) <= 24_576
    assert len(deployed) < len(creation) <= 49_152


@pytest.mark.parametrize("name", NAMES)
def test_nobody_owns_or_stops_a_contract(name: str) -> None:
    functions = {entry["name"] for entry in artifact(name)["abi"] if entry["type"] == "function"}
    assert not functions & {"owner", "transferOwnership", "pause", "unpause", "upgradeTo", "upgradeToAndCall"}
    kinds = {entry["type"] for entry in artifact(name)["abi"]}
    assert not kinds & {"fallback", "receive"}, "no call without a name, no coins"


@pytest.mark.parametrize("name", NAMES)
def test_refusals_carry_what_was_wrong(name: str) -> None:
    bare = {entry["name"] for entry in artifact(name)["abi"] if entry["type"] == "error" and not entry["inputs"]}
    # What these say is their name: there is no second value. The last one is OpenZeppelin's.
    assert bare <= {"AnchorEmpty", "NoContradiction", "NoModel", "RosterNotStored", "InvalidShortString"}


def build_script() -> ModuleType:
    """scripts/build_contracts as a module."""
    loader = SourceFileLoader("build_contracts", str(CONTRACTS.parent / "scripts" / "build_contracts"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_readmes_tables_are_the_snapshots() -> None:
    script = build_script()
    assert (CONTRACTS / "README.md").read_text(encoding="utf-8") == script.readme_with_tables(), (
        "run scripts/build_contracts --tables"
    )


def test_sizes_are_snapshots_and_leave_room() -> None:
    stored = (CONTRACTS / "snapshots" / "Sizes.json").read_text(encoding="utf-8")
    assert stored == build_script().sizes(), "run scripts/build_contracts --tables"
    sizes = {name: int(size) for name, size in json.loads(stored).items()}
    assert set(sizes) == set(NAMES)
    assert sizes["TrainingLedger"] <= 24_576 - 1_024
    assert max(sizes.values()) <= 24_576


def test_a_round_stays_within_its_target() -> None:
    """Whole transactions at five and at ten members, two a round."""
    measured = json.loads((CONTRACTS / "snapshots" / "Round.json").read_text(encoding="utf-8"))
    for n, most in TARGETS.items():
        assert sum(int(gas) for what, gas in measured.items() if what.startswith(f"n={n:02} ")) <= most


@pytest.mark.parametrize("snapshot, row", BOUNDS)
def test_what_was_reached_is_kept(snapshot: str, row: str) -> None:
    measured = json.loads((CONTRACTS / "snapshots" / f"{snapshot}.json").read_text(encoding="utf-8"))
    assert int(measured[row]) <= BOUNDS[snapshot, row]
