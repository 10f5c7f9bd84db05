from __future__ import annotations

import threading
from pathlib import Path

import pytest

from node.chain.fund import fund
from node.chain.genesis import create_genesis
from node.errors import ChainUnreachable, InputError, LedgerError, NotFound
from tests.node.chain.chain_kit import ChainProcess

pytestmark = pytest.mark.slow  # chains in processes of their own

NEWCOMER = b"\x42" * 20


@pytest.fixture
def funded_home(tmp_path: Path) -> Path:
    create_genesis(tmp_path, {})
    return tmp_path


def test_a_newcomer_gets_coin(funded_home: Path) -> None:
    running = ChainProcess(funded_home)
    try:
        assert fund(funded_home, NEWCOMER, 10**18).balance == 10**18
        assert fund(funded_home, NEWCOMER, 5, url=running.url).balance == 10**18 + 5
    finally:
        running.kill()
    with pytest.raises(ChainUnreachable, match="no chain answers"):
        fund(funded_home, NEWCOMER, 1)


def test_two_who_fund_at_once_both_succeed(funded_home: Path) -> None:
    running = ChainProcess(funded_home)
    try:
        helpers = [
            threading.Thread(target=fund, args=(funded_home, bytes([i]) * 20, 7), kwargs={"url": running.url})
            for i in range(1, 4)
        ]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        assert [fund(funded_home, bytes([i]) * 20, 1).balance for i in range(1, 4)] == [8, 8, 8]
    finally:
        running.kill()


def test_another_chain_at_the_address_is_refused(funded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    create_genesis(other, {})
    running = ChainProcess(other)
    try:
        with pytest.raises(LedgerError, match="has id"):
            fund(funded_home, NEWCOMER, 1, url=running.url)
    finally:
        running.kill()


def test_bad_requests_are_named(funded_home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match="20 bytes, not 19"):
        fund(funded_home, b"\1" * 19, 1)
    with pytest.raises(InputError, match="0 wei"):
        fund(funded_home, NEWCOMER, 0)
    with pytest.raises(InputError, match="not an http address"):
        fund(funded_home, NEWCOMER, 1, url="file:///etc/passwd")
    with pytest.raises(ChainUnreachable, match="not running"):
        fund(funded_home, NEWCOMER, 1)
    with pytest.raises(NotFound, match="no chain"):
        fund(tmp_path_factory.mktemp("empty"), NEWCOMER, 1)
