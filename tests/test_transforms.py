import numpy as np
import pytest
from conftest import moving_texture

from twostream.clipstore import ClipReader, write_clip
from twostream.flow.encoding import decode_flow, encode_flow
from twostream.params import Augment
from twostream.transforms import View, apply_view, crop_places, draw_view, read_view, scoring_views


def test_a_view_is_the_same_for_all_its_frames():
    frames = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3)).astype(np.uint8), 4, axis=0)
    view = draw_view(20, 20, Augment(scales=[1.0], flip=True, jitter=0.5), np.random.default_rng(3))
    out = apply_view(frames, view)
    assert not np.array_equal(out[0], frames[0])
    assert all(np.array_equal(out[0], other) for other in out[1:])


def test_a_flip_of_flow_mirrors_the_image_and_negates_x():
    flow = np.random.default_rng(0).uniform(-9, 9, (2, 6, 8, 2)).astype(np.float32)
    out = decode_flow(apply_view(encode_flow(flow, 10.0), View(0, 0, 6, flip=True)), 10.0)
    assert np.abs(out[..., 0] + flow[:, :, ::-1, 0]).max() < 0.05
    assert np.abs(out[..., 1] - flow[:, :, ::-1, 1]).max() < 0.05


def test_a_flip_of_frames_mirrors_them():
    frames = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    assert np.array_equal(apply_view(frames, View(0, 0, 6, flip=True)), frames[:, :, ::-1])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (30, 30)])
def test_crops_are_squares_inside_the_frame(size):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        view = draw_view(*size, Augment(scales=[1.0, 0.75, 0.5], flip=True, jitter=0.0), rng)
        assert 0 <= view.left <= size[0] - view.side and 0 <= view.top <= size[1] - view.side
        seen.add((view.side, view.flip))
    assert {side for side, _ in seen} == {30, 22, 15} and {flip for _, flip in seen} == {False, True}


def test_three_crops_lie_along_the_longer_side():
    assert crop_places(40, 30, 30, 3) == [(0, 0), (5, 0), (10, 0)]
    assert crop_places(30, 40, 30, 3) == [(0, 0), (0, 5), (0, 10)]


def test_scoring_views_are_crops_times_flips():
    assert len(scoring_views(40, 30, crops=5, flip=True)) == 10
    assert [view.flip for view in scoring_views(40, 30, crops=1, flip=False)] == [False]


def test_jitter_keeps_grey_grey_and_moves_brightness_by_no_more_than_it_says():
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        view = draw_view(4, 4, Augment(scales=[1.0], flip=False, jitter=0.2), rng)
        out = apply_view(grey, view).astype(int)
        assert np.ptp(out) <= 1  # rounding
        assert 100 * 0.8 * 0.8 - 26 <= out.mean() <= 100 * 1.2 * 1.2 + 26


def test_reading_a_view_crops_where_it_says(tmp_path):
    frames = moving_texture(3, height=64, width=96)
    write_clip(tmp_path / "a.zip", frames, 98, {"modality": "rgb"})
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0, 2]]), View(left=24, top=8, side=32), size=32)
    assert out.shape == (1, 2, 32, 32, 3)
    assert np.abs(out[0, 1].astype(int) - frames[2][8:40, 24:56]).mean() < 6


def test_reduced_decoding_shows_the_same_picture(tmp_path):
    """A crop of 64 read at 16 pixels is decoded at a quarter: it must look like the area average."""
    frames = moving_texture(1, height=64, width=96)
    write_clip(tmp_path / "a.zip", frames, 98, {"modality": "rgb"})
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0]]), View(left=32, top=0, side=64), size=16)
    average = frames[0][:, 32:].reshape(16, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(out[0, 0] - average).mean() < 4
