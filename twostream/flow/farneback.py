"""Farneback's flow (Farneback 2003, "Two-frame motion estimation based on polynomial expansion"), as OpenCV defines it.

Each image is expanded once for both its pairs, and an iteration is one pass over the rows. The roundings are OpenCV's
too: along a still border the sign of almost nothing decides whether a pixel has left the image, and a last bit grows to
half a pixel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from twostream.flow import Solver
from twostream.flow.simd import (
    LANES,
    any_of,
    floored,
    gather,
    ints_add_scaled,
    lane,
    lesser,
    load,
    ramp,
    splat,
    store,
    to_ints,
    where,
)
from twostream.flow.simd64 import (
    exact_inlined,
    exact_kernel,
    load64,
    narrow,
    positive64,
    product,
    splat64,
    store64,
    wide,
)

if TYPE_CHECKING:
    from twostream.params import Farneback

PARTS = ("simd.py", "simd64.py")
_COARSEST = 32  # pixels: OpenCV makes no level with a side below
_BORDER = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472], np.float32)  # OpenCV's trust in the outermost pixels
_PAD = 2 * LANES  # floats before and after a stack of planes, for vectors that start or end outside
_MOST_TAPS = 36  # beyond so many shifted loads a channel, picking lanes one by one is faster


class _Level(NamedTuple):
    """A pyramid level: its size, the blur that comes before it is sampled, and the trust in its pixels."""

    height: int
    width: int
    stride: int
    taps: int
    sigma: float
    trust: np.ndarray  # float32 [height * stride], the weight of every pixel's equations


class _Prepared(NamedTuple):
    image: np.ndarray  # uint8 [H, W]
    expansions: list[np.ndarray]  # a level each, the finest first, as _expand writes them


class _Farneback(Solver):
    def __init__(self, settings: Farneback) -> None:
        self._settings = settings
        self._window = _expansion_window(settings.poly_n, settings.poly_sigma)

    def prepare(self, image: np.ndarray) -> _Prepared:
        """A uint8 [H, W] image with its expansion at every pyramid level."""
        fine = image.astype(np.float32)
        expansions = []
        for level in self._levels(image):
            blurred = cv2.GaussianBlur(fine, (level.taps, level.taps), level.sigma)
            padded = np.empty((level.height, level.stride), np.float32)
            padded[:, : level.width] = cv2.resize(blurred, (level.width, level.height))
            padded[:, level.width :] = 0
            expansions.append(_planes(5, level))
            _expand(padded.reshape(-1), level.height, level.width, level.stride, *self._window, expansions[-1])
        return _Prepared(image, expansions)

    def match(self, first: _Prepared, second: _Prepared) -> np.ndarray:
        """Flow float32 [H, W, 2] in pixels between two prepared images of one size; none at all between equal ones."""
        if np.array_equal(first.image, second.image):
            # OpenCV finds motion at the border here: what is sampled outside never counts as equal.
            return np.zeros((*first.image.shape, 2), np.float32)
        window, flow = self._settings.winsize, None
        levels = zip(self._levels(first.image), first.expansions, second.expansions, strict=True)
        for level, one, two in reversed(list(levels)):
            planes = _planes(2, level)
            grid = planes[_PAD:-_PAD].reshape(2, level.height, level.stride)
            grid[:] = 0
            if flow is not None:
                # Both components together, as OpenCV does: one by one the last bits differ.
                finer = cv2.resize(flow, (level.width, level.height)) * np.float32(1 / self._settings.pyr_scale)
                grid[0, :, : level.width], grid[1, :, : level.width] = finer[..., 0], finer[..., 1]
            scratch = _scratch(level, window // 2)
            for _ in range(self._settings.iterations):
                _iterate(one, two, planes, level.trust, level.height, level.width, level.stride, window, *scratch)
            flow = cv2.merge([grid[0, :, : level.width], grid[1, :, : level.width]])
        return flow

    def _levels(self, image: np.ndarray) -> tuple[_Level, ...]:
        return _levels(*image.shape, self._settings.levels, self._settings.pyr_scale)


def solver(settings: Farneback) -> Solver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels."""
    return _Farneback(settings)


