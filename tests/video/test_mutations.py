"""Files with flipped bits, cut ends and foreign parts are read or named, in bounded time and memory."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest
from helpers import moving_texture
from odd_videos import encode, mutated

from twostream.video import read_frames
from twostream.video.probe import survey

ORIGINALS = {
    "a.avi": ("mpeg4", "yuv420p", {}),
    "b.avi": ("mjpeg", "yuvj420p", {}),
    "c.mkv": ("libx264", "yuv420p", {}),
    "d.webm": ("libvpx-vp9", "yuv420p", {}),
    "e.mp4": ("libx264", "yuv420p", {"movflags": "faststart"}),
    "f.mp4": ("libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}),
    "g.mov": ("png", "rgb24", {}),
    "h.ts": ("mpeg2video", "yuv420p", {}),
    "i.ts": ("libx264", "yuv420p", {}),
    "j.mpg": ("mpeg1video", "yuv420p", {}),
    "k.flv": ("flv", "yuv420p", {}),
    "l.wmv": ("wmv2", "yuv420p", {}),
    "m.mxf": ("mpeg2video", "yuv420p", {}),
    "n.gif": ("gif", "rgb8", {}),
    "o.y4m": ("wrapped_avframe", "yuv420p", {}),
}
MOST_SECONDS, MOST_MB = 10, 300


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return encode_originals(tmp_path_factory.mktemp("originals"))


def encode_originals(folder: Path) -> dict[str, bytes]:
    made = {}
    for name, (codec, pixel_format, options) in ORIGINALS.items():
        flags = (2 if "yuvj" in pixel_format else 0, 2)
        path = encode(folder / name, codec, moving_texture(10), pixel_format, flags=flags, container_options=options)
        made[name] = path.read_bytes()
    return made


def read_or_name(path: Path) -> None:
    started = time.monotonic()
    found, times = survey(path)
    assert len(times) == found.frames
    assert (times[1:] >= times[:-1]).all()
    assert found.readable or found.reason
    assert "\n" not in found.reason
    if found.readable:
        for pixel_format in ("rgb24", "gray"):
            assert sum(1 for _ in read_frames(path, pixel_format)) == found.frames
    assert time.monotonic() - started < MOST_SECONDS


def check(originals: dict[str, bytes], seeds: range, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        name = list(originals)[seed % len(originals)]
        path = folder / f"{seed}{Path(name).suffix}"
        path.write_bytes(mutated([originals[name], *originals.values()] if seed % 3 == 0 else [originals[name]], seed))
        read_or_name(path)  # the name has the seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MB * 1024


def test_a_mutated_video_is_read_or_named(originals, tmp_path):
    check(originals, range(45), tmp_path)


@pytest.mark.slow
def test_500_mutated_videos_are_read_or_named(originals, tmp_path):
    check(originals, range(1000, 1500), tmp_path)
