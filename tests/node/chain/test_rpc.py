from __future__ import annotations

import json
from typing import Any

import pytest
import rlp
from eth_hash.auto import keccak

from node.chain.clock import TestClock
from node.chain.engine import Engine
from tests.node.chain.chain_kit import (
    ALICE,
    BOB,
    CHAIN_ID,
    CLOCK,
    COUNTER,
    GATE,
    LOGGER,
    REFUSER,
    Chain,
    StandingClock,
    address_of,
    ask,
    ask_raw,
    genesis,
    sign,
    word,
)

HEADER_FIELDS = [
    "parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot", "logsBloom", "difficulty",
    "number", "gasLimit", "gasUsed", "timestamp", "extraData", "mixHash", "nonce", "baseFeePerGas", "withdrawalsRoot",
    "blobGasUsed", "excessBlobGas", "parentBeaconBlockRoot", "requestsHash",
]  # fmt: skip
NUMBERS = {
    "difficulty", "number", "gasLimit", "gasUsed", "timestamp", "baseFeePerGas", "blobGasUsed", "excessBlobGas",
}  # fmt: skip


def hexed(data: bytes) -> str:
    return "0x" + data.hex()


def result(chain: Chain, method: str, *params: Any) -> Any:
    answer = ask(chain.engine, method, *params)
    assert "error" not in answer, answer
    return answer["result"]


def error(chain: Chain, method: str, *params: Any) -> dict[str, Any]:
    answer = ask(chain.engine, method, *params)
    assert "error" in answer, answer
    failure: dict[str, Any] = answer["error"]
    return failure


def test_the_hash_of_a_header_can_be_computed_from_what_is_served(chain: Chain) -> None:
    chain.mine(to=chain.deploy(LOGGER), value=0, data=word(1) * 3)
    for number in ("0x0", "0x1", "0x2"):
        block = result(chain, "eth_getBlockByNumber", number, False)
        fields = []
        for name in HEADER_FIELDS:
            data = int(block[name], 16) if name in NUMBERS else bytes.fromhex(block[name][2:])
            fields.append(data)
        assert hexed(keccak(rlp.encode(fields))) == block["hash"]


