"""What the machine can get wrong before a node runs: one clear sentence, the right exit code, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import ExitCode
from node.home import HomeLock, read_network

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


def test_a_home_in_use_names_the_process(home: Path) -> None:
    lock = HomeLock(home)
    try:
        ended = run(home)
    finally:
        lock.release()
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert f"in use by process {os.getpid()}" in ended.stderr


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
    assert ended.returncode == ExitCode.LOCAL_FAULT, ended.stderr
    assert str(port) in ended.stderr


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
