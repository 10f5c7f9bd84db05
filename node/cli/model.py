"""`koinon model`: what the study's models are and how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli import common
from node.cli.common import FILE, LONG_TIMEOUT_S, acting_home, home_option, study_option
from node.cli.output import Noun, answer, json_flag, pairs, table
from node.errors import InputError, NotFound
from node.home import is_network_home, node_homes, write_file

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
    from crypto.digest import Digest
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


def _metric_lines(found: dict[str, Any]) -> list[str]:
    rows = []
    for name in ("accuracy", "balanced_accuracy", "auc"):
        value, bounds = found.get(name), found.get("intervals", {}).get(name)
        shown = "-" if value is None else f"{value:.4f}"
        rows.append((name.replace("_", " "), shown, "" if not bounds else f"{bounds[0]:.4f} to {bounds[1]:.4f}"))
    lines = table(("metric", "value", "95 % (patients)"), rows)
    lines.append(f"{found['n']} records, round {found['round']}, model {found['model_root']}")
    if found.get("data"):
        lines.append(f"data: {found['data']}")
    return lines


@model.command()
@home_option
@study_option
@round_option
@click.option("--out", type=FILE, required=True, help="Where to write the model (koinon.model/1).")
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
    answer(found, pairs(**found))


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
