"""Moving a network to a second deployment on its chain: planned, voted for, founded, taken into each home.

What may live here: the files that the steps hand to each other, and what each step checks. What this file does not
know: how votes travel (`governance`), how contracts are created (`deployment`), what the history means (`history`).

    plan      where the new contracts will lie, from the account that will create them          koinon.successor/1
    succeed   every member votes for that address and signs its seat there                      koinon.seat/1
    found     at rest, from all seats and one home's history: the contracts, and a description  koinon.network/1
    move      each home takes the new description; its node goes on there

A network keeps chain, fingerprint, indexes, studies, consents and cards. Nothing of the old deployment is switched off:
withdrawals and erasures at it are taken for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.keys import KeyRing, LedgerKey, address_text, parse_address, parse_peer_id, peer_id_text
from crypto.statements import Seat as SeatStatement
from crypto.statements import sign
from node.deployment import PlannedDeployment, deploy, plan_deployment
from node.erasure import under_way
from node.errors import InputError, Refused, VerificationFailed
from node.events import FILE as EVENTS
from node.history import History
from node.home import HomeLock, Network, Seat, network_json, open_home, parse_network, read_network, write_json
from node.ledger import EthereumClient
from node.records import Contracts, SeatInput

PLAN_SCHEMA: Final = "koinon.successor/1"
SEAT_SCHEMA: Final = "koinon.seat/1"
PARTS: Final = ("membership", "consent", "training", "unlearning")
NOBODY: Final = SeatInput(bytes(20), b"", bytes(32), "", b"")
"""Stands at an index or seat where nobody is active."""


def write_plan(client: EthereumClient, deployer: LedgerKey, network: Network) -> dict[str, Any]:
    """Where this account would put the next deployment; it must send nothing else until that is done."""
    planned = plan_deployment(client, deployer.address, network.contracts)
    return {
        "schema": PLAN_SCHEMA,
        "network": network.fingerprint,
        "deployer": address_text(planned.deployer),
        "nonce": planned.nonce,
        "contracts": {part: address_text(getattr(planned.contracts, part)) for part in PARTS},
    }


def read_plan(raw: dict[str, Any], network: Network) -> PlannedDeployment:
    """A plan for this network.

    Raises:
        InputError: no plan, or one for another network.
    """
    try:
        if raw["schema"] != PLAN_SCHEMA:
            raise InputError(f"not a plan for a move ({PLAN_SCHEMA})")
        if raw["network"] != network.fingerprint:
            raise InputError(f"the plan is for network {raw['network']}, this is network {network.fingerprint}")
        places = (parse_address(raw["contracts"][part]) for part in PARTS)
        contracts = Contracts(network.contracts.chain_id, *places, before=network.contracts)
        nonce = raw["nonce"]
        if type(nonce) is not int or nonce < 0:
            raise InputError(f"the plan's nonce is {nonce!r}")
        return PlannedDeployment(parse_address(raw["deployer"]), nonce, contracts)
    except (KeyError, TypeError, ValueError, CryptoError) as error:
        raise InputError(f"not a plan for a move: {type(error).__name__}: {error}") from error


def write_seat(ring: KeyRing, role: str, index: int, name: str, address: str, contracts: Contracts) -> dict[str, Any]:
    """Our seat at the next deployment, signed for it. `address`: where our node listens."""
    statement = SeatStatement(role, ring.peer.peer_id, ring.sealing.public, name)
    return {
        "schema": SEAT_SCHEMA,
        "role": role,
        "index": index,
        "name": name,
        "ledger": address_text(ring.ledger.address),
        "peer_id": peer_id_text(ring.peer.peer_id),
        "sealing_key": ring.sealing.public.hex(),
        "address": address,
        "signature": sign(statement, contracts.domains.of(statement), ring.ledger).hex(),
    }


def read_seat(raw: dict[str, Any]) -> tuple[str, Seat, SeatInput]:
    """Role, seat as `network.json` names it, and as the contract takes it.

    Raises:
        InputError: no seat.
    """
    try:
        if raw["schema"] != SEAT_SCHEMA or raw["role"] not in ("member", "auditor") or type(raw["index"]) is not int:
            raise InputError(f"not a seat ({SEAT_SCHEMA})")
        sealing = Digest.from_hex(raw["sealing_key"])
        ledger, peer_id, name = parse_address(raw["ledger"]), parse_peer_id(raw["peer_id"]), str(raw["name"])
        seat = Seat(raw["index"], name, ledger, peer_id, bytes(sealing), str(raw["address"]))
        return raw["role"], seat, SeatInput(ledger, peer_id, bytes(sealing), name, bytes.fromhex(raw["signature"]))
    except (KeyError, TypeError, ValueError, CryptoError) as error:
        raise InputError(f"not a seat: {type(error).__name__}: {error}") from error


def check_at_rest(history: History, successor: bytes) -> None:
    """Raise `Refused` unless the members named this successor and nothing is under way at the deployment before it."""
    named = history.registry.successor
    if named != successor:
        said = "no successor yet" if named is None else f"{address_text(named)} as its successor"
        raise Refused(f"the network named {said}, not {address_text(successor)}: the members vote first")
    for study in history.studies:
        one = history.open_round(study)
        if one is not None:
            raise Refused(f"round {one.opened.height} of study {study.hex()[:12]} is open: it ends first")
    for batch in under_way(history):
        raise Refused(f"erasure {batch.hex()[:16]} is planned and not closed: it is closed first")


def found_successor(
    client: EthereumClient,
    deployer: LedgerKey,
    network: Network,
    history: History,
    planned: PlannedDeployment,
    seats: Sequence[dict[str, Any]],
) -> Network:
    """Create the contracts with everything that goes on there; the network's new description.

    Raises:
        InputError: a seat that is missing, given twice, or nobody's.
        Refused: something is still under way (`check_at_rest`).
        LedgerError, ChainUnreachable: as `deploy`; said again, it goes on where it ended.
    """
    registry = history.registry
    check_at_rest(history, planned.contracts.membership)
    given = [read_seat(raw) for raw in seats]
    now = client.block("latest")["timestamp"]
    sitting = {seat: one for seat, one in registry.auditors.items() if one.sits(int(str(now), 16))}
    active = {index: one for index, one in registry.members.items() if one.active}
    members, auditors = _chosen("member", given, active), _chosen("auditor", given, sitting)
    deploy(
        client,
        deployer,
        planned,
        [members[index][1] if index in members else NOBODY for index in range(len(registry.members))],
        [auditors[seat][1] if seat in auditors else NOBODY for seat in range(len(registry.auditors))],
        studies=[history.continuation(study) for study in history.studies],
    )
    return described(network, planned.contracts, [s for s, _ in members.values()], [s for s, _ in auditors.values()])


def described(network: Network, contracts: Contracts, members: Sequence[Seat], auditors: Sequence[Seat]) -> Network:
    """The network at its next deployment."""
    raw = network_json(
        network.name,
        network.chain_url,
        network.genesis_hash,
        contracts,
        tuple(members),
        tuple(auditors),
        network.synthetic,
        before=network.raw,
    )
    return parse_network(raw)


def _chosen(
    role: str, given: Sequence[tuple[str, Seat, SeatInput]], wanted: dict[int, Any]
) -> dict[int, tuple[Seat, SeatInput]]:
    found: dict[int, tuple[Seat, SeatInput]] = {}
    for kind, seat, entry in given:
        if kind != role:
            continue
        if seat.index not in wanted or seat.index in found:
            raise InputError(f"the seat of {role} {seat.index} is given twice, or nobody active has it")
        one = wanted[seat.index]
        if (one.ledger, one.peer_id, one.sealing_key, one.name) != (
            seat.ledger,
            seat.peer_id,
            seat.sealing_key,
            seat.name,
        ):
            raise InputError(f"the seat of {role} {seat.index} has other keys or another name than on the chain")
        found[seat.index] = (seat, entry)
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise InputError(f"the seats of {role}s {missing} are missing: each says `koinon member succeed`")
    return dict(sorted(found.items()))


def move_home(path: Path, network: Network, history: History) -> None:
    """Let a home, whose node must not run, go on at the next deployment.

    Raises:
        LocalFault: the home is in use.
        VerificationFailed: the description does not continue this home's network, or not as its members voted.
    """
    home = open_home(path)
    own = read_network(home.network_path)
    if network.contracts == own.contracts:
        return
    if network.before is None or network.before.contracts != own.contracts or network.fingerprint != own.fingerprint:
        raise VerificationFailed("the description does not continue the deployment that this home is at")
    named = history.registry.successor
    if named != network.contracts.membership:
        said = "none" if named is None else address_text(named)
        raise VerificationFailed(
            f"the members' vote, as this home has it, names {said} as the successor, "
            f"the description {address_text(network.contracts.membership)}"
        )
    lock = HomeLock(path)
    try:
        kept = replace(network, raw={**network.raw, "before": own.raw, "chain": own.raw["chain"]})
        (path / EVENTS).unlink(missing_ok=True)  # derived: it is made anew, and then spans both
        write_json(home.network_path, kept.raw)
    finally:
        lock.release()


__all__ = [
    "check_at_rest",
    "described",
    "found_successor",
    "move_home",
    "read_plan",
    "read_seat",
    "write_plan",
    "write_seat",
]
