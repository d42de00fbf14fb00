"""Data sets with official split lists: find the lists and their clips in the source, and count what is missing."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from twostream import params
from twostream.core.digests import Digests
from twostream.datasets import clip_ids, is_video
from twostream.datasets.splits import leaking_groups
from twostream.errors import UserError, reason
from twostream.sources import is_mirror_list, obtain, read_mirrors, scratch_folder
from twostream.sources.walk import keep_or_copy, new_folder, walk_files


class Entry(NamedTuple):
    """One line of a split list; `split` is 1, 2 or 3, `subset` is `train`, `test` or `unused`."""

    label: str
    name: str
    group: str
    split: int
    subset: str


@dataclass(frozen=True)
class Benchmark:
    """A published data set with three official splits.

    Attributes:
        name: as in `dataset.name`.
        classes: how many classes the complete data set has.
        clips: how many clips it has.
        list_name: the pattern of the names of its split lists.
        expected_lists: from the names of the lists found to those of a complete set.
        parse_line: from the match of a list's name and one of its lines to its entry, None for a line of another form.
        lists: how the split lists are called, for messages.
    """

    name: str
    classes: int
    clips: int
    list_name: re.Pattern[str]
    expected_lists: Callable[[Iterable[str]], list[str]]
    parse_line: Callable[[re.Match[str], str], Entry | None]
    lists: str


def fetch(benchmark: Benchmark, dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` with the clips that the split lists name, and `annotations` with the lists.

    Clips and lists are found by their names, anywhere in the source and in the archives in it. A clip with another
    video ending (some mirrors convert the clips) or in another case is used if none has the exact name.

    Raises:
        UserError: one line: no lists and where to put them, no clips, or how many are missing without
            `dataset.allow_missing`.
    """

    def find_lists(roots: list[Path]) -> tuple[dict[str, Path], pd.DataFrame]:
        files = _find_lists(benchmark, roots)
        return files, read_lists(benchmark, files, dataset.allow_missing)

    def find_all(roots: list[Path]) -> tuple[dict[str, Path], dict[tuple[str, str], Path]]:
        files, table = separate_lists or find_lists(roots)
        return files, _find_clips(benchmark, table, roots, dataset)

    with scratch_folder(scratch, dataset.source) as folder:
        separate = is_mirror_list(dataset.source) and read_mirrors(dataset.source).annotations
        separate_lists = obtain(dataset.source, folder, find_lists, "annotations") if separate else None
        lists, clips = obtain(dataset.source, folder, find_all)
        digests = Digests(scratch.parent / "digests", "download")
        with new_folder(annotations, replaces=True) as new_annotations, new_folder(videos, replaces=True) as new_videos:
            for name, path in lists.items():
                shutil.copyfile(path, new_annotations / name)
            for (label, name), path in tqdm(clips.items(), desc="copying", unit="clip", delay=1):
                (new_videos / label).mkdir(exist_ok=True)
                file = f"{label}/{Path(name).stem}{path.suffix}"
                disposable = folder in path.parents
                keep_or_copy(path, new_videos / file, videos / file, digests, disposable)
        digests.save()


def list_clips(benchmark: Benchmark, dataset: params.Dataset, videos: Path, annotations: Path) -> pd.DataFrame:
    """Return every clip of the split lists; it is `missing` if `videos` has no file for it.

    Raises:
        UserError: the lists cannot be read, or clips are missing without `dataset.allow_missing`.
    """
    table = _read_annotations(benchmark, annotations, dataset.allow_missing)
    present = {
        (label, os.path.splitext(file)[0]): file
        for label in table["class"].unique()
        if (videos / label).is_dir()
        for file in os.listdir(videos / label)
    }
    clips_of_lists = list(zip(table["class"], table["name"], strict=True))
    files = [present.get((label, os.path.splitext(name)[0])) for label, name in clips_of_lists]
    _check_missing(benchmark, table, [file is not None for file in files], dataset, videos)
    paths = [f"{label}/{file or name}" for (label, name), file in zip(clips_of_lists, files, strict=True)]
    clips = pd.DataFrame(
        {
            "clip_id": clip_ids(paths),
            "path": paths,
            "class": table["class"],
            "group": table["group"],
            "status": ["ok" if file else "missing" for file in files],
            "reason": ["" if file else "not in the source" for file in files],
        }
    )
    return clips.sort_values("clip_id", ignore_index=True)


def list_splits(
    benchmark: Benchmark, dataset: params.Dataset, clips: pd.DataFrame, annotations: Path
) -> dict[int, pd.Series]:
    """Return the official splits.

    Prints a line if a group has clips in train and in test of an official split, which must not be changed.

    Raises:
        UserError: the lists cannot be read.
    """
    table = _read_annotations(benchmark, annotations, partial=True)
    # A mirror may have converted the clips: the ending of a file is not always that in the lists.
    table.index = pd.Index(table["class"] + "/" + table["name"].map(lambda name: os.path.splitext(name)[0]))
    table = table.loc[[os.path.splitext(path)[0] for path in clips["path"]]]
    index = pd.Index(clips["clip_id"], name="clip_id")
    splits = {n: pd.Series(table[f"split{n}"].to_numpy(), index=index, name="subset") for n in dataset.splits}
    for n, subset in splits.items():
        if leaking := leaking_groups(subset, clips):
            print(
                f"{benchmark.name}: in the official split {n}, {len(leaking)} sources have clips in both train and "
                f"test ({sum(map(len, leaking.values()))} clips); it stays unchanged, because published results use it"
            )
    return splits


