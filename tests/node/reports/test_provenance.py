from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvAttribution,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvInvalidation,
    ProvUsage,
)

from crypto.digest import Digest
from node.errors import NotFound
from node.history import History
from node.records import Grants, HeadMoved
from node.reports.provenance import provenance
from tests.node.audit.test_records import erasure_world, make_world
from tests.node.ledger.world import World


def folded(world: World) -> History:
    history = History()
    history.apply_all(world.logged())
    return history


def only_study(history: History) -> Digest:
    (study,) = history.studies
    return study


def read(world: World, history: History | None = None) -> ProvDocument:
    """The report, read back by the library as anybody would."""
    history = history or folded(world)
    found = ProvDocument.deserialize(content=provenance(history, only_study(history), world.contracts), format="json")
    assert isinstance(found, ProvDocument)
    return found


@pytest.fixture(scope="module")
def erased() -> World:
    return erasure_world()


def names(document: ProvDocument, kind: type) -> list[str]:
    return [str(one.identifier.localpart) for one in document.get_records(kind)]


def arguments(record: Any) -> list[str]:
    return [str(getattr(value, "localpart", value)) for _, value in record.formal_attributes]


def test_every_reference_is_to_something_the_document_declares(erased: World) -> None:
    document = read(erased)
    declared = Counter(names(document, ProvEntity) + names(document, ProvActivity) + names(document, ProvAgent))
    assert set(declared.values()) == {1}
    relations = (ProvUsage, ProvGeneration, ProvDerivation, ProvAssociation, ProvAttribution, ProvInvalidation)
    for kind in relations:
        found = document.get_records(kind)
        assert list(found), kind
        for one in found:
            for _, value in one.formal_attributes:
                if hasattr(value, "localpart"):
                    assert value.localpart in declared, one


def test_each_model_is_generated_once_by_the_round_that_agreed_on_it(erased: World) -> None:
    history, document = folded(erased), read(erased)
    generated = {one[0]: one[1] for one in map(arguments, document.get_records(ProvGeneration))}
    for one in history.rounds.values():
        if one.final is not None:
            assert generated[f"model-{one.final.result.model_root.hex()}"] == f"round-{one.opened.round_id.hex()}"
    assert f"model-{history.studies[only_study(history)].created.terms.initial_model.hex()}" not in generated


def test_a_model_descends_from_its_parent_and_the_included_updates_only(erased: World) -> None:
    history, document = folded(erased), read(erased)
    derived: dict[str, set[str]] = {}
    for made, source, *_ in map(arguments, document.get_records(ProvDerivation)):
        derived.setdefault(made, set()).add(source)
    for one in history.rounds.values():
        if one.final is None:
            continue
        included = {
            f"update-{commit.update_root.hex()}"
            for index, commit in one.commits.items()
            if one.final.result.included >> index & 1
        }
        expected = included | {f"model-{one.opened.parent_model.hex()}"}
        assert derived[f"model-{one.final.result.model_root.hex()}"] == expected


def test_models_above_the_fork_are_invalidated_when_the_replay_begins_to_serve(erased: World) -> None:
    history, document = folded(erased), read(erased)
    (batch,) = history.erasures
    plan = history.erasures[batch].plan
    assert plan is not None
    old = history.studies[only_study(history)].branches[0].models
    moved = next(one.timestamp for one in erased.logged() if isinstance(one.record, HeadMoved))
    found = {}
    for one in document.get_records(ProvInvalidation):
        (_, model), (_, replay), (_, at) = one.formal_attributes
        assert replay.localpart == f"replay-{batch.hex()}"
        found[model.localpart] = at.timestamp()
    above = {f"model-{root.hex()}": float(moved) for height, root in old.items() if height > plan.base_height}
    assert len(above) == 3
    assert found == above


def test_nothing_is_invalidated_before_the_new_branch_serves(erased: World) -> None:
    history = History()
    for one in erased.logged():
        if isinstance(one.record, HeadMoved):
            break
        history.apply(one)
    document = read(erased, history)
    assert not list(document.get_records(ProvInvalidation))
    assert [one for one in names(document, ProvActivity) if one.startswith("replay-")]


def test_a_round_without_a_result_makes_no_model() -> None:
    from tests.node.ledger import test_rounds

    world = make_world()
    test_rounds.test_too_few_commitments_fail_the_round_before_anything_is_revealed(world)
    document = read(world)
    generated = [arguments(one)[0] for one in document.get_records(ProvGeneration)]
    assert not [one for one in generated if one.startswith("model-")]
    failed = [a for a in document.get_records(ProvActivity) if ("failed" in map(str, a.get_attribute("koinon:state")))]
    assert failed


def test_no_consent_id_is_in_the_document() -> None:
    world = make_world()
    study, _ = world.study()
    form = world.register(world.form(study))
    consent, _ = world.patient("one")
    world.send(Grants((world.grant_entry(form, 0, consent),)))
    text = provenance(folded(world), study, world.contracts)
    assert consent.hex() not in text
    json.loads(text)


def test_an_unknown_study_is_named(erased: World) -> None:
    with pytest.raises(NotFound, match="no study 0707"):
        provenance(folded(erased), Digest(b"\x07" * 32), erased.contracts)
