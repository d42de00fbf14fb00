"""What experiments in temporary workspaces, `dvc exp run --temp` and `--queue`, find of the project."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path


def absent_in_experiments(source: str) -> str:
    """Return one line, why temporary workspaces lack an existing source and what to do; "" if they have it.

    Such a workspace is a copy of what git tracks, in another folder, with DVC's files checked out.
    """
    if os.path.isabs(source) or not os.path.exists(source) or _is_tracked(source):
        return ""
    inside = not os.path.relpath(source).startswith(os.pardir)
    return (
        f"dataset.source: `dvc exp run --temp` and `--queue` will not find {source}, which neither git nor DVC tracks; "
        f"write {os.path.abspath(source)}{f', or run `dvc add {source}`' if inside else ''}"
    )


def _is_tracked(source: str) -> bool:
    path = Path(source)
    if any(Path(f"{one}.dvc").is_file() for one in (path, *path.parents)):
        return True
    with contextlib.suppress(OSError):  # no git
        return bool(subprocess.run(["git", "ls-files", "--", source], capture_output=True).stdout)
    return False
