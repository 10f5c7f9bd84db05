"""What a node answers its peers, and why it refuses.

What may live here: one function a request, over a `Participant`'s state; refusals with their reason. What this file
does not know: streams, bytes on the wire, threads. The transport has already proved who asks and that it is registered;
here it is decided what that peer may have.

Who may have what: chunks of ciphertexts, models and specs go to every registered peer (a ciphertext is useless without
its key); a content key goes to the members of its round's roster and to an auditor whose `AuditAccess` covers the
round, after the seal is final. To a member neither a key nor a model of a replay goes before its word that the old pair
is purged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from crypto.digest import ContentMap, Digest
from crypto.errors import CryptoError
from crypto.sealing import BlobKind, wrap
from node.doors import Bucket
from node.duties import note_contradiction
from node.erasure import openers_of
from node.errors import NodeError, NotFound
from node.history import History
from node.messages import (
    AbstainNotice,
    Accepted,
    ChunkReply,
    CloseNotice,
    CommitNotice,
    ErasureNotice,
    GetChunk,
    GetKeys,
    GetMap,
    HaveNotice,
    Hello,
    KeysReply,
    MapReply,
    Notice,
    Notices,
    Offer,
    OpeningNotice,
    PlanNotice,
    Pull,
    PurgeNotice,
    Refusal,
    Reply,
    Request,
    VerdictNotice,
    VoteNotice,
    Welcome,
    WithdrawalNotice,
)
from node.notices import check
from node.participant import Participant
from node.records import MAX_MEMBERS
from node.round import LAST_ATTEMPT, Revealed

log = structlog.get_logger("serving")
MAX_NOTICES = 256  # of one Pull: every kind and attempt of a full roster fits
MAX_EARLY = 64  # notices of one peer that wait for the chain: it is behind by a round, not by more
SHARE = 0.5
SHARE_BURST_S = 5.0
"""Of the state's one thread (it also judges, signs and steps the rounds), what answering may take: this part of its
processor time in the long run, divided by the registered peers, and that many seconds at once for each. A chunk takes
0.2 ms, a notice 0.1 ms, a key 0.4 ms."""
TELL_S = 60.0
EXTRA_PER_S = 1 / 60
EXTRA_BURST = 256.0
"""Notices of one peer that belong to no round, batch or study of this chain: votes of governance, cards, tombstones.
Such a notice can be made up without end, is kept, and a card is carried to the chain at our cost."""
PRIVATE = (WithdrawalNotice, ErasureNotice, OpeningNotice)
"""Notices that are handed to whom they concern and never to whoever asks."""
UNPURGED: Final = Refusal("not-yet", "you have not told this node that the old pair of this erasure is purged")
"""The answer to a member that asks for a key or a model of a replay before its word."""


class Standing(Enum):
    """What the chain, as far as it was read, says of a notice's subject."""

    PLACED = "there is such a round, batch or study, and its member may say this there"
    EXTRA = "it needs no place"
    EARLY = "nothing on the chain yet"
    WRONG = "its member has no such statement to make there"


def standing(notice: Notice, history: History) -> Standing:
    """Whether a notice has its place. What has none is not kept: signed notices of made-up rounds cost nothing."""
    match notice:
        case CommitNotice() | AbstainNotice() | HaveNotice() | VoteNotice():
            one = history.rounds.get(notice.round_id)
            if one is None:
                return Standing.EARLY
            answers = isinstance(notice, CommitNotice | AbstainNotice)
            among = one.opened.roster & ~one.opened.suspended if answers else one.opened.roster
            first = 0 if isinstance(notice, VoteNotice) else 1
            turn = notice.attempt if isinstance(notice, HaveNotice | VoteNotice) else first
            fits = bool(notice.member < MAX_MEMBERS and among >> notice.member & 1 and first <= turn <= LAST_ATTEMPT)
            return Standing.PLACED if fits else Standing.WRONG
        case CloseNotice():
            study = history.studies.get(notice.study)
            if study is None or notice.branch not in study.branches:
                return Standing.EARLY
            round_id = study.branches[notice.branch].rounds.get(notice.height)
            if round_id is None:
                return Standing.EARLY
            fits = bool(notice.member < MAX_MEMBERS and history.rounds[round_id].opened.roster >> notice.member & 1)
            return Standing.PLACED if fits else Standing.WRONG
        case PlanNotice() | PurgeNotice() | VerdictNotice():
            return Standing.PLACED if notice.batch in history.erasures else Standing.EARLY
        case OpeningNotice():
            return Standing.PLACED  # it is checked against its batch
        case _:
            return Standing.EXTRA


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, by the registry: a member index, or an auditor's seat."""

    member: int | None
    seat: int | None
    sealing_key: bytes


