"""Keys from holders of whom some are silent, some late and one lies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from crypto.digest import Digest
from crypto.keys import KeyRing
from crypto.sealing import BlobKind, seal, wrap
from node.doors import PeerSilent
from node.errors import NotFound
from node.exchange import KEY_TIMEOUT_S, Exchange
from node.messages import CommitNotice, KeysReply, Refusal, Reply
from node.store import Store

ROUND, ZERO = Digest(b"\x11" * 32), Digest(bytes(32))
RING = KeyRing.generate()
SEALED = {kind: seal(b"a plaintext", ROUND, 0, kind) for kind in BlobKind}
NOTICE = CommitNotice(ROUND, 0, ZERO, ZERO, ZERO, SEALED[BlobKind.UPDATE].commit, SEALED[BlobKind.SET].commit, b"")
WRAPS = {kind: wrap(one.key, RING.sealing.public, ROUND, 0, kind) for kind, one in SEALED.items()}
LATER = Refusal("not-yet", "soon")

Holder = Callable[[list[BlobKind]], Awaitable[Reply]]


async def silent(kinds: list[BlobKind]) -> Reply:
    await trio.sleep(KEY_TIMEOUT_S)
    raise PeerSilent("no answer")


async def lying(kinds: list[BlobKind]) -> Reply:
    return KeysReply(tuple(bytes(len(WRAPS[kind])) for kind in kinds))


def half(has: BlobKind) -> Holder:
    """Has one of both keys."""

    async def answer(kinds: list[BlobKind]) -> Reply:
        return KeysReply(tuple(WRAPS[kind] if kind is has else b"" for kind in kinds))

    return answer


def late(times: int) -> Holder:
    left = [times]

    async def answer(kinds: list[BlobKind]) -> Reply:
        left[0] -= 1
        return LATER if left[0] >= 0 else KeysReply(tuple(WRAPS[kind] for kind in kinds))

    return answer


async def fetch(folder: Path, *holders: Holder) -> dict[BlobKind, bytes | None]:
    """The keys that are kept, from peers of which each answers as it does."""
    peers = {bytes([place]) * 38: one for place, one in enumerate(holders, 1)}

    async def request(peer: bytes, message: Any, timeout_s: float) -> Reply:
        return await peers[peer]([kind for kind in BlobKind if message.kinds >> kind & 1])

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    with closing(Store(folder, bytes(32))) as store:
        node = SimpleNamespace(ring=RING, rings=(RING,), me=9, store=store)
        exchange = Exchange(SimpleNamespace(request=request), node, run)  # type: ignore[arg-type]
        exchange.holders = lambda first: list(peers)  # type: ignore[method-assign]
        try:
            await exchange.keys(NOTICE)
        finally:
            kept = {kind: store.key(ROUND, 0, kind) for kind in BlobKind}
    return kept


@pytest.mark.parametrize(
    "holders",
    [
        pytest.param((silent, late(0)), id="the next has it"),
        pytest.param((silent, silent, late(0)), id="two are silent"),
        pytest.param((late(1), silent), id="soon"),
        pytest.param((silent, late(2)), id="soon, behind a silent one"),
        pytest.param((lying, silent, late(1)), id="after a lie"),
        pytest.param((half(BlobKind.SET), silent, half(BlobKind.UPDATE)), id="each has one"),
    ],
)
async def test_a_silent_holder_holds_up_no_other(
    holders: tuple[Holder, ...], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    assert await fetch(tmp_path, *holders) == {kind: one.key for kind, one in SEALED.items()}
    assert trio.current_time() - begun < KEY_TIMEOUT_S


async def test_all_are_waited_for_before_it_is_said_that_nobody_has_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    with pytest.raises(NotFound, match="no answer"):
        await fetch(tmp_path, lying, silent)
    assert trio.current_time() - begun >= KEY_TIMEOUT_S
