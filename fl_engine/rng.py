"""koinon's own random numbers: the same stream on every machine, for everybody who knows the beacon.

`Stream(beacon, domain)` is Philox 4x64-10 (Salmon, Moraes, Dror, Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*,
SC 2011), a counter-based generator. Its key and the upper half of its counter are

    digest  = SHA-256("koinon.rng/1" || u32(len(beacon)) || beacon || u32(len(domain)) || domain)      little-endian
    key     = digest[0:16] as two u64,   counter = (0, 0, digest[16:24], digest[24:32]) as four u64

and the stream is the concatenation of the blocks for counter+1, counter+2, ... Only numpy's raw 64-bit output is used
(its bit streams are guaranteed stable, NEP 19; its distributions are not): every distribution below is our own.
`integers` and `permutation` use integer arithmetic only. `normal` uses log and cos, whose last bit may differ between
mathematics libraries: nothing that members must agree on may be drawn with it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import EngineError

_TAG: Final = b"koinon.rng/1"


class Stream:
    """A stream of random numbers named by (beacon bytes, domain string). Not a cryptographic generator."""

    def __init__(self, beacon: bytes, domain: str) -> None:
        name = domain.encode("utf-8")
        framed = struct.pack("<I", len(beacon)) + beacon + struct.pack("<I", len(name)) + name
        words = struct.unpack("<4Q", hashlib.sha256(_TAG + framed).digest())
        self._philox = np.random.Philox(
            key=np.array(words[:2], dtype=np.uint64), counter=np.array((0, 0, *words[2:]), dtype=np.uint64)
        )

    def raw(self, count: int) -> NDArray[np.uint64]:
        """The next `count` numbers, uint64 [count]."""
        return np.asarray(self._philox.random_raw(count), dtype=np.uint64)

    def below(self, bound: int) -> int:
        """One integer uniform on 0..bound-1, 1 <= bound <= 2^63, by rejection (no modulo bias)."""
        if not 1 <= bound <= 2**63:
            raise EngineError(f"bound is {bound}, expected 1..2^63")
        # The largest multiple of bound within 2^64: values at or above it would favour small remainders.
        accepted = 2**64 - 2**64 % bound
        while True:
            value = int(self._philox.random_raw())
            if value < accepted:
                return value % bound

    def integers(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        """int64 [count], each uniform on low..high-1 by rejection; high - low at most 2^63."""
        bound = high - low
        if not 1 <= bound <= 2**63:
            raise EngineError(f"integers from {low} up to {high}: expected 1 to 2^63 values")
        accepted = 2**64 - 2**64 % bound
        chunks: list[NDArray[np.uint64]] = []
        missing = count
        while missing > 0:
            drawn = self.raw(missing)
            if accepted < 2**64:
                drawn = drawn[drawn < np.uint64(accepted)]
            chunks.append(drawn)
            missing -= len(drawn)
        values = np.concatenate(chunks) if chunks else np.empty(0, dtype=np.uint64)
        return (values % np.uint64(bound)).astype(np.int64) + low

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A uniform permutation of 0..count-1, int64 [count], by Fisher-Yates from the top."""
        order = list(range(count))
        for i in range(count - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return np.array(order, dtype=np.int64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """float64 [count] uniform on (0, 1): (the upper 53 bits + 1/2) * 2^-53. Never 0, never 1."""
        return ((self.raw(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float64]:
        """float64 [count] standard normal by Box and Muller (1958). Last bit depends on the mathematics library."""
        pairs = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(pairs)))
        angle = 2.0 * np.pi * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
