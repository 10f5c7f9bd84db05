"""The account that pays: signs transactions, remembers them before they are sent, and finds out what became of them.

Rules of this file:

1. Signed bytes are remembered before they are sent. A lost reply is resolved by the transaction's receipt, or by
   sending the same bytes again; only when neither is possible is the outcome unknown.
2. One lock and one nonce for an account; the lock is not held while a transaction waits to be mined.
3. A nonce that another transaction took makes the remembered bytes worthless; then, and only then, the call is signed
   again. So one call is never mined twice by this account because a reply was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Protocol

from eth_account import Account

from crypto.digest import Digest, keccak256
from crypto.keys import LedgerKey, address_text
from node.errors import ChainUnreachable, LedgerError, OutcomeUnknown
from node.jsonrpc import ReplyLost, RpcError, quantity

_ATTEMPTS: Final = 8
_REBROADCAST_S: Final = 1.0
_KNOWN: Final = ("already known", "known transaction", "already imported", "already in pool", "alreadyknown")
_NONCE_USED: Final = ("nonce too low", "nonce is too low")
_NONCE_WAITING: Final = ("underpriced", "replacement transaction", "nonce too high")


class Client(Protocol):
    """What an account needs of a chain; `node.ledger.EthereumClient` is one."""

    @property
    def chain_id(self) -> int:
        """EIP-155 id."""
        ...

    def call(self, method: str, *params: object) -> Any:
        """The result of one JSON-RPC request."""
        ...

    def block(self, which: int | str) -> dict[str, Any]:
        """A block without its transactions' contents."""
        ...

    def receipt(self, transaction: bytes) -> dict[str, Any] | None:
        """The receipt of a mined transaction, or None."""
        ...


class SentStore(Protocol):
    """Where signed transactions are kept until their fate is known. `key` names the call: its contract and bytes."""

    def remember(self, key: Digest, raw: bytes, transaction: Digest) -> None:
        """Keep the signed bytes of a call, durably, before they are sent; replaces earlier ones of the same call."""
        ...

    def recall(self, key: Digest) -> tuple[bytes, Digest] | None:
        """The signed bytes and transaction hash kept for a call whose fate is not settled, if any."""
        ...

    def settle(self, key: Digest) -> None:
        """The call's fate is known: forget its bytes."""
        ...


class MemorySentStore:
    """A `SentStore` for one process's life: a command line, a deployment, a test."""

    def __init__(self) -> None:
        """Start empty."""
        self._sent: dict[Digest, tuple[bytes, Digest]] = {}

    def remember(self, key: Digest, raw: bytes, transaction: Digest) -> None:
        """Keep the bytes in memory."""
        self._sent[key] = (raw, transaction)

    def recall(self, key: Digest) -> tuple[bytes, Digest] | None:
        """The bytes kept, if any."""
        return self._sent.get(key)

    def settle(self, key: Digest) -> None:
        """Forget them."""
        self._sent.pop(key, None)


class _Fate(Enum):
    """What became of an attempt to hand in a transaction."""

    SENT = "the client has it"
    NONCE_USED = "another transaction with its nonce is in the chain"
    NONCE_WAITING = "another transaction with its nonce waits to be mined"


