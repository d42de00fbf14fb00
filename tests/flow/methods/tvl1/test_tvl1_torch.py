import itertools
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from groundtruth import read_pairs, resized
from helpers import TEST_DATA
from torch.nn import functional

from twostream.flow.methods.tvl1 import PRESETS, Tvl1Cpu, enlarge_taps, shrink_taps
from twostream.flow.methods.tvl1 import torch as tvl1_torch
from twostream.flow.methods.tvl1.torch import EAGER, Exposure, Linear, Rates, Tvl1Torch

GROUND_TRUTH = TEST_DATA / "flow_gt"
BALANCED = PRESETS["balanced"]


def _pairs(count, height, width, seed=0):
    """Textures and what they look like after a smooth motion of up to some pixels: two uint8 [count, H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    firsts, seconds = [], []
    for k in range(count):
        noise = rng.integers(0, 256, (height, width)).astype(np.uint8)
        first = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
        u = 1.5 * np.sin(y / 9 + k) + 0.5 * k
        v = np.cos(x / 11 + k)
        firsts.append(first)
        seconds.append(cv2.remap(first, x - u, y - v, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    return np.stack(firsts), np.stack(seconds)


def _table(taps):
    index, weights = taps
    return torch.from_numpy(np.ascontiguousarray(index)), torch.from_numpy(np.ascontiguousarray(weights))


def _no_change(count):
    return Exposure(torch.ones(count), torch.zeros(count))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(61, 83), (8, 8), (17, 240), (96, 64)])
def test_flow_is_that_of_the_cpu_kernels(preset, size):
    firsts, seconds = _pairs(3, *size)
    theirs = Tvl1Cpu(PRESETS[preset])
    ours = Tvl1Torch(PRESETS[preset], "cpu").match_batch(firsts, seconds).numpy()
    for first, second, flow in zip(firsts, seconds, ours, strict=True):
        apart = np.abs(flow - theirs(first, second))
        assert apart.mean() < 2e-4 and np.quantile(apart, 0.99) < 2e-3


@pytest.mark.parametrize(
    "change", [{"median": 3}, {"median": 1}, {"presmooth": 0.0}, {"edge": 0.0}, {"exposure": False}]
)
def test_every_setting_does_what_it_does_on_the_cpu_kernels(change):
    recipe = replace(BALANCED, **change)
    first, second = (images[0] for images in _pairs(1, 50, 70))
    second = (second * 0.8 + 10).astype(np.uint8)
    flow = Tvl1Torch(recipe, "cpu")(first, second)
    apart = np.abs(flow - Tvl1Cpu(recipe)(first, second))
    assert apart.mean() < 2e-4 and np.quantile(apart, 0.99) < 2e-3
    assert np.abs(flow - Tvl1Torch(BALANCED, "cpu")(first, second)).mean() > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not GROUND_TRUTH.is_dir(), reason="ground-truth pairs are not at hand")
def test_real_images_give_the_flow_of_the_cpu_kernels():
    solve, kernels = Tvl1Torch(BALANCED, "cpu"), Tvl1Cpu(BALANCED)
    for pair in (resized(pair, 340, 256) for pair in read_pairs(GROUND_TRUTH)):
        difference_px = np.abs(solve(pair.first, pair.second) - kernels(pair.first, pair.second))
        assert difference_px.mean() < 2e-4 and np.quantile(difference_px, 0.99) < 1e-3


@pytest.mark.slow
def test_a_batch_gives_the_bytes_that_its_pairs_give_alone(monkeypatch):
    firsts, seconds = _pairs(5, 40, 53)
    solver = Tvl1Torch(BALANCED, "cpu")
    whole = solver.match_batch(firsts, seconds)
    assert whole.shape == (5, 40, 53, 2) and whole.dtype == torch.float32
    for k in range(5):
        assert torch.equal(solver.match_batch(firsts[k : k + 1], seconds[k : k + 1])[0], whole[k])
        assert np.array_equal(solver(firsts[k], seconds[k]), whole[k].numpy())
    monkeypatch.setitem(tvl1_torch._CHUNK_PX, "cpu", 2 * 40 * 53)
    assert torch.equal(solver.match_batch(torch.from_numpy(firsts), torch.from_numpy(seconds)), whole)


def test_two_solvers_give_the_same_bytes():
    pairs = _pairs(2, 48, 64)
    one, two = (Tvl1Torch(BALANCED, "cpu").match_batch(*pairs) for _ in range(2))
    assert one.numpy().tobytes() == two.numpy().tobytes()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_constant_images_give_no_flow(grey):
    image = np.full((1, 30, 41), grey, np.uint8)
    assert not Tvl1Torch(BALANCED, "cpu").match_batch(image, image).any()


def test_flow_is_finite_for_noise_black_and_white():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 33, 47)).astype(np.uint8)
    chess = np.where(np.indices((33, 47)).sum(0) % 2, 255, 0).astype(np.uint8)
    black = np.zeros_like(chess)
    firsts = np.stack([noise[0], chess, black, noise[1], black])
    seconds = np.stack([noise[1], 255 - chess, chess, black, 255 - black])
    assert Tvl1Torch(BALANCED, "cpu").match_batch(firsts, seconds).isfinite().all()


def test_enlarging_is_bilinear_as_torch_does_it():
    images = torch.rand(2, 3, 17, 20)
    ours = tvl1_torch.resample(images, _table(enlarge_taps(17, 34)), _table(enlarge_taps(20, 39)))
    assert torch.allclose(ours, functional.interpolate(images, (34, 39), mode="bilinear"), atol=1e-6)


def test_shrinking_is_antialiased_as_torch_does_it_but_at_the_border():
    images = torch.rand(1, 2, 41, 60)
    ours = tvl1_torch.resample(images, _table(shrink_taps(41, 20)), _table(shrink_taps(60, 30)))
    theirs = functional.interpolate(images, (20, 30), mode="bilinear", antialias=True)
    assert torch.allclose(ours[..., 1:-1, 1:-1], theirs[..., 1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize("size", [3, 5])
def test_the_median_is_opencvs(size):
    flow = torch.randn(2, 2, 19, 23, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    ours = tvl1_torch.median(flow, size)
    for plane, filtered in zip(flow.flatten(0, 1), ours.flatten(0, 1), strict=True):
        assert np.array_equal(filtered.numpy(), cv2.medianBlur(plane.numpy(), size))


def test_a_parabola_is_linearized_exactly_inside_and_off_outside():
    height, width = 20, 24
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")

    def parabola(x, y):
        return 0.2 * x**2 - 0.1 * y**2 + 0.15 * x * y

    generator = torch.Generator().manual_seed(0)
    flow = 6 * torch.rand(1, 2, height, width, generator=generator) - 3
    image = parabola(x, y)[None]
    gradient, constant, _ = tvl1_torch.linearize(image, image, flow, 0.0, _no_change(1))
    to_x, to_y = x + flow[0, 0], y + flow[0, 1]
    outside = (to_x < 0) | (to_x > width - 1) | (to_y < 0) | (to_y > height - 1)
    assert outside.any() and not gradient[0, :, outside].any() and not constant[0, outside].any()

    # Away from the border, where its pixels are repeated, cubics and five-point differences are exact for parabolas.
    clear = (to_x >= 1) & (to_x < width - 2) & (to_y >= 1) & (to_y < height - 2)
    clear &= (x >= 2) & (x < width - 2) & (y >= 2) & (y < height - 2)
    middle_x, middle_y = (x + to_x) / 2, (y + to_y) / 2
    slopes = torch.stack([0.4 * middle_x + 0.15 * middle_y, -0.2 * middle_y + 0.15 * middle_x])
    assert torch.allclose(gradient[0][:, clear], slopes[:, clear], atol=1e-4)
    residual = constant[0] + (gradient * flow)[0].sum(0)
    assert torch.allclose(residual[clear], (parabola(to_x, to_y) - parabola(x, y))[clear], atol=1e-3)


def test_edges_weaken_smoothness_by_their_gradient():
    ramp = 12.0 * torch.arange(20.0).expand(1, 16, 20)
    *_, weight = tvl1_torch.linearize(ramp, ramp, torch.zeros(1, 2, 16, 20), 12.0**-2, _no_change(1))
    assert torch.allclose(weight[:, :, 2:-2], torch.tensor(0.5).sqrt())


def test_a_change_of_exposure_is_found():
    first = torch.from_numpy(_pairs(1, 40, 50)[0]).float()
    second = (first - 10) / 0.8
    flow = torch.zeros(1, 2, 40, 50)
    data = tvl1_torch.linearize(first, second, flow, 0.0, _no_change(1))
    exposure = tvl1_torch.fit_exposure(first, flow, data, _no_change(1), 50, 1)
    assert exposure.gain.item() == pytest.approx(0.8, abs=2e-3) and exposure.offset.item() == pytest.approx(10, abs=0.3)


def test_without_a_data_term_iterations_smooth_the_flow_and_keep_its_mean():
    generator = torch.Generator().manual_seed(0)
    flow = torch.randn(2, 2, 15, 18, generator=generator)
    weight = torch.full((2, 15, 18), 0.6)
    data = Linear(torch.zeros(2, 2, 15, 18), torch.zeros(2, 15, 18), weight)
    smooth, dual = tvl1_torch.relax(flow, torch.zeros(2, 4, 15, 18), data, 200, Rates(0.25, 0.5, 0.99, 0.1, 0.5))
    assert torch.allclose(smooth.mean((2, 3)), flow.mean((2, 3)), atol=1e-5)
    assert smooth.diff(dim=-1).abs().mean() < 0.1 * flow.diff(dim=-1).abs().mean()
    assert dual.unflatten(1, (2, 2)).norm(dim=2).max() <= 0.6 + 1e-6
    assert not dual[:, 0::2, :, -1].any() and not dual[:, 1::2, -1].any()


def test_kernels_that_cannot_be_had_are_replaced_with_one_line_of_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "twostream.flow.methods.tvl1.triton", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps = tvl1_torch._fastest_steps.__wrapped__(BALANCED, torch.device("cuda"))
    assert steps is EAGER
    (warning,) = caught
    assert "tvl1" in str(warning.message) and "\n" not in str(warning.message)


_INTERPRETED = """
import json
from dataclasses import replace

