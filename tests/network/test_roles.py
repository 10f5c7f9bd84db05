"""Roles and FHIR through real processes: a running node, its files, its log and the process list."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from node import control, roles
from node.errors import Refused
from node.home import read_json
from node.store import Store
from tests.network.conftest import Processes, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

PATIENT = "patient-0-3"  # of member-1; the data name it, nothing else may


def koinon(*arguments: object, stdin: str = "", expect: int = 0) -> Any:
    """A command in a process of its own; its data, or its error."""
    done = subprocess.run(
        [sys.executable, "-m", "node.cli.main", *map(str, arguments), "--json"],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == expect, done.stderr
    assert PATIENT not in done.stderr
    told = json.loads(done.stdout)
    return told["data"] if expect == 0 else told["error"]


@pytest.fixture(scope="module")
def home(net: Processes) -> Path:
    """Member-1, whose consents are enrolled."""
    study = net.create("roles", rounds=1, scribe_s=30)
    net.wait_round(study, 1)
    return net.homes["member-1"]


def test_an_order_in_a_role_that_may_not_give_it_ends_with_5(home: Path) -> None:
    assert len(koinon("consent", "list", "--home", home)) == 8
    assert len(koinon("consent", "list", "--home", home, "--role", "dpo")) == 8
    for role in ("operator", "researcher", "clinician", "auditor"):
        error = koinon("consent", "list", "--home", home, "--role", role, expect=5)
        assert f"not for the {role}" in error["message"]
    koinon("model", "show", "--home", home, "--role", "operator", expect=5)
    koinon("study", "join", "--home", home, "--role", "operator", expect=5)
    koinon("audit", "disclosures", "--home", home, "--consent", "ab" * 32, "--role", "operator", expect=5)


def test_who_is_behind_a_consent_takes_the_dpos_own_password(home: Path, tmp_path: Path) -> None:
    password = home / "roles" / "dpo.password"
    aside = tmp_path / "dpo.password"
    shutil.move(password, aside)
    try:
        koinon("consent", "show", "--home", home, "--patient", "-", stdin=PATIENT, expect=8)
        as_operator = ("--role", "operator", "--role-password-file", home / "roles" / "operator.password")
        koinon("consent", "show", "--home", home, "--patient", "-", *as_operator, stdin=PATIENT, expect=5)
        forged = ("--role", "dpo", "--role-password-file", home / "roles" / "operator.password")
        koinon("consent", "show", "--home", home, "--patient", "-", *forged, stdin=PATIENT, expect=8)
        moved = ("--role", "dpo", "--role-password-file", aside)
        (found,) = koinon("consent", "show", "--home", home, "--patient", "-", *moved, stdin=PATIENT)
        assert found["state"] == "active"
    finally:
        shutil.move(aside, password)


def test_a_token_of_the_control_file_alone_gives_no_order_and_a_copied_signature_no_other(home: Path) -> None:
    path = home / "control.json"
    with pytest.raises(Refused, match="needs their signature"):
        control.ask(path, "consent.list", {})
    envelope = roles.Signer(home, "dpo", roles.load(home, "dpo")).sign(
        "consent.list", {}, str(read_json(path)["token"])
    )
    with pytest.raises(Refused, match="not signed for this"):
        control.ask(path, "consent.cards", {"patient": PATIENT}, 60.0, lambda token: envelope)
    assert control.ask(path, "consent.list", {}, 60.0, lambda token: envelope)["consents"]
    with pytest.raises(Refused, match="given before"):
        control.ask(path, "consent.list", {}, 60.0, lambda token: envelope)


def test_nobody_is_asked_to_approve_a_refusal_of_no_erasure(home: Path) -> None:
    words = ("--erasure", "ab" * 32, "--ground", "legal-claims", "--authority", "Authority, Street 1")
    koinon("erase", "refuse", "--home", home, *words, expect=4)
    assert koinon("node", "pending", "--home", home) == []


def test_the_dpo_gets_a_new_key_with_the_operators_word_and_the_old_one_ends(home: Path, tmp_path: Path) -> None:
    old = {kind: shutil.copy(home / "roles" / f"dpo.{kind}", tmp_path / f"dpo.{kind}") for kind in ("json", "password")}
    assert "waits for the operator" in koinon("node", "rotate", "--home", home, "--of", "dpo", expect=5)["message"]
    (order,) = [one for one in koinon("node", "pending", "--home", home) if one["order"] == "node.rotate"]
    koinon("node", "approve", "--home", home, "--order", order["order_id"], "--role", "operator")
    koinon("node", "rotate", "--home", home, "--of", "dpo")
    koinon("consent", "show", "--home", home, "--patient", "-", stdin=PATIENT)
    files = ("--role", "dpo", "--role-keys", old["json"], "--role-password-file", old["password"])
    koinon("consent", "show", "--home", home, "--patient", "-", *files, stdin=PATIENT, expect=5)


@pytest.mark.parametrize("version", ["R4B", "R5"])
def test_consents_go_out_as_fhir_and_come_back_changing_nothing(home: Path, tmp_path: Path, version: str) -> None:
    file = tmp_path / "consents.json"
    assert koinon("consent", "export", "--home", home, "--fhir", file, "--version", version)["consents"] == 8
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PATIENT in file.read_text("utf-8"), "it is the hospital's own record"
    told = koinon("consent", "import", "--home", home, "--fhir", file)
    assert (told["granted"], told["known"], told["ended"], told["refused"]) == (0, 8, [], [])
    koinon("consent", "export", "--home", home, "--fhir", file, "--replace", "--role", "clinician", expect=5)


def test_a_consent_made_inactive_is_withdrawn_on_the_chain_and_exported_as_the_next_version(
    net: Processes, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "consents.ndjson"
    koinon("consent", "export", "--home", home, "--fhir", file)
    resources = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    one = next(entry for entry in resources if entry["patient"]["identifier"]["value"] == "patient-0-5")
    one |= {"status": "inactive", "meta": {"versionId": "2"}}
    file.write_text(json.dumps(one), "utf-8")
    told = koinon("consent", "import", "--home", home, "--fhir", file)
    assert told["ended"] == [one["id"]]
    wait(lambda: any(consent.hex() == one["id"] for consent in net.history().withdrawals), "the chain has it")
    koinon("consent", "export", "--home", home, "--fhir", file, "--replace")
    states = {entry["id"]: entry for entry in map(json.loads, file.read_text("utf-8").splitlines())}
    assert (states[one["id"]]["status"], states[one["id"]]["meta"]["versionId"]) == ("inactive", "2")


def test_a_broken_resource_is_refused_by_its_place_and_nothing_is_taken(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "consents.json"
    koinon("consent", "export", "--home", home, "--fhir", file)
    bundle = json.loads(file.read_text("utf-8"))
    bundle["entry"][3]["resource"]["provision"]["type"] = PATIENT
    file.write_text(json.dumps(bundle), "utf-8")
    error = koinon("consent", "import", "--home", home, "--fhir", file, expect=2)
    assert "consents.json: Bundle.entry[3].resource: provision.type: " in error["message"]
    assert PATIENT not in error["message"]


def test_no_file_no_log_and_no_process_names_a_patient_and_every_look_is_in_the_log(net: Processes, home: Path) -> None:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert PATIENT.encode() not in process.read_bytes()
        except OSError:
            continue
    for path in net.home.rglob("*"):
        if path.is_file():
            assert PATIENT.encode() not in path.read_bytes(), path.name
    store = Store(home, bytes(32))
    try:
        entries = [body for _, _, body in store.log_entries("link_access")]
    finally:
        store.close()
    acts = {(one["role"], one["act"].partition(":")[0], one["outcome"]) for one in entries}
    assert ("dpo", "unattended enrolment", "permitted") in acts
    assert ("dpo", "consent.cards", "permitted") in acts
    assert ("dpo", "consent.export", "permitted") in acts
    assert ("operator", "consent.cards", "refused") in acts
    assert ("nobody", "consent.list", "refused") in acts
    assert ("operator", "audit.disclosures", "refused") in acts
