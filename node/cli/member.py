"""`koinon member`: who takes part in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli import common
from node.cli.common import FILE, acting_home, home_option, read_file
from node.cli.output import Noun, answer, json_flag, table
from node.errors import InputError

SCHEMA = "koinon.application/1"


@click.group(cls=Noun)
def member() -> None:
    """Apply for membership, vote on applications, remove members, list them.

    Example: koinon member list --home NET

    Members decide by quorum; no administrator exists. A removed member keeps what it had received.
    """


@member.command("apply")
@home_option
@click.option("--out", type=FILE, required=True, help="Where to write the application.")
@json_flag
def apply(home: Path, out: Path) -> None:
    """Write a newcomer's application, signed: hand the file to the members.

    Example: koinon member apply --home H --out application.json

    It contacts nobody, and contains public keys only. Ask also for coin on the chain (`koinon chain fund`).
    """
    from crypto.keys import address_text, peer_id_text
    from crypto.statements import Seat, sign
    from node import config, keystore
    from node.home import open_home, read_network, read_password, write_json

    opened = open_home(home)
    settings = config.load(opened.config_path)
    ring = keystore.load(opened, read_password(opened, settings["node", "password_file"]))
    domains = read_network(opened.network_path).contracts.domains
    name = str(settings["node", "name"])
    statement = Seat("member", ring.peer.peer_id, ring.sealing.public, name)
    application = {
        "schema": SCHEMA,
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
        [f"{out}: {name}, ledger account {shown['ledger_address']}", "each member: koinon member approve APPLICATION"],
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
    raw = _read_application(application)
    found = common.order(acting_home(home), "member.approve", {"application": raw})
    answer(found, _vote_lines(found, f"{raw['name']} is admitted"))


def _read_application(path: Path) -> dict[str, Any]:
    from node.home import read_json

    read_file(path, "application", 1 << 16)
    raw = read_json(path)
    if raw.pop("schema", None) != SCHEMA:
        raise InputError(f"{path}: not an application ({SCHEMA})")
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
