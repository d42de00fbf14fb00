"""Small pieces that several networks share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class DropoutLinear(nn.Linear):
    """A last layer with dropout before it; its keys in a state dict are those of a plain `nn.Linear`.

    So a network's weights load alike whether or not it was trained with dropout.
    """

    def __init__(self, features: int, classes: int, dropout: float = 0.0):
        super().__init__(features, classes)
        self.dropout = dropout

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.dropout(features, self.dropout, self.training))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout={self.dropout}"


def replace_module(network: nn.Module, name: str, new: nn.Module) -> None:
    """Put another module at a dotted name."""
    path, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(path), leaf, new)
