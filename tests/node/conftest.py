"""What several files use: networks on the disk, made once because founding and training one takes long; a trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.network import SharedTrainer


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


@pytest.fixture(scope="module")
def trainer() -> Iterator[SharedTrainer]:
    """One training worker for all networks in memory of a file."""
    from tests.fakes.network import SharedTrainer

    shared = SharedTrainer()
    yield shared
    shared.end()
