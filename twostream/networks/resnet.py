"""torchvision's ResNets (He et al. 2016) on images: the L frames of a segment become image channels."""

from __future__ import annotations

from torch import nn

from twostream.networks.layers import BaseNetwork, DropoutLinear, Family
from twostream.networks.pretrained import find_torchvision


def _build(name: str, channels: int, classes: int, dropout: float, _: int) -> BaseNetwork:
    from torchvision.models import get_model

    network = get_model(name)
    network.fc = DropoutLinear(network.fc.in_features, classes, dropout)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return BaseNetwork(network, ("conv1",), ("fc",))


FAMILY = Family(_build, lambda name: (1, 224, 224), images=True, published=find_torchvision)
