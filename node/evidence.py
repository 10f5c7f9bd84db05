"""Blocks that prove themselves: a header and its receipts, and the logs that follow from them without a chain.

Theory of operation. A block's hash is keccak256 of its RLP header; the header names its parent's hash and the root of a
Merkle Patricia trie over its receipts; a receipt lists the logs of one transaction. So whoever trusts one block hash,
and holds headers down from it and the receipts of the blocks that matter, can read every record of the contracts out of
them offline, and nobody can hide, add or change one. What this file does not know: JSON-RPC, sockets, files, records
(`node/abi.py` turns a log into a record).

The hash of a transaction is not proven: the header names a root over the transactions, which are not kept, so it is
the word of the endpoint that gave the block. What can be checked is that every receipt has one and no two the same.

Formats: Ethereum Yellow Paper, sections 4.3 and 4.4; EIP-2718 (typed receipts: a type byte, then the RLP list); QBFT
headers as in the Enterprise Ethereum Alliance's QBFT specification (:func:`hash_of_header`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import rlp
from rlp.exceptions import RLPException
from trie.hexary import HexaryTrie

from crypto.digest import Digest, keccak256
from node.errors import VerificationFailed

_PARENT, _RECEIPTS, _NUMBER, _TIMESTAMP, _EXTRA, _MIX = 0, 5, 8, 11, 12, 13
"""Places in a header's list."""

_BFT_MIX = bytes.fromhex("63746963616c2062797a616e74696e65206661756c7420746f6c6572616e6365")
"""What QBFT puts where proof of work has its mix hash: the letters of "ctical byzantine fault tolerance"."""

_HEADER_FIELDS = range(15, 32)
"""How many fields a header may have: 15 at the start of Ethereum, more with every fork since London."""


@dataclass(frozen=True, slots=True)
class RawLog:
    """One log as a contract emitted it.

    Attributes:
        address: the emitting contract, 20 bytes.
        topics: up to four words; the first is the event's.
        data: the ABI-encoded rest.
        transaction: hash of the transaction that emitted it, as the endpoint states it.
        log_index: its place among all logs of the block, from 0.
    """

    address: bytes
    topics: tuple[Digest, ...]
    data: bytes
    transaction: Digest
    log_index: int


@dataclass(frozen=True, slots=True)
class BlockEvidence:
    """What a home keeps of a block so that it can be checked with nothing running.

    Attributes:
        number: the block's number; the header says the same.
        header_rlp: the RLP list whose keccak256 is the block's hash.
        receipts_rlp: each receipt as it stands in the receipts trie, in order: an RLP list, after a type byte if typed.
        transactions: the hash of each receipt's transaction, as the endpoint states it.
    """

    number: int
    header_rlp: bytes
    receipts_rlp: tuple[bytes, ...]
    transactions: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class VerifiedBlock:
    """What a block's evidence proves: its hash, what it stands on, and all logs in it, of any contract."""

    number: int
    block_hash: Digest
    parent_hash: Digest
    timestamp: int
    transactions: tuple[Digest, ...]
    logs: tuple[RawLog, ...]


def verify_block(evidence: BlockEvidence) -> VerifiedBlock:
    """Recompute a block's hash from its header and its receipts root from its receipts, and read the logs.

    Whether the hash is the right one is the caller's question: compare it with the block that a child names as parent.

    Raises:
        VerificationFailed: bytes that are no header or receipt, another number, receipts that the header denies, or
            not a hash of its own for each receipt's transaction.
    """
    where = f"block {evidence.number}"
    header = _words(where, "header", evidence.header_rlp)
    if len(header) not in _HEADER_FIELDS:
        raise VerificationFailed(f"{where}: a header has at least 15 fields, this one {len(header)}")
    number = int.from_bytes(header[_NUMBER], "big")
    if number != evidence.number:
        raise VerificationFailed(f"{where}: its header is of block {number}")
    root = receipts_root(evidence.receipts_rlp)
    if root != header[_RECEIPTS]:
        raise VerificationFailed(f"{where}: receipts root: expected {header[_RECEIPTS].hex()}, computed {root.hex()}")
    needed, found, different = (
        len(one) for one in (evidence.receipts_rlp, evidence.transactions, {*evidence.transactions})
    )
    if not needed == found == different:
        raise VerificationFailed(
            f"{where}: transactions: expected {needed} different hashes, found {found}, {different} of them different"
        )
    return VerifiedBlock(
        number=number,
        block_hash=_hash_of(where, header),
        parent_hash=_word(where, "parent hash", header[_PARENT]),
        timestamp=int.from_bytes(header[_TIMESTAMP], "big"),
        transactions=evidence.transactions,
        logs=tuple(_logs(where, evidence)),
    )


