"""A shot: who is filmed where, what moves, and the camera that looks on."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from twostream import params
from twostream.datasets.demo.figure import draw_actor, draw_figure
from twostream.datasets.demo.places import paint_place
from twostream.datasets.demo.pose import draw_pose
from twostream.datasets.demo.prop import Prop

NOISE = {"goo": 1.0, "med": 2.0, "bad": 4.0}  # grey levels, by HMDB51's qualities: good, medium, bad


class Shot:
    """A clip with its random numbers drawn; drawing the frames needs no more than the noise.

    The actor and the details of the place follow from `group_seed`, all else from `own_seed`.

    Attributes:
        length: frames of the clip, `demo.frames` +- 25 % and at least 4.
        view: where the figure faces, a key of `figure.FACING`.
        quality: how noisy the picture is, a key of :data:`NOISE`.
        shaky: whether the camera is held by hand and pans.
    """

    def __init__(
        self, demo: params.Demo, motion: str, thing: str, place: str, group_seed: list[int], own_seed: list[int]
    ) -> None:
        self.demo = demo
        group = np.random.default_rng(group_seed)
        self.actor = draw_actor(group)
        self.horizon = group.uniform(0.42, 0.5)
        self.place = place
        self.place_seed = int(group.integers(2**31))

        rng = np.random.default_rng(own_seed)
        self.length = max(4, round(demo.frames * rng.uniform(0.75, 1.25)))
        self.view = str(rng.choice(["fr", "ba", "le", "ri"], p=[0.55, 0.15, 0.15, 0.15]))
        self.quality = str(rng.choice(list(NOISE), p=[0.4, 0.4, 0.2]))
        self.shaky = bool(rng.uniform() < 0.5)
        self.hand = int(rng.choice([-1, 1]))
        self.stand = rng.uniform(-0.05, 0.05)
        self.prop = Prop.draw(thing, rng)
        self.pose = draw_pose(motion, self.length, rng)
        self.camera = _draw_camera(self.length, self.shaky, rng)
        light = 1 + rng.uniform(0.02, 0.07) * np.sin(rng.uniform(0, 6.3) + np.arange(self.length) / rng.uniform(8, 25))
        self.gain = np.outer(light * rng.uniform(0.94, 1.1), rng.uniform(0.97, 1.03, 3)).astype(np.float32)  # [T, 3]
        self.noise_seed = [*own_seed, 4]

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 `[H, W, 3]` RGB, one frame after the other."""
        demo, rng = self.demo, np.random.default_rng(self.noise_seed)
        zoom = 2  # drawn at twice the size and averaged down: OpenCV's own antialiasing leaves steps on slanted edges
        height, width = demo.height * zoom, demo.width * zoom
        margin = round(0.12 * height)
        rows, columns = height + 2 * margin, width + 2 * margin
        scene = paint_place(self.place, self.place_seed, (rows, columns), margin + self.horizon * height)
        vignette = _vignette(demo.height, demo.width)
        noise = np.float32(NOISE[self.quality])
        for i in range(self.length):
            canvas = scene.copy()
            at = {key: float(value[i]) for key, value in self.pose.items()}
            near = 1 + 0.15 * at["depth"]
            # A pinhole camera: size and drop below the horizon grow alike.
            floor = self.horizon + (0.875 - self.horizon) * near
            feet = np.array([width / 2 + (self.stand + 0.1 * at["side"]) * height, floor * height]) + margin
            tall = 0.64 * height * near * self.actor.height
            draw_figure(canvas, feet, tall, self.actor, self.view, self.hand, at, self.prop)
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
