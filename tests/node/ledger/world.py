"""Members with keys, the statements they sign, and a ledger to carry them to. The same for every kind of ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from crypto.commitments import consent_id, study_id
from crypto.digest import Digest, keccak256
from crypto.keys import LedgerKey
from crypto.statements import (
    Abstain,
    Admit,
    Anchor,
    Commit,
    CreateStudy,
    Form,
    Grant,
    Have,
    Join,
    Keys,
    Recover,
    RegisterForm,
    Revoke,
    Rotate,
    Seat,
    SeatAuditor,
    Statement,
    Vote,
    Withdraw,
    sign,
    struct_hash,
)
from node.abi import Codec
from node.memory.training import hash_of
from node.records import (
    ZERO,
    Abstentions,
    Admission,
    AnchorEntry,
    AuditorSeating,
    Call,
    CommitEntry,
    Commits,
    Contracts,
    Finalisation,
    FormRegistration,
    GrantEntry,
    HaveEntry,
    Haves,
    Joining,
    KeysInput,
    Ledger,
    Logged,
    Record,
    Recovery,
    Result,
    Revocation,
    Rotation,
    RoundOpened,
    SeatInput,
    Sent,
    StudyCreation,
    WithdrawalEntry,
)

R = TypeVar("R")
QUARTER = 1_893_456_000  # 1 January 2030
JUNK = bytes(65)


def word(text: str) -> Digest:
    """Some 32 bytes that differ by text."""
    return keccak256(text.encode())


def seat_of(key: LedgerKey, role: str, contracts: Contracts, name: str = "") -> SeatInput:
    """A seat with the applicant's own statement."""
    name = name or f"{role}-{key.address.hex()[:6]}"
    statement = Seat(role, b"\x00\x24peer" + key.address, word("sealing" + name), name)
    signature = sign(statement, contracts.domains.of(statement), key)
    return SeatInput(key.address, statement.peer_id, statement.sealing_key, name, signature)


def founding(
    members: Sequence[LedgerKey], auditors: Sequence[LedgerKey], contracts: Contracts
) -> tuple[list[SeatInput], list[SeatInput]]:
    """The founders' seats."""
    return (
        [seat_of(key, "member", contracts) for key in members],
        [seat_of(key, "auditor", contracts) for key in auditors],
    )


@lru_cache
def _codec() -> Codec:
    return Codec.load()


