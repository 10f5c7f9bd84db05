"""UnlearningRegistry's rules and the branches of TrainingLedger, on every ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from crypto.commitments import base_result as branch_start
from crypto.commitments import batch_id
from crypto.digest import Digest
from crypto.keys import LedgerKey
from crypto.statements import (
    Attest,
    Authorise,
    EndAuditor,
    ErasureSteps,
    Extend,
    Leave,
    OpenErasure,
    Plan,
    Purged,
    Refuse,
    Remove,
    Verdict,
    sign,
    struct_hash,
)
from node.erasure import Checkpoint, checkpoint_of
from node.errors import CallReverted
from node.history import History
from node.membership import accumulate
from node.memory.rounds import Phase
from node.memory.unlearning import State
from node.records import (
    ZERO,
    AuditorEnding,
    BaseProof,
    BranchCreated,
    EntrySkipped,
    ErasureAuthorisation,
    ErasureAuthorised,
    ErasureClosed,
    ErasureConfirmed,
    ErasureExtended,
    ErasureExtension,
    ErasureOpened,
    ErasureOpening,
    ErasurePlanned,
    ErasureProgress,
    ErasureRefusal,
    ErasureRefused,
    ErasureStepped,
    EvidenceAttestation,
    EvidenceAttested,
    HeadMoved,
    Leaving,
    Planning,
    PurgeEntry,
    Purges,
    PurgesAttested,
    Removal,
    ReplayGivenUp,
    RoundFailure,
    RoundFinal,
    RoundOpened,
    Sent,
    Steps,
    VerdictEntry,
    Verdicts,
    VerdictsGiven,
)
from tests.node.ledger.conftest import WorldMaker
from tests.node.ledger.world import JUNK, World, kinds, one_of, records_of, word

SEED = word("branch seed")


@dataclass
class Erasure:
    """One batch of a test: its world, study and controller, and the acts on it."""

    world: World
    study: Digest
    controller: int
    poster: int
    due_at: int

    @property
    def statement(self) -> OpenErasure:
        return OpenErasure(self.study, self.controller, self.poster, word("requests"), self.due_at)

    @property
    def opening(self) -> ErasureOpening:
        return ErasureOpening(self.statement, self.world.sign(self.poster, self.statement))

    @property
    def batch(self) -> Digest:
        return batch_id(struct_hash(self.statement))

    def steps(self, *numbers: int, member: int | None = None) -> Steps:
        who = self.controller if member is None else member
        evidence = tuple(word(f"evidence {number}") for number in numbers)
        signature = self.world.sign(who, ErasureSteps(self.batch, who, numbers[0], evidence))
        return Steps(numbers[0], evidence, signature)

    def step(self, *numbers: int, member: int | None = None) -> Sent:
        who = self.controller if member is None else member
        return self.world.send(ErasureProgress(self.statement, who, self.steps(*numbers, member=member)))

    def extend(self, due_at: int, member: int | None = None) -> Sent:
        who = self.controller if member is None else member
        signature = self.world.sign(who, Extend(self.batch, who, due_at))
        return self.world.send(ErasureExtension(self.statement, who, due_at, signature))

    def attestation(self, level: int, seat: int = 0, key: LedgerKey | None = None) -> EvidenceAttestation:
        evidence = word(f"report {level} {seat}")
        statement = Attest(self.batch, level, seat, evidence)
        signature = sign(statement, self.world.domains.of(statement), key or self.world.auditors[0])
        return EvidenceAttestation(self.statement, level, seat, evidence, signature)

    def plan(
        self,
        base: int,
        model: Digest,
        target: int,
        voters: Iterable[int] = (0, 1, 2),
        parent: int = 0,
        seed: Digest = SEED,
        rounds: int | None = None,
    ) -> Sent:
        """By rollback, or, where `rounds` are given, by a method that takes so many."""
        method = 0 if target == base else 1 if rounds is None else 3
        rounds = max(0, target - base) if rounds is None else rounds
        statement = Plan(self.batch, parent, base, model, seed, target, method, rounds)
        votes = self.world.votes(voters, statement)
        proof = self.proof(parent, base)
        return self.world.send(
            Planning(self.statement, parent, base, model, seed, target, method, rounds, votes, proof)
        )

    def proof(self, parent: int, base: int) -> BaseProof:
        """As a node makes it; junk where the branch is not on the way."""
        history = History()
        history.apply_all(self.world.logged())
        active = history.studies[self.study].active_branch
        if parent not in [one.number for one in history.ancestry(self.study, active)]:
            return BaseProof(ZERO, ZERO, ())
        return history.base_proof(self.study, parent, base)

    def purge(self, members: Iterable[int]) -> Sent:
        return self.world.send(Purges(self.statement, tuple(self.purge_entry(member) for member in members)))

    def purge_entry(self, member: int, stage: int = 1) -> PurgeEntry:
        inventory = word(f"inventory {member}")
        return PurgeEntry(member, inventory, self.world.sign(member, Purged(self.batch, member, stage, inventory)))

    def verdict_entry(self, member: int, branch: int, model: Digest, confirmed: bool = True) -> VerdictEntry:
        statement = Verdict(self.batch, member, branch, model, confirmed)
        return VerdictEntry(member, confirmed, self.world.sign(member, statement))

    def verdicts(self, members: Iterable[int], branch: int, model: Digest, confirmed: bool = True) -> Sent:
        entries = tuple(self.verdict_entry(member, branch, model, confirmed) for member in members)
        return self.world.send(Verdicts(self.statement, entries))


def trained(world: World, rounds: int) -> tuple[Digest, list[RoundFinal], RoundOpened]:
    """A study after so many results: its id, the results, the open round."""
    # Long enough to train that a round stays open over the erasure window.
    study, opened = world.study(scribe_seconds=1_000, max_round_age=5_000)
    finals = []
    for _ in range(rounds):
        sent = world.finish(opened.round_id)
        finals.append(one_of(sent, RoundFinal))
        opened = one_of(sent, RoundOpened)
    return study, finals, opened


def opened_batch(world: World, study: Digest, controller: int = 3, poster: int | None = None) -> Erasure:
    erasure = Erasure(world, study, controller, controller if poster is None else poster, world.now + 30 * 86_400)
    world.send(erasure.opening)
    return erasure


def ready_for_plan(world: World) -> tuple[Erasure, list[RoundFinal], RoundOpened]:
    """Three results, a batch whose copy is deleted, the round in flight ended, the window over."""
    study, finals, opened = trained(world, 2)
    erasure = opened_batch(world, study)
    erasure.step(1)
    erasure.step(2)
    sent = world.finish(opened.round_id)
    finals.append(one_of(sent, RoundFinal))
    world.advance(301)
    return erasure, finals, one_of(sent, RoundOpened)


def test_a_batch_is_requested_by_a_relay_and_authorised_by_its_controller(world: World) -> None:
    study, _ = world.study()
    erasure = Erasure(world, study, 3, 1, world.now + 86_400)
    sent = world.send(erasure.opening)
    stamp = world.ledger.head().timestamp
    assert sent.records == (ErasureOpened(erasure.batch, study, 3, 1, word("requests"), erasure.due_at, stamp),)
    with pytest.raises(CallReverted) as known:
        world.send(erasure.opening)
    assert (known.value.error, known.value.operands) == ("BatchKnown", {"batch": erasure.batch})
    with pytest.raises(CallReverted) as early:
        erasure.step(1)
    assert early.value.operands == {"batch": erasure.batch, "state": State.REQUESTED}
    with pytest.raises(CallReverted) as not_controller:
        world.send(ErasureAuthorisation(erasure.statement, 1, world.sign(1, Authorise(erasure.batch, 1))))
    assert not_controller.value.operands == {"expected": 3, "got": 1}
    with pytest.raises(CallReverted) as forged:
        world.send(ErasureAuthorisation(erasure.statement, 3, world.sign(1, Authorise(erasure.batch, 3))))
    assert forged.value.error == "BadSignature"
    sent = world.send(ErasureAuthorisation(erasure.statement, 3, world.sign(3, Authorise(erasure.batch, 3))))
    assert sent.records == (ErasureAuthorised(erasure.batch),)


def test_only_the_controller_refuses_and_only_with_a_ground(world: World) -> None:
    study, _ = world.study()
    erasure = opened_batch(world, study, controller=3, poster=0)
    with pytest.raises(CallReverted) as no_ground:
        world.send(ErasureRefusal(erasure.statement, 3, 0, world.sign(3, Refuse(erasure.batch, 3, 0))))
    assert (no_ground.value.error, no_ground.value.operands) == ("Missing", {"field": "ground"})
    sent = world.send(ErasureRefusal(erasure.statement, 3, 4, world.sign(3, Refuse(erasure.batch, 3, 4))))
    assert sent.records == (ErasureRefused(erasure.batch, 4),)
    with pytest.raises(CallReverted) as over:
        erasure.step(1)
    assert over.value.operands["state"] == State.REFUSED


def test_steps_come_in_their_order(world: World) -> None:
    study, _ = world.study()
    erasure = opened_batch(world, study)
    with pytest.raises(CallReverted) as skipped:
        erasure.step(2)
    assert (skipped.value.error, skipped.value.operands) == ("WrongStep", {"expected": 1, "got": 2})
    assert erasure.step(1).records == (ErasureStepped(erasure.batch, 1, (word("evidence 1"),)),)
    erasure.step(2)
    with pytest.raises(CallReverted) as unplanned:
        erasure.step(3)
    assert unplanned.value.operands["state"] == State.COPY_DELETED


def test_an_unknown_batch_or_study_is_refused(world: World) -> None:
    erasure = Erasure(world, word("no study"), 3, 3, world.now + 86_400)
    with pytest.raises(CallReverted) as no_study:
        world.send(erasure.opening)
    assert no_study.value.error == "StudyUnknown"
    with pytest.raises(CallReverted) as no_batch:
        erasure.step(1)
    assert (no_batch.value.error, no_batch.value.operands) == ("BatchUnknown", {"batch": erasure.batch})


def test_a_plan_waits_for_its_window_and_for_rounds_in_flight(world: World) -> None:
    study, finals, opened = trained(world, 2)
    erasure = opened_batch(world, study)
    opened_at = world.ledger.head().timestamp
    erasure.step(1)
    excluded_at = world.ledger.head().timestamp
    erasure.step(2)
    base = finals[0].result.model_root
    with pytest.raises(CallReverted) as early:
        erasure.plan(1, base, 2)
    assert early.value.error == "TooEarly"
    assert early.value.operands["until"] == opened_at + 300
    world.pass_time(opened_at + 300)
    with pytest.raises(CallReverted) as in_flight:
        erasure.plan(1, base, 2)
    assert in_flight.value.operands == {"openedAt": opened.opened_at, "excludedAt": excluded_at}
    assert in_flight.value.error == "RoundInFlight"


def test_a_plan_names_a_recorded_checkpoint_and_a_closed_target(world: World) -> None:
    erasure, finals, _ = ready_for_plan(world)
    base = finals[0].result.model_root
    with pytest.raises(CallReverted) as wrong_model:
        erasure.plan(1, word("another model"), 3)
    assert wrong_model.value.error == "WrongCheckpoint"
    assert wrong_model.value.operands["expected"] == world.all(RoundOpened)[-1].parent_result
    with pytest.raises(CallReverted) as wrong_start:
        erasure.plan(0, word("another model"), 3)
    operands = {"expected": word("initial model"), "got": word("another model")}
    assert (wrong_start.value.error, wrong_start.value.operands) == ("WrongCheckpoint", operands)
    with pytest.raises(CallReverted) as beyond:
        erasure.plan(1, base, 4)
    assert (beyond.value.error, beyond.value.operands) == ("BadTarget", {"target": 4, "first": 1, "last": 3})
    with pytest.raises(CallReverted) as no_branch:
        erasure.plan(1, base, 3, parent=5)
    assert no_branch.value.error == "NotOnAncestry"
    with pytest.raises(CallReverted) as no_seed:
        erasure.plan(1, base, 3, seed=ZERO)
    assert (no_seed.value.error, no_seed.value.operands) == ("Missing", {"field": "branchSeed"})
    with pytest.raises(CallReverted) as few:
        erasure.plan(1, base, 3, voters=(0, 1))
    assert few.value.operands == {"votes": 2, "needed": 3}


def test_an_erasure_from_plan_to_close(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    erasure.extend(erasure.due_at + 86_400)
    before = world.ledger.accumulators()[2]
    base = finals[0].result.model_root

    # Plan: the branch is registered; its first round opens with the end of the round that is open.
    sent = erasure.plan(1, base, 3)
    branch = one_of(sent, BranchCreated)
    second = next(one for one in world.all(RoundOpened) if one.height == 2)
    base_result = branch_start(erasure.study, erasure.batch, 0, 1, base, second.parent_result)
    assert branch == BranchCreated(erasure.study, 1, 0, 1, base, base_result, SEED, 3, erasure.batch)
    assert one_of(sent, ErasurePlanned) == ErasurePlanned(erasure.batch, erasure.study, 1, 0, 1, base, SEED, 3, 1, 2)
    last = world.finish(opened.round_id)
    assert kinds(last) == ["RoundFinal", "RoundOpened"]
    replay = one_of(last, RoundOpened)
    assert (replay.branch, replay.height, replay.parent_result, replay.parent_model) == (1, 2, base_result, base)
    sent = world.finish(replay.round_id)
    with pytest.raises(CallReverted) as early:
        erasure.verdicts([0, 1], 1, one_of(sent, RoundFinal).result.model_root)
    assert (early.value.error, early.value.operands) == ("NotCaughtUp", {"branch": 1})
    with pytest.raises(CallReverted) as undelivered:
        erasure.step(3)
    assert undelivered.value.operands["state"] == State.PLANNED
    sent = world.finish(one_of(sent, RoundOpened).round_id)
    head = one_of(sent, RoundFinal)
    assert (head.branch, head.height) == (1, 3)

    # Verdicts of others: the controller's does not count, a denial is recorded, two of three confirm.
    model = head.result.model_root
    entries_ = (
        erasure.verdict_entry(3, 1, model),
        erasure.verdict_entry(0, 1, model),
        erasure.verdict_entry(1, 1, word("another head")),
    )
    sent = world.send(Verdicts(erasure.statement, entries_))
    assert records_of(sent, VerdictsGiven) == [VerdictsGiven(erasure.batch, 1, model, 0b0001, 0b0001)]
    assert [(one.member, one.reason) for one in records_of(sent, EntrySkipped)] == [(1, 2), (3, 3)]
    sent = erasure.verdicts([0], 1, model, confirmed=False)
    assert [(one.member, one.reason) for one in records_of(sent, EntrySkipped)] == [(0, 1)]
    erasure.verdicts([2], 1, model, confirmed=False)
    purges = tuple(erasure.purge_entry(member) for member in (0, 1, 3))
    sent = world.send(Verdicts(erasure.statement, (erasure.verdict_entry(1, 1, model),), purges))
    assert kinds(sent) == ["VerdictsGiven", "PurgesAttested", "ErasureConfirmed", "HeadMoved"]
    assert one_of(sent, ErasureConfirmed) == ErasureConfirmed(erasure.batch, 1, model)
    assert one_of(sent, HeadMoved) == HeadMoved(erasure.batch, erasure.study, 1)

    # Close: whoever has not attested the final purge is named.
    sent = erasure.step(3, 4, 5)
    assert kinds(sent) == ["ErasureStepped", "ErasureClosed"]
    assert one_of(sent, ErasureClosed) == ErasureClosed(erasure.batch, 0b0100)

    # An auditor's evidence changes nothing about the closed record.
    sent = world.send(erasure.attestation(3))
    assert sent.records == (EvidenceAttested(erasure.batch, 3, 0, word("report 3 0")),)

    # The accumulator follows from the records.
    position = next(i for i, one in enumerate(world.logged()) if isinstance(one.record, ErasurePlanned))
    follow = before
    for logged in world.logged()[position:]:
        if type(logged.record).__name__ in (
            "ErasurePlanned",
            "PurgesAttested",
            "VerdictsGiven",
            "ErasureConfirmed",
            "HeadMoved",
            "ErasureStepped",
            "ErasureClosed",
            "EvidenceAttested",
        ):
            follow = accumulate(follow, logged.record)
    assert world.ledger.accumulators()[2] == follow


def test_purges_count_once_and_junk_harms_only_itself(world: World) -> None:
    erasure, finals, _ = ready_for_plan(world)
    with pytest.raises(CallReverted) as early:
        erasure.purge([0])
    assert early.value.error == "WrongState"
    erasure.plan(1, finals[0].result.model_root, 3)
    erasure.purge([0])
    entries = (
        erasure.purge_entry(2),
        erasure.purge_entry(0),
        replace(erasure.purge_entry(1), signature=JUNK),
        erasure.purge_entry(3, stage=0),  # what it said to the other members
        replace(erasure.purge_entry(0), member=8),
    )
    sent = world.send(Purges(erasure.statement, entries))
    assert records_of(sent, PurgesAttested) == [PurgesAttested(erasure.batch, 0b0100, (word("inventory 2"),))]
    skipped = [(one.member, one.reason) for one in records_of(sent, EntrySkipped)]
    assert skipped == [(0, 1), (1, 2), (3, 2), (8, 3)]


def test_one_plan_a_study_at_a_time(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    other = opened_batch(world, erasure.study, controller=1)
    other.step(1)
    other.step(2)
    erasure.plan(1, finals[0].result.model_root, 3)
    world.finish(opened.round_id)
    world.advance(301)
    with pytest.raises(CallReverted) as active:
        other.plan(1, finals[0].result.model_root, 3)
    assert (active.value.error, active.value.operands) == ("ForkActive", {"study": erasure.study})


def test_a_consent_never_included_needs_no_replay(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    sent = erasure.plan(3, finals[2].result.model_root, 3)
    assert kinds(sent) == ["ErasurePlanned"]
    assert one_of(sent, ErasurePlanned).branch == 0
    other = opened_batch(world, erasure.study, controller=1)
    other.step(1, 2)
    # Training goes on meanwhile, and the verdicts are about the checkpoint.
    assert kinds(world.finish(opened.round_id)) == ["RoundFinal", "RoundOpened"]
    world.advance(301)
    with pytest.raises(CallReverted) as active:
        other.plan(3, finals[2].result.model_root, 3)
    assert active.value.error == "ForkActive"
    sent = erasure.verdicts([0, 1], 0, finals[2].result.model_root)
    assert kinds(sent) == ["VerdictsGiven", "ErasureConfirmed", "HeadMoved"]
    assert one_of(erasure.step(3, 4, 5), ErasureClosed).exceptions == 0


def test_a_plan_between_rounds_takes_over_at_once(make_world: WorldMaker) -> None:
    """The study is over, so no round is open when the plan is voted."""
    world = make_world(4)
    study, opened = world.study(rounds=2)
    first = world.finish(opened.round_id)
    world.finish(one_of(first, RoundOpened).round_id)
    erasure = opened_batch(world, study)
    erasure.step(1)
    erasure.step(2)
    world.advance(301)
    initial = word("initial model")
    sent = erasure.plan(0, initial, 2)
    assert kinds(sent) == ["BranchCreated", "RoundOpened", "ErasurePlanned"]
    replay = one_of(sent, RoundOpened)
    assert (replay.branch, replay.height, replay.parent_model) == (1, 1, initial)
    second = one_of(world.finish(replay.round_id), RoundOpened)
    sent = world.finish(second.round_id)
    assert kinds(sent) == ["RoundFinal"]  # as many finals as the study wants
    model = one_of(sent, RoundFinal).result.model_root
    assert "HeadMoved" in kinds(erasure.verdicts([0, 1], 1, model))


def test_a_method_of_fewer_rounds_has_done_as_much_of_the_study_at_its_end(make_world: WorldMaker) -> None:
    world = make_world(4)
    study, opened = world.study(rounds=4)
    for _ in range(3):
        opened = one_of(world.finish(opened.round_id), RoundOpened)
    erasure = opened_batch(world, study)
    erasure.step(1)
    erasure.step(2)
    world.finish(opened.round_id)
    world.advance(301)
    initial = word("initial model")
    with pytest.raises(CallReverted) as many:
        erasure.plan(0, initial, 3, rounds=4)
    assert (many.value.error, many.value.operands) == ("TooManyRounds", {"rounds": 4, "finals": 3})
    sent = erasure.plan(0, initial, 3, rounds=1)
    planned, replay = one_of(sent, ErasurePlanned), one_of(sent, RoundOpened)
    assert (planned.method, planned.rounds) == (3, 1)
    sent = world.finish(replay.round_id)
    model, last = one_of(sent, RoundFinal).result.model_root, one_of(sent, RoundOpened)
    assert "HeadMoved" in kinds(erasure.verdicts([0, 1], 1, model)), "one round stood for three"
    assert kinds(world.finish(last.round_id)) == ["RoundFinal"], "and with the fourth the study is over"
    history = History()
    history.apply_all(world.logged())
    assert history.finished(study)


def test_a_second_erasure_forks_from_the_branch_that_then_trains(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    erasure.plan(1, finals[0].result.model_root, 2)
    replay = one_of(world.finish(opened.round_id), RoundOpened)
    sent = world.finish(replay.round_id)
    head = one_of(sent, RoundFinal).result.model_root
    erasure.verdicts([0, 1], 1, head)
    current = one_of(sent, RoundOpened)
    other = opened_batch(world, erasure.study, controller=2)
    other.step(1)
    other.step(2)
    following = one_of(world.finish(current.round_id), RoundOpened)
    world.advance(301)
    # A checkpoint of the old branch above the fork is no ancestor; the shared one below is.
    with pytest.raises(CallReverted) as gone:
        other.plan(3, finals[2].result.model_root, 3, parent=0)
    assert gone.value.error == "NotOnAncestry"
    sent = other.plan(0, word("initial model"), 3, parent=0)
    assert one_of(sent, BranchCreated).branch == 2
    replay = one_of(world.finish(following.round_id), RoundOpened)
    assert (replay.branch, replay.height, replay.parent_model) == (2, 1, word("initial model"))


def test_a_replay_steps_over_rounds_that_fail(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    erasure.plan(1, finals[0].result.model_root, 2)
    replay = one_of(world.finish(opened.round_id), RoundOpened)
    world.pass_time(replay.opened_at + 1_020)
    sent = world.send(RoundFailure(replay.study, replay.round_id))
    again = one_of(sent, RoundOpened)
    assert (again.height, again.parent_model) == (3, finals[0].result.model_root)
    final = one_of(world.finish(again.round_id), RoundFinal)
    sent = erasure.verdicts([0, 1], 1, final.result.model_root)
    assert "HeadMoved" in kinds(sent)


def of_two(make_world: WorldMaker) -> tuple[World, Erasure]:
    """Two members, one round, and a batch of the second whose copy is deleted and whose window is over."""
    world = make_world(2)
    study, opened = world.study(rounds=1)
    world.finish(opened.round_id)
    erasure = opened_batch(world, study, controller=1)
    erasure.step(1)
    erasure.step(2)
    world.advance(301)
    return world, erasure


def finish_without_the_last(world: World, opened: RoundOpened) -> Sent:
    """A round of the three that are left of four."""
    world.commit(opened.round_id, [0, 1, 2])
    result = world.result(opened.round_id, 0b0111)
    return world.send(world.finalisation(opened.round_id, 0, 0b0111, result, [0, 1, 2]))


def untrained(world: World, opened: RoundOpened) -> Sent:
    """A round that nobody can train, failed when its window is over."""
    world.abstain(opened.round_id, [0, 1, 2, 3])
    with pytest.raises(CallReverted) as early:
        world.send(RoundFailure(opened.study, opened.round_id))
    assert early.value.operands["phase"] == Phase.TRAINING
    world.pass_time(opened.opened_at + 1_020)
    return world.send(RoundFailure(opened.study, opened.round_id))


def checkpoint(world: World, erasure: Erasure) -> Checkpoint | None:
    """What the members of this history judge."""
    history = History()
    history.apply_all(world.logged())
    plan = history.erasures[erasure.batch].plan
    assert plan is not None
    return checkpoint_of(history, plan)


def test_a_replay_that_nobody_trains_ends_at_its_checkpoint(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    base = finals[0].result.model_root
    erasure.plan(1, base, 3)
    replay = one_of(world.finish(opened.round_id), RoundOpened)
    for _ in range(2):
        sent = untrained(world, replay)
        assert "ReplayGivenUp" not in kinds(sent)
        assert checkpoint(world, erasure) is None
        replay = one_of(sent, RoundOpened)
    with pytest.raises(CallReverted) as early:
        erasure.verdicts([0, 1], 1, base)
    assert early.value.error == "NotCaughtUp"
    sent = untrained(world, replay)
    assert kinds(sent) == ["RoundFailed", "ReplayGivenUp", "RoundOpened"]
    assert one_of(sent, ReplayGivenUp) == ReplayGivenUp(erasure.study, 1, base)
    world.finish(one_of(sent, RoundOpened).round_id)
    assert checkpoint(world, erasure) == Checkpoint(1, 1, base, ())
    assert "HeadMoved" in kinds(erasure.verdicts([0, 1], 1, base))


def test_a_replay_is_given_up_with_the_model_it_has(world: World) -> None:
    erasure, finals, opened = ready_for_plan(world)
    erasure.plan(1, finals[0].result.model_root, 3)
    sent = world.finish(one_of(world.finish(opened.round_id), RoundOpened).round_id)
    model = one_of(sent, RoundFinal).result.model_root
    for _ in range(3):
        sent = untrained(world, one_of(sent, RoundOpened))
    assert one_of(sent, ReplayGivenUp) == ReplayGivenUp(erasure.study, 1, model)
    found = checkpoint(world, erasure)
    assert found is not None
    assert (found.height, found.model, [one.opened.height for one in found.rounds]) == (2, model, [2])
    assert "HeadMoved" in kinds(erasure.verdicts([0, 1], 1, model))


def test_a_replay_of_fewer_than_two_members_ends_at_its_checkpoint(make_world: WorldMaker) -> None:
    world, erasure = of_two(make_world)
    initial = word("initial model")
    world.send(Leaving(erasure.study, 1, world.sign(1, Leave(erasure.study, 1))))
    sent = erasure.plan(0, initial, 1, voters=(0,))
    assert kinds(sent) == ["BranchCreated", "ReplayGivenUp", "ErasurePlanned"]
    assert checkpoint(world, erasure) == Checkpoint(1, 0, initial, ())
    assert "HeadMoved" in kinds(erasure.verdicts([0], 1, initial))


def test_a_removed_hospital_holds_up_no_plan(world: World) -> None:
    study, _, opened = trained(world, 1)
    erasure = opened_batch(world, study, controller=3, poster=2)  # and the hospital never answers
    world.advance(301)
    following = one_of(world.finish(opened.round_id), RoundOpened)
    with pytest.raises(CallReverted) as waits:
        erasure.plan(0, word("initial model"), 1)
    assert waits.value.error == "WrongState"
    world.send(Removal(3, world.votes([0, 1, 2], Remove(1, 3, world.keys[3].address))))
    erasure.plan(0, word("initial model"), 1)
    with pytest.raises(CallReverted) as late:
        erasure.step(1)
    assert late.value.error == "WrongState"
    replay = one_of(world.finish(following.round_id), RoundOpened)
    assert replay.roster == 0b0111
    sent = finish_without_the_last(world, replay)
    assert "HeadMoved" in kinds(erasure.verdicts([0, 1, 2], 1, one_of(sent, RoundFinal).result.model_root))
    for number in (1, 3, 5):  # the copy first, and that is over
        with pytest.raises(CallReverted) as alone:
            erasure.step(number)
        assert alone.value.error == "WrongState"


def test_a_removed_hospital_closes_what_it_has_deleted(world: World) -> None:
    erasure, _, opened = ready_for_plan(world)
    world.send(Removal(3, world.votes([0, 1, 2], Remove(1, 3, world.keys[3].address))))
    erasure.plan(0, word("initial model"), 3)
    sent = world.finish(opened.round_id)
    for _ in range(3):
        replay = one_of(sent, RoundOpened)
        sent = finish_without_the_last(world, replay)
    erasure.verdicts([0, 1, 2], 1, one_of(sent, RoundFinal).result.model_root)
    assert "ErasureClosed" in kinds(erasure.step(3, 4, 5))


def test_below_four_members_one_other_verifies(make_world: WorldMaker) -> None:
    world, erasure = of_two(make_world)
    replay = one_of(erasure.plan(0, word("initial model"), 1, voters=(0, 1)), RoundOpened)
    final = one_of(world.finish(replay.round_id), RoundFinal)
    assert "HeadMoved" in kinds(erasure.verdicts([0], 1, final.result.model_root))


def test_zero_is_never_a_requests_root(world: World) -> None:
    study, _ = world.study()
    statement = OpenErasure(study, 3, 3, ZERO, 5)
    with pytest.raises(CallReverted) as refused:
        world.send(ErasureOpening(statement, world.sign(3, statement)))
    assert (refused.value.error, refused.value.operands) == ("Missing", {"field": "requestsRoot"})


def test_first_steps_may_come_with_the_opening(world: World) -> None:
    study, _ = world.study()
    erasure = Erasure(world, study, 3, 3, world.now + 86_400)
    sent = world.send(replace(erasure.opening, steps=erasure.steps(1, 2)))
    assert kinds(sent) == ["ErasureOpened", "ErasureStepped"]
    evidence = (word("evidence 1"), word("evidence 2"))
    assert one_of(sent, ErasureStepped) == ErasureStepped(erasure.batch, 1, evidence)
    relayed = Erasure(world, study, 3, 1, world.now + 86_400)
    with pytest.raises(CallReverted) as not_controller:
        world.send(replace(relayed.opening, steps=relayed.steps(1, 2)))
    assert not_controller.value.operands == {"expected": 3, "got": 1}


def test_a_batch_is_due_within_a_month(world: World) -> None:
    study, _ = world.study()
    erasure = Erasure(world, study, 3, 3, world.now + 40 * 86_400)
    with pytest.raises(CallReverted) as late:
        world.send(erasure.opening)
    assert late.value.error == "DueTooLate"
    assert late.value.operands["dueAt"] == erasure.due_at
    past = Erasure(world, study, 3, 1, world.now - 5)  # a relay may be late
    assert kinds(world.send(past.opening)) == ["ErasureOpened"]


def test_the_controller_extends_once_in_time_by_two_months_at_most(world: World) -> None:
    study, _ = world.study()
    erasure = Erasure(world, study, 3, 1, world.now + 86_400)
    world.send(erasure.opening)
    last = erasure.due_at + 61 * 86_400
    with pytest.raises(CallReverted) as not_controller:
        erasure.extend(last, member=1)
    assert (not_controller.value.error, not_controller.value.operands) == ("NotController", {"expected": 3, "got": 1})
    for due_at in (erasure.due_at, last + 1):
        with pytest.raises(CallReverted) as bounds:
            erasure.extend(due_at)
        assert bounds.value.error == "ExtensionOutOfBounds"
        assert bounds.value.operands == {"dueAt": due_at, "first": erasure.due_at + 1, "last": last}
    before = world.ledger.accumulators()[2]
    sent = erasure.extend(last)
    assert sent.records == (ErasureExtended(erasure.batch, last),)
    assert world.ledger.accumulators()[2] == accumulate(before, sent.records[0])
    with pytest.raises(CallReverted) as again:
        erasure.extend(last - 1)
    assert (again.value.error, again.value.operands) == ("AlreadyExtended", {"batch": erasure.batch, "dueAt": last})
    other = Erasure(world, study, 3, 0, world.now + 100)
    world.send(other.opening)
    world.pass_time(other.due_at)
    with pytest.raises(CallReverted) as late:
        other.extend(other.due_at + 86_400)
    assert late.value.error == "ExtensionTooLate"
    signature = world.sign(3, Refuse(erasure.batch, 3, 4))
    world.send(ErasureRefusal(erasure.statement, 3, 4, signature))
    with pytest.raises(CallReverted) as over:
        erasure.extend(last)
    assert over.value.operands["state"] == State.REFUSED


# --- evidence of auditors


def refused(world: World, call: EvidenceAttestation) -> tuple[str | None, dict[str, object]]:
    with pytest.raises(CallReverted) as caught:
        world.send(call)
    return caught.value.error, caught.value.operands


def confirmed_erasure(world: World, replays: bool = True) -> Erasure:
    """An erasure that enough members confirmed; of a replay, or of consents that were never included."""
    erasure, finals, opened = ready_for_plan(world)
    if not replays:
        model = finals[2].result.model_root
        erasure.plan(3, model, 3)
        erasure.verdicts([0, 1], 0, model)
        return erasure
    erasure.plan(2, finals[1].result.model_root, 3)
    replay = one_of(world.finish(opened.round_id), RoundOpened)
    before = erasure.attestation(3)
    assert refused(world, before) == ("WrongState", {"batch": erasure.batch, "state": State.PLANNED})
    erasure.verdicts([0, 1], 1, one_of(world.finish(replay.round_id), RoundFinal).result.model_root)
    return erasure


def test_an_auditor_attests_evidence_once_for_each_level(world: World) -> None:
    erasure = confirmed_erasure(world)
    before = world.ledger.accumulators()[2]
    sent = world.send(erasure.attestation(3))
    assert sent.records == (EvidenceAttested(erasure.batch, 3, 0, word("report 3 0")),)
    assert world.ledger.accumulators()[2] == accumulate(before, sent.records[0])
    again = replace(erasure.attestation(3), evidence=word("another report"))
    assert refused(world, again) == ("AttestedBefore", {"batch": erasure.batch, "level": 3, "seat": 0})
    world.send(erasure.attestation(4))
    history = History()
    history.apply_all(world.logged())
    assert history.erasures[erasure.batch].attested == {(3, 0): word("report 3 0"), (4, 0): word("report 4 0")}
    assert history.unlearning_acc == world.ledger.accumulators()[2]
    assert kinds(erasure.step(3)) == ["ErasureStepped"], "the erasure goes its way"


def test_evidence_is_about_a_confirmed_erasure_and_of_two_levels(world: World) -> None:
    study, _ = world.study()
    erasure = Erasure(world, study, 3, 1, world.now + 86_400)
    assert refused(world, erasure.attestation(4)) == ("BatchUnknown", {"batch": erasure.batch})
    world.send(erasure.opening)
    requested = {"batch": erasure.batch, "state": State.REQUESTED}
    assert refused(world, erasure.attestation(4)) == ("WrongState", requested)
    world.send(ErasureRefusal(erasure.statement, 3, 4, world.sign(3, Refuse(erasure.batch, 3, 4))))
    # The state is looked at before the level, and that before the seat.
    assert refused(world, erasure.attestation(5, 9)) == ("WrongState", requested | {"state": State.REFUSED})


def test_where_nothing_was_replayed_no_replay_was_repeated(world: World) -> None:
    erasure = confirmed_erasure(world, replays=False)
    for level in (3, 2, 5, 0, 255):
        assert refused(world, erasure.attestation(level, 9)) == ("WrongLevel", {"level": level})
    assert kinds(world.send(erasure.attestation(4))) == ["EvidenceAttested"]


def test_evidence_is_signed_by_an_auditor_of_the_study_in_its_term(world: World) -> None:
    erasure = confirmed_erasure(world)
    good = erasure.attestation(3)
    assert refused(world, replace(good, level=2)) == ("WrongLevel", {"level": 2})
    # Refused in this order: without evidence, without a seat, after its term, of another study, without its signature.
    assert refused(world, replace(good, evidence=ZERO, seat=9)) == ("Missing", {"field": "evidence"})
    assert refused(world, replace(good, seat=9)) == ("NoAuditor", {"seat": 9})
    other, ours = LedgerKey.generate(), LedgerKey.generate()
    end = world.now + 5_000
    world.send(world.seating(other, word("another study"), end, (0, 1, 2), 1))
    world.send(world.seating(ours, erasure.study, end, (0, 1, 2), 2))
    for_another = {"seat": 1, "seated": word("another study"), "study": erasure.study}
    assert refused(world, erasure.attestation(3, 1, other)) == ("SeatedForAnother", for_another)
    for forged in (
        erasure.attestation(3, 2, other),  # an auditor, not of this seat
        erasure.attestation(3, 2, world.keys[2]),  # the member of this number
        replace(good, evidence=word("another report")),
        replace(good, level=4),
        replace(good, seat=2),
        replace(good, signature=JUNK),
    ):
        assert refused(world, forged)[0] == "BadSignature"
    assert kinds(world.send(erasure.attestation(3, 2, ours))) == ["EvidenceAttested"]
    assert kinds(world.send(good)) == ["EvidenceAttested"], "each seat for itself"
    world.pass_time(end)
    for seat, key in ((1, other), (2, ours)):
        error, operands = refused(world, erasure.attestation(4, seat, key))
        assert (error, operands["termEnd"]) == ("TermOver", end)
    world.send(AuditorEnding(0, world.votes((0, 1, 2), EndAuditor(3, 0, world.auditors[0].address))))
    ended = world.ledger.head().timestamp
    error, operands = refused(world, erasure.attestation(4))
    assert (error, operands["termEnd"]) == ("TermOver", ended)
