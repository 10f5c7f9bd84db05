"""The pull against holders that lie, refuse, stall and come back; no network, only answers."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from crypto.digest import CHUNK_BYTES, ContentMap
from crypto.errors import EncodingError
from node.doors import PeerSilent, PeerUnreachable
from node.errors import LocalFault, PeerError
from node.messages import Accepted, ChunkReply, GetMap, MapReply, Refusal
from node.pull import (
    CHUNK_PATIENCE_S,
    IN_FLIGHT,
    MAX_STRIKES,
    SPREAD_CHUNKS,
    BadContent,
    ContentUnavailable,
    Sink,
    fetch_content,
    pull_content,
)

CONTENT = b"".join(bytes([i]) * CHUNK_BYTES for i in range(4)) + b"end"
MAP = ContentMap.of(CONTENT)
ROOT = MAP.root("cipher")
LIMIT = 1 << 24


class Holders:
    """Answers as each holder would; `special` maps (holder, chunk index or None for the map) to another answer."""

    def __init__(self, special: dict[tuple[bytes, int | None], Any] | None = None) -> None:
        self.special = special or {}
        self.asked: list[tuple[bytes, int | None]] = []
        self.running = self.most = 0

    async def ask(self, peer_id: bytes, request: Any, timeout_s: float) -> Any:
        index = None if isinstance(request, GetMap) else request.index
        self.asked.append((peer_id, index))
        self.running += 1
        self.most = max(self.most, self.running)
        await trio.lowlevel.checkpoint()
        self.running -= 1
        answer = self.special.get((peer_id, index))
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        if index is None:
            return MapReply(MAP.length, MAP.digests, CONTENT[:CHUNK_BYTES])
        return ChunkReply(CONTENT[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

    async def fetch(self, holders: list[bytes], **named: Any) -> bytes:
        return await fetch_content(self.ask, ROOT, "cipher", LIMIT, holders, **named)


async def test_two_chunks_are_under_way_and_never_more():
    holders = Holders()
    assert await holders.fetch([b"a"]) == CONTENT
    assert holders.most == IN_FLIGHT


async def test_empty_content_is_its_map_alone():
    empty = ContentMap(0, ())

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        return MapReply(0, (), b"")

    assert await fetch_content(ask, empty.root("spec"), "spec", 0, [b"a"]) == b""


@pytest.mark.parametrize(
    "wrong",
    [
        MapReply(MAP.length, MAP.digests[::-1], CONTENT[:CHUNK_BYTES]),
        MapReply(MAP.length, MAP.digests[:-1], CONTENT[:CHUNK_BYTES]),
        MapReply(MAP.length - 1, MAP.digests, CONTENT[:CHUNK_BYTES]),
        MapReply(0, (), b""),
        MapReply(1 << 40, (), b""),
    ],
)
async def test_a_map_that_does_not_lead_to_the_root_is_its_senders_fault(wrong):
    holders, faults = Holders({(b"a", None): wrong}), {}
    assert await holders.fetch([b"a", b"b"], fault=faults.__setitem__) == CONTENT
    assert isinstance(faults[b"a"], BadContent)
    assert (b"a", 0) not in holders.asked


@pytest.mark.parametrize(
    "wrong", [ChunkReply(b""), ChunkReply(bytes(CHUNK_BYTES)), ChunkReply(bytes([1]) * (CHUNK_BYTES - 1))]
)
async def test_a_wrong_chunk_ends_all_trust_in_its_sender(wrong):
    holders, faults = Holders({(b"a", 1): wrong}), {}
    assert await holders.fetch([b"a", b"b"], fault=faults.__setitem__) == CONTENT
    assert set(faults) == {b"a"}
    assert isinstance(faults[b"a"], PeerError)
    last = max(i for i, (holder, _) in enumerate(holders.asked) if holder == b"a")
    assert last < len(holders.asked) - 1


async def test_content_under_another_kind_is_refused():
    holders = Holders()
    with pytest.raises(ContentUnavailable):
        await fetch_content(holders.ask, ROOT, "model", LIMIT, [b"a"])


async def test_content_longer_than_allowed_is_not_begun():
    holders = Holders()
    most = len(CONTENT) - 1
    with pytest.raises(ContentUnavailable, match=f"has {len(CONTENT)} bytes, at most {most} are allowed"):
        await fetch_content(holders.ask, ROOT, "cipher", most, [b"a"])
    assert holders.asked == [(b"a", None)]


SHORT = b"short"
SHORT_ROOT = ContentMap.of(SHORT).root("cipher")


SHORT_MAP = ContentMap.of(SHORT)


async def test_what_has_one_chunk_comes_with_its_map():
    holders = Holders({(b"a", None): MapReply(len(SHORT), SHORT_MAP.digests, SHORT)})
    assert await fetch_content(holders.ask, SHORT_ROOT, "cipher", CHUNK_BYTES, [b"a"]) == SHORT
    assert holders.asked == [(b"a", None)]


@pytest.mark.parametrize("wrong", [b"", b"other", bytes(CHUNK_BYTES)])
async def test_a_wrong_chunk_that_comes_with_a_right_map_ends_all_trust_in_its_sender(wrong):
    special = {(b"a", None): MapReply(len(SHORT), SHORT_MAP.digests, wrong), (b"b", 0): ChunkReply(SHORT)}
    holders, faults = Holders(special), {}
    found = await fetch_content(holders.ask, SHORT_ROOT, "cipher", CHUNK_BYTES, [b"a", b"b"], fault=faults.__setitem__)
    assert found == SHORT
    assert holders.asked == [(b"a", None), (b"b", 0)]
    assert {holder: type(fault) for holder, fault in faults.items()} == {b"a": BadContent}


async def test_kept_chunks_are_not_asked_for_again_unless_they_are_spoiled():
    kept = {0: CONTENT[:CHUNK_BYTES], 1: bytes(CHUNK_BYTES), 3: CONTENT[3 * CHUNK_BYTES : 4 * CHUNK_BYTES]}
    holders, saved = Holders(), {}
    assert await holders.fetch([b"a"], load=kept.get, save=saved.__setitem__) == CONTENT
    assert sorted(saved) == [1, 2, 4]
    assert sorted(index for _, index in holders.asked if index is not None) == [1, 2, 4], "the first one came again"


async def test_silence_is_forgiven_and_another_holder_is_asked_meanwhile():
    holders = Holders({(b"a", 2): [PeerSilent("a is slow")]})
    faults: dict[bytes, Exception] = {}
    assert await holders.fetch([b"a", b"b"], fault=faults.__setitem__) == CONTENT
    assert faults == {}
    assert (b"b", 2) in holders.asked


@pytest.mark.parametrize("silent_at", [None, 2])
async def test_a_silent_holder_holds_nothing_up_and_is_asked_last_from_then_on(silent_at, autojump_clock):
    holders = Holders()

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        answer = await holders.ask(peer_id, request, timeout_s)
        if (peer_id, getattr(request, "index", None)) == (b"a", silent_at):
            await trio.sleep(timeout_s)
            raise PeerSilent("a was silent")
        return answer

    begun, faults = trio.current_time(), {}
    found = await fetch_content(ask, ROOT, "cipher", LIMIT, [b"a", b"b", b"c"], fault=faults.__setitem__)
    assert found == CONTENT
    assert trio.current_time() - begun == CHUNK_PATIENCE_S
    assert faults == {}
    after = holders.asked[holders.asked.index((b"b", silent_at)) :]
    assert {holder for holder, _ in after} == {b"b"}, "the others do"


async def test_a_silent_holder_and_one_that_refuses_hold_nothing_up_either(autojump_clock):
    holders = Holders({(b"b", None): Refusal("not-found", "unknown"), (b"c", None): Refusal("not-yet", "later")})

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        answer = await holders.ask(peer_id, request, timeout_s)
        if peer_id == b"a":
            await trio.sleep(timeout_s)
            raise PeerSilent("a was silent")
        return answer

    begun = trio.current_time()
    assert await fetch_content(ask, ROOT, "cipher", LIMIT, [b"a", b"b", b"c", b"d"]) == CONTENT
    assert trio.current_time() - begun < CHUNK_PATIENCE_S + 1
    assert [holder for holder, _ in holders.asked].count(b"a") == 1


async def test_of_two_holders_the_silent_one_is_asked_no_more_for_a_long_content(autojump_clock):
    asked: list[bytes] = []

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        answer = await ask_for_long(asked, set(), peer_id, request)
        if peer_id == b"a":
            await trio.sleep(timeout_s)
            raise PeerSilent("a was silent")
        return answer

    begun = trio.current_time()
    assert await fetch_content(ask, LONG_MAP.root("cipher"), "cipher", 1 << 24, [b"a", b"b"]) == LONG
    assert trio.current_time() - begun == CHUNK_PATIENCE_S
    assert b"a" not in asked, "it was silent about the map"


async def test_a_slow_holder_is_waited_for_while_the_others_give_nothing(autojump_clock):
    holders = Holders({(b"b", None): Refusal("not-yet", "later")})

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        if peer_id == b"a":
            await trio.sleep(2 * CHUNK_PATIENCE_S)
        return await holders.ask(peer_id, request, timeout_s)

    begun = trio.current_time()
    assert await fetch_content(ask, ROOT, "cipher", LIMIT, [b"a", b"b"]) == CONTENT
    assert trio.current_time() - begun >= 2 * CHUNK_PATIENCE_S
    assert holders.asked[:2] == [(b"b", None), (b"a", None)], "its answer was not thrown away"


async def test_a_busy_holder_is_asked_again(autojump_clock):
    holders = Holders({(b"a", 1): [Refusal("busy", "later")], (b"a", None): [Refusal("not-yet", "sealed")]})
    assert await holders.fetch([b"a"]) == CONTENT


async def test_a_holder_that_refuses_for_good_is_left_out():
    holders, faults = Holders({(b"a", None): Refusal("purged", "erased")}), {}
    assert await holders.fetch([b"a", b"b"], fault=faults.__setitem__) == CONTENT
    assert "purged: erased" in faults[b"a"].message


async def test_without_a_holder_left_each_ones_fault_is_told(autojump_clock):
    holders = Holders(
        {
            (b"a", None): Refusal("not-found", "unknown"),
            (b"b", None): PeerUnreachable("b is down"),
            (b"c", None): Accepted(1),
        }
    )
    with pytest.raises(ContentUnavailable) as caught:
        await holders.fetch([b"a", b"b", b"c"])
    for said in ("not-found: unknown", "b is down", "another reply: Accepted"):
        assert said in caught.value.message
    assert len([1 for holder, _ in holders.asked if holder == b"b"]) == MAX_STRIKES
    with pytest.raises(ContentUnavailable, match="none was named"):
        await holders.fetch([])


async def test_a_holder_lost_half_way_ends_the_pull_when_it_was_the_last():
    holders = Holders({(b"a", 3): BadContent("x"), (b"a", 2): PeerUnreachable("gone")})
    with pytest.raises(ContentUnavailable):
        await holders.fetch([b"a"])


async def test_a_root_that_is_no_digest_is_refused():
    with pytest.raises(EncodingError, match="32 bytes expected"):
        await fetch_content(Holders().ask, b"short", "cipher", 1, [b"a"])  # type: ignore[arg-type]


LONG = b"".join(i.to_bytes(2, "big") * (CHUNK_BYTES // 2) for i in range(SPREAD_CHUNKS))
LONG_MAP = ContentMap.of(LONG)


async def ask_for_long(asked: list[bytes], lacks: set[bytes], peer_id: bytes, request: Any) -> Any:
    await trio.lowlevel.checkpoint()
    if isinstance(request, GetMap):
        return MapReply(LONG_MAP.length, LONG_MAP.digests, LONG[:CHUNK_BYTES])
    asked.append(peer_id)
    if peer_id in lacks:
        return Refusal("not-found", "not here")
    return ChunkReply(LONG[request.index * CHUNK_BYTES : (request.index + 1) * CHUNK_BYTES])


@pytest.mark.parametrize("lacks", [set(), {b"b"}])
async def test_a_long_content_is_asked_of_two_holders_while_both_have_it(lacks):
    asked: list[bytes] = []

    async def ask(peer_id: bytes, request: Any, timeout_s: float) -> Any:
        return await ask_for_long(asked, lacks, peer_id, request)

    holders = [b"a", b"b", b"c"]
    assert await fetch_content(ask, LONG_MAP.root("cipher"), "cipher", 1 << 24, holders) == LONG
    counts = {holder: asked.count(holder) for holder in holders}
    if lacks:
        assert counts == {b"a": SPREAD_CHUNKS - 1 - counts[b"c"], b"b": 1, b"c": counts[b"c"]}
        assert counts[b"c"] > 0
    else:
        assert counts[b"c"] == 0
        assert min(counts[b"a"], counts[b"b"]) >= SPREAD_CHUNKS // 2 - 1


async def test_a_sink_that_cannot_keep_a_chunk_ends_the_pull_with_its_fault():
    class Full(Sink):
        async def missing(self, content: ContentMap) -> range:
            return range(len(content.digests))

        async def keep(self, content: ContentMap, index: int, data: bytes) -> None:
            raise LocalFault("the disk is full")

    with pytest.raises(LocalFault, match="the disk is full"):
        await pull_content(Holders().ask, ROOT, "cipher", LIMIT, [b"a"], Full())
