"""Who takes part: the roster's arithmetic, and the registry of members and auditors folded from the chain's records.

What may live here: pure functions of member sets (bitmaps by member index), and one projection that takes Membership's
records in order. What this file does not know: keys' secrets, connections, the chain, the clock.

The numbers are the contracts' (`contracts/libraries/Quorum.sol`); every node and the chain compute the same ones:

    n                          2  3  4  5  6  7  10
    faults(n, wished >= f)     0  0  1  1  1  2   3
    quorum(n, f)               2  2  3  4  4  5   7
    slack(n, f)                0  1  1  1  1  2   3
    holders(f)                 2  2  2  2  2  3   4

Below four members f is 0: crash tolerance only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from crypto import digest
from crypto.digest import Digest, hash_words, keccak256
from node.errors import LedgerError
from node.records import (
    MAX_MEMBERS,
    ZERO,
    AddressAnnounced,
    AuditOpened,
    AuditorEnded,
    AuditorSeated,
    LogAnchored,
    MemberAdmitted,
    MemberRecovered,
    MemberRemoved,
    MemberRevoked,
    MemberRotated,
    NetworkSucceeded,
    Record,
)

LAST_CHANCES: Final = 3
"""Heights of a replay in a row without a model with which it is given up."""

MembershipRecord = (
    MemberAdmitted
    | MemberRemoved
    | MemberRotated
    | MemberRevoked
    | MemberRecovered
    | AuditorSeated
    | AuditorEnded
    | NetworkSucceeded
    | LogAnchored
    | AddressAnnounced
    | AuditOpened
)
"""What Membership emits."""

FOUNDING_EPOCH = 1
"""Epoch of the first deployment's founding."""

NOBODY = bytes(19) + b"\1"
"""Stands where a revoked key stood (library RosterCode): no key has this address."""

ROTATION_INTERVAL_S = 7 * 86_400
"""A member changes its own keys no oftener (contracts/Membership.sol)."""

# --------------------------------------------------------------------------------------------------------------------
# Rosters


def members_of(bitmap: int) -> Iterator[int]:
    """The member indexes in a bitmap, ascending."""
    while bitmap:
        low = bitmap & -bitmap
        yield low.bit_length() - 1
        bitmap ^= low


def bitmap_of(members: Iterable[int]) -> int:
    """The bitmap of member indexes."""
    bitmap = 0
    for member in members:
        bitmap |= 1 << member
    return bitmap


def faults(n: int, wished: int) -> int:
    """Faulty members a roster of `n` bears when its study wishes for `wished`: never more than (n-1)/3."""
    return min(wished, (n - 1) // 3) if n > 0 else 0


def quorum(n: int, f: int) -> int:
    """Equal votes that decide. Two quorums share more than f members; the members that are not faulty form one."""
    return (n + f) // 2 + 1


def slack(n: int, f: int) -> int:
    """Members that may stay silent before a step stops waiting for them: f, but one of three."""
    return 1 if n == 3 else f


def holders(f: int) -> int:
    """Members that must say they hold a blob before it counts as available: one of them honest, and never one alone."""
    return max(f + 1, 2)


def least_included(n: int, f: int, wished: int) -> int:
    """The fewest commitments a round of `n` goes on with; `wished` is the study's figure, zero: all but the slack."""
    return wished or n - slack(n, f)


def available(haves: Iterable[int], sealed: int, f: int) -> int:
    """The included set: the members of `sealed` that at least `holders(f)` of these bitmaps name."""
    stated = list(haves)
    return bitmap_of(i for i in members_of(sealed) if sum(have >> i & 1 for have in stated) >= holders(f))


def scribes(roster: int, suspended: int, height: int) -> tuple[int, ...]:
    """Who carries statements to the chain at this height: the scribe first, then the fall-backs in their order.

    The duty rotates by height over the members that are not suspended; those that are come last. Empty for no roster.
    """
    ordered: list[int] = []
    for group in (tuple(members_of(roster & ~suspended)), tuple(members_of(roster & suspended))):
        start = height % len(group) if group else 0
        ordered += group[start:] + group[:start]
    return tuple(ordered)


# --------------------------------------------------------------------------------------------------------------------
# Accumulators

_DYNAMIC = frozenset({"peer_id", "name", "multiaddress"})
"""Fields that are `bytes` or `string` in Solidity: the record hash takes their keccak256. All others are one word."""


def record_hash(record: Record) -> Digest:
    """keccak256(abi.encode(TAG("record-" + event in kebab case), fields in order)); dynamic ones hashed, lists packed.

    For the records of Membership, ConsentRegistry and UnlearningRegistry; TrainingLedger has no accumulator, its rounds
    are chained by their ids.
    """
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(record).__name__).lower()
    return hash_words(f"record-{name}", *(_word(field.name, getattr(record, field.name)) for field in fields(record)))


