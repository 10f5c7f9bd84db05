"""Sealed blobs: a committed content key, a chunked body, and wraps of the key for its readers.

- The *body* is STREAM (Hoang, Reyhanitabar, Rogaway, Vizar 2015, as age uses it): AES-256-GCM over chunks of 1 MiB,
  nonce = 11-byte counter || last-chunk flag. Every blob has a fresh key, so nonces never repeat under a key, and a body
  cut at a chunk edge does not open. Round, author and kind are associated data.
- AES-GCM does not commit to its key: one ciphertext can be made that opens under two keys to two plaintexts. So the
  author commits to the key first, and the commitment is checked before a single byte is decrypted.
- A *wrap* is HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM, base mode) of the key for one sealing key. Wraps are
  transport: they are under no hash, any holder makes new ones, and a bad wrap only means "ask another holder".

Errors say whose fault it is: `KeyMismatch`, `BadWrap` and `RootMismatch` that of whoever handed over key, wrap or
bytes; `BadSeal` that of the author, the same for every reader who holds the committed bytes and key.
Layouts: FORMATS.md, "Sealed blob" and "Wrap".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from crypto.commitments import CONTENT_KEY_BYTES, key_commit
from crypto.digest import CHUNK_BYTES, Digest, content_root, hash_words
from crypto.errors import BadSeal, BadWrap, EncodingError, KeyMismatch, RootMismatch
from crypto.keys import SealingKey

__all__ = [
    "MAX_CIPHERTEXT_BYTES",
    "MAX_PLAINTEXT_BYTES",
    "TAG_BYTES",
    "WRAP_BYTES",
    "BlobCommit",
    "BlobKind",
    "Sealed",
    "check_key",
    "ciphertext_length",
    "open_blob",
    "seal",
    "seal_under",
    "unwrap",
    "wrap",
]

TAG_BYTES: Final = 16
MAX_PLAINTEXT_BYTES: Final = 1 << 30
"""Longest plaintext: 1 GiB, an update of some 268 million parameters."""

MAX_CIPHERTEXT_BYTES: Final = MAX_PLAINTEXT_BYTES + TAG_BYTES * (MAX_PLAINTEXT_BYTES // CHUNK_BYTES)
WRAP_BYTES: Final = 80
"""Encapsulated key (32) || sealed content key (32) || tag (16)."""

_STEP: Final = CHUNK_BYTES + TAG_BYTES
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class BlobKind(IntEnum):
    """Which of a member's two blobs of a round."""

    UPDATE = 0
    SET = 1


@dataclass(frozen=True, slots=True)
class BlobCommit:
    """What an author commits to for one blob. `length` is the ciphertext's in bytes; `cipher_root` already binds it."""

    cipher_root: Digest
    plain_hash: Digest
    key_commit: Digest
    length: int

    def __post_init__(self) -> None:
        """Raise `EncodingError` for a width or a length no sealed blob has."""
        for field in ("cipher_root", "plain_hash", "key_commit"):
            object.__setattr__(self, field, Digest(getattr(self, field)))
        if not TAG_BYTES <= self.length <= MAX_CIPHERTEXT_BYTES:
            raise EncodingError("length", f"{self.length} is not between {TAG_BYTES} and {MAX_CIPHERTEXT_BYTES}")

    @property
    def hash(self) -> Digest:
        """The blob commitment, as it enters the update root."""
        return hash_words("blob", self.cipher_root, self.plain_hash, self.key_commit)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed blob in its author's hands."""

    ciphertext: bytes
    key: bytes
    commit: BlobCommit

    def __repr__(self) -> str:
        """Show the commitment, never the key."""
        return f"Sealed({self.commit!r})"


