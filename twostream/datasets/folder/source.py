"""Find the clips in a user's folder, and read the table that may say their class, group and split."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twostream.datasets import is_video
from twostream.datasets.tables import SUBSETS
from twostream.errors import UserError, reason
from twostream.sources.walk import walk_files

TABLE = "split.csv"


@dataclass(frozen=True)
class Clip:
    """One clip before it is copied; group and split are empty without a table that gives them."""

    path: Path  # relative to the source folder
    label: str
    group: str = ""
    split: str = ""
    reason: str = ""  # why it is missing; empty if it is there


@dataclass(frozen=True)
class Tree:
    """A source folder, its files, and the folder of class folders in it; all paths are relative to `root`."""

    root: Path
    videos: frozenset[Path]
    others: list[Path]
    classes: Path

    def levels(self) -> list[Path]:
        """Return the folders in which paths of a table may start: from the class folders' folder up to the root."""
        return [self.root / level for level in (self.classes, *self.classes.parents)]


def survey(root: Path, source: str) -> Tree:
    """List the files of a source folder and find the folder of class folders, which other folders may wrap.

    Raises:
        UserError: there are no videos.
    """
    root = Path(os.path.abspath(root))
    files = list(walk_files(root))
    videos = frozenset(path for path in files if is_video(path))
    if not videos:
        raise UserError(f"{source!r}: holds no videos; dataset.source must be a folder or archive of <class>/<clip>")
    classes = Path(os.path.commonpath([path.parent.parent for path in videos]))
    return Tree(root, videos, [path for path in files if path not in videos], classes)


def find_clips(tree: Tree, table_name: str) -> list[Clip]:
    """Return the clips of the table `table_name` (or `split.csv`, if it exists), else those at `<class>/<clip>`.

    Raises:
        UserError: the table does not exist or has a bad row; without a table, a video is not at `<class>/<clip>`.
    """
    tables = [level / (table_name or TABLE) for level in tree.levels()]
    if table_name.startswith("data/tables/"):
        tables.append(Path(table_name))
    for path in tables:
        if path.is_file():
            return _clips_of_table(path, tree)
    if table_name:
        raise UserError(
            f"dataset.table: {table_name!r} is not in the source folder; give its name there, or put it into "
            "data/tables/ and write data/tables/<name>"
        )
    wrong = sorted(path for path in tree.videos if len(path.relative_to(tree.classes).parts) != 2)
    if wrong:
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UserError(
            f"{os.fspath(tree.root)!r}: {os.fspath(wrong[0])!r}{more} are not at <class>/<clip>; move them there, or "
            f"list all clips in a table {TABLE} with path,class,group,split"
        )
    _report(tree.others, "are not videos and are left out")
    return [_clip(tree, path, path.parent.name) for path in sorted(tree.videos, key=os.fsencode)]


def _clip(tree: Tree, path: Path, label: str, group: str = "", split: str = "") -> Clip:
    file = tree.root / path
    if file.is_file():
        why = ""
    elif file.is_symlink():
        why = "a link to a file that does not exist"
    else:
        why = "not a regular file" if file.exists() else "listed in the table but not in the source"
    return Clip(path, label, group, split, why)


def _clips_of_table(table: Path, tree: Tree) -> list[Clip]:
    """Return the clips that a table lists, and the videos that it does not list (`unused`)."""
    lines: dict[Path, int] = {}
    clips: list[Clip] = []
    try:
        # surrogateescape: a name that is not UTF-8 has the same bytes here as in the folder
        with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            columns = list(rows.fieldnames or [])
            if "path" not in columns or len(set(columns)) != len(columns):
                raise UserError(
                    f"{table}: the first line must be the columns path,class,group,split (found {','.join(columns)!r})"
                )
            for row in rows:
                where = f"{table}, line {rows.line_num}"
                clip = _read_row(row, where, tree, table)
                if clip.path in lines:
                    raise UserError(f"{where}: {row['path']!r} is in line {lines[clip.path]} already")
                lines[clip.path] = rows.line_num
                clips.append(clip)
    except OSError as error:
        raise UserError(f"{table}: cannot be read ({reason(error)})") from None
    except csv.Error as error:
        raise UserError(f"{table}, line {rows.line_num}: not valid CSV ({error})") from None
    for side in ("train", "test"):
        if "split" in columns and side not in {clip.split for clip in clips}:
            raise UserError(f"{table}: the split column gives no clips to {side}")
    missing = [clip.path for clip in clips if clip.reason]
    if len(missing) == len(clips):
        raise UserError(
            f"{table}: none of the {len(clips)} clips that it lists is in the source; a path is relative to the class "
            "folders"
        )
    _report(missing, "are listed in the table but not there; they count as missing")
    return clips + _unlisted(tree, clips, "group" in columns)


def _read_row(row: dict[str, str], where: str, tree: Tree, table: Path) -> Clip:
    # csv puts surplus fields under the key None, and None into absent ones.
    if None in row or None in row.values():
        raise UserError(f"{where}: has {'more' if None in row else 'fewer'} fields than the first line has columns")
    path = _resolve(row["path"], where, tree, table)
    label = row.get("class", path.parent.name).strip()
    if not label or label.startswith(".") or "/" in label or "\0" in label:
        raise UserError(f"{where}: class {label!r} must be a name without `/` that does not start with a dot")
    group = row.get("group", "").strip()
    if "group" in row and not group:
        raise UserError(f"{where}: the group is empty; name the source of the clip, or remove the column")
    split = row.get("split", "").strip().lower()
    if "split" in row and split not in SUBSETS:
        raise UserError(f"{where}: split {row['split']!r} must be one of {', '.join(SUBSETS)}")
    return _clip(tree, path, label, group, split)


def _resolve(name: str, where: str, tree: Tree, table: Path) -> Path:
    """Return the file of a row, relative to the source; if no such file exists, where it is expected."""
    paths = [Path(os.path.normpath(folder / name)) for folder in (*tree.levels(), table.parent)]
    inside = [path for path in paths if path != tree.root and path.is_relative_to(tree.root)]
    if not name.strip() or "\0" in name or not inside:
        raise UserError(f"{where}: path {name!r} is not a file inside the source {os.fspath(tree.root)!r}")
    found = next((path for path in inside if os.path.lexists(path) and not path.is_dir()), inside[0])
    return found.relative_to(tree.root)


def _unlisted(tree: Tree, clips: list[Clip], has_group: bool) -> list[Clip]:
    labels = {clip.label for clip in clips}
    rest = sorted(tree.videos - {clip.path for clip in clips}, key=os.fsencode)
    known = [path for path in rest if path.parent.name in labels]
    _report(known, "are not in the table; they count as unused")
    # The folder of the others would become a class without any clip to train on.
    others = [path for path in rest if path.parent.name not in labels]
    _report(others, "are not in the table, in no folder of its classes, and are left out")
    # If the table gives groups, each clip that it does not list is its own group.
    return [_clip(tree, path, path.parent.name, path.as_posix() if has_group else "", "unused") for path in known]


def _report(paths: Iterable[Path], what: str) -> None:
    names = sorted(map(os.fspath, paths))
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        print(f"folder: {len(names)} file(s) {what}: {shown}")
