"""Whole erasures in a network of real nodes: what happens, in which order, and what is left where."""

from __future__ import annotations

import datetime
import json
from collections.abc import Set
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crypto.blobs import ROLE_TRAIN, decode_update
from crypto.commitments import study_id
from crypto.digest import Digest
from crypto.keys import LedgerKey, address_text
from crypto.sealing import BlobKind, open_blob
from crypto.statements import Certificate, Purged, sign, struct_hash
from fl_engine.params import view_ints
from fl_engine.unlearning import UNLEARNERS
from fl_engine.unlearning.integers import squared_norm
from node import card as cards
from node import certificate, document, methods, proof
from node.consent import Leaf
from node.erasing import SETS_LOST
from node.erasing.plans import Plans
from node.erasing.purge import LOOK_AGAIN_S
from node.erasure import (
    CHOICE_S,
    DELIVERY_S,
    DUE_S,
    RELAY_S,
    PlanTerms,
    doomed_rounds,
    inventory,
    refused_since,
    state_of,
)
from node.errors import ChainUnreachable, InputError, NotFound, OutcomeUnknown, Refused, VerificationFailed
from node.evaluation import export
from node.history import ErasureHistory
from node.membership import LAST_CHANCES
from node.messages import CommitNotice, GetChunk, GetMap, OpeningNotice, PlanNotice, Refusal, TombstoneNotice
from node.records import (
    ErasureOpened,
    ErasureOpening,
    ErasurePlanned,
    ErasureStepped,
    Finalisation,
    PurgesAttested,
    ReplayGivenUp,
    RoundFailed,
    StudyCreation,
    VerdictsGiven,
)
from node.retention import DAY_S
from node.simulate import Replay, roots, simulation
from node.study import Study, parse_sections
from tests.fakes import byzantine
from tests.fakes.network import Net, SharedTrainer, WatchedNode, dataset, network, receipt, spec
from tests.node.test_forgetting import has_forms, is_anchored

pytestmark = pytest.mark.slow  # whole networks in memory


def state(net: Net, at: int, erasure: str) -> str:
    node = net.nodes[at]
    found = node.history.erasures.get(Digest.from_hex(erasure)) if erasure else None
    return "waiting" if found is None else state_of(found, node.history).value


async def reach(net: Net, erasure: str, wanted: str, at: int = 1) -> None:
    await net.until(lambda: state(net, at, erasure) == wanted)


async def ready(net: Net, erasure: str, at: int = 1) -> None:
    await net.until(lambda: net.certified(Digest.from_hex(erasure), at))


async def erased(net: Net) -> tuple[WatchedNode, Digest, Digest]:
    """A study of one round and the erasure of a patient of member 1, up to its certificate: node, batch, consent."""
    await net.play(spec(rounds=1))
    node = net.nodes[1]
    asked = await node.erasing.request(node, patient="patient-1-0")
    await ready(net, asked["erasure"])
    return node, Digest.from_hex(asked["erasure"]), Digest.from_hex(asked["consents"][0])


def leaf_of(node: WatchedNode, study: Digest, patient: str) -> Leaf:
    vault = node.participant.vault
    assert vault is not None
    consent = vault.find(patient)[0].consent_id
    return next(leaf for leaf in vault.leaves(study) if leaf.consent_id == consent)


def commits(node: WatchedNode, round_id: Digest) -> list[CommitNotice]:
    return [n for n in node.participant.store.notices(round_id, "CommitNotice") if isinstance(n, CommitNotice)]


def used_in(node: WatchedNode, member: int, key: Digest) -> dict[Digest, bool]:
    """Round id -> whether the member's set has the leaf, for every set this node can open."""
    found = {}
    for round_id in list(node.history.rounds):  # the node goes on meanwhile
        for notice in commits(node, round_id):
            if notice.member == member and node.participant.store.has(notice.set.cipher_root):
                found[round_id] = any(e.leaf_key == key for e in node.participant.open_set(notice).entries)
    return found


def assert_purged(node: WatchedNode, erasure: str, kept: dict[Digest, list[CommitNotice]]) -> None:
    """Nothing the plan condemns is in this home; what goes has a tombstone at every member."""
    batch = Digest.from_hex(erasure)
    plan = node.history.erasures[batch].plan
    assert plan is not None
    store = node.participant.store
    for one in doomed_rounds(node.history, plan):
        assert one.final is not None
        gone = [one.final.result.model_root, *(n.update.cipher_root for n in kept[one.opened.round_id])]
        for root in gone:
            assert not store.has(root)
            if node.participant.me is not None:
                stones = store.notices(root, "TombstoneNotice")
                assert any(isinstance(s, TombstoneNotice) and s.member == node.participant.me for s in stones)
        for member in range(4):
            assert store.key(one.opened.round_id, member, BlobKind.UPDATE) is None


