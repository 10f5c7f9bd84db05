"""The integer federation learns what plain floating-point FedAvg learns."""

from collections.abc import Sequence

import numpy as np
import pytest

from fl_engine.aggregation import aggregate
from fl_engine.evaluate import evaluate
from fl_engine.models import get_model, initial_model
from fl_engine.params import Ints
from fl_engine.ring import Grid, add_saturating, dequantise
from fl_engine.training import Hyperparameters
from fl_engine.training.fedavg import FEDAVG
from fl_engine.training.reference import Member, centralised, float_fedavg, local_only, predict
from fl_engine.training.sgd import Network

GRID = Grid()
CNN = get_model("small-cnn")
START = initial_model(CNN.layout((1, 12, 12), 3), GRID)
SETTINGS = Hyperparameters(local_epochs=2, batch_size=16, learning_rate=0.1)
BEACONS = [bytes([number]) * 32 for number in range(4)]


def integer_fedavg(members: Sequence[Member]) -> Ints:
    """The federation as koinon runs it, all members included in every round -> int32 [P]."""
    data = members[0].data
    network = Network(CNN, data.x.shape[1:], data.classes)
    ints = START
    for beacon in BEACONS:
        updates = [
            FEDAVG.train_local(network, ints, m.data, m.rows, SETTINGS, GRID, beacon=beacon, member=i, erasable=False)
            for i, m in enumerate(members)
        ]
        ints = add_saturating(ints, aggregate("mean", len(ints), [(u.delta, u.records) for u in updates]))
    return ints


@pytest.mark.slow  # three trainings
def test_integers_are_within_two_points_of_floats_and_better_than_any_hospital_alone(hospitals, test_records):
    def accuracy(weights: np.ndarray) -> float:
        logits = predict(CNN, weights, test_records)
        result = evaluate(logits, test_records.y, test_records.row_numbers, replicates=0).accuracy
        assert result is not None
        return result

    arguments = (SETTINGS, GRID, BEACONS)
    integers = accuracy(dequantise(integer_fedavg(hospitals), GRID))
    floats = accuracy(float_fedavg(CNN, START, hospitals, *arguments))
    pooled = accuracy(centralised(CNN, START, hospitals, *arguments))
    alone = max(accuracy(local_only(CNN, START, m, i, *arguments)) for i, m in enumerate(hospitals))
    assert abs(integers - floats) <= 0.02
    assert integers > alone
    assert min(integers, pooled) > 0.7
