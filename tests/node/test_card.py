"""The withdrawal card: what was issued is read back, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree
from pathlib import Path

import pytest

from crypto.commitments import consent_id
from crypto.statements import RequestErasure, Withdraw, verify
from node import errors
from node.card import (
    MAX_CARD_BYTES,
    NOTICE,
    Card,
    card_svg,
    check_network,
    encode,
    erasure_notice,
    parse,
    withdrawal_notice,
)
from node.errors import NodeError, VerificationFailed
from node.records import ZERO
from tests.node.consent_kit import CANARY, MEMBER, NOW, World, found_network

VECTORS = sorted((Path(__file__).parents[1] / "vectors" / "card").glob("*.json"))


def valid() -> bytes:
    text = json.loads((Path(__file__).parents[1] / "vectors" / "card" / "valid.json").read_text())["card"]
    return bytes(text.encode())


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World.found(tmp_path)
    world.enrol()
    return world


def issued(world: World) -> Card:
    return world.vault.card(world.vault.find(CANARY)[0].consent_id)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_each_vector_is_refused_by_the_layer_it_names(path: Path) -> None:
    vector = json.loads(path.read_text())
    data = vector["card"].encode()
    if vector["error"] is None:
        assert encode(parse(data)) == data
        return
    with pytest.raises(getattr(errors, vector["error"])) as caught:
        parse(data)
    assert type(caught.value).__name__ == vector["error"]
    assert vector["message"] in caught.value.message


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_no_byte_of_a_card_can_be_changed_unnoticed(mask: int) -> None:
    data = valid()
    for at in range(len(data) - 1):  # the last byte is the line end
        with pytest.raises(NodeError):
            parse(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])


def test_the_reader_finds_the_notice_first() -> None:
    assert valid().startswith(b'{"notice":"' + NOTICE.encode())


def test_a_card_comes_back_from_its_file(world: World) -> None:
    card = issued(world)
    assert parse(encode(card)) == card
    assert parse(encode(card).rstrip(b"\n")) == card


def test_a_card_shows_neither_the_patient_nor_the_documents_salt(world: World) -> None:
    data = encode(issued(world))
    assert CANARY.encode() not in data
    assert b"doc_salt" not in data
    assert set(json.loads(data)["opening"]) == {"consent_id", "doc_commit", "holder", "holder_salt", "leaf_secret"}


def test_a_card_knows_where_it_belongs(world: World) -> None:
    card = issued(world)
    assert (card.origin.member, card.origin.hospital, card.origin.study) == (MEMBER, "hospital-1", world.study)
    check_network(card, world.network)
    with pytest.raises(VerificationFailed, match="issued on network") as caught:
        check_network(card, found_network()[2])
    assert world.network.fingerprint in caught.value.message
    moved = dataclasses.replace(world.network, contracts=dataclasses.replace(world.network.contracts, chain_id=5))
    with pytest.raises(VerificationFailed, match="contracts"):
        check_network(card, moved)


def test_the_notices_of_a_card_carry_the_holders_statements(world: World) -> None:
    card = issued(world)
    domains = world.origin.domains
    withdrawal = withdrawal_notice(card)
    assert consent_id(withdrawal.holder, withdrawal.holder_salt, withdrawal.binding) == card.consent_id
    statement = Withdraw(card.consent_id)
    verify(statement, domains.of(statement), withdrawal.signature, withdrawal.holder)
    erasure = erasure_notice(card, NOW, 2)
    assert (erasure.controller, erasure.study, erasure.received_at, erasure.relay) == (MEMBER, world.study, NOW, 2)
    request = RequestErasure(card.consent_id, world.study)
    verify(request, domains.of(request), erasure.signature, erasure.holder)


def test_a_card_does_not_show_its_secrets_in_a_log(world: World) -> None:
    assert issued(world).leaf_secret.hex() not in repr(issued(world))


def test_the_qr_code_is_one_picture_even_for_the_longest_card(world: World) -> None:
    card = issued(world)
    picture = card_svg(card)
    assert xml.etree.ElementTree.fromstring(picture).tag.endswith("svg")
    origin = dataclasses.replace(card.origin, hospital="\u00e4" * 100, contracts=card.origin.contracts)
    long = dataclasses.replace(card, origin=origin)
    assert len(encode(long)) <= MAX_CARD_BYTES
    assert len(card_svg(long)) > len(picture)
    assert ZERO.hex().encode() not in picture
