"""The optical flow of a clip: decode, resize, choose the frames, solve and encode."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Generator, Iterable
from pathlib import Path

import numpy as np

from twostream.clipstore.frames import shrunk
from twostream.flow import Solver, make_solver
from twostream.flow.encoding import encode_flow
from twostream.params import Flow
from twostream.video import Span, read_frames


def flow_frames(settings: Flow, video: Path, frames: int, span: Span | None = None) -> Generator[np.ndarray]:
    """Yield the flow codes of a clip of `frames` frames, solved in this process on the CPU: uint8 [H, W, 2]."""
    solver = _solver(settings.model_dump_json(by_alias=True))
    images = grey_frames(settings, video, frames, span)
    return (encode_flow(flow_px, settings.bound) for flow_px in solver.sequence(images))


def grey_frames(settings: Flow, video: Path, frames: int, span: Span | None = None) -> Generator[np.ndarray]:
    """Yield the frames between which the flow of a video, or a span of it, is computed, uint8 [H, W]."""
    images = shrunk(read_frames(video, "gray", span), settings.short_side)
    return spread(images, frames, settings.frames) if settings.frames else images


@functools.lru_cache(1)
def _solver(settings_json: str) -> Solver:
    """Return this process's solver, kept from clip to clip with its working memory or its network."""
    return make_solver(Flow.model_validate_json(settings_json), "cpu")


def spread(images: Iterable[np.ndarray], count: int, wanted: int) -> Generator[np.ndarray]:
    """Yield `wanted` of `count` images, evenly spread with the first and the last; a short clip repeats some."""
    repeats = np.bincount(np.linspace(0, count - 1, wanted).round().astype(int), minlength=count)
    for image, times in zip(images, repeats):  # noqa: B905 - a decoder may give one frame more or less
        yield from itertools.repeat(image, int(times))
