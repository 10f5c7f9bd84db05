"""Chains that take blocks back, on a client that really does: what was read is read again, what was said sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from crypto.commitments import study_id
from crypto.keys import LedgerKey, address_text
from crypto.statements import struct_hash
from node.abi import Codec
from node.account import BUMP_BLOCKS, MemorySentStore, SendingAccount
from node.errors import OutcomeUnknown
from node.follower import Reorganised
from node.jsonrpc import quantity
from node.ledger import EthereumClient, EthereumLedger
from node.records import StudyCreation, Withdrawals
from node.store import SentTransactions, Store
from tests.fakes.endpoint import endpoint
from tests.node.ledger.conftest import Chain
from tests.node.ledger.test_endpoints import Reader, reader, world
from tests.node.ledger.world import World, kinds

pytestmark = pytest.mark.slow  # another Ethereum client

ONE, OTHER = bytes.fromhex("11" * 20), bytes.fromhex("22" * 20)
ReaderMaker = Callable[..., Reader]


@pytest.fixture
def chain(anvil: Chain) -> Chain:
    """Only a client by URL reorganises; the embedded chain never takes a block back."""
    return anvil


@pytest.fixture
def real(chain: Chain, codec: Codec, make_real: Callable[[Chain], World]) -> World:
    return make_real(chain)


def rpc(chain: Chain, method: str, *params: Any) -> Any:
    return chain.client().call(method, *params)


def mine(chain: Chain, blocks: int) -> None:
    rpc(chain, "anvil_mine", hex(blocks))


def sending(node: Reader, chain: Chain) -> World:
    """The same network, its statements carried by the node's own account, which remembers them in the node's store."""
    account = SendingAccount(chain.client(), chain.operator, SentTransactions(node.store), mine_timeout_s=20)
    client, contracts = chain.client(), node.world.contracts
    node.ledger = EthereumLedger(client, contracts, account, node.codec, confirmations=node.confirmations)
    node.follower._ledger = node.ledger
    return World(node.ledger, node.world.keys, node.world.auditors, node.world.advance, node.world.first_block)


def test_a_reorganisation_above_the_depth_is_never_seen(chain: Chain, reader: ReaderMaker, real: World) -> None:
    node = reader(chain.url, confirmations=4)
    real.study()
    mine(chain, 6)
    node.look()
    studies, done = dict(node.history.studies), node.follower.done
    rpc(chain, "anvil_reorg", 3, [])
    node.look()
    mine(chain, 4)
    node.look()
    assert node.follower.done >= done + 4
    assert dict(node.history.studies).keys() == studies.keys()


def test_a_reorganisation_below_the_depth_is_read_again_and_what_fell_out_is_sent_again(
    chain: Chain, reader: ReaderMaker, real: World
) -> None:
    node = reader(chain.url)
    world_ = sending(node, chain)
    node.look()
    fork = node.follower.done
    terms = world_.terms()
    study = study_id(struct_hash(terms))
    consent, entry = world_.patient("reorganised")
    world_.send(StudyCreation(terms, world_.sign(0, terms)))
    world_.send(Withdrawals((entry,)))
    node.look()
    assert study in node.history.studies
    assert consent in node.history.withdrawals
    rpc(chain, "anvil_reorg", node.follower.done - fork, [])
    with pytest.raises(Reorganised, match=f"blocks after {fork} are read again"):
        node.look()
    node.again()
    assert study not in node.history.studies
    assert node.follower.resend() == 2
    while study not in node.history.studies or consent not in node.history.withdrawals:  # mined when the client likes
        node.look()
    assert node.follower.resend() == 0, "what is in the chain is not sent again"
    node.look()


def test_what_is_said_before_a_reorganisation_is_noticed_takes_no_nonce_of_what_fell_out(
    chain: Chain, reader: ReaderMaker, real: World
) -> None:
    node = reader(chain.url)
    world_ = sending(node, chain)
    node.look()
    fork = node.follower.done
    terms = world_.terms()
    consent, entry = world_.patient("later")
    world_.send(StudyCreation(terms, world_.sign(0, terms)))
    node.look()
    rpc(chain, "anvil_reorg", node.follower.done - fork, [])
    world_.send(Withdrawals((entry,)))
    with pytest.raises(Reorganised):
        node.look()
    node.again()
    node.look()
    assert study_id(struct_hash(terms)) in node.history.studies
    assert consent in node.history.withdrawals


def test_what_waits_behind_a_nonce_that_nobody_here_remembers_is_mined(chain: Chain) -> None:
    """Another process of the account sent the first and is gone; a reorganisation takes it out with the second."""
    client, key = chain.client(), LedgerKey.generate()
    rpc(chain, "anvil_setBalance", address_text(key.address), hex(10**20))

    def sleep(seconds: float) -> None:
        mine(chain, 1)

    def account(store: MemorySentStore, timeout_s: float = 20.0) -> SendingAccount:
        return SendingAccount(client, key, store, mine_timeout_s=timeout_s, sleep=sleep)

    def transfer(by: SendingAccount, value: int) -> dict[str, Any]:
        return by.transact(ONE, b"", lambda: 21_000, value=value)

    ours = MemorySentStore()
    before = quantity(client.block("latest")["number"])
    transfer(account(MemorySentStore()), 1)
    transfer(account(ours), 2)
    rpc(chain, "evm_setAutomine", False)
    try:
        with pytest.raises(OutcomeUnknown):
            SendingAccount(client, key, ours, mine_timeout_s=0.0).transact(OTHER, b"", lambda: 21_000)
        rpc(chain, "anvil_reorg", quantity(client.block("latest")["number"]) - before, [])
    finally:
        rpc(chain, "evm_setAutomine", True)
    assert quantity(client.call("eth_getTransactionCount", address_text(key.address), "latest")) == 0
    receipt = account(ours).transact(OTHER, b"", lambda: 21_000)
    assert quantity(receipt["status"]) == 1
    assert quantity(client.call("eth_getTransactionCount", address_text(key.address), "latest")) == 3
    assert quantity(client.call("eth_getBalance", address_text(ONE), "latest")) == 2, "ours, and nothing else"


def test_a_reorganisation_during_a_restart_is_noticed_at_the_first_look(
    chain: Chain, reader: ReaderMaker, real: World
) -> None:
    node = reader(chain.url, home="same")
    node.look()
    fork = node.follower.done
    real.study()
    node.look()
    rpc(chain, "anvil_reorg", node.follower.done - fork, [])
    again = reader(chain.url, home="same")
    with pytest.raises(Reorganised, match=f"blocks after {fork} are read again"):
        again.look()
    again.again()
    again.look()
    assert not again.history.studies


def test_a_statement_that_fell_out_above_the_depth_is_sent_again_when_its_block_is_final(
    chain: Chain, reader: ReaderMaker, real: World
) -> None:
    node = reader(chain.url, confirmations=2)
    world_ = sending(node, chain)
    mine(chain, 3)
    node.look()
    terms = world_.terms()
    study = study_id(struct_hash(terms))
    world_.send(StudyCreation(terms, world_.sign(0, terms)))
    rpc(chain, "anvil_reorg", 1, [])
    for _ in range(8):
        mine(chain, 1)
        node.look()
    assert study in node.history.studies


# --- fees and nonces


def test_a_transaction_that_blocks_pass_by_is_replaced_with_the_same_nonce_and_a_higher_fee(
    chain: Chain, real: World, codec: Codec, tmp_path: Any
) -> None:
    """The market moves away under a waiting transaction: blocks are made and leave it out."""
    store = Store(tmp_path, bytes(32))
    with endpoint(chain.url) as market:
        client = EthereumClient(market.url, real.contracts.chain_id)
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) % 5 == 0 and len(raws) < 2:  # a block passes in which it is not
                height[0] += 1

        height = [int(market.ask("eth_blockNumber"), 16)]
        raws: list[str] = []

        def passed_by(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
            if method == "eth_getBlockByNumber" and params[0] == "latest":
                answer["result"]["number"] = hex(height[0])
            return answer

        original = market.forward

        def forward(request: dict[str, Any]) -> dict[str, Any]:
            if request["method"] == "eth_sendRawTransaction":
                raw = request["params"][0]
                if raw not in raws:
                    raws.append(raw)
                if len(raws) < 2:  # the first one is taken and left waiting
                    return {"jsonrpc": "2.0", "id": request["id"], "result": "0x" + "00" * 32}
            return original(request)

        market.forward = forward  # type: ignore[method-assign]
        market.faults.append(passed_by)
        account = SendingAccount(
            client, chain.operator, SentTransactions(store), mine_timeout_s=300, poll_s=0.25, sleep=sleep
        )
        ledger = EthereumLedger(client, real.contracts, account, codec)
        terms = real.terms()
        assert kinds(ledger.send(StudyCreation(terms, real.sign(0, terms)))) == ["StudyCreated"]
    first, second = (bytes.fromhex(raw[2:]) for raw in raws)
    old, new = _terms(first), _terms(second)
    assert new["nonce"] == old["nonce"]
    assert new["maxFeePerGas"] * 8 >= old["maxFeePerGas"] * 9
    assert new["maxPriorityFeePerGas"] * 8 >= old["maxPriorityFeePerGas"] * 9
    assert height[0] >= BUMP_BLOCKS
    store.close()


def test_a_receipt_that_comes_a_moment_after_its_nonce_counts_is_waited_for(
    chain: Chain, real: World, codec: Codec, tmp_path: Any
) -> None:
    """A client that has the block and not yet its receipts: the nonce is used, and by this very transaction."""
    store = Store(tmp_path, bytes(32))
    with endpoint(chain.url) as late:
        sent: list[str] = []
        asked = [0]
        original = late.forward

        def forward(request: dict[str, Any]) -> dict[str, Any]:
            if request["method"] == "eth_sendRawTransaction":
                sent.append(request["params"][0])
            if request["method"] == "eth_getTransactionReceipt" and asked[0] < 2:
                asked[0] += len(sent) > 1  # twice more after it was handed in again
                return {"jsonrpc": "2.0", "id": request["id"], "result": None}
            return original(request)

        late.forward = forward  # type: ignore[method-assign]
        client = EthereumClient(late.url, real.contracts.chain_id)
        account = SendingAccount(client, chain.operator, SentTransactions(store), mine_timeout_s=300)
        ledger = EthereumLedger(client, real.contracts, account, codec)
        terms = real.terms()
        assert kinds(ledger.send(StudyCreation(terms, real.sign(0, terms)))) == ["StudyCreated"]
    assert len(sent) > 1
    assert len(set(sent)) == 1, "it was said in the same words only"
    store.close()


def _terms(raw: bytes) -> dict[str, int]:
    return dict(TypedTransaction.from_bytes(HexBytes(raw)).as_dict())


@pytest.mark.parametrize("market", ["legacy", "free", "no tip method"])
def test_every_fee_market_takes_our_transactions(chain: Chain, real: World, codec: Codec, market: str) -> None:
    """A chain without base fees takes legacy transactions; a tip is offered only where the client suggests one."""

    def without_base_fee(method: str, params: list[Any], answer: dict[str, Any]) -> dict[str, Any]:
        if method == "eth_getBlockByNumber" and isinstance(answer.get("result"), dict):
            answer["result"].pop("baseFeePerGas")
        return answer

    with endpoint(chain.url) as asked:
        if market == "legacy":
            asked.faults.append(without_base_fee)
        elif market == "free":
            rpc(chain, "anvil_setNextBlockBaseFeePerGas", "0x0")
            mine(chain, 1)
            rpc(chain, "anvil_setNextBlockBaseFeePerGas", "0x0")
            asked.answers["eth_maxPriorityFeePerGas"] = {"result": "0x0"}
        else:
            asked.answers["eth_maxPriorityFeePerGas"] = {"error": {"code": -32601, "message": "no such method"}}
        client = EthereumClient(asked.url, real.contracts.chain_id)
        account = SendingAccount(client, chain.operator, MemorySentStore())
        ledger = EthereumLedger(client, real.contracts, account, codec)
        terms = real.terms()
        sent = ledger.send(StudyCreation(terms, real.sign(0, terms)))
        assert kinds(sent) == ["StudyCreated"]
        found = asked.ask("eth_getTransactionByHash", "0x" + sent.transaction.hex())
    assert found["type"] == ("0x0" if market == "legacy" else "0x2")
    if market == "free":
        assert int(found["maxFeePerGas"], 16) == 0


__all__ = ["reader", "world"]
