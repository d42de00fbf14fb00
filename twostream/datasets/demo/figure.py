"""The person in a clip: what they look like, and how they are drawn in a pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from twostream.datasets.demo.paint import Colour, capsule, circle, dim, disc, fill, hsv, mix, shadow
from twostream.datasets.demo.prop import Prop, draw_prop

FACING = {"fr": 0.0, "ba": 0.0, "le": -1.0, "ri": 1.0}  # HMDB51's views: front, back, left, right
TURNED = {"fr": 1.0, "ba": 1.0, "le": 0.8, "ri": 0.8}  # apparent width of shoulders and hips


@dataclass(frozen=True)
class Actor:
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


def draw_actor(rng: np.random.Generator) -> Actor:
    """A person at random; shirt and skin are never as vivid as a thing."""
    tone = rng.uniform(0, 1)
    hair = [
        (0.16, 0.12, 0.1),
        (0.32, 0.2, 0.12),
        (0.55, 0.38, 0.2),
        (0.75, 0.6, 0.35),
        (0.6, 0.6, 0.6),
        (0.45, 0.18, 0.1),
    ]
    shirt = hsv(rng.uniform(), rng.uniform(0.12, 0.4), rng.uniform(0.55, 0.92))
    return Actor(
        height=rng.uniform(0.93, 1.05),
        leg=rng.uniform(0.465, 0.505),
        girth=rng.uniform(0.9, 1.2),
        skin=mix((0.96, 0.8, 0.68), (0.42, 0.27, 0.19), tone),
        hair=hair[rng.integers(len(hair))],
        shirt=shirt,
        trim=mix(shirt, (0.97, 0.96, 0.92) if rng.uniform() < 0.5 else (0.15, 0.16, 0.2), 0.75),
        trousers=hsv(rng.choice([0.6, 0.08, 0.65, 0.0]), rng.uniform(0.1, 0.4), rng.uniform(0.22, 0.5)),
        shoes=hsv(rng.uniform(), 0.2, rng.choice([0.15, 0.3, 0.9])),
        pattern=str(rng.choice(["plain", "stripes", "jacket", "band"])),
        long_hair=bool(rng.uniform() < 0.45),
        long_sleeves=bool(rng.uniform() < 0.5),
        shorts=bool(rng.uniform() < 0.3),
    )


def draw_figure(
    canvas: np.ndarray,
    feet: np.ndarray,
    size: float,
    actor: Actor,
    view: str,
    hand: int,
    at: dict[str, float],
    prop: Prop,
) -> None:
    """Draw a person, `size` pixels tall, standing at pixel `feet`, in the pose `at`: one frame of `pose.draw_pose`."""
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
        capsule(canvas, px(a), px(b), wide * girth * size, narrow * girth * size, dim(colour, 0.68))
        light = np.array([-0.22, -0.12]) * narrow * girth * size
        capsule(canvas, px(a) + light, px(b) + light, wide * 0.72 * girth * size, narrow * 0.68 * girth * size, colour)

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
        disc(canvas, px(to), 0.03 * size, dim(actor.skin, 0.95))

    shadow(canvas, feet, 0.26 * size, 0.05 * size)
    if actor.long_hair and view != "ba":
        limb(head + (-facing * 0.02, 0.03), neck + (-facing * 0.03, 0.01), 0.085, 0.07, actor.hair)
    leg(-1)
    leg(1)

    free = neck + np.array([-hand * (0.15 + 0.07 * at["arm"]), -0.22 + 0.06 * at["arm"]])
    held = neck + np.array([hand * (0.26 + 0.025 * at["reach"]), -0.05 + 0.07 * at["reach"]])
    arm(-hand, free)
    _torso(canvas, px, hip, neck, actor, view, size)
    limb(neck + (0, -0.02), head + (0, -0.03), 0.032, 0.03, dim(actor.skin, 0.92))
    _head(canvas, px(head), 0.082 * size, actor, view)
    draw_prop(canvas, px(held), size, hand, prop)
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
    actor: Actor,
    view: str,
    size: float,
) -> None:
    wide, waist = 0.092 * actor.girth * TURNED[view], 0.07 * actor.girth * TURNED[view]
    corners = [(neck + (s * wide, -0.035), 0.042) for s in (-1, 1)] + [(hip + (s * waist, 0.0), 0.042) for s in (-1, 1)]

    def hull(shrink: float, shift: np.ndarray) -> np.ndarray:
        points = np.concatenate([px(c) + shift + circle(r * shrink * size) for c, r in corners])
        return cv2.convexHull(points.astype(np.float32))[:, 0]

    fill(canvas, hull(1.0, np.zeros(2)), dim(actor.shirt, 0.68))
    fill(canvas, hull(0.72, np.array([-0.008, -0.004]) * size), actor.shirt)

    def across(t: float, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
        middle, half = neck + (hip - neck) * t, (wide + (waist - wide) * t) + 0.012
        return px(middle + (left * half, 0)), px(middle + (right * half, 0))

    if actor.pattern == "stripes":
        for t in (0.2, 0.42, 0.64, 0.86):
            a, b = across(t, -1, 1)
            capsule(canvas, a, b, 0.013 * size, 0.013 * size, actor.trim)
    elif actor.pattern == "band":
        a, b = across(0.42, -1, 1)
        capsule(canvas, a, b, 0.034 * size, 0.034 * size, actor.trim)
    elif actor.pattern == "jacket" and view != "ba":
        fill(canvas, np.array([*across(0.02, -0.3, 0.3), *across(0.98, -0.12, 0.12)])[[0, 1, 3, 2]], actor.trim)
    capsule(canvas, *across(1.12, -0.9, 0.9), 0.014 * size, 0.014 * size, dim(actor.trousers, 0.6))


def _head(canvas: np.ndarray, centre: np.ndarray, radius: float, actor: Actor, view: str) -> None:
    facing = FACING[view]
    oval = np.array([0.88, 1.0])
    fill(canvas, centre + circle(radius) * oval, dim(actor.skin, 0.75))
    fill(canvas, centre + circle(radius * 0.9) * oval + (-0.06 * radius, -0.04 * radius), actor.skin)
    if view == "ba":
        fill(canvas, centre + circle(radius * 1.02) * oval + (0, -0.1 * radius), actor.hair)
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
    fill(canvas, centre + np.concatenate([cap, fringe]) * radius, actor.hair)
    dark = (0.13, 0.1, 0.1)
    for eye in (-0.32, 0.32):
        if facing * eye < 0:
            continue  # the far eye of a turned head
        disc(canvas, centre + np.array([eye + 0.28 * facing, 0.02]) * radius, 0.1 * radius, dark)
    mouth = centre + np.array([0.4 * facing, 0.48]) * radius
    capsule(
        canvas,
        mouth - (0.2 * radius, 0),
        mouth + (0.2 * radius, 0.02 * radius),
        0.06 * radius,
        0.06 * radius,
        mix(actor.skin, (0.5, 0.1, 0.1), 0.6),
    )
