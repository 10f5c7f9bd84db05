"""A running node's figures as Prometheus text. Nothing here is about a patient, a consent or a peer's address.

What may live here: the table of figures. What each means for whoever is on duty is in docs/OPERATIONS.md, and a test
compares the two.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from node.doors import Counters, Link

if TYPE_CHECKING:
    from node.app import Node

Figure = Callable[["Node"], float]


def _counted(name: str) -> Figure:
    return lambda node: float(getattr(node.metrics, name))


def _at_the_door(name: str) -> Figure:
    return lambda node: float(getattr(node.counters, name))


def _connected(node: Node) -> float:
    return sum(one.state is Link.CONNECTED for one in node.links().values())


GAUGES: Final[dict[str, tuple[str, Figure]]] = {
    "ready": ("1 if the chain is followed to its end", lambda node: float(node.ready)),
    "obstacles": ("things that keep the node from taking part now: /readyz names them", lambda n: len(n.obstacles())),
    "up_seconds": ("seconds since the node started", lambda node: time.time() - node.metrics.started),
    "block": ("newest block that was read", lambda node: float(node.block)),
    "chain_time_seconds": ("chain time at the last look, unix seconds", lambda node: float(node.now)),
    "rounds_open": ("rounds with a machine", lambda node: float(node.open_rounds)),
    "peers_registered": ("registered peers, ourselves left out", lambda node: float(len(node.links()))),
    "peers_connected": ("registered peers with a connection", _connected),
    "chain_disputed": ("1 if the chain's endpoint contradicts itself or another", lambda node: float(node.disputed)),
    "disk_free_bytes": ("free on the disk of the home", lambda node: float(shutil.disk_usage(node.folder).free)),
}

COUNTERS: Final[dict[str, tuple[str, Figure]]] = {
    "records_total": ("ledger records read", _counted("records")),
    "trainings_total": ("local trainings started", _counted("trainings")),
    "training_seconds_total": ("seconds spent in local trainings", _counted("training_s")),
    "notices_refused_total": ("notices that broke the protocol", _counted("peer_errors")),
    "chain_errors_total": ("times the chain did not answer or answered wrongly", _counted("chain_errors")),
    "reorganisations_total": ("times blocks that were read left the chain", _counted("reorganisations")),
    "strangers_total": ("connections refused because the peer is not registered", _at_the_door("strangers")),
    "malformed_total": ("messages refused by the codec", _at_the_door("malformed")),
    "busy_total": ("requests refused for their number, bytes or time", _at_the_door("busy")),
    "slow_total": ("streams closed because a message did not arrive in time", _at_the_door("slow")),
    "crowded_total": ("streams refused because the peer had too many", _at_the_door("crowded")),
    "frozen_total": ("peers dropped because a heartbeat was not answered", _at_the_door("frozen")),
    "broken_total": ("connections closed because the peer broke the muxer's limits", _at_the_door("broken")),
    "displaced_total": ("unproved connections closed to make room for later ones", _at_the_door("displaced")),
    "faults_total": ("requests on which our own handler failed: a bug of ours", _at_the_door("failed")),
}

LABELLED: Final[dict[str, tuple[str, str, Callable[[Node], dict[str, float]]]]] = {
    "rounds_ended_total": (
        "rounds that this process saw end",
        "outcome",
        lambda node: {"final": 0.0, "failed": 0.0, **{key: float(one) for key, one in node.metrics.ended.items()}},
    ),
    "requests_total": (
        "requests to peers that were answered",
        "kind",
        lambda node: _traffic(node.counters, "requests"),
    ),
    "request_bytes_total": ("bytes of those requests", "kind", lambda node: _traffic(node.counters, "sent")),
    "reply_bytes_total": ("bytes of their answers", "kind", lambda node: _traffic(node.counters, "received")),
}


def _traffic(counters: Counters, what: str) -> dict[str, float]:
    return {kind: float(getattr(one, what)) for kind, one in sorted(counters.traffic.copy().items())}


class _Figures:
    """One look at a node, as prometheus_client wants it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        """Every figure of the tables."""
        for name, (text, figure) in GAUGES.items():
            yield GaugeMetricFamily(f"koinon_{name}", text, value=figure(self._node))
        for name, (text, figure) in COUNTERS.items():
            yield CounterMetricFamily(f"koinon_{name}", text, value=figure(self._node))
        for name, (text, label, figures) in LABELLED.items():
            family = CounterMetricFamily(f"koinon_{name}", text, labels=[label])
            for value, figure_ in figures(self._node).items():
                family.add_metric([value], figure_)
            yield family


def render(node: Node) -> bytes:
    """One scrape."""
    registry = CollectorRegistry()
    registry.register(_collector(node))
    return generate_latest(registry)


def _collector(node: Node) -> Any:
    return _Figures(node)
