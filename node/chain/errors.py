"""What can go wrong in the embedded chain, each with the exit code of its family in `node.errors`."""

from __future__ import annotations

from node.errors import LocalFault, NodeError, VerificationFailed


class ChainHomeBusy(LocalFault):
    """Another chain process holds the lock of this home."""


class GenesisError(LocalFault):
    """chain/genesis.json is damaged, of another version, or already there."""


class JournalError(VerificationFailed):
    """A line of the journal is malformed, or executing it gives another block than the line says.

    Attributes:
        line: line of chain/journal.jsonl, from 1.
        expected: what the line says (for a malformed line: what its form should be).
        got: what was found when it was executed (for a malformed line: what is wrong with it).
    """

    def __init__(self, line: int, what: str, expected: str, got: str) -> None:
        """Name the line and both values."""
        self.line = line
        self.what = what
        self.expected = expected
        self.got = got
        super().__init__(f"journal line {line}: {what}: expected {expected}, got {got}")


class TransactionRefused(NodeError):
    """A transaction that this chain will not take; worded as geth words it, because clients match on it."""


class ExecutionFailed(NodeError):
    """A call ended in an error of the EVM other than a revert, or could not be started; worded as geth words it."""


class ExecutionReverted(NodeError):
    """A call was reverted by the contract.

    Attributes:
        data: the bytes the contract gave with the revert (a custom error, `Error(string)`, or nothing).
    """

    def __init__(self, message: str, data: bytes) -> None:
        """Keep the sentence and the revert's bytes."""
        self.data = data
        super().__init__(message)
