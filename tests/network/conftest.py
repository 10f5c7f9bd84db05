"""Real processes on this machine: a founded network of four tiny hospitals, an auditor and the embedded chain."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.founding import Plan, found_network
from tests.fakes.network import dataset
from tests.network.bench import MEMBERS, NAMES, Processes, free_ports, wait


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founded network that nothing runs from; copy it."""
    home = tmp_path_factory.mktemp("founded") / "net"
    data = tuple(dataset(i) for i in range(MEMBERS))
    found_network(home, Plan("test", data, "npz-classification", base_port=free_ports(MEMBERS + 2)))
    return home


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest, founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Six processes, running; where a file has a `NODE`, its nodes are started by that (see `mortal`)."""
    home = tmp_path_factory.mktemp("running") / "net"
    shutil.copytree(founded, home)
    processes = Processes(home, node=getattr(request.module, "NODE", Processes.node))
    try:
        processes.up()
        yield processes
    finally:
        processes.stop()


__all__ = ["MEMBERS", "NAMES", "Processes", "free_ports", "wait"]
