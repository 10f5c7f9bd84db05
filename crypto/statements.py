"""Every signed statement: its EIP-712 type, its digest, its signature.

Every act in koinon is one of these statements, signed with the actor's ledger key. Anyone may carry it to the chain;
the contract looks at the signature alone. The table below is the protocol: type strings exactly as hashed, grouped by
the contract in whose domain they are signed. Each row has a dataclass of the same name below it, with the same fields
in the same order in snake case (bytes32 as `Digest`, address as 20 bytes); layout: FORMATS.md, "Statements".

Rules
- A statement that exists is well formed: every field has its width and range, or construction raised `EncodingError`.
- One signature encoding: 65 bytes r || s || v, low s, v 27 or 28 (keys.check_signature). Contracts take EIP-2098.
- Who is allowed to make a statement, and whether it is true, is decided elsewhere (node/round.py, the contracts).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

from crypto.digest import Digest, keccak256
from crypto.errors import EncodingError, SignatureMismatch
from crypto.keys import LedgerKey, check_signature, recover_address

__all__ = [
    "MAX_LIST",
    "MAX_TEXT_BYTES",
    "STATEMENTS",
    "TABLE",
    "Abstain",
    "Admit",
    "Anchor",
    "AnchorLog",
    "Announce",
    "Attest",
    "AuditAccess",
    "Authorise",
    "Bundle",
    "Certificate",
    "Close",
    "Commit",
    "CreateStudy",
    "Domain",
    "Domains",
    "EndAuditor",
    "ErasureSteps",
    "Extend",
    "Form",
    "Grant",
    "Have",
    "Join",
    "Keys",
    "Leave",
    "OpenAudit",
    "OpenErasure",
    "Plan",
    "Purged",
    "Receipt",
    "Recover",
    "Refuse",
    "RegisterForm",
    "Remove",
    "RequestErasure",
    "Revoke",
    "Rotate",
    "Seat",
    "SeatAuditor",
    "Statement",
    "Succeed",
    "Tombstone",
    "Verdict",
    "Vote",
    "Withdraw",
    "WithdrawByHospital",
    "WithdrawByQuorum",
    "digest",
    "from_compact",
    "pack_signatures",
    "recover",
    "recover_any",
    "sign",
    "struct_hash",
    "to_compact",
    "unpack_signatures",
    "verify",
    "verify_any",
]

MAX_TEXT_BYTES: Final = 256
"""Longest `string` or `bytes` field (a peer id has 38 bytes; names and roles are short)."""

MAX_LIST: Final = 1 << 12
"""Most words of a `bytes32[]` field: more than one transaction can carry."""

TABLE: Final[dict[str, tuple[str, ...]]] = {
    "membership": (
        "Seat(string role,bytes peerId,bytes32 sealingKey,string name)",
        "Admit(uint64 epoch,address ledger,bytes32 seatHash)",
        "Remove(uint64 epoch,uint16 member,address ledger)",
        "SeatAuditor(uint64 epoch,address ledger,bytes32 seatHash,bytes32 study,uint64 termEnd)",
        "Keys(uint16 member,address ledger,bytes peerId,bytes32 sealingKey)",
        "Rotate(uint64 epoch,uint16 member,bytes32 keysHash)",
        "Revoke(uint64 epoch,uint16 member,address ledger)",
        "Recover(uint64 epoch,uint16 member,bytes32 keysHash)",
        "EndAuditor(uint64 epoch,uint16 seat,address ledger)",
        "Succeed(uint64 epoch,address successor)",
        "AnchorLog(uint16 member,bytes32 root,uint64 entries)",
        "Announce(uint16 member,uint64 number,bytes multiaddress)",
        "OpenAudit(uint16 member,uint16 seat,bytes32 study)",
        "Bundle(string role,uint16 seat,bytes32 manifest)",
    ),
    "training": (
        (
            "CreateStudy(uint16 member,bytes32 specHash,bytes32 initialModel,uint32 invited,uint32 rounds,uint8 f,"
            "uint8 minIncluded,uint32 scribeSeconds,uint32 graceSeconds,uint32 revealSeconds,uint32 haveSeconds,"
            "uint32 voteSeconds,uint32 purgeSeconds,uint8 suspendAfter,uint8 suspendRounds,uint32 maxRoundAge,"
            "uint32 erasureWindow)"
        ),
        "Join(bytes32 study,uint16 member)",
        "Leave(bytes32 study,uint16 member)",
        "Commit(bytes32 roundId,uint16 member,bytes32 updateRoot,bytes32 datasetRoot,bytes32 nextDatasetRoot)",
        "Abstain(bytes32 roundId,uint16 member)",
        "Have(bytes32 roundId,uint16 member,uint8 attempt,uint32 bitmap)",
        "Vote(bytes32 roundId,uint8 attempt,uint32 set,bytes32 resultHash)",
        "Close(bytes32 study,uint32 branch,uint32 height,bytes32 resultHash)",
        "AuditAccess(bytes32 study,uint16 seat,uint32 fromHeight,uint32 toHeight,bytes32 ground)",
    ),
    "consent": (
        (
            "Form(bytes32 study,uint32 purposes,bytes32 textHash,uint8 custody,uint8 basis,uint40 validTo,"
            "uint8 onWithdrawal)"
        ),
        "RegisterForm(uint16 member,bytes32 formId)",
        "Grant(bytes32 formId,uint16 member,bytes32[] consentIds)",
        "Anchor(bytes32 study,bytes32 formId,uint16 member,uint32 count,bytes32[] roots)",
        "Withdraw(bytes32 consentId)",
        "WithdrawByHospital(uint16 member,bytes32 consentId)",
        "WithdrawByQuorum(uint64 epoch,uint16 member,bytes32 consentId)",
    ),
    "unlearning": (
        "RequestErasure(bytes32 consentId,bytes32 study)",
        "OpenErasure(bytes32 study,uint16 controller,uint16 poster,bytes32 requestsRoot,uint64 dueAt)",
        "Authorise(bytes32 batch,uint16 member)",
        "Refuse(bytes32 batch,uint16 member,uint8 ground)",
        "Extend(bytes32 batch,uint16 member,uint64 dueAt)",
        "ErasureSteps(bytes32 batch,uint16 member,uint8 first,bytes32[] evidence)",
        (
            "Plan(bytes32 batch,uint32 parentBranch,uint32 baseHeight,bytes32 baseModel,bytes32 branchSeed,"
            "uint32 targetHeight,uint8 method,uint32 rounds)"
        ),
        "Purged(bytes32 batch,uint16 member,uint8 stage,bytes32 inventory)",
        "Verdict(bytes32 batch,uint16 member,uint32 branch,bytes32 headModel,bool confirmed)",
        "Attest(bytes32 batch,uint8 level,uint16 seat,bytes32 evidence)",
        "Tombstone(uint16 member,bytes32 content,uint8 reason,bytes32 subject)",
        "Receipt(uint16 member,bytes32 statement,uint64 receivedAt)",
        "Certificate(uint16 member,bytes32 digest)",
    ),
}
"""The contract that names the domain -> the EIP-712 types signed in it."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str  # snake case, the dataclass field
    solidity: str  # the EIP-712 type


