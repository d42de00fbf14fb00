"""torchvision's RAFT (Teed & Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional
from torchvision.models import optical_flow

from twostream.errors import UserError
from twostream.flow.batch import BatchSolver
from twostream.networks.weight_files import fetch, read_weights

if TYPE_CHECKING:
    from twostream.params import Raft

_MODELS = {
    "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
}
_SMALLEST = 128  # pixels: the coarsest correlation volume has a cell per 64 pixels and needs two on each side


class RaftSolver(BatchSolver):
    """RAFT in 32 bit on one device; a grey image is used for all three colour channels."""

    def __init__(self, settings: Raft, device: torch.device) -> None:
        self.device = device
        self._updates = settings.updates
        self._network = _network(settings).eval().to(device)

    @torch.inference_mode()
    def match_batch(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the flow float32 [N, H, W, 2] in pixels of pairs uint8 [N, H, W], all on the device."""
        height, width = first.shape[1:]
        left, right = _margins(width)
        top, bottom = _margins(height)
        images = torch.stack([first, second])[:, :, None].float() / 127.5 - 1  # [2, N, 1, H, W] in -1..1
        images = functional.pad(images.flatten(0, 1), (left, right, top, bottom), mode="replicate")
        one, two = images.expand(-1, 3, -1, -1).chunk(2)
        flow = self._network(one, two, num_flow_updates=self._updates)[-1]
        return flow[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1).contiguous()


def solver(settings: Raft, device: Literal["cpu", "cuda"]) -> RaftSolver:
    """Return the solver for a device.

    Raises:
        UserError: the weights cannot be fetched or read, or belong to another model.
    """
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
    """Return the pixels to add before and after a side, so that it is a multiple of 8 and long enough."""
    more = max(-(-length // 8) * 8, _SMALLEST) - length
    return more // 2, more - more // 2
