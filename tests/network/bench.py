"""Real processes on this machine: a network home and what runs from it, started, hurt and looked at by tests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crypto.digest import Digest
from node import control
from node.abi import Codec
from node.cli.common import order
from node.errors import NodeError
from node.evidence import verify_block
from node.follower import logged_of
from node.history import History, RoundHistory
from node.home import Network, open_home, read_json, read_network
from node.store import Store
from tests.fakes.network import QUARTER_END
from tests.network.mortal import NAME as DIES_AFTER

MEMBERS = 4
PATIENCE_S = 120.0
NAMES = (*(f"member-{i + 1}" for i in range(MEMBERS)), "auditor")
SPEC = """
schema = "koinon.study/1"
name = "{name}"
task = "npz-classification"
rounds = {rounds}
[data]
input_shape = [6]
classes = 2
[model]
name = "mlp"
[training]
batch_size = 4
[windows]
scribe_s = {scribe_s}
grace_s = 3
reveal_s = 8
have_s = 8
vote_s = 8
purge_s = 10
[policy]
min_consents = 2
[[forms]]
name = "f"
text_sha256 = "{text}"
custody = "synthetic"
valid_to = {valid_to}
"""


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that nobody uses now."""
    for base in range(20_000 + os.getpid() % 500 * 20, 32_000, 20):
        try:
            held = []
            for port in range(base, base + count):
                one = socket.socket()
                held.append(one)
                one.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return base
        finally:
            for one in held:
                one.close()
    raise AssertionError("no free ports")


def wait(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll until a condition gives something true; what it gave."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            found = condition()
        except (NodeError, OSError, http.client.HTTPException):
            found = None
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


@dataclass
class _Read:
    """A node's chain as far as it was read: to block `number` of hash `hash`."""

    contracts: object
    history: History = field(default_factory=History)
    number: int = -1
    hash: Digest | None = None


@dataclass
class Processes:
    """A network home and what runs from it."""

    home: Path
    names: tuple[str, ...] = NAMES
    node: tuple[str, ...] = ("node.cli.main", "node", "run")
    homes: dict[str, Path] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _read: dict[str, _Read] = field(default_factory=dict)
    _codec: Codec = field(default_factory=Codec.load)

    def __post_init__(self) -> None:
        self.homes = {name: self.home / name for name in self.names}

    @property
    def network(self) -> Network:
        return read_network(self.home / "network.json")

    @property
    def chain_port(self) -> int:
        return int(self.network.chain_url.rpartition(":")[2])

    # --- processes

    def start(self, name: str) -> None:
        """Start the chain or a node as its owner would."""
        if name == "chain":
            arguments = ["node.chain", "--home", str(self.home), "--port", str(self.chain_port)]
        else:
            arguments = [*self.node, "--home", str(self.homes[name])]
        log = (self.home / f"{name}.log").open("ab")
        with log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one process of ours."""
        self.running[name].send_signal(number)
        if number is signal.SIGKILL:
            self.running.pop(name).wait(20)

    def dies_after(self, name: str, point: str) -> None:
        """Tell a node of `tests.network.mortal` to kill itself when it next passes a point."""
        (self.homes[name] / DIES_AFTER).write_text(point, "utf-8")
        self.send(name, signal.SIGUSR1)

    def stop(self) -> None:
        """End what is left."""
        for process in self.running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
        for process in self.running.values():
            process.wait(20)

    def up(self) -> None:
        """Start everything and wait until all follow the chain."""
        self.start("chain")
        wait(lambda: self.block(0), "the chain answers")
        for name in self.names:
            self.start(name)
        for name in self.names:
            self.wait_ready(name)

    def wait_ready(self, name: str) -> None:
        """Wait until a node follows the chain."""
        wait(lambda: control.ask(self.homes[name] / "control.json", "status", {}, 5.0)["ready"], f"{name} is ready")

    # --- looking

    def rpc(self, method: str, *parameters: object) -> Any:
        """One question to the chain."""
        token = read_json(self.home / "chain" / "endpoint.json").get("token")
        connection = http.client.HTTPConnection("127.0.0.1", self.chain_port, timeout=5)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)})
        try:
            connection.request("POST", "/", body, headers)
            return json.loads(connection.getresponse().read())["result"]
        finally:
            connection.close()

    def block(self, number: int) -> str:
        """Hash of a block."""
        return str(self.rpc("eth_getBlockByNumber", hex(number), False)["hash"])

    def metric(self, name: str, metric: str) -> float:
        """A figure of a node's metrics."""
        port = int(read_json(self.homes[name] / "control.json")["port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        return next(float(row.split()[1]) for row in text.splitlines() if row.startswith(f"koinon_{metric} "))

    def history(self, name: str = "auditor") -> History:
        """The chain as a node keeps it; what an earlier call has read is not read again, so it grows in its hands."""
        contracts = read_network(open_home(self.homes[name]).network_path).contracts
        store = Store(self.homes[name], bytes(32))
        try:
            read = self._read.get(name)
            if read is None or read.contracts != contracts or store.block_hash(read.number) != read.hash:
                read = self._read[name] = _Read(contracts)
            for evidence, block_hash in store.blocks(read.number + 1):
                read.history.apply_all(logged_of(verify_block(evidence), self._codec, contracts))
                read.number, read.hash = evidence.number, block_hash
            return read.history
        finally:
            store.close()

    # --- studies

    def create(self, name: str, rounds: int, scribe_s: int = 20) -> Digest:
        """Create a study at the first member."""
        text = SPEC.format(name=name, rounds=rounds, scribe_s=scribe_s, text="ab" * 32, valid_to=QUARTER_END)
        return Digest.from_hex(order(self.homes["member-1"], "study.create", {"spec": text})["study"])

    def round(self, study: Digest, height: int, at: str = "auditor") -> RoundHistory | None:
        """A round of the study's first branch, if the node knows it."""
        history = self.history(at)
        return history.round_at(study, 0, height) if study in history.studies else None

    def wait_round(self, study: Digest, height: int, at: str = "auditor") -> Digest:
        """Wait until the round of a height is open; its id."""
        found = wait(lambda: self.round(study, height, at), f"round {height}")
        return Digest(found.opened.round_id)

    def wait_finished(self, study: Digest, at: str = "auditor", timeout_s: float = PATIENCE_S) -> History:
        """Wait until a node knows all rounds of a study."""

        def done() -> History | None:
            history = self.history(at)
            return history if study in history.studies and history.finished(study) else None

        found: History = wait(done, f"the study at {at}", timeout_s)
        return found

    def agree(self, study: Digest, timeout_s: float = PATIENCE_S) -> dict[int, str]:
        """Wait until every node knows the same final roots and holds every model of them."""
        found: set[tuple[tuple[int, str], ...]] = set()
        for name in self.names:
            history = self.wait_finished(study, name, timeout_s)
            branch = history.studies[study].active_branch
            these = {
                one.opened.height: one.final.result.model_root.hex()
                for one in history.path(study, branch)
                if one.final is not None and one.made_model
            }
            found.add(tuple(sorted(these.items())))
            for root in these.values():
                path = self.homes[name] / "blobs" / root[:2] / root
                wait(path.exists, f"{name} holds model {root[:8]}", timeout_s)
        assert len(found) == 1
        return dict(next(iter(found)))
