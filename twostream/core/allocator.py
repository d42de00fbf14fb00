"""The memory of computations that ask for the same large tensors again and again."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for what comes next, where glibc allocates; elsewhere nothing changes.

    By default every large tensor comes fresh from the system, which clears its pages at the first touch: on a CPU up to
    half of a training step goes into that (`benchmarks/loader.py --fresh-memory`). What was freed is not always of the
    size that is wanted next, so the process then grows, to less than twice its size in all that was measured. To be
    called when it has been as large as it gets, after a step: where the machine has no room for twice as much, and
    where the allocator was set up by environment variables, nothing changes either.

    Returns:
        Whether this call has seen to it.
    """
    by_hand = any(name.startswith("MALLOC_") for name in os.environ)
    if by_hand or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):  # not in musl, macOS or Windows
        import resource

        mallopt = ctypes.CDLL(None).mallopt
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return available_memory() > 2 * peak and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False


def available_memory() -> int:
    """Bytes that this process can still get, by the machine's free memory and by the limits of its control groups."""
    import psutil

    room = psutil.virtual_memory().available
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = Path("/sys/fs/cgroup") / line[3:].lstrip("/")
                room = min([room, *(_room_of(parent) for parent in (group, *group.parents))])
    return max(0, int(room))


def _room_of(group: Path) -> float:
    """What a limit leaves, where there is one: files that the system has read ahead can go."""
    try:
        limit, used = (int((group / f"memory.{what}").read_text()) for what in ("max", "current"))
        sizes = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(sizes["active_file"]) + int(sizes["inactive_file"])
    except (OSError, ValueError, KeyError):  # not a group with a limit
        return math.inf
