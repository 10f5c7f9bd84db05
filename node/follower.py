"""Following the chain: final blocks in, records out, evidence kept, reorganisations and lies noticed.

What may live here: how far we have read, and the proof of what we read. What this file does not know: what a record
means (`history`), what to do about it (`app`). Where the ledger is an Ethereum client every block is kept as header and
receipts and its records are decoded from those, so what the node acted on is exactly what an offline audit can check.

What an endpoint may do, and where it is noticed:

| it                               | noticed by                                          | and then it counts as   |
|----------------------------------|-----------------------------------------------------|-------------------------|
| hides, adds or alters a log      | the header's receipts root (`step`)                 | disputed                |
| alters a header                  | its hash as stated, or as the child names it        | disputed, reorganised   |
| shows an older state             | the contracts' own accumulators (`compare`)         | disputed                |
| falls behind what it gave us     | the newest block that we read (`check_head`)        | disputed; in the end a) |
| replaces blocks that we read     | hash and parent hash (`check_head`, `step`)         | a)                      |
| replaces block 0                 | it is no reorganisation but another chain           | disputed                |
| rewrites all of it consistently  | another endpoint (`witnesses`), and by nothing else | disputed                |

a) reorganised, unless another endpoint still has the block that we read: then disputed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

from crypto.digest import Digest
from node.abi import Codec
from node.errors import ChainDisputed, LedgerError, NotFound
from node.evidence import BlockEvidence, VerifiedBlock, verify_block
from node.records import Contracts, Head, Ledger, Logged, Position
from node.store import Store
from node.witnesses import Witnesses

PATIENCE_S: Final = 60.0
"""How long an endpoint may lack blocks that it gave us before that counts as a chain that was set back."""

REGISTRIES: Final = ("Membership", "ConsentRegistry", "UnlearningRegistry")
"""The contracts that keep an accumulator, in the order of `Ledger.accumulators`."""

MAX_BLOCKS = 500  # of one step: a node that was away for days catches up in pieces and stays responsive


@runtime_checkable
class EvidentLedger(Ledger, Protocol):
    """A ledger whose blocks can be proved."""

    def evidence(self, number: int) -> BlockEvidence:
        """Header and receipts of a block."""
        ...

    def accumulators_at(self, number: int) -> tuple[Digest, Digest, Digest] | None:
        """The registries' accumulators after a block; None when its state is not kept any more."""
        ...

    def resend(self, after: int, upto: int) -> int:
        """Hand in again what a reorganisation took out of blocks (after, upto]."""
        ...


class Reorganised(LedgerError):
    """The chain no longer contains a block we read: everything derived from it has to be read again."""


def logged_of(block: VerifiedBlock, codec: Codec, contracts: Contracts) -> list[Logged]:
    """The records of every deployment in a verified block, in order."""
    found: list[Logged] = []
    for log in block.logs:
        for deployment, one in enumerate(contracts.line):
            found.extend(
                Logged(
                    Position(block.number, log.log_index, place),
                    block.block_hash,
                    block.timestamp,
                    log.transaction,
                    record,
                    deployment,
                )
                for place, record in enumerate(codec.records(log, one))
            )
    return found


