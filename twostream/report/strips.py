"""Film strips: frames of a clip above the flow that follows them, as small JPEGs inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from twostream.flow.color import color_wheel, flow_to_color

MOST_FRAMES = 8
_WIDTH = 208  # pixels stored; shown at half of it, which is sharp on screens of two pixels a point
_LEAST_FULL_COLOUR = 0.5  # px: below it, noise would be blown up into bright colour


class Strip(NamedTuple):
    """Data URIs of the frames and of the flows under them, the speed of full colour, and the size in pixels of each."""

    frames: list[str]
    flows: list[str]
    max_px: float
    width: int
    height: int


def film_strip(rgb: np.ndarray, flow_px: np.ndarray) -> Strip:
    """At most :data:`MOST_FRAMES` frames, spread evenly, with the flow from each.

    Colour is full at the speed that one pixel in a hundred of the shown flow exceeds.

    Args:
        rgb: uint8 [T, H, W, 3].
        flow_px: float32 [T or T - 1, h, w, 2]; may be of another size, and is enlarged for display only.

    Raises:
        ValueError: no frame, or no flow.
    """
    length = min(len(rgb), len(flow_px))
    if not length:
        raise ValueError("a film strip needs at least one frame with its flow")
    places = np.unique(np.linspace(0, length - 1, min(MOST_FRAMES, length)).round().astype(int)).tolist()
    speed = np.linalg.norm(flow_px[places], axis=-1)
    max_px = max(float(np.percentile(speed, 99)), _LEAST_FULL_COLOUR)
    size = _WIDTH, max(1, round(_WIDTH * rgb.shape[1] / rgb.shape[2]))
    flows = flow_to_color(flow_px[places], max_px)
    return Strip(
        [jpeg_uri(_resized(rgb[place], size)) for place in places],
        [jpeg_uri(_resized(flow, size)) for flow in flows],
        max_px,
        *size,
    )


def strips_image(
    examples: Sequence[tuple[str, np.ndarray, np.ndarray]], frames: int = 6, width: int = 160
) -> np.ndarray:
    """One picture of several clips: for each a row of frames and, under it, a row of the flow from each of them.

    Args:
        examples: clip id, uint8 [T, H, W, 3] RGB frames, float32 [T or T - 1, h, w, 2] flow in pixels.

    Returns:
        uint8 [H, W, 3] RGB, the clips one under another, each frame in the shape of the first clip's.
    """
    size = width, round(width * examples[0][1].shape[1] / examples[0][1].shape[2])
    rows = []
    for _, rgb, flow_px in examples:
        places = np.linspace(0, min(len(rgb), len(flow_px)) - 1, frames).round().astype(int)
        fastest = max(float(np.percentile(np.linalg.norm(flow_px[places], axis=-1), 99)), _LEAST_FULL_COLOUR)
        rows.append(np.hstack([_resized(rgb[place], size) for place in places]))
        rows.append(np.hstack([_resized(flow, size) for flow in flow_to_color(flow_px[places], fastest)]))
    return np.vstack(rows)


def wheel_uri(size: int = 240) -> str:
    """The colour wheel as a data URI; the corners outside the disc are white."""
    return jpeg_uri(color_wheel(size), quality=92)


def jpeg_uri(image: np.ndarray, quality: int = 82) -> str:
    """A data URI of uint8 [H, W, 3] RGB."""
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise RuntimeError(f"an image of shape {list(image.shape)} cannot be encoded")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
