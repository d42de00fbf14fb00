"""The demo data set: rendered clips whose class is a motion times a thing, so that one stream alone cannot tell it.

A figure's pose is a point (side, crouch, depth), each coordinate `a sin(phase)` with its phase uniform over the
circle. A motion is the one coordinate whose phase runs at about a cycle in 16 frames while the other two creep. At any
one frame the joint distribution of the three is therefore the same for every motion: a single frame cannot tell the
motion, however good the network. The thing is held in a hand whose place and reach do not depend on it, at a size drawn
alike for all things, and moves with the body: optical flow hardly tells the thing.
"""

from __future__ import annotations

import colorsys
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pandas as pd

from twostream import params
from twostream.errors import UserError
from twostream.parallel import unordered

if TYPE_CHECKING:
    from twostream.datasets import Description

MOTIONS = ("approach", "sidestep", "squat")
THINGS = ("ball", "flag", "umbrella")
CLASSES = tuple(f"{motion}_{thing}" for motion in MOTIONS for thing in THINGS)
FPS = 25
SPLITS = (1, 2, 3)

# HMDB51's file names hold all of these characters, and tools that glob or build shell strings break on them.
# A place is drawn by the function `_<place>`; the titles are its sources.
PLACES = {
    "park": ("Anna_&_Tom_in_the_park", "Picnic;_take_two!"),
    "street": ("Old brick street (evening)", "Baker's_corner"),
    "room": ("Grandma's_living_room_[home]", "Room_#9_for_$5"),
    "beach": ("Beach_day!_[super8]", "Sun & sand (part 2)"),
    "hall": ("School_gym_#3", "Tuesday_class;_hall_B"),
    "rooftop": ("Rooftop at dusk (raw)", "Tom's_skyline"),
}

Colour = tuple[float, float, float]
FACING = {"fr": 0.0, "ba": 0.0, "le": -1.0, "ri": 1.0}  # HMDB51's views: front, back, left, right
TURNED = {"fr": 1.0, "ba": 1.0, "le": 0.8, "ri": 0.8}  # apparent width of shoulders and hips
QUALITY = {"goo": (1.0, 3), "med": (2.0, 4), "bad": (4.0, 7)}  # noise (grey levels), quantiser of the codec


@dataclass(frozen=True)
class Clip:
    """One clip to render: everything else about it follows from these numbers and the seed."""

    motion: str
    thing: str
    group: int
    take: int

    @property
    def label(self) -> str:
        return f"{self.motion}_{self.thing}"


def fetch(dataset: params.Dataset, seed: int, videos: Path, annotations: Path, scratch: Path, workers: int = 0) -> None:
    """Render all clips to `videos/<class>/<name>.avi` and write three official splits to `annotations`.

    There are `groups * takes * 9` clips of `frames` +- 25 % frames, and at least 4. The names are those of HMDB51,
    `<source>_<class>_<body>_<camera>_np1_<view>_<quality>_<number>.avi`, and tell what was drawn. `scratch` is not
    used. Clips are rendered by `workers` processes (0: one a core), whose number changes no byte.

    Raises:
        OSError: the disk is full or the folders cannot be written.
    """
    demo = dataset.demo
    clips = [Clip(m, t, g, k) for g in range(demo.groups) for k in range(demo.takes) for m in MOTIONS for t in THINGS]
    for label in CLASSES:
        (videos / label).mkdir(parents=True, exist_ok=True)
    film = functools.partial(_film, demo=demo, seed=seed, videos=videos)
    names = dict(unordered(film, clips, workers=workers, what="render"))
    _write_splits(names, demo.groups, seed, annotations)


def describe(dataset: params.Dataset, videos: Path, annotations: Path) -> Description:
    """The clips and splits that :func:`fetch` made; a group is an actor in a place, the source part of the file name.

    Raises:
        UserError: a split file is missing or damaged.
    """
    from twostream.datasets import Description

    rows: dict[str, tuple[str, str, str]] = {}
    splits: dict[int, dict[str, str]] = {}
    for number in dataset.splits:
        splits[number] = {}
        for label in CLASSES:
            for name, subset in _read_split(annotations / f"{label}_test_split{number}.txt"):
                clip_id = f"{label}/{Path(name).stem}"
                rows[clip_id] = (f"{label}/{name}", label, name[: name.index(f"_{label}_")])
                splits[number][clip_id] = subset
    clips = pd.DataFrame(
        [(clip_id, *rows[clip_id], "ok", "") for clip_id in sorted(rows)],
        columns=["clip_id", "path", "class", "group", "status", "reason"],
    )
    return Description(
        clips=clips,
        splits={n: pd.Series(s, name="subset").rename_axis("clip_id").sort_index() for n, s in splits.items()},
    )


def source_of(group: int) -> str:
    """The source part of the file names of a group; no two groups share one."""
    titles = list(PLACES.values())
    turn, place = divmod(group, len(titles))
    again, title = divmod(turn, 2)
    return titles[place][title] + (f"_{again + 1}" if again else "")


def render(clip: Clip, demo: params.Demo, seed: int) -> Iterator[np.ndarray]:
    """The frames of a clip before the codec, uint8 `[H, W, 3]` RGB, one at a time."""
    return _Shot(clip, demo, seed).frames()


# --- files ----------------------------------------------------------------------------------------


