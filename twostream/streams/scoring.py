"""Score clips with a trained stream: the mean of its logits over views (segments x crops x flips)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator

from twostream.core.allocator import keep_freed_memory
from twostream.core.parallel import progress
from twostream.errors import UserError, reason, validation_reason
from twostream.networks.names import CHANNELS
from twostream.networks.weights import read_weights
from twostream.params import Name, Runtime, Sampling, Score, Section
from twostream.streams.network import build_network
from twostream.views.loading import Example, ScoringViews, make_loader, normalise

_VIEWS_AT_ONCE = 64  # bounds memory whatever the number of views


class Normalisation(Section):
    """Mean and standard deviation per channel, on the scale of stored uint8 values: the input is (v - mean) / std."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class StreamConfig(Section):
    """The content of `config.json`: all that prediction needs to know about a stream."""

    stream: Name
    modality: Literal["rgb", "flow"]
    model: str
    weights: str
    weights_sha256: str | None
    classes: list[str] = Field(min_length=1)
    size: int = Field(ge=16, le=1024)
    dropout: float = Field(ge=0, lt=1)
    sampling: Sampling
    demean: bool
    normalisation: Normalisation
    extraction: dict[str, Any]

    @model_validator(mode="after")
    def _check_channels(self) -> StreamConfig:
        channels = CHANNELS[self.modality]
        if not len(self.normalisation.mean) == len(self.normalisation.std) == channels:
            raise ValueError(f"normalisation must have {channels} values each for {self.modality}")
        return self


class TrainedStream:
    """The network of a model folder, ready to score views. Loading it runs no code from the folder and fetches nothing.

    Raises:
        UserError: a file of the folder is missing or damaged.
    """

    def __init__(self, folder: Path, accelerator: str = "auto"):
        config = _read_config(folder)
        self.config: dict[str, Any] = config.model_dump()
        self.sampling = config.sampling
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        try:
            model = build_network(config, config.modality, len(config.classes))
        except UserError as error:
            raise UserError(f"{folder / 'config.json'}: {error}") from None
        path = folder / "model.pt"
        if not path.is_file():
            raise UserError(f"{path}: is missing; train the stream with `dvc repro`")
        try:
            model.load_state_dict(read_weights(path))
        except RuntimeError:
            raise UserError(
                f"{path}: these are not the weights of {config.model}; train the stream with `dvc repro`"
            ) from None
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, classes] for uint8 views [N, S, C, L, H, W]."""
        parts = [
            self.model(normalise(part.to(self.device, non_blocking=True), **self.config["normalisation"])).float().cpu()
            for part in views.split(_VIEWS_AT_ONCE)
        ]
        return torch.cat(parts)


def score_clips(stream: TrainedStream, examples: list[Example], score: Score, runtime: Runtime) -> np.ndarray:
    """Return float32 [clips, classes]: for each clip the mean of the logits over its views."""
    views = ScoringViews(examples, stream.sampling, score, stream.config["size"], stream.config["demean"])
    loader = make_loader(views, batch_size=4, workers=runtime.workers)
    logits = np.empty((len(examples), len(stream.config["classes"])), np.float32)
    with progress(len(examples), f"score {stream.config['stream']}", "clip") as bar:
        for batch, indices in loader:  # [B, V, S, C, L, H, W]
            clips, count = batch.shape[:2]
            flat = stream.logits(batch.flatten(0, 1))
            if bar.n == 0 and stream.device.type == "cpu":
                keep_freed_memory()  # after a batch, when the process is as large as it gets
            logits[indices.numpy()] = flat.view(clips, count, -1).mean(1).numpy()
            bar.update(clips)
    return logits


def _read_config(folder: Path) -> StreamConfig:
    path = folder / "config.json"
    try:
        return StreamConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        problem = reason(error)
    except ValidationError as error:
        problem = validation_reason(error)
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {error}"
    raise UserError(f"{path}: cannot be used ({problem}); train the stream with `dvc repro`")
