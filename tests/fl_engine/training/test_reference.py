"""The integer federation learns what plain floating-point FedAvg learns."""

import numpy as np

from fl_engine.evaluate import evaluate
from fl_engine.models import get_model, initial_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training import Hyperparameters
from fl_engine.training.reference import centralised, float_fedavg, integer_fedavg, local_only, predict

GRID = Grid()
CNN = get_model("small-cnn")
START = initial_model(CNN.layout((1, 12, 12), 3), GRID)
SETTINGS = Hyperparameters(local_epochs=2, batch_size=16, learning_rate=0.1)
ROUNDS = 4


def test_integers_are_within_two_points_of_floats_and_better_than_any_hospital_alone(hospitals, test_records):
    def accuracy(weights: np.ndarray) -> float:
        logits = predict(CNN, weights, test_records)
        result = evaluate(logits, test_records.y, test_records.row_numbers, replicates=0).accuracy
        assert result is not None
        return result

    arguments = (SETTINGS, GRID, ROUNDS)
    integers = accuracy(dequantise(integer_fedavg(CNN, START, hospitals, *arguments), GRID))
    floats = accuracy(float_fedavg(CNN, START, hospitals, *arguments))
    pooled = accuracy(centralised(CNN, START, hospitals, *arguments))
    alone = max(accuracy(local_only(CNN, START, m, i, *arguments)) for i, m in enumerate(hospitals))
    assert abs(integers - floats) <= 0.02
    assert integers > alone
    assert min(integers, pooled) > 0.7
