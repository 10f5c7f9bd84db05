"""TrainingLedger's rules for studies and rounds, on every ledger."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from crypto.commitments import lineage, link, round_id
from crypto.digest import Digest
from crypto.keys import LedgerKey
from crypto.statements import AuditAccess, Commit, Domain, Join, Leave, OpenAudit, Remove, sign
from node.errors import CallReverted
from node.membership import accumulate
from node.memory.rounds import Phase
from node.memory.training import hash_of
from node.records import (
    ZERO,
    Abstained,
    AuditAccessed,
    AuditAnnouncement,
    AuditOpened,
    AuditOpening,
    CommitEntry,
    Commits,
    Committed,
    EntrySkipped,
    HavePosted,
    Haves,
    Joined,
    Joining,
    Leaving,
    Left,
    Removal,
    RoundFailed,
    RoundFailure,
    RoundFinal,
    RoundOpened,
    StudyCreated,
    StudyCreation,
)
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import JUNK, World, kinds, one_of, records_of, word

ALL = 0b1111


def expected_id(world: World, opened: RoundOpened) -> Digest:
    """The round's id from its own record."""
    return round_id(
        chain_id=world.contracts.chain_id,
        contract=world.contracts.training,
        study=opened.study,
        branch=opened.branch,
        height=opened.height,
        parent_result=opened.parent_result,
        parent_model=opened.parent_model,
        epoch=opened.epoch,
        roster=opened.roster,
        suspended=opened.suspended,
        consent_accumulator=opened.consent_acc,
        membership_accumulator=opened.membership_acc,
        previous_block=opened.previous_block,
    )


# --- studies


def test_a_study_opens_its_first_round_with_the_last_invited_member(world: World) -> None:
    study, opened = world.study()
    created = world.all(StudyCreated)[0]
    assert (created.study, created.creator, created.terms) == (study, 0, world.terms())
    assert [one.member for one in world.all(Joined)] == [0, 1, 2, 3]
    assert (opened.height, opened.branch, opened.parent_result) == (1, 0, ZERO)
    assert (opened.parent_model, opened.roster, opened.suspended) == (word("initial model"), ALL, 0)
    assert (opened.f, opened.quorum) == (1, 3)
    assert len(world.all(RoundOpened)) == 1


def test_a_round_id_names_everything_it_was_opened_on(world: World) -> None:
    _, opened = world.study()
    membership, consent, _ = world.ledger.accumulators()
    assert (opened.membership_acc, opened.consent_acc) == (membership, consent)
    logged = next(one for one in world.logged() if one.record == opened)
    assert opened.opened_at == logged.timestamp
    assert opened.previous_block == world.ledger.block_hash(logged.position.block - 1)
    assert opened.round_id == expected_id(world, opened)


@pytest.mark.parametrize(
    "changes, field, got",
    [
        ({"rounds": 0}, "rounds", 0),
        ({"invited": 0b10001}, "invited", 0b10001),
        ({"min_included": 5}, "minIncluded", 5),
        ({"reveal_seconds": 0}, "revealSeconds", 0),
        ({"max_round_age": 180}, "maxRoundAge", 180),
        ({"suspend_rounds": 15}, "suspendRounds", 15),
        ({"initial_model": ZERO}, "initialModel", 0),
    ],
)
def test_terms_outside_their_range_are_refused(world: World, changes: dict[str, object], field: str, got: int) -> None:
    terms = world.terms(**changes)
    with pytest.raises(CallReverted) as refused:
        world.send(StudyCreation(terms, world.sign(0, terms)))
    assert (refused.value.error, refused.value.operands) == ("BadTerms", {"field": field, "got": got})


