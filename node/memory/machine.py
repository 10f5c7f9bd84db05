"""What the in-memory contracts stand on: a block's context, storage that a revert undoes, events, signatures.

A fake of the machine, not of the rules: like the real one it knows nothing of members or rounds. Contract state lives
in `Cell`s and `Slots`, whose every write is noted, so that a call that is refused half-way leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, Generic, NoReturn, TypeVar

from crypto.digest import ZERO, Digest
from crypto.errors import CryptoError
from crypto.statements import Domain, Statement, recover
from node.membership import accumulate, bitmap_of
from node.records import EntrySkipped, Record
from node.refusals import refusal

K = TypeVar("K")
V = TypeVar("V")


def refuse(error: str, /, **operands: object) -> NoReturn:
    """Revert with a custom error of the contracts: its name and operands, named as in Solidity."""
    raise refusal(error, operands)


class Skip(IntEnum):
    """Reasons of `EntrySkipped`: why an entry of a batch was left out."""

    DUPLICATE = 1
    BAD_SIGNATURE = 2
    UNKNOWN_MEMBER = 3
    WRONG_PHASE = 4
    UNKNOWN_SUBJECT = 5
    MALFORMED = 6


NO_MEMBER: Final = 0xFFFF
"""`member` of an entry that no member signs (a patient's withdrawal)."""


class Machine:
    """The chain under the contracts: which block it is, what was emitted, how to undo.

    Attributes:
        chain_id: EIP-155 id.
        number: of the block being made.
        timestamp: its stamp, seconds.
        parent_hash: hash of the block before it.
    """

    def __init__(self, chain_id: int) -> None:
        """Stand before block 0."""
        self.chain_id = chain_id
        self.number = 0
        self.timestamp = 0
        self.parent_hash = ZERO
        self._emitted: list[Record] = []
        self._undo: list[Callable[[], None]] = []

    def begin(self, number: int, timestamp: int, parent_hash: Digest) -> None:
        """Start a transaction alone in its block."""
        self.number, self.timestamp, self.parent_hash = number, timestamp, parent_hash
        self._emitted = []
        self._undo.clear()

    def note(self, undo: Callable[[], None]) -> None:
        """Remember how to take a write back."""
        self._undo.append(undo)

    def emit(self, record: Record) -> None:
        """An event."""
        self._emitted.append(record)

    def commit(self) -> tuple[Record, ...]:
        """Keep the writes; return the events in order."""
        self._undo.clear()
        return tuple(self._emitted)

    def rollback(self) -> None:
        """Take every write of this transaction back, the last first."""
        while self._undo:
            self._undo.pop()()
        self._emitted = []


class Cell(Generic[V]):
    """One storage variable."""

    def __init__(self, machine: Machine, value: V) -> None:
        """Hold `value`."""
        self._machine = machine
        self._value = value

    @property
    def value(self) -> V:
        """What it holds."""
        return self._value

    @value.setter
    def value(self, value: V) -> None:
        before = self._value
        self._machine.note(lambda: setattr(self, "_value", before))
        self._value = value


class Slots(Generic[K, V]):
    """One storage mapping; a missing key reads as the default, as in Solidity."""

    def __init__(self, machine: Machine, default: V) -> None:
        """Start empty."""
        self._machine = machine
        self._default = default
        self._slots: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        """The value, or the default."""
        return self._slots.get(key, self._default)

    def __setitem__(self, key: K, value: V) -> None:
        """Write."""
        if key in self._slots:
            before = self._slots[key]
            self._machine.note(lambda: self._slots.__setitem__(key, before))
        else:
            self._machine.note(lambda: self._slots.__delitem__(key))
        self._slots[key] = value


class Contract:
    """What every in-memory contract has: an address, a signing domain, a rolling accumulator."""

    def __init__(self, machine: Machine, address: bytes) -> None:
        """Deploy at `address` (20 bytes)."""
        self.machine = machine
        self.address = address
        self.domain = Domain(machine.chain_id, address)
        self._accumulator: Cell[Digest] = Cell(machine, ZERO)

    @property
    def accumulator(self) -> Digest:
        """The rolling hash over everything this registry recorded."""
        return self._accumulator.value

    def signed(self, statement: Statement, signature: bytes, by: bytes) -> bool:
        """Whether `by` (20 bytes) signed this statement in this contract's domain; junk is simply not signed."""
        found = self.signer(statement, signature)
        return found is not None and found == by

    def record(self, event: Record) -> None:
        """Emit an event and fold it into the accumulator."""
        self._accumulator.value = accumulate(self._accumulator.value, event)
        self.machine.emit(event)

    def skip(self, subject: Digest, member: int, reason: Skip) -> None:
        """Log an entry of a batch that does not count. It is in no accumulator."""
        self.machine.emit(EntrySkipped(subject, member, int(reason)))

    def check(self, member: int, ledger: bytes, statement: Statement, signature: bytes) -> None:
        """Revert unless `ledger`, the address of `member`, signed."""
        found = self.signer(statement, signature)
        if found is None or found != ledger:
            refuse("BadSignature", member=member, expected=ledger, recovered=found or bytes(20))

    def check_quorum(
        self,
        statement: Statement,
        votes: Sequence[tuple[int, bytes]],
        voters: int,
        needed: int,
        ledger_of: Callable[[int], bytes],
    ) -> int:
        """Revert unless at least `needed` members of the bitmap `voters` signed; every signature given is checked.

        Returns the bitmap of those who signed.
        """
        signatures = dict(votes)
        signers = bitmap_of(signatures)
        if signers & ~voters:
            refuse("NotOnRoster", strangers=signers & ~voters)
        if len(signatures) < needed:
            refuse("QuorumNotReached", votes=len(signatures), needed=needed)
        for member in sorted(signatures):
            self.check(member, ledger_of(member), statement, signatures[member])
        return signers

    def signer(self, statement: Statement, signature: bytes) -> bytes | None:
        """The address that signed this statement in this contract's domain, or None for junk."""
        try:
            return recover(statement, self.domain, signature)
        except CryptoError:
            return None
