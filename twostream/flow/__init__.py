"""Dense optical flow: solvers from two grey images to pixels, and the 8-bit code they are stored in."""

from __future__ import annotations

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from twostream.params import Flow


class Solver(ABC):
    """A flow method: from uint8 [H, W] images to float32 [H, W, 2] in pixels.

    A point at (x, y) in the first image is at (x + flow[y, x, 0], y + flow[y, x, 1]) in the second.
    """

    def prepare(self, image: np.ndarray) -> Any:
        """The part of the work that concerns one image alone, so that in a video it is done once for both its pairs."""
        return image

    @abstractmethod
    def match(self, first: Any, second: Any) -> np.ndarray:
        """Flow [H, W, 2] between two prepared images."""

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Flow [H, W, 2] from the first image to the second."""
        return self.match(self.prepare(first), self.prepare(second))

    def sequence(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Flow of every image to the next: one fewer than there are images."""
        for first, second in itertools.pairwise(map(self.prepare, images)):
            yield self.match(first, second)


def make_solver(flow: Flow) -> Solver:
    """The solver that `flow.method` names, with that method's parameters."""
    module = importlib.import_module(f"twostream.flow.{flow.method}")
    return module.solver(getattr(flow, flow.method))