import numpy as np
import torch

from twostream.flow.methods.tvl1 import triton as tvl1_triton
from twostream.flow.methods.tvl1 import PRESETS
from twostream.flow.methods.tvl1.torch import EAGER, Exposure, Rates, Tvl1Torch
from twostream.flow.methods.tvl1.triton import KERNELS

torch.set_num_threads(1)
tvl1_triton.OPTIONS.update(TILE_Y=16)  # fewer to interpret, yet more than one
recipe = replace(PRESETS["balanced"], warps=(1,), iterations=(2,))
generator = torch.Generator().manual_seed(0)
noise = torch.randn(4, 31, 45, generator=generator)
images = (noise + noise.roll(1, 1) + noise.roll(1, 2) + noise.roll((1, 1), (1, 2))).mul(30).add(128).clamp(0, 255)
first, second = images.chunk(2)
plan = Tvl1Torch(recipe, "cpu")._plan(31, 45)
apart = {}

def compare(name, steps):
    ours, theirs = steps(KERNELS), steps(EAGER)
    ours, theirs = ([values] if isinstance(values, torch.Tensor) else values for values in (ours, theirs))
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    apart[name] = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))

flow = 3 * torch.randn(2, 2, 31, 45, generator=generator)
dual = 0.3 * torch.randn(2, 4, 31, 45, generator=generator)
dual[:, 0::2, :, -1] = 0
dual[:, 1::2, -1] = 0
exposure = Exposure(torch.tensor([0.9, 1.2]), torch.tensor([3.0, -2.0]))
data = EAGER.linearize(first, second, flow, 0.01, exposure)
rates = Rates(0.33, 0.5, 0.98, 0.2, 0.6)
compare("enlarge", lambda steps: steps.resample(dual[..., :16, :22], *plan[1].enlarge))
compare("linearize", lambda steps: steps.linearize(first, second, flow, 0.01, exposure))
dimmed = EAGER.linearize(first, 0.8 * second + 10, 0 * flow, 0.01, exposure)
compare("exposure", lambda steps: steps.fit_exposure(first, 0 * flow, dimmed, exposure, 3, 1))
compare("exposure of some rows", lambda steps: steps.fit_exposure(first, flow, data, exposure, 1, 4))
halves = flow.round() / 4
halves[..., :2] = 99
compare("codes", lambda steps: steps.encode(halves, 127 / 2).float())
compare("relax", lambda steps: steps.relax(flow, dual, data, 3, rates))
tvl1_triton._cache = lambda device: (1 + tvl1_triton.STATE_BYTES * 31 * 48 / tvl1_triton._CACHE_SHARE, 1)
assert tvl1_triton._pairs_at_once(2, 31 * 48, flow.device) == 1
compare("relax pair by pair", lambda steps: steps.relax(flow, dual, data, 3, rates))
compare("median 3", lambda steps: steps.median(flow, 3))
compare("median 5", lambda steps: steps.median(flow, 5))
compare("smooth", lambda steps: steps.resample(first, *plan[0].shrink))
compare("shrink", lambda steps: steps.resample(first, *plan[1].shrink))
pair = first[:1].byte(), second[:1].byte()
compare("solve", lambda steps: Tvl1Torch(recipe, "cpu", steps=steps).match_batch(*pair))
print(json.dumps(apart))
"""


@pytest.mark.slow
def test_the_gpu_kernels_interpreted_on_the_cpu_do_what_the_plain_steps_do():
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[4])}
    command = [sys.executable, "-W", "ignore", "-c", _INTERPRETED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name, apart in json.loads(result.stdout).items():
        assert apart < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 80, 90])  # T4, A100, H100
def test_the_gpu_kernels_compile_for_a_gpu_that_is_not_there(monkeypatch, tmp_path, capability):
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from twostream.flow.methods.tvl1 import triton as tvl1_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"TAPS_Y": 4, "TAPS_X": 5, "TILE_Y": 8, "TILE_X": 32, "ROUNDS": 3, "ROW_STEP": 4, "TILE": 1024}
    types = dict.fromkeys(constants, "constexpr") | {"rows": "*i32", "columns": "*i32", "codes": "*u8"}
    types |= dict.fromkeys(("height", "width", "pitch", "image_pitch", "source_pitch", "source_layer"), "i32")
    types |= dict.fromkeys(("edge", "tau", "sigma", "shrinkage", "limit", "blend", "scale"), "fp32")
    for name in ("_resample", "_linearize", "_fit_exposure", "_relax", "_median3", "_median5", "_encode"):
        kernel = getattr(tvl1_triton, name)
        signature = {argument: types.get(argument, "*fp32") for argument in kernel.arg_names}
        used = {(i,): constants[argument] for i, argument in enumerate(kernel.arg_names) if argument in constants}
        source = ASTSource(kernel, signature, used)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
        assert compiled.asm["cubin"]


def test_iterations_go_through_groups_of_pairs_that_stay_in_the_cache(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    from twostream.flow.methods.tvl1 import triton as tvl1_triton

    layers = []

    class Kernel:
        def __getitem__(self, grid):
            def launch(*args, **_):
                layers.append(grid[2])
                assert all(len(value) >= grid[2] for value in args if isinstance(value, torch.Tensor))

            return launch

    monkeypatch.setattr(tvl1_triton, "_relax", Kernel())
    data = Linear(torch.zeros(5, 2, 40, 60), torch.zeros(5, 40, 60), torch.zeros(5, 40, 60))
    variables = torch.zeros(5, 2, 40, 60), torch.zeros(5, 4, 40, 60), data
    for pairs_in_cache, groups in ((2.5, [2, 2, 1]), (4, [3, 2]), (0, [5]), (100, [5])):
        cache_bytes = int(pairs_in_cache * 80 * 40 * 64 / 0.8)
        monkeypatch.setattr(tvl1_triton, "_cache", lambda _, cache_bytes=cache_bytes: (cache_bytes, 1))
        tvl1_triton.relax(*variables, 3, Rates(0.33, 0.5, 0.98, 0.2, 0.6))
        assert layers == [pairs for pairs in groups for _ in range(3)]
        layers.clear()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@needs_gpu
@pytest.mark.parametrize("size", [(61, 83), (8, 8), (96, 128)])
def test_a_gpu_gives_the_flow_of_the_cpu_before_and_after_it_records_a_graph(size):
    pairs = _pairs(4, *size)
    expected = Tvl1Torch(BALANCED, "cpu").match_batch(*pairs)
    solver = Tvl1Torch(BALANCED, "cuda")
    assert solver.steps is not EAGER
    runs = [solver.match_batch(*pairs) for _ in range(3)]
    assert (runs[0].cpu() - expected).abs().mean() < 2e-4
    assert torch.equal(runs[1], runs[0]) and torch.equal(runs[2], runs[0])
    other = solver.match_batch(*(images[::-1].copy() for images in pairs))
    assert torch.equal(other.flip(0), runs[0])


@needs_gpu
def test_a_gpu_keeps_few_graphs_and_stays_right_when_shapes_change():
    solver = Tvl1Torch(BALANCED, "cuda")
    shapes = [(1 + k % 3, 20 + 2 * k, 30) for k in range(12)]
    once = [solver.match_batch(*_pairs(*shape)) for shape in shapes]
    assert len(solver._graphs) <= tvl1_torch.GRAPHS
    for _ in range(2):
        for shape, flow in zip(shapes[-4:], once[-4:], strict=True):
            assert torch.equal(solver.match_batch(*_pairs(*shape)), flow)


def test_graphs_are_recorded_at_the_second_call_of_a_shape_and_kept_for_many_shapes(monkeypatch):
    """A GPU is imitated: what is recorded is counted, and solved by the plain steps."""
    recorded = []

    class Graph:
        def __init__(self, solve, shape, plan, pool):
            recorded.append(shape)
            self.solve, self.plan = solve, plan

        def __call__(self, first, second):
            return self.solve(first, second, self.plan)

    solver = Tvl1Torch(PRESETS["fast"], "cpu")
    monkeypatch.setattr(tvl1_torch, "_Graph", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    solver.device, solver.steps = SimpleNamespace(type="cuda"), None
    monkeypatch.setattr(solver, "_solve", lambda first, second, plan: torch.zeros(*first.shape, 2))
    shapes = [(1, 16, 16 + width) for width in range(tvl1_torch.GRAPHS)]
    for _ in range(4):
        for shape in shapes:
            solver._solve_chunk(torch.zeros(shape), torch.zeros(shape), [])
    assert recorded == shapes
    for _ in range(2):
        solver._solve_chunk(torch.zeros(1, 16, 99), torch.zeros(1, 16, 99), [])
    assert len(solver._graphs) == tvl1_torch.GRAPHS and shapes[0] not in solver._graphs


def test_a_sequence_is_solved_in_chunks(monkeypatch):
    images = list(_pairs(6, 32, 40)[0])
    solver = Tvl1Torch(PRESETS["fast"], "cpu")
    one_by_one = [solver(first, second) for first, second in itertools.pairwise(images)]
    batches = []
    solve = solver.match_batch
    monkeypatch.setattr(solver, "match_batch", lambda *pairs: batches.append(len(pairs[0])) or solve(*pairs))
    monkeypatch.setattr(solver, "_chunk_pairs", lambda height, width: 2)
    assert all((a == b).all() for a, b in zip(solver.sequence(iter(images)), one_by_one, strict=True))
    assert batches == [2, 2, 1]
