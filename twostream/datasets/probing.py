"""Probe every clip of a data set by decoding it, and hold out the validation clips of every split by group."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd

from twostream.core.parallel import unordered
from twostream.datasets import get_dataset
from twostream.datasets.splits import hold_out_validation
from twostream.datasets.tables import CLIP_COLUMNS, SUBSETS
from twostream.errors import UserError
from twostream.params import Dataset
from twostream.video import Probe, probe

_NAMED_IN_ERRORS = 20


def list_clips(
    dataset: Dataset, seed: int, videos: Path, annotations: Path, workers: int
) -> tuple[pd.DataFrame, dict[int, pd.DataFrame]]:
    """Return the tables of `clips.csv` and `splits/<n>.csv`.

    A clip that is missing or cannot be read is in both, with its reason and as `unused`: no clip is dropped.

    Args:
        dataset: the parameter section.
        seed: chooses the groups that are held out for validation.
        videos: folder of the videos, `<class>/<file>`.
        annotations: folder of the data set's own split files.
        workers: processes that decode; 0: one per core.

    Raises:
        UserError: no clips, fewer than two classes, or more than `dataset.max_unreadable` clips cannot be read.
    """
    index = get_dataset(dataset.name).describe(dataset, videos, annotations)
    if index.clips["class"].nunique() < 2:
        raise UserError(f"{dataset.source}: at least two classes of clips are needed")
    clips = probe_clips(index.clips, videos, workers)
    _check_readable(clips, dataset)
    readable = (clips["status"] == "ok").to_numpy()
    splits = {}
    for number, subset in index.splits.items():
        subset = subset.reindex(clips["clip_id"], fill_value="unused").where(readable, "unused")
        if not (subset == "val").any():
            subset = hold_out_validation(subset, clips, dataset.val_fraction, seed)
        splits[number] = pd.DataFrame({"clip_id": subset.index, "subset": subset.to_numpy()})
        counts = subset.value_counts()
        print(f"split {number}: {', '.join(f'{counts.get(name, 0)} {name}' for name in SUBSETS)}")
    return clips, splits


def probe_clips(clips: pd.DataFrame, videos: Path, workers: int) -> pd.DataFrame:
    """Decode every clip whose status is `ok` and return the table with :data:`CLIP_COLUMNS`.

    Args:
        clips: str columns clip_id, path, class, group, status, reason.
        videos: folder that the paths are relative to.
        workers: processes that decode; 0: one per core.
    """
    present = clips.index[clips["status"] == "ok"]
    jobs = [(row, videos / path) for row, path in clips["path"][present].items()]
    found = dict(unordered(_probe_one, jobs, workers=workers, what="probe"))
    probed = pd.DataFrame([found[row] for row in present], index=present, columns=[f.name for f in fields(Probe)])
    probed["status"] = probed["readable"].map({True: "ok", False: "unreadable"})
    table = clips.assign(frames=0, fps=0.0, width=0, height=0)
    # Whole columns at once: one assignment per clip took most of the time of this stage.
    for column in ("frames", "fps", "width", "height", "status", "reason"):
        table.loc[present, column] = probed[column]
    return table[CLIP_COLUMNS]


def _probe_one(job: tuple[int, Path]) -> tuple[int, Probe]:
    row, path = job
    return row, probe(path)


def _check_readable(clips: pd.DataFrame, dataset: Dataset) -> None:
    bad = clips[clips["status"] == "unreadable"]
    named = "; ".join(f"{row.path!r}: {row.reason}" for row in bad.head(_NAMED_IN_ERRORS).itertuples())
    more = f"; and {len(bad) - _NAMED_IN_ERRORS} more" if len(bad) > _NAMED_IN_ERRORS else ""
    if len(bad) > dataset.max_unreadable:
        raise UserError(
            f"{len(bad)} clips cannot be read, dataset.max_unreadable allows {dataset.max_unreadable}: {named}{more}"
        )
    if len(bad):
        print(f"{len(bad)} clips cannot be read and are left out: {named}{more}")
    if not (clips["status"] == "ok").any():
        raise UserError(f"{dataset.source}: none of its {len(clips)} clips can be read: {named}{more}")
