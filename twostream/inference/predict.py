"""Prediction: what the streams of a model folder and their fusion say about a video, window by window.

A window is extracted and scored exactly as the pipeline does it with a clip, but only the frames that are looked at are
kept, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pydantic import ValidationError, create_model
from tqdm import tqdm

from twostream.clipstore import ClipReader, write_clip
from twostream.clipstore.extract import message_if_slow, shrunk, spread
from twostream.errors import UserError
from twostream.flow import Solver, make_solver, resolve_device
from twostream.flow.encoding import encode_flow
from twostream.fusion.methods import read_fusion
from twostream.fusion.scores import log_softmax
from twostream.params import Flow, Rgb, Score, Section, load_params
from twostream.video import MIN_SIDE, Probe, read_frames, survey
from twostream.views import jpeg
from twostream.views.sampling import scoring_frames

if TYPE_CHECKING:
    from twostream.streams.scoring import TrainedStream

WHOLE_S = 30.0  # a video up to this long is one window; HMDB51's clips are shorter but for two of 6,766
EVERY_S = 5.0  # windows of a longer one, and of a camera: about what the clips of the benchmarks last
USUAL_SCORE = Score(segments=5, crops=1, flip=True)

Watch = Callable[[float, np.ndarray, "np.ndarray | None"], None]


@dataclass(frozen=True, eq=False)
class Window:
    """One window of a video, scored as a clip.

    Attributes:
        start: seconds from the video's first frame, like `end`.
        end: where the next window starts, or the video ends.
        frames: number of frames in it.
        logits: each fused stream's, float32 [C], by the stream's name.
        fused: fused logits, float32 [C]; log-probabilities, for an `svm` fusion decision values.
    """

    start: float
    end: float
    frames: int
    logits: dict[str, np.ndarray]
    fused: np.ndarray

    def probabilities(self, name: str = "fusion") -> np.ndarray:
        """float32 [C], sum 1: the softmax of a stream's logits or of the fused ones."""
        return np.exp(log_softmax(self.fused if name == "fusion" else self.logits[name])).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was said about a whole video.

    Attributes:
        source: path of the video.
        classes: names of the C classes.
        windows: in order, one or more.
        times: float64 [N], when each frame is shown, in seconds from the first.
        warning: what is wrong with a video that was predicted all the same, as one that is cut short; "" if nothing is.
    """

    source: str
    classes: list[str]
    windows: list[Window]
    times: np.ndarray = field(repr=False)
    warning: str = ""

    @property
    def fused(self) -> np.ndarray:
        """float32 [C]: the mean of the windows' fused probabilities."""
        return self.probabilities()

    def probabilities(self, name: str = "fusion") -> np.ndarray:
        """float32 [C], sum 1: the mean over windows of the probabilities of a stream, or of the fusion."""
        return np.mean([window.probabilities(name) for window in self.windows], axis=0)

    def top(self, count: int = 5, name: str = "fusion") -> list[tuple[str, float]]:
        """The likeliest classes and their probabilities, the likeliest first; of equal ones the first class."""
        probabilities = self.probabilities(name)
        return [(self.classes[i], float(probabilities[i])) for i in _order(probabilities)[:count]]

    def to_dict(self, count: int = 5) -> dict[str, Any]:
        """All of it as plain values for JSON: the `count` likeliest classes of the video and of each window."""
        names = ["fusion", *self.windows[0].logits]
        whole = {name: self.probabilities(name) for name in names}
        return {
            "video": self.source,
            "seconds": round(self.windows[-1].end, 3),
            "frames": len(self.times),
            "warning": self.warning,
            "top": _ranked(self.classes, whole, count),
            "windows": [window_dict(window, self.classes, count) for window in self.windows],
        }


def window_dict(window: Window, classes: Sequence[str], count: int = 5) -> dict[str, Any]:
    """A window as plain values for JSON: its span and its `count` likeliest classes with every stream's probability."""
    said = {name: window.probabilities(name) for name in ("fusion", *window.logits)}
    return {
        "start": round(window.start, 3),
        "end": round(window.end, 3),
        "frames": window.frames,
        "top": _ranked(classes, said, count),
    }


