"""The vault: the only place where a person and a consent meet, in five compartments that can be destroyed apart.

    compartment  file            holds                                                       opens with
    LINK         link.db         patient -> pseudonym; consent -> patient, form, docSalt     officer's + node's key
    USE          use.db          what rounds need, by pseudonym: row numbers, consents with  node's key
                                 their openings, cards, proofs; forms sealed for ARCHIVE
    RESEARCH     research.db     the imported copy: one file and one key a patient, under a  node's key
                 data/*.bin      random pseudonym
    ARCHIVE      archive.db      what must be kept after an erasure: decision, days; no      node's key; the person and
                                 consent id                                                  the form: officer's key
    SUPPRESSION  suppression.db  keyed hashes of patients not to be enrolled again           asked with officer's key

The officer is the hospital's data-protection officer (`dpo` in `node/roles.py`). Their key is never stored: it comes
with an order and goes with it (`Vault.unlocked`), for the task that carries the order out and no other. So the node
that runs unattended trains, withdraws, erases and destroys without being able to say whose record is whose.

What may live here: these files, their keys (`keys.json`, sealed under the node's at-rest key), and the acts on them.
What this file does not know: the network, the rules of use (`node/consent.py`), how a grant reaches the chain
(`node/enrolment.py`).

Rules
- Nothing personal is on disk in the clear: every value is sealed (AES-256-GCM), every name is a keyed hash.
- Deleting means: the row leaves its table (secure_delete), the compartment is re-encrypted under a fresh key, the old
  key is overwritten, the write-ahead log is folded in and cut, the file is overwritten before it is unlinked. A copy of
  a database without the key file of its day opens no more; a backup that holds both still does (and is why a restored
  vault must `reapply` the chain before it is used).
- Overwriting reaches what the file system lets it reach: a snapshot or a copy-on-write disk keeps old blocks, those of
  the key file too. Backups and snapshots of `keys.json` need an end date of their own.
- Every act is one transaction a compartment, ordered so that a crash in between is finished or undone by `open`: USE
  says what should be here, LINK, RESEARCH and `data/` follow.
- LINK is opened in one place, `_linked`, which tells before it opens (act, consents) and again before it answers.
- A link that is destroyed while the officer's key is away leaves its file at once; the fresh key for what stays follows
  with the next order that brings the officer's key.
- An error names a row or a count, never a patient.

Trusted: whoever has the at-rest key with everything but who is who; whoever has the officer's key too with that. An
attacker with the files alone learns how many patients and consents there are.
"""

from __future__ import annotations

import datetime
import hmac
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from crypto.blobs import ROLE_TRAIN, AnchorProof
from crypto.commitments import ConsentOpening, request_id
from crypto.digest import ZERO, Digest, sha256
from crypto.keys import LedgerKey
from crypto.merkle import requests_root
from crypto.statements import RequestErasure, Withdraw, sign
from node.card import Card, Origin, relay_salt
from node.consent import MARKS, STOP_AND_DELETE, GrantProof, Leaf
from node.errors import InputError, LocalError, LocalFault, NotFound, Refused
from node.history import ErasureHistory, History
from node.records import Anchored, Contracts, Granted

FORMAT: Final = 2
_COMPARTMENTS: Final = ("link", "use", "research", "archive", "suppression")
_OFFICERS: Final = ("link", "suppression")
_CONTRACTS: Final = ("membership", "consent", "training", "unlearning")
_ROWS_MAGIC: Final = b"koinon.rows/1\n"
_COPY_DELETED: Final = 2  # ErasureStepped.step
_LINK_DESTROYED: Final = 4
_REPLACES: Final = {
    "": MARKS,
    "superseded": ("withdrawn", "entered-in-error"),
    "entered-in-error": ("withdrawn",),
    "withdrawn": (),
}
"""Mark of a consent -> the marks that may take its place."""
_FEW: Final = 12  # 4095 combinations, some tenths of a second


class Records(Protocol):
    """What `import_dataset` takes: `fl_engine.data.dataset.Dataset`, whose field descriptions apply."""

    @property
    def x(self) -> NDArray[np.float32]:
        """float32 [N, ...]."""
        ...

    @property
    def y(self) -> NDArray[np.int64]:
        """int64 [N]."""
        ...

    @property
    def patients(self) -> tuple[str, ...]:
        """N identifiers."""
        ...

    @property
    def roles(self) -> NDArray[np.uint8]:
        """uint8 [N]: 0 train, 1 validation, 2 test."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took in: patients and records; `suppressed` patients were left out, `known` ones already here."""

    patients: int
    records: int
    suppressed: int
    known: int


@dataclass(frozen=True, slots=True)
class Minted:
    """The outcome of `mint`: `fresh` is False where the consent existed; `superseded` are older ones it replaces."""

    consent_id: Digest
    fresh: bool
    superseded: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What the vault says about one consent, for lists: no secret, no patient.

    `mark` is "" or one of `consent.MARKS`, written at `marked_at` (chain time); days are YYYY-MM-DD. `placed`: an
    anchor or a grant carries it; `granted`: the chain has that. `is_of_before`: the copy here was imported when this
    consent's own had been deleted, so it is for another one.
    """

    consent_id: Digest
    study: Digest
    form_id: Digest
    member: int
    issued: str
    signed_on: str
    mark: str
    marked_at: int
    placed: bool
    granted: bool
    has_copy: bool
    is_of_before: bool
    role: int
    records: int


@dataclass(frozen=True, slots=True)
class PendingAnchor:
    """An anchor that was made here and not yet seen on the chain."""

    study: Digest
    form_id: Digest
    root: Digest
    count: int


@dataclass(frozen=True, slots=True)
class Annex:
    """What the patient gets with a certificate, and nobody else: the opening without the document's salt."""

    consent_id: Digest
    study: Digest
    form_id: Digest
    holder: bytes
    holder_salt: Digest
    doc_commit: Digest
    leaf_secret: Digest
    leaf_key: Digest
    request_salt: Digest


@dataclass(frozen=True, slots=True)
class ArchiveRecord:
    """What the law makes a hospital keep after an erasure (PRIVACY: ARCHIVE). Days are YYYY-MM-DD or "".

    `document` is the signed form as it was registered; `decision` and `ground` are the hospital's own words;
    `recipients` are names of members and others who had the model or its updates; `extension` says to which day the
    answer was extended, and why, if it was.
    """

    patient_id: str
    study_name: str
    document: bytes
    signed_on: str
    decision: str
    ground: str
    requested_on: str
    completed_on: str
    first_use_on: str
    last_use_on: str
    recipients: tuple[str, ...]
    extension: str = ""


# --------------------------------------------------------------------------------------------------------------------
# Key file


def _overwrite(path: Path, data: bytes) -> None:
    """Write `data` whole or not at all, then wipe the bytes that were there before."""
    aside = path.with_name(path.name + ".part")
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


