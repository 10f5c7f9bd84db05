"""The generator: the published algorithm, fixed vectors, and unbiased distributions."""

import hashlib
import struct

import numpy as np
import pytest

from fl_engine.errors import EngineError
from fl_engine.rng import Stream

BEACON = bytes(range(32))
MASK = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x64-10 as printed in the paper, in Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(second >> 64) ^ c[1] ^ k[0], second & MASK, (first >> 64) ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def test_the_stream_is_philox_keyed_by_sha256_of_beacon_and_domain():
    framed = b"koinon.rng/1" + struct.pack("<I", 32) + BEACON + struct.pack("<I", 4) + b"test"
    words = struct.unpack("<4Q", hashlib.sha256(framed).digest())
    expected = [word for block in (1, 2, 3) for word in philox([block, 0, words[2], words[3]], [words[0], words[1]])]
    assert Stream(BEACON, "test").raw(12).tolist() == expected


def test_vectors():
    assert Stream(b"", "").raw(3).tolist() == [7221695704988662729, 14301183229118684676, 9890485323837051923]
    assert Stream(BEACON, "p").permutation(10).tolist() == [6, 2, 0, 5, 1, 7, 8, 4, 9, 3]
    assert Stream(BEACON, "i").integers(-5, 5, 8).tolist() == [3, -4, -4, -5, 2, 0, 3, -2]
    assert Stream(BEACON, "n").normal(2).round(12).tolist() == [-0.587810527378, 0.247181083687]


def test_reading_in_pieces_gives_the_same_stream():
    pieces = Stream(BEACON, "x")
    assert [*pieces.raw(3), *pieces.raw(5)] == Stream(BEACON, "x").raw(8).tolist()


def test_another_beacon_or_domain_is_another_stream():
    streams = [Stream(BEACON, "a"), Stream(BEACON, "b"), Stream(BEACON[:-1], "a"), Stream(BEACON[:-1], "\x1fa")]
    assert len({tuple(stream.raw(4).tolist()) for stream in streams}) == 4


@pytest.mark.parametrize("count", [0, 1, 2, 257])
def test_a_permutation_holds_every_index_once(count):
    assert sorted(Stream(BEACON, "p").permutation(count).tolist()) == list(range(count))


def test_all_permutations_of_three_are_about_equally_frequent():
    stream = Stream(BEACON, "six")
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(stream.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(850 < n < 1150 for n in counts.values())


def test_integers_stay_in_range_and_use_all_of_it():
    drawn = Stream(BEACON, "r").integers(-3, 4, 2000)
    assert set(drawn.tolist()) == set(range(-3, 4))


def test_the_largest_bounds_work_and_larger_ones_are_refused():
    assert 0 <= Stream(BEACON, "b").below(2**63) < 2**63
    assert Stream(BEACON, "b").integers(-(2**62), 2**62, 3).dtype == np.int64
    for bound in (0, -1, 2**63 + 1):
        with pytest.raises(EngineError):
            Stream(BEACON, "b").below(bound)
        with pytest.raises(EngineError):
            Stream(BEACON, "b").integers(0, bound, 1)


def test_uniforms_and_normals_have_the_moments_they_should():
    uniform = Stream(BEACON, "u").uniform(100_001)
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005
    normal = Stream(BEACON, "n").normal(100_001)
    assert len(normal) == 100_001
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
