"""A network of real processes moves to a second deployment by the commands, and the audit spans both."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from node.cli.main import koinon
from node.errors import NodeError
from node.home import read_json
from node.succession import check_at_rest, read_plan
from tests.network.conftest import NAMES, Processes, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]


def run(*arguments: object, expect: int = 0) -> Any:
    """A command in this process; its data, or its error's sentence."""
    result = CliRunner().invoke(koinon, [*(str(one) for one in arguments), "--json"])
    assert result.exit_code == expect, result.stderr
    told = json.loads(result.stdout)
    return told["data"] if expect == 0 else told["error"]["message"]


def test_a_network_moves_by_its_commands_and_the_audit_spans_both(net: Processes, tmp_path: Path) -> None:
    study = net.create("moving", rounds=60)
    net.wait_round(study, 2)
    plan, new = tmp_path / "successor.json", tmp_path / "network.json"
    run("network", "plan-successor", "--home", net.home, "--out", plan)
    seats: list[str] = []
    for name in NAMES:
        seat = tmp_path / f"{name}.json"
        run("member", "succeed", plan, "--out", seat, "--home", net.homes[name])
        seats += ["--seat", str(seat)]
    found = ["network", "found-successor", "--home", net.home, "--plan", plan, "--out", new]
    membership = read_plan(read_json(plan), net.network).contracts.membership

    def at_rest() -> bool:
        try:
            check_at_rest(net.history(), membership)
        except NodeError:
            return False
        return True

    wait(at_rest, "what was open has ended")
    assert "[0] are missing" in run(*found, *seats[2:], expect=2)
    run(*found, *seats)
    assert "in use" in run("member", "move", new, "--home", net.homes["member-1"], expect=8)
    for name in NAMES:
        process = net.running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert run("member", "move", new, "--home", net.homes[name])["deployment"] == 1
        net.start(name)

    def spans() -> bool:
        finals = [one for one in net.history().rounds.values() if one.final is not None]
        return {one.deployment for one in finals} == {0, 1}

    wait(spans, "a round is final at the second deployment")
    for name in NAMES:
        net.running.pop(name).send_signal(signal.SIGTERM)

    auditor = net.homes["auditor"]
    wait(lambda: not (auditor / "control.json").exists(), "the auditor has ended")
    trail = run("audit", "trail", "--home", auditor)
    told = {row["kind"]: row["deployment"] for row in trail}
    assert told["network-succeeded"] == 0
    assert told["study-continued"] == 1
    assert {row["deployment"] for row in trail if row["kind"] == "round-final"} == {0, 1}
    report = run("audit", "verify", "--home", auditor)
    assert report["ok"]
    assert report["rounds_verified"] >= len([row for row in trail if row["kind"] == "round-final"]) - 1
    bundle = tmp_path / "bundle.zip"
    run("audit", "export", "--home", auditor, "--out", bundle)
    assert run("audit", "verify", "--bundle", bundle, "--network", new)["ok"]
    assert run("member", "list", "--home", auditor)["epoch"] == 3
