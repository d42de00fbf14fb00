"""Jobs: uploads that wait for one worker thread, the state of each, and when its files are removed."""

from __future__ import annotations

import math
import queue
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twostream.errors import UserError, reason

MOST_JOBS = 8  # uploading, waiting or running; limits the disk space of uploads
LOST_AFTER = 10.0  # seconds without a sign of the page; a reload takes less
KEEP = 600.0  # seconds until a result that is not fetched is removed
_CLOSE = 10.0  # seconds that `close` waits for the worker


class Busy(Exception):
    """All places for jobs are taken."""


class Cancelled(Exception):
    """The page has gone or has cancelled the job."""


@dataclass(eq=False)
class Job:
    """One uploaded video and its results. The worker thread writes the fields, the server's thread reads them.

    Attributes:
        id: part of its addresses; random, so that it cannot be guessed.
        upload: the video, under a name of ours.
        playback: the video that the worker writes for the page.
        every: seconds per window, None for the predictor's choice.
        state: `uploading`, `waiting`, `reading`, `running`, then `done` or `failed`.
        progress: fraction of the video's frames that are processed, 0 to 1.
        windows: one entry for each window scored so far; the worker only appends.
        result: the results of the whole video, when done.
        message: why it failed.
        seen: when its page was last there, seconds of :func:`time.monotonic`.
        queued: when its upload was complete.
        ended: when it was done or failed.
    """

    id: str
    upload: Path
    playback: Path
    every: float | None
    state: str = "uploading"
    progress: float = 0.0
    windows: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    message: str = ""
    seen: float = field(default_factory=time.monotonic)
    queued: float = math.inf
    ended: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise Cancelled if the job was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled

    def remove_files(self) -> None:
        """Remove the upload and the playback, if they exist."""
        self.upload.unlink(missing_ok=True)
        self.playback.unlink(missing_ok=True)


class Jobs:
    """The jobs of one server, which run one after the other in a thread.

    Args:
        folder: for uploads and playbacks; the caller owns it.
        work: does a job: sets `progress`, `windows` and `result`, and calls `Job.check` often. The page shows the
            message of a UserError or an OSError; any other exception is a bug and is printed here.
    """

    def __init__(self, folder: Path, work: Callable[[Job], None]):
        self.closed = False
        self._folder = folder
        self._work = work
        self._jobs: dict[str, Job] = {}
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_all, name="prediction", daemon=True)

    def open(self) -> None:
        """Start the worker."""
        self._thread.start()

    def close(self) -> None:
        """Cancel all jobs, wait some seconds for the worker to notice, and remove all files."""
        self.stop()
        self._thread.join(_CLOSE)
        for job in list(self._jobs.values()):
            self.forget(job)

    def stop(self) -> None:
        """Cancel all jobs and admit no more; returns at once, and a signal handler may call it."""
        self.closed = True
        for job in list(self._jobs.values()):
            job.cancelled.set()
        self._queue.put(None)

    def admit(self, every: float | None) -> Job:
        """Reserve a place for an upload.

        Raises:
            Busy: all are taken.
        """
        if self.closed or sum(job.ended is None for job in self._jobs.values()) >= MOST_JOBS:
            raise Busy
        name = secrets.token_urlsafe(16)
        job = self._jobs[name] = Job(name, self._folder / f"{name}.upload", self._folder / f"{name}.webm", every)
        return job

    def enqueue(self, job: Job) -> None:
        """Let a job whose upload is complete wait for its turn."""
        job.state, job.queued = "waiting", time.monotonic()
        job.seen = job.queued
        self._queue.put(job)

    def get(self, name: str) -> Job | None:
        """Return the job with this id, unless it is forgotten."""
        return self._jobs.get(name)

    def ahead(self, job: Job) -> int:
        """Return how many jobs must end before this one starts."""
        return sum(other.queued < job.queued and other.ended is None for other in list(self._jobs.values()))

    def forget(self, job: Job) -> None:
        """Cancel a job and remove its files: at once, or, where it is running, as soon as the worker notices."""
        job.cancelled.set()
        self._jobs.pop(job.id, None)
        # The worker writes the state before it looks at `cancelled`, so one of the two removes the files.
        if job.state not in ("reading", "running") or not self._thread.is_alive():
            job.remove_files()

    def sweep(self) -> None:
        """Forget jobs whose page has gone, and old results."""
        now = time.monotonic()
        for job in list(self._jobs.values()):
            lost = job.ended is None and job.state != "uploading" and now - job.seen > LOST_AFTER
            if lost or (job.ended is not None and now - job.ended > KEEP):
                self.forget(job)

    def _run_all(self) -> None:
        while job := self._queue.get():
            self._run(job)

    def _run(self, job: Job) -> None:
        state, message = "failed", ""
        try:
            job.state = "reading"
            job.check()
            self._work(job)
            state = "done"
        except Cancelled:
            message = "Cancelled."
        except UserError as error:
            message = str(error).replace(str(job.upload), "this file")
            message = message[:1].upper() + message[1:]
        except OSError as error:
            message = f"The server failed: {reason(error)}."
        except Exception:
            traceback.print_exc()
            message = "The server failed on this video; the terminal that runs `twostream serve` shows the error."
        job.upload.unlink(missing_ok=True)
        if state == "failed":
            job.playback.unlink(missing_ok=True)
        job.message, job.ended, job.state = message, time.monotonic(), state
        if job.cancelled.is_set():
            job.remove_files()
