"""Which lengths of old updates a member keeps for a replay, that they outlive the purge, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crypto.digest import keccak256
from fl_engine.models.shards import Shards
from fl_engine.params import Ints, ParamSpec
from fl_engine.unlearning import UNLEARNERS
from node import lengths
from node.erasure import plan_of
from node.history import RoundHistory
from node.store import Store
from tests.node.test_erasure import BATCH, Chain, trained

HOSPITAL = 1
ALONE = Shards(ParamSpec((("weight", (2,)),)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path, bytes(32))
    yield made
    made.close()


def update(one: RoundHistory, member: int) -> Ints:
    """Of length height * 10 + member."""
    return np.array([one.opened.height * 10 + member, 0], np.int32)


def gone(one: RoundHistory, member: int) -> None:
    return None


def planned(method: str = "federaser", included: int = 15) -> Chain:
    chain = Chain()
    rounds = [chain.round(0, height, included) for height in range(1, 6)]
    chain.request()
    chain.steps(1, 2)
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True), UNLEARNERS[method])
    assert plan is not None
    chain.plan(plan)
    return chain


def keep(chain: Chain, store: Store, me: int, values: lengths.Values = update, shards: Shards = ALONE) -> list[int]:
    """What is kept for each replayed round, of which the branch then has two and one that failed."""
    for number in range(lengths.wanted(chain.erasure())):
        lengths.keep(store, chain.history, chain.erasure(), number, me, shards, values)
    branch = chain.history.studies[chain.erasure().opened.study].branches[1]
    if not branch.rounds:
        chain.round(1, 1)
        chain.fail(1, 2)
        chain.round(1, 3)
        chain.round(1, 4)
        chain.round(1, 5)
    return [lengths.kept(store, chain.history, chain.history.rounds[one]) for one in branch.rounds.values()]


def test_an_untouched_member_keeps_its_own_lengths_of_every_second_round(store: Store) -> None:
    chain = planned()
    assert lengths.wanted(chain.erasure()) == 3, "of five rounds"
    # a round that failed made no model: the next stands for the same; after the rounds of the method the study trains
    assert keep(chain, store, 2) == [12**2, 32**2, 32**2, 52**2, 0]


def test_the_hospital_and_who_was_absent_keep_the_mean_square_of_the_untouched_ones(store: Store) -> None:
    assert keep(planned(), store, HOSPITAL)[0] == (10**2 + 12**2 + 13**2) // 3


def test_who_was_in_no_old_sum_keeps_the_mean_square_too(store: Store) -> None:
    assert keep(planned(included=0b0111), store, 3)[0] == (10**2 + 12**2) // 2


def test_in_shards_a_length_is_of_ones_own_shard(store: Store) -> None:
    """The hospital's own is the mean of its shard's others: member 3's, of the second of two."""
    two, whole = Shards(ALONE.network, 2), keep(planned(), store, HOSPITAL)
    lengths.forget(store, BATCH)
    assert keep(planned(), store, HOSPITAL, shards=two) == keep(planned(), store, 3) != whole
    lengths.forget(store, BATCH)
    assert not any(keep(planned(), store, HOSPITAL, shards=Shards(ALONE.network, 4))), "nobody else is of its shard"


def test_what_is_kept_outlives_the_updates_and_what_never_was_here_is_no_length(store: Store) -> None:
    chain = planned()
    before = keep(chain, store, 2)
    assert keep(chain, store, 2, gone) == before, "looked for again after the purge, as when a node starts again"
    other = planned()
    lengths.forget(store, BATCH)
    assert keep(other, store, 2, gone) == [0] * 5
    lengths.forget(store, BATCH)
    assert keep(other, store, 2) == before


def test_only_a_method_that_takes_lengths_has_any_kept(store: Store) -> None:
    for method in ("rollback", "rapid"):
        chain = planned(method)
        assert lengths.wanted(chain.erasure()) == 0
        lengths.keep(store, chain.history, chain.erasure(), 0, 2, ALONE, update)
        assert set(keep(chain, store, 2)) == {0}
    chain, rounds = trained()
    assert lengths.kept(store, chain.history, chain.history.rounds[rounds[0]]) == 0, "a round of no replay"


@pytest.mark.parametrize("before", ["rapid", "federaser"])
def test_a_line_of_fewer_models_than_it_counts_for_is_spread_over_the_rounds(store: Store, before: str) -> None:
    chain, other = planned(before), keccak256(b"another batch")
    plan = chain.erasure().plan
    assert plan is not None
    for height in range(1, plan.rounds + 1):
        chain.round(1, height)
    chain.request(other, controller=0)
    chain.steps(1, 2, batch=other)
    rounds = [one.opened.round_id for one in chain.history.rounds.values()]
    terms = plan_of(chain.history, chain.erasure(other), dict.fromkeys(rounds, True), UNLEARNERS["federaser"])
    assert terms is not None
    assert (terms.base_height, terms.rounds) == (0, 3), "five rounds were done"
    chain.plan(terms, other)
    for number in range(terms.rounds):
        lengths.keep(store, chain.history, chain.erasure(other), number, 2, ALONE, update)
    made = [chain.round(2, height) for height in range(1, 4)]
    found = [lengths.kept(store, chain.history, chain.history.rounds[one]) for one in made]
    wanted = {"rapid": [12**2, 12**2, 22**2], "federaser": [12**2, 22**2, 32**2]}
    assert found == wanted[before]


def test_lengths_for_a_plan_that_a_reorganisation_took_out_bend_no_round_of_another(store: Store) -> None:
    chain = planned()
    for number in range(lengths.wanted(chain.erasure())):
        lengths.keep(store, chain.history, chain.erasure(), number, 2, ALONE, update)
    assert set(keep(planned("rollback"), store, 2, gone)) == {0}
    assert keep(planned(), store, 2, gone) == [12**2, 32**2, 32**2, 52**2, 0], "the same plan finds them again"
