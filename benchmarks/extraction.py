"""Measure what extraction costs in addition to the flow solver: decoding, encoding and packing of the same clips.

    python benchmarks/extraction.py [--videos data/videos] [--methods tvl1-fast dis-medium] [--short-side 240]

In every round each method runs the solver alone on frames in memory, then the whole extraction of the files on one
core, then on several; the table gives medians over the rounds. Run `dvc repro probe` first, or name a folder of videos.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from command import run, short, videos_parser
from flow_methods import PIPELINE_METHODS, flow_settings

from twostream.clipstore.extract import extract_flow
from twostream.clipstore.frames import shrunk
from twostream.core import cluster
from twostream.core.cache import FileCache
from twostream.core.parallel import cores, progress
from twostream.datasets.tables import CLIP_COLUMNS
from twostream.errors import UserError
from twostream.flow import Solver, make_solver, resolve_device
from twostream.params import Flow
from twostream.sources.walk import walk_files
from twostream.video import read_frames
from twostream.video.probe import probe

GPU_BATCH = 64  # pairs
METHODS = ("tvl1-fast", "tvl1-balanced", "farneback", "dis-medium")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print; a UserError is one line and exit code 2."""
    parser = videos_parser("Pairs of frames per second of the flow solver and of extraction.")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=PIPELINE_METHODS, help="flow methods")
    parser.add_argument("--dask", action="store_true", help="also on workers of a Dask cluster, one core each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where flow is solved")
    run(_run, parser.parse_args(arguments))


def _run(args: argparse.Namespace) -> None:
    changes = {"short_side": args.short_side, "device": args.device}
    settings = {name: flow_settings(name, **changes) for name in args.methods}
    clips = find_clips(args.videos, args.clips)
    pairs = int((clips["frames"] - 1).sum())
    workers = args.workers or cores() * (2 if args.device == "cuda" else 1)  # as `extract_flow`
    seconds = measure(clips, args.videos, settings, sorted({1, workers}), args.repeats, args.dask)
    where = f"short side {args.short_side} px, flow on {args.device}"
    print(f"{len(clips)} clips, {pairs} pairs, {where}, median of {args.repeats} rounds")
    table = pairs / seconds.rename(columns=lambda name: f"{name}, pairs/s")
    table.insert(2, "extraction/solver time", seconds["1 worker"] / seconds["solver"])
    print(table.to_string(float_format=short))


def find_clips(videos: Path, count: int) -> pd.DataFrame:
    """Return the first `count` readable videos below a folder as a table of clips.

    Raises:
        UserError: there are none.
    """
    rows = []
    for path in walk_files(videos):
        found = probe(videos / path)
        if found.readable:
            row = [f"clip/{len(rows)}", str(path), path.parent.name, "g", found.frames, found.fps]
            rows.append([*row, found.width, found.height, "ok", ""])
        if len(rows) == count:
            break
    if not rows:
        raise UserError(f"{videos}: no readable videos; run `dvc repro probe` first or name a folder with --videos")
    return pd.DataFrame(rows, columns=CLIP_COLUMNS)


def measure(
    clips: pd.DataFrame,
    videos: Path,
    settings: dict[str, Flow],
    workers: Sequence[int],
    repeats: int,
    dask: bool = False,
) -> pd.DataFrame:
    """Return median seconds for all clips by method: the solver alone, and extraction with each number of workers."""
    cv2.setNumThreads(1)
    rounds = []
    with progress((1 + repeats) * len(settings), "extraction", "turn") as bar:
        for number in range(1 + repeats):
            for name, flow in settings.items():
                if number == 0:  # compiles, and starts the workers, which stay for the rounds that count
                    first = clips.iloc[: max(workers)]
                    _solver_seconds(first.iloc[:1], videos, flow)
                    _extraction_seconds(first, videos, flow, max(workers))
                else:
                    row = {"method": name, "solver": _solver_seconds(clips, videos, flow)}
                    for count in workers:
                        column = f"{count} worker{'s' * (count > 1)}"
                        row[column] = _extraction_seconds(clips, videos, flow, count)
                        if dask:
                            with _dask(count):
                                _extraction_seconds(clips.iloc[:count], videos, flow, count)
                                row[f"{column} of Dask"] = _extraction_seconds(clips, videos, flow, count)
                    rounds.append(row)
                bar.update()
    return pd.DataFrame(rounds).groupby("method", sort=False).median().rename_axis(None)


@contextlib.contextmanager
def _dask(workers: int) -> Iterator[None]:
    """Let extraction use a Dask cluster of so many processes with a thread each, set up as docs/cluster.md says."""
    import dask
    from distributed import LocalCluster

    quiet = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
    with (
        dask.config.set(quiet),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as started,
    ):
        os.environ[cluster.VARIABLE] = started.scheduler_address
        try:
            yield
        finally:
            del os.environ[cluster.VARIABLE]


def _solver_seconds(clips: pd.DataFrame, videos: Path, settings: Flow) -> float:
    solver, seconds = _solver(settings.model_dump_json(by_alias=True)), 0.0
    for row in clips.itertuples():
        grey = list(shrunk(read_frames(videos / row.path, "gray"), settings.short_side))
        start = time.perf_counter()
        _solve(solver, grey, resolve_device(settings))
        seconds += time.perf_counter() - start
    return seconds


@functools.cache
def _solver(settings: str) -> Solver:
    """Return the solver of all rounds, which keeps its graphs on a GPU."""
    return make_solver(Flow.model_validate_json(settings))


def _solve(solver: Solver, grey: Sequence[np.ndarray], device: str) -> None:
    if device == "cpu":
        for _ in solver.sequence(iter(grey)):
            pass
        return
    import torch

    images = torch.from_numpy(np.stack(grey))
    for start in range(0, len(grey) - 1, GPU_BATCH):
        # The last batch is filled up, or it would have a shape of its own.
        index = torch.arange(start, start + GPU_BATCH + 1).clamp(max=len(grey) - 1)
        batch = images[index].to(device)
        solver.match_batch(batch[:-1], batch[1:]).cpu()


def _extraction_seconds(clips: pd.DataFrame, videos: Path, settings: Flow, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # its own bars
            extract_flow(clips, videos, Path(folder, "out"), settings, FileCache(Path(folder, "cache"), None), workers)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
