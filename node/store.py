"""What a node remembers: its own words first, then everybody's bytes.

What may live here: one SQLite file (WAL) and a folder of content-addressed blobs. What this file does not know: the
network, the chain, the rules. Two promises that the rest of the node stands on:

- **Persist, then speak.** A statement of ours is in `notices` before anybody hears it, under a primary key that leaves
  no room for a second one of the same kind for the same subject: `remember` returns the first one for ever.
- **Nothing half written.** A blob appears under its name only whole (written aside, fsynced, renamed); a row and what
  it points at are ordered so that a crash leaves at most an unreferenced file.

Trusted: the rows, as far as the disk is. Not trusted: blobs are checked against their root by whoever opens them
(`audit`), and content keys are sealed under the node's own at-rest key.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.digest import CHUNK_BYTES, ContentMap, Digest, content_root, sha256
from crypto.errors import CryptoError
from node.errors import LocalFault, NotFound
from node.evidence import BlockEvidence
from node.messages import (
    AbstainNotice,
    AdmissionNotice,
    AuditorEndNotice,
    AuditorSeatNotice,
    CloseNotice,
    CommitNotice,
    ErasureNotice,
    HaveNotice,
    LeftConsentNotice,
    Notice,
    OpeningNotice,
    PlanNotice,
    PurgeNotice,
    RecoveryNotice,
    RemovalNotice,
    RevocationNotice,
    RotationNotice,
    SuccessionNotice,
    TombstoneNotice,
    VerdictNotice,
    VoteNotice,
    WithdrawalNotice,
)
from node.wire import decode_notice, encode

FORMAT = 2
SENT_KEPT_BLOCKS = 1_000  # below the newest mined: a deeper reorganisation is not repaired by sending again
PARTIAL = ".partial"
PARTIAL_KEPT_S = 7 * 86_400.0  # what is left of a pull that nobody goes on with
MAX_SAID = 32  # notices kept of one member about one round: an honest one signs at most eight
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS blocks (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL, timestamp INTEGER NOT NULL, header BLOB NOT NULL,
    receipts BLOB NOT NULL, transactions BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS notices (
    subject BLOB NOT NULL, kind TEXT NOT NULL, turn INTEGER NOT NULL, member INTEGER NOT NULL,
    own INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (subject, kind, turn, member)
);
CREATE TABLE IF NOT EXISTS contradictions (
    subject BLOB NOT NULL, kind TEXT NOT NULL, member INTEGER NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL,
    PRIMARY KEY (subject, kind, member)
);
CREATE TABLE IF NOT EXISTS content_keys (
    round_id BLOB NOT NULL, member INTEGER NOT NULL, kind INTEGER NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (round_id, member, kind)
);
CREATE TABLE IF NOT EXISTS content (
    root BLOB PRIMARY KEY, kind TEXT NOT NULL, length INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS sent (
    hash BLOB PRIMARY KEY, call_key BLOB NOT NULL, raw BLOB NOT NULL, block INTEGER
);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS log_segments (
    last_event INTEGER PRIMARY KEY, entries INTEGER NOT NULL, root BLOB NOT NULL, signature BLOB NOT NULL,
    lines BLOB NOT NULL
);
"""


def seat_subject(ledger: bytes, study: Digest, term_end: int) -> Digest:
    """What votes for an auditor's seat are about: another study or day is another vote, so that one can be mended."""
    return sha256(ledger + study + term_end.to_bytes(8, "big"))


