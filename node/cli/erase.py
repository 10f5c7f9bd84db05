"""`koinon erase`: a patient's data out of the hospital, out of training, and out of what the model was made from."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

import click

from node.cli import common
from node.cli.common import FILE, SECONDS, acting_home, home_option, read_file, read_text, subject, subject_options
from node.cli.output import Noun, answer, json_flag, moment, pairs, progress, table
from node.errors import ExitCode, InputError, LocalFault, NotFound, Refused, TimedOut
from node.home import open_home, reading_home, write_file

POLL_S: Final = 0.5
SHOWS_UP_S: Final = 120.0  # twice the time that a relay waits for the patient's hospital
AWAY_S: Final = 120.0  # that a node may be away while somebody waits beside it
MAX_CERTIFICATE_BYTES: Final = 64 << 20
FIRST_LINE: Final = (
    "Nobody can prove that a model has forgotten a person; this shows which steps were carried out and who checked "
    "them."
)


@click.group(cls=Noun)
def erase() -> None:
    """Ask for erasure, follow it, get the certificate, check a certificate.

    Example: koinon erase request --home NET/member-1 --patient - --wait < id.txt

    Use stops at once, the hospital's copy is deleted unless another study of the patient needs it, and the model is
    computed again from before the first declared use. Nobody can prove that a model has forgotten a person; koinon
    shows which steps were carried out and who checked them. It deletes its own copies, never your source files or
    archive.
    """


@erase.command("request")
@home_option
@subject_options()
@click.option("--all", "everyone", is_flag=True, help="Every patient of this hospital in the study, as when it leaves.")
@common.study_option
@click.option(
    "--method",
    metavar="NAME",
    help="Unlearning method; see `erase plan`, which names the default.",
)
@click.option("--wait", is_flag=True, help="Return when the certificate is ready; steps on stderr.")
@click.option("--timeout", type=SECONDS, help="With --wait: give up after so many seconds (exit code 7).")
@json_flag
def request(
    home: Path,
    patient: str | None,
    consent: str | None,
    card: Path | None,
    everyone: bool,
    study: str | None,
    method: str | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Ask for erasure; a card works at any member. The statutory clock starts now.

    Example: koinon erase request --home NET/member-2 --card card.json

    It withdraws the consent too. Only the hospital itself may refuse, with a legal ground; no vote and no queue delays
    that use stops and that the copy is deleted. The hospital itself may also choose how the members unlearn; a method
    that they cannot carry out is refused with the reason. A hospital that leaves may take everything along (--all): the
    others replay without it. It stays until the erasure is closed (every certificate fetched, or 30 days), then leaves.
    """
    from node import methods

    if study is not None and not everyone:
        raise click.UsageError(
            "--study goes with --all; a patient's request is for every study they are in: for one study alone name the "
            "consent (--consent; `koinon consent show` lists them)"
        )
    body: dict[str, Any] = subject(patient, consent, card, needed=not everyone)
    if everyone:
        if body:
            raise click.UsageError("--all is everybody: name no patient, consent or card beside it")
        body = {"everyone": True, "study": study}
    if method is not None:
        body["method"] = methods.find(method).name
    home = acting_home(home)
    found = common.order(home, "erase.request", body)
    lines = [f"consent {one}: use has stopped" for one in found["consents"]]
    for one in found["erasures"]:
        lines.append(f"erasure {one}")
    lines.append(f"due {moment(found['due_at'])} UTC")
    if method is not None and not methods.find(method).exact:
        lines.append(f"APPROXIMATE: {method} does not give the model that training without the records would give")
    if found["hospital_removed"]:
        lines.append(f"member {found['controller']} is no member any more: the others do their part without it")
    elif not found["erasures"]:
        lines.append(
            f"handed to member {found['controller']}, whose patient this is"
            if found["handed"]
            else f"member {found['controller']}, whose patient this is, does not answer: it is told again, and after a "
            "minute of silence this node begins the erasure itself"
        )
    if not found["posted"] and not wait:
        lines.append("waits for the chain; the use has stopped already")
    if wait:
        ready = wait_for_certificates(home, found, timeout)
        found |= {"erasure": ready[0]["erasure"], "status": ready[0], "ready": [one["erasure"] for one in ready]}
        for one in ready:
            lines.append(f"the certificate is ready: koinon erase receipt --home {home} --erasure {one['erasure']}")
    answer(found, lines)


