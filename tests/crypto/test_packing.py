"""Rules of `crypto/packing.py`: lossless, never longer than its bound, one encoding, and nothing else is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import EncodingError
from crypto.packing import BLOCK, pack, packed_bound, unpack

EDGES = [0, 1, -1, 127, 128, -128, -129, 32767, 32768, -32768, -32769, 2**23 - 1, 2**23, -(2**23), -(2**23) - 1]
EDGES += [2**31 - 1, -(2**31)]
blocks = st.tuples(st.sampled_from(EDGES), st.integers(0, 2 * BLOCK)).map(lambda drawn: [drawn[0]] * drawn[1])
integers = st.lists(blocks | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8), max_size=5).map(
    lambda parts: np.array([value for part in parts for value in part], "<i4").tobytes()
)


@given(integers)
def test_what_was_packed_comes_back_and_keeps_to_its_bound(values: bytes) -> None:
    packed = pack(values)
    assert unpack(packed, len(values) // 4) == values
    assert len(packed) <= packed_bound(len(values) // 4)


@given(integers, st.data())
def test_changed_bytes_are_refused_or_are_the_encoding_of_other_integers(values: bytes, data: st.DataObject) -> None:
    packed, count = pack(values), len(values) // 4
    at = data.draw(st.integers(0, len(packed)))
    for other in (packed[:at], packed[:at] + b"\x01" + packed[at + 1 :], packed + packed[at:] + b"\x00"):
        if other == packed:
            continue
        try:
            found = unpack(other, count)
        except EncodingError:
            continue
        assert found != values
        assert pack(found) == other


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, BLOCK + 1])
def test_a_block_takes_the_fewest_bytes_that_hold_its_widest_integer(value: int, at: int) -> None:
    values = np.zeros(BLOCK + 2, "<i4")
    values[at] = value
    width = 0 if value == 0 else next(w for w in range(1, 5) if -(2 ** (8 * w - 1)) <= value < 2 ** (8 * w - 1))
    packed = pack(values.tobytes())
    assert packed[at // BLOCK] == width
    assert len(packed) == 2 + width * (BLOCK if at < BLOCK else 2)


def test_of_nothing_there_is_nothing() -> None:
    assert pack(b"") == b""
    assert unpack(b"", 0) == b""
    with pytest.raises(EncodingError, match="values"):
        unpack(b"\x00", 0)


def test_a_packed_zero_block_is_a_byte() -> None:
    assert pack(bytes(4 * 10 * BLOCK)) == bytes(10)
