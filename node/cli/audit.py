"""`koinon audit`: what happened, checked again by whoever doubts it."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli import common
from node.cli.common import FILE, acting_home, home_option, read_file, read_text, study_option
from node.cli.output import Noun, answer, csv_flag, json_flag, moment, pairs, progress, short, table
from node.errors import ExitCode, InputError, LocalError, NodeError, NotFound, Refused
from node.home import is_network_home, open_home, write_file

if TYPE_CHECKING:
    from node.history import History
    from node.store import Store

MAX_PROOF_BYTES = 64 << 20
TIMES = frozenset({"time", "opened", "sealed", "ended", "requested", "due", "first_due", "valid_to"})
"""Fields that are shown to people as a time (UTC); `opened` and its like may also be objects."""


@click.group(cls=Noun)
def audit() -> None:
    """Verify a home's history, read it, and make and check proofs for patients.

    Example: koinon audit verify --home NET

    An audit recomputes what members declared. It cannot see whether a member trained honestly.
    """


def _history(home: Path) -> History:
    """The chain as the home has kept it, and on standard error as of which block."""
    common.tell_as_of(home)
    return common.history_of(home)


@audit.command()
@click.option("--home", type=common.HOME, envvar="KOINON_HOME", help="The home that is meant (or KOINON_HOME).")
@click.option("--bundle", type=FILE, help="An audit bundle (see `audit export`) instead of a home.")
@click.option("--network", type=FILE, help="network.json that a bundle must be of; not from whoever made the bundle.")
@json_flag
def verify(home: Path | None, bundle: Path | None, network: Path | None) -> None:
    """Execute everything again that a home holds; a network home: every home in it, and the chain's journal.

    \b
    Examples: koinon audit verify --home NET --json
              koinon audit verify --bundle bundle.zip --network network.json

    Nothing needs to run and no network is used. Exit code 3 when something does not hold, with the first place and
    both values. `skipped` means this home cannot say; rounds purged by an erasure are covered by votes and tombstones.
    """
    from node.audit.verify import verify_home, verify_network

    about: list[str] = []
    if bundle is not None:
        report, about = _verify_bundle(bundle, network)
    elif home is None or network is not None:
        raise click.UsageError("--network goes with --bundle" if home else "name either --home or --bundle")
    elif is_network_home(home):
        report = verify_network(home, progress).to_json()
    else:
        common.tell_as_of(home)
        report = verify_home(home, _password(home)).to_json()
    rows = [(one.get("home") or "-", one["name"], one["status"], one.get("why") or "-") for one in report["checks"]]
    lines = table(("home", "check", "status", "why"), rows)
    lines.append(f"rounds verified {report['rounds_verified']}, purged by erasures {report['rounds_purged']}")
    failure = report["first_failure"]
    if failure is not None:
        lines.append(f"FIRST FAILURE: {failure['what']}, {failure['where']}")
        lines.append(f"  expected {failure['expected']}")
        lines.append(f"  got      {failure['got']}")
    else:
        lines.append("ok" if report["complete"] else "ok; not complete: see the skipped checks")
    answer(report, [*about, *lines])
    if not report["ok"]:
        if failure is not None:
            progress(f"koinon: the audit failed: {failure['what']}, {failure['where']}")
        sys.exit(ExitCode.VERIFICATION_FAILED)


def _password(home: Path) -> str | None:
    from node import config
    from node.home import read_password

    opened = open_home(home)
    try:
        return read_password(opened, config.load(opened.config_path)["node", "password_file"])
    except NodeError as error:
        progress(f"without the password (checks that need keys are skipped): {error.message}")
        return None


@audit.command()
@home_option
@study_option
@click.option("--member", help="Only acts of this member (index or name).")
@click.option("--consent", metavar="ID", help="Only acts about this consent.")
@click.option("--kind", help="Only acts of this kind (see the column `kind`).")
@click.option("--since", help="Only acts at or after this time: unix seconds or 2026-03-14[T10:00:00] (UTC).")
@click.option("--until", help="Only acts at or before this time.")
@json_flag
@csv_flag
def trail(
    home: Path,
    study: str | None,
    member: str | None,
    consent: str | None,
    kind: str | None,
    since: str | None,
    until: str | None,
) -> None:
    """Tell who did what when, in the order of the chain, with block and transaction.

    Example: koinon audit trail --home NET --member 2 --kind round-final

    Reads the home's copy of the chain; nothing needs to run. Consents given in anchors are not on the chain one by one.
    """
    from node.events import SHOWN

    history = _history(home)
    number = None if study is None else common.pick_study(history, study)
    rows = _timeline(
        home,
        study=number,
        member=None if member is None else _member(member, common.names_of(history)),
        consent=None if consent is None else common.digest(consent, "--consent"),
        kind=kind,
        since=None if since is None else _moment(since, "--since"),
        until=None if until is None else _moment(until, "--until"),
    )
    header = ["time (UTC)", "block", "transaction", "who", "what", "kind"]
    shown = [[moment(r["time"]), r["block"], short(r["transaction"]), r["who"], r["what"], r["kind"]] for r in rows]
    if history.deployment:  # the network moved: say which deployment an entry is from
        header.append("deployment")
        shown = [[*line, row["deployment"]] for line, row in zip(shown, rows, strict=True)]
    answer(rows, table(header, shown), rows, SHOWN)


@audit.command("open")
@click.option("--seat", type=int, default=0, show_default=True, help="The auditor's seat.")
@home_option
@study_option
@json_flag
def open_(home: Path, study: str | None, seat: int) -> None:
    """Let an auditor have a study's keys from this hospital, as its data-protection officer.

    Example: koinon audit open --seat 0 --home NET/member-1

    An auditor reads what two opened, both on the chain for everybody to see: itself, by its AuditAccess, and this
    hospital, by the officer's order. No node hands it a key before both. It is for this study and seat, and ends with
    the seat's term. What the auditor has it keeps.
    """
    found = common.order(acting_home(home), "audit.open", {"study": study, "seat": seat})
    answer(found, [f"study {short(found['study'])} is open to {found['auditor']}, from this hospital"])


def _timeline(home: Path, **filters: Any) -> list[dict[str, Any]]:
    """Who did what when, by the home's index of events; `filters` as `EventIndex.find` takes them."""
    from node.audit.events import event_index
    from node.home import reading_home
    from node.trail import trail as tell

    with closing(event_index(reading_home(home))) as index:
        return tell(index, **filters)


