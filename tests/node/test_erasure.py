"""The erasure machine: which act is due when, the plan as a function of the chain, and what a plan condemns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.digest import ZERO, Digest, hash_words, keccak256
from crypto.statements import CreateStudy
from fl_engine.unlearning import UNLEARNERS
from fl_engine.unlearning import Claim as Level
from node import methods
from node.erasure import (
    AGAIN_S,
    GATHER_S,
    LEVEL_LOCAL_REPLAY,
    RELAY_S,
    RULES,
    STAND_IN_S,
    STATES,
    Act,
    Checkpoint,
    Done,
    Erasure,
    Facts,
    Failed,
    Looked,
    PlanTerms,
    State,
    checkpoint_of,
    claims,
    doomed_models,
    doomed_rounds,
    excluded_from,
    exclusion_evidence,
    has_turn,
    influenced_from,
    inventory,
    is_overdue,
    may_be_planned,
    method_of,
    openers_of,
    out_of_use_at,
    plan_of,
    questions,
    rank_of,
    roster_of,
    sentences,
    state_of,
    target_of,
    verdicts_needed,
)
from node.errors import Refused
from node.history import ErasureHistory, History
from node.records import (
    BranchCreated,
    Committed,
    ErasureAuthorised,
    ErasureClosed,
    ErasureConfirmed,
    ErasureOpened,
    ErasurePlanned,
    ErasureRefused,
    ErasureStepped,
    HeadMoved,
    Joined,
    Logged,
    MemberAdmitted,
    MemberRemoved,
    Position,
    PurgesAttested,
    Record,
    ReplayGivenUp,
    Result,
    RoundFailed,
    RoundFinal,
    RoundOpened,
    StudyCreated,
    VerdictsGiven,
    Withdrawn,
)
from tests.fakes.network import spec

STUDY = keccak256(b"study")
BATCH = keccak256(b"batch")
CONSENT = keccak256(b"consent")
TERMS = CreateStudy(
    0, keccak256(b"spec"), keccak256(b"w0"), 15, 9, 1, 0, 40, 4, 12, 16, 12, 12, 2, 3, 9999, 0
)  # fmt: skip


def model(branch: int, height: int) -> Digest:
    return keccak256(f"model {branch} {height}".encode())


class Chain:
    """A chain made by hand: every record is a block, ten seconds after the one before."""

    def __init__(self, members: int = 4) -> None:
        self.history, self.block = History(), 0
        for index in range(members):
            address = bytes([index + 1]) * 20
            self.add(MemberAdmitted(index, address, bytes([index]), bytes(32), f"hospital-{index}", 1))
        self.add(StudyCreated(STUDY, 0, TERMS))
        for index in range(members):
            self.add(Joined(STUDY, index))

    @property
    def now(self) -> int:
        return 1000 + 10 * self.block

    def add(self, record: Record) -> None:
        self.block += 1
        at = Position(self.block, 0)
        self.history.apply(Logged(at, keccak256(bytes([self.block])), self.now, ZERO, record))

    def open(self, branch: int, height: int) -> Digest:
        number = keccak256(f"round {branch} {height}".encode())
        self.add(
            RoundOpened(number, STUDY, branch, height, ZERO, ZERO, 1, 15, 0, 1, 3, ZERO, ZERO, ZERO, self.now + 10)
        )
        return number

    def round(self, branch: int, height: int, included: int = 15, outcome: int = 1) -> Digest:
        number = self.open(branch, height)
        self.end(number, branch, height, included, outcome)
        return number

    def end(self, number: Digest, branch: int, height: int, included: int = 15, outcome: int = 1) -> None:
        for member in range(4):
            self.add(Committed(number, member, number, number, ZERO))
        root = (
            model(branch, height) if outcome == 1 else self.history.studies[STUDY].branches[branch].models[height - 1]
        )
        result = Result(outcome, included, 0, root, b"", ZERO, ZERO)
        self.add(RoundFinal(number, STUDY, branch, height, 0, result, ZERO, 15))

    def fail(self, branch: int, height: int) -> Digest:
        number = self.open(branch, height)
        self.add(RoundFailed(number, STUDY, branch, height, 1))
        return number

    def request(self, batch: Digest = BATCH, controller: int = 1, poster: int = 1, consent: Digest = CONSENT) -> None:
        self.add(Withdrawn(consent, self.now + 10))
        self.add(ErasureOpened(batch, STUDY, controller, poster, ZERO, self.now + 1000, self.now + 10))

    def steps(self, *steps: int, batch: Digest = BATCH) -> None:
        for step in steps:
            self.add(ErasureStepped(batch, step, (keccak256(bytes([step])),)))

    def plan(self, terms: PlanTerms, batch: Digest = BATCH) -> ErasurePlanned:
        study = self.history.studies[STUDY]
        branch = study.active_branch
        if terms.target_height != terms.base_height:
            branch += 1
            self.add(
                BranchCreated(
                    STUDY,
                    branch,
                    terms.parent_branch,
                    terms.base_height,
                    terms.base_model,
                    ZERO,
                    terms.branch_seed,
                    terms.target_height,
                    batch,
                )
            )
        planned = ErasurePlanned(
            batch, STUDY, branch, terms.parent_branch, terms.base_height, terms.base_model, terms.branch_seed,
            terms.target_height, terms.method, terms.rounds,
        )  # fmt: skip
        self.add(planned)
        return planned

    def erasure(self, batch: Digest = BATCH) -> ErasureHistory:
        return self.history.erasures[batch]


# --------------------------------------------------------------------------------------------------------------------
# The plan


def trained(heights: int = 4) -> tuple[Chain, list[Digest]]:
    chain = Chain()
    rounds = [chain.round(0, height) for height in range(1, heights + 1)]
    chain.request()
    chain.steps(1, 2)
    return chain, rounds


def test_the_base_is_the_newest_model_before_the_first_included_use() -> None:
    chain, rounds = trained()
    uses = dict.fromkeys(rounds, True) | {rounds[0]: False, rounds[1]: False}
    plan = plan_of(chain.history, chain.erasure(), uses)
    assert plan is not None
    assert (plan.parent_branch, plan.base_height, plan.base_model, plan.target_height) == (0, 2, model(0, 2), 4)
    opened = chain.erasure().marks["requested"].block_hash
    assert plan.branch_seed == hash_words("branch", BATCH, opened)


def test_a_use_in_the_first_round_leads_back_to_the_initial_model() -> None:
    chain, rounds = trained()
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True))
    assert plan is not None
    assert (plan.base_height, plan.base_model) == (0, TERMS.initial_model)


def test_a_consent_in_no_included_set_needs_no_replay() -> None:
    chain, rounds = trained()
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, False))
    assert plan is not None
    assert (plan.parent_branch, plan.base_height, plan.base_model, plan.target_height) == (0, 4, model(0, 4), 4)


def test_a_use_that_was_not_included_or_made_no_model_does_not_count() -> None:
    chain = Chain()
    first = chain.round(0, 1, included=0b1101)  # the hospital's update did not get in
    void = chain.round(0, 2, outcome=2)
    third = chain.round(0, 3)
    failed = chain.fail(0, 4)
    chain.request()
    chain.steps(1, 2)
    assert [one.opened.round_id for one in questions(chain.history, chain.erasure()) or []] == [third]
    plan = plan_of(chain.history, chain.erasure(), {first: True, void: True, failed: True, third: False})
    assert plan is not None
    assert (plan.base_height, plan.target_height) == (3, 3)


def test_without_an_answer_for_every_round_that_counts_there_is_no_plan() -> None:
    chain, rounds = trained()
    assert plan_of(chain.history, chain.erasure(), {rounds[0]: True}) is None


def test_the_target_waits_for_the_rounds_that_ran_when_the_copy_went_and_for_no_later_one() -> None:
    chain = Chain()
    chain.round(0, 1)
    running = chain.open(0, 2)
    chain.request()
    chain.steps(1, 2)
    assert target_of(chain.history, chain.erasure()) is None
    assert questions(chain.history, chain.erasure()) is None
    chain.end(running, 0, 2)
    assert target_of(chain.history, chain.erasure()) == 2
    chain.open(0, 3)
    assert target_of(chain.history, chain.erasure()) == 2


def test_a_second_erasure_forks_from_the_line_that_trains_now_back_to_before_its_own_use() -> None:
    chain, rounds = trained()
    first = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True) | {rounds[0]: False, rounds[1]: False})
    assert first is not None
    other = keccak256(b"other")
    chain.request(other, controller=2, poster=2, consent=keccak256(b"other consent"))
    chain.steps(1, 2, batch=other)
    assert has_turn(chain.history, chain.erasure(other))
    chain.plan(first)
    assert not has_turn(chain.history, chain.erasure(other))
    replay = [chain.round(1, height) for height in (3, 4)]
    chain.add(ErasureConfirmed(BATCH, 1, model(1, 4)))
    chain.add(HeadMoved(BATCH, STUDY, 1))
    assert has_turn(chain.history, chain.erasure(other))
    asked = [one.opened.round_id for one in questions(chain.history, chain.erasure(other)) or []]
    assert asked == rounds[:2], "the old line's later rounds are not on this ancestry, the replay came after"
    plan = plan_of(chain.history, chain.erasure(other), dict.fromkeys(rounds, True))
    assert plan is not None
    assert (plan.parent_branch, plan.base_height, plan.target_height) == (0, 0, 2)
    planned = chain.plan(plan, other)
    doomed = [one.opened.round_id for one in doomed_rounds(chain.history, planned)]
    assert doomed == [*rounds, *replay], "the first replay descends from a model that knows the second consent"


# --------------------------------------------------------------------------------------------------------------------
# What a plan condemns


@pytest.mark.parametrize("base", [0, 2])
def test_a_replay_from_the_same_checkpoint_is_doomed_with_the_line_it_replaced(base: int) -> None:
    """Its hospitals trained on the second patient's records as they had before."""
    chain, rounds = trained()
    old = dict.fromkeys(rounds[base:], True) | dict.fromkeys(rounds[:base], False)
    first = plan_of(chain.history, chain.erasure(), old)
    assert first is not None
    chain.plan(first)
    replay = [chain.round(1, height) for height in range(base + 1, 5)]
    other = keccak256(b"other")
    chain.request(other, controller=2)
    chain.steps(1, 2, batch=other)
    plan = plan_of(chain.history, chain.erasure(other), old | dict.fromkeys(replay, True))
    assert plan is not None
    assert (plan.parent_branch, plan.base_height) == (0, base)
    planned = chain.plan(plan, other)
    assert [one.opened.round_id for one in doomed_rounds(chain.history, planned)] == [*rounds[base:], *replay]
    assert {model(1, height) for height in range(base + 1, 5)} <= doomed_models(chain.history, planned)


