"""The only door to py-evm: signed bytes and a stamp in, blocks out; calls and state at any block.

py-evm is driven directly (`MiningChain.mine_all`), not through eth-tester. Two things it does not do are done here:
the stamp and the randomness of a block are put into the header *before* its transactions run (`mine_all` itself would
put them in afterwards, and contracts would see other values than the header says), and a transaction signed for
another chain is refused (py-evm accepts it).

Choices of this chain, all deterministic, so that the journal replays to identical hashes:

- Rules of Prague. Blob transactions (type 3) and set-code transactions (type 4) are refused: nothing here needs them,
  and without them an account is charged by its own transactions only, which is what lets the pool promise that a
  batch runs.
- Coinbase is the zero address, `prevrandao` is sha256 of the parent's hash, the gas limit never moves.
- Blocks are filled up to half of their gas limit, the EIP-1559 target. The base fee then stays what it was at genesis:
  7 wei is a fixed point of the integer rule for blocks at or below the target.
- EIP-2935 and EIP-4788 system contracts are not deployed, so `requestsHash` is always that of no requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import rlp
from eth.chains.base import MiningChain
from eth.consensus.pos import PosConsensus
from eth.constants import SECPK1_N
from eth.db.atomic import AtomicDB
from eth.exceptions import OutOfGas, PyEVMError, Revert, VMError
from eth.vm.chain_context import ChainContext
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_hash.auto import keccak
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from node.chain.errors import ExecutionFailed, ExecutionReverted, TransactionRefused
from node.chain.genesis import ChainGenesis

BLOCK_GAS_LIMIT = 300_000_000
BLOCK_GAS_TARGET = BLOCK_GAS_LIMIT // 2
TRANSACTION_GAS_CAP = 2**24  # as EIP-7825; bounds, too, how long one transaction or call can hold up the process
BASE_FEE_WEI = 7
MAX_TRANSACTION_BYTES = 128 * 1024
MAX_INITCODE_BYTES = 49_152  # EIP-3860
FLOOR_GAS_PER_TOKEN = 10  # EIP-7623
TOKENS_PER_NONZERO_BYTE = 4
PLAIN_GAS = 21_000

_LEGACY, _ACCESS_LIST, _DYNAMIC_FEE = 0, 1, 2
_ERROR_STRING = bytes.fromhex("08c379a0")  # Error(string)
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256)

# py-evm logs every block; what a reader of this process needs is said by the engine.
logging.getLogger("eth").setLevel(logging.WARNING)


class _PragueRules(PragueVM):
    """Prague without proof of work: whoever holds the journal makes the blocks."""

    consensus_class = PosConsensus

    @classmethod
    def validate_header(cls, header: Any, parent_header: Any) -> None:
        """As py-evm does it, but a block may have its parent's stamp; see the rules of time in `engine`."""
        earlier = parent_header.copy(timestamp=parent_header.timestamp - 1)
        super().validate_header(header, earlier)


@dataclass(frozen=True)
class Transaction:
    """A signed transaction, checked in form, chain id and signature.

    Attributes:
        raw: the signed bytes as sent, EIP-2718.
        hash: keccak256 of `raw`.
        type_id: 0 legacy, 1 access list, 2 dynamic fee.
        sender: recovered 20-byte address.
        nonce, gas, value: as signed.
        max_fee, max_priority_fee: wei per gas; both are the gas price for types 0 and 1.
        to: 20-byte address, None for a contract creation.
        data: call data or initcode.
        access_list: (address, storage slots) pairs.
        v: `v` of a legacy transaction, else the parity of y.
        r, s: the signature.
        needed_gas: the least gas limit that Prague accepts for it (intrinsic cost and calldata floor).
    """

    raw: bytes
    hash: bytes
    type_id: int
    sender: bytes
    nonce: int
    gas: int
    value: int
    max_fee: int
    max_priority_fee: int
    to: bytes | None
    data: bytes
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...]
    v: int
    r: int
    s: int
    needed_gas: int
    signed: Any  # py-evm's own object, which only this file looks into

    @property
    def most_cost(self) -> int:
        """The most wei it can take from its sender."""
        return self.gas * self.max_fee + self.value

    @property
    def effective_gas_price(self) -> int:
        """Wei per gas actually paid."""
        return min(self.max_fee, self.max_priority_fee + BASE_FEE_WEI)


