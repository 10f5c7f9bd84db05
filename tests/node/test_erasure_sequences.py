"""Whatever erasures follow on each other: nothing of an erased record stays, and the line that trains stays whole.

The truth is computed here from what each round's sets held, without asking `node/erasure.py` anything but its plans.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.digest import Digest, keccak256
from fl_engine.unlearning import UNLEARNERS
from node import methods
from node.erasure import checkpoint_of, doomed_rounds, plan_of
from node.history import RoundHistory
from node.records import ErasureConfirmed, HeadMoved
from tests.node.test_erasure import STUDY, Chain

MEMBERS, PATIENTS = 4, 4


@dataclass
class Story:
    """A chain, whose patients (number -> hospital) were in which round's sum, and who is erased."""

    hospitals: list[int]
    chain: Chain = field(default_factory=Chain)
    held: dict[Digest, set[int]] = field(default_factory=dict)  # round -> patients whose records went into its sum
    erased: dict[int, Digest] = field(default_factory=dict)  # patient -> batch

    def play(self, branch: int, height: int, included: int, present: set[int]) -> None:
        """A round; `present`: patients in their hospitals' sets, which count where the hospital is in the sum."""
        number = self.chain.round(branch, height, included)
        self.held[number] = {p for p in present - set(self.erased) if included >> self.hospitals[p] & 1}

    def batch(self, patient: int) -> Digest:
        return keccak256(f"batch of {patient}".encode())

    def way_to(self, one: RoundHistory) -> list[RoundHistory]:
        """A round and those that its model came from."""
        path = self.chain.history.path(STUDY, one.opened.branch)
        return [other for other in path if other.opened.height <= one.opened.height]

    def went_into(self, one: RoundHistory, patient: int) -> bool:
        """Whether anything of a patient's records is in what a round made: its models on the way, or their lengths."""
        return any(patient in self.held[a.opened.round_id] or self._by_length(a, patient) for a in self.way_to(one))

    def _by_length(self, one: RoundHistory, patient: int) -> bool:
        """By the lengths that an approximate replay took over from the line before it.

        A patient's own approximate erasure claims nothing else.
        """
        branch = self.chain.history.studies[STUDY].branches[one.opened.branch]
        if branch.parent is None or branch.batch == self.erased.get(patient):
            return False
        plan = self.chain.erasure(branch.batch).plan
        assert plan is not None
        if methods.is_exact(plan.method):
            return False
        stays = {r.opened.round_id for r in self.way_to_base(branch.number)}
        replaced = [r for r in self.chain.history.path(STUDY, branch.number - 1) if r.opened.round_id not in stays]
        return any(patient in self.held[r.opened.round_id] or self._by_length(r, patient) for r in replaced)

    def way_to_base(self, number: int) -> list[RoundHistory]:
        branch = self.chain.history.studies[STUDY].branches[number]
        return [r for r in self.chain.history.path(STUDY, number) if r.opened.height <= branch.base_height]


def check(story: Story) -> None:
    history = story.chain.history
    plans = [story.chain.erasure(batch).plan for batch in story.erased.values()]
    condemned = {one.opened.round_id for plan in plans if plan is not None for one in doomed_rounds(history, plan)}
    for patient in story.erased:
        for number, one in history.rounds.items():
            if story.went_into(one, patient):
                where = (one.opened.branch, one.opened.height)
                assert number in condemned, f"round {where} had patient {patient} and stays"
    line = history.path(STUDY, history.studies[STUDY].active_branch)
    assert not condemned & {one.opened.round_id for one in line}, "the line that trains is condemned"


masks = st.integers(1, 2**MEMBERS - 1)
presence = st.sets(st.integers(0, PATIENTS - 1))
rounds = st.lists(st.tuples(masks, presence), min_size=1, max_size=4)


@pytest.mark.slow  # many histories
@settings(max_examples=100, deadline=None)
@given(
    hospitals=st.lists(st.integers(0, MEMBERS - 1), min_size=PATIENTS, max_size=PATIENTS),
    first=rounds,
    erasures=st.lists(
        st.tuples(
            st.integers(0, PATIENTS - 1),
            st.sampled_from(["rollback", "rapid", "federaser"]),
            st.lists(st.tuples(masks, presence), min_size=8, max_size=8),
            st.lists(st.tuples(masks, presence), max_size=2),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda one: one[0],
    ),
)
def test_nothing_of_an_erased_record_stays_and_nothing_of_the_line_that_trains_goes(
    hospitals: list[int],
    first: list[tuple[int, set[int]]],
    erasures: list[tuple[int, str, list[tuple[int, set[int]]], list[tuple[int, set[int]]]]],
) -> None:
    story = Story(hospitals)
    chain = story.chain
    for height, (included, present) in enumerate(first, 1):
        story.play(0, height, included, present)
    for patient, method, replay, more in erasures:
        batch = story.batch(patient)
        story.erased[patient] = batch
        chain.request(batch, hospitals[patient], consent=keccak256(f"consent {patient}".encode()))
        chain.steps(1, 2, batch=batch)
        uses = {number: patient in held for number, held in story.held.items()}
        terms = plan_of(chain.history, chain.erasure(batch), uses, UNLEARNERS[method])
        assert terms is not None
        planned = chain.plan(terms, batch)
        branch, height = planned.branch, planned.base_height
        for included, present in replay[: terms.rounds]:
            height += 1
            story.play(branch, height, included, present)
        head = checkpoint_of(chain.history, planned)
        assert head is not None
        chain.add(ErasureConfirmed(batch, branch, head.model))
        if terms.rounds:
            chain.add(HeadMoved(batch, STUDY, branch))
        check(story)
        study = chain.history.studies[STUDY]
        line = study.branches[study.active_branch]
        height = max([*line.rounds, line.base_height])
        for included, present in more:
            height += 1
            story.play(line.number, height, included, present)
        check(story)
