"""The flow methods that the benchmarks compare, by name, with settings that no profile can change."""

from __future__ import annotations

import cv2
import numpy as np

from twostream.flow import Solver, make_solver
from twostream.params import Dis, Farneback, Flow, Raft, Section, Tvl1, parse_params
from twostream.profiles import load_profile

# OpenCV's own defaults, and settings that are as accurate in about a quarter of the time: a fairer rival.
OPENCV_TVL1 = {
    "tvl1_opencv": {"nscales": 5, "scaleStep": 0.8, "warps": 5, "outerIterations": 10, "innnerIterations": 30},
    "tvl1_opencv-quick": {"nscales": 5, "scaleStep": 0.5, "warps": 3, "outerIterations": 2, "innnerIterations": 10},
}
_TVL1 = dict.fromkeys(field.alias or name for name, field in Tvl1.model_fields.items())  # None: the preset's value
PIPELINE_METHODS: dict[str, tuple[str, Section]] = {
    **{f"tvl1-{p}": ("tvl1", Tvl1(**_TVL1 | {"preset": p})) for p in ("fast", "balanced", "accurate")},
    "farneback": ("farneback", Farneback(pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2)),
    **{f"dis-{preset}": ("dis", Dis(preset=preset)) for preset in ("medium", "fast", "ultrafast")},
    **{f"raft-{m}": ("raft", Raft(model=m, weights="pretrained", updates=12)) for m in ("small", "large")},
}
NVIDIA = {"nvof": "slow", "nvof-fast": "fast"}  # presets of the engine of nvidia_engine.py: most accurate, fastest


class OpenCvTvl1(Solver):
    """OpenCV's TV-L1 (Sanchez, Meinhardt-Llopis & Facciolo, IPOL 2013), which only the benchmarks run."""

    def __init__(self, **settings: float) -> None:
        weights = {"tau": 0.25, "lambda_": 0.15, "theta": 0.3, "epsilon": 0.01, "medianFiltering": 5}
        self._engine = cv2.optflow.DualTVL1OpticalFlow_create(**weights, **settings)

    def match(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return self._engine.calc(first, second, None)


def named_solver(name: str) -> Solver:
    """Return the CPU solver of a named method.

    Raises:
        UserError: the method cannot run here.
    """
    return OpenCvTvl1(**OPENCV_TVL1[name]) if name in OPENCV_TVL1 else make_solver(flow_settings(name))


def flow_settings(name: str, **changes: object) -> Flow:
    """Return the section `flow` of a named method of the pipeline, on the CPU unless `changes` says otherwise."""
    method, section = PIPELINE_METHODS[name]
    return parse_params(load_profile("hmdb51")).flow.model_copy(
        update={"method": method, method: section, "device": "cpu", **changes}
    )
