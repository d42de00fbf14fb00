"""The places under the sky: a park, a street, a beach and a rooftop."""

from __future__ import annotations

import numpy as np

from twostream.datasets.demo.paint import (
    Colour,
    box,
    capsule,
    circle,
    dim,
    disc,
    fill,
    gradient,
    hsv,
    mix,
    roughen,
    rounded,
    shadow,
)
from twostream.datasets.demo.scenery import plant, spread, tiles


def park(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    sky = hsv(rng.uniform(0.52, 0.6), rng.uniform(0.15, 0.35), 0.92)
    gradient(canvas, 0, horizon, sky, mix(sky, (1, 0.97, 0.9), 0.7))
    for _ in range(rng.integers(2, 5)):
        _cloud(canvas, np.array([rng.uniform(0, w), rng.uniform(0.05, 0.3) * h]), rng.uniform(0.04, 0.07) * h, rng)
    hill = hsv(rng.uniform(0.25, 0.38), 0.25, 0.62)
    for level in range(2):
        _ridge(canvas, horizon + h * 0.01, h * (0.14 - 0.05 * level), dim(hill, 1 - 0.12 * level), rng)
    grass = hsv(rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.42), rng.uniform(0.55, 0.72))
    gradient(canvas, horizon, h, mix(grass, (0.9, 0.9, 0.7), 0.25), dim(grass, 0.78))
    path = mix(grass, (0.85, 0.76, 0.62), 0.8)
    bend = rng.uniform(0.15, 0.85) * w
    far, near = 0.012 * w, 0.2 * w
    fill(
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
    roughen(canvas, horizon, h, 10, rng)
    for x in spread(rng.integers(3, 6), w, rng):
        tall, foot = rng.uniform(0.26, 0.44) * h, horizon + rng.uniform(0.0, 0.07) * h
        trunk, leaf = hsv(0.07, 0.4, 0.36), hsv(rng.uniform(0.2, 0.36), rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.6))
        shadow(canvas, np.array([x, foot]), tall * 0.28, tall * 0.05)
        capsule(canvas, np.array([x, foot]), np.array([x, foot - tall * 0.6]), tall * 0.05, tall * 0.03, trunk)
        for _ in range(9):
            offset = rng.normal(0, 0.13, 2) * tall
            disc(
                canvas,
                np.array([x, foot - tall * 0.72]) + offset,
                tall * rng.uniform(0.12, 0.2),
                dim(leaf, rng.uniform(0.85, 1.12)),
            )
    if rng.uniform() < 0.7:
        _bench(canvas, np.array([rng.choice([0.2, 0.8]) * w, horizon + 0.13 * h]), 0.12 * h, hsv(0.08, 0.45, 0.5))