def test_rounds_after_the_base_and_their_models_are_doomed_failed_and_running_ones_too() -> None:
    chain, rounds = trained()
    failed = chain.fail(0, 5)
    running = chain.open(0, 6)
    uses = dict.fromkeys(rounds, True) | {rounds[0]: False}
    plan = plan_of(chain.history, chain.erasure(), uses)
    assert plan is not None
    planned = chain.plan(plan)
    assert [one.opened.round_id for one in doomed_rounds(chain.history, planned)] == [*rounds[1:], failed, running]
    assert doomed_models(chain.history, planned) == {model(0, 2), model(0, 3), model(0, 4)}
    chain.end(running, 0, 6)
    assert model(0, 6) in doomed_models(chain.history, planned)


def test_a_model_that_a_clean_round_also_made_stays() -> None:
    chain = Chain()
    first = chain.round(0, 1)
    void = chain.round(0, 2, outcome=2)  # its model root is the one of round 1
    third = chain.round(0, 3)
    chain.request()
    chain.steps(1, 2)
    planned = chain.plan(PlanTerms(0, 1, model(0, 1), ZERO, 3, 1, 1))
    assert [one.opened.round_id for one in doomed_rounds(chain.history, planned)] == [void, third]
    assert doomed_models(chain.history, planned) == {model(0, 3)}
    assert first not in {one.opened.round_id for one in doomed_rounds(chain.history, planned)}


