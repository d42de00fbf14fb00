"""timm's 2D backbones on images: the L frames of a segment become image channels."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from twostream.errors import UserError, reason
from twostream.networks.layers import BaseNetwork, Family
from twostream.networks.names import TIMM
from twostream.networks.pretrained import check_digest, hub_place
from twostream.networks.weight_files import State, fetch


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm publishes for a network.

    Attributes:
        model: the network's name here, with the tag.
        config: timm's description of the weights.
    """

    model: str
    config: Any

    @property
    def licence(self) -> str | None:
        """As :attr:`layers.Published.licence`."""
        return self.config.license

    def load(self, classes: int, input_size: int) -> State:
        """As :meth:`layers.Published.load`."""
        hub = self.config.hf_hub_id
        url = f"model.safetensors of the Hugging Face repository {hub}" if hub else self.config.url
        name = self.model.removeprefix(TIMM)
        # timm converts its weights as it loads them (names, position grids), so the source is a network, not a file.
        network = fetch(self.model, url, None, lambda: _create(name, 3, classes, 0.0, input_size, pretrained=True))
        file = self.file()
        if file:
            check_digest(self.model, file)
        return network.state_dict()

    def file(self) -> Path | None:
        """As :meth:`layers.Published.file`."""
        if not self.config.hf_hub_id:
            place = hub_place(self.config.url)
            return place if place.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = self.config.hf_hub_id.partition("@")
        own = self.config.hf_hub_filename
        for name in (own,) if own else ("model.safetensors", "pytorch_model.bin"):  # in the order that timm tries
            cached = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(cached, str):
                return Path(cached)
        return None


def _build(name: str, channels: int, classes: int, dropout: float, input_size: int) -> BaseNetwork:
    """Build a timm backbone with random weights for square images: `[B, channels, H, W]` to `[B, classes]`.

    Raises:
        UserError: timm has no such backbone, or it cannot take that many channels or that size.
    """
    name = name.removeprefix(TIMM)
    config = _config(name)
    network = _create(name, channels, classes, dropout, input_size, pretrained=False)
    classifier = _tuple(config.classifier)
    for layer in map(network.get_submodule, classifier):
        # timm scales the initial classifier of EfficientNets and MobileNets by the number of classes alone. For two
        # classes that gives weights of up to 0.7 over a thousand features, and training starts with logits of about
        # 10. torch's own initialisation is better: after five epochs on 118 real clips the validation loss is 1.2 with
        # timm's, and after four epochs 0.55 with torch's.
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return BaseNetwork(network, _tuple(config.first_conv), classifier)


def _create(name: str, channels: int, classes: int, dropout: float, input_size: int, pretrained: bool) -> nn.Module:
    """Create a timm backbone as timm initialises it, with its published weights if `pretrained`.

    Raises:
        UserError: as :func:`_build`.
    """
    import timm

    # Only networks with a fixed grid of positions (mostly transformers) must know the size when they are built.
    size: dict[str, Any] = {"img_size": input_size} if _config(name).fixed_input_size else {}
    try:
        return timm.create_model(
            name, pretrained=pretrained, num_classes=classes, in_chans=channels, drop_rate=dropout, **size
        )
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"timm/{name}: cannot be built for {channels} channels of {input_size} pixels ({reason(error)}); "
            "choose another model or size"
        ) from error


def _config(name: str) -> Any:
    """Return timm's description of an architecture and its weights: mean and std of its input, layers, addresses.

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


def _tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _published(name: str, weights: str) -> TimmWeights | None:
    import timm

    short = name.removeprefix(TIMM)
    architecture = short.partition(".")[0]
    if weights != "pretrained":
        if f"{architecture}.{weights}" not in timm.list_pretrained(f"{architecture}.*"):
            return None
        short = f"{architecture}.{weights}"
    config = _config(short)
    if not (config.hf_hub_id or config.url):
        raise UserError(f"{name}: timm has no pretrained weights for it; use weights: none or the path of a file")
    return TimmWeights(TIMM + short, config)


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    config = _config(name.removeprefix(TIMM))
    return list(config.mean), list(config.std)


FAMILY = Family(_build, lambda name: (1, 224, 224), True, _normalisation, _published)
