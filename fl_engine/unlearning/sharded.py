"""`sharded`: shards of members that do not mix before a late stage, or never; an erasure replays the path it touched.

In the manner of SISA (Bourtoule et al., *Machine Unlearning*, S&P 2021) and of merging shards (FedShard, 2025). Member
k belongs to shard 1 + k mod S for good (`fl_engine/models/shards.py`). Until the merge every shard runs the study's
rounds among its own members; then the shard models are averaged, weighted by records, and the last M rounds are
everybody's:

    heights 1 .. T-M       shard s:   w_s <- w_s + aggregate of the members of s
    height  T-M            w <- sum_s n_s w_s / sum_s n_s      (integer mean; it opens height T-M+1)
    heights T-M+1 .. T     everybody: w <- w + aggregate

`learn` is that program for a study that begins; the unlearning program is the same one with the shards that hold none
of the records taken from their checkpoints. Exact: byte-equal to `learn` without the records. With S shards and one of
them touched, a replay from the beginning takes ((T-M)/S + M) / T of the member-rounds.

With M = 0 nothing is merged: the result is the shards' models side by side, which answer together. So the members of a
network train a study that was founded in shards. Its replay is `rollback`'s, of one shard: members of the touched shard
train, the others bring theirs in one update from where it was at the checkpoint to where it was in the end.

*Limits.* Averaging networks that were trained apart costs accuracy, which the last M rounds must win back; of networks
that stay apart each has learnt from a part of the records. No momentum crosses a shard's boundary. A batch of erasures
that touches every shard saves nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from fl_engine.aggregation import aggregate
from fl_engine.errors import AggregationError, PolicyError
from fl_engine.models.shards import Shards
from fl_engine.params import Ints
from fl_engine.unlearning.rollback import RETRAINING
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Checkpoint,
    Claim,
    Need,
    Result,
    Round,
    Rounds,
    Unlearner,
    Updates,
    ask,
    federated,
)


def shard_of(case: Case, member: int) -> int:
    """The shard of a member, 1..S."""
    return _shards(case).of(member)


def learn(case: Case) -> Rounds:
    """The study from its first model, in shards. `case.forgetting` is empty; group s of the checkpoints is shard s."""
    return _program(case, frozenset(shard_of(case, member) for member in case.members), 1)


def _unlearn(case: Case) -> Rounds:
    return _program(case, frozenset(shard_of(case, member) for member in case.forgetting), case.first_use)


def _program(case: Case, running: frozenset[int], first: int) -> Rounds:
    """The rounds from height `first`: of the `running` shards until the merge, of everybody afterwards."""
    shards, merged = case.whole("shards"), case.whole("merged")
    last = case.target - merged
    if shards < 2 or last < 1:
        raise PolicyError(
            f"{shards} shards merged after height {last} of {case.target}: at least 2, and rounds for both"
        )
    if merged == 0:
        return _apart(case, running, first)
    return _merging(case, running, first, last)


def _merging(case: Case, running: frozenset[int], first: int, last: int) -> Rounds:
    members = _members(case)
    made: dict[tuple[int, int], Checkpoint] = {}
    start = case.past.model(first - 1) if first > last + 1 else None
    if start is None:
        made |= yield from _each(case, {s: members[s] for s in sorted(running) if members[s]}, first, last)
        ends = {s: made.get((last, s)) or case.past.checkpoint(last, s) for s in members if members[s]}
        start = _merge(case, list(ends.values()))
        made[last, 0] = Checkpoint(start, sum(end.records for end in ends.values()))
    end = yield from federated(case, start, case.remaining, max(first, last + 1), case.target)
    return Result(end.model, made | dict(end.checkpoints))


def _apart(case: Case, running: frozenset[int], first: int) -> Rounds:
    """All rounds in shards. A shard that nobody is left in stays at its checkpoint, or at the first model."""
    members = _members(case)
    made = yield from _each(case, {s: members[s] for s in sorted(running) if members[s]}, first, case.target)
    ends = [
        made[case.target, s].model
        if (case.target, s) in made
        else _before(case, first if s in running else case.target + 1, s)
        for s in sorted(members)
    ]
    return Result(_shards(case).whole(ends), made)


def _each(
    case: Case, members: dict[int, tuple[int, ...]], first: int, last: int
) -> Generator[Round, Updates, dict[tuple[int, int], Checkpoint]]:
    """The rounds of heights `first` to `last`, of these shards with these members, none of which waits for another."""
    models = {s: _before(case, first, s) for s in members}
    made: dict[tuple[int, int], Checkpoint] = {}
    for height in range(first, last + 1):
        updates = yield ask(case, height, {m: models[s] for s in models for m in members[s]})
        for s, model in models.items():
            own = {m: updates[m] for m in members[s] if m in updates}
            if not own:
                raise AggregationError(f"no update from shard {s} at height {height}")
            models[s] = case.agreed.step(model, own)
            made[height, s] = Checkpoint(models[s], sum(one.records for one in own.values()))
    return made


def _members(case: Case) -> dict[int, tuple[int, ...]]:
    """Shard -> those of it who go on training, of every shard."""
    shards = _shards(case)
    return {s: tuple(m for m in case.remaining if shards.of(m) == s) for s in range(1, shards.count + 1)}


def _shards(case: Case) -> Shards:
    return Shards(case.agreed.layout, case.whole("shards"))


def _before(case: Case, first: int, shard: int) -> Ints:
    return case.agreed.initial if first == 1 else case.past.model(first - 1, shard)


def _merge(case: Case, ends: list[Checkpoint]) -> Ints:
    """The integer mean of the shard models, weighted by records: always the mean, whatever the study's rule."""
    return aggregate("mean", case.agreed.layout.size, [(end.model, end.records) for end in ends])


SHARDED: Final = Unlearner(
    name="sharded",
    exact=True,
    source="in the manner of SISA (Bourtoule et al., S&P 2021) and FedShard (2025), shards of members",
    needs=frozenset({Need.CHECKPOINT, Need.SHARDS}),
    claims=ALWAYS | {Claim.L2, Claim.L3},
    rounds=_unlearn,
    defaults={"shards": 4, "merged": 2},
    retraining=RETRAINING,
)
