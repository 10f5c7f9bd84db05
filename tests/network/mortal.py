"""A node's process that can be told to die right after its next write of one kind: `kill -9` at a named point.

    python -m tests.network.mortal node run --home HOME

is `koinon node run --home HOME` until SIGUSR1; then it reads the name of a point from HOME/dies-after, and the next
time it passes that point it kills itself. A point is the return of a method that writes: what is written is written
(or, inside a transaction, taken back), and nothing that follows from it has been said or done. Production code knows
nothing of this.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node import runner
from node.cli.main import main
from node.ledger import EthereumLedger
from node.messages import AbstainNotice, CloseNotice, HaveNotice, Notice, VoteNotice
from node.participant import Participant
from node.records import Rotation
from node.store import Partial, SentTransactions, Store

NAME = "dies-after"


def _own(kind: type[Notice]) -> Callable[..., bool]:
    return lambda notice, *, own: own and isinstance(notice, kind)


POINTS: dict[str, tuple[type, str, Callable[..., bool]]] = {
    # name: (class, method, whether this call is the one)
    "commit signed": (Participant, "commit", lambda *words: True),
    "abstention signed": (Store, "remember", _own(AbstainNotice)),
    "have signed": (Store, "remember", _own(HaveNotice)),
    "vote signed": (Store, "remember", _own(VoteNotice)),
    "close signed": (Store, "remember", _own(CloseNotice)),
    "notice of another kept": (Store, "remember", lambda notice, *, own: not own),
    "ciphertext kept": (Store, "put", lambda kind, *words: kind == "cipher"),
    "model kept": (Store, "put", lambda kind, *words: kind == "model"),
    "chunk of a pull kept": (Partial, "keep", lambda *words: True),
    "pull in its place": (Partial, "finish", lambda *words: True),
    "content key kept": (Store, "put_key", lambda *words: True),
    "reveal noted": (Store, "set_meta", lambda name, value: name.startswith("revealed ")),
    "block kept": (Store, "add_block", lambda *words: True),
    "transaction signed": (SentTransactions, "remember", lambda *words: True),
    "transaction settled": (SentTransactions, "settle", lambda *words, **more: True),
}
"""Every kind of write that a round leads to."""

ROTATION: dict[str, tuple[type, str, Callable[..., bool]]] = {
    "new keys kept": (runner.Orders, "_keep_keys", lambda *words: True),
    "rotation mined": (EthereumLedger, "send", lambda call: isinstance(call, Rotation)),
}
"""Those of a change of keys: nobody has heard of the new ones; the chain has them and their node does not know it."""


def arm(home: Path) -> None:
    """Wrap the writes, and let SIGUSR1 name the one after which the process ends."""
    armed: list[str] = []

    def choose(*_: Any) -> None:
        armed[:] = [(home / NAME).read_text("utf-8")]

    def wrap(name: str, owner: type, method: str, fits: Callable[..., bool]) -> None:
        inner = getattr(owner, method)

        def outer(self: Any, *words: Any, **more: Any) -> Any:
            done = inner(self, *words, **more)
            if armed == [name] and fits(*words, **more):
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        setattr(owner, method, outer)

    for name, (owner, method, fits) in (POINTS | ROTATION).items():
        wrap(name, owner, method, fits)
    signal.signal(signal.SIGUSR1, choose)


if __name__ == "__main__":
    assert runner.Store is Store
    arm(Path(sys.argv[sys.argv.index("--home") + 1]))
    main()
