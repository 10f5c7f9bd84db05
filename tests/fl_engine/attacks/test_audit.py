"""What an audit says of a cohort and of a patient, and what it never says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_engine.attacks import Candidates, Evidence, View
from fl_engine.attacks.audit import audit_cohort, audit_patient
from fl_engine.attacks.inference import Verdict
from fl_engine.errors import PolicyError

QUICK = ("loss", "rmia", "u-lira", "loss-difference", "pair", "gradient-cosine")


def evidence(planted: Any, after: Any) -> Evidence:
    view = View.of_models(planted.learned[0], after)
    return Evidence(planted.network, after, view, planted.never[2:], planted.learned[2:], (), planted.population)


def test_a_model_that_still_remembers_is_separated_and_one_trained_again_is_not(planted: Any) -> None:
    reference = evidence(planted, planted.never[0])
    sides = (planted.outliers, planted.controls)
    kept = audit_cohort(evidence(planted, planted.learned[1]), *sides, reference=reference, attacks=("loss", "rmia"))
    assert {one.gap.verdict for one in kept.findings if one.gap} == {Verdict.SEPARATED}
    assert "2 separated beyond the margin" in kept.says
    again = audit_cohort(evidence(planted, planted.never[1]), *sides, reference=reference, attacks=("loss", "rmia"))
    assert {one.gap.verdict for one in again.findings if one.gap} == {Verdict.OPEN}
    assert "fewer than the 572" in again.says


def test_models_are_compared_on_the_forgotten_records(planted: Any) -> None:
    reference, sides = evidence(planted, planted.never[0]), (planted.outliers, planted.controls)
    kept = audit_cohort(evidence(planted, planted.learned[1]), *sides, reference=reference, attacks=("u-lira",))
    found = kept.findings[0]
    assert found.area is not None
    assert found.reference is not None
    assert found.gap is not None
    assert found.gap.verdict is Verdict.SEPARATED
    assert found.gap.gap == found.area.auc - 0.5
    again = audit_cohort(evidence(planted, planted.never[1]), *sides, reference=reference, attacks=("u-lira",))
    assert again.findings[0].gap is not None
    assert again.findings[0].gap.verdict is Verdict.OPEN
    assert audit_cohort(evidence(planted, planted.never[1]), *sides, attacks=("u-lira",)).skipped == {
        "u-lira": "a reference model that never had the records"
    }


def test_a_patient_is_ranked_and_never_certified(planted: Any) -> None:
    patient = replace(planted.outliers, patients=("one",) * len(planted.outliers))
    found = audit_patient(evidence(planted, planted.learned[1]), patient, planted.controls, attacks=("loss",))
    # Sixty outliers of one patient on average stand out among single records; a patient of none does not.
    assert found.findings[0].area is None
    assert found.findings[0].gap is None
    one = Candidates(planted.outliers.x[:1], planted.outliers.y[:1], ("one",))
    quiet = audit_patient(evidence(planted, planted.never[1]), one, planted.controls, attacks=QUICK)
    for text in (quiet.says, quiet.table(), json.dumps(quiet.to_json())):
        assert "within" not in text
        assert "certified" not in text
    assert "no certificate" in quiet.says
    with pytest.raises(PolicyError, match="60 patients: this audit is of one"):
        audit_patient(evidence(planted, planted.never[1]), planted.outliers, planted.controls)


def test_too_few_controls_could_not_have_told(planted: Any) -> None:
    one = Candidates(planted.outliers.x[:1], planted.outliers.y[:1], ("one",))
    few = Candidates(planted.controls.x[:6], planted.controls.y[:6], tuple(f"c{i}" for i in range(6)))
    found = audit_patient(evidence(planted, planted.never[1]), one, few, attacks=("loss",))
    assert found.says.startswith("These attacks could not have told: among 6 controls")
    assert "At least 39" in found.says


def test_a_planted_outlier_stands_out_while_remembered(planted: Any) -> None:
    scores = evidence(planted, planted.learned[1])
    shares = []
    for i in range(12):
        one = Candidates(planted.outliers.x[i : i + 1], planted.outliers.y[i : i + 1], ("one",))
        found = audit_patient(scores, one, planted.controls, attacks=("loss",)).findings[0].rank
        assert found is not None
        shares.append(found.share)
    assert np.mean(shares) < 0.25


def test_retained_patients_exposure_is_told(planted: Any) -> None:
    controls = replace(planted.population, patients=tuple(f"c{i}" for i in range(len(planted.population))))
    found = audit_cohort(
        replace(evidence(planted, planted.learned[1]), population=None),
        planted.outliers,
        controls,
        reference=evidence(planted, planted.never[0]),
        retained=planted.retained,
        attacks=("loss",),
    )
    assert found.retained is not None
    assert found.retained_reference is not None
    assert found.retained.auc > 0.5
    assert "retained patients' exposure" in found.table()


def test_an_attack_that_cannot_run_says_what_is_missing(planted: Any) -> None:
    bare = Evidence(planted.network, planted.never[0])
    found = audit_cohort(bare, planted.outliers, planted.controls)
    assert [one.attack for one in found.findings] == ["loss"]
    assert found.skipped["rmia"] == "models that never had the records, other records like them"
    assert found.skipped["pair"] == "the models of before and after"
    assert "nothing follows" in found.says


def test_the_badge_is_plain_json_without_names_of_patients(planted: Any) -> None:
    found = audit_cohort(
        evidence(planted, planted.never[1]),
        planted.outliers,
        planted.controls,
        reference=evidence(planted, planted.never[0]),
        attacks=("loss",),
    )
    badge = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (badge["schema"], badge["level"], badge["needed"]) == ("koinon.audit-badge/2", "L4", 572)
    assert badge["findings"][0]["gap"]["verdict"] == "could not tell"
    assert "outlier-" not in json.dumps(badge)
    assert "control-" not in json.dumps(badge)


def test_a_patient_on_both_sides_is_refused(planted: Any) -> None:
    with pytest.raises(PolicyError, match="60 patients are on both sides"):
        audit_cohort(evidence(planted, planted.never[1]), planted.outliers, planted.outliers)
