"""Prediction: score a video window by window with the streams of a model folder and their fusion.

A window is extracted and scored exactly as the pipeline does it with a clip, but only the frames that a view needs are
kept, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from tqdm import tqdm

from twostream.clipstore import decode_frame, encode_frame
from twostream.clipstore.extract import message_if_slow
from twostream.clipstore.flow import spread
from twostream.clipstore.frames import shrunk
from twostream.errors import UserError, validation_reason
from twostream.flow import Solver, make_solver, resolve_device
from twostream.flow.encoding import encode_flow
from twostream.fusion.events import Curves, Event, EventSettings, find_events
from twostream.fusion.methods import read_fusion
from twostream.fusion.scores import log_softmax
from twostream.inference.live import is_live, live_frames
from twostream.params import Flow, Rgb, Score, load_params
from twostream.profiles import complete
from twostream.video import MIN_SIDE, read_frames
from twostream.video.probe import Probe, survey
from twostream.views.sampling import scoring_frames

if TYPE_CHECKING:
    from twostream.streams.trained import TrainedStream

WHOLE_S = 30.0  # a video up to this long is one window; all but two of HMDB51's 6,766 clips are shorter
EVERY_S = 5.0  # seconds per window of a longer video or a camera: about the length of a benchmark's clips
USUAL_SCORE = Score(segments=5, crops=1, flip=True)

OnFrame = Callable[[float, np.ndarray, "np.ndarray | None"], None]


@dataclass(frozen=True, eq=False)
class Window:
    """One window of a video, scored as a clip.

    Attributes:
        start: seconds from the video's first frame, like `end`.
        end: where the next window starts, or the video ends.
        frames: number of frames in it.
        logits: each fused stream's, float32 [C], by the stream's name.
        fused: fused logits, float32 [C]: log-probabilities, or decision values of an `svm` fusion.
    """

    start: float
    end: float
    frames: int
    logits: dict[str, np.ndarray]
    fused: np.ndarray

    def probabilities(self, name: str = "fusion") -> np.ndarray:
        """Return float32 [C], sum 1: the softmax of a stream's logits or of the fused ones."""
        return np.exp(log_softmax(self.fused if name == "fusion" else self.logits[name])).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The scores of a whole video.

    Attributes:
        source: path of the video.
        classes: names of the C classes.
        windows: in order, one or more.
        times: float64 [N], when each frame is shown, in seconds from the first.
        warning: what is wrong with a video that was predicted nevertheless (it is cut short, for example), or "".
    """

    source: str
    classes: list[str]
    windows: list[Window]
    times: np.ndarray = field(repr=False)
    warning: str = ""

    def probabilities(self, name: str = "fusion") -> np.ndarray:
        """Return float32 [C], sum 1: the mean over windows of the probabilities of a stream, or of the fusion."""
        return np.mean([window.probabilities(name) for window in self.windows], axis=0)

    def top(self, count: int = 5, name: str = "fusion") -> list[tuple[str, float]]:
        """Return the classes of highest probability, as :func:`top_classes`."""
        return top_classes(self.classes, self.probabilities(name), count)

    def events(self, settings: EventSettings) -> list[Event]:
        """Return the events that the windows show, best those of :meth:`Predictor.timeline`."""
        middles = np.array([(window.start + window.end) / 2 for window in self.windows])
        probabilities = np.stack([window.probabilities() for window in self.windows])
        return find_events(Curves(middles, probabilities, 0.0, self.windows[-1].end), self.classes, settings)

    def to_dict(self, count: int = 5) -> dict[str, Any]:
        """Return plain values for JSON: the top `count` classes of the video and of each window."""
        return {
            "video": self.source,
            "seconds": round(self.windows[-1].end, 3),
            "frames": len(self.times),
            "warning": self.warning,
            "top": _top_dicts(self, self.windows[0].logits, self.classes, count),
            "windows": [window_dict(window, self.classes, count) for window in self.windows],
        }


def window_dict(window: Window, classes: Sequence[str], count: int = 5) -> dict[str, Any]:
    """Return a window as plain values for JSON: its span and its top `count` classes with every probability."""
    return {
        "start": round(window.start, 3),
        "end": round(window.end, 3),
        "frames": window.frames,
        "top": _top_dicts(window, window.logits, classes, count),
    }


def _top_dicts(
    scored: Prediction | Window, streams: Iterable[str], classes: Sequence[str], count: int
) -> list[dict[str, Any]]:
    probabilities = {name: scored.probabilities(name) for name in ("fusion", *streams)}
    return [
        {"class": classes[i], **{name: round(float(values[i]), 6) for name, values in probabilities.items()}}
        for i in np.argsort(-probabilities["fusion"], kind="stable")[:count]
    ]


def top_classes(classes: Sequence[str], probabilities: np.ndarray, count: int) -> list[tuple[str, float]]:
    """Return the `count` classes of highest probability, highest first; equal ones in the order of the classes."""
    return [(classes[i], float(probabilities[i])) for i in np.argsort(-probabilities, kind="stable")[:count]]


class Predictor:
    """The trained streams that a fusion file names, and the fusion, loaded to predict.

    Only the model folder is needed, and nothing in it can run code.

    Args:
        models: the folder that `dvc repro` leaves: `fusion-<split>.json` and one folder `<stream>-<split>` per stream.
        split: which split's models.
        accelerator: `auto` (the GPU where there is one), `cpu` or `gpu`.
        score: the test protocol; None takes that of the `params.yaml` beside the model folder, as the score stage does,
            or :data:`USUAL_SCORE` where there is none.
        progress: draw a bar on the standard error while a file is predicted.

    Attributes:
        classes: names of the C classes, in the order of all logits.
        streams: modality (`rgb` or `flow`) of each fused stream, by its name.
        trained: the streams themselves, by name.
        fusion: how they are fused.
        score: the test protocol.

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
        from twostream.streams.trained import TrainedStream

        fusion_file = Path(models) / f"fusion-{split}.json"
        self.fusion = read_fusion(fusion_file)
        self.score = score or protocol_beside(Path(models))
        self.classes = list(self.fusion.classes)
        self.trained: dict[str, TrainedStream] = {}
        inputs: dict[str, _Input] = {}
        for name in self.fusion.streams:
            if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
                raise UserError(f"{fusion_file}: {name!r} cannot name a stream; run `dvc repro` to make it again")
            folder = Path(models) / f"{name}-{split}"
            config_file = folder / "config.json"
            stream = self.trained[name] = TrainedStream(folder, accelerator)
            if stream.config["classes"] != self.classes:
                raise UserError(
                    f"{config_file}: has other classes ({len(stream.config['classes'])}) than {fusion_file} "
                    f"({len(self.classes)}); train and fuse again with `dvc repro`"
                )
            modality, values = stream.config["modality"], stream.config["extraction"]
            key = json.dumps([modality, values], sort_keys=True)
            if key not in inputs:
                settings = _extraction_settings(modality, values, config_file)
                inputs[key] = _Input(settings, _solver(settings, accelerator), {})
            inputs[key].streams[name] = stream
        self.streams = {name: stream.config["modality"] for name, stream in self.trained.items()}
        self._progress = progress
        self._inputs = list(inputs.values())
        self._flow = next((source for source in self._inputs if source.solver), None)
        shown = next((source for source in self._inputs if not source.solver), self._inputs[0])
        self._shown_side = shown.settings.short_side  # of the frames that `on_frame` gets

    def windows(
        self, source: str | Path | int, every: float | None = None, on_frame: OnFrame | None = None
    ) -> Iterator[Window]:
        """Score a video window by window, while it is read.

        Args:
            source: path of a video, or what is read as it comes and may have no end: the number of a camera, an address
                or `-` for standard input, as strings.
            every: seconds per window; None makes one window of a video of at most :data:`WHOLE_S`, and windows of
                :data:`EVERY_S` of a longer one. The last window has from half to one and a half times as many.
            on_frame: called for every frame of a window before the window is yielded, with its time in seconds, the
                frame, uint8 [H, W, 3] RGB at the size at which it is stored, and the flow from it to the next frame,
                float32 [h, w, 2] in pixels at the size at which flow is stored; None for the last frame, and where no
                stream reads flow.

        Raises:
            UserError: no video can be decoded there, or the source breaks off.
        """
        if every is not None and not (np.isfinite(every) and every > 0):
            raise UserError(f"windows of {every:g} seconds are not possible; give a number above 0")
        if isinstance(source, int) or is_live(source):
            yield from self._live(source, every or EVERY_S, on_frame)
        else:
            _, times, duration = _survey(source)
            edges = window_edges(times, duration, every)
            yield from self._recorded(Path(source), times, duration, list(itertools.pairwise(edges)), on_frame)

    def predict(self, source: str | Path, every: float | None = None) -> Prediction:
        """Score a whole video; `every` and errors as in :meth:`windows`."""
        found, times, duration = _survey(source)
        spans = list(itertools.pairwise(window_edges(times, duration, every)))
        return self._prediction(source, found, times, duration, spans)

    def timeline(self, source: str | Path, window: float) -> Prediction:
        """Score a whole video in windows of equal length that overlap by half; errors as in :meth:`windows`.

        Args:
            window: seconds.
        """
        found, times, duration = _survey(source)
        return self._prediction(source, found, times, duration, sliding_windows(times, 0.0, duration, window))

    def score_windows(
        self, path: Path, times: np.ndarray, duration: float, spans: Sequence[tuple[int, int]]
    ) -> Iterator[Window]:
        """Yield the windows of a video with these first frames and frames after the last one, which may overlap.

        Args:
            times: float64 [N] seconds of all frames of the video.
            duration: where the last frame ends.
            spans: neither side decreases; only this part of the video is read.
        """
        return self._recorded(path, times, duration, spans, None)

    def _prediction(
        self, source: str | Path, found: Probe, times: np.ndarray, duration: float, spans: list[tuple[int, int]]
    ) -> Prediction:
        windows = list(self._recorded(Path(source), times, duration, spans, None))
        return Prediction(os.fspath(source), self.classes, windows, times, found.reason)

    def frames(
        self, source: str | Path, short_side: int | None = None
    ) -> Generator[tuple[np.ndarray, np.ndarray | None], None, None]:
        """Yield every frame with the flow from it to the next, as `on_frame` of :meth:`windows` gets them.

        Args:
            short_side: frames are shrunk to it; None keeps their size.
        """
        flows: Iterable[np.ndarray] = ()
        with contextlib.ExitStack() as stack:
            images = stack.enter_context(contextlib.closing(read_frames(source)))
            if self._flow:
                grey = stack.enter_context(contextlib.closing(read_frames(source, "gray")))
                flows = self._flow.flows(shrunk(grey, self._flow.settings.short_side))
            yield from itertools.zip_longest(shrunk(images, short_side) if short_side else images, flows)

    def _recorded(
        self,
        path: Path,
        times: np.ndarray,
        duration: float,
        spans: Sequence[tuple[int, int]],
        on_frame: OnFrame | None,
    ) -> Iterator[Window]:
        begin, stop = spans[0][0], spans[-1][1]
        ends = np.append(times, duration)
        part = (float(times[begin]), float(ends[stop])) if stop - begin < len(times) else None
        total, shown = (stop - begin) * len(self._inputs), None if self._progress else True
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(total=total, desc=path.name, unit="frame", delay=2, leave=False, disable=shown)
            )
            overlap = any(first < last for (_, last), (first, _) in itertools.pairwise(spans))
            readers = []
            for source in self._inputs:
                frames = stack.enter_context(contextlib.closing(read_frames(path, source.pixel_format, part)))
                images: Iterator[np.ndarray] = _counted(frames, bar)
                # What is kept for the next window is kept small.
                images = shrunk(images, source.settings.short_side) if overlap else images
                readers.append(_Overlapping(images, begin))
            seen = stack.enter_context(contextlib.closing(self.frames(path, self._shown_side)))
            for (first, last), (following, _) in itertools.zip_longest(spans, spans[1:], fillvalue=(stop, stop)):
                if on_frame:
                    for moment, (frame, flow_px) in zip(times[first:last].tolist(), seen):  # noqa: B905 - as decoded
                        on_frame(moment, frame, flow_px)
                of_window: list[Iterable[np.ndarray]] = [reader.window(first, last, following) for reader in readers]
                if not overlap:
                    of_window = [
                        shrunk(images, source.settings.short_side)
                        for source, images in zip(self._inputs, of_window, strict=True)
                    ]
                yield self._window(float(times[first]), float(ends[last]), last - first, of_window)

    def _live(self, source: int | str, every: float, on_frame: OnFrame | None) -> Iterator[Window]:
        with contextlib.closing(live_frames(source)) as frames:
            ended = False
            while not ended:
                moments: list[float] = []
                images: list[list[np.ndarray]] = [[] for _ in self._inputs]
                shown: list[np.ndarray] = []
                ended = True
                for moment, frame in frames:
                    moments.append(moment)
                    for kept, used in zip(images, self._inputs, strict=True):  # shrunk at once, or memory fills up
                        kept += shrunk([frame[used.pixel_format]], used.settings.short_side)
                    if on_frame:
                        shown += shrunk([frame["rgb24"]], self._shown_side)
                    if moment - moments[0] >= every and len(moments) > 1:
                        ended = False
                        break
                if len(moments) < 2:  # the source ended with the window before
                    return
                if on_frame:
                    flows = self._flow.flows(images[self._inputs.index(self._flow)]) if self._flow else ()
                    for seen in itertools.zip_longest(moments, shown, flows):
                        on_frame(*seen)
                yield self._window(moments[0], moments[-1], len(moments), images)

    def _window(self, start: float, end: float, count: int, images: Sequence[Iterable[np.ndarray]]) -> Window:
        """Score a window of `count` images, which come once per input, shrunk to its size."""
        logits: dict[str, np.ndarray] = {}
        for source, of_source in zip(self._inputs, images, strict=True):
            logits |= source.logits(of_source, count, self.score)
        fused = self.fusion.fuse({name: row[None] for name, row in logits.items()})[0]
        return Window(start, end, count, {name: logits[name] for name in self.streams}, fused)


