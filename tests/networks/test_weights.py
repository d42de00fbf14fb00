import dataclasses

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from twostream.errors import UserError
from twostream.networks.layers import BaseNetwork
from twostream.networks.registry import create_model
from twostream.networks.weight_files import read_weights
from twostream.networks.weights import load_weights


def make(name="resnet18", modality="rgb", classes=4, frames=1, **options):
    return create_model(name, modality=modality, classes=classes, frames=frames, input_size=32, **options)


def saved(tmp_path, model, name="w.pt"):
    path = tmp_path / name
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_saved_model_comes_back_from_any_kind_of_file(tmp_path, suffix):
    torch.manual_seed(0)
    source = make().eval()
    path = tmp_path / f"weights{suffix}"
    state = {name: value.contiguous() for name, value in source.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    torch.manual_seed(1)
    loaded = make(weights=str(path), dropout=0.5).eval()
    views = torch.randn(2, 1, 3, 1, 32, 32)
    assert torch.equal(loaded(views), source(views))


def test_a_classifier_of_another_size_starts_at_random_and_the_rest_is_loaded(tmp_path):
    source = make(classes=9)
    loaded = make(classes=4, weights=str(saved(tmp_path, source)))
    ours, theirs = loaded.network.backbone, source.network.backbone
    assert torch.equal(ours.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert ours.fc.weight.shape == (4, 512)
    assert loaded.new_parameters == ["network.backbone.fc.weight", "network.backbone.fc.bias"]


@pytest.mark.slow
def test_no_parameter_is_new_without_weights_or_with_all_of_them(tmp_path):
    source = make()
    assert source.new_parameters == []
    assert make(weights=str(saved(tmp_path, source))).new_parameters == []


@pytest.mark.slow
def test_a_file_without_a_classifier_leaves_it_new(tmp_path):
    source = make("video/r3d_18", frames=8)
    del source.network.fc
    loaded = make("video/r3d_18", frames=8, weights=str(saved(tmp_path, source)))
    assert loaded.new_parameters == ["network.fc.weight", "network.fc.bias"]
    assert set(loaded.new_parameters) < {name for name, _ in loaded.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video/r3d_18", "video/mc3_18", "video/r2plus1d_18", "video/s3d", "video/swin3d_t"])
def test_a_file_of_torchvisions_kinetics_networks_starts_them_on_flow(tmp_path, name):
    published = get_model(name.removeprefix("video/"))  # 400 classes, RGB, torchvision's own names
    path = saved(tmp_path, published)
    loaded = make(name, "flow", frames=16, weights=str(path))
    theirs = dict(published.named_parameters())
    first = next(iter(theirs))
    for key, ours in loaded.network.named_parameters():
        if f"network.{key}" in loaded.new_parameters:
            assert len(ours) == 4
        elif key == first:
            assert ours.shape[1] == 2
            torch.testing.assert_close(ours, theirs[key].mean(1, keepdim=True).expand_as(ours))
        else:
            assert torch.equal(ours, theirs[key])
    assert len(loaded.new_parameters) == 2


def test_rgb_weights_start_a_flow_network(tmp_path):
    source = make("cnn3d_v2", frames=8)
    loaded = make("cnn3d_v2", "flow", frames=8, weights=str(saved(tmp_path, source)))
    mean = source.network.features[0].weight.mean(1)
    torch.testing.assert_close(loaded.network.features[0].weight[:, 1], mean)
    assert torch.equal(loaded.network.hidden.weight, source.network.hidden.weight)


def test_rgb_weights_of_the_flow_network_start_it_on_flow(tmp_path):
    source = make("flow3d", frames=8)
    loaded = make("flow3d", "flow", frames=8, weights=str(saved(tmp_path, source)))
    torch.testing.assert_close(loaded.network.features[1].weight[:, 0], source.network.features[1].weight.mean(1))


def test_weights_of_another_architecture_are_one_line_with_counts_and_names(tmp_path):
    path = saved(tmp_path, make("cnn3d_v2", frames=8))
    with pytest.raises(UserError, match=r"cnn3d_v1: .*w\.pt: .* 2 unknown \(first: hidden\.weight\)") as caught:
        make("cnn3d_v1", frames=8, weights=str(path))
    assert "of another shape (first: features.0.weight, [32, 3, 3, 3, 3] for [64, 3, 3, 3, 3])" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_counted(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    state = {name: value for name, value in network.state_dict().items() if name.startswith("0.")}
    with pytest.raises(UserError, match=r"of its 4 tensors 2 missing \(first: 1\.weight\)"):
        load_weights(BaseNetwork(network, (), ()), state, where="w", frame_channels=3)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such weight file"):
        make(weights=str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_is_one_line(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_could_run_code_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(UserError, match="more than tensors"):
        read_weights(path)


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"epoch": 3}])
def test_a_file_without_tensors_is_not_a_state_dict(tmp_path, content):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a state dict"):
        read_weights(path)


@pytest.mark.parametrize("name", ["cnn3d_v1", "cnn3d_v2", "flow3d"])
def test_networks_without_published_weights_say_so(name):
    with pytest.raises(UserError, match=f"{name}: there are no pretrained weights"):
        make(name, frames=8, weights="pretrained")


def test_a_failed_download_says_where_the_file_can_be_put(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"no route to host.*checkpoints/resnet18-\w+\.pth, or .*`weights:`") as caught:
        make(weights="pretrained")
    assert "\n" not in str(caught.value)


def test_a_failed_download_of_timm_names_the_repository_to_take_the_file_from(monkeypatch):
    def offline(*_, pretrained, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(*_, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host\); get model\.safetensors of .*timm/resnet18\.a1_in1k.*"):
        make("timm/resnet18", weights="pretrained")


def test_pretrained_timm_weights_pass_through_the_same_adaptation(monkeypatch):
    create = timm.create_model
    published = create("test_resnet")

    def fetched(name, *, pretrained, **options):
        network = create(name, **options)
        if pretrained:
            assert options["in_chans"] == 3
            network.conv1.load_state_dict(published.conv1.state_dict())
        return network

    monkeypatch.setattr(timm, "create_model", fetched)
    loaded = make("timm/test_resnet", "flow", frames=5, weights="pretrained")
    ours = loaded.network.backbone.conv1[0].weight
    torch.testing.assert_close(ours[:, 3], published.conv1[0].weight.mean(1))


def test_a_timm_architecture_without_published_weights_says_so(monkeypatch):
    config = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), hf_hub_id=None, url="")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: config)
    with pytest.raises(UserError, match="timm has no pretrained weights for it"):
        make("timm/resnet18", weights="pretrained")


def test_a_byte_that_has_changed_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(500.0, 501).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="its checksums do not fit"):
        read_weights(path)
