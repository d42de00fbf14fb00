from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import ROOT

CONTENT = os.urandom(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as serves one file of one commit."""

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
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


SCRIPT = """
import sys, time
from pathlib import Path
from twostream.errors import UserError
from twostream.sources.huggingface import download
name, folder, size, sha256 = sys.argv[1:]
time.sleep = lambda seconds: None  # huggingface_hub waits longer before each attempt
try:
    print(download("some/data", "a" * 40, name, Path(folder), int(size), sha256))
except UserError as error:
    print("refused:", error)
"""


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(endpoint: str, name: str, folder: Path, size: int = len(CONTENT), sha256: str = SHA256) -> str:
    """Run in a process of its own: huggingface_hub reads the endpoint from the environment when it is imported."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SCRIPT, name, str(folder), str(size), sha256]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_a_file_comes_from_the_pinned_commit_and_the_endpoint_of_the_environment(tmp_path, endpoint):
    path = fetch(endpoint, "videos.zip", tmp_path, sha256=SHA256.upper())
    assert path == str(tmp_path / "videos.zip")
    assert Path(path).read_bytes() == CONTENT
    assert fetch("http://127.0.0.1:9", "videos.zip", tmp_path) == path, "a file that is there needs no server"


@pytest.mark.slow
def test_a_wrong_digest_or_size_deletes_the_file_and_is_one_line(tmp_path, endpoint):
    refused = fetch(endpoint, "videos.zip", tmp_path, sha256="0" * 64)
    assert f"has the SHA-256 {SHA256} instead of {'0' * 64}; it was deleted" in refused and "\n" not in refused
    refused = fetch(endpoint, "videos.zip", tmp_path, size=700_000)
    assert "has 700,001 bytes instead of 700,000; it was deleted" in refused
    assert not (tmp_path / "videos.zip").exists()


def test_a_file_that_does_not_exist_is_one_line(tmp_path, endpoint):
    refused = fetch(endpoint, "gone.zip", tmp_path)
    assert refused.startswith("refused: Hugging Face data set some/data at aaaaaaa, gone.zip: ")
    assert "404" in refused and "\n" not in refused


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(tmp_path):
    refused = fetch("http://127.0.0.1:9", "videos.zip", tmp_path)
    assert refused.startswith("refused: ") and "\n" not in refused
