"""Asking peers: notices out and in, blobs, keys and models in. The waiting half of what `serving` answers.

What may live here: who is asked for what, in which order, and what counts as an answer. What this file does not know:
why something is wanted (`round`, `erasure`), libp2p, threads' rules (it is given `run`, which performs a blocking
function on the node's state).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
import trio

from crypto.blobs import MAX_METRICS_BYTES
from crypto.digest import ContentMap, Digest
from crypto.errors import CryptoError
from crypto.packing import packed_bound
from crypto.sealing import BlobKind, ciphertext_length, unwrap
from node.doors import Transport
from node.errors import NodeError, NotFound
from node.membership import members_of
from node.messages import (
    Accepted,
    CommitNotice,
    GetKeys,
    Hello,
    KeysReply,
    Notice,
    Notices,
    Offer,
    Pull,
    Refusal,
    Reply,
)
from node.participant import Participant
from node.pull import pull_content
from node.store import Partial

log = structlog.get_logger("exchange")
OFFER_TIMEOUT_S = 10.0
PULL_TIMEOUT_S = 15.0
KEY_TIMEOUT_S = 10.0
KEY_PATIENCE_S = 1.0  # then the next holder is asked beside the one that is silent
KEY_ATTEMPTS = 6
KEY_PAUSE_S = 0.1
MAX_SPEC_BYTES = 256 * 1024
MAX_SET_BYTES = 64 << 20  # some 100 000 consents with their anchor paths
SET_HEAD_BYTES = 128  # what a set has beside its leaves, rounded up
MAX_LEAF_BYTES = 1024  # a leaf with an anchor path of 20 steps has 895
UPDATE_HEADER_BYTES = 256  # what an update has beside metrics and packed integers, rounded up

PULLS_AT_ONCE = 8
"""Contents on their way here at the same time. Each holds two chunks (2 MiB, twice that where a holder is silent) and
what the transport buffers for it."""

RunCore = Callable[..., Awaitable[Any]]
"""`await run(function, *arguments)`: one blocking call on the node's state, one at a time."""


class _Early(NotFound):
    """A holder has not come so far yet, or is busy."""


