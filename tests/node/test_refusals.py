"""Every custom error of every contract is one sentence with every one of its operands."""

from __future__ import annotations

import string
from typing import Any

import pytest

from crypto.digest import keccak256
from node.abi import CONTRACTS, Codec, encode_arguments, load_artifact
from node.refusals import NAMED, SENTENCES, SETS, refusal

ERRORS: dict[str, list[dict[str, Any]]] = {
    entry["name"]: entry["inputs"]
    for name in CONTRACTS.values()
    for entry in load_artifact(name).abi
    if entry["type"] == "error"
}
LANGUAGE = {"Error": ["reason"], "Panic": ["code"]}
VALUES: dict[str, Any] = {
    "string": "rounds",
    "bytes": b"\xab\xcd",
    "bytes32": bytes(31) + b"\x07",
    "address": bytes(19) + b"\x09",
}


def value(kind: str) -> Any:
    return VALUES.get(kind, 3)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_has_a_sentence_with_all_its_operands(name: str) -> None:
    named = {field for _, field, _, _ in string.Formatter().parse(SENTENCES[name]) if field is not None}
    assert named == {one["name"] for one in ERRORS[name]}


def test_no_sentence_without_an_error() -> None:
    assert set(SENTENCES) == set(ERRORS) | set(LANGUAGE)
    assert set(SETS) | {error for error, _ in NAMED} <= set(ERRORS)


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_a_reverts_bytes_become_the_sentence(name: str) -> None:
    inputs = ERRORS[name]
    operands = {one["name"]: value(one["type"]) for one in inputs}
    selector = keccak256(f"{name}({','.join(one['type'] for one in inputs)})".encode())[:4]
    found = Codec.load().reverted(selector + encode_arguments(inputs, operands))
    assert (found.error, found.operands) == (name, operands)
    assert found.message == refusal(name, operands).message
    assert found.message.startswith("the contract refused the call: ")
    assert found.message.endswith(f" ({name})")
    assert "{" not in found.message
    assert "\n" not in found.message


def test_sets_phases_and_states_are_shown_as_people_name_them() -> None:
    assert "over members 0, 1, the round's set is 0, 2" in refusal("WrongSet", {"expected": 5, "got": 3}).message
    phase = refusal("WrongPhase", {"roundId": bytes(32), "phase": 3, "attempt": 2})
    assert "is in have of attempt 2" in phase.message
    assert "is in state copy_deleted" in refusal("WrongState", {"batch": bytes(32), "state": 4}).message


def test_an_error_of_another_version_keeps_its_operands() -> None:
    assert refusal("Unheard", {"of": 1}).message == "the contract refused the call: Unheard(of=1)"
