"""A network of koinon on loopback, measured: what the scripts beside this module share.

Real processes (`koinon network up`), random images, and where Linux allows it a network namespace of their own: its
loopback counts this run's bytes and nobody else's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv" / "bin" / "python"
KOINON = ROOT / ".venv" / "bin" / "koinon"
MODELS = {4: "resnet-18-narrow", 45: "resnet-18"}
PHASES = ("prepare", "train", "seal", "commit", "fetch", "judge", "aggregate", "vote", "finalise")
"""Of a node's round, in order; what each ends with is in `Round.phases`."""

RECORDS, TESTS, SIDE, CLASSES = 48, 8, 28, 3
BATCH, RATE = 16, 0.01
UP_S, ROUND_S = 300.0, 600.0
PORT = 26000
"""The first of the ports that are listened on: below those that Linux gives to connections."""

NAMESPACE = "KOINON_BENCH_NAMESPACE"
_PAIR = re.compile(r"(\w+)=('[^']*'|\S+)")


# --- processes


def in_own_namespace() -> bool:
    """Go on in a network namespace of our own, if that is allowed; whether this is one."""
    if os.environ.get(NAMESPACE):
        return os.environ[NAMESPACE] == "own"
    enter = ["unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    allowed = shutil.which("unshare") and subprocess.run([*enter, "true"], capture_output=True, check=False)
    os.environ[NAMESPACE] = "own" if allowed and allowed.returncode == 0 else "shared"
    if os.environ[NAMESPACE] == "own":
        os.execvp("unshare", [*enter, sys.executable, *sys.argv])
    return False


def loopback_bytes() -> int:
    """Bytes that loopback has carried, TCP and IP headers included."""
    line = next(one for one in Path("/proc/net/dev").read_text().splitlines() if one.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def children(pid: int) -> list[int]:
    """Process ids of a process's children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(one) for one in task.read_text().split()]
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds of one process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    """The most memory that a process had resident, in millions of bytes."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def forget_peak(pid: int) -> None:
    """Begin `peak_mb` anew: the key derivation at a node's start takes 128 MiB once."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def koinon(*arguments: object) -> dict[str, Any]:
    """The data of a command's answer."""
    command = [str(KOINON), *map(str, arguments), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-600:]}")
    found: dict[str, Any] = json.loads(done.stdout)["data"]
    return found


# --- what the nodes' logs say


@dataclass(slots=True)
class Round:
    """One round at one node: when it opened and what its effects took. Times in seconds of one clock."""

    height: int
    opened: float
    ends: dict[str, float] = field(default_factory=dict)  # effect -> when the last of that name was done
    begins: dict[str, float] = field(default_factory=dict)  # effect -> when the first of that name began
    trained_s: float = 0.0

    def phases(self, next_opened: float) -> dict[str, float]:
        """Seconds of each phase. They add up to the round; one that a node was spared (others' votes sufficed) is 0."""
        begin, end = defaultdict(float, self.begins), defaultdict(float, self.ends)
        marks = [
            self.opened,
            end["trained"] - self.trained_s,  # prepare: the round is read, records are selected
            end["trained"],  # train: the worker
            end["Train"],  # seal: update and set sealed, kept, signed
            begin["Judge"] if "Fetch" not in begin else begin["Fetch"],  # commit: until the seal is final
            max(end["Fetch"], begin["Judge"]),  # fetch: ciphertexts and keys
            end["Judge"],  # judge: opened and judged
            end["Aggregate"],  # aggregate
            end["SignVote"],  # vote
            next_opened,  # finalise: votes gathered, result on the chain, next round read
        ]
        marks = [max(marks[: i + 1]) for i in range(len(marks))]  # phases of different members may overlap
        return {name: marks[i + 1] - marks[i] for i, name in enumerate(PHASES)}


def read_rounds(log: Path) -> dict[int, Round]:
    """The rounds that a node's log tells of, by height."""
    by_id: dict[str, Round] = {}
    for line in log.read_text(errors="replace").splitlines():
        pairs = {key: value.strip("'") for key, value in _PAIR.findall(line)}
        if "timestamp" not in pairs or "round" not in pairs:
            continue
        at = datetime.fromisoformat(pairs["timestamp"]).timestamp()
        if "height" in pairs and "event='round opened'" in line:
            by_id[pairs["round"]] = Round(int(pairs["height"]), at)
        one = by_id.get(pairs["round"])
        if one is None or "s" not in pairs:
            continue
        seconds = float(pairs["s"])
        name = "trained" if pairs["event"] == "trained" else pairs.get("effect", "")
        one.ends[name] = max(at, one.ends.get(name, at))
        one.begins[name] = min(at - seconds, one.begins.get(name, at))
        if name == "trained":
            one.trained_s = seconds
    return {one.height: one for one in by_id.values()}


# --- one case


def make_data(folder: Path, members: int) -> list[Path]:
    """A file of random images for each member; nothing of it means anything."""
    code = f"""
import numpy as np, sys
for member in range({members}):
    draw = np.random.Generator(np.random.Philox(member))
    arrays = {{}}
    for split, count in (("train", {RECORDS}), ("test", {TESTS})):
        arrays[split + "_images"] = draw.integers(0, 256, (count, {SIDE}, {SIDE}), dtype=np.uint8)
        arrays[split + "_labels"] = np.arange(count, dtype=np.int64) % {CLASSES}
    np.savez(sys.argv[1] + f"/hospital-{{member + 1}}.npz", **arrays)
"""
    subprocess.run([str(PYTHON), "-c", code, str(folder)], check=True)
    return [folder / f"hospital-{member + 1}.npz" for member in range(members)]


def run_network(folder: Path, data: Sequence[Path], model: str, rounds: int, port: int) -> dict[str, Any]:
    """Train a study of `rounds` + 1 rounds with real processes; what the rounds after the first took."""
    home = folder / "network"
    koinon("network", "init", "--home", home, "--base-port", port, *(x for one in data for x in ("--data", one)))
    os.environ["KOINON_NODE_LOG_LEVEL"] = "debug"
    try:
        koinon("network", "up", "--home", home, "--detach")
        study = ["--model", model, "--rounds", rounds + 2, "--local-epochs", 1, "--batch-size", BATCH]
        study += ["--learning-rate", RATE, "--min-consents", 2]
        koinon("study", "create", "--home", home / "member-1", *study)
        logs = [home / f"member-{i + 1}" / "node.log" for i in range(len(data))]
        wait_for_round(logs, 2, UP_S)
        before, bytes_before, begun = usage(home, anew=True), loopback_bytes(), time.perf_counter()
        wait_for_round(logs, rounds + 2, ROUND_S * rounds)
        seconds, carried, after = time.perf_counter() - begun, loopback_bytes() - bytes_before, usage(home)
        return {
            **summarise([read_rounds(log) for log in logs], rounds),
            "wall_s_a_round": seconds / rounds,
            "bytes_a_member_a_round": carried / rounds / len(data),
            "cpu_s_a_round": {
                part: sum(after[part, name].cpu - before[part, name].cpu for p, name in before if p == part) / rounds
                for part in ("node", "worker", "chain")
            },
            "peak_mb": {
                part: max(one.peak for (p, name), one in after.items() if p == part and name != "auditor")
                for part in ("node", "worker", "chain")
            },
            "peak_mb_auditor": after["node", "auditor"].peak,
        }
    finally:
        koinon("network", "down", "--home", home)


@dataclass(frozen=True, slots=True)
class Usage:
    """One process: processor seconds so far, and the most memory it had, in millions of bytes."""

    cpu: float
    peak: float


def usage(home: Path, *, anew: bool = False) -> dict[tuple[str, str], Usage]:
    """(part, name) -> what each process of the network has used; `anew` makes the peaks begin here."""
    record = json.loads((home / "supervisor.json").read_text())["processes"]
    found: dict[tuple[str, str], Usage] = {}
    for name, one in record.items():
        pid = one["running"]["pid"]
        parts = {pid: "chain" if name == "chain" else "node", **dict.fromkeys(children(pid), "worker")}
        for process, part in parts.items():
            found[part, name] = Usage(cpu_s(process), peak_mb(process))
            if anew:
                forget_peak(process)
    return found


def wait_for_round(logs: Iterable[Path], height: int, timeout_s: float) -> None:
    """Return when every member has opened this round."""
    deadline, wanted = time.monotonic() + timeout_s, re.compile(rf"round opened.*height={height}\b")
    for log in logs:
        while not (log.exists() and wanted.search(log.read_text(errors="replace"))):
            if time.monotonic() > deadline:
                raise SystemExit(f"round {height} was not reached within {timeout_s:.0f} s: see {log}")
            time.sleep(0.25)


def summarise(nodes: list[dict[int, Round]], rounds: int) -> dict[str, Any]:
    """Means over rounds 2 .. rounds+1 and all members."""
    heights = range(2, rounds + 2)
    phases: dict[str, list[float]] = {name: [] for name in PHASES}
    lasted, beyond = [], []
    for height in heights:
        opened = mean(node[height].opened for node in nodes)
        whole = mean(node[height + 1].opened for node in nodes) - opened
        lasted.append(whole)
        beyond.append(whole - max(node[height].trained_s for node in nodes))
        for node in nodes:
            for name, seconds in node[height].phases(node[height + 1].opened).items():
                phases[name].append(seconds)
    return {
        "round_s": mean(lasted),
        "beyond_s": mean(beyond),
        "beyond_s_worst": max(beyond),
        "phases_s": {name: mean(found) for name, found in phases.items()},
    }
