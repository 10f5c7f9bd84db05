"""From a home to a running node: opens what is on disk, builds the doors, runs the nursery, takes orders.

What may live here: construction and the table of orders. What this file does not know: what an order does (`desk`,
`erasing`), how the command line looks (`cli`).
"""

from __future__ import annotations

import ctypes
import gc
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from crypto.digest import ZERO, Digest, sha256
from crypto.errors import CryptoError
from crypto.keys import KeyRing, address_text, parse_address, peer_id_text
from node import card as cards
from node import config, control, document, keystore, planning, proof, roles, succession
from node.abi import Codec
from node.app import Node
from node.desk import Desk
from node.errors import InputError, NodeError, NotFound, Refused, TimedOut
from node.evaluation import evaluate, export
from node.evidence import verify_block
from node.follower import Follower, logged_of
from node.governance import KINDS_OF_KEYS
from node.history import History
from node.home import Home, HomeLock, Network, in_use, open_home, read_network, read_password
from node.keystore import current_ring, public_keys
from node.ledger import EthereumClient, EthereumLedger, connect, hand_over
from node.messages import Hello
from node.metrics import render
from node.participant import Participant
from node.reports import disclosures
from node.reports.erasure import find_erasure
from node.reports.models import NOTED, Models, copies_of
from node.store import SentTransactions, Store
from node.study import parse_toml
from node.training import Trainer
from node.transport import LibP2PTransport, dial_target
from node.vault import Annex, Vault
from node.witnesses import Witnesses

log = structlog.get_logger("runner")
SYNC_TIMEOUT_S = 120.0
LOCAL_TIMEOUT_S = 10.0
KEYS_POLL_S = 1.0
M_ARENA_MAX = -8  # mallopt(3), malloc.h
STOPS = (signal.SIGTERM, signal.SIGINT)
ANY_PORT = "/ip4/127.0.0.1/tcp/0"
READS = frozenset(
    {
        "node.pending",
        "node.approve",
        "node.rotate",
        "consent.list",
        "consent.cards",
        "consent.forms",
        "consent.export",
        "erase.plan",
        "erase.status",
        "audit.prove",
        "audit.uses",
        "audit.disclosures",
        "model.evaluate",
        "model.export",
        "model.note",
        "status",
    }
)
"""Orders that are answered from what the home keeps; no chain and no peer need answer."""
LOCAL_FIRST = frozenset({"consent.withdraw", "consent.correct"})
"""Orders that take effect here at once and reach the chain when it answers."""
READ_S = 10.0  # that an order waits for a node that comes up to have read its chain
START_TIMEOUT_S = 30.0  # until a process that holds the home's lock opens its control endpoint
HOME_TIMEOUT_S = 15.0  # until an order's process lets go of the home: what is carried out without the chain has by then
ORDER_POLL_S = 0.2


@dataclass(slots=True)
class Opened:
    """A home with its parts open. `close` lets go of them."""

    home: Home
    network: Network
    settings: config.Config
    store: Store
    node: Node
    ledger: EthereumLedger
    ring: KeyRing  # the keys it was opened with: its peer id and its paying account
    lock: HomeLock

    def close(self) -> None:
        """Let go of files, worker and lock."""
        self.node.close()
        self.lock.release()


def open_node(path: Path, **flags: Any) -> Opened:
    """Open a node's home for exclusive use and put its node together; nothing runs yet.

    Raises:
        NotFound, LocalFault, InputError: the home, its lock, password, keys, vault or settings.
    """
    home = open_home(path)
    settings = config.load(home.config_path, **flags)
    network = read_network(home.network_path)
    lock = HomeLock(path)
    try:
        first, *later = keystore.load_all(home, read_password(home, settings["node", "password_file"]))
        key = keystore.at_rest_key(first)
        store = Store(path, key)
        vault = Vault.open(home.vault_path, key) if home.role == "member" else None
        me, seat = (home.index, None) if home.role == "member" else (None, home.index)
        participant = Participant(me, seat, first, network.contracts.domains, store, vault, later=tuple(later))
        codec = Codec.load()
        # Peer key and paying account are those of the keys that the kept chain has for us; `run_node` sees changes.
        ring = _kept_ring(participant, store, codec, network)
        ledger = connect(
            settings["chain", "url"],
            network.contracts,
            ring.ledger,
            SentTransactions(store),
            codec=codec,
            confirmations=settings["chain", "confirmations"],
        )
        register = Path(settings["study", "register"]) if settings["study", "register"] else None
        officer = officer_of(home, settings)
        auto_join = settings["study", "auto_join"]
        review_s = settings["erasure", "review_s"]
        desk = Desk(
            participant,
            network,
            auto_join=auto_join,
            register=register,
            officer=officer,
            review_s=review_s,
            history_bytes=settings["history", "budget_mb"] * 1_000_000,
        )
        contracts = network.contracts
        transport = LibP2PTransport(
            ring.peer, settings["node", "listen"], lambda: Hello(contracts.chain_id, contracts.membership, 0)
        )
        trainer = None
        if vault is not None:
            trainer = Trainer(settings["training", "timeout_s"], secret=keystore.noise_secret(key))
        announce = settings["node", "announce"]
        if announce:
            dial_target(announce)
        others = [EthereumClient(url, contracts.chain_id, timeout_s=3.0) for url in settings["chain", "check_urls"]]
        witnesses = Witnesses(settings["chain", "url"], others, time.monotonic)
        follower = Follower(ledger, store, codec, witnesses)
        poll_s = settings["chain", "poll_ms"] / 1000
        addresses = first_addresses(network)
        node = Node(participant, ledger, transport, trainer, follower, addresses, desk, poll_s, announce)
    except BaseException:
        lock.release()
        raise
    return Opened(home, network, settings, store, node, ledger, ring, lock)


