"""One function that makes any network by its name, and the list of those there are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from twostream.errors import UserError
from twostream.networks.backbone2d import StackedFrames, build_resnet, build_timm, timm_config
from twostream.networks.cnn3d import CNN3Dv1, CNN3Dv2
from twostream.networks.flow3d import Flow3D
from twostream.networks.inflate import inflate
from twostream.networks.names import CHANNELS, IMAGE, INFLATED, KNOWN, MODALITIES, TIMM, VIDEO, check_model_name
from twostream.networks.pretrained import find_published
from twostream.networks.torchvision_video import build_video
from twostream.networks.weights import load_weights, read_weights

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
KINETICS = ([0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989])
HALF = ([0.45] * 3, [0.225] * 3)
# Zero motion is code 128. The scale is that of ImageNet's normalised pixels (0.226 * 255), as in Wang et al. 2016.
FLOW_NORMALISATION = {"mean": [128.0, 128.0], "std": [57.6, 57.6]}

# [L, H, W] of each network's usual input: (rgb, flow). Stacks of 5 flow frames as in Wang et al. 2016.
_USUAL = {
    "cnn3d_v1": ((16, 112, 112), (16, 112, 112)),
    "cnn3d_v2": ((16, 128, 128), (16, 128, 128)),
    "flow3d": ((16, 96, 96), (16, 96, 96)),
    **{name: ((16, 112, 112), (16, 112, 112)) for name in VIDEO if name.endswith("_18")},
    "video/s3d": ((64, 224, 224), (64, 224, 224)),
    "video/mvit_v2_s": ((16, 224, 224), (16, 224, 224)),
    **{f"video/swin3d_{size}": ((32, 224, 224), (32, 224, 224)) for size in "tsb"},
}
_USUAL_IMAGE = ((1, 224, 224), (5, 224, 224))
_USUAL_INFLATED = ((16, 224, 224), (16, 224, 224))
_EXAMPLES = (
    *(TIMM + name for name in ("tf_efficientnet_lite0", "mobilenetv3_large_100", "regnety_016", "convnext_tiny")),
    f"{INFLATED}{TIMM}tf_efficientnet_lite0",
)


class SegmentConsensus(nn.Module):
    """A network over the segments of a clip: the mean of their logits (Wang et al. 2016, equation 1).

    Takes float32 `[N, S, C, L, H, W]`, normalised with `normalisation`, returns `[N, classes]`.

    Attributes:
        network: `[B, C, L, H, W]` to `[B, classes]`.
        normalisation: {"mean": [...], "std": [...]}, one value a channel on the scale of stored uint8 values: the
            input is (v - mean) / std.
        new_parameters: names of the parameters that start at random in a network with loaded weights, so that they can
            learn faster than the others; empty when nothing was loaded, since then all start alike.
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
    """Make a network on views of `frames` frames of `input_size` pixels square.

    Random weights follow from torch's global seed. RGB is normalised as the named architecture's published weights
    were trained, whether or not they are used; flow by its code (128 is zero, 57.6 the scale).

    Args:
        name: as `check_model_name` takes it.
        modality: `rgb` (3 channels) or `flow` (2 channels).
        dropout: probability before the last layer.
        weights: `none`, `pretrained` or a tag (the library's, fetched) or the path of a state dict. From files too, the
            first convolution is adapted to other channels and a classifier of another size starts at random. An
            inflated network takes the weights of its 2D network, or its own; without weights its 2D network is drawn
            at random and inflated alike.

    Raises:
        UserError: no such model, an input it cannot take, weights that are missing, cannot be fetched or do not fit.
    """
    try:
        check_model_name(name, modality)
    except ValueError as error:
        raise UserError(str(error)) from None
    channels = CHANNELS[modality]
    core, on_volumes, first_conv, classifier = _make(name, channels, classes, frames, dropout, input_size)
    _check_input(name, on_volumes(copy.deepcopy(core).to("meta")), channels, frames, input_size)
    if weights == "none":
        return SegmentConsensus(on_volumes(core), _normalisation(name, modality), [])
    published = find_published(name, weights)
    state = published.load(classes, input_size) if published else read_weights(weights)
    network = None
    if name.startswith(INFLATED) and any(tensor.ndim == 5 for tensor in state.values()):
        network = on_volumes(core)  # inflated before, and trained since
    new = load_weights(
        core,
        state,
        where=f"{name}: {weights}",
        first_conv=first_conv,
        classifier=classifier,
        frame_channels=channels,
    )
    network = network or on_volumes(core)
    prefix = "network." if network is core else "network.backbone."
    normalisation = _normalisation(published.model if published else name, modality)
    return SegmentConsensus(network, normalisation, [prefix + parameter for parameter in new])


