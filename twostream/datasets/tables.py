"""The tables of clips and their splits: `clips.csv` and `splits/<n>.csv`."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason

if TYPE_CHECKING:
    from twostream.video import Span

CLIP_COLUMNS = ["clip_id", "path", "class", "group", "frames", "fps", "width", "height", "status", "reason"]
SPAN_COLUMNS = ["start", "end"]  # only where clips are spans of videos: seconds, missing for a clip that is all of one
COPIES = "copy_of"  # only where clips show the same video
STATUSES = ("ok", "unreadable", "missing")
_LEADS_OUT = re.compile(r"^$|^/|\0|(?:^|/)\.\.(?:/|$)")
SUBSETS = ("train", "val", "test", "unused")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, atomically. Names may contain quotes and newlines."""
    with atomic_path(path) as part:
        # Text is always quoted: a lone carriage return in a name would otherwise break its row.
        table.to_csv(part, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def read_clips(path: str | Path) -> pd.DataFrame:
    """Read `clips.csv`: one row per clip, columns :data:`CLIP_COLUMNS`, then :data:`SPAN_COLUMNS` and :data:`COPIES`
    if there are any.

    Text columns are str; frames, width and height int64; fps, start and end float64.

    Raises:
        UserError: the file is missing, has other columns, or has values that this project does not write.
    """
    table = _read(path, CLIP_COLUMNS, {"frames": "int64", "width": "int64", "height": "int64", "fps": "float64"})
    for column in set(SPAN_COLUMNS) & set(table):
        try:
            table[column] = pd.to_numeric(table[column])  # an empty cell is missing
        except ValueError as error:
            raise UserError(f"{path}: column {column}: {reason(error)}; run `dvc repro probe`") from None
    ok = table["status"] == "ok"
    for problem, wrong in (
        ("its status is not one of ok, unreadable, missing", ~table["status"].isin(STATUSES)),
        ("its id leads out of the folder", table["clip_id"].str.contains(_LEADS_OUT)),
        ("its path leads out of the folder", table["path"].str.contains(_LEADS_OUT)),
        ("it has no frames", ok & ~(table[["frames", "width", "height"]] > 0).all(axis=1)),
    ):
        if wrong.any():
            raise UserError(f"{path}: clip {table['clip_id'][wrong].iloc[0]!r}: {problem}; run `dvc repro probe`")
    return table


def read_split(path: str | Path) -> pd.Series:
    """Read a split file into a Series: index clip_id, values of :data:`SUBSETS`. Raises UserError as `read_clips`."""
    table = _read(path, ["clip_id", "subset"], {})
    wrong = sorted(set(table["subset"]) - set(SUBSETS))
    if wrong:
        raise UserError(f"{path}: subset {wrong[0]!r} must be one of {', '.join(SUBSETS)}")
    return table.set_index("clip_id")["subset"]


def span_of(row: Any) -> Span | None:
    """Return the span of its video that a clip is, for a row of :meth:`pandas.DataFrame.itertuples`; None for all."""
    start, end = getattr(row, "start", math.nan), getattr(row, "end", math.nan)
    return None if math.isnan(start) else (start, end)


def classes_of(clips: pd.DataFrame) -> list[str]:
    """Return all class names in label order (sorted), including those without a readable clip."""
    return sorted(clips["class"].unique())


def _read(path: str | Path, columns: list[str], types: dict[str, str]) -> pd.DataFrame:
    try:
        # keep_default_na: a class or clip may be called "None" or "NA".
        table = pd.read_csv(path, dtype=defaultdict(lambda: "str", types), keep_default_na=False, na_values=[])
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); run `dvc repro` to make it again") from None
    if [name for name in table.columns if name not in (*SPAN_COLUMNS, COPIES)] != columns:
        raise UserError(f"{path}: has the columns {', '.join(table.columns)}; expected {', '.join(columns)}")
    if table["clip_id"].duplicated().any():
        raise UserError(f"{path}: clip {table['clip_id'][table['clip_id'].duplicated()].iloc[0]!r} is listed twice")
    return table