def test_a_plan_without_replay_condemns_no_round() -> None:
    chain, _ = trained()
    planned = chain.plan(PlanTerms(0, 4, model(0, 4), ZERO, 4, 0, 0))
    assert doomed_rounds(chain.history, planned) == []


def test_an_inventory_does_not_depend_on_the_order_of_the_tombstones() -> None:
    stones = [(keccak256(bytes([i])), 1, BATCH) for i in range(5)]
    assert inventory(stones) == inventory(list(reversed(stones)))
    assert inventory(stones) != inventory(stones[1:])


# --------------------------------------------------------------------------------------------------------------------
# Verdicts, exclusion, states


def test_verdicts_are_about_the_first_model_with_as_many_rounds_as_the_target_had() -> None:
    chain, rounds = trained()
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True) | {rounds[0]: False, rounds[1]: False})
    assert plan is not None
    planned = chain.plan(plan)
    chain.round(1, 3)
    assert checkpoint_of(chain.history, planned) is None
    chain.fail(1, 4)
    chain.round(1, 5, outcome=1)
    found = checkpoint_of(chain.history, planned)
    assert found is not None
    assert (found.branch, found.height, found.model) == (1, 5, model(1, 5))
    assert [one.opened.height for one in found.rounds] == [3, 5]
    chain.round(1, 6)
    assert checkpoint_of(chain.history, planned) == found


def test_a_method_of_fewer_rounds_stands_for_all_of_them_and_then_the_study_trains_on() -> None:
    chain, rounds = trained(heights=6)
    uses = dict.fromkeys(rounds, True)
    terms = plan_of(chain.history, chain.erasure(), uses, UNLEARNERS["rapid"])
    assert terms is not None
    assert (terms.base_height, terms.target_height, terms.method, terms.rounds) == (0, 6, 3, 2)
    planned = chain.plan(terms)
    branch = chain.history.studies[STUDY].branches[1]
    assert branch.finals == chain.history.finals_at(STUDY, 1, 0) == 4, "two rounds do what six did"
    made = [chain.round(1, 1), chain.fail(1, 2), chain.round(1, 3), chain.round(1, 4)]
    found = checkpoint_of(chain.history, planned)
    assert found is not None
    assert (found.height, found.model) == (3, model(1, 3))
    assert branch.finals == 7
    of = [method_of(chain.history, chain.history.rounds[one]) for one in [*rounds, *made]]
    assert of == [None] * 6 + [UNLEARNERS["rapid"]] * 3 + [None]
    # an erasure of these rounds by rollback trains all of the study again, not only as many rounds as there are
    other = keccak256(b"another batch")
    chain.request(other)
    chain.steps(1, 2, batch=other)
    again = plan_of(chain.history, chain.erasure(other), uses | dict.fromkeys(made, True))
    assert again is not None
    assert (again.parent_branch, again.base_height, again.target_height, again.rounds) == (0, 0, 4, 7)


