"""Somebody's own clips: any tree `<class>/<clip>`, with or without a table that says class, group and split."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from twostream import params
from twostream.datasets import Description, clip_ids, is_video
from twostream.datasets.grouping import groups_by_name, groups_by_pattern
from twostream.datasets.splits import assign_splits, check_groups, straddling_groups
from twostream.datasets.tables import SUBSETS
from twostream.errors import UserError
from twostream.sources import obtain, scratch_folder
from twostream.sources.walk import copy_file, new_folder, readable_text, safe_name, walk_files

TABLE = "split.csv"
MANIFEST = "clips.csv"
_COLUMNS = ("path", "class", "group", "split")
_MANIFEST_COLUMNS = (*_COLUMNS, "status", "reason")


@dataclass(frozen=True)
class _Clip:
    """One clip before it is copied; group and split are empty where no table gives them."""

    source: Path  # relative to the source folder
    label: str
    group: str = ""
    split: str = ""
    reason: str = ""  # why it is missing; empty if it is there


@dataclass(frozen=True)
class _Tree:
    """A source folder: its files, and the folder of class folders inside it."""

    root: Path
    videos: frozenset[Path]
    others: tuple[Path, ...]
    classes: Path  # relative to root, like all the others

    def levels(self) -> list[Path]:
        """The folders from the class folders' up to the root: where names in a table may start, nearest first."""
        return [self.classes, *self.classes.parents]


def fetch(dataset: params.Dataset, seed: int, videos: Path, annotations: Path, scratch: Path) -> None:
    """Copy the clips to `videos/<class>/<file>` (reflinked where the file system can) and list them in `annotations`.

    The source is a folder of class folders, one that wraps such a folder (`videos/` beside a `split.csv`), an archive
    of either, or a list of mirrors. With a table, the clips may lie anywhere in it and the table says their class.
    Links are followed and their content copied. Names that are not UTF-8 are escaped, overlong ones shortened, and two
    that would then be one (or that differ in case alone) are kept apart by a number. What is left out is counted in a
    printed line.

    `annotations/clips.csv` lists path, class, group, split, status and reason of each; group and split are empty where
    no table gives them.

    Raises:
        UserError: one line: no clips, clips that lie too deep, a table with a bad row (its line number), a copy that
            fails.
    """
    with scratch_folder(scratch):
        tree = obtain(dataset.source, scratch, lambda roots: _survey(roots[0], dataset.source), archives_inside=False)
        table = _find_table(dataset.table, tree)
        clips = _read_table(table, tree) if table else _clips_of(tree)
        names = _names(clips)
        with new_folder(annotations) as listed, new_folder(videos) as copied:
            for name in sorted({os.path.dirname(name) for name in names}):
                (copied / name).mkdir()
            disposable = tree.root.is_relative_to(os.path.abspath(scratch))
            for clip, name in tqdm(list(zip(clips, names, strict=True)), desc="copying", unit="clip", delay=1):
                if not clip.reason:
                    copy_file(tree.root / clip.source, copied / name, disposable)
            _write_manifest(listed / MANIFEST, clips, names)


