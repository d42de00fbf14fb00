"""Two experiments in temporary workspaces on one cache."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator

from miniature import run

from torture.ledger import Case, Lost, Wrong, check_no_traceback
from torture.project import Project


def cases(project: Project, rng: random.Random, count: int) -> Iterator[Case]:
    for _ in range(count):
        delay, bound = rng.uniform(0, 0.5), rng.choice([3.0, 5.0, 7.0])
        name = f"bound {bound:g}, {delay:.2f} apart"
        yield Case("two experiments on one cache", name, lambda d=delay, b=bound: _experiments(project, d, b))


def _experiments(project: Project, delay: float, bound: float) -> None:
    """Two queued runs at a time end as each of them alone in the workspace."""
    settings = ([f"flow.bound={bound}"], [f"flow.bound={bound}", "streams.flow3d.lr=0.01"])
    alone = []
    for changes in settings:
        project.restore("listed")
        code, output = project.run("dvc", "exp", "run", *_options(changes))
        if code:
            raise Lost(f"one alone fails: {output[-300:]!r}")
        alone.append((project.folder / "dvc.lock").read_text())
    project.restore("listed")
    with project.started("dvc", "exp", "run", "--temp", "--name", "one", *_options(settings[0])) as first:
        time.sleep(delay * project.seconds)
        with project.started("dvc", "exp", "run", "--temp", "--name", "two", *_options(settings[1])) as second:
            pass
    for name, experiment, expected in zip(("one", "two"), (first, second), alone, strict=True):
        check_no_traceback(experiment.output)
        if experiment.process.exitcode:
            raise Lost(f"{name} fails: {experiment.output[-300:]!r}")
        references = run(project.folder, "git", "for-each-ref", "--format=%(refname)", "refs/exps")
        (reference,) = re.findall(rf"^refs/exps/\S+/{name}$", references, re.MULTILINE)
        if run(project.folder, "git", "show", f"{reference}:dvc.lock", stdout_only=True) != expected:
            raise Wrong(f"{name} ends with other results than alone")


def _options(changes: list[str]) -> list[str]:
    return [part for change in changes for part in ("--set-param", change)]
