"""ConsentRegistry in memory: the rules of `contracts/ConsentRegistry.sol`, function by function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from crypto.commitments import consent_id
from crypto.digest import ZERO, Digest
from crypto.errors import CryptoError
from crypto.merkle import verify_anchored
from crypto.statements import (
    Anchor,
    Form,
    Grant,
    RegisterForm,
    Withdraw,
    WithdrawByHospital,
    WithdrawByQuorum,
    struct_hash,
)
from node.duo import KNOWN, PERMISSIONS
from node.memory.machine import NO_MEMBER, Contract, Machine, Skip, Slots, refuse
from node.memory.membership import Membership
from node.records import Anchored, AnchorEntry, FormRegistered, Granted, GrantEntry, WithdrawalEntry, Withdrawn

LEAST_ANCHOR, MOST_ANCHOR = 32, 1 << 20
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """Who granted, and under which form."""

    form_id: Digest
    member: int


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """Which hospital anchored how many leaves, dummies included."""

    form_id: Digest
    member: int
    count: int


class ConsentRegistry(Contract):
    """Forms, grants, anchors, and withdrawals that nothing can stop or undo."""

    def __init__(
        self, machine: Machine, address: bytes, membership: Membership, predecessor: ConsentRegistry | None = None
    ) -> None:
        """Deploy. What was granted or ended at the `predecessor` counts here, also what ends there later."""
        self._predecessor = predecessor
        super().__init__(machine, address)
        self._membership = membership
        self._forms: Slots[Digest, Form | None] = Slots(machine, None)
        self._grants: Slots[Digest, StoredGrant | None] = Slots(machine, None)
        self._anchors: Slots[Digest, StoredAnchor | None] = Slots(machine, None)
        self._withdrawn: Slots[Digest, int] = Slots(machine, 0)

    def withdrawn_at(self, consent: Digest) -> int:
        """When the consent ended, zero if it has not."""
        before = 0 if self._predecessor is None else self._predecessor.withdrawn_at(consent)
        return min(filter(None, (self._withdrawn[consent], before)), default=0)

    def _grant_of(self, consent: Digest) -> StoredGrant | None:
        before = None if self._predecessor is None else self._predecessor._grant_of(consent)
        return self._grants[consent] or before

    def _anchor_of(self, root: Digest) -> StoredAnchor | None:
        before = None if self._predecessor is None else self._predecessor._anchor_of(root)
        return self._anchors[root] or before

    def register_form(self, form: Form, member: int, signature: bytes) -> None:
        """`registerForm`: an active member's RegisterForm."""
        self._check_form(form)
        form_id = struct_hash(form)
        if self._forms[form_id] is not None:
            refuse("FormKnown", formId=form_id)
        self._check_member(member, RegisterForm(member, form_id), signature)
        self._forms[form_id] = form
        self.record(
            FormRegistered(
                form_id,
                form.study,
                form.purposes,
                form.text_hash,
                form.custody,
                form.basis,
                form.valid_to,
                form.on_withdrawal,
            )
        )

    def grant(self, entries: Sequence[GrantEntry]) -> None:
        """`grant`: a batch of hospitals' statements; consents that do not count are skipped and logged."""
        for entry in entries:
            fault = self._fault(entry, Grant)
            for consent in entry.consent_ids:
                reason = fault or self._why_not_granted(consent)
                if reason is not None:
                    self.skip(consent, entry.member, reason)
                    continue
                self._grants[consent] = StoredGrant(entry.form_id, entry.member)
                self.record(Granted(consent, entry.form_id, entry.member))

    def anchor(self, entries: Sequence[AnchorEntry]) -> None:
        """`anchor`: a batch of hospitals' statements; roots that do not count are skipped and logged."""
        for entry in entries:
            fault = self._fault(entry, Anchor)
            if fault is None and (not LEAST_ANCHOR <= entry.count <= MOST_ANCHOR or entry.count & (entry.count - 1)):
                fault = Skip.MALFORMED
            kept = []
            for root in entry.roots:
                reason = fault or self._why_not_anchored(root)
                if reason is not None:
                    self.skip(root, entry.member, reason)
                    continue
                self._anchors[root] = StoredAnchor(entry.form_id, entry.member, entry.count)
                kept.append(root)
            if kept:
                self.record(Anchored(entry.study, entry.form_id, entry.member, entry.count, tuple(kept)))

    def withdraw(self, entries: Sequence[WithdrawalEntry]) -> None:
        """`withdraw`: a batch of holders' statements, whether a grant is known here or not."""
        ended = []
        for entry in entries:
            consent = consent_id(entry.holder, entry.holder_salt, entry.binding)
            if self._withdrawn[consent]:
                self.skip(consent, NO_MEMBER, Skip.DUPLICATE)
            elif not self.signed(Withdraw(consent), entry.signature, entry.holder):
                self.skip(consent, NO_MEMBER, Skip.BAD_SIGNATURE)
            else:
                self._withdrawn[consent] = self.machine.timestamp
                ended.append(consent)
        for consent in ended:  # one event of them all, after those of the entries that were skipped
            self.record(Withdrawn(consent, self.machine.timestamp))

    def withdraw_by_hospital(
        self, member: int, consent: Digest, anchor_root: Digest, index: int, path: Sequence[Digest], signature: bytes
    ) -> None:
        """`withdrawByHospital`: by the hospital that granted, also one that was removed since."""
        if self._withdrawn[consent]:
            refuse("AlreadyWithdrawn", consentId=consent)
        if not self._granted_by(member, consent, anchor_root, index, path):
            refuse("NotGrantedBy", consentId=consent, member=member)
        ledger = self._membership.snapshot().ledger_of(member)
        self.check(member, ledger, WithdrawByHospital(member, consent), signature)
        self._withdraw(consent)

    def withdraw_by_quorum(self, member: int, consent: Digest, votes: Sequence[tuple[int, bytes]]) -> None:
        """`withdrawByQuorum`: of a hospital that is not active; votes WithdrawByQuorum(epoch, member, consentId)."""
        if self._withdrawn[consent]:
            refuse("AlreadyWithdrawn", consentId=consent)
        roster = self._membership.snapshot()
        if roster.has(member):
            refuse("StillMember", index=member)
        if roster.ledger_of(member) == bytes(20):
            refuse("NotActive", index=member)
        statement = WithdrawByQuorum(roster.epoch, member, consent)
        self.check_quorum(statement, votes, roster.active, roster.quorum, roster.ledger_of)
        self._withdraw(consent)

    def _withdraw(self, consent: Digest) -> None:
        self._withdrawn[consent] = self.machine.timestamp
        self.record(Withdrawn(consent, self.machine.timestamp))

    def _fault(self, entry: GrantEntry | AnchorEntry, kind: type[Grant] | type[Anchor]) -> Skip | None:
        """Why a hospital's statement does not hold."""
        form = self._forms[entry.form_id]
        if form is None or (isinstance(entry, AnchorEntry) and form.study != entry.study):
            return Skip.UNKNOWN_SUBJECT
        roster = self._membership.snapshot()
        if not roster.has(entry.member):
            return Skip.UNKNOWN_MEMBER
        statement = kind(**{name: getattr(entry, name) for name, _ in kind.layout()})
        if not self.signed(statement, entry.signature, roster.ledger_of(entry.member)):
            return Skip.BAD_SIGNATURE
        return None

    def _why_not_granted(self, consent: Digest) -> Skip | None:
        if self._grants[consent] is not None:
            return Skip.DUPLICATE
        if self.withdrawn_at(consent):
            return Skip.WRONG_PHASE
        return Skip.MALFORMED if consent == ZERO else None

    def _why_not_anchored(self, root: Digest) -> Skip | None:
        if root == ZERO:
            return Skip.MALFORMED
        return None if self._anchors[root] is None else Skip.DUPLICATE

    def _granted_by(self, member: int, consent: Digest, root: Digest, index: int, path: Sequence[Digest]) -> bool:
        if root == ZERO:
            grant = self._grant_of(consent)
            return grant is not None and grant.member == member
        anchor = self._anchor_of(root)
        if anchor is None or anchor.member != member:
            return False
        try:
            verify_anchored(root, anchor.count, consent, index, path)
        except CryptoError:
            return False
        return True

    def _check_member(self, member: int, statement: RegisterForm, signature: bytes) -> None:
        roster = self._membership.snapshot()
        if not roster.has(member):
            refuse("NotActive", index=member)
        self.check(member, roster.ledger_of(member), statement, signature)

    def _check_form(self, form: Form) -> None:
        for field, word in (("study", form.study), ("textHash", form.text_hash)):
            if word == ZERO:
                refuse("FormField", field=field, got=0)
        if form.purposes & ~KNOWN:
            refuse("FormUnknownPurposes", bits=form.purposes & ~KNOWN)
        if not form.purposes & PERMISSIONS:
            refuse("FormWithoutPermission", purposes=form.purposes)
        for field, value in (("custody", form.custody), ("basis", form.basis), ("onWithdrawal", form.on_withdrawal)):
            if not 1 <= value <= 3:
                refuse("FormField", field=field, got=value)
        if not is_quarter(form.valid_to):
            refuse("FormField", field="validTo", got=form.valid_to)


def is_quarter(timestamp: int) -> bool:
    """Whether a stamp is midnight UTC of the first day of a quarter."""
    if timestamp % DAY_S:
        return False
    day = datetime.fromtimestamp(timestamp, UTC)
    return day.day == 1 and day.month in (1, 4, 7, 10)
