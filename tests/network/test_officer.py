"""A data-protection officer's afternoon at a running network: one patient's withdrawal and deletion by commands alone.

Every line is a command that an officer types, in a process of its own, on data files made here; between them, what the
disk, the process list and an isolated machine say.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.home import node_homes
from node.runner import read_history
from node.store import Store
from tests.network.conftest import free_ports, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

CANARY = "ZZCANARY-4711"
MEMBERS, ROUNDS, PATIENTS, SIDE = 4, 3, 10, 14
FORM = "general"
SPEC = f"""
schema = "koinon.study/1"
name = "thorax"
task = "npz-classification"
rounds = {ROUNDS}
[data]
input_shape = [1, {SIDE}, {SIDE}]
classes = 2
[model]
name = "small-cnn"
[training]
local_epochs = 1
batch_size = 8
learning_rate = 0.05
[windows]
scribe_s = 60
grace_s = 5
reveal_s = 20
have_s = 20
vote_s = 20
purge_s = 20
[policy]
min_consents = 2
erasure_window_s = 0
sets_ahead = true
[[forms]]
name = "{FORM}"
text_sha256 = "{"ab" * 32}"
custody = "hospital-attested"
valid_to = 1924992000
"""


@dataclass
class Officer:
    """The network's folder and what an officer can do from a shell."""

    net: Path
    consent: str = ""
    card: Path = Path()
    withdrawn_round: int = 0

    @property
    def home(self) -> Path:
        return self.net / "member-1"

    @property
    def source(self) -> Path:
        return self.net.parent / "hospital-1.npz"

    @property
    def backup(self) -> Path:
        return self.net.parent / "vault-before-the-erasure"

    def koinon(self, *arguments: object, expect: int = 0, stdin: str = "", alone: bool = False) -> Any:
        """A command; its data or its error. `alone`: where there is no network at all."""
        isolated = ["unshare", "-rn"] if alone and can_isolate() else []
        done = subprocess.run(
            [*isolated, sys.executable, "-m", "node.cli.main", *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            input=stdin,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == expect, done.stderr
        assert CANARY not in done.stderr
        told = json.loads(done.stdout)
        return told["data"] if "data" in told else told["error"]

    def pid(self, name: str) -> int:
        status = self.koinon("network", "status", "--home", self.net)
        return int(next(one["pid"] for one in status["members"] if one["name"] == name))

    def erase_through_a_kill(self) -> None:
        """Ask for the erasure and wait for it; the node dies as soon as it has told of it, and is started again."""
        command = ("erase", "request", "--home", self.home, "--patient", "-", "--wait", "--json")
        with subprocess.Popen(
            [sys.executable, "-m", "node.cli.main", *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as asking:
            assert asking.stdin is not None
            assert asking.stderr is not None
            asking.stdin.write(CANARY)
            asking.stdin.close()
            told = asking.stderr.readline()
            assert told.startswith("erasure "), told
            os.kill(self.pid("member-1"), signal.SIGKILL)
            errors = asking.stderr.read()
            assert asking.wait(300) == 0, errors
            assert CANARY not in told + errors


def can_isolate() -> bool:
    """Whether this user may take a process off every network (`unshare -rn`)."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


def spellings(text: str) -> list[bytes]:
    raw = text.encode()
    return [raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), hashlib.sha256(raw).hexdigest().encode()]


def found_below(folder: Path, needles: list[bytes], skip: str = "") -> list[Path]:
    files = [one for one in folder.rglob("*") if one.is_file() and skip not in one.relative_to(folder).parts]
    return [one for one in files if any(needle in one.read_bytes() for needle in needles)]


def hospital_file(path: Path, member: int) -> list[str]:
    """A MedMNIST-layout file of ten patients with three pictures each; the names of its patients."""
    random = np.random.default_rng(70 + member)
    names = [f"MRN-{member}-{i:03}" for i in range(PATIENTS)]
    if member == 1:
        names[4] = CANARY
    patients = np.repeat(np.array(names), 3)
    labels = random.integers(0, 2, len(patients))
    images = random.integers(0, 90, (len(patients), SIDE, SIDE))
    images[np.arange(len(patients)), 3 + 6 * labels, 7] = 255
    arrays: dict[str, Any] = {}
    for split, part in (("train", slice(0, 24)), ("val", slice(24, 27)), ("test", slice(27, 30))):
        arrays[f"{split}_images"] = images[part].astype(np.uint8)
        arrays[f"{split}_labels"] = labels[part].reshape(-1, 1)
        arrays[f"{split}_patient_ids"] = patients[part]
    np.savez(path, **arrays)
    return names


@pytest.fixture(scope="module")
def officer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Officer]:
    """A network of four hospitals on files and a register of signed forms, up, its study created."""
    folder = tmp_path_factory.mktemp("officer")
    files = [folder / f"hospital-{i}.npz" for i in range(1, MEMBERS + 1)]
    names = [name for i, file in enumerate(files, 1) for name in hospital_file(file, i)]
    rows = [f"{name},{FORM},2026-01-15,patient,dr" for name in names]
    (folder / "forms.csv").write_text("\n".join(["patient_id,form,signed_on,signer,verified_by", *rows]))
    (folder / "study.toml").write_text(SPEC)
    it = Officer(folder / "n")
    data = [part for file in files for part in ("--data", file)]
    try:
        it.koinon(
            *("network", "init", "--home", it.net, "--members", MEMBERS, *data, "--register", folder / "forms.csv"),
            *("--base-port", free_ports(MEMBERS + 2)),
        )
        it.koinon("network", "up", "--home", it.net, "--detach")
        it.koinon("study", "create", "--home", it.home, "--spec", folder / "study.toml")
        wait(lambda: len(active(it)) == PATIENTS, "the consents of the register are on the chain")
        (one,) = it.koinon("consent", "show", "--home", it.home, "--patient", "-", stdin=CANARY)
        it.consent = one["consent_id"]
        (shown,) = it.koinon(
            "consent", "show", "--home", it.home, "--consent", it.consent, "--cards", folder / "papers"
        )
        it.card = Path(shown["card"])
        yield it
    finally:
        if (it.net / "network.json").exists():
            it.koinon("network", "down", "--home", it.net)


def active(it: Officer) -> list[str]:
    found = it.koinon("consent", "list", "--home", it.home)
    return [one["consent_id"] for one in found if one["state"] == "active"]


def waits_for_first(it: Officer) -> bool:
    """Whether the open round lacks the commit of member 0, which stands still: it cannot be sealed before its window.

    Or no round is open and none will be.
    """
    home = it.net / "member-3"
    history = read_history(home)
    (study,) = history.studies
    one = history.open_round(study)
    if one is None:
        return history.finished(study)
    store = Store(home, bytes(32))
    try:
        notices = store.notices(one.opened.round_id, "CommitNotice")
        return 0 not in one.commits and all(getattr(notice, "member", None) != 0 for notice in notices)
    finally:
        store.close()


def rounds_done(it: Officer) -> int:
    (study,) = it.koinon("study", "list", "--home", it.home)
    return int(study["finals"])


def test_01_no_file_outside_the_vaults_and_no_command_line_names_the_patient(officer: Officer) -> None:
    for number in range(1, MEMBERS + 1):
        assert not found_below(officer.net / f"member-{number}", spellings(CANARY), skip="vault")
    assert not found_below(officer.net, spellings(CANARY)[:1], skip="vault")
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert CANARY.encode() not in one.read_bytes(), one
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def test_02_a_card_ends_the_consent_while_its_hospital_stands_still(officer: Officer) -> None:
    wait(lambda: rounds_done(officer) > 0, "a round has used the record", 120)
    frozen = officer.pid("member-1")
    os.kill(frozen, signal.SIGSTOP)
    try:
        wait(lambda: waits_for_first(officer), "a round waits for member 0, or none is left", 120)
        found = officer.koinon("consent", "withdraw", "--home", officer.net / "member-3", "--card", officer.card)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert found["consents"] == [officer.consent]
    assert found["receipt"]
    officer.withdrawn_round = min((one["height"] for one in found["in_flight"]), default=ROUNDS + 1)


def test_03_the_record_is_out_of_the_round_that_was_running_and_the_proof_names_no_neighbour(
    officer: Officer, tmp_path: Path
) -> None:
    wait(
        lambda: all(one["state"] == "finished" for one in officer.koinon("study", "list", "--home", officer.home)),
        "the study has all its rounds",
        240,
    )
    proof = tmp_path / "p.json"
    at = min(officer.withdrawn_round, ROUNDS)
    officer.koinon(
        "audit", "prove", "--home", officer.home, "--consent", officer.consent, "--round", at, "--out", proof
    )
    checked = officer.koinon("audit", "check", proof, alone=True)
    assert checked["used"] is (officer.withdrawn_round > ROUNDS)
    others = {one["consent_id"] for one in officer.koinon("consent", "list", "--home", officer.home)}
    text = proof.read_text()
    assert [one for one in others if one in text] in ([officer.consent], [])


def repeat_training(it: Officer, folder: Path) -> None:
    """The auditor repeats the hospital's training beside its running node, and the officer records its word."""
    erasure = it.koinon("erase", "status", "--home", it.home, "--consent", it.consent)
    auditor, report, word = it.net / "auditor", folder / "report.json", folder / "word.json"
    given = ("--erasure", erasure["erasure"])
    repeat = ("erase", "replay-local", *given, "--ledger", auditor, "--out", report)
    assert erasure["plan"]["replays"]
    it.koinon(*repeat, "--home", it.net / "member-2", expect=5)
    found = it.koinon(*repeat, "--home", it.home)["report"]
    assert found["why_not"] == ""
    assert all(one["differing"] == 0 for one in found["rounds"])
    attest = ("erase", "attest", *given, "--level", "L3", "--report", report, "--out", word)
    it.koinon(*attest, "--home", it.home, expect=5)
    it.koinon(*attest, "--home", auditor)
    it.koinon("erase", "record", "--home", it.home, "--attestation", word)


def attack_the_new_model(it: Officer, records: Path) -> None:
    """The hospital's own source still has the records; models and controls come from its home."""
    with np.load(it.source) as source:
        own = source["train_patient_ids"] == CANARY
        arrays = {f"test_{name}": source[f"train_{name}"][own] for name in ("images", "labels", "patient_ids")}
    np.savez(records, **arrays)
    erasure = it.koinon("erase", "status", "--home", it.home, "--consent", it.consent)["erasure"]
    badge = it.koinon("erase", "audit", "--home", it.home, "--erasure", erasure[:12], "--records", records)
    assert (badge["level"], badge["kind"]) == ("L4", "patient")
    it.koinon("erase", "audit", "--home", it.net / "member-2", "--erasure", erasure, "--records", records, expect=5)


def test_04_the_deletion_ends_in_a_certificate_that_stands_alone_and_no_byte_of_it_can_change(
    officer: Officer, tmp_path: Path
) -> None:
    shutil.copytree(officer.home / "vault", officer.backup)
    officer.erase_through_a_kill()
    repeat_training(officer, tmp_path)
    attack_the_new_model(officer, tmp_path / "erased.npz")
    paper = tmp_path / "c.json"
    officer.koinon("erase", "receipt", "--home", officer.home, "--consent", officer.consent, "--out", paper)
    found = officer.koinon("erase", "verify", paper, "--network", officer.net / "network.json", alone=True)
    assert "L3" in [one["level"] for one in found["claims"]]
    whole = paper.read_bytes()
    for at in np.random.default_rng(4).integers(0, len(whole), 6):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        paper.write_bytes(flipped)
        officer.koinon("erase", "verify", paper, "--network", officer.net / "network.json", expect=3)
    assert CANARY.encode() not in whole


def test_05_a_restored_backup_of_the_vault_forgets_again(officer: Officer) -> None:
    officer.koinon("network", "down", "--home", officer.net)
    shutil.rmtree(officer.home / "vault")
    shutil.copytree(officer.backup, officer.home / "vault")
    officer.koinon("network", "up", "--home", officer.net, "--detach")
    told = wait(
        lambda: (found := officer.koinon("node", "status", "--home", officer.home))["ready"] and found, "it is ready"
    )
    assert told["reapplied"] >= 1
    officer.koinon("consent", "show", "--home", officer.home, "--patient", "-", stdin=CANARY, expect=4)


def test_06_nobody_enrols_the_patient_again_and_a_purged_round_is_not_a_broken_one(officer: Officer) -> None:
    refused = officer.koinon(
        *("consent", "grant", "--home", officer.home, "--all", "--register", officer.net.parent / "forms.csv"), expect=5
    )
    assert CANARY not in json.dumps(refused)
    report = officer.koinon("audit", "verify", "--home", officer.net / "auditor")
    assert report["ok"]
    assert report["rounds_purged"] > 0


def test_07_an_operator_sees_no_consents_and_the_officer_still_answers_who_received_what(officer: Officer) -> None:
    officer.koinon("consent", "list", "--home", officer.home, "--role", "operator", expect=5)
    rows = officer.koinon(
        "audit", "disclosures", "--home", officer.home, "--role", "dpo", "--patient", "-", stdin=CANARY
    )
    assert rows
    assert len(node_homes(officer.net)) == MEMBERS + 1
