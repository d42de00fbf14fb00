"""Clips to tensors: data sets and loaders that read only the frames they sample.

Every random draw follows from (seed, epoch, clip), so an epoch is the same whoever loads it, interrupted run or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from twostream.clips import classes_of
from twostream.clipstore import ClipReader
from twostream.errors import UserError
from twostream.parallel import cores
from twostream.params import Augment, Sampling, Score
from twostream.sampling import scoring_frames, training_frames, validation_frames
from twostream.transforms import draw_view, read_view, scoring_views

_ENOUGH_WORKERS = 8  # to keep one GPU busy; machines of a hundred cores should not start a hundred processes a loader


@dataclass(frozen=True)
class Example:
    """A clip of one subset: its id, its packed file, and its label as an index into the sorted class names."""

    clip_id: str
    path: Path
    label: int


def list_examples(clips: pd.DataFrame, split: pd.Series, folder: Path, subset: str) -> list[Example]:
    """The readable clips of one subset, sorted by id, with their files in `folder`.

    Raises:
        UserError: the subset is empty.
    """
    labels = {name: label for label, name in enumerate(classes_of(clips))}
    usable = clips[clips["status"] == "ok"].set_index("clip_id")["class"]
    ids = sorted(clip_id for clip_id in split.index[split == subset] if clip_id in usable.index)
    if not ids:
        raise UserError(f"the split has no readable clip in {subset}; look at data/clips.csv and data/splits/")
    return [Example(clip_id, folder / f"{clip_id}.zip", labels[usable[clip_id]]) for clip_id in ids]


class TrainingViews(Dataset):
    """One random view a clip and epoch. Items are asked for as (epoch, index), see :class:`EpochSampler`.

    Returns uint8 [S, C, L, H, W] and the label.
    """

    def __init__(
        self, examples: list[Example], sampling: Sampling, augment: Augment, size: int, seed: int, demean: bool = False
    ):
        self.examples, self.sampling, self.augment, self.size, self.seed = examples, sampling, augment, size, seed
        self.demean = demean

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, at: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = at
        example = self.examples[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        with ClipReader(example.path) as clip:
            frames = training_frames(len(clip), self.sampling, rng)
            view = draw_view(clip.meta["width"], clip.meta["height"], self.augment, rng)
            return _to_tensor(read_view(clip, frames, view, self.size, self.demean)), example.label


class ValidationViews(Dataset):
    """The middle view of each clip: uint8 [S, C, L, H, W] and the label."""

    def __init__(self, examples: list[Example], sampling: Sampling, size: int, demean: bool = False):
        self.examples, self.sampling, self.size, self.demean = examples, sampling, size, demean

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        example = self.examples[index]
        with ClipReader(example.path) as clip:
            (view,) = scoring_views(clip.meta["width"], clip.meta["height"], crops=1, flip=False)
            frames = validation_frames(len(clip), self.sampling)
            return _to_tensor(read_view(clip, frames, view, self.size, self.demean)), example.label


class ScoringViews(Dataset):
    """All views of a clip that are scored: uint8 [V, 1, C, L, H, W], V = segments x crops x flips, and the index."""

    def __init__(self, examples: list[Example], sampling: Sampling, score: Score, size: int, demean: bool = False):
        self.examples, self.sampling, self.score, self.size, self.demean = examples, sampling, score, size, demean

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with ClipReader(self.examples[index].path) as clip:
            return read_scoring_views(clip, self.sampling, self.score, self.size, self.demean), index


def read_scoring_views(
    clip: ClipReader, sampling: Sampling, score: Score, size: int, demean: bool = False
) -> torch.Tensor:
    """The views of one clip, uint8 [V, 1, C, L, H, W]."""
    frames = scoring_frames(len(clip), sampling, score.segments)
    views = scoring_views(clip.meta["width"], clip.meta["height"], score.crops, score.flip)
    return torch.cat([_to_tensor(read_view(clip, frames, view, size, demean)) for view in views])[:, None]


class EpochSampler(Sampler):
    """Yields (epoch, index) over all clips, shuffled by (seed, epoch); each of several processes gets its share.

    `epoch` is asked whenever an epoch starts: Lightning's `set_epoch` says the epoch before, after a resumption.
    """

    def __init__(self, count: int, seed: int, epoch: Callable[[], int]):
        self.count, self.seed, self.epoch = count, seed, epoch

    def __len__(self) -> int:
        return -(-self.count // _world()[1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _world()
        epoch = self.epoch()
        order = np.random.default_rng((self.seed, epoch)).permutation(self.count)
        order = np.resize(order, len(self) * world)  # every process gets the same number: the first ones repeat
        return iter([(epoch, int(index)) for index in order[rank::world]])


def make_loader(dataset: Dataset, batch_size: int, workers: int, sampler: Sampler | None = None) -> DataLoader:
    """A loader in dataset order or that of `sampler`; its `workers` (0: a core each, at most 8) live between epochs."""
    workers = workers or min(cores(), _ENOUGH_WORKERS)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
    )


def normalise(views: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """uint8 [N, S, C, L, H, W] to float32: (v - mean) / std a channel, with mean and std on the scale of 0 to 255."""
    shape = (1, 1, -1, 1, 1, 1)
    centre = torch.tensor(mean, device=views.device).view(shape)
    scale = torch.tensor(std, device=views.device).view(shape)
    return (views.float() - centre) / scale


def _to_tensor(view: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(view).permute(0, 4, 1, 2, 3).contiguous()  # [S, L, H, W, C] -> [S, C, L, H, W]


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
