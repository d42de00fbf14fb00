"""The steps of TV-L1 flow as Triton kernels for a GPU; `torch.py` explains them, in plain tensor operations.

Rows of every result start at a multiple of `_ALIGNED` elements, so that rows are loaded and stored in wide accesses.
The padding between rows is never read as part of an image. Each program works on a tile of one image or plane; the
third axis of the grid counts these layers.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from twostream.flow.methods.tvl1.torch import Exposure, Linear, Rates, Steps, Taps

_ALIGNED = 16
OPTIONS = {"TILE_Y": 8, "TILE_X": 32, "num_warps": 4, "enable_fp_fusion": True}
STATE_BYTES = 80  # of an iteration, per pixel: flow, extrapolated flow and duals before and after it, and the data term
_CACHE_SHARE = 0.8  # of the L2 cache: the rest holds what other programs read


def resample(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    images = images if images.stride(-1) == 1 else images.contiguous()
    height, width = len(rows[0]), len(columns[0])
    result = _like(images, (*images.shape[:-2], height, width))
    _resample[_grid(result)](
        images,
        images.stride(-2),
        images.stride(-3),
        *rows,
        *columns,
        result,
        height,
        width,
        result.stride(-2),
        TAPS_Y=rows[0].shape[1],
        TAPS_X=columns[0].shape[1],
        **OPTIONS,
    )
    return result


def linearize(first: Tensor, second: Tensor, flow: Tensor, edge: float, exposure: Exposure) -> Linear:
    flow = _aligned(flow)
    count, _, height, width = flow.shape
    gradient = _like(flow, flow.shape)
    constant = _like(first, first.shape)
    weight = _like(flow, first.shape)
    _linearize[_grid(first)](
        first,
        second,
        first.stride(-2),
        flow,
        *exposure,
        gradient,
        constant,
        weight,
        height,
        width,
        flow.stride(-2),
        edge,
        **OPTIONS,
    )
    return Linear(gradient, constant, weight)


def fit_exposure(first: Tensor, flow: Tensor, data: Linear, exposure: Exposure, rounds: int, row_step: int) -> Exposure:
    flow, data = _aligned(flow), Linear(*map(_aligned, data))
    count, height, width = first.shape
    fitted = Exposure(torch.empty_like(exposure.gain), torch.empty_like(exposure.offset))
    _fit_exposure[(count,)](
        first,
        first.stride(-2),
        flow,
        data.gradient,
        data.constant,
        *exposure,
        *fitted,
        height,
        width,
        flow.stride(-2),
        ROUNDS=rounds,
        ROW_STEP=row_step,
        TILE=1024,
        num_warps=8,
    )
    return fitted


def relax(flow: Tensor, dual: Tensor, data: Linear, count: int, rates: Rates) -> tuple[Tensor, Tensor]:
    flow, dual, data = _aligned(flow), _aligned(dual), Linear(*map(_aligned, data))
    pairs, _, height, width = flow.shape
    result = _like(flow, flow.shape), _like(dual, dual.shape)
    at_once = _pairs_at_once(pairs, height * flow.stride(-2), flow.device)
    # An iteration must not overwrite what other tiles still read, so two sets of buffers take turns.
    flows, duals = (at_once, *flow.shape[1:]), (at_once, *dual.shape[1:])
    buffers = [(_like(flow, flows), _like(flow, flows), _like(dual, duals)) for _ in range(2)]
    for start in range(0, pairs, at_once):
        group = slice(start, start + at_once)
        old = flow[group], flow[group], dual[group]
        fixed = Linear(*(variable[group] for variable in data))
        for iteration in range(count):
            new_flow, ahead, new_dual = buffers[iteration % 2]
            if iteration == count - 1:
                new_flow, new_dual = (variable[group] for variable in result)
            new = new_flow, ahead, new_dual
            _relax[_grid(fixed.constant)](*old, *fixed, *new, height, width, flow.stride(-2), *rates, **OPTIONS)
            old = new
    return result


def _pairs_at_once(pairs: int, pixels: int, device: torch.device) -> int:
    """Return how many pairs to iterate together: as many as stay in the L2 cache, which is faster than the memory.

    All of them if so few pairs would not keep the GPU busy.
    """
    cache_bytes, processors = _cache(device)
    fitting = int(_CACHE_SHARE * cache_bytes) // (STATE_BYTES * pixels)
    if not fitting or fitting * pixels < 1024 * processors:  # a processor computes 1024 to 2048 pixels at a time
        return pairs
    return triton.cdiv(pairs, triton.cdiv(pairs, fitting))


@functools.cache
def _cache(device: torch.device) -> tuple[int, int]:
    """Return the bytes of the L2 cache of a GPU, and the number of its multiprocessors."""
    if device.type != "cuda":
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.L2_cache_size, properties.multi_processor_count


def median(flow: Tensor, size: int) -> Tensor:
    flow = _aligned(flow)
    height, width = flow.shape[-2:]
    result = _like(flow, flow.shape)
    kernel = {3: _median3, 5: _median5}[size]
    kernel[_grid(flow)](flow, result, height, width, flow.stride(-2), **OPTIONS)
    return result


def encode(flow: Tensor, bound_px: float) -> Tensor:
    flow = _aligned(flow)
    count, components, height, width = flow.shape
    codes = torch.empty(count, height, components, width, dtype=torch.uint8, device=flow.device)
    _encode[_grid(flow)](flow, codes, height, width, flow.stride(-2), 127.0 / bound_px, **OPTIONS)
    return codes


KERNELS = Steps(resample, linearize, fit_exposure, relax, median, encode)


def _grid(images: Tensor) -> tuple[int, int, int]:
    """Return the number of tiles along x (padding included) and y, and of layers."""
    *count, height, _ = images.shape
    width = images.stride(-2)
    return triton.cdiv(width, OPTIONS["TILE_X"]), triton.cdiv(height, OPTIONS["TILE_Y"]), torch.Size(count).numel()


def _like(model: Tensor, shape: tuple[int, ...], device: str | None = None) -> Tensor:
    """Return an empty tensor whose rows start at multiples of `_ALIGNED`."""
    pitch = triton.cdiv(shape[-1], _ALIGNED) * _ALIGNED
    return torch.empty(*shape[:-1], pitch, dtype=model.dtype, device=device or model.device)[..., : shape[-1]]


def _aligned(variable: Tensor) -> Tensor:
    """Return the variable itself if its rows are aligned as in `_like`, else a copy."""
    if variable.stride() == _like(variable, variable.shape, device="meta").stride():
        return variable
    return _like(variable, variable.shape).copy_(variable)


@triton.jit
def _pixels(TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    x = tl.program_id(0) * TILE_X + tl.arange(0, TILE_X)
    y = tl.program_id(1) * TILE_Y + tl.arange(0, TILE_Y)
    return y[:, None], x[None, :]


@triton.jit
def _resample(
    source,
    source_pitch,
    source_layer,
    rows,
    row_weights,
    columns,
    column_weights,
    result,
    height,
    width,
    pitch,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2)
    source += layer * source_layer
    inside = (y < height) & (x < width)
    total = tl.zeros((TILE_Y, TILE_X), tl.float32)
    for column in tl.static_range(TAPS_X):
        from_x = tl.load(columns + x * TAPS_X + column, mask=x < width, other=0)
        line = tl.zeros((TILE_Y, TILE_X), tl.float32)
        for row in tl.static_range(TAPS_Y):
            from_y = tl.load(rows + y * TAPS_Y + row, mask=y < height, other=0)
            part = tl.load(row_weights + y * TAPS_Y + row, mask=y < height, other=0.0)
            line += part * tl.load(source + from_y * source_pitch + from_x, mask=inside, other=0.0)
        total += tl.load(column_weights + x * TAPS_X + column, mask=x < width, other=0.0) * line
    tl.store(result + layer * height * pitch + y * pitch + x, total, mask=inside)


@triton.jit
def _spline(a, TAP: tl.constexpr):
    if TAP == 0:
        weight = ((1.0 - 0.5 * a) * a - 0.5) * a
    elif TAP == 1:
        weight = (1.5 * a - 2.5) * a * a + 1.0
    elif TAP == 2:
        weight = ((2.0 - 1.5 * a) * a + 0.5) * a
    else:
        weight = (0.5 * a - 0.5) * a * a
    return weight


@triton.jit
def _spline_slope(a, TAP: tl.constexpr):
    if TAP == 0:
        weight = (2.0 - 1.5 * a) * a - 0.5
    elif TAP == 1:
        weight = (4.5 * a - 5.0) * a
    elif TAP == 2:
        weight = (4.0 - 4.5 * a) * a + 0.5
    else:
        weight = (1.5 * a - 1.0) * a
    return weight


@triton.jit
def _pixel(image, y, x, height, width, pitch, inside):
    """Load pixels at any position; beyond the border, the border pixel."""
    y = tl.minimum(tl.maximum(y, 0), height - 1)
    x = tl.minimum(tl.maximum(x, 0), width - 1)
    return tl.load(image + y * pitch + x, mask=inside, other=0.0)


@triton.jit
def _linearize(
    first,
    second,
    image_pitch,
    flow,
    gains,
    offsets,
    gradient,
    constant,
    weight,
    height,
    width,
    pitch,
    edge,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2)
    plane = height * pitch
    first += layer * height * image_pitch
    second += layer * height * image_pitch
    flow += layer * 2 * plane
    gradient += layer * 2 * plane
    inside = (y < height) & (x < width)
    at = y * pitch + x
    u = tl.load(flow + at, mask=inside, other=0.0)
    v = tl.load(flow + plane + at, mask=inside, other=0.0)

    to_x, to_y = x + u, y + v
    at_x = tl.minimum(tl.maximum(to_x, 0.0), width - 1.0)
    at_y = tl.minimum(tl.maximum(to_y, 0.0), height - 1.0)
    seen = (to_x == at_x) & (to_y == at_y)
    whole_x, whole_y = tl.floor(at_x), tl.floor(at_y)
    a, b = at_x - whole_x, at_y - whole_y
    from_x, from_y = whole_x.to(tl.int32) - 1, whole_y.to(tl.int32) - 1
    value = tl.zeros((TILE_Y, TILE_X), tl.float32)
    slope_x = tl.zeros((TILE_Y, TILE_X), tl.float32)
    slope_y = tl.zeros((TILE_Y, TILE_X), tl.float32)
    for row in tl.static_range(4):
        line = tl.zeros((TILE_Y, TILE_X), tl.float32)
        slope = tl.zeros((TILE_Y, TILE_X), tl.float32)
        for column in tl.static_range(4):
            pixel = _pixel(second, from_y + row, from_x + column, height, width, image_pitch, inside)
            line += _spline(a, column) * pixel
            slope += _spline_slope(a, column) * pixel
        value += _spline(b, row) * line
        slope_x += _spline(b, row) * slope
        slope_y += _spline_slope(b, row) * line

    gain, offset = tl.load(gains + layer), tl.load(offsets + layer)
    here = _pixel(first, y, x, height, width, image_pitch, inside)
    left2 = _pixel(first, y, x - 2, height, width, image_pitch, inside)
    left = _pixel(first, y, x - 1, height, width, image_pitch, inside)
    right = _pixel(first, y, x + 1, height, width, image_pitch, inside)
    right2 = _pixel(first, y, x + 2, height, width, image_pitch, inside)
    above2 = _pixel(first, y - 2, x, height, width, image_pitch, inside)
    above = _pixel(first, y - 1, x, height, width, image_pitch, inside)
    below = _pixel(first, y + 1, x, height, width, image_pitch, inside)
    below2 = _pixel(first, y + 2, x, height, width, image_pitch, inside)
    own_x = (8.0 * (right - left) - (right2 - left2)) * (1.0 / 12.0)
    own_y = (8.0 * (below - above) - (below2 - above2)) * (1.0 / 12.0)
    gx = tl.where(seen, 0.5 * (own_x + gain * slope_x), 0.0)
    gy = tl.where(seen, 0.5 * (own_y + gain * slope_y), 0.0)
    tl.store(gradient + at, gx, mask=inside)
    tl.store(gradient + plane + at, gy, mask=inside)
    difference = tl.where(seen, gain * value + offset - here, 0.0)
    tl.store(constant + layer * plane + at, difference - (gx * u + gy * v), mask=inside)
    tl.store(weight + layer * plane + at, tl.rsqrt(1.0 + edge * (own_x * own_x + own_y * own_y)), mask=inside)


@triton.jit
def _fit_exposure(
    first,
    image_pitch,
    flow,
    gradient,
    constant,
    gains,
    offsets,
    new_gains,
    new_offsets,
    height,
    width,
    pitch,
    ROUNDS: tl.constexpr,
    ROW_STEP: tl.constexpr,
    TILE: tl.constexpr,
):
    """Compute `torch.fit_exposure`. One program adds up a whole pair, always in the same order."""
    pair = tl.program_id(0)
    plane = height * pitch
    first += pair * height * image_pitch
    flow += pair * 2 * plane
    gradient += pair * 2 * plane
    constant += pair * plane
    count = tl.cdiv(height, ROW_STEP) * width
    gain = tl.full((), 1.0, tl.float64)
    offset = tl.full((), 0.0, tl.float64)
    for _ in tl.static_range(ROUNDS):
        total = tl.zeros((TILE,), tl.float64)
        values = tl.zeros((TILE,), tl.float64)
        targets = tl.zeros((TILE,), tl.float64)
        squared_values = tl.zeros((TILE,), tl.float64)
        squared_targets = tl.zeros((TILE,), tl.float64)
        for start in range(0, count, TILE):
            pixel = start + tl.arange(0, TILE)
            inside = pixel < count
            y, x = pixel // width * ROW_STEP, pixel % width
            at = y * pitch + x
            gx = tl.load(gradient + at, mask=inside, other=0.0)
            gy = tl.load(gradient + plane + at, mask=inside, other=0.0)
            u = tl.load(flow + at, mask=inside, other=0.0)
            v = tl.load(flow + plane + at, mask=inside, other=0.0)
            change = tl.load(constant + at, mask=inside, other=0.0) + (gx * u + gy * v)
            known = (gx != 0.0) | (gy != 0.0) | (change != 0.0)
            target = tl.load(first + y * image_pitch + x, mask=inside, other=0.0).to(tl.float64)
            value = change.to(tl.float64) + target
            weight = tl.where(known, 1.0 / (1.0 + tl.abs(gain * value + offset - target)), 0.0)
            total += weight
            values += weight * value
            targets += weight * target
            squared_values += weight * value * value
            squared_targets += weight * target * target
        scale = 1.0 / (tl.sum(total, 0) + 1e-9)
        mean = tl.sum(values, 0) * scale
        mean_target = tl.sum(targets, 0) * scale
        variance = tl.sum(squared_values, 0) * scale - mean * mean
        variance_target = tl.sum(squared_targets, 0) * scale - mean_target * mean_target
        gain = tl.sqrt((variance_target + 1.0) / (variance + 1.0))
        offset = mean_target - gain * mean
    tl.store(new_gains + pair, (gain * tl.load(gains + pair)).to(tl.float32))
    tl.store(new_offsets + pair, (gain * tl.load(offsets + pair) + offset).to(tl.float32))


@triton.jit
def _dual(ahead, dual, weight, at, pitch, plane, stored, across, down, sigma, shrinkage):
    """Return the dual variables along x and y of one flow component after an iteration, for the pixels at `at`.

    `across` and `down` mark pixels with a right and a lower neighbour, `stored` those that are in memory.
    """
    here = tl.load(ahead + at, mask=stored, other=0.0)
    right = tl.load(ahead + at + 1, mask=stored & across, other=0.0)
    below = tl.load(ahead + at + pitch, mask=stored & down, other=0.0)
    by_x = tl.load(dual + at, mask=stored, other=0.0)
    by_y = tl.load(dual + plane + at, mask=stored, other=0.0)
    by_x += sigma * tl.where(across, right - here, 0.0)
    by_y += sigma * tl.where(down, below - here, 0.0)
    fit = tl.minimum(weight * tl.rsqrt(by_x * by_x + by_y * by_y + 1e-12), shrinkage)
    return by_x * fit, by_y * fit


@triton.jit
def _relax(
    flow,
    ahead,
    dual,
    gradient,
    constant,
    weight,
    new_flow,
    new_ahead,
    new_dual,
    height,
    width,
    pitch,
    tau,
    sigma,
    shrinkage,
    limit,
    blend,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    """Compute one iteration of `torch.relax`.

    The divergence at a pixel P needs the new duals of P, of its left neighbour L (along x) and of its upper neighbour A
    (along y), and each new dual reads the extrapolated flow to the right and below:

            . A a          P reads P r b,  L reads L P l,  A reads A a P
            L P r
            l b .

    All tiles run at once, so P computes the duals of L and A itself instead of waiting for them, and stores its own
    only. L has a right neighbour (P) wherever P is in the image, x <= width - 1; likewise A has a lower one.
    """
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2)
    plane = height * pitch
    constant += layer * plane
    weight += layer * plane
    gradient += layer * 2 * plane
    stored = (y < height) & (x < pitch)  # whole rows, padding too: so the compiler sees that it can use wide accesses
    behind = stored & (x > 0)
    beyond = stored & (y > 0)
    across, down = x < width - 1, y < height - 1
    at = y * pitch + x

    own = tl.load(weight + at, mask=stored, other=0.0)
    left = tl.load(weight + at - 1, mask=behind, other=0.0)
    above = tl.load(weight + at - pitch, mask=beyond, other=0.0)
    gx = tl.load(gradient + at, mask=stored, other=0.0)
    gy = tl.load(gradient + plane + at, mask=stored, other=0.0)
    residual = tl.load(constant + at, mask=stored, other=0.0)

    u = tl.load(flow + layer * 2 * plane + at, mask=stored, other=0.0)
    v = tl.load(flow + (layer * 2 + 1) * plane + at, mask=stored, other=0.0)
    next_u, next_v = u, v
    for component in tl.static_range(2):
        a = ahead + (layer * 2 + component) * plane
        d = dual + (layer * 4 + 2 * component) * plane
        by_x, by_y = _dual(a, d, own, at, pitch, plane, stored, across, down, sigma, shrinkage)
        left_x, _ = _dual(a, d, left, at - 1, pitch, plane, behind, x <= width - 1, down, sigma, shrinkage)
        _, above_y = _dual(a, d, above, at - pitch, pitch, plane, beyond, across, y <= height - 1, sigma, shrinkage)
        new_d = new_dual + (layer * 4 + 2 * component) * plane
        tl.store(new_d + at, by_x, mask=stored)
        tl.store(new_d + plane + at, by_y, mask=stored)
        pull = by_x - tl.where(behind, left_x, 0.0) + by_y - tl.where(beyond, above_y, 0.0)
        if component == 0:
            next_u += tau * pull
        else:
            next_v += tau * pull

    residual += gx * next_u + gy * next_v
    step = -residual / (gx * gx + gy * gy + 1e-6)
    step = blend * tl.minimum(tl.maximum(step, -limit), limit)
    next_u += step * gx
    next_v += step * gy
    tl.store(new_flow + layer * 2 * plane + at, next_u, mask=stored)
    tl.store(new_flow + (layer * 2 + 1) * plane + at, next_v, mask=stored)
    tl.store(new_ahead + layer * 2 * plane + at, 2.0 * next_u - u, mask=stored)
    tl.store(new_ahead + (layer * 2 + 1) * plane + at, 2.0 * next_v - v, mask=stored)


@triton.jit
def _sort3(a, b, c):
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    return a, b, c


@triton.jit
def _sort5(a, b, c, d, e):
    a, b = tl.minimum(a, b), tl.maximum(a, b)
    d, e = tl.minimum(d, e), tl.maximum(d, e)
    c, e = tl.minimum(c, e), tl.maximum(c, e)
    c, d = tl.minimum(c, d), tl.maximum(c, d)
    a, d = tl.minimum(a, d), tl.maximum(a, d)
    a, c = tl.minimum(a, c), tl.maximum(a, c)
    b, e = tl.minimum(b, e), tl.maximum(b, e)
    b, d = tl.minimum(b, d), tl.maximum(b, d)
    b, c = tl.minimum(b, c), tl.maximum(b, c)
    return a, b, c, d, e


@triton.jit
def _line3(image, y, x, height, width, pitch, inside):
    return _sort3(
        _pixel(image, y, x - 1, height, width, pitch, inside),
        _pixel(image, y, x, height, width, pitch, inside),
        _pixel(image, y, x + 1, height, width, pitch, inside),
    )


@triton.jit
def _line5(image, y, x, height, width, pitch, inside):
    return _sort5(
        _pixel(image, y, x - 2, height, width, pitch, inside),
        _pixel(image, y, x - 1, height, width, pitch, inside),
        _pixel(image, y, x, height, width, pitch, inside),
        _pixel(image, y, x + 1, height, width, pitch, inside),
        _pixel(image, y, x + 2, height, width, pitch, inside),
    )


@triton.jit
def _median3(image, result, height, width, pitch, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2) * height * pitch
    inside = (y < height) & (x < width)
    a0, b0, c0 = _line3(image + layer, y - 1, x, height, width, pitch, inside)
    a1, b1, c1 = _line3(image + layer, y, x, height, width, pitch, inside)
    a2, b2, c2 = _line3(image + layer, y + 1, x, height, width, pitch, inside)
    _, a1, a2 = _sort3(a0, a1, a2)
    b0, b1, b2 = _sort3(b0, b1, b2)
    c0, c1, _ = _sort3(c0, c1, c2)
    low = tl.maximum(a1, b0)
    high = tl.minimum(b2, c1)
    _, middle, _ = _sort3(a2, b1, c0)
    _, middle, _ = _sort3(low, middle, high)
    tl.store(result + layer + y * pitch + x, middle, mask=inside)


@triton.jit
def _median5(image, result, height, width, pitch, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2) * height * pitch
    inside = (y < height) & (x < width)
    a0, b0, c0, d0, e0 = _line5(image + layer, y - 2, x, height, width, pitch, inside)
    a1, b1, c1, d1, e1 = _line5(image + layer, y - 1, x, height, width, pitch, inside)
    a2, b2, c2, d2, e2 = _line5(image + layer, y, x, height, width, pitch, inside)
    a3, b3, c3, d3, e3 = _line5(image + layer, y + 1, x, height, width, pitch, inside)
    a4, b4, c4, d4, e4 = _line5(image + layer, y + 2, x, height, width, pitch, inside)
    _, _, _, a3, a4 = _sort5(a0, a1, a2, a3, a4)
    _, _, b2, b3, b4 = _sort5(b0, b1, b2, b3, b4)
    _, c1, c2, c3, _ = _sort5(c0, c1, c2, c3, c4)
    d0, d1, d2, _, _ = _sort5(d0, d1, d2, d3, d4)
    e0, e1, _, _, _ = _sort5(e0, e1, e2, e3, e4)
    low = tl.maximum(tl.maximum(a3, b2), tl.maximum(c1, d0))
    high = tl.minimum(tl.minimum(b4, c3), tl.minimum(d2, e1))
    _, _, middle, _, _ = _sort5(a4, b3, c2, d1, e0)
    _, middle, _ = _sort3(low, middle, high)
    tl.store(result + layer + y * pitch + x, middle, mask=inside)


@triton.jit
def _encode(flow, codes, height, width, pitch, scale, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    y, x = _pixels(TILE_Y, TILE_X)
    layer = tl.program_id(2)
    pair, component = layer // 2, layer % 2
    inside = (y < height) & (x < width)
    value = scale * tl.load(flow + layer * height * pitch + y * pitch + x, mask=inside, other=0.0)
    # Clipped before it is rounded: the compiler cannot fuse the product with the sum, which would round only once.
    value = tl.minimum(tl.maximum(value, -127.0), 127.0)
    rounded = (value + 12582912.0) - 12582912.0  # 1.5 * 2**23: floats of that size are whole numbers
    tl.store(codes + ((pair * height + y) * 2 + component) * width + x, (rounded + 128.0).to(tl.uint8), mask=inside)
