"""The bridge between tensors and bytes: a study's arithmetic, and the worker process that trains.

What may live here: what turns a `Study` and canonical bytes into `fl_engine` calls and back. What this file does not
know: peers, the chain, consent. Aggregation runs here (numpy integers); training runs in the worker, the only process
of a node that loads torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import rfc8785
from numpy.typing import NDArray

from crypto.digest import ZERO, Digest, content_root, sha256
from fl_engine.aggregation import get_rule
from fl_engine.errors import AggregationError, EngineError, RangeExceeded, WorkerFailed
from fl_engine.models import get_model, initial_model
from fl_engine.models.shards import Shards, together
from fl_engine.params import decode_model, encode_ints, encode_model, model_length, view_ints
from fl_engine.ring import Grid, add_saturating, check_range
from fl_engine.training import Hyperparameters, get_method
from fl_engine.unlearning import Unlearner
from fl_engine.unlearning.execution import at_length
from fl_engine.worker_client import TrainingWorker
from node.errors import InputError, LocalError, Refused
from node.study import Study

TRAINING = ("local_epochs", "batch_size", "learning_rate", "noise")
"""What a study says of local training that a worker is given."""

MAX_MODEL_BYTES = 2**31
"""Of a model's file that a person names."""


class TrainingStopped(LocalError):
    """Training was ended on purpose: the round moved on, or a consent it used was withdrawn."""


def hyperparameters_of(study: Study) -> Hyperparameters:
    """The settings of a study's local training. Raises `EngineError` where the engine takes none such."""
    return Hyperparameters(**{key: study["training", key] for key in TRAINING})


class Arithmetic:
    """What a study's numbers mean: layout, grid, initial model, the agreed sum. Deterministic on every machine.

    Raises:
        InputError: the spec names a model, rule or method that does not exist, a model that cannot take the data or
            is not found by that method, or settings that the method does not take.
    """

    def __init__(self, study: Study) -> None:
        try:
            model = get_model(study["model", "name"])
            network = model.layout(study.input_shape, study["data", "classes"])
            self.shards = Shards(network, study["training", "shards"])
            self.layout = self.shards.layout
            self.grid = Grid(study["aggregation", "fraction_bits"], study["aggregation", "max_abs"])
            self.rule = get_rule(study["aggregation", "rule"])
            method = get_method(study["training", "method"])
            method.trains(model)
            method.check(hyperparameters_of(study), study["policy", "erasable"])
        except EngineError as error:
            raise InputError(f"study spec: {error}") from error
        if self.shards.count > 1 and not method.by_steps:
            raise InputError(
                f"study spec: training.shards = {self.shards.count} with training.method = {method.name}: its model is "
                "a sum that a record is taken out of, which shards would only make more of"
            )
        self.study = study

    @property
    def size(self) -> int:
        """P, the number of integers of an update: as many as the network of one shard has."""
        return self.shards.network.size

    def initial(self) -> bytes:
        """The study's first model as `koinon.model/1` bytes, the same everywhere; all its shards begin alike."""
        network = initial_model(self.shards.network, self.grid)
        return encode_model(self.layout, self.shards.whole([network] * self.shards.count))

    def model_length(self) -> int:
        """Bytes of every model of this study."""
        return model_length(self.layout)

    @cached_property
    def first_network(self) -> Digest:
        """The name of the network that every shard begins at."""
        return model_root(self.network_of(self.initial(), 0))

    def network_of(self, model: bytes, member: int) -> bytes:
        """The network that a member trains, as a model of its own: what the whole model has of its shard."""
        if self.shards.count == 1:
            return model
        _, ints = decode_model(model)
        return encode_model(self.shards.network, self.shards.part(ints, self.shards.of(member)))

    def check_model(self, data: bytes) -> None:
        """Raise `EngineError` unless `data` is a model of this study."""
        spec, _ = decode_model(data)
        if spec != self.layout:
            raise InputError("the model has another layout than the study's")

    def in_range(self, values: bytes) -> bool:
        """Whether every integer of an update is within the study's `max_abs`."""
        try:
            check_range(view_ints(values, self.size), self.grid)
        except RangeExceeded:
            return False
        return True

    def next_model(self, parent: bytes, updates: Iterable[tuple[int, bytes, int]]) -> bytes:
        """Parent model + the study's aggregate of (member, integers, n_k), taken one at a time."""
        total = Total(self)
        for member, values, weight in updates:
            total.add(member, values, weight)
        return total.model(parent)


