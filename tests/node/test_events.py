"""The index of events follows a home's blocks: it grows and goes back with them, and is made anew if it is lost."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from node.events import EventIndex
from node.trail import tell
from tests.node.audit.test_records import make_world
from tests.node.ledger import test_erasure


@pytest.fixture(scope="module")
def told() -> list:
    world = make_world()
    test_erasure.test_an_erasure_from_plan_to_close(world)
    return list(tell(world.logged()))


def test_what_goes_in_comes_out_in_the_chain_s_order(told: list) -> None:
    index = EventIndex()
    index.extend(reversed(told))
    assert index.find() == told


def test_adding_an_event_twice_changes_nothing(told: list) -> None:
    index = EventIndex()
    index.extend(told)
    index.extend(told[3:7])
    assert index.find() == told


def test_forgetting_from_a_block_on_leaves_what_came_before(told: list) -> None:
    index = EventIndex()
    cut = told[len(told) // 2].block
    index.extend(told, [(one.block, one.block_hash) for one in told])
    index.forget(cut)
    assert index.find() == [one for one in told if one.block < cut]
    assert max(number for number, _ in index.followed()) < cut


def test_filters_add_up(told: list) -> None:
    index = EventIndex()
    index.extend(told)
    batch = next(one.batch for one in told if one.kind == "erasure-opened")
    steps = index.find(batch=batch, kind="erasure-stepped")
    assert [one.kind for one in steps] == ["erasure-stepped"] * 3, (
        "of its steps those that come together are one record"
    )
    assert index.find(batch=batch, kind="erasure-stepped", until=steps[0].time - 1) == []


def test_an_index_of_another_version_is_made_anew(tmp_path: Path, told: list) -> None:
    path = tmp_path / "events.db"
    index = EventIndex(path)
    index.extend(told)
    index.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    again = EventIndex(path)
    assert again.find() == []
    again.close()
