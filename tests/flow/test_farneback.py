import cv2
import numpy as np
import pytest

from twostream.flow import farneback, farneback_opencv
from twostream.params import Farneback

USUAL = {"pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}


def _texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def _warped_pair(height, width, seed=0):
    """A texture and the same after a smooth motion of up to 2.4 pixels."""
    wide = _texture(height + 40, width + 40, seed).astype(np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = 0.4 + 2 * np.sin(2 * np.pi * y / max(height, 30) + 0.3)
    v = 1.4 * np.cos(2 * np.pi * x / max(width, 30))
    moved = cv2.remap(wide, x + 20 - u, y + 20 - v, cv2.INTER_CUBIC)
    return wide[20:-20, 20:-20].astype(np.uint8), np.clip(moved, 0, 255).astype(np.uint8)


def _difference(first, second, **changes):
    settings = Farneback(**{**USUAL, **changes})
    ours = farneback.solver(settings)(first, second)
    assert ours.shape == (*first.shape, 2) and ours.dtype == np.float32
    return np.abs(ours - farneback_opencv.solver(settings)(first, second)).max()


@pytest.mark.parametrize("size", [(256, 340), (61, 133), (40, 37), (9, 31), (8, 8), (16, 400), (400, 16), (12, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_flow_is_opencvs_at_every_size(size, seed):
    assert _difference(*_warped_pair(*size, seed)) < 0.001


@pytest.mark.parametrize(
    "changes",
    [
        {"levels": 1},
        {"levels": 5},
        {"pyr_scale": 0.8, "levels": 5, "poly_n": 7, "poly_sigma": 1.5},
        {"pyr_scale": 0.63, "levels": 2},
        {"poly_n": 7},
        {"winsize": 3},
        {"winsize": 14},
        {"winsize": 101},
        {"iterations": 1},
        {"iterations": 10, "winsize": 10},
    ],
    ids=str,
)
def test_flow_is_opencvs_with_every_setting(changes):
    assert _difference(*_warped_pair(120, 170), **changes) < 0.001


@pytest.mark.parametrize("winsize", [5, 15])
def test_flow_is_opencvs_where_neighbours_move_apart(winsize):
    """Unrelated images: the flow jumps by many pixels, and leaves the image."""
    first, second = _texture(120, 170), _texture(120, 170, seed=1)
    assert _difference(first, second, winsize=winsize) < 0.01


def test_flow_is_opencvs_along_a_still_border():
    """The sign of almost nothing decides there whether a pixel is outside: equal to rounding would not be enough."""
    still = _texture(120, 170)
    for step in range(1, 6):
        moved = still.copy()
        moved[40:80, 50 + step : 100 + step] = still[40:80, 50:100]
        assert _difference(still, moved) < 0.001


def test_identical_frames_have_no_flow_at_all_also_where_opencvs_have():
    image = _texture(64, 80)
    settings = Farneback(**USUAL)
    assert not farneback.solver(settings)(image, image.copy()).any()
    assert np.abs(farneback_opencv.solver(settings)(image, image)).max() > 0.01


def test_a_video_gives_the_flow_of_its_pairs_alone():
    frames = [_texture(48, 70, seed) for seed in range(4)]
    solver = farneback.solver(Farneback(**USUAL))
    flows = list(solver.sequence(iter(frames)))
    assert len(flows) == 3
    for flow, first, second in zip(flows, frames[:-1], frames[1:], strict=True):
        assert flow.tobytes() == farneback.solver(Farneback(**USUAL))(first, second).tobytes()


def test_one_solver_takes_videos_of_several_sizes():
    solver = farneback.solver(Farneback(**USUAL))
    for size in [(48, 70), (90, 40), (48, 70)]:
        first, second = _warped_pair(*size)
        alone = farneback.solver(Farneback(**USUAL))(first, second)
        assert solver(first, second).tobytes() == alone.tobytes()


@pytest.mark.parametrize("winsize", [2, 15])
def test_images_without_texture_or_with_one_direction_give_finite_flow(winsize):
    y, x = np.mgrid[:64, :96]
    images = [
        np.zeros((64, 96)),
        np.full((64, 96), 255),
        127 + 120 * np.sin((x + y) / 4),
        np.where(x > 40, 255, 0),
        255 * ((x == 50) & (y == 30)),
    ]
    solver = farneback.solver(Farneback(**{**USUAL, "winsize": winsize}))
    for first in images:
        for second in images:
            assert np.isfinite(solver(first.astype(np.uint8), second.astype(np.uint8))).all()


def test_the_expansion_is_the_least_squares_fit_of_a_quadratic():
    """Independently of OpenCV: in the interior, a weighted fit of c + b.x + x.A x to every neighbourhood."""
    image = _texture(24, 30)
    solver = farneback.solver(Farneback(**{**USUAL, "levels": 1}))
    level = farneback._levels(24, 30, 1, 0.5)[0]
    padding = farneback._PAD
    planes = solver.prepare(image).expansions[0][padding:-padding].reshape(5, 24, level.stride)

    smooth = cv2.GaussianBlur(image.astype(np.float64), (3, 3), 0)
    y, x = (axis.ravel() for axis in np.mgrid[-5:6, -5:6])
    root = np.exp(-(x**2 + y**2) / (4 * 1.2**2))
    basis = np.stack([np.ones(121), x, y, x * x, y * y, x * y], 1)
    for row, column in [(8, 9), (12, 20), (15, 15)]:
        values = smooth[row - 5 : row + 6, column - 5 : column + 6].ravel()
        fit = np.linalg.lstsq(basis * root[:, None], values * root, rcond=None)[0]
        assert planes[:, row, column] == pytest.approx(fit[1:], abs=1e-3)
