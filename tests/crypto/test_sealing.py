from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto import sealing
from crypto.digest import CHUNK_BYTES, Digest
from crypto.errors import BadWrap, EncodingError, KeyMismatch, VerificationError
from crypto.keys import SealingKey
from crypto.sealing import BlobCommit, BlobKind

ROUND = Digest(b"\7" * 32)
kinds = st.sampled_from(BlobKind)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 65535), kinds)
def test_what_is_sealed_opens_for_its_key_round_author_and_kind(plaintext: bytes, member: int, kind: BlobKind) -> None:
    sealed = sealing.seal(plaintext, ROUND, member, kind)
    assert sealing.open_blob(sealed.ciphertext, sealed.key, sealed.commit, ROUND, member, kind) == plaintext
    assert len(sealed.ciphertext) == sealed.commit.length == sealing.ciphertext_length(len(plaintext))
    assert sealed.key.hex() not in repr(sealed)
    again = sealing.seal(plaintext, ROUND, member, kind)
    assert again.key != sealed.key
    assert again.ciphertext != sealed.ciphertext


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_every_chunk_edge_opens(length: int) -> None:
    plaintext = bytes(range(256)) * (length // 256) + bytes(length % 256)
    sealed = sealing.seal(plaintext, ROUND, 1, BlobKind.UPDATE)
    assert sealing.open_blob(sealed.ciphertext, sealed.key, sealed.commit, ROUND, 1, BlobKind.UPDATE) == plaintext


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=100), st.data())
def test_no_changed_byte_opens(plaintext: bytes, data: st.DataObject) -> None:
    sealed = sealing.seal(plaintext, ROUND, 1, BlobKind.SET)
    at = data.draw(st.integers(0, len(sealed.ciphertext) - 1))
    changed = sealed.ciphertext[:at] + bytes([sealed.ciphertext[at] ^ 0x80]) + sealed.ciphertext[at + 1 :]
    with pytest.raises(VerificationError):
        sealing.open_blob(changed, sealed.key, sealed.commit, ROUND, 1, BlobKind.SET)


def test_the_first_chunk_is_plain_aes_gcm() -> None:
    """The layout of FORMATS.md, read with nothing but the standard cipher."""
    sealed = sealing.seal(b"hello", ROUND, 0x0102, BlobKind.SET)
    context = ROUND + b"\x01\x02" + b"\x01"
    assert AESGCM(sealed.key).decrypt(bytes(11) + b"\x01", sealed.ciphertext, context) == b"hello"


def test_a_foreign_key_is_refused_before_anything_is_decrypted() -> None:
    """Were the ciphertext read first, its wrong root would be the error."""
    sealed = sealing.seal(b"hello", ROUND, 1, BlobKind.SET)
    with pytest.raises(KeyMismatch):
        sealing.open_blob(bytes(len(sealed.ciphertext)), bytes(32), sealed.commit, ROUND, 1, BlobKind.SET)


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 65535), kinds)
def test_a_wrap_opens_for_its_reader_alone(key: bytes, member: int, kind: BlobKind) -> None:
    reader, other = SealingKey.generate(), SealingKey.generate()
    committed = sealing.key_commit(key, ROUND, member, kind)
    wrapped = sealing.wrap(key, reader.public, ROUND, member, kind)
    assert len(wrapped) == sealing.WRAP_BYTES
    assert sealing.unwrap(wrapped, reader, committed, ROUND, member, kind) == key
    with pytest.raises(BadWrap):
        sealing.unwrap(wrapped, other, committed, ROUND, member, kind)
    with pytest.raises(BadWrap):
        sealing.unwrap(wrapped, reader, committed, ROUND, member ^ 1, kind)


def test_nothing_is_wrapped_for_a_key_of_low_order() -> None:
    with pytest.raises(BadWrap):
        sealing.wrap(bytes(32), bytes(32), ROUND, 1, BlobKind.SET)


@pytest.mark.parametrize("length", [0, 15, sealing.MAX_CIPHERTEXT_BYTES + 1, -1])
def test_a_commitment_to_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(EncodingError):
        BlobCommit(ROUND, ROUND, ROUND, length)
