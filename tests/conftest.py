"""Fixtures and settings shared by every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Examples are drawn the same way on every run, so that a failure in the continuous integration is found again at a
# desk; HYPOTHESIS_PROFILE=explore draws new and many more. No deadline: a shared machine makes times meaningless.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=100, database=None)
settings.register_profile("explore", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares a costly fixture runs in one process (`--dist loadgroup`): a file, or all that read one network."""
    for item in items:
        shared = "original" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("original" if shared else str(item.path)))
