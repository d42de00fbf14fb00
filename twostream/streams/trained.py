"""A trained stream, ready to score views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twostream.core.allocator import keep_freed_memory
from twostream.core.device import device_of
from twostream.errors import UserError
from twostream.networks.weight_files import read_weights
from twostream.params import Score
from twostream.streams.config import HEAD_FILE, head_protocol, read_config
from twostream.streams.frozen import compute_features, load_head
from twostream.streams.gpu import memory_as_user_error, mixed_precision, prefer_channels_last
from twostream.streams.network import build_network
from twostream.views.batches import batches
from twostream.views.difference import opener
from twostream.views.examples import Example
from twostream.views.loading import ScoringViews, normalise

_VIEWS_AT_ONCE, _PIXELS_AT_ONCE = 64, 1 << 25  # on a CPU and on a GPU: bounds memory whatever the number of views


class TrainedStream:
    """The network of a model folder, ready to score views. Loading it runs no code from the folder and fetches nothing.

    Raises:
        UserError: a file of the folder is missing or damaged.
    """

    def __init__(self, folder: Path, accelerator: str = "auto"):
        config = read_config(folder)
        self.config: dict[str, Any] = config.model_dump()
        self._settings, self.protocol = config, config.protocol
        self.sampling = config.sampling
        self.device = torch.device(device_of(accelerator))
        try:
            model = build_network(
                config, config.modality, len(config.classes), architecture=config.architecture, is_known=True
            )
        except UserError as error:
            raise UserError(f"{folder / 'config.json'}: {error}") from None
        files = [folder / name for name in (("model.pt", HEAD_FILE) if config.features else ("model.pt",))]
        for path in files:
            if not path.is_file():
                raise UserError(f"{path}: is missing; train the stream with `dvc repro`")
        try:
            body, *head = map(read_weights, files)
        except UserError as error:
            raise UserError(f"{error}, or delete it and train the stream with `dvc repro`") from None
        try:
            if head:
                load_head(model, body, *head)
            else:
                model.load_state_dict(body)
        except (RuntimeError, KeyError):
            raise UserError(
                f"{' or '.join(map(str, files))}: these are not the weights of {config.model}; delete {folder} and "
                "train the stream with `dvc repro`"
            ) from None
        self.model = model.eval().to(self.device)
        prefer_channels_last(self.model, self.device)

    @torch.inference_mode()
    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """Return float32 [N, classes] for uint8 views [N, S, C, L, H, W]."""
        at_once = _VIEWS_AT_ONCE if self.device.type == "cpu" else max(1, _PIXELS_AT_ONCE // views[0, :, 0].numel())
        with mixed_precision(self.device), memory_as_user_error("set runtime.accelerator to cpu"):
            parts = [
                self.model(normalise(part.to(self.device, non_blocking=True), **self.config["normalisation"])).float()
                for part in views.split(at_once)
            ]
            return torch.cat(parts).cpu()  # once: the program waits for the GPU here

    def features(self, examples: list[Example], workers: int | None) -> Iterator[np.ndarray]:
        """Yield what enters the classifier for each clip, as :func:`frozen.compute_features`."""
        settings, normalisation = self._settings, self.config["normalisation"]
        protocol = head_protocol(settings.sampling, settings.mirrored)
        return compute_features(self.model, settings, protocol, normalisation, self.device, examples, workers)

    def score(self, examples: list[Example], score: Score, workers: int | None) -> Iterator[np.ndarray]:
        """Yield the mean logits over the views of each clip, float32 [classes], in order.

        On a CPU one clip at a time: its logits then do not depend on which other clips are scored with it.
        """
        views = ScoringViews(
            examples,
            self.sampling,
            self.protocol(score),
            self.config["size"],
            self.config["demean"],
            opener(self.config["input"]),
        )
        on_cpu = self.device.type == "cpu"
        for number, (batch, _) in enumerate(batches(views, 1 if on_cpu else 16, workers)):
            clips, count = batch.shape[:2]  # of [B, V, S, C, L, H, W]
            logits = self.logits(batch.flatten(0, 1))
            if on_cpu and number == 0:
                keep_freed_memory()  # after a batch, when the process is as large as it gets
            yield from logits.view(clips, count, -1).mean(1).numpy()
