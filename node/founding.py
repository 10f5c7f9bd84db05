"""Founding a network on one machine: keys, chain, contracts, one home a member, data imported.

What may live here: the order of acts. What this file does not know: how a node runs (`runner`), how processes are kept
alive (`supervisor`). Everything is made in a folder aside and appears under its name whole, or not at all.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crypto.digest import Digest
from crypto.keys import KeyRing, LedgerKey
from crypto.statements import Seat as SeatStatement
from crypto.statements import sign
from fl_engine.data.dataset import Dataset
from node import config, keystore, roles
from node.chain.genesis import create_genesis, load_operator_key
from node.deployment import deploy, genesis_hash, pay, plan_deployment
from node.errors import InputError, LocalFault
from node.home import Network, Seat, create_home, network_json, parse_network, write_file, write_json
from node.ledger import EthereumClient
from node.records import Contracts, SeatInput
from node.store import Store
from node.vault import Vault

COIN = 10**18
FIRST_PORT = 24_100  # below the ports that Linux gives to outgoing connections (from 32768): nothing else takes it
READY_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network is founded from.

    `datasets` is one a member; `task` is what a study's spec will call them; `chain` is "embedded" or a URL, for which
    `deployer` pays; ports are base_port (chain), +1 .. +n (members), +n+1 (auditor).
    """

    name: str
    datasets: tuple[Dataset, ...]
    task: str
    chain: str = "embedded"
    base_port: int = FIRST_PORT
    register: Path | None = None
    deployer: LedgerKey | None = None


def found_network(home: Path, plan: Plan, progress: Callable[[str], None] = lambda line: None) -> Network:
    """Make a network home: chain, auditor, one member for each data set.

    Raises:
        InputError: fewer than two data sets, a port out of range, a URL without a deployer's key.
        LocalFault: the folder exists, or a process did not start.
        ChainUnreachable: no chain answers at the URL.
    """
    n = len(plan.datasets)
    if not 2 <= n <= 32:
        raise InputError(f"{n} members: a network has between 2 and 32")
    if not 1024 <= plan.base_port <= 65535 - n - 1:
        raise InputError(f"base port {plan.base_port}: {n + 2} ports from it must lie between 1024 and 65535")
    if plan.chain != "embedded" and plan.deployer is None:
        raise InputError(f"a network on {plan.chain} needs the key of an account that pays for the contracts")
    if home.exists() and any(home.iterdir()):
        raise LocalFault(f"{home} exists and is not empty: choose another folder")
    aside = home.with_name(f".{home.name}.founding")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        network = _found(aside, plan, progress)
        if home.exists():
            home.rmdir()
        aside.rename(home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return network


def _found(home: Path, plan: Plan, progress: Callable[[str], None]) -> Network:
    n = len(plan.datasets)
    names = [f"member-{i + 1}" for i in range(n)] + ["auditor"]
    progress("making keys")
    rings = [_keys(home / name, index if index < n else 0, plan, n) for index, name in enumerate(names)]
    officers = {name: roles.officer_key(roles.create(home / name)["dpo"]) for name in names}
    with _chain(home, plan, rings) as (url, deployer):
        client = EthereumClient(url, None)
        planned = plan_deployment(client, deployer.address)
        progress(f"deploying the contracts on chain {planned.contracts.chain_id}")
        seats = [_seat_input(name, ring, planned.contracts) for name, ring in zip(names, rings, strict=True)]
        deploy(client, deployer, planned, seats[:n], seats[n:])
        if plan.chain != "embedded":
            progress("sending coin to the members' accounts")
            pay(client, deployer, [ring.ledger.address for ring in rings], COIN)
        block0 = genesis_hash(client)
    network = _describe(plan, names, rings, block0, planned.contracts)
    write_json(home / "network.json", network.raw)
    for name, ring, data in zip(names, rings, [*plan.datasets, None], strict=True):
        write_json(home / name / "network.json", network.raw)
        key = keystore.at_rest_key(ring)
        store = Store(home / name, key)
        store.set_meta("task", plan.task)
        store.close()
        if data is not None:
            progress(f"importing {len(data)} records into the vault of {name}")
            vault = Vault.create(home / name / "vault", key, officers[name])
            vault.import_dataset(data)
            vault.close()
    return network


def _keys(path: Path, index: int, plan: Plan, members: int) -> KeyRing:
    role = path.name
    home = create_home(path, "auditor" if role == "auditor" else "member", index)
    password = secrets.token_urlsafe(24)
    write_file(path / "password", password.encode() + b"\n", 0o600)
    config.write(
        home.config_path,
        node__name=role,
        node__dpo_password_file="" if role == "auditor" else "roles/dpo.password",
        node__listen=f"/ip4/127.0.0.1/tcp/{_port(plan, role, index, members)}",
        chain__url=_chain_url(plan),
        study__register="" if plan.register is None else str(plan.register.resolve()),
    )
    return keystore.create(home, password)


def _port(plan: Plan, role: str, index: int, members: int) -> int:
    return plan.base_port + 1 + (members if role == "auditor" else index)


def _chain_url(plan: Plan) -> str:
    return f"http://127.0.0.1:{plan.base_port}" if plan.chain == "embedded" else plan.chain


def _seat_input(name: str, ring: KeyRing, contracts: Contracts) -> SeatInput:
    role = "auditor" if name == "auditor" else "member"
    statement = SeatStatement(role, ring.peer.peer_id, ring.sealing.public, name)
    signature = sign(statement, contracts.domains.of(statement), ring.ledger)
    return SeatInput(ring.ledger.address, ring.peer.peer_id, ring.sealing.public, name, signature)


def _describe(
    plan: Plan, names: Sequence[str], rings: Sequence[KeyRing], block0: Digest, contracts: Contracts
) -> Network:
    n = len(plan.datasets)
    seats = [
        Seat(
            i if i < n else 0,
            name,
            ring.ledger.address,
            ring.peer.peer_id,
            ring.sealing.public,
            f"/ip4/127.0.0.1/tcp/{_port(plan, name, i, n)}",
        )
        for i, (name, ring) in enumerate(zip(names, rings, strict=True))
    ]
    synthetic = plan.register is None
    raw = network_json(plan.name, _chain_url(plan), block0, contracts, tuple(seats[:n]), tuple(seats[n:]), synthetic)
    return parse_network(raw)


@contextmanager
def _chain(home: Path, plan: Plan, rings: Sequence[KeyRing]) -> Iterator[tuple[str, LedgerKey]]:
    """The chain to deploy on, running: the embedded one for as long as the block lasts, or somebody's."""
    if plan.chain != "embedded":
        assert plan.deployer is not None
        yield plan.chain, plan.deployer
        return
    create_genesis(home, {ring.ledger.address: 1000 * COIN for ring in rings})
    process = subprocess.Popen(
        [sys.executable, "-m", "node.chain", "--home", str(home), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise LocalFault(f"the embedded chain did not start (exit code {process.wait(READY_TIMEOUT_S)})")
        yield str(json.loads(line)["url"]), LedgerKey.from_bytes(load_operator_key(home))
    finally:
        process.terminate()
        process.wait(READY_TIMEOUT_S)
