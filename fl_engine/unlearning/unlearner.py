"""What an unlearning method is: a value whose rounds are a generator, and whose claims are declared.

A method never sees a record. It is a *program of rounds*: a generator that yields a `Round` (what each member is asked
to compute, from which model), is sent the members' updates, and returns the models it made. Each round of the program
is one round of the network on the erasure's new lineage: the tasks are training requests, the updates are committed
and revealed as ever, and everything between two yields is integer arithmetic on what all members hold. So whoever has
the updates re-executes the method by feeding them to a fresh generator (`execution.replay`), a node that was restarted
catches up the same way, and feeding zeros tells what a method would cost (`execution.estimate`).

What the generator may use: its `Case`. No clock, no random numbers but those of beacons, no floating point on anything
that members must agree on.

Claims (the ladder of evidence; the sentences are the certificate's, not ours):

    L0   requested                       every method
    L1   excluded from now on            every method
    L2   arithmetic of the declared      exact methods; approximate ones earn only L2~ , the same for their own
         rounds re-executed              procedure, and are named approximate wherever it is shown
    L3   local work repeated             exact methods; of a ridge head it is the sum that is repeated (L3s: exact by
                                         algebra, in the ladder's own words, and no claim of its own)
    L4   attack-audited                  every method, by an audit and never by declaration
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fl_engine.aggregation import aggregate
from fl_engine.beacon import round_beacon
from fl_engine.errors import PolicyError, ShapeMismatch
from fl_engine.params import Ints, ParamSpec, encode_model
from fl_engine.ring import Grid, add_saturating
from fl_engine.training.method import Hyperparameters, LocalUpdate, Trainable, TrainingData


class Need(Enum):
    """What a method takes beyond the members' retained records."""

    CHECKPOINT = "the model before the first use"
    LENGTHS = "the lengths of the members' old updates"
    LAST_UPDATES = "the other members' updates of the last round"
    OLD_MODEL = "the model that is to be replaced, which the new one begins at"
    SHARDS = "a study trained in shards, with every shard's models"
    STEPS = "local training by steps along a gradient"
    STATISTICS = "a study whose model is a ridge head, the statistics of the records"
    FORGOTTEN_RECORDS = "the records that are to be forgotten, so it cannot run once they are deleted"
    TRUST = "the word of the forgetting member, whose update no other member can check"


class Claim(Enum):
    """A level of evidence that an erasure carried out by a method can earn."""

    L0 = "L0"
    L1 = "L1"
    L2 = "L2"
    L2_APPROXIMATE = "L2~"
    L3 = "L3"
    L4 = "L4"


ALWAYS: Final = frozenset({Claim.L0, Claim.L1, Claim.L4})
EXACT_ONLY: Final = frozenset({Claim.L2, Claim.L3})


@dataclass(frozen=True)
class Agreed:
    """What all members of the study agree on.

    `initial` int32 [P] is the study's first model; `branch_seed` 32 bytes of the new lineage; `sections` as in
    `fl_engine.beacon`. `name_of` names a model by 32 bytes in beacons; a node passes its content address.
    """

    layout: ParamSpec
    grid: Grid
    rule: str
    method: str
    training: Hyperparameters
    initial: Ints
    branch_seed: bytes
    sections: bytes = b""
    erasable: bool = True
    name_of: Callable[[ParamSpec, Ints], bytes] | None = None

    def beacon(self, height: int, parent: Ints) -> bytes:
        """The beacon of a task that begins at `parent` in the round of that height."""
        first, start = (self._name(one) for one in (self.initial, parent))
        return round_beacon(self.sections, first, self.branch_seed, height, start)

    def step(self, model: Ints, updates: Mapping[int, LocalUpdate]) -> Ints:
        """model + the study's aggregate of these updates, int32 [P]: the study's own rule, a robust one included."""
        pairs = [(updates[member].delta, updates[member].records) for member in sorted(updates)]
        return add_saturating(model, aggregate(self.rule, self.layout.size, pairs))

    def _name(self, model: Ints) -> bytes:
        if self.name_of is not None:
            return self.name_of(self.layout, model)
        return hashlib.sha256(encode_model(self.layout, model)).digest()