def wait_for_certificates(home: Path, asked: dict[str, Any], timeout_s: float | None) -> list[dict[str, Any]]:
    """Wait until the certificate of every erasure of a request can be delivered; the last status of each.

    Raises as `wait_for_certificate`.
    """
    if len(asked["erasures"]) < 2:
        return [wait_for_certificate(home, asked, timeout_s)]
    begun, found = time.monotonic(), []
    for erasure in asked["erasures"]:  # of a patient in several studies
        left = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - begun))
        found.append(wait_for_certificate(home, {"consents": [], "erasures": [erasure]}, left))
    return found


def wait_for_certificate(home: Path, asked: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
    """Wait until a certificate can be delivered, telling every state on standard error; the last status.

    Args:
        home: the node that took the request.
        asked: the answer to the request: its consents, and its erasures as far as they are known.
        timeout_s: None: as long as it takes.

    Raises:
        NotFound: the erasure does not show up at this node, which only relayed the request.
        Refused: the hospital refused the erasure, or was removed and gives no certificate.
        TimedOut: not within `timeout_s` seconds.
        LocalFault: the node does not come back.
    """
    begun, last, heard = time.monotonic(), "", time.monotonic()
    bodies = [{"consent": one} for one in asked["consents"][:1]] + [{"erasure": one} for one in asked["erasures"][:1]]
    while True:
        try:
            status, heard = _first_found(home, bodies), time.monotonic()
        except (LocalFault, TimedOut):  # its node was killed or stands still: the erasure goes on meanwhile
            now = time.monotonic()
            if not last or now - heard > AWAY_S or (timeout_s is not None and now - begun > timeout_s):
                raise
            time.sleep(POLL_S)
            continue
        if status is None:
            if time.monotonic() - begun > SHOWS_UP_S:
                raise NotFound("the erasure is not known at this node; ask the patient's hospital")
            time.sleep(POLL_S)
            continue
        if status["state"] != last:
            last = status["state"]
            progress(f"erasure {status['erasure'][:12]}: {_words(last)}")
        if status.get("refused_on"):
            raise Refused(f"the hospital refused the erasure: {status['refused_on']}")
        if status.get("certificate_ready"):
            return status
        if status.get("hospital_removed") and last == "recipients_attested" and "copy_deleted" not in status["times"]:
            raise Refused("the others have done their part; of a hospital that was removed there is no certificate")
        if timeout_s is not None and time.monotonic() - begun > timeout_s:
            raise TimedOut(f"no certificate after {timeout_s:g} s; the erasure is {_words(last)}")
        time.sleep(POLL_S)


def _words(state: str) -> str:
    from node.history import in_words  # a request that is only handed over waits for no numpy

    return in_words(state)


def _first_found(home: Path, bodies: list[dict[str, str]]) -> dict[str, Any] | None:
    for body in bodies:
        try:
            return common.order(home, "erase.status", body)
        except NotFound:
            continue
    return None


@erase.command("plan")
@home_option
@subject_options(erasure=True)
@click.option("--dry-run", is_flag=True, help="Needed: a plan is voted by the members, here it is only shown.")
@json_flag
def plan(
    home: Path, patient: str | None, consent: str | None, card: Path | None, erasure: str | None, dry_run: bool
) -> None:
    """Show what an erasure would take: every method's rounds, time and traffic, and which one the node would take.

    Example: koinon erase plan --dry-run --home NET/member-1 --patient - < id.txt

    Nothing is written but that the link to the patient was used, and nothing is said to anybody. Seconds are counted
    with this study's own rounds so far; a method whose rounds do other work was never measured here. It leaves out what
    nobody knows: rounds that run or fail meanwhile, members that are away, other erasures that are replayed first.
    """
    if not dry_run:
        raise click.UsageError("name --dry-run: members vote on a plan by themselves, and no order makes one")
    given = subject(patient, consent, card, erasure)
    found = common.order(acting_home(home), "erase.plan", given, common.LONG_TIMEOUT_S)
    lines: list[str] = []
    for one in found["studies"]:
        lines += [*([""] if lines else []), *_plan_lines(one)]
    answer(found, lines)


def _plan_lines(one: dict[str, Any]) -> list[str]:
    asked = "not asked for yet" if one["state"] is None else f"{_words(one['state'])}, {one['erasure']}"
    lines = [f"study {one['name']} ({one['study'][:12]}), member {one['hospital']}'s patient; erasure {asked}"]
    used, unread = _heights(one["used_in"]), _heights(one["unread"])
    lines.append(f"used in rounds {used}" if used else "used in no round of the line that serves, by what opens here")
    if unread:
        lines.append(f"sets that cannot be opened here, so it is not known: rounds {unread}")
    lines.append(f"due {moment(one['due_at'])} UTC; requests are gathered until {moment(one['window_ends_at'])} UTC")
    if one["other_erasures"]:
        lines.append(f"other erasures of this study under way: {one['other_erasures']}; they are replayed one by one")
    if not one["methods"]:
        nothing = "nothing would be replayed: members would confirm the present model"
        lines.append("whether anything would be replayed is not known here" if unread else nothing)
        return lines
    measured = (
        "unknown" if one["round_seconds"] is None else f"{one['round_seconds']:g} s (median of the rounds so far)"
    )
    lines.append(f"replays rounds {_heights(one['replayed'])} by {one['members']} members; a round took {measured}")
    header = ("method", "kind", "levels", "rounds", "seconds", "bytes a member", "in time", "chosen")
    lines += table(
        header,
        [
            (
                row["method"],
                "exact" if row["exact"] else "approximate",
                " ".join(row["levels"]),
                row["rounds"],
                "unknown" if row["seconds"] is None else f"{row['seconds']:g}",
                row["bytes_a_member"],
                row["fits"],
                row["chosen"],
            )
            for row in one["methods"]
        ],
    )
    lines += [f"not {row['method']}: {row['why_not']}" for row in one["methods"] if not row["possible"]]
    return lines


def _heights(listed: list[int]) -> str:
    """Round numbers as a person reads them: 3 to 7, 9."""
    runs: list[list[int]] = []
    for height in sorted(listed):
        if runs and runs[-1][1] == height - 1:
            runs[-1][1] = height
        else:
            runs.append([height, height])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)


