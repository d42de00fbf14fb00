"""A span of a video holds the frames that a decode of the whole video gives for these times."""

from __future__ import annotations

import numpy as np
import pytest
from odd_videos import encode, texture

from twostream.video import frame_times, read_frames
from twostream.video.probe import probe, survey

LONG = 150  # frames at 25 per second: longer than what is decoded rather than sought
CONTAINERS = [
    ("a.mp4", "libx264", "yuv420p"),  # B-frames, one key frame
    ("b.mkv", "libx264", "yuv420p"),
    ("c.avi", "mpeg4", "yuv420p"),
    ("e.webm", "libvpx-vp9", "yuv420p"),
    ("f.ts", "libx264", "yuv420p"),
    ("g.mpg", "mpeg2video", "yuv420p"),
    ("h.flv", "flv", "yuv420p"),
    ("i.mov", "mjpeg", "yuvj420p"),
    ("j.wmv", "wmv2", "yuv420p"),
    ("k.mxf", "mpeg2video", "yuv420p"),
    ("l.m2v", "mpeg2video", "yuv420p"),  # no times at all
]


@pytest.mark.parametrize(("name", "codec", "pixel_format"), CONTAINERS)
def test_spans_of_every_container_are_the_frames_of_the_whole_video(tmp_path, name, codec, pixel_format):
    path = encode(tmp_path / name, codec, texture(LONG), pixel_format, options={"g": "12"})
    _, times = survey(path)
    whole = list(read_frames(path, "gray"))
    assert frame_times(path) == pytest.approx(times, abs=0.002)
    for first, last in ((0, 5), (3, 40), (70, 90), (101, 103), (140, len(whole))):
        end = times[last] if last < len(times) else times[-1] + 0.04
        found = list(read_frames(path, "gray", (round(times[first], 3), round(end, 3))))
        np.testing.assert_array_equal(found, whole[first:last])


def test_where_the_container_lacks_the_times_of_b_frames_a_span_is_near(tmp_path):
    path = encode(tmp_path / "a.avi", "libx264", texture(LONG), options={"g": "12"})
    whole = [frame.tobytes() for frame in read_frames(path, "gray")]
    found = [frame.tobytes() for frame in read_frames(path, "gray", (4.0, 5.0))]
    first = whole.index(found[0])
    assert found == whole[first : first + len(found)]
    assert abs(first - 100) <= 3 and abs(len(found) - 25) <= 3


def test_the_frame_rate_may_vary(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, LONG)).tolist()
    path = encode(tmp_path / "a.mp4", "libx264", texture(LONG), rate=100, times=times, options={"g": "20"})
    whole, (_, found) = list(read_frames(path)), survey(path)
    assert frame_times(path) == pytest.approx(found, abs=0.002)
    np.testing.assert_array_equal(list(read_frames(path, span=(found[80], found[100]))), whole[80:100])


def test_a_probe_of_a_span_reports_the_span(tmp_path):
    path = encode(tmp_path / "a.mp4", "libx264", texture(LONG))
    found = probe(path, span=(3.0, 4.0))
    assert (found.frames, found.fps, found.readable, found.reason) == (25, 25.0, True, "")
    assert (found.width, found.height) == (probe(path).width, probe(path).height)


def test_a_span_beyond_the_end_of_a_file_that_is_cut_short_is_unreadable(tmp_path):
    path = encode(tmp_path / "a.ts", "mpeg2video", texture(LONG))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert probe(path, span=(1.0, 2.0)).readable
    found = probe(path, span=(2.5, 5.5))
    assert not found.readable and found.reason.startswith("cut short")
    assert "no frame" in probe(path, span=(5.0, 5.5)).reason
