"""Addresses and standard input give the frames of the file that is behind them, or one line."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import moving_texture, write_video
from odd_videos import encode, texture
from random_models import make_models

from twostream import video
from twostream.cli import main
from twostream.errors import UserError
from twostream.inference.live import live_frames
from twostream.inference.predict import Predictor
from twostream.params import Score
from twostream.video import read_frames

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("random") / "models")


@pytest.fixture
def server(tmp_path):
    """The address of a server of the files in `tmp_path`; below `/live/` it announces no length."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def do_GET(self):
            if not self.path.startswith("/live/"):
                return super().do_GET()
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write((tmp_path / self.path.removeprefix("/live/")).read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def piped(monkeypatch):
    """Call it with bytes, and standard input is a pipe that gives them; it ends unless told to wait for an event."""

    def send(content: bytes, until: threading.Event | None = None) -> None:
        read_end, write_end = os.pipe()

        def write():
            with open(write_end, "wb") as pipe:
                pipe.write(content)
                pipe.flush()
                if until:
                    until.wait(30)

        threading.Thread(target=write, daemon=True).start()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open(read_end, "rb")))  # noqa: SIM115 - closed with stdin

    return send


def _predict(models, *arguments):
    main(["predict", "--models", str(models), "--accelerator", "cpu", "--segments", "1", *map(str, arguments)])


def _same(live, path):
    for pixel_format in ("rgb24", "gray"):
        np.testing.assert_array_equal([frame[pixel_format] for _, frame in live], list(read_frames(path, pixel_format)))
    assert live[0][0] == 0.0
    np.testing.assert_allclose(np.diff([moment for moment, _ in live]), 0.04, atol=0.002)


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_a_file_at_an_address_is_predicted_like_a_file(models, server, tmp_path, capsys, options):
    path = encode(tmp_path / "a b.mp4", "libx264", texture(), container_options=options)
    _predict(models, path, "--json")
    of_file = json.loads(capsys.readouterr().out)
    _predict(models, f"{server}/a%20b.mp4", "--json")
    of_address = json.loads(capsys.readouterr().out)
    assert of_address == {**of_file, "video": f"{server}/a%20b.mp4"}


def test_a_stream_without_a_length_gives_windows(models, server, tmp_path, capsys):
    encode(tmp_path / "a.ts", "mpeg2video", texture(50))
    _predict(models, f"{server}/live/a.ts", "--json", "--every", "0.79")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["frames"] for row in rows] == [21, 21, 8]
    assert {row["video"] for row in rows} == {f"{server}/live/a.ts"}


@pytest.mark.parametrize("ending", ["ts", "mkv", "avi"])
def test_a_stream_has_the_frames_of_the_file(server, tmp_path, ending):
    path = encode(tmp_path / f"a.{ending}", "mpeg2video", texture())
    _same(list(live_frames(f"{server}/live/a.{ending}")), path)


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.ts", {}),
        ("b.mkv", {}),
        ("c.avi", {}),
        ("d.mp4", {}),
        ("e.mp4", {"movflags": "faststart"}),
        ("f.mp4", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_standard_input_has_the_frames_of_the_file(piped, tmp_path, name, options):
    codec = "mpeg2video" if name.endswith("ts") else "mpeg4"
    path = encode(tmp_path / name, codec, texture(), container_options=options)
    piped(path.read_bytes())
    _same(list(live_frames("-")), path)


def test_a_window_comes_before_the_stream_ends(models, piped, tmp_path):
    predictor = Predictor(models, accelerator="cpu", score=Score(segments=1, crops=1, flip=False))
    path = encode(tmp_path / "a.mkv", "mjpeg", moving_texture(200), "yuvj420p", flags=(2, 2))
    ended = threading.Event()
    piped(path.read_bytes(), until=ended)
    windows = predictor.windows("-", every=1)
    first = next(windows)
    assert not ended.is_set()
    assert (first.frames, first.start, first.end) == (26, 0.0, 1.0)
    ended.set()
    assert sum(window.frames for window in windows) == 200 - 26


def test_ctrl_c_ends_standard_input(monkeypatch, tmp_path):
    class Stalled(io.BytesIO):
        def read1(self, size=-1):
            if not (data := super().read1(size)):
                raise KeyboardInterrupt
            return data

    path = encode(tmp_path / "a.ts", "mpeg2video", texture())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Stalled(path.read_bytes())))
    frames = live_frames("-")
    with pytest.raises(KeyboardInterrupt):
        list(frames)


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypisom", 4000 * b"x"])
def test_standard_input_that_is_no_video_is_one_line(models, piped, capsys, content):
    piped(content)
    with pytest.raises(SystemExit) as stopped:
        _predict(models, "-")
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("ERROR: -: not a video that can be opened")


@pytest.mark.parametrize(
    "address, words",
    [
        ("http://127.0.0.1:9/a.mp4", "Connection refused"),
        ("rtsp://127.0.0.1:9/a", "Connection refused"),
        ("s3://bucket/a.mp4", "s3:// is not supported; download"),
        ("concat://a.mp4|b.mp4", "concat:// is not supported; download"),
        ("SERVER/none.mp4", "404"),
        ("SERVER/text.mp4", "not a video"),
    ],
)
def test_an_address_that_gives_no_video_is_one_line(models, server, tmp_path, capsys, address, words):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SystemExit) as stopped:
        _predict(models, address.replace("SERVER", server))
    assert stopped.value.code == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("ERROR: ") and words in error


def test_an_address_that_does_not_answer_is_one_line(monkeypatch):
    monkeypatch.setattr(video, "TIMEOUT_S", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(UserError, match=r"no answer for 0\.5 seconds"),
    ):
        list(live_frames(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/a"))


def test_a_playlist_at_an_address_is_followed_but_not_to_files(server, tmp_path):
    path = encode(tmp_path / "a.ts", "mpeg2video", texture())
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.8,\n"
    (tmp_path / "near.m3u8").write_text(f"{head}a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "local.m3u8").write_text(f"{head}file://{path}\n#EXT-X-ENDLIST\n")
    assert len(list(live_frames(f"{server}/near.m3u8"))) == 20
    with pytest.raises(UserError):
        list(live_frames(f"{server}/local.m3u8"))


def test_a_folder_is_walked_as_the_data_set_does(models, tmp_path, capsys):
    clip = write_video(tmp_path / "in/a/1.avi", moving_texture(12))
    write_video(tmp_path / "elsewhere/2.avi", moving_texture(12))
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "in/a/._1.avi").write_bytes(b"\0\5\x16\7")
    (tmp_path / "in/__MACOSX").mkdir()
    (tmp_path / "in/__MACOSX/1.avi").write_bytes(b"\0\5\x16\7")
    _predict(models, tmp_path / "in", "--json")
    out, err = capsys.readouterr()
    assert [json.loads(line)["video"] for line in out.splitlines()] == [str(clip), str(tmp_path / "in/linked/2.avi")]
    assert "ERROR" not in err


def test_the_home_folder_is_expanded(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    clip = write_video(tmp_path / "1.avi", moving_texture(12))
    _predict(models, "~/1.avi", "--json")
    assert json.loads(capsys.readouterr().out)["video"] == str(clip)


def test_a_pipe_that_is_named_as_a_file_is_one_line(models, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit):
        _predict(models, tmp_path / "pipe")
    assert "give `-`" in capsys.readouterr().err


def test_a_git_lfs_pointer_is_named(models, tmp_path, capsys):
    Path(tmp_path / "a.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(SystemExit):
        _predict(models, tmp_path / "a.mp4")
    assert "run `git lfs pull`" in capsys.readouterr().err
