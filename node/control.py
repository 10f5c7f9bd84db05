"""The door for this machine's other commands: a loopback endpoint of a running node.

What may live here: HTTP on 127.0.0.1 with a token from a 0600 file, and the client that finds it. What this file does
not know: what a command does. `POST /do/NAME` with a JSON object needs the token; `/healthz`, `/readyz` and `/metrics`
do not and carry no patient data. A home without a running node has no control file, and the caller acts on the home
itself.
"""

from __future__ import annotations

import hmac
import http.client
import json
import secrets
import sys
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog
import trio

from node import errors, jsontext
from node.errors import InputError, LocalFault, NodeError, NotFound, TimedOut
from node.home import read_json, write_json

log = structlog.get_logger("control")
ALIVE_S = 10.0  # a process that runs says within these that it does, however busy its loop is
MAX_BODY_BYTES = 8 << 20  # the largest command carries a study spec or a register of signed forms
Commands = Callable[[str, dict[str, Any], str], Awaitable[dict[str, Any]]]


class ControlServer:
    """Serves `commands` until the block ends. Made inside a trio run; requests are answered on that run's loop.

    Args:
        path: where to write the control file (port, token).
        port: 0 lets the system choose.
        commands: (name, body, token of this door) -> data; `NodeError` becomes an error reply with its exit code.
        alive: whether the node's loop turns; a monitor restarts a node that says no, or nothing.
        obstacles: what keeps the node from taking part now, in words; none: it is ready.
        metrics: Prometheus text.
    """

    def __init__(
        self,
        path: Path,
        port: int,
        commands: Commands,
        alive: Callable[[], bool],
        obstacles: Callable[[], list[str]],
        metrics: Callable[[], bytes],
    ) -> None:
        token = trio.lowlevel.current_trio_token()
        self._path = path
        secret = secrets.token_hex(32)

        class Handler(BaseHTTPRequestHandler):
            timeout = 60
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Keep requests out of the log: a command's body may name a consent."""

            def _reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                try:
                    self.end_headers()
                    self.wfile.write(body)
                except ConnectionError:  # who asked did not wait; what was ordered is done all the same
                    self.close_connection = True

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    turns = alive()
                    self._reply(200 if turns else 503, json.dumps({"alive": turns}).encode())
                elif self.path == "/readyz":
                    waits = obstacles()
                    told = {"ready": not waits, "waiting_for": waits}
                    self._reply(503 if waits else 200, json.dumps(told).encode())
                elif self.path == "/metrics":
                    self._reply(200, metrics(), "text/plain; version=0.0.4")
                else:
                    self._reply(404, b"{}")

            def do_POST(self) -> None:
                given = self.headers.get("Authorization", "")
                if not hmac.compare_digest(given, f"Bearer {secret}"):
                    self._reply(401, b'{"error":{"kind":"Refused","message":"wrong token","exit_code":5}}')
                    return
                length = self.headers.get("Content-Length", "")
                if not length.isdigit() or int(length) > MAX_BODY_BYTES or not self.path.startswith("/do/"):
                    self._reply(400, b'{"error":{"kind":"InputError","message":"bad request","exit_code":2}}')
                    return
                try:
                    body = jsontext.loads(self.rfile.read(int(length)) or b"{}")
                    name = self.path.removeprefix("/do/")
                    data = trio.from_thread.run(commands, name, body, secret, trio_token=token)
                    reply: dict[str, Any] = {"data": data}
                except NodeError as error:
                    reply = {"error": {"kind": error.kind, "message": error.message, "exit_code": int(error.exit_code)}}
                except (ValueError, TypeError, KeyError) as error:
                    reply = {"error": {"kind": "InputError", "message": f"{type(error).__name__}", "exit_code": 2}}
                except (trio.Cancelled, trio.RunFinishedError):
                    reply = {"error": {"kind": "LocalFault", "message": "the node is stopping", "exit_code": 8}}
                self._reply(200, json.dumps(reply).encode())

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError as error:
            raise LocalFault(f"control port {port}: {error.strerror}; choose another with node.control_port") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)
        self.port = int(self._server.server_address[1])
        write_json(path, {"port": self.port, "token": secret}, mode=0o600)

    def __enter__(self) -> ControlServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._path.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """One thread a request; who asks may go away in the middle of it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("a request at the control port broke off", error=str(sys.exception()))


Sign = Callable[[str], dict[str, Any]]
"""The token of a door -> the envelope of an order for it (`roles.Signer`)."""


def ask(
    path: Path, command: str, body: dict[str, Any], timeout_s: float = 600.0, sign: Sign | None = None
) -> dict[str, Any]:
    """Give a command to the node whose control file is `path` and return its data; `sign` adds a role's signature.

    A process that stands still (frozen, or on a machine without a moment for it) is told at once, whatever the command
    may take.

    Raises:
        NotFound: no control file, or nobody listens behind it: the node is not running.
        InputError: the control file is none.
        TimedOut: its process stands still, or the command took longer than `timeout_s`.
        NodeError: what the node answered, of the same class and with the same exit code.
    """
    port, token = _door(path)
    if sign is not None:
        body = {**body, "authorisation": sign(token)}
    patience = min(ALIVE_S, timeout_s)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        _check_alive(connection, patience)
        connection.close()  # the command's own connection has the command's own time
        connection.timeout = timeout_s
        connection.request("POST", f"/do/{command}", json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})
        reply = jsontext.loads(connection.getresponse().read())
    except ConnectionRefusedError:
        raise NotFound(f"{path}: no node answers on port {port}") from None
    except TimeoutError:
        raise TimedOut(f"the node did not answer `{command}` within {timeout_s:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LocalFault(f"the node broke off while answering `{command}`: {error}") from error
    finally:
        connection.close()
    if "error" in reply:
        kind = getattr(errors, reply["error"]["kind"], NodeError)
        raise (kind if isinstance(kind, type) and issubclass(kind, NodeError) else NodeError)(reply["error"]["message"])
    data: dict[str, Any] = reply["data"]
    return data


def _door(path: Path) -> tuple[int, str]:
    """Port and token of a control file."""
    told = read_json(path)
    port, token = told.get("port"), told.get("token")
    if type(port) is not int or not 0 < port < 1 << 16 or not isinstance(token, str) or not token.isascii():
        raise InputError(f"{path}: no control file of a node: the next `koinon node run` writes another")
    return port, token


def _check_alive(connection: http.client.HTTPConnection, patience_s: float) -> None:
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    except TimeoutError:
        text = f"the node's process stands still: it has not answered for {patience_s:g} s (`koinon network status`)"
        raise TimedOut(text) from None
