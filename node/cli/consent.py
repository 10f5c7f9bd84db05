"""`koinon consent`: who agreed to what, and who no longer does."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli import common
from node.cli.common import (
    FILE,
    acting_home,
    home_option,
    read_file,
    read_text,
    study_option,
    subject,
    subject_options,
)
from node.cli.output import Noun, answer, json_flag, progress, short, table
from node.errors import ExitCode, InputError, NotFound
from node.home import write_file


@click.group(cls=Noun)
def consent() -> None:
    """Grant consents from signed forms, end them, show them.

    Example: koinon consent withdraw --home NET/member-2 --card card.json

    koinon records what a hospital attests; it does not see the signature on the paper. Patients are named with
    `--patient -` on standard input, so that no id stays in a shell's history, and never shown again.
    """


@consent.command("grant")
@home_option
@study_option
@click.option("--register", type=FILE, help="CSV: patient_id,form,signed_on,signer,verified_by.")
@click.option("--patient", metavar="ID|-", help="Only this patient's line of the register; - reads standard input.")
@click.option("--all", "everyone", is_flag=True, help="The whole register; without one, only in a synthetic home.")
@click.option("--lift-suppression", is_flag=True, help="Enrol again a --patient whose data were erased.")
@json_flag
def grant(
    home: Path, study: str | None, register: Path | None, patient: str | None, everyone: bool, lift_suppression: bool
) -> None:
    """Enrol what a register of signed forms covers; every grant makes a withdrawal card.

    Example: koinon consent grant --home NET/member-1 --register forms.csv

    Doing it again changes nothing, but for a representative's authority and review_on, which the vault keeps as they
    were given last. A patient whose data were erased is refused (exit code 5); the others of the same
    register are enrolled all the same; who agrees again after an erasure needs a form signed since, and the order
    --lift-suppression for that one --patient. Rows under a form that does not allow the study's purpose are refused
    with the DUO code that bars it (`koinon consent forms`). It does not check what is written on the forms.
    """
    if register is None and not everyone:
        raise click.UsageError("name a --register, or --all in a home marked synthetic")
    if patient is not None and register is None:
        raise click.UsageError("--patient picks a line of a --register: name one")
    if lift_suppression and patient is None:
        raise click.UsageError("--lift-suppression is for one patient: name the --patient")
    body: dict[str, Any] = {"study": study, "all": everyone}
    if register is not None:
        text = read_text(register, "register")
        who = None if patient is None else common.patient_id(patient)
        body["register"] = text if who is None else one_line(text, str(register), who)
        if lift_suppression:
            body["lift"] = who
    found = common.order(acting_home(home), "consent.grant", body)
    lines = [f"{found['granted']} granted, {found['known']} known from before, {len(found['absent'])} without records"]
    lines += _grant_lines(found)
    answer(found, lines)
    if found["refused"]:
        progress(f"koinon: {len(found['refused'])} lines of the register were refused")
        sys.exit(ExitCode.REFUSED)


def _grant_lines(found: dict[str, Any]) -> list[str]:
    return _enrolment_lines(found) + [f"line {one['line']}: refused: {one['why']}" for one in found["refused"]]


def _enrolment_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"consent {one} is superseded by the newer form" for one in found["superseded"]]
    lines += [f"consent {one}: the representative's authority or day of review is updated" for one in found["updated"]]
    if found["waiting"]:
        lines.append(f"{found['waiting']} wait for the end of their notice period or for the next day's anchor")
    return lines


@consent.command("supersede")
@home_option
@study_option
@click.option("--register", type=FILE, required=True, help="CSV with the patient's line under the newer form.")
@click.option("--patient", metavar="ID|-", required=True, help="The patient; - reads standard input.")
@json_flag
def supersede(home: Path, study: str | None, register: Path, patient: str) -> None:
    """Replace a patient's consent by one under a newer form: a new id, and the old one is withdrawn.

    Example: koinon consent supersede --home NET/member-1 --register forms.csv --patient - < id.txt

    The records stay in use only if the newer form allows the study; if it does not, nothing changes and the exit code
    is 5. The old card ends the old consent only: hand out the new one (`koinon consent show --cards`).
    """
    body = {
        "study": study,
        "all": False,
        "register": one_line(read_text(register, "register"), str(register), common.patient_id(patient)),
    }
    found = common.order(acting_home(home), "consent.grant", body)
    if not found["refused"] and not found["superseded"]:
        raise NotFound("this patient had no consent under another form: use `koinon consent grant`")
    answer(found, _grant_lines(found))
    if found["refused"]:
        sys.exit(ExitCode.REFUSED)


@consent.command("correct")
@home_option
@click.option("--patient", metavar="ID|-", help="The patient; - reads standard input.")
@click.option("--consent", metavar="ID", help="One consent by its id.")
@click.option("--reason", required=True, help="Why it was never lawful; kept in the vault alone.")
@json_flag
def correct(home: Path, patient: str | None, consent: str | None, reason: str) -> None:
    """Mark a consent as entered in error: the record was never to be used (another person's, or nobody signed).

    Example: koinon consent correct --home NET/member-1 --patient - --reason "merged medical records" < id.txt

    Use stops at once and the copy is deleted, whatever the form says. The chain shows an ordinary withdrawal, never the
    reason. The answer names the rounds that used the record without a valid consent: whether that is a breach to be
    notified (GDPR Art. 33: 72 hours) is for the data-protection officer to judge. To take it out of the model as well,
    go on with `koinon erase request`.
    """
    from node.reports.disclosures import by_line

    body = {**subject(patient, consent, None), "reason": reason}
    found = common.order(acting_home(home), "consent.correct", body)
    if not found["consents"]:
        raise NotFound("no consent of this patient is open here")
    lines = [f"consent {one} was entered in error; its use has stopped" for one in found["consents"]]
    for one, rounds in found["used_without_consent"].items():
        used, unknown = ("; ".join(by_line(two for two in rounds if two["used"] is state)) for state in (True, None))
        lines.append(f"consent {one}: used without valid consent in {used or 'no round'}")
        if unknown:
            lines.append(f"consent {one}: {unknown}: our set is not kept any more, it CANNOT BE TOLD")
    lines.append("judge now whether this is a personal data breach that has to be notified within 72 hours")
    answer(found, lines)


@consent.command("forms")
@home_option
@study_option
@json_flag
def forms(home: Path, study: str | None) -> None:
    """List a study's forms: DUO codes, custody, what a withdrawal triggers, and whether they allow its purpose.

    Example: koinon consent forms --home NET/member-1

    A form's DUO permissions are alternatives, its modifiers constraints. It reads the study's specification, not the
    text that was signed.
    """
    found = common.order(acting_home(home), "consent.forms", {"study": study})["forms"]
    rows = [
        [one["name"], " ".join(one["duo"]), one["custody"], one["on_withdrawal"], one["why"] or "yes"] for one in found
    ]
    answer(found, table(["name", "duo", "custody", "on withdrawal", "allows the study"], rows))


def one_line(text: str, file: str, patient: str) -> str:
    """The register with its header and this patient's lines only."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or "patient_id" not in rows[0]:
        raise InputError(f"register {file}: no column patient_id in its header")
    column = rows[0].index("patient_id")
    kept = [row for row in rows[1:] if len(row) > column and row[column].strip() == patient]
    if not kept:
        raise NotFound(f"register {file}: no line for this patient")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([rows[0], *kept])
    return out.getvalue()


@consent.command("withdraw")
@home_option
@subject_options()
@json_flag
def withdraw(home: Path, patient: str | None, consent: str | None, card: Path | None) -> None:
    """End a consent, at once and for good; any member takes a card of any hospital's patient.

    \b
    Examples: koinon consent withdraw --home NET/member-2 --card card.json
              koinon consent withdraw --home NET/member-1 --patient - < id.txt

    The record leaves the running round if that has not been revealed. The answer holds a signed receipt and the rounds
    that were open. It does not erase: that is `koinon erase request`.
    """
    body = subject(patient, consent, card)
    found = common.order(acting_home(home), "consent.withdraw", body)
    if not found["consents"]:
        raise NotFound("no consent of this patient is known here")
    lines = [f"consent {one} ended" for one in found["consents"]]
    lines.append("on the chain" if found["posted"] else "waits for the chain; it already takes effect here")
    for one in found["in_flight"]:
        lines.append(f"round {one['height']} of study {one['study'][:12]} was open: the last that could have used it")
    for one in found["receipt"]:
        lines.append(f"receipt: statement {one['statement']} received at chain time {one['received_at']}")
    answer(found, lines)


@consent.command("show")
@home_option
@subject_options()
@click.option("--cards", type=click.Path(path_type=Path, file_okay=False), help="Write the cards (JSON, SVG) here.")
@json_flag
def show(home: Path, patient: str | None, consent: str | None, card: Path | None, cards: Path | None) -> None:
    """Show a patient's consents, or what a card stands for; write withdrawal cards.

    Example: koinon consent show --home NET/member-1 --patient - --cards out/ < id.txt

    A card lets whoever holds it end the consent and ask for erasure: give it to the patient, keep no copy. It does not
    show the person.
    """
    body = subject(patient, consent, card)
    if card is not None:
        _show_card(home, body["card"])
        return
    home = acting_home(home)
    made = common.order(home, "consent.cards", body)
    if not made["cards"]:
        raise NotFound("no consent of this patient is known here")
    wanted = [_consent_of(text) for text in made["cards"]]
    known = {one["consent_id"]: one for one in common.order(home, "consent.list", {})["consents"]}
    found = [known.get(one, {"consent_id": one}) for one in wanted]
    if cards is not None:
        cards.mkdir(parents=True, exist_ok=True)
        for one, text, svg in zip(found, made["cards"], made["svg"], strict=True):
            stem = cards / f"card-{one['consent_id'][:12]}"
            write_file(stem.with_suffix(".json"), text.encode(), 0o600)
            write_file(stem.with_suffix(".svg"), svg.encode(), 0o600)
            one["card"] = str(stem.with_suffix(".json"))
    answer(found, _lines(found))


def _consent_of(text: str) -> str:
    from node.card import parse

    return parse(text.encode()).consent_id.hex()


def _show_card(home: Path, text: str) -> None:
    from node.card import check_network, parse

    parsed = parse(text.encode())
    check_network(parsed, common.network_of(home))
    history = common.history_of(home)
    at = history.withdrawn_at(parsed.consent_id)
    found = [
        {
            "consent_id": parsed.consent_id.hex(),
            "study": parsed.origin.study.hex(),
            "form_id": parsed.form_id.hex(),
            "hospital": parsed.origin.hospital,
            "issued": parsed.issued,
            "state": "withdrawn" if at is not None else "not withdrawn",
            "withdrawn_at": at,
        }
    ]
    answer(found, _lines(found))


@consent.command("withdraw-left")
@click.argument("consent_id")
@click.option("--hospital", type=int, required=True, help="Index of the hospital that granted it and left.")
@home_option
@json_flag
def withdraw_left(consent_id: str, hospital: int, home: Path) -> None:
    """Vote to end a consent of a hospital that was removed, or whose key is revoked, where the card is lost.

    Example: koinon consent withdraw-left 7f3a.. --hospital 3 --home NET/member-1

    The vote that completes the quorum ends it. With the card anybody's node ends it at once: `koinon consent withdraw`.
    That this hospital granted this consent is the voters' word: the link may have left with the hospital.
    """
    body = {"consent": consent_id, "hospital": hospital}
    found = common.order(acting_home(home), "consent.withdraw-left", body)
    votes = f"{len(found['votes'])} of {found['needed']} votes needed, by members {found['votes']}"
    answer(found, [votes, f"consent {consent_id} is withdrawn" if found["decided"] else "waiting for more votes"])


# --------------------------------------------------------------------------------------------------------------------
# FHIR


@consent.command("import")
@home_option
@study_option
@click.option("--fhir", type=FILE, required=True, help="Consents: one resource, a Bundle, or NDJSON; R4B and R5.")
@click.option("--form", metavar="NAME", help="The study's form that all of them stand for.")
@click.option("--map", "mapping", multiple=True, metavar="KEY=NAME", help="Policy (system|code, URI) to form; repeat.")
@click.option("--notified-on", metavar="DAY", help="Broad forms: the day on which all these patients were told of it.")
@json_flag
def import_(
    home: Path, study: str | None, fhir: Path, form: str | None, mapping: tuple[str, ...], notified_on: str | None
) -> None:
    """Enrol and end what FHIR Consents say.

    \b
    Examples: koinon consent import --home NET/member-1 --fhir consents.json --form main
              koinon consent import --home NET/member-1 --fhir c.ndjson --map 'https://example.org/form|3=main'

    An active permit grants, as a line of a register does; `inactive` withdraws; `entered-in-error` corrects; a deny is
    refused and ends what is held; what ends nothing here is named. A form signed before such an end does not grant. A
    resource that is broken refuses the whole file (exit code 2), one that does not grant is left out (exit code 5). The
    consent is bound to the resource's RFC 8785 bytes. It does not read actors and data restrictions: the form has to
    say the same. Nor does a resource say when a patient was told that a broad form is now used for this study.
    """
    from node.fhir import MAX_FHIR_BYTES, Says, read

    today = datetime.now(UTC).date()
    # Places are in the order that a second person approves: by the file's name, wherever it lies.
    found = read(read_file(fhir, "FHIR file", MAX_FHIR_BYTES), fhir.name, _forms(form, mapping), today=today)
    left_out = [one for one in found if one.says in (Says.DENY, Says.NOTHING)]
    body: dict[str, Any] = {
        "study": study,
        "rows": [
            {
                "line": one.line,
                "where": one.where,
                "patient_id": one.patient_id,
                "form": one.form,
                "signed_on": one.signed_on,
                "signer": one.signer,
                "verified_by": one.verified_by,
                "until": one.until,
                "notified_on": notified_on or "",
                "document": one.document.decode(),
            }
            for one in found
            if one.says is Says.GRANT
        ],
        "ends": [
            {
                "line": one.line,
                "where": one.where,
                "patient_id": one.patient_id,
                "form": one.form,
                "signed_on": one.signed_on,
                "mark": one.mark,
                "consent": one.consent,
            }
            for one in found
            if one.mark
        ],
    }
    told = common.order(acting_home(home), "consent.import", body)
    places = {one.line: one.where for one in found}
    told["refused"] = [{"where": one.where, "why": one.why} for one in left_out] + [
        {"where": places[one["line"]], "why": one["why"]} for one in told["refused"]
    ]
    told["absent"] = [places[line] for line in told["absent"]]
    counts = {"granted": told["granted"], "known from before": told["known"]}
    counts |= {"ended": len(told["ended"]), "without records": len(told["absent"])}
    lines = [", ".join(f"{count} {what}" for what, count in counts.items())]
    if not told["granted"] and not told["ended"]:
        lines.append("nothing new is granted or ended")
    lines += _enrolment_lines(told)
    lines += [f"{one['where']}: ends nothing: {one['why']}" for one in told["nothing_ended"]]
    lines += [f"{one['where']}: refused: {one['why']}" for one in told["refused"]]
    answer(told, lines)
    if told["refused"]:
        progress(f"koinon: {len(told['refused'])} resources were refused")
        sys.exit(ExitCode.REFUSED)


def _forms(form: str | None, mapping: tuple[str, ...]) -> Any:
    from node.fhir import Forms

    pairs = [one.rpartition("=") for one in mapping]
    if any(not key or not name for key, _, name in pairs):
        raise click.UsageError("--map takes KEY=NAME")
    if form is not None and mapping:
        raise click.UsageError("name either --form or --map")
    return Forms(form, {key: name for key, _, name in pairs})


@consent.command("export")
@home_option
@study_option
@common.out_option("Where to write: a Bundle, or NDJSON for a name in .ndjson.", flag="--fhir", required=True)
@click.option("--version", type=click.Choice(["R4B", "R5"]), default="R4B", show_default=True, help="FHIR version.")
@json_flag
def export(home: Path, study: str | None, fhir: Path, version: str) -> None:
    """Write one FHIR Consent for every consent held.

    Example: koinon consent export --home NET/member-1 --fhir consents.json

    The file names patients: it is for the hospital's own records, and only its owner can read it. A withdrawn consent
    is a further version of its resource, with status inactive.
    """
    from node.fhir import Held, read_document, write

    held = common.order(acting_home(home), "consent.export", {"study": study})["held"]
    resources = []
    for one in held:
        document = json.loads(one.pop("document"))
        if document.get("resourceType") == "Consent":
            kept = read_document(json.dumps(document).encode(), one["form"])
            one |= {"signer": kept.signer or "unknown", "verified_by": kept.verified_by}
        else:
            one |= {key: document[key] for key in ("signer", "verified_by")}
        resources.append(write(Held(**one), "R5" if version == "R5" else "R4B"))
    if fhir.suffix == ".ndjson":
        text = "".join(json.dumps(one) + "\n" for one in resources)
    else:
        entries = [{"resource": one} for one in resources]
        text = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}, indent=1) + "\n"
    write_file(fhir, text.encode(), 0o600)
    answer({"file": str(fhir), "version": version, "consents": len(resources)}, [f"{len(resources)} consents: {fhir}"])


@consent.command("list")
@home_option
@study_option
@json_flag
def list_(home: Path, study: str | None) -> None:
    """List the consents of a hospital with their states.

    Example: koinon consent list --home NET/member-1

    It names no patient; who is behind a consent is answered only to `consent show --patient`.
    """
    found = common.order(acting_home(home), "consent.list", {"study": study})["consents"]
    lines = [*_lines(found), f"{len(found)} consents"]
    if review := [one["consent_id"] for one in found if one.get("review_due")]:
        lines.append(f"signed by a representative, to be looked at again now: {', '.join(review)}")
    answer(found, lines)


def _lines(found: list[dict[str, Any]]) -> list[str]:
    keys = ("consent_id", "study", "state", "signed_on", "issued")
    lines = table(
        [key.replace("_", " ") for key in keys],
        [[short(one.get(key)) if key == "study" else one.get(key) for key in keys] for one in found],
    )
    return [*lines, *(f"card written: {one['card']}" for one in found if "card" in one)]
