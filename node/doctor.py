"""What would stop a node, found before it does: the table of checks behind `koinon node doctor`.

What may live here: the table, and what each row looks at. A row names the hop that fails and how to mend it; rows that
need another one are skipped when that one fails, so the first failure is the place to begin. Nothing is written, and
nothing that is said names a patient.

It works while the node runs and while it does not. What only the running node knows (its peers, how far it has read)
is asked of it over its control endpoint. Peers are looked at from outside in either case: name, TCP, and a Noise
handshake that ends before any protocol begins, so that no connection of the running node is disturbed. Only when no
node runs are the peers greeted with its own key.
"""

from __future__ import annotations

import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from crypto.errors import CryptoError
from crypto.keys import KeyRing, address_text, peer_id_text
from node import checkup, config, control, keystore, roles, runner
from node.abi import Codec
from node.account import MemorySentStore, fee_fields
from node.audit.home import DATABASE, Fault, HomeReader
from node.deployment import check_deployment
from node.doors import Link, PeerUnreachable
from node.errors import (
    ChainUnreachable,
    ExitCode,
    InputError,
    LedgerError,
    LocalFault,
    NodeError,
    NotFound,
    Refused,
    VerificationFailed,
)
from node.home import Home, Network, in_use, open_home, read_network, read_password
from node.jsonrpc import quantity
from node.ledger import EthereumClient, connect
from node.membership import MembershipRecord, Registry
from node.messages import Hello
from node.store import Store
from node.transport import LibP2PTransport, dial_target, identify
from node.vault import Vault

STATUS_TIMEOUT_S: Final = 5.0
DIAL_S: Final = 5.0
GREET_S: Final = 15.0
"""Until a peer that can be reached has answered our greeting: it looks at the chain first if it has just started."""

LEAST_DISK_BYTES: Final = 256 << 20
GOOD_DISK_BYTES: Final = 2 << 30

ROUND_GAS: Final = 300_000
"""Gas of one round of ten members, rounded up (contracts/snapshots/Round.json): what the scribe of a round pays."""
GOOD_ROUNDS: Final = 200

LAG_BLOCKS: Final = 20
"""Blocks that a running node may be behind the chain's newest one before that is worth a warning."""


class Warned(NodeError):
    """Nothing is broken, but somebody should look."""

    exit_code = ExitCode.OK


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `status`: passed, warning, failed, skipped; `hop`: where the way to a peer ends."""

    name: str
    status: str
    why: str
    fix: str = ""
    hop: str = ""
    exit_code: ExitCode = ExitCode.OK


@dataclass
class Case:
    """One home under examination: its parts, opened when a check first asks for them.

    `told` is what the running node says of itself, None when none answers; `silence` what came instead where a process
    uses the home.
    """

    path: Path
    now: Callable[[], float] = time.time
    told: dict[str, Any] | None = None
    silence: NodeError | None = None

    @cached_property
    def home(self) -> Home:
        """home.json, read and checked."""
        return open_home(self.path)

    @cached_property
    def settings(self) -> config.Config:
        """config.toml and the environment."""
        return config.load(self.home.config_path)

    @cached_property
    def network(self) -> Network:
        """network.json."""
        return read_network(self.home.network_path)

    @cached_property
    def password(self) -> str:
        """The keystore's password."""
        return read_password(self.home, self.settings["node", "password_file"])

    @cached_property
    def rings(self) -> tuple[KeyRing, ...]:
        """All keys of the home, opened."""
        try:
            return keystore.load_all(self.home, self.password)
        except CryptoError as error:
            raise LocalFault(str(error)) from error

    @cached_property
    def client(self) -> EthereumClient:
        """The chain, of whatever id answers."""
        return EthereumClient(self.settings["chain", "url"], None, timeout_s=checkup.TIMEOUT_S, allow_public_chain=True)

    @cached_property
    def registry(self) -> Registry:
        """The members as the home has kept the chain; as the chain has them for a home that never ran."""
        found = runner.read_history(self.path).registry if (self.path / "node.db").exists() else Registry()
        if found.members:
            return found
        ledger = connect(
            self.settings["chain", "url"],
            self.network.contracts,
            self.rings[0].ledger,
            MemorySentStore(),
            codec=Codec.load(),
        )
        for logged in ledger.records(0, ledger.head().final_number):
            if isinstance(logged.record, MembershipRecord):
                found.apply(logged.record)
        return found

    def link(self, peer_id: bytes) -> tuple[str, str]:
        """State and last error of a peer as the running node has them; empty texts while none runs."""
        one = {} if self.told is None else self.told["peers"].get(peer_id.hex(), {"state": "unknown to the node"})
        return str(one.get("state") or ""), str(one.get("error") or "")

    @cached_property
    def ring(self) -> KeyRing:
        """The keys that the registry knows us by."""
        if self.home.role != "member":
            return self.rings[0]
        return keystore.current_ring(self.rings, self.registry.keys_of(self.home.index))


