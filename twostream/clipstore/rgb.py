"""The RGB frames of a clip: decode and resize."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np

from twostream.clipstore.frames import shrunk
from twostream.params import Rgb
from twostream.video import read_frames


def rgb_frames(settings: Rgb, video: Path) -> Generator[np.ndarray]:
    """Yield the frames of a video at the size at which they are stored, uint8 [H, W, 3]."""
    return shrunk(read_frames(video), settings.short_side)
