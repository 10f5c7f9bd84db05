"""The only place that hashes: 32-byte digests, tagged hashing, and content addresses in chunks.

Everything a contract may have to recompute is keccak256 over 32-byte words, led by a tag, so that no two kinds of
hash can ever be confused and Solidity writes it as `keccak256(abi.encode(TAG, a, b))`. Bulk bytes are hashed with
sha256 (five times as fast), a chunk at a time, and only the list of chunk digests meets keccak.
Layouts: FORMATS.md, "Hashing" and "Content addresses".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from eth_hash.auto import keccak as _keccak

from crypto.errors import EncodingError, RootMismatch

__all__ = [
    "CHUNK_BYTES",
    "MAX_CONTENT_BYTES",
    "ZERO",
    "ContentMap",
    "Digest",
    "accumulate",
    "content_root",
    "hash_words",
    "keccak256",
    "sha256",
    "tag",
]

CHUNK_BYTES: Final = 1 << 20
"""Size of every chunk but the last."""

MAX_CONTENT_BYTES: Final = 1 << 31
"""Longest content that has an address: 2 GiB, 2048 chunks."""

_WORD_LIMIT: Final = 1 << 256


class Digest(bytes):
    """Exactly 32 bytes: a hash, a root, an identifier, a salt. Compares equal to the same plain bytes."""

    __slots__ = ()

    def __new__(cls, value: bytes | bytearray | memoryview) -> Self:
        """Raise `EncodingError` unless `value` is 32 bytes."""
        if type(value) is cls:
            return value  # it cannot change: the records of a large set are built from digests that were read before
        if len(value) != 32:
            raise EncodingError("digest", f"32 bytes expected, {len(value)} given")
        return super().__new__(cls, value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 lower-case hexadecimal digits, with or without `0x`; anything else is an `EncodingError`."""
        digits = text.removeprefix("0x")
        if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
            raise EncodingError("digest", f"64 lower-case hexadecimal digits expected, {text[:80]!r} given")
        return cls(bytes.fromhex(digits))

    def __repr__(self) -> str:
        """Show the digits."""
        return f"Digest({self.hex()})"

    __str__ = __repr__


ZERO: Final = Digest(bytes(32))
"""The zero word: the root of an empty map, the parent of the first round, "none" in general."""


def keccak256(data: bytes) -> Digest:
    """Ethereum's keccak256."""
    return Digest(_keccak(data))


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """SHA-256 (FIPS 180-4)."""
    return Digest(hashlib.sha256(data).digest())


@lru_cache(maxsize=256)
def tag(name: str) -> Digest:
    """The domain-separating tag keccak256(utf8("koinon/" + name + "/1"))."""
    return keccak256(f"koinon/{name}/1".encode())


def _word(position: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        if not 0 <= value < _WORD_LIMIT:
            raise EncodingError(f"word {position}", f"{value} does not fit 256 bits")
        return value.to_bytes(32, "big")
    if len(value) == 32:
        return value
    if len(value) == 20:
        return bytes(12) + value  # an address, as the ABI pads it
    raise EncodingError(
        f"word {position}", f"32 bytes, a 20-byte address or an integer expected, {len(value)} bytes given"
    )


def hash_words(name: str, *words: int | bytes) -> Digest:
    """keccak256(abi.encode(tag(name), words...)) for static words.

    Integers are big-endian, addresses (20 bytes) left-padded. Raises `EncodingError` for a word of any other width.
    """
    return keccak256(tag(name) + b"".join([_word(i, word) for i, word in enumerate(words)]))


def _chunk_count(length: int) -> int:
    return -(-length // CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class ContentMap:
    """The digests of a content's chunks: lets every chunk be checked alone, and leads to the content's root.

    `length` in bytes; `digests` has one sha256 for each chunk of 1 MiB (the last may be shorter), none if empty.
    """

    length: int
    digests: tuple[Digest, ...]

    def __post_init__(self) -> None:
        """Raise `EncodingError` unless the number of digests fits the length."""
        if not 0 <= self.length <= MAX_CONTENT_BYTES:
            raise EncodingError("length", f"{self.length} bytes is not between 0 and {MAX_CONTENT_BYTES}")
        if len(self.digests) != _chunk_count(self.length):
            raise EncodingError(
                "digests", f"{_chunk_count(self.length)} expected for {self.length} bytes, {len(self.digests)} given"
            )
        object.__setattr__(self, "digests", tuple(Digest(d) for d in self.digests))

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        """The map of `data`."""
        view = memoryview(data).cast("B")
        starts = range(0, len(view), CHUNK_BYTES)
        return cls(len(view), tuple(sha256(view[start : start + CHUNK_BYTES]) for start in starts))

    @classmethod
    def from_bytes(cls, length: int, digests: bytes) -> Self:
        """The map from a length and its concatenated digests, as they travel; `EncodingError` if they do not fit."""
        if len(digests) % 32:
            raise EncodingError("digests", f"{len(digests)} bytes is not a multiple of 32")
        return cls(length, tuple(Digest(digests[at : at + 32]) for at in range(0, len(digests), 32)))

    def to_bytes(self) -> bytes:
        """The concatenated digests."""
        return b"".join(self.digests)

    def root(self, kind: str) -> Digest:
        """The content root: hash_words(kind, length, sha256(d_0 || d_1 || ...))."""
        return hash_words(kind, self.length, sha256(self.to_bytes()))

    def check_root(self, kind: str, expected: bytes) -> None:
        """Raise `RootMismatch` unless this map leads to `expected`."""
        got = self.root(kind)
        if got != expected:
            raise RootMismatch(f"{kind} root", expected, got)

    def chunk_length(self, index: int) -> int:
        """Bytes in chunk `index`; `EncodingError` if there is no such chunk."""
        if not 0 <= index < len(self.digests):
            raise EncodingError("chunk", f"index {index} of {len(self.digests)} chunks")
        return min(CHUNK_BYTES, self.length - index * CHUNK_BYTES)

    def verify_chunk(self, index: int, chunk: bytes | bytearray | memoryview) -> None:
        """Raise `EncodingError` for a wrong index or size, `RootMismatch` for other bytes than the ones mapped."""
        expected = self.chunk_length(index)
        if len(chunk) != expected:
            raise EncodingError("chunk", f"chunk {index} has {expected} bytes, {len(chunk)} given")
        got = sha256(chunk)
        if got != self.digests[index]:
            raise RootMismatch(f"chunk {index}", self.digests[index], got)


def content_root(kind: str, data: bytes | bytearray | memoryview) -> Digest:
    """The content address of `data` under `kind` ("cipher", "model", "shard", "spec" or "plain")."""
    return ContentMap.of(data).root(kind)


def accumulate(accumulator: bytes, record_hash: bytes) -> Digest:
    """A registry's next accumulator: keccak256(abi.encode(accumulator, record_hash)). Both 32 bytes, no tag."""
    return keccak256(Digest(accumulator) + Digest(record_hash))
