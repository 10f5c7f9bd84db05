"""A real network on the disk for the tests of audit and trail: founded, trained on, stopped.

Everything is the real thing but the wires: the embedded chain in its own process, contracts deployed on it, homes with
keystores, vaults and training workers; the peers talk through `MemoryTransport`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import trio

from crypto.digest import Digest
from fl_engine.data.dataset import Dataset
from node import config, keystore, roles
from node.abi import Codec
from node.app import Node
from node.desk import Desk
from node.follower import Follower
from node.founding import Plan, found_network
from node.home import node_homes, open_home, read_network, read_password
from node.ledger import connect
from node.memory.transport import MemoryNetwork, MemoryTransport
from node.messages import CommitNotice, Hello
from node.participant import Participant
from node.runner import officer_of
from node.store import SentTransactions, Store
from node.study import Study, parse_sections
from node.training import Trainer
from node.vault import Vault

MEMBERS = 3
ROUNDS = 2
PATIENTS = 8
POLL_S = 0.05
SHAPE = (1, 8, 8)


def dataset(member: int) -> Dataset:
    """Eight patients of two records each; nothing of it means anything."""
    random = np.random.default_rng(member)
    names = tuple(f"MRN-{member}-{patient:02}" for patient in range(PATIENTS) for _ in range(2))
    n = len(names)
    return Dataset(
        x=random.random((n, *SHAPE), dtype=np.float32),
        y=np.arange(n, dtype=np.int64) % 3,
        patients=names,
        roles=np.zeros(n, dtype=np.uint8),
        classes=3,
        name="made for tests",
    )


def spec(rounds: int = ROUNDS) -> Study:
    """A study that takes everything the data sets have."""
    return parse_sections(
        {
            "schema": "koinon.study/1",
            "name": "audited",
            "task": "nuclei",
            "rounds": rounds,
            "data": {"input_shape": list(SHAPE), "classes": 3},
            "model": {"name": "small-cnn"},
            "training": {"batch_size": 4},
            "policy": {"min_consents": 2},
            "forms": [{"name": "main", "text_sha256": "ab" * 32, "custody": "synthetic", "valid_to": 1_893_456_000}],
        }
    )


@contextmanager
def running_chain(home: Path) -> Iterator[str]:
    """The embedded chain of a network home, in its own process; its URL."""
    command = [sys.executable, "-m", "node.chain", "--home", str(home), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()


def open_member(path: Path, url: str, peers: MemoryNetwork) -> Node:
    """The node of a home, on this chain and these wires."""
    home, network = open_home(path), read_network(path / "network.json")
    settings = config.load(home.config_path, {})
    password = read_password(home, settings["node", "password_file"])
    ring = keystore.load(home, password)
    key = keystore.at_rest_key(ring)
    store = Store(path, key)
    vault = Vault.open(home.vault_path, key) if home.role == "member" else None
    me, seat = (home.index, None) if vault is not None else (None, home.index)
    participant = Participant(me, seat, ring, network.contracts.domains, store, vault)
    codec = Codec.load()
    ledger = connect(url, network.contracts, ring.ledger, SentTransactions(store), codec=codec)
    desk = Desk(participant, network, auto_join=True, register=None, officer=officer_of(home, settings))
    hello = Hello(network.contracts.chain_id, network.contracts.membership, 0)
    transport = MemoryTransport(peers, ring.peer.peer_id, lambda: hello)
    addresses = {one.peer_id: "memory" for one in (*network.founders, *network.auditors)}
    trainer = Trainer(600.0) if vault is not None else None
    return Node(participant, ledger, transport, trainer, Follower(ledger, store, codec), addresses, desk, POLL_S)


@asynccontextmanager
async def running_nodes(home: Path, url: str) -> AsyncIterator[list[Node]]:
    """All nodes of a network home, up to date with the chain."""
    peers = MemoryNetwork()
    nodes: list[Node] = []
    try:
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                for path in node_homes(home):
                    nodes.append(open_member(path, url, peers))
                    await nursery.start(nodes[-1].run)
                await until(lambda: all(node.ready for node in nodes))
                yield nodes
                nursery.cancel_scope.cancel()
    finally:
        for node in nodes:
            node.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the nodes do by themselves; the deadline is the caller's."""
    while not condition():  # noqa: ASYNC110 - the nodes poll their chain, there is nobody to ring a bell
        await trio.sleep(POLL_S)


async def run_study(home: Path, url: str, study: Study) -> Digest:
    """Run all nodes until the study has all its rounds and every home holds what they left."""
    async with running_nodes(home, url) as nodes:
        number = await nodes[0].desk.create_study(nodes[0], study)
        await until(lambda: all(_done(node, number) for node in nodes))
    return number


@contextmanager
def as_the_officer(home: Path, node: Node, member: int, act: str) -> Iterator[None]:
    """A member's LINK, open with its data-protection officer's key."""
    vault = node.participant.vault
    assert vault is not None
    officer = roles.officer_key(roles.load(home / f"member-{member + 1}", "dpo"))
    with vault.unlocked(officer, roles.witness(node.participant.store, "dpo", act)):
        yield


async def run_erasure(home: Path, url: str, member: int, patient: str) -> Digest:
    """Erase a patient of a member, its study ended, until every node saw the head move and all purges; the batch."""
    async with running_nodes(home, url) as nodes:
        with as_the_officer(home, nodes[member], member, "erase.request"):
            asked = await nodes[member].erasing.request(nodes[member], patient=patient)
        batch = Digest.from_hex(asked["erasure"])

        def over(node: Node) -> bool:
            erasure = node.history.erasures.get(batch)
            return erasure is not None and erasure.moved and len(erasure.purges) == MEMBERS

        await until(lambda: all(over(node) for node in nodes))
        study = nodes[0].history.erasures[batch].opened.study
        await until(lambda: all(_done(node, study) for node in nodes))
    return batch


def _done(node: Node, study: Digest) -> bool:
    if study not in node.history.studies or not node.history.finished(study):
        return False
    head = node.history.studies[study].head
    store = node.participant.store
    for round_id in head.rounds.values():
        one = node.history.rounds[round_id]
        if len(store.notices(round_id, "VoteNotice")) < one.opened.quorum:
            return False
        commits = [n for n in store.notices(round_id, "CommitNotice") if isinstance(n, CommitNotice)]
        if {n.member for n in commits} != set(one.commits) or not all(node.participant.holds(n) for n in commits):
            return False
    return all(store.has(root) for root in head.models.values())


def make_network(home: Path, rounds: int = ROUNDS) -> Digest:
    """Found a network in `home`, run one study on it, stop everything; the study's id."""
    found_network(home, Plan("test", tuple(dataset(i) for i in range(MEMBERS)), "nuclei", base_port=42000))
    with running_chain(home) as url:
        study = trio.run(run_study, home, url, spec(rounds))
    for path in node_homes(home):  # every test opens them: at a cost that suits tests
        password = (path / "password").read_text().strip()
        keystore.change_password(open_home(path), password, password, log_n=10)
    return study


def erase_in(home: Path, member: int, patient: str) -> Digest:
    """Bring a stopped network up, erase one patient, stop it again; the batch."""
    with running_chain(home) as url:
        return trio.run(run_erasure, home, url, member, patient)
