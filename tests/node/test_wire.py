"""The wire: one encoding for every message, and every other byte string refused with the field that is wrong."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.digest import CHUNK_BYTES, Digest
from crypto.sealing import MAX_CIPHERTEXT_BYTES, BlobCommit
from node import messages, wire
from node.wire import KINDS, Unsendable, WireError

VECTORS = Path(__file__).parent.parent / "vectors" / "wire"
VALID = sorted((VECTORS / "valid").glob("*.json"))
FAULTS = sorted((VECTORS / "fault").glob("*.json"))
ASKED = {wire.ANSWERS[shape]: shape for shape in wire.ANSWERS}


def sample(kind: Any) -> st.SearchStrategy[Any]:
    """Values of one field type of the wire table."""
    match kind:
        case wire._UInt():
            return st.integers(0, (1 << kind.bits) - 1 if kind.limit is None else kind.limit)
        case wire._Wide():
            return st.integers(0, (1 << kind.bits) - 1)
        case wire._Bool():
            return st.booleans()
        case wire._Bytes():
            most = min(kind.most, 100)
            return st.binary(min_size=kind.least, max_size=most).map(lambda b: b[: len(b) - len(b) % kind.step])
        case wire._DigestType():
            return st.binary(min_size=32, max_size=32).map(Digest)
        case wire._Text():
            if kind.words is not None:
                return st.sampled_from(kind.words)
            return st.text(st.characters(categories=("L", "N", "P")), max_size=kind.most // 4)
        case wire._List():
            return st.lists(sample(kind.item), max_size=min(kind.most, 4)).map(tuple)
        case wire._Pair():
            return st.tuples(sample(kind.first), sample(kind.second))
        case wire._Struct(shape=shape) if shape is BlobCommit:
            return st.builds(BlobCommit, *[sample(wire._DIGEST)] * 3, st.integers(16, MAX_CIPHERTEXT_BYTES))
        case wire._Struct():
            return st.fixed_dictionaries({name: sample(column) for name, column in kind.fields}).map(
                lambda read: kind.shape(**read)
            )
        case wire._AnyNotice():
            return st.sampled_from(sorted(wire.NOTICE_TAGS)).flatmap(lambda tag: sample(KINDS[tag].struct))
    raise AssertionError(kind)


def decode(tag: str, body: bytes) -> object:
    """Read `body` through the door that messages of this tag come in by."""
    if tag in wire.NOTICE_TAGS:
        return wire.decode_notice(body)
    if tag in wire.REQUEST_TAGS:
        return wire.decode_request(body)
    shape = ASKED.get(tag, messages.Pull)  # a refusal answers anything
    return wire.decode_reply(body, request_of(shape))


def request_of(shape: type) -> Any:
    zero = Digest(bytes(32))
    return {
        messages.Hello: messages.Hello(1, bytes(20), 0),
        messages.GetMap: messages.GetMap(zero),
        messages.GetChunk: messages.GetChunk(zero, 0),
        messages.GetKeys: messages.GetKeys(zero, 0, 0),
        messages.Offer: messages.Offer(()),
        messages.Pull: messages.Pull(zero),
    }[shape]


def plain(value: object) -> object:
    """A message as JSON shows it."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [plain(entry) for entry in value]
    return value.hex() if isinstance(value, bytes) else value


def test_the_table_has_a_row_for_every_message_and_for_nothing_else():
    union = {*get_args(messages.Notice), *get_args(messages.Request), *get_args(messages.Reply)}
    assert {row.struct.shape for row in KINDS.values()} == union
    assert set(wire.ANSWERS) == set(get_args(messages.Request))


@pytest.mark.parametrize("tag", sorted(KINDS))
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_back_equal(tag: str, data: st.DataObject):
    message = data.draw(sample(KINDS[tag].struct))
    body = wire.encode(message)
    assert decode(tag, body) == message
    assert len(body) <= KINDS[tag].cap


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200), door=st.sampled_from(sorted(KINDS)))
def test_random_bytes_are_refused_and_never_raise_anything_else(body: bytes, door: str):
    with pytest.raises(WireError):
        decode(door, body)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_changed_byte_gives_another_message_or_none(path: Path, data: st.DataObject):
    body = bytearray.fromhex(json.loads(path.read_text())["hex"])
    original = decode(path.stem, bytes(body))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(path.stem, bytes(body))
    except WireError:
        return
    assert read != original
    assert wire.encode(read) == bytes(body)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_vector(path: Path):
    vector = json.loads(path.read_text())
    body = bytes.fromhex(vector["hex"])
    message = decode(path.stem, body)
    assert type(message).__name__ == vector["type"]
    assert plain(message) == vector["message"]
    assert wire.encode(message) == body  # type: ignore[arg-type]


