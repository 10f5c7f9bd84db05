"""`koinon model status` and `model note` over the homes of a real network, before and after an erasure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from node.runner import read_history
from tests.node.cli.cli_kit import koinon_says

pytestmark = pytest.mark.slow


def data_of(*arguments: object, code: int = 0) -> dict[str, Any]:
    ended, out, err = koinon_says(*arguments, "--json")
    assert ended == code, err
    return dict(json.loads(out)["data"])


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """A stopped network whose study has both its rounds."""
    return Path(shutil.copytree(original, tmp_path / "network"))


@pytest.fixture
def erased(purged: Path, tmp_path: Path) -> Path:
    """The same network after an erasure at member-2 that replayed both rounds."""
    return Path(shutil.copytree(purged, tmp_path / "erased"))


def test_a_model_that_left_before_an_erasure_is_told_by_its_file(home: Path, erased: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old.bin", tmp_path / "new.bin"
    exported = data_of("model", "export", "--home", home / "member-1", "--out", old, "--recipient", "Institute X")
    before = data_of("model", "status", old, "--home", home / "member-1")
    assert (before["model_root"], before["state"], before["tainted"]) == (exported["model_root"], "current", False)
    assert [(one["kind"], one["holder"], one["tainted"]) for one in before["copies"]] == [
        ("export", "Institute X", False)
    ]

    after = data_of("model", "status", old, "--home", erased / "member-1", code=5)
    history = read_history(erased / "auditor")
    [(batch, erasure)] = history.erasures.items()
    assert erasure.confirmed is not None
    assert (after["state"], after["tainted"]) == ("replaced", True)
    assert [one["erasure"] for one in after["erasures"]] == [batch.hex()]
    assert after["replaced_by"] == erasure.confirmed.head_model.hex()
    assert data_of("model", "status", after["replaced_by"], "--home", erased)["state"] == "current"

    data_of("model", "export", "--home", erased / "member-1", "--out", new)
    assert data_of("model", "status", new, "--home", erased / "member-1")["model_root"] == after["replaced_by"]


def test_what_was_made_from_a_model_is_noted_and_follows_it(home: Path, erased: Path, tmp_path: Path) -> None:
    [study] = read_history(erased / "auditor").studies.values()
    old = read_history(home / "auditor").studies[study.created.study].branches[0].models[2]
    new = study.branches[1].models[2]
    member, tuned, anew = erased / "member-1", tmp_path / "tuned.bin", tmp_path / "anew.bin"
    tuned.write_bytes(b"weights of another format")
    anew.write_bytes(b"weights made anew")
    third = tmp_path / "third.bin"
    third.write_bytes(b"other weights")
    assert koinon_says("model", "status", tuned, "--home", member)[0] == 4

    said = data_of("model", "note", tuned, "--parent", old.hex(), "--by", "Ward 3", "--home", member)
    assert said["made_from"] == [old.hex()]
    found = data_of("model", "status", tuned, "--home", member, code=5)
    assert (found["state"], found["made_from"]) == ("replaced", [old.hex()])
    [copy] = data_of("model", "status", old.hex()[:10], "--home", member, code=5)["copies"]
    assert (copy["holder"], copy["model_root"], copy["tainted"]) == ("Ward 3", said["model_root"], True)

    lines = koinon_says("model", "status", old.hex(), "--home", member)[1].splitlines()
    assert lines[-2].split() == ["copy", "holder", "when", "(UTC)", "model", "tainted"], "nothing replaces it"

    data_of("model", "note", anew, "--parent", new.hex(), "--by", "Ward 3", "--home", member)
    data_of("model", "note", third, "--parent", old.hex(), "--by", "Ward 4", "--home", member)
    assert data_of("model", "status", anew, "--home", member)["state"] == "current"
    copies = data_of("model", "status", old.hex(), "--home", member, code=5)["copies"]
    assert [one["tainted"] for one in copies] == [False, True]

    code, out, _ = koinon_says("model", "status", old.hex(), "--home", member)
    assert code == 5
    assert f"replaced by {new.hex()}" in out
    assert [line.split()[-1] for line in out.splitlines() if "Ward 3" in line] == [copies[0]["replaced_by"]]
    assert next(line for line in out.splitlines() if "Ward 4" in line).endswith("yes      nothing yet")


def test_what_cannot_be_noted(home: Path, tmp_path: Path) -> None:
    member, tuned = home / "member-1", tmp_path / "tuned.bin"
    tuned.write_bytes(b"weights of another format")
    [study] = read_history(home / "auditor").studies.values()
    newest = study.branches[0].models[2].hex()

    def note(file: Path, parent: object, by: str, *more: object) -> tuple[int, str]:
        code, _, err = koinon_says("model", "note", file, "--parent", parent, "--by", by, "--home", member, *more)
        return code, err

    code, err = note(tuned, "ab" * 32, "Ward 3")
    assert (code, "ab" * 32 in err) == (4, True)
    code, err = note(tuned, "nothing.bin", "Ward 3")
    assert (code, "'nothing.bin' is no file" in err) == (2, True)
    code, err = note(tuned, newest, "two\nlines")
    assert (code, "one line" in err) == (2, True)
    code, err = note(tuned, newest, "Ward 3", "--role", "operator")
    assert (code, "operator" in err) == (5, True)
    own = tmp_path / "own.bin"
    data_of("model", "export", "--home", member, "--out", own)
    code, err = note(own, newest, "Ward 3")
    assert (code, "a model of the ledger itself" in err) == (2, True)

    assert note(tuned, newest, "Ward 3")[0] == 0
    second = tmp_path / "second.bin"
    second.write_bytes(b"weights made from those")
    assert note(second, tuned, "Ward 4")[0] == 0
    code, err = note(tuned, second, "Ward 3")
    assert (code, "one of the two came first" in err) == (2, True)


def test_a_name_that_is_no_model_is_bad_input_and_an_unknown_root_is_not_found(home: Path) -> None:
    code, out, err = koinon_says("model", "status", "model.bin", "--home", home, "--json")
    assert (code, "'model.bin' is no file" in err) == (2, True)
    assert json.loads(out)["error"]["kind"] == "InputError"
    code, _, err = koinon_says("model", "status", "ab" * 32, "--home", home)
    assert (code, "ab" * 32 in err) == (4, True)
