"""JSON-RPC as Ethereum clients speak it: hexadecimal quantities and bytes, blocks, receipts, errors with revert data.

What may live here: pure translations between a client's JSON and bytes. What this file does not know: HTTP, contracts,
which method is called when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from crypto.digest import Digest
from node.errors import ChainUnreachable, LedgerError
from node.evidence import RawLog, encode_header, encode_receipt

_HEADER: Final = (
    ("parentHash", "data"),
    ("sha3Uncles", "data"),
    ("miner", "data"),
    ("stateRoot", "data"),
    ("transactionsRoot", "data"),
    ("receiptsRoot", "data"),
    ("logsBloom", "data"),
    ("difficulty", "quantity"),
    ("number", "quantity"),
    ("gasLimit", "quantity"),
    ("gasUsed", "quantity"),
    ("timestamp", "quantity"),
    ("extraData", "data"),
    ("mixHash", "data"),
    ("nonce", "data"),
    ("baseFeePerGas", "quantity"),
    ("withdrawalsRoot", "data"),
    ("blobGasUsed", "quantity"),
    ("excessBlobGas", "quantity"),
    ("parentBeaconBlockRoot", "data"),
    ("requestsHash", "data"),
)
"""A header's fields in their order, each fork's after the one before it; from baseFeePerGas on they may be absent."""


class RpcError(LedgerError):
    """The client answered a request with an error.

    Attributes:
        code: the JSON-RPC error code.
        data: the bytes of a revert, where the client gave them.
    """

    def __init__(self, message: str, code: int = 0, data: bytes | None = None) -> None:
        """Keep the client's words."""
        self.code = code
        self.data = data
        super().__init__(message)


class ReplyLost(ChainUnreachable):
    """The request may have arrived; no answer came back."""


def quantity(value: object) -> int:
    """A hexadecimal quantity; `LedgerError` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise LedgerError(f"the client gave {str(value)[:80]!r} where a quantity belongs")
    try:
        return int(value, 16)
    except ValueError:
        raise LedgerError(f"the client gave {value[:80]!r} where a quantity belongs") from None


def data(value: object) -> bytes:
    """Hexadecimal bytes; `LedgerError` for anything else."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise LedgerError(f"the client gave {str(value)[:80]!r} where bytes belong")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise LedgerError(f"the client gave {value[:80]!r} where bytes belong") from None


def word(value: object) -> Digest:
    """32 hexadecimal bytes; `LedgerError` for anything else."""
    found = data(value)
    if len(found) != 32:
        raise LedgerError(f"the client gave {len(found)} bytes where 32 belong")
    return Digest(found)


class Fields(dict[str, Any]):
    """A JSON object of a client: a field that is asked for and missing is a `LedgerError` that names both."""

    def __init__(self, what: str, fields: Mapping[str, Any]) -> None:
        """Remember `what` the object should be."""
        super().__init__(fields)
        self._what = what

    def __missing__(self, name: str) -> NoReturn:
        raise LedgerError(f"the client gave a {self._what} without {name!r}")


def json_object(what: str, value: object) -> Fields:
    """A JSON object; `LedgerError` for anything else, naming `what` it should have been."""
    if not isinstance(value, dict):
        raise LedgerError(f"the client gave {str(value)[:80]!r} where a {what} belongs")
    return Fields(what, value)


def json_list(what: str, value: object) -> list[Any]:
    """A JSON list; `LedgerError` for anything else, naming `what` it should have held."""
    if not isinstance(value, list):
        raise LedgerError(f"the client gave {str(value)[:80]!r} where a list of {what} belongs")
    return value


def raw_log(entry: Mapping[str, Any]) -> RawLog:
    """A log as `eth_getLogs` and receipts show it."""
    return RawLog(
        address=data(entry["address"]),
        topics=tuple(word(topic) for topic in json_list("topics", entry["topics"])),
        data=data(entry["data"]),
        transaction=word(entry["transactionHash"]),
        log_index=quantity(entry["logIndex"]),
    )


def header_rlp(block: Mapping[str, Any]) -> bytes:
    """The RLP of a block's header from its JSON."""
    fields: list[bytes | int] = []
    for name, kind in _HEADER:
        value = block.get(name)
        if value is None:
            break
        fields.append(quantity(value) if kind == "quantity" else data(value))
    return encode_header(fields)


def receipt_rlp(found: Mapping[str, Any]) -> bytes:
    """A receipt as the receipts trie holds it, from its JSON."""
    entries = [json_object("log", log) for log in json_list("logs", found["logs"])]
    logs = [
        (data(log["address"]), [data(topic) for topic in json_list("topics", log["topics"])], data(log["data"]))
        for log in entries
    ]
    return encode_receipt(
        kind=quantity(found.get("type") or "0x0"),
        status=quantity(found["status"]),
        cumulative_gas=quantity(found["cumulativeGasUsed"]),
        bloom=data(found["logsBloom"]),
        logs=logs,
    )


def revert_data(fault: Mapping[str, Any]) -> bytes | None:
    """The revert's bytes: geth and anvil put them in `data`, some clients one level deeper."""
    found = fault.get("data")
    if isinstance(found, dict):
        found = found.get("data") or found.get("result")
    if isinstance(found, str):
        digits = found.rpartition("0x")[2]
        try:
            return bytes.fromhex(digits)
        except ValueError:
            return None
    return b"" if "revert" in str(fault.get("message", "")).lower() else None
