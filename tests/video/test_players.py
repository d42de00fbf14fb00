"""What is read is what players show: compared with known content, and with the program `ffmpeg` where there is one."""

from __future__ import annotations

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from odd_videos import FFMPEG, MATRICES, copy_from, encode, set_matrix, shown_by_ffmpeg, texture

from twostream.video import read_frames, resize
from twostream.video.probe import probe, survey

FULL, LIMITED, BT709, BT2020 = 2, 1, 1, 9
# Name, codec, pixel format, and the mean error in grey levels that the codec may leave.
CONTAINERS = [
    ("a.avi", "mpeg4", "yuv420p", 20),
    ("b.avi", "mjpeg", "yuvj420p", 16),
    ("c.avi", "ffv1", "yuv420p", 7),
    ("d.avi", "huffyuv", "yuv422p", 5),
    ("e.avi", "msmpeg4", "yuv420p", 20),
    ("f.avi", "rawvideo", "yuv420p", 7),
    ("g.mp4", "libx264", "yuv420p", 9),
    ("h.mp4", "mpeg4", "yuv420p", 20),
    ("i.mp4", "libx264", "yuv444p", 6),
    ("j.mkv", "libx264", "yuv420p10le", 9),
    ("k.mkv", "ffv1", "yuv420p10le", 7),
    ("l.mkv", "ffv1", "yuva420p", 7),
    ("m.mkv", "ffv1", "bgr0", 0),
    ("n.webm", "libvpx", "yuv420p", 9),
    ("o.webm", "libvpx-vp9", "yuv420p", 9),
    ("p.webm", "libvpx-vp9", "yuva420p", 9),
    ("q.mov", "prores_ks", "yuv422p10le", 6),
    ("r.mov", "qtrle", "rgb24", 0),
    ("s.mov", "png", "rgb24", 0),
    ("t.mov", "mjpeg", "yuvj422p", 13),
    ("u.ts", "mpeg2video", "yuv420p", 20),
    ("v.ts", "libx264", "yuv420p", 9),
    ("w.mpg", "mpeg1video", "yuv420p", 20),
    ("x.flv", "flv", "yuv420p", 20),
    ("y.flv", "libx264", "yuv420p", 9),
    ("z.wmv", "wmv2", "yuv420p", 20),
    ("a.mxf", "mpeg2video", "yuv420p", 20),
    ("b.gif", "gif", "rgb8", 18),
    ("c.m2v", "mpeg2video", "yuv420p", 20),
]


def assert_as_ffmpeg(path, most=1):
    """Assert that all frames, in colour and in grey, equal those that `ffmpeg` shows, to within `most` grey levels."""
    found = probe(path)
    for pixel_format in ("rgb24", "gray"):
        frames = list(read_frames(path, pixel_format))
        assert len(frames) == found.frames
        assert frames[0].shape[:2] == (found.height, found.width)
        if FFMPEG:
            wanted = shown_by_ffmpeg(path, pixel_format, (found.width, found.height))
            assert len(wanted) == len(frames)
            assert max(np.abs(a.astype(int) - b).max() for a, b in zip(wanted, frames, strict=True)) <= most


def error(frames, wanted):
    return max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(frames, wanted, strict=True))


@pytest.mark.parametrize("name, codec, pixel_format, most", CONTAINERS)
def test_every_container_and_codec_gives_the_frames_that_were_written(tmp_path, name, codec, pixel_format, most):
    wanted = texture()
    path = encode(tmp_path / name, codec, wanted, pixel_format, flags=(FULL if "yuvj" in pixel_format else 0, 2))
    found = probe(path)
    assert (found.frames, found.fps, found.width, found.height) == (20, 25.0, 64, 48)
    assert (found.readable, found.reason) == (True, "")
    assert error(read_frames(path), wanted) <= most
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("flags", list(itertools.product([0, LIMITED, FULL], [2, BT709, BT2020])))
@pytest.mark.parametrize(
    "codec, pixel_format",
    [("ffv1", "yuv420p"), ("ffv1", "yuv422p10le"), ("libx264", "yuv444p"), ("libvpx-vp9", "yuv420p")],
)
def test_colours_follow_the_range_and_the_matrix_of_the_file(tmp_path, codec, pixel_format, flags):
    wanted = texture(3)
    path = encode(tmp_path / "a.mkv", codec, wanted, pixel_format, flags=flags)
    assert error(read_frames(path), wanted) < 9
    grey = [frame @ np.array([0.299, 0.587, 0.114]) for frame in read_frames(path)]
    assert error(read_frames(path, "gray"), grey) < 2.5
    assert_as_ffmpeg(path)


