"""Parameter layouts and the canonical bytes of a model.

A model is a flat vector of P int32 numbers on the study's grid; a `ParamSpec` says which named tensor each stretch of
it is. The canonical bytes are a pure function of (names, shapes, integers), so their hash names the model.

`koinon.model/1`, all numbers little-endian, no padding:

    16 bytes   "koinon.model/1" and two zero bytes
    u32        T, number of tensors, 1..4096
    T times:   u8   length of the name, 1..128
               ...  the name, ASCII, [A-Za-z_][A-Za-z0-9_.]*
               u8   number of dimensions, 0..8
               u32  each dimension, 1..2^31-1
    u64        P, must equal the sum of the products of the dimensions
    P * i32    the integers, tensors in the order above, each row-major (C order)

Nothing may follow. A reader refuses any other input; it allocates nothing in proportion to a number it has not first
compared with the bytes that are really there.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import ModelEncodingError, ShapeMismatch

Ints: TypeAlias = NDArray[np.int32]
"""A model or an update: a contiguous int32 vector of shape [P] on the study's grid."""

Shape: TypeAlias = tuple[int, ...]

MAGIC: Final = b"koinon.model/1\x00\x00"
MAX_TENSORS: Final = 4096
MAX_NAME: Final = 128
MAX_DIMS: Final = 8
MAX_DIM: Final = 2**31 - 1
MAX_PARAMETERS: Final = 2**28
"""Default cap on P: 1 GiB of int32, far above any model that hospitals exchange in full."""

BLOCK: Final = 1 << 15
"""Numbers that a pass over a model takes at once: 256 KiB of int64, which stays in the cache."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


@dataclass(frozen=True)
class ParamSpec:
    """Ordered names and shapes of a model's tensors. Hashable; equal specs have equal `to_bytes()`."""

    tensors: tuple[tuple[str, Shape], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.tensors) <= MAX_TENSORS:
            raise ShapeMismatch("number of tensors", f"1..{MAX_TENSORS}", len(self.tensors))
        seen: set[str] = set()
        for name, shape in self.tensors:
            if not (1 <= len(name) <= MAX_NAME and _NAME.match(name)):
                raise ShapeMismatch("tensor name", f"[A-Za-z_][A-Za-z0-9_.]*, at most {MAX_NAME}", repr(name[:160]))
            if name in seen:
                raise ShapeMismatch("tensor names", "each name once", f"{name!r} twice")
            seen.add(name)
            if len(shape) > MAX_DIMS or any(not 1 <= d <= MAX_DIM for d in shape):
                raise ShapeMismatch(f"shape of {name}", f"at most {MAX_DIMS} dimensions of 1..{MAX_DIM}", shape)

    @property
    def size(self) -> int:
        """P, the total number of parameters."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    def to_bytes(self) -> bytes:
        """The layout part of the canonical bytes: magic, tensor count, names and shapes."""
        parts = [MAGIC, struct.pack("<I", len(self.tensors))]
        for name, shape in self.tensors:
            encoded = name.encode("ascii")
            parts.append(struct.pack("<B", len(encoded)) + encoded)
            parts.append(struct.pack(f"<B{len(shape)}I", len(shape), *shape))
        return b"".join(parts)

    def check(self, ints: NDArray[Any]) -> Ints:
        """Return `ints` as a model vector, or raise ShapeMismatch unless it is int32 of shape [P]."""
        if ints.dtype != np.int32:
            raise ShapeMismatch("integer type of a model", "int32", ints.dtype)
        if ints.shape != (self.size,):
            raise ShapeMismatch("shape of a model vector", (self.size,), ints.shape)
        return np.ascontiguousarray(ints)

    def flatten(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Named arrays -> one flat vector [P] of their common type, in the order of this spec."""
        if set(arrays) != {name for name, _ in self.tensors}:
            raise ShapeMismatch("tensor names", sorted(name for name, _ in self.tensors), sorted(arrays))
        for name, shape in self.tensors:
            if arrays[name].shape != shape:
                raise ShapeMismatch(f"shape of {name}", shape, arrays[name].shape)
        return np.concatenate([np.ascontiguousarray(arrays[name]).reshape(-1) for name, _ in self.tensors])

    def unflatten(self, vector: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """A flat vector [P] -> named arrays (views of `vector`), in the order of this spec."""
        if vector.shape != (self.size,):
            raise ShapeMismatch("shape of a model vector", (self.size,), vector.shape)
        arrays: dict[str, NDArray[Any]] = {}
        start = 0
        for name, shape in self.tensors:
            end = start + math.prod(shape)
            arrays[name] = vector[start:end].reshape(shape)
            start = end
        return arrays


def blocks(size: int) -> Iterator[slice]:
    """Slices that cover 0..size-1: a pass block by block needs no temporary as long as the model."""
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))


