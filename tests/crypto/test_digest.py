from __future__ import annotations

import hashlib

import pytest
from eth_abi import encode
from hypothesis import given
from hypothesis import strategies as st

from crypto.digest import CHUNK_BYTES, ContentMap, Digest, accumulate, content_root, hash_words, keccak256, tag
from crypto.errors import EncodingError, RootMismatch

words = st.lists(
    st.one_of(
        st.tuples(st.just("bytes32"), st.binary(min_size=32, max_size=32)),
        st.tuples(st.just("uint256"), st.integers(0, 2**256 - 1)),
        st.tuples(st.just("address"), st.binary(min_size=20, max_size=20)),
    ),
    max_size=6,
)


@given(words)
def test_hash_words_is_abi_encode(typed: list[tuple[str, int | bytes]]) -> None:
    values = [("0x" + v.hex()) if t == "address" and isinstance(v, bytes) else v for t, v in typed]
    expected = keccak256(encode(["bytes32", *(t for t, _ in typed)], [tag("doc"), *values]))
    assert hash_words("doc", *(v for _, v in typed)) == expected


@pytest.mark.parametrize("word", [-1, 2**256, b"", bytes(31), bytes(33), bytes(21)])
def test_a_word_of_another_width_is_refused(word: int | bytes) -> None:
    with pytest.raises(EncodingError):
        hash_words("doc", word)


def test_a_digest_has_32_bytes_and_equals_plain_bytes() -> None:
    assert Digest(bytes(32)) == bytes(32)
    assert Digest.from_hex("0x" + "ab" * 32).hex() == "ab" * 32
    for bad in (bytes(31), bytes(33), b""):
        with pytest.raises(EncodingError):
            Digest(bad)
    for text in ("", "AB" * 32, "zz" * 32, "ab" * 31, " " + "ab" * 32):
        with pytest.raises(EncodingError):
            Digest.from_hex(text)


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_content_root_is_the_hash_of_the_chunk_hashes(length: int) -> None:
    data = bytes(length)
    chunks = [data[i : i + CHUNK_BYTES] for i in range(0, length, CHUNK_BYTES)]
    joined = b"".join(hashlib.sha256(c).digest() for c in chunks)
    assert content_root("model", data) == hash_words("model", length, hashlib.sha256(joined).digest())
    content = ContentMap.of(data)
    assert ContentMap.from_bytes(length, content.to_bytes()) == content
    for i, chunk in enumerate(chunks):
        content.verify_chunk(i, chunk)


def test_a_chunk_of_another_place_is_refused() -> None:
    data = bytes(CHUNK_BYTES) + b"\1" * CHUNK_BYTES
    content = ContentMap.of(data)
    with pytest.raises(RootMismatch) as caught:
        content.verify_chunk(0, data[CHUNK_BYTES:])
    assert caught.value.expected == content.digests[0]
    with pytest.raises(EncodingError):
        ContentMap.from_bytes(len(data), content.to_bytes()[:-1])


def test_kinds_separate_equal_content() -> None:
    assert len({content_root(kind, b"x") for kind in ("cipher", "plain", "model", "spec")}) == 4


def test_the_accumulator_is_abi_encode_of_two_words() -> None:
    assert accumulate(bytes(32), b"\1" * 32) == keccak256(encode(["bytes32", "bytes32"], [bytes(32), b"\1" * 32]))
