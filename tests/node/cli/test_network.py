"""The commands on a real network of this machine: chain, auditor and members as processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.bench import free_ports

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 120.0
STUDY = (
    *("--model", "mlp", "--rounds", 2, "--local-epochs", 1, "--batch-size", 16, "--learning-rate", 0.05),
    *("--scribe-seconds", 60, "--grace-seconds", 3, "--reveal-seconds", 10, "--have-seconds", 8, "--vote-seconds", 10),
)


def koinon(*arguments: object, expect: int = 0, stdin: str | None = None) -> Any:
    command = [sys.executable, "-m", "node.cli.main", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin or "", timeout=LIMIT_S, check=False)
    assert done.returncode == expect, done.stderr
    reply = json.loads(done.stdout)
    return reply["data"] if expect in (0, 3) and "data" in reply else reply["error"]


def member(status: Any, name: str) -> Any:
    return next(one for one in status["members"] if one["name"] == name)


def wait_for(net: Path, name: str, state: str, other_than: int | None = None) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while True:
        row = member(koinon("network", "status", "--home", net), name)
        if row["state"] == state and row["pid"] != other_than:
            return row
        assert time.monotonic() < deadline, row
        select.select([], [], [], 0.2)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("cli") / "net"
    made = koinon(
        "network", "init", "--home", home, "--members", 2, "--task", "mri-quality", "--base-port", free_ports(4)
    )
    assert made["synthetic"] is True
    assert [one["name"] for one in made["members"]] == ["member-1", "member-2"]
    try:
        koinon("network", "up", "--home", home, "--detach")
        yield home
    finally:
        koinon("network", "down", "--home", home)


def test_everything_answers_with_its_process_and_identity(net: Path) -> None:
    status = koinon("network", "status", "--home", net)
    parts = [status["chain"], *status["members"], status["auditor"]]
    assert [one["state"] for one in parts] == ["running"] * 4
    assert len({one["pid"] for one in parts} | {status["supervisor"]}) == 5
    assert all(one["peer_id"].startswith("12D3KooW") for one in status["members"])
    assert all(one["ledger_address"].startswith("0x") for one in status["members"])


def test_a_frozen_process_is_called_frozen_and_runs_on(net: Path) -> None:
    pid = member(koinon("network", "status", "--home", net), "member-2")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert wait_for(net, "member-2", "frozen")["pid"] == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    assert wait_for(net, "member-2", "running")["pid"] == pid


def test_a_home_in_use_is_refused_with_the_process_that_uses_it(net: Path) -> None:
    pid = member(koinon("network", "status", "--home", net), "member-1")["pid"]
    error = koinon("node", "run", "--home", net / "member-1", expect=8)
    assert str(pid) in error["message"]


def test_a_study_runs_through_a_kill_and_the_audit_holds(net: Path) -> None:
    pid = member(koinon("network", "status", "--home", net), "member-2")["pid"]
    created = koinon("study", "create", "--home", net, *STUDY)
    os.kill(pid, signal.SIGKILL)
    wait_for(net, "member-2", "running", other_than=pid)
    again = koinon("study", "create", "--home", net, *STUDY, "--wait", "--timeout", LIMIT_S - 10)
    assert again["study"] == created["study"]
    assert again["finished"] is True
    assert len(again["model_roots"]) == 2
    report = koinon("audit", "verify", "--home", net)
    assert report["ok"] is True
    assert report["rounds_verified"] == 2
    assert report["first_failure"] is None
    simulated = koinon("simulate", "--task", "mri-quality", "--members", 2, *STUDY)
    if list(again["model_roots"]) == ["1", "2"]:  # no round failed, so both ran under the same beacons
        assert simulated["model_roots"] == again["model_roots"]


def test_a_consent_goes_from_its_card_to_a_refused_regrant_without_naming_anybody(net: Path) -> None:
    consents = koinon("consent", "list", "--home", net / "member-1")
    chosen = consents[0]["consent_id"]
    shown = koinon("consent", "show", "--home", net / "member-1", "--consent", chosen, "--cards", net / "papers")
    ended = koinon("consent", "withdraw", "--home", net / "member-2", "--card", shown[0]["card"])
    assert ended["consents"] == [chosen]
    assert ended["receipt"][0]["member"] == 1
    seen = koinon("consent", "show", "--home", net / "member-2", "--card", shown[0]["card"])
    assert seen[0]["state"] == "withdrawn"
    error = koinon("consent", "withdraw", "--home", net / "member-1", "--patient", "-", stdin="nobody-4711\n", expect=4)
    assert "4711" not in json.dumps(error)


def test_a_stopped_network_is_read_without_running_anything(net: Path) -> None:
    koinon("network", "down", "--home", net)
    assert koinon("network", "down", "--home", net)["stopped"] == []
    status = koinon("network", "status", "--home", net)
    assert {one["state"] for one in [status["chain"], *status["members"], status["auditor"]]} == {"stopped"}
    assert len(koinon("study", "list", "--home", net)) == 1
    assert koinon("audit", "trail", "--home", net, "--kind", "round-final")
    assert koinon("audit", "participation", "--home", net)["totals"][0]["included"] == 2
    assert "withdrawn" in {one["state"] for one in koinon("consent", "list", "--home", net / "member-1")}
    assert koinon("study", "leave", "--home", net / "member-1", expect=6)["kind"] == "ChainUnreachable"
