"""Extract RGB frames or optical flow: decode every readable clip, resize, solve, encode and write one packed file."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

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
from twostream.errors import UserError, reason
from twostream.flow import Solver, make_solver, resolve_device
from twostream.flow.encoding import encode_flow
from twostream.flow.gpu_server import BatchSolver, FlowServer, solve_remotely
from twostream.params import Flow, Rgb
from twostream.video import VideoError, read_frames, resize

# Files that a flow method imports from outside its own module or package, see `code_files`.
_ALSO_IMPORTED = {"raft": ["networks/weights.py"]}


class Clip(NamedTuple):
    """A clip to extract: its video, the file to write, and what `clips.csv` knows of it."""

    clip_id: str
    video: Path
    target: Path
    frames: int
    sha256: str = ""  # of the video


class Result(NamedTuple):
    """What became of a clip: served from the cache, extracted now, still missing, or failed for a reason."""

    clip: Clip
    status: Literal["cached", "extracted", "missing", "failed"]
    reason: str = ""


@dataclass(frozen=True)
class Job:
    """What the clips of one extraction have in common."""

    settings: Rgb | Flow
    fingerprint: dict[str, Any]  # of `fingerprint_of`
    cache: FileCache

    @property
    def modality(self) -> Literal["rgb", "flow"]:
        return "flow" if isinstance(self.settings, Flow) else "rgb"

    def key(self, clip: Clip) -> str:
        return key_of(source=clip.sha256, **self.fingerprint)


def extract(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Rgb | Flow, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write `out/<clip id>.zip` for every clip with status ok; the modality follows from the type of `settings`.

    Clips that the cache holds are served first. The others are extracted in parallel, the longest first, one clip per
    process and one thread per process. On a GPU, this process solves the flow of all of them.

    Args:
        clips: the table of `clips.csv`.
        videos: folder of the videos, `<class>/<file>`.
        out: folder of the clip files; each appears complete or not at all.
        settings: the parameter section of the modality.
        cache: where clips that were extracted before are taken from.
        workers: number of processes; 0: one per core, or two per core where a GPU solves.

    Returns:
        Counts: `clips`, `extracted` (computed now) and `cached` (taken from the cache).

    Raises:
        UserError: a clip that could be read when it was listed cannot be read now, or `flow.device` asks for a GPU
            that is missing or fails.
    """
    usable = clips[clips["status"] == "ok"]
    todo = [Clip(row.clip_id, videos / row.path, out / f"{row.clip_id}.zip", row.frames) for row in usable.itertuples()]
    device = resolve_device(settings) if isinstance(settings, Flow) else "cpu"
    job = Job(settings, fingerprint_of(settings, device), cache)
    workers = workers or cores() * (2 if device == "cuda" else 1)  # two: one decodes or encodes while another waits

    looked_up = list(unordered(functools.partial(_look_up, job), todo, workers=workers, what=f"{job.modality}: cached"))
    missing = [result.clip for result in looked_up if result.status == "missing"]
    missing.sort(key=lambda clip: (-clip.frames, clip.clip_id))  # or the longest clip would run alone at the end
    results = [result for result in looked_up if result.status != "missing"]
    if missing:
        results += _extract_all(job, missing, device, workers)

    failed = sorted((result for result in results if result.status == "failed"), key=lambda one: one.clip.clip_id)
    if failed:
        named = ", ".join(f"{one.clip.clip_id!r} ({one.reason})" for one in failed[:5])
        raise UserError(f"{len(failed)} clips cannot be read any more: {named}; run `dvc repro --force probe`")
    extracted = sum(result.status == "extracted" for result in results)
    return {"clips": len(todo), "extracted": extracted, "cached": len(todo) - extracted}


def _look_up(job: Job, clip: Clip) -> Result:
    """Serve a clip from the cache if its video and all that shapes its bytes are unchanged."""
    try:
        clip = clip._replace(sha256=sha256_of(clip.video))
    except OSError as error:
        return Result(clip, "failed", reason(error))
    return Result(clip, "cached" if job.cache.serve(job.key(clip), clip.target) else "missing")


def _extract_all(job: Job, clips: Sequence[Clip], device: str, workers: int) -> list[Result]:
    run = functools.partial(unordered, items=clips, workers=workers, what=job.modality)
    settings = job.settings
    if isinstance(settings, Rgb):
        return list(run(functools.partial(extract_rgb_clip, job)))
    if device == "cpu":
        _compile_kernels(settings)
        return list(run(functools.partial(extract_flow_clip_cpu, job)))
    with message_if_slow(f"starting {settings.method} on the GPU"):
        solver = cast(BatchSolver, make_solver(settings, device))
    with FlowServer(solver, settings.bound) as server:
        return list(run(functools.partial(extract_flow_clip_gpu, job, server.address)))


