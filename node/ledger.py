"""The ledger on any Ethereum client: the only file that talks to one.

Rules of this file:

1. Standard `eth_*` methods over HTTP. The form of every answer is checked, and its size and time are bounded; whether
   it is *true* is not decided here: accumulators, parent hashes and receipts roots tell (`node/follower.py`).
2. The clock is the block stamp. A call whose meaning depends on it gets its gas limit from a table: an estimate is made
   at another moment than the execution, and may take another path through the contract.

Everything blocks; under trio it runs in a worker thread. A thread whose task was cancelled goes on, so a cancelled send
may still land: that is harmless, because every statement is idempotent.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from crypto.digest import Digest
from crypto.errors import EncodingError
from crypto.keys import LedgerKey, address_text
from node.abi import Codec, EncodedCall
from node.account import MemorySentStore, SendingAccount, SentStore
from node.errors import (
    CallReverted,
    ChainDisputed,
    ChainUnreachable,
    LedgerError,
    NotFound,
    Refused,
    VerificationFailed,
)
from node.evidence import BlockEvidence, verify_block
from node.jsonrpc import (
    ReplyLost,
    RpcError,
    data,
    header_rlp,
    json_list,
    json_object,
    quantity,
    raw_log,
    receipt_rlp,
    revert_data,
    word,
)
from node.jsontext import check_depth
from node.records import Call, Contracts, Head, Logged, Position, Sent

PUBLIC_CHAINS: Final = {
    1: "Ethereum",
    10: "Optimism",
    56: "BNB Smart Chain",
    100: "Gnosis",
    137: "Polygon",
    250: "Fantom",
    324: "zkSync Era",
    8453: "Base",
    17000: "Holesky",
    42161: "Arbitrum One",
    42220: "Celo",
    43114: "Avalanche",
    59144: "Linea",
    80002: "Polygon Amoy",
    84532: "Base Sepolia",
    421614: "Arbitrum Sepolia",
    534352: "Scroll",
    560048: "Hoodi",
    11155111: "Sepolia",
    11155420: "Optimism Sepolia",
}
"""Chains that the world reads and keeps for ever: refused unless the study says so."""

LOG_SPAN_BLOCKS: Final = 1_000
"""Blocks asked for at once; many clients refuse more than a few thousand."""

TRANSFER_GAS: Final = 21_000
MAX_ANSWER_BYTES: Final = 64 << 20
"""Of one answer. A block of 36 million gas has at most 4.5 MB of logs (8 gas a byte), three times that as JSON."""

_READ_ATTEMPTS: Final = 8
_STAMPS_KEPT: Final = 10_000


class EthereumClient:
    """JSON-RPC over HTTP to one Ethereum client, of one expected chain id.

    The chain id is asked for before anything else, and again after every outage: another chain may have come up there.
    """

    def __init__(
        self,
        url: str,
        chain_id: int | None,
        *,
        token: str | None = None,
        timeout_s: float = 10.0,
        allow_public_chain: bool = False,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: http or https.
            chain_id: the expected id; None takes whatever chain is there (a deployment).
            token: bearer token, where the chain asks for one.
            timeout_s: for one request.
            allow_public_chain: the study says so and forbids real patients.
        """
        self.url = url
        self._chain_id = chain_id
        self._allow_public_chain = allow_public_chain
        self._known = False
        self._connection = _BoundedConnection(url, token, timeout_s)

    @property
    def chain_id(self) -> int:
        """The chain's id, asked for once.

        Raises:
            Refused: a public chain.
            LedgerError: another chain than expected.
        """
        if not self._known or self._chain_id is None:
            found = quantity(self._request("eth_chainId", []))
            if self._chain_id is not None and found != self._chain_id:
                raise LedgerError(f"the chain at {self.url} has id {found}, expected {self._chain_id}")
            if found in PUBLIC_CHAINS and not self._allow_public_chain:
                raise Refused(
                    f"chain {found} ({PUBLIC_CHAINS[found]}) is public; koinon writes only to a chain of its own"
                )
            self._chain_id, self._known = found, True
        return self._chain_id

    def call(self, method: str, *params: object) -> Any:
        """The result of one request.

        Raises:
            ChainUnreachable: no answer.
            RpcError: the client's own error.
            LedgerError: another chain than expected.
        """
        _ = self.chain_id
        return self._request(method, list(params))

    def block(self, which: int | str) -> dict[str, Any]:
        """A block without its transactions' contents, by number or by "latest" or "pending"; `NotFound` if none."""
        block = self.call("eth_getBlockByNumber", hex(which) if isinstance(which, int) else which, False)
        if block is None:
            raise NotFound(f"the chain at {self.url} has no block {which}")
        return json_object("block", block)

    def height(self) -> int:
        """Number of the newest block."""
        return quantity(self.call("eth_blockNumber"))

    def hash_of(self, number: int) -> Digest:
        """The hash that the client states for a block; `NotFound` if there is none."""
        return word(self.block(number)["hash"])

    def receipt(self, transaction: bytes) -> dict[str, Any] | None:
        """The receipt of a mined transaction, or None."""
        found = self.call("eth_getTransactionReceipt", "0x" + transaction.hex())
        # A pending transaction has a receipt without a block on some clients.
        if found is None:
            return None
        receipt = json_object("receipt", found)
        return None if receipt.get("blockNumber") is None else receipt

    def _request(self, method: str, params: list[Any]) -> Any:
        try:
            answer = self._connection.ask(method, params)
        except requests.RequestException as error:
            self._known = False
            if isinstance(error, requests.ReadTimeout):
                raise ReplyLost(f"no whole answer from the chain at {self.url}: {error}") from error
            if _was_delivered(error):
                raise ReplyLost(f"no answer from the chain at {self.url}: {type(error).__name__}") from error
            raise ChainUnreachable(f"no chain answers at {self.url}: {type(error).__name__}") from error
        except (ValueError, TypeError, RecursionError) as error:
            self._known = False
            raise ReplyLost(f"{self.url} answers {method} with something that is not JSON ({error})") from error
        except LedgerError:
            self._known = False
            raise
        if not isinstance(answer, dict) or ("error" not in answer and "result" not in answer):
            raise ReplyLost(f"{self.url} does not speak JSON-RPC: neither a result nor an error to {method}")
        if answer.get("error") is not None:
            fault = answer["error"]
            if not isinstance(fault, dict):
                raise RpcError(f"{method}: {fault}")
            code = fault.get("code")
            message = f"{method}: {str(fault.get('message', 'no message'))[:500]}"
            raise RpcError(message, code if isinstance(code, int) else 0, revert_data(fault))
        return answer.get("result")


