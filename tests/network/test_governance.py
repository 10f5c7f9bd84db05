"""Governance, new keys and the lesser orders about consents, typed at real processes: what the chain makes of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from crypto.digest import Digest
from node.errors import ExitCode
from node.membership import members_of
from tests.network.bench import PATIENCE_S
from tests.network.conftest import NAMES, Processes, free_ports, wait
from tests.node.cli.cli_kit import koinon_says

pytestmark = [pytest.mark.network, pytest.mark.timeout(900)]

NODE = ("tests.network.mortal", "node", "run")
"""A node of this file dies where it is told to."""


def run(*arguments: object, expect: int = 0, stdin: str | None = None) -> Any:
    """A command's data, or the one sentence of its error."""
    code, out, err = koinon_says(*arguments, "--json", stdin=stdin)
    assert code == expect, err
    told = json.loads(out)
    if expect == 0:
        return told["data"]
    message = told["error"]["message"]
    assert "\n" not in message
    return message


def vote(net: Processes, voters: list[int], *arguments: object) -> None:
    """The order of these members. One that was not connected when another voted learns of the vote later."""
    epoch = net.history().registry.epoch
    for index in voters:
        run(*arguments, "--home", net.homes[f"member-{index + 1}"])
    names = ["auditor", *(f"member-{index + 1}" for index in voters)]
    wait(
        lambda: all(net.history(name).registry.epoch > epoch for name in names),
        f"{arguments} is decided by {voters}, as each of them reads",
    )


def opens_with(net: Processes, epoch: int, roster: int) -> None:
    """Wait for a round that opens in this epoch; these members are on its roster."""

    def found() -> Any:
        rounds = [one.opened for one in net.history("auditor").rounds.values() if one.opened.epoch == epoch]
        return rounds or None

    assert {one.roster for one in wait(found, f"a round of epoch {epoch}")} == {roster}


def erased(net: Processes, name: str, study: Digest, patient: str, paper: Path) -> dict[str, Any]:
    """Have a hospital erase one consent of a study, and what its certificate says when it is checked."""
    home = net.homes[name]
    held = run("consent", "show", "--home", home, "--patient", "-", stdin=patient)
    (consent,) = (one["consent_id"] for one in held if one["study"] == study.hex())
    run("erase", "request", "--home", home, "--consent", consent, "--wait", "--timeout", PATIENCE_S)
    run("erase", "receipt", "--home", home, "--consent", consent, "--out", paper)
    return checked(net, paper)


def checked(net: Processes, paper: Path) -> dict[str, Any]:
    found: dict[str, Any] = run("erase", "verify", paper, "--network", net.home / "network.json")
    assert found["issuers"] == "checked"
    return found


def keys_of(certificate: dict[str, Any], name: str) -> set[str]:
    """The ledger accounts that a certificate has a member's signatures of."""
    return {one["ledger_address"] for one in certificate["keys"] if one["name"] == name}


def dies_in(net: Processes, name: str, point: str, *arguments: object) -> None:
    """An order at a node that is killed when it passes a point of carrying it out; then it is started again."""
    net.dies_after(name, point)
    assert "broke off" in run(*arguments, "--home", net.homes[name], expect=ExitCode.LOCAL_FAULT)
    assert net.running.pop(name).wait(20) == -signal.SIGKILL
    net.start(name)
    net.wait_ready(name)


def repeated(*arguments: object) -> Any:
    """An order given until it is answered: the node may start again with new keys, or may not have read so far yet."""

    def answered() -> Any:
        code, out, err = koinon_says(*arguments, "--json")
        assert code in (0, ExitCode.LOCAL_FAULT, ExitCode.NOT_FOUND), err
        return json.loads(out)["data"] if code == 0 else None

    return wait(answered, f"{arguments} is answered")


@pytest.fixture(scope="module")
def corrected(net: Processes) -> Digest:
    """A study of one round that is over."""
    study = net.create("corrected", rounds=1)
    net.wait_finished(study)
    return study


@pytest.fixture(scope="module")
def governed(net: Processes) -> Digest:
    """A study that goes on for as long as anybody looks."""
    study = net.create("governed", rounds=2000, scribe_s=8)
    net.wait_round(study, 1)
    return study


