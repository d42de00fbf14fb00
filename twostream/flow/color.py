"""Flow as colour: direction is hue and speed is saturation, on the Middlebury colour wheel."""

from __future__ import annotations

import numpy as np

LEAST_FULL_COLOUR_PX = 0.5  # below it, noise would be enlarged into bright colour
UNKNOWN_PX = 1e9  # the Middlebury files mark a pixel of unknown motion by anything above


def flow_to_color(flow_px: np.ndarray, max_px: float) -> np.ndarray:
    """Draw a flow field as in Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011.

    No motion is white, rightward is red, downward yellow, leftward blue-cyan and upward violet; the colour is full at
    `max_px` and darker by a quarter beyond it, so that clipped motion is seen to be clipped.

    Args:
        flow_px: float [..., H, W, 2] in pixels, x right and y down. Not finite or above 1e9 (unknown) is drawn black.
        max_px: the speed in pixels that has full colour, above zero.

    Returns:
        uint8 [..., H, W, 3] RGB.

    Raises:
        ValueError: the shape does not end in 2, or `max_px` is not a positive number.
    """
    if flow_px.ndim < 2 or flow_px.shape[-1] != 2:
        raise ValueError(f"flow must be [..., H, W, 2], not {list(flow_px.shape)}")
    if not (np.isfinite(max_px) and max_px > 0):
        raise ValueError(f"max_px must be a positive number, not {max_px}")
    known = np.isfinite(flow_px).all(-1) & (np.abs(np.nan_to_num(flow_px)) < UNKNOWN_PX).all(-1)
    x, y = np.moveaxis(np.where(known[..., None], flow_px, 0).astype(np.float32) / np.float32(max_px), -1, 0)
    speed = np.hypot(x, y)[..., None]

    wheel = _wheel()
    # From 0 and not from -pi: rightward motion is one red whether y is 0.0 or -0.0. The last colour stands at 2 pi, not
    # one step before it; the small seam this leaves right of the axis is the published algorithm's.
    turn = np.mod(np.arctan2(y, x), 2 * np.pi) / (2 * np.pi) * (len(wheel) - 1)
    lower = np.clip(np.floor(turn).astype(np.intp), 0, len(wheel) - 1)
    upper = (lower + 1) % len(wheel)
    share = (turn - lower)[..., None].astype(np.float32)
    hue = (1 - share) * wheel[lower] + share * wheel[upper]

    # Dividing by the field's own greatest speed can end one bit above 1, which is not beyond the maximum.
    within = speed <= 1 + 1e-5
    colour = np.where(within, 1 - np.minimum(speed, 1) * (1 - hue), hue * np.float32(0.75))
    return np.where(known[..., None], np.floor(255 * colour), 0).astype(np.uint8)


def full_colour_px(flow_px: np.ndarray) -> float:
    """Return the speed in pixels that a picture of this flow shows in full colour: the 99th percentile, at least 0.5.

    Args:
        flow_px: float [..., 2] in pixels; without any vector, the result is 0.5.
    """
    speed = np.linalg.norm(flow_px, axis=-1)
    return max(float(np.percentile(speed, 99)), LEAST_FULL_COLOUR_PX) if speed.size else LEAST_FULL_COLOUR_PX


def color_wheel(size: int) -> np.ndarray:
    """Return the key to :func:`flow_to_color`: uint8 [size, size, 3] RGB, a disc on white, full speed at its rim."""
    axis = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / max(size / 2, 1)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = np.hypot(x, y) <= 1
    flow = np.where(inside[..., None], np.stack([x, y], -1), 0)
    return flow_to_color(flow, 1.0)


def _wheel() -> np.ndarray:
    """Return the 55 hues, float32 [55, 3] in 0..1: six ramps, longer where the eye distinguishes more colours."""
    ramps = [  # from colour, channel that moves, its direction, steps
        ((1, 0, 0), 1, +1, 15),  # red to yellow
        ((1, 1, 0), 0, -1, 6),  # yellow to green
        ((0, 1, 0), 2, +1, 4),  # green to cyan
        ((0, 1, 1), 1, -1, 11),  # cyan to blue
        ((0, 0, 1), 0, +1, 13),  # blue to magenta
        ((1, 0, 1), 2, -1, 6),  # magenta to red
    ]
    parts = []
    for colour, channel, direction, steps in ramps:
        part = np.tile(np.array(colour, np.float32), (steps, 1))
        # floored to 8 bit first, as published
        part[:, channel] += direction * np.floor(255 * np.arange(steps) / steps).astype(np.float32) / 255
        parts.append(part)
    return np.concatenate(parts)
