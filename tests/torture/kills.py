"""SIGKILL and SIGTERM at random moments of a full `dvc repro`, two of them at once, and a project that moves."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Iterator

from torture.ledger import Case, Lost, check_no_traceback
from torture.project import Project

TARGETS = ("dvc", "stage", "group")


def cases(project: Project, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield `count` kills of each signal, and a few runs at once and moves."""
    for number in (signal.SIGKILL, signal.SIGTERM):
        for index in range(count):
            moment, target = rng.uniform(0, 1), TARGETS[index % len(TARGETS)]
            family = f"{number.name} at a random moment of dvc repro"
            yield Case(family, f"{target} at {moment:.3f}", lambda n=number, t=target, m=moment: kill(project, n, t, m))
    for _ in range(max(1, count // 8)):
        delay, moment = rng.uniform(0, 0.5), rng.uniform(0, 1)
        yield Case("two dvc repro at once", f"{delay:.3f} apart", lambda d=delay: at_once(project, d))
        yield Case("killed, and moved to another path", f"at {moment:.3f}", lambda m=moment: move(project, m))


def kill(project: Project, number: signal.Signals, target: str, moment: float) -> None:
    """Kill a run, finish it, and compare: the same bytes, and nothing that was finished is done again."""
    project.restore("new")
    first = _killed(project, number, target, moment)
    before = project.finished_work()
    second = project.finish()
    project.check_outputs()
    after = project.finished_work()
    again = [name for name in before if after[name] != before[name]]
    if again:
        raise Lost(f"{len(again)} of {len(before)} finished files and records were made again, such as {again[:2]}")
    epochs = [re.findall(r"^epoch \d/3: .*", output, re.MULTILINE) for output in (first, second)]
    if set(epochs[0]) & set(epochs[1]):
        raise Lost("a finished epoch was trained again")


def _killed(project: Project, number: signal.Signals, target: str, moment: float) -> str:
    with project.started("dvc", "repro") as run:
        time.sleep(moment * project.seconds)
        run.signal(number, target)
    if number == signal.SIGTERM:
        check_no_traceback(run.output)
    project.wait_for_end()
    return run.output


def at_once(project: Project, delay: float) -> None:
    """Of two runs each succeeds, or stops with a line that names the other; a third one finds all work done."""
    project.restore("new")
    with project.started("dvc", "repro") as first:
        time.sleep(delay * project.seconds)
        with project.started("dvc", "repro") as second:
            pass
    for run in (first, second):
        check_no_traceback(run.output)
        if run.process.exitcode and "lock" not in run.output and "is busy" not in run.output:
            raise Lost(f"stopped for another reason: {run.output[-300:]!r}")
    project.finish()
    project.check_outputs()


def move(project: Project, moment: float) -> None:
    """A killed project that is moved to another path goes on there."""
    project.restore("new")
    _killed(project, signal.SIGKILL, "group", moment)
    before = project.finished_work()
    project.folder.rename(project.top / "now" / "elsewhere")
    project.name = "elsewhere"
    try:
        project.finish()
        project.check_outputs()
        lost = before - project.finished_work()
        if lost:
            raise Lost(f"{len(lost)} of {len(before)} finished files and records were made again")
    finally:
        project.name = "project"
