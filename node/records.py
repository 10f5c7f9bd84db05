"""The ledger as the rest of the node sees it: typed records, typed calls, one protocol.

What may live here: frozen values, one per contract event and one per contract function, and the `Ledger` protocol
that carries them. What this file does not know: ABI encoding, sockets, the clock. `node/ledger.py` (any Ethereum
client), `node/memory/ledger.py` (in process) and the offline audit all speak these types and pass the same tests.

Member sets are bitmaps by member index (`roster & (1 << i)`), times are block timestamps in seconds, roots are
32-byte digests. Invalid codes are packed four bits a member (`codes >> (4 * i) & 15`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from crypto.digest import Digest, hash_words
from crypto.statements import Commit, CreateStudy, Domains, Form, Have, OpenErasure, Vote

MAX_MEMBERS = 32
ZERO = Digest(bytes(32))


# --------------------------------------------------------------------------------------------------------------------
# Where a record stands


@dataclass(frozen=True, order=True, slots=True)
class Position:
    """A place in the chain's total order: block number, index of the log inside the block, and place inside the log."""

    block: int
    log_index: int
    entry: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block a ledger knows. `time` is what a transaction sent now would be stamped with, at least."""

    number: int
    block_hash: Digest
    timestamp: int
    final_number: int
    time: int


# --------------------------------------------------------------------------------------------------------------------
# Events of Membership


@dataclass(frozen=True, slots=True)
class MemberAdmitted:
    index: int
    ledger: bytes  # 20-byte address
    peer_id: bytes  # libp2p peer id, multihash bytes
    sealing_key: bytes  # X25519 public key, 32 bytes
    name: str
    epoch: int


@dataclass(frozen=True, slots=True)
class MemberRemoved:
    index: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AuditorSeated:
    seat: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    name: str
    study: Digest  # zero: every study of the network
    term_end: int
    epoch: int


@dataclass(frozen=True, slots=True)
class MemberRotated:
    """By its own word. `at`: block time; rounds opened then or earlier are decided with the old ledger key."""

    index: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    at: int
    epoch: int


@dataclass(frozen=True, slots=True)
class MemberRevoked:
    index: int
    at: int
    epoch: int


@dataclass(frozen=True, slots=True)
class MemberRecovered:
    index: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    at: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AuditorEnded:
    seat: int
    term_end: int
    epoch: int


@dataclass(frozen=True, slots=True)
class NetworkSucceeded:
    """The members go on with another deployment. `successor`: 20-byte address of its Membership."""

    successor: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class LogAnchored:
    """A segment of a member's own log. `entries`: lines so far, this segment's included. Changes no epoch."""

    member: int
    root: Digest
    entries: int


@dataclass(frozen=True, slots=True)
class AuditOpened:
    """A member hands a study's content keys to the auditor in this seat from here on. Changes no epoch."""

    member: int
    seat: int
    study: Digest


@dataclass(frozen=True, slots=True)
class AddressAnnounced:
    """Where a member is dialled from here on; empty: nowhere. Changes no epoch."""

    member: int
    number: int
    multiaddress: bytes

    @property
    def text(self) -> str:
        """The address as text; what is no printable ASCII, and so no address, shows as question marks."""
        return "".join(chr(one) if 32 <= one < 127 else "?" for one in self.multiaddress)


# --------------------------------------------------------------------------------------------------------------------
# Events of ConsentRegistry


@dataclass(frozen=True, slots=True)
class FormRegistered:
    form_id: Digest
    study: Digest
    purposes: int
    text_hash: Digest
    custody: int  # 1 hospital-attested, 2 patient-signed, 3 synthetic
    basis: int  # 1 consent, 2 law, 3 opt-out
    valid_to: int
    on_withdrawal: int  # 1 stop, 2 stop and delete, 3 stop, delete and unlearn


@dataclass(frozen=True, slots=True)
class Granted:
    consent_id: Digest
    form_id: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Anchored:
    study: Digest
    form_id: Digest
    member: int
    count: int  # leaves a root
    roots: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    consent_id: Digest
    at: int


# --------------------------------------------------------------------------------------------------------------------
# Events of TrainingLedger


@dataclass(frozen=True, slots=True)
class StudyCreated:
    study: Digest
    creator: int
    terms: CreateStudy


@dataclass(frozen=True, slots=True)
class StudyContinued:
    """A study of the deployment before goes on here. `height`: the newest round's; `tree`: `Continuation.tree`."""

    study: Digest
    joined: int
    left: int
    branch: int
    height: int
    finals: int
    lineage: Digest
    model: Digest
    tree: Digest


