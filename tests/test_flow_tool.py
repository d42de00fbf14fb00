"""`twostream flow`: what is in its files, what a second run does, and what bad input gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from helpers import moving_texture, write_video

from twostream.cli import main
from twostream.clipstore import ClipReader
from twostream.flow import sequence
from twostream.flow.encoding import decode_flow
from twostream.flow_tool import _declared
from twostream.video import read_frames

PAIRS = 37  # more than two chunks, and a part of one


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "walk 1.mp4", moving_texture(PAIRS + 1))


@pytest.fixture(scope="module")
def truth(video):
    return np.stack(list(sequence(read_frames(video, "gray"), preset="fast", device="cpu")))


def flow(video, out, *more):
    main(["flow", str(video), "-o", str(out), "--preset", "fast", "--bound", "8", "--device", "cpu", *more])


def read_jpg(out):
    planes = [
        np.stack([cv2.imread(path, 0) for path in map(str, sorted((out / "walk 1").glob(f"flow_{axis}_*.jpg")))])
        for axis in "xy"
    ]
    return decode_flow(np.stack(planes, -1), 8)


def read_png(out):
    codes = np.stack([cv2.imread(str(path), -1) for path in sorted((out / "walk 1").iterdir())])
    assert (codes[..., 0] == 1).all()
    return (codes[..., 2:0:-1].astype(np.float32) - 2**15) / 64


def read_flo(out):
    return np.stack([cv2.readOpticalFlow(str(path)) for path in sorted((out / "walk 1").iterdir())])


def read_zip(out):
    with ClipReader(out / "walk 1.zip") as clip:
        return decode_flow(clip.read(range(len(clip))), 8)


FORMATS = {
    "jpg": (read_jpg, 1),
    "png": (read_png, 1 / 128 + 1e-4),
    "flo": (read_flo, 0),
    "npy": (lambda out: np.load(out / "walk 1.npy", mmap_mode="r"), 0),
    "zip": (read_zip, 1),
}


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_format_gives_back_the_flow_of_the_solver(video, truth, tmp_path, format, workers):
    flow(video, tmp_path / "out", "--format", format, "--workers", workers)
    read, tolerance = FORMATS[format]
    found = read(tmp_path / "out")
    assert found.shape == truth.shape == (PAIRS, 48, 64, 2)
    assert np.abs(found - truth).max() <= tolerance
    assert np.median(found[..., 0]) == pytest.approx(2, abs=0.05)


def test_the_colour_video_has_a_frame_per_pair_and_the_rate_of_the_video(video, tmp_path):
    flow(video, tmp_path / "out", "--format", "mp4")
    made = tmp_path / "out/walk 1.mp4"
    assert _declared(made) == (PAIRS - 1, 25.0)
    red, green, blue = np.stack(list(read_frames(made))).mean((0, 1, 2))
    assert red > green + 20 and red > blue + 20, "rightward motion is red"


@pytest.mark.slow
def test_a_folder_keeps_its_tree_and_a_damaged_video_is_named(tmp_path, capsys):
    frames = moving_texture(4)
    for name in ("run/a.mp4", "run/a.avi", "walk/b.mp4", "walk/.hidden.mp4"):
        write_video(tmp_path / "in" / name, frames)
    write_video(tmp_path / "in/walk/one.mp4", frames[:1])
    (tmp_path / "in/walk/text.mp4").write_text("no video")
    (tmp_path / "in/walk/list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n../run/a.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "in/walk/notes.txt").write_text("no video")
    with pytest.raises(SystemExit) as stop:
        flow(tmp_path / "in", tmp_path / "out", "--format", "npy")
    assert stop.value.code == 2
    made = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.npy")}
    assert made == {"run/a.mp4.npy", "run/a.avi.npy", "walk/b.npy"}
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 3 and "text.mp4" in "".join(errors) and "one.mp4: a single frame" in "".join(errors)
    assert "list.mp4" in "".join(errors), "a playlist opens no other file"


def test_a_video_that_is_cut_short_gives_its_flow_and_a_warning(video, tmp_path, capsys):
    path = write_video(tmp_path / "cut.avi", moving_texture(PAIRS, 120, 160), codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    flow(path, tmp_path / "out", "--format", "npy", "--workers", "1")
    assert 15 < len(np.load(tmp_path / "out/cut.npy")) < PAIRS - 5
    assert f"WARNING: {path}: cut short: " in capsys.readouterr().err
    flow(video, tmp_path / "sound", "--format", "npy", "--workers", "1")
    assert "WARNING" not in capsys.readouterr().err


def test_a_second_run_writes_only_what_is_missing_and_other_settings_need_another_folder(video, tmp_path, capsys):
    out = tmp_path / "out"
    flow(video, out)
    first = out / "walk 1/flow_x_00001.jpg"
    before = first.stat().st_mtime_ns
    flow(video, out)
    assert "1 of 1 videos are finished" in capsys.readouterr().out and first.stat().st_mtime_ns == before
    assert json.loads((out / "flow.json").read_text())["bound"] == 8
    for more in (["--size", "32"], ["--format", "npy"], ["--method", "dis"]):
        with pytest.raises(SystemExit):
            flow(video, out, *more)
        assert "holds flow of other settings" in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused(video, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        flow(video, tmp_path)
    assert "is not empty" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_outputs_have_names_of_their_own_and_are_no_input_of_the_next_run(tmp_path):
    frames = moving_texture(3)
    for name in ("a.mp4", "a/b.mp4", "flow.json.mp4"):
        write_video(tmp_path / "in" / name, frames)
    for _ in range(2):
        flow(tmp_path / "in", tmp_path / "in/flow", "--format", "jpg")
        assert {path.parent.relative_to(tmp_path / "in/flow").as_posix() for path in tmp_path.rglob("*.jpg")} == {
            "a.mp4",
            "a/b",
            "flow.json.mp4",
        }


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--preset", "best"], "tvl1.preset"),
        (["--method", "farneback"], "has no preset"),
        (["--size", "8"], "short_side"),
        (["--bound", "1e9"], "bound"),
    ],
)
def test_a_bad_value_is_one_line(video, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        flow(video, tmp_path / "out", *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["jpg", "npy"])
def test_a_killed_run_leaves_no_partial_output_and_the_next_one_completes_it(tmp_path, format):
    long = write_video(tmp_path / "in/long.mp4", moving_texture(400, 120, 160))
    command = ["flow", str(long), "-o", str(tmp_path / "out"), "--format", format, "--device", "cpu", "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "twostream.cli", *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not [path for path in (tmp_path / "out").rglob("*") if ".part" in str(path)] and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/long").exists() and not (tmp_path / "out/long.npy").exists()
    main(command)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {".lock", "flow.json", "long" if format == "jpg" else "long.npy"}
    if format == "npy":
        assert np.load(tmp_path / "out/long.npy", mmap_mode="r").shape == (399, 120, 160, 2)
    else:
        assert len(list((tmp_path / "out/long").iterdir())) == 798


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    script = """
import resource, sys
from twostream.cli import main
main(["flow", sys.argv[1], "-o", sys.argv[2], "--format", "npy", "--device", "cpu", "--preset", "fast"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for count in (50, 400):
        video = write_video(tmp_path / f"{count}.mp4", moving_texture(count, 120, 160))
        command = [sys.executable, "-c", script, str(video), str(tmp_path / f"out{count}")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]))
    grown_mb = (peaks[1] - peaks[0]) / 1024  # all flow of the longer video takes 61 MB
    assert grown_mb < 30