def _word(name: str, value: int | bytes | str | tuple[bytes, ...]) -> int | bytes:
    if isinstance(value, tuple):
        return keccak256(b"".join(value))
    if isinstance(value, str):
        return keccak256(value.encode())
    return keccak256(value) if name in _DYNAMIC and isinstance(value, bytes) else value


def accumulate(accumulator: bytes, record: Record) -> Digest:
    """A registry's accumulator after `record`, as the contract keeps it."""
    return digest.accumulate(accumulator, record_hash(record))


# --------------------------------------------------------------------------------------------------------------------
# The registry


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys a member had for a while, and how they came and went.

    `since` and `until` are epochs, `until` is exclusive and None for the keys it has. `at` and `ended_at` are the block
    times of the changes, zero at an admission. `rotated`: they came by the member's own word, so that keys before them
    and after them vouch for each other. `revoked`: they went because the others took them away.
    """

    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    since: int
    at: int = 0
    rotated: bool = False
    until: int | None = None
    ended_at: int = 0
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One member as registered. Its index is never given to another, also after its removal."""

    index: int
    ledger: bytes  # 20-byte address
    peer_id: bytes  # libp2p peer id, multihash bytes
    sealing_key: bytes  # X25519 public key, 32 bytes
    name: str
    admitted: int  # epoch
    removed: int | None = None  # epoch; None while not removed
    revoked: int | None = None  # epoch in which its key was revoked; None when it was not, or has been replaced
    keys: tuple[Keys, ...] = ()  # all it ever had, in order

    @property
    def active(self) -> bool:
        """Whether it takes part: not removed, its key not revoked."""
        return self.removed is None and self.revoked is None

    def ledger_at(self, epoch: int) -> bytes | None:
        """The ledger address it had in this epoch, also after removal; None before admission and while revoked."""
        for one in reversed(self.keys):
            if one.since <= epoch:
                return one.ledger if one.until is None or epoch < one.until else None
        return None

    def ledgers(self, *, past: bool = False, since: int = 0) -> tuple[bytes, ...]:
        """Addresses that speak for it: keys that were not taken from it, the newest first.

        Args:
            past: also those that were; what they signed before stands in the records.
            since: not those it had given up before this block time.
        """
        return tuple(
            one.ledger
            for one in reversed(self.keys)
            if (past or not one.revoked) and (one.until is None or one.ended_at >= since)
        )


@dataclass(frozen=True, slots=True)
class Auditor:
    """One auditor's seat: keys and a term, no bit in any roster and no vote."""

    seat: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    name: str
    study: Digest  # zero: every study of the network
    term_end: int  # unix seconds, zero: no end
    voted_end: int  # what the votes for the seat named; a term that is ended early leaves it
    seated: int  # epoch

    def sits(self, at: int) -> bool:
        """Whether its term has not ended at this block time."""
        return self.term_end == 0 or at < self.term_end

    def serves(self, study: bytes, at: int) -> bool:
        """Whether the seat is for this study and its term has not ended at this block time."""
        return self.study in (ZERO, study) and self.sits(at)


