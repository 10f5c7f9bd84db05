"""What an administrator does, on real processes: doctor, probes, a changed address, an orderly stop."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli.common import order
from node.home import read_json, write_json
from tests.fakes.network import QUARTER_END
from tests.network.bench import NAMES, SPEC, Processes, free_ports, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]
STOP_S = 60.0  # takes seconds on an idle machine


@pytest.fixture(scope="module")
def net(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A network whose description tells nobody's address: every member finds its peers through the registry alone."""
    home = tmp_path_factory.mktemp("operations") / "net"
    shutil.copytree(founded, home)
    processes = Processes(home)
    for path in processes.homes.values():
        described = read_json(path / "network.json")
        own = next(seat for seat in described["founders"] + described["auditors"] if seat["name"] == path.name)
        announce(path, own["address"])
        for seat in described["founders"] + described["auditors"]:
            seat["address"] = ""
        write_json(path / "network.json", described)
    try:
        processes.up()
        yield processes
    finally:
        processes.stop()


def announce(home: Path, address: str, listen: str | None = None) -> None:
    """Set `node.announce`, and where the node listens."""
    path = home / "config.toml"
    lines = [
        f'announce = "{address}"'
        if line.startswith("announce = ")
        else f'listen = "{listen}"'
        if listen is not None and line.startswith("listen = ")
        else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")


def doctor(home: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the checks by name."""
    command = [sys.executable, "-m", "node.cli.main", "node", "doctor", "--home", str(home), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    checks = json.loads(run.stdout)["data"]["checks"]
    return run.returncode, {one["name"]: one for one in checks}


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, one in checks.items() if one["status"] == "failed"]


def linked(net: Processes, name: str) -> bool:
    """Whether a member has every other node for a peer."""
    return net.metric(name, "peers_connected") == len(NAMES) - 1


def test_members_that_know_only_the_chain_find_each_other(net: Processes) -> None:
    for name in NAMES:
        wait(lambda name=name: linked(net, name), f"{name} found everybody")
    code, checks = doctor(net.homes["member-1"])
    assert (code, failed(checks)) == (0, [])
    assert {name for name in checks if name.startswith("peer ")} == {f"peer {one}" for one in NAMES[1:]}
    assert "identity" in checks["peer member-3"]["why"]
    assert checks["port"]["why"].endswith("held by this node")


def test_an_orderly_stop_ends_with_0_and_is_what_others_then_see(net: Processes) -> None:
    process = net.running["member-2"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0
    assert not (net.homes["member-2"] / "control.json").exists()
    code, checks = doctor(net.homes["member-1"])
    assert code == 7
    assert failed(checks) == ["peer member-2"]
    assert checks["peer member-2"]["hop"] == "TCP"
    assert "firewall" in checks["peer member-2"]["fix"]
    # The stopped home itself: the port is free, and the others take its greeting.
    code, checks = doctor(net.homes["member-2"])
    assert (code, failed(checks)) == (0, [])
    assert checks["peer auditor"]["status"] == "warning"  # nobody knows its address: it dials
    assert checks["port"]["why"].endswith("is free")
    assert "stopped at block" in checks["synchronisation"]["why"]


def test_another_program_at_the_port_is_named_on_both_sides(net: Processes) -> None:
    home = net.homes["member-2"]
    port = int(
        next(line for line in (home / "config.toml").read_text().splitlines() if "listen" in line).split("/")[4][:-1]
    )
    with socket.create_server(("127.0.0.1", port)):
        code, checks = doctor(net.homes["member-1"])
        assert (code, checks["peer member-2"]["hop"]) == (7, "Noise")
        code, checks = doctor(home)
        assert (code, failed(checks)) == (8, ["port"])
        assert "node.listen" in checks["port"]["fix"]


def test_a_member_that_moved_says_so_on_the_chain_and_is_dialled_there(net: Processes) -> None:
    address = f"/ip4/127.0.0.1/tcp/{free_ports(1)}"
    announce(net.homes["member-2"], address, address)
    net.start("member-2")
    net.wait_ready("member-2")

    def moved() -> bool:
        code, checks = doctor(net.homes["member-1"])
        return code == 0 and address.rpartition("/")[2] in checks["peer member-2"]["why"]

    wait(moved, "member-1 reaches member-2 where it is now")


def test_a_stop_does_not_wait_for_a_training(net: Processes) -> None:
    text = SPEC.format(name="long", rounds=1, scribe_s=600, text="ab" * 32, valid_to=QUARTER_END)
    text = text.replace("batch_size = 4", "batch_size = 1\nlocal_epochs = 1000")
    order(net.homes["member-1"], "study.create", {"spec": text})
    wait(lambda: net.metric("member-3", "trainings_total") == 1, "member-3 trains")
    assert net.metric("member-3", "training_seconds_total") == 0  # it has not ended
    process = net.running["member-3"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0


def test_the_probes_tell_alive_from_able_to_take_part(net: Processes) -> None:
    def probe(name: str, path: str) -> tuple[int, dict[str, Any]]:
        port = int(read_json(net.homes[name] / "control.json")["port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    wait(lambda: probe("member-1", "/readyz") == (200, {"ready": True, "waiting_for": []}), "member-1 is ready")
    assert probe("member-1", "/healthz") == (200, {"alive": True})
    net.send("chain", signal.SIGKILL)
    wait(lambda: probe("member-1", "/readyz")[0] == 503, "member-1 misses the chain")
    assert probe("member-1", "/healthz") == (200, {"alive": True})
    assert probe("member-1", "/readyz")[1]["waiting_for"] == ["the chain: unreachable"]
    code, checks = doctor(net.homes["member-1"])
    assert code == 6
    assert failed(checks)[0] == "chain connection"
    assert checks["contracts"]["status"] == "skipped"
    # A client that hangs takes connections and answers none.
    with socket.create_server(("127.0.0.1", net.chain_port)):
        code, checks = doctor(net.homes["member-1"])
    assert code == 6
    assert failed(checks)[0] == "chain"
    assert "hangs" in checks["chain"]["fix"]
    # Without a chain, a node still stops in order.
    process = net.running["member-1"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0
