"""One secured connection and its streams, with as few steps a byte as Python allows.

libp2p 0.8.1 reads and writes a Noise connection through six layers, a message of 64 KiB at a time: two system calls a
message, a lock and a turn of the loop in every layer, and a window update for every piece that is read. Measured, that
is most of what moving a model between two nodes costs. Here the same bytes go over the wire with the same checks:

- `Session` takes what the socket has, opens all the Noise messages in it, and hands out pieces of the result; what is
  written becomes as many messages as it needs, in one call.
- `Stream` waits for its window instead of looking every 10 ms, writes longer frames, gives window back by halves.

What may live here: bytes between a socket and a stream. What this file does not know: who may connect, what a peer may
cost (`transport`), messages (`wire`).
"""

from __future__ import annotations

import struct
from typing import Any, Final

import libp2p.stream_muxer.yamux.yamux as yamux
import trio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

NOISE_PAYLOAD_BYTES: Final = 65519
"""Plaintext in one Noise message (65535 less a 16-byte tag)."""

RECEIVE_BYTES: Final = 256 * 1024
"""Asked of the socket at once; with one unfinished message, all that a session holds of what has come."""

FRAME_BYTES: Final = 2 * NOISE_PAYLOAD_BYTES - yamux.HEADER_SIZE
"""Content of one frame, which is one write and fills two Noise messages: a frame costs its reader more than its bytes
do. The write must be through within `transport.STALL_S`, so that a line of 210 kbit/s still counts as alive; and others
wait for their turn no longer than that."""

WINDOW_WAIT_S: Final = 5.0
"""How long a writer waits for its peer to read on, as in libp2p."""

_LOOK_S: Final = 0.25
_LENGTH_BYTES: Final = 2


class Session:
    """A secured connection of libp2p, read and written in bulk. Everything else is the inner connection's."""

    def __init__(self, inner: Any) -> None:
        """Take over after the handshake; what the inner connection has already opened comes first."""
        self._inner = inner
        self._noise = inner.conn.noise_state
        self._socket = inner.conn.read_writer.read_write_closer
        self._sealed = bytearray()
        self._opened = bytearray(inner._drain(None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; without `n` whatever has come, at least one.

        Raises:
            IncompleteReadError: the connection ended before; it says how many bytes there were.
        """
        wanted = 1 if n is None else n
        while len(self._opened) < wanted:
            piece = await self._socket.read(RECEIVE_BYTES)
            if not piece:
                raise IncompleteReadError(
                    "the connection ended", expected_bytes=wanted, received_bytes=len(self._opened)
                )
            self._sealed += piece
            self._open()
        size = len(self._opened) if n is None else n
        with memoryview(self._opened) as view:
            data = bytes(view[:size])
        del self._opened[:size]
        return data

    def _open(self) -> None:
        """Open every whole message that has come."""
        at, end = 0, len(self._sealed)
        with memoryview(self._sealed) as view:
            while end - at >= _LENGTH_BYTES:
                start = at + _LENGTH_BYTES
                stop = start + int.from_bytes(view[at:start], "big")
                if stop > end:
                    break
                self._opened += self._noise.decrypt(bytes(view[start:stop]))
                at = stop
        del self._sealed[:at]

    async def write(self, data: bytes) -> None:
        """Send `data`, however many messages it takes."""
        parts: list[bytes] = []
        with memoryview(data) as view:
            for start in range(0, len(data), NOISE_PAYLOAD_BYTES):
                sealed = self._noise.encrypt(bytes(view[start : start + NOISE_PAYLOAD_BYTES]))
                parts += (len(sealed).to_bytes(_LENGTH_BYTES, "big"), sealed)
        await self._socket.write(b"".join(parts))


class Stream(yamux.YamuxStream):
    """A stream that reads and writes in bulk."""

    def __init__(self, stream_id: int, conn: yamux.Yamux, is_initiator: bool) -> None:
        """As the base class; `conn` writes frames whole."""
        self._credit = 0
        self._may_send = trio.Event()
        self._writing = trio.Lock()
        self._unacknowledged = 0
        super().__init__(stream_id, conn, is_initiator)

    # The base class adds to it when the peer gives window back, and its writer looks every 10 ms.
    @property
    def send_window(self) -> int:
        """Bytes that the peer will take now."""
        return self._credit

    @send_window.setter
    def send_window(self, value: int) -> None:
        self._credit = value
        if value > 0:
            self._may_send.set()

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            MuxedStreamError: the stream was closed, or the peer reads nothing for `WINDOW_WAIT_S`.
        """
        async with self._writing:
            start = 0
            while start < len(data):
                await self._wait_for_window()
                size = min(self._credit, FRAME_BYTES, len(data) - start)
                self._credit -= size
                head = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
                await self.conn._write_frame(head + data[start : start + size])
                start += size

    async def _wait_for_window(self) -> None:
        deadline = trio.current_time() + WINDOW_WAIT_S
        while True:
            if self.send_closed or self.closed:
                raise MuxedStreamError("Stream is closed for sending")
            if self._credit > 0:
                return
            if trio.current_time() >= deadline:
                raise MuxedStreamError(f"Timed out waiting for window update after {WINDOW_WAIT_S:g} seconds.")
            self._may_send = trio.Event()
            with trio.move_on_after(_LOOK_S):  # being closed rings no bell
                await self._may_send.wait()

    async def read(self, n: int | None = -1) -> bytes:
        """What has come, at most `n` bytes; waits for the first.

        Raises:
            MuxedStreamEOF: the peer has closed its side, and everything was read.
            MuxedStreamReset: the stream was reset.
        """
        if n is None or n < 0:
            return await super().read(n)
        conn = self.conn
        while True:
            buffer = conn.stream_buffers.get(self.stream_id)
            if buffer and (self.recv_closed or not self.reset_received):
                break
            if self.reset_received:
                raise MuxedStreamReset("Stream was reset")
            event = conn.stream_events.get(self.stream_id)
            if buffer is None or event is None or self.recv_closed or conn.event_shutting_down.is_set():
                raise MuxedStreamEOF("Stream is closed for receiving")
            if self.closed:
                raise MuxedStreamReset("Stream is closed")
            await event.wait()
            if conn.stream_events.get(self.stream_id) is event:
                conn.stream_events[self.stream_id] = trio.Event()
        with memoryview(buffer) as view:
            data = bytes(view[:n])
        del buffer[:n]
        if self.closed and not buffer:
            await conn._finalize_stream(self, fully_closed=True)
        await self._give_window_back(len(data))
        return data

    async def _give_window_back(self, size: int) -> None:
        """Half a window at a time; a stream that uses its window gets twice as much, up to the limit."""
        self._unacknowledged += size
        if self._unacknowledged < self.target_recv_window // 2 or self.recv_closed:
            await trio.lowlevel.checkpoint()
            return
        grown = min(2 * self.target_recv_window, yamux.MAX_WINDOW_SIZE)
        increment = self._unacknowledged + grown - self.target_recv_window
        self.target_recv_window, self._unacknowledged = grown, 0
        self.recv_window += increment
        await self.send_window_update(increment)
