from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from twostream.errors import UserError
from twostream.sources import http as transfer
from twostream.sources.http import download

CONTENT = os.urandom(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT as the server's attributes say, and keeps the Range headers it was asked with."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers.get("Range"))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        content, start = server.content, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and server.ranges:
            start = int(asked[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = server.breaks.pop(0) if server.breaks else len(content)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content[start : start + stop])

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.ranges, server.length = CONTENT, True, True
    server.asked, server.statuses, server.breaks = [], [], []
    server.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    target = tmp_path / "new" / "data.zip"
    download(server.url, target, SHA256.upper(), len(CONTENT))
    download(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.asked == [None]
    assert not part(target).exists()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server, tmp_path):
    server.breaks = [300_000, 100_000]
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=400000-"]


def test_what_a_killed_run_left_is_gone_on_with(server, tmp_path):
    part(tmp_path / "x").write_bytes(CONTENT[:650_000])
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == ["bytes=650000-"]


def test_a_kill_after_the_last_byte_costs_no_second_download(server, tmp_path):
    part(tmp_path / "x").write_bytes(CONTENT)
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_server_without_ranges_is_asked_for_everything_again(server, tmp_path):
    server.ranges = False
    part(tmp_path / "x").write_bytes(CONTENT[:1000])
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_file_of_unknown_length_arrives(server, tmp_path):
    server.length = False
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_wrong_digest_deletes_what_came_and_says_so(server, tmp_path):
    with pytest.raises(UserError, match=rf"SHA-256 {SHA256} instead of {'0' * 64}; it was deleted") as caught:
        download(server.url, tmp_path / "x", "0" * 64)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stale", [b"of another file", os.urandom(len(CONTENT)), os.urandom(len(CONTENT) + 9)])
def test_a_leftover_of_another_file_is_replaced(server, tmp_path, stale):
    part(tmp_path / "x").write_bytes(stale)
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_wrong_size_is_refused_before_the_download(server, tmp_path):
    with pytest.raises(UserError, match="700,001 bytes instead of 700,000"):
        download(server.url, tmp_path / "x", SHA256, 700_000)
    assert not (tmp_path / "x").exists()


def test_a_stream_that_does_not_end_is_cut_at_the_known_size(server, tmp_path):
    server.length = False
    server.content = CONTENT * 5
    with pytest.raises(UserError, match="instead of 700,001; it was deleted"):
        download(server.url, tmp_path / "x", SHA256, len(CONTENT))
    assert not list(tmp_path.iterdir())


def test_passing_failures_are_tried_again_and_lasting_ones_are_not(server, tmp_path):
    server.statuses = [503, 429, 500]
    download(server.url, tmp_path / "x", SHA256)
    assert len(server.asked) == 4
    server.statuses = [404]
    with pytest.raises(UserError, match="answers 404"):
        download(server.url, tmp_path / "y", SHA256)
    assert len(server.asked) == 5


def test_a_connection_that_never_gains_a_byte_is_given_up_and_what_came_is_kept(server, tmp_path):
    server.breaks = [1000] + [0] * 20
    with pytest.raises(UserError, match="1,000 bytes are kept"):
        download(server.url, tmp_path / "x", SHA256)
    assert part(tmp_path / "x").read_bytes() == CONTENT[:1000]
    server.breaks = []
    download(server.url, tmp_path / "x", SHA256)
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)
    with pytest.raises(UserError, match="Connection refused"):
        download("http://127.0.0.1:9/x", tmp_path / "x", SHA256)


def test_a_full_disk_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5}))
    with pytest.raises(UserError, match="0.0 GB are free"):
        download(server.url, tmp_path / "x", SHA256)


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as serves one file of one commit."""

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
        self.server.paths.append(self.path)
        if self.path != f"/datasets/some/data/resolve/{'a' * 40}/videos.zip":
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(CONTENT[start:])

    def log_message(self, *args: object) -> None:
        return


HUB_SCRIPT = """
import sys
from pathlib import Path
from twostream.errors import UserError
from twostream.sources.http import download_from_hub
try:
    print(download_from_hub("some/data", "a" * 40, sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3]))
except UserError as error:
    print("refused:", error)
"""


def from_hub(endpoint: str, *arguments: object) -> str:
    """Run in a process of its own: huggingface_hub reads the endpoint from the environment when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(transfer.__file__).parents[2]), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", HUB_SCRIPT, *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_a_file_of_the_hub_comes_from_the_pinned_revision_and_the_endpoint_of_the_environment(tmp_path):
    pytest.importorskip("huggingface_hub.file_download")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.paths = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        path = from_hub(endpoint, "videos.zip", tmp_path, SHA256)
        assert path == str(tmp_path / "videos.zip")
        assert Path(path).read_bytes() == CONTENT
        assert "has the SHA-256" in from_hub(endpoint, "videos.zip", tmp_path, "0" * 64)
        assert not (tmp_path / "videos.zip").exists()
        refused = from_hub(endpoint, "gone.zip", tmp_path, SHA256)
        assert (
            refused.startswith("refused: Hugging Face data set some/data at aaaaaaa, gone.zip:") and "\n" not in refused
        )
    finally:
        server.shutdown()
        server.server_close()
