"""Measure how long a training step waits for its loader.

    python benchmarks/loader.py [--videos data/videos] [--short-side 240] [--cases spatial ...]

A training step is timed in turns on batches from the loader with all its workers, whose frames are decoded or come from
the store of decoded frames, and on one batch that stays in memory. The table gives median seconds per step, and the
speed of the fed steps relative to that of the step from memory.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from command import positive, run, short, videos_parser
from extraction import find_clips
from flow_methods import flow_settings
from training_step import CASES, DEVICE, ON_GPU, Case, make_step, set_switches, synchronise

from twostream.clipstore import ClipReader
from twostream.clipstore.extract import extract_flow, extract_rgb
from twostream.core.allocator import available_memory, keep_freed_memory
from twostream.core.cache import FileCache
from twostream.core.parallel import cores, progress
from twostream.params import Augment, Rgb, Sampling
from twostream.views.examples import Example
from twostream.views.frame_store import frame_store
from twostream.views.loading import EpochSampler, TrainingViews, make_loader

READ_AHEAD = 2 * cores() if ON_GPU else 2  # steps before a turn counts: the workers have read ahead meanwhile


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print; a UserError is one line and exit code 2."""
    parser = videos_parser("Seconds of a training step fed by the loader, and from memory.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES)[:3], help="networks to train")
    parser.add_argument("--steps", type=positive, default=40 if ON_GPU else 4, help="steps per turn")
    parser.add_argument("--fresh-memory", action="store_true", help="do not keep freed memory on a CPU, to compare")
    run(_run, parser.parse_args(arguments))


def _run(args: argparse.Namespace) -> None:
    set_switches()
    if not (args.fresh_memory or ON_GPU):
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        examples = prepare(args.videos, args.clips, args.short_side, Path(folder))
        where = "GPU" if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
        print(f"{len(examples['rgb'])} clips, short side {args.short_side} px, {where}")
        rows = {}
        for name in args.cases:
            memory, decoded, stored = measure(CASES[name], examples[CASES[name].modality], args)
            rows[name] = [memory, decoded, memory / decoded, stored, memory / stored]
        columns = ["memory s", "decoded s", "speed", "stored s", "speed"]
        print(pd.DataFrame.from_dict(rows, orient="index", columns=columns).to_string(float_format=short))


def prepare(videos: Path, count: int, short_side: int, folder: Path) -> dict[str, list[Example]]:
    """Extract both modalities of some videos, and return the clips of each; a label is the folder of the video."""
    clips = find_clips(videos, count)
    cache = FileCache(folder / "cache", None)
    extract_rgb(clips, videos, folder / "rgb", Rgb(short_side=short_side, jpeg_quality=92), cache, 0)
    flow = flow_settings("dis-fast", short_side=short_side, device="cpu")
    extract_flow(clips, videos, folder / "flow", flow, cache, 0)
    labels = clips["class"].astype("category").cat.codes
    return {
        modality: [
            Example(name, folder / modality / f"{name}.zip", int(label))
            for name, label in zip(clips["clip_id"], labels, strict=True)
        ]
        for modality in ("rgb", "flow")
    }


def measure(case: Case, examples: list[Example], args: argparse.Namespace) -> list[float]:
    """Return median seconds per step: from memory, with every frame decoded, and with decoded frames from memory."""
    batch, steps = case.clips, args.steps
    sampling = Sampling(mode="segments", segments=case.segments, frames=case.frames, stride=1)
    jitter = 0.2 if case.modality == "rgb" else 0.0
    augment = Augment(scales=[1.0, 0.875, 0.75, 0.66], flip=True, jitter=jitter)
    many = examples * -(-batch * (READ_AHEAD + steps) // len(examples))
    sampler = EpochSampler(len(many), 0, lambda: 0)
    decoded, stored = (
        make_loader(
            TrainingViews(many, sampling, augment, case.size, 0, open_clip=open_clip), batch, args.workers, sampler
        )
        for open_clip in (ClipReader, frame_store([example.path for example in examples], available_memory()))
    )
    *_, (views, labels) = stored  # a whole epoch fills the store
    kept = itertools.repeat((views.to(DEVICE), labels.to(DEVICE)))
    _, step = make_step(case)
    seconds = []
    with progress(1 + args.repeats, f"{case.model} {case.frames}x{case.size}", "turn") as bar:
        for _ in range(1 + args.repeats):
            seconds.append([_timed(step, batches, steps) for batches in (kept, iter(decoded), iter(stored))])
            bar.update()
    return [statistics.median(times) for times in zip(*seconds[1:], strict=True)]


def _timed(step: Callable[[torch.Tensor, torch.Tensor], None], batches: Iterator[tuple], steps: int) -> float:
    """Return seconds per step, after enough steps to use up what the workers read ahead while nothing trained."""
    for _ in range(READ_AHEAD):
        step(*next(batches))
    synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        step(*next(batches))
    synchronise()
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    main()
