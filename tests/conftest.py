"""Fixtures and settings shared by every test."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# Examples are drawn the same way on every run, so that a failure in the continuous integration is found again at a
# desk; HYPOTHESIS_PROFILE=explore draws new and many more. No deadline: a shared machine makes times meaningless.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=100, database=None)
settings.register_profile("explore", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


MEMORY = "/dev/shm"
ROOM_BYTES = 4 << 30


def pytest_configure() -> None:
    """Let homes of tests lie in memory, where there is room: on a disk every commit of a store waits milliseconds."""
    if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


NETWORKS = {
    "tests/node/audit/test_bundle.py": "original",
    "tests/node/audit/test_verify.py": "original",
    "tests/node/reports/test_reports_of_a_home.py": "original",
    "tests/network/test_processes.py": "running",
    "tests/network/test_roles.py": "running",
    "tests/network/test_exit_codes.py": "running",
}
"""File -> the network that it uses together with others."""


APART = {f"tests/node/test_{name}.py" for name in ("app", "byzantine", "erasing", "lifecycle")}
"""Files whose every test is a network of its own: minutes in one process while the others have nothing left to do."""


class ByNetwork(LoadFileScheduling):
    """The tests of a file run in one process, and so do the files that use one network: founding it takes long."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in APART else NETWORKS.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByNetwork:
    """Called by pytest-xdist where tests run in several processes."""
    return ByNetwork(config, log)
