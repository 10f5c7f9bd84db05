from __future__ import annotations

import pytest

from node.chain import codec
from node.chain.codec import InvalidParams


@pytest.mark.parametrize("value", ["0x", "0x01", "1", 1, None, True, "0xg", "-0x1", "0x" + "1" * 65, "0x1\n"])
def test_what_is_not_a_quantity_is_refused(value: object) -> None:
    with pytest.raises(InvalidParams, match="not a hex quantity"):
        codec.read_quantity("x", value)


@pytest.mark.parametrize("value", ["", "0x1", "12", 5, None, "0xzz", "0x12 "])
def test_what_is_not_data_is_refused(value: object) -> None:
    with pytest.raises(InvalidParams, match="not hex data"):
        codec.read_data("x", value)


def test_an_address_has_twenty_bytes() -> None:
    with pytest.raises(InvalidParams, match="19 bytes, expected 20"):
        codec.read_address("x", "0x" + "11" * 19)


@pytest.mark.parametrize(
    "fault, call",
    [
        ("not an object", "0x"),
        ("not equal", {"data": "0x01", "input": "0x02"}),
        ("chainId does not match", {"chainId": "0x5"}),
        ("access list", {"accessList": [{"address": "0x" + "11" * 20, "storageKeys": []}]}),
        ("from", {"from": "0x11"}),
        ("gas", {"gas": 5}),
    ],
)
def test_a_call_object_with_a_fault_is_refused(fault: str, call: object) -> None:
    with pytest.raises(InvalidParams, match=fault):
        codec.read_message(call, 7)


def test_data_and_input_are_the_same_thing() -> None:
    assert codec.read_message({"data": "0x01", "input": "0x01"}, 7).data == b"\x01"
    assert codec.read_message({"input": "0x02", "data": None}, 7).data == b"\x02"


@pytest.mark.parametrize("topics", ["0x", [None] * 5, ["0x11"], [["0x11"]], [["0x" + "11" * 32] * 1001]])
def test_topics_with_a_fault_are_refused(topics: object) -> None:
    with pytest.raises(InvalidParams):
        codec.read_topics(topics)


def test_null_among_alternatives_makes_the_position_free() -> None:
    assert codec.read_topics([None, [None, "0x" + "11" * 32], "0x" + "22" * 32]) == ((), (), (b"\x22" * 32,))
