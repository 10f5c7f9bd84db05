from __future__ import annotations

import pytest
from eth_account import Account
from eth_utils.address import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from crypto.errors import EncodingError, KeystoreCorrupted, SignatureMismatch, WrongPassword
from crypto.keys import (
    KeyRing,
    LedgerKey,
    PeerKey,
    SealingKey,
    address_text,
    check_signature,
    open_keystore,
    parse_address,
    parse_peer_id,
    peer_id_text,
    recover_address,
    seal_keystore,
    verify_peer_signature,
)

secrets32 = st.binary(min_size=32, max_size=32)


@given(st.integers(1, 2**255), secrets32)
def test_a_ledger_key_is_an_ethereum_account(secret: int, digest: bytes) -> None:
    raw = secret.to_bytes(32, "big")
    key, account = LedgerKey(raw), Account.from_key(raw)
    assert address_text(key.address) == account.address
    signature = key.sign_digest(digest)
    assert signature == account.unsafe_sign_hash(digest).signature
    assert check_signature(signature) == signature
    assert recover_address(digest, signature) == key.address


@given(st.binary(min_size=20, max_size=20))
def test_address_text_is_eip55(address: bytes) -> None:
    text = address_text(address)
    assert text == to_checksum_address(address)
    assert parse_address(text) == parse_address(text.lower()) == address


@pytest.mark.parametrize("text", ["", "0x", "0x" + "1" * 39, "1" * 42, "0x" + "g" * 40, "0xA" + "b" * 39])
def test_a_bad_address_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_address(text)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"", bytes(31)])
def test_a_bad_ledger_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(EncodingError):
        LedgerKey(secret)


@given(secrets32)
def test_the_peer_id_is_libp2ps(seed: bytes) -> None:
    key, theirs = PeerKey(seed), ID.from_pubkey(create_new_key_pair(seed).public_key)
    assert key.peer_id == theirs.to_bytes()
    assert peer_id_text(key.peer_id) == str(theirs)
    assert parse_peer_id(str(theirs)) == key.peer_id


@pytest.mark.parametrize(
    "text", ["", "1", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "12D3KooW0", "1" * 60, "z" * 64]
)
def test_a_peer_id_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_peer_id(text)


def test_a_peer_signature_is_of_its_message() -> None:
    key = PeerKey.generate()
    verify_peer_signature(key.peer_id, b"hello", key.sign(b"hello"))
    with pytest.raises(SignatureMismatch):
        verify_peer_signature(key.peer_id, b"hallo", key.sign(b"hello"))


def test_no_secret_is_in_a_repr() -> None:
    ring = KeyRing.generate()
    shown = repr(ring)
    assert all(key.to_bytes().hex() not in shown for key in (ring.ledger, ring.sealing, ring.peer))


@settings(max_examples=10)
@given(st.text(max_size=30))
def test_a_keystore_gives_back_its_keys(password: str) -> None:
    ring = KeyRing.generate()
    back = open_keystore(seal_keystore(ring, password, log_n=10), password)
    assert back.ledger.to_bytes() == ring.ledger.to_bytes()
    assert back.sealing.to_bytes() == ring.sealing.to_bytes()
    assert back.peer.to_bytes() == ring.peer.to_bytes()


def test_another_password_and_damaged_bytes_are_different_errors() -> None:
    data = seal_keystore(KeyRing.generate(), "right", log_n=10)
    with pytest.raises(WrongPassword):
        open_keystore(data, "wrong")
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(EncodingError) as caught:
            open_keystore(damaged, "wrong")
        assert isinstance(caught.value, KeystoreCorrupted) or caught.value.field == "schema"
    for size in range(0, len(data) - 1, 31):
        with pytest.raises(KeystoreCorrupted):
            open_keystore(data[:size], "right")


def test_a_sealing_key_has_32_bytes() -> None:
    with pytest.raises(EncodingError):
        SealingKey(bytes(33))
