"""A node whose studies are over reads nothing of them again while nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.desk import IDLE_S
from node.vault import Vault
from tests.fakes.network import Net, SharedTrainer, network, spec

pytestmark = pytest.mark.slow  # a whole network in memory

KINDS = ("waiting", "pending_grants", "pending_anchors", "holdings", "confirm")


@pytest.fixture(scope="module")
def trainer() -> Iterator[SharedTrainer]:
    shared = SharedTrainer()
    yield shared
    shared.end()


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
