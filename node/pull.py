"""Fetching content by its root from whoever holds it: the receiver asks, a chunk at a time, and believes nobody.

Theory. A root fixes the map of chunk digests, and the map fixes every chunk, so the bytes of each answer are checked
alone and the moment they come. The first chunk comes with the map, so what has no other is one answer. A wrong map or
chunk is the fault of the peer that sent it, never of the content's author: it is reported, that peer is asked no more,
and another is asked for the same chunk. A peer that is silent holds nothing up: others are asked beside it, one at a
time. Two chunks are asked for at once, so that one is on the wire while the other is checked; the receiver never holds
more than these, twice at most where a holder is silent, and never stops reading, for a reader that stalls for five
seconds loses its stream.

What may live here: the pull. What this file does not know: connections, disks and threads (a `Sink` keeps the chunks
and says which it has), what the content means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import trio

from crypto.digest import CHUNK_BYTES, ContentMap, Digest
from crypto.errors import CryptoError
from node.doors import NotAPeer, PeerSilent, PeerUnreachable
from node.errors import NodeError, PeerError, TimedOut
from node.messages import ChunkReply, GetChunk, GetMap, MapReply, Refusal, Reply, Request

Ask = Callable[[bytes, Request, float], Awaitable[Reply]]
"""`Transport.request`."""

IN_FLIGHT: Final = 2
"""Chunks asked for at the same time. More did not make loopback faster; one leaves the wire idle while it hashes."""

SPREAD_CHUNKS: Final = 8
"""From so many chunks on a content is asked of two holders at once: a failed question costs less than it may save."""

CHUNK_TIMEOUT_S: Final = 30.0
"""A chunk of 1 MiB within this is 280 kbit/s: slower than any line a hospital trains over."""

CHUNK_PATIENCE_S: Final = 5.0
"""Then the next holder is asked for the same beside the silent one, which is asked last from now on. Where every line
is slower than 1.7 Mbit/s a chunk is on two of them."""

MAX_STRIKES: Final = 3
"""Silences and temporary refusals of one holder in a row before it is left out."""

PAUSE_S: Final = 0.5
"""After a temporary refusal, before the next request."""

_TEMPORARY: Final = frozenset({"busy", "not-yet"})


class BadContent(PeerError):
    """A holder sent a map or a chunk that does not lead to the root asked for."""


class ContentUnavailable(TimedOut):
    """None of the holders gave the content; the message names each one's last fault."""


