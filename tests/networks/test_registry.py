import functools
import json
import re

import pytest
import torch
from helpers import TEST_DATA

from twostream.errors import UserError
from twostream.networks.layers import StackedFrames
from twostream.networks.names import KNOWN
from twostream.networks.registry import create_model, list_models

EFFICIENTNET = TEST_DATA / "weights" / "tf_efficientnet_lite0_imagenet.pth"


def make(name, modality="rgb", classes=5, frames=8, input_size=32, **options):
    return create_model(name, modality=modality, classes=classes, frames=frames, input_size=input_size, **options)


def views(modality="rgb", clips=2, segments=3, frames=8, size=32):
    return torch.randn(clips, segments, 3 if modality == "rgb" else 2, frames, size, size)


@functools.cache
def listed():
    return list_models()


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["rgb", "flow"])
@pytest.mark.parametrize("name", [*KNOWN, "timm/test_resnet", "inflated/timm/test_efficientnet"])
def test_every_model_takes_both_modalities_and_learns_from_every_parameter(name, modality):
    frames, size = (16, 224) if name == "video/mvit_v2_s" else (8, 32)  # it takes nothing else
    with torch.device("meta"):  # where only shapes are computed
        model = make(name, modality, frames=frames, input_size=size)
        logits = model(views(modality, frames=frames, size=size))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_clip_logits_are_the_mean_over_segments():
    model = make("cnn3d_v2").eval()
    clip = views()
    each = torch.stack([model(clip[:, [s]]) for s in range(3)])
    torch.testing.assert_close(model(clip), each.mean(0))


def test_stacked_frames_become_channels_frame_after_frame():
    class Spy(torch.nn.Module):
        def forward(self, images):
            return images

    volume = torch.arange(2 * 3).float().view(1, 2, 3, 1, 1)  # x: 0 1 2, y: 3 4 5
    assert StackedFrames(Spy())(volume).flatten().tolist() == [0, 3, 1, 4, 2, 5]


# Counts at 51 classes: the study's networks; the ResNets from torchvision's published counts, their last layer swapped.
COUNTS = {
    ("cnn3d_v1", "rgb"): 1_125_555,
    ("cnn3d_v2", "rgb"): 325_875,
    ("resnet50", "rgb"): 25_557_032 - 2049 * 1000 + 2049 * 51,
    ("resnet18", "rgb"): 11_689_512 - 513 * 1000 + 513 * 51,
    ("i3d", "rgb"): 12_697_264 - 1025 * 400 + 1025 * 51,
    ("i3d_4f", "rgb"): 12_697_264 - 1025 * 400 - 1_974_272 - 2_784_736 + 833 * 51,  # without the blocks 5b and 5c
    ("video/r3d_18", "rgb"): 33_371_472 - 513 * 400 + 513 * 51,
    ("video/r2plus1d_18", "rgb"): 31_505_325 - 513 * 400 + 513 * 51,
    ("video/mc3_18", "rgb"): 11_695_440 - 513 * 400 + 513 * 51,
    ("video/s3d", "rgb"): 8_320_048 - 1025 * 400 + 1025 * 51,
    ("video/mvit_v2_s", "rgb"): 34_537_744 - 769 * 400 + 769 * 51,
    ("video/swin3d_t", "rgb"): 28_158_070 - 769 * 400 + 769 * 51,
    ("video/swin3d_s", "rgb"): 49_816_678 - 769 * 400 + 769 * 51,
    ("video/swin3d_b", "rgb"): 88_048_984 - 1025 * 400 + 1025 * 51,
}


@pytest.mark.slow
def test_the_list_holds_every_name_and_the_published_counts():
    rows = {(row["name"], row["modality"]): row for row in listed()}
    assert {name for name, _ in rows} >= set(KNOWN)
    assert {key: rows[key]["parameters"] for key in COUNTS} == COUNTS
    assert rows["resnet50", "rgb"]["parameters"] == 23_612_531
    assert rows["cnn3d_v1", "rgb"]["input"] == [3, 16, 112, 112]
    assert rows["resnet50", "flow"]["input"] == [2, 5, 224, 224]
    assert rows["inflated/resnet50", "flow"]["input"] == [2, 16, 224, 224]
    json.dumps(listed())


@pytest.mark.slow
def test_the_list_counts_what_a_built_model_holds():
    rows = {(row["name"], row["modality"]): row["parameters"] for row in listed()}
    for name in ("flow3d", "timm/tf_efficientnet_lite0", "inflated/timm/tf_efficientnet_lite0"):
        model = make(name, "flow", classes=51, frames=5 if name.startswith("timm/") else 16)
        assert sum(p.numel() for p in model.parameters()) == rows[name, "flow"]


@pytest.mark.slow
def test_the_flow_network_is_no_larger_than_the_first_3d_cnn():
    rows = {(row["name"], row["modality"]): row["parameters"] for row in listed()}
    assert rows["flow3d", "flow"] <= rows["cnn3d_v1", "flow"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "video/r3d_18", "flow3d", "timm/test_resnet", "inflated/resnet18"])