def ciphertext_length(plaintext_length: int) -> int:
    """Bytes of the ciphertext of this many bytes: a tag for each chunk, at least one."""
    return plaintext_length + TAG_BYTES * max(1, -(-plaintext_length // CHUNK_BYTES))


def _nonce(chunk: int, last: bool) -> bytes:
    return chunk.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _context(round_id: bytes, member: int, kind: int) -> bytes:
    """roundId (32) || member (2) || kind (1)."""
    if not 0 <= member < 1 << 16:
        raise EncodingError("member", f"{member} does not fit uint16")
    return Digest(round_id) + member.to_bytes(2, "big") + bytes([BlobKind(kind)])


def seal_under(key: bytes, plaintext: bytes, round_id: bytes, member: int, kind: BlobKind) -> Sealed:
    """`seal` under a given key. For recomputing a blob and for vectors: two plaintexts must never share a key."""
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise EncodingError("plaintext", f"{len(plaintext)} bytes, at most {MAX_PLAINTEXT_BYTES} allowed")
    committed = key_commit(key, round_id, member, kind)
    context, cipher = _context(round_id, member, kind), AESGCM(key)
    source, target = memoryview(plaintext), bytearray(ciphertext_length(len(plaintext)))
    out = memoryview(target)
    chunks = max(1, -(-len(plaintext) // CHUNK_BYTES))
    for i in range(chunks):
        piece = source[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
        # encrypt_into is several times as fast as encrypt, which spends its time on a new buffer
        cipher.encrypt_into(
            _nonce(i, i == chunks - 1), piece, context, out[i * _STEP : i * _STEP + len(piece) + TAG_BYTES]
        )
    ciphertext = bytes(target)
    commit = BlobCommit(
        content_root("cipher", ciphertext), content_root("plain", plaintext), committed, len(ciphertext)
    )
    return Sealed(ciphertext, key, commit)


def seal(plaintext: bytes, round_id: bytes, member: int, kind: BlobKind) -> Sealed:
    """Seal a blob under a fresh key. The plaintext itself names round and member, so a copied blob is found out."""
    return seal_under(os.urandom(CONTENT_KEY_BYTES), plaintext, round_id, member, kind)


def check_key(key: bytes, expected: bytes, round_id: bytes, member: int, kind: BlobKind) -> None:
    """Raise `KeyMismatch` unless `key` is the one committed as `expected`."""
    got = key_commit(key, round_id, member, kind)
    if got != expected:
        raise KeyMismatch(expected, got)


def open_blob(ciphertext: bytes, key: bytes, commit: BlobCommit, round_id: bytes, member: int, kind: BlobKind) -> bytes:
    """The plaintext of a committed blob.

    Checks in this order: the key's commitment (`KeyMismatch`), the bytes' root (`RootMismatch`), then what only the
    author can have got wrong: chunk tags, an empty last chunk, the plaintext's hash (`BadSeal`). The length that the
    commitment tells is a hint for whoever fetches: no hash covers it, so it decides nothing here.
    """
    check_key(key, commit.key_commit, round_id, member, kind)
    root = content_root("cipher", ciphertext)
    if root != commit.cipher_root:
        raise RootMismatch("cipher root", commit.cipher_root, root)
    plaintext = _open_stream(ciphertext, key, _context(round_id, member, kind))
    plain_hash = content_root("plain", plaintext)
    if plain_hash != commit.plain_hash:
        raise BadSeal(f"plain hash: expected {commit.plain_hash.hex()}, computed {plain_hash.hex()}")
    return plaintext


def _open_stream(ciphertext: bytes, key: bytes, context: bytes) -> bytes:
    source, chunks = memoryview(ciphertext), max(1, -(-len(ciphertext) // _STEP))
    rest = len(ciphertext) - (chunks - 1) * _STEP
    if rest < TAG_BYTES or (rest == TAG_BYTES and chunks > 1):
        # An empty last chunk after a full one would be a second ciphertext of the same plaintext.
        raise BadSeal(f"the last chunk has {rest} bytes")
    target = bytearray(len(ciphertext) - chunks * TAG_BYTES)
    out, cipher = memoryview(target), AESGCM(key)
    for i in range(chunks):
        piece = source[i * _STEP : (i + 1) * _STEP]
        place = out[i * CHUNK_BYTES : i * CHUNK_BYTES + len(piece) - TAG_BYTES]
        try:
            cipher.decrypt_into(_nonce(i, i == chunks - 1), piece, context, place)
        except InvalidTag:
            raise BadSeal(f"chunk {i} of {chunks} does not open") from None
    return bytes(target)


# --- wraps ------------------------------------------------------------------------------------------------------------


def _info(round_id: bytes, member: int, kind: int, recipient: bytes) -> bytes:
    return b"koinon/wrap/1" + _context(round_id, member, kind) + Digest(recipient)


def wrap(key: bytes, recipient: bytes, round_id: bytes, member: int, kind: BlobKind) -> bytes:
    """The content key for one reader: 80 bytes. `recipient` is its 32-byte sealing public key, `member` the author.

    Raises `BadWrap` for a public key of low order, which would make the wrap open to everybody.
    """
    if len(key) != CONTENT_KEY_BYTES:
        raise EncodingError("content key", f"{CONTENT_KEY_BYTES} bytes expected, {len(key)} given")
    info = _info(round_id, member, kind, recipient)
    try:
        return _SUITE.encrypt(key, X25519PublicKey.from_public_bytes(recipient), info=info)
    except ValueError:
        raise BadWrap(f"no key can be wrapped for the sealing key {recipient.hex()}") from None


def unwrap(wrapped: bytes, reader: SealingKey, expected: bytes, round_id: bytes, member: int, kind: BlobKind) -> bytes:
    """The content key in a wrap, checked against its commitment `expected`.

    Raises `BadWrap` if it does not open for this reader, round, author and kind; `KeyMismatch` if it holds another key.
    """
    if len(wrapped) != WRAP_BYTES:
        raise EncodingError("wrap", f"{WRAP_BYTES} bytes expected, {len(wrapped)} given")
    info = _info(round_id, member, kind, reader.public)
    try:
        key = _SUITE.decrypt(wrapped, reader.private_key, info=info)
    except (InvalidTag, ValueError):
        raise BadWrap("the wrap does not open for this reader, round, author and kind") from None
    check_key(key, expected, round_id, member, kind)
    return key
