import io
import zipfile

import numpy as np
import pytest
from helpers import moving_texture
from PIL import Image

from twostream.clipstore import ClipReader, write_clip
from twostream.errors import UserError
from twostream.flow.encoding import decode_flow, encode_flow
from twostream.params import Augment
from twostream.views.transforms import (
    View,
    crop_positions,
    draw_view,
    read_view,
    scoring_views,
)


def _augment(**changes):
    return Augment(**{"scales": [1.0], "flip": False, "jitter": 0.0, **changes})


def _read(tmp_path, frames, view, size, demean=False, quality=95):
    """A view of uint8 [T, H, W, C] frames by way of a clip file: uint8 [T, size, size, C]."""
    modality = "flow" if frames[0].shape[-1] == 2 else "rgb"
    write_clip(tmp_path / "clip.zip", frames, quality, {"modality": modality})
    with ClipReader(tmp_path / "clip.zip") as clip:
        return read_view(clip, np.arange(len(frames))[None], view, size, demean)[0].transpose(1, 2, 3, 0)


def test_a_view_is_the_same_for_all_its_frames(tmp_path):
    frames = np.repeat(moving_texture(1, 24, 24)[0][None], 4, axis=0)
    augment = _augment(flip=True, jitter=0.5)
    view = draw_view(24, 24, augment, np.random.default_rng(3))
    assert view.flip and view.colour is not None
    out = _read(tmp_path, frames, view, 24)
    assert np.abs(out[0].astype(int) - frames[0]).mean() > 10
    assert all(np.array_equal(out[0], other) for other in out[1:])


def test_a_flip_of_flow_mirrors_the_image_and_negates_x(tmp_path):
    y, x = np.mgrid[:24, :32] / 24
    flow = np.stack([np.stack([9 * x - 5, 7 * y - 2 * x], -1), np.stack([2 - 6 * y, 5 * x], -1)]).astype(np.float32)
    plain, flipped = (
        decode_flow(_read(tmp_path, encode_flow(flow, 10.0), View(4, 0, 24, flip=flip), 24), 10.0)
        for flip in (False, True)
    )
    assert np.abs(plain - flow[:, :, 4:28]).max() < 0.2
    assert np.abs(flipped[..., 0] + plain[:, :, ::-1, 0]).max() < 0.1
    assert np.abs(flipped[..., 1] - plain[:, :, ::-1, 1]).max() == 0


def test_a_flip_of_frames_mirrors_them(tmp_path):
    frames = moving_texture(2, 24, 32)
    plain, flipped = (_read(tmp_path, frames, View(4, 0, 20, flip=flip), 28) for flip in (False, True))
    assert np.array_equal(flipped, plain[:, :, ::-1])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (30, 30)])
def test_crops_are_squares_inside_the_frame(size):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        view = draw_view(*size, _augment(scales=[1.0, 0.75, 0.5], flip=True), rng)
        assert 0 <= view.left <= size[0] - view.side and 0 <= view.top <= size[1] - view.side
        seen.add((view.side, view.flip))
    assert {side for side, _ in seen} == {30, 22, 15} and {flip for _, flip in seen} == {False, True}


def test_three_crops_lie_along_the_longer_side():
    assert crop_positions(40, 30, 30, 3) == [(0, 0), (5, 0), (10, 0)]
    assert crop_positions(30, 40, 30, 3) == [(0, 0), (0, 5), (0, 10)]


def test_scoring_views_are_crops_times_flips():
    assert len(scoring_views(40, 30, crops=5, flip=True)) == 10
    assert [view.flip for view in scoring_views(40, 30, crops=1, flip=False)] == [False]


