"""Every attack finds outliers that a model remembers, and finds nobody in a model that never had them.

Models, records and seeds are fixed, so nothing here is a matter of chance.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_engine.attacks import ATTACKS, Candidates, Evidence, View, get_attack
from fl_engine.attacks.inference import area, by_patient, rank
from fl_engine.attacks.markers import Markers, make, remembered
from fl_engine.attacks.pair import learned as learned_pair
from fl_engine.attacks.reconstruction import correlation, from_heads, rebuild
from fl_engine.errors import PolicyError, ShapeMismatch, UnknownName
from fl_engine.models import get_model
from fl_engine.models.ridge import grid_features, solve
from fl_engine.ring import Grid, dequantise
from fl_engine.training.probe import ProbedNetwork
from fl_engine.training.ridge import Statistics
from tests.fakes.tables import table

NEW_MODEL, BOTH_MODELS = ("loss", "rmia", "u-lira"), ("loss-difference", "pair", "gradient-cosine", "reconstruction")


def evidence(planted: Any, after: Any, before: Any = None) -> Evidence:
    """About `after`; the shadows are other seeds', those of an unlearning that did nothing."""
    view = None if before is None else View.of_models(before, after)
    return Evidence(planted.network, after, view, planted.never[2:], planted.learned[2:], (), planted.population, 30)


def auc(planted: Any, name: str, given: Evidence) -> float:
    asked = planted.outliers.and_then(planted.controls)
    positive = np.arange(len(asked)) < len(planted.outliers)
    assert ATTACKS[name].is_possible(given)
    return area(ATTACKS[name].score(given, asked), positive, asked.patients, replicates=50).auc


def test_the_attacks_are_those_of_the_audit() -> None:
    assert tuple(ATTACKS) == NEW_MODEL + BOTH_MODELS
    with pytest.raises(UnknownName, match="gradient-cosine"):
        get_attack("guess")


@pytest.mark.parametrize("name", ["loss", "rmia"])
def test_the_new_model_is_found_out_when_it_still_remembers(planted: Any, name: str) -> None:
    assert auc(planted, name, evidence(planted, planted.learned[0])) > 0.8
    assert 0.35 < auc(planted, name, evidence(planted, planted.never[0])) < 0.65


def test_a_model_that_unlearned_is_told_from_one_that_never_learned(planted: Any) -> None:
    """U-LiRA compares models on the forgotten records alone."""
    attack, records = get_attack("u-lira"), planted.outliers
    never = attack.score(evidence(planted, planted.never[0]), records)

    def told(after: Any) -> float:
        scores = np.concatenate([attack.score(evidence(planted, after), records), never])
        return area(scores, np.arange(len(scores)) < len(records), records.patients * 2, replicates=50).auc

    assert told(planted.learned[0]) > 0.8
    assert 0.35 < told(planted.never[1]) < 0.65


@pytest.mark.parametrize("name", ["loss-difference", "pair"])
def test_the_pair_of_before_and_after_tells_who_left(planted: Any, name: str) -> None:
    assert auc(planted, name, evidence(planted, planted.never[0], planted.learned[0])) > 0.7
    # Two models without the records, and two with them, say nothing.
    assert 0.35 < auc(planted, name, evidence(planted, planted.never[0], planted.never[1])) < 0.65


def test_a_learned_pair_attack_does_not_know_patients_by_their_looks(planted: Any) -> None:
    asked = planted.outliers.and_then(planted.controls)
    forgotten = np.arange(len(asked)) < len(planted.outliers)

    def learned_from(pairs: list[tuple[Any, Any]], own: tuple[Any, Any]) -> float:
        shadows = [View.of_models(*pair) for pair in pairs]
        given = replace(evidence(planted, own[1], own[0]), shadows=shadows)
        return area(learned_pair(given, asked, forgotten), forgotten, asked.patients, replicates=50).auc

    told = list(zip(planted.learned, planted.never, strict=True))
    assert learned_from(told[1:], told[0]) > 0.8
    mute = list(zip(planted.never, planted.never[1:] + planted.never[:1], strict=True))
    assert 0.3 < learned_from(mute[1:], mute[0]) < 0.7


def one_step(planted: Any, *, gone: int) -> View:
    """What is left between two full-batch steps, one of them without a record: that record's own gradient."""
    planted.network.set_weights(planted.never[0])
    gradients = planted.network.example_gradients(planted.outliers.x, planted.outliers.y).astype(np.float64)
    change = -0.1 * gradients[gone]
    parent = planted.never[0].astype(np.float64)
    return View(parent, parent + change, parent, change)


@pytest.mark.parametrize("name", ["gradient-cosine", "reconstruction"])
def test_the_difference_of_two_full_batch_steps_is_the_record_itself(planted: Any, name: str) -> None:
    for gone in (0, 7):
        given = replace(evidence(planted, planted.never[0]), view=one_step(planted, gone=gone))
        alone = replace_rows(planted.outliers, [gone])
        scores = ATTACKS[name].score(given, alone.and_then(planted.controls))
        assert rank(float(scores[0]), scores[1:]).share < 0.02
    # Another record's difference does not name this one.
    given = replace(evidence(planted, planted.never[0]), view=one_step(planted, gone=5))
    scores = ATTACKS[name].score(given, replace_rows(planted.outliers, list(range(10, 30))).and_then(planted.controls))
    shares = [rank(float(score), scores[20:]).share for score in scores[:20]]
    assert 0.2 < np.mean(shares) < 0.8


