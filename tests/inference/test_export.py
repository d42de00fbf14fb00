import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import moving_texture, write_video
from random_models import CLASSES, STREAMS, make_models

from twostream.clipstore import ClipReader, write_clip
from twostream.clipstore.frames import shrunk
from twostream.errors import UserError
from twostream.inference import export as export_module
from twostream.inference.export import export
from twostream.inference.predict import Predictor
from twostream.networks.registry import create_model
from twostream.params import Sampling, Score
from twostream.streams.trained import TrainedStream
from twostream.video import read_frames
from twostream.views.loading import read_scoring_views

pytestmark = pytest.mark.slow  # the exporter takes seconds for each network


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    models = make_models(tmp_path_factory.mktemp("random") / "models")
    return Predictor(models, accelerator="cpu", score=Score(segments=2, crops=3, flip=True))


@pytest.fixture(scope="module")
def exported(predictor, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "new"
    return out, export(predictor, out)


def test_every_stream_is_a_file_that_agrees_with_pytorch(exported):
    out, done = exported
    assert [one.stream for one in done] == list(STREAMS)
    assert {file.name for file in out.iterdir()} == {"spatial.onnx", "temporal.onnx", "export.json"}
    for one in done:
        onnx.checker.check_model(str(one.path), full_check=True)
        assert 0 <= one.difference < 1e-4


def test_the_files_alone_give_the_fused_scores_of_a_video(exported, predictor, tmp_path):
    out, _ = exported
    description = json.loads((out / "export.json").read_text())
    path = write_video(tmp_path / "a.avi", moving_texture(20, height=60, width=80))
    (window,) = predictor.predict(path).windows
    clip_file = tmp_path / "clip.zip"
    write_clip(clip_file, shrunk(read_frames(path), 40), 90, {"modality": "rgb"})
    stream = description["streams"]["spatial"]
    with ClipReader(clip_file) as clip:
        size = stream["input"]["shape"][-1]
        score = Score.model_validate(description["score"])
        views = read_scoring_views(clip, Sampling.model_validate(stream["sampling"]), score, size).squeeze(1).numpy()
    session = onnxruntime.InferenceSession(str(out / stream["file"]))
    assert list(views.shape[1:]) == stream["input"]["shape"][1:]
    (logits,) = session.run(["logits"], {"views": views})  # as many views as there are
    assert np.abs(logits.mean(0) - window.logits["spatial"]).max() < 1e-4
    assert description["classes"] == CLASSES
    assert description["fusion"]["streams"] == list(STREAMS)


def test_the_same_model_gives_the_same_bytes_and_nothing_of_this_machine(exported, predictor, tmp_path):
    out, _ = exported
    again = export_module.export_stream("temporal", predictor.trained["temporal"], tmp_path / "again.onnx")
    data = again.path.read_bytes()
    assert data == (out / "temporal.onnx").read_bytes()
    assert str(export_module.__file__).encode() not in data and b"site-packages" not in data


def test_a_network_that_comes_out_different_is_not_written(predictor, tmp_path, monkeypatch):
    (tmp_path / "export.json").write_text("of an earlier export")
    traced = export_module._trace

    def other(network, views):
        model = traced(network, views)
        with torch.no_grad():
            network.network.classifier.bias += 0.5
        return model

    monkeypatch.setattr(export_module, "_trace", other)
    with pytest.raises(UserError, match="spatial: the ONNX file's logits are 0.5 off"):
        export(predictor, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, modality, frames", [("resnet18", "flow", 5), ("inflated/resnet18", "rgb", 4)])
def test_the_classic_networks_can_be_exported(tmp_path, monkeypatch, name, modality, frames):
    torch.manual_seed(0)
    stream = TrainedStream.__new__(TrainedStream)  # what is exported of it, without a folder
    stream.model = create_model(name, modality=modality, classes=3, frames=frames, input_size=32).eval()
    stream.sampling = Sampling(mode="segments", segments=1, frames=frames, stride=1)
    stream.config = {"model": name, "modality": modality, "size": 32, "normalisation": stream.model.normalisation}
    done = export_module.export_stream("s", stream, tmp_path / "s.onnx")
    assert done.difference < 1e-4
    (shape,) = [put.shape for put in onnxruntime.InferenceSession(str(done.path)).get_inputs()]
    assert shape == ["views", {"rgb": 3, "flow": 2}[modality], frames, 32, 32]
