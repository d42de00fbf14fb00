"""A small part of `make torture`."""

from __future__ import annotations

import itertools
import random

import pytest

from torture import archives, disk, hostile, kills, mirrors, videos
from torture.ledger import Case, Ledger, Lost, Wrong
from torture.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory, demo_values):
    project = Project(tmp_path_factory.mktemp("torture") / "top", demo_values)
    yield project
    project.close()


def test_outcomes_are_counted_by_family():
    def fail(error):
        raise error

    ledger = Ledger()
    for error in (Lost("x"), Wrong("y"), KeyError("z")):
        ledger.run(Case("kills", "one", lambda error=error: fail(error)))
    ledger.run(Case("kills", "many", lambda: None, count=5))
    assert ledger.failures() == 3
    assert ledger.table().splitlines()[-1].split()[:5] == ["all", "8", "5", "2", "1"]


@pytest.mark.parametrize(
    ("cases", "step"),
    [
        (lambda project, rng: kills.cases(project, rng, 2), 3),
        (lambda project, rng: disk.cases(project, rng, 1), 6),
        (lambda project, rng: archives.cases(project, rng, is_small=True), 12),
        (lambda project, rng: mirrors.cases(project, rng, ["breaks off once", "sends half a file as a whole one"]), 2),
        (lambda project, rng: hostile.cases(project, rng, 1), 12),
        (lambda project, rng: videos.cases(project, rng, 10), 1),
    ],
    ids=["kills", "disk", "archives", "mirrors", "hostile", "videos"],
)
def test_nothing_is_lost_or_wrong(project, cases, step, capsys):
    ledger = Ledger()
    for case in itertools.islice(cases(project, random.Random(1)), 0, None, step):
        ledger.run(case)
    assert ledger.failures() == 0, capsys.readouterr().out
