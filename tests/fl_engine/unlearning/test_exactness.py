"""Exact methods give, byte for byte, what a study without the records would have given; others re-execute every
method.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_engine.errors import PolicyError
from fl_engine.models import get_model, initial_model
from fl_engine.params import Ints, encode_model
from fl_engine.training.method import LocalUpdate
from fl_engine.training.probe import ProbedNetwork
from fl_engine.unlearning import UNLEARNERS, Case, Checkpoint, Past, Records, get_unlearner, sharded
from fl_engine.unlearning.execution import drive, estimate, execute, replay, unlearn, with_defaults
from fl_engine.unlearning.rapid import RAPID
from fl_engine.unlearning.unlearner import Need, federated
from tests.fakes.tables import AGREED, CLASSES, FEATURES, HEIGHTS, LAYOUT, MEMBERS, Learned, beginning, start, table

EXACT = [name for name, method in UNLEARNERS.items() if method.exact and Need.STATISTICS not in method.needs]
erasures = st.dictionaries(
    st.integers(0, 3), st.lists(st.integers(0, 29), min_size=1, max_size=6, unique=True), min_size=1, max_size=3
)


def never(hospitals: dict[int, Records], case: Case) -> dict[int, Records]:
    """Hospitals that never held what the case forgets: other arrays, the same import row numbers."""
    found = {}
    for m in case.remaining:
        data, kept = hospitals[m].data, hospitals[m].retained
        without = replace(data, x=data.x[kept], y=data.y[kept], row_numbers=data.row_numbers[kept])
        found[m] = Records(without, kept, secret=hospitals[m].secret)
    return found


def without_the_records(name: str, case: Case, hospitals: dict[int, Records], network: Any) -> Ints:
    """The study, from its first model, by members who never had the records, under the new lineage's seed."""
    clean = replace(
        case, forgetting=frozenset(), leaving=frozenset(), members=case.remaining, past=Past({(0, 0): start()})
    )
    method = get_unlearner(name)
    clean = with_defaults(method, clean)
    program = {
        "rollback": lambda: federated(clean, AGREED.initial, clean.members, 1, HEIGHTS),
        "sharded": lambda: sharded.learn(clean),
        "rapid": lambda: RAPID.rounds(clean),
    }[name]()
    return execute(program, case.agreed, never(hospitals, case), network, method.works).result.model


def prepared(name: str, case: Case, hospitals: dict[int, Records], network: Any) -> Case:
    """The case with the past and the parameters that the method needs."""
    if name == "sharded":
        # A member's data of before: everything it holds, as in the study that is to be unlearned.
        before = {m: Records(one.data, one.data.row_numbers) for m, one in hospitals.items()}
        first = replace(beginning(get_unlearner(name).parameters({})), agreed=case.agreed)
        return replace(case, past=execute(sharded.learn(first), case.agreed, before, network).past(start()))
    return case


@pytest.mark.parametrize("name", EXACT)
@given(forgotten=erasures, seed=st.binary(min_size=32, max_size=32))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_root_is_that_of_a_run_without_the_records(
    learned: Learned, network: Any, name: str, forgotten: dict[int, list[int]], seed: bytes
) -> None:
    case, hospitals = learned.erasing(forgotten, seed=seed)
    case = prepared(name, case, hospitals, network)
    run = unlearn(get_unlearner(name), case, hospitals, network)
    expected = without_the_records(name, case, hospitals, network)
    assert encode_model(LAYOUT, run.result.model) == encode_model(LAYOUT, expected)
    assert not np.array_equal(run.result.model, learned.run.result.model)


@pytest.mark.parametrize("name", EXACT)
def test_a_member_who_leaves_was_never_there(learned: Learned, network: Any, name: str) -> None:
    case, hospitals = learned.erasing({}, leaving=frozenset({2}))
    case = prepared(name, case, hospitals, network)
    run = unlearn(get_unlearner(name), case, hospitals, network)
    assert np.array_equal(run.result.model, without_the_records(name, case, hospitals, network))
    assert all(2 not in sent for sent in run.updates.values())