def first_addresses(network: Network) -> dict[bytes, str]:
    """Peer id -> multiaddress, as the network's description has them. Members announce newer ones on the chain."""
    return {seat.peer_id: seat.address for seat in (*network.founders, *network.auditors)}


def officer_of(home: Home, settings: config.Config) -> Callable[[], bytes] | None:
    """How a node that enrols unattended gets at the dpo's key, each time anew; None where a person brings it.

    `node.dpo_password_file` names the password. `koinon network init` sets it, for everything lies on one machine then;
    `koinon node init` does not.
    """
    if not settings["node", "dpo_password_file"]:
        return None
    path = home.path / settings["node", "dpo_password_file"]
    return lambda: roles.officer_key(roles.load(home.path, "dpo", password_file=path))


def share_one_arena() -> None:
    """Have all threads take memory from one place; to be called before there is a second thread.

    The GNU C library gives each thread a place of its own and keeps there what the thread gave back. Work over a model
    runs now in one thread and now in another, so every one of them would hold a model's buffers.
    """
    with suppress(AttributeError, OSError):  # another C library, which has no such places
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


async def run_node(path: Path, *, ready: Callable[[], None] = lambda: None, **flags: Any) -> None:
    """Run the node of a home until SIGTERM or SIGINT.

    When the chain has new keys for this member, the node is put together anew with them: other peers know it by its new
    peer id only, and its new account pays. A second signal while it stops changes nothing: the files are closed and the
    control file is gone when it ends.
    """
    share_one_arena()
    gc.freeze()  # what was imported lives as long as the process: no collection need look at it again
    for number in STOPS:  # as the receiver leaves them: what comes then finds a process that ends anyway
        signal.signal(number, signal.SIG_IGN)
    with trio.open_signal_receiver(*STOPS) as signals:
        async with trio.open_nursery() as listening:
            stop = trio.Event()
            listening.start_soon(_listen, signals, stop)
            while await _run_once(path, ready, flags, stop):
                log.info("new keys are registered: starting again with them", home=str(path))
            listening.cancel_scope.cancel()


async def _listen(signals: AsyncIterator[int], stop: trio.Event) -> None:
    async for number in signals:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()


async def _run_once(path: Path, ready: Callable[[], None], flags: dict[str, Any], stop: trio.Event) -> bool:
    """Run until `stop` is set or until the registry has other keys for us; whether it is only the latter."""
    await _wait_for_home(path, stop)
    opened = open_node(path, **flags)
    try:
        rekeyed = await _serve(opened, ready, stop)
    finally:
        opened.close()
    await trio.lowlevel.checkpoint()  # what came meanwhile is heard
    return rekeyed and not stop.is_set()


async def _wait_for_home(path: Path, stop: trio.Event) -> None:
    """Wait a while for an order that found no node here and runs one of its own: it is soon over."""
    if in_use(path):
        log.warning("waiting for the process that uses this home", home=str(path), seconds=HOME_TIMEOUT_S)
    with trio.move_on_after(HOME_TIMEOUT_S):
        while in_use(path) and not stop.is_set():  # noqa: ASYNC110 - no process tells when it lets go of a lock
            await trio.sleep(ORDER_POLL_S)


