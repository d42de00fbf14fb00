"""Scoring: a trained stream's logits for clips, the mean over views (segments x crops x flips)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError, model_validator
from tqdm import tqdm

from twostream.core.allocator import keep_freed_memory
from twostream.errors import UserError
from twostream.networks.registry import create_model
from twostream.networks.weights import read_weights
from twostream.params import Name, Runtime, Sampling, Score, Section
from twostream.views.loading import Example, ScoringViews, make_loader, normalise

_VIEWS_AT_ONCE = 64  # bounds memory whatever the number of views


class Normalisation(Section):
    """One value a channel, on the scale of stored uint8 values: a network's input is (v - mean) / std."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class StreamConfig(Section):
    """What `config.json` holds: all that prediction needs to know of a stream."""

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
    def _channels(self) -> StreamConfig:
        channels = 3 if self.modality == "rgb" else 2
        if not len(self.normalisation.mean) == len(self.normalisation.std) == channels:
            raise ValueError(f"normalisation must have {channels} values each for {self.modality}")
        return self


class TrainedStream:
    """A model folder, loaded: scores views. Nothing in the folder can run code, or fetch or open anything else.

    Raises:
        UserError: a file of the folder is missing or damaged.
    """

    def __init__(self, folder: Path, accelerator: str = "auto"):
        self.config = _read_config(folder)
        self.sampling = Sampling.model_validate(self.config["sampling"])
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        try:
            model = create_model(
                self.config["model"],
                modality=self.config["modality"],
                classes=len(self.config["classes"]),
                frames=self.sampling.frames,
                dropout=self.config["dropout"],
                weights="none",
                input_size=self.config["size"],
            )
        except UserError as error:
            raise UserError(f"{folder / 'config.json'}: {error}") from None
        path = folder / "model.pt"
        if not path.is_file():
            raise UserError(f"{path}: is missing; train the stream with `dvc repro`")
        try:
            model.load_state_dict(read_weights(path))
        except RuntimeError:
            raise UserError(
                f"{path}: holds other weights than those of {self.config['model']}; train the stream again"
            ) from None
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """float32 [N, classes] for uint8 views [N, S, C, L, H, W]."""
        parts = [
            self.model(normalise(part.to(self.device, non_blocking=True), **self.config["normalisation"])).float().cpu()
            for part in views.split(_VIEWS_AT_ONCE)
        ]
        return torch.cat(parts)


def score_clips(stream: TrainedStream, examples: list[Example], score: Score, runtime: Runtime) -> np.ndarray:
    """float32 [clips, classes]: for each clip the mean of the logits over its views."""
    views = ScoringViews(examples, stream.sampling, score, stream.config["size"], stream.config["demean"])
    loader = make_loader(views, batch_size=4, workers=runtime.workers)
    logits = np.empty((len(examples), len(stream.config["classes"])), np.float32)
    with tqdm(total=len(examples), desc=f"score {stream.config['stream']}", unit="clip", mininterval=1) as bar:
        for batch, indices in loader:  # [B, V, S, C, L, H, W]
            clips, count = batch.shape[:2]
            flat = stream.logits(batch.flatten(0, 1))
            if bar.n == 0 and stream.device.type == "cpu":
                keep_freed_memory()  # now that a batch has shown how much it takes
            logits[indices.numpy()] = flat.view(clips, count, -1).mean(1).numpy()
            bar.update(clips)
    return logits


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        StreamConfig.model_validate(config)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where}: {first['msg']}" if where else first["msg"]
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {error}"
    else:
        return config
    raise UserError(f"{path}: cannot be used ({problem}); train the stream with `dvc repro`")
