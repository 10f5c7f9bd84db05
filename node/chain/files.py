"""The few ways in which this room touches the disk: private files written whole, durable names, one lock a home."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from node.chain.errors import ChainHomeBusy


def write_private(path: Path, data: bytes) -> None:
    """Write a 0600 file so that after a crash it is there whole or not at all."""
    draft = path.with_name(path.name + ".new")
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)  # a draft left by a crash keeps the mode it had
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HomeLock:
    """The right to run the chain of a home. The system gives it back when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Args:
            folder: `chain/` of the home.

        Raises:
            ChainHomeBusy: another process has it.
        """
        self._file = open(folder / "lock", "a+", encoding="ascii")  # noqa: SIM115 - held until close
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read(20).strip() or "unknown"
            self._file.close()
            raise ChainHomeBusy(f"the chain in {folder} is already running (process {holder})") from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __enter__(self) -> HomeLock:
        """Hold the lock for a block of code."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self._file.close()
