import contextlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, moving_texture, write_audio, write_video
from random_models import CLASSES, FLOW, STREAMS, make_models

from twostream.clipstore.extract import extract_flow, extract_rgb
from twostream.core.cache import FileCache
from twostream.datasets.tables import CLIP_COLUMNS, write_table
from twostream.errors import UserError
from twostream.flow import make_solver
from twostream.fusion.scores import read_scores
from twostream.inference import live
from twostream.inference import predict as predict_module
from twostream.inference.predict import USUAL_SCORE, Predictor, Window, window_edges
from twostream.params import Params, Score, parse_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("random") / "models")


@pytest.fixture(scope="module")
def predictor(models):
    return Predictor(models, accelerator="cpu", score=Score(segments=2, crops=1, flip=True))


def _edit(path: Path, **changes) -> None:
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def _project(folder: Path, demo_values: dict, flow_frames: int, mode: str) -> tuple[Params, pd.DataFrame]:
    """Four clips extracted as the pipeline does it, and models: all that scoring and fusing read."""
    rows = []
    for i, label in enumerate([CLASSES[0]] * 2 + [CLASSES[1]] * 2):
        frames = moving_texture(9 + 4 * i, height=60 + 16 * (i % 2), width=70 + 10 * i, seed=i)
        write_video(folder / "data/videos" / label / f"clip [{i}].avi", frames)
        rows.append([f"{label}/clip [{i}]", f"{label}/clip [{i}].avi", label, "g", len(frames), 25.0, 64, 48, "ok", ""])
    clips = pd.DataFrame(rows, columns=CLIP_COLUMNS)
    write_table(clips, folder / "data/clips.csv")
    splits = pd.DataFrame({"clip_id": clips["clip_id"], "subset": ["val", "test"] * 2})
    write_table(splits, folder / "data/splits/1.csv")
    values = {
        **demo_values,
        "rgb": {"short_side": 40, "jpeg_quality": 90},
        "flow": {**demo_values["flow"], **FLOW, "short_side": 48, "frames": flow_frames},
        "score": {"segments": 3, "crops": 3, "flip": True},
        "runtime": {"workers": 1, "accelerator": "cpu", "devices": 1},
    }
    params = parse_params(values)
    cache = FileCache(folder / "cache", None)
    extract_rgb(clips, folder / "data/videos", folder / "data/rgb", params.rgb, cache, 1)
    extract_flow(clips, folder / "data/videos", folder / "data/flow", params.flow, cache, 1)
    make_models(folder / "models", flow_frames=flow_frames, mode=mode)
    return params, clips


@pytest.mark.parametrize("flow_frames, mode", [(0, "segments"), (7, "uniform")])
def test_a_clip_gets_the_scores_of_the_score_and_fuse_stages(tmp_path, monkeypatch, demo_values, flow_frames, mode):
    from stages.fuse import fuse
    from stages.score import score

    monkeypatch.chdir(tmp_path)
    params, clips = _project(tmp_path, demo_values, flow_frames, mode)
    for stream in STREAMS:
        score(params, stream, "1")
    fuse(params, "1")
    expected = {name: read_scores(f"data/scores/split1/{name}.npz") for name in STREAMS}
    expected["fusion"] = read_scores("data/fused/split1.npz")
    predictor = Predictor(Path("models"), accelerator="cpu", score=params.score)
    assert predictor.streams == {"spatial": "rgb", "temporal": "flow"}
    for scores in expected.values():
        assert np.ptp(scores.logits, axis=0).max() > 0.05  # clips get different scores, so equal scores mean something
    for clip in clips.itertuples():
        prediction = predictor.predict(Path("data/videos", clip.path))
        (window,) = prediction.windows
        assert window.frames == clip.frames == len(prediction.times)
        for name, scores in expected.items():
            logits = scores.logits[scores.clip_id.tolist().index(clip.clip_id)]
            found = window.fused if name == "fusion" else window.logits[name]
            assert np.abs(found - logits).max() < 1e-4, (clip.clip_id, name)
            odds = np.exp(logits - logits.max())
            assert prediction.probabilities(name) == pytest.approx(odds / odds.sum(), abs=1e-4)


def test_the_protocol_is_that_of_the_parameter_file_beside_the_models(models, tmp_path, demo_values):
    assert Predictor(models, accelerator="cpu").score == USUAL_SCORE
    shutil.copytree(models, tmp_path / "models")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert Predictor(tmp_path / "models", accelerator="cpu").score == parse_params(demo_values).score