@dataclass(frozen=True)
class Checkpoint:
    """A model int32 [P] and the number of records that its last round declared."""

    model: Ints
    records: int


@dataclass(frozen=True)
class Past:
    """What is kept of the old lineage.

    `checkpoints`: (height, group) -> the model after that height; height 0 is the first model, group 0 everybody.
    `updates`: height -> member -> what it sent; only for those heights that a budget of storage keeps.
    `lengths`: height -> member -> the squared length of what it sent, in squared grid units.
    """

    checkpoints: Mapping[tuple[int, int], Checkpoint]
    updates: Mapping[int, Mapping[int, LocalUpdate]] = field(default_factory=dict)
    lengths: Mapping[int, Mapping[int, int]] = field(default_factory=dict)

    def model(self, height: int, group: int = 0) -> Ints:
        """The model after that height, or PolicyError where it is not kept."""
        return self.checkpoint(height, group).model

    def checkpoint(self, height: int, group: int = 0) -> Checkpoint:
        """The checkpoint after that height, or PolicyError where it is not kept."""
        if (height, group) not in self.checkpoints:
            raise PolicyError(f"the model of height {height} (group {group}) is not kept; this method begins there")
        return self.checkpoints[height, group]

    def stored_bytes(self) -> int:
        """Bytes of the kept updates, 4 a parameter."""
        return sum(4 * len(one.delta) for sent in self.updates.values() for one in sent.values())


@dataclass(frozen=True)
class Case:
    """An erasure as all members know it: who forgets, since when, and what is kept. Never which records.

    `members`: indices of those who take part, ascending. `forgetting`: members with records to forget; `leaving`:
    those of them who leave with all their records. `first_use`: height of the first round that used any of the
    records; `target`: height of the last model. `parameters`: the method's, with its defaults filled in.
    """

    agreed: Agreed
    members: tuple[int, ...]
    forgetting: frozenset[int]
    leaving: frozenset[int]
    first_use: int
    target: int
    past: Past
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if list(self.members) != sorted(set(self.members)):
            raise PolicyError(f"members {self.members} are not ascending, each once")
        if not self.leaving <= self.forgetting <= set(self.members):
            raise PolicyError("who leaves also forgets, and who forgets is a member")
        if not 1 <= self.first_use <= self.target:
            raise PolicyError(f"first use at height {self.first_use} of {self.target}")
        if not self.remaining:
            raise PolicyError("every member leaves: nobody is left to train")

    @property
    def remaining(self) -> tuple[int, ...]:
        """Members who go on training, with what they retain."""
        return tuple(m for m in self.members if m not in self.leaving)

    @property
    def untouched(self) -> tuple[int, ...]:
        """Members without anything to forget."""
        return tuple(m for m in self.members if m not in self.forgetting)

    def whole(self, name: str) -> int:
        """A parameter that counts something, or PolicyError."""
        value = self.parameters[name]
        if value != int(value) or value < 0:
            raise PolicyError(f"unlearning parameter {name} is {value}, expected a whole number from 0")
        return int(value)


