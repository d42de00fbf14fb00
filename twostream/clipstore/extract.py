"""Extraction: every readable clip becomes one packed file of RGB frames or of optical flow."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pandas as pd

import twostream
from twostream import clipstore
from twostream.clipstore import stored_size, write_clip
from twostream.core.cache import FileCache, code_digest, key_of
from twostream.core.files import sha256_of
from twostream.core.parallel import cores, unordered
from twostream.errors import UserError
from twostream.flow import Solver, make_solver, resolve_device
from twostream.flow.encoding import encode_flow
from twostream.flow.gpu_server import FlowServer, solve_remotely
from twostream.params import Flow, Rgb
from twostream.video import VideoError, read_frames, resize

Modality = Literal["rgb", "flow"]

# Files that a flow method imports from outside its own module or package, see `code_files`.
_ALSO_IMPORTED = {"tvl1": ["flow/simd.py"], "raft": ["networks/weights.py"]}


@dataclass(frozen=True)
class _Job:
    clip_id: str
    video: Path
    target: Path
    frames: int
    digest: str = ""  # SHA-256 of the video
    done: bool = False
    error: str = ""


@dataclass(frozen=True)
class _Work:
    """What all clips have in common."""

    settings: Rgb | Flow
    device: str
    made_of: dict[str, Any]
    cache: FileCache

    def key(self, job: _Job) -> str:
        return key_of(source=job.digest, **self.made_of)


def extract(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Rgb | Flow, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write `out/<clip id>.zip` for every clip with status ok; the modality follows from the type of `settings`.

    What the cache holds is served first. The rest is decoded, solved and encoded clip by clip, each in one process on
    one thread; where flow is solved on a GPU, that is done for all of
    them in this process (`twostream.flow.gpu_server`).

    Args:
        clips: the table of `clips.csv`.
        videos: folder of the videos, `<class>/<file>`.
        out: folder of the clip files; each appears whole or not at all.
        settings: the parameter section of the modality.
        cache: where clips that were extracted before are taken from.
        workers: processes; 0 means one a core, and two a core beside a GPU.

    Returns:
        Counts: `clips`, `extracted` (computed now) and `cached` (taken from the cache).

    Raises:
        UserError: a clip that could be read when it was listed cannot be read now, there is no GPU that
            `flow.device` asks for, or it fails.
    """
    usable = clips[clips["status"] == "ok"]
    jobs = [_Job(row.clip_id, videos / row.path, out / f"{row.clip_id}.zip", row.frames) for row in usable.itertuples()]
    device = resolve_device(settings) if isinstance(settings, Flow) else "cpu"
    work = _Work(settings, device, _made_of(settings, device), cache)
    workers = workers or cores() * (2 if device == "cuda" else 1)  # two: one decodes or encodes while another waits

    modality = _modality(settings)
    jobs = list(unordered(functools.partial(_look_up, work), jobs, workers=workers, what=f"{modality}: cached"))
    left = sorted((job for job in jobs if not (job.done or job.error)), key=lambda job: (-job.frames, job.clip_id))
    extracted = []
    if left:
        with _prepared(settings, device) as server:
            extract_one = functools.partial(_extract_one, work, server)
            extracted += unordered(extract_one, left, workers=workers, what=modality)
    failed = sorted((job for job in jobs + extracted if job.error), key=lambda job: job.clip_id)
    if failed:
        named = ", ".join(f"{job.clip_id!r} ({job.error})" for job in failed[:5])
        raise UserError(f"{len(failed)} clips cannot be read any more: {named}; run `dvc repro --force split`")
    built = sum(job.done for job in extracted)
    return {"clips": len(jobs), "extracted": built, "cached": len(jobs) - built}


def _look_up(work: _Work, job: _Job) -> _Job:
    """The job with its video's digest, done if the cache has its clip."""
    try:
        job = replace(job, digest=sha256_of(job.video))
    except OSError as error:
        return replace(job, error=error.strerror or type(error).__name__)
    return replace(job, done=work.cache.serve(work.key(job), job.target))


def _extract_one(work: _Work, server: str, job: _Job) -> _Job:
    """The job, done if its clip was made here, with an error if its video cannot be decoded."""
    cv2.setNumThreads(1)  # clips run in parallel, one a process
    settings = work.settings

    def build(path: Path) -> None:
        used = work.made_of["settings"]
        meta = {"modality": _modality(settings), "source": f"sha256:{job.digest}", "settings": used}
        with contextlib.closing(_images(job, settings, work.device, server)) as images:
            write_clip(path, images, settings.jpeg_quality, meta)

    try:
        return replace(job, done=work.cache.make(work.key(job), job.target, build))
    except VideoError as error:
        return replace(job, error=str(error))


