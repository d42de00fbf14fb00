"""`serve` as a process: its output, and that no file remains, however it ends."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import ROOT, moving_texture, write_video

from twostream.errors import UserError
from twostream.inference.serve import serve

PROGRAM = """
    import sys, threading
    from pathlib import Path
    import twostream.inference.predict
    from standin import StandIn
    twostream.inference.predict.Predictor = lambda models, split: StandIn(gate=threading.Event())
    from twostream.inference.serve import serve
    serve(Path("models"), 1, "127.0.0.1", 0, 5, 60, True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_the_server_ends_cleanly_in_the_middle_of_a_job(tmp_path, sign):
    video = write_video(tmp_path / "a.mp4", moving_texture(10)).read_bytes()
    (tmp_path / "tmp").mkdir()
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{tmp_path}/opened'\n")
    browser.chmod(0o755)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp"), "BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        words = [process.stdout.readline() for _ in range(2)][1]
        assert words.startswith("The page is at http://127.0.0.1:") and "Ctrl-C" in words
        port = int(words.split(":")[2].split("/")[0])
        sender = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        sender.request("POST", "/jobs", video)
        name = sender.getresponse().read().decode().split('"')[3]
        listener = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        listener.request("GET", f"/jobs/{name}/events")
        answer = listener.getresponse()
        while b"running" not in answer.readline():
            pass
        assert list((tmp_path / "tmp").rglob("*.upload"))
        assert (tmp_path / "opened").read_text() == f"http://127.0.0.1:{port}/"
        process.send_signal(sign)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and errors == ""
    assert not list((tmp_path / "tmp").glob("twostream-*"))


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"cannot listen on 127\.0\.0\.1, port {port} \(.+\); choose another"):
            serve(Path("models"), 1, "127.0.0.1", port, 5, 60, False)


def test_an_address_that_is_none_is_one_line():
    for host, port in [("no.such.host.invalid", 0), ("127.0.0.1", 70000)]:
        with pytest.raises(UserError, match="cannot listen on"):
            serve(Path("models"), 1, host, port, 5, 60, False)
