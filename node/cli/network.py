"""`koinon network`: a whole network on this machine, as its own operating-system processes."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import FILE, HOME, out_option, read_file, read_text
from node.cli.output import Noun, answer, json_flag, progress, short, table
from node.errors import InputError, NodeError, NotFound

if TYPE_CHECKING:
    from crypto.keys import LedgerKey
    from fl_engine.data.dataset import Dataset
    from node.home import Network
    from node.ledger import EthereumClient

UP_TIMEOUT_S = 180.0


@click.group(cls=Noun)
def network() -> None:
    """Make, start, watch and stop a whole network on this machine.

    Example: koinon network init --home NET --members 4 --task nuclei && koinon network up --home NET --detach

    In the field every hospital runs its own node (`koinon node`), on its own machine.
    """


network_home = click.option(
    "--home", type=HOME, required=True, envvar="KOINON_HOME", help="The network's folder (or KOINON_HOME)."
)


def load_datasets(
    members: int | None, task: str | None, data: tuple[Path, ...], patient_column: str
) -> tuple[tuple[Dataset, ...], str]:
    """One data set a member and the task's name in a study's spec.

    Raises:
        InputError: neither or both of task and files, or as many files as there are not members.
        EngineError: a file that cannot be used, by its name and row.
    """
    from fl_engine.data.dataset import check_same_shape, infer_classes
    from fl_engine.data.readers import read_data_file
    from fl_engine.data.tasks import load_task

    if (task is None) == (not data):
        raise click.UsageError("name either --task or --data (once for each member)")
    if task is not None:
        return load_task(task, 4 if members is None else members), task
    if members is not None and members != len(data):
        raise InputError(f"{len(data)} data files for {members} members: name --data once for each member")
    for path in data:
        if not path.is_file():
            raise InputError(f"data file {path} does not exist")
    datasets = tuple(read_data_file(path, patient_column=patient_column) for path in data)
    check_same_shape(datasets)
    classes = infer_classes(datasets)  # one hospital may lack a class that another has
    datasets = tuple(replace(one, classes=classes) for one in datasets)
    kind = "table-classification" if len(datasets[0].input_shape) == 1 else "npz-classification"
    return datasets, kind


def data_options(command: Any) -> Any:
    """`--task`, `--data`, `--patient-column`: where members' records come from."""
    command = click.option("--patient-column", default="patient_id", help="Patient column of a CSV or TSV file.")(
        command
    )
    command = click.option("--data", type=FILE, multiple=True, help="A member's .npz, .csv or .tsv; repeat.")(command)
    return click.option("--task", help="A built-in task: nuclei, mri-quality.")(command)


@network.command()
@network_home
@click.option("--members", type=int, help="Number of hospitals (default 4, or one for each --data).")
@data_options
@click.option("--register", type=FILE, help="CSV of signed forms; without it the network is marked synthetic.")
@click.option("--chain", "chain_", default="embedded", metavar="embedded|URL", help="Where the contracts live.")
@click.option("--base-port", type=int, default=24100, show_default=True, help="Chain; members and auditor follow.")
@click.option("--name", default="koinon", show_default=True, help="The network's public name.")
@click.option("--deployer-key-file", type=FILE, help="Hex key of the account that pays on a chain given by URL.")
@json_flag
def init(
    home: Path,
    members: int | None,
    task: str | None,
    data: tuple[Path, ...],
    patient_column: str,
    register: Path | None,
    chain_: str,
    base_port: int,
    name: str,
    deployer_key_file: Path | None,
) -> None:
    """Make keys, chain, contracts and one home for each member and an auditor; import the data.

    Example: koinon network init --home NET --data a.npz --data b.npz --register forms.csv

    All keys and data lie on this machine afterwards: good for trying and testing, not for real patients. Source files
    are read, never changed. The auditor's home must be elsewhere in a network that means it.
    """
    from node.founding import Plan, found_network

    if register is not None:
        from node.register import MAX_REGISTER_BYTES, check_columns

        check_columns(read_file(register, "register", MAX_REGISTER_BYTES), str(register))
    datasets, kind = load_datasets(members, task, data, patient_column)
    plan = Plan(
        name=name,
        datasets=datasets,
        task=kind,
        chain=chain_,
        base_port=base_port,
        register=register,
        deployer=None if deployer_key_file is None else deployer_key(deployer_key_file),
    )
    network = found_network(home, plan, progress)
    found: dict[str, Any] = {
        "home": str(home),
        "name": network.name,
        "fingerprint": network.fingerprint,
        "chain_id": network.contracts.chain_id,
        "synthetic": network.synthetic,
        "task": kind,
        "members": [
            {"name": seat.name, "index": seat.index, "records": len(one), "home": str(home / seat.name)}
            for seat, one in zip(network.founders, datasets, strict=True)
        ],
        "simulated": list(datasets[0].simulated),
        "licence": datasets[0].licence,
    }
    lines = table(
        ("member", "index", "records", "home"),
        [(one["name"], one["index"], one["records"], one["home"]) for one in found["members"]],
    )
    lines += [f"network {network.name}, chain {network.contracts.chain_id}, fingerprint {network.fingerprint[:12]}"]
    lines += list(datasets[0].simulated)
    if network.synthetic:
        lines.append("No register of signed forms: this network is marked SYNTHETIC; its consents will be invented.")
    lines.append(f"next: koinon network up --home {home} --detach")
    answer(found, lines)


