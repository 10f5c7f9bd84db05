"""Following the chain: final blocks in, records out, evidence kept, reorganisations noticed.

What may live here: how far we have read, and the proof of what we read. What this file does not know: what a record
means (`history`), what to do about it (`app`). Where the ledger is an Ethereum client every block is kept as header and
receipts and its records are decoded from those, so what the node acted on is exactly what an offline audit can check.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crypto.digest import Digest
from node.abi import Codec
from node.errors import LedgerError
from node.evidence import BlockEvidence, VerifiedBlock, verify_block
from node.records import Contracts, Head, Ledger, Logged, Position
from node.store import Store

MAX_BLOCKS = 500  # of one step: a node that was away for days catches up in pieces and stays responsive


@runtime_checkable
class EvidentLedger(Ledger, Protocol):
    """A ledger whose blocks can be proved."""

    def evidence(self, number: int) -> BlockEvidence:
        """Header and receipts of a block."""
        ...


class Reorganised(LedgerError):
    """The chain no longer contains a block we read: everything derived from it has to be read again."""


def logged_of(block: VerifiedBlock, codec: Codec, contracts: Contracts) -> list[Logged]:
    """The four contracts' records in a verified block, in order. `transaction` is the index inside the block."""
    found = []
    for log in block.logs:
        record = codec.record(log, contracts)
        if record is not None:
            found.append(
                Logged(
                    Position(block.number, log.log_index),
                    block.block_hash,
                    block.timestamp,
                    Digest(log.transaction_index.to_bytes(32, "big")),
                    record,
                )
            )
    return found


class Follower:
    """Reads final blocks one after the other. Blocking; call it from one thread at a time."""

    def __init__(self, ledger: Ledger, store: Store, codec: Codec | None) -> None:
        """`codec` decodes evidence; None for a ledger without evidence (in memory)."""
        self._ledger, self._store, self._codec = ledger, store, codec
        self._next = 0

    def stored(self) -> list[Logged]:
        """What an earlier run kept, from the first block on; then `step` continues after it.

        Raises:
            Reorganised: kept blocks do not chain (an interrupted reorganisation); they are dropped from there on.
        """
        if self._codec is None:
            return []
        found: list[Logged] = []
        parent: Digest | None = None
        for evidence, block_hash in self._store.blocks():
            block = verify_block(evidence)
            if block.block_hash != block_hash or (parent is not None and block.parent_hash != parent):
                self._store.forget_blocks(evidence.number)
                raise Reorganised(f"kept block {evidence.number} does not follow from its predecessor")
            parent = block_hash
            found += logged_of(block, self._codec, self._ledger.contracts)
            self._next = evidence.number + 1
        return found

    def step(self, head: Head) -> Sequence[Logged]:
        """Records of the next final blocks up to `head.final_number`, kept before they are returned.

        Raises:
            Reorganised: a block we kept is not on the chain any more; kept blocks are dropped back to the fork.
        """
        first, last = self._next, min(head.final_number, self._next + MAX_BLOCKS - 1)
        if last < first:
            return ()
        if self._codec is None or not isinstance(self._ledger, EvidentLedger):
            self._next = last + 1
            return self._ledger.records(first, last)
        found: list[Logged] = []
        parent = self._store.block_hash(first - 1)
        for number in range(first, last + 1):
            evidence = self._ledger.evidence(number)
            block = verify_block(evidence)
            if parent is not None and block.parent_hash != parent:
                self._rewind(number - 1)
            parent = block.block_hash
            found += logged_of(block, self._codec, self._ledger.contracts)
            self._store.add_block(block.block_hash, block.timestamp, evidence)
            self._next = number + 1
        return found

    @property
    def done(self) -> int:
        """The newest block that was read, -1 before the first."""
        return self._next - 1

    def _rewind(self, number: int) -> None:
        while number >= 0 and self._store.block_hash(number) != self._ledger.block_hash(number):
            number -= 1
        self._store.forget_blocks(number + 1)
        self._next = number + 1
        raise Reorganised(f"the chain was reorganised: blocks after {number} are read again")
