"""Extract clips: serve from the cache what it holds, and spread the others over processes, whatever the modality."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import cv2
import numpy as np
import pandas as pd

from twostream import clipstore
from twostream.clipstore import ClipReader, stored_size, write_clip
from twostream.core.cache import FileCache, code_digest, key_of
from twostream.core.files import atomic_path, sha256_of
from twostream.core.imports import import_closure
from twostream.core.parallel import unordered
from twostream.errors import UserError, reason
from twostream.params import Flow, Rgb
from twostream.video import VideoError, resize

FINGERPRINT_FILE = "extraction.json"  # in the folder of the clips


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
    """What the clips of one extraction have in common.

    Attributes:
        fingerprint: everything beside the video that a clip's bytes depend on, as JSON values; see `fingerprint_of`.
    """

    modality: Literal["rgb", "flow"]
    settings: Rgb | Flow
    fingerprint: dict[str, Any]
    cache: FileCache

    def key(self, sha256: str) -> str:
        return key_of(source=sha256, **self.fingerprint)


ExtractAll = Callable[[Job, list[Clip]], Iterable[Result]]


def extract(
    clips: pd.DataFrame, videos: Path, out: Path, job: Job, workers: int, extract_all: ExtractAll
) -> dict[str, int]:
    """Write `out/<clip id>.zip` for every clip with status ok, and the fingerprint of the extraction.

    Clips that the cache holds are served first, then those that a pulled version of `out` holds.

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
    usable = clips[clips["status"] == "ok"]
    todo = [Clip(row.clip_id, videos / row.path, out / f"{row.clip_id}.zip", row.frames) for row in usable.itertuples()]
    look_up = functools.partial(unordered, functools.partial(_look_up, job), workers=workers)
    results = list(look_up(todo, what=f"{job.modality}: cached"))
    if any(result.status == "missing" for result in results) and _adopt(job, out):
        missing = [result.clip for result in results if result.status == "missing"]
        results = [result for result in results if result.status != "missing"]
        results += look_up(missing, what=f"{job.modality}: pulled")
    missing = [result.clip for result in results if result.status == "missing"]
    missing.sort(key=lambda clip: (-clip.frames, clip.clip_id))  # or the longest clip would run alone at the end
    results = [result for result in results if result.status != "missing"]
    if missing:
        results += extract_all(job, missing)

    failed = sorted((result for result in results if result.status == "failed"), key=lambda one: one.clip.clip_id)
    if failed:
        named = ", ".join(f"{one.clip.clip_id!r} ({one.reason})" for one in failed[:5])
        raise UserError(f"{len(failed)} clips cannot be read any more: {named}; run `dvc repro --force probe`")
    with atomic_path(out / FINGERPRINT_FILE) as file:
        file.write_text(json.dumps(job.fingerprint, indent=1, sort_keys=True) + "\n")
    extracted = sum(result.status == "extracted" for result in results)
    return {"clips": len(todo), "extracted": extracted, "cached": len(todo) - extracted}


def _look_up(job: Job, clip: Clip) -> Result:
    """Serve a clip from the cache if its video and all that shapes its bytes are unchanged."""
    try:
        clip = clip._replace(sha256=clip.sha256 or sha256_of(clip.video))
    except OSError as error:
        return Result(clip, "failed", reason(error))
    return Result(clip, "cached" if job.cache.serve(job.key(clip.sha256), clip.target) else "missing")


def _adopt(job: Job, out: Path) -> bool:
    """Record in the cache the clips that DVC pulled from another machine, and return whether there are any.

    `dvc pull` brings the clips and the fingerprint of their extraction, but not the cache of the machine that made
    them.
    """
    recorded = job.cache.recorded(out)
    fingerprint = recorded.pop(FINGERPRINT_FILE, None)
    if fingerprint is None or json.loads(fingerprint.read_bytes()) != job.fingerprint:
        return False
    for stored in recorded.values():
        with contextlib.suppress(UserError), ClipReader(stored) as clip:
            job.cache.record(job.key(clip.meta["source"].removeprefix("sha256:")), stored)
    return bool(recorded)


def write(job: Job, clip: Clip, frames: Generator[np.ndarray]) -> Result:
    """Write the frames of a clip, through the cache; `frames` is not started where another process was faster."""
    cv2.setNumThreads(1)  # clips run in parallel, one per process

    def build(path: Path) -> None:
        source, settings = f"sha256:{clip.sha256}", job.fingerprint["settings"]
        meta = {"modality": job.modality, "source": source, "settings": settings}
        with contextlib.closing(frames):
            write_clip(path, frames, job.settings.jpeg_quality, meta)

    try:
        extracted = job.cache.make(job.key(clip.sha256), clip.target, build)
    except VideoError as error:
        return Result(clip, "failed", str(error))
    return Result(clip, "extracted" if extracted else "cached")


def shrunk(images: Iterable[np.ndarray], short_side: int) -> Generator[np.ndarray]:
    """Yield the images at the size at which a clip of them is stored, see `stored_size`: uint8 [H, W] or [H, W, 3]."""
    size = None
    for image in images:
        if size is None:  # a video may change its frame size midway; the clip keeps the first
            size = stored_size(image.shape[1], image.shape[0], short_side)
        yield resize(image, size)


def fingerprint_of(settings: dict[str, Any], files: Iterable[Path], **libraries: str) -> dict[str, Any]:
    """Return everything beside the video that a clip's bytes depend on.

    Args:
        settings: the parameters that count.
        files: the modules that extract; what they import counts too.
        libraries: further libraries and their versions.
    """
    libraries = {"opencv": cv2.__version__, "ffmpeg": av.__version__, **libraries}  # the decoder and the codec
    code = code_digest(*import_closure(files))
    return {"settings": settings, "code": code, "format": clipstore.FORMAT, **libraries}
