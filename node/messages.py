"""What peers say to each other: frozen messages, one per line of PROTOCOL.md.

What may live here: values only. A *notice* is a signed statement with what a receiver needs to check it; notices are a
mailbox, never the truth: the chain's first statement counts. A *request* has exactly one *reply*. What this file does
not know: bytes on the wire (`node/wire.py`), streams (`node/transport.py`), who is allowed to say what (`round`,
`erasure`, `app`).
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.digest import Digest
from crypto.sealing import BlobCommit
from node.records import Result

# --------------------------------------------------------------------------------------------------------------------
# Notices: signed statements on their way


@dataclass(frozen=True, slots=True)
class CommitNotice:
    """`Commit` with the openings of its update root: what a peer needs to fetch and check both blobs."""

    round_id: Digest
    member: int
    update_root: Digest
    dataset_root: Digest
    next_dataset_root: Digest
    update: BlobCommit
    set: BlobCommit
    signature: bytes


@dataclass(frozen=True, slots=True)
class AbstainNotice:
    round_id: Digest
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class HaveNotice:
    round_id: Digest
    member: int
    attempt: int
    bitmap: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class VoteNotice:
    """`Vote` with the result it hashes. `witness` = hash of (round, voter, model bytes): possession, not honesty."""

    round_id: Digest
    member: int
    attempt: int
    set: int
    result: Result
    witness: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class CloseNotice:
    study: Digest
    branch: int
    height: int
    result_hash: Digest
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class WithdrawalNotice:
    """A holder's `Withdraw`, from a card: everything the chain needs and nothing about the person."""

    consent_id: Digest
    holder: bytes
    holder_salt: Digest
    binding: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class ErasureNotice:
    """A holder's `RequestErasure`, from a card, on its way to the controlling hospital."""

    consent_id: Digest
    study: Digest
    controller: int
    holder: bytes
    holder_salt: Digest
    binding: Digest
    signature: bytes
    received_at: int
    relay: int


@dataclass(frozen=True, slots=True)
class OpeningNotice:
    """Which consents a batch's requests root stands for, opened to the members: by the controller, or by the relay
    for a hospital that was removed, which knows no leaf keys.
    """

    batch: Digest
    controller: int
    requests: tuple[tuple[Digest, Digest], ...]  # (consent id, request salt), sorted by request id
    leaf_keys: tuple[Digest, ...]  # leaf key of each consent, same order; or none


@dataclass(frozen=True, slots=True)
class PlanNotice:
    """One member's vote for a `Plan`."""

    batch: Digest
    member: int
    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    method: int
    rounds: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class PurgeNotice:
    batch: Digest
    member: int
    stage: int
    inventory: Digest
    signature: bytes


@dataclass(frozen=True, slots=True)
class VerdictNotice:
    batch: Digest
    member: int
    branch: int
    head_model: Digest
    confirmed: bool
    signature: bytes


@dataclass(frozen=True, slots=True)
class AdmissionNotice:
    """One member's vote to admit an applicant (`Admit`); `seat_signature` is the applicant's own `Seat`."""

    epoch: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    name: str
    seat_signature: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class RemovalNotice:
    epoch: int
    target: int
    ledger: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class RotationNotice:
    """A member's new keys: its `Rotate` by the key it has until now, and the new ledger key's own `Keys`."""

    epoch: int
    member: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    keys_signature: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class RevocationNotice:
    """One member's vote (`Revoke`) that the key `ledger` of member `target` counts for nothing."""

    epoch: int
    target: int
    ledger: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class RecoveryNotice:
    """One member's vote (`Recover`) for the new keys of member `target`; `keys_signature` is their own `Keys`."""

    epoch: int
    target: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    keys_signature: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class AuditorSeatNotice:
    """One member's vote (`SeatAuditor`): an auditor's seat for a study (zero: every one) until `term_end` (unix s)."""

    epoch: int
    ledger: bytes
    peer_id: bytes
    sealing_key: bytes
    name: str
    seat_signature: bytes
    study: Digest
    term_end: int
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class AuditorEndNotice:
    """One member's vote (`EndAuditor`) to end the term of the auditor in `seat`."""

    epoch: int
    seat: int
    ledger: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class SuccessionNotice:
    """One member's vote (`Succeed`) to go on with the deployment whose Membership will lie at `ledger`."""

    epoch: int
    ledger: bytes
    member: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class LeftConsentNotice:
    """One member's vote (`WithdrawByQuorum`) to end a consent of `hospital`, which takes no part any more."""

    epoch: int
    hospital: int
    consent_id: Digest
    member: int
    signature: bytes


ERASED, RETENTION = 1, 2
"""Reasons of a tombstone: its subject is the batch of an erasure, or the round whose retention is over."""


@dataclass(frozen=True, slots=True)
class TombstoneNotice:
    """`Tombstone`: this member no longer holds this content, and why."""

    member: int
    content: Digest
    reason: int  # `ERASED` or `RETENTION`
    subject: Digest
    signature: bytes


Notice = (
    CommitNotice
    | AbstainNotice
    | HaveNotice
    | VoteNotice
    | CloseNotice
    | WithdrawalNotice
    | ErasureNotice
    | OpeningNotice
    | PlanNotice
    | PurgeNotice
    | VerdictNotice
    | AdmissionNotice
    | RemovalNotice
    | RotationNotice
    | RevocationNotice
    | RecoveryNotice
    | AuditorSeatNotice
    | AuditorEndNotice
    | LeftConsentNotice
    | SuccessionNotice
    | TombstoneNotice
)

# --------------------------------------------------------------------------------------------------------------------
# Requests and their replies


@dataclass(frozen=True, slots=True)
class Hello:
    """First words and heartbeat: refuses a peer of another network at once."""

    chain_id: int
    membership: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Welcome:
    block: int
    status: str


@dataclass(frozen=True, slots=True)
class GetMap:
    """Ask for the chunk digests of a content root (ciphertext, model or spec), and for its first chunk with them."""

    root: Digest


@dataclass(frozen=True, slots=True)
class MapReply:
    """`first` is chunk 0, empty where the content is: what has one chunk comes in one answer."""

    length: int
    digests: tuple[bytes, ...]
    first: bytes


@dataclass(frozen=True, slots=True)
class GetChunk:
    root: Digest
    index: int


@dataclass(frozen=True, slots=True)
class ChunkReply:
    data: bytes


@dataclass(frozen=True, slots=True)
class GetKeys:
    """Ask any holder for content keys of a contribution, wrapped for the asking peer's registered sealing key."""

    round_id: Digest
    member: int
    kinds: int  # bitmap of `BlobKind`: 1 update, 2 set


@dataclass(frozen=True, slots=True)
class KeysReply:
    """A wrap for each kind that was asked for, update first; an empty one where that key is not here."""

    wraps: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """Push notices. The reply says how many were new; a refused notice never harms its neighbours."""

    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    new: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask for all notices known about a round, a batch or a study: the repair for every lost push."""

    subject: Digest


@dataclass(frozen=True, slots=True)
class Notices:
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The peer will not or cannot. `code` is one of REFUSALS."""

    code: str
    reason: str


REFUSALS = ("not-found", "not-yet", "not-allowed", "purged", "busy", "malformed", "wrong-network")

Request = Hello | GetMap | GetChunk | GetKeys | Offer | Pull
Reply = Welcome | MapReply | ChunkReply | KeysReply | Accepted | Notices | Refusal
