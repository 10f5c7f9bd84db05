from __future__ import annotations

import pytest

from node.chain.errors import TransactionRefused
from node.chain.evm import TRANSACTION_GAS_CAP, Transaction, decode_transaction
from node.chain.pool import MAX_WAITING_A_SENDER, Pool
from tests.node.chain.chain_kit import ALICE, BOB, CHAIN_ID, address_of, sign

RICH = 10**20


def transaction(account: object, nonce: int, **fields: object) -> Transaction:
    return decode_transaction(sign(account, nonce, **fields), CHAIN_ID)


def add(pool: Pool, one: Transaction, nonce: int = 0, balance: int = RICH) -> Transaction:
    pool.add(one, nonce=nonce, balance=balance)
    return one


def test_nonces_of_a_sender_follow_one_another_however_they_arrived() -> None:
    pool = Pool()
    late = [add(pool, transaction(ALICE, nonce)) for nonce in (2, 0, 1)]
    assert pool.executable(lambda _: 0) == [late[1], late[2], late[0]]


def test_a_gap_holds_back_what_is_above_it() -> None:
    pool = Pool()
    add(pool, transaction(ALICE, 1))
    assert pool.executable(lambda _: 0) == []
    assert pool.next_nonce(address_of(ALICE), 0) == 0
    add(pool, transaction(ALICE, 0))
    assert [one.nonce for one in pool.executable(lambda _: 0)] == [0, 1]
    assert pool.next_nonce(address_of(ALICE), 0) == 2


def test_senders_are_served_in_order_of_arrival() -> None:
    pool = Pool()
    first = add(pool, transaction(BOB, 0))
    second = add(pool, transaction(ALICE, 0))
    assert pool.executable(lambda _: 0) == [first, second]


@pytest.mark.parametrize(
    "message, nonce, fields",
    [
        ("nonce too low: next nonce 3, tx nonce 2", 2, {}),
        ("exceeds block gas limit", 3, {"gas": TRANSACTION_GAS_CAP + 1}),
        ("max fee per gas less than block base fee", 3, {"maxFeePerGas": 6, "maxPriorityFeePerGas": 0}),
        (r"insufficient funds for gas \* price \+ value", 3, {"value": RICH}),
    ],
)
def test_refusals_are_worded_as_geth_words_them(message: str, nonce: int, fields: dict[str, object]) -> None:
    with pytest.raises(TransactionRefused, match=message):
        add(Pool(), transaction(ALICE, nonce, **fields), nonce=3)


def test_the_balance_must_cover_everything_that_waits() -> None:
    pool = Pool()
    add(pool, transaction(ALICE, 0, value=RICH // 2))
    with pytest.raises(TransactionRefused, match="insufficient funds"):
        add(pool, transaction(ALICE, 1, value=RICH // 2))


def test_the_same_transaction_again_is_already_known() -> None:
    pool = Pool()
    add(pool, transaction(ALICE, 0))
    with pytest.raises(TransactionRefused, match=r"^already known$"):
        add(pool, transaction(ALICE, 0))


def test_a_replacement_must_pay_a_tenth_more() -> None:
    pool = Pool()
    add(pool, transaction(ALICE, 0, maxFeePerGas=100, maxPriorityFeePerGas=10))
    with pytest.raises(TransactionRefused, match="replacement transaction underpriced"):
        add(pool, transaction(ALICE, 0, maxFeePerGas=109, maxPriorityFeePerGas=11))
    better = add(pool, transaction(ALICE, 0, maxFeePerGas=110, maxPriorityFeePerGas=11))
    assert pool.executable(lambda _: 0) == [better]
    assert len(pool) == 1


def test_a_sender_cannot_fill_the_pool() -> None:
    pool = Pool()
    for nonce in range(MAX_WAITING_A_SENDER):
        add(pool, transaction(ALICE, nonce))
    with pytest.raises(TransactionRefused, match="txpool is full"):
        add(pool, transaction(ALICE, MAX_WAITING_A_SENDER))
    add(pool, transaction(BOB, 0))


def test_what_was_mined_is_forgotten() -> None:
    pool = Pool()
    one = add(pool, transaction(ALICE, 0))
    pool.remove(one)
    pool.remove(one)
    assert (len(pool), pool.get(one.hash), pool.executable(lambda _: 0)) == (0, None, [])
