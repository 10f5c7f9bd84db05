"""The consent gate, a test a row, and the states of a consent."""

from __future__ import annotations

import dataclasses

import pytest

from crypto.blobs import AnchorProof
from crypto.commitments import ConsentOpening
from crypto.digest import Digest
from crypto.merkle import AnchorTree
from crypto.statements import Form, struct_hash
from node.consent import (
    GATE,
    MARKS,
    ConsentFacts,
    ConsentState,
    GrantProof,
    Leaf,
    last_deadline,
    original_opening,
    state_of,
    usable,
)
from node.records import ZERO, Anchored, BranchCreated, FormRegistered, Granted, StudyCreated, Withdrawn
from node.validity import ConsentView
from tests.node.consent_kit import NOW, QUARTER_END, Chain, study_created, study_spec

HOSPITAL = 1
SPEC = study_spec()


def registered(form: Form) -> FormRegistered:
    return FormRegistered(
        struct_hash(form),
        form.study,
        form.purposes,
        form.text_hash,
        form.custody,
        form.basis,
        form.valid_to,
        form.on_withdrawal,
    )


class Desk:
    """A chain with a study and its forms, and leaves granted there."""

    def __init__(self) -> None:
        self.chain = Chain()
        self.created = study_created(SPEC)
        self.study = self.created.study
        self.chain.add(self.created)
        self.forms = [registered(form) for form in SPEC.form_statements(self.study)]
        for form in self.forms:
            self.chain.add(form)

    def leaf(self, byte: int, form: FormRegistered | None = None) -> Leaf:
        opening = ConsentOpening.fresh(bytes([byte]) * 20, Digest(bytes([byte]) * 32))
        return Leaf(
            consent_id=opening.consent_id,
            leaf_key=opening.leaf_key,
            value_salt=Digest(bytes([byte]) * 32),
            role=1,
            rows=(1, 2, 3),
            holder=opening.holder,
            holder_salt=opening.holder_salt,
            doc_commit=opening.doc_commit,
            form_id=(form or self.forms[0]).form_id,
            proof=GrantProof(),
            locally_withdrawn=False,
        )

    def grant(self, leaf: Leaf) -> Leaf:
        self.chain.add(Granted(leaf.consent_id, leaf.form_id, HOSPITAL))
        return leaf

    def anchored(self, leaf: Leaf) -> Leaf:
        ids = [leaf.consent_id] + [Digest(bytes([i]) * 32) for i in range(1, 32)]
        tree = AnchorTree(ids)
        self.chain.add(Anchored(self.study, leaf.form_id, HOSPITAL, 32, (tree.root,)))
        return dataclasses.replace(leaf, proof=GrantProof(AnchorProof(tree.root, 0, tree.prove(0))))

    def why(self, leaf: Leaf, *, height: int = 1, branch: int = 0) -> str | None:
        opened = self.chain.history.round_at(self.study, branch, height)
        assert opened is not None
        return usable(leaf, self.chain.history, opened, last_deadline(self.created.terms, opened.opened.opened_at))

    def open(self, height: int = 1, branch: int = 0, time: int = NOW) -> None:
        self.chain.open_round(self.study, height, branch, time)

    def fork(self, branch: int, parent: int, base: int, target: int) -> None:
        seed = Digest(bytes([branch]) * 32)
        self.chain.add(BranchCreated(self.study, branch, parent, base, ZERO, ZERO, seed, target, seed))


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- the gate, row by row


def test_a_granted_consent_is_usable(desk: Desk) -> None:
    one, other = desk.grant(desk.leaf(1)), desk.anchored(desk.leaf(2))
    desk.open()
    assert (desk.why(one), desk.why(other)) == (None, None)


def test_withdrawn_here_counts_before_any_chain_heard_of_it(desk: Desk) -> None:
    leaf = dataclasses.replace(desk.grant(desk.leaf(1)), locally_withdrawn=True)
    desk.open()
    assert desk.why(leaf) == "withdrawn-here"


