from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from crypto.digest import Digest
from crypto.statements import Vote
from node import trail as trails
from node.errors import InputError, NotFound
from node.events import EventIndex
from node.history import History
from node.notices import hash_of_result
from node.records import (
    Abstained,
    Committed,
    ErasureExtended,
    ErasureOpened,
    ErasurePlanned,
    ErasureRefused,
    Finalisation,
    Grants,
    Logged,
    Record,
    RoundFinal,
    RoundOpened,
    Withdrawals,
)
from node.study import parse_canonical, parse_sections
from node.trail import KINDS, find_round, lineage, participation, round_report, success, tell, trail
from tests.fakes.network import spec
from tests.node.audit.test_records import make_world
from tests.node.ledger import test_erasure, test_rounds
from tests.node.ledger.world import World, one_of


def index_of(logged: Iterable[Logged]) -> EventIndex:
    index = EventIndex()
    index.extend(tell(logged))
    return index


def folded(world: World) -> History:
    history = History()
    history.apply_all(world.logged())
    return history


@pytest.fixture(scope="module")
def erased() -> World:
    """A study that trained, forked for an erasure, replayed and closed."""
    world = make_world()
    test_erasure.test_an_erasure_from_plan_to_close(world)
    return world


@pytest.fixture(scope="module")
def mixed() -> tuple[World, Digest]:
    """Five members. Round 1 has all; in round 2 member 1 is refused, 3 abstains, 4 is silent; round 3 is open."""
    world = make_world(5)
    study, first = world.study(min_included=2)
    form = world.register(world.form(study))
    consent, withdrawal = world.patient("one")
    world.send(Grants((world.grant_entry(form, 0, consent),)))
    second = one_of(world.finish(first.round_id), RoundOpened)
    world.send(Withdrawals((withdrawal,)))
    world.commit(second.round_id, [0, 1, 2])
    world.abstain(second.round_id, [3])
    world.pass_time(second.opened_at + 120)
    result = replace(world.result(second.round_id, 0b00101), codes=7 << 4)
    world.send(finalise(world, second.round_id, 0b00111, result))
    return world, study


def finalise(world: World, round_id: Digest, decided: int, result: Any) -> Finalisation:
    vote = Vote(round_id, 0, decided, hash_of_result(result))
    return Finalisation(world.study_of(round_id), round_id, 0, result, world.votes(range(4), vote))


# --------------------------------------------------------------------------------------------------------------------
# The trail


@pytest.mark.parametrize("method, told", [(1, "by rollback, in"), (5, "by the approximate method federaser, in")])
def test_an_approximate_method_is_called_so(erased: World, method: int, told: str) -> None:
    logged = [
        replace(one, record=replace(one.record, method=method)) if isinstance(one.record, ErasurePlanned) else one
        for one in erased.logged()
    ]
    (what,) = [event.what for event in tell(logged) if "replays from" in event.what]
    assert told in what


def test_every_record_is_told_in_words(erased: World) -> None:
    entries = trail(index_of(erased.logged()))
    assert len(entries) == len(erased.logged())
    for entry, logged in zip(entries, erased.logged(), strict=True):
        assert list(entry) == ["time", "block", "transaction", "who", "kind", "what", "deployment", "study_unknown"]
        assert (entry["time"], entry["block"]) == (logged.timestamp, logged.position.block)
        assert entry["who"]
        assert entry["what"]
    json.dumps(entries)


def test_there_are_words_for_every_kind_of_record() -> None:
    assert {kind.__name__ for kind in trails._WORDS} == {kind.__name__ for kind in Record.__args__}
    assert {"round-final", "withdrawn", "erasure-stepped"} <= set(KINDS)


def test_a_member_filter_shows_its_acts_and_what_names_it(mixed: tuple[World, Digest]) -> None:
    world, _ = mixed
    kinds = [entry["kind"] for entry in trail(index_of(world.logged()), member=3)]
    assert kinds.count("abstained") == 1
    assert kinds.count("committed") == 1
    assert "member-admitted" in kinds
    who = {entry["who"] for entry in trail(index_of(world.logged()), member=3, kind="committed")}
    assert who == {folded(world).registry.members[3].name}


