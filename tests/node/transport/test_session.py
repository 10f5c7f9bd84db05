"""A secured connection in bulk: bytes that come in any pieces, ends that come early, writers that wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.io.exceptions import IncompleteReadError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from node.session import FRAME_BYTES, NOISE_PAYLOAD_BYTES, WINDOW_WAIT_S, Session, Stream

TAG = b"-sixteen-byte-t-"


class Cipher:
    """Stands for libp2p's Noise state: a tag behind each message."""

    def encrypt(self, data: bytes) -> bytes:
        assert 0 < len(data) <= NOISE_PAYLOAD_BYTES
        return data + TAG

    def decrypt(self, data: bytes) -> bytes:
        assert data.endswith(TAG)
        return data[: -len(TAG)]


class Socket:
    """Gives what is in `coming` in pieces of `step` bytes, keeps what is written."""

    def __init__(self, coming: bytes = b"", step: int = 1 << 30) -> None:
        self.coming, self.step, self.written = coming, step, []

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece, self.coming = self.coming[: min(n, self.step)], self.coming[min(n, self.step) :]
        return piece

    async def write(self, data: bytes) -> None:
        self.written.append(data)


def session(socket: Socket, left: bytes = b"") -> Session:
    conn = SimpleNamespace(noise_state=Cipher(), read_writer=SimpleNamespace(read_write_closer=socket))
    return Session(SimpleNamespace(conn=conn, _drain=lambda n: left, is_initiator=True))


async def sealed(data: bytes) -> bytes:
    socket = Socket()
    await session(socket).write(data)
    return b"".join(socket.written)


@pytest.mark.parametrize("step", [1, 3, 17, 1 << 30])
async def test_what_was_written_is_read_in_whatever_pieces_it_comes(step):
    socket = Socket(await sealed(b"first") + await sealed(b"second and third"), step)
    one = session(socket, left=b"before ")
    assert await one.read(12) == b"before first"
    assert await one.read(6) == b"second"
    assert await one.read(10) == b" and third"
    with pytest.raises(IncompleteReadError) as caught:
        await one.read(1)
    assert caught.value.is_clean_close


async def test_a_long_write_is_one_call_and_full_messages():
    data = bytes(range(256)) * 1024
    socket = Socket()
    await session(socket).write(data)
    (written,) = socket.written
    messages = -(-len(data) // NOISE_PAYLOAD_BYTES)
    assert len(written) == len(data) + messages * (2 + len(TAG))
    assert await session(Socket(written, 50_000)).read(len(data)) == data


async def test_an_end_inside_a_message_says_how_much_there_was():
    one = session(Socket((await sealed(b"whole") + await sealed(b"cut off"))[:-1]))
    with pytest.raises(IncompleteReadError) as caught:
        await one.read(12)
    assert (caught.value.expected_bytes, caught.value.received_bytes) == (12, 5)
    assert not caught.value.is_clean_close


class Conn(SimpleNamespace):
    """What a stream asks of its connection."""

    async def _write_frame(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.frames.append(data)


def stream(window: int) -> tuple[Stream, Any]:
    conn = Conn(frames=[], streams={}, stream_buffers={}, stream_events={})
    made = Stream(1, conn, True)
    made.send_window = window
    return made, conn


async def test_a_writer_goes_on_the_moment_it_is_given_window(autojump_clock):
    made, conn = stream(10)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.write, bytes(30))
        await trio.testing.wait_all_tasks_blocked()
        assert [len(frame) - 12 for frame in conn.frames] == [10]
        made.send_window += 20
    assert [len(frame) - 12 for frame in conn.frames] == [10, 20]
    assert trio.current_time() == begun


async def test_a_writer_whose_peer_reads_nothing_gives_up(autojump_clock):
    made, _ = stream(0)
    begun = trio.current_time()
    with pytest.raises(MuxedStreamError, match="Timed out"):
        await made.write(b"x")
    assert trio.current_time() - begun == pytest.approx(WINDOW_WAIT_S)


async def test_a_writer_whose_stream_is_closed_stops(autojump_clock):
    made, _ = stream(0)
    async with trio.open_nursery() as nursery:

        async def writing() -> None:
            with pytest.raises(MuxedStreamError, match="closed"):
                await made.write(b"x")

        nursery.start_soon(writing)
        await trio.testing.wait_all_tasks_blocked()
        made.closed = True


async def test_two_writers_do_not_mix_their_bytes():
    made, conn = stream(1 << 22)
    async with trio.open_nursery() as nursery:
        for letter in (b"a", b"b"):
            nursery.start_soon(made.write, letter * (3 * FRAME_BYTES))
    said = b"".join(frame[12:13] for frame in conn.frames)
    assert said in (b"aaabbb", b"bbbaaa")
