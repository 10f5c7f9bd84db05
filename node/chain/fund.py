"""Coin for a newcomer: a transfer signed with the operator's key, which only the home that made the chain has.

Plain HTTP from the standard library, so that no running node is needed.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from eth_utils.address import to_checksum_address

from node import jsontext
from node.chain.endpoint import load_endpoint
from node.chain.genesis import load_genesis, load_operator_key
from node.errors import ChainUnreachable, InputError, LedgerError, NotFound, OutcomeUnknown

TRANSFER_GAS = 21_000
ATTEMPTS = 5
POLL_S = 0.05
MAX_ANSWER_BYTES = 5 << 20


@dataclass(frozen=True)
class Funded:
    """A transfer that was mined: its hash, its block, and what the account holds after it."""

    transaction_hash: bytes
    block_number: int
    balance: int


def fund(
    home: Path,
    address: bytes,
    wei: int,
    *,
    url: str | None = None,
    token: str | None = None,
    timeout_s: float = 30.0,
) -> Funded:
    """Send coin from the operator's account and wait until it is mined.

    Args:
        home: the network home that made the chain; it holds the operator's key.
        address: 20 bytes.
        wei: how much.
        url: where the chain answers; None: where `home` says it runs.
        token: the chain's bearer token, if it has one and `url` is given.
        timeout_s: for the whole of it.

    Raises:
        InputError: not an address, or not an amount.
        NotFound: no genesis or no operator key in this home.
        ChainUnreachable: nothing answers there.
        LedgerError: another chain answers, or it refuses the transfer.
        OutcomeUnknown: sent, but not mined in time.
    """
    if len(address) != 20:
        raise InputError(f"an address has 20 bytes, not {len(address)}")
    if wei <= 0:
        raise InputError(f"{wei} wei is not an amount that can be sent")
    genesis = load_genesis(home)
    key = load_operator_key(home)
    if url is None:
        try:
            endpoint = load_endpoint(home)
        except NotFound as error:
            raise ChainUnreachable(error.message) from None
        url, token = endpoint.url, endpoint.token
    client = _Client(url, token, time.monotonic() + timeout_s)
    answered = int(client.call("eth_chainId"), 16)
    if answered != genesis.chain_id:
        raise LedgerError(f"the chain at {url} has id {answered}, the one in {home} has {genesis.chain_id}")
    transaction_hash = _send(client, genesis.chain_id, key, address, wei)
    while (receipt := client.call("eth_getTransactionReceipt", transaction_hash)) is None:
        if client.remaining_s() <= POLL_S:
            raise OutcomeUnknown(f"transfer {transaction_hash} was sent and is not mined after {timeout_s} s")
        time.sleep(POLL_S)
    if receipt["status"] != "0x1":
        raise LedgerError(f"transfer {transaction_hash} failed: the recipient 0x{address.hex()} does not take coin")
    return Funded(
        transaction_hash=bytes.fromhex(transaction_hash[2:]),
        block_number=int(receipt["blockNumber"], 16),
        balance=int(client.call("eth_getBalance", "0x" + address.hex(), "latest"), 16),
    )


def _send(client: _Client, chain_id: int, key: bytes, address: bytes, wei: int) -> str:
    from eth_account import Account  # not at the top, for the reason in `SendingAccount._sign`

    operator = Account.from_key(key).address
    gas_price = int(client.call("eth_gasPrice"), 16)
    for attempt in range(ATTEMPTS):
        nonce = int(client.call("eth_getTransactionCount", operator, "pending"), 16)
        transfer = {
            "chainId": chain_id,
            "nonce": nonce,
            "to": to_checksum_address(address),
            "value": wei,
            "gas": TRANSFER_GAS,
            "maxFeePerGas": 2 * gas_price,
            "maxPriorityFeePerGas": 1,
        }
        signed = Account.sign_transaction(transfer, key)
        try:
            return str(client.call("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex()))
        except LedgerError as error:
            # Somebody else funds an account at the same moment and has taken this nonce.
            taken = any(text in error.message for text in ("nonce too low", "already known", "underpriced"))
            if not taken or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")


class _Client:
    """JSON-RPC over HTTP, one call a connection, until a moment."""

    def __init__(self, url: str, token: str | None, deadline: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url!r} is not an http address")
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._deadline = deadline

    def remaining_s(self) -> float:
        return self._deadline - time.monotonic()

    def call(self, method: str, *params: object) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self._url, data=body, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=max(self.remaining_s(), 0.1)) as response:
                answer = jsontext.loads(response.read(MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            raise LedgerError(f"the chain at {self._url} answered {error.code} {error.reason}") from None
        except (OSError, HTTPException) as error:
            raise ChainUnreachable(f"no chain answers at {self._url}: {getattr(error, 'reason', error)}") from None
        except ValueError:
            raise LedgerError(f"what answers at {self._url} is not a chain") from None
        if not isinstance(answer, dict):
            raise LedgerError(f"what answers at {self._url} is not a chain")
        if "error" in answer:
            raise LedgerError(f"{method}: {answer['error'].get('message')}")
        return answer.get("result")