def test_colours_follow_flags_that_change_midway(tmp_path):
    parts = [encode(tmp_path / f"{flags}.m2v", "mpeg2video", texture(3), flags=(0, flags)) for flags in (BT709, 5)]
    path = tmp_path / "joined.m2v"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = [frame for part in parts for frame in read_frames(part)]
    assert error(read_frames(path), frames) == 0


def test_a_grey_video_is_grey(tmp_path):
    path = encode(tmp_path / "a.mkv", "ffv1", texture(3), "gray")
    colour, grey = next(read_frames(path)), next(read_frames(path, "gray"))
    assert (colour == grey[..., None]).all()
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("size", [(49, 67), (33, 17), (48, 65)])
def test_odd_sizes_are_kept(tmp_path, size):
    wanted = texture(3, *size)
    path = encode(tmp_path / "a.mkv", "ffv1", wanted)
    assert error(read_frames(path), wanted) < 7
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_every_display_matrix_turns_and_mirrors(tmp_path, matrix, ending):
    wanted = texture(3)
    path = set_matrix(encode(tmp_path / f"a.{ending}", "libx264", wanted, "yuv444p"), matrix)
    assert error(read_frames(path), [MATRICES[matrix](frame) for frame in wanted]) < 6
    assert_as_ffmpeg(path)


@pytest.mark.parametrize(
    "name, codec, aspect, width",
    [
        ("a.mp4", "libx264", Fraction(64, 45), 91),
        ("b.mkv", "libx264", Fraction(4, 3), 85),
        ("c.avi", "mpeg4", Fraction(16, 11), 93),
        ("d.mov", "libx264", Fraction(1, 2), 32),
        ("e.ts", "mpeg2video", Fraction(4, 3), 85),
    ],
)
@pytest.mark.parametrize("pixel_format", ["rgb24", "gray"])
def test_a_sample_aspect_ratio_gives_the_shape_that_players_show(tmp_path, name, codec, aspect, width, pixel_format):
    frames = texture(3)
    square = encode(tmp_path / f"square.{name}", codec, frames)
    path = encode(tmp_path / name, codec, frames, aspect=aspect)
    found = probe(path)
    assert (found.width, found.height) == (width, 48)
    wanted = [resize(frame, (width, 48)) for frame in read_frames(square, pixel_format)]
    assert error(read_frames(path, pixel_format), wanted) < 1