def notice_key(notice: Notice) -> tuple[Digest, str, int, int]:
    """(subject, kind, turn, member): what a signer may say only once, and where the chain or a peer looks it up."""
    kind = type(notice).__name__
    match notice:
        case CommitNotice() | AbstainNotice():
            return notice.round_id, kind, 0, notice.member
        case HaveNotice() | VoteNotice():
            return notice.round_id, kind, notice.attempt, notice.member
        case CloseNotice():
            return notice.study, kind, notice.branch << 32 | notice.height, notice.member
        case WithdrawalNotice():
            return notice.consent_id, kind, 0, 0
        case ErasureNotice():
            return notice.consent_id, kind, 0, notice.controller
        case OpeningNotice():
            return notice.batch, kind, 0, notice.controller
        case PlanNotice() | VerdictNotice():
            return notice.batch, kind, 0, notice.member
        case PurgeNotice():
            return notice.batch, kind, notice.stage, notice.member
        case AuditorSeatNotice():
            return seat_subject(notice.ledger, notice.study, notice.term_end), kind, notice.epoch, notice.member
        case AdmissionNotice():
            return Digest(notice.ledger.rjust(32, b"\0")), kind, notice.epoch, notice.member
        case (
            RemovalNotice()
            | RotationNotice()
            | RevocationNotice()
            | RecoveryNotice()
            | AuditorEndNotice()
            | SuccessionNotice()
        ):
            return Digest(notice.ledger.rjust(32, b"\0")), kind, notice.epoch, notice.member
        case LeftConsentNotice():
            return notice.consent_id, kind, notice.epoch, notice.member
        case TombstoneNotice():
            return notice.content, kind, notice.reason, notice.member


