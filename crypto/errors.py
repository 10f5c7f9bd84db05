"""What the room `crypto` raises.

Two families, by who has to do something about it. An `EncodingError` says that bytes or a field are not in the format:
whoever wrote them is at fault, and no key or hash was looked at. A `VerificationError` says that well-formed bytes do
not fit a hash, a key or a signature; it carries what was expected and what was found.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CryptoError",
    "EncodingError",
    "UnsortedKeys",
    "KeystoreCorrupted",
    "VerificationError",
    "SignatureMismatch",
    "RootMismatch",
    "ProofMismatch",
    "KeyMismatch",
    "BadSeal",
    "BadWrap",
    "WrongPassword",
]


class CryptoError(Exception):
    """Base of everything this room raises on purpose."""


class EncodingError(CryptoError):
    """A field or a byte string is not in its format.

    `field` names the field (in the words of FORMATS.md), `offset` is the byte position where reading stopped, when the
    fault is in a byte string.
    """

    def __init__(self, field: str, problem: str, offset: int | None = None) -> None:
        where = field if offset is None else f"{field} at byte {offset}"
        super().__init__(f"{where}: {problem}")
        self.field: Final = field
        self.problem: Final = problem
        self.offset: Final = offset


class UnsortedKeys(EncodingError):
    """The keys of a map are not strictly increasing: entry `index` does not come after the one before it."""

    def __init__(self, field: str, index: int, before: bytes, key: bytes) -> None:
        relation = "repeats" if before == key else "is smaller than"
        super().__init__(field, f"key {index} ({key.hex()}) {relation} the key before it ({before.hex()})")
        self.index: Final = index


class KeystoreCorrupted(EncodingError):
    """The keystore's bytes were changed or cut off; no password would open it."""


class VerificationError(CryptoError):
    """Well-formed bytes that do not fit a hash, a key or a signature."""


class SignatureMismatch(VerificationError):
    """A signature that is not the expected signer's over this digest. `got` is None where no key can be recovered."""

    def __init__(self, expected: bytes, got: bytes | None) -> None:
        found = "a signature of no key at all" if got is None else f"0x{got.hex()}"
        super().__init__(f"expected a signature by 0x{expected.hex()}, found {found}")
        self.expected: Final = expected
        self.got: Final = got


class RootMismatch(VerificationError):
    """A hash recomputed from the content differs from the stated one."""

    def __init__(self, what: str, expected: bytes, got: bytes) -> None:
        super().__init__(f"{what}: expected {expected.hex()}, computed {got.hex()}")
        self.what: Final = what
        self.expected: Final = expected
        self.got: Final = got


class ProofMismatch(VerificationError):
    """A Merkle proof whose shape or statement is wrong, whatever root it would lead to."""


class KeyMismatch(VerificationError):
    """A content key that is not the committed one: the fault of whoever handed it over, never of the blob's author."""

    def __init__(self, expected: bytes, got: bytes) -> None:
        super().__init__(f"key commitment: expected {expected.hex()}, computed {got.hex()}")
        self.expected: Final = expected
        self.got: Final = got


class BadSeal(VerificationError):
    """The committed ciphertext does not open under the committed key: the author's fault, the same for every reader."""


class BadWrap(VerificationError):
    """A wrapped key that this sealing key cannot open: the fault of whoever wrapped it."""


class WrongPassword(VerificationError):
    """The keystore is whole, but the password is another one."""

    def __init__(self) -> None:
        super().__init__("the password does not open this keystore")