# --------------------------------------------------------------------------------------------------------------------
# The checks, in the order in which a node needs things. Each returns what it saw, or raises what is wrong.


def home(case: Case) -> str:
    """The home can be read."""
    found = case.home
    state = "does not answer" if case.silence is not None else "runs" if case.told is not None else "does not run"
    return f"{found.role} {found.index}; its node {state}"


def settings(case: Case) -> str:
    """config.toml and the environment."""
    _ = case.settings
    return f"{case.home.config_path.name}, listening on {case.settings['node', 'listen']}"


def network(case: Case) -> str:
    """network.json."""
    return f"{case.network.name}, fingerprint {case.network.fingerprint[:12]}"


def password(case: Case) -> str:
    """The password's file: there, and nobody else's to read."""
    _ = case.password
    path = case.path / case.settings["node", "password_file"]
    _private(path)
    return f"{path} can be read by its owner alone"


def keys(case: Case) -> str:
    """The password opens the keystore."""
    count = len(case.rings)
    return "the password opens them" if count == 1 else f"the password opens all {count} sets of keys"


def vault(case: Case) -> str:
    """The vault opens and holds records."""
    if case.home.role != "member":
        return "an auditor has none"
    try:
        opened = Vault.open(case.home.vault_path, keystore.at_rest_key(case.rings[0]))
    except CryptoError as error:
        raise LocalFault(str(error)) from error
    try:
        shape, classes, _ = opened.shape()
        count = sum(len(opened.row_numbers(role)) for role in (1, 2, 3))
    finally:
        opened.close()
    if not count:
        raise Warned("the vault opens, and every record in it was deleted")
    return f"{count} records of shape {'x'.join(map(str, shape)) or '1'} in {classes} classes"


def store(case: Case) -> str:
    """The node's database is whole; whether what is in it is true is for `koinon audit verify`."""
    path = case.path / DATABASE
    if not path.exists():
        return "none yet: the next start makes it, and reads the chain from its beginning"
    try:
        reader = HomeReader(case.path, None)
        try:
            reader.check()
        finally:
            reader.close()
    except Fault as fault:
        raise LocalFault(f"{path}: {fault.got}") from None
    return f"{DATABASE} is whole"


def role_keys(case: Case) -> str:
    """The roles' passwords that lie in the home."""
    roles.addresses(case.path)
    here = [role for role in roles.ROLES if roles.password_path(case.path, role).exists()]
    for role in here:
        _private(roles.password_path(case.path, role))
    if here and not case.network.synthetic:
        raise Warned(f"passwords of {', '.join(here)} lie in this home: whoever reads it acts for them")
    return f"passwords in this home: {', '.join(here) or 'none'}"


def disk(case: Case) -> str:
    """Room for the chain's copy, updates and models."""
    free = shutil.disk_usage(case.path).free
    if free < LEAST_DISK_BYTES:
        raise LocalFault(f"{free >> 20} MiB free on the disk of {case.path}, {LEAST_DISK_BYTES >> 20} are needed")
    if free < GOOD_DISK_BYTES:
        raise Warned(f"{free >> 20} MiB free on the disk of {case.path}")
    return f"{free >> 30} GiB free"


def chain_name(case: Case) -> str:
    """The chain's host has an address (DNS)."""
    host, port = _chain_host(case)
    return f"{host} is {', '.join(_resolve(host, port))}"


def chain_connection(case: Case) -> str:
    """The chain's port takes connections (TCP)."""
    host, port = _chain_host(case)
    try:
        socket.create_connection((host, port), DIAL_S).close()
    except OSError as error:
        raise ChainUnreachable(f"TCP to {host}, port {port}: {_why(error)}") from None
    return f"{host}, port {port} answers"


