"""Extraction: every readable clip becomes one packed file of RGB frames or of optical flow."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pandas as pd

import twostream
from twostream import clipstore
from twostream.cache import FileCache, code_digest, digest_of, key_of
from twostream.clipstore import stored_size, write_clip
from twostream.errors import UserError
from twostream.flow import make_solver
from twostream.flow.encoding import encode_flow
from twostream.parallel import unordered
from twostream.params import Flow, Rgb
from twostream.video import VideoError, read_frames

Modality = Literal["rgb", "flow"]


def extract(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Rgb | Flow, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write `out/<clip id>.zip` for every clip with status ok; the modality follows from the type of `settings`.

    Args:
        clips: the table of `clips.csv`.
        videos: folder of the videos, `<class>/<file>`.
        out: folder of the clip files; each appears whole or not at all.
        settings: the parameter section of the modality.
        cache: where clips that were extracted before are taken from.
        workers: processes; 0 means one a core.

    Returns:
        Counts: `clips`, `extracted` (computed now) and `cached` (taken from the cache).

    Raises:
        UserError: a clip that could be read when it was listed cannot be read now.
    """
    usable = clips[clips["status"] == "ok"].sort_values("frames", ascending=False, kind="stable")
    jobs = [(row.clip_id, videos / row.path, out / f"{row.clip_id}.zip", row.frames) for row in usable.itertuples()]
    code = code_digest(*_code_files(settings))
    work = functools.partial(_extract_one, settings=settings, cache=cache, code=code)
    counts = {"clips": len(jobs), "extracted": 0, "cached": 0}
    failed = []
    for clip_id, built, error in unordered(work, jobs, workers=workers, what=_modality(settings)):
        if error:
            failed.append(f"{clip_id!r} ({error})")
        else:
            counts["extracted" if built else "cached"] += 1
    if failed:
        raise UserError(
            f"{len(failed)} clips cannot be read any more: {', '.join(failed[:5])}; run `dvc repro --force split`"
        )
    return counts


def _extract_one(
    job: tuple[str, Path, Path, int], settings: Rgb | Flow, cache: FileCache, code: str
) -> tuple[str, bool, str]:
    clip_id, video, target, frames = job
    cv2.setNumThreads(1)  # clips run in parallel, one a process
    source = digest_of(video)
    used = _used_settings(settings)
    # The file's bytes depend on the decoder and the codec too, so these are part of what it was made of.
    key = key_of(
        source=source, settings=used, code=code, format=clipstore.FORMAT, opencv=cv2.__version__, ffmpeg=av.__version__
    )

    def build(path: Path) -> None:
        meta = {"modality": _modality(settings), "source": f"sha256:{source}", "settings": used}
        write_clip(path, _images(video, settings, frames), settings.jpeg_quality, meta)

    try:
        return clip_id, cache.make(key, target, build), ""
    except VideoError as error:
        return clip_id, False, str(error)


def _images(video: Path, settings: Rgb | Flow, frames: int) -> Iterator[np.ndarray]:
    if isinstance(settings, Rgb):
        return _shrunk(read_frames(video), settings.short_side)
    grey = _shrunk(read_frames(video, "gray"), settings.short_side)
    if settings.frames:
        grey = _spread(grey, frames, settings.frames)
    return _flow_codes(grey, settings)


def _flow_codes(grey: Iterator[np.ndarray], settings: Flow) -> Iterator[np.ndarray]:
    solve = make_solver(settings)
    for first, second in itertools.pairwise(grey):
        yield encode_flow(solve(first, second), settings.bound)


def _shrunk(images: Iterator[np.ndarray], short_side: int) -> Iterator[np.ndarray]:
    size = None
    for image in images:
        if size is None:  # a stream may change its picture size on the way; the clip keeps its first
            size = stored_size(image.shape[1], image.shape[0], short_side)
        if image.shape[1::-1] != size:
            shrinks = size[0] < image.shape[1]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        yield image


def _spread(images: Iterator[np.ndarray], count: int, wanted: int) -> Iterator[np.ndarray]:
    """`wanted` of `count` images, evenly spread, the first and the last among them; repeated where there are fewer."""
    repeats = np.bincount(np.linspace(0, count - 1, wanted).round().astype(int), minlength=count)
    for image, times in zip(images, repeats):  # noqa: B905 - a decoder may give one frame more or less
        yield from itertools.repeat(image, int(times))


def _used_settings(settings: Rgb | Flow) -> dict[str, Any]:
    """The settings that shape the output: another method's parameters do not."""
    used = settings.model_dump(by_alias=True)
    if isinstance(settings, Flow):
        used = {key: value for key, value in used.items() if not isinstance(value, dict) or key == settings.method}
    return used


def _modality(settings: Rgb | Flow) -> Modality:
    return "flow" if isinstance(settings, Flow) else "rgb"


def _code_files(settings: Rgb | Flow) -> list[Path]:
    package = Path(os.path.dirname(twostream.__file__))
    files = ["extraction.py", "video.py", "clipstore.py"]
    if isinstance(settings, Flow):
        files += ["flow/__init__.py", "flow/encoding.py", f"flow/{settings.method}.py"]
    return [package / file for file in files]
