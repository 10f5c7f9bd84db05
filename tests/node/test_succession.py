"""A whole network that moves to a second deployment in the middle of its study, and an erasure that reaches back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.digest import Digest
from crypto.statements import Seat, sign
from node import card as cards
from node import certificate, document
from node.errors import Refused
from node.records import (
    Contracts,
    EntrySkipped,
    ErasureOpened,
    ErasurePlanned,
    RoundFinal,
    RoundOpened,
    SeatInput,
    StudyContinued,
    Withdrawn,
)
from node.succession import check_at_rest, described
from tests.fakes.network import Net, SharedTrainer, network, receipt, spec
from tests.node.test_erasing import remove

PATIENCE_S = 300.0  # real seconds: training and a replay
ELSEWHERE = Contracts(2**40, *(bytes([7] * 19 + [n]) for n in range(4)))


async def move(net: Net, without: Sequence[int] = ()) -> None:
    """The members vote, what is open ends, the contracts are founded, every node goes on there but those `without`."""
    node = net.nodes[0]
    for index in range(3):
        await net.nodes[index].desk.governance.succeed(net.nodes[index], ELSEWHERE.membership)
    await net.until(lambda: node.history.registry.successor == ELSEWHERE.membership)

    def at_rest() -> bool:
        try:
            check_at_rest(node.history, ELSEWHERE.membership)
        except Refused:
            return False
        return True

    await net.until(at_rest)
    history, contracts = node.history, replace(ELSEWHERE, before=net.ledger.contracts)
    for index in list(net.nodes):
        await net.kill(index)
    seats = []
    for seating in net.seatings:
        ring, role = seating.ring, "member" if seating.data is not None else "auditor"
        name = seating.home.name
        statement = Seat(role, ring.peer.peer_id, ring.sealing.public, name)
        signature = sign(statement, contracts.domains.of(statement), ring.ledger)
        seats.append(SeatInput(ring.ledger.address, ring.peer.peer_id, ring.sealing.public, name, signature))
    members = len([one for one in net.seatings if one.data is not None])
    studies = [history.continuation(study) for study in history.studies]
    net.ledger = net.ledger.continued(contracts, seats[:members], seats[members:], studies)
    net.network = described(net.network, contracts, net.network.founders, net.network.auditors)
    net.doors.clear()
    for index in range(len(net.seatings)):
        if index not in without:
            await net.start(index)


@pytest.mark.slow
async def test_an_erasure_without_a_plan_goes_over_the_move_and_is_planned_there(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        study = await net.create(spec(rounds=3))
        await net.until(lambda: bool(net.of(RoundFinal)))
        node = net.nodes[1]
        node.desk.review_s = 30 * 86_400  # the hospital considers it; no plan can be made
        consent = node.desk.vault.find("patient-1-0")[0].consent_id
        batch = Digest.from_hex((await node.erasing.request(node, consent=consent))["erasure"])
        await net.until(lambda: batch in net.nodes[0].history.erasures)
        await move(net)
        await net.until(lambda: all(node.ready for node in net.nodes.values()))
        node = net.nodes[1]
        assert node.history.deployment == 1
        await net.until(lambda: net.certified(batch, 1), PATIENCE_S)
        opened, planned = net.of(ErasureOpened), net.of(ErasurePlanned)
        assert {(one.batch, one.due_at) for one in opened} == {(batch, opened[0].due_at)}
        assert len(opened) == 2, "its hospital opens it again, under its id and with its due date"
        assert [one.batch for one in planned] == [batch]
        await net.until(lambda: all(net.finished(study, at) for at in net.nodes), PATIENCE_S)
        checked = certificate.check(document.write(await receipt(node, consent)), net.network)
        assert [one["finding"] for one in checked["annex"]["first_use"]] == ["present"]
        await net.until(lambda: node.history.erasures[batch].closed is not None, PATIENCE_S)


@pytest.mark.slow
async def test_an_erasure_for_a_hospital_that_was_removed_goes_over_the_move(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        card = net.nodes[3].desk.vault.card(net.nodes[3].desk.vault.find("patient-3-0")[0].consent_id)
        await remove(net, 3)
        await net.kill(3)
        relay = net.nodes[2]
        await relay.erasing.request(relay, card=cards.encode(card))
        shown = relay.participant.store.notices_of_kind
        await net.until(lambda: bool(net.of(ErasureOpened)) and bool(shown("OpeningNotice")))
        batch = net.of(ErasureOpened)[0].batch
        assert net.of(ErasurePlanned) == [], "the hospital has its time"
        await move(net, without=(3,))
        node = net.nodes[0]
        await net.until(lambda: batch in node.history.erasures and node.history.erasures[batch].moved, PATIENCE_S)
        assert node.history.deployment == 1
        assert len(net.of(ErasureOpened)) == 2, "its relay opens it again"


@pytest.mark.slow
async def test_a_network_moves_in_the_middle_of_its_study_and_an_erasure_reaches_back(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3, auditor=True) as net:
        study = await net.create(spec(rounds=3))
        await net.until(lambda: bool(net.of(RoundFinal)))
        old = net.network
        vault = net.nodes[1].desk.vault
        (early, late) = (vault.card(vault.find(f"patient-1-{i}")[0].consent_id) for i in (0, 1))
        await move(net)

        await net.until(lambda: net.nodes[0].ready)
        await net.until(lambda: all(net.finished(study, at) for at in net.nodes), PATIENCE_S)
        history = net.nodes[3].history  # the auditor's
        (continued,) = net.of(StudyContinued)
        assert continued == replace(continued, study=study, joined=7, left=0)
        finals = [one for one in history.rounds.values() if one.final is not None]
        deployments = [one.deployment for one in finals]
        assert len(finals) == 3
        assert sorted(set(deployments)) == [0, 1]
        assert deployments == sorted(deployments)
        opened = [one for one in net.of(RoundOpened) if one.height == continued.height + 1]
        assert opened[0].parent_result == continued.lineage
        assert net.network.fingerprint == old.fingerprint

        # a card from before the move works at any member, and its word is taken where it was given
        node = net.nodes[2]
        await node.desk.withdraw(node, card=cards.encode(late))
        await net.until(lambda: net.nodes[0].history.withdrawn_at(late.consent_id) is not None)
        told = [one.record for one in net.nodes[0].history.late]  # who has the same thought a moment later is skipped
        assert [type(one) for one in told if not isinstance(one, EntrySkipped)] == [Withdrawn]

        # an erasure of a record that was used before the move forks the study below it
        node = net.nodes[1]
        asked = await node.erasing.request(node, card=cards.encode(early))
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: net.certified(batch, 1), PATIENCE_S)
        erasure = node.history.erasures[batch]
        assert erasure.plan is not None
        assert erasure.plan.base_height < continued.height
        roots = {node.history.studies[study].head.models[erasure.plan.target_height] for node in net.nodes.values()}
        assert len(roots) == 1

        # its certificate leads from the first founders over the move, and names rounds of both deployments
        paper = document.write(await receipt(node, early.consent_id))
        checked = certificate.check(paper, net.network)
        assert checked["issuers"] == "checked"
        assert [one["finding"] for one in checked["annex"]["first_use"]] == ["present"]
        assert {one["finding"] for one in checked["annex"]["since"]} == {"absent"}
        assert certificate.check(paper, old)["issuers"] == "checked"  # by the description from before the move
        await net.until(lambda: node.history.erasures[batch].closed is not None, PATIENCE_S)
