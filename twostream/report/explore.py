"""A first look at a data set: classes, durations, resolutions, frame rates, and a picture of every class."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from tqdm import tqdm

from twostream.datasets.tables import STATUSES, classes_of, write_table
from twostream.errors import UserError
from twostream.report.charts import MOST_ROWS, Bar, bars, parted, standalone
from twostream.report.text import shorten, visible
from twostream.video import VideoError, read_frames

DURATION_EDGES = (0, 1, 2, 5, math.inf)  # seconds
DURATION_BINS = ("0 to 1 s", "1 to 2 s", "2 to 5 s", "over 5 s")

# The contact sheet: the largest cells with which it stays below this many pixels, and so below 3 MB.
_SHEET_PIXELS = 2_600_000
_CELL_WIDTHS = (240, 200, 176, 152, 128, 112, 96)
_MARGIN = 8
_PAPER, _INK, _BOX = (255, 255, 255), (36, 32, 28), (235, 232, 228)  # BGR, as cv2 draws and encodes


def explore(clips: pd.DataFrame, videos: Path, out: Path) -> dict[str, Any]:
    """Write the exploration of a data set into the folder `out` and return its summary.

    Durations, resolutions and rates are those of readable clips. What is written:

    - `summary.json`: counts (`clips`, `readable`, `unreadable`, `missing`, `classes`, `groups`, and
      `classes_without_clips`, those of which none is readable), `frames` and `seconds` (`total`, `min`, `median`,
      `mean`, `max`; zeros without readable clips) and `unknown_duration`, the readable clips without a frame rate.
    - `classes.csv`: class, clips, seconds, median_seconds, readable, unreadable, missing; classes in label order.
    - `durations.csv`: bin, clips. A clip of exactly 2 s is in `1 to 2 s`.
    - `resolutions.csv`: resolution, clips; `fps.csv`: fps, clips. The most frequent first.
    - `contact_sheet.jpg`: the middle frame of one readable clip of each class.
    - `classes.svg`, `minutes.svg`, `durations.svg`: clips of each class, minutes of each class, durations, as charts.

    Args:
        clips: the table of `clips.csv`.
        videos: the folder that its paths are relative to.
        out: made if it does not exist.

    Raises:
        UserError: a clip that the table calls readable is not.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables = _tables(clips)
    summary = _summary(clips)
    for name, table in tables.items():
        write_table(table, out / f"{name}.csv")
    for name, (chart,) in charts(tables["classes"], tables["durations"], most_rows=len(clips) + 4).items():
        _write(out / f"{name}.svg", standalone(chart).encode("utf-8"))
    _write(out / "contact_sheet.jpg", _jpeg(_contact_sheet(clips, videos)))
    _write(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode("utf-8"))
    return summary


