"""A study in shards: whose records are erased costs one shard's training, and nobody else's network moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.digest import Digest, content_root
from fl_engine.errors import EngineError
from fl_engine.models.shards import Shards, together
from fl_engine.params import ParamSpec, decode_model
from fl_engine.unlearning import UNLEARNERS
from node import certificate, document, methods
from node.errors import InputError, Refused
from node.records import ErasurePlanned
from node.round import BelowMinimum, Train
from node.simulate import Replay, roots, simulation
from node.study import Study
from node.training import Arithmetic, Total, carried_over, model_root
from tests.fakes.network import Net, SharedTrainer, dataset, network, spec
from tests.node.test_erasing import leaf_of, reach, ready, receipt, used_in

pytestmark = pytest.mark.slow  # whole networks in memory

TRAINING = {"local_epochs": 1, "batch_size": 4, "learning_rate": 0.05, "shards": 2}
STANDING = frozenset({0, 2})
"""The members of the first of two shards."""


def in_shards(rounds: int = 4, **policy: Any) -> Study:
    return spec(rounds=rounds, training=TRAINING, **policy)


async def networks(net: Net, at: int, root: Digest, study: Digest) -> list[bytes]:
    """Both shards' networks of a model, once a member has it."""
    participant = net.nodes[at].participant
    await net.until(lambda: participant.store.has(root))
    return [participant.study(study).network_of(participant.store.get(root), member) for member in (0, 1)]


async def test_an_erasure_replays_its_shard_alone_and_is_the_run_without_the_record(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=4))
        await net.finish(study)
        node = net.nodes[1]
        old = await networks(net, 1, node.history.studies[study].head.models[4], study)
        assert old[0] != old[1]
        leaf = leaf_of(node, study, "patient-1-3")
        before = trainer.trained
        asked = await node.erasing.request(node, patient="patient-1-3")
        await ready(net, asked["erasure"])
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.method, plan.rounds) == (0, methods.NUMBERS["sharded"], 4)
        assert trainer.trained - before == 2 * 4, "two members of the shard, four rounds"
        branch = node.history.studies[study].branches[1]
        new = await networks(net, 1, branch.models[4], study)
        assert new[0] == old[0]
        assert new[1] != old[1]
        for height in (1, 2, 3, 4):
            assert (await networks(net, 1, branch.models[height], study))[0] == old[0], "from the first round on"
        found = roots(node, study)
        for at in range(4):
            assert roots(net.nodes[at], study) == found
            assert not any(used_in(net.nodes[at], 1, leaf.leaf_key).values())

        # the model is that of a study that never had the record, under the same beacons: the shard's new ones
        one = Replay(1, plan.branch_seed, UNLEARNERS["sharded"], plan.target_height, STANDING)
        for replay, same in ((one, True), (replace(one, standing=frozenset()), False)):
            data = [dataset(member) for member in range(4)]
            folder = tmp_path / f"standing-{len(replay.standing)}"
            async with simulation(folder, data, without=frozenset({"patient-1-3"}), replay=replay) as sim:
                number = await sim.study(in_shards(rounds=4))
                assert (roots(sim.nodes[2], number)[4] == found[4]) is same

        paper = document.write(await receipt(node, leaf.consent_id))
        checked = certificate.check(paper, net.network)
        assert (checked["method"], checked["exact"]) == ("sharded", True)
        await reach(net, asked["erasure"], "closed")
        network_of = content_root("shard", old[0])
        await net.until(lambda: not any(one.participant.store.holds_any(network_of) for one in net.nodes.values()))


async def test_what_was_carried_over_counts_as_used_from_the_round_that_carried_it(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    """A record of another shard is in its network from the first replayed round on, whatever the sets there say."""
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=3))
        await net.finish(study)
        first = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-3")
        await ready(net, first["erasure"])
        before = await networks(net, 1, net.nodes[1].history.studies[study].branches[1].models[3], study)
        second = await net.nodes[2].erasing.request(net.nodes[2], patient="patient-2-1")
        await ready(net, second["erasure"], at=2)
        plans = net.of(ErasurePlanned)
        assert [(one.base_height, one.target_height, one.method) for one in plans] == [(0, 3, 2), (0, 3, 2)]
        after = await networks(net, 2, net.nodes[2].history.studies[study].branches[2].models[3], study)
        assert after[1] == before[1]
        assert after[0] != before[0]


