"""Farneback's flow (Farneback 2003, "Two-frame motion estimation based on polynomial expansion"), OpenCV's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from twostream.flow import Solver

if TYPE_CHECKING:
    from twostream.params import Farneback


class _Farneback(Solver):
    def __init__(self, settings: Farneback) -> None:
        self._settings = settings.model_dump()

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(first, second, None, flags=0, **self._settings)


def solver(settings: Farneback) -> Solver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels."""
    return _Farneback(settings)
