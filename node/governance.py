"""How members decide about members, and how a member changes its own keys: votes gathered as notices, then carried.

What may live here: the orders approve, remove, rotate, revoke, recover, seat an auditor and end its term, end a consent
of a hospital that left; and what follows when a peer's vote completes a quorum. What this file does not know: files,
passwords, who typed the order. A vote names the epoch, so one that comes too late decides nothing; it is kept before it
is sent, and may be ordered again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import structlog

from crypto.digest import ZERO, Digest
from crypto.keys import KeyRing
from crypto.statements import (
    Admit,
    EndAuditor,
    Keys,
    Recover,
    Remove,
    Revoke,
    Rotate,
    Seat,
    SeatAuditor,
    Statement,
    Succeed,
    WithdrawByQuorum,
    sign,
    struct_hash,
)
from node import issuers
from node.erasure import under_way
from node.errors import CallReverted, InputError, NotFound, Refused
from node.home import Network
from node.keystore import public_keys
from node.membership import FOUNDING_EPOCH, NOBODY, ROTATION_INTERVAL_S, Member
from node.messages import (
    AdmissionNotice,
    AuditorEndNotice,
    AuditorSeatNotice,
    LeftConsentNotice,
    Notice,
    RecoveryNotice,
    RemovalNotice,
    RevocationNotice,
    RotationNotice,
    SuccessionNotice,
)
from node.notices import Ballot, check, statement_of
from node.participant import Participant
from node.records import (
    Admission,
    AuditorEnding,
    AuditorSeating,
    Call,
    KeysInput,
    Logged,
    MemberRotated,
    QuorumWithdrawal,
    Recovery,
    Removal,
    Revocation,
    Rotation,
    SeatInput,
    Succession,
)
from node.store import notice_key

if TYPE_CHECKING:
    from node.app import Node

log = structlog.get_logger("governance")

RACED: Final = frozenset(
    "AlreadyWithdrawn BadSignature LedgerTaken NotActive NotOnRoster PeerTaken QuorumNotReached TermOver".split()
)
"""What the contract says when another node carried the same votes first."""

KINDS_OF_KEYS: Final = frozenset(("ledger", "sealing", "peer"))
GATHER_PAUSE_S: Final = 10
"""Chain time between two times of asking the peers for votes that are not here."""


class Governance:
    """The part of one node's desk that speaks for the member in the affairs of the network."""

    def __init__(self, participant: Participant, network: Network) -> None:
        self._node = participant
        self._network = network
        self._gathered = FOUNDING_EPOCH  # up to this epoch the store has the words that changed membership
        self._ask_at = 0
        self._open: dict[tuple[Digest, str, int], Ballot] = {}  # our votes that are not decided, by what they are about
        self._open_in = 0  # the epoch they are of; 0: not read from the store yet

    @property
    def _member(self) -> int:
        if self._node.me is None:
            raise Refused("this is an auditor's node: it reads and signs nothing for a member")
        return self._node.me

    @property
    def _epoch(self) -> int:
        return self._node.history.registry.epoch

    def _other(self, index: int) -> Member:
        member = self._node.history.registry.members.get(index)
        if member is None or member.removed is not None:
            raise NotFound(f"there is no member {index}")
        return member

    # ----------------------------------------------------------------------------------------------------------------
    # Votes

    async def approve(self, node: Node, application: dict[str, Any]) -> dict[str, Any]:
        """Vote to admit an applicant; the vote that completes the quorum carries all of them to the chain."""
        seat, hashed = _read_seat(application, "member")
        vote = Admit(self._epoch, seat.ledger, hashed)
        notice = AdmissionNotice(
            vote.epoch,
            seat.ledger,
            seat.peer_id,
            seat.sealing_key,
            seat.name,
            seat.signature,
            self._member,
            self._node.sign(vote),
        )
        return await self._vote(node, notice)

    async def remove(self, node: Node, index: int) -> dict[str, Any]:
        """Vote to remove a member for good."""
        member = self._other(index)
        ledger = NOBODY if member.revoked is not None else member.ledger
        vote = Remove(self._epoch, index, ledger)
        return await self._vote(node, RemovalNotice(vote.epoch, index, ledger, self._member, self._node.sign(vote)))

    async def revoke(self, node: Node, index: int) -> dict[str, Any]:
        """Vote to suspend a member's key at once."""
        member = self._other(index)
        if not member.active:
            raise NotFound(f"member {index} has no key that could be revoked")
        vote = Revoke(self._epoch, index, member.ledger)
        signature = self._node.sign(vote)
        return await self._vote(node, RevocationNotice(vote.epoch, index, member.ledger, self._member, signature))

    async def recover(self, node: Node, application: dict[str, Any]) -> dict[str, Any]:
        """Vote for the new keys of a member whose key is lost or revoked."""
        try:
            index = int(application["member"])
            keys = KeysInput(
                bytes.fromhex(application["ledger"]),
                bytes.fromhex(application["peer_id"]),
                bytes.fromhex(application["sealing_key"]),
                bytes.fromhex(application["signature"]),
            )
            statement = Keys(index, keys.ledger, keys.peer_id, Digest(keys.sealing_key))
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"not an application: {type(error).__name__}: {error}") from error
        self._other(index)
        vote = Recover(self._epoch, index, struct_hash(statement))
        notice = RecoveryNotice(
            vote.epoch,
            index,
            keys.ledger,
            keys.peer_id,
            keys.sealing_key,
            keys.signature,
            self._member,
            self._node.sign(vote),
        )
        return await self._vote(node, notice)

    async def seat_auditor(
        self, node: Node, application: dict[str, Any], study: Digest, term_end: int
    ) -> dict[str, Any]:
        """Vote to give an applicant an auditor's seat for a study (zero: every one) until `term_end` (unix seconds)."""
        if term_end <= node.now:
            raise InputError("the term of the seat ends in the past")
        if study != ZERO and study not in self._node.history.studies:
            raise NotFound(f"there is no study {study.hex()[:12]}")
        seat, hashed = _read_seat(application, "auditor")
        vote = SeatAuditor(self._epoch, seat.ledger, hashed, study, term_end)
        notice = AuditorSeatNotice(
            vote.epoch,
            seat.ledger,
            seat.peer_id,
            seat.sealing_key,
            seat.name,
            seat.signature,
            study,
            term_end,
            self._member,
            self._node.sign(vote),
        )
        return await self._vote(node, notice)

    async def end_auditor(self, node: Node, seat: int) -> dict[str, Any]:
        """Vote to end the term of an auditor's seat now."""
        auditor = self._node.history.registry.auditors.get(seat)
        if auditor is None or not auditor.sits(node.now):
            raise NotFound(f"there is no auditor in seat {seat}")
        vote = EndAuditor(self._epoch, seat, auditor.ledger)
        signature = self._node.sign(vote)
        return await self._vote(node, AuditorEndNotice(vote.epoch, seat, auditor.ledger, self._member, signature))

    async def withdraw_left(self, node: Node, hospital: int, consent: Digest) -> dict[str, Any]:
        """Vote to end a consent of a hospital that was removed, or whose key is revoked."""
        member = self._node.history.registry.members.get(hospital)
        if member is None:
            raise NotFound(f"there is no hospital {hospital}")
        if member.active:
            raise Refused(f"hospital {hospital} is active: it ends its patients' consents itself, or a card does")
        vote = WithdrawByQuorum(self._epoch, hospital, consent)
        signature = self._node.sign(vote)
        return await self._vote(node, LeftConsentNotice(vote.epoch, hospital, consent, self._member, signature))

    async def succeed(self, node: Node, successor: bytes) -> dict[str, Any]:
        """Vote to go on with the deployment whose Membership will lie at `successor`.

        Raises:
            Refused: an erasure is between its plan and its end; it ends where its rounds are replayed.
        """
        registry = self._node.history.registry
        if registry.successor == successor:
            return {"votes": [], "needed": registry.needed, "decided": True}
        for batch in under_way(self._node.history):
            raise Refused(
                f"erasure {batch.hex()[:16]} is planned and not closed: it is closed first, then the network moves"
            )
        vote = Succeed(self._epoch, successor)
        return await self._vote(node, SuccessionNotice(vote.epoch, successor, self._member, self._node.sign(vote)))

    async def _vote(self, node: Node, notice: Ballot) -> dict[str, Any]:
        ours = self._node.history.registry.members.get(notice.member)
        if ours is None or not ours.active:
            gone = "is not registered" if ours is None else "was removed" if ours.removed else "has no key that counts"
            raise Refused(f"member {notice.member} {gone}: it has no vote")
        check(notice, self._node.history, self._node.domains)
        registry = self._node.history.registry
        needed, active = registry.needed, registry.active  # of the vote's epoch: a peer may be first with the change
        await node.core(self._keep, notice)
        self._open[_about(notice)] = notice
        await node.offer(notice)
        await node.pull(notice_key(notice)[0])  # votes given while we were not connected
        return await self._carry_if_agreed(node, notice, needed, active, ordered=True)

    async def work(self, node: Node) -> None:
        """After a look at the chain: ask for what passed us by while we, or those who said it, were away."""
        if node.now < self._ask_at:
            return
        self._ask_at = node.now + GATHER_PAUSE_S
        await self._gather_open(node)
        await self._gather_decided(node)

    async def _gather_open(self, node: Node) -> None:
        """The others' votes on what we voted for: each is pushed once, and only whoever was connected has it."""
        if self._open_in != self._epoch:
            epoch = self._epoch
            self._open, self._open_in = await node.core(self._own_votes, epoch), epoch
        for (subject, _, _), vote in list(self._open.items()):
            await node.pull(subject)
            registry = self._node.history.registry
            if vote.epoch == registry.epoch:
                await self._carry_if_agreed(node, vote, registry.needed, registry.active, ordered=False)

    def _own_votes(self, epoch: int) -> dict[tuple[Digest, str, int], Ballot]:
        said = (one for kind in get_args(Ballot) for one in self._node.store.notices_of_kind(kind.__name__, own=True))
        return {_about(vote): vote for vote in said if isinstance(vote, Ballot) and vote.epoch == epoch}

    async def _gather_decided(self, node: Node) -> None:
        """The votes and rotations behind changes of membership.

        Whoever lacks them can follow the chain, and cannot show offline whose signatures count.
        """
        epoch = self._epoch
        if epoch == self._gathered:
            return
        lacking = await node.core(issuers.lacking, self._network, self._node.history, self._node.store)
        for subject in lacking:
            await node.pull(subject)
        if not lacking:
            self._gathered = epoch

    def _keep(self, notice: Notice) -> None:
        self._node.store.remember(notice, own=True)

    async def noticed(self, node: Node, notice: Notice) -> None:
        """A peer's vote: it may be the one that completes the quorum."""
        if isinstance(notice, Ballot):
            registry = self._node.history.registry
            await self._carry_if_agreed(node, notice, registry.needed, registry.active, ordered=False)

    async def _carry_if_agreed(
        self, node: Node, notice: Ballot, needed: int, active: int, *, ordered: bool
    ) -> dict[str, Any]:
        statement, kind = statement_of(notice), type(notice)
        votes = {
            one.member: one.signature
            for one in await node.core(self._node.store.notices, notice_key(notice)[0], kind.__name__)
            if isinstance(one, kind) and statement_of(one) == statement and active >> one.member & 1
        }
        decided = len(votes) >= needed
        if decided and notice.epoch == self._epoch:
            try:
                await node.send(call_of(notice, tuple(sorted(votes.items()))))
            except CallReverted as error:
                if ordered and error.error not in RACED:
                    raise Refused(error.message) from error
                log.info("decided already, or refused", vote=kind.__name__, error=error.message)
            self._open.pop(_about(notice), None)
        return {"votes": sorted(votes), "needed": needed, "decided": decided}

    # ----------------------------------------------------------------------------------------------------------------
    # Our own keys

    async def rotate(self, node: Node, kinds: Set[str], keep: Callable[[KeyRing], None]) -> tuple[KeyRing, int, bool]:
        """Put new keys in the place of ours. Broken off at any point and ordered again, it goes on with the same ones.

        Args:
            kinds: which keys are to change, of `KINDS_OF_KEYS`; keys that wait to be registered are what they are.
            keep: puts new keys on disk and among `participant.later`, before anybody hears of them.

        Returns: the keys, the epoch from which they count, and whether they were made by an earlier order.

        Raises:
            InputError: no kind of key is named.
            Refused: the contract does not take them, or ours changed in another way lately; it says why.
        """
        index = self._member
        new, resumed = await node.core(self._next, kinds, keep, node.now)
        if (since := self._since(new, ())) is not None:
            return new, since, resumed
        epoch = self._epoch
        keys = Keys(index, *_typed(new))
        own = sign(keys, self._node.domains.of(keys), new.ledger)
        rotation = Rotate(epoch, index, struct_hash(keys))
        signature = self._node.sign(rotation)
        notice = RotationNotice(epoch, index, keys.ledger, keys.peer_id, bytes(keys.sealing_key), own, signature)
        check(notice, self._node.history, self._node.domains)
        await node.core(self._keep, notice)
        await node.offer(notice)  # the offline proof of our later signatures needs it at every member
        given = KeysInput(keys.ledger, keys.peer_id, bytes(keys.sealing_key), own)
        try:
            await node.send(Rotation(index, given, signature))
        except CallReverted as error:
            # An earlier order got as far as this, and what it did is not read here yet, or not final.
            if (since := self._since(new, await node.unread())) is not None:
                return new, since, resumed
            raise Refused(error.message) from error
        return new, epoch + 1, resumed

    def _next(self, kinds: Set[str], keep: Callable[[KeyRing], None], now: int) -> tuple[KeyRing, bool]:
        """The keys that a rotation is about, and whether they were made before. One at a time: see `Node.core`."""
        if not kinds or not kinds <= KINDS_OF_KEYS:
            raise InputError(f"name at least one key to change, of {', '.join(sorted(KINDS_OF_KEYS))}")
        if (waiting := self.pending()) is not None:
            return waiting, True
        old = self._node.ring
        member = self._other(self._member)
        if not member.active:
            raise Refused(f"the key of member {member.index} is revoked: the others seat new ones (apply --recover)")
        newest = member.keys[-1]
        here = newest.since > self._node.history.registry.founding  # a later deployment counts the week anew
        if newest.rotated and here and now < (may := newest.at + ROTATION_INTERVAL_S):
            # Further keys could not be registered for days. Ordered in the same words, these are the answer.
            if changed_kinds(member) == kinds:
                return old, True
            when = datetime.fromtimestamp(may, UTC)
            raise Refused(f"member {member.index} changed its keys lately; it may again at {when:%Y-%m-%d %H:%M} UTC")
        fresh = KeyRing.generate()
        new = KeyRing(*(getattr(fresh if kind in kinds else old, kind) for kind in ("ledger", "sealing", "peer")))
        keep(new)
        return new, False

    def _since(self, ring: KeyRing, unread: Sequence[Logged]) -> int | None:
        """The epoch since when these are our keys: as the chain was read here, or by records not read yet."""
        wanted = public_keys(ring)
        for record in (one.record for one in reversed(unread)):
            if isinstance(record, MemberRotated) and record.index == self._node.me:
                return record.epoch if (record.ledger, record.peer_id, record.sealing_key) == wanted else None
        member = self._node.history.registry.members.get(self._member)
        if member is None or (member.ledger, member.peer_id, member.sealing_key) != wanted:
            return None
        return member.keys[-1].since

    def pending(self) -> KeyRing | None:
        """Keys that were made and are not registered yet: an earlier rotation or recovery did not get that far."""
        rings = self._node.rings
        newest = rings[-1]
        return newest if public_keys(newest) != public_keys(self._node.ring) else None


