"""Somebody who turns a home inside out to find who was erased: the pair attack, and a trainer that helps it.

The attacker reads a member's home with that member's own keys: every model in any file, every update whose ciphertext
and content key are there. It looks for two results that differ by the erased records alone, an old one and a replayed
one from the same parent, and runs the engine's own attacks on the pair (`fl_engine.attacks`): the cosine between a
candidate's gradient and the difference, and how much its loss differs between the two. Where only the replayed one is
left it does the same with that one and its parent, which is then all there is.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.blobs import UpdatePlain, decode_update
from crypto.digest import Digest
from crypto.sealing import BlobKind, open_blob
from fl_engine.attacks import Candidates, Evidence, View
from fl_engine.attacks.attack import losses
from fl_engine.attacks.gradient import cosines
from fl_engine.attacks.inference import rank
from fl_engine.attacks.loss import differences
from fl_engine.data.dataset import Dataset
from fl_engine.models import get_model
from fl_engine.params import MAGIC, decode_ints, decode_model
from fl_engine.training.probe import ProbedNetwork
from fl_engine.unlearning import Unlearner
from node.history import History, RoundHistory
from node.messages import CommitNotice
from node.store import Store
from node.study import Study, parse_sections
from node.training import Arithmetic, LocalTraining, model_root
from tests.fakes.network import SharedTrainer

Floats = NDArray[np.float64]

CARELESS = "careless"
"""Studies of this name are trained in full batches by `CarelessTrainer`."""


class CarelessTrainer(SharedTrainer):
    """Trains a study whose name begins with `CARELESS` as no erasable study may be: one step over all records.

    Its worker stays up between uses (it forgets records by unloading them), so that torch is loaded once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shared = True

    def warm(self) -> None:
        """The first training starts the worker."""

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
        """As the study says, or carelessly."""
        if arithmetic.study.name.startswith(CARELESS):
            arithmetic = Arithmetic(_in_full_batches(arithmetic.study))
        return super().train(arithmetic, rows, x, y, model, beacon, member, unlearner, squared_length)

    def end(self) -> None:
        """End the worker."""
        self._worker.close()


def _in_full_batches(study: Study) -> Study:
    tree = {name: dict(keys) for name, keys in study.sections.items() if name}
    tree["training"] |= {"batch_size": 65_536, "local_epochs": 1}
    tree["policy"] |= {"erasable": False}
    return parse_sections({**study.sections[""], **tree, "forms": [dict(form) for form in study.forms]})


# --------------------------------------------------------------------------------------------------------------------
# What is in a home


def back_up(home: Path, to: Path) -> None:
    """Copy what a member could have copied: its node's database and blobs, while the node runs."""
    shutil.copytree(home / "blobs", to / "blobs")
    with closing(sqlite3.connect(home / "node.db")) as source, closing(sqlite3.connect(to / "node.db")) as target:
        source.backup(target)


@dataclass(slots=True)
class Loot:
    """Models by root as floats [P], updates by (round, member) as floats [P] with their record counts."""

    models: dict[Digest, Floats] = field(default_factory=dict)
    updates: dict[tuple[Digest, int], tuple[Floats, int]] = field(default_factory=dict)

    def add(self, home: Path, at_rest_key: bytes, study: Study, rounds: Sequence[RoundHistory]) -> Loot:
        """Take everything in: models in whatever file, and the updates of these rounds that open."""
        arithmetic = Arithmetic(study)
        scale = 2.0 ** -study["aggregation", "fraction_bits"]
        for path in home.rglob("*"):
            if path.is_file() and (data := path.read_bytes()).startswith(MAGIC):
                layout, ints = decode_model(data)
                if layout == arithmetic.layout:
                    self.models[model_root(data)] = ints * scale
        store = Store(home, at_rest_key)
        try:
            for one in rounds:
                for notice in store.notices(one.opened.round_id, "CommitNotice"):
                    assert isinstance(notice, CommitNotice)
                    plain = _update(store, notice)
                    if plain is not None:
                        values = decode_ints(plain.values, arithmetic.size) * scale
                        self.updates[notice.round_id, notice.member] = values, plain.records
        finally:
            store.close()
        return self


