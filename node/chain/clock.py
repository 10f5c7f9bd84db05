"""What the chain calls the time: the wall clock, or in tests a clock that can be moved."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where block stamps come from."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...


class WallClock:
    """This computer's clock."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, as this computer has them."""
        return time.time()


class TestClock:
    """A wall clock with an offset that a test sets. It goes on running, so nothing that waits for it waits for ever."""

    __test__ = False  # the name is the flag's (--test-clock); pytest shall not collect it

    def __init__(self) -> None:
        """Start at this computer's time."""
        self._offset_s = 0.0

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, as the test wants them."""
        return time.time() + self._offset_s

    def set(self, timestamp: float) -> None:
        """Make it `timestamp` now; going back is allowed, as a real clock may be set back."""
        self._offset_s = timestamp - time.time()

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds`."""
        self._offset_s += seconds