def test_a_consent_filter_shows_its_grant_and_its_withdrawal(mixed: tuple[World, Digest]) -> None:
    world, _ = mixed
    consent, _ = world.patient("one")
    entries = trail(index_of(world.logged()), consent=consent)
    assert [entry["kind"] for entry in entries] == ["granted", "withdrawn"]
    assert all(consent.hex() in entry["what"] for entry in entries)
    assert trail(index_of(world.logged()), consent=world.patient("another")[0]) == []


def test_times_are_included_at_both_ends(mixed: tuple[World, Digest]) -> None:
    logged = mixed[0].logged()
    at = logged[7].timestamp
    shown = trail(index_of(logged), since=at, until=at)
    assert len(shown) == sum(one.timestamp == at for one in logged)


def test_a_study_filter_leaves_out_membership_and_other_studies(mixed: tuple[World, Digest]) -> None:
    world, study = mixed
    kinds = {entry["kind"] for entry in trail(index_of(world.logged()), study=study)}
    assert "member-admitted" not in kinds
    assert {"study-created", "joined", "round-opened", "committed", "granted", "withdrawn"} <= kinds
    assert trail(index_of(world.logged()), study=Digest(b"\x05" * 32)) == []


def test_a_withdrawal_of_an_unknown_study_is_marked_and_shown_where_the_study_was_there(
    mixed: tuple[World, Digest],
) -> None:
    world = make_world()
    early, late = (world.patient(name) for name in ("early", "late"))
    world.send(Withdrawals((early[1],)))
    study, _ = world.study()
    world.send(Withdrawals((late[1],)))
    index = index_of(world.logged())
    (shown,) = trail(index, study=study, kind="withdrawn")
    assert shown["study_unknown"] is True
    assert shown["what"].startswith(f"withdraws consent {late[0].hex()}: given in an anchor")
    assert len(trail(index, kind="withdrawn")) == 2, "without a study nothing is left out"
    (known,) = trail(index_of(mixed[0].logged()), study=mixed[1], kind="withdrawn")
    assert known["study_unknown"] is False
    assert "anchor" not in known["what"]


def test_a_step_says_nothing_of_a_copy_that_another_study_may_need(erased: World) -> None:
    steps = [entry["what"] for entry in trail(index_of(erased.logged()), kind="erasure-stepped")]
    assert any(what.endswith(": no copy serves this study") for what in steps), steps
    assert not any("copy deleted" in what for what in steps)


def test_an_erasure_s_due_date_and_the_ground_of_a_refusal_are_told_in_words(erased: World) -> None:
    logged = erased.logged()
    at, opened = next((i, one) for i, one in enumerate(logged) if isinstance(one.record, ErasureOpened))
    batch, due = opened.record.batch, int(datetime(2027, 1, 15, 9, 30, tzinfo=UTC).timestamp())
    records = [replace(opened.record, due_at=due), ErasureExtended(batch, due), ErasureRefused(batch, 5)]
    of = [replace(opened, position=replace(opened.position, entry=i), record=one) for i, one in enumerate(records)]
    told = [event.what for event in tell([*logged[:at], *of])][-3:]
    assert told[0].endswith(", due 2027-01-15 09:30:00 UTC")
    assert "once, to be due 2027-01-15 09:30:00 UTC" in told[1]
    assert told[2].endswith(": establishment, exercise or defence of legal claims (Art. 17(3)(e) GDPR)")


def test_an_erasure_s_records_belong_to_its_study_and_its_controller(erased: World) -> None:
    study = next(iter(folded(erased).studies))
    entries = trail(index_of(erased.logged()), study=study, kind="erasure-stepped")
    assert len(entries) == 3, "five steps under three signatures"
    assert {entry["who"] for entry in entries} == {folded(erased).registry.members[3].name}
    (evidence,) = trail(index_of(erased.logged()), study=study, kind="evidence-attested")
    assert evidence["who"] == folded(erased).registry.auditors[0].name
    assert evidence["what"].startswith("attests a local replay of erasure ")