class Store:
    """One node's memory. Thread-safe: a lock around every statement; each method is one transaction.

    Args:
        home: folder of `node.db` and `blobs/`, made if missing.
        at_rest_key: 32 bytes under which content keys are sealed.

    Raises:
        LocalFault: the file is of another format, or the disk refuses.
    """

    def __init__(self, home: Path, at_rest_key: bytes) -> None:
        self.home = home
        self._blobs = home / "blobs"
        self._cipher = AESGCM(at_rest_key)
        self._lock = threading.RLock()
        self._blobs.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(home / "node.db", check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise LocalFault(f"{home / 'node.db'}: {error}") from error
        found = self.meta("format")
        if found is None:
            self.set_meta("format", str(FORMAT))
        elif found != str(FORMAT):
            raise LocalFault(f"{home / 'node.db'} has format {found}, this koinon reads format {FORMAT}")
        self._drop_old_partials()

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            with suppress(sqlite3.Error):  # on a full disk the log stays beside the file, and is read with it
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes as one: all of them or none."""
        with self._turn():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # on a full disk SQLite has taken everything back by itself
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The database for one thread; what it refuses is a fault of this machine, named by its file."""
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise LocalFault(f"{self.home / 'node.db'}: {error}") from error

    def query(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement; for this file."""
        with self._turn():
            return self._db.execute(sql, arguments).fetchall()

    def execute(self, sql: str, *arguments: Any) -> int:
        """Run a statement, return how many rows it touched; for this file."""
        with self._turn():
            return self._db.execute(sql, arguments).rowcount

    # ----------------------------------------------------------------------------------------------------------------
    # Small facts

    def meta(self, name: str) -> str | None:
        """A named fact, or None."""
        rows = self.query("SELECT value FROM meta WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_meta(self, name: str, value: str) -> None:
        """Write a named fact."""
        self.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value
        )

    # ----------------------------------------------------------------------------------------------------------------
    # The chain's evidence

    def add_block(self, block_hash: bytes, timestamp: int, evidence: BlockEvidence) -> None:
        """Keep a final block's header, receipts and transactions' hashes: what the offline audit reads."""
        receipts = json.dumps([r.hex() for r in evidence.receipts_rlp])
        self.execute(
            "INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?, ?)",
            evidence.number,
            block_hash,
            timestamp,
            evidence.header_rlp,
            receipts.encode(),
            b"".join(evidence.transactions),
        )

    def last_block(self) -> int:
        """Number of the newest kept block, -1 when there is none."""
        found = self.query("SELECT MAX(number) FROM blocks")[0][0]
        return -1 if found is None else int(found)

    def blocks(self, first: int = 0) -> Iterator[tuple[BlockEvidence, Digest]]:
        """Kept blocks in order, each with the hash it was stored under."""
        rows = self.query(
            "SELECT number, hash, header, receipts, transactions FROM blocks WHERE number >= ? ORDER BY number", first
        )
        for number, block_hash, header, receipts, transactions in rows:
            encoded = tuple(bytes.fromhex(one) for one in json.loads(receipts))
            yield BlockEvidence(number, header, encoded, split_hashes(transactions)), Digest(block_hash)

    def block_hash(self, number: int) -> Digest | None:
        """Hash of a kept block, or None."""
        rows = self.query("SELECT hash FROM blocks WHERE number = ?", number)
        return Digest(rows[0][0]) if rows else None

    def forget_blocks(self, first: int) -> None:
        """Drop block `first` and everything after it: the chain was reorganised."""
        self.execute("DELETE FROM blocks WHERE number >= ?", first)

    # ----------------------------------------------------------------------------------------------------------------
    # Signed statements

    def remember(self, notice: Notice, *, own: bool) -> Notice:
        """Keep a notice under its key and return the one that is kept: the first ever, not necessarily this one.

        Others' commits are kept by their update root too (a few of them): which of two contradictory ones counts is
        for the chain to say, and then its openings must be here.
        """
        subject, kind, turn, member = notice_key(notice)
        with self._lock:
            if isinstance(notice, CommitNotice) and not own:
                turn = _turn_of_root(notice)
                if (
                    len(self.query("SELECT 1 FROM notices WHERE subject = ? AND member = ?", subject, member))
                    > MAX_SAID
                ):
                    return notice
            self.execute(
                "INSERT OR IGNORE INTO notices VALUES (?, ?, ?, ?, ?, ?)",
                subject,
                kind,
                turn,
                member,
                int(own),
                encode(notice),
            )
            rows = self.query(
                "SELECT body FROM notices WHERE subject = ? AND kind = ? AND turn = ? AND member = ?",
                subject,
                kind,
                turn,
                member,
            )
        return decode_notice(rows[0][0])

    def knows(self, notice: Notice) -> bool:
        """Whether a notice with this one's key is kept already."""
        subject, kind, turn, member = notice_key(notice)
        if isinstance(notice, CommitNotice):
            turn = _turn_of_root(notice)
        return bool(
            self.query(
                "SELECT 1 FROM notices WHERE subject = ? AND kind = ? AND turn = ? AND member = ?",
                subject,
                kind,
                turn,
                member,
            )
        )

    def others(self, notice: Notice) -> list[Notice]:
        """What else is kept of this notice's signer where it may speak once; for a commit, by whatever update root."""
        subject, kind, turn, member = notice_key(notice)
        rows = self.query(
            "SELECT body FROM notices WHERE subject = ? AND kind = ? AND member = ? AND (turn = ? OR ?) AND body != ? "
            "ORDER BY turn",
            subject,
            kind,
            member,
            turn,
            int(isinstance(notice, CommitNotice)),
            encode(notice),
        )
        return [decode_notice(row[0]) for row in rows]

    def keep_contradiction(self, first: Notice, second: Notice) -> None:
        """Keep two notices of one signer that exclude each other; the first pair of a subject and kind, for good."""
        subject, kind, _, member = notice_key(first)
        self.execute(
            "INSERT OR IGNORE INTO contradictions VALUES (?, ?, ?, ?, ?)",
            subject,
            kind,
            member,
            encode(first),
            encode(second),
        )

    def contradictions(self) -> list[tuple[Notice, Notice]]:
        """Every pair that is kept."""
        rows = self.query("SELECT first, second FROM contradictions ORDER BY subject, kind, member")
        return [(decode_notice(first), decode_notice(second)) for first, second in rows]

    def notices(self, subject: Digest, kind: str | None = None) -> list[Notice]:
        """Everything kept about a round, batch, study, consent or applicant."""
        rows = self.query(
            "SELECT body FROM notices WHERE subject = ? AND (? IS NULL OR kind = ?) ORDER BY kind, turn, member",
            subject,
            kind,
            kind,
        )
        return [decode_notice(row[0]) for row in rows]

    def notices_of_kind(self, kind: str, *, own: bool | None = None) -> list[Notice]:
        """Every kept notice of a kind, ours or others' or both."""
        rows = self.query(
            "SELECT body FROM notices WHERE kind = ? AND (? IS NULL OR own = ?) ORDER BY subject, turn, member",
            kind,
            None if own is None else int(own),
            None if own is None else int(own),
        )
        return [decode_notice(row[0]) for row in rows]

    def own_notice(self, subject: Digest, kind: str, turn: int = 0) -> Notice | None:
        """What we ourselves said about a subject, or None."""
        rows = self.query(
            "SELECT body FROM notices WHERE subject = ? AND kind = ? AND turn = ? AND own = 1", subject, kind, turn
        )
        return decode_notice(rows[0][0]) if rows else None

    def forget_notices(self, subject: Digest, kind: str) -> None:
        """Drop notices of a kind about a subject (a relay forgets a delivered card)."""
        self.execute("DELETE FROM notices WHERE subject = ? AND kind = ?", subject, kind)

    # ----------------------------------------------------------------------------------------------------------------
    # Content keys

    def put_key(self, round_id: Digest, member: int, kind: int, key: bytes) -> None:
        """Keep a content key, sealed under the node's at-rest key and bound to what it opens."""
        nonce = os.urandom(12)
        sealed = nonce + self._cipher.encrypt(nonce, key, _key_label(round_id, member, kind))
        self.execute("INSERT OR IGNORE INTO content_keys VALUES (?, ?, ?, ?)", round_id, member, kind, sealed)

    def key(self, round_id: Digest, member: int, kind: int) -> bytes | None:
        """A content key, or None. `LocalFault` when the row does not open (altered, or another node's)."""
        rows = self.query(
            "SELECT sealed FROM content_keys WHERE round_id = ? AND member = ? AND kind = ?", round_id, member, kind
        )
        if not rows:
            return None
        sealed = rows[0][0]
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], _key_label(round_id, member, kind))
        except InvalidTag:
            what = f"round {round_id.hex()}, member {member}, kind {kind}"
            raise LocalFault(f"the content key of {what} is damaged") from None

    def forget_keys(self, round_id: Digest, member: int | None = None, kind: int | None = None) -> int:
        """Shred content keys; returns how many."""
        count = self.execute(
            "DELETE FROM content_keys WHERE round_id = ? AND (? IS NULL OR member = ?) AND (? IS NULL OR kind = ?)",
            round_id,
            member,
            member,
            kind,
            kind,
        )
        self.checkpoint()
        return count

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file and cut it, so that deleted bytes are in neither."""
        with self._turn():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ----------------------------------------------------------------------------------------------------------------
    # Content-addressed blobs

    def _path(self, root: Digest) -> Path:
        name = root.hex()
        return self._blobs / name[:2] / name

    def put(self, kind: str, data: bytes, root: Digest | None = None) -> Digest:
        """Keep `data` under its content address of this kind ("cipher", "model", "shard", "spec").

        `root`: where it is known.
        """
        root = content_root(kind, data) if root is None else root
        path = self._path(root)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            aside = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
            try:
                with aside.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(path)
            except OSError as error:
                aside.unlink(missing_ok=True)
                raise LocalFault(f"cannot write {path}: {error.strerror}") from error
        self.execute("INSERT OR REPLACE INTO content VALUES (?, ?, ?)", root, kind, len(data))
        return root

    def partial(self, kind: str, root: Digest) -> Partial:
        """A content that is on its way here, with whatever an earlier attempt has left of it."""
        path = self._path(root)

        def whole(length: int) -> None:
            self.execute("INSERT OR REPLACE INTO content VALUES (?, ?, ?)", root, kind, length)

        return Partial(path.with_suffix(PARTIAL), path, whole)

    def _drop_old_partials(self) -> None:
        oldest = time.time() - PARTIAL_KEPT_S
        for path in self._blobs.glob(f"*/*{PARTIAL}"):
            with suppress(FileNotFoundError):  # a pull of the node that runs here may have come to its end
                if path.stat().st_mtime < oldest:
                    _shred(path)

    def has(self, root: Digest) -> bool:
        """Whether the content is here, whole."""
        return bool(self.query("SELECT 1 FROM content WHERE root = ?", root)) and self._path(root).exists()

    def holds_any(self, root: Digest) -> bool:
        """Whether anything of the content is here: all of it, or what a pull has brought of it so far."""
        path = self._path(root)
        return path.exists() or path.with_suffix(PARTIAL).exists()

    def get(self, root: Digest) -> bytes:
        """The bytes as they are on disk; whoever opens them checks them against `root`."""
        try:
            return self._path(root).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"content {root.hex()} is not in this home") from None

    def get_chunk(self, root: Digest, index: int) -> bytes | None:
        """Chunk `index` of a content, or None where there is none."""
        try:
            with self._path(root).open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                return file.read(CHUNK_BYTES) or None
        except FileNotFoundError:
            return None

    def kind_of(self, root: Digest) -> str | None:
        """The kind a content was kept under, or None."""
        rows = self.query("SELECT kind FROM content WHERE root = ?", root)
        return rows[0][0] if rows else None

    def contents(self) -> list[tuple[Digest, str, int]]:
        """(root, kind, length) of everything kept."""
        return [(Digest(r), k, n) for r, k, n in self.query("SELECT root, kind, length FROM content ORDER BY root")]

    def content_bytes(self) -> int:
        """Bytes of everything kept."""
        return int(self.query("SELECT coalesce(sum(length), 0) FROM content")[0][0])

    def remove(self, root: Digest) -> bool:
        """Delete content for good; whether it was there. The caller keeps the tombstone."""
        path = self._path(root)
        there = path.exists()
        for one in (path, path.with_suffix(PARTIAL)):
            if one.exists():
                _shred(one)
        self.execute("DELETE FROM content WHERE root = ?", root)
        self.checkpoint()
        return there

    # ----------------------------------------------------------------------------------------------------------------
    # A log for people

    def log(self, time: float, kind: str, body: dict[str, Any]) -> None:
        """Keep an act for the local event log (never a patient identifier)."""
        self.execute("INSERT INTO events (time, kind, body) VALUES (?, ?, ?)", time, kind, json.dumps(body))

    def log_entries(self, kind: str | None = None) -> list[tuple[float, str, dict[str, Any]]]:
        """The local event log, oldest first."""
        rows = self.query("SELECT time, kind, body FROM events WHERE (? IS NULL OR kind = ?) ORDER BY id", kind, kind)
        return [(time, one, json.loads(body)) for time, one, body in rows]

    def log_after(self, number: int, limit: int) -> list[tuple[int, float, str, dict[str, Any]]]:
        """(number, time, kind, body) of the log's entries after `number`, oldest first, at most `limit`."""
        rows = self.query("SELECT id, time, kind, body FROM events WHERE id > ? ORDER BY id LIMIT ?", number, limit)
        return [(number, time, kind, json.loads(body)) for number, time, kind, body in rows]

    def keep_segment(self, segment: LogSegment) -> None:
        """Keep a segment of the log before its anchor is sent; again for the same lines: with another signature."""
        self.execute(
            "INSERT OR REPLACE INTO log_segments VALUES (?, ?, ?, ?, ?)",
            segment.last_event,
            segment.entries,
            segment.root,
            segment.signature,
            b"\n".join(segment.lines),
        )

    def segments(self) -> list[LogSegment]:
        """The log's segments, oldest first."""
        rows = self.query("SELECT last_event, entries, root, signature, lines FROM log_segments ORDER BY last_event")
        return [LogSegment(last, n, Digest(root), sig, tuple(x.split(b"\n"))) for last, n, root, sig, x in rows]

    def last_segment(self) -> LogSegment | None:
        """The newest segment."""
        found = self.segments()
        return found[-1] if found else None


