"""What an audit reads of a bundle: the same questions as of a home, answered from one file, believing none of it.

What may live here: a bundle opened, compared byte for byte with what its content makes, and its rows put where the
questions of `node/store.py` find them: a private SQLite database that the system deletes when it is closed. Contents
are read in place. Nothing is unpacked, so no name in a bundle ever becomes a path. What this file does not know: what
the rows should say (`node/audit/checks.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from crypto.digest import MAX_CONTENT_BYTES, Digest, content_root, sha256
from crypto.errors import CryptoError
from node import jsontext
from node.audit import bundle
from node.audit.archive import MAX_ARCHIVE_BYTES, Reader
from node.audit.bundle import About, Entry
from node.audit.home import Fault, HomeReader
from node.certificate import MAX_CERTIFICATE_BYTES
from node.document import Fields
from node.errors import InputError, NodeError, VerificationFailed
from node.home import MAX_JSON_BYTES, Home, Network, parse_network
from node.store import FORMAT, SCHEMA
from node.study import MAX_SPEC_BYTES

_MOST: Final = (
    (bundle.PAGE, bundle.MAX_PAGE_BYTES),
    (bundle.NETWORK, MAX_JSON_BYTES),
    ("certificates/", MAX_CERTIFICATE_BYTES),
    ("contents/spec/", MAX_SPEC_BYTES),
    ("contents/", MAX_CONTENT_BYTES),
    ("", MAX_ARCHIVE_BYTES),
)
"""Bytes of a member, by the beginning of its name; members of lines are read a line at a time."""


class BundleReader(HomeReader):
    """A bundle's file, checked to be the one encoding of its content, as a store that is read.

    Args:
        path: the bundle.

    Raises:
        Fault: the first thing in it that no bundle has, or a byte that its manifest does not know.
        InputError: there is no such file, or it is none.
    """

    files = MappingProxyType(
        {"blocks": bundle.BLOCKS, "notices": bundle.NOTICES, "content_keys": bundle.KEYS, "content": bundle.MANIFEST}
    )

    def __init__(self, path: Path) -> None:
        self.home = path
        self._lock = threading.RLock()
        self._cipher = AESGCM(os.urandom(32))  # of content keys while they lie in the private database
        try:
            if not path.is_file():
                raise InputError(f"bundle {path}: no such file")
            self._file = path.open("rb")
        except OSError as error:
            raise InputError(f"bundle {path}: {error.strerror}") from error
        try:
            self._read(path.name)
        except BaseException:
            self._file.close()
            raise
        try:
            self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
            self._db.executescript(SCHEMA)
            self._fill()
        except BaseException:
            self.close()
            raise
        self.opens_keys = self.about.holds != "headers-only"

    def close(self) -> None:
        """Let go of the file and of the private database."""
        self._file.close()
        self._db.close()

    # --- the container

    def _read(self, name: str) -> None:
        archive = Reader(self._file, name)
        manifest, signature = bytearray(), bytearray()
        archive.member(bundle.MANIFEST, bundle.MAX_MANIFEST_BYTES, sink=manifest.extend)
        archive.member(bundle.SIGNATURE, bundle.MAX_SIGNATURE_BYTES, sink=signature.extend)
        try:
            self.about, entries = bundle.read_manifest(bytes(manifest))
            self.signature = bundle.read_signature(bytes(signature))
        except VerificationFailed as error:
            raise Fault("manifest", name, "a manifest of this version", error.message) from None
        self.manifest_hash = sha256(bytes(manifest))
        self._places: dict[str, tuple[int, Entry]] = {}
        for entry in entries:
            most = next(most for start, most in _MOST if entry.name.startswith(start))
            hashed = hashlib.sha256()
            offset = archive.member(entry.name, most, entry.size, hashed.update)
            self._unchanged(entry, hashed.digest())
            self._places[entry.name] = offset, entry
        archive.close()

    def member(self, name: str) -> bytes:
        """A member, whole; `Fault` where the file was changed after it was opened."""
        offset, entry = self._places[name]
        self._file.seek(offset)
        data = self._file.read(entry.size)
        self._unchanged(entry, sha256(data))
        return data

    def _unchanged(self, entry: Entry, got: bytes) -> None:
        if got != entry.sha256:
            raise Fault("sha256 of a member", f"{self.home.name}: {entry.name}", entry.sha256, got)

    def _lines(self, name: str) -> Iterator[tuple[str, bytes]]:
        """(place, line) of a member of lines."""
        offset, entry = self._places[name]
        self._file.seek(offset)
        left, number, hashed = entry.size, 0, hashlib.sha256()
        while left:
            line = self._file.readline(min(left, bundle.MAX_LINE_BYTES))
            number, left = number + 1, left - len(line)
            hashed.update(line)
            where = f"{name}, line {number}"
            if not line.endswith(b"\n"):
                raise Fault("line", where, f"a line of at most {bundle.MAX_LINE_BYTES} bytes", f"{len(line)} bytes")
            if line.count(b"{") != 1 or line.count(b"[") > 2:  # before decoding: nesting multiplies memory
                raise Fault("line", where, "one object with at most two lists in it", f"{len(line)} bytes of another")
            yield where, line
        self._unchanged(entry, hashed.digest())

    # --- rows

    def _fill(self) -> None:
        self._db.execute("BEGIN")
        self._db.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
        for name, row in ((bundle.BLOCKS, self._block), (bundle.NOTICES, self._notice), (bundle.KEYS, self._key)):
            for where, line in self._lines(name):
                self._row(where, line, row)
        for _, entry in self._places.values():
            if entry.content is not None:
                kind, root = entry.content
                try:
                    self._db.execute("INSERT INTO content VALUES (?, ?, ?)", (root, kind, entry.size))
                except sqlite3.IntegrityError:
                    raise Fault("content", bundle.MANIFEST, "one content a root", root) from None
        self._db.execute("COMMIT")

    def _row(self, where: str, line: bytes, insert: Callable[[Fields], None]) -> None:
        try:
            fields = Fields(where, jsontext.loads(line))
            insert(fields)
            fields.done()
        except (NodeError, CryptoError, ValueError, RecursionError) as error:
            raise Fault("line", where, "a line of this format", error) from None
        except (sqlite3.Error, OverflowError) as error:
            raise Fault("line", where, "a row said once", error) from None

    def _block(self, row: Fields) -> None:
        receipts = row.take("receipts", list)
        values = (row.uint("number", 53), row.digest("hash"), row.uint("timestamp", 53), row.hexes("header"))
        lists = json.dumps(receipts).encode(), b"".join(row.digests("transactions"))
        self._db.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (*values, *lists))

    def _notice(self, row: Fields) -> None:
        values = (row.digest("subject"), row.take("kind", str), row.uint("turn", 63), row.uint("member", 16))
        self._db.execute(
            "INSERT INTO notices VALUES (?, ?, ?, ?, ?, ?)", (*values, int(row.take("own", bool)), row.hexes("body"))
        )

    def _key(self, row: Fields) -> None:
        place = row.digest("round"), row.uint("member", 16), row.uint("kind", 1)
        if self.has_key(*place):
            row.fault("a second key of the same blob")
        self.put_key(*place, row.hexes("key", 32))

    # --- what the checks of a home ask

    def home_of(self) -> tuple[Home, Network]:
        """The exporting home's seat and its network, as the bundle has them."""
        try:
            raw = jsontext.loads(self.member(bundle.NETWORK))
            network = parse_network(dict(raw), bundle.NETWORK)
            fingerprint = network.fingerprint
        except (NodeError, CryptoError, ValueError, KeyError, TypeError) as error:
            raise Fault("network", bundle.NETWORK, "a network of this version", error) from None
        if fingerprint != self.about.fingerprint:
            raise Fault("network", bundle.NETWORK, self.about.fingerprint, fingerprint)
        return Home(self.home, self.about.role, self.about.index), network

    def place(self, root: Digest) -> str:
        """Where a content lies in the bundle."""
        kind = self.kind_of(root) or "any"
        return f"contents/{kind}/{root.hex()}"

    def has(self, root: Digest) -> bool:
        """Whether the content is here."""
        return self.kind_of(root) is not None

    on_disk = has

    def content(self, root: Digest, kind: str) -> bytes | None:
        """A content, recomputed to its root; None where the bundle has none. `Fault` where it is another."""
        name = f"contents/{kind}/{root.hex()}"
        if name not in self._places:
            return None
        data = self.member(name)
        got = content_root(kind, data)
        if got != root:
            raise Fault("content root", name, root, got)
        return data

    def content_keys(self) -> Iterator[tuple[Digest, int, int]]:
        """(round, member, kind) of every content key."""
        for round_id, member, kind in self.rows("SELECT round_id, member, kind FROM content_keys ORDER BY 1, 2, 3"):
            yield Digest(round_id), member, kind

    def certificates(self) -> dict[Digest, bytes]:
        """Certificates by erasure."""
        names = [name for name in self._places if name.startswith("certificates/")]
        return {Digest.from_hex(name[13:77]): self.member(name) for name in names}


__all__ = ["About", "BundleReader"]