@pytest.mark.parametrize("method", [None, "federaser"])
async def test_what_is_carried_after_a_record_went_out_of_use_goes_as_well(
    tmp_path: Path, trainer: SharedTrainer, method: str | None
) -> None:
    """Two requests at once: the second copy is gone before the first replay carries over what it was in."""
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=3, evidence=["L4"]))
        await net.finish(study)
        old = await networks(net, 1, net.nodes[1].history.studies[study].head.models[3], study)
        first = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-3", method=method)
        second = await net.nodes[2].erasing.request(net.nodes[2], patient="patient-2-1")
        await ready(net, first["erasure"])
        await ready(net, second["erasure"], at=2)
        plans = {one.batch.hex(): one for one in net.of(ErasurePlanned)}  # in either order: both were asked for at once
        assert [one.base_height for one in plans.values()] == [0, 0]
        assert plans[second["erasure"]].method == methods.NUMBERS["sharded"]
        models = net.nodes[2].history.studies[study].head.models
        new = await networks(net, 2, models[max(models)], study)
        assert [a != b for a, b in zip(new, old, strict=True)] == [True, True]


async def test_a_shard_whose_member_was_away_is_where_it_stood_when_it_comes_back(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four shards of a member each: the replay goes on without one of them, and costs it nothing that it had learnt."""
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(spec(rounds=16, training={**TRAINING, "shards": 4}, suspend_after=15))
        await net.until(lambda: len(net.rounds(1)) >= 4)

        async def abstains(effect: Train) -> tuple[BelowMinimum]:
            return (BelowMinimum(),)

        def has_it() -> bool:
            """Whether it has a model of a round that it was not in: its shard as it stands from now on."""
            finals = [one.final.result for one in net.rounds(1) if one.final]
            store = net.nodes[3].participant.store
            return any(not one.included >> 3 & 1 and store.has(one.model_root) for one in finals)

        monkeypatch.setattr(net.nodes[3], "_train_alone", abstains)
        await net.until(has_it)
        await net.kill(3)
        node = net.nodes[1]
        arithmetic, models = node.participant.study(study), node.participant.store
        stands = arithmetic.network_of(models.get(net.rounds(1)[-1].opened.parent_model), 3)
        asked = await node.erasing.request(node, patient="patient-1-3")
        await ready(net, asked["erasure"])
        plan, store = net.of(ErasurePlanned)[0], (await net.start(3)).participant.store
        await net.finish(study)
        line = node.history.studies[study].branches[1].models
        await net.until(lambda: all(models.has(root) for root in line.values()))
        stood = [model_root(arithmetic.network_of(models.get(line[height]), 3)).hex() for height in sorted(line)]
        stands_root = model_root(stands).hex()
        assert stands_root in stood[plan.rounds :], "after the replay, which it missed"
        assert stood[-1] != stands_root, "and then it trained on"
        await net.until(lambda: not store.holds_any(content_root("shard", stands)))


async def test_a_kept_network_is_no_model_of_a_study_without_shards(tmp_path: Path, trainer: SharedTrainer) -> None:
    """Byte for byte it may be one: the other study's erasure takes nothing from it, and its end nothing from there."""
    async with network(tmp_path / "net", trainer, 4) as net:
        studies = [await net.create(in_shards(rounds=2)), await net.create(spec("plain", rounds=2))]
        for study in studies:
            await net.finish(study)
        before = await networks(net, 1, net.nodes[1].history.studies[studies[0]].head.models[2], studies[0])
        asked = [
            await net.nodes[at].erasing.request(
                net.nodes[at],
                consent=next(
                    one.consent_id for one in net.nodes[at].desk.vault.find(f"patient-{at}-3") if one.study == study
                ),
            )
            for at, study in zip((1, 3), studies, strict=True)
        ]
        for at, one in zip((1, 3), asked, strict=True):
            await ready(net, one["erasure"], at=at)
        history = net.nodes[1].history.studies[studies[0]]
        assert (await networks(net, 1, history.branches[1].models[2], studies[0]))[0] == before[0]
        first = net.nodes[0].history.studies[studies[1]].created.terms.initial_model
        assert all(one.participant.store.has(first) for one in net.nodes.values())


async def test_a_member_without_its_network_trains_its_shard_again(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=2))
        await net.finish(study)
        forgetful = net.nodes[0]
        monkeypatch.setattr(forgetful.erasing.purge, "_keep_shard", lambda erasure: None)
        before = trainer.trained
        asked = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-3")
        await ready(net, asked["erasure"])
        assert trainer.trained - before == 2 * 3, "two of the shard and the one that has nothing, in two rounds"
        assert all(one.final and one.final.result.included == 0b1111 for one in net.rounds(1) if one.opened.branch == 1)