def protocol_beside(models: Path) -> Score:
    """Return the test protocol of the `params.yaml` beside a model folder, or :data:`USUAL_SCORE` where there is none.

    Raises:
        UserError: the file is there and is not a sound parameter file.
    """
    path = Path(os.path.dirname(os.path.abspath(models)), "params.yaml")
    return load_params(path).score if path.is_file() else USUAL_SCORE


def window_edges(times: np.ndarray, duration: float, every: float | None) -> list[int]:
    """Return the first frame of each window and, last, the number of frames; each window has two frames or more.

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


def sliding_windows(times: np.ndarray, start: float, end: float, window: float) -> list[tuple[int, int]]:
    """Return the first frame of each window and the frame after its last: windows that overlap by half.

    The last window ends with the time. A window has two frames or more.

    Args:
        times: float64 [N] seconds, not decreasing, N >= 2.
        start, end: the time that the windows cover, in seconds.
        window: seconds; a shorter time is one window.
    """
    count = max(0, int(np.ceil((end - start - window) / (window / 2) - 0.5)))
    starts = np.append(start + window / 2 * np.arange(count), max(start, end - window))
    first = np.minimum(np.searchsorted(times, starts - 1e-6), len(times) - 2)
    last = np.clip(np.searchsorted(times, np.minimum(starts + window, end) - 1e-6), first + 2, len(times))
    return list(dict.fromkeys(zip(first.tolist(), np.maximum.accumulate(last).tolist(), strict=True)))


class _Overlapping:
    """Images that come once, for windows that may overlap: only those that the next window needs again are kept.

    Args:
        images: from number `begin` on.
    """

    def __init__(self, images: Iterator[np.ndarray], begin: int):
        self._images, self._number = images, begin  # of the first image that is kept, or of the next that comes
        self._kept: deque[np.ndarray] = deque()

    def window(self, first: int, last: int, following: int) -> Iterator[np.ndarray]:
        """Yield the images of a window; the next one starts at `following`. All of them must be read."""
        again, self._kept = self._kept, deque()
        number, self._number = self._number, min(following, last)
        for image in itertools.islice(itertools.chain(again, self._images), last - number):
            if number >= following:
                self._kept.append(image)
            if number >= first:
                yield image
            number += 1


@dataclass(frozen=True, eq=False)
class _Input:
    """Frames or flow extracted in one way, and the streams that read them."""

    settings: Rgb | Flow
    solver: Solver | None  # of flow
    streams: dict[str, TrainedStream]

    @property
    def pixel_format(self) -> str:
        return "gray" if self.solver else "rgb24"

    def flows(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the flow from each image to the next, in pixels."""
        assert self.solver
        return self.solver.sequence(images)

    def logits(self, images: Iterable[np.ndarray], count: int, score: Score) -> dict[str, np.ndarray]:
        """Return each stream's logits, float32 [C], for a window of `count` images; all of them are read."""
        from twostream.views.difference import DifferenceClip
        from twostream.views.loading import read_scoring_views

        length = count
        if isinstance(self.settings, Flow):
            length = (self.settings.frames or count) - 1
        needed: set[int] = set()
        for stream in self.streams.values():
            more = stream.config["input"] == "difference"  # which reads the next frame too
            frames = scoring_frames(max(1, length - more), stream.sampling, stream.protocol(score).segments)
            needed |= set(frames.ravel().tolist())
            needed |= {min(index + 1, length - 1) for index in frames.ravel().tolist() if more}
        # Through JPEG, as the clips that the networks were trained on: lossless frames would give other logits.
        jpegs = (encode_frame(frame, self.settings.jpeg_quality) for frame in self._extract(images, count, needed))
        clip = _WindowClip(dict(zip(sorted(needed), jpegs, strict=True)), length, "flow" if self.solver else "rgb")
        logits = {}
        for name, stream in self.streams.items():
            views = read_scoring_views(
                DifferenceClip(clip) if stream.config["input"] == "difference" else clip,
                stream.sampling,
                stream.protocol(score),
                stream.config["size"],
                stream.config["demean"],
            )  # [V, 1, C, L, H, W]
            logits[name] = stream.logits(views).mean(0).numpy()
        return logits

    def _extract(self, images: Iterable[np.ndarray], count: int, needed: set[int]) -> Iterator[np.ndarray]:
        """Yield the needed frames, uint8 [H, W, 3], or fields of flow codes, uint8 [H, W, 2]."""
        if self.solver is None or isinstance(self.settings, Rgb):
            yield from (image for index, image in enumerate(images) if index in needed)
            return
        if self.settings.frames:
            images = spread(images, count, self.settings.frames)
        before: Any = None
        for index, image in enumerate(images):
            now = self.solver.prepare(image) if index in needed or index - 1 in needed else None
            if index - 1 in needed:
                yield encode_flow(self.solver.match(before, now), self.settings.bound)
            before = now


