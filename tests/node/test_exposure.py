"""An audit over files: what it finds, and files that do not fit."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fl_engine.attacks import Candidates
from fl_engine.models import get_model, initial_model
from fl_engine.models.shards import Shards
from fl_engine.params import decode_model, encode_model
from fl_engine.ring import Grid, dequantise, quantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.sgd import pin_profile
from node.audit.home import HomeReader
from node.cli.main import koinon
from node.enrolment import form_ids
from node.errors import InputError, NotFound, Refused
from node.exposure import audit_files, audit_home, controls_of
from node.runner import read_history
from tests.node import consent_kit
from tests.node.audit import audit_kit

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
    assert (badge["schema"], badge["kind"], badge["level"]) == ("koinon.audit-badge/2", "patient", "L4")
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


def in_shards(files: Path, tmp_path: Path, name: str, first: str, second: str) -> Path:
    """A model of two shards from two models."""
    models = [decode_model((files / f"{one}.bin").read_bytes()) for one in (first, second)]
    shards = Shards(models[0][0], 2)
    path = tmp_path / f"{name}.bin"
    path.write_bytes(encode_model(shards.layout, shards.whole([ints for _, ints in models])))
    return path


def test_of_a_model_in_shards_the_one_that_had_the_records_is_attacked(files: Path, tmp_path: Path) -> None:
    after = in_shards(files, tmp_path, "after", "never-1", "before")
    never = [in_shards(files, tmp_path, name, name, name) for name in ("never-1", "never-2")]
    data, more = (files / "erased.csv", files / "controls.csv"), {"population": files / "population.csv"}
    for shard, alone in ((1, "never-1"), (2, "before")):
        found = audit_files(after, *data, never=never, shard=shard, **more)
        expected = audit_files(
            files / f"{alone}.bin", *data, never=[files / "never-1.bin", files / "never-2.bin"], **more
        )
        assert found.model != expected.model
        assert replace(found, model="").to_json() == replace(expected, model="").to_json()
    for shard, fault in ((None, "2 shards, and none is named"), (3, "2 shards, and 3 is none of them")):
        with pytest.raises(InputError, match=fault):
            audit_files(after, *data, shard=shard)
    with pytest.raises(InputError, match="it has no shards, leave out --shard 1"):
        audit_files(files / "before.bin", *data, shard=1)


def test_a_model_of_another_study_is_refused(files: Path) -> None:
    layout = get_model("mlp").layout((FEATURES + 1,), CLASSES)
    (files / "other.bin").write_bytes(encode_model(layout, initial_model(layout, Grid())))
    with pytest.raises(InputError, match="another layout"):
        audit_files(files / "after.bin", files / "erased.csv", files / "controls.csv", before=files / "other.bin")
    with pytest.raises(InputError, match="no network takes records"):
        audit_files(files / "other.bin", files / "erased.csv", files / "controls.csv")


@pytest.fixture
def erased_records(tmp_path: Path) -> dict[str, Path]:
    """Of the patient that `purged` erased, from the hospital's own source, and of patients who never were in it."""
    found = {}
    for name, member, chosen in (("erased", 1, ["MRN-1-03"]), ("controls", 7, None)):
        source = audit_kit.dataset(member)
        own = np.array([chosen is None or patient in chosen for patient in source.patients])
        found[name] = tmp_path / f"{name}.npz"
        np.savez(
            found[name],
            test_images=(255 * source.x[own, 0]).astype(np.uint8),
            test_labels=source.y[own].reshape(-1, 1),
            test_patient_ids=np.array(source.patients)[own],
        )
    return found


@pytest.mark.slow  # a whole network
def test_a_home_gives_the_models_of_its_erasure(purged: Path, erased_records: dict[str, Path], tmp_path: Path) -> None:
    home = purged / "member-2"
    history = read_history(home)
    [(batch, erasure)] = history.erasures.items()
    assert erasure.plan is not None
    assert erasure.confirmed is not None
    files = {}
    store = HomeReader(home, None)
    for name, root in (("after", erasure.confirmed.head_model), ("base", erasure.plan.base_model)):
        data = store.content(root, "model")
        assert data is not None
        files[name] = tmp_path / f"{name}.bin"
        files[name].write_bytes(data)
    store.close()
    records, controls = erased_records["erased"], erased_records["controls"]
    found = audit_home(home, batch.hex()[:10], records, controls=controls)
    assert found.to_json() == audit_files(files["after"], records, controls, never=[files["base"]]).to_json()
    with pytest.raises(NotFound, match="no test patients of the study"):
        audit_home(home, batch.hex(), records)
    with pytest.raises(Refused, match=r"were member-2's, and .*member-1 is not its home"):
        audit_home(purged / "member-1", batch.hex(), records, controls=controls)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--home", ".", "--after", "a.bin"],
        ["--home", "."],
        ["--home", ".", "--erasure", "ab", "--never", "a.bin"],
        ["--home", ".", "--erasure", "ab", "--fraction-bits", "20"],
        ["--after", "a.bin"],
        ["--erasure", "ab"],
        ["--erasure", "ab", "--after", "a.bin", "--controls", "c.csv"],
    ],
)
def test_a_home_or_files_and_not_both(arguments: list[str]) -> None:
    result = CliRunner().invoke(koinon, ["erase", "audit", "--records", "r.csv", *arguments])
    assert result.exit_code == 2
    assert "--home" in result.stderr


def test_controls_are_test_patients_whose_consent_stands_each_of_them_once(tmp_path: Path) -> None:
    data = consent_kit.dataset(patients=8)
    roles = data.roles.copy()
    roles[-6:] = 2  # three patients of two records for tests
    world = consent_kit.World.found(tmp_path, data=replace(data, roles=roles))
    world.enrol()
    names = world.vault.patient_ids()

    def controls() -> Candidates:
        return controls_of(world.vault, world.history(), world.study)

    before = controls()
    assert (len(before), len(set(before.patients))) == (6, 3)
    assert not set(before.patients) & set(names), "numbers, not names"
    again = world.vault.mint(
        names[-1],
        origin=world.origin,
        form_id=form_ids(world.spec, world.study)["second"],
        document=b"signed once more",
        signed_on=consent_kit.SIGNED,
        issued=consent_kit.TODAY,
        now=consent_kit.NOW,
    )
    assert np.array_equal(controls().x, before.x), "two consents of one patient are one control"
    world.vault.note_withdrawal(again.consent_id, at=consent_kit.NOW)
    left = controls()
    assert (len(left), len(set(left.patients))) == (4, 2), "use stops before the withdrawal is mined"
    for name in names[-3:-1]:
        (held,) = world.vault.find(name)
        world.vault.note_withdrawal(held.consent_id, at=consent_kit.NOW)
    with pytest.raises(NotFound, match="no test patients"):
        controls()
