"""A node's settings: the file, then the environment, then flags; what is wrong is named with where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import config
from node.errors import InputError, LocalFault


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "config.toml"
    config.write(made, chain__poll_ms=100)
    return made


def test_flags_win_over_the_environment_and_that_over_the_file(path: Path) -> None:
    assert config.load(path, {})["chain", "poll_ms"] == 100
    environment = {"KOINON_CHAIN_POLL_MS": "200", "KOINON_CHAIN_CHECK_URLS": "http://one, http://two"}
    assert config.load(path, environment)["chain", "poll_ms"] == 200
    assert config.load(path, environment)["chain", "check_urls"] == ["http://one", "http://two"]
    assert config.load(path, environment, chain__poll_ms=300)["chain", "poll_ms"] == 300
    assert config.load(path, {})["history", "budget_mb"] == 0, "what the file leaves out has its default"


@pytest.mark.parametrize(
    "written, says",
    [
        ("format = 1\n[history]\nbudget_mb = -1\n", "history.budget_mb = -1 must not be negative"),
        ('format = 1\n[history]\nbudget_mb = "much"\n', "history.budget_mb = 'much' must be int"),
        ("format = 1\n[history]\nbudget_mb = true\n", "history.budget_mb = True must be int"),
        ("format = 1\n[history]\nbudget = 1\n", "unknown key history.budget; known: budget_mb"),
        ("format = 1\n[disk]\nbudget = 1\n", "unknown section [disk]; known: node, chain"),
        ("format = 1\nhistory = 1\n", "unknown section [history]"),
        ("format = 1\n[node\n", "config.toml: "),
        ("format = 2\n", "format 2, this koinon reads format 1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, written: str, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(written)
    with pytest.raises((InputError, LocalFault)) as caught:
        config.load(path, {})
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_wrong_variable_and_a_wrong_flag_are_named(path: Path) -> None:
    with pytest.raises(InputError, match=r"KOINON_HISTORY_BUDGET_MB: history\.budget_mb = -5 must not be negative"):
        config.load(path, {"KOINON_HISTORY_BUDGET_MB": "-5"})
    with pytest.raises(InputError, match=r"--poll-ms: chain\.poll_ms = 'x' must be int"):
        config.load(path, {}, chain__poll_ms="x")


def test_a_missing_file_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="koinon node init"):
        config.load(tmp_path / "config.toml", {})