class _WindowClip:
    """A window as a clip in memory, which holds only the frames that a view reads; another one is a KeyError."""

    def __init__(self, jpegs: dict[int, bytes], length: int, modality: str):
        self._jpegs, self._length = jpegs, length
        self.meta: dict[str, Any] = {"modality": modality}
        self.meta["height"], self.meta["width"] = self.frame(min(jpegs)).shape[:2]

    def __len__(self) -> int:
        return self._length

    def frame(self, index: int) -> np.ndarray:
        return decode_frame(self._jpegs[index], self.meta["modality"])


def _survey(source: str | Path) -> tuple[Probe, np.ndarray, float]:
    """Return the probe of a file, its frames' times and its duration in seconds.

    Raises:
        UserError: there is nothing to predict.
    """
    if os.path.isdir(source):
        raise UserError(f"{source}: is a folder; give a video in it")
    if os.path.exists(source) and not os.path.isfile(source):
        raise UserError(f"{source}: is a pipe or a device, not a file; send it to the standard input and give `-`")
    with message_if_slow(f"counting the frames of {source}"):
        found, times = survey(source)
    if found.frames < 2 or min(found.width, found.height) < MIN_SIDE:
        raise UserError(f"{source}: {found.reason}; give a video file")
    step = float(np.median(np.diff(times))) or 1 / (found.fps or 25.0)
    return found, times, float(times[-1]) + step


