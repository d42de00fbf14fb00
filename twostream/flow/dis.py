"""Dense inverse search flow (Kroeger, Timofte, Dai & Van Gool 2016), OpenCV's."""

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
        self._preset, self._size = _PRESETS[settings.preset], None

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if first.shape != self._size:
            # An engine that has met a small image keeps its few scales for larger ones, so it serves one size alone.
            self._engine, self._size = cv2.DISOpticalFlow_create(self._preset), first.shape
        return self._engine.calc(first, second, None)


def solver(settings: Dis) -> Solver:
    """A solver of two uint8 [H, W] images, 16 pixels a side at least, to float32 [H, W, 2] pixels."""
    return _Dis(settings)
