"""HMDB51: 6,766 clips of 51 actions, three official splits of 70 + 30 clips an action (Kuehne et al., ICCV 2011)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from twostream import params
from twostream.datasets import Description, official
from twostream.errors import UserError

CLASSES = 51
CLIPS = 6766

_LIST = re.compile(r"(?P<class>.+)_test_split(?P<split>[123])\.txt")
_SUBSETS = {"0": "unused", "1": "train", "2": "test"}
# <source>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>.avi
_TAIL = r"_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+\.avi"


def fetch(dataset: params.Dataset, seed: int, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` and `annotations` from the source; see :func:`official.fetch`."""
    official.fetch(HMDB51, dataset, videos, annotations, scratch)


def describe(dataset: params.Dataset, videos: Path, annotations: Path) -> Description:
    """The clips and official splits; a group is the source part of a name. See :func:`official.describe`."""
    return official.describe(HMDB51, dataset, videos, annotations)


def source_of(name: str, label: str) -> str | None:
    """The film or web video that a clip was cut from, told from its file name; None for a name of another form."""
    match = re.fullmatch(rf"(?P<source>.+)_{re.escape(label)}{_TAIL}", name)
    return match["source"] if match else None


def read_lists(files: dict[str, Path], partial: bool) -> pd.DataFrame:
    """The clips of the files `<class>_test_split<n>.txt`, whose lines are `<name> <0 unused, 1 train, 2 test>`.

    Returns:
        DataFrame sorted by class and name: str columns class, name, group, split1, split2, split3.

    Raises:
        UserError: of some class, not all three files are there; not 51 classes, unless `partial`; a line of another
            form.
    """
    labels = sorted({_LIST.fullmatch(name)["class"] for name in files})
    expected = [f"{label}_test_split{n}.txt" for label in labels for n in (1, 2, 3)]
    absent = [name for name in expected if name not in files]
    if absent or (len(labels) != CLASSES and not partial):
        lacking = f"{absent[0]!r} is missing" if absent else f"they are of {len(labels)} classes"
        raise UserError(
            f"hmdb51: {len(files)} of the {3 * CLASSES} split files are there, and {lacking}; complete them"
        )
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for name in expected:
        match = _LIST.fullmatch(name)
        for line in official.read_text(files[name]).split("\n"):
            clip, _, code = line.rpartition(" ")
            clip = clip.strip()
            source = source_of(clip, match["class"])
            if source is None or code not in _SUBSETS or "/" in clip:
                raise UserError(
                    f"{os.fspath(files[name])!r}: {line!r} is not a clip of {match['class']} followed by 0, 1 or 2"
                )
            row = rows.setdefault(
                (match["class"], clip), {"group": source, "split1": "unused", "split2": "unused", "split3": "unused"}
            )
            row[f"split{match['split']}"] = _SUBSETS[code]
    return pd.DataFrame(
        [{"class": label, "name": clip, **row} for (label, clip), row in sorted(rows.items())], dtype="str"
    )


HMDB51 = official.Official(
    name="hmdb51",
    is_list=lambda name: _LIST.fullmatch(name) is not None,
    read_lists=read_lists,
    lists="<class>_test_split<n>.txt, from test_train_splits.rar",
    clips=CLIPS,
)