def _member(given: str, names: dict[int, str]) -> int:
    if given.isdigit() and int(given) in names:
        return int(given)
    found = [index for index, name in names.items() if name == given]
    if len(found) != 1:
        raise InputError(f"--member {given[:80]!r}: the members are {', '.join(f'{i} {n}' for i, n in names.items())}")
    return found[0]


def _moment(given: str, flag: str) -> int:
    if given.isdigit():
        return int(given)
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise InputError(f"{flag} {given[:40]!r}: unix seconds or a time such as 2026-03-14T10:00:00") from None
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


@audit.command("round")
@home_option
@study_option
@click.option("--round", "which", required=True, metavar="R", help="Its number on the training branch, or its id.")
@json_flag
@csv_flag
def round_(home: Path, study: str | None, which: str) -> None:
    """Show one round: who was asked, who committed, who was included, who was left out and by which rule.

    Example: koinon audit round --home NET --round 3

    `no_commit`, `abstained` and `unavailable` are facts, not guilt. With --csv: the members.
    """
    from node import trail as told

    history = _history(home)
    number = common.pick_study(history, study)
    found = told.round_report(history, number, int(which) if which.isdigit() and len(which) < 9 else which)
    answer(found, _shown(found), found["members"], told.PART)


@audit.command()
@home_option
@click.option("--member", required=True, help="A member's index or name.")
@json_flag
@csv_flag
def member(home: Path, member: str) -> None:
    """Show one member: its part in every study, its anchors and grants, the erasures it controls and owes.

    Example: koinon audit member --home NET --member member-2

    With --csv: what it did and what names it, in the order of the chain.
    """
    from node.events import SHOWN
    from node.reports.member import member_report

    history = _history(home)
    index = _member(member, common.names_of(history))
    found = member_report(history, index, int(time.time()))
    found["timeline"] = _timeline(home, member=index)
    answer(found, _shown(found), found["timeline"], SHOWN)


