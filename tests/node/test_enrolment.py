"""Enrolment: from rows to grants that the contracts take, and withdrawals that they take."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

import pytest

from crypto.digest import Digest
from crypto.keys import LedgerKey
from crypto.merkle import verify_anchored
from crypto.statements import Anchor, Grant, sign
from node.card import withdrawal_notice
from node.consent import ConsentState
from node.enrolment import (
    BATCH,
    consent_state,
    due_deletions,
    due_withdrawals,
    enrol,
    form_ids,
    form_registrations,
    pending_calls,
    place_due,
    signed_document,
    synthetic_rows,
    withdraw_calls,
)
from node.errors import InputError, Refused
from node.records import Anchoring, GrantEntry, Grants
from node.register import RegisterRow
from tests.node.consent_kit import (
    CANARY,
    MEMBER,
    NOW,
    QUARTER_END,
    SIGNED,
    TODAY,
    World,
    dataset,
    register,
    study_spec,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.found(tmp_path)


def key(world: World) -> LedgerKey:
    return world.rings[MEMBER].ledger


def anchors(world: World) -> list[Anchoring]:
    calls = pending_calls(world.vault, world.origin, key(world))
    assert all(isinstance(one, Anchoring) for one in calls)
    return [one for one in calls if isinstance(one, Anchoring)]


def test_unattended_a_patient_who_ended_a_consent_to_another_study_is_left_to_people(world: World) -> None:
    ended = world.enrol(CANARY)[0]
    world.vault.note_withdrawal(ended, at=NOW)
    another = dataclasses.replace(world.origin, study=Digest(b"\x77" * 32))
    rows = register(world.vault.patient_ids())
    done = enrol(world.vault, rows, world.spec, another, now=NOW, unattended=True)
    (refused,) = done.refused
    assert "to another study on 2027-01-15, and the form was signed on" in refused.why
    assert CANARY not in refused.why
    assert len(done.minted) == len(world.vault.patient_ids()) - 1
    assert len(enrol(world.vault, register((CANARY,)), world.spec, another, now=NOW).minted) == 1, "a person decided"


def test_a_register_becomes_one_padded_anchor_a_form(world: World) -> None:
    patients = world.vault.patient_ids()
    rows = register(patients[:4]) + register(patients[4:], form="second")
    report = enrol(world.vault, rows, world.spec, world.origin, now=NOW)
    assert len(report.minted) == 6
    calls = anchors(world)
    ids = form_ids(world.spec, world.study)
    assert [(one.entries[0].form_id, one.entries[0].count) for one in calls] == [(ids["main"], 32), (ids["second"], 32)]


def test_the_contract_takes_the_anchor_and_every_consent_is_in_it(world: World) -> None:
    ids = world.enrol()
    history = world.history()
    assert len(history.anchors) == 1
    places = set()
    for leaf in world.vault.leaves(world.study):
        assert leaf.proof is not None
        anchor = leaf.proof.anchor
        assert anchor is not None
        verify_anchored(anchor.root, 32, leaf.consent_id, anchor.index, anchor.path)
        places.add(anchor.index)
    assert len(places) == len(ids)
    assert places != set(range(len(ids)))  # shuffled among the dummies; 6 in a row by chance: once in 700 million


def test_more_than_32_consents_need_64_leaves(tmp_path: Path) -> None:
    world = World.found(tmp_path, data=dataset(33, 1))
    world.enrol()
    assert [one.record.count for one in world.history().anchors.values()] == [64]


def test_single_grants_are_taken_too(world: World) -> None:
    ids = world.enrol(single=True)
    history = world.history()
    assert set(history.grants) == set(ids)
    assert all(one.granted for one in world.vault.holdings())
    assert pending_calls(world.vault, world.origin, key(world)) == ()


def test_single_grants_go_in_batches(tmp_path: Path) -> None:
    world = World.found(tmp_path, data=dataset(BATCH + 1, 1))
    enrol(world.vault, register(world.vault.patient_ids()), world.spec, world.origin, now=NOW, single=True)
    calls = pending_calls(world.vault, world.origin, key(world))
    assert [len(one.entries[0].consent_ids) for one in calls if isinstance(one, Grants)] == [BATCH, 1]


def test_until_the_chain_has_it_the_same_calls_are_made_again(world: World) -> None:
    enrol(world.vault, register(world.vault.patient_ids()), world.spec, world.origin, now=NOW)
    first = pending_calls(world.vault, world.origin, key(world))
    world.reopen()
    assert pending_calls(world.vault, world.origin, key(world)) == first
    world.send(*first)  # mined, but the reply was lost
    world.send(*first)
    assert [len(world.history().skipped), len(world.history().anchors)] == [1, 1]  # the second is a duplicate
    assert world.vault.confirm(world.history()) == 6
    assert world.vault.confirm(world.history()) == 0
    assert pending_calls(world.vault, world.origin, key(world)) == ()


def test_a_root_that_another_hospital_posted_first_is_given_up_for_a_new_one(world: World) -> None:
    enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW)
    ours = anchors(world)[0]
    (entry,) = ours.entries
    theirs = Anchor(entry.study, entry.form_id, 0, entry.count, entry.roots)
    signature = sign(theirs, world.origin.domains.of(theirs), world.rings[0].ledger)
    world.send(Anchoring((dataclasses.replace(entry, member=0, signature=signature),)))
    assert world.vault.confirm(world.history()) == 0
    assert world.enrol(CANARY) == ()
    assert len(world.history().anchors) == 2
    assert world.vault.find(CANARY)[0].granted


def test_a_consent_id_that_another_hospital_granted_first_is_replaced(world: World) -> None:
    stolen = enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW, single=True).minted[0]
    form_id = form_ids(world.spec, world.study)["main"]
    theirs = Grant(form_id, 0, (stolen,))
    signature = sign(theirs, world.origin.domains.of(theirs), world.rings[0].ledger)
    world.send(Grants((GrantEntry(form_id, 0, (stolen,), signature),)))
    assert world.vault.confirm(world.history()) == 0
    (ended,) = world.vault.find(stolen)
    assert (ended.mark, ended.marked_at) == ("superseded", world.history().grants[stolen].at)
    assert ended.marked_at >= NOW
    fresh = world.enrol(CANARY, single=True)
    assert len(fresh) == 1
    assert [one.granted for one in world.vault.find(CANARY)] == [False, True]


def test_enrolling_twice_mints_nothing_and_anchors_nothing(world: World) -> None:
    first = world.enrol()
    rows = register(world.vault.patient_ids())
    report = enrol(world.vault, rows, world.spec, world.origin, now=NOW)
    assert (report.minted, report.known) == ((), first)
    assert pending_calls(world.vault, world.origin, key(world)) == ()


def test_a_newcomer_gets_an_anchor_of_its_own(world: World) -> None:
    world.enrol(CANARY)
    world.enrol("MRN-0001")
    assert [one.record.count for one in world.history().anchors.values()] == [32, 32]
    assert all(one.granted for one in world.vault.holdings())


def test_rows_without_records_and_refused_rows_are_reported_by_line(world: World) -> None:
    world.vault.suppress("MRN-0002", world.study)
    world.vault.note_withdrawal(world.enrol(CANARY)[0], at=NOW)
    rows = register(("MRN-0001", "MRN-STRANGER", "MRN-0002", CANARY))
    report = enrol(world.vault, rows, world.spec, world.origin, now=NOW)
    assert (len(report.minted), report.absent) == (1, (3,))
    assert [one.line for one in report.refused] == [4, 5]
    assert not any("MRN" in one.why or CANARY in one.why for one in report.refused)


def test_an_erased_patient_is_refused_though_nothing_of_it_is_left(world: World) -> None:
    one = world.enrol(CANARY)[0]
    world.vault.suppress_consent(one)
    world.vault.destroy_link(one)
    assert world.vault.import_dataset(dataset()).suppressed == 1
    report = enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW)
    assert [one.line for one in report.refused] == [2]


def test_the_form_signed_last_counts_and_the_older_consent_is_withdrawn(world: World) -> None:
    old = world.enrol(CANARY)[0]
    later = SIGNED + datetime.timedelta(days=3)
    rows = [*register((CANARY,)), dataclasses.replace(register((CANARY,), form="second", signed=later)[0], line=3)]
    report = enrol(world.vault, rows, world.spec, world.origin, now=NOW)
    assert (len(report.minted), report.superseded) == (1, (old,))
    world.send(*withdraw_calls(due_withdrawals(world.vault, world.history()), world.origin.domains))
    assert set(world.history().withdrawals) == {old}
    assert due_withdrawals(world.vault, world.history()) == ()


def test_a_form_that_has_ended_enrols_nobody(world: World) -> None:
    report = enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=QUARTER_END)
    assert [(one.line, one.why) for one in report.refused] == [(2, "form main ended on 2030-01-01")]


def test_a_row_under_a_form_of_another_study_refuses_everything(world: World) -> None:
    rows = register((CANARY,)) + register(("MRN-0001",), form="third")
    with pytest.raises(InputError, match="form 'third'"):
        enrol(world.vault, rows, world.spec, world.origin, now=NOW)
    assert world.vault.holdings() == ()


def test_an_enrolment_that_dies_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.vault, "place", dying)
        with pytest.raises(KeyboardInterrupt):
            enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW)
    assert world.vault.holdings() == ()
    assert world.reopen().holdings() == ()
    assert len(world.enrol(CANARY)) == 1


def test_forms_are_registered_once(world: World) -> None:
    assert len(world.history().studies[world.study].forms) == 2
    assert form_registrations(world.spec, world.origin, key(world), world.history()) == ()


def test_synthetic_homes_enrol_all_and_others_nobody(world: World) -> None:
    rows = synthetic_rows(world.vault, world.network, "main", NOW)
    assert [row.patient_id for row in rows] == list(world.vault.patient_ids())
    assert {row.signed_on for row in rows} == {TODAY}
    real = dataclasses.replace(world.network, synthetic=False)
    with pytest.raises(Refused, match="register of signed forms"):
        synthetic_rows(world.vault, real, "main", NOW)


def test_withdrawals_of_a_batch_do_not_keep_the_order_they_came_in(world: World) -> None:
    ids = world.enrol()
    notices = [withdrawal_notice(world.vault.card(one)) for one in ids]
    calls = withdraw_calls([*notices, notices[0]], world.origin.domains)
    assert calls == withdraw_calls(reversed(notices), world.origin.domains)
    assert [len(call.entries) for call in calls] == [6]
    world.send(*calls)
    assert set(world.history().withdrawals) == set(ids)


def test_only_ended_consents_that_the_chain_could_know_are_due(world: World) -> None:
    ids = world.enrol()
    world.vault.note_withdrawal(ids[1], at=NOW)
    assert [one.consent_id for one in due_withdrawals(world.vault, world.history())] == [ids[1]]


def test_the_document_names_the_text_that_was_signed(world: World) -> None:
    one, other = register((CANARY, "MRN-0001"))
    assert signed_document(one, "ab" * 32) != signed_document(one, "cd" * 32)
    assert signed_document(one, "ab" * 32) != signed_document(other, "ab" * 32)


def test_form_ids_belong_to_the_study(world: World) -> None:
    other = Digest(b"\x77" * 32)
    assert not set(form_ids(world.spec, world.study).values()) & set(form_ids(study_spec(), other).values())


def test_the_copy_is_due_where_the_form_says_so_and_the_consent_has_ended(world: World) -> None:
    ids = world.enrol()
    world.vault.note_withdrawal(ids[0], at=NOW)
    world.vault.note_withdrawal(ids[1], at=NOW, mark="superseded")
    assert due_deletions(world.vault, world.history()) == (ids[0],)
    assert world.vault.delete_copy(ids[0]) == 1
    assert due_deletions(world.vault, world.history()) == ()


def test_a_consents_state_is_told_from_vault_and_chain(world: World) -> None:
    before = enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW).minted[0]
    states = [consent_state(world.vault.find(before)[0], world.history(), NOW)]
    world.enrol()
    states.append(consent_state(world.vault.find(before)[0], world.history(), NOW))
    states.append(consent_state(world.vault.find(before)[0], world.history(), QUARTER_END))
    world.send(*withdraw_calls([withdrawal_notice(world.vault.card(before))], world.origin.domains))
    states.append(consent_state(world.vault.find(before)[0], world.history(), NOW))
    assert states == [ConsentState.MINTED, ConsentState.ACTIVE, ConsentState.EXPIRED, ConsentState.WITHDRAWN]


# --------------------------------------------------------------------------------------------------------------------
# Life cycle


def broad(notified: datetime.date | None) -> list[RegisterRow]:
    return [dataclasses.replace(one, notified_on=notified) for one in register((CANARY,))]


def test_a_broad_form_is_neither_granted_nor_used_before_the_notice_period_ends(tmp_path: Path) -> None:
    world = World.found(tmp_path, spec=study_spec(broad=True, notice_days=14))
    untold = enrol(world.vault, broad(None), world.spec, world.origin, now=NOW)
    assert (untold.minted, ["notified_on" in one.why for one in untold.refused]) == ((), [True])
    enrol(world.vault, broad(TODAY), world.spec, world.origin, now=NOW)
    assert pending_calls(world.vault, world.origin, key(world)) == ()
    (leaf,) = world.vault.leaves(world.study)
    assert leaf.usable_from > NOW
    place_due(world.vault, world.spec, world.study, now=leaf.usable_from - 1)
    assert pending_calls(world.vault, world.origin, key(world)) == ()
    place_due(world.vault, world.spec, world.study, now=leaf.usable_from)
    assert len(anchors(world)) == 1


def test_a_production_home_anchors_once_a_day(world: World) -> None:
    for patient, later in ((CANARY, 0), (world.vault.patient_ids()[1], 3600)):
        enrol(world.vault, register((patient,)), world.spec, world.origin, now=NOW + later, daily=True)
    assert [len(one.entries[0].roots) for one in anchors(world)] == [1]
    place_due(world.vault, world.spec, world.study, now=NOW + 86_400, daily=True)
    assert [len(one.entries[0].roots) for one in anchors(world)] == [2]  # one transaction, one statement
    assert all(one.entries[0].count == 32 for one in anchors(world))


def test_a_form_that_does_not_allow_the_study_enrols_nobody(tmp_path: Path) -> None:
    world = World.found(tmp_path, spec=study_spec(purposes=["GRU", "IRB"]))
    report = enrol(world.vault, register((CANARY,)), world.spec, world.origin, now=NOW)
    assert report.minted == ()
    assert [("IRB" in one.why, one.line) for one in report.refused] == [(True, 2)]


def test_entered_in_error_deletes_the_copy_whatever_the_form_says_and_looks_like_a_withdrawal(tmp_path: Path) -> None:
    world = World.found(tmp_path, spec=study_spec(on_withdrawal="stop"))
    (one,) = world.enrol(CANARY)
    assert world.vault.note_withdrawal(one, at=NOW, mark="entered-in-error", reason="merged records")
    assert due_deletions(world.vault, world.history()) == (one,)
    world.send(*withdraw_calls(due_withdrawals(world.vault, world.history()), world.origin.domains))
    assert one in world.history().withdrawals
    assert consent_state(world.vault.find(one)[0], world.history(), NOW) is ConsentState.ENTERED_IN_ERROR
    late = register((CANARY,), signed=TODAY)
    assert enrol(world.vault, late, world.spec, world.origin, now=NOW).minted == ()  # not signed after the end


def test_who_agrees_again_gets_another_consent_and_the_old_one_stays_ended(world: World) -> None:
    (old,) = world.enrol(CANARY)
    world.vault.note_withdrawal(old, at=NOW)
    world.send(*withdraw_calls(due_withdrawals(world.vault, world.history()), world.origin.domains))
    again = register((CANARY,), signed=TODAY + datetime.timedelta(days=1))
    fresh = enrol(world.vault, again, world.spec, world.origin, now=NOW + 86_400).minted
    assert len(fresh) == 1
    assert fresh != (old,)
    assert consent_state(world.vault.find(old)[0], world.history(), NOW) is ConsentState.WITHDRAWN


def test_a_known_consent_takes_a_representatives_new_authority_and_day_of_review(world: World) -> None:
    def enrols(**changes: object) -> tuple[Digest, ...]:
        rows = [dataclasses.replace(one, signer="guardian", **changes) for one in register((CANARY,))]
        done = enrol(world.vault, rows, world.spec, world.origin, now=NOW)
        assert done.known == (one,)
        return done.updated

    def kept() -> tuple[str, str]:
        linked = world.vault._linked_consent("test", one)
        return linked["authority"], world.vault._consent(one)["review_on"]

    (one,) = world.enrol(CANARY)
    document, later = world.vault.document(one), TODAY + datetime.timedelta(days=365)
    assert enrols(authority="court order", review_on=TODAY) == (one,)
    assert kept() == ("court order", TODAY.isoformat())
    assert world.vault.due_for_review(TODAY.isoformat()) == (one,)
    assert enrols(review_on=later) == (one,)
    assert kept() == ("court order", later.isoformat()), "an empty cell changes nothing"
    assert world.vault.due_for_review(TODAY.isoformat()) == ()
    assert enrols(authority="court order", review_on=later) == enrols() == ()
    assert world.vault.document(one) == document, "what was signed stays what was signed"


def test_a_representatives_authority_and_review_day_stay_in_the_vault(world: World) -> None:
    day = TODAY + datetime.timedelta(days=30)
    rows = [
        dataclasses.replace(one, signer="guardian", authority="court order", review_on=day)
        for one in register((CANARY,))
    ]
    (one,) = enrol(world.vault, rows, world.spec, world.origin, now=NOW).minted
    assert world.vault.due_for_review((day - datetime.timedelta(days=1)).isoformat()) == ()
    assert world.vault.due_for_review(day.isoformat()) == (one,)
    world.vault.note_withdrawal(one, at=NOW)
    assert world.vault.due_for_review(day.isoformat()) == ()
