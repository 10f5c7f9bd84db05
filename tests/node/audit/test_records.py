from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from crypto.digest import Digest
from crypto.keys import LedgerKey
from node.audit.home import Fault
from node.audit.records import RULES, Chain, observe
from node.audit.verify import CHECKS
from node.errors import NotFound
from node.memory.ledger import MemoryLedger, memory_contracts
from node.records import (
    ZERO,
    BranchCreated,
    Committed,
    ErasureClosed,
    ErasureConfirmed,
    ErasureExtended,
    ErasureOpened,
    ErasurePlanned,
    ErasureStepped,
    EvidenceAttested,
    FormRegistered,
    HavePosted,
    Ledger,
    Logged,
    ReplayGivenUp,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyCreated,
    VerdictsGiven,
)
from tests.node.ledger import test_consent, test_erasure, test_rounds
from tests.node.ledger.world import World, founding, word

START = 1_800_000_000
ELSEWHERE = "results"  # the worlds of the ledger's suite vote on models, trust and accumulators that nobody computed


def make_world(n: int = 4) -> World:
    keys = [LedgerKey.generate() for _ in range(n)]
    auditor = LedgerKey.generate()
    now = [START]
    members, auditors = founding(keys, [auditor], memory_contracts())
    ledger = MemoryLedger(members, auditors, clock=lambda: now[0])

    def advance(seconds: int) -> None:
        now[0] = max(now[0], ledger.head().timestamp) + seconds

    return World(ledger, keys, [auditor], advance)


def fold(ledger: Ledger, logged: Iterable[Logged]) -> dict[str, Fault]:
    chain, found = Chain(ledger.contracts, ledger.block_hash), dict[str, Fault]()
    for one in logged:
        observe(chain, one, found)
    return found


def erasure_world() -> World:
    world = make_world()
    test_erasure.test_an_erasure_from_plan_to_close(world)
    return world


SCENARIOS: list[Callable[[World], Any]] = [
    test_erasure.test_an_erasure_from_plan_to_close,
    test_erasure.test_purges_count_once_and_junk_harms_only_itself,
    test_erasure.test_a_replay_that_nobody_trains_ends_at_its_checkpoint,
    test_erasure.test_a_replay_is_given_up_with_the_model_it_has,
    test_erasure.test_a_removed_hospital_holds_up_no_plan,
    test_erasure.test_a_removed_hospital_closes_what_it_has_deleted,
    test_erasure.test_a_consent_never_included_needs_no_replay,
    test_erasure.test_a_batch_is_requested_by_a_relay_and_authorised_by_its_controller,
    test_erasure.test_one_plan_a_study_at_a_time,
    test_erasure.test_an_auditor_attests_evidence_once_for_each_level,
    test_erasure.test_where_nothing_was_replayed_no_replay_was_repeated,
    test_erasure.test_evidence_is_signed_by_an_auditor_of_the_study_in_its_term,
    test_rounds.test_attempt_one_decides_over_what_f_plus_one_members_hold,
    test_rounds.test_without_enough_haves_the_next_attempt_starts_at_once_with_doubled_windows,
    test_rounds.test_after_three_attempts_the_round_fails_and_the_next_keeps_the_parent,
    test_rounds.test_too_few_commitments_fail_the_round_before_anything_is_revealed,
    test_rounds.test_a_round_past_its_age_can_only_fail,
    test_rounds.test_who_misses_rounds_in_a_row_is_not_waited_for_and_still_votes,
    test_rounds.test_whose_blobs_were_unavailable_misses_the_round,
    test_rounds.test_too_few_included_is_an_agreed_no_result_that_keeps_the_model,
    test_rounds.test_a_member_that_leaves_is_asked_until_the_round_ends,
    test_rounds.test_a_removed_member_is_asked_until_the_round_ends,
    test_rounds.test_results_chain_round_by_round,
    test_consent.test_a_form_is_registered_with_all_its_fields,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__.removeprefix("test_"))
