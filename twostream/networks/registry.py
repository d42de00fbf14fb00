"""Build any network by its name, and list the networks.

To add a 3D network:
1. write `networks/<name>.py` with a class `(channels, classes, dropout)` from `[B, C, L, H, W]` to `[B, classes]`;
2. add its name to `VOLUME` in names.py;
3. add a line to `_VOLUMES` below.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from twostream.errors import UserError, reason
from twostream.networks.backbone2d import StackedFrames, build_resnet, build_timm, timm_config
from twostream.networks.cnn3d import CNN3Dv1, CNN3Dv2
from twostream.networks.flow3d import Flow3D
from twostream.networks.inflate import inflate
from twostream.networks.layers import BaseNetwork
from twostream.networks.names import CHANNELS, IMAGE, INFLATED, KNOWN, MODALITIES, TIMM, VIDEO, check_model_name
from twostream.networks.pretrained import find_published
from twostream.networks.torchvision_video import build_video
from twostream.networks.weights import load_weights, read_weights


class _Volume(NamedTuple):
    build: Callable[[int, int, float], nn.Module]  # (channels, classes, dropout) to a network on [B, C, L, H, W]
    first_conv: str  # the layer that reads the input, by its name in the network
    classifier: str  # the layer whose size is the number of classes
    usual_input: tuple[int, int, int]  # L, H, W; only `list_models` shows it


_VOLUMES = {
    "cnn3d_v1": _Volume(CNN3Dv1, "features.0", "classifier", (16, 112, 112)),
    "cnn3d_v2": _Volume(CNN3Dv2, "features.0", "classifier", (16, 128, 128)),
    "flow3d": _Volume(Flow3D, "features.1", "classifier", (16, 96, 96)),
}
_VIDEO_INPUTS = {
    "video/s3d": (64, 224, 224),
    "video/mvit_v2_s": (16, 224, 224),
    **{f"video/swin3d_{size}": (32, 224, 224) for size in "tsb"},
    **{name: (16, 112, 112) for name in VIDEO if name.endswith("_18")},
}
_EXAMPLES = (
    *(TIMM + name for name in ("tf_efficientnet_lite0", "mobilenetv3_large_100", "regnety_016", "convnext_tiny")),
    f"{INFLATED}{TIMM}tf_efficientnet_lite0",
)

# Mean and standard deviation of RGB in 0 to 1.
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_KINETICS = ([0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989])
_MVIT = ([0.45] * 3, [0.225] * 3)
# Zero motion is code 128. The scale is that of ImageNet's normalised pixels (0.226 * 255), as in Wang et al. 2016.
_FLOW_NORMALISATION = {"mean": [128.0, 128.0], "std": [57.6, 57.6]}


class SegmentConsensus(nn.Module):
    """A network over the segments of a clip: the mean of their logits (Wang et al. 2016, equation 1).

    Takes float32 `[N, S, C, L, H, W]`, normalised with `normalisation`, returns `[N, classes]`.

    Attributes:
        network: `[B, C, L, H, W]` to `[B, classes]`.
        normalisation: {"mean": [...], "std": [...]}, one value per channel on the scale of stored uint8 values: the
            input is (v - mean) / std.
        new_parameters: names of the parameters that start at random in a network with loaded weights, so that they can
            learn faster than the others; empty when nothing was loaded, since then all parameters are new.
    """

    def __init__(self, network: nn.Module, normalisation: dict[str, list[float]], new_parameters: list[str]):
        super().__init__()
        self.network = network
        self.normalisation = normalisation
        self.new_parameters = new_parameters

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        clips, segments = views.shape[:2]
        logits = self.network(views.flatten(0, 1))  # [N*S, classes]
        return logits.unflatten(0, (clips, segments)).mean(1)


def create_model(
    name: str,
    *,
    modality: str,
    classes: int,
    frames: int,
    dropout: float = 0.0,
    weights: str = "none",
    input_size: int,
) -> SegmentConsensus:
    """Build a network for views of `frames` frames of `input_size` x `input_size` pixels.

    Random weights follow from torch's global seed. RGB is normalised as the published weights of the architecture
    expect, whether or not they are used; flow by its code (128 is zero, 57.6 the scale).

    Args:
        name: as `check_model_name` takes it.
        modality: `rgb` (3 channels) or `flow` (2 channels).
        dropout: probability before the last layer.
        weights: `none`, `pretrained`, a tag of the library (fetched) or the path of a state dict. The first convolution
            is adapted to other channels, and a classifier of another size starts at random. An inflated network takes
            the weights of its 2D network or its own; without weights, the random weights of its 2D network are
            inflated.

    Raises:
        UserError: no such model, an input it cannot take, weights that are missing, cannot be fetched or do not fit.
    """
    try:
        check_model_name(name, modality)
    except ValueError as error:
        raise UserError(str(error)) from None
    channels = CHANNELS[modality]
    base = _build_base(name, channels, classes, frames, dropout, input_size)
    _check_input(name, base, channels, frames, input_size)
    if weights == "none":
        return SegmentConsensus(_on_volumes(name, base), _normalisation(name, modality), [])
    published = find_published(name, weights)
    state = published.load(classes, input_size) if published else read_weights(weights)
    if name.startswith(INFLATED) and any(tensor.ndim == 5 for tensor in state.values()):
        network = _on_volumes(name, base)  # first, since these are weights of a network that was inflated before
        new = load_weights(base, state, where=f"{name}: {weights}", frame_channels=channels)
    else:
        new = load_weights(base, state, where=f"{name}: {weights}", frame_channels=channels)
        network = _on_volumes(name, base)
    prefix = "network." if network is base.network else "network.backbone."
    normalisation = _normalisation(published.model if published else name, modality)
    return SegmentConsensus(network, normalisation, [prefix + parameter for parameter in new])


def list_models(classes: int = 51) -> list[dict[str, Any]]:
    """List every model by name and modality, with its usual input and its number of parameters.

    Returns:
        Rows of `name`, `modality`, `input` ([channels, frames, height, width] of one segment) and `parameters`. Of
        timm's backbones only a few examples are listed; `timm/<name>` and `inflated/timm/<name>` build any of them.
    """
    rows = []
    for name in (*KNOWN, *_EXAMPLES):
        for modality in MODALITIES:
            channels, usual = CHANNELS[modality], _usual_input(name, modality)
            with torch.device("meta"):
                network = _on_volumes(name, _build_base(name, channels, classes, usual[0], 0.0, usual[1]))
            parameters = sum(parameter.numel() for parameter in network.parameters())
            rows.append({"name": name, "modality": modality, "input": [channels, *usual], "parameters": parameters})
    return rows


def _usual_input(name: str, modality: str) -> tuple[int, int, int]:
    """Return [L, H, W] of one segment."""
    if name in _VOLUMES:
        return _VOLUMES[name].usual_input
    if name in VIDEO:
        return _VIDEO_INPUTS[name]
    if name.startswith(INFLATED):
        return 16, 224, 224
    return (1 if modality == "rgb" else 5), 224, 224  # stacks of 5 flow frames as in Wang et al. 2016


def _build_base(name: str, channels: int, classes: int, frames: int, dropout: float, input_size: int) -> BaseNetwork:
    """Build the network that the weight files of a model belong to, with random weights.

    For `resnet50` this is a 2D network on `channels * frames` channels, for `inflated/resnet50` one on `channels`; a 3D
    network is its own base.
    """
    if name in _VOLUMES:
        volume = _VOLUMES[name]
        return BaseNetwork(volume.build(channels, classes, dropout), (volume.first_conv,), (volume.classifier,))
    if name in VIDEO:
        return build_video(name.removeprefix("video/"), channels, classes, dropout)
    image_channels = channels if name.startswith(INFLATED) else channels * frames
    name = name.removeprefix(INFLATED)
    if name in IMAGE:
        return build_resnet(name, image_channels, classes, dropout)
    return build_timm(name.removeprefix(TIMM), image_channels, classes, dropout, input_size)


def _on_volumes(name: str, base: BaseNetwork) -> nn.Module:
    """Turn a base into a network on `[B, C, L, H, W]`: inflate it (in place), feed it stacked frames, or leave it."""
    if name.startswith(INFLATED):
        if len(base.first_conv) != 1:
            raise UserError(f"{name}: cannot be inflated: several convolutions read its image; choose another network")
        try:
            return inflate(base.network, base.first_conv[0])
        except ValueError as error:
            raise UserError(f"{name}: cannot be inflated: {error}") from None
    return StackedFrames(base.network) if name in IMAGE or name.startswith(TIMM) else base.network


def _check_input(name: str, base: BaseNetwork, channels: int, frames: int, size: int) -> None:
    """Run a copy on the meta device, where only shapes are computed: a wrong input fails before data are read."""
    network = _on_volumes(name, base._replace(network=copy.deepcopy(base.network).to("meta"))).eval()
    try:
        logits = network(torch.zeros(2, channels, frames, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(
            f"{name}: cannot take {frames} frames of {size} pixels ({reason(error)}); raise sampling.frames or size, "
            "or choose another model"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        raise UserError(f"{name}: does not give one row of logits per image; choose an image classification model")


def _normalisation(name: str, modality: str) -> dict[str, list[float]]:
    if modality == "flow":
        return copy.deepcopy(_FLOW_NORMALISATION)
    name = name.removeprefix(INFLATED)
    mean, std = _IMAGENET
    if name == "video/mvit_v2_s":
        mean, std = _MVIT
    elif name in VIDEO and not name.startswith("video/swin3d"):
        mean, std = _KINETICS
    elif name.startswith(TIMM):
        config = timm_config(name.removeprefix(TIMM))
        mean, std = config.mean, config.std
    return {"mean": [round(255 * m, 6) for m in mean], "std": [round(255 * s, 6) for s in std]}