@audit.command()
@home_option
@click.option("--consent", metavar="ID", help="A consent id (64 hex digits).")
@click.option("--card", type=FILE, help="A withdrawal card: with it any member or the auditor can read the sets.")
@json_flag
@csv_flag
def consent(home: Path, consent: str | None, card: Path | None) -> None:
    """Tell one consent's whole story: form, rounds that used its records, who received them, withdrawal, erasure.

    \b
    Examples: koinon audit consent --home NET/member-1 --consent ID
              koinon audit consent --home NET/auditor --card card.json

    Which rounds used the records, on every line of the study, is in sealed sets: the hospital that holds the consent,
    or whoever shows the card, reads them. Anywhere else the answer says that it is not known here, and "unknown" stands
    at rounds whose set is gone. `koinon audit prove` proves the line that trains now. With --csv: the rounds.
    """
    from node.card import parse
    from node.events import SHOWN
    from node.home import reading_home
    from node.reports.consent import USE, consent_report

    if (consent is None) == (card is None):
        raise click.UsageError("name either --consent or --card")
    history = _history(home)
    place: dict[str, Any] = {}
    body: dict[str, Any] = {}
    if card is not None:
        body["card"] = read_text(card, "card", 1 << 16)
        shown = parse(body["card"].encode())
        number = shown.consent_id
        place = {"study": shown.origin.study, "hospital": shown.origin.member, "form": shown.form_id}
    else:
        number = common.digest(str(consent), "--consent")
        body["consent"] = number.hex()
    told = _uses(home, body)
    if told is not None and card is None:
        place = {"study": common.digest(told["study"], "study"), "hospital": told["hospital"]}
        held = common.order(reading_home(home), "consent.list", {})["consents"]
        forms = [one["form_id"] for one in held if one["consent_id"] == number.hex()]
        place["form"] = common.digest(forms[0], "form") if forms else None
    uses, erasure = (None, None) if told is None else (told["rounds"], told["erasure"])
    batch = None if erasure is None else common.digest(erasure, "erasure")
    found = consent_report(history, number, **place, uses=uses, erasure=batch)
    found["timeline"] = _timeline(home, consent=number)
    if batch is not None:
        found["timeline"] = sorted([*found["timeline"], *_timeline(home, batch=batch)], key=lambda row: row["block"])
    lines = _shown(found)
    if found["uses_known"] and any(one["finding"] == "unknown" for one in found["uses"]):
        lines.append("CANNOT BE TOLD, where it says unknown: the set of that round is gone from this home")
    rows, columns = (found["uses"], USE) if found["uses_known"] else (found["timeline"], SHOWN)
    answer(found, lines, rows, columns)


def _uses(home: Path, body: dict[str, Any]) -> dict[str, Any] | None:
    """What this home's node can tell of a consent's rounds; None where it can tell nothing."""
    from node.home import reading_home

    try:
        return common.order(reading_home(home), "audit.uses", body)
    except (NotFound, Refused, LocalError) as error:
        progress(f"uses: {error.message}")
        return None


@audit.command()
@home_option
@click.option("--erasure", metavar="ID", help="An erasure's id, or its beginning; all of them without it.")
@json_flag
@csv_flag
def erasure(home: Path, erasure: str | None) -> None:
    """Show an erasure state by state: the clock, the plan, who attested the deletion, who checked, who is missing.

    Example: koinon audit erasure --home NET --erasure 4be1

    An attestation is a signed word. With --csv: what was done, in the order of the chain.
    """
    from node.events import SHOWN
    from node.reports.erasure import erasure_report, find_erasure

    history = _history(home)
    batches = list(history.erasures) if erasure is None else [find_erasure(history, erasure)]
    found = [
        {**erasure_report(history, batch, int(time.time())), "timeline": _timeline(home, batch=batch)}
        for batch in batches
    ]
    lines = [line for one in found for line in ("", *_shown(one))]
    answer(found, lines or ["no erasure"], [row for one in found for row in one["timeline"]], SHOWN)


@audit.command()
@home_option
@common.subject_options()
@json_flag
@csv_flag
def disclosures(home: Path, patient: str | None, consent: str | None, card: Path | None) -> None:
    """Account for disclosures (45 CFR 164.528): date, recipient, description and purpose, for one patient.

    Example: koinon audit disclosures --home NET/member-1 --patient - < id.txt

    While the consent is held, the rounds come from the sets, and from what was noted of sets that an erasure deleted;
    of the erased, the archive keeps days and names. It lists what koinon sent to others; a model that was exported is
    listed where the export was recorded. Rounds of which nothing can be told any more are named.
    """
    from node.reports.disclosures import COLUMNS

    body = common.subject(patient, consent, card)
    acting = acting_home(home)
    common.tell_as_of(acting)
    rows = common.order(acting, "audit.disclosures", body)["rows"]
    header = ("date", "recipient", "description", "purpose")
    lines = table(header, [[row[name] for name in header] for row in rows]) if rows else ["no disclosure"]
    answer(rows, lines, rows, COLUMNS)


