"""The ledger in memory: the four contracts' rules in Python, for `simulate`, for property tests, for a chain's absence.

Theory of operation. One call is one transaction is one block. A block is stamped max(parent + 1, clock); the clock is
injected, so time passes exactly when its owner says so. The contracts (`membership`, `consent`,
`training`, `unlearning`) check the same signatures in the same order, hash the same words and emit the
same records as those in Solidity, and both pass the same tests. A call that is refused makes no block: a real chain
would mine it as failed, or its client would not send it; neither leaves a record.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from crypto.digest import ZERO, Digest, hash_words, keccak256
from crypto.errors import EncodingError
from node.errors import CallReverted, LedgerError, NotFound
from node.memory.consent import ConsentRegistry
from node.memory.machine import Machine
from node.memory.membership import Membership
from node.memory.rounds import Clock
from node.memory.training import TrainingLedger
from node.memory.unlearning import UnlearningRegistry
from node.records import (
    Abstentions,
    AddressAnnouncement,
    Admission,
    Anchoring,
    AuditAnnouncement,
    AuditOpening,
    AuditorEnding,
    AuditorSeating,
    Call,
    Commits,
    Continuation,
    Contracts,
    EquivocationReport,
    ErasureAuthorisation,
    ErasureExtension,
    ErasureOpening,
    ErasureProgress,
    ErasureRefusal,
    EvidenceAttestation,
    Finalisation,
    FormRegistration,
    Grants,
    Haves,
    Head,
    HospitalWithdrawal,
    Joining,
    Leaving,
    LogAnchoring,
    Logged,
    Planning,
    Position,
    Purges,
    QuorumWithdrawal,
    Record,
    Recovery,
    Removal,
    Resumption,
    Revocation,
    Rotation,
    RoundFailure,
    SeatInput,
    Sent,
    StudyCreation,
    Succession,
    Verdicts,
    Withdrawals,
)

MEMORY_CHAIN_ID: Final = 2**40
"""A chain id of no real chain; `simulate` signs its statements for it."""


def memory_contracts(chain_id: int = MEMORY_CHAIN_ID) -> Contracts:
    """Where the contracts of an in-memory ledger lie: addresses that no deployment will ever have."""

    def address(name: str) -> bytes:
        return bytes(keccak256(f"koinon in memory: {name}".encode())[12:])

    return Contracts(chain_id, address("membership"), address("consent"), address("training"), address("unlearning"))


class MemoryLedger:
    """The `Ledger` of `node/records.py` in this process. Safe to share between threads."""

    def __init__(
        self,
        members: Sequence[SeatInput],
        auditors: Sequence[SeatInput] = (),
        *,
        clock: Callable[[], int],
        contracts: Contracts | None = None,
    ) -> None:
        """Found a network: block 0 is empty, block 1 holds the founding.

        Args:
            members: founders in index order, with their own Seat statements for `contracts`.
            auditors: founding auditors likewise.
            clock: seconds; may stand still or jump, blocks never go back.
            contracts: chain id and addresses; `memory_contracts()` if not given.

        Raises:
            CallReverted: as Membership's constructor.
        """
        self.contracts = contracts or memory_contracts()
        self._clock = clock
        self._lock = threading.Lock()
        self._machine = Machine(self.contracts.chain_id)
        self._line: tuple[tuple[Membership, ConsentRegistry], ...] = ()
        self._hashes: list[Digest] = []
        self._stamps: list[int] = []
        self._logged: list[Logged] = []
        self._first_log: list[int] = []  # by block: how many records came before it
        self._close_block(int(clock()), ())
        self._begin()
        self._membership = Membership(self._machine, self.contracts.membership, members, auditors)
        self._consent = ConsentRegistry(self._machine, self.contracts.consent, self._membership)
        self._training = TrainingLedger(self._machine, self.contracts.training, self._membership, self._consent)
        self._unlearning = UnlearningRegistry(
            self._machine, self.contracts.unlearning, self._membership, self._training
        )
        self._line = ((self._membership, self._consent),)
        self._close_block(self._machine.timestamp, self._machine.commit())

    def continued(
        self,
        contracts: Contracts,
        members: Sequence[SeatInput],
        auditors: Sequence[SeatInput],
        studies: Sequence[Continuation],
    ) -> MemoryLedger:
        """Deploy the successor that the members named, on this chain, in one block; its ledger, which reads both.

        Args:
            contracts: where it lies; continues this ledger's.
            members: every index with its own Seat statement for it, an empty one where nobody is active.
            auditors: every auditor's seat likewise.
            studies: those that go on there.

        Raises:
            CallReverted: as the contracts' constructors.
        """
        new = copy.copy(self)  # the chain is the same one: blocks, machine and lock are shared
        new.contracts = replace(contracts, before=self.contracts)
        with self._lock:
            self._begin()
            machine = self._machine
            try:
                new._membership = Membership(machine, contracts.membership, members, auditors, self._membership)
                new._consent = ConsentRegistry(machine, contracts.consent, new._membership, self._consent)
                new._training = TrainingLedger(
                    machine, contracts.training, new._membership, new._consent, self._training, studies
                )
            except CallReverted:
                machine.rollback()
                raise
            new._unlearning = UnlearningRegistry(machine, contracts.unlearning, new._membership, new._training)
            self._membership.founded.value = True
            new._line = (*self._line, (new._membership, new._consent))
            new._close_block(machine.timestamp, machine.commit())
        return new

    # --- reading

    def head(self) -> Head:
        """The newest block, final at once, and the stamp the next one would get."""
        with self._lock:
            number = len(self._hashes) - 1
            return Head(number, self._hashes[number], self._stamps[number], number, self._next_stamp())

    def records(self, first_block: int, last_block: int) -> Sequence[Logged]:
        """All records in blocks [first_block, last_block], in order."""
        with self._lock:
            first, last = max(0, first_block), min(last_block, len(self._hashes) - 1)
            if last < first:
                return []
            end = self._first_log[last + 1] if last + 1 < len(self._hashes) else len(self._logged)
            # a ledger of the first deployment knows nothing of the second
            return [one for one in self._logged[self._first_log[first] : end] if one.deployment < len(self._line)]

    def accumulators(self) -> tuple[Digest, Digest, Digest]:
        """Rolling accumulators of Membership, ConsentRegistry, UnlearningRegistry."""
        with self._lock:
            return self._membership.accumulator, self._consent.accumulator, self._unlearning.accumulator

    def block_hash(self, number: int) -> Digest:
        """Hash of block `number`; `NotFound` when there is no such block."""
        with self._lock:
            if not 0 <= number < len(self._hashes):
                raise NotFound(f"the ledger in memory has no block {number}")
            return self._hashes[number]

    def phase(self, round_id: Digest) -> Clock:
        """What `TrainingLedger.phase` says of a round at the stamp the next block would get."""
        with self._lock:
            self._begin()
            return self._training.phase(round_id)

    # --- writing

    def send(self, call: Call) -> Sent:
        """Carry a call to the contracts; one block if they take it, no trace if they refuse."""
        with self._lock:
            self._begin()
            try:
                self._dispatch(call)
            except CallReverted:
                self._machine.rollback()
                raise
            except EncodingError as error:
                self._machine.rollback()
                raise LedgerError(f"{type(call).__name__} cannot be encoded: {error}") from error
            records = self._machine.commit()
            older = call.deployment if isinstance(call, Withdrawals) else None
            transaction = self._close_block(self._machine.timestamp, records, older)
            return Sent(transaction, self._machine.number, 0, records)

    def _dispatch(self, call: Call) -> None:
        """The functions of the contracts, a row each."""
        match call:
            case Admission():
                self._membership.admit(call.seat, call.votes)
            case Removal():
                self._membership.remove(call.member, call.votes)
            case AuditorSeating():
                self._membership.seat_auditor(call.seat, call.study, call.term_end, call.votes)
            case Rotation():
                self._membership.rotate(call.member, call.keys, call.signature)
            case Revocation():
                self._membership.revoke(call.member, call.votes)
            case Recovery():
                self._membership.recover(call.member, call.keys, call.votes)
            case AuditorEnding():
                self._membership.end_auditor(call.seat, call.votes)
            case Succession():
                self._membership.succeed(call.successor, call.votes)
            case LogAnchoring():
                self._membership.anchor_log(call.member, call.root, call.entries, call.signature)
            case AddressAnnouncement():
                self._membership.announce(call.member, call.number, call.multiaddress, call.signature)
            case AuditOpening():
                self._membership.open_audit(call.member, call.seat, call.study, call.signature)
            case FormRegistration():
                self._consent.register_form(call.form, call.member, call.signature)
            case Grants():
                self._consent.grant(call.entries)
            case Anchoring():
                self._consent.anchor(call.entries)
            case Withdrawals():
                where = self._line[-1 if call.deployment is None else call.deployment]
                where[1].withdraw(call.entries)
            case HospitalWithdrawal():
                self._consent.withdraw_by_hospital(
                    call.member, call.consent_id, call.anchor_root, call.index, call.path, call.signature
                )
            case QuorumWithdrawal():
                self._consent.withdraw_by_quorum(call.member, call.consent_id, call.votes)
            case StudyCreation():
                self._training.create_study(call.terms, call.signature)
            case Joining():
                self._training.join(call.study, call.member, call.signature)
            case Leaving():
                self._training.leave(call.study, call.member, call.signature)
            case Commits():
                self._training.post_commits(call.study, call.round_id, call.entries)
            case Abstentions():
                self._training.post_abstains(call.study, call.round_id, call.entries)
            case Haves():
                self._training.post_haves(call.study, call.round_id, call.attempt, call.entries)
            case Finalisation():
                self._training.finalise(call.study, call.round_id, call.attempt, call.result, call.votes)
            case RoundFailure():
                self._training.fail_round(call.study, call.round_id)
            case Resumption():
                self._training.resume(call.study)
            case EquivocationReport():
                self._training.report_equivocation(call)
            case AuditAnnouncement():
                self._training.audit_access(
                    call.study, call.seat, call.from_height, call.to_height, call.ground, call.signature
                )
            case ErasureOpening():
                self._unlearning.open_erasure(call.opening, call.signature, call.steps)
            case ErasureAuthorisation():
                self._unlearning.authorise(call.opening, call.member, call.signature)
            case ErasureRefusal():
                self._unlearning.refuse(call.opening, call.member, call.ground, call.signature)
            case ErasureExtension():
                self._unlearning.extend(call.opening, call.member, call.due_at, call.signature)
            case ErasureProgress():
                self._unlearning.step(call.opening, call.member, call.steps)
            case Planning():
                self._unlearning.plan(call)
            case Purges():
                self._unlearning.attest_purge(call.opening, call.entries)
            case Verdicts():
                self._unlearning.verdicts(call.opening, call.entries, call.purges)
            case EvidenceAttestation():
                self._unlearning.attest(call.opening, call.level, call.seat, call.evidence, call.signature)

    # --- blocks

    def _next_stamp(self) -> int:
        return max(self._stamps[-1] + 1, int(self._clock()))

    def _begin(self) -> None:
        self._machine.begin(len(self._hashes), self._next_stamp(), self._hashes[-1])

    def _close_block(self, timestamp: int, records: tuple[Record, ...], deployment: int | None = None) -> Digest:
        """Put a block on the chain; the hash of its one transaction."""
        number = len(self._hashes)
        parent = self._hashes[-1] if self._hashes else ZERO
        transaction = hash_words("memory-transaction", self.contracts.chain_id, number, parent)
        contents = keccak256(repr(records).encode())
        block_hash = hash_words("memory-block", self.contracts.chain_id, number, parent, timestamp, contents)
        self._hashes.append(block_hash)
        self._stamps.append(timestamp)
        self._first_log.append(len(self._logged))
        self._logged.extend(
            Logged(
                Position(number, index),
                block_hash,
                timestamp,
                transaction,
                record,
                len(self._line) - 1 if deployment is None else deployment,
            )
            for index, record in enumerate(records)
        )
        return transaction
