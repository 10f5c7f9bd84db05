"""`koinon simulate`: a whole study in one process, for the same model roots as the network's."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import common, spec
from node.cli.common import FILE, patient_id
from node.cli.network import data_options, load_datasets
from node.cli.output import answer, json_flag, pairs, progress, table
from node.errors import InputError, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crypto.digest import Digest
    from fl_engine.data.dataset import Dataset
    from node.simulate import Replay
    from node.study import Study

    Part = tuple[NDArray[np.float32], NDArray[np.int64]]


@click.command()
@spec.spec_options
@click.option("--members", type=int, help="Number of hospitals of a --task (default 4).")
@data_options
@click.option("--test", type=FILE, help="A file with test records, to measure the last model on.")
@click.option("--without-patient", metavar="ID|-", multiple=True, help="Run as if this patient had never agreed.")
@click.option("--branch-seed", metavar="HEX", help="Seed of an erasure's branch; see --from-round.")
@click.option("--from-round", type=int, help="First round whose beacon takes --branch-seed.")
@click.option("--unlearning", metavar="NAME", help="Unlearning method of that branch; default rollback and replay.")
@click.option("--to-round", type=int, help="With --unlearning: the plan's target, the last round it stands for.")
@click.option("--compare", is_flag=True, help="Also train alone, together in one place, and in floating point.")
@json_flag
def simulate(
    given: spec.Given,
    members: int | None,
    task: str | None,
    data: tuple[Path, ...],
    patient_column: str,
    test: Path | None,
    without_patient: tuple[str, ...],
    branch_seed: str | None,
    from_round: int | None,
    unlearning: str | None,
    to_round: int | None,
    compare: bool,
) -> None:
    """Run a whole study in one process: the real nodes over an in-memory chain and network.

    \b
    Examples: koinon simulate --spec study.toml --data a.npz --data b.npz --test test.npz --json
              koinon simulate --task nuclei --model small-cnn --rounds 4 --local-epochs 1 \\
                  --batch-size 16 --learning-rate 0.05 --compare

    The same specification, files and seed give the model roots of a network on which nothing failed (but for noise,
    which is drawn from each hospital's own secret). With --without-patient, --branch-seed and --from-round they are
    those of an erasure's branch; with --unlearning and --to-round, of one by that method. Nothing is kept.
    """
    import trio

    from node import methods

    spec.refuse_both(given)
    if (branch_seed is None) != (from_round is None):
        raise click.UsageError("--branch-seed and --from-round go together")
    if from_round is not None and from_round < 1:
        raise InputError(f"--from-round {from_round}: rounds are counted from 1")
    if (unlearning is None) != (to_round is None) or (unlearning is not None and from_round is None):
        raise click.UsageError("--unlearning and --to-round go together, with --branch-seed and --from-round")
    replay = _replay(branch_seed, from_round, unlearning, to_round)
    datasets, kind = load_datasets(members, task, data, patient_column)
    for sentence in datasets[0].simulated:
        progress(sentence)
    study = _study(given, datasets, kind)
    if unlearning is not None:
        methods.find(unlearning, study)
    if replay is not None and replay.saved:
        study = _shortened(study, replay)
    without = frozenset(patient_id(one) for one in without_patient)
    if replay is not None:
        replay = dataclasses.replace(replay, standing=_standing(study, replay, datasets, without))
    if missing := len(without - {patient for one in datasets for patient in one.patients}):
        raise NotFound(f"{missing} of the {len(without)} patients to leave out are in none of the data sets")
    if test is not None and not test.is_file():
        raise InputError(f"test file {test} does not exist")
    with tempfile.TemporaryDirectory(prefix="koinon-simulate-") as folder:
        found, agreed, beacons = trio.run(_run, Path(folder), study, datasets, without, replay, test)
    lines = [f"round {height:>4}  model {root}" for height, root in found["model_roots"].items()]
    if test is not None:
        lines += pairs(**{k: found[k] for k in ("accuracy", "balanced_accuracy", "auc", "n")})
    if compare:
        found["comparison"] = _compare(study, datasets, without, test, agreed, beacons)
        lines += _comparison_lines(found["comparison"])
    answer(found, lines)


def _replay(seed: str | None, from_round: int | None, method: str | None, to_round: int | None) -> Replay | None:
    from node import methods
    from node.simulate import Replay

    if seed is None or from_round is None:
        return None
    if to_round is not None and to_round < from_round:
        raise InputError(f"--to-round {to_round} comes before --from-round {from_round}")
    found = methods.DEFAULT if method is None else methods.find(method)
    if found.retraining is not None and found.retraining.length_of is not None:
        raise InputError(
            f"--unlearning {method}: its updates take the lengths of old ones, and a run without the records has none; "
            "only the members of the network kept them"
        )
    return Replay(from_round, common.digest(seed, "--branch-seed"), found, to_round)


def _standing(study: Study, replay: Replay, datasets: Sequence[Dataset], without: frozenset[str]) -> frozenset[int]:
    """The members whose shard an erasure of these patients leaves as it was; nobody where its method has no shards."""
    from fl_engine.unlearning import Need
    from node.training import Arithmetic

    if Need.SHARDS not in replay.method.needs:
        return frozenset()
    of = Arithmetic(study).shards.of
    touched = {of(index) for index, one in enumerate(datasets) if without & set(one.patients)}
    if not touched:
        raise InputError(f"--unlearning {replay.method.name}: name whose erasure it is with --without-patient")
    return frozenset(index for index in range(len(datasets)) if of(index) not in touched)


def _shortened(study: Study, replay: Replay) -> Study:
    """The study with as many rounds as its branch has where a method takes fewer than it stands for."""
    import json

    from node.study import parse_sections

    assert replay.to_round is not None
    if replay.to_round > study["", "rounds"]:
        raise InputError(f"--to-round {replay.to_round}: the study has {study['', 'rounds']} rounds")
    return parse_sections({**json.loads(study.canonical), "rounds": study["", "rounds"] - replay.saved})


def _study(given: spec.Given, datasets: tuple[Dataset, ...], kind: str) -> Study:
    from node.study import parse_toml

    shape, classes = datasets[0].input_shape, datasets[0].classes
    if given.spec is None:
        return spec.from_flags(given, task=kind, shape=shape, classes=classes, synthetic=True)
    study = parse_toml(spec.spec_text(given.spec).encode())
    if study.input_shape != shape or study["data", "classes"] < classes:
        raise InputError(
            f"{given.spec}: for records of shape {study.input_shape} in {study['data', 'classes']} classes; the data "
            f"have shape {shape} and {classes} classes"
        )
    return study


async def _run(
    folder: Path,
    study: Study,
    datasets: tuple[Dataset, ...],
    without: frozenset[str],
    replay: Replay | None,
    test: Path | None,
) -> tuple[dict[str, Any], bytes, list[bytes]]:
    from node.evaluation import evaluate
    from node.simulate import beacons, roots, simulation

    def told(height: int, root: Digest) -> None:
        progress(f"round {height}: model {root.hex()}")

    async with simulation(folder, datasets, without=without, replay=replay) as running:
        number = await running.study(study, told)
        first = running.nodes[0]
        found: dict[str, Any] = {"model_roots": {str(h): root for h, root in roots(first, number).items()}}
        if test is not None:
            found.update(await evaluate(first, number, None, test))
        last = first.history.studies[number].head
        return found, first.participant.store.get(last.models[max(last.models)]), beacons(first, number)


# --------------------------------------------------------------------------------------------------------------------
# Side by side


def _compare(
    study: Study,
    datasets: tuple[Dataset, ...],
    without: frozenset[str],
    test: Path | None,
    agreed: bytes,
    beacons: list[bytes],
) -> list[dict[str, Any]]:
    """Metrics of the best hospital alone, of the agreed model, and of all records in one place, on one test set.

    The others train with the study's own beacons, so batch orders are the same and only the way of training differs.
    """
    import numpy as np

    from fl_engine.data.dataset import Role
    from fl_engine.data.readers import read_data_file
    from fl_engine.evaluate import evaluate
    from node.evaluation import test_part
    from node.training import Arithmetic, Trainer

    if test is not None:
        part = test_part(read_data_file(test, classes=study["data", "classes"], test_only=True))
        x, y, patients = part.x, part.y, list(part.patients)
    else:
        parts = [one.subset(one.rows(Role.TEST)) for one in datasets]
        x, y = np.concatenate([one.x for one in parts]), np.concatenate([one.y for one in parts])
        patients = [f"{i}/{patient}" for i, one in enumerate(parts) for patient in one.patients]
    cap = study["policy", "max_records_per_consent"]
    trainer = Trainer(24 * 3600.0)
    progress("comparing: each hospital alone, all together in one place, floating-point federated averaging")
    try:
        arithmetic = Arithmetic(study)
        chosen = [_training_part(one, without, cap) for one in datasets]
        logits = trainer.compare(arithmetic, chosen, (x, y), agreed, beacons)
    finally:
        trainer.close()
    rows = [{"training": name, **evaluate(one, y, patients).to_json()} for name, one in logits.items()]
    alone = [row for row in rows if row["training"].startswith("local-")]
    best = max(alone, key=lambda row: row["accuracy"])
    best["training"] = f"best local ({best['training'].replace('local-', 'member-')})"
    return [best, *(row for row in rows if row not in alone), *(row for row in alone if row is not best)]


def _training_part(dataset: Dataset, without: frozenset[str], cap: int) -> Part:
    """The training records that a study would use: capped for each patient, in import order."""
    from fl_engine.data.dataset import Role

    seen: dict[str, int] = {}
    rows = []
    for row in dataset.rows(Role.TRAIN):
        patient = dataset.patients[int(row)]
        seen[patient] = seen.get(patient, 0) + 1
        if patient not in without and seen[patient] <= cap:
            rows.append(int(row))
    return dataset.x[rows], dataset.y[rows]


def _comparison_lines(rows: list[dict[str, Any]]) -> list[str]:
    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    return [
        "",
        *table(
            ("training", "accuracy", "balanced accuracy", "AUC", "records"),
            [
                (r["training"], shown(r["accuracy"]), shown(r["balanced_accuracy"]), shown(r["auc"]), r["n"])
                for r in rows
            ],
        ),
        "one test set, one run each: differences within the intervals (--json) mean nothing",
    ]
