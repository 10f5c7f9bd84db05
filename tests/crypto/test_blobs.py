from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import blobs, merkle
from crypto.blobs import AnchorProof, SetEntry, SetPlain, UpdatePlain
from crypto.commitments import ConsentOpening
from crypto.digest import Digest
from crypto.errors import EncodingError, RootMismatch, UnsortedKeys

digests = st.binary(min_size=32, max_size=32).map(Digest)
members = st.integers(0, 65535)


@st.composite
def anchors(draw: Any) -> AnchorProof:
    path = tuple(draw(st.lists(digests, min_size=5, max_size=8)))
    return AnchorProof(draw(digests), draw(st.integers(0, 2 ** len(path) - 1)), path)


entries = st.builds(
    SetEntry, digests, digests, st.integers(1, 3), st.integers(1, 2**32 - 1), digests,
    st.binary(min_size=20, max_size=20), digests, digests, digests, st.none() | anchors(),
)  # fmt: skip
sets = st.builds(
    SetPlain, digests, members, digests,
    st.lists(entries, max_size=5, unique_by=lambda e: e.leaf_key).map(
        lambda found: tuple(sorted(found, key=lambda e: e.leaf_key))
    ),
)  # fmt: skip
updates = st.builds(
    UpdatePlain, digests, members, st.integers(0, 2**64 - 1), digests, digests, st.binary(max_size=50),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20).map(
        lambda v: b"".join(x.to_bytes(4, "little", signed=True) for x in v)
    ),
)  # fmt: skip


@settings(deadline=None)
@given(updates)
def test_an_update_comes_back_and_has_one_encoding(update: UpdatePlain) -> None:
    data = blobs.encode_update(update)
    assert blobs.decode_update(data, None) == update
    assert blobs.encode_update(blobs.decode_update(data, None)) == data


@settings(deadline=None)
@given(sets)
def test_a_set_comes_back_and_has_one_encoding(plain: SetPlain) -> None:
    data = blobs.encode_set(plain)
    assert blobs.decode_set(data) == plain
    assert blobs.encode_set(blobs.decode_set(data)) == data
    tree = blobs.dataset_map(plain.entries)
    assert tree.root == blobs.dataset_root(plain.entries)
    for entry in plain.entries:
        merkle.verify_member(tree.root, entry.leaf_key, entry.value_hash, tree.prove(entry.leaf_key))


@settings(deadline=None)
@given(sets | updates, st.data())
def test_changed_bytes_are_refused_or_mean_something_else(plain: SetPlain | UpdatePlain, data: st.DataObject) -> None:
    encode: Any = blobs.encode_set if isinstance(plain, SetPlain) else blobs.encode_update
    decode: Any = blobs.decode_set if isinstance(plain, SetPlain) else partial(blobs.decode_update, count=None)
    good = encode(plain)
    at = data.draw(st.integers(0, len(good) - 1))
    changed = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    for bytes_ in (changed, good[:at], good + good[at:]):
        try:
            found = decode(bytes_)
        except EncodingError:
            continue
        assert found != plain
        assert encode(found) == bytes_


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_after_the_magic_is_an_encoding_error_or_a_value(garbage: bytes) -> None:
    for magic, decode in (
        (blobs.SET_MAGIC, blobs.decode_set),
        (blobs.UPDATE_MAGIC, partial(blobs.decode_update, count=None)),
    ):
        with pytest.raises(EncodingError):
            decode(garbage)
        try:
            decode(magic + garbage)
        except EncodingError:
            continue


def entry(opening: ConsentOpening) -> SetEntry:
    return SetEntry(
        opening.leaf_key, Digest(bytes(32)), blobs.ROLE_TRAIN, 1, opening.consent_id, opening.holder,
        opening.holder_salt, opening.doc_commit, Digest(bytes(32)), None,
    )  # fmt: skip


def test_an_entry_with_another_leaf_key_does_not_open_its_consent() -> None:
    one, two = (ConsentOpening.fresh(bytes(20), bytes(32)) for _ in range(2))
    blobs.check_entry(entry(one))
    forged = SetEntry(*(getattr(entry(one), name) for name in SetEntry.__slots__))
    object.__setattr__(forged, "leaf_key", two.leaf_key)
    with pytest.raises(RootMismatch):
        blobs.check_entry(forged)


def test_a_set_is_made_of_sorted_entries_alone() -> None:
    found = sorted((entry(ConsentOpening.fresh(bytes(20), bytes(32))) for _ in range(2)), key=lambda e: e.leaf_key)
    SetPlain(Digest(bytes(32)), 0, Digest(bytes(32)), tuple(found))
    for wrong in (found[::-1], [found[0], found[0]]):
        with pytest.raises(UnsortedKeys):
            SetPlain(Digest(bytes(32)), 0, Digest(bytes(32)), tuple(wrong))
        with pytest.raises(UnsortedKeys):
            blobs.dataset_root(wrong)


def test_a_repr_shows_no_entry_and_no_integer() -> None:
    one = entry(ConsentOpening.fresh(bytes(20), bytes(32)))
    plain = SetPlain(Digest(bytes(32)), 0, Digest(bytes(32)), (one,))
    assert one.consent_id.hex() not in repr(plain)
    assert "values" not in repr(
        UpdatePlain(Digest(bytes(32)), 0, 1, Digest(bytes(32)), Digest(bytes(32)), b"", bytes(8))
    )


def test_what_no_reader_would_take_cannot_be_made() -> None:
    word = Digest(bytes(32))
    with pytest.raises(EncodingError, match="metrics"):
        UpdatePlain(word, 0, 1, word, word, bytes(blobs.MAX_METRICS_BYTES + 1), b"")
    with pytest.raises(EncodingError, match="values"):
        UpdatePlain(word, 0, 1, word, word, b"", bytes(7))
    with pytest.raises(EncodingError, match="member"):
        UpdatePlain(word, 1 << 16, 1, word, word, b"", b"")
    for index, steps in ((32, 5), (-1, 5), (0, 4), (0, 21)):
        with pytest.raises(EncodingError):
            AnchorProof(word, index, (word,) * steps)
    for role, records, holder in ((0, 1, 20), (4, 1, 20), (1, 0, 20), (1, 1 << 32, 20), (1, 1, 19)):
        with pytest.raises(EncodingError):
            SetEntry(word, word, role, records, word, bytes(holder), word, word, word, None)
