"""Who waits for a certificate waits for the erasure, not for one life of its node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.cli import erase
from node.errors import LocalFault, TimedOut

ASKED: dict[str, Any] = {"consents": [], "erasures": ["ab" * 32]}
UNDER_WAY = {"erasure": "ab" * 32, "state": "replaying"}
READY = {"erasure": "ab" * 32, "state": "closed", "certificate_ready": True}
BROKE_OFF = LocalFault("the node broke off while answering `erase.status`")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the node answers, one after the other; time moves by what is waited."""
    found: list[Any] = []
    now = [0.0]

    def order(*_: Any) -> dict[str, Any]:
        one = next(given)
        if isinstance(one, Exception):
            raise one
        return dict(one)

    def given_() -> Iterator[Any]:
        while True:
            yield found.pop(0) if len(found) > 1 else found[0]

    given = given_()
    monkeypatch.setattr(erase.common, "order", order)
    monkeypatch.setattr(erase.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(erase.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return found


def test_a_node_that_is_killed_or_stands_still_meanwhile_is_waited_for(answers: list[Any]) -> None:
    answers += [UNDER_WAY, BROKE_OFF, TimedOut("the node's process stands still"), UNDER_WAY, BROKE_OFF, READY]
    assert erase.wait_for_certificate(Path("home"), ASKED, None)["certificate_ready"]


def test_a_node_that_does_not_come_back_is_told(answers: list[Any]) -> None:
    answers += [UNDER_WAY, BROKE_OFF]
    with pytest.raises(LocalFault, match="broke off"):
        erase.wait_for_certificate(Path("home"), ASKED, None)
    answers[:] = [BROKE_OFF]  # before anything was heard of the erasure
    with pytest.raises(LocalFault, match="broke off"):
        erase.wait_for_certificate(Path("home"), ASKED, None)
