"""What experiments in temporary workspaces, `dvc exp run --temp` and `--queue`, find of the project."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path


def absent_in_experiments(source: str) -> str:
    """Return one line, why temporary workspaces lack an existing source and what to do; "" if they have it.

    Such a workspace is a copy of what git tracks, in another folder, with the files of DVC checked out.
    """
    if os.path.isabs(source) or not os.path.exists(source) or _is_tracked(source):
        return ""
    inside = not os.path.relpath(source).startswith(os.pardir)
    path = os.path.normpath(source) if inside else os.path.abspath(source)
    return (
        f"dataset.source: `dvc exp run --temp` and `--queue` will not find {source}, which neither git nor DVC tracks; "
        + (f"run `dvc add {path}` and `git add {path}.dvc`" if inside else f"write {path}")
    )


def _is_tracked(source: str) -> bool:
    path = Path(source)
    names = [source, *(f"{one}.dvc" for one in (path, *path.parents))]
    with contextlib.suppress(OSError):  # no git
        return bool(subprocess.run(["git", "ls-files", "--", *names], capture_output=True).stdout)
    return False
