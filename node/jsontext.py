"""JSON from outside to Python, safe against its own depth.

The Ethereum libraries raise the interpreter's recursion limit as they are imported (py-evm, and py-ecc under
eth-account to 100 000), and with that limit the standard decoder no longer refuses a hundred thousand nested lists:
it overruns the stack and takes the process with it. So depth is measured first, without recursion.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 32

# A string (atomic, and content with a missing end, so that hostile text costs one pass), or a bracket.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)


def loads(data: bytes) -> Any:
    """Decode one JSON value.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than MAX_DEPTH, or with NaN or infinities.
    """
    check_depth(data)
    return json.loads(data.decode("utf-8"), parse_constant=_no_constant)


def check_depth(data: bytes) -> None:
    """Refuse text that is nested deeper than MAX_DEPTH.

    Raises:
        ValueError: it is.
    """
    depth = 0
    for token in _TOKEN.finditer(data):
        mark = data[token.start()]
        if mark in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        elif mark in b"]}":
            depth -= 1


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