def test_the_same_seed_gives_the_same_network(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(make(name, "flow").state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "video/s3d", "cnn3d_v1", "timm/test_resnet", "inflated/resnet18"])
def test_dropout_is_before_the_last_layer_and_only_in_training(name):
    torch.manual_seed(0)
    model = make(name, dropout=0.5)
    for module in model.modules():
        module.training = not isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d))
    clip = views()
    assert not torch.equal(model(clip), model(clip))
    model.eval()
    assert torch.equal(model(clip), model(clip))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet50", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("timm/tf_efficientnet_lite0", [127.5] * 3, [127.5] * 3),
        ("inflated/timm/tf_efficientnet_lite0", [127.5] * 3, [127.5] * 3),
        ("video/r3d_18", [110.2008, 100.63983, 95.99475], [58.14765, 56.46975, 55.332195]),
        ("i3d", [127.5] * 3, [127.5] * 3),
        ("video/swin3d_t", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    ],
)
def test_rgb_is_normalised_as_the_weights_were_trained(name, mean, std):
    normalisation = make(name).normalisation
    assert normalisation["mean"] == pytest.approx(mean)
    assert normalisation["std"] == pytest.approx(std)


@pytest.mark.slow
def test_flow_is_normalised_around_zero_motion_for_every_model():
    for name in ("flow3d", "resnet18", "timm/test_resnet", "video/r3d_18", "inflated/resnet18", "i3d"):
        std = 127.0 if name == "i3d" else 57.6  # its flow weights were trained on -1 to 1
        assert make(name, "flow").normalisation == {"mean": [128.0, 128.0], "std": [std, std]}


@pytest.mark.parametrize("name", ["resnet18", "timm/tf_efficientnet_lite0", "timm/resnet18", "video/r3d_18"])
def test_a_new_classifier_starts_with_small_logits_however_few_the_classes(name):
    model = make(name, classes=2)
    weight = dict(model.named_parameters())
    last = [value for key, value in weight.items() if value.shape[:1] == (2,) and value.ndim == 2]
    assert len(last) == 1
    # torch draws a linear layer's weights uniformly up to 1 / sqrt(features)
    assert last[0].std().item() == pytest.approx((3 * last[0].shape[1]) ** -0.5, rel=0.1)


def test_a_misspelt_timm_name_gets_the_nearest_ones():
    with pytest.raises(UserError, match=r"timm/efficientnet_lit0: timm has no such model; did you mean .*efficientnet"):
        make("timm/efficientnet_lit0")


def test_unknown_timm_weights_are_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"timm has no weights 'nope' for it; choose from .*a1_in1k"):
        make("timm/resnet18.nope")


def test_a_name_outside_the_registry_is_refused():
    with pytest.raises(UserError, match="'resnet51' is not a model; did you mean 'resnet50'"):
        make("resnet51")


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [("cnn3d_v1", 2, 32), ("video/s3d", 2, 64), ("video/s3d", 16, 16), ("timm/halonet26t", 1, 40)],
)
def test_an_input_that_a_network_cannot_take_is_one_line(name, frames, size):
    with pytest.raises(UserError, match=f"{re.escape(name)}: cannot take {frames} frames of {size} pixels") as caught:
        make(name, frames=frames, input_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_transformer_is_built_for_the_size_of_its_input():
    model = make("timm/vit_tiny_patch16_224", "flow", frames=5, input_size=48)
    assert model(views("flow", frames=5, size=48)).shape == (2, 5)


@pytest.mark.slow
def test_state_dicts_are_plain_tensors(tmp_path):
    model = make("resnet18", "flow", frames=5)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = make("resnet18", "flow", frames=5)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    clip = views("flow", frames=5)
    assert torch.equal(model.eval()(clip), again.eval()(clip))


@pytest.mark.slow
@pytest.mark.skipif(not EFFICIENTNET.exists(), reason="the ImageNet weights are not at hand")
def test_imagenet_weights_in_timm_naming_start_rgb_and_stacked_flow():
    import timm

    published = torch.load(EFFICIENTNET, weights_only=True)
    rgb = make("timm/tf_efficientnet_lite0", frames=1, weights=str(EFFICIENTNET))
    reference = timm.create_model("tf_efficientnet_lite0")
    reference.load_state_dict(published)
    reference.reset_classifier(0)
    rgb.network.backbone.reset_classifier(0)
    image = views(frames=1, segments=1, size=64)
    torch.testing.assert_close(rgb.eval()(image), reference.eval()(image[:, 0, :, 0]), rtol=1e-4, atol=1e-4)
    flow = make("timm/tf_efficientnet_lite0", "flow", frames=5, weights=str(EFFICIENTNET))
    stem = flow.network.backbone.conv_stem.weight
    assert stem.shape == (32, 10, 3, 3)
    torch.testing.assert_close(stem[:, 9], published["conv_stem.weight"].mean(1))
