"""The errors of a node, sorted by who is to blame, each with the exit code that the command line ends with.

Rules of this file:

1. Every error is one sentence for the person who reads it. It names the fault and the offending value (both values
   where two were compared), and never a patient's identifier.
2. The class says whose fault it is, so a caller can decide without reading the text: :class:`PeerError` is dropped
   and counted against the peer, :class:`LocalError` is ours, :class:`LedgerError` is the chain's.
3. The class also fixes the exit code. :class:`ExitCode` is the whole list; nothing else ends the process with a code.

Nothing is imported here, so that every file of the house may import this one.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the exit codes of `koinon` mean; scripts and cron jobs rely on them."""

    OK = 0
    UNEXPECTED = 1
    """A fault nobody foresaw: a bug of ours, or one we did not translate."""
    BAD_INPUT = 2
    """Usage, or an input file that cannot be used."""
    VERIFICATION_FAILED = 3
    """Something that was checked does not hold; never used for an outage."""
    NOT_FOUND = 4
    REFUSED = 5
    """Refused by consent or by policy; for a model: built on records that are erased since."""
    CHAIN_UNREACHABLE = 6
    TIMED_OUT = 7
    LOCAL_FAULT = 8
    """Password, port, disk, home in use, or a home or format of another version."""


class NodeError(Exception):
    """Base of everything a node raises on purpose; an exception outside this family is a bug.

    Attributes:
        exit_code: what the command line ends with when this error reaches it.
        message: the sentence shown to the person.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, message: str) -> None:
        """Keep the sentence.

        Args:
            message: one sentence that names the fault and the offending value. Line breaks, which the text of an
                outside library may bring along, become spaces: an error is one line of a log.
        """
        self.message = " ".join(message.split())
        super().__init__(self.message)

    @property
    def kind(self) -> str:
        """The name of the error in `koinon.error/1`: the class name, which is part of our interface."""
        return type(self).__name__


class PeerError(NodeError):
    """A peer broke the protocol: malformed, oversized, replayed, out of turn, or signed by the wrong key."""

    exit_code = ExitCode.VERIFICATION_FAILED


class LocalError(NodeError):
    """We would break the protocol: an act that our own state forbids. Nothing has been sent."""


class LocalFault(LocalError):
    """This machine cannot do it: wrong password, busy port, full disk, home in use or of another version."""

    exit_code = ExitCode.LOCAL_FAULT


class InputError(NodeError):
    """A flag or a file given to us cannot be used; the message names the file and the row, never a patient."""

    exit_code = ExitCode.BAD_INPUT


class VerificationFailed(NodeError):
    """A check does not hold: the message says what, where, what was expected and what was there."""

    exit_code = ExitCode.VERIFICATION_FAILED


class NotFound(NodeError):
    """What was asked for is not here."""

    exit_code = ExitCode.NOT_FOUND


class Refused(NodeError):
    """Consent or a policy of the study forbids it."""

    exit_code = ExitCode.REFUSED


class TimedOut(NodeError):
    """What was waited for did not happen within the stated time."""

    exit_code = ExitCode.TIMED_OUT


class LedgerError(NodeError):
    """The ledger did not do what we asked: it reverted, or answered something that cannot be true."""


class CallReverted(LedgerError):
    """A contract refused a call, and nothing on the chain changed.

    Attributes:
        error: the name of the contract's custom error; `Error` or `Panic` where the language raised it, and `Unknown`
            where the client did not say.
        operands: the error's operands by name: whole numbers, truth values, bytes, texts.
    """

    def __init__(self, message: str, error: str = "Unknown", operands: dict[str, object] | None = None) -> None:
        """Keep the sentence, the error's name and its operands."""
        self.error = error
        self.operands = dict(operands or {})
        super().__init__(message)

    @classmethod
    def of(cls, error: str, operands: dict[str, object]) -> CallReverted:
        """The error with the sentence that its name and operands make, bytes as hexadecimal digits."""
        shown = (f"{name}={'0x' + v.hex() if isinstance(v, bytes) else v}" for name, v in operands.items())
        return cls(f"the contract refused the call: {error}({', '.join(shown)})", error, operands)


class OutcomeUnknown(LedgerError):
    """A transaction was sent and its fate is not known yet; sending the same statement again is harmless."""

    exit_code = ExitCode.TIMED_OUT


class ChainDisputed(LedgerError):
    """What an endpoint says contradicts a header, an accumulator, its own past or another endpoint.

    Somebody lies, lags or is broken, and it may be the chain's endpoint: nothing is signed for a round meanwhile.
    """

    exit_code = ExitCode.VERIFICATION_FAILED


class LedgerUnavailable(LedgerError):
    """The ledger cannot serve at the moment, and nothing was sent: it is still syncing, or refused the connection."""

    exit_code = ExitCode.CHAIN_UNREACHABLE


class ChainUnreachable(LedgerUnavailable):
    """No chain answers at the configured address."""
