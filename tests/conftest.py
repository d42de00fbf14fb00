"""Fixtures that several test modules share."""

from __future__ import annotations

import os

import pytest

from twostream.profiles import load_profile

# Of several test processes each computes on one thread, or they would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")


@pytest.fixture(scope="session")
def demo_values() -> dict:
    """The demo profile as a plain mapping; copy it before changing anything."""
    return load_profile("demo")


@pytest.fixture(scope="session")
def small_project(tmp_path_factory, demo_values):
    """A built project to edit: call `restore` before."""
    from small_project import build

    return build(tmp_path_factory.mktemp("small"), demo_values)
