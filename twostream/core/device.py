"""Find out whether there is a GPU, without importing torch on a machine that has none."""

from __future__ import annotations

import contextlib
import ctypes
from importlib.metadata import PackageNotFoundError, version

from twostream.errors import UserError


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU; import torch only on a machine with an NVIDIA driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return False
    import torch

    return torch.cuda.is_available()


def device_of(accelerator: str) -> str:
    """Return `cuda` or `cpu` for a value of `runtime.accelerator`.

    Raises:
        UserError: it is `gpu` and there is no GPU that PyTorch can use.
    """
    if accelerator == "cpu":
        return "cpu"
    if has_gpu():
        return "cuda"
    if accelerator == "gpu":
        raise UserError("runtime.accelerator: gpu, but PyTorch finds no GPU that it can use; write auto or cpu")
    return "cpu"


def gpu_identity() -> dict[str, str]:
    """Return the kind of the GPU and Triton's version: the last bits of what it computes depend on them."""
    import torch

    found = torch.cuda.is_available()
    kind = "sm_{}{}".format(*torch.cuda.get_device_capability()) if found else "none"
    with contextlib.suppress(PackageNotFoundError):
        return {"gpu": kind, "triton": version("triton")}
    return {"gpu": kind}
