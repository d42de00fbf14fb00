"""From JPEG to a network's input in one pass: only the blocks that a crop needs, resized, mirrored and recoloured.

A general decoder gives whole pictures in RGB, of which training takes a part and makes another size of it. Here what
lies outside the crop is read past, chroma stays at its own resolution until it is resized, and the change of colour and
the way from YCbCr to RGB are one matrix. It reads what clip files hold: baseline JPEG (ITU-T T.81) in one scan, grey or
YCbCr. Its arithmetic is in float32, so pixels can differ by one level from another decoder's, and by more at sharp
edges of colour, where others interpolate chroma twice.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from twostream.flow.simd import (
    LANES,
    clamped,
    floats,
    inlined,
    kernel,
    lane,
    load,
    splat,
    store,
)

_PEEK = 13  # bits looked up at once: most often two coefficients with their values, of frames at quality 92
_MORE = 64  # flag of an entry whose code or value is longer
_END = 64  # places ahead of the code that ends a block
_PAD = 1024  # zeros after the data: more than one damaged block can read
_DIAGONALS = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
# From (Y, Cb, Cr, 1) to RGB: ITU-R BT.601 at full range, as JFIF has it.
_CHROMA = np.array([[0, 1.402], [-0.344136, -0.714136], [1.772, 0]])
YCC_TO_RGB = np.column_stack([np.ones(3), _CHROMA, -128 * _CHROMA.sum(1)])


class BadJpegError(ValueError):
    """Damaged bytes, or a kind of JPEG that clip files do not hold; `number` is the image's place in the list."""

    number = 0


@dataclass(frozen=True)
class Crop:
    """A square of a picture of `width` x `height` pixels, to be resized to `size` x `size`.

    `halves` is 2 for flow, whose x and y stand side by side as two pictures in one and are cropped alike, else 1.
    `whole` decodes the whole picture nevertheless, for :func:`read_crops` to find its medians.
    """

    width: int
    height: int
    left: int
    top: int
    side: int
    size: int
    mirrored: bool = False
    halves: int = 1
    whole: bool = False


def read_crops(images: Sequence[bytes], crop: Crop, matrix: np.ndarray, lowest: int, out: np.ndarray) -> None:
    """Decode the same crop of several JPEGs.

    The picture is decoded at 1/2, 1/4 or 1/8 where that has `crop.size` pixels still, and resized with a triangle
    filter: linear interpolation where it grows, an antialiased one where it shrinks, as in Pillow.

    Args:
        images: JPEG files.
        crop: what of them, and its size.
        matrix: [C, P + 1], from the P planes (Y, Cb, Cr, or flow's x and y) and 1 to the channels of the output.
        lowest: values are rounded and clipped from here to 255.
        out: uint8 [C, T, size, size], contiguous, written. If `crop.whole`, planes count from their median on, which
            becomes 128.

    Raises:
        BadJpegError: an image is damaged, not of this size, or of another kind of JPEG.
    """
    scale = 8
    while scale > 1 and crop.side * scale >= 16 * crop.size:
        scale //= 2
    matrix = np.ascontiguousarray(matrix, np.float32)
    for number, data in enumerate(images):
        try:
            _read_one(data, crop, scale, matrix, lowest, out, number)
        except BadJpegError as error:
            error.number = number
            raise


def _read_one(
    data: bytes, crop: Crop, scale: int, matrix: np.ndarray, lowest: int, out: np.ndarray, number: int
) -> None:
    start = _scan_start(data)
    coding = _coding(data[:start], scale, crop.halves)
    if (coding.width, coding.height) != (crop.width * crop.halves, crop.height):
        raise BadJpegError(f"a picture of {coding.width}x{coding.height}")
    plan = _plan(coding.shape, crop)
    arguments = (*coding.arrays, *plan.arrays, *_scratch(plan.sizes), crop.whole, matrix, lowest, out, number)
    if matrix.shape != (len(out), len(coding.shape) * crop.halves + 1):
        raise BadJpegError(f"{len(coding.shape)} components")
    if not _read_crop(np.frombuffer(data, np.uint8), start, *arguments):
        raise BadJpegError("damaged data")


