"""Built-in tasks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fl_engine.data.dataset import Dataset
from fl_engine.data.mri_quality import MRI_QUALITY
from fl_engine.data.nuclei import NUCLEI
from fl_engine.data.task import Task
from fl_engine.errors import UnknownName

TASKS: Final[dict[str, Task]] = {task.name: task for task in (NUCLEI, MRI_QUALITY)}
"""Every task that `--task` may name."""


def get_task(name: str) -> Task:
    """The task of that name, or UnknownName listing the known ones."""
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownName("task", name, tuple(TASKS)) from None


def load_task(name: str, members: int, cache: Path | None = None) -> tuple[Dataset, ...]:
    """One Dataset a member; see `Task.load`."""
    return get_task(name).load(members, cache)
