"""Find events in the validation and test videos of a data set whose clips are spans, and measure them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pandas as pd

from twostream.core.cache import RecordCache, code_digest, key_of
from twostream.core.files import sha256_of
from twostream.core.imports import import_closure
from twostream.core.parallel import progress
from twostream.fusion.events import COLUMNS, Curves, Event, EventSettings, choose_thresholds, find_events
from twostream.inference.predict import Predictor, Window, sliding_windows
from twostream.video.probe import survey


class Stretch(NamedTuple):
    """A stretch of a video whose clips are all of one subset: times in seconds, and its true events."""

    path: str
    subset: str
    start: float
    end: float
    truth: list[Event]


def stretches(clips: pd.DataFrame, subset: pd.Series, background: str, lengths: dict[str, float]) -> list[Stretch]:
    """Return the stretches of all videos of which clips are spans; they change in the middle between two clips.

    Args:
        clips, subset, background: as for :func:`measure_events`.
        lengths: duration of each video in seconds, by path.
    """
    found = []
    spans = clips[clips["start"].notna() & (clips["status"] == "ok")].sort_values(["path", "start", "end"])
    for path, of_video in spans.groupby("path"):
        of_video = of_video.assign(subset=of_video["clip_id"].map(subset))
        rows = list(of_video[["subset", "start", "end", "class"]].itertuples(index=False, name=None))
        runs = [(name, list(run)) for name, run in itertools.groupby(rows, key=lambda row: row[0])]
        edges = [0.0]
        for (_, before), (_, after) in itertools.pairwise(runs):
            edges.append((max(row[2] for row in before) + after[0][1]) / 2)
        edges.append(lengths[str(path)])
        for (name, run), (start, end) in zip(runs, itertools.pairwise(edges), strict=True):
            truth = [Event(*row[1:]) for row in run if row[3] != background]
            if end > start:
                found.append(Stretch(str(path), str(name), start, end, truth))
    return found


def measure_events(
    clips: pd.DataFrame,
    subset: pd.Series,
    split: int,
    usual: EventSettings,
    predictor: Predictor,
    videos: Path,
    models: Path,
    cache: Path,
) -> tuple[EventSettings, pd.DataFrame]:
    """Choose the thresholds on the validation stretches and find the events of the test stretches.

    Args:
        clips: the table of `clips.csv`, with spans.
        subset: index clip_id, see :func:`twostream.datasets.tables.read_split`.
        split: number of the split.
        usual: the window, the background, and the thresholds that are used without validation stretches.
        predictor: with the models of the split.
        videos: folder that the paths are relative to.
        models: the model folder.
        cache: folder of the file cache.

    Returns:
        The settings, and a row with :data:`twostream.fusion.events.COLUMNS` per event.
    """
    timelines = _Timelines(predictor, videos, usual.window, cache / "windows.jsonl", models, split)
    wanted = _wanted(clips, subset)
    lengths = {path: timelines.length(path) for path in wanted["path"].unique()}
    todo = [one for one in stretches(wanted, subset, usual.background, lengths) if one.subset in ("val", "test")]
    curves = []
    with progress(len(todo), "events", "stretch") as bar:
        for one in todo:
            curves.append(timelines.curves(one))
            bar.update()
    pairs = list(zip(todo, curves, strict=True))
    validation = [(one.truth, curve) for one, curve in pairs if one.subset == "val"]
    settings = choose_thresholds(validation, predictor.classes, usual)
    rows = [
        [split, one.path, one.start, one.end, kind, *event]
        for one, curve in pairs
        if one.subset == "test"
        for kind, events in (("truth", one.truth), ("predicted", find_events(curve, predictor.classes, settings)))
        for event in events
    ]
    return settings, pd.DataFrame(rows, columns=COLUMNS).round(3)


def _wanted(clips: pd.DataFrame, subset: pd.Series) -> pd.DataFrame:
    """Return the clips of videos that have validation or test clips."""
    measured = clips["clip_id"].map(subset).isin(["val", "test"]) & clips["start"].notna() & (clips["status"] == "ok")
    return clips[clips["path"].isin(clips["path"][measured])]


class _Timelines:
    """The scores of windows, each stretch computed once with the same models, videos and window."""

    def __init__(self, predictor: Predictor, videos: Path, window: float, records: Path, models: Path, split: int):
        self._predictor, self._videos, self._window = predictor, videos, window
        self._known = RecordCache(records)
        self._surveys: dict[str, tuple[np.ndarray, float]] = {}
        folders = [models / f"{name}-{split}" for name in predictor.streams]
        self._identity = {
            "models": [sha256_of(file) for folder in folders for file in sorted(folder.iterdir()) if file.is_file()],
            "score": predictor.score.model_dump(),
            "ffmpeg": av.__version__,
            "code": code_digest(*import_closure([Path(__file__).with_name("predict.py")])),
        }

    def length(self, path: str) -> float:
        return self._survey(path)[1]

    def curves(self, stretch: Stretch) -> Curves:
        """Return the fused probabilities of a stretch's windows."""
        windows = self._windows(stretch)
        middles = np.array([(window.start + window.end) / 2 for window in windows])
        return Curves(middles, np.stack([window.probabilities() for window in windows]), stretch.start, stretch.end)

    def _windows(self, stretch: Stretch) -> list[Window]:
        streams = list(self._predictor.streams)
        path = self._videos / stretch.path
        key = key_of(video=sha256_of(path), window=self._window, stretch=[stretch.start, stretch.end], **self._identity)
        if key not in self._known:
            times, length = self._survey(stretch.path)
            spans = sliding_windows(times, stretch.start, stretch.end, self._window)
            found = self._predictor.score_windows(path, times, length, spans)
            self._known.add(
                key,
                [
                    [
                        one.start,
                        one.end,
                        one.frames,
                        [one.logits[name].astype(np.float32).tobytes().hex() for name in streams],
                    ]
                    for one in found
                ],
            )
        return list(self._restored(self._known[key], streams))

    def _restored(self, rows: list[list], streams: list[str]) -> Iterator[Window]:
        for start, end, frames, texts in rows:
            logits = {
                name: np.frombuffer(bytes.fromhex(text), np.float32) for name, text in zip(streams, texts, strict=True)
            }
            fused = self._predictor.fusion.fuse({name: row[None] for name, row in logits.items()})[0]
            yield Window(start, end, frames, logits, fused)

    def _survey(self, path: str) -> tuple[np.ndarray, float]:
        if path not in self._surveys:
            _, times = survey(self._videos / path)
            self._surveys[path] = times, float(times[-1]) + float(np.median(np.diff(times)))
        return self._surveys[path]