class Server:
    """Answers requests from a participant's state. `deliver` takes a genuine, new notice on to its machine."""

    def __init__(self, participant: Participant, deliver: Callable[[Notice], None], status: Callable[[], str]) -> None:
        """`status` is the word that a heartbeat's answer shows: "following", "syncing"."""
        self._node = participant
        self._deliver = deliver
        self._status = status
        self._maps: dict[Digest, ContentMap] = {}
        self._early: dict[int | None, deque[Notice]] = {}
        self._shares: dict[bytes, Bucket] = {}
        self._extras: dict[int | None, Bucket] = {}
        self._told: dict[bytes, float] = {}  # peer -> when the log was last told that it had used up its share

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        """The reply to a peer's request at chain time `now`."""
        asker = self._asker(peer_id, now)
        if asker is None:
            return Refusal("not-allowed", "you are not in the registry")
        share = self._share(peer_id)
        if not share.open():
            # A share is used up again as soon as a little of it is back: now and then, or the log is flooded next.
            if time.monotonic() >= self._told.get(peer_id, 0.0) + TELL_S:
                log.warning("a peer has used up its share of this node", member=asker.member, seat=asker.seat)
                self._told[peer_id] = time.monotonic()
            return Refusal("busy", "you have used up your share of this node's time")
        began = time.thread_time()
        try:
            return self._answer(asker, request, now)
        finally:
            share.take(time.thread_time() - began)

    def _share(self, peer_id: bytes) -> Bucket:
        registry = self._node.history.registry
        rate = SHARE / max(1, registry.active.bit_count() + len(registry.auditors))
        share = self._shares.setdefault(peer_id, Bucket(rate, SHARE_BURST_S, time.monotonic))
        share.rate = rate
        return share

    def _answer(self, asker: Asker, request: Request, now: int) -> Reply:
        try:
            match request:
                case Hello():
                    return self._hello(request)
                case GetMap() | GetChunk() if asker.member is not None and not self._node.may_have(
                    asker.member, request.root
                ):
                    return UNPURGED
                case GetMap():
                    return self._map(request)
                case GetChunk():
                    return self._chunk(request)
                case GetKeys():
                    return self._keys(asker, request, now)
                case Offer():
                    return Accepted(sum(self.accept(notice, asker) for notice in request.notices))
                case Pull():
                    return self._pull(request)
        except NotFound as error:
            return Refusal("not-found", error.message)

    def _asker(self, peer_id: bytes, now: int) -> Asker | None:
        registry = self._node.history.registry
        member = registry.member_of_peer(peer_id)
        if member is not None:
            return Asker(member.index, None, member.sealing_key)
        auditor = registry.auditor_of_peer(peer_id, now)
        return None if auditor is None else Asker(None, auditor.seat, auditor.sealing_key)

    def _hello(self, hello: Hello) -> Reply:
        ours = self._node.domains
        if (hello.chain_id, hello.membership) != (ours.chain_id, ours.membership):
            return Refusal("wrong-network", f"this is chain {ours.chain_id}, contract {ours.membership.hex()}")
        last = self._node.history.last
        return Welcome(0 if last is None else last.block, self._status())

    # ----------------------------------------------------------------------------------------------------------------
    # Content

    def purged(self, content: Digest) -> bool:
        """Whether this node purged a content: others' tombstones speak of their own copies."""
        stones = self._node.store.notices(content, "TombstoneNotice")
        return any(getattr(stone, "member", None) == self._node.me for stone in stones)

    def _content(self, root: Digest) -> bytes:
        if not self._node.store.has(root):
            if self.purged(root):
                raise NotFound(f"content {root.hex()} was purged")
            raise NotFound(f"content {root.hex()} is not here")
        return self._node.store.get(root)

    def _map(self, request: GetMap) -> Reply:
        found = self._maps.get(request.root)
        if found is None or not self._node.store.has(request.root):
            found = ContentMap.of(self._content(request.root))
            if len(self._maps) >= MAX_NOTICES:
                self._maps.clear()
            self._maps[request.root] = found
        first = self._node.store.get_chunk(request.root, 0) if found.digests else b""
        if first is None:
            raise NotFound(f"content {request.root.hex()} is not here")
        return MapReply(found.length, tuple(bytes(d) for d in found.digests), first)

    def _chunk(self, request: GetChunk) -> Reply:
        data = self._node.store.get_chunk(request.root, request.index)
        if data is None:
            return Refusal("not-found", f"content {request.root.hex()} has no chunk {request.index} here")
        return ChunkReply(data)

    # ----------------------------------------------------------------------------------------------------------------
    # Keys

    def _keys(self, asker: Asker, request: GetKeys, now: int) -> Reply:
        node, round_id, member = self._node, request.round_id, request.member
        one = node.history.rounds.get(round_id)
        kinds = [kind for kind in BlobKind if request.kinds >> kind & 1]
        if one is None or member >= MAX_MEMBERS or not kinds:
            return Refusal("not-found", f"round {round_id.hex()} has no member {member}, or no key is asked for")
        refusal = self._may_read(asker, round_id)
        if refusal is not None:
            return refusal
        machine = node.rounds.get(round_id)
        if machine is not None:
            if not machine.may_serve_key(member):
                return Refusal("not-yet", "the seal is not final, or the key is not here")
        elif not one.over:
            return Refusal("not-yet", "this node has not come to this round yet")
        elif one.final is None or not _decided(one.final.result.included, one.final.result.codes) >> member & 1:
            return Refusal("not-allowed", "this contribution was never part of an agreed result")
        keys = {kind: node.store.key(round_id, member, kind) for kind in kinds}
        if not any(keys.values()):
            purged = any(self.purged(blob) for blob in self._blobs(round_id, member))
            return Refusal("purged" if purged else "not-found", "the key is not here")
        if member == node.me and machine is not None:
            revealed = f"revealed {round_id.hex()}"
            if node.store.meta(revealed) is None:  # the first peer's question is what counts, and a write costs a sync
                node.store.set_meta(revealed, str(now))
            machine.restore([Revealed()], now)
        try:
            wraps = [
                b"" if key is None else wrap(key, asker.sealing_key, round_id, member, kind)
                for kind, key in keys.items()
            ]
        except CryptoError as error:
            return Refusal("not-allowed", f"your registered sealing key cannot be used: {error}")
        return KeysReply(tuple(wraps))

    def _blobs(self, round_id: Digest, member: int) -> tuple[Digest, ...]:
        for notice in self._node.store.notices(round_id, "CommitNotice"):
            if isinstance(notice, CommitNotice) and notice.member == member:
                return notice.update.cipher_root, notice.set.cipher_root
        return ()

    def _may_read(self, asker: Asker, round_id: Digest) -> Refusal | None:
        history = self._node.history
        opened = history.rounds[round_id].opened
        study = history.studies[opened.study]
        if asker.member is not None:
            if not opened.roster >> asker.member & 1:
                return Refusal("not-allowed", "you are not of this round's roster")
            batch = self._node.replay_of(round_id)
            return None if batch is None or self._node.has_purged(batch, asker.member) else UNPURGED
        for _, access in study.access:
            if access.seat == asker.seat and access.from_height <= opened.height <= access.to_height:
                if asker.seat is not None and self._node.audit_open(opened.study, asker.seat):
                    return None
                return Refusal("not-allowed", "this hospital has not opened this study to your seat on the chain")
        return Refusal("not-allowed", "no AuditAccess of your seat covers this round")

    # ----------------------------------------------------------------------------------------------------------------
    # Notices

    def accept(self, notice: Notice, asker: Asker | None = None) -> bool:
        """Check, keep and pass on one notice; whether it was genuine and new. A bad one harms only itself.

        One about something that this node has not read of yet waits in memory, a few of each peer.
        """
        if isinstance(notice, OpeningNotice) and asker is not None:
            erasure = self._node.history.erasures.get(notice.batch)
            openers = 0 if erasure is None else openers_of(self._node.history, erasure)
            if asker.member is None or not openers >> asker.member & 1:
                return False
            if asker.member != notice.controller and notice.leaf_keys:
                return False  # the root does not bind them, and the hospital alone has them
        place = standing(notice, self._node.history)
        if place is Standing.WRONG:
            return False
        try:
            check(notice, self._node.history, self._node.domains)
            if place is Standing.EARLY:
                who = None if asker is None else asker.member
                self._early.setdefault(who, deque(maxlen=MAX_EARLY)).append(notice)
                return False
            if getattr(notice, "member", None) != self._node.me:
                note_contradiction(self._node.store, notice)
            if self._node.store.knows(notice):
                return False
            if place is Standing.EXTRA and asker is not None and not self._may_add(asker):
                return False
            if not isinstance(notice, WithdrawalNotice):
                self._node.store.remember(notice, own=False)
            self._deliver(notice)
        except NodeError:
            return False
        return True

    def _may_add(self, asker: Asker) -> bool:
        return self._extras.setdefault(asker.member, Bucket(EXTRA_PER_S, EXTRA_BURST, time.monotonic)).spend()

    def readmit(self) -> None:
        """Accept what came early and has its place by now; after the chain was read."""
        for waiting in self._early.values():
            for notice in list(waiting):
                if standing(notice, self._node.history) is not Standing.EARLY:
                    waiting.remove(notice)
                    self.accept(notice)

    def _pull(self, request: Pull) -> Reply:
        found = [n for n in self._node.store.notices(request.subject) if not isinstance(n, PRIVATE)]
        return Notices(tuple(found[:MAX_NOTICES]))


def _decided(included: int, codes: int) -> int:
    return included | sum(1 << i for i in range(MAX_MEMBERS) if codes >> 4 * i & 15)
