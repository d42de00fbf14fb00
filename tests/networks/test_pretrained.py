import dataclasses
import hashlib

import huggingface_hub
import pytest
import timm
import torch
from torchvision.models import ResNet50_Weights

from twostream.errors import UserError
from twostream.networks.registry import create_model, find_published, weights_source


def make(name, **options):
    return create_model(name, modality="flow", classes=4, frames=2, input_size=32, **options)


def lay_file(tmp_path, monkeypatch, weights):
    """Put a random network's file where torchvision looks for published weights, and the digest into its name."""
    path = tmp_path / "random.pth"
    torch.manual_seed(0)
    network = create_model("resnet50", modality="rgb", classes=1000, frames=1, input_size=32).network.backbone
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"resnet50-{digest[:8]}.pth"
    monkeypatch.setattr(weights.value, "url", f"https://example.invalid/{name}")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    place = tmp_path / "checkpoints" / name
    place.parent.mkdir()
    path.rename(place)
    return place, network, digest


def test_without_weights_there_is_no_source():
    assert weights_source("resnet18", "none") == {"weights": "none", "sha256": None, "licence": None}


def test_a_file_is_identified_by_its_digest(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"abc")
    # The digest of "abc" stands in FIPS 180-2, appendix B.1.
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    source = {"weights": str(path), "sha256": digest, "licence": None}
    assert weights_source("timm/test_resnet", str(path)) == source
    (tmp_path / "LICENSE").write_text("\nMIT License\n\nCopyright ...\n")
    assert weights_source("timm/test_resnet", str(path)) == {**source, "licence": "MIT License"}
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\ntags: [video]\n---\n# A model\n")
    assert weights_source("timm/test_resnet", str(path)) == {**source, "licence": "cc-by-nc-4.0"}


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "pretrained"])
@pytest.mark.parametrize("name", ["resnet50", "inflated/resnet50"])
def test_torchvision_weights_are_found_by_tag_and_identified_by_the_cached_file(tmp_path, monkeypatch, tag, name):
    weights = ResNet50_Weights.DEFAULT if tag == "pretrained" else ResNet50_Weights[tag]
    _, network, digest = lay_file(tmp_path, monkeypatch, weights)
    loaded = make(name, weights=tag)
    source = weights_source(name, tag)
    assert (source["weights"], source["sha256"]) == (tag, digest) and "torchvision" in source["licence"]
    found = loaded.network.backbone.layer1[0].conv2.weight
    torch.testing.assert_close(found, network.layer1[0].conv2.weight)
    assert loaded.new_parameters == ["network.backbone.fc.weight", "network.backbone.fc.bias"]


@pytest.mark.slow
def test_a_cached_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    place, network, _ = lay_file(tmp_path, monkeypatch, ResNet50_Weights.DEFAULT)
    network.conv1.weight.data += 1
    torch.save(network.state_dict(), place)
    with pytest.raises(UserError, match=r"resnet50: .*is not the published file.*remove it") as caught:
        make("resnet50", weights="pretrained")
    assert "\n" not in str(caught.value)


def timm_cache(tmp_path, monkeypatch, content):
    """A Hugging Face cache that holds `timm/resnet18.a1_in1k` with a file of that content."""
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0" / "model.safetensors"
    blob = repository / "blobs" / hashlib.sha256(b"published").hexdigest()
    for path in (snapshot, blob, repository / "refs" / "main"):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    snapshot.symlink_to(blob)
    (repository / "refs" / "main").write_text("0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained, **options: create(name, **options))


def test_timm_weights_are_identified_by_the_file_in_the_hubs_cache(tmp_path, monkeypatch):
    timm_cache(tmp_path, monkeypatch, b"published")
    make("timm/resnet18", weights="a1_in1k")
    digest = hashlib.sha256(b"published").hexdigest()
    source = {"weights": "a1_in1k", "sha256": digest, "licence": "apache-2.0"}
    assert weights_source("timm/resnet18", "a1_in1k") == source


def test_a_timm_file_with_other_bytes_than_its_digest_is_refused(tmp_path, monkeypatch):
    timm_cache(tmp_path, monkeypatch, b"published, then damaged")
    with pytest.raises(UserError, match="timm/resnet18.*is not the published file"):
        make("timm/resnet18.a1_in1k", weights="pretrained")


def test_published_weights_that_are_not_cached_have_no_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("resnet18", "timm/resnet18", "video/r3d_18"):
        assert weights_source(name, "pretrained")["sha256"] is None


def test_a_tag_of_timm_decides_how_rgb_is_normalised(tmp_path, monkeypatch):
    tag = "in21k_ft_in1k"  # trained on pixels from -1 to 1, unlike others of the same architecture
    config = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), mean=(0.5,) * 3, std=(0.5,) * 3)
    known = timm.get_pretrained_cfg
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: config if name.endswith(tag) else known(name))
    monkeypatch.setattr(timm, "list_pretrained", lambda _: [f"resnet18.{tag}"])
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, *, pretrained, **options: create("resnet18", **options))
    model = create_model("timm/resnet18", modality="rgb", classes=4, frames=1, input_size=32, weights=tag)
    assert model.normalisation == {"mean": [127.5] * 3, "std": [127.5] * 3}


@pytest.mark.parametrize("name", ["cnn3d_v1", "resnet18", "timm/resnet18", "inflated/resnet18"])
def test_anything_but_a_tag_is_a_path(name):
    assert find_published(name, "weights/mine.pth") is None
