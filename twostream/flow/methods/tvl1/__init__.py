"""TV-L1 flow: minimise total variation of the flow plus the absolute difference of the images, from coarse to fine.

The energy is that of Zach, Pock & Bischof (2007, eq. 4) in the formulation of Sanchez, Meinhardt-Llopis & Facciolo
(IPOL 2013, eq. 2): the image difference, linearized around a warp, in the L1 norm, coupled to a flow of small total
variation. Four changes reach a smaller error in a fraction of the time:

- The coupling variable is eliminated: its minimum is the Moreau envelope of the L1 norm, for which Chambolle & Pock's
  primal-dual algorithm (2011, algorithm 1) has a closed-form proximal step. There is one loop instead of two nested
  ones, and the dual variables are kept across warps and levels.
- Total variation is Huber's (Werlberger et al. 2009), and weaker across the edges of the image (Wedel et al. 2009).
- Each level has half the size of the one below. Cubic interpolation warps the second image, the gradient is the mean of
  both images', and a 5x5 median of the flow follows every warp (Wedel et al. 2008).
- A change of exposure between the images is estimated robustly from level to level and compensated.

Two back ends compute the same flow: `Tvl1Cpu` with the kernels of `cpu.py`, and `torch.py` in batches on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twostream.flow import Solver

if TYPE_CHECKING:
    from twostream.params import Tvl1

SMALLEST = 14  # pixels: the shorter side of every level but the finest has at least so many


@dataclass(frozen=True)
class Recipe:
    """Parameters of the algorithm, for images in grey levels from 0 to 255.

    Attributes:
        lambda_: weight of the image difference against the total variation of the flow.
        theta: residual, in units of lambda and the squared gradient, up to which the difference counts quadratically.
        tau: step size of the flow; the dual variables' is 1 / (6 tau), the largest for which the iteration converges.
        epsilon: flow gradient below which smoothness counts quadratically: the Huber threshold.
        edge: image gradient, in grey levels per pixel, at which the weight of smoothness is 0.7; 0: 1 everywhere.
        exposure: whether a change of brightness and contrast between the images is compensated.
        presmooth: standard deviation, in pixels, of a Gaussian filter over the images.
        scales, scale_step: largest number of pyramid levels, and the ratio of a level's size to that of the one below.
        warps, iterations: warps per level and iterations per warp, finest level first; the last value holds for all
            coarser levels.
        median: side in pixels of the flow's median filter after each warp; 1: none.
    """

    lambda_: float
    theta: float
    tau: float
    epsilon: float
    edge: float
    exposure: bool
    presmooth: float
    scales: int
    scale_step: float
    warps: tuple[int, ...]
    iterations: tuple[int, ...]
    median: int


_BALANCED = Recipe(
    lambda_=0.39,
    theta=0.25,
    tau=0.33,
    epsilon=0.03,
    edge=12.0,
    exposure=True,
    presmooth=0.5,
    scales=20,
    scale_step=0.5,
    warps=(2, 3),
    iterations=(12,),
    median=5,
)
PRESETS = {
    "fast": replace(_BALANCED, lambda_=0.29, warps=(1,), iterations=(10, 20)),
    "balanced": _BALANCED,
    "accurate": replace(_BALANCED, lambda_=0.3, tau=0.7, warps=(5,), iterations=(25,)),
}


def solver(settings: Tvl1, device: str = "cpu") -> Solver:
    """Return the solver for a device, `cpu` or `cuda`."""
    recipe = recipe_of(settings)
    if device == "cpu":
        return Tvl1Cpu(recipe)
    return importlib.import_module("twostream.flow.methods.tvl1.torch").Tvl1Torch(recipe, device)


def recipe_of(settings: Tvl1) -> Recipe:
    """Return the preset with every setting that is not None in place of the preset's."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(Recipe)}
    for name in ("warps", "iterations"):
        if chosen[name] is not None:
            chosen[name] = tuple(chosen[name]) if isinstance(chosen[name], list) else (chosen[name],)
    return replace(PRESETS[settings.preset], **{name: value for name, value in chosen.items() if value is not None})


def pyramid_sizes(height: int, width: int, recipe: Recipe) -> list[tuple[int, int]]:
    """Return (height, width) of every level, the finest first."""
    sizes = [(height, width)]
    while len(sizes) < recipe.scales:
        factor = recipe.scale_step ** len(sizes)
        smaller = (round(height * factor), round(width * factor))
        if min(smaller) < SMALLEST:
            break
        sizes.append(smaller)
    return sizes


