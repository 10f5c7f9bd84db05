"""`koinon model`: what the study's models are and how good they are."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import common
from node.cli.common import FILE, LONG_TIMEOUT_S, acting_home, home_option, read_file, study_option
from node.cli.output import Noun, answer, json_flag, moment, pairs, table
from node.errors import ExitCode, InputError, NotFound
from node.home import is_network_home, node_homes, write_file

if TYPE_CHECKING:
    from crypto.digest import Digest
    from node.reports.models import Models

round_option = click.option("--round", "height", type=int, help="After this round (default: the newest final one).")


@click.group(cls=Noun)
def model() -> None:
    """Show, measure and take out the agreed models.

    Example: koinon model evaluate --home NET/member-1 --data test.npz

    A model here is a research result. It is no medical device and not for diagnosis.
    """


def _acting(home: Path) -> Path:
    return acting_home(node_homes(home)[0] if is_network_home(home) else home)


@model.command()
@home_option
@study_option
@round_option
@json_flag
def show(home: Path, study: str | None, height: int | None) -> None:
    """Show the model that serves: its root, round, branch, and whether this home holds it.

    Example: koinon model show --home NET

    Reads the home alone. It says nothing about how good the model is.
    """
    from node.home import reading_home
    from node.store import Store

    history = common.history_of(home)
    number = common.pick_study(history, study)
    found = history.studies[number]
    branch = found.branches[found.serving_branch]
    chosen = max(branch.models) if height is None else height
    if chosen not in branch.models:
        raise NotFound(f"no model of round {chosen}; branch {branch.number} has rounds 0 to {max(branch.models)}")
    root: Digest = branch.models[chosen]
    store = Store(reading_home(home), bytes(32))
    held = store.has(root)
    store.close()
    data: dict[str, Any] = {
        "study": number.hex(),
        "branch": branch.number,
        "round": chosen,
        "model_root": root.hex(),
        "held_here": held,
        "training_branch": found.active_branch,
        "erasures": [batch.hex() for batch, one in history.erasures.items() if one.opened.study == number],
    }
    answer(data, pairs(**{**data, "erasures": len(data["erasures"])}))


@model.command()
@home_option
@study_option
@round_option
@click.option("--data", type=FILE, help="A file with test records; without it, this hospital's own.")
@json_flag
def evaluate(home: Path, study: str | None, height: int | None, data: Path | None) -> None:
    """Measure an agreed model: accuracy, balanced accuracy, AUC, with intervals over patients.

    Example: koinon model evaluate --home NET/member-1 --data test.npz --json

    Records of withdrawn patients are left out; a file named here lies outside what consents cover, and the answer says
    so. It does not compare sites, and a single number is no validation.
    """
    if data is not None and not data.is_file():
        raise InputError(f"data file {data} does not exist")
    body = {"study": study, "round": height, "data": None if data is None else str(data.resolve())}
    found = common.order(_acting(home), "model.evaluate", body, LONG_TIMEOUT_S)
    answer(found, _metric_lines(found))


def _replay_lines(found: dict[str, Any]) -> list[str]:
    if not found["replaying"]:
        return []
    branch, height = found["branch"], found["round"]
    text = f"NOTE: branch {branch} is being trained again for an erasure; the models that it replaces are deleted, and "
    return [f"{text}this one is of its round {height}, not of its end"]


def _metric_lines(found: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("accuracy", "balanced_accuracy", "auc"):
        value, bounds = found.get(name), found.get("intervals", {}).get(name)
        shown = "-" if value is None else f"{value:.4f}"
        rows.append((name.replace("_", " "), shown, "" if not bounds else f"{bounds[0]:.4f} to {bounds[1]:.4f}"))
    lines = table(("metric", "value", "95 % (patients)"), rows)
    lines.append(f"{found['n']} records, round {found['round']}, model {found['model_root']}")
    lines += _replay_lines(found)
    if found.get("data"):
        lines.append(f"data: {found['data']}")
    return lines


@model.command()
@home_option
@study_option
@round_option
@common.out_option("Where to write the model (koinon.model/1).", required=True)
@click.option("--recipient", metavar="NAME", help="Who gets it, for the node's log and the record of processing.")
@json_flag
def export(home: Path, study: str | None, height: int | None, out: Path, recipient: str | None) -> None:
    """Write an agreed model to a file.

    Example: koinon model export --home NET/member-1 --out model.bin

    A copy outside cannot be called back by an erasure: note who gets it. The file is not encrypted.
    """
    body = {"study": study, "round": height, **({} if recipient is None else {"recipient": recipient})}
    found = common.order(_acting(home), "model.export", body, LONG_TIMEOUT_S)
    data = bytes.fromhex(found.pop("model"))
    write_file(out, data)
    found = {**found, "file": str(out), "bytes": len(data)}
    answer(found, [*pairs(**found), *_replay_lines(found)])


@model.command()
@home_option
@study_option
@json_flag
def lineage(home: Path, study: str | None) -> None:
    """Show every model of a study with the branch it is on, and why branches exist.

    Example: koinon model lineage --home NET

    Models of abandoned branches are listed by their roots; their weights may be purged.
    """
    history = common.history_of(home)
    number = common.pick_study(history, study)
    found = history.studies[number]
    branches: list[dict[str, Any]] = [
        {
            "branch": one.number,
            "parent": one.parent,
            "base_round": one.base_height,
            "seed": one.seed.hex(),
            "erasure": one.batch.hex() if any(one.batch) else None,
            "trains": one.number == found.active_branch,
            "serves": one.number == found.serving_branch,
            "models": {
                str(height): root.hex()
                for height, root in sorted(one.models.items())
                if height >= one.base_height or one.parent is None
            },
        }
        for one in found.branches.values()
    ]
    lines: list[str] = []
    for one in branches:
        marks = [mark for mark in ("trains", "serves") if one[mark]]
        origin = f"from round {one['base_round']} of branch {one['parent']}" if one["parent"] is not None else "root"
        lines.append(f"branch {one['branch']}: {origin}{', ' if marks else ''}{', '.join(marks)}")
        if one["erasure"]:
            lines.append(f"  for erasure {one['erasure']}")
        lines += [f"  round {height:>4}  {root}" for height, root in one["models"].items()]
    answer({"study": number.hex(), "branches": branches}, lines)


@model.command()
@home_option
@click.argument("which", metavar="ROOT|FILE")
@json_flag
def status(home: Path, which: str) -> None:
    """Say what the ledger knows of a model, and whether it was built on records that were erased since.

    Example: koinon model status model.bin --home NET/member-1

    Exit code 5 for one that was (the answer names the erasure and what replaces it), 4 for one that nobody knows. It
    reads the home alone: who was given a copy, and what was made from it, is known as far as this home's log says.
    """
    models = _models(home)
    found = models.report(_root_of(which, models), int(time.time()))
    lines = pairs(**{key: value for key, value in found.items() if not isinstance(value, list)})
    lines += [
        f"study {one['study'][:12]}: round {one['round']} of branch {one['branch']}"
        + (", serves" if one["serves"] else "")
        for one in found["places"]
    ]
    for one in found["erasures"]:
        by = f"replaced by {one['replaced_by']}" if one["replaced_by"] else f"no model replaces it yet: {one['state']}"
        lines.append(f"built on records that are erased by {one['erasure']} ({one['hospital']}): {by}")
    lines += [f"erasure {one} has no plan yet and may come to condemn it" for one in found["undecided"]]
    if found["copies"]:
        lines += _copy_lines(found["copies"])
    answer(found, lines)
    if found["tainted"]:
        sys.exit(ExitCode.REFUSED)


def _copy_lines(copies: list[dict[str, Any]]) -> list[str]:
    """Who holds copies, and, where any of them was replaced, by what."""
    header = ["copy", "holder", "when (UTC)", "model", "tainted"]
    rows = [[one["kind"], one["holder"], moment(one["time"]), one["model_root"][:12], one["tainted"]] for one in copies]
    if any(one["replaced_by"] for one in copies):
        header.append("replaced by")
        rows = [[*row, one["replaced_by"] or "nothing yet"] for row, one in zip(rows, copies, strict=True)]
    return table(header, rows)


@model.command()
@home_option
@click.argument("file", type=FILE)
@click.option("--parent", required=True, metavar="ROOT|FILE", help="The model that it was made from.")
@click.option("--by", "holder", required=True, metavar="NAME", help="Who holds it; the same name when it is replaced.")
@json_flag
def note(home: Path, file: Path, parent: str, holder: str) -> None:
    """Note in this home's log that a model was made from an agreed one: a fine-tune, a distillation.

    Example: koinon model note ours.bin --parent model.bin --by 'Ward 3' --home NET/member-1

    From then on `model status` answers for it too. Its hash is kept, not the file. koinon cannot see what was made from
    a model: what nobody notes is not known.
    """
    body = {"model_root": _root_of_file(file).hex(), "parent": _root_of(parent, _models(home)).hex(), "by": holder}
    found = common.order(_acting(home), "model.note", body)
    answer(found, pairs(**found))


def _models(home: Path) -> Models:
    """The models of a home's ledger and log; nothing need run."""
    from node.home import reading_home
    from node.reports.models import Models, copies_of
    from node.store import Store

    store = Store(reading_home(home), bytes(32))
    try:
        return Models(common.history_of(home), copies_of(store.log_entries()))
    finally:
        store.close()


def _root_of(which: str, models: Models) -> Digest:
    """A model's root: of the file of this name, else by its digits."""
    path = Path(which)
    return _root_of_file(path) if path.is_file() else models.find(which)


def _root_of_file(path: Path) -> Digest:
    from node.training import MAX_MODEL_BYTES, model_root

    return model_root(read_file(path, "model", MAX_MODEL_BYTES))
