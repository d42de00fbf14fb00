"""Crops, flips and colour: drawn once a view, the same for all its frames, on uint8 frames as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twostream.clipstore import ClipReader
from twostream.flow.encoding import mirror_codes
from twostream.params import Augment

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the weights of the frames' own codecs


@dataclass(frozen=True)
class View:
    """What is done to every frame of a view: a square crop (in stored pixels), a mirror image, a colour transform.

    `colour` is float64 [3, 4], applied to RGB vectors with a constant 1 appended; None leaves the colours alone.
    """

    left: int
    top: int
    side: int
    flip: bool = False
    colour: np.ndarray | None = None


def draw_view(width: int, height: int, augment: Augment, rng: np.random.Generator) -> View:
    """A random training view: scale and one of five places of the crop (Wang et al. 2016), mirror image, colour."""
    side = max(1, round(min(width, height) * float(rng.choice(augment.scales))))
    left, top = crop_places(width, height, side, 5)[rng.integers(5)]
    flip = augment.flip and rng.random() < 0.5
    colour = _jitter(augment.jitter, rng) if augment.jitter else None
    return View(left, top, side, bool(flip), colour)


def scoring_views(width: int, height: int, crops: int, flip: bool) -> list[View]:
    """The spatial views that score a clip: 1, 3 or 5 crops of the full short side, each mirrored too if `flip`."""
    side = min(width, height)
    return [
        View(left, top, side, mirrored)
        for left, top in crop_places(width, height, side, crops)
        for mirrored in ((False, True) if flip else (False,))
    ]


def crop_places(width: int, height: int, side: int, crops: int) -> list[tuple[int, int]]:
    """(left, top) of `crops` squares: 1 the centre; 3 spread along the longer side; 5 the centre and the corners."""
    right, bottom = width - side, height - side
    centre = (right // 2, bottom // 2)
    if crops == 1:
        return [centre]
    if crops == 3:
        along_width = [(0, centre[1]), centre, (right, centre[1])]
        along_height = [(centre[0], 0), centre, (centre[0], bottom)]
        return along_width if width >= height else along_height
    return [centre, (0, 0), (right, 0), (0, bottom), (right, bottom)]


def read_view(clip: ClipReader, frames: np.ndarray, view: View, size: int) -> np.ndarray:
    """Decode just the frames of a view, at reduced scale where the crop allows, and apply the view.

    Args:
        frames: int [S, L] frame numbers.
        size: side of the result in pixels.

    Returns:
        uint8 [S, L, size, size, C].
    """
    reduce = max(r for r in (1, 2, 4, 8) if view.side >= r * size or r == 1)
    images = clip.read(frames.ravel(), reduce)  # [T, H, W, C]
    top, left, side = view.top // reduce, view.left // reduce, max(1, view.side // reduce)
    images = images[:, top : top + side, left : left + side]
    if side != size:
        how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        images = np.stack([cv2.resize(image, (size, size), interpolation=how) for image in images])
    return apply_view(images, view).reshape(*frames.shape, size, size, images.shape[-1])


def apply_view(images: np.ndarray, view: View) -> np.ndarray:
    """Mirror and colour of a view on already cropped uint8 [T, H, W, C] frames; two channels are flow codes."""
    if view.flip:
        images = mirror_codes(images) if images.shape[-1] == 2 else images[:, :, ::-1]
    if view.colour is not None and images.shape[-1] == 3:
        flat = np.ascontiguousarray(images).reshape(1, -1, 3)
        images = cv2.transform(flat, view.colour).reshape(images.shape)
    return np.ascontiguousarray(images)


def _jitter(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation, each scaled by 1 +- `strength`, as one affine map of RGB."""
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    grey = np.outer(np.ones(3), _LUMA)
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    offset = np.full((3, 1), 127.5 * (1 - contrast))
    return np.hstack([matrix, offset])
