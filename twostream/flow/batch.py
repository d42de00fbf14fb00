"""Flow methods that solve many pairs at once in PyTorch, on the CPU or a GPU."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from twostream.flow import Solver


class BatchSolver(Solver):
    """A flow method that solves many pairs of one size at once.

    Attributes:
        device: where it computes.
    """

    device: torch.device

    @abstractmethod
    def match_batch(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the flow float32 [B, H, W, 2] in pixels of pairs uint8 [B, H, W], all on the device."""

    def code_batch(self, first: Tensor, second: Tensor, bound_px: float) -> Tensor:
        """Return the 8-bit codes of the flow of pairs uint8 [B, H, W], all on the device.

        Returns:
            uint8 [B, H, 2, W]: the codes of `encode_flow`, in each row first those of x and then those of y.
        """
        return encode(self.match_batch(first, second).transpose(2, 3), bound_px)

    def prepare(self, image: np.ndarray) -> Tensor:
        """Return the image on the device, uint8 [1, H, W]."""
        return torch.tensor(np.ascontiguousarray(image), device=self.device)[None]  # a mirrored array is no tensor

    def match(self, first: Tensor, second: Tensor) -> np.ndarray:
        """Return the flow float32 [H, W, 2] in pixels between two prepared images."""
        return self.match_batch(first, second)[0].cpu().numpy()


def encode(flow: Tensor, bound_px: float) -> Tensor:
    """Return the codes of `encode_flow`, uint8 of the same shape."""
    return (flow * (127.0 / bound_px)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
