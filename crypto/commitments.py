"""What is committed to before it is shown: consents, dataset leaves, sealed updates, requests, results and their ids.

Every function here is one tagged hash of 32-byte words (digest.hash_words), so that Solidity computes the same. The
openings of a consent are three independent secrets; using one value twice would let the half that becomes public at a
withdrawal unlock the half that must stay private, so equal or zero secrets are refused where an opening is made.
Layouts: FORMATS.md, "Commitments".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final, Self

from crypto.digest import ZERO, Digest, hash_words
from crypto.errors import EncodingError, RootMismatch

__all__ = [
    "CONTENT_KEY_BYTES",
    "ConsentOpening",
    "batch_id",
    "binding",
    "check_consent_id",
    "consent_id",
    "doc_commit",
    "key_commit",
    "leaf_key",
    "request_id",
    "lineage",
    "link",
    "result_hash",
    "round_id",
    "study_id",
    "update_root",
    "value_hash",
]

CONTENT_KEY_BYTES: Final = 32


def _nonzero(field: str, secret: bytes) -> Digest:
    checked = _digest(field, secret)
    if checked == ZERO:
        raise EncodingError(field, "zero is no secret")
    return checked


def _digest(field: str, value: bytes) -> Digest:
    if len(value) != 32:
        raise EncodingError(field, f"32 bytes expected, {len(value)} given")
    return Digest(value)


def _uint(field: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise EncodingError(field, f"{value} does not fit uint{bits}")
    return value


# --- consent ----------------------------------------------------------------------------------------------------------


def doc_commit(doc_salt: bytes, doc_hash: bytes) -> Digest:
    """Hides the hash of the signed document: a document is guessable, its salted hash is not."""
    return hash_words("doc", _nonzero("docSalt", doc_salt), _digest("docHash", doc_hash))


def leaf_key(leaf_secret: bytes) -> Digest:
    """The key of a consent's leaf in every dataset map; unlinkable to its consent id without the secret."""
    return hash_words("leaf", _nonzero("leafSecret", leaf_secret))


def binding(doc_commitment: bytes, key: bytes) -> Digest:
    """Ties the document and the leaf key together; all that a withdrawal shows of them. Takes both as hashes."""
    return hash_words("bind", _digest("docCommit", doc_commitment), _digest("leafKey", key))


def consent_id(holder: bytes, holder_salt: bytes, bound: bytes) -> Digest:
    """The public name of a consent. `holder` is the 20-byte address of a key made for this consent alone."""
    if len(holder) != 20:
        raise EncodingError("holderAddress", f"20 bytes expected, {len(holder)} given")
    return hash_words("consent", holder, _nonzero("holderSalt", holder_salt), _digest("binding", bound))


def check_consent_id(expected: bytes, holder: bytes, holder_salt: bytes, doc_commitment: bytes, key: bytes) -> None:
    """Raise `RootMismatch` unless this opening, with document and leaf as hashes, gives the consent id `expected`."""
    got = consent_id(holder, holder_salt, binding(doc_commitment, key))
    if got != expected:
        raise RootMismatch("consentId", expected, got)


@dataclass(frozen=True, slots=True)
class ConsentOpening:
    """All that opens one consent: what the card and the vault's LINK keep. Never leaves them as a whole.

    `holder` 20 bytes, the other fields 32 bytes each.
    """

    holder: bytes
    holder_salt: Digest
    doc_salt: Digest
    doc_hash: Digest
    leaf_secret: Digest

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a wrong width, a secret that is zero, or two secrets that are equal."""
        if len(self.holder) != 20:
            raise EncodingError("holderAddress", f"20 bytes expected, {len(self.holder)} given")
        secrets = {"holderSalt": self.holder_salt, "docSalt": self.doc_salt, "leafSecret": self.leaf_secret}
        seen: dict[bytes, str] = {}
        for name, secret in secrets.items():
            other = seen.setdefault(bytes(_nonzero(name, secret)), name)
            if other != name:
                raise EncodingError(name, f"equals {other}; the three secrets must be independent")
        _digest("docHash", self.doc_hash)
        for field in ("holder_salt", "doc_salt", "doc_hash", "leaf_secret"):
            object.__setattr__(self, field, Digest(getattr(self, field)))

    @classmethod
    def fresh(cls, holder: bytes, doc_hash: bytes) -> Self:
        """Three new secrets for a new holder key and the hash of the signed document."""
        salts = (Digest(os.urandom(32)) for _ in range(3))
        return cls(holder, next(salts), next(salts), Digest(doc_hash), next(salts))

    @property
    def doc_commit(self) -> Digest:
        """The commitment to the document."""
        return doc_commit(self.doc_salt, self.doc_hash)

    @property
    def leaf_key(self) -> Digest:
        """The key in dataset maps."""
        return leaf_key(self.leaf_secret)

    @property
    def binding(self) -> Digest:
        """What a withdrawal shows beside the holder's address and salt."""
        return binding(self.doc_commit, self.leaf_key)

    @property
    def consent_id(self) -> Digest:
        """The public name."""
        return consent_id(self.holder, self.holder_salt, self.binding)

    def __repr__(self) -> str:
        """Show no secret, and not the consent id either: in a log it is personal data."""
        return "ConsentOpening(...)"


