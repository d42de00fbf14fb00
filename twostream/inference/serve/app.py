"""The web application: takes uploads, tells how their jobs stand, hands out the results, and the page itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from twostream.flow.color import color_wheel
from twostream.inference.serve.guard import Guard
from twostream.inference.serve.jobs import Busy, Job, Jobs
from twostream.inference.serve.prediction import Predictor, describe, make_work
from twostream.report.charts import THEME

SHORTEST_WINDOW, LONGEST_WINDOW = 0.2, 600.0  # seconds that may be asked for

_HERE = Path(__file__).parent
_BEAT = 0.1  # seconds between looks at a job: live to the eye, and needs no wires between the worker and the pages
_STALLED = 30.0  # seconds without a byte of an upload


def make_app(predictor: Predictor, folder: Path, *, host: str, max_megabytes: float, max_seconds: float) -> Starlette:
    """The application; `app.state.jobs` are its :class:`twostream.inference.serve.jobs.Jobs`.

    Args:
        predictor: what names the classes.
        folder: an empty folder of ours for uploads and results.
        host: the name or address that it is served on; see `Guard`.
        max_megabytes: of an upload (10^6 bytes), counted as it comes in.
        max_seconds: of a video.
    """
    jobs = Jobs(folder, make_work(predictor, max_seconds))
    receive = _Uploads(int(max_megabytes * 1e6))
    about = describe(predictor) | {"max_bytes": receive.max_bytes, "max_seconds": max_seconds}
    style = THEME + (_HERE / "page.css").read_text(encoding="utf-8")
    wheel = cv2.imencode(".png", color_wheel(240)[..., ::-1])[1].tobytes()

    async def page(request: Request) -> Response:
        return FileResponse(_HERE / "page.html", media_type="text/html")

    async def script(request: Request) -> Response:
        return FileResponse(_HERE / "page.js", media_type="text/javascript")

    async def stylesheet(request: Request) -> Response:
        return Response(style, media_type="text/css")

    async def wheel_picture(request: Request) -> Response:
        return Response(wheel, media_type="image/png")

    async def model(request: Request) -> Response:
        return JSONResponse(about)

    async def upload(request: Request) -> Response:
        every = _window(request.query_params.get("every", ""))
        receive.refuse_declared(request)
        try:
            job = jobs.admit(every)
        except Busy:
            raise HTTPException(503, "Too many videos are waiting already; try again in a minute.") from None
        whole = False
        try:
            await receive(request, job.upload)
            whole = True
        finally:
            if not whole:
                jobs.forget(job)
        jobs.enqueue(job)
        return JSONResponse({"id": job.id}, status_code=201)

    async def events(request: Request) -> Response:
        job = _found(jobs, request)
        known = request.headers.get("last-event-id", "")
        start = int(known) + 1 if known.isascii() and known.isdigit() else 0
        return StreamingResponse(_events(request, jobs, job, start), media_type="text/event-stream")

    async def picture(request: Request) -> Response:
        job = _found(jobs, request)
        if job.state != "done":
            raise HTTPException(404, "There is no result yet.")
        return FileResponse(job.picture, media_type="video/webm")

    async def forget(request: Request) -> Response:
        if job := jobs.get(request.path_params["id"]):
            jobs.forget(job)
        return Response(status_code=204)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        jobs.open()
        sweeper = asyncio.create_task(_sweep(jobs))
        yield
        sweeper.cancel()
        await asyncio.to_thread(jobs.close)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/page.css", stylesheet),
            Route("/page.js", script),
            Route("/wheel.png", wheel_picture),
            Route("/model", model),
            Route("/jobs", upload, methods=["POST"]),
            Route("/jobs/{id}", forget, methods=["DELETE"]),
            Route("/jobs/{id}/events", events),
            Route("/jobs/{id}/video", picture),
        ],
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={HTTPException: _problem, ClientDisconnect: _gone},
        lifespan=lifespan,
    )
    app.state.jobs = jobs
    return app


class _Uploads:
    """Writes request bodies to files as they come, and stops at a size."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._too_large = HTTPException(413, f"The file is larger than {max_bytes / 1e6:g} MB, the limit of this page.")

    def refuse_declared(self, request: Request) -> None:
        """Refuse at once what says itself that it is too large; nothing is believed of what says less."""
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large

    async def __call__(self, request: Request, path: Path) -> None:
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
            raise HTTPException(507, f"The file cannot be kept: {error.strerror or error}.") from None


async def _events(request: Request, jobs: Jobs, job: Job, start: int) -> AsyncIterator[str]:
    """How the job stands whenever that changes, and its windows from number `start`, as server-sent events."""
    told: dict[str, Any] | None = None
    while not jobs.closed and jobs.get(job.id) is job and not await request.is_disconnected():
        job.hear()
        state = _state(jobs, job)  # before the windows: when it says done, all of them are there
        while start < len(job.windows):
            yield _event("window", job.windows[start], start)
            start += 1
        if state != told:
            told = state
            yield _event("state", state)
        if state["state"] in ("done", "failed"):
            return
        await asyncio.sleep(_BEAT)


def _state(jobs: Jobs, job: Job) -> dict[str, Any]:
    state: dict[str, Any] = {"state": job.state}
    if job.state == "waiting":
        state["ahead"] = jobs.ahead(job)
    elif job.state == "running":
        state["progress"] = round(job.progress, 3)
    elif job.state == "failed":
        state["message"] = job.message
    elif job.state == "done":
        state["result"] = job.result
    return state


def _event(kind: str, data: dict[str, Any], number: int | None = None) -> str:
    name = "" if number is None else f"id: {number}\n"
    return f"event: {kind}\n{name}data: {json.dumps(data)}\n\n"


async def _sweep(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(1)
        jobs.sweep()


def _found(jobs: Jobs, request: Request) -> Job:
    job = jobs.get(request.path_params["id"])
    if job is None:
        raise HTTPException(404, "This result is not kept any more.")
    return job


def _window(text: str) -> float | None:
    """Seconds; None if nothing is asked for."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SHORTEST_WINDOW <= seconds <= LONGEST_WINDOW:  # nor is NaN
        raise HTTPException(400, f"A window lasts from {SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g} seconds.")
    return seconds


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # the browser went in the middle of its upload; nobody reads this