def load_exploration(folder: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame], bytes]:
    """What :func:`explore` wrote: the summary, the tables by name (without ending), the JPEG of the contact sheet.

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
        return summary, tables, (folder / "contact_sheet.jpg").read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not a usable exploration ({error}); run `dvc repro` to make it again") from None


def sheet_frames(sheet: bytes, classes: int) -> list[np.ndarray]:
    """The frames on the contact sheet of so many classes, without their labels: uint8 [H, W, 3] RGB, in label order.

    Raises:
        UserError: the sheet is not one of so many classes.
    """
    image = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR)
    layout = _layout(classes)
    if image is None or image.shape[:2] != (layout.sheet_height, layout.sheet_width):
        raise UserError(f"the contact sheet is not one of {classes} classes; run `dvc repro` to make it again")
    corners = [layout.corner(place) for place in range(classes)]
    return [image[y : y + layout.height, x : x + layout.width, ::-1] for x, y in corners]


def charts(classes: pd.DataFrame, durations: pd.DataFrame, *, most_rows: int = MOST_ROWS) -> dict[str, list[Markup]]:
    """The charts of `classes.csv` and `durations.csv` by name, each in parts of at most `most_rows` rows."""
    lost = classes["unreadable"] + classes["missing"]
    rows = [
        Bar(name, [(readable, "rgb"), (without, "bad")], f"{clips}" + (f" ({without} lost)" if without else ""))
        for name, readable, without, clips in zip(
            classes["class"], classes["readable"], lost, classes["clips"], strict=True
        )
    ]
    minutes = [
        Bar(name, [(seconds / 60, "rgb")], f"{seconds / 60:.1f}")
        for name, seconds in zip(classes["class"], classes["seconds"], strict=True)
    ]
    legend = [("rgb", "readable clips"), ("bad", "unreadable or missing")] if lost.any() else []
    total = durations["clips"].sum()
    binned = [
        Bar(name, [(clips, "rgb")], f"{clips} ({100 * clips / max(total, 1):.0f} %)")
        for name, clips in zip(durations["bin"], durations["clips"], strict=True)
    ]
    return {
        "classes": [
            bars(part, label=f"Clips in each of {len(classes)} classes", legend=legend, like=rows)
            for part in parted(rows, most_rows)
        ],
        "minutes": [
            bars(part, label=f"Minutes of readable clips in each of {len(classes)} classes", like=minutes)
            for part in parted(minutes, most_rows)
        ],
        "durations": [bars(binned, label=f"Durations of {total} clips")],
    }


def _seconds(clips: pd.DataFrame) -> pd.Series:
    """Duration of each clip in seconds; missing where it is not known."""
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
        "resolutions": _counted(resolutions),
        "fps": _counted(ok["fps"].round(3)),
    }


def _counted(values: pd.Series) -> pd.DataFrame:
    """Each value and how many clips have it; the most frequent first, of equals the smaller."""
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
    """Sum, least and greatest of whole numbers are whole numbers."""
    if values.empty:
        return dict.fromkeys(("total", "min", "median", "mean", "max"), 0)
    exact = int if values.dtype.kind == "i" else lambda value: round(float(value), 3)
    return {
        "total": exact(values.sum()),
        "min": exact(values.min()),
        "median": round(float(values.median()), 3),
        "mean": round(float(values.mean()), 3),
        "max": exact(values.max()),
    }


def _contact_sheet(clips: pd.DataFrame, videos: Path) -> np.ndarray:
    """uint8 [H, W, 3] BGR: a grid of equal cells, about 4:3 as a whole, each a letterboxed frame above its class."""
    names = classes_of(clips)
    layout = _layout(len(names))
    width, height, label = layout.width, layout.height, layout.label
    sheet = np.full((layout.sheet_height, layout.sheet_width, 3), _PAPER, np.uint8)
    readable = dict(list(clips[clips["status"] == "ok"].sort_values("clip_id", kind="stable").groupby("class")))
    for place, name in enumerate(tqdm(names, desc="contact sheet", unit="class", delay=1)):
        x, y = layout.corner(place)
        cell = sheet[y : y + height, x : x + width]
        if name in readable:
            # Not the first clip of every class: those are often of one and the same source.
            clip = readable[name].iloc[place * len(readable[name]) // len(names)]
            _letterbox(_middle_frame(videos / clip["path"], int(clip["frames"])), cell)
        else:
            cell[:] = _BOX
            _write_line(cell, "no readable clip", width / 2, height / 2 + 4, width, centred=True)
        _write_line(sheet[y + height : y + height + label, x : x + width], name, 1, label * 0.7, width)
    return sheet


class _Layout(NamedTuple):
    """Where the cells of a contact sheet lie, pixels."""

    width: int
    height: int
    label: int
    columns: int
    rows: int

    @property
    def sheet_width(self) -> int:
        return self.columns * (self.width + _MARGIN) + _MARGIN

    @property
    def sheet_height(self) -> int:
        return self.rows * (self.height + self.label + _MARGIN) + _MARGIN

    def corner(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        return _MARGIN + column * (self.width + _MARGIN), _MARGIN + row * (self.height + self.label + _MARGIN)


def _layout(classes: int) -> _Layout:
    """The largest cells that the sheet has room for, in the columns that bring it closest to 4:3."""
    for width in _CELL_WIDTHS:
        height, label = width * 3 // 4, 22
        if classes * (width + _MARGIN) * (height + label + _MARGIN) <= _SHEET_PIXELS:
            break
    columns = max(1, min(classes, round(math.sqrt(classes * 4 / 3 * (height + label) / width))))
    return _Layout(width, height, label, columns, math.ceil(classes / columns))


def _middle_frame(path: Path, frames: int) -> np.ndarray:
    """uint8 [H, W, 3] RGB."""
    problem = f"fewer frames than the {frames} in clips.csv"
    try:
        with contextlib.closing(read_frames(path)) as decoded:
            for frame in itertools.islice(decoded, frames // 2, None):
                return frame
    except VideoError as error:
        problem = str(error)
    raise UserError(f"{str(path)!r}: {problem}; run `dvc repro` to probe the clips again")


def _letterbox(frame: np.ndarray, cell: np.ndarray) -> None:
    """Fit an RGB frame into the middle of a BGR cell, aspect kept."""
    scale = min(cell.shape[1] / frame.shape[1], cell.shape[0] / frame.shape[0])
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    y, x = (cell.shape[0] - size[1]) // 2, (cell.shape[1] - size[0]) // 2
    cell[:] = _BOX
    cell[y : y + size[1], x : x + size[0]] = small[..., ::-1]


def _write_line(image: np.ndarray, text: str, x: float, y: float, width: int, *, centred: bool = False) -> None:
    """Draw one line of text, cut to `width` pixels. Characters that cv2's font does not hold come out as `?`."""
    scale = 0.5 if width >= 150 else 0.4
    shown = shorten(visible(text), width / (28 * scale)).replace("…", "...")
    while len(shown) > 1 and cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width - 2:
        shown = shown.removesuffix("...")[:-1] + "..."
    if centred:
        x -= cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] / 2
    # A slice of the sheet is not contiguous, and cv2 would draw on a copy.
    canvas = np.ascontiguousarray(image)
    cv2.putText(canvas, shown, (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
    image[:] = canvas


def _jpeg(image: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not encoded:
        raise RuntimeError("the contact sheet cannot be encoded")
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(data)
    os.replace(beside, path)
