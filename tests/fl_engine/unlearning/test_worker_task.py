"""A task carried out by a training worker gives the bits that it gives here; what makes no sense is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from fl_engine.params import decode_ints, encode_model
from fl_engine.requests import Requests
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning import UNLEARNERS, Unlearner, get_unlearner
from fl_engine.unlearning.execution import at_length, drive, unlearn, with_defaults
from fl_engine.unlearning.unlearner import Round, Task
from tests.fakes.tables import AGREED, GRID, LAYOUT, MODEL, Learned


def loaded(learned: Learned) -> Requests:
    requests = Requests()
    for member, one in learned.hospitals.items():
        d = one.data
        header = {"op": "load", "dataset": str(member), "shape": list(d.x.shape), "classes": d.classes}
        requests.handle(header, [d.x.tobytes(), d.y.tobytes(), d.row_numbers.tobytes()])
    return requests


def request(method: Unlearner, task: Task, member: int, beacon: bytes) -> dict[str, Any]:
    header = {
        "op": "unlearn",
        "dataset": str(member),
        "unlearner": method.name,
        "work": task.work,
        "numbers": dict(task.numbers),
        "size": task.size,
        "method": "fedavg",
        "model": MODEL.name,
        "training": asdict(task.training),
        "grid": {"fraction_bits": GRID.fraction_bits, "max_abs": GRID.max_abs},
        "beacon": beacon.hex(),
        "member": member,
        "erasable": True,
    }
    whole: dict[str, Any] = json.loads(json.dumps(header))  # as it travels
    return whole


@pytest.mark.slow  # a training worker
@pytest.mark.parametrize("name", [name for name in UNLEARNERS if name not in ("sharded", "ridge")])
def test_a_worker_gives_the_same_bits(learned: Learned, network: Any, name: str) -> None:
    case, hospitals = learned.erasing({1: [3, 4, 5]})
    method, requests = get_unlearner(name), loaded(learned)
    case = with_defaults(method, case)

    def answer(one: Round) -> Mapping[int, LocalUpdate]:
        found = {}
        for member, task in one.tasks.items():
            header = request(method, task, member, case.agreed.beacon(one.height, task.model))
            own = hospitals[member]
            models = [encode_model(LAYOUT, model) for model in (task.model, *task.anchors)]
            rows = [own.retained.tobytes(), own.forgotten.tobytes()]
            told, buffers = requests.handle(header, [models[0], *rows, own.secret, *models[1:]])
            assert "error" not in told, told
            delta = at_length(decode_ints(buffers[0], task.size), task.squared_length, AGREED.grid)
            found[member] = LocalUpdate(delta, told["records"], told["loss"])
        return found

    here = unlearn(method, case, hospitals, network)
    assert np.array_equal(drive(method.rounds(case), answer).result.model, here.result.model)


def test_requests_that_make_no_sense_are_refused(learned: Learned) -> None:
    requests, method = loaded(learned), get_unlearner("ascent")
    task = Task("climb", learned.past.model(0), AGREED.training, LAYOUT.size)
    numbers = {"stop": 1.0, "learning_rate": 0.1, "epochs": 1.0, "bound": 10.0}
    header = request(method, replace(task, numbers=numbers), 0, bytes(32))
    rows = np.arange(3).tobytes()
    buffers = [encode_model(LAYOUT, task.model), rows, rows, b""]

    def told(change: dict[str, Any], sent: list[bytes] | None = None) -> str:
        answer, _ = requests.handle({**header, **change}, buffers if sent is None else sent)
        return f"{answer['error']['type']}: {answer['error']['message']}" if "error" in answer else "ok"

    assert told({}) == "ok"
    assert "unknown unlearning method" in told({"unlearner": "amnesia"})
    assert "unknown local work 'fly'; known: climb, train" in told({"work": "fly"})
    assert "'numbers' has 'stop'" in told({"numbers": {"stop": float("nan")}})
    assert "answer to climb" in told({"size": 3})
    assert "buffers of the request" in told({}, buffers[:3])
    assert "buffers of the request" in told({}, [*buffers, *[buffers[0]] * 5])
    assert "rows that are loaded" in told({}, [buffers[0], rows, np.array([99]).tobytes(), b""])
    assert "no records to forget" in told({}, [buffers[0], rows, b"", b""])
    assert "not a canonical model" in told({}, [b"model", rows, rows, b""])
    missing = {name: value for name, value in numbers.items() if name != "bound"}
    assert "bound" in told({"numbers": missing})
    contrast = {"unlearner": "fcu", "work": "contrast"}
    assert "brings 0 further models" in told(contrast)
