"""What a training worker answers: pure request -> response, without any stream.

    request                                                 buffers                          response
    op: hello                                                                                profile
    op: load, dataset, shape [N, ...], classes              x f32, y i64, row numbers i64    records
    op: unload, dataset                                                                      unloaded (true or false)
    op: train, dataset, method, model, training, grid,
        beacon (hex), member, erasable                      model, rows i64, secret          records, loss, profile
                                                                                             + delta i32
    op: unlearn, dataset, unlearner, work, numbers, size,
        model, method, training, grid, beacon (hex),        model, retained rows i64,        records, loss, profile
        member, erasable                                    forgotten rows i64, secret,      + delta i32
                                                            anchors (models)
    op: predict, dataset, model, grid                       model, rows i64                  shape [n, classes], loss
                                                                                             + logits f32
    op: compare, datasets, test, model, training, grid,     first model, agreed model,
        beacons (hex, one a round)                          test rows, rows of each          names, shape
                                                                                             + logits f32 of each name

`model` buffers are `koinon.model/1` bytes, arrays raw little-endian. `grid` is `{fraction_bits, max_abs}`.

A request that fails is answered `{"error": {"type", "message"}}`. Records are held in memory only, and no request
carries a patient identifier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import EngineError, FrameError, PolicyError, ShapeMismatch, UnknownName
from fl_engine.evaluate import cross_entropy
from fl_engine.frames import Frame
from fl_engine.models import get_model
from fl_engine.models.model import Model
from fl_engine.params import Ints, decode_model, encode_ints
from fl_engine.ring import Grid, dequantise
from fl_engine.training import Hyperparameters, TrainingData, get_method
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.reference import (
    Member,
    centralised,
    float_fedavg,
    local_only,
    predict,
)
from fl_engine.training.sgd import Network, profile
from fl_engine.unlearning import Records, get_unlearner
from fl_engine.unlearning.execution import carry_out
from fl_engine.unlearning.unlearner import Task, check_answer

MAX_DATASETS: Final = 64
MAX_ANCHORS: Final = 4


class Requests:
    """The answering side of a worker; its only state is the loaded data sets."""

    def __init__(self) -> None:
        self._datasets: dict[str, TrainingData] = {}
        self._operations: dict[str, Callable[[dict[str, Any], list[bytes]], Frame]] = {
            "hello": self._hello,
            "load": self._load,
            "unload": self._unload,
            "train": self._train,
            "unlearn": self._unlearn,
            "predict": self._predict,
            "compare": self._compare,
        }

    def handle(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        """Answer one request. Never raises: a fault becomes an error response."""
        try:
            name = _field(header, "op", str)
            if name not in self._operations:
                raise UnknownName("operation", name, tuple(self._operations))
            return self._operations[name](header, buffers)
        except EngineError as fault:
            return {"error": {"type": type(fault).__name__, "message": str(fault)}}, []
        except (RuntimeError, ValueError, MemoryError) as fault:
            # torch and numpy report exhausted memory and unusable shapes this way; the worker stays usable.
            return {"error": {"type": "WorkerFault", "message": f"{type(fault).__name__}: {fault}"}}, []

    def _hello(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        _count(buffers, 0)
        return {"profile": profile()}, []

    def _load(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        _count(buffers, 3)
        name = _field(header, "dataset", str)
        if name not in self._datasets and len(self._datasets) >= MAX_DATASETS:
            raise PolicyError(f"{MAX_DATASETS} data sets are loaded; unload one first")
        shape = _field(header, "shape", list)
        if not shape or not all(type(side) is int and side >= 0 for side in shape):
            raise ShapeMismatch("shape of a data set", "a list of whole numbers", shape)
        x = _array(buffers[0], "<f4", "x").astype(np.float32)
        if x.size != int(np.prod(shape, dtype=object)):
            raise ShapeMismatch("numbers in x", shape, x.size)
        data = TrainingData(
            x.reshape(shape),
            _array(buffers[1], "<i8", "y").astype(np.int64),
            _array(buffers[2], "<i8", "row numbers").astype(np.int64),
            _field(header, "classes", int),
        )
        self._datasets[name] = data
        return {"records": len(data.y)}, []

    def _unload(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        _count(buffers, 0)
        return {"unloaded": self._datasets.pop(_field(header, "dataset", str), None) is not None}, []

    def _train(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        _count(buffers, 3)
        data = self._dataset(_field(header, "dataset", str))
        method = get_method(_field(header, "method", str))
        model = get_model(_field(header, "model", str))
        method.trains(model)
        update = method.train_local(
            Network(model, data.x.shape[1:], data.classes, method.precision),
            _model_ints(model, data, buffers[0]),
            data,
            _array(buffers[1], "<i8", "rows").astype(np.int64),
            Hyperparameters.from_mapping(_field(header, "training", dict)),
            _grid(header),
            beacon=_beacon(_field(header, "beacon", str)),
            member=_field(header, "member", int),
            erasable=_field(header, "erasable", bool),
            secret=buffers[2],
        )
        response = {"records": update.records, "loss": update.loss, "profile": profile(method.precision)}
        return response, [encode_ints(update.delta)]

    def _unlearn(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        if not 4 <= len(buffers) <= 4 + MAX_ANCHORS:
            raise ShapeMismatch("buffers of the request", f"4..{4 + MAX_ANCHORS}", len(buffers))
        data = self._dataset(_field(header, "dataset", str))
        model = get_model(_field(header, "model", str))
        unlearner = get_unlearner(_field(header, "unlearner", str))
        task = Task(
            _field(header, "work", str),
            _model_ints(model, data, buffers[0]),
            Hyperparameters.from_mapping(_field(header, "training", dict)),
            _field(header, "size", int),
            tuple(_model_ints(model, data, one) for one in buffers[4:]),
            _numbers(header),
        )
        rows = [_array(one, "<i8", "rows").astype(np.int64) for one in buffers[1:3]]
        study = _Study(_field(header, "method", str), _grid(header), _field(header, "erasable", bool))
        precision = get_method(study.method).precision
        update = carry_out(
            task,
            study,
            Records(data, rows[0], rows[1], buffers[3]),
            ProbedNetwork(model, data.x.shape[1:], data.classes, precision),
            unlearner.works,
            _beacon(_field(header, "beacon", str)),
            _field(header, "member", int),
        )
        check_answer(task, update)
        response = {"records": update.records, "loss": update.loss, "profile": profile(precision)}
        return response, [encode_ints(update.delta)]

    def _predict(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        _count(buffers, 2)
        data = self._dataset(_field(header, "dataset", str))
        model = get_model(_field(header, "model", str))
        weights = dequantise(_model_ints(model, data, buffers[0]), _grid(header))
        chosen = _chosen(data, _array(buffers[1], "<i8", "rows").astype(np.int64))
        logits = predict(model, weights, chosen)
        return {"shape": list(logits.shape), "loss": cross_entropy(logits, chosen.y)}, [_floats(logits)]

    def _compare(self, header: dict[str, Any], buffers: list[bytes]) -> Frame:
        names = _field(header, "datasets", list)
        _count(buffers, 3 + len(names))
        model = get_model(_field(header, "model", str))
        get_method("fedavg").trains(model)
        beacons = [_beacon(str(one)) for one in _field(header, "beacons", list)]
        if not names or not beacons:
            raise PolicyError(
                f"comparing {len(names)} members over {len(beacons)} rounds: at least one of each is needed"
            )
        members = [
            Member(self._dataset(name), _array(rows, "<i8", "rows").astype(np.int64))
            for name, rows in zip(names, buffers[3:], strict=True)
        ]
        test_data = self._dataset(_field(header, "test", str))
        test = _chosen(test_data, _array(buffers[2], "<i8", "rows").astype(np.int64))
        grid = _grid(header)
        settings = Hyperparameters.from_mapping(_field(header, "training", dict))
        start, agreed = (_model_ints(model, members[0].data, one) for one in buffers[:2])
        weights = {
            "federated": dequantise(agreed, grid),
            "federated-float": float_fedavg(model, start, members, settings, grid, beacons),
            "centralised": centralised(model, start, members, settings, grid, beacons),
        }
        for index, member in enumerate(members):
            weights[f"local-{index + 1}"] = local_only(model, start, member, index, settings, grid, beacons)
        logits = [predict(model, vector, test) for vector in weights.values()]
        return {"names": list(weights), "shape": list(logits[0].shape)}, [_floats(part) for part in logits]

    def _dataset(self, name: str) -> TrainingData:
        if name not in self._datasets:
            raise UnknownName("data set", name, tuple(self._datasets))
        return self._datasets[name]


@dataclass(frozen=True)
class _Study:
    """What a task needs of the study: an `fl_engine.unlearning.execution.Local`."""

    method: str
    grid: Grid
    erasable: bool


def _numbers(header: dict[str, Any]) -> dict[str, float]:
    values = _field(header, "numbers", dict)
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise FrameError(f"request field 'numbers' has {name!r:.40} = {value!r:.40}, expected a finite number")
    return {str(name): float(value) for name, value in values.items()}


def _field(header: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = header.get(name)
    if type(value) is not kind:
        raise FrameError(f"request field {name!r} is {value!r:.80}, expected {kind.__name__}")
    return value


def _count(buffers: list[bytes], expected: int) -> None:
    if len(buffers) != expected:
        raise ShapeMismatch("buffers of the request", expected, len(buffers))


def _array(buffer: bytes, kind: str, what: str) -> NDArray[Any]:
    width = np.dtype(kind).itemsize
    if len(buffer) % width:
        raise ShapeMismatch(f"bytes of {what}", f"a multiple of {width}", len(buffer))
    return np.frombuffer(buffer, dtype=kind)


def _beacon(text: str) -> bytes:
    try:
        beacon = bytes.fromhex(text)
    except ValueError:
        raise FrameError(f"beacon {text!r:.80} is not hexadecimal") from None
    if len(beacon) != 32:
        raise ShapeMismatch("bytes of the beacon", 32, len(beacon))
    return beacon


def _grid(header: dict[str, Any]) -> Grid:
    values = _field(header, "grid", dict)
    max_abs = values.get("max_abs")
    if isinstance(max_abs, bool) or not isinstance(max_abs, int | float):
        raise FrameError(f"grid field 'max_abs' is {max_abs!r:.80}, expected a number")
    return Grid(_field(values, "fraction_bits", int), float(max_abs))


def _model_ints(model: Model, data: TrainingData, encoded: bytes) -> Ints:
    expected = model.layout(data.x.shape[1:], data.classes)
    return decode_model(encoded, expected)[1]


def _chosen(data: TrainingData, rows: NDArray[np.int64]) -> TrainingData:
    at = data.positions(rows)
    return TrainingData(data.x[at], data.y[at], data.row_numbers[at], data.classes)


def _floats(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
