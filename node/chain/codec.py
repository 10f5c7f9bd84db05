"""JSON-RPC values to Python and back, in the spelling of the Ethereum execution API (quantities, data, objects).

Reading is strict: what is not a quantity or data of the right length is refused with the argument's position, as geth
does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from node.chain.evm import BASE_FEE_WEI, Block, Header, Log, Message, Receipt, Transaction
from node.errors import NodeError

MAX_ALTERNATIVES = 1000
MAX_TOPICS = 4
HEAD_TAGS = ("latest", "pending", "safe", "finalized")

_QUANTITY = re.compile(r"0x(?:0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")


class InvalidParams(NodeError):
    """The parameters of a call are not what the method takes (JSON-RPC code -32602)."""


# ----------------------------------------------------------------------------------------------------------- reading


def read_quantity(what: str, value: object) -> int:
    """A number: 0x, no leading zeros, at most 256 bits."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise InvalidParams(f"{what}: {_short(value)} is not a hex quantity")
    return int(value, 16)


def read_data(what: str, value: object, size: int | None = None) -> bytes:
    """Bytes: 0x and an even number of hex digits; of exactly `size` bytes if that is given."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise InvalidParams(f"{what}: {_short(value)} is not hex data")
    data = bytes.fromhex(value[2:])
    if size is not None and len(data) != size:
        raise InvalidParams(f"{what}: {len(data)} bytes, expected {size}")
    return data


def read_address(what: str, value: object) -> bytes:
    """A 20-byte address."""
    return read_data(what, value, 20)


def read_hash(what: str, value: object) -> bytes:
    """A 32-byte hash."""
    return read_data(what, value, 32)


def read_slot(what: str, value: object) -> int:
    """A storage slot: a quantity, or up to 32 bytes of data."""
    if not isinstance(value, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,64}", value):
        raise InvalidParams(f"{what}: {_short(value)} is not a storage slot")
    return int(value, 16)


def read_flag(what: str, value: object) -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise InvalidParams(f"{what}: {_short(value)} is not a boolean")
    return value


def read_object(what: str, value: object) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise InvalidParams(f"{what}: {_short(value)} is not an object")
    return value


def read_message(value: object, chain_id: int) -> Message:
    """The transaction object of eth_call and eth_estimateGas."""
    call = read_object("argument 0", value)
    given = {key: field for key, field in call.items() if field is not None}
    data = [read_data(key, given[key]) for key in ("input", "data") if key in given]
    if len(data) == 2 and data[0] != data[1]:
        raise InvalidParams(
            'both "data" and "input" are set and not equal. Please use "input" to pass transaction data'
        )
    if "chainId" in given and (have := read_quantity("chainId", given["chainId"])) != chain_id:
        raise InvalidParams(f"chainId does not match node's (have={have}, want={chain_id})")
    if given.get("accessList"):
        raise InvalidParams("accessList: calls with an access list are not supported")
    price = given.get("maxFeePerGas", given.get("gasPrice"))
    return Message(
        sender=read_address("from", given["from"]) if "from" in given else bytes(20),
        to=read_address("to", given["to"]) if "to" in given else None,
        gas=read_quantity("gas", given["gas"]) if "gas" in given else None,
        value=read_quantity("value", given["value"]) if "value" in given else 0,
        data=data[0] if data else b"",
        gas_price=read_quantity("gasPrice", price) if price is not None else 0,
    )


def read_addresses(value: object) -> tuple[bytes, ...]:
    """The `address` of a log filter: none, one, or a list of which any will do."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return (read_address("address", value),)
    if len(value) > MAX_ALTERNATIVES:
        raise InvalidParams(f"address: {len(value)} addresses, at most {MAX_ALTERNATIVES}")
    return tuple(read_address("address", one) for one in value)