def split_hashes(joined: bytes) -> tuple[Digest, ...]:
    """Hashes that are kept one after the other; `EncodingError` where they do not end with a whole one."""
    return tuple(Digest(joined[at : at + 32]) for at in range(0, len(joined), 32))


def _shred(path: Path) -> None:
    """Overwrite a file, then remove it."""
    with path.open("r+b") as file:
        left = path.stat().st_size
        while left > 0:
            left -= file.write(bytes(min(left, CHUNK_BYTES)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


class Partial:
    """A content on its way in: verified chunks at their places in a file aside, which counts once it is whole.

    No list of what has come is kept: a chunk that verifies is here, whoever wrote it and whenever. Blocking; one thread
    at a time.
    """

    def __init__(self, aside: Path, place: Path, whole: Callable[[int], None]) -> None:
        """`whole` is told the length when the content is in its `place`."""
        self._aside, self._place, self._whole = aside, place, whole
        self._file: BinaryIO | None = None

    def missing(self, content: ContentMap) -> list[int]:
        """Indexes of the chunks that are not here."""
        file = self._open()
        missing = []
        for index in range(len(content.digests)):
            file.seek(index * CHUNK_BYTES)
            try:
                content.verify_chunk(index, file.read(content.chunk_length(index)))
            except CryptoError:
                missing.append(index)
        return missing

    def keep(self, content: ContentMap, index: int, data: bytes) -> None:
        """Write chunk `index`. Raises `CryptoError`, and writes nothing, if it is not the one of the map."""
        content.verify_chunk(index, data)
        file = self._open()
        try:
            file.seek(index * CHUNK_BYTES)
            file.write(data)
        except OSError as error:
            raise LocalFault(f"cannot write {self._aside}: {error.strerror}") from error

    def finish(self, content: ContentMap) -> None:
        """Put the whole content in its place: every chunk of the map has been kept."""
        file = self._open()
        try:
            file.truncate(content.length)
            file.flush()
            os.fsync(file.fileno())
            self.close()
            self._aside.replace(self._place)
        except OSError as error:
            raise LocalFault(f"cannot write {self._place}: {error.strerror}") from error
        self._whole(content.length)

    def close(self) -> None:
        """Let go of the file; what has come stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._aside.parent.mkdir(exist_ok=True)
            try:
                self._aside.touch()
                self._file = self._aside.open("r+b", buffering=0)
            except OSError as error:
                raise LocalFault(f"cannot write {self._aside}: {error.strerror}") from error
        return self._file


@dataclass(frozen=True, slots=True)
class LogSegment:
    """Lines of the log that are anchored together. `entries`: lines so far; `last_event`: the newest entry in it."""

    last_event: int
    entries: int
    root: Digest
    signature: bytes  # of AnchorLog
    lines: tuple[bytes, ...]


class SentTransactions:
    """The account's `SentStore` in a node's store: signed bytes of calls, kept until they are deep in the chain."""

    def __init__(self, store: Store) -> None:
        """Keep them in `store`."""
        self._store = store

    def remember(self, key: Digest, raw: bytes, transaction: Digest) -> None:
        """Keep a call's signed bytes before they are sent."""
        self._store.execute("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, NULL)", transaction, key, raw)

    def recall(self, key: Digest) -> Sequence[tuple[bytes, Digest]]:
        """The signed bytes and transaction hashes of a call whose fate is not settled, oldest first."""
        rows = self._store.query("SELECT raw, hash FROM sent WHERE call_key = ? AND block IS NULL ORDER BY rowid", key)
        return [(raw, Digest(transaction)) for raw, transaction in rows]

    def settle(self, key: Digest, mined: tuple[Digest, int] | None = None) -> None:
        """The call's fate is known: what was mined stays until `SENT_KEPT_BLOCKS` more are."""
        with self._store.transaction():
            if mined is not None:
                transaction, block = mined
                self._store.execute("UPDATE sent SET block = ? WHERE hash = ?", block, transaction)
                self._store.execute("DELETE FROM sent WHERE block < ?", block - SENT_KEPT_BLOCKS)
            self._store.execute("DELETE FROM sent WHERE call_key = ? AND block IS NULL", key)

    def mined(self, after: int, upto: int) -> Sequence[tuple[bytes, Digest]]:
        """What was mined in blocks (after, upto], in the order it was signed."""
        rows = self._store.query(
            "SELECT raw, hash FROM sent WHERE block > ? AND block <= ? ORDER BY rowid", after, upto
        )
        return [(raw, Digest(transaction)) for raw, transaction in rows]

    def waiting(self) -> Sequence[tuple[bytes, Digest]]:
        """What is kept of calls whose fate is not settled, in the order it was signed."""
        rows = self._store.query("SELECT raw, hash FROM sent WHERE block IS NULL ORDER BY rowid")
        return [(raw, Digest(transaction)) for raw, transaction in rows]

    def moved(self, transaction: Digest, block: int) -> None:
        """The transaction is, or can be, in this block now."""
        self._store.execute("UPDATE sent SET block = ? WHERE hash = ?", block, transaction)


def _turn_of_root(notice: CommitNotice) -> int:
    return 1 + int.from_bytes(notice.update_root[:6], "big")


def _key_label(round_id: Digest, member: int, kind: int) -> bytes:
    return b"koinon/content-key/1" + round_id + member.to_bytes(2, "big") + bytes([kind])
