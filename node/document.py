"""Documents that leave a node and are checked elsewhere: one canonical encoding, one strict reader.

What may live here: canonical JSON (RFC 8785) out, and in again byte for byte; typed fields, each asked for once. What
this file does not know: what a document means (`proof`, `certificate`). Whatever is wrong with a document that was
handed over to be checked is one fault, `VerificationFailed`: a changed byte has one outcome, wherever it hits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import rfc8785

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.keys import address_text, parse_address
from node import jsontext
from node.errors import NodeError, VerificationFailed

T = TypeVar("T")
_HEX = frozenset("0123456789abcdef")


def write(tree: dict[str, Any]) -> bytes:
    """The document's bytes, with a line end."""
    return rfc8785.dumps(tree) + b"\n"


def read(data: bytes, schema: str, most: int, *, earlier: str | None = None) -> dict[str, Any]:
    """The document in `data`; `VerificationFailed` unless it is of this schema, or `earlier`, in its one encoding."""
    what = schema.partition("/")[0].removeprefix("koinon.")
    if len(data) > most:
        raise VerificationFailed(f"{what}: {len(data)} bytes, at most {most} expected")
    body = data.removesuffix(b"\n")
    try:
        tree = jsontext.loads(body)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(f"{what}: not JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("schema") not in (schema, earlier or schema):
        found = tree.get("schema") if isinstance(tree, dict) else type(tree).__name__
        raise VerificationFailed(f"{what}: schema {found!r:.80}, this koinon reads {schema}")
    try:
        same = rfc8785.dumps(tree) == body
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise VerificationFailed(f"{what}: cannot be encoded again: {error}") from error
    if not same:
        raise VerificationFailed(f"{what}: the bytes are not in canonical form (RFC 8785)")
    return tree


class Fields:
    """One JSON object of a document: every field is asked for once, and nothing may be left over."""

    def __init__(self, where: str, value: Any, error: type[NodeError] = VerificationFailed) -> None:
        """`where` names the object in error messages; `error` is what a fault raises."""
        self.where = where
        self._error = error
        if not isinstance(value, dict):
            self.fault("not an object")
        self._left: dict[str, Any] = dict(value)

    def fault(self, what: str) -> NoReturn:
        """Refuse the document."""
        raise self._error(f"{self.where}: {what}")

    def take(self, name: str, kind: type[T]) -> T:
        """The value of a field, of exactly this type."""
        if name not in self._left:
            self.fault(f"field {name} is missing")
        value = self._left.pop(name)
        if type(value) is not kind:
            self.fault(f"field {name} = {value!r:.80} must be {kind.__name__}")
        return value

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; a null one is taken."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return False
        return name in self._left

    def hexes(self, name: str, size: int | None = None) -> bytes:
        """Lower-case hexadecimal digits, of `size` bytes if given."""
        text = self.take(name, str)
        if len(text) % 2 or not set(text) <= _HEX or (size is not None and len(text) != 2 * size):
            self.fault(f"field {name}: lower-case hexadecimal digits of {size or 'whole'} bytes expected")
        return bytes.fromhex(text)

    def digest(self, name: str) -> Digest:
        """32 bytes."""
        return Digest(self.hexes(name, 32))

    def signature(self, name: str) -> bytes:
        """65 bytes."""
        return self.hexes(name, 65)

    def address(self, name: str) -> bytes:
        """20 bytes, EIP-55 text."""
        text = self.take(name, str)
        try:
            found = parse_address(text)
        except CryptoError as error:
            self.fault(f"field {name}: {error}")
        if address_text(found) != text:
            self.fault(f"field {name}: {text:.80} lacks its EIP-55 capitals")
        return found

    def uint(self, name: str, bits: int) -> int:
        """A whole number below 2^bits; above 53 bits it is written as text."""
        value: Any = self.take(name, str if bits > 53 else int)
        if isinstance(value, str):
            if not (value.isascii() and value.isdigit()) or str(int(value[:80])) != value:
                self.fault(f"field {name} = {value!r:.80} is not a whole number")
            value = int(value)
        if not 0 <= value < 1 << bits:
            self.fault(f"field {name} = {value} does not fit {bits} bits")
        return int(value)

    def fields(self, name: str) -> Fields:
        """An object inside."""
        return self._inside(name, self.take(name, dict))

    def each(self, name: str, reader: Callable[[Fields], T]) -> list[T]:
        """A list of objects, each read whole."""
        found = []
        for place, value in enumerate(self.take(name, list)):
            one = self._inside(f"{name}[{place}]", value)
            found.append(reader(one))
            one.done()
        return found

    def digests(self, name: str) -> tuple[Digest, ...]:
        """A list of 32-byte values."""
        values = self.take(name, list)
        return tuple(self._inside(name, {"item": value}).digest("item") for value in values)

    def _inside(self, name: str, value: Any) -> Fields:
        return Fields(f"{self.where}.{name}", value, self._error)

    def done(self) -> None:
        """Refuse fields that nobody asked for."""
        if self._left:
            self.fault(f"unknown field {next(iter(self._left))!r:.80}")
