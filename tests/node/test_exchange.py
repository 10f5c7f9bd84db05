"""Keys from holders of whom some are silent, some late and one lies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
from node.messages import CommitNotice, KeyReply, Refusal, Reply

ROUND, ZERO = Digest(b"\x11" * 32), Digest(bytes(32))
RING = KeyRing.generate()
SEALED = seal(b"a plaintext", ROUND, 0, BlobKind.UPDATE)
NOTICE = CommitNotice(ROUND, 0, ZERO, ZERO, ZERO, SEALED.commit, SEALED.commit, b"")
KEY = KeyReply(wrap(SEALED.key, RING.sealing.public, ROUND, 0, BlobKind.UPDATE))
LATER = Refusal("not-yet", "soon")

Holder = Callable[[], Awaitable[Reply]]


async def silent() -> Reply:
    await trio.sleep(KEY_TIMEOUT_S)
    raise PeerSilent("no answer")


async def lying() -> Reply:
    return KeyReply(bytes(len(KEY.wrap)))


def late(times: int) -> Holder:
    left = [times]

    async def answer() -> Reply:
        left[0] -= 1
        return LATER if left[0] >= 0 else KEY

    return answer


async def fetch(*holders: Holder) -> bytes:
    """The key, from peers of which each answers as it does."""
    peers = {bytes([place]) * 38: one for place, one in enumerate(holders, 1)}

    async def request(peer: bytes, message: Any, timeout_s: float) -> Reply:
        return await peers[peer]()

    node = SimpleNamespace(ring=RING, rings=(RING,), me=9)
    exchange = Exchange(SimpleNamespace(request=request), node, None)  # type: ignore[arg-type]
    exchange.holders = lambda first: list(peers)  # type: ignore[method-assign]
    return await exchange._key(NOTICE, NOTICE.update.key_commit, BlobKind.UPDATE)


@pytest.mark.parametrize(
    "holders",
    [(silent, late(0)), (silent, silent, late(0)), (late(1), silent), (silent, late(2)), (lying, silent, late(1))],
    ids=["the next has it", "two are silent", "soon", "soon, behind a silent one", "after a lie"],
)
async def test_a_silent_holder_holds_up_no_other(
    holders: tuple[Holder, ...], autojump_clock: trio.testing.MockClock
) -> None:
    begun = trio.current_time()
    assert await fetch(*holders) == SEALED.key
    assert trio.current_time() - begun < KEY_TIMEOUT_S


async def test_all_are_waited_for_before_it_is_said_that_nobody_has_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    begun = trio.current_time()
    with pytest.raises(NotFound, match="no answer"):
        await fetch(lying, silent)
    assert trio.current_time() - begun >= KEY_TIMEOUT_S
