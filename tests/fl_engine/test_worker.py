"""The real worker process, by its client: what it answers, and every way it ends."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl_engine.errors import WorkerFailed
from fl_engine.models import get_model, initial_model
from fl_engine.params import encode_model
from fl_engine.ring import Grid
from fl_engine.training import Hyperparameters, TrainingData, get_method
from fl_engine.training.sgd import Network, pin_profile
from fl_engine.worker_client import TrainingWorker

pytestmark = pytest.mark.slow  # training workers

ROOT = Path(__file__).resolve().parents[2]
GRID = Grid()
MLP = get_model("mlp")
SPEC = MLP.layout((5,), 2)
START = initial_model(SPEC, GRID)
MODEL = encode_model(SPEC, START)
TRAINING = {"local_epochs": 2, "batch_size": 8, "learning_rate": 0.1}
ROWS = np.arange(40, dtype=np.int64)


def records() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def train(worker: TrainingWorker, rows: np.ndarray = ROWS, dataset: str = "d", **changes):
    arguments = {
        "method": "fedavg",
        "model": "mlp",
        "training": TRAINING,
        "grid": GRID,
        "beacon": bytes(32),
        "member": 3,
        "erasable": True,
        **changes,
    }
    return worker.train(dataset, rows, MODEL, **arguments)


@pytest.fixture(scope="module")
def running() -> Iterator[TrainingWorker]:
    with TrainingWorker(timeout_s=120) as worker:
        worker.load("d", *records(), classes=2)
        yield worker


def test_hello_tells_the_execution_profile(running):
    profile = running.hello()
    assert profile["threads"] == 1
    assert profile["deterministic"] is True
    assert set(profile) == {"torch", "machine", "isa", "threads", "mkldnn", "deterministic", "dtype"}


def test_the_worker_trains_to_the_same_integers_as_this_process(running):
    update = train(running)
    data = TrainingData(*records(), ROWS, 2)
    settings = Hyperparameters.from_mapping(TRAINING)
    pin_profile()
    here = get_method("fedavg").train_local(
        Network(MLP, (5,), 2), START, data, ROWS, settings, GRID, beacon=bytes(32), member=3, erasable=True
    )
    assert np.array_equal(update.delta, here.delta)
    assert (update.records, update.loss) == (40, here.loss)
    assert update.profile == running.hello()


def test_import_row_numbers_survive_the_deletion_of_records(running):
    kept = np.array([row for row in range(40) if row not in (3, 17)])
    x, y = records()
    running.load("fewer", x[kept], y[kept], 2, row_numbers=kept)
    assert np.array_equal(train(running, kept, "fewer").delta, train(running, kept).delta)
    running.unload("fewer")
    assert not running.is_loaded("fewer")
    with pytest.raises(WorkerFailed, match="unknown data set 'fewer'"):
        train(running, kept, "fewer")


def test_prediction_gives_logits_in_the_order_of_the_rows(running):
    every = running.predict("d", ROWS, MODEL, model="mlp", grid=GRID)
    some = running.predict("d", np.array([7, 2]), MODEL, model="mlp", grid=GRID)
    assert every.shape == (40, 2)
    assert np.allclose(some, every[[2, 7]], atol=1e-6)


def test_comparison_names_every_way_to_train(running):
    logits = running.compare(
        [("d", ROWS[:20]), ("d", ROWS[20:])],
        ("d", ROWS),
        MODEL,
        MODEL,
        model="mlp",
        training=TRAINING,
        grid=GRID,
        beacons=[bytes(32), bytes([1]) * 32],
    )
    assert list(logits) == ["federated", "federated-float", "centralised", "local-1", "local-2"]
    assert all(values.shape == (40, 2) for values in logits.values())
    agreed = running.predict("d", ROWS, MODEL, model="mlp", grid=GRID)
    assert np.array_equal(logits["federated"], agreed), "the agreed model itself, not trained again"


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"model": "resnet"}, "UnknownName"),
        ({"method": "magic"}, "UnknownName"),
        ({"beacon": b"short"}, "ShapeMismatch"),
        ({"training": {**TRAINING, "batch_size": 40}}, "PolicyError"),
        ({"training": {}}, "PolicyError"),
        ({"rows": ROWS + 1}, "ShapeMismatch"),
        ({"grid": Grid(24, 0.0001), "model": "small-cnn"}, "ShapeMismatch"),
    ],
)
def test_a_refused_request_names_its_error_and_the_worker_lives_on(running, changes, kind):
    pid = running.pid
    with pytest.raises(WorkerFailed) as caught:
        train(running, **changes)
    assert caught.value.error_type == kind
    assert running.pid == pid
    assert train(running).records == 40


def test_a_killed_worker_is_an_error_and_the_next_call_starts_another():
    with TrainingWorker(timeout_s=120) as worker:
        worker.load("d", *records(), classes=2)
        first = worker.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        assert not worker.is_loaded("d")
        assert worker.hello()["threads"] == 1
        assert worker.pid != first


def test_a_worker_that_does_not_answer_in_time_is_killed():
    worker = TrainingWorker(timeout_s=0.2)
    with pytest.raises(WorkerFailed) as caught:
        worker.hello()  # importing torch alone takes longer
    assert caught.value.error_type == "WorkerTimeout"
    assert worker.pid is None


def start_bare() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fl_engine.worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_the_worker_ends_when_its_input_ends():
    process = start_bare()
    out, _ = process.communicate(b"", timeout=60)
    assert (out, process.returncode) == (b"", 0)


def test_garbage_ends_the_worker_with_a_word_on_standard_error():
    process = start_bare()
    out, err = process.communicate(b"\xff" * 64, timeout=60)
    assert (out, process.returncode) == (b"", 1)
    assert b"header of 4294967295 bytes" in err


def test_the_worker_ends_in_the_middle_of_training_when_its_parent_is_killed():
    code = (
        "import numpy as np, sys\n"
        "from fl_engine.worker_client import TrainingWorker\n"
        "from tests.fl_engine.test_worker import TRAINING, records, train\n"
        "w = TrainingWorker(); w.load('d', *records(), classes=2)\n"
        "print(w.pid, flush=True)\n"
        "train(w, training={**TRAINING, 'local_epochs': 1000, 'batch_size': 1})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    # A process file descriptor becomes readable when the process has ended.
    assert select.select([child], [], [], 30)[0]
    os.close(child)
