"""`koinon audit`: what happened, checked again by whoever doubts it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node.cli import common
from node.cli.common import FILE, acting_home, home_option, read_file, read_text, study_option
from node.cli.output import Noun, answer, json_flag, moment, pairs, progress, table
from node.errors import ExitCode, InputError, NodeError
from node.home import is_network_home, open_home, write_file

MAX_PROOF_BYTES = 64 << 20


@click.group(cls=Noun)
def audit() -> None:
    """Verify a home's history, read it, and make and check proofs for patients.

    Example: koinon audit verify --home NET

    An audit recomputes what members declared. It cannot see whether a member trained honestly.
    """


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
        report = verify_network(home).to_json()
    else:
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
    from node import trail as told
    from node.audit.verify import read_records
    from node.home import reading_home

    history = common.history_of(home)
    number = None if study is None else common.pick_study(history, study)
    rows = told.trail(
        read_records(reading_home(home)),
        study=number,
        member=None if member is None else _member(member, common.names_of(history)),
        consent=None if consent is None else common.digest(consent, "--consent"),
        kind=kind,
        since=None if since is None else _moment(since, "--since"),
        until=None if until is None else _moment(until, "--until"),
    )
    header = ("time (UTC)", "block", "transaction", "who", "what", "kind")
    answer(
        rows,
        table(
            header,
            [(moment(r["time"]), r["block"], r["transaction"], r["who"], r["what"], r["kind"]) for r in rows],
        ),
    )


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
def round_(home: Path, study: str | None, which: str) -> None:
    """Show one round: who was asked, who committed, who was included, who was left out and by which rule.

    Example: koinon audit round --home NET --round 3

    `no_commit`, `abstained` and `unavailable` are facts, not guilt.
    """
    from node import trail as told

    history = common.history_of(home)
    number = common.pick_study(history, study)
    found = told.round_report(history, number, int(which) if which.isdigit() and len(which) < 9 else which)
    answer(found, _shown(found))


@audit.command()
@home_option
@study_option
@json_flag
def participation(home: Path, study: str | None) -> None:
    """Show for every member how many rounds it was asked, committed, included, and what it missed.

    Example: koinon audit participation --home NET

    It says who was there, not who was good.
    """
    from node import trail as told

    history = common.history_of(home)
    found = told.participation(history, common.pick_study(history, study))
    names = [name for name in told.COUNTED if name != "asked"]
    lines = table(
        ("member", "name", "asked", *(name.replace("_", " ") for name in names)),
        [(one["member"], one["name"], one["asked"], *(one[name] for name in names)) for one in found["totals"]],
    )
    for one in found["totals"]:
        for miss in one["missed"]:
            lines.append(f"{one['name']} missed round {miss['height']} of branch {miss['branch']}: {miss['missed']}")
    answer(found, lines)


def _shown(found: Any) -> list[str]:
    """Any report for people: scalars as pairs, lists of objects as tables."""
    if isinstance(found, list):
        if not found:
            return ["nothing"]
        if not isinstance(found[0], dict):
            return [", ".join(map(str, found))]
        header = list(found[0])
        return table([name.replace("_", " ") for name in header], [[one.get(k) for k in header] for one in found])
    lines = pairs(**{k: v for k, v in found.items() if not isinstance(v, dict | list)})
    for key, value in found.items():
        if isinstance(value, list | dict) and value:
            lines += ["", key.replace("_", " "), *(f"  {line}" for line in _shown(value))]
    return lines


@audit.command()
@home_option
@click.option("--consent", metavar="ID", help="A consent of this hospital.")
@click.option("--card", type=FILE, help="A withdrawal card.")
@click.option("--round", "height", type=int, help="Prove non-use in this round.")
@click.option("--from", "start", type=int, help="Prove non-use in every round from this one.")
@click.option("--out", type=FILE, required=True, help="Where to write the proof.")
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
    """Check a proof with nothing but the file: no network, no home.

    Example: koinon audit check proof.json --network network.json

    Exit code 3 when anything does not hold. Without --network the issuers are unchecked, and the answer says so.
    """
    from node.home import parse_network, read_json
    from node.proof import check as check_proof

    data = read_file(file, "proof", MAX_PROOF_BYTES)
    known = None if network is None else parse_network(read_json(network), str(network))
    found = check_proof(data, known)
    answer(found, _shown(found))


# --------------------------------------------------------------------------------------------------------------------
# Bundles


@audit.command()
@home_option
@click.option("--out", type=FILE, required=True, help="The bundle to write; replaced whole or not at all.")
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
    import time

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
        None if password is None else keystore.load(opened, password),
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