# --- datasets and updates ---------------------------------------------------------------------------------------------


def value_hash(value_salt: bytes, role: int, records: int) -> Digest:
    """Hides a leaf's role (1 train, 2 validation, 3 test) and number of records."""
    return hash_words("value", _digest("valueSalt", value_salt), _uint("role", role, 8), _uint("records", records, 32))


def key_commit(key: bytes, round_id: bytes, member: int, kind: int) -> Digest:
    """Commits to a blob's content key (32 bytes), so that nobody can be handed another one. `kind` 0 update, 1 set."""
    if len(key) != CONTENT_KEY_BYTES:
        raise EncodingError("content key", f"{CONTENT_KEY_BYTES} bytes expected, {len(key)} given")
    return hash_words("key", key, _digest("roundId", round_id), _uint("member", member, 16), _uint("kind", kind, 8))


def update_root(round_id: bytes, member: int, update_commit: bytes, set_commit: bytes) -> Digest:
    """What a Commit statement carries: both blob commitments of a member in a round."""
    return hash_words(
        "update",
        _digest("roundId", round_id),
        _uint("member", member, 16),
        _digest("blobCommit", update_commit),
        _digest("blobCommit", set_commit),
    )


# --- erasure ----------------------------------------------------------------------------------------------------------


def request_id(request_salt: bytes, consent: bytes) -> Digest:
    """One request inside a batch, salted so that the batch's root does not lead to consents."""
    return hash_words("request", _nonzero("requestSalt", request_salt), _digest("consentId", consent))


def batch_id(open_erasure_hash: bytes) -> Digest:
    """The id of an erasure batch from the struct hash of its OpenErasure statement."""
    return hash_words("batch", _digest("structHash", open_erasure_hash))


# --- studies and rounds -----------------------------------------------------------------------------------------------


def study_id(create_study_hash: bytes) -> Digest:
    """The id of a study from the struct hash of its CreateStudy statement."""
    return hash_words("study", _digest("structHash", create_study_hash))


def round_id(
    *,
    chain_id: int,
    contract: bytes,
    study: bytes,
    branch: int,
    height: int,
    parent_result: bytes,
    parent_model: bytes,
    epoch: int,
    roster: int,
    suspended: int,
    consent_accumulator: bytes,
    membership_accumulator: bytes,
    previous_block: bytes,
) -> Digest:
    """The id of a round: names the whole history it was opened on. `contract` is TrainingLedger's 20-byte address."""
    return hash_words(
        "round",
        chain_id,
        contract,
        _digest("study", study),
        _uint("branch", branch, 32),
        _uint("height", height, 32),
        _digest("parentResult", parent_result),
        _digest("parentModel", parent_model),
        _uint("epoch", epoch, 64),
        _uint("roster", roster, 32),
        _uint("suspended", suspended, 32),
        _digest("consentAcc", consent_accumulator),
        _digest("membershipAcc", membership_accumulator),
        _digest("previousBlock", previous_block),
    )


def base_result(study: bytes, batch: bytes, parent: int, base_height: int, base_model: bytes, origin: bytes) -> Digest:
    """Where a branch begins: what its first round names as its parent.

    Args:
        study: of the study.
        batch: the erasure that made the branch.
        parent: number of the branch that the checkpoint is on.
        base_height: of the checkpoint, 0 for the initial model.
        base_model: of the checkpoint.
        origin: lineage of the checkpoint, zero for the initial model.
    """
    return hash_words(
        "branch",
        _digest("study", study),
        _digest("batch", batch),
        _uint("parent", parent, 32),
        _uint("baseHeight", base_height, 32),
        _digest("baseModel", base_model),
        _digest("origin", origin),
    )


def link(height: int, model_root: bytes, hashed: bytes) -> Digest:
    """A result in its lineage: where it stands, the model after it, and its hash."""
    return hash_words("link", _uint("height", height, 32), _digest("modelRoot", model_root), _digest("hash", hashed))


def lineage(parent: bytes, result_link: bytes) -> Digest:
    """A result's place in its ancestry, and with it every result before: what the next round names as its parent.

    Args:
        parent: of the result before it; the base result of its branch, zero for the first of branch 0.
        result_link: `link` of the result.
    """
    return hash_words("lineage", _digest("parent", parent), _digest("link", result_link))


def result_hash(
    *,
    outcome: int,
    included: int,
    codes: int,
    model_root: bytes,
    trust_hash: bytes,
    commit_root: bytes,
    consent_accumulator: bytes,
) -> Digest:
    """What members vote on. `trust_hash` is keccak256 of the trust bytes; `codes` has 4 bits a member index."""
    return hash_words(
        "result",
        _uint("outcome", outcome, 8),
        _uint("included", included, 32),
        _uint("codes", codes, 128),
        _digest("modelRoot", model_root),
        _digest("trust hash", trust_hash),
        _digest("commitRoot", commit_root),
        _digest("consentAcc", consent_accumulator),
    )
