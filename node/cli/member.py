"""`koinon member`: who takes part in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli import common
from node.cli.common import FILE, acting_home, home_option, read_file, study_option
from node.cli.output import Noun, answer, json_flag, table
from node.errors import InputError

SCHEMA = "koinon.application/1"
AUDITOR_SCHEMA = "koinon.auditor-application/1"
RECOVERY_SCHEMA = "koinon.recovery/1"


@click.group(cls=Noun)
def member() -> None:
    """Apply for membership, vote on members and auditors, change keys, list who takes part.

    Example: koinon member list --home NET

    Members decide by quorum; no administrator exists. A removed member keeps what it had received.

    \b
    time for new keys        rotate           the member itself, at most once in seven days
    a key is stolen          revoke           a quorum; the key counts for nothing at once, the seat waits
    a key is lost, revoked   apply --recover  then `recover` by a quorum: new keys under the old index
    a hospital leaves        remove           a quorum; its index is never given again
    somebody is to audit     seat-auditor     a quorum; for a study and a term
    new contracts are due    succeed, move    a quorum names the next deployment; each home then goes on there
    """


@member.command("apply")
@home_option
@common.out_option("Where to write the application.", required=True)
@click.option("--recover", type=int, help="Index of the member whose lost or revoked keys are to be replaced.")
@json_flag
def apply(home: Path, out: Path, recover: int | None) -> None:
    """Write a newcomer's application, signed: hand the file to the members.

    Example: koinon member apply --home H --out application.json

    It contacts nobody, and contains public keys only. Ask also for coin on the chain (`koinon chain fund`). In an
    auditor's home it asks for an auditor's seat.

    With --recover INDEX it asks for new keys on an old seat instead: in the member's own home, whose node must not run,
    it makes further keys beside the old ones; in a home made anew by `koinon node init` it names that home's keys.
    """
    if recover is not None:
        _apply_for_recovery(home, out, recover)
        return
    from crypto.keys import address_text, peer_id_text
    from crypto.statements import Seat, sign
    from node import config, keystore
    from node.home import open_home, read_network, read_password, write_json

    opened = open_home(home)
    settings = config.load(opened.config_path)
    name = str(settings["node", "name"])
    common.check_name(name, f"{opened.config_path}: node.name")
    ring = keystore.load(opened, read_password(opened, settings["node", "password_file"]))
    domains = read_network(opened.network_path).contracts.domains
    statement = Seat(opened.role, ring.peer.peer_id, ring.sealing.public, name)
    application = {
        "schema": SCHEMA if opened.role == "member" else AUDITOR_SCHEMA,
        "name": name,
        "ledger": ring.ledger.address.hex(),
        "peer_id": ring.peer.peer_id.hex(),
        "sealing_key": ring.sealing.public.hex(),
        "signature": sign(statement, domains.of(statement), ring.ledger).hex(),
    }
    write_json(out, application)
    shown = {"application": str(out), "name": name, "ledger_address": address_text(ring.ledger.address)}
    answer(
        {**shown, "peer_id": peer_id_text(ring.peer.peer_id)},
        [
            f"{out}: {name}, ledger account {shown['ledger_address']}",
            f"each member: koinon member {'approve' if opened.role == 'member' else 'seat-auditor'} APPLICATION",
        ],
    )


def _apply_for_recovery(home: Path, out: Path, index: int) -> None:
    from crypto.keys import KeyRing, address_text, peer_id_text
    from crypto.statements import sign
    from node import config, keystore
    from node.governance import recovery_statement
    from node.home import HomeLock, open_home, read_network, read_password, write_json

    opened = open_home(home)
    password = read_password(opened, config.load(opened.config_path)["node", "password_file"])
    domains = read_network(opened.network_path).contracts.domains
    lock = HomeLock(home)
    try:
        rings = keystore.load_all(opened, password)
        if opened.index == index:
            registered = common.history_of(home).registry.keys_of(index)
            if keystore.public_keys(rings[-1]) in registered:  # else: keys of an earlier application, still unused
                keystore.add(opened, password, KeyRing.generate())
                rings = keystore.load_all(opened, password)
    finally:
        lock.release()
    ring = rings[-1]
    statement = recovery_statement(index, ring)
    application = {
        "schema": RECOVERY_SCHEMA,
        "member": index,
        "ledger": ring.ledger.address.hex(),
        "peer_id": ring.peer.peer_id.hex(),
        "sealing_key": ring.sealing.public.hex(),
        "signature": sign(statement, domains.of(statement), ring.ledger).hex(),
    }
    write_json(out, application)
    shown = {"application": str(out), "index": index, "ledger_address": address_text(ring.ledger.address)}
    answer(
        {**shown, "peer_id": peer_id_text(ring.peer.peer_id)},
        [
            f"{out}: new keys for member {index}, ledger account {shown['ledger_address']}",
            "each other member: koinon member recover APPLICATION",
        ],
    )


@member.command("approve")
@click.argument("application", type=FILE)
@home_option
@json_flag
def approve(application: Path, home: Path) -> None:
    """Vote to admit an applicant. The vote that completes the quorum seats it.

    Example: koinon member approve application.json --home NET/member-1

    Who stands behind the keys is for you to find out: koinon checks signatures, not hospitals.
    """
    raw = _read_application(application, SCHEMA)
    found = common.order(acting_home(home), "member.approve", {"application": raw})
    answer(found, _vote_lines(found, f"{raw['name']} is admitted"))


def _read_application(path: Path, schema: str) -> dict[str, Any]:
    from node.home import read_json

    read_file(path, "application", 1 << 16)
    raw = read_json(path)
    if raw.pop("schema", None) != schema:
        raise InputError(f"{path}: not an application ({schema})")
    return raw


def _vote_lines(found: dict[str, Any], decided: str) -> list[str]:
    votes = f"{len(found['votes'])} of {found['needed']} votes needed, by members {found['votes']}"
    return [votes, decided if found["decided"] else "waiting for more votes"]


@member.command("remove")
@click.argument("index", type=int)
@home_option
@json_flag
def remove(index: int, home: Path) -> None:
    """Vote to remove the member with this index. The vote that completes the quorum removes it.

    Example: koinon member remove 3 --home NET/member-1

    It takes effect when the next round opens. Its past updates stay part of the models they are in.
    """
    found = common.order(acting_home(home), "member.remove", {"index": index})
    answer(found, _vote_lines(found, f"member {index} is removed"))


@member.command("rotate")
@click.option("--ledger/--keep-ledger", default=True, show_default=True, help="The key that signs statements and pays.")
@click.option("--sealing/--keep-sealing", default=True, show_default=True, help="The key that others wrap keys to.")
@click.option("--peer/--keep-peer", default=True, show_default=True, help="The key of the node's libp2p id.")
@home_option
@json_flag
def rotate(ledger: bool, sealing: bool, peer: bool, home: Path) -> None:
    """Change this member's own keys. It keeps its index, its name and its patients.

    Example: koinon member rotate --home NET/member-1

    The new keys are on disk before anybody hears of them, beside the old ones, which stay: what the home keeps is
    sealed under the first keys, and rounds that are open go on with the keys they opened with. If it breaks off, order
    it again: it goes on with the same keys, also where only its answer was lost. A running node starts again with them
    by itself. At most once in seven days; a stolen key is not rotated but revoked, by the others.
    """
    found = common.order(acting_home(home), "member.rotate", {"ledger": ledger, "sealing": sealing, "peer": peer})
    before = ["an earlier order made these keys; no others were made"] if found["resumed"] else []
    answer(
        found,
        [
            *before,
            f"member {found['index']} has new keys from epoch {found['epoch']}",
            f"ledger account {found['ledger_address']}, peer id {found['peer_id']}",
        ],
    )


@member.command("revoke")
@click.argument("index", type=int)
@home_option
@json_flag
def revoke(index: int, home: Path) -> None:
    """Vote to revoke the key of a member, because it is stolen. The vote that completes the quorum does it.

    Example: koinon member revoke 3 --home NET/member-1

    From that moment the key counts for nothing, in open rounds too. The seat keeps its index and is inactive until it
    has new keys (`koinon member recover`) or is removed. Patients of this hospital withdraw with their cards as before.
    """
    found = common.order(acting_home(home), "member.revoke", {"index": index})
    answer(found, _vote_lines(found, f"the key of member {index} is revoked"))


@member.command("recover")
@click.argument("application", type=FILE)
@home_option
@json_flag
def recover(application: Path, home: Path) -> None:
    """Vote for new keys of a member whose keys are lost or revoked. The vote that completes the quorum seats them.

    Example: koinon member recover recovery.json --home NET/member-1

    The file is from `koinon member apply --recover INDEX`. Ask the hospital by another way whether it wrote it: whoever
    has these keys is this member from then on.
    """
    raw = _read_application(application, RECOVERY_SCHEMA)
    found = common.order(acting_home(home), "member.recover", {"application": raw})
    answer(found, _vote_lines(found, f"member {raw.get('member')} has its new keys"))


@member.command("seat-auditor")
@click.argument("application", type=FILE)
@click.option("--until", required=True, metavar="DATE", help="Day (UTC) with which the term ends, as YYYY-MM-DD.")
@click.option("--every-study", is_flag=True, help="For all studies of the network instead of one.")
@home_option
@study_option
@json_flag
def seat_auditor(application: Path, until: str, every_study: bool, home: Path, study: str | None) -> None:
    """Vote to give an auditor a seat for one study until a day. The vote that completes the quorum seats it.

    Example: koinon member seat-auditor audit.json --study ab12 --until 2027-06-30 --home NET/member-1

    The file is from `koinon member apply` in a home made by `koinon node init --auditor`. The votes must name the same
    study and day. A seat has no vote; its term is not prolonged: seat another one. What it may read it announces on the
    chain, and each hospital opens it by itself (`koinon audit open`).
    """
    from datetime import UTC, date, datetime, time, timedelta

    if every_study and study is not None:
        raise InputError("name a study, or --every-study")
    try:
        after = date.fromisoformat(until) + timedelta(days=1)
    except ValueError as error:
        raise InputError(f"--until {until!r:.40}: not a day written YYYY-MM-DD") from error
    raw = _read_application(application, AUDITOR_SCHEMA)
    body = {
        "application": raw,
        "study": study,
        "every_study": every_study,
        "term_end": int(datetime.combine(after, time(), UTC).timestamp()),
    }
    found = common.order(acting_home(home), "member.seat-auditor", body)
    what = "every study" if found["study"] is None else f"study {found['study'][:12]}"
    answer(found, _vote_lines(found, f"{raw['name']} is seated for {what} until {until}"))


@member.command("end-auditor")
@click.argument("seat", type=int)
@home_option
@json_flag
def end_auditor(seat: int, home: Path) -> None:
    """Vote to end the term of an auditor's seat now. The vote that completes the quorum ends it.

    Example: koinon member end-auditor 0 --home NET/member-1

    It opens no further round. What it has opened it keeps.
    """
    found = common.order(acting_home(home), "member.end-auditor", {"seat": seat})
    answer(found, _vote_lines(found, f"the term in auditor's seat {seat} is over"))


@member.command("succeed")
@click.argument("plan", type=FILE)
@common.out_option("Where to write this home's seat at the next deployment.", required=True)
@home_option
@json_flag
def succeed(plan: Path, out: Path, home: Path) -> None:
    """Vote to go on with another deployment, and sign this home's seat there. An auditor's home signs a seat only.

    Example: koinon member succeed successor.json --out seat-1.json --home NET/member-1

    The file is from `koinon network plan-successor`. The vote that completes the quorum ends what begins at the present
    deployment: no study and no round opens there any more. Withdrawals and erasures are taken there for ever. Hand the
    seat to whoever founds the successor (`koinon network found-successor`).
    """
    from node.home import read_json, write_json

    read_file(plan, "plan", 1 << 16)
    found = common.order(acting_home(home), "member.succeed", {"plan": read_json(plan)})
    write_json(out, found["seat"])
    answer({**found, "out": str(out)}, [*_vote_lines(found, "the network goes on with it"), f"{out}: the seat there"])


@member.command("move")
@click.argument("network", type=FILE)
@home_option
@json_flag
def move(network: Path, home: Path) -> None:
    """Go on at the next deployment: take its network.json into a home whose node does not run.

    Example: koinon member move network.json --home NET/member-1

    Refused unless it continues this home's network as its members voted. Keys, vault, models and history stay as they
    are; the node goes on there when it is started again. It reads both deployments from then on.
    """
    from node.home import read_network
    from node.succession import move_home

    read_file(network, "network.json", 1 << 20)
    described = read_network(network)
    move_home(acting_home(home), described, common.history_of(home))
    membership = described.raw["contracts"]["membership"]
    found = {"home": str(home), "deployment": len(described.line) - 1, "membership": membership}
    answer(found, [f"{home} goes on at deployment {found['deployment']}, Membership {membership}"])


@member.command("list")
@home_option
@json_flag
def list_(home: Path) -> None:
    """List members and auditors as the chain has them.

    Example: koinon member list --home NET --json

    Reads the home alone: nothing needs to run, and nothing newer than the home is seen.
    """
    from crypto.keys import address_text, peer_id_text

    registry = common.history_of(home).registry
    members = [
        {
            "index": one.index,
            "name": one.name,
            "active": one.active,
            "ledger_address": address_text(one.ledger),
            "peer_id": peer_id_text(one.peer_id),
            "admitted": one.admitted,
            "removed": one.removed,
            "revoked": one.revoked,
            "keys_since": one.keys[-1].since,
        }
        for one in registry.members.values()
    ]
    auditors = [
        {
            "seat": one.seat,
            "name": one.name,
            "ledger_address": address_text(one.ledger),
            "peer_id": peer_id_text(one.peer_id),
            "study": None if not any(one.study) else one.study.hex(),
            "term_end": one.term_end or None,
        }
        for one in registry.auditors.values()
    ]
    lines = table(
        ("index", "name", "active", "ledger address", "peer id"),
        [(m["index"], m["name"], "yes" if m["active"] else "no", m["ledger_address"], m["peer_id"]) for m in members],
    )
    lines += table(
        ("auditor seat", "name", "study", "term ends", "ledger address"),
        [(a["seat"], a["name"], a["study"] or "all", a["term_end"] or "never", a["ledger_address"]) for a in auditors],
    )
    answer({"epoch": registry.epoch, "members": members, "auditors": auditors}, [*lines, f"epoch {registry.epoch}"])
