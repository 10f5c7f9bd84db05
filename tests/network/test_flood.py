"""One of four members floods all the others, in every way there is, while a study runs: they finish it unharmed.

The flooder (`tests/fakes/flooder.py`) has the keys of member-4, whose node is stopped after the first round has begun.
What holds:

1. The three finish the study; every round is agreed and includes all three of them, and all hold the same models.
2. Every agreed round is verified bit for bit afterwards (`koinon audit verify`).
3. No process ends by itself, every one ends by SIGTERM with exit code 0, and no log has a traceback.
4. No process holds more memory than its bound, which knows of no peers and no requests.
5. Every log stays small, and what the flooder does wrong is in it and in the figures.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crypto.digest import Digest
from node.cli.common import order
from node.founding import Plan, found_network
from tests.fakes.byzantine_peers import MEMBERS, STRANGERS
from tests.fakes.flooder import BREAKERS
from tests.fakes.network import QUARTER_END
from tests.network import memory
from tests.network.bench import NAMES, Processes, free_ports, wait
from tests.network.chaos import SIDE, scans
from tests.network.chaos import SPEC as IMAGES

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.network, pytest.mark.timeout(700)]

LIAR = "member-4"
HONEST = tuple(name for name in NAMES if name != LIAR)
ROUNDS = 15
WINDOWS = {"scribe_s": 8, "grace_s": 3, "reveal_s": 8, "have_s": 8, "vote_s": 8, "purge_s": 10}
PATIENCE_S = 540.0
LOG_BYTES = 40_000
"""What a node may write in a flooded study: some 250 lines."""
TOLD = sorted({counter for _, counter in (*MEMBERS, *STRANGERS) if counter is not None})


class Flooder:
    """The process, and the runs that it has told of."""

    def __init__(self, home: Path) -> None:
        self.runs: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.flooder", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.runs.append(json.loads(line))

    def missing(self) -> set[tuple[str, str]]:
        """Programs that have not run to their end yet, everywhere; those that break a limit, anywhere."""
        ended = {(run["at"], run["program"]) for run in list(self.runs) if run["why"] is None}
        ended |= {(name, program) for _, program in ended if program in BREAKERS for name in HONEST}
        return {(name, one.__name__) for name in HONEST for one, _ in (*MEMBERS, *STRANGERS)} - ended

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Processes]:
    home = tmp_path / "net"
    data = tuple(scans(i) for i in range(4))
    found_network(home, Plan("flood", data, "npz-classification", base_port=free_ports(6)))
    processes = Processes(home)
    try:
        processes.up()
        yield processes
    finally:
        processes.stop()


def processes_of(net: Processes, name: str) -> dict[str, int]:
    """Part ("node", "worker 1", ..) -> process id."""
    pid = net.running[name].pid
    return {"node": pid, **{f"worker {i}": one for i, one in enumerate(memory.children(pid), 1)}}


def told(net: Processes, name: str) -> bool:
    """Whether a node's figures know of everything that the flooder does wrong."""
    return all(net.metric(name, f"{counter}_total") > 0 for counter in TOLD)


def test_a_member_that_floods_stops_nobody(net: Processes) -> None:
    text = IMAGES.format(
        name="flooded",
        rounds=ROUNDS,
        rate=0.05,
        least=3,
        side=SIDE,
        windows="\n".join(f"{name} = {value}" for name, value in WINDOWS.items()),
        text="ab" * 32,
        valid_to=QUARTER_END,
    )
    study = Digest.from_hex(order(net.homes["member-1"], "study.create", {"spec": text})["study"])
    net.wait_round(study, 1)
    net.send(LIAR, signal.SIGKILL)
    net.names = HONEST
    for name in HONEST:
        for pid in processes_of(net, name).values():
            memory.forget_peak(pid)
    flooder = Flooder(net.homes[LIAR])
    try:

        def over() -> bool:
            assert flooder.process.poll() is None
            for name, process in net.running.items():
                assert process.poll() is None, f"{name} ended by itself"
            history = net.history()
            finished = study in history.studies and history.finished(study)
            return finished and not flooder.missing() and all(told(net, name) for name in HONEST)

        wait(over, "the study and the flood", PATIENCE_S)
        models = net.agree(study)
    finally:
        flooder.stop()
    history = net.history()

    # 1
    rounds = history.path(study, history.studies[study].active_branch)
    assert [one.final is not None and one.final.result.included & 0b0111 for one in rounds] == [0b0111] * ROUNDS
    assert len(models) == ROUNDS

    # 4
    model = max((net.homes["member-1"] / "blobs" / root[:2] / root).stat().st_size for root in models.values())
    for name in HONEST:
        for part, pid in processes_of(net, name).items():
            held = memory.peak(pid)
            log.info("%s, %s: %d MB at its peak", name, part, held // 1_000_000)
            bound = memory.node_bound(model) if part == "node" else memory.worker_bound(model)
            assert held <= bound, f"{name}, {part}: {held} bytes"

    # 5
    for name in HONEST:
        assert told(net, name)
        assert net.metric(name, "faults_total") == 0

    # 3
    for name in (*HONEST, "chain"):
        process = net.running.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    for name in (*HONEST, "chain"):
        text = (net.home / f"{name}.log").read_text("utf-8", "replace")
        assert "Traceback" not in text
        assert len(text) <= LOG_BYTES, f"{name}: {len(text)} characters of log"

    # 2
    command = [sys.executable, "-m", "node.cli.main", "audit", "verify", "--home", str(net.home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["data"]["rounds_verified"] >= ROUNDS
