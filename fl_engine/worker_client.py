"""The node's side of the training worker: starts it, speaks frames with it, kills it when it is late.

Synchronous and without torch; an async caller runs each call in a thread. Calls from several threads are served one
after the other. A worker that died or was killed is started again by the next call, without its data sets: ask
`is_loaded` and load again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.errors import EngineError, FrameError, WorkerFailed
from fl_engine.frames import Frame, read_frame, write_frame
from fl_engine.params import Ints, view_ints
from fl_engine.ring import Grid

_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
"""A worker gets no other variable of the node: its environment may hold secrets."""


@dataclass(frozen=True)
class TrainedUpdate:
    """`delta` int32 [P]; `records` n_k; `loss` mean training loss; `profile` what the worker ran on."""

    delta: Ints
    records: int
    loss: float
    profile: dict[str, Any]


class TrainingWorker:
    """A training worker process.

    `timeout_s`: how long any one request may take before the worker is killed and WorkerFailed raised. Every call
    raises WorkerFailed when the worker refuses (with its error's class name and message), dies or is late.
    """

    def __init__(self, timeout_s: float = 600.0, stderr: int | None = None) -> None:
        self.timeout_s = timeout_s
        self._stderr = stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._turn = threading.Lock()

    def __enter__(self) -> TrainingWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id, or None where none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def is_loaded(self, dataset: str) -> bool:
        """Whether the running worker holds this data set."""
        return self.pid is not None and dataset in self._loaded

    def hello(self) -> dict[str, Any]:
        """The worker's execution profile; starts it where it does not run."""
        profile: dict[str, Any] = self._ask({"op": "hello"}, [])[0]["profile"]
        return profile

    def load(
        self,
        dataset: str,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        classes: int,
        row_numbers: NDArray[np.int64] | None = None,
    ) -> None:
        """Give the worker a data set, x float32 [N, ...], y int64 [N], replacing one of that name.

        `row_numbers` int64 [N] strictly ascending: the import row numbers (default 0..N-1).
        """
        numbers = np.arange(len(y), dtype=np.int64) if row_numbers is None else row_numbers
        header = {"op": "load", "dataset": dataset, "shape": list(x.shape), "classes": classes}
        self._ask(header, [_raw(x, "<f4"), _raw(y, "<i8"), _raw(numbers, "<i8")], loads=dataset)

    def unload(self, dataset: str) -> None:
        """Make the worker forget a data set (after an erasure the whole worker had better be restarted)."""
        self._loaded.discard(dataset)
        if self.pid is not None:
            self._ask({"op": "unload", "dataset": dataset}, [])

    def train(
        self,
        dataset: str,
        rows: NDArray[np.int64],
        model_bytes: bytes,
        *,
        method: str,
        model: str,
        training: Mapping[str, int | float],
        grid: Grid,
        beacon: bytes,
        member: int,
        erasable: bool,
        secret: bytes = b"",
    ) -> TrainedUpdate:
        """Train locally on the given import row numbers from the agreed model (`koinon.model/1` bytes)."""
        header = {
            "op": "train",
            "dataset": dataset,
            "method": method,
            "model": model,
            "training": dict(training),
            "grid": _grid(grid),
            "beacon": beacon.hex(),
            "member": member,
            "erasable": erasable,
        }
        return self._update(header, [model_bytes, _raw(rows, "<i8"), secret])

    def unlearn(
        self,
        dataset: str,
        retained: NDArray[np.int64],
        forgotten: NDArray[np.int64],
        model_bytes: bytes,
        *,
        unlearner: str,
        work: str,
        numbers: Mapping[str, float],
        size: int,
        anchors: Sequence[bytes] = (),
        secret: bytes = b"",
        method: str,
        model: str,
        training: Mapping[str, int | float],
        grid: Grid,
        beacon: bytes,
        member: int,
        erasable: bool,
    ) -> TrainedUpdate:
        """Carry out one task of an unlearning method (`fl_engine.unlearning.unlearner.Task`).

        `model_bytes` and `anchors`: `koinon.model/1` bytes; `retained`, `forgotten`: import row numbers; `secret`: the
        hospital's 32 bytes, where the task adds noise.
        """
        header = {
            "op": "unlearn",
            "dataset": dataset,
            "unlearner": unlearner,
            "work": work,
            "numbers": dict(numbers),
            "size": size,
            "method": method,
            "model": model,
            "training": dict(training),
            "grid": _grid(grid),
            "beacon": beacon.hex(),
            "member": member,
            "erasable": erasable,
        }
        rows = [_raw(one, "<i8") for one in (retained, forgotten)]
        return self._update(header, [model_bytes, *rows, secret, *anchors])

    def predict(
        self, dataset: str, rows: NDArray[np.int64], model_bytes: bytes, *, model: str, grid: Grid
    ) -> NDArray[np.float32]:
        """Logits float32 [n, classes] for the rows in ascending order; feed them to `fl_engine.evaluate`."""
        header = {"op": "predict", "dataset": dataset, "model": model, "grid": _grid(grid)}
        answer, buffers = self._ask(header, [model_bytes, _raw(rows, "<i8")])
        return _logits(buffers[0], answer["shape"])

    def compare(
        self,
        members: Sequence[tuple[str, NDArray[np.int64]]],
        test: tuple[str, NDArray[np.int64]],
        first_model: bytes,
        agreed_model: bytes,
        *,
        model: str,
        training: Mapping[str, int | float],
        grid: Grid,
        beacons: Sequence[bytes],
    ) -> dict[str, NDArray[np.float32]]:
        """Test logits of the agreed model, and of float federated, centralised and local-1 .. local-K training.

        `members` and `test`: (data set, training or test row numbers). `beacons`: those of the rounds that led from the
        first model to the agreed one.
        """
        header = {
            "op": "compare",
            "datasets": [dataset for dataset, _ in members],
            "test": test[0],
            "model": model,
            "training": dict(training),
            "grid": _grid(grid),
            "beacons": [one.hex() for one in beacons],
        }
        rows = [_raw(chosen, "<i8") for _, chosen in members]
        answer, buffers = self._ask(header, [first_model, agreed_model, _raw(test[1], "<i8"), *rows])
        return {name: _logits(part, answer["shape"]) for name, part in zip(answer["names"], buffers, strict=True)}

    def kill(self) -> None:
        """Stop the worker at once, from any thread; a call in progress raises WorkerFailed("WorkerGone")."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the worker by closing its input; kill it where that does not suffice. May be called twice."""
        with self._turn:
            self._close()

    def _close(self) -> None:
        process, self._process = self._process, None
        self._loaded.clear()
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                pass  # a dead worker's pipe cannot be flushed, and need not be
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _update(self, header: dict[str, Any], buffers: Sequence[bytes]) -> TrainedUpdate:
        answer, parts = self._ask(header, buffers)
        delta = view_ints(parts[0], len(parts[0]) // 4)
        return TrainedUpdate(delta, answer["records"], answer["loss"], answer["profile"])

    def _ask(self, header: dict[str, Any], buffers: Sequence[bytes], loads: str | None = None) -> Frame:
        with self._turn:
            process = self._running()
            late = threading.Event()

            def stop() -> None:
                late.set()
                process.kill()

            # A timer thread rather than a deadline: a write to a stuck worker blocks too, and killing ends both.
            timer = threading.Timer(self.timeout_s, stop)
            timer.daemon = True
            timer.start()
            try:
                answer = self._exchange(process, header, buffers)
            except (OSError, FrameError, ValueError) as fault:
                self._close()
                if late.is_set():
                    raise WorkerFailed("WorkerTimeout", f"no answer within {self.timeout_s:g} s") from fault
                raise WorkerFailed("WorkerGone", f"exit code {process.returncode}: {fault}") from fault
            finally:
                timer.cancel()
            if "error" in answer[0]:
                error = answer[0]["error"]
                raise WorkerFailed(str(error["type"]), str(error["message"]))
            if loads is not None:
                self._loaded.add(loads)
            return answer

    @staticmethod
    def _exchange(process: subprocess.Popen[bytes], header: dict[str, Any], buffers: Sequence[bytes]) -> Frame:
        if process.stdin is None or process.stdout is None:
            raise EngineError("the training worker was started without pipes")
        write_frame(process.stdin, header, buffers)
        answer = read_frame(process.stdout)
        if answer is None:
            raise FrameError("the training worker ended")
        return answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._close()
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        root = str(Path(__file__).resolve().parent.parent)
        # -P keeps the caller's working folder out of the import path: a stray torch.py there must not be run.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fl_engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**environment, **threads, "PYTHONPATH": root},
        )
        return self._process


def _raw(array: NDArray[Any], kind: str) -> bytes:
    return np.ascontiguousarray(array).astype(kind, copy=False).tobytes()


def _grid(grid: Grid) -> dict[str, int | float]:
    return {"fraction_bits": grid.fraction_bits, "max_abs": grid.max_abs}


def _logits(buffer: bytes, shape: Sequence[int]) -> NDArray[np.float32]:
    return np.frombuffer(buffer, dtype="<f4").astype(np.float32).reshape(tuple(shape))
