"""Members that break one rule each, through the real protocol: everything they send is encoded, signed and delivered.

A `Forger` changes what it commits to, a `LyingServer` what it answers, a `TwoFacedExchange` what it tells whom, a
`censor` what it carries to the chain. A node is armed with all but the first after it was built; the first is used in
place of `Participant`. A `programme` of forgers or of servers is one member that breaks another rule in every round.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from crypto.blobs import (
    MAX_SET_ENTRIES,
    MAX_VALUES,
    SET_MAGIC,
    SetEntry,
    SetPlain,
    UpdatePlain,
    dataset_root,
    encode_set,
    encode_update,
)
from crypto.commitments import update_root
from crypto.digest import CHUNK_BYTES, MAX_CONTENT_BYTES, Digest, content_root
from crypto.packing import pack
from crypto.sealing import BlobCommit, BlobKind, Sealed, seal, wrap
from crypto.statements import sign
from node.app import Node
from node.exchange import Exchange
from node.messages import (
    ChunkReply,
    CommitNotice,
    GetKeys,
    HaveNotice,
    KeysReply,
    MapReply,
    Notice,
    Notices,
    Pull,
    Refusal,
    Reply,
    Request,
    VoteNotice,
    Welcome,
)
from node.notices import commit_of, statement_of
from node.participant import Participant, TrainingJob
from node.records import ZERO
from node.round import Effect, Post, PostResult, SignedAbstain, SignedHave, SignedVote, SignHave, SignVote
from node.round import Sent as Done
from node.serving import Asker, Server
from node.training import LocalTraining
from node.wire import MAX_NOTICES


class Forger(Participant):
    """A member whose contribution passes through `forge` before it is sealed."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        """What it commits to in place of the truth."""
        return update, chosen

    def alter(self, update: BlobCommit, chosen: BlobCommit) -> tuple[BlobCommit, BlobCommit]:
        """What it says the blobs are."""
        return update, chosen

    def tree(self, chosen: SetPlain) -> Digest:
        """The data set root it commits to."""
        return dataset_root(chosen.entries)

    def seal(self, job: TrainingJob, trained: LocalTraining) -> Any:
        """Nothing yet: what is sealed is forged first."""
        return trained

    def discard(self, sealed: Any) -> None:
        """Nothing was sealed."""

    def commit(self, job: TrainingJob, trained: Any) -> CommitNotice:
        """As an honest member commits, but to the forged plaintexts."""
        return self.commit_to(*self.forge(*self.truth(job, trained)))

    def truth(self, job: TrainingJob, trained: LocalTraining) -> tuple[UpdatePlain, SetPlain]:
        """What an honest member would seal."""
        entries = tuple(leaf.entry(job.arithmetic.study["policy", "max_records_per_consent"]) for leaf in job.leaves)
        salt = Digest(os.urandom(32))
        update = UpdatePlain(job.round_id, job.member, trained.records, trained.profile, salt, b"{}", trained.values)
        return update, SetPlain(job.round_id, job.member, Digest(os.urandom(32)), entries)

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        """The bytes that it seals."""
        return encode_update(update), encode_set(chosen)

    def spoil(self, sealed: Sealed) -> Sealed:
        """What becomes of a sealed blob before it is committed to."""
        return sealed

    def commit_to(self, update: UpdatePlain, chosen: SetPlain, round_id: Digest | None = None) -> CommitNotice:
        """Seal, sign and store a commit of ours to these plaintexts."""
        where = self.current if round_id is None else round_id
        assert self.me is not None
        me, plain = self.me, self.plaintexts(update, chosen)
        sealed = [
            self.spoil(seal(data, where, me, kind))
            for data, kind in zip(plain, (BlobKind.UPDATE, BlobKind.SET), strict=True)
        ]
        for one in sealed:
            self.store.put("cipher", one.ciphertext)
        commits = self.alter(sealed[0].commit, sealed[1].commit)
        root = update_root(where, self.me, commits[0].hash, commits[1].hash)
        notice = CommitNotice(where, self.me, root, self.tree(chosen), ZERO, *commits, b"")
        with self.store.transaction():
            for kind, one in zip((BlobKind.UPDATE, BlobKind.SET), sealed, strict=True):
                self.store.put_key(where, self.me, kind, one.key)
            return self._say(notice, commit_of(notice))

    def prepare(self, round_id: Digest, generation: int) -> TrainingJob | None:
        """Remember which round this is: the forged plaintext may name another."""
        self.current = round_id
        return super().prepare(round_id, generation)

    current: Digest = ZERO


class BeyondTheGrid(Forger):
    """One integer that no honest training can give."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        values = np.frombuffer(update.values, "<i4").copy()
        values[-1] = np.iinfo(np.int32).max
        return replace(update, values=values.tobytes()), chosen