def test_a_study_is_created_and_joined_once(world: World) -> None:
    study, _ = world.study()
    with pytest.raises(CallReverted) as twice:
        world.send(StudyCreation(world.terms(), world.sign(0, world.terms())))
    assert (twice.value.error, twice.value.operands) == ("StudyKnown", {"study": study})
    with pytest.raises(CallReverted) as again:
        world.send(Joining(study, 2, world.sign(2, Join(study, 2))))
    assert again.value.error == "AlreadyJoined"
    with pytest.raises(CallReverted) as unknown:
        world.send(Joining(word("none"), 2, world.sign(2, Join(word("none"), 2))))
    assert unknown.value.error == "StudyUnknown"


def test_a_member_that_leaves_is_asked_until_the_round_ends(world: World) -> None:
    study, opened = world.study()
    assert world.send(Leaving(study, 3, world.sign(3, Leave(study, 3)))).records == (Left(study, 3),)
    following = one_of(world.finish(opened.round_id), RoundOpened)
    assert following.roster == 0b0111


def test_a_removed_member_is_asked_until_the_round_ends(world: World) -> None:
    _, opened = world.study()
    world.send(Removal(2, world.votes([0, 1, 3], Remove(1, 2, world.keys[2].address))))
    following = one_of(world.finish(opened.round_id), RoundOpened)
    assert (following.roster, following.epoch) == (0b1011, 2)
    assert following.membership_acc == world.ledger.accumulators()[0]


# --- commitments


def test_commitments_are_recorded_and_rolled_in_posting_order(world: World) -> None:
    _, opened = world.study()
    sent = world.commit(opened.round_id, [2, 0])
    assert [one.member for one in records_of(sent, Committed)] == [2, 0]
    sent = world.commit(opened.round_id, [1, 3])
    # The chain has the same root: another one in the result is refused.
    result = world.result(opened.round_id, ALL, commit_root=word("another"))
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2]))
    expected = {"expected": world.commit_root(opened.round_id), "got": word("another")}
    assert (refused.value.error, refused.value.operands) == ("WrongCommitRoot", expected)


def test_junk_in_a_batch_of_commitments_harms_only_itself(world: World) -> None:
    _, opened = world.study()
    good = [world.commit_entry(opened.round_id, member) for member in range(4)]
    foreign = Domain(world.contracts.chain_id + 1, world.contracts.training)
    elsewhere = Domain(world.contracts.chain_id, world.contracts.consent)
    statement = Commit(opened.round_id, 1, good[1].update_root, good[1].dataset_root, ZERO)
    other_round = replace(statement, round_id=word("another round"))

    def forged(signature: bytes) -> CommitEntry:
        return replace(good[1], signature=signature)

    batch = (
        good[0],
        world.commit_entry(opened.round_id, 0, text=" changed"),
        forged(sign(statement, foreign, world.keys[1])),
        forged(sign(statement, elsewhere, world.keys[1])),
        forged(world.sign(1, other_round)),
        forged(world.sign(2, statement)),
        forged(JUNK),
        replace(good[2], member=7),
        replace(good[2], update_root=ZERO),
        good[3],
    )
    sent = world.send(Commits(opened.study, opened.round_id, batch))
    assert kinds(sent) == ["EntrySkipped"] * 8 + ["Committed"] * 2
    assert [(one.member, one.reason) for one in records_of(sent, EntrySkipped)] == [
        (0, 1),
        (1, 2),
        (1, 2),
        (1, 2),
        (1, 2),
        (1, 2),
        (7, 3),
        (2, 6),
    ]
    assert all(one.subject == opened.round_id for one in records_of(sent, EntrySkipped))
    # Nobody was harmed: 1 and 2 can still commit.
    assert kinds(world.commit(opened.round_id, [1, 2])) == ["Committed", "Committed"]


def test_a_replayed_batch_changes_nothing(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1])
    root = world.commit_root(opened.round_id)
    sent = world.commit(opened.round_id, [0, 1])
    assert [(one.member, one.reason) for one in records_of(sent, EntrySkipped)] == [(0, 1), (1, 1)]
    assert len(sent.records) == 2
    assert world.commit_root(opened.round_id) == root


