"""What several networks share: the description of a family, layers, and the input that they expect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional


class BaseNetwork(NamedTuple):
    """A network as weight files know it, and layers by their names in a state dict."""

    network: nn.Module
    first_conv: tuple[str, ...]  # the convolutions that read the input; their shape follows the input's channels
    classifier: tuple[str, ...]  # the layers whose shape follows the number of classes
    unused: tuple[str, ...] = ()  # layers that weight files have and this network lacks


class Published(Protocol):
    """Weights that a library or a paper's authors publish for a network."""

    @property
    def model(self) -> str:
        """The network's name."""

    @property
    def licence(self) -> str | None:
        """The licence, None where the publisher states none."""

    def load(self, classes: int, input_size: int) -> dict[str, torch.Tensor]:
        """Return the state dict, fetched where it is not on this machine. Raises a UserError where it cannot be."""

    def file(self) -> Path | None:
        """Return the file on this machine, None where it is not here."""


def imagenet(_: str) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the RGB values of ImageNet, in 0 to 1."""
    return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Family(NamedTuple):
    """How the networks of one module are built. A model name comes without `inflated/`."""

    build: Callable[[str, int, int, float, int], BaseNetwork]  # name, channels, classes, dropout, input_size
    usual_input: Callable[[str], tuple[int, int, int]]  # frames, height, width; only `list_models` shows it
    images: bool = False  # whether the networks take images rather than `[B, C, L, H, W]`
    normalisation: Callable[[str], tuple[list[float], list[float]]] = imagenet  # mean and std of RGB in 0 to 1
    published: Callable[[str, str], Published | None] = lambda name, weights: None  # see `find_published`
    # Flow is (code - 128) / flow_scale. The default is the scale of ImageNet's normalised pixels (0.226 * 255), as in
    # Wang et al. 2016.
    flow_scale: float = 57.6
    flow_gain: float = (
        1.0  # on RGB filters that are averaged for flow, where `flow_scale` is that of published flow weights
    )


class StackedFrames(nn.Module):
    """Feeds `[B, C, L, H, W]` to a 2D network as images of L*C channels, frame after frame: x1, y1, x2, y2, ...

    This is the input of Simonyan & Zisserman 2014, section 3.1; one RGB frame (L = 1) stays an ordinary image.
    Images go in `channels_last`, the order that convolutions prefer: a training step of ResNet-18 on 36 frames of
    96 pixels takes 0.41 s instead of 0.47 on one CPU thread, and mixed precision on a GPU gains more.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        images = volume.transpose(1, 2).flatten(1, 2)  # [B, L*C, H, W]
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


class DropoutLinear(nn.Linear):
    """A last layer with dropout before it.

    Its keys in a state dict are those of a plain `nn.Linear`, so weights load with and without dropout.
    """

    def __init__(self, features: int, classes: int, dropout: float = 0.0):
        super().__init__(features, classes)
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.dropout(features, self.dropout, self.training))


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module at a dotted name."""
    path, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(path), leaf, new)