@erase.command("status")
@home_option
@subject_options(erasure=True)
@json_flag
def status(home: Path, patient: str | None, consent: str | None, card: Path | None, erasure: str | None) -> None:
    """Show where an erasure is, what may be claimed so far, and when it is due.

    Example: koinon erase status --home NET/member-1 --erasure 4be1...

    Every claim says what it does not show. Without a subject, all erasures of the network are listed.
    """
    body = subject(patient, consent, card, erasure, needed=False)
    found = common.order(acting_home(home), "erase.status", body)
    listed = found.get("erasures", [found])
    lines = [FIRST_LINE]
    for one in listed:
        lines += ["", *_status_lines(one)]
    answer(found, lines)


def _status_lines(one: dict[str, Any]) -> list[str]:
    lines = [f"erasure {one['erasure']}", f"state {_words(one['state'])}, due {moment(one['due_at'])} UTC"]
    if one.get("extended_from"):
        lines.append(f"extended once, from {moment(one['extended_from'])} UTC (Art. 12(3) GDPR)")
    if one.get("overdue"):
        lines.append("OVERDUE")
    if (plan := one.get("plan")) is not None:
        kind = "exact" if plan["exact"] else "approximate"
        lines.append(f"method {plan['method']}" + (f" ({kind}), {plan['rounds']} rounds" if plan["replays"] else ""))
        if plan["given_up"]:
            lines.append("the replay was given up: its rounds made no model; what it has is what the members judge")
    elif one.get("method_chosen"):
        lines.append(f"method {one['method_chosen']}, chosen")
    if one.get("method_refused"):
        lines.append(f"METHOD REFUSED: {one['method_refused']}")
    lines += table(
        ("step", "reached (chain time, UTC)"), [(_words(k), moment(v)) for k, v in one.get("times", {}).items()]
    )
    if one.get("hospital_removed"):
        lines.append("the hospital is no member any more: the others do their part without it; its own copy is its own")
    if one.get("copy_stays"):
        lines.append("the hospital's copy stays: another consent of the patient, to another study, covers it")
    lines += _claim_lines(one["claims"])
    if one.get("evidence_missing"):
        lines.append(f"EVIDENCE MISSING that the study asks for: {', '.join(one['evidence_missing'])} (`erase attest`)")
    if one.get("waits_for"):
        lines.append(f"waits for members {one['waits_for']}")
    if one.get("certificate_ready"):
        lines.append("the certificate is ready: `koinon erase receipt`")
    return lines


