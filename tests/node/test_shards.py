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
from node.simulate import Replay, roots, simulation
from node.study import Study
from node.training import Arithmetic, Total, carried_over
from tests.fakes.network import Net, SharedTrainer, WatchedNode, dataset, network, spec
from tests.node.test_erasing import leaf_of, reach, ready, receipt, used_in

pytestmark = pytest.mark.slow  # whole networks in memory

TRAINING = {"local_epochs": 1, "batch_size": 4, "learning_rate": 0.05, "shards": 2}
STANDING = frozenset({0, 2})
"""The members of the first of two shards."""


def in_shards(rounds: int = 4, **policy: Any) -> Study:
    return spec(rounds=rounds, training=TRAINING, **policy)


async def trained(net: Net, study: Digest) -> None:
    """Return when every member has seen the study's last round."""
    histories = [one.history for one in net.nodes.values()]
    await net.until(lambda: all(study in one.studies and one.finished(study) for one in histories))


def networks(node: WatchedNode, root: Digest, study: Digest) -> list[bytes]:
    arithmetic = node.participant.study(study)
    return [arithmetic.network_of(node.participant.store.get(root), member) for member in (0, 1)]


async def test_an_erasure_replays_its_shard_alone_and_is_the_run_without_the_record(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=4))
        await trained(net, study)
        node = net.nodes[1]
        old = networks(node, node.history.studies[study].head.models[4], study)
        assert old[0] != old[1]
        leaf = leaf_of(node, study, "patient-1-3")
        before = trainer.trained
        asked = await node.erasing.request(node, patient="patient-1-3")
        await ready(net, asked["erasure"])
        plan = net.of(ErasurePlanned)[0]
        assert (plan.base_height, plan.method, plan.rounds) == (0, methods.NUMBERS["sharded"], 4)
        assert trainer.trained - before == 2 * 4, "two members of the shard, four rounds"
        branch = node.history.studies[study].branches[1]
        new = networks(node, branch.models[4], study)
        assert new[0] == old[0]
        assert new[1] != old[1]
        for height in (1, 2, 3, 4):
            assert networks(node, branch.models[height], study)[0] == old[0], "there from the first round on"
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
        network_of = content_root("model", old[0])
        await net.until(lambda: not any(one.participant.store.holds_any(network_of) for one in net.nodes.values()))


async def test_what_was_carried_over_counts_as_used_from_the_round_that_carried_it(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    """A record of another shard is in its network from the first replayed round on, whatever the sets there say."""
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=3))
        await trained(net, study)
        first = await net.nodes[1].erasing.request(net.nodes[1], patient="patient-1-3")
        await ready(net, first["erasure"])
        before = networks(net.nodes[1], net.nodes[1].history.studies[study].branches[1].models[3], study)
        second = await net.nodes[2].erasing.request(net.nodes[2], patient="patient-2-1")
        await ready(net, second["erasure"], at=2)
        plans = net.of(ErasurePlanned)
        assert [(one.base_height, one.target_height, one.method) for one in plans] == [(0, 3, 2), (0, 3, 2)]
        after = networks(net.nodes[2], net.nodes[2].history.studies[study].branches[2].models[3], study)
        assert after[1] == before[1]
        assert after[0] != before[0]


async def test_a_member_without_its_network_trains_its_shard_again(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path / "net", trainer, 4) as net:
        study = await net.create(in_shards(rounds=2))
        await trained(net, study)
        forgetful = net.nodes[0]
        monkeypatch.setattr(forgetful.erasing, "_keep_shard", lambda erasure: None)
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
