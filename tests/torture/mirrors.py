"""A mirror on loopback that is slow, breaks off, lies, changes its files, redirects for ever or answers with errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

from torture.archives import GOOD, _zip
from torture.ledger import Case, Lost, Wrong, check_refused
from torture.project import Project

REVISION = "a" * 40
BEHAVIOURS = {  # and whether a download that meets it has to succeed (None: either)
    "answers as it should": True,
    "is slow": True,
    "breaks off once": None,
    "breaks off every time": None,
    "falls silent before the header": False,
    "falls silent half-way": None,
    "announces too many bytes": None,
    "announces too few bytes": None,
    "sends more than it announced": None,
    "changes its file between attempts": None,
    "sends another file of the same size": None,
    "sends half a file as a whole one": None,
    "redirects for ever": False,
    "redirects in a circle of names": False,
    "redirects to nowhere": False,
    "answers 403": False,
    "answers 404": False,
    "answers 416": False,
    "answers 429": False,
    "answers 500": False,
    "answers 503": False,
    "answers 503 to downloads alone": False,
    "sends a web page": None,
    "sends no digest": None,
    "sends no length": None,
    "closes at once": False,
}


def cases(project: Project, rng: random.Random, behaviours: list[str] | None = None) -> Iterator[Case]:
    """Yield every behaviour with a list that has the digest of the file, and with one that has none."""
    for behaviour in behaviours or BEHAVIOURS:
        for has_digest in (True, False):
            cut = rng.uniform(0.2, 0.9)
            name = f"{behaviour}, {'a' if has_digest else 'no'} digest in the list, at {cut:.2f}"
            yield Case("mirror", name, lambda b=behaviour, d=has_digest, c=cut: _check(project, b, d, c))


def _check(project: Project, behaviour: str, has_digest: bool, cut: float) -> None:
    """Download from the mirror; whatever it did, the videos arrive once it is itself again."""
    project.restore("new")
    rng = random.Random(0)
    noise = [("notes.bin", rng.randbytes(200_000))]
    content = _zip([(name, (project.clips / name).read_bytes()) for name in GOOD] + noise)
    file = {"name": "videos.zip"} | (
        {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} if has_digest else {}
    )
    listed = {"videos": [{"huggingface": {"repo": "some/data", "revision": REVISION, "files": [file]}}]}
    (project.folder / "mirror.yaml").write_text(json.dumps(listed))
    parameters = project.folder / "params.yaml"
    values = yaml.safe_load(parameters.read_text())
    values["dataset"]["source"] = "mirror.yaml"
    parameters.write_text(yaml.safe_dump(values, sort_keys=False))
    with _mirror(content, behaviour, cut) as (server, environment):
        code, output = project.run("stages.download", **environment)
        if code:
            check_refused(code, output)
            if BEHAVIOURS[behaviour]:
                raise Lost(f"it should succeed: {output[-300:]!r}")
        elif BEHAVIOURS[behaviour] is False:
            raise Wrong(f"succeeded: {output[-300:]!r}")
        else:
            _check_videos(project)
        server.behaviour = "answers as it should"
        for _ in range(2):  # the first one may have to throw away what is not sound
            code, output = project.run("stages.download", **environment)
            if not code:
                break
    if code:
        raise Lost(f"does not go on with a sound mirror: {output[-400:]!r}")
    _check_videos(project)


def _check_videos(project: Project) -> None:
    videos = project.folder / "data/videos"
    found = {str(path.relative_to(videos)): path.read_bytes() for path in videos.rglob("*") if path.is_file()}
    if found != {name: (project.clips / name).read_bytes() for name in GOOD}:
        raise Wrong(f"other videos arrived: {sorted(found)}")


class _Mirror(ThreadingHTTPServer):
    daemon_threads = True
    content = b""
    behaviour = ""
    cut = 0.5
    attempts = 0  # downloads so far


@contextlib.contextmanager
def _mirror(content: bytes, behaviour: str, cut: float) -> Iterator[tuple[_Mirror, dict[str, str]]]:
    server = _Mirror(("127.0.0.1", 0), _Handler)
    server.content, server.behaviour, server.cut = content, behaviour, cut
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
    }
    try:
        yield server, environment
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as serves one file, with a fault."""

    server: _Mirror
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self.server.attempts += 1
        self._answer(True)

    def log_message(self, *_: object) -> None:
        return

    def _answer(self, has_body: bool) -> None:
        with contextlib.suppress(OSError):  # the client is gone
            behaviour = self.server.behaviour
            status = re.fullmatch(r"answers (\d+)( to downloads alone)?", behaviour)
            if status and (has_body or not status[2]):
                self._send(int(status[1]), b"", has_body, {"Retry-After": "1"})
            elif behaviour.startswith("redirects"):
                self._redirect(behaviour)
            elif behaviour == "closes at once":
                self.close_connection = True
            elif behaviour == "falls silent before the header":
                time.sleep(4)
                self.close_connection = True
            else:
                self._file(behaviour, has_body)

    def _redirect(self, behaviour: str) -> None:
        place = {
            "redirects for ever": f"http://127.0.0.1:{self.server.server_port}{self.path}",
            "redirects in a circle of names": f"http://localhost:{self.server.server_port}/{self.path.count('/')}{self.path}",
            "redirects to nowhere": "http://127.0.0.1:9/videos.zip",
        }[behaviour]
        self._send(302, b"", True, {"Location": place})

    def _file(self, behaviour: str, has_body: bool) -> None:
        content, again = self.server.content, self.server.attempts > 1
        if (
            behaviour == "changes its file between attempts"
            and again
            or behaviour == "sends another file of the same size"
        ):
            content = random.Random(1).randbytes(len(content))
        if behaviour == "sends half a file as a whole one":
            content = content[: len(content) // 2]
        if behaviour == "sends a web page":
            content = b"<!DOCTYPE html><title>Please log in</title>"
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": REVISION}
        if behaviour == "sends no digest":
            headers = {}
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "")
        if asked and has_body:
            start, status = int(asked[1]), 206
            if start >= len(content):
                self._send(416, b"", True, {"Content-Range": f"bytes */{len(content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        extra = {"announces too many bytes": 1000, "announces too few bytes": -1000}.get(behaviour, 0)
        self._send(status, content[start:], has_body, headers, extra)

    def _send(self, status: int, body: bytes, has_body: bool, headers: dict[str, str], extra: int = 0) -> None:
        behaviour = self.server.behaviour
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if behaviour == "sends no length" and has_body:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body) + extra))
        self.end_headers()
        if not has_body:
            return
        end = int(self.server.cut * len(body))
        once = behaviour in ("breaks off once", "falls silent half-way", "changes its file between attempts")
        if behaviour == "breaks off every time" or once and self.server.attempts == 1:
            self.wfile.write(body[:end])
            self.wfile.flush()
            if behaviour == "falls silent half-way":
                time.sleep(4)
            self.close_connection = True
            return
        if behaviour == "is slow":
            for part in range(0, len(body), 20_000):
                self.wfile.write(body[part : part + 20_000])
                time.sleep(0.1)
            return
        self.wfile.write(body + (b"more" * 100 if behaviour == "sends more than it announced" else b""))
        if extra:
            self.close_connection = True