def _claim_lines(claims: list[dict[str, Any]]) -> list[str]:
    lines = []
    for claim in claims:
        lines.append(f"{claim['level']}: {claim['sentence']}")
        if claim.get("does_not_show"):
            lines.append(f"    does not show: {claim['does_not_show']}")
    return lines


GROUND_NAMES: Final = {
    "expression": 1,
    "legal-obligation": 2,
    "public-health": 3,
    "research": 4,
    "legal-claims": 5,
}
"""The legal grounds of Art. 17(3)(a) to (e) GDPR as the command line names them -> `erasure.GROUNDS`."""


@erase.command("refuse")
@home_option
@click.option("--erasure", required=True, metavar="ID", help="The erasure's id (64 hex digits).")
@click.option("--ground", required=True, type=click.Choice(list(GROUND_NAMES)), help="Art. 17(3)(a) to (e) GDPR.")
@click.option("--authority", required=True, help="Where the patient may complain: the supervisory authority, one line.")
@common.out_option("Write the notice for the patient here too.")
@json_flag
def refuse(home: Path, erasure: str, ground: str, authority: str, out: Path | None) -> None:
    """Refuse an erasure on a legal ground; only the patient's own hospital may, and it takes two persons.

    Example: koinon erase refuse --home NET/member-1 --erasure 4be1... --ground legal-claims --authority 'DPA, Brussels'

    It is possible until the exclusion is stated, which is soon: `erasure.review_s` in config.toml gives time.
    The decision and its ground are kept in the archive. The consent stays withdrawn. The answer holds the notice that
    the patient must be given within a month (Art. 12(4) GDPR). It judges no ground: that is for a lawyer.
    """
    body = {"erasure": common.hex_id(erasure, "--erasure"), "ground": GROUND_NAMES[ground], "authority": authority}
    found = common.order(acting_home(home), "erase.refuse", body)
    if out is not None:
        write_file(out, found["notice"].encode(), 0o600)
    answer(found, [found["notice"]])


@erase.command("extend")
@home_option
@click.option("--erasure", required=True, metavar="ID", help="The erasure's id (64 hex digits).")
@click.option("--days", required=True, type=click.IntRange(1, 61), help="How many days beyond the due date.")
@click.option("--reason", required=True, help="Why, one line: for the patient and your archive, never on the chain.")
@common.out_option("Write the notice for the patient here too.")
@json_flag
def extend(home: Path, erasure: str, days: int, reason: str, out: Path | None) -> None:
    """Extend an erasure's due date by up to two months; once, before it passes, and by the patient's own hospital.

    Example: koinon erase extend --home NET/member-1 --erasure 4be1... --days 30 --reason 'forty requests in one week'

    Art. 12(3) GDPR allows it where the requests are complex or many. Once the members have confirmed the erasure its
    time limit has ended, and nothing is left to extend. Every member sees the new date, nobody the reason. The answer
    holds the notice that the patient must be given within the first month. Use has stopped all the same, and a model
    that the erasure taints leaves service at the first date.
    """
    body = {"erasure": common.hex_id(erasure, "--erasure"), "days": days, "reason": reason}
    found = common.order(acting_home(home), "erase.extend", body)
    if out is not None:
        write_file(out, found["notice"].encode(), 0o600)
    answer(found, [found["notice"]])


