"""Vectors of sixteen floats inside compiled kernels: every operation against NumPy."""

from __future__ import annotations

import numpy as np

from twostream.flow.tvl1 import simd
from twostream.flow.tvl1.simd import LANES, kernel, load, splat, store


@kernel
def _arithmetic(a, b, out):
    x, y = load(a, 0), load(b, 0)
    store(out, 0, x + y)
    store(out, LANES, x - y)
    store(out, 2 * LANES, x * y)
    store(out, 3 * LANES, -x)
    store(out, 4 * LANES, simd.divided(x, y))
    store(out, 5 * LANES, simd.lesser(x, y))
    store(out, 6 * LANES, simd.greater(x, y))
    store(out, 7 * LANES, simd.clamped(x, splat(-0.5), splat(0.5)))
    store(out, 8 * LANES, simd.floored(x))
    store(out, 9 * LANES, simd.absolute(x))
    store(out, 10 * LANES, simd.where(x > y, x, splat(7.0)))
    store(out, 11 * LANES, simd.where(x < y, x, splat(7.0)))


def test_arithmetic_is_numpys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, LANES)).astype(np.float32)
    out = np.zeros(12 * LANES, np.float32)
    _arithmetic(a, b, out)
    expected = [a + b, a - b, a * b, -a, a / b, np.minimum(a, b), np.maximum(a, b), a.clip(-0.5, 0.5)]
    expected += [np.floor(a), np.abs(a), np.where(a > b, a, 7), np.where(a < b, a, 7)]
    np.testing.assert_array_equal(out.reshape(12, LANES), np.array(expected, np.float32))


@kernel
def _inverse_roots(values, out):
    for i in range(0, values.size, LANES):
        store(out, i, simd.inverse_root(load(values, i)))


def test_inverse_root_holds_its_stated_error_over_the_whole_range():
    values = np.logspace(-30, 30, 64 * LANES).astype(np.float32)
    out = np.zeros_like(values)
    _inverse_roots(values, out)
    assert np.abs(out * np.sqrt(values.astype(np.float64)) - 1).max() < 5e-6


@kernel
def _movements(table, indices, out):
    x = load(indices, 0)
    whole = simd.to_ints(x)
    store(out, 0, simd.gather(table, 3, whole))
    store(out, LANES, simd.gather(table, 0, simd.ints_add_scaled(whole, 2, whole)))
    store(out, 2 * LANES, simd.shifted_in(splat(99.0), x))
    store(out, 3 * LANES, simd.ramp())
    store(out, 4 * LANES, splat(simd.lane(x, 5)))
    store(out, 5 * LANES, splat(1.0 if simd.any_of(x > splat(18.5)) else 0.0))
    store(out, 6 * LANES, splat(1.0 if simd.any_of(x > splat(19.5)) else 0.0))
    store(out, 7 * LANES, simd.interleaved_low(x, simd.ramp()))
    store(out, 8 * LANES, simd.interleaved_high(x, simd.ramp()))


def test_lanes_are_moved_where_they_should_be():
    table = np.arange(100, dtype=np.float32) ** 2
    indices = np.random.default_rng(1).permutation(20)[:LANES].astype(np.float32)
    indices[3] = 19
    out = np.zeros(9 * LANES, np.float32)
    _movements(table, indices, out)
    rows = out.reshape(9, LANES)
    whole = indices.astype(int)
    np.testing.assert_array_equal(rows[0], table[whole + 3])
    np.testing.assert_array_equal(rows[1], table[3 * whole])
    np.testing.assert_array_equal(rows[2], [99, *indices[:-1]])
    np.testing.assert_array_equal(rows[3], np.arange(LANES))
    np.testing.assert_array_equal(rows[7:].ravel(), np.stack([indices, np.arange(LANES)], axis=1).ravel())
    assert (rows[4] == indices[5]).all() and (rows[5] == 1).all() and (rows[6] == 0).all()


def test_compiled_kernels_are_kept_apart_by_what_goes_into_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = {simd.cache_folder(_arithmetic.py_func), simd.cache_folder(simd.inverse_root.py_func)}
    assert len(folders) == 2 and all(folder.startswith(str(tmp_path)) for folder in folders)


def test_a_home_that_cannot_be_written_does_not_stop_compilation(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(simd.tempfile, "gettempdir", lambda: str(tmp_path))
    assert simd.cache_folder(_arithmetic.py_func).startswith(str(tmp_path / "twostream-"))
