"""Work spread over processes, with a progress bar, by joblib: local processes, or Dask, Ray or Spark as its backend."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from twostream.errors import UserError

SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh", "busybox")

Item = TypeVar("Item")
Result = TypeVar("Result")


def unordered(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, what: str, unit: str = "clip"
) -> Iterator[Result]:
    """Yield `work(item)` for all items as they finish, with a bar of rate and time left.

    Args:
        work: a picklable function; an exception in it ends the whole run.
        items: start with the largest, so that no worker is left alone at the end.
        workers: processes; 0 means one a core.
        what: name of the bar.

    Raises:
        UserError: a worker process was killed.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError
    from tqdm import tqdm

    workers = min(workers or cores(), max(1, len(items)))
    # In a log file every refresh is a line.
    with tqdm(total=len(items), desc=what, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10) as bar:
        if workers == 1:
            results = map(work, items)
        else:
            jobs = (delayed(_in_worker)(work, item, os.getpid()) for item in items)
            results = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)(jobs)
        try:
            for result in results:
                bar.update()
                yield result
        except TerminatedWorkerError:
            raise UserError(
                f"{what}: a worker process was killed, mostly for lack of memory; lower runtime.workers and run again: "
                "what is finished is kept"
            ) from None


def cores() -> int:
    """Cores that this process may use, which in a container or a batch job can be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def exit_with_parent() -> None:
    """End this process soon after the one that started it is gone, so that a killed run leaves nobody who still writes.

    A shell in between (DVC runs a stage's command through one) is looked through: it would outlive its own parent.
    """
    import psutil

    ancestors = [psutil.Process().parent()]
    while ancestors[-1] is not None and ancestors[-1].name() in SHELLS:
        ancestors.append(ancestors[-1].parent())
    pids = [process.pid for process in ancestors if process is not None]

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while [os.getppid(), *(psutil.Process(pid).ppid() for pid in pids[:-1])] == pids:
                time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()


_watching = False


def _in_worker(work: Callable[[Item], Result], item: Item, main: int) -> Result:
    global _watching
    if not _watching and os.getppid() == main:  # not so on other backends than local processes
        exit_with_parent()
        _watching = True
    return work(item)
