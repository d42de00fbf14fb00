import cv2
import numpy as np
import pytest
from helpers import TEST_DATA

from twostream.flow import make_solver
from twostream.params import parse_params

METHODS = ["farneback", "dis"]
GROUND_TRUTH = TEST_DATA / "flow_gt"


def _solver(values, method):
    return make_solver(parse_params({**values, "flow": {**values["flow"], "method": method}}).flow)


def _texture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("method", METHODS)
def test_identical_frames_have_no_flow(demo_values, method):
    image = _texture(64, 80)
    # OpenCV's Farneback invents up to 0.2 pixels at the very border, even here.
    assert np.abs(_solver(demo_values, method)(image, image)[8:-8, 8:-8]).max() < 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shift", [(2, 0), (-1, 3)])
def test_a_translation_is_found_in_x_and_y(demo_values, method, shift):
    """The scene moves by `shift` pixels right and down, so flow is `shift` in the interior."""
    wide = _texture(100, 120)
    first = wide[10:90, 10:110]
    second = wide[10 - shift[1] : 90 - shift[1], 10 - shift[0] : 110 - shift[0]]
    flow = _solver(demo_values, method)(np.ascontiguousarray(first), np.ascontiguousarray(second))
    assert flow.dtype == np.float32 and flow.shape == (80, 100, 2)
    interior = flow[15:-15, 15:-15].reshape(-1, 2)
    assert np.abs(np.median(interior, 0) - shift).max() < 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (16, 400), (400, 16)])
def test_small_odd_and_stretched_images_give_finite_flow(demo_values, method, size):
    flow = _solver(demo_values, method)(_texture(*size), _texture(*size, seed=1))
    assert flow.shape == (*size, 2) and np.isfinite(flow).all()


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_give_the_same_bytes(demo_values, method):
    first, second = _texture(48, 64), _texture(48, 64, seed=1)
    solver = _solver(demo_values, method)
    assert solver(first, second).tobytes() == _solver(demo_values, method)(first, second).tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_what_was_solved_before_changes_nothing(demo_values, method):
    values = {**demo_values, "flow": {**demo_values["flow"], "dis": {"preset": "fast"}}}
    small, large = _texture(48, 64), _texture(240, 320)
    moved = np.roll(large, 24, axis=1)
    used = _solver(values, method)
    used(small, small)
    np.testing.assert_array_equal(used(large, moved), _solver(values, method)(large, moved))


@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_gives_the_flow_of_every_frame_to_the_next(demo_values, method):
    frames = [_texture(48, 64, seed) for seed in range(3)]
    flows = list(_solver(demo_values, method).sequence(frames))
    assert len(flows) == 2
    for flow, first, second in zip(flows, frames[:-1], frames[1:], strict=True):
        assert flow.tobytes() == _solver(demo_values, method)(first, second).tobytes()


@pytest.mark.skipif(not GROUND_TRUTH.is_dir(), reason="no ground-truth flow at hand")
@pytest.mark.parametrize("method, error", [("farneback", 1.2), ("dis", 0.7)])
def test_mean_end_point_error_on_ground_truth(demo_values, method, error):
    folder = GROUND_TRUTH / "RubberWhale"
    first, second = (cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2))
    truth = cv2.readOpticalFlow(str(folder / "flow.flo"))
    known = (np.abs(truth) < 1e8).all(-1)
    flow = _solver(demo_values, method)(first, second)
    assert np.linalg.norm(flow - truth, axis=-1)[known].mean() < error