def extract_rgb_clip(job: Job, clip: Clip) -> Result:
    """Write the frames of a clip at their stored size."""
    return _write(job, clip, shrunk(read_frames(clip.video), job.settings.short_side))


def extract_flow_clip_cpu(job: Job, clip: Clip) -> Result:
    """Solve the flow of a clip in this process, and write it."""
    settings = cast(Flow, job.settings)
    flows_px = _solver(settings.model_dump_json(by_alias=True)).sequence(_grey_frames(settings, clip))
    return _write(job, clip, (encode_flow(flow_px, settings.bound) for flow_px in flows_px))


def extract_flow_clip_gpu(job: Job, address: str, clip: Clip) -> Result:
    """Have the `FlowServer` at `address` solve the flow of a clip, and write it."""
    return _write(job, clip, solve_remotely(address, _grey_frames(cast(Flow, job.settings), clip)))


def _grey_frames(settings: Flow, clip: Clip) -> Iterator[np.ndarray]:
    """Yield the frames between which flow is computed, uint8 [H, W]."""
    frames = shrunk(read_frames(clip.video, "gray"), settings.short_side)
    return spread(frames, clip.frames, settings.frames) if settings.frames else frames


@functools.lru_cache(1)
def _solver(settings_json: str) -> Solver:
    """Return this process's solver, kept from clip to clip with its working memory or its network."""
    return make_solver(Flow.model_validate_json(settings_json), "cpu")


def _write(job: Job, clip: Clip, frames: Generator[np.ndarray]) -> Result:
    cv2.setNumThreads(1)  # clips run in parallel, one per process

    def build(path: Path) -> None:
        source, settings = f"sha256:{clip.sha256}", job.fingerprint["settings"]
        meta = {"modality": job.modality, "source": source, "settings": settings}
        with contextlib.closing(frames):
            write_clip(path, frames, job.settings.jpeg_quality, meta)

    try:
        extracted = job.cache.make(job.key(clip), clip.target, build)
    except VideoError as error:
        return Result(clip, "failed", str(error))
    return Result(clip, "extracted" if extracted else "cached")


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


def shrunk(images: Iterable[np.ndarray], short_side: int) -> Generator[np.ndarray]:
    """Yield the images at the size at which a clip of them is stored, see `stored_size`: uint8 [H, W] or [H, W, 3]."""
    size = None
    for image in images:
        if size is None:  # a video may change its frame size midway; the clip keeps the first
            size = stored_size(image.shape[1], image.shape[0], short_side)
        yield resize(image, size)


def spread(images: Iterable[np.ndarray], count: int, wanted: int) -> Generator[np.ndarray]:
    """Yield `wanted` of `count` images, evenly spread with the first and the last; a short clip repeats some."""
    repeats = np.bincount(np.linspace(0, count - 1, wanted).round().astype(int), minlength=count)
    for image, times in zip(images, repeats):  # noqa: B905 - a decoder may give one frame more or less
        yield from itertools.repeat(image, int(times))


def fingerprint_of(settings: Rgb | Flow, device: str) -> dict[str, Any]:
    """Return everything beside the video that a clip's bytes depend on.

    The sections of other flow methods do not count, and `device` is where flow is solved, not what was asked for.
    """
    used = settings.model_dump(by_alias=True)
    libraries = {"opencv": cv2.__version__, "ffmpeg": av.__version__}  # the decoder and the codec
    if isinstance(settings, Flow):
        used = {key: value for key, value in used.items() if not isinstance(value, dict) or key == settings.method}
        used["device"] = device
        if settings.method == "raft" and os.path.isfile(settings.raft.weights):
            used["weights"] = sha256_of(settings.raft.weights)
        if device == "cuda" or settings.method == "raft":
            libraries["torch"] = version("torch")
    return {"settings": used, "code": code_digest(*code_files(settings)), "format": clipstore.FORMAT, **libraries}


def code_files(settings: Rgb | Flow) -> list[Path]:
    """Return the files of the library that shape a clip's bytes; their digest is part of the clip's key."""
    package = Path(os.path.dirname(twostream.__file__))
    files = [package / "clipstore/__init__.py", package / "clipstore/extract.py", package / "video.py"]
    if isinstance(settings, Flow):
        files += [package / "flow" / name for name in ("__init__.py", "encoding.py", "gpu_server.py")]
        method = package / "flow" / settings.method
        files += sorted(method.glob("*.py")) if method.is_dir() else [method.with_suffix(".py")]
        files += [package / name for name in _ALSO_IMPORTED.get(settings.method, ())]
    return files
