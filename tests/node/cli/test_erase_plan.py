"""`koinon erase plan --dry-run` over the homes of a real network: what it counts, what it refuses, what it leaves."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crypto.sealing import BlobKind
from fl_engine.unlearning import UNLEARNERS
from node import methods
from node.erasure import DUE_S
from node.home import open_home
from node.runner import read_history
from tests.node.audit.audit_kit import MEMBERS, ROUNDS, spec
from tests.node.cli.cli_kit import koinon_says

pytestmark = pytest.mark.slow

PATIENT = "MRN-0-03"


def planned(home: Path, *about: object, stdin: str | None = None) -> dict[str, Any]:
    """The one study of a plan."""
    code, out, err = koinon_says("erase", "plan", "--dry-run", "--home", home, *about, "--json", stdin=stdin)
    assert code == 0, err
    document = json.loads(out)
    assert document["schema"] == "koinon.erase-plan/1"
    assert PATIENT not in out
    [study] = document["data"]["studies"]
    study["now"] = document["data"]["now"]
    return dict(study)


def rows(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["method"]: one for one in study["methods"]}


def notices(home: Path) -> list[tuple[Any, ...]]:
    """Everything that the home says or keeps of what others said, and every mark it keeps for itself."""
    with sqlite3.connect(home / "node.db") as database:
        found = [row for name in ("notices", "meta") for row in database.execute(f"SELECT * FROM {name} ORDER BY 1, 2")]
    database.close()
    return found


def link_uses(home: Path) -> int:
    with sqlite3.connect(home / "node.db") as database:
        [(count,)] = database.execute("SELECT COUNT(*) FROM events WHERE kind = 'link_access'")
    database.close()
    return int(count)


@pytest.fixture
def member(original: Path, tmp_path: Path) -> Path:
    """The home of a hospital whose patients were used in both rounds; its network is stopped."""
    return Path(shutil.copytree(original, tmp_path / "network")) / "member-1"


@pytest.fixture
def erased(purged: Path, tmp_path: Path) -> Path:
    """The same network after an erasure at member-2."""
    return Path(shutil.copytree(purged, tmp_path / "network"))


def test_a_patient_who_was_used_from_the_first_round_on(member: Path) -> None:
    history = read_history(member)
    [number] = history.studies
    found = planned(member, "--patient", "-", stdin=f"{PATIENT}\n")
    assert found["study"] == number.hex()
    assert (found["used_in"], found["unread"], found["first_use"]) == ([1, 2], [], 1)
    assert found["replayed"] == [1, 2]
    assert found["base_model"] == history.studies[number].created.terms.initial_model.hex()
    assert found["state"] is None
    assert found["due_at"] == found["now"] + DUE_S
    assert found["members"] == MEMBERS
    assert list(rows(found)) == list(UNLEARNERS)
    assert found["chosen"] == "rollback"

    ended = [one.ended_at for one in history.rounds.values()]
    begun = [one.opened.opened_at for one in history.rounds.values()]
    took = [end - begin for end, begin in zip(ended, begun, strict=True) if end is not None]
    assert found["round_seconds"] == sum(took) / ROUNDS, "of two rounds the median is the mean"

    from node.training import Arithmetic

    size = Arithmetic(spec()).size
    replay = rows(found)["rollback"]
    assert (replay["rounds"], replay["member_rounds"]) == (ROUNDS, ROUNDS * MEMBERS)
    assert replay["bytes_a_member"] == 4 * size * ROUNDS * MEMBERS
    assert replay["seconds"] == ROUNDS * found["round_seconds"]
    assert replay["levels"] == ["L0", "L1", "L2", "L3", "L4"]
    terms = history.studies[number].created.terms
    assert replay["done_by"] == round(found["now"] + terms.erasure_window + replay["seconds"])
    assert replay["fits"] is True


def test_why_the_other_methods_cannot_be_chosen(member: Path) -> None:
    found = rows(planned(member, "--patient", PATIENT))
    assert [name for name, row in found.items() if row["possible"]] == ["rollback", "rapid"]
    assert all((row["why_not"] is None) == row["possible"] for row in found.values())
    assert "a study founded with shards" in found["sharded"]["why_not"]
    assert "needs a study whose model is a ridge head" in found["ridge"]["why_not"]
    assert "the records that are to be forgotten" in found["ascent"]["why_not"]
    assert found["federaser"]["why_not"] == (
        "is approximate and can never show L2, which this study asks for (policy.evidence)"
    )
    assert (found["federaser"]["rounds"], found["federaser"]["levels"]) == (1, ["L0", "L1", "L2~", "L4"])
    assert found["mode"]["why_not"].startswith("begins at the model that is to go, which members delete before")
    for name, row in found.items():
        why = methods.barred(UNLEARNERS[name], spec())
        assert row["possible"] if why is None else row["why_not"].startswith(why), "as an order would be refused"
    assert found["rapid"]["chosen"] is False
    assert found["rapid"]["rounds"] == 1, "a quarter of two rounds"
    assert found["rapid"]["seconds"] is None, "no round of its kind of work was ever measured"
    for row in found.values():
        assert row["exact"] or not {"L2", "L3"} & set(row["levels"]), "approximate, and never L3"


def test_nothing_is_said_and_only_the_use_of_the_link_is_written(member: Path) -> None:
    before, opened = notices(member), link_uses(member)
    planned(member, "--patient", PATIENT)
    assert notices(member) == before
    assert link_uses(member) > opened, "who looked whom up is an AuditEvent, as anywhere else"
    assert not (member / "control.json").exists()

    opened = link_uses(member)
    code, out, _ = koinon_says("consent", "list", "--home", member, "--json")
    assert code == 0
    consent = json.loads(out)["data"][0]["consent_id"]
    assert planned(member, "--consent", consent)["first_use"] == 1
    assert link_uses(member) == opened, "a consent's id names nobody"


def test_a_card_is_enough_at_any_member_that_can_open_the_sets(member: Path, tmp_path: Path) -> None:
    code, _, err = koinon_says("consent", "show", "--home", member, "--patient", PATIENT, "--cards", tmp_path / "cards")
    assert code == 0, err
    [card] = (tmp_path / "cards").glob("*.json")
    here, there = planned(member, "--card", card), planned(member.parent / "member-3", "--card", card)
    assert there["hospital"] == 0
    assert {**there, "now": 0, "due_at": 0, "window_ends_at": 0, "methods": []} == {
        **here,
        "now": 0,
        "due_at": 0,
        "window_ends_at": 0,
        "methods": [],
    }

    with sqlite3.connect(member.parent / "member-3" / "node.db") as database:  # as when the sets' retention is over
        database.execute("DELETE FROM content_keys WHERE kind = ? AND member = 0", (int(BlobKind.SET),))
    database.close()
    blind = planned(member.parent / "member-3", "--card", card)
    assert (blind["used_in"], blind["unread"], blind["first_use"], blind["methods"]) == ([], [1, 2], None, [])
    code, out, _ = koinon_says("erase", "plan", "--dry-run", "--home", member.parent / "member-3", "--card", card)
    assert code == 0
    assert "not known here" in out
    assert "nothing would be replayed" not in out


def test_after_an_erasure_the_new_line_counts(erased: Path) -> None:
    found = planned(erased / "member-2", "--patient", "MRN-1-04")
    assert (found["used_in"], found["replayed"], found["chosen"]) == ([1, 2], [1, 2], "rollback")
    assert "stored updates" not in rows(found)["ascent"]["why_not"]


def test_a_finished_erasure_names_what_was_purged(erased: Path) -> None:
    history = read_history(erased / "member-2")
    [batch] = history.erasures
    found = planned(erased / "member-2", "--erasure", batch.hex()[:10])
    assert found["erasure"] == batch.hex()
    assert found["replayed"] == [1, 2]
    assert found["due_at"] == history.erasures[batch].due_at
    assert "needs stored updates of rounds 2: purged" in rows(found)["ascent"]["why_not"]
    assert found["state"] in ("head_moved", "recipients_attested")
    assert rows(found)["rollback"]["possible"] is False
    assert rows(found)["rollback"]["why_not"] == "it was carried out"
    assert found["chosen"] == "rollback"


def test_it_is_for_the_officer_and_for_a_dry_run(member: Path) -> None:
    code, _, err = koinon_says("erase", "plan", "--home", member, "--patient", PATIENT)
    assert code == 2
    assert "--dry-run" in err
    code, _, err = koinon_says(
        "erase", "plan", "--dry-run", "--home", member, "--patient", PATIENT, "--role", "operator"
    )
    assert code == 5
    assert "operator" in err
    code, _, err = koinon_says("erase", "plan", "--dry-run", "--home", member, "--patient", "MRN-9-99")
    assert code == 4
    assert "MRN-9-99" not in err
    code, _, err = koinon_says("erase", "plan", "--dry-run", "--home", member, "--erasure", "feed")
    assert code == 4
    assert "feed" in err
    code, _, _ = koinon_says("erase", "plan", "--dry-run", "--home", member)
    assert code == 2


def test_people_read_a_table_and_the_reasons(member: Path) -> None:
    code, out, err = koinon_says("erase", "plan", "--dry-run", "--home", member, "--patient", PATIENT)
    assert code == 0, err
    assert "used in rounds 1 to 2" in out
    assert "replays rounds 1 to 2 by 3 members" in out
    assert "not sharded: needs a study founded with shards" in out
    assert PATIENT not in out
    [chosen] = [line for line in out.splitlines() if line.startswith("rollback")]
    assert chosen.split()[-1] == "yes"
    assert open_home(member).role == "member"


def test_the_status_takes_the_beginning_of_an_erasures_id(erased: Path) -> None:
    [batch] = read_history(erased / "member-2").erasures
    for start in (batch.hex(), batch.hex()[:10]):
        code, out, err = koinon_says("erase", "status", "--home", erased / "member-2", "--erasure", start, "--json")
        assert code == 0, err
        assert json.loads(out)["data"]["erasure"] == batch.hex()
    code, _, err = koinon_says("erase", "status", "--home", erased / "member-2", "--erasure", "feed")
    assert code == 4
    assert "feed" in err