async def _serve(opened: Opened, ready: Callable[[], None], stop: trio.Event) -> bool:
    """Run an open node until `stop` is set or the registry has other keys for us; whether it is the latter."""
    node, orders, rekeyed = opened.node, Orders(opened), False
    async with trio.open_nursery() as nursery:

        async def watch_keys() -> None:
            nonlocal rekeyed
            await trio.to_thread.run_sync(_gather_coin, opened)
            while public_keys(node.participant.ring) == public_keys(opened.ring):  # noqa: ASYNC110 - at our pace
                await trio.sleep(KEYS_POLL_S)
            with trio.move_on_after(LOCAL_TIMEOUT_S):  # the order that brought the keys is to be answered
                while orders.under_way:  # noqa: ASYNC110 - moments
                    await trio.sleep(KEYS_POLL_S / 10)
            rekeyed = True
            nursery.cancel_scope.cancel()

        with control.ControlServer(
            opened.home.control_path,
            opened.settings["node", "control_port"],
            orders.carry_out,
            lambda: node.alive,
            node.obstacles,
            lambda: render(node),
        ):
            await nursery.start(node.run)
            log.info("running", home=str(opened.home.path), member=node.participant.me)
            ready()
            nursery.start_soon(watch_keys)
            await stop.wait()
            nursery.cancel_scope.cancel()
    return rekeyed


def _gather_coin(opened: Opened) -> None:
    """Move the coin of the accounts we had to the one we have: it pays from now on."""
    for old in opened.node.participant.rings:
        if old.ledger.address == opened.ring.ledger.address:
            continue
        try:
            moved = hand_over(opened.ledger.client, old.ledger, opened.ring.ledger.address)
        except NodeError as error:
            log.warning("coin stays in an account of earlier keys", why=error.message)
        else:
            if moved:
                log.info("coin moved to the account of the new keys", wei=moved)


@asynccontextmanager
async def _session(path: Path, name: str) -> AsyncIterator[Opened]:
    """The node of a home, run in this process for as long as the block lasts and as far as the order needs it."""
    opened = open_node(path, node__listen=ANY_PORT)  # nobody need find us: we ask, and are soon gone
    try:
        if name in READS:
            await opened.node.load()
            yield opened
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.node.run)
            with trio.move_on_after(LOCAL_TIMEOUT_S if name in LOCAL_FIRST else SYNC_TIMEOUT_S) as scope:
                while not opened.node.ready:  # noqa: ASYNC110 - readiness is polled at the pace of the chain
                    await trio.sleep(0.05)
            if scope.cancelled_caught and name not in LOCAL_FIRST:
                raise TimedOut(f"the chain was not read to its end within {SYNC_TIMEOUT_S:g} s")
            yield opened
            nursery.cancel_scope.cancel()
    finally:
        opened.close()


def order(
    path: Path, name: str, body: dict[str, Any], timeout_s: float = 600.0, signer: roles.Signer | None = None
) -> dict[str, Any]:
    """Give an order to the node of a home: to the running one, else to one that runs for this order only.

    `signer` is who gives it; only `status` may be asked by nobody.

    Raises:
        NodeError: what the order led to.
    """
    home = open_home(path)

    def sign(door: str) -> dict[str, Any]:
        assert signer is not None
        return signer.sign(name, body, door)

    deadline = time.monotonic() + START_TIMEOUT_S
    while in_use(path):
        try:
            return control.ask(home.control_path, name, body, timeout_s, None if signer is None else sign)
        except NotFound:
            # A control file may be left behind by a killed process, or not be written yet.
            if time.monotonic() > deadline:
                break
            time.sleep(ORDER_POLL_S)

    async def act() -> dict[str, Any]:
        async with _session(path, name) as opened:
            with trio.move_on_after(timeout_s):
                given = body if signer is None else {**body, "authorisation": sign("")}
                return await Orders(opened).carry_out(name, given)
            raise TimedOut(f"`{name}` did not end within {timeout_s:g} s")

    try:
        return trio.run(act)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of ours in a nursery's group, else its first leaf."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, NodeError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


def read_history(path: Path) -> History:
    """The chain as a home has kept it, from evidence alone; nothing needs to run, and a running node may."""
    home = open_home(path)
    store = Store(path, bytes(32))
    try:
        return _kept_history(store, Codec.load(), read_network(home.network_path))
    finally:
        store.close()


def _kept_ring(participant: Participant, store: Store, codec: Codec, network: Network) -> KeyRing:
    """The keys that the chain, as far as the home has kept it, has for us."""
    if not participant.later:
        return participant.first
    return current_ring(participant.rings, _kept_history(store, codec, network).registry.keys_of(participant.me))


def _kept_history(store: Store, codec: Codec, network: Network) -> History:
    history = History()
    for evidence, _ in store.blocks():
        history.apply_all(logged_of(verify_block(evidence), codec, network.contracts))
    return history


# --------------------------------------------------------------------------------------------------------------------
# Orders


def _who(body: dict[str, Any]) -> dict[str, Any]:
    """The patient, consent or card that an order is about, typed."""
    found: dict[str, Any] = {}
    if body.get("patient") is not None:
        found["patient"] = str(body["patient"])
    if body.get("consent") is not None:
        found["consent"] = Digest.from_hex(str(body["consent"]))
    if body.get("card") is not None:
        found["card"] = str(body["card"]).encode()
    if len(found) != 1:
        raise InputError("name exactly one of a patient, a consent, a card")
    return found


