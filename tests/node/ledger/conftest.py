"""One world for every ledger: the in-memory one, the embedded chain behind HTTP, and anvil.

A `World` has members with keys, a ledger, and a clock that only the test moves. The suite does not know which is which.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from crypto.keys import LedgerKey
from node.abi import Codec
from node.account import MemorySentStore, SendingAccount
from node.chain.clock import TestClock
from node.chain.engine import Engine
from node.chain.genesis import ChainGenesis
from node.chain.rpc import Rpc
from node.chain.server import Miner
from node.deployment import deploy, pay, plan_deployment
from node.ledger import EthereumClient, EthereumLedger
from node.memory.ledger import MemoryLedger, memory_contracts
from node.records import Continuation, Contracts
from tests.anvil import anvil as anvil_process
from tests.node.ledger.world import World, founding

COIN = 10**24
START = 1_800_000_000


class Chain:
    """A real chain for the whole session: a URL, a funded account, a way to move its time."""

    def __init__(self, url: str, operator: LedgerKey, advance: Callable[[EthereumClient, int], None]) -> None:
        self.url = url
        self.operator = operator
        self.advance = advance

    def client(self) -> EthereumClient:
        return EthereumClient(self.url, None)


class EmbeddedChain:
    """The embedded chain's engine behind its own JSON-RPC, in a thread of this process, on the test clock."""

    def __init__(self) -> None:
        self.operator = LedgerKey.generate()
        self.clock = TestClock()
        self.clock.set(START)
        genesis = ChainGenesis(2**40 + secrets.randbelow(2**40), START, {self.operator.address: COIN})
        self.engine = Engine(genesis, self.clock)
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop())
        self._loop.close()

    async def _start(self) -> None:
        self._miner = Miner(self.engine)
        rpc = Rpc(self.engine, self._miner, self.clock)

        async def post(request: web.Request) -> web.Response:
            return web.Response(body=await rpc.answer(await request.read()), content_type="application/json")

        application = web.Application(client_max_size=5 << 20)
        application.router.add_post("/", post)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        self._mining = asyncio.create_task(self._miner.run())
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        self._mining.cancel()
        await asyncio.gather(self._mining, return_exceptions=True)
        await self._runner.cleanup()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)


@pytest.fixture(scope="session")
def embedded() -> Iterator[Chain]:
    chain = EmbeddedChain()

    def advance(client: EthereumClient, seconds: int) -> None:
        # From the next stamp on, not from the clock: a burst of blocks may have taken the stamps ahead of it.
        client.call("koinon_setTime", int(client.block("pending")["timestamp"], 16) + seconds)

    yield Chain(chain.url, chain.operator, advance)
    chain.close()


@pytest.fixture(scope="session")
def anvil() -> Iterator[Chain]:
    """A block for each transaction, at once."""
    yield from _anvil()


@pytest.fixture(scope="module")
def timed() -> Iterator[Chain]:
    """A block at each stroke of a clock, whether or not there is anything for it, as consortia have it.

    One for each file: after thousands of blocks of its own it takes seconds for what it does in a tenth at first.
    """
    yield from _anvil("--block-time", "0.1")


def _anvil(*options: str) -> Iterator[Chain]:
    with anvil_process(*options) as url:
        operator = LedgerKey.generate()
        EthereumClient(url, None).call("anvil_setBalance", "0x" + operator.address.hex(), hex(COIN))
        # No block is made: the next one carries the moved stamp, as on a quiet chain.
        yield Chain(url, operator, lambda one, seconds: one.call("evm_increaseTime", seconds))


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec.load()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("embedded", marks=pytest.mark.slow),
        pytest.param("anvil", marks=pytest.mark.slow),
        pytest.param("timed", marks=pytest.mark.slow),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def quiet(kind: str) -> None:
    """For tests of a chain on which nothing happens unless somebody sends something."""
    if kind == "timed":
        pytest.skip("this chain makes blocks of its own accord")


WorldMaker = Callable[..., World]


