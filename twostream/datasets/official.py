"""What data sets with official split lists share: find the lists and the clips they name, count what is missing."""

from __future__ import annotations

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from twostream import params
from twostream.datasets import Description, clip_ids, is_video
from twostream.datasets.splits import straddling_groups
from twostream.errors import UserError
from twostream.sources import is_mirror_list, obtain, read_mirrors, scratch_folder
from twostream.sources.walk import copy_file, new_folder, walk_files


@dataclass(frozen=True)
class Official:
    """What tells one such data set from another.

    Attributes:
        name: as in `dataset.name`.
        is_list: whether a file name is that of a split list.
        read_lists: from (list files by name, whether some may be missing) to a DataFrame, one row a clip: str columns
            class, name (file name), group, split1, split2, split3 (`train`, `test` or `unused`). Raises UserError.
        lists: what the split lists are called, for messages.
        clips: how many clips the complete data set has.
    """

    name: str
    is_list: Callable[[str], bool]
    read_lists: Callable[[dict[str, Path], bool], pd.DataFrame]
    lists: str
    clips: int


def fetch(official: Official, dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path) -> None:
    """Fill `videos` with the clips that the lists name, and `annotations` with the lists.

    Clips and lists are found by their names, wherever they lie in the source and in the archives in it. A clip with
    another video ending (a mirror may have converted it) or another case serves when there is none of the exact name.

    Raises:
        UserError: one line: no lists and where to put them, no clips, or how many are missing unless
            `dataset.allow_missing`.
    """

    def find_lists(roots: list[Path]) -> dict[str, Path]:
        found = _find_lists(official, roots)
        official.read_lists(found, dataset.allow_missing)
        return found

    def find_all(roots: list[Path]) -> tuple[dict[str, Path], dict[tuple[str, str], Path]]:
        lists = separate_lists or find_lists(roots)
        return lists, _find_clips(official, official.read_lists(lists, dataset.allow_missing), roots, dataset)

    with scratch_folder(scratch):
        separate = is_mirror_list(dataset.source) and read_mirrors(dataset.source).annotations
        separate_lists = obtain(dataset.source, scratch, find_lists, "annotations") if separate else None
        lists, clips = obtain(dataset.source, scratch, find_all)
        with new_folder(annotations) as listed, new_folder(videos) as copied:
            for name, path in lists.items():
                shutil.copyfile(path, listed / name)
            for (label, name), path in tqdm(clips.items(), desc="copying", unit="clip", delay=1):
                (copied / label).mkdir(exist_ok=True)
                ending = os.path.splitext(name)[1]
                if path.suffix.lower() != ending.lower():
                    ending = path.suffix
                target = copied / label / (os.path.splitext(name)[0] + ending)
                copy_file(path, target, disposable=scratch in path.parents)


def describe(official: Official, dataset: params.Dataset, videos: Path, annotations: Path) -> Description:
    """Every clip of the lists, `missing` where `videos` has no file for it, and the official splits.

    Prints a line where a source has clips on both sides of an official split, which nobody may change.

    Raises:
        UserError: the lists cannot be read, or clips are missing without `dataset.allow_missing`.
    """
    names = sorted(os.listdir(annotations)) if annotations.is_dir() else []
    lists = {name: annotations / name for name in names if official.is_list(name)}
    if not lists:
        raise UserError(
            f"{os.fspath(annotations)!r}: holds no {official.lists}; run `dvc repro download` to make it again"
        )
    table = official.read_lists(lists, dataset.allow_missing)
    present = {
        (label, os.path.splitext(file)[0]): file
        for label in table["class"].unique()
        if (videos / label).is_dir()
        for file in os.listdir(videos / label)
    }
    files = [
        present.get((label, os.path.splitext(name)[0]))
        for label, name in zip(table["class"], table["name"], strict=True)
    ]
    _check_missing(official, table, [file is not None for file in files], dataset, os.fspath(videos))
    paths = [f"{label}/{file or name}" for label, name, file in zip(table["class"], table["name"], files, strict=True)]
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
    splits = {}
    for n in dataset.splits:
        subset = pd.Series(
            table[f"split{n}"].to_numpy(), index=pd.Index(clips["clip_id"], name="clip_id"), name="subset"
        )
        splits[n] = subset.sort_index()
        if straddling := straddling_groups(subset, clips):
            count = sum(map(len, straddling.values()))
            print(
                f"{official.name}: in the official split {n}, {len(straddling)} sources have clips in both train and "
                f"test ({count} clips); "
                "it is kept as it is, as every published number on it has"
            )
    return Description(clips.sort_values("clip_id", ignore_index=True), splits)


