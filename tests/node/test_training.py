"""The bridge between tensors and bytes: what the aggregate costs in memory, and that the ways to it agree."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from fl_engine.errors import EngineError
from fl_engine.params import decode_model
from node.study import parse_sections
from node.training import Arithmetic, Total
from tests.fakes.network import SharedTrainer

BLOCKS_BYTES = 2**21
"""What passes over a model hold at once beside it, of whatever length the model is."""

TINY = {
    "schema": "koinon.study/1",
    "name": "tiny",
    "task": "table-classification",
    "rounds": 1,
    "model": {"name": "mlp"},
    "training": {"batch_size": 4},
    "forms": [{"name": "main", "text_sha256": "ab" * 32, "valid_to": 4_070_908_800, "custody": "synthetic"}],
}
FORM = {"name": "main", "text_sha256": "ab" * 32, "valid_to": 4_070_908_800, "custody": "synthetic"}


@pytest.fixture(scope="module")
def arithmetic() -> Arithmetic:
    """An mlp of a million parameters: a model of 4 MB."""
    sections = {
        "schema": "koinon.study/1",
        "name": "memory",
        "task": "table-classification",
        "rounds": 1,
        "data": {"input_shape": [4, 64, 64], "classes": 3},
        "model": {"name": "mlp"},
        "forms": [FORM],
    }
    return Arithmetic(parse_sections(sections))


def updates(arithmetic: Arithmetic, count: int) -> Iterator[tuple[int, bytes, int]]:
    for number in range(count):
        draw = np.random.Generator(np.random.Philox(number))
        yield number, draw.integers(-(2**20), 2**20, arithmetic.size, dtype=np.int32).tobytes(), number + 1


def peak_of(arithmetic: Arithmetic, count: int, parent: bytes) -> int:
    tracemalloc.start()
    try:
        arithmetic.next_model(parent, updates(arithmetic, count))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_models_length_is_told_without_making_one(arithmetic):
    assert arithmetic.model_length() == len(arithmetic.initial())


def test_memory_is_a_few_models_however_many_updates(arithmetic):
    parent = arithmetic.initial()
    few, many = peak_of(arithmetic, 2, parent), peak_of(arithmetic, 16, parent)
    assert many <= 5 * len(parent) + BLOCKS_BYTES, "the sum (2), two updates and the numbers one is drawn from (3)"
    assert many <= few + len(parent) // 4


def test_the_new_model_is_the_parent_and_the_weighted_mean(arithmetic):
    parent = arithmetic.initial()
    parts = list(updates(arithmetic, 3))
    arrays = [np.frombuffer(values, "<i4").astype(np.int64) for _, values, _ in parts]
    n = sum(weight for _, _, weight in parts)
    weighted = sum(array * weight for array, (_, _, weight) in zip(arrays, parts, strict=True))
    expected = decode_model(parent)[1].astype(np.int64) + (2 * weighted + n) // (2 * n)
    assert np.array_equal(decode_model(arithmetic.next_model(parent, reversed(parts)))[1], expected.astype(np.int32))


def test_an_update_of_another_length_changes_nothing(arithmetic):
    parent = arithmetic.initial()
    total = Total(arithmetic)
    for member, values, weight in updates(arithmetic, 2):
        total.add(member, values, weight)
        with pytest.raises(EngineError):
            total.add(member, values[:-4], weight)
    assert total.model(parent) == arithmetic.next_model(parent, updates(arithmetic, 2))


@pytest.mark.slow  # a training worker
def test_a_study_of_other_classes_on_the_same_records_is_trained_and_evaluated_too(trainer: SharedTrainer) -> None:
    """The worker keeps the records of one study; those of the next are not the same ones though every number is."""
    rows, y = np.arange(8), np.arange(8) % 2
    x = np.random.default_rng(1).random((8, 6), dtype=np.float32)
    for classes in (2, 5, 2):
        found = Arithmetic(parse_sections({**TINY, "data": {"input_shape": [6], "classes": classes}}))
        update = trainer.train(found, rows, x, y, found.initial(), bytes(32), 0)
        assert update.records == 8
        assert trainer.predict(found, rows, x, found.initial()).shape == (8, classes)


@pytest.mark.slow  # a training worker
def test_a_deletion_reaches_the_worker_only_where_it_holds_a_record_that_went(trainer: SharedTrainer) -> None:
    trainer.forget(frozenset())  # what other tests left
    rows, y = np.arange(4, 12), np.arange(8) % 2
    x = np.random.default_rng(1).random((8, 6), dtype=np.float32)
    found = Arithmetic(parse_sections({**TINY, "data": {"input_shape": [6], "classes": 2}}))
    trainer.train(found, rows, x, y, found.initial(), bytes(32), 0)
    (name,) = trainer._loaded
    assert not trainer.forget(frozenset(range(20)) - {3}), "a record of another study"
    assert trainer._worker.is_loaded(name)
    assert trainer.forget(frozenset(range(20)) - {5})
    assert not trainer._worker.is_loaded(name)
    assert trainer.train(found, rows[2:], x[2:], y[2:], found.initial(), bytes(32), 0).records == 6
