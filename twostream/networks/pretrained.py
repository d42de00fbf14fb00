"""Published weights of torchvision and timm: find them by tag, fetch them, check their digest."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostream.core.files import sha256_of
from twostream.errors import UserError
from twostream.networks.backbone2d import create_timm, timm_config
from twostream.networks.names import IMAGE, INFLATED, TIMM, VIDEO
from twostream.networks.weights import State, fetch


@dataclass(frozen=True)
class TorchvisionWeights:
    """Weights that torchvision publishes for a network.

    Attributes:
        model: the network's name here.
        weights: a member of torchvision's enumeration for the network.
    """

    model: str
    weights: Any

    def load(self, classes: int, input_size: int) -> State:
        """Return the state dict, fetched where torchvision has not cached it.

        Raises:
            UserError: it cannot be fetched, or the file is not the published one.
        """
        place = _hub_place(self.weights.url)
        download = functools.partial(self.weights.get_state_dict, progress=True, check_hash=True)
        state = fetch(self.model, self.weights.url, place, download)
        _check_digest(self.model, place)
        return state

    def file(self) -> Path | None:
        """Return the file in torchvision's cache, None where it is not there."""
        place = _hub_place(self.weights.url)
        return place if place.is_file() else None


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm publishes for a network.

    Attributes:
        model: the network's name here, with the tag.
        config: timm's description of the weights.
    """

    model: str
    config: Any

    def load(self, classes: int, input_size: int) -> State:
        """As :meth:`TorchvisionWeights.load`."""
        hub = self.config.hf_hub_id
        url = f"model.safetensors of the Hugging Face repository {hub}" if hub else self.config.url
        name = self.model.removeprefix(TIMM)
        # timm converts its weights as it loads them (names, position grids), so the source is a network, not a file.
        network = fetch(self.model, url, None, lambda: create_timm(name, 3, classes, 0.0, input_size, pretrained=True))
        file = self.file()
        if file:
            _check_digest(self.model, file)
        return network.state_dict()

    def file(self) -> Path | None:
        """As :meth:`TorchvisionWeights.file`."""
        if not self.config.hf_hub_id:
            place = _hub_place(self.config.url)
            return place if place.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = self.config.hf_hub_id.partition("@")
        own = self.config.hf_hub_filename
        for name in (own,) if own else ("model.safetensors", "pytorch_model.bin"):  # in the order that timm tries
            cached = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(cached, str):
                return Path(cached)
        return None


def find_published(name: str, weights: str) -> TorchvisionWeights | TimmWeights | None:
    """Find the weights that `pretrained` (the library's own choice) or a tag means for a network.

    Args:
        name: a model's name; an inflated network starts from its 2D network's weights.
        weights: `pretrained`, or a tag: `IMAGENET1K_V1` of torchvision, `a1_in1k` of timm.

    Returns:
        None when `weights` is neither, so a path.

    Raises:
        UserError: `pretrained` for a network without published weights.
    """
    name = name.removeprefix(INFLATED)
    if name in IMAGE or name in VIDEO:
        from torchvision.models import get_model_weights

        choices = get_model_weights(name.removeprefix("video/"))
        if weights == "pretrained":
            return TorchvisionWeights(name, choices.DEFAULT)
        return TorchvisionWeights(name, choices[weights]) if weights in choices.__members__ else None
    if name.startswith(TIMM):
        return _find_timm(name, weights)
    if weights == "pretrained":
        raise UserError(f"{name}: there are no pretrained weights for it; use weights: none or the path of a file")
    return None


def weights_source(name: str, weights: str) -> dict[str, str | None]:
    """Identify the weights that a network starts from, for a run's configuration.

    Call it after the network is built: before, published weights may not have been fetched.

    Returns:
        `weights` as it was passed, and `sha256`: hexadecimal digest of the weight file, None where there is none.
    """
    if weights == "none":
        return {"weights": weights, "sha256": None}
    published = find_published(name, weights)
    file = published.file() if published else Path(weights)
    return {"weights": weights, "sha256": sha256_of(file) if file else None}


def _find_timm(name: str, weights: str) -> TimmWeights | None:
    import timm

    short = name.removeprefix(TIMM)
    architecture = short.partition(".")[0]
    if weights != "pretrained":
        if f"{architecture}.{weights}" not in timm.list_pretrained(f"{architecture}.*"):
            return None
        short = f"{architecture}.{weights}"
    config = timm_config(short)
    if not (config.hf_hub_id or config.url):
        raise UserError(f"{name}: timm has no pretrained weights for it; use weights: none or the path of a file")
    return TimmWeights(TIMM + short, config)


def _hub_place(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _check_digest(name: str, file: Path) -> None:
    """Compare a cached file with the digest that its publisher wrote into its name.

    torchvision's file names hold the first digits, and Hugging Face's cache links to a file named by the whole digest.
    torch checks the digest only when it downloads; timm and Hugging Face never do.

    Raises:
        UserError: the file has other bytes.
    """
    real = file.resolve()
    found = re.search(r"-([0-9a-f]{8,})\.|^([0-9a-f]{64})$", real.name)
    if not found:
        return
    published, digest = found.group(1) or found.group(2), sha256_of(real)
    if not digest.startswith(published):
        raise UserError(
            f"{name}: {real} is not the published file (SHA-256 {digest[:16]}..., published {published[:16]}); "
            "remove it and it is fetched again"
        )
