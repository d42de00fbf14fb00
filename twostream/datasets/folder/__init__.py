"""A user's own clips: any tree `<class>/<clip>`, with or without a table of class, group and split."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from twostream import params
from twostream.core.digests import Digests
from twostream.datasets import clip_ids
from twostream.datasets.folder.grouping import groups_by_name, groups_by_pattern
from twostream.datasets.folder.source import Clip, find_clips, survey
from twostream.datasets.folder.times import seconds_text
from twostream.datasets.splits import assign_splits, check_groups, leaking_groups
from twostream.datasets.tables import SPAN_COLUMNS
from twostream.errors import UserError, reason
from twostream.sources import obtain, scratch_folder
from twostream.sources.walk import keep_or_copy, new_folder, readable_text, safe_name

MANIFEST = "clips.csv"
UNTRIMMED = "untrimmed"  # folder of the videos whose clips are spans
_COLUMNS = ["path", "class", "group", "split", "status", "reason"]


def fetch(dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path) -> None:
    """Copy the clips to `videos/<class>/<file>` (as reflinks where possible) and list them in `annotations`.

    Videos of which a table lists spans go to `videos/untrimmed/<file>`, uncut and once.

    The source is a folder of class folders, a folder that wraps one (`videos/` beside a `split.csv`), an archive of
    either, or a list of mirrors. With a table, the clips may be anywhere in it and the table gives their classes.
    Links are followed and their content is copied. Names that are not UTF-8 are escaped, long names are shortened, and
    names that would be equal (or equal but for case) are numbered. Files that are left out are counted in a printed
    line.

    `annotations/clips.csv` lists path, class, group, split, status and reason of each clip, and start and end if there
    are spans; group and split are empty if no table gives them.

    Raises:
        UserError: one line: no clips, clips that are too deep, a table with a bad row (its line number), a copy that
            fails.
    """
    with scratch_folder(scratch, dataset.source) as folder:
        tree = obtain(dataset.source, folder, lambda roots: survey(roots[0], dataset.source), archives_inside=False)
        clips = find_clips(tree, dataset.table)
        folders, names = _names_in_copy(clips)
        disposable = tree.root.is_relative_to(os.path.abspath(folder))
        digests = Digests(scratch.parent / "digests", "download")
        with new_folder(annotations, replaces=True) as new_annotations, new_folder(videos, replaces=True) as new_videos:
            for label in sorted({os.path.dirname(name) for name in names.values()}):
                (new_videos / label).mkdir()
            present = dict.fromkeys(clip.path for clip in clips if not clip.reason)
            for path in tqdm(present, desc="copying", unit="video", delay=1):
                name = names[path]
                keep_or_copy(tree.root / path, new_videos / name, videos / name, digests, disposable)
            _write_manifest(new_annotations / MANIFEST, clips, folders, names)
        digests.save()


def list_clips(dataset: params.Dataset, videos: Path, annotations: Path) -> pd.DataFrame:
    """Return the clips that :func:`fetch` copied, and their groups.

    Groups come from the table, else from `dataset.group_pattern`, else from the names
    (:mod:`twostream.datasets.folder.grouping`); the spans of one video are then one group.

    Raises:
        UserError: `fetch` was not run, or the pattern finds no group in some name.
    """
    table = _read_manifest(annotations / MANIFEST)
    for path in table["path"][table["status"] == "ok"].unique():
        if not (videos / path).is_file():
            raise UserError(f"{os.fspath(videos)!r}: {path!r} is missing; run `dvc repro download` again")
    without_group = table["group"] == ""
    whole = table["start"].isna() if "start" in table else pd.Series(True, table.index)
    if without_group.any():
        paths = list(table["path"])
        found = groups_by_pattern(paths, dataset.group_pattern) if dataset.group_pattern else groups_by_name(paths)
        guessed = pd.Series(found, dtype="str")
        if not dataset.group_pattern:
            guessed = guessed.where(whole, table["path"])
            _report_groups(table.assign(group=guessed)[without_group & whole])
        table["group"] = table["group"].mask(without_group, guessed)
    spans = [name for name in SPAN_COLUMNS if name in table]
    clips = table[["clip_id", "path", "class", "group", "status", "reason", *spans]]
    return clips.sort_values("clip_id", ignore_index=True)


def list_splits(dataset: params.Dataset, clips: pd.DataFrame, annotations: Path) -> dict[int, pd.Series]:
    """Return the split of the table, which is split 1, else those of :func:`twostream.datasets.splits.assign_splits`.

    Raises:
        UserError: the table has one split and others are requested; a group of the table or of the pattern has clips
            in two subsets; too few groups.
    """
    table = _read_manifest(annotations / MANIFEST).set_index("clip_id").loc[clips["clip_id"]]
    subset = pd.Series(table["split"].to_numpy(), index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    if (subset == "").any():
        # Clips that a table does not list are unused: they are in no split.
        free = clips[(subset == "").to_numpy()]
        splits = {n: assign_splits(free, n, dataset.test_fraction) for n in dataset.splits}
        return {n: s.reindex(subset.index, fill_value="unused") for n, s in splits.items()}
    if dataset.splits != [1]:
        raise UserError(
            f"dataset.splits: {dataset.splits} - the table of clips gives one split; use [1], or remove its `split` "
            "column"
        )
    groups_of_table = (table["group"] != "").all()
    if groups_of_table:
        # Those of the table: that copies of a video share a group must not turn the user's split into an error.
        check_groups(subset, clips.assign(group=table["group"].to_numpy()), "table of clips")
    elif dataset.group_pattern:
        groups = groups_by_pattern(list(clips["path"]), dataset.group_pattern)
        check_groups(subset, clips.assign(group=groups), "dataset.group_pattern")
    elif leaking := leaking_groups(subset, clips):
        # Groups from names are a guess, the split is the user's decision: warn and continue.
        group, ids = next(iter(leaking.items()))
        print(
            f"folder: {len(leaking)} groups, guessed from names, have clips in two subsets of the split, such as "
            f"{group!r} with {ids[:3]}"
        )
    return {1: subset}


def _names_in_copy(clips: list[Clip]) -> tuple[dict[str, str], dict[Path, str]]:
    """Return the folder of each class, and `<folder>/<file>` in the copy by source path.

    They are safe to store, and no two are equal, even but for case.
    """
    taken: set[str] = set()
    folders = {label: _free_name(safe_name(label), taken) for label in sorted({clip.label for clip in clips})}
    untrimmed = _free_name(UNTRIMMED, taken)
    names: dict[Path, str] = {}
    for clip in sorted(clips, key=lambda clip: os.fsencode(clip.path)):
        if clip.path not in names:
            folder = untrimmed if clip.span else folders[clip.label]
            names[clip.path] = _free_name(f"{folder}/{safe_name(clip.path.name)}", taken)
    return folders, names


def _free_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 2
    stem, ending = os.path.splitext(wanted)
    while name.casefold() in taken:
        name, number = f"{stem}~{number}{ending}", number + 1
    taken.add(name.casefold())
    return name


def _write_manifest(path: Path, clips: list[Clip], folders: dict[str, str], names: dict[Path, str]) -> None:
    has_spans = any(clip.span for clip in clips)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(_COLUMNS + SPAN_COLUMNS * has_spans)
        for clip in sorted(clips, key=lambda clip: (names[clip.path], clip.span or (), clip.label)):
            name, label, status = names[clip.path], folders[clip.label], "missing" if clip.reason else "ok"
            span = [seconds_text(time) for time in clip.span] if clip.span else ["", ""]
            row = [name, label, readable_text(clip.group), clip.split, status, clip.reason]
            writer.writerow(row + span * has_spans)


def _read_manifest(path: Path) -> pd.DataFrame:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        if header not in (_COLUMNS, _COLUMNS + SPAN_COLUMNS):
            raise ValueError(f"its columns are {','.join(header)}")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{os.fspath(path)!r}: cannot be read ({reason(error)}); run `dvc repro download` to make it again"
        ) from None
    table = pd.DataFrame(rows, columns=header, dtype="str")
    names = list(table["path"])
    if "start" in table:
        names = [_span_name(*row) for row in table[["path", "class", *SPAN_COLUMNS]].itertuples(index=False, name=None)]
        for column in SPAN_COLUMNS:
            table[column] = pd.to_numeric(table[column])
    table.insert(0, "clip_id", clip_ids(names))
    return table


def _span_name(path: str, label: str, start: str, end: str) -> str:
    """Return the path that a span of a video would have as a file of its own."""
    if not start:
        return path
    name, ending = os.path.splitext(os.path.basename(path))
    return f"{label}/{name}@{start}-{end}{ending}"


def _report_groups(clips: pd.DataFrame) -> None:
    if clips.empty:
        return
    sizes = clips["group"].value_counts()
    print(
        f"folder: according to their names, {len(clips)} clips come from {len(sizes)} sources, with up to "
        f"{sizes.max()} clips each; to change this, set dataset.group_pattern or give a table"
    )