class Warp(NamedTuple):
    """One warp of the second image, and what belongs to it.

    Attributes:
        level: index of the pyramid level, 0 for the finest.
        first: whether it is the first warp of its level.
        iterations: iterations of the primal-dual algorithm that follow.
        exposure: (rounds, row step) with which the exposure is estimated from this warp, or None for not at all.
    """

    level: int
    first: bool
    iterations: int
    exposure: tuple[int, int] | None


def warp_schedule(recipe: Recipe, levels: int) -> Iterator[Warp]:
    """Yield the warps of a solve in order, from the coarsest level to the finest.

    Exposure is estimated from the first warp of each level and used from the next warp on. On the finest level with a
    single warp nothing would use it. The coarsest level starts without an estimate: it takes three rounds of
    reweighting, and its first warp is repeated with the result. Finer levels refine the estimate in one round. The
    finest level has the most pixels and reads every fourth row, which is plenty for two numbers.
    """
    for level in reversed(range(levels)):
        coarsest = level == levels - 1
        # The last value of a list holds for all coarser levels.
        warps = recipe.warps[min(level, len(recipe.warps) - 1)]
        iterations = recipe.iterations[min(level, len(recipe.iterations) - 1)]
        used = recipe.exposure and (coarsest or level > 0 or warps > 1)
        exposure = (3 if coarsest else 1, 1 if level else 4) if used else None
        for warp in range(warps):
            yield Warp(level, warp == 0, iterations, exposure if warp == 0 else None)


def smoothing_taps(sigma: float) -> np.ndarray:
    """Return the weights of a five-tap Gaussian at distance 0, 1 and 2, float32 [3]."""
    taps = np.exp(-0.5 * (np.arange(3) / sigma) ** 2) if sigma else np.array([1.0, 0.0, 0.0])
    return (taps / (taps[0] + 2 * taps[1] + 2 * taps[2])).astype(np.float32)


