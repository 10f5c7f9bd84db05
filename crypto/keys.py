"""A node's three keys, and the sealed bytes that keep them.

- `LedgerKey` (secp256k1) signs statements; its 20-byte address is who a member is on the ledger.
- `SealingKey` (X25519) opens content keys that were wrapped for it.
- `PeerKey` (Ed25519) is the libp2p identity; the peer id is computed here so that an offline reader needs no libp2p.

Secret bytes never appear in a repr. Reading and writing files is the business of node/keystore.py; here a keystore is
bytes. Layouts: FORMATS.md, "Keys" and "Keystore".
"""

from __future__ import annotations

import binascii
import hmac
import json
import os
from dataclasses import dataclass
from typing import Any, Final, Self

from coincurve import PrivateKey, PublicKey
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from crypto.digest import Digest, keccak256, sha256
from crypto.errors import EncodingError, KeystoreCorrupted, SignatureMismatch, WrongPassword

__all__ = [
    "KEYSTORE_SCHEMA",
    "MAX_KEYSTORE_BYTES",
    "SCRYPT_LOG_N",
    "SIGNATURE_BYTES",
    "KeyRing",
    "LedgerKey",
    "PeerKey",
    "SealingKey",
    "address_text",
    "check_signature",
    "open_keystore",
    "parse_address",
    "parse_peer_id",
    "peer_id_text",
    "peer_public_key",
    "recover_address",
    "seal_keystore",
    "verify_peer_signature",
]

SIGNATURE_BYTES: Final = 65
"""r (32) || s (32) || v (1), v 27 or 28."""

# Order of secp256k1 (SEC 2, section 2.4.1). EIP-2 and OpenZeppelin's ECDSA refuse s above half of it.
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER: Final = _ORDER // 2


