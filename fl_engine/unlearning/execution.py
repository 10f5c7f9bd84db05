"""Running an unlearning program: with hospitals here, from updates that somebody else has, or with none to see the
cost.

All three drive the same generator. `execute` asks hospitals of this process (tests, benchmarks, simulations); a node
asks its peers instead and sends what it fetched. `replay` is what every other member and an auditor does. `estimate`
sends zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from fl_engine.errors import PolicyError, UnknownName
from fl_engine.params import Ints
from fl_engine.ring import Grid
from fl_engine.training import get_method
from fl_engine.training.method import LocalUpdate
from fl_engine.unlearning.integers import squared_norm, with_norm
from fl_engine.unlearning.unlearner import (
    Agreed,
    Case,
    Checkpoint,
    Past,
    Probe,
    Records,
    Result,
    Round,
    Rounds,
    Task,
    Unlearner,
    Work,
    check_answer,
)


class Local(Protocol):
    """What a member must know of the study to carry out a task; an `Agreed` is one."""

    @property
    def method(self) -> str:
        """The study's training method."""

    @property
    def grid(self) -> Grid:
        """The study's grid."""

    @property
    def erasable(self) -> bool:
        """Whether the study accepts erasures."""


@dataclass(frozen=True)
class Cost:
    """What a program takes.

    `member_rounds`: tasks, over all rounds; `passes`: records * epochs, over all tasks; `update_bytes`: what every
    member downloads, 4 bytes a number of every update.
    """

    rounds: int = 0
    member_rounds: int = 0
    passes: int = 0
    update_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.rounds + other.rounds,
            self.member_rounds + other.member_rounds,
            self.passes + other.passes,
            self.update_bytes + other.update_bytes,
        )


@dataclass(frozen=True)
class Run:
    """A program that ran: its result, every update by height and member, and what it took."""

    result: Result
    updates: Mapping[int, Mapping[int, LocalUpdate]]
    cost: Cost

    def past(self, initial: Checkpoint, keep: Callable[[int], bool] = lambda height: True) -> Past:
        """What is kept of this run: all checkpoints and lengths, and the updates of the heights that `keep` says."""
        kept = {height: sent for height, sent in self.updates.items() if keep(height)}
        lengths = {
            height: {m: squared_norm(one.delta) for m, one in sent.items()} for height, sent in self.updates.items()
        }
        return Past({(0, 0): initial, **self.result.checkpoints}, kept, lengths)


Answer: TypeAlias = Callable[[Round], Mapping[int, LocalUpdate]]
"""Where updates come from: round -> the updates of those members who sent one."""


def drive(rounds: Rounds, answer: Answer) -> Run:
    """Run a program to its end. Every answer is checked against its task; an answer nobody was asked for is refused."""
    sent: dict[int, Mapping[int, LocalUpdate]] = {}
    cost = Cost()
    try:
        one = next(rounds)
        while True:
            if one.height in sent:
                raise PolicyError(f"the program asks for height {one.height} twice")
            updates = answer(one)
            if stray := sorted(set(updates) - set(one.tasks)):
                raise PolicyError(f"member {stray[0]} answers round {one.height} without having been asked")
            sent[one.height] = {m: check_answer(one.tasks[m], updates[m]) for m in sorted(updates)}
            cost += _cost_of(one, sent[one.height])
            one = rounds.send(sent[one.height])
    except StopIteration as end:
        return Run(end.value, sent, cost)


def execute(
    rounds: Rounds,
    agreed: Agreed,
    hospitals: Mapping[int, Records],
    network: Probe,
    works: Mapping[str, Work] | None = None,
) -> Run:
    """Run a program with the hospitals of this process; `works` are the method's own."""

    def answer(one: Round) -> dict[int, LocalUpdate]:
        return {
            m: carry_out(task, agreed, hospitals[m], network, works or {}, agreed.beacon(one.height, task.model), m)
            for m, task in one.tasks.items()
        }

    return drive(rounds, answer)


def carry_out(
    task: Task, study: Local, records: Records, network: Probe, works: Mapping[str, Work], beacon: bytes, member: int
) -> LocalUpdate:
    """One member's answer to its task: the study's own training, or the work of that name, at the length asked for."""
    if task.work == "train":
        train = get_method(study.method).train_local
        update = train(
            network,
            task.model,
            records.data,
            records.retained,
            task.training,
            study.grid,
            beacon=beacon,
            member=member,
            erasable=study.erasable,
            secret=records.secret,
        )
    elif task.work in works:
        update = works[task.work](network, task, records, study.grid, beacon=beacon, member=member)
    else:
        raise UnknownName("local work", task.work, ("train", *works))
    return replace(update, delta=at_length(update.delta, task.squared_length, study.grid))


def at_length(delta: Ints, squared_length: int, grid: Grid) -> Ints:
    """An update int32 [P] at the squared length a task asks for (0: as it is), no number of it beyond the grid's."""
    if squared_length == 0:
        return delta
    return np.clip(with_norm(delta, squared_length), -grid.limit, grid.limit)


def replay(rounds: Rounds, updates: Mapping[int, Mapping[int, LocalUpdate]]) -> Run:
    """Run a program on updates that were sent before; the result is byte-equal wherever and whenever that is done."""

    def answer(one: Round) -> Mapping[int, LocalUpdate]:
        if one.height not in updates:
            raise PolicyError(f"no updates of height {one.height} to replay")
        return updates[one.height]

    return drive(rounds, answer)


def estimate(unlearner: Unlearner, case: Case, records: Mapping[int, int]) -> Cost:
    """What a method would take, without training: its program run on zeros. `records`: member -> how many it
    retains.
    """

    def answer(one: Round) -> dict[int, LocalUpdate]:
        return {m: LocalUpdate(np.zeros(t.size, np.int32), max(1, records[m]), 0.0) for m, t in one.tasks.items()}

    return drive(unlearner.rounds(with_defaults(unlearner, case)), answer).cost


def with_defaults(unlearner: Unlearner, case: Case) -> Case:
    """The case with the method's parameters complete; PolicyError for one it does not have."""
    return replace(case, parameters=unlearner.parameters(case.parameters))


def unlearn(unlearner: Unlearner, case: Case, hospitals: Mapping[int, Records], network: Probe) -> Run:
    """Carry an erasure out with the hospitals of this process."""
    complete = with_defaults(unlearner, case)
    return execute(unlearner.rounds(complete), case.agreed, hospitals, network, unlearner.works)


def _cost_of(one: Round, updates: Mapping[int, LocalUpdate]) -> Cost:
    passes = sum(updates[m].records * one.tasks[m].training.local_epochs for m in updates)
    return Cost(1, len(updates), passes, sum(4 * len(update.delta) for update in updates.values()))