@dataclass(frozen=True, slots=True)
class _Row:
    contract: str
    text: str
    type_hash: Digest
    fields: tuple[_Field, ...]


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda m: "_" + m[1].lower(), name)


def _parse(contract: str, text: str) -> tuple[str, _Row]:
    name, _, body = text.removesuffix(")").partition("(")
    pairs = [pair.split(" ") for pair in body.split(",")]
    return name, _Row(contract, text, keccak256(text.encode()), tuple(_Field(_snake(n), t) for t, n in pairs))


_ROWS: Final[dict[str, _Row]] = dict(_parse(contract, text) for contract, texts in TABLE.items() for text in texts)


def _checked(name: str, solidity: str, value: Any) -> Any:
    """The value of one field in its canonical Python type, or `EncodingError`."""
    if solidity == "bool":
        if type(value) is not bool:
            raise EncodingError(name, f"a bool expected, {type(value).__name__} given")
        return value
    if solidity.startswith("uint"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise EncodingError(name, f"an integer expected, {type(value).__name__} given")
        if not 0 <= value < 1 << int(solidity[4:]):
            raise EncodingError(name, f"{value} does not fit {solidity}")
        return int(value)
    if solidity == "string":
        if not isinstance(value, str):
            raise EncodingError(name, f"text expected, {type(value).__name__} given")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise EncodingError(name, "not valid Unicode") from None
        if size > MAX_TEXT_BYTES:
            raise EncodingError(name, f"{size} bytes, at most {MAX_TEXT_BYTES} allowed")
        return value
    if solidity == "bytes32[]":
        if not isinstance(value, tuple):
            raise EncodingError(name, f"a tuple expected, {type(value).__name__} given")
        if not 1 <= len(value) <= MAX_LIST:
            raise EncodingError(name, f"{len(value)} words, between 1 and {MAX_LIST} allowed")
        return tuple(_checked(name, "bytes32", one) for one in value)
    if not isinstance(value, bytes):
        raise EncodingError(name, f"bytes expected, {type(value).__name__} given")
    if solidity == "bytes32":
        if len(value) != 32:
            raise EncodingError(name, f"32 bytes expected, {len(value)} given")
        return value if type(value) is Digest else Digest(value)
    if solidity == "address":
        if len(value) != 20:
            raise EncodingError(name, f"20 bytes expected, {len(value)} given")
    elif len(value) > MAX_TEXT_BYTES:
        raise EncodingError(name, f"{len(value)} bytes, at most {MAX_TEXT_BYTES} allowed")
    return value


def _encoded(solidity: str, value: Any) -> bytes:
    """EIP-712 encodeData of one checked field: 32 bytes."""
    if solidity == "string":
        return keccak256(value.encode())
    if solidity == "bytes":
        return keccak256(value)
    if solidity == "bytes32[]":
        return keccak256(b"".join(value))
    if solidity == "bytes32":
        return bytes(value)
    if solidity == "address":
        return bytes(12) + bytes(value)
    return int(value).to_bytes(32, "big")


@dataclass(frozen=True, slots=True)
class Statement:
    """A row of `TABLE`: a well-formed typed statement, not yet signed."""

    def __post_init__(self) -> None:
        """Raise `EncodingError` naming the first field whose type, width or range is wrong."""
        for field in _ROWS[type(self).__name__].fields:
            value = getattr(self, field.name)
            checked = _checked(f"{type(self).__name__}.{field.name}", field.solidity, value)
            if checked is not value:
                object.__setattr__(self, field.name, checked)

    @classmethod
    def type_string(cls) -> str:
        """The EIP-712 type, as hashed."""
        return _ROWS[cls.__name__].text

    @classmethod
    def contract(cls) -> str:
        """The contract in whose domain this is signed: "membership", "training", "consent" or "unlearning"."""
        return _ROWS[cls.__name__].contract

    @classmethod
    def layout(cls) -> tuple[tuple[str, str], ...]:
        """(field name, EIP-712 type) in the order of hashing."""
        return tuple((field.name, field.solidity) for field in _ROWS[cls.__name__].fields)


# --- membership -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seat(Statement):
    """By the applicant's ledger key: binds its libp2p id and sealing key. `role` is "member" or "auditor"."""

    role: str
    peer_id: bytes
    sealing_key: Digest
    name: str


@dataclass(frozen=True, slots=True)
class Admit(Statement):
    """A vote of a member: seat `ledger`, whose own Seat statement has the struct hash `seat_hash`, at this epoch."""

    epoch: int
    ledger: bytes
    seat_hash: Digest


@dataclass(frozen=True, slots=True)
class Remove(Statement):
    """A vote of a member: remove the member with this index and ledger address, at this epoch."""

    epoch: int
    member: int
    ledger: bytes


@dataclass(frozen=True, slots=True)
class SeatAuditor(Statement):
    """A vote of a member: an auditor's seat for a study (zero: every study) until `term_end` (unix seconds)."""

    epoch: int
    ledger: bytes
    seat_hash: Digest
    study: Digest
    term_end: int


@dataclass(frozen=True, slots=True)
class Keys(Statement):
    """By the new ledger key of a member's seat: these are the seat's keys. Alone it changes nothing."""

    member: int
    ledger: bytes
    peer_id: bytes
    sealing_key: Digest


@dataclass(frozen=True, slots=True)
class Rotate(Statement):
    """By a member's ledger key until now: its keys become those of the Keys statement with this hash, at this epoch."""

    epoch: int
    member: int
    keys_hash: Digest


@dataclass(frozen=True, slots=True)
class Revoke(Statement):
    """A vote of a member: the key of this member counts for nothing from now on, at this epoch."""

    epoch: int
    member: int
    ledger: bytes


@dataclass(frozen=True, slots=True)
class Recover(Statement):
    """A vote of a member: this member, whose key is lost or revoked, has the keys of that Keys statement."""

    epoch: int
    member: int
    keys_hash: Digest


@dataclass(frozen=True, slots=True)
class EndAuditor(Statement):
    """A vote of a member: the term of this auditor's seat ends now, at this epoch."""

    epoch: int
    seat: int
    ledger: bytes


@dataclass(frozen=True, slots=True)
class Succeed(Statement):
    """A vote of a member: the network goes on with the deployment whose Membership is `successor`, at this epoch."""

    epoch: int
    successor: bytes


@dataclass(frozen=True, slots=True)
class AnchorLog(Statement):
    """By a member: the lines of its own log after its last anchor, up to and with line `entries`, have this root."""

    member: int
    root: Digest
    entries: int


@dataclass(frozen=True, slots=True)
class Announce(Statement):
    """By a member: others dial it at this multiaddress (empty: nowhere, it dials them). `number` grows."""

    member: int
    number: int
    multiaddress: bytes


@dataclass(frozen=True, slots=True)
class OpenAudit(Statement):
    """By a member: it hands a study's content keys to the auditor in this seat, as far as that announced to read."""

    member: int
    seat: int
    study: Digest


@dataclass(frozen=True, slots=True)
class Bundle(Statement):
    """By a member or an auditor (`role`), off chain: the audit bundle whose manifest has this sha256 came from here."""

    role: str
    seat: int
    manifest: Digest


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateStudy(Statement):
    """By a member: the terms of a study. `invited` is a bitmap of member indexes; windows are seconds of chain time."""

    member: int
    spec_hash: Digest
    initial_model: Digest
    invited: int
    rounds: int
    f: int
    min_included: int
    scribe_seconds: int
    grace_seconds: int
    reveal_seconds: int
    have_seconds: int
    vote_seconds: int
    purge_seconds: int
    suspend_after: int
    suspend_rounds: int
    max_round_age: int
    erasure_window: int


@dataclass(frozen=True, slots=True)
class Join(Statement):
    """By an invited member: takes part in the study."""

    study: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Leave(Statement):
    """By a member: leaves the study at the next open round."""

    study: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Commit(Statement):
    """By a member, once a round: its two sealed blobs and the root of the records they were trained on."""

    round_id: Digest
    member: int
    update_root: Digest
    dataset_root: Digest
    next_dataset_root: Digest


@dataclass(frozen=True, slots=True)
class Abstain(Statement):
    """By a member: contributes nothing to this round. Carries no reason."""

    round_id: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Have(Statement):
    """By a member, once an attempt: bitmap of the members whose bytes and content keys it holds."""

    round_id: Digest
    member: int
    attempt: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class Vote(Statement):
    """By a member, once an attempt; the same digest for every voter. `set` is C in attempt 0, I in later ones."""

    round_id: Digest
    attempt: int
    set: int
    result_hash: Digest


@dataclass(frozen=True, slots=True)
class Close(Statement):
    """By a member, off chain, once a height and branch: it saw this result final."""

    study: Digest
    branch: int
    height: int
    result_hash: Digest


@dataclass(frozen=True, slots=True)
class AuditAccess(Statement):
    """By an auditor: announces which rounds it may open, and the hash of the ground it gives."""

    study: Digest
    seat: int
    from_height: int
    to_height: int
    ground: Digest


# --- consent ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form(Statement):
    """A consent form shared by its patients; its struct hash is the form id.

    `purposes` is a mask of GA4GH DUO terms; `custody` 1 hospital-attested, 2 patient-signed, 3 synthetic; `basis`
    1 consent, 2 law, 3 opt-out; `valid_to` unix seconds at the end of a quarter; `on_withdrawal` 1 stop, 2 stop and
    delete, 3 also unlearn.
    """

    study: Digest
    purposes: int
    text_hash: Digest
    custody: int
    basis: int
    valid_to: int
    on_withdrawal: int


@dataclass(frozen=True, slots=True)
class RegisterForm(Statement):
    """By a member: puts a form on the ledger."""

    member: int
    form_id: Digest


@dataclass(frozen=True, slots=True)
class Grant(Statement):
    """By a hospital: attests consents under a form, whose hash names its study, each to be stored by itself."""

    form_id: Digest
    member: int
    consent_ids: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Anchor(Statement):
    """By a hospital: attests the consents under the roots of anchor trees of `count` leaves, a power of two from 32."""

    study: Digest
    form_id: Digest
    member: int
    count: int
    roots: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Withdraw(Statement):
    """By the consent's holder key, signed in advance on the card: no nonce, no deadline."""

    consent_id: Digest


@dataclass(frozen=True, slots=True)
class WithdrawByHospital(Statement):
    """By the hospital that granted: withdraws a consent whose card is lost."""

    member: int
    consent_id: Digest


@dataclass(frozen=True, slots=True)
class WithdrawByQuorum(Statement):
    """A vote of a member: withdraws a consent granted by `member`, which has been removed."""

    epoch: int
    member: int
    consent_id: Digest


# --- unlearning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestErasure(Statement):
    """By the consent's holder key, signed in advance on the card; off chain."""

    consent_id: Digest
    study: Digest


@dataclass(frozen=True, slots=True)
class OpenErasure(Statement):
    """By `poster`: opens a batch of requests for `controller`, due at `due_at` (unix seconds)."""

    study: Digest
    controller: int
    poster: int
    requests_root: Digest
    due_at: int


@dataclass(frozen=True, slots=True)
class Authorise(Statement):
    """By the controller: the batch goes ahead."""

    batch: Digest
    member: int


@dataclass(frozen=True, slots=True)
class Refuse(Statement):
    """By the controller alone, with a legal ground."""

    batch: Digest
    member: int
    ground: int


@dataclass(frozen=True, slots=True)
class Extend(Statement):
    """By the controller, once: the answer is due at `due_at`, at most two months later (Art. 12(3) GDPR)."""

    batch: Digest
    member: int
    due_at: int


@dataclass(frozen=True, slots=True)
class ErasureSteps(Statement):
    """By the controller, an evidence for each step from number `first` on.

    1 excluded, 2 copy deleted, 3 certificate delivered, 4 link destroyed, 5 closed.
    """

    batch: Digest
    member: int
    first: int
    evidence: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Plan(Statement):
    """A vote of a member: unlearn from `base_height` (0: the initial model) to `target_height` on a new branch.

    `method` is its number (0: nothing to unlearn), `rounds` how many models it makes in place of those it replaces.
    """

    batch: Digest
    parent_branch: int
    base_height: int
    base_model: Digest
    branch_seed: Digest
    target_height: int
    method: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Purged(Statement):
    """By a member: what `inventory` lists is deleted. `stage` 0 before the replay, 1 at the end."""

    batch: Digest
    member: int
    stage: int
    inventory: Digest


@dataclass(frozen=True, slots=True)
class Verdict(Statement):
    """By a member other than the controller: it recomputed the branch to `head_model` (or did not)."""

    batch: Digest
    member: int
    branch: int
    head_model: Digest
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Attest(Statement):
    """By an auditor, once a level: it holds evidence about the confirmed erasure, a report with this hash.

    `level` 3: an executor repeated the controller's training of the replay bit for bit; 4: an attack on the model.
    """

    batch: Digest
    level: int
    seat: int
    evidence: Digest


@dataclass(frozen=True, slots=True)
class Tombstone(Statement):
    """By a member, off chain: it deleted `content`. `reason` 1 erasure, 2 retention; `subject` the batch or round."""

    member: int
    content: Digest
    reason: int
    subject: Digest


@dataclass(frozen=True, slots=True)
class Receipt(Statement):
    """By a member, off chain: it received this statement (struct hash) at this time; a clock starts."""

    member: int
    statement: Digest
    received_at: int


@dataclass(frozen=True, slots=True)
class Certificate(Statement):
    """By the controlling hospital, off chain: the erasure certificate whose signed part has this sha256."""

    member: int
    digest: Digest


STATEMENTS: Final[dict[str, type[Statement]]] = {name: globals()[name] for name in _ROWS}
"""Every statement type by its name, in the order of `TABLE`."""


# --- hashing and signing ----------------------------------------------------------------------------------------------

_DOMAIN_TYPE_HASH: Final = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


@dataclass(frozen=True, slots=True)
class Domain:
    """An EIP-712 domain of OpenZeppelin's EIP712("koinon", "1"): one contract (20 bytes) on one chain."""

    NAME: ClassVar[str] = "koinon"
    VERSION: ClassVar[str] = "1"

    chain_id: int
    contract: bytes

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a chain id beyond 256 bits or an address that is not 20 bytes."""
        _checked("Domain.chain_id", "uint256", self.chain_id)
        _checked("Domain.contract", "address", self.contract)

    @property
    def separator(self) -> Digest:
        """The domain separator."""
        return _separator(self.chain_id, self.contract)


@lru_cache(maxsize=64)
def _separator(chain_id: int, contract: bytes) -> Digest:
    return keccak256(
        _DOMAIN_TYPE_HASH
        + keccak256(Domain.NAME.encode())
        + keccak256(Domain.VERSION.encode())
        + chain_id.to_bytes(32, "big")
        + bytes(12)
        + contract
    )


@dataclass(frozen=True, slots=True)
class Domains:
    """The four domains of one deployment; picks the right one for a statement.

    `before`: those of the deployments that this one continues, the newest first. What was signed for them stands.
    """

    chain_id: int
    membership: bytes
    training: bytes
    consent: bytes
    unlearning: bytes
    before: tuple[Domains, ...] = ()

    def of(self, statement: Statement | type[Statement]) -> Domain:
        """The domain in which this statement (or every one of this type) is signed."""
        contract: bytes = getattr(self, statement.contract())
        return Domain(self.chain_id, contract)

    def every(self, statement: Statement | type[Statement]) -> tuple[Domain, ...]:
        """The domains in which it may have been signed: this deployment's, then those of the ones before it.

        No statement means another thing in another of them: each names a round, an epoch, a consent or a batch that
        exists once in the whole line of deployments.
        """
        return (self.of(statement), *(one.of(statement) for one in self.before))


def encode_data(statement: Statement) -> bytes:
    """EIP-712 encodeData: the fields in their order, 32 bytes each. As evidence a statement is shown in this form."""
    row = _ROWS[type(statement).__name__]
    return b"".join([_encoded(f.solidity, getattr(statement, f.name)) for f in row.fields])


def struct_hash(statement: Statement) -> Digest:
    """EIP-712 hashStruct: the identity of a statement, whatever the domain and the signer."""
    return keccak256(_ROWS[type(statement).__name__].type_hash + encode_data(statement))


def digest(statement: Statement, domain: Domain) -> Digest:
    """The 32 bytes that are signed: keccak256(0x1901 || separator || struct hash)."""
    return keccak256(b"\x19\x01" + domain.separator + struct_hash(statement))


def sign(statement: Statement, domain: Domain, key: LedgerKey) -> bytes:
    """65 bytes r || s || v. Deterministic: the same statement, domain and key give the same bytes."""
    return key.sign_digest(digest(statement, domain))


def recover(statement: Statement, domain: Domain, signature: bytes) -> bytes:
    """The 20-byte address that signed; any well-formed signature recovers to *some* address.

    Raises `EncodingError` for a malformed signature, `SignatureMismatch` where no key fits.
    """
    address = recover_address(digest(statement, domain), signature)
    if address is None:
        raise SignatureMismatch(bytes(20), None)
    return address


def verify(statement: Statement, domain: Domain, signature: bytes, expected: bytes) -> None:
    """Raise `SignatureMismatch(expected, got)` unless `expected` (20 bytes) signed this statement in this domain.

    A signature made for another chain, contract, round or signer recovers to an unrelated address, so all of these
    faults appear here and look alike. Malformed signatures are `EncodingError`.
    """
    address = recover_address(digest(statement, domain), signature)
    if address is None or address != expected:
        raise SignatureMismatch(expected, address)


def recover_any(statement: Statement, domains: Domains, signature: bytes) -> tuple[bytes, ...]:
    """The addresses that signed, one for each domain of :meth:`Domains.every`; as :func:`recover`."""
    return tuple(recover(statement, domain, signature) for domain in domains.every(statement))


def verify_any(statement: Statement, domains: Domains, signature: bytes, expected: bytes) -> Domain:
    """The domain of the line of deployments in which `expected` signed; raises as :func:`verify`."""
    for domain in domains.every(statement):
        if recover_address(digest(statement, domain), signature) == expected:
            return domain
    verify(statement, domains.of(statement), signature, expected)
    raise AssertionError("verify raises")


# --- signatures as the contracts take them ---------------------------------------------------------------------------


def to_compact(signature: bytes) -> tuple[bytes, bytes]:
    """(r, vs) of EIP-2098, 32 bytes each: the top bit of vs is v - 27."""
    checked = check_signature(signature)
    vs = int.from_bytes(checked[32:64], "big") | (checked[64] - 27) << 255
    return checked[:32], vs.to_bytes(32, "big")


def from_compact(r: bytes, vs: bytes) -> bytes:
    """The 65-byte signature of an EIP-2098 pair; `EncodingError` as `check_signature`."""
    if len(r) != 32 or len(vs) != 32:
        raise EncodingError("compact signature", f"two words of 32 bytes expected, {len(r)} and {len(vs)} given")
    packed = int.from_bytes(vs, "big")
    s = packed & ((1 << 255) - 1)
    return check_signature(r + s.to_bytes(32, "big") + bytes([27 + (packed >> 255)]))


def pack_signatures(signatures: dict[int, bytes]) -> tuple[int, bytes]:
    """(signers bitmap, packed signatures) of the contracts: 64 bytes r || vs each, by rising member index (0 to 31)."""
    bitmap, packed = 0, b""
    for member in sorted(signatures):
        if not 0 <= member < 32:
            raise EncodingError("signers", f"member index {member} is not between 0 and 31")
        bitmap |= 1 << member
        packed += b"".join(to_compact(signatures[member]))
    return bitmap, packed


def unpack_signatures(bitmap: int, packed: bytes) -> dict[int, bytes]:
    """Member index -> 65-byte signature; `EncodingError` unless the bytes fit the bitmap."""
    if not 0 <= bitmap < 1 << 32:
        raise EncodingError("signers", f"{bitmap} does not fit uint32")
    members = [i for i in range(32) if bitmap >> i & 1]
    if len(packed) != 64 * len(members):
        raise EncodingError("signatures", f"{64 * len(members)} bytes expected, {len(packed)} given")
    return {
        m: from_compact(packed[64 * i : 64 * i + 32], packed[64 * i + 32 : 64 * i + 64]) for i, m in enumerate(members)
    }