def _read_annotations(benchmark: Benchmark, annotations: Path, partial: bool) -> pd.DataFrame:
    names = sorted(os.listdir(annotations)) if annotations.is_dir() else []
    lists = {name: annotations / name for name in names if benchmark.list_name.fullmatch(name)}
    if not lists:
        raise UserError(
            f"{os.fspath(annotations)!r}: holds no {benchmark.lists}; run `dvc repro download` to make it again"
        )
    return read_lists(benchmark, lists, partial)


def read_lists(benchmark: Benchmark, files: dict[str, Path], partial: bool) -> pd.DataFrame:
    """Read the split lists, given by their names.

    Args:
        partial: whether some classes may be missing.

    Returns:
        DataFrame sorted by class and name: str columns class, name (file name), group, split1, split2, split3.

    Raises:
        UserError: a list or a class is missing, a line has another form, or a clip is in train and test of one split.
    """
    expected = benchmark.expected_lists(files)
    absent = [name for name in expected if name not in files]
    if absent:
        raise UserError(
            f"{benchmark.name}: {len(files)} of the {len(expected)} split lists are there, and {absent[0]!r} is "
            "missing; complete them"
        )
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for list_name in expected:
        path = files[list_name]
        match = benchmark.list_name.fullmatch(list_name)
        for line in read_lines(path):
            entry = benchmark.parse_line(match, line) if match else None
            if entry is None:
                raise UserError(f"{os.fspath(path)!r}: {line!r} is not a line of such a list")
            unused = {"group": entry.group, "split1": "unused", "split2": "unused", "split3": "unused"}
            row, column = rows.setdefault((entry.label, entry.name), unused), f"split{entry.split}"
            if row[column] not in ("unused", entry.subset):
                raise UserError(f"{os.fspath(path)!r}: {entry.name!r} is in the {row[column]} list too")
            row[column] = entry.subset
    classes = len({label for label, _ in rows})
    if classes != benchmark.classes and not partial:
        raise UserError(f"{benchmark.name}: lists of {classes} of the {benchmark.classes} classes; complete them")
    records = [{"class": label, "name": name, **row} for (label, name), row in sorted(rows.items())]
    return pd.DataFrame(records, dtype="str")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file without surrounding space, but no blank ones. Raises UserError if unreadable."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{os.fspath(path)!r}: cannot be read ({reason(error)})") from None


def _find_lists(benchmark: Benchmark, roots: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in (root / path for root in roots for path in walk_files(root)):
        if benchmark.list_name.fullmatch(path.name):
            other = found.setdefault(path.name, path)
            if other != path and read_lines(other) != read_lines(path):
                raise UserError(f"{os.fspath(other)!r} and {os.fspath(path)!r} differ; keep the official one")
    if not found:
        raise UserError(
            f"{os.fspath(roots[0])!r}: holds no split lists of {benchmark.name} ({benchmark.lists}); put them, or "
            "their archive, into the folder of dataset.source beside the videos"
        )
    return dict(sorted(found.items()))


def _find_clips(
    benchmark: Benchmark, table: pd.DataFrame, roots: list[Path], dataset: params.Dataset
) -> dict[tuple[str, str], Path]:
    """Return the file of each clip that is present, by class and official name."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in (root / path for root in roots for path in walk_files(root)):
        if is_video(path.name):
            by_stem[path.stem.casefold()].append(path)
    total = sum(map(len, by_stem.values()))
    official_names = set(table["name"])
    clips = list(zip(table["class"], table["name"], strict=True))
    found = {}
    for label, name in clips:
        candidates = [
            path
            for path in by_stem[os.path.splitext(name)[0].casefold()]
            if (path.name == name or path.name not in official_names) and path.is_file()
        ]
        if candidates:
            found[label, name] = min(candidates, key=lambda path: (path.name != name, label not in path.parts))
    if not found:
        raise UserError(
            f"{os.fspath(roots[0])!r}: holds none of the {len(table):,} clips of {benchmark.name} ({total:,} other "
            f"videos); they must have their official names, such as {table['name'].iloc[0]!r}"
        )
    if line := _check_missing(benchmark, table, [clip in found for clip in clips], dataset, roots[0]):
        print(line)
    if total > len(found):
        print(
            f"{benchmark.name}: {total - len(found):,} videos in {os.fspath(roots[0])!r} are second copies or not in "
            "the split lists, and are left out"
        )
    return found


def _check_missing(
    benchmark: Benchmark, table: pd.DataFrame, present: list[bool], dataset: params.Dataset, where: Path
) -> str:
    """Return a line about the missing clips, empty if there are none. Raises UserError if none may be missing."""
    missing = benchmark.clips - sum(present)
    if missing <= 0:
        return ""
    in_class = Counter(table["class"])
    lacking = Counter(label for label, is_present in zip(table["class"], present, strict=True) if not is_present)
    counts = ", ".join(f"{count} of {in_class[label]} in {label}" for label, count in lacking.most_common(4))
    more = f" and others of {len(lacking) - 4} more classes" if len(lacking) > 4 else ""
    line = (
        f"{benchmark.name}: {missing:,} of {benchmark.clips:,} clips are missing from {os.fspath(where)!r}"
        f"{f': {counts}{more}' if counts else ''}"
    )
    if not dataset.allow_missing:
        raise UserError(f"{line}; complete it, or continue without them by dataset.allow_missing: true")
    return line
