from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.chain.engine import Engine
from node.chain.genesis import chain_folder
from node.chain.journal import journal_file
from tests.node.chain.chain_kit import Chain, ChainProcess, StandingClock, genesis


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def chain(clock: StandingClock) -> Chain:
    return Chain(Engine(genesis(), clock))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A network home with the test genesis."""
    folder = chain_folder(tmp_path)
    folder.mkdir()
    (folder / "genesis.json").write_bytes(genesis().to_bytes())
    return tmp_path


@pytest.fixture
def journalled(home: Path, clock: StandingClock) -> Path:
    """A home whose journal has four blocks, the third with two transactions; the chain is closed."""
    engine = Engine.open(home, clock)
    chain = Chain(engine)
    chain.mine()
    chain.mine(value=2)
    chain.send()
    chain.mine()
    chain.mine(value=3)
    engine.close()
    assert len(journal_file(home).read_bytes().splitlines()) == 4
    return home


@pytest.fixture
def process(home: Path) -> Iterator[ChainProcess]:
    running = ChainProcess(home, "--test-clock")
    try:
        yield running
    finally:
        running.kill()
