"""The RGB frames of a clip: decode and resize."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np

from twostream.clipstore.frames import shrunk
from twostream.params import Rgb
from twostream.video import Span, read_frames


def rgb_frames(settings: Rgb, video: Path, span: Span | None = None) -> Generator[np.ndarray]:
    """Yield the frames of a video, or a span of it, at the size at which they are stored, uint8 [H, W, 3]."""
    return shrunk(read_frames(video, span=span), settings.short_side)
