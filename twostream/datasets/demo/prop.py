"""The thing in the hand: what it looks like and how it is drawn.

Position and reach of the hand do not depend on the thing, nor does its size, and it moves with the body: optical flow
hardly shows which thing it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twostream.datasets.demo.paint import Colour, capsule, dim, disc, fill, hsv, mix


@dataclass(frozen=True)
class Prop:
    """The thing in the hand; `size` is a fraction of the body's height."""

    thing: str
    size: float
    colour: Colour
    second: Colour
    turn: float

    @staticmethod
    def draw(thing: str, rng: np.random.Generator) -> Prop:
        # Mostly red balls, green flags and blue umbrellas, but not always: shape counts as well.
        hue = {"ball": 0.02, "flag": 0.36, "umbrella": 0.63}[thing] + rng.normal(0, 0.05)
        colour = hsv(hue, rng.uniform(0.65, 0.95), rng.uniform(0.7, 0.95))
        second = mix(colour, (1, 0.98, 0.93), rng.uniform(0.6, 0.95))
        return Prop(thing, rng.uniform(0.16, 0.2), colour, second, rng.uniform(-1, 1))


def draw_prop(canvas: np.ndarray, held: np.ndarray, size: float, hand: int, prop: Prop) -> None:
    """Draw the thing above the hand at pixel `held`; all things reach about as far up and to the side."""
    r = prop.size * size
    up, pole = np.array([0.0, -1.0]), (0.3, 0.26, 0.24)
    if prop.thing == "ball":
        centre = held + up * r * 0.95
        disc(canvas, centre, r, dim(prop.colour, 0.6))
        disc(canvas, centre, r * 0.94, prop.second)
        # Gores of a beach ball: every other lune between two meridians, tilted by `turn`.
        tilt, theta = prop.turn, np.linspace(-np.pi / 2, np.pi / 2, 14)
        rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        for left in (-1.0, -0.18, 0.62):
            lune = [np.stack([edge * np.cos(theta), np.sin(theta)], axis=1) for edge in (left, left + 0.42)]
            fill(canvas, centre + np.concatenate([lune[0], lune[1][::-1]]) @ rotation.T * r * 0.94, prop.colour)
        disc(canvas, centre + np.array([-0.35, -0.4]) * r, r * 0.13, (1, 1, 1))
    elif prop.thing == "umbrella":
        lean = 0.25 * prop.turn
        axis, side = np.array([np.sin(lean), -np.cos(lean)]), np.array([np.cos(lean), np.sin(lean)])
        rim = held + axis * r * 0.75
        capsule(canvas, held - axis * r * 0.45, rim + axis * r * 1.3, 0.055 * r, 0.045 * r, pole)
        edges = np.linspace(-1, 1, 6) * 1.25
        arc = np.linspace(0, 1, 8)
        ribs = [np.stack([x * np.sin(arc * np.pi / 2), 1.2 * np.cos(arc * np.pi / 2)], axis=1) for x in edges]
        for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            # A panel runs from the tip down two ribs; its lower edge is a scallop.
            scallop = np.stack([b + (a - b) * arc, 0.14 * np.sin(arc * np.pi)], axis=1)
            panel = np.concatenate([ribs[k], scallop[::-1], ribs[k + 1][::-1]])
            colour = prop.colour if k % 2 == 0 else mix(prop.colour, prop.second, 0.45)
            fill(canvas, rim + (panel[:, :1] * side + panel[:, 1:] * axis) * r, colour)
    else:
        top = held + up * r * 1.95
        capsule(canvas, held - up * r * 0.5, top + up * r * 0.08, 0.07 * r, 0.06 * r, pole)
        s = np.linspace(0, 1, 12)
        wave = 0.12 * np.sin(2 * np.pi * s + 3 * prop.turn) * s
        for k in range(3):
            low, high = k / 3, (k + 1) / 3
            x = hand * s * 1.75
            cloth = np.concatenate([np.stack([x, wave + high * 1.25], 1)[::-1], np.stack([x, wave + low * 1.25], 1)])
            fill(canvas, top + cloth * r, (prop.colour, prop.second, prop.colour)[k])
