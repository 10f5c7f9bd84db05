"""The chain's process: a lock on the home, the journal executed, a miner, and JSON-RPC over HTTP.

Who may call: by default only this machine (loopback), and no web page that someone here has open (the Host header
must name this machine and the body must be declared as JSON, which a page of another site cannot do). Another address
is bound only if that was asked for, and then every call needs the bearer token.

asyncio, unlike the node: this process shares nothing with a node but HTTP.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from node.chain.clock import TestClock, WallClock
from node.chain.endpoint import Endpoint, endpoint_file, save_endpoint
from node.chain.engine import MAX_LEAD_S, Engine
from node.chain.evm import Transaction
from node.chain.files import HomeLock
from node.chain.genesis import chain_folder
from node.chain.rpc import Rpc
from node.errors import InputError, LocalFault, NotFound

MAX_REQUEST_BYTES = 5 << 20
MIN_TOKEN_LENGTH = 16
# How long the miner sleeps at most before it looks at the clock again, which somebody may have set.
CLOCK_CHECK_S = 1.0
SHUTDOWN_S = 5.0

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")
_http_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
"""Without what a caller got wrong: it is told so, and nobody outside fills the disk."""


@dataclass(frozen=True)
class Ready:
    """What is said once the chain answers.

    Attributes:
        url: where.
        chain_id: EIP-155 id.
        genesis_hash: hash of block 0.
        height: of the newest block.
    """

    url: str
    chain_id: int
    genesis_hash: bytes
    height: int

    def to_line(self) -> str:
        """The ready line: one JSON object."""
        return json.dumps(
            {
                "ready": True,
                "url": self.url,
                "chain_id": self.chain_id,
                "height": self.height,
                "genesis_hash": "0x" + self.genesis_hash.hex(),
                "pid": os.getpid(),
            }
        )


class Miner:
    """Turns what waits into blocks, one after the other, as soon as the rules of time allow."""

    def __init__(self, engine: Engine) -> None:
        """Watch over `engine`; nothing happens until :meth:`run`."""
        self._engine = engine
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._stopped = False

    async def send(self, raw: bytes) -> Transaction:
        """Take a transaction. Returns when its block is on the disk, or at once if it has to wait in the pool.

        Raises:
            TransactionRefused: worded as geth words it.
            LocalFault: nothing is mined any more.
        """
        if self._stopped:
            raise LocalFault("the chain is stopping")
        transaction = self._engine.submit(raw)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.wake()
        await done
        return transaction

    def wake(self) -> None:
        """Something changed: look again."""
        self._wake.set()

    async def run(self) -> None:
        """Mine until cancelled.

        Raises:
            LocalFault: a block could not be put on the disk. The process must end: its memory is ahead of the journal.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                # One turn of the loop, so that requests that came together meet in one block.
                await asyncio.sleep(0)
                while (wait := self._engine.wait_s()) == 0.0:
                    self._engine.mine()
                    await asyncio.sleep(0)
                # Whoever is still waiting here is not executable yet; it waits in the pool, not in an open request.
                self._release()
                if wait is not None:
                    loop.call_later(min(wait, CLOCK_CHECK_S), self.wake)
        finally:
            self._stopped = True
            self._release(LocalFault("the chain is stopping"))

    def _release(self, error: LocalFault | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    allow_remote: bool = False,
    test_clock: bool = False,
    ready: Callable[[Ready], None] = lambda _: None,
) -> None:
    """Run the chain of a home until SIGTERM or SIGINT.

    Args:
        home: the network home, with `chain/genesis.json`.
        host: address to bind.
        port: 0 for any free one.
        token: bearer token that every call must carry; needed beyond loopback.
        allow_remote: bind an address that other machines can reach.
        test_clock: let `koinon_setTime` and `koinon_increaseTime` move the clock.
        ready: called once when the chain answers.

    Raises:
        InputError: a remote address without `allow_remote` or without a token.
        NotFound, GenesisError, JournalError: the files of the home.
        ChainHomeBusy: another process runs this chain.
        LocalFault: the port is taken, or the disk fails.
    """
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InputError(f"the token has {len(token)} characters, at least {MIN_TOKEN_LENGTH} are needed")
    if not is_loopback(host):
        if not allow_remote:
            raise InputError(f"{host} can be reached from other machines; say --allow-remote if that is meant")
        if token is None:
            raise InputError(f"a chain on {host} needs a bearer token (--token-file)")
    folder = chain_folder(home)
    if not folder.is_dir():
        raise NotFound(f"no chain in {home}: {folder} is missing")
    with HomeLock(folder):
        clock = TestClock() if test_clock else WallClock()
        engine = Engine.open(home, clock)
        try:
            if isinstance(clock, TestClock) and engine.head.timestamp > clock.now():
                clock.set(engine.head.timestamp)  # a test that had moved the clock goes on where it was
            ahead = engine.head.timestamp - clock.now()
            if ahead > MAX_LEAD_S:
                _log.warning("the newest block is %.0f s ahead of this clock: nothing is mined until then", ahead)
            asyncio.run(_run(home, engine, clock if isinstance(clock, TestClock) else None, host, port, token, ready))
        finally:
            engine.close()
            endpoint_file(home).unlink(missing_ok=True)


async def _run(
    home: Path,
    engine: Engine,
    test_clock: TestClock | None,
    host: str,
    port: int,
    token: str | None,
    ready: Callable[[Ready], None],
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    miner = Miner(engine)
    application = _application(Rpc(engine, miner, test_clock), host, token)
    runner = web.AppRunner(application, access_log=None, logger=_http_log)
    await runner.setup()
    mining = asyncio.create_task(miner.run())
    try:
        site = web.TCPSite(runner, host, port, shutdown_timeout=SHUTDOWN_S)
        try:
            await site.start()
        except OSError as error:
            raise LocalFault(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        url = _url(runner.addresses[0])
        save_endpoint(home, Endpoint(url, os.getpid(), token))
        ready(Ready(url, engine.chain_id, engine.genesis_hash, engine.head.number))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((stopping, mining), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if mining.done():
            mining.result()
        _log.info("stopping at block %d", engine.head.number)
    finally:
        mining.cancel()
        with suppress(asyncio.CancelledError, LocalFault):
            await mining
        await runner.cleanup()


def _url(address: tuple[Any, ...]) -> str:
    host, port = address[0], address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _application(rpc: Rpc, host: str, token: str | None) -> web.Application:
    local_only = is_loopback(host)

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if local_only and not _names_this_machine(request.host):
            raise web.HTTPForbidden(text="invalid host specified\n")
        if token is not None:
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                raise web.HTTPUnauthorized(text="a bearer token is needed\n")
        return await handler(request)

    async def post(request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="only application/json is accepted\n")
        try:
            body = await request.read()
        except ConnectionError:
            return web.Response(status=400)  # cut off in the middle of its request: nobody is left to be told
        return web.Response(body=await rpc.answer(body), content_type="application/json")

    application = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[guard])
    application.router.add_post("/", post)
    return application


def _names_this_machine(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    return is_loopback(name.strip("[]"))