class _BoundedConnection:
    """One request, one answer of bounded size, within a bounded time, from the address that was asked and no other."""

    def __init__(self, url: str, token: str | None, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._session = requests.Session()
        # A proxy of the environment has no business between this process and a chain on the same machine.
        self._session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")
        self._session.headers["Content-Type"] = "application/json"
        self._session.headers["Accept-Encoding"] = "identity"  # what is counted is what was sent
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, params: list[Any]) -> Any:
        """The client's answer as JSON, whatever it says.

        Raises:
            requests.RequestException: no answer.
            ReplyLost, ChainUnreachable: an answer that is none.
            ValueError, RecursionError: not JSON.
        """
        url, deadline = self._url, time.monotonic() + self._timeout_s
        request = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        body = bytearray()
        with self._session.post(
            url, json.dumps(request), timeout=self._timeout_s, stream=True, allow_redirects=False
        ) as response:
            # read1 returns what is there: a line that gives a byte now and then must not outlast the deadline.
            while piece := response.raw.read1(1 << 16):
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise ReplyLost(f"{url} answers {method} with more than {MAX_ANSWER_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise requests.ReadTimeout(f"not within {self._timeout_s:g} s")
            if response.status_code != requests.codes.ok and not body.lstrip().startswith(b"{"):
                said = f"{url} answers {method} with HTTP {response.status_code} {str(response.reason)[:40]}"
                # A gateway's 5xx may come after the request went through; a 4xx says that it did not.
                raise ReplyLost(said) if response.status_code >= 500 else ChainUnreachable(said)
        check_depth(bytes(body))  # the decoder would overrun the stack (node/jsontext.py)
        return json.loads(body)


class EthereumLedger:
    """The `Ledger` of `node/records.py` on any Ethereum client."""

    def __init__(
        self,
        client: EthereumClient,
        contracts: Contracts,
        account: SendingAccount,
        codec: Codec,
        *,
        confirmations: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is sent yet; :func:`connect` puts one together.

        Args:
            client: the chain.
            contracts: the deployment on it.
            account: pays for the transactions.
            codec: from the contracts' ABI.
            confirmations: blocks that must stand on a block before it counts as final; 0 on the embedded chain.
            wall_clock: for clients that do not tell the stamp of the next block.
        """
        self.contracts = contracts
        self.client = client
        self._account = account
        self._codec = codec
        self._confirmations = confirmations
        self._wall_clock = wall_clock
        self._stamps: dict[str, int] = {}

    # --- reading

    def head(self) -> Head:
        """The newest block, the newest final block and the stamp a transaction sent now would get, at least."""
        latest = self.client.block("latest")
        number, timestamp = quantity(latest["number"]), quantity(latest["timestamp"])
        pending = self._pending_stamp()
        return Head(
            number=number,
            block_hash=word(latest["hash"]),
            timestamp=timestamp,
            final_number=max(0, number - self._confirmations),
            time=max(timestamp, int(self._wall_clock()) if pending is None or pending <= timestamp else pending),
        )

    def records(self, first_block: int, last_block: int) -> Sequence[Logged]:
        """All records of all deployments in blocks [first_block, last_block], in order."""
        found: list[Logged] = []
        span = LOG_SPAN_BLOCKS
        last_block = min(last_block, quantity(self.client.call("eth_blockNumber")))
        start = max(0, first_block)
        while start <= last_block:
            end = min(last_block, start + span - 1)
            try:
                logs = self._logs(start, end)
            except RpcError:
                # Clients bound the answer in different ways; one block is the least that can be asked for.
                if span == 1:
                    raise
                span = max(1, span // 8)
                continue
            found.extend(logs)
            start = end + 1
        return found

    def accumulators(self) -> tuple[Digest, Digest, Digest]:
        """Rolling accumulators of Membership, ConsentRegistry, UnlearningRegistry, all at one newest block."""
        for _ in range(_READ_ATTEMPTS):
            before = self.client.block("latest")["hash"]
            values = self._accumulators("latest")
            # By tag, because clients without an archive refuse old numbers; so look whether a block came between.
            if self.client.block("latest")["hash"] == before:
                return values
        raise LedgerError(f"the chain at {self.client.url} grows faster than it can be read")

    def accumulators_at(self, number: int) -> tuple[Digest, Digest, Digest] | None:
        """The same after block `number`; None when the client has no state that old any more."""
        try:
            return self._accumulators(hex(number))
        except (RpcError, NotFound):
            return None

    def _accumulators(self, block: str) -> tuple[Digest, Digest, Digest]:
        question = "0x" + self._codec.accumulator_call().hex()
        found = [
            data(self.client.call("eth_call", {"to": address_text(address), "data": question}, block))
            for address in (self.contracts.membership, self.contracts.consent, self.contracts.unlearning)
        ]
        if found == [b"", b"", b""] and self.contracts.before is not None:
            raise NotFound(f"the deployment is younger than block {block}")
        membership, consent, unlearning = (word("0x" + answer.hex()) for answer in found)
        return membership, consent, unlearning

    def block_hash(self, number: int) -> Digest:
        """Hash of block `number`; `NotFound` when there is no such block."""
        return self.client.hash_of(number)

    def evidence(self, number: int) -> BlockEvidence:
        """Header and receipts of block `number`, checked against each other and the hash that the client states.

        Raises:
            NotFound: there is no such block.
            ChainDisputed: the client's header does not hash to the block's hash, or its receipts are not the header's
                or not of the transactions that the block lists.
        """
        block = self.client.block(number)
        receipts = self._receipts(block)
        transactions = tuple(word(found["transactionHash"]) for found in receipts)
        listed = tuple(word(one) for one in json_list("transactions", block["transactions"]))
        if transactions != listed:
            raise ChainDisputed(
                f"{self.client.url}: block {number}: transactions: the block lists {_hashes(listed)}, "
                f"its receipts are of {_hashes(transactions)}"
            )
        evidence = BlockEvidence(
            number, header_rlp(block), tuple(receipt_rlp(found) for found in receipts), transactions
        )
        try:
            verified = verify_block(evidence)
        except VerificationFailed as error:
            raise ChainDisputed(f"{self.client.url}: {error.message}") from None
        if verified.block_hash != word(block["hash"]):
            raise ChainDisputed(
                f"{self.client.url}: block {number}: header hash: "
                f"stated {word(block['hash']).hex()}, computed {verified.block_hash.hex()}"
            )
        return evidence

    # --- writing

    def send(self, call: Call) -> Sent:
        """Carry a call to the chain and wait until it is mined."""
        try:
            encoded = self._codec.encode(call, self.contracts)
        except EncodingError as error:
            raise LedgerError(f"{type(call).__name__} cannot be encoded: {error}") from error
        receipt = self._account.transact(encoded.to, encoded.data, lambda: self._gas(encoded))
        if quantity(receipt["status"]) != 1:
            raise self._why_reverted(encoded, receipt)
        number = quantity(receipt["blockNumber"])
        logs = [raw_log(json_object("log", entry)) for entry in json_list("logs", receipt["logs"])]
        return Sent(
            transaction=word(receipt["transactionHash"]),
            block=number,
            gas_used=quantity(receipt["gasUsed"]),
            records=tuple(
                record
                for log in logs
                for contracts in self.contracts.line
                for record in self._codec.records(log, contracts)
            ),
        )

    def resend(self, after: int, upto: int) -> int:
        """As :meth:`SendingAccount.resend`."""
        return self._account.resend(after, upto)

    def _gas(self, call: EncodedCall) -> int:
        """The gas limit. Raises `CallReverted` when the client can tell that the next block would refuse the call."""
        question = {
            "from": address_text(self._account.address),
            "to": address_text(call.to),
            "data": "0x" + call.data.hex(),
        }
        latest = self.client.block("latest")
        most = quantity(latest["gasLimit"])
        try:
            if not call.timed:
                return min(most, quantity(self.client.call("eth_estimateGas", question)) * 5 // 4 + 20_000)
            self.client.call("eth_call", question, "pending")
        except RpcError as error:
            # A client whose pending block is only the head judges by an old stamp: let the chain itself decide.
            if error.data is not None and (not call.timed or self._judges_as_of_now(quantity(latest["timestamp"]))):
                raise self._codec.reverted(error.data) from error
        return min(most, call.gas)

    def _why_reverted(self, call: EncodedCall, receipt: Mapping[str, Any]) -> CallReverted:
        """Ask the client to repeat a failed call where it failed: the chain itself keeps no reason."""
        question = {
            "from": address_text(self._account.address),
            "to": address_text(call.to),
            "data": "0x" + call.data.hex(),
        }
        if quantity(receipt["gasUsed"]) >= call.gas:
            return CallReverted(f"the call ran out of its {call.gas} gas", "OutOfGas")
        try:
            self.client.call("eth_call", question, receipt["blockNumber"])
        except RpcError as error:
            if error.data is not None:
                return self._codec.reverted(error.data)
        return CallReverted("the contract refused the call, and the client does not say why")

    # --- pieces

    def _pending_stamp(self) -> int | None:
        try:
            return quantity(self.client.block("pending")["timestamp"])
        except (RpcError, NotFound):  # optional in the standard
            return None

    def _judges_as_of_now(self, head_stamp: int) -> bool:
        pending = self._pending_stamp()
        return pending is not None and (pending > head_stamp or pending >= int(self._wall_clock()))

    def _logs(self, first: int, last: int) -> list[Logged]:
        addresses = [
            address
            for one in self.contracts.line
            for address in (one.membership, one.consent, one.training, one.unlearning)
        ]
        entries = self.client.call(
            "eth_getLogs",
            {"fromBlock": hex(first), "toBlock": hex(last), "address": [address_text(one) for one in addresses]},
        )
        found: list[Logged] = []
        for entry in (json_object("log", one) for one in json_list("logs", entries)):
            log = raw_log(entry)
            for deployment, contracts in enumerate(self.contracts.line):
                found.extend(
                    Logged(
                        position=Position(quantity(entry["blockNumber"]), log.log_index, place),
                        block_hash=word(entry["blockHash"]),
                        timestamp=self._stamp(entry),
                        transaction=log.transaction,
                        record=record,
                        deployment=deployment,
                    )
                    for place, record in enumerate(self._codec.records(log, contracts))
                )
        return sorted(found, key=lambda logged: logged.position)

    def _stamp(self, entry: Mapping[str, Any]) -> int:
        """The stamp of a log's block: newer clients say it with the log."""
        stated = entry.get("blockTimestamp")
        if stated is not None:
            return quantity(stated)
        block_hash = str(entry["blockHash"])
        if block_hash not in self._stamps:
            block = self.client.call("eth_getBlockByHash", block_hash, False)
            if block is None:
                raise LedgerError(f"block {block_hash} was replaced while its logs were read; read again")
            block = json_object("block", block)
            if len(self._stamps) >= _STAMPS_KEPT:
                self._stamps.clear()
            self._stamps[block_hash] = quantity(block["timestamp"])
        return self._stamps[block_hash]

    def _receipts(self, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            found = self.client.call("eth_getBlockReceipts", block["number"])
        except RpcError:  # optional: ask one by one
            transactions = json_list("transactions", block["transactions"])
            found = [self.client.receipt(data(transaction)) for transaction in transactions]
        if not isinstance(found, list) or None in found:
            raise LedgerError(f"block {quantity(block['number'])}: the client does not give its receipts")
        return [json_object("receipt", one) for one in found]


def connect(
    url: str,
    contracts: Contracts,
    key: LedgerKey,
    store: SentStore,
    *,
    codec: Codec | None = None,
    confirmations: int = 0,
    token: str | None = None,
    timeout_s: float = 10.0,
    mine_timeout_s: float = 60.0,
    allow_public_chain: bool = False,
) -> EthereumLedger:
    """A ledger by URL. Nothing is sent before the first use; the chain's id is checked then.

    Args:
        url: of any Ethereum client's JSON-RPC.
        contracts: the deployment; its chain id is the expected one.
        key: of the account that pays.
        store: keeps signed bytes before they are sent.
        codec: from another ABI than the one that comes with this package.
        confirmations: see :class:`EthereumLedger`.
        token: bearer token, where the chain asks for one.
        timeout_s: for one request.
        mine_timeout_s: for a transaction to be mined.
        allow_public_chain: the study says so and forbids real patients.
    """
    client = EthereumClient(
        url, contracts.chain_id, token=token, timeout_s=timeout_s, allow_public_chain=allow_public_chain
    )
    account = SendingAccount(client, key, store, mine_timeout_s=mine_timeout_s)
    return EthereumLedger(client, contracts, account, codec or Codec.load(), confirmations=confirmations)


def hand_over(client: EthereumClient, old: LedgerKey, new: bytes) -> int:
    """Move most of the coin of an account of ours to another, if that has less; how many wei.

    A tenth stays: transactions that are signed and not yet mined have to be paid from it.
    """
    held, there = (quantity(client.call("eth_getBalance", address_text(one), "latest")) for one in (old.address, new))
    value = held - held // 10
    if held <= there or value == 0:
        return 0
    SendingAccount(client, old, MemorySentStore()).transact(new, b"", lambda: TRANSFER_GAS, value=value)
    return value


def _hashes(transactions: Sequence[Digest]) -> str:
    return ", ".join(one.hex() for one in transactions) or "none"


def _was_delivered(error: requests.RequestException) -> bool:
    """Whether the request may have arrived although the answer did not."""
    if isinstance(error, requests.ConnectTimeout):
        return False
    if isinstance(error, requests.ConnectionError) and error.args:
        reason = getattr(error.args[0], "reason", error.args[0])
        return type(reason).__name__ not in ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError")
    return True
