"""torchvision's video networks, for any number of channels and, where the network allows it, any input size."""

from __future__ import annotations

from typing import Any

from torch import nn

from twostream.networks.layers import BaseNetwork, DropoutLinear, Family, imagenet, replace_module
from twostream.networks.pretrained import find_torchvision


def _build(name: str, channels: int, classes: int, dropout: float, _: int) -> BaseNetwork:
    """Build torchvision's network of that name with random weights: `[B, C, L, H, W]` to `[B, classes]`.

    `r3d_18`, `mc3_18`, `r2plus1d_18` (Tran et al. 2018) and `s3d` (Xie et al. 2018) are convolutional. `mvit_v2_s` (Li
    et al. 2022; it takes 16 frames of 224 pixels only) and `swin3d_t`, `_s`, `_b` (Liu et al. 2022) are transformers
    and clearly the best on Kinetics.
    """
    from torchvision.models import get_model

    name = name.removeprefix("video/")
    if name == "s3d":
        network = get_model(name, num_classes=classes, dropout=dropout)
        # torchvision's fixed 2x7x7 pooling would refuse anything under 14 frames of 224 pixels.
        network.avgpool = nn.AdaptiveAvgPool3d(1)
        first, classifier = "features.0.0.0", "classifier.1"
    elif name == "mvit_v2_s":
        network = get_model(name, num_classes=classes, dropout=dropout)
        first, classifier = "conv_proj", "head.1"
    elif name.startswith("swin3d"):
        network = get_model(name)
        network.head = DropoutLinear(network.head.in_features, classes, dropout)
        first, classifier = "patch_embed.proj", "head"
    else:
        network = get_model(name)
        network.fc = DropoutLinear(network.fc.in_features, classes, dropout)
        first, classifier = "stem.0", "fc"
    if channels != 3:
        old: Any = network.get_submodule(first)
        conv = nn.Conv3d(
            channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own first layer
        replace_module(network, first, conv)
    return BaseNetwork(network, (first,), (classifier,))


def _usual_input(name: str) -> tuple[int, int, int]:
    if name.endswith("_18"):
        return 16, 112, 112
    return {"video/s3d": 64, "video/mvit_v2_s": 16}.get(name, 32), 224, 224


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    if name == "video/mvit_v2_s":
        return [0.45] * 3, [0.225] * 3
    if name.startswith("video/swin3d"):
        return imagenet(name)
    return [0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]  # Kinetics-400


FAMILY = Family(_build, _usual_input, normalisation=_normalisation, published=find_torchvision)