def test_a_long_video_is_windows_and_as_a_whole_their_mean(predictor, tmp_path):
    path = write_video(tmp_path / "a.mp4", moving_texture(60), rate=10)
    prediction = predictor.predict(path, every=2)
    assert [(w.start, w.end, w.frames) for w in prediction.windows] == [(0, 2, 20), (2, 4, 20), (4, 6, 20)]
    mean = sum(window.probabilities() for window in prediction.windows) / 3
    assert prediction.probabilities() == pytest.approx(mean, abs=1e-6)
    assert prediction.probabilities().sum() == pytest.approx(1, abs=1e-5)
    order = sorted(CLASSES, key=lambda name: -mean[CLASSES.index(name)])
    assert [name for name, _ in prediction.top()] == order
    # A window has the logits of a file that holds only its frames.
    frames = [frame for frame, _ in predictor.frames(path)][20:40]
    alone = predictor.predict(write_video(tmp_path / "b.avi", frames, rate=10, codec="ffv1"))
    assert len(alone.windows) == 1
    for name in STREAMS:
        others = [np.abs(alone.windows[0].logits[name] - window.logits[name]).max() for window in prediction.windows]
        assert others[1] < 0.5 * min(others[0], others[2])


def test_windows_cover_all_frames_and_none_is_too_short_for_motion():
    def spans(times, every, step=0.1):
        edges = window_edges(np.array(times), times[-1] + step, every)
        assert edges[0] == 0 and edges[-1] == len(times) and min(np.diff(edges)) >= 2
        return np.diff(edges).tolist()

    tenths = (np.arange(100) / 10).tolist()
    assert spans(tenths, None) == [100]
    assert spans(tenths, 5) == [50, 50]
    assert spans(tenths, 4) == [40, 40, 20]  # a rest of half a window stands for itself
    assert spans(tenths, 3) == [30, 30, 40]  # a shorter one joins the window before it
    assert spans(tenths, 0.01) == [2] * 50
    assert spans(tenths, 1e9) == [100]
    assert spans((np.arange(310) / 10).tolist(), None) == [50] * 5 + [60]
    gap = [0.0, 0.1, 0.2, 0.3, 7.0, 7.1, 7.2, 7.3]  # a screen recording in which nothing moved
    assert spans(gap, 0.5) == [4, 4]
    assert spans([0.0, 0.0, 0.0], 5) == [3]


def test_every_frame_is_reported_with_the_flow_to_the_next(predictor, tmp_path, demo_values):
    path = write_video(tmp_path / "a.avi", moving_texture(20, height=96, width=128), rate=10)
    seen = []
    windows = list(predictor.windows(path, every=1, on_frame=lambda *frame: seen.append(frame)))
    assert [moment for moment, _, _ in seen] == pytest.approx([i / 10 for i in range(20)])
    assert len(windows) == 2 and seen[-1][2] is None
    for _, frame, flow_px in seen[:-1]:
        assert frame.shape == (40, 56, 3) and frame.dtype == np.uint8
        assert flow_px.shape == (48, 64, 2) and flow_px.dtype == np.float32
        # the texture moves two pixels a frame to the right, and is shrunk to half
        assert np.abs(np.median(flow_px[6:-6, 6:-6].reshape(-1, 2), 0) - [1, 0]).max() < 0.2
    plain = list(predictor.windows(path, every=1))
    assert all((a.fused == b.fused).all() for a, b in zip(plain, windows, strict=True))


def test_only_a_few_frames_are_alive_however_long_the_video(predictor, monkeypatch, tmp_path):
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    def frames(_, pixel_format="rgb24", span=None):
        nonlocal most
        shape = (600, 40, 40) if pixel_format == "gray" else (600, 40, 40, 3)
        for image in np.random.default_rng(0).integers(0, 256, shape, np.uint8):
            image = image.copy().view(Frame)
            alive.add(image)
            most = max(most, len(alive))
            yield image

    path = write_video(tmp_path / "a.avi", moving_texture(3, 40, 40))
    survey = predict_module.survey

    def long(source):
        found, _ = survey(source)
        return found, np.arange(600) / 25

    monkeypatch.setattr(predict_module, "read_frames", frames)
    monkeypatch.setattr(predict_module, "survey", long)
    prediction = predictor.predict(path)
    assert [window.frames for window in prediction.windows] == [600]
    assert most <= 6


def test_flow_is_solved_only_where_a_view_looks(predictor, monkeypatch, tmp_path):
    solver = predictor._flow.solver
    matched = []
    match = type(solver).match
    monkeypatch.setattr(type(solver), "match", lambda self, *pair: matched.append(1) or match(self, *pair))
    predictor.predict(write_video(tmp_path / "a.avi", moving_texture(100)))
    assert len(matched) == 2 * 5  # two segments of five fields


