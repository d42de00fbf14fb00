"""Jobs: uploads that wait for one worker thread, what is known of each, and when its files go."""

from __future__ import annotations

import secrets
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twostream.errors import UserError

MOST_JOBS = 8  # uploading, waiting or running; bounds what lies on the disk
LOST_AFTER = 10.0  # seconds without a sign of the page; a reload takes less
KEEP = 600.0  # seconds that a result which nobody fetches is kept


class Busy(Exception):
    """There are as many jobs as there may be."""


class Cancelled(Exception):
    """The one who asked has gone or does not want the answer."""


@dataclass(eq=False)
class Job:
    """One uploaded video and what has come of it. The worker writes the fields, the pages' threads read them.

    Attributes:
        id: what its addresses hold; not to be guessed.
        upload: the video, under a name of ours.
        picture: what the worker draws for the page.
        every: seconds a window, None for the predictor's choice.
        state: `uploading`, `waiting`, `reading`, `running`, then `done` or `failed`.
        progress: share of the video's frames that are through, 0 to 1.
        windows: one entry for each window scored so far; only ever added to.
        result: what the worker says of the whole, when done.
        message: why it failed.
        heard: when its page was last there, seconds of :func:`time.monotonic`.
        ended: when it was done or failed.
    """

    id: str
    upload: Path
    picture: Path
    every: float | None
    state: str = "uploading"
    progress: float = 0.0
    windows: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    message: str = ""
    heard: float = field(default_factory=time.monotonic)
    ended: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Cancelled if the job is not wanted any more."""
        if self.cancelled.is_set():
            raise Cancelled

    def hear(self) -> None:
        """Its page is still there."""
        self.heard = time.monotonic()

    def remove_files(self) -> None:
        """Remove the upload and the picture, whatever there is of them."""
        self.upload.unlink(missing_ok=True)
        self.picture.unlink(missing_ok=True)


class Jobs:
    """The jobs of one server: those that are admitted run one after the other in a thread.

    Args:
        folder: where uploads and pictures lie; whoever made it removes it.
        work: does a job: sets `progress`, `windows` and `result`, and calls `Job.check` often. A UserError or an
            OSError that it raises is told to the page; anything else is a bug, printed here and told as such.
    """

    def __init__(self, folder: Path, work: Callable[[Job], None]):
        self._folder = folder
        self._work = work
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="prediction", daemon=True)

    def open(self) -> None:
        """Start the worker."""
        self._thread.start()

    def close(self, patience: float = 10.0) -> None:
        """Cancel everything, wait `patience` seconds at most for the worker to see it, remove all files."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(patience)
        for job in [*self._jobs.values()]:
            self.forget(job)

    def stop(self) -> None:
        """Cancel everything and admit nothing more; returns at once and may be called by a signal handler."""
        self._closed = True
        for job in [*self._jobs.values()]:
            job.cancelled.set()

    @property
    def closed(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._closed

    def admit(self, every: float | None) -> Job:
        """A place for an upload. Raises Busy if all are taken."""
        with self._change:
            if self._closed or sum(job.ended is None for job in self._jobs.values()) >= MOST_JOBS:
                raise Busy
            name = secrets.token_urlsafe(16)
            job = Job(name, self._folder / f"{name}.upload", self._folder / f"{name}.webm", every)
            self._jobs[name] = job
        return job

    def enqueue(self, job: Job) -> None:
        """The upload is whole: let the job wait for its turn."""
        with self._change:
            job.state = "waiting"
            job.hear()
            self._waiting.append(job)
            self._change.notify()

    def get(self, name: str) -> Job | None:
        """The job of this id, unless it is forgotten."""
        return self._jobs.get(name)

    def ahead(self, job: Job) -> int:
        """How many jobs must end before this one starts."""
        with self._change:
            running = any(other.state in ("reading", "running") for other in self._jobs.values())
            return self._waiting.index(job) + running if job in self._waiting else 0

    def forget(self, job: Job) -> None:
        """Cancel the job and remove its files, at once or, if it is running, as soon as the worker sees it."""
        job.cancelled.set()
        with self._change:
            self._jobs.pop(job.id, None)
            if job in self._waiting:
                self._waiting.remove(job)
            running = job.state in ("reading", "running")
        if not running or not self._thread.is_alive():
            job.remove_files()

    def sweep(self) -> None:
        """Forget jobs whose page has gone and results that nobody came for."""
        now = time.monotonic()
        for job in [*self._jobs.values()]:
            lost = job.ended is None and job.state != "uploading" and now - job.heard > LOST_AFTER
            stale = job.ended is not None and now - job.ended > KEEP
            if lost or stale:
                self.forget(job)

    def _serve(self) -> None:
        while not self._closed:
            with self._change:
                # The wait ends now and then, so that `stop` need not take the lock, which a signal handler must not.
                if not self._waiting:
                    self._change.wait(0.5)
                    continue
                job = self._waiting.pop(0)
                job.state = "reading"
            self._run(job)

    def _run(self, job: Job) -> None:
        state, message = "failed", ""
        try:
            job.check()
            self._work(job)
            state = "done"
        except Cancelled:
            message = "Cancelled."
        except UserError as error:
            message = str(error).replace(str(job.upload), "this file")
            message = message[:1].upper() + message[1:]
        except OSError as error:
            message = f"The server cannot go on: {error.strerror or error}."
        except Exception:
            traceback.print_exc()  # a bug is for the one who runs the server to read, not for the page
            message = "Something went wrong inside; the terminal that runs `twostream serve` says what."
        job.upload.unlink(missing_ok=True)
        if state == "failed":
            job.picture.unlink(missing_ok=True)
        with self._change:
            job.message, job.ended, job.state = message, time.monotonic(), state
            if job.cancelled.is_set():
                job.remove_files()
