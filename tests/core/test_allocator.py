"""Freed memory that is kept: counted by the pages that the system has to clear."""

import os
import platform
import subprocess
import sys

import pytest

from twostream.core import allocator as memory

pytestmark = pytest.mark.slow

FAULTS = """
import resource, torch
from twostream.core.allocator import keep_freed_memory
wanted = {wanted}
assert not wanted or keep_freed_memory() is {kept}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):  # the first few until what is kept fits
    torch.ones(1 << 24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")


def _faults(wanted, kept=True, **environment):
    cleared = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    code = FAULTS.format(wanted=wanted, kept=kept)
    ran = subprocess.run(
        [sys.executable, "-c", code], env=cleared | environment, capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


@needs_glibc
def test_large_tensors_come_from_memory_that_was_there():
    assert _faults(wanted=True) < _faults(wanted=False) / 2


@needs_glibc
def test_a_machine_that_cannot_hold_twice_as_much_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    assert not memory.keep_freed_memory()


def test_the_limit_of_a_control_group_bounds_the_available_memory(tmp_path):
    for name, text in {"max": "2000", "current": "1500", "stat": "anon 3\nactive_file 100\ninactive_file 200"}.items():
        (tmp_path / f"memory.{name}").write_text(text + "\n")
    assert memory.available_in_group(tmp_path) == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_in_group(tmp_path) == memory.available_in_group(tmp_path / "none") == float("inf")
    assert 0 < memory.available_memory() < 1 << 50


@needs_glibc
@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}], ids=["old", "new"]
)
def test_an_allocator_set_up_by_hand_is_left_alone(environment):
    assert _faults(wanted=True, kept=False, **environment) > 2 * _faults(wanted=True)


@needs_glibc
@pytest.mark.parametrize("threshold, undone", [("65536", True), ("70000", False)], ids=["Dask's", "the user's"])
def test_what_dask_sets_for_its_workers_is_undone(threshold, undone):
    code = (
        "import os, resource, numpy\nfrom twostream.core.allocator import undo_dasks_setting\n"
        "undo_dasks_setting()\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(100):\n    numpy.ones(1 << 17).sum()\n"  # 256 pages, too few for a huge one
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, 'MALLOC_TRIM_THRESHOLD_' in os.environ)"
    )
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": threshold}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    faults, is_set = ran.stdout.split()
    assert (int(faults) < 100 * 256 / 2) is undone and (is_set == "False") is undone
