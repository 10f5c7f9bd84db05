"""Beta-reputation trust in integers, after Otoum et al. (a probability of good conduct per device).

Evidence is only what every member can verify: an included update counts for a member, an update refused by rule counts
against it. Absence, lateness, abstention and unavailability are facts about a network and leave the score untouched.

State: two counts a member (good, bad), both non-negative. Score in permille:
`floor(1000 * (good + 1) / (good + bad + 2))`, so a newcomer stands at 500. Both counts are halved (floor) whenever
their sum passes `MEMORY`: old conduct fades, and the counts stay bounded.
"""

from __future__ import annotations

MEMORY = 256

Counts = tuple[tuple[int, int], ...]


def init(members: int) -> Counts:
    """No evidence yet: one (good, bad) pair for each of `members` indices."""
    return ((0, 0),) * members


def apply(state: Counts, included: int, refused: int) -> Counts:
    """The state after a round: bitmaps of the members included and of those refused by rule."""
    out = []
    for i, (good, bad) in enumerate(state):
        good += included >> i & 1
        bad += refused >> i & 1
        if good + bad > MEMORY:
            good, bad = good // 2, bad // 2
        out.append((good, bad))
    return tuple(out)


def scores(state: Counts) -> tuple[int, ...]:
    """Permille a member, in index order."""
    return tuple(1000 * (good + 1) // (good + bad + 2) for good, bad in state)
