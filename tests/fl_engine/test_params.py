"""Canonical model bytes: one encoding per model, and nothing else is accepted."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_engine.errors import ModelEncodingError, ShapeMismatch
from fl_engine.params import MAGIC, ParamSpec, decode_ints, decode_model, encode_ints, encode_model

SPEC = ParamSpec((("conv.weight", (2, 1, 3)), ("conv.bias", (2,))))
INTS = np.arange(-4, 4, dtype=np.int32)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True)
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
specs = st.lists(st.tuples(names, shapes), min_size=1, max_size=5, unique_by=lambda t: t[0]).map(
    lambda tensors: ParamSpec(tuple(tensors))
)


@given(specs, st.randoms(use_true_random=False))
def test_decoding_gives_back_what_was_encoded_and_encodes_to_the_same_bytes(spec, random):
    ints = np.array([random.randint(-(2**31), 2**31 - 1) for _ in range(spec.size)], dtype=np.int32)
    data = encode_model(spec, ints)
    decoded_spec, decoded = decode_model(data, spec)
    assert decoded_spec == spec
    assert np.array_equal(decoded, ints)
    assert encode_model(decoded_spec, decoded) == data


@given(specs, st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_is_the_encoding_of_another_model(spec, where, value):
    data = bytearray(encode_model(spec, np.zeros(spec.size, dtype=np.int32)))
    data[where % len(data)] = value
    try:
        other_spec, other = decode_model(bytes(data))
    except ModelEncodingError:
        return
    assert encode_model(other_spec, other) == bytes(data)


def test_the_bytes_are_as_documented():
    layout = struct.pack("<I", 2)
    layout += b"\x0bconv.weight" + struct.pack("<B3I", 3, 2, 1, 3)
    layout += b"\x09conv.bias" + struct.pack("<B1I", 1, 2)
    expected = b"koinon.model/1\0\0" + layout + struct.pack("<Q8i", 8, *range(-4, 4))
    assert encode_model(SPEC, INTS) == expected
    assert hashlib.sha256(expected).hexdigest() == "b6cb99b9ada2866f15d6ce7636ea9ec04086cf3cce544e30748874c398fc6eae"


def test_every_truncation_is_refused():
    data = encode_model(SPEC, INTS)
    for length in range(len(data)):
        with pytest.raises(ModelEncodingError):
            decode_model(data[:length])


def test_trailing_bytes_are_refused():
    with pytest.raises(ModelEncodingError, match="33 bytes of integers, expected 32"):
        decode_model(encode_model(SPEC, INTS) + b"\0")


def _model(tensors: bytes, count: int, size: int, ints: bytes) -> bytes:
    return MAGIC + struct.pack("<I", count) + tensors + struct.pack("<Q", size) + ints


ONE = b"\x01w" + struct.pack("<B1I", 1, 1)


@pytest.mark.parametrize(
    "data, fault",
    [
        (b"koinon.model/2\0\0" + bytes(40), "does not start with"),
        (_model(b"", 0, 0, b""), "0 tensors"),
        (_model(b"", 2**32 - 1, 0, b""), "4294967295 tensors"),
        (_model(ONE + ONE, 2, 2, bytes(8)), "'w' twice"),
        (_model(ONE, 1, 2, bytes(8)), "2 parameters declared, the shapes hold 1"),
        (_model(b"\x01w" + struct.pack("<B1I", 1, 0), 1, 0, b""), "got \\(0,\\)"),
        (_model(b"\x01w" + struct.pack("<B", 9) + bytes(36), 1, 1, bytes(4)), "9 dimensions"),
        (_model(b"\x01\xff" + struct.pack("<B", 0), 1, 1, bytes(4)), "not ASCII"),
        (_model(b"\x00" + struct.pack("<B", 0), 1, 1, bytes(4)), "tensor name"),
        (_model(b"\x02w-" + struct.pack("<B", 0), 1, 1, bytes(4)), "tensor name"),
        # Claims 2^62 parameters in a hundred bytes: refused before anything is allocated.
        (_model(b"\x01w" + struct.pack("<B2I", 2, 2**31 - 1, 2**31 - 1), 1, (2**31 - 1) ** 2, bytes(8)), "at most"),
    ],
)
def test_lies_in_the_header_are_named(data, fault):
    with pytest.raises(ModelEncodingError, match=fault):
        decode_model(data)


def test_a_model_over_the_callers_cap_is_refused():
    with pytest.raises(ModelEncodingError, match="8 parameters, at most 7 allowed"):
        decode_model(encode_model(SPEC, INTS), max_parameters=7)


def test_a_model_of_another_layout_is_refused():
    with pytest.raises(ShapeMismatch, match="layout of the model"):
        decode_model(encode_model(SPEC, INTS), ParamSpec((("w", (8,)),)))


def test_flatten_and_unflatten_are_inverse_and_follow_the_order_of_the_spec():
    arrays = SPEC.unflatten(INTS)
    assert arrays["conv.bias"].tolist() == [2, 3]
    assert np.array_equal(SPEC.flatten(dict(reversed(list(arrays.items())))), INTS)


def test_arrays_that_do_not_fit_the_spec_are_refused():
    with pytest.raises(ShapeMismatch, match="tensor names"):
        SPEC.flatten({"conv.weight": np.zeros((2, 1, 3))})
    with pytest.raises(ShapeMismatch, match=r"shape of conv\.bias"):
        SPEC.flatten({"conv.weight": np.zeros((2, 1, 3)), "conv.bias": np.zeros(3)})
    with pytest.raises(ShapeMismatch, match="int32"):
        encode_model(SPEC, INTS.astype(np.int64))
    with pytest.raises(ShapeMismatch, match="shape of a model vector"):
        SPEC.unflatten(INTS[:-1])


def test_raw_integers_are_little_endian_and_of_the_declared_number():
    assert encode_ints(np.array([1, -2], dtype=np.int32)) == b"\x01\0\0\0\xfe\xff\xff\xff"
    assert decode_ints(b"\x01\0\0\0\xfe\xff\xff\xff", 2).tolist() == [1, -2]
    with pytest.raises(ModelEncodingError, match="7 bytes of integers, expected 8"):
        decode_ints(bytes(7), 2)
