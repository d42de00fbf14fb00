"""The places under a roof: a living room and a sports hall."""

from __future__ import annotations

import numpy as np

from twostream.datasets.demo.paint import box, capsule, circle, dim, fill, gradient, hsv, mix, roughen, rounded, shadow
from twostream.datasets.demo.scenery import plant, tiles


def room(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.13 * h
    wall = hsv(rng.uniform(0.05, 0.6), rng.uniform(0.1, 0.28), rng.uniform(0.72, 0.9))
    gradient(canvas, 0, foot, wall, dim(wall, 0.9))
    for x in np.arange(0, w, h / 14):
        box(canvas, x, 0, x + h / 40, foot, dim(wall, 0.95))
    floor = hsv(rng.uniform(0.06, 0.1), rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.68))
    gradient(canvas, foot, h, dim(floor, 0.85), floor)
    tiles(canvas, foot, dim(floor, 0.82), w * 0.5, 0)
    box(canvas, 0, foot - 0.03 * h, w, foot, mix(wall, (1, 1, 1), 0.6))
    left = bool(rng.uniform() < 0.5)
    x, top = (0.25 if left else 0.75) * w, 0.16 * h
    box(canvas, x - 0.17 * h, top - 6, x + 0.17 * h, top + 0.3 * h + 6, (0.95, 0.94, 0.9))
    gradient(canvas, top, top + 0.3 * h, hsv(0.56, 0.3, 0.95), hsv(0.3, 0.25, 0.8), x - 0.155 * h, x + 0.155 * h)
    box(canvas, x - 3, top, x + 3, top + 0.3 * h, (0.95, 0.94, 0.9))
    box(canvas, x - 0.155 * h, top + 0.14 * h, x + 0.155 * h, top + 0.14 * h + 5, (0.95, 0.94, 0.9))
    curtain = hsv(rng.uniform(), 0.25, 0.75)
    for side in (-1, 1):
        for k in range(4):
            at = x + side * (0.15 + 0.022 * k) * h
            box(canvas, at - 0.012 * h, top - 12, at + 0.012 * h, foot - 0.08 * h, dim(curtain, 0.9 + 0.12 * (k % 2)))
    x = (0.66 if left else 0.3) * w
    for k in range(rng.integers(2, 4)):
        a = x + (k - 1) * 0.2 * h
        y, half = rng.uniform(0.16, 0.24) * h, rng.uniform(0.055, 0.08) * h
        box(canvas, a - half - 4, y - half - 4, a + half + 4, y + half + 4, hsv(0.09, 0.4, 0.35))
        hue = rng.uniform(size=2)
        gradient(canvas, y - half, y + half, hsv(hue[0], 0.3, 0.85), hsv(hue[1], 0.35, 0.55), a - half, a + half)
    sofa = hsv(rng.uniform(), rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.62))
    x, y = (0.72 if left else 0.28) * w, foot + 0.05 * h
    shadow(canvas, np.array([x, y]), 0.36 * h, 0.035 * h)
    rounded(canvas, x - 0.32 * h, y - 0.27 * h, x + 0.32 * h, y - 0.03 * h, 0.05 * h, dim(sofa, 0.85))
    for k in (-1, 0):
        rounded(
            canvas,
            x + k * 0.29 * h + 2,
            y - 0.15 * h,
            x + (k + 1) * 0.29 * h - 2,
            y - 0.07 * h,
            0.03 * h,
            dim(sofa, 1.1),
        )
    rounded(canvas, x - 0.29 * h, y - 0.09 * h, x + 0.29 * h, y - 0.02 * h, 0.02 * h, sofa)
    for side in (-1, 1):
        rounded(
            canvas,
            x + side * 0.32 * h - 0.045 * h,
            y - 0.19 * h,
            x + side * 0.32 * h + 0.045 * h,
            y,
            0.035 * h,
            dim(sofa, 0.95),
        )
    rug = hsv(rng.uniform(), 0.3, 0.6)
    for k, grow in enumerate((1.0, 0.86, 0.5)):
        fill(
            canvas,
            np.array([w / 2, 0.84 * h]) + circle(0.5 * h) * (grow, 0.2 * grow),
            mix(rug, (0.95, 0.9, 0.8), 0.4 * (k % 2)),
        )
    roughen(canvas, 0, h, 5, rng)
    plant(canvas, np.array([(0.08 if left else 0.92) * w, foot + 0.1 * h]), 0.26 * h, rng)


