"""I3D, the inflated Inception v1: Carreira & Zisserman, Quo Vadis, Action Recognition?, CVPR 2017, figure 3.

Names of parameters and arithmetic are those of the PyTorch port whose weight files most projects pass around
(`rgb_imagenet.pt`, `flow_imagenet.pt`, ...), so that these files load by their path.

`i3d_4f` ends at the block Mixed_4f, and its classifier reads the maximum over space instead of the mean. Frozen, with
RGB weights, it suits flow better than the whole network: motion covers a small part of the frame, and the last blocks
are specialised to RGB (docs/accuracy.md).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from twostream.networks.i3d_weights import find_kinetics
from twostream.networks.layers import BaseNetwork, Family

# Channels of the branches b0, b1a, b1b, b2a, b2b, b3b of each block: Szegedy et al. 2015, table 1.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Sequential):
    """12,697,264 parameters for 3 channels and 400 classes; trained on 64 frames of 224 pixels at 25 per second.

    With `last`, the name of a block of `_MIXED`, it ends there and its head takes the maximum over space.

    Takes float32 `[B, C, L, H, W]` of any L, H and W, with values from -1 to 1, returns `[B, classes]`. It computes in
    `channels_last_3d`: 32 frames of 144 pixels take 0.58 s instead of 0.66 on two CPU threads.
    """

    def __init__(self, channels: int, classes: int, dropout: float = 0.0, last: str = ""):
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            Conv3d_1a_7x7=Convolution(channels, 64, 7, stride=2),
            MaxPool3d_2a_3x3=SamePool((1, 3, 3), (1, 2, 2)),
            Conv3d_2b_1x1=Convolution(64, 64, 1),
            Conv3d_2c_3x3=Convolution(64, 192, 3),
            MaxPool3d_3a_3x3=SamePool((1, 3, 3), (1, 2, 2)),
        )
        width = 192
        for name, outputs in _MIXED.items():
            if name == "Mixed_4b":
                layers["MaxPool3d_4a_3x3"] = SamePool((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                layers["MaxPool3d_5a_2x2"] = SamePool((2, 2, 2), (2, 2, 2))
            layers[name] = Inception(width, outputs)
            width = outputs[0] + outputs[2] + outputs[4] + outputs[5]
            if name == last:
                break
        layers["logits"] = Head(width, classes, dropout, torch.amax if last else torch.mean)
        super().__init__(layers)
        self.to(memory_format=torch.channels_last_3d)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return super().forward(volume.contiguous(memory_format=torch.channels_last_3d))


class Inception(nn.Module):
    """Four branches side by side: 1x1x1, two of 1x1x1 then 3x3x3, and 3x3x3 max pooling then 1x1x1."""

    def __init__(self, channels: int, outputs: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = outputs
        self.b0 = Convolution(channels, b0, 1)
        self.b1a = Convolution(channels, b1a, 1)
        self.b1b = Convolution(b1a, b1b, 3)
        self.b2a = Convolution(channels, b2a, 1)
        self.b2b = Convolution(b2a, b2b, 3)
        self.b3a = nn.MaxPool3d(3, 1, 1)
        self.b3b = Convolution(channels, b3b, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        branches = self.b0(volume), self.b1b(self.b1a(volume)), self.b2b(self.b2a(volume)), self.b3b(self.b3a(volume))
        return torch.cat(branches, 1)


class Convolution(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch norm and ReLU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__()
        # With stride 1, SAME is torch's own padding, which needs no copy of the input.
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, kernel // 2 if stride == 1 else 0, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        if self.conv3d.stride != (1, 1, 1):
            volume = pad_same(volume, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(volume)), inplace=True)


class SamePool(nn.Module):
    """Max pooling with TensorFlow's SAME padding. Its input is never negative, so zeros cannot be the maximum."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        return functional.max_pool3d(pad_same(volume, self.kernel, self.stride), self.kernel, self.stride)


class Head(nn.Module):
    """Pool over space, mean of each two successive time steps, dropout, a linear layer, mean of the logits over time.

    `pool` is `torch.mean` or `torch.amax`. The linear layer is a convolution, as in the weight files. A single time
    step (8 frames or fewer) is not averaged.
    """

    def __init__(self, channels: int, classes: int, dropout: float, pool: Callable[..., torch.Tensor] = torch.mean):
        super().__init__()
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.conv3d = nn.Conv3d(channels, classes, 1)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        features = self.pool(volume, (3, 4), keepdim=True)  # [B, C, T, 1, 1]
        if features.shape[2] > 1:
            features = (features[:, :, :-1] + features[:, :, 1:]) / 2
        return self.conv3d(self.dropout(features)).mean((2, 3, 4))


def pad_same(volume: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Pad `[B, C, L, H, W]` with zeros as TensorFlow's SAME does: sizes divided by the stride, rounded up, come out.

    Where the number of zeros is odd, the end gets one more, so a stride of 2 reads an even and an odd size differently.
    """
    sides: list[int] = []
    for size, width, step in zip(volume.shape[2:], kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        sides = [total // 2, total - total // 2, *sides]  # torch takes the last axis first
    return functional.pad(volume, sides) if any(sides) else volume


def _build(name: str, channels: int, classes: int, dropout: float, _: int) -> BaseNetwork:
    last, unused = ("Mixed_4f", ("Mixed_5b", "Mixed_5c")) if name == "i3d_4f" else ("", ())
    network = I3D(channels, classes, dropout, last)
    return BaseNetwork(network, ("Conv3d_1a_7x7.conv3d",), ("logits.conv3d",), unused)


FLOW = {"method": "tvl1", "bound": 20.0}  # what the published flow weights were trained on
# They were trained on pixels per frame, clipped at 20 and divided by 20: with `flow.bound: 20`,
# that is (code - 128) / 127. RGB filters averaged over their channels want larger numbers, (code - 128) / 40: motion
# fills less of its range than light does. The factor is in the filters.
FAMILY = Family(
    _build,
    lambda name: (64, 224, 224),
    normalisation=lambda name: ([0.5] * 3, [0.5] * 3),
    flow_scale=127.0,
    flow_gain=127.0 / 40.0,
    published=find_kinetics,
)
