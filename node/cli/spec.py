"""From flags to a study's specification: what `study create` and `simulate` share.

The specification itself, its table and its checks are `node/study.py`; here is only how a person says it in flags,
and the form of consent that stands in where no specification names one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import click

from node.cli.common import FILE, read_file
from node.errors import InputError
from node.study import MAX_SPEC_BYTES, SCHEMA, Study, parse_sections, parse_toml

FORM_YEARS: Final = 2  # a form lasts at least so long; its end is the start of a quarter

# flag -> (section, key, type, help); "" is the top level
FLAGS: Final[dict[str, tuple[str, str, type, str]]] = {
    "--model": ("model", "name", str, "Model: small-cnn, mlp, resnet-18-narrow, resnet-18, ridge."),
    "--rounds": ("", "rounds", int, "Final rounds."),
    "--local-epochs": ("training", "local_epochs", int, "Epochs a member trains in a round."),
    "--batch-size": ("training", "batch_size", int, "Records in a batch."),
    "--learning-rate": ("training", "learning_rate", float, "Step size."),
    "--method": ("training", "method", str, "Local training: fedavg, fedavg-float64, ridge."),
    "--noise": ("training", "noise", float, "Noise of a ridge head's statistics (fl_engine/ALGORITHMS.md)."),
    "--shards": (
        "training",
        "shards",
        int,
        "Networks trained apart, by members of their own; 1: none (docs/UNLEARNING.md).",
    ),
    "--rule": ("aggregation", "rule", str, "Aggregation (mean)."),
    "--fraction-bits": ("aggregation", "fraction_bits", int, "Bits after the point of the integer grid."),
    "--max-abs": ("aggregation", "max_abs", float, "Largest absolute value of one coordinate."),
    "--min-included": ("", "min_included", int, "Members a round needs (0: n - f)."),
    "--scribe-seconds": ("windows", "scribe_s", int, "Time for training and the first posting."),
    "--grace-seconds": ("windows", "grace_s", int, "Time for those missing to post themselves."),
    "--reveal-seconds": ("windows", "reveal_s", int, "Time to fetch keys and updates."),
    "--have-seconds": ("windows", "have_s", int, "Time to say what is held."),
    "--vote-seconds": ("windows", "vote_s", int, "Time to vote."),
    "--purge-seconds": ("windows", "purge_s", int, "Time for an erasure's purges, in its plan and its certificate."),
    "--f": ("policy", "f", int, "Faulty members to bear."),
    "--min-consents": ("policy", "min_consents", int, "Consents below which a member abstains."),
    "--max-records-per-consent": ("policy", "max_records_per_consent", int, "Records of one consent in a round."),
    "--set-retention-days": ("policy", "set_retention_days", int, "Days until consent sets are deleted."),
    "--erasure-window": ("policy", "erasure_window_s", int, "Seconds in which requests for erasure are gathered."),
    "--suspend-after": ("policy", "suspend_after", int, "Missed rounds until a member is suspended."),
    "--suspend-rounds": ("policy", "suspend_rounds", int, "Rounds a suspension lasts."),
    "--max-round-age": ("policy", "max_round_age_s", int, "Seconds until a round that stays open has failed."),
}
NEEDED: Final = ("--model", "--rounds", "--local-epochs", "--batch-size", "--learning-rate")


@dataclass(frozen=True, slots=True)
class Given:
    """What the user gave: a file, or flags by their names."""

    spec: Path | None
    name: str | None
    flags: dict[str, Any]


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--spec FILE`, or the flags that stand for one; the command gets them as `given`."""

    def wrapped(*arguments: Any, **values: Any) -> Any:
        flags = {flag: values.pop(_parameter(flag)) for flag in FLAGS}
        given = Given(values.pop("spec"), values.pop("study_name"), {k: v for k, v in flags.items() if v is not None})
        return command(*arguments, given=given, **values)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__dict__.update(getattr(command, "__dict__", {}))
    decorated: Callable[..., Any] = wrapped
    for flag, (_, _, kind, text) in reversed(FLAGS.items()):
        decorated = click.option(flag, _parameter(flag), type=kind, help=text)(decorated)
    decorated = click.option("--name", "study_name", help="The study's neutral public name.")(decorated)
    return click.option("--spec", type=FILE, help="A specification (TOML); `study spec-template` prints one.")(
        decorated
    )


def _parameter(flag: str) -> str:
    return "flag_" + flag.removeprefix("--").replace("-", "_")


def spec_text(path: Path) -> str:
    """A specification file's text, checked."""
    data = read_file(path, "specification", MAX_SPEC_BYTES)
    parse_toml(data)
    return data.decode("utf-8")


def from_flags(given: Given, *, task: str, shape: tuple[int, ...], classes: int, synthetic: bool) -> Study:
    """The specification that the flags and the data make, everything else at its default.

    Raises:
        click.UsageError: a needed flag is missing.
        InputError: a value out of its range.
    """
    missing = [flag for flag in NEEDED if flag not in given.flags]
    if missing:
        raise click.UsageError(f"name a --spec, or all of {', '.join(NEEDED)}; missing: {', '.join(missing)}")
    sections: dict[str, Any] = {"schema": SCHEMA, "name": given.name or task, "task": task}
    sections["data"] = {"input_shape": list(shape), "classes": classes}
    for flag, value in given.flags.items():
        section, key, _, _ = FLAGS[flag]
        (sections.setdefault(section, {}) if section else sections)[key] = value
    _fit_windows(sections)
    sections["forms"] = [default_form(synthetic, datetime.now(UTC).date())]
    return parse_sections(sections)


