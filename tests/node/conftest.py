"""Networks on the disk that several files read: made once, because founding and training one takes long."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped network whose study has all its rounds. Whoever changes it changes a copy."""
    from tests.node.audit.audit_kit import make_network  # it loads what few of these tests need

    home = tmp_path_factory.mktemp("original") / "network"
    make_network(home)
    return home


@pytest.fixture(scope="session")
def purged(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network after an erasure at member-2: both rounds purged and replayed."""
    from tests.node.audit.audit_kit import erase_in

    home = Path(shutil.copytree(original, tmp_path_factory.mktemp("original-erased") / "network"))
    erase_in(home, 1, "MRN-1-03")
    return home