def test_who_abstains_is_not_waited_for_and_cannot_commit(world: World) -> None:
    _, opened = world.study()
    sent = world.abstain(opened.round_id, [3])
    assert sent.records == (Abstained(opened.round_id, 3),)
    assert records_of(world.commit(opened.round_id, [3]), EntrySkipped)[0].reason == 1
    world.commit(opened.round_id, [0, 1, 2])
    with pytest.raises(CallReverted) as sealed:
        world.abstain(opened.round_id, [0])
    assert sealed.value.operands["phase"] == Phase.REVEAL


def test_a_statement_for_an_unknown_round_is_refused(world: World) -> None:
    world.study()
    with pytest.raises(CallReverted) as refused:
        world.commit(word("no round"), [0])
    operands = {"study": ZERO, "roundId": word("no round"), "open": ZERO}
    assert (refused.value.error, refused.value.operands) == ("RoundNotOpen", operands)


# --- seal and attempt 0


def test_a_full_bitmap_seals_at_once(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    with pytest.raises(CallReverted) as late:
        world.commit(opened.round_id, [0])
    assert (late.value.error, late.value.operands) == (
        "WrongPhase",
        {"roundId": opened.round_id, "phase": Phase.REVEAL, "attempt": 0},
    )


def test_time_seals_what_is_there_and_a_late_commitment_is_refused(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2])
    result = world.result(opened.round_id, 0b0111)
    with pytest.raises(CallReverted) as early:
        world.send(world.finalisation(opened.round_id, 0, 0b0111, result, [0, 1, 2]))
    assert early.value.operands["phase"] == Phase.TRAINING
    world.pass_time(opened.opened_at + 120)
    with pytest.raises(CallReverted) as late:
        world.commit(opened.round_id, [3])
    assert late.value.operands["phase"] == Phase.REVEAL
    sent = world.send(world.finalisation(opened.round_id, 0, 0b0111, result, [0, 1, 2]))
    final = one_of(sent, RoundFinal)
    assert (final.attempt, final.result, final.signers) == (0, result, 0b0111)
    assert final.result_hash == hash_of(result)


def test_a_result_opens_the_next_round_in_the_same_transaction(world: World) -> None:
    study, opened = world.study()
    sent = world.finish(opened.round_id)
    final, following = one_of(sent, RoundFinal), one_of(sent, RoundOpened)
    assert (following.study, following.height, following.branch) == (study, 2, 0)
    named = lineage(ZERO, link(1, final.result.model_root, final.result_hash))
    assert (following.parent_result, following.parent_model) == (named, final.result.model_root)
    assert following.round_id == expected_id(world, following)
    with pytest.raises(CallReverted) as closed:
        world.commit(opened.round_id, [0])
    assert closed.value.error == "RoundNotOpen"


def test_the_first_result_counts_and_a_second_is_refused(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    result = world.result(opened.round_id, ALL)
    call = world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2])
    world.send(call)
    with pytest.raises(CallReverted) as again:
        world.send(call)
    following = world.all(RoundOpened)[-1]
    operands = {"study": opened.study, "roundId": opened.round_id, "open": following.round_id}
    assert (again.value.error, again.value.operands) == ("RoundNotOpen", operands)


def test_a_study_ends_with_its_last_result(world: World) -> None:
    _, opened = world.study(rounds=2)
    following = one_of(world.finish(opened.round_id), RoundOpened)
    assert kinds(world.finish(following.round_id)) == ["RoundFinal"]


def test_votes_must_be_for_this_round_attempt_set_and_result(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    result = world.result(opened.round_id, ALL)
    good = world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2])
    others = (
        world.finalisation(word("another round"), 0, ALL, result, [2]),
        world.finalisation(opened.round_id, 1, ALL, result, [2]),
        world.finalisation(opened.round_id, 0, 0b0111, result, [2]),
        world.finalisation(opened.round_id, 0, ALL, replace(result, model_root=word("x")), [2]),
    )
    for other in others:
        with pytest.raises(CallReverted) as refused:
            world.send(replace(good, votes=(*good.votes[:2], *other.votes)))
        assert (refused.value.error, refused.value.operands["member"]) == ("BadSignature", 2)
    with pytest.raises(CallReverted) as few:
        world.send(replace(good, votes=good.votes[:2]))
    assert (few.value.error, few.value.operands) == ("QuorumNotReached", {"votes": 2, "needed": 3})
    world.send(good)


