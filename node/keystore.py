"""The node's keys on disk: one file under one password, opened once a start.

What may live here: reading and writing `keystore.json`, and the key that everything else at rest is sealed under.
What this file does not know: what is sealed. The format is `crypto/keys.py`'s. One scrypt derivation (some 0.3 s,
128 MiB) is paid for the password; every further key comes from the ring by HKDF.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import CryptoError, WrongPassword
from crypto.keys import SCRYPT_LOG_N, KeyRing, open_keystore, seal_keystore
from node.errors import LocalFault, NotFound
from node.home import Home, write_file

AT_REST_LABEL: Final = b"koinon/at-rest/1"


def create(home: Home, password: str, *, log_n: int = SCRYPT_LOG_N) -> KeyRing:
    """Make three fresh keys and keep them in the home (mode 0600); refuses to overwrite. `log_n` is scrypt's cost."""
    path = home.keystore_path
    if path.exists():
        raise LocalFault(f"{path} exists: a node's keys are never overwritten")
    ring = KeyRing.generate()
    try:
        write_file(path, seal_keystore(ring, password, log_n=log_n), 0o600)
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}") from error
    return ring


def load(home: Home, password: str) -> KeyRing:
    """The node's keys.

    Raises:
        NotFound: the home has no keystore.
        LocalFault: another password, damaged bytes, another version, or an unreadable file.
    """
    path = home.keystore_path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist: this home has no keys") from None
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}") from error
    try:
        return open_keystore(data, password)
    except WrongPassword:
        raise LocalFault(f"the password does not open {path}") from None
    except CryptoError as error:
        raise LocalFault(f"{path}: {error}") from error


def change_password(home: Home, old: str, new: str, *, log_n: int = SCRYPT_LOG_N) -> None:
    """Seal the same keys under another password; the file is replaced whole or not at all."""
    ring = load(home, old)
    write_file(home.keystore_path, seal_keystore(ring, new, log_n=log_n), 0o600)


def at_rest_key(ring: KeyRing) -> bytes:
    """The 32 bytes that seal the store's content keys and the vault's key file: HKDF-SHA256 over the ring's secrets."""
    secrets = ring.ledger.to_bytes() + ring.sealing.to_bytes() + ring.peer.to_bytes()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=AT_REST_LABEL).derive(secrets)
