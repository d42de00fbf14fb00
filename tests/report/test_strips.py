import base64

import cv2
import numpy as np
import pandas as pd
import pytest

from twostream.clipstore import write_clip
from twostream.datasets.tables import CLIP_COLUMNS
from twostream.flow.encoding import encode_flow
from twostream.report.strips import FRAMES, Example, choose_examples, film_strip, read_example, strips_image


def decoded(uri: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def test_a_strip_has_each_frame_and_its_flow_at_one_size():
    rgb = np.stack([np.full((48, 64, 3), 30 * k, np.uint8) for k in range(5)])
    strip = film_strip(Example("a/b", rgb, np.zeros((5, 24, 32, 2), np.float32)))
    images = [decoded(uri) for uri in strip.frames + strip.flows]
    assert len(strip.frames) == len(strip.flows) == 5
    assert {image.shape for image in images} == {(strip.height, strip.width, 3)}
    assert [image.mean() for image in images[:5]] == pytest.approx([0, 30, 60, 90, 120], abs=2)
    assert all(image.min() > 250 for image in images[5:])  # no motion is white


def test_the_full_colour_of_a_strip_is_the_speed_of_the_fastest_hundredth():
    flow = np.zeros((2, 100, 100, 2), np.float32)
    flow[:, :2, :, 0] = 7.0  # two in a hundred
    assert film_strip(Example("a/b", np.zeros((2, 100, 100, 3), np.uint8), flow)).max_px == pytest.approx(7.0)


def test_the_noise_of_a_still_clip_is_not_enlarged_into_colour():
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 32, 32, 2)).astype(np.float32)
    strip = film_strip(Example("a/b", np.zeros((3, 32, 32, 3), np.uint8), noise))
    assert all(decoded(uri).min() > 220 for uri in strip.flows)


def test_the_image_of_examples_has_frames_above_their_flow_and_white_after_a_short_one():
    rgb = np.full((4, 20, 40, 3), 90, np.uint8)
    right = np.zeros((4, 20, 40, 2), np.float32)
    right[..., 0] = 5
    image = strips_image([Example("a/b", rgb, right), Example("a/c", rgb[:2], -right[:2])])
    assert image.shape == (4 * 80, 4 * 160, 3)
    assert (image[:80] == 90).all() and (image[160:240, :320] == 90).all()
    assert image[120, 60, 0] > image[120, 60, 2]  # right is red
    assert image[280, 60, 2] > image[280, 60, 0]  # left is cyan
    assert (image[160:, 320:] == 255).all()


def test_an_example_is_spread_over_the_clip_even_where_flow_has_fewer_frames(tmp_path):
    frames = [np.full((32, 48, 3), 10 * k, np.uint8) for k in range(21)]
    flows = [encode_flow(np.full((16, 24, 2), (k, -k), np.float32), 20) for k in range(10)]  # of every other frame
    for modality, images in (("rgb", frames), ("flow", flows)):
        write_clip(tmp_path / modality / "a/b.zip", images, 100, {"modality": modality})
    example = read_example(tmp_path, "a/b", 20)
    assert len(example.rgb) == len(example.flow_px) == FRAMES
    speeds = example.flow_px.mean(axis=(1, 2))
    assert speeds[:, 0] == pytest.approx([0, 2, 4, 5, 7, 9], abs=0.2)
    assert example.rgb.mean(axis=(1, 2, 3)) == pytest.approx(10 * 2 * np.array([0, 2, 4, 5, 7, 9]), abs=2)


@pytest.mark.parametrize(("count", "chosen"), [(1, ["a/2"]), (2, ["a/2", "c/2"]), (9, ["a/2", "b/2", "c/2"])])
def test_examples_are_test_clips_of_different_classes(count, chosen):
    rows = [(f"{name}/{k}", "", name, "", 0, 0.0, 0, 0, "ok", "") for name in "abcd" for k in (1, 2)]
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    subset = pd.Series(
        {f"{name}/{k}": "test" if k == 2 and name != "d" else "train" for name in "abcd" for k in (1, 2)}
    )
    assert choose_examples(clips, subset, count) == chosen
