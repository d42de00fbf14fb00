"""Where clips come from and how they are split: one module a data set, all with the same two functions.

`fetch(dataset, seed, videos, annotations, scratch)` fills the folder `videos` with `<class>/<file>` and the folder
`annotations` with what splits them; both are absent or empty before, and appear whole. `scratch` holds downloads and
unpacked archives over a kill. `describe(dataset, videos, annotations)` returns a :class:`Description` of what `fetch`
made.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import ModuleType

import pandas as pd

NAMES = ("demo", "folder", "hmdb51", "ucf101")

VIDEO_ENDINGS = frozenset(
    """
    .3g2 .3gp .asf .avi .divx .f4v .flv .m1v .m2ts .m2v .m4v .mkv .mov .mp4
    .mpe .mpeg .mpg .mts .mxf .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m
    """.split()  # noqa: SIM905 - a list of words reads as one
)


@dataclass(frozen=True)
class Description:
    """The clips of a data set and how they are split.

    Attributes:
        clips: one row a clip, sorted by clip_id; str columns clip_id, path (relative to the videos, with `/`), class,
            group, status (`ok`: there, to be probed; `missing`), reason.
        splits: for each number of `dataset.splits`, a Series: index clip_id in the order of `clips`, value `train`,
            `test`, `unused`, or `val` where the user's own table says so.
    """

    clips: pd.DataFrame
    splits: dict[int, pd.Series]


def get_dataset(name: str) -> ModuleType:
    """The module of a data set, imported when it is asked for. Raises KeyError for a name not in :data:`NAMES`."""
    if name not in NAMES:
        raise KeyError(name)
    return importlib.import_module(f"twostream.datasets.{name}")


def is_video(name: str | os.PathLike[str]) -> bool:
    """Whether a file has the ending of a video container, in any case."""
    return os.path.splitext(name)[1].lower() in VIDEO_ENDINGS


def clip_ids(paths: Sequence[str]) -> list[str]:
    """The ids of clips at `<class>/<file>`: the path without ending; clips that would share one keep their endings.

    Ids that differ in case alone count as shared, for the file systems that do not tell them apart.
    """
    ids = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    while True:
        uses = Counter(i.casefold() for i in ids)
        kept = [path if uses[i.casefold()] > 1 else i for i, path in zip(ids, paths, strict=True)]
        if kept == ids:
            return ids
        ids = kept