def _images(job: _Job, settings: Rgb | Flow, device: str, server: str) -> Iterator[np.ndarray]:
    if isinstance(settings, Rgb):
        return shrunk(read_frames(job.video), settings.short_side)
    grey = shrunk(read_frames(job.video, "gray"), settings.short_side)
    if settings.frames:
        grey = spread(grey, job.frames, settings.frames)
    if server:
        return solve_remotely(server, grey)
    return _solve(_solver(settings.model_dump_json(by_alias=True), device), grey, settings.bound)


def _solve(solver: Solver, grey: Iterator[np.ndarray], bound_px: float) -> Iterator[np.ndarray]:
    for flow_px in solver.sequence(grey):
        yield encode_flow(flow_px, bound_px)


@functools.lru_cache(1)
def _solver(settings: str, device: str) -> Solver:
    """The solver of this process, kept from clip to clip with the memory it works in or the network it has loaded."""
    return make_solver(Flow.model_validate_json(settings), device)


@contextlib.contextmanager
def _prepared(settings: Rgb | Flow, device: str) -> Iterator[str]:
    """What must be there before the workers start: compiled kernels, or a server on the GPU, whose address is given."""
    if device == "cuda":
        with said_if_long(f"starting {settings.method} on the GPU"):
            solver = make_solver(settings, device)
        with FlowServer(solver, settings.bound) as server:
            yield server.address
        return
    if isinstance(settings, Flow) and settings.method == "tvl1":
        with said_if_long(f"compiling {settings.method} for this processor, which is kept for the next time"):
            # Large enough for several levels of a pyramid, and not alike: no branch is left for the workers to compile.
            images = np.random.default_rng(0).integers(0, 256, (2, 128, 128), np.uint8)
            make_solver(settings, device)(*images)
    yield ""


@contextlib.contextmanager
def said_if_long(text: str) -> Iterator[None]:
    """Say on the standard error what is being waited for once that has taken two seconds."""
    timer = threading.Timer(2, print, [f"{text} ..."], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def shrunk(images: Iterable[np.ndarray], short_side: int) -> Iterator[np.ndarray]:
    """The images at the size that a clip of them is stored at, see `stored_size`: uint8 [H, W] or [H, W, 3]."""
    size = None
    for image in images:
        if size is None:  # a stream may change its picture size on the way; the clip keeps its first
            size = stored_size(image.shape[1], image.shape[0], short_side)
        yield resize(image, size)


def spread(images: Iterable[np.ndarray], count: int, wanted: int) -> Iterator[np.ndarray]:
    """`wanted` of `count` images, evenly spread, the first and the last among them; repeated where there are fewer."""
    repeats = np.bincount(np.linspace(0, count - 1, wanted).round().astype(int), minlength=count)
    for image, times in zip(images, repeats):  # noqa: B905 - a decoder may give one frame more or less
        yield from itertools.repeat(image, int(times))


def _made_of(settings: Rgb | Flow, device: str) -> dict[str, Any]:
    """All that a clip's bytes follow from, but for its video.

    Of the settings, another method's parameters do not count, and of the device only where it is.
    """
    used = settings.model_dump(by_alias=True)
    # The bytes depend on the decoder and the codec too, so these are part of what a file was made of.
    libraries = {"opencv": cv2.__version__, "ffmpeg": av.__version__}
    if isinstance(settings, Flow):
        used = {key: value for key, value in used.items() if not isinstance(value, dict) or key == settings.method}
        used["device"] = device
        if settings.method == "raft" and os.path.isfile(settings.raft.weights):
            used["weights"] = sha256_of(settings.raft.weights)
        if device == "cuda" or settings.method == "raft":
            libraries["torch"] = version("torch")
    return {"settings": used, "code": code_digest(*code_files(settings)), "format": clipstore.FORMAT, **libraries}


def _modality(settings: Rgb | Flow) -> Modality:
    return "flow" if isinstance(settings, Flow) else "rgb"


def code_files(settings: Rgb | Flow) -> list[Path]:
    """Return the files of the library that shape a clip's bytes, for the key under which the cache keeps the clip."""
    package = Path(os.path.dirname(twostream.__file__))
    files = [package / "clipstore/__init__.py", package / "clipstore/extract.py", package / "video.py"]
    if isinstance(settings, Flow):
        files += [package / "flow" / name for name in ("__init__.py", "encoding.py", "gpu_server.py")]
        method = package / "flow" / settings.method
        files += sorted(method.glob("*.py")) if method.is_dir() else [method.with_suffix(".py")]
        files += [package / name for name in _ALSO_IMPORTED.get(settings.method, ())]
    return files