@dataclass(frozen=True, slots=True)
class Joined:
    study: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Left:
    study: Digest
    member: int


@dataclass(frozen=True, slots=True)
class RoundOpened:
    round_id: Digest
    study: Digest
    branch: int
    height: int
    parent_result: Digest  # lineage of the branch's newest result: crypto.commitments.lineage
    parent_model: Digest
    epoch: int
    roster: int
    suspended: int
    f: int
    quorum: int
    consent_acc: Digest
    membership_acc: Digest
    previous_block: Digest
    opened_at: int


@dataclass(frozen=True, slots=True)
class Committed:
    round_id: Digest
    member: int
    update_root: Digest
    dataset_root: Digest
    next_dataset_root: Digest


@dataclass(frozen=True, slots=True)
class Abstained:
    round_id: Digest
    member: int


@dataclass(frozen=True, slots=True)
class HavePosted:
    round_id: Digest
    attempt: int
    member: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a vote is about: a pure function of the included plaintexts and the chain (PROTOCOL.md, clause 7)."""

    outcome: int  # 1 model, 2 no result
    included: int
    codes: int
    model_root: Digest
    trust: bytes  # two bytes big-endian per member index up to the highest roster bit, permille
    commit_root: Digest
    consent_acc: Digest


@dataclass(frozen=True, slots=True)
class RoundFinal:
    round_id: Digest
    study: Digest
    branch: int
    height: int
    attempt: int
    result: Result
    result_hash: Digest
    signers: int


@dataclass(frozen=True, slots=True)
class RoundFailed:
    round_id: Digest
    study: Digest
    branch: int
    height: int
    reason: int  # 1 quorum of commitments missed, 2 attempts exhausted, 3 too old


@dataclass(frozen=True, slots=True)
class ReplayGivenUp:
    """A replay ended without the models it was to make; `model` is what it has, and what the verdicts are about."""

    study: Digest
    branch: int
    model: Digest


@dataclass(frozen=True, slots=True)
class Equivocated:
    round_id: Digest
    member: int
    kind: int  # 1 commit, 2 vote, 3 have


@dataclass(frozen=True, slots=True)
class AuditAccessed:
    study: Digest
    seat: int
    from_height: int
    to_height: int
    ground: Digest


@dataclass(frozen=True, slots=True)
class BranchCreated:
    study: Digest
    branch: int
    parent: int
    base_height: int
    base_model: Digest
    base_result: Digest
    branch_seed: Digest
    target_height: int
    batch: Digest


@dataclass(frozen=True, slots=True)
class EntrySkipped:
    subject: Digest
    member: int
    reason: int  # 1 duplicate, 2 bad signature, 3 unknown member, 4 wrong phase, 5 unknown subject, 6 malformed


# --------------------------------------------------------------------------------------------------------------------
# Events of UnlearningRegistry


@dataclass(frozen=True, slots=True)
class ErasureOpened:
    batch: Digest
    study: Digest
    controller: int
    poster: int
    requests_root: Digest
    due_at: int
    opened_at: int


@dataclass(frozen=True, slots=True)
class ErasureAuthorised:
    batch: Digest


@dataclass(frozen=True, slots=True)
class ErasureRefused:
    batch: Digest
    ground: int


@dataclass(frozen=True, slots=True)
class ErasureExtended:
    """By the controller, once: the answer is due later (Art. 12(3) GDPR)."""

    batch: Digest
    due_at: int


@dataclass(frozen=True, slots=True)
class ErasureStepped:
    """An evidence for each step from `first` on."""

    batch: Digest
    first: int  # 1 excluded, 2 copy deleted, 3 certificate delivered, 4 link destroyed, 5 closed
    evidence: tuple[Digest, ...]

    @property
    def steps(self) -> dict[int, Digest]:
        """Number of a step -> its evidence."""
        return dict(enumerate(self.evidence, self.first))


@dataclass(frozen=True, slots=True)
class ErasurePlanned:
    batch: Digest
    study: Digest
    branch: int
    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    method: int  # `node.methods`; 0 where nothing is replayed
    rounds: int


@dataclass(frozen=True, slots=True)
class PurgesAttested:
    batch: Digest
    members: int
    inventories: tuple[Digest, ...]  # of each member, ascending

    @property
    def by_member(self) -> dict[int, Digest]:
        """Member -> what it says that it deleted."""
        indexes = (i for i in range(MAX_MEMBERS) if self.members >> i & 1)
        return dict(zip(indexes, self.inventories, strict=True))


@dataclass(frozen=True, slots=True)
class VerdictsGiven:
    batch: Digest
    branch: int
    head_model: Digest
    members: int
    confirming: int  # of these; the others deny


@dataclass(frozen=True, slots=True)
class ErasureConfirmed:
    batch: Digest
    branch: int
    head_model: Digest


@dataclass(frozen=True, slots=True)
class HeadMoved:
    batch: Digest
    study: Digest
    branch: int


@dataclass(frozen=True, slots=True)
class ErasureClosed:
    batch: Digest
    exceptions: int


LEVEL_LOCAL_REPLAY: Final = 3
"""Evidence of an auditor: an executor repeated the controller's training in the replay's rounds, bit for bit."""

LEVEL_ATTACK_AUDIT: Final = 4
"""Evidence of an auditor: an attack on the model was tried."""


@dataclass(frozen=True, slots=True)
class EvidenceAttested:
    """By the auditor in this seat, once a level: it holds a report about the confirmed erasure, whose hash this is."""

    batch: Digest
    level: int  # LEVEL_LOCAL_REPLAY or LEVEL_ATTACK_AUDIT
    seat: int
    evidence: Digest


Record = (
    MemberAdmitted
    | MemberRemoved
    | AuditorSeated
    | MemberRotated
    | MemberRevoked
    | MemberRecovered
    | AuditorEnded
    | NetworkSucceeded
    | LogAnchored
    | AddressAnnounced
    | AuditOpened
    | FormRegistered
    | Granted
    | Anchored
    | Withdrawn
    | StudyCreated
    | StudyContinued
    | Joined
    | Left
    | RoundOpened
    | Committed
    | Abstained
    | HavePosted
    | RoundFinal
    | RoundFailed
    | ReplayGivenUp
    | Equivocated
    | AuditAccessed
    | BranchCreated
    | EntrySkipped
    | ErasureOpened
    | ErasureAuthorised
    | ErasureRefused
    | ErasureExtended
    | ErasureStepped
    | ErasurePlanned
    | PurgesAttested
    | VerdictsGiven
    | ErasureConfirmed
    | HeadMoved
    | ErasureClosed
    | EvidenceAttested
)


@dataclass(frozen=True, slots=True)
class Logged:
    """A record with the place that orders it and the transaction that brought it.

    `deployment`: which of the network's it is from, counted from 0, the first one.
    """

    position: Position
    block_hash: Digest
    timestamp: int
    transaction: Digest
    record: Record
    deployment: int = 0


def transaction_text(transaction: Digest) -> str:
    """A transaction's hash in the form that clients and block explorers take."""
    return f"0x{transaction.hex()}"