class Follower:
    """Reads final blocks one after the other. Blocking; call it from one thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        codec: Codec | None,
        witnesses: Witnesses | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`codec` decodes evidence; None for a ledger without evidence (in memory). `now`: seconds, never back."""
        self._ledger, self._store, self._codec, self._now = ledger, store, codec, now
        self._witnesses = witnesses or Witnesses("", (), now)
        self._next = 0
        self._stands_on: Digest | None = None  # the newest head that was seen to stand on what we read
        self._behind_since: float | None = None
        self._compared = -1

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
            ChainDisputed: a block does not prove itself, or does not stand on the one before it.
        """
        first, last = self._next, min(head.final_number, self._next + MAX_BLOCKS - 1)
        if last < first:
            return ()
        if self._codec is None or not isinstance(self._ledger, EvidentLedger):
            records = self._ledger.records(first, last)
            self._next = last + 1  # only now: what could not be read is read again
            return records
        found: list[Logged] = []
        for number in range(first, last + 1):
            try:
                found += self._read(self._ledger, self._codec, number)
            except Reorganised:
                raise
            except LedgerError:
                if number == first:
                    raise
                break  # what was read before it is kept and counts; the next step meets the fault at its first block
        return found

    def _read(self, ledger: EvidentLedger, codec: Codec, number: int) -> list[Logged]:
        """One block's records, kept before they are returned."""
        try:
            evidence = ledger.evidence(number)
        except NotFound as error:
            raise LedgerError(f"it went away while it was read: {error.message}") from None
        block, parent = verify_block(evidence), self._store.block_hash(number - 1)
        if parent is not None and block.parent_hash != parent:
            if self._hash_now(number - 1) == parent:
                raise ChainDisputed(
                    f"block {number}: parent hash: expected {parent.hex()}, found {block.parent_hash.hex()}"
                )
            self._rewind(number - 1)
        self._store.add_block(block.block_hash, block.timestamp, evidence)
        self._next = number + 1
        return logged_of(block, codec, self._ledger.contracts)

    @property
    def done(self) -> int:
        """The newest block that was read, -1 before the first."""
        return self._next - 1

    def check_head(self, head: Head) -> None:
        """See that the endpoint's newest block stands on the newest that we read.

        Raises:
            Reorganised: it does not; kept blocks are dropped back to the fork.
            ChainDisputed: the endpoint is behind what it gave us, or another one contradicts it.
        """
        ours = self._store.block_hash(self.done) if self._codec is not None and self.done >= 0 else None
        if ours is None or head.block_hash == self._stands_on:
            return
        if head.number < self.done:
            if self._store.block_hash(head.number) != head.block_hash:
                self._rewind(head.number - 1)
            self._behind_since = self._now() if self._behind_since is None else self._behind_since
            if self._now() - self._behind_since >= PATIENCE_S:
                self._rewind(head.number)
            raise ChainDisputed(
                f"the endpoint's newest block is {head.number}, but it gave us block {self.done} before: "
                "it lags, or the chain was set back"
            )
        if (head.block_hash if head.number == self.done else self._ledger.block_hash(self.done)) != ours:
            self._rewind(self.done - 1)
        self._stands_on, self._behind_since = head.block_hash, None

    def compare(self, head: Head, rebuilt: tuple[Digest, Digest, Digest]) -> None:
        """See that the records that were read are all there are, and that other endpoints have the same blocks.

        Args:
            head: whose final blocks have been read.
            rebuilt: accumulators of the three registries from the records, in the order of `REGISTRIES`.

        Raises:
            ChainDisputed: an accumulator of a contract, or a block of another endpoint, differs.
        """
        if self._codec is None or not isinstance(self._ledger, EvidentLedger):
            return
        self._witnesses.compare(head, self._store.block_hash)
        if self.done <= self._compared:
            return
        stated = self._ledger.accumulators_at(self.done)
        for name, ours, theirs in zip(REGISTRIES, rebuilt, stated or rebuilt, strict=True):
            if ours != theirs:
                raise ChainDisputed(
                    f"block {self.done}: {name}'s accumulator: stated {theirs.hex()}, "
                    f"computed from the records {ours.hex()}"
                )
        if self._compared < self.done:
            self._ledger.resend(self._compared, self.done)
        self._compared = self.done

    def resend(self) -> int:
        """After `Reorganised`: hand in again what this node had sent and the chain does not hold any more."""
        return self._ledger.resend(self.done, 1 << 62) if isinstance(self._ledger, EvidentLedger) else 0

    @property
    def warnings(self) -> list[str]:
        """What could not be compared at the last look."""
        return self._witnesses.warnings

    def _rewind(self, number: int) -> None:
        holder = self._witnesses.holder(self.done, self._store.block_hash(self.done) or Digest(bytes(32)))
        if holder is not None:
            raise ChainDisputed(f"the endpoint has another block {self.done} now, or none; {holder} still has ours")
        while number >= 0 and self._store.block_hash(number) != self._hash_now(number):
            number -= 1
        if number < 0 and (first := self._store.block_hash(0)) is not None:
            raise ChainDisputed(f"block 0 is not {first.hex()} any more: this is another chain")
        self._store.forget_blocks(number + 1)
        self._next, self._stands_on, self._behind_since = number + 1, None, None
        self._compared = min(self._compared, number)
        raise Reorganised(f"the chain was reorganised: blocks after {number} are read again")

    def _hash_now(self, number: int) -> Digest | None:
        try:
            return self._ledger.block_hash(number)
        except NotFound:
            return None
