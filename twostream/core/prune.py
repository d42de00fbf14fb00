"""Show what the file cache holds, and remove what has not been used for long."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CONTENTS = {
    "index": "which file of DVC's cache belongs to which clip or model",
    "pending": "files that DVC has not committed yet",
    "training": "states of trainings that have not finished",
    "features": "features of clips from frozen networks",
    "scores": "scores of clips",
    "probes.jsonl": "what decoding found of each video",
    "download": "downloads and unpacked archives",
}
_DAY = 86400


class Part(NamedTuple):
    """A part of the file cache: `oldest` is the number of days for which one of its files has not been used."""

    name: str
    files: int
    size: int
    oldest: float


class _File(NamedTuple):
    used: float
    size: int
    path: Path


def parts(root: Path) -> list[Part]:
    """Return the parts of a file cache, those of :data:`CONTENTS` and others."""
    found: dict[str, list[_File]] = {}
    for file in _files(root):
        found.setdefault(file.path.relative_to(root).parts[0], []).append(file)
    now = time.time()
    return [
        Part(name, len(files), sum(file.size for file in files), (now - min(file.used for file in files)) / _DAY)
        for name in (*CONTENTS, *sorted(set(found) - set(CONTENTS)))
        if (files := found.get(name))
    ]


def prune(root: Path, days: float | None, most_bytes: float | None) -> tuple[int, int]:
    """Remove the files that have not been used for so many days, then the oldest ones above a size.

    What is removed is made again when it is needed. Objects of DVC are not touched; `dvc gc` removes those.

    Returns:
        How many files were removed, and their bytes.
    """
    files = sorted(_files(root))
    total, limit = sum(file.size for file in files), time.time() - days * _DAY if days is not None else -1.0
    count = removed = 0
    for file in files:
        if file.used >= limit and (most_bytes is None or total - removed <= most_bytes):
            break
        with contextlib.suppress(FileNotFoundError):
            file.path.unlink()
            count, removed = count + 1, removed + file.size
    return count, removed


def _files(root: Path) -> Iterator[_File]:
    """Yield all files but locks and those that a process is building, which `FileCache.sweep` removes."""
    for folder, folders, names in os.walk(root):
        if Path(folder) == root and "building" in folders:
            folders.remove("building")
        for path in (Path(folder, name) for name in names if not name.endswith(".lock")):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield _File(status.st_mtime, status.st_size, path)
