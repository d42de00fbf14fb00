"""Clips to tensors: data sets and loaders that read only the frames they sample.

Every random draw follows from (seed, epoch, clip), so an epoch is the same whoever loads it, interrupted run or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from twostream.clipstore import ClipReader
from twostream.core.parallel import cores
from twostream.datasets.tables import classes_of
from twostream.errors import UserError
from twostream.params import Augment, Sampling, Score
from twostream.views import jpeg
from twostream.views.gpu_decode import EncodedViews
from twostream.views.sampling import scoring_frames, training_frames, validation_frames
from twostream.views.transforms import View, draw_view, mirror_view, read_view, scoring_views

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
    """One random view a clip and epoch, in batches. Asked for as (epoch, index), see :class:`EpochSampler`.

    A batch is uint8 [B, S, C, L, H, W], or what :func:`twostream.views.gpu_decode.make_views` makes that of if
    `encoded`, and int64 labels [B].
    """

    def __init__(
        self,
        examples: list[Example],
        sampling: Sampling,
        augment: Augment,
        size: int,
        seed: int,
        demean: bool = False,
        encoded: bool = False,
    ):
        self.examples, self.sampling, self.augment, self.size, self.seed = examples, sampling, augment, size, seed
        self.demean, self.encoded = demean, encoded

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, asked: list[tuple[int, int]]) -> tuple[torch.Tensor | EncodedViews, torch.Tensor]:
        examples = [self.examples[index] for _, index in asked]
        read = _encoded_batch if self.encoded else _read_batch
        return read(examples, asked, self._draw, self.size, self.demean)

    def _draw(self, clip: ClipReader, at: tuple[int, int]) -> tuple[np.ndarray, View]:
        rng = np.random.default_rng((self.seed, *at))
        frames = training_frames(len(clip), self.sampling, rng)
        return frames, draw_view(clip.meta["width"], clip.meta["height"], self.augment, rng)


class ValidationViews(Dataset):
    """The middle view of each clip, in batches: uint8 [B, S, C, L, H, W] and int64 labels [B]."""

    def __init__(self, examples: list[Example], sampling: Sampling, size: int, demean: bool = False):
        self.examples, self.sampling, self.size, self.demean = examples, sampling, size, demean

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, asked: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return _read_batch([self.examples[index] for index in asked], asked, self._middle, self.size, self.demean)

    def _middle(self, clip: ClipReader, _: int) -> tuple[np.ndarray, View]:
        (view,) = scoring_views(clip.meta["width"], clip.meta["height"], crops=1, flip=False)
        return validation_frames(len(clip), self.sampling), view


def _read_batch(
    examples: list[Example], asked: list[Any], choose: Callable[..., tuple[np.ndarray, View]], size: int, demean: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The views that `choose(clip, asked)` names, written where the process that trains will read them."""
    views = None
    for i, (example, at) in enumerate(zip(examples, asked, strict=True)):
        with ClipReader(example.path) as clip:
            frames, view = choose(clip, at)
            if views is None:
                channels = 2 if clip.meta["modality"] == "flow" else 3
                views = _batch_memory(len(examples), frames.shape[0], channels, frames.shape[1], size, size)
            read_view(clip, frames, view, size, demean, out=views[i].numpy())
    return views, torch.tensor([example.label for example in examples])


def _encoded_batch(
    examples: list[Example], asked: list[Any], choose: Callable[..., tuple[np.ndarray, View]], size: int, demean: bool
) -> tuple[EncodedViews, torch.Tensor]:
    jpegs, views = [], []
    for example, at in zip(examples, asked, strict=True):
        with ClipReader(example.path) as clip:
            frames, view = choose(clip, at)
            jpegs.append([clip.encoded(int(index)) for index in frames.ravel()])
            views.append(view)
            flow = clip.meta["modality"] == "flow"
    batch = EncodedViews(jpegs, views, frames.shape[1], size, flow, demean)
    return batch, torch.tensor([example.label for example in examples])


def _batch_memory(*shape: int) -> torch.Tensor:
    """uint8, in a loader's worker in shared memory, as the default collation has it: another copy costs more pages."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)


class ScoringViews(Dataset):
    """All views of a clip that are scored, in batches: uint8 [B, V, 1, C, L, H, W] and the clips' indices, int64 [B].

    V = segments x crops x flips.
    """

    def __init__(self, examples: list[Example], sampling: Sampling, score: Score, size: int, demean: bool = False):
        self.examples, self.sampling, self.score, self.size, self.demean = examples, sampling, score, size, demean

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, asked: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = None
        for i, index in enumerate(asked):
            with ClipReader(self.examples[index].path) as clip:
                views = read_scoring_views(clip, self.sampling, self.score, self.size, self.demean)
            batch = _batch_memory(len(asked), *views.shape) if batch is None else batch
            batch[i] = views
        return batch, torch.tensor(asked)


def read_scoring_views(
    clip: ClipReader, sampling: Sampling, score: Score, size: int, demean: bool = False
) -> torch.Tensor:
    """The views of one clip, uint8 [V, 1, C, L, H, W]: each piece of the clip in turn in every crop and its mirror."""
    frames = scoring_frames(len(clip), sampling, score.segments)
    views: list[np.ndarray] = []
    for view in scoring_views(clip.meta["width"], clip.meta["height"], score.crops, score.flip):
        # A mirror image follows its original, so nothing is decoded for it.
        views.append(mirror_view(views[-1]) if view.flip else read_view(clip, frames, view, size, demean))
    return torch.from_numpy(np.concatenate(views))[:, None]


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
    jpeg.prepare()
    workers = workers or min(cores(), _ENOUGH_WORKERS)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,  # the data sets give batches
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_one_thread,
    )


def normalise(views: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """uint8 [N, S, C, L, H, W] to float32: (v - mean) / std a channel, with mean and std on the scale of 0 to 255."""
    shape = (1, 1, -1, 1, 1, 1)
    centre = torch.tensor(mean, device=views.device).view(shape)
    scale = torch.tensor(std, device=views.device).view(shape)
    return views.float().sub_(centre).div_(scale)  # in place: fresh memory costs more than the arithmetic


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
