"""RAFT flow (Teed & Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020), torchvision's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch.nn import functional
from torchvision.models import optical_flow

from twostream.errors import UserError
from twostream.flow import Solver
from twostream.networks.weights import fetch, read_weights

if TYPE_CHECKING:
    from twostream.params import Raft

_MODELS = {
    "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
}
_SMALLEST = 128  # its coarsest correlations stand for 64 pixels, and it needs two of them a side


class RaftSolver(Solver):
    """RAFT in 32 bit on one device; grey images stand for all three colours."""

    def __init__(self, settings: Raft, device: torch.device) -> None:
        self.device = device
        self._updates = settings.updates
        self._network = _network(settings).eval().to(device)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """The image on the device, uint8 [1, H, W]."""
        return torch.tensor(image, device=self.device)[None]

    def match(self, first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        """Flow float32 [H, W, 2] in pixels between two prepared images."""
        return self.match_batch(first, second)[0].cpu().numpy()

    @torch.inference_mode()
    def match_batch(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Flow of many pairs at once: two uint8 [N, H, W] on the device to float32 [N, H, W, 2] pixels, there too."""
        height, width = first.shape[1:]
        left, right = _margins(width)
        top, bottom = _margins(height)
        images = torch.stack([first, second])[:, :, None].float() / 127.5 - 1  # [2, N, 1, H, W] as its weights want it
        images = functional.pad(images.flatten(0, 1), (left, right, top, bottom), mode="replicate")
        one, two = images.expand(-1, 3, -1, -1).chunk(2)
        flow = self._network(one, two, num_flow_updates=self._updates)[-1]
        return flow[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1).contiguous()


def solver(settings: Raft, device: Literal["auto", "cpu", "cuda"] = "auto") -> RaftSolver:
    """A solver of two uint8 [H, W] images to float32 [H, W, 2] pixels; `auto` is the GPU where there is one.

    Raises:
        UserError: the weights cannot be fetched or read or are another model's, or there is no GPU to use.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("flow.device: cuda, but torch finds no GPU; use auto or cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return RaftSolver(settings, torch.device(device))


def _network(settings: Raft) -> optical_flow.RAFT:
    build, pretrained = _MODELS[settings.model]
    network = build()
    if settings.weights == "pretrained":
        place = Path(torch.hub.get_dir(), "checkpoints", pretrained.url.rpartition("/")[2])
        state = fetch(
            f"raft {settings.model}",
            pretrained.url,
            place,
            lambda: pretrained.get_state_dict(progress=False, check_hash=True),
        )
        where = str(place)
    elif not Path(settings.weights).is_file():
        file = pretrained.url.rpartition("/")[2]
        raise UserError(f"flow.raft.weights: {settings.weights} is no file; write pretrained, or the path of {file}")
    else:
        state, where = read_weights(settings.weights), settings.weights
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"{where}: not the weights of raft {settings.model}: {reason[:200]}") from None
    return network


def _margins(length: int) -> tuple[int, int]:
    """Pixels to add before and after, so that a side is a multiple of 8 and long enough."""
    more = max(-(-length // 8) * 8, _SMALLEST) - length
    return more // 2, more - more // 2
