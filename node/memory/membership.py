"""Membership in memory: the rules of `contracts/Membership.sol`, function by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crypto.digest import ZERO, Digest
from crypto.statements import (
    Admit,
    AnchorLog,
    Announce,
    EndAuditor,
    Keys,
    OpenAudit,
    Recover,
    Remove,
    Revoke,
    Rotate,
    Seat,
    SeatAuditor,
    Statement,
    Succeed,
    struct_hash,
)
from node.membership import NOBODY, ROTATION_INTERVAL_S, bitmap_of, faults, quorum
from node.memory.machine import Cell, Contract, Machine, Slots, refuse
from node.records import (
    MAX_MEMBERS,
    AddressAnnounced,
    AuditOpened,
    AuditorEnded,
    AuditorSeated,
    KeysInput,
    LogAnchored,
    MemberAdmitted,
    MemberRecovered,
    MemberRemoved,
    MemberRevoked,
    MemberRotated,
    NetworkSucceeded,
    SeatInput,
)

LONGEST_TEXT = 64
"""Bytes of a peer id or a name; at least one."""
LONGEST_ADDRESS = 256
"""Bytes of an announced multiaddress."""


@dataclass(frozen=True, slots=True)
class Roster:
    """What another registry reads of Membership in one call. Bit i of `active` is member i, at `ledgers[i]`."""

    ledgers: tuple[bytes, ...]
    epoch: int
    active: int
    accumulator: Digest

    def replaced(self, member: int, ledger: bytes) -> Roster:
        """With another key for a member."""
        return replace(self, ledgers=(*self.ledgers[:member], ledger, *self.ledgers[member + 1 :]))

    def has(self, member: int) -> bool:
        """Whether the member takes part now."""
        return member < MAX_MEMBERS and bool(self.active >> member & 1)

    def ledger_of(self, member: int) -> bytes:
        """Its address, also of a removed one; zero when no such index was given."""
        return self.ledgers[member] if member < len(self.ledgers) else bytes(20)

    @property
    def quorum(self) -> int:
        """Equal votes of the active members that decide."""
        n = self.active.bit_count()
        return quorum(n, faults(n, n))


@dataclass(frozen=True, slots=True)
class AuditorSeat:
    """An auditor's seat; `term_end` zero has no end, `study` zero is every study."""

    ledger: bytes
    study: Digest
    term_end: int


