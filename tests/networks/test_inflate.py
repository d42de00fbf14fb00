import copy

import pytest
import timm
import torch
from helpers import TEST_DATA
from torch.nn import functional
from torchvision.models import get_model

from twostream.errors import UserError
from twostream.networks.inflate import ClipLength, TemporalConv, adapt_first_conv, inflate, inflate_kernel
from twostream.networks.registry import create_model

pytestmark = pytest.mark.slow

EFFICIENTNET = TEST_DATA / "weights" / "tf_efficientnet_lite0_imagenet.pth"


def make(name, modality="flow", classes=5, frames=8, input_size=32, **options):
    return create_model(name, modality=modality, classes=classes, frames=frames, input_size=input_size, **options)


def network2d(name):
    """A 2D network as after training: batch norm with statistics of its own. Returns it and its first convolution."""
    torch.manual_seed(0)
    if name.startswith("timm/"):
        network = timm.create_model(name.removeprefix("timm/"), num_classes=6)
        first = network.default_cfg["first_conv"]
    else:
        network, first = get_model(name, num_classes=6), "conv1"
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.3, 0.9)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval(), first


def temporal_convs(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, TemporalConv)}


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "timm/tf_efficientnet_lite0",
        "timm/resnet18d",
        "timm/resnext50_32x4d",
        "timm/mobilenetv3_large_100",
        "timm/convnext_atto",
    ],
)
def test_a_still_clip_of_any_length_has_the_logits_of_its_image(name):
    network, first = network2d(name)
    images = torch.randn(2, 3, 65, 50)
    inflated = inflate(copy.deepcopy(network), first)
    with torch.no_grad():
        logits = network(images)
        for length in (1, 2, 5, 16):
            clip = images[:, :, None].expand(-1, -1, length, -1, -1)
            torch.testing.assert_close(inflated(clip), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_resnet_is_inflated_at_its_stem_and_at_every_second_wide_convolution(depth):
    # Wide convolutions beside the stem: two a block in the shallow networks, one in the deep ones (He et al. 2016).
    wide = {18: 16, 34: 32, 50: 16, 101: 33, 152: 50}[depth]
    with torch.device("meta"):
        inflated = inflate(get_model(f"resnet{depth}"), "conv1")
    found = temporal_convs(inflated.backbone)
    assert len(found) == 1 + wide // 2
    assert found["conv1"].weight.shape == (64, 3, 5, 7, 7)
    assert {module.weight.shape[2:] for name, module in found.items() if name != "conv1"} == {(3, 3, 3)}


def test_kernels_are_repeated_over_time_and_divided():
    weight = torch.arange(2 * 3 * 4, dtype=torch.float32).view(2, 3, 2, 2)
    inflated = inflate_kernel(weight, 3)
    assert inflated.shape == (2, 3, 3, 2, 2)
    for frame in range(3):
        torch.testing.assert_close(inflated[:, :, frame], weight / 3)


@pytest.mark.parametrize(("groups", "frames", "stride"), [(1, 5, 2), (1, 3, 1), (6, 3, 1), (2, 3, 1)])
@pytest.mark.parametrize("length", [1, 4, 7])
def test_a_temporal_convolution_is_a_3d_convolution_with_the_end_frames_repeated(groups, frames, stride, length):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 12, (3, 5), (2, 1), (1, 2), groups=groups)
    flat = conv.weight.detach().clone()
    clip_length = ClipLength()
    clip_length.frames = length
    temporal = TemporalConv(conv, frames, stride, clip_length)
    if groups == 1:
        torch.nn.init.normal_(temporal.weight)
        kernel = temporal.weight
    else:
        torch.nn.init.uniform_(temporal.temporal)
        temporal.temporal.data /= temporal.temporal.data.sum(0)  # so that the bias is not weighed too
        kernel = flat.unsqueeze(2) * temporal.temporal.T[:, None, :, None, None]
    volume = torch.randn(2, 6, length, 9, 8)
    side = frames // 2
    expected = functional.conv3d(
        functional.pad(volume, (0, 0, 0, 0, side, side), mode="replicate"),
        kernel,
        conv.bias,
        (stride, 2, 1),
        (0, 1, 2),
        groups=groups,
    )
    images = temporal(volume.transpose(1, 2).flatten(0, 1))
    assert clip_length.frames == -(-length // stride)
    found = images.unflatten(0, (2, clip_length.frames)).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_inflated_network_sees_the_order_of_frames_once_its_kernels_do():
    network, first = network2d("resnet18")
    inflated = inflate(network, first)
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        for module in temporal_convs(inflated).values():
            module.weight.mul_(torch.linspace(0.2, 1.8, module.frames).view(-1, 1, 1))
        forth, back = inflated(clip), inflated(clip.flip(2))
    assert (forth - back).abs().max() > 1e-3


def test_clips_of_a_batch_do_not_mix():
    network, first = network2d("timm/tf_efficientnet_lite0")
    inflated = inflate(network, first)
    clips = torch.randn(3, 3, 7, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(inflated(clips)[1:2], inflated(clips[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["inflated/resnet18", "inflated/timm/test_resnet", "inflated/timm/test_efficientnet"])
@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_rgb_weights_of_the_2d_network_start_the_inflated_one(tmp_path, name, modality):
    source = make(name.removeprefix("inflated/"), "rgb", frames=1).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    loaded = make(name, modality, weights=str(tmp_path / "w.pt")).eval()
    assert loaded.new_parameters == []
    # Flow equal in both channels, and RGB that is the same grey: what both filters see differs by their number alone.
    grey = torch.randn(2, 1, 1, 1, 32, 32)
    if modality == "rgb":
        expected = source(grey.expand(-1, -1, 3, -1, -1, -1))
        found = loaded(grey.expand(-1, -1, 3, 8, -1, -1))
    else:
        expected = source(grey.expand(-1, -1, 3, -1, -1, -1) * 2 / 3)
        found = loaded(grey.expand(-1, -1, 2, 8, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["inflated/resnet18", "inflated/timm/test_efficientnet"])
def test_a_trained_inflated_network_starts_another(tmp_path, name):
    source = make(name, "rgb", classes=9).eval()
    with torch.no_grad():
        for module in temporal_convs(source).values():
            module.weight.mul_(1 + torch.rand_like(module.weight))
    torch.save(source.state_dict(), tmp_path / "model.pt")
    again = make(name, "rgb", classes=9, weights=str(tmp_path / "model.pt")).eval()
    clip = torch.randn(1, 2, 3, 8, 32, 32)
    assert torch.equal(again(clip), source(clip))
    flow = make(name, "flow", classes=4, weights=str(tmp_path / "model.pt"))
    stem = next(iter(temporal_convs(flow).values())).weight
    torch.testing.assert_close(stem[:, 1], next(iter(temporal_convs(source).values())).weight.mean(1))
    assert len(flow.new_parameters) == 2


def test_a_network_that_cannot_be_inflated_is_one_line():
    with pytest.raises(UserError, match=r"inflated/timm/vit_tiny_patch16_224: cannot be inflated: .*global pooling"):
        make("inflated/timm/vit_tiny_patch16_224")
    with pytest.raises(UserError, match="cannot be inflated: ScaledStdConv2d is not a plain convolution"):
        make("inflated/timm/test_nfnet")
    with pytest.raises(UserError, match="cannot be inflated: several convolutions read its image"):
        make("inflated/timm/repvgg_a0")


def test_flow_filters_are_the_mean_of_rgb_filters_repeated():
    rgb = torch.arange(2 * 3 * 4, dtype=torch.float32).view(2, 3, 2, 2)
    for channels in (2, 10):  # one flow field, and a stack of five
        flow = adapt_first_conv(rgb, channels, 2)
        assert flow.shape == (2, channels, 2, 2)
        for channel in range(channels):
            torch.testing.assert_close(flow[:, channel], (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) / 3)


def test_a_longer_stack_of_flow_keeps_x_with_x_and_the_response_to_a_still_stack():
    torch.manual_seed(0)
    stack, frame = torch.randn(3, 4, 1, 1), torch.randn(1, 2, 1, 1)
    longer = adapt_first_conv(stack, 10, 2)
    torch.testing.assert_close(longer[:, 6], (stack[:, 0] + stack[:, 2]) / 5)
    before, after = (functional.conv2d(frame.repeat(1, n, 1, 1), w) for n, w in ((2, stack), (5, longer)))
    torch.testing.assert_close(after, before)


@pytest.mark.skipif(not EFFICIENTNET.exists(), reason="the ImageNet weights are not at hand")
def test_inflated_imagenet_weights_classify_a_still_clip_as_the_image():
    reference = timm.create_model("tf_efficientnet_lite0")
    reference.load_state_dict(torch.load(EFFICIENTNET, weights_only=True))
    model = make("inflated/timm/tf_efficientnet_lite0", "rgb", classes=1000, weights=str(EFFICIENTNET)).eval()
    image = torch.rand(1, 3, 112, 112) * 2 - 1
    clip = image[:, None, :, None].expand(-1, 1, -1, 6, -1, -1)
    torch.testing.assert_close(model(clip), reference.eval()(image), rtol=1e-4, atol=1e-4)
