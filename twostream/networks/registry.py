"""Build any network by its name, and list the networks.

To add a 3D network:
1. write `networks/<module>.py` with a class `(channels, classes, dropout)` from `[B, C, L, H, W]` to `[B, classes]` and
   a `FAMILY` that builds it, as flow3d.py does;
2. add its name and module to `VOLUME` in names.py.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from twostream.core.files import sha256_of
from twostream.errors import UserError, reason
from twostream.networks.layers import BaseNetwork, Family, Published, StackedFrames
from twostream.networks.names import CHANNELS, INFLATED, KNOWN, MODALITIES, TIMM, check_model_name, module_of
from twostream.networks.weight_files import LICENCE_FILES, licence_in, read_weights

_EXAMPLES = (
    *(TIMM + name for name in ("tf_efficientnet_lite0", "mobilenetv3_large_100", "regnety_016", "convnext_tiny")),
    f"{INFLATED}{TIMM}tf_efficientnet_lite0",
)


class SegmentConsensus(nn.Module):
    """A network over the segments of a clip: the mean of their logits (Wang et al. 2016, equation 1).

    Takes float32 `[N, S, C, L, H, W]`, normalised with `normalisation`, returns `[N, classes]`.

    Attributes:
        network: `[B, C, L, H, W]` to `[B, classes]`.
        normalisation: {"mean": [...], "std": [...]}, one value per channel on the scale of stored uint8 values: the
            input is (v - mean) / std.
        classifier: names of the layers whose shape follows the number of classes.
        new_parameters: names of the parameters that start at random in a network with loaded weights, so that they can
            learn faster than the others; empty when nothing was loaded, since then all parameters are new.
    """

    def __init__(
        self,
        network: nn.Module,
        normalisation: dict[str, list[float]],
        classifier: list[str],
        new_parameters: list[str],
    ):
        super().__init__()
        self.network = network
        self.normalisation = normalisation
        self.classifier = classifier
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
    is_known: bool = False,
) -> SegmentConsensus:
    """Build a network for views of `frames` frames of `input_size` x `input_size` pixels.

    Random weights follow from torch's global seed. RGB is normalised as the published weights of the architecture
    expect, whether or not they are used; flow by its code (128 is zero) and the family's scale.

    Args:
        name: as `check_model_name` takes it.
        modality: `rgb` (3 channels) or `flow` (2 channels).
        dropout: probability before the last layer.
        weights: `none`, `pretrained`, a tag of the library (fetched) or the path of a state dict. The first convolution
            is adapted to other channels, and a classifier of another size starts at random. An inflated network takes
            the weights of its 2D network or its own; without weights, the random weights of its 2D network are
            inflated.
        is_known: the network was trained on this input, so it need not be tried, which takes two seconds of imports.

    Raises:
        UserError: no such model, an input it cannot take, weights that are missing, cannot be fetched or do not fit.
    """
    try:
        check_model_name(name, modality)
    except ValueError as error:
        raise UserError(str(error)) from None
    channels = CHANNELS[modality]
    base = _build_base(name, channels, classes, frames, dropout, input_size)
    if not is_known:
        _check_input(name, base, channels, frames, input_size)
    if weights == "none":
        network = _on_volumes(name, base)
        return SegmentConsensus(network, _normalisation(name, modality), _prefixed(base, network, base.classifier), [])
    published = find_published(name, weights)
    state = published.load(classes, input_size) if published else read_weights(weights)
    load_weights = partial(_part("weights").load_weights, frame_channels=channels, flow_gain=_family(name).flow_gain)
    if name.startswith(INFLATED) and any(tensor.ndim == 5 for tensor in state.values()):
        network = _on_volumes(name, base)  # first, since these are weights of a network that was inflated before
        new = load_weights(base, state, where=f"{name}: {weights}")
    else:
        new = load_weights(base, state, where=f"{name}: {weights}")
        network = _on_volumes(name, base)
    normalisation = _normalisation(published.model if published else name, modality)
    classifier, new = (_prefixed(base, network, names) for names in (base.classifier, new))
    return SegmentConsensus(network, normalisation, classifier, new)


def _prefixed(base: BaseNetwork, network: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names of the base's layers or parameters as a :class:`SegmentConsensus` of `network` has them."""
    prefix = "network." if network is base.network else "network.backbone."
    return [prefix + name for name in names]


