"""What people are shown of a member, a consent, an erasure: only what the chain and the sets say, nothing guessed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from crypto.digest import Digest
from node.duo import codes_of
from node.errors import InputError, NotFound
from node.history import History
from node.records import Grants, Position, RoundOpened, Withdrawals
from node.reports import disclosures
from node.reports.consent import NOT_KNOWN, USE, consent_report
from node.reports.erasure import erasure_report, find_erasure
from node.reports.member import member_report
from tests.node.audit.test_records import make_world
from tests.node.ledger import test_erasure
from tests.node.ledger.world import World, one_of, word


def folded(world: World) -> History:
    history = History()
    history.apply_all(world.logged())
    return history


def carried(history: History, position: Position) -> str:
    return f"0x{history.transactions[position].hex()}"


@pytest.fixture(scope="module")
def erased() -> History:
    """A study that trained, forked for an erasure of member 3, replayed and closed."""
    world = make_world()
    test_erasure.test_an_erasure_from_plan_to_close(world)
    return folded(world)


@pytest.fixture(scope="module")
def withdrawn() -> tuple[History, Digest, Digest]:
    """A consent of member 0 granted in round 1 and withdrawn while round 2 ran, which then went on without member 0."""
    world = make_world(4)
    study, first = world.study()
    form = world.register(world.form(study))
    consent, withdrawal = world.patient("one")
    world.send(Grants((world.grant_entry(form, 0, consent),)))
    second = one_of(world.finish(first.round_id), RoundOpened)
    world.commit(second.round_id, [1, 2, 3])
    world.send(Withdrawals((withdrawal,)))
    world.abstain(second.round_id, [0])
    return folded(world), study, consent


def test_an_erasure_s_states_come_in_order_with_their_times_and_everybody_s_attestation(erased: History) -> None:
    (batch,) = erased.erasures
    found = erasure_report(erased, batch, erased.erasures[batch].opened.due_at + 1)
    states = [one["state"] for one in found["times"]]
    expected = ["excluded", "planned", "replaying", "head_moved", "closed_with_exceptions"]
    assert [one for one in states if one in expected] == expected
    assert [one["block"] for one in found["times"]] == sorted(one["block"] for one in found["times"])
    for one in found["times"]:
        assert one["transaction"] == f"0x{erased.erasures[batch].marks[one['state']].transaction.hex()}"
    assert found["state"] == "closed_with_exceptions"
    assert found["exceptions"] == [erased.registry.members[2].name]
    assert [one["member"] for one in found["recipients"] if one["purged"] is None] == [2]
    assert found["clock"]["overdue"] is False, "the head moved before it was due"
    json.dumps(found)


def test_a_replay_that_opens_in_its_plans_transaction_comes_after_the_plan() -> None:
    found = make_world()
    test_erasure.test_a_plan_between_rounds_takes_over_at_once(lambda n: found)
    history = folded(found)
    (batch,) = history.erasures
    states = [one["state"] for one in erasure_report(history, batch, 0)["times"]]
    assert states.index("replaying") == states.index("planned") + 1


def test_an_erasure_that_is_due_and_has_not_moved_the_head_is_overdue() -> None:
    world = make_world()
    study, first = world.study()
    world.finish(first.round_id)
    test_erasure.opened_batch(world, study)
    history = folded(world)
    (batch,) = history.erasures
    due = history.erasures[batch].opened.due_at
    assert erasure_report(history, batch, due)["clock"]["overdue"] is False
    assert erasure_report(history, batch, due + 1)["clock"]["overdue"] is True
    assert erasure_report(history, batch, due - 3 * 86_400)["clock"]["days_left"] == 3


def test_an_erasure_is_found_by_the_beginning_of_its_id_or_not_at_all(erased: History) -> None:
    (batch,) = erased.erasures
    assert find_erasure(erased, "0x" + batch.hex()[:8]) == batch
    with pytest.raises(NotFound):
        find_erasure(erased, "00")
    for nothing in ("", " ", "0x"):  # every id begins with it, also where there is one erasure only
        with pytest.raises(InputError, match="name the erasure"):
            find_erasure(erased, nothing)


def test_a_withdrawn_consent_names_the_round_it_met_and_what_became_of_the_hospital_s_part(
    withdrawn: tuple[History, Digest, Digest],
) -> None:
    history, study, consent = withdrawn
    found = consent_report(history, consent)
    assert found["study"] == study.hex()
    assert found["hospital"]["index"] == 0
    assert found["form"]["custody"] in ("hospital-attested", "patient-signed", "synthetic")
    assert found["form"]["duo"] == " ".join(codes_of(found["form"]["purposes"])) != ""
    assert found["withdrawal"]["time"] == history.withdrawals[consent][0].at
    assert [(one["round"], one["hospital"]) for one in found["in_flight"]] == [(2, "abstained")]
    granted, ended = history.grants[consent].position, history.withdrawals[consent][1]
    assert found["granted"] == {"block": granted.block, "transaction": carried(history, granted)}
    assert found["withdrawal"]["transaction"] == carried(history, ended)
    abstention = history.rounds[list(history.rounds)[1]].answer_of(0)
    assert abstention is not None
    assert found["in_flight"][0]["transaction"] == carried(history, abstention.position)


def test_the_erasure_that_a_consent_is_in_is_told_where_it_is_known(erased: History) -> None:
    (batch,) = erased.erasures
    assert consent_report(erased, Digest(bytes(32)))["erasure"] is None
    found = consent_report(erased, Digest(bytes(32)), erasure=batch)["erasure"]
    one = erased.erasures[batch]
    assert found == {
        "erasure": batch.hex(),
        "state": "closed_with_exceptions",
        "opened": one.opened.opened_at,
        "due": one.due_at,
        "ended": one.times["closed_with_exceptions"],
    }


def test_without_a_proof_the_uses_of_a_consent_are_not_known_here_and_not_none(
    withdrawn: tuple[History, Digest, Digest],
) -> None:
    history, _, consent = withdrawn
    found = consent_report(history, consent)
    assert found["uses_known"] is False
    assert found["uses"] == NOT_KNOWN


def test_with_a_proof_every_use_names_who_could_open_the_update(withdrawn: tuple[History, Digest, Digest]) -> None:
    history, _, consent = withdrawn
    first = next(iter(history.rounds))
    uses = [{"round_id": first.hex(), "branch": 0, "height": 1, "finding": "present"}]
    found = consent_report(history, consent, uses=uses)
    assert found["uses_known"] is True
    names = [history.registry.members[i].name for i in range(4)]
    assert found["uses"][0]["recipients"] == names
    assert tuple(found["uses"][0]) == USE
    commitment = history.rounds[first].answer_of(0)
    assert commitment is not None
    assert found["uses"][0]["transaction"] == carried(history, commitment.position)
    absent = consent_report(history, consent, uses=[{**uses[0], "finding": "absent"}])
    assert absent["uses"][0]["recipients"] == []


def test_a_consent_that_nobody_knows_has_no_story() -> None:
    found = consent_report(folded(make_world()), word("nobody's"))
    assert (found["granted"], found["withdrawal"], found["in_flight"]) == (None, None, [])


def test_a_member_s_page_counts_its_rounds_and_names_the_erasures_it_controls(erased: History) -> None:
    page = member_report(erased, 3, 0)
    (batch,) = erased.erasures
    assert [one["erasure"] for one in page["erasures"]] == [batch.hex()]
    assert page["owes"] == []
    assert page["studies"][0]["asked"] >= page["studies"][0]["included"] > 0
    assert member_report(erased, 0, 0)["erasures"] == []


def test_disclosures_have_one_row_a_recipient_and_leave_out_the_hospital_itself(
    withdrawn: tuple[History, Digest, Digest],
) -> None:
    history, _, _ = withdrawn
    names = [history.registry.members[i].name for i in range(4)]
    rounds = list(history.rounds)
    uses = [
        {"round_id": one.hex(), "finding": finding} for one, finding in zip(rounds, ("present", "absent"), strict=True)
    ]
    rows = disclosures.of_consent(history, "s", 0, uses)
    commitment = history.rounds[rounds[0]].answer_of(0)
    assert commitment is not None
    assert [row["transactions"] for row in rows] == [[carried(history, commitment.position)]] * 3
    assert [row["recipient"] for row in rows] == sorted(names[1:])
    assert {row["count"] for row in rows} == {1}
    rows.append(disclosures.of_unknown("s", "rounds 3 of line 0"))
    assert {tuple(row) for row in rows} == {disclosures.COLUMNS}


def test_of_an_erased_patient_the_archive_answers_with_days_and_names() -> None:
    kept = SimpleNamespace(study_name="s", first_use_on="2026-01-02", last_use_on="2026-02-03", recipients=("a", "b"))
    never = SimpleNamespace(study_name="s", first_use_on="", last_use_on="", recipients=("a",))
    rows = disclosures.of_archive("a", [kept, never])
    assert [(row["date"], row["recipient"], row["last_date"]) for row in rows] == [("2026-01-02", "b", "2026-02-03")]
    assert rows[0]["transactions"] == []
    assert tuple(rows[0]) == disclosures.COLUMNS
