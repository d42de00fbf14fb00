"""Published networks that predict before anything is trained; the weights themselves are random here."""

import json

import pytest
from helpers import moving_texture, write_video

from twostream.cli import main
from twostream.inference.predict import Predictor
from twostream.inference.pretrained import kinetics_classes, write_pretrained
from twostream.networks import registry


@pytest.fixture
def without_weights(monkeypatch):
    create = registry.create_model
    monkeypatch.setattr(
        registry, "create_model", lambda name, **settings: create(name, **settings | {"weights": "none"})
    )
    source = {"sha256": None, "licence": "Apache-2.0"}
    monkeypatch.setattr(registry, "weights_source", lambda name, weights: {"weights": weights, **source})


def test_the_classes_are_those_of_kinetics_in_alphabetical_order():
    classes = kinetics_classes()
    assert len(classes) == 400 and classes == sorted(classes) and "brushing hair" in classes


@pytest.mark.slow
def test_a_video_is_predicted_and_nothing_is_left(without_weights, tmp_path, capsys, monkeypatch):
    video = write_video(tmp_path / "a.mp4", moving_texture(20))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    main(["predict", "--pretrained", "video/r3d_18", str(video), "--top", "2"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert "video/r3d_18: weights pretrained, licence: Apache-2.0" in printed.err
    assert "fusion" not in "".join(lines) and len(lines) == 4
    assert lines[2].strip().rpartition("  ")[0].strip() in kinetics_classes()
    main(["predict", "--pretrained", "video/r3d_18", str(video), "--json"])
    assert len(json.loads(capsys.readouterr().out)["top"]) == 5
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name, frames, stride", [("i3d", 32, 2), ("video/r3d_18", 16, 1)])
def test_the_model_folder_has_the_usual_input_of_its_network(without_weights, tmp_path, name, frames, stride):
    predictor = Predictor(write_pretrained(name, tmp_path))
    (stream,) = predictor.trained.values()
    assert (stream.sampling.frames, stream.sampling.stride) == (frames, stride)
    assert predictor.score.segments == 2 and not predictor.score.flip


@pytest.mark.parametrize("name", ["resnet50", "cnn3d_v1", "nothing"])
def test_a_network_without_kinetics_weights_is_one_line(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "--pretrained", name, "a.mp4"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "choose from i3d" in error and error.count("\n") == 1