def _extraction_settings(modality: str, values: dict[str, Any], where: Path) -> Rgb | Flow:
    """Return the parameter section that a stream's frames were extracted with."""
    try:
        if modality == "rgb":
            return Rgb.model_validate(values)
        # Clips hold the section of their flow method alone; the others come from base.yaml and are not used.
        others = {name: section for name, section in complete({})["flow"].items() if isinstance(section, dict)}
        recorded = {key: value for key, value in values.items() if key != "weights"}  # the digest of RAFT's weight file
        return Flow.model_validate({**others, **recorded})
    except ValidationError as error:
        problem = validation_reason(error)
    raise UserError(f"{where}: cannot be used (extraction: {problem}); delete it and train the stream with `dvc repro`")


def _solver(settings: Rgb | Flow, accelerator: str) -> Solver | None:
    """Return the solver of a flow section, run once, so that compiling does not delay the first window."""
    if isinstance(settings, Rgb):
        return None
    if accelerator == "cpu":
        settings = settings.model_copy(update={"device": "cpu"})
    elif settings.device == "cuda":  # the training machine had a GPU; this one may have none
        settings = settings.model_copy(update={"device": "auto"})
    with message_if_slow(f"getting {settings.method} ready"):
        solver = make_solver(settings, resolve_device(settings))
        solver(*np.random.default_rng(0).integers(0, 256, (2, 128, 128), np.uint8))
    return solver


def _counted(images: Iterable[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for image in images:
        yield image
        bar.update()
