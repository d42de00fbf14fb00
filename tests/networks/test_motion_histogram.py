"""The histogram of motion: shares of pixels by direction and magnitude."""

from __future__ import annotations

import torch

from twostream.networks.motion_histogram import DIRECTIONS, EDGES, MotionHistogram


def _histogram(x: float, y: float) -> torch.Tensor:
    network = MotionHistogram(2, 3)
    seen = []
    network.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.tensor([x, y]).view(1, 2, 1, 1, 1).expand(1, 2, 4, 6, 6))
    return seen[0][0]


def test_uniform_motion_is_one_cell_and_its_opposite_another():
    right, left, faster = _histogram(3.0, 0.0), _histogram(-3.0, 0.0), _histogram(30.0, 0.0)
    assert len(right) == 1 + DIRECTIONS * len(EDGES)
    for one in (right, left, faster):
        assert one.sum() == 1 and one.max() == 1
    assert len({int(one.argmax()) for one in (right, left, faster)}) == 3


def test_no_motion_has_a_cell_of_its_own():
    assert _histogram(0.1, -0.1).argmax() == 0