def _find_lists(official: Official, roots: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root in roots:
        for path in walk_files(root):
            if not official.is_list(path.name):
                continue
            other = found.setdefault(path.name, root / path)
            if _lines(other) != _lines(root / path):
                raise UserError(f"{os.fspath(other)!r} and {os.fspath(root / path)!r} differ; keep the official one")
    if not found:
        raise UserError(
            f"{os.fspath(roots[0])!r}: holds no split lists of {official.name} ({official.lists}); put them, or the "
            "archive that "
            "they come in, into the folder of dataset.source beside the videos"
        )
    return dict(sorted(found.items()))


def _find_clips(
    official: Official, table: pd.DataFrame, roots: list[Path], dataset: params.Dataset
) -> dict[tuple[str, str], Path]:
    """The file of each clip that is there, by class and official name."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    total = 0
    for root in roots:
        for path in walk_files(root):
            if is_video(path.name):
                by_stem[path.stem.casefold()].append(root / path)
                total += 1
    official_names = set(table["name"])
    found = {}
    for label, name in zip(table["class"], table["name"], strict=True):
        candidates = [
            path
            for path in by_stem[os.path.splitext(name)[0].casefold()]
            if (path.name == name or path.name not in official_names) and path.is_file()
        ]
        if candidates:
            # sorted is stable: among equals, the first of the walk
            found[label, name] = sorted(candidates, key=lambda path: (path.name != name, label not in path.parts))[0]
    there = [key in found for key in zip(table["class"], table["name"], strict=True)]
    where = os.fspath(roots[0])
    if not found:
        raise UserError(
            f"{where!r}: holds none of the {len(table):,} clips of {official.name} ({total:,} other videos); they keep "
            "their "
            f"official names, such as {table['name'].iloc[0]!r}"
        )
    if line := _check_missing(official, table, there, dataset, where):
        print(line)
    if total > len(found):
        print(
            f"{official.name}: {total - len(found):,} videos in {where!r} are second copies or not in the split lists, "
            "and are left out"
        )
    return found


def _check_missing(
    official: Official, table: pd.DataFrame, there: list[bool], dataset: params.Dataset, where: str
) -> str:
    """How many clips are missing, as a line to print, empty if none; a UserError if that is not allowed."""
    missing = official.clips - sum(there)
    if missing <= 0:
        return ""
    of_class = Counter(table["class"])
    lacking = Counter(label for label, is_there in zip(table["class"], there, strict=True) if not is_there)
    whole = sorted(label for label in lacking if lacking[label] == of_class[label])
    partly = [
        f"{count} of {of_class[label]} in {label}" for label, count in lacking.most_common() if label not in whole
    ]
    counts = [f"all of {len(whole)} classes ({_some(whole)})"] if whole else []
    counts += [_some(partly)] if partly else []
    line = f"{official.name}: {missing:,} of {official.clips:,} clips are missing from {where!r}: {', '.join(counts)}"
    if not dataset.allow_missing:
        raise UserError(f"{line}; complete it, or go on without them by dataset.allow_missing: true")
    return line


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _lines(path: Path) -> list[str]:
    return read_text(path).split("\n")


def read_text(path: Path) -> str:
    """The lines of a list file that are not blank, stripped and joined by newlines. Raises UserError if unreadable."""
    try:
        return "\n".join(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{os.fspath(path)!r}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
