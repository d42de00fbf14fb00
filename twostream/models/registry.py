"""One function that makes any network by its name, and the list of those there are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from twostream.errors import UserError
from twostream.models.backbone2d import StackedFrames, build_resnet, build_timm, timm_config
from twostream.models.cnn3d import CNN3Dv1, CNN3Dv2
from twostream.models.flow3d import Flow3D
from twostream.models.names import IMAGE, KNOWN, MODALITIES, TIMM, VIDEO, check_model_name
from twostream.models.video import build_video
from twostream.models.weights import State, fetch, load_weights, read_weights

CHANNELS = {"rgb": 3, "flow": 2}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
KINETICS = ([0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989])
# Zero motion is code 128. The scale is that of ImageNet's normalised pixels (0.226 * 255), as in Wang et al. 2016.
FLOW_NORMALISATION = {"mean": [128.0, 128.0], "std": [57.6, 57.6]}

# [L, H, W] of each network's usual input: (rgb, flow). Stacks of 5 flow frames as in Wang et al. 2016.
_USUAL = {
    "cnn3d_v1": ((16, 112, 112), (16, 112, 112)),
    "cnn3d_v2": ((16, 128, 128), (16, 128, 128)),
    "flow3d": ((16, 96, 96), (16, 96, 96)),
    "video/s3d": ((64, 224, 224), (64, 224, 224)),
    **{name: ((16, 112, 112), (16, 112, 112)) for name in VIDEO if name != "video/s3d"},
}
_USUAL_IMAGE = ((1, 224, 224), (5, 224, 224))
_TIMM_EXAMPLES = ("tf_efficientnet_lite0", "mobilenetv3_large_100", "regnety_016", "convnext_tiny")


class SegmentConsensus(nn.Module):
    """A network over the segments of a clip: the mean of their logits (Wang et al. 2016, equation 1).

    Takes float32 `[N, S, C, L, H, W]`, normalised with `normalisation`, returns `[N, classes]`.

    Attributes:
        network: `[B, C, L, H, W]` to `[B, classes]`.
        normalisation: {"mean": [...], "std": [...]}, one value a channel on the scale of stored uint8 values: the
            input is (v - mean) / std.
    """

    def __init__(self, network: nn.Module, normalisation: dict[str, list[float]]):
        super().__init__()
        self.network = network
        self.normalisation = normalisation

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
        weights: `none`, `pretrained` (the library's, fetched) or the path of a state dict. From files too, the first
            convolution is adapted to other channels and a classifier of another size starts at random.

    Raises:
        UserError: no such model, an input it cannot take, weights that are missing, cannot be fetched or do not fit.
    """
    try:
        check_model_name(name, modality)
    except ValueError as error:
        raise UserError(str(error)) from None
    made = _make(name, CHANNELS[modality], classes, frames, dropout, input_size)
    _check_input(name, made.network, CHANNELS[modality], frames, input_size)
    if weights != "none":
        state = _pretrained(name, classes, input_size) if weights == "pretrained" else read_weights(weights)
        network = made.network.backbone if isinstance(made.network, StackedFrames) else made.network
        load_weights(
            network,
            state,
            where=f"{name}: {'pretrained' if weights == 'pretrained' else weights}",
            first_conv=made.first_conv,
            classifier=made.classifier,
            frame_channels=CHANNELS[modality],
        )
    return SegmentConsensus(made.network, _normalisation(name, modality))


def list_models(classes: int = 51) -> list[dict[str, Any]]:
    """Every model by name and modality, with its usual input and its number of parameters.

    Returns:
        Rows of `name`, `modality`, `input` ([channels, frames, height, width] of one segment) and `parameters`. Of
        timm's backbones a few stand for all; any other goes by `timm/<name>` alike.
    """
    rows = []
    for name in (*KNOWN, *(f"{TIMM}{example}" for example in _TIMM_EXAMPLES)):
        for modality, usual in zip(MODALITIES, _USUAL.get(name, _USUAL_IMAGE), strict=True):
            channels = CHANNELS[modality]
            with torch.device("meta"):
                network = _make(name, channels, classes, usual[0], 0.0, usual[1]).network
            parameters = sum(parameter.numel() for parameter in network.parameters())
            rows.append({"name": name, "modality": modality, "input": [channels, *usual], "parameters": parameters})
    return rows


class _Made(NamedTuple):
    network: nn.Module  # [B, C, L, H, W] to [B, classes]
    first_conv: tuple[str, ...]  # names of modules, as they stand in weight files
    classifier: tuple[str, ...]


def _make(name: str, channels: int, classes: int, frames: int, dropout: float, input_size: int) -> _Made:
    if name == "cnn3d_v1":
        return _Made(CNN3Dv1(channels, classes, dropout), ("features.0",), ("classifier",))
    if name == "cnn3d_v2":
        return _Made(CNN3Dv2(channels, classes, dropout), ("features.0",), ("classifier",))
    if name == "flow3d":
        return _Made(Flow3D(channels, classes, dropout), ("features.1",), ("classifier",))
    if name in IMAGE:
        backbone, first_conv, classifier = build_resnet(name, channels * frames, classes, dropout)
        return _Made(StackedFrames(backbone), (first_conv,), (classifier,))
    if name in VIDEO:
        network, first_conv, classifier = build_video(name.removeprefix("video/"), channels, classes, dropout)
        return _Made(network, (first_conv,), (classifier,))
    short = name.removeprefix(TIMM)
    config = timm_config(short)
    backbone = build_timm(short, channels * frames, classes, dropout, input_size, pretrained=False)
    return _Made(StackedFrames(backbone), _names(config.first_conv), _names(config.classifier))


def _names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given or ())


def _check_input(name: str, network: nn.Module, channels: int, frames: int, size: int) -> None:
    """Run shapes alone through the network, so that an input it cannot take fails before any data is read."""
    trial = copy.deepcopy(network).to("meta").eval()
    try:
        logits = trial(torch.zeros(2, channels, frames, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: cannot take {frames} frames of {size} pixels ({reason}); raise sampling.frames or size, "
            "or choose another model"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError(f"{name}: does not give one row of logits an image; choose an image classification model")


def _pretrained(name: str, classes: int, input_size: int) -> State:
    if name in VIDEO or name in IMAGE:
        from torchvision.models import get_model_weights

        weights = get_model_weights(name.removeprefix("video/")).DEFAULT
        file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
        return fetch(name, weights.url, file, lambda: weights.get_state_dict(progress=True, check_hash=True))
    if name.startswith(TIMM):
        short = name.removeprefix(TIMM)
        config = timm_config(short)
        if not (config.hf_hub_id or config.url):
            raise UserError(f"{name}: timm has no pretrained weights for it; use weights: none or the path of a file")
        url = f"model.safetensors of the Hugging Face repository {config.hf_hub_id}" if config.hf_hub_id else config.url
        # timm converts its weights as it loads them (names, position grids), so the source is a network, not a file.
        return fetch(
            name, url, None, lambda: build_timm(short, 3, classes, 0.0, input_size, pretrained=True).state_dict()
        )
    raise UserError(f"{name}: there are no pretrained weights for it; use weights: none or the path of a file")


def _normalisation(name: str, modality: str) -> dict[str, list[float]]:
    if modality == "flow":
        return copy.deepcopy(FLOW_NORMALISATION)
    mean, std = IMAGENET
    if name in VIDEO:
        mean, std = KINETICS
    elif name.startswith(TIMM):
        config = timm_config(name.removeprefix(TIMM))
        mean, std = config.mean, config.std
    return {"mean": [round(255 * m, 6) for m in mean], "std": [round(255 * s, 6) for s in std]}
