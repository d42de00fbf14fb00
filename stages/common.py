"""Shared by all stages: arguments, parameters, the file cache and one-line errors."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from twostream.core.cache import FileCache
from twostream.core.parallel import exit_with_parent
from twostream.errors import UserError
from twostream.params import Params, load_params


def run(stage: Callable[..., None], *arguments: str) -> None:
    """Run a stage as a script: `stage(params, **arguments)`, where each argument is a required `--option`.

    Exit codes: 2 after a UserError, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{Path(sys.argv[0]).stem}",
        description=(stage.__doc__ or "").strip(),
        epilog="Run it from the top folder of the project. `dvc repro` runs all stages whose dependencies changed.",
    )
    for name in arguments:
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    if "DVC_ROOT" in os.environ:  # started by DVC: a killed `dvc repro` must not leave a writer behind
        exit_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        stage(load_params(), **vars(args))
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; finished work is kept", file=sys.stderr)
        sys.exit(130)


def open_cache() -> FileCache:
    """Return the file cache next to DVC's own, which experiments in temporary workspaces share, after a sweep."""
    from dvc.config import Config
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        dvc_dir = Repo.find_dvc_dir()
    except NotDvcRepoError:
        return FileCache(Path(".cache"), None)
    cache_dir = Path(Config(dvc_dir)["cache"].get("dir") or Path(dvc_dir) / "cache")
    cache = FileCache(cache_dir / "twostream", cache_dir / "files" / "md5")
    cache.sweep()
    return cache


def modality_of(params: Params, stream: str) -> str:
    """Return the modality of a trained stream. Raises a UserError that lists the streams if it is not trained."""
    if stream not in (*params.train.rgb, *params.train.flow):
        raise UserError(f"stream '{stream}' is not trained; params.yaml lists {params.train.rgb + params.train.flow}")
    return params.modality(stream)
