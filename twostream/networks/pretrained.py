"""Published weights: torchvision's and timm's, found by tag, fetched, their digest checked and told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twostream.core.files import sha256_of
from twostream.errors import UserError
from twostream.networks.backbone2d import build_timm, timm_config
from twostream.networks.names import IMAGE, INFLATED, TIMM, VIDEO
from twostream.networks.weights import State, fetch


class Published(Protocol):
    """Weights that a library publishes for a network."""

    model: str  # the network's name here, with the tag where timm's names have one

    def load(self, classes: int, input_size: int) -> State:
        """The state dict, fetched where the library has not cached it.

        Raises:
            UserError: it cannot be fetched, or the file is not the published one.
        """
        ...

    def file(self) -> Path | None:
        """The file in the library's cache, None when it is not there."""
        ...


def find_published(name: str, weights: str) -> Published | None:
    """What `pretrained` (the library's own choice) or a tag of the library's means for a network.

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
            return _Torchvision(name, choices.DEFAULT)
        return _Torchvision(name, choices[weights]) if weights in choices.__members__ else None
    if name.startswith(TIMM):
        return _find_timm(name, weights)
    if weights == "pretrained":
        raise UserError(f"{name}: there are no pretrained weights for it; use weights: none or the path of a file")
    return None


def weights_source(name: str, weights: str) -> dict[str, str | None]:
    """Which bytes a network starts from: what a run's configuration says of its weights.

    To be asked once the network is made, since before that published weights may not have been fetched.

    Returns:
        `weights` as given, and `sha256`: hexadecimal digest of the weight file, None when there is none.
    """
    if weights == "none":
        return {"weights": weights, "sha256": None}
    published = find_published(name, weights)
    file = published.file() if published else Path(weights)
    return {"weights": weights, "sha256": sha256_of(file) if file else None}


@dataclass(frozen=True)
class _Torchvision:
    model: str
    weights: Any  # a member of torchvision's enumeration for the model

    def load(self, classes: int, input_size: int) -> State:
        state = fetch(
            self.model,
            self.weights.url,
            self._place(),
            lambda: self.weights.get_state_dict(progress=True, check_hash=True),
        )
        _check_digest(self.model, self._place())
        return state

    def file(self) -> Path | None:
        return self._place() if self._place().is_file() else None

    def _place(self) -> Path:
        return _hub_place(self.weights.url)


@dataclass(frozen=True)
class _Timm:
    model: str
    config: Any  # timm's description of the weights

    def load(self, classes: int, input_size: int) -> State:
        hub = self.config.hf_hub_id
        url = f"model.safetensors of the Hugging Face repository {hub}" if hub else self.config.url
        short = self.model.removeprefix(TIMM)
        # timm converts its weights as it loads them (names, position grids), so the source is a network, not a file.
        state = fetch(
            self.model,
            url,
            None,
            lambda: build_timm(short, 3, classes, 0.0, input_size, pretrained=True).state_dict(),
        )
        file = self.file()
        if file:
            _check_digest(self.model, file)
        return state

    def file(self) -> Path | None:
        if not self.config.hf_hub_id:
            place = _hub_place(self.config.url)
            return place if place.is_file() else None
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = self.config.hf_hub_id.partition("@")
        given = self.config.hf_hub_filename
        for name in (given,) if given else ("model.safetensors", "pytorch_model.bin"):  # in the order that timm tries
            cached = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(cached, str):
                return Path(cached)
        return None


def _find_timm(name: str, weights: str) -> _Timm | None:
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
    return _Timm(TIMM + short, config)


def _hub_place(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _check_digest(name: str, file: Path) -> None:
    """Compare a cached file with the digest that its publisher wrote into its name.

    torchvision has the first digits there, Hugging Face's cache the whole digest in the name that a link points to. The
    libraries look at them when they download, if at all: torch only then, timm and Hugging Face never.

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
