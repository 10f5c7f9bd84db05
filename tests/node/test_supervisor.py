"""The supervisor with real processes: small programs that take a home's lock and wait, instead of whole nodes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node import supervisor
from node.errors import LocalFault
from node.supervisor import Running, Supervisor

pytestmark = pytest.mark.slow  # processes that are started and killed

LIMIT_S = 30.0

# Takes the lock of its home as a node does, says that it runs, and waits for a signal.
NODE = """
import signal, sys
from pathlib import Path
from node.home import HomeLock
lock = HomeLock(Path(sys.argv[1]))
print("up", flush=True)
signal.sigwait([signal.SIGTERM])
"""
STUBBORN = NODE.replace(
    "signal.sigwait([signal.SIGTERM])", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()"
)
SUPERVISOR = """
import json, sys
from pathlib import Path
from node.supervisor import Program, Supervisor
home, table, restart = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "restart"
programs = [Program(name, tuple(args), home / name / "node.log", home / name) for name, args in table]
Supervisor(home, programs, restart=restart).run()
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for something another process does; there is nothing to listen to but its traces."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        select.select([], [], [], 0.02)


def pid_of(home: Path, name: str) -> int | None:
    try:
        running = supervisor.recorded(home).get(name)
    except LocalFault:
        return None
    return None if running is None else running.pid


def up(home: Path, name: str) -> bool:
    return supervisor.lock_holder(home / name) is not None


class Net:
    """A folder with two homes and a supervisor process over them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("member-1", "member-2"):
            (home / name).mkdir()

    def start(self, *, restart: bool = True, second: str = NODE) -> None:
        table = [
            ["member-1", [sys.executable, "-c", NODE, str(self.home / "member-1")]],
            ["member-2", [sys.executable, "-c", second, str(self.home / "member-2")]],
        ]
        arguments = [str(self.home), json.dumps(table), "restart" if restart else "leave"]
        self.process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments], stderr=subprocess.DEVNULL)
        until(lambda: up(self.home, "member-1") and up(self.home, "member-2"))

    def close(self) -> None:
        supervisor.down(self.home)
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_killed_process_is_started_again_under_a_new_id(net: Net) -> None:
    net.start()
    first = pid_of(net.home, "member-2")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: pid_of(net.home, "member-2") not in (None, first) and up(net.home, "member-2"))
    record = supervisor.read_record(net.home)
    assert record.restarts == {"member-1": 0, "member-2": 1}
    assert record.exit_codes["member-2"] == -signal.SIGKILL


def test_without_restart_a_killed_process_stays_dead_until_it_is_asked_for(net: Net) -> None:
    net.start(restart=False)
    first = pid_of(net.home, "member-1")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.read_record(net.home).restarts.get("member-1") == 1)
    assert pid_of(net.home, "member-1") is None
    assert supervisor.start_detached(net.home) == net.process.pid if net.process else False
    until(lambda: pid_of(net.home, "member-1") not in (None, first))


def test_down_stops_everything_and_may_be_said_twice(net: Net) -> None:
    net.start()
    pids = [pid_of(net.home, name) for name in ("member-1", "member-2")]
    assert supervisor.down(net.home) == ["member-1", "member-2"]
    assert all(pid is not None and Running.of(pid) is None for pid in pids)
    assert net.process is not None
    assert net.process.wait(LIMIT_S) == 0
    assert supervisor.down(net.home) == []
    assert not (net.home / "supervisor.json").exists()


def test_down_finds_what_a_killed_supervisor_left_behind(net: Net) -> None:
    net.start()
    assert net.process is not None
    net.process.kill()
    net.process.wait()
    assert up(net.home, "member-1")
    assert supervisor.down(net.home) == ["member-1", "member-2"]
    assert not up(net.home, "member-1")
    assert not up(net.home, "member-2")


def test_a_new_supervisor_replaces_what_a_killed_one_left_behind(net: Net) -> None:
    net.start()
    assert net.process is not None
    net.process.kill()
    net.process.wait()
    left = pid_of(net.home, "member-1")
    net.start()
    until(lambda: pid_of(net.home, "member-1") not in (None, left))
    assert left is not None
    assert Running.of(left) is None


def test_a_process_that_ignores_the_request_to_end_or_is_stopped_is_killed(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE_S", 0.2)
    net.start(second=STUBBORN)
    stubborn = pid_of(net.home, "member-2")
    stopped = pid_of(net.home, "member-1")
    assert stubborn is not None
    assert stopped is not None
    assert net.process is not None
    os.kill(net.process.pid, signal.SIGKILL)
    net.process.wait()
    os.kill(stopped, signal.SIGSTOP)
    supervisor.stop([Running(pid, str(supervisor.process_started(pid))) for pid in (stubborn, stopped)], 0.2)
    assert Running.of(stubborn) is None
    assert Running.of(stopped) is None


def test_two_supervisors_never_share_a_home(net: Net) -> None:
    net.start()
    with pytest.raises(LocalFault, match="supervised by another process"):
        Supervisor(net.home, [])


def test_a_node_started_by_hand_is_left_alone_and_taken_over_when_it_ends(net: Net) -> None:
    by_hand = subprocess.Popen([sys.executable, "-c", NODE, str(net.home / "member-1")], stdout=subprocess.DEVNULL)
    until(lambda: supervisor.lock_holder(net.home / "member-1") == by_hand.pid)
    net.start()
    assert pid_of(net.home, "member-1") is None
    assert supervisor.lock_holder(net.home / "member-1") == by_hand.pid
    by_hand.kill()
    by_hand.wait()
    until(lambda: pid_of(net.home, "member-1") is not None and up(net.home, "member-1"))


def test_a_recycled_process_id_is_never_taken_for_ours() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        found = Running.of(process.pid)
        assert found is not None
        assert found.alive
        other = Running(process.pid, "started at another time")
        assert not other.alive
        other.signal(signal.SIGKILL)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert not found.alive
    assert supervisor.process_started(process.pid) is None


def test_looking_who_holds_a_lock_never_takes_it(tmp_path: Path) -> None:
    from node.home import HomeLock

    assert supervisor.lock_holder(tmp_path) is None
    lock = HomeLock(tmp_path)
    assert supervisor.lock_holder(tmp_path) == os.getpid()
    lock.release()
    assert supervisor.lock_holder(tmp_path) is None
    assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    supervisor.supervisor_file(tmp_path).write_text('{"format": 7}')
    with pytest.raises(LocalFault, match="format 7"):
        supervisor.read_record(tmp_path)


def test_the_last_words_of_a_process_are_the_end_of_its_log(tmp_path: Path) -> None:
    home = tmp_path / "member-1"
    home.mkdir()
    (home / "node.log").write_text("first\nport 41001: Address already in use\n\n")
    assert supervisor.last_words(tmp_path, "member-1") == "port 41001: Address already in use"
    assert supervisor.last_words(tmp_path, "member-2") == "no log"