def chain(case: Case) -> str:
    """It speaks JSON-RPC, and it is the chain of network.json."""
    checkup.check_identity(case.client, case.network)
    return f"chain {case.network.contracts.chain_id}, block {case.client.height()}"


def contracts(case: Case) -> str:
    """The contracts of network.json lie there."""
    check_deployment(case.client, case.network.contracts)
    return "all four, and they name each other"


def witnesses(case: Case) -> str:
    """Other endpoints say the same."""
    others = case.settings["chain", "check_urls"]
    url = case.settings["chain", "url"]
    found = checkup.examine(case.network, url, others, case.now)
    if found["warnings"]:
        raise Warned("; ".join(found["warnings"]))
    return f"compared with {', '.join(others)}" if others else "none is named (chain.check_urls)"


def clock(case: Case) -> str:
    """This machine's clock and the chain's."""
    offset = checkup.clock_offset(case.client, case.now)
    return "not ahead of the chain, as far as it tells" if offset is None else f"{offset:+.0f} s against the chain's"


def synchronisation(case: Case) -> str:
    """How far the chain was read."""
    newest = case.client.height()
    if case.told is None:
        kept = _kept_block(case.path)
        return f"stopped at block {kept} of {newest}; the rest is read at the next start"
    if case.told["chain_fault"]:
        raise LedgerError(f"the node says: {case.told['chain_fault']}")
    behind = newest - int(case.told["block"])
    if not case.told["ready"] or behind > LAG_BLOCKS + int(case.settings["chain", "confirmations"]):
        raise Warned(f"{max(behind, 0)} blocks behind the chain's newest, {newest}")
    return f"read to block {case.told['block']} of {newest}"


def seat(case: Case) -> str:
    """The registry has us, by the keys that are here."""
    registry, index = case.registry, case.home.index
    if case.home.role != "member":
        auditor = registry.auditors.get(index)
        if auditor is None or auditor.ledger != case.ring.ledger.address:
            raise Refused(f"the registry has no auditor's seat {index} with the keys of this home")
        return f"auditor {auditor.name}"
    member = registry.members.get(index) or registry.member_of_ledger(case.ring.ledger.address)
    if member is None:
        raise Refused(f"{address_text(case.ring.ledger.address)} is not a member yet")
    if not member.active:
        raise Refused(f"member {member.index} is {'removed' if member.removed is not None else 'revoked'}")
    if member.ledger != case.ring.ledger.address:
        raise VerificationFailed(
            f"the registry has {address_text(member.ledger)} for member {member.index}, the keys of this home are "
            f"those of {address_text(case.ring.ledger.address)}"
        )
    return f"member {member.index}, {member.name}"


def fees(case: Case) -> str:
    """Coin for transactions, if the chain wants any."""
    offered = fee_fields(case.client)
    price = offered.get("maxFeePerGas", offered.get("gasPrice", 0))
    if price == 0:
        return "this chain takes none"
    address = address_text(case.ring.ledger.address)
    held = quantity(case.client.call("eth_getBalance", address, "latest"))
    rounds = held // (price * ROUND_GAS)
    if rounds < 1:
        raise Refused(f"{address} holds {held} wei: not enough to pay for one round")
    if rounds < GOOD_ROUNDS:
        raise Warned(f"{address} holds {held} wei: enough for about {rounds} rounds of ten members")
    return f"enough for {rounds:.1e} rounds of ten members" if rounds > 10**6 else f"enough for {rounds} rounds"


def port(case: Case) -> str:
    """The listening address, and the control port: free, or held by our own node; the former reachable for others."""
    address = case.settings["node", "listen"]
    host, number = _target(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"node.listen = {address}: {_why(error)}") from None
    if case.told is not None:
        if number:
            _held_by_us(case, host, number)
    elif case.silence is None:
        _free(address, family, where)
        control_port = case.settings["node", "control_port"]
        _free(f"node.control_port = {control_port}", socket.AF_INET, ("127.0.0.1", control_port))
    if not case.network.synthetic and (number == 0 or host in ("127.0.0.1", "::1")):
        raise Warned(f"{address}: {'another port at every start' if number == 0 else 'reached from this machine only'}")
    if case.silence is not None:
        return f"{address}: who holds it is seen once this home's process answers"
    return f"{address} is {'free' if case.told is None else 'held by this node'}"


