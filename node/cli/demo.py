"""`koinon demo`: the whole loop on this machine, through the same commands and processes that everybody uses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli import common, spec
from node.cli.common import HOME
from node.cli.output import answer, json_flag, progress, table
from node.errors import ExitCode, InputError, LocalFault, TimedOut, VerificationFailed

if TYPE_CHECKING:
    from crypto.digest import Digest
    from node.history import History

STEP_TIMEOUT_S: Final = 180.0
WATCH_S: Final = 0.1

# Windows for one fast machine; the default specification suits hospitals.
WINDOWS: Final = {"scribe_s": 40, "grace_s": 3, "reveal_s": 6, "have_s": 8, "vote_s": 8, "purge_s": 10}
TRAINING: Final = {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.05}

Watching = Callable[[Callable[["History", "Digest"], bool]], "History"]
"""Follow the study, telling its rounds, until a condition holds; the history then."""

NOT_PROVEN: Final = (
    "that a member trained honestly, or only on the set it declared, where nobody repeated its training",
    "that a patient signed: the consents of this demonstration were invented by the script",
    "that the model has forgotten anybody: nobody can prove that",
    "that members cannot infer something about patients from updates",
    "anything about copies outside koinon: source files, backups, exported models",
    "anything about hospitals apart: all keys of this demonstration lie on one machine",
)


@click.command()
@click.option("--task", default="nuclei", show_default=True, help="nuclei, mri-quality.")
@click.option("--members", default=4, show_default=True, help="Number of hospitals.")
@click.option("--rounds", default=4, show_default=True, help="Final rounds, at least 2.")
@click.option("--home", type=HOME, help="Where to keep everything (default: a new temporary folder).")
@json_flag
def demo(task: str, members: int, rounds: int, home: Path | None) -> None:
    """Show the whole loop in a few minutes: training, withdrawal, proof, erasure, a crash, an audit.

    Example: koinon demo --home /tmp/try

    Chain, auditor and every member are processes of their own on this machine; the data are real, the hospitals partly
    simulated, the consents invented. The home stays for inspection. It says nothing about your data or your model.
    """
    from fl_engine.data.tasks import get_task

    found = get_task(task)
    if rounds < 2:
        raise InputError(f"--rounds {rounds}: the demonstration needs at least 2")
    if home is None:
        home = Path(tempfile.mkdtemp(prefix="koinon-demo-")) / "network"
    show = Demonstration(home.resolve(), task, members, rounds)
    progress(f"data: {found.description}; licence {found.licence}")
    for sentence in found.simulated:
        progress(f"      {sentence}")
    if task == "nuclei":
        progress("      It is one field of view of one microscope: a demonstration, not evidence about medicine.")
    progress("      The consents are invented by this script. Nobody agreed to this study.")
    try:
        show.run(found.model)
    finally:
        show.stop()
    progress(f"{time.monotonic() - show.begun:.0f} s in all")
    data = {
        "home": str(show.home),
        "task": task,
        "data_source": found.description,
        "licence": found.licence,
        "simulated": list(found.simulated),
        "study": show.study,
        "seconds": round(time.monotonic() - show.begun, 1),
        "shown": [{"what": what, "evidence": why} for what, why in show.shown],
        "not_proven": list(NOT_PROVEN),
        **show.results,
    }
    answer(data, show.closing())


@dataclass(slots=True)
class Demonstration:
    """One run: where it lives and what it has shown so far."""

    home: Path
    task: str
    members: int
    rounds: int
    begun: float = field(default_factory=time.monotonic)
    study: str = ""
    shown: list[tuple[str, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    def run(self, model: str) -> None:
        """Every step in order."""
        self._network()
        self._study(model)
        with self._watching() as watch:
            card, consent = self._card(1)
            self._join_by_hand()
            height = self._kill(watch)
            self._withdraw(card, consent, height)
            self._back()
            watch(lambda h, s: h.finished(s))
        self._prove(card, height)
        self._evaluate()
        self._erase()
        self._audit()
        self._flip()

    def stop(self) -> None:
        """Stop every process; the home stays."""
        if (self.home / "network.json").exists():
            self._koinon("network", "down", "--home", self.home)

    def closing(self) -> list[str]:
        """The table that the demonstration ends with."""
        lines = ["", *table(("SHOWN", "how"), self.shown), "", "NOT PROVEN"]
        lines += [f"  {one}" for one in NOT_PROVEN]
        lines += ["", f"everything is kept in {self.home}; look into it, for example:"]
        lines += [f"  koinon audit trail --home {self.home}", f"  koinon model lineage --home {self.home}"]
        return lines

    # ----------------------------------------------------------------------------------------------------------------
    # Doing things the way everybody does them

    def _say(self, text: str) -> None:
        progress(f"[{time.monotonic() - self.begun:5.1f} s] {text}")

    def _koinon(self, *arguments: object, expect: int = 0) -> Any:
        """Run a command of this command line in a process of its own; its data.

        Raises:
            VerificationFailed: it ended with another exit code than expected.
        """
        command = [sys.executable, "-m", "node.cli.main", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False)
        if done.returncode != expect:
            last = done.stderr.strip().splitlines()[-1:] or ["no words"]
            raise VerificationFailed(
                f"`koinon {' '.join(map(str, arguments[:2]))}` ended with exit code {done.returncode}, expected "
                f"{expect}: {last[0]}"
            )
        try:
            return json.loads(done.stdout)["data"]
        except (ValueError, KeyError) as error:
            raise VerificationFailed(f"`koinon {' '.join(map(str, arguments[:2]))}` answered no data") from error

    def _member(self, number: int) -> Path:
        return self.home / f"member-{(number - 1) % self.members + 1}"

    @contextmanager
    def _watching(self) -> Iterator[Watching]:
        """Follow the study as member-1 keeps it, telling rounds as they go, until a condition holds."""
        from node.cli.study import Watch, wait_for

        home = self._member(1)
        kept = Watch(home, self._say)

        def watch(until: Callable[[History, Digest], bool]) -> History:
            return wait_for(home, self.study, STEP_TIMEOUT_S, until, poll_s=WATCH_S, watch=kept)

        yield watch

    # ----------------------------------------------------------------------------------------------------------------
    # The steps

    def _network(self) -> None:
        self._say(f"making a network of {self.members} hospitals, an auditor and a chain in {self.home}")
        port = free_ports(self.members + 2)
        made = self._koinon(
            *("network", "init", "--home", self.home, "--members", self.members, "--task", self.task),
            *("--base-port", port, "--name", "demonstration"),
        )
        records = ", ".join(str(one["records"]) for one in made["members"])
        self._by_hand(self._member(self.members))
        self._say(f"starting {self.members + 2} processes; records at the hospitals: {records}")
        up = self._koinon("network", "up", "--home", self.home, "--detach")
        pids = [up["chain"]["pid"], up["auditor"]["pid"], *(one["pid"] for one in up["members"])]
        self._say(f"up: processes {', '.join(map(str, pids))}")
        self.shown.append(("separate processes", f"chain, auditor and {self.members} members, {len(set(pids))} ids"))

    def _by_hand(self, home: Path) -> None:
        """Have a member join studies only when told to."""
        path = home / "config.toml"
        text = path.read_text("utf-8")
        path.write_text(text.replace("auto_join = true", "auto_join = false"), "utf-8")

    def _study(self, model: str) -> None:
        import tomli_w

        told = common.order(self._member(1), "status", {})
        sections = {
            "schema": "koinon.study/1",
            "name": "demonstration",
            "task": self.task,
            "rounds": self.rounds,
            "data": {"input_shape": list(told["data_shape"]), "classes": told["classes"]},
            "model": {"name": model},
            "training": dict(TRAINING),
            "windows": dict(WINDOWS),
            "policy": {"min_consents": 5, "erasure_window_s": 0, "sets_ahead": True},
            "forms": [spec.default_form(True, datetime.now(UTC).date())],
        }
        path = self.home / "study.toml"
        path.write_text(tomli_w.dumps(sections), "utf-8")
        self.study = self._koinon("study", "create", "--home", self._member(1), "--spec", path)["study"]
        self._say(f"study {self.study[:12]}: {self.rounds} rounds of {model}; hospitals enrol invented consents")

    def _card(self, number: int) -> tuple[Path, str]:
        """A withdrawal card of some patient of a member, as the patient got it."""
        home = self._member(number)
        chosen = self._active(home)
        made = self._koinon(
            "consent", "show", "--home", home, "--consent", chosen, "--cards", self.home / "patients-papers"
        )
        return Path(made[0]["card"]), chosen

    def _active(self, home: Path) -> str:
        """An active consent of a member; waits for the first ones to be on the chain."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while True:
            consents = self._koinon("consent", "list", "--home", home)
            usable = [one["consent_id"] for one in consents if one["state"] == "active"]
            if usable:
                return str(usable[len(usable) // 2])
            if time.monotonic() > deadline:
                raise TimedOut(f"{home.name} has no active consent after {STEP_TIMEOUT_S:g} s")
            time.sleep(0.5)

    def _join_by_hand(self) -> None:
        """The last member enrols and joins by command; the study was waiting for it, and round 1 opens."""
        home = self._member(self.members)
        granted = self._koinon("consent", "grant", "--home", home, "--all")["granted"]
        self._koinon("study", "join", "--home", home)
        self._say(f"{home.name} enrols {granted} invented consents and joins by hand: round 1 opens")

    def _kill(self, watch: Watching) -> int:
        """Kill the last member while a round after the first is being trained; the round's number."""
        from node import supervisor

        history = watch(_training_after_first)
        running = history.open_round(common.pick_study(history, self.study))
        victim = self._member(self.members)
        pid = supervisor.lock_holder(victim)
        if running is None or pid is None:
            raise VerificationFailed(f"no round was running when {victim.name} was to be killed, expected one")
        os.kill(pid, signal.SIGKILL)
        height = running.opened.height
        self._say(f"killed {victim.name} (process {pid}) with -9 in the middle of round {height}")
        self.results["killed"] = {"member": victim.name, "pid": pid, "round": height}
        return height

    def _withdraw(self, card: Path, consent: str, height: int) -> None:
        """Hand a card in at another hospital while the round runs."""
        other = self._member(3 if self.members > 3 else 2)
        if self.members == 2:
            other = self._member(1)  # the only one alive: the other is just coming back
        found = self._koinon("consent", "withdraw", "--home", other, "--card", card)
        rounds = [one["height"] for one in found["in_flight"]]
        if height not in rounds:
            raise VerificationFailed(
                f"rounds {rounds} were running at the withdrawal, expected round {height} among them"
            )
        self._say(
            f"a patient of member-1 hands the withdrawal card in at {other.name} while round {height} runs (consent "
            f"{consent[:12]}); the receipt is signed"
        )
        self.results["withdrawn"] = {"consent": consent, "at": other.name, "in_flight": found["in_flight"]}

    def _back(self) -> None:
        """Wait until the killed member runs again, started by the supervisor."""
        killed = self.results["killed"]
        name = killed["member"]
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while True:
            status = self._koinon("network", "status", "--home", self.home)
            row = next(one for one in status["members"] if one["name"] == name)
            if row["state"] == "running" and row["pid"] != killed["pid"]:
                break
            if time.monotonic() > deadline:
                raise TimedOut(f"{name} did not come back: it is {row['state']}")
            time.sleep(0.5)
        self._say(f"{name} is back as process {row['pid']}")
        killed["back_as"] = row["pid"]

    def _prove(self, card: Path, height: int) -> None:
        """Prove, for whoever shows the card, that the record was in no included set since the running round."""
        proof = self.home / "patients-papers" / "proof.json"
        self._koinon("audit", "prove", "--home", self._member(1), "--card", card, "--from", height, "--out", proof)
        checked = self._koinon("audit", "check", proof, "--network", self.home / "network.json")
        proven = [one["height"] for one in checked["rounds"]]
        if checked["used"] or not checked["complete"] or not proven:
            raise VerificationFailed(
                f"the proof says used = {checked['used']}, complete = {checked['complete']} for rounds {proven}, "
                f"expected an unused record in every agreed round from {height}"
            )
        text = proof.read_text("utf-8")
        others = [one["consent_id"] for one in self._koinon("consent", "list", "--home", self._member(1))]
        leaked = [one for one in others if one in text and one != self.results["withdrawn"]["consent"]]
        if leaked:
            raise VerificationFailed(f"the proof contains {len(leaked)} other consent ids, expected none")
        shown = ", ".join(map(str, proven))
        one = self._koinon("audit", "round", "--home", self.home, "--round", height)
        if one["result"] is None or one["result"]["outcome"] != "model":
            how = f"round {height} ended without a model"
        elif 0 in one["result"]["included"]:
            how = f"member-1 trained round {height} without it"
        else:
            how = f"member-1 withheld what it had trained in round {height}"
        self._say(f"{how}; the other hospitals went on")
        self._say(f"proof made and checked offline: the record is in no included set of rounds {shown}")
        self.results["proof"] = {"file": str(proof), "checked": checked}
        self.shown.append(("a withdrawal stops a record in flight", f"{how}; proof for rounds {shown}"))
        told = self._koinon("audit", "participation", "--home", self.home)
        killed = self.results["killed"]
        row = next(one for one in told["totals"] if one["name"] == killed["member"])
        missed = [f"round {one['height']} ({one['missed']})" for one in row["missed"]]
        killed["missed"] = row["missed"]
        self._say(f"{killed['member']}, killed in round {height}, missed {', '.join(missed) or 'nothing'}")
        self.shown.append(
            (
                "a member killed with -9 comes back",
                f"process {killed['pid']}, then {killed['back_as']}; missed {', '.join(missed) or 'nothing'}",
            )
        )

    def _evaluate(self) -> None:
        found = self._koinon("model", "evaluate", "--home", self._member(1), "--study", self.study)
        self.results["accuracy"] = found["accuracy"]
        self.results["model_root"] = found["model_root"]
        self._say(f"accuracy at member-1 after round {found['round']}: {found['accuracy']:.3f} on {found['n']} records")
        agreed = f"{self.rounds} rounds, each voted by a quorum; model {found['model_root'][:12]}"
        self.shown.insert(1, ("training without a server", agreed))

    def _erase(self) -> None:
        home = self._member(2)
        chosen = self._active(home)
        self._say(f"a patient of {home.name} asks for erasure (consent {chosen[:12]})")
        self._stream("erase", "request", "--home", home, "--consent", chosen, "--wait", "--timeout", STEP_TIMEOUT_S)
        erasure = self._koinon("erase", "status", "--home", home, "--consent", chosen)["erasure"]
        self._repeat(home, erasure)
        paper = self.home / "patients-papers" / "certificate.json"
        self._koinon("erase", "receipt", "--home", home, "--consent", chosen, "--out", paper)
        checked = self._koinon("erase", "verify", paper, "--network", self.home / "network.json")
        self._say("the certificate is delivered, and checked offline")
        self.results["erasure"] = {"consent": chosen, "certificate": str(paper), "checked": checked}
        self.shown.append(("an erasure to its certificate", "replayed without the record; certificate checked offline"))

    def _repeat(self, home: Path, erasure: str) -> None:
        """The auditor repeats the replay's training at the hospital, believing its own copy of the chain."""
        auditor, report, word = (self.home / name for name in ("auditor", "local-replay.json", "attestation.json"))
        given = ("--erasure", erasure)
        found = self._koinon("erase", "replay-local", "--home", home, *given, "--ledger", auditor, "--out", report)
        self._koinon(
            *("erase", "attest", "--home", auditor, *given, "--level", "L3", "--report", report, "--out", word)
        )
        self._koinon("erase", "record", "--home", home, "--attestation", word)
        count = len(found["report"]["rounds"])
        self._say(f"the auditor repeated {home.name}'s training of {count} replayed rounds: the same integers")
        self.shown.append(("the replay's training repeated", f"{count} rounds at {home.name}, bit for bit (level L3)"))

    def _stream(self, *arguments: object) -> None:
        """A command whose progress is shown as it comes."""
        command = [sys.executable, "-m", "node.cli.main", *map(str, arguments), "--json"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            last = "no words"
            for line in process.stderr:
                last = line.strip()
                self._say(last)
        if process.returncode:
            name = " ".join(map(str, arguments[:2]))
            raise VerificationFailed(f"`koinon {name}` ended with exit code {process.returncode}: {last}")

    def _audit(self) -> None:
        self._say("audit: executing everything again from what every home holds")
        report = self._koinon("audit", "verify", "--home", self.home)
        counts = f"{report['rounds_verified']} rounds verified, {report['rounds_purged']} purged"
        self._say(f"the audit holds: {counts}")
        self.results["audit"] = {key: report[key] for key in ("ok", "complete", "rounds_verified", "rounds_purged")}
        self.shown.append(("the audit holds, purged rounds included", counts))

    def _flip(self) -> None:
        """Change one byte in a copy of the auditor's home: the original stays whole."""
        with tempfile.TemporaryDirectory(prefix="koinon-demo-copy-") as folder:
            copy = Path(folder) / "auditor"
            skip = shutil.ignore_patterns("lock", "control.json")
            shutil.copytree(self.home / "auditor", copy, ignore=skip)
            blobs = [one for one in (copy / "blobs").rglob("*") if one.is_file() and one.stat().st_size > 1000]
            blob = max(blobs, key=lambda one: (one.stat().st_mtime_ns, one.name))
            data = bytearray(blob.read_bytes())
            data[len(data) // 2] ^= 1
            blob.chmod(0o600)
            blob.write_bytes(data)
            report = self._koinon("audit", "verify", "--home", copy, expect=int(ExitCode.VERIFICATION_FAILED))
        failure = report["first_failure"]
        self._say(f"one byte of {blob.name[:12]} flipped in a copy: the audit names {failure['where']}")
        self.results["flipped"] = failure
        self.shown.append(("one flipped byte is found", f"{failure['what']}, {failure['where']}"))


def _training_after_first(history: History, study: Digest) -> bool:
    """Whether a round after the first is open and the newest of its records is its opening: nobody has committed."""
    one = history.open_round(study)
    if history.finished(study):
        raise VerificationFailed(
            "the study was over before a member could be killed in a round, expected a running one"
        )
    return one is not None and one.opened.height > 1 and not one.commits


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that are free on this machine now."""
    from node.founding import FIRST_PORT

    for base in range(FIRST_PORT, 32_000, 64):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise LocalFault(f"no {count} free ports in a row between {FIRST_PORT} and 32000")
