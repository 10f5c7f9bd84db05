"""A consent's life crossed with rounds, studies and erasures, on whole networks in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.commitments import study_id
from crypto.digest import Digest
from crypto.statements import sign, struct_hash
from fl_engine.data.dataset import Dataset
from node import card as cards
from node import certificate, document
from node.errors import ChainUnreachable, NotFound, Refused
from node.records import ErasureOpened, StudyCreation, Withdrawals, Withdrawn
from node.study import Study, parse_sections
from node.vault import Vault
from tests.fakes.network import START, Net, SharedTrainer, WatchedNode, dataset, network, receipt, spec
from tests.node.test_erasing import leaf_of, reach, ready, used_in

pytestmark = pytest.mark.slow


def forms(study: Study, *some: dict[str, Any]) -> Study:
    """The study with these forms: what differs from its own first one."""
    tree = json.loads(study.canonical)
    return parse_sections({**tree, "forms": [tree["forms"][0] | one for one in some]})


SECOND = {"name": "g", "text_sha256": "cd" * 32}


def register(patient: str, form: str, day: str) -> bytes:
    return f"patient_id,form,signed_on,signer,verified_by\n{patient},{form},{day},patient,dr.x".encode()


def vault_of(node: WatchedNode) -> Vault:
    assert node.participant.vault is not None
    return node.participant.vault


@pytest.mark.parametrize("where", ["hospital", "another member"])
async def test_a_form_signed_before_a_withdrawal_grants_nothing_wherever_it_came(
    where: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(forms(spec(rounds=1), {"on_withdrawal": "stop"}, {**SECOND, "on_withdrawal": "stop"}))
        node, other = net.nodes[1], net.nodes[3]
        (old,) = vault_of(node).find("patient-1-0")
        if where == "hospital":
            await node.desk.withdraw(node, patient="patient-1-0")
        else:
            await other.desk.withdraw(other, card=cards.encode(vault_of(node).card(old.consent_id)))
        await net.until(lambda: old.consent_id in node.history.withdrawals)
        with pytest.raises(Refused, match="does not renew it"):
            await node.desk.grant(node, study, register("patient-1-0", "g", "2027-01-15"), False)
        assert vault_of(node).mark_of(old.consent_id) == "withdrawn"
        told = node.participant.store.log_entries("consent_withdrawn")
        assert [body["subject"] for _, _, body in told] == [old.consent_id.hex()]
        net.clock.now += 2 * 86_400
        await net.until(lambda: node.now > START + 86_400)
        again = await node.desk.grant(node, study, register("patient-1-0", "f", "2027-01-17"), False)
        assert again["granted"] == 1, "a form signed since makes another consent"


async def test_a_study_that_nobody_can_join_keeps_nobody_out_of_the_next(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[0]
        other = spec("other", rounds=1)
        terms = other.terms(0, node.history.studies[study].branches[0].models[1], node.history.registry.active)
        node.participant.store.put("spec", other.canonical)
        signature = sign(terms, node.participant.domains.of(terms), node.participant.ring.ledger)
        await node.send(StudyCreation(terms, signature))
        number = study_id(struct_hash(terms))
        await net.until(lambda: all(number in one.participant.studies for one in net.nodes.values()))
        third = await net.create(spec("third", rounds=1), by=2)
        await net.until(lambda: third in node.history.studies)
        await net.until(lambda: sorted(node.history.studies[third].joined) == [0, 1, 2, 3])
        assert not node.history.studies[number].joined
        await net.until(lambda: "does not begin at the model" in net.nodes[2].desk.faults.get("studies", ""))


async def restored(net: Net, tmp_path: Path, backup: Path) -> WatchedNode:
    """Member 1 after its vault came back from a backup."""
    await net.kill(1)
    shutil.rmtree(tmp_path / "member-2" / "vault")
    shutil.copytree(backup, tmp_path / "member-2" / "vault")
    node = await net.start(1)
    await net.until(lambda: node.ready)
    return node


@pytest.mark.parametrize("how", ["asked for", "asked for by the form, the withdrawal late", "opened by a relay"])
async def test_a_backup_brings_no_erased_patient_back(how: str, tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(forms(spec(rounds=1), {"on_withdrawal": "stop+delete+unlearn"}))
        (one,) = vault_of(net.nodes[1]).find("patient-1-0")
        card = cards.encode(vault_of(net.nodes[1]).card(one.consent_id))
        await net.kill(1)
        backup = Path(shutil.copytree(tmp_path / "member-2" / "vault", tmp_path / "backup"))
        node = await net.start(1)
        await net.until(lambda: node.ready)
        if how == "opened by a relay":
            net.freeze(1)
            await net.nodes[3].erasing.request(net.nodes[3], card=card)
            await net.until(lambda: bool(net.of(ErasureOpened)))
            net.thaw(1)
        elif how == "asked for":
            await node.erasing.request(node, consent=one.consent_id)
        else:
            lost, send = [True], net.doors[1].send

            def slow(call: Any) -> Any:
                if lost[0] and isinstance(call, Withdrawals):
                    raise ChainUnreachable("lost on the way")
                return send(call)

            net.doors[1].send = slow  # type: ignore[method-assign]
            await node.desk.withdraw(node, consent=one.consent_id)
            await net.create(spec("other", rounds=1), by=2)
            await net.until(lambda: bool(net.of(ErasureOpened)))
            assert not net.of(Withdrawn)
            lost[0] = False
        await net.until(lambda: bool(net.of(ErasureOpened)))
        batch = net.of(ErasureOpened)[0].batch
        await ready(net, batch.hex())
        await receipt(node, one.consent_id)
        await reach(net, batch.hex(), "closed")
        node = await restored(net, tmp_path, backup)
        with pytest.raises(NotFound):
            vault_of(node).find("patient-1-0")
        assert vault_of(node).is_suppressed("patient-1-0", study, node.now)
        assert len(vault_of(node).archived("patient-1-0")) == 1


async def test_each_patient_of_a_batch_has_a_first_use_and_days_of_its_own(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.create(spec(rounds=8))
        await net.until(lambda: len(net.rounds(1)) >= 3)
        node, data = net.nodes[1], dataset(1)
        vault = vault_of(node)
        vault.import_dataset(
            Dataset(data.x[:2], data.y[:2], ("late",) * 2, np.zeros(2, np.uint8), 2, "late"), now=node.now
        )
        await node.desk.grant(node, study, register("late", "f", "2027-01-15"), False)
        key = leaf_of(node, study, "late").leaf_key
        await net.until(lambda: any(used_in(node, 1, key).values()))
        await net.finish(study)
        asked = await node.erasing.request(node, everyone=study)
        await ready(net, asked["erasure"])
        first = {}
        for who in ("patient-1-0", "late"):
            paper = await receipt(node, vault.find(who)[0].consent_id)
            (found,) = certificate.check(document.write(paper), net.network)["annex"]["first_use"]
            first[who] = found["height"]
        assert first["patient-1-0"] == 1
        assert first["late"] > 2
        for consent in asked["consents"]:
            if vault.mark_of(Digest.from_hex(consent)) is not None:
                await receipt(node, Digest.from_hex(consent))
        await reach(net, asked["erasure"], "closed")


async def test_two_consents_of_one_patient_in_one_batch_have_a_paper_each(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(forms(spec(rounds=1), {}, SECOND))
        node = net.nodes[1]
        await node.desk.grant(node, study, register("patient-1-0", "g", "2027-01-15"), False)
        assert [one.mark for one in vault_of(node).find("patient-1-0")] == ["superseded", ""]
        asked = await node.erasing.request(node, patient="patient-1-0")
        assert asked["posted"]
        await ready(net, asked["erasure"])
        assert node.erasing.status("patient-1-0", node.now)["erasure"] == asked["erasure"]
        papers = [await receipt(node, "patient-1-0") for _ in range(2)]
        assert len({one["annex"]["opening"]["consent_id"] for one in papers}) == 2
        await reach(net, asked["erasure"], "closed")


async def test_what_was_entered_in_error_stays_that_when_its_form_asks_for_the_erasure(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        await net.play(forms(spec(rounds=1), {"on_withdrawal": "stop+delete+unlearn"}))
        node = net.nodes[1]
        (one,) = vault_of(node).find("patient-1-0")
        await node.desk.correct(node, "another person's records", consent=one.consent_id)
        await net.until(lambda: bool(net.of(ErasureOpened)))
        assert vault_of(node).mark_of(one.consent_id) == "entered-in-error"


async def test_a_copy_goes_where_the_other_consent_was_withdrawn_by_card_elsewhere(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        first = await net.play(forms(spec(rounds=1), {"on_withdrawal": "stop"}))
        await net.play(spec("second", rounds=1))
        node, other = net.nodes[1], net.nodes[3]
        vault = vault_of(node)
        (old,) = (one for one in vault.find("patient-1-0") if one.study == first)
        (new,) = (one for one in vault.find("patient-1-0") if one.study != first)
        await other.desk.withdraw(other, card=cards.encode(vault.card(old.consent_id)))
        await net.until(lambda: vault.mark_of(old.consent_id) == "withdrawn")
        asked = await node.erasing.request(node, consent=new.consent_id)
        await ready(net, asked["erasure"])
        assert not any(one.has_copy for one in vault.find("patient-1-0"))


async def test_who_agrees_again_after_the_copy_went_needs_the_records_again(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        study = await net.play(spec(rounds=1))
        node, data = net.nodes[1], dataset(1)
        vault = vault_of(node)
        await node.desk.withdraw(node, patient="patient-1-0")
        await net.until(lambda: not any(one.has_copy for one in vault.find("patient-1-0")))
        net.clock.now += 2 * 86_400
        await net.until(lambda: node.now > START + 86_400)
        again = register("patient-1-0", "f", "2027-01-17")
        told = await node.desk.grant(node, study, again, False)
        assert (told["granted"], told["absent"]) == (0, [2])
        report = vault.import_dataset(data, now=node.now)
        assert (report.patients, report.known) == (1, len(set(data.patients)) - 1)
        looks = node.looks
        await net.until(lambda: node.looks > looks + 2)
        assert (await node.desk.grant(node, study, again, False))["granted"] == 1, "the new copy was left alone"
        (one,) = (one for one in vault.find("patient-1-0") if not one.mark)
        (leaf,) = (leaf for leaf in vault.leaves(study) if leaf.consent_id == one.consent_id)
        x, _ = vault.rows(leaf.rows, leaf.role)
        where = [i for i, name in enumerate(data.patients) if name == "patient-1-0"]
        assert np.array_equal(x, data.x[where])
