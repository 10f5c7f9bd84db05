"""What the audit of a home asks of an erasure's plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node import methods
from node.audit.erasures import method_is_allowed
from node.audit.home import Fault, NotChecked
from node.records import ZERO
from tests.fakes.network import spec


@pytest.mark.parametrize("evidence", [["L2"], ["L3"], ["L4"], []])
@pytest.mark.parametrize("method", ["rollback", "rapid", "federaser"])
def test_an_approximate_method_is_a_fault_where_the_study_asks_for_what_it_cannot_show(
    evidence: list[str], method: str
) -> None:
    study = spec(evidence=evidence, sets_ahead=True)
    audit: Any = SimpleNamespace(arithmetic=lambda number: SimpleNamespace(study=study))
    plan: Any = SimpleNamespace(method=methods.NUMBERS[method], study=ZERO)
    if method == "federaser" and evidence in (["L2"], ["L3"]):
        with pytest.raises(Fault, match=f"federaser, which is approximate and can never show {evidence[0]}"):
            list(method_is_allowed(audit, ZERO, plan))
    else:
        assert list(method_is_allowed(audit, ZERO, plan)) == []


def test_without_the_specification_it_is_said_that_this_was_not_checked() -> None:
    def arithmetic(number: object) -> None:
        raise NotChecked("study 00: its specification is not in this home")

    audit: Any = SimpleNamespace(arithmetic=arithmetic)
    plan: Any = SimpleNamespace(method=methods.NUMBERS["federaser"], study=ZERO)
    assert list(method_is_allowed(audit, ZERO, plan)) == ["study 00: its specification is not in this home"]
