"""What waits to be mined: signed transactions by sender and nonce, admitted only if the block they go into will run.

Decides, without a clock and without I/O: whether a transaction is taken in (nonce, fee, balance over everything the
sender has waiting), and which go into the next block. Does not know py-evm's state: the caller says each account's
nonce and balance at the head.

Nothing here is durable. A sender keeps its signed bytes and may send them again at any time; the answer is "already
known".
"""

from __future__ import annotations

from collections.abc import Callable

from node.chain.errors import TransactionRefused
from node.chain.evm import BASE_FEE_WEI, BLOCK_GAS_TARGET, TRANSACTION_GAS_CAP, Transaction

MAX_WAITING = 4096
MAX_WAITING_A_SENDER = 512
REPLACEMENT_PERCENT = 110  # as geth: a replacement pays at least a tenth more


class Pool:
    """Pending transactions in the order in which they came."""

    def __init__(self) -> None:
        """Start empty."""
        self._by_hash: dict[bytes, Transaction] = {}  # in order of arrival
        self._by_sender: dict[bytes, dict[int, Transaction]] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._by_hash)

    def get(self, transaction_hash: bytes) -> Transaction | None:
        """The waiting transaction of this hash."""
        return self._by_hash.get(transaction_hash)

    def waiting(self) -> tuple[Transaction, ...]:
        """All that wait, in order of arrival."""
        return tuple(self._by_hash.values())

    def add(self, transaction: Transaction, *, nonce: int, balance: int) -> None:
        """Take a transaction in.

        Args:
            transaction: checked in form by `decode_transaction`.
            nonce: the sender's next nonce at the head.
            balance: the sender's wei at the head.

        Raises:
            TransactionRefused: worded as geth words it.
        """
        if transaction.hash in self._by_hash:
            raise TransactionRefused("already known")
        if transaction.nonce < nonce:
            raise TransactionRefused(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        if transaction.gas > TRANSACTION_GAS_CAP:
            raise TransactionRefused(f"exceeds block gas limit: tx gas {transaction.gas}, limit {TRANSACTION_GAS_CAP}")
        if transaction.max_fee < BASE_FEE_WEI:
            raise TransactionRefused(
                "max fee per gas less than block base fee: "
                f"address 0x{transaction.sender.hex()}, maxFeePerGas: {transaction.max_fee}, baseFee: {BASE_FEE_WEI}"
            )
        own = self._by_sender.get(transaction.sender, {})
        replaced = own.get(transaction.nonce)
        if replaced is not None and not _outbids(transaction, replaced):
            raise TransactionRefused("replacement transaction underpriced")
        cost = transaction.most_cost + sum(t.most_cost for n, t in own.items() if n != transaction.nonce)
        if cost > balance:
            raise TransactionRefused(
                "insufficient funds for gas * price + value: "
                f"balance {balance}, tx cost {cost}, overshot {cost - balance}"
            )
        if replaced is not None:
            del self._by_hash[replaced.hash]
        elif len(own) >= MAX_WAITING_A_SENDER or len(self._by_hash) >= MAX_WAITING:
            raise TransactionRefused("txpool is full")
        self._by_hash[transaction.hash] = transaction
        self._by_sender.setdefault(transaction.sender, {})[transaction.nonce] = transaction

    def next_nonce(self, sender: bytes, nonce: int) -> int:
        """The first nonce that `sender` has not used, from its `nonce` at the head over what waits without a gap."""
        own = self._by_sender.get(sender, {})
        while nonce in own:
            nonce += 1
        return nonce

    def executable(self, nonce_of: Callable[[bytes], int]) -> list[Transaction]:
        """What the next block takes: in order of arrival, each sender's nonces in sequence, up to the gas target.

        Args:
            nonce_of: an account's next nonce at the head.
        """
        taken: list[Transaction] = []
        room = BLOCK_GAS_TARGET
        next_nonce = {sender: nonce_of(sender) for sender in self._by_sender}
        seen: set[bytes] = set()
        for arrived in self._by_hash.values():
            if arrived.sender in seen:
                continue
            # A sender's transactions follow one another, wherever its earliest came in: a gap may have been filled
            # late.
            seen.add(arrived.sender)
            own = self._by_sender[arrived.sender]
            nonce = next_nonce[arrived.sender]
            while (candidate := own.get(nonce)) is not None and candidate.gas <= room:
                taken.append(candidate)
                room -= candidate.gas
                nonce += 1
        return taken

    def remove(self, transaction: Transaction) -> None:
        """Forget a transaction that was mined or can no longer be; unknown ones are ignored."""
        if self._by_hash.pop(transaction.hash, None) is None:
            return
        own = self._by_sender[transaction.sender]
        del own[transaction.nonce]
        if not own:
            del self._by_sender[transaction.sender]


def _outbids(new: Transaction, old: Transaction) -> bool:
    return (
        new.max_fee * 100 >= old.max_fee * REPLACEMENT_PERCENT
        and new.max_priority_fee * 100 >= old.max_priority_fee * REPLACEMENT_PERCENT
    )
