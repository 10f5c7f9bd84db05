"""Processes that die, freeze, move and lie: the study goes on, whoever was away catches up, strangers get nowhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from node.cli.common import order
from tests.network.conftest import NAMES, Processes, wait

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]


def test_a_member_killed_in_mid_round_comes_back_into_the_same_round(net: Processes) -> None:
    study = net.create("killed", rounds=2, scribe_s=60)
    round_id = net.wait_round(study, 1)
    net.send("member-3", signal.SIGKILL)
    net.start("member-3")
    history = net.wait_finished(study)
    first = history.rounds[round_id]
    assert first.final is not None
    assert first.final.result.codes == 0
    assert first.final.result.included == 0b1111, "it came back in time and contributed"
    net.agree(study)


def test_a_stopped_member_is_missed_by_rule_and_its_part_is_recorded(net: Processes) -> None:
    study = net.create("stopped", rounds=3, scribe_s=8)
    net.wait_round(study, 1)
    net.send("member-2", signal.SIGSTOP)
    try:
        net.wait_round(study, 3)
    finally:
        net.send("member-2", signal.SIGCONT)
    history = net.wait_finished(study)
    path = history.path(study, 0)
    second = path[1]
    assert second.final is not None
    assert 1 not in second.commits
    assert 1 not in second.abstained
    assert second.final.result.included == 0b1101
    assert second.final.signers & 0b0010 == 0
    net.agree(study)


def test_a_second_signal_to_a_node_that_is_stopping_changes_nothing(net: Processes) -> None:
    process, home = net.running.pop("member-4"), net.homes["member-4"]
    deadline = time.monotonic() + 60
    while process.poll() is None:  # from the first one to the end of the process
        process.send_signal(signal.SIGTERM)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.returncode == 0
    assert not (home / "control.json").exists(), "it let go of its door"
    log = (net.home / "member-4.log").read_text("utf-8")
    assert log.count("stopping") > 1
    assert "Traceback" not in log
    net.start("member-4")
    net.wait_ready("member-4")


def test_a_killed_chain_comes_back_with_identical_blocks_and_the_study_goes_on(net: Processes) -> None:
    study = net.create("chain", rounds=2, scribe_s=30)
    net.wait_round(study, 1)
    height = int(net.rpc("eth_blockNumber"), 16)
    before = [net.block(number) for number in range(height + 1)]
    net.send("chain", signal.SIGKILL)
    wait(lambda: net.metric("member-1", "chain_errors_total") > 0, "members notice")
    net.start("chain")
    wait(lambda: net.block(0), "the chain answers")
    assert [net.block(number) for number in range(height + 1)] == before
    net.agree(study)


def test_an_auditor_that_was_away_for_a_whole_study_holds_everything(net: Processes) -> None:
    net.send("auditor", signal.SIGKILL)
    study = net.create("audited", rounds=2)
    history = net.wait_finished(study, "member-1")
    net.start("auditor")
    net.wait_ready("auditor")
    net.agree(study)
    blobs = net.homes["auditor"] / "blobs"

    def missing() -> list[str]:
        from node.messages import CommitNotice
        from node.store import Store

        store = Store(net.homes["auditor"], bytes(32))
        try:
            roots = [
                blob.cipher_root.hex()
                for one in history.path(study, 0)
                for notice in store.notices(one.opened.round_id, "CommitNotice")
                if isinstance(notice, CommitNotice)
                for blob in (notice.update, notice.set)
            ]
        finally:
            store.close()
        expected = 2 * sum(len(one.commits) for one in history.path(study, 0))
        return [] if len(roots) >= expected and all((blobs / r[:2] / r).exists() for r in roots) else ["some"]

    wait(lambda: not missing(), "the auditor holds every ciphertext")


def test_a_home_moved_to_another_folder_is_the_same_member(net: Processes, tmp_path: Path) -> None:
    study = net.create("moved", rounds=2, scribe_s=60)
    net.wait_round(study, 1)
    net.send("member-4", signal.SIGKILL)
    elsewhere = tmp_path / "somewhere" / "else"
    elsewhere.parent.mkdir()
    old = net.homes["member-4"]
    shutil.move(old, elsewhere)
    net.homes["member-4"] = elsewhere
    net.start("member-4")
    history = net.wait_finished(study)
    last = history.path(study, 0)[-1]
    assert last.final is not None
    assert last.final.result.included == 0b1111
    net.agree(study)
    assert not old.exists()


# --------------------------------------------------------------------------------------------------------------------
# Strangers


def listening(net: Processes, name: str) -> tuple[str, int]:
    seats = {one.name: one for one in (*net.network.founders, *net.network.auditors)}
    parts = seats[name].address.split("/")
    return parts[2], int(parts[4])


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n" + b"\x00" * 64,
        b"\x13/multistream/1.0.0\n\x07/noise\n" + os.urandom(512),
        os.urandom(4096),
        b"",
    ],
    ids=["http", "plaintext", "noise-then-garbage", "garbage", "silence"],
)
def test_whoever_does_not_speak_noise_gets_no_answer_but_the_negotiation(words: bytes, net: Processes) -> None:
    before = net.metric("member-1", "peers_connected")
    with socket.create_connection(listening(net, "member-1"), timeout=10) as line:
        line.settimeout(3)
        heard = b""
        try:
            line.sendall(words)
            while len(heard) < 65536:
                data = line.recv(4096)
                if not data:
                    break
                heard += data
        except OSError:
            pass
    assert len(heard) < 1024, "a stranger is told next to nothing"
    assert b"koinon" not in heard
    assert net.metric("member-1", "peers_connected") == before
    assert order(net.homes["member-1"], "status", {})["ready"]


async def test_a_host_outside_the_registry_is_counted_and_gets_nowhere(net: Processes) -> None:
    import trio

    from crypto.keys import KeyRing
    from node.doors import Link
    from node.messages import Hello
    from node.transport import LibP2PTransport

    seats = {one.name: one for one in net.network.founders}
    target = seats["member-2"]
    before = net.metric("member-2", "strangers_total")
    contracts = net.network.contracts
    stranger = LibP2PTransport(
        KeyRing.generate().peer, "/ip4/127.0.0.1/tcp/0", lambda: Hello(contracts.chain_id, contracts.membership, 0)
    )
    stranger.set_allowed({target.peer_id: target.address})
    async with trio.open_nursery() as nursery:
        await nursery.start(stranger.run)
        with trio.fail_after(30):
            while net.metric("member-2", "strangers_total") <= before:  # noqa: ASYNC110 - another process counts
                await trio.sleep(0.2)
        assert stranger.connected()[target.peer_id].state is not Link.CONNECTED
        nursery.cancel_scope.cancel()
    assert net.metric("member-2", "peers_connected") == len(NAMES) - 1
