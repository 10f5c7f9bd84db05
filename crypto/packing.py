"""Model integers in as few bytes as they need: lossless, one encoding, bounded before anything is unpacked.

Theory. The integers of an update lie on a grid that is fine enough for the smallest step and wide enough for the
largest, so most of them use a quarter or half of their 32 bits. Whole bytes, block by block, keep what matters of an
entropy coder (Deflate saves a little more) at the speed of a copy: packing must cost less than the bytes it saves do on
a fast line. What may live here: that encoding. Layout: FORMATS.md, "Packed integers".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from crypto.errors import EncodingError

__all__ = ["BLOCK", "pack", "packed_bound", "unpack"]

BLOCK: Final = 256
"""Integers that share a width. Half as many save a hundredth more, and cost twice the time."""

_WIDTHS: Final = (1, 2, 3, 4)


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def packed_bound(count: int) -> int:
    """The most bytes that `count` integers can take."""
    return _blocks(count) + 4 * count


def _widths_of(table: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(blocks, BLOCK) integers -> (blocks,) bytes that the widest of each needs in two's complement, 0 for zeros."""
    low, high = table.min(axis=1, initial=0), table.max(axis=1, initial=0)
    need = np.maximum(high, ~low)
    widths: NDArray[np.uint8] = 1 + (need >= 1 << 7).astype(np.uint8) + (need >= 1 << 15) + (need >= 1 << 23)
    widths[(low == 0) & (high == 0)] = 0
    return widths


def pack(values: bytes) -> bytes:
    """Little-endian int32 -> their packed bytes."""
    count = len(values) // 4
    table = np.zeros((_blocks(count), BLOCK), "<i4")
    table.reshape(-1)[:count] = np.frombuffer(values, "<i4")
    widths = _widths_of(table)
    parts = [widths.tobytes()]
    for width in _WIDTHS:
        group = _narrowed(table[widths == width], width)
        parts.append(group[: len(group) - width * _short(widths, width, count)])
    return b"".join(parts)


def _narrowed(integers: NDArray[np.int32], width: int) -> bytes:
    """Integers that fit into `width` bytes each, in so many."""
    if width == 3:
        return integers.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return integers.astype(f"<i{width}").tobytes()


def _widened(packed: bytes, at: int, count: int, width: int) -> NDArray[np.int32]:
    """`count` integers of `width` bytes each, from byte `at` on."""
    if width != 3:
        return np.frombuffer(packed, f"<i{width}", count, at).astype("<i4")
    octets = np.zeros((count, 4), np.uint8)
    octets[:, 1:] = np.frombuffer(packed, np.uint8, 3 * count, at).reshape(-1, 3)
    found: NDArray[np.int32] = octets.view("<i4")[:, 0] >> 8  # from the top of the word, so that the sign comes along
    return found


def unpack(packed: bytes, count: int) -> bytes:
    """The `count` little-endian int32 in `packed`; takes some 9 bytes of memory an integer.

    Raises:
        EncodingError: `packed` is not the one encoding of so many integers; the field is `widths` or `values`.
    """
    blocks = _blocks(count)
    widths = np.frombuffer(packed, np.uint8, min(blocks, len(packed)))
    if len(widths) < blocks or (blocks and widths.max() > 4):
        raise EncodingError("widths", f"{blocks} widths of 0 to 4 bytes expected")
    expected = blocks + BLOCK * int(widths.sum(dtype=np.int64)) - sum(w * _short(widths, w, count) for w in _WIDTHS)
    if len(packed) != expected:
        raise EncodingError("values", f"{expected} bytes expected, {len(packed)} given")
    table = np.zeros((blocks, BLOCK), "<i4")
    at = blocks
    for width in _WIDTHS:
        places = np.flatnonzero(widths == width)
        missing = _short(widths, width, count)
        size = BLOCK * len(places) - missing
        group = _widened(packed, at, size, width)
        table[places] = np.pad(group, (0, missing)).reshape(-1, BLOCK) if missing else group.reshape(-1, BLOCK)
        at += size * width
    if not np.array_equal(_widths_of(table), widths):
        raise EncodingError("widths", "a block is wider than its integers need")
    return table.reshape(-1)[:count].tobytes()


def _short(widths: NDArray[np.uint8], width: int, count: int) -> int:
    """Integers that the last block lacks, if it is of this width: it is the last of its group too."""
    return -count % BLOCK if len(widths) and widths[-1] == width else 0
