"""TV-L1: known motions, symmetries, odd images, and the kernels' parts against other implementations."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from groundtruth import read_flo
from helpers import TEST_DATA

from twostream.flow import make_solver
from twostream.flow.methods.tvl1 import PRESETS, Tvl1Cpu, enlarge_taps, pyramid_sizes, recipe_of, shrink_taps
from twostream.flow.methods.tvl1 import cpu as tvl1_cpu
from twostream.params import Flow, Tvl1

PAIRS = TEST_DATA / "flow_gt"


SOLVERS = {name: Tvl1Cpu(recipe) for name, recipe in PRESETS.items()}
FAST = SOLVERS["fast"]


@pytest.fixture(params=SOLVERS)
def solve(request):
    return SOLVERS[request.param]


def _texture(height: int, width: int, shift=(0.0, 0.0), seed: int = 0) -> np.ndarray:
    """uint8 [H, W]: a sum of waves of 6 pixels and more, moved by `shift` exactly, as it is evaluated there anew."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(float)
    total = np.zeros((height, width))
    for _ in range(40):
        angle, length = rng.uniform(0, np.pi), rng.uniform(6, 40)
        phase = (np.cos(angle) * (x - shift[0]) + np.sin(angle) * (y - shift[1])) / length
        total += np.sqrt(length) * np.sin(2 * np.pi * (phase + rng.uniform()))
    return np.clip(128 + 1.8 * total, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("shift", [(0.3, -0.7), (2.5, 1.25), (-6.0, 3.5)])
def test_a_translation_is_found_to_a_twentieth_of_a_pixel(solve, shift):
    flow = solve(_texture(120, 160), _texture(120, 160, shift))
    error = np.linalg.norm(flow - np.float32(shift), axis=2)[16:-16, 16:-16]
    most = 0.05 if solve is not FAST else 0.12  # the fast preset is as exact on average, not everywhere
    assert error.mean() < 0.03 and np.quantile(error, 0.98) < most


def test_identical_frames_do_not_move(solve):
    image = _texture(90, 123)
    assert np.abs(solve(image, image)).max() == 0


def test_mirrored_frames_give_the_mirrored_flow_with_x_negated(solve):
    first, second = _texture(100, 133), _texture(100, 133, (1.7, -0.6))
    flow = solve(first, second)
    mirrored = solve(np.ascontiguousarray(first[:, ::-1]), np.ascontiguousarray(second[:, ::-1]))
    difference = np.abs(mirrored[:, ::-1] * (-1, 1) - flow)
    assert np.quantile(difference, 0.99) < 0.03 and difference.mean() < 0.005


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 40), (40, 1), (9, 31), (17, 1000), (5, 3), (67, 45)])
def test_any_size_works(solve, size):
    first, second = _texture(*size), _texture(*size, (0.5, 0.2))
    flow = solve(first, second)
    assert flow.shape == (*size, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()


@pytest.mark.parametrize("levels", [(0, 0), (255, 255), (100, 160), (0, 255)])
def test_constant_images_do_not_move(solve, levels):
    first, second = (np.full((60, 80), level, np.uint8) for level in levels)
    assert np.abs(solve(first, second)).max() == 0


def test_noise_against_noise_stays_finite(solve):
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 256, (2, 71, 90), dtype=np.uint8)
    assert np.isfinite(solve(first, second)).all()


def test_two_runs_give_the_same_bytes_whatever_came_between(solve):
    first, second = _texture(70, 90), _texture(70, 90, (1.0, 2.0))
    flow = solve(first, second)
    solve(_texture(40, 50), _texture(40, 50, (2.0, 1.0)))
    assert solve(first, second).tobytes() == flow.tobytes()
    assert Tvl1Cpu(solve._recipe)(first, second).tobytes() == flow.tobytes()


def test_a_sequence_gives_every_pairs_flow(solve):
    frames = [_texture(50, 60, (0.8 * i, 0.0)) for i in range(4)]
    for i, flow in enumerate(solve.sequence(iter(frames))):
        np.testing.assert_array_equal(flow, solve(frames[i], frames[i + 1]))
    assert i == 2


@pytest.mark.parametrize("gains", [(0.5, 0.5), (1.0, 0.5), (1.0, 0.8)])
def test_a_change_of_exposure_moves_the_flow_by_little(solve, gains):
    images = gains[0] * _texture(120, 160), gains[1] * _texture(120, 160, (2.5, 1.25))
    flow = solve(*(image.clip(0, 255).round().astype(np.uint8) for image in images))
    assert np.linalg.norm(flow - np.float32((2.5, 1.25)), axis=2)[16:-16, 16:-16].mean() < 0.08


def test_without_exposure_a_darker_second_frame_misleads():
    solve = Tvl1Cpu(replace(PRESETS["balanced"], exposure=False))
    flow = solve(_texture(120, 160), (0.7 * _texture(120, 160)).astype(np.uint8))
    assert np.abs(flow).mean() > 0.5


def test_an_object_moves_and_its_surroundings_do_not(solve):
    first, second = _texture(96, 128), _texture(96, 128)
    first[30:60, 40:80] = _texture(30, 40, seed=5)
    second[30:60, 44:84] = _texture(30, 40, seed=5)
    flow = solve(first, second)
    assert np.linalg.norm(flow[34:56, 44:76] - (4, 0), axis=2).mean() < 0.3
    assert np.linalg.norm(np.concatenate([flow[:22].reshape(-1, 2), flow[70:].reshape(-1, 2)]), axis=1).mean() < 0.05


