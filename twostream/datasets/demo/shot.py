"""A shot: who is filmed where, what moves, and the camera that looks on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from twostream import params
from twostream.datasets.demo.figure import Actor, draw_actor, draw_figure
from twostream.datasets.demo.pose import draw_pose, walking_pose
from twostream.datasets.demo.prop import Prop
from twostream.datasets.demo.scenes import paint_scene

NOISE = {"goo": 1.0, "med": 3.0, "bad": 6.0}  # grey levels, by HMDB51's qualities: good, medium, bad
ZOOM = 2  # frames are drawn at twice the size: OpenCV's own antialiasing leaves steps on slanted edges


@dataclass(frozen=True)
class _Person:
    """Somebody in the scene; `x`, in frame heights from the centre, and `near`, 1 over the distance, are `[T]`."""

    actor: Actor
    view: str
    hand: int
    x: np.ndarray
    near: np.ndarray
    pose: dict[str, np.ndarray]
    prop: Prop | None


class Shot:
    """A clip with its random numbers drawn; drawing the frames needs no more than the noise.

    The actor and the details of the place follow from `group_seed`, all else from `own_seed`.

    Attributes:
        length: frames of the clip, `demo.frames` +- 25 % and at least 4.
        view: where the actor faces, a key of `figure.FACING`.
        quality: how noisy the frames are, a key of :data:`NOISE`.
        shaky: whether the camera is held by hand and moves.
        people: who is in the scene, the farthest first.
    """

    def __init__(
        self, demo: params.Demo, motion: str, thing: str, place: str, group_seed: list[int], own_seed: list[int]
    ) -> None:
        self.demo = demo
        group = np.random.default_rng(group_seed)
        actor = draw_actor(group)
        self.horizon = group.uniform(0.42, 0.5)
        self.place, self.place_seed = place, int(group.integers(2**31))
        light = group.uniform(0.8, 1.15)

        rng = np.random.default_rng(own_seed)
        self.length = max(4, round(demo.frames * rng.uniform(0.75, 1.25)))
        self.view = str(rng.choice(["fr", "ba", "le", "ri"], p=[0.55, 0.15, 0.15, 0.15]))
        self.quality = str(rng.choice(list(NOISE), p=[0.4, 0.4, 0.2]))
        self.shaky = bool(rng.uniform() < 0.5)
        hand = int(rng.choice([-1, 1]))
        pose = draw_pose(motion, self.length, rng)
        x = rng.uniform(-0.14, 0.14) + 0.1 * pose["side"]
        near = rng.uniform(0.88, 1.06) * (1 + 0.15 * pose["depth"])
        self.people = [_Person(actor, self.view, hand, x, near, pose, Prop.draw(thing, rng))]
        if rng.uniform() < 0.3:
            self.people.append(_draw_passer(self.length, rng))
        self.people.sort(key=lambda person: person.near.mean())
        self.camera = _draw_camera(self.length, self.shaky, rng)
        flicker = rng.uniform(0.02, 0.07) * np.sin(rng.uniform(0, 6.3) + np.arange(self.length) / rng.uniform(8, 25))
        gain = light * rng.uniform(0.85, 1.1) * (1 + flicker)
        self.gain = np.outer(gain, rng.uniform(0.95, 1.05, 3)).astype(np.float32)  # [T, 3]
        self.noise_seed = [*own_seed, 4]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in order, uint8 `[H, W, 3]` RGB."""
        demo, rng = self.demo, np.random.default_rng(self.noise_seed)
        height, width = demo.height * ZOOM, demo.width * ZOOM
        margin = round(0.12 * height)
        rows, columns = height + 2 * margin, width + 2 * margin
        scene = paint_scene(self.place, self.place_seed, (rows, columns), margin + self.horizon * height)
        for i in range(self.length):
            canvas = scene.copy()
            for person in self.people:
                # A pinhole camera: size and drop below the horizon grow alike.
                floor = self.horizon + (0.875 - self.horizon) * person.near[i]
                feet = np.array([width / 2 + person.x[i] * height, floor * height]) + margin
                size = 0.64 * height * person.near[i] * person.actor.height
                at = {key: float(value[i]) for key, value in person.pose.items()}
                draw_figure(canvas, feet, size, person.actor, person.view, person.hand, at, person.prop)
            x, y, roll, scale = self.camera[i]
            move = np.array(cv2.getRotationMatrix2D((columns / 2, rows / 2), roll, scale), np.float64)
            move[:, 2] += np.array([x, y]) * height - margin
            # From pixel centres of the canvas to those of the frame; bilinear sampling averages the pixels between.
            move = move / ZOOM + np.array([0, 0, 0.5 / ZOOM - 0.5])
            frame = cv2.warpAffine(canvas, move, (demo.width, demo.height), borderMode=cv2.BORDER_REPLICATE)
            frame = frame * self.gain[i]
            frame += NOISE[self.quality] * rng.standard_normal((demo.height, demo.width, 1), np.float32)
            yield np.clip(np.rint(frame), 0, 255).astype(np.uint8)


def _draw_passer(frames: int, rng: np.random.Generator) -> _Person:
    """Draw somebody without a thing who walks past, in front of the actor or behind, whatever the class."""
    near = rng.uniform(1.15, 1.3) if rng.uniform() < 0.4 else rng.uniform(0.6, 0.78)
    direction = int(rng.choice([-1, 1]))
    crossing, speed = rng.uniform(0, frames), rng.uniform(0.02, 0.03) * near  # frame heights per frame
    x = direction * speed * (np.arange(frames) - crossing)
    view = "ri" if direction > 0 else "le"
    return _Person(draw_actor(rng), view, 1, x, np.full(frames, near), walking_pose(frames, rng), None)


def _draw_camera(frames: int, shaky: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw hand shake, a slow pan and a slow zoom, `[T, 4]`: x and y in frame heights, roll in degrees, scale."""
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    kernel /= np.sqrt((kernel**2).sum())
    shake = np.stack([np.convolve(rng.standard_normal(frames + 18), kernel, "valid") for _ in range(4)], axis=1)
    drift = np.sin(rng.uniform(0, 6.3, 4) + np.arange(frames)[:, None] * 2 * np.pi / rng.uniform(90, 240, 4))
    path = shake * [0.006, 0.006, 0.2, 0.002] + drift * [0.04, 0.02, 0.5, 0.03]
    return path * (1.0 if shaky else 0.15) + [0, 0, 0, 1.03]