def world_on(chain: Chain, codec: Codec, n: int) -> World:
    """A world of `n` members and one auditor on a real chain. It begins with the first block that can hold its records:
    how many a chain makes beside a deployment is the chain's affair."""
    keys, auditor = [LedgerKey.generate() for _ in range(n)], LedgerKey.generate()
    client = chain.client()
    first = int(client.block("latest")["number"], 16) + 1
    planned = plan_deployment(client, chain.operator.address)
    members, auditors = founding(keys, [auditor], planned.contracts)
    deploy(client, chain.operator, planned, members, auditors)
    account = SendingAccount(client, chain.operator, MemorySentStore(), mine_timeout_s=20)
    ledger = EthereumLedger(client, planned.contracts, account, codec)
    return World(ledger, keys, [auditor], lambda seconds: chain.advance(client, seconds), first_block=first)


@pytest.fixture
def make_world(kind: str, codec: Codec, request: pytest.FixtureRequest) -> WorldMaker:
    """A maker of worlds with `n` members and one auditor on the ledger of this test."""

    def make(n: int = 4) -> World:
        if kind == "memory":
            keys, auditor = [LedgerKey.generate() for _ in range(n)], LedgerKey.generate()
            now = [START]
            contracts = memory_contracts()
            members, auditors = founding(keys, [auditor], contracts)
            ledger = MemoryLedger(members, auditors, clock=lambda: now[0])

            def advance(seconds: int) -> None:
                now[0] = ledger.head().time + seconds

            return World(ledger, keys, [auditor], advance)
        return world_on(request.getfixturevalue(kind), codec, n)

    return make


@dataclass(frozen=True)
class Successor:
    """A second deployment that is planned: where it will lie, and how to found it with studies."""

    contracts: Contracts
    found: Callable[[Sequence[Continuation]], World]


@pytest.fixture
def plan_successor(kind: str, codec: Codec, request: pytest.FixtureRequest) -> Callable[[World], Successor]:
    """A maker of second deployments on the ledger of a world."""

    def plan(world: World) -> Successor:
        if kind == "memory":
            old = world.ledger
            assert isinstance(old, MemoryLedger)
            where = Contracts(old.contracts.chain_id, *(bytes([8] * 19 + [n]) for n in range(4)), before=old.contracts)

            def found_here(studies: Sequence[Continuation]) -> World:
                ledger = old.continued(where, *founding(world.keys, world.auditors, where), studies)
                return World(ledger, world.keys, world.auditors, world.advance)

            return Successor(where, found_here)
        chain: Chain = request.getfixturevalue(kind)
        client, deployer = chain.client(), LedgerKey.generate()
        pay(client, chain.operator, [deployer.address], COIN // 1000)
        planned = plan_deployment(client, deployer.address, world.contracts)

        def found_there(studies: Sequence[Continuation]) -> World:
            members, auditors = founding(world.keys, world.auditors, planned.contracts)
            deploy(client, deployer, planned, members, auditors, studies=studies)
            account = SendingAccount(client, chain.operator, MemorySentStore(), mine_timeout_s=20)
            remote: Any = EthereumLedger(client, planned.contracts, account, codec)
            return World(remote, world.keys, world.auditors, world.advance, first_block=world.first_block)

        return Successor(planned.contracts, found_there)

    return plan


@pytest.fixture
def world(make_world: WorldMaker) -> World:
    """Four members and an auditor."""
    return make_world()


@pytest.fixture(params=[pytest.param("embedded", marks=pytest.mark.slow), "anvil"])
def chain(request: pytest.FixtureRequest) -> Chain:
    """Each real chain."""
    found: Chain = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_real(codec: Codec) -> Callable[[Chain], World]:
    """A maker of worlds of four on a real chain."""

    return lambda chain: world_on(chain, codec, 4)


@pytest.fixture
def real(chain: Chain, make_real: Callable[[Chain], World]) -> World:
    """A world of four on a real chain."""
    return make_real(chain)