# --------------------------------------------------------------------------------------------------------------------
# Calls: what anyone may carry to the chain. The contracts look at the signatures inside, never at the carrier.


@dataclass(frozen=True, slots=True)
class SeatInput:
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    name: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Admission:
    seat: SeatInput
    votes: tuple[tuple[int, bytes], ...]  # (member index, signature of Admit)


@dataclass(frozen=True, slots=True)
class Removal:
    member: int
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class AuditorSeating:
    seat: SeatInput
    study: Digest
    term_end: int
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class KeysInput:
    """A member's new keys; `signature` is the new ledger key's over Keys(member, ledger, peer_id, sealing_key)."""

    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Rotation:
    member: int
    keys: KeysInput
    signature: bytes  # the old ledger key's, of Rotate


@dataclass(frozen=True, slots=True)
class Revocation:
    member: int
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    member: int
    keys: KeysInput
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class AuditorEnding:
    seat: int
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Succession:
    successor: bytes
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class LogAnchoring:
    member: int
    root: Digest
    entries: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class AddressAnnouncement:
    member: int
    number: int
    multiaddress: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class AuditOpening:
    member: int
    seat: int
    study: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class FormRegistration:
    form: Form
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class GrantEntry:
    form_id: Digest
    member: int
    consent_ids: tuple[Digest, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Grants:
    entries: tuple[GrantEntry, ...]


@dataclass(frozen=True, slots=True)
class AnchorEntry:
    study: Digest
    form_id: Digest
    member: int
    count: int
    roots: tuple[Digest, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class Anchoring:
    entries: tuple[AnchorEntry, ...]


@dataclass(frozen=True, slots=True)
class WithdrawalEntry:
    holder: bytes
    holder_salt: Digest
    binding: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class Withdrawals:
    """`deployment`: whose ConsentRegistry takes them, as a card names it; None: the newest. The newest counts both."""

    entries: tuple[WithdrawalEntry, ...]
    deployment: int | None = None


@dataclass(frozen=True, slots=True)
class HospitalWithdrawal:
    member: int
    consent_id: Digest
    anchor_root: Digest  # zero: a stored grant
    index: int
    path: tuple[Digest, ...]
    signature: bytes


@dataclass(frozen=True, slots=True)
class QuorumWithdrawal:
    """Ends a consent of a hospital that is not active: removed, or its key revoked."""

    member: int  # the hospital
    consent_id: Digest
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class StudyCreation:
    terms: CreateStudy
    signature: bytes


@dataclass(frozen=True, slots=True)
class Joining:
    study: Digest
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Leaving:
    study: Digest
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class CommitEntry:
    member: int
    update_root: Digest
    dataset_root: Digest
    next_dataset_root: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class Commits:
    study: Digest
    round_id: Digest
    entries: tuple[CommitEntry, ...]


@dataclass(frozen=True, slots=True)
class Abstentions:
    study: Digest
    round_id: Digest
    entries: tuple[tuple[int, bytes], ...]  # (member, signature)


@dataclass(frozen=True, slots=True)
class HaveEntry:
    member: int
    bitmap: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Haves:
    study: Digest
    round_id: Digest
    attempt: int
    entries: tuple[HaveEntry, ...]


@dataclass(frozen=True, slots=True)
class Finalisation:
    study: Digest
    round_id: Digest
    attempt: int
    result: Result
    votes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class RoundFailure:
    study: Digest
    round_id: Digest


@dataclass(frozen=True, slots=True)
class Resumption:
    """Open the next round of a study that has none, where an end or a join did not."""

    study: Digest


@dataclass(frozen=True, slots=True)
class Opening:
    """What a round stood on when it opened: with chain, contract and study it makes the round's id."""

    branch: int
    height: int
    parent_result: Digest
    parent_model: Digest
    epoch: int
    roster: int
    suspended: int
    consent_acc: Digest
    membership_acc: Digest
    previous_block: Digest

    @staticmethod
    def of(opened: RoundOpened) -> Opening:
        """As the chain said it."""
        return Opening(*(getattr(opened, name) for name in Opening.__slots__))


@dataclass(frozen=True, slots=True)
class Evidence:
    """A statement that a member signed."""

    statement: Commit | Vote | Have
    signature: bytes


@dataclass(frozen=True, slots=True)
class EquivocationReport:
    """Two statements of one member about one round that exclude each other. The round may be over."""

    study: Digest
    opening: Opening
    opened_at: int  # the member's key of that time signed
    kind: int  # 1 commit, 2 vote, 3 have
    member: int
    a: Evidence
    b: Evidence


@dataclass(frozen=True, slots=True)
class AuditAnnouncement:
    study: Digest
    seat: int
    from_height: int
    to_height: int
    ground: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of the controller, an evidence for each from number `first` on, under one signature of ErasureSteps."""

    first: int
    evidence: tuple[Digest, ...]
    signature: bytes


NO_STEPS = Steps(0, (), b"")


@dataclass(frozen=True, slots=True)
class ErasureOpening:
    """`steps` come along where the controller opens and has taken them already."""

    opening: OpenErasure
    signature: bytes
    steps: Steps = NO_STEPS


@dataclass(frozen=True, slots=True)
class ErasureAuthorisation:
    """Calls name a batch by what it was opened with: its id is the hash of that."""

    opening: OpenErasure
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ErasureRefusal:
    opening: OpenErasure
    member: int
    ground: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ErasureExtension:
    opening: OpenErasure
    member: int
    due_at: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ErasureProgress:
    opening: OpenErasure
    member: int
    steps: Steps


@dataclass(frozen=True, slots=True)
class ForkProof:
    """A branch on the way from a checkpoint to the training branch: see `ITrainingLedger.ForkProof`."""

    batch: Digest
    base_model: Digest
    links: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class BaseProof:
    """That a model is a checkpoint: see `ITrainingLedger.BaseProof`. Nobody signs it."""

    parent: Digest
    named: Digest
    links: tuple[Digest, ...]
    forks: tuple[ForkProof, ...] = ()


@dataclass(frozen=True, slots=True)
class Planning:
    opening: OpenErasure
    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    method: int
    rounds: int
    votes: tuple[tuple[int, bytes], ...]
    proof: BaseProof


@dataclass(frozen=True, slots=True)
class PurgeEntry:
    member: int
    inventory: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class Purges:
    """Final ones, one of a member."""

    opening: OpenErasure
    entries: tuple[PurgeEntry, ...]


@dataclass(frozen=True, slots=True)
class VerdictEntry:
    """On the branch and model that the contract knows."""

    member: int
    confirmed: bool
    signature: bytes


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One of a member; `purges` come along."""

    opening: OpenErasure
    entries: tuple[VerdictEntry, ...]
    purges: tuple[PurgeEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceAttestation:
    """An auditor's Attest about a confirmed erasure; fields as in `EvidenceAttested`."""

    opening: OpenErasure
    level: int
    seat: int
    evidence: Digest
    signature: bytes


Call = (
    Admission
    | Removal
    | AuditorSeating
    | Rotation
    | Revocation
    | Recovery
    | AuditorEnding
    | Succession
    | LogAnchoring
    | AddressAnnouncement
    | AuditOpening
    | FormRegistration
    | Grants
    | Anchoring
    | Withdrawals
    | HospitalWithdrawal
    | QuorumWithdrawal
    | StudyCreation
    | Joining
    | Leaving
    | Commits
    | Abstentions
    | Haves
    | Finalisation
    | RoundFailure
    | Resumption
    | EquivocationReport
    | AuditAnnouncement
    | ErasureOpening
    | ErasureAuthorisation
    | ErasureRefusal
    | ErasureExtension
    | ErasureProgress
    | Planning
    | Purges
    | Verdicts
    | EvidenceAttestation
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that was mined and did not revert. `records` are the events its transaction emitted, in order."""

    transaction: Digest
    block: int
    gas_used: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Contracts:
    """Addresses (20 bytes each) of one deployment on one chain: the domains every statement is signed for.

    `before`: the deployment that this one continues, on the same chain.
    """

    chain_id: int
    membership: bytes
    consent: bytes
    training: bytes
    unlearning: bytes
    before: Contracts | None = field(default=None, compare=False, kw_only=True)

    @property
    def line(self) -> tuple[Contracts, ...]:
        """This deployment and those before it, the first one first."""
        return (*(() if self.before is None else self.before.line), self)

    @property
    def domains(self) -> Domains:
        """The EIP-712 domains of this deployment, and of those before it."""
        return Domains(
            chain_id=self.chain_id,
            membership=self.membership,
            training=self.training,
            consent=self.consent,
            unlearning=self.unlearning,
            before=tuple(one.domains for one in reversed(self.line[:-1])),
        )


@dataclass(frozen=True, slots=True)
class Continuation:
    """A study as the next deployment is founded with it: its terms, and its tree.

    Attributes:
        branches: from 1 on; (parent, base height, finals up to there, lineage of that checkpoint).
        voids: heights without a model, (branch << 32 | height >> 8, bits), words other than zero by key.
    """

    terms: CreateStudy
    branches: tuple[tuple[int, int, int, Digest], ...]
    voids: tuple[tuple[int, int], ...]

    @property
    def tree(self) -> Digest:
        """The rolling hash over branches and voids that `StudyContinued` says."""
        found = ZERO
        for entry in (*self.branches, *self.voids):
            found = hash_words("tree", found, *entry)
        return found


class Ledger(Protocol):
    """One deployment on one chain. Synchronous and blocking: under trio it runs in a worker thread.

    Every method raises `ChainUnreachable` when no answer comes. `send` raises `CallReverted` (a `LedgerError` with the
    custom error's name and operands) when the contract refuses, and `OutcomeUnknown` when the transaction left this
    process but its fate is not known: sending the same call again is always safe.
    """

    contracts: Contracts

    def head(self) -> Head:
        """The newest block, the newest final block and the time a transaction sent now would be stamped with."""
        ...

    def records(self, first_block: int, last_block: int) -> Sequence[Logged]:
        """All records of the four contracts in blocks [first_block, last_block], in order."""
        ...

    def accumulators(self) -> tuple[Digest, Digest, Digest]:
        """Rolling accumulators of Membership, ConsentRegistry, UnlearningRegistry at the newest block."""
        ...

    def block_hash(self, number: int) -> Digest:
        """Hash of block `number`, to notice a reorganisation; `NotFound` when there is no such block."""
        ...

    def send(self, call: Call) -> Sent:
        """Carry a call to the chain and wait until it is mined."""
        ...
