from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import merkle
from crypto.digest import ZERO, Digest, hash_words
from crypto.errors import CryptoError, EncodingError, UnsortedKeys, VerificationError
from crypto.merkle import AnchorTree, Inclusion, MerkleMap

digests = st.binary(min_size=32, max_size=32)
maps = st.dictionaries(digests, digests, max_size=40)


def top_by_definition(leaves: list[Digest]) -> Digest:
    """RFC 9162 section 2.1.1, as written: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hash_words("map-node", top_by_definition(leaves[:split]), top_by_definition(leaves[split:]))


@given(maps)
def test_the_root_is_rfc_9162s_with_the_count_bound(items: dict[bytes, bytes]) -> None:
    leaves = [hash_words("map-leaf", key, items[key]) for key in sorted(items)]
    top = top_by_definition(leaves) if leaves else ZERO
    assert MerkleMap.sorting(items.items()).root == hash_words("map", len(items), top)


@settings(deadline=None)
@given(maps)
def test_every_key_is_proved_and_no_other_value_is(items: dict[bytes, bytes]) -> None:
    tree = MerkleMap.sorting(items.items())
    for key, value in items.items():
        proof = tree.prove(key)
        merkle.verify_member(tree.root, key, value, proof)
        assert tree.value_hash(key) == value
        with pytest.raises(VerificationError):
            merkle.verify_member(tree.root, key, bytes([value[0] ^ 1]) + value[1:], proof)
        with pytest.raises(KeyError):
            tree.prove_absent(key)
        if len(items) > 1:
            other = Inclusion((proof.index + 1) % proof.count, proof.count, proof.path)
            with pytest.raises(VerificationError):
                merkle.verify_member(tree.root, key, value, other)


def nearby(key: bytes) -> list[bytes]:
    """The keys directly before and after, where there are any."""
    number = int.from_bytes(key, "big")
    return [n.to_bytes(32, "big") for n in (number - 1, number + 1) if 0 <= n < 1 << 256]


@settings(deadline=None)
@given(maps, digests)
def test_every_absent_key_is_proved_absent_and_no_present_one(items: dict[bytes, bytes], stranger: bytes) -> None:
    tree = MerkleMap.sorting(items.items())
    candidates = [stranger, bytes(32), b"\xff" * 32, *(n for key in items for n in nearby(key))]
    for absent in candidates:
        if absent in items:
            continue
        proof = tree.prove_absent(absent)
        merkle.verify_absent(tree.root, absent, proof)
        for present in items:
            with pytest.raises(VerificationError):
                merkle.verify_absent(tree.root, present, proof)
        with pytest.raises(KeyError):
            tree.prove(absent)


@given(maps, st.data())
def test_a_path_of_another_length_is_refused(items: dict[bytes, bytes], data: st.DataObject) -> None:
    items = items or {bytes(32): bytes(32)}
    tree = MerkleMap.sorting(items.items())
    key = data.draw(st.sampled_from(sorted(items)))
    proof = tree.prove(key)
    for path in (*([proof.path[:-1]] if proof.path else []), (*proof.path, ZERO)):
        with pytest.raises(VerificationError):
            merkle.verify_member(tree.root, key, items[key], Inclusion(proof.index, proof.count, path))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_no_proof_of_one_count_holds_for_another(count: int, claimed: int, data: st.DataObject) -> None:
    if count == claimed:
        return
    items = {Digest(i.to_bytes(32, "big")): ZERO for i in range(count)}
    tree = MerkleMap(items.items())
    at = data.draw(st.integers(0, min(count, claimed) - 1))
    key = Digest(at.to_bytes(32, "big"))
    with pytest.raises(VerificationError):
        merkle.verify_member(tree.root, key, ZERO, Inclusion(at, claimed, tree.prove(key).path))


@given(st.lists(digests, min_size=2, max_size=8, unique=True), st.data())
def test_only_strictly_increasing_keys_make_a_map(keys: list[bytes], data: st.DataObject) -> None:
    ordered = sorted(keys)
    MerkleMap((key, ZERO) for key in ordered)
    at = data.draw(st.integers(1, len(keys) - 1))
    swapped = [*ordered[: at - 1], ordered[at], ordered[at - 1], *ordered[at + 1 :]]
    for wrong in (swapped, [*ordered[:at], ordered[at - 1], *ordered[at:]]):
        with pytest.raises(UnsortedKeys) as caught:
            MerkleMap((key, ZERO) for key in wrong)
        assert caught.value.index == at


def test_a_repeated_key_is_refused_even_when_sorting() -> None:
    with pytest.raises(UnsortedKeys):
        MerkleMap.sorting([(bytes(32), ZERO), (bytes(32), ZERO)])


def test_the_requests_root_does_not_depend_on_order() -> None:
    ids = [Digest(bytes([i]) * 32) for i in (3, 1, 2)]
    assert merkle.requests_root(ids) == merkle.requests_root(sorted(ids))
    assert merkle.requests_root([]) == hash_words("map", 0, ZERO)


@pytest.mark.parametrize("consents, count", [(1, 32), (32, 32), (33, 64), (64, 64), (65, 128)])
def test_an_anchor_is_padded_to_a_power_of_two_from_32(consents: int, count: int) -> None:
    assert merkle.anchor_count(consents) == count


@pytest.mark.parametrize("count", [32, 64])
def test_every_anchored_consent_is_proved_and_at_no_other_place(count: int) -> None:
    consents = [hash_words("doc", i) for i in range(count)]
    tree = AnchorTree(consents)
    for i, consent in enumerate(consents):
        path = tree.prove(i)
        merkle.verify_anchored(tree.root, count, consent, i, path)
        assert merkle.anchor_root_of(consent, i, path) == tree.root
        for wrong in (i ^ 1, i ^ (count >> 1), count + i, -1):
            with pytest.raises(CryptoError):
                merkle.verify_anchored(tree.root, count, consent, wrong, path)


def test_an_anchor_of_another_size_or_with_a_repeated_id_is_refused() -> None:
    consents = [hash_words("doc", i) for i in range(32)]
    for wrong in (consents[:16], consents[:31], [*consents[:31], consents[0]], []):
        with pytest.raises(EncodingError):
            AnchorTree(wrong)
    with pytest.raises(EncodingError):
        merkle.anchor_root_of(consents[0], 0, [ZERO] * 40)