class TooManyIntegers(Forger):
    """A parameter more than the model has."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        return replace(update, values=update.values + b"\0\0\0\0"), chosen


class Heavy(Forger):
    """Claims a thousand times its records, to outweigh the others."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        return replace(update, records=1000 * update.records), chosen


class Copyist(Forger):
    """Hands in a plaintext that was made by, and for, somebody else."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        return replace(update, member=0), chosen


class OtherTree(Forger):
    """Seals fewer leaves than the data set root it commits to has."""

    full: tuple[SetEntry, ...] = ()

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        self.full = chosen.entries
        return update, replace(chosen, entries=chosen.entries[:-1])

    def tree(self, chosen: SetPlain) -> Digest:
        return dataset_root(self.full)


class WrongPlainHash(Forger):
    """Commits to another plaintext than its ciphertext has."""

    def alter(self, update: BlobCommit, chosen: BlobCommit) -> tuple[BlobCommit, BlobCommit]:
        return replace(update, plain_hash=Digest(os.urandom(32))), chosen


class MintedRecords(Forger):
    """More records of one consent than the study allows, in set and update alike."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        grown = replace(chosen.entries[0], records=1_000_000)
        more = update.records - chosen.entries[0].records + 1_000_000
        self.full = (grown, *chosen.entries[1:])
        return replace(update, records=more), replace(chosen, entries=self.full)

    full: tuple[SetEntry, ...] = ()

    def tree(self, chosen: SetPlain) -> Digest:
        return dataset_root(self.full)


class OthersConsents(Forger):
    """Trains, as it says, on the patients of another hospital, whose set it saw in the round before."""

    full: tuple[SetEntry, ...] = ()

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        notice = next(
            n
            for n in self.store.notices(_before(self), "CommitNotice")
            if isinstance(n, CommitNotice) and n.member == 0
        )
        self.full = self.open_set(notice).entries
        return replace(update, records=sum(one.records for one in self.full)), replace(chosen, entries=self.full)

    def tree(self, chosen: SetPlain) -> Digest:
        return dataset_root(self.full)


def _before(member: Forger) -> Digest:
    """The round before the present one."""
    opened = member.history.rounds[member.current].opened
    branch = member.history.studies[opened.study].branches[opened.branch]
    return branch.rounds[opened.height - 1]


class Garbage(Forger):
    """Seals noise, well."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        return os.urandom(1000), os.urandom(1000)


class GarbageCiphertext(Forger):
    """Commits to noise that no key opens."""

    def spoil(self, sealed: Sealed) -> Sealed:
        noise = os.urandom(len(sealed.ciphertext))
        return replace(
            sealed, ciphertext=noise, commit=replace(sealed.commit, cipher_root=content_root("cipher", noise))
        )


class Announces(Forger):
    """Announces as many integers as may be, and sends few: a reader that believes it allocates 512 MiB."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        honest, packed = encode_update(update), pack(update.values)
        at = len(honest) - len(packed) - 8
        return honest[:at] + MAX_VALUES.to_bytes(8, "big") + packed, encode_set(chosen)


