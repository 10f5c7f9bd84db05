"""Nothing that a node logs names a patient, a consent's secrets or a key: every log of a whole life is searched."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import structlog.testing

from crypto.digest import Digest
from crypto.sealing import BlobKind
from node import keystore
from node.metrics import COUNTERS, GAUGES, LABELLED, render
from tests.fakes.network import Net, SharedTrainer, WatchedNode, network, receipt, spec

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md"


@pytest.fixture
def every_level() -> Iterator[None]:
    """Nothing is left out of the log, whatever level a command that ran before in this process has set."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


def canaries(net: Net, node: WatchedNode) -> dict[str, str]:
    """What no log may hold -> what it is. All of one member's home."""
    found: dict[str, str] = {}
    ring, vault = node.participant.ring, node.participant.vault
    secrets = {"ledger key": ring.ledger, "sealing key": ring.sealing, "peer key": ring.peer}
    for name, key in secrets.items():
        found[key.to_bytes().hex()] = name
    found[keystore.at_rest_key(ring).hex()] = "at-rest key"
    if vault is None:
        return found
    for pseudonym, _ in vault._copies._owners.values():
        found[pseudonym] = "pseudonym"
    for patient in vault.patient_ids():
        found[patient] = "patient"
    for holding in vault.holdings():
        annex = vault.annex(holding.consent_id)
        found |= {annex.leaf_secret.hex(): "leaf secret", annex.holder_salt.hex(): "holder salt"}
        found |= {annex.leaf_key.hex(): "leaf key", holding.consent_id.hex(): "consent", annex.holder.hex(): "holder"}
    for round_id in node.history.rounds:
        for member in range(4):
            for kind in BlobKind:
                key_ = node.participant.store.key(round_id, member, kind)
                if key_ is not None:
                    found[key_.hex()] = "content key"
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("every_level")
async def test_no_log_of_a_life_with_an_erasure_names_a_patient_or_a_key(
    tmp_path: Path, trainer: SharedTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        async with network(tmp_path, trainer, 4, auditor=True) as net:
            study = await net.play(spec(rounds=1))
            secrets: dict[str, str] = {}
            for node in net.nodes.values():
                secrets |= canaries(net, node)
            first, second = net.nodes[1], net.nodes[2]
            await second.desk.withdraw(second, patient="patient-2-1")
            asked = await first.erasing.request(first, patient="patient-1-0")
            batch = Digest.from_hex(asked["erasure"])

            await net.until(lambda: net.certified(batch, 1), 200.0)
            await receipt(first, batch)
            await net.kill(3)
            await net.start(3)  # a start logs, too
            await net.until(lambda: net.finished(study, 3), 200.0)
            figures = "".join(render(node).decode() for node in net.nodes.values())
    told = [str(event) for event in events] + [record.getMessage() for record in caplog.records] + [figures]
    assert {"patient", "pseudonym", "consent", "ledger key", "content key", "holder"} <= set(secrets.values())
    text = "\n".join(told).lower()
    leaked = {what for secret, what in secrets.items() if secret.lower() in text}
    assert leaked == set()
    # The search would find something: the same log names rounds, phases and members.
    phases = [event for event in events if event["event"] == "round moved on"]
    assert {"training", "revealing", "final"} <= {event["phase"] for event in phases}
    assert {event["before"] for event in phases if event["phase"] == "final"} <= {"revealing", "voting", None}


def test_every_figure_is_explained_to_whoever_is_on_duty() -> None:
    text = OPERATIONS.read_text()
    missing = [name for name in (*GAUGES, *COUNTERS, *LABELLED) if f"`koinon_{name}`" not in text]
    assert missing == []
