"""A network that goes on with a second deployment, on every ledger: one history, and nothing in it is told anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crypto.digest import Digest
from crypto.statements import Remove, Succeed
from node.errors import CallReverted, ChainDisputed, LedgerError
from node.history import History
from node.records import (
    ZERO,
    EntrySkipped,
    Grants,
    NetworkSucceeded,
    Removal,
    Resumption,
    RoundFailed,
    RoundFailure,
    RoundFinal,
    RoundOpened,
    StudyCreation,
    Succession,
    Withdrawals,
    Withdrawn,
)
from tests.node.ledger.conftest import Successor
from tests.node.ledger.world import World, kinds, one_of, word

PlanSuccessor = Callable[[World], Successor]


def vote(world: World, successor: bytes, voters: list[int], epoch: int = 1) -> Succession:
    return Succession(successor, world.votes(voters, Succeed(epoch, successor)))


def fail(world: World, round_id: Digest) -> None:
    study = world.study_of(round_id)
    world.advance(10_000)
    assert isinstance(one_of(world.send(RoundFailure(study, round_id)), RoundFailed), RoundFailed)


def history_of(world: World) -> History:
    history = History()
    history.apply_all(world.logged())
    return history


def test_after_the_vote_nothing_begins_at_the_first_deployment(world: World) -> None:
    study, opened = world.study()
    where = word("elsewhere")[:20]
    with pytest.raises(CallReverted, match="QuorumNotReached"):
        world.send(vote(world, where, [0, 1]))
    sent = world.send(vote(world, where, [0, 1, 2]))
    assert one_of(sent, NetworkSucceeded) == NetworkSucceeded(where, 2)
    terms = world.terms(rounds=3)
    with pytest.raises(CallReverted, match="NotActive"):
        world.send(StudyCreation(terms, world.sign(0, terms)))
    removal = Removal(3, world.votes([0, 1, 2], Remove(2, 3, world.keys[3].address)))
    with pytest.raises(CallReverted, match="go on with the deployment at 0x" + where.hex()):
        world.send(removal)
    assert kinds(world.finish(opened.round_id)) == ["RoundFinal"]  # and no RoundOpened
    with pytest.raises(CallReverted, match="NothingToOpen"):
        world.send(Resumption(study))
    assert not history_of(world).could_open(study)


def test_history_goes_on_at_the_second_deployment(world: World, plan_successor: PlanSuccessor) -> None:
    study, opened = world.study(rounds=4)
    form = world.form(study)
    form_id = world.register(form)
    (ended, leave), (kept, _), (late, too_late) = (world.patient(name) for name in "abc")
    world.send(Grants((world.grants_entry(form_id, 0, (ended, kept, late)),)))
    world.send(Withdrawals((leave,)))
    second = one_of(world.finish(opened.round_id), RoundOpened)
    third = one_of(world.finish(second.round_id), RoundOpened)
    successor = plan_successor(world)
    world.send(vote(world, successor.contracts.membership, [0, 1, 3]))
    with pytest.raises((CallReverted, LedgerError)):
        successor.found([history_of(world).continuation(study)])  # the third round is open
    fail(world, third.round_id)
    before = history_of(world)
    successor = plan_successor(world)  # what was begun cannot be ended; the members name another place
    world.send(vote(world, successor.contracts.membership, [0, 1, 2], epoch=2))
    new = successor.found([before.continuation(study)])

    history = history_of(new)
    assert (history.deployment, history.registry.epoch) == (1, 4)
    assert history.registry.accumulator == new.ledger.accumulators()[0]
    assert (history.consent_acc, history.unlearning_acc) == (ZERO, ZERO) == new.ledger.accumulators()[1:]
    assert history.continued(study) == before.continued(study)
    again = one_of(new.send(Resumption(study)), RoundOpened)
    assert (again.height, again.parent_result) == (4, before.lineage(study, 0))
    history = history_of(new)
    assert history.snapshot(history.rounds[again.round_id]) == (ZERO, history.registry.accumulator)
    assert history.trust(study, 0, 4) == before.trust(study, 0, 4)

    # consents: what ended stays ended, and what ends where its card says ends here
    new.register(form)
    sent = new.send(Grants((new.grants_entry(form_id, 0, (ended,)),)))
    assert one_of(sent, EntrySkipped) == EntrySkipped(ended, 0, 4)
    new.send(Withdrawals((too_late,), deployment=0))
    history = history_of(new)
    assert [history.withdrawn_at(one) is not None for one in (ended, late, kept)] == [True, True, False]
    assert [type(one.record) for one in history.late] == [Withdrawn]
    assert history.consent_acc == new.ledger.accumulators()[1]
    assert history.grant(kept) == before.grant(kept)

    # a statement of the first deployment says nothing at the second
    with pytest.raises(CallReverted, match="BadSignature"):
        new.send(Removal(3, world.votes([0, 1, 2], Remove(4, 3, world.keys[3].address))))
    final = one_of(new.finish(again.round_id), RoundFinal)
    assert final.height == 4
    assert history_of(new).studies[study].head.finals == 3
    # whoever follows the first deployment alone sees no more of it than that it ended
    assert history_of(world).registry.successor == successor.contracts.membership


def test_a_wrong_tree_is_disputed(world: World, plan_successor: PlanSuccessor) -> None:
    study, opened = world.study()
    successor = plan_successor(world)
    world.send(vote(world, successor.contracts.membership, [0, 1, 2]))
    fail(world, opened.round_id)
    honest = history_of(world).continuation(study)
    assert honest.voids == ((0, 2),)
    new = successor.found([replace(honest, voids=())])
    with pytest.raises(ChainDisputed, match="is continued with tree"):
        history_of(new)


def test_a_founding_nobody_voted_for_is_refused(world: World, plan_successor: PlanSuccessor) -> None:
    successor = plan_successor(world)
    world.send(vote(world, word("elsewhere")[:20], [0, 1, 2]))
    with pytest.raises((CallReverted, LedgerError)):
        successor.found([])
