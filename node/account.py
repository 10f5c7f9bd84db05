"""The account that pays: signs transactions, remembers them before they are sent, and finds out what became of them.

Rules of this file:

1. Signed bytes are remembered before they are sent. A lost reply is resolved by the transaction's receipt, or by
   sending the same bytes again; only when neither is possible is the outcome unknown.
2. One lock and one nonce for an account; the lock is not held while a transaction waits to be mined.
3. A nonce that another transaction took makes the remembered bytes worthless; then, and only then, the call is signed
   for another nonce. So one call is never mined twice by this account because a reply was lost.
4. A transaction that blocks pass by is signed again with its nonce and a higher fee: only one of them can be mined.
5. What was mined is remembered for a while longer, because a reorganisation can take it out of the chain again. It is
   handed in again before its nonce is given to anything else, and whenever something waits behind the gap it left.
6. A gap that nothing remembered here can fill (another process's transaction was in it) is filled with a transfer of
   nothing to ourselves, once blocks have passed by what waits behind it: else it would wait for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, cast

import rlp

from crypto.digest import Digest, keccak256
from crypto.keys import LedgerKey, address_text
from node.errors import ChainUnreachable, LedgerError, OutcomeUnknown
from node.jsonrpc import ReplyLost, RpcError, quantity

BUMP_BLOCKS: Final = 3
"""Blocks that may pass a waiting transaction by before it is signed again with a higher fee."""

MOST_FEE: Final = 8
"""Higher fees end at this many times what the client suggests: a halted chain must not drive them up for ever."""

TRANSFER_GAS: Final = 21_000
_ATTEMPTS: Final = 8
_EVER: Final = 1 << 62
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
        """Keep the signed bytes of a call, durably, before they are sent; beside earlier ones with the same nonce."""
        ...

    def recall(self, key: Digest) -> Sequence[tuple[bytes, Digest]]:
        """Signed bytes and transaction hashes kept for a call whose fate is not settled, oldest first."""
        ...

    def settle(self, key: Digest, mined: tuple[Digest, int] | None = None) -> None:
        """The call's fate is known: forget its bytes, but for those of the transaction that was `mined` in a block."""
        ...

    def mined(self, after: int, upto: int) -> Sequence[tuple[bytes, Digest]]:
        """What was mined in blocks (after, upto] and is still remembered, in the order it was signed."""
        ...

    def waiting(self) -> Sequence[tuple[bytes, Digest]]:
        """What is kept of calls whose fate is not settled, in the order it was signed."""
        ...

    def moved(self, transaction: Digest, block: int) -> None:
        """A remembered transaction is, or can be, in this block now."""
        ...


class MemorySentStore:
    """A `SentStore` for one process's life: a command line, a deployment, a test."""

    def __init__(self) -> None:
        """Start empty."""
        self._sent: dict[Digest, tuple[Digest, bytes, int | None]] = {}  # transaction -> call, bytes, block

    def remember(self, key: Digest, raw: bytes, transaction: Digest) -> None:
        """Keep the bytes in memory."""
        self._sent[transaction] = (key, raw, None)

    def recall(self, key: Digest) -> Sequence[tuple[bytes, Digest]]:
        """The bytes kept, if any."""
        return [(raw, hash_) for hash_, (call, raw, block) in self._sent.items() if call == key and block is None]

    def settle(self, key: Digest, mined: tuple[Digest, int] | None = None) -> None:
        """Forget them, but for what was mined."""
        for _, transaction in self.recall(key):
            call, raw, _block = self._sent.pop(transaction)
            if mined is not None and transaction == mined[0]:
                self._sent[transaction] = (call, raw, mined[1])

    def mined(self, after: int, upto: int) -> Sequence[tuple[bytes, Digest]]:
        """What was mined in some blocks."""
        found = self._sent.items()
        return [(raw, one) for one, (_, raw, block) in found if block is not None and after < block <= upto]

    def waiting(self) -> Sequence[tuple[bytes, Digest]]:
        """What was not mined yet."""
        return [(raw, one) for one, (_, raw, block) in self._sent.items() if block is None]

    def moved(self, transaction: Digest, block: int) -> None:
        """Note the block."""
        call, raw, _ = self._sent[transaction]
        self._sent[transaction] = (call, raw, block)


