"""The person in a clip: what they look like, and how they are drawn in a pose."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twostream.datasets.demo.paint import Colour, capsule, circle, dim, disc, fill, hsv, mix, shadow
from twostream.datasets.demo.prop import Prop, draw_prop

FACING = {"fr": 0.0, "ba": 0.0, "le": -1.0, "ri": 1.0}  # HMDB51's views: front, back, left, right


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


def draw_actor(rng: np.random.Generator) -> Actor:
    """Draw a person at random; shirt and skin are less vivid than most things."""
    shirt = hsv(rng.uniform(), rng.uniform(0.12, 0.4), rng.uniform(0.55, 0.92))
    return Actor(
        height=rng.uniform(0.93, 1.05),
        leg=rng.uniform(0.465, 0.505),
        girth=rng.uniform(0.9, 1.2),
        skin=mix((0.96, 0.8, 0.68), (0.42, 0.27, 0.19), rng.uniform()),
        hair=hsv(0.07, rng.uniform(0, 0.6), rng.uniform(0.1, 0.75)),
        shirt=shirt,
        trim=mix(shirt, (0.97, 0.96, 0.92) if rng.uniform() < 0.5 else (0.15, 0.16, 0.2), 0.75),
        trousers=hsv(rng.choice([0.6, 0.08, 0.65, 0.0]), rng.uniform(0.1, 0.4), rng.uniform(0.22, 0.5)),
        shoes=hsv(rng.uniform(), 0.2, rng.choice([0.15, 0.3, 0.9])),
        pattern=str(rng.choice(["plain", "stripes", "band"])),
        long_hair=bool(rng.uniform() < 0.45),
    )


def draw_figure(
    canvas: np.ndarray,
    feet: np.ndarray,
    size: float,
    actor: Actor,
    view: str,
    hand: int,
    at: dict[str, float],
    prop: Prop | None,
) -> None:
    """Draw a person in one frame of a pose of `pose.py`.

    Args:
        feet: the pixel `(x, y)` between the feet.
        size: height of the person in pixels.
        view: where the person faces, a key of :data:`FACING`.
        hand: the side of the hand that may hold a thing, -1 left or 1 right in the frame.
        at: the coordinates of the pose.
        prop: the thing in the hand, if any.
    """
    body = _Body(canvas, feet, size, actor, view)
    facing = FACING[view]
    bent = facing * (1 + at["crouch"])  # from the side, a person who crouches sits back and leans forward
    hip = np.array([0.02 * at["lean"] - 0.035 * bent, actor.leg * 0.99 - 0.085 * (1 + at["crouch"])])
    neck = hip + (0.05 * at["lean"] + 0.05 * bent, 0.3)
    head = neck + (0.03 * at["lean"], 0.115)
    free = neck + (-hand * (0.15 + 0.07 * at["arm"]), -0.22 + 0.06 * at["arm"])
    held = neck + (hand * (0.26 + 0.025 * at["reach"]), -0.05 + 0.07 * at["reach"])

    shadow(canvas, feet, 0.26 * size, 0.05 * size)
    if actor.long_hair and view != "ba":
        body.limb(head + (-facing * 0.02, 0.03), neck + (-facing * 0.03, 0.01), 0.085, 0.07, actor.hair)
    for side in (-1, 1):
        body.leg(side, hip, at["stride"])
    body.arm(-hand, neck, free)
    body.torso(hip, neck)
    body.limb(neck + (0, -0.02), head + (0, -0.03), 0.032, 0.03, dim(actor.skin, 0.92))
    _draw_head(canvas, body.px(head), 0.082 * size, actor, view)
    if prop:
        draw_prop(canvas, body.px(held), size, hand, prop)
    body.arm(hand, neck, held)


class _Body:
    """Draws parts of a body; their positions and radii are in body heights from the feet, y upwards."""

    def __init__(self, canvas: np.ndarray, feet: np.ndarray, size: float, actor: Actor, view: str) -> None:
        self.canvas, self.feet, self.size, self.actor, self.view = canvas, feet, size, actor, view
        self.scale = np.array([size, -size])
        self.wide = actor.girth * (0.8 if FACING[view] else 1.0)  # apparent width of shoulders and hips

    def px(self, point: np.ndarray) -> np.ndarray:
        return self.feet + point * self.scale

    def limb(self, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float, colour: Colour) -> None:
        a, b = self.px(a), self.px(b)
        radius_a, radius_b = radius_a * self.actor.girth * self.size, radius_b * self.actor.girth * self.size
        light = np.array([-0.22, -0.12]) * radius_b  # from the upper left
        capsule(self.canvas, a, b, radius_a, radius_b, dim(colour, 0.68))
        capsule(self.canvas, a + light, b + light, radius_a * 0.72, radius_b * 0.68, colour)

    def leg(self, side: int, hip: np.ndarray, stride: float) -> None:
        actor, facing = self.actor, FACING[self.view]
        foot = np.array([side * (0.085 + 0.035 * stride * side), 0.035 + 0.02 * max(0.0, side * stride)])
        top = hip + (side * 0.052 * self.wide, 0)
        knee = _joint(top, foot, actor.leg * 0.5, actor.leg * 0.5, outward=facing or side)
        if not facing:
            knee += 0.45 * ((top + foot) / 2 - knee)  # seen from the front, knees bend towards the camera as well
        self.limb(foot, foot + (facing * 0.06 + side * 0.022 * (not facing), -0.012), 0.027, 0.022, actor.shoes)
        self.limb(knee, foot + (0, 0.012), 0.033, 0.024, actor.trousers)
        self.limb(top, knee, 0.05, 0.036, actor.trousers)

    def arm(self, side: int, neck: np.ndarray, palm: np.ndarray) -> None:
        actor, shoulder = self.actor, neck + (side * 0.088 * self.wide, -0.035)
        elbow = _joint(shoulder, palm, 0.15, 0.14, outward=side, down=True)
        self.limb(elbow, palm, 0.026, 0.021, actor.skin)
        self.limb(shoulder, elbow, 0.036, 0.028, actor.shirt)
        disc(self.canvas, self.px(palm), 0.03 * self.size, dim(actor.skin, 0.95))

    def torso(self, hip: np.ndarray, neck: np.ndarray) -> None:
        canvas, actor, size = self.canvas, self.actor, self.size
        chest, waist = 0.092 * self.wide, 0.07 * self.wide
        corners = [neck + (s * chest, -0.035) for s in (-1, 1)] + [hip + (s * waist, 0) for s in (-1, 1)]
        for shrink, shift, colour in ((1.0, 0.0, dim(actor.shirt, 0.68)), (0.72, size, actor.shirt)):
            edge = circle(0.042 * shrink * size) + np.array([-0.008, -0.004]) * shift
            points = np.concatenate([self.px(corner) + edge for corner in corners]).astype(np.float32)
            fill(canvas, cv2.convexHull(points)[:, 0], colour)

        def across(t: float, left: float, right: float) -> tuple[np.ndarray, np.ndarray]:
            middle, half = neck + (hip - neck) * t, (chest + (waist - chest) * t) + 0.012
            return self.px(middle + (left * half, 0)), self.px(middle + (right * half, 0))

        if actor.pattern == "stripes":
            for t in (0.2, 0.42, 0.64, 0.86):
                capsule(canvas, *across(t, -1, 1), 0.013 * size, 0.013 * size, actor.trim)
        elif actor.pattern == "band":
            capsule(canvas, *across(0.42, -1, 1), 0.034 * size, 0.034 * size, actor.trim)


def _joint(a: np.ndarray, b: np.ndarray, first: float, second: float, outward: float, down: bool = False) -> np.ndarray:
    """Return elbow or knee of a limb from `a` to `b` (law of cosines); a limb that is too short is stretched."""
    line = b - a
    distance = max(float(np.hypot(*line)), 1e-6)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    normal = np.array([-line[1], line[0]]) / distance
    if (down and normal[1] > 0) or (not down and normal[0] * outward < 0):
        normal = -normal
    return a + line / distance * along + normal * np.sqrt(max(first**2 - along**2, 0.0))


def _draw_head(canvas: np.ndarray, centre: np.ndarray, radius: float, actor: Actor, view: str) -> None:
    facing = FACING[view]
    fill(canvas, centre + circle(radius) * (0.88, 1), dim(actor.skin, 0.75))
    fill(canvas, centre + circle(radius * 0.9) * (0.88, 1) + (-0.06 * radius, -0.04 * radius), actor.skin)
    if view == "ba":
        fill(canvas, centre + circle(radius * 1.02) * (0.88, 1) + (0, -0.1 * radius), actor.hair)
        return
    angles = np.linspace(np.pi * 0.98, np.pi * 2.02, 24)
    cap = np.stack([np.cos(angles) * 0.96, np.sin(angles) * 1.06], axis=1)
    fringe = np.array([[0.9, -0.05], [0.55, -0.45], [-0.1, -0.4], [-0.6, -0.5], [-0.9, -0.05]])
    fringe[1:4, 0] += np.array([0.2, 0.3, 0.2]) * facing
    fill(canvas, centre + np.concatenate([cap, fringe]) * radius, actor.hair)
    for eye in (-0.32, 0.32):
        if facing * eye >= 0:  # the far eye of a turned head is hidden
            disc(canvas, centre + np.array([eye + 0.28 * facing, 0.02]) * radius, 0.1 * radius, (0.13, 0.1, 0.1))
    mouth, lips = centre + np.array([0.4 * facing, 0.48]) * radius, mix(actor.skin, (0.5, 0.1, 0.1), 0.6)
    capsule(canvas, mouth - (0.2 * radius, 0), mouth + (0.2 * radius, 0), 0.06 * radius, 0.06 * radius, lips)
