"""TV-L1 flow of many pairs at once in PyTorch, on the CPU or a GPU; `__init__.py` explains the algorithm.

A solve consists of the steps `resample`, `linearize`, `fit_exposure`, `relax` and `median` over complete levels, and
`encode`, which makes 8-bit codes of the flow. Here they are plain tensor operations, as close to the formulas as
possible; `triton.py` has the same steps as kernels for a GPU. All arithmetic is in 32 bit, except the sums in
`fit_exposure`, which are in 64. A pair's flow does not depend on the rest of its batch.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from twostream.errors import reason
from twostream.flow.batch import BatchSolver, encode
from twostream.flow.methods.tvl1 import Recipe, enlarge_taps, pyramid_sizes, shrink_taps, smoothing_taps, warp_schedule

Taps = tuple[Tensor, Tensor]
"""The t taps of n new pixels along one side of an image: int32 indices [n, t] and float32 weights [n, t]."""

_CHUNK_PX = {"cpu": 1 << 18, "cuda": 1 << 23}  # pixels solved at once; each takes about 150 bytes
_CHUNK_PAIRS = 4096  # a CUDA grid has at most 65535 layers, and each plane of a pair takes one
GRAPHS = 32  # real data sets have a dozen frame sizes; recording one again costs as much as many solves
# Sorting networks: pairs of positions to compare and exchange, in order.
_NETWORKS = {
    3: ((0, 1), (1, 2), (0, 1)),
    5: ((0, 1), (3, 4), (2, 4), (2, 3), (0, 3), (0, 2), (1, 4), (1, 3), (1, 2)),
}


class Rates(NamedTuple):
    """Step sizes tau of the flow and sigma of the duals, the Huber factor, and bound and factor of the data step."""

    tau: float
    sigma: float
    shrinkage: float
    limit: float
    blend: float


class Linear(NamedTuple):
    """The linearized data term: gradient [B, 2, H, W], constant float32 [B, H, W], weight of smoothness [B, H, W]."""

    gradient: Tensor
    constant: Tensor
    weight: Tensor


class Exposure(NamedTuple):
    """Gain and offset, both float32 [B], that fit the grey levels of the second images to the first."""

    gain: Tensor
    offset: Tensor


class Steps(NamedTuple):
    """An implementation of the steps; see the functions of the same names below.

    `encode` takes the flow [B, 2, H, W] and the bound of the codes, and returns them as `BatchSolver.code_batch` does.
    """

    resample: Callable[[Tensor, Taps, Taps], Tensor]
    linearize: Callable[[Tensor, Tensor, Tensor, float, Exposure], Linear]
    fit_exposure: Callable[[Tensor, Tensor, Linear, Exposure, int, int], Exposure]
    relax: Callable[[Tensor, Tensor, Linear, int, Rates], tuple[Tensor, Tensor]]
    median: Callable[[Tensor, int], Tensor]
    encode: Callable[[Tensor, float], Tensor]


class _Level(NamedTuple):
    """Size (height, width) of a level, and taps of rows and columns: from the finer level to it, and back.

    On the finest level, `shrink` is the Gaussian filter of the images.
    """

    size: tuple[int, int]
    shrink: tuple[Taps, ...] = ()
    enlarge: tuple[Taps, ...] = ()


class Tvl1Torch(BatchSolver):
    """TV-L1 in batches of pairs of one size.

    Args:
        recipe: the parameters, as for the CPU solver.
        device: `cpu`, or `cuda` for the current GPU.
        steps: None for the fastest implementation that works on the device.
    """

    def __init__(self, recipe: Recipe, device: torch.device | str, steps: Steps | None = None) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        self.steps = steps or _fastest_steps(recipe, self.device)
        self._plan = functools.lru_cache(4 * GRAPHS)(self._new_plan)
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()
        self._seen: set[tuple[int, ...]] = set()  # shapes for which the kernels are compiled
        self._pool: Any = None  # of the memory of all graphs

    @torch.inference_mode()
    def match_batch(self, first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Tensor:
        """Return the flow of pairs uint8 [B, H, W], on any device: float32 [B, H, W, 2] pixels on the solver's device.

        Large batches are solved in chunks, so that memory beyond the flow itself is bounded (about 1.3 GB on a GPU and
        0.1 GB per graph, unless one pair alone takes more). On a GPU the second chunk of a shape is recorded as a CUDA
        graph, which is replayed from then on, for the 32 shapes used last: use few different shapes. Only one thread
        at a time may use a solver.
        """
        flow = torch.empty(*first.shape, 2, device=self.device)
        for chunk, solved in self._solve_chunks(first, second):
            flow[chunk] = solved.permute(0, 2, 3, 1)
        return flow

    @torch.inference_mode()
    def code_batch(self, first: Tensor | np.ndarray, second: Tensor | np.ndarray, bound_px: float) -> Tensor:
        """Return the 8-bit codes of the flow of pairs, as :meth:`BatchSolver.code_batch`, solved as `match_batch`."""
        return torch.cat([self.steps.encode(flow, bound_px) for _, flow in self._solve_chunks(first, second)])

    def sequence(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the flow of every image to the next, solved in chunks of pairs."""
        images = iter(images)
        chunk = list(itertools.islice(images, 1))
        while chunk:
            chunk += itertools.islice(images, self._chunk_pairs(*chunk[0].shape))
            if len(chunk) == 1:
                return
            stacked = np.stack(chunk)
            yield from self.match_batch(stacked[:-1], stacked[1:]).cpu().numpy()
            chunk = chunk[-1:]

    def _solve_chunks(self, first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of the pairs with their flow [B, 2, H, W], which the next chunk overwrites."""
        count, height, width = first.shape
        plan = self._plan(height, width)
        most = self._chunk_pairs(height, width)
        for start in range(0, count, most):
            chunk = slice(start, start + most)
            yield chunk, self._solve_chunk(self._moved(first[chunk]), self._moved(second[chunk]), plan)

    def _chunk_pairs(self, height: int, width: int) -> int:
        return min(max(1, _CHUNK_PX[self.device.type] // (height * width)), _CHUNK_PAIRS)

    def _moved(self, images: Tensor | np.ndarray) -> Tensor:
        if isinstance(images, np.ndarray):  # copied: torch takes neither mirrored nor read-only arrays
            images = torch.from_numpy(np.array(images, order="C"))
        return images.to(self.device)

    def _new_plan(self, height: int, width: int) -> list[_Level]:
        sizes = pyramid_sizes(height, width, self.recipe)
        levels = [_Level(sizes[0])]
        for fine, coarse in zip(sizes, sizes[1:], strict=False):
            shrink, enlarge = (
                tuple(self._table(*taps(side, other)) for side, other in zip(source, target, strict=True))
                for taps, source, target in ((shrink_taps, fine, coarse), (enlarge_taps, coarse, fine))
            )
            levels.append(_Level(coarse, shrink, enlarge))
        if self.recipe.presmooth > 0:
            smooth = tuple(self._table(*_smoothing(side, self.recipe.presmooth)) for side in sizes[0])
            levels[0] = _Level(sizes[0], smooth)
        return levels

    def _table(self, index: np.ndarray, weights: np.ndarray) -> Taps:
        index, weights = np.ascontiguousarray(index, np.int32), np.ascontiguousarray(weights, np.float32)
        return torch.tensor(index, device=self.device), torch.tensor(weights, device=self.device)

    def _solve_chunk(self, first: Tensor, second: Tensor, plan: list[_Level]) -> Tensor:
        if self.device.type != "cuda" or self.steps is EAGER:
            return self._solve(first, second, plan)
        shape = tuple(first.shape)
        if shape not in self._seen:  # the first call compiles kernels, which must not happen while a graph is recorded
            self._seen.add(shape)
            return self._solve(first, second, plan)
        if shape not in self._graphs:
            if not self._graphs:  # a pool dies with its last graph
                self._pool = torch.cuda.graph_pool_handle()
            self._graphs[shape] = _Graph(self._solve, shape, plan, self._pool)
            if len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        return self._graphs[shape](first, second)

    def _solve(self, first: Tensor, second: Tensor, plan: list[_Level]) -> Tensor:
        return self._match(self._pyramid(first, plan), self._pyramid(second, plan), plan)

    def _pyramid(self, images: Tensor, plan: list[_Level]) -> list[Tensor]:
        images = images.float()
        pyramid = []
        for level in plan:
            if level.shrink:
                images = self.steps.resample(images, *level.shrink)
            pyramid.append(images)
        return pyramid

    def _match(self, first: list[Tensor], second: list[Tensor], plan: list[_Level]) -> Tensor:
        recipe, steps = self.recipe, self.steps
        rates = rates_of(recipe)
        edge = recipe.edge**-2 if recipe.edge else 0.0
        count = len(first[0])
        exposure = Exposure(torch.ones(count, device=self.device), torch.zeros(count, device=self.device))
        flow = torch.zeros(count, 2, *plan[-1].size, device=self.device)  # x, y
        dual = torch.zeros(count, 4, *plan[-1].size, device=self.device)  # of x along x and y; of y along x and y
        for warp in warp_schedule(recipe, len(plan)):
            coarsest = warp.level == len(plan) - 1
            if warp.first and not coarsest:
                flow, dual = self._enlarged(flow, dual, plan[warp.level], plan[warp.level + 1])
            images = first[warp.level], second[warp.level]
            data = steps.linearize(*images, flow, edge, exposure)
            if warp.exposure:
                exposure = steps.fit_exposure(images[0], flow, data, exposure, *warp.exposure)
                if coarsest:
                    data = steps.linearize(*images, flow, edge, exposure)
            flow, dual = steps.relax(flow, dual, data, warp.iterations, rates)
            if recipe.median > 1:
                flow = steps.median(flow, recipe.median)
        return flow

    def _enlarged(self, flow: Tensor, dual: Tensor, fine: _Level, coarse: _Level) -> tuple[Tensor, Tensor]:
        """Return flow and dual variables of a level as the next finer one starts from them."""
        flow[:, 0] *= fine.size[1] / coarse.size[1]
        flow[:, 1] *= fine.size[0] / coarse.size[0]
        flow, dual = (self.steps.resample(variable, *coarse.enlarge) for variable in (flow, dual))
        dual[:, 0::2, :, -1] = 0  # there are no differences across the border
        dual[:, 1::2, -1] = 0
        return flow, dual


def _smoothing(side: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    distance = np.arange(-2, 3)
    index = (np.arange(side)[:, None] + distance).clip(0, side - 1)
    return index, np.broadcast_to(smoothing_taps(sigma)[abs(distance)], index.shape)


def rates_of(recipe: Recipe) -> Rates:
    sigma = 1 / (6 * recipe.tau)
    reach = recipe.tau + recipe.theta
    return Rates(recipe.tau, sigma, 1 / (1 + sigma * recipe.epsilon), reach * recipe.lambda_, recipe.tau / reach)


class _Graph:
    """The solve of one shape, recorded as a CUDA graph.

    The flow is overwritten by the next call, and graphs share memory: use it before any graph of the solver is called.
    """

    def __init__(self, solve: Callable[..., Tensor], shape: tuple[int, ...], plan: list[_Level], pool: Any) -> None:
        self._plan = plan  # the graph reads these tables: keep them alive
        self._inputs = torch.zeros(2, *shape, dtype=torch.uint8, device="cuda")
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._flow = solve(*self._inputs, plan)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        self._inputs[0].copy_(first)
        self._inputs[1].copy_(second)
        self._graph.replay()
        return self._flow


@functools.lru_cache(16)
def _fastest_steps(recipe: Recipe, device: torch.device) -> Steps:
    """Return the Triton kernels on a GPU where they compile and agree with the plain steps, else the plain steps."""
    if device.type != "cuda":
        return EAGER
    noise = torch.randint(256, (2, 40, 56), generator=torch.Generator().manual_seed(0))
    texture = (noise + noise.roll(1, 1) + noise.roll(1, 2) + noise.roll((1, 1), (1, 2))) // 4
    images = texture.byte(), texture.roll(1, 2).byte()
    try:
        from twostream.flow.methods.tvl1.triton import KERNELS

        plain = Tvl1Torch(recipe, device, EAGER).match_batch(*images)
        solver = Tvl1Torch(recipe, device, KERNELS)
        for _ in range(2):  # the second call runs as a graph
            difference_px = float((solver.match_batch(*images) - plain).abs().mean())
            if not difference_px < 0.02:
                raise ArithmeticError(f"their flow differs by {difference_px:.3g} px")
        solver.code_batch(*images, 8.0)
    except Exception as error:  # without a compiler or a driver, or on an old GPU, each library has its own exception
        warnings.warn(f"tvl1: its GPU kernels do not work here ({reason(error)}); using slower ones", stacklevel=2)
        return EAGER
    return KERNELS


def resample(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Return images float32 [..., H, W] resampled to [..., h, w], rows first."""
    for dim, (index, weights) in ((-2, rows), (-1, columns)):
        shape = (-1, 1) if dim == -2 else (-1,)
        taps = zip(index.unbind(1), weights.unbind(1), strict=True)
        images = sum(images.index_select(dim, tap) * weight.reshape(shape) for tap, weight in taps)  # type: ignore
    return images


def linearize(first: Tensor, second: Tensor, flow: Tensor, edge: float, exposure: Exposure) -> Linear:
    """Return the data term linearized around a flow [B, 2, H, W] (IPOL 2013, eq. 8), for images float32 [B, H, W].

    The second image and its derivatives come from a Catmull-Rom cubic at the point to which the flow leads, the
    derivatives of the first image from five-point differences; the gradient is the mean of both. Where the flow leaves
    the image, the data term is zero.

    Args:
        edge: 1 / g**2 for the image gradient g, in grey levels per pixel, at which the weight of smoothness is 0.7.
    """
    height, width = first.shape[1:]
    u, v = flow.unbind(1)
    # The end (x + u, y + v) of each flow vector, clamped to the image, as whole pixels and a fraction.
    to_x = u + torch.arange(width, device=flow.device)
    to_y = v + torch.arange(height, device=flow.device)[:, None]
    at_x, at_y = to_x.clamp(0, width - 1), to_y.clamp(0, height - 1)
    inside = (to_x == at_x) & (to_y == at_y)
    whole_x, whole_y = at_x.floor(), at_y.floor()

    padded = _repeated(second, 2)
    corner = (whole_y.long() + 1) * (width + 4) + whole_x.long() + 1  # of the 4 x 4 pixels around, in `padded`
    padded = padded.flatten(1)
    across, slope_across = _spline(at_x - whole_x), _spline_slope(at_x - whole_x)
    down, slope_down = _spline(at_y - whole_y), _spline_slope(at_y - whole_y)
    value = slope_x = slope_y = torch.zeros_like(at_x)
    for row in range(4):
        start = corner + row * (width + 4)
        pixels = [padded.gather(1, (start + column).flatten(1)).view_as(start) for column in range(4)]
        line = sum(weight * pixel for weight, pixel in zip(across, pixels, strict=True))
        slope = sum(weight * pixel for weight, pixel in zip(slope_across, pixels, strict=True))
        value = value + down[row] * line
        slope_x = slope_x + down[row] * slope
        slope_y = slope_y + slope_down[row] * line

    gain, offset = (factor[:, None, None] for factor in exposure)
    value, slope_x, slope_y = gain * value + offset, gain * slope_x, gain * slope_y
    near = _repeated(first, 2)
    own_x, own_y = _five_point(near[:, 2:-2], -1), _five_point(near[..., 2:-2], -2)
    gradient = torch.stack([own_x + slope_x, own_y + slope_y], 1) * (0.5 * inside[:, None])
    # The residual of a new flow w is I1(x + flow) - I0(x) + gradient . (w - flow) = constant + gradient . w.
    constant = inside * (value - first) - (gradient * flow).sum(1)
    weight = (1 + edge * (own_x.square() + own_y.square())).rsqrt()
    return Linear(gradient, constant, weight)


def fit_exposure(first: Tensor, flow: Tensor, data: Linear, exposure: Exposure, rounds: int, row_step: int) -> Exposure:
    """Return gain and offset that fit the second images to the first, from the data term linearized with `exposure`.

    They match the weighted means and standard deviations of both images. The weight of a pixel is 1 / (1 + |residual|),
    so that moving and appearing objects hardly count.

    Args:
        rounds: number of times that the weights are computed from the latest gain and offset.
        row_step: use every `row_step`-th row.
    """
    gradient = data.gradient[:, :, ::row_step]
    change = data.constant[:, ::row_step] + (gradient * flow[:, :, ::row_step]).sum(1)
    known = (gradient != 0).any(1) | (change != 0)  # the data term is zero where the flow leaves the image
    target = first[:, ::row_step].double()
    value = change + target
    gain, offset = torch.ones_like(target), torch.zeros_like(target)
    for _ in range(rounds):
        weight = known / (1 + (gain * value + offset - target).abs())
        weight = weight / (_total(weight) + 1e-9)
        mean, mean_target = _total(weight * value), _total(weight * target)
        variance, variance_target = _total(weight * value**2) - mean**2, _total(weight * target**2) - mean_target**2
        gain = ((variance_target + 1) / (variance + 1)).sqrt()
        offset = mean_target - gain * mean
    gain, offset = gain.flatten(), offset.flatten()
    return Exposure((gain * exposure.gain).float(), (gain * exposure.offset + offset).float())


def _total(values: Tensor) -> Tensor:
    return values.sum((1, 2), keepdim=True)


def relax(flow: Tensor, dual: Tensor, data: Linear, count: int, rates: Rates) -> tuple[Tensor, Tensor]:
    """Return flow and dual variables after `count` iterations of Chambolle & Pock's algorithm 1 (2011, theta = 1).

    Args:
        flow: [B, 2, H, W], x and y.
        dual: [B, 4, H, W], of the flow's x along x and y, and of its y along x and y; zero across the right and lower
            border.
    """
    gradient, constant, weight = data.gradient, data.constant, data.weight[:, None]
    inverse = 1 / (gradient.square().sum(1) + 1e-6)
    ahead = flow
    for _ in range(count):
        # Dual ascent along the gradient of the extrapolated flow, then back into the (Huber) ball of radius `weight`.
        slope = dual.unflatten(1, (2, 2))  # [B, flow's x or y, along x or y, H, W]
        by_x, by_y = slope[:, :, 0].clone(), slope[:, :, 1].clone()
        by_x[..., :-1] += rates.sigma * ahead.diff(dim=-1)
        by_y[..., :-1, :] += rates.sigma * ahead.diff(dim=-2)
        fit = (weight * (by_x.square() + by_y.square() + 1e-12).rsqrt()).clamp(max=rates.shrinkage)
        slope = torch.stack([by_x * fit, by_y * fit], 2)
        dual = slope.flatten(1, 2)

        # Primal descent along the divergence of the duals.
        pull = slope.sum(2)
        pull[..., 1:] -= slope[:, :, 0, :, :-1]
        pull[..., 1:, :] -= slope[:, :, 1, :-1]
        moved = flow + rates.tau * pull
        # Proximal step of the Huberised data term: along the image gradient, bounded.
        residual = constant + (gradient * moved).sum(1)
        step = rates.blend * (-residual * inverse).clamp(-rates.limit, rates.limit)
        moved += gradient * step[:, None]
        ahead = 2 * moved - flow  # extrapolation
        flow = moved
    return flow, dual


def median(flow: Tensor, size: int) -> Tensor:
    """Return the median over `size` x `size` pixels, 3 or 5, of [B, 2, H, W] with repeated borders.

    The square of neighbours is sorted along its rows and then along its columns. The median of all is the median of
    three values: the largest just above the antidiagonal, the median of the antidiagonal, and the smallest just below
    it. Every other value has too many values that are surely larger, or too many that are surely smaller.
    """
    height, width = flow.shape[-2:]
    padded = _repeated(flow, size // 2)
    lines = _sorted([padded[..., k : k + width] for k in range(size)])
    square = [_sorted([line[..., k : k + height, :] for k in range(size)]) for line in lines]
    low, middle, high = (
        [square[i][total - i] for i in range(size) if 0 <= total - i < size] for total in (size - 2, size - 1, size)
    )
    largest, smallest = functools.reduce(torch.maximum, low), functools.reduce(torch.minimum, high)
    return _sorted([largest, _sorted(middle)[size // 2], smallest])[1]


def _encode(flow: Tensor, bound_px: float) -> Tensor:
    return encode(flow.transpose(1, 2), bound_px)


EAGER = Steps(resample, linearize, fit_exposure, relax, median, _encode)


def _repeated(images: Tensor, margin: int) -> Tensor:
    """Return [..., H, W] with its border pixels repeated `margin` times on all sides."""
    for dim in (-2, -1):
        side = images.shape[dim]
        index = torch.arange(-margin, side + margin, device=images.device).clamp(0, side - 1)
        images = images.index_select(dim, index)
    return images


def _five_point(image: Tensor, dim: int) -> Tensor:
    """Return the derivative along a dimension, exact for cubics, without the two outer pixels on both sides."""
    before2, before, _, after, after2 = (image.narrow(dim, k, image.shape[dim] - 4) for k in range(5))
    return (8 * (after - before) - (after2 - before2)) / 12


def _spline(a: Tensor) -> tuple[Tensor, ...]:
    """Return the Catmull-Rom (1974) weights of four pixels in a row, at a fraction `a` after the second."""
    return (
        ((1 - 0.5 * a) * a - 0.5) * a,
        (1.5 * a - 2.5) * a * a + 1,
        ((2 - 1.5 * a) * a + 0.5) * a,
        (0.5 * a - 0.5) * a * a,
    )


def _spline_slope(a: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives of those weights."""
    return (2 - 1.5 * a) * a - 0.5, (4.5 * a - 5) * a, (4 - 4.5 * a) * a + 0.5, (1.5 * a - 1) * a


def _sorted(values: list[Tensor]) -> list[Tensor]:
    """Return tensors of one shape sorted element by element."""
    values = list(values)
    for i, j in _NETWORKS[len(values)]:
        values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])
    return values
