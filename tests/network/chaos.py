"""A network of real processes under faults drawn from a seed, and the audit of what they did to its studies.

A network is founded on generated scans, its lines are proxies (`links`), studies run back to back. From the seed comes
a list of faults, each with its time, victim, kind and length: killed, killed after a named write, frozen, cut off from
the peers or the chain or both; members, the scribe, the chain, the auditor. Afterwards everything is healed, studies
are waited for, and the whole is audited: see `Chaos.audit`. The same seed gives the same faults at the same times; what
they meet depends on the machine. Beside them patients ask for erasure, also at times of the seed.

Costs are told in the protocol's own windows, read from the chain, so that a slow machine does not blur them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rfc8785

from crypto.digest import Digest
from crypto.sealing import BlobKind
from fl_engine.data.dataset import Dataset
from node import control
from node.cli.common import order
from node.erasure import doomed_models, doomed_rounds
from node.errors import NodeError
from node.founding import Plan, found_network
from node.history import History, RoundHistory
from node.membership import bitmap_of, faults, members_of, scribes, slack
from node.messages import CommitNotice
from node.round import MODEL
from node.store import Store
from node.trail import participation
from node.validity import Code
from tests.fakes.network import QUARTER_END
from tests.network import memory
from tests.network.bench import Processes, free_ports, wait
from tests.network.links import ProxyLinks
from tests.network.mortal import POINTS

ROOT = Path(__file__).resolve().parents[2]
SIDE = 16
TICK_S = 0.2
RECOVERY_S = 180.0  # a healed process answers and follows the chain within this
PATIENCE_S = 300.0  # all studies and erasures are over within this, once everything is healed
LEAST_CONSENTS = 5  # of its eight that a hospital keeps in a study: fewer are too few batches to be erasable
NODE_MIB, WORKER_MIB = 400, 800
WINDOWS = {"scribe_s": 15, "grace_s": 4, "reveal_s": 8, "have_s": 8, "vote_s": 8, "purge_s": 10}
WARM_S = WINDOWS["scribe_s"] + WINDOWS["grace_s"]  # a member that comes up misses the commit window it comes up in
SPEC = """
schema = "koinon.study/1"
name = "{name}"
task = "npz-classification"
rounds = {rounds}
min_included = {least}
[data]
input_shape = [1, {side}, {side}]
classes = 2
[model]
name = "small-cnn"
[training]
batch_size = 4
learning_rate = {rate}
[windows]
{windows}
[policy]
min_consents = 2
[[forms]]
name = "f"
text_sha256 = "{text}"
custody = "synthetic"
valid_to = {valid_to}
"""


def scans(member: int, patients: int = 8, records: int = 2) -> Dataset:
    """Generated scans of `SIDE` x `SIDE`: tissue noise, and in class 1 a bright lesion somewhere; two of a patient."""
    generator = np.random.default_rng(1000 + member)
    n = patients * records
    y = np.arange(n, dtype=np.int64) % 2
    x = generator.normal(-0.4, 0.15, (n, 1, SIDE, SIDE))
    row, column = np.mgrid[:SIDE, :SIDE]
    for one in np.flatnonzero(y):
        centre = generator.uniform(4, SIDE - 4, 2)
        x[one, 0] += 0.9 * np.exp(-((row - centre[0]) ** 2 + (column - centre[1]) ** 2) / generator.uniform(4, 9))
    names = tuple(f"patient-{member}-{i // records}" for i in range(n))
    return Dataset(np.clip(x, -1, 1).astype(np.float32), y, names, np.zeros(n, np.uint8), 2, f"scans-{member}")


# --------------------------------------------------------------------------------------------------------------------
# Faults


KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    # kind: (how often, whom it can hit)
    "kill": (6, ("member", "scribe", "auditor", "chain")),
    "die": (6, ("member", "scribe")),  # killed by itself right after a named write
    "freeze": (6, ("member", "scribe", "auditor", "chain")),
    "cut": (4, ("member", "scribe", "auditor")),  # from every peer
    "offline": (3, ("member", "scribe", "auditor")),  # from peers and chain
    "blind": (3, ("member", "scribe", "auditor")),  # from the chain
    "slow": (3, ("member", "scribe", "auditor")),  # a bad line to everybody: see `SLOW`
}
SLOW: dict[str, float] = {"latency_s": 0.3, "bytes_per_s": 200_000}
VICTIMS = {"member": 6, "scribe": 3, "auditor": 2, "chain": 2}


@dataclass
class Fault:
    """One thing that happens: `at` and `seconds` from the seed, the rest noted as it happened."""

    at: float
    kind: str
    whom: str
    seconds: float
    point: str = ""
    pick: int = 0
    # as it happened
    victim: str = ""
    began: float = 0.0
    ended: float = 0.0
    recovered: float = 0.0
    phase: str = ""
    cost_s: float = 0.0
    windows: list[str] = field(default_factory=list)

    def overlaps(self, first: float, last: float) -> bool:
        """Whether it was felt at any time between two moments: until its victim can have trained again."""
        return self.began <= last and first <= (self.recovered + WARM_S if self.recovered else math.inf)

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "at_s": round(self.at, 1),
            "kind": self.kind,
            "victim": self.victim,
            "after": self.point or None,
            "seconds": round(self.ended - self.began, 1),
            "recovered_after_s": round(self.recovered - self.ended, 1),
            "phase": self.phase,
            "cost_s": round(self.cost_s, 1),
            "windows_lost": self.windows,
        }


def schedule(seed: int, seconds: float, longest_s: float) -> list[Fault]:
    """The faults of a seed: mostly one after the other, one in four while the one before still lasts."""
    draw = random.Random(seed)
    found: list[Fault] = []
    now = 4.0
    while now < seconds:
        kind = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
        whom = draw.choices(KINDS[kind][1], [VICTIMS[one] for one in KINDS[kind][1]])[0]
        length = min(longest_s, max(0.5, draw.expovariate(3 / longest_s)))
        if draw.random() < 0.1:
            length = longest_s
        point = draw.choice(sorted(POINTS)) if kind == "die" else ""
        found.append(Fault(now, kind, whom, length, point, draw.randrange(1 << 16)))
        now += draw.uniform(2, 8) + (0 if draw.random() < 0.25 else length)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Patients


@dataclass
class Asked:
    """A request for erasure: `at` and `pick` from the seed, the rest as it happened."""

    at: float
    pick: int
    hospital: str = ""
    consent: str = ""
    taken: bool = False
    told: dict[str, Any] = field(default_factory=dict)  # the last status

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        times = self.told.get("times", {})
        return {
            "at_s": round(self.at, 1),
            "hospital": self.hospital,
            "state": self.told.get("state"),
            "rounds_replayed": (self.told.get("plan") or {}).get("rounds"),
            "seconds": times["closed"] - times["requested"] if "closed" in times else None,
        }


def requests(seed: int, seconds: float, apart_s: float) -> list[Asked]:
    """The requests of a seed, on average `apart_s` after one another; none where that is 0."""
    draw = random.Random(f"patients {seed}")
    found: list[Asked] = []
    now = draw.uniform(0.3, 0.8) * apart_s
    while apart_s and now < seconds:
        found.append(Asked(now, draw.randrange(1 << 16)))
        now += draw.uniform(0.5, 1.5) * apart_s
    return found


# --------------------------------------------------------------------------------------------------------------------
# The run


@dataclass
class Chaos:
    """One run: `run` it, then read `report`."""

    home: Path
    seed: int
    seconds: float
    members: int = 5
    rounds: int = 4
    longest_s: float = 60.0
    patient_s: float = 60.0  # between two requests for erasure, on average; 0: nobody asks
    say: Callable[[str], None] = lambda line: None
    studies: list[Digest] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)  # rounds that lost more than the faults they met may cost
    late: list[str] = field(default_factory=list)  # who was hurt by nothing but a slow machine
    peak: dict[str, dict[str, int]] = field(default_factory=dict)
    rounds_seen: list[dict[str, Any]] = field(default_factory=list)
    verified: int = 0
    verifiable: int = 0  # agreed rounds that no erasure has condemned or can have taken the updates of
    complete: bool = False
    quiet_s: float = 0.0  # what a round takes that nothing hurts

    def __post_init__(self) -> None:
        names = (*(f"member-{i + 1}" for i in range(self.members)), "auditor")
        data = tuple(scans(i) for i in range(self.members))
        port = free_ports(self.members + 2)
        found_network(self.home, Plan("chaos", data, "npz-classification", base_port=port))
        self.links = ProxyLinks(self.home, names)
        self.net = Processes(self.home, names, ("tests.network.mortal", "node", "run"))
        self._begun = time.monotonic()
        self._wall = time.time()
        self._active: list[Fault] = []

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def run(self) -> dict[str, Any]:
        """Everything; the report."""
        try:
            self.net.up()
            self._begun, self._wall = time.monotonic(), time.time()
            self._hurt(schedule(self.seed, self.seconds, self.longest_s))
            self.say(f"[{self._elapsed:6.1f} s] healed; waiting for {len(self.studies)} studies to end")
            self._settle()
            self._watch()
            self._stop()
        finally:
            self.net.stop()
            self.links.close()
        self.audit()
        return self.report()

    def _hurt(self, due: list[Fault]) -> None:
        """Let the schedule happen while studies run."""
        self._next_study()
        waiting = list(due)
        self.asked = requests(self.seed, self.seconds, self.patient_s)
        while self._elapsed < self.seconds or self._active:
            self._watch()
            if self._elapsed < self.seconds:
                self._next_study()
                while waiting and waiting[0].at <= self._elapsed:
                    self._begin(waiting.pop(0))
                for one in self.asked:
                    if not one.taken and one.at <= self._elapsed:
                        self._ask(one)
            for fault in list(self._active):
                self._advance(fault)
            time.sleep(TICK_S)

    # --- studies

    def _next_study(self) -> None:
        """Create the next study when the last one is over and somebody is there to create it."""
        if self.studies:
            with suppress(NodeError, OSError):
                history = self._history()
                if self.studies[-1] in history.studies and not history.finished(self.studies[-1]):
                    return
                if self.studies[-1] not in history.studies:
                    return
        windows = "\n".join(f"{name} = {value}" for name, value in WINDOWS.items())
        number = len(self.studies)
        text = SPEC.format(
            name=f"chaos-{number}",
            rounds=self.rounds,
            rate=round(0.05 + number / 1000, 3),  # else two studies make the same models, and those of another stay
            least=self.members // 2 + 1,
            side=SIDE,
            windows=windows,
            text="ab" * 32,
            valid_to=QUARTER_END,
        )
        for name in self._healthy():
            if name != "auditor" and not self._of("chain"):
                with suppress(NodeError, OSError):
                    found = order(self.net.homes[name], "study.create", {"spec": text}, 20.0)
                    self.studies.append(Digest.from_hex(found["study"]))
                    self.say(f"[{self._elapsed:6.1f} s] study {found['study'][:8]} created at {name}")
                    return

    # --- patients

    def _ask(self, one: Asked) -> None:
        """A patient asks at a hospital that is open, once the newest study has a model; again until it is answered."""
        history = self._history()
        study = self.studies[-1] if self.studies else None
        if study not in history.studies or self._of("chain"):
            return
        open_now = [name for name in self._healthy() if name != "auditor"]
        if one.hospital and one.hospital not in open_now:
            return
        if not open_now or not history.studies[study].head.finals:
            return
        hospital = one.hospital or open_now[one.pick % len(open_now)]
        with suppress(NodeError, OSError):
            if not one.consent:
                rows = order(self.net.homes[hospital], "consent.list", {"study": study.hex()}, 10.0)["consents"]
                left = [row["consent_id"] for row in rows if row["state"] == "active"]
                if len(left) <= LEAST_CONSENTS:
                    return
                one.hospital, one.consent = hospital, left[one.pick % len(left)]
            order(self.net.homes[hospital], "erase.request", {"consent": one.consent}, 10.0)
            one.taken = True
            self.say(f"[{self._elapsed:6.1f} s] erasure of {one.consent[:8]} asked for at {hospital}")

    def _erased(self, one: Asked, timeout_s: float) -> None:
        """Wait for a request's certificate, fetch it, check it, and wait until the erasure is closed."""
        home, whose = self.net.homes[one.hospital], {"consent": one.consent}

        def status() -> dict[str, Any]:
            one.told = order(home, "erase.status", whose, 10.0)
            return one.told

        if not one.taken:  # the answer was lost; asking again changes nothing
            order(home, "erase.request", whose, 10.0)
            one.taken = True
        wait(lambda: status()["certificate_ready"], f"the certificate of {one.consent[:8]}", timeout_s)
        found = order(home, "erase.receipt", whose, 30.0)
        paper = self.home / f"{one.consent}.json"
        paper.write_bytes(rfc8785.dumps(found["certificate"]))
        # The network as the hospital has it: its lines are proxies.
        done = _koinon("erase", "verify", paper, "--network", home / "network.json")
        if done.returncode != 0:
            self.broken.append(f"certificate of {one.consent[:8]}: {done.stderr[-500:]}")
        order(home, "erase.delivered", {"erasure": found["erasure"], "consent": found["consent"]}, 30.0)
        whose = {"erasure": found["erasure"]}
        wait(lambda: status()["state"].startswith("closed"), f"the close of {found['erasure'][:8]}", 60.0)
        if one.told["state"] != "closed":
            self.broken.append(f"erasure {found['erasure'][:8]} of {one.hospital} is {one.told['state']}: {one.told}")

    def _history(self) -> History:
        """The chain as the node that has read most of it keeps it."""
        best: History | None = None
        for name in self.net.names:
            with suppress(NodeError, OSError):
                history = self.net.history(name)
                if best is None or (history.last is not None and (best.last is None or history.last > best.last)):
                    best = history
        assert best is not None
        return best

    # --- faults

    def _of(self, victim: str) -> list[Fault]:
        return [fault for fault in self._active if fault.victim == victim]

    def _healthy(self) -> list[str]:
        return [name for name in self.net.names if not self._of(name)]

    def _choose(self, fault: Fault, history: History) -> str | None:
        """The victim: the one the seed picks among those that are well; the scribe of the open round."""
        if fault.whom in ("chain", "auditor"):
            return None if self._of(fault.whom) else fault.whom
        well = [name for name in self._healthy() if name != "auditor"]
        if not well:
            return None
        if fault.whom == "scribe":
            one = self._open(history)
            if one is not None:
                opened = one.opened
                index = scribes(opened.roster, opened.suspended, opened.height)[0]
                if f"member-{index + 1}" in well:
                    return f"member-{index + 1}"
        return well[fault.pick % len(well)]

    @staticmethod
    def _open(history: History) -> RoundHistory | None:
        return next((one for one in reversed(history.rounds.values()) if not one.over), None)

    def _begin(self, fault: Fault) -> None:
        history = self._history()
        victim = self._choose(fault, history)
        if victim is None:
            return
        one = self._open(history)
        fault.victim, fault.began, fault.phase = victim, time.time(), self._phase(one)
        self.faults.append(fault)
        self._active.append(fault)
        after = f" after its next '{fault.point}'" if fault.point else ""
        what = f"{fault.kind} {victim}{after}, {fault.seconds:.1f} s, in {fault.phase or 'no round'}"
        self.say(f"[{self._elapsed:6.1f} s] {what}")
        match fault.kind:
            case "kill":
                self.net.send(victim, signal.SIGKILL)
            case "die":
                self.net.dies_after(victim, fault.point)
            case "freeze":
                self.net.send(victim, signal.SIGSTOP)
            case "slow":
                for other in self._ends(fault):
                    self.links.shape(victim, other, **SLOW)
            case _:
                for other in self._ends(fault):
                    self.links.cut(victim, other)

    def _ends(self, fault: Fault) -> Iterator[str]:
        if fault.kind in ("cut", "offline", "slow"):
            yield from (name for name in self.net.names if name != fault.victim)
        if fault.kind in ("blind", "offline", "slow"):
            yield "chain"

    def _phase(self, one: RoundHistory | None) -> str:
        if one is None:
            return ""
        for name in self._healthy():
            with suppress(NodeError, OSError, KeyError):
                told = control.ask(self.net.homes[name] / "control.json", "status", {}, 1.0)["rounds"]
                return f"round {one.opened.height}, {told[-1]['phase']}" if told else ""
        return f"round {one.opened.height}"

    def _advance(self, fault: Fault) -> None:
        """End a fault whose time has come, then see its victim recover."""
        victim, now = fault.victim, time.time()
        if not fault.ended:
            if fault.kind == "die" and self.net.running[victim].poll() is None:
                if now - fault.began < max(fault.seconds, 20.0):
                    return  # it has not come to its point yet
                self.net.send(victim, signal.SIGKILL)
            elif fault.kind != "die" and now - fault.began < fault.seconds:
                return
            match fault.kind:
                case "kill" | "die":
                    self.net.start(victim)
                case "freeze":
                    self.net.send(victim, signal.SIGCONT)
                case "slow":
                    for other in self._ends(fault):
                        self.links.shape(victim, other)
                case _:
                    for other in self._ends(fault):
                        self.links.heal(victim, other)
            fault.ended = now
        elif self._well(victim):
            fault.recovered = now
            self._active.remove(fault)
        elif now - fault.ended > RECOVERY_S and not self._of("chain"):
            self.broken.append(f"{victim} did not come back within {RECOVERY_S:g} s after {fault.kind}")
            fault.recovered = now
            self._active.remove(fault)

    def _well(self, name: str) -> bool:
        """Whether a process answers, follows the chain and has its peers back."""
        try:
            if name == "chain":
                return bool(self.net.block(0))
            told = control.ask(self.net.homes[name] / "control.json", "status", {}, 2.0)
        except (NodeError, OSError, KeyError, TypeError, ValueError):
            return False
        up = sum(1 for one in told["peers"].values() if one["state"] == "connected")
        away = len({fault.victim for fault in self._active} - {name, "chain"})
        return bool(told["ready"]) and up >= len(self.net.names) - 1 - away

    # --- watching

    def _watch(self) -> None:
        """Nobody ends but by our hand; and what each process needs of memory."""
        for name, process in list(self.net.running.items()):
            self._measure(name, process.pid)
            doomed = any(fault.kind == "die" and not fault.ended for fault in self._of(name))
            if process.poll() is not None and not doomed:
                self.broken.append(f"{name} ended by itself with {process.returncode}: {self._last_words(name)}")
                self.net.start(name)

    def _measure(self, name: str, pid: int) -> None:
        with suppress(OSError):
            if time.time() - Path(f"/proc/{pid}").stat().st_ctime < 2:
                return  # a process that was not replaced yet has the memory of this one
        found = self.peak.setdefault(name, {})
        running = [(pid, "process")]
        with suppress(OSError):
            running += [(child, "worker") for child in memory.children(pid)]
        for number, part in running:
            with suppress(OSError, StopIteration, ValueError):
                found[part] = max(found.get(part, 0), memory.peak(number) >> 20)

    def _last_words(self, name: str) -> str:
        lines = (self.home / f"{name}.log").read_bytes()[-2000:].decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "no log")[:300]

    def _settle(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        self.asked = [one for one in self.asked if one.consent]
        for one in self.asked:
            try:
                self._erased(one, max(1.0, deadline - time.monotonic()))
            except (AssertionError, NodeError, OSError) as error:
                self.broken.append(f"erasure of {one.consent[:8]} at {one.hospital}: {error}; {one.told}")
        for study in self.studies:
            try:
                self.net.agree(study, max(1.0, deadline - time.monotonic()))
                wait(lambda study=study: not self._missing(study), "the auditor holds all", 60.0)
            except AssertionError as error:
                self.broken.append(f"study {study.hex()[:8]}: {error}")

    def _missing(self, study: Digest) -> list[str]:
        """Ciphertexts of agreed rounds that the auditor has not fetched yet."""
        history = self.net.history("auditor")
        store = Store(self.net.homes["auditor"], bytes(32))
        try:
            found = []
            for one in history.path(study, history.studies[study].active_branch):
                if one.final is None or self._without_model(history, one):
                    continue
                notices = [n for n in store.notices(one.opened.round_id, "CommitNotice") if isinstance(n, CommitNotice)]
                for member in members_of(one.final.result.included):
                    roots = [b.cipher_root for n in notices if n.member == member for b in (n.update, n.set)]
                    found += [] if roots and all(store.has(root) for root in roots) else [f"{member}"]
            return found
        finally:
            store.close()

    def _stop(self) -> None:
        """End everything as its owner would: within its grace, with exit code 0."""
        for group in (self.net.names, ("chain",)):
            for name in group:
                self.net.send(name, signal.SIGTERM)
            for name in group:
                try:
                    code: int | None = self.net.running[name].wait(30)
                except subprocess.TimeoutExpired:
                    code = None
                if code != 0:
                    self.broken.append(f"{name} did not end by SIGTERM: exit code {code}")
                    continue
                del self.net.running[name]

    # --- the audit

    def audit(self) -> None:
        """Check what must hold whatever happened; what does not is in `broken`.

        Every statement, round and model again from every home (`koinon audit verify`); heads and models agree; no
        honest member ever contradicted itself; who is told to have been absent was hurt at that time or had signed
        nothing, and who was away all the time is not told to have been there; no round lost more than its windows;
        no home keeps a model or a key of what was erased; memory.
        """
        done = _koinon("audit", "verify", "--home", self.home, "--json")
        told = json.loads(done.stdout)["data"] if done.stdout else {}
        self.verified, self.complete = told.get("rounds_verified", 0), bool(told.get("complete"))
        if done.returncode != 0:
            self.broken.append(f"audit verify ended with {done.returncode}: {told.get('first_failure') or done.stderr}")
        history = self._history()
        plans = [one.plan for one in history.erasures.values() if one.plan is not None]
        gone = {one.opened.round_id for plan in plans for one in doomed_rounds(history, plan)}
        agreed = [one for number, one in history.rounds.items() if one.final is not None and number not in gone]
        finals = sum(not self._without_model(history, one) for one in agreed)
        self.verifiable = finals
        if self.verified < finals:
            skipped = [f"{one.get('home')} {one['name']}: {one['why']}" for one in told.get("checks", ()) if one["why"]]
            self.broken.append(f"{self.verified} of {finals} agreed rounds verified; {skipped[:3]}")
        for name in self.net.names:
            store = Store(self.net.homes[name], bytes(32))
            try:
                for first, second in store.contradictions():
                    self.broken.append(f"{name} holds a contradiction: {first!r:.200} and {second!r:.200}")
            finally:
                store.close()
        if history.equivocated():
            self.broken.append(f"the chain names contradictions: {history.equivocated()!r:.300}")
        for study in self.studies:
            if study in history.studies:
                self._participation(history, study)
        self._purged(history)
        self._costs(history)
        self._logs()
        for name, parts in self.peak.items():
            for part, mib in parts.items():
                if mib > (NODE_MIB if part == "process" else WORKER_MIB):
                    self.broken.append(f"{name}'s {part} needed {mib} MiB")

    def _purged(self, history: History) -> None:
        """No home keeps a model of a replaced line, or can open an update of it. Sets of other hospitals stay."""
        condemned = [
            (batch, {r.opened.round_id for r in doomed_rounds(history, one.plan)}, doomed_models(history, one.plan))
            for batch, one in history.erasures.items()
            if one.plan is not None and one.closed is not None
        ]
        query = "SELECT round_id FROM content_keys WHERE kind = ?"
        for name in self.net.names:
            store = Store(self.net.homes[name], bytes(32))
            try:
                opens = [one for (one,) in store.query(query, int(BlobKind.UPDATE))]
                for batch, rounds, made in condemned:
                    models = [root.hex()[:8] for root in made if store.holds_any(root)]
                    keys = [one for one in opens if one in rounds]
                    if models or keys:
                        what = f"models {models} and {len(keys)} keys of updates"
                        self.broken.append(f"{name} keeps of erasure {batch.hex()[:8]}: {what}")
            finally:
                store.close()

    @staticmethod
    def _without_model(history: History, one: RoundHistory) -> bool:
        """Whether an agreed round came to no model, and an erasure may have purged what it counted: no line goes back
        for that, and nobody can sum it again."""
        erased = bitmap_of(e.opened.controller for e in history.erasures.values() if e.opened.study == one.opened.study)
        return one.final is not None and one.final.result.outcome != MODEL and bool(one.final.result.included & erased)

    @staticmethod
    def _erasing(history: History, one: RoundHistory) -> bool:
        """Whether an erasure of its study was under way while a round ran: who purges, reads sets or lost a record that
        it had trained on may be late in it, or out of it, by rule."""
        first, last = one.opened.opened_at, one.ended_at or math.inf
        return any(
            erasure.opened.study == one.opened.study
            and erasure.times["requested"] - WARM_S <= last
            and first <= erasure.times.get("head_moved", math.inf)
            for erasure in history.erasures.values()
        )

    def _felt(self, name: str, first: float, last: float) -> list[Fault]:
        return [one for one in self.faults if one.victim in (name, "chain") and one.overlaps(first, last)]

    def _participation(self, history: History, study: Digest) -> None:
        """What the chain tells of who took part against what we did to whom."""
        for row in participation(history, study)["rounds"]:
            one = history.rounds[Digest.from_hex(row["round_id"])]
            opened, ended = one.opened.opened_at, one.ended_at or math.inf
            for part in row["members"]:
                name = f"member-{part['member'] + 1}"
                earliest = opened - 1  # stamps are whole seconds
                hurt = self._felt(name, earliest, ended + 1)
                others = [f for f in self.faults if f.overlaps(earliest, ended + 1)]
                where = f"round {row['height']} of {study.hex()[:8]}"
                erasing = self._erasing(history, one)
                if part["missed"] == "commit" and not (hurt or erasing):
                    self.broken.append(
                        f"{where}: {name} is told to have missed its commit and nothing had happened to it"
                    )
                if part["missed"] == "data" and not (hurt or others or erasing):
                    self.broken.append(f"{where}: {name} is told to be unavailable and nothing had happened")
                withdrawn = erasing and part["invalid"] == Code.CONSENT.name  # of a record in a set that was sealed
                if (part["invalid"] is not None and not withdrawn) or part["contradicted"]:
                    self.broken.append(f"{where}: {name} is honest and told to be {part['invalid'] or 'contradicted'}")
                away = [f for f in hurt if f.victim == name and f.kind in ("kill", "freeze", "offline")]
                if part["committed"] and any(f.began < earliest and f.ended > ended + 1 for f in away):
                    self.broken.append(f"{where}: {name} is told to have committed and was away all the time")

    def _signed(self, name: str, one: RoundHistory) -> bool:
        store = Store(self.net.homes[name], bytes(32))
        try:
            return store.own_notice(one.opened.round_id, "CommitNotice") is not None
        finally:
            store.close()

    def _costs(self, history: History) -> None:
        """Which windows each round lost, and to which faults; no more than the faulty few may cost."""
        quiet: list[float] = []
        for one in history.rounds.values():
            opened, ended = one.opened.opened_at, one.ended_at
            if ended is None:
                self.broken.append(f"round {one.opened.height} never ended")
                continue
            hurt = [f for f in self.faults if f.overlaps(opened, ended)]
            lost = _windows_lost(history, one)
            if not hurt:
                quiet.append(ended - opened)
            self.rounds_seen.append(
                {
                    "study": one.opened.study.hex()[:8],
                    "height": one.opened.height,
                    "opened_s": round(opened - self._wall, 1),
                    "seconds": ended - opened,
                    "state": "final" if one.final else "failed",
                    "attempt": one.final.attempt if one.final else None,
                    "included": one.final.result.included.bit_count() if one.final else 0,
                    "windows_lost": lost,
                    "faults": len(hurt),
                }
            )
            n = one.opened.roster.bit_count()
            faulty = {f.victim for f in hurt} - {"auditor"}
            left = sum(f"member-{m + 1}" not in faulty for m in members_of(one.opened.roster & ~one.opened.suspended))
            borne = "chain" not in faulty and len(faulty) <= slack(n, faults(n, 1)) and left > self.members // 2
            where = f"round {one.opened.height} of {one.opened.study.hex()[:8]}"
            late = any(told.startswith(where) for told in self.late)
            if (
                borne
                and not late
                and not self._erasing(history, one)
                and (one.failed is not None or "extension" in lost)
            ):
                self.over.append(f"{where} lost {lost or 'everything'} to {sorted(faulty) or 'nobody'}")
        typical = statistics.median(quiet or [one["seconds"] for one in self.rounds_seen] or [0])
        for fault in self.faults:
            for one in history.rounds.values():
                if one.ended_at is not None and fault.overlaps(one.opened.opened_at, one.ended_at):
                    fault.cost_s += max(0.0, one.ended_at - one.opened.opened_at - typical)
                    fault.windows += _windows_lost(history, one)
        self.quiet_s = typical

    def _logs(self) -> None:
        for name in (*self.net.names, "chain"):
            text = (self.home / f"{name}.log").read_text("utf-8", "replace")
            found = re.search(r"^(?:Traceback |koinon: unexpected ).*(?:\n[ \t]+.*)*(?:\n.*)?", text, re.MULTILINE)
            if found:
                self.broken.append(f"{name}'s log: {found[0][-2000:]}")

    def report(self) -> dict[str, Any]:
        """What was done, what it cost, what did not hold."""
        return {
            "schema": "koinon.chaos/1",
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "members": self.members,
            "windows_s": WINDOWS,
            "ok": not self.broken and not self.over,
            "broken": self.broken,
            "over": self.over,
            "late": self.late,
            "studies": len(self.studies),
            "rounds": self.rounds_seen,
            "rounds_final": sum(1 for one in self.rounds_seen if one["state"] == "final"),
            "rounds_failed": sum(1 for one in self.rounds_seen if one["state"] == "failed"),
            "rounds_verifiable": self.verifiable,
            "rounds_verified": self.verified,
            "audit_complete": self.complete,
            "quiet_round_s": self.quiet_s,
            "faults": [fault.to_json() for fault in self.faults],
            "erasures": [one.to_json() for one in self.asked],
            "peak_mib": self.peak,
        }


def _koinon(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _windows_lost(history: History, one: RoundHistory) -> list[str]:
    """The windows that a round had to wait out, by the chain alone."""
    opened = one.opened
    waited_for = opened.roster & ~opened.suspended
    answered = set(one.commits) | one.abstained
    lost = ["commit"] if any(member not in answered for member in members_of(waited_for)) else []
    attempt = one.final.attempt if one.final is not None else 0
    if attempt >= 1:
        lost += ["reveal", "have"] + ["extension"] * (attempt - 1)
    return lost


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    told = (
        f"seed {report['seed']}: {report['seconds']:g} s of faults, {report['members']} members, {report['studies']} "
        f"studies, {report['rounds_final']} rounds agreed, {report['rounds_failed']} failed, "
        f"{report['rounds_verified']} verified bit for bit; a quiet round takes {report['quiet_round_s']:g} s"
    )
    found = [
        told,
        "",
        f"{'at':>7}  {'kind':8} {'victim':10} {'for':>6} {'back':>6} {'cost':>6}  {'phase':22} windows lost",
    ]
    for one in report["faults"]:
        when = f"{one['at_s']:6.1f}s  {one['kind']:8} {one['victim']:10} {one['seconds']:5.1f}s"
        cost = f"{one['recovered_after_s']:5.1f}s {one['cost_s']:5.1f}s  {one['phase']:22}"
        after = f"  (after '{one['after']}')" if one["after"] else ""
        found.append(f"{when} {cost} {', '.join(one['windows_lost']) or '-'}{after}")
    for told in report["erasures"]:
        found.append(f"{told['at_s']:6.1f}s  erasure at {told['hospital']}: {told['state']}, {told['seconds']} s")
    peaks = (f"{name} {'/'.join(str(mib) for mib in parts.values())}" for name, parts in report["peak_mib"].items())
    found += ["", *(f"late on this machine, hurt by nothing: {one}" for one in report["late"])]
    found += [f"peak MiB (process/worker): {', '.join(peaks)}", ""]
    found += [f"MORE THAN PROMISED: {one}" for one in report["over"]]
    found += [f"BROKEN: {one}" for one in report["broken"]]
    found += ["ok: everything that must hold holds"] if report["ok"] else []
    return found


def main() -> int:
    """`scripts/chaos`."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description="Hurt a network at random, then audit it.")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="default: a new one")
    parser.add_argument("--minutes", type=float, default=3.0, help="of faults; healing and the audit come on top")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4, help="of each study; studies run back to back")
    parser.add_argument("--longest", type=float, default=60.0, metavar="SECONDS", help="of one fault")
    parser.add_argument(
        "--patients", type=float, default=60.0, metavar="SECONDS", help="between two requests for erasure; 0: none"
    )
    parser.add_argument("--keep", type=Path, metavar="HOME", help="keep the network home here (default: delete it)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    aside = Path(tempfile.mkdtemp(prefix="koinon-chaos-"))
    home = given.keep or aside / "net"
    try:
        run = Chaos(
            home,
            given.seed,
            given.minutes * 60,
            members=given.members,
            rounds=given.rounds,
            longest_s=given.longest,
            patient_s=given.patients,
            say=lambda line: sys.stderr.write(line + "\n"),
        )
        report = run.run()
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sys.stdout.write((json.dumps(report) if given.json else "\n".join(lines(report))) + "\n")
    return 0 if report["ok"] else 3


__all__ = ["Chaos", "Fault", "lines", "scans", "schedule"]


if __name__ == "__main__":
    sys.exit(main())