class _Pull:
    """One pull: which holders are still asked, what is still missing."""

    def __init__(
        self, ask: Ask, root: Digest, kind: str, holders: Sequence[bytes], fault: Callable[[bytes, NodeError], None]
    ) -> None:
        self._ask = ask
        self._root = root
        self._kind = kind
        self._holders = deque(dict.fromkeys(holders))
        self._strikes = dict.fromkeys(holders, 0)
        self._slow: set[bytes] = set()  # asked only where nobody else is left, or beside each other
        self._faults: dict[bytes, str] = {}
        self._report = fault

    async def map(self, max_length: int) -> tuple[ContentMap, bytes, bytes]:
        """The content's map; what came with it as the first chunk, which is not verified yet; and who sent both."""
        while True:
            holder, reply = await self._answer(GetMap(self._root))
            if not isinstance(reply, MapReply):
                await self._not_given(holder, reply)
                continue
            try:
                found = ContentMap(reply.length, tuple(Digest(digest) for digest in reply.digests))
                found.check_root(self._kind, self._root)
            except CryptoError as error:
                self._out(holder, BadContent(f"map of {self._root.hex()}: {error}"))
                continue
            self._strikes[holder] = 0
            if found.length > max_length:
                # The root fixes the length, so no other holder can have a shorter one.
                raise ContentUnavailable(
                    f"{self._kind} {self._root.hex()} has {found.length} bytes, at most {max_length} are allowed"
                )
            return found, reply.first, holder

    async def first(self, content: ContentMap, data: bytes, holder: bytes, sink: Sink) -> bool:
        """Keep the chunk that came with the map, if it is the first one; whether it is."""
        try:
            await sink.keep(content, 0, data)
        except CryptoError as error:
            self._spoiled(holder, 0, error)
            return False
        return True

    async def chunk(self, content: ContentMap, index: int, sink: Sink, preferred: int) -> None:
        while True:
            holder, reply = await self._answer(GetChunk(self._root, index), preferred)
            if not isinstance(reply, ChunkReply):
                await self._not_given(holder, reply)
                continue
            try:
                await sink.keep(content, index, reply.data)
            except CryptoError as error:
                self._spoiled(holder, index, error)
                continue
            self._strikes[holder] = 0
            return

    async def _answer(self, request: GetMap | GetChunk, preferred: int = 0) -> tuple[bytes, Reply | NodeError]:
        """Ask a holder, and the next one beside it once it was silent for a while; whose answer was first, and it.

        One that gives nothing makes room for the next; its answer counts only where nobody else is left to give.
        """
        tell, heard = trio.open_memory_channel[tuple[bytes, Reply | NodeError]](len(self._strikes))

        async def question(holder: bytes) -> None:
            answer: Reply | NodeError
            try:
                answer = await self._ask(holder, request, CHUNK_TIMEOUT_S)
            except (PeerUnreachable, PeerSilent, NotAPeer, PeerError) as error:
                answer = error
            tell.send_nowait((holder, answer))

        first = self._next(preferred)
        tried, waiting = {first}, 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(question, first)
            with trio.move_on_after(CHUNK_PATIENCE_S):
                return await heard.receive()
            self._slow.add(first)
            while True:
                beside = next((one for one in self._holders if one not in tried), None) if waiting < 2 else None
                if beside is not None:
                    tried.add(beside)
                    nursery.start_soon(question, beside)
                    waiting += 1
                holder, answer = await heard.receive()
                waiting -= 1
                if isinstance(answer, MapReply | ChunkReply) or not waiting:  # one is asked wherever one is left
                    nursery.cancel_scope.cancel()
                    return holder, answer
                await self._not_given(holder, answer)

    def _next(self, preferred: int = 0) -> bytes:
        if not self._holders:
            said = "; ".join(f"{holder.hex()[-8:]}: {fault}" for holder, fault in self._faults.items())
            raise ContentUnavailable(f"{self._kind} {self._root.hex()}: no holder left ({said or 'none was named'})")
        row = [one for one in self._holders if one not in self._slow] or list(self._holders)
        return row[min(preferred, len(row) - 1)]

    async def _not_given(self, holder: bytes, reply: Reply | NodeError) -> None:
        if isinstance(reply, NodeError):
            self._failed(holder, reply)
            return
        code = reply.code if isinstance(reply, Refusal) else "another reply"
        reason = reply.reason if isinstance(reply, Refusal) else type(reply).__name__
        error = ContentUnavailable(f"{code}: {reason}")
        if code not in _TEMPORARY:
            self._out(holder, error)
            return
        self._failed(holder, error)
        await trio.sleep(PAUSE_S)

    def _spoiled(self, holder: bytes, index: int, error: CryptoError) -> None:
        self._out(holder, BadContent(f"chunk {index} of {self._root.hex()}: {error}"))

    def _failed(self, holder: bytes, error: NodeError) -> None:
        """A fault that may pass: ask the next holder, and this one later."""
        if holder not in self._holders:
            return  # the other request has settled it
        self._strikes[holder] += 1
        if self._strikes[holder] >= MAX_STRIKES or isinstance(error, (PeerError, NotAPeer)):
            self._out(holder, error)
        else:
            self._faults[holder] = error.message
            self._holders.remove(holder)
            self._holders.append(holder)

    def _out(self, holder: bytes, error: NodeError) -> None:
        """Ask this holder no more."""
        if holder in self._holders:
            self._holders.remove(holder)
            self._faults[holder] = error.message
            self._report(holder, error)