@audit.command()
@home_option
@study_option
@json_flag
@csv_flag
def participation(home: Path, study: str | None) -> None:
    """Show for every member how many rounds it was asked, committed, included, and what it missed.

    Example: koinon audit participation --home NET

    It says who was there, not who was good, and whether the study's own rules allow to call it a success.
    With --csv: every member in every round, of all branches.
    """
    from node import trail as told

    history = _history(home)
    number = common.pick_study(history, study)
    success = common.success_of(home, history, number)
    found = {**told.participation(history, number), "success": success}
    names = [name for name in told.COUNTED if name != "asked"]
    lines = table(
        ("member", "name", "asked", *(name.replace("_", " ") for name in names)),
        [(one["member"], one["name"], one["asked"], *(one[name] for name in names)) for one in found["totals"]],
    )
    for one in found["totals"]:
        for miss in one["missed"]:
            lines.append(f"{one['name']} missed round {miss['height']} of branch {miss['branch']}: {miss['missed']}")
    lines.append("the specification is not here" if success is None else told.success_line(success))
    places = ("branch", "height", "state")
    rows = [{name: one[name] for name in places} | part for one in found["rounds"] for part in one["members"]]
    answer(found, lines, rows, (*places, *told.PART))


def _shown(found: Any) -> list[str]:
    """Any report for people: scalars as pairs, lists of objects as tables."""
    if isinstance(found, list):
        if not found:
            return ["nothing"]
        if not isinstance(found[0], dict):
            return [", ".join(map(str, found))]
        header = list(found[0])
        rows = [[_value(k, one.get(k)) for k in header] for one in found]
        return table([name.replace("_", " ") for name in header], rows)
    lines = pairs(**{k: _value(k, v) for k, v in found.items() if not isinstance(v, dict | list)})
    for key, value in found.items():
        if isinstance(value, list | dict) and value:
            lines += ["", key.replace("_", " "), *(f"  {line}" for line in _shown(value))]
    return lines


def _value(name: str, value: Any) -> Any:
    """A field for people: a time in UTC, a state in words, a transaction by its first digits.

    --json and --csv have times as numbers, states by their names, transactions whole.
    """
    from node.history import in_words

    if name == "state" and isinstance(value, str):
        return in_words(value)
    return moment(value) if name in TIMES else short(value) if name == "transaction" else value


@audit.command()
@home_option
@click.option("--consent", metavar="ID", help="A consent of this hospital.")
@click.option("--card", type=FILE, help="A withdrawal card.")
@click.option("--round", "height", type=int, help="Prove non-use in this round.")
@click.option("--from", "start", type=int, help="Prove non-use in every round from this one.")
@common.out_option("Where to write the proof.", required=True)
@study_option
@json_flag
def prove(
    home: Path,
    consent: str | None,
    card: Path | None,
    height: int | None,
    start: int | None,
    out: Path,
    study: str | None,
) -> None:
    """Make a proof that a consent was in no included set, for whoever shows its card.

    Example: koinon audit prove --home NET/member-2 --card card.json --from 3 --out proof.json

    The proof holds no other consent's id. It speaks of declared sets: not of what a member did beside them.
    """
    if (height is None) == (start is None):
        raise click.UsageError("name either --round or --from")
    body: dict[str, Any] = {"round": height} if height is not None else {"from": start}
    if (consent is None) == (card is None):
        raise click.UsageError("name either --consent or --card")
    if consent is not None:
        body["consent"] = common.hex_id(consent, "--consent")
    if card is not None:
        body["card"] = read_text(card, "card", 1 << 16)
    if study is not None:
        body["study"] = study
    found = common.order(acting_home(home), "audit.prove", body)
    proof = found["proof"]
    text = proof if isinstance(proof, str) else _canonical(proof)
    write_file(out, text.encode(), 0o600)
    answer({"file": str(out), "bytes": len(text.encode())}, [f"proof written to {out}"])


