"""Load clips as tensors: data sets and loaders that read only the frames they sample.

Every random draw follows from (seed, epoch, clip), so an epoch is the same for any number of workers, and after an
interruption.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from twostream.clipstore import ClipReader
from twostream.core.parallel import cores
from twostream.params import Augment, Sampling, Score
from twostream.views.examples import Example
from twostream.views.sampling import scoring_frames, training_frames, validation_frames
from twostream.views.transforms import Clip, draw_view, mirror_view, read_view, scoring_views


@dataclass(eq=False)
class TrainingViews(Dataset):
    """One random view per clip and epoch: item (epoch, index) is (uint8 [S, C, L, H, W], label). See `EpochSampler`.

    `open_clip` opens a clip file; see :func:`twostream.views.frame_store.frame_store` and `views.difference.opener`.
    """

    examples: list[Example]
    sampling: Sampling
    augment: Augment
    size: int
    seed: int
    demean: bool = False
    open_clip: Callable[[Path], Any] = ClipReader

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, item: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, index = item
        rng = np.random.default_rng((self.seed, epoch, index))
        with self.open_clip(self.examples[index].path) as clip:
            frames = training_frames(len(clip), self.sampling, rng)
            view = draw_view(clip.meta["width"], clip.meta["height"], self.augment, rng)
            views = read_view(clip, frames, view, self.size, self.demean)
        return _tensor(views), self.examples[index].label


@dataclass(eq=False)
class ValidationViews(Dataset):
    """The middle view of each clip: item index is (uint8 [S, C, L, H, W], label)."""

    examples: list[Example]
    sampling: Sampling
    size: int
    demean: bool = False
    open_clip: Callable[[Path], Any] = ClipReader

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with self.open_clip(self.examples[index].path) as clip:
            frames = validation_frames(len(clip), self.sampling)
            (view,) = scoring_views(clip.meta["width"], clip.meta["height"], crops=1, flip=False)
            views = read_view(clip, frames, view, self.size, self.demean)
        return _tensor(views), self.examples[index].label


@dataclass(eq=False)
class ScoringViews(Dataset):
    """All views that score a clip: item index is (uint8 [V, 1, C, L, H, W], index), V = segments x crops x flips."""

    examples: list[Example]
    sampling: Sampling
    score: Score
    size: int
    demean: bool = False
    open_clip: Callable[[Path], Any] = ClipReader

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with self.open_clip(self.examples[index].path) as clip:
            return read_scoring_views(clip, self.sampling, self.score, self.size, self.demean), index


def read_scoring_views(clip: Clip, sampling: Sampling, score: Score, size: int, demean: bool = False) -> torch.Tensor:
    """Return the views of one clip, uint8 [V, 1, C, L, H, W]: for each crop and its mirror image, all segments."""
    frames = scoring_frames(len(clip), sampling, score.segments)
    views: list[np.ndarray] = []
    for view in scoring_views(clip.meta["width"], clip.meta["height"], score.crops, score.flip):
        # A mirror image follows its original, so nothing is decoded for it.
        views.append(mirror_view(views[-1]) if view.flip else read_view(clip, frames, view, size, demean))
    return torch.from_numpy(np.concatenate(views))[:, None]


class EpochSampler(Sampler):
    """Yields (epoch, index) over all clips, shuffled by (seed, epoch); each of several processes gets its share.

    Args:
        epoch: returns the current epoch when an epoch starts. Lightning's `set_epoch` is one behind after a resumption.
        shares: [count], clips are drawn with replacement in proportion to them; None: every clip once.
    """

    def __init__(self, count: int, seed: int, epoch: Callable[[], int], shares: np.ndarray | None = None):
        self.count, self.seed, self.epoch, self.shares = count, seed, epoch, shares

    def __len__(self) -> int:
        return -(-self.count // _world()[1])

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _world()
        epoch = self.epoch()
        rng = np.random.default_rng((self.seed, epoch))
        if self.shares is None:
            order = rng.permutation(self.count)
        else:
            order = rng.choice(self.count, self.count, p=self.shares / self.shares.sum())
        order = np.resize(order, len(self) * world)  # every process gets the same number: the first ones repeat
        return iter([(epoch, int(index)) for index in order[rank::world]])


class SharedSampler(Sampler):
    """Yields the indices of all clips in order; each of several processes gets its share, without repeats."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[int]:
        rank, world = _world()
        # With fewer clips than processes some repeat: a process without any would miss the metrics' exchange.
        return iter(range(rank % self.count, self.count, world))


def make_loader(dataset: Dataset, batch_size: int, workers: int, sampler: Sampler | None = None) -> DataLoader:
    """Return a loader in the order of `dataset` or `sampler`; its `workers` (0: one per core) live between epochs."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers or cores(),
        multiprocessing_context="fork",  # a frame store is shared with forked processes only
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_use_one_thread,
    )


def normalise(views: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Return uint8 [N, S, C, L, H, W] as float32 (v - mean) / std; mean and std are per channel, from 0 to 255."""
    centre, scale = (_per_channel(tuple(values), views.device) for values in (mean, std))
    return views.float().sub_(centre).div_(scale)  # in place: fresh memory costs more than the arithmetic


@functools.lru_cache(64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return values on a device, [1, 1, C, 1, 1, 1]; kept, since a copy to a GPU makes the program wait for it."""
    with torch.inference_mode(False):  # for training too, whoever asks first
        return torch.tensor(values, device=device).view(1, 1, -1, 1, 1, 1)


def _tensor(views: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(views))


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
