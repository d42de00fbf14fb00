"""What extraction costs beside the flow solver itself: the same clips decoded, solved, encoded and packed, one process.

    python benchmarks/extraction.py [--clips 12] [--methods farneback dis tvl1] [--videos data/videos]

For each method the solver alone runs on frames in memory, then the whole extraction on the files, in turn, several
times; the table gives medians and their ratio. Run `dvc repro split` first, or name a folder of videos.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import cv2
import pandas as pd
from tqdm import tqdm

from twostream.cache import FileCache
from twostream.clips import CLIP_COLUMNS
from twostream.clipstore import stored_size
from twostream.errors import UserError
from twostream.extraction import extract
from twostream.flow import make_solver
from twostream.params import Flow, load_params
from twostream.video import probe, read_frames


def main() -> None:
    parser = argparse.ArgumentParser(description="Pairs of frames a second: the solver alone, and whole extraction.")
    parser.add_argument("--videos", type=Path, default=Path("data/videos"), help="folder of videos (data/videos)")
    parser.add_argument("--clips", type=int, default=12, help="how many clips, the first by name (12)")
    parser.add_argument("--methods", nargs="+", default=["farneback", "dis"], help="flow methods (farneback dis)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (3)")
    given = parser.parse_args()
    clips = _clips(given.videos, given.clips)
    flow = load_params().flow
    cv2.setNumThreads(1)
    pairs = int((clips["frames"] - 1).sum())
    print(f"{len(clips)} clips, {pairs} pairs, one process, short side {flow.short_side} px")
    print(f"{'method':<12}{'solver pairs/s':>16}{'extraction pairs/s':>20}{'extraction / solver time':>26}")
    for method in given.methods:
        settings = flow.model_copy(update={"method": method})
        solver, whole = [], []
        for _ in tqdm(range(given.repeats), desc=method, leave=False):
            solver.append(_solver_seconds(clips, given.videos, settings))
            whole.append(_extraction_seconds(clips, given.videos, settings))
        alone, complete = statistics.median(solver), statistics.median(whole)
        print(f"{method:<12}{pairs / alone:>16.0f}{pairs / complete:>20.0f}{complete / alone:>26.2f}")


def _clips(videos: Path, count: int) -> pd.DataFrame:
    rows = []
    for folder, _, names in sorted(os.walk(videos)):
        for name in sorted(names):
            path = Path(folder, name)
            found = probe(path)
            if found.readable and len(rows) < count:
                row = [f"clip/{len(rows)}", str(path.relative_to(videos)), "clip", "g", found.frames, found.fps]
                rows.append([*row, found.width, found.height, "ok", ""])
    if not rows:
        raise UserError(f"{videos}: no readable videos; run `dvc repro split` first or name a folder with --videos")
    return pd.DataFrame(rows, columns=CLIP_COLUMNS)


def _solver_seconds(clips: pd.DataFrame, videos: Path, settings: Flow) -> float:
    solve, seconds = make_solver(settings), 0.0
    for row in clips.itertuples():
        size = stored_size(row.width, row.height, settings.short_side)
        grey = [
            cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in read_frames(videos / row.path, "gray")
        ]
        start = time.perf_counter()
        for first, second in pairwise(grey):
            solve(first, second)
        seconds += time.perf_counter() - start
    return seconds


def _extraction_seconds(clips: pd.DataFrame, videos: Path, settings: Flow) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        extract(clips, videos, Path(folder, "out"), settings, FileCache(Path(folder, "cache"), None), workers=1)
        return time.perf_counter() - start


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ERROR: {error}")