def test_a_camera_gives_windows_until_it_is_closed(predictor, monkeypatch):
    frames, clock, released = itertools.cycle(moving_texture(30)), itertools.count(), []

    class Capture:
        def __init__(self, number):
            assert number == 3

        def isOpened(self):
            return True

        def read(self):
            return True, next(frames)[..., ::-1]

        def release(self):
            released.append(True)

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock) / 10)
    seen = []
    with contextlib.closing(predictor.windows(3, every=1, on_frame=lambda *frame: seen.append(frame))) as windows:
        first, second = itertools.islice(windows, 2)
    assert released == [True]
    assert (first.frames, first.start, first.end) == (11, 0, pytest.approx(1.0))
    assert second.start == pytest.approx(1.1)
    assert [flow is None for _, _, flow in seen] == ([False] * 10 + [True]) * 2
    assert isinstance(second, Window) and np.isfinite(second.fused).all()


def test_no_camera_is_one_line(predictor, monkeypatch, capfd):
    with pytest.raises(UserError, match="camera 63: cannot be opened"):
        next(predictor.windows(63))
    assert capfd.readouterr().err == ""


def test_frames_keep_their_time_stamps(predictor, tmp_path):
    path = tmp_path / "variable.mkv"
    moments = [0, 40, 80, 1500, 1540, 3000]  # milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for moment, image in zip(moments, moving_texture(6), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert predictor.predict(path).times == pytest.approx([moment / 1000 for moment in moments], abs=2e-3)


@pytest.mark.parametrize("kind", ["text", "audio", "empty", "folder", "missing", "still"])
def test_a_file_that_is_no_video_is_one_line(predictor, tmp_path, kind):
    path = tmp_path / "a [1].mp4"
    if kind == "text":
        path.write_text("not a video\n" * 100)
    elif kind == "audio":
        path = write_audio(tmp_path / "sound.wav")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "still":
        write_video(path, moving_texture(1))
    with pytest.raises(UserError, match=r"^[^\n]*" + path.name.replace("[", r"\[") + r"[^\n]*$"):
        predictor.predict(path)


def test_a_video_that_is_cut_short_is_predicted_with_a_warning(predictor, tmp_path):
    whole = write_video(tmp_path / "whole.avi", moving_texture(60), codec="mjpeg")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    prediction = predictor.predict(cut)
    assert "cut short" in prediction.warning and 10 < len(prediction.times) < 50
    assert predictor.predict(whole).warning == ""
    cut.write_bytes(whole.read_bytes()[:4000])
    with pytest.raises(UserError, match="cut.avi"):
        predictor.predict(cut)


def test_impossible_windows_are_one_line(predictor, tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(5))
    for every in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="windows of"):
            next(predictor.windows(path, every=every))


FLOW_CONFIG = {**FLOW, "short_side": 48}
BAD_MODELS = {
    "no fusion": lambda m: (m / "fusion-1.json").unlink(),
    "no config": lambda m: (m / "spatial-1/config.json").unlink(),
    "no weights": lambda m: (m / "spatial-1/model.pt").unlink(),
    "no folder": lambda m: shutil.rmtree(m / "temporal-1"),
    "weights cut": lambda m: (m / "spatial-1/model.pt").write_bytes((m / "spatial-1/model.pt").read_bytes()[:5000]),
    "weights empty": lambda m: (m / "spatial-1/model.pt").write_bytes(b""),
    "weights of another": lambda m: shutil.copy(m / "spatial-1/model.pt", m / "temporal-1/model.pt"),
    "config no JSON": lambda m: (m / "spatial-1/config.json").write_text("{"),
    "config a list": lambda m: (m / "spatial-1/config.json").write_text("[]"),
    "config deep": lambda m: (m / "spatial-1/config.json").write_text("[" * 100_000),
    "lacks size": lambda m: _edit(m / "spatial-1/config.json", size=...),
    "size text": lambda m: _edit(m / "spatial-1/config.json", size="24"),
    "size huge": lambda m: _edit(m / "spatial-1/config.json", size=10**9),
    "classes text": lambda m: _edit(m / "spatial-1/config.json", classes="ab"),
    "other classes": lambda m: _edit(m / "temporal-1/config.json", classes=CLASSES[::-1]),
    "one class more": lambda m: _edit(m / "temporal-1/config.json", classes=[*CLASSES, "jump"]),
    "two means": lambda m: _edit(m / "spatial-1/config.json", normalisation={"mean": [1, 2], "std": [1, 2]}),
    "std 0": lambda m: _edit(m / "spatial-1/config.json", normalisation={"mean": [0] * 3, "std": [0] * 3}),
    "no extraction": lambda m: _edit(m / "temporal-1/config.json", extraction={}),
    "odd method": lambda m: _edit(m / "temporal-1/config.json", extraction={**FLOW_CONFIG, "method": "os"}),
    "odd bound": lambda m: _edit(m / "temporal-1/config.json", extraction={**FLOW_CONFIG, "bound": "8"}),
    "method's own": lambda m: _edit(m / "temporal-1/config.json", extraction={**FLOW_CONFIG, "farneback": {}}),
    "no model": lambda m: _edit(m / "spatial-1/config.json", model="cnn4d"),
    "a path": lambda m: _edit(m / "spatial-1/config.json", model="/etc/hostname"),
    "a hub": lambda m: _edit(m / "spatial-1/config.json", model="timm/hf-hub:someone/model"),
    "a folder": lambda m: _edit(m / "spatial-1/config.json", model="timm/local-dir:/tmp"),
    "stream elsewhere": lambda m: _edit(m / "fusion-1.json", streams=["../spatial", "temporal"]),
    "streams numbers": lambda m: _edit(m / "fusion-1.json", streams=[1, 2]),
    "fusion of another": lambda m: _edit(m / "fusion-1.json", classes=["a", "b"]),
    "fusion no JSON": lambda m: (m / "fusion-1.json").write_text("weights"),
}


