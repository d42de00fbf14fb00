"""Where a clip is filmed: the empty scene behind the figure."""

from __future__ import annotations

import numpy as np

from twostream.datasets.demo.indoors import hall, room
from twostream.datasets.demo.outdoors import beach, park, rooftop, street


def paint_place(place: str, seed: int, shape: tuple[int, int], horizon: float) -> np.ndarray:
    """The empty scene, uint8 `[H, W, 3]`, its horizon (or foot of the wall) near pixel row `horizon`."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((*shape, 3), np.uint8)
    painter = {"park": park, "street": street, "room": room, "beach": beach, "hall": hall, "rooftop": rooftop}
    painter[place](canvas, horizon, rng)
    return canvas
