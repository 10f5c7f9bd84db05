"""`koinon node`: one peer, the way a hospital starts it."""

from __future__ import annotations

import secrets
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from node.cli.common import FILE, HOME, ROLES, check_name, home_option, order, status_or_none
from node.cli.output import Noun, answer, configure_logging, json_flag, moment, pairs, progress, table
from node.errors import InputError, LocalFault, Refused
from node.home import open_home

PENDING = -1
"""Index in `home.json` of a node that has not been admitted yet."""


@click.group(cls=Noun)
def node() -> None:
    """One hospital's node: make its home, run it, look after it.

    Example: koinon node run --home /srv/koinon

    A home belongs to one running process. Other commands reach that process by themselves.
    """


@node.command()
@click.option("--home", type=HOME, required=True, help="The new home's folder.")
@click.option("--network", "network_file", type=FILE, required=True, help="network.json, as a member handed it over.")
@click.option("--name", required=True, help="The hospital's public name.")
@click.option("--data", type=FILE, help="The hospital's records: .npz, .csv or .tsv.")
@click.option("--auditor", is_flag=True, help="An auditor's home: no records, no vote.")
@click.option("--patient-column", default="patient_id", help="Patient column of a CSV or TSV file.")
@click.option("--listen", default="/ip4/127.0.0.1/tcp/0", show_default=True, help="Address to listen on.")
@click.option("--announce", default="", help="Address at which others dial it, if it is not the one it listens on.")
@click.option("--chain-url", help="Where this machine reaches the chain (default: as network.json says).")
@click.option("--register", type=FILE, help="CSV of signed forms.")
@json_flag
def init(
    home: Path,
    network_file: Path,
    name: str,
    data: Path | None,
    auditor: bool,
    patient_column: str,
    listen: str,
    announce: str,
    chain_url: str | None,
    register: Path | None,
) -> None:
    """Make a newcomer's home: keys, settings, vault. Then apply with `koinon member apply`.

    \b
    Examples: koinon node init --home H --network network.json --name north --data north.npz
              koinon node init --home H --network network.json --name "Audit Ltd" --auditor

    It contacts nobody. Its password is random and lies in H/password, readable by you alone: move it to where your
    house keeps secrets and name the place in config.toml. H/roles holds a key and a password for each role (operator,
    dpo, clinician, researcher, auditor): give each to the person who has the role, and take it out of H.
    """
    from fl_engine.data.readers import read_data_file
    from node import config, keystore, roles
    from node.home import create_home, parse_network, read_json, write_file, write_json
    from node.store import Store
    from node.vault import Vault

    check_name(name, "--name")
    network = parse_network(read_json(network_file), str(network_file))
    if auditor == (data is not None):
        raise InputError("a hospital's home takes --data, an auditor's takes --auditor and none")
    records = None if data is None else read_data_file(data, patient_column=patient_column)
    if home.exists() and any(home.iterdir()):
        raise LocalFault(f"{home} exists and is not empty: choose another folder")
    aside = home.with_name(f".{home.name}.making")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        made = create_home(aside, "auditor" if auditor else "member", PENDING)
        password = secrets.token_urlsafe(24)
        write_file(aside / "password", password.encode() + b"\n", 0o600)
        write_json(aside / "network.json", network.raw)
        config.write(
            made.config_path,
            node__name=name,
            node__listen=listen,
            node__announce=announce,
            chain__url=chain_url or network.chain_url,
            study__register="" if register is None else str(register.resolve()),
        )
        progress("making keys")
        ring = keystore.create(made, password)
        key = keystore.at_rest_key(ring)
        Store(aside, key).close()
        officer = roles.officer_key(roles.create(aside)["dpo"])
        if records is not None:
            progress(f"importing {len(records)} records into the vault")
            vault = Vault.create(made.vault_path, key, officer)
            vault.import_dataset(records)
            vault.close()
        if home.exists():
            home.rmdir()
        aside.rename(home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    count = 0 if records is None else len(records)
    found = {"home": str(home), "name": name, "records": count, "network": network.fingerprint}
    answer(found, [*pairs(**found), f"next: koinon member apply --home {home} --out application.json"])


@node.command()
@home_option
@click.option("--listen", help="Address to listen on, instead of the configured one.")
@click.option("--control-port", type=int, help="Port of the control endpoint on this machine.")
@click.option("--chain-url", help="Where the chain answers, instead of the configured address.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="How much is logged.")
@json_flag
def run(home: Path, listen: str | None, control_port: int | None, chain_url: str | None, log_level: str | None) -> None:
    """Run the node until Ctrl-C or SIGTERM: follow the chain, answer peers, train, vote.

    Example: koinon node run --home /srv/koinon

    Logs go to standard error and name no patient. A node killed at any moment goes on where it was when it is started
    again. It does not restart itself: use systemd, or `koinon network up` for a local network.
    """
    import trio

    from node import config, runner

    opened = open_home(home)
    settings = config.load(opened.config_path, node__log_level=log_level)
    configure_logging(settings["node", "log_level"])
    if opened.index == PENDING:
        take_seat(home)
    flags: dict[str, Any] = {"node__listen": listen, "node__control_port": control_port, "chain__url": chain_url}
    try:
        trio.run(lambda: runner.run_node(home, **{key: one for key, one in flags.items() if one is not None}))
    except BaseExceptionGroup as group:
        raise runner.first_error(group) from group


def take_seat(home: Path) -> int:
    """Write the index under which the chain seated a newcomer into its home; `Refused` while it has not."""
    from crypto.keys import address_text
    from node import config, keystore
    from node.abi import Codec
    from node.account import MemorySentStore
    from node.home import read_json, read_network, read_password, write_json
    from node.ledger import connect
    from node.membership import MembershipRecord, Registry

    opened = open_home(home)
    settings = config.load(opened.config_path)
    network = read_network(opened.network_path)
    ring = keystore.load(opened, read_password(opened, settings["node", "password_file"]))
    ledger = connect(settings["chain", "url"], network.contracts, ring.ledger, MemorySentStore(), codec=Codec.load())
    registry = Registry()
    for logged in ledger.records(0, ledger.head().final_number):
        if isinstance(logged.record, MembershipRecord):
            registry.apply(logged.record)
    if opened.role == "auditor":
        index = next((one.seat for one in registry.auditors.values() if one.ledger == ring.ledger.address), None)
    else:
        member = registry.member_of_ledger(ring.ledger.address)
        index = None if member is None else member.index
    if index is None:
        raise Refused(f"{address_text(ring.ledger.address)} has no seat yet: `koinon member apply`, then wait")
    write_json(home / "home.json", {**read_json(home / "home.json"), "index": index})
    return index


@node.command()
@home_option
@json_flag
def status(home: Path) -> None:
    """Show what the running node says of itself: chain, rounds, peers.

    Example: koinon node status --home NET/member-1

    For a home whose node does not run it says so and starts nothing.
    """
    from node import supervisor

    opened = open_home(home)
    told = status_or_none(home)
    pid = supervisor.lock_holder(home)
    found: dict[str, Any] = {"home": str(home), "role": opened.role, "index": opened.index, "pid": pid}
    if told is None:
        found["state"] = "stopped" if pid is None else "not answering"
        found["reapplied"] = _reapplied(home)
        answer(found, pairs(**found))
        return
    found = {**found, "state": "running" if told["ready"] else "starting", **told}
    lines = pairs(
        state=found["state"],
        role=opened.role,
        index=opened.index,
        process=pid,
        block=told["block"],
        reapplied_after_restore=told["reapplied"],
        chain_fault=told["chain_fault"],
    )
    lines += [f"warning: {one}" for one in told["chain_warnings"]]
    lines += [f"FAILS, and is tried again: {one}" for one in told["faults"]]
    lines += table(
        ("study", "branch", "round", "phase", "attempt", "committed", "held"),
        [
            (r["study"][:12], r["branch"], r["height"], r["phase"], r["attempt"], r["committed"], r["held"])
            for r in told["rounds"]
        ],
    )
    lines += table(
        ("peer", "state", "address", "error"),
        [(peer[-12:], one["state"], one["address"], one["error"]) for peer, one in told["peers"].items()],
    )
    answer(found, lines)


def _reapplied(home: Path) -> int | None:
    """How many withdrawals and erasures the last start re-applied to the vault; None for a node that never ran."""
    from node.store import Store

    if not (home / "node.db").exists():
        return None
    store = Store(home, bytes(32))
    try:
        told = store.meta("reapplied")
    finally:
        store.close()
    return None if told is None else int(told)


@node.command()
@home_option
@json_flag
def pending(home: Path) -> None:
    """List the orders that wait for a second person.

    Example: koinon node pending --home NET/member-1

    Grants of more than one, refusals of an erasure and exports of a model take two. Stopping never does.
    """
    found = order(home, "node.pending", {})["orders"]
    keys = ("order_id", "order", "summary", "role", "second", "approved_by", "expires_at")
    rows = [[one[key][:12] if key == "order_id" else one[key] for key in keys[:-1]] for one in found]
    rows = [[*row, moment(one["expires_at"])] for row, one in zip(rows, found, strict=True)]
    answer(found, [*table([key.replace("_", " ") for key in keys], rows), f"{len(found)} orders wait"])


@node.command()
@home_option
@click.option("--order", "order_id", required=True, metavar="ID", help="The order, as `node pending` names it.")
@json_flag
def approve(home: Path, order_id: str) -> None:
    """Approve an order that takes two persons; whoever gave it first then gives it again.

    Example: koinon node approve --home NET/member-1 --order 3f2a91c07d55 --role clinician

    Compare the summary with what you were asked to approve (a register's sha256 is that of the file). It does not
    carry the order out.
    """
    found = order(home, "node.approve", {"order": order_id})
    answer(found, pairs(**found))


@node.command()
@home_option
@click.option("--of", "subject", required=True, type=click.Choice(ROLES), help="Whose key.")
@json_flag
def rotate(home: Path, subject: str) -> None:
    """Give a role a new key: when its person changes, or the old key may be known. Two persons: dpo, operator.

    Example: koinon node rotate --home NET/member-1 --of clinician

    The old key gives no more orders. With the dpo's, the link between persons and consents opens with the new key
    alone, under a fresh share of the node. Said again after the approval, it is the same new key. It needs the old
    dpo's key: keep a copy of that in a safe, for without it nobody can say any more who is behind a consent.
    """
    from crypto.keys import address_text
    from node import roles

    if not roles.settle(home, subject):
        ring = roles.prepare(home, subject)
        body = {"role": subject, "address": address_text(ring.ledger.address)}
        successor = ring if subject == "dpo" else None
        if successor is not None:
            body["officer"] = roles.fingerprint(roles.officer_key(successor))
        order(home, "node.rotate", body, successor=successor)
        roles.settle(home, subject)
    address = address_text(roles.addresses(home)[subject])
    files = [str(home / "roles" / f"{subject}.{kind}") for kind in ("json", "password")]
    found = {"role": subject, "address": address, "files": files}
    answer(found, [*pairs(**found), f"give both files to the {subject}"])


@node.command()
@home_option
@json_flag
def doctor(home: Path) -> None:
    """Look for what would stop this node, hop by hop, and say how to mend it. It changes nothing.

    Example: koinon node doctor --home NET/member-1

    Home, settings, password, keys, disk, records, store, chain (name, TCP, chain id, contracts), clock, seat, fees,
    ports, and the way to every peer (address, DNS, TCP, Noise, identity, protocol). The node may run or not. What is
    skipped waits for what failed above it. Exit code: that of the first thing that is wrong; warnings are none.
    """
    from node.doctor import examine

    case, found = examine(home)
    opened, failed = case.home, [one for one in found if one.status == "failed"]
    told = [{key: value for key, value in asdict(one).items() if key != "exit_code"} for one in found]
    lines = table(("check", "status", "why"), [(one.name, one.status, one.why) for one in found])
    lines += [f"{one.name}: {one.fix}" for one in found if one.fix]
    answer({"ok": not failed, "running": case.told is not None, "role": opened.role, "checks": told}, lines)
    if failed:
        sys.exit(int(failed[0].exit_code))