class _Fate(Enum):
    """What became of an attempt to hand in a transaction."""

    SENT = "the client has it"
    NONCE_USED = "another transaction with its nonce is in the chain"
    NONCE_WAITING = "another transaction with its nonce waits to be mined"


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a signed transaction offers: its nonce, its gas limit, its fees in wei a unit of gas (no tip: legacy)."""

    nonce: int
    gas: int
    fee: int
    tip: int | None

    @classmethod
    def of(cls, raw: bytes) -> _Terms:
        """Of signed bytes that this file made: EIP-1559 (type 2) or legacy."""
        if raw[0] == 2:
            _, nonce, tip, fee, gas, *_ = (cast(bytes, one) for one in rlp.decode(raw[1:]))
            return cls(_whole(nonce), _whole(gas), _whole(fee), _whole(tip))
        nonce, fee, gas, *_ = (cast(bytes, one) for one in rlp.decode(raw))
        return cls(_whole(nonce), _whole(gas), _whole(fee), None)


def _whole(value: bytes) -> int:
    return int.from_bytes(value, "big")


def fee_fields(client: Client) -> dict[str, int]:
    """The fee that a transaction sent now offers, as its fields have it; all zero on a chain without fees."""
    base = client.block("latest").get("baseFeePerGas")
    if base is None:
        return {"gasPrice": quantity(client.call("eth_gasPrice"))}
    try:
        tip = quantity(client.call("eth_maxPriorityFeePerGas"))
    except RpcError:  # not every client of a consortium knows it
        tip = 0
    # Twice the base fee covers the six full blocks by which it can rise meanwhile.
    return {"type": 2, "maxPriorityFeePerGas": tip, "maxFeePerGas": 2 * quantity(base) + tip}


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
        self._used: int | None = None  # see `_nonces_used`; None: not looked up yet

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
            sent = self._submit(key, to, data, gas, nonce, value)
            receipt = self._await(key, to, data, value, sent)
            if receipt is not None:
                mined = Digest(bytes.fromhex(receipt["transactionHash"][2:]))
                self._store.settle(key, (mined, quantity(receipt["blockNumber"])))
                self._used = max(self._nonces_used(), _Terms.of(sent[0][0]).nonce + 1)
                return receipt
            if nonce is not None:
                raise LedgerError(f"nonce {nonce} of {address_text(self.address)} was used by another transaction")
            self._store.settle(key)  # its nonce was taken: these bytes can never be mined
        raise LedgerError(f"another process keeps taking the nonces of {address_text(self.address)}")

    def resend(self, after: int, upto: int) -> int:
        """Hand in again what was mined in blocks (after, upto] and is not in the chain now: a reorganisation took it.

        The same signed bytes, in their order, so nothing is said twice in other words. What cannot be mined any more
        because another transaction took its nonce is left to whoever ordered it. Returns how many were handed in.
        """
        count = 0
        with self._lock:
            for raw, transaction in self._store.mined(after, upto):
                receipt = self._client.receipt(transaction)
                if receipt is not None:
                    self._store.moved(transaction, quantity(receipt["blockNumber"]))
                    continue
                try:
                    if self._broadcast(raw, transaction) is _Fate.SENT:
                        count += 1
                        self._store.moved(transaction, self._height() + 1)
                except RpcError:
                    continue
        return count

    def _submit(
        self, key: Digest, to: bytes | None, data: bytes, gas: Callable[[], int], nonce: int | None, value: int
    ) -> list[tuple[bytes, Digest]]:
        """Signed bytes that the client has now or may have, all with one nonce, oldest first."""
        with self._lock:
            earlier = list(self._store.recall(key))
            if earlier:
                receipt = self._receipt(earlier)
                if receipt is None or quantity(receipt["status"]) == 1:
                    return earlier
                self._store.settle(key)  # it failed once, under other circumstances
            limit = gas()
            for attempt in range(_ATTEMPTS):
                free = self._free_nonce() if nonce is None else nonce
                raw, transaction = self._sign(to, data, limit, free, value, self._fee())
                self._store.remember(key, raw, transaction)
                try:
                    fate = self._broadcast(raw, transaction)
                except ReplyLost:
                    fate = _Fate.SENT
                except LedgerError:
                    self._store.settle(key)
                    raise
                if fate is _Fate.SENT:
                    return [(raw, transaction)]
                self._store.settle(key)
                if nonce is not None:
                    break
                if fate is _Fate.NONCE_WAITING:  # somebody else uses this account, or the client counts late
                    self._sleep(self._poll_s * attempt)
            raise LedgerError(f"the next nonce of {address_text(self.address)} is taken by a transaction still waiting")

    def _nonces_used(self) -> int:
        """The nonce after the highest of ours that was ever mined, as far as it is remembered."""
        if self._used is None:
            self._used = max((_Terms.of(raw).nonce + 1 for raw, _ in self._store.mined(-1, _EVER)), default=0)
        return self._used

    def _free_nonce(self) -> int:
        """The next nonce. One that we used before is not free: what was mined with it goes in again first."""
        found = self.nonce()
        if found < self._nonces_used():
            self._fill_gap(self._nonces_used())
            found = self.nonce()
        return found

    def _fill_gap(self, before: int) -> None:
        """Hand in again what was mined with a nonce below `before` and is not in the chain now.

        After a reorganisation nothing later of this account can be mined until these are.
        """
        first = quantity(self._client.call("eth_getTransactionCount", address_text(self.address), "latest"))
        if first >= min(before, self._nonces_used()):
            return
        for raw, transaction in self._store.mined(-1, _EVER):
            if first <= _Terms.of(raw).nonce < before:
                self._broadcast(raw, transaction)

    def _close_gap(self, before: int) -> None:
        """Fill the first nonce below `before` that the client has nothing for, with what we have for it or nothing."""
        with self._lock:  # nobody takes a nonce meanwhile
            free = self.nonce()
            if free >= before:
                return
            for raw, transaction in self._store.waiting():  # what was mined went in again (`_fill_gap`)
                if _Terms.of(raw).nonce == free:
                    self._broadcast(raw, transaction)
                    return
            raw, transaction = self._sign(self.address, b"", TRANSFER_GAS, free, 0, self._fee())
            self._broadcast(raw, transaction)

    def _sign(
        self, to: bytes | None, data: bytes, gas: int, nonce: int, value: int, fee: dict[str, int]
    ) -> tuple[bytes, Digest]:
        fields: dict[str, Any] = {
            "chainId": self._client.chain_id,
            "nonce": nonce,
            "gas": gas,
            "value": value,
            "data": data,
            **fee,
        }
        if to is not None:
            fields["to"] = address_text(to)
        # Not at the top: it computes pairings of a curve that nothing here uses, half a second for every process.
        from eth_account import Account

        signed = Account.sign_transaction(fields, self._key.to_bytes())
        return bytes(signed.raw_transaction), Digest(bytes(signed.hash))

    def _fee(self) -> dict[str, int]:
        return fee_fields(self._client)

    def _raised(self, terms: _Terms) -> dict[str, int] | None:
        """A fee that replaces a waiting transaction (clients want a tenth more of both); None beyond `MOST_FEE`."""
        now = self._fee()
        suggested = now.get("maxFeePerGas", now.get("gasPrice", 0))
        fee = max(suggested, terms.fee + terms.fee // 8 + 1)
        if fee > MOST_FEE * max(suggested, 1):
            return None
        if terms.tip is None:
            return {"gasPrice": fee}
        tip = max(now.get("maxPriorityFeePerGas", 0), terms.tip + terms.tip // 8 + 1)
        return {"type": 2, "maxPriorityFeePerGas": min(tip, fee), "maxFeePerGas": fee}

    def _replace(
        self, key: Digest, to: bytes | None, data: bytes, value: int, sent: list[tuple[bytes, Digest]]
    ) -> None:
        """Sign the newest of `sent` again with a higher fee; a client that refuses it keeps the one it has."""
        terms = _Terms.of(sent[-1][0])
        fee = self._raised(terms)
        if fee is None:
            return
        raw, transaction = self._sign(to, data, terms.gas, terms.nonce, value, fee)
        self._store.remember(key, raw, transaction)
        sent.append((raw, transaction))
        self._broadcast(raw, transaction)

    def _receipt(self, sent: Sequence[tuple[bytes, Digest]]) -> dict[str, Any] | None:
        """The receipt of whichever was mined."""
        return next((found for _, one in reversed(sent) if (found := self._client.receipt(one)) is not None), None)

    def _height(self) -> int:
        return quantity(self._client.block("latest")["number"])

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

    def _await(
        self, key: Digest, to: bytes | None, data: bytes, value: int, sent: list[tuple[bytes, Digest]]
    ) -> dict[str, Any] | None:
        """The receipt, or None when the transaction can never be mined."""
        waited, pause, last_fault = 0.0, 0.005, "not mined yet"
        since_sent, passed_from, nonce_used = 0.0, -1, False
        while True:
            try:
                receipt = self._receipt(sent)
                if receipt is not None:
                    return receipt
                if since_sent >= _REBROADCAST_S:
                    since_sent = 0.0
                    if self._broadcast(*sent[-1]) is _Fate.NONCE_USED:
                        receipt = self._receipt(sent)
                        if receipt is not None or nonce_used:
                            return receipt
                        # By one of ours, it may be: clients count a nonce a moment before they have the receipt.
                        nonce_used = True
                    self._fill_gap(_Terms.of(sent[-1][0]).nonce)
                    height = self._height()
                    passed_from = height if passed_from < 0 else passed_from
                    if height - passed_from >= BUMP_BLOCKS:
                        passed_from = height
                        self._close_gap(_Terms.of(sent[-1][0]).nonce)
                        self._replace(key, to, data, value, sent)
            except (ChainUnreachable, RpcError) as error:
                last_fault = error.message
            if waited >= self._mine_timeout_s:
                raise OutcomeUnknown(
                    f"transaction {sent[-1][1].hex()} was sent; its fate is unknown after {waited:.0f} s: {last_fault}"
                )
            self._sleep(pause)
            waited += pause
            since_sent += pause
            pause = min(pause * 1.5, self._poll_s)
