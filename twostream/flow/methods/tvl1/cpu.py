"""Kernels of TV-L1 flow for the CPU; `__init__.py` explains the algorithm, and `torch.py` has the same in few lines.

All data are in flat float32 arrays. An image has two rows and two columns of repeated border around it: pixel (y, x) is
at `(y + 2) * stride + LANES + x`. The state of a level has `PLANES` planes that alternate row by row, so that a sweep
over a band of rows stays in the processor's cache: plane k of pixel (y, x) is at
`((y + 1) * PLANES + k) * stride + LANES + x`.
"""

from __future__ import annotations

import numpy as np
from numba import literal_unroll

from twostream.flow.methods.tvl1.simd import (
    LANES,
    absolute,
    any_of,
    clamped,
    divided,
    floored,
    gather,
    greater,
    inlined,
    interleaved_high,
    interleaved_low,
    ints_add_scaled,
    inverse_root,
    kernel,
    lane,
    lesser,
    load,
    ramp,
    shifted_in,
    splat,
    store,
    to_ints,
    where,
)

# Planes of the state: flow (U, V); its extrapolation (UB, VB; between warps the flow itself); dual variables of U along
# x and y (PUX, PUY) and of V (PVX, PVY); and the linearized data term: gradient (GX, GY), constant (R), inverse squared
# gradient (INV) and weight of the smoothness (WEIGHT).
PLANES = 13
U, V, UB, VB, PUX, PUY, PVX, PVY, GX, GY, R, INV, WEIGHT = range(PLANES)