@pytest.mark.parametrize(
    "included, codes, error",
    [
        (0b0111, 0, "WrongSet"),
        (0b1111, 0x2000, "IncludedAndInvalid"),
        (0b0111, 0x9000, "BadCode"),
        (0b0011, 0x1700, "WrongOutcome"),
    ],
)
def test_a_result_that_does_not_decide_over_the_set_is_refused(
    world: World, included: int, codes: int, error: str
) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    result = world.result(opened.round_id, included, codes=codes)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2]))
    assert refused.value.error == error


def test_invalid_members_are_named_with_their_rule(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    result = world.result(opened.round_id, 0b0111, codes=0x7000)
    sent = world.send(world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2]))
    assert one_of(sent, RoundFinal).result.codes == 0x7000


def test_too_few_included_is_an_agreed_no_result_that_keeps_the_model(world: World) -> None:
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    changed = world.result(opened.round_id, 0b0011, codes=0x1700, outcome=2)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, ALL, changed, [0, 1, 2]))
    assert refused.value.error == "ModelChanged"
    kept = replace(changed, model_root=word("initial model"))
    sent = world.send(world.finalisation(opened.round_id, 0, ALL, kept, [0, 1, 2]))
    following = one_of(sent, RoundOpened)
    assert following.parent_model == word("initial model")
    assert following.parent_result == lineage(ZERO, link(1, kept.model_root, hash_of(kept)))


def test_a_study_counts_only_rounds_with_a_model(world: World) -> None:
    _, opened = world.study(rounds=1)
    world.commit(opened.round_id, [0, 1, 2, 3])
    none = world.result(opened.round_id, 0b0011, codes=0x1700, outcome=2, model_root=word("initial model"))
    sent = world.send(world.finalisation(opened.round_id, 0, ALL, none, [0, 1, 2]))
    following = one_of(sent, RoundOpened)
    assert kinds(world.finish(following.round_id)) == ["RoundFinal"]


# --- the path of haves


def sealed_by_time(world: World, members: list[int]) -> RoundOpened:
    """A round of a fresh study that these members committed to, its reveal window over."""
    _, opened = world.study()
    world.commit(opened.round_id, members)
    world.pass_time(opened.opened_at + 120 + 60)
    return opened


def test_attempt_one_decides_over_what_f_plus_one_members_hold(world: World) -> None:
    opened = sealed_by_time(world, [0, 1, 2])
    sent = world.haves(opened.round_id, 1, {0: 0b0111, 1: 0b0011, 3: 0b0001})
    assert [(one.member, one.bitmap) for one in records_of(sent, HavePosted)] == [(0, 7), (1, 3), (3, 1)]
    world.pass_time(opened.opened_at + 120 + 60 + 40)
    everyone = world.result(opened.round_id, 0b0111)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 1, 0b0111, everyone, [0, 1, 2]))
    assert (refused.value.error, refused.value.operands) == ("WrongSet", {"expected": 0b0011, "got": 0b0111})
    # Two of the least three included: the agreed outcome is that there is none.
    available = world.result(opened.round_id, 0b0011, outcome=2, model_root=word("initial model"))
    sent = world.send(world.finalisation(opened.round_id, 1, 0b0011, available, [0, 1, 3]))
    assert one_of(sent, RoundFinal).attempt == 1


def test_attempt_zero_stays_open_until_the_round_ends(world: World) -> None:
    opened = sealed_by_time(world, [0, 1, 2])
    world.haves(opened.round_id, 1, {0: 0b0111, 1: 0b0111, 2: 0b0111})
    world.pass_time(opened.opened_at + 120 + 60 + 40)
    result = world.result(opened.round_id, 0b0111)
    sent = world.send(world.finalisation(opened.round_id, 0, 0b0111, result, [0, 1, 2]))
    assert one_of(sent, RoundFinal).attempt == 0


