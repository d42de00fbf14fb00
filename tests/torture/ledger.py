"""The cases and what became of them."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple


class Lost(Exception):
    """Finished work was repeated, a file of the user is gone, or a run crashed, hung or could not be continued."""


class Wrong(Exception):
    """Something went through with other bytes than those of an undisturbed run, or out of its folder."""


class Case(NamedTuple):
    """One way to break the pipeline; `run` raises Lost or Wrong. It stands for `count` cases."""

    family: str
    name: str
    run: Callable[[], None]
    count: int = 1


class Ledger:
    """Counts outcomes by family; a case that is not survived is printed when it ends."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Counter[str]] = {}
        self._seconds: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, case: Case) -> None:
        started, outcome, why = time.monotonic(), "survived", ""
        try:
            case.run()
        except Wrong as error:
            outcome, why = "wrong", str(error)
        except Exception as error:  # a fault of the case counts as one of the pipeline, so that none is overlooked
            outcome, why = "lost", str(error) if isinstance(error, Lost) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._outcomes.setdefault(case.family, Counter())[outcome] += case.count
            self._seconds[case.family] += time.monotonic() - started
            if why:
                print(f"{outcome}: {case.family}: {case.name}: {why}", flush=True)

    def failures(self) -> int:
        return sum(counts["lost"] + counts["wrong"] for counts in self._outcomes.values())

    def table(self) -> str:
        lines = [f"{'':<44} {'cases':>6} {'survived':>9} {'lost':>5} {'wrong':>6} {'seconds':>8}"]
        total: Counter[str] = Counter()
        for family, counts in self._outcomes.items():
            lines.append(_row(family, counts, self._seconds[family]))
            total += counts
        return "\n".join([*lines, _row("all", total, sum(self._seconds.values()))])


def _row(name: str, counts: Counter[str], seconds: float) -> str:
    cells = f"{counts['survived']:>9} {counts['lost']:>5} {counts['wrong']:>6} {seconds:>8.0f}"
    return f"{name:<44} {sum(counts.values()):>6} {cells}"


def check_refused(code: int, output: str, *words: str) -> None:
    """Check that a stage ended with one line that names what is wrong."""
    check_no_traceback(output)
    errors = re.findall(r"^ERROR: .*", output, re.MULTILINE)
    if code == 0:
        raise Wrong(f"accepted: {output[-300:]!r}")
    if not errors or not all(word in errors[0] for word in words):
        raise Lost(f"no line names it: {output[-300:]!r}")


def check_no_traceback(output: str) -> None:
    if "Traceback (most recent call last)" in output:
        raise Lost(f"a traceback: {output[output.index('Traceback (most') :][-600:]!r}")
