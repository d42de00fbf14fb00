"""The optical-flow engine of NVIDIA GPUs (from Turing on) as a flow method: no kernel runs, the chip has it built in.

It is reached through the package torch-nvidia-of-sdk, which only this benchmark uses and the project does not require.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor

from twostream.core.device import has_gpu
from twostream.errors import reason
from twostream.flow.batch import BatchSolver


def missing() -> str:
    """Return in one line what the engine lacks on this machine, or "" if it works."""
    lacks = [] if has_gpu() else ["no GPU that PyTorch can use"]
    if importlib.util.find_spec("of") is None:
        lacks.append("no package torch-nvidia-of-sdk (pip install torch-nvidia-of-sdk, from Python 3.13 on)")
    if not lacks:
        try:
            _engine("fast", 256, 256)
        except Exception as error:  # of the package, of CUDA or of a GPU without the engine
            lacks.append(f"the engine does not start ({reason(error)})")
    return f"nvof: not measured: {', '.join(lacks)}" if lacks else ""


def _engine(preset: str, height: int, width: int) -> Any:
    from of import TorchNVOpticalFlow

    # One vector per pixel where the chip can (grid 1), forward only.
    return TorchNVOpticalFlow(width, height, torch.cuda.current_device(), preset, 1, False)


class NvidiaEngine(BatchSolver):
    """The engine with one of its presets; pairs go through it one after the other."""

    def __init__(self, preset: str) -> None:
        self.device = torch.device("cuda")
        self._engine = functools.lru_cache(8)(functools.partial(_engine, preset))

    def match_batch(self, first: Tensor, second: Tensor) -> Tensor:
        engine = self._engine(*first.shape[1:])
        # It takes four channels per pixel. Its hints come from the previous pair, which is another scene here.
        pairs = zip(*(images[..., None].repeat(1, 1, 1, 4) for images in (first, second)), strict=True)
        return torch.stack([engine.compute_flow(a, b, upsample=True, disable_temporal_hints=True) for a, b in pairs])
