"""The ridge head: sums of integers that a deletion takes apart again, and what is not published."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_engine.aggregation import aggregate
from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.models import get_model, initial_model
from fl_engine.models.ridge import CLIP, FEATURES, REGULARISATION, grid_features, logits, solve
from fl_engine.params import encode_model
from fl_engine.ring import Grid, add_saturating, dequantise
from fl_engine.training import Hyperparameters, TrainingData, get_method
from fl_engine.training.ridge import Statistics, epsilon
from fl_engine.training.sgd import Network

GRID = Grid()
RIDGE, MODEL = get_method("ridge"), get_model("ridge")
SETTINGS = Hyperparameters(1, 32, 0.05)
SECRET, BEACON = b"s" * 32, b"b" * 32


def features(seed: int, count: int, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    raw = (rng.normal(0, 0.5, (3, width))[y] + rng.normal(0, 0.5, (count, width))).astype(np.float32)
    return grid_features(raw), y


def images(seed: int, count: int) -> TrainingData:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    x = rng.normal(0, 0.3, (count, 1, 12, 12)) + y[:, None, None, None] * np.linspace(0, 1, 12)
    return TrainingData(x.astype(np.float32), y, np.arange(count) * 3, 2)


def trained(network: Any, start: np.ndarray, data: TrainingData, rows: np.ndarray, **changes: Any) -> Any:
    asked = {"erasable": False, "secret": SECRET, "settings": SETTINGS, "beacon": BEACON, **changes}
    return RIDGE.train_local(
        network,
        start,
        data,
        rows,
        asked["settings"],
        GRID,
        beacon=asked["beacon"],
        member=0,
        erasable=asked["erasable"],
        secret=asked["secret"],
    )


def test_one_of_a_thousand_patients_is_subtracted_to_the_last_bit() -> None:
    z, y = features(1, 4000, 64)  # a thousand patients of four records
    layout = MODEL.layout((1, 28, 28), 3)
    patient = np.repeat(np.arange(1000), 4)
    everybody = Statistics.of(z, y, 3)
    began = time.process_time()
    gone = patient == 711
    left = (everybody - Statistics.of(z[gone], y[gone], 3)).mean(GRID)
    took = time.process_time() - began
    never = Statistics.of(z[~gone], y[~gone], 3).mean(GRID)
    assert encode_model(layout, left) == encode_model(layout, never)
    assert not np.array_equal(left, everybody.mean(GRID))
    gram, cross = layout.unflatten(dequantise(left, GRID)).values()
    assert np.mean(logits(solve(gram, cross), z).argmax(1) == y) > 0.9
    assert took < 60  # processor seconds; measured by scripts/bench/unlearning, where it is well under one


@given(st.lists(st.integers(0, 59), unique=True, max_size=30))
@settings(max_examples=20, deadline=None)
def test_the_order_and_the_grouping_of_deletions_do_not_matter(gone: list[int]) -> None:
    z, y = features(2, 60)
    all_at_once = Statistics.of(z, y, 3)
    if gone:
        all_at_once = all_at_once - Statistics.of(z[gone], y[gone], 3)
    one_by_one = Statistics.of(z, y, 3)
    for i in reversed(gone):
        one_by_one = one_by_one - Statistics.of(z[[i]], y[[i]], 3)
    kept = np.setdiff1d(np.arange(60), gone)
    never = Statistics.of(z[kept], y[kept], 3)
    for one in (all_at_once, one_by_one):
        assert np.array_equal(one.gram, never.gram)
        assert np.array_equal(one.cross, never.cross)
        assert one.records == never.records


@given(st.integers(0, 30), st.integers(1, 2**20), st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9))
def test_a_mean_is_the_nearest_integer_of_the_grid(bits: int, records: int, sums: list[int]) -> None:
    grid = Grid(bits, 2.0**20)
    own = Statistics(np.zeros((1, 1), np.int64), np.array([sums], np.int64), records)
    got = own.mean(grid)[1:]
    for value, total in zip(got.tolist(), sums, strict=True):
        twice = 2 * total * 2**bits + records * 2**13
        exact = twice // (2 * records * 2**13)
        assert value == max(-grid.limit, min(grid.limit, exact))


def test_one_round_makes_the_head_of_all_records_from_any_model_before_it() -> None:
    data = [images(seed, 30) for seed in (1, 2, 3)]
    network = Network(MODEL, (1, 12, 12), 2)
    first = initial_model(network.spec, GRID)
    assert not first.any()
    assert not np.any(network.predict(data[0].x)), "a head of no records says nothing"

    def next_model(model: np.ndarray) -> np.ndarray:
        sent = [trained(network, model, one, one.row_numbers) for one in data]
        return add_saturating(model, aggregate("mean", network.spec.size, [(s.delta, s.records) for s in sent]))

    once = next_model(first)
    assert np.abs(next_model(once).astype(np.int64) - once).max() <= 1, "a second round rounds anew, and that is all"
    z = np.concatenate([grid_features(network.features(one.x)) for one in data])
    y = np.concatenate([one.y for one in data])
    together = Statistics.of(z, y, 2).mean(GRID)
    assert np.abs(together.astype(np.int64) - once).max() <= 2, "the mean of means of equal parts, rounded"
    network.set_weights(dequantise(once, GRID))
    unseen = images(9, 200)
    assert np.mean(network.predict(unseen.x).argmax(1) == unseen.y) > 0.9


def test_a_record_has_its_features_whoever_else_is_there() -> None:
    network, data = Network(MODEL, (1, 12, 12), 2), images(4, 40)
    start, some = initial_model(network.spec, GRID), images(4, 40).row_numbers[5:25]
    alone = replace(data, x=data.x[5:25], y=data.y[5:25], row_numbers=some)
    assert np.array_equal(trained(network, start, data, some).delta, trained(network, start, alone, some).delta)


def test_a_study_of_tables_has_a_backbone_too() -> None:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 80)
    data = TrainingData((rng.normal(0, 0.3, (80, 6)) + y[:, None]).astype(np.float32), y, np.arange(80), 2)
    network = Network(MODEL, (6,), 2)
    update = trained(network, initial_model(network.spec, GRID), data, data.row_numbers)
    network.set_weights(dequantise(update.delta, GRID))
    assert np.mean(network.predict(data.x).argmax(1) == y) > 0.95
    assert 0 < update.loss < 0.7
    with pytest.raises(ShapeMismatch, match="small-cnn"):
        MODEL.layout((7, 12, 12), 2)


def test_the_head_solves_its_equation() -> None:
    z, y = features(3, 500)
    own, width = Statistics.of(z, y, 3), z.shape[1]
    layout = replace(MODEL.layout((6,), 3), tensors=(("gram", (width * (width + 1) // 2,)), ("cross", (3, width))))
    gram, cross = layout.unflatten(dequantise(own.mean(GRID), GRID)).values()
    weights = solve(gram, cross)
    matrix = own.gram / own.records / CLIP**2 + REGULARISATION * np.eye(width)
    np.testing.assert_allclose(matrix @ weights, own.cross.T / own.records / CLIP, atol=1e-4)
    with pytest.raises(ShapeMismatch, match="gram of a ridge head"):
        solve(gram[:-1], cross)


def test_features_are_clipped_to_the_ball_and_projected_alike_everywhere() -> None:
    raw = np.random.default_rng(5).normal(0, 50, (20, 300)).astype(np.float32)
    z = grid_features(raw)
    assert z.shape == (20, FEATURES + 1)
    assert np.all((z * z).sum(axis=1) <= CLIP * CLIP)
    assert np.array_equal(grid_features(raw[:3]), z[:3])


def test_a_study_that_accepts_erasures_adds_noise_of_the_hospital_s_own() -> None:
    network, data = Network(MODEL, (1, 12, 12), 2), images(6, 30)
    start = initial_model(network.spec, GRID)
    with pytest.raises(PolicyError, match=r"training.noise is 0: two ridge heads"):
        trained(network, start, data, data.row_numbers, erasable=True)
    noisy = replace(SETTINGS, noise=0.5)
    first, same = (trained(network, start, data, data.row_numbers, erasable=True, settings=noisy) for _ in range(2))
    assert np.array_equal(first.delta, same.delta)
    for other in ({"secret": b"t" * 32}, {"beacon": bytes(32)}, {"settings": SETTINGS, "erasable": False}):
        changes = {"erasable": True, "settings": noisy, **other}
        assert not np.array_equal(first.delta, trained(network, start, data, data.row_numbers, **changes).delta)
    with pytest.raises(PolicyError, match="the secret of the noise has 0 bytes"):
        trained(network, start, data, data.row_numbers, settings=noisy, secret=b"")


def test_statistics_of_a_handful_of_records_do_not_leave_a_hospital() -> None:
    network, data = Network(MODEL, (1, 12, 12), 2), images(7, 30)
    with pytest.raises(PolicyError, match="9 records: statistics of fewer than 10"):
        trained(network, initial_model(network.spec, GRID), data, data.row_numbers[:9])


def test_the_noise_has_the_deviation_it_says_and_keeps_the_matrix_symmetric() -> None:
    z, y = features(6, 50, 60)
    own = Statistics.of(z, y, 3)
    drawn = own.noised(0.5, SECRET, BEACON)
    added = (drawn.gram - own.gram)[np.triu_indices(61)] / CLIP**2
    assert np.array_equal(drawn.gram, drawn.gram.T)
    assert np.std(added) == pytest.approx(0.5, rel=0.1)
    assert own.noised(0.0, b"", BEACON) is own
    assert epsilon(0.0) is None
    assert epsilon(0.5) is None
    value = epsilon(20.0)
    assert value is not None
    assert 0.3 < value < 0.4


@pytest.mark.parametrize("method, model", [("fedavg", "ridge"), ("fedavg-float64", "ridge"), ("ridge", "mlp")])
def test_a_head_is_not_stepped_and_a_network_is_no_sum(method: str, model: str) -> None:
    with pytest.raises(PolicyError, match=f"training method {method} does not find the parameters of model {model}"):
        get_method(method).trains(get_model(model))


def test_only_statistics_take_noise() -> None:
    with pytest.raises(PolicyError, match=r"training.noise is 0.1: only the method ridge"):
        get_method("fedavg").check(replace(SETTINGS, noise=0.1), True)
    with pytest.raises(PolicyError, match="noise is -1"):
        Hyperparameters(1, 1, 0.1, -1.0)
