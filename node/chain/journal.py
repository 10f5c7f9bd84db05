"""The journal: one line a block, on the disk before the block is spoken of; all the chain needs to exist again.

A line is JSON without spaces, in this order of fields, and ends with a line break:

    {"v":1,"number":7,"timestamp":1763900000,"transactions":["0x02f8.."],"hash":"0x.."}

`timestamp` and `transactions` are what a block is made from; `hash` says what must come out. A line has one spelling
only, so any changed byte is found: in the form, or by executing the line and comparing the hash.

What a crash may leave is a line without its end. It is cut off with a warning (nobody was told of that block), unless
it is whole but for the line break: then it is executed like any other and its break is written. Everything else that
is wrong with a journal is fatal, and named by line with both values: a chain that guesses would answer differently
than before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from node import jsontext
from node.chain.errors import JournalError
from node.chain.evm import Block, Evm, decode_transaction
from node.chain.files import sync_folder
from node.chain.genesis import chain_folder, load_genesis
from node.errors import LocalFault, NodeError

VERSION = 1
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True)
class JournalLine:
    """What is kept of a block.

    Attributes:
        number: its height, from 1.
        timestamp: its stamp, seconds since 1970.
        transactions: the signed bytes, in order.
        block_hash: 32 bytes; what executing the line must give.
    """

    number: int
    timestamp: int
    transactions: tuple[bytes, ...]
    block_hash: bytes

    def to_bytes(self) -> bytes:
        """The one spelling of this line, with its line break."""
        document = {
            "v": VERSION,
            "number": self.number,
            "timestamp": self.timestamp,
            "transactions": ["0x" + raw.hex() for raw in self.transactions],
            "hash": "0x" + self.block_hash.hex(),
        }
        return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"

    @staticmethod
    def of(block: Block) -> JournalLine:
        """The line that keeps `block`."""
        header = block.header
        return JournalLine(header.number, header.timestamp, tuple(t.raw for t in block.transactions), header.hash)


@dataclass(frozen=True)
class JournalFault:
    """Where a journal stops being true: `line` from 1, what was compared, and both values."""

    line: int
    what: str
    expected: str
    got: str


@dataclass(frozen=True)
class BlockSummary:
    """A block that the journal gave: height, hash, stamp, and the hashes of its transactions."""

    number: int
    hash: bytes
    timestamp: int
    transactions: tuple[bytes, ...]


@dataclass(frozen=True)
class JournalReport:
    """What executing a journal showed.

    Attributes:
        chain_id: as in genesis.json.
        genesis_hash: hash of block 0, to be compared with network.json.
        blocks: every block up to the first failure, from 1.
        first_failure: None if all lines hold.
        torn_bytes: length of an unfinished last line, which a crash leaves and the next start cuts off.
    """

    chain_id: int
    genesis_hash: bytes
    blocks: tuple[BlockSummary, ...]
    first_failure: JournalFault | None
    torn_bytes: int

    @property
    def ok(self) -> bool:
        """Whether every line holds."""
        return self.first_failure is None


def journal_file(home: Path) -> Path:
    """Where the journal of a network home lies."""
    return chain_folder(home) / "journal.jsonl"


def parse_line(line: int, data: bytes) -> JournalLine:
    """Read one line (with its line break).

    Args:
        line: its number from 1, for the error.
        data: the bytes, line break included.

    Raises:
        JournalError: it is not the one spelling of a line.
    """
    form = "a journal line"
    try:
        document = jsontext.loads(data)
    except ValueError as error:
        raise JournalError(line, "malformed", form, f"not JSON ({error})") from None
    if not isinstance(document, dict):
        raise JournalError(line, "malformed", form, f"a {type(document).__name__}")
    if document.get("v") != VERSION:
        raise JournalError(line, "unknown version", str(VERSION), repr(document.get("v")))
    if list(document) != ["v", "number", "timestamp", "transactions", "hash"]:
        raise JournalError(line, "malformed", form, f"the fields {list(document)}")
    raws = document["transactions"]
    if not isinstance(raws, list):
        raise JournalError(line, "malformed", "a list of transactions", f"a {type(raws).__name__}")
    parsed = JournalLine(
        number=_whole(line, "number", document["number"]),
        timestamp=_whole(line, "timestamp", document["timestamp"]),
        transactions=tuple(_hex(line, "transactions", raw) for raw in raws),
        block_hash=_hex(line, "hash", document["hash"]),
    )
    if parsed.to_bytes() != data:
        raise JournalError(line, "malformed", "the canonical spelling of the line", "another spelling of its values")
    return parsed


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Give the journal's lines with their numbers from 1; the last one may lack its line break."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        number = 0
        while data := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(data) == MAX_LINE_BYTES:
                raise JournalError(number, "too long", f"less than {MAX_LINE_BYTES} bytes", "more")
            yield number, data


def is_torn(data: bytes) -> bool:
    """Whether a last line without line break is what a crash leaves: a beginning of a line, not a damaged whole one."""
    data = data.rstrip(b"\0")  # a power cut may leave zeros where data should be
    text = data.decode("ascii", errors="replace")
    try:
        jsontext.check_depth(data)
    except ValueError:
        return False
    try:
        json.JSONDecoder().raw_decode(text)
    except ValueError:
        return True
    return False


def execute_line(evm: Evm, line: int, entry: JournalLine) -> Block:
    """Make the block of a line on top of `evm`.

    Raises:
        JournalError: the line does not follow, a transaction in it is not valid, or another hash comes out.
    """
    if entry.number != evm.head.number + 1:
        raise JournalError(line, "block number", str(evm.head.number + 1), str(entry.number))
    if entry.timestamp < evm.head.timestamp:
        raise JournalError(line, "timestamp", f"at least {evm.head.timestamp}", str(entry.timestamp))
    if not entry.transactions:
        raise JournalError(line, "transactions", "at least one", "none")
    wanted = "0x" + entry.block_hash.hex()
    try:
        block = evm.mine([decode_transaction(raw, evm.chain_id) for raw in entry.transactions], entry.timestamp)
    except NodeError as error:
        raise JournalError(line, "block hash", wanted, f"no block: {error}") from None
    if block.header.hash != entry.block_hash:
        raise JournalError(line, "block hash", wanted, "0x" + block.header.hash.hex())
    return block


def replay(home: Path) -> Iterator[Block]:
    """Execute the journal of a home and give every block with headers, receipts and logs, from block 1.

    Reads only; works while the chain is running. An unfinished last line is left out.

    Raises:
        JournalError: at the first line that does not hold.
        NotFound, GenesisError: there is no usable genesis.
    """
    yield from _replay_onto(Evm(load_genesis(home)), journal_file(home))


def verify_journal(home: Path) -> JournalReport:
    """Execute the whole journal of a home and say which block hashes it gives and where it first fails.

    Raises:
        NotFound, GenesisError: there is no usable genesis.
    """
    genesis = load_genesis(home)
    evm = Evm(genesis)
    genesis_hash = evm.head.hash
    path = journal_file(home)
    blocks: list[BlockSummary] = []
    failure: JournalFault | None = None
    torn = 0
    try:
        for block in _replay_onto(evm, path):
            header = block.header
            hashes = tuple(transaction.hash for transaction in block.transactions)
            blocks.append(BlockSummary(header.number, header.hash, header.timestamp, hashes))
    except JournalError as error:
        failure = JournalFault(error.line, error.what, error.expected, error.got)
    else:
        torn = sum(len(data) for _, data in read_lines(path) if not data.endswith(b"\n") and is_torn(data))
    return JournalReport(genesis.chain_id, genesis_hash, tuple(blocks), failure, torn)


def _replay_onto(evm: Evm, path: Path) -> Iterator[Block]:
    for line, data in read_lines(path):
        if not data.endswith(b"\n"):
            if is_torn(data):
                return
            data += b"\n"
        yield execute_line(evm, line, parse_line(line, data))


class Journal:
    """The journal of a running chain, open for appending. One process only: the home's lock sees to that."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Args:
            path: `chain/journal.jsonl`.
        """
        self._path = path
        new = not path.exists()
        self._file: BinaryIO = path.open("ab", buffering=0)
        if new:
            os.fchmod(self._file.fileno(), 0o600)
            sync_folder(path.parent)

    def replay_onto(self, evm: Evm) -> Iterator[Block]:
        """Execute every line, give its block, and put the file in order for appending.

        Raises:
            JournalError: at the first line that does not hold. Nothing is changed then.
        """
        end = 0
        for line, data in read_lines(self._path):
            whole = data.endswith(b"\n")
            if not whole and is_torn(data):
                self._file.truncate(end)
                os.fsync(self._file.fileno())
                self.torn_bytes = len(data)
                return
            entry = parse_line(line, data if whole else data + b"\n")
            yield execute_line(evm, line, entry)
            if not whole:
                self._write(b"\n")
                return
            end += len(data)

    torn_bytes = 0
    """Length of the unfinished last line that :meth:`replay_onto` cut off."""

    def append(self, block: Block) -> None:
        """Put a block on the disk; when this returns it survives a crash of the machine.

        Raises:
            LocalFault: the disk did not take it. The chain must stop then: what it holds in memory is not durable.
        """
        self._write(JournalLine.of(block).to_bytes())

    def close(self) -> None:
        """Close the file; every appended line is on the disk already."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were written")
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LocalFault(f"cannot write to {self._path}: {error}") from error


def _whole(line: int, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise JournalError(line, name, "a whole number above zero", repr(value))
    return value


def _hex(line: int, name: str, value: object) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise JournalError(line, name, "hex with 0x", repr(value)[:80])
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise JournalError(line, name, "hex with 0x", repr(value)[:80]) from None
