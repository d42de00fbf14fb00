"""Motion networks from appearance weights: weights learnt on images start a network on flow, or one on volumes.

Two ways, alone or one after the other:

- Cross-modality (:func:`adapt_first_conv`): only the first layer sees the channels, so only its filters must change.
  They are averaged over RGB and repeated for each flow channel. Wang et al., Temporal Segment Networks, ECCV 2016,
  section 3.2.
- Inflation (:func:`inflate`, :func:`inflate_kernel`): 2D kernels are repeated over time and divided by the number of
  repeats, so that the 3D network's logits for a still clip are the 2D network's for its image. Carreira & Zisserman,
  Quo Vadis, Action Recognition?, CVPR 2017, section 3.1.

Where kernels get a temporal extent follows the I3D baseline of Wang et al., Non-local Neural Networks, CVPR 2018,
section 4.1: five frames in the stem and three in only some of the layers, since inflating more of them hardly pays.
Here that is every second convolution wider than one pixel, 3x3 or depthwise: of ResNet-50 and EfficientNet one in every
other block, of ResNet-18 the second of each block. Time is halved once, by the stem; the networks of both papers halve
it more often, but see 32 to 64 frames.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from twostream.networks.layers import replace_module

STEM_FRAMES, STEM_STRIDE = 5, 2
BODY_FRAMES = 3


def adapt_first_conv(weight: torch.Tensor, channels: int, frame_channels: int) -> torch.Tensor:
    """Convert a first convolution's weight `[O, I, ...]` to `channels` input channels, `[O, channels, ...]`.

    From another modality, the filters are averaged over their channels and repeated, without a factor: Wang et al.
    2016, section 3.2. From the same modality (I is a multiple of `frame_channels`), they are averaged over the frames
    and repeated for the new number of frames, x filters for x and y filters for y. The factor (old by new number of
    frames) keeps the response to a stack of equal frames: Carreira & Zisserman 2017, section 3.1, on stacked frames.
    """
    source = weight.shape[1]
    if source % frame_channels:
        return weight.mean(1, keepdim=True).repeat(1, channels, *(1,) * (weight.ndim - 2))
    frames = weight.unflatten(1, (source // frame_channels, frame_channels))  # [O, frames, frame_channels, ...]
    repeated = frames.mean(1).repeat(1, channels // frame_channels, *(1,) * (weight.ndim - 2))
    return repeated * (source / channels)


def inflate_kernel(weight: torch.Tensor, frames: int) -> torch.Tensor:
    """Repeat a 2D kernel `[O, I, H, W]` over `frames` and divide by it: `[O, I, frames, H, W]`."""
    return (weight / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)


def inflate(network: nn.Module, first_conv: str) -> Inflated:
    """Turn a 2D convolutional network and its weights into a network on volumes, in place.

    For a clip of any length that repeats one image, the logits are those of the 2D network for that image.

    Args:
        network: images `[B, C, H, W]` to logits `[B, classes]`, with one global average pooling before its classifier
            (torchvision's ResNets, most convolutional networks of timm). Parameters keep their names.
        first_conv: name of the convolution that reads the image.

    Raises:
        ValueError: the network has no global pooling, or a convolution of a kind that is not plain.
    """
    pools = [name for name, module in network.named_modules() if _is_global_pool(module)]
    if not pools:
        raise ValueError("it has no global pooling; only convolutional networks can be inflated")
    network.to(memory_format=torch.channels_last)  # while all weights are 2D: the format is for four axes
    length = ClipLength()
    convs = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    if first_conv not in convs:
        raise ValueError("its first layer is not a convolution; choose another network")
    wide = [name for name, conv in convs.items() if max(conv.kernel_size) > 1 and name != first_conv]
    replace_module(network, first_conv, TemporalConv(convs[first_conv], STEM_FRAMES, STEM_STRIDE, length))
    for name in wide[1::2]:
        replace_module(network, name, TemporalConv(convs[name], BODY_FRAMES, 1, length))
    replace_module(network, pools[-1], _PoolOverTime(network.get_submodule(pools[-1]), length))
    return Inflated(network, length)


class ClipLength:
    """The number of frames per clip at the current layer of a forward pass, shared by all layers of one network.

    Frames go through the network as one batch, so a layer cannot see from its input's shape where a clip ends.
    `Inflated.forward` sets the number, and the stem, which halves time, updates it.
    """

    frames = 1


class Inflated(nn.Module):
    """A network on volumes, `[B, C, L, H, W]` to `[B, classes]` for any L; :func:`inflate` makes it.

    Frames go through the 2D network as images of one batch, and only the layers with a temporal extent know which of
    them follow each other. All other layers (padding, batch norm, pooling) stay those of the 2D network.
    """

    def __init__(self, backbone: nn.Module, length: ClipLength):
        super().__init__()
        self.backbone = backbone
        self._length = length

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        self._length.frames = volume.shape[2]
        images = volume.transpose(1, 2).flatten(0, 1)  # [B*L, C, H, W]
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


class TemporalConv(nn.Module):
    """A 2D convolution's weights with a temporal extent: frames in a batch, `[B*L, I, H, W]` to `[B*M, O, H', W']`.

    M is L over the temporal stride, rounded up. At both ends the first and the last frame are repeated; with zeros, the
    response to a still clip would differ from that to its image.

    A dense kernel becomes `weight` `[O, I, T, H, W]`. An inflated kernel is the outer product of the 2D kernel and a
    mean over time, and a depthwise or grouped one stays such a product: the 2D `weight`, then `temporal` `[T, O]`, a
    weighted mean per channel that starts as the plain mean (the (2+1)D of Tran et al. 2018). The result is the same,
    and full depthwise 3D kernels take up to five times as long on a CPU.

    Raises:
        ValueError: the convolution is not a plain one, or a grouped one is to have a temporal stride.
    """

    def __init__(self, conv: nn.Conv2d, frames: int, stride: int, length: ClipLength):
        super().__init__()
        self._same = type(conv).__name__ == "Conv2dSame"  # timm's, with the "same" padding of TensorFlow
        if (type(conv) is not nn.Conv2d and not self._same) or conv.padding_mode != "zeros":
            raise ValueError(f"{type(conv).__name__} is not a plain convolution; choose another network")
        if conv.groups > 1 and stride > 1:
            raise ValueError("its first convolution is grouped; choose another network")
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.frames, self.temporal_stride, self._length = frames, stride, length
        self.bias = conv.bias
        if conv.groups == 1:
            inflated = inflate_kernel(conv.weight.detach(), frames)
            self.weight = nn.Parameter(inflated.contiguous(memory_format=torch.channels_last_3d))
        else:
            self.weight = nn.Parameter(conv.weight)
            self.temporal = nn.Parameter(torch.full_like(conv.weight[:, 0, 0, 0], 1.0 / frames).repeat(frames, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self._same:
            from timm.layers import pad_same  # loaded already, and by its own function the two networks agree

            images = pad_same(images, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        return self._dense(images) if self.groups == 1 else self._factored(images)

    def _dense(self, images: torch.Tensor) -> torch.Tensor:
        strides, dilation = (self.temporal_stride, *self.stride), (1, *self.dilation)
        volume = functional.conv3d(
            self._padded_volume(images), self.weight, self.bias, strides, (0, *self.padding), dilation
        )
        self._length.frames = volume.shape[2]
        return _as_images(volume)

    def _factored(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.conv2d(
            images, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        volume, length = self._padded_volume(images), self._length.frames
        weights = self.temporal.to(volume.dtype)[:, :, None, None, None]  # or mixed precision would go back to 32 bit
        mean = volume[:, :, :length] * weights[0]
        for t in range(1, self.frames):
            mean = torch.addcmul(mean, volume[:, :, t : t + length], weights[t])
        return _as_images(mean)

    def _padded_volume(self, images: torch.Tensor) -> torch.Tensor:
        """Return `[B*L, C, H, W]` as `[B, C, L + T - 1, H, W]`; in memory, channels stay last."""
        volume = images.unflatten(0, (-1, self._length.frames)).transpose(1, 2)
        side = self.frames // 2
        return torch.cat([*[volume[:, :, :1]] * side, volume, *[volume[:, :, -1:]] * side], 2)


class _PoolOverTime(nn.Module):
    """The 2D network's pooling, then the mean over a clip's frames: `[B*L, ...]` to `[B, ...]`."""

    def __init__(self, pool: nn.Module, length: ClipLength):
        super().__init__()
        self.pool, self._length = pool, length

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(images).unflatten(0, (-1, self._length.frames)).mean(1)


def _as_images(volume: torch.Tensor) -> torch.Tensor:
    return volume.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _is_global_pool(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))