def _film(clip: Clip, demo: params.Demo, seed: int, videos: Path) -> tuple[Clip, str]:
    """Render one clip to its file; returns the clip and the file's name."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the parallelism is over clips; frames are too small to share
    try:
        shot = _Shot(clip, demo, seed)
        _encode(shot.frames(), videos / clip.label / shot.name, demo.width, demo.height, QUALITY[shot.quality][1])
    finally:
        cv2.setNumThreads(threads)
    return clip, shot.name


def _encode(frames: Iterable[np.ndarray], path: Path, width: int, height: int, quantiser: int) -> None:
    """An Xvid-style AVI; one thread and the bitexact flags keep timing and the library's version out of the bytes."""
    beside = path.with_name(path.name + ".part")
    with av.open(str(beside), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        options = {"flags": "+bitexact+qscale", "global_quality": str(quantiser * 118), "g": "12"}  # 118: FF_QP2LAMBDA
        stream = container.add_stream("mpeg4", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.codec_tag = "XVID"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(beside, path)


def _write_splits(names: dict[Clip, str], groups: int, seed: int, annotations: Path) -> None:
    """HMDB51's split files: `<file name> <1 train | 2 test>`. Every group is tested in one of the three splits."""
    annotations.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng([seed, 3]).permutation(groups)
    for number in SPLITS:
        tested = set(order[number - 1 :: len(SPLITS)].tolist())
        for label in CLASSES:
            lines = sorted(
                f"{name} {2 if clip.group in tested else 1}\n" for clip, name in names.items() if clip.label == label
            )
            path = annotations / f"{label}_test_split{number}.txt"
            beside = path.with_name(path.name + ".part")
            beside.write_text("".join(lines), encoding="utf-8", newline="\n")
            os.replace(beside, path)


def _read_split(path: Path) -> Iterator[tuple[str, str]]:
    subsets = {"0": "unused", "1": "train", "2": "test"}
    label = path.name.rpartition("_test_split")[0]
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run `dvc repro download` to make it again") from None
    for number, line in enumerate(lines, 1):
        name, _, code = line.rpartition(" ")
        if not line:
            continue
        if code not in subsets or f"_{label}_" not in name:
            raise UserError(f"{path}, line {number}: {line!r} is not a file name of this class and 0, 1 or 2")
        yield name, subsets[code]


# --- a shot: who, where, and what moves -----------------------------------------------------------


@dataclass(frozen=True)
class _Actor:
    """What a person looks like. Lengths are parts of the body's height."""

    height: float
    leg: float
    girth: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trim: Colour
    trousers: Colour
    shoes: Colour
    pattern: str
    long_hair: bool
    long_sleeves: bool
    shorts: bool


def _draw_actor(rng: np.random.Generator) -> _Actor:
    tone = rng.uniform(0, 1)
    hair = [
        (0.16, 0.12, 0.1),
        (0.32, 0.2, 0.12),
        (0.55, 0.38, 0.2),
        (0.75, 0.6, 0.35),
        (0.6, 0.6, 0.6),
        (0.45, 0.18, 0.1),
    ]
    shirt = _hsv(rng.uniform(), rng.uniform(0.12, 0.4), rng.uniform(0.55, 0.92))
    return _Actor(
        height=rng.uniform(0.93, 1.05),
        leg=rng.uniform(0.465, 0.505),
        girth=rng.uniform(0.9, 1.2),
        skin=_mix((0.96, 0.8, 0.68), (0.42, 0.27, 0.19), tone),
        hair=hair[rng.integers(len(hair))],
        shirt=shirt,
        trim=_mix(shirt, (0.97, 0.96, 0.92) if rng.uniform() < 0.5 else (0.15, 0.16, 0.2), 0.75),
        trousers=_hsv(rng.choice([0.6, 0.08, 0.65, 0.0]), rng.uniform(0.1, 0.4), rng.uniform(0.22, 0.5)),
        shoes=_hsv(rng.uniform(), 0.2, rng.choice([0.15, 0.3, 0.9])),
        pattern=str(rng.choice(["plain", "stripes", "jacket", "band"])),
        long_hair=bool(rng.uniform() < 0.45),
        long_sleeves=bool(rng.uniform() < 0.5),
        shorts=bool(rng.uniform() < 0.3),
    )


class _Shot:
    """A clip with its random numbers drawn; drawing the frames needs no more than the noise."""

    def __init__(self, clip: Clip, demo: params.Demo, seed: int) -> None:
        self.demo = demo
        # The group's generator is seeded without the class: an actor and a place say nothing about what is done there.
        group = np.random.default_rng([seed, 1, clip.group])
        self.actor = _draw_actor(group)
        self.horizon = group.uniform(0.42, 0.5)
        self.place = list(PLACES)[clip.group % len(PLACES)]
        self.place_seed = int(group.integers(2**31))

        own = [seed, 2, clip.group, clip.take, CLASSES.index(clip.label)]
        rng = np.random.default_rng(own)
        self.length = max(4, round(demo.frames * rng.uniform(0.75, 1.25)))
        self.view = str(rng.choice(["fr", "ba", "le", "ri"], p=[0.55, 0.15, 0.15, 0.15]))
        self.quality = str(rng.choice(list(QUALITY), p=[0.4, 0.4, 0.2]))
        shaky = bool(rng.uniform() < 0.5)
        self.hand = int(rng.choice([-1, 1]))
        self.stand = rng.uniform(-0.05, 0.05)
        self.prop = _Prop.draw(clip.thing, rng)
        self.pose = _draw_pose(clip.motion, self.length, rng)
        self.camera = _draw_camera(self.length, shaky, rng)
        light = 1 + rng.uniform(0.02, 0.07) * np.sin(rng.uniform(0, 6.3) + np.arange(self.length) / rng.uniform(8, 25))
        self.gain = np.outer(light * rng.uniform(0.94, 1.1), rng.uniform(0.97, 1.03, 3)).astype(np.float32)  # [T, 3]
        self.noise_seed = [*own, 4]
        camera = "cm" if shaky else "nm"
        self.name = f"{source_of(clip.group)}_{clip.label}_f_{camera}_np1_{self.view}_{self.quality}_{clip.take}.avi"

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 `[H, W, 3]` RGB, one frame after the other."""
        demo, rng = self.demo, np.random.default_rng(self.noise_seed)
        zoom = 2  # drawn at twice the size and averaged down: OpenCV's own antialiasing leaves steps on slanted edges
        height, width = demo.height * zoom, demo.width * zoom
        margin = round(0.12 * height)
        rows, columns = height + 2 * margin, width + 2 * margin
        scene = _paint_place(self.place, self.place_seed, (rows, columns), margin + self.horizon * height)
        vignette = _vignette(demo.height, demo.width)
        noise = np.float32(QUALITY[self.quality][0])
        for i in range(self.length):
            canvas = scene.copy()
            at = {key: float(value[i]) for key, value in self.pose.items()}
            near = 1 + 0.15 * at["depth"]
            floor = (
                self.horizon + (0.875 - self.horizon) * near
            )  # pinhole camera: size and drop below the horizon grow alike
            feet = np.array([width / 2 + (self.stand + 0.1 * at["side"]) * height, floor * height]) + margin
            tall = 0.64 * height * near * self.actor.height
            _draw_figure(canvas, feet, tall, self.actor, self.view, self.hand, at, self.prop)
            x, y, roll = self.camera[i]
            move = cv2.getRotationMatrix2D((columns / 2, rows / 2), roll, 1.0)
            move[:, 2] += (x * height - margin, y * height - margin)
            seen = cv2.warpAffine(
                canvas, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
            seen = cv2.resize(seen, (demo.width, demo.height), interpolation=cv2.INTER_AREA).astype(np.float32)
            seen *= vignette * self.gain[i]
            seen += noise * rng.standard_normal((demo.height, demo.width, 1), np.float32)
            yield np.clip(np.rint(seen), 0, 255).astype(np.uint8)


def _draw_pose(motion: str, frames: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The figure's coordinates over time, `[T]` each in -1 to 1; the module's docstring says why only one swings."""
    t = np.arange(frames)
    tempo = 2 * np.pi / rng.uniform(13, 19)

    def swing(fast: bool, low: float = 0.75) -> np.ndarray:
        # Every draw is made for every motion, so that all motions use the same random numbers in the same way.
        start, creep, amplitude = rng.uniform(0, 2 * np.pi), 2 * np.pi / rng.uniform(160, 320), rng.uniform(low, 1)
        return amplitude * np.sin(start + rng.choice([-1, 1]) * (tempo if fast else creep) * t)

    return {
        "side": swing(motion == "sidestep"),
        "crouch": swing(motion == "squat"),
        "depth": swing(motion == "approach"),
        "stride": swing(motion != "squat", low=0.4),
        "arm": swing(True, low=0.2),
        "reach": swing(False, low=0.2),
        "lean": swing(False, low=0.2),
    }


def _draw_camera(frames: int, shaky: bool, rng: np.random.Generator) -> np.ndarray:
    """Hand shake and a slow pan, `[T, 3]`: x and y in parts of the height, roll in degrees."""
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    shake = np.stack([np.convolve(rng.standard_normal(frames + 18), kernel, "valid") for _ in range(3)], axis=1)
    pan = np.sin(rng.uniform(0, 6.3, 2) + np.arange(frames)[:, None] * 2 * np.pi / rng.uniform(120, 240, 2))
    path = shake * [0.004, 0.004, 0.12] * (1.0 if shaky else 0.25)
    path[:, :2] += pan * [0.04, 0.015] * (1.0 if shaky else 0.0)
    return path


def _vignette(height: int, width: int) -> np.ndarray:
    """`[H, W, 1]` float32 gain of a lens: 1 in the centre, darker to the corners."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (1 - 0.09 * (x**2 + y**2))[..., None].astype(np.float32)


# --- the figure -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prop:
    """The thing in the hand; `size` is a part of the body's height."""

    thing: str
    size: float
    colour: Colour
    second: Colour
    turn: float

    @staticmethod
    def draw(thing: str, rng: np.random.Generator) -> _Prop:
        hue = {"ball": 0.02, "flag": 0.36, "umbrella": 0.63}[thing] + rng.uniform(-0.05, 0.05)
        colour = _hsv(hue, rng.uniform(0.72, 0.95), rng.uniform(0.7, 0.95))
        second = _mix(colour, (1, 0.98, 0.93), rng.uniform(0.6, 0.95))
        return _Prop(thing, rng.uniform(0.15, 0.19), colour, second, rng.uniform(-1, 1))


def _draw_figure(
    canvas: np.ndarray,
    feet: np.ndarray,
    size: float,
    actor: _Actor,
    view: str,
    hand: int,
    at: dict[str, float],
    prop: _Prop,
) -> None:
    """Draw a person, `size` pixels tall, standing at pixel `feet`, in the pose `at` of :func:`_draw_pose`."""
    hip_y = actor.leg * 0.99 - 0.085 * (1 + at["crouch"])
    girth, facing, turned = actor.girth, FACING[view], TURNED[view]
    bent = facing * (1 + at["crouch"])  # from the side, a person who crouches sits back and leans forward
    hip = np.array([0.02 * at["lean"] - 0.035 * bent, hip_y])
    spine = np.array([0.05 * at["lean"] + 0.05 * bent, 0.3])
    neck = hip + spine
    head = neck + np.array([0.03 * at["lean"], 0.115])

    def px(point: np.ndarray) -> np.ndarray:
        return feet + np.array([point[0], -point[1]]) * size

    def limb(a: np.ndarray, b: np.ndarray, wide: float, narrow: float, colour: Colour) -> None:
        _capsule(canvas, px(a), px(b), wide * girth * size, narrow * girth * size, _dim(colour, 0.68))
        light = np.array([-0.22, -0.12]) * narrow * girth * size
        _capsule(canvas, px(a) + light, px(b) + light, wide * 0.72 * girth * size, narrow * 0.68 * girth * size, colour)

    def leg(side: int) -> None:
        spread = 0.085 + 0.035 * at["stride"] * side
        foot = np.array([side * spread, 0.035 + 0.02 * max(0.0, side * at["stride"])])
        top = hip + (side * 0.052 * girth * turned, 0)
        knee = _joint(top, foot, actor.leg * 0.5, actor.leg * 0.5, outward=facing or side)
        if not facing:
            knee += 0.45 * ((top + foot) / 2 - knee)  # seen from the front, knees bend towards the camera as well
        limb(foot, foot + (facing * 0.06 + side * 0.022 * (not facing), -0.012), 0.027, 0.022, actor.shoes)
        limb(knee, foot + (0, 0.012), 0.033, 0.024, actor.skin if actor.shorts else actor.trousers)
        limb(top, knee, 0.05, 0.036, actor.trousers)

    def arm(side: int, to: np.ndarray) -> None:
        shoulder = neck + (side * 0.088 * girth * turned, -0.035)
        elbow = _joint(shoulder, to, 0.15, 0.14, outward=side, down=True)
        limb(elbow, to, 0.026, 0.021, actor.shirt if actor.long_sleeves else actor.skin)
        limb(shoulder, elbow, 0.036, 0.028, actor.shirt)
        _disc(canvas, px(to), 0.03 * size, _dim(actor.skin, 0.95))

    _shadow(canvas, feet, 0.26 * size, 0.05 * size)
    if actor.long_hair and view != "ba":
        limb(head + (-facing * 0.02, 0.03), neck + (-facing * 0.03, 0.01), 0.085, 0.07, actor.hair)
    leg(-1)
    leg(1)

    free = neck + np.array([-hand * (0.15 + 0.07 * at["arm"]), -0.22 + 0.06 * at["arm"]])
    held = neck + np.array([hand * (0.26 + 0.025 * at["reach"]), -0.05 + 0.07 * at["reach"]])
    arm(-hand, free)
    _torso(canvas, px, hip, neck, actor, view, size)
    limb(neck + (0, -0.02), head + (0, -0.03), 0.032, 0.03, _dim(actor.skin, 0.92))
    _head(canvas, px(head), 0.082 * size, actor, view)
    _draw_prop(canvas, px(held), size, hand, prop)
    arm(hand, held)


def _joint(a: np.ndarray, b: np.ndarray, first: float, second: float, outward: float, down: bool = False) -> np.ndarray:
    """Elbow or knee of a limb from `a` to `b` (law of cosines); a limb that is too short is stretched straight."""
    line = b - a
    distance = float(np.hypot(*line))
    along = (first**2 - second**2 + distance**2) / (2 * distance) if distance else 0.0
    bend = np.sqrt(max(first**2 - along**2, 0.0))
    normal = np.array([-line[1], line[0]]) / max(distance, 1e-6)
    if (down and normal[1] > 0) or (not down and normal[0] * outward < 0):
        normal = -normal
    return a + line / max(distance, 1e-6) * along + normal * bend


def _torso(
    canvas: np.ndarray,
    px: Callable[[np.ndarray], np.ndarray],
    hip: np.ndarray,
    neck: np.ndarray,
    actor: _Actor,
    view: str,
    size: float,
) -> None:
    wide, waist = 0.092 * actor.girth * TURNED[view], 0.07 * actor.girth * TURNED[view]
    corners = [(neck + (s * wide, -0.035), 0.042) for s in (-1, 1)] + [(hip + (s * waist, 0.0), 0.042) for s in (-1, 1)]

    def hull(shrink: float, shift: np.ndarray) -> np.ndarray:
        points = np.concatenate([px(c) + shift + _circle(r * shrink * size) for c, r in corners])
        return cv2.convexHull(points.astype(np.float32))[:, 0]

    _fill(canvas, hull(1.0, np.zeros(2)), _dim(actor.shirt, 0.68))
    _fill(canvas, hull(0.72, np.array([-0.008, -0.004]) * size), actor.shirt)

    def across(t: float, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
        middle, half = neck + (hip - neck) * t, (wide + (waist - wide) * t) + 0.012
        return px(middle + (left * half, 0)), px(middle + (right * half, 0))

    if actor.pattern == "stripes":
        for t in (0.2, 0.42, 0.64, 0.86):
            a, b = across(t, -1, 1)
            _capsule(canvas, a, b, 0.013 * size, 0.013 * size, actor.trim)
    elif actor.pattern == "band":
        a, b = across(0.42, -1, 1)
        _capsule(canvas, a, b, 0.034 * size, 0.034 * size, actor.trim)
    elif actor.pattern == "jacket" and view != "ba":
        _fill(canvas, np.array([*across(0.02, -0.3, 0.3), *across(0.98, -0.12, 0.12)])[[0, 1, 3, 2]], actor.trim)
    _capsule(canvas, *across(1.12, -0.9, 0.9), 0.014 * size, 0.014 * size, _dim(actor.trousers, 0.6))


def _head(canvas: np.ndarray, centre: np.ndarray, radius: float, actor: _Actor, view: str) -> None:
    facing = FACING[view]
    oval = np.array([0.88, 1.0])
    _fill(canvas, centre + _circle(radius) * oval, _dim(actor.skin, 0.75))
    _fill(canvas, centre + _circle(radius * 0.9) * oval + (-0.06 * radius, -0.04 * radius), actor.skin)
    if view == "ba":
        _fill(canvas, centre + _circle(radius * 1.02) * oval + (0, -0.1 * radius), actor.hair)
        return
    angles = np.linspace(np.pi * 0.98, np.pi * 2.02, 24)
    cap = np.stack([np.cos(angles) * 0.96, np.sin(angles) * 1.06], axis=1)
    fringe = np.array(
        [
            [0.9, -0.05],
            [0.55 + 0.2 * facing, -0.45],
            [-0.1 + 0.3 * facing, -0.4],
            [-0.6 + 0.2 * facing, -0.5],
            [-0.9, -0.05],
        ]
    )
    _fill(canvas, centre + np.concatenate([cap, fringe]) * radius, actor.hair)
    dark = (0.13, 0.1, 0.1)
    for eye in (-0.32, 0.32):
        if facing * eye < 0:
            continue  # the far eye of a turned head
        _disc(canvas, centre + np.array([eye + 0.28 * facing, 0.02]) * radius, 0.1 * radius, dark)
    mouth = centre + np.array([0.4 * facing, 0.48]) * radius
    _capsule(
        canvas,
        mouth - (0.2 * radius, 0),
        mouth + (0.2 * radius, 0.02 * radius),
        0.06 * radius,
        0.06 * radius,
        _mix(actor.skin, (0.5, 0.1, 0.1), 0.6),
    )


def _draw_prop(canvas: np.ndarray, held: np.ndarray, size: float, hand: int, prop: _Prop) -> None:
    """Draw the thing above the hand at pixel `held`; all things reach about as far up and to the side."""
    r = prop.size * size
    dark, up = _dim(prop.colour, 0.6), np.array([0.0, -1.0])
    pole = (0.3, 0.26, 0.24)
    if prop.thing == "ball":
        centre = held + up * r * 0.95
        _disc(canvas, centre, r, dark)
        _disc(canvas, centre, r * 0.94, prop.second)
        # Gores of a beach ball: every other lune between two meridians, tilted by `turn`.
        tilt, theta = prop.turn, np.linspace(-np.pi / 2, np.pi / 2, 14)
        rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        for left in (-1.0, -0.18, 0.62):
            lune = [np.stack([edge * np.cos(theta), np.sin(theta)], axis=1) for edge in (left, left + 0.42)]
            _fill(canvas, centre + np.concatenate([lune[0], lune[1][::-1]]) @ rotation.T * r * 0.94, prop.colour)
        _disc(canvas, centre + np.array([-0.35, -0.4]) * r, r * 0.13, (1, 1, 1))
    elif prop.thing == "umbrella":
        lean = 0.25 * prop.turn
        axis, side = np.array([np.sin(lean), -np.cos(lean)]), np.array([np.cos(lean), np.sin(lean)])
        rim = held + axis * r * 0.75
        _capsule(canvas, held - axis * r * 0.45, rim + axis * r * 1.3, 0.055 * r, 0.045 * r, pole)
        edges = np.linspace(-1, 1, 6) * 1.25
        arc = np.linspace(0, 1, 8)
        ribs = [np.stack([x * np.sin(arc * np.pi / 2), 1.2 * np.cos(arc * np.pi / 2)], axis=1) for x in edges]
        for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            # A panel runs from the tip down two ribs; its lower edge is a scallop.
            scallop = np.stack([b + (a - b) * arc, 0.14 * np.sin(arc * np.pi)], axis=1)
            panel = np.concatenate([ribs[k], scallop[::-1], ribs[k + 1][::-1]])
            colour = prop.colour if k % 2 == 0 else _mix(prop.colour, prop.second, 0.45)
            _fill(canvas, rim + (panel[:, :1] * side + panel[:, 1:] * axis) * r, colour)
    else:
        top = held + up * r * 1.95
        _capsule(canvas, held - up * r * 0.5, top + up * r * 0.08, 0.07 * r, 0.06 * r, pole)
        s = np.linspace(0, 1, 12)
        wave = 0.12 * np.sin(2 * np.pi * s + 3 * prop.turn) * s
        for k in range(3):
            low, high = k / 3, (k + 1) / 3
            x = hand * s * 1.75
            cloth = np.concatenate([np.stack([x, wave + high * 1.25], 1)[::-1], np.stack([x, wave + low * 1.25], 1)])
            _fill(canvas, top + cloth * r, (prop.colour, prop.second, prop.colour)[k])
        _disc(canvas, top + up * r * 0.1, 0.11 * r, (0.85, 0.7, 0.3))


# --- places ---------------------------------------------------------------------------------------


def _paint_place(place: str, seed: int, shape: tuple[int, int], horizon: float) -> np.ndarray:
    """The empty scene, uint8 `[H, W, 3]`, its horizon (or foot of the wall) near pixel row `horizon`."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((*shape, 3), np.uint8)
    painter = {"park": _park, "street": _street, "room": _room, "beach": _beach, "hall": _hall, "rooftop": _rooftop}
    painter[place](canvas, horizon, rng)
    return canvas


def _park(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    sky = _hsv(rng.uniform(0.52, 0.6), rng.uniform(0.15, 0.35), 0.92)
    _gradient(canvas, 0, horizon, sky, _mix(sky, (1, 0.97, 0.9), 0.7))
    for _ in range(rng.integers(2, 5)):
        _cloud(canvas, np.array([rng.uniform(0, w), rng.uniform(0.05, 0.3) * h]), rng.uniform(0.04, 0.07) * h, rng)
    hill = _hsv(rng.uniform(0.25, 0.38), 0.25, 0.62)
    for level in range(2):
        _ridge(canvas, horizon + h * 0.01, h * (0.14 - 0.05 * level), _dim(hill, 1 - 0.12 * level), rng)
    grass = _hsv(rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.42), rng.uniform(0.55, 0.72))
    _gradient(canvas, horizon, h, _mix(grass, (0.9, 0.9, 0.7), 0.25), _dim(grass, 0.78))
    path = _mix(grass, (0.85, 0.76, 0.62), 0.8)
    bend = rng.uniform(0.15, 0.85) * w
    far, near = 0.012 * w, 0.2 * w
    _fill(
        canvas,
        np.array(
            [
                [bend - far, horizon],
                [bend + far, horizon],
                [bend * 0.6 + near + 0.2 * w, h],
                [bend * 0.6 - near + 0.2 * w, h],
            ]
        ),
        path,
    )
    _roughen(canvas, horizon, h, 10, rng)
    for x in _spread(rng.integers(3, 6), w, rng):
        tall, foot = rng.uniform(0.26, 0.44) * h, horizon + rng.uniform(0.0, 0.07) * h
        trunk, leaf = _hsv(0.07, 0.4, 0.36), _hsv(rng.uniform(0.2, 0.36), rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.6))
        _shadow(canvas, np.array([x, foot]), tall * 0.28, tall * 0.05)
        _capsule(canvas, np.array([x, foot]), np.array([x, foot - tall * 0.6]), tall * 0.05, tall * 0.03, trunk)
        for _ in range(9):
            offset = rng.normal(0, 0.13, 2) * tall
            _disc(
                canvas,
                np.array([x, foot - tall * 0.72]) + offset,
                tall * rng.uniform(0.12, 0.2),
                _dim(leaf, rng.uniform(0.85, 1.12)),
            )
    if rng.uniform() < 0.7:
        _bench(canvas, np.array([rng.choice([0.2, 0.8]) * w, horizon + 0.13 * h]), 0.12 * h, _hsv(0.08, 0.45, 0.5))


def _street(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.12 * h
    brick = _hsv(rng.uniform(0.02, 0.09), rng.uniform(0.25, 0.42), rng.uniform(0.55, 0.72))
    _gradient(canvas, 0, foot, _dim(brick, 0.75), _dim(brick, 0.85))
    row = h / 22
    for j in range(int(foot / row) + 1):
        for i in range(-1, int(w / (2.4 * row)) + 2):
            x, y = (i + 0.5 * (j % 2)) * 2.4 * row, foot - (j + 1) * row
            _box(canvas, x + 1, y + 1, x + 2.4 * row - 1, y + row - 1, _dim(brick, rng.uniform(0.9, 1.12)))
    for x in _spread(2, w, rng):
        glass, frame = (
            _hsv(0.56, rng.uniform(0.1, 0.25), rng.uniform(0.5, 0.8)),
            _hsv(0.1, 0.08, rng.uniform(0.75, 0.95)),
        )
        half, top = 0.11 * h, rng.uniform(0.08, 0.14) * h
        _box(canvas, x - half - 5, top - 5, x + half + 5, top + 0.27 * h + 5, frame)
        for side in (-1, 0):
            _box(canvas, x + side * half + 2, top, x + (side + 1) * half - 2, top + 0.27 * h, glass)
        _fill(
            canvas,
            np.array(
                [[x - half, top + 0.2 * h], [x - half * 0.4, top], [x - half * 0.1, top], [x - half, top + 0.27 * h]]
            ),
            _mix(glass, (1, 1, 1), 0.4),
        )
        _box(canvas, x - half - 9, top + 0.27 * h + 5, x + half + 9, top + 0.27 * h + 12, _dim(frame, 0.8))
    door = _hsv(rng.uniform(), 0.35, 0.42)
    x = rng.uniform(0.42, 0.58) * w
    _box(canvas, x - 0.11 * h, foot - 0.5 * h, x + 0.11 * h, foot, _dim(door, 0.6))
    _box(canvas, x - 0.095 * h, foot - 0.48 * h, x + 0.095 * h, foot, door)
    for y in (0.44, 0.22):
        _box(canvas, x - 0.065 * h, foot - y * h, x + 0.065 * h, foot - (y - 0.16) * h, _dim(door, 0.8))
    paving = _hsv(0.1, 0.07, rng.uniform(0.58, 0.72))
    _gradient(canvas, foot, h, _dim(paving, 0.85), paving)
    _tiles(canvas, foot, _dim(paving, 0.8), w * rng.uniform(0.3, 0.7), 9)
    _roughen(canvas, 0, h, 6, rng)
    if rng.uniform() < 0.7:
        _plant(canvas, np.array([rng.choice([0.17, 0.84]) * w, foot + 0.07 * h]), 0.2 * h, rng)


def _room(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.13 * h
    wall = _hsv(rng.uniform(0.05, 0.6), rng.uniform(0.1, 0.28), rng.uniform(0.72, 0.9))
    _gradient(canvas, 0, foot, wall, _dim(wall, 0.9))
    for x in np.arange(0, w, h / 14):
        _box(canvas, x, 0, x + h / 40, foot, _dim(wall, 0.95))
    floor = _hsv(rng.uniform(0.06, 0.1), rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.68))
    _gradient(canvas, foot, h, _dim(floor, 0.85), floor)
    _tiles(canvas, foot, _dim(floor, 0.82), w * 0.5, 0)
    _box(canvas, 0, foot - 0.03 * h, w, foot, _mix(wall, (1, 1, 1), 0.6))
    left = bool(rng.uniform() < 0.5)
    x, top = (0.25 if left else 0.75) * w, 0.16 * h
    _box(canvas, x - 0.17 * h, top - 6, x + 0.17 * h, top + 0.3 * h + 6, (0.95, 0.94, 0.9))
    _gradient(canvas, top, top + 0.3 * h, _hsv(0.56, 0.3, 0.95), _hsv(0.3, 0.25, 0.8), x - 0.155 * h, x + 0.155 * h)
    _box(canvas, x - 3, top, x + 3, top + 0.3 * h, (0.95, 0.94, 0.9))
    _box(canvas, x - 0.155 * h, top + 0.14 * h, x + 0.155 * h, top + 0.14 * h + 5, (0.95, 0.94, 0.9))
    curtain = _hsv(rng.uniform(), 0.25, 0.75)
    for side in (-1, 1):
        for k in range(4):
            at = x + side * (0.15 + 0.022 * k) * h
            _box(canvas, at - 0.012 * h, top - 12, at + 0.012 * h, foot - 0.08 * h, _dim(curtain, 0.9 + 0.12 * (k % 2)))
    x = (0.66 if left else 0.3) * w
    for k in range(rng.integers(2, 4)):
        a = x + (k - 1) * 0.2 * h
        y, half = rng.uniform(0.16, 0.24) * h, rng.uniform(0.055, 0.08) * h
        _box(canvas, a - half - 4, y - half - 4, a + half + 4, y + half + 4, _hsv(0.09, 0.4, 0.35))
        hue = rng.uniform(size=2)
        _gradient(canvas, y - half, y + half, _hsv(hue[0], 0.3, 0.85), _hsv(hue[1], 0.35, 0.55), a - half, a + half)
    sofa = _hsv(rng.uniform(), rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.62))
    x, y = (0.72 if left else 0.28) * w, foot + 0.05 * h
    _shadow(canvas, np.array([x, y]), 0.36 * h, 0.035 * h)
    _rounded(canvas, x - 0.32 * h, y - 0.27 * h, x + 0.32 * h, y - 0.03 * h, 0.05 * h, _dim(sofa, 0.85))
    for k in (-1, 0):
        _rounded(
            canvas,
            x + k * 0.29 * h + 2,
            y - 0.15 * h,
            x + (k + 1) * 0.29 * h - 2,
            y - 0.07 * h,
            0.03 * h,
            _dim(sofa, 1.1),
        )
    _rounded(canvas, x - 0.29 * h, y - 0.09 * h, x + 0.29 * h, y - 0.02 * h, 0.02 * h, sofa)
    for side in (-1, 1):
        _rounded(
            canvas,
            x + side * 0.32 * h - 0.045 * h,
            y - 0.19 * h,
            x + side * 0.32 * h + 0.045 * h,
            y,
            0.035 * h,
            _dim(sofa, 0.95),
        )
    rug = _hsv(rng.uniform(), 0.3, 0.6)
    for k, grow in enumerate((1.0, 0.86, 0.5)):
        _fill(
            canvas,
            np.array([w / 2, 0.84 * h]) + _circle(0.5 * h) * (grow, 0.2 * grow),
            _mix(rug, (0.95, 0.9, 0.8), 0.4 * (k % 2)),
        )
    _roughen(canvas, 0, h, 5, rng)
    _plant(canvas, np.array([(0.08 if left else 0.92) * w, foot + 0.1 * h]), 0.26 * h, rng)


def _beach(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    warm = rng.uniform(0, 1)
    sky = _mix(_hsv(0.56, 0.35, 0.92), _hsv(0.06, 0.3, 0.96), warm)
    _gradient(canvas, 0, horizon, sky, _mix(sky, (1, 0.95, 0.85), 0.75))
    sun = np.array([rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.3) * h])
    for k in range(4):
        _disc(canvas, sun, (0.085 - 0.015 * k) * h, _mix(sky, (1, 0.97, 0.82), 0.3 + 0.23 * k))
    for _ in range(rng.integers(1, 3)):
        _cloud(canvas, np.array([rng.uniform(0, w), rng.uniform(0.08, 0.28) * h]), rng.uniform(0.03, 0.05) * h, rng)
    sea, shore = _hsv(rng.uniform(0.48, 0.56), rng.uniform(0.3, 0.45), rng.uniform(0.55, 0.72)), horizon + 0.13 * h
    _gradient(canvas, horizon, shore + 0.05 * h, _dim(sea, 0.8), _mix(sea, (1, 1, 1), 0.3))
    for _ in range(40):
        y = rng.uniform(horizon + 3, shore)
        x, half = rng.uniform(0, w), (y - horizon) * rng.uniform(0.2, 0.5) + 3
        _capsule(
            canvas,
            np.array([x - half, y]),
            np.array([x + half, y]),
            0.8,
            0.8,
            _mix(sea, (1, 1, 1), rng.uniform(0.2, 0.6)),
        )
    island = rng.uniform(0.1, 0.9) * w
    _fill(
        canvas,
        np.array([island, horizon]) + _circle(0.18 * h)[:17] * (-1.2, -0.3),
        _mix(_hsv(0.35, 0.2, 0.5), sky, 0.4),
    )
    sand = _hsv(rng.uniform(0.09, 0.12), rng.uniform(0.22, 0.35), rng.uniform(0.8, 0.9))
    x = np.linspace(0, w, 60)
    edge = shore + 0.012 * h * np.sin(x / w * rng.uniform(6, 14) + rng.uniform(0, 6.3))
    for lift, colour in ((-0.016, (0.98, 0.98, 0.96)), (0.0, _dim(sand, 0.82)), (0.035, sand)):
        _fill(canvas, np.concatenate([np.stack([x, edge + lift * h], 1), [[w, h + 1], [0, h + 1]]]), colour)
    _roughen(canvas, shore, h, 9, rng)
    x, y = rng.choice([0.14, 0.86]) * w, shore + 0.12 * h
    if rng.uniform() < 0.6:
        towel = _hsv(rng.uniform(), 0.3, 0.8)
        for k in range(5):
            a, b = -0.16 + 0.064 * k, -0.16 + 0.064 * (k + 1)
            _fill(
                canvas,
                np.array(
                    [[x + a * h, y], [x + b * h, y], [x + b * 1.25 * h, y + 0.05 * h], [x + a * 1.25 * h, y + 0.05 * h]]
                ),
                towel if k % 2 else _mix(towel, (1, 1, 1), 0.6),
            )
    for _ in range(rng.integers(3, 7)):
        at = np.array([rng.uniform(0, w), rng.uniform(shore + 0.08 * h, h)])
        _disc(canvas, at, rng.uniform(1.5, 4), _dim(sand, rng.uniform(0.6, 0.8)))


def _hall(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.12 * h
    wall = _hsv(rng.uniform(0.08, 0.6), rng.uniform(0.05, 0.2), rng.uniform(0.72, 0.88))
    _gradient(canvas, 0, foot, _dim(wall, 0.92), wall)
    panel = _hsv(rng.uniform(), rng.uniform(0.2, 0.35), rng.uniform(0.45, 0.65))
    _box(canvas, 0, foot - 0.2 * h, w, foot, panel)
    _box(canvas, 0, foot - 0.215 * h, w, foot - 0.2 * h, _mix(panel, (1, 1, 1), 0.6))
    for x in np.arange(0, w, 0.17 * h):
        _box(canvas, x, foot - 0.2 * h, x + 2, foot, _dim(panel, 0.8))
    for x in np.arange(rng.uniform(0, 0.2) * h, w, 0.42 * h):
        _box(canvas, x, 0.08 * h, x + 0.34 * h, 0.24 * h, (0.55, 0.58, 0.6))
        for k in range(3):
            pane = x + (0.012 + 0.109 * k) * h
            _gradient(canvas, 0.092 * h, 0.228 * h, (0.93, 0.96, 0.98), (0.75, 0.84, 0.9), pane, pane + 0.097 * h)
    if rng.uniform() < 0.5:
        x = rng.choice([0.25, 0.75]) * w
        for k in range(9):
            y = foot - (0.06 + 0.055 * k) * h
            _capsule(
                canvas,
                np.array([x - 0.15 * h, y]),
                np.array([x + 0.15 * h, y]),
                0.009 * h,
                0.009 * h,
                _hsv(0.09, 0.4, 0.62),
            )
        for side in (-1, 0, 1):
            _box(canvas, x + side * 0.15 * h - 3, foot - 0.54 * h, x + side * 0.15 * h + 3, foot, _hsv(0.09, 0.45, 0.5))
    else:
        x = rng.uniform(0.3, 0.7) * w
        _box(canvas, x - 0.15 * h, 0.26 * h, x + 0.15 * h, 0.46 * h, (0.96, 0.96, 0.96))
        _box(canvas, x - 0.06 * h, 0.35 * h, x + 0.06 * h, 0.44 * h, (0.7, 0.3, 0.25))
        _box(canvas, x - 0.05 * h, 0.36 * h, x + 0.05 * h, 0.44 * h, (0.96, 0.96, 0.96))
    floor = _hsv(rng.uniform(0.07, 0.1), rng.uniform(0.3, 0.45), rng.uniform(0.62, 0.78))
    _gradient(canvas, foot, h, _dim(floor, 0.85), floor)
    _tiles(canvas, foot, _dim(floor, 0.92), w * 0.5, 0)
    line = _mix(floor, (1, 1, 1), 0.75)
    for y, thick in ((0.14, 0.006), (0.36, 0.011)):
        _box(canvas, 0, foot + y * h, w, foot + (y + thick) * h, line)
    for side in (-1, 1):
        far, near = w * (0.5 + side * 0.2), w * (0.5 + side * 0.62)
        _fill(
            canvas,
            np.array([[far, foot], [far + 3, foot], [near + 9, h], [near, h]]),
            _mix(floor, _hsv(rng.uniform(), 0.4, 0.5), 0.7),
        )
    _roughen(canvas, 0, h, 4, rng)
    x, y = rng.choice([0.12, 0.88]) * w, foot + 0.06 * h
    mat = _hsv(rng.uniform(), 0.3, 0.5)
    for k in range(3):
        _rounded(
            canvas,
            x - 0.2 * h,
            y - 0.05 * (k + 1) * h,
            x + 0.2 * h,
            y - 0.05 * k * h - 2,
            0.015 * h,
            _dim(mat, 0.85 + 0.12 * k),
        )


def _rooftop(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.13 * h
    top, low = _hsv(rng.uniform(0.62, 0.74), 0.35, rng.uniform(0.5, 0.68)), _hsv(rng.uniform(0.03, 0.1), 0.38, 0.95)
    _gradient(canvas, 0, foot, top, low)
    for _ in range(rng.integers(2, 4)):
        x, y, half = rng.uniform(0, w), rng.uniform(0.1, 0.35) * h, rng.uniform(0.1, 0.25) * h
        _capsule(canvas, np.array([x - half, y]), np.array([x + half, y]), 0.012 * h, 0.006 * h, _mix(low, top, 0.35))
    for level, haze in ((0, 0.55), (1, 0.25)):
        x = -rng.uniform(0, 0.1) * w
        while x < w:
            wide, tall = rng.uniform(0.1, 0.2) * h, rng.uniform(0.16, 0.42 - 0.1 * level) * h
            tower = _mix(_hsv(0.68, 0.25, rng.uniform(0.2, 0.32)), low, haze)
            _box(canvas, x, foot - tall, x + wide - 2, foot, tower)
            if rng.uniform() < 0.3:
                _box(canvas, x + wide * 0.45, foot - tall - 0.06 * h, x + wide * 0.5, foot - tall, tower)
            for y in np.arange(foot - tall + 7, foot - 9, 0.035 * h):
                for a in np.arange(x + 5, x + wide - 9, 0.033 * h):
                    if rng.uniform() < 0.4:
                        _box(
                            canvas,
                            a,
                            y,
                            a + 0.014 * h,
                            y + 0.016 * h,
                            _mix(tower, (1, 0.88, 0.55), rng.uniform(0.3, 0.85)),
                        )
            x += wide
    deck = _hsv(rng.uniform(0.55, 0.75), 0.1, rng.uniform(0.5, 0.62))
    _gradient(canvas, foot, h, _dim(deck, 0.85), _mix(deck, low, 0.2))
    _tiles(canvas, foot, _dim(deck, 0.85), w * rng.uniform(0.35, 0.65), 7)
    rail = _hsv(0.6, 0.1, rng.uniform(0.25, 0.4))
    for x in np.arange(0, w, 0.055 * h):
        _box(canvas, x, foot - 0.12 * h, x + 0.008 * h, foot, rail)
    _box(canvas, 0, foot - 0.13 * h, w, foot - 0.11 * h, rail)
    _roughen(canvas, foot, h, 6, rng)
    x, y = rng.choice([0.13, 0.87]) * w, foot + 0.08 * h
    metal = _hsv(0.6, 0.06, rng.uniform(0.6, 0.75))
    _shadow(canvas, np.array([x, y]), 0.17 * h, 0.03 * h)
    _box(canvas, x - 0.13 * h, y - 0.2 * h, x + 0.13 * h, y, metal)
    for k in range(6):
        _box(
            canvas, x - 0.1 * h, y - (0.175 - 0.025 * k) * h, x + 0.1 * h, y - (0.165 - 0.025 * k) * h, _dim(metal, 0.7)
        )
    for x in np.arange(0.02 * w, w, 0.16 * h):
        y = 0.06 * h + 0.02 * h * np.sin(x / w * 9)
        _disc(canvas, np.array([x, y]), 0.011 * h, (1, 0.92, 0.65))


def _cloud(canvas: np.ndarray, centre: np.ndarray, size: float, rng: np.random.Generator) -> None:
    colour = tuple(float(c) / 255 for c in canvas[int(np.clip(centre[1], 0, len(canvas) - 1)), 0])
    for k in range(5):
        offset = np.array([(k - 2) * 0.75, -0.3 * (2 - abs(k - 2)) * rng.uniform(0.5, 1)]) * size
        _fill(
            canvas,
            centre + offset + _circle(size * (1.0 - 0.17 * abs(k - 2))) * (1.1, 0.6),
            _mix(colour, (1, 1, 1), 0.6),
        )


def _ridge(canvas: np.ndarray, base: float, tall: float, colour: Colour, rng: np.random.Generator) -> None:
    w = canvas.shape[1]
    x = np.linspace(0, w, 80)
    waves = sum(np.sin(x / w * rng.uniform(2, 9) * (k + 1) + rng.uniform(0, 6.3)) / (k + 1.5) for k in range(3))
    _fill(
        canvas, np.concatenate([np.stack([x, base - tall * (0.45 + 0.35 * waves)], 1), [[w, base], [0, base]]]), colour
    )


def _bench(canvas: np.ndarray, foot: np.ndarray, tall: float, colour: Colour) -> None:
    _shadow(canvas, foot, tall * 1.3, tall * 0.12)
    for side in (-0.85, 0.85):
        _capsule(
            canvas, foot + (side * tall, 0), foot + (side * tall, -tall), 0.05 * tall, 0.05 * tall, _dim(colour, 0.55)
        )
    for k, y in enumerate((0.42, 0.68, 0.92)):
        _rounded(
            canvas,
            foot[0] - 1.15 * tall,
            foot[1] - (y + 0.09) * tall,
            foot[0] + 1.15 * tall,
            foot[1] - (y - 0.09) * tall,
            0.04 * tall,
            _dim(colour, 0.9 + 0.08 * k),
        )


def _plant(canvas: np.ndarray, foot: np.ndarray, tall: float, rng: np.random.Generator) -> None:
    pot, leaf = _hsv(rng.uniform(0.03, 0.09), 0.35, 0.6), _hsv(rng.uniform(0.25, 0.38), 0.38, 0.48)
    _shadow(canvas, foot, tall * 0.25, tall * 0.05)
    for angle in np.linspace(-1.1, 1.1, 9) + rng.normal(0, 0.08, 9):
        tip = foot + np.array([np.sin(angle) * 0.45, -0.35 - 0.65 * np.cos(angle)]) * tall
        _capsule(canvas, foot + (0, -0.3 * tall), tip, 0.02 * tall, 0.055 * tall, _dim(leaf, rng.uniform(0.85, 1.25)))
    _fill(canvas, foot + np.array([[-0.17, -0.34], [0.17, -0.34], [0.12, 0.0], [-0.12, 0.0]]) * tall, pot)
    _fill(canvas, foot + np.array([[-0.19, -0.38], [0.19, -0.38], [0.19, -0.3], [-0.19, -0.3]]) * tall, _dim(pot, 1.12))


def _tiles(canvas: np.ndarray, top: float, colour: Colour, vanish: float, rows: int) -> None:
    """Joints of a floor in perspective: lines to a vanishing point above the floor, and `rows` across."""
    h, w = canvas.shape[:2]
    eye = top - 0.12 * h
    for k in range(-14, 15):
        far, near = vanish + k * 0.055 * w, vanish + k * 0.055 * w * (h - eye) / (top - eye)
        _fill(canvas, np.array([[far - 0.4, top], [far + 0.4, top], [near + 1.4, h], [near - 1.4, h]]), colour)
    for k in range(1, rows + 1):
        y = eye + (top - eye) / (1 - k / (rows + 3.5))
        if y < h:
            _box(canvas, 0, y, w, y + 0.8 + 1.2 * (y - top) / (h - top), colour)


def _spread(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """`count` places along the width, none on top of another."""
    return (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count * width


# --- paint ----------------------------------------------------------------------------------------


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _mix(a: Colour, b: Colour, part: float) -> Colour:
    return tuple(x + (y - x) * part for x, y in zip(a, b, strict=True))


def _dim(colour: Colour, gain: float) -> Colour:
    return tuple(min(1.0, channel * gain) for channel in colour)


def _bytes(colour: Colour) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in colour)


@functools.cache
def _arc(start: float, stop: float, points: int) -> np.ndarray:
    """Points of the unit circle, `[points, 2]`, from angle `start` to `stop` in turns."""
    angles = 2 * np.pi * np.linspace(start, stop, points)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _circle(radius: float, points: int = 32) -> np.ndarray:
    return radius * _arc(0, 1 - 1 / points, points)


def _fill(canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    """Fill a polygon, `[N, 2]` pixels with fractions (OpenCV takes them as integers of 1/16 pixel)."""
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32)], _bytes(colour), cv2.LINE_AA, 4)


def _disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    _fill(canvas, centre + _circle(radius), colour)


def _capsule(
    canvas: np.ndarray, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float, colour: Colour
) -> None:
    """A limb: two discs and all between them."""
    x, y = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
    arc = _arc(0.25, 0.75, 11) @ np.array([[x, y], [-y, x]])  # the far half of the disc at `a`
    _fill(canvas, np.concatenate([a + arc * radius_a, b - arc * radius_b]), colour)


def _box(canvas: np.ndarray, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    _fill(canvas, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), colour)


def _rounded(
    canvas: np.ndarray, left: float, top: float, right: float, bottom: float, radius: float, colour: Colour
) -> None:
    inner = [(x, y) for x in (left + radius, right - radius) for y in (top + radius, bottom - radius)]
    points = np.concatenate([np.array(corner) + _circle(radius, 16) for corner in inner]).astype(np.float32)
    _fill(canvas, cv2.convexHull(points)[:, 0], colour)


def _shadow(canvas: np.ndarray, centre: np.ndarray, half_width: float, half_height: float) -> None:
    """A soft dark ellipse on the ground."""
    left, top = np.maximum(np.floor(centre - (half_width, half_height)).astype(int), 0)
    right, bottom = np.maximum(np.ceil(centre + (half_width, half_height)).astype(int) + 1, 0)
    patch = canvas[top:bottom, left:right]
    y, x = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    away = ((x - centre[0]) / half_width) ** 2 + ((y - centre[1]) / half_height) ** 2
    patch[:] = patch * (1 - 0.45 * np.clip(1 - away, 0, 1) ** 0.7)[..., None]


def _gradient(
    canvas: np.ndarray, top: float, bottom: float, upper: Colour, lower: Colour, left: float = 0, right: float = np.inf
) -> None:
    """Fill a rectangle, `upper` colour at its top to `lower` at its bottom."""
    height, width = canvas.shape[:2]
    first, last = (round(min(max(y, 0), height)) for y in (top, bottom))
    start, stop = (round(min(max(x, 0), width)) for x in (left, right))
    part = np.linspace(0, 1, last - first)[:, None]
    rows = np.array(upper) * (1 - part) + np.array(lower) * part
    canvas[first:last, start:stop] = np.rint(255 * rows)[:, None].astype(np.uint8)


def _roughen(canvas: np.ndarray, top: float, bottom: float, strength: float, rng: np.random.Generator) -> None:
    """Texture that belongs to the ground or wall: noise at three scales, `strength` grey levels."""
    area = canvas[round(top) : round(bottom)]
    height, width = area.shape[:2]
    grain = np.zeros((height, width), np.float32)
    for step, gain in ((2, 0.45), (6, 0.7), (20, 1.0)):
        coarse = rng.standard_normal((height // step + 2, width // (2 * step) + 2), np.float32)
        grain += gain * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    area[:] = np.clip(area + strength * 0.6 * grain[..., None], 0, 255)
