"""What several networks share: the layers that depend on the data, and where a network has them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


class BaseNetwork(NamedTuple):
    """A network as weight files know it, and its layers that depend on the data, by their names in a state dict."""

    network: nn.Module
    first_conv: tuple[str, ...]  # the convolutions that read the input; their shape follows the input's channels
    classifier: tuple[str, ...]  # the layers whose shape follows the number of classes


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
