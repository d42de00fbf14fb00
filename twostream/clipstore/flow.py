"""Extract optical flow: decode, resize, solve, encode and write one packed file per clip."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from twostream.clipstore.extract import Clip, Job, Result, extract, fingerprint_of, shrunk, write
from twostream.core.cache import FileCache
from twostream.core.files import sha256_of
from twostream.core.parallel import cores, unordered
from twostream.flow import Solver, make_solver, method_files, resolve_device
from twostream.flow.encoding import encode_flow
from twostream.flow.gpu_server import BatchSolver, FlowServer, solve_remotely
from twostream.params import Flow
from twostream.video import read_frames


def extract_flow(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Flow, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write the optical flow of every readable clip; see :func:`twostream.clipstore.extract.extract`.

    Every process solves the flow of its clips on one thread. On a GPU, this process solves the flow of all of them.

    Raises:
        UserError: as `extract`; also if `flow.device` asks for a GPU that is missing or fails.
    """
    device = resolve_device(settings)
    workers = workers or cores() * (2 if device == "cuda" else 1)  # two: one decodes or encodes while another waits
    run = functools.partial(unordered, workers=workers, what="flow")

    def extract_all(job: Job, missing: list[Clip]) -> Iterable[Result]:
        if device == "cpu":
            _compile_kernels(settings)
            return run(functools.partial(extract_flow_clip_cpu, job), missing)
        with message_if_slow(f"starting {settings.method} on the GPU"):
            solver = cast(BatchSolver, make_solver(settings, device))
        with FlowServer(solver, settings.bound) as server:
            return list(run(functools.partial(extract_flow_clip_gpu, job, server.address), missing))

    job = Job("flow", settings, flow_fingerprint(settings, device), cache)
    return extract(clips, videos, out, job, workers, extract_all)


def extract_flow_clip_cpu(job: Job, clip: Clip) -> Result:
    """Solve the flow of a clip in this process, and write it."""
    settings = cast(Flow, job.settings)
    flows_px = _solver(settings.model_dump_json(by_alias=True)).sequence(_grey_frames(settings, clip))
    return write(job, clip, (encode_flow(flow_px, settings.bound) for flow_px in flows_px))


def extract_flow_clip_gpu(job: Job, address: str, clip: Clip) -> Result:
    """Have the `FlowServer` at `address` solve the flow of a clip, and write it."""
    return write(job, clip, solve_remotely(address, _grey_frames(cast(Flow, job.settings), clip)))


def _grey_frames(settings: Flow, clip: Clip) -> Iterator[np.ndarray]:
    """Yield the frames between which flow is computed, uint8 [H, W]."""
    frames = shrunk(read_frames(clip.video, "gray"), settings.short_side)
    return spread(frames, clip.frames, settings.frames) if settings.frames else frames


@functools.lru_cache(1)
def _solver(settings_json: str) -> Solver:
    """Return this process's solver, kept from clip to clip with its working memory or its network."""
    return make_solver(Flow.model_validate_json(settings_json), "cpu")


def _compile_kernels(settings: Flow) -> None:
    """Compile the kernels of TV-L1 here and keep them on disk, or each worker would compile them again."""
    if settings.method == "tvl1":
        with message_if_slow("compiling tvl1 for this processor; later runs reuse the result"):
            # 128x128 gives several pyramid levels, and noise gives large and small motion: every kernel is called.
            images = np.random.default_rng(0).integers(0, 256, (2, 128, 128), np.uint8)
            make_solver(settings, "cpu")(*images)


@contextlib.contextmanager
def message_if_slow(text: str) -> Iterator[None]:
    """Print what the user is waiting for, on the standard error, once the block has taken two seconds."""
    timer = threading.Timer(2, print, [f"{text} ..."], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def spread(images: Iterable[np.ndarray], count: int, wanted: int) -> Generator[np.ndarray]:
    """Yield `wanted` of `count` images, evenly spread with the first and the last; a short clip repeats some."""
    repeats = np.bincount(np.linspace(0, count - 1, wanted).round().astype(int), minlength=count)
    for image, times in zip(images, repeats):  # noqa: B905 - a decoder may give one frame more or less
        yield from itertools.repeat(image, int(times))


def flow_fingerprint(settings: Flow, device: str) -> dict[str, Any]:
    """Return the fingerprint of an extraction of flow, see `fingerprint_of`.

    The sections of other flow methods do not count, and `device` is where flow is solved, not what was asked for.
    """
    used = settings.model_dump(by_alias=True)
    used = {key: value for key, value in used.items() if not isinstance(value, dict) or key == settings.method}
    used["device"] = device
    if settings.method == "raft" and os.path.isfile(settings.raft.weights):
        used["weights"] = sha256_of(settings.raft.weights)
    libraries = {"torch": version("torch")} if device == "cuda" or settings.method == "raft" else {}
    return fingerprint_of(used, [Path(__file__), *method_files(settings.method, device)], **libraries)
