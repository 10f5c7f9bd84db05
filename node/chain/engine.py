"""The chain as one thing: pool, EVM, journal and index, and the rules of time that join them.

Rules of time (a block's stamp is the only clock the contracts have):

1. A block is stamped max(parent, wall clock), in whole seconds. After an idle hour the next block has the hour's stamp
   at once. Blocks of one second share its stamp, which Ethereum's consensus does not allow and every contract is used
   to, from transactions that share a block: stamps that each took a second of their own would run ahead of the wall
   clock, and a round, which is two blocks, could never take less than two seconds.
2. Stamps never go back. A wall clock that was set back leaves them where they are, and time stands still for the
   contracts; set back by more than MAX_LEAD_S it makes the chain wait instead.
3. No empty blocks. What waits goes into one block.
4. Calls and estimates run at the stamp the next block would get, so a deadline passes on a quiet chain as well.

Synchronous and without threads: the server calls it from one place, the tests without a server.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from node.chain.clock import Clock
from node.chain.errors import ExecutionFailed, ExecutionReverted, TransactionRefused
from node.chain.evm import (
    TRANSACTION_GAS_CAP,
    Block,
    CallResult,
    Evm,
    Header,
    Message,
    Transaction,
    decode_transaction,
)
from node.chain.genesis import ChainGenesis, load_genesis
from node.chain.index import Index
from node.chain.journal import Journal, journal_file
from node.chain.pool import Pool

MAX_LEAD_S = 10
CALL_STIPEND = 2300
# geth stops its search when it knows the answer to this fraction; each further step costs one more execution.
ESTIMATE_ERROR = 0.015

_log = logging.getLogger(__name__)


class Engine:
    """A running chain.

    Attributes:
        evm, index, pool: its parts; to be read, changed only through this class.
        failed: a block could not be put on the disk; nothing may be answered any more.
    """

    def __init__(self, genesis: ChainGenesis, clock: Clock, journal: Journal | None = None) -> None:
        """Make block 0 and execute the journal.

        Args:
            genesis: what the chain starts from.
            clock: what stamps follow.
            journal: where blocks are kept; None for a chain that lives as long as this object.

        Raises:
            JournalError: a line of the journal does not hold.
        """
        self.evm = Evm(genesis)
        self.index = Index(self.evm.genesis_block)
        self.pool = Pool()
        self.failed = False
        self._clock = clock
        self._journal = journal
        if journal is not None:
            for block in journal.replay_onto(self.evm):
                self.index.add(block)
            if journal.torn_bytes:
                _log.warning("the journal's last line was unfinished (%d bytes) and was cut off", journal.torn_bytes)

    @staticmethod
    def open(home: Path, clock: Clock) -> Engine:
        """Start from the files of a network home.

        Raises:
            NotFound, GenesisError: no usable genesis.
            JournalError: a line of the journal does not hold.
        """
        genesis = load_genesis(home)
        journal = Journal(journal_file(home))
        try:
            return Engine(genesis, clock, journal)
        except BaseException:
            journal.close()
            raise

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    @property
    def chain_id(self) -> int:
        """EIP-155 id."""
        return self.evm.chain_id

    @property
    def head(self) -> Header:
        """Header of the newest block."""
        return self.evm.head

    @property
    def genesis_hash(self) -> bytes:
        """Hash of block 0."""
        return self.evm.genesis_block.header.hash

    # ------------------------------------------------------------------------------------------------------------- time

    def next_stamp(self) -> int:
        """The stamp the next block would get if it were made now, in seconds (rule 1)."""
        return max(self.head.timestamp, int(self._clock.now()))

    def wait_s(self) -> float | None:
        """Seconds until the next block may be made: 0 now, None if nothing waits for one (rules 2, 3)."""
        if not self.executable():
            return None
        return max(0.0, self.head.timestamp - MAX_LEAD_S - self._clock.now())

    # ----------------------------------------------------------------------------------------------------- transactions

    def submit(self, raw: bytes) -> Transaction:
        """Take a signed transaction into the pool.

        Raises:
            TransactionRefused: worded as geth words it; "already known" for one that waits or was mined.
        """
        transaction = decode_transaction(raw, self.chain_id)
        if self.index.receipt(transaction.hash) is not None:
            raise TransactionRefused("already known")
        sender = transaction.sender
        self.pool.add(transaction, nonce=self.evm.nonce(sender), balance=self.evm.balance(sender))
        return transaction

    def executable(self) -> list[Transaction]:
        """What the next block would take."""
        return self.pool.executable(self.evm.nonce) if len(self.pool) else []

    def mine(self) -> Block | None:
        """Make one block of what waits, put it on the disk, then into the index. None if nothing can be mined now.

        Raises:
            LocalFault: the disk did not take it; the engine must not be used any more.
        """
        if self.wait_s() != 0.0:
            return None
        batch = self.executable()
        stamp = self.next_stamp()
        try:
            block = self.evm.mine(batch, stamp)
        except TransactionRefused as error:
            # The pool's checks make this unreachable as far as we know; were it not, one transaction may not stop the
            # chain.
            _log.error("a batch of %d was refused: %s", len(batch), error)
            first = self._first_that_runs(batch, stamp)
            if first is None:
                return None
            block = first
        if self._journal is not None:
            self.failed = True  # until the disk has it: what this memory holds may not be spoken of
            self._journal.append(block)
            self.failed = False
        self.index.add(block)
        for transaction in block.transactions:
            self.pool.remove(transaction)
        return block

    def _first_that_runs(self, batch: list[Transaction], stamp: int) -> Block | None:
        for transaction in batch:
            try:
                return self.evm.mine([transaction], stamp)
            except TransactionRefused as error:
                _log.error("transaction 0x%s is dropped: %s", transaction.hash.hex(), error)
                self.pool.remove(transaction)
        return None

    # ------------------------------------------------------------------------------------------------------------ calls

    def call(self, message: Message, at: Header | None = None) -> CallResult:
        """Run a message in the block that would come next (rule 4), or in an old block.

        Raises:
            ExecutionReverted, ExecutionFailed: as geth words them.
        """
        if at is None:
            return self.evm.call(message, timestamp=self.next_stamp())
        return self.evm.call(message, at=at)

    def estimate_gas(self, message: Message) -> int:
        """A gas limit with which the message would run in the block that would come next (rule 4).

        Raises:
            ExecutionReverted, ExecutionFailed: it fails even with all the gas it may have.
        """
        high = min(message.gas or TRANSACTION_GAS_CAP, TRANSACTION_GAS_CAP)
        if message.gas_price:
            affordable = (self.evm.balance(message.sender) - message.value) // message.gas_price
            if affordable < 0:
                raise ExecutionFailed("insufficient funds for gas * price + value")
            high = min(high, affordable)
        low = self.evm.least_gas(message) - 1
        if high <= low:
            raise ExecutionFailed(f"gas required exceeds allowance ({high})")
        try:
            result = self.call(replace(message, gas=high))
        except ExecutionFailed as error:
            if error.message == "out of gas":
                raise ExecutionFailed(f"gas required exceeds allowance ({high})") from None
            raise
        # What a call uses is the least it can need; with the refund and the part EIP-150 holds back it nearly always
        # suffices.
        low = max(low, result.gas_used - 1)
        guess = (result.gas_used + result.gas_refund + CALL_STIPEND) * 64 // 63
        for probe in (low + 1, guess):
            if low < probe < high:
                low, high = (low, probe) if self._runs(replace(message, gas=probe)) else (probe, high)
        while high - low > 1 and (high - low) / high > ESTIMATE_ERROR:
            # The answer is nearly always close to the low end.
            middle = min((low + high) // 2, low * 2)
            low, high = (low, middle) if self._runs(replace(message, gas=middle)) else (middle, high)
        return high

    def _runs(self, message: Message) -> bool:
        try:
            self.call(message)
        except (ExecutionFailed, ExecutionReverted):
            return False
        return True
