"""The node's keys on disk: a file for every set of keys it ever made, under one password, opened once a start.

What may live here: reading and writing `keystore.json` and the later `keystore-1.json`, `keystore-2.json` .., and the
key that everything else at rest is sealed under. Keys are only ever added: new ones are on disk before anybody hears
of them, and which of them a node has is what the chain says, so a crash in the middle of a change loses nothing. What
is at rest stays sealed under the first keys.
What this file does not know: what is sealed. The format is `crypto/keys.py`'s. One scrypt derivation (some 0.3 s,
128 MiB) is paid for the password; every further key comes from the ring by HKDF.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.errors import CryptoError, WrongPassword
from crypto.keys import SCRYPT_LOG_N, KeyRing, open_keystore, seal_keystore
from node.errors import LocalFault, NotFound
from node.home import Home, write_file

AT_REST_LABEL: Final = b"koinon/at-rest/1"
NOISE_LABEL: Final = b"koinon/noise/1"


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


def add(home: Home, password: str, ring: KeyRing, *, log_n: int = SCRYPT_LOG_N) -> None:
    """Keep further keys beside those the home has; no file is overwritten."""
    place = home.later_keystore(len(load_all(home, password)))
    try:
        write_file(place, seal_keystore(ring, password, log_n=log_n), 0o600)
    except OSError as error:
        raise LocalFault(f"{place}: {error.strerror}") from error


def load(home: Home, password: str) -> KeyRing:
    """The keys the home was made with.

    Raises:
        NotFound: the home has no keystore.
        LocalFault: another password, damaged bytes, another version, or an unreadable file.
    """
    return _open(home.keystore_path, password)


def load_all(home: Home, password: str) -> tuple[KeyRing, ...]:
    """All keys of the home, in the order they were made; raises as `load`."""
    return tuple(_open(path, password) for path in _files(home))


def _files(home: Home) -> list[Path]:
    found = [home.keystore_path]
    while (path := home.later_keystore(len(found))).exists():
        found.append(path)
    return found


def _open(path: Path, password: str) -> KeyRing:
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
    """Seal the same keys under another password; each file is replaced whole or not at all.

    Broken off between two files, it is finished by calling it again with the same passwords.
    """
    files = _files(home)
    # The first file goes last: until it is done, the old password is the home's.
    for path in reversed(files):
        try:
            ring = _open(path, old)
        except LocalFault:
            if path == files[0]:
                raise
            _open(path, new)  # changed by an earlier call
            continue
        write_file(path, seal_keystore(ring, new, log_n=log_n), 0o600)


def at_rest_key(ring: KeyRing) -> bytes:
    """The 32 bytes that seal the store's content keys and the vault's key file: HKDF-SHA256 over the first ring's."""
    secrets = ring.ledger.to_bytes() + ring.sealing.to_bytes() + ring.peer.to_bytes()
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=AT_REST_LABEL).derive(secrets)


def noise_secret(at_rest_key: bytes) -> bytes:
    """The 32 bytes that a hospital's noise is drawn from, in studies whose method adds any."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=NOISE_LABEL).derive(at_rest_key)


def current_ring(rings: Sequence[KeyRing], registered: Sequence[tuple[bytes, bytes, bytes]]) -> KeyRing:
    """The newest of a home's keys that the chain knows; the first before it knows any.

    Args:
        rings: in the order they were made.
        registered: `public_keys` that the chain has or had for the home's member, in order.
    """
    places = {keys: place for place, keys in enumerate(registered)}
    known = [ring for ring in rings if public_keys(ring) in places]
    return max(known, key=lambda ring: places[public_keys(ring)], default=rings[0])


def public_keys(ring: KeyRing) -> tuple[bytes, bytes, bytes]:
    """Ledger address, peer id and sealing key, as the registry has them."""
    return ring.ledger.address, ring.peer.peer_id, bytes(ring.sealing.public)
