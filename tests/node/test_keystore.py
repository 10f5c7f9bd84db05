"""The keystore on disk: made once, opened by its password alone, never overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from crypto.keys import KeyRing
from node import keystore
from node.errors import LocalFault, NotFound
from node.home import Home, create_home

LOG_N = 10


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "member-1", "member", 0)


def secrets_of(ring: KeyRing) -> tuple[bytes, bytes, bytes]:
    return ring.ledger.to_bytes(), ring.sealing.to_bytes(), ring.peer.to_bytes()


def test_what_was_created_is_loaded(home: Home) -> None:
    ring = keystore.create(home, "correct horse", log_n=LOG_N)
    assert secrets_of(keystore.load(home, "correct horse")) == secrets_of(ring)


def test_the_file_is_for_its_owner_alone(home: Home) -> None:
    keystore.create(home, "correct horse", log_n=LOG_N)
    assert stat.S_IMODE(home.keystore_path.stat().st_mode) == 0o600


def test_no_secret_is_in_the_file(home: Home) -> None:
    ring = keystore.create(home, "correct horse", log_n=LOG_N)
    data = home.keystore_path.read_bytes()
    assert not any(secret in data or secret.hex().encode() in data for secret in secrets_of(ring))


def test_keys_are_never_overwritten(home: Home) -> None:
    keystore.create(home, "correct horse", log_n=LOG_N)
    before = home.keystore_path.read_bytes()
    with pytest.raises(LocalFault, match="never overwritten"):
        keystore.create(home, "correct horse", log_n=LOG_N)
    assert home.keystore_path.read_bytes() == before


def test_a_wrong_password_is_told_from_damage(home: Home) -> None:
    keystore.create(home, "correct horse", log_n=LOG_N)
    with pytest.raises(LocalFault, match="password does not open"):
        keystore.load(home, "battery staple")
    data = home.keystore_path.read_bytes()
    home.keystore_path.write_bytes(data[: len(data) // 2])
    with pytest.raises(LocalFault, match="not JSON"):
        keystore.load(home, "correct horse")


def test_a_home_without_keys_says_so(home: Home) -> None:
    with pytest.raises(NotFound, match="has no keys"):
        keystore.load(home, "correct horse")


def test_another_password_opens_the_same_keys(home: Home) -> None:
    ring = keystore.create(home, "old", log_n=LOG_N)
    keystore.change_password(home, "old", "new", log_n=LOG_N)
    assert secrets_of(keystore.load(home, "new")) == secrets_of(ring)
    with pytest.raises(LocalFault):
        keystore.load(home, "old")


def test_the_at_rest_key_is_a_function_of_the_ring() -> None:
    one, other = KeyRing.generate(), KeyRing.generate()
    assert keystore.at_rest_key(one) == keystore.at_rest_key(one)
    assert keystore.at_rest_key(one) != keystore.at_rest_key(other)
    assert len(keystore.at_rest_key(one)) == 32
    assert keystore.at_rest_key(one) not in secrets_of(one)