def describe(dataset: params.Dataset, videos: Path, annotations: Path) -> Description:
    """The clips that :func:`fetch` copied, their groups and splits.

    Groups come from the table, else from `dataset.group_pattern`, else from names (:mod:`twostream.datasets.grouping`).
    Splits come from the table, which gives split 1, else from :func:`twostream.datasets.splits.assign_splits` with
    seed 0: of one data set, the test sets stay the same whatever the seed of the training.

    Raises:
        UserError: `fetch` was not run; the table has one split and others are asked for; a group of the table or of the
            pattern stands on two sides; too few groups.
    """
    table = _read_manifest(annotations / MANIFEST)
    paths = list(table["path"])
    clips = pd.DataFrame(
        {
            "clip_id": clip_ids(paths),
            "path": paths,
            "class": [os.path.dirname(path) for path in paths],
            "group": table["group"],
            "status": table["status"],
            "reason": table["reason"],
        }
    )
    gone = [
        path
        for path, status in zip(paths, table["status"], strict=True)
        if status == "ok" and not (videos / path).is_file()
    ]
    if gone:
        raise UserError(f"{os.fspath(videos)!r}: {gone[0]!r} is not there; run `dvc repro download` to make it again")
    given = (table["group"] != "").to_numpy()
    if not given.all():
        found = groups_by_pattern(paths, dataset.group_pattern) if dataset.group_pattern else groups_by_name(paths)
        clips["group"] = clips["group"].where(given, found)
        if not dataset.group_pattern:
            _report_groups(clips[~given])
    subset = pd.Series(table["split"].to_numpy(), index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    order = clips.sort_values("clip_id", ignore_index=True)
    if (subset == "").any():
        free = order[(subset[order["clip_id"]] == "").to_numpy()]
        splits = {n: assign_splits(free, n, dataset.test_fraction, 0) for n in dataset.splits}
        return Description(order, {n: s.reindex(order["clip_id"], fill_value="unused") for n, s in splits.items()})
    if dataset.splits != [1]:
        raise UserError(
            f"dataset.splits: {dataset.splits} - the table of clips gives one split; use [1], or take out its `split` "
            "column"
        )
    if given.all() or dataset.group_pattern:
        check_groups(subset, order, "table of clips" if given.all() else "dataset.group_pattern")
    elif straddling := straddling_groups(subset, order):
        # Names are a guess and the table is the user's word: say so and go on.
        group, ids = next(iter(straddling.items()))
        print(
            f"folder: {len(straddling)} groups, told from names, stand on two sides of the split, such as {group!r} "
            f"with {ids[:3]}"
        )
    return Description(order, {1: subset[order["clip_id"]]})


def _survey(root: Path, source: str) -> _Tree:
    root = Path(os.path.abspath(root))
    files = list(walk_files(root))
    videos = frozenset(path for path in files if is_video(path))
    classes = Path()
    while True:
        below = [path.relative_to(classes) for path in videos if path.is_relative_to(classes)]
        folders = {path.parts[0] for path in below if len(path.parts) > 1}
        if len(folders) != 1 or any(len(path.parts) <= 2 for path in below):
            break
        classes = classes / folders.pop()
    if not videos:
        raise UserError(f"{source!r}: holds no videos; dataset.source must be a folder or archive of <class>/<clip>")
    return _Tree(root, videos, tuple(path for path in files if path not in videos), classes)


def _find_table(name: str, tree: _Tree) -> Path | None:
    """The table of clips, named by `dataset.table` or found under its usual name."""
    for level in tree.levels():
        if (path := tree.root / level / (name or TABLE)).is_file():
            return path
    if name:
        raise UserError(
            f"dataset.table: {name!r} is not in the source folder; give its name there, or an absolute path"
        )
    return None


def _clips_of(tree: _Tree) -> list[_Clip]:
    """The clips of a tree that has no table."""
    wrong = sorted(path for path in tree.videos if len(path.relative_to(tree.classes).parts) != 2)
    if wrong:
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UserError(
            f"{os.fspath(tree.root)!r}: {os.fspath(wrong[0])!r}{more} do not lie at <class>/<clip>; move them there, "
            f"or list all clips in a table {TABLE} with path,class,group,split"
        )
    _report(tree.others, "are not videos and are left out")
    return [_clip(tree, path, path.parent.name) for path in sorted(tree.videos, key=os.fsencode)]


def _clip(tree: _Tree, path: Path, label: str, group: str = "", split: str = "") -> _Clip:
    file = tree.root / path
    if file.is_file():
        reason = ""
    elif file.is_symlink():
        reason = "a link to a file that is not there"
    else:
        reason = "not a regular file" if file.exists() else "listed in the table but not in the source"
    return _Clip(path, label, group, split, reason)


def _read_table(table: Path, tree: _Tree) -> list[_Clip]:
    """The clips that a table lists, and the videos that it does not (`unused`)."""
    where = os.fspath(table)
    lines: dict[Path, int] = {}
    clips: list[_Clip] = []
    try:
        # surrogateescape: a name that is not UTF-8 is the same bytes here as in the folder
        with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            columns = rows.fieldnames or []
            if "path" not in columns or len(set(columns)) != len(columns):
                raise UserError(
                    f"{where}: its first line must name the columns path,class,group,split (found "
                    f"{','.join(columns)!r})"
                )
            for row in rows:
                clip = _read_row(row, f"{where}, line {rows.line_num}", tree, table)
                if clip.source in lines:
                    raise UserError(
                        f"{where}, line {rows.line_num}: {row['path']!r} stands in line {lines[clip.source]} already"
                    )
                lines[clip.source] = rows.line_num
                clips.append(clip)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{where}, line {rows.line_num}: not valid CSV ({error})") from None
    if "split" in columns and not {"train", "test"} <= {clip.split for clip in clips}:
        raise UserError(
            f"{where}: the split column gives no clips to {'train' if 'test' in {c.split for c in clips} else 'test'}"
        )
    missing = [clip.source for clip in clips if clip.reason]
    if len(missing) == len(clips):
        raise UserError(
            f"{where}: none of the {len(clips)} clips that it lists is in the source; a path is relative to the class "
            "folders"
        )
    _report(missing, "are listed in the table but not there; they count as missing")
    return clips + _unlisted(tree, clips, lines, "group" in columns)


def _unlisted(tree: _Tree, clips: list[_Clip], listed: Iterable[Path], has_group: bool) -> list[_Clip]:
    labels = {clip.label for clip in clips}
    rest = sorted(tree.videos - set(listed), key=os.fsencode)
    # A folder that the table makes no class of would become a class that nothing is ever trained on.
    strangers = [path for path in rest if path.parent.name not in labels]
    known = [path for path in rest if path.parent.name in labels]
    _report(known, "are not in the table; they count as unused")
    _report(strangers, "are not in the table, in no folder of its classes, and are left out")
    # Where the table gives the groups, a clip that it does not list is one of its own.
    return [_clip(tree, path, path.parent.name, path.as_posix() if has_group else "", "unused") for path in known]


def _read_row(row: dict[str, str | None], where: str, tree: _Tree, table: Path) -> _Clip:
    if None in row or None in row.values():
        raise UserError(f"{where}: has {'more' if None in row else 'fewer'} fields than the first line has columns")
    path = _resolve(row["path"], where, tree, table)
    label = row.get("class", path.parent.name).strip()
    if not label or label.startswith(".") or "/" in label or "\0" in label:
        raise UserError(f"{where}: class {label!r} must be a name without `/` that does not start with a dot")
    group = row.get("group", "").strip()
    if "group" in row and not group:
        raise UserError(f"{where}: the group is empty; name the source of the clip, or take out the column")
    split = row.get("split", "").strip().lower()
    if "split" in row and split not in SUBSETS:
        raise UserError(f"{where}: split {row['split']!r} must be one of {', '.join(SUBSETS)}")
    return _clip(tree, path, label, group, split)


def _resolve(name: str, where: str, tree: _Tree, table: Path) -> Path:
    """The file that a row means, relative to the source; if there is none, where it should be."""
    bases = [tree.root / level for level in tree.levels()]
    if table.parent not in bases and table.parent.is_relative_to(tree.root):
        bases.append(table.parent)
    candidates = [Path(os.path.normpath(base / name)) for base in bases]
    root = Path(os.path.normpath(tree.root))
    if not name.strip() or "\0" in name or not candidates[0].is_relative_to(root) or candidates[0] == root:
        raise UserError(f"{where}: path {name!r} is not a file inside the source {os.fspath(tree.root)!r}")
    inside = [path for path in candidates if path.is_relative_to(root)]
    found = next((path for path in inside if os.path.lexists(path) and not path.is_dir()), inside[0])
    return found.relative_to(root)


def _names(clips: list[_Clip]) -> list[str]:
    """`<class>/<file>` of each clip in the copy: safe to store, and no two the same, not even but for case."""
    folders = _distinct([clip.label for clip in clips], safe_name, lambda label: label)
    files = [(folders[clip.label], clip) for clip in clips]
    names = _distinct(
        [(folder, clip.source) for folder, clip in files],
        lambda key: f"{key[0]}/{safe_name(key[1].name)}",
        lambda key: os.fsencode(key[1]),
    )
    return [names[folder, clip.source] for folder, clip in files]


def _distinct(keys: list, name_of: Callable[..., str], order: Callable) -> dict:
    """A name for each key, the first in order keeping its own and the others taking a number."""
    names: dict = {}
    taken = set()
    for key in sorted(set(keys), key=order):
        name = wanted = name_of(key)
        number = 2
        while name.casefold() in taken:
            stem, ending = os.path.splitext(wanted)
            name, number = f"{stem}~{number}{ending}", number + 1
        taken.add(name.casefold())
        names[key] = name
    return names


def _write_manifest(path: Path, clips: list[_Clip], names: list[str]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(_MANIFEST_COLUMNS)
        for name, clip in sorted(zip(names, clips, strict=True), key=lambda row: row[0]):
            status = "missing" if clip.reason else "ok"
            writer.writerow([name, os.path.dirname(name), readable_text(clip.group), clip.split, status, clip.reason])


def _read_manifest(path: Path) -> pd.DataFrame:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        if tuple(header) != _MANIFEST_COLUMNS:
            raise ValueError(f"its columns are {','.join(header)}")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{os.fspath(path)!r}: cannot be read ({error}); run `dvc repro download` to make it again"
        ) from None
    return pd.DataFrame(rows, columns=header, dtype="str")


def _report(paths: Iterable[Path], what: str) -> None:
    names = sorted(map(os.fspath, paths))
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        print(f"folder: {len(names)} file(s) {what}: {shown}")


def _report_groups(clips: pd.DataFrame) -> None:
    sizes = Counter(clips["group"])
    alone = sum(group == path for group, path in zip(clips["group"], clips["path"], strict=True))
    print(
        f"folder: told from names, {len(clips)} clips come from {len(sizes)} sources (the largest has "
        f"{max(sizes.values())} clips; "
        f"{alone} names tell none and stand alone); dataset.group_pattern or a table can say otherwise"
    )