def test_withdrawn_on_the_chain_counts_also_after_the_snapshot(desk: Desk) -> None:
    leaf = desk.grant(desk.leaf(1))
    desk.open()
    desk.chain.add(Withdrawn(leaf.consent_id, NOW + 1))
    assert desk.why(leaf) == "withdrawn"


def test_no_records(desk: Desk) -> None:
    leaf = dataclasses.replace(desk.grant(desk.leaf(1)), rows=())
    desk.open()
    assert desk.why(leaf) == "no-records"


@pytest.mark.parametrize("field", ["leaf_key", "holder_salt", "doc_commit"])
def test_wrong_opening(desk: Desk, field: str) -> None:
    leaf = dataclasses.replace(desk.grant(desk.leaf(1)), **{field: Digest(b"\x42" * 32)})
    desk.open()
    assert desk.why(leaf) == "wrong-opening"


def test_other_study(desk: Desk) -> None:
    elsewhere = StudyCreated(Digest(b"\x66" * 32), 0, desk.created.terms)
    desk.chain.add(elsewhere)
    form = registered(dataclasses.replace(SPEC.form_statements(desk.study)[0], study=elsewhere.study))
    desk.chain.add(form)
    leaf = desk.leaf(1, form)
    desk.chain.add(Granted(leaf.consent_id, form.form_id, HOSPITAL))
    desk.open()
    assert desk.why(leaf) == "other-study"


def test_unknown_form(desk: Desk) -> None:
    leaf = dataclasses.replace(desk.grant(desk.leaf(1)), form_id=Digest(b"\x42" * 32))
    desk.open()
    assert desk.why(leaf) == "unknown-form"


def test_a_consent_must_outlast_the_last_deadline(desk: Desk) -> None:
    leaf = desk.grant(desk.leaf(1))
    length = last_deadline(desk.created.terms, 0)
    desk.open(1, time=QUARTER_END - length - 1)
    desk.open(2, time=QUARTER_END - length)
    assert (desk.why(leaf, height=1), desk.why(leaf, height=2)) == (None, "expired")


def test_not_granted(desk: Desk) -> None:
    never = desk.leaf(1)
    unplaced = dataclasses.replace(desk.grant(desk.leaf(2)), proof=None)
    desk.open()
    assert (desk.why(never), desk.why(unplaced)) == ("not-granted", "not-granted")


def test_a_grant_under_another_form_is_no_grant(desk: Desk) -> None:
    leaf = dataclasses.replace(desk.grant(desk.leaf(1)), form_id=desk.forms[1].form_id)
    desk.open()
    assert desk.why(leaf) == "not-granted"


def test_a_place_in_an_anchor_that_does_not_lead_to_its_root_is_no_grant(desk: Desk) -> None:
    leaf = desk.anchored(desk.leaf(1))
    assert leaf.proof is not None
    assert leaf.proof.anchor is not None
    moved = dataclasses.replace(leaf, proof=GrantProof(dataclasses.replace(leaf.proof.anchor, index=1)))
    short = AnchorProof(leaf.proof.anchor.root, 0, (*leaf.proof.anchor.path, ZERO))
    desk.open()
    assert desk.why(moved) == "not-granted"
    assert desk.why(dataclasses.replace(leaf, proof=GrantProof(short))) == "not-granted"


def test_granted_after_the_snapshot(desk: Desk) -> None:
    desk.open()
    leaf = desk.grant(desk.leaf(1))
    desk.open(2)
    assert (desk.why(leaf), desk.why(leaf, height=2)) == ("granted-after-snapshot", None)


def test_a_replay_takes_nobody_in_whom_the_original_could_not_have_had(desk: Desk) -> None:
    early = desk.grant(desk.leaf(1))
    desk.open(1)
    between = desk.anchored(desk.leaf(2))
    desk.open(2)
    late = desk.grant(desk.leaf(3))
    desk.fork(1, 0, 0, 2)
    for height in (1, 2, 3):
        desk.open(height, branch=1)
    reasons = [[desk.why(leaf, height=h, branch=1) for h in (1, 2, 3)] for leaf in (early, between, late)]
    no = "not-in-the-replayed-round"
    assert reasons == [[None, None, None], [no, None, None], [no, no, None]]