def stop(net: Processes, name: str) -> None:
    process = net.running.pop(name)
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def test_a_consent_entered_in_error_is_told_with_the_rounds_that_used_it(net: Processes, corrected: Digest) -> None:
    study = corrected
    home, patient = net.homes["member-1"], "patient-0-5"
    (form,) = run("consent", "forms", "--home", home, "--study", study.hex())
    shown = (form["name"], form["custody"], form["on_withdrawal"], form["allowed"])
    assert shown == ("f", "synthetic", "stop+delete", True)
    words = ("consent", "correct", "--home", home)
    assert "a correction needs its reason" in run(*words, "--patient", "-", "--reason", " ", stdin=patient, expect=2)
    found = run(*words, "--patient", "-", "--reason", "merged records", stdin=patient)
    uses = {one: rounds for one, rounds in found["used_without_consent"].items() if rounds}
    assert any([(two["height"], two["used"]) for two in rounds] == [(1, True)] for rounds in uses.values())
    states = [one["state"] for one in run("consent", "list", "--home", home) if one["consent_id"] in found["consents"]]
    assert set(states) == {"entered-in-error"}
    assert run(*words, "--patient", "-", "--reason", "again", stdin=patient)["consents"] == found["consents"]
    assert "no consent" in run(*words, "--patient", "-", "--reason", "x", stdin="nobody", expect=4)
    trail = run("audit", "trail", "--home", home, "--study", study.hex())
    assert "merged records" not in json.dumps(trail)
    withdrawals = {one["transaction"] for one in trail if one["kind"] == "withdrawn"}
    (ended,) = (
        run("audit", "consent", "--home", home, "--consent", one)["withdrawal"]
        for one, rounds in uses.items()
        if rounds
    )
    assert ended["transaction"] in withdrawals
    receipt = net.rpc("eth_getTransactionReceipt", ended["transaction"])
    assert int(receipt["blockNumber"], 16) == ended["block"], "the chain finds the withdrawal by its transaction"


def test_a_rotation_killed_twice_ends_with_its_keys_and_certificates_of_before_and_after_hold(
    net: Processes, corrected: Digest, governed: Digest, tmp_path: Path
) -> None:
    early, late = tmp_path / "before.json", tmp_path / "after.json"
    before = erased(net, "member-2", corrected, "patient-1-3", early)
    first = net.history().rounds[net.wait_round(governed, 1)].opened
    assert set(members_of(first.roster)) == {0, 1, 2, 3}
    home = net.homes["member-2"]
    rotate = ("member", "rotate")
    dies_in(net, "member-2", "new keys kept", *rotate)
    new = (home / "keystore-1.json").read_bytes()
    assert net.history("member-2").registry.epoch == 1, "nobody heard of the keys"
    dies_in(net, "member-2", "rotation mined", *rotate)
    made = repeated(*rotate, "--home", home)
    assert (made["index"], made["epoch"], made["resumed"]) == (1, 2, True)
    assert repeated(*rotate, "--home", home) == made
    assert net.network.founders[1].peer_id != net.history().registry.members[1].peer_id
    assert (home / "keystore-1.json").read_bytes() == new
    assert not (home / "keystore-2.json").exists(), "no further keys"
    opens_with(net, 2, 0b1111)

    def takes_part() -> bool:
        ends = [one.final for one in net.history("auditor").rounds.values() if one.opened.epoch == 2]
        return any(final is not None and final.result.included >> 1 & 1 for final in ends)

    wait(takes_part, "its update is in a round that opened with its new keys")
    after = erased(net, "member-2", corrected, "patient-1-4", late)
    assert checked(net, early) == before, "the keys of before still count for what they signed then"
    accounts = keys_of(before, "member-2"), keys_of(after, "member-2")
    assert accounts[1] - accounts[0] == {made["ledger_address"]}


