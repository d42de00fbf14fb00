"""Files of weights: read a state dict, and fetch a file with a library's own download."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
import yaml

from twostream.core.files import is_intact
from twostream.errors import UserError, reason

LICENCE_FILES = ("README.md", "LICENSE", "LICENSE.txt")
State = dict[str, torch.Tensor]
Result = TypeVar("Result")


def read_weights(path: str | Path) -> State:
    """Read the tensors of a `.pth`, `.pt` or `.safetensors` state dict; nothing in the file can run code.

    A training checkpoint that holds the state dict under `state_dict` or `model` is opened too. Prefixes that
    wrappers put before every key (`module.`, `model.`, `network.`, ...) are taken off by :func:`weights.load_weights`.

    Raises:
        UserError: the file is missing, damaged, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such weight file; `weights:` is none, pretrained, one of the library's tags or a path (a "
            "queued experiment sees only files that git or `dvc add` tracks)"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        elif zipfile.is_zipfile(path) and not is_intact(path):  # PyTorch compares no checksums
            raise ValueError("its checksums do not fit")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors, or is damaged; save the network's state_dict() alone and name that file"
        ) from None
    except Exception as error:  # a damaged byte can lead to any error, up to KeyError and struct.error
        raise UserError(f"{path}: cannot be read as weights ({reason(error)}); fetch the file again") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]  # type: ignore[assignment]
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise UserError(f"{path}: is not a state dict (names to tensors); save the network's state_dict() there")
    return dict(state)


def licence_in(files: Iterable[Path]) -> str | None:
    """Return the licence that a model card names in its metadata, else the first line of another file.

    Args:
        files: those of :data:`LICENCE_FILES` that exist, in this order.
    """
    from huggingface_hub import metadata_load

    for file in files:
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
            if file.suffix == ".md":
                card = metadata_load(file) or {}
                if found := card.get("license_name") or card.get("license"):
                    return str(found)
            elif lines := file.read_text(encoding="utf-8").split("\n"):
                return next((line.strip() for line in lines if line.strip()), None)
    return None


def fetch(what: str, url: str, place: Path | None, download: Callable[[], Result]) -> Result:
    """Run a library's own download; where it fails, say in one line where the file can be put by hand.

    Args:
        what: the model's name, for the error.
        url: where the library fetches the file from.
        place: where the library looks for the file before it downloads, or None where no file can be put by hand.
    """
    try:
        return download()
    except (OSError, RuntimeError, ImportError, EOFError, pickle.UnpicklingError) as error:  # offline, or damaged file
        put = f"put the file at {place}, or " if place else ""
        raise UserError(
            f"{what}: pretrained weights could not be fetched ({reason(error)}); get {url} on a machine with a "
            f"network, then {put}write its path in `weights:`"
        ) from error
