"""UCF101: 13,320 clips of 101 actions, three official splits by group (Soomro et al., CRCV-TR-12-01, 2012)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from twostream import params
from twostream.datasets import official

# A training line has the number of the class after the name. The class in the file name may differ in case from the
# folder: HandstandPushups/v_HandStandPushups_g01_c01.avi.
_LINE = re.compile(
    r"(?P<class>[^/\s.][^/\s]*)/(?P<name>v_(?P<class_in_name>[^/\s]+)_(?P<group>g\d+)_c\d+\.avi)(?:\s+\d+)?"
)


def fetch(dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` and `annotations` from the source; see :func:`official.fetch`."""
    official.fetch(UCF101, dataset, videos, annotations, scratch)


def list_clips(dataset: params.Dataset, videos: Path, annotations: Path) -> pd.DataFrame:
    """Return the clips of the split lists; the group is `<Class>_g<number>`. See :func:`official.list_clips`."""
    return official.list_clips(UCF101, dataset, videos, annotations)


def list_splits(dataset: params.Dataset, clips: pd.DataFrame, annotations: Path) -> dict[int, pd.Series]:
    """Return the official splits; see :func:`official.list_splits`."""
    return official.list_splits(UCF101, dataset, clips, annotations)


def _expected_lists(names: Iterable[str]) -> list[str]:
    return [f"{subset}list0{n}.txt" for n in (1, 2, 3) for subset in ("train", "test")]


def _parse_line(list_name: re.Match[str], line: str) -> official.Entry | None:
    match = _LINE.fullmatch(line)
    if match is None or match["class"].casefold() != match["class_in_name"].casefold():
        return None
    group = f"{match['class']}_{match['group']}"
    return official.Entry(match["class"], match["name"], group, int(list_name["split"]), list_name["subset"])


UCF101 = official.Benchmark(
    name="ucf101",
    classes=101,
    clips=13320,
    list_name=re.compile(r"(?P<subset>train|test)list0(?P<split>[123])\.txt"),
    expected_lists=_expected_lists,
    parse_line=_parse_line,
    lists="trainlist0<n>.txt and testlist0<n>.txt, from UCF101TrainTestSplits-RecognitionTask.zip",
)
