"""Frames between a node and its training worker, over a pair of pipes.

    4 bytes    length of the header, big-endian, 2..1048576
    header     a JSON object in UTF-8; its key "buffers" lists the byte lengths of what follows: {"buffers": [n1, n2]}
    n1 bytes   raw buffer 1
    n2 bytes   raw buffer 2 ...

Arrays travel as raw little-endian numbers in row-major order. Nothing is pickled. A frame that is larger than allowed,
cut short or not as described is a FrameError; the end of the stream between two frames is not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import IO, Any, Final, TypeAlias

from fl_engine.errors import FrameError

Frame: TypeAlias = tuple[dict[str, Any], list[bytes]]

MAX_HEADER_BYTES: Final = 2**20
MAX_BUFFERS: Final = 64
MAX_FRAME_BYTES: Final = 2**33
"""Cap on all buffers of a frame together (8 GiB): both ends belong to one node, this only stops nonsense."""


def write_frame(stream: IO[bytes], header: dict[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> None:
    """Write one frame and flush. Raises FrameError where it would not be readable, OSError as the pipe does."""
    lengths = [len(memoryview(buffer).cast("B")) if len(buffer) else 0 for buffer in buffers]
    encoded = json.dumps({**header, "buffers": lengths}, allow_nan=False).encode("utf-8")
    if len(encoded) > MAX_HEADER_BYTES:
        raise FrameError(f"header of {len(encoded)} bytes, at most {MAX_HEADER_BYTES} allowed")
    stream.write(struct.pack(">I", len(encoded)) + encoded)
    for buffer in buffers:
        stream.write(buffer)
    stream.flush()


def read_frame(stream: IO[bytes], max_bytes: int = MAX_FRAME_BYTES) -> Frame | None:
    """Read one frame; None at the end of the stream. `max_bytes` caps the buffers together."""
    prefix = _read(stream, 4)
    if not prefix:
        return None
    if len(prefix) < 4:
        raise FrameError("stream ends within the header length")
    (length,) = struct.unpack(">I", prefix)
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise FrameError(f"header of {length} bytes, 2..{MAX_HEADER_BYTES} allowed")
    encoded = _read(stream, length)
    if len(encoded) < length:
        raise FrameError("stream ends within the header")
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as fault:
        raise FrameError(f"header is not JSON: {fault}") from fault
    lengths = header.pop("buffers", None) if isinstance(header, dict) else None
    if not isinstance(lengths, list) or len(lengths) > MAX_BUFFERS:
        raise FrameError(f"header has no list of at most {MAX_BUFFERS} buffer lengths")
    if not all(type(n) is int and n >= 0 for n in lengths) or sum(lengths) > max_bytes:
        raise FrameError(f"buffer lengths {lengths[:8]} are not whole numbers of at most {max_bytes} together")
    buffers = []
    for n in lengths:
        buffer = _read(stream, n)
        if len(buffer) < n:
            raise FrameError("stream ends within a buffer")
        buffers.append(buffer)
    return header, buffers


def _read(stream: IO[bytes], count: int) -> bytes:
    """Up to `count` bytes, fewer only at the end; in chunks, so that a lie about a length costs no memory."""
    chunks: list[bytes] = []
    while count > 0 and (chunk := stream.read(min(count, 2**20))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
