"""What an erasure costs by a plan is what the engine says of the whole models, without going over them."""

from __future__ import annotations

import numpy as np
import pytest

from fl_engine.errors import PolicyError
from fl_engine.training.method import Hyperparameters, LocalUpdate
from fl_engine.unlearning import UNLEARNERS, Agreed, Case, Checkpoint, Past
from fl_engine.unlearning.execution import estimate
from node.planning import cost_of
from node.study import parse_sections
from node.training import Arithmetic

MEMBERS, FIRST, TARGET = tuple(range(8)), 3, 12


def arithmetic(model: str, shards: int = 1) -> Arithmetic:
    return Arithmetic(
        parse_sections(
            {
                "schema": "koinon.study/1",
                "name": "planned",
                "task": "nuclei",
                "rounds": TARGET,
                "data": {"input_shape": [1, 16, 16], "classes": 3},
                "model": {"name": model},
                "training": {"batch_size": 4, "local_epochs": 2, "shards": shards},
                "forms": [{"name": "main", "text_sha256": "ab" * 32, "custody": "synthetic", "valid_to": 1893456000}],
            }
        )
    )


@pytest.mark.parametrize("model", ["small-cnn", "mlp"])
@pytest.mark.parametrize("name", UNLEARNERS)
@pytest.mark.parametrize("leaving", [False, True])
def test_the_cost_is_the_estimate_on_the_whole_model(model: str, name: str, leaving: bool) -> None:
    study, unlearner = arithmetic(model), UNLEARNERS[name]
    whole = np.zeros(study.size, np.int32)
    case = Case(
        Agreed(study.layout, study.grid, "mean", "fedavg", Hyperparameters(2, 4, 0.05), whole, bytes(32)),
        MEMBERS,
        frozenset({5}),
        frozenset({5} if leaving else ()),
        FIRST,
        TARGET,
        Past(
            {(height, group): Checkpoint(whole, 1) for height in range(TARGET + 1) for group in range(5)},
            {height: dict.fromkeys(MEMBERS, LocalUpdate(whole, 1, 0.0)) for height in range(1, TARGET + 1)},
            {height: dict.fromkeys(MEMBERS, 1) for height in range(1, TARGET + 1)},
        ),
    )
    about = {"members": MEMBERS, "hospital": 5, "leaving": leaving}
    found = cost_of(unlearner, study, **about, first=FIRST, target=TARGET)  # type: ignore[arg-type]
    assert found == estimate(unlearner, case, dict.fromkeys(MEMBERS, 1))
    assert found.rounds > 0


def test_in_a_study_in_shards_a_part_of_the_trainings_is_left_and_updates_are_of_one_shard() -> None:
    study, rounds = arithmetic("small-cnn", shards=4), TARGET - FIRST + 1
    about = {"members": MEMBERS, "hospital": 5, "leaving": False, "first": FIRST, "target": TARGET}
    path, full = (cost_of(UNLEARNERS[name], study, **about) for name in ("sharded", "rollback"))  # type: ignore[arg-type]
    assert (path.rounds, full.rounds) == (rounds, rounds)
    assert (path.member_rounds, full.member_rounds) == (2 * rounds, 8 * rounds)
    assert 4 * path.passes == full.passes
    assert path.update_bytes == full.update_bytes, "who does not train sends an update all the same"
    assert full.update_bytes == 4 * arithmetic("small-cnn").size * 8 * rounds


def test_what_a_method_cannot_do_is_the_engine_s_own_sentence() -> None:
    about = {"members": (0, 1, 2), "hospital": 0, "leaving": False}
    with pytest.raises(PolicyError, match="4 shards merged after height 0 of 2"):
        cost_of(UNLEARNERS["sharded"], arithmetic("mlp"), **about, first=1, target=2)  # type: ignore[arg-type]
