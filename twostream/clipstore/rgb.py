"""Extract RGB frames: decode, resize, encode and write one packed file per clip."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from twostream.clipstore.extract import Clip, Job, Result, extract, fingerprint_of, shrunk, write
from twostream.core.cache import FileCache
from twostream.core.parallel import unordered
from twostream.params import Rgb
from twostream.video import read_frames


def extract_rgb(
    clips: pd.DataFrame, videos: Path, out: Path, settings: Rgb, cache: FileCache, workers: int
) -> dict[str, int]:
    """Write the RGB frames of every readable clip; see :func:`twostream.clipstore.extract.extract`."""

    def extract_all(job: Job, missing: list[Clip]) -> Iterable[Result]:
        return unordered(functools.partial(extract_rgb_clip, job), missing, workers=workers, what="rgb")

    fingerprint = fingerprint_of(settings.model_dump(), [Path(__file__)])
    return extract(clips, videos, out, Job("rgb", settings, fingerprint, cache), workers, extract_all)


def extract_rgb_clip(job: Job, clip: Clip) -> Result:
    """Write the frames of a clip at their stored size."""
    return write(job, clip, shrunk(read_frames(clip.video), job.settings.short_side))
