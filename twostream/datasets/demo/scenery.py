"""What several places share: a potted plant, the joints of a floor, things spread along the width."""

from __future__ import annotations

import numpy as np

from twostream.datasets.demo.paint import Colour, box, capsule, dim, fill, hsv, shadow


def plant(canvas: np.ndarray, foot: np.ndarray, tall: float, rng: np.random.Generator) -> None:
    """A plant in a pot that stands at pixel `foot`, about `tall` pixels high."""
    pot, leaf = hsv(rng.uniform(0.03, 0.09), 0.35, 0.6), hsv(rng.uniform(0.25, 0.38), 0.38, 0.48)
    shadow(canvas, foot, tall * 0.25, tall * 0.05)
    for angle in np.linspace(-1.1, 1.1, 9) + rng.normal(0, 0.08, 9):
        tip = foot + np.array([np.sin(angle) * 0.45, -0.35 - 0.65 * np.cos(angle)]) * tall
        capsule(canvas, foot + (0, -0.3 * tall), tip, 0.02 * tall, 0.055 * tall, dim(leaf, rng.uniform(0.85, 1.25)))
    fill(canvas, foot + np.array([[-0.17, -0.34], [0.17, -0.34], [0.12, 0.0], [-0.12, 0.0]]) * tall, pot)
    fill(canvas, foot + np.array([[-0.19, -0.38], [0.19, -0.38], [0.19, -0.3], [-0.19, -0.3]]) * tall, dim(pot, 1.12))


def tiles(canvas: np.ndarray, top: float, colour: Colour, vanish: float, rows: int) -> None:
    """Joints of a floor in perspective: lines to a vanishing point above the floor, and `rows` across."""
    h, w = canvas.shape[:2]
    eye = top - 0.12 * h
    for k in range(-14, 15):
        far, near = vanish + k * 0.055 * w, vanish + k * 0.055 * w * (h - eye) / (top - eye)
        fill(canvas, np.array([[far - 0.4, top], [far + 0.4, top], [near + 1.4, h], [near - 1.4, h]]), colour)
    for k in range(1, rows + 1):
        y = eye + (top - eye) / (1 - k / (rows + 3.5))
        if y < h:
            box(canvas, 0, y, w, y + 0.8 + 1.2 * (y - top) / (h - top), colour)


def spread(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """`count` places along the width, none on top of another."""
    return (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count * width