def test_haves_count_once_from_the_roster_and_for_commitments_only(world: World) -> None:
    opened = sealed_by_time(world, [0, 1, 2])
    good = world.have_entry(opened.round_id, 1, 0, 0b0111)
    batch = (
        good,
        world.have_entry(opened.round_id, 1, 0, 0b0011),
        world.have_entry(opened.round_id, 1, 1, 0b1111),
        replace(world.have_entry(opened.round_id, 2, 1, 0b0111)),
        replace(good, member=6),
    )
    sent = world.send(Haves(opened.study, opened.round_id, 1, batch))
    assert kinds(sent) == ["HavePosted"] + ["EntrySkipped"] * 4
    assert [(one.member, one.reason) for one in records_of(sent, EntrySkipped)] == [(0, 1), (1, 6), (1, 2), (6, 3)]


def test_haves_outside_their_window_are_refused(world: World) -> None:
    opened = sealed_by_time(world, [0, 1, 2])
    with pytest.raises(CallReverted) as wrong_attempt:
        world.haves(opened.round_id, 2, {0: 0b0111})
    assert wrong_attempt.value.operands == {"roundId": opened.round_id, "phase": Phase.HAVE, "attempt": 1}
    world.haves(opened.round_id, 1, {0: 0b0111, 1: 0b0111, 2: 0b0111})
    world.pass_time(opened.opened_at + 120 + 60 + 40)
    with pytest.raises(CallReverted) as late:
        world.haves(opened.round_id, 1, {3: 0b0111})
    assert late.value.operands == {"roundId": opened.round_id, "phase": Phase.VOTE, "attempt": 1}


def test_without_enough_haves_the_next_attempt_starts_at_once_with_doubled_windows(world: World) -> None:
    opened = sealed_by_time(world, [0, 1, 2])
    start = opened.opened_at + 120 + 60
    world.haves(opened.round_id, 1, {0: 0b0111})
    world.pass_time(start + 40)
    world.haves(opened.round_id, 2, {0: 0b0111, 1: 0b0111, 2: 0b0111})
    world.pass_time(start + 40 + 80)
    result = world.result(opened.round_id, 0b0111)
    with pytest.raises(CallReverted) as early:
        world.send(world.finalisation(opened.round_id, 1, 0b0111, result, [0, 1, 2]))
    assert early.value.operands == {"roundId": opened.round_id, "phase": Phase.VOTE, "attempt": 2}
    sent = world.send(world.finalisation(opened.round_id, 2, 0b0111, result, [0, 1, 2]))
    assert one_of(sent, RoundFinal).attempt == 2


def test_after_three_attempts_the_round_fails_and_the_next_keeps_the_parent(world: World) -> None:
    study, opened = world.study()
    world.commit(opened.round_id, [0, 1, 2, 3])
    sealed = world.ledger.head().timestamp
    world.pass_time(sealed + 60 + 40 + 80)
    with pytest.raises(CallReverted) as early:
        world.send(RoundFailure(opened.study, opened.round_id))
    assert early.value.operands == {"roundId": opened.round_id, "phase": Phase.HAVE, "attempt": 3}
    world.pass_time(sealed + 60 + 40 + 80 + 160)
    sent = world.send(RoundFailure(opened.study, opened.round_id))
    assert one_of(sent, RoundFailed) == RoundFailed(opened.round_id, study, 0, 1, 2)
    following = one_of(sent, RoundOpened)
    assert (following.height, following.parent_result, following.parent_model) == (2, ZERO, word("initial model"))
    assert following.round_id != opened.round_id
    with pytest.raises(CallReverted) as closed:
        world.send(RoundFailure(opened.study, opened.round_id))
    assert closed.value.error == "RoundNotOpen"