class AnnouncesLeaves(Forger):
    """Announces as many leaves as may be, and sends few."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        head, leaves = _parts(encode_set(chosen), len(chosen.entries))
        return encode_update(update), head[:-4] + MAX_SET_ENTRIES.to_bytes(4, "big") + b"".join(leaves)


class Padded(Forger):
    """A set of 40 MB, although the chain has a handful of its consents."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        return encode_update(update), encode_set(chosen) + bytes(40_000_000)


class SwapsLeaves(Forger):
    """Two leaves out of order: a tree of the same leaves that nobody else would build."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        head, leaves = _parts(encode_set(chosen), len(chosen.entries))
        return encode_update(update), head + b"".join([leaves[1], leaves[0], *leaves[2:]])


class RepeatsLeaf(Forger):
    """The first leaf twice, counted twice."""

    def plaintexts(self, update: UpdatePlain, chosen: SetPlain) -> tuple[bytes, bytes]:
        head, leaves = _parts(encode_set(chosen), len(chosen.entries))
        more = replace(update, records=update.records + chosen.entries[0].records)
        count = (len(leaves) + 1).to_bytes(4, "big")
        return encode_update(more), head[:-4] + count + b"".join([leaves[0], *leaves])


def _parts(data: bytes, count: int) -> tuple[bytes, list[bytes]]:
    """Head and leaves of an encoded set whose consents have grants of their own: such leaves are equally long."""
    head = len(SET_MAGIC) + 32 + 2 + 32 + 4
    size = (len(data) - head) // count
    assert head + size * count == len(data)
    return data[:head], [data[at : at + size] for at in range(head, len(data), size)]


class DeepMetrics(Forger):
    """Metrics that a careless reader recurses into until its stack ends."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        deep = 20_000
        return replace(update, metrics=b'{"a":' + b"[" * deep + b"]" * deep + b"}"), chosen


class NoLeaves(Forger):
    """An update that stands on nobody's record."""

    def forge(self, update: UpdatePlain, chosen: SetPlain) -> tuple[UpdatePlain, SetPlain]:
        return replace(update, records=0), replace(chosen, entries=())

    def tree(self, chosen: SetPlain) -> Digest:
        return dataset_root(())


class Replayer(Forger):
    """Commits to the very blobs that it committed to in the round before."""

    def commit(self, job: TrainingJob, trained: LocalTraining) -> CommitNotice:
        said = self.store.notices(_before(self), "CommitNotice")
        return _recommit(self, next(n for n in said if isinstance(n, CommitNotice) and n.member == self.me))


class Thief(Forger):
    """Commits to another member's blobs of this round, which it cannot open yet."""

    def commit(self, job: TrainingJob, trained: LocalTraining) -> CommitNotice:
        said = self.store.notices(job.round_id, "CommitNotice")
        theirs = [n for n in said if isinstance(n, CommitNotice) and n.member != self.me]
        if not theirs:
            raise OSError("nothing to steal yet")
        return _recommit(self, theirs[0])


def _recommit(liar: Forger, old: CommitNotice) -> CommitNotice:
    assert liar.me is not None
    root = update_root(liar.current, liar.me, old.update.hash, old.set.hash)
    notice = CommitNotice(liar.current, liar.me, root, old.dataset_root, ZERO, old.update, old.set, b"")
    return liar._say(notice, commit_of(notice))


def programme(*acts: type[Forger]) -> type[Forger]:
    """One member that does in round 1 what the first class does, in round 2 what the second does, and so on."""

    class Programme(Forger):
        def commit(self, job: TrainingJob, trained: LocalTraining) -> CommitNotice:
            height = self.history.rounds[job.round_id].opened.height
            self.__class__ = acts[height - 1]  # type: ignore[assignment]
            try:
                return self.commit(job, trained)
            finally:
                self.__class__ = Programme  # type: ignore[assignment]

    return Programme


