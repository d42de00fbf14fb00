"""`flow.tvl1` and `flow.sequence`: NumPy arrays in and out."""

import cv2
import numpy as np
import pytest

from twostream import flow


def _texture(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("colour", [False, True])
def test_arrays_give_flow_without_a_parameter_file(colour):
    wide = _texture(64, 90)
    frames = np.stack([wide[:, 6 - 2 * i : 86 - 2 * i] for i in range(3)])
    if colour:
        frames = np.repeat(frames[..., None], 3, -1)
    flows = list(flow.sequence(frames, preset="fast", device="cpu"))
    assert [one.shape for one in flows] == [(64, 80, 2)] * 2 and flows[0].dtype == np.float32
    assert np.abs(np.median(flows[1][10:-10, 10:-10], (0, 1)) - (2, 0)).max() < 0.05
    assert (flow.tvl1(frames[0], frames[1], preset="fast", device="cpu") == flows[0]).all()


@pytest.mark.parametrize("method", ["farneback", "dis"])
def test_arrays_take_any_method(method):
    assert next(flow.sequence([_texture(64, 80)] * 2, method)).shape == (64, 80, 2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda image: flow.tvl1(image.astype(float), image), "uint8"),
        (lambda image: flow.tvl1(image, image[:32]), "one size"),
        (lambda image: flow.tvl1(image[:8], image[:8]), "16 pixels"),
        (lambda image: flow.tvl1(image, image, preset="best"), "tvl1.preset"),
        (lambda image: next(flow.sequence([image, image], "farneback", "fast")), "no preset"),
        (lambda image: next(flow.sequence([image, image], "lucas")), "method"),
    ],
)
def test_arrays_that_cannot_be_solved_are_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(_texture(64, 80))
    assert "\n" not in str(error.value)