def test_blocks_are_found_by_tag_number_and_hash(chain: Chain) -> None:
    chain.mine()
    newest = result(chain, "eth_getBlockByNumber", "0x1", False)
    for tag in ("latest", "safe", "finalized"):
        assert result(chain, "eth_getBlockByNumber", tag, False) == newest
    assert result(chain, "eth_getBlockByHash", newest["hash"], False) == newest
    assert result(chain, "eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    assert result(chain, "eth_getBlockByNumber", "0x2", False) is None
    assert result(chain, "eth_getBlockByHash", "0x" + "00" * 32, False) is None


def test_a_full_block_holds_its_transactions(chain: Chain) -> None:
    block = chain.mine()
    served = result(chain, "eth_getBlockByNumber", "latest", True)["transactions"]
    assert served == [result(chain, "eth_getTransactionByHash", hexed(block.transactions[0].hash))]
    assert (served[0]["from"], served[0]["nonce"], served[0]["type"]) == (hexed(address_of(ALICE)), "0x0", "0x2")


def test_the_pending_block_has_the_next_stamp_and_what_waits(chain: Chain, clock: StandingClock) -> None:
    clock.time += 50
    waiting = chain.send()
    block = result(chain, "eth_getBlockByNumber", "pending", False)
    assert (int(block["timestamp"], 16), block["number"], block["hash"]) == (int(clock.time), "0x1", None)
    assert block["transactions"] == [hexed(waiting.hash)]


def test_receipts_agree_with_the_block_and_with_each_other(chain: Chain) -> None:
    logger = chain.deploy(LOGGER)
    chain.send(to=logger, value=0, data=word(1) * 3)
    block = chain.mine(BOB, to=logger, value=0, data=word(2) * 3)
    served = result(chain, "eth_getBlockReceipts", "latest")
    assert served == result(chain, "eth_getBlockReceipts", hexed(block.header.hash))
    assert served == [result(chain, "eth_getTransactionReceipt", hexed(one.hash)) for one in block.transactions]
    assert [receipt["transactionIndex"] for receipt in served] == ["0x0", "0x1"]
    assert int(served[1]["cumulativeGasUsed"], 16) == block.header.gas_used
    assert sum(int(receipt["gasUsed"], 16) for receipt in served) == block.header.gas_used
    assert [log["logIndex"] for receipt in served for log in receipt["logs"]] == ["0x0", "0x1"]


def test_a_creation_names_its_contract(chain: Chain) -> None:
    contract = chain.deploy(COUNTER)
    receipt = result(chain, "eth_getBlockReceipts", "latest")[0]
    assert (receipt["to"], receipt["contractAddress"]) == (None, hexed(contract))
    assert result(chain, "eth_getCode", hexed(contract), "latest") == "0x" + COUNTER


def test_state_is_served_at_old_blocks(chain: Chain) -> None:
    counter = hexed(chain.deploy(COUNTER))
    chain.mine(to=bytes.fromhex(counter[2:]), value=0)
    chain.mine(to=bytes.fromhex(counter[2:]), value=0)
    slots = [result(chain, "eth_getStorageAt", counter, "0x0", hex(number)) for number in range(4)]
    assert slots == [hexed(word(value)) for value in (0, 0, 1, 2)]
    assert result(chain, "eth_getTransactionCount", ALICE.address, "0x2") == "0x2"
    assert result(chain, "eth_getBalance", ALICE.address, "earliest") == hex(10**20)
    assert error(chain, "eth_getBalance", ALICE.address, "0x9")["message"] == "header not found"


def test_calls_run_in_the_next_block_at_tags_and_in_their_own_at_numbers(chain: Chain, clock: StandingClock) -> None:
    contract = {"to": hexed(chain.deploy(CLOCK))}
    stamp = chain.engine.head.timestamp
    clock.time += 500
    for tag in ("latest", "pending"):
        assert int(result(chain, "eth_call", contract, tag)[:66], 16) == int(clock.time)
    assert int(result(chain, "eth_call", contract, "0x1")[:66], 16) == stamp
    by_hash = {"blockHash": hexed(chain.engine.head.hash)}
    assert int(result(chain, "eth_call", contract, by_hash)[:66], 16) == stamp


def test_a_custom_error_surfaces_in_calls_and_estimates(chain: Chain) -> None:
    custom = hexed(bytes.fromhex("12345678") + word(9))
    call = {"to": hexed(chain.deploy(REFUSER)), "data": custom}
    for method in ("eth_call", "eth_estimateGas"):
        assert error(chain, method, call) == {"code": 3, "message": "execution reverted", "data": custom}


def test_an_estimate_follows_the_clock(chain: Chain, clock: StandingClock) -> None:
    call = {"to": hexed(chain.deploy(GATE)), "data": hexed(word(int(clock.time) + 30))}
    assert error(chain, "eth_estimateGas", call)["code"] == 3
    clock.time += 30
    assert int(result(chain, "eth_estimateGas", call), 16) > 21_000


def test_a_sent_transaction_is_mined_when_the_answer_comes(chain: Chain) -> None:
    sent = result(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 0)))
    assert result(chain, "eth_getTransactionReceipt", sent)["status"] == "0x1"


def test_a_transaction_above_a_gap_is_answered_at_once_and_waits(chain: Chain) -> None:
    sent = result(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 1)))
    assert result(chain, "eth_getTransactionReceipt", sent) is None
    assert result(chain, "eth_getTransactionByHash", sent)["blockHash"] is None
    assert result(chain, "eth_getTransactionCount", ALICE.address, "pending") == "0x0"
    result(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 0)))
    assert result(chain, "eth_getTransactionReceipt", sent)["blockNumber"] == "0x1"
    assert result(chain, "eth_getTransactionCount", ALICE.address, "pending") == "0x2"