def doors(case: Case) -> str:
    """The running node's liveness and readiness."""
    if isinstance(case.silence, NotFound):
        raise Warned("a process uses this home and takes no orders: a node that starts, or an order without a node")
    if case.silence is not None:
        raise case.silence
    if case.told is None:
        return "no node runs"
    if case.told["waiting_for"]:
        raise Warned(f"alive, and not ready to take part: {'; '.join(case.told['waiting_for'])}")
    if case.told["faults"]:
        raise Warned(f"alive, ready, and this fails: {'; '.join(case.told['faults'])}")
    return "alive, ready"


@dataclass(frozen=True, slots=True)
class Check:
    """A row: what it is called, what it needs, what looks, how to mend it."""

    name: str
    needs: tuple[str, ...]
    look: Callable[[Case], str]
    fix: str


CHECKS: Final = (
    Check("home", (), home, "name a home that `koinon node init` or `koinon network init` made"),
    Check("settings", ("home",), settings, "mend the line of config.toml, or the KOINON_ variable, that is named"),
    Check("network", ("home",), network, "take network.json from another member; compare fingerprints by telephone"),
    Check(
        "password", ("settings",), password, "name the file in node.password_file; chmod 600; it is the service's own"
    ),
    Check("keys", ("password",), keys, "the password is another home's, or a key file is damaged: restore the backup"),
    Check("disk", ("home",), disk, "free room, or move the home to a larger disk while the node is stopped"),
    Check(
        "records",
        ("keys", "disk"),
        vault,
        "import the records: `koinon node init --data`; or restore the vault's backup",
    ),
    Check("store", ("home",), store, "restore the home's backup: docs/OPERATIONS.md, Back up, restore"),
    Check("roles", ("home", "network"), role_keys, "give each role's files to its person, out of the home; chmod 600"),
    Check("chain name", ("settings",), chain_name, "correct chain.url, or the name server of this machine"),
    Check(
        "chain connection",
        ("chain name",),
        chain_connection,
        "start the chain's client (`koinon chain serve`, or the consortium's), or open the firewall to its port",
    ),
    Check(
        "chain",
        ("chain connection", "network"),
        chain,
        "where no whole answer comes its client hangs: have it started again; another chain's answer means another "
        "chain.url: take it from whoever runs the chain, never change network.json",
    ),
    Check(
        "contracts",
        ("chain",),
        contracts,
        "the client has not read the chain to its end, or network.json is of another network",
    ),
    Check(
        "other endpoints",
        ("contracts",),
        witnesses,
        "an endpoint lags, lies or is down: ask its operator; see docs/CLIENTS.md",
    ),
    Check("clock", ("chain",), clock, "synchronise this machine's clock (chrony, systemd-timesyncd)"),
    Check(
        "synchronisation",
        ("chain", "store"),
        synchronisation,
        "wait; if it stays behind, the chain's client is halted; if the node disputes it, name another in chain.url",
    ),
    Check(
        "seat",
        ("keys", "store", "contracts"),
        seat,
        "apply with `koinon member apply`; after a key change restore the newest keys",
    ),
    Check("fees", ("seat",), fees, "have the account funded: `koinon chain fund`, or ask the consortium for coin"),
    Check(
        "port",
        ("settings", "network"),
        port,
        "name another node.listen, an address that others reach, or node.control_port: a port that nobody holds",
    ),
    Check(
        "node",
        ("home",),
        doors,
        "read the log; `koinon node status` tells what it waits for; a process that stands still has to be killed and "
        "started again: nothing is lost",
    ),
)
"""In the order in which a node needs things. `needs` are names of earlier rows."""

HOPS: Final = {
    "address": "nobody knows where it is: ask the member for its address, or wait until it dials us",
    "DNS": "the name in its address has no entry: ask the member, or this house's name server",
    "TCP": "it is down, or a firewall (theirs or ours) drops the connection: ask for its port to be opened to us",
    "Noise": "something else answers at that port: a proxy, another service, or another version",
    "identity": "somebody else answers at that address: compare the peer id with the member by telephone",
    "protocol": "it does not take us as a peer: it has not read our admission yet, or is of another version or network",
}
"""The way to a peer, in order, and what to do where it ends."""


# --------------------------------------------------------------------------------------------------------------------
# Running the table


