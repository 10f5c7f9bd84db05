"""Requests to a training worker that do not hold what they should."""

import json

import numpy as np

from fl_engine.requests import Requests


def ask(requests: Requests, header: object, buffers: list[bytes] | None = None) -> str:
    answer, _ = requests.handle(json.loads(json.dumps(header)), buffers or [])
    return f"{answer['error']['type']}: {answer['error']['message']}" if "error" in answer else "ok"


def test_requests_that_do_not_hold_what_they_should_are_refused():
    requests = Requests()
    x, y = np.zeros((2, 3), np.float32).tobytes(), np.zeros(2, np.int64).tobytes()
    rows = np.arange(2).tobytes()
    load = {"op": "load", "dataset": "d", "shape": [2, 3], "classes": 2}
    assert ask(requests, load, [x, y, rows]) == "ok"
    assert ask(requests, {}).startswith("FrameError: request field 'op'")
    assert ask(requests, {"op": "fly"}).startswith("UnknownName: unknown operation 'fly'; known: compare")
    assert "buffers of the request" in ask(requests, {"op": "hello"}, [b""])
    assert "numbers in x" in ask(requests, {**load, "shape": [2, 4]}, [x, y, rows])
    assert "shape of a data set" in ask(requests, {**load, "shape": [2, -3]}, [x, y, rows])
    assert "multiple of 8" in ask(requests, load, [x, y[:-1], rows])
    assert "strictly ascending" in ask(requests, load, [x, y, np.zeros(2, np.int64).tobytes()])
    assert "labels" in ask(requests, load, [x, np.full(2, 5).tobytes(), rows])
    assert "request field 'classes'" in ask(requests, {**load, "classes": "2"}, [x, y, rows])
    for number in range(63):
        assert ask(requests, {**load, "dataset": f"d{number}"}, [x, y, rows]) == "ok"
    assert "64 data sets are loaded" in ask(requests, {**load, "dataset": "more"}, [x, y, rows])