class _Disk:
    """A pull's sink in the node's store; hashing and writing are done in a thread."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._turn = trio.CapacityLimiter(1)

    async def missing(self, content: ContentMap) -> Iterable[int]:
        return await trio.to_thread.run_sync(self._partial.missing, content, limiter=self._turn)

    async def keep(self, content: ContentMap, index: int, data: bytes) -> None:
        await trio.to_thread.run_sync(self._partial.keep, content, index, data, limiter=self._turn)

    async def finish(self, content: ContentMap) -> None:
        await trio.to_thread.run_sync(self._partial.finish, content, limiter=self._turn)


class Exchange:
    """What one node asks its peers."""

    def __init__(self, transport: Transport, participant: Participant, run: RunCore) -> None:
        """`run` performs a blocking function on the participant's state."""
        self._transport = transport
        self._node = participant
        self._run = run
        self._under_way: dict[Digest, trio.Event] = {}
        self._pulls = trio.CapacityLimiter(PULLS_AT_ONCE)

    # ----------------------------------------------------------------------------------------------------------------
    # Who

    def peer_of(self, member: int) -> bytes:
        """The libp2p peer id of a member; `NotFound` while the registry has no such member."""
        found = self._node.history.registry.members.get(member)
        if found is None:
            raise NotFound(f"member {member} is not in the registry, as far as the chain is read")
        return found.peer_id

    def everyone(self) -> list[bytes]:
        """Every registered peer but us: active members, then auditors."""
        registry = self._node.history.registry
        peers = [self.peer_of(m) for m in members_of(registry.active)] + [a.peer_id for a in registry.auditors.values()]
        return [peer for peer in dict.fromkeys(peers) if peer != self._transport.peer_id]

    def concerned(self, study: Digest) -> list[bytes]:
        """Those of `everyone` who have anything of a study: members who ever joined it, auditors it was opened to."""
        registry, found = self._node.history.registry, self._node.history.studies[study]
        members = {self.peer_of(member) for member in found.joined}
        seats = {access.seat for _, access in found.access}
        auditors = {one.peer_id for seat, one in registry.auditors.items() if seat in seats}
        return [peer for peer in self.everyone() if peer in members | auditors]

    def holders(self, first: int | None) -> list[bytes]:
        """Whom to ask for content: its author first, then every other peer."""
        others = self.everyone()
        if first is None or first == self._node.me:
            return others
        author = self.peer_of(first)
        return [author, *(peer for peer in others if peer != author)] if author in others else others

    # ----------------------------------------------------------------------------------------------------------------
    # Notices

    async def offer(self, notice: Notice, peers: Iterable[bytes] | None = None) -> int:
        """Push a notice to peers (all by default); how many took the request. What is lost is repaired by Pull."""
        reached = 0

        async def one(peer: bytes) -> None:
            nonlocal reached
            try:
                reply = await self._transport.request(peer, Offer((notice,)), OFFER_TIMEOUT_S)
            except NodeError as error:
                log.debug("offer", peer=peer.hex()[-8:], kind=type(notice).__name__, error=error.message)
                return
            reached += isinstance(reply, Accepted)

        async with trio.open_nursery() as nursery:
            for peer in self.everyone() if peers is None else peers:
                nursery.start_soon(one, peer)
        return reached

    async def pull(
        self,
        subject: Digest,
        members: int,
        heard: Callable[[int, tuple[Notice, ...]], Awaitable[None]] | None = None,
    ) -> dict[int, tuple[Notice, ...]]:
        """What each of these members (bitmap) knows about a round, batch or study; silent ones are absent.

        `heard` is called with each answer as it comes: nobody waits for the slowest, who may be frozen.
        """
        answers: dict[int, tuple[Notice, ...]] = {}

        async def one(member: int) -> None:
            try:
                reply = await self._transport.request(self.peer_of(member), Pull(subject), PULL_TIMEOUT_S)
            except NodeError as error:
                log.debug("pull", member=member, error=error.message)
                return
            if isinstance(reply, Notices):
                answers[member] = reply.notices
                if heard is not None:
                    await heard(member, reply.notices)

        async with trio.open_nursery() as nursery:
            for member in members_of(members):
                if member != self._node.me:
                    nursery.start_soon(one, member)
        return answers

    # ----------------------------------------------------------------------------------------------------------------
    # Content

    async def content(self, root: Digest, kind: str, max_length: int, first: int | None = None) -> None:
        """Fetch and keep a content by its root, unless it is here. `ContentUnavailable` names each holder's fault.

        Whoever wants what is on its way already waits for it. What came of a pull that ended early is not asked again.
        """
        while root in self._under_way:
            await self._under_way[root].wait()
        with self._alone(root):
            if await self._run(self._node.store.has, root):
                return
            async with self._pulls:
                partial = self._node.store.partial(kind, root)
                sink = _Disk(partial)
                try:
                    found = await pull_content(self._ask, root, kind, max_length, self.holders(first), sink)
                    await sink.finish(found)
                finally:
                    partial.close()

    @contextmanager
    def _alone(self, root: Digest) -> Iterator[None]:
        """Be the one who fetches this content."""
        done = self._under_way[root] = trio.Event()
        try:
            yield
        finally:
            del self._under_way[root]
            done.set()

    async def greet(self, hello: Hello) -> None:
        """Tell every peer how far the chain is, so that those behind look now; a lost word costs a pause."""

        async def one(peer: bytes) -> None:
            try:
                await self._transport.request(peer, hello, OFFER_TIMEOUT_S)
            except NodeError as error:
                log.debug("greet", peer=peer.hex()[-8:], error=error.message)

        async with trio.open_nursery() as nursery:
            for peer in self.everyone():
                nursery.start_soon(one, peer)

    async def _ask(self, peer: bytes, message: Any, timeout_s: float) -> Reply:
        return await self._transport.request(peer, message, timeout_s)

    async def ciphertexts(self, notice: CommitNotice, parameters: int) -> None:
        """Fetch both ciphertexts of a commit to a study's round with this many model integers.

        What is longer than any contribution of the study can be is not fetched, by anyone: its author is unavailable.
        The length that the notice tells decides nothing: it is under no hash, and may differ from peer to peer.
        """
        update = ciphertext_length(UPDATE_HEADER_BYTES + MAX_METRICS_BYTES + packed_bound(parameters))
        for root, bound in await self._run(self._lacking, notice, update):
            await self.content(root, "cipher", bound, notice.member)

    def _lacking(self, notice: CommitNotice, update: int) -> list[tuple[Digest, int]]:
        """(root, longest it can be) of the commit's ciphertexts that are not here; `update`: the longest update."""
        blobs = (notice.update.cipher_root, update), (notice.set.cipher_root, self._set_bound(notice))
        return [blob for blob in blobs if not self._node.store.has(blob[0])]

    def _set_bound(self, notice: CommitNotice) -> int:
        """The longest ciphertext of a set of consents that the chain has; nobody is to fetch 64 MiB of noise."""
        one = self._node.history.rounds.get(notice.round_id)
        leaves = 0 if one is None else self._node.history.declared(one.opened.study, notice.member)
        return min(MAX_SET_BYTES, ciphertext_length(SET_HEAD_BYTES + MAX_LEAF_BYTES * leaves))

    async def keys(self, notice: CommitNotice) -> None:
        """Fetch both content keys of a commit from any holder; a bad wrap means "ask another".

        Raises:
            NotFound: no holder gave a key that fits its commitment.
        """
        await self._ensure_keys(notice, BlobKind.UPDATE, BlobKind.SET)

    async def set_blob(self, notice: CommitNotice) -> None:
        """Fetch the ciphertext and the key of a commit's set alone."""
        await self.content(notice.set.cipher_root, "cipher", await self._run(self._set_bound, notice), notice.member)
        await self._ensure_keys(notice, BlobKind.SET)

    async def _ensure_keys(self, notice: CommitNotice, *kinds: BlobKind) -> None:
        """Both in one question. Peers see a seal become final a moment apart: "not yet" is asked again."""
        lacking = list(await self._run(self._without_key, notice, kinds))
        faults: list[str] = []
        for attempt in range(KEY_ATTEMPTS):
            faults.clear()
            early = bool(lacking) and await self._ask_for_keys(notice, lacking, faults)
            if not lacking:
                return
            if not early:
                break
            await trio.sleep(KEY_PAUSE_S * (attempt + 1))
        names = " and ".join(kind.name.lower() for kind in lacking)
        raise NotFound(f"no holder gave the key of member {notice.member}'s {names}: {'; '.join(faults)}")

    async def _ask_for_keys(self, notice: CommitNotice, lacking: list[BlobKind], faults: list[str]) -> bool:
        """Ask holder after holder until nothing is `lacking` any more; whether one of them may have it later.

        Whoever is silent is waited for, but holds up neither the next one nor a new try.
        """
        early = False

        async def one(peer: bytes, over: trio.Event) -> None:
            nonlocal early
            try:
                found = await self._keys_of(peer, notice, tuple(lacking))
                await self._run(self._keep_keys, notice, found)  # one that came, also where the other did not
                lacking[:] = [kind for kind in lacking if kind not in found]
            except NodeError as error:
                early = early or isinstance(error, _Early)
                faults.append(f"{peer.hex()[-8:]}: {error.message}")
            over.set()
            if not lacking:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for peer in self.holders(notice.member):
                over = trio.Event()
                nursery.start_soon(one, peer, over)
                with trio.move_on_after(KEY_PATIENCE_S):
                    await over.wait()
            if early:
                nursery.cancel_scope.cancel()
        return early

    async def _keys_of(self, peer: bytes, notice: CommitNotice, kinds: Sequence[BlobKind]) -> dict[BlobKind, bytes]:
        """Those of these keys that a holder has, at least one.

        Raises:
            NotFound: it has none, or none that fits its commitment; `_Early`: it may have some later.
        """
        asked = sum(1 << kind for kind in kinds)
        reply = await self._transport.request(peer, GetKeys(notice.round_id, notice.member, asked), KEY_TIMEOUT_S)
        if isinstance(reply, Refusal) and reply.code in ("not-yet", "busy"):
            raise _Early(reply.reason)
        if not isinstance(reply, KeysReply):
            raise NotFound(getattr(reply, "reason", type(reply).__name__))
        found, faults = {}, []
        for kind, wrap in zip(kinds, reply.wraps, strict=False):
            blob = notice.update if kind is BlobKind.UPDATE else notice.set
            try:
                if wrap:
                    found[kind] = self._unwrap(wrap, blob.key_commit, notice, kind)
            except CryptoError as error:
                log.warning("bad wrap", peer=peer.hex()[-8:], member=notice.member, error=str(error))
                faults.append(str(error))
        if not found:
            raise NotFound("; ".join(faults) or "the key is not there")
        return found

    def _without_key(self, notice: CommitNotice, kinds: Iterable[BlobKind]) -> list[BlobKind]:
        return [kind for kind in kinds if self._node.store.key(notice.round_id, notice.member, kind) is None]

    def _keep_keys(self, notice: CommitNotice, keys: Mapping[BlobKind, bytes]) -> None:
        with self._node.store.transaction():
            for kind, key in keys.items():
                self._node.store.put_key(notice.round_id, notice.member, kind, key)

    def _unwrap(self, wrap: bytes, committed: Digest, notice: CommitNotice, kind: BlobKind) -> bytes:
        """With the sealing key we have; the peer may not have read of our newest one yet, or have read of it first."""
        rings = [self._node.ring, *self._node.rings]
        for ring in rings[:-1]:
            try:
                return unwrap(wrap, ring.sealing, committed, notice.round_id, notice.member, kind)
            except CryptoError:
                continue
        return unwrap(wrap, rings[-1].sealing, committed, notice.round_id, notice.member, kind)
