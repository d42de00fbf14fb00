"""Find the clips in a user's folder, with the class, group and split that its folders or its table give them."""

from __future__ import annotations

import difflib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from twostream.datasets import is_video
from twostream.datasets.folder.table import Row, cell_text, is_utf8, read_table, subset_of
from twostream.datasets.folder.times import find_span
from twostream.datasets.tables import SUBSETS
from twostream.errors import UserError
from twostream.sources.walk import walk_files
from twostream.video import Span

TABLE = "split.csv"


@dataclass(frozen=True)
class Clip:
    """One clip before it is copied; group and split are empty where neither table nor folders give them."""

    path: Path  # relative to the source folder
    label: str
    group: str = ""
    split: str = ""
    reason: str = ""  # why it is missing; empty if it is there
    span: Span | None = None  # of the video; None for all of it


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

    @cached_property
    def subsets(self) -> dict[Path, tuple[str, str]]:
        """The subset and class of each video, if all lie at `<train|val|test>/<class>/...`; otherwise empty."""
        found = {}
        for path in self.videos:
            folders = path.relative_to(self.classes).parts[:-1]
            subset = subset_of(folders[0]) if len(folders) > 1 else None
            if subset is None:
                return {}
            found[path] = subset, _nfc(folders[1])
        return found

    def label(self, path: Path) -> str:
        """Return the class that the folders give a video."""
        return self.subsets[path][1] if path in self.subsets else _nfc(path.parent.name)

    @cached_property
    def by_name(self) -> dict[str, Path]:
        """The videos by path in NFC: file systems and tables differ in how they store an accented letter."""
        return {_nfc(path): path for path in sorted(self.videos, key=os.fsencode)}

    @cached_property
    def by_folded_name(self) -> dict[str, Path]:
        return {name.casefold(): path for name, path in self.by_name.items()}


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
    """Return the clips of the table `table_name` (or `split.csv`, if it exists), else those in class folders.

    Class folders lie in the source, or in folders of the subsets (`train/<class>/<clip>`), which then are the split.

    Raises:
        UserError: the table does not exist or has a bad row; without a table, a video is not in a class folder.
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
    return _clips_of_folders(tree)


def _clips_of_folders(tree: Tree) -> list[Clip]:
    where = repr(os.fspath(tree.root))
    wrong = sorted(path for path in tree.videos if len(path.relative_to(tree.classes).parts) != 2)
    if wrong and not tree.subsets:
        more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
        raise UserError(
            f"{where}: {os.fspath(wrong[0])!r}{more} are not at <class>/<clip> or <train|val|test>/<class>/<clip>; "
            f"move them there, or list all clips in a table {TABLE} with path,class,group,split"
        )
    labels = {tree.label(path) for path in tree.videos}
    if len(labels) > 1 and all(map(subset_of, labels)):
        raise UserError(
            f"{where}: {', '.join(sorted(labels))} are subsets, not classes; put a folder per class into each of them"
        )
    _check_capitals(labels, where)
    present = {subset for subset, _ in tree.subsets.values()}
    for subset in ("train", "test"):
        if present and subset not in present:
            raise UserError(
                f"{where}: of train and test, the folder {subset} is missing; rename another one to it, or write a "
                f"table {TABLE} (without val, some of train is held out to choose epochs and fusion weights)"
            )
    _report(tree.others, "are not videos and are left out")
    if tables := [path for path in tree.others if path.suffix.lower() in (".csv", ".tsv")]:
        print(f"folder: to read {os.fspath(tables[0])!r} as the table of clips, name it in dataset.table")
    return [
        _clip(tree, path, tree.label(path), split=tree.subsets[path][0] if path in tree.subsets else "")
        for path in sorted(tree.videos, key=os.fsencode)
    ]


def _check_capitals(labels: Iterable[str], where: str) -> None:
    """Raise a UserError if two classes have the same name but for capitals."""
    by_name = defaultdict(list)
    for label in sorted(labels):
        by_name[label.casefold()].append(label)
    for same in by_name.values():
        if len(same) > 1:
            raise UserError(
                f"{where}: the classes {' and '.join(map(repr, same))} differ only in capitals; give one class one "
                "name, and two classes two"
            )


def _clip(
    tree: Tree, path: Path, label: str, group: str = "", split: str = "", times: tuple[str, str] = ("", "")
) -> Clip:
    """Return a clip; raise a ValueError as `find_span`."""
    file = tree.root / path
    if file.is_file():
        why = ""
    elif file.is_symlink():
        why = "a link to a file that does not exist"
    else:
        why = "not a regular file" if file.exists() else "listed in the table but not in the source"
    return Clip(path, label, group, split, why, find_span(file, *times))


def _clips_of_table(table: Path, tree: Tree) -> list[Clip]:
    """Return the clips that a table lists, and the videos that it does not list (`unused`)."""
    columns, rows = read_table(table)
    lines: dict[tuple[object, ...], int] = {}
    first: dict[str, tuple[str, int]] = {}
    renamed: list[str] = []
    clips: list[Clip] = []
    for row in rows:
        path = _resolve(row, tree, table, renamed)
        clip = _read_row(row, path, tree)
        # A span can have several classes at once. All of a video and a span of it would be clips of two groups.
        same = (path, clip.span, clip.label) if clip.span else (path,)
        if line := lines.get(same) or (lines.get((path,)) if clip.span else lines.get((path, "spans"))):
            raise row.error(
                f"{row.cells['path']!r} is in line {line} already"
                f"{'' if same in lines else ', with and without start and end'}; remove one of them"
            )
        label, before = first.setdefault(clip.label.casefold(), (clip.label, row.line))
        if label != clip.label:
            raise row.error(f"class {clip.label!r} is {label!r} in line {before}; write it in the same capitals")
        lines[same] = row.line
        if clip.span:
            lines.setdefault((path, "spans"), row.line)
        clips.append(clip)
    _report(renamed, "differ from their row in capitals")
    for side in ("train", "test"):
        if "split" in columns and side not in {clip.split for clip in clips}:
            raise UserError(f"{table}: the split column gives no clips to {side}")
    missing = [clip.path for clip in clips if clip.reason]
    if len(missing) == len(clips):
        close = difflib.get_close_matches(os.fspath(missing[0]), tree.by_name, n=1)
        raise UserError(
            f"{table}: none of the {len(clips)} clips that it lists is in the source, such as "
            f"{os.fspath(missing[0])!r}{f' (there is {close[0]!r})' if close else ''}; a path is relative to the class "
            "folders and has its ending"
        )
    _report(missing, "are listed in the table but not there; they count as missing")
    return clips + _unlisted(tree, clips, "group" in columns)


def _read_row(row: Row, path: Path, tree: Tree) -> Clip:
    cells = {name: cell_text(cell) for name, cell in row.cells.items()}
    label = cells.get("class", tree.label(path))
    if not label or label.startswith(".") or "/" in label or "\0" in label:
        raise row.error(f"class {label!r} must be a name without `/` that does not start with a dot")
    group, split = cells.get("group", ""), tree.subsets[path][0] if path in tree.subsets else ""
    if "group" in cells and not group:
        raise row.error("the group is empty; name the source of the clip, or remove the column")
    if "split" in cells:
        split = subset_of(cells["split"]) or ""
        if not split:
            raise row.error(f"split {cells['split']!r} must be one of {', '.join(SUBSETS)}")
    try:
        return _clip(tree, path, label, group, split, (cells.get("start", ""), cells.get("end", "")))
    except ValueError as error:
        raise row.error(str(error)) from None


def _resolve(row: Row, tree: Tree, table: Path, renamed: list[str]) -> Path:
    """Return the file of a row, relative to the source; if no such file exists, where it is expected.

    The path is tried as it stands, then without blanks around it and in the encoding of :func:`cell_text`, in the
    folder of its class, with backslashes as separators, in NFC and NFD, and in other capitals, of which `renamed` gets
    the names.
    """
    cell, label = row.cells["path"], cell_text(row.cells.get("class", ""))
    text = cell_text(cell)
    names = [cell, cell.strip(), text]
    names += [name.replace("\\", "/") for name in names]
    places = {name: _inside(name, tree, table) for name in names if name.strip() and "\0" not in name}
    expected = list(places.values())[-1] if places else []
    if label and expected:
        in_class = f"{label}/{names[-1]}"
        places[in_class] = _inside(in_class, tree, table)
    for paths in places.values():
        for path in paths:
            if os.path.lexists(tree.root / path) and not (tree.root / path).is_dir():
                return path
        for path in paths:
            if found := tree.by_name.get(_nfc(path)):
                return found
    for path in itertools.chain(*places.values()):
        if found := tree.by_folded_name.get(_nfc(path).casefold()):
            renamed.append(os.fspath(found))
            return found
    if not expected or re.match(r"[A-Za-z]:[\\/]", text):
        raise row.error(
            f"path {cell!r} is not a file inside the source {os.fspath(tree.root)!r}; write it relative to the class "
            "folders"
        )
    if not is_utf8(cell):
        raise row.error(f"{text!r} is not in the source, and the table is not UTF-8; save it as CSV (UTF-8)")
    return expected[0]


def _inside(name: str, tree: Tree, table: Path) -> list[Path]:
    """Return what a name can stand for inside the source, relative to it."""
    real = Path(os.path.realpath(tree.root))  # an absolute name may not go through the link that the source is
    found = []
    # From the folder of the source too: `clips/walk/1.mp4` in the source `clips`.
    for folder in (*tree.levels(), table.parent, tree.root.parent):
        path = Path(os.path.normpath(folder / name))
        for root in (tree.root, real):
            if path != root and path.is_relative_to(root):
                found.append(path.relative_to(root))
    return list(dict.fromkeys(found))


def _unlisted(tree: Tree, clips: list[Clip], has_group: bool) -> list[Clip]:
    labels = {clip.label for clip in clips}
    rest = sorted(tree.videos - {clip.path for clip in clips}, key=os.fsencode)
    known = [path for path in rest if tree.label(path) in labels]
    _report(known, "are not in the table; they count as unused")
    # The folder of the others would become a class without any clip to train on.
    others = [path for path in rest if tree.label(path) not in labels]
    _report(others, "are not in the table, in no folder of its classes, and are left out")
    # If the table gives groups, each clip that it does not list is its own group.
    return [_clip(tree, path, tree.label(path), path.as_posix() if has_group else "", "unused") for path in known]


def _nfc(name: str | PurePath) -> str:
    """Return a name in NFC, without blanks around it."""
    text = unicodedata.normalize("NFC", os.fspath(name))
    return text.strip() or text


def _report(paths: Iterable[str | Path], what: str) -> None:
    names = sorted(os.fspath(path) for path in paths)
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        print(f"folder: {len(names)} file(s) {what}: {shown}")
