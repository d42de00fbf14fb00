"""Memory of computations that need the same large tensors again and again."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # from glibc's malloc.h
_OF_DASK = ("MALLOC_TRIM_THRESHOLD_", "65536")  # the environment variable that Dask's nanny sets for its workers


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for later allocations of this process, and return whether it now does.

    By default every large tensor comes fresh from the system, which clears its pages at the first access: up to half of
    a training step on a CPU (`benchmarks/loader.py --fresh-memory`). Freed blocks do not always fit later requests, so
    the process grows, to less than twice its size in all that was measured. Call this after a step, when the process is
    as large as it gets. Nothing changes where the machine has no room for twice as much, where environment variables
    configure the allocator, and with another C library.
    """
    configured = any(name.startswith("MALLOC_") for name in os.environ)
    if configured or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):  # musl or macOS
        import resource

        mallopt = ctypes.CDLL(None).mallopt
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return available_memory() > 2 * peak and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False


def undo_dasks_setting() -> None:
    """Make glibc allocate in a worker of Dask as in any other process.

    Dask has workers return all freed memory to the system at once, so that every frame is made of fresh pages, which
    the system clears first: extraction took 1.4 times as long. The values are the largest that glibc takes by itself.
    """
    if os.environ.get(_OF_DASK[0]) == _OF_DASK[1]:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_MMAP_THRESHOLD, 2**25)
            mallopt(_TRIM_THRESHOLD, 2**26)
            del os.environ[_OF_DASK[0]]  # or `keep_freed_memory` would take it for the user's


def available_memory() -> int:
    """Return the bytes that this process can still get, by the free memory and the limits of its control groups."""
    import psutil

    available = psutil.virtual_memory().available
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
                available = min([available, *(available_in_group(parent) for parent in (group, *group.parents))])
    return max(0, int(available))


def available_in_group(group: Path) -> float:
    """Return what the memory limit of a control group leaves; cached files count as free. inf without a limit."""
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        sizes = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(sizes["active_file"]) + int(sizes["inactive_file"])
    except (OSError, ValueError, KeyError):
        return math.inf
