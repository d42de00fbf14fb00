"""Scoring: a trained stream's logits for clips, the mean over views (segments x crops x flips)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from twostream.data import Example, ScoringViews, make_loader, normalise
from twostream.errors import UserError
from twostream.models import create_model
from twostream.params import Runtime, Sampling, Score

_CONFIG_KEYS = {
    "stream",
    "modality",
    "model",
    "classes",
    "size",
    "dropout",
    "sampling",
    "demean",
    "normalisation",
    "extraction",
}
_VIEWS_AT_ONCE = 64  # bounds memory whatever the number of views


class TrainedStream:
    """A model folder, loaded: scores views. Nothing in the folder can run code.

    Raises:
        UserError: a file of the folder is missing or damaged.
    """

    def __init__(self, folder: Path, accelerator: str = "auto"):
        self.config = _read_config(folder)
        self.sampling = Sampling.model_validate(self.config["sampling"])
        self.device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
        model = create_model(
            self.config["model"],
            modality=self.config["modality"],
            classes=len(self.config["classes"]),
            frames=self.sampling.frames,
            dropout=self.config["dropout"],
            weights="none",
            input_size=self.config["size"],
        )
        try:
            weights = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
            model.load_state_dict(weights)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{folder / 'model.pt'}: cannot be loaded ({reason}); train the stream again") from None
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
            logits[indices.numpy()] = flat.view(clips, count, -1).mean(1).numpy()
            bar.update(clips)
    return logits


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        Sampling.model_validate(config["sampling"])
        missing = _CONFIG_KEYS - config.keys()
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read ({reason}); train the stream again with `dvc repro`") from None
    if missing:
        raise UserError(f"{path}: lacks {', '.join(sorted(missing))}; train the stream again with `dvc repro`")
    return config
