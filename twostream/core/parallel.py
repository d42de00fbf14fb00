"""Spread work over the processes of this machine, or of a Dask cluster, with a progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from twostream.core import cluster
from twostream.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

_PART = 32  # most items that a thread gets at once: handing one over takes longer than looking up its file
SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh", "busybox")

Item = TypeVar("Item")
Result = TypeVar("Result")


def unordered(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, what: str, here: bool = False
) -> Iterator[Result]:
    """Yield `work(item)` for all items in the order in which they finish, with a progress bar of clips.

    Args:
        work: a picklable function; an exception in it ends the whole run.
        items: start with the largest, so that the last ones end at about the same time.
        workers: number of processes; 0: one per core. A cluster has its own number.
        what: name of the bar.
        here: stay on this machine even if there is a cluster.

    Raises:
        UserError: a worker process was killed; or as `cluster.spread`.
    """
    if items and not here and cluster.scheduler():
        with progress(len(items), f"{what} (cluster)", "clip") as bar:
            for result in cluster.spread(work, items, what):
                bar.update()
                yield result
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    workers = min(workers or cores(), max(1, len(items)))
    with progress(len(items), what, "clip") as bar:
        if workers == 1:
            results = map(work, items)
        else:
            jobs = (delayed(_in_worker)(work, item) for item in items)
            results = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size="auto")(jobs)
        try:
            for result in results:
                bar.update()
                yield result
        except TerminatedWorkerError:
            raise UserError(
                f"{what}: a worker process was killed, usually because memory ran out; lower runtime.workers and run "
                "again: finished work is kept"
            ) from None


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, what: str) -> list[Result]:
    """Return `work(item)` for all items in order, with a progress bar of clips.

    For work that mostly waits for files or hashes them: processes would take seconds to start.
    """
    threads = workers or cores()
    size = min(_PART, len(items) // (4 * threads) + 1)  # few long videos are spread over all threads
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    with progress(len(items), what, "clip") as bar, ThreadPoolExecutor(threads) as pool:
        results: list[Result] = []
        for part in pool.map(lambda part: [work(item) for item in part], parts):
            results += part
            bar.update(len(part))
    return results


def progress(total: int | None, what: str, unit: str) -> tqdm:
    """Return a progress bar that suits a terminal and, with a line every 10 s at most, a log file."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10)


def cores() -> int:
    """Return the number of cores that this process may use; in a container or a batch job it can be less than all."""
    return len(os.sched_getaffinity(0))


_watching = False  # in a worker: whether its thread that watches the parent runs


def _in_worker(work: Callable[[Item], Result], item: Item) -> Result:
    global _watching
    if not _watching:
        exit_with_parent()
        _watching = True
    return work(item)


def exit_with_parent() -> None:
    """End this process soon after its parent has ended, so that no process of a killed run goes on writing.

    DVC runs a stage's command through a shell, which outlives a killed DVC. Where the parent is a shell, its own parent
    is therefore watched too.
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