class SendingAccount:
    """One account that pays for transactions: its key, its nonce, its lock.

    Two of these for one account are harmless but slow each other: whoever finds its nonce taken signs again.
    """

    def __init__(
        self,
        client: Client,
        key: LedgerKey,
        store: SentStore,
        *,
        mine_timeout_s: float = 60.0,
        poll_s: float = 0.25,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is sent yet.

        Args:
            client: the chain.
            key: pays; what a contract accepts depends on the statements inside a call, never on this key.
            store: keeps signed bytes before they are sent.
            mine_timeout_s: how long a transaction may wait to be mined before its outcome counts as unknown.
            poll_s: longest pause between two looks for a receipt.
            sleep: how to pause.
        """
        self._client = client
        self._key = key
        self._store = store
        self._mine_timeout_s = mine_timeout_s
        self._poll_s = poll_s
        self._sleep = sleep
        self._lock = threading.Lock()

    @property
    def address(self) -> bytes:
        """The 20-byte address that pays."""
        return self._key.address

    def nonce(self) -> int:
        """The next nonce, pending transactions counted."""
        return quantity(self._client.call("eth_getTransactionCount", address_text(self.address), "pending"))

    def transact(
        self, to: bytes | None, data: bytes, gas: Callable[[], int], *, nonce: int | None = None, value: int = 0
    ) -> dict[str, Any]:
        """Send one transaction and wait for its receipt, whatever its status.

        Args:
            to: the contract, or None to create one.
            data: call data or creation code.
            gas: finds the gas limit; asked only when there are no bytes of an earlier attempt to go on with. What it
                raises is raised here.
            nonce: this nonce and no other (a deployment whose addresses were announced).
            value: wei to send along.

        Raises:
            ChainUnreachable: nothing was sent.
            OutcomeUnknown: it left, and its fate could not be found out.
            LedgerError: the client refuses the transaction.
        """
        key = keccak256((to or b"") + data)
        for _ in range(_ATTEMPTS):
            raw, transaction = self._submit(key, to, data, gas, nonce, value)
            receipt = self._await(raw, transaction)
            if receipt is not None:
                self._store.settle(key)
                return receipt
            if nonce is not None:
                raise LedgerError(f"nonce {nonce} of {address_text(self.address)} was used by another transaction")
            self._store.settle(key)  # its nonce was taken: these bytes can never be mined
        raise LedgerError(f"another process keeps taking the nonces of {address_text(self.address)}")

    def _submit(
        self, key: Digest, to: bytes | None, data: bytes, gas: Callable[[], int], nonce: int | None, value: int
    ) -> tuple[bytes, Digest]:
        with self._lock:
            earlier = self._store.recall(key)
            if earlier is not None:
                receipt = self._client.receipt(earlier[1])
                if receipt is None or quantity(receipt["status"]) == 1:
                    return earlier
                self._store.settle(key)  # it failed once, under other circumstances
            limit = gas()
            for _ in range(_ATTEMPTS):
                raw, transaction = self._sign(to, data, limit, self.nonce() if nonce is None else nonce, value)
                self._store.remember(key, raw, transaction)
                try:
                    if self._broadcast(raw, transaction) is _Fate.SENT:
                        return raw, transaction
                except ReplyLost:
                    return raw, transaction
                except LedgerError:
                    self._store.settle(key)
                    raise
                self._store.settle(key)
                if nonce is not None:
                    break
            raise LedgerError(f"the next nonce of {address_text(self.address)} is taken by a transaction still waiting")

    def _sign(self, to: bytes | None, data: bytes, gas: int, nonce: int, value: int) -> tuple[bytes, Digest]:
        fields: dict[str, Any] = {
            "chainId": self._client.chain_id,
            "nonce": nonce,
            "gas": gas,
            "value": value,
            "data": data,
            **self._fee(),
        }
        if to is not None:
            fields["to"] = address_text(to)
        signed = Account.sign_transaction(fields, self._key.to_bytes())
        return bytes(signed.raw_transaction), Digest(bytes(signed.hash))

    def _fee(self) -> dict[str, int]:
        base = self._client.block("latest").get("baseFeePerGas")
        if base is None:
            return {"gasPrice": quantity(self._client.call("eth_gasPrice"))}
        try:
            tip = quantity(self._client.call("eth_maxPriorityFeePerGas"))
        except RpcError:  # not every client of a consortium knows it
            tip = 0
        # Twice the base fee covers the six full blocks by which it can rise meanwhile.
        return {"type": 2, "maxPriorityFeePerGas": tip, "maxFeePerGas": 2 * quantity(base) + tip}

    def _broadcast(self, raw: bytes, transaction: Digest) -> _Fate:
        try:
            self._client.call("eth_sendRawTransaction", "0x" + raw.hex())
        except RpcError as error:
            words = error.message.lower()
            if any(known in words for known in _KNOWN):
                return _Fate.SENT
            if any(taken in words for taken in (*_NONCE_USED, *_NONCE_WAITING)):
                if self._client.receipt(transaction) is not None:
                    return _Fate.SENT
                return _Fate.NONCE_USED if any(used in words for used in _NONCE_USED) else _Fate.NONCE_WAITING
            if "insufficient funds" in words or "enough funds" in words:
                raise LedgerError(f"account {address_text(self.address)} cannot pay for the transaction") from error
            raise
        return _Fate.SENT

    def _await(self, raw: bytes, transaction: Digest) -> dict[str, Any] | None:
        """The receipt, or None when the transaction can never be mined."""
        waited, pause, last_fault = 0.0, 0.005, "not mined yet"
        since_sent = 0.0
        while True:
            try:
                receipt = self._client.receipt(transaction)
                if receipt is not None:
                    return receipt
                if since_sent >= _REBROADCAST_S:
                    since_sent = 0.0
                    if self._broadcast(raw, transaction) is _Fate.NONCE_USED:
                        return None
            except ChainUnreachable as error:
                last_fault = error.message
            if waited >= self._mine_timeout_s:
                raise OutcomeUnknown(
                    f"transaction {transaction.hex()} was sent; its fate is unknown after {waited:.0f} s: {last_fault}"
                )
            self._sleep(pause)
            waited += pause
            since_sent += pause
            pause = min(pause * 1.5, self._poll_s)
