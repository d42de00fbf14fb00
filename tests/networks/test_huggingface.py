"""Networks of transformers from tiny folders that `save_pretrained` writes here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from twostream.clipstore import write_clip
from twostream.core.cache import FileCache
from twostream.errors import UserError
from twostream.networks.registry import create_model, fetch_pretrained, weights_source
from twostream.params import Runtime, Score, Stream, parse_params
from twostream.streams.features import weights_identity
from twostream.streams.scoring import score_clips
from twostream.streams.task import Task
from twostream.streams.training import train_stream
from twostream.views.examples import Example

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

FRAMES, SIZE = 4, 32
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 16}
_CLIPS = {**_SMALL, "intermediate_size": 32, "num_frames": FRAMES}
_VJEPA2 = {"crop_size": SIZE, "frames_per_clip": FRAMES, "mlp_ratio": 2.0, "pred_hidden_size": 12}
_VJEPA2 |= {"pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "pred_num_mask_tokens": 2}
_VJEPA2 |= {key: _SMALL[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
KINDS = {
    "videomae": ("VideoMAE", _CLIPS),
    "timesformer": ("Timesformer", _CLIPS),
    "vivit": ("Vivit", {**_CLIPS, "tubelet_size": [2, 16, 16]}),
    "vjepa2": ("VJEPA2", _VJEPA2),
    "dinov2": ("Dinov2", _SMALL),
    "dinov3": ("DINOv3ViT", {**_SMALL, "intermediate_size": 32}),
    "vit": ("ViT", _SMALL | {"intermediate_size": 32}),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": SIZE}),
}
ON_CLIPS = ("videomae", "timesformer", "vivit", "vjepa2")


def save(kind: str, folder: Path, head: str = "Model", **options) -> torch.nn.Module:
    """Save a random network with `save_pretrained` and return it."""
    torch.manual_seed(7)
    name, values = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**values)
    network = getattr(transformers, f"{name}{head}")(config).eval()
    network.save_pretrained(folder, **options)
    return network


def make(folder: Path, frames: int = FRAMES, modality: str = "rgb", weights: str = "pretrained", **options):
    options = {"classes": 3, "frames": frames, "input_size": SIZE, **options}
    return create_model(f"hf/{folder}", modality=modality, weights=weights, **options).eval()


@torch.inference_mode()
def entering(model, views) -> torch.Tensor:
    """Return what enters the classifier."""
    seen = []
    model.network.classifier.register_forward_pre_hook(lambda _, values: seen.append(values[0]))
    model(views)
    return seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_features_are_the_tokens_that_transformers_gives(tmp_path, kind):
    save(kind, tmp_path)
    model = make(tmp_path)
    views = torch.randn(2, 1, 3, FRAMES, SIZE, SIZE)  # [N, S, C, L, H, W]
    clips = views[:, 0].transpose(1, 2)
    reference = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        if kind in ON_CLIPS:
            tokens = reference(clips).last_hidden_state[:, None]
        else:
            tokens = reference(clips.flatten(0, 1)).last_hidden_state.unflatten(0, (2, FRAMES))  # [N, L, ...]
    if kind == "convnext":
        tokens = tokens.flatten(3).transpose(2, 3)
    parts = [tokens.mean(2)] if kind in ("videomae", "vjepa2", "convnext") else [tokens.mean(2), tokens[:, :, 0]]
    features = torch.cat(parts, 2)
    expected = torch.nn.functional.layer_norm(features, features.shape[2:]).mean(1)
    torch.testing.assert_close(entering(model, views), expected, atol=1e-4, rtol=1e-4)
    assert model(views).shape == (2, 3)
    assert model.new_parameters == ["network.classifier.weight", "network.classifier.bias"]


@pytest.mark.parametrize(
    "kind, head",
    [("videomae", "ForVideoClassification"), ("videomae", "ForPreTraining"), ("vjepa2", "ForVideoClassification")]
    + [("timesformer", "ForVideoClassification"), ("dinov2", "ForImageClassification")],
)
def test_the_body_of_a_network_with_another_head_is_loaded(tmp_path, kind, head):
    saved = save(kind, tmp_path, head)
    loaded = make(tmp_path).network.body.state_dict()
    original = {name.partition(".")[2]: value for name, value in saved.state_dict().items()}
    assert loaded and all(torch.equal(value, original[name]) for name, value in loaded.items())


@pytest.mark.parametrize("kind", ["videomae", "dinov2"])
def test_flow_averages_the_first_filters(tmp_path, kind):
    save(kind, tmp_path)
    model, rgb = make(tmp_path, modality="flow"), make(tmp_path)
    (name,) = [name for name, value in rgb.state_dict().items() if value.ndim > 3 and "projection.weight" in name]
    filters = model.state_dict()[name]
    assert filters.shape[1] == 2
    torch.testing.assert_close(filters[:, 0], rgb.state_dict()[name].mean(1))
    assert model(torch.randn(1, 1, 2, FRAMES, SIZE, SIZE)).shape == (1, 3)


def test_the_pixels_are_normalised_as_the_preprocessor_says(tmp_path):
    save("timesformer", tmp_path)
    values = {"image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    assert make(tmp_path).normalisation == {"mean": [114.75] * 3, "std": [57.375] * 3}


def test_weights_in_several_files_are_joined(tmp_path):
    save("dinov2", tmp_path / "one")
    save("dinov2", tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (make(tmp_path / name).network.body.state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_the_licence_is_that_of_the_model_card(tmp_path, capsys):
    save("dinov2", tmp_path)
    assert weights_source(f"hf/{tmp_path}", "pretrained")["licence"] is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    assert weights_source(f"hf/{tmp_path}", "pretrained")["licence"] == "cc-by-nc-4.0"
    assert fetch_pretrained(f"hf/{tmp_path}").file() == tmp_path / "model.safetensors"


def test_a_folder_is_identified_by_its_files(tmp_path):
    save("dinov2", tmp_path)
    before = weights_identity(f"hf/{tmp_path}", "pretrained")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert weights_identity(f"hf/{tmp_path}", "pretrained") != before


def refused(folder: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        make(folder, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


def test_code_in_a_folder_never_runs(tmp_path):
    save("dinov2", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    evil = {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}}
    evil |= {"attn_implementation": "somebody/kernel", "_attn_implementation": "somebody/kernel"}
    evil |= {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config | evil))
    make(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | evil | {"model_type": "evil"}))
    assert "transformers has no model_type 'evil', and code that comes with a model is not run" in refused(tmp_path)
    assert not mark.exists()


def test_only_safetensors_are_read(tmp_path):
    network = save("dinov2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    assert "has no model.safetensors; other formats can run code" in refused(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "another network", "index"])
def test_damaged_weights_are_one_line(tmp_path, damage):
    save("dinov2", tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    if damage == "another network":
        save("vit", tmp_path / "other")
        shutil.copy(tmp_path / "other" / file.name, file)
    elif damage == "index":
        file.unlink()
        index = {"weight_map": {"a": "../../etc/passwd", "b": "absent.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        file.write_bytes({"cut": data[: len(data) // 2], "noise": b"\xff" * 100, "empty": b""}[damage])
    refused(tmp_path)


@pytest.mark.parametrize(
    "config",
    ["", "[]", "{", '{"model_type": 3}', '{"model_type": "bert"}', '{"model_type": "dinov2", "patch_size": 0}'],
)
def test_a_wrong_configuration_is_one_line(tmp_path, config):
    save("dinov2", tmp_path)
    (tmp_path / "config.json").write_text(config)
    refused(tmp_path)


def test_an_input_of_another_size_is_one_line(tmp_path):
    save("videomae", tmp_path)
    assert "cannot take 6 frames" in refused(tmp_path, frames=6)
    assert "cannot take 4 frames of 48 pixels" in refused(tmp_path, input_size=48)


def test_without_transformers_the_line_says_what_to_install(tmp_path, monkeypatch):
    save("dinov2", tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install" in refused(tmp_path)


@pytest.fixture
def task(tmp_path, demo_values) -> Task:
    """Dark and light clips, and a stream with a tiny VideoMAE."""
    save("videomae", tmp_path / "hub")
    values = json.loads(json.dumps(demo_values))
    values["streams"]["cnn3d_v2"].update(size=SIZE, epochs=1, patience=1, batch_size=4)
    values["streams"]["cnn3d_v2"]["sampling"].update(frames=FRAMES)
    stream = parse_params(values).streams["cnn3d_v2"].model_dump()
    stream |= {"model": f"hf/{tmp_path / 'hub'}", "weights": "pretrained"}
    rng = np.random.default_rng(0)
    examples = []
    for number in range(12):
        frames = [rng.integers(0, 90, (40, 48, 3)).astype(np.uint8) + np.uint8(120 * (number % 2)) for _ in range(6)]
        write_clip(tmp_path / f"{number}.zip", frames, 90, {"modality": "rgb", "settings": {"short_side": 40}})
        examples.append(Example(f"clip/{number}", tmp_path / f"{number}.zip", number % 2))
    groups = tuple(str(number // 2) for number in range(12))
    classes = ["dark", "light"]
    return Task(
        "mae", "rgb", Stream.model_validate(stream), classes, examples[:8], examples[8:], 0, "32", groups=groups
    )


@pytest.mark.parametrize("tune", ["head", "last", "all"])
def test_a_trained_folder_is_all_that_scoring_needs(task, tmp_path, tune, capsys):
    stream = Stream.model_validate({**task.stream.model_dump(), "tune": tune})
    runtime, cache = Runtime(workers=1, accelerator="cpu", devices=1), FileCache(tmp_path / "cache", None)
    train_stream(dataclasses.replace(task, stream=stream), cache, runtime, tmp_path / "model", tmp_path / "curves")
    assert f"weights pretrained of hf/{tmp_path / 'hub'}, licence: not stated" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "hub")
    score = Score(segments=1, crops=1, flip=False)
    classes, logits = score_clips(tmp_path / "model", task.val, score, runtime, tmp_path / "other cache")
    assert classes == task.classes and np.isfinite(logits).all()
    if tune == "head":
        assert (logits.argmax(1) == [example.label for example in task.val]).all()
