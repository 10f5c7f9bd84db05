"""What an audit reads of a node's home, without writing a byte and without believing one.

What may live here: the store opened read-only, its rows one at a time, and the two ways a check ends early. What this
file does not know: what the rows should say (`node/audit/checks.py`). Everything here may be damaged: SQLite, JSON and
wire errors leave this file as a `Fault` that names the file and the row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.digest import Digest, content_root
from crypto.errors import CryptoError
from node import jsontext
from node.errors import LocalFault, NodeError
from node.evidence import BlockEvidence
from node.messages import Notice
from node.store import FORMAT, Store, split_hashes
from node.wire import decode_notice

DATABASE = "node.db"
MAX_TEXT = 200
"""Longest value a fault shows; a hash has 64 digits."""


class Fault(Exception):
    """Something does not hold. `where` is a file, a row, a block or a round; the values are for people, both of them.

    A fault never holds a consent id or a patient's name.
    """

    def __init__(self, what: str, where: str, expected: object, got: object) -> None:
        self.what = what
        self.where = where
        self.expected = text(expected)
        self.got = text(got)
        super().__init__(f"{what}, {where}: expected {self.expected}, got {self.got}")


class NotChecked(Exception):
    """A check that this home, or the password, gives no means for. The text says why."""


class OnPurpose(str):
    """What a check did not look at because it had to go: no gap in what this home can show."""

    __slots__ = ()


def text(value: object) -> str:
    """A value as a fault shows it: bytes as hexadecimal digits, one line, not too long."""
    shown = value.hex() if isinstance(value, bytes | bytearray) else " ".join(str(value).split())
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 3] + "..."


@dataclass(frozen=True, slots=True)
class KeptNotice:
    """A row of the notices table: the key it lies under, whether it is our own word, and what it decodes to."""

    subject: Digest
    kind: str
    turn: int
    member: int
    own: bool
    body: bytes
    notice: Notice
    file: str = DATABASE

    @property
    def where(self) -> str:
        """The row, for people."""
        return f"{self.file}: {self.kind} of member {self.member} about {self.subject.hex()[:16]}"


class HomeReader(Store):
    """A node's store as it lies on the disk. Reads only; the node may be running.

    Args:
        home: the node's folder.
        at_rest_key: opens content keys; None when there is no password.

    Raises:
        Fault: there is no database, or it is none.
    """

    files: Mapping[str, str] = MappingProxyType({})
    """Table -> the file that a fault in its rows is named after, where that is not the database."""

    def __init__(self, home: Path, at_rest_key: bytes | None) -> None:
        self.home = home
        self._blobs = home / "blobs"
        self._cipher = AESGCM(at_rest_key or bytes(32))
        self._lock = threading.RLock()
        self.opens_keys = at_rest_key is not None
        path = home / DATABASE
        if not path.is_file():
            raise Fault("file", DATABASE, "the node's store", "no such file")
        # Without a write-ahead log the file alone is the state, and reading it needs no shared-memory file beside it.
        wal = path.with_name(DATABASE + "-wal")
        how = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, check_same_thread=False)
            self._db.isolation_level = None
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise Fault("file", DATABASE, "a store that can be read", error) from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """All rows of a statement; what the questions of `Store` go through."""
        return list(self.rows(sql, *arguments))

    def rows(self, sql: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
        """Rows one at a time; a damaged file is a `Fault`."""
        try:
            yield from self._db.execute(sql, arguments)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise Fault("file", DATABASE, "a whole SQLite database", error) from None

    def file_of(self, table: str) -> str:
        """The file that holds a table's rows, for people."""
        return self.files.get(table, DATABASE)

    def check(self) -> None:
        """SQLite's own integrity, and our format number."""
        for (said,) in self.rows("PRAGMA integrity_check(1)"):
            if said != "ok":
                raise Fault("file", DATABASE, "ok", said)
        found = self.meta("format")
        if found != str(FORMAT):
            raise Fault("format", DATABASE, FORMAT, found)

    def evidence(self, first: int = 0) -> Iterator[tuple[BlockEvidence, bytes, int]]:
        """Kept blocks in order from block `first` on, each with the hash and the timestamp it was stored under."""
        sql = (
            "SELECT number, hash, timestamp, header, receipts, transactions FROM blocks WHERE number >= ? "
            "ORDER BY number"
        )
        for number, block_hash, timestamp, header, receipts, transactions in self.rows(sql, first):
            where = f"{self.file_of('blocks')}: block {number}"
            try:
                listed = jsontext.loads(bytes(receipts))
                encoded = tuple(bytes.fromhex(one) for one in listed)
            except (TypeError, ValueError) as error:
                raise Fault("receipts", where, "a list of receipts in hexadecimal digits", error) from None
            try:
                hashes = split_hashes(bytes(transactions))
            except (TypeError, ValueError, CryptoError) as error:
                raise Fault("transactions", where, "hashes of 32 bytes", error) from None
            yield BlockEvidence(int(number), bytes(header), encoded, hashes), bytes(block_hash), int(timestamp)

    def kept_notices(self, kind: str | None = None) -> Iterator[KeptNotice]:
        """Every notice with its key, in a fixed order."""
        sql = (
            "SELECT subject, kind, turn, member, own, body FROM notices WHERE (? IS NULL OR kind = ?) "
            "ORDER BY kind, subject, turn, member"
        )
        for subject, name, turn, member, own, body in self.rows(sql, kind, kind):
            file = self.file_of("notices")
            where = f"{file}: {name} of member {member}"
            try:
                notice = decode_notice(body)
                kept = KeptNotice(
                    Digest(subject), str(name), int(turn), int(member), bool(own), bytes(body), notice, file
                )
            except (NodeError, CryptoError, TypeError, ValueError) as error:
                raise Fault("statement", where, "a notice in the wire format", error) from None
            yield kept

    def index(self) -> Iterator[tuple[Digest, str, int]]:
        """The content table: (root, kind, length) by root."""
        for root, kind, length in self.rows("SELECT root, kind, length FROM content ORDER BY root"):
            try:
                yield Digest(root), str(kind), int(length)
            except (CryptoError, TypeError, ValueError) as error:
                raise Fault("index", f"{DATABASE}: content", "a root, a kind and a length", error) from None

    def place(self, root: Digest) -> str:
        """Where a content lies, relative to the home."""
        return self._path(root).relative_to(self.home).as_posix()

    def on_disk(self, root: Digest) -> bool:
        """Whether there is a file under this name, indexed or not."""
        return self._path(root).is_file()

    def content(self, root: Digest, kind: str) -> bytes | None:
        """A content, recomputed to its root; None where the home has none.

        Raises:
            Fault: the file is not what its name says, or cannot be read.
        """
        if not self.has(root):
            return None
        try:
            data = self._path(root).read_bytes()
        except OSError as error:
            raise Fault("file", self.place(root), "a file that can be read", error.strerror) from None
        got = content_root(kind, data)
        if got != root:
            raise Fault("content root", self.place(root), root, got)
        return data

    def content_key(self, round_id: Digest, member: int, kind: int) -> bytes | None:
        """A content key, or None; `Fault` where the row does not open."""
        try:
            return self.key(round_id, member, kind)
        except (LocalFault, TypeError, ValueError) as error:
            whose = f"round {round_id.hex()[:16]}, member {member}, kind {kind}"
            where = f"{self.file_of('content_keys')}: content key of {whose}"
            raise Fault("content key", where, "a key sealed under this node's keys", error) from None

    def has_key(self, round_id: Digest, member: int, kind: int) -> bool:
        """Whether a content key is kept, opened or not."""
        sql = "SELECT 1 FROM content_keys WHERE round_id = ? AND member = ? AND kind = ?"
        return bool(self.query(sql, round_id, member, kind))
