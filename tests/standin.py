"""A predictor without networks, and the page served with it in a thread of the test."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn

from twostream.errors import UserError
from twostream.inference.predict import Window
from twostream.inference.serve.app import make_app
from twostream.video import VideoError, read_frames

RATE = 25  # frames per second of the videos that it reads


@dataclass
class StandIn:
    """Predicts the classes in turn, one per window, with more confidence by flow than by RGB. Frames move by (2, 0).

    `break_with`: raised after the first frame; `gate`: awaited before the first frame.
    """

    classes: list[str] = field(default_factory=lambda: ["wave", "jump", "<b>kick</b> & run", "clap", "sit", "turn"])
    streams: dict[str, str] = field(default_factory=lambda: {"spatial": "rgb", "temporal": "flow"})
    break_with: Exception | None = None
    gate: threading.Event | None = None
    asked: list[Path] = field(default_factory=list)

    def windows(
        self, source: Path, every: float | None = None, on_frame: Callable[..., None] | None = None
    ) -> Iterator[Window]:
        self.asked.append(source)
        if self.gate:
            while not self.gate.wait(0.01):
                on_frame(0.0, np.zeros((32, 32, 3), np.uint8), None)
        try:
            frames = list(read_frames(source))
        except VideoError as error:
            raise UserError(f"{source}: {error}; give a video file") from None
        long = max(round((every or len(frames) / RATE) * RATE), 1)
        for number, first in enumerate(range(0, len(frames), long)):
            part = frames[first : first + long]
            for place, frame in enumerate(part, first):
                flow = np.zeros((*frame.shape[:2], 2), np.float32)
                flow[8:24, 8:24, 0] = 2
                on_frame(place / RATE, frame, None if place == len(frames) - 1 else flow)
                if self.break_with:
                    raise self.break_with
            yield self.window(first / RATE, (first + len(part)) / RATE, len(part), number)

    def window(self, start: float, end: float, frames: int, number: int) -> Window:
        right = np.arange(len(self.classes)) == number % len(self.classes)
        logits = {name: np.where(right, 1.0 + place, 0.0) for place, name in enumerate(self.streams)}
        logits = {name: values.astype(np.float32) for name, values in logits.items()}
        return Window(start, end, frames, logits, np.where(right, 6.0, 0.0).astype(np.float32))


@dataclass
class Site:
    """A running server."""

    port: int
    folder: Path
    app: object

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def request(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers (lower case) of a request; of `headers` an underscore is a hyphen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


@contextlib.contextmanager
def serving(predictor: object, folder: Path, max_megabytes: float = 5.0, max_seconds: float = 60.0) -> Iterator[Site]:
    """The page on a free port of the loopback interface."""
    app = make_app(predictor, folder, host="127.0.0.1", max_megabytes=max_megabytes, max_seconds=max_seconds)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Site(listener.getsockname()[1], folder, app)
        finally:
            app.state.jobs.stop()
            server.should_exit = True
            thread.join()