def prepare() -> None:
    """Compile what :func:`read_crops` needs, unless it is kept from another process: before workers do it each."""
    image = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    text = "compiling the JPEG reader for this processor, which is kept for the next time ..."
    timer = threading.Timer(2, print, [text], {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        read_crops([image], Crop(16, 16, 0, 0, 16, 16), YCC_TO_RGB, 0, np.empty((3, 1, 16, 16), np.uint8))
    finally:
        timer.cancel()


_kept = threading.local()


def _scratch(sizes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Memory to work in, which each thread keeps: fresh pages would cost a tenth of the time."""
    total = sum(sizes)
    if not hasattr(_kept, "memory") or _kept.memory.size < total:
        _kept.memory = np.empty(total, np.float32)
    return _kept.memory[: sizes[0]], _kept.memory[sizes[0] : total]


@dataclass(frozen=True, eq=False)
class _Coding:
    """What a header says. `shape`: each component's resolution across and down, and the pixels that a block becomes."""

    width: int
    height: int
    shape: tuple[tuple[float, float, int], ...]
    arrays: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """Which blocks a crop needs and how they are resized, and the floats of scratch that this takes."""

    arrays: tuple[Any, ...]
    sizes: tuple[int, int]


def _scan_start(data: bytes) -> int:
    """Where the header ends."""
    at, marker = 2, 0
    while marker != 0xDA:
        if data[:2] != b"\xff\xd8" or at + 4 > len(data) or data[at] != 0xFF:
            raise BadJpegError("no JPEG header")
        marker = data[at + 1]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if at > len(data):
        raise BadJpegError("its header is cut short")
    return at


@functools.lru_cache(64)  # the frames of a clip have one header
def _coding(header: bytes, scale: int, halves: int) -> _Coding:
    """Reads a header, for pictures decoded at `scale` / 8."""
    try:
        segments = list(_segments(header))
        quantisations, codes = {}, {}
        for marker, body in segments:
            if 0xC1 <= marker <= 0xCF and marker != 0xC4 or marker == 0xDD and any(body):
                raise BadJpegError("another marker")
            while marker == 0xDB and body:
                quantisations[body[0]], body = np.frombuffer(body, np.uint8, 64, 1), body[65:]
            while marker == 0xC4 and body:
                end = 17 + sum(body[1:17])
                codes[body[0]], body = (body[1:17], body[17:end]), body[end:]
        named = dict(segments)
        frame, scan = named[0xC0], named[0xDA]
        height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
        chosen = {scan[i]: scan[i + 1] for i in range(1, 1 + 2 * scan[0], 2)}
        parts = [(frame[i], frame[i + 1] >> 4, frame[i + 1] & 15, frame[i + 2]) for i in range(6, len(frame), 3)]
        if len(parts) == 1:
            parts = [(parts[0][0], 1, 1, parts[0][3])]  # blocks of a single component follow row by row
        if len(parts) not in (1, 3) or len(parts) * halves > 3:
            raise BadJpegError(f"{len(parts)} components")
        across, down = max(part[1] for part in parts), max(part[2] for part in parts)
        # Chroma that is stored at half resolution already is reduced by half as much.
        scales = [min(8, scale * min(across // part[1], down // part[2])) for part in parts]
        basis = [_basis(scale) * quantisations[part[3]][:, None] for part, scale in zip(parts, scales, strict=True)]
        tables = [codes[table] for name, *_ in parts for table in (chosen[name] >> 4, 16 | chosen[name] & 15)]
        first = [_differences(*table) for table in tables[::2]]
        steps, pairs = zip(*[_steps(*table) for table in tables[1::2]], strict=True)
        long = [_long_codes(*table) for table in tables]
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise BadJpegError(f"its header is damaged or no baseline JPEG's: {error}") from None
    blocks = [(i, x, y) for i, part in enumerate(parts) for y in range(part[2]) for x in range(part[1])]
    # Blocks of a component: in a unit across and down, and in a row of one half; and their pixels.
    grid = [
        (part[1], part[2], -(-width * part[1] // (across * 8 * halves)), scale)
        for part, scale in zip(parts, scales, strict=True)
    ]
    arrays = (
        -(-width // (8 * across)),
        np.array(blocks),
        np.array(grid),
        np.concatenate(first),
        np.stack(steps).ravel(),
        np.stack(pairs).ravel(),
        np.concatenate(long),
        np.stack(basis).ravel().astype(np.float32),
    )
    shape = tuple((part[1] / across, part[2] / down, scale) for part, scale in zip(parts, scales, strict=True))
    return _Coding(width, height, shape, arrays)


def _segments(header: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each part of a header."""
    at = 2
    while at < len(header):
        size = int.from_bytes(header[at + 2 : at + 4], "big")
        yield header[at + 1], header[at + 4 : at + 2 + size]
        at += 2 + size


def _basis(scale: int) -> np.ndarray:
    """[64, 64]: what coefficient k of a block, in the file's order, adds to each pixel, the block's columns in turn.

    At a reduced scale a block is `scale` pixels wide: the means of the full one's.
    """
    frequency, place = np.mgrid[:8, :8]
    wave = np.cos((2 * place + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 1 / 2)
    wave = wave.reshape(8, scale, -1).mean(2)
    basis = np.zeros((64, 64))
    basis[:, : scale * scale] = np.einsum("vy,ux->vuxy", wave, wave).reshape(64, -1)
    return basis[_DIAGONALS]


def _differences(counts: bytes, symbols: bytes) -> np.ndarray:
    """uint16 [2 ** _PEEK], by the next bits, for a block's first coefficient: the value's bits << 8 | the code's bits.

    0 where the code is longer.
    """
    table = np.zeros(1 << _PEEK, np.uint16)
    for start, end, length, symbol in _codes(counts, symbols):
        if symbol > 15:
            raise ValueError("a difference of more than 15 bits")
        table[start:end] = symbol << 8 | length
    return table


@functools.lru_cache(64)
def _steps(counts: bytes, symbols: bytes) -> tuple[np.ndarray, np.ndarray]:
    """By the next bits, for a block's other coefficients: what to do, and up to two coefficients, as long as all of
    their bits are among those. Two tables in each: of as much as possible, and of one code at a time.

    Returns:
        uint16 [2, 2 ** _PEEK]: places to go ahead << 9 | coefficients << 7 | bits used. Where a single code's value is
        longer, with _MORE, its bits are those of the code; only _MORE where the code is.
        uint64 [2, 2 ** _PEEK]: a coefficient in each half, the first one low: value << 16 | place, counted from here.
        With _MORE, the value is the number of its bits.
    """
    size = 1 << _PEEK
    used, ahead, count = (np.zeros(size, np.int64) for _ in range(3))
    values, more = np.zeros(size, np.int64), np.ones(size, bool)
    for start, end, length, symbol in _codes(counts, symbols):
        here, bits = slice(start, end), symbol & 15
        left = _PEEK - length - bits
        used[here], count[here], ahead[here] = length, symbol > 0, (symbol >> 4) + 1 if symbol else _END
        values[here] = bits
        if left >= 0:
            value = np.arange(start, end) >> left & ((1 << bits) - 1)
            values[here] = value - np.where(value < 1 << bits >> 1, (1 << bits) - 1, 0)
            used[here] += bits
            more[here] = False
    first = np.where(count, (values & 0xFFFF) << 16 | ahead - 1, 0)
    one = ahead << 9 | count << 7 | more * _MORE | used
    # What follows, as long as its bits are known and it belongs to this block for sure: the first coefficient is at
    # place 63 at most if its code stands where 16 places are left, and behind it another code is then.
    follows = (np.arange(size) << used) & (size - 1)
    fits = ~more & (count == 1) & ~more[follows] & (used + used[follows] <= _PEEK)
    second = np.where(fits & (count[follows] == 1), first[follows] + ahead, 0)
    together = one + np.where(fits, ahead[follows] << 9 | count[follows] << 7 | used[follows], 0)
    steps = np.stack([together, one]).astype(np.uint16)
    return steps, np.stack([second << 32 | first, first]).astype(np.uint64)


def _codes(counts: bytes, symbols: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each code that is short enough: the first of the next bits that begin with it, their end, length, symbol."""
    code = number = 0
    for length in range(1, _PEEK + 1):
        for _ in range(counts[length - 1]):
            yield code << (_PEEK - length), (code + 1) << (_PEEK - length), length, symbols[number]
            code, number = code + 1, number + 1
        code <<= 1


def _long_codes(counts: bytes, symbols: bytes) -> np.ndarray:
    """int64 [290]: by length, the first 16 bits behind its codes and what turns a code into a place; the symbols."""
    ends, places, listed = np.zeros(17, np.int64), np.zeros(17, np.int64), np.zeros(256, np.int64)
    code = used = 0
    for length, count in enumerate(counts, 1):
        places[length] = used - code
        code, used = code + count, used + count
        ends[length] = code << (16 - length)
        code <<= 1
    listed[: len(symbols)] = list(symbols)
    return np.concatenate([ends, places, listed])


@functools.lru_cache(1024)  # five places, a few sides and two directions for each size of clip
def _plan(shape: tuple[tuple[float, float, int], ...], crop: Crop) -> _Plan:
    """For each plane where its blocks lie in the scratch, and how they are resized."""
    windows, across, down, needed = [], [], [], 0
    for wide, high, scale in shape:
        pixels = scale / 8
        left, right = crop.left * wide, (crop.left + crop.side) * wide
        top, bottom = crop.top * high, (crop.top + crop.side) * high
        width, height = crop.width * wide, crop.height * high
        first_x, end_x, first_y, end_y = (0, width, 0, height) if crop.whole else (left, right, top, bottom)
        columns, rows = (int(first_x // 8), int(-(-end_x // 8))), (int(first_y // 8), int(-(-end_y // 8)))
        taps_x = _triangles((left - 8 * columns[0]) * pixels, (right - 8 * columns[0]) * pixels, crop.size)
        taps_y = _triangles((top - 8 * rows[0]) * pixels, (bottom - 8 * rows[0]) * pixels, crop.size)
        # An odd number of cache lines, or columns would crowd into a few sets of the cache.
        stride = (-(-(rows[1] - rows[0]) * scale // LANES) | 1) * LANES
        for _ in range(crop.halves):
            # Columns one after the other: what is resized across then lies side by side.
            place = (*rows, *columns, needed, stride)
            windows.append(
                (*place, round(width * pixels), round(height * pixels), taps_x[1].shape[1], taps_y[1].shape[1])
            )
            needed += stride * (columns[1] - columns[0]) * scale + LANES
            across.append(taps_x)
            down.append(taps_y)
    (first_x, weight_x), (first_y, weight_y) = _stacked(across), _stacked(down)
    if crop.mirrored:
        first_x, weight_x = first_x[:, ::-1].copy(), weight_x[:, ::-1].copy()
    rows_needed = -(-int((first_y.max(1) + weight_y.shape[2]).max()) // LANES) * LANES
    spread = len(windows) * rows_needed * -(-crop.size // LANES) * LANES
    return _Plan((np.array(windows), first_x, weight_x, first_y, weight_y), (needed, spread + LANES))


@functools.lru_cache(1024)
def _triangles(start: float, stop: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizing of what lies from `start` to `stop`: for every output the first input [size], and weights [size, taps].

    A triangle as wide as two outputs, and no less than two inputs, around the output's centre. What lies outside,
    but for the pixels that the edges cut, has no part in it.
    """
    step = (stop - start) / size
    reach = max(step, 1.0)
    low, high = int(np.floor(start + 1e-6)), int(np.ceil(stop - 1e-6))
    centre = start + (np.arange(size) + 0.5) * step
    taps = min(int(np.ceil(2 * reach - 1e-6)), high - low)
    first = np.clip(np.ceil(centre - reach - 0.5 - 1e-6).astype(int), low, high - taps)
    weights = np.clip(1 - np.abs(first[:, None] + np.arange(taps) + 0.5 - centre[:, None]) / reach, 0, None)
    return first, weights / weights.sum(1, keepdims=True)


def _stacked(all_taps: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """First inputs [planes, size] and weights [planes, size, taps]."""
    taps = max(weights.shape[1] for _, weights in all_taps)
    weights = [np.pad(weights, ((0, 0), (0, taps - weights.shape[1]))) for _, weights in all_taps]
    return np.stack([first for first, _ in all_taps]), np.stack(weights).astype(np.float32)


@intrinsic
def _word(typing, array, index):
    """Eight bytes of a flat uint8 array as a number, the first one highest."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        value = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), word.as_pointer()), align=1)
        swap = cgutils.get_or_insert_function(builder.module, ir.FunctionType(word, [word]), "llvm.bswap.i64")
        return builder.call(swap, [value])

    return types.uint64(array, types.intp), generate


def _storing(width, parts):
    @intrinsic
    def function(typing, array, index, stride, value):
        def generate(context, builder, signature, arguments):
            array, index, stride, value = arguments
            data = make_array(signature.args[0])(context, builder, array).data
            for part in range(parts):
                picks = ir.Constant(ir.VectorType(ir.IntType(32), width), [part * width + i for i in range(width)])
                piece = builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picks)
                place = builder.add(index, builder.mul(stride, ir.Constant(stride.type, part)))
                builder.store(piece, builder.bitcast(builder.gep(data, [place]), piece.type.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp, floats), generate

    return function


# The first lanes of a vector in parts of so many, `stride` apart, to a flat float32 array.
_store_2x8, _store_4x4, _store_2x2, _store_1x1 = _storing(8, 2), _storing(4, 4), _storing(2, 2), _storing(1, 1)


@intrinsic
def _store_bytes(typing, array, index, value):
    """Write 16 floats from 0 to 255, cut to whole numbers, to a flat uint8 array."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        whole = builder.fptosi(value, ir.VectorType(ir.IntType(32), LANES))
        small = builder.trunc(whole, ir.VectorType(ir.IntType(8), LANES))
        data = make_array(signature.args[0])(context, builder, array).data
        builder.store(small, builder.bitcast(builder.gep(data, [index]), small.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, floats), generate


@intrinsic
def _transpose(typing, tile, start, array, index, stride):
    """Write 16 vectors that follow each other from `start` on as the columns of 16 rows, `stride` apart."""

    def generate(context, builder, signature, arguments):
        tile, start, array, index, stride = arguments
        vector = floats.llvm
        data = builder.gep(make_array(signature.args[0])(context, builder, tile).data, [start])
        data = builder.bitcast(data, vector.as_pointer())
        word = ir.IntType(32)
        rows = [builder.load(builder.gep(data, [ir.Constant(word, i)]), align=4) for i in range(LANES)]
        halves = ([half + i // 2 + LANES * (i % 2) for i in range(LANES)] for half in (0, LANES // 2))
        picks = [ir.Constant(ir.VectorType(word, LANES), half) for half in halves]
        for _ in range(4):  # each interleaves the first half of the rows with the second
            pairs = zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True)
            rows = [builder.shuffle_vector(one, two, pick) for one, two in pairs for pick in picks]
        data = make_array(signature.args[2])(context, builder, array).data
        for i, row in enumerate(rows):
            place = builder.gep(data, [builder.add(index, builder.mul(stride, ir.Constant(stride.type, i)))])
            builder.store(row, builder.bitcast(place, vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(tile, types.intp, array, types.intp, types.intp), generate


@intrinsic
def _store_pair(typing, array, index, value):
    """Write a number of 64 bits as two of a flat int32 array, the lower half first."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        data = make_array(signature.args[0])(context, builder, array).data
        builder.store(value, builder.bitcast(builder.gep(data, [index]), value.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), generate


@intrinsic
def _copy_word(typing, source, index, target, place):
    """Copy eight bytes between flat uint8 arrays. Whether one of them is 255."""

    def generate(context, builder, signature, arguments):
        source, index, target, place = arguments
        word = ir.IntType(64)
        data = make_array(signature.args[0])(context, builder, source).data
        value = builder.load(builder.bitcast(builder.gep(data, [index]), word.as_pointer()), align=1)
        data = make_array(signature.args[2])(context, builder, target).data
        builder.store(value, builder.bitcast(builder.gep(data, [place]), word.as_pointer()), align=1)
        ones, highest = ir.Constant(word, 0x0101010101010101), ir.Constant(word, 0x8080808080808080)
        # A byte of 255 is the only one that becomes 0 when 1 is added and keeps its highest bit in the original.
        found = builder.and_(builder.and_(builder.not_(builder.add(value, ones)), value), highest)
        return builder.icmp_unsigned("!=", found, ir.Constant(word, 0))

    return types.boolean(source, types.intp, target, types.intp), generate


@inlined
def _unstuffed(data, start):
    """The scan without the zero that follows each byte of 255, and zeros at its end; its length."""
    scan = np.empty(data.size - start + _PAD, np.uint8)
    size, previous, i = 0, 0, start
    while i < data.size:
        if previous != 255 and i + 8 <= data.size and not _copy_word(data, i, scan, size):
            size += 8
            i += 8
            continue
        for _ in range(min(8, data.size - i)):
            scan[size] = data[i]
            if previous != 255 or data[i] != 0:
                size += 1
            previous = data[i]
            i += 1
    scan[size : size + _PAD // 2] = 0
    return scan, size


@inlined
def _value(buffer, bits):
    """The number whose sign and size are the highest bits of the buffer (T.81, F.2.2.1)."""
    value = np.int64(buffer >> np.uint64(1) >> (np.uint64(63) - bits))
    return value - (~(np.int64(buffer) >> 63) & ((1 << np.int64(bits)) - 1))


@inlined
def _long_code(buffer, long_codes, table):
    """Length and symbol of a code of more than _PEEK bits; 0 if there is none."""
    bits, base = np.int64(buffer >> np.uint64(48)), 290 * table
    for length in range(_PEEK + 1, 17):
        if bits < long_codes[base + length]:
            place = (bits >> (16 - length)) + long_codes[base + 17 + length]
            return length, long_codes[base + 34 + (place & 255)]
    return 0, 0


@kernel
def _read_crop(
    data, start, units, blocks, grid, first_codes, steps, pairs, long_codes, basis,
    windows, first_x, weight_x, first_y, weight_y,
    planes, spread, whole, matrix, lowest, out, number,
):  # fmt: skip
    """One picture. False if its data is damaged.

    A window is, of a plane: first and end row and column of its blocks, where they lie and how far apart their columns
    are, the pixels of the whole plane across and down, and the inputs of an output across and down.
    """
    if not _decode(data, start, units, blocks, grid, first_codes, steps, pairs, long_codes, basis, windows, planes):
        return False
    offsets = matrix[:, -1].copy()
    if whole:
        for p in range(windows.shape[0]):
            shift = 128 - _median(planes, windows[p])
            for c in range(offsets.size):
                offsets[c] += matrix[c, p] * shift
    _resize(planes, windows, first_x, weight_x, first_y, weight_y, spread, matrix, offsets, lowest, out, number)
    return True


@inlined
def _decode(data, start, units, blocks, grid, first_codes, steps, pairs, long_codes, basis, windows, planes):
    """Huffman decoding (T.81, annex F.2) of all blocks down to the last one needed, inverse DCT of those needed."""
    scan, size = _unstuffed(data, start)
    halves = windows.shape[0] // grid.shape[0]
    rows = 0
    for component in range(grid.shape[0]):
        rows = max(rows, -(-windows[component * halves, 1] // grid[component, 1]))
    found = np.zeros(128, np.int32)  # of a block, value << 16 | place; one more is written than there are
    means = np.zeros(grid.shape[0], np.int64)
    # The next bits, highest first, how many of them are there for sure, and where the ones behind them are.
    buffer, held, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for unit_row in range(rows):
        for unit_column in range(units):
            for b in range(blocks.shape[0]):
                component = blocks[b, 0]
                if at > np.uint64(size + 8):
                    return False
                buffer |= _word(scan, np.int64(at)) >> held
                at += (np.uint64(63) - held) >> np.uint64(3)
                held |= np.uint64(56)
                code = np.uint64(first_codes[np.uint64(component << _PEEK) + (buffer >> np.uint64(64 - _PEEK))])
                if code == 0:
                    length, symbol = _long_code(buffer, long_codes, 2 * component)
                    if length == 0 or symbol > 15:
                        return False
                    code = np.uint64(symbol << 8 | length)
                buffer <<= code & np.uint64(63)
                bits = code >> np.uint64(8)
                means[component] += _value(buffer, bits)  # the difference to the block before
                buffer <<= bits
                held -= (code & np.uint64(63)) + bits
                k, count = np.uint64(1), np.uint64(1)
                while k < np.uint64(64):
                    buffer |= _word(scan, np.int64(at)) >> held
                    at += (np.uint64(63) - held) >> np.uint64(3)
                    held |= np.uint64(56)
                    # Near the end of the block what follows a coefficient may be the next block.
                    table = np.uint64(2 * component << _PEEK)
                    if k >= np.uint64(64 - 16):
                        table += np.uint64(1 << _PEEK)
                    entry = table + (buffer >> np.uint64(64 - _PEEK))
                    step, pair = np.uint64(steps[entry]), pairs[entry]
                    if step & np.uint64(_MORE):
                        length, run, bits = step & np.uint64(63), pair & np.uint64(15), pair >> np.uint64(16)
                        if length == 0:
                            long, symbol = _long_code(buffer, long_codes, 2 * component + 1)
                            if long == 0:
                                return False
                            length, run, bits = np.uint64(long), np.uint64(symbol >> 4), np.uint64(symbol & 15)
                            if symbol == 0:
                                run = np.uint64(_END)
                        buffer <<= length
                        found[count] = _value(buffer, bits) << 16 | np.int64(k + run)
                        buffer <<= bits
                        held -= length + bits
                        k += run + np.uint64(1)
                        count += np.uint64(1) if run < np.uint64(_END) else np.uint64(0)
                        continue
                    buffer <<= step & np.uint64(63)
                    held -= step & np.uint64(63)
                    _store_pair(found, np.int64(count), pair + k * np.uint64(0x100000001))
                    count += step >> np.uint64(7) & np.uint64(3)
                    k += step >> np.uint64(9)
                if found[count - np.uint64(1)] & 0xFFFF > 63:
                    return False
                found[0] = means[component] << 16
                row = unit_row * grid[component, 1] + blocks[b, 2]
                column = unit_column * grid[component, 0] + blocks[b, 1]
                p = component * halves
                if halves == 2 and column >= grid[component, 2]:
                    p += 1
                    column -= grid[component, 2]
                if windows[p, 0] <= row < windows[p, 1] and windows[p, 2] <= column < windows[p, 3]:
                    scale, stride = grid[component, 3], windows[p, 5]
                    to = windows[p, 4] + (column - windows[p, 2]) * scale * stride + (row - windows[p, 0]) * scale
                    _transform(found, np.int64(count), basis, 4096 * component, scale, planes, to, stride)
    return True


@inlined
def _transform(found, count, basis, base, scale, planes, to, stride):
    """Inverse DCT of one block as a sum of its waves: most blocks have few."""
    low, high = splat(np.float32(0)), splat(np.float32(255))
    first = splat(np.float32(128))
    if scale == 8:
        second, third, fourth = first, first, first
        for i in range(count):
            value, wave = splat(np.float32(found[i] >> 16)), base + 64 * (found[i] & 0xFFFF)
            first = first + value * load(basis, wave)
            second = second + value * load(basis, wave + LANES)
            third = third + value * load(basis, wave + 2 * LANES)
            fourth = fourth + value * load(basis, wave + 3 * LANES)
        _store_2x8(planes, to, stride, clamped(first, low, high))
        _store_2x8(planes, to + 2 * stride, stride, clamped(second, low, high))
        _store_2x8(planes, to + 4 * stride, stride, clamped(third, low, high))
        _store_2x8(planes, to + 6 * stride, stride, clamped(fourth, low, high))
    else:
        for i in range(count):
            first = first + splat(np.float32(found[i] >> 16)) * load(basis, base + 64 * (found[i] & 0xFFFF))
        first = clamped(first, low, high)
        if scale == 4:
            _store_4x4(planes, to, stride, first)
        elif scale == 2:
            _store_2x2(planes, to, stride, first)
        else:
            _store_1x1(planes, to, stride, first)


@inlined
def _median(planes, window):
    """The median of a whole plane in whole levels, the lower one of two."""
    counts = np.zeros(256, np.int64)
    for x in range(window[6]):
        for y in range(window[7]):
            counts[np.int64(planes[window[4] + x * window[5] + y] + np.float32(0.5))] += 1
    level, below = 0, counts[0]
    while below < (window[6] * window[7] + 1) // 2:
        level += 1
        below += counts[level]
    return level


@inlined
def _resize(planes, windows, first_x, weight_x, first_y, weight_y, spread, matrix, offsets, lowest, out, number):
    """Across, then down, then from planes to channels in bytes."""
    size, count = out.shape[2], windows.shape[0]
    wide = -(-size // LANES) * LANES
    starts = np.empty(count, np.int64)
    tile = np.empty(LANES * (windows[:, 5].max() + LANES), np.float32)
    at = 0
    for p in range(count):
        stride, taps = windows[p, 5], windows[p, 8]
        top, bottom = first_y[p, 0] // LANES * LANES, first_y[p, size - 1] + windows[p, 9]
        starts[p] = at - top * wide
        for x in range(0, size, LANES):
            for i in range(min(LANES, size - x)):
                column = windows[p, 4] + first_x[p, x + i] * stride
                for y in range(top, bottom, LANES):
                    total = splat(weight_x[p, x + i, 0]) * load(planes, column + y)
                    for tap in range(1, taps):
                        total = total + splat(weight_x[p, x + i, tap]) * load(planes, column + tap * stride + y)
                    store(tile, LANES * (y - top + i), total)
            for y in range(top, bottom, LANES):
                _transpose(tile, LANES * (y - top), spread, at + (y - top) * wide + x, wide)
        at += -(-(bottom - top) // LANES) * LANES * wide
    flat, low, high = out.reshape(-1), splat(np.float32(lowest)), splat(np.float32(255))
    mix = np.zeros(out.shape[0] * 4, np.float32)
    for c in range(out.shape[0]):
        mix[4 * c] = offsets[c] + np.float32(0.5)
        mix[4 * c + 1 : 4 * c + 1 + count] = matrix[c, :count]
    for y in range(size):
        for x in range(0, size, LANES):
            one = _down(spread, starts[0] + x, wide, first_y, weight_y, windows[0, 9], 0, y)
            two, three = one, one
            if count > 1:
                two = _down(spread, starts[1] + x, wide, first_y, weight_y, windows[1, 9], 1, y)
            if count > 2:
                three = _down(spread, starts[2] + x, wide, first_y, weight_y, windows[2, 9], 2, y)
            for c in range(out.shape[0]):
                total = splat(mix[4 * c]) + splat(mix[4 * c + 1]) * one + splat(mix[4 * c + 2]) * two
                total = clamped(total + splat(mix[4 * c + 3]) * three, low, high)
                to = ((c * out.shape[1] + number) * size + y) * size + x
                if x + LANES <= size:
                    _store_bytes(flat, to, total)
                else:
                    for i in range(size - x):
                        flat[to + i] = np.uint8(lane(total, i))


@inlined
def _down(spread, start, wide, first_y, weight_y, taps, p, y):
    """16 outputs of a plane: the rows of their inputs, weighted."""
    line = start + first_y[p, y] * wide
    total = splat(weight_y[p, y, 0]) * load(spread, line)
    for tap in range(1, taps):
        total = total + splat(weight_y[p, y, tap]) * load(spread, line + tap * wide)
    return total