@dataclass(frozen=True)
class Header:
    """Every field of a Prague block header, in the order of its RLP, and its hash."""

    parent_hash: bytes
    uncles_hash: bytes
    coinbase: bytes
    state_root: bytes
    transaction_root: bytes
    receipt_root: bytes
    bloom: int
    difficulty: int
    number: int
    gas_limit: int
    gas_used: int
    timestamp: int
    extra_data: bytes
    mix_hash: bytes
    nonce: bytes
    base_fee_per_gas: int
    withdrawals_root: bytes
    blob_gas_used: int
    excess_blob_gas: int
    parent_beacon_block_root: bytes
    requests_hash: bytes
    hash: bytes


@dataclass(frozen=True)
class Log:
    """An event: who emitted it, its topics (32 bytes each) and data, and where it stands."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    block_timestamp: int
    transaction_hash: bytes
    transaction_index: int
    log_index: int  # within the block


@dataclass(frozen=True)
class Receipt:
    """What a transaction did.

    Attributes:
        status: 1 it ran, 0 it was reverted or ran out of gas.
        gas_used, cumulative_gas_used: of this transaction; of its block up to it.
        contract_address: of a creation, else None.
        bloom: 2048-bit filter over its logs.
    """

    transaction: Transaction
    transaction_index: int
    block_hash: bytes
    block_number: int
    status: int
    gas_used: int
    cumulative_gas_used: int
    contract_address: bytes | None
    bloom: int
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class Block:
    """A mined block: header, transactions and their receipts (same order), size of its RLP in bytes."""

    header: Header
    transactions: tuple[Transaction, ...]
    receipts: tuple[Receipt, ...]
    size: int


@dataclass(frozen=True)
class Message:
    """What eth_call and eth_estimateGas run: `to` None creates a contract; `gas` None means the cap."""

    sender: bytes = bytes(20)
    to: bytes | None = None
    gas: int | None = None
    value: int = 0
    data: bytes = b""
    gas_price: int = 0


@dataclass(frozen=True)
class CallResult:
    """What a call returned and the gas it used (refunds given back, calldata floor applied)."""

    output: bytes
    gas_used: int
    gas_refund: int


def floor_gas(data: bytes) -> int:
    """The calldata floor of EIP-7623: what a transaction with this data pays at least."""
    zeros = data.count(0)
    return PLAIN_GAS + FLOOR_GAS_PER_TOKEN * (zeros + TOKENS_PER_NONZERO_BYTE * (len(data) - zeros))


def decode_transaction(raw: bytes, chain_id: int) -> Transaction:
    """Read and check a signed transaction: size, form, type, chain id, signature, and gas against what Prague demands.

    Raises:
        TransactionRefused: worded as geth words it.
    """
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise TransactionRefused(f"oversized data: transaction size {len(raw)}, limit {MAX_TRANSACTION_BYTES}")
    if not raw:
        raise TransactionRefused("typed transaction too short")
    # EIP-2718: below 0x7f a type byte, from 0xc0 the list of a legacy transaction.
    if raw[0] < 0xC0 and raw[0] not in (_ACCESS_LIST, _DYNAMIC_FEE):
        raise TransactionRefused("transaction type not supported")
    try:
        signed: Any = _PragueRules.get_transaction_builder().decode(raw)
        canonical = signed.encode() == raw
    except (rlp.RLPException, PyEVMError, ValidationError, ValueError, TypeError, IndexError) as error:
        raise TransactionRefused(f"rlp: {type(error).__name__} while decoding the transaction") from None
    if not canonical:
        raise TransactionRefused("rlp: non-canonical encoding")
    type_id = _LEGACY if raw[0] >= 0xC0 else raw[0]
    v = signed.v if type_id == _LEGACY else signed.y_parity
    _check_chain_id(signed.chain_id, v, chain_id, legacy=type_id == _LEGACY)
    if signed.s > SECPK1_N // 2:
        raise TransactionRefused("invalid sender: the signature's s is in the upper half (EIP-2)")
    try:
        signed.validate()
        sender = bytes(signed.sender)
    except (PyEVMError, ValidationError, BadSignature, ValueError, TypeError) as error:
        raise TransactionRefused(f"invalid sender: {error}") from None
    fees = (signed.max_fee_per_gas, signed.max_priority_fee_per_gas)
    if fees[1] > fees[0]:
        raise TransactionRefused(
            "max priority fee per gas higher than max fee per gas: "
            f"maxPriorityFeePerGas: {fees[1]}, maxFeePerGas: {fees[0]}"
        )
    to = bytes(signed.to) or None
    if to is None and len(signed.data) > MAX_INITCODE_BYTES:
        raise TransactionRefused(f"max initcode size exceeded: size {len(signed.data)}, limit {MAX_INITCODE_BYTES}")
    intrinsic = int(signed.intrinsic_gas)
    if signed.gas < intrinsic:
        raise TransactionRefused(f"intrinsic gas too low: gas {signed.gas}, minimum needed {intrinsic}")
    floor = floor_gas(signed.data)
    if signed.gas < floor:
        raise TransactionRefused(f"insufficient gas for floor data gas cost: gas {signed.gas}, minimum needed {floor}")
    return Transaction(
        raw=raw,
        hash=keccak(raw),
        type_id=type_id,
        sender=sender,
        nonce=signed.nonce,
        gas=signed.gas,
        value=signed.value,
        max_fee=fees[0],
        max_priority_fee=fees[1],
        to=to,
        data=bytes(signed.data),
        access_list=()
        if type_id == _LEGACY
        else tuple((bytes(address), tuple(slots)) for address, slots in signed.access_list),
        v=v,
        r=signed.r,
        s=signed.s,
        needed_gas=max(intrinsic, floor),
        signed=signed,
    )


def _check_chain_id(signed_for: int | None, v: int, chain_id: int, *, legacy: bool) -> None:
    if legacy and v in (27, 28):
        raise TransactionRefused("only replay-protected (EIP-155) transactions allowed over RPC")
    if signed_for != chain_id:
        raise TransactionRefused(f"invalid chain id for signer: have {signed_for} want {chain_id}")


class Evm:
    """One chain in memory, from its genesis on. State of every block is kept, so calls at old blocks work."""

    def __init__(self, genesis: ChainGenesis) -> None:
        """Make block 0.

        Args:
            genesis: chain id, first stamp and allocation.
        """
        self.chain_id = genesis.chain_id
        # py-evm's types are narrower than what it takes (bytes for an address); this file gives its results types.
        self._rules: Any = _PragueRules
        chain_class: Any = MiningChain.configure(
            __name__="EmbeddedChain",
            vm_configuration=((0, _PragueRules),),
            chain_id=genesis.chain_id,
        )
        parameters = {
            "difficulty": 0,
            "gas_limit": BLOCK_GAS_LIMIT,
            "timestamp": genesis.timestamp,
            "base_fee_per_gas": BASE_FEE_WEI,
            # The id is not part of a header; here it is, so that two networks never share a genesis hash.
            "extra_data": b"koinon/1 " + genesis.chain_id.to_bytes(8, "big"),
        }
        allocation = {
            address: {"balance": wei, "nonce": 0, "code": b"", "storage": {}}
            for address, wei in genesis.allocation.items()
        }
        self._db = AtomicDB()
        self._chain: Any = chain_class.from_genesis(self._db, parameters, allocation)
        self._head = self._chain.get_canonical_head()
        self._head_state: Any = None  # for reading only, made when first asked for
        self.head = _header(self._head)
        self.genesis_block = Block(self.head, (), (), len(rlp.encode(self._chain.get_canonical_block_by_number(0))))

    # ---------------------------------------------------------------------------------------------------- making blocks

    def mine(self, transactions: Sequence[Transaction], timestamp: int) -> Block:
        """Run the transactions in this order and put their block on the head.

        Args:
            transactions: at least one; gas limits add up to at most BLOCK_GAS_TARGET.
            timestamp: the block's stamp, not below the head's.

        Raises:
            TransactionRefused: one of them cannot be in this block (nonce, balance, fee); nothing has changed then.
        """
        self._chain.header = self._next_header(timestamp)
        try:
            result, receipts, _ = self._chain.mine_all([transaction.signed for transaction in transactions])
        except (PyEVMError, ValidationError) as error:
            raise TransactionRefused(f"block {self.head.number + 1} cannot be made: {error}") from None
        made = result.imported_block
        self._head = made.header
        self._head_state = None
        self.head = _header(made.header)
        return Block(
            header=self.head,
            transactions=tuple(transactions),
            receipts=_receipts(self.head, transactions, receipts),
            size=len(rlp.encode(made)),
        )

    def _next_header(self, timestamp: int) -> Any:
        return self._chain.create_header_from_parent(
            self._head,
            timestamp=timestamp,
            gas_limit=self._head.gas_limit,
            mix_hash=sha256(self._head.hash).digest(),
            extra_data=b"",
        )

    # ------------------------------------------------------------------------------------------------------------ calls

    def call(self, message: Message, *, timestamp: int | None = None, at: Header | None = None) -> CallResult:
        """Run a message without keeping what it changes and without charging for gas.

        Args:
            message: what to run; its gas is capped at TRANSACTION_GAS_CAP.
            timestamp: run it in the block that would follow the head, with this stamp.
            at: or run it in this old block, after its transactions. Exactly one of the two is given.

        Raises:
            ExecutionReverted: the contract reverted; its bytes are kept.
            ExecutionFailed: any other end.
        """
        if (timestamp is None) == (at is None):
            raise ValueError("a call runs either in the next block or in an old one")
        if at is not None:
            header = self._chain.get_block_header_by_hash(at.hash)
        else:
            header = self._next_header(timestamp or 0)
        # As in geth: a call that offers no fee sees no base fee.
        state = self._state(header.copy(base_fee_per_gas=0))
        gas = min(message.gas or TRANSACTION_GAS_CAP, TRANSACTION_GAS_CAP)
        unsigned = self._rules.create_unsigned_transaction(
            nonce=state.get_nonce(message.sender),
            gas_price=0,
            gas=gas,
            to=message.to or b"",
            value=message.value,
            data=message.data,
        )
        needed = max(unsigned.intrinsic_gas, floor_gas(message.data))
        if gas < needed:
            raise ExecutionFailed(f"intrinsic gas too low: gas {gas}, minimum needed {needed}")
        if state.get_balance(message.sender) < message.value:
            raise ExecutionFailed(f"insufficient funds for transfer: address 0x{message.sender.hex()}")
        spoofed = SpoofTransaction(unsigned, from_=message.sender)
        try:
            computation = state.apply_transaction(spoofed)
        except (PyEVMError, ValidationError) as error:
            raise ExecutionFailed(str(error)) from None
        if computation.is_error:
            _raise_as_geth(computation.error)
        spent = gas - computation.get_gas_remaining()
        refund = min(computation.get_gas_refund(), spent // 5)  # EIP-3529
        return CallResult(bytes(computation.output), max(spent - refund, floor_gas(message.data)), refund)

    def least_gas(self, message: Message) -> int:
        """The gas limit below which Prague refuses the message outright."""
        unsigned = self._rules.create_unsigned_transaction(
            nonce=0, gas_price=0, gas=0, to=message.to or b"", value=message.value, data=message.data
        )
        return max(int(unsigned.intrinsic_gas), floor_gas(message.data))

    # ------------------------------------------------------------------------------------------------------------ state

    def nonce(self, address: bytes, at: Header | None = None) -> int:
        """The next nonce of an account, after block `at` (None: the head)."""
        return int(self._state_after(at).get_nonce(address))

    def balance(self, address: bytes, at: Header | None = None) -> int:
        """The wei of an account, after block `at` (None: the head)."""
        return int(self._state_after(at).get_balance(address))

    def code(self, address: bytes, at: Header | None = None) -> bytes:
        """The code of a contract, after block `at` (None: the head)."""
        return bytes(self._state_after(at).get_code(address))

    def storage(self, address: bytes, slot: int, at: Header | None = None) -> int:
        """A storage word of a contract, after block `at` (None: the head)."""
        return int(self._state_after(at).get_storage(address, slot))

    def _state_after(self, at: Header | None) -> Any:
        if at is not None and at.hash != self.head.hash:
            return self._state(self._chain.get_block_header_by_hash(at.hash))
        if self._head_state is None:
            self._head_state = self._state(self._head)
        return self._head_state

    def _state(self, header: Any) -> Any:
        hashes = self._rules.get_prev_hashes(header.parent_hash, self._chain.chaindb)
        return self._rules.build_state(self._db, header, ChainContext(self.chain_id), hashes or ())


def _raise_as_geth(error: VMError) -> None:
    if isinstance(error, Revert):
        data = error.args[0] if error.args and isinstance(error.args[0], bytes) else b""
        reason = _revert_reason(data)
        raise ExecutionReverted("execution reverted" + (f": {reason}" if reason else ""), data)
    if isinstance(error, OutOfGas):
        raise ExecutionFailed("out of gas")
    raise ExecutionFailed(f"{type(error).__name__}: {error}")


def _revert_reason(data: bytes) -> str | None:
    """The sentence of `Error(string)` or the code of `Panic(uint256)`; None for anything else (custom errors)."""
    if data[:4] == _PANIC and len(data) == 36:
        return f"panic: 0x{int.from_bytes(data[4:], 'big'):02x}"
    if data[:4] != _ERROR_STRING or len(data) < 68 or int.from_bytes(data[4:36], "big") != 32:
        return None
    length = int.from_bytes(data[36:68], "big")
    if length > len(data) - 68:
        return None
    return data[68 : 68 + length].decode("utf-8", errors="replace")


def _header(header: Any) -> Header:
    fields = header.as_dict()
    fields["number"] = fields.pop("block_number")
    return Header(**fields, hash=header.hash)


def _receipts(header: Header, transactions: Sequence[Transaction], receipts: Sequence[Any]) -> tuple[Receipt, ...]:
    made: list[Receipt] = []
    before = 0
    log_index = 0
    for index, (transaction, receipt) in enumerate(zip(transactions, receipts, strict=True)):
        logs: list[Log] = []
        for log in receipt.logs:
            logs.append(
                Log(
                    address=bytes(log.address),
                    topics=tuple(topic.to_bytes(32, "big") for topic in log.topics),
                    data=bytes(log.data),
                    block_number=header.number,
                    block_hash=header.hash,
                    block_timestamp=header.timestamp,
                    transaction_hash=transaction.hash,
                    transaction_index=index,
                    log_index=log_index,
                )
            )
            log_index += 1
        creates = transaction.to is None
        made.append(
            Receipt(
                transaction=transaction,
                transaction_index=index,
                block_hash=header.hash,
                block_number=header.number,
                status=1 if receipt.state_root == b"\x01" else 0,  # EIP-658
                gas_used=receipt.gas_used - before,
                cumulative_gas_used=receipt.gas_used,
                contract_address=keccak(rlp.encode([transaction.sender, transaction.nonce]))[12:] if creates else None,
                bloom=receipt.bloom,
                logs=tuple(logs),
            )
        )
        before = receipt.gas_used
    return tuple(made)