class Sink(Protocol):
    """Where a content goes, chunk by chunk."""

    async def missing(self, content: ContentMap) -> Iterable[int]:
        """Indexes of the chunks that are not there yet; what is there has been verified."""
        ...

    async def keep(self, content: ContentMap, index: int, data: bytes) -> None:
        """Verify a chunk and keep it. Raises `CryptoError`, keeping nothing, if it is not the one of the map."""
        ...


async def pull_content(
    ask: Ask,
    root: Digest,
    kind: str,
    max_length: int,
    holders: Sequence[bytes],
    sink: Sink,
    *,
    fault: Callable[[bytes, NodeError], None] = lambda holder, error: None,
) -> ContentMap:
    """Bring the content whose `content_root(kind, ...)` is `root` into `sink`, from `holders` in order of preference.

    A long content is asked of two holders at once, where two are named; one that does not have it is asked no more.

    Args:
        ask: how to ask a peer; `Transport.request`.
        root: what the content must hash to.
        kind: `cipher`, `model` or `spec`; part of the root.
        max_length: bytes; what the round or the study allows for this content.
        holders: peer ids that are said to hold it.
        sink: verifies and keeps; what it has already is not asked for.
        fault: called once for each holder that is given up, with why; a `PeerError` is the holder's own fault.

    Returns:
        The map: every chunk of it is in the sink.

    Raises:
        ContentUnavailable: no holder is left to ask, or the content is longer than `max_length`.
    """
    pull = _Pull(ask, Digest(root), kind, holders, fault)
    content, first, holder = await pull.map(max_length)
    missing = deque(await sink.missing(content))
    if 0 in missing and await pull.first(content, first, holder, sink):
        missing.remove(0)
    spread = len(content.digests) >= SPREAD_CHUNKS
    failures: list[NodeError] = []

    async def worker(number: int, scope: trio.CancelScope) -> None:
        while missing:
            index = missing.popleft()
            try:
                await pull.chunk(content, index, sink, number if spread else 0)
            except NodeError as error:  # no holder left, or the sink cannot keep it
                failures.append(error)
                scope.cancel()  # the other request would only find the same
                return

    async with trio.open_nursery() as nursery:
        for number in range(IN_FLIGHT):
            nursery.start_soon(worker, number, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return content


class _Memory:
    """A sink in memory."""

    def __init__(self, save: Callable[[int, bytes], None], load: Callable[[int], bytes | None]) -> None:
        self._save, self._load = save, load
        self.buffer = bytearray()

    async def missing(self, content: ContentMap) -> Iterable[int]:
        self.buffer = bytearray(content.length)
        missing = []
        for index in range(len(content.digests)):
            kept = self._load(index)
            try:
                if kept is None:
                    raise CryptoError("not kept")
                self._place(content, index, kept)
            except CryptoError:
                missing.append(index)
        return missing

    async def keep(self, content: ContentMap, index: int, data: bytes) -> None:
        self._place(content, index, data)
        self._save(index, data)

    def _place(self, content: ContentMap, index: int, data: bytes) -> None:
        content.verify_chunk(index, data)
        self.buffer[index * CHUNK_BYTES : index * CHUNK_BYTES + len(data)] = data


async def fetch_content(
    ask: Ask,
    root: Digest,
    kind: str,
    max_length: int,
    holders: Sequence[bytes],
    *,
    save: Callable[[int, bytes], None] = lambda index, data: None,
    load: Callable[[int], bytes | None] = lambda index: None,
    fault: Callable[[bytes, NodeError], None] = lambda holder, error: None,
) -> bytes:
    """As `pull_content`, into memory: the bytes themselves.

    `save` is called with every fetched chunk (index, bytes) after it was verified; `load` gives the bytes of a chunk
    that an earlier pull saved, or None. They are verified again.
    """
    memory = _Memory(save, load)
    await pull_content(ask, root, kind, max_length, holders, memory, fault=fault)
    return bytes(memory.buffer)