def examine(path: Path, now: Callable[[], float] = time.time) -> tuple[Case, list[Finding]]:
    """Every check of a home, then every peer; nothing is raised for what is wrong with them."""
    case = Case(path, now, *_told(path))
    found: dict[str, Finding] = {}
    for check in CHECKS:
        found[check.name] = _carry_out(check, case, found)
    findings = list(found.values())
    if found["seat"].status == "passed":
        findings += trio.run(_peers, case)
    else:
        findings.append(
            Finding("peers", "skipped", "after seat" if found["seat"].status != "passed" else "after chain")
        )
    return case, findings


def _carry_out(check: Check, case: Case, found: dict[str, Finding]) -> Finding:
    for need in check.needs:
        if found[need].status in ("failed", "skipped"):
            return Finding(check.name, "skipped", f"after {need}")
    try:
        return Finding(check.name, "passed", check.look(case))
    except Warned as warning:
        return Finding(check.name, "warning", warning.message, check.fix)
    except NodeError as error:
        return Finding(check.name, "failed", error.message, check.fix, exit_code=error.exit_code)
    except OSError as error:
        why = f"{error.filename or case.path}: {_why(error)}"
        return Finding(check.name, "failed", why, check.fix, exit_code=ExitCode.LOCAL_FAULT)


def _told(path: Path) -> tuple[dict[str, Any] | None, NodeError | None]:
    if not in_use(path):
        return None, None
    try:
        return control.ask(open_home(path).control_path, "status", {}, STATUS_TIMEOUT_S), None
    except NodeError as error:
        return None, error


# --------------------------------------------------------------------------------------------------------------------
# Peers


@dataclass(frozen=True, slots=True)
class _Peer:
    name: str
    peer_id: bytes
    address: str


class _Ends(Exception):
    """The way to a peer ends at this hop."""

    def __init__(self, hop: str, why: str) -> None:
        super().__init__(why)
        self.hop, self.why = hop, why


def _registered(case: Case) -> Iterator[_Peer]:
    """Every active member and auditor but us, with the address that a node would dial."""
    registry, addresses = case.registry, runner.first_addresses(case.network)
    for member in registry.members.values():
        if member.active and member.peer_id != case.ring.peer.peer_id:
            yield _Peer(member.name, member.peer_id, registry.address_of(member, addresses))
    for auditor in registry.auditors.values():
        if auditor.peer_id != case.ring.peer.peer_id:
            yield _Peer(auditor.name, auditor.peer_id, addresses.get(auditor.peer_id, ""))


async def _peers(case: Case) -> list[Finding]:
    """The way to each peer, all at the same time."""
    peers = list(_registered(case))
    ways: dict[bytes, _Ends | str] = {}

    async def walk(peer: _Peer) -> None:
        try:
            ways[peer.peer_id] = await _walk(case, peer)
        except _Ends as end:
            ways[peer.peer_id] = end

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(walk, peer)
    reached = [peer for peer in peers if isinstance(ways[peer.peer_id], str)]
    greeted = await _greeted(case, reached)
    return [_finding(case, peer, ways[peer.peer_id], greeted.get(peer.peer_id)) for peer in peers]


def _finding(case: Case, peer: _Peer, way: _Ends | str, silence: str | None) -> Finding:
    name = f"peer {peer.name}"
    linked = (
        case.told is not None and case.told["peers"].get(peer.peer_id.hex(), {}).get("state") == Link.CONNECTED.value
    )
    if isinstance(way, _Ends) and linked:
        # It dialled us: the way there may end at its firewall and the two still speak.
        return Finding(name, "passed", f"connected by its own dialling; the way there ends at {way.hop}: {way.why}")
    if isinstance(way, _Ends) and not peer.address and case.told is None:
        return Finding(name, "warning", "no address of it is known: it dials us, while this node runs", HOPS["address"])
    if isinstance(way, _Ends):
        return Finding(name, "failed", f"{way.hop}: {way.why}", HOPS[way.hop], way.hop, ExitCode.TIMED_OUT)
    if silence is not None:
        return Finding(name, "failed", f"protocol: {silence}", HOPS["protocol"], "protocol", ExitCode.TIMED_OUT)
    return Finding(name, "passed", way)


