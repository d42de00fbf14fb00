"""What one training run is given, and the rule that chooses its best epoch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from twostream.params import Stream
from twostream.views.examples import Example


@dataclass(frozen=True)
class Task:
    """Everything that the result of one training run follows from: the stream, its data, `train.precision`, ..."""

    name: str
    modality: str
    stream: Stream
    classes: list[str]
    train: list[Example]
    val: list[Example]
    seed: int
    precision: str
    compile: bool = False
    groups: tuple[str, ...] = ()  # of the clips of `train`, then of `val`; a head is chosen across them


class Arithmetic(NamedTuple):
    """Where and how a training computes, as resolved on this machine. It changes results, so it is part of the key."""

    device: str  # `cpu` or `cuda`
    precision: str  # in Lightning's words


class Processes(NamedTuple):
    """How many processes train together. They divide every batch; docs/cluster.md says how results depend on this."""

    per_node: int  # one per GPU
    nodes: int

    @property
    def total(self) -> int:
        return self.per_node * self.nodes


def by_torchrun() -> bool:
    """Return whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first_process() -> bool:
    """Return whether this is the first of the processes that train together: the only one that writes or prints."""
    return os.environ.get("RANK" if by_torchrun() else "LOCAL_RANK", "0") == "0"


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return a weight per class, float64 [C]: the mean number of clips of a class over its own; 0 without clips.

    Weighted by it, every class counts the same, and the sum over the clips [N] is N.
    """
    counts = np.bincount(labels, minlength=classes)
    mean = len(labels) / np.count_nonzero(counts)
    return np.divide(mean, counts, out=np.zeros(classes), where=counts > 0)


def best_epoch(history: list[dict[str, Any]], clips: int) -> dict[str, Any]:
    """Return the best epoch: the smallest validation loss among those about as accurate as the most accurate.

    On a hundred validation clips the best top-1 is luck as much as skill; the loss also sees how confident the network
    was. So an epoch counts if its top-1 is within one standard error of the best so far, and the last one to lower the
    loss of those is the best. The rule looks back only, so that it can stop a training.

    Args:
        history: epochs in order, each with `val_top1` and `val_loss`; not empty.
        clips: number of validation clips.
    """
    best, top = history[0], 0.0
    for row in history:
        top = max(top, row["val_top1"])
        floor = top - math.sqrt(top * (1 - top) / clips)
        if row["val_top1"] >= floor and (row["val_loss"] < best["val_loss"] or best["val_top1"] < floor):
            best = row
    return best