def _fit_windows(sections: dict[str, Any]) -> None:
    """Keep `have_s` at least twice `grace_s` when only one of the two was named."""
    windows = sections.get("windows", {})
    if "grace_s" in windows and "have_s" not in windows:
        windows["have_s"] = max(40, 2 * windows["grace_s"])


def refuse_both(given: Given) -> None:
    """A specification file and flags that would change it are never mixed."""
    if given.spec is not None and (given.flags or given.name):
        named = ", ".join([*given.flags, *(["--name"] if given.name else [])])
        raise click.UsageError(f"--spec already says everything; leave out {named}")


def form_text() -> bytes:
    """The consent form that comes with koinon, as a patient reads it."""
    return (Path(__file__).parent / "form.txt").read_bytes()


def quarter_after(day: date) -> int:
    """Unix seconds of the first start of a quarter (UTC) that is at least `FORM_YEARS` years after `day`."""
    year, month = day.year + FORM_YEARS, (day.month - 1) // 3 * 3 + 1
    if (day.month, day.day) != (month, 1):
        month += 3
    if month > 12:
        year, month = year + 1, 1
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def default_form(synthetic: bool, today: date) -> dict[str, Any]:
    """The one form of a study that names none."""
    return {
        "name": "main",
        "text_sha256": sha256(form_text()).hexdigest(),
        "purposes": 1,
        "custody": "synthetic" if synthetic else "hospital-attested",
        "basis": "consent",
        "valid_to": quarter_after(today),
        "on_withdrawal": "stop+delete",
    }


TEMPLATE: Final = """# A study's specification. What has a default may be left out; an unknown key is refused.
schema = "koinon.study/1"
name = "{name}"                  # neutral: it is public; no disease, no hospital
task = "{task}"       # nuclei, mri-quality, npz-classification, table-classification
rounds = 20                      # final rounds; a failed one is repeated
min_included = 0                 # members a round needs; 0: n - f

[data]                           # what one record is, the same at every member
input_shape = {shape}
classes = {classes}

[model]
name = "{model}"              # small-cnn, resnet-18-narrow, resnet-18 (images), mlp (tables), ridge (both)

[training]
method = "fedavg"                # fedavg-float64: slower, and repeats on other kinds of machines too (nearly always)
local_epochs = 1
batch_size = 32                  # an erasable study needs at least two batches an epoch at every member
learning_rate = 0.05
noise = 0.0                      # method ridge, for model ridge, adds it to its statistics, and takes none of the three
                                 # above; a study that is erasable needs some (fl_engine/ALGORITHMS.md)
shards = 1                       # networks trained apart, each by members of its own: an erasure replays one of them

[aggregation]                    # on an integer grid: the same bits on every machine
rule = "mean"
fraction_bits = 24
max_abs = 64.0

[windows]                        # seconds of chain time
scribe_s = 300                   # must contain training
grace_s = 20
reveal_s = 60
have_s = 40                      # at least twice grace_s
vote_s = 60
purge_s = 120

[policy]
f = 1                            # faulty members to bear; at most (n-1)/3 takes effect
min_consents = 20                # a member with fewer abstains
max_records_per_consent = 32
set_retention_days = 30          # consent sets are deleted so long after a round is final
erasure_window_s = 0             # requests for erasure are gathered so long (604800: a week)
erasable = true
evidence = ["L2"]                # what an erasure is to show: L3 training repeated at the hospital, L4 attacked; with
                                 # neither L2 nor L3 a hospital may choose an approximate method
sets_ahead = false               # true: sets are committed a round ahead, before the batch order is known; L3 needs it
suspend_after = 2                # missed rounds
suspend_rounds = 3
max_round_age_s = 86400

[success]                        # what may be called a success when all rounds are over (`koinon audit participation`)
members = 0                      # so many have taken part; 0: every one that joined
rounds_share = 0.5               # part of the agreed rounds that includes whoever has taken part

[[forms]]                        # what patients sign; a consent names one of these
name = "main"
text_sha256 = "{text}"   # of the text that is signed
purposes = 1
custody = "{custody}"    # hospital-attested, patient-signed, synthetic
basis = "consent"                # consent, law, opt-out
valid_to = {valid_to}            # unix seconds, midnight UTC of the first day of a quarter
on_withdrawal = "stop+delete"    # stop; stop+delete: the copy goes; stop+delete+unlearn: it asks for erasure too
"""


def template(*, name: str, task: str, shape: tuple[int, ...], classes: int, model: str, synthetic: bool) -> str:
    """A commented specification; `parse_toml` takes it as it is."""
    form = default_form(synthetic, datetime.now(UTC).date())
    text = TEMPLATE.format(
        name=name,
        task=task,
        shape=list(shape),
        classes=classes,
        model=model,
        text=form["text_sha256"],
        custody=form["custody"],
        valid_to=form["valid_to"],
    )
    try:
        parse_toml(text.encode())
    except InputError as error:
        raise InputError(f"no template for this data: {error.message}") from error
    return text
