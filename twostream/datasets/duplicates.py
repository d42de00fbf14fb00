"""Find clips that show the same video: the same bytes, or re-encoded, scaled, brightened or mirrored copies.

A fingerprint holds small grey images of a few frames. Two clips of about the same length show the same video if both
the means of their images and the changes from the mean to each image correlate. The changes tell copies from different
clips of one fixed camera; clips in which nothing moves are copies only if their fingerprints are equal.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator

import av
import cv2
import numpy as np
import pandas as pd

from twostream.datasets.tables import CLIP_COLUMNS, COPIES
from twostream.video import USUAL_FPS, Video

SIDE, FRAMES = 16, 4  # pixels and number of the images
# Correlation from which two clips are copies. benchmarks/duplicates.py: at most 0.63 between 334 different real clips,
# at least 0.80 between 46 clips and their copies that show the whole frame, in six kinds. Where 5 % of the frame is cut
# off, one copy in 46 is missed, at 10 % about one in two.
SAME = 0.7
LENGTHS = 1.1  # largest ratio of the lengths of copies
_STRIDE, _MOST = 6, 64  # of the frames that are looked at
_NOISE = 0.25  # grey levels: changes below it are the codec's
_CLASS = 1 + CLIP_COLUMNS.index("class")  # in a tuple of a row; `class` is a keyword of Python
_BLOCK, _PAIRS = 512, 20_000  # clips and pairs that are compared at once


class Fingerprint:
    """Collects the fingerprint of a video while its frames are decoded.

    Args:
        trusts_header: look only at the frames that are needed if the header gives the right number of frames. Where it
            does not, :attr:`is_complete` is false at the end, and the video must be decoded again without it.
    """

    def __init__(self, trusts_header: bool = True) -> None:
        self._images: dict[int, np.ndarray] = {}  # by the number of their frame
        self._trusts_header = trusts_header
        self._needed: set[int] = set()  # empty: all that _STRIDE and _MOST give
        self._stride, self._frames = _STRIDE, 0

    def add(self, video: Video, frame: av.VideoFrame) -> None:
        """Look at the next frame, or pass over it: at most one in six is needed, and fewer of a long video."""
        if self._frames == 0 and self._trusts_header:
            self._needed = _needed_frames(_declared_frames(video))
        if self._frames in self._needed or (not self._needed and self._frames % self._stride == 0):
            if len(self._images) == _MOST:
                self._stride *= 2
                self._images = {number: self._images[number] for number in self._images if number % self._stride == 0}
            if self._frames % self._stride == 0:
                self._images[self._frames] = _small(video, frame)
        self._frames += 1

    @property
    def is_complete(self) -> bool:
        """Whether all frames that are needed were looked at."""
        return all(number in self._images for moment in _moments(self._frames) for number in moment[:2])

    def text(self) -> str:
        """Return the images of evenly spread moments, [FRAMES, SIDE, SIDE], as text."""
        images = [
            self._images[before] * (1 - part) + self._images[after] * part
            for before, after, part in _moments(self._frames)
        ]
        return base64.b64encode(np.rint(images).astype(np.uint8).tobytes()).decode("ascii")


def _moments(frames: int) -> list[tuple[int, int, float]]:
    """Return for each moment of a fingerprint the frames before and after it, and how near it is to the later one."""
    stride = _STRIDE
    while frames > stride * _MOST:
        stride *= 2
    last = max(frames - 1, 0) // stride
    moments = []
    for number in range(FRAMES):
        place = ((number + 0.5) / FRAMES * frames - 0.5) / stride
        before = min(max(int(place), 0), last)
        moments.append((before * stride, min(before + 1, last) * stride, min(max(place - before, 0.0), 1.0)))
    return moments


def _needed_frames(declared: int) -> set[int]:
    """Return the frames that are needed of a video with about so many; empty where the number is not known."""
    numbers = range(declared - 1, declared + 2) if declared else ()  # headers are often wrong by one
    return {frame for number in numbers for moment in _moments(number) for frame in moment[:2]}


def _declared_frames(video: Video) -> int:
    """Return the number of frames by the headers of AVI and MP4 files; others may declare none, or a rough duration."""
    track, name = video.track, video.container.format.name
    if name.startswith("mov") and track.duration and track.average_rate and track.time_base:
        return round(float(track.duration * track.time_base * track.average_rate))  # without what an edit list hides
    return track.frames if name == "avi" else 0


def _small(video: Video, frame: av.VideoFrame) -> np.ndarray:
    """Return uint8 [SIDE, SIDE], the luma of some rows; its range does not matter, since images are correlated."""
    if frame.format.name.startswith(("yuv", "nv")) and frame.format.components[0].bits == 8 and frame.format.is_planar:
        plane = frame.planes[0]
        luma = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    else:
        luma = np.asarray(frame.reformat(format="gray").to_ndarray())
    rows = luma[:: max(1, len(luma) // (4 * SIDE))]
    return video.turn(cv2.resize(rows, (SIDE, SIDE), interpolation=cv2.INTER_AREA), frame)


def first_copies(clips: pd.DataFrame) -> pd.Series:
    """Return for each clip the index of the first clip that shows the same video, its own if none before does.

    Args:
        clips: columns frames, fps, fingerprint (of :class:`Fingerprint`), path of the video, and key, equal for clips
            of the same content. Spans of one video are no copies, though they may overlap.
    """
    seconds = (clips["frames"] / clips["fps"].where(clips["fps"] > 0, USUAL_FPS)).to_numpy(float)
    images = np.array([np.frombuffer(base64.b64decode(text), np.uint8) for text in clips["fingerprint"]])
    one, other = np.concatenate(
        [
            _equal(clips["key"]),
            _equal(zip(clips["fingerprint"], clips["frames"], strict=True)),
            *_similar(images.reshape(-1, FRAMES, SIDE, SIDE), seconds),
        ]
    ).T
    video = clips["path"].to_numpy()
    apart = (one == other) | (video[one] != video[other])
    one, other = one[apart], other[apart]
    labels = _components(len(clips), one, other)
    return pd.Series(clips.index[np.unique(labels, return_index=True)[1][labels]], clips.index)


def _components(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return for each of `count` nodes the number of its component in the graph of edges from `one` to `other`."""
    from scipy.sparse import coo_array, csgraph  # here: the processes that decode do not need it

    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    return csgraph.connected_components(graph, directed=False)[1]


