"""Fixtures that several test modules share."""

from __future__ import annotations

import os

import pytest

from twostream.profiles import load_profile

# Of several test processes each computes on one thread, or they would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, those of the stages, then others of slow tests: one process runs a whole file."""
    items.sort(key=lambda item: (item.path.parent.name != "stages", item.get_closest_marker("slow") is None))


@pytest.fixture(scope="session")
def demo_values() -> dict:
    """The demo profile as a plain mapping; copy it before changing anything."""
    return load_profile("demo")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory, demo_values):
    """A built project to edit: call `restore` before."""
    from small_project import build

    return build(tmp_path_factory.mktemp("small"), demo_values)
