"""The lines between the processes of a network, and what a bench may do to them: cut, heal, slow down.

`Links` is what the bench asks for. `ProxyLinks` gives it with nothing but TCP on this machine: every process reaches
every other one, and the chain, through a port of its own, behind which this process passes the bytes on. A cut line
swallows: connections stay open and nothing passes, in either direction, as when a VPN dies; what was under way arrives
after the line is healed, as TCP would have it. A slowed line delays every piece by the latency and takes no more bytes
a second than it may.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PIECE_BYTES = 1 << 16
PIECES_UNDER_WAY = 32


class Links(Protocol):
    """Every line of a network, named by the two processes at its ends; "chain" is one of them."""

    def cut(self, a: str, b: str) -> None:
        """Let nothing pass between two processes."""
        ...

    def heal(self, a: str, b: str) -> None:
        """Undo `cut`."""
        ...

    def shape(self, a: str, b: str, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Delay what passes between two processes, and bound it (0: not)."""
        ...

    def close(self) -> None:
        """Take the lines down."""
        ...


@dataclass
class _Line:
    """From one dialler to one listener: what connects to `port` reaches `target`."""

    target: int
    listening: socket.socket
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    latency_s: float = 0.0
    bytes_per_s: float = 0.0

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.flows.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        except OSError:
            return
        finally:
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its source ends or breaks; the end is seen at the other side only while bytes flow."""
        clock = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_UNDER_WAY)

        async def take() -> None:
            data = b" "
            while data:
                try:
                    data = await reader.read(PIECE_BYTES)
                except OSError:
                    data = b""
                await pieces.put((clock.time() + self.latency_s, data))

        taking = asyncio.create_task(take())
        try:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(0.0, due - clock.time()))
                await self.flows.wait()
                if not data:
                    raise ConnectionResetError
                writer.write(data)
                await writer.drain()
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
        finally:
            taking.cancel()


class ProxyLinks:
    """`Links` by passing bytes on; the lines of a network home, whose files it changes to lead through them."""

    def __init__(self, home: Path, names: Iterable[str]) -> None:
        """Open a line from each node of a network home to each other one and to the chain, and write where they are.

        `names` are the nodes' homes. Nothing of the network may run yet.
        """
        self._loop = asyncio.new_event_loop()
        self._lines: dict[tuple[str, str], _Line] = {}
        self._as_founded: dict[Path, str] = {}
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.call_soon(ready.set)
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, name="links", daemon=True)
        self._thread.start()
        ready.wait()
        for name in names:
            self._wire(home / name)

    def _wire(self, home: Path) -> None:
        path, settings = home / "network.json", home / "config.toml"
        self._as_founded |= {file: file.read_text("utf-8") for file in (path, settings)}
        network = json.loads(self._as_founded[path])
        for seat in (*network["founders"], *network["auditors"]):
            if seat["name"] != home.name:
                port = self._open(home.name, seat["name"], int(seat["address"].rpartition("/")[2]))
                seat["address"] = f"/ip4/127.0.0.1/tcp/{port}"
        path.write_text(json.dumps(network), "utf-8")
        url = network["chain"]["url"]
        port = self._open(home.name, "chain", int(url.rpartition(":")[2]))
        assert url in self._as_founded[settings]
        settings.write_text(self._as_founded[settings].replace(url, f"http://127.0.0.1:{port}"), "utf-8")

    def _open(self, dialler: str, listener: str, target: int) -> int:
        async def start() -> _Line:
            listening = socket.create_server(("127.0.0.1", 0))
            line = _Line(target, listening)
            line.flows.set()
            await asyncio.start_server(line.serve, sock=listening)
            return line

        line = self._do(start())
        self._lines[dialler, listener] = line
        return int(line.port)

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def _between(self, a: str, b: str) -> list[_Line]:
        return [self._lines[pair] for pair in ((a, b), (b, a)) if pair in self._lines]

    def cut(self, a: str, b: str) -> None:
        """Let nothing pass between two processes."""
        for line in self._between(a, b):
            self._loop.call_soon_threadsafe(line.flows.clear)

    def heal(self, a: str, b: str) -> None:
        """Undo `cut`."""
        for line in self._between(a, b):
            self._loop.call_soon_threadsafe(line.flows.set)

    def shape(self, a: str, b: str, *, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Delay what passes between two processes, and bound it (0: not)."""
        for line in self._between(a, b):
            line.latency_s, line.bytes_per_s = latency_s, bytes_per_s

    def close(self) -> None:
        """Take the lines down, and let the network's files say again where everybody is."""
        for path, text in self._as_founded.items():
            path.write_text(text, "utf-8")

        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        for line in self._lines.values():
            line.listening.close()
