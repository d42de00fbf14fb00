import av
import numpy as np
import pytest

from twostream.flow.color import flow_to_color
from twostream.inference.serve.playback import Playback


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def still(height=64, width=96, value=90):
    return np.full((height, width, 3), value, np.uint8)


def moving(height=64, width=96, x=2.0, y=0.0):
    flow = np.zeros((height, width, 2), np.float32)
    flow[:, : width // 2] = x, y
    return flow


def test_rgb_stands_at_the_left_and_flow_at_the_right_at_the_frames_times(tmp_path):
    times = [0.0, 0.04, 0.1, 0.5, 0.52]  # a variable rate
    with Playback(tmp_path / "a.webm") as playback:
        for place, time in enumerate(times):
            playback.add(time, still(value=40 + 40 * place), moving() if place < 4 else None)
    frames = frames_of(tmp_path / "a.webm")
    assert [time for time, _ in frames] == pytest.approx(times, abs=0.001)
    for place, (_, image) in enumerate(frames):
        assert image.shape == (64, 192, 3)
        assert image[:, 4:92].mean() == pytest.approx(40 + 40 * place, abs=4)
        if place < 4:  # rightward is red at full speed, and what is still is white
            red = flow_to_color(np.array([[[2.0, 0.0]]]), 2.0)[0, 0]
            assert np.abs(image[8:56, 104:136].mean((0, 1)) - red).max() < 12
        assert image[8:56, 152:184].mean() > 245
    assert frames[4][1][8:56, 104:136].mean() > 245, "the last frame has no motion after it"
    assert playback.full_colour_px == pytest.approx(2.0)


def test_the_first_frames_choose_the_scale_and_it_stays(tmp_path):
    with Playback(tmp_path / "a.webm") as playback:
        for place in range(100):
            playback.add(place / 25, still(), moving(x=3.0 if place < 64 else 30.0))
            assert playback.full_colour_px == (None if place < 63 else pytest.approx(3.0))
    assert len(frames_of(tmp_path / "a.webm")) == 100


def test_noise_is_not_enlarged_into_colour(tmp_path):
    with Playback(tmp_path / "a.webm") as playback:
        for place in range(3):
            playback.add(place / 25, still(), moving(x=0.01))
    assert playback.full_colour_px == 0.5
    assert frames_of(tmp_path / "a.webm")[0][1][:, 100:].mean() > 240


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(33, 51, (32, 104)), (1080, 1920, (720, 2560)), (17, 16, (16, 32))]
)
def test_any_size_is_made_even_and_not_too_large(tmp_path, height, width, shape):
    with Playback(tmp_path / "a.webm") as playback:
        for place in range(2):
            playback.add(place / 25, still(height, width), moving(height // 2, width // 2))  # flow is stored smaller
    assert frames_of(tmp_path / "a.webm")[0][1].shape[:2] == shape


def test_without_flow_the_right_half_is_white(tmp_path):
    with Playback(tmp_path / "a.webm") as playback:
        playback.add(0.0, still(), None)
    assert frames_of(tmp_path / "a.webm")[0][1][:, 100:].mean() > 245


def test_time_stamps_that_stand_still_do_no_harm(tmp_path):
    with Playback(tmp_path / "a.webm") as playback:
        for _ in range(4):
            playback.add(0.2, still(), None)
    assert len(frames_of(tmp_path / "a.webm")) == 4


def test_an_error_in_the_block_is_raised(tmp_path):
    with pytest.raises(KeyError), Playback(tmp_path / "a.webm") as playback:
        playback.add(0.0, still(), None)
        raise KeyError
    with pytest.raises(KeyError), Playback(tmp_path / "b.webm"):
        raise KeyError