@pytest.mark.parametrize("what", BAD_MODELS)
def test_a_model_folder_that_is_not_sound_is_one_line(models, tmp_path, what):
    shutil.copytree(models, tmp_path / "models")
    BAD_MODELS[what](tmp_path / "models")
    with pytest.raises(UserError) as raised:
        Predictor(tmp_path / "models", accelerator="cpu")
    message = str(raised.value)
    assert "\n" not in message and len(message) < 600
    assert ".json" in message or "model.pt" in message


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_model_folder_runs_code(models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    mark, file = tmp_path / "ran", tmp_path / "models/spatial-1/model.pt"
    sound = torch.load(file, weights_only=True)
    for save in (
        lambda: torch.save({**sound, "x": _Bomb(str(mark))}, file),
        lambda: torch.save(_Bomb(str(mark)), file, _use_new_zipfile_serialization=False),
        lambda: file.write_bytes(pickle.dumps(_Bomb(str(mark)))),
    ):
        save()
        with pytest.raises(UserError, match="model.pt"):
            Predictor(tmp_path / "models", accelerator="cpu")
        assert not mark.exists()
        with contextlib.suppress(RuntimeError):
            torch.load(file, weights_only=False)
        mark.rmdir()  # the bomb was live


def test_a_model_trained_with_flow_from_a_gpu_predicts_without_one(models, tmp_path, predictor):
    shutil.copytree(models, tmp_path / "models")
    config = tmp_path / "models/temporal-1/config.json"
    _edit(config, extraction={**json.loads(config.read_text())["extraction"], "device": "cuda"})
    path = write_video(tmp_path / "a.avi", moving_texture(12))
    other = Predictor(tmp_path / "models", accelerator="cpu", score=predictor.score)
    assert (other.predict(path).probabilities() == predictor.predict(path).probabilities()).all()


def test_flow_of_raft_with_weights_from_a_file_is_solved_with_that_file(models, tmp_path, demo_values, monkeypatch):
    shutil.copytree(models, tmp_path / "models")
    raft = {**demo_values["flow"]["raft"], "weights": "raft.pth"}
    recorded = {key: value for key, value in demo_values["flow"].items() if not isinstance(value, dict)}
    recorded |= {"method": "raft", "raft": raft, "weights": "0" * 64}  # as extraction records it
    _edit(tmp_path / "models/temporal-1/config.json", extraction=recorded)
    made = []
    monkeypatch.setattr(predict_module, "make_solver", lambda settings, device: made.append(settings) or np.subtract)
    monkeypatch.setattr(predict_module, "resolve_device", lambda settings: "cpu")
    Predictor(tmp_path / "models", accelerator="cpu")
    assert [settings.raft.weights for settings in made] == ["raft.pth"]


def test_the_flow_of_frames_is_the_solvers(predictor, tmp_path, demo_values):
    path = write_video(tmp_path / "a.avi", moving_texture(3, height=48, width=64))
    flow = parse_params({**demo_values, "flow": {**demo_values["flow"], **FLOW}}).flow
    greys = list(predict_module.read_frames(path, "gray"))
    expected = make_solver(flow, "cpu")(greys[0], greys[1])
    _, flow_px = next(predictor.frames(path))
    assert np.array_equal(flow_px, expected)


def test_importing_prediction_does_not_import_torch():
    script = "import sys, twostream.inference.predict; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
