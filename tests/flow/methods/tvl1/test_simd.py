"""Vectors of sixteen floats inside compiled kernels: every operation against NumPy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from twostream.flow.methods.tvl1 import simd
from twostream.flow.methods.tvl1.simd import LANES, kernel, load, splat, store


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


@pytest.fixture
def clone(tmp_path):
    """Return a function that copies the package to a folder of this name, as a clone would: new paths, new times."""

    def make(name: str) -> Path:
        shutil.copytree(ROOT / "twostream", tmp_path / name / "twostream", copy_function=shutil.copyfile)
        return tmp_path / name

    return make


def _compiled(project: Path, cache: Path) -> int:
    """Return how many kernels a new process that imports the package from `project` compiles."""
    script = """
import numpy as np
from twostream.flow.methods.tvl1 import cpu
kernels = cpu.repeat_border, cpu.repeat_flow_border
for kernel in kernels:
    kernel(np.zeros(100 * cpu.PLANES * 48, np.float32), 4, 4, 48)
assert cpu.__file__.startswith({project!r})
print(sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(project)}
    command = [sys.executable, "-c", script.format(project=str(project))]
    return int(subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True).stdout)


@pytest.mark.slow
def test_a_clone_compiles_nothing_until_the_code_differs_and_unused_machine_code_goes(clone, tmp_path):
    cache = tmp_path / "cache"
    assert _compiled(clone("first"), cache) == 2
    (folder,) = (cache / "twostream").iterdir()
    second = clone("second")
    assert _compiled(second, cache) == 0
    with open(second / "twostream/flow/methods/tvl1/cpu.py", "a") as file:
        file.write("# edited\n")
    for name, days in (("kernels-recent", 1), ("kernels-old", 100)):
        (cache / "twostream" / name).mkdir()
        os.utime(cache / "twostream" / name, (time.time() - days * 86400,) * 2)
    assert _compiled(second, cache) == 2
    left = {path.name for path in (cache / "twostream").iterdir()}
    assert len(left) == 3 and {folder.name, "kernels-recent"} < left


def test_a_home_that_cannot_be_written_does_not_stop_compilation(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(simd.tempfile, "gettempdir", lambda: str(tmp_path))
    simd.cache_folder.cache_clear()
    assert simd.cache_folder(__file__).startswith(str(tmp_path / "twostream-"))
    simd.cache_folder.cache_clear()