def _canonical(document: Any) -> str:
    import rfc8785

    return rfc8785.dumps(document).decode()


@audit.command()
@click.argument("file", type=FILE)
@click.option("--network", type=FILE, help="network.json: whose signatures to expect.")
@json_flag
def check(file: Path, network: Path | None) -> None:
    """Check a proof, or a file of audit events, with nothing but the file: no network, no home.

    Example: koinon audit check proof.json --network network.json

    Exit code 3 when anything does not hold. Without --network the issuers are unchecked, and the answer says so.
    """
    from node import logbook
    from node.home import parse_network, read_json
    from node.proof import check as check_proof

    data = read_file(file, "proof", MAX_PROOF_BYTES)
    known = None if network is None else parse_network(read_json(network), str(network))
    if data[: data.find(b"\n")].find(f'"{logbook.SCHEMA}"'.encode()) >= 0:
        found = logbook.check(data, known)
    else:
        found = check_proof(data, known)
    answer(found, _shown(found))


# --------------------------------------------------------------------------------------------------------------------
# Reports for people outside


file_option = common.out_option("Write it to this file instead of standard output.")


def _report(found: Any, text: str, out: Path | None) -> None:
    """A document: to a file that is named, else to standard output (`--json`: as the answer's data)."""
    if out is None:
        answer(found, text.rstrip("\n").split("\n"))
    else:
        write_file(out, text.encode(), 0o600)
        answer({"file": str(out), "bytes": len(text.encode())}, [f"written to {out}"])


@audit.command()
@home_option
@study_option
@file_option
@json_flag
def provenance(home: Path, study: str | None, out: Path | None) -> None:
    """Write where a study's models come from, as W3C PROV-JSON: models, updates, rounds, replays, who and when.

    Example: koinon audit provenance --home NET --out lineage.json

    Models replaced by an erasure are marked as invalidated. No patient and no consent is in it, and it cannot show
    whether a member trained on the data set that it declared.
    """
    from node.reports.provenance import provenance as report

    history = _history(home)
    found = report(history, common.pick_study(history, study), common.network_of(home).contracts)
    _report(json.loads(found), found + "\n", out)


@audit.command("record-of-processing")
@home_option
@study_option
@file_option
@click.option("--format", "form", type=click.Choice(["json", "html", "text"]), default="text", show_default=True)
@json_flag
def record_of_processing(home: Path, study: str | None, out: Path | None, form: str) -> None:
    """Write the record of processing activities (Art. 30 GDPR) from the chain, the specification and the node's log.

    Example: koinon audit record-of-processing --home NET/member-1 --format html --out record.html

    Figures about people are rounded, below ten suppressed. What koinon cannot know is listed for the controller to
    complete: this is a draft for a data protection officer, not a finished record.
    """
    from node.reports import processing
    from node.study import parse_canonical

    history = _history(home)
    chosen = list(history.studies) if study is None else [common.pick_study(history, study)]
    store = _store(home)
    try:
        hashes = {one: history.studies[one].created.terms.spec_hash for one in chosen}
        specs = {one: parse_canonical(store.get(spec)) for one, spec in hashes.items() if store.has(spec)}
        log = store.log_entries(processing.EXPORT)
    finally:
        store.close()
    network, now = common.network_of(home).raw, int(time.time())
    found = processing.record_of_processing(history, specs, network, now=now, studies=chosen, log=log)
    if form == "json":
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    else:
        text = processing.html(found) if form == "html" else processing.text(found)
    _report(found, text, out)


def _store(home: Path) -> Store:
    from node.home import reading_home
    from node.store import Store

    return Store(reading_home(home), bytes(32))


@audit.command()
@home_option
@click.option("--from", "start", metavar="DAY", help="Only events of this UTC day or later (2026-03-14).")
@click.option("--to", "end", metavar="DAY", help="Only events of this UTC day or earlier.")
@file_option
@json_flag
def events(home: Path, start: str | None, end: str | None, out: Path | None) -> None:
    """Write the node's own log as FHIR R4B audit events, each with its proof that it was anchored on the chain.

    Example: koinon audit events --home NET/member-1 --from 2026-03-01 --out events.jsonl

    Only anchored lines are written; newer ones wait for the daily anchor. What the node did not log is not here.
    `koinon audit check events.jsonl --network network.json` checks the file offline.
    """
    from node import logbook

    days = (_day(start, "--from"), _day(end, "--to"))
    acting = acting_home(home)
    history, store = _history(acting), _store(acting)
    try:
        found = logbook.export(common.network_of(acting), history, store, open_home(acting).index, *days)
        waiting = len(store.log_after(found.last_event, 1 << 20))
    finally:
        store.close()
    progress(f"{len(found.lines) - 1} events; {waiting} newer ones wait for their anchor")
    _report([json.loads(line) for line in found.lines], b"\n".join(found.lines).decode() + "\n", out)


