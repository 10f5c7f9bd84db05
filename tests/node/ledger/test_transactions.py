"""The hash of the transaction that carried a record: what every ledger says of it, and what an endpoint may not say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crypto.digest import ZERO, Digest
from node.abi import Codec
from node.account import MemorySentStore, SendingAccount
from node.errors import ChainDisputed, LedgerError
from node.evidence import verify_block
from node.follower import logged_of
from node.ledger import EthereumClient, EthereumLedger
from node.records import transaction_text
from tests.fakes.endpoint import Answer, Fault, endpoint
from tests.node.ledger.conftest import Chain
from tests.node.ledger.world import World


def test_records_of_one_call_have_its_transaction_and_those_of_others_another(world: World) -> None:
    _, opened = world.study()
    sent = world.commit(opened.round_id, [0, 1, 2, 3])
    carried = {one.position: one.transaction for one in world.logged()}
    together = [one.transaction for one in world.logged() if one.position.block == sent.block]
    assert together == [sent.transaction] * len(sent.records)
    places: dict[Digest, set[int]] = {}
    for position, transaction in carried.items():
        places.setdefault(transaction, set()).add(position.block)
    assert all(len(blocks) == 1 for blocks in places.values()), "a transaction is in one block"
    assert ZERO not in places, "also what founded the network came in a transaction"
    assert world.logged() == world.logged()


def test_the_chain_finds_each_record_again_by_its_transaction(real: World, chain: Chain) -> None:
    real.study()
    client = chain.client()
    for one in real.logged():
        receipt = client.call("eth_getTransactionReceipt", transaction_text(one.transaction))
        assert int(receipt["blockNumber"], 16) == one.position.block
        assert one.position.log_index in [int(log["logIndex"], 16) for log in receipt["logs"]]


def test_evidence_and_logs_say_the_same_transactions(real: World, codec: Codec) -> None:
    ledger = real.ledger
    assert isinstance(ledger, EthereumLedger)
    _, opened = real.study()
    real.commit(opened.round_id, [0, 1, 2, 3])
    blocks = range(real.first_block, ledger.head().number + 1)
    read = [verify_block(ledger.evidence(number)) for number in blocks]
    assert [one for block in read for one in logged_of(block, codec, real.contracts)] == real.logged()


def _hash(change: Callable[[Answer], object]) -> Fault:
    """A change to every log and receipt of an answer."""

    def fault(method: str, params: list[Any], answer: Answer) -> Answer:
        result = answer.get("result")
        if method in ("eth_getLogs", "eth_getBlockReceipts"):
            for one in result or ():
                change(one)
        return answer

    return fault


MALFORMED: dict[str, tuple[Callable[[Answer], object], str]] = {
    "missing": (lambda one: one.pop("transactionHash"), "without 'transactionHash'"),
    "null": (lambda one: one.update(transactionHash=None), "'None' where bytes belong"),
    "short": (lambda one: one.update(transactionHash="0x" + "ab" * 31), "31 bytes where 32 belong"),
    "long": (lambda one: one.update(transactionHash="0x" + "ab" * 33), "33 bytes where 32 belong"),
    "no digits": (lambda one: one.update(transactionHash="0x" + "zz" * 32), "where bytes belong"),
    "a number": (lambda one: one.update(transactionHash=7), "where bytes belong"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_hash_is_an_error_that_says_so(chain: Chain, real: World, codec: Codec, what: str) -> None:
    change, said = MALFORMED[what]
    block = real.logged()[-1].position.block
    with endpoint(chain.url) as broken:
        ledger = reading(broken.url, real, codec)
        broken.faults.append(_hash(change))
        with pytest.raises(LedgerError, match=said):
            ledger.records(block, block)
        with pytest.raises(LedgerError, match=said):
            ledger.evidence(block)


def test_a_receipt_of_another_transaction_than_the_block_s_is_disputed(chain: Chain, real: World, codec: Codec) -> None:
    block = real.logged()[-1].position.block
    with endpoint(chain.url) as liar:
        liar.faults.append(_hash(lambda one: one.update(transactionHash="0x" + "ab" * 32)))
        with pytest.raises(
            ChainDisputed,
            match=rf"block {block}: transactions: the block lists \w{{64}}, its receipts are of (ab){{32}}",
        ):
            reading(liar.url, real, codec).evidence(block)


def reading(url: str, world: World, codec: Codec) -> EthereumLedger:
    client = EthereumClient(url, world.contracts.chain_id)
    return EthereumLedger(client, world.contracts, SendingAccount(client, world.keys[0], MemorySentStore()), codec)