def read_topics(value: object) -> tuple[tuple[bytes, ...], ...]:
    """The `topics` of a log filter: by position null, one topic, or a list of which any will do."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TOPICS:
        raise InvalidParams(f"topics: {_short(value)} is not a list of at most {MAX_TOPICS}")
    return tuple(_alternatives(one) for one in value)


def _alternatives(value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        return (read_hash("topics", value),)
    if len(value) > MAX_ALTERNATIVES:
        raise InvalidParams(f"topics: {len(value)} alternatives, at most {MAX_ALTERNATIVES}")
    if None in value:  # as in geth: null among alternatives makes the position free
        return ()
    return tuple(read_hash("topics", one) for one in value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ----------------------------------------------------------------------------------------------------------- writing


def quantity(value: int) -> str:
    """A number as JSON-RPC spells it."""
    return hex(value)


def data(value: bytes) -> str:
    """Bytes as JSON-RPC spells them."""
    return "0x" + value.hex()


def block_object(block: Block, *, full: bool) -> dict[str, Any]:
    """A block with every header field, so that its hash can be computed again; transactions whole if `full`."""
    header = block.header
    shown: list[Any] = [
        transaction_object(receipt.transaction, receipt, header) if full else data(receipt.transaction.hash)
        for receipt in block.receipts
    ]
    return {
        **_header_object(header),
        "hash": data(header.hash),
        "size": quantity(block.size),
        "transactions": shown,
        "uncles": [],
        "withdrawals": [],
    }


def pending_block_object(head: Header, stamp: int, waiting: Sequence[Transaction], *, full: bool) -> dict[str, Any]:
    """The block that would be made now; what is known only afterwards is null."""
    return {
        **_header_object(head),
        "number": quantity(head.number + 1),
        "parentHash": data(head.hash),
        "timestamp": quantity(stamp),
        "gasUsed": "0x0",
        "stateRoot": None,
        "transactionsRoot": None,
        "receiptsRoot": None,
        "logsBloom": None,
        "mixHash": None,
        "hash": None,
        "nonce": None,
        "miner": None,
        "size": None,
        "transactions": [transaction_object(one) if full else data(one.hash) for one in waiting],
        "uncles": [],
        "withdrawals": [],
    }


def _header_object(header: Header) -> dict[str, Any]:
    return {
        "parentHash": data(header.parent_hash),
        "sha3Uncles": data(header.uncles_hash),
        "miner": data(header.coinbase),
        "stateRoot": data(header.state_root),
        "transactionsRoot": data(header.transaction_root),
        "receiptsRoot": data(header.receipt_root),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "difficulty": quantity(header.difficulty),
        "number": quantity(header.number),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "extraData": data(header.extra_data),
        "mixHash": data(header.mix_hash),
        "nonce": data(header.nonce),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
        "requestsHash": data(header.requests_hash),
    }


def transaction_object(
    transaction: Transaction, receipt: Receipt | None = None, header: Header | None = None
) -> dict[str, Any]:
    """A transaction; its place is null while it waits."""
    shown: dict[str, Any] = {
        "hash": data(transaction.hash),
        "type": quantity(transaction.type_id),
        "nonce": quantity(transaction.nonce),
        "from": data(transaction.sender),
        "to": None if transaction.to is None else data(transaction.to),
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "input": data(transaction.data),
        "v": quantity(transaction.v),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "blockHash": None if receipt is None else data(receipt.block_hash),
        "blockNumber": None if receipt is None else quantity(receipt.block_number),
        "transactionIndex": None if receipt is None else quantity(receipt.transaction_index),
    }
    if header is not None:
        shown["blockTimestamp"] = quantity(header.timestamp)
    if transaction.type_id == 0:
        return {
            **shown,
            "gasPrice": quantity(transaction.max_fee),
            "chainId": quantity((transaction.v - 35) // 2),
        }
    shown |= {
        "chainId": quantity(transaction.signed.chain_id),
        "yParity": quantity(transaction.v),
        "accessList": [
            {"address": data(address), "storageKeys": [data(slot.to_bytes(32, "big")) for slot in slots]}
            for address, slots in transaction.access_list
        ],
        "gasPrice": quantity(transaction.max_fee),
    }
    if transaction.type_id == 2:
        shown |= {
            "maxFeePerGas": quantity(transaction.max_fee),
            "maxPriorityFeePerGas": quantity(transaction.max_priority_fee),
            "gasPrice": quantity(transaction.max_fee if receipt is None else transaction.effective_gas_price),
        }
    return shown


def receipt_object(receipt: Receipt) -> dict[str, Any]:
    """A receipt with its logs."""
    transaction = receipt.transaction
    return {
        "transactionHash": data(transaction.hash),
        "transactionIndex": quantity(receipt.transaction_index),
        "blockHash": data(receipt.block_hash),
        "blockNumber": quantity(receipt.block_number),
        "from": data(transaction.sender),
        "to": None if transaction.to is None else data(transaction.to),
        "contractAddress": None if receipt.contract_address is None else data(receipt.contract_address),
        "type": quantity(transaction.type_id),
        "status": quantity(receipt.status),
        "gasUsed": quantity(receipt.gas_used),
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "effectiveGasPrice": quantity(transaction.effective_gas_price),
        "logsBloom": data(receipt.bloom.to_bytes(256, "big")),
        "logs": [log_object(log) for log in receipt.logs],
    }


def log_object(log: Log) -> dict[str, Any]:
    """An event and its place. `removed` is never true: this chain has no forks."""
    return {
        "address": data(log.address),
        "topics": [data(topic) for topic in log.topics],
        "data": data(log.data),
        "blockNumber": quantity(log.block_number),
        "blockHash": data(log.block_hash),
        "blockTimestamp": quantity(log.block_timestamp),
        "transactionHash": data(log.transaction_hash),
        "transactionIndex": quantity(log.transaction_index),
        "logIndex": quantity(log.log_index),
        "removed": False,
    }


def tip_percentiles(block: Block, percentiles: Sequence[float]) -> list[str]:
    """The tips paid in a block at the given percentiles of its gas (the `reward` of eth_feeHistory)."""
    paid = sorted((one.transaction.effective_gas_price - BASE_FEE_WEI, one.gas_used) for one in block.receipts)
    tips: list[str] = []
    for percentile in percentiles:
        threshold = block.header.gas_used * percentile / 100
        reached = 0
        tip = 0
        for tip, gas in paid:  # noqa: B007 - the last one looked at is the answer
            reached += gas
            if reached >= threshold:
                break
        tips.append(quantity(tip))
    return tips
