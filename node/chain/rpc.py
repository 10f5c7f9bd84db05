"""JSON-RPC over one chain: the standard `eth_*` methods, with geth's error codes and wording.

What is peculiar to this chain:

- `safe` and `finalized` are the newest block: there is one producer and no forks.
- A call at `latest` or `pending` runs in the block that would come next, at the stamp it would get (DESIGN: a deadline
  passes on a quiet chain). A call at a number or a hash runs in that block, with its stamp.
- `eth_sendRawTransaction` answers when the transaction's block is on the disk; only if the chain has to wait for the
  clock, or a lower nonce is missing, it answers at once and the transaction waits in the pool.
- `koinon_setTime` and `koinon_increaseTime` move the clock of a chain that was started with --test-clock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from node import jsontext
from node.chain import codec
from node.chain.clock import TestClock
from node.chain.codec import HEAD_TAGS, InvalidParams, data, quantity
from node.chain.engine import Engine
from node.chain.errors import ExecutionFailed, ExecutionReverted, TransactionRefused
from node.chain.evm import BASE_FEE_WEI, Block, Header, Transaction
from node.chain.genesis import MAX_TIMESTAMP
from node.chain.index import LogFilter

CLIENT_VERSION = "koinon-chain/1/py-evm/prague"
MAX_BATCH = 256
MAX_LOGS = 50_000
MAX_FEE_HISTORY = 1024
PRIORITY_FEE_WEI = 1

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
EXECUTION_REVERTED = 3

_log = logging.getLogger(__name__)


class Sender(Protocol):
    """Whoever takes signed transactions and makes blocks of them."""

    async def send(self, raw: bytes) -> Transaction:
        """Take a transaction; return when it is on the disk, or known to have to wait."""
        ...

    def wake(self) -> None:
        """The clock was moved: what had to wait may be due."""
        ...


class RpcError(Exception):
    """An error of JSON-RPC: code, message, and for a revert its bytes."""

    def __init__(self, code: int, message: str, revert: bytes | None = None) -> None:
        """Keep the three."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.revert = revert


@dataclass(frozen=True)
class _Method:
    """A method, and how many parameters it takes."""

    run: Callable[..., Any]
    least: int
    most: int


