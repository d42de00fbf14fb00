"""Digests of files that are read once, and again only when they have changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from twostream.core.cache import read_json
from twostream.core.files import atomic_path, md5_of, sha256_of

_SETTLED_NS = 2 * 10**9  # a file that changed later than this before it was read could change again unnoticed


class Digests:
    """The digests of files by device, inode, size and time of change, as DVC keeps its own. Threads may share it.

    Args:
        folder: keeps the digests that the last run of each stage asked for, in a file of each stage.
        stage: whose digests :meth:`save` keeps; those of the others are known too.
    """

    def __init__(self, folder: Path, stage: str):
        self._path = folder / f"{stage}.json"
        self._known: dict[str, str] = {}
        for path in sorted(folder.glob("*.json")):
            known = read_json(path)
            self._known |= known if isinstance(known, dict) else {}
        self._used: dict[str, str] = {}

    def md5(self, file: Path) -> str:
        """Return what :func:`files.md5_of` does."""
        return self._of(file, md5_of)

    def sha256(self, file: Path) -> str:
        """Return what :func:`files.sha256_of` does."""
        return self._of(file, sha256_of)

    def threads(self, workers: int) -> int:
        """Return how many of so many threads to ask with: one where most digests are known from the last run.

        Threads read files side by side, but Python runs one at a time: without files to read, two take twice the time.
        """
        return 1 if self._path.exists() else workers

    def save(self) -> None:
        """Keep the digests that were asked for, and no others."""
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._used))

    def _of(self, file: Path, digest_of: Callable[[Path], str]) -> str:
        now, status = time.time_ns(), os.stat(file)
        key = f"{digest_of.__name__} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
        digest = self._known.get(key) or digest_of(file)
        if now - status.st_mtime_ns > _SETTLED_NS:
            self._known[key] = self._used[key] = digest
        return digest
