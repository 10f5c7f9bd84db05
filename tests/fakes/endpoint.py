"""An endpoint that lies, lags, stutters or hides: a real HTTP server in front of a real chain.

It forwards JSON-RPC to the chain behind it and changes what comes back, as each `Fault` says. Nothing of the node is
replaced: the node talks to it as to any Ethereum client.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = dict[str, Any]
Fault = Callable[[str, list[Any], Answer], Answer]
"""(method, parameters, the chain's answer) -> what is answered instead."""


class Endpoint:
    """One such endpoint. `faults` change answers; `raw` replaces the whole HTTP reply of a method ("*": of any)."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.faults: list[Fault] = []
        self.lose_replies: dict[str, int] = {}  # method -> how many of the next replies are lost after forwarding
        self.lose_requests: dict[str, int] = {}  # method -> how many of the next requests never arrive
        self.answers: dict[str, Any] = {}  # method -> what is answered in the chain's place
        self.raw: dict[str, tuple[int, str, bytes]] = {}  # method -> status, content type, body
        self.trickle: float | None = None  # seconds between two bytes of every answer
        self.seen: list[tuple[str, Any]] = []
        self._ended = threading.Event()

    def count(self, method: str) -> int:
        return sum(one == method for one, _ in self.seen)

    def ask(self, method: str, *params: Any) -> Any:
        """A question to the chain behind, past every fault."""
        return self.forward({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})["result"]

    def forward(self, request: Answer) -> Answer:
        body = json.dumps(request).encode()
        forwarded = urllib.request.Request(self.target, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(forwarded, timeout=20) as reply:
            answer: Answer = json.loads(reply.read())
        return answer

    def end(self) -> None:
        self._ended.set()

    def pause(self, seconds: float) -> None:
        self._ended.wait(seconds)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body leave together: apart they would wait for each other's acknowledgement
    disable_nagle_algorithm = True
    endpoint: Endpoint

    def do_POST(self) -> None:
        endpoint = self.endpoint
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = request["method"]
        endpoint.seen.append((method, request.get("params")))
        if self._spend(endpoint.lose_requests, method):
            return
        raw = endpoint.raw.get(method) or endpoint.raw.get("*")
        if raw is not None:
            self._reply(*raw)
            return
        if method in endpoint.answers:
            answer = {"jsonrpc": "2.0", "id": request["id"], **endpoint.answers[method]}
        else:
            answer = endpoint.forward(request)
            for fault in endpoint.faults:
                answer = fault(method, request.get("params") or [], answer)
        if self._spend(endpoint.lose_replies, method):
            return
        self._reply(200, "application/json", json.dumps(answer).encode())

    def _spend(self, stock: dict[str, int], method: str) -> bool:
        if stock.get(method, 0) <= 0:
            return False
        stock[method] -= 1
        self.close_connection = True
        return True

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            if self.endpoint.trickle is None:
                self.wfile.write(body)
                self.wfile.flush()
            else:
                for at in range(len(body)):
                    self.wfile.write(body[at : at + 1])
                    self.wfile.flush()
                    self.endpoint.pause(self.endpoint.trickle)
        except OSError:
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or a chain that is down: the connection ends, nothing is printed."""
        if isinstance(request, socket.socket):
            request.close()


@contextmanager
def endpoint(target: str) -> Iterator[Endpoint]:
    """An endpoint on a free port of this machine, in front of the chain at `target`."""
    made = Endpoint(target)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        server.shutdown()
        server.server_close()
        thread.join(10)


# --------------------------------------------------------------------------------------------------------------------
# Faults


def _logs_of(method: str, answer: Answer) -> list[list[Any]]:
    """The lists of logs in an answer that has any."""
    result = answer.get("result")
    if method == "eth_getLogs" and isinstance(result, list):
        return [result]
    if method == "eth_getTransactionReceipt" and isinstance(result, dict):
        return [result["logs"]]
    if method == "eth_getBlockReceipts" and isinstance(result, list):
        return [one["logs"] for one in result]
    return []


def hide_logs(which: Callable[[Answer], bool]) -> Fault:
    """Leave logs out of `eth_getLogs` and of receipts, as if they had never been emitted."""

    def fault(method: str, params: list[Any], answer: Answer) -> Answer:
        for logs in _logs_of(method, answer):
            logs[:] = [log for log in logs if not which(log)]
        return answer

    return fault


def alter_logs(which: Callable[[Answer], bool]) -> Fault:
    """Flip the last bit of the data of logs."""

    def fault(method: str, params: list[Any], answer: Answer) -> Answer:
        for logs in _logs_of(method, answer):
            for log in logs:
                if which(log):
                    log["data"] = log["data"][:-1] + format(int(log["data"][-1], 16) ^ 1, "x")
        return answer

    return fault


def in_block(number: int) -> Callable[[Answer], bool]:
    """Logs of one block."""
    return lambda log: int(log["blockNumber"], 16) == number


def lag(endpoint_: Endpoint, blocks: Callable[[], int]) -> Fault:
    """Answer as if the newest `blocks()` blocks were not there yet."""

    def fault(method: str, params: list[Any], answer: Answer) -> Answer:
        head = int(endpoint_.ask("eth_blockNumber"), 16) - blocks()
        if method == "eth_blockNumber":
            return {**answer, "result": hex(head)}
        if method == "eth_getBlockByNumber":
            which = params[0]
            if which in ("latest", "pending"):
                return {**answer, "result": endpoint_.ask(method, hex(head), params[1])}
            if which.startswith("0x") and int(which, 16) > head:
                return {**answer, "result": None}
        return answer

    return fault


def older_state(endpoint_: Endpoint, block: Callable[[], int]) -> Fault:
    """Answer `eth_call` with the state after an old block."""

    def fault(method: str, params: list[Any], answer: Answer) -> Answer:
        if method == "eth_call":
            return {**answer, "result": endpoint_.ask(method, params[0], hex(block()))}
        return answer

    return fault