def test_an_unknown_kind_is_refused_with_the_known_ones(mixed: tuple[World, Digest]) -> None:
    with pytest.raises(InputError, match=r"'comitted' is none of .*committed"):
        trail(index_of(mixed[0].logged()), kind="comitted")


def test_every_entry_has_the_hash_of_its_transaction(mixed: tuple[World, Digest]) -> None:
    logged: list[Logged] = mixed[0].logged()
    told = [entry["transaction"] for entry in trail(index_of(logged))]
    assert told == [f"0x{one.transaction.hex()}" for one in logged]


def test_a_round_s_report_has_the_transactions_of_its_opening_its_answers_its_seal_and_its_end(
    mixed: tuple[World, Digest],
) -> None:
    world, study = mixed
    found = round_report(folded(world), study, 2)
    by_kind = {
        kind: [f"0x{one.transaction.hex()}" for one in world.logged() if isinstance(one.record, kind)]
        for kind in (RoundOpened, Committed, Abstained, RoundFinal)
    }
    assert found["opened"]["transaction"] == by_kind[RoundOpened][1]
    assert found["ended"]["transaction"] == by_kind[RoundFinal][1]
    assert found["sealed"] == {**found["sealed"], "block": None, "transaction": None}, (
        "member 4 was silent: by its time"
    )
    commit, abstention = by_kind[Committed][-1], by_kind[Abstained][-1]
    assert [part["transaction"] for part in found["members"]] == [commit, commit, commit, abstention, None]
    first = round_report(folded(world), study, 1)
    assert first["sealed"]["transaction"] == by_kind[Committed][0], "the last answer filled the bitmap"


# --------------------------------------------------------------------------------------------------------------------
# Participation


def test_participation_says_who_missed_what(mixed: tuple[World, Digest]) -> None:
    world, study = mixed
    found = participation(folded(world), study)
    assert [(row["height"], row["state"]) for row in found["rounds"]] == [(1, "final"), (2, "final"), (3, "open")]
    second = {part["member"]: part for part in found["rounds"][1]["members"]}
    assert [second[m]["included"] for m in range(5)] == [True, False, True, False, False]
    assert second[1]["invalid"] == "CONSENT"
    assert second[3]["abstained"]
    assert not second[3]["no_commit"]
    assert second[4]["no_commit"]
    assert [second[m]["missed"] for m in range(5)] == [None, None, None, None, "commit"]
    assert second[3]["voted"]
    assert not second[4]["voted"]
    totals = {one["member"]: one for one in found["totals"]}
    assert (totals[0]["committed"], totals[0]["included"], totals[0]["asked"]) == (2, 2, 3)
    assert (totals[1]["invalid"], totals[3]["abstained"], totals[4]["no_commit"]) == (1, 1, 1)
    assert totals[4]["missed"] == [{"branch": 0, "height": 2, "missed": "commit"}]
    json.dumps(found)


def test_whose_blobs_were_unavailable_missed_its_data() -> None:
    world = make_world()
    test_rounds.test_whose_blobs_were_unavailable_misses_the_round(world)
    history = folded(world)
    rows = participation(history, next(iter(history.studies)))["rounds"]
    missed = [part["missed"] for row in rows for part in row["members"]]
    assert "data" in missed
    unavailable = [part for row in rows for part in row["members"] if part["unavailable"]]
    assert all(part["committed"] and not part["included"] and part["invalid"] is None for part in unavailable)


def test_a_suspended_member_is_not_asked_and_misses_nothing() -> None:
    world = make_world()
    test_rounds.test_who_misses_rounds_in_a_row_is_not_waited_for_and_still_votes(world)
    history = folded(world)
    found = participation(history, next(iter(history.studies)))
    suspended = [part for row in found["rounds"] for part in row["members"] if part["suspended"]]
    assert suspended
    assert all(not part["asked"] and part["missed"] is None for part in suspended)


