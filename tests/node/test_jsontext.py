from __future__ import annotations

import time

import eth_account  # noqa: F401 - it raises the recursion limit, which is what makes depth dangerous
import pytest

from node import jsontext


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'["]",'])
def test_deep_nesting_is_refused_and_not_run_into(opening: bytes) -> None:
    with pytest.raises(ValueError, match="nested deeper than 32"):
        jsontext.loads(opening * 200_000)


def test_brackets_in_strings_do_not_count() -> None:
    text = "[" * 100 + '"\\'
    assert jsontext.loads(b'["' + b"[" * 100 + b'\\"\\\\"]') == [text[:100] + '"\\']


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"NaN", b"[Infinity]", b"1 2", b'"\\u12"', b"9" * 5000])
def test_what_is_not_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(data)


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 2_000_000, b'"' * 3_999_999, b"[]," * 300_000])
def test_hostile_text_costs_one_pass(data: bytes) -> None:
    started = time.perf_counter()
    jsontext.check_depth(data)
    assert time.perf_counter() - started < 5
