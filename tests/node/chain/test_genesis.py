from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from eth_account import Account

from node.chain.errors import GenesisError
from node.chain.genesis import (
    MAX_CHAIN_ID,
    MIN_CHAIN_ID,
    OPERATOR_WEI,
    ChainGenesis,
    create_genesis,
    load_genesis,
    load_operator_key,
    operator_key_file,
)
from node.errors import NotFound
from tests.node.chain.chain_kit import genesis

MEMBER = b"\x05" * 20


def test_a_created_genesis_is_what_is_loaded(tmp_path: Path) -> None:
    made = create_genesis(tmp_path, {MEMBER: 7})
    assert load_genesis(tmp_path) == made
    assert made.allocation[MEMBER] == 7


def test_chain_ids_are_random_and_fit_52_bits(tmp_path: Path) -> None:
    ids = {create_genesis(tmp_path / str(i), {}).chain_id for i in range(20)}
    assert len(ids) == 20
    assert all(MIN_CHAIN_ID <= one <= MAX_CHAIN_ID < 2**52 for one in ids)


def test_the_operator_is_funded_and_its_key_is_private(tmp_path: Path) -> None:
    made = create_genesis(tmp_path, {})
    operator = Account.from_key(load_operator_key(tmp_path)).address
    assert made.allocation[bytes.fromhex(operator[2:])] == OPERATOR_WEI
    assert stat.S_IMODE(operator_key_file(tmp_path).stat().st_mode) == 0o600


def test_a_readable_operator_key_is_refused(tmp_path: Path) -> None:
    create_genesis(tmp_path, {})
    operator_key_file(tmp_path).chmod(0o644)
    with pytest.raises(GenesisError, match="0644"):
        load_operator_key(tmp_path)


def test_a_chain_is_made_once(tmp_path: Path) -> None:
    create_genesis(tmp_path, {})
    before = operator_key_file(tmp_path).read_bytes()
    with pytest.raises(GenesisError, match="made once"):
        create_genesis(tmp_path, {})
    assert operator_key_file(tmp_path).read_bytes() == before


def test_a_home_without_chain_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=str(tmp_path)):
        load_genesis(tmp_path)


def test_any_changed_byte_of_genesis_json_is_refused_or_changes_its_value() -> None:
    data = genesis().to_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        try:
            read = ChainGenesis.from_bytes(bytes(changed))
        except GenesisError:
            continue
        assert read != genesis()


@pytest.mark.parametrize(
    "fault, field, value",
    [
        ("another format", "format", 2),
        ("chain id zero", "chain_id", 0),
        ("chain id above 52 bits", "chain_id", 2**53),
        ("chain id is a boolean", "chain_id", True),
        ("timestamp is a float", "timestamp", 1.5),
        ("allocation is a list", "allocation", []),
        ("amount is a number", "allocation", {"0x" + "05" * 20: 1}),
        ("amount is negative", "allocation", {"0x" + "05" * 20: "-1"}),
        ("amount is huge", "allocation", {"0x" + "05" * 20: "9" * 40}),
        ("address is short", "allocation", {"0x05": "1"}),
        ("address is not hex", "allocation", {"0x" + "zz" * 20: "1"}),
        ("an extra field", "more", 1),
    ],
)
def test_a_bad_genesis_is_refused(fault: str, field: str, value: object) -> None:
    document = json.loads(genesis().to_bytes()) | {field: value}
    with pytest.raises(GenesisError):
        ChainGenesis.from_bytes((json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000], ids=["empty", "list", "cut", "binary", "deep"]
)
def test_junk_is_refused(data: bytes) -> None:
    with pytest.raises(GenesisError):
        ChainGenesis.from_bytes(data)
