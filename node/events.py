"""The index of events: every record of the chain as one row of a SQLite table, for whoever asks who did what when.

What may live here: the table, how it follows a home's kept blocks, and the questions people ask of it. What this file
does not know: what a record means in words (`trail`), whether the evidence holds (`audit`). The index is derived: it
is made anew where it is absent or of another version, goes back by block hash where the home's blocks did, and lies in
the home as `events.db`, where an auditor may ask it anything in SQL. Nothing in it names a person.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from crypto.digest import Digest

FILE: Final = "events.db"
FORMAT: Final = 5
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS event (
    block INTEGER, log INTEGER, entry INTEGER, block_hash BLOB, time INTEGER, "transaction" TEXT,
    kind TEXT, study BLOB, round BLOB, batch BLOB, consent BLOB, subject BLOB,
    members INTEGER, study_unknown INTEGER, who TEXT, what TEXT, deployment INTEGER,
    PRIMARY KEY (block, log, entry));
CREATE INDEX IF NOT EXISTS event_study ON event (study);
CREATE INDEX IF NOT EXISTS event_round ON event (round);
CREATE INDEX IF NOT EXISTS event_batch ON event (batch);
CREATE INDEX IF NOT EXISTS event_consent ON event (consent);
CREATE TABLE IF NOT EXISTS followed (number INTEGER PRIMARY KEY, hash BLOB);
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the chain, told. `members`: a bitmap of who it is by or about.

    `transaction`: the hash of the one that carried it, as `transaction_text` writes it.

    `entry`: place inside the log, of those that say several things.
    `deployment`: which of the network's it is from, counted from 0.
    `study_unknown`: it is for a study, and the chain does not say for which (the withdrawal of an anchored consent), so
    it is shown for every one that was there.
    """

    block: int
    log: int
    entry: int
    block_hash: bytes
    time: int
    transaction: str
    kind: str
    study: bytes | None
    round: bytes | None
    batch: bytes | None
    consent: bytes | None
    subject: bytes | None
    members: int
    study_unknown: bool
    who: str
    what: str
    deployment: int

    def row(self) -> dict[str, Any]:
        """What a list of events shows."""
        return {name: getattr(self, name) for name in SHOWN}


SHOWN: Final = ("time", "block", "transaction", "who", "kind", "what", "deployment", "study_unknown")
"""The columns of `Event.row`, for a list that may be empty."""

# Nobody can have consented to a study that nothing on the chain had named yet.
_OF_STUDY: Final = """(study = ? OR study_unknown AND (block, log, entry) >
    (SELECT block, log, entry FROM event WHERE study = ? ORDER BY block, log, entry LIMIT 1))"""
_COLUMNS: Final = tuple(one.name for one in fields(Event))
_NAMED: Final = ", ".join(f'"{name}"' for name in _COLUMNS)


class EventIndex:
    """The table. One process writes at a time; SQLite sees to that."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the index at `path`, made anew where it is of another version; in memory without one."""
        self._db = sqlite3.connect(path if path is not None else ":memory:", isolation_level=None)
        if self._db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            for table in ("event", "followed"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def followed(self) -> Iterator[tuple[int, bytes]]:
        """Blocks that are in the index, newest first, each with its hash."""
        yield from self._db.execute("SELECT number, hash FROM followed ORDER BY number DESC")

    def extend(self, events: Iterable[Event], blocks: Iterable[tuple[int, bytes]] = ()) -> None:
        """Add events, and the blocks they came from, all or nothing; what is there already stays."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            places = ", ".join("?" * len(_COLUMNS))
            values = (tuple(getattr(one, name) for name in _COLUMNS) for one in events)
            self._db.executemany(f"INSERT OR IGNORE INTO event ({_NAMED}) VALUES ({places})", values)
            self._db.executemany("INSERT OR REPLACE INTO followed VALUES (?, ?)", blocks)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def forget(self, first: int) -> None:
        """Drop everything from a block on: the chain has another one there now."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM event WHERE block >= ?", (first,))
        self._db.execute("DELETE FROM followed WHERE number >= ?", (first,))
        self._db.execute("COMMIT")

    def find(
        self,
        *,
        study: Digest | None = None,
        member: int | None = None,
        consent: Digest | None = None,
        batch: Digest | None = None,
        kind: str | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[Event]:
        """Events that pass every given filter, in the chain's order.

        Args:
            study: its events, no membership; withdrawals of anchored consents are shown for every study that the chain
                had named before.
            member: what this member did, or what names it.
            consent: its grant, its withdrawal and entries about it that were skipped.
            batch: an erasure.
            kind: one kind.
            since, until: block times, both included.
        """
        given: list[tuple[str, tuple[Any, ...]]] = []
        if study is not None:
            given.append((_OF_STUDY, (bytes(study), bytes(study))))
        if member is not None:
            given.append(("members >> ? & 1", (member,)))
        if consent is not None:
            given.append(("(consent = ? OR subject = ?)", (bytes(consent), bytes(consent))))
        if batch is not None:
            given.append(("batch = ?", (bytes(batch),)))
        if kind is not None:
            given.append(("kind = ?", (kind,)))
        if since is not None:
            given.append(("time >= ?", (since,)))
        if until is not None:
            given.append(("time <= ?", (until,)))
        where = " AND ".join(clause for clause, _ in given) or "1"
        values = [value for _, each in given for value in each]
        sql = f"SELECT {_NAMED} FROM event WHERE {where} ORDER BY block, log, entry"
        rows = (dict(zip(_COLUMNS, row, strict=True)) for row in self._db.execute(sql, values))
        return [Event(**row | {"study_unknown": bool(row["study_unknown"])}) for row in rows]