@pytest.mark.parametrize("size", [(37, 50), (8, 8), (5, 33), (1, 1)])
def test_medians_are_opencvs(size):
    height, width = size
    k, stride = tvl1_cpu, tvl1_cpu.stride_of(width)
    state = np.zeros((height + 2) * k.PLANES * stride, np.float32)
    planes = state.reshape(height + 2, k.PLANES, stride)[1:-1, :, k.LANES : k.LANES + width]
    flow = np.random.default_rng(0).normal(size=(height, 2, width)).astype(np.float32)
    planes[:, [k.U, k.V]] = flow
    for kernel, side in ((k.median5, 5), (k.median3, 3)):
        k.repeat_flow_border(state, height, width, stride)
        kernel(state, np.zeros(25 * stride, np.float32), height, width, stride)
        for plane, component in ((k.UB, 0), (k.VB, 1)):
            expected = cv2.medianBlur(np.ascontiguousarray(flow[:, component]), side)
            np.testing.assert_array_equal(planes[:, plane], expected.reshape(height, width))


def test_one_sweep_of_many_iterations_is_as_many_sweeps_of_one():
    k, height, width = tvl1_cpu, 23, 37
    stride = k.stride_of(width)
    state = np.random.default_rng(0).normal(size=(height + 2, k.PLANES, stride)).astype(np.float32)
    state[[0, -1]] = 0
    state[:, :, : k.LANES] = state[:, :, k.LANES + width :] = 0
    state[:, [k.INV, k.WEIGHT]] = np.abs(state[:, [k.INV, k.WEIGHT]])
    together, apart = state.ravel().copy(), state.ravel().copy()
    for one in (together, apart):
        k.clear_edges(one, height, width, stride)
    mask = np.zeros(stride, np.float32)
    mask[k.LANES : k.LANES + width - 1] = 1
    steps = [np.float32(value) for value in (0.3, 0.5, 0.99, 0.2, 0.6)]
    k.relax(together, mask, height, width, stride, 9, *steps)
    for _ in range(9):
        k.relax(apart, mask, height, width, stride, 1, *steps)
    inside = np.s_[1:-1, :, k.LANES : k.LANES + width]
    np.testing.assert_array_equal(together.reshape(state.shape)[inside], apart.reshape(state.shape)[inside])


@pytest.mark.parametrize("size, other", [(340, 170), (85, 42), (43, 30), (7, 7), (100, 95)])
def test_tables_resample_a_ramp_to_a_ramp(size, other):
    index, weights = shrink_taps(size, other)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    inner = np.s_[3:-3]
    expected = (np.arange(other) + 0.5) * size / other - 0.5
    np.testing.assert_allclose((weights * index).sum(axis=1)[inner], expected[inner], atol=0.1 * size / other)
    index, weights = enlarge_taps(other, size)
    expected = ((np.arange(size) + 0.5) * other / size - 0.5).clip(0, other - 1)
    np.testing.assert_allclose((weights * index).sum(axis=1), expected, atol=1e-4)


def test_levels_halve_and_stop_before_they_are_too_small():
    assert pyramid_sizes(256, 340, PRESETS["balanced"]) == [(256, 340), (128, 170), (64, 85), (32, 42), (16, 21)]
    assert pyramid_sizes(8, 8, PRESETS["balanced"]) == [(8, 8)]
    assert len(pyramid_sizes(256, 340, replace(PRESETS["balanced"], scales=2))) == 2


def test_what_the_settings_name_departs_from_the_preset(demo_values):
    section = demo_values["flow"]["tvl1"]
    assert recipe_of(Tvl1(**{**section, "preset": "balanced"})) == PRESETS["balanced"]
    changed = recipe_of(
        Tvl1(**{**section, "preset": "fast", "lambda": 0.7, "warps": 3, "iterations": [4, 8], "median": 1})
    )
    assert changed == replace(PRESETS["fast"], lambda_=0.7, warps=(3,), iterations=(4, 8), median=1)


@pytest.mark.parametrize(
    "change", [{"median": 1}, {"median": 3}, {"scale_step": 0.8}, {"presmooth": 0.0}, {"edge": 0.0}]
)
def test_every_parameter_leads_to_a_flow_near_the_presets(change):
    first, second = _texture(96, 128), _texture(96, 128, (2.5, 1.25))
    flow = Tvl1Cpu(replace(PRESETS["balanced"], **change))(first, second)
    assert np.linalg.norm(flow - np.float32((2.5, 1.25)), axis=2)[16:-16, 16:-16].mean() < 0.05


@pytest.mark.slow
def test_more_effort_is_more_exact():
    if not PAIRS.is_dir():
        pytest.skip("no ground-truth pairs at hand")
    errors = {name: [] for name in ("fast", "balanced", "accurate", "opencv")}
    for folder in sorted(PAIRS.iterdir()):
        first, second = (cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2))
        truth = read_flo(folder / "flow.flo")
        known = (np.abs(truth) < 1e8).all(axis=2)
        quick = cv2.optflow.DualTVL1OpticalFlow_create(scaleStep=0.5, warps=3, outerIterations=2, innnerIterations=10)
        for name, kept in errors.items():
            flow = quick.calc(first, second, None) if name == "opencv" else Tvl1Cpu(PRESETS[name])(first, second)
            kept.append(np.linalg.norm(flow - truth, axis=2)[known].mean())
    means = {name: np.exp(np.log(values).mean()) for name, values in errors.items()}
    assert means["accurate"] < means["balanced"] < means["fast"]
    assert means["balanced"] < means["opencv"]


def test_the_method_is_chosen_by_name(demo_values):
    solve = make_solver(Flow(**{**demo_values["flow"], "method": "tvl1"}))
    assert isinstance(solve, Tvl1Cpu)
