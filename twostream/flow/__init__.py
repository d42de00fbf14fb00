"""Dense optical flow: solvers that take two grey images, and the 8-bit code in which flow is stored."""

from __future__ import annotations

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twostream.core.device import has_gpu
from twostream.errors import UserError

if TYPE_CHECKING:
    from twostream.params import Flow

ON_GPU = ("tvl1", "raft")  # methods whose `solver` takes a device


class Solver(ABC):
    """A flow method: computes float32 [H, W, 2] in pixels from two images uint8 [H, W].

    A point at (x, y) in the first image is at (x + flow[y, x, 0], y + flow[y, x, 1]) in the second.
    """

    def prepare(self, image: np.ndarray) -> Any:
        """Do the work that concerns one image alone; in a video it then serves both pairs of the image."""
        return image

    @abstractmethod
    def match(self, first: Any, second: Any) -> np.ndarray:
        """Return the flow [H, W, 2] between two prepared images."""

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the flow [H, W, 2] from the first image to the second."""
        return self.match(self.prepare(first), self.prepare(second))

    def sequence(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the flow of every image to the next."""
        for first, second in itertools.pairwise(map(self.prepare, images)):
            yield self.match(first, second)


def make_solver(flow: Flow, device: str | None = None) -> Solver:
    """Return the solver of `flow.method` with the parameters of that method.

    Args:
        flow: the parameter section.
        device: `cpu` or `cuda`; None: the result of `resolve_device`.

    Raises:
        UserError: as `resolve_device`.
    """
    module = importlib.import_module(f"twostream.flow.{flow.method}")
    settings = getattr(flow, flow.method)
    device = device or resolve_device(flow)
    return module.solver(settings, device) if flow.method in ON_GPU else module.solver(settings)


def method_files(method: str, device: str) -> list[Path]:
    """Return the modules that solve and encode flow on a device and are loaded by name, without what they import."""
    folder = Path(__file__).parent
    server = [folder / "gpu_server.py"] if device == "cuda" else []
    if method == "tvl1":
        return [folder / "tvl1/__init__.py", folder / f"tvl1/{'torch' if device == 'cuda' else 'cpu'}.py", *server]
    return [folder / f"{method}.py", *server]


def resolve_device(flow: Flow) -> Literal["cpu", "cuda"]:
    """Return where `flow.method` is solved on this machine; import torch only on a machine with an NVIDIA driver.

    Raises:
        UserError: `flow.device` is `cuda` and there is no GPU that PyTorch can use.
    """
    if flow.method not in ON_GPU or flow.device == "cpu":
        return "cpu"
    if has_gpu():
        return "cuda"
    if flow.device == "cuda":
        raise UserError("flow.device: cuda, but PyTorch finds no GPU that it can use; write auto or cpu")
    return "cpu"
