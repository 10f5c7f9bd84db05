"""What both transports share: a log that others cannot flood."""

from __future__ import annotations

import logging

from node.doors import MAX_KINDS, Sparing


def lines(sparing: Sparing, text: str, *about: object, level: int = logging.INFO) -> list[str]:
    """What is written of one line."""
    record = logging.LogRecord("node", level, "here", 1, text, about, None)
    return [record.getMessage()] if sparing.filter(record) else []


def test_a_line_that_comes_again_and_again_is_written_now_and_then() -> None:
    now = [0.0]
    sparing = Sparing(1 / 60, 3, lambda: now[0])
    said = [line for _ in range(1000) for line in lines(sparing, "%s did %s", "peer", "harm")]
    assert said == ["peer did harm"] * 3
    assert lines(sparing, "%s did %s", "another", "harm") == ["another did harm"]
    assert lines(sparing, "%s left", "peer") == ["peer left"]
    assert len(lines(sparing, "%s did %s", "peer", "harm", level=logging.DEBUG)) == 1
    now[0] += 61
    assert lines(sparing, "%s did %s", "peer", "good") == ["peer did good (997 more like it not written)"]
    assert lines(sparing, "%s did %s", "peer", "harm") == []


def test_names_without_end_take_no_room_without_end() -> None:
    sparing = Sparing(1 / 60, 3, lambda: 0.0)
    said = [line for name in range(10_000) for line in lines(sparing, "refused %s", name)]
    assert len(said) == MAX_KINDS + 3