def _exactly(field: str, value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise EncodingError(field, f"{size} bytes expected, {len(value)} given")
    return bytes(value)


# --- ledger -----------------------------------------------------------------------------------------------------------


def _address_of(public: PublicKey) -> bytes:
    return keccak256(public.format(compressed=False)[1:])[12:]


class LedgerKey:
    """A secp256k1 key. Signs 32-byte digests with RFC 6979 nonces, so that signing twice gives the same bytes."""

    __slots__ = ("_address", "_key")

    def __init__(self, secret: bytes) -> None:
        """Raise `EncodingError` unless `secret` is 32 bytes between 1 and the group order minus 1."""
        _exactly("ledger key", secret, 32)
        if not 0 < int.from_bytes(secret, "big") < _ORDER:
            raise EncodingError("ledger key", "not a secp256k1 secret")
        self._key = PrivateKey(secret)
        self._address = _address_of(self._key.public_key)

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        while True:
            secret = os.urandom(32)
            if 0 < int.from_bytes(secret, "big") < _ORDER:
                return cls(secret)

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """The key with this 32-byte secret."""
        return cls(secret)

    def to_bytes(self) -> bytes:
        """The 32-byte secret."""
        return self._key.secret

    @property
    def address(self) -> bytes:
        """The 20-byte ledger address."""
        return self._address

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes r || s || v with low s and v 27 or 28. `digest` has 32 bytes and must come from `statements`."""
        signature = self._key.sign_recoverable(Digest(digest), hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def __repr__(self) -> str:
        """Show the address, never the secret."""
        return f"LedgerKey({address_text(self._address)})"


def check_signature(signature: bytes) -> bytes:
    """The 65 bytes unchanged; `EncodingError` for another length, v other than 27 or 28, r or s out of range, high s.

    Only one encoding of a signature is accepted (OpenZeppelin's ECDSA draws the same line), so that equal statements
    by one signer are equal bytes.
    """
    _exactly("signature", signature, SIGNATURE_BYTES)
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise EncodingError("signature v", f"27 or 28 expected, {v} given", 64)
    if not 0 < r < _ORDER:
        raise EncodingError("signature r", "zero or not below the group order", 0)
    if not 0 < s < _ORDER:
        raise EncodingError("signature s", "zero or not below the group order", 32)
    if s > _HALF_ORDER:
        raise EncodingError("signature s", "above half the group order (malleable)", 32)
    return bytes(signature)


def recover_address(digest: bytes, signature: bytes) -> bytes | None:
    """The address that signed `digest`, None where r is no point of the curve; `EncodingError` as `check_signature`."""
    checked = check_signature(signature)
    try:
        public = PublicKey.from_signature_and_message(
            checked[:64] + bytes([checked[64] - 27]), Digest(digest), hasher=None
        )
    except ValueError:
        return None
    return _address_of(public)


def address_text(address: bytes) -> str:
    """A 20-byte address as 0x and 40 digits with EIP-55 capitals."""
    digits = _exactly("address", address, 20).hex()
    nibbles = keccak256(digits.encode()).hex()
    return "0x" + "".join(c.upper() if int(n, 16) >= 8 else c for c, n in zip(digits, nibbles, strict=False))


def parse_address(text: str) -> bytes:
    """20 bytes from 0x and 40 digits; mixed case must be a valid EIP-55 checksum. `EncodingError` otherwise."""
    try:
        address = bytes.fromhex(text[2:]) if text.startswith("0x") and len(text) == 42 else b""
    except ValueError:
        address = b""
    if len(address) != 20:
        raise EncodingError("address", f"0x and 40 hexadecimal digits expected, {text[:80]!r} given")
    if text not in (address_text(address), text.lower()):
        raise EncodingError("address", f"{text} has a wrong EIP-55 checksum")
    return address


# --- sealing ----------------------------------------------------------------------------------------------------------


class SealingKey:
    """An X25519 key for which content keys are wrapped (crypto/sealing.py)."""

    __slots__ = ("_key", "_public")

    def __init__(self, secret: bytes) -> None:
        """Raise `EncodingError` unless `secret` is 32 bytes."""
        self._key = X25519PrivateKey.from_private_bytes(_exactly("sealing key", secret, 32))
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """The key with this 32-byte secret."""
        return cls(secret)

    def to_bytes(self) -> bytes:
        """The 32-byte secret."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> Digest:
        """The 32-byte public key (RFC 7748 u-coordinate)."""
        return Digest(self._public)

    @property
    def private_key(self) -> X25519PrivateKey:
        """The key object, for HPKE."""
        return self._key

    def __repr__(self) -> str:
        """Show the public key, never the secret."""
        return f"SealingKey(public={self._public.hex()})"


# --- peer -------------------------------------------------------------------------------------------------------------

# libp2p peer id of an Ed25519 key: identity multihash (0x00), 36 bytes (0x24), of the protobuf {1: type 1 (Ed25519),
# 2: 32 key bytes}. Source: libp2p specs, peer-ids/peer-ids.md.
_PEER_ID_PREFIX: Final = bytes.fromhex("0024080112" + "20")
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class PeerKey:
    """The Ed25519 identity of a node in libp2p."""

    __slots__ = ("_key", "_public", "_seed")

    def __init__(self, seed: bytes) -> None:
        """Raise `EncodingError` unless `seed` is 32 bytes."""
        self._seed = _exactly("peer key", seed, 32)
        self._key = Ed25519PrivateKey.from_private_bytes(self._seed)
        self._public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """A fresh key from the operating system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def from_bytes(cls, seed: bytes) -> Self:
        """The key with this 32-byte seed."""
        return cls(seed)

    def to_bytes(self) -> bytes:
        """The 32-byte seed, as libp2p's `create_new_key_pair` takes it."""
        return self._seed

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""
        return self._public

    @property
    def peer_id(self) -> bytes:
        """The 38-byte libp2p peer id."""
        return _PEER_ID_PREFIX + self._public

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        """Show the peer id, never the seed."""
        return f"PeerKey({peer_id_text(self.peer_id)})"


def peer_public_key(peer_id: bytes) -> bytes:
    """The 32-byte Ed25519 key inside a peer id; `EncodingError` for any other kind of id."""
    if len(peer_id) != 38 or not peer_id.startswith(_PEER_ID_PREFIX):
        raise EncodingError("peer id", f"not an Ed25519 identity: {peer_id[:64].hex()}")
    return peer_id[6:]


def verify_peer_signature(peer_id: bytes, message: bytes, signature: bytes) -> None:
    """Raise `SignatureMismatch` unless `signature` is this peer's over `message`."""
    public = peer_public_key(peer_id)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        raise SignatureMismatch(peer_id, None) from None


def peer_id_text(peer_id: bytes) -> str:
    """The base58 text of a peer id (12D3KooW...)."""
    peer_public_key(peer_id)
    number, digits = int.from_bytes(peer_id, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        digits = _BASE58[rest] + digits
    return "1" + digits  # the leading zero byte of the identity multihash


def parse_peer_id(text: str) -> bytes:
    """The 38 bytes of a base58 peer id; `EncodingError` unless it is an Ed25519 identity, in its only spelling."""
    if not 1 < len(text) <= 64 or not set(text) <= set(_BASE58):
        raise EncodingError("peer id", f"not base58: {text[:80]!r}")
    number = 0
    for character in text:
        number = number * 58 + _BASE58.index(character)
    try:
        peer_id = number.to_bytes(38, "big")
    except OverflowError:
        peer_id = b""
    peer_public_key(peer_id)
    if peer_id_text(peer_id) != text:
        raise EncodingError("peer id", f"{text} has another spelling")
    return peer_id


# --- keystore ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The three keys of one node."""

    ledger: LedgerKey
    sealing: SealingKey
    peer: PeerKey

    @classmethod
    def generate(cls) -> Self:
        """Three fresh, independent keys."""
        return cls(LedgerKey.generate(), SealingKey.generate(), PeerKey.generate())


KEYSTORE_SCHEMA: Final = "koinon.keystore/1"
MAX_KEYSTORE_BYTES: Final = 4096
SCRYPT_LOG_N: Final = 17
"""Default cost: N = 2^17, r = 8, p = 1 takes 128 MiB and some 0.3 s (OWASP's first choice for scrypt)."""
_LOG_N_BOUNDS: Final = range(10, 19)  # a hostile file must not make a reader allocate more than 256 MiB
_FIELD_BYTES: Final = {"salt": 32, "check": 32, "nonce": 12, "ciphertext": 112}


def _stretch(password: str, salt: bytes, log_n: int) -> tuple[bytes, bytes]:
    """One scrypt derivation; (encryption key, password check), which reveal nothing of each other."""
    stretched = Scrypt(salt=salt, length=32, n=1 << log_n, r=8, p=1).derive(password.encode())

    def expand(purpose: bytes) -> bytes:
        return HKDFExpand(hashes.SHA256(), 32, b"koinon/keystore/1/" + purpose).derive(stretched)

    return expand(b"key"), expand(b"check")


def _keystore_bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _keystore_aad(document: dict[str, Any]) -> bytes:
    """Everything that is not secret: a GCM tag covers it with the keys."""
    return _keystore_bytes({name: document[name] for name in ("schema", "log_n", "salt", "check", "public")})


def _public_part(ring: KeyRing) -> dict[str, str]:
    return {
        "ledger": address_text(ring.ledger.address),
        "peer_id": peer_id_text(ring.peer.peer_id),
        "sealing": ring.sealing.public.hex(),
    }


def seal_keystore(ring: KeyRing, password: str, *, log_n: int = SCRYPT_LOG_N) -> bytes:
    """The three keys under one password, as JSON. `log_n` is scrypt's cost (10 to 18); tests use a small one."""
    if log_n not in _LOG_N_BOUNDS:
        raise EncodingError("log_n", f"{log_n} is not between {_LOG_N_BOUNDS[0]} and {_LOG_N_BOUNDS[-1]}")
    salt, nonce = os.urandom(32), os.urandom(12)
    key, check = _stretch(password, salt, log_n)
    document: dict[str, Any] = {
        "schema": KEYSTORE_SCHEMA,
        "log_n": log_n,
        "salt": salt.hex(),
        "check": check.hex(),
        "public": _public_part(ring),
    }
    secrets = ring.ledger.to_bytes() + ring.sealing.to_bytes() + ring.peer.to_bytes()
    document["nonce"] = nonce.hex()
    document["ciphertext"] = AESGCM(key).encrypt(nonce, secrets, _keystore_aad(document)).hex()
    document["sha256"] = sha256(_keystore_bytes(document)).hex()
    return _keystore_bytes(document)


def _read_keystore(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    if len(data) > MAX_KEYSTORE_BYTES:
        raise KeystoreCorrupted("keystore", f"{len(data)} bytes, at most {MAX_KEYSTORE_BYTES} expected")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise KeystoreCorrupted("keystore", "not JSON (cut off or overwritten)") from None
    if not isinstance(document, dict) or not isinstance(document.get("schema"), str):
        raise KeystoreCorrupted("keystore", "no schema")
    if document["schema"] != KEYSTORE_SCHEMA:
        raise EncodingError("schema", f"{KEYSTORE_SCHEMA} expected, {document['schema'][:80]!r} given")
    if _keystore_bytes(document) != data:
        raise KeystoreCorrupted("keystore", "not in its only spelling (edited, or bytes added)")
    digest = document.pop("sha256", None)
    # The unkeyed digest tells damage from a wrong password before anything is derived; it protects against nobody.
    if digest != sha256(_keystore_bytes(document)).hex() or set(document) != {
        "schema", "log_n", "salt", "check", "public", "nonce", "ciphertext",
    }:  # fmt: skip
        raise KeystoreCorrupted("keystore", "its contents do not fit its digest")
    fields: dict[str, bytes] = {}
    for name, size in _FIELD_BYTES.items():
        try:
            fields[name] = binascii.unhexlify(document[name])
        except (TypeError, ValueError):
            raise KeystoreCorrupted(name, "not hexadecimal") from None
        if len(fields[name]) != size:
            raise KeystoreCorrupted(name, f"{size} bytes expected, {len(fields[name])} given")
    if type(document["log_n"]) is not int or document["log_n"] not in _LOG_N_BOUNDS:
        raise KeystoreCorrupted("log_n", f"{document['log_n']!r} is out of bounds")
    return document, fields


def open_keystore(data: bytes, password: str) -> KeyRing:
    """The keys in a keystore.

    Raises `EncodingError` for an unknown schema, `KeystoreCorrupted` for damaged bytes (also found by the wrong
    password), `WrongPassword` for an intact keystore and another password.
    """
    document, fields = _read_keystore(data)
    key, check = _stretch(password, fields["salt"], document["log_n"])
    if not hmac.compare_digest(check, fields["check"]):
        raise WrongPassword
    try:
        secrets = AESGCM(key).decrypt(fields["nonce"], fields["ciphertext"], _keystore_aad(document))
    except InvalidTag:
        raise KeystoreCorrupted("ciphertext", "its authentication tag does not hold") from None
    # That `public` belongs to these secrets needs no check of its own: it is under the same tag.
    return KeyRing(LedgerKey(secrets[:32]), SealingKey(secrets[32:64]), PeerKey(secrets[64:]))
