"""A client that is stopped and started again from what it kept, with a block time: the node goes on where it was."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from crypto.commitments import study_id
from crypto.keys import LedgerKey
from crypto.statements import struct_hash
from node.abi import Codec
from node.errors import ChainUnreachable
from node.ledger import EthereumClient
from node.records import StudyCreation
from tests.anvil import anvil, need_anvil
from tests.node.ledger.conftest import COIN, Chain
from tests.node.ledger.test_endpoints import Reader
from tests.node.ledger.world import World

pytestmark = pytest.mark.slow


Run = Callable[[], AbstractContextManager[str]]


@pytest.fixture
def restarting(tmp_path: Path) -> tuple[Chain, Run]:
    """A chain that does not run yet, and a way to run it, again and again from the same state."""
    need_anvil()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    operator, chain_id = LedgerKey.generate(), 2**40 + secrets.randbelow(2**40)
    made = Chain(f"http://127.0.0.1:{port}", operator, lambda client, seconds: client.call("evm_increaseTime", seconds))
    state = ("--block-time", "1", "--state", str(tmp_path / "state.json"))
    return made, lambda: anvil(*state, port=port, chain_id=chain_id)


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