@pytest.mark.parametrize("name", ["mode", "ascent", "puf", "fcu"])
def test_no_plan_follows_by_a_method_that_members_cannot_carry_out(name: str) -> None:
    chain, rounds = trained()
    with pytest.raises(Refused, match=f"no erasure by {name}: it "):
        plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True), UNLEARNERS[name])


@pytest.mark.parametrize(
    "evidence, refused",
    [
        (["L2"], {"federaser": "show L2"}),
        (["L2", "L4"], {"federaser": "show L2"}),
        (["L4"], {}),
        ([], {}),
    ],
)
def test_a_study_that_asks_for_what_a_method_can_never_show_bars_it(
    evidence: list[str], refused: dict[str, str]
) -> None:
    study = spec(evidence=evidence)
    for name in ("rollback", "rapid", "federaser"):
        if name in refused:
            with pytest.raises(Refused, match=f"by {name}: it is approximate and can never {refused[name]}"):
                methods.find(name, study)
        else:
            assert methods.find(name, study).name == name


@pytest.mark.parametrize(
    "training, barred",
    [
        ({"method": "fedavg"}, {"ridge": "needs a study whose model is a ridge head"}),
        (
            {"method": "ridge", "noise": 0.5},
            {"rapid": "changes how steps are taken", "federaser": "changes how steps are taken"},
        ),
    ],
)
def test_a_way_of_training_has_its_methods(training: dict[str, object], barred: dict[str, str]) -> None:
    study = spec(evidence=["L4"], training=training)
    for name in ("rollback", "rapid", "federaser", "ridge"):
        why = methods.barred(UNLEARNERS[name], study)
        assert (why is None) == (name not in barred)
        assert why is None or why.startswith(barred[name])