class KeepsWithdrawn(Participant):
    """Goes on using records whose consent was withdrawn, here or on the chain."""

    def end_consent(self, consent_id: Digest, at: int) -> bool:
        return False

    def withdrawn(self, consent_id: Digest) -> bool:
        return False

    def prepare(self, round_id: Digest, generation: int) -> TrainingJob | None:
        withdrawals, self.history.withdrawals = self.history.withdrawals, {}
        try:
            return super().prepare(round_id, generation)
        finally:
            self.history.withdrawals = withdrawals


def keeps_copies(node: Any) -> None:
    """Arms a node so that no withdrawal takes a copy from its vault."""
    node.participant.vault.delete_copy = lambda *consents: 0


class WrongVote(Participant):
    """Votes for a model that nobody computed."""

    def sign_vote(self, round_id: Digest, order: SignVote) -> SignedVote:
        result = replace(order.result, model_root=Digest(b"\x66" * 32))
        notice = VoteNotice(round_id, self._member, order.attempt, order.set, result, Digest(bytes(32)), b"")
        return SignedVote(self.say(notice))


class FalseHaves(Participant):
    """Says it holds whatever `claim` makes of what it holds."""

    claim: Callable[[int], int] = staticmethod(lambda bitmap: bitmap)  # type: ignore[assignment]

    def sign_have(self, round_id: Digest, order: SignHave) -> SignedHave:
        bitmap = type(self).claim(order.bitmap)
        return SignedHave(self.say(HaveNotice(round_id, self._member, order.attempt, bitmap, b"")))


class HavesNothing(FalseHaves):
    """Denies everything."""

    claim = staticmethod(lambda bitmap: 0)  # type: ignore[assignment]


class HavesEverything(FalseHaves):
    """Claims the whole roster, and members that do not exist."""

    claim = staticmethod(lambda bitmap: 0xFFFFFFFF)  # type: ignore[assignment]


class Mute(Participant):
    """Trains, and then says nothing: neither commit nor abstention."""

    def commit(self, job: TrainingJob, trained: LocalTraining) -> CommitNotice:
        raise OSError("a mute member")

    def sign_abstain(self, round_id: Digest) -> SignedAbstain:
        raise OSError("a mute member")


# --------------------------------------------------------------------------------------------------------------------
# What it answers


def wraps(asker: Asker, request: GetKeys, key: Callable[[BlobKind], Any]) -> tuple[bytes, ...]:
    """A wrap of `key(kind)` for each kind that is asked for."""
    return tuple(
        wrap(key(kind), asker.sealing_key, request.round_id, request.member, kind)
        for kind in BlobKind
        if request.kinds >> kind & 1
    )


class LyingServer(Server):
    """Answers key requests about its own blobs with `answer_key` when they come from one of `victims`."""

    victims: Collection[int] = ()

    def wrong(self, asker: Asker, request: GetKeys) -> Reply:
        """The lie."""
        return Refusal("not-found", "the key is not here")

    def _keys(self, asker: Asker, request: GetKeys, now: int) -> Reply:
        truth = super()._keys(asker, request, now)
        lies = request.member == self._node.me and (asker.member in self.victims or not self.victims)
        return self.wrong(asker, request) if lies and isinstance(truth, KeysReply) else truth


