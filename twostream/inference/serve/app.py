"""The web application: takes uploads, reports the state of their jobs, and serves the results and the page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from twostream.errors import reason
from twostream.flow.color import color_wheel
from twostream.inference.serve.guard import Guard
from twostream.inference.serve.jobs import Busy, Job, Jobs
from twostream.inference.serve.prediction import describe, make_work
from twostream.report.charts import THEME

if TYPE_CHECKING:
    from twostream.fusion.events import EventSettings
    from twostream.inference.predict import Predictor

SHORTEST_WINDOW, LONGEST_WINDOW = 0.2, 600.0  # seconds

_HERE = Path(__file__).parent
_POLL = 0.1  # seconds between looks at a job: fast enough to look live, and the worker need not notify the server
_STALLED = 30.0  # seconds without a byte of an upload


def make_app(
    predictor: Predictor,
    folder: Path,
    *,
    host: str,
    max_megabytes: float,
    max_seconds: float,
    event_settings: EventSettings | None = None,
) -> Starlette:
    """Return the application; `app.state.jobs` are its :class:`twostream.inference.serve.jobs.Jobs`.

    Args:
        predictor: scores the videos.
        folder: an empty folder for uploads and results.
        host: the name or address that it is served on; see `Guard`.
        max_megabytes: of an upload (10^6 bytes), counted as it arrives.
        max_seconds: of a video.
        event_settings: how events are found; None for the usual thresholds.
    """
    jobs = Jobs(folder, make_work(predictor, max_seconds, event_settings))
    endpoints = _Endpoints(jobs, int(max_megabytes * 1e6))
    about = describe(predictor) | {"max_bytes": endpoints.max_bytes, "max_seconds": max_seconds}
    wheel = cv2.imencode(".png", color_wheel(240)[..., ::-1])[1].tobytes()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        jobs.open()
        sweeper = asyncio.create_task(_sweep(jobs))
        yield
        sweeper.cancel()
        await asyncio.to_thread(jobs.close)

    app = Starlette(
        routes=[
            _file("/", (_HERE / "page.html").read_bytes(), "text/html"),
            _file("/page.css", THEME.encode() + (_HERE / "page.css").read_bytes(), "text/css"),
            _file("/page.js", (_HERE / "page.js").read_bytes(), "text/javascript"),
            _file("/wheel.png", wheel, "image/png"),
            _file("/model", json.dumps(about).encode(), "application/json"),
            Route("/jobs", endpoints.upload, methods=["POST"]),
            Route("/jobs/{id}", endpoints.forget, methods=["DELETE"]),
            Route("/jobs/{id}/events", endpoints.events),
            Route("/jobs/{id}/video", endpoints.video),
        ],
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _disconnected},
        lifespan=lifespan,
    )
    app.state.jobs = jobs
    return app


def _file(path: str, content: bytes, media_type: str) -> Route:
    async def respond(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route(path, respond)


class _Endpoints:
    """The addresses under /jobs."""

    def __init__(self, jobs: Jobs, max_bytes: int):
        self.max_bytes = max_bytes
        self._jobs = jobs
        self._too_large = HTTPException(413, f"The file is larger than {max_bytes / 1e6:g} MB, the limit of this page.")

    async def upload(self, request: Request) -> Response:
        every = _window_seconds(request.query_params.get("every", ""))
        # A declared length saves the upload of a file that is too large; `_receive` counts, since it may be false.
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large
        try:
            job = self._jobs.admit(every)
        except Busy:
            raise HTTPException(503, "Too many videos are waiting; try again in a minute.") from None
        try:
            await self._receive(request, job.upload)
        except BaseException:  # a disconnection or the server's end too
            self._jobs.forget(job)
            raise
        self._jobs.enqueue(job)
        return JSONResponse({"id": job.id}, status_code=201)

    async def _receive(self, request: Request, path: Path) -> None:
        """Write the body of a request to a file as it arrives, up to the largest size."""
        chunks = request.stream().__aiter__()
        size = 0
        try:
            with path.open("xb") as file:
                while True:
                    chunk = await asyncio.wait_for(chunks.__anext__(), _STALLED)
                    size += len(chunk)
                    if size > self.max_bytes:
                        raise self._too_large
                    file.write(chunk)
        except StopAsyncIteration:
            if not size:
                raise HTTPException(400, "This file is empty.") from None
        except asyncio.TimeoutError:
            raise HTTPException(408, "The upload has stalled.") from None
        except OSError as error:
            raise HTTPException(507, f"The file cannot be stored: {reason(error)}.") from None

    async def events(self, request: Request) -> Response:
        job = self._find(request)
        last = request.headers.get("last-event-id", "")  # of a page that has lost its connection
        start = int(last) + 1 if last.isascii() and last.isdigit() else 0
        return StreamingResponse(_events(request, self._jobs, job, start), media_type="text/event-stream")

    async def video(self, request: Request) -> Response:
        job = self._find(request)
        if job.state != "done":
            raise HTTPException(404, "There is no result yet.")
        return FileResponse(job.playback, media_type="video/webm")

    async def forget(self, request: Request) -> Response:
        if job := self._jobs.get(request.path_params["id"]):
            self._jobs.forget(job)
        return Response(status_code=204)

    def _find(self, request: Request) -> Job:
        job = self._jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "This result is no longer stored.")
        return job


async def _events(request: Request, jobs: Jobs, job: Job, start: int) -> AsyncIterator[str]:
    """Yield a job's state whenever it changes, and its windows from number `start`, as server-sent events."""
    sent: dict[str, Any] | None = None
    while not jobs.closed and jobs.get(job.id) is job and not await request.is_disconnected():
        job.seen = time.monotonic()
        # Before the windows: when it is done, all of them are there.
        state = {"state": job.state, "ahead": jobs.ahead(job), "progress": round(job.progress, 3)}
        state |= {"message": job.message, "result": job.result}
        while start < len(job.windows):
            yield f"event: window\nid: {start}\ndata: {json.dumps(job.windows[start])}\n\n"
            start += 1
        if state != sent:
            sent = state
            yield f"event: state\ndata: {json.dumps(state)}\n\n"
        if state["state"] in ("done", "failed"):
            return
        await asyncio.sleep(_POLL)


async def _sweep(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(1)
        jobs.sweep()


def _window_seconds(text: str) -> float | None:
    """Return the seconds per window in a query, None where it has none."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:  # NaN fails too
        raise HTTPException(400, f"A window lasts from {SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g} seconds.")
    return seconds


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # not sent: the browser has gone