def test_a_record_that_came_late_is_rolled_back_to_the_model_before_it(learned: Learned, network: Any) -> None:
    late = np.array([7, 8])
    early = {**learned.hospitals}
    early[1] = replace(early[1], retained=np.setdiff1d(early[1].retained, late))
    case = beginning()
    first = execute(federated(case, AGREED.initial, case.members, 1, 3), AGREED, early, network)
    then = execute(
        federated(case, first.result.model, case.members, 4, HEIGHTS), AGREED, dict(learned.hospitals), network
    )
    past = Past({(0, 0): start(), **first.result.checkpoints, **then.result.checkpoints})
    erasing, hospitals = learned.erasing({1: [7, 8]})
    erasing = replace(erasing, past=past, first_use=4)
    run = unlearn(get_unlearner("rollback"), erasing, hospitals, network)
    assert sorted(run.updates) == [4, 5, 6]
    expected = execute(
        federated(erasing, first.result.model, case.members, 4, HEIGHTS),
        erasing.agreed,
        never(hospitals, erasing),
        network,
    )
    assert np.array_equal(run.result.model, expected.result.model)


@pytest.mark.parametrize("name", list(UNLEARNERS))
def test_whoever_has_the_updates_re_executes_the_method(learned: Learned, network: Any, name: str) -> None:
    case, hospitals = learned.erasing({1: [3, 4, 5]})
    case = prepared(name, case, hospitals, network)
    method = get_unlearner(name)
    run = unlearn(method, case, hospitals, network)
    backwards = {h: dict(reversed(list(sent.items()))) for h, sent in run.updates.items()}
    again = replay(method.rounds(with_defaults(method, case)), backwards)
    assert np.array_equal(again.result.model, run.result.model)
    # One number of one update changed by one step of the grid is enough to end elsewhere.
    height, member = max(run.updates), max(run.updates[max(run.updates)])
    sent = run.updates[height][member]
    tampered = {h: dict(one) for h, one in run.updates.items()}
    tampered[height][member] = replace(sent, delta=sent.delta + np.int32(1000))
    other = replay(method.rounds(with_defaults(method, case)), tampered)
    assert not np.array_equal(other.result.model, run.result.model)


@pytest.mark.parametrize("name", list(UNLEARNERS))
def test_the_cost_is_known_before_anything_is_trained(learned: Learned, network: Any, name: str) -> None:
    case, hospitals = learned.erasing({1: [3, 4, 5]})
    case = prepared(name, case, hospitals, network)
    told = estimate(get_unlearner(name), case, {m: len(one.retained) for m, one in hospitals.items()})
    took = unlearn(get_unlearner(name), case, hospitals, network).cost
    assert (told.rounds, told.member_rounds, told.update_bytes) == (took.rounds, took.member_rounds, took.update_bytes)
    # What a forgetting member is asked of its forgotten records is counted as if of all of them.
    assert told.passes >= took.passes


def test_four_shards_replay_in_a_third_of_the_member_rounds() -> None:
    """24 heights of 8 members, of which the last two are everybody's."""
    target = 24
    parameters = get_unlearner("sharded").parameters({"shards": 4, "merged": 2})
    begin = replace(beginning(parameters, members=8), target=target)
    nothing = LocalUpdate(np.zeros(LAYOUT.size, np.int32), 30, 0.0)
    past = drive(sharded.learn(begin), lambda one: dict.fromkeys(one.tasks, nothing)).past(start())
    case = replace(begin, forgetting=frozenset({5}), past=past)
    counts = dict.fromkeys(range(8), 30)
    full = estimate(get_unlearner("rollback"), replace(case, parameters={}), counts)
    path = estimate(get_unlearner("sharded"), case, counts)
    assert (full.member_rounds, path.member_rounds) == (192, 60)
    assert full.member_rounds >= 3 * path.member_rounds


