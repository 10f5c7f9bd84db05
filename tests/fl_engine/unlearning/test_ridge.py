"""The ridge head: sums of integers that a deletion takes apart again, and what is not published."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.params import ParamSpec, encode_model
from fl_engine.ring import Grid
from fl_engine.unlearning import get_unlearner
from fl_engine.unlearning.execution import unlearn
from fl_engine.unlearning.ridge import (
    CLIP,
    Statistics,
    epsilon,
    grid_features,
    head_layout,
    noised,
    packed_size,
    predict,
    solve,
)
from tests.fakes.tables import LAYOUT, Learned

GRID = Grid()


def features(seed: int, count: int, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    raw = (rng.normal(0, 1, (3, width))[y] + rng.normal(0, 1, (count, width))).astype(np.float32)
    return grid_features(raw, width), y


def test_one_of_a_thousand_patients_is_subtracted_to_the_last_bit() -> None:
    z, y = features(1, 4000, 128)  # a thousand patients of four records
    patient = np.repeat(np.arange(1000), 4)
    everybody = Statistics.of(z, y, 3)
    began = time.process_time()
    gone = patient == 711
    left = everybody - Statistics.of(z[gone], y[gone], 3)
    head = left.head(1.0, GRID)
    took = time.process_time() - began
    never = Statistics.of(z[~gone], y[~gone], 3).head(1.0, GRID)
    layout = ParamSpec((("ridge.weight", (129, 3)),))
    assert encode_model(layout, head) == encode_model(layout, never)
    assert not np.array_equal(head, everybody.head(1.0, GRID))
    assert np.mean(predict(head, z, 3, GRID).argmax(1) == y) > 0.9
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


def test_the_solution_solves_and_agrees_with_a_library() -> None:
    rng = np.random.default_rng(3)
    half = rng.normal(size=(40, 40))
    matrix, right = half @ half.T + 0.1 * np.eye(40), rng.normal(size=(40, 3))
    np.testing.assert_allclose(solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-8)
    with pytest.raises(PolicyError, match="pivot 1"):
        solve(np.array([[1.0, 1.0], [1.0, 1.0]]), np.ones((2, 1)))


def test_statistics_travel_as_int32_and_come_back() -> None:
    z, y = features(4, 50)
    own = Statistics.of(z, y, 3)
    packed = own.pack()
    assert packed.shape == (packed_size(25, 3),)
    back = Statistics.unpack(packed, 25, 3, 50)
    assert np.array_equal(back.gram, own.gram)
    assert np.array_equal(back.cross, own.cross)
    big = Statistics(np.full((1, 1), -(2**61)), np.full((1, 1), 2**61 + 12345), 1)
    again = Statistics.unpack(big.pack(), 1, 1, 1)
    assert (again.gram[0, 0], again.cross[0, 0]) == (-(2**61), 2**61 + 12345)
    with pytest.raises(ShapeMismatch, match="packed statistics"):
        Statistics.unpack(packed[:-1], 25, 3, 50)


def test_features_are_clipped_to_the_ball_and_projected_alike_everywhere() -> None:
    raw = np.random.default_rng(5).normal(0, 50, (20, 300)).astype(np.float32)
    z = grid_features(raw, 16)
    assert z.shape == (20, 17)
    assert np.all((z * z).sum(axis=1) <= CLIP * CLIP)
    assert np.array_equal(grid_features(raw[:3], 16), z[:3])


def test_a_head_is_not_released_around_a_single_patient_without_noise(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: [3]})
    case = replace(case, patients=1, parameters={"width": 4})
    with pytest.raises(PolicyError, match="1 forgotten patients and no noise"):
        unlearn(get_unlearner("ridge"), case, hospitals, network)
    noisy = replace(case, parameters={"width": 4, "noise": 0.5})
    first, second = (unlearn(get_unlearner("ridge"), noisy, hospitals, network) for _ in range(2))
    assert np.array_equal(first.result.model, second.result.model)
    quiet = unlearn(get_unlearner("ridge"), replace(case, patients=10), hospitals, network)
    assert not np.array_equal(first.result.model, quiet.result.model)


def test_statistics_of_a_handful_of_records_do_not_leave_a_hospital(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: list(range(21))})
    with pytest.raises(PolicyError, match="9 records"):
        unlearn(get_unlearner("ridge"), replace(case, patients=21, parameters={"width": 4}), hospitals, network)


def test_the_noise_has_the_deviation_it_says_and_keeps_the_matrix_symmetric() -> None:
    z, y = features(6, 50, 60)
    own = Statistics.of(z, y, 3)
    drawn = noised(own, 0.5, b"s" * 32)
    added = (drawn.gram - own.gram)[np.triu_indices(61)] / CLIP**2
    assert np.array_equal(drawn.gram, drawn.gram.T)
    assert np.std(added) == pytest.approx(0.5, rel=0.1)
    assert not np.array_equal(noised(own, 0.5, b"t" * 32).gram, drawn.gram)
    assert epsilon(0.0) is None
    assert epsilon(0.5) is None
    value = epsilon(20.0)
    assert value is not None
    assert 0.3 < value < 0.4


def test_a_head_has_no_more_features_than_its_backbone() -> None:
    assert head_layout(LAYOUT, 4).tensors == (("ridge.weight", (5, 3)),)
    assert head_layout(LAYOUT, 500).tensors == (("ridge.weight", (33, 3)),)