@network.command("plan-successor")
@network_home
@out_option("Where to write the plan.", required=True)
@click.option("--deployer-key-file", type=FILE, help="Hex key of the account that will pay (embedded chain: none).")
@json_flag
def plan_successor(home: Path, out: Path, deployer_key_file: Path | None) -> None:
    """Plan a second deployment of this network on its chain: the addresses that its members vote for.

    Example: koinon network plan-successor --home NET --out successor.json

    Nothing is sent. Then each member and auditor: `koinon member succeed`; when what was open has ended:
    `koinon network found-successor`; at last each home: `koinon member move`. The account must send nothing else
    meanwhile; if it did, plan anew and vote anew.
    """
    from node.home import read_network, write_json
    from node.succession import write_plan

    described = read_network(home / "network.json")
    plan = write_plan(_client(described), _deployer(home, deployer_key_file), described)
    write_json(out, plan)
    answer({**plan, "out": str(out)}, [f"{out}: Membership will lie at {plan['contracts']['membership']}"])


@network.command("found-successor")
@network_home
@click.option("--plan", "plan_file", type=FILE, required=True, help="From `koinon network plan-successor`.")
@click.option("--seat", "seat_files", type=FILE, multiple=True, help="From `koinon member succeed`; repeat.")
@out_option("Where to write the network's new description.", required=True)
@click.option("--deployer-key-file", type=FILE, help="Hex key of the account that pays (embedded chain: none).")
@json_flag
def found_successor(
    home: Path, plan_file: Path, seat_files: tuple[Path, ...], out: Path, deployer_key_file: Path | None
) -> None:
    """Create the deployment that the members voted for, with every study where it stands.

    Example: koinon network found-successor --home NET --plan successor.json --seat s1.json --seat s2.json --out n.json

    Refused while a round is open or an erasure is planned and not closed. Broken off, it goes on where it was. What it
    says of the studies is checked by every node against its own history before it signs anything there.
    """
    from node import succession
    from node.cli.common import history_of
    from node.home import read_json, read_network, write_json

    described = read_network(home / "network.json")
    planned = succession.read_plan(read_json(plan_file), described)
    seats = [read_json(path) for path in seat_files]
    history, key = history_of(home), _deployer(home, deployer_key_file)
    new = succession.found_successor(_client(described), key, described, history, planned, seats)
    write_json(out, new.raw)
    studies = [one.hex() for one in history.studies]
    found = {"out": str(out), "contracts": new.raw["contracts"], "studies": studies}
    lines = [f"{out}: deployment {len(new.line) - 1}, {len(history.studies)} studies go on there"]
    answer(found, [*lines, f"each home: stop its node, koinon member move {out}, start it"])


def _client(described: Network) -> EthereumClient:
    from node.ledger import EthereumClient

    return EthereumClient(described.chain_url, described.contracts.chain_id)