def test_a_plan_by_lengths_takes_every_second_round_and_knows_which_it_stands_for() -> None:
    chain, rounds = trained()
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True), UNLEARNERS["federaser"])
    assert plan is not None
    assert (plan.method, plan.rounds) == (5, -(-plan.target_height // 2))


@pytest.mark.parametrize("method, back_to", [("federaser", 2), ("rapid", None), ("rollback", None)])
def test_behind_an_approximate_replay_nobody_who_was_in_what_it_replaced_is_taken_for_unused(
    method: str, back_to: int | None
) -> None:
    """The lengths of its updates may be in the new line, whatever its sets on that line say."""
    chain, rounds = trained()
    uses = dict.fromkeys(rounds[2:], True) | dict.fromkeys(rounds[:2], False)
    plan = plan_of(chain.history, chain.erasure(), uses, UNLEARNERS[method])
    assert plan is not None
    assert (plan.base_height, plan.target_height) == (2, 4)
    chain.plan(plan)
    made = [chain.round(1, height) for height in range(3, 3 + plan.rounds)]
    newest = max(chain.history.studies[STUDY].branches[1].rounds)
    assert influenced_from(chain.history, STUDY, 1, newest, 2) == (None if back_to is None else back_to + 1)
    assert influenced_from(chain.history, STUDY, 0, 4, 2) is None, "the line before it was trained"
    assert influenced_from(chain.history, STUDY, 1, 2, 2) is None, "and so was the base"

    other = keccak256(b"another hospital's batch")
    chain.request(other, controller=2)
    chain.steps(1, 2, batch=other)
    nowhere = dict.fromkeys([*rounds, *made], False)
    again = plan_of(chain.history, chain.erasure(other), nowhere)
    assert again is not None
    if back_to is None:
        assert (again.method, again.base_height) == (0, newest)
    else:
        assert (again.method, again.parent_branch, again.base_height) == (1, 0, back_to)
        planned = chain.plan(again, other)
        assert {model(1, height) for height in range(3, newest + 1)} <= doomed_models(chain.history, planned)


@pytest.mark.parametrize("method", ["rollback", "sharded", "federaser"])
def test_what_is_taken_over_after_a_record_went_out_of_use_has_to_go_as_well(method: str) -> None:
    """Asked for at once: the second copy is gone before the first replay opens a round, in which nobody declares it."""
    chain, rounds = trained()
    uses = dict.fromkeys(rounds, True)
    other = keccak256(b"another batch")
    terms = plan_of(chain.history, chain.erasure(), uses, UNLEARNERS[method])
    assert terms is not None
    chain.plan(terms)
    chain.request(other, controller=2, poster=2)
    chain.steps(1, 2, batch=other)
    takes_over = method != "rollback"
    assert target_of(chain.history, chain.erasure(other)) == (None if takes_over else 0), (
        "it is known when it caught up"
    )
    for height in range(1, terms.rounds + 1):
        chain.round(1, height)
    assert target_of(chain.history, chain.erasure(other)) == (terms.rounds if takes_over else 0)
    assert questions(chain.history, chain.erasure(other)) == [], "no set of these can hold it"
    plan = plan_of(chain.history, chain.erasure(other), {})
    assert plan is not None
    assert (plan.base_height, plan.method) == (0, 1 if takes_over else 0)
    assert plan.rounds == (4 if takes_over else 0)


def test_who_was_in_nothing_that_an_approximate_replay_replaced_is_not_in_its_lengths() -> None:
    chain = Chain()
    rounds = [chain.round(0, height, included=0b1011) for height in (1, 2)]
    chain.request()
    chain.steps(1, 2)
    plan = plan_of(chain.history, chain.erasure(), dict.fromkeys(rounds, True), UNLEARNERS["federaser"])
    assert plan is not None
    chain.plan(plan)
    chain.round(1, 1)
    assert [influenced_from(chain.history, STUDY, 1, 1, member) for member in range(4)] == [1, 1, None, 1]


def test_every_method_has_its_number_and_only_approximate_ones_lack_the_sentence_of_an_exact_one() -> None:
    assert list(methods.NUMBERS) == list(UNLEARNERS)
    assert len(set(methods.NUMBERS.values()) | {methods.NOTHING}) == len(UNLEARNERS) + 1
    for name, number in methods.NUMBERS.items():
        found = sentences(
            hospital="h", study_name="s", first_height=1, batch=BATCH, requests_root=ZERO, excluded=ZERO,
            base_model=ZERO, head_model=BATCH, branch=1, method=number, confirmed=2, others=3, purged={}, members=4,
            attested={(LEVEL_LOCAL_REPLAY, "a, seat 0"): ZERO, (LEVEL_LOCAL_REPLAY, "b, seat 1"): ZERO},
        )  # fmt: skip
        shown = [one for one in found if one.level == "L2"]
        assert bool(shown) == (Level.L2 in UNLEARNERS[name].claims)
        assert all(f"by the exact unlearning method {name}" in one.sentence for one in shown)
        own = [one for one in found if one.level == "L2~"]
        assert bool(own) == (Level.L2_APPROXIMATE in UNLEARNERS[name].claims)
        assert all(f"by the APPROXIMATE unlearning method {name}" in one.sentence for one in own)
        assert all("promises neither" in one.does_not_show for one in own)
        repeated = [one.sentence for one in found if one.level == "L3"]
        assert bool(repeated) == (Level.L3 in UNLEARNERS[name].claims), "whatever an auditor signs"
        assert all(
            one.startswith("By the signed word of 2 auditors (a, seat 0, b, seat 1): In every") for one in repeated
        )
        assert not any(one.level == "L4" for one in found), "nobody attested an attack"


@pytest.mark.parametrize(
    "n, others, f, needed",
    [(2, 1, 0, 1), (3, 2, 0, 1), (4, 3, 1, 2), (5, 4, 1, 3), (7, 6, 2, 4), (10, 9, 3, 6)],
)
def test_all_others_but_the_faulty_confirm_and_below_four_members_one(n: int, others: int, f: int, needed: int) -> None:
    assert verdicts_needed(n, others, f) == needed


def test_exclusion_waits_for_the_withdrawal_and_for_the_rounds_it_met() -> None:
    chain = Chain()
    chain.round(0, 1)
    running = chain.open(0, 2)
    assert exclusion_evidence(chain.history, STUDY, (CONSENT,)) is None
    assert excluded_from(chain.history, STUDY, (CONSENT,)) is None
    chain.add(Withdrawn(CONSENT, chain.now))
    assert exclusion_evidence(chain.history, STUDY, (CONSENT,)) is None
    assert excluded_from(chain.history, STUDY, (CONSENT,)) == 3, "the running round may be the recorded last use"
    chain.end(running, 0, 2)
    evidence = exclusion_evidence(chain.history, STUDY, (CONSENT,))
    assert evidence is not None
    chain.round(0, 3)
    assert exclusion_evidence(chain.history, STUDY, (CONSENT,)) == evidence, "later rounds do not change it"
    assert excluded_from(chain.history, STUDY, (CONSENT,)) == 3


def test_every_state_is_reached_and_shown_in_order() -> None:
    chain = Chain()
    chain.round(0, 1)
    chain.request(poster=2)
    seen = []

    def look(*records: Record) -> None:
        for record in records:
            chain.add(record)
        seen.append(state_of(chain.erasure(), chain.history).value)

    look()
    look(ErasureAuthorised(BATCH))
    for step in (1, 2):
        look(ErasureStepped(BATCH, step, (ZERO,)))
    running = chain.open(0, 2)
    chain.plan(PlanTerms(0, 0, TERMS.initial_model, ZERO, 1, 1, 1))
    look()
    chain.end(running, 0, 2)
    look()
    look(VerdictsGiven(BATCH, 1, model(1, 1), 0b0101, 0b0101))
    look(ErasureConfirmed(BATCH, 1, model(1, 1)))
    look(HeadMoved(BATCH, STUDY, 1))
    look(PurgesAttested(BATCH, 15, (ZERO,) * 4))
    look(ErasureStepped(BATCH, 3, (ZERO,)))
    look(ErasureStepped(BATCH, 4, (ZERO,)))
    look(ErasureStepped(BATCH, 5, (ZERO,)), ErasureClosed(BATCH, 0))
    expected = [state.value for state, _ in reversed(STATES)]
    assert list(dict.fromkeys(seen)) == [one for one in expected if one not in ("closed_with_exceptions", "refused")]
    shown = claims(chain.erasure(), chain.history, hospital="hospital-1", study_name="s", first_height=2)
    assert [one.level for one in shown] == ["L0", "L1", "L2", "P"]
    assert "2 of 3 other members" in shown[2].sentence
    assert all(one.does_not_show and one.evidence for one in shown)


def test_a_replay_that_was_given_up_is_confirmed_with_what_it_has_and_its_claim_says_so() -> None:
    chain, _ = trained(3)
    plan = chain.plan(PlanTerms(0, 1, model(0, 1), ZERO, 3, 1, 2))
    for height in (2, 3, 4):
        chain.fail(1, height)
        assert checkpoint_of(chain.history, plan) is None
    chain.add(ReplayGivenUp(STUDY, 1, model(0, 1)))
    for height in (5, 6):
        chain.round(1, height)
    assert checkpoint_of(chain.history, plan) == Checkpoint(1, 1, model(0, 1), ()), "whatever comes after"
    chain.add(ErasureConfirmed(BATCH, 1, model(0, 1)))
    shown = claims(chain.erasure(), chain.history, hospital="hospital-1", study_name="s", first_height=2)
    said = next(one.sentence for one in shown if one.level == "L2")
    assert said.startswith("The replay was given up before a round of it was agreed")
    assert "recomputed" not in said


def test_of_a_hospital_that_was_removed_no_step_is_waited_for() -> None:
    chain = Chain()
    chain.round(0, 1)
    chain.request(poster=2)
    erasure = chain.erasure()
    assert openers_of(chain.history, erasure) == 0b0010
    assert out_of_use_at(chain.history, erasure) is None
    chain.add(MemberRemoved(1, 2))
    removed = chain.now
    assert openers_of(chain.history, erasure) == 0b1101, "whoever knows"
    assert out_of_use_at(chain.history, erasure) == removed
    assert not may_be_planned(chain.history, erasure, (CONSENT,), removed + RELAY_S), "it has its time"
    assert may_be_planned(chain.history, erasure, (CONSENT,), removed + RELAY_S + 1)
    assert not may_be_planned(chain.history, erasure, (BATCH,), removed + RELAY_S + 1), "not withdrawn on the chain"
    assert not may_be_planned(chain.history, erasure, (), removed + RELAY_S + 1), "not known which consent"
    chain.steps(1)
    assert out_of_use_at(chain.history, erasure) == chain.now, "what it still says counts"
    chain.steps(2)
    assert out_of_use_at(chain.history, erasure) == chain.now
    assert may_be_planned(chain.history, erasure, (), chain.now)


def test_a_removed_hospitals_rounds_in_flight_are_part_of_what_is_replaced() -> None:
    chain = Chain()
    chain.round(0, 1)
    running = chain.open(0, 2)
    chain.request(poster=2)
    chain.add(MemberRemoved(1, 2))
    assert target_of(chain.history, chain.erasure()) is None
    chain.end(running, 0, 2)
    assert target_of(chain.history, chain.erasure()) == 2
    chain.round(0, 3)
    assert target_of(chain.history, chain.erasure()) == 2, "its records are in no round that opened later"


def test_a_refused_batch_claims_nothing_and_is_never_overdue() -> None:
    chain = Chain()
    chain.request()
    assert not is_overdue(chain.erasure(), chain.now)
    assert is_overdue(chain.erasure(), chain.now + 2000)
    chain.add(ErasureRefused(BATCH, 5))
    assert state_of(chain.erasure(), chain.history) is State.REFUSED
    assert not is_overdue(chain.erasure(), chain.now + 2000)
    assert claims(chain.erasure(), chain.history, hospital="h", study_name="s", first_height=None) == []


def test_a_close_with_a_silent_member_names_the_exception() -> None:
    chain = Chain()
    chain.request()
    chain.add(ErasureClosed(BATCH, 8))
    assert state_of(chain.erasure(), chain.history) is State.CLOSED_WITH_EXCEPTIONS
    assert roster_of(chain.history, STUDY) == 15


# --------------------------------------------------------------------------------------------------------------------
# The machine

BASE = Facts(State.REQUESTED, 1, 0b1111, 1, 1, took_part=True, purge_end=99)
PLAN = PlanTerms(0, 0, ZERO, ZERO, 2, 1, 2)


def acts(facts: Facts, now: int = 100) -> tuple[Act, ...]:
    return Erasure(BATCH).handle(Looked(facts), now)


@pytest.mark.parametrize(
    "facts, expected",
    [
        (replace(BASE), ()),
        (replace(BASE, requests=True), (Act.AUTHORISE,)),
        (replace(BASE, me=2, requests=True), ()),
        (replace(BASE, state=State.AUTHORISED, requests=True), ()),
        (replace(BASE, state=State.AUTHORISED, requests=True, excluded=True), (Act.EXCLUDE,)),
        (replace(BASE, state=State.EXCLUDED, requests=True), (Act.EXCLUDE,)),
        (
            replace(BASE, state=State.COPY_DELETED, opening=True, shows=True, ready=True, lacking=0b1101),
            (Act.SHARE_OPENING, Act.READ_SETS),
        ),
        (replace(BASE, state=State.COPY_DELETED, me=2, ready=True), ()),
        (replace(BASE, state=State.COPY_DELETED, me=2, opening=True, ready=True), (Act.READ_SETS,)),
        (replace(BASE, state=State.REQUESTED, me=2, opening=True, shows=True, lacking=0b0011), ()),
        (  # a removed hospital had its time: its relay shows the others what the batch is about
            replace(BASE, state=State.REQUESTED, me=2, opening=True, shows=True, ready=True, lacking=0b0011),
            (Act.SHARE_OPENING, Act.READ_SETS),
        ),
        (
            replace(BASE, state=State.REQUESTED, me=2, ready=True, answered=True, has_turn=True, plan=PLAN),
            (Act.VOTE_PLAN,),
        ),
        (
            replace(BASE, state=State.COPY_DELETED, me=2, opening=True, answered=True, has_turn=True, plan=PLAN),
            (Act.VOTE_PLAN,),
        ),
        (replace(BASE, state=State.COPY_DELETED, me=2, opening=True, answered=True, plan=PLAN), ()),
        (
            replace(
                BASE, state=State.COPY_DELETED, answered=True, has_turn=True, plan=PLAN, voted=True, votes=0b0110
            ),
            (Act.GATHER_PLANS,),
        ),
        (
            replace(
                BASE, state=State.COPY_DELETED, answered=True, has_turn=True, plan=PLAN, voted=True, votes=0b0111
            ),
            (Act.POST_PLAN,),
        ),
        (
            replace(
                BASE, state=State.COPY_DELETED, answered=True, has_turn=True, plan=PLAN, voted=True, votes=0b0111,
                window_end=100,
            ),
            (),
        ),
        (replace(BASE, state=State.PLANNED, forks=True, dirty=True, answered=True), ()),
        (replace(BASE, state=State.PLANNED, forks=True, quiet=True, dirty=True, answered=True), (Act.PURGE,)),
        (replace(BASE, state=State.PLANNED, forks=True, quiet=True, answered=True), (Act.ATTEST_PAIR,)),
        (replace(BASE, state=State.REPLAYING, forks=True, quiet=True, pair=0b0010), ()),
        (
            replace(BASE, state=State.REPLAYING, me=2, opening=True, answered=True, caught_up=True, pair=15),
            (Act.GIVE_VERDICT,),
        ),
        (replace(BASE, state=State.REPLAYING, opening=True, answered=True, caught_up=True, pair=15), ()),
        (  # the final attestation is signed with the verdict, and waits for the others'
            replace(BASE, state=State.REPLAYING, quiet=True, answered=True, caught_up=True, unposted=1, pair=15),
            (Act.ATTEST_REST,),
        ),
        (
            replace(
                BASE, state=State.REPLAYING, quiet=True, dirty=True, caught_up=True, unposted=0b1100, verdicts=1,
                rest=2, rest_kept=0b1101, pair=15,
            ),
            (Act.PURGE, Act.POST_VERDICTS),
        ),
        (replace(BASE, state=State.HEAD_MOVED, quiet=True, caught_up=True, rest=0b1101), (Act.ATTEST_REST,)),
        (replace(BASE, state=State.HEAD_MOVED, quiet=True, rest=15, delivered=True), (Act.CLOSE,)),
        (replace(BASE, state=State.CERTIFICATE_DELIVERED, rest=15), ()),
        (replace(BASE, state=State.LINK_DESTROYED, rest=15, delivered=True), (Act.CLOSE,)),
        (replace(BASE, state=State.CLOSED, rest=15, opening=True), (Act.FORGET,)),
        (replace(BASE, state=State.RECIPIENTS_ATTESTED, me=2, rest=15, opening=True), ()),
        (replace(BASE, state=State.RECIPIENTS_ATTESTED, me=2, rest=15, opening=True, unclosed=True), (Act.FORGET,)),
        (replace(BASE, state=State.HEAD_MOVED, quiet=True, rest=15, delivered=True, unclosed=True), ()),
        (
            replace(BASE, state=State.CLOSED_WITH_EXCEPTIONS, me=3, quiet=True, forks=True, rest=7, pair=7, dirty=True),
            (Act.PURGE,),
        ),
        (
            replace(
                BASE, state=State.CLOSED_WITH_EXCEPTIONS, me=3, quiet=True, forks=True, rest=7, pair=7, caught_up=True
            ),
            (Act.ATTEST_PAIR, Act.ATTEST_REST),
        ),
        (replace(BASE, state=State.REFUSED), ()),
        (replace(BASE, state=State.PLANNED, me=None, quiet=True, dirty=True, took_part=False), (Act.PURGE,)),
    ],
)  # fmt: skip
def test_each_row_of_the_rules(facts: Facts, expected: tuple[Act, ...]) -> None:
    assert acts(facts) == expected


def test_every_act_has_a_row() -> None:
    assert {rule.act for rule in RULES} == set(Act)
    assert all(rule.clause for rule in RULES)


def test_an_act_under_way_is_not_asked_for_again_and_a_failed_one_only_later() -> None:
    machine, facts = Erasure(BATCH), replace(BASE, requests=True)
    assert machine.handle(Looked(facts), 100) == (Act.AUTHORISE,)
    assert machine.handle(Looked(facts), 101) == ()
    machine.handle(Failed(Act.AUTHORISE, 110), 102)
    assert machine.handle(Looked(facts), 109) == ()
    assert machine.handle(Looked(facts), 110) == (Act.AUTHORISE,)
    machine.handle(Done(Act.AUTHORISE), 111)
    assert machine.handle(Looked(facts), 111 + AGAIN_S - 1) == ()
    assert machine.handle(Looked(facts), 111 + AGAIN_S) == (Act.AUTHORISE,), "the chain still does not show it"


def test_members_stand_in_for_each_other_in_order() -> None:
    ranks = [rank_of(replace(BASE, me=member)) for member in range(4)]
    assert ranks == [3, 0, 1, 2], "the controller first, then upward in a circle"
    for member in range(4):
        machine = Erasure(BATCH)
        facts = replace(BASE, me=member, state=State.CONFIRMED, rest=15, unposted=0b1101, answered=True)
        wait = STAND_IN_S * ranks[member]
        if wait:
            assert machine.handle(Looked(facts), 100) == ()
            assert machine.handle(Looked(facts), 100 + wait - 1) == ()
        assert machine.handle(Looked(facts), 100 + wait) == (Act.POST_VERDICTS,)


def test_what_several_say_waits_for_who_is_missing_and_then_goes_alone() -> None:
    others = replace(BASE, state=State.REPLAYING, caught_up=True, pair=15, rest=15, judged=True)
    machine = Erasure(BATCH)
    some = replace(others, unposted=0b0001)
    assert machine.handle(Looked(some), 100) == ()
    assert machine.handle(Looked(some), 100 + GATHER_S - 1) == ()
    assert machine.handle(Looked(replace(others, unposted=0b1101)), 101) == (Act.POST_VERDICTS,), "nobody is missing"
    machine.handle(Failed(Act.POST_VERDICTS, 102), 102)
    assert machine.handle(Looked(some), 100 + GATHER_S) == (Act.POST_VERDICTS,), "one is away: the rest goes alone"


def test_a_word_on_the_pair_that_is_missing_is_asked_for_and_holds_nothing_up() -> None:
    machine, some = Erasure(BATCH), replace(BASE, state=State.REPLAYING, forks=True, quiet=True, pair=0b0111)
    assert machine.handle(Looked(some), 100) == ()
    assert machine.handle(Looked(some), 100 + GATHER_S) == (Act.GATHER_PURGES,)
    machine.handle(Done(Act.GATHER_PURGES), 100 + GATHER_S)
    assert machine.handle(Looked(some), 100 + GATHER_S + AGAIN_S) == (Act.GATHER_PURGES,), "until it is here"
    assert Erasure(BATCH).handle(Looked(replace(some, pair=15)), 500) == ()


def test_attestations_that_no_other_call_carries_go_alone_in_turn() -> None:
    late = replace(BASE, state=State.CLOSED_WITH_EXCEPTIONS, rest=7, pair=15, unposted_purges=0b1000)
    for me, wait in ((1, GATHER_S), (2, GATHER_S + STAND_IN_S)):
        machine = Erasure(BATCH)
        assert machine.handle(Looked(replace(late, me=me)), 100) == ()
        assert machine.handle(Looked(replace(late, me=me)), 100 + wait - 1) == ()
        assert machine.handle(Looked(replace(late, me=me)), 100 + wait) == (Act.POST_PURGES,)
    assert acts(replace(late, me=None, took_part=False), 100 + 10 * GATHER_S) == ()
