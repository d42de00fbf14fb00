"""Train streams and splits side by side, each in a process of its own, and leave them in the cache for `dvc repro`."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

from twostream.core import cluster
from twostream.errors import UserError

# They decide in which order a CPU adds, so that a worker of a cluster must have those of this machine.
_OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Job(NamedTuple):
    """A stream of a split."""

    stream: str
    split: int

    def __str__(self) -> str:
        return f"{self.stream}-{self.split}"


def train_side_by_side(jobs: Sequence[Job], count: int, gpus: int) -> list[Job]:
    """Train, and return the jobs that failed; every line that one of them prints starts with its name.

    Args:
        count: how many train at a time on this machine; workers of a cluster train one each.
        gpus: of this machine; jobs at a time share them evenly.
    """
    environment = {name: os.environ.get(name) for name in _OF_THREADS}
    if cluster.scheduler():
        work = functools.partial(_train_on_worker, environment)
        return [job for job, code in cluster.spread(work, jobs, "train", most_per_task=1) if code]
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(count):
        slots.put(slot)
    started: list[subprocess.Popen[str]] = []

    def work_here(job: Job) -> int:
        slot = slots.get()
        try:
            device = {"CUDA_VISIBLE_DEVICES": str(slot % gpus)} if gpus else {}
            return _train(job, {**environment, **device}, started.append)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(count) as pool:
        codes = pool.map(work_here, jobs)
        try:
            return [job for job, code in zip(jobs, codes, strict=True) if code]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in started:
                process.terminate()  # it keeps its finished epochs
            raise


def _train_on_worker(environment: dict[str, str | None], job: Job) -> tuple[Job, int]:
    return job, _train(job, environment, lambda process: None)


def _train(job: Job, changes: dict[str, str | None], note: Callable[[subprocess.Popen[str]], None]) -> int:
    """Run the stage of a job, with the outputs in a folder that is deleted, and return its exit code."""
    environment = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    with tempfile.TemporaryDirectory(prefix="twostream-") as folder:
        command = [sys.executable, "-m", "stages.train", "--stream", job.stream, "--split", str(job.split)]
        process = subprocess.Popen(
            [*command, "--into", folder],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        note(process)
        assert process.stdout
        _print_lines(job, process.stdout)
        return process.wait()


_printing = threading.Lock()


def _print_lines(job: Job, lines: Iterable[str]) -> None:
    for line in lines:
        with _printing:
            print(f"{job}: {line}", end="", flush=True)


def check_finished(failed: Sequence[Job], unfinished: Sequence[Job]) -> None:
    """Raise a UserError that names the jobs that failed, or that were trained with other arithmetic."""
    if failed:
        raise UserError(f"{', '.join(map(str, failed))}: training failed; the lines above say why")
    if unfinished:
        raise UserError(
            f"{', '.join(map(str, unfinished))}: trained, but `dvc repro` will train again: the workers have another "
            "kind of device or another version of PyTorch than this machine"
        )