def test_a_transaction_that_must_wait_for_the_clock_is_answered_at_once(chain: Chain, clock: StandingClock) -> None:
    chain.mine()
    clock.time -= 100
    sent = result(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 1)))
    assert result(chain, "eth_getTransactionReceipt", sent) is None
    clock.time += 100
    result(chain, "eth_sendRawTransaction", hexed(sign(BOB, 0)))
    assert result(chain, "eth_getTransactionReceipt", sent)["blockNumber"] == "0x2"


def test_a_batch_of_transactions_meets_in_one_block(chain: Chain) -> None:
    calls = [
        {"jsonrpc": "2.0", "id": i, "method": "eth_sendRawTransaction", "params": [hexed(sign(ALICE, i))]}
        for i in range(20)
    ]
    answers = json.loads(ask_raw(chain.engine, json.dumps(calls).encode())[0])
    assert [answer["id"] for answer in answers] == list(range(20))
    assert chain.engine.head.number == 1
    assert len(result(chain, "eth_getBlockReceipts", "latest")) == 20


def test_refusals_have_geths_code_and_words(chain: Chain) -> None:
    raw = hexed(sign(ALICE, 0))
    result(chain, "eth_sendRawTransaction", raw)
    assert error(chain, "eth_sendRawTransaction", raw) == {"code": -32000, "message": "already known"}
    low = error(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 0, value=5)))
    assert low == {"code": -32000, "message": "nonce too low: next nonce 1, tx nonce 0"}
    foreign = error(chain, "eth_sendRawTransaction", hexed(sign(ALICE, 1, chainId=1)))
    assert foreign == {"code": -32000, "message": f"invalid chain id for signer: have 1 want {CHAIN_ID}"}


def test_logs_by_range_hash_address_and_topics(chain: Chain) -> None:
    one, two = chain.deploy(LOGGER), chain.deploy(LOGGER)
    for contract, first, second in ((one, 1, 2), (two, 1, 3), (one, 4, 2)):
        chain.mine(to=contract, value=0, data=word(first) + word(second) + word(0))
    everything = {"fromBlock": "earliest", "toBlock": "latest"}

    def blocks(**wanted: Any) -> list[int]:
        return [int(log["blockNumber"], 16) for log in result(chain, "eth_getLogs", wanted)]

    assert blocks(**everything) == [3, 4, 5]
    assert blocks() == [5]
    assert blocks(fromBlock="0x4", toBlock="0x4") == [4]
    assert blocks(fromBlock="0x3", toBlock="0x99") == [3, 4, 5]
    assert blocks(**everything, address=hexed(one)) == [3, 5]
    assert blocks(**everything, address=[hexed(one), hexed(two)]) == [3, 4, 5]
    assert blocks(**everything, topics=[hexed(word(1))]) == [3, 4]
    assert blocks(**everything, topics=[None, hexed(word(2))]) == [3, 5]
    assert blocks(**everything, topics=[[hexed(word(4)), hexed(word(1))], [hexed(word(3))]]) == [4]
    assert blocks(**everything, topics=[None, None, None]) == []
    block = chain.engine.index.block(4)
    assert block is not None
    assert blocks(blockHash=hexed(block.header.hash)) == [4]


@pytest.mark.parametrize(
    "wanted, code, message",
    [
        ({"blockHash": "0x" + "00" * 32}, -32000, "unknown block"),
        ({"blockHash": "0x" + "00" * 32, "fromBlock": "0x0"}, -32602, "cannot specify both"),
        ({"fromBlock": "0x5", "toBlock": "0x1"}, -32602, "invalid block range"),
        ({"fromBlock": "5"}, -32602, "not a hex quantity"),
        ({"address": "0x11"}, -32602, "expected 20"),
    ],
)
def test_a_log_filter_with_a_fault_is_refused(chain: Chain, wanted: dict[str, Any], code: int, message: str) -> None:
    failure = error(chain, "eth_getLogs", wanted)
    assert failure["code"] == code
    assert message in failure["message"]