class World:
    """A network of a test. Member i is `keys[i]`."""

    def __init__(
        self,
        ledger: Ledger,
        keys: list[LedgerKey],
        auditors: list[LedgerKey],
        advance: Callable[[int], None],
        first_block: int = 0,
    ) -> None:
        self.ledger = ledger
        self.keys = keys
        self.auditors = auditors
        self.contracts = ledger.contracts
        self.domains = ledger.contracts.domains
        self.first_block = first_block
        self._advance = advance
        self._codec = _codec()

    # --- time

    @property
    def now(self) -> int:
        """The stamp the next block would get."""
        return self.ledger.head().time

    def advance(self, seconds: int) -> None:
        """Let time pass without a block."""
        self._advance(seconds)

    def pass_time(self, moment: int) -> None:
        """Let time pass until the next block's stamp is after `moment`."""
        if self.now <= moment:
            self._advance(moment - self.now + 1)

    # --- ledger

    def send(self, call: Call) -> Sent:
        # The embedded chain stamps each block a second later and will not run far ahead of its clock.
        self._advance(1)
        sent = self.ledger.send(call)
        if sent.gas_used:  # the table of gas limits leaves room on every path the suite takes
            assert sent.gas_used * 3 <= self._codec.encode(call, self.contracts).gas * 2, call
        return sent

    def logged(self) -> list[Logged]:
        """All records of this network."""
        return list(self.ledger.records(self.first_block, self.ledger.head().number))

    def all(self, kind: type[R]) -> list[R]:
        """All records of a kind."""
        return [one.record for one in self.logged() if isinstance(one.record, kind)]

    def sign(self, member: int, statement: Statement) -> bytes:
        return sign(statement, self.domains.of(statement), self.keys[member])

    def votes(self, members: Iterable[int], statement: Statement) -> tuple[tuple[int, bytes], ...]:
        return tuple((member, self.sign(member, statement)) for member in members)

    # --- membership

    def admission(self, key: LedgerKey, voters: Iterable[int], epoch: int) -> Admission:
        seat = seat_of(key, "member", self.contracts)
        seat_hash = struct_hash(Seat("member", seat.peer_id, Digest(seat.sealing_key), seat.name))
        return Admission(seat, self.votes(voters, Admit(epoch, key.address, seat_hash)))

    def new_keys(self, member: int, key: LedgerKey, peer_id: bytes = b"") -> tuple[KeysInput, Digest]:
        """Keys for a seat with their own statement, and its hash."""
        statement = Keys(
            member, key.address, peer_id or b"\x00\x24peer" + key.address, word("sealing" + key.address.hex())
        )
        signature = sign(statement, self.domains.of(statement), key)
        keys = KeysInput(statement.ledger, statement.peer_id, statement.sealing_key, signature)
        return keys, struct_hash(statement)

    def rotation(self, member: int, key: LedgerKey, epoch: int) -> Rotation:
        keys, keys_hash = self.new_keys(member, key)
        return Rotation(member, keys, self.sign(member, Rotate(epoch, member, keys_hash)))

    def revocation(self, member: int, voters: Iterable[int], epoch: int) -> Revocation:
        return Revocation(member, self.votes(voters, Revoke(epoch, member, self.keys[member].address)))

    def recovery(self, member: int, key: LedgerKey, voters: Iterable[int], epoch: int) -> Recovery:
        keys, keys_hash = self.new_keys(member, key)
        return Recovery(member, keys, self.votes(voters, Recover(epoch, member, keys_hash)))

    def seating(
        self, key: LedgerKey, study: Digest, term_end: int, voters: Iterable[int], epoch: int
    ) -> AuditorSeating:
        """An auditor for `study` (zero: for every one) until `term_end`."""
        seat = seat_of(key, "auditor", self.contracts)
        seat_hash = struct_hash(Seat("auditor", seat.peer_id, Digest(seat.sealing_key), seat.name))
        votes = self.votes(voters, SeatAuditor(epoch, key.address, seat_hash, study, term_end))
        return AuditorSeating(seat, study, term_end, votes)

    # --- studies and rounds

    def terms(self, **changes: Any) -> CreateStudy:
        values: dict[str, Any] = {
            "member": 0,
            "spec_hash": word("spec"),
            "initial_model": word("initial model"),
            "invited": (1 << len(self.keys)) - 1,
            "rounds": 20,
            "f": 1,
            "min_included": 0,
            "scribe_seconds": 100,
            "grace_seconds": 20,
            "reveal_seconds": 60,
            "have_seconds": 40,
            "vote_seconds": 50,
            "purge_seconds": 200,
            "suspend_after": 2,
            "suspend_rounds": 2,
            "max_round_age": 2_000,
            "erasure_window": 300,
        }
        return CreateStudy(**{**values, **changes})

    def study(self, **changes: Any) -> tuple[Digest, RoundOpened]:
        """Create a study, let everyone invited join; its id and first round."""
        terms = self.terms(**changes)
        self.send(StudyCreation(terms, self.sign(terms.member, terms)))
        study = study_id(struct_hash(terms))
        sent = None
        for member in range(len(self.keys)):
            if terms.invited >> member & 1:
                sent = self.send(Joining(study, member, self.sign(member, Join(study, member))))
        assert sent is not None
        return study, one_of(sent, RoundOpened)

    def commit_entry(self, round_id: Digest, member: int, text: str = "") -> CommitEntry:
        roots = (word(f"update {member}{text}"), word(f"dataset {member}"), ZERO)
        return CommitEntry(member, *roots, self.sign(member, Commit(round_id, member, *roots)))

    def commit(self, round_id: Digest, members: Iterable[int]) -> Sent:
        return self.send(
            Commits(self.study_of(round_id), round_id, tuple(self.commit_entry(round_id, member) for member in members))
        )

    def abstention(self, round_id: Digest, member: int) -> bytes:
        return self.sign(member, Abstain(round_id, member))

    def abstain(self, round_id: Digest, members: Iterable[int]) -> Sent:
        entries = tuple((member, self.abstention(round_id, member)) for member in members)
        return self.send(Abstentions(self.study_of(round_id), round_id, entries))

    def have_entry(self, round_id: Digest, attempt: int, member: int, bitmap: int) -> HaveEntry:
        return HaveEntry(member, bitmap, self.sign(member, Have(round_id, member, attempt, bitmap)))

    def haves(self, round_id: Digest, attempt: int, bitmaps: dict[int, int]) -> Sent:
        entries = tuple(self.have_entry(round_id, attempt, member, held) for member, held in bitmaps.items())
        return self.send(Haves(self.study_of(round_id), round_id, attempt, entries))

    def study_of(self, round_id: Digest) -> Digest:
        """The study of a round that opened."""
        return next((one.study for one in self.all(RoundOpened) if one.round_id == round_id), ZERO)

    def commit_root(self, round_id: Digest) -> Digest:
        """The rolling hash of the round's commitments, from the records."""
        from node.records import Committed

        root = ZERO
        for one in self.all(Committed):
            if one.round_id == round_id:
                statement = Commit(round_id, one.member, one.update_root, one.dataset_root, one.next_dataset_root)
                root = keccak256(root + struct_hash(statement))
        return root

    def result(self, round_id: Digest, included: int, **changes: Any) -> Result:
        values: dict[str, Any] = {
            "outcome": 1,
            "included": included,
            "codes": 0,
            "model_root": word("model after " + round_id.hex()),
            "trust": b"\x03\xe8" * len(self.keys),
            "commit_root": self.commit_root(round_id),
            "consent_acc": word("consent accumulator at the seal"),
        }
        return Result(**{**values, **changes})

    def finalisation(
        self, round_id: Digest, attempt: int, decided: int, result: Result, voters: Iterable[int]
    ) -> Finalisation:
        vote = Vote(round_id, attempt, decided, hash_of(result))
        return Finalisation(self.study_of(round_id), round_id, attempt, result, self.votes(voters, vote))

    def finish(self, round_id: Digest, members: Iterable[int] | None = None) -> Sent:
        """Commit, then a result of attempt 0 by everyone."""
        who = list(range(len(self.keys)) if members is None else members)
        self.commit(round_id, who)
        bits = sum(1 << member for member in who)
        rest = [m for m in range(len(self.keys)) if m not in who]
        if rest:
            self.abstain(round_id, rest)
        result = self.result(round_id, bits)
        return self.send(self.finalisation(round_id, 0, bits, result, range(len(self.keys))))

    # --- consents

    def form(self, study: Digest, **changes: Any) -> Form:
        values: dict[str, Any] = {
            "study": study,
            "purposes": 5,
            "text_hash": word("text"),
            "custody": 3,
            "basis": 1,
            "valid_to": QUARTER,
            "on_withdrawal": 3,
        }
        return Form(**{**values, **changes})

    def register(self, form: Form, member: int = 0) -> Digest:
        form_id = struct_hash(form)
        self.send(FormRegistration(form, member, self.sign(member, RegisterForm(member, form_id))))
        return form_id

    def grant_entry(self, form_id: Digest, member: int, consent: Digest) -> GrantEntry:
        return self.grants_entry(form_id, member, (consent,))

    def grants_entry(self, form_id: Digest, member: int, ids: tuple[Digest, ...]) -> GrantEntry:
        """One statement of a hospital over several consents."""
        return GrantEntry(form_id, member, ids, self.sign(member, Grant(form_id, member, ids)))

    def anchor_entry(self, study: Digest, form_id: Digest, member: int, count: int, *roots: Digest) -> AnchorEntry:
        """One statement of a hospital over roots of `count` leaves each."""
        signature = self.sign(member, Anchor(study, form_id, member, count, roots))
        return AnchorEntry(study, form_id, member, count, roots, signature)

    def patient(self, text: str) -> tuple[Digest, WithdrawalEntry]:
        """A consent id and its holder's pre-signed withdrawal."""
        holder = LedgerKey(word("holder " + text))
        salt, binding = word("salt " + text), word("binding " + text)
        consent = consent_id(holder.address, salt, binding)
        statement = Withdraw(consent)
        signature = sign(statement, self.domains.of(statement), holder)
        return consent, WithdrawalEntry(holder.address, salt, binding, signature)


def one_of(sent: Sent, kind: type[R]) -> R:
    """The one record of a kind that a call brought."""
    found = [record for record in sent.records if isinstance(record, kind)]
    assert len(found) == 1, sent.records
    return found[0]


def kinds(sent: Sent) -> list[str]:
    """The kinds of the records that a call brought, in order."""
    return [type(record).__name__ for record in sent.records]


def records_of(sent: Sent, kind: type[R]) -> list[R]:
    return [record for record in sent.records if isinstance(record, kind)]


__all__ = ["JUNK", "QUARTER", "Record", "World", "founding", "kinds", "one_of", "records_of", "seat_of", "word"]
