"""Dense optical flow: solvers that take two grey images, and the 8-bit code in which flow is stored.

`tvl1` and `sequence` compute flow without a parameter file:

    from twostream.flow import sequence, tvl1

    flow = tvl1(first, second)  # uint8 images in, float32 [H, W, 2] pixels out
    for flow in sequence(frames):
        ...
"""

from __future__ import annotations

import functools
import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from twostream.core.device import has_gpu
from twostream.errors import UserError, validation_reason

if TYPE_CHECKING:
    from twostream.params import Flow

ON_GPU = ("tvl1", "raft")  # methods whose `solver` takes a device
SMALLEST_SIDE = 16  # pixels


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


def tvl1(
    first: np.ndarray, second: np.ndarray, preset: str = "balanced", device: Literal["auto", "cpu", "cuda"] = "auto"
) -> np.ndarray:
    """Return the TV-L1 flow from one image to another: float32 [H, W, 2] in pixels, x right and y down.

    Args:
        first, second: uint8 [H, W] grey or [H, W, 3] RGB, of one size, at least 16 pixels on a side.
        preset: `fast`, `balanced` or `accurate`.
        device: `auto` takes a GPU if PyTorch finds one.

    Raises:
        ValueError: an image has another type or shape, or there is no such preset.
    """
    return next(iter(sequence([first, second], "tvl1", preset, device)))


def sequence(
    frames: Iterable[np.ndarray],
    method: str = "tvl1",
    preset: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Iterator[np.ndarray]:
    """Yield the flow of every frame to the next: float32 [H, W, 2] in pixels, one fewer than there are frames.

    Frames are read as they are needed, so memory does not grow with their number.

    Args:
        frames: uint8 [T, H, W] grey or [T, H, W, 3] RGB, or any iterable of such frames of one size.
        method: `tvl1`, `farneback`, `dis` or `raft`.
        preset: of `tvl1` (`fast`, `balanced`, `accurate`) or `dis` (`ultrafast`, `fast`, `medium`); None: the default.
        device: where `tvl1` and `raft` run; `auto` takes a GPU if PyTorch finds one.

    Raises:
        ValueError: a frame has another type or shape, or there is no such method or preset.
    """
    return _default_solver(method, preset, device).sequence(_grey(frames))


def _grey(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        shape = shape or np.shape(frame)
        image = np.asarray(frame)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] != 3:
            raise ValueError(f"frames must be uint8 [H, W] or [H, W, 3], not {image.dtype} {list(image.shape)}")
        if image.shape != shape or min(shape[:2]) < SMALLEST_SIDE:
            raise ValueError(f"frames must have one size of at least {SMALLEST_SIDE} pixels, not {list(image.shape)}")
        yield cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


@functools.lru_cache(4)
def _default_solver(method: str, preset: str | None, device: str) -> Solver:
    return make_solver(flow_settings(method, preset, device=device))


def flow_settings(method: str, preset: str | None = None, **values: Any) -> Flow:
    """Return the parameter section of a flow method, with the default of every value that is not given.

    Raises:
        ValueError: there is no such method or preset, or a value is out of range.
    """
    from pydantic import ValidationError

    from twostream.params import Flow
    from twostream.profiles import complete

    section = complete({})["flow"] | {"method": method} | values
    if preset:
        if "preset" not in section.get(method, {}):
            raise ValueError(f"{method!r} has no preset; choose a preset of tvl1 or dis")
        section[method] = section[method] | {"preset": preset}
    try:
        return Flow.model_validate(section)
    except ValidationError as error:
        raise ValueError(validation_reason(error)) from None


def make_solver(flow: Flow, device: str | None = None) -> Solver:
    """Return the solver of `flow.method` with the parameters of that method.

    Args:
        flow: the parameter section.
        device: `cpu` or `cuda`; None: the result of `resolve_device`.

    Raises:
        UserError: as `resolve_device`.
    """
    module = importlib.import_module(f"twostream.flow.methods.{flow.method}")
    settings = getattr(flow, flow.method)
    device = device or resolve_device(flow)
    return module.solver(settings, device) if flow.method in ON_GPU else module.solver(settings)


def method_files(method: str, device: str) -> list[Path]:
    """Return the modules that solve and encode flow on a device and are loaded by name, without what they import."""
    folder = Path(__file__).parent
    server = [folder / "gpu_server.py"] if device == "cuda" else []
    if method == "tvl1":
        module = folder / "methods/tvl1"
        return [module / "__init__.py", module / f"{'torch' if device == 'cuda' else 'cpu'}.py", *server]
    return [folder / f"methods/{method}.py", *server]


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
