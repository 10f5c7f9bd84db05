from __future__ import annotations

from hashlib import sha256

import pytest
import rlp

from node.chain.errors import ExecutionFailed, ExecutionReverted, TransactionRefused
from node.chain.evm import (
    BASE_FEE_WEI,
    BLOCK_GAS_TARGET,
    TRANSACTION_GAS_CAP,
    Evm,
    Message,
    decode_transaction,
)
from node.chain.genesis import ChainGenesis
from tests.node.chain.chain_kit import (
    ALICE,
    BOB,
    CHAIN_ID,
    CLOCK,
    COUNTER,
    NESTER,
    RECORDER,
    REFUSER,
    SPINNER,
    Chain,
    StandingClock,
    address_of,
    genesis,
    sign,
    word,
)


def test_a_contract_sees_the_stamp_and_the_randomness_that_the_header_says(chain: Chain, clock: StandingClock) -> None:
    recorder = chain.deploy(RECORDER)
    clock.time += 1000
    parent = chain.engine.head.hash
    header = chain.mine(to=recorder, value=0).header
    assert chain.engine.evm.storage(recorder, 0) == header.timestamp
    assert word(chain.engine.evm.storage(recorder, 1)) == header.mix_hash == sha256(parent).digest()


def test_the_base_fee_never_moves(chain: Chain) -> None:
    for _ in range(5):
        chain.send(gas=TRANSACTION_GAS_CAP)
    assert chain.mine().header.base_fee_per_gas == BASE_FEE_WEI
    assert chain.mine().header.base_fee_per_gas == BASE_FEE_WEI


def test_the_coinbase_is_the_zero_address(chain: Chain) -> None:
    assert chain.mine().header.coinbase == bytes(20)


def test_two_networks_have_different_genesis_hashes_even_with_the_same_allocation() -> None:
    one = genesis()
    other = ChainGenesis(one.chain_id + 1, one.timestamp, one.allocation)
    assert Evm(one).head.hash != Evm(other).head.hash


def test_a_failed_batch_changes_nothing(chain: Chain) -> None:
    evm = chain.engine.evm
    head, balance = evm.head, evm.balance(address_of(ALICE))
    batch = [decode_transaction(sign(ALICE, 0), CHAIN_ID), decode_transaction(sign(BOB, 5), CHAIN_ID)]
    with pytest.raises(TransactionRefused, match="nonce"):
        evm.mine(batch, head.timestamp + 1)
    assert (evm.head, evm.balance(address_of(ALICE)), evm.nonce(address_of(ALICE))) == (head, balance, 0)
    assert evm.mine(batch[:1], head.timestamp + 1).header.number == 1


def test_a_call_in_the_next_block_and_in_an_old_one(chain: Chain) -> None:
    clock = chain.deploy(CLOCK)
    old = chain.engine.head
    chain.mine()
    seen = chain.engine.evm.call(Message(to=clock), timestamp=old.timestamp + 77).output
    assert seen == word(old.timestamp + 77) + word(3) + sha256(chain.engine.head.hash).digest() + word(CHAIN_ID)
    seen = chain.engine.evm.call(Message(to=clock), at=old).output
    assert seen == word(old.timestamp) + word(1) + old.mix_hash + word(CHAIN_ID)


def test_state_of_old_blocks_is_kept(chain: Chain) -> None:
    counter = chain.deploy(COUNTER)
    headers = [chain.mine(to=counter, value=0).header for _ in range(4)]
    assert [chain.engine.evm.storage(counter, 0, header) for header in headers] == [1, 2, 3, 4]


def test_a_call_changes_nothing(chain: Chain) -> None:
    counter = chain.deploy(COUNTER)
    before = chain.engine.head.state_root
    chain.engine.call(Message(to=counter))
    chain.engine.call(Message(to=counter))
    assert chain.engine.evm.storage(counter, 0) == 0
    assert chain.mine(to=counter, value=0).header.state_root != before
    assert chain.engine.evm.storage(counter, 0) == 1


def test_revert_bytes_are_kept(chain: Chain) -> None:
    refuser = chain.deploy(REFUSER)
    custom = bytes.fromhex("deadbeef") + word(42)
    with pytest.raises(ExecutionReverted) as caught:
        chain.engine.call(Message(to=refuser, data=custom))
    assert (caught.value.message, caught.value.data) == ("execution reverted", custom)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "execution reverted"),
        (bytes.fromhex("08c379a0") + word(32) + word(4) + b"late".ljust(32, b"\0"), "execution reverted: late"),
        (bytes.fromhex("08c379a0") + word(32) + word(2**200), "execution reverted"),
        (bytes.fromhex("4e487b71") + word(0x11), "execution reverted: panic: 0x11"),
    ],
    ids=["nothing", "reason", "lying-length", "panic"],
)
def test_revert_reasons_are_worded_as_geth_words_them(chain: Chain, data: bytes, message: str) -> None:
    refuser = chain.deploy(REFUSER)
    with pytest.raises(ExecutionReverted) as caught:
        chain.engine.call(Message(to=refuser, data=data))
    assert caught.value.message == message


