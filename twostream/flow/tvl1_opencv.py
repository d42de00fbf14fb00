"""TV-L1 flow (Zach, Pock & Bischof 2007; Sanchez, Meinhardt-Llopis & Facciolo, IPOL 2013), OpenCV's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from twostream.flow import Solver

if TYPE_CHECKING:
    from twostream.params import Tvl1OpenCv


class _Tvl1OpenCv(Solver):
    def __init__(self, settings: Tvl1OpenCv) -> None:
        self._engine = cv2.optflow.DualTVL1OpticalFlow_create(
            tau=settings.tau,
            lambda_=settings.lambda_,
            theta=settings.theta,
            nscales=settings.scales,
            warps=settings.warps,
            epsilon=settings.epsilon,
            innnerIterations=settings.inner_iterations,  # OpenCV's spelling
            outerIterations=settings.outer_iterations,
            scaleStep=settings.scale_step,
            medianFiltering=settings.median_filtering,
        )

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self._engine.calc(first, second, None)


def solver(settings: Tvl1OpenCv) -> Solver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels."""
    return _Tvl1OpenCv(settings)