def encode_model(spec: ParamSpec, ints: Ints) -> bytes:
    """The canonical `koinon.model/1` bytes of (spec, ints int32 [P]). Raises ShapeMismatch."""
    little = spec.check(ints).astype("<i4", copy=False)
    return b"".join((spec.to_bytes(), struct.pack("<Q", spec.size), little.data))


def model_length(spec: ParamSpec) -> int:
    """Bytes of every model of this layout."""
    return len(spec.to_bytes()) + 8 + 4 * spec.size


def decode_model(
    data: bytes, expected: ParamSpec | None = None, max_parameters: int = MAX_PARAMETERS
) -> tuple[ParamSpec, Ints]:
    """Canonical bytes -> (spec, int32 [P]: the bytes themselves, read-only), or ModelEncodingError.

    Accepts exactly what `encode_model` writes. With `expected`, a model of any other layout is a ShapeMismatch.
    """
    spec, offset = _decode_spec(data)
    (declared,) = _read(data, offset, "<Q", "parameter count")
    if declared != spec.size:
        raise ModelEncodingError(f"{declared} parameters declared, the shapes hold {spec.size}", offset)
    if declared > max_parameters:
        raise ModelEncodingError(f"{declared} parameters, at most {max_parameters} allowed", offset)
    offset += 8
    if len(data) != offset + 4 * declared:
        raise ModelEncodingError(f"{len(data) - offset} bytes of integers, expected {4 * declared}", offset)
    if expected is not None and spec != expected:
        raise ShapeMismatch("layout of the model", expected.tensors, spec.tensors)
    return spec, view_ints(memoryview(data)[offset:], declared)


def encode_ints(ints: Ints) -> bytes:
    """int32 [P] -> 4*P little-endian bytes."""
    return ints.astype("<i4", copy=False).tobytes()


def decode_ints(data: bytes | memoryview, size: int) -> Ints:
    """4*size little-endian bytes -> a writable int32 [size]. Raises ModelEncodingError on any other length."""
    return view_ints(data, size).astype(np.int32)


def view_ints(data: bytes | memoryview, size: int) -> Ints:
    """As `decode_ints`, but the bytes themselves, read-only, where they are int32 of this machine."""
    if len(data) != 4 * size:
        raise ModelEncodingError(f"{len(data)} bytes of integers, expected {4 * size}", 0)
    return np.frombuffer(data, dtype="<i4").astype(np.int32, copy=False)


def _decode_spec(data: bytes) -> tuple[ParamSpec, int]:
    if data[: len(MAGIC)] != MAGIC:
        raise ModelEncodingError(f"does not start with {MAGIC!r}", 0)
    offset = len(MAGIC)
    (count,) = _read(data, offset, "<I", "tensor count")
    if not 1 <= count <= MAX_TENSORS:
        raise ModelEncodingError(f"{count} tensors, 1..{MAX_TENSORS} allowed", offset)
    offset += 4
    tensors: list[tuple[str, Shape]] = []
    for _ in range(count):
        (length,) = _read(data, offset, "<B", "name length")
        name = data[offset + 1 : offset + 1 + length]
        if len(name) != length:
            raise ModelEncodingError("ends within a tensor name", offset)
        if not name.isascii():
            raise ModelEncodingError("a tensor name is not ASCII", offset)
        offset += 1 + length
        (dims,) = _read(data, offset, "<B", "dimension count")
        if dims > MAX_DIMS:
            raise ModelEncodingError(f"{dims} dimensions, at most {MAX_DIMS} allowed", offset)
        shape = _read(data, offset + 1, f"<{dims}I", "dimensions")
        offset += 1 + 4 * dims
        tensors.append((name.decode("ascii"), tuple(shape)))
    try:
        return ParamSpec(tuple(tensors)), offset
    except ShapeMismatch as fault:
        raise ModelEncodingError(str(fault), len(MAGIC)) from fault


def _read(data: bytes, offset: int, layout: str, what: str) -> tuple[int, ...]:
    if offset + struct.calcsize(layout) > len(data):
        raise ModelEncodingError(f"ends within the {what}", offset)
    return struct.unpack_from(layout, data, offset)
