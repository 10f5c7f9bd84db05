"""Where everything on the chain is found without looking through it: blocks, transactions, receipts, logs.

Kept in memory and rebuilt from the journal. A query for logs costs what the rarest of its conditions matches: logs
are numbered in chain order, every address and every (position, topic) has the sorted list of its logs' numbers, the
shortest list is walked within the block range and the other conditions are checked on what it gives.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

from node.chain.evm import Block, Log, Receipt


@dataclass(frozen=True)
class LogFilter:
    """Which logs are wanted.

    Attributes:
        first_block, last_block: heights, both included.
        addresses: any of these; empty: any address.
        topics: by position, any of these; an empty tuple: any topic, but there must be one.
    """

    first_block: int
    last_block: int
    addresses: tuple[bytes, ...] = ()
    topics: tuple[tuple[bytes, ...], ...] = ()

    def matches(self, log: Log) -> bool:
        """Whether a log satisfies every condition."""
        return (
            self.first_block <= log.block_number <= self.last_block
            and (not self.addresses or log.address in self.addresses)
            and len(log.topics) >= len(self.topics)
            and all(not any_of or log.topics[i] in any_of for i, any_of in enumerate(self.topics))
        )


class Index:
    """Blocks by height and hash, receipts by transaction hash, logs by address and topic."""

    def __init__(self, genesis: Block) -> None:
        """Start with block 0."""
        self._blocks: list[Block] = []
        self._number_of: dict[bytes, int] = {}
        self._receipts: dict[bytes, Receipt] = {}
        self._logs: list[Log] = []
        self._first_log: list[int] = []  # by height: how many logs the blocks below hold
        self._by_address: dict[bytes, list[int]] = {}
        self._by_topic: dict[tuple[int, bytes], list[int]] = {}
        self.add(genesis)

    @property
    def height(self) -> int:
        """Height of the newest block."""
        return len(self._blocks) - 1

    def add(self, block: Block) -> None:
        """Take in the block that follows the newest one."""
        self._number_of[block.header.hash] = block.header.number
        self._first_log.append(len(self._logs))
        for receipt in block.receipts:
            self._receipts[receipt.transaction.hash] = receipt
            for log in receipt.logs:
                number = len(self._logs)
                self._logs.append(log)
                self._by_address.setdefault(log.address, []).append(number)
                for position, topic in enumerate(log.topics):
                    self._by_topic.setdefault((position, topic), []).append(number)
        self._blocks.append(block)

    def block(self, number: int) -> Block | None:
        """The block at a height."""
        return self._blocks[number] if 0 <= number < len(self._blocks) else None

    def block_by_hash(self, block_hash: bytes) -> Block | None:
        """The block of a hash."""
        number = self._number_of.get(block_hash)
        return None if number is None else self._blocks[number]

    def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of a mined transaction; the transaction itself is in it."""
        return self._receipts.get(transaction_hash)

    def logs(self, wanted: LogFilter) -> Iterator[Log]:
        """Every log that matches, in chain order."""
        first = max(wanted.first_block, 0)
        last = min(wanted.last_block, self.height)
        if first > last:
            return
        low = self._first_log[first]
        high = self._first_log[last + 1] if last < self.height else len(self._logs)
        for number in self._candidates(wanted, low, high):
            log = self._logs[number]
            if wanted.matches(log):
                yield log

    def _candidates(self, wanted: LogFilter, low: int, high: int) -> Iterable[int]:
        """Numbers of logs in [low, high) that satisfy at least the rarest condition, ascending."""
        best: list[Sequence[int]] | None = None
        fewest = high - low
        for lists in self._posting_lists(wanted):
            within = [numbers[bisect_left(numbers, low) : bisect_left(numbers, high)] for numbers in lists]
            count = sum(map(len, within))
            if count < fewest:
                best, fewest = list(within), count
        if best is None:
            return range(low, high)
        return merge(*best)

    def _posting_lists(self, wanted: LogFilter) -> Iterator[list[list[int]]]:
        if wanted.addresses:
            yield [self._by_address.get(address, []) for address in set(wanted.addresses)]
        for position, any_of in enumerate(wanted.topics):
            if any_of:
                yield [self._by_topic.get((position, topic), []) for topic in set(any_of)]
