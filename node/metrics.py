"""A running node's figures as Prometheus text. Nothing here is about a patient, a consent or a peer's address."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, generate_latest

if TYPE_CHECKING:
    from node.app import Node


def render(node: Node) -> bytes:
    """One scrape."""
    registry = CollectorRegistry()

    def gauge(name: str, help_text: str, value: float) -> None:
        Gauge(f"koinon_{name}", help_text, registry=registry).set(value)

    status, counted, peers = node.status(), node.metrics, node.counters
    gauge("ready", "1 if the chain is followed to its end", float(node.ready))
    gauge("up_seconds", "seconds since the node started", time.time() - counted.started)
    gauge("block", "newest block that was read", status["block"])
    gauge("rounds_open", "rounds with a machine", len(status["rounds"]))
    connected = sum(one["state"] == "connected" for one in status["peers"].values())
    gauge("peers_connected", "registered peers with a connection", connected)
    gauge("records_total", "ledger records read", counted.records)
    gauge("trainings_total", "local trainings started", counted.trainings)
    gauge("notices_refused_total", "notices that broke the protocol", counted.peer_errors)
    gauge("chain_errors_total", "times the chain did not answer or answered wrongly", counted.chain_errors)
    gauge("reorganisations_total", "times blocks that were read left the chain", counted.reorganisations)
    gauge("chain_disputed", "1 if the chain's endpoint contradicts itself or another", float(node.disputed))
    gauge("strangers_total", "connections refused because the peer is not registered", peers.strangers)
    gauge("malformed_total", "messages refused by the codec", peers.malformed)
    return generate_latest(registry)