def verify_chain(blocks: Iterable[BlockEvidence], parent_hash: bytes) -> tuple[VerifiedBlock, ...]:
    """Verify consecutive blocks: each names the one before it as its parent, the first one names `parent_hash`.

    Raises:
        VerificationFailed: as :func:`verify_block`, or the first link that does not hold.
    """
    verified: list[VerifiedBlock] = []
    expected = bytes(parent_hash)
    for evidence in blocks:
        block = verify_block(evidence)
        if block.parent_hash != expected:
            raise VerificationFailed(
                f"block {block.number}: parent hash: expected {expected.hex()}, found {block.parent_hash.hex()}"
            )
        expected = block.block_hash
        verified.append(block)
    return tuple(verified)


def hash_of_header(header_rlp: bytes) -> Digest:
    """A block's hash from its header, by the one rule of two that the header itself names.

    - QBFT (its mix hash is the BFT constant; Besu and clients that follow it): `extraData` is the RLP list
      [vanity, validators, vote, round, commit seals], and the block is hashed as if the round were 0 and there were no
      seals, because validators may hold the same block with different seals. The seals themselves are not checked.
    - All others, Clique with its seal at the end of `extraData` among them: keccak256 of the header as it is.

    Raises:
        VerificationFailed: no header, or one with the BFT constant whose `extraData` is none of QBFT's.
    """
    return _hash_of("header", _words("header", "header", header_rlp))


def _hash_of(where: str, header: list[bytes]) -> Digest:
    if len(header) > _MIX and header[_MIX] == _BFT_MIX:
        extra = _list(f"{where}, extra data", header[_EXTRA])
        match extra:
            case [bytes() as vanity, [*validators], [*vote], bytes(), [*_]] if len(vanity) == 32:
                unsealed = cast(bytes, rlp.encode([vanity, validators, vote, 0, []]))
                header = [*header[:_EXTRA], unsealed, *header[_EXTRA + 1 :]]
            case _:
                raise VerificationFailed(f"{where}: a BFT header whose extra data are not QBFT's five fields")
    return keccak256(cast(bytes, rlp.encode(header)))


def receipts_root(receipts_rlp: Sequence[bytes]) -> Digest:
    """The root of the trie that maps rlp(index) to each receipt; the empty trie's root for none."""
    tree = HexaryTrie({})
    for index, receipt in enumerate(receipts_rlp):
        tree[rlp.encode(index)] = receipt
    return Digest(tree.root_hash)


def encode_header(fields: Sequence[bytes | int]) -> bytes:
    """RLP of a header's fields in their order; integers without leading zeros."""
    return cast(bytes, rlp.encode(list(fields)))


def encode_receipt(
    kind: int, status: int, cumulative_gas: int, bloom: bytes, logs: Sequence[tuple[bytes, Sequence[bytes], bytes]]
) -> bytes:
    """A receipt as the receipts trie holds it.

    Args:
        kind: the transaction's type; 0 (legacy) has no type byte.
        status: 1 done, 0 failed.
        cumulative_gas: gas used in the block up to and with this transaction.
        bloom: the 256-byte filter over its logs.
        logs: (address, topics, data) in order.
    """
    body = [status, cumulative_gas, bloom, [[address, list(topics), data] for address, topics, data in logs]]
    encoded = cast(bytes, rlp.encode(body))
    return encoded if kind == 0 else bytes([kind]) + encoded


def _logs(where: str, evidence: BlockEvidence) -> Iterable[RawLog]:
    log_index = 0
    for index, (receipt, transaction) in enumerate(zip(evidence.receipts_rlp, evidence.transactions, strict=True)):
        place = f"{where}, receipt {index}"
        # EIP-2718: a first byte below 0x80 is a type, an RLP list begins at 0xc0.
        body = receipt[1:] if receipt[:1] and receipt[0] < 0x80 else receipt
        fields = _list(place, body)
        if len(fields) != 4 or not isinstance(fields[3], list):
            raise VerificationFailed(f"{place}: four fields with a list of logs expected")
        for entry in fields[3]:
            match entry:
                case [bytes() as address, [*topics], bytes() as data] if len(address) == 20 and len(topics) <= 4:
                    words = tuple(_word(place, "topic", topic) for topic in topics)
                    yield RawLog(address, words, data, transaction, log_index)
                case _:
                    raise VerificationFailed(f"{place}: log {log_index} is not (address, topics, data)")
            log_index += 1


def _list(where: str, data: bytes) -> list[object]:
    try:
        decoded = rlp.decode(data)
    except RLPException as error:
        raise VerificationFailed(f"{where}: not RLP: {error}") from None
    if not isinstance(decoded, list):
        raise VerificationFailed(f"{where}: an RLP list expected, found {len(decoded)} bytes")
    return decoded


def _words(where: str, what: str, data: bytes) -> list[bytes]:
    fields = _list(f"{where}, {what}", data)
    if not all(isinstance(field, bytes) for field in fields):
        raise VerificationFailed(f"{where}, {what}: holds a list where bytes belong")
    return cast(list[bytes], fields)


def _word(where: str, what: str, value: object) -> Digest:
    if not isinstance(value, bytes) or len(value) != 32:
        raise VerificationFailed(f"{where}: {what} is not 32 bytes")
    return Digest(value)