def _equal(values: Iterable[Hashable]) -> np.ndarray:
    """Return [N, 2]: the number of the first clip with the same value, and that of the clip."""
    first: dict[Hashable, int] = {}
    return np.array([(first.setdefault(value, index), index) for index, value in enumerate(values)])


def _similar(images: np.ndarray, seconds: np.ndarray) -> Iterator[np.ndarray]:
    """Yield [n, 2], the numbers of pairs of clips whose images [N, FRAMES, SIDE, SIDE] correlate, also mirrored."""
    order = np.argsort(seconds, kind="stable")
    images, lengths = images[order].astype(np.float32), seconds[order]
    views = [normalized(images), normalized(images[..., ::-1])]
    (means, changes), _ = views
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        end = np.searchsorted(lengths, lengths[stop - 1] * LENGTHS, side="right")
        for other_means, other_changes in views:
            alike = means[start:stop] @ other_means[start:end].T >= SAME
            alike &= lengths[start:end] <= lengths[start:stop, None] * LENGTHS
            rows, columns = np.nonzero(np.triu(alike, 1))
            for part in range(0, len(rows), _PAIRS):
                one, other = start + rows[part : part + _PAIRS], start + columns[part : part + _PAIRS]
                same = np.einsum("ij,ij->i", changes[one], other_changes[other]) >= SAME
                yield np.stack([order[one[same]], order[other[same]]], axis=1)


def normalized(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean image and the changes of each clip [N, ...] as vectors whose products are correlations."""
    mean = images.mean(1)
    changes = (images - mean[:, None]).reshape(len(images), -1)
    mean = mean.reshape(len(images), -1)
    mean = mean - mean.mean(1, keepdims=True)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True) + 1e-6
    return mean, changes / np.sqrt((changes**2).sum(1, keepdims=True) + _NOISE**2 * changes.shape[1])


def with_copies(clips: pd.DataFrame, first: pd.Series, merge: bool) -> pd.DataFrame:
    """Return the table with the column :data:`COPIES`: the id of the first clip that shows the same video, or "".

    The column is there only if there are copies, and printed lines name one of them.

    Args:
        clips: the table of clips.
        first: index of the first clip that shows the same video, for each clip that can be read.
        merge: whether the groups of copies become one; it has the name of the largest of them.
    """
    first = first[first != first.index]
    if first.empty:
        return clips
    copies, originals = clips.loc[first.index], clips.loc[first]
    result = clips.assign(**{COPIES: ""})
    result.loc[copies.index, COPIES] = originals["clip_id"].to_numpy()
    if merge:
        result["group"] = _merged(clips["group"], copies["group"], originals["group"])
    pairs = list(zip(copies.itertuples(), originals.itertuples(), strict=True))
    copy, original = pairs[0]
    print(
        f"probe: {len(pairs)} clips show the video of another clip, such as {copy.clip_id!r} that of "
        f"{original.clip_id!r}; {'copies share a group' if merge else 'their groups and splits stay'}"
    )
    relabelled = [(copy, original) for copy, original in pairs if copy[_CLASS] != original[_CLASS]]
    if relabelled:
        copy, original = relabelled[0]
        print(
            f"WARNING: {len(relabelled)} clips show the video of a clip of another class, such as {copy.clip_id!r} "
            f"({copy[_CLASS]}) that of {original.clip_id!r} ({original[_CLASS]}); remove the one of the wrong class"
        )
    return result


def _merged(groups: pd.Series, one: pd.Series, other: pd.Series) -> pd.Series:
    """Return the groups with each of `one` united with that of `other`, under the name of the largest."""
    names = pd.Index(groups.unique())
    united = defaultdict(list)
    labels = _components(len(names), names.get_indexer(one), names.get_indexer(other))
    for name, label in zip(names, labels, strict=True):
        united[label].append(name)
    sizes = groups.value_counts()
    largest = {label: min(same, key=lambda name: (-sizes[name], name)) for label, same in united.items()}
    return groups.map({name: largest[label] for label, same in united.items() for name in same})
