"""Crops, flips, colour and light: drawn once a view, the same for all its frames, on uint8 frames as stored."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twostream.clipstore import ClipReader
from twostream.flow.encoding import mirror_codes
from twostream.params import Augment

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, the weights of the frames' own codecs
_DARKEST = 0.3  # part of the light that is left in the darkest view
_NOISE = 6.0  # standard deviation in grey levels that the noise of a camera tends to as the light goes


@dataclass(frozen=True)
class View:
    """What is done to every frame of a view: a square crop (in stored pixels), a mirror image, colour and light.

    The last three are for RGB frames and come in this order. `colour` is float64 [3, 4], applied to RGB vectors with a
    constant 1 appended. `tone` is uint8 [256], the new value of each value. `noise` is (standard deviation in grey
    levels, seed) of a pattern that is added to all frames alike. None leaves the frames alone.
    """

    left: int
    top: int
    side: int
    flip: bool = False
    colour: np.ndarray | None = None
    tone: np.ndarray | None = None
    noise: tuple[float, int] | None = None


def draw_view(width: int, height: int, augment: Augment, rng: np.random.Generator) -> View:
    """A random training view: scale and one of five places of the crop (Wang et al. 2016), mirror image, colour, light.

    The light is a gamma curve whose exponent is log-uniform from 1 / (1 + `augment.gamma`) to 1 + `augment.gamma`, and,
    with probability `augment.dark`, a gain from 0.3 to 1 with the more noise the less light it leaves. The light is
    drawn last, and nothing where it is switched off, so switching it leaves the crop, the mirror and the colour alone.
    """
    side = max(1, round(min(width, height) * float(rng.choice(augment.scales))))
    left, top = crop_places(width, height, side, 5)[rng.integers(5)]
    flip = augment.flip and rng.random() < 0.5
    colour = _jitter(augment.jitter, rng) if augment.jitter else None
    exponent = (1 + augment.gamma) ** rng.uniform(-1, 1) if augment.gamma else 1.0
    gain, noise = 1.0, None
    if augment.dark and rng.random() < augment.dark:
        gain = rng.uniform(_DARKEST, 1)
        noise = (_NOISE * (1 - gain), int(rng.integers(2**32)))
    tone = tone_curve(exponent, gain) if augment.gamma or noise else None
    return View(left, top, side, bool(flip), colour, tone, noise)


def tone_curve(exponent: float, gain: float = 1.0) -> np.ndarray:
    """uint8 [256]: what becomes of each grey level v, `255 gain (v / 255) ** exponent` rounded."""
    return np.rint(255 * gain * (np.arange(256) / 255) ** exponent).clip(0, 255).astype(np.uint8)


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


def read_view(clip: ClipReader, frames: np.ndarray, view: View, size: int, demean: bool = False) -> np.ndarray:
    """Decode just the frames of a view, at reduced scale where the crop allows, and apply the view.

    Args:
        frames: int [S, L] frame numbers.
        size: side of the result in pixels.
        demean: for flow, take the camera's motion out, see :func:`demean_codes`.

    Returns:
        uint8 [S, L, size, size, C].
    """
    reduce = max(r for r in (1, 2, 4, 8) if view.side >= r * size or r == 1)
    images = clip.read(frames.ravel(), reduce)  # [T, H, W, C]
    medians = _medians(images) if demean else None  # of the whole picture, whatever the crop
    top, left, side = view.top // reduce, view.left // reduce, max(1, view.side // reduce)
    images = images[:, top : top + side, left : left + side]
    if side != size:
        how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        images = np.stack([cv2.resize(image, (size, size), interpolation=how) for image in images])
    if medians is not None:
        images = demean_codes(images, medians)
    return apply_view(images, view).reshape(*frames.shape, size, size, images.shape[-1])


def demean_codes(codes: np.ndarray, medians: np.ndarray | None = None) -> np.ndarray:
    """Flow without the camera's motion: each field's median vector becomes zero motion, code 128.

    Simonyan & Zisserman 2014, section 3.2, subtract the mean; the median is the camera's motion also where somebody
    moves fast on a good part of the picture. Of an even number of values it is the lower one, so codes stay whole.

    Args:
        codes: uint8 [T, H, W, 2].
        medians: int [T, 2]; by default those of `codes`.

    Returns:
        uint8 [T, H, W, 2] codes, clipped to 1 to 255.
    """
    medians = _medians(codes) if medians is None else medians
    moved = np.arange(256)[:, None] + 128 - medians[:, None]  # [T, 256, 2]
    tables = moved.clip(1, 255).astype(np.uint8)[:, None]
    return np.stack([cv2.LUT(image, table) for image, table in zip(codes, tables, strict=True)])


def apply_view(images: np.ndarray, view: View) -> np.ndarray:
    """Mirror, colour and light of a view on already cropped uint8 [T, H, W, C] frames; two channels are flow codes."""
    if view.flip:
        images = mirror_codes(images) if images.shape[-1] == 2 else images[:, :, ::-1]
    images = np.ascontiguousarray(images)
    return _relight(images, view) if images.shape[-1] == 3 else images


def _relight(images: np.ndarray, view: View) -> np.ndarray:
    if view.colour is not None:
        images = cv2.transform(images.reshape(1, -1, 3), view.colour).reshape(images.shape)
    if view.tone is not None:
        images = cv2.LUT(images.reshape(1, -1), view.tone).reshape(images.shape)
    if view.noise is not None:
        deviation, seed = view.noise
        pattern = deviation * np.random.default_rng(seed).standard_normal(images.shape[1:], np.float32)
        images = (images + np.rint(pattern).astype(np.int16)).clip(0, 255).astype(np.uint8)
    return images


def _medians(codes: np.ndarray) -> np.ndarray:
    # From histograms: 16 times as fast as numpy's median on fields of 149x112 codes.
    histograms = [cv2.calcHist([image], [axis], None, [256], [0, 256]) for image in codes for axis in (0, 1)]
    counts = np.reshape(histograms, (len(codes), 2, 256)).cumsum(-1)
    return (counts >= (counts[..., -1:] + 1) // 2).argmax(-1)


def _jitter(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation, each scaled by 1 +- `strength`, as one affine map of RGB."""
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    grey = np.outer(np.ones(3), _LUMA)
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    offset = np.full((3, 1), 127.5 * (1 - contrast))
    return np.hstack([matrix, offset])
