"""Where clips come from and how they are split: one package per data set, all with the same three functions.

`fetch(dataset, videos, annotations, scratch)` fills the folder `videos` with `<class>/<file>` and the folder
`annotations` with the files that split them. Both are absent or empty before, and appear when they are complete.
`scratch` keeps what was downloaded, see :func:`twostream.sources.scratch_folder`.

`list_clips(dataset, videos, annotations)` returns one row per clip, sorted by clip_id, with the str columns clip_id,
path (relative to the videos, with `/`), class, group, status (`ok`: present, to be probed; `missing`) and reason.

`list_splits(dataset, clips, annotations)` returns, for the clips of `clips.csv`, a Series for each number of
`dataset.splits`: index clip_id in the order of `clips`, values `train`, `test`, `unused`, and `val` if the user's own
table has it.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from types import ModuleType

VIDEO_ENDINGS = frozenset(
    """
    .3g2 .3gp .asf .avi .divx .f4v .flv .m1v .m2ts .m2v .m4v .mkv .mov .mp4
    .mpe .mpeg .mpg .mts .mxf .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m
    """.split()  # noqa: SIM905 - a list of words is easier to read
)


def get_dataset(name: str) -> ModuleType:
    """Import and return the package of a data set."""
    return importlib.import_module(f"twostream.datasets.{name}")


def is_video(name: str | os.PathLike[str]) -> bool:
    """Return whether a file has the ending of a video container, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in VIDEO_ENDINGS


def clip_ids(paths: Sequence[str]) -> list[str]:
    """Return the ids of clips at `<class>/<file>`: the path without ending; clips with the same id keep their endings.

    Ids that differ only in case count as the same, because some file systems do not distinguish them.
    """
    ids = [str(PurePosixPath(path).with_suffix("")) for path in paths]
    while True:
        uses = Counter(i.casefold() for i in ids)
        unique = [path if uses[i.casefold()] > 1 else i for i, path in zip(ids, paths, strict=True)]
        if unique == ids:
            return ids
        ids = unique
