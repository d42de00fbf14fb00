"""Colours, shapes, shadows and textures, painted into a canvas.

A canvas is uint8 `[H, W, 3]` RGB and changed in place; positions on it are pixels `(x, y)`, colours are RGB in 0 to 1.
"""

from __future__ import annotations

import colorsys
import functools
import math

import cv2
import numpy as np

Colour = tuple[float, float, float]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return the colour of a hue in turns, of any sign."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def mix(a: Colour, b: Colour, part: float) -> Colour:
    """Return `a` where `part` is 0, `b` where it is 1, and mixtures in between."""
    return (a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part, a[2] + (b[2] - a[2]) * part)


def dim(colour: Colour, gain: float) -> Colour:
    """Return the colour darkened, or lightened if `gain` is over 1."""
    return (min(1.0, colour[0] * gain), min(1.0, colour[1] * gain), min(1.0, colour[2] * gain))


@functools.lru_cache(1024)
def _bytes(colour: Colour) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in colour)


@functools.cache
def _arc(start: float, stop: float, points: int) -> np.ndarray:
    """Return points of the unit circle, `[points, 2]`, from angle `start` to `stop` in turns."""
    angles = 2 * np.pi * np.linspace(start, stop, points)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def circle(radius: float) -> np.ndarray:
    """Return 32 points of a circle about the origin, `[32, 2]`."""
    return radius * _arc(0, 31 / 32, 32)


def fill(canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    """Fill a polygon, `[N, 2]` pixels with fractions (OpenCV takes them as integers of 1/16 pixel)."""
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32)], _bytes(colour), cv2.LINE_AA, 4)


def disc(canvas: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    fill(canvas, centre + circle(radius), colour)


def capsule(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float, colour: Colour) -> None:
    """Draw a limb: two discs and everything between them."""
    dx, dy = float(b[0] - a[0]), float(b[1] - a[1])
    length = max(math.hypot(dx, dy), 1e-9)
    arc = _arc(0.25, 0.75, 11) @ np.array([[dx, dy], [-dy, dx]])  # the far half of the disc at `a`
    fill(canvas, np.concatenate([a + arc * (radius_a / length), b - arc * (radius_b / length)]), colour)


def box(canvas: np.ndarray, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    fill(canvas, np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), colour)


def shadow(canvas: np.ndarray, centre: np.ndarray, half_width: float, half_height: float) -> None:
    """Draw a soft dark ellipse on the ground."""
    left, top = np.maximum(np.floor(centre - (half_width, half_height)).astype(int), 0)
    right, bottom = np.maximum(np.ceil(centre + (half_width, half_height)).astype(int) + 1, 0)
    patch = canvas[top:bottom, left:right]
    y, x = np.mgrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    away = ((x - centre[0]) / half_width) ** 2 + ((y - centre[1]) / half_height) ** 2
    patch[:] = patch * (1 - 0.45 * np.clip(1 - away, 0, 1) ** 0.7)[..., None]


def gradient(
    canvas: np.ndarray, top: float, bottom: float, upper: Colour, lower: Colour, left: float = 0, right: float = np.inf
) -> None:
    """Fill a rectangle with the colours from `upper` at its top to `lower` at its bottom."""
    height, width = canvas.shape[:2]
    first, last = (round(min(max(y, 0), height)) for y in (top, bottom))
    start, stop = (round(min(max(x, 0), width)) for x in (left, right))
    part = np.linspace(0, 1, last - first)[:, None]
    rows = np.array(upper) * (1 - part) + np.array(lower) * part
    canvas[first:last, start:stop] = np.rint(255 * rows)[:, None].astype(np.uint8)


def roughen(canvas: np.ndarray, top: float, bottom: float, strength: float, rng: np.random.Generator) -> None:
    """Add the texture of ground or wall: noise at three scales, `strength` grey levels."""
    area = canvas[round(top) : round(bottom)]
    height, width = area.shape[:2]
    grain = np.zeros((height, width), np.float32)
    for step, gain in ((2, 0.45), (6, 0.7), (20, 1.0)):
        coarse = rng.standard_normal((height // step + 2, width // (2 * step) + 2), np.float32)
        grain += gain * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    area[:] = np.clip(area + strength * 0.6 * grain[..., None], 0, 255)
