"""The task of `scripts/bench/others` as the programs of every system use it: first model, a member's training, notes.

`TASK` (the environment's BENCH_TASK, JSON) says what to train: model, data (a folder with a file for each member),
notes (the file that is written to), members, rounds, and the sizes that `scripts/bench/rounds` gives koinon.

A note is a line of JSON. Rounds are counted from 1, seconds are of this machine's clock:

    {"round": 2, "trained_s": 0.31, "norm": 45.2}   a member has trained for so long, from a model of this length
    {"round": 2, "ended_at": 1764170000.1}          a round has ended, as whoever writes this sees it
    {"ready": 0}                                    a node of p2pfl is connected with those before it
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl_engine.data.readers import read_data_file
from fl_engine.models import get_model, initial_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training import Hyperparameters
from fl_engine.training.method import TrainingData, batch_order
from fl_engine.training.sgd import Network, pin_profile

TASK = json.loads(os.environ["BENCH_TASK"])
LAYOUT = get_model(TASK["model"]).layout((1, TASK["side"], TASK["side"]), TASK["classes"])

Weights = npt.NDArray[np.float32]
"""A model as one vector [P]."""


def first_model() -> Weights:
    """What koinon begins with too."""
    return dequantise(initial_model(LAYOUT, Grid()), Grid()).astype(np.float32)


def to_arrays(weights: Weights) -> list[npt.NDArray[np.float32]]:
    """A model as one array for each tensor, which is how most systems carry it."""
    return [np.ascontiguousarray(one) for one in LAYOUT.unflatten(weights).values()]


def from_arrays(arrays: list[npt.NDArray[np.float32]]) -> Weights:
    """`to_arrays` undone."""
    return np.concatenate([one.reshape(-1) for one in arrays])


def note(**said: float) -> None:
    """Append one note; lines of several processes do not mix."""
    with open(TASK["notes"], "a") as notes:
        notes.write(json.dumps(said) + "\n")


class Member:
    """A member, counted from 0, with its images."""

    def __init__(self, index: int) -> None:
        pin_profile()
        one = read_data_file(Path(TASK["data"]) / f"hospital-{index + 1}.npz")
        self._index = index
        self._data = TrainingData(one.x, one.y, np.arange(len(one.y)), TASK["classes"])
        self._network = Network(get_model(TASK["model"]), self._data.x.shape[1:], TASK["classes"])

    def train(self, weights: Weights, number: int) -> Weights:
        """The model after this member's training in round `number`."""
        begun, data, network = time.perf_counter(), self._data, self._network
        network.set_weights(weights)
        settings = Hyperparameters(1, TASK["batch"], TASK["rate"])
        rows = data.positions(np.arange(TASK["records"]))
        for batches in batch_order(rows, settings, bytes(32), self._index):
            network.train_epoch(data.x, data.y, batches, settings.learning_rate)
        trained = network.weights()
        note(round=number, trained_s=time.perf_counter() - begun, norm=float(np.linalg.norm(weights)))
        return trained
