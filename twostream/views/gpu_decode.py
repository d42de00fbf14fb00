"""Training views made on the device that trains, batch by batch; the loader's workers only read files.

JPEGs are decoded there (on a GPU by nvJPEG), then cropped, resized, mirrored and recoloured. The same draws give the
same views as `twostream.views.transforms.read_view` makes on the CPU, of flow to a level of 255, of colour to a few at
sharp edges, since the decoder interpolates chroma another way.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn import functional

from twostream.errors import UserError
from twostream.views.transforms import View, noise_pattern


class EncodedViews:
    """A batch of views still to be made. No dataclass: Lightning would take that apart to move it to the device.

    Args:
        jpegs: each clip's S x L frames as files, segment after segment, which decoders read from the CPU's memory.
        views: what is done to each clip.
        length: L.
        size: side of the views in pixels.
        flow: whether the frames are flow.
        demean: as in :func:`twostream.views.transforms.read_view`.
    """

    def __init__(self, jpegs: list[list[bytes]], views: list[View], length: int, size: int, flow: bool, demean: bool):
        self.jpegs, self.views = jpegs, views
        self.length, self.size, self.flow, self.demean = length, size, flow, demean


def make_views(batch: EncodedViews, device: torch.device) -> torch.Tensor:
    """uint8 [B, S, C, L, size, size] on `device`.

    Raises:
        UserError: a frame is damaged, or this torchvision cannot decode on this device.
    """
    pictures = iter(_decode([jpeg for clip in batch.jpegs for jpeg in clip], batch.flow, device))
    views = []
    for jpegs, view in zip(batch.jpegs, batch.views, strict=True):
        frames = torch.stack([next(pictures) for _ in jpegs])  # [S*L, C, H, W]
        frames = _one_view(frames, view, batch)
        views.append(frames.unflatten(0, (-1, batch.length)).transpose(1, 2))
    return torch.stack(views)


def _decode(jpegs: list[bytes], flow: bool, device: torch.device) -> list[torch.Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        # Its bytes are read-only, which nobody minds who only reads; the decoder is announced to move to TorchCodec.
        warnings.simplefilter("ignore")
        files = [torch.frombuffer(jpeg, dtype=torch.uint8) for jpeg in jpegs]
        try:
            return decode_jpeg(files, ImageReadMode.GRAY if flow else ImageReadMode.RGB, device=device)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"train.decode: frames cannot be decoded on the {device.type} ({reason}); set it to cpu"
            ) from None


def _one_view(frames: torch.Tensor, view: View, batch: EncodedViews) -> torch.Tensor:
    lowest = 0.0
    if batch.flow:
        frames = torch.cat(frames.chunk(2, dim=3), dim=1).float()  # x and y side by side to [T, 2, H, W]
        if batch.demean:
            frames, lowest = frames + 128 - frames.flatten(2).median(2).values[..., None, None], 1.0
    square = frames[:, :, view.top : view.top + view.side, view.left : view.left + view.side].float()
    square = functional.interpolate(square, (batch.size, batch.size), mode="bilinear", antialias=True)
    if view.flip:
        square = square.flip(3)
    if batch.flow:
        if view.flip:
            square = torch.stack([256 - square[:, 0], square[:, 1]], 1)
        return _to_bytes(square, lowest)
    if view.colour is not None:
        colour = torch.from_numpy(view.colour).float().to(square.device)
        square = torch.einsum("dc,tchw->tdhw", colour[:, :3], square) + colour[:, 3, None, None]
    if view.tone is not None:
        square = torch.from_numpy(view.tone).to(square.device)[_to_bytes(square).long()]
    if view.noise is not None:
        square = _to_bytes(square) + torch.from_numpy(noise_pattern(view, batch.size)).to(square.device)
    return _to_bytes(square)


def _to_bytes(values: torch.Tensor, lowest: float = 0.0) -> torch.Tensor:
    return values if values.dtype == torch.uint8 else values.add(0.5).floor().clamp(lowest, 255).to(torch.uint8)
