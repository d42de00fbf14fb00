"""The description of a trained stream: `config.json` of its model folder, checked without importing torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from twostream.errors import UserError, reason, validation_reason
from twostream.networks.names import CHANNELS
from twostream.params import Name, Sampling, Score, Section

HEAD_FILE = "head.safetensors"  # beside model.pt, which then lacks the classifier: `weight` [C, F] and `bias` [C]
OUT_OF_FOLD_FILE = "out_of_fold.json"  # of a head: logits [C] of its training clips by the digest of their frames


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
    licence: str | None = None  # of the weights
    classes: list[str] = Field(min_length=1)
    size: int = Field(ge=16, le=1024)
    dropout: float = Field(ge=0, lt=1)
    sampling: Sampling
    demean: bool
    input: Literal["frames", "difference"] = "frames"
    normalisation: Normalisation
    extraction: dict[str, Any]
    key: str = ""  # of the training in the cache
    architecture: dict[str, Any] | None = None  # of a network of `transformers`
    mirrored: bool = False  # of a head: it sees the mean of the features of a clip and of its mirror image
    features: str = ""  # of a head: key of its network's features in the cache; "" if the network was trained

    @model_validator(mode="after")
    def _check_channels(self) -> StreamConfig:
        channels = CHANNELS[self.modality]
        if not len(self.normalisation.mean) == len(self.normalisation.std) == channels:
            raise ValueError(f"normalisation must have {channels} values each for {self.modality}")
        return self

    def protocol(self, score: Score) -> Score:
        """Return the protocol by which the stream scores clips: `score`, except for a head."""
        return head_protocol(self.sampling, self.mirrored) if self.features else score


def head_protocol(sampling: Sampling, mirrored: bool) -> Score:
    """Return the views of which a head sees the mean features, to learn and to predict: the stream's segments."""
    return Score(segments=sampling.segments, crops=1, flip=mirrored)


def read_config(folder: Path) -> StreamConfig:
    """Read and check `config.json` of a model folder. Raises a UserError that says how to make it again."""
    path = folder / "config.json"
    try:
        return StreamConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        problem = reason(error)
    except ValidationError as error:
        problem = validation_reason(error)
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {error}"
    remedy = "delete it and train" if path.is_file() else "train"  # DVC may take a damaged file for unchanged
    raise UserError(f"{path}: cannot be used ({problem}); {remedy} the stream with `dvc repro`")
