"""Measure what extraction costs in addition to the flow solver: decoding, encoding and packing of the same clips.

    python benchmarks/extraction.py [--videos data/videos] [--methods tvl1-fast dis-medium] [--short-side 256]

In every round each method runs the solver alone on frames in memory, then the whole extraction of the files on one
core, then on several; the table gives medians over the rounds. Run `dvc repro probe` first, or name a folder of videos.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from command import positive, run
from flow_methods import flow_settings

from twostream.clipstore.extract import extract, shrunk
from twostream.core.cache import FileCache
from twostream.core.parallel import cores, progress
from twostream.datasets.tables import CLIP_COLUMNS
from twostream.errors import UserError
from twostream.flow import Solver, make_solver
from twostream.params import Flow
from twostream.sources.walk import walk_files
from twostream.video import probe, read_frames

GPU_BATCH = 64  # pairs
METHODS = ("tvl1-fast", "tvl1-balanced", "farneback", "dis-medium")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure and print; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Pairs of frames per second of the flow solver and of extraction.")
    parser.add_argument("--videos", type=Path, default=Path("data/videos"), help="folder of videos (data/videos)")
    parser.add_argument("--clips", type=positive, help="how many clips, the first by name (12, or 4 per worker)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="NAME",
        help=f"names as in benchmarks/flow.py ({' '.join(METHODS)})",
    )
    parser.add_argument(
        "--short-side", type=positive, default=256, metavar="PX", help="size of the flow in pixels (256)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where flow is solved (cpu)")
    parser.add_argument("--workers", type=int, default=0, help="processes in parallel; 0: one per core (0)")
    parser.add_argument("--repeats", type=positive, default=5, help="timed rounds (5)")
    given = parser.parse_args(arguments)
    if given.workers < 0:
        parser.error(f"argument --workers: {given.workers} is below 0")
    run(_run, given)


def _run(given: argparse.Namespace) -> None:
    workers = given.workers or cores()
    changes = {"short_side": given.short_side, "device": given.device}
    settings = {name: flow_settings(name, **changes) for name in given.methods}
    clips = find_clips(given.videos, given.clips or max(12, 4 * workers))
    pairs = int((clips["frames"] - 1).sum())
    seconds = measure(clips, given.videos, settings, workers, given.repeats)
    where = f"short side {given.short_side} px, flow on {given.device}"
    print(f"{len(clips)} clips, {pairs} pairs, {where}, median of {given.repeats} rounds")
    if workers > len(clips):
        print(f"note: there are fewer clips than the {workers} workers")
    print(f"{'pairs/s':<19}{'solver':>8}{'1 worker':>10}{'extraction/solver time':>24}", end="")
    print(f"{f'{workers} workers':>12}{'ratio':>7}" if workers > 1 else "")
    for name, (solver, one, every) in seconds.items():
        row = f"{name:<19}{_rate(pairs, solver):>8}{_rate(pairs, one):>10}{_ratio(one, solver):>24}"
        print(row + (f"{_rate(pairs, every):>12}{_ratio(one, every):>7}" if workers > 1 else ""))


def find_clips(videos: Path, count: int) -> pd.DataFrame:
    """Return the first `count` readable videos below a folder as a table of clips.

    Raises:
        UserError: there are none.
    """
    rows = []
    for path in walk_files(videos):
        found = probe(videos / path)
        if found.readable:
            row = [f"clip/{len(rows)}", str(path), "clip", "g", found.frames, found.fps]
            rows.append([*row, found.width, found.height, "ok", ""])
        if len(rows) == count:
            break
    if not rows:
        raise UserError(f"{videos}: no readable videos; run `dvc repro probe` first or name a folder with --videos")
    return pd.DataFrame(rows, columns=CLIP_COLUMNS)


def measure(
    clips: pd.DataFrame, videos: Path, settings: dict[str, Flow], workers: int, repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Return median seconds for all clips by method: the solver alone, extraction on one worker, and on `workers`."""
    cv2.setNumThreads(1)
    rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in settings}
    with progress((1 + repeats) * len(settings), "extraction", "turn") as bar:
        for number in range(1 + repeats):
            for name, flow in settings.items():
                if number == 0:  # compiles, and starts the workers, which stay for the rounds that count
                    first = clips.iloc[: max(workers, 1)]
                    _solver_seconds(first.iloc[:1], videos, flow)
                    _extraction_seconds(first, videos, flow, workers)
                else:
                    solver = _solver_seconds(clips, videos, flow)
                    one = _extraction_seconds(clips, videos, flow, 1)
                    every = _extraction_seconds(clips, videos, flow, workers) if workers > 1 else one
                    rounds[name].append((solver, one, every))
                bar.update()
    return {name: tuple(map(statistics.median, zip(*times, strict=True))) for name, times in rounds.items()}


def _solver_seconds(clips: pd.DataFrame, videos: Path, settings: Flow) -> float:
    solver, seconds = make_solver(settings), 0.0
    for row in clips.itertuples():
        grey = list(shrunk(read_frames(videos / row.path, "gray"), settings.short_side))
        start = time.perf_counter()
        _solve(solver, grey, settings.device)
        seconds += time.perf_counter() - start
    return seconds


def _solve(solver: Solver, grey: Sequence[np.ndarray], device: str) -> None:
    if device == "cpu":
        for _ in solver.sequence(iter(grey)):
            pass
        return
    import torch

    images = torch.from_numpy(np.stack(grey))
    for start in range(0, len(grey) - 1, GPU_BATCH):
        batch = images[start : start + GPU_BATCH + 1].to(device)
        solver.match_batch(batch[:-1], batch[1:]).cpu()


def _extraction_seconds(clips: pd.DataFrame, videos: Path, settings: Flow, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # its own bars
            extract(clips, videos, Path(folder, "out"), settings, FileCache(Path(folder, "cache"), None), workers)
        return time.perf_counter() - start


def _rate(pairs: int, seconds: float) -> str:
    rate = pairs / seconds
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _ratio(seconds: float, base: float) -> str:
    return f"{seconds / base:.2f}"


if __name__ == "__main__":
    main()
