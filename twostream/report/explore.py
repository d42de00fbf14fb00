"""Exploration of a data set: classes, durations, resolutions, frame rates, and a frame of every class."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from twostream.core.files import atomic_path
from twostream.datasets.tables import STATUSES, classes_of, span_of, write_table
from twostream.errors import UserError, reason
from twostream.report.charts import MOST_ROWS, Bar, bars, standalone
from twostream.report.text import shorten, visible
from twostream.video import Span, VideoError, read_frames, resize

DURATION_EDGES = (0, 1, 2, 5, math.inf)  # seconds
DURATION_BINS = ("0 to 1 s", "1 to 2 s", "2 to 5 s", "over 5 s")

# The contact sheet: the largest cells with which it stays below this many pixels, and so below 3 MB.
_SHEET_PIXELS = 2_600_000
_CELL_WIDTHS = (240, 200, 176, 152, 128, 112, 96)
_MARGIN, _LABEL = 8, 22  # pixels between cells, and under each for its class
_PAPER, _INK, _EMPTY = (255, 255, 255), (36, 32, 28), (235, 232, 228)  # BGR, as cv2 draws and encodes


def write_exploration(clips: pd.DataFrame, videos: Path, out: Path) -> dict[str, Any]:
    """Write the exploration of a data set into the folder `out` and return its summary.

    Durations, resolutions and rates are those of readable clips. The files:

    - `summary.json`: counts (`clips`, `readable`, `unreadable`, `missing`, `classes`, `groups`, and
      `classes_without_clips`, those without a readable clip), `frames` and `seconds` (`total`, `min`, `median`, `mean`,
      `max`; zeros without readable clips) and `unknown_duration`, the readable clips without a frame rate.
    - `classes.csv`: class, clips, seconds, median_seconds, readable, unreadable, missing; classes in label order.
    - `durations.csv`: bin, clips. A clip of exactly 2 s is in `1 to 2 s`.
    - `resolutions.csv`: resolution, clips; `fps.csv`: fps, clips. The most frequent first.
    - `contact_sheet.jpg`: the middle frame of one readable clip per class.
    - `classes.svg`, `minutes.svg`, `durations.svg`: clips per class, minutes per class, durations, as charts.

    Args:
        clips: the table of `clips.csv`.
        videos: the folder that its paths are relative to.
        out: created if it does not exist.

    Raises:
        UserError: a clip with status `ok` cannot be read.
    """
    tables, summary = _tables(clips), _summary(clips)
    for name, table in tables.items():
        write_table(table, out / f"{name}.csv")
    files = {
        f"{name}.svg": standalone(chart).encode("utf-8")
        for name, (chart,) in exploration_charts(tables, most_rows=len(clips) + 4).items()
    }
    encoded, sheet = cv2.imencode(".jpg", _contact_sheet(clips, videos), [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert encoded
    files["contact_sheet.jpg"] = sheet.tobytes()
    files["summary.json"] = (json.dumps(summary, indent=2) + "\n").encode("utf-8")
    for name, data in files.items():
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(data)
    return summary


class Exploration(NamedTuple):
    """The files of :func:`write_exploration`: the summary, the tables by name, and the frame of each class.

    Frames are uint8 [H, W, 3] RGB, in the order of the table `classes`.
    """

    summary: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    frames: list[np.ndarray]


def read_exploration(folder: Path) -> Exploration:
    """Read the files of :func:`write_exploration`.

    Raises:
        UserError: a file is missing or damaged.
    """
    text = {"class": "str", "bin": "str", "resolution": "str"}
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        tables = {
            # keep_default_na: a class may be called "None"
            name: pd.read_csv(folder / f"{name}.csv", dtype=text, keep_default_na=False)
            for name in ("classes", "durations", "resolutions", "fps")
        }
        frames = _frames_of_sheet((folder / "contact_sheet.jpg").read_bytes(), len(tables["classes"]))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable exploration ({reason(error)}); run `dvc repro explore`") from None
    return Exploration(summary, tables, frames)


def _frames_of_sheet(sheet: bytes, classes: int) -> list[np.ndarray]:
    """Return the frames on a contact sheet without their labels.

    The report shows these instead of decoding the videos again: it needs no videos then, and the frames of hundreds of
    classes stay within the sheet's limit on pixels. The page compresses them a second time, which is not visible.
    """
    image = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    layout = _sheet_layout(classes)
    if image is None or image.shape != layout.shape:
        raise ValueError(f"the contact sheet is not one of {classes} classes")
    corners = map(layout.corner, range(classes))
    return [image[y : y + layout.height, x : x + layout.width, ::-1] for x, y in corners]


def exploration_charts(tables: dict[str, pd.DataFrame], *, most_rows: int = MOST_ROWS) -> dict[str, list[Markup]]:
    """Return the charts `classes`, `minutes` and `durations`, each in parts of at most `most_rows` rows."""
    rows, minutes, durations = [], [], []
    for row in tables["classes"].to_dict("records"):
        lost = row["unreadable"] + row["missing"]
        text = f"{row['clips']} ({lost} lost)" if lost else str(row["clips"])
        rows.append(Bar(row["class"], [(row["readable"], "rgb"), (lost, "bad")], text))
        minutes.append(Bar(row["class"], [(row["seconds"] / 60, "rgb")], f"{row['seconds'] / 60:.1f}"))
    total = tables["durations"]["clips"].sum()
    for name, clips in tables["durations"].itertuples(index=False):
        durations.append(Bar(name, [(clips, "rgb")], f"{clips} ({100 * clips / max(total, 1):.0f} %)"))
    any_lost = any(row.parts[1][0] for row in rows)
    legend = [("rgb", "readable clips"), ("bad", "unreadable or missing")] if any_lost else []
    classes = f"in each of {len(rows)} classes"
    return {
        "classes": bars(rows, label=f"Clips {classes}", legend=legend, most_rows=most_rows),
        "minutes": bars(minutes, label=f"Minutes of readable clips {classes}", most_rows=most_rows),
        "durations": bars(durations, label=f"Durations of {total} clips"),
    }


def _seconds(clips: pd.DataFrame) -> pd.Series:
    """Return the duration of each clip in seconds, missing where it is unknown."""
    known = (clips["status"] == "ok") & (clips["fps"] > 0)
    return (clips["frames"] / clips["fps"].where(known)).where(known)


def _tables(clips: pd.DataFrame) -> dict[str, pd.DataFrame]:
    seconds = _seconds(clips)
    ok = clips[clips["status"] == "ok"]
    by_class = seconds.groupby(clips["class"])
    status = pd.crosstab(clips["class"], clips["status"]).reindex(columns=list(STATUSES), fill_value=0)
    classes = pd.DataFrame(
        {
            "clips": clips.groupby("class").size(),
            "seconds": by_class.sum().round(3),
            "median_seconds": by_class.median().fillna(0).round(3),
            "readable": status["ok"],
            "unreadable": status["unreadable"],
            "missing": status["missing"],
        }
    ).reindex(classes_of(clips))
    binned = pd.cut(seconds.dropna(), DURATION_EDGES, labels=DURATION_BINS).astype(str).value_counts()
    resolutions = (ok["width"].astype(str) + "x" + ok["height"].astype(str)).rename("resolution")
    return {
        "classes": classes.rename_axis("class").reset_index(),
        "durations": binned.reindex(DURATION_BINS, fill_value=0).rename_axis("bin").rename("clips").reset_index(),
        "resolutions": _counts(resolutions),
        "fps": _counts(ok["fps"].round(3)),
    }


def _counts(values: pd.Series) -> pd.DataFrame:
    """Return each value and its number of clips, the most frequent first, of equally frequent ones the smaller."""
    table = values.value_counts().rename("clips").rename_axis(values.name).reset_index()
    return table.sort_values(["clips", values.name], ascending=[False, True], ignore_index=True)


def _summary(clips: pd.DataFrame) -> dict[str, Any]:
    ok = clips["status"] == "ok"
    seconds = _seconds(clips)
    counts = {"readable" if status == "ok" else status: int((clips["status"] == status).sum()) for status in STATUSES}
    return {
        "clips": len(clips),
        **counts,
        "classes": int(clips["class"].nunique()),
        "classes_without_clips": int(clips["class"].nunique() - clips["class"][ok].nunique()),
        "groups": int(clips["group"].nunique()),
        "frames": _statistics(clips["frames"][ok]),
        "seconds": _statistics(seconds.dropna()),
        "unknown_duration": int((ok & seconds.isna()).sum()),
    }


def _statistics(values: pd.Series) -> dict[str, float]:
    """Return five statistics of some values; `total`, `min` and `max` of whole numbers are whole numbers."""
    if values.empty:
        return dict.fromkeys(("total", "min", "median", "mean", "max"), 0)
    found = {"total": values.sum(), **values.agg(["min", "median", "mean", "max"])}
    whole = ("total", "min", "max") if values.dtype.kind == "i" else ()
    return {name: int(value) if name in whole else round(float(value), 3) for name, value in found.items()}


def _contact_sheet(clips: pd.DataFrame, videos: Path) -> np.ndarray:
    """Return a grid of equal cells, uint8 [H, W, 3] BGR, each a letterboxed frame above the name of its class."""
    names = classes_of(clips)
    layout = _sheet_layout(len(names))
    width, height = layout.width, layout.height
    sheet = np.full(layout.shape, _PAPER, np.uint8)
    readable = dict(list(clips[clips["status"] == "ok"].sort_values("clip_id", kind="stable").groupby("class")))
    for number, name in enumerate(tqdm(names, desc="contact sheet", unit="class", delay=1)):
        x, y = layout.corner(number)
        cell = sheet[y : y + height, x : x + width]
        cell[:] = _EMPTY
        if name in readable:
            # Not the first clip of every class: those are often from the same source.
            chosen = number * len(readable[name]) // len(names)
            clip = next(readable[name].iloc[chosen : chosen + 1].itertuples())
            _letterbox(_middle_frame(videos / clip.path, clip.frames, span_of(clip)), cell)
        else:
            _write_line(cell, "no readable clip", height / 2 + 4, centred=True)
        _write_line(sheet[y + height : y + height + _LABEL, x : x + width], name, _LABEL * 0.7)
    return sheet


class _Layout(NamedTuple):
    """The cells of a contact sheet: their size in pixels and their number."""

    width: int
    height: int
    columns: int
    rows: int

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y = self.corner(self.columns * self.rows - 1)
        return y + self.height + _LABEL + _MARGIN, x + self.width + _MARGIN, 3

    def corner(self, number: int) -> tuple[int, int]:
        """Return x and y of the upper left corner of a cell."""
        row, column = divmod(number, self.columns)
        return _MARGIN + column * (self.width + _MARGIN), _MARGIN + row * (self.height + _LABEL + _MARGIN)


def _sheet_layout(classes: int) -> _Layout:
    """Return the largest cells within the limit of pixels, in the columns that bring the sheet closest to 4:3."""
    for width in _CELL_WIDTHS:
        height = width * 3 // 4
        if classes * (width + _MARGIN) * (height + _LABEL + _MARGIN) <= _SHEET_PIXELS:
            break
    columns = max(1, min(classes, round(math.sqrt(classes * 4 / 3 * (height + _LABEL) / width))))
    return _Layout(width, height, columns, math.ceil(classes / columns))


def _middle_frame(path: Path, frames: int, span: Span | None) -> np.ndarray:
    """Return the middle frame of a clip, uint8 [H, W, 3] RGB."""
    try:
        frame = next(itertools.islice(read_frames(path, span=span), frames // 2, None), None)
        problem = f"fewer frames than the {frames} in clips.csv"
    except VideoError as error:
        frame, problem = None, str(error)
    if frame is None:
        raise UserError(f"{str(path)!r}: {problem}; run `dvc repro` to probe the clips again")
    return frame


def _letterbox(frame: np.ndarray, cell: np.ndarray) -> None:
    """Copy an RGB frame into the middle of a BGR cell, in its own aspect ratio."""
    scale = min(cell.shape[1] / frame.shape[1], cell.shape[0] / frame.shape[0])
    width, height = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    y, x = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    cell[y : y + height, x : x + width] = resize(frame, (width, height))[..., ::-1]


def _write_line(cell: np.ndarray, text: str, y: float, *, centred: bool = False) -> None:
    """Draw a line of text, shortened to the cell's width. Characters outside cv2's font are drawn as `?`."""
    width = cell.shape[1]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5 if width >= 150 else 0.4
    shown = shorten(visible(text), width / (28 * scale)).replace("…", "...")
    while len(shown) > 1 and cv2.getTextSize(shown, font, scale, 1)[0][0] > width - 2:
        shown = shown.removesuffix("...")[:-1] + "..."
    x = (width - cv2.getTextSize(shown, font, scale, 1)[0][0]) / 2 if centred else 1
    canvas = np.ascontiguousarray(cell)  # cv2 would draw on a copy of a slice
    cv2.putText(canvas, shown, (round(x), round(y)), font, scale, _INK, 1, cv2.LINE_AA)
    cell[:] = canvas