class Membership(Contract):
    """Members by index, auditors by seat, and a quorum of the active members over both."""

    def __init__(
        self,
        machine: Machine,
        address: bytes,
        members: Sequence[SeatInput],
        auditors: Sequence[SeatInput],
        predecessor: Membership | None = None,
    ) -> None:
        """The founding: epoch 1, or the next one of the predecessor whose members voted for this address."""
        super().__init__(machine, address)
        if len(members) > MAX_MEMBERS:
            refuse("NetworkFull", given=len(members))
        self.predecessor = predecessor
        self.successor: Cell[bytes] = Cell(machine, bytes(20))
        self.founded: Cell[bool] = Cell(machine, False)  # whether the successor stands, to its last contract
        self._roster = Cell(machine, Roster((), 1, 0, ZERO))
        self._auditors: Cell[tuple[AuditorSeat, ...]] = Cell(machine, ())
        self._ledgers_taken: Slots[bytes, bool] = Slots(machine, False)
        self._peers_taken: Slots[bytes, bool] = Slots(machine, False)
        self._peer_of: Slots[int, bytes] = Slots(machine, b"")
        self._rotated_at: Slots[int, int] = Slots(machine, 0)
        self._logged: Slots[int, int] = Slots(machine, 0)  # entries of members' logs under anchored roots
        self._opened: Slots[Digest, bool] = Slots(machine, False)
        self._announced: Slots[int, int] = Slots(machine, 0)  # number of the address a member announced last
        self._revoked = Cell(machine, 0)
        self._retired: Cell[tuple[tuple[int, Roster], ...]] = Cell(machine, ())  # (until, roster), by time
        if predecessor is not None:
            self._continue(predecessor, members, auditors)
            return
        if len(members) < 2:
            refuse("TooFewFounders", members=len(members))
        for seat in members:
            self._check_seat("member", seat)
            self._admit(seat)
        for seat in auditors:
            self._check_seat("auditor", seat)
            self._seat_auditor(seat, ZERO, 0)

    def _continue(self, old: Membership, members: Sequence[SeatInput], auditors: Sequence[SeatInput]) -> None:
        """Same indexes, addresses, terms and numbers of log lines; the next epoch."""
        if old.successor.value != self.address:
            refuse("NotSuccessor", named=old.successor.value)
        before, seats = old.snapshot(), old._auditors.value
        if len(members) != len(before.ledgers):
            refuse("SeatsWanted", wanted=len(before.ledgers), got=len(members))
        if len(auditors) != len(seats):
            refuse("SeatsWanted", wanted=len(seats), got=len(auditors))
        self._roster.value = Roster(before.ledgers, before.epoch + 1, before.active, ZERO)
        self._revoked.value = old._revoked.value
        for index, seat in enumerate(members):
            self._logged[index] = old._logged[index]
            if before.has(index):
                if seat.ledger != before.ledgers[index]:
                    refuse("SeatChanged", index=index, expected=before.ledgers[index], got=seat.ledger)
                self._check_seat("member", seat, founding=True)
                self._log_member(index, seat)
        for number, (seat, kept) in enumerate(zip(auditors, seats, strict=True)):
            if kept.term_end and kept.term_end <= self.machine.timestamp:
                self._auditors.value = (*self._auditors.value, kept)
                continue
            if seat.ledger != kept.ledger:
                refuse("SeatChanged", index=number, expected=kept.ledger, got=seat.ledger)
            self._check_seat("auditor", seat, founding=True)
            self._seat_auditor(seat, kept.study, kept.term_end)

    def succeed(self, successor: bytes, votes: Sequence[tuple[int, bytes]]) -> None:
        """`succeed`: votes Succeed(epoch, successor)."""
        if successor in (bytes(20), self.address):
            refuse("NotSuccessor", named=successor)
        if self.founded.value:
            refuse("NetworkMoved", successor=self.successor.value)
        self._decide(Succeed(self._roster.value.epoch, successor), votes, here=False)
        self.successor.value = successor
        self.record(NetworkSucceeded(successor, self._roster.value.epoch))

    def round_snapshot(self) -> Roster:
        """`roundSnapshot`: as `snapshot`, but nobody is active once the network has a successor."""
        roster = self.snapshot()
        return roster if self.successor.value == bytes(20) else replace(roster, active=0)

    def _check_here(self) -> None:
        if self.successor.value != bytes(20):
            refuse("NetworkMoved", successor=self.successor.value)

    def snapshot(self) -> Roster:
        """All that another registry needs."""
        return replace(self._roster.value, accumulator=self.accumulator)

    def roster_at(self, opened_at: int) -> Roster:
        """`rosterAt`: with the keys that decide a round opened at `opened_at`."""
        found = self._roster.value
        for until, roster in reversed(self._retired.value):
            if until < opened_at:
                break
            found = roster
        return found

    def auditor_of(self, seat: int) -> AuditorSeat | None:
        """The auditor's seat of this number, or None."""
        auditors = self._auditors.value
        return auditors[seat] if seat < len(auditors) else None

    def admit(self, seat: SeatInput, votes: Sequence[tuple[int, bytes]]) -> None:
        """`admit`: votes Admit(epoch, ledger, seatHash)."""
        given = len(self._roster.value.ledgers)
        if given == MAX_MEMBERS:
            refuse("NetworkFull", given=given)
        seat_hash = self._check_seat("member", seat)
        self._decide(Admit(self._roster.value.epoch, seat.ledger, seat_hash), votes)
        self._admit(seat)

    def remove(self, member: int, votes: Sequence[tuple[int, bytes]]) -> None:
        """`remove`: votes Remove(epoch, member, ledger)."""
        roster = self._roster.value
        revoked = self._is_revoked(member)
        if not roster.has(member) and not revoked:
            refuse("NotActive", index=member)
        if not revoked and roster.active.bit_count() == 2:
            refuse("LastMembers", index=member)
        self._decide(Remove(roster.epoch, member, roster.ledger_of(member)), votes)
        roster = self._roster.value
        self._roster.value = replace(roster, active=roster.active & ~(1 << member))
        self._revoked.value &= ~(1 << member)
        self.record(MemberRemoved(member, roster.epoch))

    def rotate(self, member: int, keys: KeysInput, signature: bytes) -> None:
        """`rotate`: the old ledger key's Rotate(epoch, member, keysHash), the new one's Keys."""
        self._check_here()
        roster, now = self._roster.value, self.machine.timestamp
        if not roster.has(member):
            refuse("NotActive", index=member)
        if self._rotated_at[member] and now < self._rotated_at[member] + ROTATION_INTERVAL_S:
            refuse("RotatedLately", index=member, next=self._rotated_at[member] + ROTATION_INTERVAL_S)
        old = roster.ledger_of(member)
        keys_hash = self._take_keys(member, old, keys)
        self._check_keys(member, old, Rotate(roster.epoch, member, keys_hash), signature)
        self._rotated_at[member] = now
        if keys.ledger != old:
            self._retired.value = (*self._retired.value, (now, roster))
        roster = replace(roster.replaced(member, keys.ledger), epoch=roster.epoch + 1)
        self._roster.value = roster
        self.record(MemberRotated(member, keys.ledger, keys.peer_id, keys.sealing_key, now, roster.epoch))

    def revoke(self, member: int, votes: Sequence[tuple[int, bytes]]) -> None:
        """`revoke`: votes Revoke(epoch, member, ledger)."""
        roster = self._roster.value
        if not roster.has(member):
            refuse("NotActive", index=member)
        if roster.active.bit_count() == 2:
            refuse("LastMembers", index=member)
        self._decide(Revoke(roster.epoch, member, roster.ledger_of(member)), votes)
        roster = self._replace_at_once(member, NOBODY, active=False)
        self.record(MemberRevoked(member, self.machine.timestamp, roster.epoch))

    def recover(self, member: int, keys: KeysInput, votes: Sequence[tuple[int, bytes]]) -> None:
        """`recover`: votes Recover(epoch, member, keysHash), the new ledger key's Keys."""
        roster = self._roster.value
        if not roster.has(member) and not self._is_revoked(member):
            refuse("NotActive", index=member)
        keys_hash = self._take_keys(member, None, keys)
        self._decide(Recover(roster.epoch, member, keys_hash), votes)
        roster = self._replace_at_once(member, keys.ledger, active=True)
        self.record(
            MemberRecovered(member, keys.ledger, keys.peer_id, keys.sealing_key, self.machine.timestamp, roster.epoch)
        )

    def end_auditor(self, seat: int, votes: Sequence[tuple[int, bytes]]) -> None:
        """`endAuditor`: votes EndAuditor(epoch, seat, ledger)."""
        auditor, now = self.auditor_of(seat), self.machine.timestamp
        if auditor is None:
            refuse("NoAuditor", seat=seat)
        if auditor.term_end and auditor.term_end <= now:
            refuse("TermOver", termEnd=auditor.term_end, timestamp=now)
        self._decide(EndAuditor(self._roster.value.epoch, seat, auditor.ledger), votes)
        seats = self._auditors.value
        self._auditors.value = (*seats[:seat], replace(auditor, term_end=now), *seats[seat + 1 :])
        self.record(AuditorEnded(seat, now, self._roster.value.epoch))

    def seat_auditor(self, seat: SeatInput, study: Digest, term_end: int, votes: Sequence[tuple[int, bytes]]) -> None:
        """`seatAuditor`: votes SeatAuditor(epoch, ledger, seatHash, study, termEnd)."""
        if term_end <= self.machine.timestamp:
            refuse("TermOver", termEnd=term_end, timestamp=self.machine.timestamp)
        seat_hash = self._check_seat("auditor", seat)
        self._decide(SeatAuditor(self._roster.value.epoch, seat.ledger, seat_hash, study, term_end), votes)
        self._seat_auditor(seat, study, term_end)

    def anchor_log(self, member: int, root: Digest, entries: int, signature: bytes) -> None:
        """`anchorLog`: the member's AnchorLog(member, root, entries)."""
        self._check_here()
        roster = self._roster.value
        if not roster.has(member):
            refuse("NotActive", index=member)
        if entries <= self._logged[member]:
            refuse("LogNotLonger", member=member, entries=entries, anchored=self._logged[member])
        self.check(member, roster.ledger_of(member), AnchorLog(member, root, entries), signature)
        self._logged[member] = entries
        self.record(LogAnchored(member, root, entries))

    def ledger_of_auditor(self, seat: int, study: Digest) -> bytes:
        """The address of the auditor in this seat; refused unless its term runs and is for this study or every one."""
        auditor, now = self.auditor_of(seat), self.machine.timestamp
        if auditor is None:
            refuse("NoAuditor", seat=seat)
        if auditor.term_end and auditor.term_end <= now:
            refuse("TermOver", termEnd=auditor.term_end, timestamp=now)
        if auditor.study not in (ZERO, study):
            refuse("SeatedForAnother", seat=seat, seated=auditor.study, study=study)
        return auditor.ledger

    def open_audit(self, member: int, seat: int, study: Digest, signature: bytes) -> None:
        """`openAudit`: the member's OpenAudit(member, seat, study)."""
        roster = self._roster.value
        if not roster.has(member):
            refuse("NotActive", index=member)
        self.ledger_of_auditor(seat, study)
        statement = OpenAudit(member, seat, study)
        if self._opened[struct_hash(statement)]:
            refuse("AuditOpenedBefore", member=member, seat=seat, study=study)
        self.check(member, roster.ledger_of(member), statement, signature)
        self._opened[struct_hash(statement)] = True
        self.record(AuditOpened(member, seat, study))

    def announce(self, member: int, number: int, multiaddress: bytes, signature: bytes) -> None:
        """`announce`: the member's Announce(member, number, multiaddress)."""
        roster, length = self._roster.value, len(multiaddress)
        if not roster.has(member):
            refuse("NotActive", index=member)
        if length > LONGEST_ADDRESS:
            refuse("AddressLength", length=length)
        if number <= self._announced[member]:
            refuse("AnnouncementNotNewer", member=member, number=number, announced=self._announced[member])
        self.check(member, roster.ledger_of(member), Announce(member, number, multiaddress), signature)
        self._announced[member] = number
        self.record(AddressAnnounced(member, number, multiaddress))

    def _decide(self, statement: Statement, votes: Sequence[tuple[int, bytes]], *, here: bool = True) -> None:
        """A quorum of the active members, and a new epoch; `here`: only while the members decide here."""
        if here:
            self._check_here()
        roster = self._roster.value
        self.check_quorum(statement, votes, roster.active, roster.quorum, roster.ledger_of)
        self._roster.value = replace(roster, epoch=roster.epoch + 1)

    def _check_seat(self, role: str, seat: SeatInput, *, founding: bool = False) -> Digest:
        """The applicant's own word for its keys, none of them seated before."""
        name_length = len(seat.name.encode())
        if not 1 <= name_length <= LONGEST_TEXT:
            refuse("NameLength", length=name_length)
        if seat.sealing_key == ZERO:
            refuse("NoSealingKey", ledger=seat.ledger)
        self._take_ledger(seat.ledger, founding=founding)
        self._take_peer(seat.peer_id, founding=founding)
        statement = Seat(role, seat.peer_id, Digest(seat.sealing_key), seat.name)
        recovered = self.signer(statement, seat.signature) or bytes(20)
        if recovered != seat.ledger:
            refuse("SeatNotSigned", ledger=seat.ledger, recovered=recovered)
        return struct_hash(statement)

    def _take_keys(self, member: int, kept: bytes | None, keys: KeysInput) -> Digest:
        """A member's new keys, with their own statement; the ledger key may be `kept`, the peer id the one it has."""
        if keys.sealing_key == ZERO:
            refuse("NoSealingKey", ledger=keys.ledger)
        if keys.ledger != kept:
            self._take_ledger(keys.ledger)
        if keys.peer_id != self._peer_of[member]:
            self._take_peer(keys.peer_id)
            self._peer_of[member] = keys.peer_id
        statement = Keys(member, keys.ledger, keys.peer_id, Digest(keys.sealing_key))
        self._check_keys(member, keys.ledger, statement, keys.signature)
        return struct_hash(statement)

    def _check_keys(self, member: int, ledger: bytes, statement: Statement, signature: bytes) -> None:
        recovered = self.signer(statement, signature) or bytes(20)
        if recovered != ledger:
            refuse("KeysNotSigned", index=member, expected=ledger, recovered=recovered)

    def _take_ledger(self, ledger: bytes, *, founding: bool = False) -> None:
        if ledger == bytes(20) or (self._ledgers_taken[ledger] if founding else self._ledger_known(ledger)):
            refuse("LedgerTaken", ledger=ledger)
        self._ledgers_taken[ledger] = True

    def _ledger_known(self, ledger: bytes) -> bool:
        before = self.predecessor is not None and self.predecessor._ledger_known(ledger)
        return before or self._ledgers_taken[ledger]

    def _peer_known(self, peer_id: bytes) -> bool:
        before = self.predecessor is not None and self.predecessor._peer_known(peer_id)
        return before or self._peers_taken[peer_id]

    def _take_peer(self, peer_id: bytes, *, founding: bool = False) -> None:
        if not 1 <= len(peer_id) <= LONGEST_TEXT:
            refuse("PeerIdLength", length=len(peer_id))
        if self._peers_taken[peer_id] if founding else self._peer_known(peer_id):
            refuse("PeerTaken", peerId=peer_id)
        self._peers_taken[peer_id] = True

    def _is_revoked(self, member: int) -> bool:
        return member < MAX_MEMBERS and bool(self._revoked.value >> member & 1)

    def _replace_at_once(self, member: int, ledger: bytes, *, active: bool) -> Roster:
        """Open rounds too are decided with this roster from now on, and with no earlier one."""
        roster, bit = self._roster.value.replaced(member, ledger), 1 << member
        roster = replace(roster, active=roster.active | bit if active else roster.active & ~bit)
        self._roster.value, self._retired.value = roster, ()
        self._revoked.value = self._revoked.value & ~bit if active else self._revoked.value | bit
        return roster

    def _admit(self, seat: SeatInput) -> None:
        roster = self._roster.value
        index = len(roster.ledgers)
        self._roster.value = replace(
            roster, ledgers=(*roster.ledgers, seat.ledger), active=roster.active | bitmap_of([index])
        )
        self._log_member(index, seat)

    def _log_member(self, index: int, seat: SeatInput) -> None:
        self._peer_of[index] = seat.peer_id
        epoch = self._roster.value.epoch
        self.record(MemberAdmitted(index, seat.ledger, seat.peer_id, seat.sealing_key, seat.name, epoch))

    def _seat_auditor(self, seat: SeatInput, study: Digest, term_end: int) -> None:
        number = len(self._auditors.value)
        self._auditors.value = (*self._auditors.value, AuditorSeat(seat.ledger, study, term_end))
        self.record(
            AuditorSeated(
                number,
                seat.ledger,
                seat.peer_id,
                seat.sealing_key,
                seat.name,
                study,
                term_end,
                self._roster.value.epoch,
            )
        )