class Rpc:
    """Answers request bodies. One for the life of a server."""

    def __init__(self, engine: Engine, sender: Sender, test_clock: TestClock | None = None) -> None:
        """Set up the method table.

        Args:
            engine: the chain.
            sender: takes transactions.
            test_clock: the engine's clock if tests may move it.
        """
        self._engine = engine
        self._sender = sender
        self._clock = test_clock
        self._methods: dict[str, _Method] = {
            "web3_clientVersion": _Method(lambda: CLIENT_VERSION, 0, 0),
            "net_version": _Method(lambda: str(engine.chain_id), 0, 0),
            "net_listening": _Method(lambda: True, 0, 0),
            "eth_chainId": _Method(lambda: quantity(engine.chain_id), 0, 0),
            "eth_blockNumber": _Method(lambda: quantity(engine.head.number), 0, 0),
            "eth_syncing": _Method(lambda: False, 0, 0),
            "eth_accounts": _Method(list, 0, 0),
            "eth_gasPrice": _Method(lambda: quantity(BASE_FEE_WEI + PRIORITY_FEE_WEI), 0, 0),
            "eth_maxPriorityFeePerGas": _Method(lambda: quantity(PRIORITY_FEE_WEI), 0, 0),
            "eth_feeHistory": _Method(self._fee_history, 2, 3),
            "eth_getBlockByNumber": _Method(self._block_by_number, 2, 2),
            "eth_getBlockByHash": _Method(self._block_by_hash, 2, 2),
            "eth_getBlockReceipts": _Method(self._block_receipts, 1, 1),
            "eth_getTransactionByHash": _Method(self._transaction, 1, 1),
            "eth_getTransactionReceipt": _Method(self._receipt, 1, 1),
            "eth_getTransactionCount": _Method(self._nonce, 2, 2),
            "eth_getBalance": _Method(self._balance, 2, 2),
            "eth_getCode": _Method(self._code, 2, 2),
            "eth_getStorageAt": _Method(self._storage, 3, 3),
            "eth_call": _Method(self._call, 1, 3),
            "eth_estimateGas": _Method(self._estimate_gas, 1, 3),
            "eth_sendRawTransaction": _Method(self._send, 1, 1),
            "eth_getLogs": _Method(self._logs, 1, 1),
            "koinon_setTime": _Method(self._set_time, 1, 1),
            "koinon_increaseTime": _Method(self._increase_time, 1, 1),
        }

    # ----------------------------------------------------------------------------------------------------- requests

    async def answer(self, body: bytes) -> bytes:
        """Answer a request body: one call or a batch. Never raises for anything a client can send.

        Returns:
            The response body; empty if the request held notifications only.
        """
        try:
            request = jsontext.loads(body)
        except ValueError:
            return _encode(_failure(None, PARSE_ERROR, "parse error"))
        if not isinstance(request, list):
            answer = await self._answer_one(request)
            return b"" if answer is None else _encode(answer)
        if not request:
            return _encode(_failure(None, INVALID_REQUEST, "empty batch"))
        if len(request) > MAX_BATCH:
            return _encode(
                _failure(None, INVALID_REQUEST, f"batch too large: {len(request)} calls, at most {MAX_BATCH}")
            )
        # Together, so that the transactions of a batch meet in one block; what does not wait runs in the given order.
        answers = [one for one in await asyncio.gather(*map(self._answer_one, request)) if one is not None]
        return _encode(answers) if answers else b""

    async def _answer_one(self, request: object) -> dict[str, Any] | None:
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
            return _failure(None, INVALID_REQUEST, "invalid request")
        identifier, method = request.get("id"), request.get("method")
        if isinstance(identifier, bool) or not isinstance(identifier, str | int | float | None):
            return _failure(None, INVALID_REQUEST, "invalid request")
        if not isinstance(method, str):
            return _failure(identifier, INVALID_REQUEST, "invalid request")
        try:
            result = await self._run(method, request.get("params"))
        except RpcError as error:
            answer = _failure(identifier, error.code, error.message, error.revert)
        else:
            answer = {"jsonrpc": "2.0", "id": identifier, "result": result}
        return answer if "id" in request else None

    async def _run(self, name: str, params: object) -> Any:
        method = self._methods.get(name)
        if method is None:
            raise RpcError(METHOD_NOT_FOUND, f"the method {name[:80]} does not exist/is not available")
        if self._engine.failed:
            raise RpcError(INTERNAL_ERROR, "the chain is stopping: its disk failed")
        given = [] if params is None else params
        if not isinstance(given, list):
            raise RpcError(INVALID_PARAMS, "non-array args")
        if len(given) > method.most:
            raise RpcError(INVALID_PARAMS, f"too many arguments, want at most {method.most}")
        if len(given) < method.least:
            raise RpcError(INVALID_PARAMS, f"missing value for required argument {len(given)}")
        try:
            result = method.run(*given)
            return await result if isinstance(result, Awaitable) else result
        except InvalidParams as error:
            raise RpcError(INVALID_PARAMS, f"invalid argument: {error.message}") from None
        except ExecutionReverted as error:
            raise RpcError(EXECUTION_REVERTED, error.message, error.data) from None
        except (TransactionRefused, ExecutionFailed) as error:
            raise RpcError(SERVER_ERROR, error.message) from None
        except RpcError:
            raise
        except Exception as error:
            _log.exception("%s failed", name)
            raise RpcError(INTERNAL_ERROR, f"internal error: {type(error).__name__}") from None

    # ------------------------------------------------------------------------------------------------------- blocks

    def _block_at(self, value: object) -> Block | None:
        """The block a parameter names: a tag, a number, or an object with a number or a hash (EIP-1898)."""
        index = self._engine.index
        if isinstance(value, dict):
            if "blockHash" in value:
                return index.block_by_hash(codec.read_hash("blockHash", value["blockHash"]))
            value = value.get("blockNumber")
        if value in HEAD_TAGS:
            return index.block(index.height)
        if value == "earliest":
            return index.block(0)
        return index.block(codec.read_quantity("block", value))

    def _header_at(self, value: object) -> Header:
        block = self._block_at(value)
        if block is None:
            raise RpcError(SERVER_ERROR, "header not found")
        return block.header

    def _block_by_number(self, number: object, full: object) -> Any:
        whole = codec.read_flag("argument 1", full)
        if number == "pending":
            engine = self._engine
            return codec.pending_block_object(engine.head, engine.next_stamp(), engine.executable(), full=whole)
        block = self._block_at(number)
        return None if block is None else codec.block_object(block, full=whole)

    def _block_by_hash(self, block_hash: object, full: object) -> Any:
        block = self._engine.index.block_by_hash(codec.read_hash("argument 0", block_hash))
        return None if block is None else codec.block_object(block, full=codec.read_flag("argument 1", full))

    def _block_receipts(self, value: object) -> Any:
        if isinstance(value, str) and len(value) == 66:
            value = {"blockHash": value}
        block = self._block_at(value)
        return None if block is None else [codec.receipt_object(receipt) for receipt in block.receipts]

    def _fee_history(self, count: object, newest: object, percentiles: object = None) -> Any:
        wanted = min(codec.read_quantity("argument 0", count), MAX_FEE_HISTORY)
        shares = _read_percentiles(percentiles)
        last = self._header_at(newest).number
        first = max(0, last - wanted + 1)
        blocks = [block for number in range(first, last + 1) if (block := self._engine.index.block(number)) is not None]
        history: dict[str, Any] = {
            "oldestBlock": quantity(first if blocks else 0),
            "gasUsedRatio": [block.header.gas_used / block.header.gas_limit for block in blocks],
        }
        if blocks:
            # One more than asked: the fee of the block after the newest, which here is always the same.
            history["baseFeePerGas"] = [quantity(BASE_FEE_WEI)] * (len(blocks) + 1)
            history["baseFeePerBlobGas"] = ["0x1"] * (len(blocks) + 1)
            history["blobGasUsedRatio"] = [0] * len(blocks)
        if shares and blocks:
            history["reward"] = [codec.tip_percentiles(block, shares) for block in blocks]
        return history

    # ------------------------------------------------------------------------------------------------- transactions

    def _transaction(self, transaction_hash: object) -> Any:
        wanted = codec.read_hash("argument 0", transaction_hash)
        receipt = self._engine.index.receipt(wanted)
        if receipt is not None:
            block = self._engine.index.block(receipt.block_number)
            return codec.transaction_object(receipt.transaction, receipt, None if block is None else block.header)
        waiting = self._engine.pool.get(wanted)
        return None if waiting is None else codec.transaction_object(waiting)

    def _receipt(self, transaction_hash: object) -> Any:
        receipt = self._engine.index.receipt(codec.read_hash("argument 0", transaction_hash))
        return None if receipt is None else codec.receipt_object(receipt)

    async def _send(self, raw: object) -> str:
        return data((await self._sender.send(codec.read_data("argument 0", raw))).hash)

    # -------------------------------------------------------------------------------------------------------- state

    def _nonce(self, address: object, block: object) -> str:
        account = codec.read_address("argument 0", address)
        nonce = self._engine.evm.nonce(account, self._header_at(block))
        return quantity(self._engine.pool.next_nonce(account, nonce) if block == "pending" else nonce)

    def _balance(self, address: object, block: object) -> str:
        return quantity(self._engine.evm.balance(codec.read_address("argument 0", address), self._header_at(block)))

    def _code(self, address: object, block: object) -> str:
        return data(self._engine.evm.code(codec.read_address("argument 0", address), self._header_at(block)))

    def _storage(self, address: object, slot: object, block: object) -> str:
        account, number = codec.read_address("argument 0", address), codec.read_slot("argument 1", slot)
        return data(self._engine.evm.storage(account, number, self._header_at(block)).to_bytes(32, "big"))

    def _call(self, message: object, block: object = "latest", overrides: object = None) -> str:
        if overrides:
            raise InvalidParams("argument 2: state overrides are not supported")
        call = codec.read_message(message, self._engine.chain_id)
        next_block = block is None or block in HEAD_TAGS
        return data(self._engine.call(call, None if next_block else self._header_at(block)).output)

    def _estimate_gas(self, message: object, block: object = "latest", overrides: object = None) -> str:
        if overrides:
            raise InvalidParams("argument 2: state overrides are not supported")
        if block is not None and self._header_at(block).number != self._engine.head.number:
            raise InvalidParams("argument 1: gas is estimated for the next block only")
        return quantity(self._engine.estimate_gas(codec.read_message(message, self._engine.chain_id)))

    # --------------------------------------------------------------------------------------------------------- logs

    def _logs(self, value: object) -> Any:
        wanted = codec.read_object("argument 0", value)
        if wanted.get("blockHash") is not None:
            if wanted.get("fromBlock") is not None or wanted.get("toBlock") is not None:
                raise InvalidParams("cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other")
            block = self._block_at({"blockHash": wanted["blockHash"]})
            if block is None:
                raise RpcError(SERVER_ERROR, "unknown block")
            first = last = block.header.number
        else:
            first, last = self._height(wanted.get("fromBlock")), self._height(wanted.get("toBlock"))
            if first > last:
                raise RpcError(INVALID_PARAMS, f"invalid block range params: from {first} to {last}")
        addresses, topics = codec.read_addresses(wanted.get("address")), codec.read_topics(wanted.get("topics"))
        found: list[dict[str, Any]] = []
        for log in self._engine.index.logs(LogFilter(first, last, addresses, topics)):
            if len(found) == MAX_LOGS:
                raise RpcError(LIMIT_EXCEEDED, f"query returned more than {MAX_LOGS} results; ask for fewer blocks")
            found.append(codec.log_object(log))
        return found

    def _height(self, value: object) -> int:
        if value is None or value in HEAD_TAGS:
            return self._engine.head.number
        return 0 if value == "earliest" else codec.read_quantity("block", value)

    # -------------------------------------------------------------------------------------------------------- clock

    def _set_time(self, timestamp: object) -> str:
        moment = _read_seconds(timestamp)
        self._test_clock().set(moment)
        self._sender.wake()
        return quantity(self._engine.next_stamp())

    def _increase_time(self, seconds: object) -> str:
        self._test_clock().advance(_read_seconds(seconds))
        self._sender.wake()
        return quantity(self._engine.next_stamp())

    def _test_clock(self) -> TestClock:
        if self._clock is None:
            raise RpcError(
                SERVER_ERROR, "this chain follows the wall clock; start it with --test-clock to move its time"
            )
        return self._clock


def _read_seconds(value: object) -> int:
    """Whole seconds, as a quantity or a JSON number."""
    seconds = value if isinstance(value, int) and not isinstance(value, bool) else codec.read_quantity("seconds", value)
    if not 0 <= seconds <= MAX_TIMESTAMP:
        raise InvalidParams(f"seconds: {seconds} is not from 0 to {MAX_TIMESTAMP}")
    return seconds


def _read_percentiles(value: object) -> Sequence[float]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > 100:
        raise InvalidParams("argument 2: not a list of at most 100 percentiles")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int | float) or not math.isfinite(one) or not 0 <= one <= 100:
            raise InvalidParams(f"argument 2: {one!r} is not a percentile")
    if any(low > high for low, high in pairwise(value)):
        raise InvalidParams("argument 2: the percentiles do not ascend")
    return value


def _failure(identifier: object, code: int, message: str, revert: bytes | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if revert is not None:
        error["data"] = data(revert)
    return {"jsonrpc": "2.0", "id": identifier, "error": error}


def _encode(answer: object) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode()
