"""TV-L1 flow (Zach, Pock & Bischof 2007; Sanchez, Meinhardt-Llopis & Facciolo, IPOL 2013), OpenCV's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:
    from twostream.flow import Solver
    from twostream.params import Tvl1


def solver(settings: Tvl1) -> Solver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels."""
    engine = cv2.optflow.DualTVL1OpticalFlow_create(
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
    return lambda first, second: engine.calc(first, second, None)
