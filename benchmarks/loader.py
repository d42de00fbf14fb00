"""Measure how long a training step waits for its loader.

    python benchmarks/loader.py [--videos data/videos] [--short-side 240] [--cases spatial ...]

A training step is timed in turns on batches from the loader with all its workers, whose frames are decoded or come from
the store of decoded frames, and on one batch that stays in memory. The table gives median seconds per step, and the
speed of the fed steps relative to that of the step from memory. Decoding is also timed alone, in clips per second of
processor time.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
from command import positive, run
from extraction import find_clips
from flow_methods import flow_settings
from torch.nn import functional
from torch.utils.data import DataLoader

from twostream.clipstore import ClipReader
from twostream.clipstore.extract import extract
from twostream.core.allocator import keep_freed_memory
from twostream.core.cache import FileCache
from twostream.core.parallel import progress
from twostream.networks.registry import create_model
from twostream.params import Augment, Rgb, Sampling
from twostream.views.frame_store import frame_store
from twostream.views.loading import EpochSampler, Example, TrainingViews, make_loader, normalise


class Case(NamedTuple):
    """A network and what it reads; `batch` is the number of clips per step."""

    model: str
    modality: str
    segments: int
    frames: int
    size: int
    batch: int


CASES = {
    "resnet50": Case("resnet50", "rgb", 3, 1, 224, 8),
    "cnn3d_v1": Case("cnn3d_v1", "rgb", 1, 16, 112, 4),
    "flow3d": Case("flow3d", "flow", 1, 16, 64, 12),
    "resnet18": Case("resnet18", "rgb", 3, 1, 64, 12),
}
ON_GPU = 8  # times as many clips per step


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print; a UserError is one line and exit code 2."""
    parser = argparse.ArgumentParser(description="Seconds of a training step fed by the loader, and from memory.")
    parser.add_argument("--videos", type=Path, default=Path("data/videos"), help="folder of videos (data/videos)")
    parser.add_argument("--clips", type=positive, default=24, help="how many clips, the first by name (24)")
    parser.add_argument("--short-side", type=positive, default=240, metavar="PX", help="size of stored frames (240)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES)[:3], help="networks to train")
    parser.add_argument("--repeats", type=positive, default=5, help="timed turns (5)")
    parser.add_argument("--steps", type=positive, help="steps per turn (4, on a GPU 40)")
    parser.add_argument("--workers", type=int, default=0, help="the loader's processes; 0: one per core (0)")
    parser.add_argument("--fresh-memory", action="store_true", help="do not keep freed memory on a CPU, to compare")
    run(_run, parser.parse_args(arguments))


def _run(args: argparse.Namespace) -> None:
    on_gpu = torch.cuda.is_available()
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    if not (args.fresh_memory or on_gpu):
        keep_freed_memory()  # as training does
    with tempfile.TemporaryDirectory() as folder:
        examples = prepare(args.videos, args.clips, args.short_side, Path(folder))
        where = "GPU" if on_gpu else f"CPU, {torch.get_num_threads()} threads"
        print(f"{len(examples['rgb'])} clips, short side {args.short_side} px, {where}")
        print(f"{'':<10}{'clips/CPU s':>12}{'memory s':>10}{'decoded s':>11}{'speed':>8}{'stored s':>10}{'speed':>8}")
        for name in args.cases:
            case = CASES[name]
            rate, (memory, decoded, stored) = measure(case, examples[case.modality], args)
            shares = f"{decoded:>11.3f}{memory / decoded:>8.1%}{stored:>10.3f}{memory / stored:>8.1%}"
            print(f"{name:<10}{rate:>12.0f}{memory:>10.3f}{shares}", flush=True)


def prepare(videos: Path, count: int, short_side: int, folder: Path) -> dict[str, list[Example]]:
    """Extract both modalities of some videos, and return the clips of each."""
    clips = find_clips(videos, count)
    settings = {
        "rgb": Rgb(short_side=short_side, jpeg_quality=92),
        "flow": flow_settings("dis-fast", short_side=short_side, device="cpu"),
    }
    for modality, section in settings.items():
        extract(clips, videos, folder / modality, section, FileCache(folder / "cache", None), 0)
    return {
        modality: [Example(name, folder / modality / f"{name}.zip", 0) for name in clips["clip_id"]]
        for modality in settings
    }


def measure(case: Case, examples: list[Example], args: argparse.Namespace) -> tuple[float, list[float]]:
    """Return the clips decoded per CPU second, and median seconds per step from memory, decoded and from the store."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = case.batch * (ON_GPU if device.type == "cuda" else 1)
    steps = args.steps or (40 if device.type == "cuda" else 4)
    sampling = Sampling(mode="segments", segments=case.segments, frames=case.frames, stride=1)
    jitter = 0.2 if case.modality == "rgb" else 0.0
    augment = Augment(scales=[1.0, 0.875, 0.75, 0.66], flip=True, jitter=jitter, gamma=0.0, dark=0.0)
    # Enough clips for a turn and for what the workers have read ahead when it starts.
    many = examples * -(-batch * (steps + 20) // len(examples))
    store = frame_store([example.path for example in examples], 1 << 40)
    loaders = []
    for open_clip in (ClipReader, store):
        views = TrainingViews(many, sampling, augment, case.size, 0, open_clip=open_clip)
        loaders.append(make_loader(views, batch, args.workers, EpochSampler(len(many), 0, lambda: 0)))
    for _ in loaders[1]:  # fills the store
        pass
    step = _make_step(case, device)
    seconds = []
    with progress(1 + args.repeats, f"{case.model} {case.frames}x{case.size}", "turn") as bar:
        for _ in range(1 + args.repeats):
            kept = _on(next(iter(loaders[1])), device)
            turn = [_timed(step, itertools.repeat(kept), steps)]
            seconds.append(turn + [_fed(step, loader, steps, device) for loader in loaders])
            bar.update()
    return _decoding_rate(many[: 2 * len(examples)], views), [
        statistics.median(s) for s in zip(*seconds[1:], strict=True)
    ]


def _make_step(case: Case, device: torch.device) -> Callable[[tuple], None]:
    model = create_model(
        case.model, modality=case.modality, classes=101, frames=case.frames, weights="none", input_size=case.size
    ).to(device)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)

    def step(batch: tuple) -> None:
        views, labels = _on(batch, device)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = functional.cross_entropy(model(normalise(views, **model.normalisation)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _fed(step: Callable[[tuple], None], loader: DataLoader, steps: int, device: torch.device) -> float:
    """Return seconds per step with batches of a loader that has used up what it had read ahead."""
    batches = iter(loader)
    for _ in range(2 * loader.num_workers if device.type == "cuda" else 1):
        step(next(batches))
    return _timed(step, batches, steps)


def _timed(step: Callable[[tuple], None], batches: Iterator[tuple], steps: int) -> float:
    """Return seconds per step, after one that is not timed."""
    step(next(batches))
    _synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    _synchronise()
    return (time.perf_counter() - start) / steps


def _decoding_rate(examples: list[Example], views: TrainingViews) -> float:
    """Return clips per second of this process's processor time, on one thread."""
    cv2.setNumThreads(1)
    views.open_clip = ClipReader
    start = time.process_time()
    for index in range(len(examples)):
        views[0, index]
    return len(examples) / (time.process_time() - start)


def _on(batch: tuple, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    views, labels = batch
    return views.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
