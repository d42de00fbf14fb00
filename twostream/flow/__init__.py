"""Dense optical flow: solvers from two grey images to pixels, and the 8-bit code they are stored in.

A solver is a function `(first, second) -> flow` from two uint8 [H, W] images to float32 [H, W, 2] in pixels: a point
at (x, y) in the first image is at (x + flow[y, x, 0], y + flow[y, x, 1]) in the second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from twostream.params import Flow

Solver = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_solver(flow: Flow) -> Solver:
    """The solver that `flow.method` names, with that method's parameters."""
    module = importlib.import_module(f"twostream.flow.{flow.method}")
    return module.solver(getattr(flow, flow.method))
