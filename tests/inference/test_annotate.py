from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers import moving_texture, write_video
from odd_videos import encode
from random_models import CLASSES, make_models

from twostream.errors import UserError
from twostream.inference import annotate as annotate_module
from twostream.inference.annotate import annotate, draw_classes, draw_flow
from twostream.inference.predict import Prediction, Predictor, Window
from twostream.params import Score
from twostream.video import read_frames
from twostream.video.probe import survey

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    models = make_models(tmp_path_factory.mktemp("random") / "models")
    return Predictor(models, accelerator="cpu", score=Score(segments=1, crops=1, flip=False))


def test_the_copy_is_h264_enlarged_and_as_long_as_the_video(predictor, tmp_path):
    path = write_video(tmp_path / "a [1] 'x'.avi", moving_texture(12, height=48, width=66), rate=10)
    out = tmp_path / "out ünï %d.MP4"
    annotate(predictor, predictor.predict(path), out)
    with av.open(f"file:{out}") as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (66 * 8, 48 * 8)
    found, times = survey(out)
    assert found.frames == 12 and times == pytest.approx(np.arange(12) / 10, abs=1e-3)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_copy_has_the_shape_that_players_show(predictor, tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", moving_texture(4, height=360, width=450), aspect=Fraction(64, 45))
    annotate(predictor, predictor.predict(path), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.sample_aspect_ratio or 1) == (640, 360, 1)


def test_pixels_outside_of_the_drawings_are_those_of_the_video(predictor, tmp_path):
    frames = moving_texture(4, height=400, width=480)
    path = write_video(tmp_path / "a.mkv", frames)
    annotate(predictor, predictor.predict(path), tmp_path / "out.mp4")
    for before, after in zip(read_frames(path), read_frames(tmp_path / "out.mp4"), strict=True):
        assert before.shape == after.shape  # large enough already
        difference = np.abs(before.astype(int) - after)
        assert difference[50:250, :300].mean() < 8
        assert difference[340:].mean() > 20


def test_uneven_frame_times_are_kept(predictor, tmp_path):
    path, moments = tmp_path / "variable.mkv", [0, 40, 80, 1500, 1540, 3000]  # milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for moment, image in zip(moments, moving_texture(6), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    annotate(predictor, predictor.predict(path), tmp_path / "out.mp4")
    assert survey(tmp_path / "out.mp4")[1] == pytest.approx(np.array(moments) / 1000, abs=2e-3)


def test_each_frame_shows_the_classes_of_its_window(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", moving_texture(20), rate=10)
    windows = [Window(0, 1, 10, {}, np.log([0.9, 0.1])), Window(1, 2, 10, {}, np.log([0.2, 0.8]))]
    prediction = Prediction(str(path), CLASSES, windows, survey(path)[1])
    predictor = SimpleNamespace(frames=lambda source: ((image, None) for image in read_frames(source)))
    drawn = []
    monkeypatch.setattr(annotate_module, "draw_classes", lambda _, top: drawn.append(top))
    annotate(predictor, prediction, tmp_path / "out.mp4")
    assert [top[0][0] for top in drawn] == [CLASSES[0]] * 10 + [CLASSES[1]] * 10
    assert drawn[15] == [(CLASSES[1], pytest.approx(0.8)), (CLASSES[0], pytest.approx(0.2))]


@pytest.mark.parametrize("height, width", [(360, 480), (1080, 1920), (1920, 1080)])
def test_bars_are_as_long_as_the_probabilities(height, width):
    def filled(probability):
        frame = np.zeros((height, width, 3), np.uint8)
        draw_classes(frame, [("", probability)])
        return frame[-height // 5 :].any(axis=(0, 2))

    full = filled(1.0).sum()
    assert full > 0.9 * width
    for probability in (0.25, 0.5):
        assert filled(probability)[: width // 2 + 10].sum() == pytest.approx(probability * full, rel=0.08)


def test_text_is_at_least_16_pixels_high_and_grows_with_the_frame():
    def letters(height, width):
        frame = np.zeros((height, width, 3), np.uint8)
        draw_classes(frame, [("HHHH", 0.0)])
        white = (frame > 200).all(-1)[:, : width // 2]
        rows = np.flatnonzero(white.any(1))
        return rows[-1] - rows[0] + 1

    # capitals are 0.7 of the size in this font
    assert letters(360, 480) >= 11
    assert letters(1080, 1920) == pytest.approx(1080 / 360 * 0.95 * letters(360, 480), rel=0.25)


def test_a_name_that_is_too_long_is_cut_and_leaves_the_number_alone():
    frames = []
    for name in ("", "a very long name of a class, ünïcödé\n" * 9):
        frame = np.zeros((360, 480, 3), np.uint8)
        draw_classes(frame, [(name, 0.0)])
        frames.append(frame)
    assert np.array_equal(frames[0][:, -40:], frames[1][:, -40:])
    assert not np.array_equal(frames[0], frames[1])
    assert (frames[1][:300] == 0).all()  # no second line


def test_the_inset_shows_the_direction_of_motion_in_the_usual_colours():
    frame = np.zeros((360, 480, 3), np.uint8)
    flow_px = np.zeros((60, 80, 2), np.float32)
    flow_px[..., 0] = 3  # to the right: red on the Middlebury wheel
    draw_flow(frame, flow_px, 3.0)
    assert (frame[40, 400] == [255, 0, 0]).all()
    assert (frame[:, :300] == 0).all() and (frame[200:] == 0).all()


def test_a_copy_that_cannot_be_written_is_one_line_and_leaves_no_file(predictor, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", moving_texture(6))
    before, prediction = path.read_bytes(), predictor.predict(path)
    for out, words in [
        (tmp_path / "out.avi", "end in .mp4"),
        (tmp_path / "none/out.mp4", "there is no folder"),
        (path, "another name"),
    ]:
        with pytest.raises(UserError, match=words):
            annotate(predictor, prediction, out)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(annotate_module, "draw_flow", fails)
    with pytest.raises(UserError, match=r"out.mp4: cannot be written \(No space left"):
        annotate(predictor, prediction, tmp_path / "out.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == before
