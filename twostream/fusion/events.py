"""Events: where in a video a class is seen. From the probabilities of windows, and compared with true events.

Windows of equal length overlap by half. When the middle of a window crosses the edge of an event, half of the window
shows it, so that the probability that anything is seen, drawn over the middles of the windows, is about half way
between its values outside and inside. Something is seen where this curve, interpolated linearly, is above a low
threshold without a break, if it somewhere is above a high one (hysteresis: Canny 1986, section 6, there for edges).
Such a span is one event, of the class with the largest sum of probabilities, or several where the class changes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason

IOU = 0.5  # intersection over union from which a predicted event is a true one
USUAL_HIGH, USUAL_LOW = 0.6, 0.4  # without validation videos that are annotated in time
COLUMNS = ["split", "path", "from", "to", "kind", "start", "end", "class", "confidence"]  # of tables of events
_SHORTEST_S, _LONGEST_S = 0.3, 10.0  # of a window
_CHANGE = 0.75  # what a change of the class inside an event must add to the sum of the windows' probabilities
_HIGHS = np.arange(0.3, 0.96, 0.05)
_LOWS = np.arange(0.1, 0.76, 0.05)


class Event(NamedTuple):
    """A class in a span of time, in seconds; `confidence` of a prediction is its highest probability there."""

    start: float
    end: float
    label: str
    confidence: float = 1.0


@dataclass(frozen=True)
class EventSettings:
    """How events are found with the models of a split: `events-<split>.json` in the model folder.

    Attributes:
        window: seconds of a window; 0: unknown.
        high, low: the thresholds.
        background: the class of which no events are made; "": there is none.
        chosen: whether the thresholds were chosen on validation videos.
    """

    window: float = 0.0
    high: float = USUAL_HIGH
    low: float = USUAL_LOW
    background: str = ""
    chosen: bool = False


class Curves(NamedTuple):
    """Probabilities [K, C] of the C classes in K windows, the middles of these [K], and the time that they cover."""

    middles: np.ndarray
    probabilities: np.ndarray
    start: float
    end: float


def find_events(curves: Curves, classes: Sequence[str], settings: EventSettings) -> list[Event]:
    """Return the events by their start; no two of them overlap.

    Something is seen as far as the classes other than the background are probable together. Without a background they
    always are, so then the most probable one counts.
    """
    labels = [label for label in classes if label != settings.background]
    values = curves.probabilities[:, [label != settings.background for label in classes]]
    seen = values.sum(axis=1) if len(labels) < len(classes) else values.max(axis=1)
    events = []
    for start, end in _above(curves, seen, settings.high, settings.low):
        rows = np.flatnonzero((curves.middles >= start) & (curves.middles <= end))
        columns = _best_sequence(values[rows])
        changes = np.flatnonzero(np.diff(columns)) + 1
        edges = [start]
        for old, new, row in zip(columns[changes - 1], columns[changes], rows[changes], strict=True):
            edges.append(_crossing(curves.middles, values[:, new] - values[:, old], row - 1, 0.0))
        for run, first, last in zip(np.split(rows, changes), edges, [*edges[1:], end], strict=True):
            column = columns[run[0] - rows[0]]
            events.append(Event(first, last, labels[column], float(values[run, column].max())))
    return events


def _best_sequence(values: np.ndarray) -> np.ndarray:
    """Return which column [K] to take in each row of `values` [K, A].

    The sum of the values that are taken, less :data:`_CHANGE` for each change of the column, is the largest one. It is
    found by dynamic programming (Viterbi 1967).
    """
    total, before = values[0], []
    for row in values[1:]:
        best = total.argmax()
        before.append(np.where(total >= total[best] - _CHANGE, np.arange(len(total)), best))
        total = np.maximum(total, total[best] - _CHANGE) + row
    path = [total.argmax()]
    for columns in reversed(before):
        path.append(columns[path[-1]])
    return np.array(path[::-1])


def _above(curves: Curves, values: np.ndarray, high: float, low: float) -> list[tuple[float, float]]:
    """Return start and end of each stretch in which the interpolated values are above `low`, if one is above `high`.

    Before the first middle and after the last, the value is constant.
    """
    times = np.concatenate([[curves.start], curves.middles, [curves.end]])
    values = np.concatenate([values[:1], values, values[-1:]])
    inside = np.flatnonzero(values >= low)
    found = []
    for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1) if inside.size else []:
        first, last = run[0], run[-1]
        if values[run].max() < high:
            continue
        start = times[first] if first == 0 else _crossing(times, values, first - 1, low)
        end = times[last] if last == len(times) - 1 else _crossing(times, values, last, low)
        if end > start:
            found.append((float(start), float(end)))
    return found


def _crossing(times: np.ndarray, values: np.ndarray, before: int, level: float) -> float:
    """Return when the line from one value to the next is at `level`, or the nearer end of the line to it."""
    rise = values[before + 1] - values[before]
    share = float(np.clip((level - values[before]) / rise, 0, 1)) if rise else 0.5
    return float(times[before] + share * (times[before + 1] - times[before]))


def match(truth: Sequence[Event], predicted: Sequence[Event]) -> list[bool]:
    """Return whether each predicted event is a true one: of the same class, overlapping by :data:`IOU` or more.

    The most confident ones choose first, and each true event counts once, as usual in temporal action localisation.
    """
    free = set(range(len(truth)))
    right = [False] * len(predicted)
    for index in sorted(range(len(predicted)), key=lambda number: -predicted[number].confidence):
        event = predicted[index]
        overlaps = {number: _iou(truth[number], event) for number in free if truth[number].label == event.label}
        best = max(overlaps, key=lambda number: overlaps[number], default=None)
        if best is not None and overlaps[best] >= IOU:
            free.discard(best)
            right[index] = True
    return right


def _iou(one: Event, other: Event) -> float:
    common = min(one.end, other.end) - max(one.start, other.start)
    return max(common, 0.0) / (max(one.end, other.end) - min(one.start, other.start))


def event_scores(pairs: Sequence[tuple[Sequence[Event], Sequence[Event]]]) -> dict[str, float]:
    """Return `f1`, `precision` and `recall` over the (true, predicted) events of several videos, and their numbers."""
    right = sum(sum(match(truth, predicted)) for truth, predicted in pairs)
    true, found = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {
        "f1": round(2 * right / max(true + found, 1), 6),
        "precision": round(right / max(found, 1), 6),
        "recall": round(right / max(true, 1), 6),
        "true": true,
        "predicted": found,
    }


def read_events(paths: Sequence[Path]) -> pd.DataFrame:
    """Read tables with :data:`COLUMNS`: `kind` is `truth` or `predicted`, `from` and `to` are what was tested."""
    text = dict.fromkeys(("path", "kind", "class"), "str")
    tables = [pd.read_csv(path, dtype=text, keep_default_na=False) for path in paths]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def stretches_of(table: pd.DataFrame) -> Iterator[tuple[str, float, float, list[Event], list[Event]]]:
    """Yield path, start and end of each stretch of test videos in a table of events, its true and predicted events."""
    for (_, path, start, end), rows in table.groupby(["split", "path", "from", "to"]):
        sides = (rows[rows["kind"] == kind] for kind in ("truth", "predicted"))
        columns = ["start", "end", "class", "confidence"]
        true, predicted = ([Event(*row) for row in side[columns].itertuples(index=False)] for side in sides)
        yield str(path), float(start), float(end), true, predicted


def usual_window(clips: pd.DataFrame, subset: pd.Series, background: str) -> float:
    """Return the seconds of a window: the lower quartile of the training clips' durations.

    A longer window would not resolve most of the shorter events; a much shorter one would see parts of actions.

    Args:
        clips: the table of `clips.csv`.
        subset: index clip_id, see :func:`twostream.datasets.tables.read_split`.
        background: a class that does not count.
    """
    train = clips[clips["clip_id"].isin(subset.index[subset == "train"]) & (clips["fps"] > 0)]
    seconds = (train["frames"] / train["fps"])[train["class"] != background]
    return round(float(np.clip(seconds.quantile(0.25), _SHORTEST_S, _LONGEST_S)), 3) if len(seconds) else 0.0


def choose_thresholds(
    videos: Sequence[tuple[Sequence[Event], Curves]], classes: Sequence[str], usual: EventSettings
) -> EventSettings:
    """Return the thresholds of the highest F1 on validation videos, the middle ones of those that are equally good.

    Args:
        videos: true events and curves of each.
        usual: the window and the background; its thresholds are used if there are no true events.
    """
    if not any(truth for truth, _ in videos):
        return usual
    tried = []
    for high, low in itertools.product(_HIGHS.round(2).tolist(), _LOWS.round(2).tolist()):
        if low <= high:
            settings = EventSettings(usual.window, high, low, usual.background, chosen=True)
            pairs = [(truth, find_events(curves, classes, settings)) for truth, curves in videos]
            tried.append((event_scores(pairs)["f1"], settings))
    most = max(f1 for f1, _ in tried)
    best = [settings for f1, settings in tried if f1 == most]
    highs, lows = (float(np.mean([getattr(one, name) for one in best])) for name in ("high", "low"))
    return min(best, key=lambda one: (abs(one.high - highs) + abs(one.low - lows), one.high, one.low))


def write_settings(path: Path, settings: EventSettings) -> None:
    """Write the settings as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")


def read_settings(path: Path) -> EventSettings:
    """Read the settings of a model folder; the usual ones where it has none, as of an earlier version.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return EventSettings()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: float(values[name]) for name in ("window", "high", "low")}
        if not (0 <= numbers["low"] <= numbers["high"] <= 1 and 0 <= numbers["window"] < 1e6):
            raise ValueError("thresholds or window out of range")
        return EventSettings(**numbers, background=str(values["background"]), chosen=bool(values["chosen"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not usable ({reason(error)}); run `dvc repro` to make it again") from None