@pytest.mark.parametrize("leaving", [False, True])
def test_shards_that_never_merge_are_those_of_a_run_without_the_records(
    learned: Learned, network: Any, *, leaving: bool
) -> None:
    """As a network of hospitals trains them: side by side, the touched one anew, the other as it was."""
    method = get_unlearner("sharded")
    parameters = method.parameters({"shards": 2, "merged": 0})
    case, hospitals = learned.erasing({1: [3, 4]}, leaving=frozenset({1} if leaving else ()))
    before = {m: Records(one.data, one.data.row_numbers) for m, one in learned.hospitals.items()}
    begin = replace(beginning(parameters), agreed=case.agreed)
    past = execute(sharded.learn(begin), case.agreed, before, network)
    case = replace(case, parameters=parameters, past=past.past(start()))
    run = unlearn(method, case, hospitals, network)
    assert all(set(sent) == ({3} if leaving else {1, 3}) for sent in run.updates.values())
    clean = replace(case, forgetting=frozenset(), leaving=frozenset(), members=case.remaining, past=Past({}))
    expected = execute(sharded.learn(clean), case.agreed, never(hospitals, case), network).result.model
    assert np.array_equal(run.result.model, expected)
    size = LAYOUT.size
    assert np.array_equal(run.result.model[:size], past.result.model[:size])
    assert not np.array_equal(run.result.model[size:], past.result.model[size:])


def test_an_erasure_after_the_merge_replays_the_merged_rounds_alone(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: [3]})
    case = replace(prepared("sharded", case, hospitals, network), first_use=HEIGHTS)
    assert sorted(unlearn(get_unlearner("sharded"), case, hospitals, network).updates) == [HEIGHTS]


def test_a_model_that_is_not_kept_is_asked_for_by_height(learned: Learned, network: Any) -> None:
    case, hospitals = learned.erasing({1: [3]})
    case = replace(case, first_use=4, past=Past({(0, 0): start()}))
    with pytest.raises(PolicyError, match="model of height 3"):
        unlearn(get_unlearner("rollback"), case, hospitals, network)


@given(forgotten=erasures, seed=st.binary(min_size=32, max_size=32))
@settings(max_examples=5, deadline=None)
def test_a_ridge_head_is_that_of_a_run_without_the_records(forgotten: dict[int, list[int]], seed: bytes) -> None:
    """Noise and all, in one round, whichever model it begins at."""
    model = get_model("ridge")
    network = ProbedNetwork(model, (FEATURES,), CLASSES)
    first = initial_model(network.spec, AGREED.grid)
    study = replace(
        AGREED,
        layout=network.spec,
        method="ridge",
        training=replace(AGREED.training, noise=0.2),
        initial=first,
        branch_seed=seed,
    )
    tables = {m: table(m + 1, 30) for m in range(MEMBERS)}
    gone = {m: np.array(sorted(rows), np.int64) for m, rows in forgotten.items()}
    kept = {m: np.setdiff1d(one.row_numbers, gone.get(m, [])) for m, one in tables.items()}
    hospitals = {
        m: Records(one, kept[m], gone.get(m, one.row_numbers[:0]), bytes([m]) * 32) for m, one in tables.items()
    }
    used = Checkpoint(np.full(network.spec.size, 7, np.int32), 1)
    past, members, nobody = Past({(0, 0): Checkpoint(first, 0), (2, 0): used}), tuple(tables), frozenset[int]()
    runs = []
    for first_use, records in ((1, hospitals), (1, never(hospitals, beginning())), (3, hospitals)):
        case = Case(study, members, frozenset(forgotten), nobody, first_use, HEIGHTS, past)
        runs.append(unlearn(get_unlearner("ridge"), case, records, network))
    assert [run.cost.rounds for run in runs] == [1, 1, 1]
    assert encode_model(network.spec, runs[0].result.model) == encode_model(network.spec, runs[1].result.model)