def street(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.12 * h
    brick = hsv(rng.uniform(0.02, 0.09), rng.uniform(0.25, 0.42), rng.uniform(0.55, 0.72))
    gradient(canvas, 0, foot, dim(brick, 0.75), dim(brick, 0.85))
    row = h / 22
    for j in range(int(foot / row) + 1):
        for i in range(-1, int(w / (2.4 * row)) + 2):
            x, y = (i + 0.5 * (j % 2)) * 2.4 * row, foot - (j + 1) * row
            box(canvas, x + 1, y + 1, x + 2.4 * row - 1, y + row - 1, dim(brick, rng.uniform(0.9, 1.12)))
    for x in spread(2, w, rng):
        glass, frame = (
            hsv(0.56, rng.uniform(0.1, 0.25), rng.uniform(0.5, 0.8)),
            hsv(0.1, 0.08, rng.uniform(0.75, 0.95)),
        )
        half, top = 0.11 * h, rng.uniform(0.08, 0.14) * h
        box(canvas, x - half - 5, top - 5, x + half + 5, top + 0.27 * h + 5, frame)
        for side in (-1, 0):
            box(canvas, x + side * half + 2, top, x + (side + 1) * half - 2, top + 0.27 * h, glass)
        fill(
            canvas,
            np.array(
                [[x - half, top + 0.2 * h], [x - half * 0.4, top], [x - half * 0.1, top], [x - half, top + 0.27 * h]]
            ),
            mix(glass, (1, 1, 1), 0.4),
        )
        box(canvas, x - half - 9, top + 0.27 * h + 5, x + half + 9, top + 0.27 * h + 12, dim(frame, 0.8))
    door = hsv(rng.uniform(), 0.35, 0.42)
    x = rng.uniform(0.42, 0.58) * w
    box(canvas, x - 0.11 * h, foot - 0.5 * h, x + 0.11 * h, foot, dim(door, 0.6))
    box(canvas, x - 0.095 * h, foot - 0.48 * h, x + 0.095 * h, foot, door)
    for y in (0.44, 0.22):
        box(canvas, x - 0.065 * h, foot - y * h, x + 0.065 * h, foot - (y - 0.16) * h, dim(door, 0.8))
    paving = hsv(0.1, 0.07, rng.uniform(0.58, 0.72))
    gradient(canvas, foot, h, dim(paving, 0.85), paving)
    tiles(canvas, foot, dim(paving, 0.8), w * rng.uniform(0.3, 0.7), 9)
    roughen(canvas, 0, h, 6, rng)
    if rng.uniform() < 0.7:
        plant(canvas, np.array([rng.choice([0.17, 0.84]) * w, foot + 0.07 * h]), 0.2 * h, rng)


def beach(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    warm = rng.uniform(0, 1)
    sky = mix(hsv(0.56, 0.35, 0.92), hsv(0.06, 0.3, 0.96), warm)
    gradient(canvas, 0, horizon, sky, mix(sky, (1, 0.95, 0.85), 0.75))
    sun = np.array([rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.3) * h])
    for k in range(4):
        disc(canvas, sun, (0.085 - 0.015 * k) * h, mix(sky, (1, 0.97, 0.82), 0.3 + 0.23 * k))
    for _ in range(rng.integers(1, 3)):
        _cloud(canvas, np.array([rng.uniform(0, w), rng.uniform(0.08, 0.28) * h]), rng.uniform(0.03, 0.05) * h, rng)
    sea, shore = hsv(rng.uniform(0.48, 0.56), rng.uniform(0.3, 0.45), rng.uniform(0.55, 0.72)), horizon + 0.13 * h
    gradient(canvas, horizon, shore + 0.05 * h, dim(sea, 0.8), mix(sea, (1, 1, 1), 0.3))
    for _ in range(40):
        y = rng.uniform(horizon + 3, shore)
        x, half = rng.uniform(0, w), (y - horizon) * rng.uniform(0.2, 0.5) + 3
        capsule(
            canvas,
            np.array([x - half, y]),
            np.array([x + half, y]),
            0.8,
            0.8,
            mix(sea, (1, 1, 1), rng.uniform(0.2, 0.6)),
        )
    island = rng.uniform(0.1, 0.9) * w
    fill(
        canvas,
        np.array([island, horizon]) + circle(0.18 * h)[:17] * (-1.2, -0.3),
        mix(hsv(0.35, 0.2, 0.5), sky, 0.4),
    )
    sand = hsv(rng.uniform(0.09, 0.12), rng.uniform(0.22, 0.35), rng.uniform(0.8, 0.9))
    x = np.linspace(0, w, 60)
    edge = shore + 0.012 * h * np.sin(x / w * rng.uniform(6, 14) + rng.uniform(0, 6.3))
    for lift, colour in ((-0.016, (0.98, 0.98, 0.96)), (0.0, dim(sand, 0.82)), (0.035, sand)):
        fill(canvas, np.concatenate([np.stack([x, edge + lift * h], 1), [[w, h + 1], [0, h + 1]]]), colour)
    roughen(canvas, shore, h, 9, rng)
    x, y = rng.choice([0.14, 0.86]) * w, shore + 0.12 * h
    if rng.uniform() < 0.6:
        towel = hsv(rng.uniform(), 0.3, 0.8)
        for k in range(5):
            a, b = -0.16 + 0.064 * k, -0.16 + 0.064 * (k + 1)
            fill(
                canvas,
                np.array(
                    [[x + a * h, y], [x + b * h, y], [x + b * 1.25 * h, y + 0.05 * h], [x + a * 1.25 * h, y + 0.05 * h]]
                ),
                towel if k % 2 else mix(towel, (1, 1, 1), 0.6),
            )
    for _ in range(rng.integers(3, 7)):
        at = np.array([rng.uniform(0, w), rng.uniform(shore + 0.08 * h, h)])
        disc(canvas, at, rng.uniform(1.5, 4), dim(sand, rng.uniform(0.6, 0.8)))


def rooftop(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.13 * h
    top, low = hsv(rng.uniform(0.62, 0.74), 0.35, rng.uniform(0.5, 0.68)), hsv(rng.uniform(0.03, 0.1), 0.38, 0.95)
    gradient(canvas, 0, foot, top, low)
    for _ in range(rng.integers(2, 4)):
        x, y, half = rng.uniform(0, w), rng.uniform(0.1, 0.35) * h, rng.uniform(0.1, 0.25) * h
        capsule(canvas, np.array([x - half, y]), np.array([x + half, y]), 0.012 * h, 0.006 * h, mix(low, top, 0.35))
    for level, haze in ((0, 0.55), (1, 0.25)):
        x = -rng.uniform(0, 0.1) * w
        while x < w:
            wide, tall = rng.uniform(0.1, 0.2) * h, rng.uniform(0.16, 0.42 - 0.1 * level) * h
            tower = mix(hsv(0.68, 0.25, rng.uniform(0.2, 0.32)), low, haze)
            box(canvas, x, foot - tall, x + wide - 2, foot, tower)
            if rng.uniform() < 0.3:
                box(canvas, x + wide * 0.45, foot - tall - 0.06 * h, x + wide * 0.5, foot - tall, tower)
            for y in np.arange(foot - tall + 7, foot - 9, 0.035 * h):
                for a in np.arange(x + 5, x + wide - 9, 0.033 * h):
                    if rng.uniform() < 0.4:
                        box(
                            canvas,
                            a,
                            y,
                            a + 0.014 * h,
                            y + 0.016 * h,
                            mix(tower, (1, 0.88, 0.55), rng.uniform(0.3, 0.85)),
                        )
            x += wide
    deck = hsv(rng.uniform(0.55, 0.75), 0.1, rng.uniform(0.5, 0.62))
    gradient(canvas, foot, h, dim(deck, 0.85), mix(deck, low, 0.2))
    tiles(canvas, foot, dim(deck, 0.85), w * rng.uniform(0.35, 0.65), 7)
    rail = hsv(0.6, 0.1, rng.uniform(0.25, 0.4))
    for x in np.arange(0, w, 0.055 * h):
        box(canvas, x, foot - 0.12 * h, x + 0.008 * h, foot, rail)
    box(canvas, 0, foot - 0.13 * h, w, foot - 0.11 * h, rail)
    roughen(canvas, foot, h, 6, rng)
    x, y = rng.choice([0.13, 0.87]) * w, foot + 0.08 * h
    metal = hsv(0.6, 0.06, rng.uniform(0.6, 0.75))
    shadow(canvas, np.array([x, y]), 0.17 * h, 0.03 * h)
    box(canvas, x - 0.13 * h, y - 0.2 * h, x + 0.13 * h, y, metal)
    for k in range(6):
        box(canvas, x - 0.1 * h, y - (0.175 - 0.025 * k) * h, x + 0.1 * h, y - (0.165 - 0.025 * k) * h, dim(metal, 0.7))
    for x in np.arange(0.02 * w, w, 0.16 * h):
        y = 0.06 * h + 0.02 * h * np.sin(x / w * 9)
        disc(canvas, np.array([x, y]), 0.011 * h, (1, 0.92, 0.65))


def _cloud(canvas: np.ndarray, centre: np.ndarray, size: float, rng: np.random.Generator) -> None:
    colour = tuple(float(c) / 255 for c in canvas[int(np.clip(centre[1], 0, len(canvas) - 1)), 0])
    for k in range(5):
        offset = np.array([(k - 2) * 0.75, -0.3 * (2 - abs(k - 2)) * rng.uniform(0.5, 1)]) * size
        fill(
            canvas,
            centre + offset + circle(size * (1.0 - 0.17 * abs(k - 2))) * (1.1, 0.6),
            mix(colour, (1, 1, 1), 0.6),
        )


def _ridge(canvas: np.ndarray, base: float, tall: float, colour: Colour, rng: np.random.Generator) -> None:
    w = canvas.shape[1]
    x = np.linspace(0, w, 80)
    waves = sum(np.sin(x / w * rng.uniform(2, 9) * (k + 1) + rng.uniform(0, 6.3)) / (k + 1.5) for k in range(3))
    fill(
        canvas, np.concatenate([np.stack([x, base - tall * (0.45 + 0.35 * waves)], 1), [[w, base], [0, base]]]), colour
    )


def _bench(canvas: np.ndarray, foot: np.ndarray, tall: float, colour: Colour) -> None:
    shadow(canvas, foot, tall * 1.3, tall * 0.12)
    for side in (-0.85, 0.85):
        capsule(
            canvas, foot + (side * tall, 0), foot + (side * tall, -tall), 0.05 * tall, 0.05 * tall, dim(colour, 0.55)
        )
    for k, y in enumerate((0.42, 0.68, 0.92)):
        rounded(
            canvas,
            foot[0] - 1.15 * tall,
            foot[1] - (y + 0.09) * tall,
            foot[0] + 1.15 * tall,
            foot[1] - (y - 0.09) * tall,
            0.04 * tall,
            dim(colour, 0.9 + 0.08 * k),
        )
