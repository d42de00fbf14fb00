"""Which frames of a clip a model sees: pure index arithmetic.

A clip that is shorter than a piece is looped, as I3D does (Carreira & Zisserman 2017): the network then sees motion at
its own pace up to the end, where a repeated last frame would show it a standstill that no clip has.
"""

from __future__ import annotations

import numpy as np

from twostream.params import Sampling


def training_frames(count: int, sampling: Sampling, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers of one training view.

    Segments: the clip is cut into equal segments and each gives one piece that starts at random in it (temporal segment
    networks, Wang et al. 2016). Uniform: the same evenly spread frames every time.

    Args:
        count: frames in the clip.

    Returns:
        int64 [S, L]: S segments of L frames.
    """
    if sampling.mode == "uniform":
        return _evenly(count, sampling)
    room = _room(count, sampling)
    edges = np.arange(sampling.segments) * (room / sampling.segments)
    starts = np.floor(edges + rng.random(sampling.segments) * (room / sampling.segments)).astype(np.int64)
    return _pieces(starts, count, sampling)


def validation_frames(count: int, sampling: Sampling) -> np.ndarray:
    """As :func:`training_frames`, with the middle of each segment instead of a random place."""
    if sampling.mode == "uniform":
        return _evenly(count, sampling)
    return _pieces(_middles(count, sampling, sampling.segments), count, sampling)


def scoring_frames(count: int, sampling: Sampling, segments: int) -> np.ndarray:
    """Frame numbers of the temporal views that score a clip.

    Returns:
        int64 [V, L]: `segments` pieces spread evenly over the clip, each a view of its own; for uniform sampling
        the pieces there are, whatever `segments`.
    """
    if sampling.mode == "uniform":
        return _evenly(count, sampling)
    return _pieces(_middles(count, sampling, segments), count, sampling)


def _room(count: int, sampling: Sampling) -> int:
    """How many starts a piece can have without running over the end; one where the clip is shorter than a piece."""
    return max(1, count - (sampling.frames - 1) * sampling.stride)


def _middles(count: int, sampling: Sampling, segments: int) -> np.ndarray:
    return np.floor((np.arange(segments) + 0.5) * (_room(count, sampling) / segments)).astype(np.int64)


def _pieces(starts: np.ndarray, count: int, sampling: Sampling) -> np.ndarray:
    return (starts[:, None] + np.arange(sampling.frames) * sampling.stride) % count


def _evenly(count: int, sampling: Sampling) -> np.ndarray:
    wanted = sampling.segments * sampling.frames
    return np.linspace(0, count - 1, wanted).round().astype(np.int64).reshape(sampling.segments, sampling.frames)