def hall(canvas: np.ndarray, horizon: float, rng: np.random.Generator) -> None:
    h, w = canvas.shape[:2]
    foot = horizon + 0.12 * h
    wall = hsv(rng.uniform(0.08, 0.6), rng.uniform(0.05, 0.2), rng.uniform(0.72, 0.88))
    gradient(canvas, 0, foot, dim(wall, 0.92), wall)
    panel = hsv(rng.uniform(), rng.uniform(0.2, 0.35), rng.uniform(0.45, 0.65))
    box(canvas, 0, foot - 0.2 * h, w, foot, panel)
    box(canvas, 0, foot - 0.215 * h, w, foot - 0.2 * h, mix(panel, (1, 1, 1), 0.6))
    for x in np.arange(0, w, 0.17 * h):
        box(canvas, x, foot - 0.2 * h, x + 2, foot, dim(panel, 0.8))
    for x in np.arange(rng.uniform(0, 0.2) * h, w, 0.42 * h):
        box(canvas, x, 0.08 * h, x + 0.34 * h, 0.24 * h, (0.55, 0.58, 0.6))
        for k in range(3):
            pane = x + (0.012 + 0.109 * k) * h
            gradient(canvas, 0.092 * h, 0.228 * h, (0.93, 0.96, 0.98), (0.75, 0.84, 0.9), pane, pane + 0.097 * h)
    if rng.uniform() < 0.5:
        x = rng.choice([0.25, 0.75]) * w
        for k in range(9):
            y = foot - (0.06 + 0.055 * k) * h
            capsule(
                canvas,
                np.array([x - 0.15 * h, y]),
                np.array([x + 0.15 * h, y]),
                0.009 * h,
                0.009 * h,
                hsv(0.09, 0.4, 0.62),
            )
        for side in (-1, 0, 1):
            box(canvas, x + side * 0.15 * h - 3, foot - 0.54 * h, x + side * 0.15 * h + 3, foot, hsv(0.09, 0.45, 0.5))
    else:
        x = rng.uniform(0.3, 0.7) * w
        box(canvas, x - 0.15 * h, 0.26 * h, x + 0.15 * h, 0.46 * h, (0.96, 0.96, 0.96))
        box(canvas, x - 0.06 * h, 0.35 * h, x + 0.06 * h, 0.44 * h, (0.7, 0.3, 0.25))
        box(canvas, x - 0.05 * h, 0.36 * h, x + 0.05 * h, 0.44 * h, (0.96, 0.96, 0.96))
    floor = hsv(rng.uniform(0.07, 0.1), rng.uniform(0.3, 0.45), rng.uniform(0.62, 0.78))
    gradient(canvas, foot, h, dim(floor, 0.85), floor)
    tiles(canvas, foot, dim(floor, 0.92), w * 0.5, 0)
    line = mix(floor, (1, 1, 1), 0.75)
    for y, thick in ((0.14, 0.006), (0.36, 0.011)):
        box(canvas, 0, foot + y * h, w, foot + (y + thick) * h, line)
    for side in (-1, 1):
        far, near = w * (0.5 + side * 0.2), w * (0.5 + side * 0.62)
        fill(
            canvas,
            np.array([[far, foot], [far + 3, foot], [near + 9, h], [near, h]]),
            mix(floor, hsv(rng.uniform(), 0.4, 0.5), 0.7),
        )
    roughen(canvas, 0, h, 4, rng)
    x, y = rng.choice([0.12, 0.88]) * w, foot + 0.06 * h
    mat = hsv(rng.uniform(), 0.3, 0.5)
    for k in range(3):
        rounded(
            canvas,
            x - 0.2 * h,
            y - 0.05 * (k + 1) * h,
            x + 0.2 * h,
            y - 0.05 * k * h - 2,
            0.015 * h,
            dim(mat, 0.85 + 0.12 * k),
        )
