"""A compartment and its key, which can be destroyed apart from the others.

What may live here: the key file; how rows are named, sealed, found and destroyed, and that the key does not change
meanwhile; files that leave nothing behind. What this file does not know: what the rows say.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.errors import LocalFault, NotFound, Refused

FORMAT: Final = 2
COMPARTMENTS: Final = ("link", "use", "research", "archive", "suppression")
_OFFICERS: Final = ("link", "suppression")
LOCKED: Final = "who is behind a consent opens with the data-protection officer's key alone"

# --------------------------------------------------------------------------------------------------------------------
# Key file


def _overwrite(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all, then wipe the bytes that were there before."""
    aside = _draft(path)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    old = path.open("r+b") if path.exists() else None
    aside.replace(path)
    _sync_folder(path.parent)
    if old is not None:  # the name is gone, the bytes are not
        with old:
            _wipe(old.fileno())


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _wipe(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    length = os.fstat(descriptor).st_size
    while length > 0:
        length -= os.write(descriptor, bytes(min(length, 1 << 20)))
    os.fsync(descriptor)


def shred(path: Path) -> None:
    """Overwrite a file, then unlink it."""
    with path.open("r+b") as file:
        _wipe(file.fileno())
    path.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class KeyFile:
    """`keys.json`: generation -> key of each compartment; two generations only while one replaces the other."""

    def __init__(self, path: Path, at_rest_key: bytes) -> None:
        self._path = path
        self._cipher = AESGCM(at_rest_key)
        self._own = hmac.digest(at_rest_key, b"koinon/vault/no-officer/1", "sha256")
        self.keys: dict[str, dict[int, bytes]] = {}
        # LINK's secret, wrapped under the officer's key; two while one replaces the other
        self._wraps: list[bytes] = []

    def make(self, officer: bytes | None) -> None:
        """Draw every key and write the file."""
        self.keys = {name: {0: secrets.token_bytes(32)} for name in COMPARTMENTS}
        self._wraps = [_wrap(officer or self._own, secrets.token_bytes(32))]
        self.write()

    def secret(self, officer: bytes) -> bytes | None:
        """LINK's secret, if this is the officer's key."""
        for wrap in self._wraps:
            try:
                return AESGCM(_wrapping(officer)).decrypt(wrap[:12], wrap[12:], b"koinon/vault-link/1")
            except InvalidTag:
                continue
        return None

    @property
    def standing(self) -> bytes | None:
        """LINK's secret in a vault made without an officer (a simulation's): it opens with the node's key."""
        return self.secret(self._own)

    def admit(self, secret: bytes, officer: bytes) -> None:
        """Wrap LINK's secret for one more officer's key."""
        if self.secret(officer) is None:
            self._wraps.append(_wrap(officer, secret))
            self.write()

    def keep(self, officer: bytes) -> None:
        """Leave no wrap but this officer's."""
        secret = self.secret(officer)
        if secret is not None and len(self._wraps) > 1:
            self._wraps = [_wrap(officer, secret)]
            self.write()

    def write(self) -> None:
        """Put the file in the place of the one before, whose bytes are overwritten."""
        tree: dict[str, Any] = {
            name: {str(g): key.hex() for g, key in keys.items()} for name, keys in self.keys.items()
        }
        tree["officer"] = [wrap.hex() for wrap in self._wraps]
        nonce = os.urandom(12)
        sealed = nonce + self._cipher.encrypt(nonce, json.dumps(tree).encode(), b"koinon/vault-keys/1")
        _overwrite(self._path, json.dumps({"format": FORMAT, "sealed": sealed.hex()}).encode() + b"\n")

    def read(self) -> None:
        """Take in what the file says; `NotFound` where there is none, `LocalFault` where it does not open."""
        try:
            document = json.loads(self._path.read_bytes())
            version, sealed = document["format"], bytes.fromhex(document["sealed"])
        except FileNotFoundError:
            raise NotFound(f"{self._path} does not exist: no vault here, or its keys were not restored") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LocalFault(f"{self._path}: damaged: {error}") from error
        if version != FORMAT:
            raise LocalFault(f"{self._path}: format {version!r}, this koinon reads format {FORMAT}")
        try:
            tree = json.loads(self._cipher.decrypt(sealed[:12], sealed[12:], b"koinon/vault-keys/1"))
        except InvalidTag:
            raise LocalFault(f"{self._path} does not open: damaged, or of another node's keys") from None
        self._wraps = [bytes.fromhex(wrap) for wrap in tree.pop("officer")]
        self.keys = {
            name: {int(g): bytes.fromhex(key) for g, key in generations.items()} for name, generations in tree.items()
        }

    def shred_draft(self) -> None:
        """Destroy what a crash left of a file that was being written: it may hold keys that have gone since."""
        draft = _draft(self._path)
        if draft.exists():
            shred(draft)


def _wrapping(officer: bytes) -> bytes:
    return hmac.digest(officer, b"koinon/vault/wrap/1", "sha256")


def _wrap(officer: bytes, secret: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(_wrapping(officer)).encrypt(nonce, secret, b"koinon/vault-link/1")


# --------------------------------------------------------------------------------------------------------------------
# Compartment


class Compartment:
    """A table of sealed JSON objects, each under a kind and a name of which only a keyed hash is stored.

    `named`: whether the sealed value repeats its name, which re-encryption under a fresh key needs. A suppression list
    must not be able to name anybody, so it is not named and is never re-encrypted. A row may have a `slot`: a random
    name by which another compartment points to it.

    Threads may share it: the key may change at any time (`destroy`), so what is made with it is made under the lock.

    The key of `_OFFICERS` is made of LINK's secret, which the officer's key unwraps, and of the share in the key file,
    between `unlock` and `lock`.
    SUPPRESSION hashes its names under it; its values name nobody and are sealed under the share alone.
    """

    def __init__(
        self, path: Path, name: str, keys: KeyFile, *, named: bool, create: bool, reading: bool = False
    ) -> None:
        self._name, self._named, self._keys, self._reading = name, named, keys, reading
        self._lock = threading.RLock()
        self._inside = False
        if not create and not path.exists():
            raise LocalFault(f"{path} is missing: the vault is incomplete")
        try:
            where = f"{path.resolve().as_uri()}?mode=ro" if reading else str(path)
            self._db = sqlite3.connect(where, uri=reading, check_same_thread=False, isolation_level=None)
            if not reading:
                self._set_up(path)
            meta = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        except (sqlite3.DatabaseError, OSError) as error:
            raise LocalFault(f"{path}: {error}") from error
        if meta["format"] != FORMAT:
            raise LocalFault(f"{path}: format {meta['format']}, this koinon reads format {FORMAT}")
        self.generation = int(meta["generation"])
        if self.generation not in keys.keys.get(name, {}):
            raise LocalFault(f"{path} and keys.json do not belong together: restore both from the same backup")
        if len(keys.keys[name]) > 1 and not reading:  # a re-encryption was cut off: one of the two keys opens nothing
            keys.keys[name] = {self.generation: keys.keys[name][self.generation]}
            keys.write()
        self._secret: bytes | None = None
        self._take(keys.keys[name][self.generation])

    def _set_up(self, path: Path) -> None:
        os.chmod(path, 0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.execute("PRAGMA temp_store=MEMORY")
        with self.transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS sealed (position INTEGER PRIMARY KEY, tag BLOB UNIQUE NOT NULL, "
                "kind TEXT NOT NULL, body BLOB NOT NULL, slot BLOB)"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS kinds ON sealed (kind)")
            self._db.execute(
                "INSERT OR IGNORE INTO meta VALUES ('format', ?), ('generation', 0), ('owed', 0)", (FORMAT,)
            )

    def unlock(self, secret: bytes) -> None:
        """Take LINK's secret in; `lock` lets go of it."""
        self._secret = secret
        self._take(self._keys.keys[self._name][self.generation])

    def lock(self) -> None:
        """Let go of LINK's secret."""
        self._secret = None
        self._take(self._keys.keys[self._name][self.generation])

    def _take(self, key: bytes) -> None:
        """`key` is the compartment's, or the node's share of it."""
        whole: bytes | None = key
        if self._name in _OFFICERS:
            label = b"koinon/vault/officer/1" + self._name.encode()
            whole = None if self._secret is None else hmac.digest(self._secret, label + key, "sha256")
        seal = key if self._name == "suppression" else whole
        self._hash_key = None if whole is None else hmac.digest(whole, b"koinon/vault/name/1", "sha256")
        self._cipher = None if seal is None else AESGCM(hmac.digest(seal, b"koinon/vault/seal/1", "sha256"))

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it."""
        with self._lock:
            if not self._reading:
                with suppress(sqlite3.Error):  # on a full disk the log stays beside the file, and is read with it
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    @property
    def changes(self) -> int:
        """Rows written since it was opened: whoever saw the same number sees the same rows."""
        return self._db.total_changes

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside or none; may be nested."""
        with self._lock:
            if self._inside:
                yield
                return
            self._inside = True
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise LocalFault(f"the vault's {self._name} compartment: {error}") from error
            finally:
                self._inside = False
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @property
    def _seals(self) -> AESGCM:
        if self._cipher is None:
            raise Refused(LOCKED)
        return self._cipher

    def tag(self, kind: str, name: bytes) -> bytes:
        """The keyed hash under which a name's row is found."""
        if self._hash_key is None:
            raise Refused(LOCKED)
        return hmac.digest(self._hash_key, kind.encode() + b"\0" + name, "sha256")

    def _label(self, kind: str, tag: bytes) -> bytes:
        return f"koinon/vault/{self._name}/{kind}/1".encode() + tag

    def _seal(self, kind: str, name: bytes, value: dict[str, Any], tag: bytes | None = None) -> tuple[bytes, bytes]:
        tag, nonce = self.tag(kind, name) if tag is None else tag, os.urandom(12)
        plain = json.dumps({"name": name.hex() if self._named else "", "value": value}).encode()
        return tag, nonce + self._seals.encrypt(nonce, plain, self._label(kind, tag))

    def _open(self, kind: str, tag: bytes, body: bytes) -> tuple[bytes, dict[str, Any]]:
        try:
            plain = json.loads(self._seals.decrypt(body[:12], body[12:], self._label(kind, tag)))
        except InvalidTag:
            raise LocalFault(
                f"the vault's {self._name} compartment is damaged: a sealed {kind} does not open"
            ) from None
        return bytes.fromhex(plain["name"]), plain["value"]

    def put(
        self, kind: str, name: bytes, value: dict[str, Any], *, slot: bytes | None = None, tag: bytes | None = None
    ) -> None:
        """Keep a value. `tag` stands for a name that is not known here (an unnamed compartment's)."""
        with self.transaction():
            tag, body = self._seal(kind, name, value, tag)
            self._db.execute(
                "INSERT INTO sealed (tag, kind, body, slot) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (tag) DO UPDATE SET body = excluded.body, slot = excluded.slot",
                (tag, kind, body, slot),
            )

    def get(self, kind: str, name: bytes, *, tag: bytes | None = None) -> dict[str, Any] | None:
        """The value under a name, or under the tag that stands for one; None: there is none."""
        with self._lock:
            tag = self.tag(kind, name) if tag is None else tag
            row = self._db.execute("SELECT body FROM sealed WHERE tag = ?", (tag,)).fetchone()
            return None if row is None else self._open(kind, tag, row[0])[1]

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Every value of a kind, in the order they were first put."""
        with self._lock:
            rows = self._db.execute("SELECT tag, body FROM sealed WHERE kind = ? ORDER BY position", (kind,)).fetchall()
            return [self._open(kind, tag, body)[1] for tag, body in rows]

    def delete(self, kind: str, name: bytes) -> None:
        """Take a row out; what must go for good goes by `destroy`."""
        with self.transaction():
            self._db.execute("DELETE FROM sealed WHERE tag = ?", (self.tag(kind, name),))

    def keep_slots(self, slots: set[bytes]) -> None:
        """Remove every row whose slot is none of these; needs no key, so what stays waits for a fresh one (`owed`)."""
        with self._lock:
            stray = [(one,) for (one,) in self._db.execute("SELECT slot FROM sealed") if one not in slots]
            if not stray:
                return
            with self.transaction():
                self._db.executemany("DELETE FROM sealed WHERE slot IS ?", stray)
                self._db.execute("UPDATE meta SET value = 1 WHERE name = 'owed'")
            self.checkpoint()

    @property
    def owed(self) -> bool:
        """Whether rows have gone since the key was last changed."""
        with self._lock:
            return bool(self._db.execute("SELECT value FROM meta WHERE name = 'owed'").fetchone()[0])

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file and cut it."""
        with self._lock:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def destroy(self, names: Iterable[tuple[str, bytes]]) -> None:
        """Remove (kind, name) rows for good: what stays is re-encrypted under a fresh key, the old key is overwritten.

        A crash before the transaction leaves everything as it was, a crash after it is finished when the file is
        opened again (two keys in the key file, one fits).
        """
        fresh = secrets.token_bytes(32)
        with self._lock:
            keys = self._keys.keys[self._name]
            keys[self.generation + 1] = fresh
            self._keys.write()
            gone = {self.tag(kind, name) for kind, name in names}
            rows = self._db.execute("SELECT tag, kind, body, slot FROM sealed ORDER BY position").fetchall()
            kept = [(kind, slot, *self._open(kind, tag, body)) for tag, kind, body, slot in rows if tag not in gone]
            self._take(fresh)
            try:
                with self.transaction():
                    self._db.execute("DELETE FROM sealed")
                    for kind, slot, name, value in kept:
                        row = (*self._seal(kind, name, value), kind, slot)
                        self._db.execute("INSERT INTO sealed (tag, body, kind, slot) VALUES (?, ?, ?, ?)", row)
                    self._db.execute("UPDATE meta SET value = 0 WHERE name = 'owed'")
                    self._db.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (self.generation + 1,))
            except BaseException:
                self._take(keys[self.generation])
                raise
            self.generation += 1
            self.checkpoint()
            self._keys.keys[self._name] = {self.generation: fresh}
            self._keys.write()
