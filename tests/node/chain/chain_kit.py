"""What the tests of the embedded chain share: a standing clock, hand-assembled contracts, signed transactions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_utils.address import to_checksum_address

from node.chain.clock import TestClock
from node.chain.engine import Engine
from node.chain.evm import Block, Transaction
from node.chain.genesis import ChainGenesis
from node.chain.rpc import Rpc
from node.chain.server import Miner

REPOSITORY = Path(__file__).resolve().parents[3]
CHAIN_ID = 2**41 + 7
START = 1_760_000_000
ALICE = Account.from_key(b"\xa1" * 32)
BOB = Account.from_key(b"\xb0" * 32)
POOR = Account.from_key(b"\xcc" * 32)

# Run time code, assembled by hand.
COUNTER = "60015f54015f5500"  # storage[0] += 1
RECORDER = "425f554460015500"  # storage[0] = timestamp, storage[1] = prevrandao
GATE = "5f354210600b57425f55005b5f5ffd"  # reverts while timestamp < word 0 of the call data, else stores the timestamp
LOGGER = "602060405f376020355f3560205fa200"  # log2(word 0, word 1) with word 2 as data
REFUSER = "365f5f37365ffd"  # reverts with its call data
CLOCK = "425f524360205244604052466060526080" + "5ff3"  # returns timestamp, number, prevrandao, chain id
SPINNER = "5b5f56"  # an endless loop
NESTER = "5f5f5f5f5f305af100"  # calls itself with all its gas, as deep as that goes


def address_of(account: Any) -> bytes:
    return bytes.fromhex(account.address[2:])


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def initcode(runtime: str) -> bytes:
    code = bytes.fromhex(runtime)
    return bytes.fromhex(f"60{len(code):02x}8060095f395ff3") + code


def genesis() -> ChainGenesis:
    return ChainGenesis(CHAIN_ID, START, {address_of(ALICE): 10**20, address_of(BOB): 10**20})


class StandingClock:
    """A clock that moves only when a test moves it."""

    def __init__(self, time: float = START + 100.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


def sign(account: Any, nonce: int, **fields: Any) -> bytes:
    transaction = {
        "to": "0x" + "11" * 20,
        "value": 1,
        "nonce": nonce,
        "gas": 300_000,
        "maxFeePerGas": 20,
        "maxPriorityFeePerGas": 1,
        "chainId": CHAIN_ID,
    } | fields
    if "gasPrice" in transaction:
        del transaction["maxFeePerGas"], transaction["maxPriorityFeePerGas"]
    if isinstance(transaction["to"], bytes):
        transaction["to"] = to_checksum_address(transaction["to"]) if transaction["to"] else ""
    return bytes(account.sign_transaction({k: v for k, v in transaction.items() if v is not None}).raw_transaction)


class Chain:
    """An engine with the nonces kept, mining at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def send(self, account: Any = ALICE, **fields: Any) -> Transaction:
        sender = address_of(account)
        nonce = self.engine.pool.next_nonce(sender, self.engine.evm.nonce(sender))
        return self.engine.submit(sign(account, nonce, **fields))

    def mine(self, account: Any = ALICE, **fields: Any) -> Block:
        self.send(account, **fields)
        block = self.engine.mine()
        assert block is not None
        return block

    def deploy(self, runtime: str) -> bytes:
        receipt = self.mine(to=b"", value=0, data=initcode(runtime)).receipts[0]
        assert receipt.status == 1
        assert receipt.contract_address is not None
        return receipt.contract_address


def ask_raw(engine: Engine, *bodies: bytes, test_clock: TestClock | None = None) -> list[bytes]:
    """Answer request bodies one after the other with the real miner running beside."""

    async def run() -> list[bytes]:
        miner = Miner(engine)
        mining = asyncio.create_task(miner.run())
        rpc = Rpc(engine, miner, test_clock)
        try:
            return [await rpc.answer(body) for body in bodies]
        finally:
            mining.cancel()

    return asyncio.run(run())


def ask(engine: Engine, method: str, *params: Any, test_clock: TestClock | None = None) -> dict[str, Any]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    answer: dict[str, Any] = json.loads(ask_raw(engine, body, test_clock=test_clock)[0])
    return answer


class ChainProcess:
    """The real process, as a supervisor starts it."""

    def __init__(self, home: Path, *arguments: str, file_limit: int | None = None) -> None:
        self.process = start(home, *arguments, file_limit=file_limit)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, complaint = self.process.communicate(timeout=30)
            raise AssertionError(f"the chain did not start: {complaint}")
        self.ready: dict[str, Any] = json.loads(line)
        self.url: str = self.ready["url"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)

    def stop(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


def start(home: Path, *arguments: str, file_limit: int | None = None) -> subprocess.Popen[str]:
    """Start the process; `file_limit` is the size in bytes at which a file of its stops growing, as on a full disk."""
    limit = [] if file_limit is None else ["prlimit", f"--fsize={file_limit}"]
    return subprocess.Popen(
        [*limit, sys.executable, "-B", "-m", "node.chain", "--home", str(home), *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_to_end(home: Path, *arguments: str) -> tuple[int, str]:
    """Start the process, wait until it gives up, and return its exit code and what it said."""
    process = start(home, *arguments)
    _, complaint = process.communicate(timeout=60)
    return process.returncode, complaint


def journal_hashes(lines: Sequence[str]) -> list[str]:
    return [json.loads(line)["hash"] for line in lines]