@erase.command("receipt")
@home_option
@subject_options(erasure=True)
@common.out_option("Write the certificate here instead of to standard output.")
@json_flag
def receipt(
    home: Path, patient: str | None, consent: str | None, card: Path | None, erasure: str | None, out: Path | None
) -> None:
    """Deliver the certificate with the patient's annex; once it is written, the link to the person is destroyed.

    Example: koinon erase receipt --home NET/member-1 --patient - < id.txt > certificate.json

    Give it to the patient and keep no copy of the annex. Where it could not be written, nothing is destroyed, and the
    same command gives it again. From then on only the erasure's id finds it here, without the
    annex. It is no proof that the model has forgotten anything.
    """
    import rfc8785

    body = subject(patient, consent, card, erasure)
    home = acting_home(home)
    found = common.order(home, "erase.receipt", body, common.LONG_TIMEOUT_S)
    text = rfc8785.dumps(found["certificate"]).decode()
    if out is not None:
        write_file(out, text.encode(), 0o600)
        answer({"file": str(out)}, [f"certificate written to {out}"])
    else:
        # Without --json the certificate alone goes to stdout, ready for a file: its bytes are what is checked.
        answer({"certificate": text}, [text])
        sys.stdout.flush()  # a full disk shows here, and not after the link is gone
    if found["consent"] is not None:
        whose = {name: found[name] for name in ("erasure", "consent")}
        common.order(home, "erase.delivered", whose, common.LONG_TIMEOUT_S)


@erase.command("audit")
@click.option("--home", type=common.HOME, help="The hospital's home: it has the models, and controls.")
@click.option("--erasure", metavar="ID", help="With --home: the erasure's id, or its beginning.")
@click.option("--after", type=FILE, help="The model in question (koinon model export).")
@click.option("--records", type=FILE, required=True, help="Data file of who was erased (.npz: test_ arrays, or .csv).")
@click.option("--controls", type=FILE, help="Data file of patients like them who were never used.")
@click.option("--before", type=FILE, help="A model of before that is still held: adds the attacks on the pair.")
@click.option("--never", type=FILE, multiple=True, help="A model that never had the records; may be repeated.")
@click.option("--population", type=FILE, help="Data file of further patients like them.")
@click.option("--fraction-bits", type=click.IntRange(0, 30), help="Of the study's grid; 24 unless the study says more.")
@click.option("--shard", type=click.IntRange(1), help="Of models in shards: 1 + the hospital's index modulo them.")
@common.out_option("Write the badge (JSON) here too.")
@json_flag
def audit(
    home: Path | None,
    erasure: str | None,
    after: Path | None,
    records: Path,
    controls: Path | None,
    before: Path | None,
    never: tuple[Path, ...],
    population: Path | None,
    fraction_bits: int | None,
    shard: int | None,
    out: Path | None,
) -> None:
    """Attack a model: does it still tell who was erased? Over a hospital's home, or over files alone.

    Example: koinon erase audit --home NET/member-1 --erasure 4be1 --records erased.csv

    Example: koinon erase audit --after new.bin --records erased.csv --controls never.csv --never base.bin

    One patient gets a rank among the controls and a p-value, several are compared with a model that never had them.
    Nothing found is no proof that nothing is left. The records are a file of your own source, since koinon deleted its
    copy; nothing of it is kept. From a home come the model that the confirmed erasure made, the one it began at, and as
    controls the hospital's test patients, who train nothing; its password is needed and its node may be running. A
    patient's own badge is for the patient and not for a chain.
    """
    import json

    from node.exposure import audit_files, audit_home

    if home is not None:
        if erasure is None or after is not None or never or fraction_bits is not None or shard is not None:
            raise click.UsageError("--home goes with --erasure and has the models: leave out what only files need")
        found = audit_home(acting_home(home), erasure, records, controls=controls, before=before, population=population)
    else:
        if after is None or controls is None or erasure is not None:
            raise click.UsageError("name --home and --erasure, or the files --after and --controls")
        bits = 24 if fraction_bits is None else fraction_bits
        found = audit_files(
            after,
            records,
            controls,
            before=before,
            never=never,
            population=population,
            fraction_bits=bits,
            shard=shard,
        )
    badge = found.to_json()
    if out is not None:
        write_file(out, (json.dumps(badge, indent=2, allow_nan=False) + "\n").encode(), 0o600)
    answer(badge, [FIRST_LINE, *found.table().split("\n")])


