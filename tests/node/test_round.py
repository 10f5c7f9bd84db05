"""The round machine: PROTOCOL.md clause by clause, then any order of events, then every run of four with one liar.

`World` is a chain, a network and n shells around n real machines; it does what node/app.py does, in order and without
waiting. The contract is played by the machine's own phase function: that this is the memory ledger's is checked here,
that the memory ledger is the contract by the ledger suite.
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.commitments import update_root
from crypto.digest import ZERO, hash_words
from crypto.sealing import BlobCommit
from crypto.statements import CreateStudy
from node import round as machine
from node.errors import LedgerError, LocalError, PeerError
from node.membership import bitmap_of, faults, holders, members_of, quorum, scribes
from node.memory import rounds as memory_rounds
from node.messages import AbstainNotice, CloseNotice, CommitNotice, HaveNotice, Notice, VoteNotice
from node.records import (
    Abstained,
    Committed,
    HavePosted,
    Logged,
    Position,
    Record,
    Result,
    RoundFailed,
    RoundFinal,
    RoundOpened,
)
from node.round import (
    Aggregate,
    Aggregated,
    AskPeers,
    BelowMinimum,
    DeclareFailed,
    Effect,
    Event,
    Fetch,
    HavesAreFinal,
    Held,
    Judge,
    Judged,
    NotSent,
    Observed,
    PeerAnswered,
    Phase,
    PostAbstentions,
    PostCommits,
    PostHaves,
    PostResult,
    Prefetch,
    Received,
    Restarted,
    ResultIsFinal,
    Revealed,
    Round,
    SealIsFinal,
    Sent,
    Share,
    SignAbstain,
    SignClose,
    SignedAbstain,
    SignedClose,
    SignedHave,
    SignedVote,
    SignHave,
    SignVote,
    StopTraining,
    Tick,
    Train,
    Trained,
    TrainingFailed,
    Wake,
    WithdrawalKnown,
)

ROUND, STUDY = hash_words("test", 1), hash_words("test", 2)
CONSENT_ACC, MEMBER_ACC = hash_words("test", 3), hash_words("test", 4)
T0 = 1_000
S, G, R, H, V = 100, 10, 50, 40, 60
T_C = T0 + S + G


def terms(**changes: int) -> CreateStudy:
    fields: dict[str, int | bytes] = {
        "member": 0,
        "spec_hash": ZERO,
        "initial_model": ZERO,
        "invited": 0b1111,
        "rounds": 3,
        "f": 10,
        "min_included": 0,
        "scribe_seconds": S,
        "grace_seconds": G,
        "reveal_seconds": R,
        "have_seconds": H,
        "vote_seconds": V,
        "purge_seconds": 10,
        "suspend_after": 2,
        "suspend_rounds": 3,
        "max_round_age": 86_400,
        "erasure_window": 0,
    }
    return CreateStudy(**{**fields, **changes})  # type: ignore[arg-type]


def opening(n: int, suspended: int = 0, height: int = 0) -> RoundOpened:
    f = faults(n, 10)
    roster = (1 << n) - 1
    return RoundOpened(
        ROUND, STUDY, 0, height, ZERO, ZERO, 1, roster, suspended, f, quorum(n, f), CONSENT_ACC, MEMBER_ACC, ZERO, T0
    )


def node(n: int, me: int | None, suspended: int = 0, *, height: int = 0, **changes: int) -> Round:
    accs = {"consent_acc": CONSENT_ACC, "membership_acc": MEMBER_ACC}
    return Round(opening(n, suspended, height), terms(**changes), me, **accs)


def blob(*words: int) -> BlobCommit:
    return BlobCommit(hash_words("cipher", *words), hash_words("plain", *words), hash_words("key", *words), 1000)


def commit(member: int, version: int = 0) -> CommitNotice:
    update, set_ = blob(member, 0, version), blob(member, 1, version)
    root = update_root(ROUND, member, update.hash, set_.hash)
    return CommitNotice(ROUND, member, root, hash_words("map", member), ZERO, update, set_, b"s" * 65)


def abstention(member: int) -> AbstainNotice:
    return AbstainNotice(ROUND, member, b"s" * 65)


def have(member: int, attempt: int, bitmap: int) -> HaveNotice:
    return HaveNotice(ROUND, member, attempt, bitmap, b"s" * 65)


def result_of(of: int, least: int) -> Result:
    """What honest members compute from a set: everybody valid."""
    outcome = machine.MODEL if of.bit_count() >= least else machine.NO_RESULT
    root = hash_words("model", of) if outcome == machine.MODEL else ZERO
    return Result(outcome, of, 0, root, b"", ZERO, CONSENT_ACC)


def vote(member: int, attempt: int, of: int, result: Result) -> VoteNotice:
    return VoteNotice(ROUND, member, attempt, of, result, ZERO, b"s" * 65)


def logged(record: Record, time: int, log_index: int = 0) -> Logged:
    return Logged(Position(time, log_index), hash_words("block", time), time, ZERO, record)


def committed(member: int, time: int = T0 + 10, version: int = 0) -> Observed:
    c = commit(member, version)
    return Observed(logged(Committed(ROUND, member, c.update_root, c.dataset_root, c.next_dataset_root), time, member))


def abstained(member: int, time: int = T0 + 10) -> Observed:
    return Observed(logged(Abstained(ROUND, member), time, member))


def have_posted(member: int, attempt: int, bitmap: int, time: int) -> Observed:
    return Observed(logged(HavePosted(ROUND, attempt, member, bitmap), time, member))


def final(result: Result, attempt: int, time: int) -> Observed:
    return Observed(logged(RoundFinal(ROUND, STUDY, 0, 0, attempt, result, hash_words("result", 1), 0b111), time))


def kinds(effects: Iterable[Effect]) -> set[type]:
    return {type(effect) for effect in effects} - {Wake}


def only(effects: Iterable[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def feed(one: Round, now: int, *events: Event) -> list[Effect]:
    return [effect for event in events for effect in one.handle(event, now)]


def sealed(n: int, me: int | None, **changes: int) -> Round:
    """A node of n, all committed at T0+10, seal final, its own blobs at hand."""
    one = node(n, me, **changes)
    mine = [Trained(commit(me))] if me is not None else []
    feed(
        one, T0 + 10, *mine, *(Received(commit(m)) for m in range(n)), *(committed(m) for m in range(n)), SealIsFinal()
    )
    return one


def hold(one: Round, now: int, members: Iterable[int]) -> list[Effect]:
    return [e for m in members for e in feed(one, now, Held(m), Judged(m, 0, 5))]


SEALED_AT = T0 + 10
T_R = SEALED_AT + R
T_H = T_R + H
T_V = T_H + V


# --------------------------------------------------------------------------------------------------------------------
# Clause by clause


def test_clause_1_a_node_with_other_accumulators_signs_nothing() -> None:
    one = Round(opening(4), terms(), 1, consent_acc=ZERO, membership_acc=MEMBER_ACC)
    assert not one.sound
    assert not kinds(one.handle(Tick(), T0)) & {Train, SignAbstain}
    assert not kinds(one.handle(BelowMinimum(), T0 + 1)) & {SignAbstain}
    events = [Received(commit(m)) for m in range(4)] + [committed(m) for m in range(4)]
    effects = feed(one, T0 + 20, *events, SealIsFinal())
    effects += hold(one, T0 + 21, range(4)) + list(one.handle(Aggregated(15, result_of(15, 3)), T0 + 22))
    effects += feed(one, T_R + 1, Tick()) + feed(one, T_H - G, Tick())
    assert not kinds(effects) & {SignVote, SignHave}


def test_clause_1_a_quorum_that_does_not_follow_from_the_roster_is_the_chains_fault() -> None:
    with pytest.raises(LedgerError, match="quorum 2"):
        Round(replace(opening(4), quorum=2), terms(), 0, consent_acc=CONSENT_ACC, membership_acc=MEMBER_ACC)


def test_clause_2_training_starts_once_at_open() -> None:
    one = node(4, 1)
    assert only(one.handle(Tick(), T0), Train) == [Train(ROUND, 0)]
    assert kinds(one.handle(Tick(), T0 + 1)) == set()


@pytest.mark.parametrize("me", [None, 2, 9])
def test_clause_2_auditors_suspended_and_later_members_do_not_train(me: int | None) -> None:
    assert kinds(node(4, me, suspended=0b0100).handle(Tick(), T0)) == set()


def test_clause_2_a_withdrawal_while_training_stops_it_and_starts_it_anew() -> None:
    one = node(4, 1)
    one.handle(Tick(), T0)
    effects = one.handle(WithdrawalKnown(1), T0 + 5)
    assert [e for e in effects if not isinstance(e, Wake)] == [StopTraining(ROUND, 0), Train(ROUND, 1)]
    assert kinds(one.handle(WithdrawalKnown(1), T0 + 6)) == set(), "told twice, acts once"
    assert Share(commit(1)) in one.handle(Trained(commit(1), generation=1), T0 + 50)
    assert not one.is_withheld


def test_clause_3_one_commit_per_round_id() -> None:
    one = node(4, 1)
    feed(one, T0 + 5, Trained(commit(1)), Trained(commit(1)))
    with pytest.raises(LocalError, match="second commit"):
        one.handle(Trained(commit(1, version=1)), T0 + 6)
    again = node(4, 1)
    feed(again, T0 + 5, committed(1))
    with pytest.raises(LocalError, match="second commit"):
        again.handle(Trained(commit(1, version=1)), T0 + 6)


def test_clause_3_the_scribe_posts_when_all_have_answered_and_a_fall_back_follows() -> None:
    by_rank = [node(4, me) for me in range(4)]
    everyone = [Received(commit(m)) for m in range(3)] + [Received(abstention(3))]
    first = [feed(one, T0 + 30, *everyone) for one in by_rank]
    assert [len(only(e, PostCommits)) for e in first] == [1, 0, 0, 0]
    assert only(first[0], PostCommits) == [PostCommits((commit(0), commit(1), commit(2)))]
    assert only(first[0], PostAbstentions) == [PostAbstentions((abstention(3),))]
    wake = only(first[1], Wake)[-1]
    assert isinstance(wake, Wake)
    assert T0 + 30 < wake.at < T0 + 30 + G
    assert PostCommits in kinds(by_rank[1].handle(Tick(), wake.at))


def test_clause_3_at_open_plus_s_the_scribe_posts_what_it_has_and_others_their_own() -> None:
    scribe, other = node(4, 0), node(4, 1)
    for one, me in ((scribe, 0), (other, 1)):
        feed(one, T0 + 5, Trained(commit(me)), *(Received(commit(m)) for m in range(3)))
        assert PostCommits not in kinds(one.handle(Tick(), T0 + S - 1))
    assert only(scribe.handle(Tick(), T0 + S), PostCommits) == [PostCommits(tuple(commit(m) for m in range(3)))]
    assert only(other.handle(Tick(), T0 + S), PostCommits) == [PostCommits((commit(1),))]


def test_clause_3_late_training_still_posts_itself_before_t_c_and_not_after() -> None:
    one, late = node(4, 1), node(4, 1)
    one.handle(Tick(), T0)
    assert SignAbstain not in kinds(one.handle(Tick(), T0 + S + 1)), "a running training may end in the grace time"
    assert PostCommits in kinds(one.handle(Trained(commit(1)), T_C))
    late.handle(Tick(), T0)
    assert only(late.handle(Tick(), T_C + 1), StopTraining) == [StopTraining(ROUND, 0)]
    assert PostCommits not in kinds(late.handle(Trained(commit(1)), T_C + 1))


@pytest.mark.parametrize("event, reason", [(BelowMinimum(), "below-minimum"), (TrainingFailed(), "training-failed")])
def test_clause_3_who_cannot_commit_abstains_once(event: Event, reason: str) -> None:
    one = node(4, 1)
    one.handle(Tick(), T0)
    assert only(one.handle(event, T0 + 5), SignAbstain) == [SignAbstain(reason)]
    assert kinds(one.handle(event, T0 + 6)) == set()
    assert Share(abstention(1)) in one.handle(SignedAbstain(abstention(1)), T0 + 7)
    assert PostAbstentions in kinds(one.handle(Tick(), T0 + S))
    assert not only(one.handle(Tick(), T0 + S + 1), SignAbstain)


def test_clause_3_who_comes_too_late_to_train_abstains() -> None:
    assert only(node(4, 1).handle(Tick(), T0 + S), SignAbstain) == [SignAbstain("late")]


def test_clause_3_a_withdrawal_before_our_commit_is_on_chain_takes_it_back() -> None:
    one, scribe = node(4, 1), node(4, 0)
    feed(one, T0 + 5, Trained(commit(1)))
    assert only(one.handle(WithdrawalKnown(), T0 + 6), SignAbstain) == [SignAbstain("withdrawal")]
    one.handle(SignedAbstain(abstention(1)), T0 + 7)
    assert PostCommits not in kinds(one.handle(Tick(), T0 + S))
    feed(scribe, T0 + 8, Received(commit(1)), Received(abstention(1)))
    effects = scribe.handle(Tick(), T0 + S)
    assert only(effects, PostAbstentions) == [PostAbstentions((abstention(1),))]
    assert PostCommits not in kinds(effects)


def test_clause_3_openings_that_do_not_lead_to_the_update_root_are_the_peers_fault() -> None:
    with pytest.raises(PeerError, match="openings of member 2"):
        node(4, 1).handle(Received(replace(commit(2), update=blob(9, 9, 9))), T0 + 1)


@pytest.mark.parametrize(
    "notice",
    [
        replace(commit(2), round_id=ZERO),
        commit(5),
        have(1, 4, 0),
        have(1, 0, 0),
        vote(1, 4, 0, result_of(0, 3)),
        CloseNotice(STUDY, 0, 7, ZERO, 1, b""),
    ],
)
def test_clause_3_notices_of_other_rounds_members_and_attempts_are_refused_and_leave_no_trace(notice: Notice) -> None:
    one = node(4, 1)
    before = one.facts
    untouched = replace(before)
    with pytest.raises(PeerError):
        one.handle(Received(notice), T0 + 1)
    assert one.facts == untouched


def test_clause_4_sealed_by_the_last_answer_or_after_t_c() -> None:
    one = node(4, 1)
    feed(one, T0 + 10, *(committed(m, T0 + 10 + m) for m in range(3)))
    assert one.phase(T_C).phase is Phase.TRAINING
    view = one.phase(T_C + 1)
    assert (view.phase, view.seal_time, view.sealed) == (Phase.REVEALING, T_C, 0b0111)
    feed(one, T0 + 40, abstained(3, T0 + 40))
    view = one.phase(T0 + 41)
    assert (view.phase, view.seal_time, view.sealed, view.deadline) == (Phase.REVEALING, T0 + 40, 0b0111, T0 + 40 + R)


def test_clause_4_suspended_members_are_not_waited_for() -> None:
    one = node(4, 1, suspended=0b1000)
    feed(one, T0 + 10, *(committed(m) for m in range(3)))
    assert one.phase(T0 + 11).phase is Phase.REVEALING


def test_clause_4_too_few_commits_fail_the_round_and_nothing_is_revealed() -> None:
    one = node(4, 1)
    feed(one, T0 + 10, Trained(commit(1)), committed(0), committed(1))
    assert one.phase(T_C + 1).phase is Phase.FAILED
    assert one.finality(T_C + 99, T_C + 99) == ()
    effects = feed(one, T_C + 1, SealIsFinal(), Tick())
    assert not one.may_serve_key(1)
    assert not kinds(effects) & {Fetch, Judge, SignVote, SignHave}


def test_clause_4_too_few_because_of_abstentions_fail_when_the_window_is_over() -> None:
    one = node(4, 1)
    effects = feed(one, T0 + 10, Trained(commit(1)), committed(0), committed(1), abstained(2), abstained(3))
    assert one.phase(T_C).phase is Phase.TRAINING
    assert one.finality(T_C, T_C) == ()
    assert not one.may_serve_key(1)
    effects += feed(one, T_C, Tick())
    assert not kinds(effects) & {Fetch, Judge, SignVote, SignHave, PostCommits}
    view = one.phase(T_C + 1)
    assert (view.phase, view.since) == (Phase.FAILED, T_C)


def test_clause_4_too_few_of_those_that_are_asked_fail_at_once() -> None:
    one = node(4, 1, suspended=0b1100)
    feed(one, T0 + 10, committed(0), committed(1))
    view = one.phase(T0 + 11)
    assert (view.phase, view.since) == (Phase.FAILED, T0 + 10)


def test_clause_4_at_three_members_two_commits_suffice() -> None:
    one = node(3, 1)
    feed(one, T0 + 10, committed(0), committed(1))
    assert one.phase(T_C + 1).phase is Phase.REVEALING


def test_clause_5_no_key_before_the_seal_is_final() -> None:
    one = node(4, 1)
    effects = feed(one, T0 + 10, Trained(commit(1)), *(Received(commit(m)) for m in (0, 2, 3)))
    assert only(effects, Prefetch) == [Prefetch(0), Prefetch(2), Prefetch(3)]
    effects = feed(one, T0 + 11, *(committed(m) for m in range(4)))
    assert not one.may_serve_key(1)
    assert Fetch not in kinds(effects)
    effects = feed(one, T0 + 12, SealIsFinal())
    assert one.may_serve_key(1)
    assert not one.may_serve_key(0), "what we do not hold we cannot serve"
    assert only(effects, Fetch) == [Fetch(0), Fetch(2), Fetch(3)]
    one.handle(Held(0), T0 + 13)
    assert one.may_serve_key(0), "any holder hands it on"


def test_clause_5_a_withdrawal_between_commit_and_reveal_withholds_our_own() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, (0, 2, 3))
    one.handle(WithdrawalKnown(), T0 + 21)
    assert one.is_withheld
    assert not one.may_serve_key(1)
    assert one.may_serve_key(0)
    with pytest.raises(LocalError, match="withheld"):
        one.handle(Revealed(), T0 + 22)
    effects = feed(one, T_R + 1, Tick()) + feed(one, T_H - 2 * G, Tick())
    assert only(effects, SignHave) == [SignHave(1, 0b1101)]
    assert SignVote not in kinds(effects)


def test_clause_5_after_the_reveal_a_withdrawal_changes_nothing_but_is_noted() -> None:
    one = sealed(4, 1)
    feed(one, T0 + 20, Revealed(), WithdrawalKnown())
    assert not one.is_withheld
    assert one.used_in_flight
    assert one.may_serve_key(1)


def test_clause_5_a_rebuilt_node_withholds_whatever_order_its_facts_come_in() -> None:
    for events in ([WithdrawalKnown(), SealIsFinal()], [SealIsFinal(), WithdrawalKnown()]):
        one = node(4, 1)
        feed(one, T0 + 10, Trained(commit(1)), *(committed(m) for m in range(4)), *events)
        assert one.is_withheld


def test_clause_5_only_the_openings_of_what_is_on_chain_are_fetched() -> None:
    one = node(4, 1)
    feed(one, T0 + 5, Trained(commit(1)), Received(commit(2, version=7)), Received(commit(0)), Received(commit(3)))
    effects = feed(one, T0 + 10, *(committed(m) for m in range(4)), SealIsFinal())
    assert only(effects, Fetch) == [Fetch(0), Fetch(3)]
    assert AskPeers in kinds(effects)
    assert Fetch(2) in one.handle(Received(commit(2)), T0 + 12)
    assert one.contradictions() == ((commit(2, version=7), commit(2)),)


def test_clause_5_peers_are_asked_again_until_nothing_is_missing() -> None:
    one = node(4, 1)
    feed(one, T0 + 5, Trained(commit(1)), Received(commit(0)), Received(commit(3)))
    assert AskPeers() in feed(one, T0 + 10, *(committed(m) for m in range(4)), SealIsFinal())
    one.handle(Sent(AskPeers()), T0 + 11)
    assert AskPeers not in kinds(one.handle(Tick(), T0 + 11))
    assert AskPeers() in one.handle(Tick(), T0 + 11 + G // 4)


def test_clause_6_everybody_in_the_set_is_judged_the_invalid_too_and_one_verdict_stands() -> None:
    one = sealed(4, 1)
    effects = [e for m in (0, 2, 3) for e in one.handle(Held(m), T0 + 20)]
    assert only(effects, Judge) == [Judge(0), Judge(2), Judge(3)]
    one.handle(Judged(0, 7, 0), T0 + 21)
    with pytest.raises(LocalError, match="was judged"):
        one.handle(Judged(0, 0, 5), T0 + 21)


def test_clause_7_a_vote_on_c_once_all_of_c_is_held() -> None:
    one = sealed(4, 1)
    assert Aggregate not in kinds(hold(one, T0 + 20, (0, 2)))
    one.handle(Judged(1, 0, 5), T0 + 20)
    assert Aggregate(15) in hold(one, T0 + 21, (3,))
    result = result_of(15, 3)
    assert SignVote(0, 15, result, T_R) in one.handle(Aggregated(15, result), T0 + 22)
    assert Share(vote(1, 0, 15, result)) in one.handle(SignedVote(vote(1, 0, 15, result)), T0 + 23)
    with pytest.raises(LocalError, match="second vote"):
        one.handle(SignedVote(vote(1, 0, 15, replace(result, model_root=STUDY))), T0 + 24)


def test_clause_7_never_after_t_r() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, range(4))
    assert SignVote not in kinds(one.handle(Aggregated(15, result_of(15, 3)), T_R + 1))
    early = sealed(4, 1)
    hold(early, T0 + 20, range(4))
    assert SignVote in kinds(early.handle(Aggregated(15, result_of(15, 3)), T_R))


def test_clause_7_a_vote_that_could_not_be_signed_in_time_is_not_asked_for_again() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, range(4))
    (asked,) = only(one.handle(Aggregated(15, result_of(15, 3)), T_R), SignVote)
    assert SignVote not in kinds(one.handle(NotSent(asked, T_R + 1), T_R + 1))


def test_clause_7_a_result_that_does_not_follow_from_the_verdicts_is_refused() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, range(4))
    for wrong in (
        replace(result_of(15, 3), included=7),
        replace(result_of(15, 3), codes=7),
        replace(result_of(15, 3), outcome=machine.NO_RESULT),
    ):
        with pytest.raises(LocalError, match="is not what set 1111"):
            one.handle(Aggregated(15, wrong), T0 + 22)


def test_clause_7_q_equal_votes_are_posted_by_rank_in_any_phase_until_the_end() -> None:
    result = result_of(15, 3)
    scribe, third = sealed(4, 0), sealed(4, 2)
    votes = [vote(m, 0, 15, result) for m in (1, 2, 3)]
    other = replace(result, model_root=STUDY)
    assert PostResult not in kinds(feed(scribe, T0 + 20, Received(votes[0]), Received(votes[1])))
    assert PostResult not in kinds(feed(scribe, T0 + 20, Received(vote(0, 0, 15, other))))
    assert PostResult(0, result, tuple(votes)) in feed(scribe, T0 + 21, Received(votes[2]))
    effects = feed(third, T_R + 5, *(Received(v) for v in votes))
    assert PostResult not in kinds(effects)
    assert PostResult in kinds(third.handle(Tick(), T_R + 5 + 2 * (G // 4)))
    assert kinds(third.handle(final(result, 0, T_R + 12), T_R + 12)) == set()


def test_clause_8_a_have_at_once_if_all_is_held_else_late_and_once() -> None:
    full, partial = sealed(4, 1), sealed(4, 2)
    hold(full, T0 + 20, range(4))
    hold(partial, T0 + 20, (0, 1, 2))
    assert only(full.handle(Tick(), T_R + 1), SignHave) == [SignHave(1, 0b1111)]
    assert SignHave not in kinds(partial.handle(Tick(), T_R + 1))
    assert only(partial.handle(Tick(), T_H - 2 * G), SignHave) == [SignHave(1, 0b0111)]
    assert SignHave not in kinds(partial.handle(Held(3), T_H - 2 * G)), "what comes while it is signed makes no second"
    partial.handle(SignedHave(have(2, 1, 0b0111)), T_H - 2 * G + 1)
    with pytest.raises(LocalError, match="second have"):
        partial.handle(SignedHave(have(2, 1, 0b1111)), T_H - 2 * G + 1)


def test_clause_8_no_have_while_a_result_is_there() -> None:
    one = sealed(4, 1)
    effects = feed(one, T_R, final(result_of(15, 3), 0, T_R)) + feed(one, T_R + 1, Tick()) + feed(one, T_H - G, Tick())
    assert SignHave not in kinds(effects)


def test_clause_8_the_scribe_posts_all_and_who_is_missing_posts_itself_at_t_h_minus_g() -> None:
    scribe, other = sealed(4, 0), sealed(4, 1)
    for me, one in enumerate((scribe, other)):
        feed(one, T_R + 1, SignedHave(have(me, 1, 0b0111)), Received(have(2, 1, 0b0111)))
        assert PostHaves not in kinds(one.handle(Tick(), T_H - G - 1))
    assert only(other.handle(Tick(), T_H - G), PostHaves) == [PostHaves((have(1, 1, 0b0111),), 1)]
    assert only(scribe.handle(Tick(), T_H - G), PostHaves) == [PostHaves((have(0, 1, 7), have(2, 1, 7)), 1)]
    early = sealed(4, 0)
    feed(early, T_R + 1, SignedHave(have(0, 1, 7)))
    assert PostHaves in kinds(feed(early, T_R + 2, *(Received(have(m, 1, 7)) for m in (1, 2, 3))))


def test_clause_8_a_have_that_names_more_than_c_is_not_carried() -> None:
    one = sealed(4, 0)
    feed(one, T_R + 1, Received(have(2, 1, 0b11111)), Received(have(1, 1, 0b1111)))
    assert only(one.handle(Tick(), T_H - G), PostHaves) == [PostHaves((have(1, 1, 0b1111),), 1)]


def test_clause_9_the_included_set_is_what_f_plus_1_have() -> None:
    one = sealed(4, 1)
    feed(one, T_R + 2, have_posted(0, 1, 0b0111, T_R + 1), have_posted(1, 1, 0b1111, T_R + 1))
    feed(one, T_R + 2, have_posted(2, 1, 0b0111, T_R + 1))
    view = one.phase(T_H + 1)
    assert (view.phase, view.included) == (Phase.VOTING, 0b0111)
    feed(one, T_R + 2, have_posted(3, 1, 0b1000, T_R + 1))
    assert one.phase(T_H + 1).included == 0b1111


def test_clause_9_too_few_haves_extend_at_once() -> None:
    one = sealed(4, 1)
    feed(one, T_R + 2, *(have_posted(m, 1, 0b1111, T_R + 1) for m in (0, 1)))
    view = one.phase(T_H + 1)
    assert (view.phase, view.attempt, view.deadline) == (Phase.HAVE, 2, T_H + 2 * H)


def test_clause_9_what_is_in_i_is_pulled_from_whoever_has_it() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, (0, 2))
    feed(one, T_R + 2, *(have_posted(m, 1, 0b1111, T_R + 1) for m in (0, 2, 3)))
    assert Fetch(3) in {effect for _, effect in one.owed(T_H + 1)}


def test_clause_10_a_vote_on_i_even_after_a_vote_in_attempt_0_once_the_haves_are_final() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, range(4))
    feed(one, T0 + 22, Aggregated(15, result_of(15, 3)), SignedVote(vote(1, 0, 15, result_of(15, 3))))
    feed(one, T_R + 2, *(have_posted(m, 1, 0b0111, T_R + 1) for m in (0, 1, 2)))
    assert only(one.handle(Tick(), T_H + 1), Aggregate) == [Aggregate(7)]
    assert SignVote not in kinds(one.handle(Aggregated(7, result_of(7, 3)), T_H + 2))
    assert SignVote(1, 7, result_of(7, 3), T_V) in one.handle(HavesAreFinal(1), T_H + 3)
    one.handle(SignedVote(vote(1, 1, 7, result_of(7, 3))), T_H + 3)
    effects = feed(one, T_H + 4, *(Received(vote(m, 1, 7, result_of(7, 3))) for m in (0, 2)))
    assert PostResult in kinds(effects + feed(one, T_H + 4 + 3 * G, Tick()))


def test_clause_10_too_few_inclusions_are_voted_as_no_result() -> None:
    one = sealed(4, 1)
    hold(one, T0 + 20, (0, 1))
    feed(one, T_R + 2, *(have_posted(m, 1, 0b0011, T_R + 1) for m in (0, 1, 2)), HavesAreFinal(1))
    assert Aggregate(3) in one.handle(Tick(), T_H + 1)
    effects = one.handle(Aggregated(3, result_of(3, 3)), T_H + 2)
    assert only(effects, SignVote) == [SignVote(1, 3, result_of(3, 3), T_V)]


def test_clause_11_three_attempts_with_doubled_windows_then_failed() -> None:
    one = sealed(4, 1)
    seen = []
    at = T_R + 1
    while (view := one.phase(at)).phase is not Phase.FAILED:
        seen.append((view.phase, view.attempt, view.deadline))
        feed(one, at, *(have_posted(m, view.attempt, 15, at) for m in (0, 2, 3)))
        assert view.deadline is not None
        at = view.deadline + 1
    expected, end = [], T_R
    for attempt, scale in ((1, 1), (2, 2), (3, 4)):
        expected += [(Phase.HAVE, attempt, end + H * scale), (Phase.VOTING, attempt, end + (H + V) * scale)]
        end += (H + V) * scale
    assert seen == expected
    assert view.since == end


def test_clause_11_anyone_declares_the_failure_by_rank() -> None:
    scribe, other = node(4, 0), node(4, 1)
    assert DeclareFailed in kinds(scribe.handle(Tick(), T_C + 1))
    assert DeclareFailed not in kinds(other.handle(Tick(), T_C + 1))
    assert DeclareFailed in kinds(other.handle(Tick(), T_C + 1 + G // 4))
    failed = Observed(logged(RoundFailed(ROUND, STUDY, 0, 0, 1), T_C + 3))
    third = node(4, 2)
    assert kinds(feed(third, T_C + 3, failed)) == set()


def test_clause_11_a_round_that_is_too_old_has_failed() -> None:
    one = sealed(4, 1, max_round_age=60)
    assert one.phase(T0 + 60).phase is Phase.REVEALING
    assert one.phase(T0 + 61).phase is Phase.FAILED


def test_clause_11_an_attempt_0_result_still_counts_in_a_later_attempt() -> None:
    one = sealed(4, 0)
    feed(one, T_R + 2, *(have_posted(m, 1, 0b0111, T_R + 1) for m in (0, 1, 2)))
    votes = [vote(m, 0, 15, result_of(15, 3)) for m in (1, 2, 3)]
    assert only(feed(one, T_H + 5, *(Received(v) for v in votes)), PostResult)


def test_clause_12_final_is_final() -> None:
    one = sealed(4, 1)
    feed(one, T0 + 30, final(result_of(15, 3), 0, T0 + 29))
    view = one.phase(T_R + 10_000)
    assert (view.phase, view.attempt, view.included, view.since) == (Phase.FINAL, 0, 15, T0 + 29)


def test_clause_12_finality_is_told_apart_from_being_seen() -> None:
    one = node(4, 1)
    feed(one, T0 + 12, *(committed(m, T0 + 10) for m in range(4)))
    assert one.finality(T0 + 9, T0 + 12) == ()
    assert one.finality(T0 + 10, T0 + 12) == (SealIsFinal(),)
    one.handle(SealIsFinal(), T0 + 12)
    feed(one, T_R + 2, *(have_posted(m, 1, 15, T_R + 1) for m in (0, 1, 2)))
    assert one.finality(T_H, T_H) == ()
    assert one.finality(T_H, T_H + 1) == (HavesAreFinal(1),)
    feed(one, T_H + 9, final(result_of(15, 3), 1, T_H + 9))
    assert one.finality(T_H + 9, T_H + 9) == (ResultIsFinal(),)


def test_clause_13_a_close_only_at_depth_d_and_once() -> None:
    one = sealed(4, 1)
    assert SignClose not in kinds(feed(one, T0 + 30, final(result_of(15, 3), 0, T0 + 29)))
    (close,) = only(one.handle(ResultIsFinal(), T0 + 31), SignClose)
    assert isinstance(close, SignClose)
    notice = CloseNotice(STUDY, 0, 0, close.result_hash, 1, b"")
    assert Share(notice) in one.handle(SignedClose(notice), T0 + 32)
    with pytest.raises(LocalError, match="second close"):
        one.handle(SignedClose(replace(notice, result_hash=ZERO)), T0 + 33)


def test_clause_14_a_restarted_node_asks_f_plus_1_before_it_signs() -> None:
    one = node(4, 1)
    effects = feed(one, T0 + 5, Restarted())
    assert AskPeers in kinds(effects)
    assert Train not in kinds(effects)
    assert Train not in kinds(feed(one, T0 + 6, PeerAnswered(0), PeerAnswered(0), PeerAnswered(1)))
    assert Train in kinds(one.handle(PeerAnswered(2), T0 + 7))


def test_clause_14_a_vote_that_came_back_from_peers_is_not_signed_again() -> None:
    one = node(4, 1)
    events = [Received(commit(m)) for m in range(4)] + [committed(m) for m in range(4)]
    feed(one, T0 + 20, Restarted(), *events, SealIsFinal(), Received(vote(1, 0, 15, result_of(15, 3))))
    effects = feed(one, T0 + 21, PeerAnswered(0), PeerAnswered(2)) + hold(one, T0 + 22, range(4))
    effects += feed(one, T0 + 23, Aggregated(15, result_of(15, 3)))
    assert not kinds(effects) & {SignVote, Train}


def test_clause_14_a_commit_we_signed_and_lost_is_taken_back() -> None:
    one = node(4, 1)
    feed(one, T0 + 5, Restarted(), Received(commit(1)))
    effects = feed(one, T0 + 6, PeerAnswered(0), PeerAnswered(2))
    assert only(effects, SignAbstain) == [SignAbstain("lost")]


def test_clause_14_contradicting_statements_are_kept_as_evidence() -> None:
    one = sealed(4, 1)
    a, b = vote(3, 0, 15, result_of(15, 3)), vote(3, 0, 15, replace(result_of(15, 3), model_root=STUDY))
    feed(one, T0 + 20, Received(a), Received(replace(a, witness=STUDY)))
    assert one.contradictions() == ()
    feed(one, T0 + 20, Received(b), Received(have(3, 1, 1)), Received(have(3, 1, 3)))
    assert one.contradictions() == ((have(3, 1, 1), have(3, 1, 3)), (a, b))


def test_clause_14_a_vote_unlike_the_accepted_result_is_evidence() -> None:
    one = sealed(4, 1)
    wrong = vote(3, 0, 15, replace(result_of(15, 3), model_root=STUDY))
    feed(one, T0 + 20, Received(wrong), Received(vote(2, 0, 15, result_of(15, 3))))
    assert one.deviant_votes() == ()
    feed(one, T0 + 30, final(result_of(15, 3), 0, T0 + 29))
    assert one.deviant_votes() == (wrong,)


def test_suspended_members_vote_and_have_but_do_not_contribute() -> None:
    one = node(4, 3, suspended=0b1000)
    events = [Received(commit(m)) for m in range(3)] + [committed(m) for m in range(3)]
    assert not kinds(feed(one, T0 + 10, Tick(), *events, SealIsFinal())) & {Train, SignAbstain}
    effects = hold(one, T0 + 20, range(3)) + feed(one, T0 + 21, Aggregated(7, result_of(7, 3)))
    assert SignVote in kinds(effects)
    assert SignHave in kinds(one.handle(Tick(), T_R + 1))


def test_an_auditor_reads_everything_and_signs_and_posts_nothing() -> None:
    one = sealed(4, None)
    effects = hold(one, T0 + 20, (0, 1)) + feed(one, T0 + 30, final(result_of(15, 3), 0, T0 + 29))
    effects += hold(one, T0 + 40, (2, 3))
    assert Aggregate(15) in effects
    everything = effects + feed(one, T0 + 41, Aggregated(15, result_of(15, 3)), ResultIsFinal())
    assert kinds(everything) <= {Fetch, Judge, Aggregate, AskPeers, Prefetch}
    lagging = sealed(4, None)
    feed(lagging, T0 + 30, final(result_of(15, 3), 0, T0 + 29))
    assert {e for _, e in lagging.owed(T0 + 31) if isinstance(e, Fetch)} == {Fetch(m) for m in range(4)}


# --------------------------------------------------------------------------------------------------------------------
# Tables


def test_every_event_and_every_phase_has_its_line() -> None:
    assert set(machine.EVENTS) == set(machine.Event.__args__)
    assert set(machine.TIMES) == set(Phase)
    assert {phase for row in machine.RULES for phase in row.phases} == set(Phase)
    assert {phase for step in machine.STEPS for phase in step.sources} == set(machine.RUNNING)


def test_the_drawn_tables_in_the_manual_are_those_of_the_code() -> None:
    root = Path(machine.__file__).parent.parent
    drawn = subprocess.run(
        [sys.executable, str(root / "scripts" / "draw_states")], capture_output=True, text=True, check=True, cwd=root
    ).stdout
    page = (root / "node" / "PROTOCOL.md").read_text()
    begin, end = "drawn by scripts/draw_states: begin -->\n\n", "\n<!-- drawn by scripts/draw_states: end"
    assert page.split(begin)[1].split(end)[0] == drawn, "run scripts/draw_states --write"


MEMBERS = st.integers(2, 7)
LEDGERS_NAMES = {"REVEAL": Phase.REVEALING, "VOTE": Phase.VOTING}


@settings(max_examples=300, deadline=None)
@given(MEMBERS, st.data())
def test_the_phase_is_that_of_the_ledger_for_every_history_and_every_second(n: int, data: st.DataObject) -> None:
    everyone = st.integers(0, (1 << n) - 1)
    suspended, silent, absent = data.draw(everyone), data.draw(everyone), data.draw(everyone)
    one = node(n, None, suspended, max_round_age=data.draw(st.integers(T_V - T0 - 50, T_V - T0 + 900)))
    facts, roster = one.facts, (1 << n) - 1
    answers = [m for m in members_of(facts.contributors) if not silent >> m & 1]
    times = {m: T0 + data.draw(st.integers(0, S + G)) for m in answers}
    feed(one, T0, *(abstained(m, times[m]) if absent >> m & 1 else committed(m, times[m]) for m in answers))
    for attempt in (1, 2, 3):
        feed(one, T0, *(have_posted(m, attempt, facts.committed, T0) for m in members_of(data.draw(everyone))))
    book = memory_rounds.Round(
        STUDY, 0, 0, T0, roster, suspended, None, facts.committed, bitmap_of(answers) & ~facts.committed
    )
    if suspended != roster:  # a round that waits for nobody is refused at its opening
        book = book.sealed_if_full(max(times.values(), default=T0))
        now = T0 + data.draw(st.integers(0, 2_000))
        clock, view = memory_rounds.clock_of(book, facts.terms, facts.haves, now), one.phase(now)
        if now >= (book.sealed_at or 0):
            assert view.phase is LEDGERS_NAMES.get(clock.phase.name, Phase.__members__.get(clock.phase.name))
            assert view.phase is Phase.FAILED or view.attempt == clock.attempt
            assert view.phase is Phase.TRAINING or view.seal_time == clock.seal_time
        if view.phase is Phase.VOTING:
            assert view.included == memory_rounds.available_of(book, facts.terms, facts.haves[view.attempt])


# --------------------------------------------------------------------------------------------------------------------
# Any order of events


class Chain:
    """The training contract, as far as one round goes: takes what is in order and skips the rest."""

    def __init__(self, n: int, suspended: int) -> None:
        self.book = node(n, None, suspended)
        self.records: list[Logged] = []
        self.time = T0

    def _log(self, record: Record) -> None:
        entry = logged(record, self.time, len(self.records))
        self.records.append(entry)
        self.book.restore([Observed(entry)], self.time)

    def post(self, effect: Effect) -> None:
        facts = self.book.facts
        view = self.book.phase(self.time)
        match effect:
            case PostCommits(notices) | PostAbstentions(notices):
                for notice in notices:
                    if self.book.phase(self.time).phase is Phase.TRAINING and not facts.on_chain(notice.member):
                        if isinstance(notice, CommitNotice):
                            roots = notice.update_root, notice.dataset_root, notice.next_dataset_root
                            self._log(Committed(ROUND, notice.member, *roots))
                        else:
                            self._log(Abstained(ROUND, notice.member))
            case PostHaves(notices, attempt):
                for notice in notices:
                    assert isinstance(notice, HaveNotice)
                    known = facts.haves.get(attempt, {})
                    if (view.phase, view.attempt) == (Phase.HAVE, attempt) and notice.member not in known:
                        self._log(HavePosted(ROUND, attempt, notice.member, notice.bitmap))
            case PostResult(attempt, result, votes):
                voted = facts.committed if attempt == 0 else view.included
                in_time = attempt == 0 or (view.phase, view.attempt) == (Phase.VOTING, attempt)
                if view.phase in machine.SEALED and in_time and result.included == voted:
                    assert len({v.member for v in votes}) >= facts.opened.quorum
                    self._log(RoundFinal(ROUND, STUDY, 0, 0, attempt, result, hash_words("result", voted), 0))
            case DeclareFailed():
                if view.phase is Phase.FAILED and facts.failed is None:
                    self._log(RoundFailed(ROUND, STUDY, 0, 0, 1))


class Shell:
    """What node/app.py does around the machine, without its patience: store, sign, send, fetch."""

    def __init__(self, world: World, me: int | None) -> None:
        self.world, self.me = world, me
        self.stored: list[Event] = []
        self.seen = 0
        self.signed: list[tuple[str, int, object]] = []
        self.up = True
        self.machine = self._new()

    def _new(self) -> Round:
        return node(self.world.n, self.me, self.world.suspended)

    def restart(self) -> None:
        """kill -9: what was stored and what is on the chain is all there is."""
        self.machine, self.up = self._new(), True
        self.world.todo = [(shell, effect) for shell, effect in self.world.todo if shell is not self]
        records = [Observed(entry) for entry in self.world.chain.records[: self.seen]]
        self.machine.restore([*records, *self.stored], self.world.chain.time)
        self.tell(Restarted())

    def tell(self, event: Event, *, store: bool = False) -> None:
        if store and event not in self.stored:
            self.stored.append(event)
        now = self.world.chain.time
        for effect in self.machine.handle(event, now):
            self.world.check(self, effect, now)
            self.world.todo.append((self, effect))

    def catch_up(self) -> None:
        chain = self.world.chain
        fresh, self.seen = chain.records[self.seen :], len(chain.records)
        for entry in fresh:
            self.tell(Observed(entry))
        for event in self.machine.finality(chain.time, chain.time - 1):
            self.tell(event)
        self.tell(Tick())

    def do(self, effect: Effect) -> None:
        world, chain, least = self.world, self.world.chain, self.machine.facts.least
        match effect:
            case Train(_, generation):
                if self.me in world.failing:
                    self.tell(TrainingFailed(generation))
                elif self.machine.facts.own is None:
                    assert self.me is not None
                    self.sign("commit", 0, commit(self.me), Trained(commit(self.me), generation))
            case SignAbstain():
                assert self.me is not None
                self.sign("abstain", 0, abstention(self.me), SignedAbstain(abstention(self.me)))
            case SignHave(attempt, bitmap):
                assert self.me is not None
                notice = have(self.me, attempt, bitmap)
                self.sign("have", attempt, notice, SignedHave(notice))
            case SignVote(attempt, of, result, not_after):
                assert self.me is not None
                ballot = vote(self.me, attempt, of, result)
                if chain.time > not_after:
                    self.tell(NotSent(effect, chain.time))
                else:
                    self.sign("vote", attempt, ballot, SignedVote(ballot))
            case SignClose(result_hash):
                assert self.me is not None
                close = CloseNotice(STUDY, 0, 0, result_hash, self.me, b"")
                self.sign("close", 0, close, SignedClose(close))
            case Share(notice):
                for peer in world.others(self):
                    world.mail.append((peer, Received(notice)))
            case AskPeers():
                for peer in world.others(self):
                    for event in peer.statements():
                        world.mail.append((self, event))
                    if peer.me is not None:
                        world.mail.append((self, PeerAnswered(peer.me)))
                self.tell(Sent(effect))
            case Fetch(member):
                if any(peer.serve(member) for peer in world.others(self) if world.link_works()):
                    self.tell(Held(member), store=True)
                else:
                    self.tell(NotSent(effect, chain.time + 1))
            case Judge(member):
                self.tell(Judged(member, 0, 5), store=True)
            case Aggregate(of):
                self.tell(Aggregated(of, result_of(of, least)), store=True)
            case PostCommits() | PostAbstentions() | PostHaves() | PostResult() | DeclareFailed():
                chain.post(effect)
                self.tell(Sent(effect))

    def sign(self, kind: str, attempt: int, statement: object, event: Event) -> None:
        self.stored.append(event)  # stored before it is signed
        self.signed.append((kind, attempt, statement))
        if self.world.rng.random() < self.world.kills:
            self.restart()  # stored, and nobody has heard of it
        else:
            self.tell(event)

    def statements(self) -> list[Event]:
        facts = self.machine.facts
        groups: list[dict] = [facts.commits, facts.abstentions, facts.have_notices, facts.votes, facts.closes]  # type: ignore[type-arg]
        return [Received(notice) for group in groups for notice in group.values()]

    def serve(self, member: int) -> bool:
        if not self.machine.may_serve_key(member) or (member in self.world.mute and member == self.me):
            return False
        if member == self.me:
            self.tell(Revealed(), store=True)
        return True


class World:
    """A chain, a network that loses, repeats and reorders, and n members; `dead` stop for good at some time."""

    def __init__(
        self,
        n: int,
        rng: Random,
        *,
        dead: dict[int, int] | None = None,
        suspended: int = 0,
        failing: Iterable[int] = (),
        mute: Iterable[int] = (),
        loss: float = 0.2,
        crashes: float = 0.0,
        kills: float = 0.0,
    ) -> None:
        """`crashes`: chance of a restart in each second; `kills`: right after what is stored, and after each effect."""
        self.n, self.rng, self.dead, self.loss = n, rng, dead or {}, loss
        self.crashes, self.kills = crashes, kills
        self.suspended, self.failing, self.mute = suspended, frozenset(failing), frozenset(mute)
        self.chain = Chain(n, suspended)
        self.todo: list[tuple[Shell, Effect]] = []
        self.mail: list[tuple[Shell, Event]] = []
        self.shells = [Shell(self, me) for me in [*range(n), None]]

    def others(self, shell: Shell) -> list[Shell]:
        return [peer for peer in self.shells if peer is not shell and peer.up]

    def link_works(self) -> bool:
        return self.rng.random() >= self.loss

    def check(self, shell: Shell, effect: Effect, now: int) -> None:
        """What must hold of every effect of every honest machine."""
        if isinstance(effect, Wake):
            assert effect.at > now
            return
        view = shell.machine.phase(now)
        rows = [row for row, owed in shell.machine.owed(now) if set(effect.parts) <= set(owed.parts)]
        assert isinstance(effect, StopTraining) or rows, f"{effect} is in no row of {view.phase}"
        assert all(view.phase in row.phases for row in rows)
        if isinstance(effect, SignVote) and effect.attempt == 0:
            assert view.seal_time is not None
            assert now <= view.seal_time + R
        if isinstance(effect, SignVote):
            assert not effect.set & ~shell.machine.facts.at_hand, "an honest voter holds what it votes for"
        if shell.me is None:
            assert isinstance(effect, Fetch | Judge | Aggregate | AskPeers | Prefetch)

    def run(self, until: int = T0 + 2_000) -> None:
        for shell in self.shells:
            shell.tell(Tick())
        while self.chain.time < until:
            self.chain.time += self.rng.choice((1, 1, 1, 3))
            for shell in self.shells:
                if shell.me is not None and self.dead.get(shell.me, until) <= self.chain.time:
                    shell.up = False
                elif self.rng.random() < self.crashes:
                    shell.restart()
            for shell in [s for s in self.shells if s.up]:
                shell.catch_up()
            while self.todo or self.mail:
                self._one()
            if all(s.machine.phase(self.chain.time).phase is Phase.FINAL for s in self.shells if s.up):
                return

    def _one(self) -> None:
        if self.mail and (not self.todo or self.rng.random() < 0.5):
            shell, event = self.mail.pop(self.rng.randrange(len(self.mail)))
            if shell.up and self.link_works():
                shell.tell(event, store=isinstance(event, Received))
                if self.rng.random() < 0.1:
                    shell.tell(event)
        else:
            shell, effect = self.todo.pop(self.rng.randrange(len(self.todo)))
            if shell.up:
                shell.do(effect)
                if self.rng.random() < self.kills:
                    shell.restart()

    def assert_nobody_signed_twice(self) -> None:
        for shell in self.shells:
            seen = [(kind, attempt) for kind, attempt, _ in shell.signed]
            assert len(seen) == len(set(seen)), (shell.me, seen)
            if shell.me is None or self.suspended >> shell.me & 1:
                assert "commit" not in {kind for kind, _ in seen}
            order = [kind for kind, attempt in seen if kind == "have" or (kind, attempt) == ("vote", 0)]
            assert "vote" not in order[1:] or order[0] == "vote", "no vote in attempt 0 after a have"

    def result(self) -> RoundFinal:
        ends = [entry.record for entry in self.chain.records if isinstance(entry.record, RoundFinal | RoundFailed)]
        assert len(ends) == 1
        assert isinstance(ends[0], RoundFinal)
        return ends[0]


SEEDS = st.integers(0, 2**32)
FEW = settings(max_examples=12, deadline=None)


@FEW
@given(MEMBERS, SEEDS)
def test_lost_repeated_and_reordered_messages_end_final_with_everyone_included(n: int, seed: int) -> None:
    world = World(n, Random(seed))
    world.run()
    assert world.result().result == result_of((1 << n) - 1, n - max(faults(n, 10), n == 3))
    world.assert_nobody_signed_twice()


@FEW
@given(MEMBERS, SEEDS)
def test_up_to_the_slack_of_members_may_die_at_any_time(n: int, seed: int) -> None:
    rng = Random(seed)
    slack = max(faults(n, 10), n == 3)
    dead = {member: T0 + rng.randrange(300) for member in rng.sample(range(n), slack)}
    world = World(n, rng, dead=dead)
    world.run()
    end = world.result().result
    assert end.included.bit_count() >= n - slack
    world.assert_nobody_signed_twice()


@pytest.mark.slow  # many runs
@FEW
@given(st.integers(4, 7), SEEDS)
def test_members_that_never_open_what_they_committed_are_unavailable_and_stop_nobody(n: int, seed: int) -> None:
    rng = Random(seed)
    mute = rng.sample(range(n), faults(n, 10))
    world = World(n, rng, mute=mute, loss=0.1)
    world.run()
    end = world.result()
    assert end.attempt >= 1
    assert set(members_of(end.result.included)) == set(range(n)) - set(mute)
    world.assert_nobody_signed_twice()


@FEW
@given(st.integers(4, 7), SEEDS)
def test_crashes_at_any_moment_make_nobody_sign_twice(n: int, seed: int) -> None:
    world = World(n, Random(seed), crashes=0.02, loss=0.1)
    world.run()
    world.assert_nobody_signed_twice()
    ends = [entry.record for entry in world.chain.records if isinstance(entry.record, RoundFinal | RoundFailed)]
    assert len(ends) == 1


@settings(max_examples=5, deadline=None)
@given(st.integers(4, 7), SEEDS)
def test_kills_after_any_effect_cost_windows_and_no_round(n: int, seed: int) -> None:
    world = World(n, Random(seed), kills=0.05, loss=0.1)
    world.run()
    world.assert_nobody_signed_twice()
    assert world.result().result.included.bit_count() >= n - faults(n, 10)


@FEW
@given(st.integers(4, 7), SEEDS)
def test_failed_trainings_and_suspensions_cost_no_time(n: int, seed: int) -> None:
    rng = Random(seed)
    out = rng.sample(range(n), faults(n, 10))
    world = World(n, rng, failing=out[1:], suspended=sum(1 << m for m in out[:1]), loss=0.0)
    world.run()
    assert world.result().result.included == (1 << n) - 1 - sum(1 << m for m in out)
    assert world.chain.time < T0 + S, "nobody waited for open+S"


@FEW
@given(MEMBERS, SEEDS, st.data())
def test_a_machine_rebuilt_at_any_point_owes_what_the_old_one_owed(n: int, seed: int, data: st.DataObject) -> None:
    world = World(n, Random(seed))
    end = data.draw(st.integers(T0 + 1, T0 + 200))
    world.run(until=end)
    for shell in world.shells:
        rebuilt = shell._new()
        told = [Observed(entry) for entry in world.chain.records[: shell.seen]]
        flags = [SealIsFinal()] * shell.machine.facts.seal_final + [ResultIsFinal()] * shell.machine.facts.result_final
        flags += [HavesAreFinal(a) for a in shell.machine.facts.haves_final]
        events = [*told, *shell.stored, *flags]
        world.rng.shuffle(events)
        events.sort(key=lambda event: isinstance(event, Aggregated))  # it is checked against the verdicts
        rebuilt.restore(events, world.chain.time)
        now = world.chain.time
        strip = (Train, StopTraining, SignAbstain)  # a training does not survive its process
        old = {effect for _, effect in shell.machine.owed(now) if not isinstance(effect, strip)}
        assert {effect for _, effect in rebuilt.owed(now) if not isinstance(effect, strip)} == old


POOL: list[Callable[[int, int], Event]] = [
    lambda n, k: Received(commit(k % n)),
    lambda n, k: Received(commit(k % n, version=k % 2)),
    lambda n, k: Received(abstention(k % n)),
    lambda n, k: Received(have(k % n, 1 + k % 3, k % (1 << n))),
    lambda n, k: Received(vote(k % n, k % 4, (1 << n) - 1, result_of((1 << n) - 1, n - max(faults(n, 10), n == 3)))),
    lambda n, k: committed(k % n),
    lambda n, k: abstained(k % n),
    lambda n, k: have_posted(k % n, 1 + k % 3, k % (1 << n), T_R + 1 + k % 200),
    lambda n, k: final(result_of((1 << n) - 1, n - max(faults(n, 10), n == 3)), 0, T0 + 30),
    lambda n, k: SealIsFinal(),
    lambda n, k: HavesAreFinal(1 + k % 3),
    lambda n, k: Held(k % n),
    lambda n, k: Judged(k % n, 0, 5),
    lambda n, k: BelowMinimum(),
    lambda n, k: TrainingFailed(k % 2),
    lambda n, k: WithdrawalKnown(k % 3),
    lambda n, k: Restarted(),
    lambda n, k: PeerAnswered(k % n),
    lambda n, k: Tick(),
]


@settings(max_examples=150, deadline=None)
@given(MEMBERS, st.lists(st.tuples(st.integers(0, len(POOL) - 1), st.integers(0, 10_000), st.integers(0, 25))))
def test_no_sequence_of_events_makes_a_machine_sign_twice_or_out_of_phase(
    n: int, script: list[tuple[int, int, int]]
) -> None:
    one, now, signed = node(n, 0), T0, []
    queue: deque[Event] = deque()
    for choice, k, pause in script:
        now += pause
        queue.append(POOL[choice](n, k))
        while queue:
            try:
                effects = one.handle(queue.popleft(), now)
            except (LocalError, LedgerError):
                continue  # what cannot be is refused; the machine goes on
            view = one.phase(now)
            for effect in effects:
                rows = [row for row, owed in one.owed(now) if set(effect.parts) <= set(owed.parts)]
                assert isinstance(effect, Wake | StopTraining) or any(view.phase in row.phases for row in rows)
                match effect:
                    case Train(_, generation) if k % 2:
                        queue.append(Trained(commit(0), generation))
                    case SignHave(attempt, bitmap):
                        assert view.phase is Phase.HAVE
                        signed.append(("have", attempt))
                        queue.append(SignedHave(have(0, attempt, bitmap)))
                    case SignVote(attempt, of, result, not_after):
                        assert now <= not_after
                        assert view.phase is (Phase.VOTING if attempt else Phase.REVEALING)
                        assert attempt or ("have", 1) not in signed
                        signed.append(("vote", attempt))
                        queue.append(SignedVote(vote(0, attempt, of, result)))
                    case SignAbstain():
                        signed.append(("abstain", 0))
                        queue.append(SignedAbstain(abstention(0)))
                    case Judge(member):
                        queue.append(Judged(member, 0, 5))
                    case Aggregate(of):
                        queue.append(Aggregated(of, result_of(of, one.facts.least)))
                    case _:
                        pass
    assert len(signed) == len(set(signed))


# --------------------------------------------------------------------------------------------------------------------
# Every run of four with one liar: members 0, 1, 2 are honest and have each other's contributions; member 3 serves its
# own to whom it likes and when (a garbage wrap is no key at all: the machine never hears of it). Ticks: reveal 0, 1 |
# have 2, 3 | vote 4, 5. What a member sends in one tick arrives by the end of the next; inside a tick the liar orders
# everything. Honest members do what their machine owes, the real one.

HONEST, LIAR, ALL = 3, 0b1000, 0b1111
TR, TH, TV = 2, 4, 6
WINDOWS = {"reveal_seconds": 2, "have_seconds": 2, "vote_seconds": 2, "grace_seconds": 1}
At = tuple[int | None, ...]


@cache
def decisions(me: int, tick: int, holds: bool, voted: bool, haves: At, voted_again: bool) -> tuple[Effect, ...]:
    """What the machine of `me` owes at this tick, given what it holds, signed and sees on the chain."""
    one = node(4, me, **WINDOWS)
    now = SEALED_AT + 1 + tick
    events: list[Event] = [Trained(commit(me)), *(Received(commit(m)) for m in range(4))]
    events += [*(committed(m) for m in range(4)), SealIsFinal()]
    events += [e for m in range(4 if holds else 3) for e in (Held(m), Judged(m, 0, 5))]
    events += [have_posted(m, 1, bitmap, SEALED_AT + TR + 1) for m, bitmap in enumerate(haves) if bitmap is not None]
    if tick >= TH:
        events.append(HavesAreFinal(1))
    if holds and voted:
        events += [Aggregated(ALL, result_of(ALL, 3)), SignedVote(vote(me, 0, ALL, result_of(ALL, 3)))]
    one.restore(events, now)
    if voted_again:
        included = one.phase(now).included
        one.restore([Aggregated(included, result_of(included, 3))], now)
        one.restore([SignedVote(vote(me, 1, included, result_of(included, 3)))], now)
    for _ in range(2):
        for _, effect in one.owed(now):
            if isinstance(effect, Aggregate):
                one.restore([Aggregated(effect.set, result_of(effect.set, 3))], now)
    return tuple(effect for _, effect in one.owed(now) if isinstance(effect, Fetch | SignVote | SignHave))


State = tuple[int, At, At, At, At, At, At, At, int]
START: State = (0, (0,) * 3, (0,) * 3, (0,) * 3, (0,) * 3, (None,) * 4, (0,) * 3, (0,) * 3, 0)


def put(values: At, at: int, value: int) -> At:
    return (*values[:at], value, *values[at + 1 :])


def moves(state: State, forward: bool) -> list[State]:
    tick, hold_, before, vote0, sent0, haves, vote1, sent1, end = state
    if end or tick >= TV:
        return []
    found: list[State] = []
    idle = True  # nothing that synchrony and the machines demand is left undone in this tick
    for h in range(HONEST):
        if not hold_[h]:
            found.append((tick, put(hold_, h, 1), before, vote0, sent0, haves, vote1, sent1, end))  # the liar serves h
        for effect in decisions(h, tick, bool(hold_[h]), bool(vote0[h]), haves, bool(vote1[h])):
            match effect:
                case Fetch():
                    assert effect.member == 3
                    if forward and any(hold_):
                        found.append((tick, put(hold_, h, 1), before, vote0, sent0, haves, vote1, sent1, end))
                    idle &= not (forward and any(before))
                case SignVote(0, of, result, _):
                    assert tick < TR
                    assert hold_[h]
                    assert (of, result) == (ALL, result_of(ALL, 3))
                    found.append((tick, hold_, before, put(vote0, h, 1), sent0, haves, vote1, sent1, end))
                    idle = False
                case SignHave(1, bitmap):
                    assert TR <= tick < TH
                    assert bool(bitmap & LIAR) == bool(hold_[h])
                    found.append((tick, hold_, before, vote0, sent0, put(haves, h, bitmap), vote1, sent1, end))
                    idle &= tick < TH - 1
                case SignVote(1, of, result, _):
                    assert tick >= TH
                    assert result == result_of(of, 3)
                    assert hold_[h] or not of & LIAR, "an honest voter holds what it votes for"
                    found.append((tick, hold_, before, vote0, sent0, haves, put(vote1, h, of), sent1, end))
                    idle = False
                case _:
                    raise AssertionError(effect)
    if TR <= tick < TH and haves[3] is None:
        for bitmap in (0b0111, ALL):
            found.append((tick, hold_, before, vote0, sent0, put(haves, 3, bitmap), vote1, sent1, end))
    for votes, final_set in [(vote0, ALL)] if tick < TH else [(vote1, max(filter(None, vote1), default=0))]:
        agreeing = sum(1 for v in votes if v)
        if agreeing + 1 >= 3:  # the liar votes for whatever it likes
            found.append((tick, hold_, before, vote0, sent0, haves, vote1, sent1, final_set))
    if sum(1 for v in sent0 if v) >= 3 or sum(1 for v in sent1 if v) >= 3:
        idle = False  # an honest quorum of the tick before has been posted by now
    if idle:
        found.append((tick + 1, hold_, hold_, vote0, vote0, haves, vote1, vote1, 0))
    return found


def search(forward: bool) -> tuple[int, list[State], list[State]]:
    """All reachable states: how many, those that end without a result, those where honest votes differ."""
    seen, queue = {START}, deque([START])
    stuck: list[State] = []
    split: list[State] = []
    while queue:
        state = queue.popleft()
        tick, *_, vote1, _, end = state
        if not end and tick >= TV:
            stuck.append(state)
        if len({v for v in vote1 if v}) > 1 or (end and any(v and v != end for v in vote1)):
            split.append(state)
        for following in moves(state, forward):
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return len(seen), stuck, split


@pytest.mark.slow  # every run
def test_every_run_of_four_with_one_liar_ends_final_and_nobody_is_split() -> None:
    states, stuck, split = search(forward=True)
    assert states > 1_000
    assert not stuck
    assert not split


def test_the_search_finds_the_dead_end_when_keys_are_not_handed_on() -> None:
    _, stuck, _ = search(forward=False)
    assert stuck


def test_if_attempt_0_can_be_certified_attempt_1_says_the_same() -> None:
    """The lemma of clause 10, for all runs: a possible quorum on C means the haves give C."""
    queue, seen, possible = deque([START]), {START}, 0
    while queue:
        state = queue.popleft()
        tick, _, _, vote0, _, haves, *_ = state
        if tick >= TH and sum(1 for v in vote0 if v) + 1 >= 3:
            possible += 1
            assert sum(1 for bitmap in haves if bitmap is not None and bitmap & LIAR) >= holders(1)
        for following in moves(state, forward=True):
            if not following[-1] and following not in seen:
                seen.add(following)
                queue.append(following)
    assert possible


def test_the_scribe_of_a_height_is_the_first_to_post() -> None:
    assert [scribes(0b1111, 0, height)[0] for height in range(5)] == [0, 1, 2, 3, 0]
    assert node(4, 2, height=2).rank == 0