def find_published(name: str, weights: str) -> Published | None:
    """Find the weights that `pretrained` (the library's own choice) or a tag means for a network.

    Args:
        name: a model's name; an inflated network starts from its 2D network's weights.
        weights: `pretrained`, or a tag: `IMAGENET1K_V1` of torchvision, `a1_in1k` of timm.

    Returns:
        None when `weights` is neither, so a path.

    Raises:
        UserError: `pretrained` for a network without published weights.
    """
    published = _family(name).published(name.removeprefix(INFLATED), weights)
    if weights == "pretrained" and published is None:
        raise UserError(f"{name}: there are no pretrained weights for it; use weights: none or the path of a file")
    return published


def fetch_pretrained(name: str) -> Published:
    """Fetch the weights that `pretrained` means for a network, unless they are on this machine; return them.

    Raises:
        UserError: no such network, no such weights, or they cannot be fetched.
    """
    try:
        check_model_name(name, "rgb")
    except ValueError as error:
        raise UserError(str(error)) from None
    published = find_published(name, "pretrained")
    assert published  # or `find_published` would have raised
    published.load(classes=1, input_size=usual_input(name, "rgb")[-1])
    return published


def weights_source(name: str, weights: str) -> dict[str, str | None]:
    """Identify the weights that a network starts from, for a run's configuration.

    Call it after the network is built: before, published weights may not have been fetched.

    Returns:
        `weights` as it was passed; `sha256`: hexadecimal digest of the weight file; `licence`: what its
        publisher, or a file in its folder, states. None where there is none.
    """
    if weights == "none":
        return {"weights": weights, "sha256": None, "licence": None}
    published = find_published(name, weights)
    file = published.file() if published else Path(weights)
    beside = [path for one in LICENCE_FILES if (path := Path(weights).with_name(one)).is_file()]
    return {
        "weights": weights,
        "sha256": sha256_of(file) if file else None,
        "licence": published.licence if published else licence_in(beside),
    }


def list_models(classes: int = 51) -> list[dict[str, Any]]:
    """List every model by name and modality, with its usual input and its number of parameters.

    Returns:
        Rows of `name`, `modality`, `input` ([channels, frames, height, width] of one segment) and `parameters`. Of
        timm's backbones only a few examples are listed; `timm/<name>` and `inflated/timm/<name>` build any of them.
    """
    rows = []
    for name in (*KNOWN, *_EXAMPLES):
        for modality in MODALITIES:
            channels, usual = CHANNELS[modality], usual_input(name, modality)
            with torch.device("meta"):
                network = _on_volumes(name, _build_base(name, channels, classes, usual[0], 0.0, usual[1]))
            parameters = sum(parameter.numel() for parameter in network.parameters())
            rows.append({"name": name, "modality": modality, "input": [channels, *usual], "parameters": parameters})
    return rows


def _part(module: str) -> Any:
    return importlib.import_module(f"twostream.networks.{module}")


def _family(name: str) -> Family:
    return _part(module_of(name)).FAMILY


def usual_input(name: str, modality: str) -> tuple[int, int, int]:
    """Return [L, H, W] of a segment that a network usually takes."""
    family = _family(name)
    if name.startswith(INFLATED):
        return 16, 224, 224
    if family.images and modality == "flow":
        return 5, 224, 224  # stacks of 5 flow frames as in Wang et al. 2016
    return family.usual_input(name)


def _build_base(name: str, channels: int, classes: int, frames: int, dropout: float, input_size: int) -> BaseNetwork:
    """Build the network that the weight files of a model belong to, with random weights.

    For `resnet50` this is a 2D network on `channels * frames` channels, for `inflated/resnet50` one on `channels`; a 3D
    network is its own base.
    """
    family = _family(name)
    stacked = family.images and not name.startswith(INFLATED)
    return family.build(
        name.removeprefix(INFLATED), channels * frames if stacked else channels, classes, dropout, input_size
    )


def _on_volumes(name: str, base: BaseNetwork) -> nn.Module:
    """Turn a base into a network on `[B, C, L, H, W]`: inflate it (in place), feed it stacked frames, or leave it."""
    if name.startswith(INFLATED):
        if len(base.first_conv) != 1:
            raise UserError(f"{name}: cannot be inflated: several convolutions read its image; choose another network")
        try:
            return _part("inflate").inflate(base.network, base.first_conv[0])
        except ValueError as error:
            raise UserError(f"{name}: cannot be inflated: {error}") from None
    return StackedFrames(base.network) if _family(name).images else base.network


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
    family = _family(name)
    if modality == "flow":
        return {"mean": [128.0] * 2, "std": [family.flow_scale] * 2}  # zero motion is code 128
    mean, std = family.normalisation(name.removeprefix(INFLATED))
    return {"mean": [round(255 * m, 6) for m in mean], "std": [round(255 * s, 6) for s in std]}
