"""A home's newest block, and its index of events up to that, from the evidence it keeps; nothing needs to run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from node.abi import Codec
from node.audit.home import Fault, HomeReader
from node.errors import VerificationFailed
from node.events import FILE, EventIndex
from node.evidence import VerifiedBlock, verify_block
from node.follower import logged_of
from node.home import Network, open_home, read_network
from node.trail import tell


def newest_block(home: Path) -> VerifiedBlock | None:
    """The newest block of a home's copy of the chain; None where it has none that its evidence proves."""
    try:
        store = HomeReader(home, None)
        try:
            return next((verify_block(evidence) for evidence, _, _ in store.evidence(store.last_block())), None)
        finally:
            store.close()
    except (Fault, VerificationFailed, ValueError):
        return None


def event_index(home: Path) -> EventIndex:
    """The index of a node's home, kept there as `events.db`; in memory where nobody may write. The caller closes it.

    Raises:
        VerificationFailed: the home's evidence is damaged; `verify_home` says more.
    """
    network = read_network(open_home(home).network_path)
    try:
        store = HomeReader(home, None)
        try:
            try:
                return _follow(EventIndex(home / FILE), store, network)
            except sqlite3.Error:
                return _follow(EventIndex(), store, network)
        finally:
            store.close()
    except Fault as fault:
        raise VerificationFailed(f"{home}: {fault}") from fault


def _follow(index: EventIndex, store: HomeReader, network: Network) -> EventIndex:
    kept = {int(number): bytes(block_hash) for number, block_hash in store.rows("SELECT number, hash FROM blocks")}
    last = next((number for number, block_hash in index.followed() if kept.get(number) == block_hash), -1)
    index.forget(last + 1)
    new = {number: block_hash for number, block_hash in kept.items() if number > last}
    if new:  # words need everything before them, so the whole chain is told again
        codec = Codec.load()
        blocks = (verify_block(evidence) for evidence, _, _ in store.evidence())
        logged = (one for block in blocks for one in logged_of(block, codec, network.contracts))
        index.extend((one for one in tell(logged) if one.block > last), new.items())
    return index


__all__ = ["event_index", "newest_block"]
