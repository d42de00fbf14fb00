"""One built project for all tests of DVC."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniature import dvc, make_project, miniature, ran, run


@pytest.fixture(scope="session")
def built(tmp_path_factory, demo_values) -> Path:
    project = make_project(tmp_path_factory.mktemp("project"), miniature(demo_values))
    output = dvc(project, "repro")
    assert len(ran(output)) == 20
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "results")
    return project
