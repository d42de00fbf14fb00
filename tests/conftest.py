"""Fixtures that several test modules share."""

from __future__ import annotations

import os

import pytest

from twostream.profiles import load_profile

# Of several test processes each computes on one thread, or they would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run the tests of a file, and all that use the built project, which is made once per process."""
    for item in items:
        group = "built" if "built" in getattr(item, "fixturenames", ()) else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def demo_values() -> dict:
    """The demo profile as a plain mapping; copy it before changing anything."""
    return load_profile("demo")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory, demo_values):
    """A built project to edit: call `restore` before."""
    from small_project import build

    return build(tmp_path_factory.mktemp("small"), demo_values)
