"""A 3D CNN for optical flow: early layers see single flow fields, later ones how the flow changes over time.

It was chosen by accuracy on held-out generated motions: 8 kinds (which way, how fast, zoom, rotation), 104 noisy
training clips of 16x48x48, 15 epochs (`benchmarks/temporal.py` of version 0.1.0): this network reaches 0.91, `cnn3d_v2`
0.58 in 5 times the time, `cnn3d_v1` 0.56 in 14 times the time (means of two draws, one CPU thread). The variants below
were compared on a similar task, on which this network reaches 0.94. The same draws chose among them, so the numbers
only rank the variants.

- Flow is averaged 2x2 before the first convolution, and halved by averaging later: flow is smooth and its noise is not,
  and strides alias that noise. With a 7x7 stem of stride 4 and strided convolutions instead: 0.84.
- Temporal kernels come late and are long, and time is never pooled before the end. Early ones with a temporal stride:
  0.69; late without a stride: 0.75; with 5 frames instead of 3: 0.80; with one layer more: 0.86.
- Full 3x3x3 kernels and no residual blocks: a (2+1)D block takes twice as long on a CPU, where memory is the limit, and
  neither such networks nor residual ones nor squeeze-excitation were more accurate.
"""

from __future__ import annotations

import torch
from torch import nn

from twostream.networks.layers import BaseNetwork, DropoutLinear, Family


class Flow3D(nn.Module):
    """Takes float32 `[B, C, L, H, W]` of any L and of H and W of 16 or more, returns `[B, classes]`."""

    def __init__(self, channels: int, classes: int, dropout: float = 0.0):
        super().__init__()
        self.features = nn.Sequential(
            nn.AvgPool3d((1, 2, 2)),
            *_convolution(channels, 32, kernel=(1, 5, 5), stride=2),
            *_convolution(32, 32, kernel=(1, 3, 3)),
            nn.AvgPool3d((1, 2, 2)),
            *_convolution(32, 64, kernel=(5, 3, 3)),
            *_convolution(64, 64, kernel=(1, 3, 3)),
            nn.AvgPool3d((1, 2, 2)),
            *_convolution(64, 128, kernel=(3, 3, 3)),
        )
        self.classifier = DropoutLinear(128, classes, dropout)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(volume).mean((2, 3, 4)))


def _convolution(channels: int, width: int, *, kernel: tuple[int, int, int], stride: int = 1) -> list[nn.Module]:
    time, height, across = (side // 2 for side in kernel)
    return [
        nn.Conv3d(channels, width, kernel, (1, stride, stride), (time, height, across), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    ]


def _build(name: str, channels: int, classes: int, dropout: float, _: int) -> BaseNetwork:
    return BaseNetwork(Flow3D(channels, classes, dropout), ("features.1",), ("classifier",))


FAMILY = Family(_build, lambda name: (16, 96, 96))
