"""OpenCV's dense inverse search (Kroeger, Timofte, Dai & Van Gool, ECCV 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from twostream.flow import Solver

if TYPE_CHECKING:
    from twostream.params import Dis

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class _Dis(Solver):
    def __init__(self, settings: Dis) -> None:
        self._preset, self._size = _PRESETS[settings.preset], (0, 0)

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if first.shape != self._size:
            # OpenCV keeps the number of scales of the first image, so each size gets a solver of its own.
            self._engine = cv2.DISOpticalFlow_create(self._preset)  # type: ignore[attr-defined]
            self._size = first.shape
        return self._engine.calc(first, second, None)


def solver(settings: Dis) -> Solver:
    """Return the solver, for images of at least 16 pixels on each side."""
    return _Dis(settings)
