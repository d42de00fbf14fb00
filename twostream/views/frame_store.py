"""Keep the decoded frames of a small data set in memory that a loader's worker processes share."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twostream.clipstore import ClipReader
from twostream.networks.names import CHANNELS


def frame_store(paths: Sequence[Path], budget: int) -> Callable[[Path], ClipReader]:
    """Return a function that opens these clips like `ClipReader`, and decodes each frame the first time only.

    Pixels are the same as from `ClipReader`. Without room for all frames of all clips it is `ClipReader` itself: a part
    of the frames would only make a part of each epoch faster. Call it before the workers are forked.

    Args:
        budget: bytes that the frames may take.
    """
    shapes = {path: _shape(path) for path in paths}
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    if size > budget:
        return ClipReader
    # Anonymous and shared: forked workers see one another's writes, and /dev/shm, which is small in containers, is not
    # used. The system provides a page when it is first written, so frames that are never sampled take no memory.
    memory = np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)
    flags = np.frombuffer(mmap.mmap(-1, max(1, sum(shape[0] for shape in shapes.values()))), np.uint8)
    clips, start, first = {}, 0, 0
    for path, shape in shapes.items():
        end = start + int(np.prod(shape))
        clips[path] = (memory[start:end].reshape(shape), flags[first : first + shape[0]])
        start, first = end, first + shape[0]
    return lambda path: _StoredClip(path, *clips[path])


class _StoredClip(ClipReader):
    """A clip whose decoded frames are in `frames`, uint8 [T, H, W, C], where `decoded`, uint8 [T], is 1."""

    def __init__(self, path: Path, frames: np.ndarray, decoded: np.ndarray):
        super().__init__(path)
        self._frames, self._decoded = frames, decoded

    def frame(self, index: int) -> np.ndarray:
        # The flag is written after the pixels, for another process may look at the same time. Two that both find no
        # flag write the same pixels.
        if not self._decoded[index]:
            self._frames[index] = super().frame(index)
            self._decoded[index] = 1
        return self._frames[index]


def _shape(path: Path) -> tuple[int, int, int, int]:
    with ClipReader(path) as clip:
        return len(clip), clip.meta["height"], clip.meta["width"], CHANNELS[clip.meta["modality"]]
