"""Write predicted events: a table, JSON, subtitles that players show over the video, and Label Studio's predictions."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason
from twostream.fusion.events import Event

COLUMNS = ("video", "start", "end", "label", "confidence")
LABEL_STUDIO = ".ls.json"


class Timeline(NamedTuple):
    """A predicted video: its path, its length in seconds, the times of its frames, and its events."""

    video: str
    seconds: float
    times: np.ndarray
    events: list[Event]


def check_target(out: Path, videos: int) -> None:
    """Raise a UserError if events of so many videos cannot go to `out`; cheap, so call it before predicting."""
    if _writer(out) is _write_vtt and videos > 1:
        raise UserError(f"{out}: subtitles are of one video, not of {videos}; write .csv, .json or {LABEL_STUDIO}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")


def write_events(out: Path, timelines: Sequence[Timeline]) -> None:
    """Write the events of videos in the format of the file's ending; the file appears complete or not at all.

    Raises:
        UserError: the ending is not known, or the file cannot be written.
    """
    write = _writer(out)
    try:
        with atomic_path(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            write(file, timelines)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)}); choose another place") from None


def event_dict(event: Event) -> dict[str, Any]:
    """Return an event as plain values for JSON."""
    start, end = round(event.start, 3), round(event.end, 3)
    return {"start": start, "end": end, "class": event.label, "confidence": round(event.confidence, 6)}


def _writer(out: Path) -> Callable[[TextIO, Sequence[Timeline]], None]:
    for ending, write in _WRITERS.items():
        if out.name.lower().endswith(ending):
            return write
    raise UserError(f"{out}: let its name end in {', '.join(_WRITERS)} (Label Studio: {LABEL_STUDIO})")


def _write_csv(file: TextIO, timelines: Sequence[Timeline]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video, _, _, events in timelines:
        for event in events:
            numbers = f"{event.start:.3f}", f"{event.end:.3f}", event.label, f"{event.confidence:.6f}"
            writer.writerow([video, *numbers])


def _write_json(file: TextIO, timelines: Sequence[Timeline]) -> None:
    values = [
        {"video": one.video, "seconds": round(one.seconds, 3), "events": [event_dict(event) for event in one.events]}
        for one in timelines
    ]
    json.dump(values, file, indent=1, ensure_ascii=False)
    file.write("\n")


def _write_vtt(file: TextIO, timelines: Sequence[Timeline]) -> None:
    """Write WebVTT (W3C): a cue per event."""
    file.write("WEBVTT\n")
    for event in timelines[0].events:
        words = html.escape(" ".join(event.label.split()), quote=False)
        file.write(f"\n{_clock(event.start)} --> {_clock(event.end)}\n{words} {100 * event.confidence:.0f} %\n")


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _write_label_studio(file: TextIO, timelines: Sequence[Timeline]) -> None:
    """Write tasks with predictions for the template of video frame classification: frames from 1, the last included."""
    tasks = []
    for video, _, times, events in timelines:
        result = []
        for number, event in enumerate(events):
            first, stop = np.searchsorted(times, [event.start - 1e-6, event.end - 1e-6])
            frames = {"start": int(min(first, len(times) - 1)) + 1, "end": int(max(stop, first + 1))}
            region = {"id": f"event{number}", "from_name": "videoLabels", "to_name": "video", "type": "timelinelabels"}
            value = {"ranges": [frames], "timelinelabels": [event.label]}
            result.append({**region, "value": value, "score": round(event.confidence, 6)})
        score = round(float(np.mean([event.confidence for event in events])), 6) if events else 0.0
        predictions = [{"model_version": "twostream", "score": score, "result": result}]
        tasks.append({"data": {"video": video}, "predictions": predictions})
    json.dump(tasks, file, indent=1, ensure_ascii=False)
    file.write("\n")


_WRITERS: dict[str, Callable[[TextIO, Sequence[Timeline]], None]] = {
    ".csv": _write_csv,
    LABEL_STUDIO: _write_label_studio,  # before .json
    ".json": _write_json,
    ".vtt": _write_vtt,
}