def _update(store: Store, notice: CommitNotice) -> UpdatePlain | None:
    key = store.key(notice.round_id, notice.member, int(BlobKind.UPDATE))
    if key is None or not store.has(notice.update.cipher_root):
        return None
    data = store.get(notice.update.cipher_root)
    opened = open_blob(data, key, notice.update, notice.round_id, notice.member, BlobKind.UPDATE)
    return decode_update(opened, None)


# --------------------------------------------------------------------------------------------------------------------
# The attack


def global_view(loot: Loot, history: History, study: Digest, erased: int) -> View:
    """The agreed models of the oldest and the newest line after their first agreed round, or the newest and its parent.

    `erased` is how many records fewer the newest line had: weights are known to every member.
    """
    old, new = _lines(history, study)
    assert old.final is not None
    assert new.final is not None
    parent, fresh = loot.models[new.opened.parent_model], loot.models[new.final.result.model_root]
    records = sum(n for (round_id, _), (_, n) in loot.updates.items() if round_id == new.opened.round_id)
    stale = loot.models.get(old.final.result.model_root)
    if stale is None:
        return View(parent, fresh, parent, fresh - parent, False)
    change = (records + erased) * (stale - parent) - records * (fresh - parent)
    return View(parent, stale, fresh, change, True)


def hospital_view(loot: Loot, history: History, study: Digest, hospital: int, erased: int) -> View:
    """One hospital's update to the newest line's first model and any it made before from the same parent, or the first.

    Updates that were revealed in a round which then failed count too.
    """
    _, new = _lines(history, study)
    parent = loot.models[new.opened.parent_model]
    fresh, records = loot.updates[new.opened.round_id, hospital]
    before = [one for one in history.rounds.values() if one.opened.study == study and one.position < new.position]
    stale = [
        loot.updates[one.opened.round_id, hospital][0]
        for one in before
        if one.opened.parent_model == new.opened.parent_model and (one.opened.round_id, hospital) in loot.updates
    ]
    if not stale:
        return View(parent, parent + fresh, parent, fresh, False)
    change = (records + erased) * stale[-1] - records * fresh
    return View(parent, parent + stale[-1], parent + fresh, change, True)


def _lines(history: History, study: Digest) -> tuple[RoundHistory, RoundHistory]:
    """The first agreed round of the oldest line and of the active one; both start from the same model."""
    found = history.studies[study]
    first, last = (
        next(one for h in sorted(branch.rounds) if (one := history.rounds[branch.rounds[h]]).final is not None)
        for branch in (found.branches[0], found.branches[found.active_branch])
    )
    assert first.opened.parent_model == last.opened.parent_model
    return first, last


class Attacker:
    """Runs the engine's attacks on a study's network."""

    def __init__(self, study: Study) -> None:
        self._network = ProbedNetwork(get_model(study["model", "name"]), study.input_shape, study["data", "classes"])

    def logits(self, weights: Floats, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network says of each candidate, float32 [n, classes]."""
        self._network.set_weights(weights.astype(np.float32))
        return self._network.predict(x)

    def losses(self, weights: Floats, x: NDArray[np.float32], y: NDArray[np.int64]) -> Floats:
        """Cross-entropy of each candidate, float64 [n]."""
        return losses(self.logits(weights, x).astype(np.float64), y)

    def ranks(self, view: View, record: Dataset, controls: Dataset) -> dict[str, float]:
        """By each score, the share of controls that look more like the erased record (ties half): 0 is found first.

        `record` holds the erased record alone. For one that left no trace the share is uniform on 0..1.
        """
        asked = _candidates(record).and_then(_candidates(controls))
        evidence = Evidence(self._network, view.without, view)
        scores = {"cosine": cosines(evidence, view, asked), "loss": differences(evidence, view, asked)}
        return {name: rank(float(one[0]), one[1:]).share for name, one in scores.items()}


def _candidates(data: Dataset) -> Candidates:
    return Candidates(data.x, data.y, data.patients)