class Predictor:
    """The trained streams that a fusion file names, and the fusion, loaded to predict.

    Nothing but the model folder is needed, and nothing in it can run code.

    Args:
        models: the folder that `dvc repro` leaves: `fusion-<split>.json` and a folder `<stream>-<split>` a stream.
        split: which split's models.
        accelerator: `auto` (the GPU where there is one), `cpu` or `gpu`.
        score: the test protocol; None takes that of the `params.yaml` beside the model folder, as the score stage does,
            and :data:`USUAL_SCORE` where there is none.
        progress: draw a bar on the standard error while a file is predicted.

    Attributes:
        classes: names of the C classes, in the order of all logits.
        streams: modality (`rgb` or `flow`) of each fused stream, by its name.
        trained: the streams themselves, by name.
        fusion: how they are fused.
        score: the test protocol in force.

    Raises:
        UserError: a file is missing, damaged or holds values of a wrong type, or the streams do not fit together.
    """

    def __init__(
        self,
        models: Path = Path("models"),
        split: int = 1,
        accelerator: str = "auto",
        score: Score | None = None,
        progress: bool = False,
    ):
        from twostream.streams.scoring import TrainedStream

        fusion_file = Path(models) / f"fusion-{split}.json"
        self.fusion = read_fusion(fusion_file)
        self.score = score or protocol_beside(Path(models))
        self.classes = list(self.fusion.classes)
        self.trained: dict[str, TrainedStream] = {}
        for name in self.fusion.streams:
            if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
                raise UserError(f"{fusion_file}: {name!r} cannot name a stream; run `dvc repro` to make it again")
            folder = Path(models) / f"{name}-{split}"
            stream = TrainedStream(folder, accelerator)
            if stream.config["classes"] != self.classes:
                raise UserError(
                    f"{folder / 'config.json'}: has other classes ({len(stream.config['classes'])}) than {fusion_file} "
                    f"({len(self.classes)}); train and fuse again with `dvc repro`"
                )
            self.trained[name] = stream
        self.streams = {name: stream.config["modality"] for name, stream in self.trained.items()}
        self._progress = progress
        jpeg.prepare()
        self._stores = self._make_stores(Path(models), split, accelerator)
        shown = [store.settings.short_side for store in self._stores]
        self._shown_side = next(
            (store.settings.short_side for store in self._stores if isinstance(store.settings, Rgb)), shown[0]
        )
        self._flow = next((store for store in self._stores if store.solver), None)

    def windows(
        self, source: str | Path | int, every: float | None = None, watch: Watch | None = None
    ) -> Iterator[Window]:
        """Score a video window by window, as each is read.

        Args:
            source: path of a video, or the number of a camera, whose windows do not end.
            every: seconds a window; None makes one window of a video of at most :data:`WHOLE_S`, and windows of
                :data:`EVERY_S` of a longer one. The last window has from half to one and a half times as many.
            watch: is called for every frame of a window before the window comes, with its time in seconds, the frame,
                uint8 [H, W, 3] RGB at the size it is stored at, and the flow from it to the next frame, float32
                [h, w, 2] in pixels at the size at which flow is stored; None for the last frame, and where no stream
                looks at flow.

        Raises:
            UserError: no video can be decoded there, or no camera opened.
        """
        if every is not None and not (np.isfinite(every) and every > 0):
            raise UserError(f"windows of {every:g} seconds are not possible; give a number above 0")
        if isinstance(source, int):
            yield from self._live(source, every or EVERY_S, watch)
        else:
            yield from self._recorded(Path(source), *_survey(source)[1:], every, watch)

    def predict(self, source: str | Path, every: float | None = None) -> Prediction:
        """Score a whole video; `every` and errors as in :meth:`windows`."""
        found, times, duration = _survey(source)
        windows = list(self._recorded(Path(source), times, duration, every, None))
        return Prediction(os.fspath(source), self.classes, windows, times, found.reason)

    def frames(
        self, source: str | Path, short_side: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Every frame, with the flow from it to the next as in `watch` of :meth:`windows`.

        Args:
            short_side: frames are shrunk to it; None leaves them as they are.
        """
        flows: Iterable[np.ndarray] = ()
        with contextlib.ExitStack() as stack:
            images = stack.enter_context(contextlib.closing(read_frames(source)))
            if self._flow:
                grey = stack.enter_context(contextlib.closing(read_frames(source, "gray")))
                flows = self._flow.solver.sequence(shrunk(grey, self._flow.settings.short_side))
            yield from itertools.zip_longest(shrunk(images, short_side) if short_side else images, flows)

    def _make_stores(self, models: Path, split: int, accelerator: str) -> list[_Store]:
        stores: dict[str, _Store] = {}
        for name, stream in self.trained.items():
            modality, values = stream.config["modality"], stream.config["extraction"]
            key = json.dumps([modality, values], sort_keys=True)
            if key not in stores:
                where = models / f"{name}-{split}" / "config.json"
                settings = _extraction_settings(modality, values, where)
                stores[key] = _Store(settings, _solver(settings, accelerator), {})
            stores[key].streams[name] = stream
        return list(stores.values())

    def _recorded(
        self, path: Path, times: np.ndarray, duration: float, every: float | None, watch: Watch | None
    ) -> Iterator[Window]:
        edges = window_edges(times, duration, every)
        ends = [*times[edges[1:-1]].tolist(), duration]
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twostream-"))
            bar = stack.enter_context(
                tqdm(
                    total=len(times) * len(self._stores),
                    desc=path.name,
                    unit="frame",
                    delay=2,
                    leave=False,
                    disable=None if self._progress else True,
                )
            )
            readers = [
                stack.enter_context(contextlib.closing(read_frames(path, store.pixel_format))) for store in self._stores
            ]
            seen = stack.enter_context(contextlib.closing(self.frames(path, self._shown_side)))
            for (first, last), end in zip(itertools.pairwise(edges), ends, strict=True):
                if watch:
                    for moment, (frame, flow_px) in zip(times[first:last].tolist(), seen):  # noqa: B905 - as decoded
                        watch(moment, frame, flow_px)
                pieces = [
                    shrunk(_counted(itertools.islice(reader, last - first), bar), store.settings.short_side)
                    for store, reader in zip(self._stores, readers, strict=True)
                ]
                yield self._window(float(times[first]), end, last - first, pieces, Path(folder))

    def _live(self, camera: int, every: float, watch: Watch | None) -> Iterator[Window]:
        with (
            contextlib.closing(_Camera(camera)) as pictures,
            tempfile.TemporaryDirectory(prefix="twostream-") as folder,
        ):
            while True:
                moments: list[float] = []
                pieces: list[list[np.ndarray]] = [[] for _ in self._stores]
                shown: list[np.ndarray] = []
                for moment, image in pictures:
                    moments.append(moment)
                    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
                    for piece, store in zip(pieces, self._stores, strict=True):  # shrunk at once, or memory fills up
                        piece += shrunk([grey if store.solver else image], store.settings.short_side)
                    if watch:
                        shown += shrunk([image], self._shown_side)
                    if moment - moments[0] >= every and len(moments) > 1:
                        break
                if watch:
                    flows: Iterable[np.ndarray] = ()
                    if self._flow:
                        flows = self._flow.solver.sequence(pieces[self._stores.index(self._flow)])
                    for seen in itertools.zip_longest(moments, shown, flows):
                        watch(*seen)
                yield self._window(moments[0], moments[-1], len(moments), pieces, Path(folder))

    def _window(self, start: float, end: float, count: int, pieces: Sequence[Iterable], folder: Path) -> Window:
        logits: dict[str, np.ndarray] = {}
        for store, images in zip(self._stores, pieces, strict=True):
            logits |= store.logits(images, count, self.score, folder)
        fused = self.fusion.fuse({name: row[None] for name, row in logits.items()})[0]
        return Window(start, end, count, {name: logits[name] for name in self.streams}, fused)


def protocol_beside(models: Path) -> Score:
    """The test protocol of the `params.yaml` beside a model folder, or :data:`USUAL_SCORE` where there is none.

    Raises:
        UserError: the file is there and is not a sound parameter file.
    """
    path = Path(os.path.dirname(os.path.abspath(models)), "params.yaml")
    return load_params(path).score if path.is_file() else USUAL_SCORE


def window_edges(times: np.ndarray, duration: float, every: float | None) -> list[int]:
    """Where windows start among frames, and, last, the number of frames; each window has two frames or more.

    Args:
        times: float64 [N] seconds, not decreasing, N >= 2.
        duration: where the last frame ends.
        every: as for :meth:`Predictor.windows`.
    """
    if every is None:
        every = duration if duration <= WHOLE_S else EVERY_S
    number = np.floor(times / every + 1e-6)
    starts = [0]
    for start in np.flatnonzero(np.diff(number)) + 1:
        if start - starts[-1] >= 2:
            starts.append(int(start))
    while len(starts) > 1 and (len(times) - starts[-1] < 2 or duration - times[starts[-1]] < every / 2):
        starts.pop()
    return [*starts, len(times)]


@dataclass(frozen=True, eq=False)
class _Store:
    """What some streams read: one modality, extracted in one way."""

    settings: Rgb | Flow
    solver: Solver | None  # of flow
    streams: dict[str, TrainedStream]

    @property
    def pixel_format(self) -> str:
        return "gray" if self.solver else "rgb24"

    def logits(self, images: Iterable[np.ndarray], count: int, score: Score, folder: Path) -> dict[str, np.ndarray]:
        """Each stream's logits, float32 [C], of a window of `count` shrunk images, each of which is taken."""
        from twostream.views.loading import read_scoring_views

        length = count
        if isinstance(self.settings, Flow):
            length = (self.settings.frames or count) - 1
        needed = np.unique(
            np.concatenate(
                [scoring_frames(length, stream.sampling, score.segments).ravel() for stream in self.streams.values()]
            )
        )
        path = folder / "window.zip"
        meta = {"modality": "flow" if self.solver else "rgb"}
        write_clip(path, self._extracted(images, count, set(needed.tolist())), self.settings.jpeg_quality, meta)
        found = {}
        with _PartOfClip(path, length, needed) as clip:
            for name, stream in self.streams.items():
                views = read_scoring_views(
                    clip, stream.sampling, score, stream.config["size"], stream.config["demean"]
                )  # [V, 1, C, L, H, W]
                found[name] = stream.logits(views).mean(0).numpy()
        return found

    def _extracted(self, images: Iterable[np.ndarray], count: int, needed: set[int]) -> Iterator[np.ndarray]:
        """The needed frames, or codes of flow, as they are stored."""
        if not isinstance(self.settings, Flow):
            yield from (image for place, image in enumerate(images) if place in needed)
            return
        if self.settings.frames:
            images = spread(images, count, self.settings.frames)
        before: Any = None
        for place, image in enumerate(images):
            now = self.solver.prepare(image) if place in needed or place - 1 in needed else None
            if place - 1 in needed:
                yield encode_flow(self.solver.match(before, now), self.settings.bound)
            before = now


class _PartOfClip(ClipReader):
    """A clip file that holds just the frames at `kept` of a clip of `length`; they are read by their place in the clip.

    Reading another frame is a KeyError.
    """

    def __init__(self, path: Path, length: int, kept: np.ndarray):
        super().__init__(path)
        self._length = length
        self._entries = dict(zip(kept.tolist(), self._entries, strict=True))

    def __len__(self) -> int:
        return self._length


class _Camera:
    """The pictures of a camera as they come: (seconds from the first, uint8 [H, W, 3] RGB)."""

    def __init__(self, number: int):
        self._number, self._first = number, None
        logging = cv2.utils.logging
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # what is wrong is said below, in one line
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise UserError(f"camera {number}: cannot be opened; give the number of a camera that is free, or a file")

    def __iter__(self) -> _Camera:
        return self

    def __next__(self) -> tuple[float, np.ndarray]:
        came, image = self._capture.read()
        if not came:
            raise UserError(f"camera {self._number}: gives no more pictures; see that it is plugged in")
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        return now - self._first, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        self._capture.release()


def _survey(source: str | Path) -> tuple[Probe, np.ndarray, float]:
    """What is in a file, its frames' times and its duration in seconds; UserError where there is nothing to predict."""
    if os.path.isdir(source):
        raise UserError(f"{source}: is a folder; give a video in it")
    with message_if_slow(f"counting the frames of {source}"):
        found, times = survey(source)
    if found.frames < 2 or min(found.width, found.height) < MIN_SIDE:
        raise UserError(f"{source}: {found.reason}; give a video file")
    step = float(np.median(np.diff(times))) or 1 / (found.fps or 25.0)
    return found, times, float(times[-1]) + step


def _extraction_settings(modality: str, values: dict[str, Any], where: Path) -> Rgb | Flow:
    """The parameter section that a stream's frames were extracted with; of flow methods it holds just the one used."""
    problem = ""
    try:
        if modality == "rgb":
            return Rgb.model_validate(values)
        methods = {
            name
            for name, of in Flow.model_fields.items()
            if isinstance(of.annotation, type) and issubclass(of.annotation, Section)
        }
        unused = {name: (Any, None) for name in methods if name != values.get("method")}
        known = {name: value for name, value in values.items() if name not in unused}
        return create_model("Flow", __base__=Flow, **unused).model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"extraction.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    raise UserError(f"{where}: cannot be used ({problem}); train the stream with `dvc repro`")


def _solver(settings: Rgb | Flow, accelerator: str) -> Solver | None:
    """The solver of a flow section, run once, so that compiling does not fall into the first window."""
    if isinstance(settings, Rgb):
        return None
    if accelerator == "cpu":
        settings = settings.model_copy(update={"device": "cpu"})
    elif settings.device == "cuda":  # where it was trained; here there may be none
        settings = settings.model_copy(update={"device": "auto"})
    with message_if_slow(f"getting {settings.method} ready"):
        solver = make_solver(settings, resolve_device(settings))
        solver(*np.random.default_rng(0).integers(0, 256, (2, 128, 128), np.uint8))
    return solver


def _counted(images: Iterable[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for image in images:
        yield image
        bar.update()


def _order(probabilities: np.ndarray) -> np.ndarray:
    return np.argsort(-probabilities, kind="stable")


def _ranked(classes: Sequence[str], said: dict[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    return [
        {"class": classes[i], **{name: round(float(values[i]), 6) for name, values in said.items()}}
        for i in _order(said["fusion"])[:count]
    ]
