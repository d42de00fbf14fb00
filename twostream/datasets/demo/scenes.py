"""The empty scenes behind the figures: a park and a living room, whose colours, things and positions vary."""

from __future__ import annotations

import numpy as np

from twostream.datasets.demo import paint
from twostream.datasets.demo.paint import Colour, box, circle, dim, disc, fill, gradient, hsv, mix, shadow


def paint_scene(place: str, seed: int, shape: tuple[int, int], horizon: float) -> np.ndarray:
    """Return the empty scene, uint8 `[H, W, 3]`; its horizon, or the foot of its wall, is near pixel row `horizon`."""
    canvas = np.zeros((*shape, 3), np.uint8)
    {"park": _paint_park, "room": _paint_room}[place](canvas, horizon, np.random.default_rng(seed))
    return canvas


def _paint_park(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    sky = hsv(rng.uniform(0.52, 0.6), rng.uniform(0.15, 0.35), 0.92)
    if rng.uniform() < 0.3:  # evening
        sky = mix(sky, hsv(0.05, 0.4, 0.9), rng.uniform(0.4, 0.9))
    gradient(canvas, 0, horizon, sky, mix(sky, (1, 0.97, 0.9), 0.7))
    for x in rng.uniform(0, w, 3):  # hills
        hill = hsv(rng.uniform(0.25, 0.38), 0.25, rng.uniform(0.5, 0.62))
        fill(canvas, np.array([x, horizon]) + circle(0.4 * h) * (1, rng.uniform(0.2, 0.35)), hill)
    grass = hsv(rng.uniform(0.14, 0.3), rng.uniform(0.3, 0.42), rng.uniform(0.5, 0.72))
    gradient(canvas, horizon, h, mix(grass, (0.9, 0.9, 0.7), 0.25), dim(grass, 0.78))
    far, near = rng.uniform(0.15, 0.85) * w, rng.uniform(-0.1, 1.1) * w
    edges = [(far - 0.012 * w, horizon), (far + 0.012 * w, horizon), (near + 0.2 * w, h), (near - 0.2 * w, h)]
    fill(canvas, np.array(edges), mix(grass, (0.85, 0.76, 0.62), 0.8))  # a path
    paint.roughen(canvas, horizon, h, 10, rng)
    trees = rng.integers(3, 7)
    for x in (np.arange(trees) + rng.uniform(0.2, 0.8, trees)) / trees * w:
        foot = np.array([x, horizon + rng.uniform(0.0, 0.07) * h])
        _paint_tree(canvas, foot, rng.uniform(0.26, 0.44) * h, rng)


def _paint_tree(canvas: np.ndarray, foot: np.ndarray, tall: float, rng: np.random.Generator) -> None:
    leaf = hsv(rng.uniform(0.1, 0.36), rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.6))
    shadow(canvas, foot, tall * 0.28, tall * 0.05)
    paint.capsule(canvas, foot, foot - (0, tall * 0.6), tall * 0.05, tall * 0.03, hsv(0.07, 0.4, 0.36))
    for _ in range(9):
        centre = foot - (0, tall * 0.72) + rng.normal(0, 0.13, 2) * tall
        disc(canvas, centre, tall * rng.uniform(0.12, 0.2), dim(leaf, rng.uniform(0.85, 1.12)))


def _paint_room(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.13 * h
    wall = hsv(rng.uniform(), rng.uniform(0.1, 0.3), rng.uniform(0.6, 0.9))
    gradient(canvas, 0, foot, wall, dim(wall, 0.9))
    for x in np.arange(0, w, h / 14):
        box(canvas, x, 0, x + h / 40, foot, dim(wall, 0.95))
    floor = hsv(rng.uniform(0.06, 0.1), rng.uniform(0.2, 0.5), rng.uniform(0.4, 0.68))
    gradient(canvas, foot, h, dim(floor, 0.85), floor)
    for k in np.arange(-1, 1, 0.08):  # boards
        fill(
            canvas,
            np.array([[(0.5 + k) * w, foot], [(0.5 + 2.5 * k) * w, h], [(0.51 + 2.5 * k) * w, h]]),
            dim(floor, 0.8),
        )
    box(canvas, 0, foot - 0.03 * h, w, foot, mix(wall, (1, 1, 1), 0.6))
    flipped = rng.uniform() < 0.5  # the window is on the right, the sofa on the left

    def across(x: float) -> float:
        return (1 - x if flipped else x) * w

    _paint_window(canvas, across(rng.uniform(0.18, 0.32)), 0.16 * h, foot - 0.08 * h, hsv(rng.uniform(), 0.2, 0.75))
    for x in across(0.5), across(0.66), across(0.82):  # posters
        top, size, upper, lower = rng.uniform(0.12, 0.16) * h, 0.07 * h, rng.uniform(), rng.uniform()
        box(canvas, x - size - 4, top - 4, x + size + 4, top + 2 * size + 4, hsv(0.09, 0.4, 0.35))
        gradient(canvas, top, top + 2 * size, hsv(upper, 0.25, 0.85), hsv(lower, 0.3, 0.55), x - size, x + size)
    sofa = hsv(rng.uniform(), rng.uniform(0.2, 0.45), rng.uniform(0.35, 0.62))
    _paint_sofa(canvas, np.array([across(rng.uniform(0.6, 0.8)), foot + 0.05 * h]), 0.32 * h, sofa)
    rug, middle = hsv(rng.uniform(), 0.3, 0.6), np.array([rng.uniform(0.35, 0.65) * w, 0.84 * h])
    for grow, pale in ((1.0, 0.0), (0.86, 0.4), (0.5, 0.0)):
        fill(canvas, middle + circle(0.5 * h) * (grow, 0.2 * grow), mix(rug, (0.95, 0.9, 0.8), pale))
    paint.roughen(canvas, 0, h, 5, rng)


def _paint_window(canvas: np.ndarray, x: float, top: float, bottom: float, curtain: Colour) -> None:
    h, frame = len(canvas), (0.95, 0.94, 0.9)
    half, sill = 0.155 * h, top + 0.3 * h
    box(canvas, x - half - 0.015 * h, top - 6, x + half + 0.015 * h, sill + 6, frame)
    gradient(canvas, top, sill, hsv(0.56, 0.3, 0.95), hsv(0.3, 0.25, 0.8), x - half, x + half)
    box(canvas, x - 3, top, x + 3, sill, frame)
    box(canvas, x - half, top + 0.14 * h, x + half, top + 0.14 * h + 5, frame)
    for side in (-1, 1):
        for k in range(4):
            fold = x + side * (0.15 + 0.022 * k) * h
            box(canvas, fold - 0.012 * h, top - 12, fold + 0.012 * h, bottom, dim(curtain, 0.9 + 0.12 * (k % 2)))


def _paint_sofa(canvas: np.ndarray, foot: np.ndarray, half: float, colour: Colour) -> None:
    """Draw a sofa, `2 * half` pixels wide, that stands at pixel `foot`."""

    def part(left: float, top: float, right: float, bottom: float, gain: float) -> None:
        x, y = foot
        box(canvas, x + left * half, y + top * half, x + right * half, y + bottom * half, dim(colour, gain))

    shadow(canvas, foot, 1.12 * half, 0.11 * half)
    part(-1, -0.84, 1, -0.09, 0.85)  # back
    for left in (-0.9, 0):
        part(left, -0.47, left + 0.89, -0.22, 1.1)  # cushion
    part(-0.9, -0.28, 0.9, -0.06, 1.0)  # seat
    for side in (-1, 1):
        part(side - 0.14, -0.6, side + 0.14, 0, 0.95)  # arm
