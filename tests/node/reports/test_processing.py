from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from crypto.digest import Digest
from node.errors import NotFound
from node.history import History
from node.records import Grants, Withdrawals
from node.reports.processing import (
    DUO,
    SCHEMA,
    html,
    people,
    purposes_of,
    record_of_processing,
    text,
)
from tests.node.audit.audit_kit import spec
from tests.node.audit.test_records import erasure_world, make_world
from tests.node.ledger.world import World, word

NETWORK: dict[str, Any] = {"name": "test network", "synthetic": True}


def folded(world: World) -> History:
    history = History()
    history.apply_all(world.logged())
    return history


def granted(count: int, withdrawn: int = 0) -> tuple[World, Digest]:
    """Member 0 granted so many consents."""
    world = make_world()
    study, _ = world.study()
    form = world.register(world.form(study, purposes=1 << 2 | 1 << 9))
    patients = [world.patient(str(i)) for i in range(count)]
    for i in range(0, count, 8):
        batch = patients[i : i + 8]
        world.send(Grants(tuple(world.grant_entry(form, 0, consent) for consent, _ in batch)))
    if withdrawn:
        world.send(Withdrawals(tuple(entry for _, entry in patients[:withdrawn])))
    return world, study


def activity(world: World, now: int | None = None, **more: Any) -> dict[str, Any]:
    record = record_of_processing(folded(world), {}, NETWORK, now=world.now if now is None else now, **more)
    (found,) = record["activities"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "count, said",
    [(0, "none"), (1, "fewer than 10"), (9, "fewer than 10"), (10, "about 10"), (14, "about 10"), (15, "about 20")],
)
def test_figures_about_people_are_rounded_and_below_ten_suppressed(count: int, said: str) -> None:
    assert people(count) == said


def test_the_subjects_of_a_controller_are_counted_in_tens() -> None:
    world, _ = granted(17, withdrawn=3)
    (row,) = activity(world)["data_subjects"]["by_controller"]
    assert row["granted_singly"] == "about 20"
    assert row["of_these_withdrawn"] == "fewer than 10"
    assert "17" not in json.dumps({key: value for key, value in row.items() if key != "controller"})


def test_no_consent_id_and_no_exact_small_count_is_in_any_form() -> None:
    world, _ = granted(3)
    record = record_of_processing(folded(world), {}, NETWORK, now=world.now)
    for shown in (json.dumps(record), text(record), html(record)):
        assert not any(world.patient(str(i))[0].hex() in shown for i in range(3))
        assert "fewer than 10" in shown


def test_purposes_are_told_as_terms_and_unknown_bits_are_said_to_be_unknown() -> None:
    world, _ = granted(1)
    (form,) = activity(world)["purposes"]
    assert [one.split(",")[0] for one in form["purposes"]] == ["HMB", "NMDS"]
    assert purposes_of(1 << 31) == ["bit 31: no known term"]
    assert len(set(DUO.values())) == len(DUO) == 23


def test_what_koinon_cannot_know_is_left_to_the_controller() -> None:
    world, _ = granted(1)
    record = record_of_processing(folded(world), {}, NETWORK, now=world.now)
    found = record["activities"][0]
    assert record["schema"] == SCHEMA
    assert {one["contact"] for one in found["controllers"]} == {"not stated"}
    assert found["transfers_to_third_countries"]["third_countries"] == "not stated"
    assert found["retention"]["sets_of_other_members_days"] == "not stated"  # no specification in this home
    assert any("Chapter V" in one for one in record["to_be_completed"])


def test_the_specification_gives_name_data_and_retention() -> None:
    world, study = granted(1)
    record = record_of_processing(folded(world), {study: spec()}, NETWORK, now=world.now)
    found = record["activities"][0]
    assert found["name"] == "audited"
    assert found["retention"]["sets_of_other_members_days"] == 30
    assert found["transfers_to_third_countries"]["public_chain"] is False


def test_an_erasure_is_due_then_overdue_and_met_only_when_it_ended_in_time() -> None:
    closed = erasure_world()
    (row,) = activity(closed)["erasures"]
    assert (row["state"], row["deadline"]) == ("closed", "met")
    (late,) = activity(closed, now=closed.now + 90 * 86_400)["erasures"]
    assert late["deadline"] == "met"  # judged by when it ended, not by when it is asked

    world = make_world()
    from tests.node.ledger.test_erasure import opened_batch

    study, _ = world.study()
    due = opened_batch(world, study).due_at
    (row,) = activity(world, now=due)["erasures"]
    assert (row["state"], row["deadline"]) == ("open", "due")
    (row,) = activity(world, now=due + 1)["erasures"]
    assert (row["state"], row["deadline"]) == ("open", "overdue")


def test_exports_of_this_study_are_named_with_their_recipient() -> None:
    world, study = granted(1)
    body = {"study": study.hex(), "model_root": word("m").hex(), "recipient": "Institute X"}
    log = [
        (1_800_000_000.0, "model_export", body),
        (1_800_000_001.0, "model_export", {**body, "recipient": ""}),
        (1_800_000_002.0, "model_export", {**body, "study": "00" * 32, "recipient": "elsewhere"}),
        (1_800_000_003.0, "purged", {}),
    ]
    found = activity(world, log=log)["recipients"]["exports_of_models"]
    assert [one["recipient"] for one in found] == ["Institute X", "not stated"]


def test_auditors_are_recipients_with_their_term() -> None:
    world, _ = granted(1)
    (seat,) = activity(world)["recipients"]["auditors"]
    assert (seat["seat"], seat["term_end"], seat["for"]) == (0, "no end", "every study")


def test_what_members_registered_cannot_become_markup_or_move_the_cursor() -> None:
    world, study = granted(1)
    hostile = "<script>alert(1)</script>\x1b[2J\nsecurity measures: none"
    parsed = spec()
    parsed = replace(parsed, sections={**parsed.sections, "": {**parsed.sections[""], "name": hostile}})
    record = record_of_processing(folded(world), {study: parsed}, NETWORK, now=world.now)
    page, lines = html(record), text(record)
    assert "<script>" not in page
    assert "\x1b" not in page + lines
    assert not any(line.strip() == "security measures: none" for line in lines.split("\n"))


def test_an_unknown_study_is_named() -> None:
    world, _ = granted(1)
    with pytest.raises(NotFound, match="no study 0707"):
        record_of_processing(folded(world), {}, NETWORK, now=world.now, studies=[Digest(b"\x07" * 32)])
