"""Film strips: frames of a clip above the flow that follows them, as small JPEGs inside the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from twostream.clipstore import ClipReader
from twostream.datasets.tables import classes_of
from twostream.flow.color import flow_to_color, full_colour_px
from twostream.flow.encoding import decode_flow
from twostream.video import resize

FRAMES = 6  # of an example
_STRIP_WIDTH = 208  # pixels; shown at half of it, sharp on screens of two pixels per point
_IMAGE_WIDTH = 160


class Example(NamedTuple):
    """Frames of a clip, uint8 [T, H, W, 3] RGB, and the flow in pixels from each, float32 [T, h, w, 2]."""

    clip_id: str
    rgb: np.ndarray
    flow_px: np.ndarray


class Strip(NamedTuple):
    """Data URIs of frames and of the flows under them, the speed of full colour, and the size in pixels of each."""

    frames: list[str]
    flows: list[str]
    max_px: float
    width: int
    height: int


def choose_examples(clips: pd.DataFrame, subset: pd.Series, count: int) -> list[str]:
    """Return the ids of `count` test clips of different classes, spread over the class list; fewer if there are fewer.

    Args:
        clips: the table of `clips.csv`.
        subset: the table of a split, see :func:`twostream.datasets.tables.read_split`.
    """
    tested = clips[clips["clip_id"].isin(subset.index[subset == "test"])]
    by_class = {name: table["clip_id"] for name, table in tested.groupby("class")}
    names = [name for name in classes_of(clips) if name in by_class]
    chosen = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [by_class[names[i]].iloc[i * len(by_class[names[i]]) // len(names)] for i in chosen]


def read_example(data: Path, clip_id: str, bound_px: float) -> Example:
    """Read :data:`FRAMES` frames (fewer of a shorter clip), spread evenly, and their flow from the extracted data."""
    with ClipReader(data / f"rgb/{clip_id}.zip") as rgb, ClipReader(data / f"flow/{clip_id}.zip") as flow:
        pairs = np.linspace(0, len(flow) - 1, min(FRAMES, len(flow))).round().astype(int)
        frames = (pairs * ((len(rgb) - 1) / len(flow))).round().astype(int)  # flow can be of fewer frames than rgb
        return Example(clip_id, rgb.read(frames), decode_flow(flow.read(pairs), bound_px))


def film_strip(example: Example) -> Strip:
    """Return the frames of an example and their flow, in full colour at the speed of :func:`full_colour_px`."""
    size = _size(example, _STRIP_WIDTH)
    frames, flows = ([jpeg_uri(image) for image in row] for row in _rows(example, size))
    return Strip(frames, flows, full_colour_px(example.flow_px), *size)


def strips_image(examples: Sequence[Example]) -> np.ndarray:
    """Return one image of several examples, uint8 [H, W, 3] RGB: for each a row of frames above a row of their flow.

    All frames have the shape of the first example's; a shorter example is followed by white.
    """
    size = _size(examples[0], _IMAGE_WIDTH)
    rows = [np.hstack(row) for example in examples for row in _rows(example, size)]
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def _size(example: Example, width: int) -> tuple[int, int]:
    return width, max(1, round(width * example.rgb.shape[1] / example.rgb.shape[2]))


def _rows(example: Example, size: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the frames and the coloured flows, all of one size in pixels (width, height)."""
    flows = flow_to_color(example.flow_px, full_colour_px(example.flow_px))
    return [resize(frame, size) for frame in example.rgb], [resize(flow, size) for flow in flows]


def jpeg_uri(image: np.ndarray, quality: int = 82) -> str:
    """Return uint8 [H, W, 3] RGB as the data URI of a JPEG."""
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
