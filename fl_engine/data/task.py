"""What a task is: a value that yields every member's data without any file of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fl_engine.data.dataset import Dataset


@dataclass(frozen=True)
class Task:
    """A built-in task.

    `load(members, cache)` -> one Dataset a member, always the same for the same number; `cache` is the folder of
    `fl_engine.data.fetch` (None: its default). Raises DataError for a number of members the data cannot give, and
    PackageUnavailable. `model` names the model that suits it.
    """

    name: str
    classes: int
    input_shape: tuple[int, ...]
    model: str
    description: str
    licence: str
    simulated: tuple[str, ...]
    max_members: int
    load: Callable[[int, Path | None], tuple[Dataset, ...]]
