"""Choose the frames of a clip that a network sees: index arithmetic.

A clip is cut into equal segments, and each gives one snippet of frames. A clip shorter than a snippet is looped, as in
I3D (Carreira & Zisserman 2017): the network then sees motion at its own pace up to the end, where a repeated last frame
would show it a standstill that no clip has.
"""

from __future__ import annotations

import numpy as np

from twostream.params import Sampling


def training_frames(count: int, sampling: Sampling, rng: np.random.Generator) -> np.ndarray:
    """Return the frame numbers of one training view, int64 [S, L]: S segments of L frames.

    Mode segments: a snippet starts at random in each segment (temporal segment networks, Wang et al. 2016). Mode
    uniform: the same evenly spread frames every time.

    Args:
        count: frames in the clip.
    """
    if sampling.mode == "uniform":
        return _evenly(count, sampling)
    length = _starts(count, sampling) / sampling.segments
    starts = np.arange(sampling.segments) * length + rng.random(sampling.segments) * length
    return _snippets(starts, count, sampling)


def validation_frames(count: int, sampling: Sampling) -> np.ndarray:
    """Return the frame numbers of the middle view: as `training_frames`, from the middle of each segment."""
    return scoring_frames(count, sampling, sampling.segments)


def scoring_frames(count: int, sampling: Sampling, segments: int) -> np.ndarray:
    """Return the frame numbers of the temporal views that score a clip.

    Returns:
        int64 [V, L]: `segments` snippets spread evenly over the clip, each a view of its own; for uniform sampling
        those of the parameters, whatever `segments`.
    """
    if sampling.mode == "uniform":
        return _evenly(count, sampling)
    middles = (np.arange(segments) + 0.5) * (_starts(count, sampling) / segments)
    return _snippets(middles, count, sampling)


def _starts(count: int, sampling: Sampling) -> int:
    """Return how many starts a snippet can have without running over the end; 1 if the clip is shorter."""
    return max(1, count - (sampling.frames - 1) * sampling.stride)


def _snippets(starts: np.ndarray, count: int, sampling: Sampling) -> np.ndarray:
    first = np.floor(starts).astype(np.int64)
    return (first[:, None] + np.arange(sampling.frames) * sampling.stride) % count


def _evenly(count: int, sampling: Sampling) -> np.ndarray:
    total = sampling.segments * sampling.frames
    return np.linspace(0, count - 1, total).round().astype(np.int64).reshape(sampling.segments, sampling.frames)