@erase.command("replay-local")
@home_option
@click.option("--erasure", required=True, metavar="ID", help="The erasure's id, or its beginning.")
@click.option("--ledger", type=common.HOME, help="The home whose copy of the chain is believed: better your own.")
@common.out_option("Write the report (JSON) here.", required=True)
@json_flag
def replay_local(home: Path, erasure: str, ledger: Path | None, out: Path) -> None:
    """Train the rounds of an erasure's replay again, at the hospital, and compare every integer.

    Example: koinon erase replay-local --home NET/member-1 --erasure 4be1 --ledger NET/auditor --out report.json

    For an executor whom the hospital lets at its records: its home is opened for reading, with its password, and its
    node may be running. Exit code 3 when a round gives other integers or the home is not what the hospital committed
    to. What it shows is level L3, and only where the study commits its sets a round ahead (policy.sets_ahead); an
    auditor makes it a claim by signing the report: `koinon erase attest`. It is no proof that a model has forgotten.
    """
    import json

    from node.erasure import L3_DOES_NOT_SHOW, L3_SENTENCE
    from node.executor import replay_home

    home = acting_home(home)
    data = replay_home(home, home if ledger is None else reading_home(ledger), erasure, progress)
    report = json.loads(data)
    write_file(out, data, 0o600)
    rows = [
        (one["height"], one["records"], one["announced"], "none" if not one["differing"] else one["differing"])
        for one in report["rounds"]
    ]
    lines = [FIRST_LINE, *table(("round", "records", "announced", "integers that differ"), rows)]
    lines += [f"round {one['height']} was not repeated: {one['why']}" for one in report["left_out"]]
    if report["why_not"]:
        lines.append(f"no claim: {report['why_not']}")
    else:
        lines.append(f"L3: {L3_SENTENCE.format(hospital=report['hospital']['name'])}")
        lines.append(f"    does not show: {L3_DOES_NOT_SHOW}")
    answer({"file": str(out), "report": report}, [*lines, f"report written to {out}"])
    if any(one["differing"] for one in report["rounds"]):
        progress(f"koinon: {report['why_not']}")
        sys.exit(ExitCode.VERIFICATION_FAILED)


@erase.command("attest")
@home_option
@click.option("--erasure", required=True, metavar="ID", help="The erasure's id, or its beginning.")
@click.option("--level", required=True, type=click.Choice(["L3", "L4"]), help="What the report is evidence of.")
@click.option("--report", type=FILE, required=True, help="Of `erase replay-local` (L3) or `erase audit --out` (L4).")
@common.out_option("Write the attestation here, for the hospital.", required=True)
@json_flag
def attest(home: Path, erasure: str, level: str, report: Path, out: Path) -> None:
    """Sign a report about a confirmed erasure, as the auditor whose home this is; the hospital hands it to the chain.

    Example: koinon erase attest --home NET/auditor --erasure 4be1 --level L3 --report report.json --out word.json

    Nothing needs to run. The report is compared with what this home has of the chain: a local replay that did not
    repeat every round, or not bit for bit, is refused. Whether the training was really repeated is your word: sign what
    you executed, or saw executed. A seat attests one report of each level, for ever.
    """
    from crypto.digest import sha256
    from node import attestation, config, keystore
    from node.home import read_password
    from node.reports.erasure import find_erasure

    home = acting_home(home)
    opened, network, history = open_home(home), common.network_of(home), common.history_of(home)
    found = history.erasures[find_erasure(history, erasure)]
    text = read_file(report, "report", attestation.MAX_REPORT_BYTES)
    password = read_password(opened, config.load(opened.config_path)["node", "password_file"])
    key = keystore.load(opened, password).ledger
    data = attestation.attest(opened, network, history, found, level, text, key, int(time.time()))
    write_file(out, data, 0o600)
    shown = {"erasure": found.opened.batch.hex(), "level": level, "seat": opened.index, "evidence": sha256(text).hex()}
    answer({**shown, "file": str(out)}, [*pairs(**shown), f"attestation written to {out}; hand it to the hospital"])


