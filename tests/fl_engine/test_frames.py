"""Frames: round trip, and every way to lie about a length."""

import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_engine.errors import FrameError
from fl_engine.frames import MAX_HEADER_BYTES, read_frame, write_frame


def framed(header: object, tail: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack(">I", len(encoded)) + encoded + tail


@given(st.dictionaries(st.text(max_size=5).filter(lambda k: k != "buffers"), st.integers()), st.lists(st.binary()))
def test_what_is_written_is_read(header, buffers):
    stream = io.BytesIO()
    write_frame(stream, header, buffers)
    write_frame(stream, {"next": 1})
    stream.seek(0)
    assert read_frame(stream) == (header, buffers)
    assert read_frame(stream) == ({"next": 1}, [])
    assert read_frame(stream) is None


def test_every_truncation_within_a_frame_is_an_error():
    data = framed({"op": "x", "buffers": [3, 2]}, b"abcde")
    for length in range(1, len(data)):
        with pytest.raises(FrameError, match="stream ends"):
            read_frame(io.BytesIO(data[:length]))


@pytest.mark.parametrize(
    "data, fault",
    [
        (struct.pack(">I", 0), "header of 0 bytes"),
        (struct.pack(">I", MAX_HEADER_BYTES + 1), "header of 1048577 bytes"),
        (struct.pack(">I", 3) + b"\xff\xff\xff", "not JSON"),
        (framed([]), "no list"),
        (framed({}), "no list"),
        (framed({"buffers": 3}), "no list"),
        (framed({"buffers": [0] * 65}), "no list of at most 64"),
        (framed({"buffers": [-1]}), "not whole numbers"),
        (framed({"buffers": [True]}), "not whole numbers"),
        (framed({"buffers": [1.0]}), "not whole numbers"),
        (framed({"buffers": [60, 60]}), "at most 100 together"),
    ],
)
def test_malformed_frames_are_named(data, fault):
    with pytest.raises(FrameError, match=fault):
        read_frame(io.BytesIO(data), max_bytes=100)


def test_a_header_too_large_to_read_is_not_written():
    with pytest.raises(FrameError, match="at most"):
        write_frame(io.BytesIO(), {"x": "y" * MAX_HEADER_BYTES})
