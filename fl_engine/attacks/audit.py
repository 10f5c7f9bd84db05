"""An audit (L4): every attack that the auditor can run, on a cohort or on one patient, and what it may say.

A cohort is compared with a reference that never had the records: area, area of the reference, and the gap between the
two with its interval. One patient gets a rank among control patients and a p-value, and is never certified: the words
are in `Verdict`, `_PATIENT` and `_TOO_FEW`, and there are no others. What the retained patients are exposed to is told
as well, because unlearning may raise it.

The result is plain data; a badge is its JSON. It holds no score of any patient but the one that was asked about, whose
badge belongs to that patient and not on a chain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fl_engine.attacks import ATTACKS
from fl_engine.attacks.attack import Candidates, Evidence, Floats, Holding
from fl_engine.attacks.inference import (
    ALPHA,
    MARGIN,
    REPLICATES,
    Area,
    Gap,
    Rank,
    area,
    by_patient,
    gap,
    rank,
    smallest_cohort,
)
from fl_engine.attacks.pair import learned
from fl_engine.errors import PolicyError

SCHEMA: Final = "koinon.audit-badge/2"
_DOES_NOT_SHOW: Final = (
    "That nothing is left; what a stronger attack would find; how far two honest trainings lie apart; that the models "
    "are those in use."
)
_NO_REFERENCE: Final = "a reference model that never had the records"
_CONTROLS_TOO: Final = "shadow models that learned and unlearned the control patients as well"
_PATIENT: Final = {
    True: "One of the attacks tells this patient from patients who were never used.",
    False: "None of these attacks told this patient from patients who were never used. That is no certificate.",
}
_TOO_FEW: Final = (
    "These attacks could not have told: among {controls} controls even the first place may be chance. At least "
    "{needed} would be needed. That is no certificate."
)


@dataclass(frozen=True)
class Finding:
    """What one attack found: on a cohort `area` (and `reference`, `gap` where there is one), on a patient `rank`.

    `reference` is the area about a model that never had the records; for an attack that compares models it is the
    area of the same comparison on the controls.
    """

    attack: str
    source: str
    needs_pair: bool
    area: Area | None = None
    reference: Area | None = None
    gap: Gap | None = None
    rank: Rank | None = None


@dataclass(frozen=True)
class Audit:
    """An audit's result.

    `kind` is `cohort` or `patient`; `skipped` attack -> what was missing. `retained`: how well the new model's losses
    tell retained records from controls, and the same of the reference. `model`: which one was attacked, as its caller
    names it (the hash by which a ledger knows it).
    """

    kind: str
    forgotten_patients: int
    forgotten_records: int
    control_patients: int
    control_records: int
    margin: float
    findings: tuple[Finding, ...]
    skipped: Mapping[str, str]
    retained: Area | None = None
    retained_reference: Area | None = None
    needed: int = field(default_factory=smallest_cohort)
    model: str = ""

    @property
    def says(self) -> str:
        """The sentence that this audit may be quoted with."""
        if self.kind == "patient":
            # Bonferroni: as many chances as attacks.
            ranks, chances = [one.rank for one in self.findings if one.rank is not None], len(self.findings)
            if any(one.p * chances <= ALPHA for one in ranks):
                return _PATIENT[True]
            needed = _controls_needed(chances)
            if self.control_patients < needed:
                return _TOO_FEW.format(controls=self.control_patients, needed=needed)
            return _PATIENT[False]
        verdicts = [one.gap.verdict.value for one in self.findings if one.gap is not None]
        if not verdicts:
            return "Areas only: without a reference that never had the records nothing follows from them."
        parts = [f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)]
        few = min(self.forgotten_patients, self.control_patients)
        short = f" {few} patients a side are fewer than the {self.needed} that could show it." * (few < self.needed)
        against = f"Of {len(verdicts)} attacks, against the reference and a margin of {self.margin}"
        return f"{against}: {', '.join(parts)}.{short}"

    def to_json(self) -> dict[str, Any]:
        """The badge: plain numbers, lists and text."""
        plain = asdict(self, dict_factory=_plain)
        return {"schema": SCHEMA, "level": "L4", "says": self.says, "does_not_show": _DOES_NOT_SHOW, **plain}

    def table(self) -> str:
        """The same for a reader, a line an attack."""
        sides = f"{self.forgotten_patients} patients ({self.forgotten_records} records)"
        lines = [f"{self.kind}: {sides} against {self.control_patients} controls ({self.control_records} records)"]
        for one in self.findings:
            holds = "both models" if one.needs_pair else "new model"
            lines.append(f"  {one.attack:16} {holds:12} {_figures(one)}")
        lines += [f"  {name:16} not run: {why}" for name, why in self.skipped.items()]
        if self.retained is not None:
            other = "" if self.retained_reference is None else f" (reference {_interval(self.retained_reference)})"
            lines.append(f"  retained patients' exposure: AUC {_interval(self.retained)}{other}")
        return "\n".join([*lines, self.says, f"Does not show: {_DOES_NOT_SHOW}"])


def _controls_needed(chances: int) -> int:
    """Fewest controls among whom the first place of one of so many attacks is told from chance, two-sided."""
    return math.ceil(2 * chances / ALPHA) - 1


def audit_cohort(
    evidence: Evidence,
    forgotten: Candidates,
    controls: Candidates,
    *,
    reference: Evidence | None = None,
    retained: Candidates | None = None,
    margin: float = MARGIN,
    attacks: tuple[str, ...] = tuple(ATTACKS),
    replicates: int = REPLICATES,
) -> Audit:
    """Audit a cohort of forgotten records against controls that were never used.

    `reference`: the same evidence about a model that never had the records (trained again, or a never-member one).
    """
    asked, positive = _together(forgotten, controls)
    findings, skipped = [], {}
    for name in attacks:
        if missing := _missing(name, evidence):
            skipped[name] = missing
            continue
        if ATTACKS[name].compares_models:
            if reference is None:
                skipped[name] = _NO_REFERENCE
            else:
                findings.append(_of_models(name, evidence, reference, forgotten, controls, margin, replicates))
            continue
        scores = _scores(name, evidence, asked, positive)
        found = area(scores, positive, asked.patients, replicates)
        base = apart = None
        if reference is not None and not _missing(name, reference):
            others = _scores(name, reference, asked, positive)
            base = area(others, positive, asked.patients, replicates)
            apart = gap(scores, others, positive, asked.patients, margin, replicates)
        findings.append(_finding(name, area=found, reference=base, gap=apart))
    exposed = [
        None if retained is None or e is None else _exposure(e, retained, controls, replicates)
        for e in (evidence, reference)
    ]
    return _audit("cohort", forgotten, controls, margin, tuple(findings), skipped, *exposed)


def audit_patient(
    evidence: Evidence, patient: Candidates, controls: Candidates, attacks: tuple[str, ...] = tuple(ATTACKS)
) -> Audit:
    """Rank one patient, by the mean score of its records, among control patients. Never a certificate."""
    if len(set(patient.patients)) != 1:
        raise PolicyError(f"{len(set(patient.patients))} patients: this audit is of one; use a cohort's")
    asked, positive = _together(patient, controls)
    findings, skipped = [], {}
    for name in attacks:
        missing = _CONTROLS_TOO if ATTACKS[name].compares_models else _missing(name, evidence)
        if missing:
            skipped[name] = missing
            continue
        scores = ATTACKS[name].score(evidence, asked)
        others = by_patient(scores[~positive], controls.patients)
        findings.append(_finding(name, rank=rank(float(scores[positive].mean()), others)))
    return _audit("patient", patient, controls, MARGIN, tuple(findings), skipped)


def _of_models(
    name: str,
    evidence: Evidence,
    reference: Evidence,
    forgotten: Candidates,
    controls: Candidates,
    margin: float,
    replicates: int,
) -> Finding:
    """How well the forgotten records tell the model in question from the reference; 1/2 is no gap.

    The controls' area is told beside it and not subtracted: what a model learned from the forgotten records shows on
    records like them as well.
    """
    found = []
    for asked in (forgotten, controls):
        scores = np.concatenate([ATTACKS[name].score(one, asked) for one in (evidence, reference)])
        found.append((scores, np.arange(len(scores)) < len(asked), asked.patients * 2))
    scores, positive, people = found[0]
    return _finding(
        name,
        area=area(scores, positive, people, replicates),
        reference=area(*found[1], replicates),
        gap=gap(scores, np.zeros(len(scores)), positive, people, margin, replicates),
    )


def _scores(name: str, evidence: Evidence, asked: Candidates, positive: NDArray[np.bool_]) -> Floats:
    if name == "pair" and evidence.shadows:
        return learned(evidence, asked, positive)
    return ATTACKS[name].score(evidence, asked)


def _exposure(evidence: Evidence, retained: Candidates, controls: Candidates, replicates: int) -> Area:
    asked, positive = _together(retained, controls)
    return area(ATTACKS["loss"].score(evidence, asked), positive, asked.patients, replicates)


def _together(forgotten: Candidates, controls: Candidates) -> tuple[Candidates, NDArray[np.bool_]]:
    if both := set(forgotten.patients) & set(controls.patients):
        raise PolicyError(f"{len(both)} patients are on both sides of the audit")
    asked = forgotten.and_then(controls)
    return asked, np.arange(len(asked)) < len(forgotten)


def _missing(name: str, evidence: Evidence) -> str:
    lacks = [what.value for what in Holding if what in ATTACKS[name].needs and not evidence.holds(what)]
    return ", ".join(lacks)


def _finding(name: str, **found: Any) -> Finding:
    attack = ATTACKS[name]
    return replace(Finding(name, attack.source, Holding.PAIR in attack.needs), **found)


def _audit(
    kind: str,
    forgotten: Candidates,
    controls: Candidates,
    margin: float,
    findings: tuple[Finding, ...],
    skipped: Mapping[str, str],
    retained: Area | None = None,
    reference: Area | None = None,
) -> Audit:
    return Audit(
        kind,
        len(set(forgotten.patients)),
        len(forgotten),
        len(set(controls.patients)),
        len(controls),
        margin,
        findings,
        skipped,
        retained,
        reference,
        smallest_cohort(margin),
    )


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value.value if hasattr(value, "value") else value for key, value in pairs}


def _interval(one: Area) -> str:
    return f"{one.auc:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _figures(one: Finding) -> str:
    if one.rank is not None:
        return f"{one.rank.share:.3f} of {one.rank.controls} controls rank higher, p = {one.rank.p:.3f}"
    assert one.area is not None
    if one.gap is None or one.reference is None:
        return f"AUC {_interval(one.area)}"
    between = f"{one.gap.gap:+.3f} [{one.gap.low:+.3f}, {one.gap.high:+.3f}]"
    return f"AUC {_interval(one.area)}, reference {one.reference.auc:.3f}, gap {between}: {one.gap.verdict.value}"
