"""What methods may claim, and what a case and its answers must be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_engine.errors import PolicyError, ShapeMismatch, UnknownName
from fl_engine.ring import Grid
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning import UNLEARNERS, Claim, Need, Unlearner, get_unlearner
from fl_engine.unlearning.execution import at_length, drive, unlearn, with_defaults
from fl_engine.unlearning.integers import squared_norm
from fl_engine.unlearning.rollback import ROLLBACK
from tests.fakes.tables import HEIGHTS, LAYOUT, Learned

APPROXIMATE = [name for name, method in UNLEARNERS.items() if not method.exact]


def test_exact_and_approximate_methods_are_those_of_the_plan() -> None:
    assert [n for n in UNLEARNERS if n not in APPROXIMATE] == ["rollback", "sharded", "rapid", "ridge"]
    assert APPROXIMATE == ["federaser", "mode", "ascent", "puf", "fcu"]
    with pytest.raises(UnknownName, match="federaser"):
        get_unlearner("amnesia")


@pytest.mark.parametrize("claim", [Claim.L2, Claim.L3])
def test_an_approximate_method_cannot_claim_what_only_an_exact_one_can(claim: Claim) -> None:
    with pytest.raises(PolicyError, match=f"approximate and claims {claim.value}"):
        replace(ROLLBACK, exact=False, claims=frozenset({Claim.L0, Claim.L1, Claim.L4, claim}))
    assert all(claim not in UNLEARNERS[name].claims for name in APPROXIMATE)


def test_every_method_stays_open_to_audits() -> None:
    with pytest.raises(PolicyError, match="audits"):
        replace(ROLLBACK, claims=frozenset({Claim.L0, Claim.L1, Claim.L2}))


def test_methods_that_touch_forgotten_records_say_so_and_ask_for_trust() -> None:
    gated = {name for name, m in UNLEARNERS.items() if Need.FORGOTTEN_RECORDS in m.needs}
    assert gated == {name for name, m in UNLEARNERS.items() if Need.TRUST in m.needs} == {"ascent", "puf", "fcu"}


@pytest.mark.parametrize("name", [n for n in UNLEARNERS if n not in ("ascent", "puf", "fcu", "sharded", "ridge")])
def test_the_other_methods_work_once_the_records_are_deleted(learned: Learned, network: Any, name: str) -> None:
    case, hospitals = learned.erasing({1: [3, 4]})
    full = unlearn(get_unlearner(name), case, hospitals, network)
    for m, one in hospitals.items():
        d, kept = one.data, one.retained
        data = replace(d, x=d.x[kept], y=d.y[kept], row_numbers=d.row_numbers[kept])
        hospitals[m] = replace(one, data=data, forgotten=np.empty(0, np.int64))
    deleted = unlearn(get_unlearner(name), case, hospitals, network)
    assert np.array_equal(full.result.model, deleted.result.model)


def test_an_unknown_parameter_is_refused_with_the_known_ones(learned: Learned) -> None:
    case, _ = learned.erasing({1: [3]})
    with pytest.raises(PolicyError, match="no parameter 'lambda'; it has: erase, guide, keep"):
        with_defaults(get_unlearner("mode"), replace(case, parameters={"lambda": 1.0}))
    with pytest.raises(PolicyError, match="whole number"):
        replace(case, parameters={"erase": 1.5}).whole("erase")


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"forgetting": frozenset({9})}, "who forgets is a member"),
        ({"leaving": frozenset({3})}, "who leaves also forgets"),
        ({"first_use": 0}, "first use at height 0"),
        ({"first_use": HEIGHTS + 1}, "first use at height 7"),
        ({"members": (1, 0)}, "ascending"),
        ({"forgetting": frozenset(range(4)), "leaving": frozenset(range(4))}, "nobody is left"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused(learned: Learned, change: dict[str, Any], fault: str) -> None:
    case, _ = learned.erasing({1: [3]})
    with pytest.raises(PolicyError, match=fault):
        replace(case, **change)


def test_an_answer_nobody_asked_for_and_one_of_another_size_are_refused(learned: Learned) -> None:
    case, _ = learned.erasing({}, leaving=frozenset({2}))
    case = with_defaults(ROLLBACK, case)
    good = LocalUpdate(np.zeros(LAYOUT.size, np.int32), 1, 0.0)
    with pytest.raises(PolicyError, match="member 2 answers round 1"):
        drive(ROLLBACK.rounds(case), lambda one: dict.fromkeys((0, 1, 2, 3), good))
    with pytest.raises(ShapeMismatch, match="answer to train"):
        drive(ROLLBACK.rounds(case), lambda one: {0: replace(good, delta=np.zeros(3, np.int32))})


def test_a_member_who_is_absent_does_not_stop_the_others(learned: Learned) -> None:
    case, _ = learned.erasing({1: [3]})
    one = LocalUpdate(np.ones(LAYOUT.size, np.int32), 5, 0.0)
    run = drive(ROLLBACK.rounds(with_defaults(ROLLBACK, case)), lambda asked: {0: one, 3: one})
    assert np.array_equal(run.result.model, case.past.model(0) + np.int32(HEIGHTS))


def test_federaser_gives_new_updates_their_old_lengths_and_trains_shortly(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: [3]})
    assert case.past.lengths[4][2] == squared_norm(learned.run.updates[4][2].delta)
    case = replace(case, past=replace(case.past, updates={}), parameters={"interval": 3})
    run = unlearn(get_unlearner("federaser"), case, hospitals, network)
    assert list(run.updates) == [1, 2], "heights 1 and 4 of six"
    assert run.cost.passes == 2 * sum(len(one.retained) for one in hospitals.values()), "one epoch of the study's two"
    for number, height in ((1, 1), (2, 4)):
        old = {m: squared_norm(u.delta) for m, u in learned.run.updates[height].items()}
        usual = (old[0] + old[2] + old[3]) // 3
        for m, sent in run.updates[number].items():
            assert squared_norm(sent.delta) == pytest.approx(usual if m == 1 else old[m], rel=1e-6)
            assert not np.array_equal(sent.delta, learned.run.updates[height][m].delta)
    lacking = replace(case, past=replace(case.past, lengths={1: case.past.lengths[1]}), parameters={})
    with pytest.raises(PolicyError, match="lengths of the updates of height 3 are needed and not kept"):
        unlearn(get_unlearner("federaser"), lacking, hospitals, network)
    with pytest.raises(PolicyError, match="interval is 0"):
        unlearn(get_unlearner("federaser"), replace(case, parameters={"interval": 0}), hospitals, network)


def test_federaser_uses_no_number_of_the_forgetting_members_old_updates(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: [3]})
    bent = {h: {m: 9 * one if m == 1 else one for m, one in old.items()} for h, old in case.past.lengths.items()}
    method = get_unlearner("federaser")
    straight = unlearn(method, case, hospitals, network)
    other = unlearn(method, replace(case, past=replace(case.past, lengths=bent)), hospitals, network)
    assert np.array_equal(straight.result.model, other.result.model)
    everybody = replace(case, forgetting=frozenset(case.members))
    with pytest.raises(PolicyError, match="every member forgets"):
        unlearn(method, everybody, hospitals, network)


def test_an_update_at_another_length_stays_on_the_grid() -> None:
    delta = np.array([3, -4, 0], np.int32)
    assert at_length(delta, 0, Grid()) is delta
    assert list(at_length(delta, 100, Grid())) == [6, -8, 0]
    assert list(at_length(delta, 10**18, Grid(4, 2.0))) == [32, -32, 0], "no number beyond the study's max_abs"
    assert list(at_length(np.zeros(3, np.int32), 100, Grid())) == [0, 0, 0]


@pytest.mark.parametrize("name", ["ascent", "puf", "fcu"])
def test_a_forgetting_member_that_lies_moves_the_model_no_further_than_the_bound(learned: Learned, name: str) -> None:
    """The gate that everybody applies: an answer a thousand times too long counts as one of the allowed length."""
    case, _ = learned.erasing({1: [3]})
    method: Unlearner = replace(get_unlearner(name))
    case = with_defaults(method, replace(case, parameters={"repair": 0}))
    rng = np.random.default_rng(2)
    lie = rng.integers(-(2**30), 2**30, LAYOUT.size).astype(np.int32)
    quiet = np.ones(LAYOUT.size, np.int32)
    run = drive(method.rounds(case), lambda one: {m: LocalUpdate(lie if m == 1 else quiet, 10, 0.0) for m in one.tasks})
    moved = squared_norm(run.result.model - case.past.model(HEIGHTS))
    assert moved <= squared_norm(case.past.model(HEIGHTS) - case.past.model(0)) * 0.1
