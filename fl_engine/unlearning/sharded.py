"""`sharded`: shards of members that do not mix before a late stage; an erasure replays the path it touched.

In the manner of SISA (Bourtoule et al., *Machine Unlearning*, S&P 2021) and of merging shards (FedShard, 2025). Member
k belongs to shard k mod S for good. Until the merge every shard runs the study's rounds among its own members; then the
shard models are averaged, weighted by records, and the last M rounds are everybody's:

    heights 1 .. T-M       shard s:   w_s <- w_s + aggregate of the members of s
    height  T-M            w <- sum_s n_s w_s / sum_s n_s      (integer mean; it opens height T-M+1)
    heights T-M+1 .. T     everybody: w <- w + aggregate

`learn` is that program for a study that begins; the unlearning program is the same one with the shards that hold none
of the records taken from their checkpoints. Exact: byte-equal to `learn` without the records. With S shards and one of
them touched, a replay from the beginning takes ((T-M)/S + M) / T of the member-rounds.

*Limits.* Averaging networks that were trained apart costs accuracy, which the last M rounds must win back. No momentum
crosses a shard's boundary. A batch of erasures that touches every shard saves nothing.
"""

from __future__ import annotations

from typing import Final

from fl_engine.aggregation import aggregate
from fl_engine.errors import AggregationError, PolicyError
from fl_engine.params import Ints
from fl_engine.unlearning.unlearner import (
    ALWAYS,
    Case,
    Checkpoint,
    Claim,
    Need,
    Result,
    Rounds,
    Unlearner,
    ask,
    federated,
)


def shard_of(case: Case, member: int) -> int:
    """The shard of a member, 1..S: by its index, so that nobody moves when somebody leaves."""
    return 1 + member % case.whole("shards")


def learn(case: Case) -> Rounds:
    """The study from its first model, in shards. `case.forgetting` is empty; group s of the checkpoints is shard s."""
    return _program(case, frozenset(shard_of(case, member) for member in case.members), 1)


def _unlearn(case: Case) -> Rounds:
    return _program(case, frozenset(shard_of(case, member) for member in case.forgetting), case.first_use)


def _program(case: Case, running: frozenset[int], first: int) -> Rounds:
    """The rounds from height `first`: of the `running` shards until the merge, of everybody afterwards."""
    shards, last = case.whole("shards"), case.target - case.whole("merged")
    if shards < 2 or not 1 <= last < case.target:
        raise PolicyError(
            f"{shards} shards merged after height {last} of {case.target}: at least 2, and rounds for both"
        )
    members = {s: tuple(m for m in case.remaining if shard_of(case, m) == s) for s in range(1, shards + 1)}
    made: dict[tuple[int, int], Checkpoint] = {}
    start = case.past.model(first - 1) if first > last + 1 else None
    if start is None:
        models = {s: _before(case, first, s) for s in sorted(running) if members[s]}
        for height in range(first, last + 1):
            updates = yield ask(case, height, {m: models[s] for s in models for m in members[s]})
            for s, model in models.items():
                own = {m: updates[m] for m in members[s] if m in updates}
                if not own:
                    raise AggregationError(f"no update from shard {s} at height {height}")
                models[s] = case.agreed.step(model, own)
                made[height, s] = Checkpoint(models[s], sum(one.records for one in own.values()))
        ends = {s: made.get((last, s)) or case.past.checkpoint(last, s) for s in members if members[s]}
        start = _merge(case, list(ends.values()))
        made[last, 0] = Checkpoint(start, sum(end.records for end in ends.values()))
    end = yield from federated(case, start, case.remaining, max(first, last + 1), case.target)
    return Result(end.model, made | dict(end.checkpoints))


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
)
