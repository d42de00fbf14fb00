"""The clips of one subset that a stream is trained or scored on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from twostream.datasets.tables import classes_of
from twostream.errors import UserError


@dataclass(frozen=True)
class Example:
    """A clip of one subset: its id, its packed file, and its label as an index into the sorted class names."""

    clip_id: str
    path: Path
    label: int


def list_examples(clips: pd.DataFrame, split: pd.Series, folder: Path, subset: str) -> list[Example]:
    """Return the readable clips of one subset, sorted by id, with their files in `folder`.

    Raises:
        UserError: the subset is empty.
    """
    labels = {name: label for label, name in enumerate(classes_of(clips))}
    usable = clips[clips["status"] == "ok"].set_index("clip_id")["class"]
    ids = sorted(clip_id for clip_id in split.index[split == subset] if clip_id in usable.index)
    if not ids:
        raise UserError(f"the split has no readable clip in {subset}; look at data/clips.csv and data/splits/")
    return [Example(clip_id, folder / f"{clip_id}.zip", labels[usable[clip_id]]) for clip_id in ids]
