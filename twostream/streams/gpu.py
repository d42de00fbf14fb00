"""What training and scoring do differently on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from twostream.errors import UserError


def has_bf16() -> bool:
    """Return whether the GPU computes in bfloat16 itself; PyTorch emulates it on older ones, many times slower."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return a context in which a network is evaluated: bfloat16 where the GPU has it, as in training, else float32."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda" and has_bf16())


def prefer_channels_last(model: nn.Module, device: torch.device) -> None:
    """Store the weights of 3D convolutions on a GPU with channels last, the order of its tensor cores.

    The convolutions then convert their input themselves. 2D networks do this on every device; see `StackedFrames`.
    """
    if device.type == "cuda":
        for parameter in model.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


@contextlib.contextmanager
def memory_as_user_error(remedy: str) -> Iterator[None]:
    """Turn a GPU's lack of memory into a UserError that ends with a remedy."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(f"the memory of the GPU is too small; {remedy}") from None
