"""Read pairs of frames with known flow, resize them, and compare the flow of a solver with theirs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from twostream.errors import UserError

UNKNOWN = 1e8  # a component of this size or more, or NaN, marks a pixel of unknown flow
_PNG_END = b"IEND\xaeB`\x82"


class Pair(NamedTuple):
    """Two images and the flow of the first to the second.

    `first` and `second` are uint8 [H, W], `truth` float32 [H, W, 2] in pixels, 0 where it is unknown, `known` bool
    [H, W].
    """

    name: str
    first: np.ndarray
    second: np.ndarray
    truth: np.ndarray
    known: np.ndarray


def read_pairs(folder: Path) -> list[Pair]:
    """Return the pairs of a folder, `<sequence>/{frame1.png, frame2.png, flow.flo}`, in the order of their names.

    Raises:
        OSError: the folder or an image is missing.
        UserError: the folder has no sequence; a file is cut short or of another format; the three sizes of a sequence
            differ, or none of its flow is known.
    """
    sequences = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not sequences:
        raise UserError(f"{folder}: holds no <sequence>/frame1.png, frame2.png, flow.flo")
    return [_read_pair(sequence) for sequence in sequences]


def _read_pair(folder: Path) -> Pair:
    first, second = _read_image(folder / "frame1.png"), _read_image(folder / "frame2.png")
    flow = read_flo(folder / "flow.flo")
    if not first.shape == second.shape == flow.shape[:2]:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (first.shape, second.shape, flow.shape)]
        raise UserError(f"{folder}: sizes differ: frame1.png {sizes[0]}, frame2.png {sizes[1]}, flow.flo {sizes[2]}")
    known = (np.abs(flow) < UNKNOWN).all(axis=-1)  # False for NaN too
    if not known.any():
        raise UserError(f"{folder / 'flow.flo'}: no pixel's flow is known; take this sequence away")
    return Pair(folder.name, first, second, np.where(known[..., None], flow, np.float32(0)), known)


def read_flo(path: Path) -> np.ndarray:
    """Return the flow of a Middlebury `.flo` file, float32 [H, W, 2] in pixels, with its marks of unknown flow.

    Raises:
        UserError: the file is missing, is no `.flo` file, or is shorter than its header says.
    """
    flow = cv2.readOpticalFlow(str(path))
    if flow is None:
        raise UserError(f"{path}: missing, not a .flo file, or cut short; fetch it again")
    return flow


def _read_image(path: Path) -> np.ndarray:
    data = path.read_bytes()
    # Checked first, because the PNG library decodes a part of a file that is cut short, and prints messages.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if _PNG_END in data else None
    if image is None:
        raise UserError(f"{path}: not a PNG image, or cut short; fetch it again")
    return image


def resized(pair: Pair, width: int, height: int) -> Pair:
    """Return the pair at another size.

    Images are resized by area. Flow is averaged by area over the pixels where it is known, and its x and y are scaled
    as the sides are; a pixel is known where at least half of its area was.
    """
    if pair.known.shape == (height, width):
        return pair

    def by_area(image: np.ndarray) -> np.ndarray:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)

    coverage = by_area(pair.known.astype(np.float32))
    known = coverage >= 0.5
    if not known.any():
        raise UserError(f"{pair.name}: no pixel's flow is known at {width}x{height}; choose a larger size")
    scale = np.float32([width / pair.known.shape[1], height / pair.known.shape[0]])
    truth = by_area(pair.truth) / np.maximum(coverage, 0.5)[..., None] * scale
    truth = np.where(known[..., None], truth, np.float32(0))
    return Pair(pair.name, by_area(pair.first), by_area(pair.second), truth, known)


def end_point_error(flow: np.ndarray, pair: Pair) -> float:
    """Return the mean end-point error (EPE) in pixels: the length of the difference of flow, over all known pixels."""
    return float(np.linalg.norm(flow - pair.truth, axis=-1)[pair.known].mean(dtype=np.float64))