def test_a_sample_aspect_ratio_is_applied_before_a_rotation(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", texture(3), aspect=Fraction(3, 2))
    found = probe(set_matrix(path, (0, 1, -1, 0)))
    assert (found.width, found.height) == (48, 96)
    assert next(read_frames(path)).shape == (96, 48, 3)


@pytest.mark.parametrize("aspect", [Fraction(4320, 4319), Fraction(1, 200), Fraction(255, 1)])
def test_a_sample_aspect_ratio_that_cannot_be_meant_is_ignored(tmp_path, aspect):
    path = encode(tmp_path / "a.mp4", "libx264", texture(3), aspect=aspect)
    assert (probe(path).width, probe(path).height) == (64, 48)


@pytest.mark.parametrize("ending", ["mp4", "mov"])
@pytest.mark.parametrize("start", [0.6, 1.0, 1.32])
def test_a_video_trimmed_without_encoding_has_the_frames_that_are_shown(tmp_path, ending, start):
    options = {"g": "25", "bf": "2"}
    whole = encode(tmp_path / f"whole.{ending}", "libx264", texture(50), "yuv444p", options=options)
    path = copy_from(whole, tmp_path / f"trimmed.{ending}", start)
    found = probe(path)
    assert (found.readable, found.reason) == (True, "")
    assert abs(found.frames - (50 - 25 * start)) <= 1
    shown = list(read_frames(whole))[-found.frames :]
    assert error(read_frames(path), shown) == 0
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("apart", [2, 3, 7])
def test_null_frames_lose_nothing(tmp_path, apart):
    path = encode(tmp_path / "a.avi", "mpeg4", texture(30), rate=30, times=range(0, 30 * apart, apart))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > 30  # as webcams write: the header counts the empty ones too
    found, times = survey(path)
    assert (found.frames, found.readable, found.reason) == (30, True, "")
    assert times[-1] == pytest.approx(29 * apart / 30)
    assert found.fps == pytest.approx(30 / apart)
    assert_as_ffmpeg(path)


def test_null_frames_at_the_end_lose_nothing(tmp_path):
    path = encode(tmp_path / "a.avi", "mpeg4", texture(31), rate=30, times=[*range(30), 89])
    data = bytearray(path.read_bytes())
    index = data.rindex(b"idx1")
    last = data.rindex(b"00dc", 0, index)
    data[last : last + 4] = b"JUNK"  # the frame at 89, so that the null frames before it are the end
    entry = data.rindex(b"00dc")
    data[entry + 12 : entry + 16] = bytes(4)
    path.write_bytes(data)
    found = probe(path)
    assert (found.frames, found.readable, found.reason) == (30, True, "")


@pytest.mark.parametrize("kind", ["mpeg4 a.mkv", "libx264 a.mp4", "mpeg2video a.ts", "flv a.flv"])
def test_a_variable_frame_rate_keeps_every_frame_and_its_time(tmp_path, kind):
    codec, name = kind.split()
    stamps = [0, 1, 2, 7, 8, 9, 10, 60, 61, 62, 90, 91]
    path = encode(tmp_path / name, codec, texture(12), times=stamps)
    found, times = survey(path)
    assert (found.frames, found.readable, found.reason) == (12, True, "")
    np.testing.assert_allclose(times, np.array(stamps) / 25, atol=0.002)
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("kind", ["libx264 a.mkv", "libx264 a.mp4", "libx264 a.ts", "flv a.flv"])
def test_a_video_that_starts_late_is_complete_and_starts_at_zero(tmp_path, kind):
    codec, name = kind.split()
    path = encode(tmp_path / name, codec, texture(20), times=range(250, 270))
    found, times = survey(path)
    assert (found.frames, found.readable, found.reason) == (20, True, "")
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=0.002)


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
@pytest.mark.parametrize("sound", [False, True])
def test_time_goes_on_where_joined_streams_start_again(tmp_path, codec, sound):
    parts = [encode(tmp_path / f"{i}.ts", codec, texture(50 + 10 * i), sound=sound) for i in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found, times = survey(path)
    assert (found.frames, found.readable, found.reason) == (180, True, "")
    np.testing.assert_allclose(np.diff(times), 0.04, atol=0.01)


def test_time_goes_on_where_the_time_stamps_of_a_transmission_jump(tmp_path):
    times = [*range(25), *range(9000, 9025)]
    _, found = survey(encode(tmp_path / "a.ts", "mpeg2video", texture(50), times=times))
    np.testing.assert_allclose(np.diff(found), 0.04, atol=0.01)


@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi", "ts"])
@pytest.mark.parametrize("sizes", [(32, 64), (64, 32)])
def test_the_best_track_is_read(tmp_path, sizes, ending):
    path = write_tracks(tmp_path / f"a.{ending}", sizes)
    wanted = sizes[0] if ending == "mp4" else 64  # whose muxer flags the first track alone as default
    found = probe(path)
    assert (found.frames, found.width, found.height) == (5, wanted, wanted)
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_preview_that_is_too_small_is_not_read(tmp_path, ending):
    found = probe(write_tracks(tmp_path / f"a.{ending}", (8, 64)))
    assert (found.frames, found.width, found.height) == (5, 64, 64)


def write_tracks(path, sizes):
    with av.open(str(path), "w") as container:
        for side in sizes:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for time, image in enumerate(texture(5)):
            for stream in container.streams.video:
                frame = av.VideoFrame.from_ndarray(image).reformat(stream.width, stream.height, "yuv420p")
                frame.pts = time
                container.mux(stream.encode(frame))
        for stream in container.streams.video:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_frames_are_complete_frames(tmp_path, codec):
    options = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264-params": "interlaced=1"}
    path = encode(tmp_path / "a.ts", codec, texture(20), options=options)
    found = probe(path)
    assert (found.frames, found.fps, found.reason) == (20, 25.0, "")
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe", "dash+delay_moov"])
def test_a_fragmented_mp4_is_complete(tmp_path, flags):
    options = {"movflags": flags}
    path = encode(
        tmp_path / "a.mp4", "libx264", texture(50), options={"g": "10"}, container_options=options, sound=True
    )
    found = probe(path)
    assert (found.frames, found.readable, found.reason) == (50, True, "")
    assert_as_ffmpeg(path)


@pytest.mark.parametrize("kind", ["mpeg4 a.mkv", "libx264 a.mp4", "flv a.flv", "mpeg4 a.avi"])
def test_a_video_that_ends_before_its_sound_is_complete(tmp_path, kind):
    codec, name = kind.split()
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("mp3" if name[-3:] in ("avi", "flv") else "aac", rate=44100)
        for image in texture(20):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        for index in range(100):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 2205), np.int16), format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 44100, 2205 * index, Fraction(1, 44100)
            container.mux(audio.encode(sound))
        container.mux(audio.encode())
    found = probe(path)
    assert (found.frames, found.readable, found.reason) == (20, True, "")
