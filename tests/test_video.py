import itertools

import av
import numpy as np
import pytest
from helpers import moving_texture, write_audio, write_video

from twostream.video import VideoError, read_frames
from twostream.video.probe import probe


def test_probe_counts_decoded_frames_and_size(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(12), rate=30)
    found = probe(path)
    assert (found.frames, found.width, found.height, found.fps) == (12, 64, 48, 30.0)
    assert found.readable and found.reason == ""


@pytest.mark.parametrize("ending, codec", [("avi", "mpeg4"), ("mp4", "mpeg4"), ("mkv", "mpeg4"), ("mov", "mjpeg")])
def test_frames_come_back_in_order_and_close_to_what_was_written(tmp_path, ending, codec):
    frames = moving_texture(8)
    decoded = list(read_frames(write_video(tmp_path / f"a.{ending}", frames, codec=codec)))
    assert len(decoded) == 8
    for one, other in zip(frames, decoded, strict=True):
        assert other.dtype == np.uint8 and other.shape == (48, 64, 3)
        assert np.abs(one.astype(int) - other).mean() < 14
    errors = [np.abs(frames[0].astype(int) - other).mean() for other in decoded]
    assert np.argmin(errors) == 0


def test_grey_frames_are_the_luma_of_the_colour_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(3))
    colour, grey = next(read_frames(path)), next(read_frames(path, "gray"))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (48, 64)
    assert np.abs(grey - luma).mean() < 2


def test_names_are_data_and_never_protocols_or_patterns(tmp_path):
    for name in ["a [1] & 'b' \"c\"; #d!.avi", "concat:x.avi", "línea\nnueva %d.avi", "-y.avi"]:
        path = write_video(tmp_path / "plain.avi", moving_texture(3)).rename(tmp_path / name)
        assert probe(path).frames == 3


def test_portrait_video_with_a_rotation_comes_out_upright(tmp_path):
    path = tmp_path / "phone.mp4"
    frames = moving_texture(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    # The track header's display matrix: identity, then the one of a quarter turn (ISO/IEC 14496-12, tkhd).
    identity = b"".join(n.to_bytes(4, "big") for n in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000))
    turned = b"".join(n.to_bytes(4, "big") for n in (0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000))
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + len(turned)] = turned
    path.write_bytes(data)
    found = probe(path)
    assert (found.width, found.height) == (48, 64)
    upright = next(read_frames(path))
    assert upright.shape == (64, 48, 3)
    # The matrix says: show the picture turned clockwise by 90 degrees.
    assert np.abs(upright.astype(int) - np.rot90(frames[0], -1)).mean() < 12


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("not a film\n" * 50), "not a video"),
        (lambda path: write_video(path, moving_texture(1)), "a single frame"),
        (lambda path: write_video(path, moving_texture(9, height=8, width=64)), "smaller than 16"),
    ],
)
def test_unusable_files_say_why(tmp_path, make, words):
    path = tmp_path / "odd.avi"
    make(path)
    found = probe(path)
    assert not found.readable
    assert words in found.reason and "\n" not in found.reason


@pytest.mark.parametrize("ending", ["avi", "mkv", "flv"])
def test_a_file_cut_in_half_is_unreadable_and_says_how_much_is_left(tmp_path, ending):
    codec = "mjpeg" if ending == "avi" else None  # frames of equal size, so that half the bytes hold half of them
    path = write_video(tmp_path / f"a.{ending}", moving_texture(60, 120, 160), codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = probe(path)
    assert not found.readable
    assert f"cut short: {found.frames} of about 6" in found.reason
    assert 2 <= found.frames < 50


def test_losing_the_last_frame_does_not_cost_the_clip(tmp_path):
    path = write_video(tmp_path / "a.avi", moving_texture(60), codec="mjpeg")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.93)])
    assert probe(path).readable


def test_audio_only_has_no_video_stream(tmp_path):
    path = write_audio(tmp_path / "a.avi")
    assert probe(path).reason == "no video stream"
    with pytest.raises(VideoError, match="no video stream"):
        next(read_frames(path))


def test_variable_frame_rate_keeps_every_frame(tmp_path):
    path = tmp_path / "vfr.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame, time in zip(moving_texture(10), itertools.accumulate([1, 1, 5, 1, 9, 1, 1, 30, 1, 1]), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = time
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    found = probe(path)
    assert found.frames == 10 and found.readable


def test_a_missing_file_is_a_reason_not_a_crash(tmp_path):
    assert "No such file" in probe(tmp_path / "none.avi").reason


@pytest.mark.parametrize("name, codec", [("a.avi", "mpeg4"), ("b.avi", "mjpeg"), ("c.mkv", "ffv1")])
def test_grey_frames_are_what_ffmpeg_converts_them_to(tmp_path, name, codec):
    """Of luma from 16 to 235 and of the full range; checkered black and white reaches beyond both ends."""
    frames = [np.random.default_rng(i).choice([0, 255], (48, 70, 3)).astype(np.uint8) for i in range(3)]
    path = write_video(tmp_path / name, frames, codec=codec)
    with av.open(str(path)) as container:
        wanted = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(list(read_frames(path, "gray")), wanted)
