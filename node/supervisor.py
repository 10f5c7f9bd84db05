"""A local network's processes: the chain, every member and the auditor, each an operating-system process of its own.

What may live here: starting, watching, restarting and stopping processes, and saying what state they are in. What this
file does not know: what those processes do. The table `programs` is the whole list of what runs.

Theory of operation. The supervisor holds a lock on the network's home and writes `supervisor.json` (process ids with
the moment each was started, so that a recycled id is never mistaken for ours) whenever a process starts or ends.
Children are sessions of their own: when the supervisor is killed they run on, and `down` finds them in the file. A
process that ended is started again after a pause that doubles up to `MAX_PAUSE_S`; SIGHUP starts everything at once,
SIGTERM and SIGINT stop everything. A node that somebody started by hand holds its home's lock: it is left alone.

State is asked of the processes themselves, not remembered: a lock that is held, a control endpoint that answers. A
stopped (SIGSTOP) or hung process holds its lock and does not answer: `frozen`.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from crypto.keys import address_text, peer_id_text
from node import control
from node.errors import InputError, LocalFault, NodeError, NotFound, TimedOut
from node.home import Network, node_homes, read_json, read_network, write_json

FORMAT: Final = 1
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
STEADY_S: Final = 30.0  # a process that ran this long starts again without a pause
STOP_GRACE_S: Final = 10.0  # between SIGTERM and SIGKILL
ANSWER_TIMEOUT_S: Final = 3.0  # a process that does not answer for so long is called frozen
POLL_S: Final = 0.1
NOTICE_S: Final = 10.0  # a supervisor that has written nothing for so long never started
GIVE_UP_AFTER: Final = 3  # ends of one process while the network comes up


# --------------------------------------------------------------------------------------------------------------------
# Processes of this machine


def process_started(pid: int) -> str | None:
    """When a process was started, as a text that differs from any other process with this id; None when it is gone."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in ("Z", "X") else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@dataclass(frozen=True, slots=True)
class Running:
    """A process of ours: its id and when it was started."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Running | None:
        """The process with this id, None when there is none."""
        started = process_started(pid)
        return None if started is None else cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return process_started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to this process only and only if it still runs."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def stop(running: Sequence[Running], grace_s: float = STOP_GRACE_S) -> None:
    """End processes: SIGTERM (and SIGCONT, for the frozen), then SIGKILL to what is left after `grace_s`."""
    for one in running:
        one.signal(signal.SIGTERM)
        one.signal(signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    while any(one.alive for one in running) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for one in running:
        one.signal(signal.SIGKILL)
    deadline = time.monotonic() + grace_s
    while any(one.alive for one in running):
        if time.monotonic() > deadline:
            left = ", ".join(str(one.pid) for one in running if one.alive)
            raise LocalFault(f"processes {left} do not end, not even by SIGKILL")
        time.sleep(POLL_S)


def lock_holder(home: Path) -> int | None:
    """The process that uses a node's home, None when nobody does. Looks without taking the lock."""
    path = home / "lock"
    try:
        found, text = path.stat(), path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    locks = Path("/proc/locks")
    if locks.exists():
        mark = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        rows = [line.split() for line in locks.read_text("ascii").splitlines()]
        held = any("FLOCK" in row and mark in row for row in rows)
    else:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                held = False
            except BlockingIOError:
                held = True
    return int(text) if held and text.isdigit() else None


# --------------------------------------------------------------------------------------------------------------------
# What runs


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process: its name, its command line, its log and the home whose lock it takes."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    home: Path | None = None


def programs(home: Path) -> list[Program]:
    """The processes of a network home, in the order they start: chain, members, auditor."""
    network = read_network(home / "network.json")
    found = []
    if embedded(home):
        port = urlsplit(network.chain_url).port
        if port is None:
            raise InputError(f"{home}/network.json: chain.url {network.chain_url} has no port")
        arguments = (sys.executable, "-m", "node.chain", "--home", str(home.resolve()), "--port", str(port))
        found.append(Program("chain", arguments, home / "chain" / "chain.log"))
    for one in node_homes(home):
        arguments = (sys.executable, "-m", "node.cli.main", "node", "run", "--home", str(one.resolve()))
        found.append(Program(one.name, arguments, one / "node.log", one))
    if len(found) < 2:
        raise NotFound(f"{home} holds no node homes (member-1, ...)")
    return found


def embedded(home: Path) -> bool:
    """Whether the network's chain is run from this home."""
    return (home / "chain" / "genesis.json").exists()


