from __future__ import annotations

import pytest

from node.chain.engine import MAX_LEAD_S
from node.chain.errors import ExecutionFailed, ExecutionReverted, TransactionRefused
from node.chain.evm import Message, decode_transaction
from tests.node.chain.chain_kit import (
    ALICE,
    BOB,
    CHAIN_ID,
    CLOCK,
    COUNTER,
    GATE,
    POOR,
    REFUSER,
    SPINNER,
    Chain,
    StandingClock,
    address_of,
    initcode,
    sign,
    word,
)


def test_the_stamp_is_the_wall_clock_after_idling(chain: Chain, clock: StandingClock) -> None:
    chain.mine()
    clock.time += 3600.9
    assert chain.mine().header.timestamp == int(clock.time)


def test_a_burst_of_blocks_never_leads_the_wall_clock(chain: Chain, clock: StandingClock) -> None:
    for _ in range(60):
        assert chain.mine().header.timestamp == int(clock.time)
    assert chain.engine.evm.nonce(address_of(ALICE)) == chain.engine.head.number == 60


def test_sixty_transactions_that_wait_go_into_one_block(chain: Chain, clock: StandingClock) -> None:
    for _ in range(60):
        chain.send()
    block = chain.engine.mine()
    assert block is not None
    assert len(block.transactions) == 60
    assert block.header.timestamp == int(clock.time)


def test_two_transactions_of_one_sender_share_a_block(chain: Chain) -> None:
    counter = chain.deploy(COUNTER)
    chain.send(to=counter, value=0)
    block = chain.mine(to=counter, value=0)
    assert [one.nonce for one in block.transactions] == [1, 2]
    assert chain.engine.evm.storage(counter, 0) == 2


def test_no_empty_blocks(chain: Chain, clock: StandingClock) -> None:
    clock.time += 1000
    assert chain.engine.wait_s() is None
    assert chain.engine.mine() is None
    assert chain.engine.head.number == 0


def test_a_clock_that_was_set_back_never_sets_time_back(chain: Chain, clock: StandingClock) -> None:
    stamp = chain.mine().header.timestamp
    clock.time -= MAX_LEAD_S
    assert chain.mine().header.timestamp == stamp
    clock.time -= 500
    chain.send()
    assert chain.engine.mine() is None
    assert chain.engine.wait_s() == pytest.approx(500, abs=1)
    assert chain.engine.next_stamp() == stamp
    clock.time += 500
    block = chain.engine.mine()
    assert block is not None
    assert block.header.timestamp == stamp


def test_a_call_sees_the_stamp_of_the_next_block(chain: Chain, clock: StandingClock) -> None:
    contract = chain.deploy(CLOCK)
    assert chain.engine.call(Message(to=contract)).output[:32] == word(chain.engine.head.timestamp)
    clock.time += 900
    assert chain.engine.call(Message(to=contract)).output[:32] == word(int(clock.time))


def test_a_deadline_passes_on_a_quiet_chain_for_calls_and_estimates(chain: Chain, clock: StandingClock) -> None:
    gate = chain.deploy(GATE)
    message = Message(to=gate, data=word(int(clock.time) + 60))
    clock.time += 59
    with pytest.raises(ExecutionReverted):
        chain.engine.estimate_gas(message)
    with pytest.raises(ExecutionReverted):
        chain.engine.call(message)
    clock.time += 1
    gas = chain.engine.estimate_gas(message)
    chain.engine.call(message)
    assert chain.mine(to=gate, value=0, data=message.data, gas=gas).receipts[0].status == 1


@pytest.mark.parametrize("runtime", [COUNTER, GATE, CLOCK])
def test_an_estimate_suffices_and_is_close(chain: Chain, runtime: str) -> None:
    contract = chain.deploy(runtime)
    gas = chain.engine.estimate_gas(Message(to=contract))
    receipt = chain.mine(to=contract, value=0, gas=gas).receipts[0]
    assert receipt.status == 1
    assert receipt.gas_used <= gas <= receipt.gas_used * 1.1 + 2300


def test_an_estimate_of_a_plain_transfer_is_exact(chain: Chain) -> None:
    assert chain.engine.estimate_gas(Message(sender=address_of(ALICE), to=b"\x11" * 20, value=5)) == 21_000


def test_an_estimate_covers_the_floor_of_call_data(chain: Chain) -> None:
    data = b"\x01" * 1000
    gas = chain.engine.estimate_gas(Message(to=b"\x11" * 20, data=data))
    assert gas == 21_000 + 40 * 1000
    assert chain.mine(data=data, gas=gas).receipts[0].gas_used == gas


def test_an_estimate_of_a_creation_suffices(chain: Chain) -> None:
    gas = chain.engine.estimate_gas(Message(data=initcode(COUNTER)))
    assert chain.mine(to=b"", value=0, data=initcode(COUNTER), gas=gas).receipts[0].status == 1


def test_an_estimate_of_what_cannot_run_fails_with_the_reason(chain: Chain) -> None:
    refuser, spinner = chain.deploy(REFUSER), chain.deploy(SPINNER)
    with pytest.raises(ExecutionReverted) as caught:
        chain.engine.estimate_gas(Message(to=refuser, data=b"\xde\xad\xbe\xef"))
    assert caught.value.data == b"\xde\xad\xbe\xef"
    with pytest.raises(ExecutionFailed, match=r"gas required exceeds allowance \(100000\)"):
        chain.engine.estimate_gas(Message(to=spinner, gas=100_000))
    with pytest.raises(ExecutionFailed, match="gas required exceeds allowance"):
        chain.engine.estimate_gas(Message(sender=address_of(POOR), to=refuser, gas_price=8))


def test_a_failing_transaction_is_mined_with_status_zero_and_pays(chain: Chain) -> None:
    refuser = chain.deploy(REFUSER)
    before = chain.engine.evm.balance(address_of(ALICE))
    receipt = chain.mine(to=refuser, value=0, data=b"\x01").receipts[0]
    assert receipt.status == 0
    paid = receipt.gas_used * receipt.transaction.effective_gas_price
    assert chain.engine.evm.balance(address_of(ALICE)) == before - paid


def test_a_wrong_chain_id_is_refused_at_the_door(chain: Chain) -> None:
    with pytest.raises(TransactionRefused, match="invalid chain id for signer: have 1 want"):
        chain.engine.submit(sign(ALICE, 0, chainId=1))
    assert len(chain.engine.pool) == 0


def test_what_was_mined_is_already_known(chain: Chain) -> None:
    raw = chain.mine().transactions[0].raw
    with pytest.raises(TransactionRefused, match=r"^already known$"):
        chain.engine.submit(raw)


def test_a_used_nonce_is_too_low(chain: Chain) -> None:
    chain.mine()
    with pytest.raises(TransactionRefused, match="nonce too low: next nonce 1, tx nonce 0"):
        chain.engine.submit(sign(ALICE, 0, value=99))


def test_an_account_without_coin_is_refused(chain: Chain) -> None:
    with pytest.raises(TransactionRefused, match="insufficient funds"):
        chain.engine.submit(sign(POOR, 0))


def test_one_transaction_that_cannot_run_does_not_stop_the_chain(chain: Chain) -> None:
    # Past the pool's own checks, as a fault in them would let it.
    poor = decode_transaction(sign(POOR, 0), CHAIN_ID)
    chain.engine.pool.add(poor, nonce=0, balance=10**20)
    chain.send(BOB)
    block = chain.engine.mine()
    assert block is not None
    assert [one.sender for one in block.transactions] == [address_of(BOB)]
    assert chain.engine.pool.get(poor.hash) is None
