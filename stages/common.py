"""Shared by all stages: arguments, parameters, the file cache and one-line errors."""

from __future__ import annotations

import argparse
import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from twostream.core import cluster
from twostream.core.cache import FileCache
from twostream.core.parallel import exit_with_parent
from twostream.errors import UserError, is_of_the_disk, reason
from twostream.params import Params, load_params

if TYPE_CHECKING:
    from twostream.clipstore.extract import Job

FROM_CACHE = "from the cache"  # what a stage's `cost` calls work that is done


def run(stage: Callable[..., None], *arguments: str, **optional: str) -> None:
    """Run a stage as a script: `stage(params, **arguments)`, where each argument is a required `--option`.

    `optional` has further options with their help; what is not given is not passed on.

    Exit codes: 2 after a UserError or an error of the disk, 130 after Ctrl-C (SIGINT), 143 after SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{Path(sys.argv[0]).stem}",
        description=(stage.__doc__ or "").strip(),
        epilog="Run it from the top folder of the project. `dvc repro` runs all stages whose dependencies changed.",
    )
    for name in arguments:
        parser.add_argument(f"--{name}", required=True)
    for name, text in optional.items():
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="DIR", help=text)
    where = f"spread the clips over a Dask cluster: its scheduler's address, or file (${cluster.VARIABLE})"
    parser.add_argument("--cluster", metavar="SCHEDULER", default=cluster.scheduler(), help=where)
    args = vars(parser.parse_args())
    os.environ[cluster.VARIABLE] = args.pop("cluster")
    # Started by DVC, or by `twostream train`: when that is killed, it must not leave a writer behind.
    if "DVC_ROOT" in os.environ or "into" in args:
        exit_with_parent()
    _stop_on_signals()
    try:
        stage(load_params(), **args)
    except UserError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if not is_of_the_disk(error):
            raise  # a bug
        where = f" ({os.fspath(error.filename)!r})" if error.filename else ""
        print(f"ERROR: {reason(error)}{where}; finished work is kept: run again when that is fixed", file=sys.stderr)
        sys.exit(2)


def _stop_on_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored by `nohup` and in the background of a script
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    """Raise SystemExit, which libraries leave alone: Lightning turns a KeyboardInterrupt into exit code 1."""
    if multiprocessing.parent_process():  # in a loader's process, which Ctrl-C reaches too and which PyTorch ends
        raise KeyboardInterrupt
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_DFL)  # a second one ends the stage at once
    atexit.register(
        print, "stopped; finished work is kept: run the same command again to go on", file=sys.stderr, flush=True
    )
    sys.exit(128 + number)


if getattr(sys.modules["__main__"].__spec__, "parent", None) == __package__:
    _stop_on_signals()  # now: a stage imports this module first, and what it imports next can take seconds


def open_cache() -> FileCache:
    """Return the file cache after a sweep."""
    cache = find_cache()
    cache.sweep()
    return cache


def find_cache() -> FileCache:
    """Return the file cache next to DVC's own, which experiments in temporary workspaces share."""
    from dvc.config import Config
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        dvc_dir = Repo.find_dvc_dir()
    except NotDvcRepoError:
        return FileCache(Path(".cache"), None)
    cache_dir = Path(Config(dvc_dir)["cache"].get("dir") or Path(dvc_dir) / "cache")
    return FileCache(cache_dir / "twostream", cache_dir / "files" / "md5")


def extract_clips(modality: str, extract: Callable[..., dict[str, int]], settings: Any, workers: int) -> None:
    """Write the files of all readable clips into data/<modality>/ with a function of `twostream.clipstore.extract`."""
    from twostream.core.outputs import replaced
    from twostream.datasets.tables import read_clips

    clips, out, cache = read_clips("data/clips.csv"), Path("data", modality), open_cache()
    with replaced([out], cache, empties=False):
        counts = extract(clips, Path("data/videos"), out, settings, cache, workers)
    print(f"{modality}: {{clips}} clips, {{extracted}} extracted, {{cached}} from the cache".format(**counts))


def extraction_cost(job: Job) -> dict[str, int]:
    """Return how many clips an extraction would extract, and how many it would take from the cache."""
    from twostream.clipstore.extract import count_missing
    from twostream.datasets.tables import read_clips

    out = Path("data", job.modality)
    todo, cached = count_missing(read_clips("data/clips.csv"), Path("data/videos"), out, job)
    return {"clips to extract": todo, FROM_CACHE: cached}


def modality_of(params: Params, stream: str) -> str:
    """Return the modality of a trained stream. Raises a UserError that lists the streams if it is not trained."""
    if stream not in (*params.train.rgb, *params.train.flow):
        raise UserError(f"stream '{stream}' is not trained; params.yaml lists {params.train.rgb + params.train.flow}")
    return params.modality(stream)
