"""How exposed people are in models that somebody holds: the audit L4 of an erasure, over files.

What may live here: from model files and data files to the engine's audit. Nothing is looked up in a home, sent or kept:
the records of an erased patient are gone from it, so whoever audits names a file of its own source (which koinon never
deletes) and the models it has exported. What this file does not know: attacks and statistics, which are
`fl_engine.attacks`. It loads torch, so no running node imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fl_engine.attacks import Candidates, Evidence, View
from fl_engine.attacks.audit import Audit, audit_cohort, audit_patient
from fl_engine.attacks.inference import MARGIN
from fl_engine.data.readers import read_data_file
from fl_engine.errors import EngineError
from fl_engine.models import MODELS, Model
from fl_engine.params import Ints, ParamSpec, decode_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile
from node.errors import InputError
from node.training import MAX_MODEL_BYTES


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

    Raises:
        InputError: a file that cannot be read or does not fit the others.
    """
    pin_profile()
    try:
        layout, ints = _model(after)
        classes = layout.tensors[-1][1][0]
        asked, others = _records(records, classes), _records(controls, classes)
        further = None if population is None else _records(population, classes)
        network = ProbedNetwork(_network_of(layout, asked, classes), asked.x.shape[1:], classes)
        grid = Grid(fraction_bits)
        weights = dequantise(ints, grid)
        clean = [dequantise(_fitting(path, layout), grid) for path in never]
        old = None if before is None else dequantise(_fitting(before, layout), grid)
        rest = clean[1:] or clean
        view = None if old is None else View.of_models(old, weights)
        evidence = Evidence(network, weights, view, rest, population=further)
        if len(set(asked.patients)) == 1:
            return audit_patient(evidence, asked, others)
        reference = None
        if clean:
            paired = None if old is None else View.of_models(old, clean[0])
            reference = Evidence(network, clean[0], paired, rest, population=further)
        return audit_cohort(evidence, asked, others, reference=reference, margin=margin)
    except EngineError as error:
        raise InputError(str(error)) from error


def _model(path: Path) -> tuple[ParamSpec, Ints]:
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise InputError(f"model {path}: larger than {MAX_MODEL_BYTES} bytes")
        return decode_model(path.read_bytes())
    except OSError as error:
        raise InputError(f"model {path}: {error.strerror or error}") from error
    except EngineError as error:
        raise InputError(f"model {path}: {error}") from error


def _fitting(path: Path, layout: ParamSpec) -> Ints:
    found, ints = _model(path)
    if found != layout:
        raise InputError(f"model {path}: another layout than the model in question")
    return ints


def _records(path: Path, classes: int) -> Candidates:
    dataset = read_data_file(path, classes=classes, test_only=True)
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


__all__ = ["audit_files"]
