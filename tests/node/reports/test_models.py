"""What became of a model: by the ledger at every step of an erasure, and of its copies and what was made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from crypto.digest import Digest
from node.errors import InputError, NotFound
from node.history import History
from node.records import ErasureOpened, ErasurePlanned, HeadMoved, Record, RoundFinal
from node.reports.models import EXPORT, NOTED, Models, copies_of
from tests.node.audit.test_records import make_world
from tests.node.ledger import test_erasure
from tests.node.ledger.world import World, word

NOW = 2_000_000_000
Log = Sequence[tuple[float, str, dict[str, Any]]]


@pytest.fixture(scope="module")
def world() -> World:
    """A study with an erasure: planned from the model of round 1, replayed, confirmed, closed."""
    made = make_world()
    test_erasure.test_an_erasure_from_plan_to_close(made)
    return made


def history_until(world: World, last: type[Record] | None = None) -> History:
    """The ledger as it was just after a record of this kind; all of it by default."""
    history = History()
    for logged in world.logged():
        history.apply(logged)
        if last is not None and isinstance(logged.record, last):
            break
    return history


def exported(time: int, root: Digest, recipient: str) -> tuple[float, str, dict[str, Any]]:
    return float(time), EXPORT, {"study": "", "round": 1, "model_root": root.hex(), "recipient": recipient}


def noted(time: int, root: Digest, parent: Digest, by: str) -> tuple[float, str, dict[str, Any]]:
    return float(time), NOTED, {"model_root": root.hex(), "parent": parent.hex(), "by": by}


def report(history: History, root: Digest, log: Log = ()) -> dict[str, Any]:
    found = Models(history, copies_of(log)).report(root, NOW)
    json.dumps(found)
    return found


def line(world: World, branch: int) -> dict[int, Digest]:
    [study] = history_until(world).studies.values()
    return study.branches[branch].models


def test_the_newest_model_is_current_and_those_before_the_checkpoint_stay_clean(world: World) -> None:
    history = history_until(world)
    new = line(world, 1)
    head = report(history, new[max(new)])
    assert (head["state"], head["tainted"], head["erasures"], head["replaced_by"]) == ("current", False, [], None)
    for height in (0, 1):
        assert report(history, new[height])["state"] == "superseded"
        assert report(history, new[height])["tainted"] is False


def test_what_came_after_the_checkpoint_is_replaced_and_says_by_which(world: World) -> None:
    history = history_until(world)
    [(batch, erasure)] = history.erasures.items()
    assert erasure.confirmed is not None
    old = line(world, 0)[2]
    assert old not in line(world, 1).values()
    found = report(history, old)
    assert (found["state"], found["tainted"]) == ("replaced", True)
    assert found["replaced_by"] == erasure.confirmed.head_model.hex()
    assert [one["erasure"] for one in found["erasures"]] == [batch.hex()]
    assert [(one["branch"], one["round"], one["serves"]) for one in found["places"]] == [(0, 2, False)]


def test_from_the_plan_on_it_is_tainted_though_it_serves_until_the_head_moves(world: World) -> None:
    history, planned = History(), False
    for logged in world.logged():
        history.apply(logged)
        planned = planned or isinstance(logged.record, ErasurePlanned)
        if planned and isinstance(logged.record, RoundFinal):  # a round was open when the plan came
            break
    old = line(world, 0)
    newest = old[max(old)]
    found = report(history, newest)
    assert (found["state"], found["tainted"], found["replaced_by"]) == ("tainted", True, None)
    assert found["places"][0]["serves"] is True
    [taint] = found["erasures"]
    assert taint["replaced_by"] is None


def test_a_replayed_model_does_not_serve_before_the_head_moves(world: World) -> None:
    history = History()
    for logged in world.logged():
        if isinstance(logged.record, HeadMoved):
            break
        history.apply(logged)
    new = line(world, 1)
    assert report(history, new[2])["state"] == "not serving yet"
    assert report(history, line(world, 0)[2])["state"] == "tainted"


def test_an_erasure_without_a_plan_is_named_and_taints_nothing(world: World) -> None:
    history = history_until(world, ErasureOpened)
    [batch] = history.erasures
    [study] = history.studies.values()
    used = report(history, study.branches[0].models[1])
    assert (used["undecided"], used["tainted"]) == ([batch.hex()], False)
    assert report(history, study.created.terms.initial_model)["undecided"] == [], "no update is in it"


def test_a_copy_is_tainted_until_its_holder_was_given_a_clean_one(world: World) -> None:
    history = history_until(world)
    old, new = line(world, 0)[2], line(world, 1)
    head = new[max(new)]
    log = [exported(10, old, "Institute X"), exported(11, old, "Institute Y"), exported(12, old, "")]
    later = [*log, exported(20, head, "Institute X"), exported(21, head, ""), exported(5, head, "Institute Y")]
    before, after = report(history, old, log)["copies"], report(history, old, later)["copies"]
    assert [(one["holder"], one["tainted"]) for one in before] == [
        ("Institute X", True),
        ("Institute Y", True),
        ("", True),
    ]
    assert [(one["holder"], one["tainted"]) for one in after] == [
        ("Institute X", False),
        ("Institute Y", True),
        ("", True),
    ], "what somebody had before, and what nobody named got, replaces nothing"
    assert after[0]["replaced_by"] == head.hex()
    assert [one["tainted"] for one in report(history, head, later)["copies"]] == [False] * 3


def test_what_was_made_from_a_tainted_model_is_tainted_through_every_step(world: World) -> None:
    history = history_until(world)
    old, new = line(world, 0)[2], line(world, 1)
    head, tuned, distilled, anew = new[max(new)], word("tuned"), word("distilled"), word("anew")
    log = [noted(10, tuned, old, "Ward 3"), noted(11, distilled, tuned, "Ward 4")]
    found = report(history, distilled, log)
    assert (found["state"], found["tainted"], found["made_from"]) == ("replaced", True, [old.hex()])
    assert [one["model_root"] for one in report(history, old, log)["copies"]] == [tuned.hex(), distilled.hex()]

    again = [*log, noted(20, anew, head, "Ward 3")]
    assert report(history, anew, again)["state"] == "current"
    copies = {one["model_root"]: one for one in report(history, old, again)["copies"]}
    assert (copies[tuned.hex()]["tainted"], copies[tuned.hex()]["replaced_by"]) == (False, anew.hex())
    assert copies[distilled.hex()]["tainted"] is True, "Ward 4 has nothing else"
    assert report(history, tuned, again)["tainted"] is True, "the old file is what it was"

    whitewashed = [*again, noted(30, tuned, head, "Ward 3")]
    assert report(history, tuned, whitewashed)["tainted"] is True, "one clean parent makes no other one clean"


def test_unknown_and_unclear_names(world: World) -> None:
    history = history_until(world)
    old = line(world, 0)[2]
    models = Models(history, copies_of([noted(1, word("tuned"), old, "Ward 3")]))
    assert models.find("0x" + old.hex()[:8].upper()) == old
    assert models.find(word("tuned").hex()) == word("tuned")
    with pytest.raises(NotFound, match="no model " + "ab" * 32):
        models.find("ab" * 32)
    with pytest.raises(NotFound, match=word("nobody").hex()):
        models.report(word("nobody"), NOW)
    for given in ("", "ab", "model.bin", "ab" * 33):
        with pytest.raises(InputError, match="4 to 64 hex digits"):
            models.find(given)
