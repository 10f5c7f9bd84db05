"""Whole studies in one process: the model depends on data and specification, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import InputError
from node.messages import CommitNotice
from node.simulate import roots, simulation
from node.training import model_root
from tests.fakes.network import Net, SharedTrainer, dataset, network, spec

pytestmark = pytest.mark.slow  # whole networks in memory


async def played(home: Path, trainer: SharedTrainer, members: int, name: str, rounds: int = 2) -> dict[int, str]:
    async with network(home, trainer, members) as net:
        study = await net.play(spec(name, rounds=rounds))
        each = [roots(node, study) for node in net.nodes.values()]
        assert all(one == each[0] for one in each), "two members do not agree"
        assert len(each[0]) == rounds
        return each[0]


@pytest.mark.parametrize("members", [2, 3, 4, 5])
async def test_same_data_give_the_same_models_whatever_the_keys_and_the_name(
    members: int, tmp_path: Path, trainer: SharedTrainer
) -> None:
    one = await played(tmp_path / "one", trainer, members, "a study")
    other = await played(tmp_path / "other", trainer, members, "another name")
    assert one == other
    assert len(set(one.values())) == 2, "a round without effect"


async def test_other_data_give_other_models(tmp_path: Path, trainer: SharedTrainer) -> None:
    async def root_with(home: Path, last: int) -> str:
        async with network(home, trainer, 2, data=[dataset(0), dataset(last)]) as net:
            return roots(net.nodes[0], await net.play(spec()))[1]

    assert await root_with(tmp_path / "one", 1) != await root_with(tmp_path / "other", 2)


async def test_the_simulator_itself_gives_the_roots_of_the_driven_network(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    seen: list[int] = []
    async with simulation(tmp_path / "simulated", [dataset(0), dataset(1)]) as sim:
        study = await sim.study(spec("simulated", rounds=2), lambda height, root: seen.append(height))
        simulated = [roots(node, study) for node in sim.nodes]
    assert seen == [1, 2]
    assert simulated[0] == simulated[1] == await played(tmp_path / "driven", trainer, 2, "driven")


async def test_one_data_set_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 data sets"):
        async with simulation(tmp_path, [dataset(0)]):
            pass


async def test_a_member_below_the_minimum_abstains_and_the_study_goes_on(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    data = [dataset(0), dataset(1), dataset(2), dataset(3, patients=3)]
    async with network(tmp_path, trainer, data=data) as net:
        await net.play(spec(rounds=3, min_consents=5))
        for one in net.rounds(0):
            assert one.abstained == {3}
            assert one.final is not None
            assert (one.final.attempt, one.final.result.included, one.final.result.codes) == (0, 0b0111, 0)
            assert one.opened.suspended == 0, "who abstains misses nothing"


async def test_two_of_four_below_the_minimum_fail_every_round_without_revealing(
    tmp_path: Path, trainer: SharedTrainer
) -> None:
    data = [dataset(0), dataset(1), dataset(2, patients=3), dataset(3, patients=3)]
    async with network(tmp_path, trainer, data=data) as net:
        study = await net.create(spec(min_consents=5))
        await net.until(lambda: sum(one.failed is not None for one in net.rounds(0)) >= 2)
        failed = [one for one in net.rounds(0) if one.failed is not None]
        assert all(one.abstained == {2, 3} for one in failed)
        assert not net.nodes[0].history.finished(study)
        for node in net.nodes.values():
            for one in failed:
                for member in {0, 1} - {node.participant.me}:
                    assert node.participant.store.key(one.opened.round_id, member, 0) is None


async def holds_everything(net: Net, auditor: int) -> None:
    """Every ciphertext, key, model and notice of every final round is at the auditor."""
    node = net.nodes[auditor]
    for one in net.rounds(0):
        round_id = one.opened.round_id
        store = node.participant.store
        notices = {n.member: n for n in store.notices(round_id, "CommitNotice") if isinstance(n, CommitNotice)}
        assert set(notices) == set(one.commits)
        assert all(node.participant.holds(notice) for notice in notices.values())
        assert one.final is not None
        model = store.get(one.final.result.model_root)
        assert model_root(model) == one.final.result.model_root


async def test_the_auditor_holds_everything_and_computed_it_itself(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, auditor=True) as net:
        await net.play(spec(rounds=3))
        auditor = net.nodes[4]

        def read() -> bool:
            machines = [auditor.participant.rounds.get(one.opened.round_id) for one in net.rounds(0)]
            return all(m is not None and bool(m.facts.results) for m in machines)

        await net.until(read)
        await holds_everything(net, 4)
        for one in net.rounds(0):
            assert one.final is not None
            mine = auditor.participant.rounds[one.opened.round_id].facts.results
            assert list(mine.values()) == [one.final.result]
        own = auditor.participant.store.notices_of_kind
        assert not any(own(kind, own=True) for kind in ("CommitNotice", "VoteNotice", "HaveNotice", "CloseNotice"))


async def test_an_auditor_that_comes_late_still_gets_everything(tmp_path: Path, trainer: SharedTrainer) -> None:
    async with network(tmp_path, trainer, auditor=True, start=range(4)) as net:
        await net.play(spec(rounds=2))
        await net.start(4)
        auditor = net.nodes[4]

        def read() -> bool:
            machines = [auditor.participant.rounds.get(one.opened.round_id) for one in net.rounds(0)]
            return len(machines) == 2 and all(m is not None and bool(m.facts.results) for m in machines)

        await net.until(read)
        await holds_everything(net, 4)
