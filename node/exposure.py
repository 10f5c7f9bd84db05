"""How exposed people are in models that somebody holds: the audit L4 of an erasure, over files or over a home.

What may live here: from models and records to the engine's audit. Nothing is sent or kept, and nothing is written in a
home. The records of an erased patient are gone from it, so whoever audits names a file of its own source, which koinon
never deletes. What this file does not know: attacks and statistics, which are `fl_engine.attacks`. It loads torch, so
no running node imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from crypto.blobs import ROLE_TEST
from crypto.digest import Digest
from fl_engine.attacks import Candidates, Evidence, View
from fl_engine.attacks.audit import Audit, audit_cohort, audit_patient
from fl_engine.attacks.inference import MARGIN
from fl_engine.data.readers import read_data_file
from fl_engine.errors import EngineError
from fl_engine.models import MODELS, Model
from fl_engine.models.shards import Shards
from fl_engine.params import Ints, ParamSpec, decode_model, encode_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile
from node import hospital
from node.errors import InputError, NotFound, Refused
from node.history import History
from node.home import read_user_file
from node.hospital import Hospital
from node.training import MAX_MODEL_BYTES, model_root
from node.vault import Vault

Decoded: TypeAlias = tuple[ParamSpec, Ints]
"""A model: its layout, and int32 [P]."""


def audit_files(
    after: Path,
    records: Path,
    controls: Path,
    *,
    before: Path | None = None,
    never: Sequence[Path] = (),
    population: Path | None = None,
    fraction_bits: int = 24,
    margin: float = MARGIN,
    shard: int | None = None,
) -> Audit:
    """Audit the model `after`: of one patient where `records` holds one, else of a cohort.

    Args:
        after: the model in question, as `koinon model export` writes it.
        records: data file of those who were erased; all of it is asked about.
        controls: data file of patients like them who were never used.
        before: a model from before the erasure that is still held, for the attacks on the pair.
        never: models that never had the records (the one the erasure began at, one trained again). The first is the
            cohort's reference, the others are what the attacks compare with; a single one is both.
        population: data file of further patients like them.
        fraction_bits: of the study's grid.
        margin: of the areas, for a cohort.
        shard: of models in shards, the one whose network is attacked: that of the hospital which had the records.

    Raises:
        InputError: a file that cannot be read or does not fit the others.
    """
    model = _model(after)
    shards = _shards(after, model[0])
    if shards.count > 1 and not 1 <= (shard or 0) <= shards.count:
        told = "none is named" if shard is None else f"{shard} is none of them"
        raise InputError(
            f"model {after}: it has {shards.count} shards, and {told}: name that of the hospital which had the "
            "records (--shard), 1 + its index modulo their number"
        )
    if shards.count == 1 and shard is not None:
        raise InputError(f"model {after}: it has no shards, leave out --shard {shard}")
    classes = _classes(model[0])
    return _audit(
        model,
        _records(records, classes),
        _records(controls, classes),
        before=None if before is None else _fitting(before, model[0]),
        never=[_fitting(path, model[0]) for path in never],
        population=None if population is None else _records(population, classes),
        grid=Grid(fraction_bits),
        margin=margin,
        shard=shard or 1,
    )


def audit_home(
    home: Path,
    erasure: str,
    records: Path,
    *,
    controls: Path | None = None,
    before: Path | None = None,
    population: Path | None = None,
) -> Audit:
    """Audit the model that a confirmed erasure made, with what the erasing hospital's home holds.

    The model that the erasure began at is what never had the records. The controls are the hospital's own test patients
    in the study, who are in no training, unless a file is named. Other arguments as for `audit_files`.

    Raises:
        Refused: the erasure is not confirmed, or was not of this hospital's patients.
        NotFound, InputError, VerificationFailed: as `hospital.opened` and `audit_files`.
    """
    with hospital.opened(home, erasure) as here:
        confirmed, plan = here.erasure.confirmed, here.erasure.plan
        if confirmed is None or plan is None:
            raise Refused("the erasure is not confirmed yet: there is no model of it to attack")
        model, base = (_held(here, root) for root in (confirmed.head_model, plan.base_model))
        classes = _classes(model[0])
        return _audit(
            model,
            _records(records, classes),
            controls_of(here.vault, here.history, here.erasure.opened.study)
            if controls is None
            else _records(controls, classes),
            before=None if before is None else _fitting(before, model[0]),
            never=[] if confirmed.head_model == plan.base_model else [base],
            population=None if population is None else _records(population, classes),
            grid=here.arithmetic.grid,
            shard=here.arithmetic.shards.of(here.erasure.opened.controller),
        )


def _audit(
    model: Decoded,
    asked: Candidates,
    others: Candidates,
    *,
    before: Decoded | None,
    never: Sequence[Decoded],
    population: Candidates | None,
    grid: Grid,
    shard: int,
    margin: float = MARGIN,
) -> Audit:
    pin_profile()
    shards, classes = Shards.of_layout(model[0]), _classes(model[0])
    name = model_root(encode_model(*model)).hex()
    try:
        network = ProbedNetwork(_network_of(shards.network, asked, classes), asked.x.shape[1:], classes)
        weights, *clean = (dequantise(shards.part(ints, shard), grid) for _, ints in (model, *never))
        old = None if before is None else dequantise(shards.part(before[1], shard), grid)
        rest = clean[1:] or clean
        view = None if old is None else View.of_models(old, weights)
        evidence = Evidence(network, weights, view, rest, population=population)
        if len(set(asked.patients)) == 1:
            return replace(audit_patient(evidence, asked, others), model=name)
        reference = None
        if clean:
            paired = None if old is None else View.of_models(old, clean[0])
            reference = Evidence(network, clean[0], paired, rest, population=population)
        found = audit_cohort(evidence, asked, others, reference=reference, margin=margin)
        return replace(found, model=name)
    except EngineError as error:
        raise InputError(str(error)) from error


def _shards(path: Path, layout: ParamSpec) -> Shards:
    try:
        return Shards.of_layout(layout)
    except EngineError as error:
        raise InputError(f"model {path}: {error}") from error


def _classes(layout: ParamSpec) -> int:
    return layout.tensors[-1][1][0]


def _held(here: Hospital, root: Digest) -> Decoded:
    data = here.store.content(root, "model")
    if data is None:
        raise NotFound(f"model {root.hex()[:12]} is not in this home: name the files instead (koinon model export)")
    return decode_model(data)


def controls_of(vault: Vault, history: History, study: Digest) -> Candidates:
    """The records of the hospital's test patients whose consent to the study stands, who have numbers for names here.

    A patient who agreed again has several consents over the same records and is one control.
    """
    standing = {
        leaf.rows
        for leaf in vault.leaves(study)
        if leaf.role == ROLE_TEST
        and leaf.rows
        and not leaf.locally_withdrawn
        and history.withdrawal(leaf.consent_id) is None
    }
    if not standing:
        raise NotFound("this home has no test patients of the study as controls: name a file of patients never used")
    owners = sorted((row, number) for number, rows in enumerate(sorted(standing)) for row in rows)
    x, y = vault.rows((row for row, _ in owners), ROLE_TEST)
    return Candidates(x, y.astype(np.int64), tuple(f"control {number}" for _, number in owners))


def _model(path: Path) -> Decoded:
    try:
        return decode_model(read_user_file(path, MAX_MODEL_BYTES, "model"))
    except EngineError as error:
        raise InputError(f"model {path}: {error}") from error


def _fitting(path: Path, layout: ParamSpec) -> Decoded:
    found = _model(path)
    if found[0] != layout:
        raise InputError(f"model {path}: another layout than the model in question")
    return found


def _records(path: Path, classes: int) -> Candidates:
    try:
        dataset = read_data_file(path, classes=classes, test_only=True)
    except EngineError as error:
        raise InputError(str(error)) from error
    return Candidates(dataset.x, dataset.y, dataset.patients)


def _network_of(layout: ParamSpec, records: Candidates, classes: int) -> Model:
    """The network with this layout: a model file names its tensors, not its network."""
    for model in MODELS.values():
        try:
            if model.layout(records.x.shape[1:], classes) == layout:
                return model
        except EngineError:
            continue
    shape = records.x.shape[1:]
    raise InputError(f"no network takes records of shape {shape} and has the model's layout: is it of another study?")


__all__ = ["audit_files", "audit_home", "controls_of"]
