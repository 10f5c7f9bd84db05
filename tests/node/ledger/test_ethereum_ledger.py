"""What only a real chain can do wrong: lost replies, other chains, taken nonces, and what its blocks prove."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from crypto.digest import Digest
from crypto.keys import LedgerKey
from node.abi import Codec
from node.account import MemorySentStore, SendingAccount
from node.deployment import check_deployment, created_address, deploy, plan_deployment
from node.errors import (
    CallReverted,
    ChainUnreachable,
    LedgerError,
    OutcomeUnknown,
    Refused,
    VerificationFailed,
)
from node.evidence import verify_block, verify_chain
from node.ledger import EthereumClient, EthereumLedger, connect
from node.records import Commits, Committed, Contracts, Position, StudyCreation
from tests.fakes.endpoint import Endpoint, endpoint
from tests.node.ledger.conftest import Chain
from tests.node.ledger.world import World, founding, kinds


def through(proxy: Endpoint, chain: Chain, world: World, store: MemorySentStore, codec: Codec, **options: Any) -> World:
    """The same world, its ledger behind a proxy."""
    client = EthereumClient(proxy.url, world.contracts.chain_id, timeout_s=5)
    account = SendingAccount(client, chain.operator, store, **{"mine_timeout_s": 20.0, **options})
    ledger = EthereumLedger(client, world.contracts, account, codec)
    return World(ledger, world.keys, world.auditors, world.advance, world.first_block)


# --- lost replies


def test_a_transaction_whose_reply_was_lost_is_found_and_not_repeated(chain: Chain, real: World, codec: Codec) -> None:
    store = MemorySentStore()
    with endpoint(chain.url) as proxy:
        world = through(proxy, chain, real, store, codec)
        proxy.lose_replies["eth_sendRawTransaction"] = 1
        terms = world.terms()
        sent = world.send(StudyCreation(terms, world.sign(0, terms)))
    assert kinds(sent) == ["StudyCreated"]
    assert len({json.dumps(params) for method, params in proxy.seen if method == "eth_sendRawTransaction"}) == 1


def test_a_transaction_that_never_arrived_is_sent_again_with_the_same_bytes(
    chain: Chain, real: World, codec: Codec
) -> None:
    with endpoint(chain.url) as proxy:
        world = through(proxy, chain, real, MemorySentStore(), codec)
        proxy.lose_requests["eth_sendRawTransaction"] = 1
        terms = world.terms()
        sent = world.send(StudyCreation(terms, world.sign(0, terms)))
    assert kinds(sent) == ["StudyCreated"]
    assert proxy.count("eth_sendRawTransaction") == 2
    assert len({json.dumps(params) for method, params in proxy.seen if method == "eth_sendRawTransaction"}) == 1


def test_the_bytes_are_remembered_before_they_are_sent(chain: Chain, real: World, codec: Codec) -> None:
    order: list[str] = []

    class Watching(MemorySentStore):
        def remember(self, key: Digest, raw: bytes, transaction: Digest) -> None:
            order.append(f"{proxy.count('eth_sendRawTransaction')} sent")
            super().remember(key, raw, transaction)

    with endpoint(chain.url) as proxy:
        world = through(proxy, chain, real, Watching(), codec)
        terms = world.terms()
        world.send(StudyCreation(terms, world.sign(0, terms)))
    assert order == ["0 sent"]


def test_an_outcome_is_unknown_only_when_nothing_answers_and_sending_again_settles_it(
    chain: Chain, real: World, codec: Codec
) -> None:
    store = MemorySentStore()
    with endpoint(chain.url) as proxy:
        world = through(proxy, chain, real, store, codec, mine_timeout_s=0.05)
        proxy.lose_replies["eth_sendRawTransaction"] = 1
        proxy.lose_requests["eth_getTransactionReceipt"] = 1_000
        terms = world.terms()
        call = StudyCreation(terms, world.sign(0, terms))
        with pytest.raises(OutcomeUnknown):
            world.send(call)
        proxy.lose_requests.clear()
        # It was mined. The same call again finds its receipt; the contract is not asked twice.
        account = SendingAccount(EthereumClient(proxy.url, None), chain.operator, store)
        ledger = EthereumLedger(EthereumClient(proxy.url, None), world.contracts, account, codec)
        before = proxy.count("eth_sendRawTransaction")
        sent = ledger.send(call)
        assert kinds(sent) == ["StudyCreated"]
        assert proxy.count("eth_sendRawTransaction") == before


def test_a_chain_that_does_not_answer_is_unreachable_and_nothing_was_sent(real: World, codec: Codec) -> None:
    ledger = connect("http://127.0.0.1:9", real.contracts, real.keys[0], MemorySentStore(), codec=codec)
    for act in (ledger.head, ledger.accumulators, lambda: ledger.records(0, 1), lambda: ledger.block_hash(0)):
        with pytest.raises(ChainUnreachable, match=r"127\.0\.0\.1:9"):
            act()
    with pytest.raises(ChainUnreachable):
        ledger.send(StudyCreation(real.terms(), real.sign(0, real.terms())))


# --- other chains


def test_another_chain_at_the_address_is_named_with_both_ids(chain: Chain, real: World, codec: Codec) -> None:
    elsewhere = replace(real.contracts, chain_id=real.contracts.chain_id + 1)
    ledger = connect(chain.url, elsewhere, chain.operator, MemorySentStore(), codec=codec)
    with pytest.raises(LedgerError, match=f"{real.contracts.chain_id}, expected {elsewhere.chain_id}"):
        ledger.head()


def test_the_chain_is_asked_again_after_an_outage(chain: Chain, real: World) -> None:
    with endpoint(chain.url) as proxy:
        client = EthereumClient(proxy.url, real.contracts.chain_id)
        client.block("latest")
        proxy.lose_requests["eth_getBlockByNumber"] = 1
        with pytest.raises(ChainUnreachable):
            client.block("latest")
        proxy.answers["eth_chainId"] = {"result": "0x7"}
        with pytest.raises(LedgerError, match="id 7"):
            client.block("latest")


def test_a_public_chain_is_refused_unless_it_is_allowed(chain: Chain) -> None:
    with endpoint(chain.url) as proxy:
        proxy.answers["eth_chainId"] = {"result": "0xaa36a7"}
        with pytest.raises(Refused, match="11155111"):
            EthereumClient(proxy.url, None).block("latest")
        assert EthereumClient(proxy.url, None, allow_public_chain=True).block("latest")


def test_what_is_no_client_is_said_to_be_none(chain: Chain) -> None:
    with endpoint(chain.url) as proxy:
        proxy.answers["eth_chainId"] = {"result": "many"}
        with pytest.raises(LedgerError, match="quantity"):
            EthereumClient(proxy.url, None).block("latest")


# --- the account that pays


def test_a_nonce_that_another_process_took_is_taken_anew(chain: Chain, real: World, codec: Codec) -> None:
    with endpoint(chain.url) as proxy:
        world = through(proxy, chain, real, MemorySentStore(), codec)
        taken = real.ledger.contracts  # the next nonce is stated too low once, as a lagging client would
        client = chain.client()
        nonce = int(client.call("eth_getTransactionCount", "0x" + chain.operator.address.hex(), "latest"), 16)
        proxy.answers["eth_getTransactionCount"] = {"result": hex(nonce - 1)}
        terms = world.terms()

        def correct() -> None:
            proxy.answers.pop("eth_getTransactionCount", None)

        class Correcting(MemorySentStore):
            def settle(self, key: Digest, mined: tuple[Digest, int] | None = None) -> None:
                correct()
                super().settle(key, mined)

        account = SendingAccount(EthereumClient(proxy.url, None), chain.operator, Correcting(), mine_timeout_s=20)
        ledger = EthereumLedger(EthereumClient(proxy.url, None), taken, account, codec)
        assert kinds(ledger.send(StudyCreation(terms, world.sign(0, terms)))) == ["StudyCreated"]


def test_an_account_that_cannot_pay_is_named(chain: Chain, real: World, codec: Codec) -> None:
    poor = LedgerKey.generate()
    ledger = connect(chain.url, real.contracts, poor, MemorySentStore(), codec=codec)
    with pytest.raises(LedgerError, match="cannot pay") as refused:
        ledger.send(StudyCreation(real.terms(), real.sign(0, real.terms())))
    assert not isinstance(refused.value, CallReverted)


def test_calls_from_many_threads_are_all_mined(chain: Chain, real: World) -> None:
    _, opened = real.study()
    entries = [real.commit_entry(opened.round_id, member) for member in range(4)]
    done: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda e=entry: done.append(kinds(real.ledger.send(Commits(opened.study, opened.round_id, (e,)))))
        )
        for entry in entries
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [["Committed"]] * 4


# --- reading


def test_a_client_that_bounds_log_queries_is_asked_for_less(chain: Chain, real: World, codec: Codec) -> None:
    real.study()
    everything = real.logged()

    class Bounded(EthereumClient):
        def call(self, method: str, *params: object) -> Any:
            if method == "eth_getLogs" and isinstance(params[0], dict):
                span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16)
                if span > 2:
                    return super().call("eth_getLogs", {"fromBlock": "0x5", "toBlock": "0x4", "address": 7})
            return super().call(method, *params)

    client = Bounded(chain.url, None)
    account = SendingAccount(client, chain.operator, MemorySentStore())
    ledger = EthereumLedger(client, real.contracts, account, codec)
    head = ledger.head().number
    assert list(ledger.records(real.first_block, head)) == everything


def test_confirmations_hold_back_the_final_block(chain: Chain, real: World, codec: Codec) -> None:
    ledger = connect(chain.url, real.contracts, chain.operator, MemorySentStore(), codec=codec, confirmations=3)
    head = ledger.head()
    assert head.final_number == head.number - 3


# --- what blocks prove


def test_a_block_s_evidence_proves_its_hash_and_every_record(real: World, codec: Codec) -> None:
    ledger = real.ledger
    assert isinstance(ledger, EthereumLedger)
    _, opened = real.study()
    real.commit(opened.round_id, [0, 1, 2, 3])
    head = ledger.head()
    blocks = verify_chain(
        (ledger.evidence(number) for number in range(real.first_block, head.number + 1)),
        ledger.block_hash(real.first_block - 1),
    )
    assert blocks[-1].block_hash == head.block_hash
    proved = [
        (Position(block.number, log.log_index, place), block.block_hash, block.timestamp, record)
        for block in blocks
        for log in block.logs
        for place, record in enumerate(codec.records(log, real.contracts))
    ]
    assert [position.entry for position, *_ in proved[-4:]] == [0, 1, 2, 3], "commitments of one log keep their order"
    assert proved == [(one.position, one.block_hash, one.timestamp, one.record) for one in real.logged()]


def test_a_receipt_that_was_changed_or_left_out_is_noticed(real: World) -> None:
    ledger = real.ledger
    assert isinstance(ledger, EthereumLedger)
    sent = real.send(StudyCreation(real.terms(), real.sign(0, real.terms())))
    evidence = ledger.evidence(sent.block)
    receipt = evidence.receipts_rlp[0]
    for changed in (
        replace(evidence, receipts_rlp=(receipt[:-1] + bytes([receipt[-1] ^ 1]),)),
        replace(evidence, receipts_rlp=()),
        replace(evidence, transactions=()),
        replace(evidence, transactions=evidence.transactions * 2),
        replace(evidence, number=evidence.number + 1),
        replace(evidence, header_rlp=evidence.header_rlp[:-1]),
    ):
        with pytest.raises(VerificationFailed):
            verify_block(changed)
    altered = replace(evidence, header_rlp=evidence.header_rlp[:-1] + bytes([evidence.header_rlp[-1] ^ 1]))
    assert verify_block(altered).block_hash != verify_block(evidence).block_hash


# --- deployment


def test_a_deployment_lies_where_it_was_planned(chain: Chain, real: World) -> None:
    check_deployment(chain.client(), real.contracts)
    swapped = replace(real.contracts, consent=real.contracts.training, training=real.contracts.consent)
    with pytest.raises(VerificationFailed, match="ConsentRegistry"):
        check_deployment(chain.client(), swapped)
    nowhere = replace(real.contracts, membership=bytes(19) + b"\x99")
    with pytest.raises(VerificationFailed, match="no contract Membership"):
        check_deployment(chain.client(), nowhere)


def test_a_deployment_planned_for_a_nonce_that_is_gone_is_refused(chain: Chain) -> None:
    client = chain.client()
    planned = plan_deployment(client, chain.operator.address)
    stale = replace(planned, nonce=planned.nonce - 1)
    with pytest.raises(LedgerError, match="plan the deployment again"):
        deploy(client, chain.operator, stale, [], [])


def test_addresses_follow_from_deployer_and_nonce() -> None:
    """The first contract of a widely known test account."""
    deployer = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")
    assert created_address(deployer, 0).hex() == "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"
    assert created_address(deployer, 1).hex() == "343c43a37d37dff08ae8c4a11544c718abb4fcf8"


def test_founders_whose_seats_are_for_other_addresses_are_refused(chain: Chain, codec: Codec) -> None:
    client = chain.client()
    planned = plan_deployment(client, chain.operator.address)
    other = Contracts(planned.contracts.chain_id, bytes(20), bytes(20), bytes(20), bytes(20))
    members, _ = founding([LedgerKey.generate(), LedgerKey.generate()], [], other)
    with pytest.raises(LedgerError, match="Membership"):
        deploy(client, chain.operator, planned, members)


def test_logs_of_other_contracts_are_no_records(real: World, codec: Codec) -> None:
    ledger = real.ledger
    assert isinstance(ledger, EthereumLedger)
    block = ledger.evidence(real.logged()[0].position.block)
    log = verify_block(block).logs[0]
    assert len(codec.records(log, real.contracts)) == 1
    assert codec.records(replace(log, address=bytes(20)), real.contracts) == ()
    with pytest.raises(LedgerError, match="MemberAdmitted"):
        codec.records(replace(log, data=log.data[:40]), real.contracts)


def test_commitments_that_do_not_fit_their_members_are_no_records(real: World, codec: Codec) -> None:
    ledger = real.ledger
    assert isinstance(ledger, EthereumLedger)
    _, opened = real.study()
    sent = real.commit(opened.round_id, [2, 0])
    (log,) = verify_block(ledger.evidence(sent.block)).logs
    assert [one.member for one in codec.records(log, real.contracts) if isinstance(one, Committed)] == [2, 0]
    third = replace(log, data=b"\x01" * 32 + log.data[32:])  # more members than there are roots for
    with pytest.raises(LedgerError, match="192 bytes of roots for members 0x10101"):
        codec.records(third, real.contracts)
    torn = replace(log, data=log.data[:64] + (128).to_bytes(32, "big") + log.data[96:])
    with pytest.raises(LedgerError, match="128 bytes of roots"):
        codec.records(torn, real.contracts)