def _wipe(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    length = os.fstat(descriptor).st_size
    while length > 0:
        length -= os.write(descriptor, bytes(min(length, 1 << 20)))
    os.fsync(descriptor)


def _shred(path: Path) -> None:
    with path.open("r+b") as file:
        _wipe(file.fileno())
    path.unlink()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _KeyFile:
    """`keys.json`: generation -> key of each compartment; two generations only while one replaces the other."""

    def __init__(self, path: Path, at_rest_key: bytes) -> None:
        self._path = path
        self._cipher = AESGCM(at_rest_key)
        self._own = hmac.digest(at_rest_key, b"koinon/vault/no-officer/1", "sha256")
        self.keys: dict[str, dict[int, bytes]] = {}
        self._wraps: list[
            bytes
        ] = []  # LINK's secret, wrapped under the officer's key; two while one replaces the other

    def make(self, officer: bytes | None) -> None:
        self.keys = {name: {0: secrets.token_bytes(32)} for name in _COMPARTMENTS}
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
        tree: dict[str, Any] = {
            name: {str(g): key.hex() for g, key in keys.items()} for name, keys in self.keys.items()
        }
        tree["officer"] = [wrap.hex() for wrap in self._wraps]
        nonce = os.urandom(12)
        sealed = nonce + self._cipher.encrypt(nonce, json.dumps(tree).encode(), b"koinon/vault-keys/1")
        _overwrite(self._path, json.dumps({"format": FORMAT, "sealed": sealed.hex()}).encode() + b"\n")

    def read(self) -> None:
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


def _refusal(study: Digest, form_id: Digest) -> str:
    return f"{study.hex()}/{form_id.hex()}"


def _wrapping(officer: bytes) -> bytes:
    return hmac.digest(officer, b"koinon/vault/wrap/1", "sha256")


def _wrap(officer: bytes, secret: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(_wrapping(officer)).encrypt(nonce, secret, b"koinon/vault-link/1")


# --------------------------------------------------------------------------------------------------------------------
# Compartment


class _Compartment:
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
        self, path: Path, name: str, keys: _KeyFile, *, named: bool, create: bool, reading: bool = False
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
        with self._lock:
            if not self._reading:
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
            raise Refused(_LOCKED)
        return self._cipher

    def tag(self, kind: str, name: bytes) -> bytes:
        """The keyed hash under which a name's row is found."""
        if self._hash_key is None:
            raise Refused(_LOCKED)
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


# --------------------------------------------------------------------------------------------------------------------
# Vault


_LOCKED: Final = "who is behind a consent opens with the data-protection officer's key alone"

Tell = Callable[[str, tuple[str, ...]], None]
"""(act, consents as hex): told before LINK opens, and again with what it was about before it answers."""


class _Access:
    """LINK's secret for one order; `key` is None once the order has ended."""

    __slots__ = ("key", "tell", "vault")

    def __init__(self, vault: Vault, key: bytes, tell: Tell) -> None:
        self.vault, self.tell = vault, tell
        self.key: bytes | None = key


_ACCESS: ContextVar[_Access | None] = ContextVar("koinon-vault-access", default=None)
"""The access of the running task, and of the threads it works in; other tasks of the same process have none."""


def _tell_nobody(act: str, consents: tuple[str, ...]) -> None:
    """For vaults that no log watches: of tests, of simulations, and while a home is made."""


class Vault:
    """One hospital's vault. Thread-safe; one process at a time (the home's lock sees to that), beside readers.

    Make it with `create` or `open`; look into it with `read`. Every method that takes a consent raises `NotFound` for
    one that is not here, unless it says otherwise. Methods that need the link between person and consent say "LINK" and
    raise `Refused` outside `unlocked`.
    """

    def __init__(
        self, path: Path, keys: _KeyFile, officer: bytes | None, *, create: bool, reading: bool = False
    ) -> None:
        """Use `create`, `open` or `read`."""
        self._lock = threading.RLock()
        self._keys = keys
        self._data = path / "data"
        if not reading:
            self._data.mkdir(mode=0o700, exist_ok=True)
        part = {
            name: _Compartment(
                path / f"{name}.db", name, keys, named=name != "suppression", create=create, reading=reading
            )
            for name in _COMPARTMENTS
        }
        self._link, self._use, self._research = part["link"], part["use"], part["research"]
        self._archive, self._suppression = part["archive"], part["suppression"]
        self._owners: dict[int, tuple[str, int]] = {}
        self._depth = 0
        self._touched: list[str] = []
        self._secret: bytes | None = None
        self._form_cipher: AESGCM | None = None
        secret = keys.standing if officer is None else self._fitting(officer)
        self._standing = None if secret is None else _Access(self, secret, _tell_nobody)
        if reading:
            self._index()
        else:
            self._finish()

    @classmethod
    def create(cls, path: Path, at_rest_key: bytes, officer: bytes | None = None) -> Self:
        """Make an empty vault in the folder `path`; `LocalFault` where there is one already.

        Args:
            path: the folder.
            at_rest_key: 32 bytes, the node's.
            officer: 32 bytes, the data-protection officer's. This object keeps it; later ones get it by `unlocked`.
                None makes a vault whose link opens with the node's key, for simulations, where there are no persons.
        """
        keys_path = path / "keys.json"
        if keys_path.exists():
            raise LocalFault(f"{path} already holds a vault")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = _KeyFile(keys_path, at_rest_key)
        keys.make(officer)
        return cls(path, keys, officer, create=True)

    @classmethod
    def open(cls, path: Path, at_rest_key: bytes) -> Self:
        """Open the vault at `path`, without its link, and finish whatever a crash interrupted.

        Raises:
            NotFound: no vault here.
            LocalFault: another node's keys, damaged, incomplete, of another version, or parts of different backups.
        """
        keys = _KeyFile(path / "keys.json", at_rest_key)
        keys.read()
        return cls(path, keys, None, create=False)

    @classmethod
    def read(cls, path: Path, at_rest_key: bytes) -> Self:
        """Open the vault at `path` for `leaves` and `rows` alone, beside the node that it belongs to; writes nothing.

        What the node deletes meanwhile is gone here too, or ends as a `LocalFault`: then open it anew.

        Raises:
            NotFound, LocalFault: as `open`.
        """
        keys = _KeyFile(path / "keys.json", at_rest_key)
        keys.read()
        return cls(path, keys, None, create=False, reading=True)

    def close(self) -> None:
        """Fold the logs into the files and let go of them."""
        with self._lock:
            for one in (self._link, self._use, self._research, self._archive, self._suppression):
                one.close()

    # ----------------------------------------------------------------------------------------------------------------
    # The officer's key

    @property
    def needs_officer(self) -> bool:
        """Whether LINK opens with an officer's key only; not so in the vault of a simulation."""
        return self._standing is None

    def _fitting(self, officer: bytes) -> bytes:
        secret = self._keys.secret(officer)
        if secret is None:
            raise Refused("this is not the key of the data-protection officer of this vault")
        return secret

    @contextmanager
    def unlocked(self, officer: bytes, tell: Tell) -> Iterator[None]:
        """Let the running task use LINK until the block ends; every use is told before it happens.

        Raises:
            Refused: not the officer's key of this vault.
        """
        access = _Access(self, self._fitting(officer), tell)
        token = _ACCESS.set(access)
        try:
            if self._link.owed:
                with self._linked("rekey"):
                    self._link.destroy(())
            yield
        finally:
            access.key = None
            _ACCESS.reset(token)

    def admit_officer(self, officer: bytes) -> None:
        """Let LINK open with this key as well (LINK): a new officer's, until `keep_officer` ends the old one."""
        with self._linked("admit an officer's key"):
            assert self._secret is not None
            self._keys.admit(self._secret, officer)

    def keep_officer(self, officer: bytes) -> None:
        """From now on LINK opens with this key alone, and under a fresh share (LINK)."""
        self._fitting(officer)
        with self._linked("end other officers' keys") as link:
            self._keys.keep(officer)
            link.destroy(())

    @contextmanager
    def _linked(self, act: str, *consents: str) -> Iterator[_Compartment]:
        """LINK, and the names in SUPPRESSION, open for one act: the only way to them. Told first, then opened."""
        access = _ACCESS.get()
        if access is None or access.vault is not self or access.key is None:
            access = self._standing
        if access is None or access.key is None:
            raise Refused(_LOCKED)
        with self._lock:
            if self._depth:  # part of an act that was told already; what it is about is told at the end
                self._touched += consents
                yield self._link
                return
            access.tell(act, consents)
            self._depth, self._touched = 1, []
            try:
                self._secret = access.key
                self._link.unlock(access.key)
                self._suppression.unlock(access.key)
                self._form_cipher = AESGCM(hmac.digest(access.key, b"koinon/vault/archived-form/1", "sha256"))
                yield self._link
                if self._touched:
                    access.tell(act, tuple(dict.fromkeys(self._touched)))
            finally:
                self._depth, self._touched = 0, []
                self._secret = None
                self._form_cipher = None
                self._link.lock()
                self._suppression.lock()

    def _seal_form(self, form: dict[str, Any]) -> str:
        """The person and the signed form as ARCHIVE will keep them, for the officer's eyes."""
        assert self._form_cipher is not None
        nonce = os.urandom(12)
        plain = json.dumps(form).encode()
        return (nonce + self._form_cipher.encrypt(nonce, plain, b"koinon/archived-form/1")).hex()

    def _open_form(self, sealed: str) -> dict[str, Any]:
        assert self._form_cipher is not None
        body = bytes.fromhex(sealed)
        try:
            found: dict[str, Any] = json.loads(
                self._form_cipher.decrypt(body[:12], body[12:], b"koinon/archived-form/1")
            )
        except InvalidTag:
            raise LocalFault("the vault's archive compartment is damaged: a sealed form does not open") from None
        return found

    def _finish(self) -> None:
        """Make the compartments agree: USE says what should be here, LINK, RESEARCH and `data/` follow."""
        persons = self._use.all("person")
        held = {one["pseudonym"] for one in persons if one["copy"]}
        slots = {bytes.fromhex(one["slot"]) for one in [*persons, *self._use.all("consent")]}
        self._link.keep_slots(slots)
        stray = [p["pseudonym"] for p in self._research.all("patient") if p["pseudonym"] not in held]
        if stray:
            self._research.destroy([("patient", name.encode()) for name in stray])
        self._index()
        known = {name for name, _ in self._owners.values()}
        for path in self._data.iterdir():
            if path.name.removesuffix(".bin") not in known:
                _shred(path)

    def _index(self) -> None:
        self._owners = {
            number: (one["pseudonym"], one["role"]) for one in self._research.all("patient") for number in one["rows"]
        }

    # ----------------------------------------------------------------------------------------------------------------
    # The imported copy

    def import_dataset(self, dataset: Records, *, now: int | None = None) -> ImportReport:
        """Take a dataset in under fresh random pseudonyms.

        Row i gets the import row number `base + i`, where base is 0 for the first import: a record that is left out
        still uses its number up, so that the same file gives the same numbers whoever was erased. Suppressed patients
        are left out and counted; patients who are already here are left as they are (records are frozen in data cuts).
        `now` (unix seconds, by default the wall clock) decides whether a suppression still holds. LINK.

        Raises:
            InputError: another shape than the records already here, or one patient in two roles (named by row).
        """
        at = int(time.time()) if now is None else now
        shape, classes = list(dataset.x.shape[1:]), dataset.classes
        with self._lock, self._linked("import") as link:
            there = self._research.get("meta", b"shape")
            if there is not None and there["shape"] != shape:
                raise InputError(f"records of shape {tuple(shape)}; this vault holds shape {tuple(there['shape'])}")
            mine: dict[str, list[int]] = {}
            for row, patient in enumerate(dataset.patients):
                mine.setdefault(patient, []).append(row)
            for rows in mine.values():
                odd = next((row for row in rows if dataset.roles[row] != dataset.roles[rows[0]]), None)
                if odd is not None:
                    raise InputError(f"the patient of row {odd} also has row {rows[0]} in another role (rows from 0)")
            base = (self._use.get("meta", b"rows") or {"next": 0})["next"]
            known = suppressed = records = 0
            persons: list[tuple[str, dict[str, Any]]] = []
            copies: list[dict[str, Any]] = []
            for patient, rows in mine.items():
                if self.is_suppressed(patient, None, at):
                    suppressed += 1
                elif (before := self._person_of(link, patient)) is not None and before["copy"]:
                    known += 1
                else:  # new, or back after the copy was deleted
                    pseudonym = secrets.token_hex(16) if before is None else before["pseudonym"]
                    dek = secrets.token_bytes(32)
                    numbers = [base + row for row in rows]
                    role = int(dataset.roles[rows[0]]) + ROLE_TRAIN
                    self._write_rows(pseudonym, dek, dataset.x[rows], dataset.y[rows])
                    copies.append({"pseudonym": pseudonym, "dek": dek.hex(), "role": role, "rows": numbers})
                    person: dict[str, Any] = {
                        "consents": [],
                        "slot": secrets.token_hex(16),
                        "suppression": self._suppression.tag("patient", patient.encode()).hex(),
                        **(before or {}),
                        "pseudonym": pseudonym,
                        "role": role,
                        "rows": numbers,
                        "copy": True,
                        "before": [] if before is None else self._ended_of(before),
                    }
                    persons.append((patient, person))
                    records += len(rows)
            if persons:
                os.sync()  # one flush for all files, before any row says that they are there
                with self._research.transaction():
                    classes = max(classes, there["classes"] if there else 0)
                    self._research.put("meta", b"shape", {"shape": shape, "classes": classes})
                    for copy in copies:
                        self._research.put("patient", copy["pseudonym"].encode(), copy)
                with link.transaction():
                    for patient, person in persons:
                        value = {"patient": patient, "pseudonym": person["pseudonym"]}
                        link.put("patient", patient.encode(), value, slot=bytes.fromhex(person["slot"]))
                with self._use.transaction():
                    self._use.put("meta", b"rows", {"next": base + len(dataset.patients)})
                    for _, person in persons:
                        self._use.put("person", person["pseudonym"].encode(), person)
                self._index()
            return ImportReport(len(persons), records, suppressed, known)

    def _ended_of(self, person: dict[str, Any]) -> list[str]:
        return [one for one in person["consents"] if self._consent(bytes.fromhex(one))["mark"]]

    def _write_rows(self, pseudonym: str, dek: bytes, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        plain = np.ascontiguousarray(x, dtype="<f4").tobytes() + np.ascontiguousarray(y, dtype="<i8").tobytes()
        nonce = os.urandom(12)
        body = _ROWS_MAGIC + nonce + AESGCM(dek).encrypt(nonce, plain, _ROWS_MAGIC + pseudonym.encode())
        (self._data / f"{pseudonym}.bin").write_bytes(body)

    def _read_rows(self, copy: dict[str, Any], shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        pseudonym, count = copy["pseudonym"], len(copy["rows"])
        try:
            body = (self._data / f"{pseudonym}.bin").read_bytes()
            at = len(_ROWS_MAGIC)
            cipher = AESGCM(bytes.fromhex(copy["dek"]))
            plain = cipher.decrypt(body[at : at + 12], body[at + 12 :], _ROWS_MAGIC + pseudonym.encode())
        except (OSError, InvalidTag, ValueError):
            raise LocalFault(f"the vault's data file {pseudonym}.bin is missing or damaged") from None
        split = len(plain) - 8 * count
        x = np.frombuffer(plain[:split], dtype="<f4").reshape(count, *shape)
        return x, np.frombuffer(plain[split:], dtype="<i8")

    def shape(self) -> tuple[tuple[int, ...], int, str]:
        """(shape of one record, classes, dtype of x) of the records here; `NotFound` while nothing was imported."""
        found = self._research.get("meta", b"shape")
        if found is None:
            raise NotFound("the vault holds no records: nothing was imported yet")
        return tuple(found["shape"]), int(found["classes"]), "float32"

    def rows(self, numbers: Iterable[int], role: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Records by import row number, in the order asked: x float32 [n, ...], y int64 [n].

        `role` is 1 train, 2 validation, 3 test, as in `Leaf`. `NotFound` names the first number that is not here
        (never imported, or deleted), `LocalError` one that has another role.
        """
        asked = list(numbers)
        shape, _, _ = self.shape()
        with self._lock:
            x = np.empty((len(asked), *shape), dtype=np.float32)
            y = np.empty(len(asked), dtype=np.int64)
            places: dict[str, list[tuple[int, int]]] = {}
            for place, number in enumerate(asked):
                owner = self._owners.get(number)
                if owner is None:
                    raise NotFound(f"row {number} is not in the vault")
                if owner[1] != role:
                    raise LocalError(f"row {number} has role {owner[1]}, asked for as role {role}")
                places.setdefault(owner[0], []).append((place, number))
            for pseudonym, wanted in places.items():
                copy = self._research.get("patient", pseudonym.encode())
                assert copy is not None  # `_owners` is read from the same table
                offset = {number: i for i, number in enumerate(copy["rows"])}
                some_x, some_y = self._read_rows(copy, shape)
                for place, number in wanted:
                    x[place], y[place] = some_x[offset[number]], some_y[offset[number]]
            return x, y

    def row_numbers(self, role: int) -> tuple[int, ...]:
        """Every row number of that role that is here, ascending, whatever its consents say."""
        return tuple(sorted(number for number, (_, own) in self._owners.items() if own == role))

    def patient_ids(self) -> tuple[str, ...]:
        """The patients, in import order (LINK). For the data-protection desk alone; never print or log them."""
        with self._linked("list persons") as link:
            return tuple(one["patient"] for one in link.all("patient"))

    def delete_copy(self, *consent_ids: Digest) -> int:
        """Destroy the copy of these consents' patients; returns how many copies are gone that were here.

        A copy stays where the patient has another consent, not named here, that nobody has ended.
        """
        with self._lock:
            gone: list[dict[str, Any]] = []
            asked = {bytes(one) for one in consent_ids}
            for one in asked:
                consent = self._consent(one)
                patient = self._person(consent)
                live = [
                    other
                    for other in patient["consents"]
                    if bytes.fromhex(other) not in asked and self._consent(bytes.fromhex(other))["mark"] == ""
                ]
                if patient["copy"] and not live:
                    patient["copy"] = False
                    gone.append(patient)
            if gone:
                with self._use.transaction():
                    for patient in gone:
                        self._use.put("person", patient["pseudonym"].encode(), patient)
                self._use.checkpoint()
                self._finish()
            return len({patient["pseudonym"] for patient in gone})

    # ----------------------------------------------------------------------------------------------------------------
    # Consents

    def mint(
        self,
        patient_id: str,
        *,
        origin: Origin,
        form_id: Digest,
        document: bytes,
        signed_on: datetime.date,
        issued: datetime.date,
        now: int,
        usable_from: int = 0,
        authority: str = "",
        review_on: str = "",
    ) -> Minted:
        """Make a consent: three secrets, a holder key, both statements of the card signed, the key forgotten.

        Idempotent for (patient, study, form) while that consent is not ended. Under another form of the same study a
        consent signed before is marked superseded; one signed later stays, and what it superseded is not made again.
        `document` is the signed form as registered, kept sealed; `now` is chain time; `usable_from` (unix seconds) the
        end of a notice period. `authority` and `review_on` (YYYY-MM-DD) are those of a representative who signed; they
        stay here. LINK.

        Raises:
            NotFound: no such patient here.
            Refused: the patient is suppressed, or ended a consent in this study, refused this form, or signed another
                one of it, on or (but for the last) after the day of this signature.
        """
        with self._lock, self._linked("enrol") as link, self._use.transaction(), link.transaction():
            if self.is_suppressed(patient_id, origin.study, now):
                raise Refused("this patient was erased from the study and may not be enrolled again")
            patient = self._person_of(link, patient_id)
            if patient is None:
                raise NotFound("this patient has no records in the vault")
            mine = [self._consent(bytes.fromhex(one)) for one in patient["consents"]]
            mine = [one for one in mine if one["study"] == origin.study.hex()]
            live = [one for one in mine if one["mark"] == ""]
            for old in live:
                if old["form_id"] == form_id.hex():
                    return Minted(Digest.from_hex(old["consent_id"]), fresh=False)
            for old in mine:
                ended = datetime.datetime.fromtimestamp(old["marked_at"], datetime.UTC).date()
                if old["mark"] in ("withdrawn", "entered-in-error") and signed_on <= ended:
                    raise Refused(
                        f"this patient's consent ended on {ended}; a form signed on {signed_on} does not renew it"
                    )
            refused = patient.get("refused", {}).get(_refusal(origin.study, form_id), "")
            if signed_on.isoformat() <= refused:
                raise Refused(
                    f"this patient refused or ended it on {refused}; one signed on {signed_on} does not undo it"
                )
            later = max((old["signed_on"] for old in live), default="")
            if signed_on.isoformat() < later:
                again = [one for one in mine if (one["form_id"], one["signed_on"]) == (form_id.hex(), str(signed_on))]
                if again:
                    return Minted(Digest.from_hex(again[0]["consent_id"]), fresh=False)
                raise Refused(
                    f"this patient signed another form on {later}; one signed on {signed_on} does not replace it"
                )
            if not patient["copy"]:
                raise NotFound("the records of this patient were deleted here; import them again")
            superseded = tuple(Digest.from_hex(one["consent_id"]) for one in live)
            for one in superseded:
                self.note_withdrawal(one, at=now, mark="superseded")
            consent, doc_salt = self._new_consent(patient["pseudonym"], origin, form_id, document)
            form = {"patient_id": patient_id, "document": document.hex(), "signed_on": signed_on.isoformat()}
            consent |= {"signed_on": signed_on.isoformat(), "issued": issued.isoformat()}
            consent |= {"usable_from": usable_from, "review_on": review_on, "form": self._seal_form(form)}
            linked = {"patient": patient_id, "document": document.hex(), "doc_salt": doc_salt.hex()}
            linked |= {"authority": authority}
            name = bytes.fromhex(consent["consent_id"])
            self._touched.append(consent["consent_id"])
            link.put("consent", name, linked, slot=bytes.fromhex(consent["slot"]))
            patient["consents"].append(consent["consent_id"])
            self._use.put("consent", name, consent)
            self._use.put("person", patient["pseudonym"].encode(), patient)
            return Minted(Digest.from_hex(consent["consent_id"]), True, superseded)

    def note_refusal(self, patient_id: str, study: Digest, form_id: Digest, day: str) -> None:
        """Keep that a patient refused a form, or ended a consent under it, on a day (YYYY-MM-DD): no form signed until
        then is enrolled. LINK. `NotFound` for a patient without records here.
        """
        with self._lock, self._linked("enrol") as link, self._use.transaction():
            patient = self._person_of(link, patient_id)
            if patient is None:
                raise NotFound("this patient has no records in the vault")
            refused, name = patient.setdefault("refused", {}), _refusal(study, form_id)
            if day > refused.get(name, ""):
                refused[name] = day
                self._use.put("person", patient["pseudonym"].encode(), patient)

    def _person_of(self, link: _Compartment, patient_id: str) -> dict[str, Any] | None:
        found = link.get("patient", patient_id.encode())
        return None if found is None else self._use.get("person", found["pseudonym"].encode())

    def _new_consent(
        self, pseudonym: str, origin: Origin, form_id: Digest, document: bytes
    ) -> tuple[dict[str, Any], Digest]:
        key = LedgerKey.generate()
        opening = ConsentOpening.fresh(key.address, sha256(document))
        consent_id = opening.consent_id
        withdraw, erasure = Withdraw(consent_id), RequestErasure(consent_id, origin.study)
        contracts = origin.contracts
        made = {
            "consent_id": consent_id.hex(),
            "pseudonym": pseudonym,
            "slot": secrets.token_hex(16),
            "study": origin.study.hex(),
            "form_id": form_id.hex(),
            "network": origin.network,
            "chain_id": contracts.chain_id,
            "contracts": [
                part.hex()
                for part in (contracts.membership, contracts.consent, contracts.training, contracts.unlearning)
            ],
            "member": origin.member,
            "hospital": origin.hospital,
            "holder": key.address.hex(),
            "holder_salt": opening.holder_salt.hex(),
            "leaf_secret": opening.leaf_secret.hex(),
            "leaf_key": opening.leaf_key.hex(),
            "doc_commit": opening.doc_commit.hex(),
            "value_salt": secrets.token_hex(32),
            "request_salt": secrets.token_hex(32),
            "withdraw": sign(withdraw, origin.domains.of(withdraw), key).hex(),
            "request_erasure": sign(erasure, origin.domains.of(erasure), key).hex(),
            "mark": "",
            "marked_at": 0,
            "proof": None,
            "granted": False,
            "archive": "",
        }
        return made, opening.doc_salt

    def _consent(self, consent_id: bytes) -> dict[str, Any]:
        found = self._use.get("consent", consent_id)
        if found is None:
            raise NotFound(f"consent {consent_id.hex()} is not in this vault")
        return found

    def _person(self, consent: dict[str, Any]) -> dict[str, Any]:
        found = self._use.get("person", consent["pseudonym"].encode())
        if found is None:
            raise LocalFault(f"the vault's use compartment lacks the person of consent {consent['consent_id']}")
        return found

    def _linked_consent(self, act: str, consent_id: Digest) -> dict[str, Any]:
        self._consent(consent_id)
        with self._linked(act, consent_id.hex()) as link:
            found = link.get("consent", consent_id)
        if found is None:
            raise LocalFault(f"the vault's link compartment lacks consent {consent_id.hex()}")
        return found

    def leaves(self, study: Digest) -> list[Leaf]:
        """Every consent of the study, ended ones too: `consent.usable` decides. In the order they were minted."""
        with self._lock:
            persons = {one["pseudonym"]: one for one in self._use.all("person")}
            return [
                self._leaf(consent, persons[consent["pseudonym"]])
                for consent in self._use.all("consent")
                if consent["study"] == study.hex()
            ]

    def _leaf(self, consent: dict[str, Any], patient: dict[str, Any]) -> Leaf:
        return Leaf(
            consent_id=Digest.from_hex(consent["consent_id"]),
            leaf_key=Digest.from_hex(consent["leaf_key"]),
            value_salt=Digest.from_hex(consent["value_salt"]),
            role=patient["role"],
            rows=tuple(patient["rows"]) if patient["copy"] else (),
            holder=bytes.fromhex(consent["holder"]),
            holder_salt=Digest.from_hex(consent["holder_salt"]),
            doc_commit=Digest.from_hex(consent["doc_commit"]),
            form_id=Digest.from_hex(consent["form_id"]),
            proof=_proof(consent["proof"]),
            locally_withdrawn=consent["mark"] != "",
            usable_from=consent.get("usable_from", 0),
        )

    def note_withdrawal(self, consent_id: Digest, *, at: int, mark: str = "withdrawn", reason: str = "") -> bool:
        """Stop use at once, whatever the chain says; whether that was news. A consent of others is no news.

        `mark` is one of `consent.MARKS`; "withdrawn" replaces the other two and nothing replaces it;
        "entered-in-error" replaces "superseded". `at` is chain time,
        `reason` the hospital's own words; they stay here.
        """
        if mark not in MARKS:
            raise ValueError(f"mark {mark!r} is none of {', '.join(MARKS)}")
        with self._lock:
            consent = self._use.get("consent", consent_id)
            if consent is None or mark not in _REPLACES[consent["mark"]]:
                return False
            if reason:  # words about a person
                with self._linked("correct", consent_id.hex()) as link:
                    linked = link.get("consent", consent_id) or {}
                    link.put("consent", consent_id, linked | {"reason": reason}, slot=bytes.fromhex(consent["slot"]))
            consent |= {"mark": mark, "marked_at": at}
            with self._use.transaction():
                self._use.put("consent", consent_id, consent)
            return True

    def mark_of(self, consent_id: Digest) -> str | None:
        """How a consent of ours ended, "" while it has not; None: it is not here."""
        with self._lock:
            consent = self._use.get("consent", consent_id)
        return None if consent is None else str(consent["mark"])

    def card(self, consent_id: Digest) -> Card:
        """The withdrawal card of a consent."""
        one = self._consent(consent_id)
        return Card(
            origin=_origin(one),
            form_id=Digest.from_hex(one["form_id"]),
            issued=one["issued"],
            consent_id=consent_id,
            holder=bytes.fromhex(one["holder"]),
            holder_salt=Digest.from_hex(one["holder_salt"]),
            doc_commit=Digest.from_hex(one["doc_commit"]),
            leaf_secret=Digest.from_hex(one["leaf_secret"]),
            withdraw=bytes.fromhex(one["withdraw"]),
            request_erasure=bytes.fromhex(one["request_erasure"]),
        )

    @property
    def changes(self) -> int:
        """Rows written about persons and consents since it was opened; the same number, the same rows."""
        return self._use.changes

    def find(self, who: str | Digest) -> tuple[Holding, ...]:
        """The consents of a patient (text; LINK), or the one with this id (`Digest`); `NotFound` if there is none."""
        with self._lock:
            if isinstance(who, Digest):
                consent = self._consent(who)
                return (_holding(consent, self._person(consent)),)
            with self._linked("find") as link:
                patient = self._person_of(link, who)
                self._touched += [] if patient is None else patient["consents"]
            if patient is None or not patient["consents"]:
                raise NotFound("this patient has no consent in the vault")
            return tuple(_holding(self._consent(bytes.fromhex(one)), patient) for one in patient["consents"])

    def holdings(self, study: Digest | None = None) -> tuple[Holding, ...]:
        """Every consent here, or those of one study, in the order they were minted."""
        with self._lock:
            persons = {one["pseudonym"]: one for one in self._use.all("person")}
            return tuple(
                _holding(consent, persons[consent["pseudonym"]])
                for consent in self._use.all("consent")
                if study is None or consent["study"] == study.hex()
            )

    def patient_of(self, consent_id: Digest) -> str:
        """The patient of a consent (LINK). For the data-protection desk alone; never print or log it."""
        return str(self._linked_consent("name the person", consent_id)["patient"])

    def document(self, consent_id: Digest) -> bytes:
        """The signed form that a consent is bound to (LINK). For the data-protection desk: it names the patient."""
        return bytes.fromhex(self._linked_consent("show the form", consent_id)["document"])

    @contextmanager
    def reading(self, act: str) -> Iterator[None]:
        """Several looks at LINK as one act: told once before, and once with all consents it was about."""
        with self._linked(act):
            yield

    def request_salt(self, consent_id: Digest) -> Digest:
        """The salt of this consent's request id: drawn when the consent was made, so that a restored vault has it."""
        return Digest.from_hex(self._consent(consent_id)["request_salt"])

    def annex(self, consent_id: Digest) -> Annex:
        """What goes to the patient with the certificate; see `Annex`."""
        one = self._consent(consent_id)
        return Annex(
            consent_id=consent_id,
            study=Digest.from_hex(one["study"]),
            form_id=Digest.from_hex(one["form_id"]),
            holder=bytes.fromhex(one["holder"]),
            holder_salt=Digest.from_hex(one["holder_salt"]),
            doc_commit=Digest.from_hex(one["doc_commit"]),
            leaf_secret=Digest.from_hex(one["leaf_secret"]),
            leaf_key=Digest.from_hex(one["leaf_key"]),
            request_salt=Digest.from_hex(one["request_salt"]),
        )

    # ----------------------------------------------------------------------------------------------------------------
    # Grants on their way to the chain

    @contextmanager
    def enrolling(self) -> Iterator[None]:
        """Several mints and the anchors that carry them as one act: all of it is kept, or nothing. LINK."""
        with self._lock, self._linked("enrol") as link, self._use.transaction(), link.transaction():
            yield

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Several placings as one act; it names nobody and needs no LINK, so a node does it unattended."""
        with self._lock, self._use.transaction():
            yield

    def due_for_review(self, day: str) -> tuple[Digest, ...]:
        """Live consents that a representative signed and that were to be looked at again by `day` (YYYY-MM-DD)."""
        return tuple(
            Digest.from_hex(one["consent_id"])
            for one in self._use.all("consent")
            if one["mark"] == "" and one.get("review_on") and one["review_on"] <= day
        )

    def last_anchored(self, study: Digest) -> int | None:
        """When the last anchor of the study was made (chain time); None: none was."""
        found = self._use.get("anchored", study)
        return None if found is None else int(found["at"])

    def note_anchored(self, study: Digest, at: int) -> None:
        """Keep when an anchor was made."""
        self._use.put("anchored", study, {"at": at})

    def unplaced(self, study: Digest, form_id: Digest, now: int | None = None) -> tuple[Digest, ...]:
        """Consents under this form that no anchor or grant carries yet and nobody has ended.

        With `now` only those whose notice period is over.
        """
        return tuple(
            Digest.from_hex(one["consent_id"])
            for one in self._use.all("consent")
            if one["study"] == study.hex()
            and one["form_id"] == form_id.hex()
            and one["proof"] is None
            and one["mark"] == ""
            and (now is None or one.get("usable_from", 0) <= now)
        )

    def place(self, places: Mapping[Digest, GrantProof], anchor: PendingAnchor | None = None) -> None:
        """Keep by which proof these consents will be on the chain, and the anchor they share, before it is posted."""
        with self._lock, self._use.transaction():
            for consent_id, proof in places.items():
                consent = self._consent(consent_id)
                consent["proof"] = _proof_json(proof)
                self._use.put("consent", consent_id, consent)
            if anchor is not None:
                tree = {
                    "study": anchor.study.hex(),
                    "form_id": anchor.form_id.hex(),
                    "root": anchor.root.hex(),
                    "count": anchor.count,
                    "on_chain": False,
                }
                self._use.put("anchor", anchor.root, tree)

    def pending_anchors(self, study: Digest) -> tuple[PendingAnchor, ...]:
        """Anchors of the study that `confirm` does not see on the chain, in the order they were made."""
        return tuple(
            PendingAnchor(study, Digest.from_hex(one["form_id"]), Digest.from_hex(one["root"]), one["count"])
            for one in self._use.all("anchor")
            if one["study"] == study.hex() and not one["on_chain"]
        )

    def waiting(self) -> frozenset[Digest]:
        """The studies with anchors or grants that are pending."""
        studies = [one["study"] for one in self._use.all("anchor") if not one["on_chain"]]
        studies += [one["study"] for one in self._use.all("consent") if _is_pending(one)]
        return frozenset(map(Digest.from_hex, studies))

    def pending_grants(self, study: Digest) -> tuple[Holding, ...]:
        """Consents that wait for a grant of their own, and that nobody has ended."""
        with self._lock:
            return tuple(
                _holding(one, self._person(one))
                for one in self._use.all("consent")
                if one["study"] == study.hex() and _is_pending(one)
            )

    def confirm(self, history: History) -> int:
        """Note which grants the chain has; returns how many consents became granted by this call.

        Whatever the chain does not have, or not any more (a reorganisation), is pending: it will be posted again.

        A hospital that copies our root or consent id out of our transaction and is mined first grants nothing of ours,
        but keeps us from posting it. An anchor's consents then wait for another anchor; a consent whose id was taken is
        replaced (superseded) at the next enrolment.
        """
        with self._lock, self._use.transaction():
            count = 0
            for one in self._use.all("consent"):
                if one["proof"] is None:
                    continue
                found: Granted | Anchored | None = None
                if one["proof"]["kind"] == 0:
                    grant = history.grants.get(Digest.from_hex(one["consent_id"]))
                    found = grant.record if grant else None
                else:
                    anchor = history.anchors.get(Digest.from_hex(one["proof"]["root"]))
                    found = anchor.record if anchor else None
                ours = found is not None and (found.form_id.hex(), found.member) == (one["form_id"], one["member"])
                if one["granted"] == ours and (ours or found is None):
                    continue
                count += ours
                one["granted"] = ours
                if found is None or ours:
                    pass
                elif isinstance(found, Anchored):
                    one["proof"] = None
                elif one["mark"] == "":
                    one["mark"] = "superseded"
                self._use.put("consent", bytes.fromhex(one["consent_id"]), one)
            for row in self._use.all("anchor"):
                root = Digest.from_hex(row["root"])
                if row["on_chain"] != (root in history.anchors):
                    row["on_chain"] = root in history.anchors
                    self._use.put("anchor", root, row)
            return count

    # ----------------------------------------------------------------------------------------------------------------
    # The end of a consent

    def archive(
        self,
        consent_id: Digest,
        *,
        study_name: str,
        decision: str,
        ground: str = "",
        requested_on: str = "",
        completed_on: str = "",
        first_use_on: str = "",
        last_use_on: str = "",
        recipients: Sequence[str] = (),
        extension: str | None = None,
    ) -> None:
        """Keep what must outlive the link (see `ArchiveRecord`). Again for the same consent: replaces the record.

        `extension` None keeps what was said of it before.

        Nothing in the record leads to the consent: its place is random, and only USE knows it until the link is
        destroyed. Who it was, and the form, are sealed for the officer: the node can put them here, not read them.
        """
        with self._lock:
            consent = self._consent(consent_id)
            if not consent["archive"]:
                consent["archive"] = secrets.token_hex(16)
                self._use.put("consent", consent_id, consent)
            before = self._archive.get("decision", consent["archive"].encode()) or {}
            record = {
                "form": consent["form"],
                "study_name": study_name,
                "decision": decision,
                "ground": ground,
                "requested_on": requested_on,
                "completed_on": completed_on,
                "first_use_on": first_use_on,
                "last_use_on": last_use_on,
                "recipients": list(recipients),
                "extension": before.get("extension", "") if extension is None else extension,
            }
            self._archive.put("decision", consent["archive"].encode(), record)

    def archived(self, patient_id: str | None = None) -> tuple[ArchiveRecord, ...]:
        """What the archive keeps, about one patient or all (LINK). For the data-protection desk alone."""
        with self._linked("read the archive"):
            found = [one | self._open_form(one.pop("form")) for one in self._archive.all("decision")]
        return tuple(
            ArchiveRecord(**{**one, "document": bytes.fromhex(one["document"]), "recipients": tuple(one["recipients"])})
            for one in found
            if patient_id is None or one["patient_id"] == patient_id
        )

    def suppress(self, patient_id: str, study: Digest, until: int | None = None) -> None:
        """Refuse this patient in the study (zero: in all) until unix time `until`, or for good. LINK."""
        with self._linked("suppress"):
            self._suppress(self._suppression.tag("patient", patient_id.encode()), study, until)

    def _suppress(self, tag: bytes, study: Digest, until: int | None) -> None:
        with self._lock, self._suppression.transaction():
            found = self._suppression.get("patient", b"", tag=tag) or {}
            found[study.hex()] = until
            self._suppression.put("patient", b"", found, tag=tag)

    def suppress_consent(self, consent_id: Digest, until: int | None = None) -> None:
        """`suppress` for the person and study of a consent that is still linked; it needs no name."""
        one = self._consent(consent_id)
        self._suppress(bytes.fromhex(self._person(one)["suppression"]), Digest.from_hex(one["study"]), until)

    def lift_suppression(self, patient_id: str, study: Digest) -> bool:
        """Let the patient be enrolled again (by a new signed form); whether it was suppressed. LINK."""
        with self._lock, self._linked("lift a suppression"), self._suppression.transaction():
            found = self._suppression.get("patient", patient_id.encode()) or {}
            if study.hex() not in found:
                return False
            del found[study.hex()]
            if found:
                self._suppression.put("patient", patient_id.encode(), found)
            else:
                self._suppression.delete("patient", patient_id.encode())
            return True

    def is_suppressed(self, patient_id: str, study: Digest | None, now: int) -> bool:
        """Whether the patient may not be enrolled in the study (None: in some study) at unix time `now`. LINK."""
        with self._linked("look for a suppression"):
            found = self._suppression.get("patient", patient_id.encode()) or {}
        return any(
            until is None or until > now
            for one, until in found.items()
            if study is None or one in (study.hex(), ZERO.hex())
        )

    def destroy_link(self, *consent_ids: Digest) -> int:
        """Destroy what ties these consents to their patients; returns how many were here. Unknown ones are skipped.

        A patient with no other consent leaves LINK altogether, and the copy with it if it was still here. It needs no
        officer's key: then what stays in LINK gets its fresh key with the next order that brings one.
        """
        with self._lock:
            here = {bytes(one): found for one in consent_ids if (found := self._use.get("consent", one)) is not None}
            if not here:
                return 0
            self.delete_copy(*map(Digest, here))
            doomed = [("consent", one) for one in here]
            kept: list[dict[str, Any]] = []
            for name in {found["pseudonym"] for found in here.values()}:
                person = self._use.get("person", name.encode())
                if person is None:
                    continue
                person["consents"] = [one for one in person["consents"] if bytes.fromhex(one) not in here]
                if person["consents"]:
                    kept.append(person)
                else:
                    doomed.append(("person", name.encode()))
            leaves = {found["leaf_key"] for found in here.values()}
            with self._use.transaction():
                for person in kept:
                    self._use.put("person", person["pseudonym"].encode(), person)
                for one in self._use.all("set"):
                    if leaves & set(one["leaves"]):
                        left = {**one, "leaves": [leaf for leaf in one["leaves"] if leaf not in leaves]}
                        self._use.put("set", bytes.fromhex(one["round"]), left)
            self._use.destroy(doomed)
            self._finish()
            if self._has_key:
                with self._linked("destroy links", *(one.hex() for one in here)) as link:
                    link.destroy(())
            return len(here)

    @property
    def _has_key(self) -> bool:
        access = _ACCESS.get()
        mine = access is not None and access.vault is self and access.key is not None
        return mine or self._standing is not None

    # ----------------------------------------------------------------------------------------------------------------
    # Accounting

    def leaf_keys(self) -> frozenset[Digest]:
        """The leaves of every consent that is here: not of those whose link is destroyed."""
        with self._lock:
            return frozenset(Digest.from_hex(one["leaf_key"]) for one in self._use.all("consent"))

    def note_set(self, round_id: Digest, leaf_keys: Iterable[Digest]) -> None:
        """Keep which leaves a set of ours held, before it is deleted: disclosures have to be accounted for.

        One row a round, as a set is; only leaves of `leaf_keys()` belong into it. `destroy_link` takes the leaves of
        erased consents out of all of them.
        """
        with self._lock, self._use.transaction():
            kept = {"round": round_id.hex(), "leaves": sorted(one.hex() for one in leaf_keys)}
            self._use.put("set", round_id, kept)

    def noted_set(self, round_id: Digest) -> frozenset[Digest] | None:
        """The leaves of a set of ours that is gone, without those of erased consents; None: nothing was noted."""
        with self._lock:
            found = self._use.get("set", round_id)
        return None if found is None else frozenset(map(Digest.from_hex, found["leaves"]))

    # ----------------------------------------------------------------------------------------------------------------
    # Restore guard

    def reapply(self, history: History, outlive: Callable[[Digest, Digest], None] | None = None) -> int:
        """Do again what the chain says was done: a vault may have come back from a backup. Call before any training.

        Every consent that is live here and withdrawn on the chain is stopped, and its copy deleted where the form
        says so. Where an erasure of this hospital has deleted copies or destroyed links, so does this vault, for the
        consents whose request salts make the batch's root. Where they do not (the batch named others too, or the link
        is gone already), the copies of all that were stopped just now and may have been meant are deleted: each of
        these people has withdrawn, so none is wronged. Returns how many consents changed; 0 in a vault that is up to
        date.

        Args:
            history: the chain.
            outlive: called with batch and consent before a link is destroyed, to `archive` what the backup is too old
                to have.
        """
        with self._lock:
            stopped: set[str] = set()
            copies: set[str] = set()
            links: dict[str, Digest] = {}
            for one in self._use.all("consent"):
                consent_id = Digest.from_hex(one["consent_id"])
                if one["mark"] == "" and consent_id in history.withdrawals:
                    self.note_withdrawal(consent_id, at=history.withdrawals[consent_id][0].at)
                    stopped.add(one["consent_id"])
                    study = history.studies.get(Digest.from_hex(one["study"]))
                    form = study.forms.get(Digest.from_hex(one["form_id"])) if study else None
                    if form is not None and form.on_withdrawal >= STOP_AND_DELETE:
                        copies.add(one["consent_id"])
            for erasure in history.erasures.values():
                if _COPY_DELETED not in erasure.steps:
                    continue
                maybe = self._maybe_erased(erasure, history)
                named = _requested(maybe, erasure.opened.requests_root)
                for one in named or [one for one in maybe if one["consent_id"] in stopped]:
                    copies.add(one["consent_id"])
                    tag = bytes.fromhex(self._person(one)["suppression"])
                    listed = self._suppression.get("patient", b"", tag=tag) or {}
                    if one["study"] not in listed:
                        self.suppress_consent(Digest.from_hex(one["consent_id"]))
                if _LINK_DESTROYED in erasure.steps:
                    links |= {one["consent_id"]: erasure.opened.batch for one in named}
            with_copy = {one for one in copies if self._has_copy(self._consent(bytes.fromhex(one)))}
            deleted = self.delete_copy(*(Digest.from_hex(one) for one in sorted(with_copy)))
            if outlive is not None:
                for doomed, batch in links.items():
                    outlive(batch, Digest.from_hex(doomed))
            self.destroy_link(*(Digest.from_hex(one) for one in sorted(links)))
            return len(stopped | set(links) | (with_copy if deleted else set()))

    def _has_copy(self, consent: dict[str, Any]) -> bool:
        return bool(self._person(consent)["copy"])

    def _maybe_erased(self, erasure: ErasureHistory, history: History) -> list[dict[str, Any]]:
        """Our consents that this batch may be about: ours, of its study, and withdrawn when its copies went.

        Not when it was opened: the withdrawal of a request may come to the chain after the batch.
        """
        opened = erasure.opened
        return [
            one
            for one in self._use.all("consent")
            if one["study"] == opened.study.hex()
            and one["member"] == opened.controller
            and (at := history.withdrawn_at(Digest.from_hex(one["consent_id"]))) is not None
            and at <= erasure.times["copy_deleted"]
        ]


# --------------------------------------------------------------------------------------------------------------------
# Rows of USE


def _requested(candidates: list[dict[str, Any]], root: Digest) -> list[dict[str, Any]]:
    """Those candidates whose request ids make this root; none where it cannot be told.

    Among few candidates every combination is tried, among many all together and each alone; and each alone with the
    salt of a batch that a relay opened.
    """
    for one in candidates:
        relayed = relay_salt(bytes.fromhex(one["request_erasure"]))
        if requests_root([request_id(relayed, bytes.fromhex(one["consent_id"]))]) == root:
            return [one]
    ids = [request_id(bytes.fromhex(one["request_salt"]), bytes.fromhex(one["consent_id"])) for one in candidates]
    sizes = range(1, len(ids) + 1) if len(ids) <= _FEW else (len(ids), 1)
    for size in sizes:
        for some in combinations(range(len(ids)), size):
            if requests_root(ids[i] for i in some) == root:
                return [candidates[i] for i in some]
    return []


def _origin(consent: dict[str, Any]) -> Origin:
    contracts = Contracts(consent["chain_id"], *(bytes.fromhex(part) for part in consent["contracts"]))
    study = Digest.from_hex(consent["study"])
    return Origin(consent["network"], contracts, study, consent["member"], consent["hospital"])


def _is_pending(consent: dict[str, Any]) -> bool:
    """Whether a consent waits for a grant of its own, and nobody has ended it."""
    return consent["proof"] == {"kind": 0} and not consent["granted"] and consent["mark"] == ""


def _holding(consent: dict[str, Any], patient: dict[str, Any]) -> Holding:
    return Holding(
        consent_id=Digest.from_hex(consent["consent_id"]),
        study=Digest.from_hex(consent["study"]),
        form_id=Digest.from_hex(consent["form_id"]),
        member=consent["member"],
        issued=consent["issued"],
        signed_on=consent["signed_on"],
        mark=consent["mark"],
        marked_at=consent["marked_at"],
        placed=consent["proof"] is not None,
        granted=consent["granted"],
        has_copy=patient["copy"],
        is_of_before=consent["consent_id"] in patient.get("before", ()),
        role=patient["role"],
        records=len(patient["rows"]),
    )


def _proof(tree: dict[str, Any] | None) -> GrantProof | None:
    if tree is None:
        return None
    if tree["kind"] == 0:
        return GrantProof()
    path = tuple(Digest.from_hex(step) for step in tree["path"])
    return GrantProof(AnchorProof(Digest.from_hex(tree["root"]), tree["index"], path))


def _proof_json(proof: GrantProof) -> dict[str, Any]:
    if proof.anchor is None:
        return {"kind": 0}
    anchor = proof.anchor
    return {"kind": 1, "root": anchor.root.hex(), "index": anchor.index, "path": [step.hex() for step in anchor.path]}
