"""The tables of clips and their splits: `clips.csv` and `splits/<n>.csv`."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pandas as pd

from twostream.core.files import atomic_path
from twostream.errors import UserError, reason

CLIP_COLUMNS = ["clip_id", "path", "class", "group", "frames", "fps", "width", "height", "status", "reason"]
COPIES = "copy_of"  # one more column, only where clips show the same video
STATUSES = ("ok", "unreadable", "missing")
SUBSETS = ("train", "val", "test", "unused")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV, atomically. Names may contain quotes and newlines."""
    with atomic_path(path) as part:
        # Text is always quoted: a lone carriage return in a name would otherwise break its row.
        table.to_csv(part, index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def read_clips(path: str | Path) -> pd.DataFrame:
    """Read `clips.csv`: one row per clip, columns :data:`CLIP_COLUMNS`, and :data:`COPIES` if there are any.

    Text columns are str; frames, width and height int64; fps float64.

    Raises:
        UserError: the file is missing or has other columns.
    """
    table = _read(path, CLIP_COLUMNS, {"frames": "int64", "width": "int64", "height": "int64", "fps": "float64"})
    if table["clip_id"].duplicated().any():
        raise UserError(f"{path}: clip {table['clip_id'][table['clip_id'].duplicated()].iloc[0]!r} is listed twice")
    return table


def read_split(path: str | Path) -> pd.Series:
    """Read a split file into a Series: index clip_id, values of :data:`SUBSETS`. Raises UserError as `read_clips`."""
    table = _read(path, ["clip_id", "subset"], {})
    wrong = sorted(set(table["subset"]) - set(SUBSETS))
    if wrong:
        raise UserError(f"{path}: subset {wrong[0]!r} must be one of {', '.join(SUBSETS)}")
    return table.set_index("clip_id")["subset"]


def classes_of(clips: pd.DataFrame) -> list[str]:
    """Return all class names in label order (sorted), including those without a readable clip."""
    return sorted(clips["class"].unique())


def _read(path: str | Path, columns: list[str], types: dict[str, str]) -> pd.DataFrame:
    try:
        # keep_default_na: a class or clip may be called "None" or "NA".
        table = pd.read_csv(path, dtype=defaultdict(lambda: "str", types), keep_default_na=False, na_values=[])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); run `dvc repro` to make it again") from None
    if list(table.columns) not in (columns, [*columns, COPIES]):
        raise UserError(f"{path}: has the columns {', '.join(table.columns)}; expected {', '.join(columns)}")
    return table