@pytest.mark.parametrize(
    "members, share, missing",
    [(0, 0.5, None), (5, 0.5, None), (0, 0.6, "2 members took part, 5 are wanted"), (2, 1.0, None)],
)
def test_the_study_s_own_rules_say_what_may_be_called_a_success(
    members: int, share: float, missing: str | None, mixed: tuple[World, Digest]
) -> None:
    """Round 1 includes all five, round 2 members 0 and 2; two more are to come."""
    world, study = mixed
    found = success(folded(world), study, {"members": members, "rounds_share": share})
    assert found["rounds_agreed"] == 2
    assert not found["success"], "it is not over"
    assert found["why"][1:] == ([] if missing is None else [missing])
    assert len(found["took_part"]) + len(found["left_out"]) == 5
    json.dumps(found)


def test_a_specification_that_says_nothing_of_success_is_the_one_it_was() -> None:
    silent = spec()
    assert b'"success"' not in silent.canonical
    tree = json.loads(silent.canonical)
    assert parse_sections({**tree, "success": {"members": 0, "rounds_share": 0.5}}).spec_hash == silent.spec_hash
    strict = parse_sections({**tree, "success": {"rounds_share": 1.0}})
    assert strict.spec_hash != silent.spec_hash
    assert parse_canonical(strict.canonical).sections["success"] == {"members": 0, "rounds_share": 1.0}
    assert parse_canonical(silent.canonical).sections["success"] == {"members": 0, "rounds_share": 0.5}


def test_an_unknown_study_is_not_found(mixed: tuple[World, Digest]) -> None:
    history = folded(mixed[0])
    rules = {"members": 0, "rounds_share": 0.5}
    for ask in (participation, lineage, lambda history, study: success(history, study, rules)):
        with pytest.raises(NotFound):
            ask(history, Digest(b"\x05" * 32))


# --------------------------------------------------------------------------------------------------------------------
# One round, all models


def test_a_round_is_found_by_height_and_by_the_beginning_of_its_id(mixed: tuple[World, Digest]) -> None:
    world, study = mixed
    history = folded(world)
    by_height = round_report(history, study, 2)
    assert round_report(history, study, by_height["round_id"][:10]) == by_height
    assert round_report(history, study, "0x" + by_height["round_id"].upper()) == by_height
    assert by_height["result"]["invalid"] == {"1": "CONSENT"}
    assert by_height["result"]["outcome"] == "model"
    assert by_height["result"]["trust_permille"] == [1000] * 5
    assert len(by_height["commitments"]) == 3
    assert by_height["sealed"]["block"] is None  # by time, not by the last answer
    assert round_report(history, study, 3)["result"] is None
    json.dumps(by_height)


@pytest.mark.parametrize("which", [0, 9, "ffffffffffff", "zz"])
def test_a_round_that_does_not_exist_is_not_found(mixed: tuple[World, Digest], which: int | str) -> None:
    with pytest.raises(NotFound):
        find_round(folded(mixed[0]), mixed[1], which)


def test_too_little_of_a_round_id_is_refused(mixed: tuple[World, Digest]) -> None:
    with pytest.raises(InputError, match="3 rounds begin"):
        find_round(folded(mixed[0]), mixed[1], "0x")


def test_lineage_shows_the_branches_with_their_models(erased: World) -> None:
    history = folded(erased)
    study = next(iter(history.studies))
    found = lineage(history, study)
    assert (found["training_branch"], found["serving_branch"]) == (1, 1)
    old, new = found["branches"]
    assert (old["branch"], old["parent"], new["parent"], new["base_height"]) == (0, None, 0, 1)
    assert new["base_model"] == old["models"][0]["model_root"]
    assert new["erasure"] == next(iter(history.erasures)).hex()
    assert [one["height"] for one in new["models"]][:2] == [2, 3]
    json.dumps(found)


def test_no_report_names_a_patient_or_counts_them(mixed: tuple[World, Digest]) -> None:
    world, study = mixed
    history = folded(world)
    consent = world.patient("one")[0].hex()
    shown = json.dumps([participation(history, study), round_report(history, study, 1), lineage(history, study)])
    assert consent not in shown