def test_too_few_commitments_fail_the_round_before_anything_is_revealed(world: World) -> None:
    study, opened = world.study()
    world.commit(opened.round_id, [0, 1])
    world.pass_time(opened.opened_at + 120)
    result = world.result(opened.round_id, 0b0011)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, 0b0011, result, [0, 1, 2]))
    assert refused.value.operands["phase"] == Phase.FAILED
    sent = world.send(RoundFailure(opened.study, opened.round_id))
    assert one_of(sent, RoundFailed) == RoundFailed(opened.round_id, study, 0, 1, 1)


def test_a_round_past_its_age_can_only_fail(world: World) -> None:
    study, opened = world.study(max_round_age=200)
    world.commit(opened.round_id, [0, 1, 2, 3])
    result = world.result(opened.round_id, ALL)
    world.pass_time(opened.opened_at + 200)
    with pytest.raises(CallReverted) as refused:
        world.send(world.finalisation(opened.round_id, 0, ALL, result, [0, 1, 2]))
    assert refused.value.operands["phase"] == Phase.FAILED
    sent = world.send(RoundFailure(opened.study, opened.round_id))
    assert one_of(sent, RoundFailed) == RoundFailed(opened.round_id, study, 0, 1, 3)


# --- suspension


def test_who_misses_rounds_in_a_row_is_not_waited_for_and_still_votes(world: World) -> None:
    _, opened = world.study()
    current = opened
    for _ in range(2):
        assert current.suspended == 0
        world.commit(current.round_id, [0, 1, 2])
        world.pass_time(current.opened_at + 120)
        result = world.result(current.round_id, 0b0111)
        sent = world.send(world.finalisation(current.round_id, 0, 0b0111, result, [0, 1, 2]))
        current = one_of(sent, RoundOpened)
    assert (current.suspended, current.roster) == (0b1000, ALL)
    assert records_of(world.commit(current.round_id, [3]), EntrySkipped)[0].reason == 4
    # Not waited for: sealed as soon as the others committed. It votes.
    world.commit(current.round_id, [0, 1, 2])
    result = world.result(current.round_id, 0b0111)
    sent = world.send(world.finalisation(current.round_id, 0, 0b0111, result, [1, 2, 3]))
    current = one_of(sent, RoundOpened)
    assert current.suspended == 0b1000
    world.commit(current.round_id, [0, 1, 2])
    result = world.result(current.round_id, 0b0111)
    sent = world.send(world.finalisation(current.round_id, 0, 0b0111, result, [0, 1, 2]))
    assert one_of(sent, RoundOpened).suspended == 0  # back by itself after two rounds


def test_who_abstains_misses_nothing(world: World) -> None:
    _, opened = world.study()
    current = opened
    for _ in range(3):
        current = one_of(world.finish(current.round_id, [0, 1, 2]), RoundOpened)
        assert current.suspended == 0


def test_whose_blobs_were_unavailable_misses_the_round(world: World) -> None:
    _, opened = world.study(suspend_after=1)
    world.commit(opened.round_id, [0, 1, 2, 3])
    sealed = world.ledger.head().timestamp
    world.pass_time(sealed + 60)
    world.haves(opened.round_id, 1, {0: 0b0111, 1: 0b0111, 2: 0b0111})
    world.pass_time(sealed + 60 + 40)
    result = world.result(opened.round_id, 0b0111)
    sent = world.send(world.finalisation(opened.round_id, 1, 0b0111, result, [0, 1, 2]))
    assert one_of(sent, RoundOpened).suspended == 0b1000


# --- small rosters


