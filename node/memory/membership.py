"""Membership in memory: the rules of `contracts/Membership.sol`, function by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crypto.digest import ZERO, Digest
from crypto.statements import Admit, Remove, Seat, SeatAuditor, struct_hash
from node.membership import bitmap_of, faults, quorum
from node.memory.machine import Cell, Contract, Machine, Slots, refuse
from node.records import MAX_MEMBERS, AuditorSeated, MemberAdmitted, MemberRemoved, SeatInput

LONGEST_TEXT = 64
"""Bytes of a peer id or a name; at least one."""


@dataclass(frozen=True, slots=True)
class Roster:
    """What another registry reads of Membership in one call. Bit i of `active` is member i, at `ledgers[i]`."""

    ledgers: tuple[bytes, ...]
    epoch: int
    active: int
    accumulator: Digest

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
        self, machine: Machine, address: bytes, members: Sequence[SeatInput], auditors: Sequence[SeatInput]
    ) -> None:
        """The founding: epoch 1."""
        super().__init__(machine, address)
        if len(members) < 2:
            refuse("TooFewFounders", members=len(members))
        if len(members) > MAX_MEMBERS:
            refuse("NetworkFull", given=len(members))
        self._roster = Cell(machine, Roster((), 1, 0, ZERO))
        self._auditors: Cell[tuple[AuditorSeat, ...]] = Cell(machine, ())
        self._ledgers_taken: Slots[bytes, bool] = Slots(machine, False)
        self._peers_taken: Slots[bytes, bool] = Slots(machine, False)
        for seat in members:
            self._check_seat("member", seat)
            self._admit(seat)
        for seat in auditors:
            self._check_seat("auditor", seat)
            self._seat_auditor(seat, ZERO, 0)

    def snapshot(self) -> Roster:
        """All that another registry needs."""
        return replace(self._roster.value, accumulator=self.accumulator)

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
        if not roster.has(member):
            refuse("NotActive", index=member)
        if roster.active.bit_count() == 2:
            refuse("LastMembers", index=member)
        self._decide(Remove(roster.epoch, member, roster.ledger_of(member)), votes)
        roster = self._roster.value
        self._roster.value = replace(roster, active=roster.active & ~(1 << member))
        self.record(MemberRemoved(member, roster.epoch))

    def seat_auditor(self, seat: SeatInput, study: Digest, term_end: int, votes: Sequence[tuple[int, bytes]]) -> None:
        """`seatAuditor`: votes SeatAuditor(epoch, ledger, seatHash, study, termEnd)."""
        if term_end <= self.machine.timestamp:
            refuse("TermOver", termEnd=term_end, timestamp=self.machine.timestamp)
        seat_hash = self._check_seat("auditor", seat)
        self._decide(SeatAuditor(self._roster.value.epoch, seat.ledger, seat_hash, study, term_end), votes)
        self._seat_auditor(seat, study, term_end)

    def _decide(self, statement: Admit | Remove | SeatAuditor, votes: Sequence[tuple[int, bytes]]) -> None:
        """A quorum of the active members, and a new epoch."""
        roster = self._roster.value
        self.check_quorum(statement, votes, roster.active, roster.quorum, roster.ledger_of)
        self._roster.value = replace(roster, epoch=roster.epoch + 1)

    def _check_seat(self, role: str, seat: SeatInput) -> Digest:
        """The applicant's own word for its keys, none of them seated before."""
        if not 1 <= len(seat.peer_id) <= LONGEST_TEXT:
            refuse("PeerIdLength", length=len(seat.peer_id))
        name_length = len(seat.name.encode())
        if not 1 <= name_length <= LONGEST_TEXT:
            refuse("NameLength", length=name_length)
        if seat.sealing_key == ZERO:
            refuse("NoSealingKey", ledger=seat.ledger)
        if self._ledgers_taken[seat.ledger]:
            refuse("LedgerTaken", ledger=seat.ledger)
        if self._peers_taken[seat.peer_id]:
            refuse("PeerTaken", peerId=seat.peer_id)
        statement = Seat(role, seat.peer_id, Digest(seat.sealing_key), seat.name)
        recovered = self.signer(statement, seat.signature) or bytes(20)
        if recovered != seat.ledger:
            refuse("SeatNotSigned", ledger=seat.ledger, recovered=recovered)
        self._ledgers_taken[seat.ledger] = True
        self._peers_taken[seat.peer_id] = True
        return struct_hash(statement)

    def _admit(self, seat: SeatInput) -> None:
        roster = self._roster.value
        index = len(roster.ledgers)
        self._roster.value = replace(
            roster, ledgers=(*roster.ledgers, seat.ledger), active=roster.active | bitmap_of([index])
        )
        self.record(MemberAdmitted(index, seat.ledger, seat.peer_id, seat.sealing_key, seat.name, roster.epoch))

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
