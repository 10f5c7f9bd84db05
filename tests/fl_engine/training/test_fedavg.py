"""Local training: the same bits every time, from the rows and the beacon alone."""

import hashlib

import numpy as np
import pytest
import torch

from fl_engine.errors import NonFiniteUpdate, PolicyError, ShapeMismatch, UnknownName
from fl_engine.models import get_model, initial_model
from fl_engine.ring import Grid
from fl_engine.training import Hyperparameters, TrainingData, get_method
from fl_engine.training.sgd import Network

GRID = Grid()
CNN = get_model("small-cnn")
START = initial_model(CNN.layout((1, 12, 12), 3), GRID)
BEACON = bytes(32)
SETTINGS = Hyperparameters(local_epochs=2, batch_size=16, learning_rate=0.05)


def train(data, rows, beacon=BEACON, member=0, settings=SETTINGS, erasable=True, name="fedavg"):
    method = get_method(name)
    network = Network(CNN, (1, 12, 12), 3, method.precision)
    return method.train_local(
        network, START, data, rows, settings, GRID, beacon=beacon, member=member, erasable=erasable
    )


def digest(update) -> str:
    return hashlib.sha256(update.delta.tobytes()).hexdigest()


def test_training_twice_gives_the_same_integers(hospitals):
    first, second = (train(hospitals[0].data, hospitals[0].rows) for _ in range(2))
    assert digest(first) == digest(second)
    assert first.records == 80
    assert first.loss == second.loss
    assert np.count_nonzero(first.delta) > 1000


@pytest.mark.filterwarnings("ignore:TF32")
def test_in_float64_other_kernels_and_threads_give_the_same_integers(hospitals):
    """As other machines have them. In float32 nearly every integer differs between the first two."""

    def trained(kernels, threads):
        torch.set_num_threads(threads)
        try:
            with torch.backends.mkldnn.flags(enabled=kernels):
                return train(hospitals[0].data, hospitals[0].rows, name="fedavg-float64")
        finally:
            torch.set_num_threads(1)

    first, *others = (trained(kernels, threads) for kernels, threads in ((True, 1), (False, 1), (True, 2)))
    assert {digest(one) for one in others} == {digest(first)}
    assert digest(first) != digest(train(hospitals[0].data, hospitals[0].rows))


def test_another_beacon_or_member_gives_another_update(hospitals):
    data, rows = hospitals[0].data, hospitals[0].rows
    updates = [train(data, rows), train(data, rows, beacon=b"\1" * 32), train(data, rows, member=1)]
    assert len({digest(update) for update in updates}) == 3


def test_the_order_in_which_rows_are_named_does_not_matter(hospitals):
    data, rows = hospitals[0].data, hospitals[0].rows
    assert digest(train(data, rows)) == digest(train(data, rows[::-1]))


def test_leaving_records_out_equals_never_having_held_them(hospitals):
    data = hospitals[0].data
    kept = np.array([i for i in range(80) if i % 9])
    without = TrainingData(data.x[kept], data.y[kept], data.row_numbers[kept], 3)
    assert digest(train(data, kept)) == digest(train(without, kept))


def test_the_loss_goes_down(hospitals):
    data, rows = hospitals[3].data, hospitals[3].rows
    short, long = (train(data, rows, settings=Hyperparameters(e, 16, 0.05)).loss for e in (1, 12))
    assert long < 0.7 * short


def test_fewer_than_two_batches_are_refused_where_erasure_is_promised(hospitals):
    data, rows = hospitals[0].data, hospitals[0].rows
    settings = Hyperparameters(1, 80, 0.05)
    with pytest.raises(PolicyError, match="80 records in batches of 80 make 1 batch an epoch"):
        train(data, rows, settings=settings)
    assert train(data, rows, settings=settings, erasable=False).records == 80
    assert train(data, rows, settings=Hyperparameters(1, 79, 0.05)).records == 80


def test_training_that_diverges_is_an_error_and_not_an_update(hospitals):
    broken = TrainingData(np.full((4, 1, 12, 12), np.inf, np.float32), np.zeros(4, np.int64), np.arange(4), 3)
    with pytest.raises(NonFiniteUpdate):
        train(broken, broken.row_numbers, settings=Hyperparameters(1, 2, 0.1))


def test_no_records_or_unknown_records_are_refused(hospitals):
    data = hospitals[0].data
    with pytest.raises(PolicyError, match="no records"):
        train(data, np.array([], dtype=np.int64))
    with pytest.raises(ShapeMismatch, match="got 80"):
        train(data, np.arange(81))
    with pytest.raises(ShapeMismatch, match="a number twice"):
        train(data, np.array([1, 1, 2]))


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="known: fedavg"):
        get_method("fedprox")
