"""Keep what users put into the folders that stages write: a stage replaces only files that a stage made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twostream.core.cache import FileCache, read_json, recorded_outputs
from twostream.core.files import atomic_path, md5_of
from twostream.errors import UserError

if TYPE_CHECKING:
    from twostream.params import Params

# Everything that stages write, as declared in dvc.yaml.
OUTPUTS = (
    *("data/videos", "data/annotations", "data/clips.csv", "data/splits", "data/rgb", "data/flow", "data/scores"),
    *("data/fused", "models", "metrics"),
)
_LEFT_BY_FILE_BROWSERS = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")
_UNFINISHED = {"unfinished": True}


def overlapping_output(source: str) -> str:
    """Return one line if a source lies in what a stage writes, holds it or is linked with it; otherwise ""."""
    if not source or not os.path.exists(source):
        return ""
    for path in (source, *_links(source)):
        real = Path(os.path.realpath(path))
        for output in OUTPUTS:
            place = Path(os.path.realpath(output))
            if real.is_relative_to(place) or place.is_relative_to(real):
                how = "lies in" if real.is_relative_to(place) else "holds"
                linked = f" through the link {os.fspath(path)!r}" if real != Path(os.path.abspath(source)) else ""
                return (
                    f"dataset.source: {source!r} {how} {output!r}{linked}, which a stage replaces; move the "
                    "clips to a folder of their own, such as clips/, and write its name"
                )
    return ""


@contextlib.contextmanager
def replaced(folders: Iterable[Path], cache: FileCache, empties: bool = True) -> Iterator[None]:
    """Make the output folders of a stage ready for the block that writes them again.

    DVC keeps these folders (`persist`), or it would delete files of the user before a stage can look for them.

    Args:
        empties: delete the files in them first. If not, the block keeps those that are right and deletes the others.

    Raises:
        UserError: as :func:`refuse_foreign`; nothing was deleted.
    """
    folders = list(folders)
    refuse_foreign(folders, cache)
    for folder in folders:
        _write_note(folder, cache, _UNFINISHED)
        if folder.exists() and empties:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in folders:
            _write_note(folder, cache, {path: _state(f"{folder}/{path}") for path in _files(folder)})


def refuse_foreign(folders: Iterable[Path], cache: FileCache) -> None:
    """Check that only files which a stage made lie in these output folders.

    Files of a stage are those that dvc.lock records, those that :func:`replaced` noted, and all whose content is in a
    cache. What file browsers leave behind is ignored.

    Raises:
        UserError: one line that counts the other files and names the first.
    """
    found = [path for folder in folders for path in foreign_files(folder, cache)]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{os.fspath(found[0])!r}{others}: not made by a stage, and `dvc repro` would delete it; move your files "
            "elsewhere: clips into a folder that dataset.source names, a split into a table (dataset.table)"
        )


def foreign_files(folder: Path, cache: FileCache) -> list[Path]:
    """Return the files in an output folder that no stage made."""
    if folder.is_symlink():
        return [folder]
    found = {path: os.lstat(f"{folder}/{path}") for path in _files(folder)}
    if (len(found), sum(status.st_size for status in found.values())) == _recorded(folder):
        return []
    written = read_json(_note(folder, cache))
    written = written if isinstance(written, dict) else {}
    if written == _UNFINISHED:  # the stage was killed: what lies there is its own
        return []
    stored = {name: file.stat().st_size for name, file in cache.recorded(folder).items()}
    return sorted(
        folder / path
        for path, status in found.items()
        if status.st_size != stored.get(path)
        and written.get(path) != [status.st_size, status.st_mtime_ns]
        and not (status.st_nlink > 1 and stat.S_ISREG(status.st_mode))  # its content has another name, and stays
        and not ((folder / path).is_file() and cache.holds(md5_of(folder / path)))
    )


def output_folders(params: Params) -> list[Path]:
    """Return all folders that stages empty before they write them."""
    streams = [f"{name}-{split}" for name in (*params.train.rgb, *params.train.flow) for split in params.dataset.splits]
    return [
        *map(Path, ("data/videos", "data/annotations", "data/splits", "data/rgb", "data/flow", "metrics/explore")),
        *(Path(folder, stream) for folder in ("models", "metrics/train") for stream in streams),
    ]


def _note(folder: Path, cache: FileCache) -> Path:
    """Return the file of the note: among DVC's temporary files, which stay with a project that is moved."""
    place = Path(".dvc/tmp") if cache.objects else cache.root
    return place / "written" / f"{folder.as_posix().replace('/', '-')}.json"


def _write_note(folder: Path, cache: FileCache, content: dict[str, Any]) -> None:
    with atomic_path(_note(folder, cache)) as note:
        note.write_text(json.dumps(content))


def _state(path: str) -> list[int]:
    status = os.lstat(path)
    return [status.st_size, status.st_mtime_ns]


def _recorded(folder: Path) -> tuple[int, int] | None:
    """Return the number of files of an output folder and their bytes, as dvc.lock records them."""
    recorded = recorded_outputs().get(folder.as_posix(), {})
    return (recorded["nfiles"], recorded["size"]) if "nfiles" in recorded else None


def _files(output: Path) -> Iterator[str]:
    """Yield the paths in an output folder of its files and links."""
    for folder, folders, names in os.walk(output):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            if not name.startswith("._") and name not in _LEFT_BY_FILE_BROWSERS:
                yield os.path.join(folder, name)[len(os.fspath(output)) + 1 :]


def _links(source: str) -> Iterator[str]:
    """Yield the links in a folder."""
    for folder, folders, names in os.walk(source):
        yield from (path for name in (*folders, *names) if os.path.islink(path := os.path.join(folder, name)))