class Unserving(LyingServer):
    """Serves nothing that concerns its own contribution, to nobody."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        reply = super().answer(peer_id, request, now)
        return Refusal("not-found", "no") if isinstance(request, GetKeys) and request.member == self._node.me else reply


class OtherKey(LyingServer):
    """Wraps a well-formed key that is not the committed one."""

    def wrong(self, asker: Asker, request: GetKeys) -> Reply:
        return KeysReply(wraps(asker, request, lambda kind: os.urandom(32)))


class GarbageWrap(LyingServer):
    """Sends bytes of the right length that nobody can open."""

    def wrong(self, asker: Asker, request: GetKeys) -> Reply:
        honest = wraps(asker, request, lambda kind: os.urandom(32))
        return KeysReply(tuple(os.urandom(len(one)) for one in honest))


class HandsOnOthersKeys(LyingServer):
    """Wraps, as the key of its own blob, the key of whoever's blob it committed to: of another member or round."""

    def _keys(self, asker: Asker, request: GetKeys, now: int) -> Reply:
        node = self._node
        commits = [n for n in node.store.notices_of_kind("CommitNotice") if isinstance(n, CommitNotice)]
        mine = next((n for n in commits if (n.round_id, n.member) == (request.round_id, node.me)), None)
        for other in commits if mine is not None and request.member == node.me else []:
            keys = {kind: node.store.key(other.round_id, other.member, kind) for kind in BlobKind}
            if mine is not None and other is not mine and other.update == mine.update and all(keys.values()):
                return KeysReply(wraps(asker, request, lambda kind, keys=keys: keys[kind]))
        return super()._keys(asker, request, now)


