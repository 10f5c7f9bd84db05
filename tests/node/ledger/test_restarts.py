"""A client that is stopped and started again from what it kept, with a block time: the node goes on where it was."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from crypto.commitments import study_id
from crypto.keys import LedgerKey
from crypto.statements import struct_hash
from node.abi import Codec
from node.errors import ChainUnreachable
from node.ledger import EthereumClient
from node.records import StudyCreation
from tests.node.ledger.conftest import ANVIL, COIN, Chain
from tests.node.ledger.test_endpoints import Reader
from tests.node.ledger.world import World

pytestmark = pytest.mark.slow


@contextmanager
def running(port: int, chain_id: int, state: Path) -> Iterator[None]:
    command = [str(ANVIL), "--port", str(port), "--chain-id", str(chain_id), "--hardfork", "prague", "--accounts", "1"]
    command += ["--max-persisted-states", "1"]
    command += ["--block-time", "1", "--state", str(state)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("Listening on" in line for line in process.stdout)
        try:
            yield
        finally:
            process.terminate()
            process.communicate(timeout=20)


Run = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def restarting(tmp_path: Path) -> tuple[Chain, Run]:
    """A chain that does not run yet, and a way to run it, again and again from the same state."""
    if not ANVIL.exists():
        pytest.skip(f"no anvil at {ANVIL}: run scripts/setup with node.js present")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    operator, chain_id = LedgerKey.generate(), 2**40 + secrets.randbelow(2**40)
    made = Chain(f"http://127.0.0.1:{port}", operator, lambda client, seconds: client.call("evm_increaseTime", seconds))
    return made, lambda: running(port, chain_id, tmp_path / "state.json")


def test_a_client_that_restarts_from_its_state_is_followed_on(
    restarting: tuple[Chain, Run], make_real: Callable[[Chain], World], codec: Codec, tmp_path: Path
) -> None:
    chain, run = restarting
    with run():
        EthereumClient(chain.url, None).call("anvil_setBalance", "0x" + chain.operator.address.hex(), hex(COIN))
        real = make_real(chain)
        node = Reader(tmp_path / "home", real, codec, chain.url)
        first = real.terms()
        real.send(StudyCreation(first, real.sign(0, first)))
        node.look()
        done = node.follower.done
    with pytest.raises(ChainUnreachable):
        node.look()
    with run():
        node.look()
        second = real.terms(rounds=7)
        real.send(StudyCreation(second, real.sign(0, second)))
        node.look()
        assert node.follower.done > done
        assert {study_id(struct_hash(one)) for one in (first, second)} == set(node.history.studies)
    node.store.close()
