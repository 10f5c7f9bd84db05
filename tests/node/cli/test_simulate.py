"""`koinon simulate --compare`: every row is measured the same way, and the federated one is the study's own model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from node.cli.main import koinon

STUDY = ("--model", "mlp", "--rounds", 2, "--local-epochs", 1, "--batch-size", 8, "--learning-rate", 0.05)


def write(path: Path, seed: int, splits: dict[str, int]) -> Path:
    """Images of one bright half, the label says which; one patient a record."""
    numbers = np.random.default_rng(seed)
    arrays = {}
    for split, count in splits.items():
        labels = numbers.integers(0, 2, count)
        images = numbers.integers(0, 120, (count, 8, 8))
        images[labels == 1, :4] += 100
        images[labels == 0, 4:] += 100
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)[:, None]
        arrays[f"{split}_patient_ids"] = np.array([f"{seed}-{split}-{row}" for row in range(count)])
    np.savez(path, **arrays)
    return path


@pytest.mark.slow
def test_the_federated_row_is_the_agreed_model_and_floats_differ_from_it_only_in_arithmetic(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.npz", i, {"train": 30, "val": 2, "test": 4}) for i in (1, 2)]
    test = write(tmp_path / "test.npz", 3, {"test": 60})
    arguments = ["simulate", *STUDY, "--min-consents", 2, "--data", files[0], "--data", files[1], "--test", test]
    result = CliRunner().invoke(koinon, [*map(str, arguments), "--compare", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["data"]
    rows = {one["training"]: one for one in found["comparison"]}
    assert rows["federated"]["accuracy"] == found["accuracy"]
    assert rows["federated"]["auc"] == found["auc"]
    assert rows["federated-float"]["auc"] == pytest.approx(found["auc"], abs=0.02)
    assert {"centralised", "federated", "federated-float"} < set(rows)


@pytest.mark.slow
def test_an_erasure_s_branch_has_as_many_rounds_as_its_method_takes(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.npz", i, {"train": 12, "val": 2, "test": 4}) for i in (1, 2)]
    study = [*STUDY[:3], 5, *STUDY[4:], "--min-consents", 2, "--data", files[0], "--data", files[1], "--json"]
    branch = ["--without-patient", "1-train-3", "--branch-seed", "ab" * 32, "--from-round", 2]

    def models(*more: object) -> dict[str, str]:
        result = CliRunner().invoke(koinon, ["simulate", *map(str, [*study, *branch, *more])])
        assert result.exit_code == 0, result.stderr
        return dict(json.loads(result.stdout)["data"]["model_roots"])

    replayed, rapid = models(), models("--unlearning", "rapid", "--to-round", 4)
    assert (list(replayed), list(rapid)) == (list("12345"), list("123")), "one round stands for three"
    assert rapid["1"] == replayed["1"]
    assert rapid["2"] != replayed["2"]
    assert models("--unlearning", "rollback", "--to-round", 4) == replayed
    beyond = [*study, *branch, "--unlearning", "rapid", "--to-round", 6]
    result = CliRunner().invoke(koinon, ["simulate", *map(str, beyond)])
    assert result.exit_code == 2
    assert "the study has 5 rounds" in result.stderr
    by_lengths = [*study, *branch, "--unlearning", "federaser", "--to-round", 4]
    result = CliRunner().invoke(koinon, ["simulate", *map(str, by_lengths)])
    assert result.exit_code == 2
    assert "take the lengths of old ones" in result.stderr


@pytest.mark.slow
def test_an_erasure_in_shards_leaves_the_other_shards_their_beacons(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.npz", i, {"train": 12, "val": 2, "test": 4}) for i in (1, 2)]
    study = [*STUDY[:3], 3, *STUDY[4:], "--min-consents", 2, "--data", files[0], "--data", files[1], "--json"]
    branch = ["--branch-seed", "ab" * 32, "--from-round", 2, "--unlearning", "sharded", "--to-round", 3]

    def simulated(*more: object) -> Result:
        return CliRunner().invoke(koinon, ["simulate", *map(str, [*study, *more])])

    def roots(*more: object) -> list[str]:
        result = simulated("--shards", 2, *more)
        assert result.exit_code == 0, result.stderr
        return list(json.loads(result.stdout)["data"]["model_roots"].values())

    whole, without = roots(), roots("--without-patient", "1-train-3")
    erased = roots("--without-patient", "1-train-3", *branch)
    assert erased[0] == without[0] != whole[0]
    assert erased[1:] != without[1:]
    assert erased != roots("--without-patient", "2-train-3", *branch)
    result = simulated("--shards", 2, *branch)
    assert result.exit_code == 2
    assert "name whose erasure it is with --without-patient" in result.stderr
    result = simulated("--without-patient", "1-train-3", *branch)
    assert "needs a study founded with shards" in result.stderr
    result = simulated("--shards", 3)
    assert "no invited member is of shard 3" in result.stderr
    result = simulated("--shards", 2, "--compare", "--test", files[0])
    assert result.exit_code == 2
    assert "a study in 2 shards is compared with no other training" in result.stderr