async def test_an_erasure_after_the_study_replays_it_purges_it_and_closes(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        study = await net.play(spec(rounds=2))
        node = net.nodes[1]
        leaf, other = leaf_of(node, study, "patient-1-0"), leaf_of(node, study, "patient-1-1")
        vault = node.participant.vault
        assert vault is not None
        secret = vault.annex(leaf.consent_id).leaf_secret
        before = {r: commits(node, r) for r in node.history.rounds}
        assert all(used_in(net.nodes[2], 1, leaf.leaf_key).values())

        asked = await node.erasing.request(node, patient="patient-1-0")
        again = await node.erasing.request(node, consent=leaf.consent_id)
        erasure = asked["erasure"]
        assert again["erasure"] == erasure
        assert again["receipt"] == asked["receipt"]
        with pytest.raises(NotFound, match="no certificate yet"):
            await receipt(node, leaf.consent_id)
        await ready(net, erasure)

        # the replay: same rounds, a new line, without the record
        plan = node.history.erasures[Digest.from_hex(erasure)].plan
        assert plan is not None
        assert (plan.branch, plan.base_height, plan.target_height) == (1, 0, 2)
        assert node.history.finished(study)
        replayed = set(node.history.studies[study].branches[1].rounds.values())
        for at in range(4):
            found = used_in(net.nodes[at], 1, leaf.leaf_key)
            assert set(found) == replayed, "the old sets of the hospital are gone everywhere"
            assert not any(found.values())
            assert_purged(net.nodes[at], erasure, before)
        await net.until(lambda: net.nodes[4].history.erasures[Digest.from_hex(erasure)].moved)
        assert_purged(net.nodes[4], erasure, before)
        assert all(used_in(node, 1, other.leaf_key).values()), "nobody else is left out"
        # sets of the other hospitals stay for the audit
        for round_id, notices in before.items():
            for notice in notices:
                if notice.member != 1:
                    assert node.participant.store.key(round_id, notice.member, BlobKind.SET) is not None

        shown = node.erasing.status(leaf.consent_id, node.now)
        assert [one["level"] for one in shown["claims"]] == ["L0", "L1", "L2", "P"]
        assert shown["overdue"] is False
        assert set(shown["confirmed_by"]) <= {0, 2, 3}
        assert len(shown["confirmed_by"]) >= 2, "n-1-f others; a verdict after theirs is late, not needed"

        paper = await receipt(node, leaf.consent_id)
        await reach(net, erasure, "closed")
        assert vault.holdings(study)[0].consent_id != leaf.consent_id
        with pytest.raises(NotFound):
            await receipt(node, leaf.consent_id)
        bare = await receipt(node, Digest.from_hex(erasure))
        assert "annex" not in bare
        assert certificate.check(document.write(bare), net.network)["annex"] is None
        checked = certificate.check(document.write(paper), net.network)
        assert checked["issuers"] == "checked"
        assert checked["exceptions"]["members"] == []
        assert checked["annex"]["consent_id"] == leaf.consent_id.hex()
        assert [one["finding"] for one in checked["annex"]["first_use"]] == ["present"]
        assert [one["finding"] for one in checked["annex"]["since"]] == ["absent", "absent"]
        # nothing that leads back is left in the hospital's home, and nobody remembers who it was about
        for at in range(4):
            await net.until(lambda at=at: not net.nodes[at].participant.store.notices_of_kind("OpeningNotice"))
        for path in (tmp_path / "member-2").rglob("*"):
            if path.is_file():
                body = path.read_bytes()
                assert secret not in body
                assert secret.hex().encode() not in body
        with pytest.raises(Refused):
            vault.mint(
                "patient-1-0",
                origin=node.desk.origin(study),
                form_id=leaf.form_id,
                document=b"again",
                signed_on=datetime.date(2030, 1, 1),
                issued=datetime.date(2030, 1, 1),
                now=node.now,
            )


async def test_an_erasure_while_the_study_trains_stops_use_at_once_and_training_goes_on(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.create(spec(rounds=4))
        await net.until(lambda: len(net.rounds(1)) >= 3)
        node = net.nodes[1]
        leaf = leaf_of(node, study, "patient-1-3")
        asked = await node.erasing.request(node, patient="patient-1-3")
        await ready(net, asked["erasure"])
        await net.until(lambda: node.history.finished(study))
        branch = node.history.studies[study].branches[node.history.studies[study].active_branch]
        assert branch.number == 1
        for at in range(4):
            assert not any(used_in(net.nodes[at], 1, leaf.leaf_key).values())
        await receipt(node, leaf.consent_id)
        await reach(net, asked["erasure"], "closed")


async def test_rapid_retraining_by_the_network_is_the_simulation_of_it_and_the_study_trains_on(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(spec(rounds=8))
        await net.until(lambda: len(net.rounds(1)) >= 6)
        node = net.nodes[1]
        leaf = leaf_of(node, study, "patient-1-3")
        asked = await node.erasing.request(node, patient="patient-1-3", method="rapid")
        again = await node.erasing.request(node, patient="patient-1-3", method="rapid")
        assert again["erasure"] == asked["erasure"]
        with pytest.raises(Refused, match="has a method already: rapid"):
            await node.erasing.request(node, patient="patient-1-3", method="rollback")
        await ready(net, asked["erasure"])
        await net.until(lambda: all(one.history.finished(study) for one in net.nodes.values()))
        plan = net.of(ErasurePlanned)[0]
        assert (plan.branch, plan.base_height, plan.method) == (1, 0, 3)
        assert plan.rounds == -(-plan.target_height // 4)
        found = roots(node, study)
        assert len(found) == 8 - plan.target_height + plan.rounds
        for at in range(4):
            assert roots(net.nodes[at], study) == found
            assert not any(used_in(net.nodes[at], 1, leaf.leaf_key).values())

        # the model is the one of training so without the record, byte for byte, and of no other method
        replay = Replay(1, plan.branch_seed, UNLEARNERS["rapid"], plan.target_height)
        for one, same in ((replay, True), (replace(replay, method=UNLEARNERS["rollback"]), False)):
            folder = tmp_path / one.method.name
            data = [dataset(member) for member in range(4)]
            async with simulation(folder, data, without=frozenset({"patient-1-3"}), replay=one) as sim:
                number = await sim.study(spec(rounds=8 - one.saved))
                assert (roots(sim.nodes[2], number) == found) is same

        shown = node.erasing.status(Digest.from_hex(asked["erasure"]), node.now)
        assert (shown["plan"]["method"], shown["plan"]["exact"], shown["method_refused"]) == ("rapid", True, None)
        paper = document.write(await receipt(node, leaf.consent_id))
        checked = certificate.check(paper, net.network)
        assert (checked["method"], checked["exact"]) == ("rapid", True)
        assert "by the exact unlearning method rapid" in checked["claims"][2]["sentence"]
        await reach(net, asked["erasure"], "closed")


def squared_lengths(node: WatchedNode, study: Digest, branch: int) -> dict[int, dict[int, int]]:
    """Height -> member -> the squared length of its included update, of a branch's rounds that this node can open."""
    found: dict[int, dict[int, int]] = {}
    for height, round_id in node.history.studies[study].branches[branch].rounds.items():
        for notice in commits(node, round_id):
            key = node.participant.store.key(round_id, notice.member, int(BlobKind.UPDATE))
            assert key is not None
            data = node.participant.store.get(notice.update.cipher_root)
            plain = open_blob(data, key, notice.update, round_id, notice.member, BlobKind.UPDATE)
            size = node.participant.study(study).size
            found.setdefault(height, {})[notice.member] = squared_norm(
                view_ints(decode_update(plain, size).values, size)
            )
    return found


async def test_an_approximate_method_gives_old_lengths_to_new_updates_and_is_named_so_everywhere(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=4, evidence=["L4"]))
        node, other = net.nodes[1], net.nodes[2]
        leaf = leaf_of(node, study, "patient-1-3")
        old, before = squared_lengths(other, study, 0), roots(node, study)
        asked = await node.erasing.request(node, patient="patient-1-3", method="federaser")
        await ready(net, asked["erasure"])
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.target_height, plan.method, plan.rounds) == (0, 4, 5, 2)

        new = squared_lengths(other, study, 1)
        for height, stands_for in ((1, 1), (2, 3)):
            usual = sum(old[stands_for][m] for m in (0, 2, 3)) // 3
            for member, length in new[height].items():
                wanted = usual if member == 1 else old[stands_for][member]
                assert length == pytest.approx(wanted, rel=1e-6)
        for at in range(4):
            assert not any(used_in(net.nodes[at], 1, leaf.leaf_key).values())
        assert roots(node, study)[1] not in before.values(), "trained anew, with one epoch as before and other lengths"

        shown = node.erasing.status(Digest.from_hex(asked["erasure"]), node.now)
        assert (shown["plan"]["method"], shown["plan"]["exact"], shown["method_refused"]) == ("federaser", False, None)
        assert [one["level"] for one in shown["claims"]] == ["L0", "L1", "L2~", "P"]
        assert shown["evidence_missing"] == ["L4"]
        paper = await receipt(node, leaf.consent_id)
        checked = certificate.check(document.write(paper), net.network)
        assert (checked["method"], checked["exact"]) == ("federaser", False)
        assert "by the APPROXIMATE unlearning method federaser" in checked["claims"][2]["sentence"]
        body = {**paper, "erasure": {**paper["erasure"], "exact": True}}
        own = Certificate(1, certificate.digest_of(body))
        body["signature"] = sign(own, node.participant.domains.of(own), node.participant.ring.ledger).hex()
        with pytest.raises(VerificationFailed, match="the plan is not of the exact method 'federaser'"):
            certificate.check(document.write(body), net.network)
        await reach(net, asked["erasure"], "closed")
        kept = f"lengths {asked['erasure']}"
        await net.until(lambda: not any(one.participant.store.meta(kept) for one in net.nodes.values()))


async def test_a_ridge_head_is_made_anew_in_one_round(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        study = await net.play(spec(rounds=2, training={"method": "ridge", "noise": 0.3}))
        node = net.nodes[1]
        leaf, before = leaf_of(node, study, "patient-1-3"), roots(node, study)
        with pytest.raises(Refused, match="no erasure by rapid: it changes how steps are taken"):
            await node.erasing.request(node, patient="patient-1-3", method="rapid")
        asked = await node.erasing.request(node, patient="patient-1-3", method="ridge")
        await ready(net, asked["erasure"])
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.target_height, plan.method, plan.rounds) == (0, 2, 4, 1)
        new = roots(node, study)
        assert list(new) == [1]
        assert new[1] not in before.values()
        for at in range(4):
            assert not any(used_in(net.nodes[at], 1, leaf.leaf_key).values())
            assert not any(net.nodes[at].participant.store.has(root) for height, root in before.items() if height)
        paper = await receipt(node, leaf.consent_id)
        checked = certificate.check(document.write(paper), net.network)
        assert (checked["method"], checked["exact"]) == ("ridge", True)
        assert "L2" in [claim["level"] for claim in checked["claims"]]


async def test_a_method_that_members_cannot_carry_out_is_refused_before_anything_happens(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node, relay = net.nodes[1], net.nodes[3]
        vault = node.participant.vault
        assert vault is not None
        with pytest.raises(InputError, match=r"unknown unlearning method 'rapidly'; known: .*rapid.*rollback"):
            await node.erasing.request(node, patient="patient-1-2", method="rapidly")
        with pytest.raises(Refused, match="no erasure by mode: it begins at the model that is to go"):
            await node.erasing.request(node, patient="patient-1-2", method="mode")
        with pytest.raises(Refused, match="no erasure by federaser: it is approximate and can never show L2"):
            await node.erasing.request(node, patient="patient-1-2", method="federaser")
        card = vault.card(vault.find("patient-1-2")[0].consent_id)
        with pytest.raises(Refused, match="member 1, whose patient this is, chooses the method"):
            await relay.erasing.request(relay, card=cards.encode(card), method="rapid")
        assert not net.of(ErasureOpened)
        assert not node.participant.store.notices_of_kind("ErasureNotice")


async def test_members_refuse_a_method_that_a_hospital_insists_on_and_erase_by_the_default(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node, other = net.nodes[1], net.nodes[2]

        def insists(plans: Plans, batch: Digest, erasure: ErasureHistory, now: int) -> PlanTerms | None:
            plan = planned(plans, batch, erasure, now)
            if plans is not node.erasing.plans or plan is None:
                return plan
            return replace(plan, method=methods.NUMBERS["mode"])

        planned = Plans.planned
        monkeypatch.setattr(Plans, "planned", insists)
        asked = await node.erasing.request(node, patient="patient-1-2")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: bool(other.participant.store.notices(batch, "PlanNotice")))
        refused = other.erasing.status(batch, other.now)["method_refused"]
        assert refused.startswith("the hospital chose mode, which no member carries out: it begins at the model")
        await ready(net, asked["erasure"], at=2)
        plan = net.of(ErasurePlanned)[0]
        assert (methods.name_of(plan.method), plan.rounds) == ("rollback", 1)
        copied = other.history.erasures[batch].times["copy_deleted"]
        assert other.history.erasures[batch].times["planned"] > copied + CHOICE_S
        await ready(net, asked["erasure"])
        certificate.check(document.write(await receipt(node, Digest.from_hex(asked["consents"][0]))), net.network)
        assert node.erasing.status(batch, node.now)["method_refused"] == refused, "its own vote stays what it said"


async def test_a_card_works_at_any_member_and_a_silent_hospital_cannot_stop_the_clock(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node, relay = net.nodes[1], net.nodes[3]
        vault = node.participant.vault
        assert vault is not None
        card = vault.card(vault.find("patient-1-2")[0].consent_id)
        net.freeze(1)
        asked = await relay.erasing.request(relay, card=cards.encode(card))
        assert asked["controller"] == 1
        assert asked["posted"]
        assert asked["erasures"] == []
        assert relay.erasing.status(card.consent_id, relay.now)["state"] == "waiting"
        await net.until(lambda: bool(net.of(ErasureOpened)))
        opened = net.of(ErasureOpened)[0]
        assert (opened.controller, opened.poster) == (1, 3)
        assert opened.opened_at >= asked["receipt"][0]["received_at"] + RELAY_S
        assert opened.due_at == asked["receipt"][0]["received_at"] + DUE_S == asked["due_at"]
        await net.until(lambda: relay.erasing.status(card.consent_id, relay.now)["state"] == "requested")
        net.thaw(1)
        erasure = opened.batch.hex()
        await ready(net, erasure)
        opening = node.participant.store.notices(opened.batch, "OpeningNotice")[0]
        assert isinstance(opening, OpeningNotice)
        assert opening.requests == ((card.consent_id, cards.relay_salt(card.request_erasure)),)
        paper = await receipt(node, card.consent_id)
        assert certificate.check(document.write(paper), net.network)["erasure"] == erasure
        await reach(net, erasure, "closed")
        await net.until(lambda: not relay.participant.store.notices_of_kind("ErasureNotice"))
        assert node.history.finished(study)


async def remove(net: Net, member: int) -> None:
    """The others' votes that a hospital is no member any more."""
    for at in range(len(net.seatings)):
        node = net.nodes.get(at)
        if at != member and node is not None and node.history.registry.members[member].removed is None:
            await node.desk.governance.remove(node, member)
    await net.until(
        lambda: all(
            node.history.registry.members[member].removed is not None for at, node in net.nodes.items() if at != member
        )
    )


@pytest.mark.parametrize("alive", [False, True], ids=["gone", "running"])
async def test_a_card_of_a_removed_hospitals_patient_is_seen_through_by_the_others(
    alive: bool, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2))
        relay, vault = net.nodes[2], net.nodes[3].participant.vault
        assert vault is not None
        card = vault.card(vault.find("patient-3-0")[0].consent_id)
        key = leaf_of(net.nodes[3], study, "patient-3-0").leaf_key
        before = {r: commits(relay, r) for r in relay.history.rounds}
        assert all(used_in(relay, 3, key).values())
        if not alive:
            await net.kill(3)
        await remove(net, 3)
        asked = await relay.erasing.request(relay, card=cards.encode(card))
        assert asked["handed"] is False
        await net.until(lambda: bool(net.of(ErasureOpened)))
        opened = net.of(ErasureOpened)[0]
        assert (opened.controller, opened.poster) == (3, 2)
        erasure = opened.batch.hex()
        await reach(net, erasure, "recipients_attested", at=2)
        plan = relay.history.erasures[opened.batch].plan
        assert plan is not None
        assert (plan.base_height, plan.rounds) == (0, 2), "the first round used the record"
        for at in range(3):
            assert_purged(net.nodes[at], erasure, before)
            assert not any(used_in(net.nodes[at], 3, key).values())
        shown = relay.erasing.status(card.consent_id, relay.now)
        assert shown["hospital_removed"] is True
        assert set(shown["confirmed_by"]) <= {0, 1, 2}
        claims = [one["level"] for one in shown["claims"]]
        assert claims in (["L2", "P"], ["L0", "L2", "P"], ["L0", "L1", "L2", "P"]), "by what the hospital still said"
        assert alive or claims[0] == "L2"
        with pytest.raises(NotFound, match=r"the hospital was removed|no certificate"):
            await receipt(relay, Digest.from_hex(erasure))
        # nobody remembers who it was about
        for at in range(3):
            await net.until(lambda at=at: not net.nodes[at].participant.store.notices_of_kind("OpeningNotice"))
            assert not net.nodes[at].participant.store.notices_of_kind("ErasureNotice")


async def left_behind(net: Net) -> tuple[cards.Card, dict[Digest, list[CommitNotice]]]:
    """A study of two rounds whose hospital 3 is gone for good: a card of its patient, and what the rounds left."""
    await net.play(spec(rounds=2))
    vault = net.nodes[3].participant.vault
    assert vault is not None
    card = vault.card(vault.find("patient-3-0")[0].consent_id)
    before = {r: commits(net.nodes[2], r) for r in net.nodes[2].history.rounds}
    await net.kill(3)
    return card, before


async def seen_through(net: Net, card: cards.Card) -> WatchedNode:
    """Hospital 3 is removed and the card of its patient handed in at the relay, which opened the erasure."""
    await remove(net, 3)
    relay = net.nodes[2]
    await relay.erasing.request(relay, card=cards.encode(card))
    await net.until(lambda: bool(net.of(ErasureOpened)))
    return relay


async def test_who_was_away_purges_for_a_removed_hospital_too_and_the_network_may_move(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        card, before = await left_behind(net)
        relay = await seen_through(net, card)
        await net.kill(1)  # before anybody shows it what the batch is about
        batch = net.of(ErasureOpened)[0].batch
        await net.until(lambda: batch in relay.history.erasures and relay.history.erasures[batch].moved)
        node = await net.start(1)
        await reach(net, batch.hex(), "recipients_attested", at=2)
        assert_purged(node, batch.hex(), before)
        # nobody can close it, and nobody waits for that
        await net.until(lambda: 1 in net.nodes[0].history.erasures[batch].purges)
        await net.nodes[0].desk.governance.succeed(net.nodes[0], bytes(range(20)))


async def test_whoever_knows_what_a_batch_is_about_shows_it_on_for_a_removed_hospital(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        card, _ = await left_behind(net)
        await seen_through(net, card)
        await net.kill(1)
        await net.until(lambda: bool(net.nodes[0].participant.store.notices_of_kind("OpeningNotice")))
        await net.kill(2)  # the relay: one member knows, one does not
        await net.start(1)
        await net.until(lambda: bool(net.of(ErasurePlanned)))
        batch = net.of(ErasureOpened)[0].batch
        opening = net.nodes[1].participant.store.notices(batch, "OpeningNotice")[0]
        assert isinstance(opening, OpeningNotice)
        assert opening.leaf_keys == (), "the root does not bind them"


async def test_what_sets_of_a_removed_hospital_cannot_tell_any_more_counts_as_used(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        card, _ = await left_behind(net)
        net.clock.now += 31 * DAY_S
        for at in range(3):
            store = net.nodes[at].participant.store
            await net.until(
                lambda store=store: all(store.key(r, 3, BlobKind.SET) is None for r in net.nodes[0].history.rounds)
            )
        await remove(net, 3)
        await net.nodes[2].erasing.request(net.nodes[2], card=cards.encode(card))
        await net.until(lambda: bool(net.of(ErasurePlanned)))
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.rounds) == (0, 2)


async def test_what_a_hospital_has_shown_before_it_was_removed_counts_as_it_was_read(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4, auto_join=False) as net:
        study = await net.create(spec(rounds=2, erasure_window_s=600))
        for at, node in net.nodes.items():
            await net.until(partial(has_forms, node, study))
            lines = [f"patient-{at}-{i},f,2027-01-15,patient,dr" for i in range(8)]
            register = "\n".join(["patient_id,form,signed_on,signer,verified_by", *lines])
            await node.desk.grant(node, study, register.encode(), False)
            await net.until(partial(is_anchored, node, study))
        hospital = net.nodes[3]
        consent = hospital.desk.vault.find("patient-3-0")[0].consent_id
        await hospital.desk.withdraw(hospital, consent=consent)  # before any round: its sets do not hold it
        for node in net.nodes.values():
            await node.desk.join(node, study)
        await net.finish(study)
        net.clock.now += 25 * DAY_S  # the sets are there, and would count as lost had the hospital shown nothing
        await hospital.erasing.request(hospital, consent=consent)
        await net.until(lambda: bool(net.nodes[0].participant.store.notices_of_kind("OpeningNotice")))
        await remove(net, 3)
        await net.until(lambda: bool(net.of(ErasurePlanned)))
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.target_height) == (2, 2), "no set held it"
        await net.until(lambda: net.nodes[0].history.erasures[plan.batch].moved)


async def test_a_removed_hospital_that_comes_back_closes_nothing_that_others_did_without_it(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        card, _ = await left_behind(net)
        relay = await seen_through(net, card)
        batch = net.of(ErasureOpened)[0].batch
        await net.until(lambda: batch in relay.history.erasures)
        await reach(net, batch.hex(), "recipients_attested", at=2)
        node = await net.start(3)
        await net.until(lambda: batch in node.history.erasures and node.history.erasures[batch].moved)
        net.clock.now += DELIVERY_S + 1
        looked = net.clock.now
        await net.until(lambda: node.now > looked + 60)
        assert net.of(ErasureStepped) == []
        with pytest.raises(NotFound, match="the hospital was removed"):
            await receipt(node, batch)


async def test_a_card_of_our_own_patient_opens_the_batch_here_and_a_known_hospital_needs_no_relay(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node, relay = net.nodes[1], net.nodes[0]
        vault = node.participant.vault
        assert vault is not None
        card = vault.card(vault.find("patient-1-2")[0].consent_id)
        asked = await relay.erasing.request(relay, card=cards.encode(card))
        assert asked["erasures"] == []
        await net.until(lambda: bool(net.of(ErasureOpened)))
        mine = await node.erasing.request(node, card=cards.encode(card))
        opened = net.of(ErasureOpened)
        assert [(one.poster, one.batch.hex()) for one in opened] == [(1, mine["erasure"])]
        await ready(net, mine["erasure"])
        assert len(net.of(ErasureOpened)) == 1


async def test_a_consent_that_was_in_no_included_set_costs_no_replay(tmp_path: Path, trainer: SharedTrainer) -> None:
    data = [dataset(0), dataset(1), dataset(2), dataset(3, patients=3)]
    async with network(tmp_path, trainer, data=data) as net:
        study = await net.play(spec(rounds=2, min_consents=5))  # member 3 is below the minimum and abstains
        node = net.nodes[3]
        model = node.history.studies[study].head.models[2]
        asked = await node.erasing.request(node, patient="patient-3-0")
        await ready(net, asked["erasure"], at=3)
        plan = net.of(ErasurePlanned)[0]
        assert (plan.branch, plan.base_height, plan.target_height) == (0, 2, 2)
        assert node.participant.store.has(model), "the model knows nothing of the consent and stays"
        consent = Digest.from_hex(asked["consents"][0])
        paper = await receipt(node, consent)
        await reach(net, asked["erasure"], "closed", at=3)
        checked = certificate.check(document.write(paper), net.network)
        assert checked["method"].startswith("no replay")
        assert checked["annex"]["first_use"] is None


async def test_two_hospitals_take_turns_and_a_chain_that_is_away_delays_no_stop(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        one, two = net.nodes[1], net.nodes[2]
        net.doors[1].away = True
        first = await one.erasing.request(one, patient="patient-1-0")
        assert first["posted"] is False
        assert first["erasure"] is not None, "the use has stopped and the batch is known before the chain answers"
        net.doors[1].away = False
        second = await two.erasing.request(two, patient="patient-2-0")
        await ready(net, first["erasure"], at=1)
        await ready(net, second["erasure"], at=2)
        plans = net.of(ErasurePlanned)
        assert {plan.batch.hex() for plan in plans} == {first["erasure"], second["erasure"]}
        assert [plan.branch for plan in plans] == [1, 1]
        assert plans[1].target_height == plans[1].base_height, "the first replay left the other consent out already"
        keys = {
            1: leaf_of(one, study, "patient-1-0").leaf_key,
            2: leaf_of(two, study, "patient-2-0").leaf_key,
        }
        for member, key in keys.items():
            for node in net.nodes.values():
                assert not any(used_in(node, member, key).values())
        by = set()
        for node, asked in ((one, first), (two, second)):
            paper = await receipt(node, Digest.from_hex(asked["consents"][0]))
            checked = certificate.check(document.write(paper), net.network)
            used = [(one["branch"], one["height"], one["finding"]) for one in checked["annex"]["first_use"]]
            assert used == [(0, 1, "present")], "on the line that was replaced, whichever replay did that"
            by.add(checked["method"])
            await reach(net, asked["erasure"], "closed", at=node.participant.me or 0)
        assert by == {"rollback", "no replay: in no model of the line that serves"}


async def test_no_certificate_is_made_of_too_few_votes_and_a_vote_for_another_plan_keeps_out_none_for_this_one(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        node, batch, consent = await erased(net)
        store = node.participant.store
        (own,) = (one for one in store.notices(batch, "PlanNotice") if isinstance(one, PlanNotice) and one.member == 1)
        store.forget_notices(batch, "PlanNotice")
        store.remember(own, own=True)
        for member in (0, 2, 3):  # what they voted for before the line changed, or told us alone
            store.remember(replace(own, member=member, branch_seed=batch), own=False)
        net.cut(1)
        with pytest.raises(NotFound, match="1 of the 3 votes for its plan"):
            await receipt(node, consent)
        assert node.participant.vault is not None
        assert node.participant.vault.find(consent), "what was not made was not handed over"
        net.heal(1)
        certificate.check(document.write(await receipt(node, consent)), net.network)


@pytest.mark.parametrize("alone", [False, True])
async def test_a_link_goes_after_a_month_with_a_certificate_that_nobody_came_for_or_without_one_that_cannot_be_made(
    alone: bool, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        node, batch, consent = await erased(net)
        if alone:
            node.participant.store.forget_notices(batch, "PlanNotice")
            net.cut(1)
        net.clock.now += DELIVERY_S + 1
        await reach(net, batch.hex(), "closed")
        assert node.participant.vault is not None
        with pytest.raises(NotFound):
            node.participant.vault.find(consent)
        if alone:
            with pytest.raises(NotFound, match="has no certificate in this home"):
                await receipt(node, batch)
        else:
            certificate.check(document.write(await receipt(node, batch)), net.network)


async def test_a_certificate_is_compared_with_the_chain_and_its_roster_with_who_made_the_model(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    """What a file cannot show: a hospital signs whatever it likes about a batch, and its accomplices with it."""
    async with network(tmp_path, trainer, 4) as net:
        node, _, consent = await erased(net)
        ring, paper = net.seatings[1].ring, await receipt(node, consent)
        data, history = document.write(paper), net.nodes[2].history
        certificate.check(data, net.network)
        certificate.compare(data, history)

        def resigned(**changed: Any) -> bytes:
            made: dict[str, Any] = json.loads(json.dumps(paper)) | changed
            statement = Certificate(1, certificate.digest_of(made))
            domain = net.network.contracts.domains.of(statement)
            return document.write(made | {"signature": sign(statement, domain, ring.ledger).hex()})

        with pytest.raises(VerificationFailed, match=r"members \[0, 3\] made this model"):
            certificate.check(resigned(roster=0b0110), net.network)
        attests = {"members": [{"index": 2, "name": "member-3"}], "remains": paper["exceptions"]["remains"]}
        with pytest.raises(VerificationFailed, match=r"members \[2\] attested"):
            certificate.check(resigned(exceptions=attests), net.network)

        erasure, plan, models = paper["erasure"], paper["plan"], paper["models"]
        block = paper["blocks"][0]
        for change, message in (
            ({"erasure": erasure | {"batch": "11" * 32}}, "no such erasure"),
            ({"erasure": erasure | {"epoch": 9}}, "epoch is 9, on the chain 1"),
            ({"erasure": erasure | {"extended_to": erasure["due_at"] + 1}}, "extended_to is"),
            ({"erasure": erasure | {"excluded": "22" * 32}}, "excluded is 2222"),
            ({"hospital": {"index": 1, "name": "another"}}, "the hospital is another"),
            ({"plan": plan | {"target_height": 2}}, "target_height of the plan is 2, on the chain 1"),
            ({"branch": 7}, "branch is 7, on the chain 1"),
            ({"models": models | {"before": "33" * 32}}, "the model before is 3333"),
            ({"models": models | {"after": "33" * 32}}, "the model after is 3333"),
            ({"purges": [paper["purges"][0] | {"inventory": "44" * 32}]}, "purge of member 0 is 4444"),
            ({"verdicts": [paper["verdicts"][0] | {"confirmed": False}]}, "verdict of member 0 is False"),
            ({"roster": 0b0110}, r"its roster is without members \[0, 3\]"),
            ({"dates": paper["dates"] | {"planned": "1999-01-01"}}, "the day of planned is 1999-01-01"),
            (
                {"dates": paper["dates"] | {"invented": "1999-01-01"}},
                "the day of invented is 1999-01-01, on the chain None",
            ),
            ({"blocks": [block | {"number": 999}]}, f"the block of {block['state']} is"),
            ({"attestations": [{"level": 4, "seat": 0, "evidence": "55" * 32}]}, "evidence of seat 0 is 5555"),
        ):
            with pytest.raises(VerificationFailed, match=message):
                certificate.compare(resigned(**change), history)


async def test_a_hospital_whose_sets_keep_what_was_erased_is_said_to_be_refused(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    makers, arms = {1: byzantine.KeepsWithdrawn}, {1: byzantine.keeps_copies}
    async with network(tmp_path, trainer, 4, makers=makers, arms=arms) as net:
        study = await net.play(spec(rounds=1))
        node, other = net.nodes[1], net.nodes[2]
        leaf = leaf_of(node, study, "patient-1-0")
        asked = await node.erasing.request(node, consent=leaf.consent_id)
        await ready(net, asked["erasure"])
        batch = Digest.from_hex(asked["erasure"])
        assert refused_since(other.history, other.history.erasures[batch]) == [1]
        (word,) = [one for one in other.erasing.status(batch, other.now)["claims"] if one["level"] == "L1"]
        assert "they left member-2 out of rounds 1 since then" in word["sentence"]
        paper = await receipt(node, leaf.consent_id)
        checked = certificate.check(document.write(paper), net.network)
        assert checked["annex"]["refused_since"] == [1]


@pytest.mark.parametrize("method", ["rollback", "federaser"])
async def test_a_second_erasure_leaves_nothing_of_the_replay_of_the_first(
    method: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    """By rollback the first replay trained on the second patient; by federaser, where that patient was withdrawn before
    it, lengths of updates that did went into it.
    """
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        study = await net.play(spec(rounds=2, evidence=["L4"]))
        one, two = net.nodes[1], net.nodes[2]
        key = leaf_of(two, study, "patient-2-0").leaf_key
        first = await one.erasing.request(one, patient="patient-1-0", method=method)
        if method == "federaser":
            await two.desk.withdraw(two, patient="patient-2-0")
        await ready(net, first["erasure"], at=1)
        used = used_in(two, 2, key)
        middle = one.history.studies[study].branches[1]
        assert {used[round_id] for round_id in middle.rounds.values()} == {method == "rollback"}
        second = await two.erasing.request(two, patient="patient-2-0")
        await ready(net, second["erasure"], at=2)
        plan = net.of(ErasurePlanned)[-1]
        assert (plan.branch, plan.parent_branch, plan.base_height, plan.method) == (2, 0, 0, 1)
        shown = two.erasing.status(Digest.from_hex(second["erasure"]), two.now)
        assert [claim["level"] for claim in shown["claims"]] == ["L0", "L1", "L2", "P"]
        for node in net.nodes.values():
            store, branches = node.participant.store, node.history.studies[study].branches
            assert sorted(branches) == [0, 1, 2]
            for number in (0, 1):
                for height, round_id in branches[number].rounds.items():
                    assert not store.has(branches[number].models[height])
                    for notice in commits(node, round_id):
                        assert not store.has(notice.update.cipher_root)
                        assert store.key(round_id, notice.member, int(BlobKind.UPDATE)) is None
            assert all(store.has(root) for height, root in branches[2].models.items() if height)


def lose(net: Net, kind: type, lost: list[bool]) -> None:
    """While `lost` holds True, no call of this kind reaches the chain."""
    for door in net.doors.values():

        def send(call: Any, send: Any = door.send) -> Any:
            if lost[0] and isinstance(call, kind):
                raise ChainUnreachable("lost on the way")
            return send(call)

        door.send = send  # type: ignore[method-assign]


def blobs_of(node: WatchedNode, round_id: Digest, member: int) -> set[str]:
    """What a home holds of a member's contributions to a round: blobs and keys."""
    store, found = node.participant.store, set()
    for notice in commits(node, round_id):
        if notice.member == member:
            found |= {"update"} if store.has(notice.update.cipher_root) else set()
            found |= {"set"} if store.has(notice.set.cipher_root) else set()
    return found | {f"key {kind.name}" for kind in BlobKind if store.key(round_id, member, int(kind)) is not None}


def stones_of(node: WatchedNode, batch: Digest) -> list[tuple[Digest, int, Digest]]:
    stones = node.erasing._books.all_of(TombstoneNotice, own=True)
    return [(one.content, one.reason, one.subject) for one in stones if one.subject == batch]


async def test_what_never_came_to_the_chain_goes_with_the_rest(tmp_path: Path, trainer: SharedTrainer) -> None:
    """The request comes while the hospital's commit is signed and not posted: the round holds an abstention instead."""
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        study = await net.create(spec(rounds=2))
        await net.until(lambda: len(net.rounds(1)) >= 1)
        net.freeze(3)
        node, number = net.nodes[1], net.rounds(1)[0].opened.round_id
        await net.until(lambda: node.participant.store.own_notice(number, "CommitNotice") is not None)
        net.hold = True
        assert 1 not in net.rounds(1)[0].commits
        asked = await node.erasing.request(node, patient="patient-1-0")
        net.hold = False
        await net.until(lambda: net.rounds(1)[0].over)
        net.thaw(3)
        await net.finish(study)
        await ready(net, asked["erasure"])
        await net.until(lambda: not any(blobs_of(one, number, 1) for one in net.nodes.values()))


async def test_a_failed_round_leaves_neither_model_nor_update_not_even_where_nobody_can_look_any_more(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    """All updates were revealed and added up, and the result was never posted. A member and the auditor come back once
    the opening is forgotten everywhere.
    """
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        lost = [True]
        lose(net, Finalisation, lost)
        study = await net.create(spec(rounds=1))
        await net.until(lambda: bool(net.rounds(1)) and net.rounds(1)[0].over)
        lost[0] = False
        node, number = net.nodes[1], net.rounds(1)[0].opened.round_id
        assert net.rounds(1)[0].failed is not None
        (model,) = {n.result.model_root for n in node.participant.store.notices(number, "VoteNotice") if n.member == 1}
        await net.kill(3)
        await net.kill(4)
        asked = await node.erasing.request(node, patient="patient-1-0")
        await net.finish(study, at=(0, 1, 2))
        await ready(net, asked["erasure"])
        leaf = leaf_of(node, study, "patient-1-0")
        await receipt(node, leaf.consent_id)
        await net.until(lambda: state(net, 1, asked["erasure"]).startswith("closed"))
        for index in (3, 4):
            await net.start(index)
        await net.until(lambda: not any(blobs_of(one, number, 1) for one in net.nodes.values()))
        await net.until(lambda: not any(one.participant.store.has(model) for one in net.nodes.values()))
        await net.until(lambda: 3 in node.history.erasures[Digest.from_hex(asked["erasure"])].purges)


async def test_what_a_member_attested_as_purged_is_all_that_it_purges(tmp_path: Path, trainer: SharedTrainer) -> None:
    """Also of rounds that opened after the copy was gone and before the plan: nobody is asked what is in their sets."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.create(spec(rounds=6, erasure_window_s=10))
        await net.until(lambda: len(net.rounds(1)) >= 2)
        node = net.nodes[1]
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await ready(net, asked["erasure"])
        erasure = node.history.erasures[batch]
        assert erasure.plan is not None
        doomed = doomed_rounds(node.history, erasure.plan)
        late = [one.opened.round_id for one in doomed if one.opened.opened_at > erasure.times["copy_deleted"]]
        assert late
        until = erasure.times["planned"] + node.history.studies[study].created.terms.purge_seconds + LOOK_AGAIN_S
        await net.until(lambda: node.now > until + LOOK_AGAIN_S)
        for member, one in net.nodes.items():
            assert not any(blobs_of(one, number, 1) for number in late)
            assert inventory(stones_of(one, batch)) == node.history.erasures[batch].purges[member]


async def test_a_stray_model_gets_no_tombstone_of_an_erasure_whose_purge_was_attested_before(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        lost = [False]
        lose(net, Finalisation, lost)
        node, batch, _ = await erased(net)
        await net.until(lambda: len(node.history.erasures[batch].purges) == 4)
        lost[0] = True
        await net.create(spec("other", rounds=1))
        await net.until(lambda: any(one.failed is not None for one in net.rounds(1)))
        lost[0] = False
        number = next(one.opened.round_id for one in net.rounds(1) if one.failed is not None)
        (model,) = {n.result.model_root for n in node.participant.store.notices(number, "VoteNotice") if n.member == 1}
        await net.until(lambda: not any(one.participant.store.has(model) for one in net.nodes.values()))
        for member, one in net.nodes.items():
            assert inventory(stones_of(one, batch)) == node.history.erasures[batch].purges[member]


async def test_whose_records_are_erased_is_told_to_the_study_alone(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4, auditor=True) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[1]
        exchange = node._exchange
        assert sorted(exchange.concerned(study)) == sorted(exchange.everyone()), "all members and the auditor are in it"
        node.history.studies[study].joined.discard(3)
        node.history.studies[study].access.clear()
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: bool(net.nodes[2].participant.store.notices(batch, "OpeningNotice")))
        await net.until(lambda: batch in node.erasing.requests.shown)
        for outside in (3, 4):
            assert not net.nodes[outside].participant.store.notices(batch, "OpeningNotice")


async def test_a_hospital_stops_no_clock_by_opening_another_batch_that_it_does_not_show(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node, relay = net.nodes[1], net.nodes[3]
        vault = node.participant.vault
        assert vault is not None
        card = vault.card(vault.find("patient-1-2")[0].consent_id)

        async def silent(*given: Any) -> bool:
            return False

        monkeypatch.setattr(node, "offer_in", silent)
        monkeypatch.setattr(node, "offer_to", silent)
        monkeypatch.setattr(node.erasing, "relayed", silent)
        asked = await relay.erasing.request(relay, card=cards.encode(card))
        assert asked["handed"], "it took the request, and does nothing about it"
        another = await node.erasing.request(node, patient="patient-1-1")
        await net.until(lambda: any(one.poster == 3 for one in net.of(ErasureOpened)))
        opened = {one.poster: one for one in net.of(ErasureOpened)}
        shown = relay.history.erasures[Digest.from_hex(another["erasure"])].times["copy_deleted"]
        assert shown + RELAY_S <= opened[3].opened_at <= shown + RELAY_S + 30
        assert opened[3].due_at == asked["due_at"]


async def test_a_copy_that_another_study_needs_stays_and_no_training_is_ended_for_it(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        first = await net.play(spec(rounds=1))
        second = await net.create(spec("second", rounds=1))
        await net.finish(second)
        node, forgotten, forget = net.nodes[1], [], trainer.forget

        def forgets(kept: Set[int]) -> bool:
            did = forget(kept)
            forgotten.extend([net.clock()] * did)
            return did

        monkeypatch.setattr(trainer, "forget", forgets)
        withdrawn, erased = leaf_of(node, first, "patient-1-1"), leaf_of(node, first, "patient-1-3")
        await node.desk.withdraw(node, consent=withdrawn.consent_id)
        asked = await node.erasing.request(node, consent=erased.consent_id)
        await ready(net, asked["erasure"])
        third = await net.create(spec("third", rounds=1))
        await net.finish(third)
        assert not forgotten
        vault = node.participant.vault
        assert vault is not None
        assert all(one.has_copy for one in vault.find("patient-1-3"))
        shown = node.erasing.status(Digest.from_hex(asked["erasure"]), node.now)
        assert shown["copy_stays"]
        assert net.nodes[2].erasing.status(Digest.from_hex(asked["erasure"]))["copy_stays"] is None, "nobody else knows"
        paper = await receipt(node, erased.consent_id)
        assert "stays where another consent of the same patient" in " ".join(paper["exceptions"]["remains"])

        for one in vault.find("patient-1-1"):
            if one.study in (second, third):
                await node.desk.withdraw(node, consent=one.consent_id)
        await net.until(lambda: bool(forgotten))
        assert not any(one.has_copy for one in vault.find("patient-1-1"))


async def test_an_erasure_takes_nothing_from_the_account_of_disclosures(tmp_path: Path, trainer: SharedTrainer) -> None:
    """It purges the sets of the rounds it replaces, and who else was in them may ask what was disclosed."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2))
        node = net.nodes[1]
        vault = node.participant.vault
        assert vault is not None
        gone, stays = (leaf_of(node, study, f"patient-1-{number}") for number in (0, 1))

        def told(consent: Digest, finding: str) -> list[tuple[int, int]]:
            found = node.desk.findings(consent)
            return [(one["branch"], one["height"]) for one in found if one["finding"] == finding]

        old, both = [(0, 1), (0, 2)], [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert told(stays.consent_id, "present") == told(gone.consent_id, "present") == old
        asked = await node.erasing.request(node, patient="patient-1-0")
        await ready(net, asked["erasure"])
        assert told(stays.consent_id, "present") == both
        assert (told(gone.consent_id, "present"), told(gone.consent_id, "absent")) == (old, both[2:])
        assert [(one["branch"], one["height"], one["used"]) for one in node.desk._uses(stays.consent_id)] == [
            (*place, True) for place in both
        ]
        first = node.history.studies[study].branches[0].rounds[1]
        assert {gone.leaf_key, stays.leaf_key} <= (vault.noted_set(first) or set())

        await receipt(node, gone.consent_id)
        await net.until(lambda: state(net, 1, asked["erasure"]).startswith("closed"))
        assert gone.leaf_key not in (vault.noted_set(first) or {gone.leaf_key}), "its leaf goes with its link"
        by_card = proof.findings(node.history, node.participant, study, 1, gone.leaf_key)
        shown = [one["finding"] for one in sorted(by_card, key=lambda one: (one["branch"], one["height"]))]
        assert shown == ["unknown"] * 2 + ["absent"] * 2, "a note without it no longer says that it was not there"
        assert told(stays.consent_id, "present") == both
        (kept,) = vault.archived("patient-1-0")
        assert kept.first_use_on
        assert kept.last_use_on
        assert set(kept.recipients) > {"member-3"}

        vault._use.delete("set", first)
        assert told(stays.consent_id, "unknown") == old[:1], "what cannot be told is said"
        asked = await node.erasing.request(node, patient="patient-1-1")
        await ready(net, asked["erasure"])
        await receipt(node, stays.consent_id)
        (kept,) = vault.archived("patient-1-1")
        assert (kept.ground, bool(kept.first_use_on)) == (SETS_LOST, True), "and kept with what can"


async def test_an_annex_is_given_again_until_somebody_has_it(tmp_path: Path, trainer: SharedTrainer) -> None:
    """The answer may be lost, or the disk full where it is to be written: nothing is destroyed before."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[1]
        leaf = leaf_of(node, study, "patient-1-0")
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        with pytest.raises(NotFound, match=r"no certificate of erasure .* was made here"):
            await node.erasing.delivered(node, batch, leaf.consent_id)
        await ready(net, asked["erasure"])
        first, number, consent = await node.erasing.receipt(node, batch)
        assert (number, consent) == (batch, leaf.consent_id)
        await net.kill(1)
        node = await net.start(1)
        await net.until(lambda: node.ready and net.certified(batch, 1))
        again, _, _ = await node.erasing.receipt(node, leaf.consent_id)
        assert again["annex"]["first_use"] == first["annex"]["first_use"] is not None
        assert not node.history.erasures[batch].closed
        await node.erasing.delivered(node, batch, leaf.consent_id)
        await net.until(lambda: state(net, 1, asked["erasure"]).startswith("closed"))
        await net.until(lambda: not node.participant.store.notices(batch, "OpeningNotice"))
        await node.erasing.delivered(node, batch, leaf.consent_id)
        kept, _, consent = await node.erasing.receipt(node, batch)
        assert (consent, "annex" in kept) == (None, False)


async def test_a_round_that_runs_hides_no_stray_model_and_loses_none(tmp_path: Path, trainer: SharedTrainer) -> None:
    """Studies of one layout: while one of them trains, what a failed round of another left is found all the same."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[1]
        first = node.participant.studies[study].initial()
        stray = node.participant.store.put("model", first[:-4] + b"\1\0\0\0")
        lost = [True]
        lose(net, Finalisation, lost)
        await net.create(spec("other", rounds=1))
        await net.until(lambda: any(not one.over and node.participant.unsettled_models() for one in net.rounds(1)))
        assert node.erasing.purge._stray_models(len(first)) == {stray}
        lost[0] = False


async def test_what_was_pulled_in_part_goes_too(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node, store = net.nodes[1], net.nodes[3].participant.store
        root = node.history.studies[study].branches[0].models[1]
        whole = store._path(root)
        whole.rename(whole.with_suffix(".partial"))
        store.execute("DELETE FROM content WHERE root = ?", root)
        assert not store.has(root)
        assert store.holds_any(root)
        asked = await node.erasing.request(node, patient="patient-1-0")
        await ready(net, asked["erasure"])
        await net.until(lambda: not store.holds_any(root))


async def test_nobody_joins_a_study_that_begins_at_another_ones_model(tmp_path: Path, trainer: SharedTrainer) -> None:
    """Its first model would be kept by everybody, and no erasure of the other study could reach what is made of it."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[0]
        made = node.history.studies[study].branches[0].models[1]
        other = spec("other", rounds=1)
        terms = other.terms(0, made, node.history.registry.active)
        node.participant.store.put("spec", other.canonical)
        key = node.participant.ring.ledger
        await node.send(StudyCreation(terms, sign(terms, node.participant.domains.of(terms), key)))
        number = study_id(struct_hash(terms))
        await net.until(lambda: all(number in one.participant.studies for one in net.nodes.values()))
        for one in net.nodes.values():
            with pytest.raises(Refused, match="does not begin at the model that its specification gives"):
                await one.desk.join(one, number)
        asked = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-0")
        await ready(net, asked["erasure"])
        await net.until(lambda: not any(one.participant.store.has(made) for one in net.nodes.values()))
        assert not node.history.studies[number].joined


async def test_a_node_without_the_specification_signs_no_plan_until_it_has_it(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1, erasure_window_s=600))
        node, lost = net.nodes[1], net.nodes[3].participant.store
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(
            lambda: all(
                batch in one.history.erasures and "copy_deleted" in one.history.erasures[batch].times
                for one in net.nodes.values()
            )
        )
        net.cut(3)
        lost.remove(node.history.studies[study].created.terms.spec_hash)
        await net.kill(3)
        again = await net.start(3)
        await net.until(lambda: again.ready and again.looks > 20)
        shown = again.erasing.status(batch, again.now)
        assert (shown["state"], shown["plan"], shown["method_refused"]) == ("copy_deleted", None, None)
        await net.until(lambda: bool(net.of(ErasurePlanned)))
        assert not [n for n in again.participant.store.notices(batch, "PlanNotice") if getattr(n, "member", 3) == 3]
        net.heal(3)
        await ready(net, asked["erasure"])
        await net.until(lambda: 3 in node.history.erasures[batch].purges)


async def test_who_has_not_said_that_the_old_pair_is_purged_trains_no_replay_and_gets_no_key_of_it(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2))
        slow, purge = net.nodes[3], net.nodes[3].erasing.purge
        monkeypatch.setattr(purge, "is_dirty", lambda *about: True)
        monkeypatch.setattr(purge, "_purge_here", lambda *about: [])
        old = slow.history.studies[study].branches[0].models[2]
        asked = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await ready(net, asked["erasure"])
        await net.until(lambda: slow.history.erasures[batch].moved)
        replayed = list(slow.history.studies[study].branches[1].rounds.values())
        assert len(replayed) == 2
        for round_id in replayed:
            assert slow.history.rounds[round_id].commits.keys() == {0, 1, 2}
            assert not any(slow.participant.store.key(round_id, member, BlobKind.UPDATE) for member in range(4))
            assert net.nodes[0].participant.store.key(round_id, 2, BlobKind.UPDATE) is not None
        new = [slow.history.studies[study].branches[1].models[height] for height in (1, 2)]
        assert slow.participant.store.has(old)
        assert not any(slow.participant.store.has(model) for model in new)
        await asks_in_vain(slow, new[1])
        assert net.nodes[0].erasing.status(batch, net.nodes[0].now)["pair_attested"] == [0, 1, 2]

        monkeypatch.undo()
        purge.clean.clear()
        await net.until(lambda: 3 in net.nodes[0].history.erasures[batch].purges)
        assert not slow.participant.store.has(old)
        await net.until(lambda: slow.participant.store.has(slow.history.studies[study].branches[1].models[2]))


async def asks_in_vain(node: WatchedNode, model: Digest) -> None:
    """Everybody has this model and gives it to others; `node` is refused it, whatever it thinks that it may have."""
    for member, peer in node.history.registry.members.items():
        if member != node.participant.me:
            for request in (GetMap(model), GetChunk(model, 0)):
                reply = await node._transport.request(peer.peer_id, request, 5.0)
                assert isinstance(reply, Refusal)
                assert "that the old pair of this erasure is purged" in reply.reason


@pytest.mark.parametrize("method", ["rollback", "federaser"])
async def test_a_member_that_is_away_is_named_and_attests_when_it_comes_back(
    method: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1, evidence=["L4"]))
        node = net.nodes[1]
        await net.kill(3)
        asked = await node.erasing.request(node, patient="patient-1-0", method=method)
        await ready(net, asked["erasure"])
        assert node.erasing.status(Digest.from_hex(asked["erasure"]), node.now)["pair_attested"] == [0, 1, 2]
        paper = await receipt(node, Digest.from_hex(asked["consents"][0]))
        checked = certificate.check(document.write(paper), net.network)
        assert checked["exceptions"]["members"] == [{"index": 3, "name": "member-4"}]
        await reach(net, asked["erasure"], "closed_with_exceptions")
        late = await net.start(3)
        await net.until(lambda: 3 in node.history.erasures[Digest.from_hex(asked["erasure"])].purges)
        old = late.history.studies[study].branches[0].models[1]
        assert not late.participant.store.has(old)
        for awake in net.nodes.values():
            assert not awake.participant.store.meta(f"lengths {asked['erasure']}"), "none is kept once it is over"


async def test_who_comes_back_without_the_opening_attests_when_nothing_can_be_condemned_any_more(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    """It does not know whose records are erased: a set that holds them goes once it is too late to be told."""
    async with network(tmp_path, trainer, 4) as net:
        tree = json.loads(spec(rounds=1).canonical)
        tree["windows"]["purge_s"] = 600
        study = await net.play(parse_sections(tree))
        node = net.nodes[1]
        leaf = leaf_of(node, study, "patient-1-0")
        await net.kill(3)
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await reach(net, asked["erasure"], "head_moved")
        late = await net.start(3)
        await net.until(lambda: 3 in node.history.erasures[batch].purges)
        assert late.erasing._books.opening(batch) is None
        assert not any(used_in(late, 1, leaf.leaf_key).values())


@pytest.mark.parametrize("crash_at", ["authorised", "copy_deleted", "planned", "replaying", "head_moved"])
async def test_a_hospital_that_crashes_anywhere_goes_on_where_it_was(
    crash_at: str, tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node = net.nodes[1]
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: crash_at in net.nodes[1].history.erasures.get(batch, _Nothing).times)
        await net.kill(1)
        node = await net.start(1)
        await ready(net, asked["erasure"])
        paper = await receipt(node, Digest.from_hex(asked["consents"][0]))
        assert certificate.check(document.write(paper), net.network)["annex"]["first_use"] is not None
        await reach(net, asked["erasure"], "closed")
        assert any(one.members >> 1 & 1 for one in net.of(PurgesAttested)), "the hospital attests like everybody"
        assert all(one.confirming == one.members for one in net.of(VerdictsGiven))


@pytest.mark.parametrize("lost", [False, True])
async def test_first_steps_travel_with_the_opening_where_nothing_that_met_the_withdrawal_runs(
    tmp_path: Path, trainer: SharedTrainer, lost: bool
) -> None:
    """One transaction instead of two, also where its reply is lost; the copy is gone before anybody hears of it."""
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=1))
        node, door = net.nodes[1], net.doors[1]
        leaf = leaf_of(node, study, "patient-1-0")
        await node.desk.withdraw(node, consent=leaf.consent_id)
        await net.until(lambda: leaf.consent_id in node.history.withdrawals)
        replies = [OutcomeUnknown("the reply was lost")] if lost else []
        door.lose = lambda call: replies.pop() if replies and isinstance(call, ErasureOpening) else None
        asked = await node.erasing.request(node, consent=leaf.consent_id)
        await ready(net, asked["erasure"])
        assert not replies
        (taken,) = [one for one in door.sent if isinstance(one, ErasureOpening)]
        assert (taken.steps.first, len(taken.steps.evidence)) == (1, 2)
        assert [one.first for one in net.of(ErasureStepped)] == [1]
        assert node.history.erasures[Digest.from_hex(asked["erasure"])].times["copy_deleted"] == (
            node.history.erasures[Digest.from_hex(asked["erasure"])].opened.opened_at
        )


async def test_a_model_that_is_taken_during_a_replay_says_so(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2))
        node = net.nodes[1]
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: "replaying" in node.history.erasures.get(batch, _Nothing).times)
        taken = await export(node, study, None)
        assert (taken["branch"], taken["round"], taken["replaying"]) == (1, 0, True)
        await net.until(lambda: "head_moved" in node.history.erasures[batch].times)
        taken = await export(node, study, None)
        assert (taken["branch"], taken["round"], taken["replaying"]) == (1, 2, False)


async def test_nothing_is_extended_once_it_is_confirmed(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node = net.nodes[1]
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: "confirmed" in node.history.erasures.get(batch, _Nothing).times)
        with pytest.raises(Refused, match=r"members have confirmed it.*nothing to extend"):
            await node.erasing.extend(node, batch, 30, "many requests")
        assert node.history.erasures[batch].extended is None


AUTHORITY = "Data Protection Authority, 1 Example Street"


async def test_a_hospital_that_leaves_takes_everything_along(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(spec(rounds=2))
        node = net.nodes[1]
        vault = node.participant.vault
        assert vault is not None
        with pytest.raises(NotFound, match="no consents in study 010101"):
            await node.erasing.request(node, everyone=Digest(b"\x01" * 32))
        asked = await node.erasing.request(node, everyone=study)
        assert len(asked["consents"]) == len(vault.holdings(study)) == 8
        erasure = asked["erasure"]
        await ready(net, erasure)
        batch = Digest.from_hex(erasure)
        plan = node.history.erasures[batch].plan
        assert plan is not None
        assert (plan.base_height, plan.rounds) == (0, 2)
        replayed = node.history.path(study, plan.branch)
        assert [one.final.result.included for one in replayed if one.final is not None] == [0b1101, 0b1101]
        with pytest.raises(Refused, match=rf"not closed yet: {erasure[:12]}, .*without its vote.*--anyway"):
            await node.desk.leave(node, study)
        assert 1 not in node.history.studies[study].left
        assert not vault.row_numbers(ROLE_TRAIN), "the copy is gone"
        for consent in asked["consents"]:  # each patient has a certificate of its own
            paper = await receipt(node, Digest.from_hex(consent))
            checked = certificate.check(document.write(paper), net.network)
            assert checked["annex"]["consent_id"] == consent
        await reach(net, erasure, "closed")
        await node.desk.leave(node, study)
        await net.until(lambda: 1 in net.nodes[0].history.studies[study].left)


def given_up(net: Net, erasure: str, at: int) -> None:
    """The replay ended where it began, the certificate says so, and its rounds kept to the pace of the study."""
    node = net.nodes[at]
    batch = Digest.from_hex(erasure)
    plan = node.history.erasures[batch].plan
    assert plan is not None
    shown = node.erasing.status(batch, node.now)
    assert shown["plan"]["given_up"] is True
    claim = next(one for one in shown["claims"] if one["level"] == "L2")
    assert claim["sentence"].startswith("The replay was given up before a round of it was agreed")
    assert claim["evidence"]["head_model"] == claim["evidence"]["base_model"] == plan.base_model.hex()
    assert net.of(ReplayGivenUp) == [ReplayGivenUp(plan.study, plan.branch, plan.base_model)]
    failed = [one for one in net.of(RoundFailed) if one.branch == plan.branch]
    assert len(failed) >= LAST_CHANCES
    opened = [net.nodes[at].history.rounds[one.round_id] for one in failed]
    window = node.history.studies[plan.study].created.terms
    pace = [two.opened.opened_at - one.opened.opened_at for one, two in pairwise(opened)]
    assert all(seconds > window.scribe_seconds + window.grace_seconds for seconds in pace), "at the study's pace"


async def test_an_erasure_whose_replay_nobody_can_train_ends_at_its_checkpoint(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 2) as net:
        study = await net.play(spec(rounds=2))
        node, other = net.nodes[1], net.nodes[0]
        before = {r: commits(node, r) for r in node.history.rounds}
        asked = await node.erasing.request(node, everyone=study)  # one of two, so that no round has enough
        erasure = asked["erasure"]
        await ready(net, erasure)
        given_up(net, erasure, 1)
        for at in range(2):
            assert_purged(net.nodes[at], erasure, before)
        for consent in asked["consents"]:
            paper = await receipt(node, Digest.from_hex(consent))
            models = certificate.check(document.write(paper), net.network)["models"]
            assert models["after"] == models["base"] != models["before"]
        await reach(net, erasure, "closed")
        # and no later erasure of the study waits behind it
        later = await other.erasing.request(other, patient="patient-0-0")
        await ready(net, later["erasure"], at=0)


async def test_two_hospitals_below_the_fewest_consents_hold_up_no_erasure(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1, min_consents=8))
        one, two = net.nodes[1], net.nodes[2]
        first = await one.erasing.request(one, patient="patient-1-0")
        second = await two.erasing.request(two, patient="patient-2-0")
        await ready(net, first["erasure"], at=1)
        await ready(net, second["erasure"], at=2)
        plans = net.of(ErasurePlanned)
        assert {plan.batch.hex() for plan in plans} == {first["erasure"], second["erasure"]}
        given_up(net, plans[0].batch.hex(), 1)
        for node, asked in ((one, first), (two, second)):
            paper = await receipt(node, Digest.from_hex(asked["consents"][0]))
            certificate.check(document.write(paper), net.network)
            await reach(net, asked["erasure"], "closed", at=node.participant.me or 0)


def promising(study: Study) -> Study:
    """The study with a form on which the end of a consent asks for its erasure."""
    tree = json.loads(study.canonical)
    tree["forms"][0]["on_withdrawal"] = "stop+delete+unlearn"
    return parse_sections(tree)


async def test_a_withdrawal_asks_for_erasure_where_the_form_promises_it_and_a_refusal_stands(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        study = await net.play(promising(spec(rounds=1)))
        node = net.nodes[1]
        vault, history = node.participant.vault, node.history
        assert vault is not None
        leaf, refused = leaf_of(node, study, "patient-1-0"), leaf_of(node, study, "patient-1-1")
        await node.desk.withdraw(node, consent=leaf.consent_id)
        await net.until(lambda: len(history.erasures) == 1)
        (batch,) = history.erasures
        assert history.erasures[batch].opened.controller == 1
        await ready(net, batch.hex())
        assert leaf.leaf_key not in [one.leaf_key for one in vault.leaves(study) if one.rows]
        await receipt(node, leaf.consent_id)
        await reach(net, batch.hex(), "closed")

        node.desk.review_s = 10_000
        await node.desk.withdraw(node, consent=refused.consent_id)
        await net.until(lambda: len(history.erasures) == 2)
        second = next(one for one in history.erasures if one != batch)
        await node.erasing.refuse(node, second, 5, AUTHORITY)
        await reach(net, second.hex(), "refused")
        third = leaf_of(node, study, "patient-1-2")  # something new on the chain: forms are looked at again
        await node.desk.withdraw(node, consent=third.consent_id)
        await net.until(lambda: len(history.erasures) == 3)
        assert vault.find(refused.consent_id)[0].mark == "withdrawn"
        last = next(one for one in history.erasures if one not in (batch, second))
        asked = node.erasing.status(third.consent_id, node.now)
        assert asked["erasure"] == last.hex()
        await net.until(lambda: len(history.erasures) == 3)


async def test_a_withdrawal_asks_for_nothing_else_where_the_form_does_not_promise_it(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        study = await net.play(spec(rounds=1))
        node = net.nodes[1]
        leaf = leaf_of(node, study, "patient-1-0")
        await node.desk.withdraw(node, consent=leaf.consent_id)
        await net.until(lambda: leaf.consent_id in net.nodes[0].history.withdrawals)
        at = net.clock.now
        await net.until(lambda: net.clock.now > at + 30)
        assert not net.nodes[0].history.erasures


class _Nothing:
    times: dict[str, Any] = {}  # noqa: RUF012 - stands for a batch that is not known yet


async def test_only_the_hospital_refuses_and_only_with_a_ground(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.create(spec(rounds=3))
        await net.until(lambda: bool(net.rounds(1)))
        node = net.nodes[1]
        node.desk.review_s = 10_000
        asked = await node.erasing.request(node, patient="patient-1-0")
        batch = Digest.from_hex(asked["erasure"])
        await net.until(lambda: batch in net.nodes[0].history.erasures and batch in node.history.erasures)
        with pytest.raises(InputError, match="ground 9"):
            await node.erasing.refuse(node, batch, 9, AUTHORITY)
        with pytest.raises(Refused, match="member 1's to decide"):
            await net.nodes[0].erasing.refuse(net.nodes[0], batch, 1, AUTHORITY)
        with pytest.raises(NotFound):
            await node.erasing.refuse(node, Digest(bytes(32)), 1, AUTHORITY)
        with pytest.raises(InputError, match="complaint authority"):
            await node.erasing.refuse(node, batch, 5, " ")
        first = node.history.erasures[batch].opened.due_at
        with pytest.raises(InputError, match="62 days"):
            await node.erasing.extend(node, batch, 62, "many requests")
        with pytest.raises(InputError, match="the reason"):
            await node.erasing.extend(node, batch, 30, "two\nlines")
        with pytest.raises(Refused, match="member 1's to decide"):
            await net.nodes[0].erasing.extend(net.nodes[0], batch, 30, "many requests")
        due_at, notice = await node.erasing.extend(node, batch, 61, "forty requests in one week")
        assert due_at == first + 61 * 86_400
        assert "forty requests" in notice
        assert "patient-1-0" not in notice
        await net.until(lambda: all(net.nodes[at].history.erasures[batch].due_at == due_at for at in range(4)))
        shown = node.erasing.status(batch, first + 1)
        assert (shown["due_at"], shown["extended_from"], shown["overdue"]) == (due_at, first, False)
        assert node.erasing.status(batch, due_at + 1)["overdue"]
        with pytest.raises(Refused, match="was extended before"):
            await node.erasing.extend(node, batch, 30, "many requests")
        await net.until(lambda: node.now > node.history.erasures[batch].opened.opened_at + 12)
        assert state(net, 1, asked["erasure"]) == "authorised", "the hospital considers it"
        assert [one.mark for one in node.participant.vault.find("patient-1-0")] == ["withdrawn"], "the use has stopped"
        notice = await node.erasing.refuse(node, batch, 5, AUTHORITY)
        assert AUTHORITY in notice
        assert "legal claims" in notice
        assert "patient-1-0" not in notice
        vault = node.participant.vault
        assert vault is not None
        (kept,) = vault.archived("patient-1-0")
        assert kept.decision == "refused"
        assert kept.extension.endswith("forty requests in one week"), "the reason stays, and only here"
        assert "Art. 17(3)(e)" in kept.ground
        assert AUTHORITY in kept.ground
        assert kept.completed_on == ""
        await reach(net, asked["erasure"], "refused")
        shown = node.erasing.status(batch, node.now)
        assert "legal claims" in shown["refused_on"]
        assert shown["claims"] == []
        with pytest.raises(Refused, match="nothing to extend"):
            await node.erasing.extend(node, batch, 30, "many requests")
        node.desk.review_s = 0
        late = await node.erasing.request(node, patient="patient-1-1")
        batch = Digest.from_hex(late["erasure"])
        await net.until(lambda: batch in node.history.erasures and "excluded" in node.history.erasures[batch].times)
        with pytest.raises(Refused, match="can be refused until it is excluded"):
            await node.erasing.refuse(node, batch, 5, AUTHORITY)
        assert len(vault.archived("patient-1-1")) == 0


def keys_of(checked: dict[str, Any], member: int) -> dict[str, tuple[int, int | None, set[str]]]:
    """Address -> the epochs in which it counts (the last one is not) and what it signed, of a checked certificate."""
    return {
        one["ledger_address"]: (one["from_epoch"], one["until_epoch"], {what.split(": ")[-1] for what in one["signed"]})
        for one in checked["keys"]
        if one["member"] == member
    }


async def test_a_certificate_holds_across_rotations_and_refuses_the_keys_before_them(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        node = net.nodes[1]
        old = {at: net.nodes[at].participant.ring.ledger for at in range(4)}
        asked = await node.erasing.request(node, patient="patient-1-0")
        await net.until(lambda: bool(net.of(ErasurePlanned)))
        new: dict[int, LedgerKey] = {}
        for epoch, at in ((2, 2), (3, 1)):  # another member, then the hospital itself
            new[at] = (await net.rotate(at))[0].ledger
            await net.until(lambda e=epoch: all(n.history.registry.epoch == e for n in net.nodes.values()))  # type: ignore[misc]
        await ready(net, asked["erasure"])
        first = await receipt(node, Digest.from_hex(asked["erasure"]))
        checked = certificate.check(document.write(first), net.network)
        # The erasure goes on with the keys it was opened with; what came after the rotation is by the new ones.
        two, one = keys_of(checked, 2), keys_of(checked, 1)
        before, after = address_text(old[2].address), address_text(new[2].address)
        assert two[before][:2] == (1, 2)
        assert "change of epoch 2" in two[before][2]
        assert two[after][:2] == (2, None)
        assert "vote for the plan" not in two[after][2], "the plan was voted before the rotation"
        assert "the new keys' own statement" in two[after][2]
        assert one[address_text(new[1].address)][0] == 3
        assert "certificate" in one[address_text(new[1].address)][2]
        assert "vote for the plan" in one[address_text(old[1].address)][2]
        assert set(keys_of(checked, 0)) == {address_text(old[0].address)}

        # An erasure opened after the rotations: nothing in it is by a key before them.
        asked = await node.erasing.request(node, patient="patient-1-1")
        await ready(net, asked["erasure"])
        paper = await receipt(node, Digest.from_hex(asked["erasure"]))
        paper = {**paper, "annex": None}
        checked = certificate.check(document.write(paper), net.network)
        two = keys_of(checked, 2)
        assert two[before][2] == {"change of epoch 2"}
        assert "purge" in two[after][2], "of every member; plan and rounds take a quorum, which may do without this one"

        batch = Digest.from_hex(asked["erasure"])
        domains = node.participant.domains

        def forged(signer: LedgerKey, hospital: LedgerKey) -> bytes:
            """The certificate with member 2's last purge signed by this key, and the whole by that one."""
            body = json.loads(json.dumps(paper))
            purge = next(p for p in body["purges"] if p["member"] == 2)
            said = Purged(batch, 2, 1, Digest.from_hex(purge["inventory"]))
            purge["signature"] = sign(said, domains.of(said), signer).hex()
            own = Certificate(1, certificate.digest_of(body))
            body["signature"] = sign(own, domains.of(own), hospital).hex()
            return document.write(body)

        assert certificate.check(forged(new[2], new[1]), net.network)["issuers"] == "checked"
        with pytest.raises(VerificationFailed, match="purge, member 2"):
            certificate.check(forged(old[2], new[1]), net.network)
        with pytest.raises(VerificationFailed, match="certificate, member 1"):
            certificate.check(forged(new[2], old[1]), net.network)


async def test_a_request_while_the_chain_is_still_read_is_told_so(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 4) as net:
        await net.play(spec(rounds=1))
        await net.kill(1)
        net.hold = True
        node = await net.start(1)
        assert not node.history.registry.members
        with pytest.raises(ChainUnreachable, match="still reading the chain: nothing was done"):
            await node.erasing.request(node, patient="patient-1-0")
        net.hold = False
        await net.until(lambda: node.ready)
        asked = await node.erasing.request(node, patient="patient-1-0")
        assert asked["erasure"] is not None


async def test_a_request_names_its_subject(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, 2) as net:
        node = net.nodes[0]
        await net.until(lambda: node.ready)
        with pytest.raises(InputError, match="name a patient"):
            await node.erasing.request(node)
        with pytest.raises(NotFound):
            await node.erasing.request(node, patient="nobody")
        with pytest.raises(NotFound):
            node.erasing.status(Digest(bytes(32)), node.now)
