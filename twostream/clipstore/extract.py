"""Extract RGB frames or optical flow of all clips: what the cache holds is served, the others go over processes.

What the frames of a clip are is in rgb.py and flow.py. Only they, and what they import, are in the key of a clip.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import av
import cv2
import numpy as np
import pandas as pd

from twostream import clipstore
from twostream.clipstore import ClipReader, write_clip
from twostream.clipstore.flow import flow_frames, grey_frames
from twostream.clipstore.rgb import rgb_frames
from twostream.core.cache import FileCache, code_digest, key_of, read_json
from twostream.core.device import gpu_identity
from twostream.core.digests import Digests
from twostream.core.files import atomic_path, sha256_of
from twostream.core.imports import import_closure
from twostream.core.parallel import cores, in_threads, unordered
from twostream.datasets.tables import span_of
from twostream.errors import UserError, reason
from twostream.flow import make_solver, method_files, resolve_device
from twostream.flow.gpu_server import FlowServer, solve_remotely
from twostream.params import Flow, Rgb
from twostream.video import Span, VideoError

if TYPE_CHECKING:
    from twostream.flow.batch import BatchSolver

_HERE = Path(__file__).parent
FINGERPRINT_FILE = "extraction.json"  # in the folder of the clips


class Clip(NamedTuple):
    """A clip to extract: its video, the file to write, and what `clips.csv` knows of it."""

    clip_id: str
    video: Path
    target: Path
    frames: int
    span: Span | None = None  # of the video; None for all of it
    sha256: str = ""  # of the video


class Result(NamedTuple):
    """What became of a clip: served from the cache, extracted now, still missing, or failed for a reason."""

    clip: Clip
    status: Literal["cached", "extracted", "missing", "failed"]
    reason: str = ""


@dataclass(frozen=True)
class Job:
    """What the clips of one extraction have in common.

    Attributes:
        fingerprint: everything beside the video that a clip's bytes depend on, as JSON values; see `rgb_fingerprint`.
    """

    modality: Literal["rgb", "flow"]
    settings: Rgb | Flow
    fingerprint: dict[str, Any]
    cache: FileCache

    def key(self, sha256: str, span: Sequence[float] | None) -> str:
        return key_of(source=sha256, **({"span": span} if span else {}), **self.fingerprint)


ExtractAll = Callable[[Job, list[Clip]], Iterable[Result]]


def extract_rgb(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Rgb, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write the RGB frames of every readable clip; see :func:`extract`."""

    def extract_all(job: Job, missing: list[Clip]) -> Iterable[Result]:
        return unordered(functools.partial(extract_rgb_clip, job), missing, workers=workers, what="rgb")

    return extract(clips, videos, out, rgb_job(settings, cache), workers, extract_all)


def rgb_job(settings: Rgb, cache: FileCache) -> Job:
    """Return what all clips of the extraction have in common."""
    return Job("rgb", settings, rgb_fingerprint(settings), cache)


def extract_rgb_clip(job: Job, clip: Clip) -> Result:
    """Write the RGB frames of a clip."""
    return _write(job, clip, lambda: rgb_frames(cast(Rgb, job.settings), clip.video, clip.span))