def test_fee_history_has_one_more_base_fee_than_blocks(chain: Chain) -> None:
    chain.mine()
    chain.mine(maxPriorityFeePerGas=5)
    history = result(chain, "eth_feeHistory", "0x2", "latest", [0, 100])
    assert history["oldestBlock"] == "0x1"
    assert history["baseFeePerGas"] == ["0x7"] * 3
    assert history["reward"] == [["0x1", "0x1"], ["0x5", "0x5"]]
    assert len(history["gasUsedRatio"]) == 2


def test_plain_facts(chain: Chain) -> None:
    assert result(chain, "eth_chainId") == hex(CHAIN_ID)
    assert result(chain, "net_version") == str(CHAIN_ID)
    assert result(chain, "eth_blockNumber") == "0x0"
    assert result(chain, "eth_syncing") is False
    assert result(chain, "eth_accounts") == []
    assert int(result(chain, "eth_gasPrice"), 16) == 8
    assert "py-evm" in result(chain, "web3_clientVersion")


@pytest.mark.parametrize(
    "method, params, code, message",
    [
        ("eth_sign", [], -32601, "the method eth_sign does not exist/is not available"),
        ("eth_chainId", [1], -32602, "too many arguments"),
        ("eth_getBalance", ["0x" + "11" * 20], -32602, "missing value for required argument 1"),
        ("eth_getBalance", ["0x11", "latest"], -32602, "1 bytes, expected 20"),
        ("eth_getBalance", ["0x" + "11" * 20, "newest"], -32602, "not a hex quantity"),
        ("eth_getBlockByNumber", ["latest", 1], -32602, "not a boolean"),
        ("eth_call", [{}, "latest", {"0x" + "11" * 20: {}}], -32602, "state overrides"),
        ("eth_feeHistory", ["0x1", "latest", [50, 10]], -32602, "ascend"),
        ("koinon_setTime", [5], -32000, "test-clock"),
        ("koinon_increaseTime", [5], -32000, "test-clock"),
    ],
)
def test_a_call_with_a_fault_is_refused(chain: Chain, method: str, params: list[Any], code: int, message: str) -> None:
    failure = error(chain, method, *params)
    assert failure["code"] == code
    assert message in failure["message"]


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"eth_chainId"}', -32700),
        (b"[]", -32600),
        (b"5", -32600),
        (b'"eth_chainId"', -32600),
        (b'{"id":1,"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 9999 + b'"}', -32601),
        (json.dumps([{}] * 257).encode(), -32600),
    ],
)
def test_junk_is_answered_with_an_error(chain: Chain, body: bytes, code: int) -> None:
    answer = json.loads(ask_raw(chain.engine, body)[0])
    assert answer["error"]["code"] == code


def test_a_notification_gets_no_answer(chain: Chain) -> None:
    assert ask_raw(chain.engine, b'{"jsonrpc":"2.0","method":"eth_chainId"}') == [b""]


def test_a_test_clock_moves_the_stamp_of_the_next_block() -> None:
    clock = TestClock()
    engine = Engine(genesis(), clock)
    chain = Chain(engine)
    set_to = int(ask(engine, "koinon_setTime", 2_000_000_000, test_clock=clock)["result"], 16)
    assert 2_000_000_000 <= set_to < 2_000_000_100
    assert 2_000_000_000 <= chain.mine().header.timestamp < 2_000_000_100
    advanced = int(ask(engine, "koinon_increaseTime", "0xe10", test_clock=clock)["result"], 16)
    assert 3600 <= advanced - set_to < 3700
    assert ask(engine, "koinon_increaseTime", -1, test_clock=clock)["error"]["code"] == -32602