def test_every_kind_has_a_valid_vector():
    assert {path.stem for path in VALID} == set(KINDS)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_every_truncation_is_refused(path: Path):
    body = bytes.fromhex(json.loads(path.read_text())["hex"])
    for size in range(len(body)):
        with pytest.raises(WireError):
            decode(path.stem, body[:size])


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: path.stem)
def test_fault_vector_is_refused_at_its_field(path: Path):
    vector = json.loads(path.read_text())
    with pytest.raises(WireError) as caught:
        decode(vector["door"], bytes.fromhex(vector["hex"]))
    assert caught.value.field == vector["field"]
    assert vector["says"] in caught.value.message


def test_there_are_fault_vectors():
    assert len(FAULTS) >= 25


@pytest.mark.parametrize("tag", sorted(KINDS))
def test_a_message_longer_than_its_cap_is_refused_before_it_is_read(tag: str):
    kind = KINDS[tag]
    body = msgpack.packb([wire.VERSION, tag, b""])
    body += bytes(kind.cap + 1 - len(body))
    with pytest.raises(WireError, match=f"at most {kind.cap} allowed"):
        decode(tag, body)


@pytest.mark.parametrize("tag", sorted(wire.REPLY_TAGS))
def test_no_reply_is_longer_than_what_its_reader_allows(tag: str):
    shape = ASKED.get(tag, messages.GetKeys)
    assert wire.reply_cap(request_of(shape)) >= KINDS[tag].cap


def test_the_largest_chunk_and_the_largest_map_travel():
    chunk = messages.ChunkReply(bytes(CHUNK_BYTES))
    assert decode("chunk", wire.encode(chunk)) == chunk
    whole = messages.MapReply(1 << 31, tuple(bytes(32) for _ in range(2048)), bytes(CHUNK_BYTES))
    assert decode("map", wire.encode(whole)) == whole


def test_the_largest_opening_travels_inside_an_offer():
    zero = Digest(bytes(32))
    opening = messages.OpeningNotice(zero, 1, ((zero, zero),) * 4096, (zero,) * 4096)
    offer = messages.Offer((opening, opening))
    assert decode("offer", wire.encode(offer)) == offer
    with pytest.raises(Unsendable, match="bytes, at most"):
        wire.encode(messages.Offer((opening, opening, opening)))


@pytest.mark.parametrize("name", ["St. \n Elsewhere", "\x1b[31mred", "x" * 129, "\udc80"])
def test_a_name_that_no_notice_can_carry_is_known_before(name: str):
    assert wire.name_fault(name)
    assert wire.name_fault("H\u00f4pital de l'\u00cele") is None


def test_a_reply_to_another_request_is_refused():
    body = wire.encode(messages.KeysReply((b"wrap",)))
    with pytest.raises(WireError, match="chunk or refusal expected, 'keys' given"):
        wire.decode_reply(body, messages.GetChunk(Digest(bytes(32)), 0))


def test_a_request_is_no_reply_and_a_notice_is_no_request():
    with pytest.raises(WireError) as caught:
        wire.decode_reply(wire.encode(messages.Pull(Digest(bytes(32)))), messages.Pull(Digest(bytes(32))))
    assert caught.value.field == "tag"
    notice = messages.AbstainNotice(Digest(bytes(32)), 1, bytes(65))
    with pytest.raises(WireError):
        wire.decode_request(wire.encode(notice))


@pytest.mark.parametrize(
    "message, field",
    [
        (messages.GetChunk(Digest(bytes(32)), 1 << 32), "get-chunk.index"),
        (messages.GetChunk(Digest(bytes(32)), -1), "get-chunk.index"),
        (messages.GetKeys(Digest(bytes(32)), 1, 4), "get-keys.kinds"),
        (messages.AbstainNotice(Digest(bytes(32)), 1, bytes(64)), "abstain.signature"),
        (messages.Hello(1, bytes(19), 0), "hello.membership"),
        (messages.Refusal("because", "no"), "refusal.code"),
        (messages.Refusal("busy", "two\nlines"), "refusal.reason"),
        (messages.Refusal("busy", "\ud800"), "refusal.reason"),
        (messages.Welcome(True, "ok"), "welcome.block"),
        (messages.Offer((messages.Pull(Digest(bytes(32))),)), "offer.notices[0]"),  # type: ignore[arg-type]
        (messages.Offer([]), "offer.notices"),  # type: ignore[arg-type]
        (messages.KeysReply((b"",) * 3), "keys.wraps"),
        ("text", "message"),
    ],
)
def test_what_we_must_not_send_is_our_own_error(message: Any, field: str):
    with pytest.raises(Unsendable) as caught:
        wire.encode(message)
    assert caught.value.field == field