def test_jitter_keeps_grey_grey_and_moves_brightness_by_no_more_than_it_says(tmp_path):
    grey = np.full((1, 16, 16, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        out = _read(tmp_path, grey, draw_view(16, 16, _augment(jitter=0.2), rng), 16).astype(int)
        assert np.ptp(out) <= 1  # rounding
        assert 100 * 0.8 * 0.8 - 26 <= out.mean() <= 100 * 1.2 * 1.2 + 26


def test_colour_is_a_matrix_on_red_green_and_blue(tmp_path):
    frames = moving_texture(2, 24, 32)
    colour = np.array([[0.9, 0.1, 0.0, -5], [0.05, 0.8, 0.1, 10], [0.2, 0.0, 0.7, 3]])
    plain, coloured = (_read(tmp_path, frames, View(0, 0, 24, colour=matrix), 24) for matrix in (None, colour))
    expected = plain.astype(float) @ colour[:, :3].T + colour[:, 3]
    assert np.abs(coloured - expected).max() < 2.5 and np.abs(coloured - expected).mean() < 0.5


def _blocks(values):
    """Codes [1, H, W, 2] of blocks of 8x8 alike, which JPEG keeps: x as given, y 128."""
    x = np.kron(np.array(values), np.ones((8, 8)))
    return np.stack([x, np.full_like(x, 128)], -1)[None].astype(np.uint8)


def test_demeaning_makes_the_median_of_each_field_zero_motion(tmp_path):
    codes = np.concatenate([_blocks([[90, 100, 110], [100, 140, 170]]), _blocks([[200, 100, 101], [102, 80, 90]])])
    out = _read(tmp_path, codes, View(8, 0, 16), 16, demean=True, quality=100)
    # Medians of six blocks, the lower of the middle two: 100 and 100.
    assert np.array_equal(out[:, ::8, ::8, 0], [[[128, 138], [168, 198]], [[128, 129], [108, 118]]])
    assert (out[..., 1] == 128).all()


def test_demeaned_motion_beyond_the_codes_is_clipped(tmp_path):
    codes = _blocks([[250, 250, 250], [250, 2, 255]])
    out = _read(tmp_path, codes, View(8, 0, 16), 16, demean=True, quality=100)[0, ::8, ::8, 0]
    assert out.tolist() == [[128, 128], [1, 133]]
    codes = _blocks([[5, 5, 5], [5, 2, 255]])
    assert _read(tmp_path, codes, View(8, 0, 16), 16, demean=True, quality=100)[0, 8, 8:, 0].max() == 255


@pytest.mark.parametrize("flip", [False, True])
def test_a_demeaned_view_of_flow_is_the_same_under_any_motion_of_the_camera(tmp_path, flip):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 0.05, (2, 48, 64, 2)), axis=2).astype(np.float32)
    for name, camera in (("still", (0.0, 0.0)), ("pan", (2.0, -1.5))):
        meta = {"modality": "flow"}
        write_clip(tmp_path / name, [encode_flow(field + np.float32(camera), 8.0) for field in smooth], 98, meta)

    def view(name, demean):
        with ClipReader(tmp_path / name) as clip:
            return read_view(clip, np.array([[0, 1]]), View(8, 0, 32, flip), 24, demean).astype(int)

    assert np.abs(view("pan", True) - view("still", True)).max() <= 3  # JPEG and rounding
    assert np.abs(view("pan", False) - view("still", False)).mean() > 20


def test_the_median_is_that_of_the_whole_picture_not_of_the_crop(tmp_path):
    field = np.zeros((32, 64, 2), np.float32)
    field[:, :24] = 3.0  # somebody who fills the crop, but not the picture
    write_clip(tmp_path / "a.zip", [encode_flow(field, 8.0)], 98, {"modality": "flow"})
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0]]), View(0, 8, 16), 16, demean=True)
    assert np.abs(decode_flow(out[:, 0], 8.0) - 3.0).max() < 0.2


def test_reading_a_view_crops_where_it_says(tmp_path):
    frames = moving_texture(3, height=64, width=96)
    write_clip(tmp_path / "a.zip", frames, 98, {"modality": "rgb"})
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0, 2]]), View(left=24, top=8, side=32), size=32)
    assert out.shape == (1, 3, 2, 32, 32)
    assert np.abs(out[0, :, 1].transpose(1, 2, 0).astype(int) - frames[2][8:40, 24:56]).mean() < 6


@pytest.mark.parametrize("side, size", [(40, 40), (48, 24), (48, 16), (30, 41), (40, 67)])
def test_a_crop_is_what_pillow_makes_of_it(tmp_path, side, size):
    """Another decoder; shrinking by whole factors is the mean of blocks, enlarging is bilinear."""
    write_clip(tmp_path / "a.zip", moving_texture(1, height=48, width=72), 95, {"modality": "rgb"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        image = Image.open(io.BytesIO(archive.read("00001.jpg"))).crop((9, 0, 9 + side, side))
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0]]), View(9, 0, side), size)
    how = Image.Resampling.BOX if size < side else Image.Resampling.BILINEAR
    assert np.abs(out[0, :, 0].transpose(1, 2, 0).astype(int) - image.resize((size, size), how)).max() <= 1


def test_repeated_frames_are_decoded_once(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.zip", moving_texture(3), 95, {"modality": "rgb"})
    decoded = []
    frame = ClipReader.frame
    monkeypatch.setattr(ClipReader, "frame", lambda clip, index: (decoded.append(index), frame(clip, index))[1])
    with ClipReader(tmp_path / "a.zip") as clip:
        out = read_view(clip, np.array([[0, 2], [2, 0]]), View(0, 0, 48), 32)
    assert decoded == [0, 2]
    assert np.array_equal(out[0, :, 0], out[1, :, 1]) and np.array_equal(out[0, :, 1], out[1, :, 0])


def test_a_damaged_frame_is_one_line_that_names_it(tmp_path):
    write_clip(tmp_path / "a.zip", moving_texture(3), 95, {"modality": "rgb"})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    start = data.index(b"\xff\xd8", data.index(b"\xff\xd8") + 2)  # of the second frame
    data[start : start + 4] = b"none"
    (tmp_path / "a.zip").write_bytes(data)
    with ClipReader(tmp_path / "a.zip") as clip, pytest.raises(UserError, match="frame 2 has changed") as caught:
        read_view(clip, np.array([[0, 1]]), View(0, 0, 48), 32)
    assert "\n" not in str(caught.value)