def extract_flow(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Flow, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write the optical flow of every readable clip; see :func:`extract`.

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
            solver = cast("BatchSolver", make_solver(settings, device))
        with FlowServer(solver, settings.bound) as server:
            work = functools.partial(extract_flow_clip_gpu, job, server.address)
            return list(run(work, missing, here=True))  # the server's address is one of this machine

    return extract(clips, videos, out, flow_job(settings, cache), workers, extract_all)


def flow_job(settings: Flow, cache: FileCache) -> Job:
    """Return what all clips of the extraction have in common; raise a UserError as `resolve_device` does."""
    return Job("flow", settings, flow_fingerprint(settings, resolve_device(settings)), cache)


def extract_flow_clip_cpu(job: Job, clip: Clip) -> Result:
    """Solve the flow of a clip in this process, and write it."""
    return _write(job, clip, lambda: flow_frames(cast(Flow, job.settings), clip.video, clip.frames, clip.span))


def extract_flow_clip_gpu(job: Job, address: str, clip: Clip) -> Result:
    """Have the `FlowServer` at `address` solve the flow of a clip, and write it."""

    def frames() -> Generator[np.ndarray]:
        return solve_remotely(address, grey_frames(cast(Flow, job.settings), clip.video, clip.frames, clip.span))

    return _write(job, clip, frames)


def extract(
    clips: pd.DataFrame, videos: Path, out: Path, job: Job, workers: int, extract_all: ExtractAll
) -> dict[str, int]:
    """Write `out/<clip id>.zip` for every clip with status ok, and the fingerprint of the extraction.

    Clips that the cache holds are served first, then those that a pulled version of `out` holds. Files in `out` that
    are already right stay as they are, and other files in it are removed.

    Args:
        clips: the table of `clips.csv`.
        videos: folder of the videos, `<class>/<file>`.
        out: folder of the clip files; each appears complete or not at all.
        workers: number of processes; 0: one per core.
        extract_all: extracts the remaining clips, which it gets with the longest first.

    Returns:
        Counts: `clips`, `extracted` (computed now) and `cached` (taken from the cache).

    Raises:
        UserError: a clip that could be read when it was listed cannot be read now.
    """
    digests = _digests(job)
    todo = _readable(clips, videos, out)
    if any(clip.span for clip in todo):
        todo = _with_digests(todo, workers, job, digests)
    results = _extract(todo, out, job, workers, extract_all, digests)

    failed = sorted((result for result in results if result.status == "failed"), key=lambda one: one.clip.clip_id)
    if failed:
        named = ", ".join(f"{one.clip.clip_id!r} ({one.reason})" for one in failed[:5])
        raise UserError(f"{len(failed)} clips cannot be read any more: {named}; run `dvc repro --force probe`")
    with atomic_path(out / FINGERPRINT_FILE) as file:
        file.write_text(json.dumps(job.fingerprint, indent=1, sort_keys=True) + "\n")
    _remove_others(out, {str(out / FINGERPRINT_FILE), *(str(clip.target) for clip in todo)})
    digests.save()
    extracted = sum(result.status == "extracted" for result in results)
    return {"clips": len(todo), "extracted": extracted, "cached": len(todo) - extracted}


def _remove_others(folder: Path, wanted: set[str]) -> None:
    """Delete every file in a folder that is not wanted, and the folders that are then empty."""
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            if (file := os.path.join(place, name)) not in wanted:
                os.unlink(file)
        for path in (Path(place, name) for name in folders):
            if path.is_symlink():
                path.unlink()
            else:
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()


def _digests(job: Job) -> Digests:
    return Digests(job.cache.root / "digests", job.modality)


def _extract(
    todo: list[Clip], out: Path, job: Job, workers: int, extract_all: ExtractAll, digests: Digests
) -> list[Result]:
    """Serve clips from the cache as far as it has them, and extract the others."""
    if not todo:
        return []
    threads = digests.threads(workers)
    look_up = functools.partial(in_threads, functools.partial(_look_up, job, digests), workers=threads)
    results = look_up(todo, what=f"{job.modality}: cached")
    if any(result.status == "missing" for result in results) and _adopt(job, out):
        missing = [result.clip for result in results if result.status == "missing"]
        results = [result for result in results if result.status != "missing"]
        results += look_up(missing, what=f"{job.modality}: pulled")
    missing = [result.clip for result in results if result.status == "missing"]
    missing.sort(key=lambda clip: (-clip.frames, clip.clip_id))  # or the longest clip would run alone at the end
    results = [result for result in results if result.status != "missing"]
    if missing:
        results += extract_all(job, missing)
    return results


def count_missing(clips: pd.DataFrame, videos: Path, out: Path, job: Job) -> tuple[int, int]:
    """Return how many clips `extract` would extract, and how many it would take from the cache."""
    todo = _with_digests(_readable(clips, videos, out), 0, job, _digests(job))
    missing = [key for clip in todo if not job.cache.has(key := job.key(clip.sha256, clip.span))]
    pulled = _pulled(job, out) if missing else {}
    count = sum(key not in pulled for key in missing)
    return count, len(todo) - count


def _readable(clips: pd.DataFrame, videos: Path, out: Path) -> list[Clip]:
    usable = clips[clips["status"] == "ok"]
    return [
        Clip(row.clip_id, videos / row.path, out / f"{row.clip_id}.zip", row.frames, span_of(row))
        for row in usable.itertuples()
    ]


def _with_digests(clips: list[Clip], workers: int, job: Job, digests: Digests) -> list[Clip]:
    """Return the clips with the digests of their videos, each of which is read once."""

    def digest(video: Path) -> str:
        with contextlib.suppress(OSError):  # `_look_up` tries again and says why
            return digests.sha256(video)
        return ""

    videos = list(dict.fromkeys(clip.video for clip in clips))
    found = in_threads(digest, videos, workers=digests.threads(workers), what=f"{job.modality}: videos")
    of_video = dict(zip(videos, found, strict=True))
    return [clip._replace(sha256=of_video[clip.video]) for clip in clips]


def _look_up(job: Job, digests: Digests, clip: Clip) -> Result:
    """Serve a clip from the cache if its video and all that shapes its bytes are unchanged."""
    try:
        clip = clip._replace(sha256=clip.sha256 or digests.sha256(clip.video))
    except OSError as error:
        return Result(clip, "failed", reason(error))
    if not job.cache.serve(job.key(clip.sha256, clip.span), clip.target, digests.md5):
        return Result(clip, "missing")
    return Result(clip, "cached")


def _adopt(job: Job, out: Path) -> bool:
    """Record in the cache the clips that DVC pulled from another machine, and return whether there are any."""
    pulled = _pulled(job, out)
    for key, stored in pulled.items():
        job.cache.record(key, stored)
    return bool(pulled)


def _pulled(job: Job, out: Path) -> dict[str, Path]:
    """Return the clips that DVC pulled from another machine, by their keys in the cache.

    `dvc pull` brings the clips and the fingerprint of their extraction, but not the cache of the machine that made
    them.
    """
    recorded = job.cache.recorded(out)
    if read_json(recorded.get(FINGERPRINT_FILE)) != job.fingerprint:
        return {}
    pulled = {}
    for stored in recorded.values():
        with contextlib.suppress(UserError), ClipReader(stored) as clip:  # skips the fingerprint and damaged files
            clip.check()  # what was damaged before DVC took it has the digest that DVC expects
            pulled[job.key(clip.meta["source"].removeprefix("sha256:"), clip.meta.get("span"))] = stored
    return pulled


def _write(job: Job, clip: Clip, frames: Callable[[], Generator[np.ndarray]]) -> Result:
    """Write the frames of a clip, through the cache; `frames` is not called where another process was faster."""
    cv2.setNumThreads(1)  # clips run in parallel, one per process

    def build(path: Path) -> None:
        source, settings = f"sha256:{clip.sha256}", job.fingerprint["settings"]
        meta = {"modality": job.modality, "source": source, "settings": settings}
        meta |= {"span": clip.span} if clip.span else {}
        with contextlib.closing(frames()) as images:
            write_clip(path, images, job.settings.jpeg_quality, meta)

    try:
        extracted = job.cache.make(job.key(clip.sha256, clip.span), clip.target, build)
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


def rgb_fingerprint(settings: Rgb) -> dict[str, Any]:
    """Return everything beside the video that the bytes of a clip of RGB frames depend on."""
    return _fingerprint(settings.model_dump(), [_HERE / "rgb.py"])


def flow_fingerprint(settings: Flow, device: str) -> dict[str, Any]:
    """Return everything beside the video that the bytes of a clip of flow depend on.

    The sections of other flow methods do not count, and `device` is where flow is solved, not what was asked for.
    """
    used = settings.model_dump(by_alias=True)
    used = {key: value for key, value in used.items() if not isinstance(value, dict) or key == settings.method}
    used["device"] = device
    if settings.method == "raft" and os.path.isfile(settings.raft.weights):
        used["weights"] = sha256_of(settings.raft.weights)
    libraries = {"torch": version("torch")} if device == "cuda" or settings.method == "raft" else {}
    if device == "cuda":
        libraries |= gpu_identity()
    return _fingerprint(used, [_HERE / "flow.py", *method_files(settings.method, device)], **libraries)


def _fingerprint(settings: dict[str, Any], files: Iterable[Path], **libraries: str) -> dict[str, Any]:
    """Return the settings and versions that count, and a digest of the modules that extract and what they import."""
    libraries = {"opencv": cv2.__version__, "ffmpeg": av.__version__, **libraries}  # the decoder and the codec
    code = code_digest(*import_closure(files))
    return {"settings": settings, "code": code, "format": clipstore.FORMAT, **libraries}
