"""The two plaintexts a member seals in a round: its update and its set.

Both are laid out byte by byte (big-endian; the model integers alone are little-endian, and packed), open with
16 magic bytes, and have one encoding: whatever decodes encodes to the same bytes again. Reading is strict: counts must
fit what follows, nothing may trail, entries must be strictly sorted. What the numbers *mean* (ranges, consents, policy)
is judged in node/. The metrics are opaque here; node/ demands canonical JSON.
Layouts: FORMATS.md, "Update" and "Set".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from crypto.commitments import check_consent_id, value_hash
from crypto.digest import Digest
from crypto.errors import EncodingError, UnsortedKeys
from crypto.merkle import MAX_ANCHOR_COUNT, MIN_ANCHOR_COUNT, MerkleMap
from crypto.packing import pack, unpack
from crypto.sealing import MAX_PLAINTEXT_BYTES

__all__ = [
    "MAX_METRICS_BYTES",
    "MAX_SET_ENTRIES",
    "MAX_VALUES",
    "ROLE_TEST",
    "ROLE_TRAIN",
    "ROLE_VALIDATION",
    "SET_MAGIC",
    "UPDATE_MAGIC",
    "AnchorProof",
    "SetEntry",
    "SetPlain",
    "UpdatePlain",
    "check_entry",
    "dataset_map",
    "dataset_root",
    "decode_set",
    "decode_update",
    "decode_update_header",
    "encode_set",
    "encode_update",
]

UPDATE_MAGIC: Final = b"koinon.update/2\n"
SET_MAGIC: Final = b"koinon.set/1\n\x00\x00\x00"
MAX_METRICS_BYTES: Final = 64 * 1024
MAX_VALUES: Final = 1 << 27
"""Most model integers in an update (512 MiB)."""
MAX_SET_ENTRIES: Final = 1 << 20

ROLE_TRAIN: Final = 1
ROLE_VALIDATION: Final = 2
ROLE_TEST: Final = 3

_GRANT: Final = 0
_ANCHOR: Final = 1
_MIN_DEPTH: Final = MIN_ANCHOR_COUNT.bit_length() - 1
_MAX_DEPTH: Final = MAX_ANCHOR_COUNT.bit_length() - 1


def _check_uint(field: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise EncodingError(field, f"{value} does not fit uint{bits}")


class _Reader:
    """Takes fields off a byte string and knows where it stands."""

    def __init__(self, data: bytes, most: int) -> None:
        if len(data) > most:
            raise EncodingError("plaintext", f"{len(data)} bytes, at most {most} allowed")
        self.data, self.at = data, 0

    def take(self, field: str, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise EncodingError(field, f"{size} bytes expected, {len(self.data) - self.at} left", self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def digest(self, field: str) -> Digest:
        return Digest(self.take(field, 32))

    def uint(self, field: str, size: int, low: int, high: int) -> int:
        value = int.from_bytes(self.take(field, size), "big")
        if not low <= value <= high:
            raise EncodingError(field, f"{value} is not between {low} and {high}", self.at - size)
        return value

    def magic(self, expected: bytes) -> None:
        found = self.take("magic", len(expected))
        if found != expected:
            raise EncodingError("magic", f"{expected!r} expected, {found!r} given", 0)

    def rest(self) -> bytes:
        return self.take("rest", len(self.data) - self.at)

    def end(self) -> None:
        if self.at != len(self.data):
            raise EncodingError("end", f"{len(self.data) - self.at} bytes too many", self.at)


# --- update -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdatePlain:
    """An update in the clear.

    `records` is n_k, the number of records trained on; `profile_hash` names the numerical profile; `salt` hides equal
    updates from each other; `metrics` is at most 64 KiB; `values` holds P int32, little-endian, unpacked.
    """

    round_id: Digest
    member: int
    records: int
    profile_hash: Digest
    salt: Digest
    metrics: bytes
    values: bytes

    def __post_init__(self) -> None:
        """Raise `EncodingError` naming the first field out of its width or bounds."""
        for field in ("round_id", "profile_hash", "salt"):
            object.__setattr__(self, field, Digest(getattr(self, field)))
        _check_uint("member", self.member, 16)
        _check_uint("records", self.records, 64)
        if len(self.metrics) > MAX_METRICS_BYTES:
            raise EncodingError("metrics", f"{len(self.metrics)} bytes, at most {MAX_METRICS_BYTES} allowed")
        if len(self.values) % 4 or len(self.values) > 4 * MAX_VALUES:
            raise EncodingError("values", f"{len(self.values)} bytes is no int32 array of at most {MAX_VALUES}")

    @property
    def count(self) -> int:
        """P, the number of model integers."""
        return len(self.values) // 4

    def __repr__(self) -> str:
        """Show the header without the integers."""
        return f"UpdatePlain(round_id={self.round_id.hex()}, member={self.member}, P={self.count})"


def encode_update(update: UpdatePlain) -> bytes:
    """The bytes of an update."""
    return b"".join(
        (
            UPDATE_MAGIC,
            update.round_id,
            update.member.to_bytes(2, "big"),
            update.records.to_bytes(8, "big"),
            update.profile_hash,
            update.salt,
            len(update.metrics).to_bytes(4, "big"),
            update.metrics,
            update.count.to_bytes(8, "big"),
            pack(update.values),
        )
    )


def decode_update(data: bytes, count: int | None) -> UpdatePlain:
    """The update in `data`; `EncodingError` names the field and the offset.

    `count` is the number of model integers that is expected, None for any; where there are others, none is unpacked: a
    few bytes can announce 2^27 zeros.
    """
    reader = _Reader(data, MAX_PLAINTEXT_BYTES)
    header = _update_header(reader)
    announced = reader.uint("P", 8, 0, MAX_VALUES)
    if count is not None and announced != count:
        raise EncodingError("P", f"{announced} model integers, {count} expected", reader.at - 8)
    return replace(header, values=unpack(reader.rest(), announced))


def decode_update_header(data: bytes) -> UpdatePlain:
    """The update without its integers, which are not looked at; `EncodingError` as in `decode_update`."""
    return _update_header(_Reader(data, MAX_PLAINTEXT_BYTES))


def _update_header(reader: _Reader) -> UpdatePlain:
    reader.magic(UPDATE_MAGIC)
    round_id = reader.digest("roundId")
    member = reader.uint("member", 2, 0, 0xFFFF)
    records = reader.uint("records", 8, 0, (1 << 64) - 1)
    profile_hash, salt = reader.digest("profileHash"), reader.digest("salt")
    metrics = reader.take("metrics", reader.uint("metricsLen", 4, 0, MAX_METRICS_BYTES))
    return UpdatePlain(round_id, member, records, profile_hash, salt, metrics, b"")


# --- set --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnchorProof:
    """A consent's place in an anchor tree on chain; `path` from the leaf up, 5 to 20 hashes."""

    root: Digest
    index: int
    path: tuple[Digest, ...]

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a width, a depth out of bounds or an index beyond the tree."""
        object.__setattr__(self, "root", Digest(self.root))
        object.__setattr__(self, "path", tuple(Digest(step) for step in self.path))
        if not _MIN_DEPTH <= len(self.path) <= _MAX_DEPTH:
            raise EncodingError("depth", f"{len(self.path)} is not between {_MIN_DEPTH} and {_MAX_DEPTH}")
        if not 0 <= self.index < 1 << len(self.path):
            raise EncodingError("index", f"{self.index} is beyond a tree of {1 << len(self.path)} leaves")


@dataclass(frozen=True, slots=True)
class SetEntry:
    """One consent in a dataset, opened for the members that check it.

    `role` 1 train, 2 validation, 3 test; `records` at least 1; `holder` is a 20-byte address; `anchor` is None where
    the consent has its own grant on chain.
    """

    leaf_key: Digest
    value_salt: Digest
    role: int
    records: int
    consent_id: Digest
    holder: bytes
    holder_salt: Digest
    doc_commit: Digest
    form_id: Digest
    anchor: AnchorProof | None

    def __post_init__(self) -> None:
        """Raise `EncodingError` naming the first field out of its width or bounds."""
        for field in ("leaf_key", "value_salt", "consent_id", "holder_salt", "doc_commit", "form_id"):
            object.__setattr__(self, field, Digest(getattr(self, field)))
        if not ROLE_TRAIN <= self.role <= ROLE_TEST:
            raise EncodingError("role", f"{self.role} is not between {ROLE_TRAIN} and {ROLE_TEST}")
        if not 1 <= self.records < 1 << 32:
            raise EncodingError("records", f"{self.records} is not between 1 and 2^32-1")
        if len(self.holder) != 20:
            raise EncodingError("holderAddress", f"20 bytes expected, {len(self.holder)} given")

    @property
    def value_hash(self) -> Digest:
        """The hash that stands for role and records in the dataset map."""
        return value_hash(self.value_salt, self.role, self.records)


@dataclass(frozen=True, slots=True)
class SetPlain:
    """A set in the clear: the leaves of a dataset with their consents, strictly increasing by leaf key."""

    round_id: Digest
    member: int
    salt: Digest
    entries: tuple[SetEntry, ...]

    def __post_init__(self) -> None:
        """Raise `UnsortedKeys` for unsorted or repeated leaf keys, `EncodingError` for widths and bounds."""
        object.__setattr__(self, "round_id", Digest(self.round_id))
        object.__setattr__(self, "salt", Digest(self.salt))
        _check_uint("member", self.member, 16)
        if len(self.entries) > MAX_SET_ENTRIES:
            raise EncodingError("count", f"{len(self.entries)} entries, at most {MAX_SET_ENTRIES} allowed")
        for i in range(1, len(self.entries)):
            before, key = self.entries[i - 1].leaf_key, self.entries[i].leaf_key
            if key <= before:
                raise UnsortedKeys("entries", i, before, key)

    def __repr__(self) -> str:
        """Show the header without the entries, which are personal data."""
        return f"SetPlain(round_id={self.round_id.hex()}, member={self.member}, count={len(self.entries)})"


def _encode_entry(entry: SetEntry) -> bytes:
    head = b"".join(
        (
            entry.leaf_key,
            entry.value_salt,
            entry.role.to_bytes(1, "big"),
            entry.records.to_bytes(4, "big"),
            entry.consent_id,
            entry.holder,
            entry.holder_salt,
            entry.doc_commit,
            entry.form_id,
        )
    )
    if entry.anchor is None:
        return head + bytes([_GRANT])
    anchor = entry.anchor
    place = bytes([_ANCHOR]) + anchor.root + anchor.index.to_bytes(4, "big") + bytes([len(anchor.path)])
    return head + place + b"".join(anchor.path)


def encode_set(plain: SetPlain) -> bytes:
    """The bytes of a set."""
    head = SET_MAGIC + plain.round_id + plain.member.to_bytes(2, "big") + plain.salt
    return head + len(plain.entries).to_bytes(4, "big") + b"".join([_encode_entry(entry) for entry in plain.entries])


def _decode_anchor(reader: _Reader) -> AnchorProof | None:
    if reader.uint("proofKind", 1, _GRANT, _ANCHOR) == _GRANT:
        return None
    root = reader.digest("anchorRoot")
    index_at, index = reader.at, reader.uint("index", 4, 0, (1 << 32) - 1)
    depth = reader.uint("depth", 1, _MIN_DEPTH, _MAX_DEPTH)
    if index >= 1 << depth:
        raise EncodingError("index", f"{index} is beyond a tree of {1 << depth} leaves", index_at)
    return AnchorProof(root, index, tuple(reader.digest("path") for _ in range(depth)))


def _decode_entry(reader: _Reader) -> SetEntry:
    return SetEntry(
        leaf_key=reader.digest("leafKey"),
        value_salt=reader.digest("valueSalt"),
        role=reader.uint("role", 1, ROLE_TRAIN, ROLE_TEST),
        records=reader.uint("records", 4, 1, (1 << 32) - 1),
        consent_id=reader.digest("consentId"),
        holder=reader.take("holderAddress", 20),
        holder_salt=reader.digest("holderSalt"),
        doc_commit=reader.digest("docCommit"),
        form_id=reader.digest("formId"),
        anchor=_decode_anchor(reader),
    )


def decode_set(data: bytes) -> SetPlain:
    """The set in `data`; `EncodingError` names the field and the offset, `UnsortedKeys` the entry out of order."""
    reader = _Reader(data, MAX_PLAINTEXT_BYTES)
    reader.magic(SET_MAGIC)
    round_id = reader.digest("roundId")
    member = reader.uint("member", 2, 0, 0xFFFF)
    salt = reader.digest("salt")
    count = reader.uint("count", 4, 0, MAX_SET_ENTRIES)
    entries = tuple(_decode_entry(reader) for _ in range(count))
    reader.end()
    return SetPlain(round_id, member, salt, entries)


def check_entry(entry: SetEntry) -> None:
    """Raise `RootMismatch` unless the entry's opening leads to its consent id: a consent has one leaf key and no other.

    `EncodingError` if the holder's salt is zero.
    """
    check_consent_id(entry.consent_id, entry.holder, entry.holder_salt, entry.doc_commit, entry.leaf_key)


def dataset_map(entries: Sequence[SetEntry]) -> MerkleMap:
    """The dataset map of entries in their sorted order; `UnsortedKeys` otherwise."""
    return MerkleMap((entry.leaf_key, entry.value_hash) for entry in entries)


def dataset_root(entries: Sequence[SetEntry]) -> Digest:
    """The root a Commit statement names for these entries."""
    return dataset_map(entries).root
