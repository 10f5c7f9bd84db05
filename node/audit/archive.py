"""A zip archive that is the only one of its content: any two writers make the same bytes, any changed byte is found.

What may live here: the container, member by member, and nothing of what the members mean (`node/audit/bundle.py`).

Theory of operation. A zip file has many encodings of one content: compressors differ, headers repeat each other, there
are comments, extra fields and gaps. Here there is one: members are stored (not compressed: the same bytes with every
zlib, and nothing to inflate), in the order in which they are given, dated 1980-01-01, without attributes, extra fields,
comments or gaps. `Reader` walks the file once from its first byte to its last, derives every header from what it read,
and compares. So there is no byte that means nothing, no second name for a place, and memory is one piece of a member.

Format: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end); without
zip64, hence less than 4 GiB and 65,535 members.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from crypto.digest import Digest
from node.audit.home import Fault

MAX_ARCHIVE_BYTES: Final = (1 << 32) - 2
MAX_MEMBERS: Final = (1 << 16) - 2
PIECE: Final = 1 << 20

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_VERSION, _STORED, _DATE = 10, 0, 0x0021
"""Needed to extract: 1.0. Method 0. MS-DOS date of 1980-01-01."""


def _local(name: bytes, crc: int, size: int) -> bytes:
    return _LOCAL.pack(b"PK\3\4", _VERSION, 0, _STORED, 0, _DATE, crc, size, size, len(name), 0) + name


def _central(name: bytes, crc: int, size: int, offset: int) -> bytes:
    version = (_VERSION, _VERSION, 0, _STORED, 0, _DATE)
    return _CENTRAL.pack(b"PK\1\2", *version, crc, size, size, len(name), 0, 0, 0, 0, 0, offset) + name


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0)


def overhead(names: list[str]) -> int:
    """Bytes of an archive with these members beside their contents."""
    return sum(_LOCAL.size + _CENTRAL.size + 2 * len(name) for name in names) + _END.size


class Writer:
    """Writes an archive from its first byte to its last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._central: list[bytes] = []
        self._offset = 0

    def add(self, name: str, size: int, crc: int, pieces: Iterator[bytes]) -> None:
        """Write the next member, whose size and CRC-32 are known before its bytes.

        Raises:
            ValueError: the bytes are not those: what they come from changed meanwhile.
        """
        encoded = name.encode("ascii")
        self._file.write(_local(encoded, crc, size))
        found, got = 0, 0
        for piece in pieces:
            self._file.write(piece)
            found, got = zlib.crc32(piece, found), got + len(piece)
        if (found, got) != (crc, size):
            raise ValueError(f"{name} changed while it was read")
        self._central.append(_central(encoded, crc, size, self._offset))
        self._offset += _LOCAL.size + len(encoded) + size

    def close(self) -> None:
        """Write the directory."""
        directory = b"".join(self._central)
        self._file.write(directory + _end(len(self._central), len(directory), self._offset))


class Reader:
    """Reads an archive member by member, in its order, and compares every byte that is not content.

    Args:
        file: an open, seekable file.
        name: of the file, for people.

    Raises:
        Fault: from every method, at the first byte that this format does not have.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._size = file.seek(0, 2)
        file.seek(0)
        if self._size > MAX_ARCHIVE_BYTES:
            raise Fault("size", name, f"at most {MAX_ARCHIVE_BYTES} bytes", self._size)
        self._central: list[bytes] = []
        self._at = 0

    def member(self, name: str, most: int, size: int | None = None, sink: Callable[[bytes], object] = bytes) -> int:
        """Read the next member, which must have this name; its offset in the file.

        Args:
            name: the member's.
            most: bytes it may have.
            size: bytes it must have, where that is known.
            sink: takes its content piece by piece, in order.
        """
        where, encoded = f"{self._name}: {name}", name.encode("ascii")
        head = self._read(where, _LOCAL.size + len(encoded))
        stated = _LOCAL.unpack(head[: _LOCAL.size])[7]
        if head[:4] != b"PK\3\4" or head[_LOCAL.size :] != encoded:
            found = head[_LOCAL.size :].decode("ascii", "replace") if head[:4] == b"PK\3\4" else head[:4].hex()
            raise Fault("member", where, f"a member {name}", found)
        if stated > most or (size is not None and stated != size):
            raise Fault("size of a member", where, f"at most {most}" if size is None else size, stated)
        if len(self._central) >= MAX_MEMBERS:
            raise Fault("members", self._name, f"at most {MAX_MEMBERS}", "more")
        start, crc, left = self._at + len(head), 0, stated
        while left:
            piece = self._read(where, min(left, PIECE), start + stated - left)
            crc, left = zlib.crc32(piece, crc), left - len(piece)
            sink(piece)
        expected = _local(encoded, crc, stated)
        if head != expected:
            raise Fault("header of a member", where, expected, head)
        self._central.append(_central(encoded, crc, stated, self._at))
        self._at = start + stated
        return start

    def close(self) -> None:
        """Compare the rest of the file with the directory that follows from what was read."""
        directory = b"".join(self._central)
        expected = directory + _end(len(self._central), len(directory), self._at)
        if self._size - self._at != len(expected):
            raise Fault("size", self._name, self._at + len(expected), self._size)
        if self._read(f"{self._name}: directory", len(expected)) != expected:
            raise Fault("directory", self._name, "the one of its members", "another")

    def _read(self, where: str, count: int, at: int | None = None) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise Fault("size", where, f"{count} bytes at {self._at if at is None else at}", f"{len(data)} bytes")
        return data


def crc_and_digest(pieces: Iterator[bytes]) -> tuple[int, int, Digest]:
    """(size, CRC-32, sha256) of a content."""
    size, crc, hashed = 0, 0, hashlib.sha256()
    for piece in pieces:
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        hashed.update(piece)
    return size, crc, Digest(hashed.digest())
