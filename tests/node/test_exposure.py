"""An audit over files: what it finds, and files that do not fit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fl_engine.models import get_model, initial_model
from fl_engine.params import encode_model
from fl_engine.ring import Grid, dequantise, quantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile
from node.cli.main import koinon
from node.errors import InputError
from node.exposure import audit_files

FEATURES, CLASSES = 6, 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that learned twenty outliers and two that never did, and the data files."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(4)
    pin_profile()
    layout = get_model("mlp").layout((FEATURES,), CLASSES)
    network = ProbedNetwork(get_model("mlp"), (FEATURES,), CLASSES)
    parts = {}
    for name, count, wrong in (("erased", 20, 1), ("controls", 60, 1), ("kept", 40, 0), ("population", 40, 0)):
        x = rng.normal(size=(count, FEATURES)).astype(np.float32)
        y = ((x[:, 0] > 0).astype(np.int64) + wrong) % 2
        parts[name] = x, y
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["patient_id", "label", *(f"f{i}" for i in range(FEATURES))])
            # As the reader will see them: sign(v) ln(1 + |v|) undone.
            raw = np.sign(x) * np.expm1(np.abs(x))
            writer.writerows([f"{name}-{i}", y[i], *map(repr, map(float, raw[i]))] for i in range(count))
    lines = (folder / "erased.csv").read_text().splitlines()
    (folder / "one.csv").write_text("\n".join(lines[:2]) + "\n")
    both = [np.concatenate(pair) for pair in zip(parts["kept"], parts["erased"], strict=True)]
    for name, (x, y), seed in (
        ("before", both, 1),
        ("never-1", parts["kept"], 2),
        ("never-2", parts["kept"], 3),
        ("after", parts["kept"], 4),
    ):
        network.set_weights(dequantise(initial_model(layout, Grid()), Grid()))
        order = np.random.default_rng(seed)
        for _ in range(120):
            network.train_epoch(x, y, np.array_split(order.permutation(len(y)), 4), 0.2)
        (folder / f"{name}.bin").write_bytes(encode_model(layout, quantise(network.weights(), Grid())))
    return folder


def test_a_model_that_still_remembers_is_found_and_one_that_never_learned_is_not(files: Path) -> None:
    clean = [files / "never-1.bin", files / "never-2.bin"]
    data = files / "erased.csv", files / "controls.csv"
    found = audit_files(files / "before.bin", *data, never=clean, population=files / "population.csv")
    gaps = {one.attack: one.gap for one in found.findings}
    assert set(gaps) == {"loss", "rmia"}
    assert all(gap is not None and gap.verdict.name == "SEPARATED" for gap in gaps.values()), gaps
    found = audit_files(files / "after.bin", *data, never=clean, population=files / "population.csv")
    assert all(one.gap is not None and one.gap.verdict.name == "OPEN" for one in found.findings)


def test_the_command_writes_a_badge_and_a_table_and_names_no_patient(files: Path) -> None:
    out = files / "badge.json"
    arguments = ["erase", "audit", "--records", files / "one.csv", "--controls", files / "controls.csv"]
    arguments += ["--after", files / "after.bin", "--before", files / "before.bin", "--out", out]
    result = CliRunner().invoke(koinon, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert "Nobody can prove" in result.stdout
    assert "no certificate" in result.stdout or "tells this patient" in result.stdout
    badge = json.loads(out.read_text())
    assert (badge["schema"], badge["kind"], badge["level"]) == ("koinon.audit-badge/1", "patient", "L4")
    assert {one["attack"] for one in badge["findings"]} >= {"loss", "loss-difference", "gradient-cosine"}
    assert "erased-0" not in out.read_text() + result.stdout


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"after": "erased.csv"}, "not a canonical model"),
        ({"after": "missing.bin"}, "No such file"),
        ({"records": "missing.csv"}, "missing.csv"),
        ({"controls": "erased.csv"}, "20 patients are on both sides"),
        ({"records": "after.bin"}, "are not read"),
    ],
)
def test_files_that_do_not_fit_are_named(files: Path, change: dict[str, str], fault: str) -> None:
    names = {"after": "after.bin", "records": "erased.csv", "controls": "controls.csv", **change}
    with pytest.raises(InputError, match=fault):
        audit_files(files / names["after"], files / names["records"], files / names["controls"])


def test_a_model_of_another_study_is_refused(files: Path) -> None:
    layout = get_model("mlp").layout((FEATURES + 1,), CLASSES)
    (files / "other.bin").write_bytes(encode_model(layout, initial_model(layout, Grid())))
    with pytest.raises(InputError, match="another layout"):
        audit_files(files / "after.bin", files / "erased.csv", files / "controls.csv", before=files / "other.bin")
    with pytest.raises(InputError, match="no network takes records"):
        audit_files(files / "other.bin", files / "erased.csv", files / "controls.csv")