def _deployer(home: Path, key_file: Path | None) -> LedgerKey:
    """The account that creates contracts: the embedded chain's operator, or somebody's by file."""
    from crypto.keys import LedgerKey
    from node.chain.genesis import load_operator_key

    return deployer_key(key_file) if key_file is not None else LedgerKey.from_bytes(load_operator_key(home))


def deployer_key(path: Path) -> LedgerKey:
    """The key of the account that pays, from a file with its 64 hexadecimal digits."""
    from crypto.errors import CryptoError
    from crypto.keys import LedgerKey

    try:
        return LedgerKey.from_bytes(bytes.fromhex(read_text(path, "key file", 4096).strip().removeprefix("0x")))
    except (ValueError, CryptoError):
        raise InputError(f"key file {path}: not the 64 hexadecimal digits of a private key") from None


@network.command()
@network_home
@click.option("--detach", is_flag=True, help="Return as soon as everything answers; processes go on.")
@click.option("--no-restart", is_flag=True, help="Leave a process that ended as it is.")
@json_flag
def up(home: Path, detach: bool, no_restart: bool) -> None:
    """Start chain, members and auditor, a process each, and restart what dies.

    Example: koinon network up --home NET --detach

    Without --detach it stays in the foreground until Ctrl-C, which stops everything. Said again while the network is
    up, it starts whatever is not running. It does not restart a process that hangs: `network status` calls it frozen.
    """
    from node import supervisor

    _network_home(home)
    table_ = supervisor.programs(home)
    if detach or supervisor.read_record(home).supervisor is not None:
        supervisor.start_detached(home, restart=not no_restart)
        found = supervisor.wait_until_up(home, UP_TIMEOUT_S, progress)
        answer(found, _status_lines(found))
        return
    runs = supervisor.Supervisor(home, table_, restart=not no_restart)
    threading.Thread(target=_announce, args=(home,), daemon=True).start()
    runs.run()
    answer({"stopped": [one.name for one in table_]}, ["stopped"])


def _announce(home: Path) -> None:
    from node import supervisor

    try:
        supervisor.wait_until_up(home, UP_TIMEOUT_S, progress)
        progress("the network is up; Ctrl-C stops it")
    except NodeError as error:
        progress(f"koinon: {error.message}")


def _network_home(home: Path) -> None:
    from node.home import is_network_home

    if not is_network_home(home):
        raise NotFound(f"{home} is not a network's home: make one with `koinon network init`")


@network.command()
@network_home
@json_flag
def status(home: Path) -> None:
    """Show every process with its state: running, starting, frozen or stopped.

    Example: koinon network status --home NET --json

    States are asked of the processes now, also of those started by hand. It says nothing about members elsewhere.
    """
    from node import supervisor

    _network_home(home)
    found = supervisor.status(home)
    answer(found, _status_lines(found))


def _status_lines(found: dict[str, Any]) -> list[str]:
    rows = [(found["chain"]["name"], found["chain"]["state"], found["chain"]["pid"], found["chain"]["block"], *"----")]
    for one in [*found["members"], *([found["auditor"]] if found["auditor"] else [])]:
        rows.append(
            (
                one["name"],
                one["state"],
                one["pid"],
                one["block"],
                one["round"],
                one["phase"],
                short(one["peer_id"][-12:] if one["peer_id"] else None),
                one["ledger_address"],
            )
        )
    lines = table(("name", "state", "process", "block", "round", "phase", "peer id ends", "ledger address"), rows)
    supervised = f"process {found['supervisor']}" if found["supervisor"] else "nobody"
    return [*lines, f"supervised by {supervised}"]


@network.command()
@network_home
@json_flag
def down(home: Path) -> None:
    """Stop everything that `network up` started.

    Example: koinon network down --home NET

    Asks first (SIGTERM), then kills. Safe to say twice, and after the supervisor itself was killed. It does not stop a
    node that was started by hand.
    """
    from node import supervisor

    _network_home(home)
    stopped = supervisor.down(home)
    sys.stderr.flush()
    answer({"stopped": stopped}, [f"stopped {', '.join(stopped)}" if stopped else "nothing was running"])