@lru_cache(maxsize=8)
def _levels(height: int, width: int, most: int, step: float) -> tuple[_Level, ...]:
    levels, scale = [], 1.0
    for k in range(most + 1):
        if k and min(height, width) * scale < _COARSEST:
            break
        sigma = (1 / scale - 1) / 2
        rows, columns = round(height * scale), round(width * scale)
        stride = -(-columns // LANES) * LANES
        trust = np.zeros((rows, stride), np.float32)
        trust[:, :columns] = _trust(rows, columns)
        # On the finest level sigma is 0, which lets OpenCV choose: it too is blurred, by three taps.
        levels.append(_Level(rows, columns, stride, max(round(sigma * 5) | 1, 3), sigma, trust.reshape(-1)))
        scale *= step
    return tuple(levels)


def _trust(height: int, width: int) -> np.ndarray:
    """OpenCV's weights [height, width], lower at the border, where the expansion sees repeated pixels."""

    def along(length: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.arange(length)
        before = np.where(place < 5, _BORDER[np.minimum(place, 4)], np.float32(1))
        # Below ten pixels OpenCV's test for being near an end wraps around; the same test, wrapped alike.
        return before, (place - 5) % 2**32 >= (length - 10) % 2**32

    (down, near_rows), (across, near_columns) = along(height), along(width)
    near = near_rows[:, None] | near_columns
    return np.where(near, across * across[::-1] * down[:, None] * down[::-1, None], np.float32(1))


def _planes(count: int, level: _Level) -> np.ndarray:
    """Room for `count` float32 planes [height, stride], flat, with zeros before and after."""
    planes = np.empty(2 * _PAD + count * level.height * level.stride, np.float32)
    planes[:_PAD] = planes[-_PAD:] = 0
    return planes


def _scratch(level: _Level, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Working memory of :func:`_iterate`: equations of the rows in reach, and their sums over columns and boxes."""
    columns = np.zeros(5 * (level.stride + 2 * (radius + 1)))
    return np.empty((2 * radius + 2) * 5 * level.stride, np.float32), columns, np.zeros(5 * level.stride)


def _expansion_window(radius: int, sigma: float) -> tuple[np.ndarray | float, ...]:
    """g, x g and x^2 g of a Gaussian at 0 to `radius`, and i11, i03, i33, i55 of its inverse moments (section 2)."""
    place = np.arange(-radius, radius + 1, dtype=np.float32)
    g = np.exp(-(place.astype(np.float64) ** 2) / (2 * sigma**2)).astype(np.float32)
    g = (g * (1 / g.sum(dtype=np.float64))).astype(np.float32)
    weight = np.outer(g, g)  # float32, as OpenCV's moments are before they are summed
    zeroth = weight.sum(dtype=np.float64)
    second = (weight * place * place).sum(dtype=np.float64)
    fourth = (weight * place * place * place * place).sum(dtype=np.float64)
    mixed = (weight * place * place * place[:, None] * place[:, None]).sum(dtype=np.float64)
    even = np.linalg.inv([[zeroth, second, second], [second, fourth, mixed], [second, mixed, fourth]])
    half = g[radius:]
    k = place[radius:]
    return half, k * half, k * k * half, 1 / second, even[0, 1], even[1, 1], 1 / mixed


@exact_kernel
def _expand(image, height, width, stride, g, xg, xxg, i11, i03, i33, i55, out):
    """Fit c + b.x + x.A x to the Gaussian neighbourhood of every pixel; the image is repeated beyond its border.

    Writes five planes [height, stride] to `out`: b_x, b_y, A_xx, A_yy and 2 A_xy. The window is separable: columns
    are weighted by g, y g and y^2 g, and rows of these three by g, x g and x^2 g.
    """
    radius = len(g) - 1
    plane = height * stride
    length = stride + 2 * LANES
    row = np.zeros(3 * length, np.float32)
    for y in range(height):
        for x in range(0, stride, LANES):
            even, odd, square = product(load(image, y * stride + x), splat(g[0])), splat(0.0), splat(0.0)
            for k in range(1, radius + 1):
                above = load(image, max(y - k, 0) * stride + x)
                below = load(image, min(y + k, height - 1) * stride + x)
                both = above + below
                even = even + product(both, splat(g[k]))
                odd = odd + product(below - above, splat(xg[k]))
                square = square + product(both, splat(xxg[k]))
            store(row, LANES + x, even)
            store(row, length + LANES + x, odd)
            store(row, 2 * length + LANES + x, square)
        for part in range(3):
            start = part * length
            store(row, start, splat(row[start + LANES]))
            store(row, start + LANES + width, splat(row[start + LANES + width - 1]))
        for x in range(0, stride, LANES):
            at = LANES + x
            ones = wide(product(load(row, at), splat(g[0])))
            y1 = wide(product(load(row, length + at), splat(g[0])))
            y2 = wide(product(load(row, 2 * length + at), splat(g[0])))
            x1, x2, xy = splat64(0.0), splat64(0.0), splat64(0.0)
            for k in range(1, radius + 1):
                left, right = load(row, at - k), load(row, at + k)
                both = wide(left + right)
                ones = ones + both * splat64(g[k])
                x2 = x2 + both * splat64(xxg[k])
                x1 = x1 + wide(product(right - left, splat(xg[k])))
                left, right = load(row, length + at - k), load(row, length + at + k)
                y1 = y1 + wide(product(left + right, splat(g[k])))
                xy = xy + wide(product(right - left, splat(xg[k])))
                left, right = load(row, 2 * length + at - k), load(row, 2 * length + at + k)
                y2 = y2 + wide(product(left + right, splat(g[k])))
            to = _PAD + y * stride + x
            constant = ones * splat64(i03)
            store(out, to, narrow(x1 * splat64(i11)))
            store(out, to + plane, narrow(y1 * splat64(i11)))
            store(out, to + 2 * plane, narrow(constant + x2 * splat64(i33)))
            store(out, to + 3 * plane, narrow(constant + y2 * splat64(i33)))
            store(out, to + 4 * plane, narrow(xy * splat64(i55)))


@exact_kernel
def _iterate(one, two, flow, trust, height, width, stride, winsize, equations, columns, boxes):
    """One iteration: at every pixel, the displacement d that explains the expansions in a box around it best.

    Minimises the sum of |A d - b|^2 over the box (section 3): d = (sum A'A)^-1 sum A'b. OpenCV's box has an odd side,
    also where `winsize` is even, its sums are divided by winsize^2, and 0.001 is added to the determinant. Works in
    place: the equations of a row are made before its flow changes.

    Args:
        one, two: expansions of the images by :func:`_expand`.
        flow: two planes, x and y, in pixels; read and overwritten.
        equations, columns, boxes: see :func:`_scratch`.
    """
    radius = winsize // 2
    plane = height * stride
    ring = 2 * radius + 2
    length = stride + ring
    scale = splat64(1 / (winsize * winsize))
    for y in range(min(radius, height)):
        _equations(one, two, flow, trust, y, height, width, stride, equations, y % ring)
    for y in range(height):
        if y + radius < height:
            _equations(one, two, flow, trust, y + radius, height, width, stride, equations, (y + radius) % ring)
        if y == 0:
            for channel in range(5):
                for x in range(0, stride, LANES):
                    total = wide(load(equations, channel * stride + x) * splat(np.float32(radius + 2)))
                    for other in range(1, radius):
                        total = total + wide(load(equations, (min(other, height - 1) * 5 + channel) * stride + x))
                    store64(columns, channel * length + radius + 1 + x, total)
        # Boxes slide down and then along, in float64 and in OpenCV's order, so that they end with OpenCV's bits.
        comes = min(y + radius, height - 1) % ring * 5
        leaves = max(y - radius - 1, 0) % ring * 5
        for channel in range(5):
            start = channel * length + radius + 1
            for x in range(0, stride, LANES):
                new = load(equations, (comes + channel) * stride + x)
                old = load(equations, (leaves + channel) * stride + x)
                store64(columns, start + x, load64(columns, start + x) + wide(new - old))
            for x in range(1, radius + 2):
                columns[start - x] = columns[start]
                columns[start + width - 1 + x] = columns[start + width - 1]
        _slide(columns, boxes, width, stride, radius)
        for x in range(0, stride, LANES):
            g_xx = load64(boxes, x) * scale
            g_xy = load64(boxes, stride + x) * scale
            g_yy = load64(boxes, 2 * stride + x) * scale
            h_x = load64(boxes, 3 * stride + x) * scale
            h_y = load64(boxes, 4 * stride + x) * scale
            # The determinant is never negative, but rounded it can be.
            inverse = splat64(1.0) / (positive64(g_xx * g_yy - g_xy * g_xy) + splat64(1e-3))
            to = _PAD + y * stride + x
            store(flow, to, narrow((g_yy * h_x - g_xy * h_y) * inverse))
            store(flow, to + plane, narrow((g_xx * h_y - g_xy * h_x) * inverse))


@exact_inlined
def _slide(columns, boxes, width, stride, radius):
    """Sums along a row of 2 `radius` + 1 columns each, for the five channels at once; zero beyond `width`."""
    length = stride + 2 * radius + 2
    for channel in range(5):
        for x in range(0, stride, LANES):
            at = channel * length + x
            store64(boxes, channel * stride + x, load64(columns, at + 2 * radius + 1) - load64(columns, at))
        for x in range(width, stride):
            boxes[channel * stride + x] = 0
    g_xx, g_xy, g_yy = columns[0], columns[length], columns[2 * length]
    h_x, h_y = columns[3 * length], columns[4 * length]
    g_xx, g_xy, g_yy = g_xx * (radius + 2), g_xy * (radius + 2), g_yy * (radius + 2)
    h_x, h_y = h_x * (radius + 2), h_y * (radius + 2)
    for x in range(radius + 2, 2 * radius + 1):
        g_xx += columns[x]
        g_xy += columns[length + x]
        g_yy += columns[2 * length + x]
        h_x += columns[3 * length + x]
        h_y += columns[4 * length + x]
    # Unsigned: numba looks for negative indices otherwise, at half the speed.
    a = np.uint64(stride)
    b, c, d = a + a, a + a + a, a + a + a + a
    for x in range(np.uint64(width)):
        g_xx += boxes[x]
        g_xy += boxes[a + x]
        g_yy += boxes[b + x]
        h_x += boxes[c + x]
        h_y += boxes[d + x]
        boxes[x] = g_xx
        boxes[a + x] = g_xy
        boxes[b + x] = g_yy
        boxes[c + x] = h_x
        boxes[d + x] = h_y


@exact_inlined
def _equations(one, two, flow, trust, y, height, width, stride, equations, slot):
    """A row's share of sum A'A = G and sum A'b = h: G_xx, G_xy, G_yy, h_x and h_y, to a slot of the ring.

    A is the mean of both images' A, and b half the difference of their b plus A d, with d the flow so far and the
    second image's expansion sampled where d leads (section 3, with a priori displacements). Where that is outside,
    OpenCV takes the first image's A alone, and zero for the second's b.
    """
    plane = height * stride
    for x in range(0, stride, LANES):
        at = _PAD + y * stride + x
        u, v = load(flow, at), load(flow, at + plane)
        here_x, here_y = ramp() + splat(np.float32(x)), splat(np.float32(y))
        there_x, there_y = here_x + u, here_y + v
        whole_x, whole_y = floored(there_x), floored(there_y)
        inside = lesser(
            lesser(whole_x + splat(0.5), splat(np.float32(width - 1.5)) - whole_x),
            lesser(whole_y + splat(0.5), splat(np.float32(height - 1.5)) - whole_y),
        )
        b_x, b_y, a_xx, a_yy, a_xy = splat(0.0), splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        if any_of(inside > splat(0.0)):
            step_x, step_y = whole_x - here_x, whole_y - here_y
            if any_of(inside < splat(0.0)):
                some = 0
                while lane(inside, some) < 0:
                    some += 1
                step_x = where(inside > splat(0.0), step_x, splat(lane(step_x, some)))
                step_y = where(inside > splat(0.0), step_y, splat(lane(step_y, some)))
            part_x, part_y = there_x - whole_x, there_y - whole_y
            left, right = _range(step_x)
            top, bottom = _range(step_y)
            if (right - left + 2) * (bottom - top + 2) <= _MOST_TAPS:
                # Neighbours mostly move alike: all lanes' bilinear weights over the few shifts among them.
                for j in range(bottom - top + 2):
                    weight_y = _hat(step_y, part_y, top + j)
                    for i in range(right - left + 2):
                        weight = _hat(step_x, part_x, left + i) * weight_y
                        tap = at + (top + j) * stride + left + i
                        b_x = b_x + product(weight, load(two, tap))
                        b_y = b_y + product(weight, load(two, tap + plane))
                        a_xx = a_xx + product(weight, load(two, tap + 2 * plane))
                        a_yy = a_yy + product(weight, load(two, tap + 3 * plane))
                        a_xy = a_xy + product(weight, load(two, tap + 4 * plane))
            else:
                index = ints_add_scaled(to_ints(step_y), stride, to_ints(step_x + ramp()))
                b_x = _bilinear(two, at, index, stride, part_x, part_y)
                b_y = _bilinear(two, at + plane, index, stride, part_x, part_y)
                a_xx = _bilinear(two, at + 2 * plane, index, stride, part_x, part_y)
                a_yy = _bilinear(two, at + 3 * plane, index, stride, part_x, part_y)
                a_xy = _bilinear(two, at + 4 * plane, index, stride, part_x, part_y)
        inner = inside > splat(0.0)
        none = splat(0.0)
        one_xx, one_yy, one_xy = load(one, at + 2 * plane), load(one, at + 3 * plane), load(one, at + 4 * plane)
        a_xx = where(inner, (one_xx + a_xx) * splat(0.5), one_xx)
        a_yy = where(inner, (one_yy + a_yy) * splat(0.5), one_yy)
        a_xy = where(inner, (one_xy + a_xy) * splat(0.25), one_xy * splat(0.5))
        b_x = product(load(one, at) - where(inner, b_x, none), splat(0.5)) + (product(a_xx, u) + product(a_xy, v))
        b_y = product(load(one, at + plane) - where(inner, b_y, none), splat(0.5)) + (
            product(a_xy, u) + product(a_yy, v)
        )
        weight = load(trust, y * stride + x)
        a_xx, a_yy, a_xy = product(a_xx, weight), product(a_yy, weight), product(a_xy, weight)
        b_x, b_y = product(b_x, weight), product(b_y, weight)
        to = slot * 5 * stride + x
        store(equations, to, product(a_xx, a_xx) + product(a_xy, a_xy))
        store(equations, to + stride, product(a_xx + a_yy, a_xy))
        store(equations, to + 2 * stride, product(a_yy, a_yy) + product(a_xy, a_xy))
        store(equations, to + 3 * stride, product(a_xx, b_x) + product(a_xy, b_y))
        store(equations, to + 4 * stride, product(a_xy, b_x) + product(a_yy, b_y))


@exact_inlined
def _hat(step, part, shift):
    """The bilinear weight of the pixel `shift` away for lanes that lead `step` + `part` away."""
    away = step - splat(np.float32(shift))
    above = where(away > splat(-1.5), part, splat(0.0))
    here = where(away > splat(-0.5), splat(1.0) - part, above)
    return where(away > splat(0.5), splat(0.0), here)


@exact_inlined
def _range(value):
    """The smallest and the largest of lanes that hold whole numbers close together."""
    low = int(lane(value, 0))
    high = low
    while any_of(value < splat(np.float32(low))):
        low -= 1
    while any_of(value > splat(np.float32(high))):
        high += 1
    return low, high


@exact_inlined
def _bilinear(values, start, index, stride, part_x, part_y):
    """Between the pixels at `start` + `index` and those right of and below them."""
    right, below = splat(1.0) - part_x, splat(1.0) - part_y
    total = product(gather(values, start, index), right * below)
    total = total + product(gather(values, start + 1, index), part_x * below)
    total = total + product(gather(values, start + stride, index), right * part_y)
    return total + product(gather(values, start + stride + 1, index), part_x * part_y)