@erase.command("record")
@home_option
@click.option("--attestation", type=FILE, required=True, help="What the auditor wrote with `erase attest`.")
@json_flag
def record(home: Path, attestation: Path) -> None:
    """Put an auditor's attestation about an erasure of this hospital's patients on the chain.

    Example: koinon erase record --home NET/member-1 --attestation attestation.json

    It is checked first, and kept here: a certificate that is made from now on carries it. Said again, nothing changes.
    """
    from node.attestation import MAX_ATTESTATION_BYTES

    body = {"attestation": read_text(attestation, "attestation", MAX_ATTESTATION_BYTES)}
    found = common.order(acting_home(home), "erase.record", body)
    answer(found, pairs(**found))


@erase.command("verify")
@click.argument("certificate", type=FILE)
@click.option("--network", type=FILE, help="network.json: whose signatures to expect.")
@click.option("--ledger", type=common.HOME, help="A home: its copy of the chain must have what the file says.")
@json_flag
def verify(certificate: Path, network: Path | None, ledger: Path | None) -> None:
    """Check a certificate with nothing but the file: no network, no home. Or compare it with a copy of the chain.

    Example: koinon erase verify certificate.json --network network.json

    Exit code 3 when anything does not hold. Without --network it checks that the file is consistent and prints the
    fingerprint of the network it speaks of; who the issuers are is then unchecked. A file cannot show that its erasure
    is on the chain, or who else is in the study: whoever has a home compares it (--ledger NET/auditor); anybody else
    asks another hospital for `koinon audit erasure`, by the erasure's id.
    """
    from node.certificate import check, compare
    from node.home import parse_network, read_json

    data = read_file(certificate, "certificate", MAX_CERTIFICATE_BYTES)
    if not data.strip():
        raise InputError(f"certificate {certificate}: empty")
    known = None if network is None else parse_network(read_json(network), str(network))
    found = check(data, known if ledger is None or known is not None else common.network_of(ledger))
    if ledger is not None:
        compare(data, common.history_of(ledger))
    found["ledger"] = "unchecked" if ledger is None else "checked"
    shown = {key: value for key, value in found.items() if key != "notice" and not isinstance(value, list | dict)}
    lines = [FIRST_LINE, *pairs(**shown), *_claim_lines(found.get("claims", []))]
    for name, listed in found.get("exceptions", {}).items():
        lines.append(f"exceptions, {name}: {'; '.join(map(str, listed)) or 'none'}")
    lines += table(
        ("member", "signed with", "in epochs", "what"),
        [
            (one["name"], one["ledger_address"], f"{one['from_epoch']} to {one['until_epoch'] or 'now'}", one["signed"])
            for one in found["keys"]
        ],
    )
    lines += [
        f"L{one['level']}: signed by {one['name']}, auditor's seat {one['seat']} ({one['seat_is']}), "
        f"with {one['ledger_address']}"
        for one in found["auditors"]
    ]
    if found["annex"] is not None:
        lines += _annex_lines(found["annex"])
    if ledger is None:
        lines.append(
            "ledger unchecked: a file shows neither that its erasure is on the chain nor who else had to be asked"
        )
    answer(found, lines)


def _annex_lines(annex: dict[str, Any]) -> list[str]:
    """What only the patient's copy has."""
    rounds = [(name, one) for name in ("first_use", "since") for one in annex[name] or []]
    return [
        f"annex: consent {annex['consent_id']}",
        *(["annex: no first use is shown"] if not annex["first_use"] else []),
        *table(
            ("annex", "branch", "round", "finding", "reason"),
            [(name, one["branch"], one["height"], one["finding"], one["reason"] or "-") for name, one in rounds],
        ),
        *(
            f"round {height}: the others left the hospital out, because a consent in its set had ended"
            for height in annex["refused_since"]
        ),
    ]