async def _walk(case: Case, peer: _Peer) -> str:
    """DNS, TCP, Noise, identity; what was seen on the way, or `_Ends`."""
    if not peer.address:
        raise _Ends("address", "no address of it is known")
    try:
        host, number = _target(peer.address)
    except InputError as error:
        raise _Ends("address", error.message) from None
    try:
        found = await trio.socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _Ends("DNS", f"{host}: {_why(error)}") from None
    where = str(found[0][4][0])
    try:
        with trio.fail_after(DIAL_S):
            stream = await trio.open_tcp_stream(where, number)
    except (OSError, trio.TooSlowError) as error:
        raise _Ends("TCP", f"{where}, port {number}: {_why(error)}") from None
    async with stream:
        try:
            answered = await identify(stream, case.ring.peer)
        except PeerUnreachable as error:
            raise _Ends("Noise", f"{where}, port {number}: {error.message}") from None
    if answered != peer.peer_id:
        raise _Ends("identity", f"{peer_id_text(answered)} answers, the registry has {peer_id_text(peer.peer_id)}")
    return f"{host}, port {number}: DNS, TCP, Noise, identity, protocol"


async def _greeted(case: Case, peers: Sequence[_Peer]) -> dict[bytes, str]:
    """Why each of these is not connected although it can be reached; those that are connected are absent."""
    if not peers:
        return {}
    if case.told is not None:
        said = case.told["peers"]
        states = {
            peer.peer_id: said.get(peer.peer_id.hex(), {"state": "unknown to the node", "error": None})
            for peer in peers
        }
        return {
            peer: str(one["error"] or one["state"])
            for peer, one in states.items()
            if one["state"] != Link.CONNECTED.value
        }
    contracts = case.network.contracts
    transport = LibP2PTransport(
        case.ring.peer, runner.ANY_PORT, lambda: Hello(contracts.chain_id, contracts.membership, 0)
    )
    transport.set_allowed({peer.peer_id: peer.address for peer in peers})
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        with trio.move_on_after(GREET_S):
            while any(one.state is not Link.CONNECTED for one in transport.connected().values()):
                await transport.changed()
        states = dict(transport.connected())
        nursery.cancel_scope.cancel()
    return {
        peer: one.last_error or f"no answer within {GREET_S:g} s"
        for peer, one in states.items()
        if one.state is not Link.CONNECTED
    }


# --------------------------------------------------------------------------------------------------------------------
# Small parts


def _private(path: Path) -> None:
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise LocalFault(f"{path} can be read by others: chmod 600")


def _chain_host(case: Case) -> tuple[str, int]:
    url = case.settings["chain", "url"]
    try:
        parts = urlsplit(url)
        number = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise InputError(f"chain.url = {url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"chain.url = {url}: an address such as http://127.0.0.1:8545 is expected")
    return parts.hostname, number


def _resolve(host: str, number: int) -> list[str]:
    try:
        return sorted({str(one[4][0]) for one in socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)})
    except OSError as error:
        raise ChainUnreachable(f"DNS: {host}: {_why(error)}") from None


def _target(address: str) -> tuple[str, int]:
    try:
        return dial_target(address)
    except InputError:
        raise
    except ValueError as error:  # the library's own classes are ValueErrors
        raise InputError(f"{address[:200]!r} is not a multiaddress: {error}") from None


def _held_by_us(case: Case, host: str, number: int) -> None:
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    async def ask() -> bytes:
        with trio.fail_after(DIAL_S):
            stream = await trio.open_tcp_stream(here, number)
        async with stream:
            return await identify(stream, case.ring.peer)

    try:
        answered = trio.run(ask)
    except (OSError, trio.TooSlowError, PeerUnreachable) as error:
        raise LocalFault(f"the node runs, and {here}, port {number} does not answer so: {_why(error)}") from None
    if answered != case.ring.peer.peer_id:
        raise LocalFault(f"{here}, port {number} is held by another node, {peer_id_text(answered)}")


def _free(name: str, family: int, where: Any) -> None:
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except (OSError, OverflowError) as error:
            raise LocalFault(f"cannot listen on {name}: {_why(error)}") from None


def _kept_block(path: Path) -> int:
    if not (path / "node.db").exists():
        return -1
    store = Store(path, bytes(32))
    try:
        return store.last_block()
    finally:
        store.close()


def _why(error: BaseException) -> str:
    """One line about a fault of the operating system."""
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {DIAL_S:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


__all__ = ["CHECKS", "HOPS", "Case", "Check", "Finding", "Warned", "examine"]
