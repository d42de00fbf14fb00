"""Listing: every clip of a data set probed by decoding, and every split with validation held out by group."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from twostream.core.parallel import unordered
from twostream.datasets import get_dataset
from twostream.datasets.splits import hold_out_validation
from twostream.datasets.tables import CLIP_COLUMNS
from twostream.errors import UserError
from twostream.params import Dataset
from twostream.video import Probe, probe

_NAMED_IN_ERRORS = 20


def list_clips(
    dataset: Dataset, seed: int, videos: Path, annotations: Path, workers: int
) -> tuple[pd.DataFrame, dict[int, pd.DataFrame]]:
    """The tables of `clips.csv` and `splits/<n>.csv`.

    A clip that is missing or cannot be read stands in both, with its reason and as `unused`: nothing is dropped.

    Args:
        dataset: the parameter section.
        seed: chooses which groups are held out for validation.
        videos: folder of the videos, `<class>/<file>`.
        annotations: folder of the data set's own split files.
        workers: processes that decode; 0 means one a core.

    Raises:
        UserError: no clips, fewer than two classes, or more clips than `dataset.max_unreadable` cannot be read.
    """
    description = get_dataset(dataset.name).describe(dataset, videos, annotations)
    clips = description.clips.sort_values("clip_id", kind="stable", ignore_index=True)
    if clips["class"].nunique() < 2:
        raise UserError(f"{dataset.source}: holds {clips['class'].nunique()} classes of clips; at least two are needed")
    clips = _probe_all(clips, videos, workers)
    _check_readable(clips, dataset)
    readable = set(clips["clip_id"][clips["status"] == "ok"])
    splits = {}
    for number, subset in description.splits.items():
        subset = subset.reindex(clips["clip_id"], fill_value="unused").where(lambda s: s.index.isin(readable), "unused")
        if not (subset == "val").any():
            subset = hold_out_validation(subset, clips, dataset.val_fraction, seed)
        splits[number] = pd.DataFrame({"clip_id": subset.index, "subset": subset.to_numpy()})
        counts = subset.value_counts()
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("train", "val", "test", "unused"))
        print(f"split {number}: {shown}")
    return clips[CLIP_COLUMNS], splits


def _probe_all(clips: pd.DataFrame, videos: Path, workers: int) -> pd.DataFrame:
    clips = clips.assign(frames=0, fps=0.0, width=0, height=0)
    jobs = [(index, videos / clips.at[index, "path"]) for index in clips.index[clips["status"] == "ok"]]
    for index, found in unordered(_probe_one, jobs, workers=workers, what="probe"):
        clips.loc[index, ["frames", "width", "height"]] = found.frames, found.width, found.height
        clips.at[index, "fps"] = found.fps
        clips.loc[index, ["status", "reason"]] = "ok" if found.readable else "unreadable", found.reason
    return clips


def _probe_one(job: tuple[int, Path]) -> tuple[int, Probe]:
    index, path = job
    return index, probe(path)


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
    if (clips["status"] == "ok").sum() == 0:
        raise UserError(f"{dataset.source}: none of its {len(clips)} clips can be read: {named}{more}")