def list_models(classes: int = 51) -> list[dict[str, Any]]:
    """Every model by name and modality, with its usual input and its number of parameters.

    Returns:
        Rows of `name`, `modality`, `input` ([channels, frames, height, width] of one segment) and `parameters`. Of
        timm's backbones a few stand for all; any other goes by `timm/<name>` and `inflated/timm/<name>` alike.
    """
    rows = []
    for name in (*KNOWN, *_EXAMPLES):
        image = _USUAL_INFLATED if name.startswith(INFLATED) else _USUAL_IMAGE
        for modality, usual in zip(MODALITIES, _USUAL.get(name, image), strict=True):
            channels = CHANNELS[modality]
            with torch.device("meta"):
                made = _make(name, channels, classes, usual[0], 0.0, usual[1])
                network = made.on_volumes(made.core)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            rows.append({"name": name, "modality": modality, "input": [channels, *usual], "parameters": parameters})
    return rows


class _Made(NamedTuple):
    core: nn.Module  # what weight files hold
    on_volumes: Callable[[nn.Module], nn.Module]  # core to a network on [B, C, L, H, W]
    first_conv: tuple[str, ...]  # names of modules, as they stand in weight files
    classifier: tuple[str, ...]


def _make(name: str, channels: int, classes: int, frames: int, dropout: float, input_size: int) -> _Made:
    if name == "cnn3d_v1":
        return _Made(CNN3Dv1(channels, classes, dropout), _itself, ("features.0",), ("classifier",))
    if name == "cnn3d_v2":
        return _Made(CNN3Dv2(channels, classes, dropout), _itself, ("features.0",), ("classifier",))
    if name == "flow3d":
        return _Made(Flow3D(channels, classes, dropout), _itself, ("features.1",), ("classifier",))
    if name in VIDEO:
        network, first_conv, classifier = build_video(name.removeprefix("video/"), channels, classes, dropout)
        return _Made(network, _itself, (first_conv,), (classifier,))
    if name.startswith(INFLATED):
        images = _make(name.removeprefix(INFLATED), channels, classes, 1, dropout, input_size)
        return images._replace(on_volumes=lambda core: _inflated(name, core, images.first_conv))
    if name in IMAGE:
        backbone, first_conv, classifier = build_resnet(name, channels * frames, classes, dropout)
        return _Made(backbone, StackedFrames, (first_conv,), (classifier,))
    short = name.removeprefix(TIMM)
    config = timm_config(short)
    backbone = build_timm(short, channels * frames, classes, dropout, input_size, pretrained=False)
    classifier = _names(config.classifier)
    for layer in map(backbone.get_submodule, classifier):
        # timm draws that of EfficientNets and MobileNets by the number of classes alone: for two, weights of up to 0.7
        # over a thousand features, and training starts with logits of about 10. Four epochs on 118 real clips end at a
        # validation loss of 0.55 as it is here, five end at 1.2 as timm has it.
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return _Made(backbone, StackedFrames, _names(config.first_conv), classifier)


def _itself(network: nn.Module) -> nn.Module:
    return network


def _inflated(name: str, network: nn.Module, first_conv: tuple[str, ...]) -> nn.Module:
    try:
        if len(first_conv) != 1:
            raise ValueError("its image goes to several convolutions at once; choose another network")
        return inflate(network, first_conv[0])
    except ValueError as error:
        raise UserError(f"{name}: cannot be inflated: {error}") from None


def _names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _check_input(name: str, network: nn.Module, channels: int, frames: int, size: int) -> None:
    """Run shapes alone through a network on the meta device: an input it cannot take fails before data are read."""
    try:
        logits = network.eval()(torch.zeros(2, channels, frames, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: cannot take {frames} frames of {size} pixels ({reason}); raise sampling.frames or size, "
            "or choose another model"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        raise UserError(f"{name}: does not give one row of logits an image; choose an image classification model")


def _normalisation(name: str, modality: str) -> dict[str, list[float]]:
    if modality == "flow":
        return copy.deepcopy(FLOW_NORMALISATION)
    name = name.removeprefix(INFLATED)
    mean, std = IMAGENET
    if name == "video/mvit_v2_s":
        mean, std = HALF
    elif name in VIDEO and not name.startswith("video/swin3d"):
        mean, std = KINETICS
    elif name.startswith(TIMM):
        config = timm_config(name.removeprefix(TIMM))
        mean, std = config.mean, config.std
    return {"mean": [round(255 * m, 6) for m in mean], "std": [round(255 * s, 6) for s in std]}
