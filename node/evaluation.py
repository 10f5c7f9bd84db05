"""How good is a model: the agreed one, on our own test records or on a file. And handing a model out.

What may live here: from a study and a height to figures. Records of withdrawn patients are not used for evaluation
either: the consent gate applies to every role. A file named on the command line lies outside consent coverage, and the
answer says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import trio

from crypto.digest import Digest
from fl_engine.data.dataset import Dataset, Role
from fl_engine.data.readers import read_data_file
from fl_engine.errors import EngineError
from fl_engine.evaluate import evaluate as figures
from node.errors import InputError, NotFound, Refused
from node.training import Arithmetic

if TYPE_CHECKING:
    from node.app import Node

ROLE_TEST = 3


def model_at(node: Node, study: Digest, height: int | None) -> tuple[int, Digest]:
    """(height, model root) of the study's training branch: at `height`, or the newest agreed one."""
    models = node.history.studies[study].head.models
    chosen = max(models) if height is None else height
    if chosen not in models:
        raise NotFound(f"no model of height {chosen}; the study has heights 0 to {max(models)}")
    return chosen, models[chosen]


def _where(node: Node, study: Digest, height: int, root: Digest) -> dict[str, Any]:
    """Which model it is. `replaying`: an erasure trains its branch again, and what served before is deleted."""
    found = node.history.studies[study]
    replaying = found.active_branch != found.serving_branch
    return {"branch": found.active_branch, "round": height, "model_root": root.hex(), "replaying": replaying}


def _own_test(node: Node, study: Digest) -> tuple[Any, Any, list[str]]:
    vault = node.participant.vault
    if vault is None:
        raise Refused("an auditor has no records: name a file with --data")
    rows: list[int] = []
    patients: list[str] = []
    for leaf in vault.leaves(study):
        if leaf.role == ROLE_TEST and not node.participant.withdrawn(leaf.consent_id):
            rows += leaf.rows
            patients += [leaf.leaf_key.hex()] * len(leaf.rows)
    if not rows:
        raise NotFound("this vault has no test records with an active consent: name a file with --data")
    x, y = vault.rows(rows, ROLE_TEST)
    return x, y, patients


def test_part(dataset: Dataset) -> Dataset:
    """The test records of a file; all of it where nothing in it is marked as a test record."""
    rows = dataset.rows(Role.TEST)
    return dataset.subset(rows) if len(rows) else dataset


def _file(arithmetic: Arithmetic, path: Path) -> tuple[Any, Any, list[str]]:
    study = arithmetic.study
    try:
        dataset = test_part(read_data_file(path, classes=study["data", "classes"], test_only=True))
    except EngineError as error:
        raise InputError(str(error)) from error
    if dataset.input_shape != study.input_shape:
        raise InputError(f"{path}: records of shape {dataset.input_shape}, the study has {study.input_shape}")
    return dataset.x, dataset.y, list(dataset.patients)


async def evaluate(node: Node, study: Digest, height: int | None, path: Path | None) -> dict[str, Any]:
    """Accuracy, balanced accuracy, AUC with patient-bootstrap intervals of a model of the study."""
    chosen, root = model_at(node, study, height)
    arithmetic = await node.core(node.participant.study, study)
    model = await node.core(node.participant.store.get, root)
    if path is None:
        x, y, patients = await node.core(_own_test, node, study)
    else:
        x, y, patients = await trio.to_thread.run_sync(_file, arithmetic, path)
    logits = await node.predict(arithmetic, np.arange(len(y)), x, model)
    found = figures(logits, y, patients)
    return {
        **found.to_json(),
        "n": len(y),
        **_where(node, study, chosen, root),
        "data": "own test records" if path is None else f"{path.name} (outside consent coverage)",
    }


async def export(node: Node, study: Digest, height: int | None) -> dict[str, Any]:
    """A model's bytes with its name on the ledger."""
    chosen, root = model_at(node, study, height)
    model = await node.core(node.participant.store.get, root)
    return {"model": model.hex(), "study": study.hex(), **_where(node, study, chosen, root)}