def stride_of(width: int) -> int:
    """Return the floats per row: the width in whole vectors, and a vector of padding on both sides."""
    return 2 * LANES + -(-width // LANES) * LANES


@kernel
def repeat_border(image, height, width, stride):
    """Fill the two rows and columns around an image with its border pixels, and the rest of each row too."""
    for y in range(height):
        row = (y + 2) * stride + LANES
        for x in range(1, 3):
            image[row - x] = image[row]
        for x in range(width, stride - LANES):
            image[row + x] = image[row + width - 1]
    for x in range(stride):
        image[x] = image[stride + x] = image[2 * stride + x]
        last = (height + 1) * stride + x
        image[last + stride] = image[last + 2 * stride] = image[last]


@kernel
def blur(source, target, buffer, height, width, stride, center, near, far):
    """Separable five-tap filter (far, near, center, near, far); the border of `source` must be filled."""
    c, n, f = splat(center), splat(near), splat(far)
    for y in range(height):
        row = (y + 2) * stride
        for x in range(0, stride, LANES):
            i = row + x
            value = c * load(source, i) + n * (load(source, i - stride) + load(source, i + stride))
            store(buffer, x, value + f * (load(source, i - 2 * stride) + load(source, i + 2 * stride)))
        for x in range(LANES, LANES + width, LANES):
            value = c * load(buffer, x) + n * (load(buffer, x - 1) + load(buffer, x + 1))
            store(target, row + x, value + f * (load(buffer, x - 2) + load(buffer, x + 2)))


@kernel
def shrink(source, source_stride, rows, row_weights, columns, column_weights, buffer, target, stride):
    """Resample an image by tables of taps: `rows` [h, t] indices and weights, `columns` [w, t] likewise."""
    for y in range(rows.shape[0]):
        for x in range(0, source_stride, LANES):
            value = splat(0.0)
            for tap in range(rows.shape[1]):
                at = (rows[y, tap] + 2) * source_stride + x
                value = value + splat(row_weights[y, tap]) * load(source, at)
            store(buffer, x, value)
        row = (y + 2) * stride + LANES
        for x in range(columns.shape[0]):
            total = np.float32(0.0)
            for tap in range(columns.shape[1]):
                total += column_weights[x, tap] * buffer[LANES + columns[x, tap]]
            target[row + x] = total


@kernel
def enlarge(
    source, width, source_stride, target, stride, rows, row_weights, columns, column_weights, buffer, gain_x, gain_y
):
    """Interpolate flow (scaled by the gains) and dual variables bilinearly from a coarse state to a fine one.

    `rows` [h, 2] and `columns` [w, 2] hold the two neighbours of each fine pixel, with their weights; `width` is that
    of the coarse level. Where the fine level is exactly twice as wide, the usual case, whole vectors are interpolated.
    """
    for y in range(rows.shape[0]):
        above, below = rows[y, 0] + 1, rows[y, 1] + 1
        first, second = splat(row_weights[y, 0]), splat(row_weights[y, 1])
        for plane in range(UB, PVY + 1):
            gain = splat(gain_x if plane == UB else gain_y if plane == VB else np.float32(1.0))
            top, bottom = (above * PLANES + plane) * source_stride, (below * PLANES + plane) * source_stride
            for x in range(0, source_stride, LANES):
                store(buffer, x, gain * (first * load(source, top + x) + second * load(source, bottom + x)))
            row = ((y + 1) * PLANES + plane) * stride + LANES
            if columns.shape[0] == 2 * width:
                buffer[LANES - 1], buffer[LANES + width] = buffer[LANES], buffer[LANES + width - 1]
                for x in range(0, width, LANES):
                    here = splat(0.75) * load(buffer, LANES + x)
                    even = splat(0.25) * load(buffer, LANES + x - 1) + here
                    odd = splat(0.25) * load(buffer, LANES + x + 1) + here
                    store(target, row + 2 * x, interleaved_low(even, odd))
                    store(target, row + 2 * x + LANES, interleaved_high(even, odd))
                continue
            for x in range(columns.shape[0]):
                left, right = buffer[LANES + columns[x, 0]], buffer[LANES + columns[x, 1]]
                target[row + x] = column_weights[x, 0] * left + column_weights[x, 1] * right


@inlined
def _spline(a):
    """Return the Catmull-Rom weights of four pixels in a row, at a fraction `a` after the second."""
    w0 = ((splat(1.0) - splat(0.5) * a) * a - splat(0.5)) * a
    w1 = (splat(1.5) * a - splat(2.5)) * a * a + splat(1.0)
    w2 = ((splat(2.0) - splat(1.5) * a) * a + splat(0.5)) * a
    w3 = (splat(0.5) * a - splat(0.5)) * a * a
    return w0, w1, w2, w3


@inlined
def _spline_slope(a):
    """Return the derivatives of those weights."""
    d0 = (splat(2.0) - splat(1.5) * a) * a - splat(0.5)
    d1 = (splat(4.5) * a - splat(5.0)) * a
    d2 = (splat(4.0) - splat(4.5) * a) * a + splat(0.5)
    d3 = (splat(1.5) * a - splat(1.0)) * a
    return d0, d1, d2, d3


@inlined
def _four_in_a_row(image, scattered, near, index, far):
    """Load four pixels in a row for every lane: by vectors around `near`, or lane by lane where lanes are scattered."""
    if scattered:
        before, here = gather(image, far - 1, index), gather(image, far, index)
        return before, here, gather(image, far + 1, index), gather(image, far + 2, index)
    return load(image, near - 1), load(image, near), load(image, near + 1), load(image, near + 2)


@kernel
def linearize(first, second, state, height, width, stride, edge, gain, offset):
    """Warp the second image by the flow in UB, VB and write the data term around it (IPOL 2013, eq. 8).

    The flow is copied to U, V. See `torch.linearize` for the derivatives and for `edge`.
    """
    zero, half, one = splat(0.0), splat(0.5), splat(1.0)
    right, bottom = splat(np.float32(width - 1)), splat(np.float32(height - 1))
    steepness, contrast, brightness = splat(edge), splat(gain), splat(offset)
    for y in range(height):
        here = (y + 2) * stride + LANES
        row = (y + 1) * PLANES * stride + LANES
        level = splat(np.float32(y))
        for x in range(0, width, LANES):
            i = row + x
            column = splat(np.float32(x)) + ramp()
            u, v = load(state, i + UB * stride), load(state, i + VB * stride)
            # The end of each flow vector, clamped to the image, as whole pixels and a fraction.
            to_x, to_y = column + u, level + v
            at_x, at_y = clamped(to_x, zero, right), clamped(to_y, zero, bottom)
            outside = absolute(to_x - at_x) + absolute(to_y - at_y) > zero
            whole_x, whole_y = floored(at_x), floored(at_y)
            a, b = _spline(at_x - whole_x), _spline(at_y - whole_y)
            slope_a, slope_b = _spline_slope(at_x - whole_x), _spline_slope(at_y - whole_y)

            # Neighbours mostly move by the same whole number of pixels; their pixels are then neighbours as well, and
            # vector loads replace the slow gather.
            shift_x, shift_y = whole_x - column, whole_y - level
            one_x, one_y = lane(shift_x, 0), lane(shift_y, 0)
            scattered = any_of(absolute(shift_x - splat(one_x)) + absolute(shift_y - splat(one_y)) > half)
            index = ints_add_scaled(to_ints(whole_y), stride, to_ints(whole_x))
            near = here + x + int(one_x) + int(one_y) * stride
            far = 2 * stride + LANES
            # Separable cubic: `line` and `slope` are a row of the 4 x 4 pixels and its derivative along x.
            value, slope_x, slope_y = zero, zero, zero
            for k in literal_unroll((0, 1, 2, 3)):
                up = (k - 1) * stride
                m = _four_in_a_row(second, scattered, near + up, index, far + up)
                line = a[0] * m[0] + a[1] * m[1] + a[2] * m[2] + a[3] * m[3]
                slope = slope_a[0] * m[0] + slope_a[1] * m[1] + slope_a[2] * m[2] + slope_a[3] * m[3]
                value = value + b[k] * line
                slope_x = slope_x + b[k] * slope
                slope_y = slope_y + slope_b[k] * line

            value, slope_x, slope_y = contrast * value + brightness, contrast * slope_x, contrast * slope_y
            p = here + x
            own_x = _five_point(load(first, p - 2), load(first, p - 1), load(first, p + 1), load(first, p + 2))
            own_y = _five_point(
                load(first, p - 2 * stride),
                load(first, p - stride),
                load(first, p + stride),
                load(first, p + 2 * stride),
            )
            # Gradient of both images, and the constant of residual(w) = constant + gradient . w, where w is the flow.
            gx, gy = half * (own_x + slope_x), half * (own_y + slope_y)
            gx, gy = where(outside, zero, gx), where(outside, zero, gy)
            constant = value - load(first, p) - gx * u - gy * v
            store(state, i + U * stride, u)
            store(state, i + V * stride, v)
            store(state, i + GX * stride, gx)
            store(state, i + GY * stride, gy)
            store(state, i + R * stride, where(outside, zero, constant))
            store(state, i + INV * stride, divided(one, gx * gx + gy * gy + splat(1e-6)))
            store(state, i + WEIGHT * stride, inverse_root(one + steepness * (own_x * own_x + own_y * own_y)))


@inlined
def _five_point(before2, before, after, after2):
    """Return the derivative in the middle of five values, exact for cubics."""
    return splat(8.0 / 12.0) * (after - before) - splat(1.0 / 12.0) * (after2 - before2)


@kernel
def fit_exposure(first, state, height, width, stride, rounds, row_step, gain, offset):
    """Return gain and offset that fit the second image to the first, from the data term linearized last.

    They match the weighted means and standard deviations of both images. The weight of a pixel is 1 / (1 + |residual|),
    so that moving and appearing objects hardly count. (Least squares would explain every misfit by less contrast.)

    Args:
        rounds: number of times that the weights are computed from the latest gain and offset.
        row_step: use every `row_step`-th row.
        gain, offset: those with which the data term was linearized.
    """
    a, b = 1.0, 0.0  # gain and offset beyond those; below, sums of the weights, of both images and of their squares
    for _ in range(rounds):
        n, sx, sy, sxx, syy = 1e-9, 0.0, 0.0, 0.0, 0.0
        for y in range(0, height, row_step):
            row = (y + 1) * PLANES * stride + LANES
            for x in range(width):
                i = row + x
                gx, gy = state[i + GX * stride], state[i + GY * stride]
                change = state[i + R * stride] + gx * state[i + U * stride] + gy * state[i + V * stride]
                if gx == 0.0 and gy == 0.0 and change == 0.0:  # the flow leaves the image here
                    continue
                target = first[(y + 2) * stride + LANES + x]
                value = change + target
                weight = 1.0 / (1.0 + abs(a * value + b - target))
                n += weight
                sx += weight * value
                sy += weight * target
                sxx += weight * value * value
                syy += weight * target * target
        mean_x, mean_y = sx / n, sy / n
        a = np.sqrt((syy / n - mean_y * mean_y + 1.0) / (sxx / n - mean_x * mean_x + 1.0))
        b = mean_y - a * mean_x
    return a * gain, a * offset + b


@kernel
def relax(state, mask, height, width, stride, count, tau, sigma, shrinkage, limit, blend):
    """Do `count` iterations of Chambolle & Pock's algorithm 1 in place, in one sweep over the rows.

    Iteration j works one row behind iteration j - 1, so that the rows in use stay in the cache; the result is the same
    as that of one iteration after the other.

    Args:
        mask: float32 [stride], 1 for every pixel with a right neighbour, else 0.
        tau, sigma: step sizes of flow and dual variables.
        shrinkage: 1 / (1 + sigma * epsilon), from the Huber norm.
        limit, blend: (tau + theta) * lambda, the bound of the data term's step, and tau / (tau + theta), its factor.
    """
    step, ascent, shrunk = splat(tau), splat(sigma), splat(shrinkage)
    most, least, part = splat(limit), splat(-limit), splat(blend)
    tiny = splat(1e-12)
    for front in range(height + count - 1):
        for j in range(max(0, front - height + 1), min(count, front + 1)):
            y = front - j
            row = (y + 1) * PLANES * stride + LANES
            below, above = row + PLANES * stride, row - PLANES * stride
            down = ascent if y < height - 1 else splat(0.0)
            last_ux, last_vx = splat(0.0), splat(0.0)
            for x in range(0, width, LANES):
                i = row + x
                # Dual ascent along the forward differences of the extrapolated flow ...
                across = load(mask, LANES + x) * ascent
                ub, vb = load(state, i + UB * stride), load(state, i + VB * stride)
                ux = load(state, i + PUX * stride) + across * (load(state, i + UB * stride + 1) - ub)
                uy = load(state, i + PUY * stride) + down * (load(state, below + x + UB * stride) - ub)
                vx = load(state, i + PVX * stride) + across * (load(state, i + VB * stride + 1) - vb)
                vy = load(state, i + PVY * stride) + down * (load(state, below + x + VB * stride) - vb)
                # ... and back into the ball of radius `weight`, shrunk by Huber's factor.
                weight = load(state, i + WEIGHT * stride)
                fit_u = lesser(shrunk, weight * inverse_root(ux * ux + uy * uy + tiny))
                fit_v = lesser(shrunk, weight * inverse_root(vx * vx + vy * vy + tiny))
                ux, uy, vx, vy = ux * fit_u, uy * fit_u, vx * fit_v, vy * fit_v
                store(state, i + PUX * stride, ux)
                store(state, i + PUY * stride, uy)
                store(state, i + PVX * stride, vx)
                store(state, i + PVY * stride, vy)
                # Primal descent along the divergence: backward differences of the dual variables.
                u, v = load(state, i + U * stride), load(state, i + V * stride)
                pull_u = ux - shifted_in(last_ux, ux) + uy - load(state, above + x + PUY * stride)
                pull_v = vx - shifted_in(last_vx, vx) + vy - load(state, above + x + PVY * stride)
                last_ux, last_vx = ux, vx
                next_u, next_v = u + step * pull_u, v + step * pull_v
                # Proximal step of the Huberised data term: along the image gradient, bounded.
                gx, gy = load(state, i + GX * stride), load(state, i + GY * stride)
                residual = load(state, i + R * stride) + gx * next_u + gy * next_v
                move = part * clamped(-residual * load(state, i + INV * stride), least, most)
                next_u, next_v = next_u + move * gx, next_v + move * gy
                store(state, i + U * stride, next_u)
                store(state, i + V * stride, next_v)
                # Extrapolation: 2 * new - old.
                store(state, i + UB * stride, next_u + next_u - u)
                store(state, i + VB * stride, next_v + next_v - v)


@inlined
def _pair(a, b):
    return lesser(a, b), greater(a, b)


@inlined
def _sort5(a, b, c, d, e):
    a, b = _pair(a, b)
    d, e = _pair(d, e)
    c, e = _pair(c, e)
    c, d = _pair(c, d)
    a, d = _pair(a, d)
    a, c = _pair(a, c)
    b, e = _pair(b, e)
    b, d = _pair(b, d)
    b, c = _pair(b, c)
    return a, b, c, d, e


@kernel
def repeat_flow_border(state, height, width, stride):
    """Fill two columns of repeated border on both sides of U and V."""
    for y in range(height):
        for plane in range(U, V + 1):
            row = ((y + 1) * PLANES + plane) * stride + LANES
            for x in range(1, 3):
                state[row - x] = state[row]
                state[row + width - 1 + x] = state[row + width - 1]


@kernel
def median5(state, ring, height, width, stride):
    """Write the 5x5 median of U and V to UB and VB with repeated borders; call `repeat_flow_border` first.

    The five neighbours of a pixel along its row are sorted once and kept in `ring` [25 * stride] for the five rows of
    results that use them. After sorting each rank over five rows as well, the median of the 25 is the median of three
    values: the largest just above the antidiagonal of the sorted square, the median of the antidiagonal, and the
    smallest just below it.
    """
    for plane in range(U, V + 1):
        for ahead in range(-2, height + 2):
            row = ((min(max(ahead, 0), height - 1) + 1) * PLANES + plane) * stride
            slot = ((ahead + 2) % 5) * 5 * stride
            for x in range(LANES, LANES + width, LANES):
                i = row + x
                a, b, c, d, e = _sort5(
                    load(state, i - 2), load(state, i - 1), load(state, i), load(state, i + 1), load(state, i + 2)
                )
                store(ring, slot + x, a)
                store(ring, slot + stride + x, b)
                store(ring, slot + 2 * stride + x, c)
                store(ring, slot + 3 * stride + x, d)
                store(ring, slot + 4 * stride + x, e)
            y = ahead - 2
            if y < 0:
                continue
            target = ((y + 1) * PLANES + plane + UB - U) * stride
            next_rank = stride
            row_step = 5 * stride
            for x in range(LANES, LANES + width, LANES):
                _, _, _, a3, a4 = _sort5(*_ring_column(ring, x, row_step))
                _, _, b2, b3, b4 = _sort5(*_ring_column(ring, x + next_rank, row_step))
                _, c1, c2, c3, _ = _sort5(*_ring_column(ring, x + 2 * next_rank, row_step))
                d0, d1, d2, _, _ = _sort5(*_ring_column(ring, x + 3 * next_rank, row_step))
                e0, e1, _, _, _ = _sort5(*_ring_column(ring, x + 4 * next_rank, row_step))
                low = greater(greater(a3, b2), greater(c1, d0))
                _, _, middle, _, _ = _sort5(a4, b3, c2, d1, e0)
                high = lesser(lesser(b4, c3), lesser(d2, e1))
                _, median, _ = _sort3(low, middle, high)
                store(state, target + x, median)


@inlined
def _ring_column(ring, x, step):
    return (
        load(ring, x),
        load(ring, x + step),
        load(ring, x + 2 * step),
        load(ring, x + 3 * step),
        load(ring, x + 4 * step),
    )


@kernel
def median3(state, ring, height, width, stride):
    """Write the 3x3 median of U and V to UB and VB with repeated borders; call `repeat_flow_border` first."""
    for plane in range(U, V + 1):
        for y in range(height):
            here = ((y + 1) * PLANES + plane) * stride
            above = ((max(y - 1, 0) + 1) * PLANES + plane) * stride
            below = ((min(y + 1, height - 1) + 1) * PLANES + plane) * stride
            for x in range(LANES, LANES + width, LANES):
                a, b, c = _sort3(load(state, above + x - 1), load(state, above + x), load(state, above + x + 1))
                d, e, f = _sort3(load(state, here + x - 1), load(state, here + x), load(state, here + x + 1))
                g, h, i = _sort3(load(state, below + x - 1), load(state, below + x), load(state, below + x + 1))
                low = greater(greater(a, d), g)
                _, mid, _ = _sort3(b, e, h)
                high = lesser(lesser(c, f), i)
                _, median, _ = _sort3(low, mid, high)
                store(state, here + (UB - U) * stride + x, median)


@inlined
def _sort3(a, b, c):
    a, b = _pair(a, b)
    b, c = _pair(b, c)
    a, b = _pair(a, b)
    return a, b, c


@kernel
def keep_flow(state, height, width, stride):
    """Copy U and V to UB and VB."""
    for y in range(height):
        row = (y + 1) * PLANES * stride + LANES
        for x in range(0, width, LANES):
            store(state, row + UB * stride + x, load(state, row + U * stride + x))
            store(state, row + VB * stride + x, load(state, row + V * stride + x))


@kernel
def read_flow(state, flow, height, width, stride):
    """Copy UB and VB to `flow` [height, width, 2]."""
    for y in range(height):
        row = (y + 1) * PLANES * stride + LANES
        for x in range(width):
            flow[y, x, 0] = state[row + UB * stride + x]
            flow[y, x, 1] = state[row + VB * stride + x]


@kernel
def clear_edges(state, height, width, stride):
    """Set the dual variables across the border to zero: in the right column, the bottom row and the padding."""
    for y in range(height):
        row = (y + 1) * PLANES * stride + LANES
        for plane in (PUX, PVX):
            for x in range(width - 1, stride - LANES):
                state[row + plane * stride + x] = 0.0
    last = height * PLANES * stride
    for plane in (PUY, PVY):
        for x in range(stride):
            state[last + plane * stride + x] = 0.0
