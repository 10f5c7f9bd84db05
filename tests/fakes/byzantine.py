"""Members that break one rule each, through the real protocol: everything they send is encoded, signed and delivered.

A `Forger` changes what it commits to, a `LyingServer` what it answers, a `TwoFacedExchange` what it tells whom. A node
is armed with the last two after it was built; the first is used in place of `Participant`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from crypto.blobs import SetEntry, SetPlain, UpdatePlain, dataset_root, encode_set, encode_update
from crypto.commitments import update_root
from crypto.digest import Digest
from crypto.sealing import BlobCommit, BlobKind, seal, wrap
from crypto.statements import sign
from node.app import Node
from node.exchange import Exchange
from node.messages import CommitNotice, GetKey, HaveNotice, KeyReply, Notice, Refusal, Reply, Request, VoteNotice
from node.notices import commit_of, statement_of
from node.participant import Participant, TrainingJob
from node.records import ZERO
from node.round import SignedAbstain, SignedHave, SignedVote, SignHave, SignVote
from node.serving import Asker, Server
from node.training import LocalTraining


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

    def commit_to(self, update: UpdatePlain, chosen: SetPlain, round_id: Digest | None = None) -> CommitNotice:
        """Seal, sign and store a commit of ours to these plaintexts."""
        where = self.current if round_id is None else round_id
        assert self.me is not None
        sealed = [
            seal(encode_update(update), where, self.me, BlobKind.UPDATE),
            seal(encode_set(chosen), where, self.me, BlobKind.SET),
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
    node.participant.vault.delete_copy = lambda *consents: None


class WrongVote(Participant):
    """Votes for a model that nobody computed."""

    def sign_vote(self, round_id: Digest, order: SignVote) -> SignedVote:
        result = replace(order.result, model_root=Digest(b"\x66" * 32))
        notice = VoteNotice(round_id, self._member, order.attempt, order.set, result, Digest(bytes(32)), b"")
        return SignedVote(self._say_plain(notice))


class FalseHaves(Participant):
    """Says it holds whatever `claim` makes of what it holds."""

    claim: Callable[[int], int] = staticmethod(lambda bitmap: bitmap)  # type: ignore[assignment]

    def sign_have(self, round_id: Digest, order: SignHave) -> SignedHave:
        bitmap = type(self).claim(order.bitmap)
        return SignedHave(self._say_plain(HaveNotice(round_id, self._member, order.attempt, bitmap, b"")))


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


class LyingServer(Server):
    """Answers key requests about its own blobs with `answer_key` when they come from one of `victims`."""

    victims: Collection[int] = ()

    def wrong(self, asker: Asker, request: GetKey) -> Reply:
        """The lie."""
        return Refusal("not-found", "the key is not here")

    def _key(self, asker: Asker, request: GetKey, now: int) -> Reply:
        truth = super()._key(asker, request, now)
        lies = request.member == self._node.me and (asker.member in self.victims or not self.victims)
        return self.wrong(asker, request) if lies and isinstance(truth, KeyReply) else truth


class Unserving(LyingServer):
    """Serves nothing that concerns its own contribution, to nobody."""

    def answer(self, peer_id: bytes, request: Request, now: int) -> Reply:
        reply = super().answer(peer_id, request, now)
        return Refusal("not-found", "no") if isinstance(request, GetKey) and request.member == self._node.me else reply


class OtherKey(LyingServer):
    """Wraps a well-formed key that is not the committed one."""

    def wrong(self, asker: Asker, request: GetKey) -> Reply:
        return KeyReply(
            wrap(os.urandom(32), asker.sealing_key, request.round_id, request.member, BlobKind(request.kind))
        )


class GarbageWrap(LyingServer):
    """Sends bytes of the right length that nobody can open."""

    def wrong(self, asker: Asker, request: GetKey) -> Reply:
        honest = wrap(os.urandom(32), asker.sealing_key, request.round_id, request.member, BlobKind(request.kind))
        return KeyReply(os.urandom(len(honest)))


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


def signed(participant: Participant, notice: Any) -> Any:
    """The notice with this member's genuine signature."""
    statement = statement_of(notice)
    assert statement is not None
    return replace(notice, signature=sign(statement, participant.domains.of(statement), participant.ring.ledger))
