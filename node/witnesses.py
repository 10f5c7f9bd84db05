"""Other endpoints of the same chain, asked whether they see the same blocks.

What may live here: the comparison of one block's hash between the endpoint that a node follows and those it is checked
against. What this file does not know: JSON-RPC, what a record means, what to do about a difference (`app`).

Theory of operation. An endpoint that recomputes every header after a lie, and every state it is asked for, is beyond
what a node can see from that endpoint alone. Another endpoint, run by somebody else, shows it: two chains differ at the
first block that a lie touched, and at every later one. It helps only as far as the two do not lie together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from crypto.digest import Digest
from node.errors import ChainDisputed, LedgerError, NotFound
from node.records import Head

PATIENCE_S: Final = 15.0
"""How long the followed endpoint may lack a block that another one has."""

PAUSE_S: Final = 2.0
"""Between two comparisons while no block becomes final."""

SILENT_S: Final = 30.0
"""How long an endpoint that did not answer is left alone: waiting for it must not slow the node down."""


class Endpoint(Protocol):
    """What is asked of each; `node.ledger.EthereumClient` answers it."""

    url: str

    def height(self) -> int:
        """Number of the newest block."""
        ...

    def hash_of(self, number: int) -> Digest:
        """Hash of a block; `NotFound` if there is none."""
        ...


class Witnesses:
    """The other endpoints. Blocking; call it from one thread at a time."""

    def __init__(self, url: str, others: Sequence[Endpoint], now: Callable[[], float]) -> None:
        """`url` is the endpoint that is followed; `now` gives seconds that never go back."""
        self._url, self._others, self._now = url, others, now
        self._ahead: dict[str, tuple[int, float]] = {}  # where each stood when it was first seen ahead, and since when
        self._silent: dict[str, tuple[str, float]] = {}  # why nothing was heard, and until when it is not asked
        self._compared: tuple[int, float] | None = None  # final block and time of the last comparison that held

    @property
    def warnings(self) -> list[str]:
        """Which endpoints do not answer, and why: they prove nothing either way."""
        return [why for why, _ in self._silent.values()]

    def compare(self, head: Head, known: Callable[[int], Digest | None]) -> None:
        """Ask every other endpoint for the block that is final here, or for its newest if it is not that far.

        Args:
            head: of the followed endpoint.
            known: hash of a block as this node has read it, None for one it has not.

        Raises:
            ChainDisputed: a hash differs, or the followed endpoint stays behind; it says which endpoint says what.
        """
        now = self._now()
        if self._compared is not None and self._compared[0] == head.final_number and now < self._compared[1] + PAUSE_S:
            return
        for other in self._others:
            if now < self._silent.get(other.url, ("", now))[1]:
                continue
            try:
                self._compare(other, head, known)
            except ChainDisputed:
                raise
            except (LedgerError, NotFound) as error:
                self._silent[other.url] = (f"nothing to compare with: {error.message}", self._now() + SILENT_S)
            else:
                self._silent.pop(other.url, None)
        self._compared = (head.final_number, now)

    def holder(self, number: int, block_hash: Digest) -> str | None:
        """The first other endpoint that has this very block, None when none says so."""
        for other in self._others:
            try:
                if other.hash_of(number) == block_hash:
                    return other.url
            except (LedgerError, NotFound):
                continue
        return None

    def _compare(self, other: Endpoint, head: Head, known: Callable[[int], Digest | None]) -> None:
        height = other.height()
        number = min(head.final_number, height)
        ours, theirs = known(number), other.hash_of(number)
        if ours is not None and ours != theirs:
            raise ChainDisputed(f"block {number}: {self._url} says {ours.hex()}, {other.url} says {theirs.hex()}")
        stood, since = self._ahead.get(other.url, (height, self._now()))
        if head.number >= stood:
            self._ahead[other.url] = (height, self._now())
        elif self._now() - since >= PATIENCE_S:
            raise ChainDisputed(
                f"{self._url} still stands at block {head.number}, {other.url} had block {stood} "
                f"{self._now() - since:.0f} s ago: the first one lags"
            )
        else:
            self._ahead[other.url] = (stood, since)
