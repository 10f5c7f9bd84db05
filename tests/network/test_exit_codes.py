"""What the machine can get wrong before a node runs: one clear sentence, the right exit code, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.cli.common import order, status_or_none
from node.doctor import Finding, examine
from node.errors import ExitCode
from node.home import HomeLock, read_network, write_json

pytestmark = [pytest.mark.network, pytest.mark.timeout(120)]


@pytest.fixture
def home(founded: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "net"
    shutil.copytree(founded, copy)
    return copy / "member-1"


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`koinon node run` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", "node", "run", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def files(home: Path) -> dict[str, bytes]:
    """Everything in a home but what a look at it may touch."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file()
        and path.name not in ("lock", "node.db", "node.db-wal", "node.db-shm", "node.log")
        and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_wrong_password_is_a_local_fault_and_changes_nothing(home: Path) -> None:
    (home / "password").write_text("not this one\n")
    before = files(home)
    ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert "password" in ended.stderr
    assert "not this one" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert files(home) == before


def findings(home: Path) -> dict[str, Finding]:
    """What `koinon node doctor` finds, by check."""
    return {one.name: one for one in examine(home)[1]}


def test_a_password_that_is_no_text_is_named_by_its_file(home: Path) -> None:
    (home / "password").write_bytes(b"\xff\xfe\0")
    ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert f"password file {home / 'password'}: not UTF-8 text" in ended.stderr
    assert findings(home)["password"].status == "failed"


def test_a_damaged_store_is_named_by_the_doctor_though_no_chain_answers(home: Path) -> None:
    assert findings(home)["store"].status == "passed"
    with (home / "node.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * 4096)
    ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    found = findings(home)["store"]
    assert (found.status, found.exit_code) == ("failed", ExitCode.LOCAL_FAULT)
    assert str(home / "node.db") in found.why


def test_a_full_disk_is_what_the_doctor_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.doctor.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    found = findings(home)
    assert next(one.name for one in found.values() if one.status == "failed") == "disk"
    assert found["disk"].exit_code == ExitCode.LOCAL_FAULT
    assert found["records"].status == "skipped"  # looking at them writes


def test_a_home_in_use_names_the_process(home: Path) -> None:
    lock = HomeLock(home)
    try:
        ended = run(home)
    finally:
        lock.release()
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert f"in use by process {os.getpid()}" in ended.stderr


def test_a_start_while_an_order_uses_the_home_waits_for_its_end(home: Path) -> None:
    """A service that is not started again after exit code 8 would stay down."""
    lock = HomeLock(home)
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", "node", "run", "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    try:
        assert any("waiting for the process that uses this home" in line for line in process.stderr)
        lock.release()
        assert any("event='running'" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_stands_still_is_what_the_doctor_names_and_not_the_port_it_holds(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.doctor.STATUS_TIMEOUT_S", 0.2)
    port = int(read_network(home / "network.json").founders[0].address.split("/")[4])
    lock = HomeLock(home)
    try:
        with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", 0)) as frozen:
            assert findings(home)["node"].status == "warning"  # as a node that starts
            write_json(home / "control.json", {"port": frozen.getsockname()[1], "token": "ab"})
            found = findings(home)
    finally:
        lock.release()
    assert (found["node"].status, found["node"].exit_code) == ("failed", ExitCode.TIMED_OUT)
    assert "stands still" in found["node"].why
    assert "killed" in found["node"].fix
    assert found["home"].why.endswith("does not answer")
    assert found["port"].status == "passed"


def test_a_control_file_left_behind_sends_nobody_to_whoever_has_its_port_now(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as another:
        another.setblocking(False)
        write_json(home / "control.json", {"port": another.getsockname()[1], "token": "ab"})
        assert status_or_none(home) is None
        assert findings(home)["home"].why.endswith("does not run")
        assert order(home, "consent.list", {})["consents"] == []
        with pytest.raises(BlockingIOError):  # nobody came
            another.accept()


def test_a_busy_port_is_a_local_fault_that_names_it(home: Path) -> None:
    seat = read_network(home / "network.json").founders[0]
    port = int(seat.address.split("/")[4])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert str(port) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (home / "control.json").exists()


def test_a_busy_control_port_is_a_local_fault_that_names_it(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run(home, "--control-port", str(port))
        settings = home / "config.toml"
        settings.write_text(settings.read_text().replace("control_port = 0", f"control_port = {port}"))
        found = findings(home)["port"]
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert str(port) in ended.stderr
    assert (found.status, found.exit_code) == ("failed", ExitCode.LOCAL_FAULT)
    assert f"node.control_port = {port}" in found.why


def test_a_home_of_another_format_is_refused_by_number(home: Path) -> None:
    raw = json.loads((home / "home.json").read_text())
    (home / "home.json").write_text(json.dumps({**raw, "format": 99}))
    ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert "format 99" in ended.stderr


def test_a_store_of_another_format_is_refused_by_number(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "node.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    db.close()
    ended = run(home)
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert "format 99" in ended.stderr


def test_no_home_is_not_found(tmp_path: Path) -> None:
    ended = run(tmp_path / "nowhere")
    assert ended.returncode == ExitCode.NOT_FOUND, ended.stderr


def test_a_network_home_is_no_node_home(home: Path) -> None:
    ended = run(home.parent)
    assert ended.returncode == ExitCode.NOT_FOUND, ended.stderr
    assert "network home" in ended.stderr


@pytest.mark.parametrize("text", ["", "[node", "format = 1\n[nodes]\n", "format = 1\n[node]\nlisten = 5\n"])
def test_a_broken_configuration_is_bad_input_or_another_format(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text)
    ended = run(home)
    assert ended.returncode in (ExitCode.BAD_INPUT, ExitCode.LOCAL_FAULT), ended.stderr
    assert "config.toml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_order_without_a_chain_ends_with_chain_unreachable(home: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "node.cli.main", "study", "leave", "--home", str(home), "--study", "ab"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode in (ExitCode.CHAIN_UNREACHABLE, ExitCode.NOT_FOUND), ended.stderr


def test_the_chain_process_says_that_its_port_is_busy(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "node.chain", "--home", str(home.parent), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert str(port) in ended.stderr