def test_what_the_contracts_take_the_audit_takes(scenario: Callable[[World], Any]) -> None:
    world = make_world()
    scenario(world)
    found = fold(world.ledger, world.logged())
    found.pop(ELSEWHERE, None)
    assert not found, {name: str(fault) for name, fault in found.items()}


@pytest.fixture(scope="module")
def erased() -> World:
    return erasure_world()


@pytest.fixture(scope="module")
def given_up() -> World:
    world = make_world()
    test_erasure.test_a_replay_that_nobody_trains_ends_at_its_checkpoint(world)
    return world


@pytest.fixture(scope="module")
def attempted() -> World:
    world = make_world()
    test_rounds.test_attempt_one_decides_over_what_f_plus_one_members_hold(world)
    return world


@pytest.fixture(scope="module")
def failed() -> World:
    world = make_world()
    test_rounds.test_too_few_commitments_fail_the_round_before_anything_is_revealed(world)
    return world


@pytest.fixture(scope="module")
def formed() -> World:
    world = make_world()
    test_consent.test_a_form_is_registered_with_all_its_fields(world)
    return world


def changed(logged: list[Logged], kind: type, change: Callable[[Any], Any]) -> list[Logged]:
    """The same records with the last of a kind changed."""
    place = max(i for i, one in enumerate(logged) if isinstance(one.record, kind))
    return [*logged[:place], replace(logged[place], record=change(logged[place].record)), *logged[place + 1 :]]


# world | record | change | check that finds it
TAMPERED: list[tuple[str, type, Callable[[Any], Any], str]] = [
    ("erased", RoundOpened, lambda r: replace(r, consent_acc=word("other")), "accumulators"),
    ("erased", RoundOpened, lambda r: replace(r, membership_acc=word("other")), "accumulators"),
    ("erased", StudyCreated, lambda r: replace(r, terms=replace(r.terms, rounds=21)), "identities"),
    ("formed", FormRegistered, lambda r: replace(r, purposes=r.purposes ^ 1), "identities"),
    ("erased", ErasureOpened, lambda r: replace(r, due_at=r.due_at + 1), "identities"),
    ("erased", BranchCreated, lambda r: replace(r, base_model=word("other")), "identities"),
    ("erased", RoundOpened, lambda r: replace(r, parent_model=word("other")), "rounds-opened"),
    ("erased", RoundOpened, lambda r: replace(r, suspended=1), "rounds-opened"),
    ("erased", RoundOpened, lambda r: replace(r, previous_block=word("other")), "rounds-opened"),
    ("erased", RoundOpened, lambda r: replace(r, quorum=2), "rounds-opened"),
    ("erased", Committed, lambda r: replace(r, member=9), "phases"),
    ("attempted", HavePosted, lambda r: replace(r, attempt=2), "phases"),
    ("attempted", RoundFinal, lambda r: replace(r, attempt=2), "phases"),
    ("erased", ErasureStepped, lambda r: replace(r, first=4), "erasure-steps"),
    ("erased", ErasureExtended, lambda r: replace(r, due_at=r.due_at + 61 * 86_400), "erasure-steps"),
    ("erased", ErasurePlanned, lambda r: replace(r, base_height=0), "erasure-steps"),
    ("erased", ErasurePlanned, lambda r: replace(r, method=0), "erasure-steps"),
    ("erased", ErasurePlanned, lambda r: replace(r, method=6), "erasure-steps"),
    ("erased", ErasurePlanned, lambda r: replace(r, method=99), "erasure-steps"),
    ("erased", ErasurePlanned, lambda r: replace(r, rounds=r.rounds + 1), "erasure-steps"),
    ("erased", VerdictsGiven, lambda r: replace(r, members=r.members | 8), "erasure-steps"),
    ("erased", VerdictsGiven, lambda r: replace(r, head_model=word("other")), "erasure-steps"),
    ("given_up", ReplayGivenUp, lambda r: replace(r, model=word("other")), "erasure-steps"),
    ("given_up", VerdictsGiven, lambda r: replace(r, head_model=word("other")), "erasure-steps"),
    ("erased", ErasureConfirmed, lambda r: replace(r, head_model=word("other")), "erasure-steps"),
    ("erased", ErasureClosed, lambda r: replace(r, exceptions=0), "erasure-steps"),
    ("erased", EvidenceAttested, lambda r: replace(r, level=2), "erasure-steps"),
    ("erased", EvidenceAttested, lambda r: replace(r, seat=1), "erasure-steps"),
    ("erased", EvidenceAttested, lambda r: replace(r, evidence=ZERO), "erasure-steps"),
]


