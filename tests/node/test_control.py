"""What a command learns of a node that does not answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from node import control
from node.errors import InputError, NotFound, TimedOut


@pytest.fixture
def door(tmp_path: Path) -> Path:
    return tmp_path / "control.json"


def test_a_process_that_stands_still_is_told_before_the_command_s_own_time_is_over(
    door: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system takes the connection of a frozen process, and nobody answers."""
    monkeypatch.setattr(control, "ALIVE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        door.write_text(json.dumps({"port": frozen.getsockname()[1], "token": "ab"}))
        with pytest.raises(TimedOut, match=r"process stands still: it has not answered for 0\.2 s"):
            control.ask(door, "model.evaluate", {}, 600.0)


def test_without_a_process_the_node_is_not_running(door: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    door.write_text(json.dumps({"port": port, "token": "ab"}))
    with pytest.raises(NotFound, match=f"no node answers on port {port}"):
        control.ask(door, "status", {}, 1.0)


@pytest.mark.parametrize("told", [{}, {"port": "x", "token": "ab"}, {"port": 1 << 16, "token": "ab"}, {"port": 1}])
def test_a_file_that_is_no_control_file_is_named(door: Path, told: dict[str, object]) -> None:
    door.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"control\.json: no control file of a node"):
        control.ask(door, "status", {}, 1.0)


class Slow(BaseHTTPRequestHandler):
    """Alive, and slower with a command than was waited for."""

    protocol_version = "HTTP/1.1"
    over = threading.Event()

    def log_message(self, format: str, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.over.wait(20)


@pytest.fixture
def slow() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield int(server.server_address[1])
    Slow.over.set()
    server.shutdown()
    server.server_close()
    thread.join(20)


def test_a_process_that_lives_has_the_command_s_own_time(door: Path, slow: int) -> None:
    door.write_text(json.dumps({"port": slow, "token": "ab"}))
    with pytest.raises(TimedOut, match=r"did not answer `status` within 0\.3 s"):
        control.ask(door, "status", {}, 0.3)