class Total:
    """The study's aggregate so far, a sum a shard: updates go in one at a time and need not stay in memory."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        """Nothing is in it yet."""
        self._arithmetic = arithmetic
        self._rule = arithmetic.rule
        self._states: dict[int, Any] = {}

    def add(self, member: int, values: bytes, weight: int) -> None:
        """Take in a member's update (little-endian int32 [P]) with n_k = `weight`.

        Raises `EngineError`, changing nothing.
        """
        shard, size = self._arithmetic.shards.of(member), self._arithmetic.size
        state = self._states[shard] if shard in self._states else self._rule.init(size)
        self._states[shard] = self._rule.apply(state, view_ints(values, size), weight)

    def model(self, parent: bytes) -> bytes:
        """Parent model + the aggregate, as `koinon.model/1` bytes. Nothing can be added afterwards.

        A shard that no update is of stays as it is. Raises `EngineError` where there is no update at all.
        """
        if not self._states:
            raise AggregationError("no update to aggregate")
        shards = self._arithmetic.shards
        _, ints = decode_model(parent)
        parts = shards.parts(ints)
        for shard in sorted(self._states):
            delta = self._rule.finish(self._states.pop(shard))
            parts[shard - 1] = add_saturating(parts[shard - 1], delta)
            del delta
        model = shards.whole(parts)
        del parts
        return encode_model(self._arithmetic.layout, model)


def model_root(data: bytes) -> Digest:
    """The name of a model: the content address of its canonical bytes."""
    return content_root("model", data)


def profile_hash(profile: dict[str, Any]) -> Digest:
    """What an update says of the machine that trained it: sha256 of the canonical JSON profile."""
    return Digest(hashlib.sha256(rfc8785.dumps(profile)).digest())


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """What a worker returns: little-endian int32 `values`, n_k `records`, the mean loss and the profile's hash.

    `loss` is None where nothing was trained (`carried_over`).
    """

    values: bytes
    records: int
    loss: float | None
    profile: Digest


def carried_over(arithmetic: Arithmetic, model: bytes, network: bytes, member: int, records: int) -> LocalTraining:
    """The update that brings a member's shard of `model` to where `network` stands, as far as the grid reaches.

    What it does not reach is left to the next round, whose update is made the same way: zeros once it is there.
    """
    (_, start), (_, end) = decode_model(arithmetic.network_of(model, member)), decode_model(network)
    limit = arithmetic.grid.limit
    step = np.clip(end.astype(np.int64) - start, -limit, limit).astype(np.int32)
    return LocalTraining(encode_ints(step), records, None, profile_hash({"trained": False}))


class Trainer:
    """One training worker, kept alive between rounds. Blocking: an async caller runs each call in a thread.

    Several trainers of one process may share a `worker` under different names (a simulation does); it serves one call
    at a time, and whoever made it ends it. `secret`: the hospital's own 32 bytes, for methods that add noise.
    """

    def __init__(
        self, timeout_s: float, worker: TrainingWorker | None = None, name: str = "own", secret: bytes = b""
    ) -> None:
        self._worker = TrainingWorker(timeout_s) if worker is None else worker
        self._shared = worker is not None
        self._name, self._secret = name, secret
        self._loaded: dict[str, tuple[Digest, frozenset[int]]] = {}  # name -> (what, of which rows)
        self._stopping = False

    def warm(self) -> None:
        """Start the worker ahead of the first training: loading torch takes seconds."""
        self.profile()

    def profile(self) -> dict[str, Any]:
        """What the worker runs on."""
        try:
            return self._worker.hello()
        except WorkerFailed as error:
            raise LocalError(f"the training worker does not start: {error}") from error

    def train(
        self,
        arithmetic: Arithmetic,
        rows: NDArray[np.int64],
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        model: bytes,
        beacon: bytes,
        member: int,
        unlearner: Unlearner | None = None,
        squared_length: int = 0,
    ) -> LocalTraining:
        """Train on exactly these records (import row numbers, arrays) from `model`; an unlearning method in its way.

        The model is the study's; of one in shards it is the member's own network that is trained.
        The update is brought to `squared_length` (grid units) by a method that asks for it; 0: it stays as trained.

        Raises:
            TrainingStopped: `stop` was called meanwhile.
            Refused: the study's policy forbids it (too few batches for an erasable study).
            LocalError: the worker failed.
        """
        study, model = arithmetic.study, arithmetic.network_of(model, member)
        self._stopping = False
        training = hyperparameters_of(study)
        again = None if unlearner is None else unlearner.retraining
        if unlearner is not None and again is not None:
            training = again.training(training, unlearner.defaults)
        try:
            dataset = self._load("training", rows, x, y, study["data", "classes"])
            settings: dict[str, Any] = {
                "method": study["training", "method"],
                "model": study["model", "name"],
                "training": asdict(training),
                "grid": arithmetic.grid,
                "beacon": beacon,
                "member": member,
                "erasable": study["policy", "erasable"],
                "secret": self._secret,
            }
            if unlearner is None or again is None or again.work == "train":
                update = self._worker.train(dataset, rows, model, **settings)
            else:
                update = self._worker.unlearn(
                    dataset,
                    rows,
                    rows[:0],
                    model,
                    unlearner=unlearner.name,
                    work=again.work,
                    numbers=again.numbers(unlearner.defaults, erasable=settings["erasable"]),
                    size=arithmetic.size,
                    **settings,
                )
        except WorkerFailed as error:
            if self._stopping:
                raise TrainingStopped("training was stopped") from error
            if error.error_type == "PolicyError":
                raise Refused(str(error)) from error
            raise LocalError(f"training failed: {error}") from error
        delta = at_length(update.delta, squared_length, arithmetic.grid)
        return LocalTraining(encode_ints(delta), update.records, update.loss, profile_hash(update.profile))

    def predict(
        self, arithmetic: Arithmetic, rows: NDArray[np.int64], x: NDArray[np.float32], model: bytes
    ) -> NDArray[np.float32]:
        """Logits float32 [n, classes] of the study's model on these records.

        A shard that has learnt nothing has no say while another has.
        """
        study, shards = arithmetic.study, arithmetic.shards
        networks = [encode_model(shards.network, part) for part in shards.parts(decode_model(model)[1])]
        taught = networks[:1]
        if shards.count > 1:
            taught = [one for one in networks if model_root(one) != arithmetic.first_network] or taught
        name, grid = study["model", "name"], arithmetic.grid
        try:
            dataset = self._load("evaluation", rows, x, np.zeros(len(rows), np.int64), study["data", "classes"])
            return together([self._worker.predict(dataset, rows, one, model=name, grid=grid) for one in taught])
        except WorkerFailed as error:
            raise LocalError(f"evaluation failed: {error}") from error

    def compare(
        self,
        arithmetic: Arithmetic,
        members: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
        test: tuple[NDArray[np.float32], NDArray[np.int64]],
        agreed: bytes,
        beacons: Sequence[bytes],
    ) -> dict[str, NDArray[np.float32]]:
        """Test logits of the agreed model, and of float federated, centralised and local training with its beacons."""
        study = arithmetic.study
        if arithmetic.shards.count > 1:
            raise InputError(
                f"a study in {arithmetic.shards.count} shards is compared with no other training: theirs is one network"
            )
        classes = study["data", "classes"]
        training = {key: study["training", key] for key in TRAINING}
        chosen = []
        try:
            for i, (x, y) in enumerate(members):
                rows = np.arange(len(y))
                chosen.append((self._load(f"member-{i + 1}", rows, x, y, classes), rows))
            tested = self._load("test", np.arange(len(test[1])), *test, classes)
            return self._worker.compare(
                chosen,
                (tested, np.arange(len(test[1]))),
                arithmetic.initial(),
                agreed,
                model=study["model", "name"],
                training=training,
                grid=arithmetic.grid,
                beacons=beacons,
            )
        except WorkerFailed as error:
            raise LocalError(f"comparison failed: {error}") from error

    def stop(self) -> None:
        """End a training in progress from another thread; the next call starts a fresh worker."""
        self._stopping = True
        self._worker.kill()

    def forget(self, kept: Set[int]) -> bool:
        """Drop the records the worker holds, where any is none of `kept` (import row numbers); whether it did.

        By ending it at once, or by unloading ours from a shared one. A call in progress then fails and may be made
        again; it must not go on with a record that is being deleted.
        """
        if all(rows <= kept for _, rows in tuple(self._loaded.values())):
            return False
        held, self._loaded = tuple(self._loaded), {}
        if not self._shared:
            self._worker.kill()
            self._worker.close()
            return True
        for name in held:
            if self._worker.is_loaded(name):
                self._worker.unload(name)
        return True

    def close(self) -> None:
        """End the worker, unless others use it."""
        if not self._shared:
            self._worker.close()

    def _load(
        self, part: str, rows: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.int64], classes: int
    ) -> str:
        """Give the worker a data set unless it has it; the name it has there."""
        name = f"{self._name}/{part}"
        parts = (np.array([classes], np.int64), rows, x, y)
        label = sha256(b"".join(sha256(np.ascontiguousarray(one).tobytes()) for one in parts))
        what = label, frozenset(rows.tolist())
        there = self._loaded.get(name, (ZERO, frozenset()))
        if there != what or not self._worker.is_loaded(name):
            # Until it is there, what must be forgotten may be there still or on its way; after a fault, either.
            self._loaded[name] = ZERO, there[1] | what[1]
            self._worker.load(name, x, y, classes, rows)
            self._loaded[name] = what
        return name