@pytest.mark.parametrize("world, kind, change, name", TAMPERED)
def test_a_record_the_contracts_would_refuse_is_found(
    request: pytest.FixtureRequest, world: str, kind: type, change: Callable[[Any], Any], name: str
) -> None:
    made: World = request.getfixturevalue(world)
    found = fold(made.ledger, changed(made.logged(), kind, change))
    assert name in found
    assert found[name].expected != found[name].got


def test_a_failure_before_its_time_is_found(failed: World) -> None:
    logged = [
        replace(one, timestamp=one.timestamp - 3600) if isinstance(one.record, RoundFailed) else one
        for one in failed.logged()
    ]
    assert fold(failed.ledger, logged)["phases"].got == "training"


def test_a_round_of_a_line_that_was_left_is_found(erased: World) -> None:
    logged = erased.logged()
    place = next(i for i, one in enumerate(logged) if isinstance(one.record, BranchCreated))
    last = max(i for i, one in enumerate(logged[:place]) if isinstance(one.record, RoundOpened))
    early = replace(logged[place], position=replace(logged[last - 1].position, entry=9))
    moved = [*logged[:last], early, *logged[last:place], *logged[place + 1 :]]
    found = fold(erased.ledger, moved)["rounds-opened"]
    assert (found.what, found.expected, found.got) == ("branch", "1", "0")


def test_a_replay_that_is_given_up_too_early_is_found(given_up: World) -> None:
    logged = given_up.logged()
    place = next(i for i, one in enumerate(logged) if isinstance(one.record, ReplayGivenUp))
    first = next(i for i, one in enumerate(logged) if isinstance(one.record, RoundOpened) and one.record.branch == 1)
    early = replace(logged[place], position=replace(logged[first].position, entry=1))
    moved = [*logged[: first + 1], early, *logged[first + 1 : place], *logged[place + 1 :]]
    assert "3 heights without a model" in str(fold(given_up.ledger, moved)["erasure-steps"])


def test_a_verdict_about_a_replay_that_goes_on_is_found(given_up: World) -> None:
    logged = [one for one in given_up.logged() if not isinstance(one.record, ReplayGivenUp)]
    assert "a replay that has ended" in str(fold(given_up.ledger, logged)["erasure-steps"])


def test_a_round_that_nobody_opened_ends_the_fold_with_its_place(erased: World) -> None:
    logged = [one for one in erased.logged() if not isinstance(one.record, RoundOpened)]
    with pytest.raises(Fault) as fault:
        fold(erased.ledger, logged)
    assert fault.value.what == "record"
    assert fault.value.where.startswith("block ")


def test_a_block_before_an_opening_that_is_not_kept_is_found(erased: World) -> None:
    def nothing(number: int) -> Digest:
        raise NotFound(f"no block {number}")

    found: dict[str, Fault] = {}
    chain = Chain(erased.ledger.contracts, nothing)
    for one in erased.logged():
        observe(chain, one, found)
    assert found["rounds-opened"].what == "previous block"


def test_every_rule_has_a_name_that_the_audit_reports() -> None:
    assert {name for name, _, _ in RULES} <= {name for name, _, _ in CHECKS}
