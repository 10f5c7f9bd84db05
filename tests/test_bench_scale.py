"""The simulator of large networks: the same every time, bounded by its lines, and what the real machine sends."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "bench" / "scale"
PAIRS = 4 * 3


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    loader = SourceFileLoader("bench_scale", str(SCRIPT))
    spec = importlib.util.spec_from_loader("bench_scale", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_scale"] = module
    loader.exec_module(module)
    return module


def test_the_same_seed_gives_the_same_round(scale: ModuleType) -> None:
    gas = scale.Gas.measured()
    first, again, other = (scale.all_to_all(scale.World(), 4, seed, gas) for seed in (7, 7, 8))
    assert first == again
    assert first.seconds != other.seconds


def test_a_round_sends_what_the_machine_asks_for_and_no_faster_than_the_lines(scale: ModuleType) -> None:
    world = scale.World(loss=0.0)
    one = scale.all_to_all(world, 4, 1, scale.Gas.measured())
    assert {kind: one.kinds[kind] for kind in ("commit", "close", "map")} == {
        "commit": PAIRS,
        "close": PAIRS,
        "map": 2 * PAIRS,
    }
    assert one.kinds["keys"] >= PAIRS
    assert 0 < one.kinds["vote"] <= PAIRS
    assert one.bytes > PAIRS * world.model_bytes
    assert one.seconds > 3 * world.model_bytes / world.up
    slower = scale.all_to_all(replace(world, up=world.up / 10, down=world.down / 10), 4, 1, scale.Gas.measured())
    assert slower.seconds > 5 * one.seconds
    assert slower.kinds["commit"] == one.kinds["commit"]


def test_the_gas_of_a_round_is_what_forge_measured(scale: ModuleType) -> None:
    one = scale.all_to_all(scale.World(), 10, 1, scale.Gas.measured())
    measured = scale.json.loads((scale.ROOT / "contracts/snapshots/Round.json").read_text())
    expected = sum(int(gas) for name, gas in measured.items() if name.startswith("n=10 "))
    assert one.transactions == 2
    assert one.gas == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("topology", ["committee", "sharded"])
def test_groups_spare_traffic(scale: ModuleType, topology: str) -> None:
    world, gas = scale.World(model_bytes=1 << 18, training_s=5.0), scale.Gas.measured()
    ten = scale.all_to_all(world, 10, 1, gas)
    found = scale.PLAY[topology](world, 40, 1, gas)
    everybody = 40 * 39 / (10 * 9)
    assert found.n == 40
    assert found.seconds > 0
    assert found.messages < ten.messages * everybody
    assert found.bytes < ten.bytes * everybody
    assert found.gas > ten.gas


def test_an_extrapolation_passes_through_what_was_played(scale: ModuleType) -> None:
    world, gas = scale.World(model_bytes=1 << 16), scale.Gas.measured()
    points = [scale.all_to_all(world, n, 1, gas) for n in (3, 5, 7)]
    for point in points:
        again = scale.extrapolated(points, point.n)
        assert (again.bytes, again.messages) == (point.bytes, point.messages)
        assert again.seconds == pytest.approx(point.seconds)