def _about(vote: Ballot) -> tuple[Digest, str, int]:
    """What a vote is about, whoever gives it: its subject, its kind and its epoch."""
    return notice_key(vote)[:3]


def changed_kinds(member: Member) -> set[str]:
    """Which kinds of its keys a member's newest change replaced."""
    before, after = member.keys[-2:]
    pairs = {
        "ledger": (before.ledger, after.ledger),
        "peer": (before.peer_id, after.peer_id),
        "sealing": (before.sealing_key, after.sealing_key),
    }
    return {kind for kind, (was, is_) in pairs.items() if was != is_}


def _read_seat(application: dict[str, Any], role: str) -> tuple[SeatInput, Digest]:
    """An application and the hash of the seat that its signature is for."""
    try:
        seat = SeatInput(
            bytes.fromhex(application["ledger"]),
            bytes.fromhex(application["peer_id"]),
            bytes.fromhex(application["sealing_key"]),
            str(application["name"]),
            bytes.fromhex(application["signature"]),
        )
        return seat, struct_hash(Seat(role, seat.peer_id, Digest(seat.sealing_key), seat.name))
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"not an application: {type(error).__name__}: {error}") from error


def _seat_of(vote: AdmissionNotice | AuditorSeatNotice) -> SeatInput:
    """The seat that a vote is about."""
    return SeatInput(vote.ledger, vote.peer_id, vote.sealing_key, vote.name, vote.seat_signature)


