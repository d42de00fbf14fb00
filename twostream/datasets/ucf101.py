"""UCF101: 13,320 clips of 101 actions, three official splits by group (Soomro et al., CRCV-TR-12-01, 2012)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from twostream import params
from twostream.datasets import Description, official
from twostream.errors import UserError

CLIPS = 13320

_LIST = re.compile(r"(?P<subset>train|test)list0(?P<split>[123])\.txt")
# A training line has the number of the class behind the name. The class in the file's name may differ in case from the
# folder's: HandstandPushups/v_HandStandPushups_g01_c01.avi.
_LINE = re.compile(r"(?P<class>[^/\s]+)/(?P<name>v_(?P<called>[^/\s]+)_(?P<group>g\d+)_c\d+\.avi)(?:\s+\d+)?")


def fetch(dataset: params.Dataset, seed: int, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` and `annotations` from the source; see :func:`official.fetch`."""
    official.fetch(UCF101, dataset, videos, annotations, scratch)


def describe(dataset: params.Dataset, videos: Path, annotations: Path) -> Description:
    """The clips and official splits; a group is `<Class>_g<number>`. See :func:`official.describe`."""
    return official.describe(UCF101, dataset, videos, annotations)


def read_lists(files: dict[str, Path], partial: bool) -> pd.DataFrame:
    """The clips of `trainlist0<n>.txt` and `testlist0<n>.txt`, with lines `<Class>/v_<Class>_g<group>_c<clip>.avi`.

    Args:
        partial: has no effect on the lists: they are six or useless.

    Returns:
        DataFrame sorted by class and name: str columns class, name, group, split1, split2, split3.

    Raises:
        UserError: a list is missing, a line has another form, or a clip is in train and test of one split.
    """
    expected = [f"{subset}list0{n}.txt" for n in (1, 2, 3) for subset in ("train", "test")]
    absent = [name for name in expected if name not in files]
    if absent:
        raise UserError(
            f"ucf101: {len(files)} of the 6 split lists are there, and {absent[0]!r} is missing; complete them"
        )
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in expected:
        file = _LIST.fullmatch(name)
        for line in official.read_text(files[name]).split("\n"):
            match = _LINE.fullmatch(line)
            if (
                match is None
                or match["class"].casefold() != match["called"].casefold()
                or match["class"].startswith(".")
            ):
                raise UserError(f"{os.fspath(files[name])!r}: {line!r} is not <Class>/v_<Class>_g<group>_c<clip>.avi")
            row = rows.setdefault(
                (match["class"], match["name"]),
                {
                    "group": f"{match['class']}_{match['group']}",
                    "split1": "unused",
                    "split2": "unused",
                    "split3": "unused",
                },
            )
            column = f"split{file['split']}"
            if row[column] not in ("unused", file["subset"]):
                raise UserError(f"{os.fspath(files[name])!r}: {match['name']!r} is in the training list too")
            row[column] = file["subset"]
    return pd.DataFrame(
        [{"class": label, "name": clip, **row} for (label, clip), row in sorted(rows.items())], dtype="str"
    )


UCF101 = official.Official(
    name="ucf101",
    is_list=lambda name: _LIST.fullmatch(name) is not None,
    read_lists=read_lists,
    lists="trainlist0<n>.txt and testlist0<n>.txt, from UCF101TrainTestSplits-RecognitionTask.zip",
    clips=CLIPS,
)