def test_members_change_by_votes_and_rosters_with_the_next_opening(
    net: Processes, governed: Digest, tmp_path: Path
) -> None:
    study, homes = governed, net.homes

    # Its own keys: once; the dpo's orders open what they opened before.
    assert "lately; it may again at" in run("member", "rotate", "--keep-ledger", "--home", homes["member-2"], expect=5)
    net.wait_ready("member-2")
    assert run("consent", "show", "--home", homes["member-2"], "--patient", "patient-1-0")[0]["state"] == "active"
    stop(net, "member-2")
    assert run("consent", "show", "--home", homes["member-2"], "--patient", "patient-1-0")[0]["state"] == "active"
    net.start("member-2")
    net.wait_ready("member-2")

    # A stolen key. A vote counts once, and ends with its epoch.
    once = run("member", "revoke", 3, "--home", homes["member-1"])
    assert (once["votes"], once["needed"], once["decided"]) == ([0], 3, False)
    assert run("member", "revoke", 3, "--home", homes["member-1"])["votes"] == [0]
    made = run("member", "rotate", "--keep-peer", "--home", homes["member-3"])
    assert made["epoch"] == 3
    wait(lambda: "starting again with them" in (net.home / "member-3.log").read_text("utf-8"), "it has its new keys")
    for name in ("member-1", "member-2", "member-3"):
        wait(lambda name=name: net.history(name).registry.epoch == 3, "epoch 3")
        net.wait_ready(name)
    assert run("member", "revoke", 3, "--home", homes["member-2"])["votes"] == [1], "the vote of epoch 2 is void"
    vote(net, [0, 2], "member", "revoke", 3)
    opens_with(net, 4, 0b0111)
    assert "no key that counts" in run("member", "remove", 0, "--home", homes["member-4"], expect=5)
    assert "no key that could be revoked" in run("member", "revoke", 3, "--home", homes["member-1"], expect=4)

    # New keys for the seat, by the others.
    stop(net, "member-4")
    letter = tmp_path / "recovery.json"
    run("member", "apply", "--recover", 3, "--home", homes["member-4"], "--out", letter)
    assert "not an application" in run("member", "approve", letter, "--home", homes["member-1"], expect=2)
    vote(net, [0, 1, 2], "member", "recover", letter)
    net.start("member-4")
    net.wait_ready("member-4")
    opens_with(net, 5, 0b1111)

    # An auditor for this study and a term: seated by votes, and both words on the chain for everybody to read.
    office, letter = tmp_path / "audit", tmp_path / "audit.json"
    described = ("--network", net.home / "network.json", "--listen", f"/ip4/127.0.0.1/tcp/{free_ports(1)}")
    assert "takes --auditor and none" in run("node", "init", "--home", office, *described, "--name", "x", expect=2)
    run("node", "init", "--home", office, *described, "--name", "Audit Ltd", "--auditor")
    told = run("member", "apply", "--home", office, "--out", letter)
    run("chain", "fund", "--home", net.home, "--address", told["ledger_address"])
    seating = ("member", "seat-auditor", letter, "--study", study.hex(), "--until")
    assert "ends in the past" in run(*seating, "2020-01-01", "--home", homes["member-1"], expect=2)
    assert "not a day" in run(*seating, "soon", "--home", homes["member-1"], expect=2)
    vote(net, [0, 1, 2], *seating, "2030-01-01")
    homes["audit"] = office
    net.start("audit")
    net.wait_ready("audit")
    seated = next(one for one in run("member", "list", "--home", homes["member-1"])["auditors"] if one["seat"] == 1)
    assert (seated["study"], seated["term_end"]) == (study.hex(), 1_893_542_400)
    opens_with(net, 6, 0b1111)

    def opened() -> Any:
        told = run("audit", "trail", "--home", office, "--kind", "audit-opened")
        return {one["who"] for one in told if "auditor's seat 1" in one["what"]} == set(NAMES[:4])

    wait(opened, "every hospital opens the study to the seat")
    assert run("audit", "trail", "--home", office, "--kind", "audit-accessed")
    again = run("audit", "open", "--seat", 1, "--study", study.hex(), "--home", homes["member-1"])
    assert (again["auditor"], again["term_end"]) == ("Audit Ltd", 1_893_542_400)

    # A newcomer, and the end of a seat for good.
    home, application, data = tmp_path / "north", tmp_path / "north.json", tmp_path / "north.csv"
    data.write_text("patient_id,label,a,b,c,d,e,f\n" + "".join(f"n-{i},{i % 2},{i},1,2,3,4,5\n" for i in range(8)))
    listen = f"/ip4/127.0.0.1/tcp/{free_ports(1)}"
    made = ("--name", "north", "--data", data, "--listen", listen, "--announce", listen)
    run("node", "init", "--home", home, "--network", net.home / "network.json", *made)
    told = run("member", "apply", "--home", home, "--out", application)
    run("chain", "fund", "--home", net.home, "--address", told["ledger_address"])
    vote(net, [0, 1, 2], "member", "approve", application)
    listed = run("member", "list", "--home", homes["member-1"])["members"]
    assert [(one["index"], one["name"], one["active"]) for one in listed][4:] == [(4, "north", True)]
    opens_with(net, 7, 0b1111)
    vote(net, [0, 1, 2, 3], "member", "remove", 3)  # of five members four decide
    opens_with(net, 8, 0b0111)
    assert "was removed: it has no vote" in run("member", "revoke", 0, "--home", homes["member-4"], expect=5)
    assert "there is no member 3" in run("member", "remove", 3, "--home", homes["member-1"], expect=4)
    assert "there is no member 9" in run("member", "revoke", 9, "--home", homes["member-1"], expect=4)

    # A study of after its admission trains on the newcomer's records too, once its dpo has enrolled its patients.
    homes["north"] = home
    net.start("north")
    net.wait_ready("north")
    later = net.create("after-the-changes", rounds=1)
    granted = repeated("consent", "grant", "--all", "--study", later.hex(), "--home", home)
    assert (granted["granted"], granted["refused"]) == (8, [])
    net.wait_finished(later)
    parts = run("audit", "participation", "--home", homes["auditor"], "--study", later.hex())
    included = {one["name"]: (one["asked"], one["included"]) for one in parts["totals"]}
    assert included == dict.fromkeys(("member-1", "member-2", "member-3", "north"), (1, 1))

    # Whoever has the founders' network file follows all of these keys, from one file and from nothing else.
    bundle = tmp_path / "bundle.zip"
    run("audit", "export", "--home", homes["auditor"], "--study", later.hex(), "--out", bundle)
    found = run("audit", "verify", "--bundle", bundle, "--network", net.home / "network.json")
    assert found["ok"]
