"""Batch order and training parameters."""

import numpy as np
import pytest

from fl_engine.errors import PolicyError
from fl_engine.training.method import Hyperparameters, batch_order

BEACON = bytes(32)


def test_an_epoch_visits_every_record_once_in_an_order_of_its_own():
    positions = np.arange(10, 21)
    first, second = batch_order(positions, Hyperparameters(2, 4, 0.1), BEACON, 0)
    assert [len(batch) for batch in first] == [4, 4, 3]
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(10, 21))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()


@pytest.mark.parametrize(
    "values, fault",
    [
        ({"local_epochs": 0, "batch_size": 1, "learning_rate": 0.1}, "local_epochs is 0"),
        ({"local_epochs": 1, "batch_size": 0, "learning_rate": 0.1}, "batch_size is 0"),
        ({"local_epochs": 1, "batch_size": 1, "learning_rate": float("nan")}, "learning_rate is nan"),
        ({"local_epochs": 1, "batch_size": 1, "learning_rate": 0}, "learning_rate is 0"),
        ({"local_epochs": True, "batch_size": 1, "learning_rate": 0.1}, "local_epochs is True"),
        ({"local_epochs": 1, "batch_size": 1}, "expected"),
        ({"local_epochs": 1, "batch_size": 1, "learning_rate": 0.1, "momentum": 0.9}, "momentum"),
    ],
)
def test_training_parameters_are_strict(values, fault):
    with pytest.raises(PolicyError, match=fault):
        Hyperparameters.from_mapping(values)
