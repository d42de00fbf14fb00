"""Farneback's flow (Farneback 2003, "Two-frame motion estimation based on polynomial expansion"), OpenCV's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from twostream.flow import Solver
    from twostream.params import Farneback


def solver(settings: Farneback) -> Solver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels."""

    def solve(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(
            first,
            second,
            None,
            pyr_scale=settings.pyr_scale,
            levels=settings.levels,
            winsize=settings.winsize,
            iterations=settings.iterations,
            poly_n=settings.poly_n,
            poly_sigma=settings.poly_sigma,
            flags=0,
        )

    return solve
