"""OpenCV's implementation of Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", 2003."""

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
        return cv2.calcOpticalFlowFarneback(first, second, None, flags=0, **self._settings)  # type: ignore[call-overload]


def solver(settings: Farneback) -> Solver:
    """Return the solver."""
    return _Farneback(settings)
