"""Keep what users put into the folders that stages write: a stage replaces only files that a stage made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from twostream.core.cache import FileCache, key_of, read_json
from twostream.core.files import atomic_path, md5_of
from twostream.errors import UserError

# Everything that stages write, as declared in dvc.yaml.
OUTPUTS = (
    *("data/videos", "data/annotations", "data/clips.csv", "data/splits", "data/rgb", "data/flow", "data/scores"),
    *("data/fused", "models", "metrics"),
)
_LEFT_BY_FILE_BROWSERS = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")


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


def refuse_foreign(outputs: Iterable[Path], cache: FileCache) -> None:
    """Check that only files which a stage made lie in these output folders, before a stage replaces them.

    Files of a stage are those that dvc.lock records, those that :func:`note_written` noted, and all whose content is in
    DVC's cache. What file browsers leave behind is ignored.

    Raises:
        UserError: one line that counts the other files and names the first.
    """
    found = [path for output in outputs for path in foreign_files(output, cache)]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise UserError(
            f"{os.fspath(found[0])!r}{others}: not made by this stage, which would delete it; move your files out of "
            "data/: clips into a folder that dataset.source names, a split into a table (dataset.table)"
        )


def foreign_files(output: Path, cache: FileCache) -> list[Path]:
    """Return the files in an output folder that no stage made."""
    if output.is_symlink():
        return [output]
    sizes = {path: os.lstat(output / path).st_size for path in _files(output)}
    recorded = _recorded(output)
    if (len(sizes), sum(sizes.values())) == recorded:
        return []
    written = read_json(_note(output, cache)) or {}
    stored = {name: file.stat().st_size for name, file in cache.recorded(output).items()}
    return sorted(
        output / path
        for path, size in sizes.items()
        if size != stored.get(path.as_posix())
        and written.get(path.as_posix()) != _state(output / path)
        and not _is_stored(output / path, cache)
    )


def note_written(outputs: Iterable[Path], cache: FileCache) -> None:
    """Note what a stage wrote, so that a run recognises it even if DVC was killed before it recorded the outputs."""
    for output in outputs:
        with atomic_path(_note(output, cache)) as note:
            files = {path.as_posix(): _state(output / path) for path in _files(output)}
            note.write_text(json.dumps(files))


def _note(output: Path, cache: FileCache) -> Path:
    return cache.root / "written" / f"{key_of(path=os.path.abspath(output))}.json"


def _state(path: Path) -> list[int]:
    status = os.lstat(path)
    return [status.st_size, status.st_mtime_ns]


def _is_stored(path: Path, cache: FileCache) -> bool:
    """Return whether the content of a file is in DVC's cache."""
    if cache.objects is None or not path.is_file():
        return False
    digest = md5_of(path)
    return (cache.objects / digest[:2] / digest[2:]).is_file()


def _recorded(output: Path) -> tuple[int, int] | None:
    """Return the number of files of an output folder and their bytes, as dvc.lock records them."""
    try:
        stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", []) if out["path"] == output.as_posix()]
        return outs[0]["nfiles"], outs[0]["size"]
    except (OSError, ValueError, LookupError, AttributeError, TypeError, yaml.YAMLError):
        return None


def _files(output: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(output):
        for name in (*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            if not name.startswith("._") and name not in _LEFT_BY_FILE_BROWSERS:
                yield Path(folder, name).relative_to(output)


def _links(source: str) -> Iterator[str]:
    """Yield the links in a folder."""
    for folder, folders, names in os.walk(source):
        yield from (path for name in (*folders, *names) if os.path.islink(path := os.path.join(folder, name)))