@functools.lru_cache(256)
def shrink_taps(size: int, smaller: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the taps that make `smaller` pixels out of `size`: int64 indices and float32 weights, [smaller, taps].

    The filter is a triangle that reaches one new pixel to either side, as usual against aliasing.
    """
    scale = size / smaller
    centers = (np.arange(smaller) + 0.5) * scale - 0.5
    index = np.ceil(centers - scale).astype(int)[:, None] + np.arange(int(np.ceil(2 * scale)) + 1)
    weights = np.maximum(0, 1 - np.abs(index - centers[:, None]) / scale)
    used = weights.any(axis=0)
    weights = weights[:, used] / weights.sum(axis=1, keepdims=True)
    return index[:, used].clip(0, size - 1), weights.astype(np.float32)


@functools.lru_cache(256)
def enlarge_taps(size: int, enlarged: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear taps that make `enlarged` pixels of `size`: int64 indices, float32 weights, [enlarged, 2]."""
    centers = (np.arange(enlarged) + 0.5) * (size / enlarged) - 0.5
    left = np.floor(centers).astype(int)
    fraction = (centers - left).astype(np.float32)
    return np.stack([left, left + 1], axis=1).clip(0, size - 1), np.stack([1 - fraction, fraction], axis=1)


_Workspace = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


class Tvl1Cpu(Solver):
    """The solver for the CPU: one pair at a time, on one thread, with working memory that is kept from pair to pair."""

    def __init__(self, recipe: Recipe) -> None:
        self._kernels = importlib.import_module("twostream.flow.methods.tvl1.cpu")
        self._recipe = recipe
        self._kept = threading.local()  # working memory for the latest size

    def prepare(self, image: np.ndarray) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
        """Return the sizes of the image's pyramid and its levels in the layout of `cpu.py`, the finest first."""
        k = self._kernels
        height, width = image.shape
        sizes = pyramid_sizes(height, width, self._recipe)
        stride = k.stride_of(width)
        level = np.zeros((height + 4) * stride, np.float32)
        level.reshape(height + 4, stride)[2:-2, k.LANES : k.LANES + width] = image
        k.repeat_border(level, height, width, stride)
        row = np.zeros(stride, np.float32)
        if self._recipe.presmooth:
            sharp, level = level, np.zeros_like(level)
            k.blur(sharp, level, row, height, width, stride, *smoothing_taps(self._recipe.presmooth))
            k.repeat_border(level, height, width, stride)
        levels = [level]
        for (h0, w0), (h, w) in itertools.pairwise(sizes):
            stride = k.stride_of(w)
            level = np.zeros((h + 4) * stride, np.float32)
            k.shrink(levels[-1], k.stride_of(w0), *shrink_taps(h0, h), *shrink_taps(w0, w), row, level, stride)
            k.repeat_border(level, h, w, stride)
            levels.append(level)
        return sizes, levels

    def match(self, first, second) -> np.ndarray:
        """Return the flow [H, W, 2] between two prepared images of the same size."""
        k, recipe = self._kernels, self._recipe
        (sizes, first_levels), (_, second_levels) = first, second
        steps = _step_sizes(recipe)
        edge = np.float32(recipe.edge**-2 if recipe.edge else 0)
        exposure = 1.0, 0.0  # gain and offset of the second image
        workspace = self._workspace(sizes)
        for warp in warp_schedule(recipe, len(sizes)):
            (height, width), (state, mask, rows) = sizes[warp.level], workspace[warp.level]
            size = height, width, k.stride_of(width)
            if warp.first:
                self._start_level(warp.level, sizes, workspace)
            images = first_levels[warp.level], second_levels[warp.level]
            k.linearize(*images, state, *size, edge, *exposure)
            if warp.exposure:
                exposure = k.fit_exposure(images[0], state, *size, *warp.exposure, *exposure)
                if warp.level == len(sizes) - 1:
                    k.linearize(*images, state, *size, edge, *exposure)
            k.relax(state, mask, *size, warp.iterations, *steps)
            self._filter(state, rows, *size)
        flow = np.empty((*sizes[0], 2), np.float32)
        k.read_flow(workspace[0][0], flow, *sizes[0], k.stride_of(sizes[0][1]))
        return flow

    def _start_level(self, level: int, sizes: list[tuple[int, int]], workspace: _Workspace) -> None:
        """Set flow and dual variables to zero on the coarsest level, else to those of the coarser level, enlarged."""
        k, (height, width), (state, _, rows) = self._kernels, sizes[level], workspace[level]
        if level == len(sizes) - 1:
            state[:] = 0
            return
        coarse, (h, w) = workspace[level + 1][0], sizes[level + 1]
        taps = *enlarge_taps(h, height), *enlarge_taps(w, width)
        gains = np.float32(width / w), np.float32(height / h)
        k.enlarge(coarse, w, k.stride_of(w), state, k.stride_of(width), *taps, rows, *gains)
        k.clear_edges(state, height, width, k.stride_of(width))

    def _filter(self, state: np.ndarray, rows: np.ndarray, height: int, width: int, stride: int) -> None:
        k = self._kernels
        if self._recipe.median == 1:
            k.keep_flow(state, height, width, stride)
            return
        k.repeat_flow_border(state, height, width, stride)
        median = k.median5 if self._recipe.median == 5 else k.median3
        median(state, rows, height, width, stride)

    def _workspace(self, sizes: list[tuple[int, int]]) -> _Workspace:
        """Return state, mask of right neighbours and spare rows of every level, this thread's for the latest sizes."""
        k = self._kernels
        if getattr(self._kept, "sizes", None) != sizes:
            self._kept.sizes, self._kept.levels = sizes, []
            for height, width in sizes:
                stride = k.stride_of(width)
                mask = np.zeros(stride, np.float32)
                mask[k.LANES : k.LANES + width - 1] = 1
                state = np.zeros((height + 2) * k.PLANES * stride, np.float32)
                self._kept.levels.append((state, mask, np.zeros(25 * stride, np.float32)))
        return self._kept.levels


def _step_sizes(recipe: Recipe) -> tuple[np.float32, ...]:
    """Return tau, sigma, shrinkage, limit and blend as `cpu.relax` takes them."""
    sigma = np.float32(1 / (6 * recipe.tau))
    tau, theta, lambda_ = map(np.float32, (recipe.tau, recipe.theta, recipe.lambda_))
    shrinkage = 1 / (1 + sigma * np.float32(recipe.epsilon))
    return tau, sigma, shrinkage, (tau + theta) * lambda_, tau / (tau + theta)
