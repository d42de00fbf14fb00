"""Build the network of one stream."""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

from twostream.networks.names import HF
from twostream.networks.registry import SegmentConsensus, create_model
from twostream.params import Sampling
from twostream.views.difference import ZERO


class NetworkSettings(Protocol):
    """What the parameters of a stream and a model folder's `config.json` have in common."""

    model: str
    size: int
    dropout: float
    sampling: Sampling
    demean: bool
    input: Literal["frames", "difference"]


def build_network(
    settings: NetworkSettings,
    modality: str,
    classes: int,
    weights: str = "none",
    architecture: dict[str, Any] | None = None,
    is_known: bool = False,
) -> SegmentConsensus:
    """Return a stream's network on the CPU; without `weights` its parameters follow from torch's global seed.

    Args:
        architecture: of a network of `transformers`, which is then not looked for where `settings.model` names it.
        is_known: the network was trained with these settings.

    Raises:
        UserError: the settings do not fit together, or the weights cannot be had.
    """
    model = create_model(
        HF + json.dumps(architecture) if architecture else settings.model,
        modality=modality,
        classes=classes,
        frames=settings.sampling.frames,
        dropout=settings.dropout,
        weights=weights,
        input_size=settings.size,
        is_known=is_known,
    )
    if settings.input == "difference":
        model.normalisation["mean"] = [float(ZERO)] * 3
    return model