def _erased(body: dict[str, Any], history: History) -> Digest | str | None:
    """What an order about an erasure names: its id or the beginning of it, a consent, or a patient; None for all."""
    if (start := body.get("erasure")) is not None and len(str(start)) < 64:
        return find_erasure(history, str(start))
    for key in ("erasure", "consent"):
        if body.get(key) is not None:
            return Digest.from_hex(str(body[key]))
    return None if body.get("patient") is None else str(body["patient"])


def _summary(name: str, body: dict[str, Any]) -> str:
    """What a second person is told that they approve; never a patient."""
    match name:
        case "consent.grant":
            text = str(body.get("register") or "")
            lines = max(0, sum(1 for line in text.splitlines() if line.strip()) - 1)
            return f"{lines} lines of a register, sha256 {sha256(text.encode()).hex()}" if text else "all records"
        case "consent.import":
            return f"{len(body['rows'])} grants from FHIR Consents"
        case "member.rotate":
            return (
                f"new keys of this member: {', '.join(key for key in ('ledger', 'sealing', 'peer') if body.get(key))}"
            )
        case "node.rotate":
            return f"a new key for the {str(body['role'])[:20]}, address {str(body['address'])[:42]}"
        case "erase.refuse":
            return f"erasure {str(body['erasure'])[:64]}, ground {int(body['ground'])} of Art. 17(3) GDPR"
        case _:
            model = "the newest model" if body.get("round") is None else f"the model of round {int(body['round'])}"
            study = "the only study" if body.get("study") is None else f"study {str(body['study'])[:64]}"
            recipient = "".join(c for c in str(body.get("recipient") or "") if c.isprintable())[:200]
            return f"{model} of {study}, for {recipient or 'nobody named'}"


