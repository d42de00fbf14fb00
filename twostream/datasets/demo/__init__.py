"""The demo data set: rendered clips whose class is a motion times a thing, so that it takes both streams.

A single frame shows the thing but not the motion, see `pose.py`; optical flow shows the motion but hardly the thing,
see `prop.py`. Passers-by, a moving camera, noise, and things of unusual colours make mistakes possible. This module
names, splits and files the clips that the other modules draw.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd

from twostream import params
from twostream.core.files import atomic_path
from twostream.core.parallel import unordered
from twostream.datasets.demo.shot import Shot
from twostream.errors import UserError
from twostream.sources.walk import new_folder

MOTIONS = ("approach", "sidestep", "squat")
THINGS = ("ball", "flag", "umbrella")
CLASSES = tuple(f"{motion}_{thing}" for motion in MOTIONS for thing in THINGS)
FPS = 25
SPLITS = (1, 2, 3)

# The sources of the groups, by the place that they are filmed in. HMDB51's file names hold all of these characters,
# and tools that glob or build shell strings break on them.
SOURCES = {
    "park": ("Anna_&_Tom_in_the_park", "Picnic;_take_two!", "Spring_[super8]", "Meadow #3 (raw)"),
    "room": ("Grandma's_living_room", "Room_#9_for_$5", "Sofa & rug (part 2)", "TV_night;_at_Tom's"),
}
QUANTISER = {"goo": 3, "med": 4, "bad": 7}  # of the codec, by HMDB51's qualities: good, medium, bad


@dataclass(frozen=True)
class Clip:
    """One clip to render: everything else about it follows from these values and `dataset.demo`."""

    motion: str
    thing: str
    group: int
    take: int

    @property
    def label(self) -> str:
        return f"{self.motion}_{self.thing}"


def fetch(dataset: params.Dataset, videos: Path, annotations: Path, scratch: Path, workers: int = 0) -> None:
    """Render all clips to `videos/<class>/<name>.avi` and write three official splits to `annotations`.

    Names are those of HMDB51, `<source>_<class>_<body>_<camera>_np<people>_<view>_<quality>_<number>.avi`, and describe
    what was drawn. `workers` processes (0: one per core) render; their number changes no byte. `scratch` is not used.

    Raises:
        OSError: the disk is full or the folders cannot be written.
    """
    demo = dataset.demo
    clips = [Clip(m, t, g, k) for g in range(demo.groups) for k in range(demo.takes) for m in MOTIONS for t in THINGS]
    with new_folder(annotations, replaces=True) as new_annotations, new_folder(videos, replaces=True) as new_videos:
        for label in CLASSES:
            (new_videos / label).mkdir()
        film = functools.partial(_film, demo=demo, videos=new_videos)
        names = dict(unordered(film, clips, workers=workers, what="render"))
        _write_splits(names, demo.groups, demo.seed, new_annotations)


def list_clips(dataset: params.Dataset, videos: Path, annotations: Path) -> pd.DataFrame:
    """Return the clips that :func:`fetch` made; a group is an actor in a place.

    Raises:
        UserError: a split file is missing or damaged.
    """
    rows = [
        (f"{label}/{Path(name).stem}", f"{label}/{name}", label, name[: name.index(f"_{label}_")], "ok", "")
        for label in CLASSES
        for name in _read_split(annotations, label, SPLITS[0])  # each split lists every clip
    ]
    columns = ["clip_id", "path", "class", "group", "status", "reason"]
    return pd.DataFrame(sorted(rows), columns=columns)


def list_splits(dataset: params.Dataset, clips: pd.DataFrame, annotations: Path) -> dict[int, pd.Series]:
    """Return the splits that :func:`fetch` made. Raises as :func:`list_clips`."""
    splits = {}
    for number in dataset.splits:
        subsets = {
            f"{label}/{name}": subset
            for label in CLASSES
            for name, subset in _read_split(annotations, label, number).items()
        }
        values = [subsets[path] for path in clips["path"]]
        splits[number] = pd.Series(values, index=pd.Index(clips["clip_id"], name="clip_id"), name="subset")
    return splits


def source_of(group: int) -> str:
    """Return the source part of the file names of a group; no two groups share one."""
    turn, place = divmod(group, len(SOURCES))
    titles = list(SOURCES.values())[place]
    again, title = divmod(turn, len(titles))
    return titles[title] + (f"_{again + 1}" if again else "")


def render(clip: Clip, demo: params.Demo) -> Iterator[np.ndarray]:
    """Yield the frames of a clip before the codec, uint8 `[H, W, 3]` RGB."""
    return _shot(clip, demo).frames()


def _shot(clip: Clip, demo: params.Demo) -> Shot:
    place = list(SOURCES)[clip.group % len(SOURCES)]
    # The group's generator is seeded without the class: an actor and a place reveal nothing about the class.
    group_seed = [demo.seed, 1, clip.group]
    own_seed = [demo.seed, 2, clip.group, clip.take, CLASSES.index(clip.label)]
    return Shot(demo, clip.motion, clip.thing, place, group_seed, own_seed)


def _film(clip: Clip, demo: params.Demo, videos: Path) -> tuple[Clip, str]:
    """Render one clip to its file; return the clip and the file's name."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the parallelism is over clips; frames are too small to share
    try:
        shot = _shot(clip, demo)
        camera, people = "cm" if shot.shaky else "nm", len(shot.people)
        name = f"{source_of(clip.group)}_{clip.label}_f_{camera}_np{people}_{shot.view}_{shot.quality}_{clip.take}.avi"
        _encode(shot.frames(), videos / clip.label / name, demo.width, demo.height, QUANTISER[shot.quality])
    finally:
        cv2.setNumThreads(threads)
    return clip, name


def _encode(frames: Iterable[np.ndarray], path: Path, width: int, height: int, quantiser: int) -> None:
    """Write an Xvid-style AVI; one thread and the bitexact flags keep timing and the library's version out of it."""
    options = {"flags": "+bitexact+qscale", "global_quality": str(quantiser * 118), "g": "12"}  # 118: FF_QP2LAMBDA
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="avi", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("mpeg4", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_splits(names: dict[Clip, str], groups: int, seed: int, annotations: Path) -> None:
    """Write HMDB51's split files: `<file name> <1 train | 2 test>`; every group is tested in one split."""
    order = np.random.default_rng([seed, 3]).permutation(groups)
    for number in SPLITS:
        tested = set(order[number - 1 :: len(SPLITS)].tolist())
        for label in CLASSES:
            lines = sorted(
                f"{name} {2 if clip.group in tested else 1}\n" for clip, name in names.items() if clip.label == label
            )
            with atomic_path(annotations / f"{label}_test_split{number}.txt") as path:
                path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _read_split(annotations: Path, label: str, number: int) -> dict[str, str]:
    """Return the subset of each clip of a class, by file name."""
    path = annotations / f"{label}_test_split{number}.txt"
    codes = {"0": "unused", "1": "train", "2": "test"}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `dvc repro download` to make it again") from None
    subsets = {}
    for line_number, line in enumerate(lines, 1):
        name, _, code = line.rpartition(" ")
        if not line:
            continue
        if code not in codes or f"_{label}_" not in name:
            raise UserError(f"{path}, line {line_number}: {line!r} is not a file name of this class and 0, 1 or 2")
        subsets[name] = codes[code]
    return subsets