class SpoiledChunks(LyingServer):
    """Answers the victims' requests for content with noise of the right length, under the right map."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        reply = super().answer(peer_id, request, now)
        asker = self._asker(peer_id, now)
        if asker is not None and asker.member in self.victims:
            if isinstance(reply, MapReply):
                return replace(reply, first=os.urandom(len(reply.first)))
            if isinstance(reply, ChunkReply):
                return ChunkReply(os.urandom(len(reply.data)))
        return reply


class WrongMap(LyingServer):
    """Answers the victims' requests for a content's map with another map, well formed, of 2 GiB."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        reply = super().answer(peer_id, request, now)
        asker = self._asker(peer_id, now)
        if isinstance(reply, MapReply) and asker is not None and asker.member in self.victims:
            return MapReply(MAX_CONTENT_BYTES, (os.urandom(32),) * (MAX_CONTENT_BYTES // CHUNK_BYTES), b"")
        return reply


class LateReveal(LyingServer):
    """Gives no key of its own before the last second in which it may be of use."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        if isinstance(request, GetKeys) and request.member == self._node.me:
            machine = self._node.rounds.get(request.round_id)
            deadline = None if machine is None else machine.phase(now).deadline
            if deadline is not None and now < deadline:
                return Refusal("not-yet", "soon")
        return super().answer(peer_id, request, now)


class OtherReply(LyingServer):
    """Answers what was not asked."""

    def wrong(self, asker: Asker, request: GetKeys) -> Reply:
        return Welcome(0, "hello")


class JunkNotices(LyingServer):
    """Answers a Pull with as many notices as fit, of the right round, signed by nobody."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        reply = super().answer(peer_id, request, now)
        if isinstance(request, Pull) and isinstance(reply, Notices):
            junk = tuple(HaveNotice(request.subject, 0, 1, n, os.urandom(65)) for n in range(MAX_NOTICES))
            return Notices((*reply.notices, *junk)[:MAX_NOTICES])
        return reply


def serving_programme(*acts: type[LyingServer]) -> type[LyingServer]:
    """A server that behaves like the first class while round 1 is the newest, then like the second, and so on."""

    class Programme(LyingServer):
        def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
            height = max((one.opened.height for one in self._node.history.rounds.values()), default=1)
            self.__class__ = acts[min(height, len(acts)) - 1]  # type: ignore[assignment]
            try:
                return self.answer(peer_id, request, now)
            finally:
                self.__class__ = Programme  # type: ignore[assignment]

    return Programme


def serve_with(kind: type[LyingServer], *victims: int) -> Callable[[Node], None]:
    """Arms a node with a lying server."""

    def arm(node: Any) -> None:
        server = kind(node.participant, node._deliver, lambda: "following")
        server.victims = victims
        node._server = server

    return arm


# --------------------------------------------------------------------------------------------------------------------
# What it tells whom


class TwoFacedExchange(Exchange):
    """Tells `victims` something else than the others: `face` makes the second version of our own notices."""

    victims: Collection[int] = ()
    face: Callable[[Notice], Notice] = staticmethod(lambda notice: notice)  # type: ignore[assignment]

    async def offer(self, notice: Notice, peers: Iterable[bytes] | None = None) -> int:
        if peers is not None or getattr(notice, "member", None) != self._node.me:
            return await super().offer(notice, peers)
        chosen = {self.peer_of(m) for m in self.victims}
        other = await self._run(self.face, notice)
        told = await super().offer(other, chosen)
        return told + await super().offer(notice, [peer for peer in self.everyone() if peer not in chosen])


def speak_with(face: Callable[[Participant, Notice], Notice], *victims: int) -> Callable[[Node], None]:
    """Arms a node with a second face towards the victims."""

    def arm(node: Any) -> None:
        exchange = TwoFacedExchange(node._transport, node.participant, node._core)
        exchange.victims = victims
        exchange.face = lambda notice: face(node.participant, notice)  # type: ignore[method-assign]
        node._exchange = exchange

    return arm


def second_commit(participant: Participant, notice: Notice) -> Notice:
    """Another commit to another set blob for the same round, with a genuine signature."""
    if not isinstance(notice, CommitNotice):
        return notice
    plain = participant.open_set(notice)
    other = seal(encode_set(plain), notice.round_id, notice.member, BlobKind.SET)
    participant.store.put("cipher", other.ciphertext)
    root = update_root(notice.round_id, notice.member, notice.update.hash, other.commit.hash)
    return signed(participant, replace(notice, update_root=root, set=other.commit))  # type: ignore[no-any-return]


def second_have(participant: Participant, notice: Notice) -> Notice:
    """Another have for the same attempt: of itself alone."""
    if not isinstance(notice, HaveNotice):
        return notice
    return signed(participant, replace(notice, bitmap=1 << notice.member))  # type: ignore[no-any-return]


def second_vote(participant: Participant, notice: Notice) -> Notice:
    """Another vote for the same attempt: for a model that nobody computed."""
    if not isinstance(notice, VoteNotice):
        return notice
    result = replace(notice.result, model_root=Digest(b"\x66" * 32))
    return signed(participant, replace(notice, result=result))  # type: ignore[no-any-return]


def second_of_everything(participant: Participant, notice: Notice) -> Notice:
    """Two commits, two haves, two votes."""
    for face in (second_commit, second_have, second_vote):
        notice = face(participant, notice)
    return notice


# --------------------------------------------------------------------------------------------------------------------
# What it carries to the chain


def censor(victim: int) -> Callable[[Node], None]:
    """Arms a node so that it leaves a member out of all it carries, in the last second, among junk, and no result."""

    def arm(node: Any) -> None:
        honest = node._post

        async def post(round_id: Digest, effect: Effect) -> Any:
            if isinstance(effect, PostResult):
                raise OSError("no result from me")
            if isinstance(effect, Post):
                machine = node.participant.rounds[round_id]
                deadline = machine.phase(node.now).deadline
                if deadline is not None and node.now < deadline - 1:
                    raise OSError("not before the last second")
                chosen = [n for n in effect.notices if n.member != victim]
                junk = [replace(n, signature=os.urandom(65)) for n in effect.notices]
                nobody = [replace(n, member=31) for n in effect.notices]
                await honest(round_id, replace(effect, notices=(*junk, *chosen, *chosen, *nobody)))
                return (Done(effect),)
            return await honest(round_id, effect)

        node._post = post

    return arm


def signed(participant: Participant, notice: Any) -> Any:
    """The notice with this member's genuine signature."""
    statement = statement_of(notice)
    assert statement is not None
    return replace(notice, signature=sign(statement, participant.domains.of(statement), participant.ring.ledger))