@dataclass(frozen=True)
class Task:
    """What one member is asked for in a round: a training request.

    `work` names the local computation: one of the method's own, or `train`, the study's. It begins at `model`
    int32 [P]; `anchors` are further models it compares with; `numbers` its settings; `size` how many numbers the answer
    has. The answer is brought to the squared length `squared_length` (grid units); 0: it stays as it was computed.
    """

    work: str
    model: Ints
    training: Hyperparameters
    size: int
    anchors: tuple[Ints, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    squared_length: int = 0

    def number(self, name: str) -> float:
        """A setting, or PolicyError where the task does not say it."""
        if name not in self.numbers:
            raise PolicyError(f"task {self.work} lacks the number {name!r}")
        return self.numbers[name]

    def anchor(self, index: int) -> Ints:
        """A further model, or PolicyError where the task does not bring it."""
        if index >= len(self.anchors):
            raise PolicyError(f"task {self.work} brings {len(self.anchors)} further models, number {index} is needed")
        return self.anchors[index]


@dataclass(frozen=True)
class Round:
    """One round on the new lineage: its height and each member's task."""

    height: int
    tasks: Mapping[int, Task]


@dataclass(frozen=True)
class Result:
    """What a program made: the last `model` int32 [P'] and the checkpoints of its own lineage."""

    model: Ints
    checkpoints: Mapping[tuple[int, int], Checkpoint]


Updates: TypeAlias = Mapping[int, LocalUpdate]
Rounds: TypeAlias = Generator[Round, Updates, Result]


@dataclass(frozen=True)
class Records:
    """One member's records: what it retains and what it forgets, as import row numbers. Never leaves the hospital.

    `secret`: 32 bytes that only this hospital knows, for noise.
    """

    data: TrainingData
    retained: NDArray[np.int64]
    forgotten: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    secret: bytes = bytes(32)


class Probe(Trainable, Protocol):
    """A network that also shows gradients and features; `fl_engine.training.probe.ProbedNetwork` is one."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 [N, classes]."""

    def gradient(
        self, x: NDArray[np.float32], y: NDArray[np.int64], batch: NDArray[np.int64]
    ) -> tuple[float, NDArray[np.float32]]:
        """Mean loss of a batch (positions) and its gradient float32 [P]."""

    def contrast(
        self,
        x: NDArray[np.float32],
        towards: NDArray[np.float32],
        away: NDArray[np.float32],
        temperature: float,
        learning_rate: float,
    ) -> float:
        """One step that moves the features of x [n, ...] towards one reference [n, D] and away from another; loss."""


class Work(Protocol):
    """A local computation; the same input gives the same bits within an execution profile."""

    def __call__(
        self, network: Probe, task: Task, records: Records, grid: Grid, *, beacon: bytes, member: int
    ) -> LocalUpdate:
        """The update this member will commit to."""


def _unchanged(training: Hyperparameters, parameters: Mapping[str, float]) -> Hyperparameters:
    return training


@dataclass(frozen=True)
class Retraining:
    """Training again from the model before the first use, every round the study's own but for the local work.

    `work`: what each member computes. `count(replaced, parameters)` -> how many rounds stand for those that are
    replaced. `settings`: the parameters that the work is given, beside whether the study is erasable.
    `training(study's, parameters)` -> the settings of local training. `length_of(number, parameters)` -> which of the
    replaced rounds gives the lengths of the updates of round `number`, both from 0; None: no update is brought to one.
    """

    work: str
    count: Callable[[int, Mapping[str, float]], int]
    settings: tuple[str, ...] = ()
    training: Callable[[Hyperparameters, Mapping[str, float]], Hyperparameters] = _unchanged
    length_of: Callable[[int, Mapping[str, float]], int] | None = None

    def numbers(self, parameters: Mapping[str, float], *, erasable: bool) -> dict[str, float]:
        """The settings of every task; the study's own training has none."""
        if self.work == "train":
            return {}
        return {**{name: parameters[name] for name in self.settings}, "erasable": float(erasable)}

    def rounds(self, case: Case) -> Rounds:
        """The program: a method's `rounds`."""
        agreed, parameters = case.agreed, case.parameters
        model = case.past.model(case.first_use - 1)
        training = self.training(agreed.training, parameters)
        numbers = self.numbers(parameters, erasable=agreed.erasable)
        made: dict[tuple[int, int], Checkpoint] = {}
        for number in range(self.count(case.target - case.first_use + 1, parameters)):
            lengths = self._lengths(case, number)
            tasks = {
                member: Task(self.work, model, training, agreed.layout.size, (), numbers, lengths[member])
                for member in case.remaining
            }
            updates = yield Round(case.first_use + number, tasks)
            model = agreed.step(model, updates)
            made[case.first_use + number, 0] = Checkpoint(model, sum(one.records for one in updates.values()))
        return Result(model, made)

    def _lengths(self, case: Case, number: int) -> dict[int, int]:
        if self.length_of is None:
            return dict.fromkeys(case.remaining, 0)
        height = case.first_use + self.length_of(number, case.parameters)
        if height not in case.past.lengths:
            raise PolicyError(f"the lengths of the updates of height {height} are needed and not kept")
        old = {m: length for m, length in case.past.lengths[height].items() if m in case.untouched}
        return {m: length_for(m, old) for m in case.remaining}


def length_for(member: int, untouched: Mapping[int, int]) -> int:
    """The squared length for a member's update, of those that `untouched` members sent in the round it stands for.

    Its own, or else their mean square: an update that the records were in gives no number. 0 where there is none.
    """
    return untouched.get(member, sum(untouched.values()) // max(1, len(untouched)))


@dataclass(frozen=True)
class Unlearner:
    """An unlearning method.

    `rounds(case)` -> the program. `works`: its local computations by name. `defaults`: its parameters. `retraining`:
    how the members of a network carry it out, where rounds of retraining are all of it. An approximate method that
    claims what only an exact one can is a PolicyError when it is defined.
    """

    name: str
    exact: bool
    source: str
    needs: frozenset[Need]
    claims: frozenset[Claim]
    rounds: Callable[[Case], Rounds]
    works: Mapping[str, Work] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=dict)
    retraining: Retraining | None = None

    def __post_init__(self) -> None:
        if not self.exact and self.claims & EXACT_ONLY:
            barred = sorted(claim.value for claim in self.claims & EXACT_ONLY)
            raise PolicyError(f"{self.name} is approximate and claims {', '.join(barred)}")
        if not self.claims >= ALWAYS:
            raise PolicyError(f"{self.name} must claim L0 and L1 and be open to audits (L4)")

    def parameters(self, chosen: Mapping[str, float]) -> dict[str, float]:
        """The defaults with some replaced; a name it does not have is a PolicyError that lists those it has."""
        unknown = sorted(set(chosen) - set(self.defaults))
        if unknown:
            known = ", ".join(sorted(self.defaults)) or "none"
            raise PolicyError(f"{self.name} has no parameter {unknown[0]!r}; it has: {known}")
        return {**self.defaults, **chosen}


def federated(case: Case, start: Ints, members: tuple[int, ...], first: int, last: int) -> Rounds:
    """The ordinary rounds of heights `first` to `last`: every member trains on what it retains, the rule adds up."""
    agreed, model = case.agreed, start
    made: dict[tuple[int, int], Checkpoint] = {}
    for height in range(first, last + 1):
        updates = yield ask(case, height, dict.fromkeys(members, model))
        model = agreed.step(model, updates)
        made[height, 0] = Checkpoint(model, sum(one.records for one in updates.values()))
    return Result(model, made)


def ask(case: Case, height: int, starts: Mapping[int, Ints]) -> Round:
    """A round of the study's own training, in which each member has a starting model."""
    size, training = case.agreed.layout.size, case.agreed.training
    return Round(height, {member: Task("train", model, training, size) for member, model in sorted(starts.items())})


def check_answer(task: Task, update: LocalUpdate) -> LocalUpdate:
    """The update, or ShapeMismatch where it is no answer to the task."""
    if update.delta.dtype != np.int32 or update.delta.shape != (task.size,):
        raise ShapeMismatch(f"answer to {task.work}", f"int32 ({task.size},)", (update.delta.dtype, update.delta.shape))
    return update
