"""Frames at the size at which they are stored."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np

from twostream.video import resize


def shrunk(images: Iterable[np.ndarray], short_side: int) -> Generator[np.ndarray]:
    """Yield the images at the size at which a clip of them is stored, see `stored_size`: uint8 [H, W] or [H, W, 3]."""
    size = None
    for image in images:
        if size is None:  # a video may change its frame size midway; the clip keeps the first
            size = stored_size(image.shape[1], image.shape[0], short_side)
        yield resize(image, size)


def stored_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return the (width, height) at which a clip is stored: `short_side` at most, aspect kept, never enlarged.

    Both are multiples of 8, the side of a JPEG block: x and y of flow, which lie side by side, then share no block.
    """
    scale = min(1.0, short_side / min(width, height))
    return max(8, round(width * scale / 8) * 8), max(8, round(height * scale / 8) * 8)
