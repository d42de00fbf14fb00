"""Fixtures that several test modules share."""

from __future__ import annotations

import os

import pytest
import yaml
from helpers import ROOT

os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture(scope="session")
def demo_values() -> dict:
    """The demo profile as a plain mapping; copy it before changing anything."""
    return yaml.safe_load((ROOT / "profiles" / "demo.yaml").read_text())