def _day(given: str | None, flag: str) -> str:
    if given is None:
        return ""
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError:
        raise InputError(f"{flag} {given[:40]!r}: a day such as 2026-03-14") from None


# --------------------------------------------------------------------------------------------------------------------
# Bundles


@audit.command()
@home_option
@common.out_option("The bundle to write: whole, or not at all.", required=True)
@study_option
@click.option("--without-sets", is_flag=True, help="Leave out the sets of consent openings.")
@click.option("--headers-only", is_flag=True, help="Leave out all contents and content keys; needs no password.")
@click.option("--consent", "consents", metavar="ID", multiple=True, help="A consent id that the page may show.")
@json_flag
def export(
    home: Path, out: Path, study: str | None, without_sets: bool, headers_only: bool, consents: tuple[str, ...]
) -> None:
    """Write what a home may give to an audit as one file, with a page for people and a manifest it signs.

    \b
    Example: koinon audit export --home NET/auditor --out bundle.zip
             koinon audit verify --bundle bundle.zip --network network.json

    The file is confidential: it holds content keys, so whoever has it reads the updates. --headers-only holds none, and
    its check is incomplete. Nothing of the vault is in it. It shows this home's record, not what others kept.
    """
    from node import keystore
    from node.audit.export import export as export_home
    from node.home import read_network, reading_home

    if without_sets and headers_only:
        raise click.UsageError("--headers-only leaves the sets out already")
    opened = open_home(reading_home(home))
    password = _password(opened.path)
    found = export_home(
        opened,
        read_network(opened.network_path),
        () if password is None else keystore.load_all(opened, password),
        out,
        exported_at=int(time.time()),
        choose=lambda history: None if study is None else common.pick_study(history, study),
        holds="headers-only" if headers_only else "without-sets" if without_sets else "everything",
        consents=tuple(common.digest(one, "--consent") for one in consents),
    )
    about = found.about
    data = {
        "file": str(out),
        "bytes": found.size,
        "members": found.members,
        "holds": about.holds,
        "manifest_sha256": found.manifest.hex(),
        "signed": found.signed,
        "exported_by": {"role": about.role, "index": about.index, "name": about.name},
        "study": None if about.study is None else about.study.hex(),
        "head": {"number": about.head[0], "hash": about.head[1].hex(), "time": about.head[2]},
        "fingerprint": about.fingerprint,
    }
    lines = pairs(**{k: v for k, v in data.items() if not isinstance(v, dict)})
    if not headers_only:
        lines.append("CONFIDENTIAL: it holds content keys; keep it as the updates themselves")
    answer(data, lines)


def _verify_bundle(bundle: Path, network: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The report of a bundle with what it says of itself, and the lines that go before it."""
    from node.audit.verify import verify_bundle
    from node.home import parse_network, read_json

    known = None if network is None else parse_network(read_json(network), str(network))
    report, about = verify_bundle(bundle, known)
    found = report.to_json()
    found["bundle"] = None
    if about is None:
        return found, []
    found["bundle"] = {
        "exported_by": {"role": about.role, "index": about.index, "name": about.name},
        "exported_at": about.exported_at,
        "holds": about.holds,
        "study": None if about.study is None else about.study.hex(),
        "head": {"number": about.head[0], "hash": about.head[1].hex(), "time": about.head[2]},
        "fingerprint": about.fingerprint,
        "network": "unchecked" if known is None else "checked",
    }
    lines = pairs(
        exported_by=f"{about.name} ({about.role} {about.index})",
        exported=moment(about.exported_at),
        holds=about.holds,
        last_block=f"{about.head[0]}, {moment(about.head[2])}",
        network=about.fingerprint + ("" if known else " (unchecked: compare it, or give --network)"),
    )
    return found, lines