class Registry:
    """Membership's state, from its records in the order the chain gave them.

    Attributes:
        members: every member ever admitted, by index.
        auditors: every seat ever given, by seat number.
        epoch: the epoch of the last change.
        openings: (member, auditor's seat, study) that the member opened to the seat, in any deployment.
        announced: member -> the number and text of the address it announced last.
        logged: entries of each member's own log that are under anchored roots.
        replaced: the epoch of the last revocation or recovery, which changed keys for open rounds too.
        accumulator: equal to Membership.accumulator() if and only if no record was hidden, added or reordered.
        founding: the epoch in which the present deployment seated its founders.
        successor: Membership of the deployment that the members go on with; None while they stay.
        foundings: for each deployment the members and auditors that it was founded with, by index and seat.
    """

    def __init__(self) -> None:
        """A registry before the first record."""
        self.members: dict[int, Member] = {}
        self.auditors: dict[int, Auditor] = {}
        self.epoch = 0
        self.replaced = 0
        self.logged: dict[int, int] = {}
        self.openings: set[tuple[int, int, Digest]] = set()
        self.announced: dict[int, tuple[int, str]] = {}
        self.accumulator = ZERO
        self.successor: bytes | None = None
        self.successions: list[tuple[int, bytes]] = []  # (epoch, successor): every vote for one
        self.foundings: list[tuple[dict[int, MemberAdmitted], dict[int, AuditorSeated]]] = [({}, {})]
        self.founding = FOUNDING_EPOCH

    def refound(self) -> None:
        """Go on with the successor's records: it seats everybody who takes part again, in one epoch."""
        self.accumulator, self.successor, self.founding = ZERO, None, self.epoch + 1
        self.foundings.append(({}, {}))

    def apply(self, record: MembershipRecord) -> None:
        """Take the next record; `LedgerError` for one that Membership cannot have emitted, and nothing changes then."""
        if isinstance(record, LogAnchored):
            if record.member not in self.members or record.entries <= self.logged.get(record.member, 0):
                raise LedgerError(f"member {record.member} anchors {record.entries} entries of its log")
            self.logged[record.member] = record.entries
            self.accumulator = accumulate(self.accumulator, record)
            return
        if isinstance(record, AddressAnnounced):
            if record.member not in self.members or record.number <= self.announced.get(record.member, (0, ""))[0]:
                raise LedgerError(f"member {record.member} announces address number {record.number}")
            self.announced[record.member] = (record.number, record.text)
            self.accumulator = accumulate(self.accumulator, record)
            return
        if isinstance(record, AuditOpened):
            opening = (record.member, record.seat, record.study)
            if record.member not in self.members or record.seat not in self.auditors or opening in self.openings:
                raise LedgerError(f"member {record.member} opens a study to auditor seat {record.seat}, or again")
            self.openings.add(opening)
            self.accumulator = accumulate(self.accumulator, record)
            return
        if record.epoch < self.epoch:
            raise LedgerError(f"{type(record).__name__} of epoch {record.epoch} comes after epoch {self.epoch}")
        match record:
            case NetworkSucceeded():
                self.successor = record.successor
                self.successions.append((record.epoch, record.successor))
            case MemberAdmitted() if record.epoch == self.founding > FOUNDING_EPOCH:
                known = self.members.get(record.index)
                if known is None or not known.active or _seat(known) != _seat(record):
                    raise LedgerError(f"member {record.index} founds the successor but had another seat before")
            case AuditorSeated() if record.epoch == self.founding > FOUNDING_EPOCH:
                before = self.auditors.get(record.seat)
                if before is None or _auditor(before) != _auditor(record):
                    raise LedgerError(f"auditor seat {record.seat} founds the successor but was another before")
            case MemberAdmitted():
                if record.index != len(self.members) or record.index >= MAX_MEMBERS:
                    raise LedgerError(f"member index {record.index} is admitted, {len(self.members)} is next")
                self.members[record.index] = Member(
                    record.index,
                    record.ledger,
                    record.peer_id,
                    record.sealing_key,
                    record.name,
                    record.epoch,
                    keys=(Keys(record.ledger, record.peer_id, record.sealing_key, record.epoch),),
                )
            case MemberRemoved():
                member = self.members.get(record.index)
                if member is None or member.removed is not None:
                    raise LedgerError(f"member {record.index} is removed but is no active member")
                self.members[record.index] = replace(member, removed=record.epoch)
            case MemberRotated() | MemberRecovered():
                member = self.members.get(record.index)
                rotated = isinstance(record, MemberRotated)
                if member is None or member.removed is not None or (rotated and not member.active):
                    raise LedgerError(f"member {record.index} has new keys but is no member that may have them")
                self.members[record.index] = replace(
                    member,
                    ledger=record.ledger,
                    peer_id=record.peer_id,
                    sealing_key=record.sealing_key,
                    revoked=None,
                    keys=(*self._ended(member, record, revoked=not rotated), _keys_of(record)),
                )
                self.replaced = self.replaced if rotated else record.epoch
            case MemberRevoked():
                member = self.members.get(record.index)
                if member is None or not member.active:
                    raise LedgerError(f"member {record.index} is revoked but is no active member")
                keys = self._ended(member, record, revoked=True)
                self.members[record.index] = replace(member, revoked=record.epoch, keys=keys)
                self.replaced = record.epoch
            case AuditorEnded():
                auditor = self.auditors.get(record.seat)
                if auditor is None:
                    raise LedgerError(f"the term of auditor seat {record.seat} ends, which was never given")
                self.auditors[record.seat] = replace(auditor, term_end=record.term_end)
            case AuditorSeated():
                if record.seat != len(self.auditors):
                    raise LedgerError(f"auditor seat {record.seat} is given, {len(self.auditors)} is next")
                self.auditors[record.seat] = Auditor(
                    record.seat,
                    record.ledger,
                    record.peer_id,
                    record.sealing_key,
                    record.name,
                    record.study,
                    record.term_end,
                    record.term_end,
                    record.epoch,
                )
        if record.epoch == self.founding:
            members, auditors = self.foundings[-1]
            if isinstance(record, MemberAdmitted):
                members[record.index] = record
            elif isinstance(record, AuditorSeated):
                auditors[record.seat] = record
        self.epoch = record.epoch
        self.accumulator = accumulate(self.accumulator, record)

    @staticmethod
    def _ended(
        member: Member, record: MemberRotated | MemberRevoked | MemberRecovered, *, revoked: bool
    ) -> tuple[Keys, ...]:
        """The member's keys with the last of them ended by this record, if it was not ended before."""
        last = member.keys[-1]
        if last.until is None:
            last = replace(last, until=record.epoch, ended_at=record.at, revoked=revoked)
        return (*member.keys[:-1], last)

    def address_of(self, member: Member, first: Mapping[bytes, str]) -> str:
        """Where a member is dialled; empty: it dials us.

        Args:
            first: peer id -> the address that the network's description has for it. It counts while the member has
                announced none, and stays when its peer id changes.
        """
        if member.index in self.announced:
            return self.announced[member.index][1]
        known = (first.get(keys.peer_id, "") for keys in reversed(member.keys))
        return next((address for address in known if address), "")

    def keys_of(self, index: int | None) -> list[tuple[bytes, bytes, bytes]]:
        """Ledger address, peer id and sealing key of every set of keys this member ever had, in order."""
        member = None if index is None else self.members.get(index)
        return [] if member is None else [(one.ledger, one.peer_id, one.sealing_key) for one in member.keys]

    def ledgers_of_round(self, index: int, opened_at: int, ended_at: int | None) -> tuple[bytes, ...]:
        """Addresses whose signatures on a round's statements count for member `index`; none for an unknown member.

        The contract's rule (`rosterAt`) while the round is open: the key before any rotation stamped when it opened or
        later, but a revocation or recovery takes effect at once and makes the newest keys count. After its end: every
        key the member had between opening and end.

        Args:
            opened_at, ended_at: block times; None while the round is open.
        """
        member = self.members.get(index)
        if member is None:
            return ()
        if ended_at is not None:
            return tuple(
                one.ledger
                for one in member.keys
                if one.at <= ended_at and (one.until is None or one.ended_at >= opened_at)
            )
        if member.revoked is not None:
            return ()
        place = len(member.keys) - 1
        while (
            member.keys[place].rotated
            and member.keys[place].since > self.replaced
            and (member.keys[place].at >= opened_at)
        ):
            place -= 1
        return (member.keys[place].ledger,)

    @property
    def active(self) -> int:
        """Bitmap of the members that take part."""
        return bitmap_of(index for index, member in self.members.items() if member.active)

    @property
    def needed(self) -> int:
        """Equal votes of the active members that decide a change of membership."""
        n = self.active.bit_count()
        return quorum(n, faults(n, n))

    def member_of_ledger(self, ledger: bytes) -> Member | None:
        """The active member with this ledger address (20 bytes)."""
        return next((m for m in self.members.values() if m.active and m.ledger == ledger), None)

    def member_of_peer(self, peer_id: bytes) -> Member | None:
        """The active member with this libp2p peer id."""
        return next((m for m in self.members.values() if m.active and m.peer_id == peer_id), None)

    def auditor_of_peer(self, peer_id: bytes, at: int) -> Auditor | None:
        """The latest seat of this peer whose term has not ended at block time `at`."""
        seats = [a for a in self.auditors.values() if a.peer_id == peer_id and a.sits(at)]
        return seats[-1] if seats else None

    def auditors_of(self, study: bytes, at: int) -> tuple[Auditor, ...]:
        """The seats that may read rounds of `study` at block time `at`, by seat number."""
        return tuple(a for a in self.auditors.values() if a.serves(study, at))


def _seat(one: Member | MemberAdmitted) -> tuple[bytes, bytes, bytes, str]:
    return one.ledger, one.peer_id, one.sealing_key, one.name


def _auditor(one: Auditor | AuditorSeated) -> tuple[bytes, bytes, bytes, str, Digest, int]:
    return one.ledger, one.peer_id, one.sealing_key, one.name, one.study, one.term_end


def _keys_of(record: MemberRotated | MemberRecovered) -> Keys:
    return Keys(
        record.ledger,
        record.peer_id,
        record.sealing_key,
        record.epoch,
        record.at,
        rotated=isinstance(record, MemberRotated),
    )