def _typed(ring: KeyRing) -> tuple[bytes, bytes, Digest]:
    ledger, peer_id, sealing = public_keys(ring)
    return ledger, peer_id, Digest(sealing)


def call_of(notice: Ballot, votes: tuple[tuple[int, bytes], ...]) -> Call:
    """The call that a quorum of these votes makes."""
    match notice:
        case AdmissionNotice():
            return Admission(_seat_of(notice), votes)
        case RemovalNotice():
            return Removal(notice.target, votes)
        case RevocationNotice():
            return Revocation(notice.target, votes)
        case RecoveryNotice():
            keys = KeysInput(notice.ledger, notice.peer_id, notice.sealing_key, notice.keys_signature)
            return Recovery(notice.target, keys, votes)
        case AuditorSeatNotice():
            return AuditorSeating(_seat_of(notice), notice.study, notice.term_end, votes)
        case AuditorEndNotice():
            return AuditorEnding(notice.seat, votes)
        case SuccessionNotice():
            return Succession(notice.ledger, votes)
        case LeftConsentNotice():
            return QuorumWithdrawal(notice.hospital, notice.consent_id, votes)


def recovery_statement(index: int, ring: KeyRing) -> Statement:
    """What the new keys of a member sign about themselves."""
    return Keys(index, *_typed(ring))


__all__ = ["Governance", "call_of", "recovery_statement"]
