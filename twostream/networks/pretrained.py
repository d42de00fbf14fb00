"""Published weights of torchvision: find them by tag, fetch them, check their digest."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostream.core.files import sha256_of
from twostream.errors import UserError
from twostream.networks.weight_files import State, fetch


@dataclass(frozen=True)
class TorchvisionWeights:
    """Weights that torchvision publishes for a network.

    Attributes:
        model: the network's name here.
        weights: a member of torchvision's enumeration for the network.
    """

    model: str
    weights: Any
    licence: str | None = "BSD-3-Clause (torchvision; none is stated for the weights)"

    def load(self, classes: int, input_size: int) -> State:
        """Return the state dict, fetched where torchvision has not cached it.

        Raises:
            UserError: it cannot be fetched, or the file is not the published one.
        """
        place = hub_place(self.weights.url)
        download = functools.partial(self.weights.get_state_dict, progress=True, check_hash=True)
        state = fetch(self.model, self.weights.url, place, download)
        check_digest(self.model, place)
        return state

    def file(self) -> Path | None:
        """Return the file in torchvision's cache, None where it is not there."""
        place = hub_place(self.weights.url)
        return place if place.is_file() else None


def find_torchvision(name: str, weights: str) -> TorchvisionWeights | None:
    """Find the weights of a torchvision network: `pretrained` is its best, a tag is such as `IMAGENET1K_V1`."""
    from torchvision.models import get_model_weights

    choices = get_model_weights(name.removeprefix("video/"))
    if weights == "pretrained":
        return TorchvisionWeights(name, choices.DEFAULT)
    return TorchvisionWeights(name, choices[weights]) if weights in choices.__members__ else None


def hub_place(url: str) -> Path:
    """Return where torch caches a file that it fetches from an address."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def check_digest(name: str, file: Path) -> None:
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
