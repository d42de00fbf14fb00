"""Networks of `transformers`: VideoMAE, V-JEPA 2, TimeSformer, ... on clips; DINOv2, DINOv3, ViT, ... on each frame.

A model is `hf/<folder>`, a folder that `save_pretrained` wrote, or `hf/<id>` or `hf/<id>@<revision>` on the hub. Only
JSON and safetensors files are read. Nothing in them can run code, and code that comes with a model is never used.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from twostream.errors import UserError, reason
from twostream.networks.layers import BaseNetwork, DropoutLinear, Family, imagenet
from twostream.networks.names import HF
from twostream.networks.weight_files import LICENCE_FILES, State, fetch, licence_in, read_weights

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
_CHANNELS = ("num_channels", "in_chans")  # names of the input's channels in configurations
# The architecture stands in other keys. These name code, places of code, or what the body does not have.
_IGNORED = {"auto_map", "quantization_config", "attn_implementation", "experts_implementation", "adapters"}
_IGNORED |= {"architectures", "id2label", "label2id", "dtype", "torch_dtype", "transformers_version"}


class Transformer(nn.Module):
    """The body of a transformer, the mean of its tokens, and a linear classifier.

    Takes float32 `[B, C, L, H, W]`, returns `[B, classes]`. A body for images sees each frame, and its features are
    averaged over the frames. A class token, where there is one, is a half of the features.
    """

    def __init__(self, body: nn.Module, classes: int, dropout: float):
        super().__init__()
        from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES as VIDEO

        config: Any = body.config
        self.body = body
        self._sees_clips = config.model_type in VIDEO
        self._options = {"skip_predictor": True} if config.model_type == "vjepa2" else {}
        self._has_class_token = any(name.endswith("cls_token") for name, _ in body.named_parameters())
        self.classifier = DropoutLinear(_width(config) * (1 + self._has_class_token), classes, dropout)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        clips = volume.transpose(1, 2)  # [B, L, C, H, W]
        if self._sees_clips:
            return self.classifier(self._features(clips))
        return self.classifier(self._features(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(1))

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.body(images, **self._options).last_hidden_state
        if tokens.ndim == 4:  # [B, D, H, W] of a convolutional body
            tokens = tokens.flatten(2).transpose(1, 2)
        parts = [tokens.mean(1), *([tokens[:, 0]] if self._has_class_token else [])]
        # Some bodies leave the last normalisation to their own classifier.
        return functional.layer_norm(torch.cat(parts, 1), (self.classifier.in_features,))


def architecture(name: str) -> dict[str, Any]:
    """Return what the body of a model is built from, as JSON values.

    Args:
        name: `hf/` and a folder, an id, or this architecture itself as JSON.

    Raises:
        UserError: it cannot be found.
    """
    place = name.removeprefix(HF)
    if place.startswith("{"):
        return json.loads(place)
    values = _read_json(name, CONFIG)
    if values is None:
        raise UserError(f"{name}: has no {CONFIG}; give a folder that save_pretrained wrote, or an id of the hub")
    return {key: value for key, value in values.items() if key not in _IGNORED and not key.startswith("_")}


@dataclass(frozen=True)
class HubWeights:
    """The safetensors files of a folder or of the hub."""

    model: str

    @property
    def licence(self) -> str | None:
        """As :attr:`layers.Published.licence`: of the model card or the licence file."""
        with contextlib.suppress(UserError):  # no network
            return licence_in([file for name in LICENCE_FILES if (file := _file(self.model, name))])
        return None

    def load(self, classes: int, input_size: int) -> State:
        """As :meth:`layers.Published.load`."""
        body = _body(self.model, None, input_size)
        # `transformers` knows the names of earlier versions, and of the parts of a network with a classifier.
        try:
            loaded, found = type(body).from_pretrained(
                None, config=body.config, state_dict=self._state(), output_loading_info=True, dtype=torch.float32
            )
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{self.model}: {WEIGHTS} does not fit {CONFIG} ({reason(error)})") from error
        wanted = _without_extras(body).state_dict()
        if missing := [key for key in wanted if key in found["missing_keys"]]:
            raise UserError(
                f"{self.model}: {WEIGHTS} lacks {len(missing)} of the {len(wanted)} tensors of {CONFIG}, such as "
                f"{missing[0]}; fetch both files again"
            )
        state = loaded.state_dict()
        return {f"body.{key}": state[key] for key in wanted}

    def file(self) -> Path | None:
        """As :meth:`layers.Published.file`; of several files, their index."""
        return _file(self.model, WEIGHTS, cached=True) or _file(self.model, INDEX, cached=True)

    def _state(self) -> State:
        if file := _file(self.model, WEIGHTS):
            return read_weights(file)
        shards = (_read_json(self.model, INDEX) or {}).get("weight_map", {})
        if not shards:
            raise UserError(
                f"{self.model}: has no {WEIGHTS}; other formats can run code and are not read: "
                "save_pretrained(folder) writes it"
            )
        state: State = {}
        for name in sorted(set(map(str, shards.values()))):
            file = _file(self.model, Path(name).name)
            if file is None:
                raise UserError(f"{self.model}: {name} is missing; fetch it again")
            state.update(read_weights(file))
        return state


def _build(name: str, channels: int, classes: int, dropout: float, input_size: int) -> BaseNetwork:
    """Build a network with random weights.

    Raises:
        UserError: `transformers` is not installed or too old, or the architecture is not one of its own.
    """
    network = Transformer(_without_extras(_body(name, channels, input_size)), classes, dropout)
    convolutions = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Conv3d)]
    return BaseNetwork(network, tuple(convolutions[:1]), ("classifier",))


def _body(name: str, channels: int | None, input_size: int) -> Any:
    """Build a body with random weights; `channels` of its input, None for its own."""
    try:
        from transformers import AutoModel
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(f"{name}: needs transformers ({reason(error)}): pip install -e '.[hf]'") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    values = architecture(name)
    kind = str(values.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{name}: transformers has no model_type {kind!r}, and code that comes with a model is not run")
    try:
        config = CONFIG_MAPPING[kind].from_dict(values)
        for key in _CHANNELS:
            if channels and hasattr(config, key):
                setattr(config, key, channels)
        if hasattr(config, "crop_size"):  # V-JEPA 2 takes its rotary positions from it
            config.crop_size = input_size
        body = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # a wrong value can lead to any error
        raise UserError(f"{name}: {CONFIG} cannot be built ({reason(error)})") from error
    if not any(hasattr(config, key) for key in _CHANNELS) or not _width(config):
        raise UserError(f"{name}: {kind} does not read images; choose a network for images or videos")
    return body


def _width(config: Any) -> int:
    """Return the width of the tokens that a body gives, 0 where it is not known."""
    return getattr(config, "hidden_size", 0) or [0, *getattr(config, "hidden_sizes", [])][-1]


def _without_extras(body: Any) -> Any:
    """Remove the parts that no feature comes from: a pooler, and what V-JEPA 2 learns with."""
    for part in ("pooler", "predictor"):
        if isinstance(getattr(body, part, None), nn.Module):
            setattr(body, part, None)
    return body


def _usual_input(name: str) -> tuple[int, int, int]:
    values = architecture(name)
    size = values.get("image_size") or values.get("crop_size") or 224
    side = size if isinstance(size, int) else size[0]
    return values.get("num_frames") or values.get("frames_per_clip") or 1, side, side


def _normalisation(name: str) -> tuple[list[float], list[float]]:
    for file in _PREPROCESSORS if not name.startswith(f"{HF}{{") else ():
        values = _read_json(name, file) or {}
        if "image_mean" in values and "image_std" in values:
            return list(values["image_mean"]), list(values["image_std"])
    return imagenet(name)


def _read_json(name: str, file: str) -> dict[str, Any] | None:
    """Return the content of a JSON file of a model, None where it has no such file."""
    path = _file(name, file)
    if path is None:
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); fetch it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is not a JSON object; fetch it again")
    return values


def _file(name: str, file: str, cached: bool = False) -> Path | None:
    """Return the path of a file of a model, None where it has no such file.

    Args:
        cached: do not fetch it.
    """
    place = name.removeprefix(HF)
    if Path(place).is_dir():
        path = Path(place, file)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    identity, _, revision = place.partition("@")

    def download() -> Path | None:
        try:
            return Path(hf_hub_download(identity, file, revision=revision or None))
        except LocalEntryNotFoundError:  # no network
            raise
        except EntryNotFoundError:
            return None
        except HfHubHTTPError as error:
            raise UserError(f"{name}: cannot be fetched ({reason(error)}); check the id, and `hf auth login`") from None

    try:
        found = try_to_load_from_cache(identity, file, revision=revision or None)
        if found or cached:
            return Path(found) if isinstance(found, str) else None
        return fetch(name, f"{file} of the Hugging Face model {identity}", None, download)
    except HFValidationError:
        raise UserError(f"{name}: is neither a folder nor an id such as facebook/dinov2-small") from None


def _published(name: str, weights: str) -> HubWeights | None:
    return HubWeights(name) if weights == "pretrained" else None


FAMILY = Family(_build, _usual_input, normalisation=_normalisation, published=_published)