@pytest.mark.parametrize("n, votes", [(2, [0, 1]), (3, [0, 2]), (5, [0, 1, 2, 3])])
def test_a_round_of_few_members(make_world: WorldMaker, n: int, votes: list[int]) -> None:
    world = make_world(n)
    _, opened = world.study()
    everyone = (1 << n) - 1
    assert opened.quorum == len(votes)
    world.commit(opened.round_id, range(n))
    result = world.result(opened.round_id, everyone)
    with pytest.raises(CallReverted) as few:
        world.send(world.finalisation(opened.round_id, 0, everyone, result, votes[:-1]))
    assert few.value.operands == {"votes": len(votes) - 1, "needed": len(votes)}
    assert one_of(world.send(world.finalisation(opened.round_id, 0, everyone, result, votes)), RoundFinal)


def test_of_three_members_two_inclusions_and_two_haves_suffice(make_world: WorldMaker) -> None:
    world = make_world(3)
    _, opened = world.study()
    world.commit(opened.round_id, [0, 1])
    world.pass_time(opened.opened_at + 120 + 60)
    world.haves(opened.round_id, 1, {0: 0b011, 1: 0b011})
    world.pass_time(opened.opened_at + 120 + 60 + 40)
    result = world.result(opened.round_id, 0b011)
    sent = world.send(world.finalisation(opened.round_id, 1, 0b011, result, [0, 1]))
    assert one_of(sent, RoundFinal).result.outcome == 1


# --- auditors


def test_an_auditor_announces_what_it_will_open_once(world: World) -> None:
    study, _ = world.study()
    statement = AuditAccess(study, 0, 1, 4, word("ground"))
    signature = sign(statement, world.domains.of(statement), world.auditors[0])
    call = AuditAnnouncement(study, 0, 1, 4, word("ground"), signature)
    assert world.send(call).records == (AuditAccessed(study, 0, 1, 4, word("ground")),)
    with pytest.raises(CallReverted) as again:
        world.send(call)
    assert again.value.error == "AlreadyKnown"
    stranger = sign(statement, world.domains.of(statement), LedgerKey.generate())
    with pytest.raises(CallReverted) as forged:
        world.send(replace(call, to_height=5, signature=stranger))
    assert forged.value.error == "BadSignature"
    with pytest.raises(CallReverted) as no_seat:
        world.send(replace(call, seat=3))
    assert (no_seat.value.error, no_seat.value.operands) == ("NoSuchSeat", {"seat": 3})
    with pytest.raises(CallReverted) as no_range:
        world.send(replace(call, from_height=0))
    assert no_range.value.error == "BadRange"


def test_a_member_opens_a_study_to_an_auditor_once_and_for_its_own_study(world: World) -> None:
    study, _ = world.study()

    def opening(member: int, seat: int, of: Digest, signer: int) -> AuditOpening:
        return AuditOpening(member, seat, of, world.sign(signer, OpenAudit(member, seat, of)))

    def refused(call: AuditOpening) -> tuple[str, dict[str, Any]]:
        with pytest.raises(CallReverted) as caught:
            world.send(call)
        return caught.value.error, caught.value.operands

    before = world.ledger.accumulators()[0]
    opened = one_of(world.send(opening(1, 0, study, 1)), AuditOpened)
    assert opened == AuditOpened(1, 0, study)
    assert world.ledger.accumulators()[0] == accumulate(before, opened)
    assert refused(opening(1, 0, study, 1)) == ("AuditOpenedBefore", {"member": 1, "seat": 0, "study": study})
    assert refused(opening(2, 0, study, 1))[0] == "BadSignature"
    assert refused(opening(2, 4, study, 2)) == ("NoAuditor", {"seat": 4})
    assert refused(opening(31, 0, study, 1)) == ("NotActive", {"index": 31})


def test_results_chain_round_by_round(world: World) -> None:
    _, opened = world.study()
    for _ in range(3):
        opened = one_of(world.finish(opened.round_id), RoundOpened)
    rounds, finals = world.all(RoundOpened), world.all(RoundFinal)
    assert [one.height for one in rounds] == [1, 2, 3, 4]
    assert all(
        later.parent_result
        == lineage(earlier.parent_result, link(final.height, final.result.model_root, final.result_hash))
        for (earlier, later), final in zip(pairwise(rounds), finals, strict=True)
    )