# --------------------------------------------------------------------------------------------------------------------
# The supervisor


@dataclass(slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    running: Running | None = None
    since: float = 0.0
    restarts: int = 0
    pause_s: float = FIRST_PAUSE_S
    due: float = 0.0
    exit_code: int | None = None


def supervisor_file(home: Path) -> Path:
    """Where the supervisor writes what it runs."""
    return home / "supervisor.json"


class Supervisor:
    """Runs programs until told to stop.

    Args:
        home: the network home: its lock and `supervisor.json`.
        table: what to run.
        restart: whether a process that ended is started again without being asked.

    Raises:
        LocalFault: another supervisor runs this home.
    """

    def __init__(self, home: Path, table: Sequence[Program], *, restart: bool = True) -> None:
        self._home = home
        self._restart = restart
        self._children = [_Child(program) for program in table]
        self._lock = (home / "supervisor.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise LocalFault(f"{home} is supervised by another process; see `koinon network status`") from None

    def run(self) -> None:
        """Start everything and keep it running until SIGTERM or SIGINT; then stop everything."""
        stop([one for one in recorded(self._home).values() if one is not None])  # left by a supervisor that was killed
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            self._loop(reader)
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)
            self._end()

    def _loop(self, reader: int) -> None:
        while True:
            self._reap()
            self._start_due()
            ready, _, _ = select.select([reader], [], [], self._wait_s())
            for number in os.read(reader, 64) if ready else b"":
                if number in (signal.SIGTERM, signal.SIGINT):
                    return
                if number == signal.SIGHUP:
                    for child in self._children:
                        child.due, child.pause_s = 0.0, FIRST_PAUSE_S

    def _wait_s(self) -> float:
        now = time.monotonic()
        return min(max([child.due - now for child in self._children if child.process is None] + [POLL_S]), 1.0)

    def _reap(self) -> None:
        now = time.monotonic()
        changed = False
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            if now - child.since > STEADY_S:
                child.pause_s = FIRST_PAUSE_S
            child.exit_code = child.process.returncode
            child.process, child.running = None, None
            child.restarts += 1
            child.due = now + child.pause_s if self._restart else float("inf")
            child.pause_s = min(2 * child.pause_s, MAX_PAUSE_S)
            self._say(child, f"ended with {_ending(child.exit_code)}")
            changed = True
        if changed:
            self._record()

    def _start_due(self) -> None:
        now = time.monotonic()
        changed = False
        for child in self._children:
            if child.process is not None or child.due > now:
                continue
            holder = None if child.program.home is None else lock_holder(child.program.home)
            if holder is not None:
                child.due = now + FIRST_PAUSE_S if self._restart else float("inf")
                continue
            child.program.log.parent.mkdir(parents=True, exist_ok=True)
            with child.program.log.open("ab") as log:
                child.process = subprocess.Popen(
                    child.program.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={"OMP_NUM_THREADS": "1", **os.environ},
                )
            child.running, child.since = Running.of(child.process.pid), now
            self._say(child, f"started as process {child.process.pid}")
            changed = True
        if changed:
            self._record()

    def _end(self) -> None:
        children = [child for child in self._children if child.process is not None]
        # Nodes first: they may still want to say something to the chain.
        chains = [child for child in children if child.program.home is None]
        for group in ([child for child in children if child.program.home is not None], chains):
            for child in group:
                if child.running is not None:
                    child.running.signal(signal.SIGTERM)
                    child.running.signal(signal.SIGCONT)
            deadline = time.monotonic() + STOP_GRACE_S
            for child in group:
                assert child.process is not None
                try:
                    child.process.wait(max(deadline - time.monotonic(), 0.0))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
                self._say(child, "stopped")
        supervisor_file(self._home).unlink(missing_ok=True)
        self._lock.close()

    def _record(self) -> None:
        processes = {
            child.program.name: {
                "running": None if child.running is None else asdict(child.running),
                "restarts": child.restarts,
                "exit_code": child.exit_code,
            }
            for child in self._children
        }
        me = Running.of(os.getpid())
        assert me is not None
        document = {"format": FORMAT, "supervisor": asdict(me), "restart": self._restart, "processes": processes}
        write_json(supervisor_file(self._home), document)

    def _say(self, child: _Child, text: str) -> None:
        sys.stderr.write(f"supervisor: {child.program.name} {text}\n")
        sys.stderr.flush()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


# --------------------------------------------------------------------------------------------------------------------
# For the command line


@dataclass(frozen=True, slots=True)
class Record:
    """What `supervisor.json` says: the supervisor, its policy, its children, how often each ended and how last time."""

    supervisor: Running | None
    restart: bool = True
    children: dict[str, Running | None] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    exit_codes: dict[str, int | None] = field(default_factory=dict)


def _running(raw: Any) -> Running | None:
    if not isinstance(raw, dict) or type(raw.get("pid")) is not int or not isinstance(raw.get("started"), str):
        return None
    found = Running(raw["pid"], raw["started"])
    return found if found.alive else None


def read_record(home: Path) -> Record:
    """What was recorded, ended processes as None; empty when nothing was."""
    try:
        raw = read_json(supervisor_file(home))
    except NotFound:
        return Record(None)
    if raw.get("format") != FORMAT or not isinstance(raw.get("processes"), dict):
        raise LocalFault(f"{supervisor_file(home)}: format {raw.get('format')!r}, this koinon reads format {FORMAT}")
    processes = raw["processes"]
    return Record(
        _running(raw.get("supervisor")),
        bool(raw.get("restart", True)),
        {name: _running(one.get("running")) for name, one in processes.items()},
        {name: int(one.get("restarts", 0)) for name, one in processes.items()},
        {name: one.get("exit_code") for name, one in processes.items()},
    )


def recorded(home: Path) -> dict[str, Running | None]:
    """The children that `supervisor.json` names; None for one that ended."""
    return read_record(home).children


def start_detached(home: Path, *, restart: bool = True) -> int:
    """Start a supervisor that outlives this process, or wake the one that runs; its process id."""
    found = read_record(home).supervisor
    if found is not None:
        found.signal(signal.SIGHUP)
        return found.pid
    arguments = [sys.executable, "-m", "node.supervisor", "--home", str(home.resolve())]
    with (home / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            arguments if restart else [*arguments, "--no-restart"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


def wait_until_up(home: Path, timeout_s: float, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Wait until every process of the network answers; the status then.

    Raises:
        LocalFault: a process ends again and again; the sentence quotes the end of its log.
        TimedOut: not within `timeout_s`.
    """
    begun = time.monotonic()
    before: dict[str, int] = {}
    seen: set[str] = set()
    while True:
        found = status(home)
        parts = [found["chain"], *found["members"], *([found["auditor"]] if found["auditor"] else [])]
        for part in parts:
            if part["state"] == "running" and part["name"] not in seen:
                seen.add(part["name"])
                progress(f"{part['name']} is up")
        if all(part["state"] == "running" for part in parts):
            return found
        record = read_record(home)
        before = before or dict(record.restarts)
        for name, count in record.restarts.items():
            code, ends = record.exit_codes.get(name), count - before.get(name, 0)
            if record.children.get(name) is None and ends >= (GIVE_UP_AFTER if record.restart else 1) and code:
                raise LocalFault(f"{name} does not stay up ({_ending(code)}): {last_words(home, name)}")
        waited = time.monotonic() - begun
        if record.supervisor is None and waited > NOTICE_S:
            raise LocalFault(f"the supervisor ended: {_last_line(home / 'supervisor.log')}")
        if waited > timeout_s:
            late = ", ".join(f"{part['name']} {part['state']}" for part in parts if part["state"] != "running")
            raise TimedOut(f"the network is not up after {timeout_s:g} s: {late}; each home's node.log tells more")
        time.sleep(2 * POLL_S)


def last_words(home: Path, name: str) -> str:
    """The last line of a process's log."""
    return _last_line(home / name / ("chain.log" if name == "chain" else "node.log"))


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-4096:].decode(errors="replace").split("\n")
    except OSError:
        return "no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "an empty log")


def down(home: Path) -> list[str]:
    """Stop a network: its supervisor if one runs, else whatever it left behind. The names of what was stopped."""
    record = read_record(home)
    named = {name: one for name, one in record.children.items() if one is not None}
    if record.supervisor is not None:
        stop([record.supervisor], 2 * STOP_GRACE_S + 5.0)
    nodes = [one for name, one in named.items() if name != "chain"]
    stop(nodes)
    stop([one for name, one in named.items() if name == "chain"])
    supervisor_file(home).unlink(missing_ok=True)
    return list(named)


# --------------------------------------------------------------------------------------------------------------------
# Status


def status(home: Path) -> dict[str, Any]:
    """Members, chain and auditor with process, identity and state; asked of the processes, all at the same time."""
    network = read_network(home / "network.json")
    record = read_record(home)
    seats = {seat.name: seat for seat in (*network.founders, *network.auditors)}
    homes = node_homes(home)
    with ThreadPoolExecutor(max_workers=len(homes) + 1) as pool:
        chain = pool.submit(_chain_status, home, network)
        nodes = list(pool.map(_node_status, homes))
    rows = []
    for path, one in zip(homes, nodes, strict=True):
        seat = seats.get(path.name)
        # A running node tells its own: its keys may have changed since network.json was written.
        one.setdefault("peer_id", None if seat is None else peer_id_text(seat.peer_id))
        one.setdefault("ledger_address", None if seat is None else address_text(seat.ledger))
        one["restarts"] = record.restarts.get(path.name, 0)
        rows.append(one)
    return {
        "network": network.name,
        "synthetic": network.synthetic,
        "supervisor": None if record.supervisor is None else record.supervisor.pid,
        "chain": chain.result(),
        "members": [one for one in rows if one["name"] != "auditor"],
        "auditor": next((one for one in rows if one["name"] == "auditor"), None),
    }


def _node_status(home: Path) -> dict[str, Any]:
    """One node: `running`, `starting` (not following the chain yet), `frozen` (does not answer) or `stopped`."""
    identity = read_json(home / "home.json")
    found: dict[str, Any] = {
        "name": home.name,
        "index": identity.get("index"),
        "pid": lock_holder(home),
        "state": "stopped",
        "round": None,
        "phase": None,
        "block": None,
        "home": str(home),
    }
    if found["pid"] is None:
        return found
    try:
        told = control.ask(home / "control.json", "status", {}, ANSWER_TIMEOUT_S)
    except TimedOut:
        # Its orders take turns and may wait behind a long computation; liveness is answered by a thread of its own.
        found["state"] = "running" if _alive(home) else "frozen"
        return found
    except NodeError:
        # Its lock is held and nobody listens yet; a process stopped at this moment cannot be told from a slow one.
        found["state"] = "frozen" if _is_stopped(found["pid"]) else "starting"
        return found
    found["state"] = "running" if told["ready"] else "starting"
    found["block"] = told["block"]
    if told.get("ledger_address"):
        found |= {key: told[key] for key in ("peer_id", "ledger_address")}
    if told["rounds"]:
        newest = told["rounds"][-1]
        found["round"], found["phase"] = newest["height"], newest["phase"]
    return found


def _alive(home: Path) -> bool:
    try:
        port = int(read_json(home / "control.json")["port"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_TIMEOUT_S)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (NodeError, OSError, ValueError, KeyError, http.client.HTTPException):
        return False


def _is_stopped(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] in ("T", "t")


def _chain_status(home: Path, network: Network) -> dict[str, Any]:
    """The chain: `running`, `frozen` or `stopped`; `unreachable` for one that is not run from this home."""
    found: dict[str, Any] = {
        "name": "chain",
        "embedded": embedded(home),
        "url": network.chain_url,
        "chain_id": network.contracts.chain_id,
        "pid": None,
        "state": "running",
        "block": None,
    }
    token = None
    if found["embedded"]:
        try:
            endpoint = read_json(home / "chain" / "endpoint.json")
            running = Running.of(int(endpoint["pid"]))
            token = endpoint.get("token")
        except (NodeError, KeyError, TypeError, ValueError):
            running = None
        if running is None:
            return {**found, "state": "stopped"}
        found["pid"] = running.pid
    try:
        found["block"] = int(_rpc(network.chain_url, token, "eth_blockNumber"), 16)
        answered = int(_rpc(network.chain_url, token, "eth_chainId"), 16)
    except TimeoutError:
        return {**found, "state": "frozen"}
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return {**found, "state": "starting" if found["embedded"] else "unreachable"}
    if answered != network.contracts.chain_id:
        return {**found, "state": f"another chain ({answered})"}
    return found


def _rpc(url: str, token: str | None, method: str) -> str:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_TIMEOUT_S)
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": []})
    try:
        connection.request("POST", parts.path or "/", body, headers)
        return str(json.loads(connection.getresponse().read(1 << 20))["result"])
    finally:
        connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m node.supervisor`: supervise a network home until a signal ends it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m node.supervisor", description="Run a network home's processes.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--no-restart", action="store_true", help="leave a process that ended as it is")
    given = parser.parse_args(arguments)
    try:
        Supervisor(given.home, programs(given.home), restart=not given.no_restart).run()
    except NodeError as error:
        sys.stderr.write(f"supervisor: {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