async def test_a_study_in_which_nobody_trains_a_shard_is_not_founded(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path / "net", trainer, 3) as net:
        with pytest.raises(Refused, match=r"training\.shards = 4, and no invited member is of shard 4"):
            await net.create(spec(training={**TRAINING, "shards": 4}))


def test_a_shards_sum_is_of_its_own_members_and_the_others_stay() -> None:
    arithmetic = Arithmetic(in_shards())
    parent, size = arithmetic.initial(), arithmetic.size
    assert arithmetic.layout.size == 2 * size
    assert len(parent) == arithmetic.model_length()
    one, other = (np.full(size, value, "<i4").tobytes() for value in (3, 10))
    total = Total(arithmetic)
    with pytest.raises(EngineError, match="no update"):
        Total(arithmetic).model(parent)
    total.add(1, one, 5)
    total.add(3, other, 2)
    model = total.model(parent)
    assert arithmetic.network_of(model, 0) == arithmetic.network_of(parent, 0)
    moved = decode_model(arithmetic.network_of(model, 1))[1] - decode_model(arithmetic.network_of(parent, 1))[1]
    assert set(moved.tolist()) == {5}, "(3 * 5 + 10 * 2) / 7"


def test_what_one_round_cannot_carry_the_next_one_does() -> None:
    arithmetic = Arithmetic(in_shards())
    start, limit = arithmetic.initial(), arithmetic.grid.limit
    far = start
    for value in (limit, limit // 2):
        far = arithmetic.next_model(far, [(0, np.full(arithmetic.size, value, "<i4").tobytes(), 1)])
    goal = arithmetic.network_of(far, 0)
    steps = []
    while arithmetic.network_of(start, 0) != goal:
        step = carried_over(arithmetic, start, goal, 0, 7)
        assert (step.loss, step.records) == (None, 7)
        assert arithmetic.in_range(step.values)
        start = arithmetic.next_model(start, [(0, step.values, 7), (2, step.values, 9)])
        steps.append(step)
    assert len(steps) == 2
    assert not np.frombuffer(carried_over(arithmetic, start, goal, 0, 7).values, "<i4").any()


def test_shards_answer_by_their_mean_probability_and_one_alone_as_it_is() -> None:
    sure, unsure = np.array([[4.0, 0.0]], np.float32), np.array([[0.0, 0.0]], np.float32)
    assert together([sure]) is sure
    found = np.exp(together([sure, unsure]).astype(np.float64))
    expected = (np.exp([4.0, 0.0]) / np.exp([4.0, 0.0]).sum() + 0.5) / 2
    assert np.allclose(found, expected, atol=1e-6)
    assert np.isfinite(together([np.array([[500.0, -500.0]], np.float32)] * 2)).all()


def test_a_layout_names_its_shards_and_another_one_is_refused() -> None:
    network = ParamSpec((("head.weight", (2, 3)), ("head.bias", (2,))))
    for count in (1, 2, 4):
        assert Shards.of_layout(Shards(network, count).layout) == Shards(network, count)
    torn = ParamSpec((*Shards(network, 2).layout.tensors[:-1],))
    with pytest.raises(EngineError, match="layout of a model in shards"):
        Shards.of_layout(torn)


def test_a_study_is_in_shards_or_is_statistics() -> None:
    assert methods.default_of(spec()).name == "rollback"
    assert methods.default_of(in_shards()).name == "sharded"
    with pytest.raises(Refused, match="needs a study founded with shards"):
        methods.find("sharded", spec())
    assert spec().canonical == spec(training={**TRAINING, "shards": 1}).canonical
    with pytest.raises(InputError, match=r"training.shards = 2 with training.method = ridge"):
        Arithmetic(spec(training={"method": "ridge", "noise": 0.5, "shards": 2}))