class Orders:
    """The table of orders: name -> what it does with a JSON object, returning one."""

    def __init__(self, opened: Opened) -> None:
        """Orders for this node. `under_way`: how many are being carried out."""
        self.under_way = 0
        self._opened = opened
        self._node = opened.node
        self._desk = opened.node.desk
        self._gate = roles.Gate(opened.home, opened.node.participant.first.sealing)
        self._pending = roles.Pending(opened.store)
        self._table: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "study.create": self._create,
            "study.join": self._join,
            "study.leave": self._leave,
            "consent.grant": self._grant,
            "consent.withdraw": self._withdraw,
            "consent.correct": self._correct,
            "consent.forms": self._forms,
            "consent.list": self._consents,
            "consent.cards": self._cards,
            "consent.import": self._import,
            "consent.export": self._held,
            "audit.prove": self._prove,
            "audit.uses": self._uses,
            "audit.disclosures": self._disclosures,
            "audit.open": self._open_audit,
            "erase.request": self._erase,
            "erase.plan": self._erase_plan,
            "erase.status": self._erasures,
            "erase.receipt": self._erase_receipt,
            "erase.delivered": self._erase_delivered,
            "erase.refuse": self._erase_refuse,
            "erase.extend": self._erase_extend,
            "erase.record": self._erase_record,
            "member.approve": self._approve,
            "member.remove": self._remove,
            "member.rotate": self._rotate_keys,
            "member.revoke": self._revoke,
            "member.recover": self._recover,
            "member.seat-auditor": self._seat_auditor,
            "member.end-auditor": self._end_auditor,
            "member.succeed": self._succeed,
            "consent.withdraw-left": self._withdraw_left,
            "model.evaluate": self._evaluate,
            "model.export": self._export,
            "model.note": self._note,
            "node.pending": self._waiting,
        }

    async def carry_out(self, name: str, body: dict[str, Any], door: str = "") -> dict[str, Any]:
        """Carry out an order by its name, if who gives it may (`node/roles.py`).

        `door` is the token of the control endpoint it came by, "" for a node that runs for this order.

        Raises:
            InputError: unknown order.
            Refused: not signed by a role that may give it, or a second person has to approve it first.
        """
        if name not in self._table and name not in ("node.approve", "node.rotate"):
            raise InputError(f"unknown order {name!r}; known: {', '.join(self._table)}")
        envelope, body = body.get("authorisation"), {k: v for k, v in body.items() if k != "authorisation"}
        if name == "status":
            return await self._status(body)
        try:
            authority = self._gate.check(name, body, envelope, door)
        except Refused as error:
            if roles.needs_link(name, body) or name.startswith(("audit.", "consent.", "erase.")):
                await self._node.core(self._log_refusal, name, body, envelope, error.message)
            raise
        if name == "node.approve":
            assert isinstance(envelope, dict)
            return await self._node.core(self._pending.approve, str(body["order"]), authority.role, envelope)
        self.under_way += 1
        try:
            return await self._carried_out(name, body, authority)
        finally:
            self.under_way -= 1

    async def _carried_out(self, name: str, body: dict[str, Any], authority: roles.Authority) -> dict[str, Any]:
        await self._chain_read()
        await self._two_persons(name, body, authority)
        with self._link(name, authority):
            if name == "node.rotate":
                found = await self._node.core(self._rotate, body, authority)
            else:
                found = await self._table[name](body)
        if name in roles.TWO_PERSONS:
            await self._node.core(self._pending.done, name, body)
        return found

    async def _chain_read(self) -> None:
        """Wait a moment for a node that comes up to have read its chain: before, it knows no member, not even itself.

        An order that stops a use is carried out without it all the same, where the chain does not come.
        """
        with trio.move_on_after(READ_S):
            while not self._node.history.registry.members:  # noqa: ASYNC110 - moments
                await trio.sleep(0.05)

    async def _two_persons(self, name: str, body: dict[str, Any], authority: roles.Authority) -> None:
        rule = roles.TWO_PERSONS.get(name)
        if rule is None or not rule.applies(body):
            return
        if rule.synthetic_exempt and self._opened.network.synthetic:
            return
        check = {"consent.import": self._check_import, "erase.refuse": self._check_refusal}.get(name)
        if check is not None:  # nobody is asked to approve what cannot be carried out
            await self._node.core(check, body)
        if name == "consent.import" and not await self._grants_anything(body, authority):
            return
        try:
            await self._node.core(self._pending.need, name, body, authority.role, _summary(name, body))
        except Refused as waits:
            if name == "consent.import" and body["ends"]:  # stopping waits for nobody
                raise Refused(f"{waits.message}. {await self._stop_only(body, authority)}") from None
            raise

    async def _stop_only(self, body: dict[str, Any], authority: roles.Authority) -> str:
        """The ends of an import, while its grants wait for a second person; what they did, in a sentence."""
        with self._link("consent.import", authority):
            done = await self._import({**body, "rows": []})
        nothing = "".join(f"; {one['where']} ends nothing: {one['why']}" for one in done["nothing_ended"])
        return f"What it ends has ended already: {len(done['ended'])} consents{nothing}"

    def _check_import(self, body: dict[str, Any]) -> None:
        self._desk.check_import(self._study(body), list(body["rows"]), list(body["ends"]), self._node.now)

    async def _grants_anything(self, body: dict[str, Any], authority: roles.Authority) -> bool:
        """Whether an import grants what is not granted: nobody is asked to approve what changes nothing."""
        rows, ends = list(body["rows"]), list(body["ends"])
        with self._link("consent.import", authority):
            found: bool = await self._node.core(
                self._desk.grants_anything, self._study(body), rows, ends, self._node.now
            )
        return found

    def _check_refusal(self, body: dict[str, Any]) -> None:
        batch = Digest.from_hex(str(body["erasure"]))
        self._node.erasing.refusable(batch, int(body["ground"]), str(body["authority"]))

    @contextmanager
    def _link(self, name: str, authority: roles.Authority) -> Iterator[None]:
        """LINK, open for this order if it brought the dpo's key; every use of it is logged first."""
        vault = self._node.participant.vault
        if authority.officer is None or vault is None or not vault.needs_officer:
            yield
            return
        with vault.unlocked(authority.officer, roles.witness(self._opened.store, authority.role, name)):
            yield

    def _log_refusal(self, name: str, body: dict[str, Any], envelope: object, why: str) -> None:
        """Somebody was refused an order about persons: under the consent's id while it is here, else under an alias."""
        named = envelope.get("role") if isinstance(envelope, dict) else None
        role = named if named in roles.ROLES else "nobody"
        subject = ""
        if isinstance(body.get("consent"), str):
            subject = secrets.token_hex(16)
            try:
                consent = Digest.from_hex(body["consent"])
                if self._node.participant.vault is not None:
                    self._node.participant.vault.find(consent)
                    subject = consent.hex()
            except (NodeError, CryptoError, ValueError):
                pass
        roles.log_link(self._opened.store, str(role), name, "asked", (subject,), why=why)

    def _rotate(self, body: dict[str, Any], authority: roles.Authority) -> dict[str, Any]:
        """Put a role's new key in force; with the dpo's, LINK opens with both until the home takes the new one."""
        role, path, vault = str(body["role"]), self._opened.home.path, self._node.participant.vault
        if role not in roles.ROLES:
            raise InputError(f"role {role[:40]!r} is none of {', '.join(roles.ROLES)}")
        address, new = parse_address(str(body["address"])), authority.successor
        if role == "dpo":
            if new is None or roles.fingerprint(new) != body.get("officer"):
                raise InputError("the dpo's next key did not come with the order, or is another than was approved")
            if vault is not None and vault.needs_officer:
                vault.admit_officer(new)
        roles.take_address(path, role, address)
        if role == "dpo" and new is not None and vault is not None and vault.needs_officer:
            vault.keep_officer(new)
        return {"role": role, "address": address_text(address)}

    async def _waiting(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"orders": await self._node.core(self._pending.listed)}

    async def _status(self, body: dict[str, Any]) -> dict[str, Any]:
        found = self._node.status()
        vault = self._node.participant.vault
        shape: tuple[int, ...] | None = None
        classes: int | None = None
        if vault is not None:
            shape, classes, _ = await self._node.core(vault.shape)
        task = await self._node.core(self._opened.store.meta, "task")
        return {**found, "data_shape": shape, "classes": classes, "task": task}

    def _study(self, body: dict[str, Any]) -> Digest:
        return self._desk.pick_study(body.get("study"))

    async def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        study = await self._desk.create_study(self._node, parse_toml(str(body["spec"]).encode()))
        return {"study": study.hex()}

    async def _join(self, body: dict[str, Any]) -> dict[str, Any]:
        study = self._study(body)
        await self._desk.join(self._node, study)
        return {"study": study.hex()}

    async def _leave(self, body: dict[str, Any]) -> dict[str, Any]:
        study = self._study(body)
        await self._desk.leave(self._node, study, anyway=bool(body.get("anyway")))
        return {"study": study.hex()}

    async def _grant(self, body: dict[str, Any]) -> dict[str, Any]:
        register = str(body["register"]).encode() if body.get("register") is not None else None
        study = self._study(body)
        if body.get("lift") is not None and register is not None:
            await self._node.core(self._desk.lift, study, register, str(body["lift"]), self._node.now)
        return await self._desk.grant(self._node, study, register, bool(body.get("all")))

    async def _withdraw(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.withdraw(self._node, **_who(body))

    async def _correct(self, body: dict[str, Any]) -> dict[str, Any]:
        who = _who(body)
        if "card" in who:
            raise InputError("a correction is the hospital's own: name the patient or the consent")
        return await self._desk.correct(self._node, str(body.get("reason", "")), **who)

    async def _forms(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"forms": await self._node.core(self._desk.forms, self._study(body))}

    async def _consents(self, body: dict[str, Any]) -> dict[str, Any]:
        study = self._study(body) if body.get("study") else None
        return {"consents": await self._node.core(self._desk.consents, self._node.now, study)}

    async def _cards(self, body: dict[str, Any]) -> dict[str, Any]:
        who = _who(body)
        found = await self._node.core(self._desk.card, who.get("patient") or who["consent"])
        return {
            "cards": [cards.encode(one).decode() for one in found],
            "svg": [cards.card_svg(one).decode() for one in found],
        }

    async def _import(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.take_in(self._node, self._study(body), list(body["rows"]), list(body["ends"]))

    async def _held(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"held": await self._node.core(self._desk.held, self._study(body), self._node.now)}

    async def _prove(self, body: dict[str, Any]) -> dict[str, Any]:
        made = await self._node.core(self._make_proof, body)
        return {"proof": document.write(made).decode()}

    def _make_proof(self, body: dict[str, Any]) -> dict[str, Any]:
        """A proof about a consent's leaf: for whoever shows its card, or by the hospital that holds it."""
        who, history = _who(body), self._node.history
        if "patient" in who:
            raise InputError("a proof is about a consent: name it, or show its card")
        shown: cards.Card | Annex
        if "card" in who:
            shown = cards.parse(who["card"])
            cards.check_network(shown, self._opened.network)
            study, hospital = shown.origin.study, shown.origin.member
        else:
            shown = self._desk.vault.annex(who["consent"])
            study, hospital = shown.study, self._desk.member
        opening = proof.Opening(shown.consent_id, shown.holder, shown.holder_salt, shown.doc_commit, shown.leaf_key)
        if body.get("from") is not None:
            rounds = proof.agreed_rounds(history, study, int(body["from"]))
        else:
            height = int(body["round"])
            rounds = [one for one in proof.agreed_rounds(history, study, height) if one.opened.height == height]
        if not rounds:
            line = history.studies[study].active_branch
            asked = f"from {body['from']} on" if body.get("from") is not None else f"of number {body['round']}"
            raise NotFound(
                f"study {study.hex()[:12]}: its line that trains now ({line}) has no agreed round {asked} yet"
            )
        return proof.make(
            self._opened.network,
            history,
            self._node.participant,
            study=study,
            hospital=hospital,
            opening=opening,
            rounds=rounds,
        )

    async def _disclosures(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"rows": await self._node.core(self._account, body)}

    async def _uses(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._node.core(self._find_uses, body)

    def _find_uses(self, body: dict[str, Any]) -> dict[str, Any]:
        """In which rounds of every line a consent's leaf was in its hospital's set, as far as this node can tell."""
        who = _who(body)
        if "patient" in who:
            raise InputError("this is about a consent: name it, or show its card")
        if "consent" in who:
            consent, hospital = who["consent"], self._desk.member
            study, found = self._desk.vault.annex(consent).study, self._desk.findings(consent)
        else:
            card = cards.parse(who["card"])
            cards.check_network(card, self._opened.network)
            consent, study, hospital = card.consent_id, card.origin.study, card.origin.member
            if study not in self._node.history.studies:
                raise NotFound(f"study {study.hex()[:12]} is not on the chain, as far as it is read here")
            found = proof.findings(self._node.history, self._node.participant, study, hospital, card.leaf_key)
        batch = self._node.erasing.batch_of(consent)  # as far as openings that are kept here tell
        erasure = None if batch is None or batch not in self._node.history.erasures else batch.hex()
        return {"study": study.hex(), "hospital": hospital, "rounds": found, "erasure": erasure}

    def _account(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """To whom updates computed from a patient's records went: by the sets, and by the archive for the erased."""
        who, history, vault = _who(body), self._node.history, self._desk.vault
        if "card" in who:
            who = {"consent": cards.parse(who["card"]).consent_id}
        kept = vault.archived(who["patient"]) if "patient" in who else ()
        archived = tuple(one for one in kept if one.decision == "erased")  # a refused erasure's consent is still held
        try:
            held = vault.find(who.get("patient") or who["consent"])
        except NotFound:
            if not archived:
                raise
            held = ()
        rows = disclosures.of_archive(self._desk.hospital, archived)
        unknown = [disclosures.of_unknown(one.study_name, "other rounds") for one in archived if one.ground]
        for one in held:
            name, uses = self._node.participant.study(one.study).study.name, self._desk.findings(one.consent_id)
            rows += disclosures.of_consent(history, name, one.member, uses)
            lost = [use for use in uses if use["finding"] == proof.UNKNOWN]
            unknown += [disclosures.of_unknown(name, rounds) for rounds in disclosures.by_line(lost)]
        return sorted(rows, key=lambda row: (row["date"], row["recipient"])) + unknown

    async def _erase(self, body: dict[str, Any]) -> dict[str, Any]:
        method = None if body.get("method") is None else str(body["method"])
        who = {"everyone": self._desk.pick_study(body.get("study"))} if body.get("everyone") else _who(body)
        return await self._node.erasing.request(self._node, **who, method=method)

    async def _erase_plan(self, body: dict[str, Any]) -> dict[str, Any]:
        """What an erasure would take; the estimate runs beside the node's turn."""
        who = {"erasure": str(body["erasure"])} if body.get("erasure") is not None else _who(body)
        subjects = await self._node.core(partial(self._node.erasing.subjects, **who))
        studies = []
        for one in subjects:
            found = await self._node.core(planning.gather, self._node.participant, one)
            studies.append(await trio.to_thread.run_sync(planning.rows, found, self._node.now))
        return {"now": self._node.now, "studies": studies}

    async def _erasures(self, body: dict[str, Any]) -> dict[str, Any]:
        erasing, now = self._node.erasing, self._node.now
        if body.get("card") is not None:
            return await self._node.core(erasing.status, cards.parse(str(body["card"]).encode()).consent_id, now)
        if (who := await self._node.core(_erased, body, self._node.history)) is not None:
            return await self._node.core(erasing.status, who, now)
        batches = list(self._node.history.erasures)
        return {"erasures": [await self._node.core(erasing.status, batch, now) for batch in batches]}

    async def _erase_receipt(self, body: dict[str, Any]) -> dict[str, Any]:
        who = await self._node.core(_erased, body, self._node.history)
        if who is None:
            raise InputError("name an erasure, a consent or a patient")
        document, batch, consent = await self._node.erasing.receipt(self._node, who)
        whose = None if consent is None else consent.hex()
        return {"certificate": document, "erasure": batch.hex(), "consent": whose}

    async def _erase_delivered(self, body: dict[str, Any]) -> dict[str, Any]:
        batch, consent = (Digest.from_hex(str(body[name])) for name in ("erasure", "consent"))
        await self._node.erasing.delivered(self._node, batch, consent)
        return {}

    async def _erase_refuse(self, body: dict[str, Any]) -> dict[str, Any]:
        batch = Digest.from_hex(str(body["erasure"]))
        authority = str(body["authority"])
        notice = await self._node.erasing.refuse(self._node, batch, int(body["ground"]), authority)
        return {"erasure": batch.hex(), "notice": notice}

    async def _erase_extend(self, body: dict[str, Any]) -> dict[str, Any]:
        batch = Digest.from_hex(str(body["erasure"]))
        due_at, notice = await self._node.erasing.extend(self._node, batch, int(body["days"]), str(body["reason"]))
        return {"erasure": batch.hex(), "due_at": due_at, "notice": notice}

    async def _erase_record(self, body: dict[str, Any]) -> dict[str, Any]:
        one = await self._node.erasing.attested(self._node, str(body["attestation"]).encode())
        return {"erasure": one.batch.hex(), "level": one.level, "seat": one.seat, "evidence": one.evidence.hex()}

    async def _approve(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.governance.approve(self._node, dict(body["application"]))

    async def _remove(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.governance.remove(self._node, int(body["index"]))

    async def _rotate_keys(self, body: dict[str, Any]) -> dict[str, Any]:
        kinds = {kind for kind in KINDS_OF_KEYS if body.get(kind)}
        new, epoch, resumed = await self._desk.governance.rotate(self._node, kinds, self._keep_keys)
        return {
            "index": self._node.participant.me,
            "epoch": epoch,
            "resumed": resumed,
            "ledger_address": address_text(new.ledger.address),
            "peer_id": peer_id_text(new.peer.peer_id),
            "sealing_key": new.sealing.public.hex(),
        }

    def _keep_keys(self, ring: KeyRing) -> None:
        opened = self._opened
        keystore.add(opened.home, read_password(opened.home, opened.settings["node", "password_file"]), ring)
        participant = self._node.participant
        participant.later = (*participant.later, ring)

    async def _revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.governance.revoke(self._node, int(body["index"]))

    async def _recover(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.governance.recover(self._node, dict(body["application"]))

    async def _seat_auditor(self, body: dict[str, Any]) -> dict[str, Any]:
        study = ZERO if body.get("every_study") else self._study(body)
        found = await self._desk.governance.seat_auditor(
            self._node, dict(body["application"]), study, int(body["term_end"])
        )
        return {**found, "study": None if study == ZERO else study.hex(), "term_end": int(body["term_end"])}

    async def _end_auditor(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.governance.end_auditor(self._node, int(body["seat"]))

    async def _open_audit(self, body: dict[str, Any]) -> dict[str, Any]:
        return await self._desk.open_audit(self._node, self._study(body), int(body["seat"]))

    async def _succeed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Our vote for the next deployment, where we have one, and our seat at it."""
        opened, participant = self._opened, self._node.participant
        contracts = succession.read_plan(dict(body["plan"]), opened.network).contracts
        home, registry = opened.home, participant.history.registry
        seat = registry.members.get(home.index) if home.role == "member" else registry.auditors.get(home.index)
        if seat is None:
            raise NotFound(f"the chain, as this home has it, has no {home.role} {home.index}")
        found: dict[str, Any] = {"votes": [], "needed": registry.needed, "decided": False}
        if participant.me is not None:
            found = await self._desk.governance.succeed(self._node, contracts.membership)
        listen = opened.settings["node", "listen"]
        ours = succession.write_seat(participant.ring, home.role, home.index, seat.name, listen, contracts)
        return {**found, "seat": ours}

    async def _withdraw_left(self, body: dict[str, Any]) -> dict[str, Any]:
        consent = Digest.from_hex(str(body["consent"]))
        return await self._desk.governance.withdraw_left(self._node, int(body["hospital"]), consent)

    async def _evaluate(self, body: dict[str, Any]) -> dict[str, Any]:
        height = int(body["round"]) if body.get("round") is not None else None
        path = Path(body["data"]) if body.get("data") is not None else None
        return await evaluate(self._node, self._study(body), height, path)

    async def _export(self, body: dict[str, Any]) -> dict[str, Any]:
        height = int(body["round"]) if body.get("round") is not None else None
        found = await export(self._node, self._study(body), height)
        entry = {name: found[name] for name in ("study", "round", "model_root")}
        entry["recipient"] = str(body.get("recipient") or "")[:200]
        await self._node.core(self._node.participant.store.log, float(self._node.now), "model_export", entry)
        return found

    async def _note(self, body: dict[str, Any]) -> dict[str, Any]:
        """Keep that a model was made from another one that is known here."""
        return await self._node.core(self._note_made, body, self._node.now)

    def _note_made(self, body: dict[str, Any], now: int) -> dict[str, Any]:
        made, parent = (Digest.from_hex(str(body[name])) for name in ("model_root", "parent"))
        holder = str(body["by"])
        if not holder.strip() or len(holder) > 200 or not holder.isprintable():
            raise InputError("who holds the model: one line of at most 200 characters")
        store = self._node.participant.store
        known = Models(self._node.history, copies_of(store.log_entries()))
        origins = known.origins(parent)
        if known.is_agreed(made):
            raise InputError(f"{made.hex()} is a model of the ledger itself: nothing was made from it")
        if known.descends(parent, made):
            raise InputError(f"{parent.hex()} was made from {made.hex()}: one of the two came first")
        entry = {"model_root": made.hex(), "parent": parent.hex(), "by": holder}
        store.log(float(now), NOTED, entry)
        return {**entry, "made_from": [one.hex() for one in origins]}
