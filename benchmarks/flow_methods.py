"""The flow methods that the benchmarks compare, by name, with settings that no profile can change."""

from __future__ import annotations

import difflib

import cv2
import numpy as np

from twostream.errors import UserError
from twostream.flow import Solver, make_solver
from twostream.params import Dis, Farneback, Flow, Raft, Section, Tvl1, parse_params
from twostream.profiles import load_profile

# OpenCV's own defaults, and settings that are as accurate in about a quarter of the time: a fairer rival.
_OPENCV_TVL1 = {
    "tvl1_opencv": {"nscales": 5, "scaleStep": 0.8, "warps": 5, "outerIterations": 10, "innnerIterations": 30},
    "tvl1_opencv-quick": {"nscales": 5, "scaleStep": 0.5, "warps": 3, "outerIterations": 2, "innnerIterations": 10},
}


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
        UserError: there is no such name, or the method cannot run here.
    """
    return OpenCvTvl1(**_OPENCV_TVL1[name]) if name in _OPENCV_TVL1 else make_solver(flow_settings(name))


def check_names(names: list[str]) -> None:
    """Raise a UserError for the first name that is not a method."""
    known = [*_OPENCV_TVL1, *_pipeline_methods()]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise UserError(f"--methods: {name!r} is not one; {hint}")


def is_rival(name: str) -> bool:
    """Return whether a method exists only in the benchmarks, so that no pipeline can run it."""
    return name in _OPENCV_TVL1


def flow_settings(name: str, **changes: object) -> Flow:
    """Return the section `flow` of a named method, on the CPU unless `changes` says otherwise.

    Raises:
        UserError: there is no such name, or it is a rival of the pipeline's methods.
    """
    check_names([name])
    if is_rival(name):
        raise UserError(
            f"--methods: {name} runs in benchmarks/flow.py only; choose from {', '.join(_pipeline_methods())}"
        )
    method, section = _pipeline_methods()[name]
    return parse_params(load_profile("hmdb51")).flow.model_copy(
        update={"method": method, method: section, "device": "cpu", **changes}
    )


def _pipeline_methods() -> dict[str, tuple[str, Section]]:
    farneback = Farneback(pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2)
    presets_value = dict.fromkeys(field.alias or name for name, field in Tvl1.model_fields.items())
    return {
        **{f"tvl1-{p}": ("tvl1", Tvl1(**{**presets_value, "preset": p})) for p in ("fast", "balanced", "accurate")},
        "farneback": ("farneback", farneback),
        **{f"dis-{preset}": ("dis", Dis(preset=preset)) for preset in ("medium", "fast", "ultrafast")},
        **{f"raft-{m}": ("raft", Raft(model=m, weights="pretrained", updates=12)) for m in ("small", "large")},
    }
