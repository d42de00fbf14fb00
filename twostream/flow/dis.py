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
        self._engine = cv2.DISOpticalFlow_create(_PRESETS[settings.preset])

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self._engine.calc(first, second, None)


def solver(settings: Dis) -> Solver:
    """A solver of two uint8 [H, W] images, 16 pixels a side at least, to float32 [H, W, 2] pixels."""
    return _Dis(settings)