def test_a_replay_of_a_replay_goes_back_to_the_first_opening(desk: Desk) -> None:
    desk.open(1)
    desk.fork(1, 0, 0, 1)
    leaf = desk.grant(desk.leaf(1))
    desk.open(1, branch=1)
    desk.fork(2, 1, 0, 1)
    desk.open(1, branch=2)
    assert desk.why(leaf, branch=2) == "not-in-the-replayed-round"
    history = desk.chain.history
    first, last = history.round_at(desk.study, 0, 1), history.round_at(desk.study, 2, 1)
    assert first is not None
    assert last is not None
    assert original_opening(history, last.opened) == first.position
    assert original_opening(history, first.opened) is None


def test_a_withdrawal_leaves_the_replay_too(desk: Desk) -> None:
    leaf = desk.grant(desk.leaf(1))
    desk.open(1)
    desk.fork(1, 0, 0, 1)
    desk.chain.add(Withdrawn(leaf.consent_id, NOW))
    desk.open(1, branch=1)
    assert desk.why(leaf, branch=1) == "withdrawn"


def test_the_gate_names_each_reason_once() -> None:
    reasons = [reason for reason, _ in GATE]
    assert len(set(reasons)) == len(reasons)


def test_a_leaf_that_the_gate_would_refuse_makes_no_entry(desk: Desk) -> None:
    leaf = desk.leaf(1)
    with pytest.raises(ValueError, match="no grant or no rows"):
        dataclasses.replace(leaf, rows=()).entry(32)
    assert leaf.entry(2).records == 2


# --- what validity asks


def test_the_chain_answers_with_records_and_positions(desk: Desk) -> None:
    granted, anchored = desk.grant(desk.leaf(1)), desk.anchored(desk.leaf(2))
    at = desk.chain.add(Withdrawn(granted.consent_id, NOW))
    consents: ConsentView = desk.chain.history
    assert anchored.proof is not None
    assert anchored.proof.anchor is not None
    grant, anchor = consents.grant(granted.consent_id), consents.anchor(anchored.proof.anchor.root)
    form, withdrawal = consents.form(granted.form_id), consents.withdrawal(granted.consent_id)
    assert grant is not None
    assert grant[0].member == HOSPITAL
    assert anchor is not None
    assert anchor[0].count == 32
    assert form is not None
    assert form[1] < grant[1]
    assert withdrawal == (Withdrawn(granted.consent_id, NOW), at)
    unknown = Digest(b"\x42" * 32)
    answers = [consents.grant(unknown), consents.anchor(unknown), consents.form(unknown), consents.withdrawal(unknown)]
    assert answers == [None] * 4


# --- states

FACTS = ConsentFacts(mark="", withdrawn=False, granted=True, valid_to=QUARTER_END, now=NOW)


@pytest.mark.parametrize(
    "changes, state",
    [
        ({}, ConsentState.ACTIVE),
        ({"granted": False}, ConsentState.MINTED),
        ({"now": QUARTER_END}, ConsentState.EXPIRED),
        ({"withdrawn": True}, ConsentState.WITHDRAWN),
        ({"withdrawn": True, "granted": False}, ConsentState.WITHDRAWN),
        ({"mark": "withdrawn"}, ConsentState.WITHDRAWN),
        ({"mark": "withdrawn", "granted": False, "now": QUARTER_END}, ConsentState.WITHDRAWN),
        ({"mark": "superseded", "withdrawn": True}, ConsentState.SUPERSEDED),
        ({"mark": "entered-in-error", "withdrawn": True}, ConsentState.ENTERED_IN_ERROR),
    ],
)
def test_the_first_row_that_applies_is_the_state(changes: dict[str, object], state: ConsentState) -> None:
    assert state_of(dataclasses.replace(FACTS, **changes)) is state


def test_every_mark_is_a_state() -> None:
    assert {state_of(dataclasses.replace(FACTS, mark=mark)).value for mark in MARKS} == set(MARKS)
