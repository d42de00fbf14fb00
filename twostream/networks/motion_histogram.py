"""A baseline for flow without anything learnt but its last layer: how much moves, and which way.

A stream that does not beat it reads nothing from the flow that a histogram does not hold.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from twostream.networks.layers import BaseNetwork, DropoutLinear, Family

DIRECTIONS = 8
EDGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of the magnitude, in codes


class MotionHistogram(nn.Module):
    """Shares of pixels by direction and magnitude of their flow, then one linear layer.

    Takes float32 `[B, 2, L, H, W]` in codes (128 is zero and subtracted before), returns `[B, classes]`. Magnitudes
    below the first edge have no direction; the others have :data:`DIRECTIONS`.
    """

    def __init__(self, channels: int, classes: int, dropout: float = 0.0):
        super().__init__()
        self.edges: torch.Tensor
        self.register_buffer("edges", torch.tensor(EDGES))
        self.classifier = DropoutLinear(DIRECTIONS * len(EDGES) + 1, classes, dropout)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        x, y = volume[:, :2].flatten(2).unbind(1)  # [B, N]
        strength = torch.bucketize(torch.hypot(x, y), self.edges)  # 0: below the first edge
        turn = torch.atan2(y, x) / (2 * math.pi) * DIRECTIONS
        direction = turn.round().long() % DIRECTIONS
        cell = torch.where(strength > 0, 1 + (strength - 1) * DIRECTIONS + direction, 0)
        counts = torch.zeros(len(cell), 1 + DIRECTIONS * len(EDGES), device=cell.device)
        counts.scatter_add_(1, cell, torch.ones_like(cell, dtype=counts.dtype))
        return self.classifier((counts / cell.shape[1]).sqrt())  # the root lets rare motion count


def _build(name: str, channels: int, classes: int, dropout: float, _: int) -> BaseNetwork:
    return BaseNetwork(MotionHistogram(channels, classes, dropout), (), ("classifier",))


FAMILY = Family(_build, lambda name: (16, 96, 96), flow_scale=1.0)
