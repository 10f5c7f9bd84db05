"""What is wrong with a chain's endpoint, found by asking it: for `koinon chain status` and `koinon node doctor`.

What may live here: the order of the questions. Each fault is raised as the error that names it; what proves nothing
either way (a second endpoint that is silent, a method that is missing) is a warning. Nothing is written anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from crypto.digest import Digest
from node.deployment import check_deployment, genesis_hash
from node.errors import ChainDisputed, LedgerError, LocalFault, NotFound, VerificationFailed
from node.home import Network
from node.jsonrpc import RpcError, quantity, word
from node.ledger import EthereumClient
from node.records import Head
from node.witnesses import PATIENCE_S, Witnesses

AHEAD_S: Final = 30
"""How far the newest block may be ahead of this machine's clock."""

TIMEOUT_S: Final = 5.0

OPTIONAL: Final[dict[str, Callable[[EthereumClient], Any]]] = {
    "pending block": lambda client: client.block("pending"),
    "eth_getBlockReceipts": lambda client: client.call("eth_getBlockReceipts", "0x0"),
    "eth_maxPriorityFeePerGas": lambda client: client.call("eth_maxPriorityFeePerGas"),
}
"""What a node uses where it is there: time told by the client, receipts in one question, tips."""


def examine(
    network: Network, url: str, check_urls: Sequence[str] = (), now: Callable[[], float] = time.time
) -> dict[str, Any]:
    """Ask an endpoint, and those it is compared with, everything a node depends on.

    Returns:
        `url`, `chain_id`, `genesis_hash`, `block`, `block_hash`, `timestamp`, `age_s` (of the newest block by this
        machine's clock), `contracts`, `check_urls`, `warnings`.

    Raises:
        ChainUnreachable: it does not answer, or not as a chain does.
        VerificationFailed: another chain, or other contracts.
        ChainDisputed: its newest block does not hash, or another endpoint has a different one, or has had another for
            longer than a node bears with.
        LocalFault: its clock and this machine's differ.
    """
    expected = network.contracts.chain_id
    client = EthereumClient(url, None, timeout_s=TIMEOUT_S, allow_public_chain=True)
    found = check_identity(client, network)
    check_deployment(client, network.contracts)
    latest = client.block("latest")
    number, timestamp, block_hash = quantity(latest["number"]), quantity(latest["timestamp"]), word(latest["hash"])
    ahead = timestamp - now()
    if ahead > AHEAD_S:
        raise LocalFault(f"the newest block at {url} is {ahead:.0f} s ahead of this machine's clock: set the clock")
    warnings = [f"{url}: no {name}" for name, ask in OPTIONAL.items() if not _has(client, ask)]
    others = [EthereumClient(one, expected, timeout_s=TIMEOUT_S, allow_public_chain=True) for one in check_urls]
    witnesses = Witnesses(url, others, time.monotonic)
    head = Head(number, block_hash, timestamp, number, timestamp)
    witnesses.compare(head, lambda one: _hash_of(client, one))
    warnings += [*witnesses.warnings, *filter(None, (_lag(client, one, now) for one in others))]
    return {
        "url": url,
        "chain_id": expected,
        "genesis_hash": found.hex(),
        "block": number,
        "block_hash": block_hash.hex(),
        "timestamp": timestamp,
        "age_s": max(0, round(-ahead)),
        "contracts": dict(network.raw["contracts"]),
        "check_urls": list(check_urls),
        "warnings": warnings,
    }


def check_identity(client: EthereumClient, network: Network) -> Digest:
    """The hash of block 0 there, which with the chain id has to be the network's; `VerificationFailed` if not."""
    expected = network.contracts.chain_id
    if client.chain_id != expected:
        raise VerificationFailed(f"the chain at {client.url} has id {client.chain_id}, network.json says {expected}")
    found = genesis_hash(client)
    if found != network.genesis_hash:
        raise VerificationFailed(
            f"block 0 at {client.url} is {found.hex()}, network.json says {network.genesis_hash.hex()}"
        )
    return found


def _lag(client: EthereumClient, other: EthereumClient, now: Callable[[], float]) -> str | None:
    """A warning that another endpoint lags. One look cannot wait: the first block that is missing says how long.

    Raises:
        ChainDisputed: it is the endpoint itself that lags.
    """
    try:
        theirs, ours = other.height(), client.height()
        if theirs == ours:
            return None
        behind, ahead, stands = (client, other, ours) if ours < theirs else (other, client, theirs)
        age = now() - quantity(ahead.block(stands + 1)["timestamp"])
    except (LedgerError, NotFound):
        return None  # it is silent, which is said already
    if age < PATIENCE_S:
        return None
    text = f"{behind.url} stands at block {stands}, {ahead.url} has a next one of {age:.0f} s ago: the first one lags"
    if behind is client:
        raise ChainDisputed(text)
    return text


def clock_offset(client: EthereumClient, now: Callable[[], float]) -> float | None:
    """Seconds by which this machine's clock is ahead of the chain's (negative: behind); None where it tells no time.

    A newest block from the future says that we are behind. That we are ahead shows only where the client stamps a
    pending block by its own clock; some give it the newest block's stamp or have none: a quiet chain proves nothing.

    Raises:
        LocalFault: more than `AHEAD_S`, either way.
    """
    latest = quantity(client.block("latest")["timestamp"])
    offset = now() - latest
    if offset >= 0:
        try:
            pending = quantity(client.block("pending")["timestamp"])
        except (RpcError, NotFound):
            return None
        if pending <= latest + AHEAD_S:
            return None
        offset = now() - pending
    if abs(offset) > AHEAD_S:
        side = "behind" if offset < 0 else "ahead of"
        raise LocalFault(
            f"this machine's clock is {abs(offset):.0f} s {side} the chain's at {client.url}: set the clock"
        )
    return offset


def _has(client: EthereumClient, ask: Callable[[EthereumClient], Any]) -> bool:
    try:
        ask(client)
    except (RpcError, NotFound):
        return False
    return True


def _hash_of(client: EthereumClient, number: int) -> Digest | None:
    try:
        return client.hash_of(number)
    except NotFound:
        return None
