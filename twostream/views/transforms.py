"""Crops, flips, colour and light: drawn once a view, the same for all its frames, on uint8 frames as stored."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from twostream.clipstore import ClipReader
from twostream.flow.encoding import mirror_codes
from twostream.params import Augment
from twostream.views.jpeg import YCC_TO_RGB, BadJpegError, Crop, read_crops

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


def read_view(
    clip: ClipReader,
    frames: np.ndarray,
    view: View,
    size: int,
    demean: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decode just what a view needs of its frames, and apply the view.

    Args:
        frames: int [S, L] frame numbers.
        size: side of the result in pixels.
        demean: for flow, take the camera's motion out: each field's median vector, that of the whole picture, becomes
            zero motion, code 128. Simonyan & Zisserman 2014, section 3.2, subtract the mean; the median is the
            camera's motion also where somebody moves fast on a good part of the picture.
        out: where the result is written, contiguous; by default new memory.

    Returns:
        uint8 [S, C, L, size, size].
    """
    flow = clip.meta["modality"] == "flow"
    width, height = clip.meta["width"], clip.meta["height"]
    crop = Crop(width, height, view.left, view.top, view.side, size, view.flip, 2 if flow else 1, demean)
    matrix = _flow_matrix(view) if flow else _colour_matrix(view)
    views = np.empty((len(frames), len(matrix), frames.shape[1], size, size), np.uint8) if out is None else out
    for numbers, piece in zip(frames, views, strict=True):
        _read_crops(clip, numbers.tolist(), crop, matrix, 1 if demean else 0, piece)
    if not flow:
        _relight(views, view)
    return views


def _read_crops(
    clip: ClipReader, indices: list[int], crop: Crop, matrix: np.ndarray, lowest: int, out: np.ndarray
) -> None:
    """As :func:`twostream.views.jpeg.read_crops`, of some frames, each distinct one once."""
    wanted = list(dict.fromkeys(indices))
    repeats = len(wanted) < len(indices)
    target = np.empty((len(out), len(wanted), *out.shape[2:]), np.uint8) if repeats else out
    try:
        read_crops([clip.encoded(index) for index in wanted], crop, matrix, lowest, target)
    except BadJpegError as error:
        raise clip.undecodable(wanted[error.number]) from None
    if repeats:
        np.take(target, [wanted.index(index) for index in indices], axis=1, out=out)


def mirror_view(view: np.ndarray) -> np.ndarray:
    """The same view of the mirrored video, for uint8 [S, C, L, H, W]."""
    if view.shape[1] == 2:
        return np.moveaxis(mirror_codes(np.moveaxis(view, 1, -1)), -1, 1)
    return view[..., ::-1]


def _relight(views: np.ndarray, view: View) -> None:
    """The light and the noise of a view on uint8 [S, 3, L, H, W] frames, in place."""
    if view.tone is not None:
        flat = views.reshape(1, -1)
        cv2.LUT(flat, view.tone, dst=flat)
    if view.noise is not None:
        np.clip(views + noise_pattern(view, views.shape[-1])[:, None], 0, 255, out=views, casting="unsafe")


def noise_pattern(view: View, size: int) -> np.ndarray:
    """int16 [3, size, size], the noise of a view that has some."""
    deviation, seed = view.noise
    pattern = deviation * np.random.default_rng(seed).standard_normal((3, size, size), np.float32)
    return np.rint(pattern).astype(np.int16)


def _colour_matrix(view: View) -> np.ndarray:
    """float64 [3, 4] from (Y, Cb, Cr, 1) to the colours of the view."""
    if view.colour is None:
        return YCC_TO_RGB
    return view.colour[:, :3] @ YCC_TO_RGB + view.colour[:, 3:] * np.array([0, 0, 0, 1])


def _flow_matrix(view: View) -> np.ndarray:
    """float64 [2, 3] from codes (x, y, 1) to those of the view: 256 - q is the code of -x."""
    return np.array([[-1, 0, 256], [0, 1, 0]]) if view.flip else np.eye(2, 3)


def _jitter(strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation, each scaled by 1 +- `strength`, as one affine map of RGB."""
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    grey = np.outer(np.ones(3), _LUMA)
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    offset = np.full((3, 1), 127.5 * (1 - contrast))
    return np.hstack([matrix, offset])