def replace_rows(candidates: Any, rows: list[int]) -> Any:
    return replace(
        candidates, x=candidates.x[rows], y=candidates.y[rows], patients=tuple(candidates.patients[i] for i in rows)
    )


def test_a_rebuilt_record_resembles_the_one_that_left(planted: Any) -> None:
    gone = replace_rows(planted.outliers, [3])
    given = replace(evidence(planted, planted.never[0]), view=one_step(planted, gone=3), reconstruction_steps=200)
    rebuilt = rebuild(given, gone)[int(gone.y[0])]
    assert correlation(gone.x[0], rebuilt[0]) > 0.8
    assert correlation(gone.x[0], np.zeros_like(gone.x[0])) == 0.0


def test_two_ridge_heads_give_the_deleted_features_away_and_noise_does_not() -> None:
    rng, grid = np.random.default_rng(8), Grid()
    y = rng.integers(0, 3, 300)
    raw = (rng.normal(0, 0.4, (3, 20))[y] + rng.normal(0, 0.4, (300, 20))).astype(np.float32)
    z = grid_features(raw)
    everybody = Statistics.of(z, y, 3)
    without = everybody - Statistics.of(z[:1], y[:1], 3)

    def cosine(noise: float) -> float:
        drawn = [one.noised(noise, bytes([i]) * 32, bytes(32)) for i, one in enumerate((everybody, without))]
        means = [dequantise(one.mean(grid), grid) for one in drawn]
        heads = [solve(mean[: 21 * 11], mean[21 * 11 :].reshape(3, 21)) for mean in means]
        found = from_heads(without.gram, heads[0], heads[1])
        return float(abs(found @ z[0]) / np.linalg.norm(z[0]))

    assert cosine(0.0) > 0.99
    assert cosine(0.05) < 0.7


def test_the_difference_of_two_ridge_models_names_who_left_and_noise_hides_it() -> None:
    network, data, others = ProbedNetwork(get_model("ridge"), (6,), 3), table(1, 300), table(9, 200)
    z = grid_features(network.features(data.x))
    everybody = Statistics.of(z, data.y, 3)
    without = everybody - Statistics.of(z[:1], data.y[:1], 3)
    asked = Candidates(data.x[:1], data.y[:1], ("gone",)).and_then(Candidates(others.x, others.y, ("other",) * 200))

    def share(noise: float, seed: int) -> float:
        drawn = [one.noised(noise, bytes([i]) * 32, bytes([seed]) * 32) for i, one in enumerate((everybody, without))]
        old, new = (dequantise(one.mean(Grid()), Grid()) for one in drawn)
        given = Evidence(network, new, View.of_models(old, new))
        assert not get_attack("reconstruction").is_possible(given)
        scores = get_attack("gradient-cosine").score(given, asked)
        return rank(float(scores[0]), scores[1:]).share

    assert share(0.0, 0) < 0.02
    assert 0.3 < np.mean([share(5.0, seed) for seed in range(12)]) < 0.7


def test_markers_tell_whether_they_are_remembered(planted: Any) -> None:
    """The outliers play the planted markers and the controls the spare ones: they were made alike."""
    markers = Markers(planted.outliers, planted.controls)
    assert remembered(evidence(planted, planted.learned[0]), markers).low > 0.7
    forgotten = remembered(evidence(planted, planted.never[0]), markers)
    assert forgotten.low < 0.5 < forgotten.high


def test_markers_are_wrong_and_only_their_secret_tells_which_are_planted(planted: Any) -> None:
    x, y = planted.population.x, planted.population.y
    first, again, other = (make(x, y, 3, secret * 32) for secret in (b"a", b"a", b"b"))
    assert len(first.planted) == len(first.spare) == 50
    assert first.planted.patients == again.planted.patients != other.planted.patients
    rows = [int(name.removeprefix("marker-")) for name in first.planted.patients + first.spare.patients]
    assert sorted(rows) == list(range(100))
    assert np.all(np.concatenate([first.planted.y, first.spare.y]) != y[rows])
    with pytest.raises(PolicyError, match="two records"):
        make(x[:1], y[:1], 3, bytes(32))


def test_what_an_attacker_lacks_is_known_before_it_tries(planted: Any) -> None:
    bare = Evidence(planted.network, planted.never[0])
    assert [name for name, one in ATTACKS.items() if one.is_possible(bare)] == ["loss"]
    parent = View(planted.initial, planted.never[0], planted.initial, planted.never[0] - planted.initial, False)
    assert not ATTACKS["pair"].is_possible(replace(bare, view=parent))


def test_scores_of_a_patient_are_averaged_and_rows_must_fit(planted: Any) -> None:
    assert by_patient(np.array([1.0, 2.0, 5.0]), ("b", "a", "b")).tolist() == [2.0, 3.0]
    with pytest.raises(ShapeMismatch, match="candidates"):
        replace(planted.outliers, y=planted.outliers.y[:-1])
    with pytest.raises(PolicyError, match="no candidates"):
        replace(planted.outliers, x=planted.outliers.x[:0], y=planted.outliers.y[:0], patients=())