def test_a_call_that_runs_out_of_gas_says_so(chain: Chain) -> None:
    spinner = chain.deploy(SPINNER)
    with pytest.raises(ExecutionFailed, match="out of gas"):
        chain.engine.call(Message(to=spinner, gas=50_000))


def test_a_call_cannot_send_what_its_sender_lacks(chain: Chain) -> None:
    with pytest.raises(ExecutionFailed, match="insufficient funds for transfer"):
        chain.engine.call(Message(sender=b"\x77" * 20, to=b"\x01" * 20, value=1))


@pytest.mark.parametrize(
    "fault, raw",
    [
        ("invalid chain id for signer: have 5 want", sign(ALICE, 0, chainId=5)),
        ("invalid chain id for signer: have 5 want", sign(ALICE, 0, chainId=5, gasPrice=20)),
        ("only replay-protected", sign(ALICE, 0, chainId=None, gasPrice=20)),
        ("typed transaction too short", b""),
        ("transaction type not supported", b"\x03\xc0"),
        ("transaction type not supported", b"\x04\xc0"),
        ("transaction type not supported", b"\x7f"),
        ("rlp", b"\x02"),
        ("rlp", b"\x02\xc0"),
        ("rlp", b"\xc0"),
        ("rlp", b"\xf8"),
        ("rlp", b"\xff" * 100),
        ("rlp", sign(ALICE, 0) + b"\0"),
        ("rlp", sign(ALICE, 0)[:-1]),
        ("oversized data", b"\x02" + bytes(128 * 1024)),
        ("intrinsic gas too low", sign(ALICE, 0, gas=20_999)),
        ("insufficient gas for floor data gas cost", sign(ALICE, 0, gas=21_200, data=b"\1" * 10)),
        ("max priority fee per gas higher", sign(ALICE, 0, maxFeePerGas=8, maxPriorityFeePerGas=9)),
        ("max initcode size exceeded", sign(ALICE, 0, to=b"", gas=20_000_000, data=bytes(49_153))),
    ],
)
def test_a_transaction_with_a_fault_is_refused(fault: str, raw: bytes) -> None:
    with pytest.raises(TransactionRefused, match=fault):
        decode_transaction(raw, CHAIN_ID)


def test_a_signature_with_high_s_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    fields = rlp.decode(sign(ALICE, 0)[1:])
    high = order - int.from_bytes(fields[11], "big")
    parity = b"" if fields[9] == b"\1" else b"\1"
    with pytest.raises(TransactionRefused, match="invalid sender"):
        decode_transaction(b"\x02" + rlp.encode([*fields[:9], parity, fields[10], high.to_bytes(32, "big")]), CHAIN_ID)


@pytest.mark.parametrize(
    "fields", [{}, {"gasPrice": 20}, {"gasPrice": 20, "accessList": []}], ids=["1559", "legacy", "2930"]
)
def test_transaction_types_0_1_and_2_are_taken(chain: Chain, fields: dict[str, object]) -> None:
    block = chain.mine(**fields)
    assert block.receipts[0].status == 1
    assert block.transactions[0].sender == address_of(ALICE)


def test_the_target_bounds_a_block(chain: Chain) -> None:
    fit = BLOCK_GAS_TARGET // TRANSACTION_GAS_CAP
    for _ in range(fit + 2):
        chain.send(gas=TRANSACTION_GAS_CAP)
    block, rest = chain.engine.mine(), chain.engine.mine()
    assert block is not None
    assert rest is not None
    assert (len(block.transactions), len(rest.transactions)) == (fit, 2)


@pytest.mark.parametrize("r", [0, 5, 2**256 - 1], ids=["zero", "not-on-the-curve", "too-large"])
def test_a_signature_that_recovers_nobody_is_refused(r: int) -> None:
    fields = rlp.decode(sign(ALICE, 0)[1:])
    raw = b"\x02" + rlp.encode([*fields[:10], r.to_bytes(32, "big").lstrip(b"\0"), fields[11]])
    with pytest.raises(TransactionRefused, match="invalid sender"):
        decode_transaction(raw, CHAIN_ID)


def test_calls_nested_as_deep_as_gas_goes_are_survived(chain: Chain) -> None:
    nester = chain.deploy(NESTER)
    assert chain.engine.call(Message(to=nester)).gas_used > 400 * 121, "hundreds of levels were entered"
    assert chain.mine(to=nester, value=0, gas=TRANSACTION_GAS_CAP).receipts[0].status == 1
