"""RGB difference: each frame subtracted from the next, the cheapest view of motion (Wang et al. 2016, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from twostream.clipstore import ClipReader
from twostream.views.transforms import Clip

ZERO = 128  # the code of no change


class DifferenceClip:
    """A clip of T frames as its T - 1 differences: uint8 [H, W, 3], frame i + 1 minus frame i plus 128, clipped."""

    def __init__(self, clip: Clip):
        self._clip = clip
        self.meta: dict[str, Any] = clip.meta

    def __len__(self) -> int:
        return max(1, len(self._clip) - 1)

    def frame(self, index: int) -> np.ndarray:
        after = min(index + 1, len(self._clip) - 1)  # the only difference of a single frame is zero
        now, following = (self._clip.frame(i).astype(np.int16) for i in (index, after))
        return np.clip(following - now + ZERO, 0, 255).astype(np.uint8)

    def __enter__(self) -> DifferenceClip:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._clip, ClipReader):
            self._clip.__exit__()


def opener(input: str, open_clip: Callable[[Path], Any] = ClipReader) -> Callable[[Path], Any]:
    """Return a function that opens clip files for a stream's `input`: `frames` or `difference`."""
    return open_clip if input == "frames" else lambda path: DifferenceClip(open_clip(path))
