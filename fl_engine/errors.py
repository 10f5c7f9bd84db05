"""Every error of the learning room. Each is one sentence that a person can act on and carries the values at fault."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors raised by `fl_engine` on bad input."""


class ShapeMismatch(EngineError):
    """Two shapes that must agree do not."""

    def __init__(self, what: str, expected: object, got: object) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.what = what
        self.expected = expected
        self.got = got


class NonFiniteUpdate(EngineError):
    """A number that must be finite is NaN or infinite (training diverged, or the sender lies)."""

    def __init__(self, index: int, value: float) -> None:
        super().__init__(f"coordinate {index} is {value}; every number of an update must be finite")
        self.index = index
        self.value = value


class RangeExceeded(EngineError):
    """An integer lies outside the grid that the study declares.

    `index`: flat position; `value`: the integer found there; `max_abs`: the largest absolute integer allowed.
    """

    def __init__(self, index: int, value: int, max_abs: int) -> None:
        super().__init__(f"coordinate {index} is {value}; the study allows at most {max_abs} in absolute value")
        self.index = index
        self.value = value
        self.max_abs = max_abs


class ModelEncodingError(EngineError):
    """Bytes that claim to be a model are not the canonical encoding of one. `offset` is where the fault shows."""

    def __init__(self, fault: str, offset: int) -> None:
        super().__init__(f"not a canonical model: {fault} (at byte {offset})")
        self.fault = fault
        self.offset = offset


class AggregationError(EngineError):
    """The updates or weights cannot be aggregated (none at all, a weight below one, weights that would overflow)."""


class UnknownName(EngineError):
    """A rule, method, model or task is not known by that name. The message lists the known ones."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
        self.kind = kind
        self.name = name
        self.known = known


class DataError(EngineError):
    """A data file or data set cannot be used.

    Names the file, the row where one row is at fault, and the fault. Never holds a patient identifier.
    `row` is counted the way the message says: array rows from 0, lines of a text file from 1.
    """

    def __init__(self, file: str, row: int | None, fault: str) -> None:
        where = file if row is None else f"{file}, row {row}"
        super().__init__(f"{where}: {fault}")
        self.file = file
        self.row = row
        self.fault = fault


class PackageUnavailable(EngineError):
    """A data package is neither cached nor can it be downloaded, or what came is not what was pinned."""


class PolicyError(EngineError):
    """The request is well formed but koinon refuses it by policy (for instance too few batches to be erasable)."""


class FrameError(EngineError):
    """A frame between a node and its training worker is malformed, oversized or cut short."""


class WorkerFailed(EngineError):
    """The training worker ended, did not answer in time, or reported an error of its own.

    `error_type` is the worker's own error class by name, or `"WorkerGone"` / `"WorkerTimeout"`.
    """

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message
