"""HMDB51: 6,766 clips of 51 actions; each official split has 70 + 30 clips per action (Kuehne et al., ICCV 2011)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from twostream import params
from twostream.datasets import official

_SUBSETS = {"0": "unused", "1": "train", "2": "test"}
# <source>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>.avi
_TAIL = r"_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|med|goo)_\d+\.avi"


def fetch(dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` and `annotations` from the source; see :func:`official.fetch`."""
    official.fetch(HMDB51, dataset, videos, annotations, scratch)


def list_clips(dataset: params.Dataset, videos: Path, annotations: Path) -> pd.DataFrame:
    """Return the clips of the split lists; the group is the source in the name. See :func:`official.list_clips`."""
    return official.list_clips(HMDB51, dataset, videos, annotations)


def list_splits(dataset: params.Dataset, clips: pd.DataFrame, annotations: Path) -> dict[int, pd.Series]:
    """Return the official splits; see :func:`official.list_splits`."""
    return official.list_splits(HMDB51, dataset, clips, annotations)


def source_of(name: str, label: str) -> str | None:
    """Return the film or web video that a clip was cut from, from its file name; None for a name of another form."""
    match = re.fullmatch(rf"(?P<source>[^/]+)_{re.escape(label)}{_TAIL}", name)
    return match["source"] if match else None


def _expected_lists(names: Iterable[str]) -> list[str]:
    labels = sorted({name.rpartition("_test_split")[0] for name in names})
    return [f"{label}_test_split{n}.txt" for label in labels for n in (1, 2, 3)]


def _parse_line(list_name: re.Match[str], line: str) -> official.Entry | None:
    name, _, code = line.rpartition(" ")
    name, label = name.strip(), list_name["class"]
    source = source_of(name, label)
    if source is None or code not in _SUBSETS:
        return None
    return official.Entry(label, name, source, int(list_name["split"]), _SUBSETS[code])


HMDB51 = official.Benchmark(
    name="hmdb51",
    classes=51,
    clips=6766,
    list_name=re.compile(r"(?P<class>.+)_test_split(?P<split>[123])\.txt"),
    expected_lists=_expected_lists,
    parse_line=_parse_line,
    lists="<class>_test_split<n>.txt, from test_train_splits.rar",
)
