"""Read the times of a table, and find the frames of a video that they name."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twostream.video import USUAL_FPS, Span, VideoError, frame_times

ACCEPTED = "seconds (75.5), mm:ss (1:15.5), hh:mm:ss (0:01:15.5) or a frame from 0 (1887f)"
_OVER_S = 0.5  # annotation tools round the end of a video, and take the end of its sound


class Moment(NamedTuple):
    """A time as a table gives it: seconds from the video's first frame, or the number of a frame from 0."""

    value: float
    is_frame: bool = False


def read_time(text: str) -> Moment:
    """Read a time in one of the forms of :data:`ACCEPTED`; a decimal comma is read as a point.

    Raises:
        ValueError: it has another form.
    """
    text = text.strip().replace(",", ".")
    if match := re.fullmatch(r"(\d+) ?f(?:rames?)?", text, re.ASCII | re.IGNORECASE):
        return Moment(int(match[1]), is_frame=True)
    if match := re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)( ?s)?", text, re.ASCII | re.IGNORECASE):
        hours, minutes, seconds = (float(part or 0) for part in match.groups()[:3])
        is_clock = match[2] is not None
        if not (is_clock and (seconds >= 60 or (match[1] is not None and minutes >= 60))):
            return Moment(3600 * hours + 60 * minutes + seconds)
    raise ValueError(f"{text!r} is not a time; write {ACCEPTED}")


def find_span(video: Path, start: str, end: str) -> Span | None:
    """Return the span from the frame nearest to `start` up to the frame nearest to `end`, rounded to milliseconds.

    So all ways to write a time give the same span. An empty `start` is the start of the video, an empty `end` its end.
    The times of a video that cannot be read stay as they are: probing it says why.

    Returns:
        None if both are empty.

    Raises:
        ValueError: a time cannot be read, the end is not after the start, or the video is shorter; the message starts
            with the name of the column.
    """
    if not start.strip() and not end.strip():
        return None
    first, last = (_read(name, text) for name, text in (("start", start), ("end", end)))
    times, step = _frames(video)
    if not len(times):
        first, last = first or Moment(0.0), last or Moment(math.inf)
        found = tuple(moment.value / (USUAL_FPS if moment.is_frame else 1) for moment in (first, last))
        return found[0], found[1]
    length = float(times[-1]) + step
    edges = np.append(times, length)
    begin = _nearest(edges, step, first) if first else 0
    stop = _nearest(edges, step, last) if last else len(times)
    for name, text, index in (("start", start, begin), ("end", end, stop)):
        if index is None or (name == "start" and index == len(times)):
            raise ValueError(
                f"{name} {text.strip()!r} is beyond the end of the video, which has {length:.3f} s and {len(times)} "
                "frames; correct it"
            )
    assert begin is not None and stop is not None
    if stop - begin < 2:
        raise ValueError(f"end {end.strip()!r} must be two frames or more after start {start.strip()!r}; correct them")
    return round(float(edges[begin]), 3), round(float(edges[stop]), 3)


def seconds_text(seconds: float) -> str:
    """Return seconds with up to three decimals, as tables and the ids of clips have them."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _read(name: str, text: str) -> Moment | None:
    try:
        return read_time(text) if text.strip() else None
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _nearest(edges: np.ndarray, step: float, moment: Moment) -> int | None:
    """Return the index of an edge, the starts of the frames and the end of the last one; None if it is beyond."""
    over = moment.value - len(edges) + 1 if moment.is_frame else (moment.value - edges[-1]) / step
    if over > max(1.0, _OVER_S / step):
        return None
    if moment.is_frame:
        return min(int(moment.value), len(edges) - 1)
    after = min(int(np.searchsorted(edges, moment.value)), len(edges) - 1)
    return after - 1 if after and moment.value - edges[after - 1] < edges[after] - moment.value else after


@functools.lru_cache(64)
def _frames(video: Path) -> tuple[np.ndarray, float]:
    """Return the times of the frames, and the seconds that a frame is shown; none for a video that cannot be read."""
    try:
        times = frame_times(video)
    except VideoError:
        return np.zeros(0), 0.0
    return times, float(np.median(np.diff(times))) if len(times) > 1 else 1 / USUAL_FPS


def duration(video: Path) -> float:
    """Return the seconds from the first frame to the end of the last; 0 for a video that cannot be read."""
    times, step = _frames(video)
    return float(times[-1]) + step if len(times) else 0.0
