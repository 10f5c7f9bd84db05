from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from crypto.merkle import anchor_count, verify_anchored
from node.errors import VerificationFailed
from node.reports.events import audit_event, check_event, leaf, line_of, tree

CONSENT = "ab" * 32
LINK = {"role": "dpo", "act": "consent.cards: find", "subject": CONSENT, "outcome": "permitted", "why": ""}
ENTRIES: list[tuple[str, dict[str, Any]]] = [
    ("link_access", LINK),
    ("link_access", {**LINK, "subject": ""}),
    ("link_access", {**LINK, "role": "operator", "outcome": "refused", "why": "not for the operator"}),
    ("consent_granted", {"subject": CONSENT, "study": "11" * 32}),
    ("consent_withdrawn", {"subject": CONSENT}),
    ("consent_refused", {"subject": CONSENT, "study": "11" * 32, "why": "withdrawn"}),
    ("model_export", {"study": "11" * 32, "round": 3, "model_root": "22" * 32, "recipient": "Institute X"}),
    ("purged", {"erasure": "33" * 32, "contents": 4, "keys": 2}),
    ("order_done", {"order": "44" * 32, "name": "model.export"}),
]
IDS = [kind for kind, _ in ENTRIES]


def event(kind: str, body: dict[str, Any], number: int = 7) -> dict[str, Any]:
    return audit_event("Hospital A", number, 1_800_000_000.7, kind, body)


@pytest.mark.parametrize("kind, body", ENTRIES, ids=IDS)
def test_every_kind_of_entry_is_an_audit_event_of_r4b(kind: str, body: dict[str, Any]) -> None:
    found = event(kind, body)
    read = AuditEvent.model_validate(found)
    assert read.outcome in ("0", "8")
    assert read.recorded.isoformat() == "2027-01-15T08:00:00+00:00"
    again = json.loads(read.model_dump_json())
    assert again.keys() == found.keys()


@pytest.mark.parametrize("kind, body", ENTRIES, ids=IDS)
def test_our_own_check_takes_what_we_write(kind: str, body: dict[str, Any]) -> None:
    check_event(event(kind, body), "line 1")


def test_a_permitted_and_a_refused_opening_of_link_are_consent_decisions() -> None:
    """BALP AuthZconsent: type, subtype, action, outcome, four agents, patient and consent by a logical reference."""
    permitted, refused = event("link_access", LINK), event(*ENTRIES[2])
    for one in (permitted, refused):
        assert one["type"]["code"] == "110113"
        assert [sub["code"] for sub in one["subtype"]] == ["AuthZ-Consent"]
        assert one["action"] == "E"
        codes = [agent["type"]["coding"][0]["code"] for agent in one["agent"]]
        assert codes == ["110150", "IRCP", "PROV", "authserver"]
        for entity in one["entity"]:
            assert entity["what"]["identifier"] == {"system": "urn:koinon:consent", "value": CONSENT}
    assert permitted["outcome"] == "0"
    assert (refused["outcome"], refused["outcomeDesc"]) == ("8", "consent.cards: find: not for the operator")
    assert refused["agent"][1]["who"] == {"display": "operator"}


def test_an_entry_of_another_kind_is_told_without_what_it_says() -> None:
    found = event("something_new", {"subject": CONSENT, "name": "Erika Mustermann"})
    assert found["type"]["code"] == "110100"
    assert "Mustermann" not in json.dumps(found)
    assert CONSENT not in json.dumps(found)


def _without(name: str) -> Any:
    return lambda e: e.pop(name)


FAULTS: dict[str, Any] = {
    **{
        f"no {name}": _without(name) for name in ("type", "subtype", "action", "recorded", "outcome", "agent", "source")
    },
    "outcome 1": lambda e: e.update(outcome="1"),
    "outcome 4 of a decision": lambda e: e.update(outcome="4"),
    "action X": lambda e: e.update(action="X"),
    "action R of a decision": lambda e: e.update(action="R"),
    "another resource": lambda e: e.update(resourceType="Patient"),
    "id": lambda e: e.update(id="a b"),
    "recorded": lambda e: e.update(recorded="yesterday"),
    "no agents": lambda e: e.update(agent=[]),
    "agents that are a number": lambda e: e.update(agent=7),
    "one agent less": lambda e: e["agent"].pop(),
    "requestor in words": lambda e: e["agent"][0].update(requestor="yes"),
    "no consent": lambda e: e["entity"].pop(),
    "patient's role": lambda e: e["entity"][0]["role"].update(code="2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_element_or_an_unknown_code_is_refused(fault: str) -> None:
    broken = deepcopy(event("link_access", LINK))
    FAULTS[fault](broken)
    with pytest.raises(VerificationFailed, match="line 9: not an audit event"):
        check_event(broken, "line 9")


@pytest.mark.parametrize("count", [1, 31, 32, 33])
def test_every_line_leads_to_the_root_of_its_segment(count: int) -> None:
    lines = [line_of(event("link_access", LINK, number)) for number in range(count)]
    grown = tree(lines)
    assert len(grown) == anchor_count(count)
    for index, line in enumerate(lines):
        verify_anchored(grown.root, anchor_count(count), leaf(line), index, grown.prove(index))


def test_the_root_depends_on_every_line_and_on_their_order() -> None:
    lines = [line_of(event("link_access", LINK, number)) for number in range(5)]
    roots = {tree(lines).root, tree(lines[::-1]).root, tree(lines[:-1]).root}
    changed = [*lines[:-1], line_of(event("link_access", {**LINK, "outcome": "refused"}, 4))]
    assert len(roots | {tree(changed).root}) == 4
