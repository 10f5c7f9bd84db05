"""What a node with nothing to do does: next to nothing, whatever its history and whatever its peers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog.testing

from crypto.digest import Digest
from node.app import NEWS_BURST
from node.desk import IDLE_S
from node.doors import Bucket
from node.messages import Pull, Refusal
from node.vault import Vault
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # a whole network in memory

KINDS = ("waiting", "pending_grants", "pending_anchors", "holdings", "confirm")


async def pass_by(net: Net, seconds: int) -> None:
    """Let chain time pass, a look at the chain of every node in each second."""
    end = net.clock.now + seconds
    await net.until(lambda: net.clock.now >= end)


async def test_ended_studies_cost_the_vault_nothing_but_a_pass_now_and_then(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        for number in range(2):
            await net.play(spec(f"study-{number}"))
        await pass_by(net, 2 * IDLE_S)
        reads: list[str] = []
        for kind in KINDS:

            def counted(
                vault: Vault, *arguments: object, kind: str = kind, honest: object = getattr(Vault, kind)
            ) -> object:
                if vault is net.nodes[0].participant.vault:
                    reads.append(kind)
                return honest(vault, *arguments)  # type: ignore[operator]

            monkeypatch.setattr(Vault, kind, counted)
        before = net.clock.now
        await pass_by(net, 5 * IDLE_S)
        passes = (net.clock.now - before) // IDLE_S + 1
        assert reads.count("confirm") <= passes
        assert reads.count("pending_grants") == reads.count("pending_anchors") == 0, "nothing of theirs waits"
        assert len(reads) <= 4 * passes


async def test_a_peer_is_heard_now_and_then_however_often_it_tells_of_news_or_asks_too_much(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        node, liar, other = net.nodes[0], net.peer_id(1), net.peer_id(2)
        assert sum(node._heeds(liar) for _ in range(1000)) <= NEWS_BURST + 5
        assert node._heeds(other)

        monkeypatch.setattr(Bucket, "open", lambda bucket: False)
        with structlog.testing.capture_logs() as told:
            for _ in range(100):
                answer = node._server.answer(liar, Pull(Digest(bytes(32))), net.clock.now)
                assert isinstance(answer, Refusal)
                with monkeypatch.context() as rested:  # a little of its share is back, and used up again
                    rested.setattr(Bucket, "open", lambda bucket: True)
                    node._server.answer(liar, Pull(Digest(bytes(32))), net.clock.now)
        assert [one["member"] for one in told if "used up its share" in one["event"]] == [1]


async def test_a_node_has_no_worker_before_there_is_a_study_and_has_it_before_the_first_round(tmp_path: Path) -> None:
    trainer = SharedTrainer()
    worker = trainer._worker
    try:
        async with network(tmp_path, trainer, 3) as net:
            await net.until(lambda: all(node.ready for node in net.nodes.values()))
            await pass_by(net, 10)
            assert worker.pid is None
            study = await net.create(spec(rounds=1))
            await net.until(lambda: worker.pid is not None)
            assert not trainer.trained
            await net.finish(study)
            assert trainer.trained == 3
    finally:
        trainer.end()


async def test_a_node_that_comes_back_after_the_last_study_has_ended_starts_no_worker(
    tmp_path: Path, trainer: SharedTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with network(tmp_path, trainer, 3) as net:
        await net.play(spec(rounds=1))
        await net.kill(0)
        warmed: list[None] = []
        monkeypatch.setattr(SharedTrainer, "warm", lambda _: warmed.append(None))
        node = await net.start(0)
        await net.until(lambda: node.ready)
        await pass_by(net, 10)
        assert not warmed
